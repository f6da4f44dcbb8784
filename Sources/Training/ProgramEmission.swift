package import FabricProtocol
package import TrainingPlanner
package import Vocabulary

extension ModelSpec {
    /// Window of an image section: its raw value.
    package static func window(of section: ImageSection) -> UInt16 { UInt16(section.rawValue) }
    /// Window of what a tier of the enclave keeps for the device.
    ///
    /// - Parameter generation: how often the run was planned anew; another plan's put-away values have other sizes, and
    ///   a window keeps its size.
    package static func window(of tier: Spill.Tier, generation: Int = 0) -> UInt16 {
        UInt16(16 + 2 * generation + (tier == .host ? 0 : 1))
    }
    /// A run is planned anew at most so often.
    package static let generationsMax = 3
    /// Windows 53 to 62 are those of checkpoints (`TrainingCheckpoint.Part`).
    package static let resultWindow: UInt16 = 63
    /// What a trained model answers for every row.
    package static let predictionsWindow: UInt16 = 52
    /// Slots of the two reports in a completion.
    package static let trainingSlot: UInt8 = 0
    package static let evaluationSlot: UInt8 = 1

    /// The run as one program: the first epoch makes parameters and loads what stays, an epoch trains, evaluates and
    /// keeps the best parameters, and the last doorbell exports them; flags at the doorbell say which.
    ///
    /// - Parameter trainingByClass: training nodes of each class; needed for balanced class weights only.
    package func program(
        for plan: TrainingPlan, trainingByClass: [Int]? = nil, generation: Int = 0
    ) throws(TrainingError) -> Program {
        var emitter = Emitter(spec: self, plan: plan, generation: generation)
        try emitter.emitStart(trainingByClass: trainingByClass)
        emitter.emitResume()
        emitter.emitTraining()
        emitter.emitTakingBest()
        emitter.emitEvaluation()
        emitter.emitCheckpoint()
        emitter.emitExport()
        return emitter.program
    }

    /// One pass that stores what a trained model answers for every row, chunk by chunk, and makes its figures. Its weights
    /// are fetched from the window that a resumed run has them in.
    ///
    /// - Parameter trainingByClass: as for training.
    package func predictionProgram(
        for plan: TrainingPlan, trainingByClass: [Int]? = nil
    ) throws(TrainingError) -> Program {
        var emitter = Emitter(spec: self, plan: plan, generation: 0)
        try emitter.emitStart(trainingByClass: trainingByClass)
        emitter.emitPrediction()
        return emitter.program
    }
}

/// Unrolls a plan's sweeps into commands and orders them by what they touch.
private struct Emitter {
    let spec: ModelSpec
    let plan: TrainingPlan
    var program: Program
    private var order: CommandOrder
    /// The rows that the next operations work on.
    private var active: Program.ActiveRows?
    private let fixed: [TrainingPlan.Fixed: UInt16]
    private let generation: Int
    private var model: ModelShape { plan.model }

    init(spec: ModelSpec, plan: TrainingPlan, generation: Int) {
        self.spec = spec
        self.generation = generation
        self.plan = plan
        fixed = plan.fixed.mapValues(UInt16.init)
        program = Program(
            buffers: plan.buffers.map { Program.Buffer(offset: $0.offset, byteCount: $0.byteCount) },
            windows: plan.image.recipe.sections.map { section in
                Program.Window(
                    id: ModelSpec.window(of: section), direction: .read, purpose: .image(section),
                    byteCount: plan.image.byteCount(section))
            }
                + Spill.Tier.allCases.filter { plan.spillBytes($0) > 0 }.map { tier in
                    Program.Window(
                        id: ModelSpec.window(of: tier, generation: generation), direction: .both, purpose: .spill,
                        byteCount: plan.spillBytes(tier))
                }
                + Self.ownWindows(plan))
        order = CommandOrder(plan)
    }

    /// What leaves the device, and the state that comes to it.
    private static func ownWindows(_ plan: TrainingPlan) -> [Program.Window] {
        let parameters = plan.model.parameters.count
        if plan.graph.result != nil {
            let weights = TrainingCheckpoint.Part.parameters
            return [
                Program.Window(
                    id: ModelSpec.predictionsWindow, direction: .write, purpose: .result, byteCount: plan.resultBytes),
                Program.Window(
                    id: weights.stateWindow, direction: .read, purpose: .state,
                    byteCount: weights.byteCount(parameters: parameters)),
            ]
        }
        return [
            Program.Window(
                id: ModelSpec.resultWindow, direction: .write, purpose: .result, byteCount: parameters * 4)
        ] + TrainingCheckpoint.Part.windows(parameters: parameters)
    }

    // MARK: Places

    private func place(_ role: TrainingPlan.Fixed, offset: Int = 0) -> Place {
        Place(buffer: fixed[role]!, offset: offset)
    }

    private func place(_ role: TrainingPlan.Fixed, _ entry: ParameterLayout.Entry) -> Place {
        place(role, offset: entry.offset * 4)
    }

    private func place(_ location: TrainingPlan.Location, offset: Int = 0) -> Place {
        Place(buffer: UInt16(location.buffer), offset: location.byteOffset + offset)
    }

    private func matrix(_ value: ValueIndex, _ chunk: Chunk) -> Matrix {
        Matrix(place(plan.location(value, chunk: chunk.number, pass: chunk.pass)), stride: plan.value(value).width)
    }

    private struct Chunk {
        let pass: Int
        let number: Int
        let rows: Range<Int>
        let flags: DoorbellFlags
    }

    // MARK: Commands

