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
    // Unchecked: `state`, `signingKey` and `watch` are touched only with `lock` held; the rest is constant or guards
    // itself.
    /// The log's name and first key, by which others know it.
    package let identity: TrailIdentity
    let disk: any Disk
    let anchor: any Disk
    let settings: TrailSettings
    let hostKey: SecretBytes
    let clock: any WallClock
    package let subjects: SubjectKeys
    let tiles: StoredTiles
    let lock = Lock()
    /// Woken when nobody commits any more.
    let idle = Condition()
    // Taken before `lock` by whoever opens or closes an era, so that two do not at once.
    let eraLock = Lock()
    // Taken before `lock` by whoever writes the derived files.
    let publishLock = Lock()
    // Taken before `lock` by whoever makes the next segment.
    let spareLock = Lock()
    var signingKey: SigningKey
    var state: TrailState
    var watch = TrailWatch()

    init(
        identity: TrailIdentity, home: TrailHome, signingKey: consuming SigningKey, hostKey: borrowing SecretBytes,
        subjects: SubjectKeys, state: TrailState
    ) {
        self.identity = identity
        disk = home.disk
        anchor = home.anchor
        settings = home.settings
        clock = home.clock
        self.signingKey = signingKey
        self.hostKey = hostKey.clone()
        self.subjects = subjects
        self.state = state
        tiles = StoredTiles(home.disk)
    }
}

