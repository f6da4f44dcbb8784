internal import Synchronization

/// AES-256-GCM for blocks of up to 64 KiB and more: vault chunks, run images, spilled tensors. Safe from many threads.
package final class BlockCipher: Sendable {
    package static let tagBytes = AESGCM.tagBytes

    private let original: AESGCM
    // Contexts that no thread is using now; as many are made as there are threads sealing at once.
    private let idle = Mutex<[Boxed]>([])

    /// `key` is 32 bytes; its schedule is computed once.
    package init(key: borrowing SecretBytes) { original = AESGCM(key: key) }

    /// Writes ciphertext ‖ tag; `out.count == plaintext.count + 16`. `out` may start where `plaintext` does.
    ///
    /// A nonce is used for one plaintext only, ever, under one key: that is the caller's to hold.
    package func seal(
        _ plaintext: UnsafeRawBufferPointer, nonce: BlockNonce, aad: [UInt8],
        into out: UnsafeMutableRawBufferPointer
    ) throws(SealingError) {
        try lent { (gcm) throws(SealingError) in
            try gcm.seal(plaintext, nonce: nonce, aad: aad, into: out)
        }
    }

    /// `out.count == sealed.count - 16`. On any doubt `out` is wiped.
    package func open(
        _ sealed: UnsafeRawBufferPointer, nonce: BlockNonce, aad: [UInt8],
        into out: UnsafeMutableRawBufferPointer
    ) throws(SealingError) {
        try lent { (gcm) throws(SealingError) in
            try gcm.open(sealed, nonce: nonce, aad: aad, into: out)
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

    private func lent(_ body: (Boxed) throws(SealingError) -> Void) throws(SealingError) {
        let gcm = idle.withLock { $0.popLast() } ?? Boxed(AESGCM(sharing: original))
        defer { idle.withLock { $0.append(gcm) } }
        try body(gcm)
    }

    // A context in use belongs to the one thread that took it from `idle`.
    private final class Boxed: @unchecked Sendable {
        private var gcm: AESGCM

        init(_ gcm: consuming AESGCM) { self.gcm = gcm }

        func seal(
            _ plaintext: UnsafeRawBufferPointer, nonce: BlockNonce, aad: [UInt8],
            into out: UnsafeMutableRawBufferPointer
        ) throws(SealingError) {
            try nonce.withBytes { (nonce) throws(SealingError) in
                try aad.withRawBytes { (aad) throws(SealingError) in
                    try gcm.seal(plaintext, nonce: nonce, aad: aad, into: out)
                }
            }
        }

        func open(
            _ sealed: UnsafeRawBufferPointer, nonce: BlockNonce, aad: [UInt8],
            into out: UnsafeMutableRawBufferPointer
        ) throws(SealingError) {
            try nonce.withBytes { (nonce) throws(SealingError) in
                try aad.withRawBytes { (aad) throws(SealingError) in
                    try gcm.open(sealed, nonce: nonce, aad: aad, into: out)
                }
            }
        }
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

/// AES-256-GCM for the small frames of one lane direction: one context, one owner, no lock, no allocation.
package struct FrameCipher: ~Copyable, Sendable {
    package static let tagBytes = AESGCM.tagBytes
    package static let nonceBytes = AESGCM.nonceBytes

    private var gcm: AESGCM

    /// `key` is 32 bytes.
    package init(key: borrowing SecretBytes) { gcm = AESGCM(key: key) }

    /// Writes ciphertext ‖ tag; `out.count == plaintext.count + 16`, `nonce` is 12 bytes and never used before.
    package mutating func seal(
        _ plaintext: UnsafeRawBufferPointer, nonce: UnsafeRawBufferPointer, aad: UnsafeRawBufferPointer,
        into out: UnsafeMutableRawBufferPointer
    ) throws(SealingError) {
        try gcm.seal(plaintext, nonce: nonce, aad: aad, into: out)
    }

    /// `out.count == sealed.count - 16`. On any doubt `out` is wiped.
    package mutating func open(
        _ sealed: UnsafeRawBufferPointer, nonce: UnsafeRawBufferPointer, aad: UnsafeRawBufferPointer,
        into out: UnsafeMutableRawBufferPointer
    ) throws(SealingError) {
        try gcm.open(sealed, nonce: nonce, aad: aad, into: out)
    }
}

extension [UInt8] {
    /// `withUnsafeBytes` that keeps the type of what `body` throws.
    fileprivate func withRawBytes<Value, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        let result = withUnsafeBytes { bytes in Result { () throws(Failure) in try body(bytes) } }
        return try result.get()
    }
}
