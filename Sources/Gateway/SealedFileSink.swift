import AuditTrail
import DurableFiles
package import Foundation
import Sealing
import Vocabulary

/// An export as one file: a tar archive inside an age file. Nothing of it is ever in clear on the disk. The file gets
/// its name when it is whole.
final class SealedFileSink: BagSink {
    /// The folder that the archive unpacks to.
    static let folder = "sekisho-export"

    private let target: URL
    private let partial: URL
    private let handle: FileHandle
    private var writer: AgeWriter?

    init(_ target: URL, to recipients: [AgeRecipient]) throws {
        self.target = target
        partial = target.appendingPathExtension("partial")
        let failed = GatewayError(
            .unavailable, "the export cannot be written; see that its folder exists and has space")
        let descriptor = open(partial.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failed }
        let handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
        self.handle = handle
        do {
            writer = try AgeWriter(to: recipients) { bytes in
                do { try handle.write(contentsOf: bytes) } catch { throw failed }
            }
        } catch let error as AgeError { throw GatewayError(.usage, error.publicDescription) }
    }

    deinit { if writer != nil { unlink(partial.path) } }

    func put(_ path: String, _ bytes: [UInt8], durable: Bool) throws {
        try writer!.write(try Tar.header("\(Self.folder)/\(path)", byteCount: bytes.count))
        try writer!.write(bytes)
        try writer!.write([UInt8](repeating: 0, count: Tar.padding(after: bytes.count)))
    }

    func finish() throws {
        try writer!.write([UInt8](repeating: 0, count: 2 * Tar.blockBytes))
        let writer = writer.take()!
        try writer.finish()
        do {
            try handle.synchronize()
        } catch { throw GatewayError(.unavailable, "the export cannot be made durable") }
        guard rename(partial.path, target.path) == 0 else {
            throw GatewayError(.unavailable, "the export cannot be given its name")
        }
    }
}

/// Opens a sealed export where the auditor works.
package enum SealedExport {
    /// Unpacks `file` into the new folder `out`. It appears under its name only when the file was whole.
    /// - Parameter key: a private key file of `sekisho audit keygen`, or a file with an age identity.
    package static func open(_ file: URL, key: URL, into out: URL) throws {
        guard !FileManager.default.fileExists(atPath: out.path) else {
            throw GatewayError(.usage, "the folder to unpack to is there already")
        }
        let identities = try identities(key)
        guard let handle = try? FileHandle(forReadingFrom: file) else {
            throw GatewayError(.notFound, "the sealed export cannot be read")
        }
        defer { try? handle.close() }
        let partial = out.appendingPathExtension("partial")
        try? FileManager.default.removeItem(at: partial)
        do {
            let disk = try FolderDisk(partial.path)
            var reader = TarReader { path, bytes in
                guard path.hasPrefix("\(SealedFileSink.folder)/") else {
                    throw GatewayError(.integrity, "the archive has a file outside its folder")
                }
                let name = String(path.dropFirst(SealedFileSink.folder.count + 1))
                guard try disk.byteCount(of: name) == nil else {
                    throw GatewayError(.integrity, "the archive has a file twice")
                }
                try disk.replace(name, with: bytes, durable: false)
            }
            try AgeFile.decrypt(identities: identities) { count in
                do { return [UInt8](try handle.read(upToCount: count) ?? Data()) } catch {
                    throw GatewayError(.unavailable, "the sealed export cannot be read")
                }
            } write: {
                try reader.take($0)
            }
            try reader.finish()
            guard rename(partial.path, out.path) == 0 else {
                throw GatewayError(.unavailable, "the folder cannot be given its name")
            }
        } catch {
            try? FileManager.default.removeItem(at: partial)
            if let error = error as? AgeError {
                throw GatewayError(
                    error.code == .noMatch ? .refused : .integrity, "NOT opened: \(error.publicDescription)")
            }
            if error is DiskError { throw GatewayError(.unavailable, "the export cannot be unpacked here") }
            throw error
        }
    }

    private static func identities(_ file: URL) throws -> [AgeIdentity] {
        var text = try GatewayFile.bytes(file, role: "private key file")
        defer { wipe(&text) }
        guard text.starts(with: "AGE-SECRET-KEY-".utf8) || text.starts(with: "#".utf8) else {
            return [AgeIdentity(try AuditorKeyFile.readPrivate(file))]
        }
        let lines = String(decoding: text, as: UTF8.self).split(whereSeparator: \.isNewline).filter {
            !$0.hasPrefix("#")
        }
        do throws(AgeError) {
            return try lines.map { (line) throws(AgeError) in try AgeIdentity(parsing: String(line)) }
        } catch { throw GatewayError(.usage, error.publicDescription) }
    }
}

