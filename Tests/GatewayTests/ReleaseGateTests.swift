import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// The checks that ask what a model remembers: their statistics against published values, and the gate they stand in.
@Suite struct ReleaseGateTests {
    @Test("an AUC of 0.60 of 200 members and 200 others comes by chance with p = 2.7e-4, one of ½ with p = ½")
    func significance() {
        let p = ReleaseStatistics.significance(ofAUC: 0.60, members: 200, others: 200)
        #expect(abs(p - 2.7e-4) < 0.05e-4, "\(p)")
        #expect(abs(ReleaseStatistics.significance(ofAUC: 0.5, members: 7, others: 9) - 0.5) < 1e-12)
    }

    @Test("the AUC counts pairs, and ties half")
    func auc() {
        var random = SeededRandom(seed: 3)
        for _ in 0..<50 {
            let members = (0..<Int.random(in: 1...20, using: &random)).map { _ in
                Double(Int.random(in: 0...5, using: &random))
            }
            let others = (0..<Int.random(in: 1...20, using: &random)).map { _ in
                Double(Int.random(in: 0...5, using: &random))
            }
            var pairs = 0.0
            for member in members { for other in others { pairs += member > other ? 1 : member == other ? 0.5 : 0 } }
            let auc = ReleaseStatistics.auc(members: members, others: others)
            #expect(abs(auc - pairs / Double(members.count * others.count)) < 1e-12)
        }
    }

    @Test("the same losses differ by nothing, and others' by all")
    func kolmogorovSmirnov() {
        let a = (0..<40).map { Double($0) / 10 }
        #expect(ReleaseStatistics.kolmogorovSmirnov(a, a).significance == 1)
        #expect(ReleaseStatistics.kolmogorovSmirnov(a, a.map { $0 + 100 }).significance < 1e-10)
    }

    private func answers(_ count: Int, sure: Double, _ random: inout SeededRandom) -> [[Double]] {
        (0..<count).map { _ in
            let top = min(max(sure + Double.random(in: -0.15...0.15, using: &random), 0.34), 0.99)
            let rest = 1 - top
            let share = Double.random(in: 0.2...0.8, using: &random)
            return [top, rest * share, rest * (1 - share)].shuffled(using: &random)
        }
    }

    @Test("the attack finds members that a model is surer of, in every repetition, and none where there is nothing")
    func attack() {
        var random = SeededRandom(seed: 17)
        let found = ReleaseStatistics.membershipAttack(
            members: answers(200, sure: 0.8, &random), others: answers(150, sure: 0.65, &random), seed: 1)
        #expect(found.significant == 10 && found.meanAUC > 0.75, "\(found)")
        var chance = 0
        for seed in 0..<20 {
            let nothing = ReleaseStatistics.membershipAttack(
                members: answers(120, sure: 0.7, &random), others: answers(120, sure: 0.7, &random), seed: UInt64(seed))
            if nothing.significant > 2 { chance += 1 }
        }
        #expect(chance <= 4, "\(chance) of 20 came by chance")
        let members = answers(60, sure: 0.8, &random)
        let others = answers(60, sure: 0.6, &random)
        let first = ReleaseStatistics.membershipAttack(members: members, others: others, seed: 9)
        let second = ReleaseStatistics.membershipAttack(members: members, others: others, seed: 9)
        #expect(first.significant == second.significant && first.meanAUC == second.meanAUC)
    }

    @Test("checks that policy asks for are made in the enclave, recorded with what was found, and decide the release")
    func gate() async throws {
        let policy = Clinic.policy.replacing(
            "checks: [artefact, shape, cohort]", with: "checks: [artefact, shape, cohort, loss, membership]")
        try await withEnclave(policy: policy) { enclave in
            let run = try await enclave.request(try await enclave.grant())
            let progress = try await enclave.finish(run)
            let checked = try #require(try await enclave.records(.run(run)).first { $0.key == "checked" })
            let checks = checked.detail["checks"]?.arrayValue ?? []
            #expect(
                checks.compactMap { $0["check"]?.stringValue } == ["artefact", "shape", "cohort", "loss", "membership"])
            let passed = checks.allSatisfy { $0["passed"]?.boolValue == true }
            // Three epochs teach it the classes, not the people.
            #expect(passed, "\(checks)")
            #expect(progress == .closed(.released))
        }
    }

    @Test("more parameters than rows, and classes of few, keep a model in where policy asks for it")
    func refused() async throws {
        let policy = Clinic.policy.replacing(
            "checks: [artefact, shape, cohort]", with: "checks: [artefact, shape, cohort, freedom, disclosure]")
        try await withEnclave(policy: policy) { enclave in
            let run = try await enclave.request(try await enclave.grant())
            #expect(try await enclave.finish(run) == .closed(.refused))
            let checked = try #require(try await enclave.records(.run(run)).first { $0.key == "checked" })
            let failed = (checked.detail["checks"]?.arrayValue ?? []).filter { $0["passed"]?.boolValue == false }
            #expect(failed.compactMap { $0["check"]?.stringValue } == ["freedom", "disclosure"])
            // 6 × 8 + 8 + 8 × 3 + 3 parameters, and no more than 30 of the 61 people are trained on.
            #expect(failed[0]["finding"]?.stringValue?.hasPrefix("-") == true)
        }
    }
}

