import Foundation
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

/// A published case of https://github.com/transparency-dev/merkle/tree/main/testdata.
private struct MerkleCase: Decodable {
    let leafIdx: UInt64?
    let treeSize: UInt64?
    let size1: UInt64?
    let size2: UInt64?
    let start: UInt64?
    let end: UInt64?
    let size: UInt64?
    let root: String?
    let leafHash: String?
    let root1: String?
    let root2: String?
    let proof: [String]?
    let wantErr: Bool

    /// Whether everything that must be a hash is one. `Digest` refuses the other cases before a tree is asked.
    var isWellFormed: Bool {
        let hashes = (proof ?? []) + (leafIdx == nil ? [] : [root ?? "", leafHash ?? ""])
        return hashes.allSatisfy { Data(base64Encoded: $0)?.count == Digest.byteCount }
    }

    // Some consistency cases use the text "dont care 1" for a root. It stands for itself by its hash, so that equal
    // texts stay equal and different ones different.
    private func digest(_ base64: String?) -> Digest {
        let bytes = Array(Data(base64Encoded: base64 ?? "")!)
        return Digest(bytes) ?? SHA256.hash(bytes)
    }

    func verify() throws {
        let hashes = (proof ?? []).map { digest($0) }
        if let index = leafIdx {
            try Merkle.verifyInclusion(
                of: digest(leafHash), index: index, start: start ?? 0, end: end ?? treeSize!, proof: hashes,
                root: digest(root))
        } else if let old = size1 {
            try Merkle.verifyConsistency(
                oldSize: old, oldRoot: digest(root1), newSize: size2!, newRoot: digest(root2), proof: hashes)
        } else {
            try Merkle.verifyConsistency(
                start: start!, end: end!, subtreeRoot: digest(root1), size: size!, root: digest(root2), proof: hashes)
        }
    }
}

@Suite("Merkle trees")
struct MerkleTests {
    @Test(
        "every published case is accepted or refused as it must be", .enabled(if: SharedData.isPresent),
        arguments: [
            ("inclusion", 98), ("consistency", 98), ("subtreeinclusion", 204), ("subtreeconsistency", 118),
        ])
    func published(kind: String, count: Int) throws {
        let folder = SharedData.url("conformance/merkle/\(kind)")
        let files = FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil)!
            .compactMap { $0 as? URL }.filter { $0.pathExtension == "json" }
        #expect(files.count == count)
        for file in files {
            let given = try JSONDecoder().decode(MerkleCase.self, from: Data(contentsOf: file))
            let name = "\(kind)/\(file.deletingLastPathComponent().lastPathComponent)/\(file.lastPathComponent)"
            if given.wantErr {
                if given.isWellFormed { #expect(throws: LogError.self, "\(name)") { try given.verify() } }
            } else {
                #expect(throws: Never.self, "\(name)") { try given.verify() }
            }
        }
    }

    @Test("roots have the values of the Certificate Transparency test vectors")
    func knownRoots() {
        // certificate-transparency, cpp/merkletree/merkle_tree_test.cc: eight inputs and the root of each prefix.
        let inputs = [
            "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
        ]
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ]
        #expect(Merkle.root([]).hex == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        let leaves = inputs.map { Merkle.leafHash(Hex.decode($0)!) }
        for (count, root) in roots.enumerated() { #expect(Merkle.root(Array(leaves[...count])).hex == root) }
    }

