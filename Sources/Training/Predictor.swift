package import FabricProtocol
package import Vocabulary

import Sealing
import TrainingPlanner

/// What a trained model answers for every row of a run image: one pass on an attached device, as a plan of its own, so
/// that it needs no more device memory than there is. The answers come back sealed, chunk by chunk, and are opened one
/// chunk at a time.
package struct Predictor: Sendable {
    package let spec: ModelSpec
    package let plan: RunPlan

    package init(spec: ModelSpec, plan: RunPlan) {
        self.spec = spec
        self.plan = plan
    }

    package struct Report: Sendable {
        /// Of the labelled rows, by split.
        package let train: Completion.Figures
        package let validation: Completion.Figures
        package let test: Completion.Figures
        /// SHA-256 of all answers in the order of the rows, with the name in front: the same under any plan.
        package let digest: Digest
        /// From doorbell to completion, seen here.
        package let seconds: Double
        package let work: Completion.Work

        package init(
            train: Completion.Figures, validation: Completion.Figures, test: Completion.Figures, digest: Digest,
            seconds: Double, work: Completion.Work
        ) {
            self.train = train
            self.validation = validation
            self.test = test
            self.digest = digest
            self.seconds = seconds
            self.work = work
        }
    }

    /// The array that the device fetches as its parameters, as little-endian bytes; between tensors it is zero.
    ///
    /// - Parameter tensors: by name, row-major; all that the specification asks for, each of its size, and no others.
    package func weights(_ tensors: [String: [Float]]) throws(TrainingError) -> [UInt8] {
        guard tensors.count == plan.parameters.entries.count else { throw Self.otherWeights }
        var bytes = [UInt8](repeating: 0, count: plan.parameters.count * 4)
        for entry in plan.parameters.entries {
            guard let values = tensors[entry.name], values.count == entry.count, values.allSatisfy(\.isFinite) else {
                throw Self.otherWeights
            }
            for (index, value) in values.enumerated() {
                let word = value.bitPattern.littleEndian
                for byte in 0..<4 {
                    bytes[(entry.offset + index) * 4 + byte] = UInt8(truncatingIfNeeded: word >> (8 * byte))
                }
            }
        }
        return bytes
    }

    private static let otherWeights = TrainingError(
        .badWeights, "the weights are not those of the specification on this data set")

    /// - Parameters:
    ///   - device: has the weights in its state window.
    ///   - answer: is given the rows in their order, some at a time: [rows, outputs], before any softmax.
    package func predict(
        on device: some TrainingDevice, answer: (_ rows: Range<Int>, _ outputs: [Float]) throws -> Void
    ) async throws -> Report {
        let bytes: [UInt8]
        do { bytes = try plan.program.bytes() } catch {
            throw TrainingError(.programRefused, error.publicDescription)
        }
        let number = try await device.load(bytes, windows: plan.program.windows)
        try Task.checkCancellation()
        let start = ContinuousClock.now
        let arguments = DoorbellArguments(
            seed: UInt64(spec.seed), epoch: 0, step: 1, learningRate: Float(spec.learningRate.value),
            flags: [.first, .evaluate])
        let completion = try Completion(parsing: try await device.ring(number, try arguments.bytes))
        let seconds = start.duration(to: .now) / .seconds(1)
        guard completion.epoch == arguments.epoch,
            let figures = completion.scores.first(where: { $0.slot == ModelSpec.evaluationSlot })
        else { throw TrainingError(.deviceAnswer, "a completion without the prediction's figures") }
        for split in [figures.train, figures.validation, figures.test] { try split.check(plan.image, spec.task) }
        let digest = try await read(device, completion.sealed, answer)
        return Report(
            train: figures.train, validation: figures.validation, test: figures.test, digest: digest, seconds: seconds,
            work: completion.work)
    }

    private func read(
        _ device: some TrainingDevice, _ sealed: [Completion.SealedRun],
        _ answer: (_ rows: Range<Int>, _ outputs: [Float]) throws -> Void
    ) async throws -> Digest {
        let classes = plan.image.classes
        var hash = SHA256Stream()
        hash.update("sekisho predictions v1\n")
        for (chunk, rows) in plan.epoch.chunkRanges.enumerated() {
            try Task.checkCancellation()
            let range = plan.epoch.resultRange(chunk: chunk)
            let blocks = range.lowerBound / Limits.blockBytes..<range.upperBound / Limits.blockBytes
            let bytes = try await device.opened(
                SealedPart(
                    window: ModelSpec.predictionsWindow, byteCount: plan.epoch.resultBytes, blocks: blocks),
                sealed: sealed.filter { $0.window == ModelSpec.predictionsWindow })
            let count = rows.count * classes
            guard bytes.count == range.count, count * 4 <= bytes.count else {
                throw TrainingError(.deviceAnswer, "the answers have another length")
            }
            hash.update(bytes[..<(count * 4)])
            let outputs = (0..<count).map { index in
                Float(
                    bitPattern: UInt32(bytes[index * 4]) | UInt32(bytes[index * 4 + 1]) << 8
                        | UInt32(bytes[index * 4 + 2]) << 16 | UInt32(bytes[index * 4 + 3]) << 24)
            }
            guard outputs.allSatisfy(\.isFinite) else {
                throw TrainingError(.deviceAnswer, "an answer that is not a number")
            }
            try answer(rows, outputs)
        }
        return hash.finalize()
    }
}

/// What may be said of a model's answers for many rows: how many rows got which, each count rounded down to a multiple.
///
/// Answers for single rows are about single persons. A count of fewer than the multiple is 0, and of two graphs that
/// differ by one person nearly all counts are the same.
package struct PredictionCounts: Sendable {
    private let task: ModelSpec.Task
    private let classes: Int
    private let multiple: Int
    private var rows = 0
    private var predicted: [Int]

    package init(_ task: ModelSpec.Task, classes: Int, multiple: Int) {
        precondition(multiple > 0)
        self.task = task
        self.classes = classes
        self.multiple = multiple
        predicted = Array(repeating: 0, count: task == .regression ? 0 : classes)
    }

    /// - Parameter outputs: [rows, classes].
    package mutating func add(_ outputs: [Float]) {
        for row in 0..<outputs.count / classes {
            let answer = outputs[row * classes..<(row + 1) * classes]
            rows += 1
            switch task {
            // The first of equal ones, as the device's own figures take it.
            case .classification:
                predicted[answer.indices.max { (answer[$0], $1) < (answer[$1], $0) }! - answer.startIndex] += 1
            case .multilabel: for (index, value) in answer.enumerated() where value > 0 { predicted[index] += 1 }
            case .regression: break
            }
        }
    }

    package func json(_ report: Predictor.Report) -> JSON {
        var members: [String: JSON] = [
            "rounded_down_to": .integer(Int64(multiple)), "nodes": rounded(rows),
            "figures": [
                "train": figures(report.train), "validation": figures(report.validation), "test": figures(report.test),
            ],
        ]
        if task != .regression { members["predicted"] = .array(predicted.map(rounded)) }
        return .object(members)
    }

    private func figures(_ figures: Completion.Figures) -> JSON {
        var members = ["labelled": rounded(Int(clamping: figures.labelled))]
        switch task {
        case .classification: members["correct"] = rounded(Int(clamping: figures.correct))
        case .multilabel:
            for (name, count) in [
                ("correct", figures.correct), ("predicted", figures.predicted), ("actual", figures.actual),
            ] { members[name] = rounded(Int(clamping: count)) }
        case .regression: break
        }
        return .object(members)
    }

    private func rounded(_ count: Int) -> JSON { .integer(Int64(count / multiple * multiple)) }
}
