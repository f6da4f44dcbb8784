package import Sealing
package import Vocabulary

/// The closed list of lane operations. Raw values are on the wire and never change meaning.
package enum LaneOperation: UInt8, CaseIterable, Sendable {
    /// Node → gateway: asks for `length` bytes of a window, whole sealed blocks.
    case memoryRead = 1
    /// Gateway → node: one sealed block that a read asked for.
    case completion = 2
    /// Node → gateway: one sealed block to be stored. Posted; a credit comes back when it is stored.
    case memoryWrite = 3
    /// Opens a lane in each direction. Gateway → node: `length` blocks of answers it may be asked for at once, and the
    /// last write it stored. Node → gateway: zero.
    /// Later, gateway → node: all writes up to `transaction` are stored.
    case credit = 4

    var carriesBlock: Bool { self == .completion || self == .memoryWrite }
}

/// The 64 bytes in front of every lane record, authenticated under the lane's key.
///
/// `version 1 ‖ op 1 ‖ flags 2 ‖ lane 2 ‖ window 2 ‖ seq 8 ‖ fence 8 ‖ offset 8 ‖ length 8 ‖ transaction 8 ‖ zero 16`,
/// big endian.
package struct LaneHeader: Equatable, Sendable {
    package static let byteCount = 64
    package static let version: UInt8 = 1
    /// Blocks that one read may ask for.
    package static let readBlocksMax = 16

    package var operation: LaneOperation
    package var window: UInt16
    /// Sealed bytes from the window's start.
    package var offset: UInt64
    /// Bytes asked for or carried; blocks for a credit.
    package var length: UInt64
    package var transaction: UInt64

    package init(
        _ operation: LaneOperation, window: UInt16 = 0, offset: UInt64 = 0, length: UInt64 = 0, transaction: UInt64 = 0
    ) {
        self.operation = operation
        self.window = window
        self.offset = offset
        self.length = length
        self.transaction = transaction
    }

    fileprivate func write(
        lane: UInt16, sequence: UInt64, fence: Fence, into bytes: UnsafeMutableRawBufferPointer
    ) {
        bytes[0] = Self.version
        bytes[1] = operation.rawValue
        store(UInt16(0), at: 2, in: bytes)
        store(lane, at: 4, in: bytes)
        store(window, at: 6, in: bytes)
        store(sequence, at: 8, in: bytes)
        store(fence.number, at: 16, in: bytes)
        store(offset, at: 24, in: bytes)
        store(length, at: 32, in: bytes)
        store(transaction, at: 40, in: bytes)
        store(UInt64(0), at: 48, in: bytes)
        store(UInt64(0), at: 56, in: bytes)
    }

    fileprivate init(
        parsing bytes: UnsafeRawBufferPointer, lane: UInt16, sequence: UInt64, fence: Fence
    ) throws(FrameError) {
        guard bytes[0] == Self.version else { throw FrameError(.version, at: 0, "not a version this end speaks") }
        guard let operation = LaneOperation(rawValue: bytes[1]) else {
            throw FrameError(.operation, at: 1, "an unknown lane operation")
        }
        guard load(UInt16.self, at: 2, in: bytes) == 0 else { throw FrameError(.flags, at: 2, "an unknown flag") }
        guard load(UInt16.self, at: 4, in: bytes) == lane else {
            throw FrameError(.range, at: 4, "another lane's record")
        }
        guard load(UInt64.self, at: 8, in: bytes) == sequence else {
            throw FrameError(.order, at: 8, "not the next sequence number")
        }
        guard load(UInt64.self, at: 16, in: bytes) == fence.number else {
            throw FrameError(.range, at: 16, "another lease's fence")
        }
        guard load(UInt64.self, at: 48, in: bytes) == 0, load(UInt64.self, at: 56, in: bytes) == 0 else {
            throw FrameError(.range, at: 48, "bytes that must be zero are not")
        }
        self.operation = operation
        window = load(UInt16.self, at: 6, in: bytes)
        offset = load(UInt64.self, at: 24, in: bytes)
        length = load(UInt64.self, at: 32, in: bytes)
        transaction = load(UInt64.self, at: 40, in: bytes)
        try check()
    }

    private func check() throws(FrameError) {
        let block = UInt64(Limits.sealedBlockBytes)
        let lengths: ClosedRange<UInt64> =
            switch operation {
            case .memoryRead: UInt64(Limits.tagBytes + 1)...block * UInt64(Self.readBlocksMax)
            case .completion, .memoryWrite: UInt64(Limits.tagBytes + 1)...block
            case .credit: 0...UInt64(LaneCredit.blocksMax)
            }
        guard lengths.contains(length) else { throw FrameError(.range, at: 32, "a length is out of its range") }
        if operation == .credit {
            guard window == 0, offset == 0 else {
                throw FrameError(.range, at: 24, "a credit names a window or an offset")
            }
        } else {
            guard offset < Window.byteCountMax, offset.isMultiple(of: block) else {
                throw FrameError(.range, at: 24, "an offset is not the start of a block")
            }
            guard transaction > 0 else { throw FrameError(.range, at: 40, "a transaction is missing") }
        }
    }
}

