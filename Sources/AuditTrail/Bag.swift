package import DurableFiles
internal import Sealing
package import TransparencyLog
package import Vocabulary

/// Where the files of an export go: a folder, or one sealed file. Each file is put once, as a whole.
package protocol BagSink: AnyObject {
    func put(_ path: String, _ bytes: [UInt8], durable: Bool) throws
}

/// Writes a BagIt bag (RFC 8493): payload files under `data/` and a SHA-512 manifest that names each of them, in the
/// order in which a walk through the folders meets them.
package struct BagWriter {
    private let sink: any BagSink
    private var files: [(path: String, digest: [UInt8])] = []
    private var byteCount = 0

    package init(_ sink: any BagSink) { self.sink = sink }

    /// `path` is relative to `data/`.
    package mutating func put(_ path: String, _ bytes: [UInt8]) throws { try put(path, BagFile(bytes)) }

    mutating func put(_ path: String, _ file: BagFile) throws {
        let target = Bag.payload + path
        try sink.put(target, file.bytes, durable: false)
        files.append((target, file.digest))
        byteCount += file.bytes.count
    }

    /// Writes the manifests; without them it is no bag.
    package consuming func finish(_ identity: TrailIdentity, _ description: String, _ time: Timestamp) throws {
        let ordered = files.sorted { Bag.isBefore($0.path, $1.path) }
        let manifest = ordered.map { "\(Hex.encode($0.digest))  \($0.path)\n" }.joined()
        let info = """
            Bagging-Date: \(time.description.prefix(10))
            Bag-Software-Agent: Sekisho
            External-Identifier: \(identity.origin)
            External-Description: Audit export, \(description)
            Payload-Oxum: \(byteCount).\(files.count)

            """
        var tagManifest = ""
        for (name, text) in [("bag-info.txt", info), ("bagit.txt", Bag.version), (Bag.manifest, manifest)] {
            try sink.put(name, Array(text.utf8), durable: true)
            tagManifest += "\(Hex.encode(SHA512.hash(Array(text.utf8))))  \(name)\n"
        }
        try sink.put(Bag.tagManifest, Array(tagManifest.utf8), durable: true)
    }
}

/// A file of a bag with its hash, which may be computed elsewhere than where it is put.
struct BagFile: Sendable {
    let bytes: [UInt8]
    let digest: [UInt8]

    init(_ bytes: [UInt8]) {
        precondition(bytes.count <= Bag.fileBytesMax, "a file of an export is bounded")
        self.bytes = bytes
        digest = SHA512.hash(bytes)
    }
}

