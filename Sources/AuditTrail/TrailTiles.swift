internal import DurableFiles
internal import Synchronization
internal import TransparencyLog
internal import Vocabulary

// The static files of the log: tiles, entry bundles, checkpoints. They are derived from the write-ahead log and made
// again after a crash, so tiles are not synced one by one; each is checked against the write-ahead log at every start.

extension Trail {
    /// Writes the static files up to now. They can always be made again, so a full disk is not an error here.
    ///
    /// - Parameter keeps: whether the head also stays for good as `log/checkpoints/<size>`; the newest is always in
    ///   `log/checkpoint`.
    package func publish(keeps: Bool = true) throws(TrailError) {
        try publishLock.held { () throws(TrailError) in
            do throws(TrailError) {
                let head = try head()
                let isNew = lock.held { state.published } < head.size
                guard isNew || keeps else { return }
                let before = lock.held { state.published }
                if isNew { try storeTiles(upTo: head) }
                try store(head, keeps: keeps)
                if isNew { try removeEdge(of: before, under: head) }
            } catch  where error.code == .full {
                return
            }
        }
    }

    /// Writes every full tile that is held in memory, then lets go of it. `publishLock` is held.
    ///
    /// - Returns: whether all are on the disk; on a full one the rest stays held.
    @discardableResult
    func storeFullTiles() throws(TrailError) -> Bool {
        let tiles = lock.held { state.tree.fullTiles }
        var stored: [Tile.Kind: Tile] = [:]
        var failure: TrailError?
        for tile in tiles {
            do {
                try store(tile)
                stored[tile.kind] = tile
            } catch {
                failure = error
                break
            }
        }
        lock.held {
            for tile in stored.values {
                if tile.kind == .hashes(level: 0) {
                    state.places.removeFirst(Int((tile.index + 1) * Tile.width - state.tree.base))
                }
                state.tree.drop(tile)
            }
        }
        // The write-ahead log has it all; what is held stays held until there is space.
        if let failure, failure.code != .full { throw failure }
        if failure != nil, lock.held({ state.tree.heldLeaves }) > Self.heldOnFullDiskMax { throw Self.full }
        return failure == nil
    }

    private static let heldOnFullDiskMax = 1 << 20

    func storeTiles(upTo head: SignedCheckpoint) throws(TrailError) {
        // A head whose tiles are not all there must not be published: nobody could verify it.
        guard try storeFullTiles() else { throw Self.full }
        for tile in Tile.edge(size: head.size) where tile.kind != .entries { try store(tile) }
    }

    /// Removes the partial tiles of an older head once nobody is told of it any more.
    func removeEdge(of old: UInt64, under head: SignedCheckpoint) throws(TrailError) {
        let kept = Set(Tile.edge(size: head.size))
        for tile in Tile.edge(size: old) where !kept.contains(tile) {
            try io { () throws(DiskError) in try disk.remove(TrailFiles.log(tile.path)) }
        }
    }

    /// Writes a hash tile that is held in memory and, beside one of the lowest level, its entries.
    private func store(_ tile: Tile) throws(TrailError) {
        let hashes = lock.held { state.tree.hashes(of: tile).map(Array.init) }
        guard let hashes else { return }
        if tile.kind == .hashes(level: 0) {
            let first = tile.index * Tile.width
            let bundle = Tile.bundle(of: try leaves(first..<first + UInt64(tile.count)))
            try replace(Tile(.entries, index: tile.index, count: tile.count), with: bundle)
        }
        try replace(tile, with: Tile.bytes(of: hashes))
    }

    private func replace(_ tile: Tile, with bytes: [UInt8]) throws(TrailError) {
        try io { () throws(DiskError) in try disk.replace(TrailFiles.log(tile.path), with: bytes, durable: false) }
    }

    func store(_ head: SignedCheckpoint, keeps: Bool) throws(TrailError) {
        if lock.held({ state.published < head.size }) {
            try io { () throws(DiskError) in
                try disk.replace(TrailFiles.checkpoint, with: head.note, durable: true)
            }
            lock.held {
                state.published = head.size
                state.publishedNote = head.note
            }
        }
        // After the other: no kept head may be larger than the published one.
        guard keeps else { return }
        try io { () throws(DiskError) in
            if try disk.byteCount(of: TrailFiles.checkpoint(head.size)) == nil {
                try disk.replace(TrailFiles.checkpoint(head.size), with: head.note, durable: true)
            }
        }
        lock.held { state.lastKept = clock.now() }
    }

