package import Vocabulary

import StrictYAML

/// The tests of one policy, from the file beside it: questions with the answers they must get.
package struct TestSuite: Sendable {
    package struct Test: Sendable {
        package let name: String
        package let line: Int
        let question: Question
        let verdict: Decision.Verdict
        /// Codes that must be among the reasons.
        let reasons: [Reason.Code]
        /// Codes that must be among the obligations.
        let obligations: [Obligation.Code]
    }

    package struct Result: Sendable {
        package let name: String
        package let passed: Bool
        /// Rules that took part in the answer, for coverage.
        let rules: Set<String>
        /// What went wrong, with its place.
        package let finding: Finding?
    }

    package let file: String
    package let dataset: DatasetID
    package let tests: [Test]

    package func run(on set: PolicySet) -> [Result] {
        tests.map { test in
            let decision = set.decide(test.question)
            let codes = decision.reasons.map(\.code)
            let absent = test.reasons.filter { !codes.contains($0) }
            var message: String?
            if decision.verdict != test.verdict {
                message =
                    "expected \(test.verdict.rawValue), got \(decision.verdict.rawValue) "
                    + "(\(decision.reasonCodes.joined(separator: ", ")))"
            } else if !absent.isEmpty {
                message =
                    "expected the reason \(absent[0].rawValue), got \(decision.reasonCodes.joined(separator: ", "))"
            }
            if message == nil,
                let lacking = test.obligations.first(where: { !decision.obligations.map(\.code).contains($0) })
            {
                message =
                    "expected the obligation \(lacking.rawValue), got "
                    + "(\(decision.obligations.map(\.code.rawValue).joined(separator: ", ")))"
            }
            return Result(
                name: test.name, passed: message == nil,
                rules: Set(decision.reasons.map(\.rule) + decision.obligations.map(\.rule)),
                finding: message.map {
                    Finding(
                        rule: .testFailed, severity: .error, file: file, line: test.line, column: 1,
                        message: "the test '\(test.name)' fails: \($0)")
                })
        }
    }
}

/// Reads `NAME.test.yaml`:
/// ```yaml
/// version: 1
/// defaults:
///   access: { … members of the question's input … }
/// tests:
///   - { name: "a sentence", ask: access, with: { … members that differ … }, expect: refuse, reasons: [purpose.ancestry] }
/// ```
/// `with` is laid over the defaults member by member, `null` takes one away, and `dataset` is the policy's own.
struct TestReader {
    private var reader: PolicyReader
    private let file: String
    private let policy: Policy

    init(file: String, policy: Policy) {
        self.file = file
        self.policy = policy
        reader = PolicyReader(file: file)
    }

    var findings: [Finding] { reader.findings }

    mutating func suite(_ root: YAMLValue) -> TestSuite? {
        guard let fields = reader.fields(root, at: "", required: ["version", "tests"], optional: ["defaults"]) else {
            return nil
        }
        reader.version(fields)
        let asks = ["access", "run", "progress", "release"]
        let defaults = fields["defaults"].flatMap { reader.fields($0, at: "defaults", required: [], optional: asks) }
        var tests: [TestSuite.Test] = []
        var names: Set<String> = []
        for (index, element) in (fields["tests"].flatMap { reader.sequence($0, "tests", empty: false) } ?? [])
            .enumerated()
        {
            guard
                let parts = reader.fields(
                    element, at: "tests[\(index)]", required: ["name", "ask", "expect"],
                    optional: ["with", "reasons", "obligations"]),
                let name = parts["name"].flatMap({ reader.text($0, "name") }),
                let askPlace = parts["ask"], let ask = reader.text(askPlace, "ask"),
                let verdict = reader.choice(Decision.Verdict.self, parts["expect"])
            else { continue }
            guard asks.contains(ask) else {
                reader.add(.valueUnknown, askPlace, "'ask' must be one of \(asks.joined(separator: ", "))")
                continue
            }
            if !names.insert(name).inserted { reader.add(.valueRepeated, element, "two tests have this name") }
            var reasons: [Reason.Code] = []
            for place in parts["reasons"].flatMap({ reader.sequence($0, "reasons") }) ?? [] {
                if let code = reader.choice(Reason.Code.self, place) { reasons.append(code) }
            }
            var obligations: [Obligation.Code] = []
            for place in parts["obligations"].flatMap({ reader.sequence($0, "obligations") }) ?? [] {
                if let code = reader.choice(Obligation.Code.self, place) { obligations.append(code) }
            }
            var input = JSON.object(["dataset": .string(policy.dataset.text)])
            if let base = defaults?[ask] { input = input.overlaid(by: base.json) }
            if let with = parts["with"] { input = input.overlaid(by: with.json) }
            input = input.overlaid(by: .object(["ask": .string(ask)]))
            do throws(QuestionError) {
                tests.append(
                    TestSuite.Test(
                        name: name, line: element.line, question: try Question(input: input), verdict: verdict,
                        reasons: reasons, obligations: obligations))
            } catch {
                reader.add(.valueType, element, error.description)
            }
        }
        return TestSuite(file: file, dataset: policy.dataset, tests: tests)
    }
}

extension JSON {
    /// `self` with the members of `other` laid over it; objects merge, `null` takes a member away.
    fileprivate func overlaid(by other: JSON) -> JSON {
        guard case .object(var members) = self, case .object(let over) = other else { return other }
        for (name, value) in over {
            if value == .null {
                members[name] = nil
            } else {
                members[name] = members[name].map { $0.overlaid(by: value) } ?? value
            }
        }
        return .object(members)
    }
}

extension YAMLValue {
    /// As JSON: plain `true`, `false`, `null` and whole numbers are what they look like, all else is text.
    fileprivate var json: JSON {
        switch content {
        case .scalar("true", true): .bool(true)
        case .scalar("false", true): .bool(false)
        case .scalar("null", true): .null
        case .scalar(let text, true):
            if let number = Int64(text), String(number) == text, abs(number) <= JSON.integerMax {
                .integer(number)
            } else {
                .string(text)
            }
        case .scalar(let text, false): .string(text)
        case .sequence(let elements): .array(elements.map(\.json))
        case .mapping(let pairs):
            .object(
                Dictionary(
                    pairs.map { ($0.key.text ?? "", $0.value.json) }, uniquingKeysWith: { first, _ in first }))
        }
    }
}
