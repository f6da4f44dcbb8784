package import DurableFiles
package import Sealing
internal import TransparencyLog
package import Vocabulary

/// What a trail needs from its owner each time it is opened.
package struct TrailHome: Sendable {
    /// The trail's folder.
    package let disk: any Disk
    /// The anchor's folder, on another volume than the trail.
    package let anchor: any Disk
    package let settings: TrailSettings
    package let clock: any WallClock

    package init(disk: any Disk, anchor: any Disk, settings: TrailSettings, clock: any WallClock) {
        self.disk = disk
        self.anchor = anchor
        self.settings = settings
        self.clock = clock
    }
}

extension Trail {
    /// Makes a new trail with its first era and the record `trail.created`. Refuses where one exists.
    ///
    /// `hostKey` (32 bytes) seals the keys of open eras on this host; it is derived from the gateway's root key.
    package static func create(
        in home: TrailHome, signingKey: consuming SigningKey, hostKey: borrowing SecretBytes
    ) throws(TrailError) -> Trail {
        try check(home, hostKey)
        let identity: TrailIdentity
        let trail: Trail
        do {
            identity = try TrailIdentity(origin: home.settings.origin, key: signingKey.verifyingKey)
            try home.disk.lock()
            // Written last: without it nothing was ever acknowledged, and what an interrupted creation left goes.
            guard try home.disk.read(TrailFiles.identity) == nil else {
                throw TrailError(.alreadyExists, "there is a trail already")
            }
            guard try Anchor.read(home.anchor).map({ isYoung($0.note, identity) }) ?? true else {
                throw TrailError(.alreadyExists, "the anchor belongs to a trail that is not here")
            }
            for folder in [WALFiles.folder, EraKeyFile.folder] {
                for name in try home.disk.names(in: folder) { try home.disk.remove("\(folder)/\(name)") }
            }
            try home.disk.preallocate(WALFiles.reserve, byteCount: home.settings.reserveBytes)
            let byteCount = WALFiles.segmentBytes(number: 0, most: home.settings.segmentBytes)
            try home.disk.preallocate(WALFiles.segment(first: 0), byteCount: byteCount)
            var state = TrailState(periods: SigningPeriods(identity))
            state.segments = [Segment(first: 0, used: 0, byteCount: byteCount)]
            state.anchored = try Anchor.read(home.anchor)
            trail = Trail(
                identity: identity, home: home, signingKey: signingKey, hostKey: hostKey,
                subjects: try SubjectKeys(home.disk, hostKey: hostKey), state: state)
        } catch let error as TrailError {
            throw error
        } catch {
            throw failure(of: error)
        }
        try trail.openGatewayEra()
        _ = try trail.record(TrailRecord(.trailCreated, .done), in: .gateway)
        try trail.publish()
        do {
            try home.disk.replace(TrailFiles.identity, with: Array("\(identity)\n".utf8), durable: true)
        } catch {
            throw failure(of: error)
        }
        return trail
    }

    /// Opens a trail after whatever happened, and says what it found and did. Refuses a log that was changed, rolled
    /// back below a signed head, or belongs to another key.
    package static func open(
        in home: TrailHome, signingKey: consuming SigningKey, hostKey: borrowing SecretBytes
    ) throws(TrailError) -> (trail: Trail, findings: [TrailFinding]) {
        try check(home, hostKey)
        let recovery: Recovery
        let subjects: SubjectKeys
        do {
            try home.disk.lock()
            var reading = try Recovery(home: home, key: signingKey.verifyingKey)
            try reading.readHeads()
            try reading.readSegments()
            try reading.checkHeads()
            try reading.openEras(hostKey: hostKey)
            subjects = try SubjectKeys(home.disk, hostKey: hostKey)
            try reading.repair()
            recovery = reading
        } catch let error as TrailError {
            throw error
        } catch {
            throw failure(of: error)
        }
        let trail = Trail(
            identity: recovery.identity, home: home, signingKey: signingKey, hostKey: hostKey, subjects: subjects,
            state: recovery.state)
        try trail.finishOpening(torn: recovery.torn)
        return (trail, recovery.findings)
    }

    /// Records what recovery found and brings the derived files up to date. What cannot be written because the disk is
    /// full is written when there is space.
    private func finishOpening(torn: Recovery.Torn?) throws(TrailError) {
        do throws(TrailError) {
            if lock.held({ state.gatewayEra }) == nil { try openGatewayEra() }
            try closeStaleGatewayEras()
            if let torn {
                let detail: JSON = [
                    "bytes": .integer(Int64(torn.bytes.count)), "sha256": .string(torn.digest.hex),
                    "after": .integer(Int64(size)),
                ]
                _ = try record(TrailRecord(.trailRecovered, .done, [.detail: detail]), in: .gateway)
            }
            try rebuild()
        } catch  where error.code == .full {}
    }

