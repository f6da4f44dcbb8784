package import Vocabulary

/// One epoch as a list of sweeps over the rows, for one cut. Says what is computed from what, not where it lies.
///
/// Between two sums over neighbours everything is local to a row, so a sweep starts with one such sum, whose source
/// must be whole in device memory, and goes on row chunk by row chunk until the next source is made.
package struct Schedule: Sendable {
    package let model: ModelShape
    package let cut: Cut
    package let tensors: [Tensor]
    package let sweeps: [Sweep]
}

/// What the planner chooses. It changes where things lie and when they move, never a bit of a result.
package struct Cut: Hashable, Sendable {
    /// Where a tensor that is used row by row lies between its writing and its reading.
    package enum Placement: String, Sendable { case device, host, recompute }

    /// Rows of a chunk, a multiple of `ImageShape.tileRows`.
    package let chunkRows: Int
    /// Image sections that are fetched chunk by chunk on every pass instead of staying in device memory.
    package let streamed: Set<ImageSection>
    /// By tensor name; `device` where there is no entry.
    package let placements: [String: Placement]

    package init(chunkRows: Int, streamed: Set<ImageSection> = [], placements: [String: Placement] = [:]) {
        self.chunkRows = chunkRows
        self.streamed = streamed
        self.placements = placements
    }
}

/// A matrix or array that an epoch reads or writes.
package struct Tensor: Hashable, Sendable {
    package enum Extent: Hashable, Sendable {
        /// One row for each node, all in device memory.
        case nodes
        /// The rows of one chunk. Two slots where a queue fills or drains one while the other is in use.
        case chunk(slots: Int)
        /// Independent of the nodes.
        case fixed
    }

    package let name: String
    package let extent: Extent
    /// Bytes of one row; of the whole for `.fixed`.
    package let rowBytes: Int
    /// Elements of 4 bytes in a row, where it is a matrix.
    package let width: Int
    /// Where it comes from or goes to.
    package let window: Window?
    /// Sweeps during which it holds something; `nil` for the whole run.
    package var lifetime: ClosedRange<Int>?

    package enum Window: Hashable, Sendable {
        case image(ImageSection)
        /// Written by the device into the enclave's host tier; the number tells such windows apart.
        case spill(Int)
    }
}

/// Index into `Schedule.tensors`.
package typealias TensorIndex = Int

package struct Sweep: Sendable {
    package enum Phase: String, Sendable { case train, evaluate }
    package let phase: Phase
    package let title: String
    package var operations: [SweepOperation] = []
    /// Weights whose gradients are complete when the sweep ends.
    package var finishes: [Finish] = []

    package struct Finish: Hashable, Sendable {
        package let stack: TensorIndex
        package let entry: ParameterLayout.Entry
    }
}

/// What is done with each chunk of rows, in order.
package enum SweepOperation: Hashable, Sendable {
    case fetch(TensorIndex)
    case store(TensorIndex)
    case map(from: TensorIndex, to: TensorIndex, [SweepStep])
    /// Sum over neighbours, as `columns` lists them; reads all rows of `from`.
    case gather(from: TensorIndex, columns: TensorIndex, to: TensorIndex, [SweepStep])
    case product(
        TensorIndex, ParameterLayout.Entry, transposed: Bool, to: TensorIndex, accumulates: Bool, [SweepStep])
    /// Adds aᵀ·b to the gradient of `entry`, through `stack`.
    case tileProduct(TensorIndex, TensorIndex, stack: TensorIndex, ParameterLayout.Entry)
    /// Adds the column sums to the gradient of a bias, through `stack`.
    case columnSum(TensorIndex, stack: TensorIndex, ParameterLayout.Entry)
    /// Replaces logits by their gradient (`differentiates`) or leaves them.
    case loss(TensorIndex, differentiates: Bool)
}

package enum SweepStep: Hashable, Sendable {
    case bias(ParameterLayout.Entry)
    case scaleRows
    case relu
    case reluGradient(TensorIndex)
    /// The number is the layer whose output is dropped; 0 for the features.
    case dropout(Int)
    case add(TensorIndex)
}

