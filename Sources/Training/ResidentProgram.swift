import FabricProtocol
import Vocabulary

import TrainingPlanner

/// A run as one program that keeps everything in device memory: the kinds of model that the planner does not cut yet
/// (attention, relations, and what goes with them) and tasks other than classification.
///
/// Forward, backward and evaluation are written down operation by operation over all rows. Each sum is one chain in a
/// fixed order, so the number of threads and the device's memory change no bit.
struct ResidentProgram {
    let program: Program
    let parameters: ParameterTable
    let deviceBytes: Int
    /// Of it, what lives for the whole run.
    let wholeRunBytes: Int
    /// Floating-point operations of products, and bytes of rows that sums over neighbours read, in an epoch.
    let flops: Double
    let gatheredBytes: Double

    init(_ spec: ModelSpec, _ image: ImageShape, trainingByClass: [Int]) throws(TrainingError) {
        var builder = Builder(spec, image)
        try builder.start(trainingByClass)
        builder.resume()
        builder.train()
        builder.takeBest()
        builder.evaluate()
        builder.checkpoint()
        builder.export()
        program = builder.program
        parameters = builder.parameters
        deviceBytes = builder.peakBytes
        wholeRunBytes = builder.wholeRunBytes
        flops = builder.flops
        gatheredBytes = builder.gatheredBytes
    }
}

/// Names, shapes and places of a model's parameters in the one array that holds them.
package struct ParameterTable: Hashable, Sendable {
    package struct Entry: Hashable, Sendable {
        package enum Start: Sendable { case random, zero, one }
        package let name: String
        package let rows: Int
        package let columns: Int
        /// In elements.
        package let offset: Int
        package let isVector: Bool
        package let start: Start
        package var count: Int { rows * columns }
        package var tensorShape: [Int] { isVector ? [columns] : [rows, columns] }
    }

    // Entries start on whole cache lines; what lies between them stays zero.
    static let alignment = ParameterLayout.alignment

    package private(set) var entries: [Entry] = []
    package private(set) var count = 0
    /// Up to the end of the first layer.
    private(set) var firstLayerCount = 0

    init(_ layout: ParameterLayout) {
        entries = layout.entries.map { entry in
            let isVector = entry.role != .weight && entry.role != .root
            return Entry(
                name: entry.name, rows: entry.rows, columns: entry.columns, offset: entry.offset, isVector: isVector,
                start: isVector ? .zero : .random)
        }
        count = layout.count
        firstLayerCount = layout.firstLayerCount
    }

    init(_ spec: ModelSpec, _ image: ImageShape) {
        let widths = [image.features] + spec.hidden + [image.classes]
        for layer in 1..<widths.count {
            let (inner, outer) = (widths[layer - 1], widths[layer])
            let isLast = layer == widths.count - 1
            switch spec.model {
            case .gcn: add(layer, "weight", inner, outer)
            case .sage:
                add(layer, "weight", inner, outer)
                add(layer, "root", inner, outer)
            case .rgcn:
                for relation in image.relations.indices { add(layer, "relations.\(relation)", inner, outer) }
                add(layer, "root", inner, outer)
            case .gat:
                let wide = isLast ? outer * (spec.attention?.outputHeads ?? 1) : outer
                add(layer, "weight", inner, wide)
                add(layer, "attention_source", 1, wide, isVector: true)
                add(layer, "attention_target", 1, wide, isVector: true)
            }
            add(layer, "bias", 1, outer, isVector: true, .zero)
            if spec.layerNorm, !isLast {
                add(layer, "norm_scale", 1, outer, isVector: true, .one)
                add(layer, "norm_shift", 1, outer, isVector: true, .zero)
            }
            if layer == 1 { firstLayerCount = count }
        }
    }

    private mutating func add(
        _ layer: Int, _ name: String, _ rows: Int, _ columns: Int, isVector: Bool = false,
        _ start: Entry.Start = .random
    ) {
        entries.append(
            Entry(
                name: "layers.\(layer).\(name)", rows: rows, columns: columns, offset: count, isVector: isVector,
                start: start))
        count += (rows * columns + Self.alignment - 1) / Self.alignment * Self.alignment
    }

    subscript(_ layer: Int, _ name: String) -> Entry { entries.first { $0.name == "layers.\(layer).\(name)" }! }
}

// MARK: - Writing it down