    /// Writes every derived file that is not as it must be.
    private func rebuild() throws(TrailError) {
        try publishLock.held { () throws(TrailError) in
            let head = try head()
            let before = lock.held { state.published }
            try storeTiles(upTo: head)
            if lock.held({ state.publishedNote == nil || state.published < head.size }) {
                lock.held { state.published = min(state.published, head.size - 1) }
                try store(head, keeps: true)
            }
            try removeEdge(of: before, under: head)
        }
    }

    /// Publishes, then refuses everything. The era keys stay sealed for the next start.
    package func close() {
        try? publish(keeps: false)
        lock.held {
            if state.stopped == nil { state.stopped = TrailError(.closed, "the trail has been closed") }
        }
    }

    private static func check(_ home: TrailHome, _ hostKey: borrowing SecretBytes) throws(TrailError) {
        guard !home.settings.readers.isEmpty, hostKey.count == 32,
            home.settings.segmentBytes >= 1 << 16, home.settings.reserveBytes >= 1 << 16
        else {
            throw TrailError(.malformed, "a trail needs a reader, a 32-byte host key and segments of 64 KiB or more")
        }
    }

    /// Whether an anchor holds nothing but the head of an interrupted creation.
    private static func isYoung(_ note: [UInt8], _ identity: TrailIdentity) -> Bool {
        guard let head = try? SignedCheckpoint(parsing: note, by: identity) else { return false }
        return head.size <= 2
    }

    private static func failure(of error: any Error) -> TrailError {
        if let error = error as? LogError { return TrailError(.malformed, error.publicDescription) }
        return switch error as? DiskError {
        case .noSpace: full
        case .busy: TrailError(.busy, "another process has the trail open")
        default: TrailError(.poisoned, "the trail's disk could not be read or written")
        }
    }
}

/// Finds out what is on the disk: reads the whole write-ahead log, hashes it again, and holds it to every head that may
/// have left this host and to the published tiles. Changes nothing before all of that fits. Memory is one segment and
/// what the tiles on the disk do not hold.
private struct Recovery {
    struct Torn {
        let path: String
        let bytes: Range<Int>
        let digest: Digest
    }

    let home: TrailHome
    let identity: TrailIdentity
    var state: TrailState
    var findings: [TrailFinding] = []
    /// What a crash left of a batch that nobody was told is durable.
    var torn: Torn?
    private var ledger = EraLedger(keepsClosed: false)
    /// Eras whose last entry was seen; the gateway's copy of their keys must be gone.
    private var heads: [(head: SignedCheckpoint, name: String)] = []
    private var lastHead: (size: UInt64, note: [UInt8])?
    /// The published bundle under the entries that are being read, as far as it has fitted.
    private var bundle: (bytes: [UInt8], at: Int)?

    init(home: TrailHome, key: VerifyingKey) throws {
        self.home = home
        guard let text = try home.disk.read(TrailFiles.identity) else {
            throw TrailError(.notFound, "there is no trail")
        }
        let wrongKey = TrailError(.wrongKey, "the trail belongs to another key or name")
        guard text.last == 0x0A,
            let identity = try? TrailIdentity(parsing: String(decoding: text.dropLast(), as: UTF8.self)),
            let periods = try? SigningPeriods(
                identity, parsing: try home.disk.read(TrailFiles.periods) ?? []),
            identity.origin == home.settings.origin, periods.current.key == key
        else { throw wrongKey }
        self.identity = identity
        state = TrailState(periods: periods)
    }

    // MARK: Heads

    mutating func readHeads() throws {
        if let anchored = try Anchor.read(home.anchor) {
            heads.append((try parse(anchored.note, "the anchor"), "the anchor"))
            state.anchored = anchored
        } else {
            guard home.settings.makesAnchorAnew else {
                throw TrailError(.rolledBack, "the anchor is gone; without it a rollback cannot be told")
            }
            findings.append(TrailFinding(code: .anchorMade, text: "the anchor was gone and is made anew"))
        }
        if let note = try home.disk.read(TrailFiles.checkpoint) {
            let head = try parse(note, "the published checkpoint")
            heads.append((head, "the published checkpoint"))
            state.published = head.size
            state.publishedNote = note
        }
        for handover in state.periods.handovers { waiting.append((handover.head, "the end of a signing period")) }
        waiting += heads.map { ($0.head.checkpoint, $0.name) }
        waiting.sort { $0.head.size < $1.head.size }
    }

    /// Roots that the log must pass through, smallest first.
    private var waiting: [(head: Checkpoint, name: String)] = []

