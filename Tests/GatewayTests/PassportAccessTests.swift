import AuditTrail
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Access that stands on a GA4GH Passport: presented once, looked at in every decision.
@Suite struct PassportAccessTests {
    private static let policy = Clinic.policy.replacing("level: standard", with: "level: semi-open").replacing(
        "approvals: { required: 2, roles: [dac, data-custodian] }",
        with: """
            approvals: { required: 0, roles: [dac, data-custodian] }
              identity: { visas: [ResearcherStatus, AcceptedTermsAndPolicies], by: [so, system, dac] }
            """)
    private static let subject = "rin-at-broker"

    private func prepare(_ enclave: Enclave, _ office: PassportOffice) async throws {
        try await enclave.gateway.trustPassports(office.trust(), by: enclave.operatorPerson)
        try await enclave.gateway.linkIdentity(
            issuer: PassportOffice.issuer, subject: Self.subject, to: enclave.researcher, isLinked: true,
            by: enclave.operatorPerson)
    }

    private func ask(_ enclave: Enclave) async throws -> AccessOutcome {
        let request = try await enclave.gateway.fileRequest(Clinic.form, by: enclave.researcher)
        guard case .decided(let outcome) = try await enclave.gateway.advance(request) else {
            throw Unexpected(words: "the request waits")
        }
        return outcome
    }

    private func codes(_ outcome: AccessOutcome) -> [String] {
        if case .refused(let reasons) = outcome { Set(reasons.map(\.code)).sorted() } else { [] }
    }

    @Test("registered access: refused without its visas, granted with them, and a run is stopped when a visa runs out")
    func registered() async throws {
        try await withEnclave(policy: Self.policy) { enclave in
            let office = PassportOffice()
            try await prepare(enclave, office)
            #expect(codes(try await ask(enclave)) == ["visa.missing"])
            let text = office.registeredAccess(now: enclave.clock.now(), seconds: 7200)
            let entry = try await enclave.gateway.presentPassport(text, by: enclave.researcher)
            #expect(entry.visas.map(\.counts) == [true, true] && entry.refused.isEmpty)
            guard case .granted(let grant) = try await ask(enclave) else { throw Unexpected(words: "not granted") }
            #expect(try await enclave.gateway.grant(grant).origin == .passport)
            let done = try await enclave.request(grant)
            #expect(try await enclave.finish(done) == .closed(.released))

            let run = try await enclave.request(grant, id: "run-2")
            try await enclave.advance(run, to: .train)
            enclave.clock.advance(minutes: 119)
            #expect(try await enclave.gateway.stopIfEnded(run) == false)
            enclave.clock.advance(minutes: 2)
            #expect(try await enclave.gateway.stopIfEnded(run))
            #expect(try await enclave.finish(run) == .closed(.refused))
            #expect(try await enclave.sequence(.run(run)).contains("run.stopped refused [visa.missing]"))
            #expect(codes(try await ask(enclave)) == ["visa.missing"])
            try await expectNothingInClear(enclave)
        }
    }

    /// What auditors read names the passport by its hash and says which types of visas count, nothing of their content.
    private func expectNothingInClear(_ enclave: Enclave) async throws {
        let record = try #require(try await enclave.own(.passportPresented).last)
        #expect(record.detail["types"] == ["AcceptedTermsAndPolicies", "ResearcherStatus"])
        let text =
            record.core.canonicalText + (try await enclave.own(.identityLinked).map(\.core.canonicalText).joined())
        for secret in [Self.subject, PassportOffice.registered, PassportOffice.issuer, PassportOffice.source] {
            #expect(!text.contains(secret))
        }
    }

    @Test("a passport of an identity that nobody linked, or that is linked to somebody else, is refused and recorded")
    func identity() async throws {
        try await withEnclave(policy: Self.policy, hasNode: false) { enclave in
            let gateway = enclave.gateway
            let office = PassportOffice()
            let early = await refusal {
                _ = try await gateway.presentPassport(
                    office.registeredAccess(now: enclave.clock.now()), by: enclave.researcher)
            }
            #expect(early?.code == .refused)
            try await prepare(enclave, office)
            let other = try PersonID("ken")
            try await gateway.addPerson(other, roles: [.researcher], by: enclave.operatorPerson)
            for (person, subject) in [(other, Self.subject), (enclave.researcher, "ken-at-broker")] {
                let text = office.registeredAccess(subject: subject, now: enclave.clock.now())
                let error = await refusal { _ = try await gateway.presentPassport(text, by: person) }
                #expect(error?.publicDescription.hasPrefix("passport.identity") == true)
            }
            let twice = await refusal {
                try await gateway.linkIdentity(
                    issuer: PassportOffice.issuer, subject: Self.subject, to: other, isLinked: true,
                    by: enclave.operatorPerson)
            }
            #expect(twice?.code == .refused)
            let refused = try await enclave.own(.passportPresented)
            #expect(refused.map(\.outcome) == [.refused, .refused] && refused[0].reasons == ["passport.identity"])
            let own = await refusal {
                try await gateway.linkIdentity(
                    issuer: PassportOffice.issuer, subject: "x", to: enclave.researcher, isLinked: true,
                    by: enclave.researcher)
            }
            #expect(own?.code == .refused, "nobody links themselves")
        }
    }

