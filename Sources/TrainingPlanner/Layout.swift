package import Vocabulary

/// One decision worked out: what every pass does with each chunk of rows, and how each value is kept.
struct Layout {
    let analysis: Analysis
    let decision: Decision
    let table: ChunkTable
    /// By slot: `2p` slices, `2p + 1` rows; empty where nothing happens.
    private(set) var passes: [Pass] = []
    private(set) var storage: [Storage] = []
    /// `Storage.whole` and `Storage.slices` are parts of these.
    private(set) var wholes: [ClosedRange<Int>] = []
    private(set) var slices: [Range<Int>] = []
    /// By pass: its first step, counted over all passes; and the end.
    private(set) var bases = [0]

    var graph: OpGraph { analysis.graph }
    var values: [OpGraph.Value] { analysis.values }
    var chunks: Int { table.chunks }

    init(_ analysis: Analysis, _ decision: Decision, _ table: ChunkTable) {
        self.analysis = analysis
        self.decision = decision
        self.table = table
        let uses = RowUses(analysis, decision)
        storage.reserveCapacity(analysis.values.count)
        for value in analysis.values.indices {
            storage.append(Storage())
            keep(value, uses)
            storage[value].span = span(value, storage[value])
            if storage[value].sliceWidth > 0 { cut(value) }
        }
        var present = Array(repeating: -1, count: analysis.values.count)
        passes.reserveCapacity(analysis.slots)
        for pass in analysis.passes.indices {
            let (phase, titles) = (analysis.phases[pass], analysis.titles[pass])
            passes.append(Pass(phase: phase, title: titles.slices))
            addSlices(analysis.passes[pass])
            passes.append(Pass(phase: phase, title: titles.rows))
            addRows(analysis.passes[pass], &present)
        }
        addReloads()
        bases.reserveCapacity(analysis.slots + 1)
        // The sources of a pass over slices come one after the other.
        for pass in passes { bases.append(bases.last! + max(pass.steps.count, pass.sliced.count) + 1) }
    }
}

/// What a pass does, in order, with each chunk of rows; or with each slice of columns.
package struct Pass: Sendable {
    package let phase: OpGraph.Phase
    package let title: String
    /// Sources that have to be fetched back whole before the pass starts.
    package internal(set) var reloads: [ValueIndex] = []
    /// The sums that this pass makes slice by slice, and their common source; `nil` for a pass over rows.
    package internal(set) var sliced: [(source: ValueIndex, ops: [OpIndex])] = []
    package internal(set) var steps: [PassStep] = []
    package var isEmpty: Bool { steps.isEmpty && sliced.isEmpty }
}

package enum PassStep: Hashable, Sendable {
    /// Fetches a chunk of rows, where it does not stay in device memory.
    case fetch(ValueIndex)
    case store(ValueIndex)
    /// Fetches the slices of a chunk, and puts them in their columns of it.
    case fetchParts(ValueIndex)
    /// Takes the chunk's columns apart, and stores them as slices.
    case storeParts(ValueIndex)
    case run(OpIndex)
    /// The steps of a gather whose bare sum was made by slices.
    case finishSum(OpIndex)
}

/// How a value is kept between passes.
struct Storage {
    /// Times during which all of it lies in device memory, in `Layout.wholes`; several where it is put away in between.
    var whole = 0..<0
    /// Chunks that stay in device memory, and how long.
    var residentChunks = 0
    var resident: ClosedRange<Int>?
    /// Passes from its storing to its last fetching, where it is put away.
    var spilled: ClosedRange<Int>?
    /// 0 where rows are stored whole.
    var sliceWidth = 0
    /// Slices of its columns, in `Layout.slices`.
    var slices = 0..<0
    /// Columns of a slice lie as multiples of this, so that spans of it are whole blocks.
    var heldUnit = 1
    /// Chunks that cross together: few rows are less than a sealed block.
    var span = 1
}

/// For each value the passes, its own apart, that read its rows; with what recomputing needs.
struct RowUses {
    /// By value: the last of them; −1 where there is none.
    private(set) var last: [Int]
    /// By value and pass.
    private var isUsed: [Bool]
    /// By value: the last pass in which it was made or fetched.
    private var seenIn: [Int]
    private let slots: Int