private struct Builder {
    let spec: ModelSpec
    let image: ImageShape
    let parameters: ParameterTable
    private(set) var program = Program()
    private(set) var peakBytes = 0
    private(set) var wholeRunBytes = 0
    private(set) var flops = 0.0
    private(set) var gatheredBytes = 0.0

    /// A matrix with a row for each node, in a buffer of its own.
    private struct Tensor {
        let buffer: UInt16
        let width: Int
        var matrix: Matrix { Matrix(Place(buffer: buffer), stride: width) }
    }

    /// What the backward pass needs of a layer.
    private struct Kept {
        /// What it read: features, or the output of the layer before.
        var input: Tensor?
        /// Where it sums first: the sum.
        var gathered: Tensor?
        /// Before normalisation and activation.
        var sum: Tensor?
        /// After the activation, before dropout.
        var active: Tensor?
        /// Attention: what is attended to, scores of both ends (target, highest, inverse, source) and what came out.
        var z: Tensor?
        var scores: [Tensor] = []
        var attended: Tensor?
    }

    private let widths: [Int]
    private var fixed: [String: UInt16] = [:]
    private var free: [Range<Int>] = []
    private var lastOfQueue: [FabricProtocol.Operation.Queue: UInt32] = [:]
    private var flags: DoorbellFlags = []
    private var kept: [Kept] = []
    private var training = true
    private var layers: Int { widths.count - 1 }
    private var rows: Int { image.nodes }

    init(_ spec: ModelSpec, _ image: ImageShape) {
        self.spec = spec
        self.image = image
        parameters = ParameterTable(spec, image)
        widths = [image.features] + spec.hidden + [image.classes]
        program.windows =
            image.recipe.sections.map { section in
                Program.Window(
                    id: ModelSpec.window(of: section), direction: .read, purpose: .image(section),
                    byteCount: image.byteCount(section))
            } + [
                Program.Window(
                    id: ModelSpec.resultWindow, direction: .write, purpose: .result,
                    byteCount: parameters.count * 4)
            ] + TrainingCheckpoint.Part.windows(parameters: parameters.count)
    }

    // MARK: Memory

    private func padded(_ bytes: Int) -> Int {
        (bytes + Program.Buffer.alignment - 1) / Program.Buffer.alignment * Program.Buffer.alignment
    }

    /// A new buffer in the lowest gap that takes it. Commands that share bytes run on one queue, in order.
    private mutating func buffer(_ bytes: Int) -> UInt16 {
        let size = padded(bytes)
        var offset = peakBytes
        if let gap = free.firstIndex(where: { $0.count >= size }) {
            offset = free[gap].lowerBound
            free[gap] = offset + size..<free[gap].upperBound
            if free[gap].isEmpty { free.remove(at: gap) }
        } else if let last = free.last, last.upperBound == peakBytes {
            offset = last.lowerBound
            free.removeLast()
        }
        peakBytes = max(peakBytes, offset + size)
        program.buffers.append(Program.Buffer(offset: offset, byteCount: bytes))
        return UInt16(program.buffers.count - 1)
    }

    private mutating func release(_ buffer: UInt16) {
        let given = program.buffers[Int(buffer)]
        var range = given.offset..<given.offset + padded(given.byteCount)
        free.removeAll { other in
            guard other.upperBound == range.lowerBound || other.lowerBound == range.upperBound else { return false }
            range = min(range.lowerBound, other.lowerBound)..<max(range.upperBound, other.upperBound)
            return true
        }
        let at = free.firstIndex { $0.lowerBound > range.lowerBound } ?? free.count
        free.insert(range, at: at)
    }

    private mutating func tensor(_ width: Int) -> Tensor { Tensor(buffer: buffer(rows * width * 4), width: width) }
    private mutating func release(_ tensor: Tensor?) { if let tensor { release(tensor.buffer) } }

    private func place(_ name: String, offset: Int = 0) -> Place { Place(buffer: fixed[name]!, offset: offset) }
    private func weight(_ entry: ParameterTable.Entry) -> Matrix {
        Matrix(place("parameters", offset: entry.offset * 4), stride: entry.columns)
    }
    private func vector(_ layer: Int, _ name: String) -> Place {
        place("parameters", offset: parameters[layer, name].offset * 4)
    }
    private func section(_ section: ImageSection) -> Tensor { Tensor(buffer: fixed["\(section)"]!, width: widths[0]) }

