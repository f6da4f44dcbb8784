import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// Access, run, progress and release, one changed fact at a time.
@Suite struct DecisionTests {
    typealias Fixture = PolicyFixture

    private func expect(
        _ decision: Decision, _ verdict: Decision.Verdict, _ codes: Reason.Code...,
        location: SourceLocation = #_sourceLocation
    ) {
        #expect(decision.verdict == verdict, "\(decision.reasons)", sourceLocation: location)
        for code in codes {
            #expect(decision.reasons.map(\.code).contains(code), "\(decision.reasons)", sourceLocation: location)
        }
    }

    // MARK: - Access

    @Test("two different people of the named roles make a grant, and every reason names its file and line")
    func approved() throws {
        let decision = try Fixture.set(Fixture.text()).decide(Fixture.access())
        expect(decision, .permit, .purposeCovered, .approvalsMet)
        let reason = try #require(decision.reasons.first)
        #expect(reason.rule == "osaka:cohort-a/permission")
        #expect(reason.file == "cohort.yaml")
        #expect(reason.line == 4)
    }

    static let votes: [([Vote], Decision.Verdict, Reason.Code)] = [
        ([], .needsHuman, .approvalsWaiting),
        ([Fixture.vote("aki")], .needsHuman, .approvalsWaiting),
        ([Fixture.vote("aki"), Fixture.vote("aki", "data-custodian")], .needsHuman, .approvalsWaiting),
        ([Fixture.vote("aki"), Fixture.vote("AKI")], .needsHuman, .approvalsWaiting),
        ([Fixture.vote("aki"), Fixture.vote("rin")], .needsHuman, .approvalsWaiting),
        ([Fixture.vote("aki"), Fixture.vote("Rin")], .needsHuman, .approvalsWaiting),
        ([Fixture.vote("aki"), Fixture.vote("steward")], .needsHuman, .approvalsWaiting),
        ([Fixture.vote("aki"), Fixture.vote("sora", "researcher")], .needsHuman, .approvalsWaiting),
        ([Fixture.vote("aki"), Fixture.vote("sora", "DAC")], .needsHuman, .approvalsWaiting),
        (
            [Fixture.vote("aki"), Fixture.vote("sora"), Fixture.vote("mei", approves: false)], .refuse,
            .approvalRejected
        ),
        (
            [Fixture.vote("aki"), Fixture.vote("sora"), Fixture.vote("aki", approves: false)], .refuse,
            .approvalRejected
        ),
        (
            [Fixture.vote("aki", approves: false), Fixture.vote("aki"), Fixture.vote("sora")], .refuse,
            .approvalRejected
        ),
        (
            [Fixture.vote("aki"), Fixture.vote("sora"), Fixture.vote("mei", "guest", approves: false)], .permit,
            .approvalsMet
        ),
    ]

    @Test(
        "votes count people in allowed roles, never the requester or author, and a rejection decides", arguments: votes)
    func voting(_ votes: [Vote], _ verdict: Decision.Verdict, _ code: Reason.Code) throws {
        var question = Fixture.access()
        question.votes = votes
        expect(try Fixture.set(Fixture.text()).decide(question), verdict, code)
    }

    @Test("a purpose that is refused stays refused however many approve it")
    func forbidWins() throws {
        var question = Fixture.access(Fixture.purpose(["DUO:0000011"]))
        question.votes = (0..<20).map { Fixture.vote("person-\($0)") }
        let decision = try Fixture.set(Fixture.text()).decide(question)
        expect(decision, .refuse, .purposeAncestry)
        #expect(decision.obligations.isEmpty)
    }

    @Test("a data set that no policy speaks of is refused to every kind of question")
    func unknownDataset() throws {
        let set = try Fixture.set(Fixture.text())
        let other = try DatasetID("osaka:cohort-b")
        var access = Fixture.access()
        access.dataset = other
        var run = Fixture.run()
        run.dataset = other
        var release = Fixture.release(votes: [])
        release.dataset = other
        let progress = ProgressQuestion(
            dataset: other, run: try RunID("run-1"), viewer: Fixture.requester, figure: .loss, cohort: 100)
        for question in [Question.access(access), .run(run), .release(release), .progress(progress)] {
            expect(set.decide(question), .refuse, .datasetUnknown)
        }
    }

    struct Change: CustomTestStringConvertible {
        let modifier: String
        let verdict: Decision.Verdict
        let code: Reason.Code
        let change: @Sendable (inout AccessQuestion) -> Void
        var testDescription: String { "\(modifier) → \(code.rawValue)" }

