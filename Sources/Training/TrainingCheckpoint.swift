package import FabricProtocol
package import Sealing
package import Vocabulary

/// Where a run stands between two epochs, without the weights: those lie, as the device sealed them, in the checkpoint's
/// windows beside it.
///
/// What random numbers the rest of the run draws follows from the specification's seed and the epoch, so a run that goes
/// on from here ends in the same weights, bit for bit, as one that was never interrupted.
package struct TrainingCheckpoint: Sendable {
    /// The last epoch that was trained, from 1.
    package let epoch: Int
    package let best: EpochReport
    package let last: EpochReport
    package let specification: Digest
    package let plan: Digest
    /// Key of the counter-based generator.
    package let seed: UInt32
    /// With which write numbers the device sealed the blocks.
    package let sealed: [Completion.SealedRun]

    /// What of the device's memory a run needs to go on, each part in a window of its own.
    package enum Part: Int, CaseIterable, Sendable {
        case parameters, firstMoments, secondMoments, best, bestState

        /// Where the device stores it.
        package var resultWindow: UInt16 { 53 + UInt16(rawValue) }
        /// Where a resumed run fetches it.
        package var stateWindow: UInt16 { 58 + UInt16(rawValue) }

        package func byteCount(parameters: Int) -> Int { self == .bestState ? KeepBest.stateBytes : parameters * 4 }

        static func windows(parameters: Int) -> [Program.Window] {
            allCases.flatMap { part in
                let byteCount = part.byteCount(parameters: parameters)
                return [
                    Program.Window(id: part.resultWindow, direction: .write, purpose: .result, byteCount: byteCount),
                    Program.Window(id: part.stateWindow, direction: .read, purpose: .state, byteCount: byteCount),
                ]
            }
        }
    }
}

extension TrainingCheckpoint {
    package var json: JSON {
        [
            "format": "sekisho-checkpoint-1", "epoch": .integer(Int64(epoch)), "best": best.json, "last": last.json,
            "specification": .string(specification.hex), "plan": .string(plan.hex), "seed": .integer(Int64(seed)),
            "sealed": .array(
                sealed.map {
                    [
                        .integer(Int64($0.window)), .integer(Int64(clamping: $0.firstBlock)),
                        .integer(Int64($0.blocks)), .integer(Int64(clamping: $0.firstCounter)),
                    ]
                }),
        ]
    }

    package init?(json: JSON) {
        guard json["format"] == "sekisho-checkpoint-1",
            let epoch = json["epoch"]?.integerValue.flatMap(Int.init(exactly:)),
            (1...ModelSpec.epochsMax).contains(epoch),
            let best = json["best"].flatMap(EpochReport.init(json:)),
            let last = json["last"].flatMap(EpochReport.init(json:)), last.epoch == epoch, best.epoch <= epoch,
            let specification = json["specification"]?.stringValue.flatMap(Digest.init(hex:)),
            let plan = json["plan"]?.stringValue.flatMap(Digest.init(hex:)),
            let seed = json["seed"]?.integerValue.flatMap(UInt32.init(exactly:)),
            let runs = json["sealed"]?.arrayValue, runs.count <= Completion.sealedRunsMax
        else { return nil }
        var sealed: [Completion.SealedRun] = []
        for run in runs {
            guard let numbers = run.arrayValue?.compactMap(\.integerValue), numbers.count == 4,
                let window = UInt16(exactly: numbers[0]), let first = UInt64(exactly: numbers[1]),
                let blocks = UInt32(exactly: numbers[2]), let counter = UInt64(exactly: numbers[3])
            else { return nil }
            sealed.append(
                Completion.SealedRun(window: window, firstBlock: first, blocks: blocks, firstCounter: counter))
        }
        self.init(
            epoch: epoch, best: best, last: last, specification: specification, plan: plan, seed: seed,
            sealed: sealed)
    }
}

extension EpochReport {
    /// Numbers with fractions as their bits, so that they come back the same. Seconds and work are not kept.
    fileprivate var json: JSON {
        [
            "epoch": .integer(Int64(epoch)), "trainingLoss": Self.bits(trainingLoss),
            "train": Self.json(train), "validation": Self.json(validation), "test": Self.json(test),
            "isBest": .bool(isBest),
        ]
    }

    fileprivate init?(json: JSON) {
        guard let epoch = json["epoch"]?.integerValue.flatMap(Int.init(exactly:)), epoch > 0,
            let loss = json["trainingLoss"].flatMap(Self.number), let train = json["train"].flatMap(Self.figures),
            let validation = json["validation"].flatMap(Self.figures), let test = json["test"].flatMap(Self.figures),
            let isBest = json["isBest"]?.boolValue
        else { return nil }
        self.init(
            epoch: epoch, trainingLoss: loss, train: train, validation: validation, test: test, isBest: isBest,
            seconds: 0, work: Completion.Work())
    }