package struct TrailSettings: Sendable {
    /// The log's name in its checkpoints, such as `hospital.example/sekisho`.
    package var origin: String
    /// The auditors and the offline recovery key; at least one.
    package var readers: [TrailReader]
    /// What a segment grows to; the first ones are smaller.
    package var segmentBytes = 64 << 20
    package var reserveBytes = 1 << 20
    package var gatewayEraSeconds: Int64 = 3600
    /// After so long without a record the trail says that it is alive.
    package var heartbeatSeconds: Int64 = 300
    /// Full tiles are written at the latest when so many leaves wait for them in memory.
    package var heldLeavesMax = 8192
    /// Lets a trail open whose anchor is gone. Only an operator's explicit wish: without an anchor nobody can tell that
    /// the trail was not rolled back.
    package var makesAnchorAnew = false

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
    /// Seals a record for its era. Nothing is written yet, but for the keys of subjects that are new.
    package func prepare(_ record: TrailRecord, in era: TrailEra) throws(TrailError) -> PreparedRecord {
        try readyForNewRecord(record.event, in: era)
        let (open, sequence, previous) = try lock.held { () throws(TrailError) in try nextPlace(in: era) }
        return try seal(record, kind: .record, in: open, sequence: sequence, previous: previous)
    }

    /// Writes a prepared record. When this returns, the record survives a crash of the machine.
    ///
    /// - Parameter isHeaded: whether a signed head over the record is made with it, so that `head` and `receipt` then
    ///   need no more waiting for the disk.
    package func append(_ prepared: PreparedRecord, isHeaded: Bool = false) throws(TrailError) -> AppendedRecord {
        do {
            return try submit(prepared, isHeaded: isHeaded)
        } catch  where error.code == .full && prepared.mayUseReserve {
            // The batch that met the full disk took this one down with it; now the reserve is open.
            return try submit(prepared, isHeaded: isHeaded)
        }
    }

    /// Prepares and appends at once, whatever other threads do meanwhile.
    ///
    /// - Parameter isHeaded: as `append`'s.
    package func record(
        _ record: TrailRecord, in era: TrailEra, isHeaded: Bool = false
    ) throws(TrailError) -> AppendedRecord {
        try readyForNewRecord(record.event, in: era)
        let kind: LeafHeader.Kind = record.event.isOfTheTrail ? .trail : .record
        let open = try lock.held { () throws(TrailError) in try self.open(era) }
        var retriesFull = record.event.mayUseReserve
        while true {
            do throws(TrailError) {
                let (prepared, place) = try open.sealing.held { () throws(TrailError) in
                    let (_, sequence, previous) = try lock.held { () throws(TrailError) in try nextPlace(in: era) }
                    let prepared = try seal(record, kind: kind, in: open, sequence: sequence, previous: previous)
                    return (
                        prepared, try lock.held { () throws(TrailError) in try enqueue(prepared, isHeaded: isHeaded) }
                    )
                }
                return try acknowledged(prepared, place)
            } catch  where error.code == .full && retriesFull {
                retriesFull = false
            } catch  where error.code == .outOfOrder {
                // Somebody appended a prepared record meanwhile; this one takes the next place.
            }
        }
    }

    /// Proof that the record at `index`, whose leaf has this hash, is in the log, to show to whoever acts on it. Its era
    /// must still be open.
    ///
    /// - Parameter cosigned: the head to prove it under, with its cosignatures; otherwise the trail takes one of its own.
    package func receipt(
        for leafHash: Digest, at index: UInt64, under cosigned: SignedCheckpoint? = nil
    ) throws(TrailError) -> Receipt {
        let (head, periods) = try lock.held { () throws(TrailError) in
            guard index < min(state.tree.size, cosigned?.size ?? .max) else { throw Self.noRecord }
            let head = if let cosigned { cosigned } else { try signedHead(covering: index) }
            return (head, state.periods)
        }
        let leaf = try leaf(at: index)
        guard Merkle.leafHash(leaf) == leafHash else { throw Self.noRecord }
        do {
            let header = try LeafHeader(leaf: leaf[...])
            guard let era = lock.held({ state.eras[header.era] }) else {
                throw TrailError(.eraClosed, "a record of a closed era can no longer be disclosed here")
            }
            let opening = try era.key.open(leaf: leaf[...], origin: identity.origin).opening
            let proof = try Merkle.inclusionProof(index: index, size: head.size, node)
            // What lies in tiles was checked when the trail was opened; a receipt goes to walls that check it again.
            try Merkle.verifyInclusion(of: leafHash, index: index, size: head.size, proof: proof, root: head.root)
            return Receipt(index: index, head: head, periods: periods, proof: proof, leaf: leaf, opening: opening)
        } catch let error as TrailError {
            throw error
        } catch {
            throw TrailError(.damaged, "entry \(index) can no longer be proved; files of the log have changed")
        }
    }

    /// Whether the leaf with this hash is entry `index`.
    package func holds(_ leafHash: Digest, at index: UInt64) -> Bool {
        guard index < size else { return false }
        return (try? node(level: 0, index: index)) == leafHash
    }

    /// Where a record with this hash is, if it is durable: asked after a restart for what was prepared before. Reads
    /// back through the log, newest first.
    package func index(of leafHash: Digest) -> UInt64? {
        var index = size
        while index > 0 {
            index -= 1
            if holds(leafHash, at: index) { return index }
        }
        return nil
    }

    /// The number of the era that an entry belongs to, as its clear header says.
    package func era(of index: UInt64) throws(TrailError) -> UInt64 {
        guard index < size else { throw TrailError(.notFound, "the trail has no such entry") }
        do { return try LeafHeader(leaf: try leaf(at: index)[...]).era } catch {
            throw TrailError(.damaged, "entry \(index) has no header")
        }
    }

    /// How many entries are records that its owner wrote into an era, its closing one apart: the owner can tell by it
    /// whether its own copies are complete.
    package var recordCount: Int { lock.held { state.records } }

    package var size: UInt64 { lock.held { state.tree.size } }

    /// How many entries are held in memory because no full tile on the disk has them yet.
    package var heldEntries: Int { lock.held { state.tree.heldLeaves } }

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

    /// The keys that have signed the log's heads so far.
    package var periods: SigningPeriods { lock.held { state.periods } }

    static let full = TrailError(.full, "the trail's disk is full")
    private static let noRecord = TrailError(.notFound, "the trail has no such record")
}
