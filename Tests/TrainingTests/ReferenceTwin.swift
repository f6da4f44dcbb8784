import LocalTraining
import Training
import TrainingPlanner
import Vocabulary

import func Glibc.exp
import func Glibc.log
import func Glibc.pow

/// Full-graph training as the papers write it, in float64, one loop at a time: what the device's programs are held to.
///
/// It shares the image, the specification and the counter-based randomness with the product and nothing else: no
/// schedule, no chunks, no order of operations.
struct ReferenceTwin {
    let spec: ModelSpec
    let image: LocalImage
    let layout: ParameterLayout
    var parameters: [Double]
    private var firstMoments: [Double]
    private var secondMoments: [Double]
    private var nodes: Int { image.shape.nodes }
    private let widths: [Int]

    init(_ spec: ModelSpec, _ image: LocalImage) {
        self.spec = spec
        self.image = image
        let shape = spec.shape(features: image.shape.features, classes: image.shape.classes)
        layout = shape.parameters
        widths = shape.widths
        parameters = Array(repeating: 0, count: layout.count)
        firstMoments = parameters
        secondMoments = parameters
        for (stream, entry) in layout.entries.enumerated() where entry.role != .bias {
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
        var correct = 0
        var labelled = 0
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
        let logits = forward(nil).last!.sum
        let classes = widths.last!
        var figures = Figures()
        var total = 0.0
        for row in rows(split) {
            let label = Int(image.plain.labels[row])
            let values = logits[row * classes..<(row + 1) * classes]
            figures.labelled += 1
            let best = values.indices.max { (values[$0], $1) < (values[$1], $0) }! - row * classes
            if best == label { figures.correct += 1 }
            figures.loss += weight(label) * (logSum(values) - values[row * classes + label])
            total += weight(label)
        }
        figures.loss /= max(total, 1e-300)
        return figures
    }

    /// Mean training loss with this epoch's dropout, at the present parameters.
    func loss(_ epoch: Int) -> Double { lossAndSlope(forward(epoch).last!.sum).loss }

    // MARK: Forward

    private struct Layer {
        /// Input rows, after dropout.
        var input: [Double]
        /// Mean or normalised sum over neighbours of `input`.
        var gathered: [Double]
        /// Before the activation.
        var sum: [Double]
    }

    /// `epoch` nil: without dropout.
    private func forward(_ epoch: Int?) -> [Layer] {
        var layers: [Layer] = []
        var input = image.plain.features.map(Double.init)
        for layer in 1...widths.count - 1 {
            let (inner, outer) = (widths[layer - 1], widths[layer])
            if let epoch { drop(&input, inner, epoch, stream: layer - 1) }
            let gathered = gather(input, inner)
            var sum = multiply(gathered, entry(layer, .weight), inner, outer)
            if spec.model == .sage {
                let own = multiply(input, entry(layer, .root), inner, outer)
                for index in sum.indices { sum[index] += own[index] }
            }
            let bias = entry(layer, .bias)
            for index in sum.indices { sum[index] += parameters[bias.offset + index % outer] }
            layers.append(Layer(input: input, gathered: gathered, sum: sum))
            input = sum.map { max($0, 0) }
        }
        return layers
    }

    private func drop(_ values: inout [Double], _ width: Int, _ epoch: Int, stream: Int) {
        let probability = Float((stream == 0 ? spec.inputDropout : spec.dropout).value)
        guard probability > 0 else { return }
        let threshold = UInt32(Double(probability) * 4_294_967_296)
        for index in values.indices {
            let word = random(
                row: index / width, column: index % width, epoch: UInt32(epoch), stream: UInt32(stream))
            values[index] = word < threshold ? 0 : values[index] / (1 - Double(probability))
        }
    }

    /// GCN: D^-1/2 (A + I) D^-1/2 · values; SAGE: mean over neighbours. Both adjacencies are symmetric.
    private func gather(_ values: [Double], _ width: Int, transposed: Bool = false) -> [Double] {
        var out = Array(repeating: 0.0, count: values.count)
        let plain = image.plain
        for row in 0..<nodes {
            for entry in Int(plain.rowPointers[row])..<Int(plain.rowPointers[row + 1]) {
                let other = Int(plain.columns[entry])
                let factor: Double =
                    switch spec.model {
                    case .gcn: Double(plain.scale[row]) * Double(plain.scale[other])
                    case .sage: Double(plain.scale[transposed ? other : row])
                    case .gat, .rgcn: preconditionFailure("another twin's")
                    }
                for column in 0..<width { out[row * width + column] += factor * values[other * width + column] }
            }
        }
        return out
    }

    private func entry(_ layer: Int, _ role: ParameterLayout.Role) -> ParameterLayout.Entry { layout[layer, role] }

    private func multiply(
        _ a: [Double], _ entry: ParameterLayout.Entry, _ inner: Int, _ outer: Int, transposed: Bool = false
    ) -> [Double] {
        let (from, to) = transposed ? (outer, inner) : (inner, outer)
        var out = Array(repeating: 0.0, count: nodes * to)
        for row in 0..<nodes {
            for k in 0..<from where a[row * from + k] != 0 {
                for column in 0..<to {
                    let index = transposed ? column * outer + k : k * outer + column
                    out[row * to + column] += a[row * from + k] * parameters[entry.offset + index]
                }
            }
        }
        return out
    }

    // MARK: Loss and backward

    private func rows(_ split: Split) -> [Int] {
        (0..<nodes).filter { image.plain.split[$0] == split.rawValue && image.plain.labels[$0] >= 0 }
    }

    private func weight(_ label: Int) -> Double {
        guard spec.classWeights == .balanced else { return 1 }
        let counts = image.trainingByClass
        guard counts[label] > 0 else { return 1 }
        return Double(counts.reduce(0, +)) / (Double(counts.count) * Double(counts[label]))
    }

    private func logSum(_ values: ArraySlice<Double>) -> Double {
        let most = values.max()!
        return most + log(values.reduce(0) { $0 + exp($1 - most) })
    }

    private func lossAndSlope(_ logits: [Double]) -> (loss: Double, slope: [Double]) {
        let classes = widths.last!
        let training = rows(.train)
        let total = training.reduce(0.0) { $0 + weight(Int(image.plain.labels[$1])) }
        var slope = Array(repeating: 0.0, count: logits.count)
        var loss = 0.0
        for row in training {
            let label = Int(image.plain.labels[row])
            let values = logits[row * classes..<(row + 1) * classes]
            let norm = logSum(values)
            loss += weight(label) * (norm - values[row * classes + label]) / total
            for column in 0..<classes {
                slope[row * classes + column] =
                    weight(label) / total * (exp(values[row * classes + column] - norm) - (column == label ? 1 : 0))
            }
        }
        return (loss, slope)
    }

    func gradient(_ epoch: Int) -> (loss: Double, gradient: [Double]) {
        let layers = forward(epoch)
        var (loss, slope) = lossAndSlope(layers.last!.sum)
        var gradient = Array(repeating: 0.0, count: layout.count)
        for layer in stride(from: widths.count - 1, through: 1, by: -1) {
            let (inner, outer) = (widths[layer - 1], widths[layer])
            let state = layers[layer - 1]
            add(&gradient, entry(layer, .weight), state.gathered, slope, inner, outer)
            let bias = entry(layer, .bias)
            for index in slope.indices { gradient[bias.offset + index % outer] += slope[index] }
            var below = gather(
                multiply(slope, entry(layer, .weight), inner, outer, transposed: true), inner, transposed: true)
            if spec.model == .sage {
                add(&gradient, entry(layer, .root), state.input, slope, inner, outer)
                let own = multiply(slope, entry(layer, .root), inner, outer, transposed: true)
                for index in below.indices { below[index] += own[index] }
            }
            guard layer > 1 else { break }
            drop(&below, inner, epoch, stream: layer - 1)
            let sum = layers[layer - 2].sum
            for index in below.indices where sum[index] <= 0 { below[index] = 0 }
            slope = below
        }
        return (loss, gradient)
    }

    private func add(
        _ gradient: inout [Double], _ entry: ParameterLayout.Entry, _ a: [Double], _ b: [Double], _ inner: Int,
        _ outer: Int
    ) {
        for row in 0..<nodes {
            for k in 0..<inner where a[row * inner + k] != 0 {
                for column in 0..<outer {
                    gradient[entry.offset + k * outer + column] += a[row * inner + k] * b[row * outer + column]
                }
            }
        }
    }

    // MARK: Randomness

    private func random(row: Int, column: Int, epoch: UInt32, stream: UInt32) -> UInt32 {
        philox(
            key: (UInt32(truncatingIfNeeded: spec.seed), 0),
            counter: [UInt32(column / 4), UInt32(row), epoch, stream])[column % 4]
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