        init(
            _ modifier: String, _ verdict: Decision.Verdict, _ code: Reason.Code,
            _ change: @escaping @Sendable (inout AccessQuestion) -> Void = { _ in }
        ) {
            self.modifier = modifier
            self.verdict = verdict
            self.code = code
            self.change = change
        }
    }

    static let changes: [Change] = [
        Change("{ code: DUO:0000021 }", .permit, .approvalsMet),
        Change("{ code: DUO:0000021 }", .refuse, .documentMissing) { $0.documents = [] },
        Change("{ code: DUO:0000021 }", .refuse, .documentMissing) {
            $0.documents = [.init(kind: "photo", digest: Fixture.digest)]
        },
        Change("{ code: DUO:0000021 }", .refuse, .documentExpired) {
            $0.documents = [.init(kind: "ethics", digest: Fixture.digest, expires: Fixture.now)]
        },
        Change("{ code: DUO:0000022, regions: [JP, NO] }", .permit, .approvalsMet),
        Change("{ code: DUO:0000022, regions: [JP, NO] }", .refuse, .placeNotAllowed) { $0.country = "US" },
        Change("{ code: DUO:0000022, regions: [JP, NO] }", .refuse, .placeNotAllowed) { $0.country = "jp" },
        Change("{ code: DUO:0000022, regions: [JP, NO] }", .refuse, .factMissing) { $0.country = nil },
        Change("{ code: DUO:0000025, months: 12 }", .permit, .approvalsMet),
        Change("{ code: DUO:0000025, months: 12 }", .refuse, .termTooLong) { $0.termMonths = 13 },
        Change("{ code: DUO:0000025, months: 12 }", .refuse, .factMissing) { $0.termMonths = nil },
        Change("{ code: DUO:0000025, months: 12 }", .refuse, .factInvalid) { $0.termMonths = 0 },
        Change("{ code: DUO:0000025, months: 12 }", .refuse, .factInvalid) { $0.termMonths = .min },
        Change("{ code: DUO:0000026, users: [rin] }", .permit, .approvalsMet),
        Change("{ code: DUO:0000026, users: [mei] }", .refuse, .personNotListed),
        Change("{ code: DUO:0000027, projects: [p-1] }", .permit, .approvalsMet),
        Change("{ code: DUO:0000027, projects: [p-1] }", .refuse, .projectNotListed) { $0.project = "p-2" },
        Change("{ code: DUO:0000027, projects: [p-1] }", .refuse, .factMissing) { $0.project = nil },
        Change("{ code: DUO:0000028, institutions: [osaka-u] }", .permit, .approvalsMet),
        Change("{ code: DUO:0000028, institutions: [osaka-u] }", .refuse, .institutionNotListed) {
            $0.institution = "other"
        },
        Change("{ code: DUO:0000028, institutions: [osaka-u] }", .refuse, .factMissing) { $0.institution = nil },
        Change("{ code: DUO:0000019 }", .refuse, .agreementMissing) { $0.agreements = [] },
        Change("{ code: DUO:0000020 }", .refuse, .agreementMissing) { $0.agreements = [] },
        Change("{ code: DUO:0000024, until: 2027-01-31 }", .refuse, .agreementMissing) { $0.agreements = [] },
        Change("{ code: DUO:0000029 }", .refuse, .agreementMissing) { $0.agreements = [] },
    ]

    @Test("each modifier of access asks for its fact", arguments: changes)
    func modifiers(_ test: Change) throws {
        var question = Fixture.access()
        test.change(&question)
        expect(try Fixture.set(Fixture.text(modifiers: [test.modifier])).decide(question), test.verdict, test.code)
    }

    @Test("what was agreed to becomes an obligation of the permit")
    func obligations() throws {
        let set = try Fixture.set(
            Fixture.text(
                modifiers: [
                    "{ code: DUO:0000019 }", "{ code: DUO:0000020, with: \"the Osaka cohort's team\" }",
                    "{ code: DUO:0000024, until: 2027-01-31 }", "{ code: DUO:0000025, months: 12 }",
                    "{ code: DUO:0000029 }",
                ], access: "  notices: [\"大阪コホートを引用すること\"]"))
        let decision = set.decide(Fixture.access())
        #expect(
            decision.obligations.map { "\($0.code.rawValue)=\($0.value)" } == [
                "publish=", "collaborate=the Osaka cohort's team", "moratorium=2027-01-31", "months-max=12",
                "return-results=", "notice=大阪コホートを引用すること", "hours-max=72",
            ])
        for obligation in decision.obligations { #expect(try Obligation(json: obligation.json) == obligation) }
    }

