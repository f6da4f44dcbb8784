internal import DurableFiles
internal import Sealing
internal import TransparencyLog
internal import Vocabulary

// The committer. There is no thread of its own for it: whoever finds nobody committing writes and syncs the batch that
// has formed, its own record in it, while the next batch forms.

extension Trail {
    /// Puts a record into the forming batch and waits until it is durable.
    ///
    /// - Parameter isHeaded: whether a signed head over the record is wanted at once.
    func submit(_ prepared: PreparedRecord, isHeaded: Bool = false) throws(TrailError) -> AppendedRecord {
        let place = try lock.held { () throws(TrailError) in try enqueue(prepared, isHeaded: isHeaded) }
        return try acknowledged(prepared, place)
    }

    /// Where a record waits. Whoever gets one with `leads` must call `acknowledged`: nobody else commits before.
    struct Queued {
        let batch: Batch
        let index: UInt64
        let leads: Bool
    }

    /// Gives a record its index and its place in the forming batch. `lock` is held.
    func enqueue(_ prepared: PreparedRecord, isHeaded: Bool = false) throws(TrailError) -> Queued {
        if let stopped = state.stopped { throw stopped }
        if state.isFull && !prepared.mayUseReserve {
            state.refusals += 1
            throw Self.full
        }
        guard let era = state.eras[prepared.era], !era.isClosing else {
            throw TrailError(.eraClosed, "the record's era is not open")
        }
        guard era.pending.count + 1 == prepared.sequence, era.pending.last == prepared.previous else {
            throw TrailError(.outOfOrder, "another record of the era came first")
        }
        era.pending = EraChain(count: prepared.sequence, last: prepared.leafHash)
        era.isClosing = prepared.closes
        let batch = state.forming(prepared.leaf.count + WALFrame.overheadBytes)
        let index = state.nextIndex
        let time = clock.now()
        batch.add(prepared, index: index, time: time)
        if isHeaded { batch.wantsHead = true }
        state.nextIndex += 1
        state.lastWritten = time
        return Queued(batch: batch, index: index, leads: claimLead())
    }

    /// Waits until a record is durable, or makes it so.
    func acknowledged(_ prepared: PreparedRecord, _ place: Queued) throws(TrailError) -> AppendedRecord {
        let hasLed = try wait(for: place.batch, leads: place.leads)
        // What is to be done besides is for those who led; the others touch nothing that writers share.
        if hasLed || prepared.closes { try afterwards(prepared) }
        return AppendedRecord(index: place.index, leafHash: prepared.leafHash, core: prepared.core)
    }

    private func afterwards(_ prepared: PreparedRecord) throws(TrailError) {
        let (isCrowded, spareBytes, endsRun) = try lock.held { () throws(TrailError) in
            let era = prepared.closes ? state.eras[prepared.era] : nil
            if let era { try erase(era) }
            return (state.tree.heldLeaves >= settings.heldLeavesMax, spareBytesDue, era?.run != nil)
        }
        do throws(TrailError) {
            if isCrowded { try publishLock.heldIfFree { () throws(TrailError) in try storeFullTiles() } }
            if let spareBytes { makeSpare(spareBytes) }
            if endsRun { try publish() }
        } catch {
            // The record itself is durable, whatever came of the derived files; but on this disk nothing new starts.
            lock.held { if state.stopped == nil { stop(error) } }
        }
    }

    /// The newest signed head, or a new one when that does not cover `index` yet. `lock` is held.
    func signedHead(covering index: UInt64) throws(TrailError) -> SignedCheckpoint {
        if let stopped = state.stopped { throw stopped }
        if let head = state.head, head.size > index { return head }
        let batch = state.forming(0)
        batch.wantsHead = true
        let leads = claimLead()
        lock.release()
        let result = Result { () throws(TrailError) in try wait(for: batch, leads: leads) }
        lock.acquire()
        _ = try result.get()
        if let failure = batch.headFailure { throw failure }
        guard let head = state.head, head.size > index else {
            throw TrailError(.poisoned, "no head could be signed")
        }
        return head
    }

    /// Whether the caller has to commit now, because nobody else does. `lock` is held.
    private func claimLead() -> Bool {
        if state.isCommitting { return false }
        state.isCommitting = true
        return true
    }