    init(_ analysis: Analysis, _ decision: Decision) {
        slots = analysis.slots
        last = Array(repeating: -1, count: analysis.values.count)
        seenIn = last
        isUsed = Array(repeating: false, count: analysis.values.count * slots)
        for index in analysis.passes.indices {
            let pass = 2 * index + 1
            for op in analysis.passes[index] {
                let outputs = analysis.facts[op].outputs
                for input in analysis.facts[op].inputs
                where !outputs.contains(input) || analysis.producedIn[input] < pass {
                    need(input, pass, analysis, decision)
                }
                if decision.slices(op, analysis) {
                    for sum in analysis.sums[op] where seenIn[sum] != pass {
                        seenIn[sum] = pass
                        use(sum, pass)
                    }
                } else if let relation = analysis.facts[op].relation {
                    need(analysis.columns[relation], pass, analysis, decision)
                }
                for output in outputs { seenIn[output] = pass }
            }
        }
    }

    private mutating func need(_ value: ValueIndex, _ pass: Int, _ analysis: Analysis, _ decision: Decision) {
        guard seenIn[value] != pass else { return }
        seenIn[value] = pass
        guard analysis.producedIn[value] < pass else { return }
        guard decision.ways[value] == .recompute else { return use(value, pass) }
        for op in analysis.producers[value] {
            for input in analysis.facts[op].inputs where input != value { need(input, pass, analysis, decision) }
        }
    }

    private mutating func use(_ value: ValueIndex, _ pass: Int) {
        last[value] = pass
        isUsed[value * slots + pass] = true
    }

    func contains(_ value: ValueIndex, where isWanted: (Int) -> Bool) -> Bool {
        last[value] >= 0 && (0...last[value]).contains { isUsed[value * slots + $0] && isWanted($0) }
    }
}

// MARK: - How values are kept

extension Layout {
    /// Whether all of a value lies in device memory in a pass.
    func isWhole(_ value: ValueIndex, in pass: Int) -> Bool {
        for index in storage[value].whole where wholes[index].contains(pass) { return true }
        return false
    }

    /// The pass that makes a value.
    private func produced(_ value: ValueIndex) -> Int {
        let op = analysis.summedBy[value]
        guard op >= 0, !analysis.isBare(value), decision.slices(op, analysis) else { return analysis.producedIn[value] }
        return analysis.producedIn[value] - 1
    }

    /// Adds, as parts of `wholes`, the passes that need all rows of a value: where sums go slice by slice, the numbers of
    /// an attention's ends are needed in the pass before, and the source itself is not.
    private mutating func gather(_ value: ValueIndex) -> Range<Int> {
        let start = wholes.count
        for use in analysis.wholeUses[value] {
            let isSliced = decision.slices(use.op, analysis)
            if isSliced, use.isSource { continue }
            let at = isSliced ? use.pass - 1 : use.pass
            if wholes.count > start, let last = wholes.last, last.upperBound >= at - 1 {
                wholes[wholes.count - 1] = min(last.lowerBound, at)...max(last.upperBound, at)
            } else {
                wholes.append(at...at)
            }
        }
        return start..<wholes.count
    }

    private mutating func keep(_ value: ValueIndex, _ uses: RowUses) {
        let produced = produced(value)
        let lastRow = uses.last[value]
        let way = decision.ways[value]
        let summedBy = analysis.summedBy[value]
        if analysis.isBare(value) || summedBy >= 0 && decision.slices(summedBy, analysis) {
            // Made by slices, read by rows.
            guard lastRow >= 0 else { return }
            storage[value].spilled = produced...lastRow
            // Scores have no columns of the source's: all of them are made with its first slice.
            storage[value].sliceWidth =
                analysis.facts[summedBy].scoreSum == value
                ? analysis.values[value].width : decision.sliceWidths[analysis.facts[summedBy].source!]
            return
        }
        if analysis.values[value].section != nil {
            let always = 0...analysis.slots - 1
            if case .moved(let resident) = way {
                storage[value].residentChunks = min(resident, chunks)
                storage[value].resident = resident > 0 ? always : nil
            } else {
                storage[value].residentChunks = chunks
                storage[value].resident = always
            }
            return
        }
        if value == graph.result {
            storage[value].spilled = produced...analysis.slots - 1
            return
        }
        if decision.sliceWidths[value] > 0 {
            let last = max(analysis.gatheredIn[value].last ?? -1, lastRow)
            guard last >= 0 else { return }
            storage[value].spilled = produced...last
            storage[value].sliceWidth = decision.sliceWidths[value]
            return
        }
        let gathered = gather(value)
        let last = max(gathered.isEmpty ? -1 : wholes[gathered.upperBound - 1].upperBound, lastRow)
        guard last >= 0 else { return }
        guard !gathered.isEmpty else {
            if case .moved(let resident) = way {
                storage[value].residentChunks = min(resident, chunks)
                storage[value].resident = resident > 0 ? produced...last : nil
                if resident < chunks { storage[value].spilled = produced...last }
            } else {
                storage[value].residentChunks = chunks
                storage[value].resident = produced...last
            }
            return
        }
        storage[value].whole = gathered
        let moves = if case .moved = way { true } else { false }
        if decision.takesTurns || moves && analysis.isMadeEarly[value] {
            storage[value].spilled = produced...last
            return
        }
        let first = wholes[gathered.lowerBound].upperBound
        guard moves, last > first else {
            wholes.removeSubrange(gathered.lowerBound + 1..<gathered.upperBound)
            wholes[gathered.lowerBound] = produced...last
            storage[value].whole = gathered.lowerBound..<gathered.lowerBound + 1
            return
        }
        wholes[gathered.lowerBound] = produced...first
        if gathered.count > 1 || uses.contains(value, where: { !isWhole(value, in: $0) }) {
            storage[value].spilled = produced...last
        }
    }