// MARK: - Making it

extension Schedule {
    /// Row-wise tensors that a cut may place elsewhere, with the placements that are possible for each.
    package static func choices(model: ModelShape, image: ImageShape) -> [(name: String, others: [Cut.Placement])] {
        let schedule = Schedule(model: model, image: image, cut: Cut(chunkRows: ImageShape.tileRows))
        return schedule.movable.map { name in
            (name, name == "hidden1" && model.order(1) == .inImage ? [.recompute, .host] : [.host])
        }
    }

    package init(model: ModelShape, image: ImageShape, cut: Cut) {
        var builder = Builder(model: model, image: image, cut: cut)
        builder.forward(training: true)
        builder.backward()
        builder.forward(training: false)
        self = builder.finish()
    }

    private var movable: [String] { tensors.filter { Builder.movable($0.name) && $0.extent == .nodes }.map(\.name) }
}

private struct Builder {
    let model: ModelShape
    let image: ImageShape
    let cut: Cut
    let parameters: ParameterLayout
    var tensors: [Tensor] = []
    var byName: [String: TensorIndex] = [:]
    var sweeps: [Sweep] = []
    var spills = 0
    var training = true

    private var prefix: String { training ? "" : "evaluate." }
    private var isSAGE: Bool { model.aggregation == .sage }

    init(model: ModelShape, image: ImageShape, cut: Cut) {
        self.model = model
        self.image = image
        self.cut = cut
        parameters = model.parameters
    }

    /// Tensors that are only used row by row, and live from one sweep to a later one.
    static func movable(_ name: String) -> Bool {
        ["hidden", "skip", "gathered", "gradient", "skipGradient"].contains { kind in
            name.hasPrefix(kind) && name.dropFirst(kind.count).allSatisfy(\.isNumber)
        }
    }

    func finish() -> Schedule {
        var tensors = tensors
        for (index, sweep) in sweeps.enumerated() {
            let stacks = sweep.finishes.map(\.stack)
            for used in sweep.operations.flatMap(\.tensors) + stacks {
                if case .image = tensors[used].window, tensors[used].extent == .nodes { continue }
                let first = tensors[used].lifetime?.lowerBound ?? index
                tensors[used].lifetime = first...index
            }
        }
        return Schedule(model: model, cut: cut, tensors: tensors, sweeps: sweeps)
    }

    // MARK: Tensors

    private mutating func tensor(
        _ name: String, _ extent: Tensor.Extent, rowBytes: Int, width: Int, window: Tensor.Window? = nil
    ) -> TensorIndex {
        if let index = byName[name] { return index }
        tensors.append(
            Tensor(name: name, extent: extent, rowBytes: rowBytes, width: width, window: window, lifetime: nil))
        byName[name] = tensors.count - 1
        return tensors.count - 1
    }

    private mutating func whole(_ name: String, _ width: Int) -> TensorIndex {
        tensor(prefix + name, .nodes, rowBytes: width * 4, width: width)
    }

    /// A tensor that ends with its sweep.
    private mutating func chunk(_ name: String, _ width: Int) -> TensorIndex {
        tensor("sweep\(sweeps.count - 1).\(name)", .chunk(slots: 1), rowBytes: width * 4, width: width)
    }

    /// The rows of an image section: fetched by the chunk where it streams.
    private mutating func section(_ section: ImageSection) -> TensorIndex {
        let width = section == .columns ? 0 : model.widths[0]
        guard cut.streamed.contains(section) else {
            return tensor(
                "image.\(section)", .nodes, rowBytes: width * 4, width: width, window: .image(section))
        }
        let name = "sweep\(sweeps.count - 1).image.\(section)"
        let fetched = byName[name] != nil
        let index = tensor(name, .chunk(slots: 2), rowBytes: width * 4, width: width, window: .image(section))
        if !fetched { append(.fetch(index)) }
        return index
    }

