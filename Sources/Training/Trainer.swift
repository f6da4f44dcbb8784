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
    /// Opens what the device sealed into a result window, or some blocks of it.
    func opened(_ part: SealedPart, sealed: [Completion.SealedRun]) async throws -> [UInt8]
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
/// It keeps nothing between epochs that the device does not recompute from the seed: a run that is started again, from
/// its first epoch or from a checkpoint, ends in the same weights.
package struct Trainer: Sendable {
    package let spec: ModelSpec
    package let plan: RunPlan
    package var program: Program { plan.program }

    package init(spec: ModelSpec, plan: RunPlan) {
        self.spec = spec
        self.plan = plan
    }

    /// - Parameter trainingByClass: training nodes of each class; needed for balanced class weights only.
    package init(spec: ModelSpec, plan: TrainingPlan, trainingByClass: [Int]? = nil) throws(TrainingError) {
        self.init(spec: spec, plan: try RunPlan(spec, plan, trainingByClass: trainingByClass))
    }

    /// Trains to the end, to the patience's end or to cancellation.
    ///
    /// - Parameters:
    ///   - checkpoint: where to go on from; the device's state windows hold what belongs to it.
    ///   - rule: when `save` is called.
    ///   - save: keeps a checkpoint. The windows that it names hold still until it returns.
    ///   - replan: asked where two epochs in a row took more than a tenth longer or shorter than the plan foretold; what
    ///     it returns takes over with the next epoch, with the same bits.
    ///   - report: sees every epoch and may throw to stop.
    package func train(
        on device: some TrainingDevice, from checkpoint: TrainingCheckpoint? = nil, rule: CheckpointRule = .usual,
        save: ((TrainingCheckpoint) async throws -> Void)? = nil,
        replan: ((RunPlan, EpochReport) async throws -> RunPlan?)? = nil,
        report: (EpochReport) async throws -> Void = { _ in }
    ) async throws -> TrainedModel {
        var plan = plan
        if let checkpoint { try check(checkpoint) }
        var number = try await load(plan, on: device)
        var watch = ForecastWatch()
        var isNew = checkpoint == nil
        var best = checkpoint?.best
        var last = checkpoint?.last
        if let checkpoint {
            _ = try await complete(device, number, epoch: checkpoint.epoch, flags: [.first, .resume])
        }
        var cost: Double?
        var since = 0.0
        while (last?.epoch ?? 0) < spec.epochs, !isOutOfPatience(best, last) {
            try Task.checkCancellation()
            let epoch = (last?.epoch ?? 0) + 1
            let isSaved = save != nil && rule.isDue(cost: cost, since: since)
            let start = ContinuousClock.now
            var flags: DoorbellFlags = []
            if isNew { flags.insert(.first) }
            if isSaved { flags.insert(.checkpoint) }
            let (epochReport, sealed) = try await ring(device, number, epoch: epoch, flags: flags)
            guard epochReport.trainingLoss.isFinite else {
                throw TrainingError(.diverged, "the loss is not a number at epoch \(epoch)")
            }
            if epochReport.isBest { best = epochReport }
            last = epochReport
            try await report(epochReport)
            // The first epoch under a program also loads what stays.
            watch.saw(epochReport, under: plan, loaded: isNew)
            isNew = false
            if isSaved, let save, let best {
                let trained = start.duration(to: .now) / .seconds(1)
                try await save(
                    TrainingCheckpoint(
                        epoch: epoch, best: best, last: epochReport, specification: spec.digest, plan: plan.digest,
                        seed: spec.seed, sealed: sealed))
                // What the device spent on storing cannot be told apart; what the enclave spent on keeping can.
                cost = start.duration(to: .now) / .seconds(1) - trained
                since = 0
            } else {
                since += start.duration(to: .now) / .seconds(1)
            }
            if watch.isOff, plan.generation < ModelSpec.generationsMax, let replan {
                watch = ForecastWatch()
                if let other = try await replan(plan, epochReport) {
                    guard other.generation == plan.generation + 1, other.parameters == plan.parameters,
                        other.image == plan.image
                    else { throw TrainingError(.programRefused, "a plan of another run") }
                    plan = other
                    number = try await load(plan, on: device)
                    isNew = true
                }
            }
        }
        guard let best, let last else {
            throw TrainingError(.deviceAnswer, "the device kept no best epoch")
        }
        // A plan that took over after the last epoch has loaded nothing yet.
        if isNew { _ = try await complete(device, number, epoch: last.epoch, flags: .first) }
        let weights = try await export(device, number, best: best, after: last.epoch)
        return model(weights, best: best, last: last)
    }

    private func check(_ checkpoint: TrainingCheckpoint) throws(TrainingError) {
        // Under which plan it was made does not matter: all of them come to the same bits.
        guard checkpoint.specification == spec.digest, checkpoint.seed == spec.seed, checkpoint.epoch <= spec.epochs
        else { throw TrainingError(.badCheckpoint, "the checkpoint is not one of this specification") }
    }

    private func load(_ plan: RunPlan, on device: some TrainingDevice) async throws -> UInt32 {
        let bytes: [UInt8]
        do {
            bytes = try plan.program.bytes()
        } catch {
            throw TrainingError(.programRefused, error.publicDescription)
        }
        return try await device.load(bytes, windows: plan.program.windows)
    }

    private func isOutOfPatience(_ best: EpochReport?, _ last: EpochReport?) -> Bool {
        guard let stopping = spec.earlyStopping, let best, let last else { return false }
        return last.epoch - best.epoch >= stopping.patience
    }

    private func ring(
        _ device: some TrainingDevice, _ number: UInt32, epoch: Int, flags extra: DoorbellFlags
    ) async throws -> (EpochReport, [Completion.SealedRun]) {
        let start = ContinuousClock.now
        var flags: DoorbellFlags = [.train, .evaluate, extra]
        if epoch == 1 { flags.insert(.initial) }
        let completion = try await complete(device, number, epoch: epoch, flags: flags)
        let seconds = start.duration(to: .now) / .seconds(1)
        guard let trained = completion.scores.first(where: { $0.slot == ModelSpec.trainingSlot }),
            let evaluated = completion.scores.first(where: { $0.slot == ModelSpec.evaluationSlot }),
            let best = completion.best
        else { throw TrainingError(.deviceAnswer, "a completion without the epoch's figures") }
        for figures in [trained.train, evaluated.train, evaluated.validation, evaluated.test] {
            try figures.check(plan.image, spec.task)
        }
        let report = EpochReport(
            epoch: epoch, trainingLoss: trained.train.meanLoss, train: evaluated.train,
            validation: evaluated.validation, test: evaluated.test, isBest: best.improved, seconds: seconds,
            work: completion.work)
        let windows = TrainingCheckpoint.Part.allCases.map(\.resultWindow)
        return (report, completion.sealed.filter { windows.contains($0.window) })
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

    /// The best weights, after a last evaluation of just these: under the run's own plan, so it cannot need more memory
    /// than an epoch did, and it must come to the figures that chose them.
    private func export(
        _ device: some TrainingDevice, _ number: UInt32, best: EpochReport, after epoch: Int
    ) async throws -> [Float] {
        let completion = try await complete(device, number, epoch: epoch, flags: [.evaluate, .export])
        let evaluated = completion.scores.first { $0.slot == ModelSpec.evaluationSlot }
        guard evaluated?.train == best.train, evaluated?.validation == best.validation, evaluated?.test == best.test
        else { throw TrainingError(.badWeights, "the exported weights do not come to their epoch's figures") }
        let count = plan.parameters.count
        let bytes = try await device.opened(
            SealedPart(window: ModelSpec.resultWindow, byteCount: count * 4),
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

extension Completion.Figures {
    /// The device's word is input like any other.
    func check(_ image: ImageShape, _ task: ModelSpec.Task) throws(TrainingError) {
        let nodes = UInt64(image.nodes)
        let decisions = nodes * UInt64(image.classes)
        let counts =
            task == .multilabel
            ? correct <= min(predicted, actual) && max(predicted, actual) <= decisions : correct <= labelled
        guard counts, labelled <= nodes, weight.isFinite, weight >= 0, !(lossSum < 0)
        else { throw TrainingError(.deviceAnswer, "figures that no epoch can have") }
    }
}

/// Whether epochs go on taking another time than the plan says.
private struct ForecastWatch {
    private var misses = 0
    var isOff: Bool { misses >= 2 }

    mutating func saw(_ report: EpochReport, under plan: RunPlan, loaded: Bool) {
        guard !loaded else { return }
        let ratio = report.seconds / plan.secondsPerEpoch
        misses = ratio > 1.1 || ratio < 1 / 1.1 ? misses + 1 : 0
    }
}

extension RunPlan {
    /// The budget that an epoch under this plan has shown to be right: each resource as fast as it was. It starts from the
    /// budget that this plan was made for, which may be a corrected one itself.
    package func corrected(by report: EpochReport) -> Budget {
        let budget = epoch.budget
        let work = report.work
        let forecast = epoch.forecast
        func seconds(_ nanoseconds: UInt64) -> Double { Double(nanoseconds) / 1e9 }
        let expected = max(forecast.computeSecondsPerEpoch, 1e-9)
        let slower = min(max(seconds(work.computeNanoseconds) / expected, 0.05), 20)
        // Less says more about the round trip than about the rate.
        func rate(_ bytes: UInt64, _ nanoseconds: UInt64, _ known: Double) -> Double {
            bytes >= 1 << 22 && nanoseconds > 0 ? Double(bytes) / seconds(nanoseconds) : known
        }
        return Budget(
            deviceBytes: budget.deviceBytes, hostBytes: budget.hostBytes, ssdBytes: budget.ssdBytes,
            device: budget.device.slower(slower),
            link: LinkRates(
                bytesPerSecond: rate(work.fetchedBytes, work.fetchNanoseconds, budget.link.bytesPerSecond),
                storeBytesPerSecond: rate(work.storedBytes, work.storeNanoseconds, budget.link.storeBytesPerSecond),
                roundTripSeconds: budget.link.roundTripSeconds, sealBytesPerSecond: budget.link.sealBytesPerSecond),
            ssd: budget.ssd)
    }
}

extension ModelSpec {
    /// The task's figure: accuracy, micro-averaged F₁, or R².
    package func score(of figures: Completion.Figures) -> Double {
        switch task {
        case .classification: figures.accuracy
        case .multilabel: figures.microF1
        case .regression: figures.determination
        }
    }

    package var scoreName: String {
        switch task {
        case .classification: "accuracy"
        case .multilabel: "micro-F1"
        case .regression: "R2"
        }
    }
}

// MARK: - The model that leaves

extension Trainer {
    private func model(_ weights: [Float], best: EpochReport, last: EpochReport) -> TrainedModel {
        let tensors = plan.parameters.entries.map { entry in
            Safetensors.Tensor(
                name: entry.name, shape: entry.tensorShape,
                values: Array(weights[entry.offset..<entry.offset + entry.count]))
        }
        let bytes = Safetensors.encode(
            tensors, metadata: ["format": "sekisho", "model": spec.model.rawValue, "specification": spec.digest.hex])
        let digest = SHA256.hash(bytes)
        return TrainedModel(
            weights: bytes, weightsDigest: digest, bestEpoch: best.epoch, epochs: last.epoch, best: best, last: last,
            card: ModelCard(spec: spec, plan: plan, weights: digest, best: best, last: last).json)
    }
}

extension TrainingPlan {
    /// SHA-256 of the plan's canonical form, with its name in front.
    package var digest: Digest { Self.digest(json) }

    static func digest(_ json: JSON) -> Digest {
        SHA256.hash(Array("sekisho training plan v1\n".utf8) + json.canonical)
    }
}
