package import Vocabulary

/// What follows from the operations alone: passes over the rows, who makes what, who reads it where.
///
/// A pass goes over all rows once. A new one begins where a sum over neighbours needs what the pass before has made.
/// Pass p of the operations is number 2p + 1 here; 2p is kept for the slices of its sums, where a cut makes any.
struct Analysis {
    let graph: OpGraph
    /// The graph's values and, behind them, the bare sums of gathers that a cut may slice.
    private(set) var values: [OpGraph.Value]
    /// Operations of each pass.
    private(set) var passes: [[OpIndex]] = []
    /// By operation: what the slices of its source fill. For a gather its bare sum, for an attention what it makes.
    private(set) var sums: [[ValueIndex]]
    /// By value: the operation whose slices fill it; −1 for others.
    private(set) var summedBy: [OpIndex]
    /// By value: the columns of each head in what an attention sums over and in its sums; 0 for others.
    private(set) var headWidths: [Int]
    private(set) var producers: [[OpIndex]]
    /// Pass that makes it; −1 for parts of the image.
    private(set) var producedIn: [Int]
    /// Passes in which its rows at the other end of an edge are read.
    private(set) var gatheredIn: [[Int]]
    private(set) var recomputable: [Bool]
    /// Whether all of its rows are read only to be summed.
    private(set) var sliceable: [Bool]
    /// The neighbours of each topology.
    let columns: [ValueIndex]

    init(_ graph: OpGraph) {
        self.init(empty: graph)
        for index in graph.ops.indices { place(index) }
        for value in producers.indices { recomputable.append(isLocal(producers[value])) }
    }

    private init(empty graph: OpGraph) {
        self.graph = graph
        values = graph.values
        sums = Array(repeating: [], count: graph.ops.count)
        summedBy = Array(repeating: -1, count: graph.values.count)
        headWidths = Array(repeating: 0, count: graph.values.count)
        producers = Array(repeating: [], count: graph.values.count)
        producedIn = Array(repeating: -1, count: graph.values.count)
        gatheredIn = Array(repeating: [], count: graph.values.count)
        recomputable = []
        sliceable = Array(repeating: true, count: graph.values.count)
        columns = graph.values.indices.filter { graph.values[$0].section == .columns }
    }

    private func isLocal(_ ops: [OpIndex]) -> Bool {
        for op in ops where !graph.ops[op].isLocal { return false }
        return !ops.isEmpty
    }

    private mutating func place(_ index: OpIndex) {
        let phase = graph.ops[index].phase
        let last = 2 * passes.count - 1
        var waits = false
        for whole in graph.ops[index].wholes where producedIn[whole] == last { waits = true }
        if passes.isEmpty || graph.ops[index - 1].phase != phase || waits { passes.append([]) }
        passes[passes.count - 1].append(index)
        let pass = 2 * passes.count - 1
        for whole in graph.ops[index].wholes where gatheredIn[whole].last != pass { gatheredIn[whole].append(pass) }
        let source = graph.ops[index].source
        if let source { placeSums(index, of: source, pass) }
        for output in graph.ops[index].outputs {
            producers[output].append(index)
            producedIn[output] = pass
        }
        // Numbers of an attention's ends are needed by every slice.
        for whole in graph.ops[index].wholes where whole != source { sliceable[whole] = false }
    }

    private mutating func placeSums(_ op: OpIndex, of source: ValueIndex, _ pass: Int) {
        let known = graph.ops[op].attentionSums
        guard known.isEmpty else {
            sums[op] = known
            for value in known { summedBy[value] = op }
            for value in known + [source] { headWidths[value] = graph.ops[op].headWidth }
            return
        }
        sums[op] = [values.count]
        // Each relation sums over the same source, so the name alone does not tell the sums apart.
        var sum = graph.bareSum(of: source)
        if values.contains(where: { $0.name == sum.name }) {
            sum = OpGraph.Value(name: "\(sum.name), \(op)", width: sum.width)
        }
        values.append(sum)
        summedBy.append(op)
        headWidths.append(0)
        producers.append([])
        producedIn.append(pass - 1)
        gatheredIn.append([])
        sliceable.append(false)
    }

    /// Passes with places for slices between them.
    var slots: Int { 2 * passes.count }
    var phases: [OpGraph.Phase] { passes.map { graph.ops[$0[0]].phase } }
    func isBare(_ value: ValueIndex) -> Bool { value >= graph.values.count }

