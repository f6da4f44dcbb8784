internal import CSodium
internal import Vocabulary

/// An X25519 private key that opens what was wrapped to its public half (libsodium sealed boxes).
package struct WrappingKey: ~Copyable, Sendable {
    private let secret: SecretBytes
    package let publicKey: PublicWrappingKey

    /// `secret` is 32 bytes.
    package init(secret: borrowing SecretBytes) throws(SealingError) {
        guard secret.count == 32 else { throw SealingError(.wrongLength, "a wrapping key is 32 bytes") }
        Sodium.ready()
        var publicBytes = [UInt8](repeating: 0, count: 32)
        secret.withBytes {
            _ = crypto_scalarmult_base(&publicBytes, $0.baseAddress!.assumingMemoryBound(to: UInt8.self))
        }
        self.secret = secret.clone()
        publicKey = PublicWrappingKey(trusted: publicBytes)
    }

    package static func generate() -> WrappingKey {
        // A secret of the right length is always a key.
        try! WrappingKey(secret: SecretBytes.random(count: 32))
    }

    package borrowing func unwrap(_ wrapped: [UInt8]) throws(SealingError) -> SecretBytes {
        let overhead = PublicWrappingKey.overheadBytes
        guard wrapped.count >= overhead else { throw SealingError(.truncated, "a wrapped key is too short") }
        var good = false
        let opened = SecretBytes(count: wrapped.count - overhead) { out in
            good = secret.withBytes { secret in
                crypto_box_seal_open(
                    out.baseAddress!.assumingMemoryBound(to: UInt8.self), wrapped, UInt64(wrapped.count),
                    publicKey.bytes, secret.baseAddress!.assumingMemoryBound(to: UInt8.self)) == 0
            }
        }
        guard good else { throw SealingError(.wrongKey, "a wrapped key was made for another key, or was changed") }
        return opened
    }

    /// Lends the 32-byte secret, to be sealed and stored.
    package borrowing func withSecret<Value: ~Copyable, Failure: Error>(
        _ body: (borrowing SecretBytes) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        try body(secret)
    }
}

/// An X25519 public key to which secrets are wrapped.
package struct PublicWrappingKey: Hashable, Sendable {
    /// A wrapped secret is this much longer: the sender's one-time public key and a tag.
    package static let overheadBytes = 48

    package let bytes: [UInt8]

    /// `nil` unless `bytes` is 32 long and not one of the points that make every shared secret zero.
    package init?(bytes: [UInt8]) {
        Sodium.ready()
        guard bytes.count == 32 else { return nil }
        var shared = [UInt8](repeating: 0, count: 32)
        let scalar = [UInt8](repeating: 1, count: 32)
        guard crypto_scalarmult(&shared, scalar, bytes) == 0 else { return nil }
        self.bytes = bytes
    }

    fileprivate init(trusted bytes: [UInt8]) { self.bytes = bytes }

    /// Anyone can wrap; only the private half opens. Each call gives other bytes.
    package func wrap(_ secret: borrowing SecretBytes) -> [UInt8] {
        secret.withBytes { secret in
            [UInt8](unsafeUninitializedCapacity: secret.count + Self.overheadBytes) { out, count in
                let done = crypto_box_seal(
                    out.baseAddress!, secret.baseAddress!.assumingMemoryBound(to: UInt8.self), UInt64(secret.count),
                    bytes)
                precondition(done == 0, "a checked public key always wraps")
                count = secret.count + Self.overheadBytes
            }
        }
    }
}

extension PublicWrappingKey: Codable, CustomStringConvertible {
    package var description: String { Hex.encode(bytes) }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let bytes = Hex.decode(try container.decode(String.self)), let key = PublicWrappingKey(bytes: bytes)
        else {
            throw DecodingError.dataCorruptedError(
                in: container, debugDescription: "not a public wrapping key in hexadecimal")
        }
        self = key
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(Hex.encode(bytes))
    }
}
