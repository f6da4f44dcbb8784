import CKernels
import Glibc
import TestSupport
import Testing

/// LayerNorm, elu, heads and the losses of several labels and of numbers, against float64 at every instruction level.
@Suite struct StepAndLossTests {
    private func step(_ kind: Int, constant: Float = 0, _ values: Padded? = nil) -> sk_step {
        var step = sk_step()
        step.kind = Int32(kind)
        step.constant = constant
        step.values = values.map { UnsafePointer($0.base) }
        step.stride = values?.stride ?? 0
        return step
    }

    /// The chain on a copy of x, in two pieces.
    private func apply(_ kernels: UnsafePointer<sk_kernels>, _ steps: [sk_step], to x: Padded) -> Padded {
        let y = x.copy()
        steps.withUnsafeBufferPointer { steps in
            let native = sk_map(
                source: x.base, source_stride: x.stride, target: y.base, target_stride: y.stride, columns: x.columns,
                chain: sk_chain(steps: steps.baseAddress, count: steps.count, seed: 0, epoch: 0, first_row: 0),
                active: sk_active())
            withUnsafePointer(to: native) {
                kernels.pointee.map($0, 0, x.rows / 2)
                kernels.pointee.map($0, x.rows / 2, x.rows)
            }
        }
        #expect(y.paddingIsUntouched)
        return y
    }

    /// The same bits at all levels, and near float64.
    private func expect(
        _ steps: [sk_step], on x: Padded, are exact: [Double], within tolerance: Double, _ comment: Comment
    ) {
        var first: [Float]?
        for kernels in KernelTests.levels {
            let y = apply(kernels, steps, to: x).values
            #expect(zip(y, exact).allSatisfy { abs(Double($0) - $1) <= tolerance * (1 + abs($1)) }, comment)
            #expect(y == first ?? y, comment)
            first = y
        }
    }

    private static func normalised(_ x: [Double], columns: Int, epsilon: Double) -> [Double] {
        stride(from: 0, to: x.count, by: columns).flatMap { start -> [Double] in
            let row = x[start..<start + columns]
            let mean = row.reduce(0, +) / Double(columns)
            let variance = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(columns)
            return row.map { ($0 - mean) / (variance + epsilon).squareRoot() }
        }
    }

    @Test(
        "a normalised row has its float64 twin's numbers, and its gradient those of finite differences",
        arguments: 1...12 as ClosedRange<UInt64>)
    func normalise(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let (rows, columns) = (Int.random(in: 1...9, using: &random), Int.random(in: 1...80, using: &random))
        let x = Padded(rows, columns, &random, range: -3...5)
        let g = Padded(rows, columns, &random)
        let epsilon: Float = 1e-3
        let input = x.values.map(Double.init)
        let exact = Self.normalised(input, columns: columns, epsilon: Double(epsilon))
        expect([step(SK_STEP_NORMALISE, constant: epsilon)], on: x, are: exact, within: 2e-5, "seed \(seed)")
        let along = g.values.map(Double.init)
        let slopes = input.indices.map { index in
            var (above, below) = (input, input)
            above[index] += 1e-5
            below[index] -= 1e-5
            let difference = zip(
                Self.normalised(above, columns: columns, epsilon: Double(epsilon)),
                Self.normalised(below, columns: columns, epsilon: Double(epsilon))
            ).map { $0 - $1 }
            return zip(difference, along).reduce(0) { $0 + $1.0 * $1.1 } / 2e-5
        }
        expect(
            [step(SK_STEP_NORMALISE_GRADIENT, constant: epsilon, x)], on: g, are: slopes, within: 2e-3, "seed \(seed)")
    }

    @Test("elu, its gradient, column scales and heads are those of float64", arguments: 1...8 as ClosedRange<UInt64>)
    func others(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let heads = Int.random(in: 1...5, using: &random)
        let (rows, columns) = (Int.random(in: 1...20, using: &random), heads * Int.random(in: 1...30, using: &random))
        let x = Padded(rows, columns, &random, range: -6...3)
        let inputs = x.values
        let g = Padded(rows, columns, &random)
        let elu = inputs.map { $0 > 0 ? Double($0) : expm1(Double($0)) }
        expect([step(SK_STEP_ELU)], on: x, are: elu, within: 3e-7, "seed \(seed)")
        let activation = apply(sk_kernels_at(0), [step(SK_STEP_ELU)], to: x)
        let slopes = zip(g.values, x.values).map { Double($0) * ($1 > 0 ? 1 : exp(Double($1))) }
        expect([step(SK_STEP_ELU_GRADIENT, activation)], on: g, are: slopes, within: 1e-6, "seed \(seed)")
        let vector = Padded(1, columns, &random)
        let scales = vector.values
        let scaled = zip(inputs.indices, x.values).map { Double($1) * Double(scales[$0 % columns]) }
        expect([step(SK_STEP_SCALE_COLUMNS, vector)], on: x, are: scaled, within: 1e-6, "seed \(seed)")
        let factors = Padded(rows, heads, &random)
        let outers = factors.values
        var outer = step(SK_STEP_ADD_HEADS, factors)
        outer.vector = UnsafePointer(vector.base)
        outer.heads = heads
        let width = columns / heads
        let added = inputs.indices.map { index in
            let (row, column) = (index / columns, index % columns)
            return Double(inputs[index])
                + Double(outers[row * heads + column / width]) * Double(scales[column])
        }
        expect([outer], on: x, are: added, within: 1e-6, "seed \(seed)")
    }

