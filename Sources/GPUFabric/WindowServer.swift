package import FabricProtocol
internal import FabricTransport
internal import Sealing
internal import Synchronization
internal import Vocabulary

/// Where a window's sealed bytes are. The gateway never opens them on their way.
package protocol WindowStore: Sendable {
    var byteCount: Int { get }
    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws
    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws
    /// The bytes themselves, where they lie in memory and never change: they go out without a copy. `nil` where they
    /// have to be read.
    func lent(offset: Int, count: Int) throws -> LentBytes?
}

extension WindowStore {
    package func lent(offset: Int, count: Int) throws -> LentBytes? { nil }
}

/// Memory that stays where it is and as it is, for as long as this is kept.
package struct LentBytes {
    package let bytes: UnsafeRawBufferPointer
    private let owner: AnyObject

    package init(_ bytes: UnsafeRawBufferPointer, of owner: AnyObject) {
        self.bytes = bytes
        self.owner = owner
    }
}

/// A window together with the bytes behind it.
package struct MappedWindow: Sendable {
    package let window: Window
    package let store: any WindowStore

    package init(_ window: Window, store: any WindowStore) {
        self.window = window
        self.store = store
    }
}

/// An access that was refused: its own record in the trail.
package struct WindowRefusal: Equatable, Sendable {
    package let window: UInt16
    package let offset: UInt64
    package let length: UInt64
    package let isWrite: Bool
}

/// What crossed the fabric in one attachment, in sealed bytes of blocks.
package struct FabricCounters: Equatable, Sendable {
    package var bytesToDevice: UInt64 = 0
    package var bytesFromDevice: UInt64 = 0
    package var reads: UInt64 = 0
    package var writes: UInt64 = 0
    package var doorbells: UInt64 = 0
    /// Renewals of the lease that the node has accepted.
    package var renewals: UInt64 = 0
    package var refusals: UInt64 = 0
    /// Control connections and lanes that took the place of one before.
    package var relinks: UInt64 = 0
    package var lanesReopened: UInt64 = 0

    package init() {}
}

/// Serves the device's reads and writes of mapped windows, on one thread for each lane. Default deny.
final class WindowServer: Sendable {
    /// Which connection a lane is to have.
    struct Order: Sendable {
        let serial: UInt32
        let connection: ControlConnection
        let transcript: Digest
    }

    enum LaneEvent: Sendable {
        case up
        /// Cut, by whoever: what was on its way is asked for again.
        case broke
        /// The node, or a store, did what must not be.
        case failed(FabricError)
    }

    private struct State {
        var book = WindowBook()
        var stores: [UInt16: any WindowStore] = [:]
        var orders: [Order?]
        var current: [Lane?]
        /// Those that have begun: the first record of a connection has a meaning of its own.
        var begun: [Lane?]
        var isEnded = false
    }

    private let node: FabricNode
    private let fence: Fence
    private let timing: LeaseTiming
    private let state: Monitor<State>
    private let counted = Mutex(FabricCounters())
    private let clock = BootClock()
    private let refused: @Sendable (WindowRefusal) -> Void
    private let happened: @Sendable (_ lane: Int, _ serial: UInt32, LaneEvent) -> Void

    /// Starts the lanes' threads, which wait for `open`.
    init(
        _ node: FabricNode, fence: Fence, timing: LeaseTiming, refused: @escaping @Sendable (WindowRefusal) -> Void,
        happened: @escaping @Sendable (_ lane: Int, _ serial: UInt32, LaneEvent) -> Void
    ) {
        self.node = node
        self.fence = fence
        self.timing = timing
        self.refused = refused
        self.happened = happened
        state = Monitor(
            State(
                orders: Array(repeating: nil, count: timing.lanes),
                current: Array(repeating: nil, count: timing.lanes),
                begun: Array(repeating: nil, count: timing.lanes)))
        for lane in 0..<timing.lanes { startThread { [self] in serve(lane) } }
    }

    var counters: FabricCounters { counted.withLock { $0 } }

    func count(_ change: (inout FabricCounters) -> Void) { counted.withLock { change(&$0) } }

