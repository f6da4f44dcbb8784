import DurableFiles
internal import Sealing
package import TransparencyLog
package import Vocabulary

/// The append-only encrypted audit trail: what it has acknowledged is on the disk, in order, under a signed head.
///
/// Every call may come from any thread and returns when its effect is durable. Records of one run form a chain (each
/// names the one before) in an era of their own, whose key is erased when it closes; everything else goes into the
/// gateway's era, a new one each hour.
package final class Trail: @unchecked Sendable {
    // Unchecked: `state` is touched only with `lock` held; everything else is constant.
    package let identity: TrailIdentity
    private let disk: any Disk
    private let anchor: any Disk
    private let settings: TrailSettings
    private let signingKey: SigningKey
    private let hostKey: SecretBytes
    private let clock: any WallClock
    private let lock = Lock()
    // Taken before `lock` by whoever opens or closes an era, so that two do not at once.
    private let eraLock = Lock()
    // Taken before `lock` by whoever writes the derived files.
    private let publishLock = Lock()
    private var state: TrailState

    init(
        identity: TrailIdentity, disk: any Disk, anchor: any Disk, settings: TrailSettings,
        signingKey: consuming SigningKey, hostKey: borrowing SecretBytes, clock: any WallClock, state: TrailState
    ) {
        self.identity = identity
        self.disk = disk
        self.anchor = anchor
        self.settings = settings
        self.signingKey = signingKey
        self.hostKey = hostKey.clone()
        self.clock = clock
        self.state = state
    }
}

package struct TrailSettings: Sendable {
    /// The log's name in its checkpoints, such as `hospital.example/sekisho`.
    package var origin: String
    /// The auditors and the offline recovery key; at least one.
    package var readers: [TrailReader]
    package var segmentBytes = 8 << 20
    package var reserveBytes = 1 << 20
    package var gatewayEraSeconds: Int64 = 3600

    package init(origin: String, readers: [TrailReader]) {
        self.origin = origin
        self.readers = readers
    }
}

/// Where a record belongs.
package enum TrailEra: Hashable, Sendable {
    /// What is not part of one run.
    case gateway
    case run(RunID)
}

/// A sealed record that knows its hash but is not in the log yet: note the hash durably, then append.
package struct PreparedRecord: Sendable {
    package let leafHash: Digest
    /// The record's content with its place in the chain.
    package let core: JSON
    let leaf: [UInt8]
    let era: UInt64
    let sequence: UInt64
    let previous: Digest?
    let kind: LeafHeader.Kind
    var closes: Bool { kind == .eraClosed }
    let mayUseReserve: Bool
}

/// A record that is durable.
package struct AppendedRecord: Hashable, Sendable {
    package let index: UInt64
    package let leafHash: Digest
    package let core: JSON
}

// MARK: - Records

extension Trail {
    /// Seals a record for its era. Nothing is written yet.
    package func prepare(_ record: TrailRecord, in era: TrailEra) throws(TrailError) -> PreparedRecord {
        try readyForNewRecord(record.event, in: era)
        let (open, sequence, previous) = try lock.held { () throws(TrailError) in try nextPlace(in: era) }
        return try seal(record, kind: .record, in: open, sequence: sequence, previous: previous)
    }

    /// Writes a prepared record. When this returns, the record survives a crash of the machine.
    package func append(_ prepared: PreparedRecord) throws(TrailError) -> AppendedRecord {
        lock.acquire()
        defer { lock.release() }
        do {
            return try submit(prepared)
        } catch  where error.code == .full && prepared.mayUseReserve {
            // The batch that met the full disk took this one down with it; now the reserve is open.
            return try submit(prepared)
        }
    }

    /// Prepares and appends at once, whatever other threads do meanwhile.
    package func record(_ record: TrailRecord, in era: TrailEra) throws(TrailError) -> AppendedRecord {
        try readyForNewRecord(record.event, in: era)
        lock.acquire()
        defer { lock.release() }
        for attempt in 0... {
            let (open, sequence, previous) = try nextPlace(in: era)
            let kind: LeafHeader.Kind = record.event.isOfTheTrail ? .trail : .record
            let prepared = try seal(record, kind: kind, in: open, sequence: sequence, previous: previous)
            do {
                return try submit(prepared)
            } catch  where error.code == .full && prepared.mayUseReserve && attempt == 0 {
                continue
            }
        }
        fatalError("the loop above returns or throws")
    }

