package import Vocabulary

/// One epoch of a model as operations on values: what is computed from what, in an order that keeps every sum's chain.
/// Says nothing of where anything lies or when it moves; that is the plan's.
///
/// Operations are of two kinds. A *sum over neighbours* reads all rows of its source, so its source must be complete
/// before it starts. Everything else is *local to a row* and can be done chunk of rows by chunk of rows.
package struct OpGraph: Sendable {
    package let model: ModelShape
    package let image: ImageShape
    package let form: Form
    package internal(set) var values: [Value] = []
    package internal(set) var ops: [Op] = []
    /// The outputs of a prediction: put away chunk by chunk into a window of their own, for the enclave to read.
    package internal(set) var result: ValueIndex?

    /// What a program is for: epochs of training, or one pass that says what a trained model answers for every row.
    package enum Purpose: String, Sendable { case training, prediction }

    package enum Phase: String, Sendable { case train, evaluate }

    /// What of the operations a plan may choose, since it changes no bit of any sum: it says in which order columns that do
    /// not meet are worked on, and what is made twice.
    package struct Form: Hashable, Sendable {
        /// Attention's heads are worked on in so many groups, one after the other, where a layer has that many: then the
        /// rows of only one group must lie in device memory whole, and what is made of them is used up before the next.
        package var headGroups = 1
        /// Whether the backward pass makes what attention sums over again, instead of keeping it since the forward pass, in
        /// layers whose input is no wider than that.
        package var repeatsSources = false
        /// Whether attention's gradients at the two ends of the edges are summed in passes of their own: one needs the whole
        /// rows of the source, the other those of the gradient, and so both need not be there at once.
        package var splitsEnds = false

        package init(headGroups: Int = 1, repeatsSources: Bool = false, splitsEnds: Bool = false) {
            self.headGroups = headGroups
            self.repeatsSources = repeatsSources
            self.splitsEnds = splitsEnds
        }
    }

    /// A matrix with a row for each node.
    package struct Value: Hashable, Sendable {
        package let name: String
        /// Elements of 4 bytes in a row; for neighbours 0.
        package let width: Int
        /// Where it is part of the run image.
        package let section: ImageSection?
        /// Which topology, for neighbours.
        package let relation: Int
        /// Its name without the group of heads that it belongs to: values of one kind are kept alike.
        let kind: String

        init(name: String, width: Int, section: ImageSection? = nil, relation: Int = 0, kind: String? = nil) {
            self.name = name
            self.kind = kind ?? name
            self.width = width
            self.section = section
            self.relation = relation
        }
    }

    package struct Op: Hashable, Sendable {
        package let phase: Phase
        package let layer: Int
        package let kind: Kind
        /// How many steps along edges its rows may be from a row whose label counts: the others are known to be of no
        /// consequence, and are not computed. `nil` where all rows are.
        package let hops: Int?
        /// Likewise for the rows of its neighbours' end that count, where less than all do.
        package let otherHops: Int?
        /// Operations of one group of heads; a pass ends where another's begin.
        let group: Int
    }

    package enum Kind: Hashable, Sendable {
        case map(ValueIndex, to: ValueIndex, [ValueStep])
        /// The same from some columns to as many others.
        case part(Columns, to: Columns, [ValueStep])
        case product(
            ValueIndex, ParameterLayout.Entry, transposed: Bool, to: ValueIndex, accumulates: Bool, [ValueStep])
        /// Sum of `from`'s rows over the neighbours of one topology.
        case gather(from: ValueIndex, relation: Int, to: ValueIndex, [ValueStep])
        /// The highest score and the inverse of the softmax's denominator of each row and head, from its own scores: the
        /// targets' columns behind those of the scores.
        case attentionScale(Attention, scores: ValueIndex)
        /// The neighbours' rows, weighed.
        case attend(Attention, to: ValueIndex)
        case attentionGradient(Attention, AttentionGradient)
        /// The dot product of each head's columns with those of a row of weights, or of another value.
        case headDots(ValueIndex, HeadOther, heads: Int, to: Columns, accumulates: Bool = false)
        /// Adds aᵀ·b to the gradient of a weight.
        case weightGradient(ValueIndex, ValueIndex, ParameterLayout.Entry)
        /// Adds the column sums, of the product with `factors` where there are some, to the gradient of a row of weights.
        case columnSum(ValueIndex, factors: Factors?, ParameterLayout.Entry)
        /// Figures, and the gradient of the outputs while training.
        case loss(ValueIndex, gradient: ValueIndex?)
    }

    /// Some columns of a value.
    package struct Columns: Hashable, Sendable {
        package let value: ValueIndex
        package let first: Int
        package let count: Int

        package init(value: ValueIndex, first: Int, count: Int) {
            self.value = value
            self.first = first
            self.count = count
        }
    }

    package struct Factors: Hashable, Sendable {
        package let value: ValueIndex
        /// 0 where there is one for each element.
        package let heads: Int
    }

    package enum HeadOther: Hashable, Sendable {
        case vector(ParameterLayout.Entry)
        case rows(ValueIndex)
    }

    package struct Attention: Hashable, Sendable {
        package let layer: Int
        package let heads: Int
        /// Of the layer's, the one that is first here.
        package let firstHead: Int
        package let headWidth: Int
        /// [nodes, 3 · heads], in the backward pass [nodes, 4 · heads]: scores, highest, inverse, dots.
        package let targets: ValueIndex
        /// [nodes, heads]
        package let sourceScores: ValueIndex
        /// [nodes, heads · headWidth]
        package let source: ValueIndex
        package let drops: Bool
    }

    /// The sums over edges of an attention's gradient at one end.
    package struct AttentionGradient: Hashable, Sendable {
        package let isOfSources: Bool
        /// What is summed, a row for each node of the other end: the output's gradient, or the source.
        package let other: ValueIndex
        /// The part of the scores' gradient that needs no features.
        package let scoreGradient: ValueIndex
        /// What the other part is the dot product of a row with.
        package let leaked: ValueIndex
        /// The gradient of the source, where it is of sources.
        package let sourceGradient: ValueIndex?
    }
}

