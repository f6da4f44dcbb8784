package import DurableFiles
internal import Sealing
package import TransparencyLog
package import Vocabulary

/// An audit export: a BagIt bag (RFC 8493, SHA-512) of static files that anyone can verify offline; `audit/VERIFY.md`
/// tells how, `audit/export.md` what lies where.
package struct AuditExport {
    static let payload = "data/"
    private static let entriesFolder = "run/entries"
    private static let proofsFolder = "run/proofs"

    private let disk: any Disk

    package init(_ disk: any Disk) { self.disk = disk }

    // MARK: Writing

    /// Exports the whole published log of the trail in `trail` into an empty folder.
    package static func whole(of trail: any Disk, into folder: any Disk, at time: Timestamp) throws {
        var bag = try Bag(folder)
        let (identity, head) = try start(&bag, trail)
        for tile in Tile.all(size: head.size) { try bag.copy(TrailFiles.log(tile.path), from: trail) }
        try bag.copy(TrailFiles.checkpoint, from: trail)
        for name in try trail.names(in: TrailFiles.checkpointsFolder) {
            guard let size = UInt64(name), size <= head.size else { continue }
            try bag.copy(TrailFiles.checkpoint(size), from: trail)
        }
        for name in try trail.names(in: EraKeyFile.folder) where name.hasSuffix(".json") {
            try bag.copy("\(EraKeyFile.folder)/\(name)", from: trail)
        }
        try bag.finish(identity, "whole log, \(head.size) entries", time)
    }

    /// Exports one era (a run) with a proof for each entry: complete in itself, and nothing of other runs.
    package static func era(
        _ era: UInt64, of trail: any Disk, into folder: any Disk, at time: Timestamp
    ) throws {
        var bag = try Bag(folder)
        let (identity, head) = try start(&bag, trail)
        var tree = MerkleTree()
        var entries: [(index: UInt64, leaf: [UInt8])] = []
        for tile in Tile.all(size: head.size) where tile.kind == .entries {
            guard let bytes = try trail.read(TrailFiles.log(tile.path)) else {
                throw LogError(.incomplete, "\(tile.path) is missing")
            }
            for leaf in try tile.entries(parsing: bytes) {
                if try LeafHeader(leaf: leaf).era == era { entries.append((tree.size, Array(leaf))) }
                tree.append(Merkle.leafHash(leaf))
            }
        }
        guard tree.root == head.root else { throw LogError(.wrongProof, "the log's files do not fit its checkpoint") }
        guard !entries.isEmpty else { throw LogError(.incomplete, "the log has no such era") }
        for (index, leaf) in entries {
            let proof = LogProof(
                index: index, hashes: tree.inclusionProof(index: index, size: head.size), head: head)
            try bag.add("\(entriesFolder)/\(index)", leaf)
            try bag.add("\(proofsFolder)/\(index).tlog-proof", proof.bytes)
        }
        try bag.copy(EraKeyFile.path(era), from: trail)
        try bag.finish(identity, "one era, \(entries.count) entries", time)
    }

    private static func start(
        _ bag: inout Bag, _ trail: any Disk
    ) throws -> (identity: TrailIdentity, head: SignedCheckpoint) {
        guard let text = try trail.read(TrailFiles.identity), let note = try trail.read(TrailFiles.checkpoint) else {
            throw LogError(.incomplete, "there is no published log")
        }
        let identity = try TrailIdentity(parsing: String(decoding: text.dropLast(), as: UTF8.self))
        try bag.add(TrailFiles.identity, text)
        let handovers = try trail.read(TrailFiles.periods)
        if let handovers { try bag.add(TrailFiles.periods, handovers) }
        try bag.add("VERIFY.md", Array(verifyText.utf8))
        return (identity, try SignedCheckpoint(parsing: note, in: SigningPeriods(identity, parsing: handovers ?? [])))
    }

    // MARK: Reading

    /// The log's name and key as the export states them. Compare with what you know: whoever made the export chose it.
    package func statedIdentity() throws -> TrailIdentity {
        guard let text = try disk.read(Self.payload + TrailFiles.identity), text.last == 0x0A else {
            throw LogError(.incomplete, "the export names no log")
        }
        return try TrailIdentity(parsing: String(decoding: text.dropLast(), as: UTF8.self))
    }

    /// Checks everything in the export and throws at the first doubt, naming the entry or file.
    package func verify(
        trusting identity: TrailIdentity, auditor: AuditorKey?, _ visit: (LogEntry) throws -> Void = { _ in }
    ) throws -> LogReport {
        try Bag.verify(disk)
        guard try statedIdentity() == identity else {
            throw LogError(.wrongOrigin, "the export is of another log than the one you trust")
        }
        guard try disk.names(in: Self.payload + Self.entriesFolder).isEmpty else {
            return try verifyEra(identity, auditor, visit)
        }
        return try LogVerifier(disk: disk, folder: Self.payload, identity: identity, auditor: auditor).verify(visit)
    }

    private func verifyEra(
        _ identity: TrailIdentity, _ auditor: AuditorKey?, _ visit: (LogEntry) throws -> Void
    ) throws -> LogReport {
        let indices = try disk.names(in: Self.payload + Self.entriesFolder).map { name throws(LogError) in
            guard let index = UInt64(name), String(index) == name else {
                throw LogError(.malformed, "an entry's file is not named by its index")
            }
            return index
        }
        let periods = try SigningPeriods(identity, parsing: disk.read(Self.payload + TrailFiles.periods) ?? [])
        var ledger = EraLedger()
        var opened: OpenedEra?
        var report = LogReport()
        for index in indices.sorted() {
            guard let leaf = try disk.read("\(Self.payload)\(Self.entriesFolder)/\(index)"),
                let text = try disk.read("\(Self.payload)\(Self.proofsFolder)/\(index).tlog-proof")
            else { throw LogError(.incomplete, "entry \(index) has no proof") }
            do {
                let hash = Merkle.leafHash(leaf)
                let proof = try LogProof(parsing: text)
                let head = try proof.verified(hash, in: periods)
                guard proof.index == index, report.head ?? head == head else {
                    throw LogError(.wrongProof, "the proof is of another entry or head")
                }
                report.head = head
                let header = try LeafHeader(leaf: leaf[...])
                if opened == nil { opened = try openEra(header, auditor) }
                let core = opened!.isReadable ? try opened!.open(leaf[...], origin: identity.origin) : nil
                if core != nil { report.opened += 1 }
                try ledger.take(header, leafHash: hash, index: index, core: core)
                guard ledger.eras.count == 1 else { throw LogError(.wrongEntry, "it belongs to another era") }
                try visit(
                    LogEntry(index: index, leafHash: hash, header: header, byteCount: leaf.count, core: core))
            } catch let error as LogError {
                throw LogError(error.code, "entry \(index): \(error.publicDescription)")
            }
        }
        report.eras = ledger.eras.map { number, era in
            EraReport(
                number: number, run: era.run, entries: era.chain.count, indices: era.firstIndex...era.lastIndex,
                isClosed: era.isClosed, isRead: opened!.isReadable)
        }
        return report
    }

    private func openEra(_ header: LeafHeader, _ auditor: AuditorKey?) throws -> OpenedEra {
        guard let bytes = try disk.read(Self.payload + EraKeyFile.path(header.era)) else {
            throw LogError(.incomplete, "the wrapped keys of era \(header.era) are missing")
        }
        let file = try EraKeyFile(parsing: bytes)
        guard file.era == header.era, file.commitment == header.keyCommitment else {
            throw LogError(.wrongEntry, "the wrapped keys are of another era")
        }
        guard let auditor else { return OpenedEra(nil) }
        return OpenedEra(try file.open(with: auditor))
    }
}