    /// A row-wise tensor to be written in this sweep and read in a later one. Call `written` after writing it.
    private mutating func writable(_ name: String, _ width: Int) -> TensorIndex {
        guard training, let placement = cut.placements[name], placement != .device else { return whole(name, width) }
        if placement == .recompute { return chunk(name, width) }
        return spilled(name, width)
    }

    private mutating func spilled(_ name: String, _ width: Int) -> TensorIndex {
        let window: Tensor.Window
        if let index = tensors.first(where: { $0.name.hasSuffix(".\(name).spilled") })?.window {
            window = index
        } else {
            window = .spill(spills)
            spills += 1
        }
        return tensor(
            "sweep\(sweeps.count - 1).\(name).spilled", .chunk(slots: 2), rowBytes: width * 4, width: width,
            window: window)
    }

    private mutating func written(_ index: TensorIndex) {
        if case .spill = tensors[index].window { append(.store(index)) }
    }

    private mutating func readable(_ name: String, _ width: Int) -> TensorIndex {
        guard training, cut.placements[name] == .host else { return whole(name, width) }
        let known = byName["sweep\(sweeps.count - 1).\(name).spilled"] != nil
        let index = spilled(name, width)
        if !known { append(.fetch(index)) }
        return index
    }

    private mutating func append(_ operation: SweepOperation) {
        sweeps[sweeps.count - 1].operations.append(operation)
    }

    private mutating func begin(_ title: String) {
        sweeps.append(Sweep(phase: training ? .train : .evaluate, title: title))
    }

    private mutating func product(
        _ a: TensorIndex, _ entry: ParameterLayout.Entry, transposed: Bool = false, to target: TensorIndex,
        accumulates: Bool = false, _ steps: [SweepStep] = []
    ) {
        append(.product(a, entry, transposed: transposed, to: target, accumulates: accumulates, steps))
    }

    private mutating func gather(from source: TensorIndex, to target: TensorIndex, _ steps: [SweepStep]) {
        let columns = section(.columns)
        append(.gather(from: source, columns: columns, to: target, steps))
    }

    private mutating func gradient(_ a: TensorIndex, _ b: TensorIndex, _ entry: ParameterLayout.Entry) {
        let stack = stack(entry)
        append(.tileProduct(a, b, stack: stack, entry))
    }

    private mutating func stack(_ entry: ParameterLayout.Entry) -> TensorIndex {
        let tiles = (image.nodes + ImageShape.tileRows - 1) / ImageShape.tileRows
        // The levels of a binary counter over the tiles, and the sum of the tile at hand.
        let levels = Int.bitWidth - tiles.leadingZeroBitCount + 1
        let index = tensor(
            "stack.\(entry.name)", .fixed, rowBytes: levels * entry.count * 4, width: entry.columns)
        sweeps[sweeps.count - 1].finishes.append(Sweep.Finish(stack: index, entry: entry))
        return index
    }

    // MARK: Forward

    mutating func forward(training: Bool) {
        self.training = training
        begin(training ? "forward: features" : "evaluate: features")
        if model.order(1) == .inImage {
            let hidden = firstHidden(recomputes: false)
            makeSource(layer: 2, from: hidden)
        } else {
            makeSource(layer: 1, from: features())
        }
        for layer in (model.order(1) == .inImage ? 2 : 1)...model.layers {
            begin("\(training ? "forward" : "evaluate"): neighbours of layer \(layer)")
            let output = propagate(layer)
            if layer < model.layers {
                makeSource(layer: layer + 1, from: output)
            } else {
                append(.loss(output, differentiates: training))
                if training { descend(layer, output) }
            }
        }
    }

    /// Features of the chunk, dropped out while training.
    private mutating func features() -> TensorIndex {
        let features = section(.features)
        guard training, model.dropsFeatures, model.order(1) == .transformFirst else { return features }
        let dropped = chunk("features", model.widths[0])
        append(.map(from: features, to: dropped, [.dropout(0)]))
        return dropped
    }