    @Test("every inclusion and consistency proof of every small tree verifies, and no other root, size or index does")
    func allProofs() throws {
        var random = SeededRandom(seed: 6962)
        let leaves = (0..<70).map { _ in Merkle.leafHash(random.bytes(8)) }
        var tree = MerkleTree()
        for leaf in leaves { tree.append(leaf) }
        for size in 1...leaves.count {
            let size = UInt64(size)
            let root = tree.root(size: size)
            #expect(root == Merkle.root(Array(leaves[..<Int(size)])))
            for index in 0..<size {
                let proof = tree.inclusionProof(index: index, size: size)
                let leaf = leaves[Int(index)]
                try Merkle.verifyInclusion(of: leaf, index: index, size: size, proof: proof, root: root)
                let other = (index + 1) % size
                if other != index {
                    #expect(throws: LogError.self) {
                        try Merkle.verifyInclusion(of: leaf, index: other, size: size, proof: proof, root: root)
                    }
                }
            }
            for old in 1...size {
                let proof = tree.consistencyProof(oldSize: old, size: size)
                let oldRoot = tree.root(size: old)
                try Merkle.verifyConsistency(oldSize: old, oldRoot: oldRoot, newSize: size, newRoot: root, proof: proof)
                #expect(throws: LogError.self) {
                    try Merkle.verifyConsistency(
                        oldSize: old, oldRoot: Merkle.leafHash([1]), newSize: size, newRoot: root, proof: proof)
                }
                #expect(throws: LogError.self) {
                    try Merkle.verifyConsistency(
                        oldSize: old, oldRoot: oldRoot, newSize: size, newRoot: root, proof: proof + [root])
                }
            }
        }
    }

    @Test("a compact range has the root of the whole tree at every size")
    func compactRange() {
        var range = CompactRange()
        var leaves: [Digest] = []
        for number in 0..<300 {
            #expect(range.root == Self.naiveRoot(leaves[...]))
            let leaf = Merkle.leafHash([UInt8(number & 0xFF)])
            leaves.append(leaf)
            range.append(leaf)
        }
    }

    /// RFC 6962, 2.1, as it is written.
    static func naiveRoot(_ leaves: ArraySlice<Digest>) -> Digest {
        if leaves.isEmpty { return SHA256.hash([UInt8]()) }
        if leaves.count == 1 { return leaves.first! }
        var split = 1
        while split * 2 < leaves.count { split *= 2 }
        return SHA256.hash([1] + naiveRoot(leaves.prefix(split)).bytes + naiveRoot(leaves.dropFirst(split)).bytes)
    }
}

@Suite("Tiles")
struct TileTests {
    @Test(
        "paths are those of C2SP tlog-tiles",
        arguments: [
            (Tile(.hashes(level: 0), index: 0, count: 256), "tile/0/000"),
            (Tile(.hashes(level: 0), index: 1_234_067, count: 256), "tile/0/x001/x234/067"),
            (Tile(.hashes(level: 1), index: 273, count: 17), "tile/1/273.p/17"),
            (Tile(.entries, index: 1000, count: 1), "tile/entries/x001/000.p/1"),
        ])
    func paths(tile: Tile, path: String) { #expect(tile.path == path) }

    @Test("a log of 70,000 entries has the tiles the specification names")
    func all() {
        // tlog-tiles: "a tree of size 70000 is represented by 273 full level 0 tiles, one partial …"
        let tiles = Tile.all(size: 70_000)
        let full = tiles.filter { $0.count == 256 }
        let partial = Set(tiles.filter { $0.count < 256 }.map(\.path))
        #expect(full.count { $0.kind == .hashes(level: 0) } == 273)
        #expect(full.count { $0.kind == .hashes(level: 1) } == 1)
        #expect(partial == ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1", "tile/entries/273.p/112"])
    }

    @Test("the new tiles of each step together are all tiles")
    func new() {
        var random = SeededRandom(seed: 5)
        var size: UInt64 = 0
        var written: Set<Tile> = []
        for _ in 0..<60 {
            let next = size + UInt64.random(in: 1...2000, using: &random)
            written.formUnion(Tile.new(oldSize: size, size: next))
            size = next
            #expect(written.isSuperset(of: Tile.all(size: size)))
        }
        #expect(Tile.new(oldSize: size, size: size).isEmpty)
    }

    @Test("a bundle gives its entries back, and any other length is refused")
    func bundles() throws {
        let entries: [[UInt8]] = [[1, 2, 3], [], [UInt8](repeating: 7, count: 300)]
        let tile = Tile(.entries, index: 0, count: 3)
        let bytes = Tile.bundle(of: entries)
        #expect(try tile.entries(parsing: bytes).map(Array.init) == entries)
        for length in 0..<bytes.count {
            #expect(throws: LogError.self) { try tile.entries(parsing: Array(bytes[..<length])) }
        }
        #expect(throws: LogError.self) { try tile.entries(parsing: bytes + [0]) }
        #expect(throws: LogError.self) { try Tile(.entries, index: 0, count: 4).entries(parsing: bytes) }
        #expect(throws: LogError.self) { try Tile(.hashes(level: 0), index: 0, count: 2).hashes(parsing: [1]) }
    }
}
