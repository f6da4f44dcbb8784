import Vocabulary

/// Why a program, its arguments or its completion were refused. Holds positions and sizes, never data.
package struct ProgramError: Error, Hashable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// The bytes are not in the format.
        case malformed
        /// More of something than `Limits` allows.
        case tooLarge
        /// A command reaches outside a buffer, a window or device memory.
        case outOfBounds
        /// A number or a combination that an operation does not allow.
        case invalid
        /// Two commands that could run at once share bytes, or a command depends on a later one.
        case unordered
    }
    package let code: Code
    /// Offset in the bytes, for errors found while parsing.
    package let offset: Int?
    /// Number of the command at fault, where there is one.
    package let command: Int?
    package let reason: String

    package init(_ code: Code, _ reason: String, offset: Int? = nil, command: Int? = nil) {
        self.code = code
        self.reason = reason
        self.offset = offset
        self.command = command
    }

    package var publicDescription: String {
        var text = "program refused"
        if let offset { text += " at byte \(offset)" }
        if let command { text += ", command \(command)" }
        return text + ": " + reason
    }
    package var description: String { publicDescription }
}

extension Program {
    /// "SKPG" and the format's version.
    private static let magic: UInt32 = 0x4750_4B53
    private static let version: UInt16 = 4

    package func bytes() throws(ProgramError) -> [UInt8] {
        var writer = FieldWriter()
        var copy = self
        try copy.code(&writer)
        guard writer.bytes.count <= Limits.programBytesMax else {
            throw ProgramError(.tooLarge, "\(writer.bytes.count) bytes; at most \(Limits.programBytesMax)")
        }
        return writer.bytes
    }

    package init(parsing bytes: [UInt8]) throws(ProgramError) {
        guard bytes.count <= Limits.programBytesMax else {
            throw ProgramError(.tooLarge, "\(bytes.count) bytes; at most \(Limits.programBytesMax)")
        }
        self.init()
        var reader = FieldReader(bytes)
        try code(&reader)
        try reader.finish()
    }

    private mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.constant(Self.magic, "this is not a program")
        try coder.constant(Self.version, "another version of the format")
        try coder.list(&buffers, max: Limits.programBuffersMax, empty: Buffer(offset: 0, byteCount: 0)) {
            (buffer, coder) throws(ProgramError) in
            try coder.size(&buffer.offset)
            try coder.size(&buffer.byteCount)
        }
        try coder.list(
            &windows, max: Limits.windowsMax, empty: Window(id: 0, direction: .read, purpose: .spill, byteCount: 0)
        ) { (window, coder) throws(ProgramError) in
            try coder.integer(&window.id)
            try coder.choice(&window.direction, "an unknown direction")
            try window.purpose.code(&coder)
            try coder.size(&window.byteCount)
        }
        try coder.list(&commands, max: Limits.programCommandsMax, empty: Command(.report(Report.empty))) {
            (command, coder) throws(ProgramError) in
            try coder.shortList(&command.dependsOn, max: Program.dependenciesMax, empty: 0) {
                (index, coder) throws(ProgramError) in try coder.integer(&index)
            }
            try coder.flags(&command.onlyWith)
            try coder.active(&command.active)
            try command.operation.code(&coder)
        }
    }
}

extension DoorbellArguments {
    private static let magic: UInt32 = 0x4244_4B53

    package var bytes: [UInt8] {
        get throws(ProgramError) {
            var writer = FieldWriter()
            var copy = self
            try copy.code(&writer)
            return writer.bytes
        }
    }

    package init(parsing bytes: [UInt8]) throws(ProgramError) {
        self.init(seed: 0, epoch: 0, step: 0, learningRate: 0, flags: [])
        var reader = FieldReader(bytes)
        try code(&reader)
        try reader.finish()
        guard epoch != Initialise.epoch else { throw ProgramError(.invalid, "the epoch is reserved") }
        guard learningRate.isFinite, learningRate >= 0 else {
            throw ProgramError(.invalid, "the learning rate is not a finite number from 0 on")
        }
    }

    private mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.constant(Self.magic, "these are not doorbell arguments")
        try coder.integer(&seed)
        try coder.integer(&epoch)
        try coder.integer(&step)
        try coder.float(&learningRate)
        try coder.flags(&flags)
    }
}

