import FabricProtocol
import LocalTraining
import Sealing
import TestSupport
import Testing
import Training
import Vocabulary

/// The float64 twin of every kind of model is held to finite differences of its own loss.
@Suite struct TwinTests {
    struct Kind: CustomTestStringConvertible, Sendable {
        let model: Aggregation
        let task: ModelSpec.Task
        let layerNorm: Bool
        let residual: Bool
        var testDescription: String { "\(model) \(task) \(layerNorm) \(residual)" }

        static let all: [Kind] = Aggregation.allCases.flatMap { model in
            ModelSpec.Task.allCases.flatMap { task in
                [(false, false), (true, false), (true, true)].map {
                    Kind(model: model, task: task, layerNorm: $0.0, residual: $0.1)
                }
            }
        }
    }

    /// A graph with two predicates, class sets and targets beside what `TrainingTests.graph` has.
    static func graph(_ random: inout SeededRandom, nodes: Int, features: Int, classes: Int) -> PlainGraph {
        var graph = TrainingTests.graph(&random, nodes: nodes, features: features, classes: classes)
        var pairs: [(UInt32, UInt32)] = []
        for row in 0..<nodes {
            for entry in Int(graph.rowPointers[row])..<Int(graph.rowPointers[row + 1]) where graph.columns[entry] > row
            {
                pairs.append((UInt32(row), graph.columns[entry]))
            }
        }
        graph.relations = [
            "a:even": pairs.filter { ($0.0 + $0.1).isMultiple(of: 2) },
            "b:odd": pairs.filter { !($0.0 + $0.1).isMultiple(of: 2) } + pairs.prefix(3),
        ]
        graph.labelSets = (0..<nodes * ((classes + 7) / 8)).map { at in
            let bits = min(classes - at % ((classes + 7) / 8) * 8, 8)
            return UInt8.random(in: 0...255, using: &random) & UInt8((1 << bits) - 1)
        }
        graph.targets = (0..<nodes).map { _ in Float.random(in: -2...2, using: &random) }
        return graph
    }