    private mutating func checkPassedHeads() throws(TrailError) {
        while let next = waiting.first, next.head.size <= state.tree.size {
            guard next.head.size == state.tree.size, next.head.root == state.tree.root else {
                throw TrailError(.damaged, "the log differs from \(next.name) below entry \(next.head.size)")
            }
            waiting.removeFirst()
        }
    }

    /// Holds the log to every head that may have left this host.
    mutating func checkHeads() throws {
        if let longer = waiting.last {
            throw TrailError(
                .rolledBack,
                "the log has \(state.tree.size) entries, \(longer.name) \(longer.head.size): it has been rolled back")
        }
        if let lastHead { state.head = try parse(lastHead.note, "the last head in the log") }
    }

    private func parse(_ note: [UInt8], _ what: String) throws(TrailError) -> SignedCheckpoint {
        do { return try SignedCheckpoint(parsing: note, in: state.periods) } catch {
            throw TrailError(.damaged, "\(what) is not signed by the trail's key")
        }
    }

    // MARK: Segments

    mutating func readSegments() throws {
        let names = try home.disk.names(in: WALFiles.folder).filter { WALFiles.firstIndex(of: $0) != nil }
        guard !names.isEmpty else { throw TrailError(.damaged, "the trail's segments are gone") }
        for name in names {
            guard WALFiles.firstIndex(of: name) == state.tree.size else {
                throw TrailError(.damaged, "segments are missing before entry \(state.tree.size)")
            }
            // A later segment is begun only when everything before it is durable.
            guard torn == nil else {
                throw TrailError(.damaged, "entry \(state.tree.size) is unreadable inside the log")
            }
            try readSegment("\(WALFiles.folder)/\(name)")
        }
        state.nextIndex = state.tree.size
    }

    private mutating func readSegment(_ path: String) throws {
        guard let bytes = try home.disk.read(path) else { throw TrailError(.damaged, "a segment is gone") }
        let first = state.tree.size
        var at = 0
        let parts = WALFrame.parts(of: bytes)
        // Checksums and hashes are computed on all cores; what follows from them is looked at in order.
        try InOrder.run(parts.count) { number in
            HashedFrame.frames(in: bytes, parts[number])
        } take: { number, frames in
            for frame in frames {
                guard frame.frame.index == state.tree.size else {
                    throw TrailError(.damaged, "entry \(state.tree.size) is missing or doubled")
                }
                if frame.frame.isHead {
                    try take(head: frame, in: bytes)
                } else {
                    try take(leaf: frame, in: bytes, segment: first)
                }
                at = frame.frame.end
            }
            return at == parts[number].upperBound
        }
        switch WALTail(of: bytes, after: at) {
        case .clean: break
        case .damaged: throw TrailError(.damaged, "entry \(state.tree.size) is unreadable inside the log")
        case .torn(let range): torn = Torn(path: path, bytes: range, digest: SHA256.hash(bytes[range]))
        }
        state.segments.append(Segment(first: first, used: at, byteCount: bytes.count))
    }

    private mutating func take(leaf hashed: HashedFrame, in segmentBytes: [UInt8], segment: UInt64) throws {
        let frame = hashed.frame
        let hash = hashed.hash
        guard hash == frame.hash, let header = hashed.header else {
            throw TrailError(.damaged, "entry \(frame.index) does not fit its hash")
        }
        do {
            try ledger.take(header, leafHash: hash, index: frame.index)
        } catch {
            throw TrailError(.damaged, error.publicDescription)
        }
        if header.kind == .eraOpened, try home.disk.byteCount(of: EraKeyFile.path(header.era)) == nil {
            findings.append(
                TrailFinding(code: .keysMissing, text: "the wrapped keys of era \(header.era) are gone"))
        }
        if header.kind == .record { state.records += 1 }
        state.lastWritten = header.time
        try compareWithBundle(segmentBytes[frame.payload])
        state.tree.append(hash)
        state.places.append(
            Place(
                segment: segment, offset: UInt32(frame.offset + WALFrame.headerBytes),
                count: UInt32(frame.payload.count)))
        if state.tree.size % Tile.width == 0 { try dropStoredTiles() }
        try checkPassedHeads()
    }

    private mutating func take(head hashed: HashedFrame, in segmentBytes: [UInt8]) throws {
        guard hashed.hash == hashed.frame.hash else {
            throw TrailError(.damaged, "a head of size \(hashed.frame.index) does not fit its hash")
        }
        lastHead = (hashed.frame.index, Array(segmentBytes[hashed.frame.payload]))
    }

    // MARK: Published tiles

