internal import Sealing
internal import TransparencyLog
internal import Vocabulary

/// One record or signed head as it lies in a segment of the write-ahead log.
///
/// `u32 length | u32 crc32c | u64 index | u64 unix_ms | u32 back | payload | 32-byte hash`, big endian. The payload is
/// a leaf (hash: its leaf hash) or, with the index's top bit set, the note of a head of that size (hash: SHA-256). The
/// checksum covers everything but itself. `back` is the distance to the first byte of the batch that was written
/// together: it tells a torn batch, which nobody was told is durable, from damage to what was.
struct WALFrame {
    static let headerBytes = 28
    static let overheadBytes = headerBytes + Digest.byteCount
    static let headBit: UInt64 = 1 << 63
    static let payloadBytesMax = Limits.leafBytesMax

    let offset: Int
    let index: UInt64
    let isHead: Bool
    let batchOffset: Int
    let payload: ArraySlice<UInt8>
    let hash: Digest

    var end: Int { offset + Self.overheadBytes + payload.count }

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
        guard offset + Self.overheadBytes <= segment.count else { return nil }
        let length = Int(segment.bigEndian(at: offset, 4))
        guard (1...Self.payloadBytesMax).contains(length), offset + Self.overheadBytes + length <= segment.count else {
            return nil
        }
        let end = offset + Self.overheadBytes + length
        let checksum = segment.withUnsafeBytes { Self.checksum(UnsafeRawBufferPointer(rebasing: $0[offset..<end])) }
        guard segment.bigEndian(at: offset + 4, 4) == UInt64(checksum) else { return nil }
        let back = Int(segment.bigEndian(at: offset + 24, 4))
        guard back <= offset else { return nil }
        let index = segment.bigEndian(at: offset + 8, 8)
        self.offset = offset
        self.index = index & ~Self.headBit
        isHead = index & Self.headBit != 0
        batchOffset = offset - back
        payload = segment[offset + Self.headerBytes..<end - Digest.byteCount]
        hash = Digest(segment[(end - Digest.byteCount)..<end])!
    }

    private static func checksum(_ frame: UnsafeRawBufferPointer) -> UInt32 {
        var checksum = CRC32C()
        checksum.update(UnsafeRawBufferPointer(rebasing: frame[..<4]))
        checksum.update(UnsafeRawBufferPointer(rebasing: frame[8...]))
        return checksum.value
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

extension [UInt8] {
    fileprivate mutating func appendBigEndian(_ value: some FixedWidthInteger) {
        Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
    }

    fileprivate func bigEndian(at offset: Int, _ count: Int) -> UInt64 {
        var value: UInt64 = 0
        for place in offset..<offset + count { value = value << 8 | UInt64(self[place]) }
        return value
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
