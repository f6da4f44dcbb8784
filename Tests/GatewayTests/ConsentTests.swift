import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Consent is carried into the training set itself: who is in a run's image is what each person agreed to.
@Suite struct ConsentTests {
    private static let policy = Clinic.policy.replacing("cohort_min: 60", with: "cohort_min: 30")

    /// Of 61 persons one has withdrawn; every third of the others agreed to health research only, some to nothing that
    /// is known here.
    private func writeCodes(_ enclave: Enclave) async throws {
        var consent = "subject\tstate\tcodes\n"
        for person in 0..<Clinic.persons {
            let state = "P:\(person)" == Clinic.withdrawn ? "withdrawn" : "given"
            let codes = person % 3 == 0 ? "DUO:0000006" : person == 1 ? "DUO:0000042 DUO:0000022" : ""
            consent += "P:\(person)\t\(state)\t\(codes)\n"
        }
        try Data(consent.utf8).write(to: enclave.data.appendingPathComponent("consent.tsv"))
        try await enclave.importData()
    }

    private func opened(_ run: RunID, _ enclave: Enclave) async throws -> CaseRecord {
        try #require(try await enclave.records(.run(run)).first { $0.event == .runOpened && $0.outcome == .done })
    }

    @Test("a run's cohort is who agreed to its purpose; its size and hash are in the trail")
    func codes() async throws {
        try await withEnclave(policy: Self.policy) { enclave in
            try await writeCodes(enclave)
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .attach)
            let record = try await opened(run, enclave)
            // 21 persons gave health research only, one gave a code that says more than a code alone can.
            #expect(record.detail["persons"] == 38 && record.detail["withheld"] == 23)
            #expect(record.detail["cohort"]?.stringValue?.utf8.count == 64)
            let decided = try #require(try await enclave.records(.run(run)).first { $0.event == .runDecided })
            #expect(decided.payload["input"]?["cohort"] == 38)

            let health = Clinic.form.replacing("DUO:0000042", with: "DUO:0000006")
            let request = try await enclave.gateway.fileRequest(health, by: enclave.researcher)
            _ = try await enclave.gateway.advance(request)
            for person in [enclave.reviewer, enclave.custodian] {
                try await enclave.gateway.review(request, .approve, comment: "", by: person)
            }
            guard case .decided(.granted(let grant)) = try await enclave.gateway.advance(request) else {
                throw Unexpected(words: "not granted")
            }
            let policy = Self.policy.replacing("  targets: { label: [DUO:0000042] }\n", with: "")
            try enclave.write(policy: policy)
            try await enclave.activatePolicies()
            try await enclave.startNode("campus-2")
            let other = try await enclave.request(grant, id: "run-2")
            try await enclave.advance(other, to: .attach)
            let both = try await opened(other, enclave)
            #expect(both.detail["persons"] == 59 && both.detail["cohort"] != record.detail["cohort"])
        }
    }

    @Test("a withdrawal reaches a run that was decided, and one whose image is built and that no device has yet")
    func withdrawal() async throws {
        try await withEnclave(policy: Self.policy) { enclave in
            func withdraw(_ person: String) async throws {
                try await enclave.gateway.setConsent(
                    subject: person, dataset: Clinic.dataset, state: "withdrawn", by: enclave.steward)
            }
            let grant = try await enclave.grant()
            let decided = try await enclave.request(grant)
            try await enclave.advance(decided, to: .open)
            try await withdraw("P:1")
            try await enclave.advance(decided, to: .attach)
            #expect(try await opened(decided, enclave).detail["persons"] == 59)
            try await withdraw("P:2")
            #expect(try await enclave.finish(decided) == .closed(.refused))
            #expect(
                try await enclave.sequence(.run(decided)).suffix(2) == [
                    "device.leased refused [consent.changed]", "run.closed done",
                ])
            let next = try await enclave.request(grant, id: "run-2")
            #expect(try await enclave.finish(next) == .closed(.released))
            #expect(try await opened(next, enclave).detail["persons"] == 58)
            let uses = try await enclave.gateway.subjectHistory("P:2", dataset: Clinic.dataset, by: enclave.auditor)
            #expect(uses.map(\.used) == [true, false], "the records say whose data an image held")
        }
    }
}