    private mutating func append(_ operation: FabricProtocol.Operation, _ flags: DoorbellFlags, _ touched: Touched) {
        let dependsOn = order.append(operation.queue, flags, touched)
        program.commands.append(
            Program.Command(
                operation, dependsOn: dependsOn, onlyWith: flags,
                active: operation.activeRows == nil ? nil : active))
    }

    private func buffers(_ places: [Place]) -> [Int] { places.map { Int($0.buffer) } }
    private func buffers(_ matrices: [Matrix]) -> [Int] { matrices.map { Int($0.place.buffer) } }

    mutating func emitStart(trainingByClass: [Int]?) throws(TrainingError) {
        let flags: DoorbellFlags = .first
        for (section, role) in wholeSections {
            fetch(section, 0..<plan.image.byteCount(section), to: place(role), flags)
        }
        for load in plan.loads { fetch(load.section, load.bytes, to: Place(buffer: UInt16(load.buffer)), flags) }
        for role in [TrainingPlan.Fixed.gradients, .trainScores, .evaluateScores] + TrainingPlan.Fixed.state {
            guard let buffer = fixed[role].map(Int.init) else { continue }
            append(
                .fill(Fill(place(role), count: plan.buffers[buffer].byteCount / 4)),
                TrainingPlan.Fixed.state.contains(role) ? .initial : flags, Touched(writes: [buffer]))
        }
        if plan.graph.result == nil {
            for (stream, entry) in model.parameters.entries.enumerated() { initialise(entry, stream: UInt32(stream)) }
        }
        if model.weighsClasses { try emitClassWeights(trainingByClass) }
        guard let spans = plan.labelSpans else {
            emitLabels(0..<plan.image.nodes, pass: 0)
            return emitFrontier()
        }
        for rows in spans.rows {
            let chunk = rows.lowerBound / plan.cut.chunkRows
            for fetch in plan.nodeFetches(pass: spans.pass, chunk: chunk)
            where fetch.section.role == .labels || fetch.section.role == .split { emitNodes(fetch, flags) }
            emitLabels(rows, pass: spans.pass)
        }
        emitFrontier()
    }

    /// Which rows matter, hop by hop.
    private mutating func emitFrontier() {
        let hops = plan.graph.ops.compactMap(\.hops).max() ?? 0
        guard hops > 0 else { return }
        for hop in 1...hops {
            for relation in 0..<plan.image.topologies {
                guard let visit = plan.visit(relation) else { continue }
                for (turn, group) in visit.groups.enumerated() {
                    let neighbours =
                        visit.isSliced
                        ? neighbours(relation, chunks: group, turn, pass: visit.pass, .first)
                        : neighbours(relation, chunk: group.lowerBound, pass: visit.pass)
                    append(
                        .reach(Reach(neighbours: neighbours, hop: UInt8(hop), marks: place(.marks))), .first,
                        Touched(reads: buffers(neighbours), writes: [Int(fixed[.marks]!)]))
                }
            }
        }
    }

    private mutating func emitLabels(_ rows: Range<Int>, pass: Int) {
        let (labels, split) = (targets(rows.lowerBound, pass), node(.split, row: rows.lowerBound, pass))
        append(
            .labelWeight(
                LabelWeight(
                    targets: labels, split: split, rows: rows.count, classes: plan.image.classes,
                    classWeights: classWeights, total: place(.total), accumulates: rows.lowerBound > 0)),
            .first,
            Touched(
                reads: buffers([node(.labels, row: rows.lowerBound, pass), split] + (classWeights.map { [$0] } ?? [])),
                writes: [Int(fixed[.total]!)]))
        guard fixed[.marks] != nil else { return }
        append(
            .mark(Mark(split: split, rows: rows.count, marks: place(.marks, offset: rows.lowerBound))), .first,
            Touched(reads: [Int(split.buffer)], writes: [Int(fixed[.marks]!)]))
    }

    /// The rows from `row` on that an operation works on.
    private func rows(_ op: OpIndex, hops: Int?, from row: Int) -> Program.ActiveRows? {
        hops.map {
            Program.ActiveRows(
                place(.marks, offset: row), bit: Frontier.bit(plan.graph.ops[op].phase, hops: $0))
        }
    }

    private mutating func emitNodes(
        _ fetch: (section: NodeSection, bytes: Range<Int>, to: TrainingPlan.Location), _ flags: DoorbellFlags
    ) {
        self.fetch(fetch.section.role.section(plan.image)!, fetch.bytes, to: place(fetch.to), flags)
    }

    /// Weights begin at random, LayerNorm's factors at 1, what is added at 0.
    private mutating func initialise(_ entry: ParameterLayout.Entry, stream: UInt32) {
        let writes = Touched(writes: [Int(fixed[.parameters]!)])
        switch entry.role {
        case .bias, .normShift: break
        case .normScale: append(.fill(Fill(place(.parameters, entry), count: entry.count, value: 1)), .initial, writes)
        case .weight, .root, .attentionSource, .attentionTarget:
            append(
                .initialise(
                    Initialise(
                        target: Matrix(place(.parameters, entry), stride: entry.columns), rows: entry.rows,
                        columns: entry.columns, stream: stream)),
                .initial, writes)
        }
    }

    private var classWeights: Place? { model.weighsClasses ? place(.classWeights) : nil }

    /// Small sections, which stay in device memory always.
    private var wholeSections: [(ImageSection, TrainingPlan.Fixed)] {
        [
            (.rowPointers, .rowPointers), (.scale, .scale), (plan.image.recipe.targetSection, .labels),
            (.split, .split),
        ].filter { fixed[$0.1] != nil }
    }

