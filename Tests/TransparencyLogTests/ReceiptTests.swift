import Foundation
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

/// A small log in memory whose fifth entry is a record.
private struct Sample {
    let identity: TrailIdentity
    let receipt: Receipt
    let leaf: [UInt8]
    static let core: JSON = ["event": "run.decided", "decision": "permit", "run": "run-1"]

    init(origin: String = "example.org/trail", kind: LeafHeader.Kind = .record) throws {
        let key = SigningKey.generate()
        identity = try TrailIdentity(origin: origin, key: key.verifyingKey)
        let era = try EraKey(SecretBytes.random(count: 32))
        let sealed = try era.seal(
            core: Self.core, kind: kind, era: 3, time: Timestamp(milliseconds: 1_790_000_000_000), origin: origin,
            nonce: RandomBytes.array(24))
        leaf = sealed.leaf
        var tree = MerkleTree()
        for number in 0..<9 { tree.append(number == 4 ? Merkle.leafHash(leaf) : Merkle.leafHash([UInt8(number)])) }
        let head = try Checkpoint(origin: origin, size: tree.size, root: tree.root).signed(by: key)
        receipt = Receipt(
            index: 4, head: head, periods: SigningPeriods(identity), proof: tree.inclusionProof(index: 4, size: 9),
            leaf: leaf, opening: sealed.opening)
    }
}

@Suite("Receipts")
struct ReceiptTests {
    @Test("a receipt tells the record's content to whoever knows the log")
    func verifies() throws {
        let sample = try Sample()
        let parsed = try Receipt(parsing: sample.receipt.bytes)
        #expect(parsed == sample.receipt)
        let record = try parsed.verified(by: sample.identity)
        #expect(record.core == Sample.core)
        #expect(record.index == 4 && record.head.size == 9)
        #expect(record.leafHash == Merkle.leafHash(sample.leaf))
        #expect(record.time == Timestamp(milliseconds: 1_790_000_000_000))
    }

    @Test("a receipt of another log, another key or of a structural entry is refused")
    func others() throws {
        let sample = try Sample()
        let renamed = try TrailIdentity(origin: "example.org/other", key: sample.identity.key)
        #expect(throws: LogError.self) { try sample.receipt.verified(by: renamed) }
        let rekeyed = try TrailIdentity(origin: "example.org/trail", key: SigningKey.generate().verifyingKey)
        #expect(throws: LogError.self) { try sample.receipt.verified(by: rekeyed) }
        let structural = try Sample(kind: .trail)
        #expect(throws: LogError.self) { try structural.receipt.verified(by: structural.identity) }
    }

    @Test("every flipped bit of a receipt is refused")
    func flipped() throws {
        let sample = try Sample()
        let bytes = sample.receipt.bytes
        for index in bytes.indices {
            var broken = bytes
            broken[index] ^= 1 << UInt8(index % 8)
            #expect(throws: LogError.self, "byte \(index)") {
                try Receipt(parsing: broken).verified(by: sample.identity)
            }
        }
    }

    @Test("every truncation, and anything after the end, is refused")
    func truncated() throws {
        let bytes = try Sample().receipt.bytes
        for length in 0..<bytes.count {
            #expect(throws: LogError.self) { try Receipt(parsing: Array(bytes[..<length])) }
        }
        #expect(throws: LogError.self) { try Receipt(parsing: bytes + [0]) }
        #expect(throws: LogError.self) { try Receipt(parsing: bytes + [UInt8](repeating: 0, count: 100_000)) }
    }

    @Test("mutated receipts never crash the parser nor verify as something else", arguments: [1, 2, 3])
    func fuzz(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let sample = try Sample()
        let bytes = sample.receipt.bytes
        for _ in 0..<2_000 {
            var broken = bytes
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let at = Int.random(in: 0..<broken.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: broken[at] = UInt8.random(in: 0...255, using: &random)
                case 1: broken.remove(at: at)
                default: broken.insert(UInt8.random(in: 0...255, using: &random), at: at)
                }
            }
            if let record = try? Receipt(parsing: broken).verified(by: sample.identity) {
                #expect(record.core == Sample.core && record.index == 4, "seed \(seed)")
            }
        }
    }
}

@Suite("Leaves")
struct LeafTests {
    @Test("an entry opens under its era's key and nowhere else")
    func opens() throws {
        let era = try EraKey(SecretBytes.random(count: 32))
        let other = try EraKey(SecretBytes.random(count: 32))
        let core: JSON = ["event": "x"]
        let (leaf, opening) = try era.seal(
            core: core, kind: .record, era: 9, time: Timestamp(milliseconds: 5), origin: "o",
            nonce: RandomBytes.array(24))
        let opened = try era.open(leaf: leaf[...], origin: "o")
        #expect(opened.core == core && opened.opening == opening && opened.header.era == 9)
        #expect(throws: LogError.self) { try era.open(leaf: leaf[...], origin: "p") }
        #expect(throws: LogError.self) { try other.open(leaf: leaf[...], origin: "o") }
        for index in leaf.indices {
            var broken = leaf
            broken[index] ^= 0x10
            #expect(throws: LogError.self, "byte \(index)") { try era.open(leaf: broken[...], origin: "o") }
        }
    }

