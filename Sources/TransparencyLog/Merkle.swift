internal import Sealing
package import Vocabulary

/// The Merkle tree of RFC 6962, section 2.1 (unchanged in RFC 9162): hashes, proofs and their verification.
package enum Merkle {
    /// The root of the tree without leaves.
    package static let emptyRoot = SHA256.hash([UInt8]())

    package static func leafHash(_ leaf: [UInt8]) -> Digest { leafHash(leaf[...]) }

    package static func leafHash(_ leaf: ArraySlice<UInt8>) -> Digest {
        var stream = SHA256Stream()
        stream.update(0 as UInt8)
        stream.update(leaf)
        return stream.finalize()
    }

    package static func nodeHash(_ left: Digest, _ right: Digest) -> Digest { SHA256.hash(prefix: 1, left, right) }

    /// The root over all `leafHashes`.
    package static func root(_ leafHashes: some Sequence<Digest>) -> Digest {
        var range = CompactRange()
        for hash in leafHashes { range.append(hash) }
        return range.root
    }

    /// Throws unless `proof` shows that `leafHash` is leaf `index` of the tree of `size` leaves with `root`.
    package static func verifyInclusion(
        of leafHash: Digest, index: UInt64, size: UInt64, proof: [Digest], root: Digest
    ) throws(LogError) {
        try verifyInclusion(of: leafHash, index: index, start: 0, end: size, proof: proof, root: root)
    }

    /// The same for the subtree over the leaves `start..<end`.
    package static func verifyInclusion(
        of leafHash: Digest, index: UInt64, start: UInt64, end: UInt64, proof: [Digest], root: Digest
    ) throws(LogError) {
        guard isSubtree(start: start, end: end), start <= index, index < end else {
            throw LogError(.wrongProof, "the entry lies outside the tree")
        }
        // RFC 9162, 2.1.3.2.
        var position = index - start
        var last = end - start - 1
        var hash = leafHash
        for sibling in proof {
            guard last > 0 else { throw LogError(.wrongProof, "an inclusion proof is too long") }
            if position & 1 == 1 || position == last {
                hash = nodeHash(sibling, hash)
                while position & 1 == 0 && position > 0 {
                    position >>= 1
                    last >>= 1
                }
            } else {
                hash = nodeHash(hash, sibling)
            }
            position >>= 1
            last >>= 1
        }
        guard last == 0 else { throw LogError(.wrongProof, "an inclusion proof is too short") }
        guard hash == root else { throw LogError(.wrongProof, "an inclusion proof does not lead to the root") }
    }

    /// Throws unless `proof` shows that the tree of `oldSize` leaves is the start of the tree of `newSize` leaves.
    package static func verifyConsistency(
        oldSize: UInt64, oldRoot: Digest, newSize: UInt64, newRoot: Digest, proof: [Digest]
    ) throws(LogError) {
        guard oldSize > 0 else { throw LogError(.wrongProof, "a consistency proof from the empty tree shows nothing") }
        try verifyConsistency(start: 0, end: oldSize, subtreeRoot: oldRoot, size: newSize, root: newRoot, proof: proof)
    }

    /// The same for the subtree over the leaves `start..<end` (draft-ietf-plants-merkle-tree-certs, "Subtree
    /// Consistency Proofs"; with `start` 0 it is RFC 9162, 2.1.4.2). An empty subtree needs no proof.
    package static func verifyConsistency(
        start: UInt64, end: UInt64, subtreeRoot: Digest, size: UInt64, root: Digest, proof: [Digest]
    ) throws(LogError) {
        if start == end, end <= size, subtreeRoot == emptyRoot, proof.isEmpty { return }
        guard isSubtree(start: start, end: end), end <= size else {
            throw LogError(.wrongProof, "a consistency proof is for sizes that do not follow each other")
        }
        var first = start
        var last = end - 1
        var top = size - 1
        // Climb to where the subtree's last leaf stops being the end of a full node.
        while first != last, last == top || last & 1 == 1 {
            first >>= 1
            last >>= 1
            top >>= 1
        }
        var rest = proof[...]
        var subtreeHash = subtreeRoot
        if first != last {
            guard let seed = rest.popFirst() else { throw LogError(.wrongProof, "a consistency proof is too short") }
            subtreeHash = seed
        }
        var hash = subtreeHash
        for sibling in rest {
            guard top > 0 else { throw LogError(.wrongProof, "a consistency proof is too long") }
            if last & 1 == 1 || last == top {
                if first < last { subtreeHash = nodeHash(sibling, subtreeHash) }
                hash = nodeHash(sibling, hash)
                while last & 1 == 0, last > 0 {
                    first >>= 1
                    last >>= 1
                    top >>= 1
                }
            } else {
                hash = nodeHash(hash, sibling)
            }
            first >>= 1
            last >>= 1
            top >>= 1
        }
        guard top == 0 else { throw LogError(.wrongProof, "a consistency proof is too short") }
        guard subtreeHash == subtreeRoot, hash == root else {
            throw LogError(.wrongProof, "a consistency proof does not lead to both roots")
        }
    }

    /// Whether `start..<end` is the range of a subtree: not empty, and `start` a multiple of its size rounded up to a
    /// power of two.
    private static func isSubtree(start: UInt64, end: UInt64) -> Bool {
        guard start < end, end <= 1 << 62 else { return false }
        let count = end - start
        let width = count.nonzeroBitCount == 1 ? count : 1 << (64 - UInt64(count.leadingZeroBitCount))
        return start % width == 0
    }
}