    /// What follows a layer's sum: bias, and between layers relu and dropout.
    private func activation(_ layer: Int) -> [SweepStep] {
        var steps: [SweepStep] = [.bias(parameters[layer, .bias])]
        if layer < model.layers {
            steps.append(.relu)
            if training, model.dropsHidden { steps.append(.dropout(layer)) }
            if model.order(layer + 1) == .aggregateFirst, !isSAGE { steps.append(.scaleRows) }
        }
        return steps
    }

    /// Where a layer's output goes: straight into the next layer's source where that sums first.
    private mutating func output(_ layer: Int) -> TensorIndex {
        let width = model.widths[layer]
        if layer == model.layers { return training ? gradientTarget(layer) : chunk("logits", width) }
        if model.order(layer + 1) == .aggregateFirst { return whole("source\(layer + 1)", width) }
        return training ? writable("hidden\(layer)", width) : chunk("hidden\(layer)", width)
    }

    /// The first layer's output from the image alone.
    private mutating func firstHidden(recomputes: Bool) -> TensorIndex {
        let aggregate = section(.aggregate)
        let features = isSAGE ? section(.features) : nil
        let target = recomputes ? chunk("hidden1", model.widths[1]) : output(1)
        let steps = activation(1)
        product(aggregate, parameters[1, .weight], to: target, features == nil ? steps : [])
        if let features { product(features, parameters[1, .root], to: target, accumulates: true, steps) }
        if !recomputes { written(target) }
        return target
    }

    /// Makes what layer `layer` sums over from its input rows.
    private mutating func makeSource(layer: Int, from input: TensorIndex) {
        let width = model.widths[layer]
        switch model.order(layer) {
        case .inImage: preconditionFailure("the image holds this layer's sum")
        case .transformFirst:
            product(input, parameters[layer, .weight], to: whole("source\(layer)", width), isSAGE ? [] : [.scaleRows])
            if isSAGE {
                let skip = writable("skip\(layer)", width)
                product(input, parameters[layer, .root], to: skip)
                written(skip)
            }
        case .aggregateFirst:
            // Hidden layers have written it already; see `output`.
            guard layer == 1 else { return }
            append(
                .map(
                    from: input, to: whole("source1", model.widths[0]),
                    (training ? [.dropout(0)] : []) + (isSAGE ? [] : [.scaleRows])))
        }
    }

    /// Sums over neighbours and finishes the layer; returns its output rows.
    private mutating func propagate(_ layer: Int) -> TensorIndex {
        let (inner, outer) = (model.widths[layer - 1], model.widths[layer])
        let steps = activation(layer)
        let target: TensorIndex
        if model.order(layer) == .transformFirst {
            let source = whole("source\(layer)", outer)
            let skip = isSAGE ? readable("skip\(layer)", outer) : nil
            target = output(layer)
            gather(from: source, to: target, [.scaleRows] + (skip.map { [.add($0)] } ?? []) + steps)
        } else {
            let source = whole("source\(layer)", inner)
            let gathered = training ? writable("gathered\(layer)", inner) : chunk("gathered\(layer)", inner)
            gather(from: source, to: gathered, [.scaleRows])
            written(gathered)
            target = output(layer)
            product(gathered, parameters[layer, .weight], to: target, isSAGE ? [] : steps)
            if isSAGE { product(source, parameters[layer, .root], to: target, accumulates: true, steps) }
        }
        if layer < model.layers { written(target) }
        return target
    }

    // MARK: Backward

    mutating func backward() {
        training = true
        for layer in stride(from: model.layers, through: 1, by: -1) {
            switch model.order(layer) {
            case .inImage: break
            case .transformFirst: backwardTransform(layer)
            case .aggregateFirst: if layer > 1 { backwardAggregate(layer) }
            }
        }
    }

    /// Where the gradient of a layer's sum is put. SAGE needs it again in the next sweep where it transforms first.
    private mutating func gradientTarget(_ layer: Int) -> TensorIndex {
        let width = model.widths[layer]
        return isSAGE && model.order(layer) == .transformFirst
            ? writable("gradient\(layer)", width) : chunk("gradient\(layer)", width)
    }

