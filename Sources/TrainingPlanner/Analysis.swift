import Vocabulary

/// What follows from the operations alone: passes over the rows, who makes what, who reads it where.
///
/// A pass goes over all rows once. A new one begins where a sum over neighbours needs what the pass before has made.
/// Pass p of the operations is number 2p + 1 here; 2p is kept for the slices of its sums, where a cut makes any.
///
/// A class, so that the many layouts that are made of one analysis share it without counting its parts.
// Nothing of it changes after its initialiser; the lists that it points to are its own.
final class Analysis: @unchecked Sendable {
    let graph: OpGraph
    /// What each operation reads and makes: asked for again and again.
    let facts: [OpFacts]
    /// What lives for the whole run, and its bytes.
    let fixedBytes: [(role: TrainingPlan.Fixed, bytes: Int)]
    /// By pass: what it is about, as slices and as rows.
    let titles: [(slices: String, rows: String)]
    private let lists: IndexLists
    /// The graph's values and, behind them, the bare sums of gathers that a cut may slice.
    let values: [OpGraph.Value]
    /// Operations of each pass.
    let passes: [[OpIndex]]
    /// By operation: what the slices of its source fill. For a gather its bare sum, for an attention what it makes.
    let sums: [Indices]
    /// By value: the operation whose slices fill it; −1 for others.
    let summedBy: [OpIndex]
    /// By value: the columns of each head in what an attention sums over and in its sums; 0 for others.
    let headWidths: [Int]
    let producers: [Indices]
    /// Pass that makes it; −1 for parts of the image.
    let producedIn: [Int]
    /// Passes in which its rows at the other end of an edge are read.
    let gatheredIn: [[Int]]
    let recomputable: [Bool]
    /// Whether all of its rows are read only to be summed.
    let sliceable: [Bool]
    /// The neighbours of each topology.
    let columns: [ValueIndex]
    /// By value: the operations that need all of its rows, in order.
    let wholeUses: [[(op: OpIndex, pass: Int, isSource: Bool)]]
    /// Steps along edges to the farthest row that counts.
    let hops: Int
    /// By value: whether one group of heads makes it, and another needs all of its rows first.
    let isMadeEarly: [Bool]
    /// Values that are kept alike.
    let kinds: [[ValueIndex]]
    /// By pass: whether it is part of training or of the evaluation.
    let phases: [OpGraph.Phase]

    init(_ graph: OpGraph) {
        let placement = Placement(graph)
        self.graph = graph
        facts = placement.facts
        let roles = graph.result == nil ? TrainingPlan.Fixed.allCases : TrainingPlan.Fixed.prediction
        fixedBytes = roles.map { ($0, $0.bytes(graph.model, graph.image)) }.filter { $0.1 > 0 }
        titles = placement.titles
        values = placement.values
        passes = placement.passes
        lists = placement.lists
        sums = placement.sums.map(placement.lists.add)
        summedBy = placement.summedBy
        headWidths = placement.headWidths
        producers = placement.producers.map(placement.lists.add)
        producedIn = placement.producedIn
        gatheredIn = placement.gatheredIn
        recomputable = placement.producers.map { ops in !ops.isEmpty && ops.allSatisfy { graph.ops[$0].isLocal } }
        sliceable = placement.sliceable
        columns = graph.values.indices.filter { graph.values[$0].section == .columns }
        wholeUses = placement.wholeUses
        hops = graph.ops.reduce(0) { max($0, $1.hops ?? 0) }
        isMadeEarly = placement.values.indices.map { value in
            guard let made = placement.producers[value].last, let use = placement.wholeUses[value].first else {
                return false
            }
            return graph.ops[made].group != graph.ops[use.op].group
        }
        var numbers: [String: Int] = [:]
        var kinds: [[ValueIndex]] = []
        for (index, value) in graph.values.enumerated() {
            let number = numbers[value.kind, default: kinds.count]
            if number == kinds.count {
                numbers[value.kind] = number
                kinds.append([])
            }
            kinds[number].append(index)
        }
        self.kinds = kinds
        phases = placement.passes.map { graph.ops[$0[0]].phase }
    }

    /// Passes with places for slices between them.
    var slots: Int { 2 * passes.count }
    func isBare(_ value: ValueIndex) -> Bool { value >= graph.values.count }

    /// What a cut may say. Values that only ever live inside a pass are not here.
    var choices: [Choice] {
        let all = Decision(chunkRows: ImageShape.tileRows, values: values.count)
        let uses = RowUses(self, all)
        return graph.values.indices.compactMap { value in
            let isSource = !gatheredIn[value].isEmpty
            guard isSource || uses.last[value] >= 0 else { return nil }
            let later = gatheredIn[value].count > 1 || uses.last[value] >= 0 || isMadeEarly[value]
            return Choice(
                name: values[value].name, width: values[value].width, moves: later, movesWhole: isSource,
                recomputes: recomputable[value] && uses.last[value] >= 0,
                slices: isSource && sliceable[value] && values[value].width > 1)
        }
    }
}

