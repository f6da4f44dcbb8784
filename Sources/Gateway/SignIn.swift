import AuditTrail
package import Foundation
import GPUFabric
import GraphVault
package import Sealing
package import Vocabulary

extension Gateway {
    // MARK: - Passwords

    /// Gives `person` a password; `proof` comes from `SecretProof.ofPassword`. People set their own, operators anybody's.
    /// - Parameter actor: `nil` where the holder of the home's key answers for it, before anybody can sign in.
    package func setPassword(of person: PersonID, to proof: SecretProof, by actor: PersonID?) throws {
        _ = try self.person(person)
        if let actor, actor != person { try require(actor, anyOf: [.operatorRole]) }
        try credential(
            Event(.credentialIssued, .done).with {
                $0.actor = actor
                $0.detail = ["kind": "password", "person": .string(person.text)]
                $0.payload = proof.members
            }, "password.\(person)")
    }

    // MARK: - Tokens and certificates

    /// Makes a token and returns it with the only text of it that will ever exist.
    ///
    /// A person makes tokens for themselves only: a token speaks with its person's voice.
    package func createToken(
        for person: PersonID, scopes: Set<Scope>, validSeconds: Int64, by actor: PersonID
    ) throws -> (AccessKey, text: String) {
        guard actor == person else { throw GatewayError(.refused, "people make tokens for themselves only") }
        try checkKey(for: person, scopes, validSeconds)
        var secret = RandomBytes.array(AccessKey.secretBytes)
        defer { wipe(&secret) }
        let proof = try SecretProof.ofToken(secret)
        let key = try issueKey(
            .token, for: person, scopes: scopes, validSeconds: validSeconds, by: actor, payload: proof.members)
        return (key, "\(AccessKey.textPrefix)\(key.id.text)-\(Hex.encode(secret))")
    }

    private func checkKey(for person: PersonID, _ scopes: Set<Scope>, _ validSeconds: Int64) throws {
        _ = try self.person(person)
        guard !scopes.isEmpty else { throw GatewayError(.usage, "a token or certificate needs at least one scope") }
        guard (1...AccessKey.validSecondsMax).contains(validSeconds) else {
            throw GatewayError(.usage, "a token or certificate is valid for at least a second and at most 366 days")
        }
        let usable = directory.keys(of: person).count { $0.isUsable(at: clock.now()) }
        guard usable < AccessKey.perPersonMax else {
            throw GatewayError(
                .usage, "\(person) has \(AccessKey.perPersonMax) tokens and certificates; revoke one first")
        }
    }

    private func issueKey(
        _ kind: AccessKey.Kind, for person: PersonID, scopes: Set<Scope>, validSeconds: Int64, by actor: PersonID,
        payload: [String: JSON]
    ) throws -> AccessKey {
        let now = clock.now()
        let key = AccessKey(
            id: AccessKey.freshID(), kind: kind, person: person, scopes: scopes, created: now,
            expires: now.adding(seconds: validSeconds), revoked: false)
        try credential(
            Event(.credentialIssued, .done).with {
                $0.actor = actor
                $0.detail = key.detail
                $0.payload = payload
            }, "credential.\(key.id)")
        return key
    }

    /// Ends a token or certificate for good. Its person and operators may.
    package func revokeKey(_ id: AccessKeyID, by actor: PersonID) throws {
        guard let key = directory.key(id) else { throw GatewayError(.notFound, "there is no token \(id)") }
        if actor != key.person { try require(actor, anyOf: [.operatorRole, .securityOfficer]) }
        if key.revoked { return }
        try credential(
            Event(.credentialRevoked, .done).with {
                $0.actor = actor
                $0.detail = ["id": .string(id.text), "person": .string(key.person.text)]
            }, "revoked.\(id)")
    }

    private func credential(_ event: Event, _ stem: String) throws {
        directory.learn(try ledger.record(event, in: .gateway, key: ledger.freshKey(stem)))
    }

    // MARK: - Coming and going

