package import DurableFiles
package import TransparencyLog
package import Vocabulary

/// An audit export: a BagIt bag of static files that anyone can verify offline; `audit/VERIFY.md` tells how,
/// `audit/export.md` what lies where.
package struct AuditExport {
    static let scopeFile = "scope.json"
    static let sliceFolder = "slice/entries"
    static let proofsFolder = "slice/proofs"
    package static let documentsFolder = "documents"
    package static let policiesFolder = "policies"

    private let disk: any Disk

    package init(_ disk: any Disk) { self.disk = disk }

    /// The log's name and key as the export states them. Compare with what you know: whoever made the export chose it.
    package func statedIdentity() throws -> TrailIdentity {
        let text = try Bag.file(Bag.payload + TrailFiles.identity, disk)
        guard text.last == 0x0A else { throw LogError(.malformed, "the export names no log") }
        return try TrailIdentity(parsing: String(decoding: text.dropLast(), as: UTF8.self))
    }

    package func scope() throws -> ExportScope {
        try ExportScope(parsing: Bag.file(Bag.payload + Self.scopeFile, disk))
    }

    /// Checks everything in the export but what lies under `documents` and `policies`, whose files are only held to
    /// the manifest; throws at the first doubt, naming the entry or file.
    @discardableResult
    package func verify(
        trusting identity: TrailIdentity, auditor: AuditorKey?, _ visit: (LogEntry) throws -> Void = { _ in }
    ) throws -> LogReport {
        try Bag.verify(disk)
        guard try statedIdentity() == identity else {
            throw LogError(.wrongOrigin, "the export is of another log than the one you trust")
        }
        let scope = try scope()
        try checkNames(scope.part)
        let report: LogReport
        if case .chosen = scope.part {
            report = try verifySelection(identity, auditor, visit)
        } else {
            let range: Range<UInt64>? = if case .range(let range) = scope.part { range } else { nil }
            report = try LogVerifier(
                disk: disk, folder: Bag.payload, identity: identity, auditor: auditor, entries: range
            ).verify(visit)
        }
        guard report.entries == scope.entries, report.head?.size == scope.size, report.head?.root == scope.root else {
            throw LogError(.incomplete, "the export has not the entries that it says it has")
        }
        try checkCounts(scope, eras: Set(report.eras.map(\.number)).count)
        return report
    }

    /// The signed heads in the export, by size: the one that everything is under, and in a log's slice earlier ones. That
    /// they are of one log is for `verify` to show.
    package func heads(trusting identity: TrailIdentity) throws -> [SignedCheckpoint] {
        let periods = try SigningPeriods(identity, parsing: disk.read(Bag.payload + TrailFiles.periods) ?? [])
        guard let note = try disk.read(Bag.payload + TrailFiles.checkpoint) else {
            guard let first = try names(in: Self.proofsFolder).first else { return [] }
            let proof = try LogProof(parsing: file("\(Self.proofsFolder)/\(first)"))
            return [try SignedCheckpoint(parsing: proof.note, in: periods)]
        }
        let head = try SignedCheckpoint(parsing: note, in: periods)
        return try names(in: TrailFiles.checkpointsFolder).compactMap(UInt64.init).filter { $0 < head.size }.sorted()
            .map { try SignedCheckpoint(parsing: file(TrailFiles.checkpoint($0)), in: periods) } + [head]
    }

    /// The names in a folder of the payload, and a file of it.
    package func names(in folder: String) throws -> [String] { try disk.names(in: Bag.payload + folder) }
    package func file(_ path: String) throws -> [UInt8] { try Bag.file(Bag.payload + path, disk) }

    /// Nothing lies in the payload that an export of this kind does not have.
    private func checkNames(_ part: ExportScope.Part) throws {
        let known = [
            TrailFiles.identity, TrailFiles.periods, "VERIFY.md", Self.scopeFile, EraKeyFile.folder,
            part == .chosen ? "slice" : TrailFiles.logFolder, Self.documentsFolder, Self.policiesFolder,
        ]
        if let other = try names(in: "").first(where: { !known.contains($0) }) {
            throw LogError(.wrongEntry, "data/\(other) is not part of an export of this kind")
        }
    }

    /// Every file that must be there was read; as many are there, so there is no other.
    private func checkCounts(_ scope: ExportScope, eras: Int) throws {
        func check(_ folder: String, _ expected: Int) throws {
            guard try fileCount(in: folder) == expected else {
                throw LogError(.wrongEntry, "data/\(folder) has files that are not part of the log")
            }
        }
        try check(EraKeyFile.folder, eras)
        guard scope.part != .chosen else { return }
        var tiles = 0
        var nodes = scope.size
        while nodes > 0 {
            tiles += Int((nodes + Tile.width - 1) / Tile.width)
            nodes /= Tile.width
        }
        let range = if case .range(let range) = scope.part { range } else { 0..<scope.size }
        if !range.isEmpty { tiles += Int((range.upperBound - 1) / Tile.width - range.lowerBound / Tile.width) + 1 }
        try check("\(TrailFiles.logFolder)/tile", tiles)
        let log = try names(in: TrailFiles.logFolder)
        guard Set(log).isSubset(of: ["checkpoint", "checkpoints", "tile"]) else {
            throw LogError(.wrongEntry, "data/\(TrailFiles.logFolder) has files that are not part of the log")
        }
    }

    private func fileCount(in folder: String) throws -> Int {
        try names(in: folder).reduce(0) { count, name in
            let path = "\(folder)/\(name)"
            return try count + (names(in: path).isEmpty ? 1 : fileCount(in: path))
        }
    }

    private func verifySelection(
        _ identity: TrailIdentity, _ auditor: AuditorKey?, _ visit: (LogEntry) throws -> Void
    ) throws -> LogReport {
        let indices = try names(in: Self.sliceFolder).map { name throws(LogError) in
            guard let index = UInt64(name), String(index) == name else {
                throw LogError(.malformed, "an entry's file is not named by its index")
            }
            return index
        }
        guard try names(in: Self.proofsFolder).count == indices.count else {
            throw LogError(.incomplete, "entries and proofs are not as many")
        }
        let periods = try SigningPeriods(identity, parsing: disk.read(Bag.payload + TrailFiles.periods) ?? [])
        var checker = EntryChecker(.selection)
        var keys: [UInt64: OpenedEra] = [:]
        var report = LogReport()
        for index in indices.sorted() {
            let leaf = try file("\(Self.sliceFolder)/\(index)")
            let text = try file("\(Self.proofsFolder)/\(index).tlog-proof")
            do {
                let hash = Merkle.leafHash(leaf)
                let proof = try LogProof(parsing: text)
                // One head for all: its signature is checked once.
                if let head = report.head {
                    guard proof.note == head.note else { throw LogError(.wrongProof, "the proof is of another head") }
                    try Merkle.verifyInclusion(
                        of: hash, index: proof.index, size: head.size, proof: proof.hashes, root: head.root)
                } else {
                    report.head = try proof.verified(hash, in: periods)
                }
                guard proof.index == index else { throw LogError(.wrongProof, "the proof is of another entry") }
            } catch let error as LogError {
                throw LogError(error.code, "entry \(index): \(error.publicDescription)")
            }
            let header: LeafHeader
            let core: JSON?
            do {
                header = try LeafHeader(leaf: leaf[...])
                if keys[header.era] == nil {
                    keys[header.era] = try OpenedEra(header, index: index, auditor: auditor) { path in
                        try disk.read(Bag.payload + path)
                    }
                }
                core =
                    keys[header.era]!.isReadable
                    ? try keys[header.era]!.open(leaf[...], origin: identity.origin) : nil
            } catch let error as LogError where !error.publicDescription.hasPrefix("entry ") {
                throw LogError(error.code, "entry \(index): \(error.publicDescription)")
            }
            if core != nil { report.opened += 1 }
            if let closed = try checker.take(header, leafHash: hash(leaf), index: index, core: core) {
                keys[header.era] = nil
                report.add(closed, header.era, isClosed: true)
            }
            report.entries += 1
            try visit(
                LogEntry(index: index, leafHash: hash(leaf), header: header, byteCount: leaf.count, core: core))
        }
        for (number, era) in checker.open.sorted(by: { $0.key < $1.key }) {
            report.add(era, number, isClosed: false)
        }
        return report
    }

    private func hash(_ leaf: [UInt8]) -> Digest { Merkle.leafHash(leaf) }
}