    /// Whether neighbours are gone over once more, row by row, where slices of its source made its sums.
    func hasRowPart(_ op: OpIndex) -> Bool {
        if case .attentionGradient = graph.ops[op].kind { true } else { false }
    }

    /// What a cut may say. Values that only ever live inside a pass are not here.
    var choices: [Choice] {
        let all = Decision(chunkRows: ImageShape.tileRows, values: values.count)
        let uses = Layout.rowUses(self, all)
        return graph.values.indices.compactMap { value in
            let isSource = !gatheredIn[value].isEmpty
            guard isSource || !uses[value].isEmpty else { return nil }
            let later = gatheredIn[value].count > 1 || !uses[value].isEmpty
            return Choice(
                name: values[value].name, width: values[value].width, moves: later, movesWhole: isSource,
                recomputes: recomputable[value] && !uses[value].isEmpty,
                slices: isSource && sliceable[value] && values[value].width > 1)
        }
    }
}

/// One decision worked out: what every pass does with each chunk of rows, and how each value is kept.
struct Layout {
    let analysis: Analysis
    let decision: Decision
    let chunks: Int
    let table: ChunkTable
    /// By slot: `2p` slices, `2p + 1` rows; empty where nothing happens.
    private(set) var passes: [Pass]
    private(set) var storage: [Storage]
    /// Passes, its own apart, in which a value's rows are read.
    let rowUses: [[Int]]
    /// Passes in which all of a value's rows are needed.
    private let gathered: [[ClosedRange<Int>]]

    var graph: OpGraph { analysis.graph }
    var values: [OpGraph.Value] { analysis.values }

    init(_ analysis: Analysis, _ decision: Decision, _ table: ChunkTable) {
        self.analysis = analysis
        self.decision = decision
        self.table = table
        chunks = table.chunks
        rowUses = Self.rowUses(analysis, decision)
        gathered = Self.gathered(analysis, decision)
        passes = []
        storage = []
        storage = values.indices.map(keep)
        passes.reserveCapacity(analysis.slots)
        for pass in analysis.passes.indices {
            passes.append(slices(2 * pass, analysis.passes[pass]))
            passes.append(rows(2 * pass + 1, analysis.passes[pass]))
        }
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
    /// Fetches one slice of a chunk, and puts it in its columns of the chunk.
    case fetchPart(ValueIndex, slice: Int)
    /// Takes columns of the chunk, and stores them as one slice.
    case storePart(ValueIndex, slice: Int)
    case run(OpIndex)
    /// What is left to do where slices made the sums: the steps of a gather, the scores of an attention's gradient.
    case finishSum(OpIndex)
}

/// How a value is kept between passes.
package struct Storage: Hashable, Sendable {
    /// Passes during which all of it lies in device memory; several where it is put away in between.
    package internal(set) var whole: [ClosedRange<Int>] = []
    /// Chunks that stay in device memory, and how long.
    package internal(set) var residentChunks = 0
    package internal(set) var resident: ClosedRange<Int>?
    /// Passes from its storing to its last fetching, where it is put away.
    package internal(set) var spilled: ClosedRange<Int>?
    /// 0 where rows are stored whole.
    package internal(set) var sliceWidth = 0

    func isWhole(in pass: Int) -> Bool { whole.contains { $0.contains(pass) } }
}

extension Layout {
    /// For each value the passes, its own apart, that read its rows; with what recomputing needs.
    static func rowUses(_ analysis: Analysis, _ decision: Decision) -> [[Int]] {
        var uses = analysis.values.map { _ in [Int]() }
        // The last pass in which a value was made or fetched.
        var seenIn = Array(repeating: -1, count: analysis.values.count)
        for (index, ops) in analysis.passes.enumerated() {
            let pass = 2 * index + 1
            func need(_ value: ValueIndex) {
                guard seenIn[value] != pass else { return }
                seenIn[value] = pass
                if decision.ways[value] == .recompute, analysis.producedIn[value] < pass {
                    for op in analysis.producers[value] {
                        for input in analysis.graph.ops[op].inputs where input != value { need(input) }
                    }
                } else if analysis.producedIn[value] < pass {
                    uses[value].append(pass)
                }
            }
            for op in ops {
                let outputs = analysis.graph.ops[op].outputs
                for input in analysis.graph.ops[op].inputs
                where !outputs.contains(input) || analysis.producedIn[input] < pass { need(input) }
                let isSliced = decision.slices(op, analysis)
                if isSliced {
                    for sum in analysis.sums[op] where seenIn[sum] != pass {
                        seenIn[sum] = pass
                        uses[sum].append(pass)
                    }
                }
                if let relation = analysis.graph.ops[op].relation, !isSliced || analysis.hasRowPart(op) {
                    need(analysis.columns[relation])
                }
                for output in outputs { seenIn[output] = pass }
            }
        }
        return uses
    }

