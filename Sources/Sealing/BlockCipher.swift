internal import CBlockAES
internal import CSodium

/// AES-256-GCM for blocks of up to 64 KiB and more: vault chunks, run images, spilled tensors. Safe from many threads.
package final class BlockCipher: Sendable {
    package static let tagBytes = SK_BLOCK_TAG_BYTES

    // Written by `init` only; threads may use it at once.
    private nonisolated(unsafe) let cipher: OpaquePointer

    /// `key` is 32 bytes; its schedule is computed once.
    package init(key: borrowing SecretBytes) {
        precondition(key.count == SK_BLOCK_KEY_BYTES, "an AES-256 key is 32 bytes")
        guard let cipher = key.withBytes({ sk_block_cipher_new($0.bindMemory(to: UInt8.self).baseAddress!) }) else {
            fatalError("no memory for a cipher")
        }
        self.cipher = cipher
    }

    deinit { sk_block_cipher_free(cipher) }

    /// Writes ciphertext ‖ tag; `out.count == plaintext.count + 16`. `out` may start where `plaintext` does.
    ///
    /// A nonce is used for one plaintext only, ever, under one key: that is the caller's to hold.
    package func seal(
        _ plaintext: UnsafeRawBufferPointer, nonce: BlockNonce, aad: [UInt8],
        into out: UnsafeMutableRawBufferPointer
    ) throws(SealingError) {
        guard out.count == plaintext.count + Self.tagBytes else {
            throw SealingError(.wrongLength, "a sealed block is 16 bytes longer than its plaintext")
        }
        let target = out.baseAddress!.assumingMemoryBound(to: UInt8.self)
        let isSealed = nonce.withBytes { nonce in
            sk_block_seal(
                cipher, nonce.baseAddress!.assumingMemoryBound(to: UInt8.self),
                plaintext.baseAddress?.assumingMemoryBound(to: UInt8.self), plaintext.count, aad, aad.count, target,
                target + plaintext.count)
        }
        guard isSealed == 1 else {
            sodium_memzero(target, out.count)
            throw SealingError(.unavailable, "a block could not be sealed")
        }
    }

    /// `out.count == sealed.count - 16`. On any doubt `out` is wiped.
    package func open(
        _ sealed: UnsafeRawBufferPointer, nonce: BlockNonce, aad: [UInt8],
        into out: UnsafeMutableRawBufferPointer
    ) throws(SealingError) {
        guard sealed.count >= Self.tagBytes else {
            throw SealingError(.truncated, "a sealed block is shorter than its tag")
        }
        guard sealed.count == out.count + Self.tagBytes else {
            throw SealingError(.wrongLength, "a sealed block is 16 bytes longer than its plaintext")
        }
        let source = sealed.baseAddress!.assumingMemoryBound(to: UInt8.self)
        let isOpen = nonce.withBytes { nonce in
            sk_block_open(
                cipher, nonce.baseAddress!.assumingMemoryBound(to: UInt8.self), source, out.count, source + out.count,
                aad, aad.count, out.baseAddress?.assumingMemoryBound(to: UInt8.self))
        }
        guard isOpen == 1 else {
            if let start = out.baseAddress { sodium_memzero(start, out.count) }
            throw SealingError(.tampered, "a sealed block does not fit its key, place or context")
        }
    }

    package func seal(_ plaintext: [UInt8], nonce: BlockNonce, aad: [UInt8]) throws(SealingError) -> [UInt8] {
        var sealed = [UInt8](repeating: 0, count: plaintext.count + Self.tagBytes)
        let result = sealed.withUnsafeMutableBytes { out in
            plaintext.withUnsafeBytes { plain in
                Result { () throws(SealingError) in try seal(plain, nonce: nonce, aad: aad, into: out) }
            }
        }
        try result.get()
        return sealed
    }

    package func open(_ sealed: [UInt8], nonce: BlockNonce, aad: [UInt8]) throws(SealingError) -> [UInt8] {
        guard sealed.count >= Self.tagBytes else {
            throw SealingError(.truncated, "a sealed block is shorter than its tag")
        }
        var plaintext = [UInt8](repeating: 0, count: sealed.count - Self.tagBytes)
        let result = plaintext.withUnsafeMutableBytes { out in
            sealed.withUnsafeBytes { sealed in
                Result { () throws(SealingError) in try open(sealed, nonce: nonce, aad: aad, into: out) }
            }
        }
        try result.get()
        return plaintext
    }
}

/// The 12 bytes that are never used twice under one key: `high` (4) ‖ `low` (8), big endian.
package struct BlockNonce: Hashable, Sendable {
    package let high: UInt32
    package let low: UInt64

    package init(high: UInt32, low: UInt64) {
        self.high = high
        self.low = low
    }

    package func withBytes<Value: ~Copyable, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        let words = (
            high.bigEndian, UInt32(truncatingIfNeeded: low >> 32).bigEndian, UInt32(truncatingIfNeeded: low).bigEndian
        )
        return try withUnsafeBytes(of: words) { (bytes) throws(Failure) in try body(bytes) }
    }
}

/// Where a sealed block belongs. Sealed with it, so that a block moved to another place, file or owner does not open.
package struct BlockContext: Hashable, Sendable {
    package let domain: String
    package let owner: String
    package let section: UInt32

    /// `domain` and `owner` hold no zero byte.
    package init(domain: String, owner: String, section: UInt32) {
        precondition(
            !domain.utf8.contains(0) && !owner.utf8.contains(0), "a zero byte separates the parts of a context")
        self.domain = domain
        self.owner = owner
        self.section = section
    }

    /// `domain ‖ 0 ‖ owner ‖ 0 ‖ UInt32 section ‖ UInt64 index ‖ UInt32 plaintext length`, big endian.
    package func aad(index: UInt64, length: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(domain.utf8.count + owner.utf8.count + 18)
        bytes += domain.utf8
        bytes.append(0)
        bytes += owner.utf8
        bytes.append(0)
        withUnsafeBytes(of: section.bigEndian) { bytes += $0 }
        withUnsafeBytes(of: index.bigEndian) { bytes += $0 }
        withUnsafeBytes(of: UInt32(length).bigEndian) { bytes += $0 }
        return bytes
    }
}