    /// Proof that a record is in the log, to show to whoever acts on it. Its era must still be open.
    package func receipt(for leafHash: Digest) throws(TrailError) -> Receipt {
        lock.acquire()
        defer { lock.release() }
        guard let index = state.indexByHash[leafHash] else {
            throw TrailError(.notFound, "the trail has no such record")
        }
        let head = try signedHead(covering: index)
        let leaf = try read(index, at: state.places[Int(index)], leafHash: leafHash)
        let opening: Opening
        do {
            let header = try LeafHeader(leaf: leaf[...])
            guard let era = state.eras[header.era] else {
                throw TrailError(.eraClosed, "a record of a closed era can no longer be disclosed here")
            }
            opening = try era.key.open(leaf: leaf[...], origin: identity.origin).opening
        } catch let error as TrailError {
            throw error
        } catch {
            throw TrailError(.damaged, "entry \(index) does not open under its era's key")
        }
        return Receipt(
            index: index, head: head, proof: state.tree.inclusionProof(index: index, size: head.size), leaf: leaf,
            opening: opening)
    }

    /// Where a record with this hash is, if it is durable: asked after a restart for what was prepared before.
    package func index(of leafHash: Digest) -> UInt64? { lock.held { state.indexByHash[leafHash] } }

    /// The number of the era that an entry belongs to, as its clear header says.
    package func era(of index: UInt64) throws(TrailError) -> UInt64 {
        try lock.held { () throws(TrailError) in
            guard index < state.tree.size else { throw TrailError(.notFound, "the trail has no such entry") }
            let leaf = try read(
                index, at: state.places[Int(index)], leafHash: state.tree.leafHash(index))
            do { return try LeafHeader(leaf: leaf[...]).era } catch {
                throw TrailError(.damaged, "entry \(index) has no header")
            }
        }
    }

    /// How many entries are records that its owner wrote into an era, its closing one apart: the owner can tell by it
    /// whether its own copies are complete.
    package var recordCount: Int { lock.held { state.records } }

    package var size: UInt64 { lock.held { state.tree.size } }

    /// Whether new records are accepted; `nil` when they are.
    package var obstacle: TrailError? {
        lock.held { state.stopped ?? (state.isFull ? Self.full : nil) }
    }

    /// A signed head over everything durable now. It is itself durable, here and at the anchor, before it is returned.
    package func head() throws(TrailError) -> SignedCheckpoint {
        try lock.held { () throws(TrailError) in
            guard state.tree.size > 0 else { throw TrailError(.notFound, "the trail is empty") }
            return try signedHead(covering: state.tree.size - 1)
        }
    }

    static let full = TrailError(.full, "the trail's disk is full")
}

// MARK: - Eras

extension Trail {
    /// Opens the era of a run and returns its number; the same again when it is open already. Its key is wrapped to the
    /// readers before its first record.
    @discardableResult
    package func openEra(run: RunID) throws(TrailError) -> UInt64 {
        let number = try eraLock.held { () throws(TrailError) -> UInt64 in
            if let open = lock.held({ state.runEras[run] }) { return open }
            return try openEra(for: run)
        }
        try publish()
        return number
    }

    package func isOpen(run: RunID) -> Bool { lock.held { state.runEras[run] != nil } }

    /// Prepares the last record of a run. It states how many records the run has; appending it erases the run's key
    /// here, so that only the readers can open its records from then on.
    package func prepareClose(_ record: TrailRecord, run: RunID) throws(TrailError) -> PreparedRecord {
        let (era, sequence, previous) = try lock.held { () throws(TrailError) in try nextPlace(in: .run(run)) }
        return try seal(record, kind: .eraClosed, in: era, sequence: sequence, previous: previous)
    }

    func openGatewayEra() throws(TrailError) {
        try eraLock.held { () throws(TrailError) in _ = try openEra(for: nil) }
    }

