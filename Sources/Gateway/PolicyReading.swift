import PolicyEngine
import Vocabulary

/// One policy file told to people: its text, what is wrong with it line by line, what its rules say, and what its tests
/// come to.
package struct PolicyReading: Sendable {
    package struct Mark: Sendable {
        package let isError: Bool
        /// A name of `KnownName.lintRules`.
        package let rule: String
        package let file: String
        package let line: Int
        package let column: Int
        package let message: String
    }

    package struct Term: Sendable {
        package let code: String
        package let label: String
        package let labelJapanese: String
    }

    package struct Rule: Sendable {
        /// A name of `KnownName.rules`.
        package let key: String
        package let values: [String: String]
        package let path: String
        package let line: Int
        package let term: Term?
        /// Whether a test reaches it; `nil` where it decides nothing as it is written.
        package let isTested: Bool?
    }

    package struct Test: Sendable {
        package let file: String
        package let line: Int
        package let name: String
        /// What is wrong; `nil` where the policy answers as it must.
        package let fault: String?
    }

    package let name: String
    package let lines: [String]
    package let dataset: String?
    package let level: String?
    package let marks: [Mark]
    package let rules: [Rule]
    package let tests: [Test]
}

/// What a whole folder of policy files comes to.
package struct PolicyFolderReading: Sendable {
    package let files: [PolicyReading]
    /// All files' marks, errors first.
    package let marks: [PolicyReading.Mark]
    package let tests: (passed: Int, all: Int)
    package let rules: (hit: Int, all: Int)

    /// Whether it could be proposed.
    package var isValid: Bool { !marks.contains(where: \.isError) && tests.passed == tests.all }
}

extension PolicyFolder {
    /// Reads every file for people. What is not valid has marks, and no rules.
    package func reading() -> PolicyFolderReading {
        let findings = PolicyLint.findings(in: files)
        let marks = findings.map(PolicyReading.Mark.init)
        let tests = try? PolicyTests(of: files)
        let policies = (try? load())?.policies.values.map { ($0.file, $0) } ?? []
        let byFile = Dictionary(policies) { first, _ in first }
        let outcomes = tests?.outcomes.map { outcome in
            PolicyReading.Test(
                file: outcome.file, line: outcome.line, name: outcome.name, fault: outcome.fault?.message)
        }
        let readings = files.map { file in
            let policy = byFile[file.name]
            let testFile = Self.testFile(of: file.name)
            return PolicyReading(
                name: file.name, lines: Self.lines(of: file.bytes), dataset: policy?.dataset.text,
                level: policy?.level.rawValue, marks: marks.filter { $0.file == file.name },
                rules: policy.map { Self.rules(of: $0, tests) } ?? [],
                tests: (outcomes ?? []).filter { $0.file == testFile || $0.file == file.name })
        }
        let passed = tests.map { $0.outcomes.count - $0.failures.count } ?? 0
        return PolicyFolderReading(
            files: readings, marks: marks.filter(\.isError) + marks.filter { !$0.isError },
            tests: (passed, tests?.outcomes.count ?? 0), rules: (tests?.rules.hit ?? 0, tests?.rules.all ?? 0))
    }

    private static func testFile(of name: String) -> String { String(name.dropLast(".yaml".count)) + ".test.yaml" }

    /// Control characters, which an error may be about, are shown by their numbers.
    private static func lines(of bytes: [UInt8]) -> [String] {
        var lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
            .map(String.init)
        if lines.last == "" { lines.removeLast() }
        return lines.map { line in
            line.unicodeScalars.reduce(into: "") { text, scalar in
                switch scalar.properties.generalCategory {
                case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator:
                    text += "⟨U+\(String(scalar.value, radix: 16, uppercase: true))⟩"
                default: text.unicodeScalars.append(scalar)
                }
            }
        }
    }

    private static func rules(of policy: Policy, _ tests: PolicyTests?) -> [PolicyReading.Rule] {
        policy.sentences.map { sentence in
            PolicyReading.Rule(
                key: sentence.key.rawValue, values: sentence.values, path: sentence.path, line: sentence.line,
                term: sentence.term.map {
                    PolicyReading.Term(code: $0.rawValue, label: $0.label, labelJapanese: $0.labelJapanese)
                }, isTested: tests?.isReached("\(policy.dataset)/\(sentence.path)"))
        }
    }
}

extension PolicyReading.Mark {
    init(_ finding: Finding) {
        self.init(
            isError: finding.severity == .error, rule: finding.rule.rawValue, file: finding.file, line: finding.line,
            column: finding.column, message: finding.message)
    }
}

extension KnownName {
    package static var lintRules: [String] { Finding.Rule.allCases.map(\.rawValue) }
    package static var rules: [String] { RuleSentence.Key.allCases.map(\.rawValue) }
    package static var answers: [String] { Decision.Answer.allCases.map(\.rawValue) }
    package static var questionKinds: [String] { Question.Kind.allCases.map(\.rawValue) }
    package static var ruleParts: [String] { Explanation.Part.allCases.map(\.rawValue) }
    package static var matrixActions: [String] { PermissionMatrix.Action.allCases.map(\.rawValue) }
    package static var bundleStates: [String] { PolicyProposal.State.allCases.map(\.rawValue) }
}
