package import DurableFiles
internal import Synchronization
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
        let bundles = BundleReader(
            disk: disk, folder: folder, origin: identity.origin, size: head.size, entries: entries,
            keys: EraKeys(disk: disk, folder: folder, auditor: auditor))
        // Files are read, entries hashed and opened on all cores; what follows from them is checked in order.
        try InOrder.run(bundles.count) { number in
            bundles.read(number)
        } take: { number, bundle in
            for (offset, entry) in bundle.entries.enumerated() {
                for (tile, hashes) in tiles.append(entry.hash) { try compare(tile, hashes) }
                if let content = entry.content {
                    let index = UInt64(number) * Tile.width + UInt64(offset)
                    try visit(take(entry, content.get(), index: index, keys: bundles.keys))
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
            if let failure = bundle.failure { throw failure }
            return true
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

    private mutating func take(
        _ entry: ReadEntry, _ content: (header: LeafHeader, core: JSON?), index: UInt64, keys: EraKeys
    ) throws -> LogEntry {
        if content.core != nil { report.opened += 1 }
        let closed = try checker.take(content.header, leafHash: entry.hash, index: index, core: content.core)
        if let closed {
            // A key is guarded memory: kept no longer than its era.
            keys.forget(content.header.era)
            report.add(closed, content.header.era, isClosed: true)
        }
        report.entries += 1
        return LogEntry(
            index: index, leafHash: entry.hash, header: content.header, byteCount: entry.byteCount, core: content.core)
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

/// One entry as far as it can be told without those before it.
private struct ReadEntry: Sendable {
    let hash: Digest
    let byteCount: Int
    /// Its header, and its core when the key is there; `nil` for an entry of which only the hash counts.
    let content: Result<(header: LeafHeader, core: JSON?), any Error>?
}

/// Reads the log's bundles, each by itself.
private struct BundleReader: Sendable {
    let disk: any Disk
    let folder: String
    let origin: String
    let size: UInt64
    /// As the verifier's.
    let entries: Range<UInt64>?
    let keys: EraKeys

    var count: Int { Int((size + Tile.width - 1) / Tile.width) }

    /// The entries of one bundle, up to the first that is not well formed; then why.
    func read(_ number: Int) -> (entries: [ReadEntry], failure: (any Error)?) {
        let first = UInt64(number) * Tile.width
        let count = Int(min(Tile.width, size - first))
        var result: [ReadEntry] = []
        result.reserveCapacity(count)
        do {
            guard entries.map({ $0.overlaps(first..<first + UInt64(count)) }) ?? true else {
                let tile = Tile(.hashes(level: 0), index: UInt64(number), count: count)
                for hash in try tile.hashes(parsing: disk.file(folder + TrailFiles.log(tile.path))) {
                    result.append(ReadEntry(hash: hash, byteCount: 0, content: nil))
                }
                return (result, nil)
            }
            let bundle = Tile(.entries, index: UInt64(number), count: count)
            let bytes = try disk.file(folder + TrailFiles.log(bundle.path))
            for (offset, leaf) in try bundle.entries(parsing: bytes).enumerated() {
                let index = first + UInt64(offset)
                // A bundle at the edge of a range has entries that the range does not have: only their hashes count.
                let isIn = entries?.contains(index) ?? true
                result.append(
                    ReadEntry(
                        hash: Merkle.leafHash(leaf), byteCount: leaf.count,
                        content: isIn ? Result { try content(leaf, index) } : nil))
            }
            return (result, nil)
        } catch { return (result, error) }
    }

    private func content(_ leaf: ArraySlice<UInt8>, _ index: UInt64) throws -> (header: LeafHeader, core: JSON?) {
        func named(_ error: LogError) -> LogError { LogError(error.code, "entry \(index): \(error.publicDescription)") }
        let header: LeafHeader
        do { header = try LeafHeader(leaf: leaf) } catch { throw named(error) }
        let era = try keys.era(of: header, at: index)
        guard era.isReadable else { return (header, nil) }
        do throws(LogError) { return (header, try era.open(leaf, origin: origin)) } catch { throw named(error) }
    }
}

/// The keys of the eras that are being read, each opened once.
private final class EraKeys: Sendable {
    private let disk: any Disk
    private let folder: String
    private let auditor: AuditorKey?
    private let opened = Mutex<[UInt64: OpenedEra]>([:])

    init(disk: any Disk, folder: String, auditor: AuditorKey?) {
        self.disk = disk
        self.folder = folder
        self.auditor = auditor
    }

    func era(of header: LeafHeader, at index: UInt64) throws -> OpenedEra {
        if let era = opened.withLock({ $0[header.era] }) { return era }
        let era = try OpenedEra(header, index: index, auditor: auditor) { path in try disk.read(folder + path) }
        opened.withLock { $0[header.era] = era }
        return era
    }

    func forget(_ era: UInt64) { opened.withLock { $0[era] = nil } }
}

extension Disk {
    fileprivate func file(_ path: String) throws -> [UInt8] {
        guard let bytes = try read(path) else {
            throw LogError(.incomplete, "\(path) is missing")
        }
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
final class OpenedEra: Sendable {
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
