package import Vocabulary

extension OpGraph {
    /// The epoch of a model on an image: forward, backward, and forward again without dropout for the figures.
    package init(model: ModelShape, image: ImageShape) {
        var lowering = Lowering(OpGraph(model, image))
        lowering.forward(.train)
        lowering.backward()
        lowering.forward(.evaluate)
        self = lowering.graph
    }

    private init(_ model: ModelShape, _ image: ImageShape) {
        self.model = model
        self.image = image
    }
}

/// Rules by which a model becomes operations. They fix the order of every sum, so they are part of what a
/// specification means: none of them looks at a budget.
private struct Lowering {
    var graph: OpGraph
    private var phase = OpGraph.Phase.train
    private var layer = 0
    private var byName: [String: ValueIndex] = [:]
    private let model: ModelShape
    private let parameters: ParameterLayout

    init(_ graph: OpGraph) {
        self.graph = graph
        model = graph.model
        parameters = model.parameters
        for section in ImageSection.allCases
        where [.columns, .features, .aggregate].contains(section) && graph.image.recipe.sections.contains(section) {
            byName["image.\(section)"] = self.graph.values.count
            self.graph.values.append(
                OpGraph.Value(
                    name: "image.\(section)", width: section == .columns ? 0 : model.widths[0], section: section))
        }
    }

    private var isSAGE: Bool { model.aggregation == .sage }
    private var training: Bool { phase == .train }
    /// Where nothing stands between a layer's sum and its activation, the activation is done with the sum, and its
    /// gradient with the product that makes it.
    private var isPlain: Bool { !model.normalises && !model.isResidual }

    // MARK: Values and operations

    private mutating func value(_ name: String, _ width: Int) -> ValueIndex {
        let name = training ? name : "evaluate.\(name)"
        if let index = byName[name] { return index }
        byName[name] = graph.values.count
        graph.values.append(OpGraph.Value(name: name, width: width, section: nil))
        return graph.values.count - 1
    }

    private func section(_ section: ImageSection) -> ValueIndex { byName["image.\(section)"]! }

    private mutating func append(_ kind: OpGraph.Kind) {
        graph.ops.append(OpGraph.Op(phase: phase, layer: layer, kind: kind))
    }

    private mutating func product(
        _ a: ValueIndex, _ entry: ParameterLayout.Entry, transposed: Bool = false, to target: ValueIndex,
        accumulates: Bool = false, _ steps: [ValueStep] = []
    ) {
        append(.product(a, entry, transposed: transposed, to: target, accumulates: accumulates, steps))
    }

    // MARK: Forward

    mutating func forward(_ phase: OpGraph.Phase) {
        self.phase = phase
        layer = 1
        var input = model.order(1) == .inImage ? finish(1, firstSum()) : features()
        for layer in (model.order(1) == .inImage ? 2 : 1)..<model.layers + 1 {
            self.layer = layer
            input = finish(layer, sum(layer, source(layer, input), input), residual: input)
        }
        append(.loss(input, gradient: training ? value("gradient\(model.layers)", model.widths.last!) : nil))
    }

    /// Features, dropped out while training.
    private mutating func features() -> ValueIndex {
        let features = section(.features)
        guard training, model.dropsFeatures, model.order(1) == .transformFirst else { return features }
        let dropped = value("features", model.widths[0])
        append(.map(features, to: dropped, [.dropout(0)]))
        return dropped
    }

    /// What a layer's last operation makes, and the steps that it does at once.
    private mutating func result(_ layer: Int) -> (ValueIndex, [ValueStep]) {
        let width = model.widths[layer]
        let bias = ValueStep.bias(parameters[layer, .bias])
        if layer == model.layers { return (value("outputs", width), [bias]) }
        if model.normalises { return (value("sum\(layer)", width), [bias]) }
        var steps = [bias, .relu]
        if training, model.dropsHidden { steps.append(.dropout(layer)) }
        guard isPlain else { return (value("active\(layer)", width), steps) }
        if isScaledSource(layer + 1) { steps.append(.scaleRows) }
        return (value("hidden\(layer)", width), steps)
    }

    /// Whether a layer sums over its input itself, already multiplied by the aggregation's factor.
    private func isScaledSource(_ layer: Int) -> Bool { model.order(layer) == .aggregateFirst && !isSAGE && isPlain }