/// A BagIt bag: payload files under `data/` and a SHA-512 manifest that names each of them.
private struct Bag {
    private let disk: any Disk
    private var files: [(path: String, digest: [UInt8], count: Int)] = []
    private static let tags = ["bagit.txt", "bag-info.txt", "manifest-sha512.txt"]

    init(_ disk: any Disk) throws {
        guard try disk.names(in: "").isEmpty else {
            throw TrailError(.alreadyExists, "an export goes into an empty folder")
        }
        self.disk = disk
    }

    mutating func add(_ path: String, _ bytes: [UInt8]) throws {
        let target = AuditExport.payload + path
        try disk.replace(target, with: bytes, durable: false)
        files.append((target, SHA512.hash(bytes), bytes.count))
    }

    mutating func copy(_ path: String, from other: any Disk) throws {
        guard let bytes = try other.read(path) else { throw LogError(.incomplete, "\(path) is missing") }
        try add(path, bytes)
    }

    func finish(_ identity: TrailIdentity, _ description: String, _ time: Timestamp) throws {
        let manifest = files.sorted { $0.path < $1.path }.map { "\(Hex.encode($0.digest))  \($0.path)\n" }.joined()
        let bytes = files.reduce(0) { $0 + $1.count }
        let info = """
            Bagging-Date: \(time.description.prefix(10))
            Bag-Software-Agent: Sekisho
            External-Identifier: \(identity.origin)
            External-Description: Audit export, \(description)
            Payload-Oxum: \(bytes).\(files.count)

            """
        let tags = [
            ("bagit.txt", "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"), ("bag-info.txt", info),
            ("manifest-sha512.txt", manifest),
        ]
        var tagManifest = ""
        for (name, text) in tags {
            try disk.replace(name, with: Array(text.utf8), durable: true)
            tagManifest += "\(Hex.encode(SHA512.hash(Array(text.utf8))))  \(name)\n"
        }
        try disk.replace("tagmanifest-sha512.txt", with: Array(tagManifest.utf8), durable: true)
    }

