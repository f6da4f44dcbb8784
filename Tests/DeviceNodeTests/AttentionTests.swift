import CKernels
import Glibc
import TestSupport
import Testing

/// Attention against float64, at every instruction level, however its edges, rows, sources and heads are cut.
@Suite struct AttentionTests {
    @Test(
        "attention is the softmax-weighted sum of float64, with the same bits for any cut",
        arguments: 1...24 as ClosedRange<UInt64>)
    func forward(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let one = AttentionCase(seed: seed, nodes: Int.random(in: 1...150, using: &random), using: &random)
        let exact = one.forward(one.t.values.map(Double.init), one.s.values.map(Double.init), one.z.values)
        var first: [Float]?
        for kernels in KernelTests.levels {
            for cuts in [Cuts(), Cuts(one, using: &random), Cuts(one, using: &random)] {
                let (highest, inverse) = one.scale(kernels, cuts)
                let out = one.attend(kernels, highest, inverse, cuts)
                #expect(out.paddingIsUntouched, "seed \(seed)")
                #expect(
                    zip(out.values, exact).allSatisfy { abs(Double($0) - $1) < 2e-5 },
                    "seed \(seed), \(String(cString: kernels.pointee.name))")
                #expect(out.values == first ?? out.values, "seed \(seed), \(cuts)")
                first = out.values
            }
        }
    }

    @Test(
        "the gradients of scores and features are what finite differences of float64 say, with the same bits for any cut",
        arguments: 1...16 as ClosedRange<UInt64>)
    func gradient(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let one = AttentionCase(seed: seed, nodes: Int.random(in: 2...60, using: &random), using: &random)
        var first: (t: [Float], s: [Float], z: [Float])?
        for kernels in KernelTests.levels {
            for cuts in [Cuts(), Cuts(one, using: &random)] {
                let (highest, inverse) = one.scale(kernels, cuts)
                let out = one.attend(kernels, highest, inverse, Cuts())
                let dots = one.dots(kernels, out)
                let got = one.gradients(kernels, highest, inverse, dots, cuts)
                if let first {
                    #expect(got == first, "seed \(seed), \(cuts), \(String(cString: kernels.pointee.name))")
                }
                first = got
            }
        }
        let got = first!
        let (t, s) = (one.t.values.map(Double.init), one.s.values.map(Double.init))
        let z = one.z.values.map(Double.init)
        let g = one.g.values.map(Double.init)
        func loss(_ t: [Double], _ s: [Double], _ z: [Double]) -> Double {
            zip(one.forward(t, s, z), g).reduce(0) { $0 + $1.0 * $1.1 }
        }
        func slope(_ at: Int, of values: [Double], _ loss: ([Double]) -> Double) -> Double {
            var (above, below) = (values, values)
            above[at] += 1e-6
            below[at] -= 1e-6
            return (loss(above) - loss(below)) / 2e-6
        }
        for _ in 0..<12 {
            let score = Int.random(in: 0..<t.count, using: &random)
            let element = Int.random(in: 0..<z.count, using: &random)
            let expected = [
                slope(score, of: t) { loss($0, s, z) }, slope(score, of: s) { loss(t, $0, z) },
                slope(element, of: z) { loss(t, s, $0) },
            ]
            for (a, b) in zip([got.t[score], got.s[score], got.z[element]], expected) {
                #expect(abs(Double(a) - b) < 2e-4 + 2e-4 * abs(b), "seed \(seed), \(one.heads) heads")
            }
        }
    }

    @Test("weights of a node sum to one whatever its scores, and a node without neighbours gets nothing")
    func extremes() {
        let graph = Reference.Graph(pointers: [0, 3, 3, 5], neighbours: [0, 1, 2, 0, 2])
        var random = SeededRandom(seed: 1)
        for kernels in KernelTests.levels {
            let one = AttentionCase(graph: graph, heads: 1, headWidth: 1, drop: nil, using: &random)
            for node in 0..<3 {
                one.t.base[node * one.t.stride] = [1e30, 0, -500][node]
                one.s.base[node * one.s.stride] = [400, -3e4, 90][node]
                one.z.base[node * one.z.stride] = 1
            }
            let (highest, inverse) = one.scale(kernels, Cuts())
            let out = one.attend(kernels, highest, inverse, Cuts()).values
            #expect(abs(out[0] - 1) < 1e-6 && out[1] == 0 && abs(out[2] - 1) < 1e-6)
            // What is no number shows.
            one.s.base[2 * one.s.stride] = .nan
            let (high, low) = one.scale(kernels, Cuts())
            #expect(one.attend(kernels, high, low, Cuts()).values[2].isNaN)
        }
    }
}

