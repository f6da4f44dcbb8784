internal import Vocabulary

/// The device's end of all lanes of a lease, as a value: which reads and writes are on their way, on which lane, within
/// which credits, and what is asked again when a lane comes back.
///
/// A block's place decides its lane, so a read never overtakes an earlier write of its block, over cuts too. A write may
/// overtake an earlier read, as posted writes do on PCIe: whoever writes a block has finished reading it.
package struct LaneRequester: Sendable {
    /// Blocks from a multiple of this on take the same lane.
    package static let stripeBlocks = UInt64(LaneHeader.readBlocksMax)

    /// What a lane sends next. A write's bytes lie in the slot of the lane's ring.
    package enum Command: Equatable, Sendable {
        case read(LaneHeader)
        case write(LaneHeader, slot: Int)

        package var header: LaneHeader {
            switch self {
            case .read(let header), .write(let header, _): header
            }
        }
    }

    fileprivate struct Read: Sendable {
        let window: UInt16
        var offset: UInt64
        let end: UInt64
        let transaction: UInt64
        /// Where the next block goes; means something to the caller only.
        var target: UInt

        var blocks: Int {
            Int((end - offset + UInt64(Limits.sealedBlockBytes) - 1) / UInt64(Limits.sealedBlockBytes))
        }
    }

    fileprivate struct Write: Sendable {
        let header: LaneHeader
        let slot: Int
    }

    fileprivate struct Lane: Sendable {
        var isUp = false
        var credits = 0
        /// In the order of their transactions; of each the first few are sent.
        var reads: [Read] = []
        var readsSent = 0
        var writes: [Write] = []
        var writesSent = 0
        var freeSlots = Array((0..<LaneCredit.writes).reversed())
    }

    private var lanes: [Lane]
    private var transactionNext: UInt64 = 1

    package init(lanes: Int) {
        precondition((1...Limits.lanesMax).contains(lanes))
        self.lanes = Array(repeating: Lane(), count: lanes)
    }

    package var laneCount: Int { lanes.count }

    /// The lane of the block at this offset of any window.
    package func lane(offset: UInt64) -> Int {
        Int(offset / UInt64(Limits.sealedBlockBytes) / Self.stripeBlocks % UInt64(lanes.count))
    }

    // MARK: Asking

    /// Asks for a stretch of whole sealed blocks, in parts of one stripe each. Gives their transactions.
    package mutating func read(window: UInt16, offset: UInt64, length: UInt64, target: UInt) -> [UInt64] {
        let stripe = Self.stripeBlocks * UInt64(Limits.sealedBlockBytes)
        var transactions: [UInt64] = []
        var start = offset
        while start < offset + length {
            let end = min(offset + length, (start / stripe + 1) * stripe)
            lanes[lane(offset: start)].reads.append(
                Read(
                    window: window, offset: start, end: end, transaction: transactionNext,
                    target: target + UInt(start - offset)))
            transactions.append(transactionNext)
            transactionNext += 1
            start = end
        }
        return transactions
    }

    /// Takes a place in a lane's ring; nil while there is none. `write` follows when the block lies there.
    package mutating func takeSlot(_ lane: Int) -> Int? { lanes[lane].freeSlots.popLast() }

    package mutating func write(window: UInt16, offset: UInt64, length: UInt64, slot: Int) {
        let header = LaneHeader(
            .memoryWrite, window: window, offset: offset, length: length, transaction: transactionNext)
        transactionNext += 1
        lanes[lane(offset: offset)].writes.append(Write(header: header, slot: slot))
    }

    package func isDone(_ transaction: UInt64) -> Bool {
        !lanes.contains { $0.reads.contains { $0.transaction == transaction } }
    }

    /// The lane over which a read that is not done will come.
    package func lane(awaiting transaction: UInt64) -> Int? {
        lanes.firstIndex { $0.reads.contains { $0.transaction == transaction } }
    }

    /// Whether something is on its way, or to be sent, over a lane.
    package func isAwaiting(_ index: Int) -> Bool {
        !lanes[index].reads.isEmpty || lanes[index].freeSlots.count < LaneCredit.writes
    }

    /// Whether everything written is stored.
    package var isFlushed: Bool { lanes.allSatisfy { $0.freeSlots.count == LaneCredit.writes } }

    // MARK: Sending

    /// What this lane may send now; it counts as sent.
    package mutating func next(_ index: Int) -> Command? {
        guard lanes[index].isUp else { return nil }
        let read = lanes[index].readsSent < lanes[index].reads.count ? lanes[index].reads[lanes[index].readsSent] : nil
        // The ring has as many places as there are credits for writes.
        let write =
            lanes[index].writesSent < lanes[index].writes.count ? lanes[index].writes[lanes[index].writesSent] : nil
        if let read, write.map({ read.transaction < $0.header.transaction }) ?? true,
            read.blocks <= lanes[index].credits
        {
            lanes[index].credits -= read.blocks
            lanes[index].readsSent += 1
            return .read(
                LaneHeader(
                    .memoryRead, window: read.window, offset: read.offset, length: read.end - read.offset,
                    transaction: read.transaction))
        }
        guard let write else { return nil }
        lanes[index].writesSent += 1
        return .write(write.header, slot: write.slot)
    }

    // MARK: What comes

    /// A lane is there, or there again: what was on its way is asked again under its old transactions, but for writes
    /// that are stored.
    package mutating func opened(_ index: Int, _ header: LaneHeader) throws(FrameError) {
        guard header.operation == .credit, header.length >= UInt64(LaneHeader.readBlocksMax) else {
            throw FrameError(.range, at: 32, "a lane did not begin with enough credits")
        }
        lanes[index].isUp = true
        lanes[index].credits = Int(header.length)
        lanes[index].readsSent = 0
        lanes[index].writesSent = 0
        lanes[index].stored(header.transaction)
    }

    package mutating func broke(_ index: Int) { lanes[index].isUp = false }

    /// Where the block of a completion goes. `completed` follows when it lies there.
    package func target(_ index: Int, _ header: LaneHeader) throws(FrameError) -> UInt {
        // A gateway answers in order.
        guard lanes[index].readsSent > 0, let read = lanes[index].reads.first, read.transaction == header.transaction,
            read.window == header.window, read.offset == header.offset,
            header.length == min(UInt64(Limits.sealedBlockBytes), read.end - read.offset)
        else { throw FrameError(.order, at: 40, "a completion that nobody asked for") }
        return read.target
    }

    /// Whether that was its read's last block.
    package mutating func completed(_ index: Int, _ header: LaneHeader) -> Bool {
        lanes[index].credits += 1
        lanes[index].reads[0].offset += header.length
        lanes[index].reads[0].target += UInt(header.length)
        guard lanes[index].reads[0].offset == lanes[index].reads[0].end else { return false }
        lanes[index].reads.removeFirst()
        lanes[index].readsSent -= 1
        return true
    }

    package mutating func credited(_ index: Int, _ header: LaneHeader) throws(FrameError) {
        // A probe: it says that somebody is there.
        if header.transaction == 0, header.length == 0 { return }
        let sent = lanes[index].writes[..<lanes[index].writesSent]
        guard header.length == 0, sent.contains(where: { $0.header.transaction == header.transaction }) else {
            throw FrameError(.order, at: 40, "a credit for a write that is not on its way")
        }
        lanes[index].stored(header.transaction)
    }
}

