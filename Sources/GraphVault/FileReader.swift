import Glibc

/// A file that is being imported, read from its start to its end.
struct FileReader: ~Copyable {
    private let descriptor: Int32
    private let source: VaultError.Source

    init(path: String, source: VaultError.Source) throws(VaultError) {
        self.source = source
        descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw VaultError(.unreadable, in: source, at: .whole, "cannot be opened (\(reason(errno)))")
        }
    }

    deinit { close(descriptor) }

    /// Length in bytes; only for a plain file.
    func byteCount() throws(VaultError) -> Int {
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw VaultError(.unreadable, in: source, at: .whole, "not a plain file")
        }
        return Int(status.st_size)
    }

    /// Fills as much of `buffer` as there is; 0 at the end of the file.
    func read(into buffer: UnsafeMutableRawBufferPointer) throws(VaultError) -> Int {
        while true {
            let count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
            if count >= 0 { return count }
            guard errno == EINTR else {
                throw VaultError(.unreadable, in: source, at: .whole, "cannot be read (\(reason(errno)))")
            }
        }
    }
}

/// The system's words for an error number; they name no path.
func reason(_ number: Int32) -> String { String(cString: strerror(number)) }