    /// What is left to do between a layer's sum and its output.
    private mutating func finish(_ layer: Int, _ result: ValueIndex, residual: ValueIndex? = nil) -> ValueIndex {
        guard layer < model.layers, !isPlain else { return result }
        var result = result
        let width = model.widths[layer]
        if model.normalises {
            let active = activated(layer, result)
            guard training, model.dropsHidden else { return added(layer, active, residual, []) }
            return added(layer, active, residual, [.dropout(layer)])
        }
        if model.isResidual(layer), let residual {
            let hidden = value("hidden\(layer)", width)
            append(.map(result, to: hidden, [.add(residual)]))
            result = hidden
        }
        return result
    }

    /// The activation of a normalised sum.
    private mutating func activated(_ layer: Int, _ sum: ValueIndex) -> ValueIndex {
        let active = value("active\(layer)", model.widths[layer])
        append(
            .map(
                sum, to: active,
                [
                    .normalise, .scaleColumns(parameters[layer, .normScale]), .bias(parameters[layer, .normShift]),
                    .relu,
                ]))
        return active
    }

    private mutating func added(
        _ layer: Int, _ active: ValueIndex, _ residual: ValueIndex?, _ steps: [ValueStep]
    ) -> ValueIndex {
        let steps = steps + (model.isResidual(layer) ? (residual.map { [.add($0)] } ?? []) : [])
        guard !steps.isEmpty else { return active }
        let hidden = value("hidden\(layer)", model.widths[layer])
        append(.map(active, to: hidden, steps))
        return hidden
    }

    /// The first layer's sum from the image alone.
    private mutating func firstSum() -> ValueIndex {
        let (target, steps) = result(1)
        product(section(.aggregate), parameters[1, .weight], to: target, isSAGE ? [] : steps)
        if isSAGE { product(section(.features), parameters[1, .root], to: target, accumulates: true, steps) }
        return target
    }

    /// What layer `layer` sums over.
    private mutating func source(_ layer: Int, _ input: ValueIndex) -> ValueIndex {
        switch model.order(layer) {
        case .inImage: preconditionFailure("the image holds this layer's sum")
        case .transformFirst:
            let source = value("source\(layer)", model.widths[layer])
            product(input, parameters[layer, .weight], to: source, isSAGE ? [] : [.scaleRows])
            if isSAGE { product(input, parameters[layer, .root], to: value("skip\(layer)", model.widths[layer])) }
            return source
        case .aggregateFirst:
            if layer > 1, isSAGE || isPlain { return input }
            let source = value("source\(layer)", model.widths[layer - 1])
            let drops = layer == 1 && training && model.dropsFeatures
            append(.map(input, to: source, (drops ? [.dropout(0)] : []) + (isSAGE ? [] : [.scaleRows])))
            return source
        }
    }

    /// Sums over neighbours and finishes the layer as far as `result` says.
    private mutating func sum(_ layer: Int, _ source: ValueIndex, _ input: ValueIndex) -> ValueIndex {
        let (target, steps) = result(layer)
        if model.order(layer) == .transformFirst {
            let skip = isSAGE ? [ValueStep.add(value("skip\(layer)", model.widths[layer]))] : []
            append(.gather(from: source, to: target, [.scaleRows] + skip + steps))
        } else {
            let gathered = value("gathered\(layer)", model.widths[layer - 1])
            append(.gather(from: source, to: gathered, [.scaleRows]))
            product(gathered, parameters[layer, .weight], to: target, isSAGE ? [] : steps)
            if isSAGE { product(source, parameters[layer, .root], to: target, accumulates: true, steps) }
        }
        return target
    }

    // MARK: Backward

    mutating func backward() {
        phase = .train
        for layer in stride(from: model.layers, through: 1, by: -1) {
            self.layer = layer
            let gradient = value("gradient\(layer)", model.widths[layer])
            append(.columnSum(gradient, factors: nil, parameters[layer, .bias]))
            switch model.order(layer) {
            case .inImage:
                append(.weightGradient(section(.aggregate), gradient, parameters[1, .weight]))
                if isSAGE { append(.weightGradient(section(.features), gradient, parameters[1, .root])) }
            case .transformFirst: backwardTransform(layer, gradient)
            case .aggregateFirst: backwardAggregate(layer, gradient)
            }
        }
    }

