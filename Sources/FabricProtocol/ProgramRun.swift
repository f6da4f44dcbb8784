/// What a doorbell tells its program. The meaning of a flag is the program's; the names say what ours use them for.
package struct DoorbellFlags: OptionSet, Hashable, Sendable {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// The first epoch under this program: what stays in device memory is loaded, totals are made.
    package static let first = DoorbellFlags(rawValue: 1)
    /// Weights are trained in this epoch.
    package static let train = DoorbellFlags(rawValue: 2)
    /// Figures are computed without dropout.
    package static let evaluate = DoorbellFlags(rawValue: 4)
    /// Parameters are stored into the result window.
    package static let export = DoorbellFlags(rawValue: 8)
    /// The state window holds a checkpoint to go on from.
    package static let resume = DoorbellFlags(rawValue: 16)
    /// What a resumed run goes on from is stored into a result window.
    package static let checkpoint = DoorbellFlags(rawValue: 32)

    /// The first epoch of all: parameters and moments are made.
    package static let initial = DoorbellFlags(rawValue: 64)

    package static let known = DoorbellFlags([.first, .train, .evaluate, .export, .resume, .checkpoint, .initial])
}

/// The numbers that change from epoch to epoch; everything else is in the program.
package struct DoorbellArguments: Hashable, Sendable {
    package var seed: UInt64
    /// From 0; less than `Initialise.epoch`.
    package var epoch: UInt32
    /// Adam's step, from 1.
    package var step: UInt32
    package var learningRate: Float
    package var flags: DoorbellFlags

    package init(seed: UInt64, epoch: UInt32, step: UInt32, learningRate: Float, flags: DoorbellFlags) {
        self.seed = seed
        self.epoch = epoch
        self.step = step
        self.learningRate = learningRate
        self.flags = flags
    }
}

/// What the device says when a doorbell's work is done.
package struct Completion: Hashable, Sendable {
    package var epoch: UInt32 = 0
    package var scores: [Score] = []
    package var best: Best?
    package var sealed: [SealedRun] = []
    package var work: Work = Work()
    /// What `Measure` found.
    package var rates: Rates?

    package init() {}

    /// The figures of one `Report`.
    package struct Score: Hashable, Sendable {
        package var slot: UInt8 = 0
        package var train = Figures()
        package var validation = Figures()
        package var test = Figures()
        package init() {}
    }

    package struct Figures: Hashable, Sendable {
        /// Weighted sum of the losses; divide by `weight` for the mean.
        package var lossSum = 0.0
        package var weight = 0.0
        /// Rows whose class was predicted; with `Targets.bits`, classes that were predicted and are so.
        package var correct: UInt64 = 0
        /// Rows with a target.
        package var labelled: UInt64 = 0
        /// With `Targets.bits`: classes predicted, and classes that are so.
        package var predicted: UInt64 = 0
        package var actual: UInt64 = 0
        /// With `Targets.values`: the weighted sums of the values and of their squares.
        package var targetSum = 0.0
        package var targetSquares = 0.0
        package init() {}

        package var meanLoss: Double { weight > 0 ? lossSum / weight : 0 }
        package var accuracy: Double { labelled > 0 ? Double(correct) / Double(labelled) : 0 }
        /// Micro-averaged F₁: 2 · true positives / (predicted + actual).
        package var microF1: Double { predicted + actual > 0 ? 2 * Double(correct) / Double(predicted + actual) : 0 }
        /// R² against the mean of all values: 1 − Σ error² / Σ (value − mean)².
        package var determination: Double {
            let spread = weight > 0 ? targetSquares - targetSum * targetSum / weight : 0
            return spread > 0 ? 1 - lossSum / spread : 0
        }
    }

    /// What `KeepBest` did.
    package struct Best: Hashable, Sendable {
        package var improved = false
        package var epoch: UInt32 = 0
        package init() {}
    }

    /// Consecutive blocks of a result or spill window and the write counters they were sealed with, consecutive too:
    /// block `firstBlock + i` has nonce (0x8000_0000 | window, `firstCounter + i`).
    package struct SealedRun: Hashable, Sendable {
        package var window: UInt16 = 0
        package var firstBlock: UInt64 = 0
        package var blocks: UInt32 = 0
        package var firstCounter: UInt64 = 0
        package init() {}
        package init(window: UInt16, firstBlock: UInt64, blocks: UInt32, firstCounter: UInt64) {
            self.window = window
            self.firstBlock = firstBlock
            self.blocks = blocks
            self.firstCounter = firstCounter
        }
    }

    /// Where the time and the bytes went.
    package struct Work: Hashable, Sendable {
        package var wallNanoseconds: UInt64 = 0
        package var computeNanoseconds: UInt64 = 0
        package var fetchNanoseconds: UInt64 = 0
        package var storeNanoseconds: UInt64 = 0
        /// Sealed bytes that crossed.
        package var fetchedBytes: UInt64 = 0
        package var storedBytes: UInt64 = 0
        /// Highest byte of device memory that the program's buffers reach.
        package var peakBytes: UInt64 = 0
        /// Nanoseconds by kind of operation, indexed by its code in the program's bytes.
        package var byOperation: [UInt64] = []
        package init() {}
    }

    /// How fast this device's kernels are, on all its threads.
    package struct Rates: Hashable, Sendable {
        /// Bytes copied, each read once and written once, more than the caches hold.
        package var copyBytesPerSecond = 0.0
        /// Bytes of source rows gathered by sums over neighbours, rows of 1 KiB, and of 32 bytes; half of the edges end in
        /// a sixteenth of the nodes.
        package var wideGatherBytesPerSecond = 0.0
        package var narrowGatherBytesPerSecond = 0.0
        /// Floating-point operations of a tall product, and of a weight's gradient, on what the caches hold.
        package var productFlops = 0.0
        package var tileProductFlops = 0.0
        /// Edges with four heads: of a softmax's scale, and of a weighed sum of rows of 64 bytes with dropout.
        package var scoredEdgesPerSecond = 0.0
        package var attendedEdgesPerSecond = 0.0
        /// Elements that dropout, and that a copy with one step, goes over where the caches hold them.
        package var dropElementsPerSecond = 0.0
        package var mapElementsPerSecond = 0.0
        /// Outputs that a softmax's loss and its gradient go over, `lossRowElements` more in each row than it has.
        package var lossElementsPerSecond = 0.0
        package static let lossRowElements = 32
        /// Commands that have nothing to do but wake all threads and wait for them.
        package var commandsPerSecond = 0.0
        /// Bytes that one thread takes from where they came and opens.
        package var openBytesPerSecond = 0.0
        /// Threads that compute, and cores that there are.
        package var threads: UInt32 = 0
        package var cores: UInt32 = 0
        package init() {}

        /// All but the last two.
        package static var perSecond: [WritableKeyPath<Rates, Double>] {
            [
                \.copyBytesPerSecond, \.wideGatherBytesPerSecond, \.narrowGatherBytesPerSecond, \.productFlops,
                \.tileProductFlops, \.scoredEdgesPerSecond, \.attendedEdgesPerSecond, \.dropElementsPerSecond,
                \.mapElementsPerSecond, \.lossElementsPerSecond, \.commandsPerSecond, \.openBytesPerSecond,
            ]
        }

        /// Takes what another measurement found faster.
        package mutating func raise(to other: Rates) {
            for rate in Self.perSecond { self[keyPath: rate] = max(self[keyPath: rate], other[keyPath: rate]) }
        }
    }

    package static let scoresMax = 16
    package static let sealedRunsMax = 4096
}