    /// What is right for the rows from `firstRow` on.
    private func targets(_ firstRow: Int, _ pass: Int) -> Targets {
        let place = node(.labels, row: firstRow, pass)
        return switch plan.image.recipe.target {
        case .classes: .classes(place)
        case .classSets: .bits(place)
        case .values: .values(Matrix(place, stride: 1))
        }
    }

    /// Where the image's numbers for the rows from `row` on lie.
    private func node(_ role: TrainingPlan.Fixed, _ relation: Int = 0, row: Int, _ pass: Int) -> Place {
        place(plan.node(NodeSection(role: role, relation: relation), row: row, pass: pass))
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
        emitPasses(.train, .train)
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

    mutating func emitPrediction() {
        let weights = transfer(.parameters, TrainingCheckpoint.Part.parameters.stateWindow)
        append(.fetch(weights), .first, Touched(writes: [Int(weights.place.buffer)]))
        emitPasses(.evaluate, .evaluate)
        emitReport()
    }

    mutating func emitEvaluation() {
        emitPasses(.evaluate, .evaluate)
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
        emitReport()
    }

    private mutating func emitReport() {
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
                Touched(writes: [Int(transfer.place.buffer)]))
        }
    }

    mutating func emitCheckpoint() {
        for part in TrainingCheckpoint.Part.allCases {
            let transfer = transfer(part, part.resultWindow)
            append(
                .store(transfer), .checkpoint,
                Touched(reads: [Int(transfer.place.buffer)]))
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
            .export, Touched(reads: [Int(fixed[.best]!)]))
    }

    // MARK: Passes

    private mutating func emitPasses(_ phase: OpGraph.Phase, _ flags: DoorbellFlags) {
        for (number, pass) in plan.passes.enumerated() where pass.phase == phase && !pass.isEmpty {
            for value in pass.reloads { emitReload(value, number, flags) }
            for (source, ops) in pass.sliced { emitSlices(of: source, ops, number, flags) }
            guard !pass.steps.isEmpty else { continue }
            for (index, rows) in plan.chunkRanges.enumerated() {
                let chunk = Chunk(pass: number, number: index, rows: rows, flags: flags)
                for fetch in plan.nodeFetches(pass: number, chunk: index) { emitNodes(fetch, flags) }
                for step in pass.steps { emit(step, chunk) }
            }
            for (entry, buffer) in plan.finishes(pass: number) { emitFinish(entry, buffer, flags) }
        }
    }

    /// The gradient of a weight, or of a part of one.
    private mutating func emitFinish(_ entry: ParameterLayout.Entry, _ buffer: Int, _ flags: DoorbellFlags) {
        let gradients = Int(fixed[.gradients]!)
        let stack = Place(buffer: UInt16(buffer))
        func finish(to target: Place) -> FabricProtocol.Operation {
            .tileFinish(
                TileFinish(stack: stack, totalRows: plan.image.nodes, count: entry.count, target: target))
        }
        guard !entry.isContiguous else {
            return append(finish(to: place(.gradients, entry)), flags, Touched(reads: [buffer], writes: [gradients]))
        }
        // Behind the stack, then row by row to where they belong.
        let whole = Place(
            buffer: stack.buffer,
            offset: Program.tileStackBytes(totalRows: plan.image.nodes, rows: entry.rows, columns: entry.columns))
        append(finish(to: whole), flags, Touched(reads: [buffer], writes: [buffer]))
        append(
            .copy(
                Copy(
                    source: Matrix(whole, stride: entry.columns),
                    target: Matrix(place(.gradients, entry), stride: entry.stride), rows: entry.rows,
                    columns: entry.columns)),
            flags, Touched(reads: [buffer], writes: [gradients]))
    }

    private mutating func emit(_ step: PassStep, _ chunk: Chunk) {
        switch step {
        case .fetch(let value): emitTransfer(value, chunk, stores: false)
        case .store(let value): emitTransfer(value, chunk, stores: true)
        case .fetchParts(let value): emitParts(value, chunk, stores: false)
        case .storeParts(let value): emitParts(value, chunk, stores: true)
        case .run(let op): emit(op, chunk)
        case .finishSum(let op):
            active = rows(op, hops: plan.graph.ops[op].hops, from: chunk.rows.lowerBound)
            defer { active = nil }
            guard case .gather(_, _, let to, let steps) = plan.graph.ops[op].kind else { return }
            emitMap(all(plan.sums(of: op)[0]), all(to), steps, chunk)
        }
    }

    private mutating func emit(_ op: OpIndex, _ chunk: Chunk) {
        let rows = chunk.rows
        active = self.rows(op, hops: plan.graph.ops[op].hops, from: rows.lowerBound)
        defer { active = nil }
        switch plan.graph.ops[op].kind {
        case .map(let from, let to, let steps): emitMap(all(from), all(to), steps, chunk)
        case .part(let from, let to, let steps): emitMap(from, to, steps, chunk)
        case .product(let a, let entry, let transposed, let to, let accumulates, let steps):
            append(
                .product(
                    Product(
                        a: matrix(a, chunk), b: Matrix(place(.parameters, entry), stride: entry.stride),
                        c: matrix(to, chunk), rows: rows.count, columns: transposed ? entry.rows : entry.columns,
                        inner: transposed ? entry.columns : entry.rows, transposesB: transposed,
                        accumulates: accumulates, firstRow: rows.lowerBound, steps: resolve(steps, chunk))),
                chunk.flags, touched([a], writes: [to], steps, chunk, parameters: true))
        case .gather(let from, let relation, let to, let steps): emitGather(from, relation, to, steps, chunk)
        case .attentionScale(let attention, let scores): emitAttentionScale(attention, scores, chunk)
        case .attend(let attention, let to): emitAttend(attention, to, chunk)
        case .attentionGradient(let attention, let gradient):
            emitAttentionGradient(op, attention, gradient, chunk)
        case .headDots(let value, let other, let heads, let to, let accumulates):
            emitHeadDots(value, other, heads, to, accumulates: accumulates, chunk)
        case .weightGradient(let a, let b, let entry):
            let stack = plan.stack(entry, pass: chunk.pass)
            append(
                .tileProduct(
                    TileProduct(
                        a: matrix(a, chunk), b: matrix(b, chunk), m: entry.rows, n: entry.columns,
                        firstRow: rows.lowerBound, rows: rows.count, totalRows: plan.image.nodes,
                        stack: Place(buffer: UInt16(stack)))),
                chunk.flags, touched([a, b], writes: [], [], chunk, alsoWrites: [stack]))
        case .columnSum(let a, let factors, let entry):
            let stack = plan.stack(entry, pass: chunk.pass)
            append(
                .tileColumnSum(
                    TileColumnSum(
                        a: matrix(a, chunk),
                        factors: factors.map {
                            $0.heads == 0
                                ? .elements(matrix($0.value, chunk))
                                : .heads(matrix($0.value, chunk), heads: $0.heads)
                        }, columns: entry.columns, firstRow: rows.lowerBound, rows: rows.count,
                        totalRows: plan.image.nodes, stack: Place(buffer: UInt16(stack)))),
                chunk.flags,
                touched(
                    [a] + (factors.map { [$0.value] } ?? []), writes: [], [], chunk, alsoWrites: [stack]))
        case .loss(let outputs, let gradient): emitLoss(outputs, gradient, chunk)
        }
    }

    private func all(_ value: ValueIndex) -> OpGraph.Columns {
        OpGraph.Columns(value: value, first: 0, count: plan.value(value).width)
    }

    private func matrix(_ columns: OpGraph.Columns, _ chunk: Chunk) -> Matrix {
        matrix(columns.value, chunk).from(column: columns.first)
    }

    private mutating func emitMap(
        _ from: OpGraph.Columns, _ to: OpGraph.Columns, _ steps: [ValueStep], _ chunk: Chunk
    ) {
        append(
            .map(
                RowMap(
                    source: matrix(from, chunk), target: matrix(to, chunk), rows: chunk.rows.count,
                    columns: to.count, firstRow: chunk.rows.lowerBound, steps: resolve(steps, chunk))),
            chunk.flags, touched([from.value], writes: [to.value], steps, chunk, parameters: true))
    }

    private mutating func emitLoss(_ outputs: ValueIndex, _ gradient: ValueIndex?, _ chunk: Chunk) {
        let rows = chunk.rows
        let scores: TrainingPlan.Fixed = gradient == nil ? .evaluateScores : .trainScores
        append(
            .loss(
                Loss(
                    outputs: matrix(outputs, chunk), targets: targets(rows.lowerBound, chunk.pass),
                    split: node(.split, row: rows.lowerBound, chunk.pass), firstRow: rows.lowerBound, rows: rows.count,
                    totalRows: plan.image.nodes, classes: plan.image.classes, classWeights: classWeights,
                    total: place(.total), gradient: gradient.map { matrix($0, chunk) }, scores: place(scores))),
            chunk.flags,
            touched(
                [outputs], writes: gradient.map { [$0] } ?? [], [], chunk,
                also: buffers(
                    [
                        node(.labels, row: rows.lowerBound, chunk.pass), node(.split, row: rows.lowerBound, chunk.pass),
                        place(.total),
                    ] + (classWeights.map { [$0] } ?? [])),
                alsoWrites: [Int(fixed[scores]!)]))
    }

    private mutating func emitGather(
        _ from: ValueIndex, _ relation: Int, _ to: ValueIndex, _ steps: [ValueStep], _ chunk: Chunk
    ) {
        let neighbours = neighbours(relation, chunk)
        let source = whole(from, chunk)
        append(
            .aggregate(
                Aggregate(
                    neighbours: neighbours, source: source, sourceFirstRow: 0, sourceRows: plan.image.nodes,
                    target: matrix(to, chunk), width: source.stride, accumulates: false,
                    steps: resolve(steps, chunk))),
            chunk.flags,
            touched(
                [], writes: [to], steps, chunk, also: buffers(neighbours) + [Int(source.place.buffer)],
                parameters: true))
    }

    private func whole(_ value: ValueIndex, _ chunk: Chunk) -> Matrix {
        Matrix(place(plan.whole(value, pass: chunk.pass)), stride: plan.value(value).width)
    }

    private func neighbours(_ relation: Int, _ chunk: Chunk) -> Neighbours {
        let location = plan.location(plan.columns(relation), chunk: chunk.number, pass: chunk.pass)
        return neighbours(relation, chunks: chunk.number..<chunk.number + 1, location, pass: chunk.pass)
    }

    /// `location` is where those of the first of the chunks' tiles lie.
    private func neighbours(
        _ relation: Int, chunks: Range<Int>, _ location: TrainingPlan.Location, pass: Int
    ) -> Neighbours {
        let edges = plan.edges(ofChunks: chunks, relation: relation)
        let rows =
            plan.rows(ofChunk: chunks.lowerBound).lowerBound..<plan.rows(ofChunk: chunks.upperBound - 1).upperBound
        return Neighbours(
            rowPointers: node(.rowPointers, relation, row: rows.lowerBound, pass), columns: place(location),
            edgeBase: edges.lowerBound, edges: edges.count, firstRow: rows.lowerBound, rows: rows.count,
            nodes: plan.image.nodes)
    }

    /// The neighbours of a group of chunks in a pass over slices, after fetching what does not stay.
    private mutating func neighbours(
        _ relation: Int, chunks: Range<Int>, _ turn: Int, pass: Int, _ flags: DoorbellFlags
    ) -> Neighbours {
        let (location, isResident) = plan.sliceColumns(chunks, relation: relation, turn: turn, pass: pass)
        if !isResident {
            fetch(.columns, plan.sectionBytes(plan.columns(relation), chunks: chunks), to: place(location), flags)
        }
        emitPointers(relation, chunk: chunks.lowerBound, pass, flags)
        return neighbours(relation, chunks: chunks, location, pass: pass)
    }

    /// The neighbours of one chunk outside of any pass over rows, likewise.
    private mutating func neighbours(_ relation: Int, chunk: Int, pass: Int) -> Neighbours {
        let chunk = Chunk(pass: pass, number: chunk, rows: plan.rows(ofChunk: chunk), flags: .first)
        emitTransfer(plan.columns(relation), chunk, stores: false)
        emitPointers(relation, chunk: chunk.number, pass, .first)
        return neighbours(relation, chunk)
    }

    private mutating func emitPointers(_ relation: Int, chunk: Int, _ pass: Int, _ flags: DoorbellFlags) {
        for fetch in plan.nodeFetches(pass: pass, chunk: chunk)
        where fetch.section == NodeSection(role: .rowPointers, relation: relation) { emitNodes(fetch, flags) }
    }

    private func buffers(_ neighbours: Neighbours) -> [Int] {
        [Int(neighbours.rowPointers.buffer), Int(neighbours.columns.buffer)]
    }

    // MARK: Attention

    private func attention(_ attention: OpGraph.Attention) -> Attention {
        let probability = Float(spec.attention?.dropout.value ?? 0)
        return Attention(
            heads: attention.heads, headWidth: attention.headWidth, slope: 0.2,
            dropout: attention.drops && probability > 0
                ? Dropout(
                    probability: probability, stream: UInt32(attention.layer), firstColumn: attention.firstHead) : nil)
    }

    /// Scores, highest and inverse behind each other in one matrix.
    private func targets(_ ends: Matrix, heads: Int) -> AttentionTargets {
        AttentionTargets(scores: ends, highest: ends.from(column: heads), inverse: ends.from(column: 2 * heads))
    }

    private mutating func emitAttentionScale(_ graph: OpGraph.Attention, _ scores: ValueIndex, _ chunk: Chunk) {
        let neighbours = neighbours(0, chunk)
        let sourceScores = whole(graph.sourceScores, chunk)
        var targets = self.targets(matrix(graph.targets, chunk), heads: graph.heads)
        targets.scores = matrix(scores, chunk)
        append(
            .attentionScale(
                AttentionScale(
                    attention: attention(graph), neighbours: neighbours, targets: targets, sourceScores: sourceScores)),
            chunk.flags,
            touched([scores], writes: [graph.targets], [], chunk, also: buffers(neighbours) + buffers([sourceScores])))
    }

    private mutating func emitAttend(_ graph: OpGraph.Attention, _ to: ValueIndex, _ chunk: Chunk) {
        let neighbours = neighbours(0, chunk)
        let (source, sourceScores) = (whole(graph.source, chunk), whole(graph.sourceScores, chunk))
        let ends = matrix(graph.targets, chunk)
        append(
            .attend(
                Attend(
                    attention: attention(graph), neighbours: neighbours, targets: targets(ends, heads: graph.heads),
                    sourceScores: sourceScores, source: source, sourceFirstRow: 0, sourceRows: plan.image.nodes,
                    target: matrix(to, chunk), accumulates: false)),
            chunk.flags,
            touched([], writes: [to], [], chunk, also: buffers(neighbours) + buffers([ends, sourceScores, source])))
    }

    private mutating func emitAttentionGradient(
        _ op: OpIndex, _ graph: OpGraph.Attention, _ gradient: OpGraph.AttentionGradient, _ chunk: Chunk
    ) {
        let neighbours = neighbours(0, chunk)
        let ofSources = gradient.isOfSources
        let ends = ofSources ? whole(graph.targets, chunk) : matrix(graph.targets, chunk)
        let sourceScores = ofSources ? matrix(graph.sourceScores, chunk) : whole(graph.sourceScores, chunk)
        let other = whole(gradient.other, chunk)
        append(
            .attentionGradient(
                AttentionGradient(
                    attention: attention(graph), rowsAre: ofSources ? .sources : .targets, neighbours: neighbours,
                    otherFirstRow: 0, otherRows: plan.image.nodes, targets: targets(ends, heads: graph.heads),
                    sourceScores: sourceScores,
                    scores: AttentionGradient.Scores(
                        dots: ends.from(column: 3 * graph.heads), gradient: matrix(gradient.scoreGradient, chunk)),
                    sums: AttentionGradient.Sums(
                        other: other, leaked: matrix(gradient.leaked, chunk),
                        weighed: gradient.sourceGradient.map { matrix($0, chunk) }), accumulates: false,
                    others: rows(op, hops: plan.graph.ops[op].otherHops, from: 0))),
            chunk.flags,
            touched(
                [],
                writes: [gradient.scoreGradient, gradient.leaked] + (gradient.sourceGradient.map { [$0] } ?? []), [],
                chunk, also: buffers(neighbours) + buffers([ends, sourceScores, other])))
    }

    /// The numbers of one end of an attention that all of its rows, or those from a row on, have from a head on.
    private func end(_ value: ValueIndex, head: Int, from row: Int, pass: Int) -> Matrix {
        let width = plan.value(value).width
        return Matrix(place(plan.whole(value, pass: pass), offset: (row * width + head) * 4), stride: width)
    }

    /// The sums over one slice of a source for the rows of `neighbours`, and what else is read. An attention's slice is
    /// of whole heads, or a part of one.
    private func slice(
        of op: OpIndex, _ columns: Range<Int>, source: Matrix, into sums: [Matrix], _ neighbours: Neighbours, pass: Int
    ) -> (FabricProtocol.Operation, reads: [Matrix]) {
        func slice(_ graph: OpGraph.Attention) -> (Attention, first: Int) {
            var attention = attention(graph)
            let first = columns.lowerBound / graph.headWidth
            attention.heads = max(columns.count / graph.headWidth, 1)
            attention.headWidth = min(columns.count, graph.headWidth)
            attention.dropout?.firstColumn += first
            return (attention, first)
        }
        switch plan.graph.ops[op].kind {
        case .attend(let graph, _):
            let (attention, head) = slice(graph)
            let ends = end(graph.targets, head: head, from: neighbours.firstRow, pass: pass)
            let scores = end(graph.sourceScores, head: head, from: 0, pass: pass)
            return (
                .attend(
                    Attend(
                        attention: attention, neighbours: neighbours, targets: targets(ends, heads: graph.heads),
                        sourceScores: scores, source: source, sourceFirstRow: 0, sourceRows: plan.image.nodes,
                        target: sums[0], accumulates: false)),
                [ends, scores]
            )
        case .attentionGradient(let graph, let gradient):
            let (attention, head) = slice(graph)
            let sums = AttentionGradient.Sums(
                other: source, leaked: sums[0], weighed: gradient.isOfSources ? sums[1] : nil)
            return self.gradient(op, graph, gradient, attention, head, nil, sums, neighbours, pass)
        default:
            return (
                .aggregate(
                    Aggregate(
                        neighbours: neighbours, source: source, sourceFirstRow: 0, sourceRows: plan.image.nodes,
                        target: sums[0], width: columns.count, accumulates: false)),
                []
            )
        }
    }

    /// The part of a gradient for the rows of `neighbours` that has nothing to do with columns, and what it reads.
    private func scores(
        of op: OpIndex, into target: Matrix, _ neighbours: Neighbours, pass: Int
    ) -> (FabricProtocol.Operation, reads: [Matrix])? {
        guard case .attentionGradient(let graph, let gradient) = plan.graph.ops[op].kind else { return nil }
        let dots = end(
            graph.targets, head: 3 * graph.heads, from: gradient.isOfSources ? 0 : neighbours.firstRow, pass: pass)
        return self.gradient(
            op, graph, gradient, attention(graph), 0, AttentionGradient.Scores(dots: dots, gradient: target), nil,
            neighbours, pass)
    }

    private func gradient(
        _ op: OpIndex, _ graph: OpGraph.Attention, _ gradient: OpGraph.AttentionGradient, _ attention: Attention,
        _ head: Int, _ scores: AttentionGradient.Scores?, _ sums: AttentionGradient.Sums?, _ neighbours: Neighbours,
        _ pass: Int
    ) -> (FabricProtocol.Operation, reads: [Matrix]) {
        let isOfSources = gradient.isOfSources
        let ends = end(graph.targets, head: head, from: isOfSources ? 0 : neighbours.firstRow, pass: pass)
        let sourceScores = end(graph.sourceScores, head: head, from: isOfSources ? neighbours.firstRow : 0, pass: pass)
        return (
            .attentionGradient(
                AttentionGradient(
                    attention: attention, rowsAre: isOfSources ? .sources : .targets, neighbours: neighbours,
                    otherFirstRow: 0, otherRows: plan.image.nodes, targets: targets(ends, heads: graph.heads),
                    sourceScores: sourceScores, scores: scores, sums: sums, accumulates: false,
                    others: rows(op, hops: plan.graph.ops[op].otherHops, from: 0))),
            [ends, sourceScores]
        )
    }

    private mutating func emitHeadDots(
        _ value: ValueIndex, _ other: OpGraph.HeadOther, _ heads: Int, _ to: OpGraph.Columns, accumulates: Bool,
        _ chunk: Chunk
    ) {
        let y: HeadDots.Other
        var reads = [value]
        switch other {
        case .vector(let entry): y = .vector(place(.parameters, entry))
        case .rows(let rows):
            y = .rows(matrix(rows, chunk))
            reads.append(rows)
        }
        append(
            .headDots(
                HeadDots(
                    x: matrix(value, chunk), y: y, target: matrix(to, chunk), rows: chunk.rows.count, heads: heads,
                    headWidth: plan.value(value).width / heads, accumulates: accumulates)),
            chunk.flags, touched(reads, writes: [to.value], [], chunk, parameters: true))
    }

    // MARK: Moving

    /// Moves the span of a value that begins, or where it is stored ends, with a chunk.
    private mutating func emitTransfer(_ value: ValueIndex, _ chunk: Chunk, stores: Bool) {
        let resident = plan.residentChunks(of: value)
        let span = plan.span(value)
        let first = max(chunk.number / span * span, resident)
        let end = min((chunk.number / span + 1) * span, plan.chunks)
        guard chunk.number >= resident, chunk.number == (stores ? end - 1 : first) else { return }
        guard let section = plan.value(value).section else {
            let start = chunk.number / span * span
            // Those of its chunks that stay were never there, and are not read.
            move(
                value, chunk: start, bytes: plan.stride(value),
                at: place(plan.slot(value, chunk: chunk.number, pass: chunk.pass)), chunk.flags, stores: stores)
            return
        }
        fetch(
            section, plan.sectionBytes(value, chunks: first..<end),
            to: place(plan.location(value, chunk: first, pass: chunk.pass)), chunk.flags)
    }

    private mutating func fetch(_ section: ImageSection, _ range: Range<Int>, to place: Place, _ flags: DoorbellFlags) {
        // A chunk of isolated nodes has no neighbours to fetch.
        guard !range.isEmpty else { return }
        append(
            .fetch(
                Transfer(
                    window: ModelSpec.window(of: section), windowOffset: range.lowerBound, byteCount: range.count,
                    place: place)),
            flags, Touched(writes: [Int(place.buffer)]))
    }

    /// Moves bytes of a value that is put away, from the start of one of its pieces.
    private mutating func move(
        _ value: ValueIndex, slice: Int = 0, chunk: Int, bytes: Int, at place: Place, pieces: Int = 1,
        apart windowStride: Int = 0, _ flags: DoorbellFlags, stores: Bool
    ) {
        let (tier, offset) = plan.spill(value, slice: slice, chunk: chunk)
        let isResult = value == plan.graph.result
        let transfer = Transfer(
            window: isResult ? ModelSpec.predictionsWindow : ModelSpec.window(of: tier, generation: generation),
            windowOffset: isResult ? plan.resultRange(chunk: chunk).lowerBound : offset, byteCount: bytes, place: place,
            pieces: pieces, windowStride: windowStride)
        let buffer = Int(place.buffer)
        append(
            stores ? .store(transfer) : .fetch(transfer), flags,
            Touched(
                reads: stores ? [buffer] : [], writes: stores ? [] : [buffer], spill: value, writesSpill: stores))
    }

    private mutating func emitReload(_ value: ValueIndex, _ pass: Int, _ flags: DoorbellFlags) {
        move(
            value, chunk: 0, bytes: plan.image.nodes * plan.value(value).width * 4,
            at: place(plan.whole(value, pass: pass)), flags, stores: false)
    }

    /// The slices of a chunk: between their window and their columns of the chunk. A span of chunks crosses at once.
    private mutating func emitParts(_ value: ValueIndex, _ chunk: Chunk, stores: Bool) {
        let span = plan.span(value)
        let first = chunk.number / span * span
        let isLast = chunk.number == min(first + span, plan.chunks) - 1
        let parts = place(plan.part(value, turn: chunk.number / span, pass: chunk.pass))
        let ranges = plan.slices(of: value)
        let rows = plan.spanRows(value)
        var offset = 0
        for alike in plan.alikeSlices(value) {
            let range = ranges[alike.lowerBound]
            let held = plan.heldWidth(value, range)
            let bytes = rows * held * 4
            let place = Place(buffer: parts.buffer, offset: parts.offset + offset)
            offset += bytes * alike.count
            func cross(_ emitter: inout Emitter) {
                let apart = emitter.plan.sliceBytes(value, range)
                emitter.move(
                    value, slice: alike.lowerBound, chunk: first, bytes: bytes, at: place, pieces: alike.count,
                    apart: alike.count > 1 ? apart : 0, chunk.flags, stores: stores)
            }
            if !stores, chunk.number == first { cross(&self) }
            let wide = matrix(value, chunk).from(column: range.lowerBound)
            let narrow = Matrix(
                Place(
                    buffer: place.buffer,
                    offset: place.offset + (chunk.number - first) * plan.cut.chunkRows * held * 4), stride: held)
            let (wideStep, narrowStep) = alike.count > 1 ? (range.count, rows * held) : (0, 0)
            append(
                .copy(
                    Copy(
                        source: stores ? wide : narrow, target: stores ? narrow : wide, rows: chunk.rows.count,
                        columns: range.count, pieces: alike.count, sourceStep: stores ? wideStep : narrowStep,
                        targetStep: stores ? narrowStep : wideStep)),
                chunk.flags,
                Touched(
                    reads: buffers([stores ? wide : narrow]), writes: buffers([stores ? narrow : wide])))
            if stores, isLast { cross(&self) }
        }
    }

    /// The sums over one source, slice by slice: each slice of the source is fetched whole, its sums are stored.
    private mutating func emitSlices(of source: ValueIndex, _ ops: [OpIndex], _ pass: Int, _ flags: DoorbellFlags) {
        var turn = 0
        for (slice, range) in plan.slices(of: source).enumerated() {
            let whole = place(plan.part(source, turn: slice, pass: pass))
            move(
                source, slice: slice, chunk: 0, bytes: plan.sliceBytes(source, range), at: whole, flags, stores: false)
            let matrix = Matrix(whole, stride: plan.heldWidth(source, range))
            for op in ops {
                for group in plan.groups(of: op) {
                    emitSliceSums(op, slice, range, group, source: matrix, turn, pass, flags)
                    turn += 1
                }
            }
        }
    }

    private mutating func emitSliceSums(
        _ op: OpIndex, _ slice: Int, _ columns: Range<Int>, _ group: Range<Int>, source: Matrix, _ turn: Int,
        _ pass: Int, _ flags: DoorbellFlags
    ) {
        let neighbours = neighbours(plan.graph.ops[op].relation!, chunks: group, turn, pass: pass, flags)
        let made = plan.made(op, bySlice: slice).map { made in
            let target = place(plan.part(made.value, turn: turn, pass: pass))
            return (made, Matrix(target, stride: plan.heldWidth(made.value, made.columns)))
        }
        let score = plan.graph.ops[op].scoreSum
        let targets = made.filter { $0.0.value != score }.map(\.1)
        var parts = [
            (self.slice(of: op, columns, source: source, into: targets, neighbours, pass: pass), targets)
        ]
        if let last = made.last, last.0.value == score,
            let part = scores(of: op, into: last.1, neighbours, pass: pass)
        {
            parts.append((part, [last.1]))
        }
        active = rows(op, hops: plan.graph.ops[op].hops, from: neighbours.firstRow)
        for (part, targets) in parts {
            append(
                part.0, flags,
                Touched(reads: buffers(neighbours) + buffers(part.reads + [source]), writes: buffers(targets)))
        }
        active = nil
        for (made, target) in made {
            move(
                made.value, slice: made.slice, chunk: group.lowerBound,
                bytes: plan.groupBytes(made.value, made.columns, group), at: target.place, flags, stores: true)
        }
    }

    // MARK: Steps

    /// Of a layer's output; of the features for 0.
    private func dropout(_ layer: Int) -> Float { Float((layer == 0 ? spec.inputDropout : spec.dropout).value) }

    private func resolve(_ steps: [ValueStep], _ chunk: Chunk) -> [Step] {
        steps.map { step in
            switch step {
            case .bias(let entry): .bias(place(.parameters, entry))
            case .scaleColumns(let entry): .scaleColumns(place(.parameters, entry))
            case .scaleRows(let relation):
                .scaleRows(node(.scale, relation, row: chunk.rows.lowerBound, chunk.pass))
            case .scale(let factor): .scale(factor)
            case .relu: .relu
            case .reluGradient(let value): .reluGradient(matrix(value, chunk))
            case .elu: .elu
            case .eluGradient(let value): .eluGradient(matrix(value, chunk))
            case .normalise: .normalise(epsilon: 1e-5)
            case .normaliseGradient(let value):
                .normaliseGradient(NormaliseGradient(input: matrix(value, chunk), epsilon: 1e-5))
            case .addPart(let columns): .add(matrix(columns, chunk))
            case .addHeads(let value, let heads, let entry):
                .addHeads(
                    HeadOuter(factors: matrix(value, chunk), heads: heads, vector: place(.parameters, entry)))
            case .dropout(let layer, let column):
                .dropout(Dropout(probability: dropout(layer), stream: UInt32(layer), firstColumn: column))
            case .keptScale(let layer): .scale(1 / (1 - dropout(layer)))
            case .add(let value): .add(matrix(value, chunk))
            }
        }
    }

    private func touched(
        _ reads: [ValueIndex], writes: [ValueIndex], _ steps: [ValueStep], _ chunk: Chunk, also: [Int] = [],
        alsoWrites: [Int] = [], parameters: Bool = false
    ) -> Touched {
        func buffer(_ value: ValueIndex) -> Int { Int(matrix(value, chunk).place.buffer) }
        var read = reads.map(buffer) + also
        if parameters { read.append(Int(fixed[.parameters]!)) }
        for step in steps {
            switch step {
            case .scaleRows(let relation):
                read.append(Int(node(.scale, relation, row: chunk.rows.lowerBound, chunk.pass).buffer))
            case .reluGradient(let value), .eluGradient(let value), .add(let value), .normaliseGradient(let value),
                .addHeads(let value, _, _):
                read.append(buffer(value))
            case .addPart(let columns): read.append(buffer(columns.value))
            case .bias, .scaleColumns, .scale, .relu, .elu, .dropout, .keptScale, .normalise: break
            }
        }
        return Touched(reads: read, writes: writes.map(buffer) + alsoWrites)
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

extension Matrix {
    /// The same rows from a later column on.
    fileprivate func from(column: Int) -> Matrix {
        var matrix = self
        matrix.place.offset += column * 4
        return matrix
    }
}

/// Buffers that a command touches, and the put-away value whose bytes it moves.
private struct Touched {
    var reads: [Int] = []
    var writes: [Int] = []
    var spill: ValueIndex?
    var writesSpill = false
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

    /// Buffers, and behind them what is put away, as one list.
    private var marks: [Marks]
    /// Those that share bytes with each, itself included.
    private let sharing: [[Int]]
    private let spills: [ValueIndex: Int]
    private var count: UInt32 = 0

    init(_ plan: TrainingPlan) {
        let buffers = plan.buffers.map { (space: 0, range: $0.offset..<$0.offset + $0.byteCount) }
        let spilled = plan.spilled
        spills = Dictionary(
            uniqueKeysWithValues: spilled.enumerated().map { ($1.value, buffers.count + $0) })
        let all =
            buffers + spilled.map { (space: $0.tier == .host ? 1 : 2, range: $0.offset..<$0.offset + $0.bytes) }
        sharing = all.map { one in
            all.indices.filter { one.space == all[$0].space && one.range.overlaps(all[$0].range) }
        }
        marks = Array(repeating: Marks(), count: all.count)
    }

    mutating func append(
        _ queue: FabricProtocol.Operation.Queue, _ flags: DoorbellFlags, _ touched: Touched
    ) -> [UInt32] {
        var latest: [Key: UInt32] = [:]
        func wait(_ marks: [Key: UInt32]) {
            for (key, command) in marks where key.queue != queue { latest[key] = max(latest[key] ?? 0, command) }
        }
        let spill = touched.spill.map { [spills[$0]!] } ?? []
        let reads = touched.reads + (touched.writesSpill ? [] : spill)
        let writes = touched.writes + (touched.writesSpill ? spill : [])
        for one in reads { for other in sharing[one] { wait(marks[other].written) } }
        for one in writes {
            for other in sharing[one] {
                wait(marks[other].written)
                wait(marks[other].read)
            }
        }
        let key = Key(queue: queue, flags: flags)
        for one in reads { marks[one].read[key] = count }
        for one in writes { marks[one].written[key] = count }
        count += 1
        return Array(Set(latest.values)).sorted()
    }
}
