import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// What reviewers approve under becomes what the grant is held to.
@Suite struct ConditionTests {
    private static func condition(_ kind: Condition.Kind, _ value: String) throws -> Condition {
        try Condition(kind, value)
    }

    @Test(
        "a value that a condition cannot have is refused, by the kind's own name",
        arguments: [
            (.monthsMax, "0"), (.monthsMax, "1201"), (.monthsMax, "+6"), (.monthsMax, "six"), (.hoursMax, "0"),
            (.hoursMax, "100001"), (.regions, ""), (.regions, "jp"), (.regions, "JPN"), (.regions, "JP, DE"),
            (.documentDue, "ethics"), (.documentDue, "ethics 2027-02-30"), (.documentDue, "еthics 2027-02-01"),
            (.documentDue, "ethics  2027-02-01"), (.notice, ""), (.notice, "two\nlines"),
            (.notice, String(repeating: "x", count: 501)),
        ] as [(Condition.Kind, String)])
    func malformed(kind: Condition.Kind, value: String) {
        let error = #expect(throws: QuestionError.self) { try Self.condition(kind, value) }
        #expect(error?.member == "conditions.\(kind.rawValue)")
    }

    @Test("of two approvals' conditions the strictest of each kind becomes the grant's, and every text")
    func union() throws {
        let set = try PolicyFixture.set(PolicyFixture.text())
        var question = PolicyFixture.access()
        question.country = "JP"
        question.votes = [
            Vote(
                person: try PersonID("aki"), role: "dac", approves: true,
                conditions: [
                    try Self.condition(.monthsMax, "9"), try Self.condition(.hoursMax, "40"),
                    try Self.condition(.regions, "JP DE FR"), try Self.condition(.documentDue, "ethics 2027-03-01"),
                    try Self.condition(.notice, "Name the cohort."),
                ]),
            Vote(
                person: try PersonID("sora"), role: "dac", approves: true,
                conditions: [
                    try Self.condition(.monthsMax, "6"), try Self.condition(.hoursMax, "50"),
                    try Self.condition(.regions, "JP US"), try Self.condition(.documentDue, "ethics 2027-02-01"),
                    try Self.condition(.documentDue, "contract 2027-04-01"),
                    try Self.condition(.notice, "Ask before you publish."),
                ]),
        ]
        let decision = set.decide(.access(question))
        #expect(decision.verdict == .permit, "\(decision)")
        let conditions = decision.obligations.filter(\.isCondition).map { "\($0.code.rawValue) \($0.value)" }
        #expect(
            conditions == [
                "months-max 6", "hours-max 40", "regions JP", "document-due contract 2027-04-01",
                "document-due ethics 2027-02-01", "notice Ask before you publish.", "notice Name the cohort.",
            ])
        // The recorded input decides the same again.
        let again = try Question(input: Question.access(question).input)
        #expect(again == .access(question))
        #expect(set.decide(again) == decision)
    }

    @Test("an approval that does not count brings no condition, and one that cannot be met refuses")
    func counted() throws {
        let set = try PolicyFixture.set(PolicyFixture.text())
        var question = PolicyFixture.access()
        question.country = "JP"
        let strict = [try Self.condition(.hoursMax, "1"), try Self.condition(.regions, "US")]
        question.votes += [
            Vote(person: question.requester, role: "dac", approves: true, conditions: strict),
            Vote(person: try PersonID("otto"), role: "operator", approves: true, conditions: strict),
        ]
        #expect(set.decide(.access(question)).obligations.filter(\.isCondition).isEmpty)
        question.votes.append(
            Vote(person: try PersonID("yuki"), role: "dac", approves: true, conditions: [strict[1]]))
        #expect(set.decide(.access(question)).reasonCodes.contains("place.not-allowed"))
        question.country = nil
        #expect(set.decide(.access(question)).reasonCodes.contains("fact.missing"))
    }

    @Test("a run is held to the hours, the months, the place and the document that reviewers asked for")
    func runs() throws {
        let set = try PolicyFixture.set(PolicyFixture.text())
        func run(
            _ conditions: [(Obligation.Code, String)], country: String? = "JP",
            documents: [AccessQuestion.Document] = []
        ) throws -> [String] {
            let rule = "\(PolicyFixture.run().dataset)/access.approvals/conditions"
            var question = PolicyFixture.run()
            let held = try #require(question.grant)
            question.grant = RunQuestion.Grant(
                id: held.id, dataset: held.dataset, holder: held.holder, purpose: held.purpose, granted: held.granted,
                expires: held.expires, revoked: held.revoked,
                obligations: held.obligations + conditions.map { Obligation(code: $0, rule: rule, value: $1) },
                country: country, documents: documents)
            let decision = set.decide(.run(question))
            #expect(try Question(input: Question.run(question).input) == .run(question))
            return decision.verdict == .permit ? [] : decision.reasonCodes
        }
        let now = PolicyFixture.run().now
        let today = String(now.description.prefix(10))
        let yesterday = String(now.adding(seconds: -86_400).description.prefix(10))
        let digest = try #require(Digest(hex: String(repeating: "a", count: 64)))
        #expect(try run([]) == [])
        #expect(try run([(.hoursMax, "12")]) == [])
        #expect(try run([(.hoursMax, "11")]) == ["device.hours"])
        #expect(try run([(.hoursMax, "12"), (.hoursMax, "11")]) == ["device.hours"])
        #expect(try run([(.hoursMax, "many")]) == ["device.hours"])
        #expect(try run([(.monthsMax, "0")]) == ["grant.expired"])
        #expect(try run([(.regions, "JP DE")]) == [])
        #expect(try run([(.regions, "DE")]) == ["place.not-allowed"])
        #expect(try run([(.regions, "DE")], country: nil) == ["place.not-allowed"])
        #expect(try run([(.documentDue, "ethics \(today)")]) == [])
        #expect(try run([(.documentDue, "ethics \(yesterday)")]) == ["document.missing"])
        #expect(
            try run(
                [(.documentDue, "ethics \(yesterday)")], documents: [.init(kind: "ethics", digest: digest)]) == [])
        #expect(
            try run(
                [(.documentDue, "ethics \(yesterday)")], documents: [.init(kind: "contract", digest: digest)])
                == ["document.missing"])
        #expect(
            try run(
                [(.documentDue, "ethics \(yesterday)")],
                documents: [.init(kind: "ethics", digest: digest, expires: now)]) == ["document.missing"])
        #expect(try run([(.documentDue, "soon")]) == ["fact.invalid"])
    }

    @Test("somebody named on a grant may use it; nobody named on a request approves it")
    func people() throws {
        let set = try PolicyFixture.set(PolicyFixture.text())
        let rei = try PersonID("rei")
        var question = PolicyFixture.run()
        question.requester = rei
        #expect(set.decide(.run(question)).reasonCodes.contains("grant.other"))
        let held = try #require(question.grant)
        question.grant = RunQuestion.Grant(
            id: held.id, dataset: held.dataset, holder: held.holder, purpose: held.purpose, granted: held.granted,
            expires: held.expires, revoked: false, obligations: held.obligations, people: [rei])
        #expect(set.decide(.run(question)).verdict == .permit)

        var request = PolicyFixture.access()
        let voters = request.votes.map(\.person)
        #expect(set.decide(.access(request)).verdict == .permit)
        request.people = [voters[0]]
        #expect(set.decide(.access(request)).verdict == .needsHuman)
        #expect(try Question(input: Question.access(request).input) == .access(request))
    }
}
