package import Vocabulary

/// A recorded list of commands that the device replays at one doorbell: one epoch of training, usually.
///
/// Commands run on three queues (`Operation.queue`), each in the order of its commands' numbers. Across queues only
/// `Command.dependsOn` orders them, so whatever shares memory or window bytes must be ordered by it; `checked(…)`
/// refuses a program in which two such commands could meet. Everything is little-endian, matrices are row-major
/// `Float32`, and a *tile* is `ImageShape.tileRows` rows of the graph.
package struct Program: Hashable, Sendable {
    package var buffers: [Buffer]
    package var windows: [Window]
    package var commands: [Command]

    package init(buffers: [Buffer] = [], windows: [Window] = [], commands: [Command] = []) {
        self.buffers = buffers
        self.windows = windows
        self.commands = commands
    }

    /// A range of device memory, named by its position in `buffers`. Two may share bytes at different times.
    package struct Buffer: Hashable, Sendable {
        /// Bytes from the start of device memory, a multiple of `alignment`.
        package var offset: Int
        package var byteCount: Int
        package static let alignment = 64

        package init(offset: Int, byteCount: Int) {
            self.offset = offset
            self.byteCount = byteCount
        }
    }

    /// Sealed bytes in the enclave that this program may reach, and what they are.
    package struct Window: Hashable, Sendable {
        package var id: UInt16
        package var direction: Direction
        package var purpose: Purpose
        /// Plaintext bytes; the sealed bytes are `Limits.tagBytes` more for each block of `Limits.blockBytes`.
        package var byteCount: Int

        package init(id: UInt16, direction: Direction, purpose: Purpose, byteCount: Int) {
            self.id = id
            self.direction = direction
            self.purpose = purpose
            self.byteCount = byteCount
        }

        /// Seen from the device.
        package enum Direction: UInt8, CaseIterable, Sendable { case read = 1, write = 2, both = 3 }

        package enum Purpose: Hashable, Sendable {
            /// A section of the run image, sealed by the vault. Read only.
            case image(ImageSection)
            /// A tensor that does not fit the device: written and read back by it.
            case spill
            /// Parameters and figures for the enclave. Write only; `Completion.sealed` says how to open it.
            case result
            /// A checkpoint that the enclave sealed for this attempt. Read only.
            case state
        }
    }

    /// One operation and the lower-numbered commands that must have ended before it starts.
    package struct Command: Hashable, Sendable {
        package var dependsOn: [UInt32]
        /// Runs only at doorbells that carry all of these flags. A command left out still waits for its dependencies
        /// and then counts as ended, so it orders others all the same.
        package var onlyWith: DoorbellFlags
        package var operation: Operation
        /// The rows that matter, for an operation that goes over rows; `nil` for all. The others are not computed: what
        /// would be written of them becomes 0 (stays, where the operation accumulates), and sums over rows leave them
        /// out.
        package var active: ActiveRows?

        package init(
            _ operation: Operation, dependsOn: [UInt32] = [], onlyWith: DoorbellFlags = [], active: ActiveRows? = nil
        ) {
            self.operation = operation
            self.dependsOn = dependsOn
            self.onlyWith = onlyWith
            self.active = active
        }
    }

    /// Rows whose byte has a bit.
    package struct ActiveRows: Hashable, Sendable {
        /// `UInt8[rows]`: the byte of the command's first row on.
        package var place: Place
        package var bit: UInt8

        package init(_ place: Place, bit: UInt8) {
            self.place = place
            self.bit = bit
        }
    }

    package static let dependenciesMax = 32
    package static let stepsMax = 24

    /// Tiles that `rows` rows of the graph make.
    package static func tiles(rows: Int) -> Int { (rows + ImageShape.tileRows - 1) / ImageShape.tileRows }

    /// Levels of the fixed tree's partial sums while the tiles of `totalRows` rows stream by.
    package static func tileLevels(totalRows: Int) -> Int { Int.bitWidth - tiles(rows: totalRows).leadingZeroBitCount }

    /// Bytes of the stack of partial sums of a [rows, columns] gradient: the levels and one tile's own sum.
    package static func tileStackBytes(totalRows: Int, rows: Int, columns: Int) -> Int {
        (tileLevels(totalRows: totalRows) + 1) * rows * columns * 4
    }
}

/// Bytes in a buffer, from `offset` on. How many follows from the command.
package struct Place: Hashable, Sendable {
    package var buffer: UInt16
    package var offset: Int

    package init(buffer: UInt16, offset: Int = 0) {
        self.buffer = buffer
        self.offset = offset
    }
}

