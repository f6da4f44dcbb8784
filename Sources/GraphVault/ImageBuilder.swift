import Vocabulary

/// An undirected simple graph over the rows of a cohort, in compressed rows.
struct ImageTopology {
    /// `[nodes + 1]`
    var rowPointers: [UInt64] = [0]
    /// `[edges]`, ascending in each row.
    var columns: [UInt32] = []

    var nodes: Int { rowPointers.count - 1 }

    /// Joins both directions of each kept edge, drops repeats and self edges, and renumbers to the cohort's rows.
    ///
    /// Renumbering keeps the order, so merging two ascending rows gives an ascending row. `selfLoops` puts each row into
    /// its own neighbours, at its place.
    init(bySource: Adjacency, byTarget: Adjacency, isIn: [Bool], selfLoops: Bool) throws(VaultError) {
        let rows = isIn.count
        guard bySource.pointers.count == rows + 1, byTarget.pointers.count == rows + 1,
            bySource.isWellFormed(rows: rows), byTarget.isWellFormed(rows: rows)
        else { throw VaultError(.tampered, "a version's edges do not fit its nodes") }
        var newNumber = [UInt32](repeating: 0, count: rows)
        var kept: UInt32 = 0
        for row in 0..<rows where isIn[row] {
            newNumber[row] = kept
            kept += 1
        }
        rowPointers.reserveCapacity(Int(kept) + 1)
        columns.reserveCapacity(bySource.columns.count + byTarget.columns.count + (selfLoops ? Int(kept) : 0))
        for row in 0..<rows where isIn[row] {
            var (out, outEnd) = (Int(bySource.pointers[row]), Int(bySource.pointers[row + 1]))
            var (back, backEnd) = (Int(byTarget.pointers[row]), Int(byTarget.pointers[row + 1]))
            var last = -1
            var ownIsDue = selfLoops
            while out < outEnd || back < backEnd {
                let next: Int
                if back == backEnd || out < outEnd && bySource.columns[out] <= byTarget.columns[back] {
                    next = Int(bySource.columns[out])
                    out += 1
                } else {
                    next = Int(byTarget.columns[back])
                    back += 1
                }
                guard next != last, next != row, isIn[next] else { continue }
                if ownIsDue, next > row {
                    columns.append(newNumber[row])
                    ownIsDue = false
                }
                columns.append(newNumber[next])
                last = next
            }
            if ownIsDue { columns.append(newNumber[row]) }
            rowPointers.append(UInt64(columns.count))
        }
    }

    /// What `Aggregation` multiplies each row with; float64 until the last step.
    func scale(_ aggregation: Aggregation) -> [Float] {
        (0..<nodes).map { row in
            let degree = Double(rowPointers[row + 1] - rowPointers[row])
            switch aggregation {
            case .gcn: return Float(1 / degree.squareRoot())
            case .sage: return degree == 0 ? 0 : Float(1 / degree)
            }
        }
    }

    /// Entries before row 0, 1024, 2048, …, and all of them.
    var tileEdges: [UInt64] {
        stride(from: 0, to: nodes, by: ImageShape.tileRows).map { rowPointers[$0] } + [rowPointers[nodes]]
    }

    /// The first layer's aggregate of rows `range`, exactly as the device computes it from the same features.
    ///
    /// Each element is one chain of float32 additions over ascending neighbours, starting from 0:
    /// GCN `s[i] · Σ s[j]·x[j]`, SAGE `s[i] · Σ x[j]`. `features` is `[nodes, width]`, `out` `[range.count, width]`.
    func aggregate(
        rows range: Range<Int>, of features: UnsafePointer<Float>, width: Int, scale: [Float],
        _ aggregation: Aggregation,
        into out: UnsafeMutablePointer<Float>
    ) {
        for row in range {
            let sum = out + (row - range.lowerBound) * width
            sum.update(repeating: 0, count: width)
            for entry in Int(rowPointers[row])..<Int(rowPointers[row + 1]) {
                let neighbour = Int(columns[entry])
                let x = features + neighbour * width
                switch aggregation {
                case .gcn: addScaled(scale[neighbour], x, to: sum, count: width)
                case .sage: add(x, to: sum, count: width)
                }
            }
            multiply(sum, by: scale[row], count: width)
        }
    }
}

extension Adjacency {
    fileprivate func isWellFormed(rows: Int) -> Bool {
        guard pointers.first == 0, pointers.last == UInt64(columns.count) else { return false }
        for row in 0..<rows where pointers[row] > pointers[row + 1] { return false }
        return columns.allSatisfy { $0 < rows }
    }
}

// Element by element, so that vector code gives the same bits as scalar code. Swift does not fuse a multiplication and
// an addition on its own.

private func addScaled(_ a: Float, _ x: UnsafePointer<Float>, to y: UnsafeMutablePointer<Float>, count: Int) {
    for i in 0..<count { y[i] += a * x[i] }
}

private func add(_ x: UnsafePointer<Float>, to y: UnsafeMutablePointer<Float>, count: Int) {
    for i in 0..<count { y[i] += x[i] }
}

private func multiply(_ y: UnsafeMutablePointer<Float>, by a: Float, count: Int) {
    for i in 0..<count { y[i] *= a }
}

/// Puts feature rows on a common footing. All sums are float64, in row order, over the cohort's rows only.
struct FeatureScaling {
    private let rule: FeatureNormalisation
    private let width: Int
    private var count = 0
    private var means: [Double]
    private var divisors: [Double]
    private var pass = 0

    /// Passes over the data before `apply` can be used.
    var passesNeeded: Int { rule == .standard ? 2 : 0 }

    init(_ rule: FeatureNormalisation, width: Int) {
        self.rule = rule
        self.width = width
        means = Array(repeating: 0, count: rule == .standard ? width : 0)
        divisors = means
    }

    /// Takes one more row of the current pass: sums first, then squared distances from the means.
    mutating func look(at row: UnsafePointer<Float>) {
        if pass == 0 {
            count += 1
            for i in 0..<width { means[i] += Double(row[i]) }
        } else {
            for i in 0..<width {
                let distance = Double(row[i]) - means[i]
                divisors[i] += distance * distance
            }
        }
    }

    mutating func endPass() {
        if pass == 0 {
            for i in 0..<width { means[i] /= Double(count) }
        } else {
            for i in 0..<width { divisors[i] = (divisors[i] / Double(count)).squareRoot() + 1e-6 }
        }
        pass += 1
    }

    func apply(to row: UnsafeMutablePointer<Float>) throws(VaultError) {
        switch rule {
        case .none: return
        case .rowSum:
            var sum = 0.0
            for i in 0..<width { sum += Double(row[i]) }
            guard sum != 0 else { return }
            for i in 0..<width { row[i] = Float(Double(row[i]) / sum) }
        case .standard:
            for i in 0..<width { row[i] = Float((Double(row[i]) - means[i]) / divisors[i]) }
        }
        for i in 0..<width where !row[i].isFinite {
            throw VaultError(.notFinite, "a feature leaves the range of float32 when it is normalised")
        }
    }
}
