import Foundation
import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// The policies as Cedar text mean in Cedar what they mean here.
@Suite struct CedarTests {
    @Test("the text names each rule by its path, and writes names so that they cannot end their quotes")
    func text() throws {
        let set = try PolicyFixture.set(
            PolicyFixture.text(modifiers: ["{ code: DUO:0000025, months: 12 }"], access: "  notices: ['say \"so\"']"))
        #expect(set.cedar.contains("@id(\"osaka:cohort-a/modifiers[0]\")\nforbid (principal, action == Action::"))
        #expect(set.cedar.contains("context has grant && context.grant.monthsHeld < 12"))
        #expect(!set.cedar.contains("say"))
    }

    /// 40 policies with 500 questions each, half of them one or two facts away from a permit.
    @Test(
        "Cedar itself allows exactly what is permitted here, and no rule of it fails",
        .enabled(if: Verifiers.python != nil))
    func agreesWithCedar() throws {
        let seed: UInt64 = 20_261_121
        var random = SeededRandom(seed: seed)
        try withTemporaryFolder { folder in
            try Data(Cedar.schema.utf8).write(to: folder.appendingPathComponent("schema.cedarschema"))
            var permits = 0
            for number in 0..<40 {
                let generated = GeneratedPolicy(using: &random)
                let set = try PolicyFixture.set(generated.yaml, diseases: GeneratedPolicy.diseases)
                let name = folder.appendingPathComponent("\(number)").path
                try Data(set.cedar.utf8).write(to: URL(fileURLWithPath: name + ".cedar"))
                try Data(generated.facts.canonical).write(to: URL(fileURLWithPath: name + ".json"))
                var lines = ""
                for _ in 0..<500 {
                    let question = generated.question(using: &random)
                    let verdict = set.decide(question).verdict
                    permits += verdict == .permit ? 1 : 0
                    lines +=
                        JSON.object(["input": question.input, "verdict": .string(verdict.rawValue)]).canonicalText
                        + "\n"
                }
                try Data(lines.utf8).write(to: URL(fileURLWithPath: name + ".jsonl"))
            }
            let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
                .appendingPathComponent("peers/cedar.py")
            let answer = try Verifiers.run(script: script, [folder.path])
            #expect(answer.status == 0, "seed \(seed): \(answer.output)")
            #expect(answer.output == "agreed: \(permits) of 20000 permitted\n")
            #expect(permits > 2000 && permits < 18_000)
        }
    }
}