extension Completion {
    private static let magic: UInt32 = 0x4D43_4B53
    private static let kindsMax = 64

    package var bytes: [UInt8] {
        get throws(ProgramError) {
            var writer = FieldWriter()
            var copy = self
            try copy.code(&writer)
            return writer.bytes
        }
    }

    package init(parsing bytes: [UInt8]) throws(ProgramError) {
        self.init()
        var reader = FieldReader(bytes)
        try code(&reader)
        try reader.finish()
    }

    private mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.constant(Self.magic, "this is not a completion")
        try coder.integer(&epoch)
        try coder.shortList(&scores, max: Self.scoresMax, empty: Score()) { (score, coder) throws(ProgramError) in
            try coder.integer(&score.slot)
            try score.train.code(&coder)
            try score.validation.code(&coder)
            try score.test.code(&coder)
        }
        try coder.optional(&best, empty: Best()) { (best, coder) throws(ProgramError) in
            try coder.bool(&best.improved)
            try coder.integer(&best.epoch)
        }
        try coder.list(&sealed, max: Self.sealedRunsMax, empty: SealedRun()) { (run, coder) throws(ProgramError) in
            try coder.integer(&run.window)
            try coder.integer(&run.firstBlock)
            try coder.integer(&run.blocks)
            try coder.integer(&run.firstCounter)
        }
        try coder.integer(&work.wallNanoseconds)
        try coder.integer(&work.computeNanoseconds)
        try coder.integer(&work.fetchNanoseconds)
        try coder.integer(&work.storeNanoseconds)
        try coder.integer(&work.fetchedBytes)
        try coder.integer(&work.storedBytes)
        try coder.integer(&work.peakBytes)
        try coder.shortList(&work.byOperation, max: Self.kindsMax, empty: 0) {
            (nanoseconds, coder) throws(ProgramError) in try coder.integer(&nanoseconds)
        }
        try coder.optional(&rates, empty: Rates()) { (rates, coder) throws(ProgramError) in
            for rate in Rates.perSecond { try coder.double(&rates[keyPath: rate]) }
            try coder.integer(&rates.threads)
            try coder.integer(&rates.cores)
        }
    }
}

extension Completion.Figures {
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.double(&lossSum)
        try coder.double(&weight)
        try coder.integer(&correct)
        try coder.integer(&labelled)
        try coder.integer(&predicted)
        try coder.integer(&actual)
        try coder.double(&targetSum)
        try coder.double(&targetSquares)
    }
}

// MARK: - Operations

extension Operation {
    /// The number that names the kind of operation in a program's bytes. Never changes meaning.
    package var code: UInt8 {
        switch self {
        case .fetch: 1
        case .store: 2
        case .fill: 3
        case .copy: 4
        case .map: 5
        case .aggregate: 6
        case .product: 7
        case .tileProduct: 8
        case .tileColumnSum: 9
        case .tileFinish: 10
        case .labelWeight: 11
        case .loss: 12
        case .adam: 13
        case .initialise: 14
        case .keepBest: 15
        case .report: 16
        case .attentionScale: 17
        case .attend: 18
        case .attentionGradient: 19
        case .headDots: 20
        case .measure: 21
        case .mark: 22
        case .reach: 23
        }
    }
    package static let codeMax: UInt8 = 23

