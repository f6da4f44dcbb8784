/// The parts of a run image. Raw values are written into sealed blocks and never change meaning.
package enum ImageSection: UInt32, CaseIterable, Codable, Sendable {
    /// `UInt64[nodes + 1]`: where each row's neighbours start.
    case rowPointers = 1
    /// `UInt32[edges]`: neighbours, ascending in each row.
    case columns = 2
    /// `Float32[nodes × features]`, row-major.
    case features = 3
    /// `Float32[nodes × features]`: the first layer's aggregate of the features.
    case aggregate = 4
    /// `Float32[nodes]`: what the aggregation multiplies a row with; see `Aggregation`.
    case scale = 5
    /// `Int32[nodes]`: class, or −1 where there is none.
    case labels = 6
    /// `UInt8[nodes]`: see `Split`.
    case split = 7
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
    /// The node column that holds the class, such as `label`.
    package let labelColumn: String

    package init(
        aggregation: Aggregation, normalisation: FeatureNormalisation, aggregatesFirstLayer: Bool,
        labelColumn: String = "label"
    ) {
        self.aggregation = aggregation
        self.normalisation = normalisation
        self.aggregatesFirstLayer = aggregatesFirstLayer
        self.labelColumn = labelColumn
    }

    /// The sections that an image made after this recipe holds.
    package var sections: [ImageSection] {
        ImageSection.allCases.filter {
            switch $0 {
            case .features: !(aggregatesFirstLayer && aggregation == .gcn)
            case .aggregate: aggregatesFirstLayer
            default: true
            }
        }
    }
}

/// Everything the planner and the device need to know about an image's sizes. Holds no row of data.
package struct ImageShape: Hashable, Codable, Sendable {
    /// Rows whose products are summed together before the fixed tree combines them; row chunks are multiples of it.
    package static let tileRows = 1024

    package let nodes: Int
    /// Entries of `columns`: both directions of each edge, and self loops for GCN.
    package let edges: Int
    package let features: Int
    package let classes: Int
    /// Labelled nodes by split, indexed by `Split.rawValue`.
    package let labelled: [Int]
    /// Nodes of each class that are trained on, for class weights.
    package let trainingByClass: [Int]
    /// Row pointers at rows 0, 1024, 2048, …, nodes.
    package let tileEdges: [UInt64]
    package let recipe: ImageRecipe

    package init(
        nodes: Int, edges: Int, features: Int, classes: Int, labelled: [Int], trainingByClass: [Int] = [],
        tileEdges: [UInt64], recipe: ImageRecipe
    ) {
        self.nodes = nodes
        self.edges = edges
        self.features = features
        self.classes = classes
        self.labelled = labelled
        self.trainingByClass = trainingByClass
        self.tileEdges = tileEdges
        self.recipe = recipe
    }

    /// Plaintext bytes of a section.
    package func byteCount(_ section: ImageSection) -> Int {
        switch section {
        case .rowPointers: (nodes + 1) * 8
        case .columns: edges * 4
        case .features, .aggregate: nodes * features * 4
        case .scale, .labels: nodes * 4
        case .split: nodes
        }
    }
}