/// How many blocks may be in flight on one lane, for each class; bounds what a peer can make the other end hold, and a
/// class that is used up does not hold up the other.
package enum LaneCredit {
    package static let reads = 64
    package static let writes = 32
    package static let blocksMax = 4096
}

/// Which way a lane's records go; part of their key and nonce.
package enum LaneDirection: UInt8, Sendable {
    case toNode = 1
    case toGateway = 2
}

/// A lane record on the wire: header 64 ‖ the carried block's own tag 16 ‖ lane tag 16 ‖ the block without its tag.
///
/// The block is ciphertext already, under the run key (*seal once*): the lane's tag covers the header and the block's
/// tag, and the block's tag covers the block, so a block is neither encrypted nor hashed again on its way. Because the
/// tags come first, a receiver knows that a record is genuine and expected before it accepts one byte of a block.
package enum LaneRecord {
    package static let prefixBytes = LaneHeader.byteCount + 2 * Limits.tagBytes
    /// A lane has new keys long before AES-GCM's bounds matter; at this count it refuses to go on.
    package static let countMax: UInt64 = 1 << 32
    /// After so many carried bytes a gateway opens the lane anew, with fresh keys: a quarter of the 256 GiB that one key
    /// may see.
    package static let keyBytesMax: UInt64 = 64 << 30

    package static let keyLabel = "EXPORTER-sekisho-lane-v1"
    package static let tokenLabel = "EXPORTER-sekisho-lane-token-v1"

    /// The exporter context of a lane's key: the attestation transcript's hash ‖ lane ‖ serial number of the lane's
    /// connection ‖ direction. No two connections have the same.
    package static func keyContext(
        transcript: Digest, lane: UInt16, serial: UInt32, direction: LaneDirection
    ) -> [UInt8] {
        tokenContext(transcript: transcript, lane: lane, serial: serial) + [direction.rawValue]
    }

    /// The exporter context of the 32 bytes with which a lane's TCP connection names its session.
    package static func tokenContext(transcript: Digest, lane: UInt16, serial: UInt32) -> [UInt8] {
        var writer = WireWriter()
        writer.digest(transcript)
        writer.integer(lane)
        writer.integer(serial)
        return writer.bytes
    }
}

