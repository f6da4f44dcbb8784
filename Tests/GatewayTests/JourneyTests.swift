import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// A run as it goes when nothing is wrong, record by record.
let wholeRun = [
    "run.requested intent",
    "run.decided done",
    "run.opened intent", "run.opened done",
    "device.leased intent", "key.released done", "device.leased done",
    "run.planned done",
    "program.loaded intent",
    "training.epoch done", "training.epoch done", "training.epoch done",
    "run.trained done",
    "device.scrubbed intent", "device.scrubbed done",
    "release.checked done",
    "release.reviewed done", "release.reviewed done",
    "release.decided done",
    "release.ready done",
    "run.closed done",
]

@Suite struct JourneyTests {
    @Test("a request and its run write exactly these records, and nothing else of theirs")
    func journey() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            #expect(
                try await enclave.sequence(.request(RequestID("request-1"))) == [
                    "request.filed done",
                    "access.decided done",
                    "request.reviewed done", "request.reviewed done",
                    "access.decided done",
                    "grant.issued done",
                ])
            let run = try await enclave.request(grant)
            #expect(try await enclave.finish(run) == .closed(.released))
            #expect(try await enclave.sequence(.run(run)) == wholeRun)
            #expect(try await enclave.gateway.advance(run) == .closed(.released))
            #expect(try await enclave.sequence(.run(run)).count == wholeRun.count)
        }
    }

    @Test("a run learns what the data show")
    func learns() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(
                try await enclave.grant(), specification: Clinic.specification(epochs: 60))
            #expect(try await enclave.finish(run) == .closed(.released))
            let trained = try #require(try await enclave.records(.run(run)).first { $0.key == "trained" })
            let accuracy = try #require(trained.detail["test_ppm"]?.integerValue)
            #expect(accuracy >= 900_000)
        }
    }

    @Test("each epoch's record says what crossed the windows; together that is what the run's says, but for the model")
    func crossed() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(
                try await enclave.grant(), specification: Clinic.specification(epochs: 6))
            #expect(try await enclave.finish(run) == .closed(.released))
            let records = try await enclave.records(.run(run))
            let windows = records.filter { $0.event == .trainingEpoch }.compactMap { $0.detail["windows"] }
            try #require(windows.count == 6)
            let whole = try #require(records.first { $0.key == "trained" }).detail
            func sum(_ name: String) -> Int64 {
                windows.reduce(0) { $0 + ($1.objectValue?[name]?.integerValue ?? 0) }
            }
            #expect(sum("bytes_to_device") == whole["bytes_to_device"]?.integerValue)
            // The model itself comes after the last epoch.
            let written = try #require(whole["bytes_from_device"]?.integerValue)
            #expect(sum("bytes_from_device") > 0 && sum("bytes_from_device") < written)
            #expect(sum("reads") > 0 && sum("writes") > 0)
        }
    }

    @Test("a person who has withdrawn is in no run image, and the subject history says so")
    func withdrawn() async throws {
        try await withEnclave(policy: Clinic.policy.replacing("cohort_min: 60", with: "cohort_min: 10")) { enclave in
            let grant = try await enclave.grant()
            let gateway = enclave.gateway
            let before = try await enclave.request(grant, id: "before")
            #expect(try await enclave.finish(before) == .closed(.released))
            try await gateway.setConsent(
                subject: "P:3", dataset: Clinic.dataset, state: "withdrawn", by: enclave.steward)
            let after = try await enclave.request(grant, id: "after")
            try await enclave.advance(after, to: .attach)
            func history(_ subject: String) async throws -> [String: Bool] {
                let uses = try await gateway.subjectHistory(subject, dataset: Clinic.dataset, by: enclave.auditor)
                return Dictionary(uniqueKeysWithValues: uses.map { ($0.run.text, $0.used) })
            }
            #expect(try await history("P:4") == ["before": true, "after": true])
            #expect(try await history("P:3") == ["before": true, "after": false])
            #expect(try await history(Clinic.withdrawn) == ["before": false, "after": false])
            // The image has no row for them either.
            let opened = try await enclave.records(.run(after)).first { $0.key == "opened" }
            #expect(opened?.detail["nodes"] == .integer(59) && opened?.detail["withheld"] == .integer(2))
            await #expect(throws: GatewayError.self) { _ = try await history("P:none") }
        }
    }

    @Test("nobody reviews what is theirs, and nobody speaks twice")
    func reviews() async throws {
        try await withEnclave { enclave in
            let gateway = enclave.gateway
            try await gateway.addPerson(enclave.researcher, roles: [.researcher, .dac], by: enclave.operatorPerson)
            let request = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(request)
            func reviewing(_ person: PersonID) async -> GatewayError? {
                await refusal { try await gateway.review(request, .approve, comment: "", by: person) }
            }
            #expect(await reviewing(enclave.researcher)?.code == .refused)
            #expect(await reviewing(enclave.operatorPerson)?.code == .notFound)
            #expect(await reviewing(try PersonID("nobody"))?.code == .refused)
            try await gateway.review(request, .approve, comment: "", by: enclave.reviewer)
            #expect(await reviewing(enclave.reviewer)?.code == .usage)
            _ = try await gateway.advance(request)
            try await gateway.review(request, .approve, comment: "", by: enclave.custodian)
            guard case .decided(.granted(let grant)) = try await gateway.advance(request) else {
                throw Unexpected(words: "not granted")
            }

            let run = try await enclave.request(grant)
            guard case .waiting = try await gateway.advanceAsFarAsPossible(run) else {
                throw Unexpected(words: "does not wait")
            }
            func releasing(_ person: PersonID, candidate: String? = nil) async -> GatewayError? {
                await refusal {
                    try await gateway.reviewRelease(of: run, .approve, candidate: candidate, by: person)
                }
            }
            #expect(await releasing(enclave.researcher)?.code == .refused)
            #expect(await releasing(enclave.operatorPerson)?.code == .notFound)
            #expect(await releasing(enclave.reviewer, candidate: String(repeating: "0", count: 64))?.code == .refused)
            try await gateway.reviewRelease(of: run, .approve, candidate: nil, by: enclave.reviewer)
            #expect(await releasing(enclave.reviewer)?.code == .usage)
            guard case .waiting = try await gateway.advance(run) else { throw Unexpected(words: "one review sufficed") }
        }
    }

    @Test("a release is taken after its decision, by its researcher, as the bytes that were reviewed")
    func taking() async throws {
        let policy = Clinic.policy.replacing(
            "roles: [dac, data-custodian] }", with: "roles: [dac, data-custodian] }\n  notices: [\"Cite the clinic.\"]")
        try await withEnclave(policy: policy) { enclave in
            let run = try await enclave.request(try await enclave.grant())
            func taking(_ person: PersonID) async -> GatewayError? {
                await refusal { _ = try await enclave.gateway.takeRelease(of: run, by: person) }
            }
            _ = try await enclave.gateway.advanceAsFarAsPossible(run)
            #expect(await taking(enclave.researcher)?.code == .refused)
            let reviewed = try await enclave.gateway.candidate(of: run, by: enclave.reviewer)
            try await enclave.review(run)
            #expect(await taking(enclave.researcher)?.code == .refused)
            #expect(try await enclave.gateway.advanceAsFarAsPossible(run) == .closed(.released))
            #expect(await taking(enclave.reviewer)?.code == .refused)
            // What a release obliges to is accepted before it is taken, and as it stands.
            #expect(await taking(enclave.researcher)?.code == .refused)
            let duties = try await enclave.gateway.releaseDuties(of: run, by: enclave.researcher)
            #expect(duties.json == [["code": "notice", "value": "Cite the clinic."]])
            let other = await refusal {
                let others = ReleaseDuties(items: [("notice", "Cite nobody.")]).hash.hex
                _ = try await enclave.gateway.takeRelease(of: run, accepting: others, by: enclave.researcher)
            }
            #expect(other?.code == .refused)
            #expect(try await enclave.own(.releaseTaken).isEmpty)
            let accepted = duties.hash.hex
            let first = try await enclave.gateway.takeRelease(
                of: run, accepting: accepted, by: enclave.researcher)
            try await enclave.reopen()
            let second = try await enclave.gateway.takeRelease(
                of: run, accepting: accepted, by: enclave.researcher)
            #expect(first == second)
            #expect(first.dropLast().map(\.name) == reviewed.artefacts.map(\.name))
            #expect(first.dropLast().map(\.bytes.count) == reviewed.artefacts.map(\.bytes))
            // Beside them, why they may leave and what whoever holds them must do.
            let record = try JSON(parsing: try #require(first.last).bytes)
            #expect(first.last?.name == "release.json" && record["candidate"]?.stringValue == reviewed.hash.hex)
            #expect(
                record["artefacts"]?.arrayValue?.compactMap { $0["name"]?.stringValue }
                    == reviewed.artefacts.map(\.name))
            #expect(record["checks"]?.arrayValue?.count == 3 && record["reviews"]?.arrayValue?.count == 2)
            #expect(record["obligations"] == [["code": "notice", "value": "Cite the clinic."]])
            let taken = try await enclave.own(.releaseTaken)
            #expect(taken.count == 2 && taken.allSatisfy { $0.detail["candidate"]?.stringValue == reviewed.hash.hex })
            #expect(taken.allSatisfy { $0.detail["accepted"]?.stringValue == accepted })
            // Both documents are what their published schemas say.
            #expect(try PublishedSchema("release").objection(to: record) == nil)
            let report = try await enclave.gateway.gateReport(of: run, by: enclave.reviewer)
            #expect(try PublishedSchema("gate-report").objection(to: report.json) == nil)
            for (member, value) in [
                ("candidate", "00"), ("checks", [["check": "artefact", "passed": "yes", "finding": ""]]),
                ("reviews", [["role": "dac"]]), ("more", 1), ("policy", .null), ("entry", -1),
            ] as [(String, JSON)] {
                var wrong = try #require(record.objectValue)
                wrong[member] = value
                #expect(try PublishedSchema("release").objection(to: .object(wrong)) != nil, "\(member)")
            }
        }
    }
}

extension String {
    func replacing(_ text: String, with other: String) -> String { replacingOccurrences(of: text, with: other) }
}