extension LaneRequester.Lane {
    /// Gives back the places of all writes up to a transaction.
    fileprivate mutating func stored(_ transaction: UInt64) {
        let count = writes.prefix { $0.header.transaction <= transaction }.count
        for write in writes[..<count] { freeSlots.append(write.slot) }
        writes.removeFirst(count)
        writesSent = max(0, writesSent - count)
    }
}

/// The gateway's end of one lane over all its connections, as a value: stores each write once.
package struct LaneResponder: Sendable {
    package enum Action: Equatable, Sendable {
        case answer
        case store
        /// Stored before the lane was cut; only its credit was lost.
        case storedBefore
    }

    /// The transaction of the last write that was stored.
    package private(set) var stored: UInt64 = 0

    package init() {}

    package func action(_ header: LaneHeader) throws(FrameError) -> Action {
        switch header.operation {
        case .memoryRead: return .answer
        case .memoryWrite: return header.transaction > stored ? .store : .storedBefore
        case .completion, .credit: throw FrameError(.operation, at: 1, "the node sent what only a gateway sends")
        }
    }

    package mutating func stored(_ header: LaneHeader) { stored = max(stored, header.transaction) }

    /// What a connection of this lane begins with.
    package var opening: LaneHeader {
        LaneHeader(.credit, length: UInt64(LaneCredit.reads), transaction: stored)
    }

    /// What tells the node that it may forget its writes up to here.
    package var credit: LaneHeader { LaneHeader(.credit, transaction: stored) }
}

/// The windows that are open to the device, as the gateway holds them. Default deny: what is not in it, or not any more,
/// is refused.
package struct WindowBook: Sendable {
    private struct Entry: Sendable {
        let window: Window
        let closesAt: UInt64
    }

    private var entries: [UInt16: Entry] = [:]

    package init() {}

    package enum Clash: Error, Equatable, Sendable { case mapped(UInt16), tooMany }

    package mutating func map(_ windows: [Window], now: UInt64) throws(Clash) {
        var changed = entries
        for window in windows {
            let lifetime = UInt64(window.lifetimeMilliseconds) * 1_000_000
            let entry = Entry(window: window, closesAt: lifetime == 0 ? .max : now + lifetime)
            guard changed.updateValue(entry, forKey: window.id) == nil else { throw .mapped(window.id) }
        }
        guard changed.count <= Limits.windowsMax else { throw .tooMany }
        entries = changed
    }

    package mutating func unmap(_ ids: [UInt16]) { for id in ids { entries[id] = nil } }

    package mutating func removeAll() { entries = [:] }

    package func allows(_ header: LaneHeader, now: UInt64) -> Bool {
        guard let entry = entries[header.window] else { return false }
        let direction = entry.window.direction
        return (header.operation == .memoryWrite ? direction.allowsWrites : direction.allowsReads)
            && entry.window.holdsBlocks(offset: header.offset, length: header.length) && now < entry.closesAt
    }
}