    /// Waits until `batch` is written, or writes it. Returns whether the caller led. `lock` is not held.
    private func wait(for batch: Batch, leads: Bool) throws(TrailError) -> Bool {
        var leads = leads
        while !leads {
            if batch.waitForNews() { break }
            // Whoever led before has stopped with this batch unwritten.
            leads = lock.held { !batch.hasEnded && claimLead() }
        }
        if leads {
            lock.held {
                // Handing over costs a wake-up, so the leader stays for a few batches more, but not for ever.
                var more = Self.batchesLedMax
                while !state.batches.isEmpty, batch.outcome == nil || more > 0 {
                    more -= 1
                    commit(state.batches.removeFirst())
                }
                stopCommitting()
            }
        }
        try batch.outcome!.get()
        return leads
    }

    /// Lets somebody else commit. `lock` is held.
    func stopCommitting() {
        state.isCommitting = false
        state.batches.first?.askForLeader()
        idle.wakeAll()
    }

    private static let batchesLedMax = 16
    /// More than a head's note and frame can take.
    private static let headBytesMax = 1024

    /// Writes and syncs a batch. `lock` is held, but not during the disk's work.
    private func commit(_ batch: Batch) {
        let byteCount = batch.bytes.count + (batch.wantsHead ? Self.headBytesMax : 0)
        guard state.segment.room >= byteCount || roll(failing: batch) else { return }
        let segment = state.segment
        let range = state.tree.range
        let expected = state.anchored
        lock.release()
        var head: SignedCheckpoint?
        var headBytes = 0
        var failure: TrailError?
        do {
            var bytes = batch.bytes
            if batch.wantsHead {
                head = try signHead(over: range, and: batch.leaves)
                bytes = batch.bytes(with: head!, time: clock.now())
                headBytes = bytes.count - batch.bytes.count
            }
            try disk.write(bytes, to: segment.path, offset: segment.used)
            try disk.sync(segment.path)
        } catch {
            failure = Self.writeFailure(error)
        }
        var anchorFailure: TrailError?
        var anchored = expected
        if failure == nil, let head {
            do throws(DiskError) {
                anchored = try Anchor.swap(expected, for: head.note, on: anchor)
            } catch {
                anchorFailure =
                    error == .noSpace
                    ? TrailError(.full, "the anchor's disk is full")
                    : TrailError(.poisoned, "the anchor is not as this trail left it, or could not be moved")
            }
        }
        lock.acquire()
        if let failure {
            batch.finish(.failure(failure))
            return stop(failure)
        }
        // What is durable stays durable whatever the anchor says: the records count, the head does not.
        state.apply(batch, headBytes: headBytes)
        if anchorFailure == nil, let head {
            state.head = head
            state.anchored = anchored
        }
        if let anchorFailure, anchorFailure.code != .full { stop(anchorFailure) }
        // Those who waited want the lock next.
        lock.release()
        batch.finish(.success(()), headFailure: anchorFailure)
        lock.acquire()
    }

    private func signHead(over range: CompactRange, and leaves: [Batch.Leaf]) throws(LogError) -> SignedCheckpoint {
        var range = range
        for leaf in leaves { range.append(leaf.hash) }
        // Only the one who commits signs or changes the key.
        return try Checkpoint(origin: identity.origin, size: range.size, root: range.root).signed(by: signingKey)
    }

    private static func writeFailure(_ error: any Error) -> TrailError {
        switch error as? DiskError {
        case .gone: TrailError(.lost, "the segment that is written to was removed or replaced")
        default: TrailError(.poisoned, "a write or sync of the trail failed")
        }
    }

    /// Starts the next segment. False when `batch` has been failed. `lock` is held, but not during the disk's work.
    private func roll(failing batch: Batch) -> Bool {
        guard !state.isFull else {
            // The reserve is used up too.
            batch.finish(.failure(Self.full))
            state.failWaiting(Self.full)
            return false
        }
        let first = state.tree.size
        let byteCount = WALFiles.segmentBytes(number: state.segments.count, most: settings.segmentBytes)
        let path = WALFiles.segment(first: first)
        lock.release()
        // Whoever is just making the spare makes it for this.
        let result = spareLock.held {
            Result { () throws(DiskError) in
                if lock.held({ state.hasSpare }) {
                    try disk.rename(WALFiles.spare, to: path)
                    lock.held { state.hasSpare = false }
                } else {
                    try disk.preallocate(path, byteCount: byteCount)
                }
            }
        }
        lock.acquire()
        switch result {
        case .success:
            state.segments.append(Segment(first: first, used: 0, byteCount: byteCount))
            state.spareFailed = false
            return true
        case .failure(.noSpace):
            becomeFull(first, failing: batch)
            return false
        case .failure:
            let failure = TrailError(.poisoned, "a new segment of the trail could not be made")
            batch.finish(.failure(failure))
            stop(failure)
            return false
        }
    }

