package import Vocabulary

extension OpGraph {
    /// The epoch of a model on an image: forward, backward, and forward again without dropout for the figures.
    ///
    /// Of a prediction only that last part, for all rows and not only those that reach a labelled one.
    package init(model: ModelShape, image: ImageShape, purpose: Purpose = .training) {
        var lowering = Lowering(OpGraph(model, image), hasFrontier: purpose == .training)
        switch purpose {
        case .training:
            lowering.forward(.train)
            lowering.backward()
            lowering.forward(.evaluate)
        case .prediction: lowering.graph.result = lowering.forward(.evaluate)
        }
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
    /// Of the rows that the next operations work on, and at the other end of their edges.
    private var hops: Int?
    private var otherHops: Int?
    private var byName: [String: ValueIndex] = [:]
    private let model: ModelShape
    private let parameters: ParameterLayout
    private let hasFrontier: Bool

    init(_ graph: OpGraph, hasFrontier: Bool) {
        self.graph = graph
        self.hasFrontier = hasFrontier
        model = graph.model
        parameters = model.parameters
        for section in [ImageSection.columns, .features, .aggregate]
        where graph.image.recipe.sections.contains(section) {
            let isTopology = section == .columns
            for relation in 0..<(isTopology ? graph.image.topologies : 1) {
                let name = "image.\(section)" + (relation > 0 ? ".\(relation)" : "")
                byName[name] = self.graph.values.count
                self.graph.values.append(
                    OpGraph.Value(
                        name: name, width: isTopology ? 0 : model.widths[0], section: section, relation: relation))
            }
        }
    }

    private var isGCN: Bool { model.aggregation == .gcn }
    private var isSAGE: Bool { model.aggregation == .sage }
    /// SAGE and its typed form have a weight for the row itself.
    private var hasRoot: Bool { model.aggregation == .sage || model.aggregation == .rgcn }
    private var training: Bool { phase == .train }
    /// Where nothing stands between a layer's sum and its activation, the activation is done with the sum, and its
    /// gradient with the product that makes it.
    private var isPlain: Bool {
        !model.normalises && !model.isResidual && model.activation == .relu && model.aggregation != .gat
    }

    // MARK: Values and operations

    private mutating func value(_ name: String, _ width: Int) -> ValueIndex {
        let name = training ? name : "evaluate.\(name)"
        if let index = byName[name] { return index }
        byName[name] = graph.values.count
        graph.values.append(OpGraph.Value(name: name, width: width))
        return graph.values.count - 1
    }

    private func section(_ section: ImageSection) -> ValueIndex { byName["image.\(section)"]! }

    private mutating func append(_ kind: OpGraph.Kind) {
        func known(_ hops: Int?) -> Int? { hops.flatMap { $0 <= Frontier.hopsMax ? $0 : nil } }
        graph.ops.append(
            OpGraph.Op(
                phase: phase, layer: layer, kind: kind, hops: known(hops),
                otherHops: hops == nil ? nil : known(otherHops)))
    }

    private mutating func product(
        _ a: ValueIndex, _ entry: ParameterLayout.Entry, transposed: Bool = false, to target: ValueIndex,
        accumulates: Bool = false, _ steps: [ValueStep] = []
    ) {
        append(.product(a, entry, transposed: transposed, to: target, accumulates: accumulates, steps))
    }

    private mutating func gather(
        _ from: ValueIndex, relation: Int = 0, to target: ValueIndex, _ steps: [ValueStep]
    ) {
        append(.gather(from: from, relation: relation, to: target, steps))
    }

    private mutating func columnSum(
        _ a: ValueIndex, _ entry: ParameterLayout.Entry, factors: OpGraph.Factors? = nil
    ) {
        append(.columnSum(a, factors: factors, entry))
    }

    private func all(_ value: ValueIndex) -> OpGraph.Columns { columns(value, 0, graph.values[value].width) }

    private func columns(_ value: ValueIndex, _ first: Int, _ count: Int) -> OpGraph.Columns {
        OpGraph.Columns(value: value, first: first, count: count)
    }

    // MARK: Forward

    /// Returns the outputs.
    @discardableResult
    mutating func forward(_ phase: OpGraph.Phase) -> ValueIndex {
        self.phase = phase
        layer = 1
        reach(0)
        let isInImage = model.order(1) == .inImage
        var input = isInImage ? finish(1, firstSum(), residual: nil) : features()
        for layer in (isInImage ? 2 : 1)..<model.layers + 1 {
            self.layer = layer
            // What neighbours are summed from is wanted one step further out than the sums.
            reach(1)
            let sum = model.aggregation == .gat ? attended(layer, input) : sum(layer, source(layer, input))
            input = finish(layer, sum, residual: input)
        }
        hops = nil
        append(.loss(input, gradient: training ? value("gradient\(model.layers)", model.widths.last!) : nil))
        return input
    }

    /// The next operations work on the rows that are `steps` beyond those whose output in this layer counts.
    private mutating func reach(_ steps: Int) {
        hops = hasFrontier ? model.layers - layer + steps : nil
        otherHops = nil
    }

    /// Features, dropped out while training.
    private mutating func features() -> ValueIndex {
        let features = section(.features)
        guard training, model.dropsFeatures, model.order(1) == .transformFirst else { return features }
        reach(1)
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
        guard isPlain else { return (value("active\(layer)", width), [bias, activation]) }
        let scaled = isScaledSource(layer + 1) ? [ValueStep.scaleRows(0)] : []
        return (value("hidden\(layer)", width), [bias, activation] + dropout(layer) + scaled)
    }

    private var activation: ValueStep { model.activation == .elu ? .elu : .relu }

    private func dropout(_ layer: Int) -> [ValueStep] { training && model.dropsHidden ? [.dropout(layer)] : [] }

    /// Whether a layer sums over its input itself, already multiplied by the aggregation's factor.
    private func isScaledSource(_ layer: Int) -> Bool { model.order(layer) == .aggregateFirst && isGCN && isPlain }

    /// What is left to do between a layer's sum and its output: activation, dropout, the residual.
    private mutating func finish(_ layer: Int, _ result: ValueIndex, residual: ValueIndex?) -> ValueIndex {
        guard layer < model.layers, !isPlain else { return result }
        let width = model.widths[layer]
        var active = result
        if model.normalises {
            active = value("active\(layer)", width)
            append(
                .map(
                    result, to: active,
                    [
                        .normalise, .scaleColumns(parameters[layer, .normScale]),
                        .bias(parameters[layer, .normShift]), activation,
                    ]))
        }
        var steps = dropout(layer)
        if model.isResidual(layer), let residual { steps.append(.add(residual)) }
        guard !steps.isEmpty else { return active }
        let hidden = value("hidden\(layer)", width)
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
            product(input, parameters[layer, .weight], to: source, isSAGE ? [] : [.scaleRows(0)])
            if isSAGE {
                reach(0)
                product(input, parameters[layer, .root], to: value("skip\(layer)", model.widths[layer]))
            }
            return source
        case .aggregateFirst:
            if layer > 1, !isGCN || isPlain { return input }
            let source = value("source\(layer)", model.widths[layer - 1])
            let drops = layer == 1 && training && model.dropsFeatures
            append(.map(input, to: source, (drops ? [.dropout(0)] : []) + (isGCN ? [.scaleRows(0)] : [])))
            return source
        }
    }

