internal import CSodium

/// A key or another secret: locked, guarded memory (`sodium_malloc`), read-only once filled, wiped at its end.
package struct SecretBytes: ~Copyable {
    private let start: UnsafeMutableRawPointer
    package let count: Int

    /// Lends fresh zeroed memory to `fill`, once.
    package init<Failure: Error>(
        count: Int, fill: (UnsafeMutableRawBufferPointer) throws(Failure) -> Void
    ) throws(Failure) {
        Sodium.ready()
        // A guarded page needs at least one byte to stand beside.
        guard let start = sodium_malloc(max(count, 1)) else { fatalError("no memory can be locked for a secret") }
        sodium_memzero(start, max(count, 1))
        do {
            try fill(UnsafeMutableRawBufferPointer(start: start, count: count))
        } catch {
            sodium_free(start)
            throw error
        }
        sodium_mprotect_readonly(start)
        self.start = start
        self.count = count
    }

    /// The caller's copy is the caller's to wipe; see `wipe(_:)`.
    package init(copying bytes: [UInt8]) {
        self.init(count: bytes.count) { $0.copyBytes(from: bytes) }
    }

    package init(copying bytes: UnsafeRawBufferPointer) {
        self.init(count: bytes.count) { $0.copyMemory(from: bytes) }
    }

    deinit { sodium_free(start) }

    package static func random(count: Int) -> SecretBytes {
        SecretBytes(count: count) { randombytes_buf($0.baseAddress!, $0.count) }
    }

    package borrowing func withBytes<Value: ~Copyable, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        try body(UnsafeRawBufferPointer(start: start, count: count))
    }

    package borrowing func clone() -> SecretBytes {
        SecretBytes(copying: UnsafeRawBufferPointer(start: start, count: count))
    }

    /// Takes the same time whatever the bytes are.
    package borrowing func isEqual(to other: borrowing SecretBytes) -> Bool {
        count == other.count && sodium_memcmp(start, other.start, count) == 0
    }
}

// The memory is written only inside init and is read-only afterwards; one owner frees it.
extension SecretBytes: @unchecked Sendable {}

/// Takes the same time whatever the bytes are; lengths are public.
package func constantTimeEqual(_ left: [UInt8], _ right: [UInt8]) -> Bool {
    left.count == right.count && sodium_memcmp(left, right, left.count) == 0
}

/// Overwrites a passing copy of a secret, so that freed memory does not hold it.
package func wipe(_ bytes: inout [UInt8]) {
    bytes.withUnsafeMutableBytes { sodium_memzero($0.baseAddress, $0.count) }
}

/// The system's random source.
package enum RandomBytes {
    package static func array(_ count: Int) -> [UInt8] {
        Sodium.ready()
        return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            if count > 0 { randombytes_buf(buffer.baseAddress!, count) }
            filled = count
        }
    }

    package static func digestSized() -> [UInt8] { array(32) }
}
