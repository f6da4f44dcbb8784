package import FabricProtocol
package import TrainingPlanner
package import Vocabulary

import Sealing

/// What training needs of an attached device; the gateway connects it to the fabric.
package protocol TrainingDevice: Sendable {
    /// Loads a program; the windows that it declares are mapped first. Returns the number to ring it with.
    func load(_ program: [UInt8], windows: [Program.Window]) async throws -> UInt32
    /// `DoorbellArguments` bytes in, `Completion` bytes out.
    func ring(_ program: UInt32, _ arguments: [UInt8]) async throws -> [UInt8]
    /// Opens what the device sealed into a result window.
    func opened(window: UInt16, byteCount: Int, sealed: [Completion.SealedRun]) async throws -> [UInt8]
}

/// Figures of one epoch, for progress, metrics and the planner's check of itself.
package struct EpochReport: Sendable {
    /// From 1.
    package let epoch: Int
    /// While training, with dropout, before this epoch's step.
    package let trainingLoss: Double
    /// After this epoch's step, without dropout.
    package let train: Completion.Figures
    package let validation: Completion.Figures
    package let test: Completion.Figures
    package let isBest: Bool
    /// From doorbell to completion, seen here.
    package let seconds: Double
    package let work: Completion.Work
}

/// What a run trained: weights and figures, nothing of the rows.
package struct TrainedModel: Sendable {
    /// safetensors bytes of the best epoch's weights. Equal specifications and images give equal bytes.
    package let weights: [UInt8]
    package let weightsDigest: Digest
    /// From 1.
    package let bestEpoch: Int
    package let epochs: Int
    package let best: EpochReport
    package let last: EpochReport
    /// What the release shows beside the weights.
    package let card: JSON
}

/// Drives one run on one device, an epoch at a doorbell.
///
/// It keeps nothing between epochs that the device does not recompute from the seed: a run that is started again
/// from epoch 0 ends in the same weights.
package struct Trainer: Sendable {
    package let spec: ModelSpec
    package let plan: TrainingPlan
    package let program: Program

    /// - Parameter trainingByClass: training nodes of each class; needed for balanced class weights only.
    package init(spec: ModelSpec, plan: TrainingPlan, trainingByClass: [Int]? = nil) throws(TrainingError) {
        self.spec = spec
        self.plan = plan
        program = try spec.program(for: plan, trainingByClass: trainingByClass)
    }

    /// Trains to the end, to the patience's end or to cancellation. `report` sees every epoch and may throw to stop.
    package func train(
        on device: some TrainingDevice, report: (EpochReport) async throws -> Void = { _ in }
    ) async throws -> TrainedModel {
        let bytes: [UInt8]
        do {
            bytes = try program.bytes()
        } catch {
            throw TrainingError(.programRefused, error.publicDescription)
        }
        let number = try await device.load(bytes, windows: program.windows)
        var best: EpochReport?
        var last: EpochReport?
        for epoch in 1...spec.epochs {
            try Task.checkCancellation()
            let epochReport = try await ring(device, number, epoch: epoch)
            guard epochReport.trainingLoss.isFinite else {
                throw TrainingError(.diverged, "the loss is not a number at epoch \(epoch)")
            }
            if epochReport.isBest { best = epochReport }
            last = epochReport
            try await report(epochReport)
            if let stopping = spec.earlyStopping, let best, epoch - best.epoch >= stopping.patience { break }
        }
        guard let best, let last else {
            throw TrainingError(.deviceAnswer, "the device kept no best epoch")
        }
        let weights = try await export(device, number, after: last.epoch)
        return model(weights, best: best, last: last)
    }

    private func ring(_ device: some TrainingDevice, _ number: UInt32, epoch: Int) async throws -> EpochReport {
        let start = ContinuousClock.now
        let completion = try await complete(
            device, number, epoch: epoch, flags: epoch == 1 ? [.first, .train, .evaluate] : [.train, .evaluate])
        let seconds = start.duration(to: .now) / .seconds(1)
        guard let trained = completion.scores.first(where: { $0.slot == ModelSpec.trainingSlot }),
            let evaluated = completion.scores.first(where: { $0.slot == ModelSpec.evaluationSlot }),
            let best = completion.best
        else { throw TrainingError(.deviceAnswer, "a completion without the epoch's figures") }
        // The device's word is input like any other.
        for figures in [trained.train, evaluated.train, evaluated.validation, evaluated.test] {
            guard figures.correct <= figures.labelled, figures.labelled <= UInt64(plan.image.nodes),
                figures.weight.isFinite, figures.weight >= 0, !(figures.lossSum < 0)
            else { throw TrainingError(.deviceAnswer, "figures that no epoch can have") }
        }
        return EpochReport(
            epoch: epoch, trainingLoss: trained.train.meanLoss, train: evaluated.train,
            validation: evaluated.validation, test: evaluated.test, isBest: best.improved, seconds: seconds,
            work: completion.work)
    }

    private func complete(
        _ device: some TrainingDevice, _ number: UInt32, epoch: Int, flags: DoorbellFlags
    ) async throws -> Completion {
        let arguments = DoorbellArguments(
            seed: UInt64(spec.seed), epoch: UInt32(epoch - 1), step: UInt32(epoch),
            learningRate: Float(spec.learningRate.value), flags: flags)
        let completion = try Completion(parsing: try await device.ring(number, try arguments.bytes))
        guard completion.epoch == arguments.epoch else {
            throw TrainingError(.deviceAnswer, "a completion of another epoch")
        }
        return completion
    }

    private func export(_ device: some TrainingDevice, _ number: UInt32, after epoch: Int) async throws -> [Float] {
        let completion = try await complete(device, number, epoch: epoch, flags: .export)
        let count = plan.model.parameters.count
        let bytes = try await device.opened(
            window: ModelSpec.resultWindow, byteCount: count * 4,
            sealed: completion.sealed.filter { $0.window == ModelSpec.resultWindow })
        guard bytes.count == count * 4 else { throw TrainingError(.badWeights, "the weights have another length") }
        let weights = (0..<count).map { index in
            Float(
                bitPattern: UInt32(bytes[index * 4]) | UInt32(bytes[index * 4 + 1]) << 8
                    | UInt32(bytes[index * 4 + 2]) << 16 | UInt32(bytes[index * 4 + 3]) << 24)
        }
        guard weights.allSatisfy(\.isFinite) else { throw TrainingError(.badWeights, "a weight is not finite") }
        return weights
    }
}

