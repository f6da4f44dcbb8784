import AuditTrail
import Foundation
import PolicyEngine
import Sealing
import TransparencyLog
package import Vocabulary

// How policies come into force: somebody proposes files, different people sign the statement of them with keys of their
// own, and only then can they be activated. Each step is a record of the trail; the files lie in the home under their
// hash before the first of them.

/// A bundle of policies that was proposed, and how far it is.
package struct PolicyProposal: Sendable {
    package enum State: String, Sendable, CaseIterable {
        /// Waits for signatures, or for its activation.
        case open
        /// Decides.
        case active
        /// Decided once.
        case replaced
        /// Another bundle was activated since it was proposed; it can only be proposed again.
        case stale
    }

    package struct Signature: Sendable {
        package let person: PersonID
        package let time: Timestamp
    }

    package let number: Int
    package let bundle: Digest
    package let previous: Digest?
    package let widens: Bool
    package let returnsTo: Int?
    package let proposer: PersonID
    package let proposed: Timestamp
    package let signatures: [Signature]
    package let signaturesNeeded: Int
    package let activated: Timestamp?
    package let state: State
    package let datasets: [String]
    /// What it changes of the bundle that it is to replace.
    package let changes: [JSON]
    /// What is signed.
    package let statement: JSON
}

extension Gateway {
    /// Who may make policies theirs by a signature.
    static let policySigners: Set<Role> = [.policyAdministrator, .dataCustodian, .dac, .securityOfficer]
    static let policyReaders = policySigners.union([.complianceOfficer])

    // MARK: - Signing keys

    /// Makes a public key the one that a person signs policies with. People do it for themselves; another key only
    /// after a security officer has revoked the one before, so that a taken-over account signs nothing.
    package func setPolicyKey(_ hex: String, by person: PersonID) throws {
        try require(person, anyOf: Self.policySigners)
        guard let key = Hex.decode(hex).flatMap({ VerifyingKey(bytes: $0) }) else {
            throw GatewayError(.usage, "a signing key is 32 bytes in hexadecimal")
        }
        if let held = directory.policyKey(of: person) {
            if held == key { return }
            throw GatewayError(
                .refused, "\(person) has a signing key; a security officer revokes it before there is another")
        }
        guard !directory.policyKeys.contains(where: { $0.value == key }) else {
            throw GatewayError(.refused, "this key is another person's; everybody signs with a key of their own")
        }
        directory.learn(
            try ledger.record(
                Event(.credentialIssued, .done).with {
                    $0.actor = person
                    $0.detail = [
                        "kind": "policy-key", "person": .string(person.text), "key": .string(Hex.encode(key.bytes)),
                    ]
                }, in: .gateway, key: ledger.freshKey("policy-key.\(person)")))
    }

    /// Whether somebody has a signing key here, for themselves.
    package func policyKey(of person: PersonID) throws -> String? {
        try require(person, anyOf: Self.policySigners)
        return directory.policyKey(of: person).map { Hex.encode($0.bytes) }
    }

    /// Ends a person's signing key. What was signed and activated stays in force.
    package func revokePolicyKey(of person: PersonID, by actor: PersonID) throws {
        if actor != person { try require(actor, anyOf: [.securityOfficer]) }
        guard let key = directory.policyKey(of: person) else {
            throw GatewayError(.notFound, "\(person) has no signing key")
        }
        directory.learn(
            try ledger.record(
                Event(.credentialRevoked, .done).with {
                    $0.actor = actor
                    $0.detail = [
                        "kind": "policy-key", "person": .string(person.text), "key": .string(Hex.encode(key.bytes)),
                    ]
                }, in: .gateway, key: ledger.freshKey("policy-key.\(person)")))
    }

    // MARK: - Propose

    /// Keeps files that are valid and pass their tests, for others to sign. The same files proposed again over the same
    /// bundle are the same proposal.
    package func proposePolicies(_ folder: PolicyFolder, by actor: PersonID) throws -> PolicyProposal {
        try require(actor, anyOf: [.policyAdministrator])
        return try propose(folder, returnsTo: nil, by: actor)
    }