    // MARK: Commands

    /// Each command waits for the latest of the other queues; on its own queue the order is that of the numbers.
    private mutating func append(_ operation: FabricProtocol.Operation) {
        let queue = operation.queue
        let others = lastOfQueue.filter { $0.key != queue }.map(\.value).sorted()
        lastOfQueue[queue] = UInt32(program.commands.count)
        program.commands.append(Program.Command(operation, dependsOn: others, onlyWith: flags))
    }

    mutating func start(_ trainingByClass: [Int]) throws(TrainingError) {
        flags = .first
        for section in image.recipe.sections {
            fixed["\(section)"] = buffer(image.byteCount(section))
            append(
                .fetch(
                    Transfer(
                        window: ModelSpec.window(of: section), windowOffset: 0, byteCount: image.byteCount(section),
                        place: place("\(section)"))))
        }
        for name in ["parameters", "gradients", "firstMoments", "secondMoments", "best"] {
            fixed[name] = buffer(parameters.count * 4)
        }
        for name in ["trainScores", "evaluateScores"] { fixed[name] = buffer(Scores.byteCount) }
        fixed["bestState"] = buffer(KeepBest.stateBytes)
        fixed["total"] = buffer(8)
        for (name, buffer) in fixed.sorted(by: { $0.value < $1.value })
        where !ImageSection.allCases.contains(where: { "\($0)" == name }) {
            append(.fill(Fill(place(name), count: program.buffers[Int(buffer)].byteCount / 4)))
        }
        for (stream, entry) in parameters.entries.enumerated() {
            switch entry.start {
            case .zero: break
            case .one:
                append(.fill(Fill(place("parameters", offset: entry.offset * 4), count: entry.count, value: 1)))
            case .random:
                append(
                    .initialise(
                        Initialise(
                            target: weight(entry), rows: entry.rows, columns: entry.columns, stream: UInt32(stream))))
            }
        }
        if spec.classWeights == .balanced { try fillClassWeights(trainingByClass) }
        append(
            .labelWeight(
                LabelWeight(
                    targets: targets, split: place("split"), rows: rows, classes: image.classes,
                    classWeights: classWeights, total: place("total"), accumulates: false)))
        wholeRunBytes = peakBytes
    }

    private mutating func fillClassWeights(_ counts: [Int]) throws(TrainingError) {
        guard counts.count == image.classes else {
            throw TrainingError(.classCountsMissing, "balanced class weights need the training nodes of each class")
        }
        fixed["classWeights"] = buffer(image.classes * 4)
        let total = counts.reduce(0, +)
        for (index, count) in counts.enumerated() {
            // A class without training nodes has no loss, so its weight does not matter.
            let weight = count == 0 ? 1 : Float(Double(total) / (Double(counts.count) * Double(count)))
            append(.fill(Fill(place("classWeights", offset: index * 4), count: 1, value: weight)))
        }
    }

    private var classWeights: Place? { fixed["classWeights"].map { Place(buffer: $0) } }

    private var targets: Targets {
        switch image.recipe.target {
        case .classes: .classes(place("labels"))
        case .classSets: .bits(place("labelSets"))
        case .values: .values(Matrix(place("targets"), stride: 1))
        }
    }

    mutating func train() {
        flags = .train
        training = true
        let outputs = forward()
        let gradient = tensor(image.classes)
        loss(outputs, gradient: gradient, "trainScores")
        release(outputs)
        backward(gradient)
        let parts =
            spec.weightDecayLayers == .all
            ? [0..<parameters.count]
            : [0..<parameters.firstLayerCount, parameters.firstLayerCount..<parameters.count]
        for (index, part) in parts.enumerated() {
            let offset = part.lowerBound * 4
            append(
                .adam(
                    Adam(
                        parameter: place("parameters", offset: offset), gradient: place("gradients", offset: offset),
                        firstMoment: place("firstMoments", offset: offset),
                        secondMoment: place("secondMoments", offset: offset), count: part.count,
                        weightDecay: index == 0 ? Float(spec.weightDecay.value) : 0)))
        }
        append(.report(Report(scores: place("trainScores"), totalRows: rows, slot: ModelSpec.trainingSlot)))
    }