/// How one computation is cut: rows, sources, heads, and the columns of a head that is on its own, each at ascending
/// positions.
struct Cuts: CustomStringConvertible {
    var rows: [Int] = []
    var others: [Int] = []
    var heads: [Int] = []
    var columns: [Int] = []

    init() {}
    init(_ one: AttentionCase, using random: inout SeededRandom) {
        func some(_ count: Int) -> [Int] {
            (0..<Int.random(in: 0...2, using: &random)).map { _ in Int.random(in: 0...count, using: &random) }.sorted()
        }
        (rows, others, heads) = (some(one.nodes), some(one.nodes), some(one.heads))
        columns = some(one.headWidth)
    }
    var description: String { "rows \(rows), others \(others), heads \(heads), columns \(columns)" }

    static func ranges(_ cuts: [Int], _ count: Int) -> [Range<Int>] {
        zip([0] + cuts, cuts + [count]).map { $0..<$1 }
    }
}

/// One attention with its operands; kernels write into fresh matrices.
struct AttentionCase {
    let graph: Reference.Graph
    let heads: Int
    let headWidth: Int
    let drop: Float?
    let t, s, z, g: Padded
    private let pointers: UnsafePointer<UInt64>
    private let neighbours: UnsafePointer<UInt32>
    private static let slope: Float = 0.2
    private static let seed: UInt64 = 0x1234_5678_9ABC_DEF0
    private static let firstHead = 3

    var nodes: Int { graph.nodes }
    var width: Int { heads * headWidth }

    init(seed: UInt64, nodes: Int, using random: inout SeededRandom) {
        let shapes = [(1, 40), (8, 8), (2, 3), (4, 16), (3, 5), (1, 300), (17, 2), (33, 4), (5, 1), (8, 32), (4, 64)]
        let (heads, headWidth) = shapes[Int(seed) % shapes.count]
        self.init(
            graph: Reference.Graph(random: nodes, edges: nodes * Int.random(in: 1...8, using: &random), using: &random),
            heads: heads, headWidth: headWidth, drop: seed % 3 == 0 ? 0.4 : nil, using: &random)
    }

    init(graph: Reference.Graph, heads: Int, headWidth: Int, drop: Float?, using random: inout SeededRandom) {
        self.graph = graph
        self.heads = heads
        self.headWidth = headWidth
        self.drop = drop
        t = Padded(graph.nodes, heads, &random, range: -4...4)
        s = Padded(graph.nodes, heads, &random, range: -4...4)
        z = Padded(graph.nodes, heads * headWidth, &random)
        g = Padded(graph.nodes, heads * headWidth, &random)
        pointers = graph.pointers.baseCopy
        neighbours = graph.neighbours.baseCopy
    }

    // MARK: Float64

    private func keep(_ i: Int, _ j: Int, _ head: Int) -> Double {
        guard let drop else { return 1 }
        let layerHead = Self.firstHead + head
        let word = Reference.philox(
            counter: (UInt32(j), UInt32(i), 7, 9 + UInt32(1 + layerHead / 4) << 24),
            key: (UInt32(truncatingIfNeeded: Self.seed), UInt32(Self.seed >> 32)))[layerHead % 4]
        return word >= UInt32(Double(drop) * 0x1p32) ? Double(1 / (1 - drop)) : 0
    }

