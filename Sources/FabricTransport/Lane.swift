package import FabricProtocol
internal import Glibc
internal import Sealing
internal import Synchronization
package import Vocabulary

/// One sealed lane over a TCP connection of its own. Any thread may send; one thread receives.
package final class Lane: Sendable {
    /// What a lane's connection starts with: a magic word, the lane's index, the connection's serial number within the
    /// lease, and the session's token.
    package struct Opening: Equatable, Sendable {
        package static let magic = Array("SKSHLANE".utf8)
        package static let byteCount = 8 + 2 + 4 + 32

        package let lane: UInt16
        /// Grows with every connection of a lease's lanes.
        package let serial: UInt32
        /// From the control channel's exporter; nobody else can know it.
        package let token: [UInt8]

        package init(lane: UInt16, serial: UInt32, token: [UInt8]) {
            precondition(token.count == 32)
            self.lane = lane
            self.serial = serial
            self.token = token
        }

        package var bytes: [UInt8] {
            var writer = WireWriter()
            writer.fixed(Self.magic)
            writer.integer(lane)
            writer.integer(serial)
            writer.fixed(token)
            return writer.bytes
        }

        package init?(_ bytes: [UInt8]) {
            var reader = WireReader(bytes)
            guard bytes.count == Self.byteCount, let magic = try? reader.fixed(Self.magic.count), magic == Self.magic,
                let lane = try? reader.integer(UInt16.self), let serial = try? reader.integer(UInt32.self),
                let token = try? reader.fixed(32)
            else { return nil }
            self.init(lane: lane, serial: serial, token: token)
        }
    }

    /// One record to send, with the sealed block it carries; empty where it carries none.
    package struct Record {
        let header: LaneHeader
        let block: UnsafeRawBufferPointer

        package init(_ header: LaneHeader, block: UnsafeRawBufferPointer = .init(start: nil, count: 0)) {
            self.header = header
            self.block = block
        }
    }

    fileprivate struct Sender: ~Copyable {
        var sealer: LaneSealer
        let prefixes: UnsafeMutableRawBufferPointer
        let parts: UnsafeMutableBufferPointer<iovec>

        deinit {
            prefixes.deallocate()
            parts.deallocate()
        }
    }

    fileprivate struct Receiver: ~Copyable {
        var opener: LaneOpener
        var polling = BusyPolling()
    }

    /// Blocks sent by one system call: 256 KiB.
    package static let batchMax = 4

    private let socket: Socket
    private let sender: Mutex<Sender>
    private let receiver: Mutex<Receiver>

    /// `outgoing` is the direction of what this end sends. A connection on which nothing is acknowledged for
    /// `unheardMilliseconds` ends. Keys come from the control channel under the transcript.
    package init(
        _ socket: Socket, index: UInt16, serial: UInt32, outgoing: LaneDirection, control: ControlConnection,
        transcript: Digest, fence: Fence, unheardMilliseconds: Int
    ) {
        self.socket = socket
        socket.useLaneSettings(unheardMilliseconds: unheardMilliseconds)
        func key(_ direction: LaneDirection) -> SecretBytes {
            control.export(
                label: LaneRecord.keyLabel,
                context: LaneRecord.keyContext(
                    transcript: transcript, lane: index, serial: serial, direction: direction))
        }
        let incoming: LaneDirection = outgoing == .toNode ? .toGateway : .toNode
        sender = Mutex(
            Sender(
                sealer: LaneSealer(key: key(outgoing), lane: index, direction: outgoing, fence: fence),
                prefixes: .allocate(byteCount: Self.batchMax * LaneRecord.prefixBytes, alignment: 64),
                parts: .allocate(capacity: Self.batchMax * 2)))
        receiver = Mutex(
            Receiver(opener: LaneOpener(key: key(incoming), lane: index, direction: incoming, fence: fence)))
    }

    deinit { socket.close() }

    package func close() { socket.close() }

    /// Sends a record that carries no block.
    package func send(_ header: LaneHeader) throws(TransportError) { try send([Record(header)]) }

    /// Sends an empty record if nothing else is on its way, so that a connection which was cut without a word is noticed.
    /// Never blocks.
    package func probe() {
        _ = sender.withLockIfAvailable { sender in
            guard socket.isIdle, let count = try? sender.seal([Record(LaneHeader(.credit))]) else { return }
            try? socket.writeAll(UnsafeMutableBufferPointer(rebasing: sender.parts[..<count]))
        }
    }

    /// Sends up to `batchMax` records by one system call.
    package func send(_ records: [Record]) throws(TransportError) {
        precondition(records.count <= Self.batchMax)
        let result: Result<Void, TransportError> = sender.withLock { sender in
            Result { () throws(TransportError) in
                do {
                    let count = try sender.seal(records)
                    try socket.writeAll(UnsafeMutableBufferPointer(rebasing: sender.parts[..<count]))
                } catch let error as FrameError {
                    throw TransportError(error)
                } catch let error as TransportError {
                    throw error
                } catch {
                    throw TransportError(.unavailable, "a lane record could not be sent")
                }
            }
        }
        try result.get()
    }

    /// Waits for the next record. Where it carries a block, `receiveBlock` must follow.
    ///
    /// `prefix` is scratch space of `LaneRecord.prefixBytes` that keeps the block's tag for `receiveBlock`.
    /// `milliseconds` nil waits for ever.
    package func receive(
        prefix: UnsafeMutableRawBufferPointer, milliseconds: Int? = nil
    ) throws(TransportError) -> LaneHeader {
        if let milliseconds {
            try socket.readAll(into: prefix, milliseconds: milliseconds)
        } else {
            try fill(prefix)
        }
        let result: Result<LaneHeader, FrameError> = receiver.withLock { receiver in
            Result { () throws(FrameError) in try receiver.opener.open(UnsafeRawBufferPointer(prefix)) }
        }
        switch result {
        case .success(let header): return header
        case .failure(let error): throw TransportError(error)
        }
    }

    /// Reads the carried block, of exactly `target.count` bytes, into its place.
    package func receiveBlock(
        prefix: UnsafeMutableRawBufferPointer, into target: UnsafeMutableRawBufferPointer
    ) throws(TransportError) {
        let body = target.count - Limits.tagBytes
        try fill(UnsafeMutableRawBufferPointer(rebasing: target[..<body]))
        UnsafeMutableRawBufferPointer(rebasing: target[body...])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: prefix[64..<80]))
    }

    /// Looks for what comes, for as long as looking has been worth it, and then sleeps until all is there.
    private func fill(_ buffer: UnsafeMutableRawBufferPointer) throws(TransportError) {
        var filled = try socket.take(into: buffer)
        while filled < buffer.count, receiver.withLock({ $0.polling.looks() }) {
            let rest = UnsafeMutableRawBufferPointer(rebasing: buffer[filled...])
            let found = try socket.look(into: rest, nanoseconds: BusyPolling.nanoseconds)
            receiver.withLock { $0.polling.looked(found: found > 0) }
            filled += found
            if found == 0 { break }
        }
        if filled < buffer.count {
            try socket.readAll(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
        }
    }
}

// Its memory has one owner and is reached only with the lane's mutex held.
extension Lane.Sender: @unchecked Sendable {}

extension Lane.Sender {
    /// Fills `parts` with prefixes and block bodies in turn; gives how many parts there are.
    fileprivate mutating func seal(_ records: [Lane.Record]) throws(FrameError) -> Int {
        var count = 0
        for (index, record) in records.enumerated() {
            let prefix = UnsafeMutableRawBufferPointer(
                rebasing: prefixes[index * LaneRecord.prefixBytes..<(index + 1) * LaneRecord.prefixBytes])
            let body = max(0, record.block.count - Limits.tagBytes)
            let tag = UnsafeRawBufferPointer(rebasing: record.block[body...])
            try sealer.seal(record.header, blockTag: tag, into: prefix)
            parts[count] = iovec(iov_base: prefix.baseAddress, iov_len: prefix.count)
            count += 1
            if body > 0 {
                parts[count] = iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: record.block.baseAddress!), iov_len: body)
                count += 1
            }
        }
        return count
    }
}