    private var payload: any ProgramField {
        switch self {
        case .fetch(let field), .store(let field): field
        case .fill(let field): field
        case .copy(let field): field
        case .map(let field): field
        case .aggregate(let field): field
        case .product(let field): field
        case .tileProduct(let field): field
        case .tileColumnSum(let field): field
        case .tileFinish(let field): field
        case .labelWeight(let field): field
        case .loss(let field): field
        case .adam(let field): field
        case .initialise(let field): field
        case .keepBest(let field): field
        case .report(let field): field
        case .attentionScale(let field): field
        case .attend(let field): field
        case .attentionGradient(let field): field
        case .headDots(let field): field
        case .measure(let field): field
        case .mark(let field): field
        case .reach(let field): field
        }
    }

    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        var kind = code
        try coder.integer(&kind)
        switch kind {
        case 1: self = .fetch(try coder.field(payload))
        case 2: self = .store(try coder.field(payload))
        case 3: self = .fill(try coder.field(payload))
        case 4: self = .copy(try coder.field(payload))
        case 5: self = .map(try coder.field(payload))
        case 6: self = .aggregate(try coder.field(payload))
        case 7: self = .product(try coder.field(payload))
        case 8: self = .tileProduct(try coder.field(payload))
        case 9: self = .tileColumnSum(try coder.field(payload))
        case 10: self = .tileFinish(try coder.field(payload))
        case 11: self = .labelWeight(try coder.field(payload))
        case 12: self = .loss(try coder.field(payload))
        case 13: self = .adam(try coder.field(payload))
        case 14: self = .initialise(try coder.field(payload))
        case 15: self = .keepBest(try coder.field(payload))
        case 16: self = .report(try coder.field(payload))
        case 17: self = .attentionScale(try coder.field(payload))
        case 18: self = .attend(try coder.field(payload))
        case 19: self = .attentionGradient(try coder.field(payload))
        case 20: self = .headDots(try coder.field(payload))
        case 21: self = .measure(try coder.field(payload))
        case 22: self = .mark(try coder.field(payload))
        case 23: self = .reach(try coder.field(payload))
        default: throw coder.malformed("an unknown operation")
        }
    }
}

extension Step {
    private var code: UInt8 {
        switch self {
        case .bias: 1
        case .scaleRows: 2
        case .scale: 3
        case .relu: 4
        case .reluGradient: 5
        case .dropout: 6
        case .add: 7
        case .scaleColumns: 8
        case .elu: 9
        case .eluGradient: 10
        case .normalise: 11
        case .normaliseGradient: 12
        case .addHeads: 13
        }
    }

    private var payload: (any ProgramField)? {
        switch self {
        case .bias(let field), .scaleRows(let field), .scaleColumns(let field): field
        case .reluGradient(let field), .add(let field), .eluGradient(let field): field
        case .scale(let field), .normalise(let field): field
        case .dropout(let field): field
        case .normaliseGradient(let field): field
        case .addHeads(let field): field
        case .relu, .elu: nil
        }
    }

    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        var kind = code
        try coder.integer(&kind)
        switch kind {
        case 1: self = .bias(try coder.field(payload))
        case 2: self = .scaleRows(try coder.field(payload))
        case 3: self = .scale(try coder.field(payload))
        case 4: self = .relu
        case 5: self = .reluGradient(try coder.field(payload))
        case 6: self = .dropout(try coder.field(payload))
        case 7: self = .add(try coder.field(payload))
        case 8: self = .scaleColumns(try coder.field(payload))
        case 9: self = .elu
        case 10: self = .eluGradient(try coder.field(payload))
        case 11: self = .normalise(epsilon: try coder.field(payload))
        case 12: self = .normaliseGradient(try coder.field(payload))
        case 13: self = .addHeads(try coder.field(payload))
        default: throw coder.malformed("an unknown step")
        }
    }
}

extension Targets {
    fileprivate static let empty = Targets.classes(.empty)

    private var code: UInt8 {
        switch self {
        case .classes: 1
        case .bits: 2
        case .values: 3
        }
    }

    private var payload: any ProgramField {
        switch self {
        case .classes(let field), .bits(let field): field
        case .values(let field): field
        }
    }

    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        var kind = code
        try coder.integer(&kind)
        switch kind {
        case 1: self = .classes(try coder.field(payload))
        case 2: self = .bits(try coder.field(payload))
        case 3: self = .values(try coder.field(payload))
        default: throw coder.malformed("unknown targets of a loss")
        }
    }
}

extension HeadDots.Other {
    fileprivate static let empty = HeadDots.Other.vector(.empty)

    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        var (isMatrix, field) =
            switch self {
            case .vector(let place): (false, place as any ProgramField)
            case .rows(let matrix): (true, matrix as any ProgramField)
            }
        try coder.bool(&isMatrix)
        self = isMatrix ? .rows(try coder.field(field)) : .vector(try coder.field(field))
    }
}

extension TileColumnSum.Factors {
    fileprivate static let empty = TileColumnSum.Factors.elements(.empty)

    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        var (matrix, heads) =
            switch self {
            case .elements(let matrix): (matrix, 0)
            case .heads(let matrix, let heads): (matrix, heads)
            }
        try matrix.code(&coder)
        // No heads: one factor for each element.
        try coder.dimension(&heads)
        self = heads == 0 ? .elements(matrix) : .heads(matrix, heads: heads)
    }
}

