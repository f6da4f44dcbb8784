package import DurableFiles
package import TransparencyLog
package import Vocabulary

/// Writes an export from a trail's published files. It reads only static files, so the trail goes on meanwhile; what
/// it writes is all under one signed head.
package struct ExportWriter {
    /// Which entries go in.
    package enum Choice: Sendable {
        case whole
        case range(Range<UInt64>)
        /// Whole eras (runs) and single entries, each with its own proof, and nothing else.
        case chosen(eras: Set<UInt64>, indices: Set<UInt64>)
    }

    /// An entry that went in.
    package struct Entry: Sendable {
        package let index: UInt64
        package let leafHash: Digest
        package let header: LeafHeader
    }

    private let trail: any Disk
    private let identity: TrailIdentity
    /// Which keys signed after the first one.
    private let handovers: [UInt8]?
    package let head: SignedCheckpoint
    private let choice: Choice
    private let progress: (UInt64, UInt64) throws -> Void
    /// Eras whose keys go along.
    private var eras: Set<UInt64> = []
    private var entries: UInt64 = 0

    /// - Parameters:
    ///   - note: the signed head to export under; the published one when `nil`.
    ///   - progress: told of entries done and of how many; may throw to stop.
    package init(
        of trail: any Disk, note: [UInt8]? = nil, choice: Choice,
        progress: @escaping (UInt64, UInt64) throws -> Void = { _, _ in }
    ) throws {
        guard let text = try trail.read(TrailFiles.identity),
            let published = try trail.read(TrailFiles.checkpoint)
        else { throw LogError(.incomplete, "there is no published log") }
        identity = try TrailIdentity(parsing: String(decoding: text.dropLast(), as: UTF8.self))
        handovers = try trail.read(TrailFiles.periods)
        head = try SignedCheckpoint(
            parsing: note ?? published, in: SigningPeriods(identity, parsing: handovers ?? []))
        self.trail = trail
        self.choice = choice
        self.progress = progress
    }

    /// The indices of the entries that were written from one time to another, ends included: from the first that is
    /// not before it to the last that is not after it.
    package static func range(
        from: Timestamp, to: Timestamp, of trail: any Disk, head: SignedCheckpoint
    ) throws -> Range<UInt64> {
        var first: UInt64?
        var end: UInt64 = 0
        try forEachBundle(of: trail, size: head.size) { start, leaves in
            for (offset, leaf) in leaves.enumerated() {
                let time = try LeafHeader(leaf: leaf).time
                let index = start + UInt64(offset)
                if time >= from, first == nil { first = index }
                if time <= to { end = index + 1 }
            }
        }
        guard let first, first < end else { throw TrailError(.notFound, "the trail has no entry of that time") }
        return first..<end
    }

    /// Writes everything and ends the bag.
    ///
    /// - Parameters:
    ///   - each: called with every entry that goes in, in order; may put more files.
    ///   - last: called when the entries are in and before the manifests.
    package consuming func write(
        into sink: any BagSink, scope name: String, run: String? = nil, dataset: String? = nil, at time: Timestamp,
        hasDocuments: Bool = false, each: (Entry, inout BagWriter) throws -> Void = { _, _ in },
        last: (inout BagWriter) throws -> Void = { _ in }
    ) throws {
        var bag = BagWriter(sink)
        try bag.put(TrailFiles.identity, Array("\(identity)\n".utf8))
        if let handovers { try bag.put(TrailFiles.periods, handovers) }
        try bag.put("VERIFY.md", Array(AuditExport.verifyText.utf8))
        switch choice {
        case .whole: try writeLog(nil, &bag, each)
        case .range(let range): try writeLog(range, &bag, each)
        case .chosen(let eras, let indices): try writeChosen(eras, indices, &bag, each)
        }
        for era in eras.sorted() { try copy(EraKeyFile.path(era), &bag) }
        try last(&bag)
        let part: ExportScope.Part =
            switch choice {
            case .whole: .whole
            case .range(let range): .range(range)
            case .chosen: .chosen
            }
        let scope = ExportScope(
            part: part, name: name, run: run, dataset: dataset, entries: entries, size: head.size, root: head.root,
            made: time, hasDocuments: hasDocuments)
        try bag.put(AuditExport.scopeFile, scope.bytes)
        try bag.finish(identity, "\(name), \(entries) of \(head.size) entries", time)
    }

    // MARK: The log itself

    private mutating func writeLog(
        _ range: Range<UInt64>?, _ bag: inout BagWriter, _ each: (Entry, inout BagWriter) throws -> Void
    ) throws {
        var tiles = TileFiller()
        let size = head.size
        let total = range.map { $0.upperBound - $0.lowerBound } ?? size
        let trail = trail
        // Bundles are read and hashed on all cores, and put into the bag in order.
        try InOrder.run(Int((size + Tile.width - 1) / Tile.width)) { number in
            Result { try HashedBundle(of: trail, number, size: size) }
        } take: { number, result in
            let bundle = try result.get()
            let start = UInt64(number) * Tile.width
            if range?.overlaps(start..<start + UInt64(bundle.entries.count)) ?? true {
                try bag.put(TrailFiles.log(bundle.tile.path), bundle.file)
            }
            for (offset, entry) in bundle.entries.enumerated() {
                for (tile, hashes) in tiles.append(entry.hash) {
                    try bag.put(TrailFiles.log(tile.path), Tile.bytes(of: hashes))
                }
                let index = start + UInt64(offset)
                guard range?.contains(index) ?? true else { continue }
                try take(index, entry.hash, entry.header, &bag, each)
            }
            try progress(min(entries, total), total)
            return true
        }
        for (tile, hashes) in tiles.partial() { try bag.put(TrailFiles.log(tile.path), Tile.bytes(of: hashes)) }
        guard tiles.root == head.root else {
            throw LogError(.wrongProof, "the log's files do not fit its checkpoint")
        }
        try bag.put(TrailFiles.checkpoint, head.note)
        for name in try trail.names(in: TrailFiles.checkpointsFolder) {
            guard let earlier = UInt64(name), earlier <= size else { continue }
            try copy(TrailFiles.checkpoint(earlier), &bag)
        }
    }

    private mutating func take(
        _ index: UInt64, _ hash: Digest, _ header: LeafHeader, _ bag: inout BagWriter,
        _ each: (Entry, inout BagWriter) throws -> Void
    ) throws {
        eras.insert(header.era)
        entries += 1
        try each(Entry(index: index, leafHash: hash, header: header), &bag)
    }

    // MARK: Chosen entries

    private mutating func writeChosen(
        _ chosenEras: Set<UInt64>, _ indices: Set<UInt64>, _ bag: inout BagWriter,
        _ each: (Entry, inout BagWriter) throws -> Void
    ) throws {
        var tree = MerkleTree()
        try Self.forEachBundle(of: trail, size: head.size) { _, leaves in
            for leaf in leaves { tree.append(Merkle.leafHash(leaf)) }
        }
        guard tree.root == head.root else { throw LogError(.wrongProof, "the log's files do not fit its checkpoint") }
        // An era's opening entry goes along with the first of its entries that is chosen.
        let head = head
        var openings: [UInt64: (index: UInt64, leaf: [UInt8])] = [:]
        let total = UInt64(indices.count)
        try Self.forEachBundle(of: trail, size: head.size) { start, leaves in
            for (offset, leaf) in leaves.enumerated() {
                let index = start + UInt64(offset)
                let header = try LeafHeader(leaf: leaf)
                let isChosen = chosenEras.contains(header.era) || indices.contains(index)
                if header.kind == .eraOpened, !isChosen {
                    openings[header.era] = (index, Array(leaf))
                    continue
                }
                guard isChosen else {
                    if header.kind == .eraClosed { openings[header.era] = nil }
                    continue
                }
                if let opening = openings.removeValue(forKey: header.era) {
                    try put(opening.index, opening.leaf[...], tree, head, &bag, each)
                }
                try put(index, leaf, tree, head, &bag, each)
            }
            try progress(min(entries, total), max(total, entries))
        }
        guard entries > 0 else { throw LogError(.incomplete, "the log has no such entries") }
    }

    private mutating func put(
        _ index: UInt64, _ leaf: ArraySlice<UInt8>, _ tree: MerkleTree, _ head: SignedCheckpoint,
        _ bag: inout BagWriter, _ each: (Entry, inout BagWriter) throws -> Void
    ) throws {
        let proof = LogProof(index: index, hashes: tree.inclusionProof(index: index, size: head.size), head: head)
        try bag.put("\(AuditExport.sliceFolder)/\(index)", Array(leaf))
        try bag.put("\(AuditExport.proofsFolder)/\(index).tlog-proof", proof.bytes)
        try take(index, Merkle.leafHash(leaf), LeafHeader(leaf: leaf), &bag, each)
    }

    // MARK: The trail's files

    private func copy(_ path: String, _ bag: inout BagWriter) throws {
        guard let bytes = try trail.read(path) else { throw LogError(.incomplete, "\(path) is missing") }
        try bag.put(path, bytes)
    }

    /// The entries of a log up to a size, in bundles of 256. The trail may have grown since and have replaced the
    /// bundle at that edge by a longer one.
    private static func forEachBundle(
        of trail: any Disk, size: UInt64, _ body: (UInt64, [ArraySlice<UInt8>]) throws -> Void
    ) throws {
        for index in 0..<(size + Tile.width - 1) / Tile.width {
            let first = index * Tile.width
            try body(first, leaves(of: trail, index, Int(min(Tile.width, size - first))))
        }
    }

    fileprivate static func leaves(of trail: any Disk, _ index: UInt64, _ count: Int) throws -> [ArraySlice<UInt8>] {
        // It may be replaced between looking for its name and reading it.
        for _ in 0..<3 {
            if let leaves = try bundle(of: trail, index, count) { return Array(leaves.prefix(count)) }
        }
        throw LogError(.incomplete, "\(Tile(.entries, index: index, count: count).path) is missing")
    }

    private static func bundle(of trail: any Disk, _ index: UInt64, _ count: Int) throws -> [ArraySlice<UInt8>]? {
        let full = Tile(.entries, index: index)
        if let bytes = try trail.read(TrailFiles.log(full.path)) { return try full.entries(parsing: bytes) }
        let longer = try trail.names(in: TrailFiles.log(full.path) + ".p").compactMap(Int.init)
            .filter { (count..<Int(Tile.width)).contains($0) }.sorted()
        for other in longer {
            let tile = Tile(.entries, index: index, count: other)
            if let bytes = try trail.read(TrailFiles.log(tile.path)) { return try tile.entries(parsing: bytes) }
        }
        return nil
    }
}

/// One bundle of the log as it goes into an export.
private struct HashedBundle: Sendable {
    let tile: Tile
    let file: BagFile
    let entries: [(hash: Digest, header: LeafHeader)]

    init(of trail: any Disk, _ number: Int, size: UInt64) throws {
        let count = Int(min(Tile.width, size - UInt64(number) * Tile.width))
        let leaves = try ExportWriter.leaves(of: trail, UInt64(number), count)
        tile = Tile(.entries, index: UInt64(number), count: count)
        file = BagFile(Tile.bundle(of: leaves))
        entries = try leaves.map { (Merkle.leafHash($0), try LeafHeader(leaf: $0)) }
    }
}
