import Foundation
import Gateway
import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// What becomes of a request, and who may do what with it when.
@Suite struct RequestLifeTests {
    private static func form(_ changes: [String: JSON] = [:]) throws -> String {
        var members = try #require(try JSON(parsing: Clinic.form).objectValue)
        for (name, value) in changes { members[name] = value }
        return JSON.object(members).canonicalText
    }

    /// People of every standing, in an enclave of the clinic's policy.
    private struct Cast {
        let enclave: Enclave
        let colleague: PersonID
        let reviewer: PersonID
        let outsiders: [PersonID]

        init(_ enclave: Enclave) async throws {
            self.enclave = enclave
            colleague = try PersonID("rei")
            reviewer = try PersonID("dan")
            let added: [(String, Role)] = [
                ("rei", .researcher), ("dan", .dac), ("ria", .researcher), ("oto", .outputChecker),
                ("sei", .securityOfficer),
            ]
            for (name, role) in added {
                try await enclave.gateway.addPerson(PersonID(name), roles: [role], by: enclave.operatorPerson)
            }
            outsiders =
                [try PersonID("ria"), try PersonID("oto"), try PersonID("sei")]
                + [enclave.operatorPerson, enclave.administrator]
        }

        func people(_ standing: RequestLife.Standing) -> [PersonID] {
            switch standing {
            case .requester: [enclave.researcher]
            case .colleague: [colleague]
            case .reviewer: [reviewer]
            case .spoken: [enclave.reviewer]
            case .reader: [enclave.auditor]
            case .outsider: outsiders
            }
        }

        /// A request in this state, on which the enclave's reviewer has spoken.
        func request(_ state: RequestLife.State) async throws -> RequestID {
            let gateway = enclave.gateway
            let form = try RequestLifeTests.form([
                "people": ["rei"], "termMonths": state == .expired ? 1 : 6,
            ])
            let id = try await gateway.fileRequest(form, by: enclave.researcher)
            _ = try await gateway.advance(id)
            try await gateway.review(id, state == .refused ? .reject : .approve, comment: "seen", by: enclave.reviewer)
            _ = try await gateway.advance(id)
            if state == .withdrawn { try await gateway.withdrawRequest(id, by: enclave.researcher) }
            guard ![.waiting, .refused, .withdrawn].contains(state) else { return id }
            try await gateway.review(id, .approve, comment: "seen", by: enclave.custodian)
            _ = try await gateway.advance(id)
            if state == .superseded {
                let changed = try RequestLifeTests.form(["people": ["rei"], "project": "another"])
                let next = try await gateway.amendRequest(id, form: changed, by: enclave.researcher)
                for person in [enclave.reviewer, enclave.custodian] {
                    try await gateway.review(next, .approve, comment: "", by: person)
                }
                _ = try await gateway.advance(next)
            }
            if state == .closing || state == .closed {
                try await gateway.closeOut(id, report: "All is done.", confirmed: true, by: enclave.researcher)
            }
            if state == .closed { try await gateway.confirmClosure(id, by: enclave.custodian) }
            if state == .revoked { try await revoke(id) }
            return id
        }

        private func revoke(_ id: RequestID) async throws {
            let grant = try GrantID("grant-\(id.text.dropFirst("request-".count))")
            _ = try await enclave.gateway.revokeGrant(grant, reason: .asked, comment: "", by: enclave.custodian)
        }

        func perform(_ action: RequestLife.Action, on id: RequestID, by person: PersonID) async throws {
            let gateway = enclave.gateway
            switch action {
            case .see: _ = try await gateway.request(id, by: person)
            case .resume:
                _ = try await gateway.request(id, by: person)
                _ = try await gateway.advance(id)
            case .review: try await gateway.review(id, .approve, comment: "", by: person)
            case .withdraw: try await gateway.withdrawRequest(id, by: person)
            case .use:
                let grant = try GrantID("grant-\(id.text.dropFirst("request-".count))")
                _ = try await gateway.requestRun(
                    specification: Clinic.specification(), grant: grant, id: nil, deviceMemory: nil, by: person)
            case .addDocument:
                let digest = try #require(Digest(hex: String(repeating: "a", count: 64)))
                try await gateway.addDocument(.init(kind: "ethics", digest: digest), to: id, by: person)
            case .amend:
                let form = try RequestLifeTests.form(["people": ["rei"], "project": "other"])
                _ = try await gateway.amendRequest(id, form: form, by: person)
            case .renew: _ = try await gateway.renewRequest(id, termMonths: 12, by: person)
            case .closeOut:
                try await gateway.closeOut(id, report: "All is done.", confirmed: true, by: person)
            case .confirmClosure: try await gateway.confirmClosure(id, by: person)
            case .saveDraft, .discardDraft, .file: throw Unexpected(words: "asked of drafts only")
            }
        }
    }