extension Program.Window.Purpose {
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        var raw: UInt8 =
            switch self {
            case .image(let section): UInt8(section.rawValue)
            case .spill: 64
            case .result: 65
            case .state: 66
            }
        try coder.integer(&raw)
        switch raw {
        case 64: self = .spill
        case 65: self = .result
        case 66: self = .state
        default:
            guard let section = ImageSection(rawValue: UInt32(raw)) else {
                throw coder.malformed("an unknown purpose of a window")
            }
            self = .image(section)
        }
    }
}

// MARK: - Fields

/// A part of a program; reading starts from the empty one.
private protocol ProgramField {
    static var empty: Self { get }
    mutating func code(_ coder: inout some FieldCoder) throws(ProgramError)
}

extension FieldCoder {
    /// Writes the field that `value` is, or reads one of the kind that the bytes have named.
    fileprivate mutating func field<Field: ProgramField>(_ value: (any ProgramField)?) throws(ProgramError) -> Field {
        var field = value as? Field ?? .empty
        try field.code(&self)
        return field
    }
    fileprivate mutating func steps(_ steps: inout [Step]) throws(ProgramError) {
        try shortList(&steps, max: Program.stepsMax, empty: .relu) { (step, coder) throws(ProgramError) in
            try step.code(&coder)
        }
    }
    fileprivate mutating func place(_ place: inout Place?) throws(ProgramError) {
        try optional(&place, empty: .empty) { (place, coder) throws(ProgramError) in try place.code(&coder) }
    }
    fileprivate mutating func active(_ rows: inout Program.ActiveRows?) throws(ProgramError) {
        try optional(&rows, empty: Program.ActiveRows(.empty, bit: 0)) { (rows, coder) throws(ProgramError) in
            try rows.place.code(&coder)
            try coder.integer(&rows.bit)
        }
    }
    fileprivate mutating func matrix(_ matrix: inout Matrix?) throws(ProgramError) {
        try optional(&matrix, empty: .empty) { (matrix, coder) throws(ProgramError) in try matrix.code(&coder) }
    }
}

extension Float: ProgramField {
    fileprivate static let empty: Float = 0
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) { try coder.float(&self) }
}

extension Place: ProgramField {
    fileprivate static let empty = Place(buffer: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.integer(&buffer)
        try coder.size(&offset)
    }
}

extension Matrix: ProgramField {
    fileprivate static let empty = Matrix(.empty, stride: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try place.code(&coder)
        try coder.dimension(&stride)
    }
}

extension Dropout: ProgramField {
    fileprivate static let empty = Dropout(probability: 0, stream: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.float(&probability)
        try coder.integer(&stream)
        try coder.dimension(&firstColumn)
    }
}

extension NormaliseGradient: ProgramField {
    fileprivate static let empty = NormaliseGradient(input: .empty, epsilon: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try input.code(&coder)
        try coder.float(&epsilon)
    }
}

extension HeadOuter: ProgramField {
    fileprivate static let empty = HeadOuter(factors: .empty, heads: 0, vector: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try factors.code(&coder)
        try coder.dimension(&heads)
        try vector.code(&coder)
    }
}

extension Neighbours: ProgramField {
    fileprivate static let empty = Neighbours(
        rowPointers: .empty, columns: .empty, edgeBase: 0, edges: 0, firstRow: 0, rows: 0, nodes: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try rowPointers.code(&coder)
        try columns.code(&coder)
        try coder.size(&edgeBase)
        try coder.size(&edges)
        try coder.dimension(&firstRow)
        try coder.dimension(&rows)
        try coder.dimension(&nodes)
    }
}

extension Attention: ProgramField {
    fileprivate static let empty = Attention(heads: 0, headWidth: 0, slope: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.dimension(&heads)
        try coder.dimension(&headWidth)
        try coder.float(&slope)
        try coder.optional(&dropout, empty: .empty) { (dropout, coder) throws(ProgramError) in try dropout.code(&coder)
        }
    }
}

extension AttentionTargets: ProgramField {
    fileprivate static let empty = AttentionTargets(scores: .empty, highest: .empty, inverse: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try scores.code(&coder)
        try highest.code(&coder)
        try inverse.code(&coder)
    }
}

