import Vocabulary

/// The graph over the rows of a cohort, in compressed rows: undirected and simple, or one directed simple graph for each
/// direction of each predicate.
struct ImageTopology {
    let nodes: Int
    /// `[nodes + 1]`, or `[relations × nodes + 1]`: see `ImageSection.rowPointers`.
    private(set) var rowPointers: [UInt64] = [0]
    /// `[edges]`, ascending in each row.
    private(set) var columns: [UInt32] = []
    /// Empty for the one undirected graph.
    private(set) var relations: [ImageShape.Relation] = []

    /// Joins both directions of each kept edge, drops repeats and self edges, and renumbers to the cohort's rows.
    ///
    /// Renumbering keeps the order, so merging two ascending rows gives an ascending row. `selfLoops` puts each row into
    /// its own neighbours, at its place.
    init(bySource: Adjacency, byTarget: Adjacency, isIn: [Bool], selfLoops: Bool) throws(VaultError) {
        let rows = isIn.count
        guard bySource.pointers.count == rows + 1, byTarget.pointers.count == rows + 1,
            bySource.isWellFormed(rows: rows), byTarget.isWellFormed(rows: rows)
        else { throw VaultError(.tampered, "a version's edges do not fit its nodes") }
        let (newNumber, kept) = Self.renumbered(isIn)
        nodes = kept
        rowPointers.reserveCapacity(kept + 1)
        columns.reserveCapacity(bySource.columns.count + byTarget.columns.count + (selfLoops ? kept : 0))
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

    /// One relation for each direction of each predicate, in the order of `predicates`, without repeats and self edges;
    /// a predicate of which nothing is left makes none.
    ///
    /// - Parameter predicateOfEdge: for each of `bySource`'s columns, a number that `predicates` may name.
    init(
        bySource: Adjacency, predicateOfEdge: [UInt16], predicates: [(code: Int, name: String)], isIn: [Bool]
    ) throws(VaultError) {
        let rows = isIn.count
        guard bySource.pointers.count == rows + 1, bySource.isWellFormed(rows: rows),
            predicateOfEdge.count == bySource.columns.count
        else { throw VaultError(.tampered, "a version's edges do not fit its nodes") }
        let (newNumber, kept) = Self.renumbered(isIn)
        nodes = kept
        var place = [Int](repeating: -1, count: Int(UInt16.max) + 1)
        for (position, predicate) in predicates.enumerated() { place[predicate.code] = position }
        // A stable counting sort by predicate keeps each source's targets ascending.
        var starts = [Int](repeating: 0, count: predicates.count + 1)
        for code in predicateOfEdge where place[Int(code)] >= 0 { starts[place[Int(code)] + 1] += 1 }
        for position in predicates.indices { starts[position + 1] += starts[position] }
        var next = starts
        var sorted = [(source: UInt32, target: UInt32)](repeating: (0, 0), count: starts[predicates.count])
        for row in 0..<rows {
            for edge in Int(bySource.pointers[row])..<Int(bySource.pointers[row + 1]) {
                let position = place[Int(predicateOfEdge[edge])]
                guard position >= 0 else { continue }
                sorted[next[position]] = (UInt32(row), bySource.columns[edge])
                next[position] += 1
            }
        }
        for (position, predicate) in predicates.enumerated() {
            var edges: [(row: UInt32, column: UInt32)] = []
            for (source, target) in sorted[starts[position]..<starts[position + 1]]
            where source != target && isIn[Int(source)] && isIn[Int(target)] {
                let edge = (newNumber[Int(source)], newNumber[Int(target)])
                if let last = edges.last, last == edge { continue }
                edges.append(edge)
            }
            guard !edges.isEmpty else { continue }
            append(edges, predicate.name, isInverse: false)
            append(edges.map { ($0.column, $0.row) }, predicate.name, isInverse: true)
        }
    }

    /// - Parameter edges: in each row, ascending; rows in any order.
    private mutating func append(_ edges: [(row: UInt32, column: UInt32)], _ predicate: String, isInverse: Bool) {
        let base = columns.count
        var next = [Int](repeating: 0, count: nodes + 1)
        for edge in edges { next[Int(edge.row) + 1] += 1 }
        for row in 0..<nodes { next[row + 1] += next[row] }
        let first = rowPointers.count - 1
        for row in 1...nodes { rowPointers.append(UInt64(base + next[row])) }
        columns += [UInt32](repeating: 0, count: edges.count)
        for edge in edges {
            columns[base + next[Int(edge.row)]] = edge.column
            next[Int(edge.row)] += 1
        }
        relations.append(
            ImageShape.Relation(
                predicate: predicate, isInverse: isInverse, edges: edges.count, tileEdges: tileEdges(from: first)))
    }

    private static func renumbered(_ isIn: [Bool]) -> (newNumber: [UInt32], kept: Int) {
        var newNumber = [UInt32](repeating: 0, count: isIn.count)
        var kept: UInt32 = 0
        for row in isIn.indices where isIn[row] {
            newNumber[row] = kept
            kept += 1
        }
        return (newNumber, Int(kept))
    }

    /// What `Aggregation` multiplies each row with, in each topology; float64 until the last step.
    func scale(_ aggregation: Aggregation) -> [Float] {
        (0..<rowPointers.count - 1).map { row in
            let degree = Double(rowPointers[row + 1] - rowPointers[row])
            switch aggregation {
            case .gcn: return Float(1 / degree.squareRoot())
            case .sage, .rgcn: return degree == 0 ? 0 : Float(1 / degree)
            case .gat: return 1
            }
        }
    }

    /// Entries before row 0, 1024, 2048, …, and all of them; summed over the relations.
    var tileEdges: [UInt64] {
        guard var sum = relations.first?.tileEdges else { return tileEdges(from: 0) }
        for relation in relations.dropFirst() {
            for (tile, edges) in relation.tileEdges.enumerated() { sum[tile] += edges - relation.tileEdges[0] }
        }
        return sum
    }

    private func tileEdges(from first: Int) -> [UInt64] {
        stride(from: 0, to: nodes, by: ImageShape.tileRows).map { rowPointers[first + $0] }
            + [rowPointers[first + nodes]]
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
                case .gat, .rgcn: preconditionFailure("no recipe aggregates the first layer of these")
                }
            }
            multiply(sum, by: scale[row], count: width)
        }
    }
}