    /// Proposes the files of an earlier bundle again. They are signed again, too: what was right once may be wider than
    /// what is in force now.
    package func proposeReturn(to number: Int, by actor: PersonID) throws -> PolicyProposal {
        try require(actor, anyOf: [.policyAdministrator])
        let earlier = try policyProposal(number)
        guard earlier.activated != nil else {
            throw GatewayError(.refused, "bundle \(number) was never in force; propose its files")
        }
        return try propose(folder(of: earlier.bundle), returnsTo: number, by: actor)
    }

    private func propose(_ folder: PolicyFolder, returnsTo: Int?, by actor: PersonID) throws -> PolicyProposal {
        let set = try folder.load()
        let current = try isAnyPolicyActive ? policies() : nil
        guard current?.bundleHash != set.bundleHash else {
            throw GatewayError(.usage, "these are the policies in force")
        }
        let all = try policyProposals()
        if let same = all.last(where: { $0.bundle == set.bundleHash && $0.state == .open && $0.returnsTo == returnsTo })
        {
            return same
        }
        let change = current.map { PolicyChange(from: $0, to: set) }
        let statement = PolicyStatement(
            trail: settings.trail.description, number: all.count + 1, bundle: set.bundleHash,
            previous: current?.bundleHash, widens: change?.widens ?? true, returnsTo: returnsTo)
        let place = home.policies.appendingPathComponent(set.bundleHash.hex, isDirectory: true)
        for file in folder.files {
            try GatewayFile.write(file.bytes, to: place.appendingPathComponent(file.name), role: "policy file")
        }
        try ledger.record(
            Event(.policyProposed, .done).with {
                $0.actor = actor
                $0.policy = set.bundleHash
                $0.detail = [
                    "statement": statement.json, "number": .integer(Int64(statement.number)),
                    "signatures_needed": .integer(Int64(statement.signaturesNeeded)),
                    "datasets": .integer(Int64(set.policies.count)),
                ]
                // There may be more of both than a record of the trail has room for.
                $0.payload = [
                    "changes": .array((change?.steps ?? []).map(\.json)),
                    "datasets": .array(set.policies.keys.sorted().map { .string($0.text) }),
                ]
            }, in: .gateway, key: "policy-proposed.\(statement.number)")
        return try policyProposal(statement.number)
    }

    // MARK: - Sign

    /// Records a person's signature over the statement of a proposal.
    package func signPolicies(_ number: Int, signature hex: String, by person: PersonID) throws -> PolicyProposal {
        try require(person, anyOf: Self.policySigners)
        let proposal = try openProposal(number)
        guard let key = directory.policyKey(of: person) else {
            throw GatewayError(
                .refused, "\(person) has no signing key here; `sekisho policy keygen`, then `sekisho policy key`")
        }
        guard let signature = Hex.decode(hex), let statement = PolicyStatement(json: proposal.statement),
            key.isValid(signature, for: statement.signedBytes)
        else { throw GatewayError(.refused, "the signature is not \(person)'s over bundle \(number)") }
        let name = person.text.lowercased()
        guard !proposal.signatures.contains(where: { $0.person.text.lowercased() == name }) else {
            throw GatewayError(.usage, "\(person) has signed bundle \(number) already")
        }
        try ledger.record(
            Event(.policySigned, .done).with {
                $0.actor = person
                $0.policy = proposal.bundle
                $0.detail = [
                    "number": .integer(Int64(number)), "key": .string(Hex.encode(key.bytes)),
                    "signature": .string(hex),
                ]
            }, in: .gateway, key: "policy-signed.\(number).\(person)")
        return try policyProposal(number)
    }

    // MARK: - Activate