    /// Records that somebody proved who they are, or that a proof was refused.
    ///
    /// - Parameters:
    ///   - person: `nil` where the name that was given is nobody's: what was typed may be a password.
    ///   - key: the token or certificate that was shown.
    ///   - refusal: a reason code, such as `wrong-password`.
    package func recordSignIn(
        _ person: PersonID?, means: SignInMeans, key: AccessKeyID? = nil, address: String, refusal: String? = nil
    ) throws {
        try ledger.record(
            Event(.personSignedIn, refusal == nil ? .done : .refused).with {
                $0.actor = person
                $0.reasons = refusal.map { [$0] } ?? []
                $0.detail = ["means": .string(means.rawValue), "address": .string(address)]
                $0.detail["credential"] = key.map { .string($0.text) }
            }, in: .gateway, key: ledger.freshKey("signed-in"))
    }

    package func recordSignOut(_ person: PersonID, reason: SignOutReason) throws {
        try ledger.record(
            Event(.personSignedOut, .done).with {
                $0.actor = person
                $0.reasons = [reason.rawValue]
            }, in: .gateway, key: ledger.freshKey("signed-out"))
    }

    // MARK: - The door's own certificates

    /// What the door shows to clients when its operator has configured no certificate: issued for this start by an
    /// authority of the home's own, whose fingerprint people compare once.
    package struct DoorCertificate: Sendable {
        /// PEM.
        package let chain: [UInt8]
        /// PEM; never written anywhere.
        package let key: [UInt8]
        /// PEM of the authority, which clients trust and which signs machines' certificates.
        package let authority: [UInt8]
        package let authorityFingerprint: Digest
    }

    package func issueDoorCertificate(names: [String]) throws -> DoorCertificate {
        do {
            let authority = try doorAuthority()
            let (chain, key) = try authority.issueServer(names: names, now: clock.now())
            return DoorCertificate(
                chain: chain, key: key, authority: try authority.pem,
                authorityFingerprint: try authority.fingerprint)
        } catch let error as FabricError { throw GatewayError(fabric: error) }
    }

    /// Makes the folder with which a machine proves who it is, and lets it act for `person`.
    package func enrolMachine(
        for person: PersonID, scopes: Set<Scope>, validSeconds: Int64, into folder: URL, by actor: PersonID
    ) throws -> AccessKey {
        try require(actor, anyOf: [.operatorRole])
        try checkKey(for: person, scopes, validSeconds)
        do {
            let certificate = try doorAuthority().issueMachine(
                "machine \(person)", into: folder.path, now: clock.now(), validSeconds: Int(validSeconds))
            return try issueKey(
                .certificate(certificate), for: person, scopes: scopes, validSeconds: validSeconds, by: actor,
                payload: [:])
        } catch let error as FabricError { throw GatewayError(fabric: error) }
    }

    private func doorAuthority() throws -> CertificateAuthority {
        let folder = home.pki.appendingPathComponent("door").path
        if let authority = try? CertificateAuthority(folder: folder, sealing: fabricKeys) { return authority }
        let event = { (outcome: AuditOutcome) in
            Event(.pkiInitialised, outcome).with { $0.detail = ["authority": "door"] }
        }
        try ledger.record(event(.intent), in: .gateway, key: ledger.freshKey("door"))
        let authority = try CertificateAuthority.create(
            in: folder, name: "Sekisho door", sealing: fabricKeys, now: clock.now())
        try ledger.record(event(.done), in: .gateway, key: ledger.freshKey("door"))
        return authority
    }

    /// A key for what only the door seals and opens again, such as a form that waits for its person to sign in.
    package func doorKey() async -> SecretBytes { await vault.derivedKey("sekisho door v1") }
}

/// How somebody proves who they are.
package enum SignInMeans: String, CaseIterable, Sendable { case password, token, certificate }

/// Why a session ended.
package enum SignOutReason: String, Sendable {
    case asked, idle, expired
    /// The person's roles or password changed, or a newer session took its place.
    case changed, replaced
}

/// What a token or certificate may be used for. A person's roles still decide; a scope only narrows them.
package enum Scope: String, CaseIterable, Codable, Sendable {
    /// Look at what the person may see.
    case read
    /// File and withdraw access requests.
    case request
    /// Start, resume and cancel runs; take a release.
    case run
    /// Review requests and releases.
    case review
    /// Search the audit records and export the trail.
    case audit
    /// Look at, propose, sign and activate policies.
    case policy
    /// People, credentials, nodes and data sets.
    case administer
    /// Read the metrics.
    case observe
}
