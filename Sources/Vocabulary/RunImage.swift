/// The parts of a run image. Raw values are written into sealed blocks and never change meaning.
package enum ImageSection: UInt32, CaseIterable, Codable, Sendable {
    /// `UInt64[nodes + 1]`: where each row's neighbours start. With relations `UInt64[relations × nodes + 1]`: row `i` of
    /// relation `r` is row `r · nodes + i`, so each relation is a part of it that reads like the whole.
    case rowPointers = 1
    /// `UInt32[edges]`: neighbours, ascending in each row.
    case columns = 2
    /// `Float32[nodes × features]`, row-major.
    case features = 3
    /// `Float32[nodes × features]`: the first layer's aggregate of the features.
    case aggregate = 4
    /// `Float32[nodes]`, with relations `Float32[relations × nodes]`: what the aggregation multiplies a row with; see
    /// `Aggregation`.
    case scale = 5
    /// `Int32[nodes]`: class, or −1 where there is none.
    case labels = 6
    /// `UInt8[nodes]`: see `Split`.
    case split = 7
    /// `UInt8[nodes × ⌈classes / 8⌉]`: bit `c mod 8` of byte `c / 8` is 1 where the node is of class `c`. Rows without a
    /// label are in no split.
    case labelSets = 8
    /// `Float32[nodes]`: the value to predict. Rows without one hold 0 and are in no split.
    case targets = 9
}

/// What a run predicts for a node.
package enum Target: String, CaseIterable, Codable, Sendable {
    /// One class of several.
    case classes
    /// Any number of classes.
    case classSets = "class-sets"
    /// A number.
    case values
}

/// What a labelled node is used for.
package enum Split: UInt8, CaseIterable, Codable, Sendable {
    case none = 0
    case train = 1
    case validation = 2
    case test = 3
}

/// How a layer sums over neighbours; it decides what the image's topology and scale hold.
package enum Aggregation: String, Codable, Sendable, CaseIterable {
    /// Kipf & Welling 2017: `s ⊙ (A + I)(s ⊙ H)`, `s = 1/√degree` counting the self loop, which the topology contains.
    case gcn
    /// Hamilton et al. 2017, mean aggregator: `s ⊙ (A H)`, `s = 1/degree`, 0 for an isolated node.
    case sage
    /// Veličković et al. 2018: a softmax over the neighbours and the row itself, which the topology contains; no scale.
    case gat
    /// SAGE with a weight for each relation, after Schlichtkrull et al. 2018: `Σ s_r ⊙ (A_r H W_r)`, `s_r` as in SAGE.
    /// The image holds the topology of each predicate in both directions, so the transpose of one is there too.
    case rgcn

    /// Whether a row is its own neighbour in the image.
    package var hasSelfLoops: Bool { self == .gcn || self == .gat }
}

/// How feature columns are put on a common footing, in float64 and over the permitted cohort only.
package enum FeatureNormalisation: String, Codable, Sendable, CaseIterable {
    case none
    /// Each row divided by its sum (rows with sum 0 stay).
    case rowSum = "row-sum"
    /// Each column minus its mean, divided by its standard deviation + 1e-6.
    case standard
}

/// What a run asks the vault to put into its image. Part of the run's specification and of its hash.
package struct ImageRecipe: Hashable, Codable, Sendable {
    package let aggregation: Aggregation
    package let normalisation: FeatureNormalisation
    /// Sends the first layer's aggregate beside (SAGE) or instead of (GCN) the features. Not valid with input dropout.
    package let aggregatesFirstLayer: Bool
    /// The node column that holds what is predicted, such as `label`.
    package let labelColumn: String
    package let target: Target
    /// Predicates whose edges are taken, ascending and without repeats; `nil` for all that the version has. The untyped
    /// aggregations join what is taken to one graph.
    package let predicates: [String]?

    package init(
        aggregation: Aggregation, normalisation: FeatureNormalisation, aggregatesFirstLayer: Bool,
        labelColumn: String = "label", target: Target = .classes, predicates: [String]? = nil
    ) {
        precondition(!aggregatesFirstLayer || aggregation == .gcn || aggregation == .sage)
        self.aggregation = aggregation
        self.normalisation = normalisation
        self.aggregatesFirstLayer = aggregatesFirstLayer
        self.labelColumn = labelColumn
        self.target = target
        self.predicates = predicates
    }

    /// The sections that an image made after this recipe holds.
    package var sections: [ImageSection] {
        ImageSection.allCases.filter {
            switch $0 {
            case .features: !(aggregatesFirstLayer && aggregation == .gcn)
            case .aggregate: aggregatesFirstLayer
            case .scale: aggregation != .gat
            case .labels: target == .classes
            case .labelSets: target == .classSets
            case .targets: target == .values
            case .rowPointers, .columns, .split: true
            }
        }
    }
}

/// Everything the planner and the device need to know about an image's sizes. Holds no row of data.
package struct ImageShape: Hashable, Codable, Sendable {
    /// Rows whose products are summed together before the fixed tree combines them; row chunks are multiples of it.
    package static let tileRows = 1024

    package let nodes: Int
    /// Entries of `columns`: both directions of each edge, and self loops where the aggregation has them.
    package let edges: Int
    package let features: Int
    /// Width of the model's output: classes, or 1 where a value is predicted.
    package let classes: Int
    /// Labelled nodes by split, indexed by `Split.rawValue`.
    package let labelled: [Int]
    /// Nodes of each class that are trained on, for class weights. Empty where a value is predicted.
    package let trainingByClass: [Int]
    /// Edges of all rows before row 0, 1024, 2048, …, nodes; with relations, the sum over them.
    package let tileEdges: [UInt64]
    /// The relations in their order in the image; empty for the untyped aggregations, which have one topology.
    package let relations: [Relation]
    package let recipe: ImageRecipe

    /// One direction of one predicate. Forward, a row's neighbours are the objects of its edges; inverse, the subjects.
    /// Forward and inverse stand in pairs (2k, 2k + 1), each the transpose of the other; predicates ascend. Predicates
    /// without an edge in the cohort are left out.
    package struct Relation: Hashable, Codable, Sendable {
        package let predicate: String
        package let isInverse: Bool
        package let edges: Int
        /// This relation's row pointers at rows 0, 1024, 2048, …, nodes, counted through the whole of `columns`.
        package let tileEdges: [UInt64]

        package init(predicate: String, isInverse: Bool, edges: Int, tileEdges: [UInt64]) {
            self.predicate = predicate
            self.isInverse = isInverse
            self.edges = edges
            self.tileEdges = tileEdges
        }
    }

    /// Topologies in the image.
    package var topologies: Int { max(relations.count, 1) }

    package init(
        nodes: Int, edges: Int, features: Int, classes: Int, labelled: [Int], trainingByClass: [Int] = [],
        tileEdges: [UInt64], relations: [Relation] = [], recipe: ImageRecipe
    ) {
        self.nodes = nodes
        self.edges = edges
        self.features = features
        self.classes = classes
        self.labelled = labelled
        self.trainingByClass = trainingByClass
        self.tileEdges = tileEdges
        self.relations = relations
        self.recipe = recipe
    }

    /// Plaintext bytes of a section.
    package func byteCount(_ section: ImageSection) -> Int {
        switch section {
        case .rowPointers: (topologies * nodes + 1) * 8
        case .columns: edges * 4
        case .features, .aggregate: nodes * features * 4
        case .scale: topologies * nodes * 4
        case .labels, .targets: nodes * 4
        case .split: nodes
        case .labelSets: nodes * ((classes + 7) / 8)
        }
    }
}
