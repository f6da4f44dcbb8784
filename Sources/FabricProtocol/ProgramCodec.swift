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
    private static let version: UInt16 = 1

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
    }
}

extension Completion.Figures {
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.double(&lossSum)
        try coder.double(&weight)
        try coder.integer(&correct)
        try coder.integer(&labelled)
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
        }
    }
    package static let codeMax: UInt8 = 16

    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        var kind = code
        try coder.integer(&kind)
        switch kind {
        case 1, 2:
            var payload = transfer ?? .empty
            try payload.code(&coder)
            self = kind == 1 ? .fetch(payload) : .store(payload)
        case 3:
            var payload = if case .fill(let value) = self { value } else { Fill.empty }
            try payload.code(&coder)
            self = .fill(payload)
        case 4:
            var payload = if case .copy(let value) = self { value } else { Copy.empty }
            try payload.code(&coder)
            self = .copy(payload)
        case 5:
            var payload = if case .map(let value) = self { value } else { RowMap.empty }
            try payload.code(&coder)
            self = .map(payload)
        case 6:
            var payload = if case .aggregate(let value) = self { value } else { Aggregate.empty }
            try payload.code(&coder)
            self = .aggregate(payload)
        case 7:
            var payload = if case .product(let value) = self { value } else { Product.empty }
            try payload.code(&coder)
            self = .product(payload)
        case 8:
            var payload = if case .tileProduct(let value) = self { value } else { TileProduct.empty }
            try payload.code(&coder)
            self = .tileProduct(payload)
        case 9:
            var payload = if case .tileColumnSum(let value) = self { value } else { TileColumnSum.empty }
            try payload.code(&coder)
            self = .tileColumnSum(payload)
        case 10:
            var payload = if case .tileFinish(let value) = self { value } else { TileFinish.empty }
            try payload.code(&coder)
            self = .tileFinish(payload)
        case 11:
            var payload = if case .labelWeight(let value) = self { value } else { LabelWeight.empty }
            try payload.code(&coder)
            self = .labelWeight(payload)
        case 12:
            var payload = if case .loss(let value) = self { value } else { Loss.empty }
            try payload.code(&coder)
            self = .loss(payload)
        case 13:
            var payload = if case .adam(let value) = self { value } else { Adam.empty }
            try payload.code(&coder)
            self = .adam(payload)
        case 14:
            var payload = if case .initialise(let value) = self { value } else { Initialise.empty }
            try payload.code(&coder)
            self = .initialise(payload)
        case 15:
            var payload = if case .keepBest(let value) = self { value } else { KeepBest.empty }
            try payload.code(&coder)
            self = .keepBest(payload)
        case 16:
            var payload = if case .report(let value) = self { value } else { Report.empty }
            try payload.code(&coder)
            self = .report(payload)
        default: throw coder.malformed("an unknown operation")
        }
    }

    private var transfer: Transfer? {
        switch self {
        case .fetch(let transfer), .store(let transfer): transfer
        default: nil
        }
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

extension Place {
    fileprivate static let empty = Place(buffer: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.integer(&buffer)
        try coder.size(&offset)
    }
}

extension Matrix {
    fileprivate static let empty = Matrix(.empty, stride: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try place.code(&coder)
        try coder.dimension(&stride)
    }
}

extension Step {
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        var kind: UInt8 =
            switch self {
            case .bias: 1
            case .scaleRows: 2
            case .scale: 3
            case .relu: 4
            case .reluGradient: 5
            case .dropout: 6
            case .add: 7
            }
        try coder.integer(&kind)
        switch kind {
        case 1:
            var place = if case .bias(let value) = self { value } else { Place.empty }
            try place.code(&coder)
            self = .bias(place)
        case 2:
            var place = if case .scaleRows(let value) = self { value } else { Place.empty }
            try place.code(&coder)
            self = .scaleRows(place)
        case 3:
            var constant: Float = if case .scale(let value) = self { value } else { 0 }
            try coder.float(&constant)
            self = .scale(constant)
        case 4: self = .relu
        case 5:
            var matrix = if case .reluGradient(let value) = self { value } else { Matrix.empty }
            try matrix.code(&coder)
            self = .reluGradient(matrix)
        case 6:
            var dropout =
                if case .dropout(let value) = self { value } else { Dropout(probability: 0, stream: 0) }
            try coder.float(&dropout.probability)
            try coder.integer(&dropout.stream)
            try coder.dimension(&dropout.firstColumn)
            self = .dropout(dropout)
        case 7:
            var matrix = if case .add(let value) = self { value } else { Matrix.empty }
            try matrix.code(&coder)
            self = .add(matrix)
        default: throw coder.malformed("an unknown step")
        }
    }
}