    /// For each value the passes that need all of its rows: where sums go slice by slice, the numbers of an attention's
    /// ends are needed in the pass before, and the source itself is not.
    private static func gathered(_ analysis: Analysis, _ decision: Decision) -> [[ClosedRange<Int>]] {
        var gathered = analysis.values.map { _ in [ClosedRange<Int>]() }
        for (index, ops) in analysis.passes.enumerated() {
            let pass = 2 * index + 1
            for op in ops {
                let isSliced = decision.slices(op, analysis)
                let source = analysis.graph.ops[op].source
                for whole in analysis.graph.ops[op].wholes where !isSliced || whole != source {
                    let from = isSliced ? pass - 1 : pass
                    let to = isSliced && !analysis.hasRowPart(op) ? pass - 1 : pass
                    if let last = gathered[whole].last, last.upperBound >= from - 1 {
                        gathered[whole][gathered[whole].count - 1] =
                            min(last.lowerBound, from)...max(last.upperBound, to)
                    } else {
                        gathered[whole].append(from...to)
                    }
                }
            }
        }
        return gathered
    }

    /// The pass that makes a value.
    private func produced(_ value: ValueIndex) -> Int {
        let op = analysis.summedBy[value]
        guard op >= 0, !analysis.isBare(value), decision.slices(op, analysis) else { return analysis.producedIn[value] }
        return analysis.producedIn[value] - 1
    }

    private func keep(_ value: ValueIndex) -> Storage {
        var storage = Storage()
        let produced = produced(value)
        let gathered = gathered[value]
        let rows = rowUses[value]
        let way = decision.ways[value]
        let summedBy = analysis.summedBy[value]
        if analysis.isBare(value) || summedBy >= 0 && decision.slices(summedBy, analysis) {
            // Made by slices, read by rows.
            guard let last = rows.last else { return storage }
            storage.spilled = produced...last
            storage.sliceWidth = decision.sliceWidths[graph.ops[summedBy].source!]
            return storage
        }
        if values[value].section != nil {
            let always = 0...analysis.slots - 1
            if case .moved(let resident) = way {
                storage.residentChunks = min(resident, chunks)
                storage.resident = resident > 0 ? always : nil
            } else {
                storage.residentChunks = chunks
                storage.resident = always
            }
            return storage
        }
        if value == graph.result {
            storage.spilled = produced...analysis.slots - 1
            return storage
        }
        if decision.sliceWidths[value] > 0 {
            guard let last = [analysis.gatheredIn[value].last, rows.last].compactMap({ $0 }).max() else {
                return storage
            }
            storage.spilled = produced...last
            storage.sliceWidth = decision.sliceWidths[value]
            return storage
        }
        guard let last = [gathered.last?.upperBound, rows.last].compactMap({ $0 }).max() else { return storage }
        guard let first = gathered.first?.upperBound else {
            if case .moved(let resident) = way {
                storage.residentChunks = min(resident, chunks)
                storage.resident = resident > 0 ? produced...last : nil
                if resident < chunks { storage.spilled = produced...last }
            } else {
                storage.residentChunks = chunks
                storage.resident = produced...last
            }
            return storage
        }
        // Chunks are stored from where they lie, so they have to be whole blocks.
        guard case .moved = way, last > first, isGapless(width: values[value].width) else {
            storage.whole = [produced...last]
            return storage
        }
        storage.whole = [produced...first] + gathered.dropFirst()
        if gathered.count > 1 || rows.contains(where: { row in !storage.isWhole(in: row) }) {
            storage.spilled = produced...last
        }
        return storage
    }

    /// Slices of a value's columns. Those of an attention are whole heads, or parts of one.
    func ranges(_ value: ValueIndex) -> [Range<Int>] {
        let width = values[value].width
        let step = storage[value].sliceWidth
        let head = analysis.headWidths[value]
        func cut(_ columns: Range<Int>, _ step: Int) -> [Range<Int>] {
            Swift.stride(from: columns.lowerBound, to: columns.upperBound, by: step).map {
                $0..<min($0 + step, columns.upperBound)
            }
        }
        guard head > 0 else { return cut(0..<width, step) }
        guard step < head else { return cut(0..<width, step / head * head) }
        return cut(0..<width, head).flatMap { cut($0, step) }
    }