    private func openEra(for run: RunID?) throws(TrailError) -> UInt64 {
        let number = lock.held {
            defer { state.nextEra += 1 }
            return state.nextEra
        }
        // A key of the right length is always an era's key.
        let key = try! EraKey(SecretBytes.random(count: EraKey.byteCount))
        do {
            let wrapped = EraKeyFile(era: number, key: key, readers: settings.readers).bytes
            try disk.replace(EraKeyFile.path(number), with: wrapped, durable: true)
            let own = HostKeyFile.bytes(era: number, key: key, run: run, hostKey: hostKey)
            try disk.replace(HostKeyFile.path(number), with: own, durable: true)
        } catch {
            throw error == .noSpace ? Self.full : TrailError(.poisoned, "an era's key could not be written")
        }
        let era = OpenEra(number: number, run: run, key: key, opened: clock.now())
        let readers = settings.readers.map { JSON.string($0.name) }
        let record = TrailRecord(
            .eraOpened, .done, [.detail: ["era": .integer(Int64(number)), "readers": .array(readers)]])
        let first = try seal(record, kind: .eraOpened, in: era, sequence: 1, previous: nil)
        try lock.held { () throws(TrailError) in
            state.eras[number] = era
            do throws(TrailError) {
                _ = try submit(first)
            } catch {
                state.eras[number] = nil
                throw error
            }
            if let run { state.runEras[run] = number } else { state.gatewayEra = number }
        }
        return number
    }

    /// Closes the gateway's era when its hour is over and opens the next.
    private func rollGatewayEra() throws(TrailError) {
        guard try isGatewayEraOver() else { return }
        try eraLock.held { () throws(TrailError) in
            // Another thread may have done it meanwhile.
            guard try isGatewayEraOver() else { return }
            _ = try openEra(for: nil)
            try closeStaleGatewayEras()
        }
        try publish()
    }

    private func isGatewayEraOver() throws(TrailError) -> Bool {
        let current = try lock.held { () throws(TrailError) in try open(.gateway) }
        return clock.now() >= current.opened.adding(seconds: settings.gatewayEraSeconds)
    }

    /// Closes every gateway era but the current one: that before it, and what a crash in between left.
    private func closeStaleGatewayEras() throws(TrailError) {
        try lock.held { () throws(TrailError) in
            for old in state.eras.values where old.run == nil && old.number != state.gatewayEra {
                let closing = try seal(
                    TrailRecord(.eraClosed, .done), kind: .eraClosed, in: old, sequence: old.pending.count + 1,
                    previous: old.pending.last)
                _ = try submit(closing)
            }
        }
    }

    private func readyForNewRecord(_ event: AuditEvent, in era: TrailEra) throws(TrailError) {
        if lock.held({ state.isFull }), !event.mayUseReserve { try resume() }
        // A gateway era that cannot be followed by another because the disk is full is used on.
        if era == .gateway, !lock.held({ state.isFull }) { try rollGatewayEra() }
    }

    private func open(_ era: TrailEra) throws(TrailError) -> OpenEra {
        let number =
            switch era {
            case .gateway: state.gatewayEra
            case .run(let run): state.runEras[run]
            }
        guard let open = number.flatMap({ state.eras[$0] }) else {
            throw TrailError(.eraClosed, "the run's era is not open")
        }
        return open
    }

    private func nextPlace(
        in era: TrailEra
    ) throws(TrailError) -> (era: OpenEra, sequence: UInt64, previous: Digest?) {
        if let stopped = state.stopped { throw stopped }
        let open = try open(era)
        guard !open.isClosing else { throw TrailError(.eraClosed, "the run's era is being closed") }
        return (open, open.pending.count + 1, open.pending.last)
    }

    private func seal(
        _ record: TrailRecord, kind: LeafHeader.Kind, in era: OpenEra, sequence: UInt64, previous: Digest?
    ) throws(TrailError) -> PreparedRecord {
        let core = record.core(
            run: era.run, sequence: sequence, previous: previous, count: kind == .eraClosed ? sequence : nil)
        do {
            let leaf = try era.key.seal(
                core: core, kind: kind, era: era.number, time: clock.now(), origin: identity.origin,
                nonce: RandomBytes.array(LeafHeader.nonceBytes)
            ).leaf
            return PreparedRecord(
                leafHash: Merkle.leafHash(leaf), core: core, leaf: leaf, era: era.number, sequence: sequence,
                previous: previous, kind: kind, mayUseReserve: record.event.mayUseReserve)
        } catch {
            throw TrailError(.malformed, error.publicDescription)
        }
    }
}

// MARK: - The committer