/// A row-major matrix of `Float32` in a buffer; consecutive rows are `stride` elements apart.
package struct Matrix: Hashable, Sendable {
    package var place: Place
    package var stride: Int

    package init(_ place: Place, stride: Int) {
        self.place = place
        self.stride = stride
    }
}

/// What the device can do.
package enum Operation: Hashable, Sendable {
    case fetch(Transfer)
    case store(Transfer)
    case fill(Fill)
    case copy(Copy)
    case map(RowMap)
    case aggregate(Aggregate)
    // Far larger than the others, of which a program has thousands.
    indirect case attentionScale(AttentionScale)
    indirect case attend(Attend)
    indirect case attentionGradient(AttentionGradient)
    case headDots(HeadDots)
    case product(Product)
    case tileProduct(TileProduct)
    case tileColumnSum(TileColumnSum)
    case tileFinish(TileFinish)
    case labelWeight(LabelWeight)
    case loss(Loss)
    case adam(Adam)
    case initialise(Initialise)
    case keepBest(KeepBest)
    case report(Report)
    case measure(Measure)
    case mark(Mark)
    case reach(Reach)

    package enum Queue: Int, CaseIterable, Sendable { case fetch, compute, store }

    package var queue: Queue {
        switch self {
        case .fetch: .fetch
        case .store: .store
        default: .compute
        }
    }
}

/// Moves bytes between a window and device memory. `fetch`: any byte range of the window's plaintext. `store`: whole
/// blocks, so `windowOffset` is a multiple of `Limits.blockBytes` and the end is one too or the window's end. Several
/// pieces are equally long, `windowStride` bytes apart in the window, and one behind the other in memory.
package struct Transfer: Hashable, Sendable {
    package var window: UInt16 = 0
    package var windowOffset = 0
    /// Of one piece.
    package var byteCount = 0
    package var place = Place(buffer: 0)
    package var pieces = 1
    package var windowStride = 0

    package static let piecesMax = 4096

    package init(
        window: UInt16, windowOffset: Int, byteCount: Int, place: Place, pieces: Int = 1, windowStride: Int = 0
    ) {
        self.window = window
        self.windowOffset = windowOffset
        self.byteCount = byteCount
        self.place = place
        self.pieces = pieces
        self.windowStride = windowStride
    }

    /// One of its pieces, as a transfer of its own.
    package func piece(_ number: Int) -> Transfer {
        Transfer(
            window: window, windowOffset: windowOffset + number * windowStride, byteCount: byteCount,
            place: Place(buffer: place.buffer, offset: place.offset + number * byteCount))
    }
}

/// `count` elements become `value`.
package struct Fill: Hashable, Sendable {
    package var place: Place
    package var count: Int
    package var value: Float

    package init(_ place: Place, count: Int, value: Float = 0) {
        self.place = place
        self.count = count
        self.value = value
    }
}

/// [rows, columns] elements of 4 bytes, from one matrix to another that shares none of its bytes. Several pieces begin
/// `sourceStep` and `targetStep` elements apart: slices of columns become matrices of their own, or the other way round.
package struct Copy: Hashable, Sendable {
    package var source: Matrix
    package var target: Matrix
    package var rows: Int
    package var columns: Int
    package var pieces: Int
    package var sourceStep: Int
    package var targetStep: Int

    package init(
        source: Matrix, target: Matrix, rows: Int, columns: Int, pieces: Int = 1, sourceStep: Int = 0,
        targetStep: Int = 0
    ) {
        (self.pieces, self.sourceStep, self.targetStep) = (pieces, sourceStep, targetStep)
        self.source = source
        self.target = target
        self.rows = rows
        self.columns = columns
    }
}

