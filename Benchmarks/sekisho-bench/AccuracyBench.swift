import FabricProtocol
import Foundation
import LocalTraining
import Sealing
import Training
import TrainingPlanner
import Vocabulary

/// Test accuracy at the best validation epoch, mean over seeds, beside what the data sets' own README measured.
struct AccuracyBench {
    private struct Goal {
        let specification: String
        let folder: String
        let percent: Double
    }

    private static let goals = [
        Goal(specification: "cora-gcn", folder: "cora", percent: 81.5),
        Goal(specification: "pubmed-gcn", folder: "pubmed", percent: 79.0),
        Goal(specification: "kg1-gcn", folder: "kg1-aisnp", percent: 94.5),
        Goal(specification: "kg1-sage", folder: "kg1-aisnp", percent: 96.1),
        Goal(specification: "hpo-gcn", folder: "hpo", percent: 70.1),
        Goal(specification: "hpo-sage", folder: "hpo", percent: 70.9),
        Goal(specification: "hpo-rgcn", folder: "hpo", percent: 74.2),
        Goal(specification: "cora-gat", folder: "cora", percent: 83.0),
        Goal(specification: "pubmed-gat", folder: "pubmed", percent: 79.0),
    ]

    private let data: URL
    private let seeds: Int
    private let threads: Int
    private let goals: [Goal]

    init(_ arguments: [String]) throws {
        var arguments = arguments
        seeds = Bench.option("--seeds", &arguments) ?? 10
        threads = Bench.option("--threads", &arguments) ?? 2
        guard let folder = arguments.first else { throw BenchError(reason: "name the folder of the data sets") }
        data = URL(fileURLWithPath: folder, isDirectory: true)
        let names = arguments.dropFirst()
        goals = names.isEmpty ? Self.goals : Self.goals.filter { names.contains($0.specification) }
    }

    func run() async throws {
        // scripts/bench runs this in the repository's root.
        let specs = URL(fileURLWithPath: "config/specs", isDirectory: true)
        for goal in goals {
            let text = try String(
                contentsOf: specs.appendingPathComponent(goal.specification + ".yaml"), encoding: .utf8)
            let spec = try ModelSpec(parsing: text)
            let graph = try PlainGraph(kgx: data.appendingPathComponent(goal.folder))
            let key = SecretBytes.random(count: 32)
            let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
            var accuracies: [Double] = []
            var epochSeconds: [Double] = []
            for seed in 1...UInt32(seeds) {
                let model = try await train(spec.with(seed: seed), image, key) { epochSeconds.append($0.seconds) }
                accuracies.append(model.best.test.accuracy * 100)
            }
            let mean = accuracies.reduce(0, +) / Double(seeds)
            let spread = (accuracies.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(seeds)).squareRoot()
            print(
                "\(goal.specification): \(rounded(mean)) ± \(rounded(spread)) over \(seeds) seeds "
                    + "(reference \(goal.percent), \(abs(mean - goal.percent) <= 1 ? "within" : "NOT within") a point), "
                    + "\(rounded(epochSeconds.sorted()[epochSeconds.count / 2] * 1000)) ms an epoch")
            fflush(nil)
        }
    }

    private func train(
        _ spec: ModelSpec, _ image: LocalImage, _ key: borrowing SecretBytes, _ report: (EpochReport) -> Void
    ) async throws -> TrainedModel {
        let plan = try spec.plan(
            image: image.shape, budget: Budget(deviceBytes: 4 << 30, hostBytes: 4 << 30))
        let device = try LocalDevice(image, memoryBytes: plan.deviceBytes, runKey: key, threads: threads)
        return try await Trainer(spec: spec, plan: plan).train(on: device, report: { report($0) })
    }

    private func rounded(_ value: Double) -> Double { (value * 10).rounded() / 10 }
}

struct BenchError: Error { let reason: String }
