import Glibc

/// A file that is being imported, read from its start to its end.
struct FileReader: ~Copyable {
    /// Of a plain file; -1 for a staged one.
    private let descriptor: Int32
    private var staged: SectionReader?
    // Of a staged file: what has not been read.
    private var left = 0
    private let source: VaultError.Source

    init(_ file: ImportFile, source: VaultError.Source) throws(VaultError) {
        self.source = source
        switch file.place {
        case .path(let path):
            descriptor = open(path, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else {
                throw VaultError(.unreadable, in: source, at: .whole, "cannot be opened (\(reason(errno)))")
            }
        case .staged(let upload, let part):
            descriptor = -1
            let reader = try upload.reader(of: part)
            left = reader.byteCount
            staged = consume reader
        }
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Length in bytes, at the start; only for a plain file.
    func byteCount() throws(VaultError) -> Int {
        guard descriptor >= 0 else { return left }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw VaultError(.unreadable, in: source, at: .whole, "not a plain file")
        }
        return Int(status.st_size)
    }

    /// Fills as much of `buffer` as there is; 0 at the end of the file.
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(VaultError) -> Int {
        guard descriptor >= 0 else {
            let count = min(left, buffer.count)
            if count > 0 { try staged?.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[0..<count])) }
            left -= count
            return count
        }
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