    // Canonical JSON has whole numbers up to 2^53 only, so bits are text.
    private static func bits(_ number: Double) -> JSON { text(number.bitPattern) }
    private static func number(_ json: JSON) -> Double? { word(json).map { Double(bitPattern: $0) } }

    private static func text(_ word: UInt64) -> JSON { .string(String(word, radix: 16)) }
    private static func word(_ json: JSON) -> UInt64? {
        json.stringValue.flatMap { $0.utf8.count <= 16 && $0.first != "+" ? UInt64($0, radix: 16) : nil }
    }

    private static func json(_ figures: Completion.Figures) -> JSON {
        .array(
            [figures.lossSum, figures.weight, figures.targetSum, figures.targetSquares].map(bits)
                + [figures.correct, figures.labelled, figures.predicted, figures.actual].map(text))
    }

    private static func figures(_ json: JSON) -> Completion.Figures? {
        guard let members = json.arrayValue, members.count == 8 else { return nil }
        let numbers = members.prefix(4).compactMap(number)
        let counts = members.suffix(4).compactMap(word)
        guard numbers.count == 4, counts.count == 4 else { return nil }
        var figures = Completion.Figures()
        (figures.lossSum, figures.weight) = (numbers[0], numbers[1])
        (figures.targetSum, figures.targetSquares) = (numbers[2], numbers[3])
        (figures.correct, figures.labelled, figures.predicted, figures.actual) = (
            counts[0], counts[1], counts[2], counts[3]
        )
        return figures
    }
}

/// Seals a checkpoint's windows for the attempt that goes on from it.
///
/// The device opens block `i` of a state window with the nonce (0x4000_0000 | window, `i`) under a key of this attempt
/// alone, so a window must be sealed once only for each attempt.
package struct StateWindows: Sendable {
    private let cipher: BlockCipher
    private let run: String

    package init(runKey: borrowing SecretBytes, run: RunID, fence: Fence, attempt: UInt32) {
        var context: [UInt8] = []
        withUnsafeBytes(of: fence.number.bigEndian) { context += $0 }
        withUnsafeBytes(of: attempt.bigEndian) { context += $0 }
        cipher = BlockCipher(key: KeyDerivation.hkdf(runKey, info: "sekisho state v1", context: context))
        self.run = run.text
    }

    package func seal(_ plaintext: [UInt8], window: UInt16) throws(TrainingError) -> [UInt8] {
        let context = BlockContext(domain: "sekisho-state-v1", owner: run, section: UInt32(window))
        let blocks = (plaintext.count + Limits.blockBytes - 1) / Limits.blockBytes
        var sealed = [UInt8](repeating: 0, count: plaintext.count + blocks * Limits.tagBytes)
        do {
            try plaintext.withUnsafeBytes { plaintext in
                try sealed.withUnsafeMutableBytes { sealed in
                    for block in 0..<blocks {
                        let lower = block * Limits.blockBytes
                        let length = min(Limits.blockBytes, plaintext.count - lower)
                        let place = block * Limits.sealedBlockBytes
                        try cipher.seal(
                            UnsafeRawBufferPointer(rebasing: plaintext[lower..<lower + length]),
                            nonce: BlockNonce(high: 0x4000_0000 | UInt32(window), low: UInt64(block)),
                            aad: context.aad(index: UInt64(block), length: length),
                            into: UnsafeMutableRawBufferPointer(
                                rebasing: sealed[place..<place + length + Limits.tagBytes]))
                    }
                }
            }
        } catch { throw TrainingError(.badCheckpoint, "the checkpoint could not be sealed for the device") }
        return sealed
    }
}

extension ModelSpec.Metric {
    /// What the device goes by when it keeps the best weights.
    var rule: KeepBest.Rule {
        switch self {
        case .validationAccuracy: .accuracy
        case .validationF1: .microF1
        case .validationLoss: .loss
        }
    }
}

/// When a checkpoint is worth its time: so that, over the run, they take no more than a share of it.
package struct CheckpointRule: Sendable {
    /// Of the time since the last one; at least one is made, after the first epoch.
    package let share: Double

    package static let usual = CheckpointRule(share: 0.02)
    package static let everyEpoch = CheckpointRule(share: .infinity)

    package init(share: Double) { self.share = share }

    /// - Parameters:
    ///   - cost: seconds that the last checkpoint took; `nil` before the first.
    ///   - since: seconds of training since then.
    func isDue(cost: Double?, since: Double) -> Bool {
        guard let cost, share.isFinite else { return true }
        return cost <= since * share
    }
}
