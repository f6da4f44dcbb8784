import AuditTrail
import Sealing
import Synchronization
package import Vocabulary

package enum AccessKeyNoun {}
package typealias AccessKeyID = Identifier<AccessKeyNoun>

/// A token, or a machine's certificate: what acts for a person, how far and how long.
package struct AccessKey: Sendable, Equatable {
    package enum Kind: Sendable, Equatable {
        case token
        /// SHA-256 of the certificate's DER.
        case certificate(Digest)
    }

    package let id: AccessKeyID
    package let kind: Kind
    package let person: PersonID
    package let scopes: Set<Scope>
    package let created: Timestamp
    package let expires: Timestamp
    package internal(set) var revoked: Bool

    package static let textPrefix = "sekisho-"
    static let secretBytes = 32
    static let validSecondsMax: Int64 = 366 * 86_400
    static let perPersonMax = 64

    package func isUsable(at now: Timestamp) -> Bool { !revoked && now < expires }

    static func freshID() -> AccessKeyID {
        guard let id = try? AccessKeyID(Hex.encode(RandomBytes.array(8))) else { preconditionFailure("hex is an id") }
        return id
    }

    /// Splits `sekisho-ID-SECRET`; `nil` for anything else.
    package static func parse(_ text: String) -> (id: AccessKeyID, secret: [UInt8])? {
        guard text.utf8.count == textPrefix.utf8.count + 16 + 1 + 2 * secretBytes, text.hasPrefix(textPrefix) else {
            return nil
        }
        let parts = text.dropFirst(textPrefix.count).split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, parts[0].utf8.count == 16, let id = try? AccessKeyID(String(parts[0])),
            let secret = Hex.decode(String(parts[1])), secret.count == secretBytes
        else { return nil }
        return (id, secret)
    }
}

/// What is kept of a password or token: Argon2id of it, which cannot be turned back.
package struct SecretProof: Sendable, Equatable {
    let salt: [UInt8]
    let hash: [UInt8]
    let memoryBytes: Int
    let passes: Int

    // RFC 9106 asks for 64 MiB and 3 passes where 2 GiB are too much. A token has 256 random bits, so the least that
    // OWASP names is plenty.
    private static let password = (memoryBytes: 64 << 20, passes: 3)
    private static let token = (memoryBytes: 19 << 20, passes: 2)
    package static let passwordBytes = 12...256

    /// Slow on purpose (about 0.1 s); call it where it may block. Wipe `bytes` afterwards.
    package static func ofPassword(_ bytes: [UInt8]) throws -> SecretProof {
        guard passwordBytes.contains(bytes.count) else {
            throw GatewayError(
                .usage,
                "a password has at least \(passwordBytes.lowerBound) and at most \(passwordBytes.upperBound) bytes")
        }
        guard Set(bytes).count >= 5 else {
            throw GatewayError(.usage, "a password has at least 5 different characters")
        }
        return try make(bytes, memoryBytes: password.memoryBytes, passes: password.passes)
    }

    static func ofToken(_ bytes: [UInt8]) throws -> SecretProof {
        try make(bytes, memoryBytes: token.memoryBytes, passes: token.passes)
    }

    private static func make(_ bytes: [UInt8], memoryBytes: Int, passes: Int) throws -> SecretProof {
        let salt = RandomBytes.array(16)
        return SecretProof(
            salt: salt, hash: try derive(bytes, salt, memoryBytes, passes), memoryBytes: memoryBytes, passes: passes)
    }

    /// Slow on purpose; takes the same time whether it fits or not.
    package func fits(_ bytes: [UInt8]) throws -> Bool {
        constantTimeEqual(hash, try Self.derive(bytes, salt, memoryBytes, passes))
    }

    /// Nobody's: checked where a name is not known, so that the answer takes as long as for one that is.
    package static let nobodys = SecretProof(
        salt: [UInt8](repeating: 0, count: 16), hash: [UInt8](repeating: 0, count: 32),
        memoryBytes: password.memoryBytes, passes: password.passes)

    private static func derive(_ bytes: [UInt8], _ salt: [UInt8], _ memoryBytes: Int, _ passes: Int) throws -> [UInt8] {
        try KeyDerivation.argon2id(
            passphrase: SecretBytes(copying: bytes), salt: salt, memoryBytes: memoryBytes, passes: passes
        ).withBytes { Array($0) }
    }
}

extension SecretProof {
    /// As a case record keeps it; the trail holds only this payload's digest.
    var members: [String: JSON] {
        [
            "argon2id": .string(Hex.encode(hash)), "salt": .string(Hex.encode(salt)),
            "memory_bytes": .integer(Int64(memoryBytes)), "passes": .integer(Int64(passes)),
        ]
    }

    init?(_ json: JSON) {
        guard let hash = json["argon2id"]?.stringValue.flatMap(Hex.decode),
            let salt = json["salt"]?.stringValue.flatMap(Hex.decode),
            let memoryBytes = json["memory_bytes"]?.integerValue, let passes = json["passes"]?.integerValue
        else { return nil }
        self.init(salt: salt, hash: hash, memoryBytes: Int(memoryBytes), passes: Int(passes))
    }
}