    private func slices(_ pass: Int, _ ops: [OpIndex]) -> Pass {
        var result = Pass(
            phase: graph.ops[ops[0]].phase, title: "slices of layer \(graph.ops[ops[0]].layer)'s sources")
        for op in ops {
            guard let source = graph.ops[op].source, storage[source].sliceWidth > 0 else { continue }
            if let known = result.sliced.firstIndex(where: { $0.source == source }) {
                result.sliced[known].ops.append(op)
            } else {
                result.sliced.append((source, [op]))
            }
        }
        if !result.isEmpty { result.reloads = reloads(pass) }
        return result
    }

    private func rows(_ pass: Int, _ ops: [OpIndex]) -> Pass {
        let first = graph.ops[ops[0]]
        var result = Pass(phase: first.phase, title: title(ops))
        var present = Set<ValueIndex>()
        func need(_ value: ValueIndex) {
            guard present.insert(value).inserted else { return }
            if decision.ways[value] == .recompute, analysis.producedIn[value] < pass, !storage[value].isWhole(in: pass)
            {
                for op in analysis.producers[value] {
                    for input in graph.ops[op].inputs where input != value { need(input) }
                    result.steps.append(.run(op))
                }
                return
            }
            if storage[value].isWhole(in: pass) { return }
            if storage[value].sliceWidth > 0 {
                for slice in ranges(value).indices { result.steps.append(.fetchPart(value, slice: slice)) }
            } else if storage[value].residentChunks < chunks {
                result.steps.append(.fetch(value))
            }
        }
        for op in ops {
            let outputs = graph.ops[op].outputs
            for input in graph.ops[op].inputs
            where !outputs.contains(input) || analysis.producedIn[input] < pass { need(input) }
            let isSliced = decision.slices(op, analysis)
            let sums = isSliced ? analysis.sums[op] : []
            for sum in sums { need(sum) }
            let hasPart = !isSliced || analysis.hasRowPart(op)
            if hasPart, let relation = graph.ops[op].relation { need(analysis.columns[relation]) }
            if hasPart || sums.contains(where: analysis.isBare) {
                result.steps.append(isSliced ? .finishSum(op) : .run(op))
            }
            for output in outputs where !sums.contains(output) {
                present.insert(output)
                guard op == analysis.producers[output].last, storage[output].spilled != nil else { continue }
                if storage[output].sliceWidth > 0 {
                    for slice in ranges(output).indices { result.steps.append(.storePart(output, slice: slice)) }
                } else {
                    result.steps.append(.store(output))
                }
            }
        }
        result.reloads = reloads(pass)
        return result
    }

    private func reloads(_ pass: Int) -> [ValueIndex] {
        values.indices.filter { value in storage[value].whole.dropFirst().contains { $0.lowerBound == pass } }
    }

    private func title(_ ops: [OpIndex]) -> String {
        let first = graph.ops[ops[0]]
        var read: [String] = []
        for op in ops { for whole in graph.ops[op].wholes { read.append(bareName(whole)) } }
        let names = Array(Set(read)).sorted()
        let what = names.isEmpty ? "features" : "sums of \(names.joined(separator: ", "))"
        return "\(first.phase.rawValue): \(what)"
    }

    /// Its name without the phase.
    private func bareName(_ value: ValueIndex) -> String {
        let prefix = "evaluate."
        let name = values[value].name
        return name.hasPrefix(prefix) ? String(name.dropFirst(prefix.count)) : name
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
        storage[value].spilled == nil
            ? image.nodes * rowBytes(value) : chunks * stride(width: values[value].width)
    }

    /// Bytes of a value's first chunks.
    func bytes(_ value: ValueIndex, chunks count: Int) -> Int {
        if values[value].section == .columns {
            return max(edges(0..<count, relation: values[value].relation).count * 4, 4)
        }
        return min(count * decision.chunkRows, image.nodes) * rowBytes(value)
    }

    /// Bytes of the largest chunk as it lies in a slot.
    func slotBytes(_ value: ValueIndex) -> Int {
        if values[value].section == .columns { return table.mostEdges[values[value].relation] * 4 }
        return storage[value].spilled == nil
            ? min(decision.chunkRows, image.nodes) * rowBytes(value) : stride(width: values[value].width)
    }

    /// Bytes from one stored chunk of that many columns to the next: whole blocks, because a store seals whole blocks.
    func stride(width: Int) -> Int {
        (decision.chunkRows * width * 4 + Limits.blockBytes - 1) / Limits.blockBytes * Limits.blockBytes
    }