    @Test("a visa must be of the wanted type, from a wanted source, and still valid")
    func visas() throws {
        let set = try Fixture.set(
            Fixture.text(access: "  identity: { visas: [ResearcherStatus], by: [so, system] }"))
        let later = Fixture.now.adding(seconds: 1)
        let held: [([AccessQuestion.Visa], Decision.Verdict)] = [
            ([], .refuse),
            ([.init(type: "ResearcherStatus", by: "so", expires: later)], .permit),
            ([.init(type: "ResearcherStatus", by: "self", expires: later)], .refuse),
            ([.init(type: "AffiliationAndRole", by: "so", expires: later)], .refuse),
            ([.init(type: "ResearcherStatus", by: "so", expires: Fixture.now)], .refuse),
        ]
        for (visas, verdict) in held {
            var question = Fixture.access()
            question.visas = visas
            #expect(set.decide(question).verdict == verdict, "\(visas)")
            var run = Fixture.run()
            run.visas = visas
            let again = set.decide(run)
            #expect(again.verdict == verdict && again.reasonCodes.contains("visa.missing") == (verdict == .refuse))
            run.visas = []
            run.grant = Fixture.grant(isEmergency: true)
            #expect(set.decide(run).verdict == .permit, "an emergency asks for no visas")
        }
    }

    // MARK: - Run

    @Test("a run under a valid grant on an acceptable device is permitted")
    func runPermitted() throws {
        expect(try Fixture.set(Fixture.text()).decide(Fixture.run()), .permit, .grantValid, .deviceAccepted)
    }

    struct RunChange: CustomTestStringConvertible {
        let code: Reason.Code
        let change: @Sendable (inout RunQuestion) -> Void
        var testDescription: String { code.rawValue }

        init(_ code: Reason.Code, _ change: @escaping @Sendable (inout RunQuestion) -> Void) {
            self.code = code
            self.change = change
        }
    }

    static let runChanges: [RunChange] = [
        RunChange(.grantMissing) { $0.grant = nil },
        RunChange(.grantExpired) { $0.now = $0.grant!.expires },
        RunChange(.grantNotYet) { $0.now = $0.grant!.granted.adding(seconds: -1) },
        RunChange(.grantRevoked) { $0.grant = Fixture.grant(revoked: true) },
        RunChange(.grantOther) { $0.grant = Fixture.grant(dataset: "osaka:cohort-b") },
        RunChange(.grantOther) { $0.grant = Fixture.grant(holder: "mei") },
        RunChange(.grantPurpose) { $0.purpose = Fixture.purpose(["DUO:0000007"], diseases: ["MONDO:0005015"]) },
        RunChange(.grantPurpose) { $0.purpose.commercial = true },
        RunChange(.purposeAncestry) { $0.purpose.codes = ["DUO:0000011"] },
        RunChange(.cohortTooSmall) { $0.cohort = 9 },
        RunChange(.cohortTooSmall) { $0.cohort = -1 },
        RunChange(.factMissing) { $0.device = nil },
        RunChange(.devicePool) {
            $0.device = .init(node: try! NodeID("n"), pool: "campus-b", evidence: .tpm, rttMicroseconds: 1)
        },
        RunChange(.deviceEvidence) {
            $0.device = .init(node: try! NodeID("n"), pool: "campus-a", evidence: .software, rttMicroseconds: 1)
        },
        RunChange(.deviceRoundTrip) {
            $0.device = .init(node: try! NodeID("n"), pool: "campus-a", evidence: .hardware, rttMicroseconds: 501)
        },
        RunChange(.factMissing) {
            $0.device = .init(node: try! NodeID("n"), pool: "campus-a", evidence: .tpm, rttMicroseconds: nil)
        },
        RunChange(.factMissing) {
            $0.device = .init(node: try! NodeID("n"), pool: "campus-a", evidence: .tpm, rttMicroseconds: -1)
        },
        RunChange(.deviceHours) { $0.hoursUsed = 71 },
        RunChange(.deviceHours) { $0.hoursAsked = .max },
        RunChange(.factInvalid) { $0.hoursAsked = 0 },
        RunChange(.factInvalid) { $0.hoursUsed = -100 },
    ]

    @Test("each fact of a run can refuse it", arguments: runChanges)
    func runRefused(_ test: RunChange) throws {
        var question = Fixture.run()
        test.change(&question)
        expect(try Fixture.set(Fixture.text()).decide(question), .refuse, test.code)
    }

