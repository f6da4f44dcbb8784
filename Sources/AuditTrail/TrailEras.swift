internal import DurableFiles
internal import Sealing
internal import TransparencyLog
package import Vocabulary

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
        lock.held { state.eras[number] = era }
        do throws(TrailError) {
            // A run begins under a head that already covers its opening.
            _ = try submit(first, isHeaded: run != nil)
        } catch {
            lock.held { state.eras[number] = nil }
            throw error
        }
        lock.held { if let run { state.runEras[run] = number } else { state.gatewayEra = number } }
        return number
    }

    /// Closes the gateway's era when its hour is over and opens the next.
    func rollGatewayEra() throws(TrailError) {
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
    func closeStaleGatewayEras() throws(TrailError) {
        let stale = lock.held { state.eras.values.filter { $0.run == nil && $0.number != state.gatewayEra } }
        for old in stale.sorted(by: { $0.number < $1.number }) {
            let (sequence, previous) = lock.held { (old.pending.count + 1, old.pending.last) }
            _ = try submit(
                seal(TrailRecord(.eraClosed, .done), kind: .eraClosed, in: old, sequence: sequence, previous: previous))
        }
    }

    func readyForNewRecord(_ event: AuditEvent, in era: TrailEra) throws(TrailError) {
        let isFull = lock.held { state.isFull }
        if isFull, !event.mayUseReserve { try resume() }
        // A gateway era that cannot be followed by another because the disk is full is used on.
        if era == .gateway, !isFull { try rollGatewayEra() }
    }

    /// `lock` is held.
    func open(_ era: TrailEra) throws(TrailError) -> OpenEra {
        if let stopped = state.stopped { throw stopped }
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

    /// `lock` is held.
    func nextPlace(in era: TrailEra) throws(TrailError) -> (era: OpenEra, sequence: UInt64, previous: Digest?) {
        let open = try open(era)
        guard !open.isClosing else { throw TrailError(.eraClosed, "the run's era is being closed") }
        return (open, open.pending.count + 1, open.pending.last)
    }

    func seal(
        _ record: TrailRecord, kind: LeafHeader.Kind, in era: OpenEra, sequence: UInt64, previous: Digest?
    ) throws(TrailError) -> PreparedRecord {
        var sections: [JSON] = []
        for section in record.sections {
            sections.append(
                try subjects.seal(section, origin: identity.origin, era: era.number, sequence: sequence))
        }
        let core = record.core(
            run: era.run, sequence: sequence, previous: previous, count: kind == .eraClosed ? sequence : nil,
            sections: sections)
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

    /// Forgets an era's key, on the disk and in memory. `lock` is held.
    func erase(_ era: OpenEra) throws(TrailError) {
        state.eras[era.number] = nil
        if let run = era.run { state.runEras[run] = nil }
        do {
            try disk.erase(HostKeyFile.path(era.number))
        } catch {
            let failure = TrailError(.poisoned, "the key of a closed era could not be erased")
            stop(failure)
            throw failure
        }
    }
}
