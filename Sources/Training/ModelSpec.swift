package import TrainingPlanner
package import Vocabulary

import Sealing

/// What a researcher submits instead of code: a declared model and how to train it.
///
/// Written as YAML (`ModelSpec(parsing:)`); `canonical` is the form that is hashed and recorded, and it parses back to
/// an equal specification.
package struct ModelSpec: Hashable, Sendable {
    package struct EarlyStopping: Hashable, Sendable {
        /// Epochs without a better figure after which training ends.
        package let patience: Int
        package let metric: Metric

        package init(patience: Int, metric: Metric) {
            self.patience = patience
            self.metric = metric
        }
    }

    package enum Metric: String, CaseIterable, Sendable {
        /// Of a classification.
        case validationAccuracy = "validation_accuracy"
        /// Micro-averaged, of a multi-label task.
        case validationF1 = "validation_f1"
        case validationLoss = "validation_loss"
    }

    package enum ClassWeights: String, CaseIterable, Sendable {
        case none
        /// Each class weighs `train / (classes × train of this class)`.
        case balanced
    }

    package enum WeightDecayLayers: String, CaseIterable, Sendable { case first, all }

    /// What is predicted for a node.
    package enum Task: String, CaseIterable, Sendable {
        /// One class of several.
        case classification
        /// Any number of classes, each a decision of its own.
        case multilabel
        /// A number.
        case regression
    }

    package enum Loss: String, CaseIterable, Sendable {
        case crossEntropy = "cross-entropy"
        /// The mean over a node's classes.
        case binaryCrossEntropy = "binary-cross-entropy"
        case squaredError = "squared-error"
    }

    /// After each hidden layer.
    package enum Activation: String, CaseIterable, Sendable {
        case relu
        /// `x` above 0, else `eˣ − 1`.
        case elu
    }

    /// What only graph attention has. Scores pass a leaky relu of slope 0.2.
    package struct Attention: Hashable, Sendable {
        /// Of each hidden layer, side by side: a hidden width is that of all heads together.
        package let heads: Int
        /// Of the last layer, each as wide as the output; their mean is taken.
        package let outputHeads: Int
        /// Of the weights that a row gives its neighbours, after the softmax; for each edge and head on its own.
        package let dropout: Quantity

        package init(heads: Int = 8, outputHeads: Int = 1, dropout: Quantity = .zero) {
            self.heads = heads
            self.outputHeads = outputHeads
            self.dropout = dropout
        }
    }

    package let model: Aggregation
    /// Widths of the hidden layers; the model has one layer more.
    package let hidden: [Int]
    /// With `gat` only.
    package let attention: Attention?
    package let activation: Activation
    /// A hidden layer whose input has its width adds it to its output, after activation and dropout.
    package let residual: Bool
    /// Hidden layers are normalised over their columns before activation, with a scale and a shift of their own.
    package let layerNorm: Bool
    package let dropout: Quantity
    /// Dropout of the features. Any above 0 means that the features themselves cross, not the first layer's aggregate.
    package let inputDropout: Quantity
    package let learningRate: Quantity
    package let weightDecay: Quantity
    package let weightDecayLayers: WeightDecayLayers
    package let epochs: Int
    package let earlyStopping: EarlyStopping?
    package let classWeights: ClassWeights
    package let features: FeatureNormalisation
    package let task: Task
    /// The node column to predict.
    package let label: String
    package let loss: Loss
    /// Predicates whose edges are used, ascending and without repeats; `nil` for all.
    package let relations: [String]?
    package let seed: UInt32

    package init(
        model: Aggregation, hidden: [Int], attention: Attention? = nil, activation: Activation? = nil,
        residual: Bool = false, layerNorm: Bool = false, dropout: Quantity = .zero, inputDropout: Quantity = .zero,
        learningRate: Quantity = Quantity(billionths: 10_000_000), weightDecay: Quantity = .zero,
        weightDecayLayers: WeightDecayLayers = .first, epochs: Int = 200, earlyStopping: EarlyStopping? = nil,
        classWeights: ClassWeights = .none, features: FeatureNormalisation = .none, task: Task = .classification,
        label: String? = nil, relations: [String]? = nil, seed: UInt32 = 1
    ) {
        self.model = model
        self.hidden = hidden
        self.attention = model == .gat ? attention ?? Attention() : nil
        self.activation = activation ?? Self.activation(of: model)
        self.residual = residual
        self.layerNorm = layerNorm
        self.dropout = dropout
        self.inputDropout = inputDropout
        self.learningRate = learningRate
        self.weightDecay = weightDecay
        self.weightDecayLayers = weightDecayLayers
        self.epochs = epochs
        self.earlyStopping = earlyStopping
        self.classWeights = classWeights
        self.features = features
        self.task = task
        self.label = label ?? task.labelColumn
        self.loss = task.loss
        self.relations = relations
        self.seed = seed
    }

    /// The same specification with another seed; what a repetition differs in.
    package func with(seed: UInt32) -> ModelSpec {
        ModelSpec(
            model: model, hidden: hidden, attention: attention, activation: activation, residual: residual,
            layerNorm: layerNorm, dropout: dropout, inputDropout: inputDropout, learningRate: learningRate,
            weightDecay: weightDecay, weightDecayLayers: weightDecayLayers, epochs: epochs,
            earlyStopping: earlyStopping, classWeights: classWeights, features: features, task: task, label: label,
            relations: relations, seed: seed)
    }

    static func activation(of model: Aggregation) -> Activation { model == .gat ? .elu : .relu }
}