    mutating func evaluate() {
        flags = .evaluate
        training = false
        let outputs = forward()
        loss(outputs, gradient: nil, "evaluateScores")
        release(outputs)
        append(
            .keepBest(
                KeepBest(
                    scores: place("evaluateScores"), rule: spec.metric.rule, parameters: place("parameters"),
                    best: place("best"), count: parameters.count, state: place("bestState"))))
        append(.report(Report(scores: place("evaluateScores"), totalRows: rows, slot: ModelSpec.evaluationSlot)))
    }

    private mutating func loss(_ outputs: Tensor, gradient: Tensor?, _ scores: String) {
        append(
            .loss(
                Loss(
                    outputs: outputs.matrix, targets: targets, split: place("split"), firstRow: 0, rows: rows,
                    totalRows: rows, classes: image.classes, classWeights: classWeights, total: place("total"),
                    gradient: gradient?.matrix, scores: place(scores))))
    }

    private mutating func transfer(_ part: TrainingCheckpoint.Part, _ window: UInt16) -> Transfer {
        Transfer(
            window: window, windowOffset: 0, byteCount: part.byteCount(parameters: parameters.count),
            place: place("\(part)"))
    }

    mutating func resume() {
        flags = .resume
        for part in TrainingCheckpoint.Part.allCases { append(.fetch(transfer(part, part.stateWindow))) }
    }

    mutating func checkpoint() {
        flags = .checkpoint
        for part in TrainingCheckpoint.Part.allCases { append(.store(transfer(part, part.resultWindow))) }
    }

    mutating func takeBest() {
        flags = .export
        let columns = ParameterTable.alignment
        append(
            .copy(
                Copy(
                    source: Matrix(place("best"), stride: columns),
                    target: Matrix(place("parameters"), stride: columns),
                    rows: parameters.count / columns, columns: columns)))
    }

    mutating func export() {
        flags = .export
        append(
            .store(
                Transfer(
                    window: ModelSpec.resultWindow, windowOffset: 0, byteCount: parameters.count * 4,
                    place: place("best"))))
    }

    // MARK: Operations

    private mutating func map(_ source: Tensor, to target: Tensor, _ steps: [Step]) {
        append(
            .map(RowMap(source: source.matrix, target: target.matrix, rows: rows, columns: target.width, steps: steps)))
    }

    private mutating func product(
        _ a: Tensor, _ entry: ParameterTable.Entry, transposed: Bool = false, to target: Tensor,
        accumulates: Bool = false, _ steps: [Step] = []
    ) {
        flops += 2 * Double(rows) * Double(entry.count)
        append(
            .product(
                Product(
                    a: a.matrix, b: weight(entry), c: target.matrix, rows: rows,
                    columns: transposed ? entry.rows : entry.columns, inner: transposed ? entry.columns : entry.rows,
                    transposesB: transposed, accumulates: accumulates, steps: steps)))
    }

    /// The weight's gradient, aᵀ · b.
    private mutating func weightGradient(_ a: Tensor, _ b: Tensor, _ entry: ParameterTable.Entry) {
        flops += 2 * Double(rows) * Double(entry.count)
        let stack = buffer(Program.tileStackBytes(totalRows: rows, rows: entry.rows, columns: entry.columns))
        append(
            .tileProduct(
                TileProduct(
                    a: a.matrix, b: b.matrix, m: entry.rows, n: entry.columns, firstRow: 0, rows: rows,
                    totalRows: rows, stack: Place(buffer: stack))))
        finish(stack, entry)
    }

    private mutating func columnSum(
        _ a: Tensor, _ entry: ParameterTable.Entry, factors: TileColumnSum.Factors? = nil
    ) {
        let stack = buffer(Program.tileStackBytes(totalRows: rows, rows: 1, columns: entry.columns))
        append(
            .tileColumnSum(
                TileColumnSum(
                    a: a.matrix, factors: factors, columns: entry.columns, firstRow: 0, rows: rows, totalRows: rows,
                    stack: Place(buffer: stack))))
        finish(stack, entry)
    }

    private mutating func finish(_ stack: UInt16, _ entry: ParameterTable.Entry) {
        append(
            .tileFinish(
                TileFinish(
                    stack: Place(buffer: stack), totalRows: rows, count: entry.count,
                    target: place("gradients", offset: entry.offset * 4))))
        release(stack)
    }