    /// Puts a head with cosignatures in the place of the same head without.
    func store(cosigned head: SignedCheckpoint) throws(TrailError) {
        try publishLock.held { () throws(TrailError) in
            try io { () throws(DiskError) in
                try disk.replace(TrailFiles.checkpoint(head.size), with: head.note, durable: true)
                if lock.held({ state.published }) == head.size {
                    try disk.replace(TrailFiles.checkpoint, with: head.note, durable: true)
                }
            }
            lock.held { if state.published == head.size { state.publishedNote = head.note } }
        }
    }

    func io<Value>(_ body: () throws(DiskError) -> Value) throws(TrailError) -> Value {
        do throws(DiskError) { return try body() } catch {
            throw error == .noSpace
                ? Self.full : TrailError(.poisoned, "a file of the log could not be read or written")
        }
    }
}

// MARK: - Reading back

extension Trail {
    /// A full node of the tree, from memory or from the tile that holds it.
    func node(level: Int, index: UInt64) throws(TrailError) -> Digest {
        if let node = lock.held({ state.tree.node(level: level, index: index) }) { return node }
        return try tiles.node(level: level, index: index)
    }

    /// An entry's bytes, as they lie on the disk.
    func leaf(at index: UInt64) throws(TrailError) -> [UInt8] {
        let isHeld = lock.held { index >= state.tree.base }
        if isHeld, let leaf = try leaves(index..<index + 1).first { return leaf }
        let bundle = Tile(.entries, index: index / Tile.width)
        let bytes = try io { () throws(DiskError) in try disk.read(TrailFiles.log(bundle.path)) }
        guard let bytes, let entries = try? bundle.entries(parsing: bytes) else {
            throw TrailError(.damaged, "entry \(index) has gone from the log's files")
        }
        return Array(entries[Int(index % Tile.width)])
    }

    /// Entries that are not in full bundles yet, from the write-ahead log; none when they are by now. Those that lie in
    /// one segment are read at once.
    private func leaves(_ indices: Range<UInt64>) throws(TrailError) -> [[UInt8]] {
        let places = lock.held { () -> [Place] in
            guard indices.lowerBound >= state.tree.base else { return [] }
            let start = Int(indices.lowerBound - state.tree.base)
            return Array(state.places[start..<start + indices.count])
        }
        var leaves: [[UInt8]] = []
        var at = 0
        while at < places.count {
            let segment = places[at].segment
            let end = places[at...].firstIndex { $0.segment != segment } ?? places.count
            let start = Int(places[at].offset)
            let byteCount = Int(places[end - 1].offset + places[end - 1].count) - start
            let bytes = try io { () throws(DiskError) in
                try disk.read(WALFiles.segment(first: segment), offset: start, count: byteCount)
            }
            for place in places[at..<end] {
                leaves.append(Array(bytes[Int(place.offset) - start..<Int(place.offset + place.count) - start]))
            }
            at = end
        }
        // A leaf whose tile was dropped meanwhile lies in that tile's bundle too.
        let hashes = lock.held { indices.map { state.tree.node(level: 0, index: $0) } }
        for ((leaf, hash), index) in zip(zip(leaves, hashes), indices) where hash != nil {
            guard Merkle.leafHash(leaf) == hash else {
                throw TrailError(.damaged, "entry \(index) has changed on the disk")
            }
        }
        return leaves
    }
}

/// Full tiles on the disk, a few of which are kept at hand.
final class StoredTiles: Sendable {
    private static let keptMax = 64
    private let disk: any Disk
    private let kept = Mutex<[Tile: [Digest]]>([:])

    init(_ disk: any Disk) { self.disk = disk }

    func node(level: Int, index: UInt64) throws(TrailError) -> Digest {
        let (tile, start, count) = Tile.holding(level: level, index: index)
        return Merkle.root(try hashes(of: tile)[start..<start + count])
    }

    func hashes(of tile: Tile) throws(TrailError) -> [Digest] {
        if let hashes = kept.withLock({ $0[tile] }) { return hashes }
        let damaged = TrailError(.damaged, "\(tile.path) is missing or has changed")
        guard let bytes = try? disk.read(TrailFiles.log(tile.path)), let hashes = try? tile.hashes(parsing: bytes)
        else { throw damaged }
        kept.withLock {
            if $0.count >= Self.keptMax { $0.removeAll(keepingCapacity: true) }
            $0[tile] = hashes
        }
        return hashes
    }
}
