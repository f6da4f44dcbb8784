package import Sealing
import Vocabulary

/// The keys that sign a log's heads, one period after the other.
///
/// Whoever verifies starts from the first key alone. Each later one is introduced by a *handover*: a note over the head
/// at which the old key's period ends, signed by both keys. A head is believed only under the key of the period that
/// holds its size, so a key that is stolen later signs nothing about the past, and one that was retired nothing new.
package struct SigningPeriods: Hashable, Sendable {
    /// A rotation a year for a generation.
    package static let handoversMax = 32
    package static let byteCountMax = handoversMax * Handover.byteCountMax

    /// The log's name and first key: what is published, pinned and compared.
    package let identity: TrailIdentity
    package private(set) var handovers: [Handover] = []

    package init(_ identity: TrailIdentity) { self.identity = identity }

    /// Reads handovers as `bytes` writes them, each checked against the period before it.
    package init(_ identity: TrailIdentity, parsing bytes: [UInt8]) throws(LogError) {
        self.identity = identity
        if bytes.isEmpty { return }
        guard bytes.count <= Self.byteCountMax else { throw LogError(.malformed, "a log has too many signing periods") }
        var lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false)[...]
        guard lines.popLast()?.isEmpty == true else { throw LogError(.malformed, "the signing periods are cut") }
        while !lines.isEmpty {
            guard lines.count >= Handover.lineCount else {
                throw LogError(.malformed, "the signing periods are cut")
            }
            let note = lines.prefix(Handover.lineCount).flatMap { $0 + [0x0A] }
            try append(try Handover(parsing: note, from: current))
            lines = lines.dropFirst(Handover.lineCount)
        }
    }

    package var bytes: [UInt8] { handovers.flatMap(\.note) }

    /// The key of the open period, under the log's name.
    package var current: TrailIdentity { handovers.last?.next ?? identity }

    /// Whose signature a head of this size needs.
    package func signer(ofHead size: UInt64) -> TrailIdentity {
        handovers.last { $0.head.size < size }?.next ?? identity
    }

    /// Ends the open period after `head`, which its key has signed, and begins that of `newKey`.
    package mutating func handOver(
        after head: Checkpoint, from oldKey: borrowing SigningKey, to newKey: borrowing SigningKey
    ) throws(LogError) {
        guard oldKey.verifyingKey == current.key, head.origin == identity.origin else {
            throw LogError(.unsigned, "a signing period ends under its own key only")
        }
        let next = try TrailIdentity(origin: identity.origin, key: newKey.verifyingKey)
        let text = Handover.text(head, next)
        let note = try SignedNote(
            text: text,
            signatures: [
                NoteSignature(by: current, oldKey.sign(Array(text.utf8))),
                NoteSignature(by: next, newKey.sign(Array(text.utf8))),
            ])
        try append(Handover(parsing: note.bytes, from: current))
    }

    private mutating func append(_ handover: Handover) throws(LogError) {
        guard handovers.count < Self.handoversMax else {
            throw LogError(.malformed, "a log has at most \(Self.handoversMax + 1) signing periods")
        }
        guard handover.head.size > handovers.last?.head.size ?? 0 else {
            throw LogError(.incomplete, "a signing period does not begin after the one before it")
        }
        guard handover.next.key != identity.key, !handovers.contains(where: { $0.next.key == handover.next.key }) else {
            throw LogError(.unsigned, "a signing key comes back after its period")
        }
        handovers.append(handover)
    }
}

/// The end of one signing period and the beginning of the next.
package struct Handover: Hashable, Sendable {
    package static let byteCountMax = 1024
    private static let title = "sekisho signing period v1"
    static let lineCount = 8

    /// The last head that the old key may sign.
    package let head: Checkpoint
    /// The key from there on.
    package let next: TrailIdentity
    let note: [UInt8]

    /// `title, origin, size, root, the next key's verifier line`, signed by both.
    fileprivate static func text(_ head: Checkpoint, _ next: TrailIdentity) -> String {
        "\(title)\n\(head.text)\(next)\n"
    }

    fileprivate init(parsing note: [UInt8], from old: TrailIdentity) throws(LogError) {
        let malformed = LogError(.malformed, "a signing period's note is not well formed")
        guard note.count <= Self.byteCountMax else { throw malformed }
        let signed = try SignedNote(parsing: note)
        let lines = signed.text.split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.count == 6, signed.signatures.count == 2, lines[0] == Self.title, lines[1] == old.origin,
            let size = UInt64(lines[2]), String(size) == lines[2],
            let root = Base64.decode(lines[3].utf8).flatMap({ Digest($0) })
        else { throw malformed }
        head = Checkpoint(origin: old.origin, size: size, root: root)
        next = try TrailIdentity(parsing: String(lines[4]))
        guard next.origin == old.origin, signed.text == Self.text(head, next) else { throw malformed }
        try signed.check(by: old)
        try signed.check(by: next)
        self.note = note
    }
}