/// The smallest state from which a tree can grow: the roots of its full subtrees, largest first.
package struct CompactRange: Hashable, Sendable {
    package private(set) var size: UInt64 = 0
    private var nodes: [Digest] = []

    package init() {}

    /// Adds a leaf. Calls `completed` with the level and index of each node that it fills, the leaf itself first.
    package mutating func append(
        _ leafHash: Digest, completed: (_ level: Int, _ index: UInt64, _ hash: Digest) -> Void = { _, _, _ in }
    ) {
        var hash = leafHash
        var index = size
        var level = 0
        completed(level, index, hash)
        while index & 1 == 1 {
            hash = Merkle.nodeHash(nodes.removeLast(), hash)
            index >>= 1
            level += 1
            completed(level, index, hash)
        }
        nodes.append(hash)
        size += 1
    }

    package var root: Digest {
        guard var hash = nodes.last else { return Merkle.emptyRoot }
        for node in nodes.dropLast().reversed() { hash = Merkle.nodeHash(node, hash) }
        return hash
    }
}

/// Every full node of a growing tree, from which proofs for any size so far are made.
package struct MerkleTree: Sendable {
    private var range = CompactRange()
    /// `levels[l][i]` is the root of leaves `i·2^l ..< (i+1)·2^l`.
    private var levels: [[Digest]] = []

    package init() {}

    package var size: UInt64 { range.size }
    package var root: Digest { range.root }
    /// What is needed to tell the roots of longer trees without changing this one.
    package var compactRange: CompactRange { range }

    package mutating func append(_ leafHash: Digest) {
        range.append(leafHash) { level, _, hash in
            if level == levels.count { levels.append([]) }
            levels[level].append(hash)
        }
    }

    package func leafHash(_ index: UInt64) -> Digest { levels[0][Int(index)] }

    /// The hashes of the full nodes `indices` at `level`, as a tile stores them.
    package func nodes(level: Int, _ indices: Range<UInt64>) -> ArraySlice<Digest> {
        levels[level][Int(indices.lowerBound)..<Int(indices.upperBound)]
    }

    /// The root of the first `size` leaves; `size` is at most the tree's.
    package func root(size: UInt64) -> Digest { Merkle.root(size: size, node) }

    /// The proof that leaf `index` is in the tree of the first `size` leaves; `index < size`.
    package func inclusionProof(index: UInt64, size: UInt64) -> [Digest] {
        precondition(size <= self.size, "a proof is for a leaf of the tree")
        return Merkle.inclusionProof(index: index, size: size, node)
    }

    /// The proof that the tree of `oldSize` leaves is the start of the tree of `size` leaves; `0 < oldSize <= size`.
    package func consistencyProof(oldSize: UInt64, size: UInt64) -> [Digest] {
        precondition(size <= self.size, "a proof is between sizes of the tree")
        return Merkle.consistencyProof(oldSize: oldSize, size: size, node)
    }

    private func node(_ level: Int, _ index: UInt64) -> Digest { levels[level][Int(index)] }
}

/// Proofs of a tree whose full nodes are wherever `node` (level, index) finds them.
extension Merkle {
    package static func root<Failure: Error>(
        size: UInt64, _ node: (Int, UInt64) throws(Failure) -> Digest
    ) throws(Failure) -> Digest {
        size == 0 ? emptyRoot : try root(0, size, node)
    }

    package static func inclusionProof<Failure: Error>(
        index: UInt64, size: UInt64, _ node: (Int, UInt64) throws(Failure) -> Digest
    ) throws(Failure) -> [Digest] {
        precondition(index < size, "a proof is for a leaf of the tree")
        var proof: [Digest] = []
        var low: UInt64 = 0
        var high = size
        while high - low > 1 {
            let middle = low + split(high - low)
            if index < middle {
                proof.append(try root(middle, high, node))
                high = middle
            } else {
                proof.append(try root(low, middle, node))
                low = middle
            }
        }
        return proof.reversed()
    }

    package static func consistencyProof<Failure: Error>(
        oldSize: UInt64, size: UInt64, _ node: (Int, UInt64) throws(Failure) -> Digest
    ) throws(Failure) -> [Digest] {
        precondition(0 < oldSize && oldSize <= size, "a proof is between sizes of the tree")
        var proof: [Digest] = []
        var low: UInt64 = 0
        var high = size
        // As long as the old tree's end cuts the range, one half is common to both trees or beyond the old one.
        while oldSize != high {
            let middle = low + split(high - low)
            if oldSize <= middle {
                proof.append(try root(middle, high, node))
                high = middle
            } else {
                proof.append(try root(low, middle, node))
                low = middle
            }
        }
        // The verifier knows the old root itself; any other subtree is where it starts from.
        if low != 0 { proof.append(try root(low, high, node)) }
        return proof.reversed()
    }

    /// The largest power of two smaller than `count`.
    private static func split(_ count: UInt64) -> UInt64 { 1 << (63 - UInt64((count - 1).leadingZeroBitCount)) }

    private static func root<Failure: Error>(
        _ low: UInt64, _ high: UInt64, _ node: (Int, UInt64) throws(Failure) -> Digest
    ) throws(Failure) -> Digest {
        let count = high - low
        if count.nonzeroBitCount == 1 {
            let level = count.trailingZeroBitCount
            return try node(level, low >> UInt64(level))
        }
        let middle = low + split(count)
        return nodeHash(try root(low, middle, node), try root(middle, high, node))
    }
}