    func forward(_ t: [Double], _ s: [Double], _ z: [some BinaryFloatingPoint]) -> [Double] {
        var out = [Double](repeating: 0, count: nodes * width)
        for i in 0..<nodes where !graph.row(i).isEmpty {
            for head in 0..<heads {
                let scores = graph.row(i).map { j -> Double in
                    let sum = t[i * heads + head] + s[Int(j) * heads + head]
                    return sum > 0 ? sum : Double(Self.slope) * sum
                }
                let top = scores.max()!
                let total = scores.reduce(0) { $0 + exp($1 - top) }
                for (score, j) in zip(scores, graph.row(i)) {
                    let weight = exp(score - top) / total * keep(i, Int(j), head)
                    for k in 0..<headWidth {
                        let column = head * headWidth + k
                        out[i * width + column] += weight * Double(z[Int(j) * width + column])
                    }
                }
            }
        }
        return out
    }

    // MARK: Kernels

    typealias Kernels = UnsafePointer<sk_kernels>

    private func rows(_ matrix: Padded, _ row: Int, _ column: Int) -> sk_rows {
        sk_rows(values: matrix.base + row * matrix.stride + column, stride: matrix.stride)
    }

    /// `rows` of the graph against `others`, for some heads.
    private func native(_ rows: Range<Int>, _ others: Range<Int>, _ heads: Range<Int>, targets: Bool = true)
        -> sk_attention
    {
        var native = sk_attention()
        native.pointers = pointers + rows.lowerBound
        native.neighbours = neighbours + Int(graph.pointers[rows.lowerBound])
        native.edge_base = graph.pointers[rows.lowerBound]
        native.first_row = UInt32(rows.lowerBound)
        native.other_first = UInt32(others.lowerBound)
        native.other_rows = UInt32(others.count)
        native.covers_all = others == 0..<nodes ? 1 : 0
        native.rows_are_targets = targets ? 1 : 0
        native.heads = heads.count
        native.head_width = headWidth
        native.slope = Self.slope
        native.accumulates = others.lowerBound > 0 ? 1 : 0
        if let drop {
            native.drops = 1
            native.threshold = UInt32(Double(drop) * 0x1p32)
            native.keep = 1 / (1 - drop)
            native.stream = 9
            native.first_head = UInt32(Self.firstHead + heads.lowerBound)
        }
        native.chain = sk_chain(steps: nil, count: 0, seed: Self.seed, epoch: 7, first_row: 0)
        return native
    }

    /// Every piece in turn; empty ones make no command.
    private func each(_ cuts: Cuts, _ body: (Range<Int>, Range<Int>, Range<Int>) -> Void) {
        for heads in Cuts.ranges(cuts.heads, heads) where !heads.isEmpty {
            for rows in Cuts.ranges(cuts.rows, nodes) where !rows.isEmpty {
                for others in Cuts.ranges(cuts.others, nodes) where !others.isEmpty { body(rows, others, heads) }
            }
        }
    }

    /// Likewise, and the columns of what is summed.
    private func eachSlice(_ cuts: Cuts, _ body: (Range<Int>, Range<Int>, Range<Int>, Range<Int>) -> Void) {
        each(cuts) { rows, others, heads in
            let first = heads.lowerBound * headWidth
            let columns = heads.count == 1 ? cuts.columns : []
            for slice in Cuts.ranges(columns, heads.count * headWidth) where !slice.isEmpty {
                body(rows, others, heads, first + slice.lowerBound..<first + slice.upperBound)
            }
        }
    }

    private func run(
        _ kernel: @convention(c) (UnsafePointer<sk_attention>?, Int, Int, UnsafeMutablePointer<Float>?) -> Void,
        _ native: sk_attention, _ rows: Int
    ) {
        let scratch = UnsafeMutablePointer<Float>.allocate(capacity: Int(SK_SCRATCH_FLOATS))
        scratch.initialize(repeating: .nan, count: Int(SK_SCRATCH_FLOATS))
        defer { scratch.deallocate() }
        withUnsafePointer(to: native) {
            kernel($0, 0, rows / 2, scratch)
            kernel($0, rows / 2, rows, scratch)
        }
    }

    func scale(_ kernels: Kernels, _ cuts: Cuts) -> (Padded, Padded) {
        let (highest, inverse) = (t.copy(), t.copy())
        var whole = cuts
        whole.others = []
        each(whole) { rows, others, heads in
            var native = native(rows, others, heads)
            native.target_scores = self.rows(t, rows.lowerBound, heads.lowerBound)
            native.source_scores = self.rows(s, 0, heads.lowerBound)
            native.highest = self.rows(highest, rows.lowerBound, heads.lowerBound)
            native.inverse = self.rows(inverse, rows.lowerBound, heads.lowerBound)
            run(kernels.pointee.attention_scale, native, rows.count)
        }
        return (highest, inverse)
    }

