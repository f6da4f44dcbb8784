import AuditTrail
import Foundation
import Gateway
import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// How policies come into force, and what keeps others from it.
@Suite struct PolicyBundleTests {
    private static let narrower = Clinic.policy.replacing("reviewers: 2", with: "reviewers: 3")
    private static let wider = Clinic.policy.replacing("hours_max: 1000", with: "hours_max: 2000")

    private func propose(_ text: String, _ enclave: Enclave) async throws -> PolicyProposal {
        try enclave.write(policy: text)
        return try await enclave.gateway.proposePolicies(PolicyFolder(enclave.policies), by: enclave.administrator)
    }

    @Test("a first bundle and a narrower one take two different people, one that is not proven narrower takes three")
    func quorum() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let first = try await enclave.gateway.policyProposal(1, by: enclave.auditor)
            #expect(first.state == .active && first.signaturesNeeded == 2 && first.signatures.count == 2)
            let narrower = try await propose(Self.narrower, enclave)
            #expect(!narrower.widens && narrower.signaturesNeeded == 2 && narrower.previous == first.bundle)
            try await enclave.sign(narrower, by: enclave.reviewer)
            let error = await refusal {
                _ = try await enclave.gateway.activatePolicies(narrower.number, by: enclave.administrator)
            }
            #expect(error?.code == .refused && error?.publicDescription.contains("1 of 2") == true)
            try await enclave.sign(narrower, by: enclave.custodian)
            #expect(
                try await enclave.gateway.activatePolicies(narrower.number, by: enclave.administrator).state == .active)
            #expect(try await enclave.gateway.policyProposal(1, by: enclave.auditor).state == .replaced)

            let back = try await propose(Clinic.policy, enclave)
            #expect(back.widens && back.signaturesNeeded == 3)
            for person in [enclave.reviewer, enclave.custodian] { try await enclave.sign(back, by: person) }
            let two = await refusal {
                _ = try await enclave.gateway.activatePolicies(back.number, by: enclave.administrator)
            }
            #expect(two?.publicDescription.contains("2 of 3") == true)
            try await enclave.sign(back, by: enclave.administrator)
            _ = try await enclave.gateway.activatePolicies(back.number, by: enclave.administrator)
            #expect(try await enclave.gateway.activePolicies().number == 3)
            // The same from the records, after a restart.
            try await enclave.reopen()
            #expect(try await enclave.gateway.activePolicies().number == 3)
        }
    }

    @Test("one person is one signature, with their own key, over what they were shown")
    func signatures() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let proposal = try await propose(Self.wider, enclave)
            let files = try PolicyFolder(enclave.policies)
            let mine = try PolicyKeyFile.sign(
                proposal.statement, of: files, with: enclave.policyKey(of: enclave.reviewer))
            let changed = (mine.hasPrefix("0") ? "1" : "0") + mine.dropFirst()
            let cases: [(PersonID, String, String)] = [
                (enclave.custodian, mine, "not chika's"), (enclave.reviewer, changed, "not dai's"),
                (enclave.reviewer, "", "not dai's"), (enclave.reviewer, mine.uppercased(), "not dai's"),
                (enclave.steward, mine, "no signing key"), (enclave.researcher, mine, "role"),
            ]
            for (person, signature, words) in cases {
                let error = await refusal {
                    _ = try await gateway.signPolicies(proposal.number, signature: signature, by: person)
                }
                #expect(error?.code == .refused && error?.publicDescription.contains(words) == true, "\(words)")
            }
            _ = try await gateway.signPolicies(proposal.number, signature: mine, by: enclave.reviewer)
            let twice = await refusal {
                _ = try await gateway.signPolicies(proposal.number, signature: mine, by: enclave.reviewer)
            }
            #expect(twice?.publicDescription.contains("signed bundle 2 already") == true)
            // A signature over another number, or files that are not the proposed ones, is none.
            var other = try #require(proposal.statement.objectValue)
            other["number"] = 7
            let elsewhere = try PolicyKeyFile.sign(
                .object(other), of: files, with: enclave.policyKey(of: enclave.custodian))
            #expect(
                await refusal {
                    _ = try await gateway.signPolicies(proposal.number, signature: elsewhere, by: enclave.custodian)
                }?.code == .refused)
            try enclave.write(policy: Self.narrower)
            #expect(throws: GatewayError.self) {
                try PolicyKeyFile.sign(
                    proposal.statement, of: PolicyFolder(enclave.policies),
                    with: enclave.policyKey(of: enclave.custodian))
            }
            #expect(try await enclave.own(.policySigned).count == 3)
        }
    }

    @Test("a signing key is its person's own, replaced only after it was revoked, and counts no more from then on")
    func keys() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let other = try PolicyKeyFile.generate(at: enclave.folder.appendingPathComponent("other.key"))
            #expect(
                await refusal { try await enclave.gateway.setPolicyKey(other, by: enclave.reviewer) }?.code == .refused)
            let taken = try PolicyKeyFile.readPublic(
                enclave.policyKey(of: enclave.reviewer).appendingPathExtension("pub"))
            #expect(
                await refusal { try await enclave.gateway.setPolicyKey(taken, by: enclave.steward) }?.code == .refused)
            #expect(
                await refusal { try await enclave.gateway.setPolicyKey("00ff", by: enclave.steward) }?.code == .usage)
            #expect(
                await refusal { try await enclave.gateway.setPolicyKey(other, by: enclave.researcher) }?.code
                    == .refused)
            #expect(
                await refusal {
                    try await enclave.gateway.revokePolicyKey(of: enclave.reviewer, by: enclave.operatorPerson)
                }?
                .code == .refused)
            let proposal = try await propose(Self.narrower, enclave)
            for person in [enclave.reviewer, enclave.custodian] { try await enclave.sign(proposal, by: person) }
            try await enclave.gateway.revokePolicyKey(of: enclave.reviewer, by: enclave.reviewer)
            let error = await refusal {
                _ = try await enclave.gateway.activatePolicies(proposal.number, by: enclave.administrator)
            }
            #expect(error?.publicDescription.contains("1 of 2") == true)
            // What was signed and activated before stays in force.
            try await enclave.reopen()
            #expect(try await enclave.gateway.activePolicies().number == 1)
            try await enclave.gateway.setPolicyKey(other, by: enclave.reviewer)
            try await enclave.sign(proposal, by: enclave.administrator)
            _ = try await enclave.gateway.activatePolicies(proposal.number, by: enclave.administrator)
        }
    }

    @Test("what was proposed over another bundle is stale, and what is in force is not activated twice")
    func stale() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let wider = try await propose(Self.wider, enclave)
            #expect(try await propose(Self.wider, enclave).number == wider.number, "the same proposal again")
            try await enclave.activate(propose(Self.narrower, enclave))
            #expect(try await gateway.policyProposal(wider.number, by: enclave.auditor).state == .stale)
            #expect(await refusal { try await enclave.sign(wider, by: enclave.reviewer) }?.code == .changed)
            #expect(
                await refusal { _ = try await gateway.activatePolicies(wider.number, by: enclave.administrator) }?.code
                    == .changed)
            #expect(
                await refusal { _ = try await gateway.activatePolicies(3, by: enclave.administrator) }?.code == .usage)
            #expect(
                await refusal { _ = try await gateway.activatePolicies(9, by: enclave.administrator) }?.code
                    == .notFound)
            #expect(
                await refusal { _ = try await gateway.activatePolicies(3, by: enclave.researcher) }?.code == .refused)
            #expect(await refusal { _ = try await self.propose(Self.narrower, enclave) }?.code == .usage)
        }
    }

    @Test("a rollback proposes an earlier bundle's files again, to be signed and activated by a new event")
    func rollback() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            try await enclave.activate(propose(Self.narrower, enclave))
            let back = try await gateway.proposeReturn(to: 1, by: enclave.administrator)
            #expect(back.number == 3 && back.returnsTo == 1 && back.widens && back.signaturesNeeded == 3)
            #expect(
                await refusal { _ = try await gateway.activatePolicies(3, by: enclave.administrator) }?.code == .refused
            )
            try await enclave.activate(back)
            let first = try await gateway.policyProposal(1, by: enclave.auditor)
            #expect(try await gateway.activePolicies().hash == first.bundle)
            let history = try await gateway.policyHistory(PageRequest(order: .oldest), by: enclave.auditor).items
            #expect(history.map(\.state) == [.replaced, .replaced, .active])
            #expect(history.map(\.number) == [1, 2, 3])
            #expect(
                await refusal { _ = try await gateway.proposeReturn(to: 9, by: enclave.administrator) }?.code
                    == .notFound)
            _ = try await propose(Self.wider, enclave)
            #expect(
                await refusal { _ = try await gateway.proposeReturn(to: 4, by: enclave.administrator) }?.code
                    == .refused,
                "never in force")
            let page = try await gateway.policyHistory(PageRequest(order: .newest, limit: 2), by: enclave.auditor)
            #expect(page.items.map(\.number) == [4, 3] && page.next != nil)
        }
    }

    @Test("the next decision is made by the bundle that was just activated, and an invalid one changes nothing")
    func atomic() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let before = try await gateway.activePolicies().hash
            let proposal = try await propose(Self.narrower, enclave)
            for person in [enclave.reviewer, enclave.custodian] { try await enclave.sign(proposal, by: person) }
            // The signed files are changed on the disk.
            let file = enclave.home.appendingPathComponent("policies/\(proposal.bundle.hex)/clinic.yaml")
            let good = try Data(contentsOf: file)
            try Data(Self.wider.utf8).write(to: file)
            #expect(
                await refusal { _ = try await gateway.activatePolicies(2, by: enclave.administrator) }?.code
                    == .integrity)
            #expect(try await gateway.activePolicies().hash == before)
            try good.write(to: file)
            _ = try await gateway.activatePolicies(2, by: enclave.administrator)
            let request = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(request)
            let decided = try await enclave.records(.request(request)).last { $0.core["decision"] != nil }
            #expect(decided?.core["policy"]?.stringValue == proposal.bundle.hex)
        }
    }

    @Test("a home whose policies in force are not the signed ones does not start")
    func refusesToStart() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let active = try await enclave.gateway.activePolicies().hash
            let file = enclave.home.appendingPathComponent("policies/\(active.hex)/clinic.yaml")
            let good = try Data(contentsOf: file)
            enclave.drop()
            for bad in [Data(Self.wider.utf8), Data("version: 2\n".utf8), nil] as [Data?] {
                if let bad { try bad.write(to: file) } else { try FileManager.default.removeItem(at: file) }
                #expect(await refusal { try await enclave.open() }?.code == .integrity)
            }
            try good.write(to: file)
            try await enclave.open()
            #expect(try await enclave.gateway.activePolicies().hash == active)
        }
    }

    @Test("an auditor checks each signature over its statement from the records alone")
    func recorded() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let proposed = try #require(try await enclave.own(.policyProposed).first)
            let statement = try #require(proposed.detail["statement"].flatMap { PolicyStatement(json: $0) })
            #expect(statement.number == 1 && statement.trail == enclave.trail && statement.previous == nil)
            #expect(statement.bundle.hex == proposed.core["policy"]?.stringValue)
            let signed = try await enclave.own(.policySigned)
            #expect(Set(signed.compactMap(\.actor)).count == 2)
            let keys = try await enclave.own(.credentialIssued).filter { $0.detail["kind"] == "policy-key" }
            for record in signed {
                #expect(keys.contains { $0.actor == record.actor && $0.detail["key"] == record.detail["key"] })
            }
            let activated = try #require(try await enclave.own(.policyActivated).first)
            #expect(activated.detail["signed_by"]?.arrayValue?.count == 2)
        }
    }

    @Test("a bundle of a thousand data sets is proposed, signed and activated")
    func many() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let files = (0..<1000).map { number in
                ("set-\(number).yaml", Clinic.policy.replacing("test:clinic", with: "test:set-\(number)"))
            }
            let proposal = try await enclave.gateway.proposePolicies(PolicyFolder(files), by: enclave.administrator)
            #expect(proposal.datasets.count == 1000 && proposal.changes.count == 1001)
            try await enclave.activate(proposal)
            #expect(try await enclave.gateway.activePolicies().datasets.count == 1000)
        }
    }

    // MARK: - Questions

    @Test("a dry run decides as the policies in force do, records nothing, and is for those who look after policies")
    func dryRun() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let request = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(request)
            let file = try await enclave.records(.request(request))
            let input = try #require(file.last { $0.core["decision"] != nil }?.payload["input"])
            let before = try await enclave.records(.gateway).count
            let answer = try await gateway.explain(input, under: .active, by: enclave.administrator)
            #expect(answer.json["answer"] == "needs-human")
            #expect(answer.json["nearly"]?["rule"] == "test:clinic/access.approvals")
            #expect(try await enclave.records(.gateway).count == before)
            #expect(
                await refusal { _ = try await gateway.explain(input, under: .active, by: enclave.researcher) }?.code
                    == .refused)
            #expect(
                await refusal { _ = try await gateway.explain(["ask": "x"], under: .active, by: enclave.auditor) }?.code
                    == .usage)
            #expect(
                await refusal { _ = try await gateway.explain(input, under: .bundle(9), by: enclave.auditor) }?.code
                    == .notFound)
            let matrix = try await gateway.policyMatrix(under: .active, by: enclave.auditor)
            #expect(matrix.words.contains { $0.hasPrefix("test:clinic  review-release") })
            #expect(try await gateway.policyCedar(under: .bundle(1), by: enclave.auditor).contains("forbid"))
        }
    }

    @Test("replaying what was decided: the same policies differ nowhere, a candidate's milder answers come first")
    func compare() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            _ = try await enclave.grant()
            let care = Clinic.form.replacing("DUO:0000042", with: "DUO:0000043")
            let second = try await gateway.fileRequest(care, by: enclave.researcher)
            _ = try await gateway.advance(second)
            let same = try await gateway.comparePolicies(.active, .bundle(1), by: enclave.auditor)
            #expect(same.json["differences"] == [] && !same.isAlarming)
            #expect((same.json["compared"]?.integerValue ?? 0) >= 3)
            try enclave.write(
                policy: Clinic.policy.replacing("permission: DUO:0000042", with: "permission: DUO:0000004")
                    .replacing("hours_max: 1000", with: "hours_max: 999"))
            let loose = try await gateway.comparePolicies(
                .active, .files(PolicyFolder(enclave.policies)), by: enclave.administrator)
            #expect(loose.isAlarming && loose.json["widens"] == true && loose.json["milder"] == 1)
            let differences = try #require(loose.json["differences"]?.arrayValue)
            #expect(
                differences.map { $0["record"]?.stringValue ?? "" } == [
                    "request/\(second) decided", "request/request-1 decided",
                ])
            #expect(differences[0]["old"] == "refuse" && differences[0]["new"] == "needs-human")
            #expect(differences[1]["old"] == differences[1]["new"], "the same answer with other hours")
            #expect(
                await refusal { _ = try await gateway.comparePolicies(.active, .active, by: enclave.reviewer) }?.code
                    == .refused)
            #expect(try await enclave.own(.trailRead).contains { $0.detail["read"] == "decisions" })
        }
    }
}
