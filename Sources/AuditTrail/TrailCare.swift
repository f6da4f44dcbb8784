package import DurableFiles
package import Sealing
internal import TransparencyLog
import Vocabulary

/// What was looked at last, and when.
struct TrailWatch {
    var looked: Timestamp?
    /// Which full tile is looked at next.
    var nextTile: UInt64 = 0
}

extension Trail {
    /// What a trail does by itself as time passes: call it about once a second. It publishes what is new, says that it
    /// is alive when nothing else was written, leaves the reserve when there is space, and makes sure that its files are
    /// still the ones it wrote. What it finds wrong stops the trail (`obstacle`).
    package func tend() throws(TrailError) {
        if let stopped = lock.held({ state.stopped }) { throw stopped }
        if lock.held({ state.isFull }) { try resume() }
        try lookAtFiles()
        let now = clock.now()
        let (lastWritten, lastKept) = lock.held { (state.lastWritten, state.lastKept) }
        // A clock that went back must not silence the trail.
        if Self.isDue(lastWritten, after: settings.heartbeatSeconds, now) {
            _ = try record(TrailRecord(.trailHeartbeat, .done), in: .gateway)
        }
        try publish(keeps: Self.isDue(lastKept, after: 3600, now))
    }

    private static func isDue(_ last: Timestamp?, after seconds: Int64, _ now: Timestamp) -> Bool {
        guard let last else { return true }
        return now >= last.adding(seconds: seconds) || now < last
    }

    // MARK: - Files that others touched

    private static let secondsBetweenLooks: Int64 = 5

    /// A file that was deleted or replaced under the process is noticed, and stops everything new.
    private func lookAtFiles() throws(TrailError) {
        let now = clock.now()
        guard lock.held({ Self.isDue(watch.looked, after: Self.secondsBetweenLooks, now) }) else { return }
        lock.held { watch.looked = now }
        guard let lost = try firstLostFile() else { return }
        let failure = TrailError(
            .lost, "\(lost) was removed or replaced while the trail is open; nothing new starts")
        lock.held {
            while state.isCommitting { idle.wait(lock) }
            guard state.stopped == nil else { return }
            state.isCommitting = true
            // If the segment in use is still there, the trail itself tells why it ends.
            writeAboutItself(TrailRecord(.trailStopped, .failed, [.detail: ["lost": .string(lost)]]))
            if state.stopped == nil { stop(failure) }
            stopCommitting()
        }
        throw failure
    }

    /// In words, the first thing that is not as this process left it.
    private func firstLostFile() throws(TrailError) -> String? {
        let (segments, hasReserve, eras) = lock.held {
            (state.segments, state.hasReserve, state.eras.keys.sorted())
        }
        return try io { () throws(DiskError) in
            for segment in segments where try disk.byteCount(of: segment.path) != segment.byteCount {
                return "a segment of the log"
            }
            if hasReserve, lock.held({ state.hasReserve }),
                try disk.byteCount(of: WALFiles.reserve) != settings.reserveBytes
            {
                return "the reserve"
            }
            guard try disk.read(TrailFiles.identity) == Array("\(identity)\n".utf8) else { return "the log's identity" }
            for era in eras where lock.held({ state.eras[era] != nil }) {
                guard try disk.byteCount(of: EraKeyFile.path(era)) != nil,
                    try disk.byteCount(of: HostKeyFile.path(era)) != nil
                else {
                    if lock.held({ state.eras[era] == nil }) { continue }
                    return "the keys of an open era"
                }
            }
            if let head = try publishLock.held({ () throws(DiskError) in try firstLostHead() }) { return head }
            return try lostTile()
        }
    }

    /// `publishLock` is held, so that the published checkpoint does not move meanwhile.
    private func firstLostHead() throws(DiskError) -> String? {
        // The anchor may: it is looked at again then.
        for _ in 0..<2 {
            let (anchored, published) = lock.held { (state.anchored, state.publishedNote) }
            if let published, try disk.read(TrailFiles.checkpoint) != published { return "the published checkpoint" }
            if try Anchor.read(anchor) == anchored { return nil }
            if lock.held({ state.anchored == anchored && !state.isCommitting }) { return "the anchor" }
        }
        return nil
    }

    /// Looks at one full tile each time, so that each is looked at in turn.
    private func lostTile() throws(DiskError) -> String? {
        let tile = lock.held { () -> Tile? in
            let count = state.tree.base / Tile.width
            guard count > 0 else { return nil }
            watch.nextTile = (watch.nextTile + 1) % count
            return Tile(.hashes(level: 0), index: watch.nextTile)
        }
        guard let tile else { return nil }
        let entries = Tile(.entries, index: tile.index)
        guard try disk.byteCount(of: TrailFiles.log(tile.path)) == Int(Tile.width) * Digest.byteCount,
            try disk.byteCount(of: TrailFiles.log(entries.path)) != nil
        else { return "a tile of the published log" }
        return nil
    }

    /// The key that signs a trail's heads now, as its files say; `nil` when there is no trail.
    package static func currentKey(in disk: any Disk) throws -> VerifyingKey? {
        guard let text = try disk.read(TrailFiles.identity), text.last == 0x0A else { return nil }
        let identity = try TrailIdentity(parsing: String(decoding: text.dropLast(), as: UTF8.self))
        return try SigningPeriods(identity, parsing: disk.read(TrailFiles.periods) ?? []).current.key
    }

    // MARK: - Signing periods

    /// Ends the signing period of today's key: from the next head on `newKey` signs. Every witness must learn the new
    /// key. The owner keeps the new key durably *before* this, and may forget the old one after.
    package func rotateSigningKey(to newKey: consuming SigningKey) throws(TrailError) {
        let next: TrailIdentity
        do { next = try TrailIdentity(origin: identity.origin, key: newKey.verifyingKey) } catch {
            throw TrailError(.malformed, error.publicDescription)
        }
        let record = try record(
            TrailRecord(.signingRotated, .done, [.detail: ["key": .string(next.description)]]), in: .gateway)
        lock.acquire()
        defer { lock.release() }
        // The period ends with a head over the record that says so.
        _ = try signedHead(covering: record.index)
        while state.isCommitting { idle.wait(lock) }
        if let stopped = state.stopped { throw stopped }
        state.isCommitting = true
        defer { stopCommitting() }
        var periods = state.periods
        do {
            try periods.handOver(after: state.head!.checkpoint, from: signingKey, to: newKey)
            try disk.replace(TrailFiles.periods, with: periods.bytes, durable: true)
        } catch let error as LogError {
            throw TrailError(.malformed, error.publicDescription)
        } catch {
            let failure = TrailError(.poisoned, "the end of a signing period could not be written")
            stop(failure)
            throw failure
        }
        state.periods = periods
        signingKey = newKey
    }
}
