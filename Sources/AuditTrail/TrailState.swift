internal import Sealing
internal import TransparencyLog
internal import Vocabulary

/// Everything about an open trail that changes. Nothing in it grows with the log.
struct TrailState {
    /// The hashes that are not in full tiles on the disk yet, and where those leaves lie in the write-ahead log.
    var tree = TileEdge()
    var places: [Place] = []
    /// Entries of kind `record`.
    var records = 0
    /// The index that the next record in a batch gets.
    var nextIndex: UInt64 = 0
    var eras: [UInt64: OpenEra] = [:]
    var runEras: [RunID: UInt64] = [:]
    var gatewayEra: UInt64?
    var nextEra: UInt64 = 1
    /// All segments, the last of which is written to.
    var segments: [Segment] = []
    var hasSpare = false
    /// Whether a spare was tried for in vain since the last segment was begun.
    var spareFailed = false
    var hasReserve = true
    var isFull = false
    /// How many records a full disk has turned away.
    var refusals: Int64 = 0
    /// Why nothing is written any more.
    var stopped: TrailError?
    var periods: SigningPeriods
    var head: SignedCheckpoint?
    /// What this trail put at the anchor last.
    var anchored: AnchoredHead?
    /// How many entries the published checkpoint covers, and its note.
    var published: UInt64 = 0
    var publishedNote: [UInt8]?
    /// When something was written last, and when a checkpoint was last kept for good.
    var lastWritten: Timestamp?
    var lastKept: Timestamp?
    /// Those that wait to be written; the last one still takes records.
    var batches: [Batch] = []
    var isCommitting = false

    init(periods: SigningPeriods) { self.periods = periods }

    var segment: Segment {
        get { segments.last! }
        set { segments[segments.count - 1] = newValue }
    }

    /// The batch that still takes `byteCount` more bytes.
    mutating func forming(_ byteCount: Int) -> Batch {
        if let last = batches.last, last.leaves.count < Batch.recordsMax,
            last.bytes.isEmpty || last.bytes.count + byteCount <= Batch.bytesMax
        {
            return last
        }
        let batch = Batch()
        batches.append(batch)
        return batch
    }

    /// Takes over what has become durable.
    mutating func apply(_ batch: Batch, headBytes: Int) {
        let segment = self.segment
        for leaf in batch.leaves {
            if leaf.isRecord { records += 1 }
            tree.append(leaf.hash)
            places.append(
                Place(segment: segment.first, offset: UInt32(segment.used + leaf.offset), count: UInt32(leaf.count)))
            eras[leaf.era]?.durable = EraChain(count: leaf.sequence, last: leaf.hash)
        }
        self.segment.used += batch.bytes.count + headBytes
    }

    /// Fails everything that waits; eras go back to what is durable.
    mutating func failWaiting(_ error: TrailError) {
        for batch in batches { batch.finish(.failure(error)) }
        batches = []
        nextIndex = tree.size
        for era in eras.values {
            era.pending = era.durable
            era.isClosing = false
        }
    }
}

/// Where a leaf lies: in the segment that begins with entry `segment`.
struct Place {
    let segment: UInt64
    let offset: UInt32
    let count: UInt32
}

/// A file of the write-ahead log, all of its space taken.
struct Segment {
    let first: UInt64
    var used: Int
    let byteCount: Int
    let path: String

    init(first: UInt64, used: Int, byteCount: Int) {
        self.first = first
        self.used = used
        self.byteCount = byteCount
        path = WALFiles.segment(first: first)
    }

    var room: Int { byteCount - used }
}

/// How far an era's chain of records goes.
struct EraChain: Equatable {
    var count: UInt64 = 0
    var last: Digest?
}

/// An era whose key the gateway still has. Its variables are touched only with the trail's lock held.
final class OpenEra: @unchecked Sendable {
    let number: UInt64
    let run: RunID?
    let key: EraKey
    let opened: Timestamp
    /// Held while a record is sealed that must follow the one before it.
    let sealing = Lock()
    var durable = EraChain()
    /// With what waits to be written.
    var pending = EraChain()
    var isClosing = false

    init(number: UInt64, run: RunID?, key: consuming EraKey, opened: Timestamp) {
        self.number = number
        self.run = run
        self.key = key
        self.opened = opened
    }
}

/// Records that become durable together. Touched with the trail's lock held; once its leader has taken it, nobody else
/// changes it and the leader reads it without.
final class Batch: @unchecked Sendable {
    static let recordsMax = 1024
    static let bytesMax = 1 << 20

    struct Leaf {
        let hash: Digest
        let era: UInt64
        let sequence: UInt64
        let isRecord: Bool
        /// Where the leaf starts in `bytes`.
        let offset: Int
        let count: Int
    }

    private(set) var bytes: [UInt8] = []
    private(set) var leaves: [Leaf] = []
    /// Whether somebody waits for a signed head over everything in it.
    var wantsHead = false
    /// Set once, before those who wait are told; read by them and by the leader only.
    private(set) var outcome: Result<Void, TrailError>?
    private(set) var headFailure: TrailError?

    // Those who wait for a batch share nothing with those who form the next one.
    private let mutex = Lock()
    private let news = Condition()
    private var isFinished = false
    private var isLeaderWanted = false

    /// Waits until the batch is finished (true) or one of those who wait must commit it.
    func waitForNews() -> Bool {
        mutex.held {
            while !isFinished && !isLeaderWanted { news.wait(mutex) }
            isLeaderWanted = false
            return isFinished
        }
    }

    func askForLeader() {
        mutex.held { isLeaderWanted = true }
        news.wakeOne()
    }

    func add(_ prepared: PreparedRecord, index: UInt64, time: Timestamp) {
        leaves.append(
            Leaf(
                hash: prepared.leafHash, era: prepared.era, sequence: prepared.sequence,
                isRecord: prepared.kind == .record, offset: bytes.count + WALFrame.headerBytes,
                count: prepared.leaf.count))
        WALFrame.append(
            to: &bytes, payload: prepared.leaf, index: index, isHead: false, time: time, hash: prepared.leafHash)
    }

    /// The batch's bytes with a head at their end.
    func bytes(with head: SignedCheckpoint, time: Timestamp) -> [UInt8] {
        var all = bytes
        WALFrame.append(
            to: &all, payload: head.note, index: head.size, isHead: true, time: time, hash: SHA256.hash(head.note))
        return all
    }

    /// Tells those who wait. The trail's lock need not be held.
    func finish(_ outcome: Result<Void, TrailError>, headFailure: TrailError? = nil) {
        mutex.held {
            self.outcome = outcome
            self.headFailure = headFailure
            isFinished = true
        }
        news.wakeAll()
    }

    var hasEnded: Bool { mutex.held { isFinished } }
}