    /// The size of the next segment, when it should be made now. `lock` is held.
    private var spareBytesDue: Int? {
        guard state.segment.room < state.segment.byteCount / 2, !state.hasSpare, !state.spareFailed, !state.isFull,
            state.stopped == nil
        else { return nil }
        return WALFiles.segmentBytes(number: state.segments.count, most: settings.segmentBytes)
    }

    /// Makes the next segment while the present one is still half empty, so that no record waits for it.
    private func makeSpare(_ byteCount: Int) {
        spareLock.heldIfFree {
            guard !lock.held({ state.hasSpare }) else { return }
            let result = Result { () throws(DiskError) in
                try disk.preallocate(WALFiles.spare, byteCount: byteCount)
            }
            lock.held {
                // A disk that has no space now is asked again when the segment is needed.
                if case .success = result { state.hasSpare = true } else { state.spareFailed = true }
            }
        }
    }

    /// Opens the reserve and says so in it. Everything that was waiting fails. `lock` is held.
    private func becomeFull(_ first: UInt64, failing batch: Batch) {
        state.isFull = true
        state.refusals += Int64(batch.leaves.count + state.batches.reduce(0) { $0 + $1.leaves.count })
        batch.finish(.failure(Self.full))
        state.failWaiting(Self.full)
        guard state.hasReserve else { return }
        lock.release()
        let result = Result { () throws(DiskError) in
            try disk.rename(WALFiles.reserve, to: WALFiles.segment(first: first))
        }
        lock.acquire()
        guard case .success = result else {
            return stop(TrailError(.poisoned, "the trail's reserve could not be opened"))
        }
        state.hasReserve = false
        state.segments.append(Segment(first: first, used: 0, byteCount: settings.reserveBytes))
        writeAboutItself(TrailRecord(.trailFull, .failed))
    }

    /// Writes a record of the trail about itself; the caller is the one who commits now. `lock` is held. If it cannot be
    /// written, what stopped it has been said already.
    func writeAboutItself(_ record: TrailRecord) {
        guard let era = state.gatewayEra.flatMap({ state.eras[$0] }), !era.isClosing,
            let prepared = try? seal(
                record, kind: .trail, in: era, sequence: era.pending.count + 1, previous: era.pending.last),
            let batch = try? enqueue(prepared).batch
        else { return }
        // What formed before it keeps its place.
        while !state.batches.isEmpty {
            let next = state.batches.removeFirst()
            commit(next)
            if next === batch { return }
        }
    }

    /// Tries to leave the reserve for a new segment, and says how many were turned away.
    func resume() throws(TrailError) {
        lock.acquire()
        defer { lock.release() }
        while state.isCommitting { idle.wait(lock) }
        if let stopped = state.stopped { throw stopped }
        guard state.isFull else { return }
        state.isCommitting = true
        defer { stopCommitting() }
        let first = state.tree.size
        // An unused reserve segment already has the name that the next one would have.
        let isEmpty = state.segment.first == first
        let needsReserve = !state.hasReserve
        let byteCount = WALFiles.segmentBytes(number: state.segments.count, most: settings.segmentBytes)
        lock.release()
        let result = Result { () throws(DiskError) in
            if needsReserve { try disk.preallocate(WALFiles.reserve, byteCount: settings.reserveBytes) }
            if !isEmpty { try disk.preallocate(WALFiles.segment(first: first), byteCount: byteCount) }
        }
        lock.acquire()
        guard case .success = result else {
            state.refusals += 1
            throw Self.full
        }
        state.hasReserve = true
        state.isFull = false
        if !isEmpty { state.segments.append(Segment(first: first, used: 0, byteCount: byteCount)) }
        let refusals = state.refusals
        state.refusals = 0
        writeAboutItself(TrailRecord(.trailResumed, .done, [.detail: ["refused": .integer(refusals)]]))
        if let stopped = state.stopped { throw stopped }
    }

    /// After this nothing is written until the next start, which finds out what is on the disk. `lock` is held.
    func stop(_ error: TrailError) {
        state.stopped = error
        state.failWaiting(error)
    }
}
