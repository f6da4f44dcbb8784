package import DurableFiles
package import TransparencyLog
package import Vocabulary

/// Checks a log from its static files alone: every entry, every tile, every checkpoint, and with an auditor's key
/// every record's content and chain. It needs no gateway and trusts nothing but the key it is given.
///
/// Memory grows with the height of the tree, with the eras that are open at one time, and by one line for each era.
package struct LogVerifier {
    private let disk: any Disk
    private let folder: String
    private let identity: TrailIdentity
    private let auditor: AuditorKey?
    /// The entries that must be there; all of them when `nil`. Of the others only the hashes are.
    private let entries: Range<UInt64>?
    private var checker: EntryChecker
    private var tiles = TileFiller()
    private var eraKeys: [UInt64: OpenedEra] = [:]
    private var report = LogReport()

    /// `folder` is where `log/` and `keys/` lie on the disk: empty for a trail's own folder, `data/` in an export.
    package init(
        disk: any Disk, folder: String, identity: TrailIdentity, auditor: AuditorKey?,
        entries: Range<UInt64>? = nil
    ) {
        self.disk = disk
        self.folder = folder
        self.identity = identity
        self.auditor = auditor
        self.entries = entries
        checker = EntryChecker(entries == nil ? .whole : .range)
    }

    /// Throws at the first doubt. Shows each entry to `visit` after it was checked against its era, but the log as a
    /// whole is verified only when this returns.
    package consuming func verify(_ visit: (LogEntry) throws -> Void = { _ in }) throws -> LogReport {
        let periods = try SigningPeriods(identity, parsing: disk.read(folder + TrailFiles.periods) ?? [])
        let head = try SignedCheckpoint(parsing: file(TrailFiles.checkpoint), in: periods)
        var earlier = try checkpoints(upTo: head, in: periods)
        // The head at which a signing period ends is a checkpoint too, whether its file is there or not.
        earlier += periods.handovers.map(\.head).filter { $0.size <= head.size }
        earlier.sort { $0.size < $1.size }
        if let entries, entries.upperBound > head.size {
            throw LogError(.incomplete, "the export names entries beyond the log")
        }
        for index in 0..<(head.size + Tile.width - 1) / Tile.width {
            let first = index * Tile.width
            let count = Int(min(Tile.width, head.size - first))
            let bundle = Tile(.entries, index: index, count: count)
            let isHere = entries.map { $0.overlaps(first..<first + UInt64(count)) } ?? true
            let leaves = isHere ? try bundle.entries(parsing: file(TrailFiles.log(bundle.path))) : nil
            let hashes = isHere ? nil : try hashTile(Tile(.hashes(level: 0), index: index, count: count))
            for offset in 0..<count {
                if let leaves {
                    // A bundle at the edge of a range has entries that the range does not have: only their hashes count.
                    let at = first + UInt64(offset)
                    if entries?.contains(at) ?? true {
                        try visit(take(leaves[offset], index: at))
                    } else {
                        try append(Merkle.leafHash(leaves[offset]))
                    }
                } else if let hashes {
                    try append(hashes[offset])
                }
                while let checkpoint = earlier.first, checkpoint.size == tiles.size {
                    guard checkpoint.root == tiles.root else {
                        throw LogError(
                            .wrongProof,
                            "the checkpoint of size \(checkpoint.size) is not of this log: entries below differ")
                    }
                    earlier.removeFirst()
                    report.checkpoints += 1
                }
            }
        }
        for (tile, hashes) in tiles.partial() { try compare(tile, hashes) }
        guard tiles.size == head.size, tiles.root == head.root else {
            throw LogError(.wrongProof, "the entries do not lead to the signed root")
        }
        report.head = head
        for (number, era) in checker.open.sorted(by: { $0.key < $1.key }) {
            report.add(era, number, isClosed: false)
        }
        return report
    }

    private mutating func append(_ hash: Digest) throws {
        for (tile, hashes) in tiles.append(hash) { try compare(tile, hashes) }
    }

    private mutating func take(_ leaf: ArraySlice<UInt8>, index: UInt64) throws -> LogEntry {
        let hash = Merkle.leafHash(leaf)
        try append(hash)
        let header: LeafHeader
        do {
            header = try LeafHeader(leaf: leaf)
        } catch {
            throw LogError(error.code, "entry \(index): \(error.publicDescription)")
        }
        let core = try core(leaf, header: header, index: index)
        if let closed = try checker.take(header, leafHash: hash, index: index, core: core) {
            // A key is guarded memory: kept no longer than its era.
            eraKeys[header.era] = nil
            report.add(closed, header.era, isClosed: true)
        }
        report.entries += 1
        return LogEntry(index: index, leafHash: hash, header: header, byteCount: leaf.count, core: core)
    }

    private mutating func core(_ leaf: ArraySlice<UInt8>, header: LeafHeader, index: UInt64) throws -> JSON? {
        if eraKeys[header.era] == nil {
            eraKeys[header.era] = try OpenedEra(header, index: index, auditor: auditor) { path in
                try disk.read(folder + path)
            }
        }
        guard let era = eraKeys[header.era], era.isReadable else { return nil }
        do {
            let core = try era.open(leaf, origin: identity.origin)
            report.opened += 1
            return core
        } catch {
            throw LogError(error.code, "entry \(index): \(error.publicDescription)")
        }
    }

    private func compare(_ tile: Tile, _ hashes: [Digest]) throws {
        guard try hashTile(tile) == hashes else {
            throw LogError(.wrongProof, "\(tile.path) does not fit the entries")
        }
    }

    private func hashTile(_ tile: Tile) throws -> [Digest] {
        try tile.hashes(parsing: file(TrailFiles.log(tile.path)))
    }

    /// Every checkpoint that lies beside the log.
    private func checkpoints(upTo head: SignedCheckpoint, in periods: SigningPeriods) throws -> [Checkpoint] {
        var found: [Checkpoint] = []
        for name in try disk.names(in: folder + TrailFiles.checkpointsFolder) where !name.hasSuffix(".tmp") {
            guard let size = UInt64(name), String(size) == name, size <= head.size else {
                throw LogError(.incomplete, "a checkpoint is larger than the log")
            }
            let checkpoint = try SignedCheckpoint(parsing: file(TrailFiles.checkpoint(size)), in: periods)
            guard checkpoint.size == size else {
                throw LogError(.malformed, "the checkpoint of size \(size) states another size")
            }
            found.append(checkpoint.checkpoint)
        }
        return found
    }

    private func file(_ path: String) throws -> [UInt8] {
        guard let bytes = try disk.read(folder + path) else { throw LogError(.incomplete, "\(path) is missing") }
        return bytes
    }
}

