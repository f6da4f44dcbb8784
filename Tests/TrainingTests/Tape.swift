import func Glibc.exp
import func Glibc.log

/// A row-major matrix of float64.
struct Dense {
    let rows: Int
    let columns: Int
    var values: [Double]

    init(_ rows: Int, _ columns: Int, _ values: [Double]? = nil) {
        self.rows = rows
        self.columns = columns
        self.values = values ?? Array(repeating: 0, count: rows * columns)
        precondition(self.values.count == rows * columns)
    }

    subscript(_ row: Int, _ column: Int) -> Double {
        get { values[row * columns + column] }
        set { values[row * columns + column] = newValue }
    }
}

/// Reverse-mode differentiation over plain matrices: each operation as the paper writes it, with its own derivative
/// beside it. Slow and simple; what the device computes is held to it, and it to finite differences.
final class Tape {
    final class Value {
        let value: Dense
        var slope: Dense

        init(_ value: Dense) {
            self.value = value
            slope = Dense(value.rows, value.columns)
        }
    }

    private var backward: [() -> Void] = []

    /// Goes back from `last`, whose slope is set.
    func run() { for step in backward.reversed() { step() } }

    private func record(_ value: Dense, _ back: @escaping (Value) -> Void) -> Value {
        let out = Value(value)
        backward.append { back(out) }
        return out
    }

    /// a · b.
    func product(_ a: Value, _ b: Value) -> Value {
        let (rows, inner, columns) = (a.value.rows, a.value.columns, b.value.columns)
        precondition(inner == b.value.rows)
        var out = Dense(rows, columns)
        for i in 0..<rows {
            for k in 0..<inner where a.value[i, k] != 0 {
                for j in 0..<columns { out[i, j] += a.value[i, k] * b.value[k, j] }
            }
        }
        return record(out) { out in
            for i in 0..<rows {
                for k in 0..<inner {
                    var sum = 0.0
                    for j in 0..<columns {
                        sum += out.slope[i, j] * b.value[k, j]
                        b.slope[k, j] += a.value[i, k] * out.slope[i, j]
                    }
                    a.slope[i, k] += sum
                }
            }
        }
    }

    func sum(_ a: Value, _ b: Value) -> Value {
        record(Dense(a.value.rows, a.value.columns, zip(a.value.values, b.value.values).map(+))) { out in
            for index in out.slope.values.indices {
                a.slope.values[index] += out.slope.values[index]
                b.slope.values[index] += out.slope.values[index]
            }
        }
    }

    /// x + row, and x ⊙ row where `multiplies`; row [1, columns].
    func broadcast(_ x: Value, _ row: Value, multiplies: Bool = false) -> Value {
        let columns = x.value.columns
        var out = x.value
        for index in out.values.indices {
            let other = row.value.values[index % columns]
            out.values[index] = multiplies ? out.values[index] * other : out.values[index] + other
        }
        return record(out) { out in
            for index in out.slope.values.indices {
                let slope = out.slope.values[index]
                x.slope.values[index] += multiplies ? slope * row.value.values[index % columns] : slope
                row.slope.values[index % columns] += multiplies ? slope * x.value.values[index] : slope
            }
        }
    }

    /// x ⊙ factors, which are constants.
    func scaled(_ x: Value, _ factors: [Double]) -> Value {
        record(Dense(x.value.rows, x.value.columns, zip(x.value.values, factors).map(*))) { out in
            for index in factors.indices { x.slope.values[index] += out.slope.values[index] * factors[index] }
        }
    }

    /// f element by element; `derivative` of the input.
    func each(_ x: Value, _ f: (Double) -> Double, _ derivative: @escaping (Double) -> Double) -> Value {
        record(Dense(x.value.rows, x.value.columns, x.value.values.map(f))) { out in
            for index in out.slope.values.indices {
                x.slope.values[index] += out.slope.values[index] * derivative(x.value.values[index])
            }
        }
    }

    /// (x − mean) / √(variance + epsilon) of each row.
    func normalised(_ x: Value, epsilon: Double) -> Value {
        let (rows, columns) = (x.value.rows, x.value.columns)
        var out = x.value
        var deviations: [Double] = []
        for row in 0..<rows {
            let values = x.value.values[row * columns..<(row + 1) * columns]
            let mean = values.reduce(0, +) / Double(columns)
            let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(columns)
            deviations.append((variance + epsilon).squareRoot())
            for column in 0..<columns { out[row, column] = (x.value[row, column] - mean) / deviations[row] }
        }
        return record(out) { out in
            for row in 0..<rows {
                var mean = 0.0
                var along = 0.0
                for column in 0..<columns {
                    mean += out.slope[row, column] / Double(columns)
                    along += out.slope[row, column] * out.value[row, column] / Double(columns)
                }
                for column in 0..<columns {
                    x.slope[row, column] +=
                        (out.slope[row, column] - mean - out.value[row, column] * along) / deviations[row]
                }
            }
        }
    }

