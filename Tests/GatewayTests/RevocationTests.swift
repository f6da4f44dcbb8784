import AuditTrail
import Gateway
import TestSupport
import Testing
import Vocabulary

/// One act takes a person's access away: grants, requests that wait, and runs in the middle of an epoch.
@Suite struct RevocationTests {
    /// Epochs long enough that the act falls into one, and far more of them than a test waits for.
    private static let long = Clinic.specification(epochs: 1_000_000, hidden: 2048)

    @Test("a preview names what would stop; the act stops it, device and all, and nothing starts afterwards")
    func wholePerson() async throws {
        try await withEnclave { enclave in
            let gateway = enclave.gateway
            let grant = try await enclave.grant()
            let waiting = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(waiting)
            try await driving(gateway) {
                let run = try await enclave.request(grant, specification: Self.long)
                try await until(run, enclave) {
                    if case .epoch(let progress) = $0 { progress.epoch > 1 } else { false }
                }
                let before = try await gateway.accessReach(of: enclave.researcher, by: enclave.reviewer)
                #expect(before.grants.map(\.id) == [grant] && before.grants.map(\.origin) == [.approval])
                #expect(before.requests.map(\.id) == [waiting])
                #expect(before.runs.map(\.id) == [run] && before.runs.map(\.stage) == [.train])
                #expect(before.runs.map(\.holdsDevice) == [true] && before.revocation == nil)
                #expect(try await enclave.own(.accessRevoked).isEmpty, "a preview changes nothing")

                let stopped = try await gateway.revokeAccess(
                    of: enclave.researcher, reason: .breach, comment: "shared the weights", by: enclave.reviewer)
                #expect(stopped.runs.map(\.id) == [run] && stopped.requests.map(\.id) == [waiting])
                try await until(run, enclave) { $0 == .closed(.refused) }
                try await expectStopped(run, enclave)
            }
            #expect(try await enclave.sequence(.request(waiting)).last == "access.decided refused [access.revoked]")
            try await expectNothingStarts(grant, enclave)
            try await expectRestored(enclave)
        }
    }

