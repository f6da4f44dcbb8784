package import Vocabulary

/// One message of the control channel. The gateway asks, the node answers with the same request number.
///
/// On the wire: `UInt32` byte count ‖ version ‖ operation ‖ `UInt16` flags (0) ‖ `UInt64` request ‖ `UInt64` fence ‖
/// fields. The bytes are canonical: each frame has exactly one encoding, and decoding refuses all others.
package struct ControlFrame: Equatable, Sendable {
    package static let version: UInt8 = 1
    /// Bytes of the length field in front of a frame.
    package static let prefixBytes = 4
    /// A program is the largest thing a frame carries.
    package static let byteCountMax = max(Limits.programBytesMax, Limits.controlFrameBytesMax) + 4096
    static let byteCountMin = 20

    package let request: UInt64
    /// The lease's number as the sender knows it. The device refuses every frame below the highest it has stored.
    package let fence: Fence
    package let message: ControlMessage

    package init(request: UInt64, fence: Fence, message: ControlMessage) {
        self.request = request
        self.fence = fence
        self.message = message
    }

    /// The frame with its length field.
    package var encoded: [UInt8] {
        var body = WireWriter()
        body.integer(Self.version)
        body.integer(message.operation.rawValue)
        body.integer(UInt16(0))
        body.integer(request)
        body.integer(fence.number)
        message.write(into: &body)
        precondition(body.bytes.count <= Self.byteCountMax, "a control frame is longer than its limit")
        var frame = WireWriter()
        frame.blob(body.bytes)
        return frame.bytes
    }

    /// Reads a length field and refuses one that no frame can have, before anything is allocated for it.
    package static func byteCount(prefix: [UInt8]) throws(FrameError) -> Int {
        var reader = WireReader(prefix)
        let count = try reader.integer(in: UInt32(byteCountMin)...UInt32(byteCountMax))
        try reader.finish()
        return Int(count)
    }

    /// Reads a frame without its length field.
    package init(parsing bytes: [UInt8]) throws(FrameError) {
        guard bytes.count <= Self.byteCountMax else {
            throw FrameError(.range, at: Self.byteCountMax, "a frame is longer than its limit")
        }
        var reader = WireReader(bytes)
        guard try reader.integer(UInt8.self) == Self.version else {
            throw FrameError(.version, at: 0, "not a version this end speaks")
        }
        guard let operation = ControlOperation(rawValue: try reader.integer()) else {
            throw FrameError(.operation, at: 1, "an unknown operation")
        }
        guard try reader.integer(UInt16.self) == 0 else { throw FrameError(.flags, at: 2, "an unknown flag") }
        request = try reader.integer()
        fence = Fence(try reader.integer())
        message = try ControlMessage(operation, reading: &reader)
        try reader.finish()
    }
}

/// The closed list of control operations. Raw values are on the wire and never change meaning.
package enum ControlOperation: UInt8, CaseIterable, Sendable {
    case hello = 1
    case welcome = 2
    case attest = 3
    case evidence = 4
    case leaseGrant = 5
    case leaseRenew = 6
    case leaseRevoke = 7
    case windowMap = 8
    case windowUnmap = 9
    case programLoad = 10
    case programLoaded = 11
    case doorbell = 12
    case complete = 13
    case scrubBegin = 14
    case scrubFilled = 15
    case scrubChallenge = 16
    case scrubProof = 17
    case ping = 18
    case pong = 19
    case done = 20
    case error = 21
    case leaseResume = 22
}

