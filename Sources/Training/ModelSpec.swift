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
        case validationAccuracy = "validation_accuracy"
        case validationLoss = "validation_loss"
    }

    package enum ClassWeights: String, CaseIterable, Sendable {
        case none
        /// Each class weighs `train / (classes × train of this class)`.
        case balanced
    }

    package enum WeightDecayLayers: String, CaseIterable, Sendable { case first, all }

    package enum Loss: String, CaseIterable, Sendable { case crossEntropy = "cross-entropy" }

    package let model: Aggregation
    /// Widths of the hidden layers; the model has one layer more.
    package let hidden: [Int]
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
    package let label: String
    package let loss: Loss
    package let seed: UInt32

    package init(
        model: Aggregation, hidden: [Int], dropout: Quantity = .zero, inputDropout: Quantity = .zero,
        learningRate: Quantity = Quantity(billionths: 10_000_000), weightDecay: Quantity = .zero,
        weightDecayLayers: WeightDecayLayers = .first, epochs: Int = 200, earlyStopping: EarlyStopping? = nil,
        classWeights: ClassWeights = .none, features: FeatureNormalisation = .none, label: String = "label",
        loss: Loss = .crossEntropy, seed: UInt32 = 1
    ) {
        self.model = model
        self.hidden = hidden
        self.dropout = dropout
        self.inputDropout = inputDropout
        self.learningRate = learningRate
        self.weightDecay = weightDecay
        self.weightDecayLayers = weightDecayLayers
        self.epochs = epochs
        self.earlyStopping = earlyStopping
        self.classWeights = classWeights
        self.features = features
        self.label = label
        self.loss = loss
        self.seed = seed
    }

    /// The same specification with another seed; what a repetition differs in.
    package func with(seed: UInt32) -> ModelSpec {
        ModelSpec(
            model: model, hidden: hidden, dropout: dropout, inputDropout: inputDropout, learningRate: learningRate,
            weightDecay: weightDecay, weightDecayLayers: weightDecayLayers, epochs: epochs,
            earlyStopping: earlyStopping, classWeights: classWeights, features: features, label: label, loss: loss,
            seed: seed)
    }
}

// MARK: - What follows from it

extension ModelSpec {
    /// What the vault puts into the run image. The first layer's aggregate is constant exactly when no input dropout
    /// changes the features from epoch to epoch; then it crosses.
    package var recipe: ImageRecipe {
        ImageRecipe(
            aggregation: model, normalisation: features, aggregatesFirstLayer: inputDropout == .zero,
            labelColumn: label)
    }

    /// Layers and their order of operations, for features of width `features` and `classes` classes.
    package func shape(features: Int, classes: Int) -> ModelShape {
        ModelShape(
            aggregation: model, widths: [features] + hidden + [classes], dropsFeatures: inputDropout > .zero,
            dropsHidden: dropout > .zero, weighsClasses: classWeights == .balanced)
    }

    /// The form that is hashed: every member, numbers with fractions as decimal text.
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
        return .object(members)
    }

    /// SHA-256 of the canonical form, with its name in front.
    package var digest: Digest { SHA256.hash(Array("sekisho model specification v1\n".utf8) + canonical.canonical) }
}