    @Test("gradients agree with finite differences", arguments: Kind.all)
    func finiteDifferences(kind: Kind) throws {
        var random = SeededRandom(seed: 77)
        let graph = Self.graph(&random, nodes: 45, features: 5, classes: 3)
        let drop = Quantity(billionths: 300_000_000)
        let spec = ModelSpec(
            model: kind.model, hidden: [6, 6], attention: .init(heads: 2, outputHeads: 2, dropout: drop),
            residual: kind.residual, layerNorm: kind.layerNorm, dropout: drop, inputDropout: drop, epochs: 1,
            classWeights: kind.task == .classification ? .balanced : .none, task: kind.task, seed: 5)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: SecretBytes.random(count: 32))
        var twin = ReferenceTwin(spec, image)
        // Away from zero biases, with which a row without input would sit on relu's kink.
        for index in twin.parameters.indices { twin.parameters[index] += Double.random(in: -0.2...0.2, using: &random) }
        let (_, gradient) = twin.gradient(0)
        let step = 1e-6
        var large = 0
        for entry in twin.layout.entries {
            for _ in 0..<4 {
                let index = entry.offset + Int.random(in: 0..<entry.count, using: &random)
                let kept = twin.parameters[index]
                twin.parameters[index] = kept + step
                let above = twin.loss(0)
                twin.parameters[index] = kept - step
                let below = twin.loss(0)
                twin.parameters[index] = kept
                let slope = (above - below) / (2 * step)
                #expect(abs(slope - gradient[index]) < 1e-6 + 1e-4 * abs(slope), "\(entry.name)")
                if abs(slope) > 1e-4 { large += 1 }
            }
        }
        #expect(large > twin.layout.entries.count, "differences that are all nothing prove nothing")
    }

    /// What the enclave computes of the weights that leave comes to the figures that the device gave for them.
    private static func checkInference(_ spec: ModelSpec, _ image: LocalImage, _ model: TrainedModel) throws {
        let layout = ReferenceTwin.Layout(spec, image.shape)
        let values = try TrainingTests.values(model, layout)
        var weights: [String: [Float]] = [:]
        for (index, entry) in layout.entries.enumerated() {
            let first = layout.entries[..<index].reduce(0) { $0 + $1.count }
            weights[entry.name] = values[first..<first + entry.count].map(\.1)
        }
        let holds = Set(image.shape.recipe.sections)
        let rows = Inference.Rows(
            rowPointers: image.plain.rowPointers, columns: image.plain.columns,
            features: holds.contains(.features) ? image.plain.features : [],
            aggregate: holds.contains(.aggregate) ? image.plain.aggregate : [],
            scale: holds.contains(.scale) ? image.plain.scale : [])
        let outputs = try Inference(spec: spec, shape: image.shape, weights: weights).outputs(rows)
        let classes = image.shape.classes
        for (split, figures) in [(Split.train, model.best.train), (.test, model.best.test)] {
            var (correct, labelled) = (0, 0)
            for row in 0..<image.shape.nodes where image.plain.split[row] == split.rawValue {
                let label = Int(image.plain.labels[row])
                guard label >= 0 else { continue }
                let own = outputs[row * classes..<(row + 1) * classes]
                labelled += 1
                if own.max() == own[own.startIndex + label] { correct += 1 }
            }
            #expect(UInt64(labelled) == figures.labelled)
            #expect(abs(correct - Int(figures.correct)) <= 3, "\(split): \(correct), \(figures.correct)")
        }
        weights["layers.1.bias"]?.removeLast()
        #expect(throws: TrainingError.self) { try Inference(spec: spec, shape: image.shape, weights: weights) }
    }

    @Test("the device's programs train as the twin does", arguments: Kind.all, [UInt64(1), 2])
    func device(kind: Kind, seed: UInt64) async throws {
        var random = SeededRandom(seed: seed)
        let graph = Self.graph(&random, nodes: seed == 1 ? 200 : 1300, features: 7, classes: 9)
        let drop = Quantity(billionths: seed == 1 ? 0 : 300_000_000)
        let spec = ModelSpec(
            model: kind.model, hidden: seed == 1 ? [8, 8, 6] : [4, 12, 12],
            attention: .init(heads: 2, outputHeads: seed == 1 ? 3 : 1, dropout: drop),
            activation: seed == 1 ? nil : .elu, residual: kind.residual, layerNorm: kind.layerNorm, dropout: drop,
            inputDropout: seed == 1 ? .zero : drop, weightDecay: Quantity(billionths: 500_000), epochs: 3,
            classWeights: kind.task == .classification ? .balanced : .none, task: kind.task, seed: 5)
        let key = SecretBytes.random(count: 32)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        var twin = ReferenceTwin(spec, image)
        var expected: [(loss: Double, validation: ReferenceTwin.Figures)] = []
        var gradients: [[Double]] = []
        var weights: [[Double]] = []
        for epoch in 0..<3 {
            let (loss, gradient) = twin.step(epoch)
            expected.append((loss, twin.figures(.validation)))
            gradients.append(gradient)
            weights.append(twin.parameters)
        }
        var reports: [EpochReport] = []
        let model = try await TrainingTests.train(spec, image, key, threads: 2) { reports.append($0) }
        for (report, expected) in zip(reports, expected) {
            #expect(abs(report.trainingLoss - expected.loss) < 3e-4 * max(1, expected.loss), "epoch \(report.epoch)")
            #expect(
                abs(report.validation.meanLoss - expected.validation.loss) < 2e-3 * max(1, expected.validation.loss))
            #expect(report.validation.labelled == UInt64(expected.validation.labelled))
            guard kind.task != .regression else { continue }
            #expect(abs(Int(report.validation.correct) - expected.validation.correct) <= 4)
            if kind.task == .multilabel {
                #expect(report.validation.actual == UInt64(expected.validation.actual))
                #expect(abs(Int(report.validation.predicted) - expected.validation.predicted) <= 6)
            }
        }
        let values = try TrainingTests.values(model, twin.layout)
        if kind.task == .classification { try Self.checkInference(spec, image, model) }
        var compared = 0
        for (index, value) in values {
            // As in TrainingTests: where a gradient is rounding noise, so is Adam's direction.
            guard (0..<model.bestEpoch).allSatisfy({ abs(gradients[$0][index]) > 1e-5 }) else { continue }
            compared += 1
            #expect(abs(Double(value) - weights[model.bestEpoch - 1][index]) < 2e-3)
        }
        #expect(compared > values.count / 4)
        let again = try await TrainingTests.train(spec, image, key, threads: 1)
        #expect(again.weights == model.weights, "another number of threads")
    }
}
