internal import TransparencyLog
internal import Vocabulary

/// What can be told of each era from entries in order: that it opens once, keeps its key, closes once, and, with its
/// key, that its records form one unbroken chain of the length that its last record states.
struct EraLedger {
    struct Era {
        let commitment: Digest
        let opened: Timestamp
        let firstIndex: UInt64
        var lastIndex: UInt64
        var chain = EraChain()
        var isClosed = false
        /// The run whose era it is; all its cores name it.
        var run: String?
    }

    private(set) var eras: [UInt64: Era] = [:]
    /// Eras are numbered in the order in which they open; a closed one that was forgotten cannot open again.
    private(set) var highest: UInt64 = 0
    private let keepsClosed: Bool

    /// - Parameter keepsClosed: whether `eras` still holds an era after its end; without, memory is bounded by how many
    ///   are open at a time.
    init(keepsClosed: Bool = true) { self.keepsClosed = keepsClosed }

    /// Takes the next entry of the log, with its core when the era's key is there.
    mutating func take(
        _ header: LeafHeader, leafHash: Digest, index: UInt64, core: JSON? = nil
    ) throws(LogError) {
        let isNew = header.kind == .eraOpened && header.era > highest
        guard isNew || eras[header.era] != nil else {
            let why =
                header.era > highest
                ? "does not open with its opening entry"
                : header.kind == .eraOpened ? "opens twice or out of order" : "goes on after it was closed"
            throw LogError(.wrongEntry, "entry \(index): era \(header.era) \(why)")
        }
        var era =
            eras[header.era]
            ?? Era(commitment: header.keyCommitment, opened: header.time, firstIndex: index, lastIndex: index)
        guard (era.chain.count == 0) == (header.kind == .eraOpened) else {
            throw LogError(.wrongEntry, "entry \(index): era \(header.era) does not open with its opening entry")
        }
        guard !era.isClosed else {
            throw LogError(.wrongEntry, "entry \(index): era \(header.era) goes on after it was closed")
        }
        guard era.commitment == header.keyCommitment else {
            throw LogError(.wrongEntry, "entry \(index): era \(header.era) changes its key")
        }
        let sequence = era.chain.count + 1
        if let core { try Self.check(core, header: header, index: index, sequence: sequence, era: &era) }
        era.chain = EraChain(count: sequence, last: leafHash)
        era.lastIndex = index
        era.isClosed = header.kind == .eraClosed
        highest = max(highest, header.era)
        eras[header.era] = era.isClosed && !keepsClosed ? nil : era
    }

    private static func check(
        _ core: JSON, header: LeafHeader, index: UInt64, sequence: UInt64, era: inout Era
    ) throws(LogError) {
        guard core["sequence"]?.integerValue == Int64(sequence) else {
            throw LogError(.incomplete, "entry \(index): record \(sequence) of era \(header.era) is missing or doubled")
        }
        guard core["previous"]?.stringValue == era.chain.last?.hex else {
            throw LogError(.incomplete, "entry \(index): does not follow the record before it in era \(header.era)")
        }
        let run = core["run"]?.stringValue
        // A gateway's era names no run at its start; its records may each be about another run.
        guard sequence == 1 || era.run == nil || run == era.run else {
            throw LogError(.wrongEntry, "entry \(index): names another run than its era's")
        }
        if sequence == 1 { era.run = run }
        guard core["count"]?.integerValue == (header.kind == .eraClosed ? Int64(sequence) : nil) else {
            throw LogError(.incomplete, "entry \(index): era \(header.era) has not as many records as it says")
        }
    }
}