    @Test("what counted counts no longer when the link is taken back or its issuer is trusted for less")
    func takenBack() async throws {
        try await withEnclave(policy: Self.policy, hasNode: false) { enclave in
            let gateway = enclave.gateway
            let office = PassportOffice()
            try await prepare(enclave, office)
            _ = try await gateway.presentPassport(
                office.registeredAccess(now: enclave.clock.now()), by: enclave.researcher)
            let bad = await refusal { _ = try await gateway.presentPassport("a.b.c", by: enclave.researcher) }
            #expect(bad?.publicDescription.hasPrefix("passport.malformed") == true)
            guard case .granted = try await ask(enclave) else { throw Unexpected(words: "the good one counts still") }
            try await gateway.trustPassports(
                office.trust(types: ["ResearcherStatus"]), by: enclave.operatorPerson)
            #expect(codes(try await ask(enclave)) == ["visa.missing"])
            try await gateway.trustPassports(office.trust(), by: enclave.operatorPerson)
            guard case .granted = try await ask(enclave) else { throw Unexpected(words: "trusted again") }
            try await gateway.linkIdentity(
                issuer: PassportOffice.issuer, subject: Self.subject, to: enclave.researcher, isLinked: false,
                by: enclave.operatorPerson)
            #expect(codes(try await ask(enclave)) == ["visa.missing"])
            #expect(try await gateway.passport(of: enclave.researcher)?.visas.map(\.counts) == [false, false])
            let words = await refusal { try await gateway.trustPassports("version: 1", by: enclave.operatorPerson) }
            #expect(words?.publicDescription.contains("1:1") == true, "\(words?.publicDescription ?? "")")
        }
    }

    @Test("one act revokes what came from approval, from a passport and from an emergency")
    func allOrigins() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            _ = try await enclave.grant()
            try enclave.write(
                policy: Self.policy + "break_glass: { allowed: true, minutes_max: 60, approver: dac }\n")
            try await enclave.activatePolicies()
            let office = PassportOffice()
            try await prepare(enclave, office)
            _ = try await gateway.presentPassport(
                office.registeredAccess(now: enclave.clock.now()), by: enclave.researcher)
            guard case .granted = try await ask(enclave) else { throw Unexpected(words: "not granted") }
            let form = Clinic.form.dropLast() + ",\"breakGlass\":{\"reason\":\"a patient cannot wait\",\"minutes\":30}}"
            let request = try await gateway.fileRequest(String(form), by: enclave.researcher)
            _ = try await gateway.advance(request)
            try await gateway.review(request, .approve, comment: "go", by: enclave.reviewer)
            _ = try await gateway.advance(request)
            let stopped = try await gateway.revokeAccess(
                of: enclave.researcher, reason: .compromised, comment: "", by: enclave.custodian)
            #expect(stopped.grants.map(\.origin) == [.approval, .passport, .emergency])
            for grant in stopped.grants {
                #expect(try await gateway.grant(grant.id, by: enclave.researcher).revocation?.reason == .compromised)
            }
            #expect(codes(try await ask(enclave)) == ["access.revoked"], "a passport is no way around it")
        }
    }
}

/// Emergencies that wait for somebody to look at them afterwards.
@Suite struct EmergencyListTests {
    @Test("an emergency that was granted is in the list of whoever may look at it, until somebody has")
    func listed() async throws {
        let policy =
            Clinic.policy + "break_glass: { allowed: true, minutes_max: 60, approver: security-officer }\n"
        try await withEnclave(policy: policy, hasNode: false) { enclave in
            let gateway = enclave.gateway
            let officer = try PersonID("sota")
            let second = try PersonID("sara")
            for person in [officer, second] {
                try await gateway.addPerson(person, roles: [.securityOfficer], by: enclave.operatorPerson)
            }
            let form = Clinic.form.dropLast() + ",\"breakGlass\":{\"reason\":\"a patient cannot wait\",\"minutes\":30}}"
            let request = try await gateway.fileRequest(String(form), by: enclave.researcher)
            _ = try await gateway.advance(request)
            try await gateway.review(request, .approve, comment: "go", by: officer)
            _ = try await gateway.advance(request)
            func mine(_ person: PersonID) async throws -> [ReviewEntry.Subject] {
                try await gateway.reviews(PageRequest(), mine: true, by: person).items.map(\.subject)
            }
            #expect(try await mine(enclave.custodian) == [.emergency(request)])
            #expect(try await mine(second) == [.emergency(request)])
            #expect(try await mine(officer).isEmpty, "who approved it does not look at it")
            #expect(try await mine(enclave.researcher).isEmpty)
            let all = try await gateway.reviews(PageRequest(), mine: false, by: officer).items
            #expect(all.map(\.subject) == [.emergency(request)] && all.map(\.mayReview) == [false])
            try await gateway.reviewEmergency(request, justified: true, comment: "it was a real one", by: second)
            #expect(try await mine(enclave.custodian).isEmpty)
        }
    }
}