/// One element-wise step of a row-local chain on x [rows, columns]; steps apply in their order.
package enum Step: Hashable, Sendable {
    /// x + b, b [columns].
    case bias(Place)
    /// x · s of its row, s [rows] (place of the chunk's first row).
    case scaleRows(Place)
    /// x · constant.
    case scale(Float)
    /// max(x, 0); a NaN stays one.
    case relu
    /// 0 where `activation` [rows, columns] ≤ 0, else x. `activation` may be relu's output before or after dropout.
    case reluGradient(Matrix)
    /// x / (1 − probability) where kept, else 0. The same step is its own gradient. See `Dropout`.
    case dropout(Dropout)
    /// x + other [rows, columns].
    case add(Matrix)
    /// x · s, s [columns].
    case scaleColumns(Place)
    /// x where positive, else eˣ − 1.
    case elu
    /// x · (output + 1) where `output` [rows, columns] ≤ 0, else x. `output` is elu's, before any dropout.
    case eluGradient(Matrix)
    /// (x − μ) / √(σ² + epsilon) over the columns of each row (LayerNorm; Ba et al. 2016), μ and σ² by sixteen
    /// partial sums, column by column modulo 16, added in a fixed tree. Scale and shift are steps of their own.
    case normalise(epsilon: Float)
    /// The gradient of `normalise` of `input` [rows, columns]: (x − mean(x) − x̂ · mean(x · x̂)) / √(σ² + epsilon).
    case normaliseGradient(NormaliseGradient)
    /// x + g[row, head] · v[column], g [rows, heads], v [columns]: what `HeadDots` with a vector sends back to x.
    case addHeads(HeadOuter)
}

/// See `Step.normaliseGradient`.
package struct NormaliseGradient: Hashable, Sendable {
    /// [rows, columns]: what was normalised.
    package var input: Matrix
    package var epsilon: Float

    package init(input: Matrix, epsilon: Float) {
        self.input = input
        self.epsilon = epsilon
    }
}

/// See `Step.addHeads`.
package struct HeadOuter: Hashable, Sendable {
    /// [rows, heads]
    package var factors: Matrix
    /// A divisor of the columns; head h has columns h · columns / heads and following.
    package var heads: Int
    /// `Float32[columns]`
    package var vector: Place

    package init(factors: Matrix, heads: Int, vector: Place) {
        self.factors = factors
        self.heads = heads
        self.vector = vector
    }
}

/// Which elements live, decided by Philox4x32-10 (Salmon et al. 2011): key = seed (low word, high word), counter =
/// (column / 8, row, epoch, stream), half word number column mod 8, the lower half of each word first; an element is
/// dropped when that half is less than `threshold`. Row and column are those of the whole matrix, not of the chunk.
package struct Dropout: Hashable, Sendable {
    /// 0 ≤ probability < 1.
    package var probability: Float
    /// One number for each dropout of the model.
    package var stream: UInt32
    /// Column of the whole matrix that this command's column 0 is.
    package var firstColumn: Int

    package init(probability: Float, stream: UInt32, firstColumn: Int = 0) {
        self.probability = probability
        self.stream = stream
        self.firstColumn = firstColumn
    }

    /// The probability in parts of 2¹⁶, to the nearest below all of them.
    package var threshold: UInt32 { UInt32(min((Double(probability) * 0x1p16).rounded(), 0x1p16 - 1)) }
}

/// target = steps(source), both [rows, columns]; source and target may be the same matrix.
package struct RowMap: Hashable, Sendable {
    package var source: Matrix
    package var target: Matrix
    package var rows: Int
    package var columns: Int
    /// Row of the graph that row 0 is (for dropout).
    package var firstRow: Int
    package var steps: [Step]

    package init(source: Matrix, target: Matrix, rows: Int, columns: Int, firstRow: Int = 0, steps: [Step]) {
        self.source = source
        self.target = target
        self.rows = rows
        self.columns = columns
        self.firstRow = firstRow
        self.steps = steps
    }
}

/// The neighbours of a run of rows, as the image holds them.
package struct Neighbours: Hashable, Sendable {
    /// `UInt64[rows + 1]`: positions in the whole graph's columns.
    package var rowPointers: Place
    /// `UInt32[edges]`: columns of the whole graph from position `edgeBase` on, ascending within each row.
    package var columns: Place
    package var edgeBase: Int
    package var edges: Int
    /// Row of the graph that row 0 is.
    package var firstRow: Int
    package var rows: Int
    /// Nodes of the graph; every neighbour is less.
    package var nodes: Int

    package init(
        rowPointers: Place, columns: Place, edgeBase: Int, edges: Int, firstRow: Int, rows: Int, nodes: Int
    ) {
        self.rowPointers = rowPointers
        self.columns = columns
        self.edgeBase = edgeBase
        self.edges = edges
        self.firstRow = firstRow
        self.rows = rows
        self.nodes = nodes
    }
}

