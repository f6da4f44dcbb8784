internal import FabricProtocol
internal import FabricTransport
internal import Vocabulary

/// The gateway's windows as the device reaches them: reads and writes travel as records of the lease's lane, many at a
/// time, bounded by credits.
final class LaneWindows: WindowMemory {
    private struct Read {
        let window: UInt16
        // Where the next block goes, and where the whole read ends. The reader waits until this is taken from the
        // table, so the memory is there.
        var target: UnsafeMutableRawPointer
        var offset: UInt64
        let end: UInt64
    }

    private struct State {
        var lane: Lane?
        var isClosed = false
        var readCredits = 0
        var writeCredits = LaneCredit.writes
        var nextTransaction: UInt64 = 1
        var reads: [UInt64: Read] = [:]
    }

    private let state = Monitor(State())

    func readBlocks(window: UInt16, first: UInt64, count: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        try finish(try beginRead(window: window, first: first, count: count, into: buffer))
    }

    func beginRead(
        window: UInt16, first: UInt64, count: Int, into buffer: UnsafeMutableRawBufferPointer
    ) throws -> PendingRead {
        let block = Limits.sealedBlockBytes
        guard count > 0, buffer.count > (count - 1) * block + Limits.tagBytes, buffer.count <= count * block,
            first < Window.byteCountMax / UInt64(block)
        else { throw ExecutorError(.window, "a read is not made of whole blocks") }
        var asked: [UInt64] = []
        var start = 0
        while start < buffer.count {
            let length = min(buffer.count - start, LaneHeader.readBlocksMax * block)
            do {
                asked.append(
                    try ask(
                        window: window, offset: first * UInt64(block) + UInt64(start),
                        into: UnsafeMutableRawBufferPointer(rebasing: buffer[start..<start + length])))
            } catch {
                // The receiver may still be writing into this memory.
                try? finish(PendingRead(transactions: asked))
                throw error
            }
            start += length
        }
        return PendingRead(transactions: asked)
    }

    func finish(_ read: PendingRead) throws {
        let isComplete: Bool? = state.wait { state in
            if read.transactions.allSatisfy({ state.reads[$0] == nil }) { return !state.isClosed }
            return nil
        }
        guard isComplete == true else { throw closed }
    }

    func writeBlock(window: UInt16, index: UInt64, _ bytes: UnsafeRawBufferPointer) throws {
        let block = Limits.sealedBlockBytes
        guard bytes.count > Limits.tagBytes, bytes.count <= block, index < Window.byteCountMax / UInt64(block) else {
            throw ExecutorError(.window, "a write is not one block")
        }
        let (lane, transaction) = try state.wait { state throws(ExecutorError) -> (Lane, UInt64)? in
            guard let lane = state.lane, !state.isClosed else { throw closed }
            guard state.writeCredits > 0 else { return nil }
            state.writeCredits -= 1
            defer { state.nextTransaction += 1 }
            return (lane, state.nextTransaction)
        }!
        try lane.send(
            [
                LaneHeader(
                    .memoryWrite, window: window, offset: index * UInt64(block), length: UInt64(bytes.count),
                    transaction: transaction)
            ], blocks: bytes)
    }

    /// Waits until the gateway has stored every write.
    func flush() throws {
        _ = try state.wait { state throws(ExecutorError) -> Bool? in
            if state.writeCredits == LaneCredit.writes { return true }
            guard !state.isClosed else { throw closed }
            return nil
        }
    }

    /// Takes the lane and serves it until it ends. Blocks; called by the lane's own thread.
    func serve(_ lane: Lane) {
        let isFirst = state.withLock { state in
            guard state.lane == nil, !state.isClosed else { return false }
            state.lane = lane
            return true
        }
        guard isFirst else { return lane.close() }
        do {
            try receive(from: lane)
        } catch {
            lane.close()
        }
        state.withLock {
            $0.isClosed = true
            $0.reads = [:]
        }
    }

    /// Ends the lane; whoever waits for it gets an error. The lane's own thread does the rest.
    func close() {
        let lane = state.withLock { state in
            // Without a lane there is no thread that could be writing into someone's memory.
            if state.lane == nil { state.isClosed = true }
            return state.lane
        }
        lane?.close()
    }

    private func ask(
        window: UInt16, offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws -> UInt64 {
        let blocks = (buffer.count + Limits.sealedBlockBytes - 1) / Limits.sealedBlockBytes
        let read = Read(
            window: window, target: buffer.baseAddress!, offset: offset, end: offset + UInt64(buffer.count))
        nonisolated(unsafe) let lent = read
        let (lane, transaction) = try state.wait { state throws(ExecutorError) -> (Lane, UInt64)? in
            guard let lane = state.lane, !state.isClosed else { throw closed }
            guard state.readCredits >= blocks else { return nil }
            state.readCredits -= blocks
            let transaction = state.nextTransaction
            state.nextTransaction += 1
            state.reads[transaction] = lent
            return (lane, transaction)
        }!
        do {
            try lane.send(
                LaneHeader(
                    .memoryRead, window: window, offset: offset, length: UInt64(buffer.count),
                    transaction: transaction))
        } catch {
            // The receiver sees the same broken connection and gives up all reads.
            lane.close()
        }
        return transaction
    }

    private func receive(from lane: Lane) throws {
        let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: LaneRecord.prefixBytes, alignment: 64)
        defer { prefix.deallocate() }
        let opening = try lane.receive(prefix: prefix)
        guard opening.operation == .credit, opening.length >= UInt64(LaneHeader.readBlocksMax) else {
            throw TransportError(.protocolViolation, "a lane did not begin with enough credits")
        }
        state.withLock { $0.readCredits = Int(opening.length) }
        try lane.send(LaneHeader(.credit, length: 0))
        while true {
            let header = try lane.receive(prefix: prefix)
            switch header.operation {
            case .completion: try complete(header, prefix: prefix, lane: lane)
            case .credit:
                let isSane = state.withLock { state in
                    state.writeCredits += Int(header.length)
                    return state.writeCredits <= LaneCredit.writes
                }
                guard isSane else { throw TransportError(.protocolViolation, "more credits than writes") }
            case .memoryRead, .memoryWrite:
                throw TransportError(.protocolViolation, "the gateway sent what only a node sends")
            }
        }
    }

    private func complete(_ header: LaneHeader, prefix: UnsafeMutableRawBufferPointer, lane: Lane) throws {
        nonisolated(unsafe) let read = state.withLock { state in
            nonisolated(unsafe) let read = state.reads[header.transaction]
            return read
        }
        guard let read, read.window == header.window, read.offset == header.offset,
            header.length == min(UInt64(Limits.sealedBlockBytes), read.end - read.offset)
        else { throw TransportError(.protocolViolation, "a completion that nobody asked for") }
        try lane.receiveBlock(
            prefix: prefix, into: UnsafeMutableRawBufferPointer(start: read.target, count: Int(header.length)))
        state.withLock { state in
            state.readCredits += 1
            if read.offset + header.length == read.end {
                state.reads[header.transaction] = nil
            } else {
                state.reads[header.transaction]!.offset += header.length
                state.reads[header.transaction]!.target += Int(header.length)
            }
        }
    }

    private var closed: ExecutorError { ExecutorError(.window, "the lane has ended") }
}