extension Adjacency {
    /// Edges of the predicates in `codes` only, by source and by target.
    func filtered(
        _ predicateOfEdge: [UInt16], _ codes: Set<Int>
    ) throws(VaultError) -> (bySource: Adjacency, byTarget: Adjacency) {
        let rows = pointers.count - 1
        guard isWellFormed(rows: rows), predicateOfEdge.count == columns.count else {
            throw VaultError(.tampered, "a version's edges do not fit its nodes")
        }
        var out = Adjacency(pointers: [0], columns: [])
        var next = [UInt64](repeating: 0, count: rows + 1)
        for row in 0..<rows {
            for edge in Int(pointers[row])..<Int(pointers[row + 1]) where codes.contains(Int(predicateOfEdge[edge])) {
                out.columns.append(columns[edge])
                next[Int(columns[edge]) + 1] += 1
            }
            out.pointers.append(UInt64(out.columns.count))
        }
        for row in 0..<rows { next[row + 1] += next[row] }
        var back = Adjacency(pointers: next, columns: [UInt32](repeating: 0, count: out.columns.count))
        for row in 0..<rows {
            for edge in Int(out.pointers[row])..<Int(out.pointers[row + 1]) {
                let target = Int(out.columns[edge])
                back.columns[Int(next[target])] = UInt32(row)
                next[target] += 1
            }
        }
        return (out, back)
    }

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