// MARK: - A second opinion

/// What sacroml says of the same numbers (`Vectors/make_sacroml.py`).
@Suite struct SecondOpinionTests {
    private static func vectors() throws -> [String: Any] {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Vectors/sacroml.json")
        return try #require(try JSONSerialization.jsonObject(with: Data(contentsOf: file)) as? [String: Any])
    }

    private static func cases(_ name: String) throws -> [[String: Any]] {
        try #require(try vectors()[name] as? [[String: Any]])
    }

    @Test("an AUC comes by chance as often as sacroml says")
    func significance() throws {
        for one in try Self.cases("auc_significance") {
            let p = ReleaseStatistics.significance(
                ofAUC: try #require(one["auc"] as? Double), members: try #require(one["members"] as? Int),
                others: try #require(one["others"] as? Int))
            let expected = try #require(one["p"] as? Double)
            #expect(abs(p - expected) < 1e-9 * max(1, expected), "\(one)")
        }
    }

    @Test("the gap between losses is as likely as sacroml and SciPy say: exactly for small samples, and nearly beyond")
    func kolmogorovSmirnov() throws {
        for one in try Self.cases("kolmogorov_smirnov") {
            let found = ReleaseStatistics.kolmogorovSmirnov(
                try #require(one["a"] as? [Double]), try #require(one["b"] as? [Double]))
            #expect(abs(found.distance - (one["distance"] as? Double ?? -1)) < 1e-12)
            #expect(abs(found.significance - (one["p"] as? Double ?? -1)) < 1e-9, "\(found)")
            #expect((found.significance < 0.05) == (one["risk"] as? Bool))
        }
        for one in try Self.cases("large_kolmogorov_smirnov") {
            let (n, m) = (try #require(one["n"] as? Int), try #require(one["m"] as? Int))
            let shift = try #require(one["shift"] as? Double)
            let found = ReleaseStatistics.kolmogorovSmirnov(
                (0..<n).map(Double.init), (0..<m).map { Double($0) * (Double(n) / Double(m)) + shift })
            let expected = try #require(one["p"] as? Double)
            // Beyond 10,000 both are approximations, and not the same one.
            #expect(abs(found.significance - expected) < (max(n, m) > 10_000 ? 2e-3 : 1e-9), "\(found) \(expected)")
        }
        #expect(ReleaseStatistics.kolmogorovSmirnov([], [1]).significance == 1)
    }

    @Test("the worst-case attack tells of the same probabilities what sacroml's tells")
    func membership() throws {
        for one in try Self.cases("membership") {
            let name = try #require(one["name"] as? String)
            let found = ReleaseStatistics.membershipAttack(
                members: try #require(one["members"] as? [[Double]]),
                others: try #require(one["others"] as? [[Double]]),
                seed: 1)
            for model in ["LogisticRegression", "RandomForestClassifier"] {
                let theirs = try #require(one[model] as? [String: Any])
                let (significant, auc) = (theirs["significant"] as? Int ?? -1, theirs["mean_auc"] as? Double ?? -1)
                // Halves drawn otherwise, another attacker: the same picture, not the same digits.
                #expect(abs(found.meanAUC - auc) < 0.08, "\(name) \(model): \(found) \(theirs)")
                if significant == 10 { #expect(found.significant == 10, "\(name) \(model): \(found)") }
                if significant <= 1, name.hasPrefix("few") { #expect(found.significant <= 2, "\(name): \(found)") }
            }
        }
    }

    @Test("degrees of freedom and the gap between losses of trained networks are judged as sacroml judges them")
    func structure() throws {
        for one in try Self.cases("structure") {
            let (rows, parameters) = (try #require(one["rows"] as? Int), try #require(one["parameters"] as? Int))
            #expect(
                (ReleaseStatistics.degreesOfFreedom(rows: rows, parameters: parameters) < ReleaseStatistics.freedomMin)
                    == (one["too_few_degrees_of_freedom"] as? Bool), "\(rows) \(parameters)")
            let gap = ReleaseStatistics.kolmogorovSmirnov(
                try #require(one["training_losses"] as? [Double]), try #require(one["test_losses"] as? [Double]))
            #expect((gap.significance < 0.05) == (one["losses_differ"] as? Bool), "\(rows) \(gap)")
        }
    }
}