/// A bag as it lies in a folder.
package enum Bag {
    static let payload = "data/"
    static let manifest = "manifest-sha512.txt"
    static let tagManifest = "tagmanifest-sha512.txt"
    static let version = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    private static let tags = ["bag-info.txt", "bagit.txt", manifest]
    private static let payloadFolder = "data"
    static let fileBytesMax = 64 << 20
    private static let lineBytesMax = 4096
    private static let foldersDeepMax = 16

    /// Every file is named in its manifest with its hash, and no other file lies there. Reads a few files at a time.
    static func verify(_ disk: any Disk) throws {
        try checkTags(disk)
        var lines = try ManifestReader(disk)
        var named: [NamedFile] = []
        try walk(payloadFolder, disk, depth: 0) { path in
            let line = try lines.next()
            guard line?.path == path else {
                // What comes before in the manifest is told first.
                try check(named, disk)
                throw line.map { isBefore($0.path, path) } ?? false
                    ? LogError(.incomplete, "\(line!.path) is missing")
                    : LogError(.wrongEntry, "\(path) is not in the manifest")
            }
            named.append(line!)
            guard named.count == checkedTogether else { return }
            try check(named, disk)
            named.removeAll(keepingCapacity: true)
        }
        try check(named, disk)
        if let line = try lines.next() { throw LogError(.incomplete, "\(line.path) is missing") }
    }

    private typealias NamedFile = (digest: [UInt8], path: String)
    private static let checkedTogether = 128

    /// Holds files to their hashes, on all cores.
    private static func check(_ named: [NamedFile], _ disk: any Disk) throws {
        try InOrder.run(named.count) { number in
            Result { try SHA512.hash(file(named[number].path, disk)) == named[number].digest }
        } take: { number, fits in
            guard try fits.get() else {
                throw LogError(.wrongEntry, "\(named[number].path) does not fit the manifest")
            }
            return true
        }
    }

    private static func checkTags(_ disk: any Disk) throws {
        let text = try file(tagManifest, disk)
        var expected: [UInt8] = []
        for name in tags { expected += "\(Hex.encode(SHA512.hash(try file(name, disk))))  \(name)\n".utf8 }
        guard text == expected else {
            throw LogError(.wrongEntry, "\(tagManifest) does not fit the bag's own files")
        }
        guard try file("bagit.txt", disk) == Array(version.utf8) else {
            throw LogError(.malformed, "the bag is of an unknown version")
        }
        let top = try disk.names(in: "")
        let known = Set(tags + [tagManifest, payloadFolder])
        if let other = top.first(where: { !known.contains($0) }) {
            throw LogError(
                .wrongEntry,
                other == FolderSink.partialName
                    ? "the export was never finished; make it again"
                    : "a file beside the payload is not part of the bag")
        }
    }

    /// Visits the files below a folder, in order.
    private static func walk(
        _ folder: String, _ disk: any Disk, depth: Int, _ visit: (String) throws -> Void
    ) throws {
        guard depth < foldersDeepMax else { throw LogError(.malformed, "the bag's folders are too deep") }
        let names = try disk.names(in: folder)
        for name in names.sorted(by: { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }) {
            let path = "\(folder)/\(name)"
            if try disk.names(in: path).isEmpty {
                try visit(path)
            } else {
                try walk(path, disk, depth: depth + 1, visit)
            }
        }
    }

    static func file(_ path: String, _ disk: any Disk) throws -> [UInt8] {
        guard let count = try disk.byteCount(of: path) else { throw LogError(.incomplete, "\(path) is missing") }
        guard count <= fileBytesMax else { throw LogError(.malformed, "\(path) is longer than any file of an export") }
        guard let bytes = try disk.read(path) else { throw LogError(.incomplete, "\(path) is missing") }
        return bytes
    }

    /// The order of a walk: by the names on the way, byte by byte.
    static func isBefore(_ left: String, _ right: String) -> Bool {
        let left = left.split(separator: "/", omittingEmptySubsequences: false)
        let right = right.split(separator: "/", omittingEmptySubsequences: false)
        for (one, other) in zip(left, right) where one != other {
            return one.utf8.lexicographicallyPrecedes(other.utf8)
        }
        return left.count < right.count
    }

    /// The manifest, line by line.
    private struct ManifestReader {
        private let disk: any Disk
        private let byteCount: Int
        private var offset = 0
        private var held: [UInt8] = []
        private var at = 0
        private static let pieceBytes = 1 << 16

        init(_ disk: any Disk) throws {
            self.disk = disk
            guard let count = try disk.byteCount(of: manifest) else {
                throw LogError(.incomplete, "\(manifest) is missing")
            }
            byteCount = count
        }

        mutating func next() throws -> (digest: [UInt8], path: String)? {
            let malformed = LogError(.malformed, "\(manifest) has a line that is not a hash and a file")
            while true {
                if let end = held[at...].firstIndex(of: 0x0A) {
                    defer { at = end + 1 }
                    let line = held[at..<end]
                    guard line.count <= lineBytesMax, line.count > 130,
                        let digest = Hex.decode(String(decoding: line.prefix(128), as: UTF8.self)),
                        line.dropFirst(128).starts(with: "  ".utf8),
                        let path = String(validating: line.dropFirst(130), as: UTF8.self), !path.contains("..")
                    else { throw malformed }
                    return (digest, path)
                }
                guard offset < byteCount else {
                    guard at == held.count else { throw malformed }
                    return nil
                }
                guard held.count - at <= lineBytesMax else { throw malformed }
                held.removeFirst(at)
                at = 0
                let count = min(Self.pieceBytes, byteCount - offset)
                held += try disk.read(manifest, offset: offset, count: count)
                offset += count
            }
        }
    }
}

/// A folder that becomes a bag. Until it is one, a note in it tells what it will be, so that the same export can go on
/// after it was interrupted: files that are there already and right are not written again.
package final class FolderSink: BagSink {
    static let partialName = "partial.json"
    private let disk: any Disk

    /// What an interrupted export left: what was asked for, the head it is of, and when it began.
    package struct Partial: Sendable, Equatable {
        package let request: Digest
        package let note: [UInt8]
        package let time: Timestamp
        /// Entries from here on are younger than the request.
        package let end: UInt64

        package init(request: Digest, note: [UInt8], time: Timestamp, end: UInt64) {
            self.request = request
            self.note = note
            self.time = time
            self.end = end
        }

        package var bytes: [UInt8] {
            let json: JSON = [
                "request": .string(request.hex), "note": .string(String(decoding: note, as: UTF8.self)),
                "time": .integer(time.milliseconds), "end": .integer(Int64(end)),
            ]
            return json.canonical
        }

        package init?(_ bytes: [UInt8]) {
            guard let json = try? JSON(parsing: bytes), let digest = json["request"]?.stringValue,
                let request = Digest(hex: digest), let note = json["note"]?.stringValue,
                let time = json["time"]?.integerValue, let end = json["end"]?.integerValue, end >= 0
            else { return nil }
            self.init(
                request: request, note: Array(note.utf8), time: Timestamp(milliseconds: time), end: UInt64(end))
        }
    }

    package init(_ disk: any Disk) { self.disk = disk }

    /// What an earlier attempt left here; `nil` in an empty folder. Anything else that lies there is refused.
    package func partial() throws -> Partial? {
        guard !(try disk.names(in: "")).isEmpty else { return nil }
        guard let bytes = try disk.read(Self.partialName), let partial = Partial(bytes) else {
            throw TrailError(.alreadyExists, "an export goes into an empty folder")
        }
        return partial
    }

    package func begin(_ partial: Partial) throws {
        try disk.replace(Self.partialName, with: partial.bytes, durable: true)
    }

    package func finish() throws { try disk.remove(Self.partialName) }

    package func put(_ path: String, _ bytes: [UInt8], durable: Bool) throws {
        if try disk.byteCount(of: path) == bytes.count, try disk.read(path) == bytes { return }
        try disk.replace(path, with: bytes, durable: durable)
    }
}