extension ModelSpec.Task {
    /// The column that is meant where none is named.
    var labelColumn: String {
        switch self {
        case .classification: "label"
        case .multilabel: "labels"
        case .regression: "target"
        }
    }

    package var loss: ModelSpec.Loss {
        switch self {
        case .classification: .crossEntropy
        case .multilabel: .binaryCrossEntropy
        case .regression: .squaredError
        }
    }

    /// What early stopping and the best epoch may go by; the first is the one that is meant where none is named.
    package var metrics: [ModelSpec.Metric] {
        switch self {
        case .classification: [.validationAccuracy, .validationLoss]
        case .multilabel: [.validationF1, .validationLoss]
        case .regression: [.validationLoss]
        }
    }

    package var target: Target {
        switch self {
        case .classification: .classes
        case .multilabel: .classSets
        case .regression: .values
        }
    }
}

// MARK: - What follows from it

extension ModelSpec {
    /// What the vault puts into the run image. The first layer's aggregate is constant where no input dropout changes
    /// the features from epoch to epoch; then it crosses. Attention weighs neighbours anew in each epoch, and with
    /// relations there would be one aggregate for each, so then the features cross.
    package var recipe: ImageRecipe {
        ImageRecipe(
            aggregation: model, normalisation: features,
            aggregatesFirstLayer: inputDropout == .zero && (model == .gcn || model == .sage), labelColumn: label,
            target: task.target, predicates: relations)
    }

    /// What the best epoch is chosen by.
    package var metric: Metric { earlyStopping?.metric ?? task.metrics[0] }

    /// Layers and their order of operations, on an image of these sizes.
    package func shape(for image: ImageShape) -> ModelShape {
        shape(features: image.features, classes: image.classes, relations: image.relations.count)
    }

    /// The same for features of width `features`, `classes` classes and so many topologies with weights of their own.
    package func shape(features: Int, classes: Int, relations: Int = 0) -> ModelShape {
        ModelShape(
            aggregation: model, widths: [features] + hidden + [classes], dropsFeatures: inputDropout > .zero,
            dropsHidden: dropout > .zero, weighsClasses: classWeights == .balanced, isResidual: residual,
            normalises: layerNorm, activation: activation == .elu ? .elu : .relu,
            attention: attention.map { ModelShape.Attention(heads: $0.heads, outputHeads: $0.outputHeads) },
            relations: relations)
    }

    /// The form that is hashed: numbers with fractions as decimal text. The members of the first grammar are all there;
    /// those that came later only where they say something else than it did, so its digests still hold.
    package var canonical: JSON {
        var members: [String: JSON] = [
            "model": .string(model.rawValue),
            "hidden": .array(hidden.map { .integer(Int64($0)) }),
            "dropout": .string(dropout.description),
            "input_dropout": .string(inputDropout.description),
            "learning_rate": .string(learningRate.description),
            "weight_decay": .string(weightDecay.description),
            "weight_decay_layers": .string(weightDecayLayers.rawValue),
            "epochs": .integer(Int64(epochs)),
            "class_weights": .string(classWeights.rawValue),
            "features": .string(features.rawValue),
            "label": .string(label),
            "loss": .string(loss.rawValue),
            "seed": .integer(Int64(seed)),
        ]
        if let earlyStopping {
            members["early_stopping"] = .object([
                "patience": .integer(Int64(earlyStopping.patience)), "metric": .string(earlyStopping.metric.rawValue),
            ])
        }
        if let attention {
            members["heads"] = .integer(Int64(attention.heads))
            members["output_heads"] = .integer(Int64(attention.outputHeads))
            members["attention_dropout"] = .string(attention.dropout.description)
        }
        if activation != Self.activation(of: model) { members["activation"] = .string(activation.rawValue) }
        if residual { members["residual"] = true }
        if layerNorm { members["layer_norm"] = true }
        if task != .classification { members["task"] = .string(task.rawValue) }
        if let relations { members["relations"] = .array(relations.map { .string($0) }) }
        return .object(members)
    }

    /// SHA-256 of the canonical form, with its name in front.
    package var digest: Digest { SHA256.hash(Array("sekisho model specification v1\n".utf8) + canonical.canonical) }
}