    /// Slices of a value's columns. Those of an attention are whole heads, or parts of one.
    func ranges(_ value: ValueIndex) -> [Range<Int>] { Array(slices[storage[value].slices]) }

    private mutating func cut(_ value: ValueIndex) {
        let width = analysis.values[value].width
        let step = storage[value].sliceWidth
        let head = analysis.headWidths[value]
        let start = slices.count
        func cut(_ columns: Range<Int>, _ step: Int) {
            var first = columns.lowerBound
            while first < columns.upperBound {
                slices.append(first..<min(first + step, columns.upperBound))
                first += step
            }
        }
        if head > step {
            for first in Swift.stride(from: 0, to: width, by: head) { cut(first..<min(first + head, width), step) }
        } else {
            cut(0..<width, sliceStep(value, step))
        }
        let words = Limits.blockBytes / 4
        storage[value].slices = start..<slices.count
        storage[value].heldUnit = words / Self.divisor(words, spanRows(value))
    }

    /// Columns of a slice but for the last: of whole heads, where there are that many.
    private func sliceStep(_ value: ValueIndex, _ width: Int) -> Int {
        let head = analysis.headWidths[value]
        return head > 0 && width >= head ? width / head * head : width
    }
}

// MARK: - What passes do

extension Layout {
    private mutating func addSlices(_ ops: [OpIndex]) {
        let pass = passes.count - 1
        for op in ops {
            guard let source = analysis.facts[op].source, storage[source].sliceWidth > 0 else { continue }
            if let known = passes[pass].sliced.firstIndex(where: { $0.source == source }) {
                passes[pass].sliced[known].ops.append(op)
            } else {
                passes[pass].sliced.append((source, [op]))
            }
        }
    }

    private mutating func addRows(_ ops: [OpIndex], _ present: inout [Int]) {
        let pass = passes.count - 1
        passes[pass].steps.reserveCapacity(2 * ops.count + 4)
        for op in ops {
            let outputs = analysis.facts[op].outputs
            for input in analysis.facts[op].inputs
            where !outputs.contains(input) || analysis.producedIn[input] < pass { need(input, pass, &present) }
            let isSliced = decision.slices(op, analysis)
            if isSliced {
                for sum in analysis.sums[op] { need(sum, pass, &present) }
                if analysis.sums[op].contains(where: analysis.isBare) { passes[pass].steps.append(.finishSum(op)) }
            } else {
                if let relation = analysis.facts[op].relation { need(analysis.columns[relation], pass, &present) }
                passes[pass].steps.append(.run(op))
            }
            for output in outputs where !isSliced || !analysis.sums[op].contains(output) {
                present[output] = pass
                guard op == analysis.producers[output].last, let spilled = storage[output].spilled else { continue }
                // What slices began may be finished here, and is stored again only for a later pass.
                if analysis.summedBy[output] >= 0, decision.slices(analysis.summedBy[output], analysis),
                    spilled.upperBound == pass
                {
                    continue
                }
                passes[pass].steps.append(storage[output].sliceWidth > 0 ? .storeParts(output) : .store(output))
            }
        }
    }