    func map(_ mapped: [MappedWindow]) throws(FabricError) {
        for entry in mapped where entry.store.byteCount < Int(entry.window.byteCount) {
            throw FabricError(.store, "a window is larger than its store", index: Int(entry.window.id))
        }
        do {
            try state.withLock { state throws(WindowBook.Clash) in
                try state.book.map(mapped.map(\.window), now: clock.nanoseconds())
                for entry in mapped { state.stores[entry.window.id] = entry.store }
            }
        } catch {
            switch error {
            case .mapped(let id): throw FabricError(.store, "a window is mapped already", index: Int(id))
            case .tooMany: throw FabricError(.store, "too many windows")
            }
        }
    }

    func unmap(_ ids: [UInt16]) {
        state.withLock { state in
            state.book.unmap(ids)
            for id in ids { state.stores[id] = nil }
        }
    }

    // MARK: Lanes

    /// Gives a lane another connection; the one it has ends.
    func open(_ lane: Int, _ order: Order) {
        let before = state.withLock { state in
            state.orders[lane] = order
            return state.current[lane]
        }
        before?.close()
    }

    /// Ends all connections, until `open`.
    func cut() {
        let lanes = state.withLock { state in
            for lane in state.orders.indices { state.orders[lane] = nil }
            return state.current.compactMap { $0 }
        }
        for lane in lanes { lane.close() }
    }

    func probe() { for lane in state.quietly({ $0.begun.compactMap { $0 } }) { lane.probe() } }

    /// Closes all windows and lanes, for good.
    func close() {
        state.withLock { state in
            state.isEnded = true
            state.book.removeAll()
            state.stores = [:]
        }
        cut()
    }

    private func serve(_ lane: Int) {
        let buffers = Buffers()
        var responder = LaneResponder()
        while let order = state.wait({ state -> Order?? in
            if state.isEnded { return .some(nil) }
            defer { state.orders[lane] = nil }
            return state.orders[lane].map { .some($0) }
        })! {
            do throws(FabricError) {
                try serve(lane, order, &responder, buffers)
            } catch {
                switch error.code {
                case .lost, .timeout, .unreachable: happened(lane, order.serial, .broke)
                default: happened(lane, order.serial, .failed(error))
                }
            }
        }
    }

    private func serve(
        _ index: Int, _ order: Order, _ responder: inout LaneResponder, _ buffers: Buffers
    ) throws(FabricError) {
        let lane = try overTransport { () throws(TransportError) in try connect(index, order) }
        defer {
            lane.close()
            state.withLock { state in
                state.current[index] = nil
                state.begun[index] = nil
            }
        }
        let isWanted = state.withLock { state in
            state.current[index] = lane
            // Another order may have come meanwhile, or the end.
            return !state.isEnded && state.orders[index] == nil
        }
        guard isWanted else { return }
        try overTransport { () throws(TransportError) in
            try lane.send(responder.opening)
            state.quietly { $0.begun[index] = lane }
            let answer = try lane.receive(prefix: buffers.prefix, milliseconds: timing.requestSeconds * 1000)
            guard answer.operation == .credit else {
                throw TransportError(.protocolViolation, "a lane did not begin with a credit")
            }
        }
        happened(index, order.serial, .up)
        if order.serial > 1 { count { $0.lanesReopened += 1 } }
        var carried: UInt64 = 0
        // Fresh keys long before the old ones have seen too much: the next connection goes on where this one ends.
        while carried < timing.laneBytesMax {
            let header = try overTransport { () throws(TransportError) in try lane.receive(prefix: buffers.prefix) }
            let action: LaneResponder.Action
            do throws(FrameError) { action = try responder.action(header) } catch {
                throw FabricError(.protocolViolation, "the node sent what only a gateway sends")
            }
            let store = try allowed(header)
            switch action {
            case .answer: try answer(header, store, lane, buffers)
            case .store, .storedBefore:
                try take(header, action == .store ? store : nil, lane, buffers)
                responder.stored(header)
                try overTransport { () throws(TransportError) in try lane.send(responder.credit) }
            }
            carried += header.length
        }
        throw FabricError(.lost, "the lane's keys are used up")
    }