    func attend(_ kernels: Kernels, _ highest: Padded, _ inverse: Padded, _ cuts: Cuts) -> Padded {
        let out = g.copy()
        eachSlice(cuts) { rows, others, heads, columns in
            var native = native(rows, others, heads)
            native.head_width = columns.count / heads.count
            native.target_scores = self.rows(t, rows.lowerBound, heads.lowerBound)
            native.highest = self.rows(highest, rows.lowerBound, heads.lowerBound)
            native.inverse = self.rows(inverse, rows.lowerBound, heads.lowerBound)
            native.source_scores = self.rows(s, others.lowerBound, heads.lowerBound)
            native.source = self.rows(z, others.lowerBound, columns.lowerBound)
            native.target = self.rows(out, rows.lowerBound, columns.lowerBound)
            run(kernels.pointee.attend, native, rows.count)
        }
        return out
    }

    func dots(_ kernels: Kernels, _ out: Padded) -> Padded {
        let dots = t.copy()
        dot(kernels, g, out, into: dots, accumulates: false)
        return dots
    }

    private func dot(_ kernels: Kernels, _ x: Padded, _ y: Padded, into target: Padded, accumulates: Bool) {
        let native = sk_head_dots(
            x: x.base, x_stride: x.stride, y: y.base, y_stride: y.stride, target: target.base,
            target_stride: target.stride, heads: heads, head_width: headWidth, accumulates: accumulates ? 1 : 0,
            active: sk_active())
        withUnsafePointer(to: native) { kernels.pointee.head_dots($0, 0, nodes) }
    }

    /// Gradients of t, s and z.
    func gradients(_ kernels: Kernels, _ highest: Padded, _ inverse: Padded, _ dots: Padded, _ cuts: Cuts)
        -> (t: [Float], s: [Float], z: [Float])
    {
        let (dt, ds, dz) = (t.copy(), s.copy(), z.copy())
        // Scores and sums at once, or each for itself.
        let together = cuts.columns.isEmpty
        for targets in [true, false] {
            let leaked = z.copy()
            let (score, own, other) = targets ? (dt, g, z) : (ds, z, g)
            func fill(_ native: inout sk_attention, _ rows: Range<Int>, _ others: Range<Int>, _ head: Int) {
                let (target, source) =
                    targets ? (rows.lowerBound, others.lowerBound) : (others.lowerBound, rows.lowerBound)
                native.target_scores = self.rows(t, target, head)
                native.highest = self.rows(highest, target, head)
                native.inverse = self.rows(inverse, target, head)
                native.source_scores = self.rows(s, source, head)
                native.dots = self.rows(dots, target, head)
            }
            eachSlice(cuts) { rows, others, heads, columns in
                var native = native(rows, others, heads, targets: targets)
                native.head_width = columns.count / heads.count
                fill(&native, rows, others, heads.lowerBound)
                if together { native.score_gradient = self.rows(score, rows.lowerBound, heads.lowerBound) }
                native.source = self.rows(other, others.lowerBound, columns.lowerBound)
                native.leaked = self.rows(leaked, rows.lowerBound, columns.lowerBound)
                if !targets { native.target = self.rows(dz, rows.lowerBound, columns.lowerBound) }
                run(kernels.pointee.attention_gradient, native, rows.count)
            }
            if !together {
                each(cuts) { rows, others, heads in
                    var native = native(rows, others, heads, targets: targets)
                    fill(&native, rows, others, heads.lowerBound)
                    native.score_gradient = self.rows(score, rows.lowerBound, heads.lowerBound)
                    run(kernels.pointee.attention_gradient, native, rows.count)
                }
            }
            dot(kernels, own, leaked, into: score, accumulates: true)
            #expect(leaked.paddingIsUntouched)
        }
        #expect(dt.paddingIsUntouched && ds.paddingIsUntouched && dz.paddingIsUntouched)
        return (dt.values, ds.values, dz.values)
    }
}
