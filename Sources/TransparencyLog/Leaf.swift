package import Sealing
package import Vocabulary

/// What everybody sees of a record: when, what kind, under which era's key, and commitments to its key and content.
package struct LeafHeader: Hashable, Sendable {
    /// The structural kinds; what a record is about is inside its sealed core.
    package enum Kind: UInt8, Sendable, CaseIterable {
        case record = 1
        case eraOpened = 2
        case eraClosed = 3
        /// The trail about itself: created, recovered, full.
        case trail = 4
    }

    package static let byteCount = 106
    package static let nonceBytes = 24
    private static let version: UInt8 = 1

    package let kind: Kind
    /// The era's number; its first leaf is of kind `eraOpened`.
    package let era: UInt64
    package let time: Timestamp
    /// `KeyDerivation.commitment` of the era's key.
    package let keyCommitment: Digest
    /// `SHA-256("sekisho core v1" ‖ salt ‖ core)`: lets one record be disclosed without its era's key.
    package let coreCommitment: Digest
    private let nonceWords: NonceWords

    package var nonce: [UInt8] { withUnsafeBytes(of: nonceWords) { Array($0) } }

    /// `version 1 ‖ kind 1 ‖ era 8 ‖ milliseconds 8 ‖ key commitment 32 ‖ core commitment 32 ‖ nonce 24`, big endian.
    package var bytes: [UInt8] {
        var bytes: [UInt8] = [Self.version, kind.rawValue]
        bytes.reserveCapacity(Self.byteCount)
        withUnsafeBytes(of: era.bigEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: time.milliseconds.bigEndian) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: keyCommitment) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: coreCommitment) { bytes.append(contentsOf: $0) }
        withUnsafeBytes(of: nonceWords) { bytes.append(contentsOf: $0) }
        return bytes
    }

    /// Reads the header at the start of a leaf.
    package init(leaf: ArraySlice<UInt8>) throws(LogError) {
        guard leaf.count >= Self.byteCount else { throw LogError(.malformed, "an entry is shorter than its header") }
        guard leaf[leaf.startIndex] == Self.version else {
            throw LogError(.malformed, "an entry has an unknown version")
        }
        guard let kind = Kind(rawValue: leaf[leaf.startIndex + 1]) else {
            throw LogError(.malformed, "an entry has an unknown kind")
        }
        self = leaf.withUnsafeBytes { bytes in
            LeafHeader(
                kind: kind, era: UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt64.self)),
                time: Timestamp(
                    milliseconds: Int64(bigEndian: bytes.loadUnaligned(fromByteOffset: 10, as: Int64.self))),
                keyCommitment: Digest(bytes, at: 18), coreCommitment: Digest(bytes, at: 50),
                nonceWords: NonceWords(bytes, at: 82))
        }
    }

    fileprivate init(
        kind: Kind, era: UInt64, time: Timestamp, keyCommitment: Digest, coreCommitment: Digest,
        nonceWords: NonceWords
    ) {
        self.kind = kind
        self.era = era
        self.time = time
        self.keyCommitment = keyCommitment
        self.coreCommitment = coreCommitment
        self.nonceWords = nonceWords
    }
}

/// 24 bytes as they lie in a header, without an allocation for each header that is read.
private struct NonceWords: Hashable, Sendable {
    private let first: UInt64
    private let second: UInt64
    private let third: UInt64

    init(_ bytes: UnsafeRawBufferPointer, at offset: Int) {
        precondition(offset + LeafHeader.nonceBytes <= bytes.count, "a nonce is 24 bytes")
        first = bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
        second = bytes.loadUnaligned(fromByteOffset: offset + 8, as: UInt64.self)
        third = bytes.loadUnaligned(fromByteOffset: offset + 16, as: UInt64.self)
    }
}

/// What discloses one record to one reader: the salt of its commitment and its core, nothing of its era.
package struct Opening: Hashable, Sendable {
    package static let saltBytes = 32

    package let salt: [UInt8]
    /// RFC 8785 canonical JSON.
    package let core: [UInt8]

    package init(salt: [UInt8], core: [UInt8]) {
        self.salt = salt
        self.core = core
    }

    var commitment: Digest {
        var stream = SHA256Stream()
        stream.update("sekisho core v1")
        stream.update(salt)
        stream.update(core)
        return stream.finalize()
    }

    /// The core as JSON, when it is what `header` commits to and is in canonical form.
    package func verified(against header: LeafHeader) throws(LogError) -> JSON {
        guard salt.count == Self.saltBytes, commitment == header.coreCommitment else {
            throw LogError(.wrongEntry, "a disclosed core is not the one its entry commits to")
        }
        guard let core = try? JSON(parsing: core), core.canonical == self.core else {
            throw LogError(.wrongEntry, "a disclosed core is not canonical JSON")
        }
        return core
    }
}