/// Makes the hash tiles of a growing tree, each as soon as it is full.
struct TileFiller {
    private var range = CompactRange()
    /// Hashes of the tile that is being filled, by tile level.
    private var pending: [[Digest]] = []

    var size: UInt64 { range.size }
    var root: Digest { range.root }

    /// The tiles that this leaf completes; usually none.
    mutating func append(_ leafHash: Digest) -> [(tile: Tile, hashes: [Digest])] {
        var completed: [(level: Int, hash: Digest)] = []
        range.append(leafHash) { level, _, hash in if level % 8 == 0 { completed.append((level / 8, hash)) } }
        return completed.compactMap { level, hash in
            if level == pending.count { pending.append([]) }
            pending[level].append(hash)
            guard pending[level].count == Int(Tile.width) else { return nil }
            defer { pending[level].removeAll(keepingCapacity: true) }
            return (Tile(.hashes(level: level), index: tileIndex(level) - 1), pending[level])
        }
    }

    /// The tiles at the right edge.
    func partial() -> [(tile: Tile, hashes: [Digest])] {
        pending.enumerated().compactMap { level, hashes in
            hashes.isEmpty ? nil : (Tile(.hashes(level: level), index: tileIndex(level), count: hashes.count), hashes)
        }
    }

    private func tileIndex(_ level: Int) -> UInt64 { (range.size >> UInt64(8 * level)) / Tile.width }
}

/// One verified entry: what everybody sees of it, and its content for whoever may read it.
package struct LogEntry: Sendable {
    package let index: UInt64
    package let leafHash: Digest
    package let header: LeafHeader
    package let byteCount: Int
    package let core: JSON?
}

/// What a verification has shown.
package struct LogReport: Sendable {
    /// `nil` only before the end.
    package internal(set) var head: SignedCheckpoint?
    /// How many entries were there and checked.
    package internal(set) var entries: UInt64 = 0
    /// How many checkpoints beside the last one were found to be of the same log.
    package internal(set) var checkpoints = 0
    /// How many entries were opened with the auditor's key.
    package internal(set) var opened = 0
    /// By number, which is the order in which they opened.
    package internal(set) var eras: [EraReport] = []

    mutating func add(_ era: EntryChecker.Era, _ number: UInt64, isClosed: Bool) {
        // Eras end in about the order in which they open, so the place is near the end.
        let place = eras.lastIndex { $0.number < number }.map { $0 + 1 } ?? 0
        eras.insert(
            EraReport(
                number: number, run: era.run, entries: era.entries, indices: era.firstIndex...era.lastIndex,
                isClosed: isClosed, isRead: era.isRead, beginsAtItsOpening: era.beginsAtItsOpening), at: place)
    }
}

package struct EraReport: Sendable, Equatable {
    package let number: UInt64
    /// Known when the era could be read and is a run's.
    package let run: String?
    package let entries: UInt64
    package let indices: ClosedRange<UInt64>
    package let isClosed: Bool
    /// Whether the auditor's key opened it, so that its chain was checked.
    package let isRead: Bool
    /// Whether its opening entry is there: not so in a range that begins later.
    package let beginsAtItsOpening: Bool

    /// Whether the era is shown to be complete: read, chained without a gap, and closed with a count that fits.
    package var isComplete: Bool { isRead && isClosed && beginsAtItsOpening }
}

/// An era's key, if there is one for this auditor.
final class OpenedEra {
    private let key: EraKey?
    let isReadable: Bool

    private init(_ key: consuming EraKey?) {
        isReadable = key != nil
        self.key = key
    }

    /// Opens the era of an entry from its key file, which `read` finds.
    convenience init(
        _ header: LeafHeader, index: UInt64, auditor: AuditorKey?, read: (String) throws -> [UInt8]?
    ) throws {
        guard let bytes = try read(EraKeyFile.path(header.era)) else {
            throw LogError(.incomplete, "entry \(index): the wrapped keys of era \(header.era) are missing")
        }
        let file = try EraKeyFile(parsing: bytes)
        guard file.era == header.era, file.commitment == header.keyCommitment else {
            throw LogError(.wrongEntry, "entry \(index): the wrapped keys of era \(header.era) are of another era")
        }
        guard let auditor else {
            self.init(nil)
            return
        }
        self.init(try file.open(with: auditor))
    }

    func open(_ leaf: ArraySlice<UInt8>, origin: String) throws(LogError) -> JSON {
        guard isReadable else { throw LogError(.wrongEntry, "an era without a key cannot be read") }
        return try key!.open(leaf: leaf, origin: origin).core
    }
}