    /// Edges as (target row, source row, constant weight).
    typealias Edge = (target: Int, source: Int, weight: Double)

    /// out[target] += weight · x[source] over the edges.
    func gathered(_ x: Value, _ edges: [Edge]) -> Value {
        var out = Dense(x.value.rows, x.value.columns)
        for edge in edges {
            for column in 0..<x.value.columns { out[edge.target, column] += edge.weight * x.value[edge.source, column] }
        }
        return record(out) { out in
            for edge in edges {
                for column in 0..<x.value.columns {
                    x.slope[edge.source, column] += edge.weight * out.slope[edge.target, column]
                }
            }
        }
    }

    /// Graph attention: head h of out[i] = Σ_j keep_ijh · softmax_j(leaky(⟨z_i, t⟩ + ⟨z_j, s⟩)) · z_j, head by head.
    ///
    /// - Parameters:
    ///   - edges: those of a row in one piece.
    ///   - keep: for each edge and head, 0 or what the weight is multiplied with.
    func attended(
        _ z: Value, target t: Value, source s: Value, heads: Int, slope: Double, _ edges: [(target: Int, source: Int)],
        keep: [Double]
    ) -> Value {
        let columns = z.value.columns
        let width = columns / heads
        func dot(_ row: Int, _ head: Int, _ vector: Value) -> Double {
            (head * width..<(head + 1) * width).reduce(0) { $0 + z.value[row, $1] * vector.value.values[$1] }
        }
        var raw = Array(repeating: 0.0, count: edges.count * heads)
        var weight = raw
        for head in 0..<heads {
            let toTarget = (0..<z.value.rows).map { dot($0, head, t) }
            let toSource = (0..<z.value.rows).map { dot($0, head, s) }
            var totals = Array(repeating: 0.0, count: z.value.rows)
            for (index, edge) in edges.enumerated() {
                raw[index * heads + head] = toTarget[edge.target] + toSource[edge.source]
                let e = raw[index * heads + head]
                weight[index * heads + head] = exp(e > 0 ? e : slope * e)
                totals[edge.target] += weight[index * heads + head]
            }
            for (index, edge) in edges.enumerated() { weight[index * heads + head] /= totals[edge.target] }
        }
        var out = Dense(z.value.rows, columns)
        for (index, edge) in edges.enumerated() {
            for column in 0..<columns {
                let at = index * heads + column / width
                out[edge.target, column] += keep[at] * weight[at] * z.value[edge.source, column]
            }
        }
        return record(out) { out in
            var ofWeight = Array(repeating: 0.0, count: weight.count)
            for (index, edge) in edges.enumerated() {
                for column in 0..<columns {
                    let at = index * heads + column / width
                    ofWeight[at] += keep[at] * out.slope[edge.target, column] * z.value[edge.source, column]
                    z.slope[edge.source, column] += keep[at] * weight[at] * out.slope[edge.target, column]
                }
            }
            for head in 0..<heads {
                var means = Array(repeating: 0.0, count: z.value.rows)
                for (index, edge) in edges.enumerated() {
                    means[edge.target] += weight[index * heads + head] * ofWeight[index * heads + head]
                }
                for (index, edge) in edges.enumerated() {
                    let at = index * heads + head
                    let ofScore = weight[at] * (ofWeight[at] - means[edge.target]) * (raw[at] > 0 ? 1 : slope)
                    for column in head * width..<(head + 1) * width {
                        t.slope.values[column] += ofScore * z.value[edge.target, column]
                        s.slope.values[column] += ofScore * z.value[edge.source, column]
                        z.slope[edge.target, column] += ofScore * t.value.values[column]
                        z.slope[edge.source, column] += ofScore * s.value.values[column]
                    }
                }
            }
        }
    }

    /// The mean of the heads, which stand side by side.
    func meanOfHeads(_ x: Value, heads: Int) -> Value {
        let width = x.value.columns / heads
        var out = Dense(x.value.rows, width)
        for row in 0..<x.value.rows {
            for column in 0..<x.value.columns { out[row, column % width] += x.value[row, column] / Double(heads) }
        }
        return record(out) { out in
            for row in 0..<x.value.rows {
                for column in 0..<x.value.columns {
                    x.slope[row, column] += out.slope[row, column % width] / Double(heads)
                }
            }
        }
    }
}
