package import Vocabulary

/// Where everything of a run lies, when it moves, and what that will cost. Made by `Planner.plan`.
package struct TrainingPlan: Sendable {
    /// A range of device memory.
    package struct Buffer: Hashable, Sendable {
        package let name: String
        package let offset: Int
        package let byteCount: Int
        /// Passes during which it holds something; `nil` for the whole run.
        package let lifetime: ClosedRange<Int>?
    }

    /// One way that was looked at.
    package struct Alternative: Hashable, Sendable {
        package let title: String
        package let deviceBytes: Int
        package let hostBytes: Int
        package let ssdBytes: Int
        package let seconds: Double
        /// Why it was not taken; `nil` for the one that was.
        package let rejection: String?
    }

    package struct Forecast: Hashable, Sendable {
        /// Highest byte of device memory in use, over the run.
        package let deviceBytes: Int
        /// Sealed bytes that the enclave host's memory keeps for the run.
        package let hostBytes: Int
        /// Sealed bytes on the enclave host's disk beside the run image.
        package let ssdBytes: Int
        /// Sealed bytes of the run image.
        package let imageBytes: Int
        /// What fetching everything that stays needs, before the first epoch.
        package let loadBytes: Int
        /// Of one epoch with its evaluation.
        package let fetchedBytesPerEpoch: Int
        package let storedBytesPerEpoch: Int
        package let computeSecondsPerEpoch: Double
        package let linkSecondsPerEpoch: Double
        package let ssdSecondsPerEpoch: Double
        package let sealingSecondsPerEpoch: Double
        package let secondsPerEpoch: Double
        /// The part of it that trains, without the evaluation.
        package let trainingSecondsPerEpoch: Double
    }

    package let graph: OpGraph
    package let cut: Cut
    /// Chunk tensors have one buffer a slot.
    package let buffers: [Buffer]
    /// Buffers of what lives for the whole run, by role.
    package let fixed: [Fixed: Int]
    package let costs: [PassCost]
    /// Predicted seconds of each pass, by resource.
    package let seconds: [PassSeconds]
    package let forecast: Forecast
    package internal(set) var why: [Alternative]
    /// What it was made for.
    package let budget: Budget
    /// Decisions that were worked out to find it.
    package internal(set) var evaluations = 0
    let layout: Layout
    let memory: MemoryMap
    let spills: SpillMap

    package enum Fixed: String, CaseIterable, Sendable {
        case rowPointers, scale, labels, split, classWeights, parameters, gradients, firstMoments, secondMoments, best
        case trainScores, evaluateScores, total, bestState
        /// A byte for each node; see `Frontier`.
        case marks

        /// What a run carries from epoch to epoch. It lies at the same place under every plan of a model, so that another
        /// plan can go on with it.
        package static let state: [Fixed] = [.parameters, .firstMoments, .secondMoments, .best, .bestState]
        /// What a prediction needs of them.
        static let prediction: [Fixed] = [
            .rowPointers, .scale, .labels, .split, .classWeights, .parameters, .evaluateScores, .total,
        ]
    }

    package var image: ImageShape { graph.image }
    package var model: ModelShape { graph.model }
    package var passes: [Pass] { layout.passes }
    package var chunks: Int { layout.chunks }

    /// Row chunks as ranges of graph rows.
    package var chunkRanges: [Range<Int>] { (0..<chunks).map { layout.rows($0) } }

    /// Plaintext bytes of a tier's window; 0 where nothing is put away there.
    package func spillBytes(_ tier: Spill.Tier) -> Int { tier == .host ? spills.hostBytes : spills.ssdBytes }

    /// Plaintext bytes of a prediction's window; 0 for training.
    package var resultBytes: Int { spills.resultBytes }
    /// Where a chunk's outputs begin in that window, and how many bytes it takes: its rows, then what fills its last block.
    package func resultRange(chunk: Int) -> Range<Int> {
        guard let result = graph.result else { return 0..<0 }
        let stride = layout.stride(result)
        return chunk * stride..<(chunk + 1) * stride
    }
}

// MARK: - Where a pass finds what it works on

extension TrainingPlan {
    /// A matrix's place: a buffer, bytes into it, and whether that is a slot of its own or part of the whole.
    package struct Location: Hashable, Sendable {
        package let buffer: Int
        package let byteOffset: Int
    }

