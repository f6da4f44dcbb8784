import Glibc

/// Plain twins of the kernels: float64 for what is right, single-precision chains for which bits it must have.
enum Reference {
    struct Graph {
        var pointers: [UInt64]
        var neighbours: [UInt32]
        var nodes: Int { pointers.count - 1 }
        func row(_ node: Int) -> ArraySlice<UInt32> { neighbours[Int(pointers[node])..<Int(pointers[node + 1])] }
    }

    /// Σ over neighbours, one chain of additions in ascending order.
    static func aggregate<Value: BinaryFloatingPoint>(
        _ graph: Graph, _ x: [Value], width: Int, from start: [Value]? = nil
    ) -> [Value] {
        var out = start ?? [Value](repeating: 0, count: graph.nodes * width)
        for node in 0..<graph.nodes {
            for neighbour in graph.row(node) {
                for column in 0..<width { out[node * width + column] += x[Int(neighbour) * width + column] }
            }
        }
        return out
    }

    /// a [rows, inner] · b [inner, columns], one chain of fused multiply-adds in ascending k.
    static func product<Value: BinaryFloatingPoint>(
        _ a: [Value], _ b: [Value], rows: Int, columns: Int, inner: Int, from start: [Value]? = nil
    ) -> [Value] {
        var out = start ?? [Value](repeating: 0, count: rows * columns)
        for row in 0..<rows {
            for column in 0..<columns {
                var sum = out[row * columns + column]
                for k in 0..<inner { sum = sum.addingProduct(a[row * inner + k], b[k * columns + column]) }
                out[row * columns + column] = sum
            }
        }
        return out
    }

    static func transposed<Value>(_ a: [Value], rows: Int, columns: Int) -> [Value] {
        (0..<rows * columns).map { a[$0 % rows * columns + $0 / rows] }
    }

    /// What a binary counter makes of the tiles' sums: older + newer whenever two are of one size.
    static func tree<Value: BinaryFloatingPoint>(_ tiles: [[Value]]) -> [Value] {
        var stack: [(size: Int, sum: [Value])] = []
        for tile in tiles {
            stack.append((1, tile))
            while stack.count > 1, stack[stack.count - 1].size == stack[stack.count - 2].size {
                let newer = stack.removeLast()
                let older = stack.removeLast()
                stack.append((2 * newer.size, zip(older.sum, newer.sum).map { $0 + $1 }))
            }
        }
        var sum = stack.removeLast().sum
        while let older = stack.popLast() { sum = zip(older.sum, sum).map { $0 + $1 } }
        return sum
    }

    /// aᵀ · b by tiles of 1,024 rows.
    static func tileProduct<Value: BinaryFloatingPoint>(_ a: [Value], _ b: [Value], rows: Int, m: Int, n: Int)
        -> [Value]
    {
        tree(
            stride(from: 0, to: rows, by: 1024).map { first in
                let count = min(1024, rows - first)
                return product(
                    transposed(Array(a[first * m..<(first + count) * m]), rows: count, columns: m),
                    Array(b[first * n..<(first + count) * n]), rows: m, columns: n, inner: count)
            })
    }

    static func tileColumnSum<Value: BinaryFloatingPoint>(_ a: [Value], rows: Int, columns: Int) -> [Value] {
        tree(
            stride(from: 0, to: rows, by: 1024).map { first in
                var sums = [Value](repeating: 0, count: columns)
                for row in first..<min(first + 1024, rows) {
                    for column in 0..<columns { sums[column] += a[row * columns + column] }
                }
                return sums
            })
    }

    /// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
    static func philox(counter: (UInt32, UInt32, UInt32, UInt32), key: (UInt32, UInt32)) -> [UInt32] {
        var (c0, c1, c2, c3) = counter
        var (k0, k1) = key
        for _ in 0..<10 {
            let p0 = UInt64(c0) * 0xD251_1F53
            let p2 = UInt64(c2) * 0xCD9E_8D57
            (c0, c1, c2, c3) = (
                UInt32(p2 >> 32) ^ c1 ^ k0, UInt32(truncatingIfNeeded: p2), UInt32(p0 >> 32) ^ c3 ^ k1,
                UInt32(truncatingIfNeeded: p0)
            )
            k0 &+= 0x9E37_79B9
            k1 &+= 0xBB67_AE85
        }
        return [c0, c1, c2, c3]
    }

    /// What dropout multiplies an element with.
    static func dropout(row: Int, column: Int, epoch: UInt32, stream: UInt32, seed: UInt64, probability: Float) -> Float
    {
        let words = philox(
            counter: (UInt32(column / 8), UInt32(row), epoch, stream),
            key: (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)))
        let half = words[column % 8 / 2] >> (column % 2 == 0 ? 0 : 16) & 0xFFFF
        return Double(half) >= (Double(probability) * 65_536).rounded() ? 1 / (1 - probability) : 0
    }

    struct Loss {
        var sums = [Double](repeating: 0, count: 3)
        var weights = [Double](repeating: 0, count: 3)
        var correct = [UInt64](repeating: 0, count: 3)
        var labelled = [UInt64](repeating: 0, count: 3)
        var gradient: [Double] = []
    }

    /// Softmax cross-entropy in float64; the gradient is of the weighted mean over the training rows.
    static func loss(
        _ logits: [Double], labels: [Int32], split: [UInt8], classes: Int, classWeights: [Double]?
    ) -> Loss {
        var out = Loss()
        out.gradient = [Double](repeating: 0, count: logits.count)
        let weight = { (label: Int32) in classWeights?[Int(label)] ?? 1 }
        let total = labels.indices.filter { split[$0] == 1 && labels[$0] >= 0 }.reduce(0.0) { $0 + weight(labels[$1]) }
        for row in labels.indices where labels[row] >= 0 && split[row] > 0 {
            let z = Array(logits[row * classes..<(row + 1) * classes])
            let top = z.max()!
            let sum = z.reduce(0.0) { $0 + exp($1 - top) }
            let label = Int(labels[row])
            let w = weight(labels[row])
            let index = Int(split[row]) - 1
            out.sums[index] += w * (log(sum) - (z[label] - top))
            out.weights[index] += w
            out.labelled[index] += 1
            if z.firstIndex(of: top) == label { out.correct[index] += 1 }
            guard split[row] == 1 else { continue }
            for column in 0..<classes {
                let share = exp(z[column] - top) / sum - (column == label ? 1 : 0)
                out.gradient[row * classes + column] = w / total * share
            }
        }
        return out
    }
}
