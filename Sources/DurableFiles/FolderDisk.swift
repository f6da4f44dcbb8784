internal import Glibc
internal import Synchronization

/// A folder of the file system.
package final class FolderDisk: Disk {
    private let root: String
    private let handles: Handles

    /// `path` is made when it does not exist, unless it is only read from.
    package init(_ path: String, readOnly: Bool = false) throws(DiskError) {
        root = path
        handles = Handles()
        if !readOnly { try Self.makeFolders(path + "/") }
    }

    package func lock() throws(DiskError) {
        let descriptor = open("\(root)/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.error() }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw .busy
        }
        handles.keepLock(descriptor)
    }

    package func names(in folder: String) throws(DiskError) -> [String] {
        guard let directory = opendir(full(folder)) else {
            guard errno == ENOENT || errno == ENOTDIR else { throw Self.error() }
            return []
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    package func byteCount(of path: String) throws(DiskError) -> Int? {
        var status = stat()
        guard stat(full(path), &status) == 0 else {
            guard errno == ENOENT || errno == ENOTDIR else { throw Self.error() }
            return nil
        }
        return Int(status.st_size)
    }

    package func read(_ path: String) throws(DiskError) -> [UInt8]? {
        let descriptor = open(full(path), O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            guard errno == ENOENT || errno == ENOTDIR else { throw Self.error() }
            return nil
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw Self.error() }
        return try Self.read(descriptor, offset: 0, count: Int(status.st_size))
    }

    package func read(_ path: String, offset: Int, count: Int) throws(DiskError) -> [UInt8] {
        let descriptor = open(full(path), O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.error() }
        defer { close(descriptor) }
        return try Self.read(descriptor, offset: offset, count: count)
    }

    package func replace(_ path: String, with bytes: [UInt8], durable: Bool) throws(DiskError) {
        let target = full(path)
        try Self.makeFolders(target)
        let temporary = target + ".tmp"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.error() }
        do throws(DiskError) {
            defer { close(descriptor) }
            try Self.write(descriptor, bytes, offset: 0)
            if durable, fsync(descriptor) != 0 { throw Self.error() }
        } catch {
            unlink(temporary)
            throw error
        }
        guard Glibc.rename(temporary, target) == 0 else { throw Self.error() }
        if durable { try Self.syncFolder(of: target) }
    }

    package func preallocate(_ path: String, byteCount: Int) throws(DiskError) {
        let target = full(path)
        try Self.makeFolders(target)
        let temporary = target + ".tmp"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.error() }
        do throws(DiskError) {
            defer { close(descriptor) }
            let result = posix_fallocate(descriptor, 0, off_t(byteCount))
            guard result == 0 else { throw result == ENOSPC || result == EDQUOT ? DiskError.noSpace : .failed }
            // Really written: a sync of later writes then has no extents to convert, only data to flush.
            let zeros = [UInt8](repeating: 0, count: min(byteCount, 1 << 20))
            for offset in stride(from: 0, to: byteCount, by: zeros.count) {
                try Self.write(descriptor, Array(zeros.prefix(byteCount - offset)), offset: offset)
            }
            guard fsync(descriptor) == 0 else { throw Self.error() }
        } catch {
            unlink(temporary)
            throw error
        }
        guard Glibc.rename(temporary, target) == 0 else { throw Self.error() }
        try Self.syncFolder(of: target)
    }

    package func write(_ bytes: [UInt8], to path: String, offset: Int) throws(DiskError) {
        let handle = try handles.handle(for: path, opening: full(path))
        defer { withExtendedLifetime(handle) {} }
        try Self.write(handle.descriptor, bytes, offset: offset)
    }

    package func sync(_ path: String) throws(DiskError) {
        let handle = try handles.handle(for: path, opening: full(path))
        defer { withExtendedLifetime(handle) {} }
        guard fdatasync(handle.descriptor) == 0 else { throw Self.error() }
        // A file that was removed or moved away takes every write and sync without complaint.
        guard handle.isInPlace(full(path)) else { throw .gone }
    }

    package func rename(_ path: String, to newPath: String) throws(DiskError) {
        handles.drop(path)
        guard Glibc.rename(full(path), full(newPath)) == 0 else { throw Self.error() }
        try Self.syncFolder(of: full(newPath))
    }

    package func erase(_ path: String) throws(DiskError) {
        guard let byteCount = try byteCount(of: path) else { return }
        let handle = try Handle(full(path))
        defer { withExtendedLifetime(handle) {} }
        try Self.write(handle.descriptor, [UInt8](repeating: 0, count: byteCount), offset: 0)
        guard fdatasync(handle.descriptor) == 0 else { throw Self.error() }
        try remove(path)
        try Self.syncFolder(of: full(path))
    }

    package func remove(_ path: String) throws(DiskError) {
        handles.drop(path)
        guard unlink(full(path)) == 0 || errno == ENOENT else { throw Self.error() }
    }

    private func full(_ path: String) -> String { "\(root)/\(path)" }

    private static func error() -> DiskError { errno == ENOSPC || errno == EDQUOT ? .noSpace : .failed }

    private static func makeFolders(_ target: String) throws(DiskError) {
        let parent = String(target[..<(target.lastIndex(of: "/") ?? target.startIndex)])
        guard !parent.isEmpty, access(parent, F_OK) != 0 else { return }
        try makeFolders(parent)
        guard mkdir(parent, 0o700) == 0 || errno == EEXIST else { throw error() }
        try syncFolder(of: parent)
    }

    private static func syncFolder(of target: String) throws(DiskError) {
        let slash = target.lastIndex(of: "/") ?? target.startIndex
        let folder = slash == target.startIndex ? (target.hasPrefix("/") ? "/" : ".") : String(target[..<slash])
        let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw error() }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw error() }
    }

    private static func read(_ descriptor: Int32, offset: Int, count: Int) throws(DiskError) -> [UInt8] {
        var failure: DiskError?
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            while filled < count {
                let got = pread(descriptor, buffer.baseAddress! + filled, count - filled, off_t(offset + filled))
                if got < 0, errno == EINTR { continue }
                guard got > 0 else {
                    failure = .failed
                    return
                }
                filled += got
            }
        }
        if let failure { throw failure }
        return bytes
    }

    private static func write(_ descriptor: Int32, _ bytes: [UInt8], offset: Int) throws(DiskError) {
        var failure: DiskError?
        bytes.withUnsafeBytes { buffer in
            var done = 0
            while done < buffer.count {
                let put = pwrite(descriptor, buffer.baseAddress! + done, buffer.count - done, off_t(offset + done))
                if put < 0, errno == EINTR { continue }
                guard put > 0 else {
                    failure = error()
                    return
                }
                done += put
            }
        }
        if let failure { throw failure }
    }
}