    @Test("a grant given before the policy became narrower does not outlive it")
    func narrowedPolicy() throws {
        let wider = try Fixture.set(Fixture.text(permission: "DUO:0000042"))
        let narrower = try Fixture.set(Fixture.text(permission: "DUO:0000006"))
        let question = Fixture.run(Fixture.purpose(["DUO:0000042"]))
        expect(wider.decide(question), .permit, .grantValid)
        expect(narrower.decide(question), .refuse, .purposeTooWide)
        let publishing = try Fixture.set(Fixture.text(modifiers: ["{ code: DUO:0000019 }"]))
        expect(publishing.decide(Fixture.run()), .refuse, .grantObligation)
        let kept = Obligation(code: .publish, rule: "osaka:cohort-a/modifiers[0]", value: "")
        expect(publishing.decide(Fixture.run(obligations: [kept])), .permit, .grantValid)
        let shorter = try Fixture.set(Fixture.text(modifiers: ["{ code: DUO:0000025, months: 1 }"]))
        var late = Fixture.run()
        expect(shorter.decide(late), .permit, .grantValid)
        late.now = Timestamp("2026-12-01")!
        expect(shorter.decide(late), .refuse, .grantExpired)
        // Place, project and institution are what the grant was asked for with; one that does not say is refused.
        let now: [(String, RunQuestion.Grant, RunQuestion.Grant, Reason.Code)] = [
            (
                "{ code: DUO:0000022, regions: [JP] }", Fixture.grant(country: "NO"), Fixture.grant(country: nil),
                .placeNotAllowed
            ),
            (
                "{ code: DUO:0000027, projects: [p-1] }", Fixture.grant(project: "p-2"), Fixture.grant(project: nil),
                .projectNotListed
            ),
            (
                "{ code: DUO:0000028, institutions: [osaka-u] }", Fixture.grant(institution: "other"),
                Fixture.grant(institution: nil), .institutionNotListed
            ),
        ]
        for (modifier, other, silent, code) in now {
            let set = try Fixture.set(Fixture.text(modifiers: [modifier]))
            var question = Fixture.run()
            expect(set.decide(question), .permit, .grantValid)
            question.grant = other
            expect(set.decide(question), .refuse, code)
            question.grant = silent
            expect(set.decide(question), .refuse, .factMissing)
        }
    }

    @Test("a run may predict only columns that the policy describes, for the purpose they amount to")
    func targets() throws {
        let set = try Fixture.set(
            Fixture.text(
                permission: "DUO:0000042",
                training: "  targets: { label: [DUO:0000006], group: [DUO:0000011] }"))
        var question = Fixture.run()
        expect(set.decide(question), .permit, .grantValid)
        question.target = "group"
        expect(set.decide(question), .refuse, .targetNotAllowed)
        question.target = "age"
        expect(set.decide(question), .refuse, .targetNotAllowed)
    }

    // MARK: - Progress and release

    @Test("figures are shown only as the policy says, of enough people, rounded")
    func progress() throws {
        let set = try Fixture.set(Fixture.text())
        var question = ProgressQuestion(
            dataset: Fixture.dataset, run: try RunID("run-1"), viewer: Fixture.requester, figure: .loss, cohort: 20)
        let shown = set.decide(question)
        expect(shown, .permit, .figureShown)
        #expect(shown.obligations.map(\.code) == [.roundThousandths])
        #expect(shown.obligations.map(\.value) == ["10"])
        question.cohort = 19
        expect(set.decide(question), .refuse, .cohortTooSmall)
        question.cohort = 20
        question.figure = .metric
        expect(set.decide(question), .refuse, .figureHidden)
        let silent = Fixture.text().split(separator: "\n").filter { !$0.hasPrefix("progress") }.joined(separator: "\n")
        question.figure = .loss
        expect(try Fixture.set(silent).decide(question), .refuse, .figureHidden)
    }

    static let reviews: [([Vote], Decision.Verdict, Reason.Code)] = [
        ([Fixture.vote("aki", "output-checker"), Fixture.vote("sora", "output-checker")], .permit, .reviewsMet),
        ([Fixture.vote("aki", "output-checker")], .needsHuman, .reviewsWaiting),
        ([Fixture.vote("aki", "output-checker"), Fixture.vote("Aki", "output-checker")], .needsHuman, .reviewsWaiting),
        ([Fixture.vote("aki", "output-checker"), Fixture.vote("rin", "output-checker")], .needsHuman, .reviewsWaiting),
        ([Fixture.vote("aki", "output-checker"), Fixture.vote("sora", "dac")], .needsHuman, .reviewsWaiting),
        (
            [Fixture.vote("aki", "output-checker"), Fixture.vote("sora", "output-checker", approves: false)], .refuse,
            .reviewRejected
        ),
    ]