    /// The rows that a layer read: its input, or what it made of the features.
    private mutating func input(_ layer: Int) -> ValueIndex {
        if layer == 1 {
            return training && model.dropsFeatures && model.order(1) == .transformFirst
                ? value("features", model.widths[0]) : section(.features)
        }
        let width = model.widths[layer - 1]
        if isPlain { return value("hidden\(layer - 1)", width) }
        let makesHidden =
            model.isResidual(layer - 1) || (model.normalises && model.dropsHidden)
        return value(makesHidden ? "hidden\(layer - 1)" : "active\(layer - 1)", width)
    }

    private mutating func backwardTransform(_ layer: Int, _ gradient: ValueIndex) {
        let outer = model.widths[layer]
        let carried = value("gradientSource\(layer)", outer)
        append(.map(gradient, to: carried, [.scaleRows]))
        let summed = value("product\(layer)", outer)
        append(.gather(from: carried, to: summed, isSAGE ? [] : [.scaleRows]))
        let input = input(layer)
        append(.weightGradient(input, summed, parameters[layer, .weight]))
        if isSAGE { append(.weightGradient(input, gradient, parameters[layer, .root])) }
        guard layer > 1 else { return }
        let (target, steps) = descent(layer)
        product(summed, parameters[layer, .weight], transposed: true, to: target, isSAGE ? [] : steps)
        if isSAGE {
            product(gradient, parameters[layer, .root], transposed: true, to: target, accumulates: true, steps)
        }
        undo(layer - 1, target)
    }

    private mutating func backwardAggregate(_ layer: Int, _ gradient: ValueIndex) {
        let inner = model.widths[layer - 1]
        let source = layer > 1 && (isSAGE || isPlain) ? input(layer) : value("source\(layer)", inner)
        append(.weightGradient(value("gathered\(layer)", inner), gradient, parameters[layer, .weight]))
        if isSAGE { append(.weightGradient(source, gradient, parameters[layer, .root])) }
        guard layer > 1 else { return }
        let carried = value("gradientSource\(layer)", inner)
        product(gradient, parameters[layer, .weight], transposed: true, to: carried, [.scaleRows])
        var skip: [ValueStep] = []
        if isSAGE {
            let carriedSkip = value("skipGradient\(layer)", inner)
            product(gradient, parameters[layer, .root], transposed: true, to: carriedSkip)
            skip = [.add(carriedSkip)]
        }
        let (target, steps) = descent(layer)
        append(.gather(from: carried, to: target, (isSAGE ? [] : [.scaleRows]) + skip + steps))
        undo(layer - 1, target)
    }

    /// Where the gradient of a layer's input goes, and the steps that are done with it.
    private mutating func descent(_ layer: Int) -> (ValueIndex, [ValueStep]) {
        let inner = model.widths[layer - 1]
        if isPlain {
            return (value("gradient\(layer - 1)", inner), activationGradient(layer - 1, input(layer)))
        }
        let steps: [ValueStep] =
            model.isResidual(layer) ? [.add(value("outputGradient\(layer)", model.widths[layer]))] : []
        return (value("outputGradient\(layer - 1)", inner), steps)
    }

    private func activationGradient(_ layer: Int, _ active: ValueIndex) -> [ValueStep] {
        (model.dropsHidden ? [.dropout(layer)] : []) + [.reluGradient(active)]
    }

    /// From the gradient of a layer's output to that of its sum.
    private mutating func undo(_ layer: Int, _ gradient: ValueIndex) {
        guard !isPlain else { return }
        let width = model.widths[layer]
        let active = value("active\(layer)", width)
        let target = value("gradient\(layer)", width)
        guard model.normalises else {
            append(.map(gradient, to: target, activationGradient(layer, active)))
            return
        }
        let sum = value("sum\(layer)", width)
        let inside = value("activeGradient\(layer)", width)
        append(.map(gradient, to: inside, activationGradient(layer, active)))
        let normal = value("normal\(layer)", width)
        append(.map(sum, to: normal, [.normalise]))
        append(.columnSum(inside, factors: normal, parameters[layer, .normScale]))
        append(.columnSum(inside, factors: nil, parameters[layer, .normShift]))
        append(.map(inside, to: target, [.scaleColumns(parameters[layer, .normScale]), .normaliseGradient(sum)]))
    }
}
