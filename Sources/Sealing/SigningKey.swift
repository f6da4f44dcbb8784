internal import CSodium
internal import Vocabulary

/// An Ed25519 private key (RFC 8032) in guarded memory.
package struct SigningKey: ~Copyable, Sendable {
    private let secret: SecretBytes
    package let verifyingKey: VerifyingKey

    /// `seed` is 32 bytes.
    package init(seed: borrowing SecretBytes) throws(SealingError) {
        guard seed.count == 32 else { throw SealingError(.wrongLength, "a signing key's seed is 32 bytes") }
        Sodium.ready()
        var publicBytes = [UInt8](repeating: 0, count: 32)
        secret = SecretBytes(count: Int(crypto_sign_SECRETKEYBYTES)) { out in
            _ = seed.withBytes { seed in
                crypto_sign_seed_keypair(
                    &publicBytes, out.baseAddress!.assumingMemoryBound(to: UInt8.self),
                    seed.baseAddress!.assumingMemoryBound(to: UInt8.self))
            }
        }
        verifyingKey = VerifyingKey(bytes: publicBytes)!
    }

    package static func generate() -> SigningKey {
        // A seed of the right length is always a key.
        try! SigningKey(seed: SecretBytes.random(count: 32))
    }

    /// 64 bytes, the same for the same message.
    package borrowing func sign(_ message: [UInt8]) -> [UInt8] {
        secret.withBytes { secret in
            [UInt8](unsafeUninitializedCapacity: VerifyingKey.signatureBytes) { out, count in
                crypto_sign_detached(
                    out.baseAddress!, nil, message, UInt64(message.count),
                    secret.baseAddress!.assumingMemoryBound(to: UInt8.self))
                count = VerifyingKey.signatureBytes
            }
        }
    }

    /// Lends the 32-byte seed, to be sealed and stored.
    package borrowing func withSeed<Value: ~Copyable, Failure: Error>(
        _ body: (borrowing SecretBytes) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        // libsodium's private key is seed ‖ public key.
        let seed = secret.withBytes { SecretBytes(copying: UnsafeRawBufferPointer(rebasing: $0[..<32])) }
        return try body(seed)
    }
}

/// An Ed25519 public key.
package struct VerifyingKey: Hashable, Sendable {
    package static let byteCount = 32
    package static let signatureBytes = 64

    package let bytes: [UInt8]

    /// `nil` unless `bytes` is 32 long.
    package init?(bytes: [UInt8]) {
        guard bytes.count == Self.byteCount else { return nil }
        self.bytes = bytes
    }

    package func isValid(_ signature: [UInt8], for message: [UInt8]) -> Bool {
        Sodium.ready()
        return signature.count == Self.signatureBytes
            && crypto_sign_verify_detached(signature, message, UInt64(message.count), bytes) == 0
    }
}

extension VerifyingKey: Codable, CustomStringConvertible {
    package var description: String { Hex.encode(bytes) }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let bytes = Hex.decode(try container.decode(String.self)), let key = VerifyingKey(bytes: bytes) else {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "not a public key in hexadecimal")
        }
        self = key
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(Hex.encode(bytes))
    }
}
