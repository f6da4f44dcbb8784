package import FabricProtocol
package import TrainingPlanner
package import Vocabulary

extension ModelSpec {
    /// Window of an image section: its raw value.
    package static func window(of section: ImageSection) -> UInt16 { UInt16(section.rawValue) }
    /// Windows of spilled tensors start here.
    package static let firstSpillWindow: UInt16 = 16
    /// Windows 53 to 62 are those of checkpoints (`TrainingCheckpoint.Part`).
    package static let resultWindow: UInt16 = 63
    /// Slots of the two reports in a completion.
    package static let trainingSlot: UInt8 = 0
    package static let evaluationSlot: UInt8 = 1

    /// The run as one program: the first epoch makes parameters and loads what stays, an epoch trains, evaluates and
    /// keeps the best parameters, and the last doorbell exports them; flags at the doorbell say which.
    ///
    /// - Parameter trainingByClass: training nodes of each class; needed for balanced class weights only.
    package func program(for plan: TrainingPlan, trainingByClass: [Int]? = nil) throws(TrainingError) -> Program {
        guard isCut else { throw TrainingError(.programRefused, "a model of this kind is not cut") }
        var emitter = Emitter(spec: self, plan: plan)
        try emitter.emitStart(trainingByClass: trainingByClass)
        emitter.emitResume()
        emitter.emitTraining()
        emitter.emitTakingBest()
        emitter.emitEvaluation()
        emitter.emitCheckpoint()
        emitter.emitExport()
        return emitter.program
    }
}

/// Unrolls a plan's sweeps into commands and orders them by what they touch.
private struct Emitter {
    let spec: ModelSpec
    let plan: TrainingPlan
    var program: Program
    private var order: CommandOrder
    private let fixed: [TrainingPlan.Fixed: UInt16]
    private var model: ModelShape { plan.model }

    init(spec: ModelSpec, plan: TrainingPlan) {
        self.spec = spec
        self.plan = plan
        fixed = plan.fixed.mapValues(UInt16.init)
        program = Program(
            buffers: plan.buffers.map { Program.Buffer(offset: $0.offset, byteCount: $0.byteCount) },
            windows: plan.image.recipe.sections.map { section in
                Program.Window(
                    id: ModelSpec.window(of: section), direction: .read, purpose: .image(section),
                    byteCount: plan.image.byteCount(section))
            }
                + plan.spillBytes.enumerated().map { number, bytes in
                    Program.Window(
                        id: ModelSpec.firstSpillWindow + UInt16(number), direction: .both, purpose: .spill,
                        byteCount: bytes)
                }
                + [
                    Program.Window(
                        id: ModelSpec.resultWindow, direction: .write, purpose: .result,
                        byteCount: plan.model.parameters.count * 4)
                ] + TrainingCheckpoint.Part.windows(parameters: plan.model.parameters.count))
        order = CommandOrder(plan.buffers)
    }

    // MARK: Places

    private func place(_ role: TrainingPlan.Fixed, offset: Int = 0) -> Place {
        Place(buffer: fixed[role]!, offset: offset)
    }

    private func place(_ role: TrainingPlan.Fixed, _ entry: ParameterLayout.Entry) -> Place {
        place(role, offset: entry.offset * 4)
    }

    private func place(_ tensor: TensorIndex, _ chunk: Chunk) -> Place {
        switch plan.schedule.tensors[tensor].extent {
        case .nodes:
            Place(
                buffer: UInt16(plan.slots[tensor][0]),
                offset: chunk.rows.lowerBound * plan.schedule.tensors[tensor].rowBytes)
        case .chunk:
            Place(buffer: UInt16(plan.slots[tensor][chunk.number % plan.slots[tensor].count]))
        case .fixed:
            Place(buffer: UInt16(plan.slots[tensor][0]))
        }
    }

    private func matrix(_ tensor: TensorIndex, _ chunk: Chunk) -> Matrix {
        Matrix(place(tensor, chunk), stride: plan.schedule.tensors[tensor].width)
    }

    private struct Chunk {
        let number: Int
        let rows: Range<Int>
    }

    // MARK: Commands

    private mutating func append(_ operation: FabricProtocol.Operation, _ flags: DoorbellFlags, _ touched: Touched) {
        let dependsOn = order.append(operation.queue, flags, touched)
        program.commands.append(Program.Command(operation, dependsOn: dependsOn, onlyWith: flags))
    }

    private func buffers(_ places: [Place]) -> [Int] { places.map { Int($0.buffer) } }

