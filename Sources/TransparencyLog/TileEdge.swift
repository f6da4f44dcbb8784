package import Vocabulary

/// The right edge of a growing tree: every hash that does not lie in a full tile on the disk yet. Its size is bounded by
/// how often full tiles are dropped, not by the log's.
package struct TileEdge: Sendable {
    private struct Level {
        /// How many hashes before `hashes` lie in full tiles.
        var base: UInt64 = 0
        var hashes: [Digest] = []

        var count: UInt64 { base + UInt64(hashes.count) }
    }

    package private(set) var range = CompactRange()
    /// By the tiles' level: `levels[l]` holds nodes of the tree's level `8 l`.
    private var levels = [Level()]

    package init() {}

    package var size: UInt64 { range.size }
    package var root: Digest { range.root }
    /// The first leaf whose hash is here.
    package var base: UInt64 { levels[0].base }
    package var heldLeaves: Int { levels[0].hashes.count }

    package mutating func append(_ leafHash: Digest) {
        range.append(leafHash) { level, _, hash in
            guard level % 8 == 0 else { return }
            if level / 8 == levels.count { levels.append(Level()) }
            levels[level / 8].hashes.append(hash)
        }
    }

    /// A full node of the tree, when all that it takes is here; `nil` when it lies in a tile on the disk.
    package func node(level: Int, index: UInt64) -> Digest? {
        let (tileLevel, depth) = (level / 8, UInt64(level % 8))
        let first = index << depth
        let held = levels[tileLevel]
        guard first >= held.base, first + 1 << depth <= held.count else { return nil }
        let start = Int(first - held.base)
        if depth == 0 { return held.hashes[start] }
        return Merkle.root(held.hashes[start..<start + 1 << Int(depth)])
    }

    /// The full tiles that are here, lowest level first.
    package var fullTiles: [Tile] {
        levels.enumerated().flatMap { number, level in
            (level.base / Tile.width..<level.count / Tile.width).map { Tile(.hashes(level: number), index: $0) }
        }
    }

    /// The hashes of a tile, full or not; `nil` when it lies on the disk already.
    package func hashes(of tile: Tile) -> ArraySlice<Digest>? {
        guard case .hashes(let number) = tile.kind, number < levels.count else { return nil }
        let level = levels[number]
        let first = tile.index * Tile.width
        guard first >= level.base, first + UInt64(tile.count) <= level.count else { return nil }
        let start = Int(first - level.base)
        return level.hashes[start..<start + tile.count]
    }

    /// Whether nothing before `tile` is held at its level.
    package func isFirstHeld(_ tile: Tile) -> Bool {
        guard case .hashes(let number) = tile.kind, number < levels.count else { return false }
        return levels[number].base == tile.index * Tile.width
    }

    /// Forgets what lies in full tiles up to and with `tile`, all of which are on the disk.
    package mutating func drop(_ tile: Tile) {
        guard case .hashes(let number) = tile.kind, number < levels.count else { return }
        let end = (tile.index + 1) * Tile.width
        precondition(end <= levels[number].count, "only full tiles are dropped")
        guard end > levels[number].base else { return }
        levels[number].hashes.removeFirst(Int(end - levels[number].base))
        levels[number].base = end
    }
}

extension Tile {
    /// The root of what lies under `index` at `level`, from the bytes of the full tile that holds it.
    package static func holding(level: Int, index: UInt64) -> (tile: Tile, start: Int, count: Int) {
        let first = index << UInt64(level % 8)
        return (Tile(.hashes(level: level / 8), index: first / width), Int(first % width), 1 << (level % 8))
    }
}
