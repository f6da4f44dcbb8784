import FabricProtocol
import TrainingPlanner
package import Vocabulary

/// What stands beside released weights: how they were made, how to use them, and how good they are. No row of data.
package struct ModelCard: Sendable {
    package let json: JSON

    init(spec: ModelSpec, plan: RunPlan, weights: Digest, best: EpochReport, last: EpochReport) {
        var members: [String: JSON] = [
            "specification": spec.canonical,
            "specificationDigest": .string(spec.digest.hex),
            "weightsDigest": .string(weights.hex),
            "task": .string(spec.task.rawValue),
            "features": .integer(Int64(plan.image.features)),
            "classes": .integer(Int64(plan.image.classes)),
            "tensors": .object(
                Dictionary(
                    uniqueKeysWithValues: plan.parameters.entries.map { entry in
                        (entry.name, .array(entry.tensorShape.map { .integer(Int64($0)) }))
                    })),
            "orders": .array(spec.orders(plan.image).map { .string($0.rawValue) }),
            "epochs": .integer(Int64(last.epoch)),
            "bestEpoch": .integer(Int64(best.epoch)),
            "chosenBy": .string(spec.metric.rawValue),
            "figures": [
                "train": spec.figures(best.train), "validation": spec.figures(best.validation),
                "test": spec.figures(best.test),
            ],
        ]
        if !plan.image.relations.isEmpty {
            members["relations"] = .array(
                plan.image.relations.map { ["predicate": .string($0.predicate), "inverse": .bool($0.isInverse)] })
        }
        json = .object(members)
    }

    /// The same for people, in Markdown; follows from the JSON alone, so that a reviewer of the one has seen the other.
    package static func text(of card: JSON) -> String {
        func word(_ json: JSON?) -> String { json?.stringValue ?? json?.integerValue.map { String($0) } ?? "–" }
        let spec = card["specification"]
        let hidden = spec?["hidden"]?.arrayValue?.map { word($0) }.joined(separator: ", ") ?? "–"
        var lines = [
            "# Model card", "",
            "A \(word(spec?["model"])) for node \(word(card["task"])), trained full-graph by Sekisho.", "",
            "| | |", "|---|---|",
            "| features in, outputs | \(word(card["features"])), \(word(card["classes"])) |",
            "| hidden widths | \(hidden) |",
            "| predicts the column | `\(word(spec?["label"]))` |",
            "| features were normalised | \(word(spec?["features"])) |",
            "| epochs trained, best, chosen by | \(word(card["epochs"])), \(word(card["bestEpoch"])), "
                + "\(word(card["chosenBy"])) |",
            "| specification (SHA-256) | `\(word(card["specificationDigest"]))` |",
            "| weights (SHA-256) | `\(word(card["weightsDigest"]))` |", "",
            "## Figures of these weights", "",
            "| split | nodes | figure, ‰ | mean loss, millionths |", "|---|---|---|---|",
        ]
        for split in ["train", "validation", "test"] {
            let figures = card["figures"]?[split]
            let score = ["accuracyPerMille", "microF1PerMille", "determinationPerMille"].lazy
                .compactMap { figures?[$0] }.first
            lines.append(
                "| \(split) | \(word(figures?["labelled"])) | \(word(score)) | \(word(figures?["lossMillionths"])) |")
        }
        if let relations = card["relations"]?.arrayValue {
            lines += ["", "## Relations, by number", ""]
            for (number, relation) in relations.enumerated() {
                let direction = relation["inverse"]?.boolValue == true ? " (inverse)" : ""
                lines.append("\(number). `\(word(relation["predicate"]))`\(direction)")
            }
        }
        lines += ["", "## Tensors (`model.safetensors`, float32)", ""]
        for (name, shape) in (card["tensors"]?.objectValue ?? [:]).sorted(by: { $0.key < $1.key }) {
            let sizes = shape.arrayValue?.map { word($0) }.joined(separator: " × ") ?? "–"
            lines.append("- `\(name)`: \(sizes)")
        }
        lines += [
            "", "## Limits", "",
            "The figures are of one split of one graph. The model was made from the data of the people whose consent "
                + "covered its purpose, and may be used only as the release that came with it says.",
        ]
        return lines.joined(separator: "\n") + "\n"
    }
}

extension ModelSpec {
    /// Whether each layer sums over neighbours before or after its product with the weights.
    fileprivate func orders(_ image: ImageShape) -> [ModelShape.Order] {
        let shape = shape(features: image.features, classes: image.classes)
        return (1...shape.layers).map { model == .gcn || model == .sage ? shape.order($0) : .transformFirst }
    }

    /// Counts, the task's figure in thousandths, and the mean loss in millionths.
    fileprivate func figures(_ figures: Completion.Figures) -> JSON {
        var members: [String: JSON] = [
            "labelled": .integer(Int64(clamping: figures.labelled)),
            "lossMillionths": .integer(Int64((min(max(figures.meanLoss, 0), 1e6) * 1e6).rounded())),
        ]
        let score = JSON.integer(Int64((min(max(self.score(of: figures), -1e6), 1) * 1000).rounded()))
        switch task {
        case .classification:
            members["correct"] = .integer(Int64(clamping: figures.correct))
            members["accuracyPerMille"] = score
        case .multilabel: members["microF1PerMille"] = score
        case .regression: members["determinationPerMille"] = score
        }
        return .object(members)
    }
}