    /// Makes a signed bundle the one that decides, from the next decision on. What is not valid, not signed by enough
    /// people or proposed over another bundle changes nothing.
    package func activatePolicies(_ number: Int, by actor: PersonID) throws -> PolicyProposal {
        try require(actor, anyOf: [.policyAdministrator])
        let proposal = try openProposal(number)
        // A key that was taken back since, or a person who may sign no more, counts no more.
        try requireSignatures(of: proposal) { person, key in
            self.directory.policyKey(of: person) == key
                && !(self.directory.person(person)?.roles.isDisjoint(with: Self.policySigners) ?? true)
        }
        let set = try folder(of: proposal.bundle).load()
        guard set.bundleHash == proposal.bundle else { throw Self.otherFiles }
        let record = try ledger.record(
            Event(.policyActivated, .done).with {
                $0.actor = actor
                $0.policy = set.bundleHash
                $0.detail = [
                    "number": .integer(Int64(number)),
                    "datasets": .integer(Int64(set.policies.count)),
                    "signed_by": .array(proposal.signatures.map { .string($0.person.text) }),
                ]
            }, in: .gateway, key: "policy-activated.\(number)")
        policyCache = (record.index, set)
        return try policyProposal(number)
    }

    private func openProposal(_ number: Int) throws -> PolicyProposal {
        let proposal = try policyProposal(number)
        switch proposal.state {
        case .open: return proposal
        case .stale:
            throw GatewayError(
                .changed, "other policies were activated since bundle \(number) was proposed; propose its files again")
        case .active: throw GatewayError(.usage, "bundle \(number) is in force already")
        case .replaced: throw GatewayError(.usage, "bundle \(number) was in force; see `sekisho policy rollback`")
        }
    }

    /// Every signature is checked again, with the key that its person had when it was given.
    private func requireSignatures(
        of proposal: PolicyProposal, counting counts: (PersonID, VerifyingKey) -> Bool = { _, _ in true }
    ) throws {
        guard let statement = PolicyStatement(json: proposal.statement), statement.bundle == proposal.bundle,
            statement.trail == settings.trail.description, statement.number == proposal.number
        else { throw GatewayError(.integrity, "the recorded statement of bundle \(proposal.number) cannot be read") }
        var people: Set<String> = []
        for record in signatures(of: proposal.number) {
            guard let person = record.actor, let hex = record.detail["signature"]?.stringValue,
                let signature = Hex.decode(hex),
                let key = policyKey(of: person, before: record.index),
                key.isValid(signature, for: statement.signedBytes)
            else { throw GatewayError(.integrity, "a recorded signature of bundle \(proposal.number) does not hold") }
            if counts(person, key) { people.insert(person.text.lowercased()) }
        }
        guard people.count >= statement.signaturesNeeded else {
            throw GatewayError(
                .refused,
                "bundle \(proposal.number) is signed by \(people.count) of \(statement.signaturesNeeded) people"
                    + (statement.signaturesNeeded > 2 ? "; it is not proven narrower, so it takes one more" : ""))
        }
    }

    /// The key that a person had at that place of the trail.
    private func policyKey(of person: PersonID, before index: UInt64) -> VerifyingKey? {
        let of = { (record: CaseRecord) in
            record.index < index && record.detail["kind"] == "policy-key"
                && record.detail["person"]?.stringValue == person.text
        }
        guard let issued = ledger.records(of: .credentialIssued).last(where: of),
            !ledger.records(of: .credentialRevoked).contains(where: { of($0) && $0.index > issued.index })
        else { return nil }
        return issued.detail["key"]?.stringValue.flatMap(Hex.decode).flatMap { VerifyingKey(bytes: $0) }
    }

    // MARK: - The policies in force

    package var isAnyPolicyActive: Bool { !ledger.records(of: .policyActivated).isEmpty }

