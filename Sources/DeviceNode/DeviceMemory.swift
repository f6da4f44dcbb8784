internal import Glibc

/// The memory that a device lends to a run: zeroed pages, kept out of core dumps, locked where the system allows it,
/// and wiped at the end. Nothing grows: a program that does not fit is refused before it runs.
package final class DeviceMemory {
    package let byteCount: Int
    /// Whether the pages can never reach a swap device.
    package let isLocked: Bool
    let base: UnsafeMutableRawPointer
    private let mappedBytes: Int

    package init(byteCount: Int) throws(ExecutorError) {
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        guard byteCount > 0, byteCount <= 1 << 46 else {
            throw ExecutorError(.unavailable, "device memory of \(byteCount) bytes")
        }
        let mappedBytes = (byteCount + page - 1) / page * page
        guard
            let base = mmap(nil, mappedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
            base != MAP_FAILED
        else { throw ExecutorError(.unavailable, "no \(byteCount) bytes of memory for the device") }
        // Large pages: sums over neighbours touch rows all over a tensor.
        madvise(base, mappedBytes, MADV_HUGEPAGE)
        madvise(base, mappedBytes, MADV_DONTDUMP)
        self.byteCount = byteCount
        self.mappedBytes = mappedBytes
        self.base = base
        isLocked = mlock(base, mappedBytes) == 0
    }

    deinit {
        explicit_bzero(base, mappedBytes)
        munmap(base, mappedBytes)
    }

    /// Lends every byte. Nothing else may run on this memory meanwhile.
    package func withBytes<Value>(_ body: (UnsafeMutableRawBufferPointer) throws -> Value) rethrows -> Value {
        try body(UnsafeMutableRawBufferPointer(start: base, count: byteCount))
    }
}

// Holds only an address and sizes; who may touch which bytes when is decided by the checked program's order, and
// between programs by the one who holds the lease.
extension DeviceMemory: @unchecked Sendable {}