    @Test("elu keeps the small and survives the extreme")
    func eluExtremes() {
        var random = SeededRandom(seed: 1)
        let x = Padded(1, 6, &random)
        for (index, value) in ([-1e-7, -200, .nan, -.infinity, 0, 7] as [Float]).enumerated() { x.base[index] = value }
        for kernels in KernelTests.levels {
            let y = apply(kernels, [step(SK_STEP_ELU)], to: x).values
            #expect(abs(y[0] + 1e-7) < 1e-13 && y[1] == -1 && y[2].isNaN && y[3] == -1 && y[4] == 0 && y[5] == 7)
        }
    }

    @Test("column sums with factors are the fixed tree of the products' tiles", arguments: 1...8 as ClosedRange<UInt64>)
    func factors(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let heads = seed % 2 == 0 ? Int.random(in: 1...6, using: &random) : 0
        let rows = Int.random(in: 1...3000, using: &random)
        let columns = max(heads, 1) * Int.random(in: 1...40, using: &random)
        let a = Padded(rows, columns, &random)
        let inputs = a.values
        let factors = Padded(rows, heads > 0 ? heads : columns, &random)
        let scales = factors.values
        let width = columns / max(heads, 1)
        let products = inputs.indices.map { index in
            let factor =
                heads > 0 ? scales[index / columns * heads + index % columns / width] : scales[index]
            return Double(inputs[index]) * Double(factor)
        }
        let exact = Reference.tileColumnSum(products, rows: rows, columns: columns)
        let tiles = (rows + 1023) / 1024
        let levels = Int.bitWidth - tiles.leadingZeroBitCount
        let cut = Int.random(in: 0...columns, using: &random)
        var first: [Float]?
        for kernels in KernelTests.levels {
            let stack = UnsafeMutablePointer<Float>.allocate(capacity: (levels + 1) * columns)
            defer { stack.deallocate() }
            stack.initialize(repeating: .nan, count: (levels + 1) * columns)
            let native = sk_tile_column_sum(
                a: a.base, a_stride: a.stride, factors: factors.base, factors_stride: factors.stride, heads: heads,
                columns: columns, rows: rows, first_tile: 0, continues: 0, stays_open: 0, levels: levels, stack: stack,
                active: sk_active())
            withUnsafePointer(to: native) {
                kernels.pointee.tile_column_sum($0, 0, cut)
                kernels.pointee.tile_column_sum($0, cut, columns)
            }
            var sums = [Float](repeating: .nan, count: columns)
            sk_tile_finish(stack, UInt64(tiles), columns, &sums, 0, columns)
            #expect(zip(sums, exact).allSatisfy { abs(Double($0) - $1) < 1e-3 }, "seed \(seed)")
            #expect(sums == first ?? sums, "seed \(seed)")
            first = sums
        }
    }

    // MARK: Losses

    /// Runs a loss at one level; the figures of all tiles added.
    private func run(_ kernels: UnsafePointer<sk_kernels>, _ native: sk_loss) -> (row: Int64, figures: [Double]) {
        var tiles = [sk_tile_figures](repeating: sk_tile_figures(), count: (native.rows + 1023) / 1024)
        let row = withUnsafePointer(to: native) { kernels.pointee.loss($0, 0, tiles.count, &tiles) }
        var sums = [Double](repeating: 0, count: 24)
        for tile in tiles {
            withUnsafeBytes(of: tile) { bytes in
                for index in 0..<24 {
                    sums[index] +=
                        6..<18 ~= index
                        ? Double(bytes.load(fromByteOffset: 8 * index, as: UInt64.self))
                        : bytes.load(fromByteOffset: 8 * index, as: Double.self)
                }
            }
        }
        return (row, sums)
    }