/// Index into `OpGraph.values`.
package typealias ValueIndex = Int
/// Index into `OpGraph.ops`.
package typealias OpIndex = Int

/// One element-wise step behind an operation.
package enum ValueStep: Hashable, Sendable {
    case bias(ParameterLayout.Entry)
    case scaleColumns(ParameterLayout.Entry)
    /// By the aggregation's factor of the row, in one topology.
    case scaleRows(Int)
    case scale(Float)
    case relu
    case reluGradient(ValueIndex)
    case elu
    case eluGradient(ValueIndex)
    /// The number is the layer whose output is dropped; 0 for the features. The other is the column of that layer's
    /// output that is the first here.
    case dropout(Int, from: Int = 0)
    /// What that dropout does to the elements that it keeps.
    case keptScale(Int)
    case add(ValueIndex)
    case addPart(OpGraph.Columns)
    /// Adds the product of a number for each head with a row of weights.
    case addHeads(ValueIndex, heads: Int, ParameterLayout.Entry)
    case normalise
    case normaliseGradient(ValueIndex)

    var value: ValueIndex? {
        switch self {
        case .reluGradient(let value), .eluGradient(let value), .add(let value), .normaliseGradient(let value),
            .addHeads(let value, _, _):
            value
        case .addPart(let columns): columns.value
        case .bias, .scaleColumns, .scaleRows, .scale, .relu, .elu, .dropout, .keptScale, .normalise: nil
        }
    }
}

// Swift 6.3.1's optimiser fails on what becomes of these where they are inlined, so they are not.
extension OpGraph.Op {
    /// Values of which it reads the rows that it works on.
    @inline(never)
    package var inputs: [ValueIndex] {
        switch kind {
        case .map(let from, _, let steps): return [from] + steps.compactMap(\.value)
        case .part(let from, _, let steps): return [from.value] + steps.compactMap(\.value)
        case .product(let a, _, _, let to, let accumulates, let steps):
            return [a] + (accumulates ? [to] : []) + steps.compactMap(\.value)
        case .gather(_, _, _, let steps): return steps.compactMap(\.value)
        case .attentionScale(_, let scores): return [scores]
        case .attend, .attentionGradient: return []
        case .headDots(let value, let other, _, let to, let accumulates):
            let others: [ValueIndex] = if case .rows(let rows) = other { [rows] } else { [] }
            return [value] + others + (accumulates ? [to.value] : [])
        case .weightGradient(let a, let b, _): return [a, b]
        case .columnSum(let a, let factors, _): return [a] + (factors.map { [$0.value] } ?? [])
        case .loss(let outputs, _): return [outputs]
        }
    }

