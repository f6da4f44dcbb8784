import AuditTrail
import PolicyEngine
import Sealing
package import Vocabulary

/// Which policies a question is put to.
package enum PolicySource: Sendable {
    case active
    /// A bundle that was proposed.
    case bundle(Int)
    case files(PolicyFolder)
}

/// What policies have to say, for scripts and for people.
package struct PolicyAnswer: Sendable {
    package let json: JSON
    package let words: [String]
    /// Whether something is wrong: a file, a test, or a change that lets through what was refused.
    package let isAlarming: Bool
}

extension Gateway {
    private func policySet(_ source: PolicySource) throws -> PolicySet {
        switch source {
        case .active: return try policies()
        case .bundle(let number): return try folder(of: policyProposal(number).bundle).load()
        case .files(let folder): return try folder.load()
        }
    }

    /// Decides a question that nobody asked, and tells why. Nothing is recorded and nothing follows from it.
    package func explain(_ input: JSON, under source: PolicySource, by reader: PersonID) throws -> PolicyAnswer {
        try require(reader, anyOf: Self.policyReaders)
        return try policySet(source).answer(to: input)
    }

    /// Role × action × data set.
    package func policyMatrix(under source: PolicySource, by reader: PersonID) throws -> PolicyAnswer {
        try require(reader, anyOf: Self.policyReaders)
        return try policySet(source).matrix
    }

    package func policyCedar(under source: PolicySource, by reader: PersonID) throws -> String {
        try require(reader, anyOf: Self.policyReaders)
        return try policySet(source).cedar
    }

    /// Puts every decision input on record to two sets of policies. Each input is held to its digest in the trail first.
    package func comparePolicies(
        _ old: PolicySource, _ new: PolicySource, by reader: PersonID
    ) async throws -> PolicyAnswer {
        try require(reader, anyOf: [.policyAdministrator, .complianceOfficer])
        let (old, new) = (try policySet(old), try policySet(new))
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = reader
                $0.detail = ["read": "decisions"]
            }, in: .gateway, key: ledger.freshKey("read"))
        let records = ledger.recordsWithCases.filter { $0.record.core["input"] != nil }
        // Away from the gateway, which has decisions to make meanwhile.
        return try await Task.detached {
            let decisions = try records.map { try Self.pastDecision($0.record, of: $0.id) }
            return PolicyAnswer(
                PolicyChange(from: old, to: new), Replay(decisions, old: old, new: new))
        }.value
    }

    private static func pastDecision(_ record: CaseRecord, of id: CaseID) throws -> PastDecision {
        guard let input = record.payload["input"], let digest = record.core["input"]?.stringValue,
            SHA256.hash(input.canonical).hex == digest,
            let verdict = record.core["decision"]?.stringValue.flatMap(Decision.Verdict.init),
            let policies = record.core["policy"]?.stringValue.flatMap(Digest.init(hex:))
        else {
            throw GatewayError(
                .integrity, "the input of the decision at entry \(record.index) is not the one that the trail recorded")
        }
        return PastDecision(name: "\(id) \(record.key)", input: input, verdict: verdict, policies: policies)
    }
}

// MARK: - The same of files, without a home

extension PolicyFolder {
    package func explain(_ input: JSON) throws -> PolicyAnswer { try load().answer(to: input) }

    package func matrix() throws -> PolicyAnswer { try load().matrix }

    package func cedar() throws -> String { try load().cedar }

    /// How findings are written for people.
    package enum Wording: Sendable {
        /// As editors know it, `file:line:column: error: message [rule]`, with the line itself.
        case compiler
        /// In sentences, for screen readers.
        case sentences
    }

    /// What is wrong or probably not meant, with file, line, column and rule.
    package func lint(_ wording: Wording = .compiler) -> PolicyAnswer {
        let findings = PolicyLint.findings(in: files)
        return PolicyAnswer(
            json: .array(findings.map(\.json)), words: findings.flatMap { words(of: $0, wording) },
            isAlarming: findings.contains { $0.severity == .error })
    }

