internal import CSodium

/// XChaCha20-Poly1305 (IETF construction) for records and stored keys: its 24-byte nonce may be drawn at random.
package enum SmallCipher {
    package static let nonceBytes = 24
    package static let tagBytes = 16

    /// `head` ‖ ciphertext ‖ tag; the last two are 16 bytes longer than `plaintext`. `key` is 32 bytes, `nonce` 24.
    package static func seal(
        _ plaintext: [UInt8], key: borrowing SecretBytes, nonce: [UInt8], aad: [UInt8], after head: [UInt8] = []
    ) -> [UInt8] {
        precondition(key.count == 32 && nonce.count == nonceBytes, "XChaCha20 takes a 32-byte key and a 24-byte nonce")
        Sodium.ready()
        return key.withBytes { key in
            [UInt8](unsafeUninitializedCapacity: head.count + plaintext.count + tagBytes) { out, count in
                _ = out.update(fromContentsOf: head)
                crypto_aead_xchacha20poly1305_ietf_encrypt(
                    out.baseAddress! + head.count, nil, plaintext, UInt64(plaintext.count), aad, UInt64(aad.count), nil,
                    nonce,
                    key.baseAddress!.assumingMemoryBound(to: UInt8.self))
                count = head.count + plaintext.count + tagBytes
            }
        }
    }

    package static func open(
        _ sealed: [UInt8], key: borrowing SecretBytes, nonce: [UInt8], aad: [UInt8]
    ) throws(SealingError) -> [UInt8] {
        guard sealed.count >= tagBytes else {
            throw SealingError(.truncated, "a sealed record is shorter than its tag")
        }
        guard key.count == 32, nonce.count == nonceBytes else {
            throw SealingError(.wrongLength, "a sealed record takes a 32-byte key and a 24-byte nonce")
        }
        Sodium.ready()
        var good = false
        let plaintext = key.withBytes { key in
            [UInt8](unsafeUninitializedCapacity: max(1, sealed.count - tagBytes)) { out, count in
                good =
                    crypto_aead_xchacha20poly1305_ietf_decrypt(
                        out.baseAddress!, nil, nil, sealed, UInt64(sealed.count), aad, UInt64(aad.count), nonce,
                        key.baseAddress!.assumingMemoryBound(to: UInt8.self)) == 0
                count = good ? sealed.count - tagBytes : 0
            }
        }
        guard good else { throw SealingError(.tampered, "a sealed record does not fit its key or context") }
        return plaintext
    }

    /// As `open`, for a plaintext that is itself a key: it goes straight into guarded memory.
    package static func openSecret(
        _ sealed: [UInt8], key: borrowing SecretBytes, nonce: [UInt8], aad: [UInt8]
    ) throws(SealingError) -> SecretBytes {
        var plaintext = try open(sealed, key: key, nonce: nonce, aad: aad)
        defer { wipe(&plaintext) }
        return SecretBytes(copying: plaintext)
    }

    /// Seals a key: nonce ‖ ciphertext ‖ tag with a fresh random nonce.
    package static func sealSecret(
        _ secret: borrowing SecretBytes, key: borrowing SecretBytes, aad: [UInt8]
    ) -> [UInt8] {
        var plaintext = secret.withBytes { Array($0) }
        defer { wipe(&plaintext) }
        let nonce = RandomBytes.array(nonceBytes)
        return nonce + seal(plaintext, key: key, nonce: nonce, aad: aad)
    }

    /// Opens what `sealSecret` made.
    package static func openSecret(
        noncePrefixed sealed: [UInt8], key: borrowing SecretBytes, aad: [UInt8]
    ) throws(SealingError) -> SecretBytes {
        guard sealed.count >= nonceBytes + tagBytes else {
            throw SealingError(.truncated, "a sealed key is shorter than its nonce and tag")
        }
        return try openSecret(
            Array(sealed[nonceBytes...]), key: key, nonce: Array(sealed[..<nonceBytes]), aad: aad)
    }
}