    @Test("cores of different lengths make leaves of one length, up to a multiple of 256")
    func padded() throws {
        let era = try EraKey(SecretBytes.random(count: 32))
        func length(_ characters: Int) throws -> Int {
            try era.seal(
                core: .string(String(repeating: "a", count: characters)), kind: .record, era: 1,
                time: Timestamp(milliseconds: 0), origin: "o", nonce: RandomBytes.array(24)
            ).leaf.count
        }
        #expect(try length(1) == length(200))
        #expect(try length(251) == length(250) + 256)
        #expect(try length(EraKey.coreBytesMax - 2) <= Limits.leafBytesMax)
        #expect(throws: LogError.self) { try length(EraKey.coreBytesMax - 1) }
    }

    @Test("the header's bytes are the documented ones and read back")
    func header() throws {
        let era = try EraKey(SecretBytes(copying: [UInt8](repeating: 1, count: 32)))
        let nonce = [UInt8](repeating: 0xAB, count: 24)
        let (leaf, _) = try era.seal(
            core: .null, kind: .eraOpened, era: 258, time: Timestamp(milliseconds: 770), origin: "o", nonce: nonce)
        let header = try LeafHeader(leaf: leaf[...])
        #expect(Array(leaf[..<18]) == [1, 2, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 2])
        #expect(Array(leaf[82..<106]) == nonce)
        #expect(header.bytes == Array(leaf[..<LeafHeader.byteCount]))
        #expect(header.keyCommitment == era.commitment)
    }
}

@Suite("Checkpoints")
struct CheckpointTests {
    // golang.org/x/mod/sumdb/note, package documentation: the example key and note.
    static let goKey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"

    @Test("a verifier key of Go's documentation reads and writes the same")
    func goVerifierKey() throws {
        let identity = try TrailIdentity(parsing: Self.goKey)
        #expect(identity.origin == "PeterNeumann")
        #expect(identity.description == Self.goKey)
        for index in Self.goKey.utf8.indices {
            var text = Array(Self.goKey.utf8)
            let at = Self.goKey.utf8.distance(from: Self.goKey.utf8.startIndex, to: index)
            text[at] ^= 1
            #expect(throws: LogError.self) { try TrailIdentity(parsing: String(decoding: text, as: UTF8.self)) }
        }
    }

    @Test("a signed head reads back, also beside a witness's signature; every changed byte is refused")
    func signed() throws {
        let key = SigningKey.generate()
        let identity = try TrailIdentity(origin: "example.org/log", key: key.verifyingKey)
        let head = Checkpoint(origin: "example.org/log", size: 20_852_163, root: Merkle.leafHash([1]))
        let signed = try head.signed(by: key)
        #expect(try SignedCheckpoint(parsing: signed.note, by: identity).checkpoint == head)
        let witnessed = signed.note + "\u{2014} witness.example/w AAAAAWFhYWFhYWFh\n".utf8
        #expect(try SignedCheckpoint(parsing: witnessed, by: identity).checkpoint == head)
        for index in signed.note.indices {
            for change: UInt8 in [0x01, 0x20, 0x80] {
                var broken = signed.note
                broken[index] ^= change
                #expect(throws: LogError.self, "byte \(index)") { try SignedCheckpoint(parsing: broken, by: identity) }
            }
            #expect(throws: LogError.self) {
                try SignedCheckpoint(parsing: Array(signed.note[..<index]), by: identity)
            }
        }
    }

    @Test(
        "a head that is signed but not in canonical form is refused",
        arguments: [
            "example.org/log\n007\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            "example.org/log\n-1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            "example.org/log\n+1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            "example.org/log\n9223372036854775807\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            "example.org/log\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=\n",
            "example.org/log\n7\n47DEQpj8HBSa\n", "example.org/log\n7\n",
            "example.org/other\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
            "example.org/log\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\nx\n",
        ])
    func nonCanonical(text: String) throws {
        let key = SigningKey.generate()
        let identity = try TrailIdentity(origin: "example.org/log", key: key.verifyingKey)
        // The signature line of a note by this key over any other text, with the signature over this text in it.
        let hash = try Checkpoint(origin: "example.org/log", size: 1, root: Merkle.leafHash([])).signed(by: key)
        let line = String(decoding: hash.note, as: UTF8.self).split(separator: "\n").last!
        let encoded = Data(base64Encoded: String(line.split(separator: " ").last!))!
        let signature = Data(encoded.prefix(4)) + Data(key.sign(Array(text.utf8)))
        let note = "\(text)\n\u{2014} example.org/log \(signature.base64EncodedString())\n"
        #expect(throws: LogError.self) { try SignedCheckpoint(parsing: Array(note.utf8), by: identity) }
    }

    @Test("a name with a space, a plus sign, a control character or nothing in it is refused")
    func names() {
        let key = SigningKey.generate().verifyingKey
        for name in ["", "a b", "a+b", "a\nb", "a\u{2028}b", String(repeating: "a", count: 129)] {
            #expect(throws: LogError.self) { try TrailIdentity(origin: name, key: key) }
        }
    }
}
