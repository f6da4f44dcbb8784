package import Vocabulary

/// One epoch of a model as operations on values: what is computed from what, in an order that keeps every sum's chain.
/// Says nothing of where anything lies or when it moves; that is the plan's.
///
/// Operations are of two kinds. A *sum over neighbours* reads all rows of its source, so its source must be complete
/// before it starts. Everything else is *local to a row* and can be done chunk of rows by chunk of rows.
package struct OpGraph: Sendable {
    package let model: ModelShape
    package let image: ImageShape
    package internal(set) var values: [Value] = []
    package internal(set) var ops: [Op] = []

    package enum Phase: String, Sendable { case train, evaluate }

    /// A matrix with a row for each node.
    package struct Value: Hashable, Sendable {
        package let name: String
        /// Elements of 4 bytes in a row; for neighbours 0.
        package let width: Int
        /// Where it is part of the run image.
        package let section: ImageSection?
    }

    package struct Op: Hashable, Sendable {
        package let phase: Phase
        package let layer: Int
        package let kind: Kind
    }

    package enum Kind: Hashable, Sendable {
        case map(ValueIndex, to: ValueIndex, [ValueStep])
        case product(
            ValueIndex, ParameterLayout.Entry, transposed: Bool, to: ValueIndex, accumulates: Bool, [ValueStep])
        /// Sum over neighbours of `from`'s rows.
        case gather(from: ValueIndex, to: ValueIndex, [ValueStep])
        /// Adds aᵀ·b to the gradient of a weight.
        case weightGradient(ValueIndex, ValueIndex, ParameterLayout.Entry)
        /// Adds the column sums, of the product with `factors` where there are some, to the gradient of a row of weights.
        case columnSum(ValueIndex, factors: ValueIndex?, ParameterLayout.Entry)
        /// Figures, and the gradient of the outputs while training.
        case loss(ValueIndex, gradient: ValueIndex?)
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
    /// By the aggregation's factor of the row.
    case scaleRows
    case relu
    case reluGradient(ValueIndex)
    /// The number is the layer whose output is dropped; 0 for the features.
    case dropout(Int)
    case add(ValueIndex)
    case normalise
    case normaliseGradient(ValueIndex)

    var value: ValueIndex? {
        switch self {
        case .reluGradient(let value), .add(let value), .normaliseGradient(let value): value
        case .bias, .scaleColumns, .scaleRows, .relu, .dropout, .normalise: nil
        }
    }
}

// Swift 6.3.1's optimiser fails on what becomes of these where they are inlined, so they are not.
extension OpGraph.Op {
    /// Values of which it reads the rows that it works on.
    @inline(never)
    package var inputs: [ValueIndex] {
        switch kind {
        case .map(let from, _, let steps): [from] + steps.compactMap(\.value)
        case .product(let a, _, _, let to, let accumulates, let steps):
            [a] + (accumulates ? [to] : []) + steps.compactMap(\.value)
        case .gather(_, _, let steps): steps.compactMap(\.value)
        case .weightGradient(let a, let b, _): [a, b]
        case .columnSum(let a, let factors, _): [a] + (factors.map { [$0] } ?? [])
        case .loss(let outputs, _): [outputs]
        }
    }

    /// The value of which it reads all rows.
    @inline(never)
    package var source: ValueIndex? {
        if case .gather(let from, _, _) = kind { from } else { nil }
    }

    @inline(never)
    package var output: ValueIndex? {
        switch kind {
        case .map(_, let to, _), .product(_, _, _, let to, _, _), .gather(_, let to, _): to
        case .loss(_, let gradient): gradient
        case .weightGradient, .columnSum: nil
        }
    }

    /// Whether it makes rows from rows, so that it can be done again where they are needed again.
    @inline(never)
    var isLocal: Bool {
        switch kind {
        case .map, .product: true
        case .gather, .weightGradient, .columnSum, .loss: false
        }
    }

    @inline(never)
    var steps: [ValueStep] {
        switch kind {
        case .map(_, _, let steps), .product(_, _, _, _, _, let steps), .gather(_, _, let steps): steps
        case .weightGradient, .columnSum, .loss: []
        }
    }

    /// The weights whose gradient it adds to.
    @inline(never)
    var gradientEntry: ParameterLayout.Entry? {
        switch kind {
        case .weightGradient(_, _, let entry), .columnSum(_, _, let entry): entry
        case .map, .product, .gather, .loss: nil
        }
    }
}

extension OpGraph {
    /// What a sum over neighbours of `source` makes before its steps.
    func bareSum(of source: ValueIndex) -> Value {
        Value(name: "sum of \(values[source].name)", width: values[source].width, section: nil)
    }
}

extension OpGraph: CustomStringConvertible {
    /// One line for each operation.
    package var description: String {
        func name(_ value: ValueIndex) -> String { values[value].name }
        func chain(_ steps: [ValueStep]) -> String {
            steps.map { step in
                switch step {
                case .bias(let entry): " + \(entry.name)"
                case .scaleColumns(let entry): " × \(entry.name)"
                case .scaleRows: " × scale"
                case .relu: " | relu"
                case .reluGradient(let value): " | relu′(\(name(value)))"
                case .dropout(let layer): " | dropout \(layer)"
                case .add(let value): " + \(name(value))"
                case .normalise: " | normalise"
                case .normaliseGradient(let value): " | normalise′(\(name(value)))"
                }
            }.joined()
        }
        return ops.map { op in
            let text =
                switch op.kind {
                case .map(let from, let to, let steps): "\(name(to)) = \(name(from))\(chain(steps))"
                case .product(let a, let entry, let transposed, let to, let accumulates, let steps):
                    "\(name(to)) \(accumulates ? "+=" : "=") \(name(a)) · \(entry.name)\(transposed ? "ᵀ" : "")"
                        + chain(steps)
                case .gather(let from, let to, let steps): "\(name(to)) = Σ neighbours of \(name(from))\(chain(steps))"
                case .weightGradient(let a, let b, let entry): "∇\(entry.name) = \(name(a))ᵀ · \(name(b))"
                case .columnSum(let a, let factors, let entry):
                    "∇\(entry.name) = column sums of \(name(a))\(factors.map { " ⊙ \(name($0))" } ?? "")"
                case .loss(let outputs, let gradient):
                    "\(gradient.map { "\(name($0)) = ∇" } ?? "")loss(\(name(outputs)))"
                }
            return "\(op.phase.rawValue) \(op.layer): \(text)"
        }.joined(separator: "\n")
    }
}