    /// The act is recorded first, then the run's end; the device is clean; and how long that took is told.
    private func expectStopped(_ run: RunID, _ enclave: Enclave) async throws {
        let records = try await enclave.records(.run(run))
        #expect(
            try await enclave.sequence(.run(run)).suffix(4) == [
                "run.stopped refused [grant.revoked]", "device.scrubbed intent", "device.scrubbed done",
                "run.closed done",
            ])
        let act = try #require(try await enclave.own(.accessRevoked).last)
        let stop = try #require(records.first { $0.event == .runStopped })
        let clean = try #require(records.first { $0.event == .deviceScrubbed && $0.outcome == .done })
        #expect(act.index < stop.index && stop.index < clean.index)
        #expect(act.detail["runs"] == 1 && act.detail["payload"] != nil)
        #expect(try await enclave.nodeStates() == ["free"])
        print(
            "revocation: recorded to run stopped \(stop.time.milliseconds - act.time.milliseconds) ms, "
                + "to the device's scrub certificate \(clean.time.milliseconds - act.time.milliseconds) ms")
    }

    private func expectNothingStarts(_ grant: GrantID, _ enclave: Enclave) async throws {
        let gateway = enclave.gateway
        let late = try await enclave.request(grant, id: "run-2")
        _ = try await gateway.advance(late)
        #expect(try await enclave.sequence(.run(late)).last == "run.decided refused [grant.revoked]")
        let entry = try await gateway.grant(grant, by: enclave.researcher)
        #expect(entry.revocation?.reason == .breach && entry.revocation?.by == enclave.reviewer)
        let again = await refusal {
            _ = try await gateway.revokeAccess(
                of: enclave.researcher, reason: .breach, comment: "", by: enclave.reviewer)
        }
        #expect(again?.code == .usage)
        let request = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
        guard case .decided(.refused(let reasons)) = try await gateway.advance(request) else {
            throw Unexpected(words: "a revoked person's request was not refused")
        }
        #expect(reasons.map(\.code) == ["access.revoked"])
    }

    private func expectRestored(_ enclave: Enclave) async throws {
        let gateway = enclave.gateway
        let own = await refusal {
            try await gateway.restoreAccess(
                of: enclave.researcher, comment: "all is well again", by: enclave.researcher)
        }
        #expect(own?.code == .refused)
        try await gateway.restoreAccess(of: enclave.researcher, comment: "all is well again", by: enclave.custodian)
        let reach = try await gateway.accessReach(of: enclave.researcher, by: enclave.reviewer)
        #expect(reach.grants.isEmpty && reach.revocation == nil, "what was revoked stays revoked")
        _ = try await enclave.grant()
    }

    @Test("after a restart a revocation still holds, and a run that it should have stopped is stopped first")
    func restart() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let run = try await enclave.request(grant)
            try await enclave.advance(run, to: .plan)
            _ = try await enclave.gateway.revokeGrant(grant, reason: .asked, comment: "", by: enclave.custodian)
            await enclave.gateway.close()
            try await enclave.reopen()
            #expect(try await enclave.finish(run) == .closed(.refused))
            let end = try await enclave.sequence(.run(run)).suffix(4)
            #expect(
                end.first == "run.stopped refused [grant.revoked]" && end.contains("device.scrubbed done"), "\(end)")
            let other = try await enclave.grant()
            let next = try await enclave.request(other, id: "run-2")
            #expect(try await enclave.finish(next) == .closed(.released), "the person's other access holds")
        }
    }

    @Test("a candidate that waits for review is not released, and what was released is not taken, once it is revoked")
    func afterTraining() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let waiting = try await enclave.request(grant)
            try await enclave.advance(waiting, to: .review)
            let done = try await enclave.request(grant, id: "run-2")
            #expect(try await enclave.finish(done) == .closed(.released))
            let stopped = try await enclave.gateway.revokeAccess(
                of: enclave.researcher, reason: .leftOrganisation, comment: "", by: enclave.custodian)
            #expect(stopped.runs.map(\.id) == [waiting])
            #expect(try await enclave.finish(waiting) == .closed(.refused))
            let taken = await refusal {
                _ = try await enclave.gateway.takeRelease(of: done, by: enclave.researcher)
            }
            #expect(taken?.code == .refused && taken?.publicDescription.contains("left-organisation") == true)
        }
    }

    @Test("runs of people who are named on a request end with its holder's access, and their own with theirs")
    func colleagues() async throws {
        try await withEnclave { enclave in
            let gateway = enclave.gateway
            let other = try PersonID("ken")
            try await gateway.addPerson(other, roles: [.researcher], by: enclave.operatorPerson)
            let form = String(Clinic.form.dropLast()) + ",\"people\":[\"ken\"]}"
            let request = try await gateway.fileRequest(form, by: enclave.researcher)
            _ = try await gateway.advance(request)
            for person in [enclave.reviewer, enclave.custodian] {
                try await gateway.review(request, .approve, comment: "", by: person)
            }
            guard case .decided(.granted(let grant)) = try await gateway.advance(request) else {
                throw Unexpected(words: "not granted")
            }
            let theirs = try await gateway.requestRun(
                specification: Clinic.specification(), grant: grant, id: RunID("run-ken"), deviceMemory: nil, by: other)
            try await enclave.advance(theirs, to: .review)
            let own = try await gateway.accessReach(of: other, by: enclave.reviewer)
            #expect(own.runs.map(\.id) == [theirs] && own.grants.isEmpty)
            let holders = try await gateway.accessReach(of: enclave.researcher, by: enclave.reviewer)
            #expect(holders.runs.map(\.id) == [theirs] && holders.grants.map(\.id) == [grant])
            _ = try await gateway.revokeAccess(of: other, reason: .other, comment: "", by: enclave.reviewer)
            #expect(try await enclave.finish(theirs) == .closed(.refused))
            let run = try await enclave.request(grant, id: "run-rin")
            try await enclave.advance(run, to: .review)
            _ = try await gateway.revokeGrant(grant, reason: .asked, comment: "", by: enclave.reviewer)
            #expect(try await enclave.finish(run) == .closed(.refused))
        }
    }

    @Test("only those who may revoke; a name in other letters is nobody, and says so")
    func whoMay() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let grant = try await enclave.grant()
            for person in [enclave.researcher, enclave.operatorPerson, enclave.auditor] {
                let error = await refusal {
                    _ = try await gateway.revokeGrant(grant, reason: .other, comment: "", by: person)
                }
                #expect(error?.code == .refused)
            }
            let variant = await refusal {
                _ = try await gateway.revokeAccess(
                    of: PersonID("RIN"), reason: .other, comment: "", by: enclave.reviewer)
            }
            #expect(variant?.code == .notFound && variant?.publicDescription.contains("did you mean rin") == true)
            // A Cyrillic letter that looks like a Latin one is in no name at all.
            #expect(throws: IdentifierError.self) { try PersonID("r\u{0456}n") }
            let long = await refusal {
                _ = try await gateway.revokeGrant(
                    grant, reason: .other, comment: String(repeating: "x", count: 4097), by: enclave.reviewer)
            }
            #expect(long?.code == .usage)
            #expect(try await enclave.own(.accessRevoked).isEmpty)
        }
    }
}

/// A grant's end is decided at every use, by the gateway's own clock.
@Suite struct GrantEndTests {
    private static let long = Clinic.specification(epochs: 1_000_000, hidden: 64)

    @Test("a run is stopped at the epoch in which its grant ends, and the trail says why")
    func expiry() async throws {
        let policy = Clinic.policy.replacing("hours_max: 1000", with: "hours_max: 10000")
        try await withEnclave(policy: policy) { enclave in
            let grant = try await enclave.grant()
            try await driving(enclave.gateway) {
                let run = try await enclave.request(grant, specification: Self.long)
                try await until(run, enclave) { if case .epoch = $0 { true } else { false } }
                enclave.clock.advance(days: 200)
                try await until(run, enclave) { $0 == .closed(.refused) }
                let end = try await enclave.sequence(.run(run)).suffix(4)
                #expect(end.first == "run.stopped refused [grant.expired]", "\(end)")
                #expect(try await enclave.nodeStates() == ["free"])
            }
        }
    }