/// The sending end of one direction of a lane: numbers and authenticates records.
package struct LaneSealer: ~Copyable, Sendable {
    private var cipher: FrameCipher
    private let lane: UInt16
    private let direction: LaneDirection
    private let fence: Fence
    private var sequence: UInt64 = 0

    package init(key: borrowing SecretBytes, lane: UInt16, direction: LaneDirection, fence: Fence) {
        cipher = FrameCipher(key: key)
        self.lane = lane
        self.direction = direction
        self.fence = fence
    }

    /// Writes a record's first `LaneRecord.prefixBytes`. `blockTag` is the carried block's last 16 bytes, or empty.
    package mutating func seal(
        _ header: LaneHeader, blockTag: UnsafeRawBufferPointer, into prefix: UnsafeMutableRawBufferPointer
    ) throws(FrameError) {
        precondition(prefix.count == LaneRecord.prefixBytes)
        precondition(blockTag.count == (header.operation.carriesBlock ? Limits.tagBytes : 0))
        guard sequence < LaneRecord.countMax else { throw FrameError(.order, at: 8, "the lane's keys are used up") }
        header.write(lane: lane, sequence: sequence, fence: fence, into: prefix)
        let tagPlace = UnsafeMutableRawBufferPointer(rebasing: prefix[64..<80])
        if blockTag.isEmpty {
            tagPlace.initializeMemory(as: UInt8.self, repeating: 0)
        } else {
            tagPlace.copyMemory(from: blockTag)
        }
        let nonce = laneNonce(lane: lane, direction: direction, sequence: sequence)
        let sealed: Result<Void, SealingError> = nonce.withBytes { nonce in
            Result { () throws(SealingError) in
                try cipher.seal(
                    UnsafeRawBufferPointer(start: nil, count: 0), nonce: nonce,
                    aad: UnsafeRawBufferPointer(rebasing: prefix[..<80]),
                    into: UnsafeMutableRawBufferPointer(rebasing: prefix[80...]))
            }
        }
        guard case .success = sealed else { throw FrameError(.range, at: 80, "the record could not be sealed") }
        sequence += 1
    }
}

/// The receiving end of one direction of a lane: accepts exactly the next record, once.
package struct LaneOpener: ~Copyable, Sendable {
    private var cipher: FrameCipher
    private let lane: UInt16
    private let direction: LaneDirection
    private let fence: Fence
    private var sequence: UInt64 = 0

    package init(key: borrowing SecretBytes, lane: UInt16, direction: LaneDirection, fence: Fence) {
        cipher = FrameCipher(key: key)
        self.lane = lane
        self.direction = direction
        self.fence = fence
    }

    /// Checks a record's first `LaneRecord.prefixBytes`. The carried block's tag is at bytes 64–79.
    package mutating func open(_ prefix: UnsafeRawBufferPointer) throws(FrameError) -> LaneHeader {
        guard prefix.count == LaneRecord.prefixBytes else {
            throw FrameError(.truncated, at: prefix.count, "a lane record is cut short")
        }
        guard sequence < LaneRecord.countMax else { throw FrameError(.order, at: 8, "the lane's keys are used up") }
        let nonce = laneNonce(lane: lane, direction: direction, sequence: sequence)
        let opened: Result<Void, SealingError> = nonce.withBytes { nonce in
            Result { () throws(SealingError) in
                try cipher.open(
                    UnsafeRawBufferPointer(rebasing: prefix[80...]), nonce: nonce,
                    aad: UnsafeRawBufferPointer(rebasing: prefix[..<80]),
                    into: UnsafeMutableRawBufferPointer(start: nil, count: 0))
            }
        }
        guard case .success = opened else { throw FrameError(.order, at: 80, "not the next record of this lane") }
        let header = try LaneHeader(
            parsing: UnsafeRawBufferPointer(rebasing: prefix[..<64]), lane: lane, sequence: sequence, fence: fence)
        guard header.operation.carriesBlock || prefix[64..<80].allSatisfy({ $0 == 0 }) else {
            throw FrameError(.range, at: 64, "a block's tag in a record without a block")
        }
        sequence += 1
        return header
    }
}

private func laneNonce(lane: UInt16, direction: LaneDirection, sequence: UInt64) -> BlockNonce {
    BlockNonce(high: UInt32(lane) << 8 | UInt32(direction.rawValue), low: sequence)
}

private func store<Value: FixedWidthInteger>(_ value: Value, at offset: Int, in bytes: UnsafeMutableRawBufferPointer) {
    bytes.storeBytes(of: value.bigEndian, toByteOffset: offset, as: Value.self)
}

private func load<Value: FixedWidthInteger>(_ type: Value.Type, at offset: Int, in bytes: UnsafeRawBufferPointer)
    -> Value
{
    Value(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Value.self))
}