    /// The policies in force: those of the last activation, whose files must still be the ones that were signed.
    func policies() throws -> PolicySet {
        guard let record = ledger.records(of: .policyActivated).last else {
            throw GatewayError(.refused, "no policies are active, so nothing is allowed; see `sekisho policy propose`")
        }
        if let policyCache, policyCache.activation == record.index { return policyCache.set }
        guard let number = record.detail["number"]?.integerValue else { throw Self.otherFiles }
        let proposal = try policyProposal(Int(number))
        try requireSignatures(of: proposal)
        let set: PolicySet
        do {
            set = try folder(of: proposal.bundle).load()
        } catch { throw Self.otherFiles }
        guard set.bundleHash == proposal.bundle, record.core["policy"]?.stringValue == proposal.bundle.hex else {
            throw Self.otherFiles
        }
        policyCache = (record.index, set)
        return set
    }

    /// Refuses to begin with policies that are not the ones that were signed: an older bundle might allow more.
    func checkPolicies() throws { if isAnyPolicyActive { _ = try policies() } }

    /// For a service, which has nothing to serve before there are policies.
    package func requirePolicies() throws { _ = try policies() }

    private static let otherFiles = GatewayError(
        .integrity, "the active policy files are not the ones that were signed; restore HOME/policies from a backup")

    func folder(of bundle: Digest) throws -> PolicyFolder {
        try PolicyFolder(home.policies.appendingPathComponent(bundle.hex, isDirectory: true))
    }

    // MARK: - History

    /// What was proposed, signed, activated and returned to.
    package func policyHistory(_ request: PageRequest, by reader: PersonID) throws -> Page<PolicyProposal> {
        try require(reader, anyOf: Self.policyReaders)
        return try Page(request, of: .policies, policyProposals(), place: { $0.number }, item: { $0 })
    }

    package func policyProposal(_ number: Int, by reader: PersonID) throws -> PolicyProposal {
        try require(reader, anyOf: Self.policyReaders)
        return try policyProposal(number)
    }

    /// The files of a proposal, for those who sign.
    package func policyFiles(of number: Int, by reader: PersonID) throws -> PolicyFolder {
        try folder(of: policyProposal(number, by: reader).bundle)
    }

    func policyProposal(_ number: Int) throws -> PolicyProposal {
        let proposed = ledger.records(of: .policyProposed)
        guard proposed.indices.contains(number - 1) else {
            throw GatewayError(.notFound, "there is no policy bundle \(number)")
        }
        return try proposal(proposed[number - 1])
    }

    private func policyProposals() throws -> [PolicyProposal] { try ledger.records(of: .policyProposed).map(proposal) }

    private func signatures(of number: Int) -> [CaseRecord] {
        ledger.records(of: .policySigned).filter { $0.detail["number"]?.integerValue == Int64(number) }
    }

    private func proposal(_ record: CaseRecord) throws -> PolicyProposal {
        guard let json = record.detail["statement"], let statement = PolicyStatement(json: json),
            let proposer = record.actor
        else { throw GatewayError(.integrity, "a recorded policy proposal cannot be read") }
        let activations = ledger.records(of: .policyActivated)
        let activation = activations.last { $0.detail["number"]?.integerValue == Int64(statement.number) }
        let state: PolicyProposal.State
        if let activation {
            state = activation.index == activations.last?.index ? .active : .replaced
        } else {
            state = activations.last?.core["policy"]?.stringValue == statement.previous?.hex ? .open : .stale
        }
        return PolicyProposal(
            number: statement.number, bundle: statement.bundle, previous: statement.previous, widens: statement.widens,
            returnsTo: statement.returnsTo, proposer: proposer, proposed: record.time,
            signatures: signatures(of: statement.number).compactMap { signed in
                signed.actor.map { PolicyProposal.Signature(person: $0, time: signed.time) }
            }, signaturesNeeded: statement.signaturesNeeded, activated: activation?.time, state: state,
            datasets: record.payload["datasets"]?.arrayValue?.compactMap(\.stringValue) ?? [],
            changes: record.payload["changes"]?.arrayValue ?? [], statement: json)
    }
}