    mutating func emitStart(trainingByClass: [Int]?) throws(TrainingError) {
        let flags: DoorbellFlags = .first
        for section in plan.image.recipe.sections {
            guard let buffer = residentBuffer(section) else { continue }
            append(
                .fetch(
                    Transfer(
                        window: ModelSpec.window(of: section), windowOffset: 0,
                        byteCount: plan.image.byteCount(section), place: Place(buffer: buffer))),
                flags, Touched(writes: [Int(buffer)], window: ModelSpec.window(of: section)))
        }
        for role in [
            TrainingPlan.Fixed.parameters, .gradients, .firstMoments, .secondMoments, .best, .bestState, .trainScores,
            .evaluateScores,
        ] {
            let buffer = Int(fixed[role]!)
            append(
                .fill(Fill(place(role), count: plan.buffers[buffer].byteCount / 4)), flags, Touched(writes: [buffer]))
        }
        for (stream, entry) in model.parameters.entries.enumerated() where entry.role != .bias {
            append(
                .initialise(
                    Initialise(
                        target: Matrix(place(.parameters, entry), stride: entry.columns), rows: entry.rows,
                        columns: entry.columns, stream: UInt32(stream))),
                flags, Touched(writes: [Int(fixed[.parameters]!)]))
        }
        if model.weighsClasses { try emitClassWeights(trainingByClass) }
        append(
            .labelWeight(
                LabelWeight(
                    targets: .classes(place(.labels)), split: place(.split), rows: plan.image.nodes,
                    classes: plan.image.classes,
                    classWeights: classWeights, total: place(.total), accumulates: false)),
            flags,
            Touched(
                reads: buffers([place(.labels), place(.split)] + (classWeights.map { [$0] } ?? [])),
                writes: [Int(fixed[.total]!)]))
    }

    private var classWeights: Place? { model.weighsClasses ? place(.classWeights) : nil }

    private func residentBuffer(_ section: ImageSection) -> UInt16? {
        switch section {
        case .rowPointers: fixed[.rowPointers]
        case .scale: fixed[.scale]
        case .labels: fixed[.labels]
        case .labelSets, .targets: nil
        case .split: fixed[.split]
        case .columns, .features, .aggregate:
            plan.schedule.tensors.firstIndex { $0.extent == .nodes && $0.window == .image(section) }
                .map { UInt16(plan.slots[$0][0]) }
        }
    }

    private mutating func emitClassWeights(_ trainingByClass: [Int]?) throws(TrainingError) {
        guard let counts = trainingByClass, counts.count == plan.image.classes else {
            throw TrainingError(.classCountsMissing, "balanced class weights need the training nodes of each class")
        }
        let total = counts.reduce(0, +)
        for (index, count) in counts.enumerated() {
            // A class without training nodes has no loss, so its weight does not matter.
            let weight = count == 0 ? 1 : Float(Double(total) / (Double(counts.count) * Double(count)))
            append(
                .fill(Fill(place(.classWeights, offset: index * 4), count: 1, value: weight)), .first,
                Touched(writes: [Int(fixed[.classWeights]!)]))
        }
    }

    mutating func emitTraining() {
        emitSweeps(.train, .train)
        let layout = model.parameters
        let decaysAll = spec.weightDecayLayers == .all
        let parts =
            decaysAll ? [0..<layout.count] : [0..<layout.firstLayerCount, layout.firstLayerCount..<layout.count]
        for (index, part) in parts.enumerated() {
            let offset = part.lowerBound * 4
            append(
                .adam(
                    Adam(
                        parameter: place(.parameters, offset: offset), gradient: place(.gradients, offset: offset),
                        firstMoment: place(.firstMoments, offset: offset),
                        secondMoment: place(.secondMoments, offset: offset), count: part.count,
                        weightDecay: index == 0 ? Float(spec.weightDecay.value) : 0)),
                .train,
                Touched(
                    reads: [Int(fixed[.gradients]!)],
                    writes: buffers([place(.parameters), place(.firstMoments), place(.secondMoments)])))
        }
        append(
            .report(Report(scores: place(.trainScores), totalRows: plan.image.nodes, slot: ModelSpec.trainingSlot)),
            .train, Touched(reads: [Int(fixed[.trainScores]!)]))
    }

    mutating func emitEvaluation() {
        emitSweeps(.evaluate, .evaluate)
        append(
            .keepBest(
                KeepBest(
                    scores: place(.evaluateScores),
                    rule: spec.metric.rule,
                    parameters: place(.parameters), best: place(.best), count: model.parameters.count,
                    state: place(.bestState))),
            .evaluate,
            Touched(
                reads: buffers([place(.evaluateScores), place(.parameters)]),
                writes: buffers([place(.best), place(.bestState)])))
        append(
            .report(
                Report(scores: place(.evaluateScores), totalRows: plan.image.nodes, slot: ModelSpec.evaluationSlot)),
            .evaluate, Touched(reads: [Int(fixed[.evaluateScores]!)]))
    }

