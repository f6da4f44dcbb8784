internal import CSodium

/// Why an age file could not be made or opened. The codes are those of the format's own test suite.
package struct AgeError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// The header is not well formed or not allowed.
        case header
        /// No key that is here opens the file.
        case noMatch = "no match"
        /// The header was changed.
        case hmac = "HMAC"
        /// The content was changed or cut.
        case payload
        /// The text form around the file is not well formed.
        case armor
        /// A recipient or identity is not one.
        case key
    }

    package let code: Code
    package let publicDescription: String

    package init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    package var description: String { "\(code.rawValue): \(publicDescription)" }
}

/// Whom an age file is for (C2SP `age`): X25519 (`age1…`), or X-Wing, which also withstands quantum computers
/// (`age1pq1…`): a genome is as private in thirty years as it is today.
package struct AgeRecipient: Hashable, Sendable, CustomStringConvertible {
    enum Kind: Hashable, Sendable {
        case x25519(PublicWrappingKey)
        case hybrid([UInt8])
    }
    let kind: Kind

    package init(_ key: PublicWrappingKey) { kind = .x25519(key) }

    init(hybrid publicKey: [UInt8]) { kind = .hybrid(publicKey) }

    package init(parsing text: String) throws(AgeError) {
        let bad = AgeError(.key, "not an age recipient; it begins with age1 or age1pq1")
        guard let (prefix, bytes) = Bech32.decode(text) else { throw bad }
        switch prefix {
        case "age":
            guard let key = PublicWrappingKey(bytes: bytes) else { throw bad }
            kind = .x25519(key)
        case "age1pq":
            guard AgeHybrid.isPublicKey(bytes) else { throw bad }
            kind = .hybrid(bytes)
        default: throw bad
        }
    }

    package var description: String {
        switch kind {
        case .x25519(let key): Bech32.encode(prefix: "age", key.bytes)
        case .hybrid(let bytes): Bech32.encode(prefix: "age1pq", bytes)
        }
    }

    package var isHybrid: Bool { if case .hybrid = kind { true } else { false } }
}

/// A private key that opens age files.
package final class AgeIdentity: Sendable {
    private enum Kind: Sendable { case x25519, hybrid }
    private let kind: Kind
    private let secret: SecretBytes
    package let recipient: AgeRecipient

    private init(_ kind: Kind, _ secret: consuming SecretBytes, _ recipient: AgeRecipient) {
        self.kind = kind
        self.secret = secret
        self.recipient = recipient
    }

    /// The age form of a wrapping key: an auditor's one key opens both the trail's records and the sealed exports.
    package convenience init(_ key: borrowing WrappingKey) {
        self.init(.x25519, key.withSecret { $0.clone() }, AgeRecipient(key.publicKey))
    }

    package static func generateHybrid() -> AgeIdentity {
        let secret = SecretBytes.random(count: 32)
        let publicKey = AgeHybrid.publicKey(of: secret)
        return AgeIdentity(.hybrid, secret, AgeRecipient(hybrid: publicKey))
    }

    /// Reads `AGE-SECRET-KEY-1…` or `AGE-SECRET-KEY-PQ-1…`. The caller's text is the caller's to wipe.
    package convenience init(parsing text: String) throws(AgeError) {
        let bad = AgeError(.key, "not an age identity; it begins with AGE-SECRET-KEY-")
        guard let decoded = Bech32.decode(text), decoded.bytes.count == 32 else { throw bad }
        let prefix = decoded.prefix
        var bytes = decoded.bytes
        defer { wipe(&bytes) }
        let secret = SecretBytes(copying: bytes)
        switch prefix {
        case "AGE-SECRET-KEY-":
            guard let key = try? WrappingKey(secret: secret) else { throw bad }
            self.init(key)
        case "AGE-SECRET-KEY-PQ-":
            let publicKey = AgeHybrid.publicKey(of: secret)
            self.init(.hybrid, secret, AgeRecipient(hybrid: publicKey))
        default: throw bad
        }
    }

    /// The identity's text, to be written to a file that only its owner reads, and wiped.
    package func withText<Value>(_ body: (inout [UInt8]) throws -> Value) rethrows -> Value {
        let prefix = kind == .x25519 ? "AGE-SECRET-KEY-" : "AGE-SECRET-KEY-PQ-"
        var bytes = secret.withBytes { Array($0) }
        defer { wipe(&bytes) }
        var text = Array(Bech32.encode(prefix: prefix, bytes).utf8)
        defer { wipe(&text) }
        return try body(&text)
    }

    /// The file key, when one of the stanzas is for this identity. A stanza of its own kind that is not well formed is
    /// an error, whoever it is for.
    func unwrap(_ stanzas: [AgeStanza]) throws(AgeError) -> SecretBytes? {
        for stanza in stanzas {
            switch (kind, stanza.type) {
            case (.x25519, AgeX25519.type):
                if let key = try AgeX25519.unwrap(stanza, secret: secret, recipient: recipient) { return key }
            case (.hybrid, AgeHybrid.type):
                if let key = try AgeHybrid.unwrap(stanza, secret: secret) { return key }
            default: continue
            }
        }
        return nil
    }
}

/// The X25519 recipient type.
enum AgeX25519 {
    static let type = "X25519"

    static func wrap(_ fileKey: borrowing SecretBytes, to recipient: PublicWrappingKey) -> AgeStanza {
        let ephemeral = WrappingKey.generate()
        // A checked recipient never gives a zero secret.
        let key = ephemeral.withSecret {
            wrapKey($0, share: ephemeral.publicKey.bytes, other: recipient.bytes, recipient)
        }!
        return AgeStanza(
            type: type, arguments: [AgeBase64.encode(ephemeral.publicKey.bytes)], body: AgeCipher.seal(fileKey, key))
    }

