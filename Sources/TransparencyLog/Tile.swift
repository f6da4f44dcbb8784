package import Vocabulary

/// A piece of the log as a static file (C2SP tlog-tiles): 256 hashes of one level, or the entries under such a tile.
package struct Tile: Hashable, Sendable {
    package enum Kind: Hashable, Sendable {
        /// Hashes of the tree's level 8 × this number.
        case hashes(level: Int)
        case entries
    }

    package static let width: UInt64 = 256

    package let kind: Kind
    package let index: UInt64
    /// How many of the 256 are there; a partial tile is a file of its own.
    package let count: Int

    package init(_ kind: Kind, index: UInt64, count: Int = Int(width)) {
        precondition((1...Int(Self.width)).contains(count), "a tile holds 1 to 256 hashes")
        self.kind = kind
        self.index = index
        self.count = count
    }

    /// Such as `tile/0/x001/x234/067.p/133` or `tile/entries/000`.
    package var path: String {
        var number = Self.digits(index % 1000)
        var rest = index / 1000
        while rest > 0 {
            number = "x\(Self.digits(rest % 1000))/\(number)"
            rest /= 1000
        }
        let level = if case .hashes(let level) = kind { String(level) } else { "entries" }
        let partial = count < Int(Self.width) ? ".p/\(count)" : ""
        return "tile/\(level)/\(number)\(partial)"
    }

    /// Every tile and entry bundle of a log of `size` entries, with the partial ones at its right edge.
    package static func all(size: UInt64) -> [Tile] {
        tiles(.entries, hashes: size) + levels(size: size).flatMap { tiles(.hashes(level: $0.level), hashes: $0.count) }
    }

    /// The tiles that differ between a log of `oldSize` and one of `size` entries.
    package static func new(oldSize: UInt64, size: UInt64) -> [Tile] {
        var result = tiles(.entries, hashes: size, after: oldSize)
        for (level, count) in levels(size: size) {
            result += tiles(.hashes(level: level), hashes: count, after: oldSize >> UInt64(8 * level))
        }
        return result
    }

    /// The partial tiles of a log of `size` entries: what a longer log replaces.
    package static func edge(size: UInt64) -> [Tile] {
        let hashes = levels(size: size).map { (Kind.hashes(level: $0.level), $0.count) }
        return ([(.entries, size)] + hashes).compactMap { kind, count in
            count % width == 0 ? nil : Tile(kind, index: count / width, count: Int(count % width))
        }
    }

    private static func levels(size: UInt64) -> [(level: Int, count: UInt64)] {
        var result: [(level: Int, count: UInt64)] = []
        var level = 0
        while size >> UInt64(8 * level) > 0, level < 8 {
            result.append((level, size >> UInt64(8 * level)))
            level += 1
        }
        return result
    }

    private static func tiles(_ kind: Kind, hashes count: UInt64, after old: UInt64 = 0) -> [Tile] {
        guard count > old else { return [] }
        return (old / width...(count - 1) / width).map { index in
            Tile(kind, index: index, count: Int(min(width, count - index * width)))
        }
    }

    private static func digits(_ number: UInt64) -> String {
        let text = String(number)
        return String(repeating: "0", count: 3 - text.count) + text
    }
}

extension Tile {
    /// The bytes of a hash tile.
    package static func bytes(of hashes: some Collection<Digest>) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(hashes.count * Digest.byteCount)
        for hash in hashes { withUnsafeBytes(of: hash) { bytes.append(contentsOf: $0) } }
        return bytes
    }

    /// The hashes of a tile's bytes; exactly `count` of them.
    package func hashes(parsing bytes: [UInt8]) throws(LogError) -> [Digest] {
        guard bytes.count == count * Digest.byteCount else {
            throw LogError(.malformed, "\(path) is not \(count) hashes long")
        }
        return bytes.withUnsafeBytes { bytes in (0..<count).map { Digest(bytes, at: $0 * Digest.byteCount) } }
    }

    /// The bytes of an entry bundle: each entry after its length in two bytes, big endian.
    package static func bundle<Entry: Collection<UInt8>>(of entries: some Collection<Entry>) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(entries.reduce(0) { $0 + 2 + $1.count })
        for entry in entries {
            precondition(entry.count <= Int(UInt16.max), "an entry of a bundle is at most 65,535 bytes")
            bytes.append(UInt8(entry.count >> 8))
            bytes.append(UInt8(entry.count & 0xFF))
            bytes += entry
        }
        return bytes
    }

    /// The entries of a bundle's bytes; exactly `count` of them and nothing after.
    package func entries(parsing bytes: [UInt8]) throws(LogError) -> [ArraySlice<UInt8>] {
        var entries: [ArraySlice<UInt8>] = []
        entries.reserveCapacity(count)
        var at = 0
        while entries.count < count {
            guard at + 2 <= bytes.count else {
                throw LogError(.malformed, "\(path) ends inside entry \(entries.count)")
            }
            let length = Int(bytes[at]) << 8 | Int(bytes[at + 1])
            guard at + 2 + length <= bytes.count else {
                throw LogError(.malformed, "\(path) ends inside entry \(entries.count)")
            }
            entries.append(bytes[at + 2..<at + 2 + length])
            at += 2 + length
        }
        guard at == bytes.count else { throw LogError(.malformed, "\(path) has bytes after its last entry") }
        return entries
    }
}
