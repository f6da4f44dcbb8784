package import FabricProtocol
internal import Glibc
internal import Sealing
internal import Synchronization
package import Vocabulary

/// One sealed lane over a TCP connection of its own. Any thread may send; one thread receives.
package final class Lane: Sendable {
    /// What a lane's connection starts with: a magic word, the lane's index and the session's token.
    package struct Opening: Equatable, Sendable {
        package static let magic = Array("SKSHLANE".utf8)
        package static let byteCount = 8 + 2 + 32

        package let lane: UInt16
        /// From the control channel's exporter; nobody else can know it.
        package let token: [UInt8]

        package init(lane: UInt16, token: [UInt8]) {
            precondition(token.count == 32)
            self.lane = lane
            self.token = token
        }

        package var bytes: [UInt8] { Self.magic + [UInt8(lane >> 8), UInt8(truncatingIfNeeded: lane)] + token }

        package init?(_ bytes: [UInt8]) {
            guard bytes.count == Self.byteCount, Array(bytes[..<8]) == Self.magic else { return nil }
            lane = UInt16(bytes[8]) << 8 | UInt16(bytes[9])
            token = Array(bytes[10...])
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

    /// Blocks sent by one system call: 256 KiB.
    package static let batchMax = 4

    private let socket: Socket
    private let sender: Mutex<Sender>
    private let opener: Mutex<LaneOpener>

    /// `outgoing` is the direction of what this end sends. Keys come from the control channel under the transcript.
    package init(
        _ socket: Socket, index: UInt16, outgoing: LaneDirection, control: ControlConnection, transcript: Digest,
        fence: Fence
    ) {
        self.socket = socket
        func key(_ direction: LaneDirection) -> SecretBytes {
            control.export(
                label: LaneRecord.keyLabel,
                context: LaneRecord.keyContext(transcript: transcript, lane: index, direction: direction))
        }
        let incoming: LaneDirection = outgoing == .toNode ? .toGateway : .toNode
        sender = Mutex(
            Sender(
                sealer: LaneSealer(key: key(outgoing), lane: index, direction: outgoing, fence: fence),
                prefixes: .allocate(byteCount: Self.batchMax * LaneRecord.prefixBytes, alignment: 64),
                parts: .allocate(capacity: Self.batchMax * 2)))
        opener = Mutex(LaneOpener(key: key(incoming), lane: index, direction: incoming, fence: fence))
    }

    deinit { socket.close() }

    package func close() { socket.close() }

    /// Sends a record that carries no block.
    package func send(_ header: LaneHeader) throws(TransportError) {
        try send([header], blocks: UnsafeRawBufferPointer(start: nil, count: 0))
    }

    /// Sends up to `batchMax` records whose blocks lie back to back in `blocks`.
    package func send(_ headers: [LaneHeader], blocks: UnsafeRawBufferPointer) throws(TransportError) {
        precondition(headers.count <= Self.batchMax)
        let result: Result<Void, TransportError> = sender.withLock { sender in
            Result { () throws(TransportError) in
                do {
                    let count = try sender.seal(headers, blocks: blocks)
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
    package func receive(prefix: UnsafeMutableRawBufferPointer) throws(TransportError) -> LaneHeader {
        try socket.readAll(into: prefix)
        let result: Result<LaneHeader, FrameError> = opener.withLock { opener in
            Result { () throws(FrameError) in try opener.open(UnsafeRawBufferPointer(prefix)) }
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
        try socket.readAll(into: UnsafeMutableRawBufferPointer(rebasing: target[..<body]))
        UnsafeMutableRawBufferPointer(rebasing: target[body...])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: prefix[64..<80]))
    }
}

// Its memory has one owner and is reached only with the lane's mutex held.
extension Lane.Sender: @unchecked Sendable {}

extension Lane.Sender {
    /// Fills `parts` with prefixes and block bodies in turn; gives how many parts there are.
    fileprivate mutating func seal(_ headers: [LaneHeader], blocks: UnsafeRawBufferPointer) throws(FrameError) -> Int {
        var count = 0
        var offset = 0
        for (index, header) in headers.enumerated() {
            let start = index * LaneRecord.prefixBytes
            let prefix = UnsafeMutableRawBufferPointer(rebasing: prefixes[start..<start + LaneRecord.prefixBytes])
            let carried = header.operation == .completion || header.operation == .memoryWrite ? Int(header.length) : 0
            let body = max(0, carried - Limits.tagBytes)
            let tag = UnsafeRawBufferPointer(rebasing: blocks[offset + body..<offset + carried])
            try sealer.seal(header, blockTag: tag, into: prefix)
            parts[count] = iovec(iov_base: prefix.baseAddress, iov_len: prefix.count)
            count += 1
            if body > 0 {
                parts[count] = iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: blocks.baseAddress! + offset), iov_len: body)
                count += 1
            }
            offset += carried
        }
        return count
    }
}