    /// What a checkpoint holds replaces what the first epoch makes.
    mutating func emitResume() {
        for part in TrainingCheckpoint.Part.allCases {
            let transfer = transfer(part, part.stateWindow)
            append(
                .fetch(transfer), .resume,
                Touched(writes: [Int(transfer.place.buffer)], window: transfer.window))
        }
    }

    mutating func emitCheckpoint() {
        for part in TrainingCheckpoint.Part.allCases {
            let transfer = transfer(part, part.resultWindow)
            append(
                .store(transfer), .checkpoint,
                Touched(reads: [Int(transfer.place.buffer)], window: transfer.window, writesWindow: true))
        }
    }

    private func transfer(_ part: TrainingCheckpoint.Part, _ window: UInt16) -> Transfer {
        Transfer(
            window: window, windowOffset: 0, byteCount: part.byteCount(parameters: model.parameters.count),
            place: place(part.role))
    }

    /// The last evaluation is of the weights that are exported.
    mutating func emitTakingBest() {
        let columns = ParameterLayout.alignment
        func matrix(_ role: TrainingPlan.Fixed) -> Matrix { Matrix(place(role), stride: columns) }
        append(
            .copy(
                Copy(
                    source: matrix(.best), target: matrix(.parameters), rows: model.parameters.count / columns,
                    columns: columns)),
            .export, Touched(reads: buffers([place(.best)]), writes: buffers([place(.parameters)])))
    }

    mutating func emitExport() {
        append(
            .store(
                Transfer(
                    window: ModelSpec.resultWindow, windowOffset: 0, byteCount: model.parameters.count * 4,
                    place: place(.best))),
            .export, Touched(reads: [Int(fixed[.best]!)], window: ModelSpec.resultWindow))
    }

    private mutating func emitSweeps(_ phase: Sweep.Phase, _ flags: DoorbellFlags) {
        for sweep in plan.schedule.sweeps where sweep.phase == phase {
            for (number, rows) in plan.chunkRanges.enumerated() {
                let chunk = Chunk(number: number, rows: rows)
                for operation in sweep.operations { emit(operation, chunk, flags) }
            }
            for finish in sweep.finishes {
                append(
                    .tileFinish(
                        TileFinish(
                            stack: Place(buffer: UInt16(plan.slots[finish.stack][0])), totalRows: plan.image.nodes,
                            count: finish.entry.count, target: place(.gradients, finish.entry))),
                    flags,
                    Touched(reads: [plan.slots[finish.stack][0]], writes: [Int(fixed[.gradients]!)]))
            }
        }
    }

    private mutating func emit(
        _ operation: SweepOperation, _ chunk: Chunk, _ flags: DoorbellFlags
    ) {
        switch operation {
        case .fetch(let tensor): emitTransfer(tensor, chunk, flags, stores: false)
        case .store(let tensor): emitTransfer(tensor, chunk, flags, stores: true)
        case .map(let from, let to, let steps):
            append(
                .map(
                    RowMap(
                        source: matrix(from, chunk), target: matrix(to, chunk), rows: chunk.rows.count,
                        columns: plan.schedule.tensors[to].width, firstRow: chunk.rows.lowerBound,
                        steps: resolve(steps, chunk))),
                flags, touched([from], writes: [to], steps, chunk))
        case .gather(let from, let columns, let to, let steps):
            emitGather(from, columns, to, steps, chunk, flags)
        case .product(let a, let entry, let transposed, let to, let accumulates, let steps):
            append(
                .product(
                    Product(
                        a: matrix(a, chunk), b: Matrix(place(.parameters, entry), stride: entry.columns),
                        c: matrix(to, chunk), rows: chunk.rows.count, columns: transposed ? entry.rows : entry.columns,
                        inner: transposed ? entry.columns : entry.rows, transposesB: transposed,
                        accumulates: accumulates, firstRow: chunk.rows.lowerBound, steps: resolve(steps, chunk))),
                flags, touched([a], writes: [to], steps, chunk, parameters: true))
        case .tileProduct(let a, let b, let stack, let entry):
            append(
                .tileProduct(
                    TileProduct(
                        a: matrix(a, chunk), b: matrix(b, chunk), m: entry.rows, n: entry.columns,
                        firstRow: chunk.rows.lowerBound, rows: chunk.rows.count, totalRows: plan.image.nodes,
                        stack: place(stack, chunk))),
                flags, touched([a, b], writes: [stack], [], chunk))
        case .columnSum(let a, let stack, let entry):
            append(
                .tileColumnSum(
                    TileColumnSum(
                        a: matrix(a, chunk), columns: entry.columns, firstRow: chunk.rows.lowerBound,
                        rows: chunk.rows.count, totalRows: plan.image.nodes, stack: place(stack, chunk))),
                flags, touched([a], writes: [stack], [], chunk))
        case .loss(let tensor, let differentiates): emitLoss(tensor, differentiates, chunk, flags)
        }
    }