    /// Drafts have tests of their own.
    private static let states = RequestLife.State.allCases.filter { $0 != .draft }

    @Test("every cell of the matrix is what the gateway does")
    func matrix() async throws {
        try await withEnclave { enclave in
            let cast = try await Cast(enclave)
            var shared: [RequestLife.State: RequestID] = [:]
            var fresh: [RequestLife.State: [RequestID]] = [:]
            // Those that expire are made first: time passes for all.
            for state in [.expired] + Self.states.filter({ $0 != .expired }) {
                if state != .expired, shared.count == 1 { enclave.clock.advance(days: 40) }
                shared[state] = try await cast.request(state)
                // As many as there are cells that change something.
                let changing = RequestLife.Standing.allCases.flatMap { standing in
                    RequestLife.Action.allCases.filter { Self.changes(state, standing, $0) }
                }
                for _ in changing { fresh[state, default: []].append(try await cast.request(state)) }
            }
            for state in Self.states {
                let id = try #require(shared[state])
                #expect(try await enclave.gateway.request(id, by: enclave.auditor).state.name == state.rawValue)
                for standing in RequestLife.Standing.allCases {
                    for action in RequestLife.Action.allCases where !action.isOfDraft {
                        for person in cast.people(standing) {
                            let target = Self.changes(state, standing, action) ? fresh[state]?.popLast() : id
                            try await check(
                                cast, state, standing, action, try #require(target), by: person)
                        }
                    }
                }
            }
        }
    }

    /// Whether the cell lets somebody change something.
    private static func changes(
        _ state: RequestLife.State, _ standing: RequestLife.Standing, _ action: RequestLife.Action
    ) -> Bool {
        guard !action.isOfDraft, ![.see, .resume].contains(action),
            case .allowed = RequestLife.answer(state, standing, action)
        else { return false }
        return true
    }

    private func check(
        _ cast: Cast, _ state: RequestLife.State, _ standing: RequestLife.Standing, _ action: RequestLife.Action,
        _ id: RequestID, by person: PersonID
    ) async throws {
        let gateway = cast.enclave.gateway
        let cell = "\(state) \(standing) \(action) by \(person)"
        // It changes with every record of the request.
        func revision() async throws -> Revision {
            try await gateway.request(id, by: cast.enclave.auditor).revision
        }
        let before = try await revision()
        // A run that an expired or revoked grant cannot carry is refused by its own decision; `RefusalTests` show it.
        if action == .use, [.expired, .revoked].contains(state), [.requester, .colleague].contains(standing) {
            return
        }
        let answer = RequestLife.answer(state, standing, action)
        let seen = try await gateway.requestActions(id, by: person)
        switch answer {
        case .allowed(let next):
            do { try await cast.perform(action, on: id, by: person) } catch {
                Issue.record("\(cell): \(error)")
                return
            }
            let now = try await gateway.request(id, by: cast.enclave.auditor).state.name
            #expect(next.map(\.rawValue).contains(now), "\(cell): \(now)")
            #expect(seen.contains(action), "\(cell) is not offered")
        case .refused(let refusal):
            let error = await refusalOf { try await cast.perform(action, on: id, by: person) }
            #expect(try await revision() == before, "\(cell) changed something")
            #expect(!seen.contains(action), "\(cell) is offered")
            switch refusal {
            // Whoever has no business here is told so before anything is looked up.
            case .hidden:
                #expect(
                    error?.code == .notFound || error?.code == .refused,
                    "\(cell): \(error?.publicDescription ?? "nothing")")
            case .standing:
                let isSecond = action == .review && standing == .spoken
                #expect(
                    error?.code == (isSecond ? .usage : .refused), "\(cell): \(error?.publicDescription ?? "nothing")")
            case .state:
                // A request that came to no grant has none to use.
                #expect(
                    error?.code == .usage || action == .use && error?.code == .notFound,
                    "\(cell): \(error?.publicDescription ?? "nothing")")
            }
        }
    }

    private func refusalOf(_ body: () async throws -> Void) async -> GatewayError? {
        do {
            try await body()
            return nil
        } catch { return error as? GatewayError }
    }

    @Test("the exported matrix is the one in the documentation")
    func exported() throws {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("docs/request-matrix.md")
        let text = try String(contentsOf: file, encoding: .utf8)
        #expect(text.hasSuffix(RequestLife.markdown), "`sekisho request matrix --markdown` prints the tables")
        let cells =
            RequestLife.State.allCases.count * RequestLife.Standing.allCases.count
            * RequestLife.Action.allCases.count
        #expect(RequestLife.json.arrayValue?.count == cells)
    }

    // MARK: - Change, renewal, end

    @Test("an amendment is decided anew; the old grant stands until the new one is granted, and ends then")
    func amendment() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let old = try RequestID("request-1")
            func run() async throws {
                _ = try await enclave.gateway.requestRun(
                    specification: Clinic.specification(), grant: grant, id: nil, deviceMemory: nil,
                    by: enclave.researcher)
            }
            let same = await refusal {
                _ = try await enclave.gateway.amendRequest(old, form: Clinic.form, by: enclave.researcher)
            }
            #expect(same?.publicDescription == "the amendment changes nothing")
            let elsewhere = try Self.form(["dataset": "test:other"])
            #expect(
                await refusal {
                    _ = try await enclave.gateway.amendRequest(old, form: elsewhere, by: enclave.researcher)
                }?.code
                    == .usage)

            let changed = try Self.form(["project": "second"])
            let first = try await enclave.gateway.amendRequest(old, form: changed, once: "k", by: enclave.researcher)
            #expect(
                try await enclave.gateway.amendRequest(old, form: changed, once: "k", by: enclave.researcher) == first)
            _ = try await enclave.gateway.advance(first)
            let twice = await refusal {
                _ = try await enclave.gateway.renewRequest(old, termMonths: 12, by: enclave.researcher)
            }
            #expect(twice?.code == .usage)
            try await run()
            try await enclave.gateway.review(first, .reject, comment: "not so", by: enclave.reviewer)
            _ = try await enclave.gateway.advance(first)
            #expect(try await enclave.gateway.request(old, by: enclave.researcher).state.name == "granted")
            try await run()

            let second = try await enclave.gateway.amendRequest(old, form: changed, by: enclave.researcher)
            _ = try await enclave.gateway.advance(second)
            #expect(try await enclave.gateway.request(old, by: enclave.researcher).followedBy == second)
            #expect(try await enclave.gateway.request(second, by: enclave.researcher).follows == old)
            for person in [enclave.reviewer, enclave.custodian] {
                try await enclave.gateway.review(second, .approve, comment: "", by: person)
            }
            _ = try await enclave.gateway.advance(second)
            #expect(try await enclave.gateway.request(old, by: enclave.researcher).state.name == "superseded")
            #expect(try await enclave.gateway.request(second, by: enclave.researcher).state.name == "granted")
            #expect(await refusal { try await run() }?.code == .usage)
            try await enclave.reopen()
            #expect(try await enclave.gateway.request(old, by: enclave.researcher).state.name == "superseded")
            #expect(try await enclave.gateway.grant(grant, by: enclave.researcher).isExpired)
        }
    }

    @Test("a grant is renewed before it ends, with another term and papers that are still good, and not afterwards")
    func renewal() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let old = try RequestID("request-1")
            _ = try await enclave.grant()
            let digest = try #require(Digest(hex: String(repeating: "b", count: 64)))
            let next = try await gateway.renewRequest(
                old, termMonths: 12, documents: [.init(kind: "ethics", digest: digest)], by: enclave.researcher)
            let form = try await gateway.requestForm(next, by: enclave.researcher)
            #expect(form["termMonths"] == 12 && form["project"] == "test-project")
            #expect(form["documents"]?.arrayValue?.count == 1)
            _ = try await gateway.advance(next)
            // It may be decided when the first has ended; asked for, it must have been before.
            enclave.clock.advance(days: 200)
            for person in [enclave.reviewer, enclave.custodian] {
                try await gateway.review(next, .approve, comment: "", by: person)
            }
            guard case .decided(.granted(let grant)) = try await gateway.advance(next) else {
                throw Unexpected(words: "not renewed")
            }
            let renewed = try await gateway.grant(grant, by: enclave.researcher)
            #expect(!renewed.isExpired)
            enclave.clock.advance(days: 400)
            let late = await refusal {
                _ = try await gateway.renewRequest(next, termMonths: 12, by: enclave.researcher)
            }
            #expect(late?.code == .usage && late?.publicDescription.contains("expired") == true)
        }
    }

    @Test("a request that was withdrawn or closed grants nothing any more")
    func ends() async throws {
        try await withEnclave { enclave in
            let gateway = enclave.gateway
            let waiting = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(waiting)
            try await gateway.withdrawRequest(waiting, reason: "not needed", by: enclave.researcher)
            #expect(try await gateway.advance(waiting) == .withdrawn)
            #expect(try await gateway.reviews(PageRequest(), mine: true, by: enclave.reviewer).items.isEmpty)
            let grant = try await enclave.grant()
            let id = try RequestID("request-2")
            for (report, confirmed) in [("short", true), ("It is all done.", false)] {
                #expect(
                    await refusal {
                        try await gateway.closeOut(id, report: report, confirmed: confirmed, by: enclave.researcher)
                    }?.code == .usage)
            }
            let run = try await enclave.request(grant)
            let busy = await refusal {
                try await gateway.closeOut(id, report: "It is all done.", confirmed: true, by: enclave.researcher)
            }
            #expect(busy?.publicDescription.contains("run-1") == true)
            try await gateway.cancelRun(run, by: enclave.researcher)
            _ = try await gateway.advanceAsFarAsPossible(run)
            try await gateway.closeOut(id, report: "It is all done.", confirmed: true, by: enclave.researcher)
            #expect(try await gateway.grant(grant, by: enclave.researcher).isExpired)
            #expect(await refusal { _ = try await enclave.request(grant, id: "run-2") }?.code == .usage)
            #expect(try await gateway.closingReport(of: id, by: enclave.custodian) == "It is all done.")
            try await gateway.confirmClosure(id, comment: "seen", by: enclave.custodian)
            #expect(
                try await enclave.sequence(.request(id)).suffix(2) == ["request.closing done", "request.closed done"])
        }
    }

    // MARK: - Reviews

    @Test("two people review independently: neither sees the other's word while they may still speak")
    func independent() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let id = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(id)
            try await gateway.review(id, .approve, comment: "a word of mine", by: enclave.reviewer)
            func votes(_ person: PersonID) async throws -> Int {
                let shown = try await gateway.request(id, by: person).votes.count
                let told = try await gateway.timeline(.request(id), by: person).count {
                    $0.eventName == "request.reviewed"
                }
                #expect(shown == told, "\(person)")
                return shown
            }
            #expect(try await votes(enclave.custodian) == 0)
            #expect(try await votes(enclave.researcher) == 0)
            #expect(try await votes(enclave.reviewer) == 1)
            #expect(try await votes(enclave.auditor) == 1)
            #expect(try await gateway.reviews(PageRequest(), mine: true, by: enclave.custodian).items[0].votes.isEmpty)
            try await gateway.review(id, .approve, comment: "", by: enclave.custodian)
            _ = try await gateway.advance(id)
            for person in [enclave.custodian, enclave.researcher, enclave.reviewer] {
                #expect(try await votes(person) == 2)
            }
        }
    }

    @Test("an approval with conditions shortens the grant; conditions that make no sense here are refused")
    func conditional() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let id = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(id)
            let months = try Condition(.monthsMax, "2")
            #expect(
                await refusal {
                    try await gateway.review(id, .reject, comment: "", conditions: [months], by: enclave.reviewer)
                }?.code == .usage)
            let abroad = try Condition(.regions, "US")
            #expect(
                await refusal {
                    try await gateway.review(id, .approve, comment: "", conditions: [abroad], by: enclave.reviewer)
                }?.code == .usage)
            let many = [Condition](repeating: months, count: Condition.perVoteMax + 1)
            #expect(
                await refusal {
                    try await gateway.review(id, .approve, comment: "", conditions: many, by: enclave.reviewer)
                }?.code == .usage)
            let notice = try Condition(.notice, "Name the clinic.")
            try await gateway.review(id, .approve, comment: "", conditions: [months], by: enclave.reviewer)
            try await gateway.review(
                id, .approve, comment: "", conditions: [try Condition(.monthsMax, "4"), notice], by: enclave.custodian)
            guard case .decided(.granted(let grantID)) = try await gateway.advance(id) else {
                throw Unexpected(words: "not granted")
            }
            let entry = try await gateway.grant(grantID, by: enclave.researcher)
            #expect(entry.grant.expires < entry.grant.granted.adding(seconds: 63 * 86_400))
            #expect(entry.grant.expires > entry.grant.granted.adding(seconds: 57 * 86_400))
            #expect(entry.obligations.contains { $0 == ("months-max", "2") })
            #expect(entry.obligations.contains { $0 == ("notice", "Name the clinic.") })
            // The text that goes with the grant is kept, and the trail has its hash.
            let granted = try #require(try await enclave.records(.request(id)).last { $0.eventName == "grant.issued" })
            #expect(granted.payload["texts"]?.arrayValue?.first?["text"] == "Name the clinic.")
            #expect(granted.detail["texts"]?.stringValue?.count == 64)
        }
    }

    // MARK: - What a form may say

    @Test("a request that names people or papers wrongly is refused with the place, and files nothing")
    func wrong() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let digest = JSON.string(String(repeating: "a", count: 64))
            try await gateway.addPerson(PersonID("rei"), roles: [.researcher], by: enclave.operatorPerson)
            let forms: [([String: JSON], String)] = [
                (["people": ["rеi"]], "people[0]: an id of kind Person has a character that is not allowed at byte 2"),
                (["people": ["rei", "Rei"]], "people[1]: differs from rei only in letter case; write rei"),
                (["people": ["rei", "rei"]], "people[1]: is named twice"),
                (["people": ["rin"]], "people[0]: is the requester"),
                (["people": ["dai"]], "people[0]: is no researcher here"),
                (["people": ["nobody"]], "people[0]: is not known here"),
                (["people": "rei"], "people: must be a list"),
                (["dataset": "tеst:clinic"], "dataset: an id of kind Dataset has a character"),
                (
                    ["documents": [["kind": "ethics", "digest": digest, "expires": "2020-01-01"]]],
                    "documents[0].expires: is in the past"
                ),
                (
                    ["documents": [["kind": "ethics", "digest": digest, "expires": "9020-01-01"]]],
                    "documents[0].expires: is more than 100 years away"
                ),
                (
                    ["documents": [["kind": "ethics", "digest": digest, "expires": "2027-02-30"]]],
                    "documents[0].expires: must be a time"
                ),
                (["documents": [["kind": "ethics", "digest": "abc"]]], "documents[0].digest: must be 64"),
                (["documents": [["kind": "ethics", "digest": digest, "name": "a\nb"]]], "documents[0].name: must be"),
                (["answers": [:]], "answers: the data set asks for no form"),
            ]
            for (changes, words) in forms {
                let form = try Self.form(changes)
                let error = await refusal { _ = try await gateway.fileRequest(form, by: enclave.researcher) }
                #expect(error?.code == .usage, "\(words)")
                #expect(error?.publicDescription.contains(words) == true, "\(error?.publicDescription ?? "")")
            }
            #expect(try await gateway.requests(PageRequest(), by: enclave.auditor).items.isEmpty)
            // A clock that went back writes nothing.
            _ = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            enclave.clock.advance(days: -2)
            let skewed = await refusal { _ = try await gateway.fileRequest(Clinic.form, by: enclave.researcher) }
            #expect(skewed?.code == .unavailable && skewed?.publicDescription.hasPrefix("clock-behind") == true)
            enclave.clock.advance(days: 2)
        }
    }

    @Test("answers are held to the data set's form, in the version that they answer")
    func answers() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let text = """
                version: 1
                title: { en: About the study }
                fields:
                  - { id: summary, kind: text, label: { en: Summary }, required: true, length_max: 20 }
                  - { id: agree, kind: boolean, label: { en: I keep no copy }, required: true, must_be_true: true }

                """
            try enclave.write(policy: text, name: "clinic.form.yaml")
            try await enclave.activatePolicies()
            let gateway = enclave.gateway
            let version = try #require(try await gateway.dataForm(of: Clinic.dataset, by: enclave.researcher))
            let digest = JSON.string(version.digest.hex)
            let good: JSON = ["summary": "Why we ask", "agree": true]
            for (changes, code) in [
                ([:], .usage), (["answers": good], .usage), (["form": digest], .usage),
                (["answers": ["summary": "Why"], "form": digest], .usage),
                (["answers": good, "form": .string(String(repeating: "0", count: 64))], .changed),
            ] as [([String: JSON], GatewayError.Code)] {
                let form = try Self.form(changes)
                let error = await refusal { _ = try await gateway.fileRequest(form, by: enclave.researcher) }
                #expect(error?.code == code, "\(changes)")
            }
            let form = try Self.form(["answers": good, "form": digest])
            let id = try await gateway.fileRequest(form, by: enclave.researcher)
            _ = try await gateway.advance(id)
            let filed = try await enclave.records(.request(id))[0]
            #expect(filed.detail["form"] == digest)
            #expect(filed.payload["texts"]?.arrayValue?.last?["text"] == "I keep no copy")
        }
    }
}