/// An open file; closed when nobody uses it any more.
private final class Handle: Sendable {
    let descriptor: Int32
    /// What the kernel called the file when it was opened.
    private let name: [CChar]?

    init(_ path: String) throws(DiskError) {
        descriptor = open(path, O_RDWR | O_CLOEXEC)
        name = descriptor >= 0 ? Self.name(of: descriptor) : nil
        guard descriptor >= 0 else { throw .failed }
    }

    /// Whether the file is still the one at `path`. The kernel's name of an open file tells when it was removed,
    /// replaced or moved. Asking for its status would tell too, but makes the next write date the file anew, which the
    /// next sync then has to write: half as long again for each record of a single writer.
    func isInPlace(_ path: String) -> Bool {
        if let name, let now = Self.name(of: descriptor) { return now == name }
        var written = stat()
        var named = stat()
        return fstat(descriptor, &written) == 0 && stat(path, &named) == 0 && named.st_dev == written.st_dev
            && named.st_ino == written.st_ino
    }

    /// `nil` where there is no `/proc`.
    private static func name(of descriptor: Int32) -> [CChar]? {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(PATH_MAX)) { buffer in
            let count = readlink("/proc/self/fd/\(descriptor)", buffer.baseAddress!, buffer.count)
            return count > 0 && count < buffer.count ? Array(buffer[..<count]) : nil
        }
    }

    deinit { if descriptor >= 0 { close(descriptor) } }
}

/// The files that stay open: those written to, and the lock. One that is dropped here stays open for whoever is just
/// writing to it.
private final class Handles: Sendable {
    private static let writtenMax = 4
    private let written = Mutex<[String: Handle]>([:])
    private let lock = Mutex<Int32>(-1)

    func handle(for path: String, opening full: String) throws(DiskError) -> Handle {
        if let handle = written.withLock({ $0[path] }) { return handle }
        let handle = try Handle(full)
        written.withLock {
            if $0.count >= Self.writtenMax { $0.removeAll() }
            $0[path] = handle
        }
        return handle
    }

    func keepLock(_ descriptor: Int32) { lock.withLock { $0 = descriptor } }

    func drop(_ path: String) { written.withLock { $0[path] = nil } }

    deinit {
        lock.withLock { descriptor in
            guard descriptor >= 0 else { return }
            // By name, not by closing: a child that is just being started has the same open file until its `exec`.
            flock(descriptor, LOCK_UN)
            close(descriptor)
        }
    }
}
