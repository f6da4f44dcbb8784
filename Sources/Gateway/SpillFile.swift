package import GPUFabric
import Glibc
import Vocabulary

/// The enclave host's SSD tier: what the device sealed, in a file that nobody else can open and that is gone with this
/// process, read and written past the page cache. The host cannot open the blocks.
///
/// Direct I/O moves whole pages, so each sealed block has a slot of whole pages; the file system that has no direct I/O
/// is used through its cache.
package final class SpillFile: WindowStore {
    private static let page = 4096
    private static let slotBytes = (Limits.sealedBlockBytes + page - 1) / page * page
    private static let batch = 16

    package let byteCount: Int
    private let descriptor: Int32

    /// - Parameter byteCount: sealed bytes, whole blocks but for the last.
    package init(folder: String, byteCount: Int) throws(FabricError) {
        let path = "\(folder)/spill-\(UInt64.random(in: 0...UInt64.max))"
        let flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW
        var descriptor = open(path, flags | Self.direct, 0o600)
        if descriptor < 0, errno == EINVAL {
            // The file was made before the flag was refused.
            unlink(path)
            descriptor = open(path, flags, 0o600)
        }
        guard descriptor >= 0 else { throw FabricError(.store, "the SSD tier has no file") }
        unlink(path)
        let slots = (byteCount + Limits.sealedBlockBytes - 1) / Limits.sealedBlockBytes
        guard posix_fallocate(descriptor, 0, slots * Self.slotBytes) == 0 else {
            close(descriptor)
            throw FabricError(.store, "the SSD tier has not the room that the plan counted on")
        }
        self.descriptor = descriptor
        self.byteCount = byteCount
    }

    deinit { close(descriptor) }

    // The flag's number is the architecture's; Glibc's module does not carry it.
    #if arch(arm64)
        private static let direct: Int32 = 0o200000
    #else
        private static let direct: Int32 = 0o40000
    #endif

    package func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        try check(offset, buffer.count)
        try onPages(offset, buffer.count) { (staging, slot, count, done) throws(FabricError) in
            let bytes = count * Self.slotBytes
            guard pread(descriptor, staging, bytes, off_t(slot * Self.slotBytes)) == bytes else {
                throw FabricError(.store, "the SSD tier could not be read")
            }
            for block in 0..<count {
                let lower = done + block * Limits.sealedBlockBytes
                let length = min(Limits.sealedBlockBytes, buffer.count - lower)
                (buffer.baseAddress! + lower).copyMemory(from: staging + block * Self.slotBytes, byteCount: length)
            }
        }
    }

    package func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws {
        try check(offset, buffer.count)
        try onPages(offset, buffer.count) { (staging, slot, count, done) throws(FabricError) in
            for block in 0..<count {
                let lower = done + block * Limits.sealedBlockBytes
                let length = min(Limits.sealedBlockBytes, buffer.count - lower)
                (staging + block * Self.slotBytes).copyMemory(from: buffer.baseAddress! + lower, byteCount: length)
            }
            let bytes = count * Self.slotBytes
            guard pwrite(descriptor, staging, bytes, off_t(slot * Self.slotBytes)) == bytes else {
                throw FabricError(.store, "the SSD tier could not be written")
            }
        }
    }

    /// Lends memory on whole pages, again and again, with the first slot, the number of slots and the bytes done before.
    private func onPages(
        _ offset: Int, _ count: Int, _ body: (UnsafeMutableRawPointer, Int, Int, Int) throws(FabricError) -> Void
    ) throws(FabricError) {
        var slot = offset / Limits.sealedBlockBytes
        var left = (count + Limits.sealedBlockBytes - 1) / Limits.sealedBlockBytes
        var done = 0
        let size = min(left, Self.batch)
        let staging = UnsafeMutableRawPointer.allocate(byteCount: size * Self.slotBytes, alignment: Self.page)
        defer { staging.deallocate() }
        // What lies behind a block in its slot is nobody's old memory.
        memset(staging, 0, size * Self.slotBytes)
        while left > 0 {
            let size = min(left, Self.batch)
            try body(staging, slot, size, done)
            slot += size
            left -= size
            done += size * Limits.sealedBlockBytes
        }
    }

    private func check(_ offset: Int, _ count: Int) throws(FabricError) {
        guard offset >= 0, offset.isMultiple(of: Limits.sealedBlockBytes), count > 0, count <= byteCount,
            offset <= byteCount - count
        else { throw FabricError(.outsideWindow, "beyond the end of a window") }
    }
}