/// target row r (+)= Σ source row j over the neighbours j of r with `sourceFirstRow` ≤ j < + `sourceRows`; then `steps`.
///
/// Per element one chain of additions in ascending j, from +0 or (`accumulates`) from what target holds. So a row
/// whose sources come in several chunks, ascending, gets the same bits as in one go.
package struct Aggregate: Hashable, Sendable {
    package var neighbours: Neighbours
    /// [sourceRows, width]; its row 0 is row `sourceFirstRow` of the graph.
    package var source: Matrix
    package var sourceFirstRow: Int
    package var sourceRows: Int
    /// [rows, width]
    package var target: Matrix
    package var width: Int
    package var accumulates: Bool
    package var steps: [Step]

    package init(
        neighbours: Neighbours, source: Matrix, sourceFirstRow: Int, sourceRows: Int, target: Matrix, width: Int,
        accumulates: Bool, steps: [Step] = []
    ) {
        self.neighbours = neighbours
        self.source = source
        self.sourceFirstRow = sourceFirstRow
        self.sourceRows = sourceRows
        self.target = target
        self.width = width
        self.accumulates = accumulates
        self.steps = steps
    }
}

/// c (+)= a · b, or a · bᵀ; then `steps`. Per element one chain of fused multiply-adds in ascending k, from +0 or
/// (`accumulates`) from what c holds.
package struct Product: Hashable, Sendable {
    /// [rows, inner]
    package var a: Matrix
    /// [inner, columns]; with `transposesB` [columns, inner].
    package var b: Matrix
    /// [rows, columns], sharing no byte with a or b.
    package var c: Matrix
    package var rows: Int
    package var columns: Int
    package var inner: Int
    package var transposesB: Bool
    package var accumulates: Bool
    /// Row of the graph that row 0 is (for dropout).
    package var firstRow: Int
    package var steps: [Step]

    package init(
        a: Matrix, b: Matrix, c: Matrix, rows: Int, columns: Int, inner: Int, transposesB: Bool = false,
        accumulates: Bool = false, firstRow: Int = 0, steps: [Step] = []
    ) {
        self.a = a
        self.b = b
        self.c = c
        self.rows = rows
        self.columns = columns
        self.inner = inner
        self.transposesB = transposesB
        self.accumulates = accumulates
        self.firstRow = firstRow
        self.steps = steps
    }
}

/// Adds the tiles of aᵀ · b to the stack of partial sums of a weight's gradient.
///
/// Within a tile each element is one chain of fused multiply-adds in ascending row, from +0. Tiles are combined as a
/// binary counter combines bits: the sum of tile t joins level 0; two partial sums of one level make one of the next,
/// older + newer. Row chunks must come in ascending order, from row 0; each is of whole tiles (the last one ends at
/// `totalRows`) or lies in one tile, whose chains it goes on with. `TileFinish` adds what is left.
package struct TileProduct: Hashable, Sendable {
    /// [rows, m]
    package var a: Matrix
    /// [rows, n]
    package var b: Matrix
    package var m: Int
    package var n: Int
    package var firstRow: Int
    package var rows: Int
    package var totalRows: Int
    /// `Program.tileStackBytes(totalRows:rows: m, columns: n)` bytes. Needs no clearing.
    package var stack: Place

    package init(a: Matrix, b: Matrix, m: Int, n: Int, firstRow: Int, rows: Int, totalRows: Int, stack: Place) {
        self.a = a
        self.b = b
        self.m = m
        self.n = n
        self.firstRow = firstRow
        self.rows = rows
        self.totalRows = totalRows
        self.stack = stack
    }
}

/// Adds the tiles' column sums of a [rows, columns] to a stack of partial sums, as `TileProduct` does with products.
///
/// With `factors` the sums are of a · factor, one chain of fused multiply-adds a tile.
package struct TileColumnSum: Hashable, Sendable {
    package enum Factors: Hashable, Sendable {
        /// [rows, columns]: one for each element (LayerNorm's scale: the normalised input).
        case elements(Matrix)
        /// [rows, heads]: one for each head of a row, `heads` a divisor of the columns (attention's vectors).
        case heads(Matrix, heads: Int)
    }
    package var a: Matrix
    package var factors: Factors?
    package var columns: Int
    package var firstRow: Int
    package var rows: Int
    package var totalRows: Int
    /// `Program.tileStackBytes(totalRows:rows: 1, columns: columns)` bytes. Needs no clearing.
    package var stack: Place

    package init(
        a: Matrix, factors: Factors? = nil, columns: Int, firstRow: Int, rows: Int, totalRows: Int, stack: Place
    ) {
        self.a = a
        self.factors = factors
        self.columns = columns
        self.firstRow = firstRow
        self.rows = rows
        self.totalRows = totalRows
        self.stack = stack
    }
}