    /// Sums over neighbours and finishes the layer as far as `result` says.
    private mutating func sum(_ layer: Int, _ source: ValueIndex) -> ValueIndex {
        let (target, steps) = result(layer)
        reach(0)
        if model.order(layer) == .transformFirst {
            let skip = isSAGE ? [ValueStep.add(value("skip\(layer)", model.widths[layer]))] : []
            gather(source, to: target, [.scaleRows(0)] + skip + steps)
            return target
        }
        let isTyped = model.aggregation == .rgcn
        for relation in 0..<(isTyped ? model.relations : 1) {
            let name = "gathered\(layer)" + (isTyped ? ".\(relation)" : "")
            let gathered = value(name, model.widths[layer - 1])
            gather(source, relation: relation, to: gathered, [.scaleRows(relation)])
            product(
                gathered, parameters[layer, .weight, relation: isTyped ? relation : nil], to: target,
                accumulates: relation > 0, hasRoot ? [] : steps)
        }
        if hasRoot {
            let isFirst = model.aggregation == .rgcn && model.relations == 0
            product(source, parameters[layer, .root], to: target, accumulates: !isFirst, steps)
        }
        return target
    }

    /// Attention over neighbours: product, scores of both ends, softmax, weighed sum; then as far as `result` says.
    private mutating func attended(_ layer: Int, _ input: ValueIndex) -> ValueIndex {
        let heads = model.heads(layer)
        let source = value("source\(layer)", model.attendedWidth(layer))
        product(input, parameters[layer, .weight], to: source)
        let sourceScores = value("sourceScores\(layer)", heads)
        let scores = value("targetScores\(layer)", heads)
        append(
            .headDots(
                source, .vector(parameters[layer, .attentionSource]), heads: heads, to: all(sourceScores)))
        append(.headDots(source, .vector(parameters[layer, .attentionTarget]), heads: heads, to: all(scores)))
        reach(0)
        let attention = attention(layer, targets: value("targets\(layer)", 3 * heads))
        // Behind each other, they cost one access for each edge.
        append(.attentionScale(attention, scores: scores))
        append(.part(all(scores), to: columns(attention.targets, 0, heads), []))
        let attended = value("attended\(layer)", model.attendedWidth(layer))
        append(.attend(attention, to: attended))
        let (target, steps) = result(layer)
        guard layer == model.layers, heads > 1 else {
            append(.map(attended, to: target, steps))
            return target
        }
        let width = model.widths[layer]
        let others = (1..<heads).map { ValueStep.addPart(columns(attended, $0 * width, width)) }
        append(
            .part(columns(attended, 0, width), to: all(target), others + [.scale(1 / Float(heads))] + steps))
        return target
    }