    private mutating func emitLoss(
        _ tensor: TensorIndex, _ differentiates: Bool, _ chunk: Chunk, _ flags: DoorbellFlags
    ) {
        let rows = chunk.rows
        let logits = matrix(tensor, chunk)
        let scores: TrainingPlan.Fixed = differentiates ? .trainScores : .evaluateScores
        append(
            .loss(
                Loss(
                    outputs: logits, targets: .classes(place(.labels, offset: rows.lowerBound * 4)),
                    split: place(.split, offset: rows.lowerBound), firstRow: rows.lowerBound, rows: rows.count,
                    totalRows: plan.image.nodes, classes: plan.image.classes, classWeights: classWeights,
                    total: place(.total), gradient: differentiates ? logits : nil, scores: place(scores))),
            flags,
            Touched(
                reads: buffers([place(.labels), place(.split), place(.total), logits.place])
                    + (classWeights.map { [Int($0.buffer)] } ?? []),
                writes: [Int(fixed[scores]!)] + (differentiates ? [Int(logits.place.buffer)] : [])))
    }

    private mutating func emitGather(
        _ from: TensorIndex, _ neighbours: TensorIndex, _ to: TensorIndex, _ steps: [SweepStep], _ chunk: Chunk,
        _ flags: DoorbellFlags
    ) {
        let rows = chunk.rows
        let (base, edges) = edges(rows)
        // Resident columns are those of the whole graph, fetched ones those of the chunk.
        var columns = place(neighbours, chunk)
        if plan.schedule.tensors[neighbours].extent == .nodes { columns.offset = base * 4 }
        let width = plan.schedule.tensors[from].width
        append(
            .aggregate(
                Aggregate(
                    neighbours: Neighbours(
                        rowPointers: place(.rowPointers, offset: rows.lowerBound * 8), columns: columns,
                        edgeBase: base, edges: edges, firstRow: rows.lowerBound, rows: rows.count,
                        nodes: plan.image.nodes),
                    source: Matrix(Place(buffer: UInt16(plan.slots[from][0])), stride: width), sourceFirstRow: 0,
                    sourceRows: plan.image.nodes, target: matrix(to, chunk), width: width, accumulates: false,
                    steps: resolve(steps, chunk))),
            flags,
            touched(
                [from, neighbours], writes: [to], steps, chunk, also: [Int(fixed[.rowPointers]!)], parameters: true))
    }

    /// First position in the whole graph's columns and number of columns of these rows.
    private func edges(_ rows: Range<Int>) -> (base: Int, count: Int) {
        let tiles = plan.image.tileEdges
        let first = rows.lowerBound / ImageShape.tileRows
        let end = min((rows.upperBound + ImageShape.tileRows - 1) / ImageShape.tileRows, tiles.count - 1)
        return (Int(tiles[first]), Int(tiles[end] - tiles[first]))
    }

    private mutating func emitTransfer(_ tensor: TensorIndex, _ chunk: Chunk, _ flags: DoorbellFlags, stores: Bool) {
        let shape = plan.schedule.tensors[tensor]
        let rows = chunk.rows
        let place = place(tensor, chunk)
        let transfer: Transfer
        switch shape.window! {
        case .image(.columns):
            let (base, count) = edges(rows)
            // A chunk of isolated nodes has nothing to fetch.
            guard count > 0 else { return }
            transfer = Transfer(
                window: ModelSpec.window(of: .columns), windowOffset: base * 4, byteCount: count * 4, place: place)
        case .image(let section):
            transfer = Transfer(
                window: ModelSpec.window(of: section), windowOffset: rows.lowerBound * shape.rowBytes,
                byteCount: rows.count * shape.rowBytes, place: place)
        case .spill(let number):
            let stride = Planner.spillStride(shape, plan.cut)
            transfer = Transfer(
                window: ModelSpec.firstSpillWindow + UInt16(number), windowOffset: chunk.number * stride,
                byteCount: stride, place: place)
        }
        let buffer = Int(place.buffer)
        append(
            stores ? .store(transfer) : .fetch(transfer), flags,
            Touched(
                reads: stores ? [buffer] : [], writes: stores ? [] : [buffer], window: transfer.window,
                writesWindow: stores))
    }

