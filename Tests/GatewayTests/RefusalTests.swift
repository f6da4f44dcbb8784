import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// A refusal at every stage that can refuse, with exactly what it writes.
@Suite struct RefusalTests {
    static let requested = ["run.requested intent"]
    static let opened = requested + ["run.decided done", "run.opened intent", "run.opened done"]
    static let leased = opened + ["device.leased intent", "key.released done", "device.leased done"]
    static let scrubbed =
        leased + [
            "run.planned done", "program.loaded intent", "training.epoch done", "training.epoch done",
            "training.epoch done", "run.trained done", "device.scrubbed intent", "device.scrubbed done",
        ]

    private func expect(
        _ enclave: Enclave, _ run: RunID, _ expected: [String], end: RunEnd = .refused,
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        #expect(try await enclave.finish(run) == .closed(end), sourceLocation: sourceLocation)
        #expect(try await enclave.sequence(.run(run)) == expected + ["run.closed done"], sourceLocation: sourceLocation)
        let nodes = try await enclave.nodeStates()
        #expect(nodes.allSatisfy { $0 == "free" }, sourceLocation: sourceLocation)
    }

    @Test("decide: an expired grant starts nothing")
    func expired() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            enclave.clock.advance(days: 200)
            let run = try await enclave.request(grant)
            try await expect(enclave, run, Self.requested + ["run.decided refused [grant.expired]"])
        }
    }

    @Test("decide: a column that policy does not list may not be predicted")
    func target() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(
                try await enclave.grant(), specification: Clinic.specification(label: "label2"))
            try await expect(enclave, run, Self.requested + ["run.decided refused [target.not-allowed]"])
        }
    }

    @Test("decide: data whose policy is gone may not be used")
    func noPolicy() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            try enclave.write(policy: Clinic.policy.replacing("test:clinic", with: "test:other"))
            try await enclave.activatePolicies()
            try await expect(enclave, run, Self.requested + ["run.decided refused [dataset.unknown]"])
        }
    }

    @Test("decide: without a device nothing starts")
    func noDevice() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let run = try await enclave.request(grant)
            try enclave.write(policy: Clinic.policy.replacing("campus", with: "elsewhere"))
            try await enclave.activatePolicies()
            try await expect(enclave, run, Self.requested + ["run.decided failed [no-device]"], end: .failed)
        }
    }

    @Test("decide: a cohort below the policy's minimum is too small")
    func smallCohort() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            try await enclave.gateway.setConsent(
                subject: "P:1", dataset: Clinic.dataset, state: "withdrawn", by: enclave.steward)
            let run = try await enclave.request(grant)
            try await expect(enclave, run, Self.requested + ["run.decided refused [cohort.too-small]"])
        }
    }

    @Test("open: a run whose policy was taken back since the decision is stopped before its data are opened")
    func policyTakenBack() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .open)
            try enclave.write(policy: Clinic.policy.replacing("test:clinic", with: "test:other"))
            try await enclave.activatePolicies()
            try await expect(
                enclave, run,
                Self.requested + ["run.decided done", "run.stopped refused [dataset.unknown]"])
        }
    }

    @Test("plan: a layer as wide as there are nodes is refused")
    func widthOfNodes() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(
                try await enclave.grant(), specification: Clinic.specification(hidden: 60))
            try await expect(
                enclave, run,
                Self.leased + [
                    "run.planned refused [width-equals-nodes]", "device.scrubbed intent", "device.scrubbed done",
                ])
        }
    }

    @Test("open: a cohort that became too small since the decision is refused")
    func withdrawnSince() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .open)
            try await enclave.gateway.setConsent(
                subject: "P:1", dataset: Clinic.dataset, state: "withdrawn", by: enclave.steward)
            try await expect(
                enclave, run,
                Self.requested + ["run.decided done", "run.opened intent", "run.opened refused [cohort.too-small]"])
        }
    }

    @Test("attach: a node that signs other measurements is quarantined, and that is recorded")
    func measurements() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let node = try await enclave.startNode()
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .attach)
            try await enclave.reopen()
            try await enclave.add(node, measurements: enclave.otherMeasurements())
            #expect(try await enclave.finish(run) == .closed(.refused))
            #expect(
                try await enclave.sequence(.run(run)) == Self.opened + [
                    "device.leased refused [device.evidence]", "run.closed done",
                ])
            let quarantined = try await enclave.own(.nodeQuarantined)
            #expect(quarantined.map(\.reasons) == [["evidence"]])
            #expect(try await enclave.nodeStates() == ["quarantined (evidence)"])
        }
    }

    @Test("attach: a home restored from a backup is refused by the device itself")
    func staleFence() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let run = try await enclave.request(grant)
            try await enclave.advance(run, to: .attach)
            enclave.drop()
            let backup = enclave.folder.appendingPathComponent("backup")
            try FileManager.default.copyItem(at: enclave.home, to: backup)
            let settings = backup.appendingPathComponent("gateway.json")
            try String(contentsOf: settings, encoding: .utf8)
                .replacing("\(enclave.home.path)/anchor", with: "\(backup.path)/anchor")
                .write(to: settings, atomically: true, encoding: .utf8)
            // The home itself goes on, and hands out higher fences.
            try await enclave.open()
            #expect(try await enclave.finish(run) == .closed(.released))
            _ = try await enclave.finish(enclave.request(grant, id: "run-2"))

            let restored = try await Gateway(home: backup, key: .keyFile(enclave.key), clock: enclave.clock)
            #expect(try await restored.advanceAsFarAsPossible(run) == .closed(.refused))
            let records = try await restored.timeline(.run(run), by: enclave.auditor)
            #expect(
                records.suffix(2).map { "\($0.eventName) \($0.outcomeName)" } == [
                    "device.leased refused", "run.closed done",
                ])
            #expect(records.dropLast().last?.reasons == ["device.stale-fence"])
        }
    }

    @Test("plan: a run that cannot fit is refused with the bytes it needs, and the device is scrubbed")
    func memory() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant(), deviceMemory: 1024)
            try await expect(
                enclave, run,
                Self.leased + [
                    "run.planned refused [does-not-fit]", "device.scrubbed intent", "device.scrubbed done",
                ])
            let planned = try #require(try await enclave.records(.run(run)).first { $0.key == "planned" })
            let words = try #require(planned.payload["explanation"]?.stringValue)
            #expect(words.contains { $0.isNumber }, "\(words)")
        }
    }

    @Test("review: a rejection keeps the model in, whatever the other reviewer says, who does not see it")
    func rejected() async throws {
        try await withEnclave { enclave in
            let gateway = enclave.gateway
            let run = try await enclave.request(try await enclave.grant())
            _ = try await gateway.advanceAsFarAsPossible(run)
            try await gateway.reviewRelease(of: run, .reject, candidate: nil, by: enclave.reviewer)
            // One word decides nothing; only whoever gave it sees it.
            guard case .waiting = try await gateway.advance(run) else { throw Unexpected(words: "one word decided") }
            for (person, sees) in [(enclave.reviewer, 1), (enclave.custodian, 0), (enclave.researcher, 0)] {
                let release = try await gateway.release(of: run, by: person)
                #expect(release.state == .waiting && release.votes.count == sees, "\(person)")
                let review = try #require(try await gateway.review(of: run, by: person))
                #expect(review.votes.count == sees && review.missing.count == 1, "\(person)")
                #expect(review.mayReview == (person == enclave.custodian))
                let report = try await gateway.gateReport(of: run, by: person).json["reviews"]
                #expect(report?["words"]?.arrayValue?.count == sees && report?["hidden"] == true, "\(person)")
                #expect(report?["conflict"] == false)
                let told = try await gateway.timeline(.run(run), by: person).filter { $0.event == .releaseReviewed }
                #expect(told.count == sees, "\(person)")
            }
            try await gateway.reviewRelease(of: run, .approve, candidate: nil, by: enclave.custodian)
            try await expect(
                enclave, run,
                Self.scrubbed + [
                    "release.checked done", "release.reviewed refused", "release.reviewed done",
                    "release.decided refused [review.rejected]",
                ])
            let release = try await gateway.release(of: run, by: enclave.researcher)
            #expect(release.state == .refused && release.votes.map(\.approves) == [false, true])
            let report = try await gateway.gateReport(of: run, by: enclave.custodian)
            #expect(report.json["reviews"]?["conflict"] == true && report.json["state"] == "refused")
            #expect(try report.html(.japanese).contains("却下が優先されるため"))
            let error = await refusal { _ = try await gateway.takeRelease(of: run, by: enclave.researcher) }
            #expect(error?.code == .refused)
        }
    }

    @Test("review: a model with a value for each person keeps in, whatever reviewers say")
    func failedCheck() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(
                try await enclave.grant(), specification: Clinic.specification(hidden: 64))
            try await expect(
                enclave, run,
                Self.scrubbed + ["release.checked done", "release.decided refused [check.failed]"])
        }
    }
}