    /// The values of which it reads all rows. The numbers of both ends of an attention are among them, although it needs
    /// one end's row by row: they take little, and where sums go slice by slice, each slice needs them all.
    @inline(never)
    package var wholes: [ValueIndex] {
        switch kind {
        case .gather(let from, _, _, _): [from]
        case .attentionScale(let attention, _): [attention.sourceScores]
        case .attend(let attention, _): [attention.targets, attention.sourceScores, attention.source]
        case .attentionGradient(let attention, let gradient):
            [attention.targets, attention.sourceScores, gradient.other]
        case .map, .part, .product, .headDots, .weightGradient, .columnSum, .loss: []
        }
    }

    /// What it sums over neighbours, which may be done slice by slice of its columns.
    @inline(never)
    package var source: ValueIndex? {
        switch kind {
        case .gather(let from, _, _, _): from
        case .attend(let attention, _): attention.source
        case .attentionGradient(_, let gradient): gradient.other
        case .map, .part, .product, .attentionScale, .headDots, .weightGradient, .columnSum, .loss: nil
        }
    }

    /// The sums that an attention makes of its source: what slices of columns fill.
    @inline(never)
    package var attentionSums: [ValueIndex] {
        switch kind {
        case .attend(_, let to): [to]
        case .attentionGradient(_, let gradient): [gradient.leaked] + (gradient.sourceGradient.map { [$0] } ?? [])
        case .map, .part, .product, .gather, .attentionScale, .headDots, .weightGradient, .columnSum, .loss: []
        }
    }

    /// The sums of an attention that have nothing to do with the columns of its source.
    @inline(never)
    package var scoreSum: ValueIndex? {
        if case .attentionGradient(_, let gradient) = kind { gradient.scoreGradient } else { nil }
    }

    /// The columns of each head in what it sums; 0 where there are none.
    @inline(never)
    var headWidth: Int {
        switch kind {
        case .attend(let attention, _), .attentionGradient(let attention, _): attention.headWidth
        case .map, .part, .product, .gather, .attentionScale, .headDots, .weightGradient, .columnSum, .loss: 0
        }
    }

    /// The topology whose neighbours it reads.
    @inline(never)
    package var relation: Int? {
        switch kind {
        case .gather(_, let relation, _, _): relation
        case .attentionScale, .attend, .attentionGradient: 0
        case .map, .part, .product, .headDots, .weightGradient, .columnSum, .loss: nil
        }
    }

    @inline(never)
    package var outputs: [ValueIndex] {
        switch kind {
        case .map(_, let to, _), .product(_, _, _, let to, _, _), .gather(_, _, let to, _), .attend(_, let to): [to]
        case .part(_, let to, _), .headDots(_, _, _, let to, _): [to.value]
        case .attentionScale(let attention, _): [attention.targets]
        case .attentionGradient(_, let gradient):
            [gradient.scoreGradient, gradient.leaked] + (gradient.sourceGradient.map { [$0] } ?? [])
        case .loss(_, let gradient): gradient.map { [$0] } ?? []
        case .weightGradient, .columnSum: []
        }
    }

    /// Whether it makes rows from rows, so that it can be done again where they are needed again.
    @inline(never)
    var isLocal: Bool {
        switch kind {
        case .map, .part, .product, .headDots: true
        case .gather, .attentionScale, .attend, .attentionGradient, .weightGradient, .columnSum, .loss: false
        }
    }

    @inline(never)
    var steps: [ValueStep] {
        switch kind {
        case .map(_, _, let steps), .part(_, _, let steps), .product(_, _, _, _, _, let steps),
            .gather(_, _, _, let steps):
            steps
        case .attentionScale, .attend, .attentionGradient, .headDots, .weightGradient, .columnSum, .loss: []
        }
    }

