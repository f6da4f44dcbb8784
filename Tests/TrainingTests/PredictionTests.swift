import FabricProtocol
import LocalTraining
import Sealing
import TestSupport
import Testing
import Training
import TrainingPlanner
import Vocabulary

/// What a trained model answers for every row: the float64 twin's answers, and the same bits whatever the plan.
@Suite struct PredictionTests {
    private struct Answers {
        var outputs: [Float] = []
        let report: Predictor.Report
    }

    private static func tensors(
        _ model: TrainedModel, _ spec: ModelSpec, _ image: ImageShape
    ) throws -> [String: [Float]] {
        let layout = ReferenceTwin.Layout(spec, image)
        let values = try TrainingTests.values(model, layout)
        var first = 0
        return Dictionary(
            uniqueKeysWithValues: layout.entries.map { entry in
                defer { first += entry.count }
                return (entry.name, values[first..<first + entry.count].map(\.1))
            })
    }

    private static func plan(
        _ spec: ModelSpec, _ image: LocalImage, cut: Cut? = nil, budget: Budget = TrainingTests.roomy
    ) throws -> RunPlan {
        let shape = spec.shape(for: image.shape)
        let plan = try TrainingTests.plan(shape, image.shape, budget, cut, purpose: .prediction)
        return try RunPlan(predictingWith: spec, plan, trainingByClass: image.trainingByClass)
    }

    private static func predict(
        _ spec: ModelSpec, _ image: LocalImage, _ key: borrowing SecretBytes, _ tensors: [String: [Float]],
        _ plan: RunPlan
    ) async throws -> Answers {
        let predictor = Predictor(spec: spec, plan: plan)
        let device = try LocalDevice(image, memoryBytes: plan.deviceBytes, runKey: key, threads: 2)
        try device.give(weights: predictor.weights(tensors))
        var outputs: [Float] = []
        let report = try await predictor.predict(on: device) { rows, answers in
            #expect(rows.lowerBound * image.shape.classes == outputs.count)
            outputs += answers
        }
        return Answers(outputs: outputs, report: report)
    }