    /// What a pass over rows does to have a value's rows; `present` is the last pass that had them.
    private mutating func need(_ value: ValueIndex, _ pass: Int, _ present: inout [Int]) {
        guard present[value] != pass else { return }
        present[value] = pass
        if isWhole(value, in: pass) { return }
        if decision.ways[value] == .recompute, analysis.producedIn[value] < pass {
            for op in analysis.producers[value] {
                for input in analysis.facts[op].inputs where input != value { need(input, pass, &present) }
                passes[pass].steps.append(.run(op))
            }
        } else if storage[value].sliceWidth > 0 {
            passes[pass].steps.append(.fetchParts(value))
        } else if storage[value].residentChunks < chunks {
            passes[pass].steps.append(.fetch(value))
        }
    }

    private mutating func addReloads() {
        for value in storage.indices where !storage[value].whole.isEmpty {
            let produced = produced(value)
            for index in storage[value].whole where produced < wholes[index].lowerBound {
                passes[wholes[index].lowerBound].reloads.append(value)
            }
        }
    }
}

// MARK: - Sizes

extension Layout {
    var image: ImageShape { graph.image }

    /// Rows of chunk `number`.
    func rows(_ number: Int) -> Range<Int> {
        number * decision.chunkRows..<min((number + 1) * decision.chunkRows, image.nodes)
    }

    /// Bytes of one row, for matrices.
    func rowBytes(_ value: ValueIndex) -> Int { values[value].width * 4 }

    /// Positions, in the image's neighbours, of those of these chunks' tiles in one topology.
    func edges(_ chunks: Range<Int>, relation: Int) -> Range<Int> {
        image.edges(ofRows: chunks.lowerBound * decision.chunkRows..<chunks.upperBound * decision.chunkRows, relation)
    }

    /// Bytes of all rows of a source; where it is put away too, of whole blocks.
    func wholeBytes(_ value: ValueIndex) -> Int {
        storage[value].spilled == nil ? image.nodes * rowBytes(value) : spans(value) * stride(value)
    }

    /// Bytes of a value's first chunks.
    func bytes(_ value: ValueIndex, chunks count: Int) -> Int {
        if values[value].section == .columns {
            return max(edges(0..<count, relation: values[value].relation).count * 4, 4)
        }
        return min(count * decision.chunkRows, image.nodes) * rowBytes(value)
    }

    /// Bytes of the largest span as it lies in a slot.
    func slotBytes(_ value: ValueIndex) -> Int {
        if values[value].section == .columns { return table.mostEdges[values[value].relation] * 4 }
        return storage[value].spilled == nil ? bytes(value, chunks: storage[value].span) : stride(value)
    }

    /// How many chunks of a value cross together. What is put away crosses in whole blocks, so its spans are about whole
    /// blocks; where slices or spans are parts of one matrix, exactly.
    private func span(_ value: ValueIndex, _ storage: Storage) -> Int {
        if values[value].section != nil { return table.sectionSpans[value] }
        // A prediction's outputs are read chunk by chunk.
        guard storage.spilled != nil, value != graph.result else { return 1 }
        let words = Limits.blockBytes / 4
        if storage.sliceWidth > 0 {
            // A third more columns at most, so that fewer rows are whole blocks.
            let columns = sliceStep(value, storage.sliceWidth)
            let most = words / Self.divisor(words, decision.chunkRows)
            var unit = 1
            while unit < most, (columns + 2 * unit - 1) / (2 * unit) * (2 * unit) * 3 <= columns * 4 { unit *= 2 }
            return most / unit
        }
        let exact = words / Self.divisor(words, decision.chunkRows * values[value].width)
        guard storage.whole.isEmpty else { return exact }
        var span = 1
        while span < exact {
            let bytes = span * decision.chunkRows * values[value].width * 4
            if Self.wholeBlocks(bytes) * 6 <= bytes * 7 { break }
            span *= 2
        }
        return span
    }

    static func divisor(_ one: Int, _ other: Int) -> Int { other == 0 ? one : divisor(other, one % other) }

    static func wholeBlocks(_ bytes: Int) -> Int {
        (bytes + Limits.blockBytes - 1) / Limits.blockBytes * Limits.blockBytes
    }