    @Test("a loss of several labels has float64's sums, counts and gradient", arguments: 1...10 as ClosedRange<UInt64>)
    func bits(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let (rows, classes) = (Int.random(in: 1...1500, using: &random), Int.random(in: 1...45, using: &random))
        let outputs = Padded(rows, classes, &random, range: -15...15)
        let logits = outputs.values
        let split = (0..<rows).map { _ in UInt8.random(in: 0...3, using: &random) }
        let isClass = (0..<rows * classes).map { _ in Int.random(in: 0...3, using: &random) == 0 }
        let weights: [Float]? =
            seed % 2 == 0 ? (0..<classes).map { _ in Float.random(in: 0.5...2, using: &random) } : nil
        let rowBytes = (classes + 7) / 8
        var bits = [UInt8](repeating: 0, count: rows * rowBytes)
        for index in isClass.indices where isClass[index] {
            bits[index / classes * rowBytes + index % classes / 8] |= 1 << (index % classes % 8)
        }
        let total = 123.5
        var exact = [Double](repeating: 0, count: 24)
        var gradient = [Double](repeating: 0, count: rows * classes)
        for index in isClass.indices where split[index / classes] > 0 {
            let at = Int(split[index / classes]) - 1
            let z = Double(logits[index])
            let weight = Double(weights?[index % classes] ?? 1)
            let is1 = isClass[index] ? 1.0 : 0.0
            exact[at] += weight * (max(z, 0) - z * is1 + log1p(exp(-abs(z))))
            exact[3 + at] += weight
            exact[6 + at] += z > 0 && isClass[index] ? 1 : 0
            exact[12 + at] += z > 0 ? 1 : 0
            exact[15 + at] += is1
            if at == 0 { gradient[index] = weight * (1 / (1 + exp(-z)) - is1) / total }
        }
        for part in split where part > 0 { exact[9 + Int(part) - 1] += 1 }
        var first: ([Double], [Float])?
        for kernels in KernelTests.levels {
            let out = outputs.copy()
            var native = sk_loss()
            (native.outputs, native.outputs_stride) = (UnsafePointer(out.base), out.stride)
            (native.gradient, native.gradient_stride) = (out.base, out.stride)
            (native.bits, native.split) = (bits.baseCopy, split.baseCopy)
            native.class_weights = weights?.baseCopy
            (native.rows, native.classes, native.total) = (rows, classes, total)
            let (row, figures) = run(kernels, native)
            #expect(row == -1)
            for (got, wanted) in zip(figures, exact) {
                #expect(abs(got - wanted) <= 3e-6 * (1 + wanted), "seed \(seed)")
            }
            #expect(zip(out.values, gradient).allSatisfy { abs(Double($0) - $1) < 1e-7 }, "seed \(seed)")
            if let first { #expect(first == (figures, out.values), "levels differ, seed \(seed)") }
            first = (figures, out.values)
        }
    }

    @Test("a squared error has float64's sums and gradient")
    func values() {
        var random = SeededRandom(seed: 3)
        let (rows, columns) = (1200, 3)
        let outputs = Padded(rows, columns, &random)
        let guesses = outputs.values
        let values = Padded(rows, columns, &random)
        let wanted = values.values
        let split = (0..<rows).map { _ in UInt8.random(in: 0...3, using: &random) }
        var exact = [Double](repeating: 0, count: 24)
        var gradient = [Double](repeating: 0, count: rows * columns)
        for index in gradient.indices where split[index / columns] > 0 {
            let at = Int(split[index / columns]) - 1
            let (z, y) = (Double(guesses[index]), Double(wanted[index]))
            exact[at] += (z - y) * (z - y)
            exact[3 + at] += 1
            exact[18 + at] += y
            exact[21 + at] += y * y
            if at == 0 { gradient[index] = 2 * (z - y) / 900 }
        }
        for part in split where part > 0 { exact[9 + Int(part) - 1] += 1 }
        for kernels in KernelTests.levels {
            let out = outputs.copy()
            var native = sk_loss()
            (native.outputs, native.outputs_stride) = (UnsafePointer(out.base), out.stride)
            (native.gradient, native.gradient_stride) = (out.base, out.stride)
            (native.values, native.values_stride) = (UnsafePointer(values.base), values.stride)
            native.split = split.baseCopy
            (native.rows, native.classes, native.total) = (rows, columns, 900)
            let (row, figures) = run(kernels, native)
            #expect(row == -1)
            #expect(zip(figures, exact).allSatisfy { abs($0 - $1) <= 1e-9 * (1 + abs($1)) })
            #expect(zip(out.values, gradient).allSatisfy { abs(Double($0) - $1) < 1e-9 })
        }
    }

    @Test("a bit beyond the classes and a value that is no number are refused with their row")
    func wrongTargets() {
        var random = SeededRandom(seed: 4)
        for kernels in KernelTests.levels {
            let out = Padded(3, 3, &random)
            var native = sk_loss()
            (native.outputs, native.outputs_stride) = (UnsafePointer(out.base), out.stride)
            native.split = ([1, 2, 3] as [UInt8]).baseCopy
            (native.rows, native.classes, native.total) = (3, 3, 1)
            native.bits = ([7, 8, 0] as [UInt8]).baseCopy
            #expect(run(kernels, native).row == 1)
            native.bits = nil
            for wrong in [Float.nan, .infinity, -.infinity] {
                native.values = ([0, 1, 2, 0, 0, 0, 0, wrong, 0] as [Float]).baseCopy
                native.values_stride = 3
                #expect(run(kernels, native).row == 2)
            }
        }
    }
}