    @Test("an emergency's end stops its run, and the clock that was set back gives it no second life")
    func emergency() async throws {
        let policy = Clinic.policy + "break_glass: { allowed: true, minutes_max: 60, approver: dac }\n"
        try await withEnclave(policy: policy) { enclave in
            let form = Clinic.form.dropLast() + ",\"breakGlass\":{\"reason\":\"a patient cannot wait\",\"minutes\":30}}"
            let request = try await enclave.gateway.fileRequest(String(form), by: enclave.researcher)
            _ = try await enclave.gateway.advance(request)
            try await enclave.gateway.review(request, .approve, comment: "go", by: enclave.reviewer)
            guard case .decided(.granted(let grant)) = try await enclave.gateway.advance(request) else {
                throw Unexpected(words: "not granted")
            }
            let run = try await enclave.request(grant)
            try await enclave.advance(run, to: .train)
            #expect(try await enclave.gateway.stopIfEnded(run) == false)
            enclave.clock.advance(minutes: 31)
            #expect(try await enclave.gateway.grant(grant, by: enclave.researcher).isExpired)
            // The machine's clock goes back; the gateway's own does not, and an end is written all the same.
            enclave.clock.advance(minutes: -31)
            #expect(try await enclave.gateway.stopIfEnded(run))
            enclave.clock.advance(minutes: 31)
            #expect(try await enclave.finish(run) == .closed(.refused))
            #expect(try await enclave.sequence(.run(run)).contains("run.stopped refused [grant.expired]"))
            #expect(try await enclave.gateway.grant(grant, by: enclave.researcher).isExpired)
        }
    }

    @Test("device hours: what others may still use counts, the numbers are in the reason, and the hours end a run")
    func hours() async throws {
        let policy = Clinic.policy.replacing("hours_max: 1000", with: "hours_max: 3")
        try await withEnclave(policy: policy) { enclave in
            let gateway = enclave.gateway
            let grant = try await enclave.grant()
            let first = try await enclave.request(grant, hours: 2)
            try await enclave.advance(first, to: .train)
            let greedy = try await enclave.request(grant, id: "run-2", hours: 2)
            try await enclave.startNode("campus-2")
            _ = try await gateway.advance(greedy)
            #expect(try await enclave.sequence(.run(greedy)).last == "run.decided refused [device.hours]")
            let words = try await gateway.run(greedy, by: enclave.researcher).words
            #expect(
                words.first?.hasPrefix(
                    "each grant has 3 device hours in all; 2 are used or taken and 2 asked for") == true)
            #expect(try await enclave.finish(greedy) == .closed(.refused))
            enclave.clock.advance(minutes: 119)
            #expect(try await gateway.stopIfEnded(first) == false)
            enclave.clock.advance(minutes: 2)
            #expect(try await gateway.stopIfEnded(first), "two hours are over")
            #expect(try await enclave.finish(first) == .closed(.refused))
            #expect(try await enclave.sequence(.run(first)).contains("run.stopped refused [device.hours]"))
            // Three begun hours were used, by the records.
            let late = try await enclave.request(grant, id: "run-3")
            _ = try await gateway.advance(late)
            #expect(try await gateway.run(late, by: enclave.researcher).words.first?.contains("3 are used") == true)
            #expect(try await enclave.finish(late) == .closed(.refused))
            try await expectHoursPerPerson(enclave)
            for hours in [0, -1, 876_601] {
                let error = await refusal { _ = try await enclave.request(grant, id: "run-4", hours: hours) }
                #expect(error?.code == .usage)
            }
        }
    }

    /// Another grant of the same person, for another project, has hours of its own only where policy counts by grant.
    private func expectHoursPerPerson(_ enclave: Enclave) async throws {
        let form = Clinic.form.replacing("test-project", with: "other-project")
        let request = try await enclave.gateway.fileRequest(form, by: enclave.researcher)
        _ = try await enclave.gateway.advance(request)
        for person in [enclave.reviewer, enclave.custodian] {
            try await enclave.gateway.review(request, .approve, comment: "", by: person)
        }
        guard case .decided(.granted(let grant)) = try await enclave.gateway.advance(request) else {
            throw Unexpected(words: "not granted")
        }
        for (scope, end) in [("person", RunStage.closed), ("project", .open), ("grant", .open)] {
            try enclave.write(
                policy: Clinic.policy.replacing("hours_max: 1000", with: "hours_max: 3, hours_per: \(scope)"))
            try await enclave.activatePolicies()
            let run = try await enclave.request(grant, id: "run-\(scope)")
            _ = try await enclave.gateway.advance(run)
            #expect(try await enclave.gateway.runCase(run).nextStage == end, "\(scope)")
            if end == .open { try await enclave.gateway.cancelRun(run, by: enclave.researcher) }
            _ = try await enclave.gateway.advanceAsFarAsPossible(run)
        }
    }
}