    private func words(of finding: Finding, _ wording: Wording) -> [String] {
        switch wording {
        case .sentences:
            return [
                "\(finding.severity == .error ? "Error" : "Warning") in file \(finding.file), line \(finding.line), "
                    + "column \(finding.column): \(finding.message). The rule is \(finding.rule.rawValue)."
            ]
        case .compiler:
            guard finding.column > 1 || finding.severity == .error,
                let file = files.first(where: { $0.name == finding.file }),
                let text = String(validating: file.bytes, as: UTF8.self)
            else { return [finding.description] }
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
            guard lines.indices.contains(finding.line - 1) else { return [finding.description] }
            let line = lines[finding.line - 1].prefix(200)
            // What could act on a terminal is not repeated.
            guard line.isPrintable else {
                return [finding.description]
            }
            return [
                finding.description, "    \(line)",
                "    \(String(repeating: " ", count: max(0, finding.column - 1)))^",
            ]
        }
    }

    /// What the tests beside the files come to, and which rules none of them hits.
    package func test() throws -> PolicyAnswer {
        let tests: PolicyTests
        do throws(PolicyError) { tests = try PolicyTests(of: files) } catch { throw Self.invalid(error) }
        let failed = tests.failures
        let words =
            failed.map(\.description) + tests.uncovered.map(\.description) + [
                "\(tests.outcomes.count - failed.count) of \(tests.outcomes.count) tests pass; "
                    + "they hit \(tests.rules.hit) of \(tests.rules.all) rules of \(tests.policies) policies"
            ]
        return PolicyAnswer(
            json: [
                "tests": .array(
                    tests.outcomes.map { outcome in
                        [
                            "file": .string(outcome.file), "line": .integer(Int64(outcome.line)),
                            "name": .string(outcome.name), "passed": .bool(outcome.fault == nil),
                            "finding": outcome.fault?.json ?? .null,
                        ]
                    }),
                "uncovered": .array(tests.uncovered.map(\.json)), "rules": .integer(Int64(tests.rules.all)),
                "rules_hit": .integer(Int64(tests.rules.hit)), "policies": .integer(Int64(tests.policies)),
            ], words: words, isAlarming: !failed.isEmpty)
    }
}

extension PolicySet {
    fileprivate func answer(to input: JSON) throws -> PolicyAnswer {
        let explanation: Explanation
        do throws(QuestionError) { explanation = explain(try Question(input: input)) } catch {
            throw GatewayError(.usage, "the question is not valid: \(error)")
        }
        return PolicyAnswer(json: explanation.json, words: explanation.words, isAlarming: false)
    }

    fileprivate var matrix: PolicyAnswer {
        let rows = PermissionMatrix(of: self, researcher: Role.researcher.rawValue).rows
        return PolicyAnswer(
            json: .array(rows.map(\.json)),
            words: rows.map { row in
                let roles = row.roles.sorted { $0.key < $1.key }
                let who =
                    roles.isEmpty ? "nobody" : "\(roles.map(\.key).joined(separator: " or ")): \(roles[0].value)"
                return "\(row.dataset)  \(row.action.rawValue)  \(who)"
            }, isAlarming: false)
    }
}

extension PolicyAnswer {
    fileprivate init(_ change: PolicyChange, _ replay: Replay) {
        let loosened = replay.differences.count { $0.loosening > 0 }
        let words =
            change.steps.map(\.description) + replay.differences.map(\.description)
            + replay.unreadable.map { "cannot be asked again: \($0)" } + [
                change.widens ? "The change is not proven narrower." : "The change is narrower, or none.",
                "\(replay.compared) recorded decisions asked again: \(replay.differences.count) differ, \(loosened) of them milder.",
            ]
        self.init(
            json: [
                "widens": .bool(change.widens), "changes": .array(change.steps.map(\.json)),
                "compared": .integer(Int64(replay.compared)),
                "differences": .array(replay.differences.map(\.json)),
                "milder": .integer(Int64(loosened)),
                "unreadable": .array(replay.unreadable.map(JSON.string)),
            ], words: words, isAlarming: loosened > 0)
    }
}

extension Substring {
    fileprivate var isPrintable: Bool {
        unicodeScalars.allSatisfy { scalar in
            switch scalar.properties.generalCategory {
            case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
            default: true
            }
        }
    }
}