    private mutating func attention(_ layer: Int, targets: ValueIndex) -> OpGraph.Attention {
        let heads = model.heads(layer)
        let width = model.attendedWidth(layer)
        return OpGraph.Attention(
            layer: layer, heads: heads, headWidth: width / heads, targets: targets,
            sourceScores: value("sourceScores\(layer)", heads), source: value("source\(layer)", width),
            drops: training)
    }

    // MARK: Backward

    mutating func backward() {
        phase = .train
        for layer in stride(from: model.layers, through: 1, by: -1) {
            self.layer = layer
            reach(0)
            let gradient = value("gradient\(layer)", model.widths[layer])
            columnSum(gradient, parameters[layer, .bias])
            switch (model.aggregation, model.order(layer)) {
            case (.gat, _): backwardAttention(layer, gradient)
            case (.rgcn, _): backwardTyped(layer, gradient)
            case (_, .inImage):
                append(.weightGradient(section(.aggregate), gradient, parameters[1, .weight]))
                if isSAGE { append(.weightGradient(section(.features), gradient, parameters[1, .root])) }
            case (_, .transformFirst): backwardTransform(layer, gradient)
            case (_, .aggregateFirst): backwardAggregate(layer, gradient)
            }
        }
    }

    /// The rows that a layer read: its input, or what it made of the features.
    private mutating func input(_ layer: Int) -> ValueIndex {
        if layer == 1 {
            return model.dropsFeatures && model.order(1) == .transformFirst
                ? value("features", model.widths[0]) : section(.features)
        }
        let width = model.widths[layer - 1]
        let makesHidden = isPlain || model.dropsHidden || model.isResidual(layer - 1)
        return value(makesHidden ? "hidden\(layer - 1)" : "active\(layer - 1)", width)
    }

    private mutating func backwardTransform(_ layer: Int, _ gradient: ValueIndex) {
        let outer = model.widths[layer]
        let carried = value("gradientSource\(layer)", outer)
        append(.map(gradient, to: carried, [.scaleRows(0)]))
        let summed = value("product\(layer)", outer)
        reach(1)
        gather(carried, to: summed, isSAGE ? [] : [.scaleRows(0)])
        let input = input(layer)
        append(.weightGradient(input, summed, parameters[layer, .weight]))
        if isSAGE {
            reach(0)
            append(.weightGradient(input, gradient, parameters[layer, .root]))
            reach(1)
        }
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
        product(gradient, parameters[layer, .weight], transposed: true, to: carried, [.scaleRows(0)])
        var skip: [ValueStep] = []
        if isSAGE {
            let carriedSkip = value("skipGradient\(layer)", inner)
            product(gradient, parameters[layer, .root], transposed: true, to: carriedSkip)
            skip = [.add(carriedSkip)]
        }
        let (target, steps) = descent(layer)
        reach(1)
        gather(carried, to: target, (isSAGE ? [] : [.scaleRows(0)]) + skip + steps)
        undo(layer - 1, target)
    }