extension Trail {
    /// Puts a record into the queue and waits for the batch that carries it. `lock` is held.
    ///
    /// There is no thread of its own for this: whoever finds nobody committing commits everything that has queued up
    /// meanwhile, its own record among it.
    private func submit(_ prepared: PreparedRecord) throws(TrailError) -> AppendedRecord {
        if let stopped = state.stopped { throw stopped }
        if state.isFull && !prepared.mayUseReserve { throw Self.full }
        guard let era = state.eras[prepared.era], !era.isClosing else {
            throw TrailError(.eraClosed, "the record's era is not open")
        }
        guard era.pending.count + 1 == prepared.sequence, era.pending.last == prepared.previous else {
            throw TrailError(.outOfOrder, "another record of the era came first")
        }
        era.pending = EraChain(count: prepared.sequence, last: prepared.leafHash)
        era.isClosing = prepared.closes
        let index = try wait(for: Ticket(.leaf(prepared))).index
        if prepared.closes { try erase(era) }
        return AppendedRecord(index: index, leafHash: prepared.leafHash, core: prepared.core)
    }

    /// The newest signed head, or a new one when that does not cover `index` yet. `lock` is held.
    private func signedHead(covering index: UInt64) throws(TrailError) -> SignedCheckpoint {
        if let stopped = state.stopped { throw stopped }
        if let head = state.head, head.size > index { return head }
        _ = try wait(for: Ticket(.head))
        return state.head!
    }

    private func wait(for ticket: Ticket) throws(TrailError) -> (index: UInt64, Void) {
        state.queue.append(ticket)
        while true {
            if let result = ticket.result { return (try result.get(), ()) }
            if state.isCommitting {
                lock.wait()
            } else {
                state.isCommitting = true
                commitBatch()
                state.isCommitting = false
                lock.announce()
            }
        }
    }

    /// Writes and syncs what has queued. `lock` is held, but not during the disk's work.
    private func commitBatch() {
        let batch = state.takeBatch()
        let written: WrittenBatch
        do {
            written = try frames(for: batch)
        } catch {
            return stop(error, failing: batch)
        }
        guard state.segment.room >= written.bytes.count || roll(failing: batch) else { return }
        let segment = state.segment
        lock.release()
        var failure: DiskError?
        var anchorFailure: DiskError?
        do {
            try disk.write(written.bytes, to: segment.path, offset: segment.used)
            try disk.sync(segment.path)
        } catch {
            failure = error
        }
        if failure == nil, let head = written.head {
            do {
                try moveAnchor(to: head)
            } catch {
                anchorFailure = error
            }
        }
        lock.acquire()
        if failure != nil { return stop(TrailError(.poisoned, "a write or sync of the trail failed"), failing: batch) }
        // What is durable stays durable whatever the anchor says: the records count, the head does not.
        state.apply(written, to: segment.path)
        for (ticket, index) in zip(batch, written.indices) {
            if case .head = ticket.content, let anchorFailure {
                ticket.result = .failure(
                    anchorFailure == .noSpace ? Self.full : TrailError(.poisoned, "the anchor could not be moved"))
            } else {
                ticket.result = .success(index)
            }
        }
        if anchorFailure == nil {
            if let head = written.head { state.head = head }
        } else if anchorFailure != .noSpace {
            stop(TrailError(.poisoned, "the anchor could not be moved"), failing: [])
        }
    }

    private func frames(for batch: [Ticket]) throws(TrailError) -> WrittenBatch {
        var written = WrittenBatch(range: state.tree.compactRange)
        let time = clock.now()
        for ticket in batch {
            switch ticket.content {
            case .leaf(let prepared):
                written.add(prepared, time: time)
            case .head:
                do {
                    let checkpoint = Checkpoint(
                        origin: identity.origin, size: written.range.size, root: written.range.root)
                    written.add(try checkpoint.signed(by: signingKey), time: time)
                } catch {
                    throw TrailError(.wrongKey, error.publicDescription)
                }
            }
        }
        return written
    }

    /// Compare-and-swap: a head that someone else put there is never overwritten.
    private func moveAnchor(to head: SignedCheckpoint) throws(DiskError) {
        let expected = lock.held { state.anchored }
        guard try anchor.read(TrailFiles.anchor) == expected else { throw .failed }
        try anchor.replace(TrailFiles.anchor, with: head.note, durable: true)
        lock.held { state.anchored = head.note }
    }

