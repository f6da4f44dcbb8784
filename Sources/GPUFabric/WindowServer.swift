package import FabricProtocol
internal import FabricTransport
internal import Synchronization
internal import Vocabulary

/// Where a window's sealed bytes are. The gateway never opens them on their way.
package protocol WindowStore: Sendable {
    var byteCount: Int { get }
    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws
    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws
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
}

/// Serves the device's reads and writes of mapped windows on one lane. Default deny.
final class WindowServer: Sendable {
    private struct Entry {
        let mapped: MappedWindow
        /// On the boot clock; nil for as long as the lease.
        let closesAt: UInt64?
    }

    private let lane: Lane
    private let windows = Mutex<[UInt16: Entry]>([:])
    private let counted = Mutex(FabricCounters())
    private let clock = BootClock()
    private let refused: @Sendable (WindowRefusal) -> Void
    private let ended: @Sendable (FabricError) -> Void

    init(
        _ lane: Lane, refused: @escaping @Sendable (WindowRefusal) -> Void,
        ended: @escaping @Sendable (FabricError) -> Void
    ) {
        self.lane = lane
        self.refused = refused
        self.ended = ended
    }

    var counters: FabricCounters { counted.withLock { $0 } }

    func count(_ change: (inout FabricCounters) -> Void) { counted.withLock { change(&$0) } }

    func map(_ mapped: [MappedWindow]) throws(FabricError) {
        let now = clock.nanoseconds()
        let result: Result<Void, FabricError> = windows.withLock { windows in
            var changed = windows
            for entry in mapped {
                guard entry.store.byteCount >= Int(entry.window.byteCount) else {
                    return .failure(
                        FabricError(.store, "a window is larger than its store", index: Int(entry.window.id)))
                }
                let lifetime = UInt64(entry.window.lifetimeMilliseconds)
                let added = Entry(mapped: entry, closesAt: lifetime == 0 ? nil : now + lifetime * 1_000_000)
                guard changed.updateValue(added, forKey: entry.window.id) == nil else {
                    return .failure(
                        FabricError(.store, "a window is mapped already", index: Int(entry.window.id)))
                }
            }
            guard changed.count <= Limits.windowsMax else {
                return .failure(FabricError(.store, "too many windows"))
            }
            windows = changed
            return .success(())
        }
        try result.get()
    }

    func unmap(_ ids: [UInt16]) { windows.withLock { windows in for id in ids { windows[id] = nil } } }

    /// Shakes hands over the lane and serves it on a thread of its own.
    func start() throws(FabricError) {
        let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: LaneRecord.prefixBytes, alignment: 64)
        defer { prefix.deallocate() }
        try overTransport { () throws(TransportError) in
            try lane.send(LaneHeader(.credit, length: UInt64(LaneCredit.reads)))
            let answer = try lane.receive(prefix: prefix)
            guard answer.operation == .credit else {
                throw TransportError(.protocolViolation, "a lane did not begin with a credit")
            }
        }
        startThread { [self] in ended(serve()) }
    }

    func close() {
        lane.close()
        windows.withLock { $0 = [:] }
    }

    private func serve() -> FabricError {
        let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: LaneRecord.prefixBytes, alignment: 64)
        let staging = UnsafeMutableRawBufferPointer.allocate(
            byteCount: Lane.batchMax * Limits.sealedBlockBytes, alignment: 4096)
        defer {
            prefix.deallocate()
            staging.deallocate()
        }
        do {
            while true {
                let header = try lane.receive(prefix: prefix)
                switch header.operation {
                case .memoryRead: try answer(header, staging: staging)
                case .memoryWrite: try store(header, prefix: prefix, staging: staging)
                case .completion, .credit:
                    return FabricError(.protocolViolation, "the node sent what only a gateway sends")
                }
            }
        } catch let error as FabricError {
            return error
        } catch let error as TransportError {
            return FabricError(error)
        } catch {
            return FabricError(.store, "a window's store failed")
        }
    }

    private func answer(_ header: LaneHeader, staging: UnsafeMutableRawBufferPointer) throws {
        let mapped = try allowed(header)
        var offset = header.offset
        let end = header.offset + header.length
        let block = UInt64(Limits.sealedBlockBytes)
        while offset < end {
            let length = min(end - offset, UInt64(staging.count))
            let bytes = UnsafeMutableRawBufferPointer(rebasing: staging[..<Int(length)])
            do {
                try mapped.store.read(offset: Int(offset), into: bytes)
            } catch {
                throw FabricError(.store, "a window's store could not be read", index: Int(header.window))
            }
            let headers = stride(from: offset, to: offset + length, by: Int(block)).map { start in
                LaneHeader(
                    .completion, window: header.window, offset: start, length: min(block, offset + length - start),
                    transaction: header.transaction)
            }
            try lane.send(headers, blocks: UnsafeRawBufferPointer(bytes))
            offset += length
        }
        counted.withLock {
            $0.reads += 1
            $0.bytesToDevice += header.length
        }
    }

    private func store(
        _ header: LaneHeader, prefix: UnsafeMutableRawBufferPointer, staging: UnsafeMutableRawBufferPointer
    ) throws {
        let mapped = try allowed(header)
        let bytes = UnsafeMutableRawBufferPointer(rebasing: staging[..<Int(header.length)])
        try lane.receiveBlock(prefix: prefix, into: bytes)
        do {
            try mapped.store.write(offset: Int(header.offset), from: UnsafeRawBufferPointer(bytes))
        } catch {
            throw FabricError(.store, "a window's store could not be written", index: Int(header.window))
        }
        counted.withLock {
            $0.writes += 1
            $0.bytesFromDevice += header.length
        }
        try lane.send(LaneHeader(.credit, length: 1))
    }

    private func allowed(_ header: LaneHeader) throws(FabricError) -> MappedWindow {
        let isWrite = header.operation == .memoryWrite
        if let entry = windows.withLock({ $0[header.window] }),
            isWrite ? entry.mapped.window.direction.allowsWrites : entry.mapped.window.direction.allowsReads,
            entry.mapped.window.holdsBlocks(offset: header.offset, length: header.length),
            entry.closesAt.map({ clock.nanoseconds() < $0 }) ?? true
        {
            return entry.mapped
        }
        counted.withLock { $0.refusals += 1 }
        refused(
            WindowRefusal(
                window: header.window, offset: header.offset, length: header.length, isWrite: isWrite))
        throw FabricError(.outsideWindow, "the device asked for bytes outside its windows", index: Int(header.window))
    }
}