    private func resolve(_ steps: [SweepStep], _ chunk: Chunk) -> [Step] {
        steps.map { step in
            switch step {
            case .bias(let entry): .bias(place(.parameters, entry))
            case .scaleRows: .scaleRows(place(.scale, offset: chunk.rows.lowerBound * 4))
            case .relu: .relu
            case .reluGradient(let tensor): .reluGradient(matrix(tensor, chunk))
            case .dropout(let layer):
                .dropout(
                    Dropout(
                        probability: Float((layer == 0 ? spec.inputDropout : spec.dropout).value),
                        stream: UInt32(layer)))
            case .add(let tensor): .add(matrix(tensor, chunk))
            }
        }
    }

    private func touched(
        _ reads: [TensorIndex], writes: [TensorIndex], _ steps: [SweepStep], _ chunk: Chunk, also: [Int] = [],
        parameters: Bool = false
    ) -> Touched {
        func buffer(_ tensor: TensorIndex) -> Int { Int(place(tensor, chunk).buffer) }
        var read = reads.map(buffer) + also
        if parameters { read.append(Int(fixed[.parameters]!)) }
        for step in steps {
            switch step {
            case .scaleRows: read.append(Int(fixed[.scale]!))
            case .reluGradient(let tensor), .add(let tensor): read.append(buffer(tensor))
            case .bias, .relu, .dropout: break
            }
        }
        return Touched(reads: read, writes: writes.map(buffer))
    }
}

extension TrainingCheckpoint.Part {
    fileprivate var role: TrainingPlan.Fixed {
        switch self {
        case .parameters: .parameters
        case .firstMoments: .firstMoments
        case .secondMoments: .secondMoments
        case .best: .best
        case .bestState: .bestState
        }
    }
}

/// Buffers and window that a command touches.
private struct Touched {
    var reads: [Int] = []
    var writes: [Int] = []
    var window: UInt16?
    var writesWindow = false
}

/// Finds, for each command, the latest commands of the other queues that it must wait for.
///
/// Queues keep their own order, so the latest conflicting command of each is enough; but a command that a doorbell
/// leaves out orders nothing, so the latest is kept for each set of flags.
private struct CommandOrder {
    private struct Marks {
        /// By queue and flags: number of the last command.
        var written: [Key: UInt32] = [:]
        var read: [Key: UInt32] = [:]
    }
    private struct Key: Hashable {
        let queue: FabricProtocol.Operation.Queue
        let flags: DoorbellFlags
    }

    private var buffers: [Marks]
    private var windows: [UInt16: Marks] = [:]
    /// Buffers that share bytes with each buffer, itself included.
    private let sharing: [[Int]]
    private var count: UInt32 = 0

    init(_ planned: [TrainingPlan.Buffer]) {
        buffers = Array(repeating: Marks(), count: planned.count)
        sharing = planned.map { one in
            planned.indices.filter {
                one.offset < planned[$0].offset + planned[$0].byteCount
                    && planned[$0].offset < one.offset + one.byteCount
            }
        }
    }

    mutating func append(
        _ queue: FabricProtocol.Operation.Queue, _ flags: DoorbellFlags, _ touched: Touched
    ) -> [UInt32] {
        var latest: [Key: UInt32] = [:]
        func wait(_ marks: [Key: UInt32]) {
            for (key, command) in marks where key.queue != queue { latest[key] = max(latest[key] ?? 0, command) }
        }
        for buffer in touched.reads { for other in sharing[buffer] { wait(buffers[other].written) } }
        for buffer in touched.writes {
            for other in sharing[buffer] {
                wait(buffers[other].written)
                wait(buffers[other].read)
            }
        }
        if let window = touched.window, let marks = windows[window] {
            wait(marks.written)
            if touched.writesWindow { wait(marks.read) }
        }
        let key = Key(queue: queue, flags: flags)
        for buffer in touched.reads { buffers[buffer].read[key] = count }
        for buffer in touched.writes { buffers[buffer].written[key] = count }
        if let window = touched.window {
            if touched.writesWindow {
                windows[window, default: Marks()].written[key] = count
            } else {
                windows[window, default: Marks()].read[key] = count
            }
        }
        count += 1
        return Array(Set(latest.values)).sorted()
    }
}