/// The content key of one era: seals its records and opens them again.
package struct EraKey: ~Copyable, Sendable {
    package static let byteCount = 32

    package let commitment: Digest
    private let secret: SecretBytes
    private let sealingKey: SecretBytes
    private let saltKey: MACKey

    /// `secret` is 32 bytes.
    package init(_ secret: borrowing SecretBytes) throws(LogError) {
        guard secret.count == Self.byteCount else { throw LogError(.malformed, "an era's key is 32 bytes") }
        commitment = KeyDerivation.commitment(secret)
        sealingKey = KeyDerivation.hkdf(secret, info: "sekisho trail record v1")
        saltKey = MACKey(KeyDerivation.hkdf(secret, info: "sekisho core salt v1"))
        self.secret = secret.clone()
    }

    package borrowing func withSecret<Value: ~Copyable, Failure: Error>(
        _ body: (borrowing SecretBytes) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        try body(secret)
    }

    /// The most bytes a core can have: what is left of a leaf after header, length, padding and tag.
    package static let coreBytesMax =
        (Limits.leafBytesMax - LeafHeader.byteCount - SmallCipher.tagBytes) / padding * padding - 4
    private static let padding = 256

    /// A leaf: clear header ‖ sealed padded core. `nonce` is fresh random; never the index.
    package borrowing func seal(
        core: JSON, kind: LeafHeader.Kind, era: UInt64, time: Timestamp, origin: String, nonce: [UInt8]
    ) throws(LogError) -> (leaf: [UInt8], opening: Opening) {
        let bytes = core.canonical
        guard bytes.count <= Self.coreBytesMax else {
            throw LogError(.malformed, "a record is longer than \(Self.coreBytesMax) bytes")
        }
        let opening = Opening(salt: salt(nonce), core: bytes)
        let header = LeafHeader(
            kind: kind, era: era, time: time, keyCommitment: commitment, coreCommitment: opening.commitment,
            nonceWords: nonce.withUnsafeBytes { NonceWords($0, at: 0) })
        // Padding hides the core's length up to a multiple.
        let paddedCount = (4 + bytes.count + Self.padding - 1) / Self.padding * Self.padding
        var plaintext: [UInt8] = []
        plaintext.reserveCapacity(paddedCount)
        withUnsafeBytes(of: UInt32(bytes.count).bigEndian) { plaintext.append(contentsOf: $0) }
        plaintext += bytes
        plaintext.append(contentsOf: repeatElement(0, count: paddedCount - plaintext.count))
        let head = header.bytes
        return (
            SmallCipher.seal(plaintext, key: sealingKey, nonce: nonce, aad: head + origin.utf8, after: head), opening
        )
    }

    /// Opens a leaf of this era, and holds it to its own header.
    package borrowing func open(
        leaf: ArraySlice<UInt8>, origin: String
    ) throws(LogError) -> (header: LeafHeader, core: JSON, opening: Opening) {
        let header = try LeafHeader(leaf: leaf)
        guard header.keyCommitment == commitment else {
            throw LogError(.wrongEntry, "an entry commits to another key than its era's")
        }
        let plaintext: [UInt8]
        do {
            plaintext = try SmallCipher.open(
                Array(leaf.dropFirst(LeafHeader.byteCount)), key: sealingKey, nonce: header.nonce,
                aad: header.bytes + origin.utf8)
        } catch {
            throw LogError(.wrongEntry, "an entry does not open under its era's key")
        }
        guard plaintext.count >= 4 else { throw LogError(.wrongEntry, "an entry's core is cut") }
        let length = Int(plaintext[..<4].reduce(0) { $0 << 8 | UInt32($1) })
        guard length <= plaintext.count - 4, plaintext[(4 + length)...].allSatisfy({ $0 == 0 }) else {
            throw LogError(.wrongEntry, "an entry's padding is not well formed")
        }
        let opening = Opening(salt: salt(header.nonce), core: Array(plaintext[4..<4 + length]))
        return (header, try opening.verified(against: header), opening)
    }

    /// A key for each record would cost guarded memory for each; one keyed hash of the nonce is as unpredictable.
    private borrowing func salt(_ nonce: [UInt8]) -> [UInt8] { saltKey.tag(nonce) }
}