    /// A value, or a gather's bare sum.
    package func value(_ index: ValueIndex) -> OpGraph.Value { layout.values[index] }
    package func columns(_ relation: Int) -> ValueIndex { layout.analysis.columns[relation] }
    /// What slices of its source fill.
    package func sums(of op: OpIndex) -> [ValueIndex] { Array(layout.analysis.sums[op]) }
    package func slices(of value: ValueIndex) -> [Range<Int>] { layout.ranges(value) }
    package func groups(of op: OpIndex) -> [Range<Int>] { layout.groups(op) }
    package func made(_ op: OpIndex, bySlice slice: Int) -> [(value: ValueIndex, slice: Int, columns: Range<Int>)] {
        layout.made(op, bySlice: slice)
    }
    package func rows(ofChunk chunk: Int) -> Range<Int> { layout.rows(chunk) }
    package func edges(ofChunks chunks: Range<Int>, relation: Int) -> Range<Int> {
        layout.edges(chunks, relation: relation)
    }
    package func residentChunks(of value: ValueIndex) -> Int { layout.storage[value].residentChunks }
    /// Rows of a value that cross together, and the chunks that these are.
    package func spanRows(_ value: ValueIndex) -> Int { layout.spanRows(value) }
    package func span(_ value: ValueIndex) -> Int { layout.storage[value].span }
    /// Bytes of a span of whole rows that is put away.
    package func stride(_ value: ValueIndex) -> Int { layout.stride(value) }
    /// Columns of a slice as it lies.
    package func heldWidth(_ value: ValueIndex, _ slice: Range<Int>) -> Int { layout.heldWidth(value, slice) }
    /// Bytes of a whole slice, and of one group of chunks of it.
    package func sliceBytes(_ value: ValueIndex, _ slice: Range<Int>) -> Int { layout.sliceBytes(value, slice) }
    package func groupBytes(_ value: ValueIndex, _ slice: Range<Int>, _ group: Range<Int>) -> Int {
        layout.groupBytes(value, slice, group)
    }
    package func alikeSlices(_ value: ValueIndex) -> [Range<Int>] { layout.alikeSlices(value) }
    /// Bytes of some chunks in their section.
    package func sectionBytes(_ value: ValueIndex, chunks: Range<Int>) -> Range<Int> {
        layout.table.range(value, chunks: chunks)
    }

    /// Rows of a chunk of a value in a pass over rows.
    package func location(_ value: ValueIndex, chunk: Int, pass: Int) -> Location {
        let storage = layout.storage[value]
        if layout.isWhole(value, in: pass) {
            return Location(
                buffer: whole(value, pass: pass).buffer,
                byteOffset: chunk * cut.chunkRows * layout.rowBytes(value))
        }
        func offset(from first: Int) -> Int {
            guard layout.values[value].section == .columns else {
                return (chunk - first) * cut.chunkRows * layout.rowBytes(value)
            }
            let relation = layout.values[value].relation
            return 4
                * (layout.edges(chunk..<chunk + 1, relation: relation).lowerBound
                    - layout.edges(first..<first + 1, relation: relation).lowerBound)
        }
        if chunk < storage.residentChunks, storage.resident?.contains(pass) == true {
            return Location(buffer: memory.resident[value], byteOffset: offset(from: 0))
        }
        let slots = memory.local[pass][value]!
        let span = chunk / slots.span
        return Location(
            buffer: slots.buffers[span % slots.buffers.count], byteOffset: offset(from: span * slots.span))
    }

    /// Where the span of a chunk begins that crosses in a pass: in its slot, or where all rows lie.
    package func slot(_ value: ValueIndex, chunk: Int, pass: Int) -> Location {
        let span = layout.storage[value].span
        if layout.isWhole(value, in: pass) { return location(value, chunk: chunk / span * span, pass: pass) }
        let slots = memory.local[pass][value]!
        return Location(buffer: slots.buffers[chunk / span % slots.buffers.count], byteOffset: 0)
    }

    /// All rows of a source in the pass that sums over it.
    package func whole(_ value: ValueIndex, pass: Int) -> Location {
        let times = layout.storage[value].whole
        let index = times.first { layout.wholes[$0].contains(pass) }!
        return Location(buffer: memory.whole[value][index - times.lowerBound], byteOffset: 0)
    }