    /// The neighbours of all rows, of one relation where there are some.
    private func neighbours(_ relation: Int?) -> Neighbours {
        let shape = relation.map { image.relations[$0] }
        let base = Int(shape?.tileEdges[0] ?? 0)
        return Neighbours(
            rowPointers: place("rowPointers", offset: (relation ?? 0) * rows * 8),
            columns: place("columns", offset: base * 4), edgeBase: base, edges: shape?.edges ?? image.edges,
            firstRow: 0, rows: rows, nodes: rows)
    }

    private func scale(_ relation: Int? = nil) -> Step {
        .scaleRows(place("scale", offset: (relation ?? 0) * rows * 4))
    }

    private mutating func gather(
        _ source: Tensor, to target: Tensor, _ relation: Int? = nil, _ steps: [Step] = []
    ) {
        let neighbours = neighbours(relation)
        gatheredBytes += Double(neighbours.edges * source.width * 4)
        append(
            .aggregate(
                Aggregate(
                    neighbours: neighbours, source: source.matrix, sourceFirstRow: 0, sourceRows: rows,
                    target: target.matrix, width: source.width, accumulates: false, steps: steps)))
    }

    private func dropout(_ layer: Int) -> [Step] {
        let probability = Float((layer == 0 ? spec.inputDropout : spec.dropout).value)
        guard training, probability > 0 else { return [] }
        return [.dropout(Dropout(probability: probability, stream: UInt32(layer)))]
    }

    // MARK: Forward

    private mutating func forward() -> Tensor {
        kept = Array(repeating: Kept(), count: layers + 1)
        var input: Tensor?
        if image.recipe.sections.contains(.features) {
            input = section(.features)
            if !dropout(0).isEmpty {
                let dropped = tensor(widths[0])
                map(section(.features), to: dropped, dropout(0))
                input = dropped
            }
        }
        for layer in 1...layers {
            kept[layer].input = input
            let sum = convolution(layer, input)
            guard layer < layers else {
                if !training { releaseInput(layer) }
                return sum
            }
            let width = widths[layer]
            let active = tensor(width)
            var steps: [Step] = []
            if spec.layerNorm {
                steps = [
                    .normalise(epsilon: 1e-5), .scaleColumns(vector(layer, "norm_scale")),
                    .bias(vector(layer, "norm_shift")),
                ]
            }
            map(sum, to: active, steps + [spec.activation == .relu ? .relu : .elu])
            var output = active
            let residual = isResidual(layer) ? input : nil
            if !dropout(layer).isEmpty || residual != nil {
                output = tensor(width)
                map(active, to: output, dropout(layer) + (residual.map { [.add($0.matrix)] } ?? []))
            }
            if training {
                kept[layer].sum = spec.layerNorm ? sum : nil
                kept[layer].active = active
                if !spec.layerNorm { release(sum) }
            } else {
                release(sum)
                if output.buffer != active.buffer { release(active) }
                releaseInput(layer)
            }
            input = output
        }
        preconditionFailure("a model has at least one layer")
    }

    /// Evaluation keeps nothing that the next layer does not read.
    private mutating func releaseInput(_ layer: Int) {
        guard layer > 1 else { return }
        release(kept[layer].input)
    }

    private func isResidual(_ layer: Int) -> Bool {
        spec.residual && layer > 1 && layer < layers && widths[layer] == widths[layer - 1]
    }

    private var order: (Int) -> ModelShape.Order {
        spec.shape(features: image.features, classes: image.classes).order
    }

    /// A layer's sum with its bias: what is normalised and activated.
    private mutating func convolution(_ layer: Int, _ input: Tensor?) -> Tensor {
        let bias = Step.bias(vector(layer, "bias"))
        switch spec.model {
        case .gat: return attention(layer, input!, bias)
        case .rgcn: return relations(layer, input!, bias)
        case .gcn, .sage: return plain(layer, input, bias)
        }
    }

    /// root + Σ over relations, in their order, each transformed first.
    private mutating func relations(_ layer: Int, _ input: Tensor, _ bias: Step) -> Tensor {
        let width = widths[layer]
        var sum = tensor(width)
        product(input, parameters[layer, "root"], to: sum)
        for relation in image.relations.indices {
            let source = tensor(width)
            product(input, parameters[layer, "relations.\(relation)"], to: source)
            let next = tensor(width)
            let isLast = relation == image.relations.count - 1
            gather(
                source, to: next, relation, [scale(relation), .add(sum.matrix)] + (isLast ? [bias] : []))
            release(source)
            release(sum)
            sum = next
        }
        return sum
    }