extension Transfer: ProgramField {
    fileprivate static let empty = Transfer(window: 0, windowOffset: 0, byteCount: 0, place: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.integer(&window)
        try coder.size(&windowOffset)
        try coder.size(&byteCount)
        try place.code(&coder)
        try coder.dimension(&pieces)
        try coder.size(&windowStride)
    }
}

extension Fill: ProgramField {
    fileprivate static let empty = Fill(.empty, count: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try place.code(&coder)
        try coder.size(&count)
        try coder.float(&value)
    }
}

extension Copy: ProgramField {
    fileprivate static let empty = Copy(source: .empty, target: .empty, rows: 0, columns: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try source.code(&coder)
        try target.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&columns)
        try coder.dimension(&pieces)
        try coder.size(&sourceStep)
        try coder.size(&targetStep)
    }
}

extension RowMap: ProgramField {
    fileprivate static let empty = RowMap(source: .empty, target: .empty, rows: 0, columns: 0, steps: [])
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try source.code(&coder)
        try target.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&columns)
        try coder.dimension(&firstRow)
        try coder.steps(&steps)
    }
}

extension Aggregate: ProgramField {
    fileprivate static let empty = Aggregate(
        neighbours: .empty, source: .empty, sourceFirstRow: 0, sourceRows: 0, target: .empty, width: 0,
        accumulates: false)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try neighbours.code(&coder)
        try source.code(&coder)
        try coder.dimension(&sourceFirstRow)
        try coder.dimension(&sourceRows)
        try target.code(&coder)
        try coder.dimension(&width)
        try coder.bool(&accumulates)
        try coder.steps(&steps)
    }
}

extension AttentionScale: ProgramField {
    fileprivate static let empty = AttentionScale(
        attention: .empty, neighbours: .empty, targets: .empty, sourceScores: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try attention.code(&coder)
        try neighbours.code(&coder)
        try targets.code(&coder)
        try sourceScores.code(&coder)
    }
}

extension Attend: ProgramField {
    fileprivate static let empty = Attend(
        attention: .empty, neighbours: .empty, targets: .empty, sourceScores: .empty, source: .empty, sourceFirstRow: 0,
        sourceRows: 0, target: .empty, accumulates: false)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try attention.code(&coder)
        try neighbours.code(&coder)
        try targets.code(&coder)
        try sourceScores.code(&coder)
        try source.code(&coder)
        try coder.dimension(&sourceFirstRow)
        try coder.dimension(&sourceRows)
        try target.code(&coder)
        try coder.bool(&accumulates)
        try coder.steps(&steps)
    }
}

extension AttentionGradient: ProgramField {
    fileprivate static let empty = AttentionGradient(
        attention: .empty, rowsAre: .targets, neighbours: .empty, otherFirstRow: 0, otherRows: 0, targets: .empty,
        sourceScores: .empty, scores: nil, sums: nil, accumulates: false)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try attention.code(&coder)
        try coder.choice(&rowsAre, "an unknown end")
        try neighbours.code(&coder)
        try coder.dimension(&otherFirstRow)
        try coder.dimension(&otherRows)
        try targets.code(&coder)
        try sourceScores.code(&coder)
        try coder.optional(&scores, empty: Scores(dots: .empty, gradient: .empty)) {
            (scores, coder) throws(ProgramError) in
            try scores.dots.code(&coder)
            try scores.gradient.code(&coder)
        }
        try coder.optional(&sums, empty: Sums(other: .empty, leaked: .empty)) { (sums, coder) throws(ProgramError) in
            try sums.other.code(&coder)
            try sums.leaked.code(&coder)
            try coder.matrix(&sums.weighed)
        }
        try coder.bool(&accumulates)
        try coder.active(&others)
    }
}

extension HeadDots: ProgramField {
    fileprivate static let empty = HeadDots(x: .empty, y: .empty, target: .empty, rows: 0, heads: 0, headWidth: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try x.code(&coder)
        try y.code(&coder)
        try target.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&heads)
        try coder.dimension(&headWidth)
        try coder.bool(&accumulates)
    }
}

extension Product: ProgramField {
    fileprivate static let empty = Product(a: .empty, b: .empty, c: .empty, rows: 0, columns: 0, inner: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try a.code(&coder)
        try b.code(&coder)
        try c.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&columns)
        try coder.dimension(&inner)
        try coder.bool(&transposesB)
        try coder.bool(&accumulates)
        try coder.dimension(&firstRow)
        try coder.steps(&steps)
    }
}

