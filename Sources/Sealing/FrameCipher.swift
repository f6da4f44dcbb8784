internal import COpenSSL
internal import CSodium

/// AES-256-GCM for the small frames of one lane direction: one libcrypto context with its key schedule, one owner, no
/// lock, no allocation. Works in place or between two buffers that do not overlap.
package struct FrameCipher: ~Copyable {
    package static let tagBytes = 16
    package static let nonceBytes = 12

    private let context: OpaquePointer

    /// `key` is 32 bytes.
    package init(key: borrowing SecretBytes) {
        precondition(key.count == 32, "an AES-256 key is 32 bytes")
        guard let context = EVP_CIPHER_CTX_new() else { fatalError("no memory for a cipher") }
        let ready = key.withBytes {
            EVP_EncryptInit_ex(
                context, EVP_aes_256_gcm(), nil, $0.baseAddress!.assumingMemoryBound(to: UInt8.self), nil)
        }
        precondition(ready == 1, "libcrypto has no AES-256-GCM")
        self.context = context
    }

    deinit { EVP_CIPHER_CTX_free(context) }

    /// Writes ciphertext ‖ tag; `out.count == plaintext.count + 16`, `nonce` is 12 bytes and never used before.
    package mutating func seal(
        _ plaintext: UnsafeRawBufferPointer, nonce: UnsafeRawBufferPointer, aad: UnsafeRawBufferPointer,
        into out: UnsafeMutableRawBufferPointer
    ) throws(SealingError) {
        guard out.count == plaintext.count + Self.tagBytes, nonce.count == Self.nonceBytes,
            plaintext.count <= Int(Int32.max), aad.count <= Int(Int32.max)
        else { throw SealingError(.wrongLength, "a sealed block is 16 bytes longer than its plaintext") }
        var written: Int32 = 0
        let target = out.baseAddress!.assumingMemoryBound(to: UInt8.self)
        var good =
            EVP_EncryptInit_ex(context, nil, nil, nil, nonce.baseAddress!.assumingMemoryBound(to: UInt8.self)) == 1
        if let start = aad.baseAddress, aad.count > 0 {
            good =
                good
                && EVP_EncryptUpdate(
                    context, nil, &written, start.assumingMemoryBound(to: UInt8.self), Int32(aad.count)) == 1
        }
        if let start = plaintext.baseAddress, plaintext.count > 0 {
            good =
                good
                && EVP_EncryptUpdate(
                    context, target, &written, start.assumingMemoryBound(to: UInt8.self), Int32(plaintext.count)) == 1
                && Int(written) == plaintext.count
        }
        good =
            good && EVP_EncryptFinal_ex(context, target + plaintext.count, &written) == 1
            && EVP_CIPHER_CTX_ctrl(
                context, EVP_CTRL_AEAD_GET_TAG, Int32(Self.tagBytes), target + plaintext.count) == 1
        guard good else {
            sodium_memzero(out.baseAddress!, out.count)
            throw SealingError(.unavailable, "libcrypto could not seal a block")
        }
    }

    /// Opens ciphertext ‖ tag. When the tag does not fit, `out` is wiped: nothing unauthenticated is ever handed out.
    package mutating func open(
        _ sealed: UnsafeRawBufferPointer, nonce: UnsafeRawBufferPointer, aad: UnsafeRawBufferPointer,
        into out: UnsafeMutableRawBufferPointer
    ) throws(SealingError) {
        guard sealed.count >= Self.tagBytes else {
            throw SealingError(.truncated, "a sealed block is shorter than its tag")
        }
        guard sealed.count == out.count + Self.tagBytes, nonce.count == Self.nonceBytes,
            sealed.count <= Int(Int32.max), aad.count <= Int(Int32.max)
        else { throw SealingError(.wrongLength, "a sealed block is 16 bytes longer than its plaintext") }
        var written: Int32 = 0
        let source = UnsafeMutablePointer(mutating: sealed.baseAddress!.assumingMemoryBound(to: UInt8.self))
        // Final writes nothing in this mode, but wants an address even for an empty plaintext.
        var spare: UInt8 = 0
        var good =
            EVP_DecryptInit_ex(context, nil, nil, nil, nonce.baseAddress!.assumingMemoryBound(to: UInt8.self)) == 1
        // The tag is only read; the library's call has no const.
        good =
            good
            && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, Int32(Self.tagBytes), source + out.count) == 1
        if let start = aad.baseAddress, aad.count > 0 {
            good =
                good
                && EVP_DecryptUpdate(
                    context, nil, &written, start.assumingMemoryBound(to: UInt8.self), Int32(aad.count)) == 1
        }
        if let start = out.baseAddress, out.count > 0 {
            good =
                good
                && EVP_DecryptUpdate(
                    context, start.assumingMemoryBound(to: UInt8.self), &written, source, Int32(out.count)) == 1
        }
        guard good, EVP_DecryptFinal_ex(context, &spare, &written) == 1 else {
            if let start = out.baseAddress { sodium_memzero(start, out.count) }
            throw SealingError(.tampered, "a sealed block does not fit its key, place or context")
        }
    }
}

// The context is reached only through mutating calls of its one owner.
extension FrameCipher: @unchecked Sendable {}