    private mutating func plain(_ layer: Int, _ input: Tensor?, _ bias: Step) -> Tensor {
        let isSAGE = spec.model == .sage
        let sum = tensor(widths[layer])
        let weight = parameters[layer, "weight"]
        switch order(layer) {
        case .inImage:
            product(section(.aggregate), weight, to: sum, isSAGE ? [] : [bias])
            if isSAGE {
                product(section(.features), parameters[layer, "root"], to: sum, accumulates: true, [bias])
            }
        case .transformFirst:
            let source = tensor(widths[layer])
            product(input!, weight, to: source, isSAGE ? [] : [scale()])
            if isSAGE {
                let skip = tensor(widths[layer])
                product(input!, parameters[layer, "root"], to: skip)
                gather(source, to: sum, nil, [scale(), .add(skip.matrix), bias])
                release(skip)
            } else {
                gather(source, to: sum, nil, [scale(), bias])
            }
            release(source)
        case .aggregateFirst:
            let gathered = tensor(widths[layer - 1])
            if isSAGE {
                gather(input!, to: gathered, nil, [scale()])
            } else {
                let source = tensor(widths[layer - 1])
                map(input!, to: source, [scale()])
                gather(source, to: gathered, nil, [scale()])
                release(source)
            }
            product(gathered, weight, to: sum, isSAGE ? [] : [bias])
            if isSAGE { product(input!, parameters[layer, "root"], to: sum, accumulates: true, [bias]) }
            if training { kept[layer].gathered = gathered } else { release(gathered) }
        }
        return sum
    }

    private func attention(_ layer: Int) -> Attention {
        let isLast = layer == layers
        let heads = isLast ? spec.attention!.outputHeads : spec.attention!.heads
        let probability = Float(spec.attention!.dropout.value)
        return Attention(
            heads: heads, headWidth: isLast ? widths[layer] : widths[layer] / heads, slope: 0.2,
            dropout: training && probability > 0
                ? Dropout(probability: probability, stream: UInt32(layer)) : nil)
    }

    private func ends(_ scores: [Tensor]) -> AttentionTargets {
        AttentionTargets(scores: scores[0].matrix, highest: scores[1].matrix, inverse: scores[2].matrix)
    }

    private mutating func attention(_ layer: Int, _ input: Tensor, _ bias: Step) -> Tensor {
        let attention = attention(layer)
        let z = tensor(attention.width)
        product(input, parameters[layer, "weight"], to: z)
        let scores = (0..<4).map { _ in tensor(attention.heads) }
        for (name, target) in [("attention_target", scores[0]), ("attention_source", scores[3])] {
            append(
                .headDots(
                    HeadDots(
                        x: z.matrix, y: .vector(vector(layer, name)), target: target.matrix, rows: rows,
                        heads: attention.heads, headWidth: attention.headWidth)))
        }
        let neighbours = neighbours(nil)
        append(
            .attentionScale(
                AttentionScale(
                    attention: attention, neighbours: neighbours, targets: ends(scores),
                    sourceScores: scores[3].matrix)))
        let attended = tensor(attention.width)
        gatheredBytes += Double(neighbours.edges * attention.width * 4)
        append(
            .attend(
                Attend(
                    attention: attention, neighbours: neighbours, targets: ends(scores),
                    sourceScores: scores[3].matrix, source: z.matrix, sourceFirstRow: 0, sourceRows: rows,
                    target: attended.matrix, accumulates: false)))
        let sum = tensor(widths[layer])
        meanOfHeads(attended, layer == layers ? attention.heads : 1, to: sum, bias)
        if training {
            kept[layer].z = z
            kept[layer].scores = scores
            kept[layer].attended = attended
        } else {
            for tensor in [z, attended] + scores { release(tensor) }
        }
        return sum
    }

    /// The columns of one of `heads` blocks that stand side by side.
    private func block(_ tensor: Tensor, _ head: Int, of heads: Int) -> Matrix {
        Matrix(Place(buffer: tensor.buffer, offset: head * tensor.width / heads * 4), stride: tensor.width)
    }