    /// The weights whose gradient it adds to.
    @inline(never)
    var gradientEntry: ParameterLayout.Entry? {
        switch kind {
        case .weightGradient(_, _, let entry), .columnSum(_, _, let entry): entry
        case .map, .part, .product, .gather, .attentionScale, .attend, .attentionGradient, .headDots, .loss: nil
        }
    }
}

extension OpGraph {
    /// What a sum over neighbours of `source` makes before its steps.
    func bareSum(of source: ValueIndex) -> Value {
        Value(name: "sum of \(values[source].name)", width: values[source].width)
    }
}

extension OpGraph: CustomStringConvertible {
    /// One line for each operation.
    package var description: String {
        func name(_ value: ValueIndex) -> String { values[value].name }
        func name(_ other: HeadOther) -> String {
            switch other {
            case .vector(let entry): entry.name
            case .rows(let rows): name(rows)
            }
        }
        func columns(_ columns: Columns) -> String {
            "\(name(columns.value))[\(columns.first)..<\(columns.first + columns.count)]"
        }
        func chain(_ steps: [ValueStep]) -> String {
            steps.map { step in
                switch step {
                case .bias(let entry): " + \(entry.name)"
                case .scaleColumns(let entry): " × \(entry.name)"
                case .scaleRows(let relation): " × scale\(relation > 0 ? " \(relation)" : "")"
                case .scale(let factor): " × \(factor)"
                case .relu: " | relu"
                case .reluGradient(let value): " | relu′(\(name(value)))"
                case .elu: " | elu"
                case .eluGradient(let value): " | elu′(\(name(value)))"
                case .dropout(let layer, _): " | dropout \(layer)"
                case .keptScale(let layer): " × kept \(layer)"
                case .add(let value): " + \(name(value))"
                case .addPart(let part): " + \(columns(part))"
                case .addHeads(let value, _, let entry): " + \(name(value)) ⊗ \(entry.name)"
                case .normalise: " | normalise"
                case .normaliseGradient(let value): " | normalise′(\(name(value)))"
                }
            }.joined()
        }
        return ops.map { op in
            let text =
                switch op.kind {
                case .map(let from, let to, let steps): "\(name(to)) = \(name(from))\(chain(steps))"
                case .part(let from, let to, let steps): "\(columns(to)) = \(columns(from))\(chain(steps))"
                case .product(let a, let entry, let transposed, let to, let accumulates, let steps):
                    "\(name(to)) \(accumulates ? "+=" : "=") \(name(a)) · \(entry.name)\(transposed ? "ᵀ" : "")"
                        + chain(steps)
                case .gather(let from, let relation, let to, let steps):
                    "\(name(to)) = Σ neighbours\(relation > 0 ? " \(relation)" : "") of \(name(from))\(chain(steps))"
                case .attentionScale(let attention, _):
                    "\(name(attention.targets))[\(attention.heads)..<\(3 * attention.heads)] = softmax's scale over "
                        + name(attention.sourceScores)
                case .attend(let attention, let to):
                    "\(name(to)) = Σ α · neighbours of \(name(attention.source)), \(attention.heads) heads"
                case .attentionGradient(_, let gradient):
                    "\(name(gradient.scoreGradient)) = −Σ l · α · dot, \(name(gradient.leaked)) = Σ l · α · "
                        + "\(gradient.isOfSources ? "targets" : "neighbours") of \(name(gradient.other))"
                        + (gradient.sourceGradient.map { ", \(name($0)) = Σ α · the same" } ?? "")
                case .headDots(let value, let other, _, let to, let accumulates):
                    "\(columns(to)) \(accumulates ? "+=" : "=") ⟨\(name(value)), \(name(other))⟩ by head"
                case .weightGradient(let a, let b, let entry): "∇\(entry.name) = \(name(a))ᵀ · \(name(b))"
                case .columnSum(let a, let factors, let entry):
                    "∇\(entry.name) = column sums of \(name(a))\(factors.map { " ⊙ \(name($0.value))" } ?? "")"
                case .loss(let outputs, let gradient):
                    "\(gradient.map { "\(name($0)) = ∇" } ?? "")loss(\(name(outputs)))"
                }
            return "\(op.phase.rawValue) \(op.layer): \(text)"
        }.joined(separator: "\n")
    }
}