    /// Spans of a value, with one that is in part of chunks that stay.
    func spans(_ value: ValueIndex) -> Int {
        let span = storage[value].span
        return (chunks + span - 1) / span - storage[value].residentChunks / span
    }

    /// Bytes from one stored span of whole rows to the next: whole blocks, because a store seals whole blocks.
    func stride(_ value: ValueIndex) -> Int {
        Self.wholeBlocks(storage[value].span * decision.chunkRows * rowBytes(value))
    }

    /// Rows of a span.
    func spanRows(_ value: ValueIndex) -> Int { storage[value].span * decision.chunkRows }

    /// Columns of a slice as it lies, with some that are not used, so that spans of it are whole blocks.
    func heldWidth(_ value: ValueIndex, _ slice: Range<Int>) -> Int {
        let unit = storage[value].heldUnit
        return (slice.count + unit - 1) / unit * unit
    }

    /// The same of all slices, one behind the other.
    private func heldWidth(_ value: ValueIndex) -> Int {
        var held = 0
        for index in storage[value].slices { held += heldWidth(value, slices[index]) }
        return held
    }

    /// Bytes of a whole slice.
    func sliceBytes(_ value: ValueIndex, _ slice: Range<Int>) -> Int {
        spans(value) * spanRows(value) * heldWidth(value, slice) * 4
    }

    /// Bytes of one span of all slices, one behind the other.
    func partsBytes(_ value: ValueIndex) -> Int {
        spanRows(value) * heldWidth(value) * 4
    }

    /// Slices that are equally wide, one after the other.
    func alikeSlices(_ value: ValueIndex) -> [Range<Int>] {
        let ranges = ranges(value)
        var alike: [Range<Int>] = []
        for (index, range) in ranges.enumerated() {
            if let last = alike.last, ranges[last.lowerBound].count == range.count {
                alike[alike.count - 1] = last.lowerBound..<index + 1
            } else {
                alike.append(index..<index + 1)
            }
        }
        return alike
    }

    /// How many runs of slices those are.
    func alikeCount(_ value: ValueIndex) -> Int {
        let all = storage[value].slices
        var count = all.isEmpty ? 0 : 1
        for index in all.dropFirst() where slices[index].count != slices[index - 1].count { count += 1 }
        return count
    }

    /// Plaintext bytes of a value that is put away: its spans one after the other, slice after slice.
    func spillBytes(_ value: ValueIndex) -> Int {
        guard storage[value].sliceWidth > 0 else { return spans(value) * stride(value) }
        return spans(value) * spanRows(value) * heldWidth(value) * 4
    }

    /// Where a stored span begins in its value's bytes.
    func spillOffset(_ value: ValueIndex, slice: Int, chunk: Int) -> Int {
        let storage = storage[value]
        guard storage.sliceWidth > 0 else {
            return (chunk / storage.span - storage.residentChunks / storage.span) * stride(value)
        }
        let ranges = ranges(value)
        return ranges[..<slice].reduce(0) { $0 + sliceBytes(value, $1) }
            + chunk * decision.chunkRows * heldWidth(value, ranges[slice]) * 4
    }

    /// Chunks that one command of a slice's sum covers: whole spans of it. Those whose neighbours all stay in device
    /// memory are on their own.
    func groups(_ op: OpIndex) -> [Range<Int>] {
        let grouping = grouping(op)
        var groups: [Range<Int>] = []
        var lower = 0
        while lower < chunks {
            groups.append(lower..<grouping.end(of: lower))
            lower = grouping.end(of: lower)
        }
        return groups
    }

    /// How chunks are grouped for the slices of a sum.
    struct Grouping {
        let most: Int
        /// Groups end here too.
        let split: Int
        let chunks: Int

        func end(of lower: Int) -> Int { min((lower / most + 1) * most, lower < split ? split : chunks) }
    }

    func grouping(_ op: OpIndex) -> Grouping {
        var span = storage[analysis.facts[op].source!].span
        for sum in analysis.sums[op] { span = max(span, storage[sum].span) }
        // A power of two, as spans are, so that none of these is cut in two.
        var size = span
        while size * 2 <= chunks / (decision.takesTurns ? 16 : 8) { size *= 2 }
        let columns = analysis.columns[analysis.facts[op].relation!]
        return Grouping(
            // Numbers of nodes that are fetched are there for one span at a time.
            most: decision.fetchesNodeSections ? min(size, table.spanChunks) : size,
            split: storage[columns].residentChunks / span * span, chunks: chunks)
    }

