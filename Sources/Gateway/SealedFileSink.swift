import AuditTrail
import DurableFiles
package import Foundation
import Sealing
import Vocabulary

/// An export as one file: a tar archive inside an age file. Nothing of it is ever in clear on the disk. The file gets
/// its name when it is whole.
///
/// Until then it is `FILE.partial`, and `FILE.state` tells what it will be. An export that is asked for again goes on
/// with both: it makes the same bytes from the beginning, holds them to what is there, and writes from where the file
/// ends. Where they differ, the file is begun anew under another key, so that no two contents are sealed under one.
final class SealedFileSink: BagSink {
    /// The folder that the archive unpacks to.
    static let folder = "sekisho-export"

    /// What was written before is not what is sealed now.
    struct OtherContent: Error {}

    /// What an interrupted export left.
    struct State: Sendable, Equatable {
        fileprivate static let saltBytes = 32
        let partial: FolderSink.Partial
        /// What the file's key is made from, with a key of the home's.
        fileprivate let salt: [UInt8]

        fileprivate init(_ partial: FolderSink.Partial) {
            self.partial = partial
            salt = RandomBytes.array(Self.saltBytes)
        }

        /// `nil` where no export was interrupted.
        init?(of target: URL) throws {
            let places = Places(target)
            guard FileManager.default.fileExists(atPath: places.state.path) else { return nil }
            let bytes = try GatewayFile.bytes(places.state, role: "state of the interrupted export")
            guard let json = try? JSON(parsing: bytes),
                let partial = json["partial"].flatMap({ FolderSink.Partial($0.canonical) }),
                let salt = json["salt"]?.stringValue.flatMap(Hex.decode), salt.count == Self.saltBytes
            else {
                throw GatewayError(
                    .usage, "the state of an interrupted export is damaged; remove FILE.age.state and FILE.age.partial")
            }
            self.partial = partial
            self.salt = salt
        }

        fileprivate func bytes() throws -> [UInt8] {
            let json: JSON = ["partial": try JSON(parsing: partial.bytes), "salt": .string(Hex.encode(salt))]
            return json.canonical
        }
    }

    /// Makes the key of each sealed file.
    final class Keys: Sendable {
        private let key: SecretBytes

        init(_ key: consuming SecretBytes) { self.key = key }

        fileprivate func fileKey(_ state: State) -> SecretBytes {
            KeyDerivation.hkdf(
                key, salt: state.salt, info: "sekisho sealed export file v1", count: AgeWriter.fileKeyBytes)
        }
    }

    private struct Places {
        let target: URL
        var partial: URL { target.appendingPathExtension("partial") }
        var state: URL { target.appendingPathExtension("state") }

        init(_ target: URL) { self.target = target }
    }

    private let places: Places
    private let file: GrowingFile
    private var writer: AgeWriter?

    /// - Parameters:
    ///   - interrupted: what an earlier attempt left, to go on with; `nil` begins anew.
    ///   - partial: what this export is.
    init(
        _ target: URL, to recipients: [AgeRecipient], keys: Keys, interrupted: State?, partial: FolderSink.Partial
    ) throws {
        places = Places(target)
        if let interrupted, FileManager.default.fileExists(atPath: places.partial.path) {
            let file = try GrowingFile(places.partial)
            if let writer = try Self.goOn(with: file, at: places.partial, keys.fileKey(interrupted)) {
                self.file = file
                self.writer = consume writer
                return
            }
        }
        let state = State(partial)
        try? FileManager.default.removeItem(at: places.partial)
        try GatewayFile.write(try state.bytes(), to: places.state, role: "export's state")
        let file = try GrowingFile(places.partial)
        self.file = file
        do {
            writer = try AgeWriter(to: recipients, fileKey: keys.fileKey(state)) { try file.take($0) }
        } catch let error as AgeError { throw GatewayError(.usage, error.publicDescription) }
    }

    /// `nil` where too little is there to go on with.
    private static func goOn(
        with file: GrowingFile, at place: URL, _ fileKey: borrowing SecretBytes
    ) throws -> AgeWriter? {
        let reader = try FileHandle(forReadingFrom: place)
        defer { try? reader.close() }
        do {
            let writer = try AgeWriter(
                continuing: { [UInt8](try reader.read(upToCount: $0) ?? Data()) }, fileKey: fileKey
            ) { try file.take($0) }
            file.pass(writer.headerBytes)
            return writer
        } catch is AgeError { return nil }
    }

    func put(_ path: String, _ bytes: [UInt8], durable: Bool) throws {
        guard let header = Tar.header(name: "\(Self.folder)/\(path)", byteCount: bytes.count) else {
            throw GatewayError(.usage, "a file's name does not fit the archive: \(path.utf8.count) bytes")
        }
        try writer!.write(header)
        try writer!.write(bytes)
        try writer!.write(Tar.padding(after: bytes.count))
    }

    func finish() throws {
        try writer!.write(Tar.end)
        let writer = writer.take()!
        try writer.finish()
        try file.finish()
        guard rename(places.partial.path, places.target.path) == 0 else {
            throw GatewayError(.unavailable, "the export cannot be given its name")
        }
        try? FileManager.default.removeItem(at: places.state)
    }
}

/// A file that takes bytes from its beginning: what it has already must be the same, what it has not is written.
private final class GrowingFile {
    private let handle: FileHandle
    private var position = 0
    private let present: Int

    init(_ file: URL) throws {
        let descriptor = open(file.path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.failed }
        handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
        do { present = Int(try handle.seekToEnd()) } catch { throw Self.failed }
    }

    /// Leaves out bytes that were looked at already.
    func pass(_ count: Int) { position = count }

    func take(_ bytes: [UInt8]) throws {
        let count = min(max(present - position, 0), bytes.count)
        do {
            try handle.seek(toOffset: UInt64(position))
            guard try count == 0 || handle.read(upToCount: count).map(Array.init) == Array(bytes.prefix(count)) else {
                throw SealedFileSink.OtherContent()
            }
            if count < bytes.count { try handle.write(contentsOf: bytes.dropFirst(count)) }
        } catch let error as SealedFileSink.OtherContent {
            throw error
        } catch { throw Self.failed }
        position += bytes.count
    }

    func finish() throws {
        // A file that is longer than what belongs in it holds something else.
        guard position >= present else { throw SealedFileSink.OtherContent() }
        do { try handle.synchronize() } catch { throw GatewayError(.unavailable, "the export cannot be made durable") }
    }

    private static let failed = GatewayError(
        .unavailable, "the export cannot be written; see that its folder exists and has space, and ask again to go on")
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
            var unpacker = TarUnpacker(into: partial, from: SealedFileSink.folder)
            try AgeFile.decrypt(identities: identities) { count in
                do { return [UInt8](try handle.read(upToCount: count) ?? Data()) } catch {
                    throw GatewayError(.unavailable, "the sealed export cannot be read")
                }
            } write: {
                try unpacker.take($0[...])
            }
            _ = try unpacker.finish()
            guard rename(partial.path, out.path) == 0 else {
                throw GatewayError(.unavailable, "the folder cannot be given its name")
            }
        } catch {
            try? FileManager.default.removeItem(at: partial)
            switch error {
            case let error as AgeError:
                throw GatewayError(
                    error.code == .noMatch ? .refused : .integrity, "NOT opened: \(error.publicDescription)")
            case let error as TarError:
                throw GatewayError(.integrity, "NOT opened: the archive inside is not good: \(error.reason)")
            default: throw error
            }
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