    /// Starts the next segment. False when `batch` has been failed. `lock` is held, but not during the disk's work.
    private func roll(failing batch: [Ticket]) -> Bool {
        let path = WALNames.segment(first: state.tree.size)
        guard !state.isFull else {
            // The reserve is used up too.
            fail(batch, Self.full)
            return false
        }
        lock.release()
        let result = Result { () throws(DiskError) in
            try disk.preallocate(path, byteCount: settings.segmentBytes)
        }
        lock.acquire()
        switch result {
        case .success:
            state.segment = Segment(path: path, used: 0, byteCount: settings.segmentBytes)
            return true
        case .failure(.noSpace):
            becomeFull(path, failing: batch)
            return false
        case .failure:
            stop(TrailError(.poisoned, "a new segment of the trail could not be made"), failing: batch)
            return false
        }
    }

    /// Opens the reserve and says so in it. Everything that was waiting fails.
    private func becomeFull(_ path: String, failing batch: [Ticket]) {
        state.isFull = true
        fail(batch, Self.full)
        guard state.hasReserve else { return }
        lock.release()
        let result = Result { () throws(DiskError) in try disk.rename(WALNames.reserve, to: path) }
        lock.acquire()
        guard case .success = result else {
            return stop(TrailError(.poisoned, "the trail's reserve could not be opened"), failing: [])
        }
        state.hasReserve = false
        state.segment = Segment(path: path, used: 0, byteCount: settings.reserveBytes)
        guard let era = state.gatewayEra.flatMap({ state.eras[$0] }), !era.isClosing,
            let record = try? seal(
                TrailRecord(.trailFull, .failed), kind: .trail, in: era, sequence: era.pending.count + 1,
                previous: era.pending.last)
        else { return }
        era.pending = EraChain(count: record.sequence, last: record.leafHash)
        state.queue.insert(Ticket(.leaf(record)), at: 0)
        commitBatch()
    }

    /// Tries to leave the reserve for a new segment.
    private func resume() throws(TrailError) {
        lock.acquire()
        defer { lock.release() }
        while state.isCommitting { lock.wait() }
        if let stopped = state.stopped { throw stopped }
        guard state.isFull else { return }
        state.isCommitting = true
        defer {
            state.isCommitting = false
            lock.announce()
        }
        let path = WALNames.segment(first: state.tree.size)
        // An unused reserve segment already has the name that the next one would have.
        let isEmpty = path == state.segment.path
        let needsReserve = !state.hasReserve
        lock.release()
        let result = Result { () throws(DiskError) in
            if needsReserve { try disk.preallocate(WALNames.reserve, byteCount: settings.reserveBytes) }
            if !isEmpty { try disk.preallocate(path, byteCount: settings.segmentBytes) }
        }
        lock.acquire()
        guard case .success = result else { throw Self.full }
        state.hasReserve = true
        state.isFull = false
        if !isEmpty { state.segment = Segment(path: path, used: 0, byteCount: settings.segmentBytes) }
    }

    /// Fails a batch and everything behind it; eras go back to what is durable.
    private func fail(_ batch: [Ticket], _ error: TrailError) {
        for ticket in batch + state.queue { ticket.result = .failure(error) }
        state.queue = []
        for era in state.eras.values {
            era.pending = era.durable
            era.isClosing = false
        }
    }

    /// After this nothing is written until the next start, which finds out what is on the disk.
    private func stop(_ error: TrailError, failing batch: [Ticket]) {
        state.stopped = error
        fail(batch, error)
    }

    /// Forgets an era's key, on the disk and in memory. `lock` is held.
    private func erase(_ era: OpenEra) throws(TrailError) {
        state.eras[era.number] = nil
        if let run = era.run { state.runEras[run] = nil }
        do {
            try disk.erase(HostKeyFile.path(era.number))
        } catch {
            let failure = TrailError(.poisoned, "the key of a closed era could not be erased")
            stop(failure, failing: [])
            throw failure
        }
    }

    /// Reads an entry, and holds it to its hash in the tree.
    private func read(_ index: UInt64, at place: Place, leafHash: Digest) throws(TrailError) -> [UInt8] {
        let leaf: [UInt8]
        do {
            leaf = try disk.read(place.path, offset: place.offset, count: place.count)
        } catch {
            throw TrailError(.poisoned, "entry \(index) could not be read")
        }
        guard Merkle.leafHash(leaf) == leafHash else {
            throw TrailError(.damaged, "entry \(index) has changed on the disk")
        }
        return leaf
    }
}

// MARK: - Derived files

