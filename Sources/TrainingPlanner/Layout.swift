package import Vocabulary

/// What follows from the operations alone: passes over the rows, who makes what, who reads it where.
///
/// A pass goes over all rows once. A new one begins where a sum over neighbours needs what the pass before has made.
/// Pass p of the operations is number 2p + 1 here; 2p is kept for the slices of its sums, where a cut makes any.
struct Analysis {
    let graph: OpGraph
    /// What each operation reads and makes: asked for again and again.
    let facts: [OpFacts]
    /// What lives for the whole run, and its bytes.
    let fixedBytes: [(role: TrainingPlan.Fixed, bytes: Int)]
    /// By pass: what it is about, as slices and as rows.
    private(set) var titles: [(slices: String, rows: String)] = []
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
        titles = passes.map { ops in
            ("slices of layer \(graph.ops[ops[0]].layer)'s sources", title(ops))
        }
    }

    private init(empty graph: OpGraph) {
        self.graph = graph
        facts = graph.ops.map(OpFacts.init)
        let roles = graph.result == nil ? TrainingPlan.Fixed.allCases : TrainingPlan.Fixed.prediction
        fixedBytes = roles.map { ($0, $0.bytes(graph.model, graph.image)) }.filter { $0.1 > 0 }
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
            if let score = graph.ops[op].scoreSum {
                sums[op].append(score)
                summedBy[score] = op
            }
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

/// What an operation reads and makes.
struct OpFacts {
    let inputs: [ValueIndex]
    let outputs: [ValueIndex]
    let wholes: [ValueIndex]
    let source: ValueIndex?
    let relation: Int?
    let scoreSum: ValueIndex?

    init(_ op: OpGraph.Op) {
        inputs = op.inputs
        outputs = op.outputs
        wholes = op.wholes
        source = op.source
        relation = op.relation
        scoreSum = op.scoreSum
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
        storage = values.indices.map { value in
            var storage = keep(value)
            storage.span = span(value, storage)
            return storage
        }
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
    /// Fetches the slices of a chunk, and puts them in their columns of it.
    case fetchParts(ValueIndex)
    /// Takes the chunk's columns apart, and stores them as slices.
    case storeParts(ValueIndex)
    case run(OpIndex)
    /// The steps of a gather whose bare sum was made by slices.
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
    /// Chunks that cross together: few rows are less than a sealed block.
    package internal(set) var span = 1

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
                        for input in analysis.facts[op].inputs where input != value { need(input) }
                    }
                } else if analysis.producedIn[value] < pass {
                    uses[value].append(pass)
                }
            }
            for op in ops {
                let outputs = analysis.facts[op].outputs
                for input in analysis.facts[op].inputs
                where !outputs.contains(input) || analysis.producedIn[input] < pass { need(input) }
                let isSliced = decision.slices(op, analysis)
                if isSliced {
                    for sum in analysis.sums[op] where seenIn[sum] != pass {
                        seenIn[sum] = pass
                        uses[sum].append(pass)
                    }
                }
                if !isSliced, let relation = analysis.facts[op].relation { need(analysis.columns[relation]) }
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
                let source = analysis.facts[op].source
                for whole in analysis.facts[op].wholes where !isSliced || whole != source {
                    let at = isSliced ? pass - 1 : pass
                    if let last = gathered[whole].last, last.upperBound >= at - 1 {
                        gathered[whole][gathered[whole].count - 1] =
                            min(last.lowerBound, at)...max(last.upperBound, at)
                    } else {
                        gathered[whole].append(at...at)
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
            // Scores have no columns of the source's: all of them are made with its first slice.
            storage.sliceWidth =
                analysis.facts[summedBy].scoreSum == value
                ? values[value].width : decision.sliceWidths[analysis.facts[summedBy].source!]
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
        if decision.takesTurns {
            storage.whole = gathered
            storage.spilled = produced...last
            return storage
        }
        guard case .moved = way, last > first else {
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
        guard head > step else { return cut(0..<width, sliceStep(value, step)) }
        return cut(0..<width, head).flatMap { cut($0, step) }
    }

    /// Columns of a slice but for the last: of whole heads, where there are that many.
    private func sliceStep(_ value: ValueIndex, _ width: Int) -> Int {
        let head = analysis.headWidths[value]
        return head > 0 && width >= head ? width / head * head : width
    }

    private func slices(_ pass: Int, _ ops: [OpIndex]) -> Pass {
        var result = Pass(
            phase: graph.ops[ops[0]].phase, title: analysis.titles[pass / 2].slices)
        for op in ops {
            guard let source = analysis.facts[op].source, storage[source].sliceWidth > 0 else { continue }
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
        var result = Pass(phase: graph.ops[ops[0]].phase, title: analysis.titles[pass / 2].rows)
        var present = Set<ValueIndex>()
        func need(_ value: ValueIndex) {
            guard present.insert(value).inserted else { return }
            if decision.ways[value] == .recompute, analysis.producedIn[value] < pass, !storage[value].isWhole(in: pass)
            {
                for op in analysis.producers[value] {
                    for input in analysis.facts[op].inputs where input != value { need(input) }
                    result.steps.append(.run(op))
                }
                return
            }
            if storage[value].isWhole(in: pass) { return }
            if storage[value].sliceWidth > 0 {
                result.steps.append(.fetchParts(value))
            } else if storage[value].residentChunks < chunks {
                result.steps.append(.fetch(value))
            }
        }
        for op in ops {
            let outputs = analysis.facts[op].outputs
            for input in analysis.facts[op].inputs
            where !outputs.contains(input) || analysis.producedIn[input] < pass { need(input) }
            let isSliced = decision.slices(op, analysis)
            let sums = isSliced ? analysis.sums[op] : []
            for sum in sums { need(sum) }
            if !isSliced {
                if let relation = analysis.facts[op].relation { need(analysis.columns[relation]) }
                result.steps.append(.run(op))
            } else if sums.contains(where: analysis.isBare) {
                result.steps.append(.finishSum(op))
            }
            for output in outputs where !sums.contains(output) {
                present.insert(output)
                guard op == analysis.producers[output].last, let spilled = storage[output].spilled else { continue }
                // What slices began may be finished here, and is stored again only for a later pass.
                if analysis.summedBy[output] >= 0, decision.slices(analysis.summedBy[output], analysis),
                    spilled.upperBound == pass
                {
                    continue
                }
                if storage[output].sliceWidth > 0 {
                    result.steps.append(.storeParts(output))
                } else {
                    result.steps.append(.store(output))
                }
            }
        }
        result.reloads = reloads(pass)
        return result
    }

    private func reloads(_ pass: Int) -> [ValueIndex] {
        values.indices.filter { value in
            produced(value) < pass && storage[value].whole.contains { $0.lowerBound == pass }
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
            let most = words / divisor(words, decision.chunkRows)
            var unit = 1
            while unit < most, (columns + 2 * unit - 1) / (2 * unit) * (2 * unit) * 3 <= columns * 4 { unit *= 2 }
            return most / unit
        }
        let exact = words / divisor(words, decision.chunkRows * values[value].width)
        guard storage.whole.isEmpty else { return exact }
        var span = 1
        while span < exact {
            let bytes = span * decision.chunkRows * values[value].width * 4
            if Self.wholeBlocks(bytes) * 6 <= bytes * 7 { break }
            span *= 2
        }
        return span
    }

    private func divisor(_ one: Int, _ other: Int) -> Int { other == 0 ? one : divisor(other, one % other) }

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
        let words = Limits.blockBytes / 4
        let unit = words / divisor(words, spanRows(value))
        return (slice.count + unit - 1) / unit * unit
    }

    /// Bytes of a whole slice.
    func sliceBytes(_ value: ValueIndex, _ slice: Range<Int>) -> Int {
        spans(value) * spanRows(value) * heldWidth(value, slice) * 4
    }

    /// Bytes of one span of all slices, one behind the other.
    func partsBytes(_ value: ValueIndex) -> Int {
        ranges(value).reduce(0) { $0 + spanRows(value) * heldWidth(value, $1) * 4 }
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

    /// Plaintext bytes of a value that is put away: its spans one after the other, slice after slice.
    func spillBytes(_ value: ValueIndex) -> Int {
        guard storage[value].sliceWidth > 0 else { return spans(value) * stride(value) }
        return ranges(value).reduce(0) { $0 + sliceBytes(value, $1) }
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
        let span = (analysis.sums[op] + [analysis.facts[op].source!]).reduce(1) { max($0, storage[$1].span) }
        let relation = analysis.facts[op].relation!
        // A power of two, as spans are, so that none of these is cut in two.
        var size = span
        while size * 2 <= chunks / (decision.takesTurns ? 16 : 8) { size *= 2 }
        // Numbers of nodes that are fetched are there for one span at a time.
        let most = decision.fetchesNodeSections ? min(size, spanChunks) : size
        let split = storage[analysis.columns[relation]].residentChunks / span * span
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

    /// What one slice of its source makes of an operation: values, and which slices of these.
    func made(_ op: OpIndex, bySlice slice: Int) -> [(value: ValueIndex, slice: Int, columns: Range<Int>)] {
        let columns = ranges(analysis.facts[op].source!)[slice]
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
        !storage[value].isWhole(in: pass)
            && (storage[value].residentChunks < chunks || storage[value].resident?.contains(pass) != true)
    }
}

/// What all layouts with the same chunks share: sums over the chunks that would else be made again and again.
struct ChunkTable {
    let chunkRows: Int
    let chunks: Int
    /// By value of the image: chunks that cross together.
    private(set) var sectionSpans: [Int]
    /// Neighbours of the span that has most, by topology; at least 1.
    private(set) var mostEdges: [Int]
    /// By value of the image: sealed bytes that fetching the first spans takes, one by one.
    private var fetched: [[Int]]
    private let graph: OpGraph

    init(_ graph: OpGraph, chunkRows: Int) {
        let image = graph.image
        self.chunkRows = chunkRows
        self.graph = graph
        chunks = (image.nodes + chunkRows - 1) / chunkRows
        mostEdges = Array(repeating: 1, count: image.topologies)
        sectionSpans = []
        fetched = []
        for value in graph.values {
            guard value.section != nil else { break }
            sectionSpans.append(span(value))
            fetched.append(sums(value))
        }
    }

    /// So many that no more than a third of what crosses is the rest of blocks, and whole tiles of neighbours, since
    /// only the neighbours of tiles have known places.
    private func span(_ value: OpGraph.Value) -> Int {
        let image = graph.image
        let enough = 3 * Limits.blockBytes
        var span = 1
        if value.section == .columns {
            let rows = max(ImageShape.tileRows, chunkRows)
            span = rows / chunkRows
            let edges = image.relations.isEmpty ? image.edges : image.relations[value.relation].edges
            while span < chunks, edges / max(chunks / span, 1) * 4 < enough { span *= 2 }
        } else {
            func bytes() -> Int { span * chunkRows * value.width * 4 }
            while span < chunks, !bytes().isMultiple(of: Limits.blockBytes), bytes() < enough { span *= 2 }
        }
        return span
    }

    /// Bytes of these chunks in their section.
    func range(_ index: ValueIndex, chunks range: Range<Int>) -> Range<Int> {
        let value = graph.values[index]
        let rows = range.lowerBound * chunkRows..<min(range.upperBound * chunkRows, graph.image.nodes)
        guard value.section == .columns else {
            return rows.lowerBound * value.width * 4..<rows.upperBound * value.width * 4
        }
        let edges = graph.image.edges(ofRows: rows, value.relation)
        return edges.lowerBound * 4..<edges.upperBound * 4
    }

    private mutating func sums(_ value: OpGraph.Value) -> [Int] {
        let index = fetched.count
        let all = graph.image.byteCount(value.section!)
        let span = sectionSpans[index]
        var sum = [0]
        sum.reserveCapacity(chunks / span + 2)
        for first in stride(from: 0, to: chunks, by: span) {
            let bytes = range(index, chunks: first..<min(first + span, chunks))
            if value.section == .columns {
                mostEdges[value.relation] = max(mostEdges[value.relation], bytes.count / 4)
            }
            sum.append(sum.last! + Self.crossing(bytes, of: all))
        }
        return sum
    }

    /// Sealed bytes that fetching a section from a chunk on, span by span, takes.
    func fetchedBytes(_ value: ValueIndex, from chunk: Int) -> Int {
        guard chunk < chunks else { return 0 }
        let span = sectionSpans[value]
        let whole = (chunk + span - 1) / span
        let all = fetched[value].last! - fetched[value][whole]
        guard !chunk.isMultiple(of: span) else { return all }
        return all
            + Self.crossing(
                range(value, chunks: chunk..<min(whole * span, chunks)),
                of: graph.image.byteCount(graph.values[value].section!))
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
    /// Chunks whose numbers of nodes are fetched at once: sealed blocks are larger than what one chunk has of them. Whole
    /// spans of every value.
    var spanChunks: Int {
        let words = Limits.blockBytes / 4
        return words / divisor(words, decision.chunkRows)
    }
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
        for (_, ops) in pass.sliced { for op in ops { add(.rowPointers, analysis.facts[op].relation!) } }
        for step in pass.steps {
            let op: OpGraph.Op
            switch step {
            case .run(let index):
                op = graph.ops[index]
                if let relation = op.relation { add(.rowPointers, relation) }
            case .finishSum(let index): op = graph.ops[index]
            case .fetch, .store, .fetchParts, .storeParts: continue
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
                guard let visit = visit(relation) else { return total }
                let columns = analysis.columns[relation]
                let resident = storage[columns].residentChunks
                let moved =
                    visit.source == nil
                    ? table.fetchedBytes(columns, from: resident)
                    : visit.groups.reduce(0) { $0 + ($1.upperBound > resident ? fetchedBytes(columns, chunks: $1) : 0) }
                let pointers =
                    decision.fetchesNodeSections
                    ? fetchedBytes(NodeSection(role: .rowPointers, relation: relation)) : 0
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