/// Puts the operations into passes.
private struct Placement {
    let graph: OpGraph
    let facts: [OpFacts]
    let lists = IndexLists()
    private(set) var titles: [(slices: String, rows: String)] = []
    private(set) var values: [OpGraph.Value]
    private(set) var passes: [[OpIndex]] = []
    private(set) var sums: [[ValueIndex]]
    private(set) var summedBy: [OpIndex]
    private(set) var headWidths: [Int]
    private(set) var producers: [[OpIndex]]
    private(set) var producedIn: [Int]
    private(set) var gatheredIn: [[Int]]
    private(set) var sliceable: [Bool]
    private(set) var wholeUses: [[(op: OpIndex, pass: Int, isSource: Bool)]]

    init(_ graph: OpGraph) {
        self.graph = graph
        facts = graph.ops.map { [lists] op in OpFacts(op, lists) }
        values = graph.values
        sums = Array(repeating: [], count: graph.ops.count)
        summedBy = Array(repeating: -1, count: graph.values.count)
        headWidths = Array(repeating: 0, count: graph.values.count)
        producers = Array(repeating: [], count: graph.values.count)
        producedIn = Array(repeating: -1, count: graph.values.count)
        gatheredIn = Array(repeating: [], count: graph.values.count)
        sliceable = Array(repeating: true, count: graph.values.count)
        wholeUses = Array(repeating: [], count: graph.values.count)
        for index in graph.ops.indices { place(index) }
        titles = passes.map { ops in
            ("slices of layer \(graph.ops[ops[0]].layer)'s sources", title(ops))
        }
    }

    private mutating func place(_ index: OpIndex) {
        let phase = graph.ops[index].phase
        let last = 2 * passes.count - 1
        var waits = false
        for whole in graph.ops[index].wholes where producedIn[whole] == last { waits = true }
        if passes.isEmpty || graph.ops[index - 1].phase != phase || graph.ops[index - 1].group != graph.ops[index].group
            || waits
        {
            passes.append([])
        }
        passes[passes.count - 1].append(index)
        let pass = 2 * passes.count - 1
        for whole in graph.ops[index].wholes where gatheredIn[whole].last != pass { gatheredIn[whole].append(pass) }
        let source = graph.ops[index].source
        if let source { placeSums(index, of: source, pass) }
        for output in graph.ops[index].outputs {
            producers[output].append(index)
            producedIn[output] = pass
        }
        for whole in graph.ops[index].wholes { wholeUses[whole].append((index, pass, whole == source)) }
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
        wholeUses.append([])
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

/// Some numbers of operations or values that an analysis keeps; not longer than it lives.
typealias Indices = UnsafeBufferPointer<Int>

/// Lists that are read again and again for each decision, where counting references takes more than reading.
// Only the initialisers of an analysis add lists; afterwards nothing changes them until nobody holds them.
final class IndexLists: @unchecked Sendable {
    private var lists: [UnsafeMutableBufferPointer<Int>] = []

    func add(_ list: [Int]) -> Indices {
        let copy = UnsafeMutableBufferPointer<Int>.allocate(capacity: list.count)
        _ = copy.initialize(from: list)
        lists.append(copy)
        return Indices(copy)
    }

    deinit { for list in lists { list.deallocate() } }
}

/// What an operation reads and makes.
// The lists are the analysis's, which holds this too, and are never written.
struct OpFacts: @unchecked Sendable {
    let inputs: Indices
    let outputs: Indices
    let wholes: [ValueIndex]
    let source: ValueIndex?
    let relation: Int?
    let scoreSum: ValueIndex?
    let headWidth: Int
    let gradientEntry: ParameterLayout.Entry?
    /// Numbers of nodes that it reads beside the row pointers of its topology.
    let nodeSections: [NodeSection]

    init(_ op: OpGraph.Op, _ lists: IndexLists) {
        inputs = lists.add(op.inputs)
        outputs = lists.add(op.outputs)
        wholes = op.wholes
        source = op.source
        relation = op.relation
        scoreSum = op.scoreSum
        headWidth = op.headWidth
        gradientEntry = op.gradientEntry
        var sections: [NodeSection] = []
        for case .scaleRows(let relation) in op.steps { sections.append(NodeSection(role: .scale, relation: relation)) }
        if case .loss = op.kind {
            sections += [NodeSection(role: .labels, relation: 0), NodeSection(role: .split, relation: 0)]
        }
        nodeSections = sections
    }
}