extension Trail {
    /// Writes the static files of the log (tiles, bundles, checkpoint) up to now. They can always be made again, so a
    /// full disk is not an error here.
    package func publish() throws(TrailError) {
        try publishLock.held { () throws(TrailError) in
            do throws(TrailError) {
                let head = try head()
                guard lock.held({ state.published }) < head.size else { return }
                try write(Tile.new(oldSize: lock.held { state.published }, size: head.size), under: head)
            } catch  where error.code == .full {
                return
            }
        }
    }

    /// Records what recovery found and brings the derived files up to date.
    func finishOpening(
        _ findings: [TrailFinding], torn: (path: String, bytes: Range<Int>, digest: Digest)?
    ) throws(TrailError) -> (trail: Trail, findings: [TrailFinding]) {
        var findings = findings
        if lock.held({ state.gatewayEra }) == nil { try openGatewayEra() }
        try closeStaleGatewayEras()
        if let torn {
            let detail: JSON = [
                "bytes": .integer(Int64(torn.bytes.count)), "sha256": .string(torn.digest.hex),
                "after": .integer(Int64(size)),
            ]
            do {
                _ = try record(TrailRecord(.trailRecovered, .done, [.detail: detail]), in: .gateway)
            } catch  where error.code == .full {
                // The finding is returned all the same, and the trail is open for endings only.
            }
        }
        do {
            if try rebuild() {
                findings.append(
                    TrailFinding(code: .derivedRebuilt, text: "files of the published log were missing or changed"))
            }
        } catch  where error.code == .full {
            // The files are derived: made again when there is space.
        }
        return (self, findings)
    }

    /// Makes every derived file that is missing or differs. True when one had to be made that was published before.
    func rebuild() throws(TrailError) -> Bool {
        try publishLock.held { () throws(TrailError) in
            let head = try head()
            let published = lock.held { state.published }
            var changed: [Tile] = []
            var wasPublished = false
            for tile in Tile.all(size: head.size) where try stored(tile.path) != bytes(of: tile) {
                changed.append(tile)
                wasPublished = wasPublished || (tile.index + 1) * Tile.width <= published
            }
            if changed.isEmpty && published == head.size { return false }
            try write(changed, under: head)
            return wasPublished
        }
    }

    /// Publishes, then refuses everything. The era keys stay sealed for the next start.
    package func close() {
        try? publish()
        lock.held {
            if state.stopped == nil { state.stopped = TrailError(.closed, "the trail has been closed") }
        }
    }

    private func write(_ tiles: [Tile], under head: SignedCheckpoint) throws(TrailError) {
        do {
            for tile in tiles { try disk.replace(TrailFiles.log(tile.path), with: bytes(of: tile), durable: true) }
            try disk.replace(TrailFiles.checkpoint(head.size), with: head.note, durable: true)
            try disk.replace(TrailFiles.checkpoint, with: head.note, durable: true)
            let old = lock.held {
                defer { state.published = head.size }
                return state.published
            }
            let kept = Set(Tile.all(size: head.size))
            let first = min(old, head.size)
            for tile in Tile.edge(size: first) where !kept.contains(tile) {
                try disk.remove(TrailFiles.log(tile.path))
            }
        } catch let error as DiskError {
            throw error == .noSpace ? Self.full : TrailError(.poisoned, "a file of the log could not be written")
        } catch let error as TrailError {
            throw error
        } catch {
            fatalError("only the disk and the trail throw above")
        }
    }

    private func bytes(of tile: Tile) throws(TrailError) -> [UInt8] {
        let start = tile.index * Tile.width
        let indices = start..<start + UInt64(tile.count)
        switch tile.kind {
        case .hashes(let level):
            return lock.held { Tile.bytes(of: state.tree.nodes(level: level * 8, indices)) }
        case .entries:
            // Writers go on while the entries are read.
            let wanted = lock.held { indices.map { ($0, state.places[Int($0)], state.tree.leafHash($0)) } }
            var entries: [[UInt8]] = []
            for (index, place, hash) in wanted { entries.append(try read(index, at: place, leafHash: hash)) }
            return Tile.bundle(of: entries)
        }
    }

    private func stored(_ path: String) throws(TrailError) -> [UInt8]? {
        do {
            return try disk.read(TrailFiles.log(path))
        } catch {
            throw TrailError(.poisoned, "a file of the log could not be read")
        }
    }
}