/// What an export says it holds; its verification holds it to that.
package struct ExportScope: Sendable, Equatable {
    package enum Part: Sendable, Equatable {
        case whole
        /// All entries from one index up to another.
        case range(Range<UInt64>)
        /// The entries of some runs, or about a data set or a person of it.
        case chosen
    }

    package let part: Part
    /// In words of a closed list: `whole`, `range`, `run`, `dataset` or `subject`.
    package let name: String
    package let run: String?
    package let dataset: String?
    package let entries: UInt64
    /// The head under which everything is proved.
    package let size: UInt64
    package let root: Digest
    package let made: Timestamp
    /// Whether reports and tables in clear are part of it.
    package let hasDocuments: Bool

    package init(
        part: Part, name: String, run: String?, dataset: String?, entries: UInt64, size: UInt64, root: Digest,
        made: Timestamp, hasDocuments: Bool
    ) {
        self.part = part
        self.name = name
        self.run = run
        self.dataset = dataset
        self.entries = entries
        self.size = size
        self.root = root
        self.made = made
        self.hasDocuments = hasDocuments
    }

    package var bytes: [UInt8] {
        var members: [String: JSON] = [
            "version": 1, "scope": .string(name), "entries": .integer(Int64(entries)), "size": .integer(Int64(size)),
            "root": .string(root.hex), "made": .integer(made.milliseconds), "documents": .bool(hasDocuments),
        ]
        members["run"] = run.map(JSON.string)
        members["dataset"] = dataset.map(JSON.string)
        if case .range(let range) = part {
            members["from"] = .integer(Int64(range.lowerBound))
            members["to"] = .integer(Int64(range.upperBound))
        }
        return JSON.object(members).canonical
    }

    init(parsing bytes: [UInt8]) throws(LogError) {
        let malformed = LogError(.malformed, "\(AuditExport.scopeFile) is not well formed")
        guard let json = try? JSON(parsing: bytes), json["version"] == 1, let name = json["scope"]?.stringValue,
            let entries = json["entries"]?.integerValue, entries >= 0, let size = json["size"]?.integerValue, size >= 0,
            let root = json["root"]?.stringValue.flatMap({ Digest(hex: $0) }),
            let made = json["made"]?.integerValue, let hasDocuments = json["documents"]?.boolValue
        else { throw malformed }
        let part: Part
        switch name {
        case "whole": part = .whole
        case "range":
            guard let from = json["from"]?.integerValue, let to = json["to"]?.integerValue, 0 <= from, from < to else {
                throw malformed
            }
            part = .range(UInt64(from)..<UInt64(to))
        case "run", "dataset", "subject": part = .chosen
        default: throw malformed
        }
        self.init(
            part: part, name: name, run: json["run"]?.stringValue, dataset: json["dataset"]?.stringValue,
            entries: UInt64(entries), size: UInt64(size), root: root, made: Timestamp(milliseconds: made),
            hasDocuments: hasDocuments)
        // One spelling only, and no member that nobody reads.
        guard self.bytes == bytes else { throw malformed }
    }
}