    static func unwrap(
        _ stanza: AgeStanza, secret: borrowing SecretBytes, recipient: AgeRecipient
    ) throws(AgeError) -> SecretBytes? {
        guard stanza.arguments.count == 1, let share = AgeBase64.decode(stanza.arguments[0].utf8), share.count == 32,
            stanza.body.count == AgeCipher.wrappedBytes
        else { throw AgeError(.header, "an X25519 stanza is not well formed") }
        guard case .x25519(let own) = recipient.kind,
            let key = wrapKey(secret, share: share, other: share, own)
        else { throw AgeError(.header, "an X25519 share is of low order") }
        return AgeCipher.open(stanza.body, key)
    }

    /// `nil` when the shared secret would be zero.
    private static func wrapKey(
        _ secret: borrowing SecretBytes, share: [UInt8], other: [UInt8], _ recipient: PublicWrappingKey
    ) -> SecretBytes? {
        var good = false
        let shared = SecretBytes(count: 32) { out in
            good = secret.withBytes {
                crypto_scalarmult(
                    out.baseAddress!.assumingMemoryBound(to: UInt8.self),
                    $0.baseAddress!.assumingMemoryBound(to: UInt8.self), other) == 0
            }
        }
        guard good else { return nil }
        return KeyDerivation.hkdf(
            shared, salt: share + recipient.bytes, rawInfo: Array("age-encryption.org/v1/X25519".utf8), count: 32)
    }
}

/// The passphrase recipient type: only opened here, never made.
enum AgeScrypt {
    static let type = "scrypt"
    /// 2^22 blocks of 1 KiB: 4 GiB would be asked for above.
    private static let workFactorMax = 20

    static func unwrap(_ stanza: AgeStanza, passphrase: borrowing SecretBytes) throws(AgeError) -> SecretBytes? {
        let malformed = AgeError(.header, "a scrypt stanza is not well formed")
        guard stanza.arguments.count == 2, let salt = AgeBase64.decode(stanza.arguments[0].utf8), salt.count == 16,
            let factor = Int(stanza.arguments[1]), String(factor) == stanza.arguments[1], factor > 0,
            stanza.body.count == AgeCipher.wrappedBytes
        else { throw malformed }
        guard factor <= workFactorMax else { throw AgeError(.header, "a scrypt work factor is too high") }
        let labelled = Array("age-encryption.org/v1/scrypt".utf8) + salt
        var good = false
        let key = SecretBytes(count: 32) { out in
            good = passphrase.withBytes {
                crypto_pwhash_scryptsalsa208sha256_ll(
                    $0.baseAddress!.assumingMemoryBound(to: UInt8.self), $0.count, labelled, labelled.count,
                    1 << UInt64(factor), 8, 1, out.baseAddress!.assumingMemoryBound(to: UInt8.self), 32) == 0
            }
        }
        guard good else { throw AgeError(.header, "there is no memory for the scrypt work factor") }
        return AgeCipher.open(stanza.body, key)
    }
}

/// The 16-byte file key under a key that is used once: ChaCha20-Poly1305 with a nonce of zeros.
enum AgeCipher {
    static let fileKeyBytes = 16
    static let wrappedBytes = 32
    private static let nonce = [UInt8](repeating: 0, count: 12)

    static func seal(_ fileKey: borrowing SecretBytes, _ key: borrowing SecretBytes) -> [UInt8] {
        fileKey.withBytes { seal($0, key, nonce: nonce) }
    }

    static func open(_ sealed: [UInt8], _ key: borrowing SecretBytes) -> SecretBytes? {
        var good = false
        let secret = SecretBytes(count: max(sealed.count - 16, 0)) { out in
            good = open(sealed[...], key, nonce: nonce, into: out)
        }
        if good { return secret }
        return nil
    }

    /// Ciphertext ‖ tag.
    static func seal(
        _ plaintext: UnsafeRawBufferPointer, _ key: borrowing SecretBytes, nonce: [UInt8]
    ) -> [UInt8] {
        key.withBytes { key in
            [UInt8](unsafeUninitializedCapacity: plaintext.count + 16) { out, count in
                // An empty buffer may have no address, which the library does not take even for no bytes.
                let start = plaintext.baseAddress ?? UnsafeRawPointer(out.baseAddress!)
                crypto_aead_chacha20poly1305_ietf_encrypt(
                    out.baseAddress!, nil, start.assumingMemoryBound(to: UInt8.self), UInt64(plaintext.count), nil, 0,
                    nil, nonce, key.baseAddress!.assumingMemoryBound(to: UInt8.self))
                count = plaintext.count + 16
            }
        }
    }

    /// `out` is 16 bytes shorter than `sealed`.
    static func open(
        _ sealed: ArraySlice<UInt8>, _ key: borrowing SecretBytes, nonce: [UInt8],
        into out: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard sealed.count == out.count + 16 else { return false }
        return key.withBytes { key in
            sealed.withUnsafeBufferPointer { sealed in
                var spare: UInt8 = 0
                return withUnsafeMutablePointer(to: &spare) { spare in
                    crypto_aead_chacha20poly1305_ietf_decrypt(
                        out.baseAddress?.assumingMemoryBound(to: UInt8.self) ?? spare, nil, nil, sealed.baseAddress!,
                        UInt64(sealed.count), nil, 0, nonce, key.baseAddress!.assumingMemoryBound(to: UInt8.self)) == 0
                }
            }
        }
    }
}
