import PolicyEngine
import TestSupport
import Vocabulary

/// A policy of random clauses, and questions that come close to it.
struct GeneratedPolicy {
    static let diseases = """
        version: 1
        parents:
          MONDO:0000002: [MONDO:0000001]
          MONDO:0000003: [MONDO:0000002]
        """
    private static let kinds = ["MONDO:0000001", "MONDO:0000002", "MONDO:0000003", "MONDO:0000004", "MONDO:0000009"]
    private static let permissions = ["DUO:0000004", "DUO:0000006", "DUO:0000007", "DUO:0000011", "DUO:0000042"]
    private static let roles = ["dac", "data-custodian", "steward"]

    let permission: String
    let yaml: String
    /// What the context of a question needs of the policy.
    let facts: JSON

    init(using random: inout SeededRandom) {
        permission = Self.permissions.randomElement(using: &random)!
        var modifiers: [String] = []
        func maybe(_ text: String) { if Int.random(in: 0..<6, using: &random) == 0 { modifiers.append(text) } }
        maybe("{ code: DUO:0000012, types: [cohort-study, imaging] }")
        for plain in [15, 16, 18, 19, 20, 21, 29, 43, 44, 45, 46] {
            maybe("{ code: DUO:00000\(plain) }")
        }
        maybe("{ code: DUO:0000022, regions: [JP, DE] }")
        maybe("{ code: DUO:0000024, until: 2027-06-30 }")
        maybe("{ code: DUO:0000025, months: \(Int.random(in: 1...24, using: &random)) }")
        maybe("{ code: DUO:0000026, users: [rin, ren] }")
        maybe("{ code: DUO:0000027, projects: [p-1] }")
        maybe("{ code: DUO:0000028, institutions: [osaka-u, kyoto-u] }")
        let approvals = Array(Self.roles.shuffled(using: &random).prefix(2))
        let authorMayApprove = Bool.random(using: &random)
        let required = Int.random(in: 1...2, using: &random)
        let reviewers = Int.random(in: 1...2, using: &random)
        let visas =
            Bool.random(using: &random)
            ? "\n  identity: { visas: [ResearcherStatus], by: [so, system] }" : ""
        let rtt = Bool.random(using: &random) ? ", rtt_microseconds_max: 500" : ""
        let targets =
            Bool.random(using: &random)
            ? "\n  targets: { label: [\(permission == "DUO:0000004" ? "DUO:0000042" : permission)], age: [DUO:0000042] }"
            : ""
        // Its approver is one of those whose votes the questions hold.
        let emergency = [
            "modifiers_follow: true", "break_glass: { allowed: false }",
            "break_glass: { allowed: true, minutes_max: 60, approver: \(approvals[1]) }",
        ].randomElement(using: &random)!
        let level = ["software", "tpm", "hw-tee"].randomElement(using: &random)!
        yaml = """
            version: 1
            dataset: osaka:cohort-a
            level: standard
            permission: \(permission)
            \(permission == "DUO:0000007" ? "diseases: [MONDO:0000002]" : "modifiers_follow: true")
            modifiers: [\(modifiers.joined(separator: ", "))]
            access:
              approvals: { required: \(required), roles: [\(approvals.joined(separator: ", "))], author_may_approve: \(authorMayApprove) }\(visas)
            training:
              device: { pools: [campus-a], evidence: \(level), hours_max: 72\(rtt) }\(targets)
            \(emergency)
            progress: { losses: \(Bool.random(using: &random)), metrics: true, cohort_min: 20, round_thousandths: 10 }
            release: { cohort_min: 10, checks: [artefact, cohort], reviewers: \(reviewers), roles: [\(approvals[0])] }

            """.replacing("modifiers_follow: true\n", with: "")
        facts = [
            "approvalRoles": .array(approvals.map(JSON.string)), "authorMayApprove": .bool(authorMayApprove),
            "releaseRoles": [.string(approvals[0])], "breakGlassApprover": .string(approvals[1]),
            "diseases": [
                "MONDO:0000002": ["MONDO:0000001"], "MONDO:0000003": ["MONDO:0000002"],
            ],
        ]
    }