package enum ControlMessage: Equatable, Sendable {
    case hello
    case welcome(Welcome)
    /// The challenge: a fresh 32-byte nonce for the lease that the gateway is about to ask for.
    case attest(nonce: [UInt8], lease: LeaseID)
    case evidence(Evidence)
    case leaseGrant(LeaseGrant)
    case leaseRenew
    case leaseRevoke
    /// Goes on with a lease over another connection, on which the node has just been attested again for the same lease and
    /// fence. The proof is `LeaseResumption.proof` over that connection's transcript.
    case leaseResume(proof: [UInt8])
    case windowMap(WindowTable)
    case windowUnmap([UInt16])
    case programLoad([UInt8])
    case programLoaded(UInt32)
    /// Runs a loaded program once. A transaction that is repeated is answered from memory, never run again.
    case doorbell(program: UInt32, transaction: UInt64, arguments: [UInt8])
    case complete(transaction: UInt64, result: [UInt8])
    /// Ends the lease: keys are erased and every allocatable byte is filled from this 32-byte seed.
    case scrubBegin(seed: [UInt8])
    case scrubFilled
    /// A second 32-byte nonce, sent only when the fill is done; the proof's MAC is keyed by it.
    case scrubChallenge(nonce: [UInt8])
    case scrubProof(ScrubCertificate)
    /// For link measurement: the payload is thrown away.
    case ping([UInt8])
    case pong
    case done
    case error(Refusal)

    package var operation: ControlOperation {
        switch self {
        case .hello: .hello
        case .welcome: .welcome
        case .attest: .attest
        case .evidence: .evidence
        case .leaseGrant: .leaseGrant
        case .leaseRenew: .leaseRenew
        case .leaseRevoke: .leaseRevoke
        case .leaseResume: .leaseResume
        case .windowMap: .windowMap
        case .windowUnmap: .windowUnmap
        case .programLoad: .programLoad
        case .programLoaded: .programLoaded
        case .doorbell: .doorbell
        case .complete: .complete
        case .scrubBegin: .scrubBegin
        case .scrubFilled: .scrubFilled
        case .scrubChallenge: .scrubChallenge
        case .scrubProof: .scrubProof
        case .ping: .ping
        case .pong: .pong
        case .done: .done
        case .error: .error
        }
    }

    func write(into writer: inout WireWriter) {
        switch self {
        case .hello, .leaseRenew, .leaseRevoke, .scrubFilled, .pong, .done: break
        case .welcome(let welcome): welcome.write(into: &writer)
        case .attest(let nonce, let lease):
            writer.fixed(nonce)
            writer.text(lease.text)
        case .evidence(let evidence): evidence.write(into: &writer)
        case .leaseGrant(let grant): grant.write(into: &writer)
        case .windowMap(let table): table.write(into: &writer)
        case .windowUnmap(let ids):
            writer.integer(UInt16(ids.count))
            for id in ids { writer.integer(id) }
        case .programLoad(let program): writer.blob(program)
        case .programLoaded(let program): writer.integer(program)
        case .doorbell(let program, let transaction, let arguments):
            writer.integer(program)
            writer.integer(transaction)
            writer.blob(arguments)
        case .complete(let transaction, let result):
            writer.integer(transaction)
            writer.blob(result)
        case .scrubBegin(let bytes), .scrubChallenge(let bytes), .leaseResume(let bytes): writer.fixed(bytes)
        case .scrubProof(let certificate): writer.blob(certificate.bytes)
        case .ping(let payload): writer.blob(payload)
        case .error(let refusal): refusal.write(into: &writer)
        }
    }

    init(_ operation: ControlOperation, reading reader: inout WireReader) throws(FrameError) {
        switch operation {
        case .hello: self = .hello
        case .welcome: self = .welcome(try Welcome(reading: &reader))
        case .attest: self = .attest(nonce: try reader.fixed(32), lease: try reader.identifier())
        case .evidence: self = .evidence(try Evidence(reading: &reader))
        case .leaseGrant: self = .leaseGrant(try LeaseGrant(reading: &reader))
        case .leaseRenew: self = .leaseRenew
        case .leaseRevoke: self = .leaseRevoke
        case .leaseResume: self = .leaseResume(proof: try reader.fixed(LeaseResumption.proofBytes))
        case .windowMap: self = .windowMap(try WindowTable(reading: &reader))
        case .windowUnmap:
            let count = try reader.integer(in: UInt16(1)...UInt16(Limits.windowsMax))
            var ids: [UInt16] = []
            for _ in 0..<count {
                let position = reader.position
                let id = try reader.integer(UInt16.self)
                guard ids.last.map({ $0 < id }) ?? true else {
                    throw FrameError(.order, at: position, "window ids do not ascend")
                }
                ids.append(id)
            }
            self = .windowUnmap(ids)
        case .programLoad: self = .programLoad(try reader.blob(max: Limits.programBytesMax))
        case .programLoaded: self = .programLoaded(try reader.integer())
        case .doorbell:
            self = .doorbell(
                program: try reader.integer(), transaction: try reader.integer(in: 1...UInt64.max),
                arguments: try reader.blob(max: Limits.controlFrameBytesMax))
        case .complete:
            self = .complete(
                transaction: try reader.integer(in: 1...UInt64.max),
                result: try reader.blob(max: Limits.controlFrameBytesMax))
        case .scrubBegin: self = .scrubBegin(seed: try reader.fixed(32))
        case .scrubFilled: self = .scrubFilled
        case .scrubChallenge: self = .scrubChallenge(nonce: try reader.fixed(32))
        case .scrubProof:
            self = .scrubProof(try ScrubCertificate(reading: &reader))
        case .ping: self = .ping(try reader.blob(max: Limits.controlFrameBytesMax))
        case .pong: self = .pong
        case .done: self = .done
        case .error: self = .error(try Refusal(reading: &reader))
        }
    }
}

/// What a node says of itself before it is asked to prove anything.
package struct Welcome: Equatable, Sendable {
    package let node: NodeID
    package let deviceBytes: UInt64
    package let threads: UInt16
    package let fenceHighest: Fence
    /// The node's latest scrub, so that one which no gateway watched can still reach the trail.
    package let lastScrub: ScrubCertificate?

    package init(
        node: NodeID, deviceBytes: UInt64, threads: UInt16, fenceHighest: Fence, lastScrub: ScrubCertificate?
    ) {
        self.node = node
        self.deviceBytes = deviceBytes
        self.threads = threads
        self.fenceHighest = fenceHighest
        self.lastScrub = lastScrub
    }

    func write(into writer: inout WireWriter) {
        writer.text(node.text)
        writer.integer(deviceBytes)
        writer.integer(threads)
        writer.integer(fenceHighest.number)
        writer.integer(UInt8(lastScrub == nil ? 0 : 1))
        if let lastScrub { writer.blob(lastScrub.bytes) }
    }

    init(reading reader: inout WireReader) throws(FrameError) {
        node = try reader.identifier()
        deviceBytes = try reader.deviceBytes()
        threads = try reader.integer(in: 1...4096)
        fenceHighest = Fence(try reader.integer())
        lastScrub = try reader.integer(UInt8.self, in: 0...1) == 1 ? try ScrubCertificate(reading: &reader) : nil
    }
}

