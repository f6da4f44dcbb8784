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
        let parts = text.split(separator: "+", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, parts[1].utf8.count == 8, let hash = UInt32(parts[1], radix: 16),
            let bytes = Base64.decode(parts[2].utf8), bytes.first == Self.ed25519,
            let key = VerifyingKey(bytes: Array(bytes.dropFirst()))
        else { throw LogError(.malformed, "not a verifier key of the form name+hash+base64") }
        try self.init(origin: String(parts[0]), key: key)
        guard hash == keyHash, text == description else {
            throw LogError(.malformed, "a verifier key's hash does not fit its name and key")
        }
    }

    package var description: String {
        "\(origin)+\(Hex.encode(keyHash.bigEndianBytes))+\(Base64.encode([Self.ed25519] + key.bytes))"
    }

    /// The first four bytes of SHA-256 of name, newline, algorithm and key (C2SP signed-note).
    var keyHash: UInt32 {
        let hash = SHA256.hash(Array(origin.utf8) + [0x0A, Self.ed25519] + key.bytes).bytes
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
        let signature = key.sign(Array(text.utf8))
        let line = Base64.encode(identity.keyHash.bigEndianBytes + signature)
        return SignedCheckpoint(checkpoint: self, note: Array("\(text)\n\u{2014} \(origin) \(line)\n".utf8))
    }
}

/// A checkpoint whose signature by the log's own key has been checked, with the note that anyone can check again.
package struct SignedCheckpoint: Hashable, Sendable {
    package static let noteBytesMax = 16 * 1024

    package let checkpoint: Checkpoint
    package let note: [UInt8]

    fileprivate init(checkpoint: Checkpoint, note: [UInt8]) {
        self.checkpoint = checkpoint
        self.note = note
    }

    package var size: UInt64 { checkpoint.size }
    package var root: Digest { checkpoint.root }

    /// Believes `note` only when it is a well-formed checkpoint of `identity`'s log signed by its key. Signatures of
    /// others (witnesses) may stand beside it.
    package init(parsing note: [UInt8], by identity: TrailIdentity) throws(LogError) {
        guard note.count <= Self.noteBytesMax, let whole = String(validating: note, as: UTF8.self),
            whole.unicodeScalars.allSatisfy({ $0.value >= 0x20 || $0 == "\n" })
        else { throw LogError(.malformed, "a checkpoint is not a text of at most \(Self.noteBytesMax) bytes") }
        guard let gap = note.lastGap, note.last == 0x0A, gap + 2 < note.count else {
            throw LogError(.malformed, "a checkpoint has no signatures after an empty line")
        }
        let text = Array(note[...gap])
        var valid = false
        for line in note[(gap + 2)..<(note.count - 1)].split(separator: 0x0A, omittingEmptySubsequences: false) {
            let signature = try NoteSignature(parsing: line)
            guard signature.name == identity.origin, signature.keyHash == identity.keyHash else { continue }
            guard !valid, identity.key.isValid(signature.bytes, for: text) else {
                throw LogError(.unsigned, "a checkpoint's signature does not fit the log's key")
            }
            valid = true
        }
        guard valid else { throw LogError(.unsigned, "a checkpoint is not signed by the log's key") }
        let lines = text.split(separator: 0x0A, omittingEmptySubsequences: false)
        // Origin, size, root, optional extension lines, and nothing after the last newline.
        guard lines.count >= 4, lines.dropLast().allSatisfy({ !$0.isEmpty }), lines.last!.isEmpty else {
            throw LogError(.malformed, "a checkpoint has no origin, size and root")
        }
        guard lines[0].elementsEqual(identity.origin.utf8) else {
            throw LogError(.wrongOrigin, "a checkpoint is of another log")
        }
        guard let size = UInt64(String(decoding: lines[1], as: UTF8.self)),
            lines[1].elementsEqual(String(size).utf8), size <= 1 << 62,
            let root = Base64.decode(lines[2]).flatMap({ Digest($0) })
        else { throw LogError(.malformed, "a checkpoint's size or root is not well formed") }
        self.init(checkpoint: Checkpoint(origin: identity.origin, size: size, root: root), note: note)
    }
}

/// One line `— name base64` of a signed note (C2SP signed-note).
private struct NoteSignature {
    let name: String
    let keyHash: UInt32
    let bytes: [UInt8]

    init(parsing line: ArraySlice<UInt8>) throws(LogError) {
        let parts = line.split(separator: 0x20, omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0].elementsEqual("\u{2014}".utf8),
            let name = String(validating: parts[1], as: UTF8.self), TrailIdentity.isName(name),
            let decoded = Base64.decode(parts[2]), decoded.count >= 5
        else { throw LogError(.malformed, "a signature line of a checkpoint is not well formed") }
        self.name = name
        keyHash = decoded[..<4].reduce(0) { $0 << 8 | UInt32($1) }
        bytes = Array(decoded[4...])
    }
}

extension [UInt8] {
    /// Where the newline before the last empty line stands.
    fileprivate var lastGap: Int? {
        var at = count - 2
        while at >= 0 {
            if self[at] == 0x0A, self[at + 1] == 0x0A { return at }
            at -= 1
        }
        return nil
    }
}

extension FixedWidthInteger {
    /// The integer's bytes, most significant first.
    var bigEndianBytes: [UInt8] { withUnsafeBytes(of: bigEndian) { Array($0) } }
}
