import GraphVault
import PolicyEngine
import Training
import Vocabulary

import func Glibc.log

/// The checks of a release that look at what the model does, not at what its files are: made in the enclave, from the
/// candidate's own bytes and the run image that the vault sealed. Nothing that a node or a researcher says is taken.
struct ModelChecks {
    /// What each row of the image is answered: probabilities and loss of rows that were trained on, and of rows that
    /// were kept for the test.
    struct Answers: Sendable {
        var members: [[Double]] = []
        var others: [[Double]] = []
        var memberLosses: [Double] = []
        var otherLosses: [Double] = []
    }

    let parameters: Int
    let shape: ImageShape
    let cohortMinimum: Int
    let candidate: Digest
    /// `nil` where the task is none that answers with probabilities of one class, or the image is too large.
    let answers: Answers?

    static let kinds: Set<ReleaseCheck> = [.freedom, .disclosure, .loss, .membership]
    /// A larger image is not opened in the enclave's memory; its checks fail.
    static let imageBytesMax = 2 << 30

    /// Fewer of either tell nothing.
    static let rowsMin = 10
    /// Of ten repetitions at 0.05 each, three or more come by chance once in eighty.
    static let significantMax = 2

    /// - Parameters:
    ///   - model: safetensors, as they would leave.
    ///   - image: opened in the enclave; `nil` where it is too large.
    init(
        of model: [UInt8], _ specification: ModelSpec, _ shape: ImageShape, _ image: OpenedImage?, candidate: Digest,
        cohortMinimum: Int
    ) throws {
        let file: Safetensors
        do throws(SafetensorsError) { file = try Safetensors(parsing: model) } catch {
            throw GatewayError(.integrity, "the candidate's model cannot be read")
        }
        parameters = file.tensors.reduce(0) { $0 + $1.elementCount }
        self.shape = shape
        self.cohortMinimum = cohortMinimum
        self.candidate = candidate
        guard let image, specification.task == .classification else {
            answers = nil
            return
        }
        let outputs: [Float]
        do throws(TrainingError) {
            outputs = try Inference(
                spec: specification, shape: shape, weights: file.values(in: model)
            ).outputs(
                Inference.Rows(
                    rowPointers: image.rowPointers, columns: image.columns, features: image.features,
                    aggregate: image.aggregate, scale: image.scale))
        } catch { throw GatewayError(.integrity, "the candidate cannot be checked: \(error.publicDescription)") }
        var answers = Answers()
        for row in 0..<shape.nodes {
            let label = Int(image.labels[row])
            guard (0..<shape.classes).contains(label) else { continue }
            let probabilities = ReleaseStatistics.probabilities(
                outputs[row * shape.classes..<(row + 1) * shape.classes])
            let loss = -log(max(probabilities[label], 1e-300))
            switch Split(rawValue: image.split[row]) {
            case .train:
                answers.members.append(probabilities)
                answers.memberLosses.append(loss)
            case .test:
                answers.others.append(probabilities)
                answers.otherLosses.append(loss)
            default: break
            }
        }
        self.answers = answers
    }

    func result(of check: ReleaseCheck) -> ArtefactChecks.Result? {
        switch check {
        case .freedom: freedom
        case .disclosure: disclosure
        case .loss: loss
        case .membership: membership
        case .artefact, .shape, .cohort: nil
        }
    }

    private var freedom: ArtefactChecks.Result {
        let left = ReleaseStatistics.degreesOfFreedom(
            rows: shape.labelled[Int(Split.train.rawValue)], parameters: parameters)
        return .init(
            check: .freedom, passed: left >= ReleaseStatistics.freedomMin,
            finding: "\(left) degrees of freedom are left, at least \(ReleaseStatistics.freedomMin) are asked for")
    }

    /// A class that few were trained on is answered by what those few are.
    private var disclosure: ArtefactChecks.Result {
        let smallest = shape.trainingByClass.filter { $0 > 0 }.min() ?? 0
        return .init(
            check: .disclosure, passed: shape.trainingByClass.isEmpty || smallest >= cohortMinimum,
            finding: shape.trainingByClass.isEmpty
                ? "the model answers no classes"
                : "the smallest class has \(smallest) training rows, at least \(cohortMinimum) are asked for")
    }

    private var loss: ArtefactChecks.Result {
        guard let answers = enough else { return .init(check: .loss, passed: false, finding: Self.tooFew) }
        let (distance, significance) = ReleaseStatistics.kolmogorovSmirnov(
            answers.memberLosses, answers.otherLosses)
        return .init(
            check: .loss, passed: significance >= 0.05,
            finding: "the losses of rows in training and in the test differ by \(thousandths(distance)) "
                + "(Kolmogorov-Smirnov, p \(thousandths(significance)); 0.050 is asked for)")
    }

    private var membership: ArtefactChecks.Result {
        guard let answers = enough else { return .init(check: .membership, passed: false, finding: Self.tooFew) }
        let seed = candidate.bytes.prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let (significant, auc) = ReleaseStatistics.membershipAttack(
            members: answers.members, others: answers.others, seed: seed)
        return .init(
            check: .membership, passed: significant <= Self.significantMax,
            finding: "the worst-case attack tells members apart in \(significant) of 10 repetitions "
                + "(mean AUC \(thousandths(auc))); at most \(Self.significantMax) may come by chance")
    }

    private var enough: Answers? {
        answers.flatMap { min($0.members.count, $0.others.count) >= Self.rowsMin ? $0 : nil }
    }

    private static let tooFew =
        "the image is too large, there are too few rows in training or in the test, or the task answers no classes"

    private func thousandths(_ value: Double) -> String {
        let rounded = Int((value * 1000).rounded())
        let digits = String(rounded % 1000)
        return "\(rounded / 1000)." + String(repeating: "0", count: 3 - digits.count) + digits
    }
}
