internal import FabricProtocol
internal import FabricTransport
internal import Synchronization
internal import Vocabulary

/// The gateway's windows as the device reaches them, over the lanes of one lease. What was asked for stays asked for
/// when a lane is cut, and is answered by the lane's next connection.
///
/// Each lane has a thread that receives. Whoever asks sends, with whatever else is queued by then: nobody waits for a
/// timer, and one system call carries many records where many threads ask. Whoever waits for a single read while nothing
/// else is on the lane's way receives it for itself, in the place of the lane's thread, which rests then: no other thread
/// has to be woken between the request and its answer.
final class LaneWindows: WindowMemory {
    private struct Slot {
        var connection: Lane?
        var serial: UInt32 = 0
        /// A thread that receives from, or sends to, this lane's connection: until it is gone, no other connection takes
        /// the lane, for it may still write into memory that was lent.
        var isReceiving = false
        var isSending = false
        /// Another connection waits for these two.
        var isAwaited = false
        /// The lane's thread rests: whoever waits for a read may receive.
        var isVacant = false
        /// Somebody does, in its place.
        var leads = false
        /// Somebody did since the lane's thread looked last.
        var wasLed = false
        /// What whoever received in its place met: for the lane's thread to tell.
        var failure: TransportError?
    }

    private struct State {
        var requester: LaneRequester
        var slots: [Slot]
        var isClosed = false
    }

    private let state: Monitor<State>
    /// Calls a lane's thread from its rest.
    private let called: [Monitor<Bool>]
    /// For so long a lane's thread rests for those who receive for themselves; then it looks after the lane again.
    private static let restMilliseconds = 20
    /// Sealed blocks on their way, of each lane as many as it has credits for writes.
    private let ring: Ring

    init(lanes: Int) {
        state = Monitor(
            State(requester: LaneRequester(lanes: lanes), slots: Array(repeating: Slot(), count: lanes)))
        called = (0..<lanes).map { _ in Monitor(false) }
        ring = Ring(blocks: lanes * LaneCredit.writes)
    }