    /// Where a row's number lies in a pass: in the section's own buffer, or in that of its span.
    package func node(_ section: NodeSection, row: Int, pass: Int) -> Location {
        let bytes = image.bytes(section, rows: row..<row + 1).lowerBound
        if let buffer = fixed[section.role] { return Location(buffer: buffer, byteOffset: bytes) }
        let span = row / (layout.table.spanChunks * cut.chunkRows)
        let slots = memory.nodes[pass][section]!
        return Location(
            buffer: slots[span % slots.count],
            byteOffset: bytes - image.bytes(section, rows: layout.table.rows(ofSpan: span)).lowerBound)
    }

    /// What a pass fetches of numbers of nodes when it comes to a chunk: bytes of the section, and where to.
    package func nodeFetches(pass: Int, chunk: Int) -> [(section: NodeSection, bytes: Range<Int>, to: Location)] {
        guard cut.fetchesNodeSections, chunk.isMultiple(of: layout.table.spanChunks) else { return [] }
        let rows = layout.table.rows(ofSpan: chunk / layout.table.spanChunks)
        return memory.nodes[pass].keys.sorted {
            ($0.role.rawValue, $0.relation) < ($1.role.rawValue, $1.relation)
        }.map { ($0, image.bytes($0, rows: rows), node($0, row: rows.lowerBound, pass: pass)) }
    }

    /// Rows of each span of fetched numbers, with the pass whose buffers they go through to sum up the labels' weights.
    package var labelSpans: (pass: Int, rows: [Range<Int>])? {
        guard cut.fetchesNodeSections,
            let pass = memory.nodes.firstIndex(where: { $0.keys.contains { $0.role == .labels } })
        else { return nil }
        return (pass, (0..<layout.table.spans).map(layout.table.rows(ofSpan:)))
    }

    /// A pass that goes over a topology, and the groups of chunks in which it does.
    package func visit(_ relation: Int) -> (pass: Int, groups: [Range<Int>], isSliced: Bool)? {
        layout.visit(relation).map { ($0.pass, $0.groups, $0.source != nil) }
    }

    /// The buffer of a piece, filled and drained in turn.
    package func part(_ value: ValueIndex, turn: Int, pass: Int) -> Location {
        let slots = memory.parts[pass][value]!
        return Location(buffer: slots[turn % slots.count], byteOffset: 0)
    }

    /// Neighbours of a group of chunks in a pass over slices; and whether they stay in device memory.
    package func sliceColumns(
        _ group: Range<Int>, relation: Int, turn: Int, pass: Int
    ) -> (Location, isResident: Bool) {
        let columns = columns(relation)
        if group.upperBound <= residentChunks(of: columns) {
            let edges = { (chunks: Range<Int>) in layout.edges(chunks, relation: relation).lowerBound }
            return (Location(buffer: memory.resident[columns], byteOffset: 4 * (edges(group) - edges(0..<1))), true)
        }
        let slots = memory.sliceColumns[pass][columns]!
        return (Location(buffer: slots[turn % slots.count], byteOffset: 0), false)
    }

    package func stack(_ entry: ParameterLayout.Entry, pass: Int) -> Int {
        memory.stacks[pass].first { $0.entry == entry }!.buffer
    }

    /// Weights whose gradients are complete when a pass ends.
    package func finishes(pass: Int) -> [(entry: ParameterLayout.Entry, buffer: Int)] {
        memory.stacks[pass].sorted { $0.entry.offset < $1.entry.offset }
    }

    /// Where a stored piece lies in the window of its tier.
    package func spill(_ value: ValueIndex, slice: Int = 0, chunk: Int) -> (tier: Spill.Tier, offset: Int) {
        let place = spills.places[value]!
        return (place.tier, place.offset + layout.spillOffset(value, slice: slice, chunk: chunk))
    }

    /// What is put away, with its bytes in its tier's window.
    package var spilled: [(value: ValueIndex, tier: Spill.Tier, offset: Int, bytes: Int)] {
        layout.values.indices.compactMap { value in
            spills.places[value].map { (value, $0.tier, $0.offset, layout.spillBytes(value)) }
        }
    }

    /// What of the image's large sections stays in device memory: bytes of the section, and the buffer they go to.
    package var loads: [(section: ImageSection, bytes: Range<Int>, buffer: Int)] {
        layout.loads.map {
            ($0.section, $0.bytes, memory.resident[$0.value])
        }
    }
}

