internal import CSodium
package import Vocabulary

/// Keys made from keys and from passphrases, and public commitments to keys.
package enum KeyDerivation {
    /// HKDF-SHA256 (RFC 5869) with the info `info ‖ 0x00 ‖ context`: `info` names the use, `context` the instance.
    package static func hkdf(
        _ key: borrowing SecretBytes, salt: [UInt8] = [], info: String, context: [UInt8] = [], count: Int = 32
    ) -> SecretBytes {
        hkdf(key, salt: salt, rawInfo: Array(info.utf8) + [0] + context, count: count)
    }

    /// HKDF-SHA256 exactly as RFC 5869 writes it.
    package static func hkdf(
        _ key: borrowing SecretBytes, salt: [UInt8], rawInfo: [UInt8], count: Int
    ) -> SecretBytes {
        precondition((1...255 * 32).contains(count), "HKDF makes 1 to 8160 bytes")
        let extracted = key.withBytes { key in
            SecretBytes(count: 32) { out in
                var mac = HMAC(key: salt)
                mac.update(key)
                mac.finalize(into: out)
            }
        }
        return SecretBytes(count: count) { out in
            var filled = 0
            var round: UInt8 = 1
            withUnsafeTemporaryAllocation(byteCount: 32, alignment: 16) { block in
                while filled < count {
                    var mac = extracted.withBytes { HMAC(key: $0) }
                    if round > 1 { mac.update(UnsafeRawBufferPointer(block)) }
                    rawInfo.withUnsafeBytes { mac.update($0) }
                    withUnsafeBytes(of: round) { mac.update($0) }
                    mac.finalize(into: block)
                    let part = min(32, count - filled)
                    out[filled..<filled + part].copyBytes(from: block.prefix(part))
                    filled += part
                    round &+= 1
                }
                sodium_memzero(block.baseAddress!, 32)
            }
        }
    }

    /// Argon2id 1.3 (RFC 9106) with one lane, as libsodium has it. `salt` is 16 bytes.
    package static func argon2id(
        passphrase: borrowing SecretBytes, salt: [UInt8], memoryBytes: Int, passes: Int, count: Int = 32
    ) throws(SealingError) -> SecretBytes {
        guard salt.count == Int(crypto_pwhash_SALTBYTES) else {
            throw SealingError(.wrongLength, "a passphrase salt is \(crypto_pwhash_SALTBYTES) bytes")
        }
        // The parameters may come from a stored header: bounded, so that a changed file cannot ask for all memory.
        guard (8_192...(4 << 30)).contains(memoryBytes), (1...64).contains(passes), (16...64).contains(count) else {
            throw SealingError(.malformed, "the passphrase parameters are outside their bounds")
        }
        var done = false
        let key = SecretBytes(count: count) { out in
            done = passphrase.withBytes { phrase in
                crypto_pwhash(
                    out.baseAddress!.assumingMemoryBound(to: UInt8.self), UInt64(count),
                    phrase.baseAddress!.assumingMemoryBound(to: CChar.self), UInt64(phrase.count), salt,
                    UInt64(passes), memoryBytes, crypto_pwhash_ALG_ARGON2ID13) == 0
            }
        }
        guard done else { throw SealingError(.unavailable, "no memory for the passphrase derivation") }
        return key
    }

    /// Names a key without telling anything about it, and binds who publishes it to that one key.
    package static func commitment(_ key: borrowing SecretBytes) -> Digest {
        var stream = SHA256Stream()
        stream.update("sekisho key commitment v1")
        key.withBytes { stream.update($0) }
        return stream.finalize()
    }

    /// HMAC-SHA256 (RFC 2104).
    package static func hmac(_ key: borrowing SecretBytes, _ message: [UInt8]) -> [UInt8] {
        var mac = key.withBytes { HMAC(key: $0) }
        message.withUnsafeBytes { mac.update($0) }
        var tag = [UInt8](repeating: 0, count: 32)
        tag.withUnsafeMutableBytes { mac.finalize(into: $0) }
        return tag
    }
}

/// HMAC-SHA256 under one key for many messages: what the key does to the hash is computed once and kept guarded.
package struct MACKey: ~Copyable, Sendable {
    /// The hash's state after the key's inner block, and after its outer.
    private let states: SecretBytes

    /// `key` is at most 64 bytes.
    package init(_ key: borrowing SecretBytes) {
        precondition(key.count <= 64, "a key of one block")
        states = SecretBytes(count: 2 * SHA256State.byteCount) { out in
            for (place, pad) in [0x36 as UInt8, 0x5C].enumerated() {
                withUnsafeTemporaryAllocation(byteCount: 64, alignment: 1) { block in
                    for at in block.indices { block[at] = pad }
                    key.withBytes { for at in $0.indices { block[at] ^= $0[at] } }
                    SHA256State.begin(
                        with: UnsafeRawBufferPointer(block), in: out.baseAddress! + place * SHA256State.byteCount)
                    sodium_memzero(block.baseAddress!, block.count)
                }
            }
        }
    }

    /// 32 bytes.
    package borrowing func tag(_ message: [UInt8]) -> [UInt8] {
        states.withBytes { states in
            let inner = message.withUnsafeBytes { SHA256State.finish(states.baseAddress!, with: $0) }
            return withUnsafeBytes(of: inner) {
                SHA256State.finish(states.baseAddress! + SHA256State.byteCount, with: $0)
            }.bytes
        }
    }
}

/// HMAC-SHA256 over pieces; its state is wiped when the tag is out.
private struct HMAC {
    private var state = crypto_auth_hmacsha256_state()

    init(key: UnsafeRawBufferPointer) {
        Sodium.ready()
        withUnsafeMutablePointer(to: &state) {
            // An empty buffer may have no address, which the library does not take even for no bytes.
            let address = key.baseAddress ?? UnsafeRawPointer($0)
            crypto_auth_hmacsha256_init($0, address.assumingMemoryBound(to: UInt8.self), key.count)
        }
    }

    init(key: [UInt8]) { self = key.withUnsafeBytes { HMAC(key: $0) } }

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress, !bytes.isEmpty else { return }
        crypto_auth_hmacsha256_update(&state, start.assumingMemoryBound(to: UInt8.self), UInt64(bytes.count))
    }

    mutating func finalize(into out: UnsafeMutableRawBufferPointer) {
        precondition(out.count >= 32, "an HMAC-SHA256 tag is 32 bytes")
        crypto_auth_hmacsha256_final(&state, out.baseAddress!.assumingMemoryBound(to: UInt8.self))
        withUnsafeMutableBytes(of: &state) { sodium_memzero($0.baseAddress, $0.count) }
    }
}