    private func connect(_ index: Int, _ order: Order) throws(TransportError) -> Lane {
        let socket = try Socket.connect(node.address, milliseconds: timing.requestSeconds * 1000)
        let token = order.connection.export(
            label: LaneRecord.tokenLabel,
            context: LaneRecord.tokenContext(
                transcript: order.transcript, lane: UInt16(index), serial: order.serial))
        try socket.writeAll(
            Lane.Opening(lane: UInt16(index), serial: order.serial, token: token.withBytes { Array($0) }).bytes)
        return Lane(
            socket, index: UInt16(index), serial: order.serial, outgoing: .toNode, control: order.connection,
            transcript: order.transcript, fence: fence, unheardMilliseconds: Int(timing.ttlMilliseconds))
    }

    private func answer(
        _ header: LaneHeader, _ store: any WindowStore, _ lane: Lane, _ buffers: Buffers
    ) throws(FabricError) {
        var offset = header.offset
        let end = header.offset + header.length
        let block = UInt64(Limits.sealedBlockBytes)
        while offset < end {
            let length = min(end - offset, UInt64(buffers.staging.count))
            let lent: LentBytes?
            do {
                lent = try store.lent(offset: Int(offset), count: Int(length))
                if lent == nil {
                    try store.read(
                        offset: Int(offset),
                        into: UnsafeMutableRawBufferPointer(rebasing: buffers.staging[..<Int(length)]))
                }
            } catch {
                throw FabricError(.store, "a window's store could not be read", index: Int(header.window))
            }
            let bytes = lent?.bytes ?? UnsafeRawBufferPointer(rebasing: buffers.staging[..<Int(length)])
            precondition(bytes.count == Int(length), "a store lends what it is asked for")
            let records = stride(from: offset, to: offset + length, by: Int(block)).map { start in
                let size = min(block, offset + length - start)
                return Lane.Record(
                    LaneHeader(
                        .completion, window: header.window, offset: start, length: size,
                        transaction: header.transaction),
                    block: UnsafeRawBufferPointer(rebasing: bytes[Int(start - offset)..<Int(start - offset + size)]))
            }
            try withExtendedLifetime(lent) { () throws(FabricError) in
                try overTransport { () throws(TransportError) in try lane.send(records) }
            }
            offset += length
        }
        counted.withLock {
            $0.reads += 1
            $0.bytesToDevice += header.length
        }
    }

    /// - Parameter store: nil for a write that was stored before.
    private func take(
        _ header: LaneHeader, _ store: (any WindowStore)?, _ lane: Lane, _ buffers: Buffers
    ) throws(FabricError) {
        let bytes = UnsafeMutableRawBufferPointer(rebasing: buffers.staging[..<Int(header.length)])
        try overTransport { () throws(TransportError) in try lane.receiveBlock(prefix: buffers.prefix, into: bytes) }
        guard let store else { return }
        do {
            try store.write(offset: Int(header.offset), from: UnsafeRawBufferPointer(bytes))
        } catch {
            throw FabricError(.store, "a window's store could not be written", index: Int(header.window))
        }
        counted.withLock {
            $0.writes += 1
            $0.bytesFromDevice += header.length
        }
    }

    private func allowed(_ header: LaneHeader) throws(FabricError) -> any WindowStore {
        let found = state.quietly { state in
            state.book.allows(header, now: clock.nanoseconds()) ? state.stores[header.window] : nil
        }
        if let found { return found }
        // A lane that outlives its windows by a moment, at the end of an attachment, asked for nothing forbidden.
        guard state.quietly({ !$0.isEnded }) else { throw FabricError(.lost, "the attachment has ended") }
        let isWrite = header.operation == .memoryWrite
        counted.withLock { $0.refusals += 1 }
        refused(
            WindowRefusal(
                window: header.window, offset: header.offset, length: header.length, isWrite: isWrite))
        throw FabricError(.outsideWindow, "the device asked for bytes outside its windows", index: Int(header.window))
    }
}

/// What one lane's thread receives into.
private final class Buffers {
    let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: LaneRecord.prefixBytes, alignment: 64)
    let staging = UnsafeMutableRawBufferPointer.allocate(
        byteCount: Lane.batchMax * Limits.sealedBlockBytes, alignment: 4096)

    deinit {
        prefix.deallocate()
        staging.deallocate()
    }
}
