package import Sealing
package import Vocabulary

/// Who signs a log's heads: its name and public key. Text form: the C2SP verifier key `origin+hash+base64`.
package struct TrailIdentity: Hashable, Sendable, CustomStringConvertible {
    package static let originBytesMax = 128

    package let origin: String
    package let key: VerifyingKey

    package init(origin: String, key: VerifyingKey) throws(LogError) {
        guard Self.isName(origin) else {
            throw LogError(.malformed, "a log's name has 1 to 128 printable characters without spaces and plus signs")
        }
        self.origin = origin
        self.key = key
    }

    package init(parsing text: String) throws(LogError) {
        let (name, key) = try Self.parse(text, Self.ed25519)
        try self.init(origin: name, key: key)
    }

    package var description: String { Self.line(origin, Self.ed25519, key) }

    /// A verifier key's line, `name+hash+base64(algorithm ‖ key)`.
    static func line(_ name: String, _ algorithm: UInt8, _ key: VerifyingKey) -> String {
        let hash = Hex.encode(keyHash(name, algorithm, key).bigEndianBytes)
        return "\(name)+\(hash)+\(Base64.encode([algorithm] + key.bytes))"
    }

    static func parse(_ text: String, _ algorithm: UInt8) throws(LogError) -> (name: String, key: VerifyingKey) {
        let parts = text.split(separator: "+", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, isName(parts[0]), let bytes = Base64.decode(parts[2].utf8), bytes.first == algorithm,
            let key = VerifyingKey(bytes: Array(bytes.dropFirst()))
        else { throw LogError(.malformed, "not a verifier key of the form name+hash+base64 for this use") }
        let name = String(parts[0])
        guard text == line(name, algorithm, key) else {
            throw LogError(.malformed, "a verifier key's hash does not fit its name and key")
        }
        return (name, key)
    }

    var keyHash: UInt32 { Self.keyHash(origin, Self.ed25519, key) }

    /// The first four bytes of SHA-256 of name, newline, algorithm and key (C2SP signed-note).
    static func keyHash(_ name: String, _ algorithm: UInt8, _ key: VerifyingKey) -> UInt32 {
        let hash = SHA256.hash(Array(name.utf8) + [0x0A, algorithm] + key.bytes).bytes
        return hash[..<4].reduce(0) { $0 << 8 | UInt32($1) }
    }

    private static let ed25519: UInt8 = 1

    static func isName(_ text: some StringProtocol) -> Bool {
        (1...originBytesMax).contains(text.utf8.count) && !text.contains("+")
            && text.unicodeScalars.allSatisfy { $0.value > 0x20 && $0.value != 0x7F && !$0.properties.isWhitespace }
    }
}

/// A log's head: so many entries, with this root.
package struct Checkpoint: Hashable, Sendable {
    package let origin: String
    package let size: UInt64
    package let root: Digest

    package init(origin: String, size: UInt64, root: Digest) {
        self.origin = origin
        self.size = size
        self.root = root
    }

    /// The C2SP tlog-checkpoint text, which is what is signed.
    var text: String { "\(origin)\n\(size)\n\(Base64.encode(root.bytes))\n" }

    /// The signed note. `key` belongs to the log named `origin`.
    package func signed(by key: borrowing SigningKey) throws(LogError) -> SignedCheckpoint {
        let identity = try TrailIdentity(origin: origin, key: key.verifyingKey)
        let signature = NoteSignature(by: identity, key.sign(Array(text.utf8)))
        return SignedCheckpoint(checkpoint: self, note: try SignedNote(text: text, signatures: [signature]).bytes)
    }

    /// Reads a note's text: origin, size, root, optional extension lines, and nothing after the last newline.
    init(parsing text: String) throws(LogError) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.count >= 4, lines.dropLast().allSatisfy({ !$0.isEmpty }), lines.last!.isEmpty else {
            throw LogError(.malformed, "a checkpoint has no origin, size and root")
        }
        guard let size = UInt64(lines[1]), String(size) == lines[1], size <= 1 << 62,
            let root = Base64.decode(lines[2].utf8).flatMap({ Digest($0) })
        else { throw LogError(.malformed, "a checkpoint's size or root is not well formed") }
        self.init(origin: String(lines[0]), size: size, root: root)
    }
}

/// A checkpoint whose signature by the log's own key has been checked, with the note that anyone can check again.
package struct SignedCheckpoint: Hashable, Sendable {
    package let checkpoint: Checkpoint
    package let note: [UInt8]

    fileprivate init(checkpoint: Checkpoint, note: [UInt8]) {
        self.checkpoint = checkpoint
        self.note = note
    }

    package var size: UInt64 { checkpoint.size }
    package var root: Digest { checkpoint.root }

    /// Believes `note` only when it is a well-formed checkpoint of the log signed by the key whose period holds its
    /// size. Signatures of others (witnesses) may stand beside it.
    package init(parsing note: [UInt8], in periods: SigningPeriods) throws(LogError) {
        let signed = try SignedNote(parsing: note)
        let checkpoint = try Checkpoint(parsing: signed.text)
        guard checkpoint.origin == periods.identity.origin else {
            throw LogError(.wrongOrigin, "a checkpoint is of another log")
        }
        try signed.check(by: periods.signer(ofHead: checkpoint.size))
        self.init(checkpoint: checkpoint, note: note)
    }

    /// As above, for a log that has had one key only.
    package init(parsing note: [UInt8], by identity: TrailIdentity) throws(LogError) {
        try self.init(parsing: note, in: SigningPeriods(identity))
    }

    /// The same head with more signatures beside its own; those that are there already are not doubled.
    package func adding(_ signatures: [NoteSignature]) throws(LogError) -> SignedCheckpoint {
        let signed = try SignedNote(parsing: note)
        let fresh = signatures.filter { new in
            !signed.signatures.contains { $0.name == new.name && $0.keyHash == new.keyHash }
        }
        let all = try SignedNote(text: signed.text, signatures: signed.signatures + fresh)
        return SignedCheckpoint(checkpoint: checkpoint, note: all.bytes)
    }
}

extension FixedWidthInteger {
    /// The integer's bytes, most significant first.
    var bigEndianBytes: [UInt8] { withUnsafeBytes(of: bigEndian) { Array($0) } }
}
