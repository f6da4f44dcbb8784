package import Vocabulary

import func Glibc.expf

/// What a trained model answers for every row of its run image, computed in the enclave from the weights that would
/// leave and the image they were trained on. Plain loops: it is run once, for the checks of a release.
package struct Inference: Sendable {
    /// The opened sections of a run image; see `ImageSection`.
    package struct Rows: Sendable {
        package var rowPointers: [UInt64]
        package var columns: [UInt32]
        /// [nodes, features]; empty where the image holds the first layer's aggregate instead.
        package var features: [Float]
        /// [nodes, features]; empty where the image holds none.
        package var aggregate: [Float]
        /// Empty for attention.
        package var scale: [Float]

        package init(
            rowPointers: [UInt64], columns: [UInt32], features: [Float], aggregate: [Float], scale: [Float]
        ) {
            self.rowPointers = rowPointers
            self.columns = columns
            self.features = features
            self.aggregate = aggregate
            self.scale = scale
        }
    }

    private let spec: ModelSpec
    private let shape: ImageShape
    private let widths: [Int]
    private let weights: [String: [Float]]

    /// - Parameter weights: the tensors by name, row-major; all that the specification asks for, each of its size.
    package init(spec: ModelSpec, shape: ImageShape, weights: [String: [Float]]) throws(TrainingError) {
        self.spec = spec
        self.shape = shape
        self.weights = weights
        widths = [shape.features] + spec.hidden + [shape.classes]
        for layer in 1..<widths.count {
            for (name, count) in sizes(ofLayer: layer) where weights["layers.\(layer).\(name)"]?.count != count {
                throw TrainingError(.badWeights, "the weights are not those of the specification")
            }
        }
    }

    private func sizes(ofLayer layer: Int) -> [(String, Int)] {
        let (inner, outer) = (widths[layer - 1], widths[layer])
        let isLast = layer == widths.count - 1
        var sizes: [(String, Int)] = [("bias", outer)]
        switch spec.model {
        case .gcn: sizes.append(("weight", inner * outer))
        case .sage: sizes += [("weight", inner * outer), ("root", inner * outer)]
        case .rgcn:
            sizes.append(("root", inner * outer))
            sizes += shape.relations.indices.map { ("relations.\($0)", inner * outer) }
        case .gat:
            let wide = isLast ? outer * heads(layer) : outer
            sizes += [("weight", inner * wide), ("attention_source", wide), ("attention_target", wide)]
        }
        if spec.layerNorm, !isLast { sizes += [("norm_scale", outer), ("norm_shift", outer)] }
        return sizes
    }

    private func heads(_ layer: Int) -> Int {
        let isLast = layer == widths.count - 1
        return (isLast ? spec.attention?.outputHeads : spec.attention?.heads) ?? 1
    }

    /// [nodes, classes], before any softmax.
    package func outputs(_ rows: Rows) throws(TrainingError) -> [Float] {
        let features = shape.nodes * shape.features
        let isAggregated = shape.recipe.aggregatesFirstLayer
        guard rows.rowPointers.count == shape.topologies * shape.nodes + 1, rows.columns.count == shape.edges,
            rows.rowPointers.last == UInt64(shape.edges),
            rows.aggregate.count == (isAggregated ? features : 0),
            rows.features.count == (isAggregated && spec.model == .gcn ? 0 : features),
            rows.scale.count == (spec.model == .gat ? 0 : shape.topologies * shape.nodes),
            rows.columns.allSatisfy({ Int($0) < shape.nodes }),
            zip(rows.rowPointers, rows.rowPointers.dropFirst()).allSatisfy({ $0 <= $1 })
        else { throw TrainingError(.badWeights, "the opened image does not fit its shape") }
        var input = rows.features
        for layer in 1..<widths.count {
            var out = convolution(input, layer, rows)
            if layer < widths.count - 1 {
                if spec.layerNorm { normalise(&out, layer) }
                switch spec.activation {
                case .relu: for index in out.indices where out[index] < 0 { out[index] = 0 }
                case .elu: for index in out.indices where out[index] < 0 { out[index] = expf(out[index]) - 1 }
                }
                if spec.residual, layer > 1, widths[layer] == widths[layer - 1] {
                    for index in out.indices { out[index] += input[index] }
                }
            }
            input = out
        }
        return input
    }

    // MARK: - One layer

    private func weight(_ layer: Int, _ name: String) -> [Float] { weights["layers.\(layer).\(name)"] ?? [] }

    private func convolution(_ input: [Float], _ layer: Int, _ rows: Rows) -> [Float] {
        let (inner, outer) = (widths[layer - 1], widths[layer])
        var out = [Float](repeating: 0, count: shape.nodes * outer)
        add(weight(layer, "bias"), toEachRowOf: &out)
        // Summing over neighbours comes before the product, as the image's own aggregate does.
        let gathered = { (relation: Int) in
            layer == 1 && !rows.aggregate.isEmpty ? rows.aggregate : gather(input, inner, relation, rows)
        }
        switch spec.model {
        case .gcn: addProduct(gathered(0), inner, weight(layer, "weight"), outer, to: &out)
        case .sage:
            addProduct(gathered(0), inner, weight(layer, "weight"), outer, to: &out)
            addProduct(input, inner, weight(layer, "root"), outer, to: &out)
        case .rgcn:
            addProduct(input, inner, weight(layer, "root"), outer, to: &out)
            for relation in shape.relations.indices {
                addProduct(gathered(relation), inner, weight(layer, "relations.\(relation)"), outer, to: &out)
            }
        case .gat: attend(input, layer, rows, to: &out)
        }
        return out
    }

    /// Weighted sums over each row's neighbours, [nodes, width].
    private func gather(_ input: [Float], _ width: Int, _ relation: Int, _ rows: Rows) -> [Float] {
        var out = [Float](repeating: 0, count: shape.nodes * width)
        let first = relation * shape.nodes
        input.withUnsafeBufferPointer { input in
            out.withUnsafeMutableBufferPointer { out in
                for row in 0..<shape.nodes {
                    let own = rows.scale[first + row]
                    for entry in Int(rows.rowPointers[first + row])..<Int(rows.rowPointers[first + row + 1]) {
                        let other = Int(rows.columns[entry])
                        let factor = spec.model == .gcn ? own * rows.scale[other] : own
                        for column in 0..<width { out[row * width + column] += factor * input[other * width + column] }
                    }
                }
            }
        }
        return out
    }

    /// Softmax over each row's neighbours, by head (Veličković et al. 2018).
    private func attend(_ input: [Float], _ layer: Int, _ rows: Rows, to out: inout [Float]) {
        let heads = heads(layer)
        let isLast = layer == widths.count - 1
        let wide = isLast ? widths[layer] * heads : widths[layer]
        let width = wide / heads
        var projected = [Float](repeating: 0, count: shape.nodes * wide)
        addProduct(input, widths[layer - 1], weight(layer, "weight"), wide, to: &projected)
        let (source, target) = (weight(layer, "attention_source"), weight(layer, "attention_target"))
        func dots(_ vector: [Float]) -> [Float] {
            (0..<shape.nodes * heads).map { index in
                let (row, head) = (index / heads, index % heads)
                return (head * width..<(head + 1) * width).reduce(0) {
                    $0 + projected[row * wide + $1] * vector[$1]
                }
            }
        }
        let (toSource, toTarget) = (dots(source), dots(target))
        for row in 0..<shape.nodes {
            let entries = Int(rows.rowPointers[row])..<Int(rows.rowPointers[row + 1])
            for head in 0..<heads {
                let raw = entries.map { entry -> Float in
                    let e = toTarget[row * heads + head] + toSource[Int(rows.columns[entry]) * heads + head]
                    return e > 0 ? e : 0.2 * e
                }
                let most = raw.max() ?? 0
                let powers = raw.map { expf($0 - most) }
                let total = powers.reduce(0, +)
                for (entry, power) in zip(entries, powers) {
                    let factor = power / total / (isLast ? Float(heads) : 1)
                    let other = Int(rows.columns[entry]) * wide + head * width
                    let own = isLast ? row * width : row * wide + head * width
                    for column in 0..<width { out[own + column] += factor * projected[other + column] }
                }
            }
        }
    }

    private func normalise(_ values: inout [Float], _ layer: Int) {
        let width = widths[layer]
        let (scale, shift) = (weight(layer, "norm_scale"), weight(layer, "norm_shift"))
        for row in 0..<shape.nodes {
            let own = row * width..<(row + 1) * width
            let mean = values[own].reduce(0, +) / Float(width)
            let variance = values[own].reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Float(width)
            let deviation = (variance + 1e-5).squareRoot()
            for column in 0..<width {
                let at = row * width + column
                values[at] = (values[at] - mean) / deviation * scale[column] + shift[column]
            }
        }
    }

    private func add(_ bias: [Float], toEachRowOf out: inout [Float]) {
        for index in out.indices { out[index] += bias[index % bias.count] }
    }

    /// out += a · b; a is [nodes, inner], b is [inner, outer].
    private func addProduct(_ a: [Float], _ inner: Int, _ b: [Float], _ outer: Int, to out: inout [Float]) {
        a.withUnsafeBufferPointer { a in
            b.withUnsafeBufferPointer { b in
                out.withUnsafeMutableBufferPointer { out in
                    for row in 0..<shape.nodes {
                        for k in 0..<inner {
                            let factor = a[row * inner + k]
                            if factor == 0 { continue }
                            for column in 0..<outer { out[row * outer + column] += factor * b[k * outer + column] }
                        }
                    }
                }
            }
        }
    }
}
