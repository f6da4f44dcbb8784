package import Vocabulary

/// What the planner needs of a model: layers, widths and their order of operations. Follows from the specification
/// alone, never from budgets, because the order of operations changes bits.
package struct ModelShape: Hashable, Sendable {
    /// Whether a layer sums over neighbours before or after its product with the weights.
    package enum Order: String, Sendable {
        /// `(A H) W`, where the layer's input is narrower than its output.
        case aggregateFirst = "aggregate-first"
        /// `A (H W)`, otherwise.
        case transformFirst = "transform-first"
        /// The first layer's `A X` comes with the run image.
        case inImage = "in-image"
    }

    package let aggregation: Aggregation
    /// Features, hidden widths, classes.
    package let widths: [Int]
    package let dropsFeatures: Bool
    package let dropsHidden: Bool
    package let weighsClasses: Bool
    /// A hidden layer's input is added to its output where both are equally wide.
    package let isResidual: Bool
    /// Hidden layers are normalised (LayerNorm) before their activation.
    package let normalises: Bool
    package let activation: Activation
    /// With attention only.
    package let attention: Attention?
    /// Topologies with weights of their own; 0 where there is one for all edges.
    package let relations: Int

    package enum Activation: String, Sendable { case relu, elu }

    package struct Attention: Hashable, Sendable {
        /// Of each hidden layer, side by side.
        package let heads: Int
        /// Of the last layer, each as wide as the output; their mean is taken.
        package let outputHeads: Int

        package init(heads: Int, outputHeads: Int) {
            self.heads = heads
            self.outputHeads = outputHeads
        }
    }

    package init(
        aggregation: Aggregation, widths: [Int], dropsFeatures: Bool, dropsHidden: Bool, weighsClasses: Bool = false,
        isResidual: Bool = false, normalises: Bool = false, activation: Activation = .relu,
        attention: Attention? = nil, relations: Int = 0
    ) {
        precondition(widths.count >= 2, "a model has at least one layer")
        self.aggregation = aggregation
        self.widths = widths
        self.dropsFeatures = dropsFeatures
        self.dropsHidden = dropsHidden
        self.weighsClasses = weighsClasses
        self.isResidual = isResidual
        self.normalises = normalises
        self.activation = activation
        self.attention = aggregation == .gat ? attention ?? Attention(heads: 1, outputHeads: 1) : nil
        self.relations = aggregation == .rgcn ? relations : 0
    }

    /// Layers are numbered from 1 to this.
    package var layers: Int { widths.count - 1 }

    package func order(_ layer: Int) -> Order {
        switch aggregation {
        case .gat: return .transformFirst
        case .rgcn: return .aggregateFirst
        case .gcn, .sage: break
        }
        if layer == 1, !dropsFeatures { return .inImage }
        return widths[layer - 1] < widths[layer] ? .aggregateFirst : .transformFirst
    }

    /// Whether a layer's input is added to its output.
    package func isResidual(_ layer: Int) -> Bool {
        isResidual && layer > 1 && layer < layers && widths[layer - 1] == widths[layer]
    }

    /// Heads of a layer's attention.
    package func heads(_ layer: Int) -> Int {
        layer == layers ? attention?.outputHeads ?? 1 : attention?.heads ?? 1
    }

    /// Columns that a layer's attention makes: those of all heads.
    func attendedWidth(_ layer: Int) -> Int { layer == layers ? widths[layer] * heads(layer) : widths[layer] }

    package var parameters: ParameterLayout { ParameterLayout(self) }
}

/// Where each weight lies in the one array of parameters; moments, gradients and the best copy have the same layout.
package struct ParameterLayout: Hashable, Sendable {
    package enum Role: String, Sendable {
        /// Multiplies what came from neighbours (and, in GCN, the row itself).
        case weight
        /// Multiplies the row itself (SAGE).
        case root
        case bias
        /// The neighbours' and the row's own part of an attention's score.
        case attentionSource = "attention_source"
        case attentionTarget = "attention_target"
        /// LayerNorm's factor and summand.
        case normScale = "norm_scale"
        case normShift = "norm_shift"
    }

    package struct Entry: Hashable, Sendable {
        package let layer: Int
        package let role: Role
        /// 1 for a bias.
        package let rows: Int
        package let columns: Int
        /// Elements from one row to the next: more than its columns where it is a part of a weight.
        package let stride: Int
        /// In elements from the array's start.
        package let offset: Int
        /// With relations, the one that a weight belongs to.
        package let relation: Int?
        package var count: Int { rows * columns }
        package var name: String {
            "layers.\(layer)." + (relation.map { "relations.\($0)" } ?? role.rawValue)
        }
        package var isMatrix: Bool { role == .weight || role == .root }

        package var isContiguous: Bool { rows == 1 || columns == stride }

        /// Some of its rows and columns.
        func part(rows: Range<Int>? = nil, columns: Range<Int>? = nil) -> Entry {
            let (rows, columns) = (rows ?? 0..<self.rows, columns ?? 0..<self.columns)
            return Entry(
                layer: layer, role: role, rows: rows.count, columns: columns.count, stride: stride,
                offset: offset + rows.lowerBound * stride + columns.lowerBound, relation: relation)
        }
    }

    // Entries start on whole cache lines; what lies between them stays zero.
    package static let alignment = 16

    package let entries: [Entry]
    /// Elements of the whole array.
    package let count: Int
    /// Elements up to the end of the first layer.
    package let firstLayerCount: Int

    init(_ model: ModelShape) {
        var entries: [Entry] = []
        var offset = 0
        var firstLayerCount = 0
        for layer in 1...model.layers {
            for (role, relation) in Self.roles(model, layer) {
                let isMatrix = role == .weight || role == .root
                let isWide = role == .weight || role == .attentionSource || role == .attentionTarget
                let columns = isWide ? model.attendedWidth(layer) : model.widths[layer]
                let entry = Entry(
                    layer: layer, role: role, rows: isMatrix ? model.widths[layer - 1] : 1, columns: columns,
                    stride: columns, offset: offset, relation: relation)
                entries.append(entry)
                offset += (entry.count + Self.alignment - 1) / Self.alignment * Self.alignment
            }
            if layer == 1 { firstLayerCount = offset }
        }
        self.entries = entries
        count = offset
        self.firstLayerCount = firstLayerCount
    }

    private static func roles(_ model: ModelShape, _ layer: Int) -> [(Role, relation: Int?)] {
        var roles: [(Role, relation: Int?)] =
            switch model.aggregation {
            case .gcn: [(.weight, nil), (.bias, nil)]
            case .sage: [(.weight, nil), (.root, nil), (.bias, nil)]
            case .rgcn: (0..<model.relations).map { (.weight, $0) } + [(.root, nil), (.bias, nil)]
            case .gat: [(.weight, nil), (.attentionSource, nil), (.attentionTarget, nil), (.bias, nil)]
            }
        if model.normalises, layer < model.layers { roles += [(.normScale, nil), (.normShift, nil)] }
        return roles
    }

    package subscript(_ layer: Int, _ role: Role, relation relation: Int? = nil) -> Entry {
        entries.first { $0.layer == layer && $0.role == role && $0.relation == relation }!
    }
}
