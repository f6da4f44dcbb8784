import DurableFiles
import Glibc

/// A folder of the vault, and what can be done in it durably. Errors never show its path.
struct Folder: Sendable {
    let path: String

    func folder(_ name: String) -> Folder { Folder(path: path + "/" + name) }
    func path(of name: String) -> String { path + "/" + name }

    /// Makes it and its parents; each is readable by its owner only.
    func create() throws(VaultError) {
        guard mkdir(path, 0o700) != 0 else {
            return try parent.sync()
        }
        switch errno {
        case EEXIST: return
        case ENOENT where parent.path != path:
            try parent.create()
            try create()
        default: throw storage("a folder cannot be made")
        }
    }

    var exists: Bool { access(path, F_OK) == 0 }

    func contains(_ name: String) -> Bool { access(path(of: name), F_OK) == 0 }

    /// Names of what is in it, in order.
    func names() throws(VaultError) -> [String] {
        guard let stream = opendir(path) else { throw storage("a folder cannot be read") }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Makes what was created, renamed or removed in it survive a crash.
    func sync() throws(VaultError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw storage("a folder cannot be opened") }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw storage("a folder cannot be made durable") }
    }

    /// Puts this folder, whose files are durable, in the place of `destination`, at once or not at all.
    func move(to destination: Folder) throws(VaultError) {
        try sync()
        try destination.parent.create()
        guard rename(path, destination.path) == 0 else { throw storage("a folder cannot be moved") }
        try destination.parent.sync()
        try parent.sync()
    }

    /// Removes it with all it holds; symbolic links are removed, not followed.
    func remove() throws(VaultError) {
        for name in try names() {
            if unlink(path(of: name)) == 0 { continue }
            guard errno == EISDIR || errno == EPERM else { throw storage("a file cannot be removed") }
            try folder(name).remove()
        }
        guard rmdir(path) == 0 else { throw storage("a folder cannot be removed") }
        try parent.sync()
    }

    private var parent: Folder {
        guard let slash = path.lastIndex(of: "/") else { return Folder(path: ".") }
        return slash == path.startIndex ? Folder(path: "/") : Folder(path: String(path[..<slash]))
    }
}

private func storage(_ what: String) -> VaultError { VaultError(.storage, "\(what) (\(reason(errno)))") }

/// A new file that is there after a crash once `sync` has returned.
struct DurableFile: ~Copyable {
    private let descriptor: Int32

    init(creating name: String, in folder: Folder) throws(VaultError) {
        descriptor = open(folder.path(of: name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw storage("a file cannot be created") }
    }

    deinit { close(descriptor) }

    func write(_ bytes: UnsafeRawBufferPointer) throws(VaultError) {
        var written = 0
        while written < bytes.count {
            let count = Glibc.write(descriptor, bytes.baseAddress! + written, bytes.count - written)
            if count >= 0 {
                written += count
            } else if errno != EINTR {
                throw storage("a file cannot be written")
            }
        }
    }

    func sync() throws(VaultError) {
        guard fsync(descriptor) == 0 else { throw storage("a file cannot be made durable") }
    }

    /// A small file that is there whole or not at all.
    static func replace(_ name: String, with bytes: [UInt8], in folder: Folder) throws(VaultError) {
        do throws(DiskError) { try FolderDisk(folder.path).replace(name, with: bytes, durable: true) } catch {
            let why = error == .noSpace ? "no space left on device" : "input or output failed"
            throw VaultError(.storage, "a file cannot be written (\(why))")
        }
    }

    static func write(_ bytes: [UInt8], as name: String, in folder: Folder) throws(VaultError) {
        let file = try DurableFile(creating: name, in: folder)
        var failure: VaultError?
        bytes.withUnsafeBytes { all in
            do throws(VaultError) { try file.write(all) } catch { failure = error }
        }
        if let failure { throw failure }
        try file.sync()
    }
}

/// A file of the vault whose length is known from its manifest. Can be read from any thread.
struct StoredFile: ~Copyable, Sendable {
    private let descriptor: Int32
    let byteCount: Int

    init(_ name: String, in folder: Folder, byteCount: Int) throws(VaultError) {
        descriptor = open(folder.path(of: name), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        self.byteCount = byteCount
        guard descriptor >= 0 else {
            throw errno == ENOENT
                ? VaultError(.truncated, "a file of the vault is missing") : storage("a file cannot be opened")
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw storage("a file cannot be read") }
        guard Int(status.st_size) == byteCount else {
            throw VaultError(.truncated, "a file of the vault has \(status.st_size) bytes instead of \(byteCount)")
        }
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Fills all of `buffer` from `offset` on.
    func read(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws(VaultError) {
        var filled = 0
        while filled < buffer.count {
            let count = pread(descriptor, buffer.baseAddress! + filled, buffer.count - filled, off_t(offset + filled))
            if count > 0 {
                filled += count
            } else if count == 0 {
                throw VaultError(.truncated, "a file of the vault ends too early")
            } else if errno != EINTR {
                throw storage("a file cannot be read")
            }
        }
    }

    /// A small file, whole.
    static func read(_ name: String, in folder: Folder, bytesMax: Int) throws(VaultError) -> [UInt8] {
        var status = stat()
        guard stat(folder.path(of: name), &status) == 0 else {
            throw errno == ENOENT
                ? VaultError(.truncated, "a file of the vault is missing") : storage("a file cannot be read")
        }
        guard status.st_size <= bytesMax else { throw VaultError(.tampered, "a file of the vault is too long") }
        let file = try StoredFile(name, in: folder, byteCount: Int(status.st_size))
        let space = UnsafeMutableRawBufferPointer.allocate(byteCount: file.byteCount, alignment: 8)
        defer { space.deallocate() }
        try file.read(at: 0, into: space)
        return Array(space)
    }
}