    /// Follows the published bundle as long as everything before it was as it must be.
    private mutating func compareWithBundle(_ leaf: ArraySlice<UInt8>) throws {
        if state.tree.size % Tile.width == 0 {
            let tile = Tile(.entries, index: state.tree.size / Tile.width)
            let isNext = state.tree.base == state.tree.size
            bundle = isNext ? try home.disk.read(TrailFiles.log(tile.path)).map { ($0, 0) } : nil
        }
        guard let (bytes, at) = bundle else { return }
        let end = at + 2 + leaf.count
        guard end <= bytes.count, Int(bytes[at]) << 8 | Int(bytes[at + 1]) == leaf.count,
            bytes[(at + 2)..<end] == leaf
        else {
            bundle = nil
            return
        }
        bundle = (bytes, end)
    }

    /// Lets go of the tiles that just became full and lie on the disk as they must. Others stay held, and all after
    /// them, to be written again.
    private mutating func dropStoredTiles() throws {
        var span = Tile.width
        var level = 0
        while state.tree.size % span == 0, span < 1 << 56 {
            let tile = Tile(.hashes(level: level), index: state.tree.size / span - 1)
            let isBundleWhole = level > 0 || bundle.map { $0.at == $0.bytes.count } ?? false
            if isBundleWhole, state.tree.isFirstHeld(tile), let hashes = state.tree.hashes(of: tile),
                try home.disk.read(TrailFiles.log(tile.path)) == Tile.bytes(of: hashes)
            {
                state.tree.drop(tile)
                if level == 0 { state.places.removeAll(keepingCapacity: true) }
            } else if state.tree.size <= state.published, findings.last?.code != .derivedRebuilt {
                findings.append(
                    TrailFinding(code: .derivedRebuilt, text: "files of the published log were missing or changed"))
            }
            span *= Tile.width
            level += 1
        }
    }

    // MARK: Eras

    mutating func openEras(hostKey: borrowing SecretBytes) throws {
        state.nextEra = ledger.highest + 1
        for (number, era) in ledger.eras.sorted(by: { $0.key < $1.key }) {
            guard let bytes = try home.disk.read(HostKeyFile.path(number)) else {
                throw TrailError(.damaged, "the gateway's copy of the key of open era \(number) is gone")
            }
            let open = try HostKeyFile.open(bytes, era: number, opened: era.opened, hostKey: hostKey)
            guard open.key.commitment == era.commitment else {
                throw TrailError(.damaged, "the key of era \(number) is not the one its entries commit to")
            }
            open.durable = era.chain
            open.pending = era.chain
            state.eras[number] = open
            if let run = open.run { state.runEras[run] = number } else { state.gatewayEra = number }
        }
        // Keys are written before their era's first entry: a crash between leaves keys that opened nothing.
        for name in try home.disk.names(in: EraKeyFile.folder) {
            let digits = name.prefix(while: \.isNumber)
            guard let number = UInt64(digits) else { continue }
            let path = "\(EraKeyFile.folder)/\(name)"
            if number > ledger.highest {
                try home.disk.erase(path)
                findings.append(TrailFinding(code: .unusedKeysRemoved, text: "era \(number) had keys but no entry"))
            } else if name.hasSuffix(".host"), ledger.eras[number] == nil {
                try home.disk.erase(path)
                findings.append(
                    TrailFinding(code: .leftoverKeyErased, text: "era \(number) was closed but its key not yet erased"))
            }
        }
    }

    // MARK: Repair

    /// Cuts what was torn and makes the reserve again.
    mutating func repair() throws {
        if let torn {
            let zeros = [UInt8](repeating: 0, count: torn.bytes.count)
            try home.disk.write(zeros, to: torn.path, offset: torn.bytes.lowerBound)
            try home.disk.sync(torn.path)
            findings.append(
                TrailFinding(
                    code: .tornFrameCut,
                    text: "\(torn.bytes.count) bytes after entry \(state.tree.size) were not wholly written; cut"))
        }
        let next = WALFiles.segmentBytes(number: state.segments.count, most: home.settings.segmentBytes)
        if let spare = try home.disk.byteCount(of: WALFiles.spare) {
            state.hasSpare = spare == next
            if !state.hasSpare { try home.disk.remove(WALFiles.spare) }
        }
        guard try home.disk.byteCount(of: WALFiles.reserve) != home.settings.reserveBytes else { return }
        do {
            try home.disk.preallocate(WALFiles.reserve, byteCount: home.settings.reserveBytes)
        } catch DiskError.noSpace {
            // What is left of the segment that was the reserve stays kept for endings.
            state.hasReserve = false
            state.isFull = true
            findings.append(TrailFinding(code: .reserveMissing, text: "there is no space for the trail's reserve"))
        }
    }
}
