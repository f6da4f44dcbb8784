internal import TransparencyLog
internal import Vocabulary

/// What can be told of the entries of a log or of a part of it, in order: each era opens once, keeps its key and closes
/// once; with its key, its records form one chain; the clock does not go back.
///
/// It remembers only the eras that are open: their numbers grow in the order in which they open, so an entry of any
/// other era is out of place.
struct EntryChecker {
    /// How much of the log the entries are.
    enum Part {
        case whole
        /// All entries between two places: an era may begin before and end after.
        case range
        /// Chosen entries: every era with its opening one; a run's without a gap, others with gaps.
        case selection
    }

    struct Era {
        let commitment: Digest
        let firstIndex: UInt64
        var lastIndex: UInt64
        var entries: UInt64 = 0
        var sequence: UInt64?
        var last: Digest?
        /// The run whose era it is; all its cores name it.
        var run: String?
        var isRead = false
        var beginsAtItsOpening = false
    }

    /// Two threads may take their time and then enter the log the other way round; more than this is the clock.
    private static let clockSkewMillisecondsMax: Int64 = 60_000

    let part: Part
    private(set) var open: [UInt64: Era] = [:]
    private var firstOpened: UInt64?
    private var highestOpened: UInt64 = 0
    /// In a range: eras from before it that ended in it.
    private var ended: Set<UInt64> = []
    private var latest = Timestamp(milliseconds: .min)

    init(_ part: Part) { self.part = part }

    /// Takes the next entry, with its core when its era's key is there. Returns the era when the entry closes it.
    mutating func take(
        _ header: LeafHeader, leafHash: Digest, index: UInt64, core: JSON?
    ) throws(LogError) -> Era? {
        func wrong(_ code: LogError.Code, _ words: String) -> LogError { LogError(code, "entry \(index): \(words)") }
        // What the trail writes about itself at a start may tell of a clock that was put right.
        if header.kind != .trail {
            guard
                header.time.milliseconds >= latest.milliseconds &- Self.clockSkewMillisecondsMax
                    || latest.milliseconds == .min
            else {
                let seconds = (latest.milliseconds - header.time.milliseconds) / 1000
                throw wrong(.wrongTime, "the clock goes back by \(seconds) seconds")
            }
            latest = max(latest, header.time)
        }
        var era: Era
        if let known = open[header.era] {
            guard header.kind != .eraOpened else { throw wrong(.wrongEntry, "era \(header.era) opens twice") }
            era = known
        } else {
            let isFromBefore = part == .range && header.era < firstOpened ?? .max && !ended.contains(header.era)
            guard header.kind == .eraOpened ? header.era > highestOpened : isFromBefore else {
                throw wrong(
                    .wrongEntry, "era \(header.era) does not open with its opening entry, or goes on after its last")
            }
            if header.kind == .eraOpened {
                highestOpened = header.era
                firstOpened = firstOpened ?? header.era
            }
            era = Era(commitment: header.keyCommitment, firstIndex: index, lastIndex: index)
            era.beginsAtItsOpening = header.kind == .eraOpened
        }
        guard era.commitment == header.keyCommitment else {
            throw wrong(.wrongEntry, "era \(header.era) changes its key")
        }
        if let core { try Self.check(core, header, index, &era, part) }
        era.entries += 1
        era.last = leafHash
        era.lastIndex = index
        guard header.kind == .eraClosed else {
            open[header.era] = era
            return nil
        }
        open[header.era] = nil
        if !era.beginsAtItsOpening { ended.insert(header.era) }
        return era
    }

    private static func check(
        _ core: JSON, _ header: LeafHeader, _ index: UInt64, _ era: inout Era, _ part: Part
    ) throws(LogError) {
        func wrong(_ code: LogError.Code, _ words: String) -> LogError { LogError(code, "entry \(index): \(words)") }
        guard let number = core["sequence"]?.integerValue, number > 0 else {
            throw wrong(.wrongEntry, "its record has no number")
        }
        let sequence = UInt64(number)
        let run = core["run"]?.stringValue
        if header.kind == .eraOpened {
            guard sequence == 1, core["previous"] == nil else {
                throw wrong(.incomplete, "era \(header.era) does not begin with its first record")
            }
            era.run = run
        } else if let before = era.sequence {
            let mayHaveGap = part == .selection && era.run == nil
            guard sequence == before + 1 || mayHaveGap && sequence > before else {
                throw wrong(.incomplete, "record \(before + 1) of era \(header.era) is missing or doubled")
            }
            guard core["previous"]?.stringValue == era.last?.hex || sequence > before + 1 else {
                throw wrong(.incomplete, "does not follow the record before it in era \(header.era)")
            }
        }
        // A gateway's era names no run at its start; its records may each be about another run.
        guard era.run == nil || run == era.run else { throw wrong(.wrongEntry, "names another run than its era's") }
        let count = header.kind == .eraClosed ? number : nil
        guard core["count"]?.integerValue == count else {
            throw wrong(.incomplete, "era \(header.era) has not as many records as it says")
        }
        era.sequence = sequence
        era.isRead = true
    }
}
