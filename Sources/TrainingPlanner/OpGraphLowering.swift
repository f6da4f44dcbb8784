package import Vocabulary

extension OpGraph {
    /// The epoch of a model on an image: forward, backward, and forward again without dropout for the figures.
    ///
    /// Of a prediction only that last part, for all rows and not only those that reach a labelled one.
    package init(model: ModelShape, image: ImageShape, purpose: Purpose = .training, form: Form = Form()) {
        var lowering = Lowering(OpGraph(model, image, form), hasFrontier: purpose == .training)
        switch purpose {
        case .training:
            lowering.forward(.train)
            lowering.backward()
            lowering.forward(.evaluate)
        case .prediction: lowering.graph.result = lowering.forward(.evaluate)
        }
        self = lowering.graph
    }

    private init(_ model: ModelShape, _ image: ImageShape, _ form: Form) {
        self.model = model
        self.image = image
        self.form = form
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
    private var group = 0
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

    private mutating func value(_ name: String, _ width: Int, kind: String? = nil) -> ValueIndex {
        let prefix = training ? "" : "evaluate."
        let name = prefix + name
        if let index = byName[name] { return index }
        byName[name] = graph.values.count
        graph.values.append(OpGraph.Value(name: name, width: width, kind: kind.map { prefix + $0 }))
        return graph.values.count - 1
    }

    private func section(_ section: ImageSection) -> ValueIndex { byName["image.\(section)"]! }

    private mutating func append(_ kind: OpGraph.Kind) {
        func known(_ hops: Int?) -> Int? { hops.flatMap { $0 <= Frontier.hopsMax ? $0 : nil } }
        graph.ops.append(
            OpGraph.Op(
                phase: phase, layer: layer, kind: kind, hops: known(hops),
                otherHops: hops == nil ? nil : known(otherHops), group: group))
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
        var input: ValueIndex
        if model.aggregation == .gat {
            input = attention()
        } else {
            let isInImage = model.order(1) == .inImage
            input = isInImage ? finish(1, firstSum(), residual: nil) : features()
            for layer in (isInImage ? 2 : 1)..<model.layers + 1 {
                self.layer = layer
                // What neighbours are summed from is wanted one step further out than the sums.
                reach(1)
                input = finish(layer, sum(layer, source(layer, input)), residual: input)
            }
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

    private func dropout(_ layer: Int, from column: Int = 0) -> [ValueStep] {
        training && model.dropsHidden ? [.dropout(layer, from: column)] : []
    }

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

    // MARK: Backward

    mutating func backward() {
        phase = .train
        for layer in stride(from: model.layers, through: 1, by: -1) {
            self.layer = layer
            reach(0)
            if model.aggregation == .gat {
                backwardAttention(layer)
                continue
            }
            let gradient = value("gradient\(layer)", model.widths[layer])
            columnSum(gradient, parameters[layer, .bias])
            switch (model.aggregation, model.order(layer)) {
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

    /// Where the gradient of a layer's input goes, and the steps that are done with it.
    private mutating func descent(_ layer: Int) -> (ValueIndex, [ValueStep]) {
        let inner = model.widths[layer - 1]
        if isPlain {
            return (value("gradient\(layer - 1)", inner), activationGradient(layer - 1, input(layer)))
        }
        return (value("outputGradient\(layer - 1)", inner), residualGradient(layer))
    }

    private mutating func residualGradient(_ layer: Int) -> [ValueStep] {
        model.isResidual(layer) ? [.add(value("outputGradient\(layer)", model.widths[layer]))] : []
    }

    private func activationGradient(_ layer: Int, _ active: ValueIndex, from column: Int = 0) -> [ValueStep] {
        // Where `active` has its dropout behind it, what was dropped is 0 there, and dies with what the activation killed.
        let kept = isPlain ? dropout(layer).map { _ in .keptScale(layer) } : dropout(layer, from: column)
        return kept + [model.activation == .elu ? .eluGradient(active) : .reluGradient(active)]
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

// MARK: - Attention

extension Lowering {
    /// Heads of a layer that are worked on together.
    private struct Group {
        let number: Int
        let count: Int
        let heads: Range<Int>
        /// Columns of the heads in what they make.
        let columns: Range<Int>

        func name(_ name: String, _ layer: Int) -> String {
            count == 1 ? "\(name)\(layer)" : "\(name)\(layer).\(number)"
        }
    }

    private mutating func value(
        _ name: String, _ layer: Int, _ group: Group, _ width: Int, suffix: String = ""
    ) -> ValueIndex {
        value(group.name(name, layer) + suffix, width, kind: "\(name)\(layer)\(suffix)")
    }

    /// Whether reading a layer's input again takes more than reading what it is multiplied to.
    private func isWide(_ layer: Int) -> Bool { model.widths[layer - 1] > model.attendedWidth(layer) }

    private func groups(_ layer: Int) -> [Group] {
        let heads = model.heads(layer)
        var count = 1
        // A row is normalised whole, and a residual has other groups.
        if !model.normalises, !model.isResidual {
            while count * 2 <= graph.form.headGroups, heads.isMultiple(of: count * 2) { count *= 2 }
        }
        let (each, width) = (heads / count, model.attendedWidth(layer) / heads)
        return (0..<count).map { number in
            let heads = number * each..<(number + 1) * each
            return Group(
                number: number, count: count, heads: heads,
                columns: heads.lowerBound * width..<heads.upperBound * width)
        }
    }

    /// Each group of heads begins passes of its own, so that the whole rows of two need not be there at once.
    private mutating func begin(_ next: Group) { if next.number > 0 { group += 1 } }

    /// What a layer reads, with its columns of the whole input.
    private mutating func inputs(_ layer: Int) -> [(value: ValueIndex, columns: Range<Int>)] {
        guard layer > 1, groups(layer - 1).count > 1 else { return [(input(layer), 0..<model.widths[layer - 1])] }
        let name = model.dropsHidden ? "hidden" : "active"
        return groups(layer - 1).map { (value(name, layer - 1, $0, $0.columns.count), $0.columns) }
    }

    private mutating func attention(_ layer: Int, _ group: Group, targets: ValueIndex, source: ValueIndex)
        -> OpGraph.Attention
    {
        OpGraph.Attention(
            layer: layer, heads: group.heads.count, firstHead: group.heads.lowerBound,
            headWidth: group.columns.count / group.heads.count, targets: targets,
            sourceScores: value("sourceScores", layer, group, group.heads.count), source: source, drops: training)
    }

    /// All layers; returns the outputs.
    private mutating func attention() -> ValueIndex {
        var input = features()
        for layer in 1...model.layers {
            let inputOfAll = input
            for group in groups(layer) {
                self.layer = layer
                begin(group)
                reach(1)
                // Where the input came in groups, each was multiplied as it was made.
                if layer == 1 || groups(layer - 1).count == 1 {
                    // What is wide is read once, for all groups.
                    let groups = isWide(layer) ? group.number == 0 ? groups(layer) : [] : [group]
                    for one in groups {
                        addSource(layer, one, (inputOfAll, 0..<model.widths[layer - 1]), isLast: true)
                    }
                }
                let attended = attended(layer, group)
                guard layer < model.layers else {
                    input = output(group, attended)
                    continue
                }
                input = active(layer, group, attended, residual: inputOfAll)
                guard group.count > 1 else { continue }
                self.layer = layer + 1
                reach(1)
                for next in groups(layer + 1) {
                    addSource(
                        layer + 1, next, (input, group.columns), isLast: group.number == group.count - 1)
                }
            }
        }
        return input
    }

    /// Adds the product of some columns of a layer's input with its weights to what the layer sums over; then, with the
    /// last of them, the scores. Each group's sum is a value of its own, since it outlives a pass.
    private mutating func addSource(
        _ layer: Int, _ group: Group, _ input: (value: ValueIndex, columns: Range<Int>), isLast: Bool
    ) {
        let width = group.columns.count
        func sum(_ end: Int) -> ValueIndex {
            value("source", layer, group, width, suffix: end == model.widths[layer - 1] ? "" : " of \(end)")
        }
        let source = sum(input.columns.upperBound)
        let isFirst = input.columns.lowerBound == 0
        if !isFirst {
            let before = sum(input.columns.lowerBound)
            append(.map(before, to: source, []))
        }
        product(
            input.value, parameters[layer, .weight].part(rows: input.columns, columns: group.columns), to: source,
            accumulates: !isFirst)
        guard isLast else { return }
        let heads = group.heads.count
        for (role, name) in [
            (ParameterLayout.Role.attentionSource, "sourceScores"), (.attentionTarget, "targetScores"),
        ] {
            let scores = value(name, layer, group, heads)
            append(
                .headDots(
                    source, .vector(parameters[layer, role].part(columns: group.columns)), heads: heads,
                    to: all(scores)))
        }
    }

    /// The softmax's scale and the weighed sum.
    private mutating func attended(_ layer: Int, _ group: Group) -> ValueIndex {
        let heads = group.heads.count
        let scores = value("targetScores", layer, group, heads)
        reach(0)
        let attention = attention(
            layer, group, targets: value("targets", layer, group, 3 * heads),
            source: value("source", layer, group, group.columns.count))
        // Behind each other, they cost one access for each edge.
        append(.attentionScale(attention, scores: scores))
        append(.part(all(scores), to: columns(attention.targets, 0, heads), []))
        let attended = value("attended", layer, group, group.columns.count)
        append(.attend(attention, to: attended))
        return attended
    }

    /// The mean over heads, one added to the other.
    private mutating func output(_ group: Group, _ attended: ValueIndex) -> ValueIndex {
        let heads = model.heads(model.layers)
        let (target, steps) = result(model.layers)
        guard heads > 1 else {
            append(.map(attended, to: target, steps))
            return target
        }
        let width = model.widths[model.layers]
        let isLast = group.heads.upperBound == heads
        let sum = isLast ? target : value("outputs of \(group.heads.upperBound)", width)
        var others = (0..<group.heads.count).map { columns(attended, $0 * width, width) }
        let before = group.number == 0 ? nil : value("outputs of \(group.heads.lowerBound)", width)
        let first = if let before { all(before) } else { others.removeFirst() }
        append(
            .part(
                first, to: all(sum),
                others.map { .addPart($0) } + (isLast ? [.scale(1 / Float(heads))] + steps : [])))
        return sum
    }

    private mutating func active(
        _ layer: Int, _ group: Group, _ attended: ValueIndex, residual: ValueIndex
    ) -> ValueIndex {
        guard group.count > 1 else {
            let (target, steps) = result(layer)
            append(.map(attended, to: target, steps))
            return finish(layer, target, residual: residual)
        }
        let width = group.columns.count
        let active = value("active", layer, group, width)
        append(
            .map(
                attended, to: active, [.bias(parameters[layer, .bias].part(columns: group.columns)), activation]))
        let steps = dropout(layer, from: group.columns.lowerBound)
        guard !steps.isEmpty else { return active }
        let hidden = value("hidden", layer, group, width)
        append(.map(active, to: hidden, steps))
        return hidden
    }

    private mutating func backwardAttention(_ layer: Int) {
        // One gradient for all heads is there whole anyway.
        let splits = graph.form.splitsEnds && !model.normalises && (layer < model.layers || model.heads(layer) > 1)
        for group in groups(layer) {
            // The next layer's are there whole until then.
            if group.count > 1 { self.group += 1 }
            let gradient = gradient(layer, group)
            let heads = group.heads.count
            let ends = value("ends", layer, group, 4 * heads)
            let targets = value("targets", layer, group, 3 * heads)
            append(.part(all(targets), to: columns(ends, 0, 3 * heads), []))
            let attended = value("attended", layer, group, group.columns.count)
            append(.headDots(gradient, .rows(attended), heads: heads, to: columns(ends, 3 * heads, heads)))
            let attention = attention(layer, group, targets: ends, source: source(layer, group))
            if splits {
                sumAtTargets(layer, group, attention, gradient)
                // Its whole rows are wanted only now, and those of the source no more.
                self.group += 1
                sumAtSources(layer, group, attention, self.gradient(layer, group, again: true))
            } else {
                sumAtSources(layer, group, attention, gradient) { $0.sumAtTargets(layer, group, attention, gradient) }
            }
        }
    }

    private mutating func gradient(_ layer: Int, _ group: Group, again: Bool = false) -> ValueIndex {
        let gradient =
            layer == model.layers ? outputGradient(group, again: again) : descend(to: layer, group, again: again)
        self.layer = layer
        return gradient
    }

    /// What the backward pass sums over.
    private mutating func source(_ layer: Int, _ group: Group) -> ValueIndex {
        let kept = value("source", layer, group, group.columns.count)
        guard graph.form.repeatsSources, !isWide(layer) else { return kept }
        let again = value("source", layer, group, group.columns.count, suffix: " again")
        reach(1)
        for input in inputs(layer) {
            product(
                input.value, parameters[layer, .weight].part(rows: input.columns, columns: group.columns), to: again,
                accumulates: input.columns.lowerBound > 0)
        }
        reach(0)
        return again
    }

    /// The gradient of what some of the last layer's heads made.
    private mutating func outputGradient(_ group: Group, again: Bool) -> ValueIndex {
        let layer = model.layers
        let gradient = value("gradient\(layer)", model.widths[layer])
        reach(0)
        if group.number == 0, !again { columnSum(gradient, parameters[layer, .bias]) }
        let heads = model.heads(layer)
        guard heads > 1 else { return gradient }
        let spread = value("spread", layer, group, group.columns.count, suffix: again ? " again" : "")
        for head in 0..<group.heads.count {
            let columns = columns(spread, head * model.widths[layer], model.widths[layer])
            append(.part(all(gradient), to: columns, [.scale(1 / Float(heads))]))
        }
        return spread
    }

    /// From the gradients of what the next layer summed over to that of what some heads of this one made.
    private mutating func descend(to layer: Int, _ group: Group, again: Bool) -> ValueIndex {
        self.layer = layer + 1
        reach(1)
        let output = inputs(layer + 1)[group.number].value
        let totals = groups(layer + 1).map { next in
            (value("sourceGradient", layer + 1, next, next.columns.count), next.columns)
        }
        let weights = totals.map { parameters[layer + 1, .weight].part(rows: group.columns, columns: $0.1) }
        let suffix = again ? " again" : ""
        if !again {
            for (total, weight) in zip(totals, weights) { append(.weightGradient(output, total.0, weight)) }
        }
        let target = value("outputGradient", layer, group, group.columns.count, suffix: suffix)
        for (index, weight) in weights.enumerated() {
            product(
                totals[index].0, weight, transposed: true, to: target, accumulates: index > 0,
                index == weights.count - 1 ? residualGradient(layer + 1) : [])
        }
        let gradient = value("gradient", layer, group, group.columns.count, suffix: suffix)
        if model.normalises {
            undo(layer, target)
        } else {
            let active = value("active", layer, group, group.columns.count)
            append(
                .map(
                    target, to: gradient, activationGradient(layer, active, from: group.columns.lowerBound)))
        }
        self.layer = layer
        reach(0)
        if !again { columnSum(gradient, parameters[layer, .bias].part(columns: group.columns)) }
        return gradient
    }

    /// Sums over edges at the targets, and the gradient of their scores.
    private mutating func sumAtTargets(
        _ layer: Int, _ group: Group, _ attention: OpGraph.Attention, _ gradient: ValueIndex
    ) {
        let heads = group.heads.count
        let ofTargets = value("targetScoreGradient", layer, group, heads)
        let leaked = value("leakedSource", layer, group, group.columns.count)
        reach(0)
        append(
            .attentionGradient(
                attention,
                OpGraph.AttentionGradient(
                    isOfSources: false, other: attention.source, scoreGradient: ofTargets, leaked: leaked,
                    sourceGradient: nil)))
        append(.headDots(gradient, .rows(leaked), heads: heads, to: all(ofTargets), accumulates: true))
    }

    /// Sums over edges at the sources; and, after what `then` adds, what follows from both ends for weights and for what
    /// was summed over.
    private mutating func sumAtSources(
        _ layer: Int, _ group: Group, _ attention: OpGraph.Attention, _ gradient: ValueIndex,
        then: (inout Lowering) -> Void = { _ in }
    ) {
        let heads = group.heads.count
        let width = group.columns.count
        let ofSources = value("sourceScoreGradient", layer, group, heads)
        let ofTargets = value("targetScoreGradient", layer, group, heads)
        let weighed = value("weighedGradient", layer, group, width)
        let leaked = value("leakedGradient", layer, group, width)
        reach(1)
        otherHops = model.layers - layer
        append(
            .attentionGradient(
                attention,
                OpGraph.AttentionGradient(
                    isOfSources: true, other: gradient, scoreGradient: ofSources, leaked: leaked,
                    sourceGradient: weighed)))
        then(&self)
        reach(1)
        append(.headDots(attention.source, .rows(leaked), heads: heads, to: all(ofSources), accumulates: true))
        let ofSource = parameters[layer, .attentionSource].part(columns: group.columns)
        let ofTarget = parameters[layer, .attentionTarget].part(columns: group.columns)
        columnSum(attention.source, ofSource, factors: OpGraph.Factors(value: ofSources, heads: heads))
        columnSum(attention.source, ofTarget, factors: OpGraph.Factors(value: ofTargets, heads: heads))
        let total = value("sourceGradient", layer, group, width)
        append(
            .map(
                weighed, to: total,
                [.addHeads(ofSources, heads: heads, ofSource), .addHeads(ofTargets, heads: heads, ofTarget)]))
        guard layer == 1 else { return }
        append(.weightGradient(input(1), total, parameters[1, .weight].part(columns: group.columns)))
    }
}
