import LocalTraining
import Sealing
import Testing
import Training
import TrainingPlanner
import Vocabulary

/// Graphs that are hard, not wrong: each trains as the float64 twin does. What is wrong is refused by name, in
/// GraphVaultTests (`HardGraphImportTests`) and `ModelSpecTests`.
@Suite struct HardGraphTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let testDescription: String
        let pairs: [(UInt32, UInt32)]
        let labels: [Int32]
        let nodes: Int
    }

    private static func ring(_ nodes: UInt32) -> [(UInt32, UInt32)] { (0..<nodes).map { ($0, ($0 + 1) % nodes) } }
    private static func labels(_ nodes: Int, _ classes: Int32) -> [Int32] { (0..<nodes).map { Int32($0) % classes } }

    static let cases: [Case] = [
        Case(
            testDescription: "a hub with every edge", pairs: (1..<1300).map { (0, UInt32($0)) },
            labels: labels(1300, 3), nodes: 1300),
        Case(
            testDescription: "isolated nodes, among them whole tiles of rows", pairs: ring(40),
            labels: labels(2600, 3), nodes: 2600),
        Case(
            testDescription: "repeated and self edges", pairs: ring(50) + ring(50) + (0..<50).map { ($0, $0) },
            labels: labels(50, 3), nodes: 50),
        Case(testDescription: "a class without members", pairs: ring(60), labels: labels(60, 2), nodes: 60),
        Case(testDescription: "one training node", pairs: ring(7), labels: [0, -1, -1, 1, -1, 2, -1], nodes: 7),
        Case(testDescription: "two nodes", pairs: [(0, 1)], labels: [0, 1], nodes: 2),
    ]

    @Test("hard graphs train as the twin does", arguments: cases, Aggregation.allCases)
    func trains(item: Case, model: Aggregation) async throws {
        let features = 4
        var graph = PlainGraph(
            nodes: item.nodes, pairs: item.pairs, features: features, classes: 3,
            values: (0..<item.nodes * features).map { Float(($0 * 7919) % 101) / 50 - 1 }, labels: item.labels,
            split: (0..<item.nodes).map { $0 == 0 ? 1 : UInt8($0 % 3 + 1) })
        graph.relations = ["a:x": item.pairs]
        let spec = ModelSpec(
            model: model, hidden: [6], attention: .init(heads: 2), dropout: Quantity(billionths: 200_000_000),
            epochs: 3, classWeights: .balanced)
        let key = SecretBytes.random(count: 32)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        var twin = ReferenceTwin(spec, image)
        var losses: [Double] = []
        _ = try await TrainingTests.train(spec, image, key, threads: 2) { losses.append($0.trainingLoss) }
        for (epoch, loss) in losses.enumerated() {
            #expect(abs(loss - twin.step(epoch).loss) < 2e-4, "epoch \(epoch)")
        }
    }

    @Test("a graph without edges trains where a row is its own neighbour")
    func edgeless() async throws {
        let graph = PlainGraph(
            nodes: 30, pairs: [], features: 3, classes: 3, values: (0..<90).map { Float($0 % 7) / 7 },
            labels: Self.labels(30, 3), split: (0..<30).map { UInt8($0 % 3 + 1) })
        let spec = ModelSpec(model: .gcn, hidden: [4], epochs: 2)
        let key = SecretBytes.random(count: 32)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        var twin = ReferenceTwin(spec, image)
        var losses: [Double] = []
        _ = try await TrainingTests.train(spec, image, key) { losses.append($0.trainingLoss) }
        for (epoch, loss) in losses.enumerated() { #expect(abs(loss - twin.step(epoch).loss) < 1e-5) }
    }

    @Test("nobody to train on is refused before anything is planned", arguments: [Aggregation.gcn, .sage])
    func nothingToTrainOn(model: Aggregation) throws {
        let spec = ModelSpec(model: model, hidden: [4], epochs: 2)
        let graph = PlainGraph(
            nodes: 9, pairs: Self.ring(9), features: 2, classes: 2, values: Array(repeating: 1, count: 18),
            labels: Self.labels(9, 2), split: Array(repeating: Split.test.rawValue, count: 9))
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: SecretBytes.random(count: 32))
        #expect(throws: PlanError.self) {
            try Planner.plan(
                model: spec.shape(features: 2, classes: 2), image: image.shape, budget: TrainingTests.roomy)
        }
    }
}