    private mutating func meanOfHeads(_ source: Tensor, _ heads: Int, to target: Tensor, _ bias: Step) {
        let atOnce = 16
        for first in stride(from: 0, to: heads, by: atOnce) {
            let last = min(first + atOnce, heads)
            let isFirst = first == 0
            let adds = (isFirst ? 1 : first)..<last
            var steps = adds.map { Step.add(block(source, $0, of: heads)) }
            if last == heads { steps += (heads > 1 ? [.scale(1 / Float(heads))] : []) + [bias] }
            append(
                .map(
                    RowMap(
                        source: isFirst ? block(source, 0, of: heads) : target.matrix, target: target.matrix,
                        rows: rows, columns: target.width, steps: steps)))
        }
    }

    // MARK: Backward

    /// - Parameter gradient: of the last layer's sum; released here.
    private mutating func backward(_ gradient: Tensor) {
        var gradient = gradient
        for layer in stride(from: layers, through: 1, by: -1) {
            columnSum(gradient, parameters[layer, "bias"])
            let input: Tensor? =
                switch spec.model {
                case .gat: attentionGradient(layer, gradient)
                case .rgcn: relationsGradient(layer, gradient)
                case .gcn, .sage: plainGradient(layer, gradient)
                }
            release(gradient)
            releaseKept(layer)
            guard layer > 1, var output = input else { return }
            if let passed = passedOn {
                let joined = tensor(widths[layer - 1])
                map(output, to: joined, [.add(passed.matrix)])
                release(output)
                release(passed)
                passedOn = nil
                output = joined
            }
            gradient = activationGradient(layer - 1, output)
        }
    }

    /// The gradient of a residual layer's output, which goes to its input as it is.
    private var passedOn: Tensor?

    /// From the gradient of a hidden layer's output to that of its sum.
    private mutating func activationGradient(_ layer: Int, _ output: Tensor) -> Tensor {
        let active = kept[layer].active!
        let inside = tensor(widths[layer])
        map(
            output, to: inside,
            dropout(layer) + [spec.activation == .relu ? .reluGradient(active.matrix) : .eluGradient(active.matrix)])
        if isResidual(layer) { passedOn = output } else { release(output) }
        guard spec.layerNorm, let sum = kept[layer].sum else { return inside }
        let normal = tensor(widths[layer])
        map(sum, to: normal, [.normalise(epsilon: 1e-5)])
        columnSum(inside, parameters[layer, "norm_scale"], factors: .elements(normal.matrix))
        columnSum(inside, parameters[layer, "norm_shift"])
        release(normal)
        let gradient = tensor(widths[layer])
        map(
            inside, to: gradient,
            [
                .scaleColumns(vector(layer, "norm_scale")),
                .normaliseGradient(NormaliseGradient(input: sum.matrix, epsilon: 1e-5)),
            ])
        release(inside)
        return gradient
    }

    /// A layer's own tensors. Its input is the output of the layer before, released here, too: nothing before reads it
    /// again but its own activation, which is another tensor where dropout or a residual comes between.
    private mutating func releaseKept(_ layer: Int) {
        let own = kept[layer]
        for tensor in [own.gathered, own.sum, own.z, own.attended] + own.scores { release(tensor) }
        if let active = own.active, active.buffer != output(of: layer)?.buffer { release(active) }
        // The output itself was read by the layer after and, where it is the activation, by this one.
        if layer < layers { release(output(of: layer)) }
        if layer == 1, let input = own.input, input.buffer != fixed["features"] { release(input) }
    }

    private func output(of layer: Int) -> Tensor? { layer < layers ? kept[layer + 1].input : nil }

    private mutating func relationsGradient(_ layer: Int, _ gradient: Tensor) -> Tensor? {
        let input = kept[layer].input!
        weightGradient(input, gradient, parameters[layer, "root"])
        var out: Tensor?
        if layer > 1 {
            out = tensor(widths[layer - 1])
            product(gradient, parameters[layer, "root"], transposed: true, to: out!)
        }
        for relation in image.relations.indices {
            let entry = parameters[layer, "relations.\(relation)"]
            let source = tensor(widths[layer])
            map(gradient, to: source, [scale(relation)])
            let summed = tensor(widths[layer])
            // The other direction of a predicate is the transpose.
            gather(source, to: summed, relation ^ 1)
            release(source)
            weightGradient(input, summed, entry)
            if let out { product(summed, entry, transposed: true, to: out, accumulates: true) }
            release(summed)
        }
        return out
    }