    /// Plaintext bytes of a value that is put away: its chunks one after the other, slice after slice.
    func spillBytes(_ value: ValueIndex) -> Int {
        guard storage[value].sliceWidth > 0 else {
            return (chunks - storage[value].residentChunks) * stride(width: values[value].width)
        }
        return ranges(value).reduce(0) { $0 + chunks * stride(width: $1.count) }
    }

    /// Where a stored piece begins in its value's bytes.
    func spillOffset(_ value: ValueIndex, slice: Int, chunk: Int) -> Int {
        let storage = storage[value]
        guard storage.sliceWidth > 0 else {
            return (chunk - storage.residentChunks) * stride(width: values[value].width)
        }
        let ranges = ranges(value)
        return ranges[..<slice].reduce(0) { $0 + chunks * stride(width: $1.count) }
            + chunk * stride(width: ranges[slice].count)
    }

    /// Whether consecutive chunks of a slice lie next to each other without gaps, so that many are one matrix.
    func isGapless(width: Int) -> Bool { stride(width: width) == decision.chunkRows * width * 4 }

    /// Chunks that one command of a slice's sum covers. The neighbours that stay in device memory end at a chunk of
    /// their own, and where stored chunks have gaps each is on its own.
    func groups(_ source: ValueIndex, relation: Int) -> [Range<Int>] {
        let columns = storage[analysis.columns[relation]]
        let width = storage[source].sliceWidth
        let isGapless = ranges(source).allSatisfy { self.isGapless(width: $0.count) } && width > 0
        let size = isGapless ? max(1, chunks / 16) : 1
        let split = columns.residentChunks
        // Numbers of nodes that are fetched are there for one span at a time.
        let most = decision.fetchesNodeSections ? min(size, spanChunks) : size
        func cut(_ range: Range<Int>) -> [Range<Int>] {
            var groups: [Range<Int>] = []
            var lower = range.lowerBound
            while lower < range.upperBound {
                let upper = min((lower / most + 1) * most, range.upperBound)
                groups.append(lower..<upper)
                lower = upper
            }
            return groups
        }
        return cut(0..<split) + cut(split..<chunks)
    }

    /// Bytes of a whole slice as it lies in device memory: chunks with gaps are fetched one by one, so without them.
    func heldSliceBytes(width: Int) -> Int {
        isGapless(width: width) ? chunks * stride(width: width) : image.nodes * width * 4
    }

    /// Whether rows of `value` are read or written in `pass` through a slot or a buffer of their own.
    func isLocal(_ value: ValueIndex, in pass: Int) -> Bool {
        !storage[value].isWhole(in: pass)
            && (storage[value].residentChunks < chunks || storage[value].resident?.contains(pass) != true)
    }
}

/// What all layouts with the same chunks share: sums over the chunks that would else be made again and again.
struct ChunkTable {
    let chunkRows: Int
    let chunks: Int
    /// Neighbours of the chunk that has most, by topology; at least 1.
    private(set) var mostEdges: [Int]
    /// By value of the image: sealed bytes that fetching the first chunks takes, one by one.
    private var fetched: [[Int]]

    init(_ graph: OpGraph, chunkRows: Int) {
        let image = graph.image
        self.chunkRows = chunkRows
        chunks = (image.nodes + chunkRows - 1) / chunkRows
        mostEdges = Array(repeating: 1, count: image.topologies)
        fetched = []
        for value in graph.values {
            guard let section = value.section else { break }
            fetched.append(sums(section, value, image))
        }
    }

    private mutating func sums(_ section: ImageSection, _ value: OpGraph.Value, _ image: ImageShape) -> [Int] {
        var sum = [0]
        sum.reserveCapacity(chunks + 1)
        for chunk in 0..<chunks {
            let range: Range<Int>
            if section == .columns {
                let edges = image.edges(ofRows: chunk * chunkRows..<(chunk + 1) * chunkRows, value.relation)
                mostEdges[value.relation] = max(mostEdges[value.relation], edges.count)
                range = edges.lowerBound * 4..<edges.upperBound * 4
            } else {
                let bytes = value.width * 4
                range = chunk * chunkRows * bytes..<min((chunk + 1) * chunkRows, image.nodes) * bytes
            }
            sum.append(sum[chunk] + Self.crossing(range, of: image.byteCount(section)))
        }
        return sum
    }