    /// Every file is named in its manifest with its hash, and no other file lies there.
    static func verify(_ disk: any Disk) throws {
        let tags = try manifest("tagmanifest-sha512.txt", disk)
        guard Set(tags.keys) == Set(Self.tags) else {
            throw LogError(.incomplete, "the bag's tag manifest is not whole")
        }
        let payload = try manifest("manifest-sha512.txt", disk)
        for (path, digest) in tags.merging(payload, uniquingKeysWith: { first, _ in first }) {
            guard let bytes = try disk.read(path) else { throw LogError(.incomplete, "\(path) is missing") }
            guard SHA512.hash(bytes) == digest else { throw LogError(.wrongEntry, "\(path) does not fit the manifest") }
        }
        guard try disk.read("bagit.txt") == Array("BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n".utf8)
        else {
            throw LogError(.malformed, "the bag is of an unknown version")
        }
        for path in try paths(under: "data", disk) where payload[path] == nil {
            throw LogError(.wrongEntry, "\(path) is not in the manifest")
        }
        let top = Set(try disk.names(in: ""))
        guard top == Set(Self.tags + ["tagmanifest-sha512.txt", "data"]) else {
            throw LogError(.wrongEntry, "a file beside the payload is not part of the bag")
        }
    }

    private static func manifest(_ name: String, _ disk: any Disk) throws -> [String: [UInt8]] {
        guard let bytes = try disk.read(name), let text = String(validating: bytes, as: UTF8.self) else {
            throw LogError(.incomplete, "\(name) is missing")
        }
        var digests: [String: [UInt8]] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1)
            guard parts.count == 2, let digest = Hex.decode(String(parts[0])), digest.count == 64,
                parts[1].hasPrefix(" "), !parts[1].contains(".."),
                digests.updateValue(digest, forKey: String(parts[1].dropFirst())) == nil
            else { throw LogError(.malformed, "\(name) has a line that is not a hash and a file") }
        }
        return digests
    }

    private static func paths(under folder: String, _ disk: any Disk) throws -> [String] {
        try disk.names(in: folder).flatMap { name -> [String] in
            let path = "\(folder)/\(name)"
            let below = try Self.paths(under: path, disk)
            return try below.isEmpty && disk.read(path) != nil ? [path] : below
        }
    }
}