    // MARK: - Questions

    func question(using random: inout SeededRandom) -> Question {
        switch Int.random(in: 0..<10, using: &random) {
        case 0..<4: .access(access(using: &random))
        case 4..<8: .run(run(using: &random))
        case 8:
            .progress(
                ProgressQuestion(
                    dataset: PolicyFixture.dataset, run: try! RunID("run-1"), viewer: PolicyFixture.requester,
                    figure: ProgressQuestion.Figure.allCases.randomElement(using: &random)!,
                    cohort: [0, 19, 20, 100].randomElement(using: &random)!))
        default: .release(release(using: &random))
        }
    }

    /// One time in eight something else than what is good.
    private func rarely<Value>(_ good: Value, _ others: [Value], _ random: inout SeededRandom) -> Value {
        Int.random(in: 0..<8, using: &random) == 0 ? others.randomElement(using: &random)! : good
    }

    private func purpose(using random: inout SeededRandom) -> Purpose {
        let code = permission == "DUO:0000004" ? "DUO:0000006" : permission
        return Purpose(
            codes: rarely(
                [code], [[], ["DUO:0000043"], [code, "DUO:0000011"], ["DUO:0000099"]] + Self.permissions.map { [$0] },
                &random),
            diseases: rarely(
                permission == "DUO:0000007" ? ["MONDO:0000003"] : [],
                [[], ["MONDO:1"], ["DOID:0000001"], ["MONDO:0000002", "MONDO:0000004"]] + Self.kinds.map { [$0] },
                &random),
            ancestry: rarely(permission == "DUO:0000042" ? false : nil, [true, false, nil], &random),
            methods: rarely(false, [true, nil], &random), commercial: rarely(false, [true, nil], &random),
            notForProfit: rarely(true, [false, nil], &random), genetic: rarely(true, [false, nil], &random),
            researchTypes: rarely(["cohort-study"], [[], ["imaging", "cohort-study"], ["survey"]], &random))
    }

    private func votes(using random: inout SeededRandom) -> [Vote] {
        var votes = Self.roles.map { PolicyFixture.vote("\($0)-person", $0) }
        for _ in 0..<2 where Int.random(in: 0..<4, using: &random) == 0 { votes.remove(at: 0) }
        if Int.random(in: 0..<6, using: &random) == 0 {
            votes.append(
                PolicyFixture.vote(
                    ["rin", "RIN", "steward", "Steward", "dac-PERSON"].randomElement(using: &random)!,
                    Self.roles.randomElement(using: &random)!))
        }
        if Int.random(in: 0..<12, using: &random) == 0 {
            votes.append(
                PolicyFixture.vote(
                    ["rin", "no"].randomElement(using: &random)!, Self.roles.randomElement(using: &random)!,
                    approves: false))
        }
        return votes
    }

    private func access(using random: inout SeededRandom) -> AccessQuestion {
        var question = PolicyFixture.access(purpose(using: &random))
        question.requester = rarely(question.requester, [try! PersonID("someone")], &random)
        question.termMonths = rarely(1, [nil, 0, -3, 12, 24, 1200, 1201], &random)
        question.country = rarely("JP", [nil, "DE", "US", "jp"], &random)
        question.institution = rarely("osaka-u", [nil, "other"], &random)
        question.project = rarely("p-1", [nil, "p-2"], &random)
        question.agreements = rarely(question.agreements, [[], ["DUO:0000019"]], &random)
        let past = PolicyFixture.now.adding(seconds: -1)
        question.documents = rarely(
            question.documents,
            [
                [], [.init(kind: "other", digest: PolicyFixture.digest)],
                [.init(kind: "ethics", digest: PolicyFixture.digest)],
                [.init(kind: "ethics", digest: PolicyFixture.digest, expires: past)],
                [.init(kind: "ethics", digest: PolicyFixture.digest, expires: PolicyFixture.now)],
            ], &random)
        question.visas = visas(using: &random)
        question.votes = votes(using: &random)
        question.revoked = rarely(false, [true], &random)
        if Int.random(in: 0..<4, using: &random) == 0 {
            question.breakGlass = AccessQuestion.BreakGlass(
                reason: rarely("the patient bleeds", ["", "         now", "urgent!!!"], &random),
                minutes: rarely(30, [0, -1, 60, 61, Int(JSON.integerMax)], &random),
                unreviewed: rarely(0, [1, -1], &random))
        }
        return question
    }