    @Test("two reviewers other than the researcher release a model, and one rejection keeps it in", arguments: reviews)
    func reviewing(_ votes: [Vote], _ verdict: Decision.Verdict, _ code: Reason.Code) throws {
        expect(try Fixture.set(Fixture.text()).decide(Fixture.release(votes: votes)), verdict, code)
    }

    @Test("a failed or missing check, or too few people, keeps a model in whoever reviews it")
    func releaseChecks() throws {
        let set = try Fixture.set(Fixture.text())
        var question = Fixture.release(votes: [
            Fixture.vote("aki", "output-checker"), Fixture.vote("sora", "output-checker"),
        ])
        question.checks.removeLast()
        expect(set.decide(question), .refuse, .checkMissing)
        question.checks.append(.init(check: .cohort, passed: false))
        expect(set.decide(question), .refuse, .checkFailed)
        question.checks = [
            .init(check: .artefact, passed: true), .init(check: .cohort, passed: true),
            .init(check: .membership, passed: false),
        ]
        expect(set.decide(question), .refuse, .checkFailed)
        question.checks.removeLast()
        question.cohort = 9
        expect(set.decide(question), .refuse, .cohortTooSmall)
    }

    // MARK: - Inputs

    static let questions: [Question] = [
        .access(Fixture.access()), .run(Fixture.run()), .release(Fixture.release(votes: [Fixture.vote("aki")])),
        .progress(
            ProgressQuestion(
                dataset: Fixture.dataset, run: try! RunID("run-1"), viewer: Fixture.requester, figure: .metric,
                cohort: 5)),
    ]

    @Test("a recorded input is read back as the same question and decided the same", arguments: questions)
    func replay(_ question: Question) throws {
        let bytes = question.input.canonical
        let again = try Question(input: JSON(parsing: bytes))
        #expect(again == question)
        #expect(again.input.canonical == bytes)
        let set = try Fixture.set(Fixture.text())
        #expect(set.decide(again) == set.decide(question))
    }

    @Test("an input with any member changed in kind, or one unknown, is refused by name", arguments: questions)
    func strictInput(_ question: Question) throws {
        let members = try #require(question.input.objectValue)
        #expect(throws: QuestionError.self) { try Question(input: .object(members.merging(["x": 1]) { $1 })) }
        for name in members.keys {
            var changed = members
            changed[name] = .null
            #expect(throws: QuestionError.self, "\(name)") { try Question(input: .object(changed)) }
        }
        for name in ["ask", "dataset", "run", "requester", "purpose", "cohort"] where members[name] != nil {
            var changed = members
            changed[name] = nil
            #expect(throws: QuestionError.self, "\(name)") { try Question(input: .object(changed)) }
        }
    }

    @Test("leaving any fact out of an input never turns a refusal into a permit", arguments: questions)
    func missingFacts(_ question: Question) throws {
        let set = try Fixture.set(
            Fixture.text(modifiers: [
                "{ code: DUO:0000015 }", "{ code: DUO:0000016 }", "{ code: DUO:0000018 }", "{ code: DUO:0000021 }",
                "{ code: DUO:0000022, regions: [JP] }", "{ code: DUO:0000025, months: 12 }",
                "{ code: DUO:0000012, types: [cohort-study] }",
            ]))
        let whole = set.decide(question).verdict
        func without(_ json: JSON) -> [JSON] {
            guard case .object(let members) = json else { return [] }
            return members.keys.flatMap { name -> [JSON] in
                var fewer = members
                fewer[name] = nil
                return [.object(fewer)]
                    + without(members[name]!).map { inner in
                        var changed = members
                        changed[name] = inner
                        return .object(changed)
                    }
            }
        }
        for input in without(question.input) {
            guard let fewer = try? Question(input: input) else { continue }
            if set.decide(fewer).verdict == .permit { #expect(whole == .permit, "\(input.canonicalText)") }
        }
    }

    @Test("a decision takes microseconds")
    func speed() throws {
        let set = try PolicySet(files: Fixture.shipped() + Fixture.files(Fixture.text()), hash: Fixture.hash)
        let questions = Self.questions
        let clock = ContinuousClock()
        let rounds = 2_000
        var permits = 0
        let taken = clock.measure {
            for _ in 0..<rounds {
                for question in questions where set.decide(question).verdict == .permit { permits += 1 }
            }
        }
        print("policy: \(taken / (rounds * questions.count)) a decision")
        #expect(permits == 2 * rounds)
    }
}