    private mutating func plainGradient(_ layer: Int, _ gradient: Tensor) -> Tensor? {
        let isSAGE = spec.model == .sage
        let weight = parameters[layer, "weight"]
        let inner = widths[layer - 1]
        switch order(layer) {
        case .inImage:
            weightGradient(section(.aggregate), gradient, weight)
            if isSAGE { weightGradient(section(.features), gradient, parameters[layer, "root"]) }
            return nil
        case .transformFirst:
            let input = kept[layer].input!
            let source = tensor(widths[layer])
            map(gradient, to: source, [scale()])
            let summed = tensor(widths[layer])
            gather(source, to: summed, nil, isSAGE ? [] : [scale()])
            release(source)
            weightGradient(input, summed, weight)
            if isSAGE { weightGradient(input, gradient, parameters[layer, "root"]) }
            var out: Tensor?
            if layer > 1 {
                out = tensor(inner)
                product(summed, weight, transposed: true, to: out!)
                if isSAGE {
                    product(gradient, parameters[layer, "root"], transposed: true, to: out!, accumulates: true)
                }
            }
            release(summed)
            return out
        case .aggregateFirst:
            weightGradient(kept[layer].gathered!, gradient, weight)
            if isSAGE { weightGradient(kept[layer].input!, gradient, parameters[layer, "root"]) }
            guard layer > 1 else { return nil }
            let source = tensor(inner)
            product(gradient, weight, transposed: true, to: source, [scale()])
            let out = tensor(inner)
            if isSAGE {
                let skip = tensor(inner)
                product(gradient, parameters[layer, "root"], transposed: true, to: skip)
                gather(source, to: out, nil, [.add(skip.matrix)])
                release(skip)
            } else {
                gather(source, to: out, nil, [scale()])
            }
            release(source)
            return out
        }
    }

    private mutating func attentionGradient(_ layer: Int, _ gradient: Tensor) -> Tensor? {
        let attention = attention(layer)
        let own = kept[layer]
        let (z, attended) = (own.z!, own.attended!)
        // The gradient of what attention gave: of each output head a share.
        var wide = gradient
        if layer == layers, attention.heads > 1 {
            wide = tensor(attention.width)
            for head in 0..<attention.heads {
                append(
                    .map(
                        RowMap(
                            source: gradient.matrix, target: block(wide, head, of: attention.heads), rows: rows,
                            columns: attention.headWidth, steps: [.scale(1 / Float(attention.heads))])))
            }
        }
        let dots = tensor(attention.heads)
        append(
            .headDots(
                HeadDots(
                    x: wide.matrix, y: .rows(attended.matrix), target: dots.matrix, rows: rows,
                    heads: attention.heads, headWidth: attention.headWidth)))
        let ofTargets = tensor(attention.heads)
        let ofSources = tensor(attention.heads)
        let ofZ = tensor(attention.width)
        for end in [AttentionGradient.End.targets, .sources] {
            let neighbours = neighbours(nil)
            gatheredBytes += Double(neighbours.edges * attention.width * 4)
            append(
                .attentionGradient(
                    AttentionGradient(
                        attention: attention, rowsAre: end, neighbours: neighbours, otherFirstRow: 0, otherRows: rows,
                        targets: ends(own.scores), dots: dots.matrix, gradient: wide.matrix,
                        sourceScores: own.scores[3].matrix, source: z.matrix,
                        scoreGradient: (end == .targets ? ofTargets : ofSources).matrix,
                        sourceGradient: end == .sources ? ofZ.matrix : nil, accumulates: false)))
        }
        release(dots)
        if wide.buffer != gradient.buffer { release(wide) }
        let joined = tensor(attention.width)
        map(
            ofZ, to: joined,
            [("attention_target", ofTargets), ("attention_source", ofSources)].map { name, factors in
                .addHeads(HeadOuter(factors: factors.matrix, heads: attention.heads, vector: vector(layer, name)))
            })
        release(ofZ)
        columnSum(
            z, parameters[layer, "attention_target"], factors: .heads(ofTargets.matrix, heads: attention.heads))
        columnSum(
            z, parameters[layer, "attention_source"], factors: .heads(ofSources.matrix, heads: attention.heads))
        release(ofTargets)
        release(ofSources)
        weightGradient(own.input!, joined, parameters[layer, "weight"])
        var out: Tensor?
        if layer > 1 {
            out = tensor(widths[layer - 1])
            product(joined, parameters[layer, "weight"], transposed: true, to: out!)
        }
        release(joined)
        return out
    }
}