/// target = the stack's levels that hold a sum, added from the lowest up: ((l₀ then l₁ + that) then l₂ + that) …
package struct TileFinish: Hashable, Sendable {
    package var stack: Place
    package var totalRows: Int
    /// Elements of one level: m · n, or columns.
    package var count: Int
    package var target: Place

    package init(stack: Place, totalRows: Int, count: Int, target: Place) {
        self.stack = stack
        self.totalRows = totalRows
        self.count = count
        self.target = target
    }
}

/// What a loss compares the outputs of its rows with; rows whose `Split` is none have no loss.
package enum Targets: Hashable, Sendable {
    /// `Int32[rows]`: one class each, or less than 0 for none. Softmax cross-entropy.
    case classes(Place)
    /// `UInt8[rows, (classes + 7) / 8]`: bit c mod 8 of byte c / 8 says whether the row has class c; bits beyond the
    /// classes are 0. Binary cross-entropy of each output's sigmoid.
    case bits(Place)
    /// [rows, classes]: finite numbers. Squared error.
    case values(Matrix)
}

/// total (`Float64`) (+)= Σ weight over the chunk's labelled training rows: what the loss is divided by. A row weighs
/// as much as its class, or (bits, values) as much as all its outputs together, so that the mean is over elements.
package struct LabelWeight: Hashable, Sendable {
    package var targets: Targets
    /// `UInt8[rows]`, see `Split`.
    package var split: Place
    package var rows: Int
    package var classes: Int
    /// `Float32[classes]`; every class weighs 1 without.
    package var classWeights: Place?
    package var total: Place
    package var accumulates: Bool

    package init(
        targets: Targets, split: Place, rows: Int, classes: Int, classWeights: Place? = nil, total: Place,
        accumulates: Bool
    ) {
        self.targets = targets
        self.split = split
        self.rows = rows
        self.classes = classes
        self.classWeights = classWeights
        self.total = total
        self.accumulates = accumulates
    }
}

/// A loss over the chunk's labelled rows, its gradient, and figures for each split.
///
/// For labelled training rows, with w the weight of the class or of the output's column; 0 for all others:
/// - classes: w[label] · (softmax − one-hot) / total; the predicted class is the lowest-numbered maximum.
/// - bits: w · (sigmoid − bit) / total; a class is predicted where its output is positive.
/// - values: 2 w · (output − value) / total.
/// Chunks are bound as those of `TileProduct`.
package struct Loss: Hashable, Sendable {
    /// [rows, classes]
    package var outputs: Matrix
    package var targets: Targets
    package var split: Place
    package var firstRow: Int
    package var rows: Int
    package var totalRows: Int
    package var classes: Int
    package var classWeights: Place?
    /// `Float64`, from `LabelWeight`. Read only when there is a gradient.
    package var total: Place
    /// [rows, classes]; may be `outputs` itself.
    package var gradient: Matrix?
    /// `Scores.byteCount` bytes; cleared by the chunk with row 0.
    package var scores: Place

    package init(
        outputs: Matrix, targets: Targets, split: Place, firstRow: Int, rows: Int, totalRows: Int, classes: Int,
        classWeights: Place? = nil, total: Place, gradient: Matrix?, scores: Place
    ) {
        self.outputs = outputs
        self.targets = targets
        self.split = split
        self.firstRow = firstRow
        self.rows = rows
        self.totalRows = totalRows
        self.classes = classes
        self.classWeights = classWeights
        self.total = total
        self.gradient = gradient
        self.scores = scores
    }
}

/// One step of Adam (Kingma & Ba 2015) as PyTorch's `Adam` does it, its L2 `weightDecay` included.
/// The learning rate and the step's number come with the doorbell.
package struct Adam: Hashable, Sendable {
    package var parameter: Place
    package var gradient: Place
    package var firstMoment: Place
    package var secondMoment: Place
    package var count: Int
    package var beta1: Float
    package var beta2: Float
    package var epsilon: Float
    package var weightDecay: Float

    package init(
        parameter: Place, gradient: Place, firstMoment: Place, secondMoment: Place, count: Int, beta1: Float = 0.9,
        beta2: Float = 0.999, epsilon: Float = 1e-8, weightDecay: Float
    ) {
        self.parameter = parameter
        self.gradient = gradient
        self.firstMoment = firstMoment
        self.secondMoment = secondMoment
        self.count = count
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.weightDecay = weightDecay
    }
}