    @Test("answers are the twin's, and the same bits under any cut and any budget", arguments: TwinTests.Kind.all)
    func sameAnswers(kind: TwinTests.Kind) async throws {
        let seed = UInt64(TwinTests.Kind.all.firstIndex { "\($0)" == "\(kind)" }!) + 300
        var random = SeededRandom(seed: seed)
        let key = SecretBytes.random(count: 32)
        let graph = TwinTests.graph(
            &random, nodes: Int.random(in: 2100...3300, using: &random),
            features: Int.random(in: 3...20, using: &random), classes: Int.random(in: 2...9, using: &random))
        let spec = ModelSpec(
            model: kind.model, hidden: [8, Bool.random(using: &random) ? 8 : 12],
            attention: .init(heads: 2, outputHeads: 2, dropout: Quantity(billionths: 300_000_000)),
            residual: kind.residual, layerNorm: kind.layerNorm, dropout: Quantity(billionths: 300_000_000),
            inputDropout: Bool.random(using: &random) ? .zero : Quantity(billionths: 300_000_000), epochs: 2,
            classWeights: kind.task == .classification ? .balanced : .none, task: kind.task, seed: 3)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        let model = try await TrainingTests.train(spec, image, key, threads: 2)
        let tensors = try Self.tensors(model, spec, image.shape)
        let wholePlan = try Self.plan(spec, image)
        let whole = try await Self.predict(spec, image, key, tensors, wholePlan)
        // Every row has its answer, and the labelled ones come to the figures that the training ended with.
        #expect(whole.outputs.count == graph.nodes * image.shape.classes)
        #expect(whole.report.train == model.best.train && whole.report.test == model.best.test, "seed \(seed)")
        try Self.compare(whole.outputs, spec, image, model)

        let shape = spec.shape(for: image.shape)
        let choices = Planner.choices(model: shape, image: image.shape, purpose: .prediction)
        for _ in 0..<3 {
            let cut = TrainingTests.cut(choices, nodes: graph.nodes, &random)
            let plan = try Self.plan(spec, image, cut: cut)
            let answers = try await Self.predict(spec, image, key, tensors, plan)
            #expect(answers.report.digest == whole.report.digest, "seed \(seed) \(spec) \(cut)")
            #expect(answers.outputs == whole.outputs)
        }
        // A prediction needs less than training does; from there down to the least that will do.
        let training = try Planner.plan(model: shape, image: image.shape, budget: TrainingTests.roomy)
        #expect(wholePlan.deviceBytes < training.forecast.deviceBytes)
        let least = try #require(throws: PlanError.self) {
            try Self.plan(spec, image, budget: Budget(deviceBytes: 1, hostBytes: 1 << 40))
        }
        for bytes in [(wholePlan.deviceBytes + least.neededDeviceBytes) / 2, least.neededDeviceBytes] {
            let plan = try Self.plan(spec, image, budget: Budget(deviceBytes: bytes, hostBytes: 1 << 40))
            #expect(plan.deviceBytes <= bytes)
            let answers = try await Self.predict(spec, image, key, tensors, plan)
            #expect(answers.report.digest == whole.report.digest, "seed \(seed) \(spec) in \(bytes) bytes")
        }
    }

    private static func compare(
        _ outputs: [Float], _ spec: ModelSpec, _ image: LocalImage, _ model: TrainedModel
    ) throws {
        var twin = ReferenceTwin(spec, image)
        for (index, value) in try TrainingTests.values(model, twin.layout) { twin.parameters[index] = Double(value) }
        let expected = twin.answers()
        #expect(expected.count == outputs.count)
        let worst = zip(outputs, expected).map { abs(Double($0) - $1) / max(1, abs($1)) }.max() ?? 1
        #expect(worst < 1e-3, "\(spec): \(worst)")
    }

    @Test("a twentieth of what training takes will do: the predicted bytes cross, and the answers are the same")
    func small() async throws {
        var random = SeededRandom(seed: 61)
        let key = SecretBytes.random(count: 32)
        let graph = TrainingTests.graph(&random, nodes: 60_000, features: 96, classes: 7)
        let spec = ModelSpec(model: .gcn, hidden: [96], dropout: Quantity(billionths: 500_000_000), epochs: 1)
        let image = try LocalImage(graph, recipe: spec.recipe, runKey: key)
        let training = try Planner.plan(
            model: spec.shape(for: image.shape), image: image.shape, budget: TrainingTests.roomy)
        let model = try await TrainingTests.train(spec, image, key, threads: 2)
        let tensors = try Self.tensors(model, spec, image.shape)
        let budget = Budget(deviceBytes: training.forecast.deviceBytes / 20, hostBytes: 1 << 40)
        let plan = try Self.plan(spec, image, budget: budget)
        #expect(plan.deviceBytes <= budget.deviceBytes)
        let answers = try await Self.predict(spec, image, key, tensors, plan)
        let work = answers.report.work
        #expect(work.peakBytes <= UInt64(budget.deviceBytes))
        let forecast = plan.epoch.forecast
        let weights = plan.parameters.count * 4
        let fetched = Double(work.fetchedBytes) / Double(forecast.fetchedBytesPerEpoch + forecast.loadBytes + weights)
        let stored = Double(work.storedBytes) / Double(forecast.storedBytesPerEpoch)
        print("prediction in 5 %: fetched \(fetched), stored \(stored) of what was predicted")
        #expect(abs(fetched - 1) < 0.02 && abs(stored - 1) < 0.02)
        let whole = try await Self.predict(spec, image, key, tensors, Self.plan(spec, image))
        #expect(answers.report.digest == whole.report.digest)
    }

    @Test("a model answers where nobody is labelled for training, and where there are no edges")
    func unlabelled() async throws {
        let key = SecretBytes.random(count: 32)
        func image(_ split: Split, pairs: [(UInt32, UInt32)]) throws -> LocalImage {
            let graph = PlainGraph(
                nodes: 40, pairs: pairs, features: 3, classes: 3, values: (0..<120).map { Float($0 % 7) / 7 },
                labels: (0..<40).map { Int32($0 % 3) }, split: Array(repeating: split.rawValue, count: 40))
            return try LocalImage(graph, recipe: Self.ring.recipe, runKey: key)
        }
        let trained = try image(.train, pairs: (0..<40).map { ($0, ($0 + 1) % 40) })
        let model = try await TrainingTests.train(Self.ring, trained, key)
        let tensors = try Self.tensors(model, Self.ring, trained.shape)
        for other in [try image(.none, pairs: (0..<40).map { ($0, ($0 + 1) % 40) }), try image(.test, pairs: [])] {
            let answers = try await Self.predict(Self.ring, other, key, tensors, Self.plan(Self.ring, other))
            try Self.compare(answers.outputs, Self.ring, other, model)
        }
    }

    private static let ring = ModelSpec(model: .gcn, hidden: [4], epochs: 2)

    @Test("weights of another model, numbers that are none, and answers that the device did not write are refused")
    func refusals() async throws {
        var random = SeededRandom(seed: 62)
        let key = SecretBytes.random(count: 32)
        let graph = TrainingTests.graph(&random, nodes: 300, features: 4, classes: 3)
        let image = try LocalImage(graph, recipe: Self.ring.recipe, runKey: key)
        let model = try await TrainingTests.train(Self.ring, image, key)
        let tensors = try Self.tensors(model, Self.ring, image.shape)
        let plan = try Self.plan(Self.ring, image)
        let predictor = Predictor(spec: Self.ring, plan: plan)
        let name = "layers.1.weight"
        for change in [
            { $0[name] = nil }, { $0["layers.3.weight"] = [1] }, { $0[name]?.removeLast() }, { $0[name]?[0] = .nan },
        ] as [(inout [String: [Float]]) -> Void] {
            var other = tensors
            change(&other)
            let error = #expect(throws: TrainingError.self) { try predictor.weights(other) }
            #expect(error?.code == .badWeights)
        }
        for fault in [Liar.Fault.noAccount, .otherBlock, .shorter, .notANumber] {
            let device = try LocalDevice(image, memoryBytes: plan.deviceBytes, runKey: key, threads: 1)
            try device.give(weights: predictor.weights(tensors))
            let error = await #expect(throws: TrainingError.self, "\(fault)") {
                _ = try await predictor.predict(on: Liar(device: device, fault: fault)) { _, _ in }
            }
            #expect(error?.code == (fault == .shorter || fault == .notANumber ? .deviceAnswer : .badWeights))
        }
    }

    /// A device whose account of what it wrote, or whose answers, are wrong.
    private struct Liar: TrainingDevice {
        enum Fault { case noAccount, otherBlock, shorter, notANumber }
        let device: LocalDevice
        let fault: Fault

        func load(_ program: [UInt8], windows: [Program.Window]) async throws -> UInt32 {
            try await device.load(program, windows: windows)
        }
        func ring(_ program: UInt32, _ arguments: [UInt8]) async throws -> [UInt8] {
            try await device.ring(program, arguments)
        }
        func opened(_ part: SealedPart, sealed: [Completion.SealedRun]) async throws -> [UInt8] {
            switch fault {
            case .noAccount: return try await device.opened(part, sealed: [])
            case .otherBlock:
                let other = sealed.map {
                    Completion.SealedRun(
                        window: $0.window, firstBlock: .max, blocks: .max, firstCounter: $0.firstCounter)
                }
                return try await device.opened(part, sealed: other)
            case .shorter: return Array(try await device.opened(part, sealed: sealed).dropLast())
            case .notANumber:
                var bytes = try await device.opened(part, sealed: sealed)
                bytes.replaceSubrange(0..<4, with: [0, 0, 0xC0, 0x7F])
                return bytes
            }
        }
    }

    @Test("what is said of many answers are counts, each rounded down to a multiple")
    func counts() throws {
        var counts = PredictionCounts(.classification, classes: 3, multiple: 5)
        // 4 answer 0, 7 answer 1, 12 answer 2; equal ones count for the first.
        for (answer, times) in [([Float(2), 1, 2], 4), ([0, 1, 0], 7), ([-3, -2, -1], 12)] {
            for _ in 0..<times { counts.add(answer) }
        }
        var figures = Completion.Figures()
        (figures.labelled, figures.correct) = (14, 9)
        let report = Predictor.Report(
            train: figures, validation: figures, test: Completion.Figures(), digest: SHA256.hash("answers"), seconds: 1,
            work: Completion.Work())
        let json = counts.json(report)
        #expect(json["predicted"] == [0, 5, 10] && json["nodes"] == 20 && json["rounded_down_to"] == 5)
        #expect(json["figures"]?["train"] == ["labelled": 10, "correct": 5])
        #expect(json["figures"]?["test"] == ["labelled": 0, "correct": 0])
        var sets = PredictionCounts(.multilabel, classes: 2, multiple: 2)
        for _ in 0..<5 { sets.add([0.5, -1, 1, 2]) }
        #expect(sets.json(report)["predicted"] == [10, 4] && sets.json(report)["nodes"] == 10)
        var values = PredictionCounts(.regression, classes: 1, multiple: 4)
        values.add([1, 2, 3, 4, 5])
        #expect(values.json(report)["predicted"] == nil && values.json(report)["nodes"] == 4)
    }
}
