import Foundation
import LocalTraining
import Sealing
import Testing
import Training
import TrainingPlanner
import Vocabulary

/// Single steps against PyTorch Geometric: `Vectors/pyg.json`, which `Vectors/make_pyg.py` writes.
@Suite struct PeerTests {
    struct Vectors: Decodable {
        let nodes: Int
        let features: [Float]
        let relations: [String: [[UInt32]]]
        let labels: [Int32]
        let sets: [UInt8]
        let targets: [Float]
        let split: [String]
        let seed: UInt32
        let heads: Int
        let cases: [Case]

        struct Case: Decodable, Sendable {
            let model: String
            let task: String
            let hidden: [Int]
            let layerNorm: Bool
            let residual: Bool
            let losses: [Double]
            let firstGradient: [String: [Double]]
            let weights: [String: [Double]]
        }

        static let shared: Vectors = {
            let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
                .appendingPathComponent("Vectors/pyg.json")
            return try! JSONDecoder().decode(Vectors.self, from: try! Data(contentsOf: file))
        }()

        var graph: PlainGraph {
            let classes = 3
            var graph = PlainGraph(
                nodes: nodes, pairs: relations.values.flatMap { $0.map { ($0[0], $0[1]) } },
                features: features.count / nodes, classes: classes, values: features, labels: labels,
                split: split.map {
                    ["train": Split.train.rawValue, "validation": Split.validation.rawValue][$0]
                        ?? Split.test.rawValue
                })
            graph.relations = relations.mapValues { $0.map { ($0[0], $0[1]) } }
            graph.labelSets = (0..<nodes).map { row in
                (0..<classes).reduce(0) { $0 | sets[row * classes + $1] << UInt8($1) }
            }
            graph.targets = targets
            return graph
        }

        func spec(_ item: Case) throws -> ModelSpec {
            ModelSpec(
                model: try #require(Aggregation(rawValue: item.model)), hidden: item.hidden,
                attention: .init(heads: heads, outputHeads: heads), residual: item.residual,
                layerNorm: item.layerNorm, epochs: item.losses.count,
                task: try #require(ModelSpec.Task(rawValue: item.task)), seed: seed)
        }
    }

    @Test("the float64 twin has PyG's gradient, losses and weights", arguments: Vectors.shared.cases.indices)
    func twin(index: Int) throws {
        let item = Vectors.shared.cases[index]
        let spec = try Vectors.shared.spec(item)
        let image = try LocalImage(
            Vectors.shared.graph, recipe: spec.recipe, runKey: SecretBytes(copying: Array(repeating: 3, count: 32)))
        var twin = ReferenceTwin(spec, image)
        let first = twin.gradient(0).gradient
        for entry in twin.layout.entries {
            let expected = try #require(item.firstGradient[entry.name], "no \(entry.name)")
            for (at, value) in expected.enumerated() {
                #expect(abs(first[entry.offset + at] - value) < 1e-6, "\(item.model) \(entry.name) \(at)")
            }
        }
        for (epoch, loss) in item.losses.enumerated() {
            #expect(abs(twin.step(epoch).loss - loss) < 1e-5, "\(item.model) epoch \(epoch)")
        }
        for entry in twin.layout.entries {
            let expected = try #require(item.weights[entry.name])
            for (at, value) in expected.enumerated() {
                #expect(abs(twin.parameters[entry.offset + at] - value) < 1e-4, "\(item.model) \(entry.name) \(at)")
            }
        }
    }

    @Test("the device's programs have PyG's losses, and its weights to 1e-4", arguments: Vectors.shared.cases.indices)
    func device(index: Int) async throws {
        let item = Vectors.shared.cases[index]
        let spec = try Vectors.shared.spec(item)
        let key = SecretBytes(copying: Array(repeating: 3, count: 32))
        let image = try LocalImage(Vectors.shared.graph, recipe: spec.recipe, runKey: key)
        var losses: [Double] = []
        let layout = ReferenceTwin(spec, image).layout
        let model = try await TrainingTests.train(spec, image, key) { losses.append($0.trainingLoss) }
        for (loss, expected) in zip(losses, item.losses) {
            #expect(abs(loss - expected) < 1e-4, "\(item.model): \(losses)")
        }
        // The weights that are kept are those of the best epoch, so the last ones can be compared only where it is that.
        guard model.bestEpoch == item.losses.count else { return }
        let entries = Dictionary(
            uniqueKeysWithValues: layout.entries.flatMap { entry in
                (0..<entry.count).map { (entry.offset + $0, (entry.name, $0)) }
            })
        for (at, value) in try TrainingTests.values(model, layout) {
            let (name, index) = try #require(entries[at])
            // Adam's first steps have the size of the learning rate whatever the gradient's, so where that is rounding
            // noise the step is noise too.
            guard abs(try #require(item.firstGradient[name])[index]) > 1e-6 else { continue }
            #expect(abs(Double(value) - (try #require(item.weights[name])[index])) < 1e-4, "\(item.model) \(name)")
        }
    }
}