    private func visas(using random: inout SeededRandom) -> [AccessQuestion.Visa] {
        let visa = { (by: String, seconds: Int64) in
            AccessQuestion.Visa(
                type: "ResearcherStatus", by: by, expires: PolicyFixture.now.adding(seconds: seconds))
        }
        return rarely([visa("so", 1)], [[], [visa("self", 1)], [visa("so", -1)], [visa("so", 0)]], &random)
    }

    private func run(using random: inout SeededRandom) -> RunQuestion {
        let purpose = purpose(using: &random)
        let granted = rarely(purpose, [self.purpose(using: &random)], &random)
        var question = PolicyFixture.run(purpose)
        let day: Int64 = 86_400
        let obligations = Obligation.Code.allCases.map { Obligation(code: $0, rule: "r", value: "") }
        question.grant = rarely(
            RunQuestion.Grant(
                id: try! GrantID("grant-1"),
                dataset: rarely(PolicyFixture.dataset, [try! DatasetID("osaka:other")], &random),
                holder: rarely(PolicyFixture.requester, [try! PersonID("other")], &random), purpose: granted,
                granted: PolicyFixture.now.adding(
                    seconds: rarely(-day, [0, day, -31 * day, -365 * day, -800 * day], &random)),
                expires: PolicyFixture.now.adding(seconds: rarely(day, [0, -day, 1], &random)),
                revoked: rarely(false, [true], &random), obligations: rarely(obligations, [[]], &random),
                isEmergency: rarely(false, [true], &random),
                country: rarely("JP", [nil, "DE", "US"], &random),
                institution: rarely("osaka-u", [nil, "other"], &random), project: rarely("p-1", [nil, "p-2"], &random)),
            [nil], &random)
        question.visas = visas(using: &random)
        question.target = rarely("label", ["age", "other"], &random)
        question.cohort = rarely(100, [-1, 0, 9, 10], &random)
        question.device = rarely(
            RunQuestion.Device(
                node: try! NodeID("node-a"), pool: rarely("campus-a", ["campus-b"], &random),
                evidence: rarely(.hardware, [.software, .tpm], &random),
                rttMicroseconds: rarely(120, [nil, -1, 0, 500, 501], &random)),
            [nil], &random)
        question.hoursUsed = rarely(10, [-1, 0, 71, 72, Int(JSON.integerMax)], &random)
        question.hoursAsked = rarely(2, [0, -1, 1, 62, 63, Int(JSON.integerMax)], &random)
        return question
    }

    private func release(using random: inout SeededRandom) -> ReleaseQuestion {
        let good = [ReleaseCheck.artefact, .cohort].map { ReleaseQuestion.Check(check: $0, passed: true) }
        return ReleaseQuestion(
            now: PolicyFixture.now, dataset: PolicyFixture.dataset, run: try! RunID("run-1"),
            researcher: PolicyFixture.requester, candidate: PolicyFixture.digest,
            cohort: rarely(10, [0, 9, 1000], &random),
            checks: rarely(
                good,
                [
                    [], [good[0]], good + [.init(check: .membership, passed: false)],
                    [good[0], .init(check: .cohort, passed: false)],
                ], &random),
            votes: votes(using: &random))
    }
}