    /// Gradients come back over each relation's transpose, which is the other of its pair.
    private mutating func backwardTyped(_ layer: Int, _ gradient: ValueIndex) {
        let outer = model.widths[layer]
        let carried = (0..<model.relations).map { value("gradientSource\(layer).\($0)", outer) }
        for (relation, value) in carried.enumerated() { append(.map(gradient, to: value, [.scaleRows(relation)])) }
        let input = layer == 1 ? value("source1", model.widths[0]) : input(layer)
        let descent = layer > 1 ? descent(layer) : nil
        reach(1)
        for (relation, source) in carried.enumerated() {
            let summed = value("product\(layer).\(relation)", outer)
            gather(source, relation: relation ^ 1, to: summed, [])
            let weight = parameters[layer, .weight, relation: relation]
            append(.weightGradient(input, summed, weight))
            if let descent { product(summed, weight, transposed: true, to: descent.0, accumulates: relation > 0) }
        }
        append(.weightGradient(input, gradient, parameters[layer, .root]))
        guard let descent else { return }
        product(
            gradient, parameters[layer, .root], transposed: true, to: descent.0, accumulates: model.relations > 0,
            descent.1)
        undo(layer - 1, descent.0)
    }

    private mutating func backwardAttention(_ layer: Int, _ gradient: ValueIndex) {
        let heads = model.heads(layer)
        let width = model.attendedWidth(layer)
        var carried = gradient
        if layer == model.layers, heads > 1 {
            carried = value("spread\(layer)", width)
            for head in 0..<heads {
                let columns = columns(carried, head * model.widths[layer], model.widths[layer])
                append(.part(all(gradient), to: columns, [.scale(1 / Float(heads))]))
            }
        }
        let ends = value("ends\(layer)", 4 * heads)
        append(.part(all(value("targets\(layer)", 3 * heads)), to: columns(ends, 0, 3 * heads), []))
        let attended = value("attended\(layer)", width)
        append(.headDots(carried, .rows(attended), heads: heads, to: columns(ends, 3 * heads, heads)))
        let attention = attention(layer, targets: ends)
        let ofSources = value("sourceScoreGradient\(layer)", heads)
        let ofTargets = value("targetScoreGradient\(layer)", heads)
        let weighed = value("weighedGradient\(layer)", width)
        let (atSources, atTargets) = (value("leakedGradient\(layer)", width), value("leakedSource\(layer)", width))
        reach(1)
        otherHops = model.layers - layer
        append(
            .attentionGradient(
                attention,
                OpGraph.AttentionGradient(
                    isOfSources: true, other: carried, scoreGradient: ofSources, leaked: atSources,
                    sourceGradient: weighed)))
        reach(0)
        append(
            .attentionGradient(
                attention,
                OpGraph.AttentionGradient(
                    isOfSources: false, other: attention.source, scoreGradient: ofTargets, leaked: atTargets,
                    sourceGradient: nil)))
        append(.headDots(carried, .rows(atTargets), heads: heads, to: all(ofTargets), accumulates: true))
        reach(1)
        append(.headDots(attention.source, .rows(atSources), heads: heads, to: all(ofSources), accumulates: true))
        let ofSource = parameters[layer, .attentionSource]
        let ofTarget = parameters[layer, .attentionTarget]
        columnSum(attention.source, ofSource, factors: OpGraph.Factors(value: ofSources, heads: heads))
        columnSum(attention.source, ofTarget, factors: OpGraph.Factors(value: ofTargets, heads: heads))
        let total = value("sourceGradient\(layer)", width)
        append(
            .map(
                weighed, to: total,
                [.addHeads(ofSources, heads: heads, ofSource), .addHeads(ofTargets, heads: heads, ofTarget)]))
        append(.weightGradient(input(layer), total, parameters[layer, .weight]))
        guard layer > 1 else { return }
        let (target, steps) = descent(layer)
        product(total, parameters[layer, .weight], transposed: true, to: target, steps)
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
        // Where `active` has its dropout behind it, what was dropped is 0 there, and dies with what the activation killed.
        (isPlain ? dropout(layer).map { _ in .keptScale(layer) } : dropout(layer)) + [
            model.activation == .elu ? .eluGradient(active) : .reluGradient(active)
        ]
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
        columnSum(inside, parameters[layer, .normScale], factors: OpGraph.Factors(value: normal, heads: 0))
        columnSum(inside, parameters[layer, .normShift])
        append(.map(inside, to: target, [.scaleColumns(parameters[layer, .normScale]), .normaliseGradient(sum)]))
    }
}