    /// Sealed bytes that fetching these chunks of a section, one by one, takes.
    func fetchedBytes(_ value: ValueIndex, chunks: Range<Int>) -> Int {
        fetched[value][chunks.upperBound] - fetched[value][chunks.lowerBound]
    }

    /// Sealed bytes that a range of a window's plaintext takes: whole blocks cross.
    static func crossing(_ range: Range<Int>, of byteCount: Int) -> Int {
        guard !range.isEmpty else { return 0 }
        let first = range.lowerBound / Limits.blockBytes
        let end = (range.upperBound - 1) / Limits.blockBytes + 1
        return min(byteCount, end * Limits.blockBytes) - first * Limits.blockBytes + (end - first) * Limits.tagBytes
    }
}

extension ImageShape {
    /// Row pointers of one topology at rows 0, 1024, 2048, …, nodes.
    package func tileEdges(_ relation: Int) -> [UInt64] {
        relations.isEmpty ? tileEdges : relations[relation].tileEdges
    }

    /// Positions, in the image's neighbours, of those of the tiles that these rows touch.
    func edges(ofRows rows: Range<Int>, _ relation: Int) -> Range<Int> {
        let edges = tileEdges(relation)
        let last = edges.count - 1
        let upper = (rows.upperBound + Self.tileRows - 1) / Self.tileRows
        return Int(edges[min(rows.lowerBound / Self.tileRows, last)])..<Int(edges[min(upper, last)])
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
    /// Chunks whose numbers of nodes are fetched at once: sealed blocks are larger than what one chunk has of them.
    var spanChunks: Int { max(1, 16 * ImageShape.tileRows / decision.chunkRows) }
    var spans: Int { (chunks + spanChunks - 1) / spanChunks }

    func rows(ofSpan span: Int) -> Range<Int> {
        let rows = spanChunks * decision.chunkRows
        return span * rows..<min((span + 1) * rows, image.nodes)
    }

    /// What a pass reads of them.
    func nodeSections(_ pass: Pass) -> [NodeSection] {
        var sections: [NodeSection] = []
        func add(_ role: TrainingPlan.Fixed, _ relation: Int = 0) {
            let section = NodeSection(role: role, relation: relation)
            if !sections.contains(section) { sections.append(section) }
        }
        for (_, ops) in pass.sliced { for op in ops { add(.rowPointers, graph.ops[op].relation!) } }
        for step in pass.steps {
            let op: OpGraph.Op
            switch step {
            case .run(let index):
                op = graph.ops[index]
                if let relation = op.relation { add(.rowPointers, relation) }
            case .finishSum(let index):
                op = graph.ops[index]
                if analysis.hasRowPart(index), let relation = op.relation { add(.rowPointers, relation) }
            case .fetch, .store, .fetchPart, .storePart: continue
            }
            for case .scaleRows(let relation) in op.steps { add(.scale, relation) }
            if case .loss = op.kind {
                add(.labels)
                add(.split)
            }
        }
        return sections
    }

    /// Bytes of a section's window that some rows take.
    func bytes(_ section: NodeSection, rows: Range<Int>) -> Range<Int> {
        let first = section.relation * image.nodes
        switch section.role {
        // Where a row ends is where the next one starts.
        case .rowPointers: return (first + rows.lowerBound) * 8..<(first + rows.upperBound + 1) * 8
        case .scale: return (first + rows.lowerBound) * 4..<(first + rows.upperBound) * 4
        case .labels:
            let bytes = image.byteCount(image.recipe.targetSection) / image.nodes
            return rows.lowerBound * bytes..<rows.upperBound * bytes
        default: return rows
        }
    }

    /// Sealed bytes that going over the topologies once for each hop of the frontier takes, where they do not stay.
    var frontierBytes: Int {
        let hops = graph.ops.reduce(0) { max($0, $1.hops ?? 0) }
        return hops
            * (0..<image.topologies).reduce(0) { total, relation in
                let columns = analysis.columns[relation]
                let moved = table.fetchedBytes(columns, chunks: storage[columns].residentChunks..<chunks)
                let pointers =
                    decision.fetchesNodeSections
                    ? fetchedBytes(NodeSection(role: .rowPointers, relation: relation)) : 0
                return total + moved + pointers
            }
    }

    /// Sealed bytes that fetching all of a section, span by span, takes.
    func fetchedBytes(_ section: NodeSection) -> Int {
        let all = image.byteCount(section.role.section(image)!)
        return (0..<spans).reduce(0) { $0 + ChunkTable.crossing(bytes(section, rows: rows(ofSpan: $1)), of: all) }
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