extension FieldCoder {
    fileprivate mutating func steps(_ steps: inout [Step]) throws(ProgramError) {
        try shortList(&steps, max: Program.stepsMax, empty: .relu) { (step, coder) throws(ProgramError) in
            try step.code(&coder)
        }
    }
    fileprivate mutating func place(_ place: inout Place?) throws(ProgramError) {
        try optional(&place, empty: .empty) { (place, coder) throws(ProgramError) in try place.code(&coder) }
    }
    fileprivate mutating func matrix(_ matrix: inout Matrix?) throws(ProgramError) {
        try optional(&matrix, empty: .empty) { (matrix, coder) throws(ProgramError) in try matrix.code(&coder) }
    }
}

extension Transfer {
    fileprivate static let empty = Transfer(window: 0, windowOffset: 0, byteCount: 0, place: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try coder.integer(&window)
        try coder.size(&windowOffset)
        try coder.size(&byteCount)
        try place.code(&coder)
    }
}

extension Fill {
    fileprivate static let empty = Fill(.empty, count: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try place.code(&coder)
        try coder.size(&count)
        try coder.float(&value)
    }
}

extension Copy {
    fileprivate static let empty = Copy(source: .empty, target: .empty, rows: 0, columns: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try source.code(&coder)
        try target.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&columns)
    }
}

extension RowMap {
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

extension Aggregate {
    fileprivate static let empty = Aggregate(
        rowPointers: .empty, columns: .empty, edgeBase: 0, edges: 0, firstRow: 0, rows: 0, nodes: 0, source: .empty,
        sourceFirstRow: 0, sourceRows: 0, target: .empty, width: 0, accumulates: false)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try rowPointers.code(&coder)
        try columns.code(&coder)
        try coder.size(&edgeBase)
        try coder.size(&edges)
        try coder.dimension(&firstRow)
        try coder.dimension(&rows)
        try coder.dimension(&nodes)
        try source.code(&coder)
        try coder.dimension(&sourceFirstRow)
        try coder.dimension(&sourceRows)
        try target.code(&coder)
        try coder.dimension(&width)
        try coder.bool(&accumulates)
        try coder.steps(&steps)
    }
}

extension Product {
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

extension TileProduct {
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

extension TileColumnSum {
    fileprivate static let empty = TileColumnSum(
        a: .empty, columns: 0, firstRow: 0, rows: 0, totalRows: 0, stack: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try a.code(&coder)
        try coder.dimension(&columns)
        try coder.dimension(&firstRow)
        try coder.dimension(&rows)
        try coder.dimension(&totalRows)
        try stack.code(&coder)
    }
}

extension TileFinish {
    fileprivate static let empty = TileFinish(stack: .empty, totalRows: 0, count: 0, target: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try stack.code(&coder)
        try coder.dimension(&totalRows)
        try coder.size(&count)
        try target.code(&coder)
    }
}

extension LabelWeight {
    fileprivate static let empty = LabelWeight(
        labels: .empty, split: .empty, rows: 0, classes: 0, total: .empty, accumulates: false)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try labels.code(&coder)
        try split.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&classes)
        try coder.place(&classWeights)
        try total.code(&coder)
        try coder.bool(&accumulates)
    }
}

extension Loss {
    fileprivate static let empty = Loss(
        logits: .empty, labels: .empty, split: .empty, firstRow: 0, rows: 0, totalRows: 0, classes: 0, total: .empty,
        gradient: nil, scores: .empty)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try logits.code(&coder)
        try labels.code(&coder)
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

extension Adam {
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

extension Initialise {
    fileprivate static let empty = Initialise(target: .empty, rows: 0, columns: 0, stream: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try target.code(&coder)
        try coder.dimension(&rows)
        try coder.dimension(&columns)
        try coder.integer(&stream)
    }
}

extension KeepBest {
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

extension Report {
    fileprivate static let empty = Report(scores: .empty, totalRows: 0, slot: 0)
    fileprivate mutating func code(_ coder: inout some FieldCoder) throws(ProgramError) {
        try scores.code(&coder)
        try coder.dimension(&totalRows)
        try coder.integer(&slot)
    }
}