    /// What one slice of its source makes of an operation: values, and which slices of these.
    func made(_ op: OpIndex, bySlice slice: Int) -> [(value: ValueIndex, slice: Int, columns: Range<Int>)] {
        let columns = slices[storage[analysis.facts[op].source!].slices.lowerBound + slice]
        return analysis.sums[op].compactMap { sum in
            guard sum == analysis.facts[op].scoreSum else { return (sum, slice, columns) }
            return slice == 0 ? (sum, 0, 0..<values[sum].width) : nil
        }
    }

    /// Bytes of one slice's sums over a group.
    func groupBytes(_ value: ValueIndex, _ slice: Range<Int>, _ group: Range<Int>) -> Int {
        let span = storage[value].span
        return (group.count + span - 1) / span * spanRows(value) * heldWidth(value, slice) * 4
    }

    /// Whether rows of `value` are read or written in `pass` through a slot or a buffer of their own.
    func isLocal(_ value: ValueIndex, in pass: Int) -> Bool {
        !isWhole(value, in: pass)
            && (storage[value].residentChunks < chunks || storage[value].resident?.contains(pass) != true)
    }
}

// MARK: - Numbers of nodes

/// A part of the image that has a number, or some bits, for each node.
package struct NodeSection: Hashable, Sendable {
    package let role: TrainingPlan.Fixed
    package let relation: Int

    package init(role: TrainingPlan.Fixed, relation: Int) {
        self.role = role
        self.relation = relation
    }
}

extension Layout {
    /// What a pass reads of them.
    func nodeSections(_ pass: Pass) -> [NodeSection] {
        var sections: [NodeSection] = []
        func add(_ section: NodeSection) { if !sections.contains(section) { sections.append(section) } }
        func addPointers(_ op: OpIndex) {
            if let relation = analysis.facts[op].relation {
                add(NodeSection(role: .rowPointers, relation: relation))
            }
        }
        for (_, ops) in pass.sliced { for op in ops { addPointers(op) } }
        for step in pass.steps {
            switch step {
            case .run(let op):
                addPointers(op)
                for section in analysis.facts[op].nodeSections { add(section) }
            case .finishSum(let op): for section in analysis.facts[op].nodeSections { add(section) }
            case .fetch, .store, .fetchParts, .storeParts: continue
            }
        }
        return sections
    }

    /// Sealed bytes that going over the topologies once for each hop of the frontier takes, where they do not stay.
    var frontierBytes: Int {
        let hops = analysis.hops
        return hops
            * (0..<image.topologies).reduce(0) { total, relation in
                guard let visit = visit(relation) else { return total }
                let columns = analysis.columns[relation]
                let resident = storage[columns].residentChunks
                let moved =
                    visit.source == nil
                    ? table.fetchedBytes(columns, from: resident)
                    : visit.groups.reduce(0) { $0 + ($1.upperBound > resident ? fetchedBytes(columns, chunks: $1) : 0) }
                let pointers =
                    decision.fetchesNodeSections
                    ? table.fetchedBytes(NodeSection(role: .rowPointers, relation: relation)) : 0
                return total + moved + pointers
            }
    }

    /// A pass that goes over a topology, the groups of chunks in which it does, and whose slices where these do.
    func visit(_ relation: Int) -> (pass: Int, groups: [Range<Int>], source: ValueIndex?)? {
        for (number, pass) in passes.enumerated() {
            for (source, ops) in pass.sliced {
                if let op = ops.first(where: { analysis.facts[$0].relation == relation }) {
                    return (number, groups(op), source)
                }
            }
            for case .run(let op) in pass.steps where analysis.facts[op].relation == relation {
                return (number, (0..<chunks).map { $0..<$0 + 1 }, nil)
            }
        }
        return nil
    }
}

extension TrainingPlan.Fixed {
    /// Where it comes from, if it is part of the image.
    package func section(_ image: ImageShape) -> ImageSection? {
        switch self {
        case .rowPointers: .rowPointers
        case .scale: image.recipe.sections.contains(.scale) ? .scale : nil
        case .labels: image.recipe.targetSection
        case .split: .split
        case .classWeights, .parameters, .gradients, .firstMoments, .secondMoments, .best, .trainScores,
            .evaluateScores, .total, .bestState, .marks:
            nil
        }
    }
}