/// Glorot & Bengio 2010, uniform in ±√(6 / (rows + columns)): Philox4x32-10 as for `Dropout`, with counter
/// (column / 4, row, 2³² − 1, stream) and word number column mod 4; the word's upper 24 bits u give (u · 2⁻²³ − 1) · bound.
package struct Initialise: Hashable, Sendable {
    package var target: Matrix
    package var rows: Int
    package var columns: Int
    package var stream: UInt32

    /// The counter's epoch word; no training epoch has this number.
    package static let epoch = UInt32.max

    package init(target: Matrix, rows: Int, columns: Int, stream: UInt32) {
        self.target = target
        self.rows = rows
        self.columns = columns
        self.stream = stream
    }
}

/// Copies the parameters when the validation figure is better than every one before.
package struct KeepBest: Hashable, Sendable {
    package enum Rule: UInt8, CaseIterable, Sendable {
        /// Strictly more validation nodes right.
        case accuracy = 1
        /// Strictly lower validation loss.
        case loss = 2
        /// Strictly higher micro-averaged F₁ of the validation nodes (`Targets.bits`).
        case microF1 = 3
    }
    package var scores: Place
    package var rule: Rule
    package var parameters: Place
    package var best: Place
    package var count: Int
    /// `KeepBest.stateBytes`, cleared (`Fill` with 0) before the first epoch.
    package var state: Place

    /// `Float64` best loss (or F₁), `UInt64` best correct, `UInt64` best epoch, `UInt64` 1 once there is a best.
    package static let stateBytes = 32

    package init(scores: Place, rule: Rule, parameters: Place, best: Place, count: Int, state: Place) {
        self.scores = scores
        self.rule = rule
        self.parameters = parameters
        self.best = best
        self.count = count
        self.state = state
    }
}

/// Puts a loss's figures into the completion under a number of the program's choosing.
package struct Report: Hashable, Sendable {
    package var scores: Place
    package var totalRows: Int
    package var slot: UInt8

    package init(scores: Place, totalRows: Int, slot: UInt8) {
        self.scores = scores
        self.totalRows = totalRows
        self.slot = slot
    }
}

/// Where `Loss` keeps its figures: for train, validation and test one after the other
/// `Float64[32]` levels of the loss's fixed tree; `Float64` weight, targets' sum and targets' squares; `UInt64` correct,
/// labelled, predicted and actual (see `Completion.Figures`). Behind them the figures of a tile that later rows go on with.
package enum Scores {
    package static let levels = 32
    package static let splits: [Split] = [.train, .validation, .test]
    package static let splitBytes = (levels + 7) * 8
    /// Loss, weight, correct, labelled, predicted, actual, targets' sum and squares, each by split.
    package static let openTileBytes = 8 * splits.count * 8
    package static let byteCount = splits.count * splitBytes + openTileBytes
}

/// Times the device's kernels on `byteCount` bytes of memory, which lose what they hold; `Completion.rates` says how
/// fast they were. Some hundredths of a second.
package struct Measure: Hashable, Sendable {
    package var place: Place
    package var byteCount: Int

    /// Less than this would measure the caches.
    package static let byteCountMin = 1 << 22

    package init(place: Place, byteCount: Int) {
        self.place = place
        self.byteCount = byteCount
    }
}

/// Marks the rows from which a frontier starts: bit 0 where a row is trained on, bit 4 where it is in any split; the other
/// bits are cleared.
package struct Mark: Hashable, Sendable {
    /// `UInt8[rows]`: see `Split`.
    package var split: Place
    package var rows: Int
    /// `UInt8[rows]`
    package var marks: Place

    package init(split: Place, rows: Int, marks: Place) {
        self.split = split
        self.rows = rows
        self.marks = marks
    }
}

/// One step further: a row gets bit `hop` (and `hop` + 4) where it or one of its neighbours has bit `hop` − 1 (and
/// `hop` + 3). With several topologies one after the other, before the next hop.
package struct Reach: Hashable, Sendable {
    package var neighbours: Neighbours
    /// 1 ... `hopsMax`
    package var hop: UInt8
    /// `UInt8[nodes]`
    package var marks: Place

    package static let hopsMax: UInt8 = 3

    package init(neighbours: Neighbours, hop: UInt8, marks: Place) {
        self.neighbours = neighbours
        self.hop = hop
        self.marks = marks
    }
}