extension Layout {
    var loads: [(value: ValueIndex, section: ImageSection, bytes: Range<Int>)] {
        values.indices.compactMap { value in
            guard let section = values[value].section, storage[value].residentChunks > 0 else { return nil }
            let range: Range<Int>
            if section == .columns {
                let edges = edges(0..<storage[value].residentChunks, relation: values[value].relation)
                range = edges.lowerBound * 4..<edges.upperBound * 4
            } else {
                range = 0..<bytes(value, chunks: storage[value].residentChunks)
            }
            return range.isEmpty ? nil : (value, section, range)
        }
    }
}

// MARK: - Making one

extension TrainingPlan {
    /// Works a decision out, with places for all buffers.
    init(_ candidate: Search.Candidate, _ memory: MemoryMap, _ arena: Arena, _ budget: Budget) {
        let (layout, costs, usage) = (candidate.layout, candidate.costs, candidate.usage.byPass)
        let spills = SpillMap(layout, hostBytesMax: budget.hostBytes)
        let image = layout.image
        self.budget = budget
        self.layout = layout
        self.memory = memory
        self.spills = spills
        graph = layout.graph
        cut = layout.cut
        buffers = zip(memory.items, arena.offsets).map { item, offset in
            Buffer(name: item.name, offset: offset, byteCount: item.bytes, lifetime: item.passes)
        }
        fixed = memory.fixed
        var completed = costs
        for pass in completed.indices {
            completed[pass].title = layout.passes[pass].title
            completed[pass].deviceBytes = usage[pass]
            for value in layout.values.indices {
                guard let lifetime = layout.storage[value].spilled, lifetime.contains(pass) else { continue }
                let bytes = Planner.sealed(layout.spillBytes(value))
                if spills.places[value]!.tier == .host {
                    completed[pass].hostBytes += bytes
                } else {
                    completed[pass].ssdBytes += bytes
                }
            }
        }
        self.costs = completed
        seconds = completed.map { $0.seconds(budget) }
        forecast = Forecast(layout, costs, spills, deviceBytes: arena.peakBytes, image: image, budget)
        why = []
    }
}

extension TrainingPlan.Forecast {
    fileprivate init(
        _ layout: Layout, _ costs: [PassCost], _ spills: SpillMap, deviceBytes: Int, image: ImageShape,
        _ budget: Budget
    ) {
        let seconds = costs.map { $0.seconds(budget) }
        let syncs = budget.link.roundTripSeconds
        self.deviceBytes = deviceBytes
        hostBytes = spills.sealedHostBytes
        ssdBytes = Planner.sealed(spills.ssdBytes)
        imageBytes = image.recipe.sections.reduce(0) { $0 + Planner.sealed(image.byteCount($1)) }
        let large: Set<ImageSection> = [.columns, .features, .aggregate]
        loadBytes =
            image.recipe.sections.filter { section in
                // To sum up the labels' weights they are fetched even where they do not stay.
                !large.contains(section)
                    && (!layout.decision.fetchesNodeSections
                        || section == .split || section == image.recipe.targetSection)
            }.reduce(0) {
                $0 + Planner.sealed(image.byteCount($1))
            }
            + layout.loads.reduce(0) {
                $0 + ChunkTable.crossing($1.bytes, of: image.byteCount($1.section))
            }
            + layout.frontierBytes
        fetchedBytesPerEpoch = costs.reduce(0) { $0 + $1.fetchedBytes }
        storedBytesPerEpoch = costs.reduce(0) { $0 + $1.storedBytes }
        computeSecondsPerEpoch = seconds.reduce(0) { $0 + $1.compute }
        linkSecondsPerEpoch = seconds.reduce(0) { $0 + max($1.fetch, $1.store) }
        ssdSecondsPerEpoch = seconds.reduce(0) { $0 + max($1.ssdRead, $1.ssdWrite) }
        sealingSecondsPerEpoch = seconds.reduce(0) { $0 + $1.sealing }
        secondsPerEpoch = seconds.reduce(syncs) { $0 + $1.pass }
        trainingSecondsPerEpoch = zip(seconds, layout.passes).reduce(syncs) {
            $0 + ($1.1.phase == .train ? $1.0.pass : 0)
        }
    }
}
