package import DurableFiles
package import TransparencyLog
package import Vocabulary

/// Checks a whole log from its static files alone: every entry, every tile, every checkpoint, and with an auditor's key
/// every record's content and chain. It needs no gateway and trusts nothing but the key it is given.
package struct LogVerifier {
    private let disk: any Disk
    private let folder: String
    private let identity: TrailIdentity
    private let auditor: AuditorKey?
    private var ledger = EraLedger()
    private var range = CompactRange()
    /// Hashes of the tile that is being filled, by tile level.
    private var pending: [[Digest]] = []
    private var eraKeys: [UInt64: OpenedEra] = [:]
    private var report = LogReport()

    /// `folder` is where `log/` and `keys/` lie on the disk: empty for a trail's own folder, `data/` in an export.
    package init(disk: any Disk, folder: String, identity: TrailIdentity, auditor: AuditorKey?) {
        self.disk = disk
        self.folder = folder
        self.identity = identity
        self.auditor = auditor
    }

    /// Throws at the first doubt. Shows each entry to `visit` after it was checked against its era, but the log as a
    /// whole is verified only when this returns. Memory grows with the number of eras and the tree's height.
    package consuming func verify(_ visit: (LogEntry) throws -> Void = { _ in }) throws -> LogReport {
        let periods = try SigningPeriods(identity, parsing: disk.read(folder + TrailFiles.periods) ?? [])
        let head = try SignedCheckpoint(parsing: file(TrailFiles.checkpoint), in: periods)
        var earlier = try checkpoints(upTo: head, in: periods)
        // The head at which a signing period ends is a checkpoint too, whether its file is there or not.
        earlier += periods.handovers.map(\.head).filter { $0.size <= head.size }
        earlier.sort { $0.size < $1.size }
        for tile in Tile.all(size: head.size) where tile.kind == .entries {
            for (offset, leaf) in try tile.entries(parsing: file(TrailFiles.log(tile.path))).enumerated() {
                let index = tile.index * Tile.width + UInt64(offset)
                try visit(take(leaf, index: index))
                while let checkpoint = earlier.first, checkpoint.size == range.size {
                    guard checkpoint.root == range.root else {
                        throw LogError(
                            .wrongProof,
                            "the checkpoint of size \(checkpoint.size) is not of this log: entries below differ")
                    }
                    earlier.removeFirst()
                    report.checkpoints += 1
                }
            }
        }
        try checkPartialTiles()
        guard range.size == head.size, range.root == head.root else {
            throw LogError(.wrongProof, "the entries do not lead to the signed root")
        }
        report.head = head
        report.eras = ledger.eras.sorted { $0.key < $1.key }.map { number, era in
            EraReport(
                number: number, run: era.run, entries: era.chain.count, indices: era.firstIndex...era.lastIndex,
                isClosed: era.isClosed, isRead: eraKeys[number]?.isReadable ?? false)
        }
        return report
    }

    private mutating func take(_ leaf: ArraySlice<UInt8>, index: UInt64) throws -> LogEntry {
        let hash = Merkle.leafHash(leaf)
        var completed: [(level: Int, hash: Digest)] = []
        range.append(hash) { level, _, hash in if level % 8 == 0 { completed.append((level / 8, hash)) } }
        for node in completed { try fill(node.level, node.hash) }
        let header: LeafHeader
        do {
            header = try LeafHeader(leaf: leaf)
        } catch {
            throw LogError(error.code, "entry \(index): \(error.publicDescription)")
        }
        let core = try core(leaf, header: header, index: index)
        try ledger.take(header, leafHash: hash, index: index, core: core)
        return LogEntry(index: index, leafHash: hash, header: header, byteCount: leaf.count, core: core)
    }

    private mutating func core(_ leaf: ArraySlice<UInt8>, header: LeafHeader, index: UInt64) throws -> JSON? {
        if eraKeys[header.era] == nil { eraKeys[header.era] = try openEra(header, index: index) }
        guard let era = eraKeys[header.era], era.isReadable else { return nil }
        do {
            let core = try era.open(leaf, origin: identity.origin)
            report.opened += 1
            return core
        } catch {
            throw LogError(error.code, "entry \(index): \(error.publicDescription)")
        }
    }

    private func openEra(_ header: LeafHeader, index: UInt64) throws -> OpenedEra {
        guard let bytes = try disk.read(folder + EraKeyFile.path(header.era)) else {
            throw LogError(.incomplete, "entry \(index): the wrapped keys of era \(header.era) are missing")
        }
        let file = try EraKeyFile(parsing: bytes)
        guard file.era == header.era, file.commitment == header.keyCommitment else {
            throw LogError(.wrongEntry, "entry \(index): the wrapped keys of era \(header.era) are of another era")
        }
        guard let auditor else { return OpenedEra(nil) }
        return OpenedEra(try file.open(with: auditor))
    }

    private mutating func fill(_ level: Int, _ hash: Digest) throws {
        if level == pending.count { pending.append([]) }
        pending[level].append(hash)
        guard pending[level].count == Int(Tile.width) else { return }
        let index = (range.size >> UInt64(8 * level)) / Tile.width - 1
        try compare(Tile(.hashes(level: level), index: index), pending[level])
        pending[level].removeAll(keepingCapacity: true)
    }

    private func checkPartialTiles() throws {
        for (level, hashes) in pending.enumerated() where !hashes.isEmpty {
            let index = (range.size >> UInt64(8 * level)) / Tile.width
            try compare(Tile(.hashes(level: level), index: index, count: hashes.count), hashes)
        }
    }

    private func compare(_ tile: Tile, _ hashes: [Digest]) throws {
        guard try tile.hashes(parsing: file(TrailFiles.log(tile.path))) == hashes else {
            throw LogError(.wrongProof, "\(tile.path) does not fit the entries")
        }
    }

    /// Every checkpoint that lies beside the log, smallest first.
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
    /// How many checkpoints beside the last one were found to be of the same log.
    package internal(set) var checkpoints = 0
    /// How many entries were opened with the auditor's key.
    package internal(set) var opened = 0
    package internal(set) var eras: [EraReport] = []
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

    /// Whether the era is shown to be complete: read, chained without a gap, and closed with a count that fits.
    package var isComplete: Bool { isRead && isClosed }
}

/// An era's key, if there is one for this auditor.
final class OpenedEra {
    private let key: EraKey?
    let isReadable: Bool

    init(_ key: consuming EraKey?) {
        isReadable = key != nil
        self.key = key
    }

    func open(_ leaf: ArraySlice<UInt8>, origin: String) throws(LogError) -> JSON {
        guard isReadable else { throw LogError(.wrongEntry, "an era without a key cannot be read") }
        return try key!.open(leaf: leaf, origin: origin).core
    }
}
