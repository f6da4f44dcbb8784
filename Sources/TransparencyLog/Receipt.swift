internal import Sealing
package import Vocabulary

/// A self-contained proof that a record with this content is in the log under a signed head.
///
/// It discloses that one record and nothing else of the log. Whoever holds the log's `TrailIdentity` can check it
/// without the log.
package struct Receipt: Hashable, Sendable {
    package static let byteCountMax = 96 * 1024
    private static let magic = Array("sekisho receipt 2\n".utf8)

    package let index: UInt64
    let note: [UInt8]
    /// `SigningPeriods.bytes` up to the head: how its key follows from the log's first one.
    let handovers: [UInt8]
    let proof: [Digest]
    let leaf: [UInt8]
    let opening: Opening

    package init(
        index: UInt64, head: SignedCheckpoint, periods: SigningPeriods, proof: [Digest], leaf: [UInt8], opening: Opening
    ) {
        self.index = index
        note = head.note
        handovers = periods.bytes
        self.proof = proof
        self.leaf = leaf
        self.opening = opening
    }

    /// Everything checked: signature, origin, inclusion, commitment, canonical form.
    ///
    /// - Parameter witnesses: whose cosignatures the head must have beside the trail's signature.
    package func verified(
        by trail: TrailIdentity, seenBy witnesses: WitnessPolicy? = nil
    ) throws(LogError) -> VerifiedRecord {
        let head = try SignedCheckpoint(parsing: note, in: SigningPeriods(trail, parsing: handovers))
        if let witnesses { try witnesses.check(head) }
        let leafHash = Merkle.leafHash(leaf)
        try Merkle.verifyInclusion(of: leafHash, index: index, size: head.size, proof: proof, root: head.root)
        let header = try LeafHeader(leaf: leaf[...])
        guard header.kind == .record else { throw LogError(.wrongEntry, "a receipt is not for a record") }
        let core = try opening.verified(against: header)
        return VerifiedRecord(index: index, leafHash: leafHash, time: header.time, head: head.checkpoint, core: core)
    }
}

/// A record whose receipt was checked. Only that makes one.
package struct VerifiedRecord: Hashable, Sendable {
    package let index: UInt64
    package let leafHash: Digest
    /// The gateway's wall clock when it wrote the record.
    package let time: Timestamp
    /// The signed head under which the record was proved.
    package let head: Checkpoint
    /// The record's content; see the members in `audit/events.md`.
    package let core: JSON

    fileprivate init(index: UInt64, leafHash: Digest, time: Timestamp, head: Checkpoint, core: JSON) {
        self.index = index
        self.leafHash = leafHash
        self.time = time
        self.head = head
        self.core = core
    }
}

extension Receipt {
    /// `magic ‖ index 8 ‖ note ‖ handovers ‖ proof ‖ leaf ‖ salt 32 ‖ core`, each part after its length or count in two bytes.
    package var bytes: [UInt8] {
        var bytes = Self.magic + index.bigEndianBytes
        func add(_ part: [UInt8]) {
            bytes += UInt16(part.count).bigEndianBytes
            bytes += part
        }
        add(note)
        add(handovers)
        bytes += UInt16(proof.count).bigEndianBytes
        for hash in proof { bytes += hash.bytes }
        add(leaf)
        bytes += opening.salt
        add(opening.core)
        return bytes
    }

    package init(parsing bytes: [UInt8]) throws(LogError) {
        guard bytes.count <= Self.byteCountMax, bytes.starts(with: Self.magic) else {
            throw LogError(.malformed, "not a receipt")
        }
        var reader = Reader(rest: bytes[Self.magic.count...])
        index = try reader.take(8).reduce(0) { $0 << 8 | UInt64($1) }
        note = try Array(reader.takeCounted(atMost: SignedNote.byteCountMax))
        handovers = try Array(reader.takeCounted(atMost: SigningPeriods.byteCountMax))
        let hashes = try reader.takeLength()
        guard hashes <= 64 else { throw LogError(.malformed, "a receipt's proof is longer than any tree is high") }
        let flat = try Array(reader.take(hashes * Digest.byteCount))
        proof = (0..<hashes).map { Digest(flat[$0 * Digest.byteCount..<($0 + 1) * Digest.byteCount])! }
        leaf = try Array(reader.takeCounted(atMost: Limits.leafBytesMax))
        let salt = try Array(reader.take(Opening.saltBytes))
        opening = Opening(salt: salt, core: try Array(reader.takeCounted(atMost: Limits.leafBytesMax)))
        guard reader.rest.isEmpty else { throw LogError(.malformed, "a receipt has bytes after its end") }
    }
}

private struct Reader {
    var rest: ArraySlice<UInt8>

    mutating func take(_ count: Int) throws(LogError) -> ArraySlice<UInt8> {
        guard rest.count >= count else { throw LogError(.malformed, "a receipt is cut") }
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count)
    }

    mutating func takeLength() throws(LogError) -> Int { try take(2).reduce(0) { $0 << 8 | Int($1) } }

    mutating func takeCounted(atMost limit: Int) throws(LogError) -> ArraySlice<UInt8> {
        let count = try takeLength()
        guard count <= limit else { throw LogError(.malformed, "a part of a receipt is too long") }
        return try take(count)
    }
}