// MARK: - The model that leaves

extension Trainer {
    private func model(_ weights: [Float], best: EpochReport, last: EpochReport) -> TrainedModel {
        let tensors = plan.model.parameters.entries.map { entry in
            Safetensors.Tensor(
                name: entry.name, shape: entry.role == .bias ? [entry.columns] : [entry.rows, entry.columns],
                values: Array(weights[entry.offset..<entry.offset + entry.count]))
        }
        let bytes = Safetensors.encode(
            tensors, metadata: ["format": "sekisho", "model": spec.model.rawValue, "specification": spec.digest.hex])
        let digest = SHA256.hash(bytes)
        return TrainedModel(
            weights: bytes, weightsDigest: digest, bestEpoch: best.epoch, epochs: last.epoch, best: best, last: last,
            card: card(digest, best: best, last: last))
    }

    private func card(_ digest: Digest, best: EpochReport, last: EpochReport) -> JSON {
        [
            "specification": spec.canonical,
            "specificationDigest": .string(spec.digest.hex),
            "weightsDigest": .string(digest.hex),
            "features": .integer(Int64(plan.image.features)),
            "classes": .integer(Int64(plan.image.classes)),
            "tensors": .object(
                Dictionary(
                    uniqueKeysWithValues: plan.model.parameters.entries.map { entry in
                        (
                            entry.name,
                            .array(
                                (entry.role == .bias ? [] : [.integer(Int64(entry.rows))]) + [
                                    .integer(Int64(entry.columns))
                                ])
                        )
                    })),
            "orders": .array((1...plan.model.layers).map { .string(plan.model.order($0).rawValue) }),
            "epochs": .integer(Int64(last.epoch)),
            "bestEpoch": .integer(Int64(best.epoch)),
            "figures": [
                "train": Self.figures(best.train), "validation": Self.figures(best.validation),
                "test": Self.figures(best.test),
            ],
        ]
    }

    /// Counts, and the mean loss in millionths.
    private static func figures(_ figures: Completion.Figures) -> JSON {
        [
            "labelled": .integer(Int64(clamping: figures.labelled)),
            "correct": .integer(Int64(clamping: figures.correct)),
            "accuracyPerMille": .integer(Int64((figures.accuracy * 1000).rounded())),
            "lossMillionths": .integer(Int64((min(max(figures.meanLoss, 0), 1e6) * 1e6).rounded())),
        ]
    }
}

extension TrainingPlan {
    /// SHA-256 of the plan's canonical form, with its name in front.
    package var digest: Digest { SHA256.hash(Array("sekisho training plan v1\n".utf8) + json.canonical) }
}
