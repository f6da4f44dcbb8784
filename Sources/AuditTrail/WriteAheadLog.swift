internal import Sealing
internal import TransparencyLog
internal import Vocabulary

/// One record or signed head as it lies in a segment of the write-ahead log.
///
/// `u32 length | u32 crc32c | u64 index | u64 unix_ms | u32 back | payload | 32-byte hash`, big endian. The payload is
/// a leaf (hash: its leaf hash) or, with the index's top bit set, the note of a head of that size (hash: SHA-256). The
/// checksum covers everything but itself. `back` is the distance to the first byte of the batch that was written
/// together: it tells a torn batch, which nobody was told is durable, from damage to what was.
struct WALFrame: Sendable {
    static let headerBytes = 28
    static let overheadBytes = headerBytes + Digest.byteCount
    static let headBit: UInt64 = 1 << 63
    static let payloadBytesMax = Limits.leafBytesMax

    let offset: Int
    let index: UInt64
    let isHead: Bool
    let batchOffset: Int
    /// Where the payload lies in the segment.
    let payload: Range<Int>
    let hash: Digest

    var end: Int { payload.upperBound + Digest.byteCount }

    /// Appends a frame to a batch's bytes.
    static func append(
        to bytes: inout [UInt8], payload: [UInt8], index: UInt64, isHead: Bool, time: Timestamp, hash: Digest
    ) {
        let start = bytes.count
        bytes.appendBigEndian(UInt32(payload.count))
        bytes.appendBigEndian(UInt32(0))
        bytes.appendBigEndian(isHead ? index | headBit : index)
        bytes.appendBigEndian(UInt64(bitPattern: time.milliseconds))
        bytes.appendBigEndian(UInt32(start))
        bytes += payload
        withUnsafeBytes(of: hash) { bytes.append(contentsOf: $0) }
        let checksum = bytes.withUnsafeBytes { Self.checksum(UnsafeRawBufferPointer(rebasing: $0[start...])) }
        for shift in 0..<4 { bytes[start + 4 + shift] = UInt8(truncatingIfNeeded: checksum >> UInt32(24 - 8 * shift)) }
    }

    /// The valid frame that starts at `offset`, if there is one.
    init?(in segment: [UInt8], at offset: Int) {
        guard let end = Self.end(in: segment, at: offset) else { return nil }
        let (checksum, stated, index, back, hash) = segment.withUnsafeBytes { bytes in
            let frame = UnsafeRawBufferPointer(rebasing: bytes[offset..<end])
            return (
                Self.checksum(frame), frame.bigEndian(at: 4, UInt32.self), frame.bigEndian(at: 8, UInt64.self),
                Int(frame.bigEndian(at: 24, UInt32.self)), Digest(frame, at: frame.count - Digest.byteCount)
            )
        }
        guard stated == checksum, back <= offset else { return nil }
        self.offset = offset
        self.index = index & ~Self.headBit
        isHead = index & Self.headBit != 0
        batchOffset = offset - back
        payload = offset + Self.headerBytes..<end - Digest.byteCount
        self.hash = hash
    }

    /// Where the frame at `offset` ends if its length is true.
    private static func end(in segment: [UInt8], at offset: Int) -> Int? {
        guard offset + overheadBytes <= segment.count else { return nil }
        let length = Int(segment.withUnsafeBytes { $0.bigEndian(at: offset, UInt32.self) })
        guard (1...payloadBytesMax).contains(length), offset + overheadBytes + length <= segment.count else {
            return nil
        }
        return offset + overheadBytes + length
    }

    /// Pieces of a segment of some hundred frames each, by the frames' lengths alone: where a length is wrong, so is
    /// the frame there.
    static func parts(of segment: [UInt8]) -> [Range<Int>] {
        var parts: [Range<Int>] = []
        var start = 0
        var at = 0
        while let end = end(in: segment, at: at) {
            at = end
            if at - start >= partBytesMin {
                parts.append(start..<at)
                start = at
            }
        }
        if at > start { parts.append(start..<at) }
        return parts
    }

    private static let partBytesMin = 1 << 18

    private static func checksum(_ frame: UnsafeRawBufferPointer) -> UInt32 {
        var checksum = CRC32C()
        checksum.update(UnsafeRawBufferPointer(rebasing: frame[..<4]))
        checksum.update(UnsafeRawBufferPointer(rebasing: frame[8...]))
        return checksum.value
    }
}

/// A frame whose payload has been hashed again.
struct HashedFrame: Sendable {
    let frame: WALFrame
    /// The leaf's hash, or the note's.
    let hash: Digest
    /// A leaf's header; `nil` when it is none.
    let header: LeafHeader?

