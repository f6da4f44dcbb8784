internal import DurableFiles
internal import Sealing
internal import TransparencyLog
internal import Vocabulary

/// What lies at the anchor: the note of the last signed head, and the how manieth it is.
struct AnchoredHead: Equatable {
    let turn: UInt64
    let note: [UInt8]
}

/// The anchor's file, on another volume than the trail: two places of 4 KiB that are written in turn and in place, so
/// that a head costs one sync and a torn write leaves the head before, which was the last that anyone was given.
///
/// A place: `u64 turn | u32 length | note | zeros | SHA-256 of all before`, big endian.
enum Anchor {
    private static let placeBytes = 4096
    private static let hashOffset = placeBytes - Digest.byteCount
    private static let headerBytes = 12
    static let noteBytesMax = hashOffset - headerBytes

    /// `nil` when there is none yet: no file, or one of whose places none was ever wholly written. A head whose note says
    /// nothing when there is something else.
    static func read(_ disk: any Disk) throws(DiskError) -> AnchoredHead? {
        guard let bytes = try disk.read(TrailFiles.anchor) else { return nil }
        let unreadable = AnchoredHead(turn: 0, note: [])
        guard bytes.count == 2 * placeBytes else { return unreadable }
        let places = [bytes[..<placeBytes], bytes[placeBytes...]]
        if let newest = places.compactMap(head).max(by: { $0.turn < $1.turn }) { return newest }
        // The first head of all may be torn; a later one leaves the one before whole.
        return places.contains { $0.allSatisfy { $0 == 0 } } ? nil : unreadable
    }

    /// Compare-and-swap: puts `note` there when what lies there is `expected`; a head that someone else put there is
    /// never overwritten (`gone`).
    static func swap(
        _ expected: AnchoredHead?, for note: [UInt8], on disk: any Disk
    ) throws(DiskError) -> AnchoredHead {
        precondition(note.count <= noteBytesMax, "a head's note fits its place")
        guard try read(disk) == expected else { throw .gone }
        if expected == nil { try disk.preallocate(TrailFiles.anchor, byteCount: 2 * placeBytes) }
        let head = AnchoredHead(turn: (expected?.turn ?? 0) + 1, note: note)
        try disk.write(bytes(of: head), to: TrailFiles.anchor, offset: Int(head.turn % 2) * placeBytes)
        try disk.sync(TrailFiles.anchor)
        return head
    }

    private static func bytes(of head: AnchoredHead) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(placeBytes)
        withUnsafeBytes(of: head.turn.bigEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: UInt32(head.note.count).bigEndian) { bytes.append(contentsOf: $0) }
        bytes += head.note
        bytes.append(contentsOf: repeatElement(0, count: hashOffset - bytes.count))
        return bytes + SHA256.hash(bytes).bytes
    }

    private static func head(_ place: ArraySlice<UInt8>) -> AnchoredHead? {
        let hash = place.dropFirst(hashOffset)
        guard SHA256.hash(place.prefix(hashOffset)) == Digest(hash) else { return nil }
        let (turn, count) = place.withUnsafeBytes {
            (
                UInt64(bigEndian: $0.loadUnaligned(as: UInt64.self)),
                Int(UInt32(bigEndian: $0.loadUnaligned(fromByteOffset: 8, as: UInt32.self)))
            )
        }
        guard count <= noteBytesMax else { return nil }
        return AnchoredHead(turn: turn, note: Array(place.dropFirst(headerBytes).prefix(count)))
    }
}
