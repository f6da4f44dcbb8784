package import Vocabulary

/// An inclusion proof as a text file of its own: C2SP tlog-proof.
package struct LogProof: Hashable, Sendable {
    package static let byteCountMax = 32 * 1024
    private static let title = "c2sp.org/tlog-proof@v1"

    package let index: UInt64
    package let hashes: [Digest]
    /// The signed checkpoint that the proof leads to.
    package let note: [UInt8]

    package init(index: UInt64, hashes: [Digest], head: SignedCheckpoint) {
        self.index = index
        self.hashes = hashes
        note = head.note
    }

    package var bytes: [UInt8] {
        let lines = [Self.title, "index \(index)"] + hashes.map { Base64.encode($0.bytes) }
        return Array((lines.joined(separator: "\n") + "\n\n").utf8) + note
    }

    package init(parsing bytes: [UInt8]) throws(LogError) {
        let malformed = LogError(.malformed, "a proof file is not well formed")
        guard bytes.count <= Self.byteCountMax,
            let gap = bytes.indices.dropLast().first(where: { bytes[$0] == 0x0A && bytes[$0 + 1] == 0x0A })
        else { throw malformed }
        let lines = bytes[..<gap].split(separator: 0x0A, omittingEmptySubsequences: false)
        guard lines.count >= 2, lines.count <= 66, lines[0].elementsEqual(Self.title.utf8),
            lines[1].starts(with: "index ".utf8),
            let index = UInt64(String(decoding: lines[1].dropFirst(6), as: UTF8.self)),
            lines[1].elementsEqual("index \(index)".utf8)
        else { throw malformed }
        var hashes: [Digest] = []
        for line in lines[2...] {
            guard let hash = Base64.decode(line).flatMap({ Digest($0) }) else { throw malformed }
            hashes.append(hash)
        }
        self.index = index
        self.hashes = hashes
        note = Array(bytes[(gap + 2)...])
    }

    /// The head under which a leaf with this hash is proved to be in the log.
    package func verified(_ leafHash: Digest, in periods: SigningPeriods) throws(LogError) -> SignedCheckpoint {
        let head = try SignedCheckpoint(parsing: note, in: periods)
        try Merkle.verifyInclusion(of: leafHash, index: index, size: head.size, proof: hashes, root: head.root)
        return head
    }
}