    /// The good frames of a part of a segment, up to the first that is not.
    static func frames(in segment: [UInt8], _ part: Range<Int>) -> [HashedFrame] {
        var frames: [HashedFrame] = []
        var at = part.lowerBound
        while at < part.upperBound, let frame = WALFrame(in: segment, at: at) {
            let payload = segment[frame.payload]
            frames.append(
                HashedFrame(
                    frame: frame, hash: frame.isHead ? SHA256.hash(payload) : Merkle.leafHash(payload),
                    header: frame.isHead ? nil : try? LeafHeader(leaf: payload)))
            at = frame.end
        }
        return frames
    }
}

/// What a segment holds after its last good frame.
enum WALTail: Equatable {
    case clean
    /// The last batch was not wholly written when the machine stopped; nobody was told that it was.
    case torn(Range<Int>)
    /// Bytes that were durable are no longer what they were.
    case damaged(offset: Int)

    /// Looks at what follows `offset`, where no frame could be read.
    init(of segment: [UInt8], after offset: Int) {
        guard let last = segment.lastNonzero(from: offset) else {
            self = .clean
            return
        }
        // A good frame of a batch that began later proves that everything up here had been synced.
        var at = offset + 1
        while at <= last {
            if let frame = WALFrame(in: segment, at: at) {
                if frame.batchOffset > offset {
                    self = .damaged(offset: offset)
                    return
                }
                at = frame.end
            } else {
                at += 1
            }
        }
        self = .torn(offset..<last + 1)
    }
}

/// Names and sizes of the files of the write-ahead log.
enum WALFiles {
    static let folder = "wal"
    /// Kept back for endings on a full disk.
    static let reserve = "wal/reserve.seg"
    /// The next segment, made while there is time for it.
    static let spare = "wal/spare.seg"

    static func segment(first index: UInt64) -> String {
        let digits = String(index)
        return "wal/" + String(repeating: "0", count: 20 - digits.count) + digits + ".seg"
    }

    static func firstIndex(of name: String) -> UInt64? {
        guard name.count == 24, name.hasSuffix(".seg") else { return nil }
        return UInt64(name.dropLast(4))
    }

    /// Segments begin small, so that a small trail is a small folder, and double up to their full size.
    static func segmentBytes(number: Int, most: Int) -> Int { min(most, max(1 << 16, most >> max(0, 4 - number))) }
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), eight bytes at a time: finds accidents. Against intent stand the hashes
/// and signatures.
struct CRC32C {
    private var state: UInt32 = ~0

    var value: UInt32 { ~state }

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        var state = state
        Self.tables.withUnsafeBufferPointer { table in
            var at = 0
            while at + 8 <= bytes.count {
                let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self))
                let mixed = word ^ UInt64(state)
                state = 0
                for place in 0..<8 {
                    let byte = Int(truncatingIfNeeded: mixed &>> UInt64(8 &* place)) & 0xFF
                    state ^= table[(7 - place) * 256 + byte]
                }
                at += 8
            }
            while at < bytes.count {
                let byte = Int(UInt8(truncatingIfNeeded: state) ^ bytes[at])
                state = table[byte] ^ (state >> 8)
                at += 1
            }
        }
        self.state = state
    }

    /// `tables[256 k + b]`: what byte `b` does to the state `k` bytes later.
    private static let tables: [UInt32] = {
        var tables: [UInt32] = (0..<256).map { byte in
            (0..<8).reduce(UInt32(byte)) { value, _ in value & 1 == 1 ? (value >> 1) ^ 0x82F6_3B78 : value >> 1 }
        }
        for place in 256..<8 * 256 {
            let before = tables[place - 256]
            tables.append(tables[Int(before & 0xFF)] ^ (before >> 8))
        }
        return tables
    }()
}

extension UnsafeRawBufferPointer {
    fileprivate func bigEndian<Number: FixedWidthInteger & BitwiseCopyable>(
        at offset: Int, _: Number.Type
    ) -> Number {
        Number(bigEndian: loadUnaligned(fromByteOffset: offset, as: Number.self))
    }
}

extension [UInt8] {
    fileprivate mutating func appendBigEndian(_ value: some FixedWidthInteger) {
        Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
    }

    /// The last byte at or after `start` that is not zero; segments end with megabytes of zeros.
    fileprivate func lastNonzero(from start: Int) -> Int? {
        withUnsafeBytes { bytes in
            var end = bytes.count
            while end - 8 >= start, bytes.loadUnaligned(fromByteOffset: end - 8, as: UInt64.self) == 0 { end -= 8 }
            while end > start, bytes[end - 1] == 0 { end -= 1 }
            return end > start ? end - 1 : nil
        }
    }
}
