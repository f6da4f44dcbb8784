import LocalTraining
import Training
import Vocabulary

import func Glibc.exp
import func Glibc.log
import func Glibc.log1p
import func Glibc.pow

/// Full-graph training as the papers write it, in float64: what the device's programs are held to.
///
/// It shares the image, the specification and the counter-based randomness with the product and nothing else: no op
/// graph, no chunks, no order of operations.
struct ReferenceTwin {
    /// Names and shapes of the parameters; the number of an entry is the stream that its first values are drawn from.
    struct Layout {
        struct Entry {
            let name: String
            let rows: Int
            let columns: Int
            let offset: Int
            var count: Int { rows * columns }
        }

        private(set) var entries: [Entry] = []
        private(set) var count = 0
        /// Up to the end of the first layer.
        private(set) var firstLayerCount = 0

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
                    let wide = isLast ? outer * spec.attention!.outputHeads : outer
                    add(layer, "weight", inner, wide)
                    add(layer, "attention_source", 1, wide)
                    add(layer, "attention_target", 1, wide)
                }
                add(layer, "bias", 1, outer)
                if spec.layerNorm, !isLast {
                    add(layer, "norm_scale", 1, outer)
                    add(layer, "norm_shift", 1, outer)
                }
                if layer == 1 { firstLayerCount = count }
            }
        }

        private mutating func add(_ layer: Int, _ name: String, _ rows: Int, _ columns: Int) {
            entries.append(Entry(name: "layers.\(layer).\(name)", rows: rows, columns: columns, offset: count))
            count += rows * columns
        }
    }

    let spec: ModelSpec
    let image: LocalImage
    let layout: Layout
    var parameters: [Double]
    private var firstMoments: [Double]
    private var secondMoments: [Double]
    private var nodes: Int { image.shape.nodes }
    private var classes: Int { image.shape.classes }
    private let widths: [Int]

    init(_ spec: ModelSpec, _ image: LocalImage) {
        self.spec = spec
        self.image = image
        layout = Layout(spec, image.shape)
        widths = [image.shape.features] + spec.hidden + [image.shape.classes]
        parameters = Array(repeating: 0, count: layout.count)
        firstMoments = parameters
        secondMoments = parameters
        for (stream, entry) in layout.entries.enumerated() {
            if entry.name.hasSuffix(".norm_scale") {
                for index in 0..<entry.count { parameters[entry.offset + index] = 1 }
            }
            guard ![".bias", ".norm_scale", ".norm_shift"].contains(where: entry.name.hasSuffix) else { continue }
            let bound = (6 / Double(entry.rows + entry.columns)).squareRoot()
            for row in 0..<entry.rows {
                for column in 0..<entry.columns {
                    let word = random(row: row, column: column, epoch: .max, stream: UInt32(stream))
                    parameters[entry.offset + row * entry.columns + column] =
                        (Double(word >> 8) / 8_388_608 - 1) * bound
                }
            }
        }
    }

    struct Figures {
        var loss = 0.0
        /// Of a multi-label task: classes that were predicted and are so.
        var correct = 0
        var labelled = 0
        var predicted = 0
        var actual = 0
    }

    /// One epoch: gradient with dropout, Adam, figures without. Returns the training loss before the step.
    mutating func step(_ epoch: Int) -> (loss: Double, gradient: [Double]) {
        let (loss, gradient) = gradient(epoch)
        let rate = spec.learningRate.value
        for index in parameters.indices {
            let decays = spec.weightDecayLayers == .all || index < layout.firstLayerCount
            let slope = gradient[index] + (decays ? spec.weightDecay.value * parameters[index] : 0)
            firstMoments[index] = 0.9 * firstMoments[index] + 0.1 * slope
            secondMoments[index] = 0.999 * secondMoments[index] + 0.001 * slope * slope
            let mean = firstMoments[index] / (1 - pow(0.9, Double(epoch + 1)))
            let spread = (secondMoments[index] / (1 - pow(0.999, Double(epoch + 1)))).squareRoot()
            parameters[index] -= rate * mean / (spread + 1e-8)
        }
        return (loss, gradient)
    }

    func figures(_ split: Split) -> Figures {
        let outputs = outputs(nil).value
        var figures = Figures()
        var total = 0.0
        for row in rows(split) {
            figures.labelled += 1
            let (loss, weight, _) = lossAndSlope(outputs.values[row * classes..<(row + 1) * classes], row)
            figures.loss += loss
            total += weight
            switch spec.task {
            case .classification:
                let best = (0..<classes).max { (outputs[row, $0], $1) < (outputs[row, $1], $0) }
                if best == Int(image.plain.labels[row]) { figures.correct += 1 }
            case .multilabel:
                for column in 0..<classes {
                    let (isOne, says) = (has(column, row), outputs[row, column] > 0)
                    figures.actual += isOne ? 1 : 0
                    figures.predicted += says ? 1 : 0
                    figures.correct += isOne && says ? 1 : 0
                }
            case .regression: break
            }
        }
        figures.loss /= max(total, 1e-300)
        return figures
    }

    /// [nodes, classes], without dropout, at the present parameters.
    func answers() -> [Double] { outputs(nil).value.values }

    /// Mean training loss with this epoch's dropout, at the present parameters.
    func loss(_ epoch: Int) -> Double { lossAndSlope(outputs(epoch).value).loss }

    func gradient(_ epoch: Int) -> (loss: Double, gradient: [Double]) {
        let tape = Tape()
        let weights = values()
        let outputs = outputs(epoch, tape, weights)
        let (loss, slope) = lossAndSlope(outputs.value)
        outputs.slope.values = slope
        tape.run()
        var gradient = Array(repeating: 0.0, count: layout.count)
        for (entry, value) in zip(layout.entries, weights) {
            for index in 0..<entry.count { gradient[entry.offset + index] = value.slope.values[index] }
        }
        return (loss, gradient)
    }

    // MARK: Forward

    /// The parameters as matrices, in the layout's order.
    private func values() -> [Tape.Value] {
        layout.entries.map { entry in
            Tape.Value(
                Dense(entry.rows, entry.columns, Array(parameters[entry.offset..<entry.offset + entry.count])))
        }
    }

    /// [nodes, classes]; `epoch` nil: without dropout.
    private func outputs(_ epoch: Int?, _ tape: Tape = Tape(), _ weights: [Tape.Value]? = nil) -> Tape.Value {
        let weights = weights ?? values()
        func weight(_ layer: Int, _ name: String) -> Tape.Value {
            weights[layout.entries.firstIndex { $0.name == "layers.\(layer).\(name)" }!]
        }
        var input = Tape.Value(Dense(nodes, widths[0], image.plain.features.map(Double.init)))
        if let epoch { input = dropped(input, epoch, layer: 0, tape) }
        let layers = widths.count - 1
        for layer in 1...layers {
            var out = convolution(input, layer, epoch, tape) { weight(layer, $0) }
            if layer < layers {
                if spec.layerNorm {
                    out = tape.normalised(out, epsilon: 1e-5)
                    out = tape.broadcast(out, weight(layer, "norm_scale"), multiplies: true)
                    out = tape.broadcast(out, weight(layer, "norm_shift"))
                }
                switch spec.activation {
                case .relu: out = tape.each(out, { max($0, 0) }) { $0 > 0 ? 1 : 0 }
                case .elu: out = tape.each(out, { $0 > 0 ? $0 : exp($0) - 1 }) { $0 > 0 ? 1 : exp($0) }
                }
                if let epoch { out = dropped(out, epoch, layer: layer, tape) }
                // The layer's own input, as it was after the dropout of the layer before.
                if spec.residual, layer > 1, widths[layer] == widths[layer - 1] { out = tape.sum(out, input) }
            }
            input = out
        }
        return input
    }

    private func convolution(
        _ input: Tape.Value, _ layer: Int, _ epoch: Int?, _ tape: Tape, _ weight: (String) -> Tape.Value
    ) -> Tape.Value {
        switch spec.model {
        case .gcn, .sage:
            var out = tape.product(tape.gathered(input, edges()), weight("weight"))
            if spec.model == .sage { out = tape.sum(out, tape.product(input, weight("root"))) }
            return tape.broadcast(out, weight("bias"))
        case .rgcn:
            var out = tape.product(input, weight("root"))
            for relation in image.shape.relations.indices {
                let gathered = tape.gathered(input, edges(relation))
                out = tape.sum(out, tape.product(gathered, weight("relations.\(relation)")))
            }
            return tape.broadcast(out, weight("bias"))
        case .gat:
            let isLast = layer == widths.count - 1
            let heads = isLast ? spec.attention!.outputHeads : spec.attention!.heads
            let pairs = edges().map { (target: $0.target, source: $0.source) }
            var out = tape.attended(
                tape.product(input, weight("weight")), target: weight("attention_target"),
                source: weight("attention_source"), heads: heads, slope: 0.2, pairs,
                keep: kept(pairs, heads, epoch, layer))
            if isLast { out = tape.meanOfHeads(out, heads: heads) }
            return tape.broadcast(out, weight("bias"))
        }
    }

    /// For each edge and head what dropout multiplies its weight with.
    private func kept(_ pairs: [(target: Int, source: Int)], _ heads: Int, _ epoch: Int?, _ layer: Int) -> [Double] {
        let probability = Float(spec.attention!.dropout.value)
        guard let epoch, probability > 0 else { return Array(repeating: 1, count: pairs.count * heads) }
        let threshold = UInt32(Double(probability) * 4_294_967_296)
        return pairs.flatMap { pair in
            (0..<heads).map { head in
                let words = philox(
                    key: (spec.seed, 0),
                    counter: [
                        UInt32(pair.source), UInt32(pair.target), UInt32(epoch),
                        UInt32(layer) + UInt32(1 + head / 4) << 24,
                    ])
                return words[head % 4] < threshold ? 0 : 1 / (1 - Double(probability))
            }
        }
    }

    private func dropped(_ x: Tape.Value, _ epoch: Int, layer: Int, _ tape: Tape) -> Tape.Value {
        let probability = Float((layer == 0 ? spec.inputDropout : spec.dropout).value)
        guard probability > 0 else { return x }
        let threshold = UInt32((Double(probability) * 65_536).rounded())
        let width = x.value.columns
        return tape.scaled(
            x,
            x.value.values.indices.map { index in
                let (row, column) = (index / width, index % width)
                let word = philox(
                    key: (spec.seed, 0), counter: [UInt32(column / 8), UInt32(row), UInt32(epoch), UInt32(layer)]
                )[column % 8 / 2]
                return word >> (16 * UInt32(column % 2)) & 0xFFFF < threshold ? 0 : 1 / (1 - Double(probability))
            })
    }

    /// GCN: D^-1/2 (A + I) D^-1/2; SAGE and relations: the mean over neighbours; GAT: the pairs alone.
    private func edges(_ relation: Int = 0) -> [Tape.Edge] {
        let plain = image.plain
        var out: [Tape.Edge] = []
        for row in 0..<nodes {
            let at = relation * nodes + row
            for entry in Int(plain.rowPointers[at])..<Int(plain.rowPointers[at + 1]) {
                let other = Int(plain.columns[entry])
                let weight: Double =
                    switch spec.model {
                    case .gcn: Double(plain.scale[row]) * Double(plain.scale[other])
                    case .sage, .rgcn: Double(plain.scale[at])
                    case .gat: 1
                    }
                out.append((row, other, weight))
            }
        }
        return out
    }

    // MARK: Loss

    private func rows(_ split: Split) -> [Int] {
        (0..<nodes).filter {
            image.plain.split[$0] == split.rawValue && (spec.task != .classification || image.plain.labels[$0] >= 0)
        }
    }

    private func has(_ label: Int, _ row: Int) -> Bool {
        image.plain.labelSets[row * ((classes + 7) / 8) + label / 8] >> (label % 8) & 1 == 1
    }

    private func weight(_ label: Int) -> Double {
        guard spec.classWeights == .balanced else { return 1 }
        let counts = image.trainingByClass
        guard counts[label] > 0 else { return 1 }
        return Double(counts.reduce(0, +)) / (Double(counts.count) * Double(counts[label]))
    }

    /// Of one row: weighted loss, weight, slope; not yet divided by the total weight.
    private func lossAndSlope(_ outputs: ArraySlice<Double>, _ row: Int) -> (Double, Double, [Double]) {
        let outputs = Array(outputs)
        switch spec.task {
        case .classification:
            let label = Int(image.plain.labels[row])
            let most = outputs.max()!
            let norm = most + log(outputs.reduce(0) { $0 + exp($1 - most) })
            let weight = weight(label)
            return (
                weight * (norm - outputs[label]), weight,
                outputs.indices.map { weight * (exp(outputs[$0] - norm) - ($0 == label ? 1 : 0)) }
            )
        case .multilabel:
            var loss = 0.0
            var slope: [Double] = []
            for (column, x) in outputs.enumerated() {
                let target = has(column, row) ? 1.0 : 0
                loss += max(x, 0) - x * target + log1p(exp(-abs(x)))
                slope.append(1 / (1 + exp(-x)) - target)
            }
            return (loss, Double(outputs.count), slope)
        case .regression:
            let error = outputs[0] - Double(image.plain.targets[row])
            return (error * error, 1, [2 * error])
        }
    }

    private func lossAndSlope(_ outputs: Dense) -> (loss: Double, slope: [Double]) {
        var slope = Array(repeating: 0.0, count: outputs.values.count)
        var loss = 0.0
        var total = 0.0
        for row in rows(.train) {
            let range = row * classes..<(row + 1) * classes
            let (own, weight, slopes) = lossAndSlope(outputs.values[range], row)
            loss += own
            total += weight
            slope.replaceSubrange(range, with: slopes)
        }
        return (loss / max(total, 1e-300), slope.map { $0 / max(total, 1e-300) })
    }

    // MARK: Randomness

    private func random(row: Int, column: Int, epoch: UInt32, stream: UInt32) -> UInt32 {
        philox(
            key: (spec.seed, 0), counter: [UInt32(column / 4), UInt32(row), epoch, stream])[column % 4]
    }
}

/// Philox4x32-10 (Salmon et al. 2011), written from the paper.
func philox(key: (UInt32, UInt32), counter: [UInt32]) -> [UInt32] {
    var (key0, key1) = key
    var words = counter
    for _ in 0..<10 {
        let first = words[0].multipliedFullWidth(by: 0xD251_1F53)
        let second = words[2].multipliedFullWidth(by: 0xCD9E_8D57)
        words = [second.high ^ words[1] ^ key0, second.low, first.high ^ words[3] ^ key1, first.low]
        key0 &+= 0x9E37_79B9
        key1 &+= 0xBB67_AE85
    }
    return words
}
