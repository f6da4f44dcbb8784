import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// What those who look after policies ask: why, what changes, who may, and what tests reach.
@Suite struct AdministrationTests {
    typealias Fixture = PolicyFixture

    // MARK: - Explanations

    @Test("an explanation names every clause of the question's kind, what it did, its term in both languages, its line")
    func explained() throws {
        let set = try Fixture.set(
            Fixture.text(
                modifiers: ["{ code: DUO:0000021 }", "{ code: DUO:0000019 }"], access: "  notices: [Cite us.]"))
        let explanation = set.explain(.access(Fixture.access()))
        let found = explanation.lines.map { "\($0.part.rawValue) \($0.rule.dropFirst("osaka:cohort-a/".count))" }
        #expect(
            found == [
                "permits permission", "permits access.approvals", "obliges modifiers[1]", "obliges access.notices",
                "obliges training.device.hours_max", "holds modifiers[0]",
            ])
        #expect(explanation.decision.answer == .permitWithObligations)
        #expect(explanation.missing.isEmpty && explanation.nearly == nil)
        let ethics = try #require(explanation.lines.last)
        #expect(ethics.term == .ethicsApproval && ethics.file == "cohort.yaml" && ethics.line == 5)
        #expect(explanation.words.contains { $0.contains("ethics approval required / 倫理審査承認必須") })
        #expect(explanation.json["lines"]?.arrayValue?.count == 6)
    }

    @Test("it names the facts that are missing, and the one rule that keeps the question from a milder answer")
    func nearly() throws {
        let set = try Fixture.set(
            Fixture.text(modifiers: ["{ code: DUO:0000022, regions: [JP] }", "{ code: DUO:0000046 }"]))
        var question = Fixture.access()
        question.country = nil
        var explanation = set.explain(.access(question))
        #expect(explanation.missing == ["country"])
        #expect(explanation.nearly?.rule == "osaka:cohort-a/modifiers[0]")
        #expect(explanation.nearly?.answer == .permitWithObligations)
        question.votes = []
        #expect(set.explain(.access(question)).nearly?.answer == .needsHuman)
        question.country = "JP"
        explanation = set.explain(.access(question))
        #expect(explanation.decision.answer == .needsHuman)
        #expect(explanation.nearly?.rule == "osaka:cohort-a/access.approvals")
        question.country = nil
        question.purpose.commercial = nil
        explanation = set.explain(.access(question))
        #expect(explanation.missing == ["commercial", "country"])
        #expect(explanation.nearly == nil, "two rules refuse")
        question.dataset = try DatasetID("osaka:other")
        explanation = set.explain(.access(question))
        #expect(explanation.lines.map(\.part) == [.refuses] && explanation.nearly == nil)
    }

    @Test("an explanation's decision is the decision, on every kind of generated question, seed 11")
    func explanationDecides() throws {
        var random = SeededRandom(seed: 11)
        for _ in 0..<20 {
            let generated = GeneratedPolicy(using: &random)
            let set = try Fixture.set(generated.yaml, diseases: GeneratedPolicy.diseases)
            for _ in 0..<100 {
                let question = generated.question(using: &random)
                let (decision, explanation) = (set.decide(question), set.explain(question))
                #expect(explanation.decision == decision)
                #expect((explanation.decision.answer == .refuse) == explanation.lines.contains { $0.part == .refuses })
                if let nearly = explanation.nearly { #expect(nearly.answer < decision.answer) }
            }
        }
    }

    // MARK: - Tests beside policies

    private static let suite = """
        version: 1
        defaults:
          progress: { run: run-1, viewer: rin, figure: loss, cohort: 100 }
        tests:
          - { name: losses are shown, ask: progress, expect: permit, obligations: [round-thousandths] }
          - { name: small cohorts are not, ask: progress, with: { cohort: 3 }, expect: EXPECT, reasons: [cohort.too-small] }

        """

    private func tested(_ text: String) throws -> PolicyTests {
        try PolicyTests(
            of: Fixture.files(Fixture.text()) + [PolicyFile(name: "cohort.test.yaml", bytes: Array(text.utf8))])
    }

    @Test("tests are reported one by one, and the rules that none of them hits are named with their lines")
    func coverage() throws {
        let report = try tested(Self.suite.replacing("EXPECT", with: "refuse"))
        #expect(report.outcomes.map(\.name) == ["losses are shown", "small cohorts are not"])
        #expect(report.failures.isEmpty)
        #expect(report.policies == 1)
        #expect(report.rules.hit == 0 && report.rules.all == report.uncovered.count && report.rules.all > 5)
        #expect(report.uncovered.allSatisfy { $0.rule == .testUncovered && $0.file == "cohort.yaml" && $0.line > 1 })
        #expect(report.uncovered.contains { $0.message == "no test reaches 'permission'" && $0.line == 4 })
        let untested = try PolicyTests(of: Fixture.files(Fixture.text()))
        #expect(untested.uncovered.map(\.rule) == [.testMissing])
    }

    @Test("a test that fails, for its answer, its reason or its obligation, is named with its line and keeps files out")
    func failing() throws {
        let good = Self.suite.replacing("EXPECT", with: "refuse")
        let edits = [
            (Self.suite.replacing("EXPECT", with: "permit"), 6),
            (good.replacing("[cohort.too-small]", with: "[figure.hidden]"), 6),
            (good.replacing("[round-thousandths]", with: "[publish]"), 5),
        ]
        for (text, line) in edits {
            let report = try tested(text)
            #expect(report.failures.map(\.line) == [line] && report.failures.map(\.rule) == [.testFailed])
            #expect(throws: PolicyError.self) {
                try PolicySet(
                    files: Fixture.files(Fixture.text())
                        + [PolicyFile(name: "cohort.test.yaml", bytes: Array(text.utf8))], hash: Fixture.hash)
            }
        }
    }

    // MARK: - What a change widens

    private func change(_ old: String, _ new: String) throws -> PolicyChange {
        PolicyChange(
            from: try Fixture.set(old, diseases: GeneratedPolicy.diseases),
            to: try Fixture.set(new, diseases: GeneratedPolicy.diseases))
    }

    static let edits: [(from: String, to: String, widens: Bool)] = [
        ("required: 2", "required: 3", false), ("required: 2", "required: 1", true),
        ("[dac, data-custodian]", "[dac]", true), ("[dac, data-custodian]", "[dac, data-custodian, steward]", true),
        ("roles: [dac, data-custodian]", "roles: [dac, data-custodian], author_may_approve: true", true),
        ("level: standard", "level: strong", false), ("level: standard", "level: semi-open", true),
        ("permission: DUO:0000006", "permission: DUO:0000007\ndiseases: [MONDO:0000002]", false),
        ("permission: DUO:0000006", "permission: DUO:0000042", true),
        ("permission: DUO:0000006", "permission: DUO:0000011", true),
        ("modifiers: []", "modifiers: [{ code: DUO:0000019 }]", false),
        ("modifiers: []", "modifiers: [{ code: DUO:0000043 }]", true),
        ("evidence: tpm", "evidence: hw-tee", false), ("evidence: tpm", "evidence: software", true),
        ("[campus-a]", "[campus-a, campus-b]", true), ("hours_max: 72", "hours_max: 71", false),
        ("hours_max: 72", "hours_max: 73", true), ("hours_max: 72", "hours_max: 72, hours_per: person", false),
        ("hours_max: 72", "hours_max: 72, hours_per: project", false), (", rtt_microseconds_max: 500", "", true),
        ("rtt_microseconds_max: 500", "rtt_microseconds_max: 499", false),
        ("losses: true", "losses: false", false), ("metrics: false", "metrics: true", true),
        ("cohort_min: 20", "cohort_min: 30", false), ("round_thousandths: 10", "round_thousandths: 20", false),
        ("round_thousandths: 10", "round_thousandths: 15", true), ("cohort_min: 10", "cohort_min: 9", true),
        ("checks: [artefact, cohort]", "checks: [artefact]", true),
        ("checks: [artefact, cohort]", "checks: [artefact, cohort, membership]", false),
        ("reviewers: 2", "reviewers: 1", true), ("reviewers: 2", "reviewers: 3", false),
        ("roles: [output-checker]", "roles: [dac]", true),
        ("osaka:cohort-a", "osaka:cohort-b", true), ("version: 1", "# a remark\nversion: 1", false),
    ]

    @Test("each edit of a policy is told narrower or wider by its structure", arguments: edits)
    func direction(_ edit: (from: String, to: String, widens: Bool)) throws {
        let old = Fixture.text()
        let new = old.replacing(edit.from, with: edit.to)
        try #require(old != new)
        let change = try change(old, new)
        #expect(change.widens == edit.widens, "\(change.steps)")
        if !edit.to.contains("#") { #expect(!change.steps.isEmpty) }
        #expect(try self.change(old, old).steps.isEmpty)
    }

    @Test("modifiers, visas, notices, targets and break-glass: taking a limit away widens, adding one does not")
    func sections() throws {
        let pairs: [(loose: String, tight: String)] = [
            (Fixture.text(), Fixture.text(modifiers: ["{ code: DUO:0000022, regions: [JP] }"])),
            (
                Fixture.text(modifiers: ["{ code: DUO:0000022, regions: [JP, DE] }"]),
                Fixture.text(modifiers: ["{ code: DUO:0000022, regions: [JP] }"])
            ),
            (
                Fixture.text(modifiers: ["{ code: DUO:0000025, months: 12 }"]),
                Fixture.text(modifiers: ["{ code: DUO:0000025, months: 11 }"])
            ),
            (
                Fixture.text(modifiers: ["{ code: DUO:0000024, until: 2027-01-31 }"]),
                Fixture.text(modifiers: ["{ code: DUO:0000024, until: 2027-02-28 }"])
            ),
            (Fixture.text(), Fixture.text(access: "  identity: { visas: [ResearcherStatus], by: [so] }")),
            (
                Fixture.text(access: "  identity: { visas: [ResearcherStatus], by: [so, dac] }"),
                Fixture.text(access: "  identity: { visas: [ResearcherStatus], by: [so] }")
            ),
            (Fixture.text(), Fixture.text(access: "  notices: [Cite us.]")),
            (Fixture.text(), Fixture.text(training: "  targets: { label: [DUO:0000006] }")),
            (
                Fixture.text(extra: "break_glass: { allowed: true, minutes_max: 60, approver: security-officer }"),
                Fixture.text()
            ),
            (
                Fixture.text(permission: "DUO:0000007\ndiseases: [MONDO:0000001]"),
                Fixture.text(permission: "DUO:0000007\ndiseases: [MONDO:0000003]")
            ),
        ]
        for (loose, tight) in pairs {
            #expect(try !change(loose, tight).widens, "\(tight)")
            #expect(try change(tight, loose).widens, "\(loose)")
        }
        let tree = { (text: String?) in try Fixture.set(Fixture.text(), diseases: text) }
        let (with, without) = (try tree(GeneratedPolicy.diseases), try tree(nil))
        #expect(PolicyChange(from: without, to: with).widens)
        #expect(!PolicyChange(from: with, to: without).widens)
    }

    @Test("whatever gets a milder answer from a changed policy, the change was told to widen, seed 5")
    func wideningIsNeverMissed() throws {
        var random = SeededRandom(seed: 5)
        let edits: [(String, String)] = [
            ("required: 1", "required: 2"), ("required: 2", "required: 1"), ("evidence: software", "evidence: tpm"),
            ("evidence: tpm", "evidence: software"), ("hours_max: 72", "hours_max: 11"),
            ("hours_max: 72", "hours_max: 200"), (", rtt_microseconds_max: 500", ""),
            ("rtt_microseconds_max: 500", "rtt_microseconds_max: 100"), ("losses: true", "losses: false"),
            ("losses: false", "losses: true"), ("cohort_min: 20", "cohort_min: 60"),
            ("cohort_min: 10", "cohort_min: 101"),
            ("cohort_min: 10", "cohort_min: 5"), ("reviewers: 1", "reviewers: 2"), ("reviewers: 2", "reviewers: 1"),
            ("modifiers: [", "modifiers: [{ code: DUO:0000015 }, "), ("{ code: DUO:0000043 }", ""),
            ("regions: [JP, DE]", "regions: [JP]"), ("users: [rin, ren]", "users: [ren]"),
            ("DUO:0000042\n", "DUO:0000006\n"), ("DUO:0000006\n", "DUO:0000042\n"),
            ("permission: DUO:0000004", "permission: DUO:0000042"),
            ("author_may_approve: true", "author_may_approve: false"),
            ("author_may_approve: false", "author_may_approve: true"),
            ("diseases: [MONDO:0000002]", "diseases: [MONDO:0000003]"),
            ("diseases: [MONDO:0000002]", "diseases: [MONDO:0000001]"),
            ("checks: [artefact, cohort]", "checks: [artefact]"),
            ("{ code: DUO:0000046 }", "{ code: DUO:0000045 }"), ("dac", "approver"),
        ]
        var (narrower, milder) = (0, 0)
        for round in 0..<600 {
            let generated = GeneratedPolicy(using: &random)
            var text = generated.yaml
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let edit = edits.randomElement(using: &random)!
                text = text.replacing(edit.0, with: edit.1).replacing("[, ", with: "[").replacing(", ,", with: ",")
                    .replacing(", ]", with: "]")
            }
            guard text != generated.yaml,
                let new = try? Fixture.set(text, diseases: GeneratedPolicy.diseases)
            else { continue }
            let old = try Fixture.set(generated.yaml, diseases: GeneratedPolicy.diseases)
            let widens = PolicyChange(from: old, to: new).widens
            if !widens { narrower += 1 }
            for _ in 0..<60 {
                let question = generated.question(using: &random)
                guard new.decide(question).verdict.strictness < old.decide(question).verdict.strictness else {
                    continue
                }
                milder += 1
                #expect(widens, "seed 5, round \(round): \(question.input.canonicalText)\n\(generated.yaml)\n\(text)")
            }
        }
        #expect(narrower > 50 && milder > 50, "\(narrower) narrower, \(milder) milder answers")
    }

    // MARK: - Replay

    private func recorded(_ question: Question, _ name: String, by set: PolicySet) -> PastDecision {
        PastDecision(
            name: name, input: question.input, verdict: set.decide(question).verdict, policies: set.bundleHash)
    }

    @Test("what becomes permitted that was refused comes first, and a policy against itself differs nowhere")
    func replay() throws {
        let old = try Fixture.set(Fixture.text())
        let new = try Fixture.set(
            Fixture.text(permission: "DUO:0000042", modifiers: ["{ code: DUO:0000019 }"]).replacing(
                "required: 2", with: "required: 3"))
        var ancestry = Fixture.access(Fixture.purpose(["DUO:0000011"]))
        ancestry.votes.append(Fixture.vote("third"))
        let decisions = [
            recorded(.access(Fixture.access()), "request/request-1 decided", by: old),
            recorded(.run(Fixture.run()), "run/run-1 decided", by: old),
            recorded(.release(Fixture.release(votes: [])), "run/run-1 release-decided", by: old),
            recorded(.access(ancestry), "request/request-2 decided", by: old),
            PastDecision(
                name: "run/run-2 decided", input: ["ask": "run"], verdict: .refuse, policies: old.bundleHash),
        ]
        let replay = Replay(decisions, old: old, new: new)
        #expect(replay.compared == 4)
        #expect(replay.unreadable == ["run/run-2 decided"])
        #expect(
            replay.differences.map { "\($0.name): \($0.old.answer.rawValue) → \($0.new.answer.rawValue)" } == [
                "request/request-2 decided: refuse → permit-with-obligations",
                "request/request-1 decided: permit-with-obligations → needs-human",
                "run/run-1 decided: permit-with-obligations → refuse",
            ])
        #expect(Replay(decisions, old: old, new: old).differences.isEmpty)
        #expect(Replay(decisions, old: new, new: new).differences.isEmpty)
        // The same answer with another duty is a difference, too.
        let citing = try Fixture.set(Fixture.text(access: "  notices: [Cite us.]"))
        #expect(Replay(decisions.prefix(1), old: old, new: citing).differences.map(\.loosening) == [0])
    }

    // MARK: - Who may what

    @Test("the matrix tells for every data set who may ask, approve, run, look and release")
    func matrix() throws {
        let set = try PolicySet(files: try Fixture.shipped(), hash: Fixture.hash)
        let matrix = PermissionMatrix(of: set, researcher: "researcher")
        #expect(matrix.rows.count == 3 * PermissionMatrix.Action.allCases.count)
        func roles(_ dataset: String, _ action: PermissionMatrix.Action) -> [String]? {
            matrix.rows.first { $0.dataset.text == dataset && $0.action == action }?.roles.keys.sorted()
        }
        #expect(roles("demo:kg1-health", .approve) == ["dac", "data-custodian"])
        #expect(roles("demo:kg1-health", .request) == ["researcher"])
        #expect(roles("demo:hpo", .approve) == [])
        #expect(roles("demo:hpo", .reviewRelease) == ["dac", "data-custodian"])
        #expect(roles("demo:hpo", .approveBreakGlass) == [])
    }

    // MARK: - What is signed

    private static let statement = PolicyStatement(
        trail: "sekisho.test/trail", number: 4, bundle: Fixture.digest, previous: Fixture.digest, widens: true,
        returnsTo: 2)

    @Test("a statement reads as it was written, and not otherwise")
    func statement() throws {
        #expect(PolicyStatement(json: Self.statement.json) == Self.statement)
        #expect(Self.statement.signaturesNeeded == 3)
        let first = PolicyStatement(
            trail: "t", number: 1, bundle: Fixture.digest, previous: nil, widens: true, returnsTo: nil)
        #expect(first.signaturesNeeded == 2 && PolicyStatement(json: first.json) == first)
        let members = try #require(Self.statement.json.objectValue)
        for name in members.keys {
            for value in [nil, JSON.null, "x", 0, true, [], "07", -1] as [JSON?] {
                var changed = members
                changed[name] = value
                let read = PolicyStatement(json: .object(changed))
                // A member that may be absent, or text that may be any, still makes another statement.
                #expect(read != Self.statement || value == members[name], "\(name) \(String(describing: value))")
                if let read { #expect(read.json == .object(changed)) }
            }
        }
        var more = members
        more["note"] = "x"
        #expect(PolicyStatement(json: .object(more)) == nil)
    }
}

extension Decision.Verdict {
    fileprivate var strictness: Int {
        switch self {
        case .permit: 0
        case .needsHuman: 1
        case .refuse: 2
        }
    }
}