extension TileProduct: ProgramField {
    fileprivate static let empty = TileProduct(
        a: .empty, b: .empty, m: 0, n: 0, firstRow: 0, rows: 0, totalRows: 0, stack: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try a.code(&coder)
        try b.code(&coder)
        try coder.dimension(&m)
        try coder.dimension(&n)
        try coder.dimension(&firstRow)
        try coder.dimension(&rows)
        try coder.dimension(&totalRows)
        try stack.code(&coder)
    }
}

extension TileColumnSum: ProgramField {
    fileprivate static let empty = TileColumnSum(
        a: .empty, columns: 0, firstRow: 0, rows: 0, totalRows: 0, stack: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try a.code(&coder)
        try coder.optional(&factors, empty: .empty) { (factors, coder) throws(ProgramError) in try factors.code(&coder)
        }
        try coder.dimension(&columns)
        try coder.dimension(&firstRow)
        try coder.dimension(&rows)
        try coder.dimension(&totalRows)
        try stack.code(&coder)
    }
}

extension TileFinish: ProgramField {
    fileprivate static let empty = TileFinish(stack: .empty, totalRows: 0, count: 0, target: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try stack.code(&coder)
        try coder.dimension(&totalRows)
        try coder.size(&count)
        try target.code(&coder)
    }
}

extension LabelWeight: ProgramField {
    fileprivate static let empty = LabelWeight(
        targets: .empty, split: .empty, rows: 0, classes: 0, total: .empty, accumulates: false)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try targets.code(&coder)
        try split.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&classes)
        try coder.place(&classWeights)
        try total.code(&coder)
        try coder.bool(&accumulates)
    }
}

extension Loss: ProgramField {
    fileprivate static let empty = Loss(
        outputs: .empty, targets: .empty, split: .empty, firstRow: 0, rows: 0, totalRows: 0, classes: 0, total: .empty,
        gradient: nil, scores: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try outputs.code(&coder)
        try targets.code(&coder)
        try split.code(&coder)
        try coder.dimension(&firstRow)
        try coder.dimension(&rows)
        try coder.dimension(&totalRows)
        try coder.dimension(&classes)
        try coder.place(&classWeights)
        try total.code(&coder)
        try coder.matrix(&gradient)
        try scores.code(&coder)
    }
}

extension Adam: ProgramField {
    fileprivate static let empty = Adam(
        parameter: .empty, gradient: .empty, firstMoment: .empty, secondMoment: .empty, count: 0, weightDecay: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try parameter.code(&coder)
        try gradient.code(&coder)
        try firstMoment.code(&coder)
        try secondMoment.code(&coder)
        try coder.size(&count)
        try coder.float(&beta1)
        try coder.float(&beta2)
        try coder.float(&epsilon)
        try coder.float(&weightDecay)
    }
}

extension Mark: ProgramField {
    fileprivate static let empty = Mark(split: .empty, rows: 0, marks: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try split.code(&coder)
        try coder.dimension(&rows)
        try marks.code(&coder)
    }
}

extension Reach: ProgramField {
    fileprivate static let empty = Reach(neighbours: .empty, hop: 0, marks: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try neighbours.code(&coder)
        try coder.integer(&hop)
        try marks.code(&coder)
    }
}

extension Initialise: ProgramField {
    fileprivate static let empty = Initialise(target: .empty, rows: 0, columns: 0, stream: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try target.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&columns)
        try coder.integer(&stream)
    }
}

extension KeepBest: ProgramField {
    fileprivate static let empty = KeepBest(
        scores: .empty, rule: .accuracy, parameters: .empty, best: .empty, count: 0, state: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try scores.code(&coder)
        try coder.choice(&rule, "an unknown rule")
        try parameters.code(&coder)
        try best.code(&coder)
        try coder.size(&count)
        try state.code(&coder)
    }
}

extension Report: ProgramField {
    fileprivate static let empty = Report(scores: .empty, totalRows: 0, slot: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try scores.code(&coder)
        try coder.dimension(&totalRows)
        try coder.integer(&slot)
    }
}

extension Measure: ProgramField {
    fileprivate static let empty = Measure(place: .empty, byteCount: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try place.code(&coder)
        try coder.size(&byteCount)
    }
}
