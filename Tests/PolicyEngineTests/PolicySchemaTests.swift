import Foundation
import PolicyEngine
import TestSupport
import Testing

/// `policies/policy.schema.json` helps a steward's editor; it must not contradict the reader.
@Suite(.enabled(if: Verifiers.python != nil)) struct PolicySchemaTests {
    private static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// What the schema says of each text, by its position.
    private func answers(_ texts: [String], in folder: URL) throws -> [String] {
        let files = try texts.enumerated().map { number, text in
            let file = folder.appendingPathComponent("\(number).yaml")
            try Data(text.utf8).write(to: file)
            return file.path
        }
        let script = Self.root.appendingPathComponent("Tests/PolicyEngineTests/peers/schema.py")
        let schema = Self.root.appendingPathComponent("policies/policy.schema.json").path
        let answer = try Verifiers.run(script: script, [schema] + files)
        #expect(answer.status == 0, "\(answer.output)")
        return answer.output.split(separator: "\n").map { String($0.drop { $0 != " " }.dropFirst()) }
    }

    @Test("what the reader takes, the schema takes")
    func accepts() throws {
        let seed: UInt64 = 7
        var random = SeededRandom(seed: seed)
        let texts = (0..<60).map { _ in GeneratedPolicy(using: &random).yaml }
        for text in texts { _ = try PolicyFixture.set(text, diseases: GeneratedPolicy.diseases) }
        try withTemporaryFolder { folder in
            for (text, answer) in zip(texts, try answers(texts, in: folder)) {
                #expect(answer == "ok", "seed \(seed): \(text)")
            }
        }
    }

    @Test("what is wrong with a file's shape or ranges, both refuse")
    func refuses() throws {
        let good = PolicyFixture.text()
        let edits: [(from: String, to: String)] = [
            ("version: 1", "version: 2"), ("level: standard", "level: medium"), ("level: standard", "stage: standard"),
            ("permission: DUO:0000006", "permission: DUO:0000007"),
            ("permission: DUO:0000006", "permission: DUO:0000021"),
            ("modifiers: []", "modifiers: [{ code: DUO:0000006 }]"), ("modifiers: []", "modifiers: [DUO:0000015]"),
            ("modifiers: []", "modifiers: [{ code: DUO:0000025 }]"),
            ("modifiers: []", "modifiers: [{ code: DUO:0000025, months: 0 }]"),
            ("modifiers: []", "modifiers: [{ code: DUO:0000022, regions: [jp] }]"),
            ("modifiers: []", "modifiers: [{ code: DUO:0000015, months: 3 }]"),
            ("modifiers: []", "diseases: [MONDO:0000001]"), ("required: 2", "required: 0"),
            ("required: 2", "required: 21"),
            ("evidence: tpm", "evidence: strong"), ("hours_max: 72", "hours_max: 0"), ("hours_max: 72", "hours: 72"),
            ("hours_max: 72", "hours_max: 72, hours_per: team"),
            ("losses: true", "losses: maybe"), ("round_thousandths: 10", "round_thousandths: 0"),
            ("cohort_min: 10", "cohort_min: 0"), ("checks: [artefact, cohort]", "checks: []"),
            ("checks: [artefact, cohort]", "checks: [artefact, virus]"), ("reviewers: 2", "reviewers: 0"),
        ]
        let texts = edits.map { good.replacing($0.from, with: $0.to) }
        for text in texts { #expect(throws: PolicyError.self, "\(text)") { try PolicyFixture.set(text) } }
        try withTemporaryFolder { folder in
            for (edit, answer) in zip(edits, try answers(texts, in: folder)) {
                #expect(answer.hasPrefix("refused"), "\(edit.to)")
            }
        }
    }
}
