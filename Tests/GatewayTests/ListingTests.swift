import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Lists hold what their reader may open, and nothing else.
@Suite struct ListingTests {
    @Test("a run is listed for whoever may open it, and for nobody else like a run that is not there")
    func sight() async throws {
        try await withEnclave { enclave in
            try await enclave.startNode()
            let gateway = enclave.gateway
            let other = try PersonID("rei")
            let checker = try PersonID("oto")
            try await gateway.addPerson(other, roles: [.researcher], by: enclave.operatorPerson)
            try await gateway.addPerson(checker, roles: [.outputChecker], by: enclave.operatorPerson)
            let grant = try await enclave.grant()
            let run = try await enclave.request(grant)
            _ = try await gateway.advanceAsFarAsPossible(run)

            func listed(_ person: PersonID) async throws -> [RunID] {
                try await gateway.runs(PageRequest(), by: person).items.map(\.id)
            }
            for person in [
                enclave.researcher, enclave.reviewer, enclave.custodian, enclave.auditor, enclave.operatorPerson,
            ] {
                #expect(try await listed(person) == [run], "\(person)")
                #expect(try await gateway.run(run, by: person).stage == .review)
            }
            for person in [other, checker, enclave.administrator] {
                #expect(try await listed(person).isEmpty, "\(person)")
                #expect(await refusal { _ = try await gateway.run(run, by: person) }?.code == .notFound)
                #expect(await refusal { _ = try await gateway.timeline(.run(run), by: person) }?.code == .notFound)
                #expect(await refusal { _ = try await gateway.report(run, by: person) }?.code == .notFound)
                #expect(await refusal { _ = try await gateway.candidate(of: run, by: person) }?.code == .notFound)
                #expect(await refusal { _ = try await gateway.follow(run, by: person) }?.code == .notFound)
                #expect(await refusal { _ = try await gateway.plan(of: run, by: person) }?.code == .notFound)
            }
            // Operators see where it is, not what is in it.
            #expect(
                await refusal { _ = try await gateway.timeline(.run(run), by: enclave.operatorPerson) }?.code
                    == .notFound)
            #expect(
                await refusal { _ = try await gateway.runs(PageRequest(), by: PersonID("nobody")) }?.code == .refused)
            #expect(try await gateway.grants(PageRequest(), by: other).items.isEmpty)
            #expect(await refusal { _ = try await gateway.grant(grant, by: other) }?.code == .notFound)
        }
    }

    @Test("what waits for a reviewer is listed until they have spoken, and never for its owner")
    func reviews() async throws {
        try await withEnclave { enclave in
            let gateway = enclave.gateway
            let request = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(request)
            func waiting(_ person: PersonID, mine: Bool = true) async throws -> [ReviewEntry] {
                try await gateway.reviews(PageRequest(order: .oldest), mine: mine, by: person).items
            }
            #expect(try await waiting(enclave.reviewer).map(\.subject) == [.request(request)])
            #expect(try await waiting(enclave.researcher).isEmpty)
            #expect(try await waiting(enclave.auditor).isEmpty)
            #expect(try await waiting(enclave.auditor, mine: false).map(\.mayReview) == [false])
            let seen = try await waiting(enclave.reviewer)[0]
            #expect(seen.missing.count == 2)
            try await gateway.review(
                request, .approve, comment: "", ifStill: seen.revision.text, by: enclave.reviewer)
            _ = try await gateway.advance(request)
            #expect(try await waiting(enclave.reviewer).isEmpty)
            #expect(try await waiting(enclave.reviewer, mine: false).map(\.missing.count) == [1])
            // Two reviewers at once: the later one has seen an older state.
            let before = try await enclave.records(.request(request)).count
            let late = await refusal {
                try await gateway.review(
                    request, .approve, comment: "", ifStill: seen.revision.text, by: enclave.custodian)
            }
            #expect(late?.code == .changed)
            #expect(try await enclave.records(.request(request)).count == before)
        }
    }

    @Test("what is filed under a key is filed once, also over a restart, and only with the same content")
    func once() async throws {
        try await withEnclave { enclave in
            let first = try await enclave.gateway.fileRequest(Clinic.form, once: "k", by: enclave.researcher)
            #expect(try await enclave.gateway.fileRequest(Clinic.form, once: "k", by: enclave.researcher) == first)
            try await enclave.reopen()
            #expect(try await enclave.gateway.fileRequest(Clinic.form, once: "k", by: enclave.researcher) == first)
            let other = Clinic.form.replacing("test-project", with: "other")
            let reused = await refusal {
                _ = try await enclave.gateway.fileRequest(other, once: "k", by: enclave.researcher)
            }
            #expect(reused?.code == .keyReused)
            #expect(try await enclave.gateway.requests(PageRequest(), by: enclave.researcher).items.count == 1)
        }
    }

    @Test(
        "a cursor that no page gave is refused",
        arguments: ["", "~", "requests", "requests~newest", "requests~newest~", "none~newest~1", "requests~up~1"])
    func cursors(text: String) async throws {
        #expect(throws: GatewayError.self) { _ = try Cursor(text) }
    }

    @Test("policy files that would be written outside their folder are refused")
    func policyNames() async throws {
        for name in ["../a.yaml", "/a.yaml", "a/b.yaml", ".yaml", "a.yml", "a\n.yaml"] {
            #expect(throws: GatewayError.self, "\(name)") { _ = try PolicyFolder([(name, "version: 1\n")]) }
        }
        #expect(throws: GatewayError.self) { _ = try PolicyFolder([("a.yaml", ""), ("a.yaml", "")]) }
    }
}
