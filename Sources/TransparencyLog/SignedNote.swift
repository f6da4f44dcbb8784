import Sealing
internal import Vocabulary

/// A text with signatures under it: C2SP signed-note.
struct SignedNote: Hashable {
    static let byteCountMax = 16 * 1024

    /// Ends with a newline.
    let text: String
    let signatures: [NoteSignature]

    init(text: String, signatures: [NoteSignature]) throws(LogError) {
        self.text = text
        self.signatures = signatures
        guard bytes.count <= Self.byteCountMax else { throw Self.notText }
    }

    init(parsing bytes: [UInt8]) throws(LogError) {
        guard bytes.count <= Self.byteCountMax, let whole = String(validating: bytes, as: UTF8.self),
            whole.unicodeScalars.allSatisfy({ $0.value >= 0x20 || $0 == "\n" })
        else { throw Self.notText }
        guard let gap = bytes.lastGap, bytes.last == 0x0A, gap + 2 < bytes.count else {
            throw LogError(.malformed, "a signed note has no signatures after an empty line")
        }
        text = String(decoding: bytes[...gap], as: UTF8.self)
        signatures = try NoteSignature.lines(parsing: bytes[(gap + 2)...])
    }

    var bytes: [UInt8] { Array("\(text)\n\(signatures.map(\.line).joined())".utf8) }

    /// Throws unless `identity` has signed the text, once.
    func check(by identity: TrailIdentity) throws(LogError) {
        let own = signatures.filter { $0.name == identity.origin && $0.keyHash == identity.keyHash }
        guard let signature = own.first else {
            throw LogError(.unsigned, "a note is not signed by the log's key of its period")
        }
        guard own.count == 1, identity.key.isValid(signature.bytes, for: Array(text.utf8)) else {
            throw LogError(.unsigned, "a note's signature does not fit the log's key")
        }
    }

    private static let notText = LogError(.malformed, "a signed note is not a text of at most \(byteCountMax) bytes")
}

/// One line `— name base64` under a note.
package struct NoteSignature: Hashable, Sendable {
    package let name: String
    /// The first four bytes of what names the key (C2SP signed-note).
    let keyHash: UInt32
    /// What follows the key hash.
    let bytes: [UInt8]

    init(by identity: TrailIdentity, _ signature: [UInt8]) {
        name = identity.origin
        keyHash = identity.keyHash
        bytes = signature
    }

    package var line: String { "\u{2014} \(name) \(Base64.encode(keyHash.bigEndianBytes + bytes))\n" }

    /// Reads lines that each end with a newline, as a witness answers.
    package static func lines(parsing bytes: ArraySlice<UInt8>) throws(LogError) -> [NoteSignature] {
        guard bytes.last == 0x0A else { throw LogError(.malformed, "a signature line of a note is cut") }
        var signatures: [NoteSignature] = []
        for line in bytes.dropLast().split(separator: 0x0A, omittingEmptySubsequences: false) {
            signatures.append(try NoteSignature(parsing: line))
        }
        return signatures
    }

    private init(parsing line: ArraySlice<UInt8>) throws(LogError) {
        let parts = line.split(separator: 0x20, omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0].elementsEqual("\u{2014}".utf8),
            let name = String(validating: parts[1], as: UTF8.self), TrailIdentity.isName(name),
            let decoded = Base64.decode(parts[2]), decoded.count >= 5
        else { throw LogError(.malformed, "a signature line of a note is not well formed") }
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
