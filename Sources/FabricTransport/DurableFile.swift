internal import DurableFiles

/// A small file that is always either its old or its new content, whatever dies when.
package enum DurableFile {
    package static let byteCountMax = 1 << 20

    /// Replaces the file's content durably, at once or not at all.
    package static func replace(_ path: String, with bytes: [UInt8]) throws(TransportError) {
        let (folder, name) = split(path)
        do throws(DiskError) { try FolderDisk(folder).replace(name, with: bytes, durable: true) } catch {
            throw failure
        }
    }

    /// The file's content; nil when there is no such file.
    package static func read(_ path: String) throws(TransportError) -> [UInt8]? {
        let (folder, name) = split(path)
        do throws(DiskError) {
            let disk = try FolderDisk(folder, readOnly: true)
            guard let byteCount = try disk.byteCount(of: name) else { return nil }
            guard byteCount <= byteCountMax else { throw DiskError.failed }
            return try disk.read(name)
        } catch {
            throw failure
        }
    }

    private static func split(_ path: String) -> (folder: String, name: String) {
        guard let slash = path.lastIndex(of: "/") else { return (".", path) }
        return (String(path[..<slash]), String(path[path.index(after: slash)...]))
    }

    private static var failure: TransportError {
        TransportError(.unavailable, "a state file cannot be read or written")
    }
}