/// Device memory a node may offer: whole pages, at least one block, at most 16 TiB.
package enum DeviceSize {
    package static let pageBytes: UInt64 = 4096
    package static let range: ClosedRange<UInt64> = UInt64(Limits.blockBytes)...(1 << 44)

    package static func isValid(_ byteCount: UInt64) -> Bool {
        range.contains(byteCount) && byteCount.isMultiple(of: pageBytes)
    }
}

extension WireReader {
    mutating func deviceBytes() throws(FrameError) -> UInt64 {
        let position = position
        let count = try integer(UInt64.self)
        guard DeviceSize.isValid(count) else { throw FrameError(.range, at: position, "not a size of device memory") }
        return count
    }
}

/// A lease as the gateway asks for it. The fence is the frame's.
package struct LeaseGrant: Equatable, Sendable {
    /// Bytes of a receipt: a checkpoint, a Merkle path and one record's core.
    package static let receiptBytesMax = 64 * 1024
    /// An X25519 sealed box around 32 bytes.
    package static let wrappedKeyBytes = 80
    package static let ttlMilliseconds: ClosedRange<UInt32> = 100...600_000

    package let lease: LeaseID
    package let run: RunID
    /// Which try of the run this is; part of the key of spilled blocks.
    package let attempt: UInt32
    package let ttlMilliseconds: UInt32
    /// Over how many connections windows are reached; which one a block takes follows from its place.
    package let lanes: UInt8
    package let deviceBytes: UInt64
    /// Proof that the decision to lease is durable in the trail; the node checks it itself.
    package let receipt: [UInt8]
    /// The run key, wrapped to the key in this connection's evidence.
    package let wrappedRunKey: [UInt8]

    package init(
        lease: LeaseID, run: RunID, attempt: UInt32, ttlMilliseconds: UInt32, lanes: UInt8, deviceBytes: UInt64,
        receipt: [UInt8], wrappedRunKey: [UInt8]
    ) {
        self.lease = lease
        self.run = run
        self.attempt = attempt
        self.ttlMilliseconds = ttlMilliseconds
        self.lanes = lanes
        self.deviceBytes = deviceBytes
        self.receipt = receipt
        self.wrappedRunKey = wrappedRunKey
    }

    func write(into writer: inout WireWriter) {
        writer.text(lease.text)
        writer.text(run.text)
        writer.integer(attempt)
        writer.integer(ttlMilliseconds)
        writer.integer(lanes)
        writer.integer(deviceBytes)
        writer.blob(receipt)
        writer.fixed(wrappedRunKey)
    }

    init(reading reader: inout WireReader) throws(FrameError) {
        lease = try reader.identifier()
        run = try reader.identifier()
        attempt = try reader.integer()
        ttlMilliseconds = try reader.integer(in: Self.ttlMilliseconds)
        lanes = try reader.integer(in: 1...UInt8(Limits.lanesMax))
        deviceBytes = try reader.deviceBytes()
        receipt = try reader.blob(max: Self.receiptBytesMax)
        wrappedRunKey = try reader.fixed(Self.wrappedKeyBytes)
    }
}

/// Why an end refuses. A closed code and the index of what it refuses (measurement, window, byte, command).
package struct Refusal: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: UInt16, CaseIterable, Sendable {
        case frame = 1
        case order = 2
        case staleFence = 3
        case receipt = 4
        case receiptMismatch = 5
        case runKey = 6
        case noLease = 7
        case leaseExpired = 8
        case busy = 9
        case deviceMemory = 10
        case windowTable = 11
        case outsideWindow = 12
        case noLane = 13
        case program = 14
        case execution = 15
        case transaction = 16
        case scrub = 17
        case draining = 18
        case storage = 19
        /// Whoever asked to go on with a lease is not who was granted it.
        case proof = 20
        /// The record is in the trail, but too few of the witnesses that the node asks for have seen it.
        case unwitnessed = 21
    }

    package let code: Code
    package let index: UInt32

    package init(_ code: Code, index: UInt32 = 0) {
        self.code = code
        self.index = index
    }

    package var description: String { "\(code) (\(index))" }

    func write(into writer: inout WireWriter) {
        writer.integer(code.rawValue)
        writer.integer(index)
    }

    init(reading reader: inout WireReader) throws(FrameError) {
        let position = reader.position
        guard let code = Code(rawValue: try reader.integer()) else {
            throw FrameError(.range, at: position, "an unknown refusal code")
        }
        self.code = code
        index = try reader.integer()
    }
}