extension AccessKey {
    var detail: [String: JSON] {
        var detail: [String: JSON] = [
            "id": .string(id.text), "person": .string(person.text),
            "scopes": .array(scopes.map(\.rawValue).sorted().map(JSON.string)),
            "expires": .integer(expires.milliseconds),
        ]
        switch kind {
        case .token: detail["kind"] = "token"
        case .certificate(let fingerprint):
            detail["kind"] = "certificate"
            detail["certificate"] = .string(fingerprint.hex)
        }
        return detail
    }

    fileprivate init?(_ record: CaseRecord) {
        let detail = record.detail
        guard let id = detail["id"]?.stringValue.flatMap({ try? AccessKeyID($0) }),
            let person = detail["person"]?.stringValue.flatMap({ try? PersonID($0) }),
            let expires = detail["expires"]?.integerValue
        else { return nil }
        let kind: Kind
        switch detail["kind"] {
        case "token": kind = .token
        case "certificate":
            guard let fingerprint = detail["certificate"]?.stringValue.flatMap(Digest.init(hex:)) else { return nil }
            kind = .certificate(fingerprint)
        default: return nil
        }
        let scopes = detail["scopes"]?.arrayValue?.compactMap { $0.stringValue.flatMap(Scope.init) } ?? []
        self.init(
            id: id, kind: kind, person: person, scopes: Set(scopes), created: record.time,
            expires: Timestamp(milliseconds: expires), revoked: false)
    }
}

/// Who people are and how they prove it, as the records say: what the door asks on every request, without waiting for
/// the gateway.
package final class Directory: Sendable {
    private struct State {
        var people: [PersonID: PersonRecord] = [:]
        var passwords: [PersonID: SecretProof] = [:]
        var keys: [AccessKeyID: AccessKey] = [:]
        var tokens: [AccessKeyID: SecretProof] = [:]
        var certificates: [Digest: AccessKeyID] = [:]
        var standings: [PersonID: UInt64] = [:]
        var policyKeys: [PersonID: VerifyingKey] = [:]
    }

    private let state = Mutex(State())

    init(_ records: [CaseRecord]) { for record in records { learn(record) } }

    /// Takes in what a record says about people; ignores every other record.
    func learn(_ record: CaseRecord) {
        guard record.outcome == .done else { return }
        state.withLock { state in
            let person = record.detail["person"]?.stringValue.flatMap { try? PersonID($0) }
            switch record.event {
            case .personAdded:
                guard let person else { return }
                let roles = record.detail["roles"]?.arrayValue?.compactMap { $0.stringValue.flatMap(Role.init) } ?? []
                state.people[person] = PersonRecord(id: person, roles: Set(roles))
                state.standings[person] = record.index
            case .credentialIssued:
                if record.detail["kind"] == "password", let person, let proof = SecretProof(record.payload) {
                    state.passwords[person] = proof
                    state.standings[person] = record.index
                } else if record.detail["kind"] == "policy-key", let person {
                    state.policyKeys[person] = record.detail["key"]?.stringValue.flatMap(Hex.decode)
                        .flatMap { VerifyingKey(bytes: $0) }
                } else if let key = AccessKey(record) {
                    state.keys[key.id] = key
                    switch key.kind {
                    case .token: state.tokens[key.id] = SecretProof(record.payload)
                    case .certificate(let fingerprint): state.certificates[fingerprint] = key.id
                    }
                }
            case .credentialRevoked:
                if record.detail["kind"] == "policy-key", let person { state.policyKeys[person] = nil }
                if let id = record.detail["id"]?.stringValue.flatMap({ try? AccessKeyID($0) }) {
                    state.keys[id]?.revoked = true
                }
            default: break
            }
        }
    }

    package var people: [PersonID: PersonRecord] { state.withLock(\.people) }
    package func person(_ id: PersonID) -> PersonRecord? { state.withLock { $0.people[id] } }
    package func password(of id: PersonID) -> SecretProof? { state.withLock { $0.passwords[id] } }
    package func key(_ id: AccessKeyID) -> AccessKey? { state.withLock { $0.keys[id] } }
    package func proof(ofToken id: AccessKeyID) -> SecretProof? { state.withLock { $0.tokens[id] } }

    package func key(ofCertificate fingerprint: Digest) -> AccessKey? {
        state.withLock { state in state.certificates[fingerprint].flatMap { state.keys[$0] } }
    }

    /// What people sign policies with.
    var policyKeys: [PersonID: VerifyingKey] { state.withLock(\.policyKeys) }
    func policyKey(of person: PersonID) -> VerifyingKey? { state.withLock { $0.policyKeys[person] } }

    package func keys(of person: PersonID) -> [AccessKey] {
        state.withLock { $0.keys.values.filter { $0.person == person } }.sorted { $0.created < $1.created }
    }

    package var allKeys: [AccessKey] { state.withLock { Array($0.keys.values) }.sorted { $0.created < $1.created } }

    /// Grows whenever the person's roles or password change; a session that started under another one is over.
    package func standing(of id: PersonID) -> UInt64? { state.withLock { $0.standings[id] } }
}