/// The ustar archive format (POSIX.1-1988): regular files only.
private enum Tar {
    static let blockBytes = 512

    static func padding(after count: Int) -> Int { (blockBytes - count % blockBytes) % blockBytes }

    static func header(_ path: String, byteCount: Int) throws -> [UInt8] {
        let tooLong = GatewayError(.usage, "a file's name is too long for the archive: \(path.utf8.count) bytes")
        var name = path[...]
        var prefix = Substring()
        if name.utf8.count > 100 {
            guard
                let cut = path.indices.first(where: {
                    path[$0] == "/" && path[path.index(after: $0)...].utf8.count <= 100
                })
            else { throw tooLong }
            prefix = path[..<cut]
            name = path[path.index(after: cut)...]
        }
        guard prefix.utf8.count <= 155 else { throw tooLong }
        var block = [UInt8](repeating: 0, count: blockBytes)
        func put(_ text: some StringProtocol, at offset: Int) {
            for (place, byte) in text.utf8.enumerated() { block[offset + place] = byte }
        }
        func octal(_ number: Int, _ digits: Int) -> String {
            let text = String(number, radix: 8)
            return String(repeating: "0", count: digits - text.count) + text
        }
        put(name, at: 0)
        put("0000600", at: 100)
        put("0000000", at: 108)
        put("0000000", at: 116)
        put(octal(byteCount, 11), at: 124)
        put("00000000000", at: 136)
        put("        ", at: 148)
        put("0", at: 156)
        put("ustar", at: 257)
        put("00", at: 263)
        put(prefix, at: 345)
        put(octal(block.reduce(0) { $0 + Int($1) }, 6), at: 148)
        block[154] = 0
        return block
    }
}

/// Reads such an archive as it comes; refuses whatever is not a regular file with a plain relative name.
private struct TarReader {
    private static let fileBytesMax = 64 << 20
    private static let filesMax = 2_000_000

    private let file: (String, [UInt8]) throws -> Void
    private var held: [UInt8] = []
    private var files = 0
    private var hasEnded = false

    init(_ file: @escaping (String, [UInt8]) throws -> Void) { self.file = file }

    mutating func take(_ bytes: [UInt8]) throws {
        held += bytes
        var at = 0
        while !hasEnded, held.count - at >= Tar.blockBytes {
            let block = held[at..<at + Tar.blockBytes]
            if block.allSatisfy({ $0 == 0 }) {
                hasEnded = true
                break
            }
            let (path, count) = try Self.entry(Array(block))
            let whole = Tar.blockBytes + count + Tar.padding(after: count)
            guard held.count - at >= whole else { break }
            files += 1
            guard files <= Self.filesMax else { throw Self.malformed("too many files") }
            try file(path, Array(held[at + Tar.blockBytes..<at + Tar.blockBytes + count]))
            at += whole
        }
        if hasEnded {
            guard held[at...].allSatisfy({ $0 == 0 }) else { throw Self.malformed("something follows its end") }
            held = []
        } else {
            held.removeFirst(at)
        }
    }

    consuming func finish() throws {
        guard hasEnded else { throw Self.malformed("it has no end") }
    }

    private static func entry(_ block: [UInt8]) throws -> (path: String, count: Int) {
        func text(_ range: Range<Int>) throws -> String {
            guard let text = String(validating: block[range].prefix { $0 != 0 }, as: UTF8.self) else {
                throw malformed("a name is not text")
            }
            return text
        }
        func octal(_ range: Range<Int>) throws -> Int {
            guard let number = Int(try text(range).filter { $0 != " " }, radix: 8), number >= 0 else {
                throw malformed("a number is not one")
            }
            return number
        }
        var summed = block
        for place in 148..<156 { summed[place] = 0x20 }
        guard try octal(148..<156) == summed.reduce(0, { $0 + Int($1) }) else {
            throw malformed("a header was changed")
        }
        guard block[156] == UInt8(ascii: "0") else { throw malformed("something in it is not a file") }
        let prefix = try text(345..<500)
        let name = try text(0..<100)
        let path = prefix.isEmpty ? name : "\(prefix)/\(name)"
        let parts = path.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.allSatisfy({ !$0.isEmpty && $0 != "." && $0 != ".." }) else {
            throw malformed("a name leads elsewhere")
        }
        let count = try octal(124..<136)
        guard count <= fileBytesMax else { throw malformed("a file is too long") }
        return (path, count)
    }

    private static func malformed(_ why: String) -> GatewayError {
        GatewayError(.integrity, "the archive is not well formed: \(why)")
    }
}