    /// Given the gradient `dz` of layer `layer`'s sum: its bias and weights where they are local to the row, and the
    /// source of the sum that carries it on.
    private mutating func descend(_ layer: Int, _ dz: TensorIndex) {
        written(dz)
        let bias = parameters[layer, .bias]
        append(.columnSum(dz, stack: stack(bias), bias))
        switch model.order(layer) {
        case .inImage:
            gradient(section(.aggregate), dz, parameters[1, .weight])
            if isSAGE { gradient(section(.features), dz, parameters[1, .root]) }
        case .transformFirst:
            append(.map(from: dz, to: whole("gradientSource\(layer)", model.widths[layer]), [.scaleRows]))
        case .aggregateFirst:
            let inner = model.widths[layer - 1]
            gradient(readable("gathered\(layer)", inner), dz, parameters[layer, .weight])
            let source = whole("source\(layer)", inner)
            if isSAGE { gradient(source, dz, parameters[layer, .root]) }
            guard layer > 1 else { return }
            product(
                dz, parameters[layer, .weight], transposed: true, to: whole("gradientSource\(layer)", inner),
                [.scaleRows])
            if isSAGE {
                let skip = writable("skipGradient\(layer)", inner)
                product(dz, parameters[layer, .root], transposed: true, to: skip)
                written(skip)
            }
        }
    }

    private mutating func backwardTransform(_ layer: Int) {
        begin("backward: neighbours of layer \(layer)")
        let (inner, outer) = (model.widths[layer - 1], model.widths[layer])
        let dq = chunk("product\(layer)", outer)
        gather(from: whole("gradientSource\(layer)", outer), to: dq, isSAGE ? [] : [.scaleRows])
        let dz = isSAGE ? readable("gradient\(layer)", outer) : nil
        let input: TensorIndex
        if layer == 1 {
            input = features()
        } else if cut.placements["hidden\(layer - 1)"] == .recompute {
            input = firstHidden(recomputes: true)
        } else {
            input = readable("hidden\(layer - 1)", inner)
        }
        gradient(input, dq, parameters[layer, .weight])
        if let dz { gradient(input, dz, parameters[layer, .root]) }
        guard layer > 1 else { return }
        let target = gradientTarget(layer - 1)
        let steps = activationGradient(layer - 1, input)
        product(dq, parameters[layer, .weight], transposed: true, to: target, dz == nil ? steps : [])
        if let dz {
            product(dz, parameters[layer, .root], transposed: true, to: target, accumulates: true, steps)
        }
        descend(layer - 1, target)
    }

    private mutating func backwardAggregate(_ layer: Int) {
        begin("backward: neighbours of layer \(layer)")
        let inner = model.widths[layer - 1]
        let skip = isSAGE ? readable("skipGradient\(layer)", inner) : nil
        let target = gradientTarget(layer - 1)
        gather(
            from: whole("gradientSource\(layer)", inner), to: target,
            (isSAGE ? [] : [.scaleRows]) + (skip.map { [.add($0)] } ?? [])
                + activationGradient(layer - 1, whole("source\(layer)", inner)))
        descend(layer - 1, target)
    }

    private func activationGradient(_ layer: Int, _ activation: TensorIndex) -> [SweepStep] {
        (model.dropsHidden ? [.dropout(layer)] : []) + [.reluGradient(activation)]
    }
}

extension SweepOperation {
    /// Tensors that it reads or writes, weights apart.
    var tensors: [TensorIndex] {
        switch self {
        case .fetch(let index), .store(let index), .loss(let index, _): [index]
        case .map(let from, let to, let steps): [from, to] + steps.compactMap(\.tensor)
        case .gather(let from, let columns, let to, let steps): [from, columns, to] + steps.compactMap(\.tensor)
        case .product(let a, _, _, let to, _, let steps): [a, to] + steps.compactMap(\.tensor)
        case .tileProduct(let a, let b, let stack, _): [a, b, stack]
        case .columnSum(let a, let stack, _): [a, stack]
        }
    }
}

extension SweepStep {
    fileprivate var tensor: TensorIndex? {
        switch self {
        case .reluGradient(let index), .add(let index): index
        default: nil
        }
    }
}
