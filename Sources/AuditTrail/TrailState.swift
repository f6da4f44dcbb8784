internal import Sealing
internal import TransparencyLog
internal import Vocabulary

/// Everything about an open trail that changes.
struct TrailState {
    var tree = MerkleTree()
    var places: [Place] = []
    var indexByHash: [Digest: UInt64] = [:]
    /// Entries of kind `record`.
    var records = 0
    var eras: [UInt64: OpenEra] = [:]
    var runEras: [RunID: UInt64] = [:]
    var gatewayEra: UInt64?
    var nextEra: UInt64 = 1
    var segment: Segment
    var hasReserve = true
    var isFull = false
    /// Why nothing is written any more.
    var stopped: TrailError?
    var head: SignedCheckpoint?
    /// The note that lies at the anchor.
    var anchored: [UInt8]?
    /// How many entries the derived files show.
    var published: UInt64 = 0
    var queue: [Ticket] = []
    var isCommitting = false

    private static let batchRecordsMax = 1024
    private static let batchBytesMax = 1 << 20

    /// What has queued, up to the bounds of one batch.
    mutating func takeBatch() -> [Ticket] {
        var count = 0
        var bytes = 0
        for ticket in queue.prefix(Self.batchRecordsMax) {
            bytes += ticket.byteCount
            if count > 0 && bytes > Self.batchBytesMax { break }
            count += 1
        }
        defer { queue.removeFirst(count) }
        return Array(queue.prefix(count))
    }

    /// Takes over what has become durable in the segment at `path`.
    mutating func apply(_ written: WrittenBatch, to path: String) {
        let base = segment.used
        for (prepared, offset) in written.leaves {
            indexByHash[prepared.leafHash] = tree.size
            if prepared.kind == .record { records += 1 }
            tree.append(prepared.leafHash)
            places.append(Place(path: path, offset: base + offset, count: prepared.leaf.count))
            eras[prepared.era]?.durable = EraChain(count: prepared.sequence, last: prepared.leafHash)
        }
        segment.used += written.bytes.count
    }
}

/// Where a leaf lies.
struct Place {
    let path: String
    let offset: Int
    let count: Int
}

/// The segment that is written to.
struct Segment {
    let path: String
    var used: Int
    let byteCount: Int

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
    var durable = EraChain()
    /// With what waits in the queue.
    var pending = EraChain()
    var isClosing = false

    init(number: UInt64, run: RunID?, key: consuming EraKey, opened: Timestamp) {
        self.number = number
        self.run = run
        self.key = key
        self.opened = opened
    }
}

/// Something that waits for the next batch. Its result is touched only with the trail's lock held.
final class Ticket {
    enum Content {
        case leaf(PreparedRecord)
        /// A signed head over everything before it.
        case head
    }

    let content: Content
    var result: Result<UInt64, TrailError>?

    init(_ content: Content) { self.content = content }

    var byteCount: Int {
        switch content {
        case .leaf(let prepared): prepared.leaf.count + WALFrame.overheadBytes
        case .head: 512
        }
    }
}

/// The bytes of a batch and what they mean once they are durable.
struct WrittenBatch {
    var range: CompactRange
    private(set) var bytes: [UInt8] = []
    private(set) var leaves: [(prepared: PreparedRecord, offset: Int)] = []
    private(set) var head: SignedCheckpoint?
    /// For each ticket, the index of its leaf or the size of its head.
    private(set) var indices: [UInt64] = []

    init(range: CompactRange) { self.range = range }

    mutating func add(_ prepared: PreparedRecord, time: Timestamp) {
        indices.append(range.size)
        leaves.append((prepared, bytes.count + WALFrame.headerBytes))
        WALFrame.append(
            to: &bytes, payload: prepared.leaf, index: range.size, isHead: false, time: time, hash: prepared.leafHash)
        range.append(prepared.leafHash)
    }

    mutating func add(_ head: SignedCheckpoint, time: Timestamp) {
        indices.append(range.size)
        WALFrame.append(
            to: &bytes, payload: head.note, index: range.size, isHead: true, time: time, hash: SHA256.hash(head.note))
        self.head = head
    }
}
