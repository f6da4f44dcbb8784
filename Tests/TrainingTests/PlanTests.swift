import FabricProtocol
import LocalTraining
import Sealing
import TestSupport
import Testing
import Training
import TrainingPlanner
import Vocabulary

/// Whatever the plan, the weights are the same, bit for bit; and what it foretells is what happens.
@Suite struct PlanTests {
    /// A model, a graph for it, and everything else about them at random.
    private static func specification(_ kind: TwinTests.Kind, _ random: inout SeededRandom) -> ModelSpec {
        let some = [Quantity.zero, Quantity(billionths: 400_000_000)]
        let width = 4 * Int.random(in: 1...5, using: &random)
        return ModelSpec(
            model: kind.model,
            hidden: (0..<Int.random(in: 2...3, using: &random)).map { _ in
                Bool.random(using: &random) ? width : 4 * Int.random(in: 1...5, using: &random)
            },
            attention: .init(heads: 2, outputHeads: 2, dropout: some.randomElement(using: &random)!),
            residual: kind.residual, layerNorm: kind.layerNorm, dropout: some.randomElement(using: &random)!,
            inputDropout: some.randomElement(using: &random)!, epochs: 2,
            classWeights: kind.task == .classification ? .balanced : .none, task: kind.task, seed: 3)
    }

    @Test("every kind of model has the same weights under any cut and any budget", arguments: TwinTests.Kind.all)
    func sameWeights(kind: TwinTests.Kind) async throws {
        let seed = UInt64(TwinTests.Kind.all.firstIndex { "\($0)" == "\(kind)" }!) + 100
        var random = SeededRandom(seed: seed)
        let key = SecretBytes.random(count: 32)
        let graph = TwinTests.graph(
            &random, nodes: Int.random(in: 2100...4200, using: &random),
            features: Int.random(in: 3...30, using: &random), classes: Int.random(in: 2...9, using: &random))
        let spec = Self.specification(kind, &random)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        let shape = spec.shape(for: image.shape)
        let all = try Planner.plan(model: shape, image: image.shape, budget: TrainingTests.roomy)
        let reference = try await TrainingTests.train(spec, image, key)
        for _ in 0..<3 {
            let form = OpGraph.Form(
                headGroups: [1, 2].randomElement(using: &random)!, repeatsSources: Bool.random(using: &random),
                splitsEnds: Bool.random(using: &random))
            let choices = Planner.choices(model: shape, image: image.shape, form: form)
            var cut = TrainingTests.cut(choices, nodes: graph.nodes, &random)
            cut.form = form
            let model = try await TrainingTests.train(spec, image, key, cut: cut, threads: 2)
            #expect(model.weights == reference.weights, "seed \(seed) \(spec) \(cut)")
        }
        // From what everything takes down to the least that will do, in memory and on the SSD.
        let least = try #require(throws: PlanError.self) {
            try Planner.plan(model: shape, image: image.shape, budget: Budget(deviceBytes: 1, hostBytes: 1 << 40))
        }
        for device in [(all.forecast.deviceBytes + least.neededDeviceBytes) / 2, least.neededDeviceBytes] {
            let host = Bool.random(using: &random) ? 1 << 40 : Int.random(in: 0...1 << 18, using: &random)
            let budget = Budget(deviceBytes: device, hostBytes: host, ssdBytes: 1 << 40)
            let model = try await TrainingTests.train(spec, image, key, budget: budget, threads: 2)
            #expect(model.weights == reference.weights, "seed \(seed) \(spec) in \(device) bytes")
        }
    }

    @Test(
        "an attention's heads come to the same weights in groups, with sources made again and with ends apart",
        arguments: [(6, 4, Quantity.zero), (40, 4, .zero), (6, 1, Quantity(billionths: 300_000_000)), (40, 2, .zero)])
    func headGroups(features: Int, outputHeads: Int, inputDropout: Quantity) async throws {
        var random = SeededRandom(seed: UInt64(features * 10 + outputHeads))
        let key = SecretBytes.random(count: 32)
        let graph = TwinTests.graph(&random, nodes: 2500, features: features, classes: 5)
        let spec = ModelSpec(
            model: .gat, hidden: [16, 24],
            attention: .init(heads: 4, outputHeads: outputHeads, dropout: Quantity(billionths: 300_000_000)),
            dropout: Quantity(billionths: 400_000_000), inputDropout: inputDropout, epochs: 3)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        let shape = spec.shape(for: image.shape)
        let reference = try await TrainingTests.train(spec, image, key)
        for groups in [1, 2, 4] {
            for (repeats, splits) in [(false, false), (true, false), (true, true)] {
                let form = OpGraph.Form(headGroups: groups, repeatsSources: repeats, splitsEnds: splits)
                let choices = Planner.choices(model: shape, image: image.shape, form: form)
                var cut = TrainingTests.cut(choices, nodes: graph.nodes, &random)
                cut.form = form
                for cut in [Cut(chunkRows: 1024, form: form), cut] {
                    let model = try await TrainingTests.train(spec, image, key, cut: cut, threads: 2)
                    #expect(model.weights == reference.weights, "\(cut)")
                }
            }
        }
    }

    @Test(
        "five percent of the working set will do: the predicted bytes cross, and the weights are the same",
        arguments: [
            (Aggregation.gcn, 120_000, 96, 96), (.sage, 60_000, 96, 96), (.gat, 40_000, 64, 256),
            // Features so wide that a chunk is less than a tile.
            (.gcn, 16_000, 500, 16), (.gat, 19_717, 500, 64),
        ])
    func fivePercent(model: Aggregation, nodes: Int, features: Int, hidden: Int) async throws {
        var random = SeededRandom(seed: 51)
        let key = SecretBytes.random(count: 32)
        let graph = TrainingTests.graph(&random, nodes: nodes, features: features, classes: 7)
        let spec = ModelSpec(
            model: model, hidden: [hidden], attention: .init(heads: 4), dropout: Quantity(billionths: 500_000_000),
            epochs: 2)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        let shape = spec.shape(for: image.shape)
        let whole = try Planner.plan(model: shape, image: image.shape, budget: TrainingTests.roomy)
        let budget = Budget(deviceBytes: whole.forecast.deviceBytes / 20, hostBytes: 1 << 40)
        let plan = try Planner.plan(model: shape, image: image.shape, budget: budget)
        #expect(plan.forecast.deviceBytes <= budget.deviceBytes)
        var reports: [EpochReport] = []
        let small = try await TrainingTests.train(spec, image, key, budget: budget, threads: 2) { reports.append($0) }
        let work = try #require(reports.last).work
        #expect(work.peakBytes <= UInt64(budget.deviceBytes))
        let fetched = Double(work.fetchedBytes) / Double(plan.forecast.fetchedBytesPerEpoch)
        let stored = Double(work.storedBytes) / Double(plan.forecast.storedBytesPerEpoch)
        print("5 % of \(model): fetched \(fetched), stored \(stored) of what was predicted, \(plan.cut)")
        #expect(abs(fetched - 1) < 0.02 && abs(stored - 1) < 0.02)
        let large = try await TrainingTests.train(spec, image, key, threads: 2)
        #expect(small.weightsDigest == large.weightsDigest)
    }
}