    // MARK: What programs ask for

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
        let target = UInt(bitPattern: buffer.baseAddress!)
        let length = UInt64(buffer.count)
        let transactions = try state.quietly { state throws(ExecutorError) in
            guard !state.isClosed else { throw closed }
            return state.requester.read(window: window, offset: first * UInt64(block), length: length, target: target)
        }
        let lanes = Set(
            transactions.indices.map { index in
                laneIndex(first / LaneRequester.stripeBlocks + UInt64(index))
            })
        for lane in lanes {
            pump(lane)
            // What comes over several lanes comes over all of them at once.
            if transactions.count > 1 { call(lane) }
        }
        return PendingRead(transactions: transactions)
    }

    /// The lane of a stripe; fixed for the lease.
    private func laneIndex(_ stripe: UInt64) -> Int { Int(stripe % UInt64(ring.blocks / LaneCredit.writes)) }

    func finish(_ read: PendingRead) throws {
        if read.transactions.count == 1, receive(read.transactions[0]) { return }
        let isComplete: Bool? = state.wait { state in
            if read.transactions.allSatisfy({ state.requester.isDone($0) }) { return true }
            // A thread that receives may still be writing into this memory.
            return state.isClosed && !state.slots.contains { $0.isReceiving } ? false : nil
        }
        guard isComplete == true else { throw closed }
    }

    /// Receives a read's blocks on this thread, where the lane's own one rests. Gives whether the read is done.
    private func receive(_ transaction: UInt64) -> Bool {
        let found: (lane: Int, connection: Lane)? = state.quietly { state in
            guard !state.isClosed, let lane = state.requester.lane(awaiting: transaction), state.slots[lane].isVacant,
                !state.slots[lane].leads, state.slots[lane].failure == nil,
                let connection = state.slots[lane].connection
            else { return nil }
            state.slots[lane].leads = true
            state.slots[lane].wasLed = true
            return (lane, connection)
        }
        guard let (lane, connection) = found else { return state.quietly { $0.requester.isDone(transaction) } }
        var failure: TransportError?
        withUnsafeTemporaryAllocation(byteCount: LaneRecord.prefixBytes, alignment: 64) { prefix in
            do throws(TransportError) {
                while state.quietly({ !$0.isClosed && !$0.requester.isDone(transaction) }) {
                    try take(try connection.receive(prefix: prefix), prefix, lane, connection, for: transaction)
                }
            } catch {
                failure = error
            }
        }
        let (isDone, isWanted) = state.quietly { state in
            state.slots[lane].leads = false
            state.slots[lane].failure = failure
            return (
                state.requester.isDone(transaction),
                failure != nil || state.isClosed || state.slots[lane].isAwaited || state.requester.isAwaiting(lane)
            )
        }
        if isWanted { call(lane) }
        return isDone
    }

    /// Brings a lane's thread back from its rest; it waits for whoever receives in its place.
    private func call(_ lane: Int) { called[lane].withLock { $0 = true } }

    /// Lets those who wait for a single read receive it, while there is nothing that nobody waits for. Comes back when
    /// the lane's thread is called, or nobody received for a while.
    private func rest(_ lane: Int) throws(TransportError) {
        guard state.quietly({ !$0.requester.isAwaiting(lane) }) else { return }
        // Whoever called before this had something on its way, which the next look finds.
        called[lane].quietly { $0 = false }
        let rests = state.quietly { state in
            guard !state.isClosed, !state.slots[lane].isAwaited, !state.requester.isAwaiting(lane) else { return false }
            state.slots[lane].isVacant = true
            state.slots[lane].wasLed = true
            return true
        }
        guard rests else { return }
        while true {
            let isCalled: Bool? = called[lane].wait(milliseconds: Self.restMilliseconds) { called in
                guard called else { return nil }
                called = false
                return true
            }
            let (isOver, failure) = state.quietly { state -> (Bool, TransportError?) in
                // Its end calls again, if there is anything left to do.
                if state.slots[lane].leads { return (false, nil) }
                guard isCalled == true || state.isClosed || !state.slots[lane].wasLed else {
                    state.slots[lane].wasLed = false
                    return (false, nil)
                }
                state.slots[lane].isVacant = false
                return (true, state.slots[lane].failure.take())
            }
            if let failure { throw failure }
            if isOver { return }
        }
    }

    func writeBlock(window: UInt16, index: UInt64, _ bytes: UnsafeRawBufferPointer) throws {
        let block = Limits.sealedBlockBytes
        guard bytes.count > Limits.tagBytes, bytes.count <= block, index < Window.byteCountMax / UInt64(block) else {
            throw ExecutorError(.window, "a write is not one block")
        }
        let lane = laneIndex(index / LaneRequester.stripeBlocks)
        let slot = try state.wait { state throws(ExecutorError) -> Int? in
            guard !state.isClosed else { throw closed }
            return state.requester.takeSlot(lane)
        }!
        ring.put(bytes, at: lane * LaneCredit.writes + slot)
        let length = UInt64(bytes.count)
        let isVacant = state.quietly { state in
            state.requester.write(window: window, offset: index * UInt64(block), length: length, slot: slot)
            return state.slots[lane].isVacant
        }
        pump(lane)
        // Nobody waits for one write: its credit is the lane's thread's.
        if isVacant { call(lane) }
    }

    /// Waits until the gateway has stored every write.
    func flush() throws {
        _ = try state.wait { state throws(ExecutorError) -> Bool? in
            if state.requester.isFlushed { return true }
            guard !state.isClosed else { throw closed }
            return nil
        }
    }

    // MARK: Lanes

    /// Takes a connection of a lane and serves it until it ends or another one takes its place. Blocks; called by the
    /// connection's own thread. Throws where the other end sent what no gateway sends.
    func serve(_ connection: Lane, lane: Int, serial: UInt32) throws(TransportError) {
        let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: LaneRecord.prefixBytes, alignment: 64)
        defer { prefix.deallocate() }
        defer { connection.close() }
        // Only a genuine record takes the lane from the connection it had: an opening alone could be a repeated one.
        let opening = try connection.receive(prefix: prefix, milliseconds: NodeAgent.openingMilliseconds)
        guard take(connection, lane, serial) else { return }
        defer {
            state.withLock { state in
                state.slots[lane].isReceiving = false
                state.slots[lane].isVacant = false
                state.slots[lane].failure = nil
                state.slots[lane].connection = nil
                state.requester.broke(lane)
            }
        }
        try connection.send(LaneHeader(.credit))
        try change(lane) { (requester) throws(FrameError) in try requester.opened(lane, opening) }
        state.wake()
        pump(lane)
        while true {
            try rest(lane)
            try take(try connection.receive(prefix: prefix), prefix, lane, connection, for: nil)
        }
    }

    /// - Parameter own: the read for which this thread waits; nobody else is woken for it.
    private func take(
        _ header: LaneHeader, _ prefix: UnsafeMutableRawBufferPointer, _ lane: Int, _ connection: Lane, for own: UInt64?
    ) throws(TransportError) {
        switch header.operation {
        case .completion: try complete(header, prefix, lane, connection, for: own)
        case .credit:
            try change(lane) { (requester) throws(FrameError) in try requester.credited(lane, header) }
            state.wake()
        case .memoryRead, .memoryWrite:
            throw TransportError(.protocolViolation, "the gateway sent what only a node sends")
        }
        // A credit may let go what waited for it.
        pump(lane)
    }

    private func take(_ connection: Lane, _ lane: Int, _ serial: UInt32) -> Bool {
        let before: Lane?? = state.withLock { state in
            guard !state.isClosed, state.slots[lane].serial < serial else { return nil }
            state.slots[lane].serial = serial
            return .some(state.slots[lane].connection)
        }
        guard let before else { return false }
        before?.close()
        call(lane)
        return state.wait { state -> Bool? in
            if state.isClosed || state.slots[lane].serial != serial { return false }
            state.slots[lane].isAwaited = state.slots[lane].isReceiving || state.slots[lane].isSending
            guard !state.slots[lane].isAwaited else { return nil }
            state.slots[lane].connection = connection
            state.slots[lane].isReceiving = true
            return true
        } ?? false
    }

    /// Ends the lanes' connections; others may take their place.
    func cut() {
        let connections = state.withLock { $0.slots.compactMap(\.connection) }
        for connection in connections { connection.close() }
        for lane in called.indices { call(lane) }
    }

    /// Ends the lanes for good; whoever waits for them gets an error.
    func close() {
        state.withLock { $0.isClosed = true }
        cut()
    }

    private func change(
        _ lane: Int, _ body: (inout LaneRequester) throws(FrameError) -> Void
    ) throws(TransportError) {
        do throws(FrameError) {
            try state.quietly { state throws(FrameError) in try body(&state.requester) }
        } catch {
            throw TransportError(.protocolViolation, "a lane record was refused: \(error)")
        }
    }

    /// Sends what is queued for a lane, unless somebody does already.
    private func pump(_ lane: Int) {
        var isFirst = true
        while true {
            let (work, isAwaited) = state.quietly { state -> ((Lane, [LaneRequester.Command])?, Bool) in
                if isFirst, state.slots[lane].isSending { return (nil, false) }
                var commands: [LaneRequester.Command] = []
                if let connection = state.slots[lane].connection, !state.isClosed {
                    while commands.count < Lane.batchMax, let command = state.requester.next(lane) {
                        commands.append(command)
                    }
                    state.slots[lane].isSending = !commands.isEmpty
                    if !commands.isEmpty { return ((connection, commands), false) }
                }
                state.slots[lane].isSending = false
                return (nil, state.slots[lane].isAwaited)
            }
            guard let (connection, commands) = work else {
                if isAwaited { state.wake() }
                return
            }
            isFirst = false
            let records = commands.map { command in
                switch command {
                case .read(let header): Lane.Record(header)
                case .write(let header, let slot):
                    Lane.Record(header, block: ring[lane * LaneCredit.writes + slot, count: Int(header.length)])
                }
            }
            do {
                try connection.send(records)
            } catch {
                // The receiver sees the same broken connection; the next one is asked again.
                connection.close()
            }
        }
    }

    private func complete(
        _ header: LaneHeader, _ prefix: UnsafeMutableRawBufferPointer, _ lane: Int, _ connection: Lane, for own: UInt64?
    ) throws(TransportError) {
        var target: UInt = 0
        try change(lane) { (requester) throws(FrameError) in target = try requester.target(lane, header) }
        try connection.receiveBlock(
            prefix: prefix,
            into: UnsafeMutableRawBufferPointer(
                start: UnsafeMutableRawPointer(bitPattern: target), count: Int(header.length)))
        if state.quietly({ $0.requester.completed(lane, header) }), header.transaction != own { state.wake() }
    }

    private var closed: ExecutorError { ExecutorError(.window, "the lane has ended") }
}

/// Room for sealed blocks, made once. Which of them is whose is the requester's to say.
// A place is written by the thread that took it and read by the one that sends; the requester's lock is between.
private final class Ring: @unchecked Sendable {
    private let bytes: UnsafeMutableRawBufferPointer
    let blocks: Int

    init(blocks: Int) {
        self.blocks = blocks
        bytes = .allocate(byteCount: blocks * Limits.sealedBlockBytes, alignment: 4096)
    }

    deinit { bytes.deallocate() }

    func put(_ block: UnsafeRawBufferPointer, at index: Int) {
        UnsafeMutableRawBufferPointer(rebasing: bytes[(index * Limits.sealedBlockBytes)...]).copyMemory(from: block)
    }

    subscript(index: Int, count count: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            rebasing: bytes[index * Limits.sealedBlockBytes..<index * Limits.sealedBlockBytes + count])
    }
}
