internal import Glibc

/// A small file that is always either its old or its new content, whatever dies when.
package enum DurableFile {
    package static let byteCountMax = 1 << 20

    /// Replaces the file's content: written beside it, flushed, renamed, and the folder flushed.
    package static func replace(_ path: String, with bytes: [UInt8]) throws(TransportError) {
        let temporary = path + ".new"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failure }
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress! + written, bytes.count - written) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            written += count
        }
        let flushed = written == bytes.count && fsync(descriptor) == 0
        guard close(descriptor) == 0, flushed, rename(temporary, path) == 0 else { throw failure }
        let slash = path.lastIndex(of: "/")
        let folder = open(slash.map { String(path[...$0]) } ?? ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw failure }
        defer { close(folder) }
        guard fsync(folder) == 0 else { throw failure }
    }

    /// The file's content; nil when there is no such file.
    package static func read(_ path: String) throws(TransportError) -> [UInt8]? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw failure
        }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 64 * 1024)
        while true {
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0, bytes.count + count <= byteCountMax else { throw failure }
            if count == 0 { return bytes }
            bytes += buffer[..<count]
        }
    }

    private static var failure: TransportError {
        TransportError(.unavailable, "a state file cannot be read or written")
    }
}
