import CKernels
import Glibc
import TestSupport
import Testing

/// The kernels alone: against plain twins, at every instruction level this machine has, however the work is cut.
@Suite struct KernelTests {
    // Constant tables of function pointers.
    nonisolated(unsafe) static let levels = (0...2).compactMap { sk_kernels_at(Int32($0)) }
    private static let scratchFloats = Int(SK_SCRATCH_FLOATS)

    // MARK: Products

    @Test(
        "every element of a product is one ascending chain of fused multiply-adds",
        arguments: 1...24 as ClosedRange<UInt64>)
    func product(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let rows = Int.random(in: 1...70, using: &random)
        // Beyond one block of columns and of the inner dimension in some cases.
        let columns = seed % 8 == 0 ? 530 : Int.random(in: 1...90, using: &random)
        let inner = seed % 6 == 0 ? 1100 : Int.random(in: 1...70, using: &random)
        let transposes = seed.isMultiple(of: 2)
        let accumulates = seed % 3 == 0
        let a = Padded(rows, inner, &random)
        let b = Padded(inner, columns, &random)
        let bStored = transposes ? b.transposed(&random) : b
        let start = Padded(rows, columns, &random)
        let expected = Reference.product(
            a.values, b.values, rows: rows, columns: columns, inner: inner, from: accumulates ? start.values : nil)
        let cut = Int.random(in: 0...rows, using: &random)
        for kernels in Self.levels {
            let c = start.copy()
            let native = sk_product(
                factors: sk_factors(
                    a: a.base, a_stride: a.stride, b: bStored.base, b_stride: bStored.stride, inner: inner),
                more: sk_factors(), c: c.base, c_stride: c.stride, columns: columns,
                transposes_b: transposes ? 1 : 0, accumulates: accumulates ? 1 : 0, chain: sk_chain(),
                active: sk_active())
            withScratch { scratch in
                withUnsafePointer(to: native) {
                    kernels.pointee.product($0, 0, cut, scratch)
                    kernels.pointee.product($0, cut, rows, scratch)
                }
            }
            #expect(c.values == expected, "seed \(seed), \(String(cString: kernels.pointee.name))")
            #expect(c.paddingIsUntouched, "seed \(seed)")
        }
        let exact = Reference.product(
            a.values.map(Double.init), b.values.map(Double.init), rows: rows, columns: columns, inner: inner,
            from: accumulates ? start.values.map(Double.init) : nil)
        #expect(zip(expected, exact).allSatisfy { abs(Double($0) - $1) < 1e-6 * Double(inner + 8) }, "seed \(seed)")
    }

    @Test("two products into the same sums are one chain after the other", arguments: 1...12 as ClosedRange<UInt64>)
    func twoProducts(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let rows = Int.random(in: 1...90, using: &random)
        let columns = seed % 4 == 0 ? 530 : Int.random(in: 1...90, using: &random)
        // Together beyond one block of the inner dimension in some cases.
        let inners = seed % 3 == 0 ? [300, 310] : (0..<2).map { _ in Int.random(in: 1...70, using: &random) }
        let a = inners.map { Padded(rows, $0, &random) }
        let b = inners.map { Padded($0, columns, &random) }
        let bias = Padded(1, columns, &random)
        var expected = Reference.product(a[0].values, b[0].values, rows: rows, columns: columns, inner: inners[0])
        expected = Reference.product(
            a[1].values, b[1].values, rows: rows, columns: columns, inner: inners[1], from: expected)
        let shifts = bias.values
        for index in expected.indices { expected[index] += shifts[index % columns] }
        for kernels in Self.levels {
            let c = Padded(rows, columns, &random)
            func factors(_ part: Int) -> sk_factors {
                sk_factors(
                    a: a[part].base, a_stride: a[part].stride, b: b[part].base, b_stride: b[part].stride,
                    inner: inners[part])
            }
            var step = sk_step()
            step.kind = Int32(SK_STEP_BIAS)
            step.values = UnsafePointer(bias.base)
            withUnsafePointer(to: step) { step in
                let native = sk_product(
                    factors: factors(0), more: factors(1), c: c.base, c_stride: c.stride, columns: columns,
                    transposes_b: 0, accumulates: 0,
                    chain: sk_chain(steps: step, count: 1, seed: 0, epoch: 0, first_row: 0), active: sk_active())
                withScratch { scratch in
                    withUnsafePointer(to: native) { kernels.pointee.product($0, 0, rows, scratch) }
                }
            }
            #expect(c.values == expected, "seed \(seed), \(String(cString: kernels.pointee.name))")
            #expect(c.paddingIsUntouched, "seed \(seed)")
        }
    }

    @Test(
        "a weight's gradient is the fixed tree of its tiles, however rows come in",
        arguments: 1...8 as ClosedRange<UInt64>)
    func tileProduct(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let rows = Int.random(in: 1...7000, using: &random)
        let m = Int.random(in: 1...33, using: &random)
        let n = Int.random(in: 1...40, using: &random)
        let a = Padded(rows, m, &random)
        let b = Padded(rows, n, &random)
        let expected = Reference.tileProduct(a.values, b.values, rows: rows, m: m, n: n)
        let tiles = (rows + 1023) / 1024
        let levels = Int.bitWidth - tiles.leadingZeroBitCount
        let cut = Int.random(in: 0...m, using: &random)
        let pieces = Self.pieces(rows, &random)
        for kernels in Self.levels {
            // Whatever the stack holds before must not matter.
            let stack = UnsafeMutablePointer<Float>.allocate(capacity: (levels + 1) * m * n)
            defer { stack.deallocate() }
            stack.initialize(repeating: .nan, count: (levels + 1) * m * n)
            var result = [Float](repeating: .nan, count: m * n)
            withScratch { scratch in
                for piece in pieces {
                    let native = sk_tile_product(
                        a: a.base + piece.lowerBound * a.stride, a_stride: a.stride,
                        b: b.base + piece.lowerBound * b.stride, b_stride: b.stride, m: m, n: n, rows: piece.count,
                        first_tile: UInt64(piece.lowerBound / 1024), continues: piece.lowerBound % 1024 == 0 ? 0 : 1,
                        stays_open: piece.upperBound % 1024 == 0 || piece.upperBound == rows ? 0 : 1, levels: levels,
                        stack: stack, active: sk_active())
                    withUnsafePointer(to: native) {
                        kernels.pointee.tile_product($0, 0, cut, scratch)
                        kernels.pointee.tile_product($0, cut, m, scratch)
                    }
                }
            }
            sk_tile_finish(stack, UInt64(tiles), m * n, &result, 0, m * n)
            #expect(result == expected, "seed \(seed), \(String(cString: kernels.pointee.name))")
        }
        let exact = Reference.tileProduct(a.values.map(Double.init), b.values.map(Double.init), rows: rows, m: m, n: n)
        #expect(zip(expected, exact).allSatisfy { abs(Double($0) - $1) < 1e-3 }, "seed \(seed)")
    }

    /// Rows as they may come in: several tiles at a time, or parts of one.
    private static func pieces(_ rows: Int, _ random: inout SeededRandom) -> [Range<Int>] {
        var pieces: [Range<Int>] = []
        var first = 0
        while first < rows {
            let tile = first / 1024
            let isWhole = first % 1024 == 0 && Bool.random(using: &random)
            let end = min(rows, (tile + (isWhole ? Int.random(in: 1...3, using: &random) : 1)) * 1024)
            let stop = isWhole ? end : Int.random(in: first + 1...end, using: &random)
            pieces.append(first..<stop)
            first = stop
        }
        return pieces
    }

    @Test("column sums are the fixed tree of their tiles", arguments: 1...8 as ClosedRange<UInt64>)
    func columnSum(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let rows = Int.random(in: 1...5000, using: &random)
        let columns = Int.random(in: 1...150, using: &random)
        let a = Padded(rows, columns, &random)
        let expected = Reference.tileColumnSum(a.values, rows: rows, columns: columns)
        let tiles = (rows + 1023) / 1024
        let levels = Int.bitWidth - tiles.leadingZeroBitCount
        for kernels in Self.levels {
            let stack = UnsafeMutablePointer<Float>.allocate(capacity: (levels + 1) * columns)
            defer { stack.deallocate() }
            stack.initialize(repeating: .nan, count: (levels + 1) * columns)
            var result = [Float](repeating: .nan, count: columns)
            for piece in Self.pieces(rows, &random) {
                let native = sk_tile_column_sum(
                    a: a.base + piece.lowerBound * a.stride, a_stride: a.stride, factors: nil, factors_stride: 0,
                    heads: 0, columns: columns, rows: piece.count, first_tile: UInt64(piece.lowerBound / 1024),
                    continues: piece.lowerBound % 1024 == 0 ? 0 : 1,
                    stays_open: piece.upperBound % 1024 == 0 || piece.upperBound == rows ? 0 : 1, levels: levels,
                    stack: stack, active: sk_active())
                withUnsafePointer(to: native) { kernels.pointee.tile_column_sum($0, 0, columns) }
            }
            sk_tile_finish(stack, UInt64(tiles), columns, &result, 0, columns)
            #expect(result == expected, "seed \(seed), \(String(cString: kernels.pointee.name))")
        }
    }

    // MARK: Sums over neighbours

    @Test(
        "a sum over neighbours is one ascending chain, whatever chunks its sources come in",
        arguments: 1...24 as ClosedRange<UInt64>)
    func aggregate(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let nodes = Int.random(in: 1...300, using: &random)
        let width = seed % 5 == 0 ? 300 : Int.random(in: 1...140, using: &random)
        let graph = Reference.Graph(random: nodes, edges: nodes * 6, using: &random)
        let x = Padded(nodes, width, &random)
        let start = Padded(nodes, width, &random)
        let accumulates = seed % 3 == 0
        let expected = Reference.aggregate(graph, x.values, width: width, from: accumulates ? start.values : nil)
        let cuts =
            [0]
            + (0..<Int.random(in: 0...3, using: &random)).map { _ in Int.random(in: 0...nodes, using: &random) }
            .sorted() + [nodes]
        for kernels in Self.levels {
            for sources in [[0, nodes], cuts] {
                let target = start.copy()
                for (from, to) in zip(sources, sources.dropFirst()) {
                    let native = sk_aggregate(
                        pointers: graph.pointers.baseCopy, neighbours: graph.neighbours.baseCopy, edge_base: 0,
                        source: x.base + from * x.stride, source_stride: x.stride, source_first: UInt32(from),
                        source_rows: UInt32(to - from), covers_all: from == 0 && to == nodes ? 1 : 0,
                        target: target.base, target_stride: target.stride, width: width,
                        accumulates: accumulates || from > 0 ? 1 : 0, chain: sk_chain(), active: sk_active())
                    withUnsafePointer(to: native) { kernels.pointee.aggregate($0, 0, nodes) }
                    native.pointers.deallocate()
                    native.neighbours?.deallocate()
                }
                #expect(target.values == expected, "seed \(seed), \(String(cString: kernels.pointee.name))")
                #expect(target.paddingIsUntouched, "seed \(seed)")
            }
        }
    }

    @Test("a topology that is not a graph's is found out")
    func topology() {
        let pointers: [UInt64] = [0, 2, 2, 5]
        let good: [UInt32] = [0, 2, 0, 1, 2]
        for kernels in Self.levels {
            func isValid(_ pointers: [UInt64], _ neighbours: [UInt32], edges: Int = 5, base: UInt64 = 0) -> Bool {
                kernels.pointee.topology_valid(pointers, neighbours, base, UInt64(edges), 3, 0, pointers.count - 1) != 0
            }
            #expect(isValid(pointers, good))
            #expect(isValid([7, 9, 9, 12], good, base: 7))
            #expect(!isValid(pointers, [0, 2, 0, 1, 3]), "a neighbour beyond the nodes")
            #expect(!isValid(pointers, [2, 0, 0, 1, 2]), "descending neighbours")
            #expect(!isValid(pointers, [0, 2, 0, 1, 1]), "a neighbour twice")
            #expect(!isValid([0, 3, 2, 5], good), "descending row pointers")
            #expect(!isValid([0, 2, 2, 6], good), "a row beyond the edges")
            #expect(!isValid(pointers, good, base: 1), "a row before the chunk")
        }
    }

    // MARK: Row-local steps

    @Test("Philox gives its published words")
    func philox() {
        // Random123's known-answer vectors for philox4x32-10.
        #expect(
            Reference.philox(counter: (0, 0, 0, 0), key: (0, 0)) == [
                0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8,
            ])
        let ones = UInt32.max
        #expect(
            Reference.philox(counter: (ones, ones, ones, ones), key: (ones, ones))
                == [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd])
        #expect(
            Reference.philox(
                counter: (0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344), key: (0xa409_3822, 0x299f_31d0))
                == [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1])
    }

    @Test(
        "dropout keeps what its counter says, for any cut of rows and columns", arguments: 1...12 as ClosedRange<UInt64>
    )
    func dropout(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let (rows, columns) = (Int.random(in: 1...40, using: &random), Int.random(in: 1...200, using: &random))
        let firstRow = Int.random(in: 0...5000, using: &random)
        let firstColumn = Int.random(in: 0...90, using: &random)
        let probability: Float = 0.3
        let x = Padded(rows, columns, &random)
        let expected = (0..<rows * columns).map { index in
            let factor = Reference.dropout(
                row: firstRow + index / columns, column: firstColumn + index % columns, epoch: 7, stream: 3, seed: seed,
                probability: probability)
            return factor == 0 ? 0 : x.values[index] * factor
        }
        for kernels in Self.levels {
            let y = x.copy()
            var step = sk_step()
            step.kind = Int32(SK_STEP_DROPOUT)
            step.stream = 3
            step.threshold = UInt32((Double(probability) * 0x1p16).rounded())
            step.constant = 1 / (1 - probability)
            step.first_column = UInt32(firstColumn)
            withUnsafePointer(to: step) { step in
                let native = sk_map(
                    source: x.base, source_stride: x.stride, target: y.base, target_stride: y.stride,
                    columns: columns,
                    chain: sk_chain(steps: step, count: 1, seed: seed, epoch: 7, first_row: UInt32(firstRow)),
                    active: sk_active())
                withUnsafePointer(to: native) {
                    kernels.pointee.map($0, 0, rows / 2)
                    kernels.pointee.map($0, rows / 2, rows)
                }
            }
            #expect(y.values == expected, "seed \(seed), \(String(cString: kernels.pointee.name))")
        }
    }

    @Test("a chain applies its steps in order", arguments: 1...6 as ClosedRange<UInt64>)
    func chain(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let (rows, columns) = (Int.random(in: 1...90, using: &random), Int.random(in: 1...70, using: &random))
        let x = Padded(rows, columns, &random)
        let bias = Padded(1, columns, &random)
        let scale = Padded(1, rows, &random)
        let other = Padded(rows, columns, &random)
        let mask = Padded(rows, columns, &random)
        let expected = (0..<rows * columns).map { index in
            var value = (x.values[index] + bias.values[index % columns]) * scale.values[index / columns]
            value = value > 0 ? value : 0
            value = value * 1.5 + other.values[index]
            return mask.values[index] > 0 ? value : 0
        }
        func step(_ kind: Int, _ values: UnsafePointer<Float>? = nil, stride: Int = 0, constant: Float = 0) -> sk_step {
            var step = sk_step()
            step.kind = Int32(kind)
            step.values = values
            step.stride = stride
            step.constant = constant
            return step
        }
        let steps = [
            step(SK_STEP_BIAS, bias.base), step(SK_STEP_SCALE_ROWS, scale.base), step(SK_STEP_RELU),
            step(SK_STEP_SCALE, constant: 1.5), step(SK_STEP_ADD, other.base, stride: other.stride),
            step(SK_STEP_RELU_GRADIENT, mask.base, stride: mask.stride),
        ]
        for kernels in Self.levels {
            let y = x.copy()
            steps.withUnsafeBufferPointer { steps in
                let native = sk_map(
                    source: x.base, source_stride: x.stride, target: y.base, target_stride: y.stride,
                    columns: columns,
                    chain: sk_chain(steps: steps.baseAddress, count: steps.count, seed: 0, epoch: 0, first_row: 0),
                    active: sk_active())
                withUnsafePointer(to: native) { kernels.pointee.map($0, 0, rows) }
            }
            #expect(y.values == expected, "seed \(seed), \(String(cString: kernels.pointee.name))")
            #expect(y.paddingIsUntouched, "seed \(seed)")
        }
    }

    @Test("a number that is none survives relu and its gradient")
    func notANumber() {
        for kernels in Self.levels {
            let x = UnsafeMutablePointer<Float>.allocate(capacity: 3)
            defer { x.deallocate() }
            let activation: [Float] = [1, .nan, -1]
            for kind in [SK_STEP_RELU, SK_STEP_RELU_GRADIENT] {
                (x[0], x[1], x[2]) = (2, kind == SK_STEP_RELU ? .nan : 3, -5)
                activation.withUnsafeBufferPointer { activation in
                    var step = sk_step()
                    step.kind = Int32(kind)
                    step.values = activation.baseAddress
                    step.stride = 3
                    withUnsafePointer(to: step) { step in
                        let chain = sk_chain(steps: step, count: 1, seed: 0, epoch: 0, first_row: 0)
                        let native = sk_map(
                            source: x, source_stride: 3, target: x, target_stride: 3, columns: 3, chain: chain,
                            active: sk_active())
                        withUnsafePointer(to: native) { kernels.pointee.map($0, 0, 1) }
                    }
                }
                #expect(x[0] == 2 && x[2] == 0)
                #expect(kind == SK_STEP_RELU ? x[1].isNaN : x[1] == 3)
            }
        }
    }

    // MARK: Loss and Adam

    @Test("loss, figures and gradient are those of float64", arguments: 1...12 as ClosedRange<UInt64>)
    func loss(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let rows = Int.random(in: 1...2500, using: &random)
        let classes = Int.random(in: 1...45, using: &random)
        let logits = Padded(rows, classes, &random, range: -20...20)
        let labels = (0..<rows).map { _ in Int32.random(in: -1..<Int32(classes), using: &random) }
        let split = (0..<rows).map { _ in UInt8.random(in: 0...3, using: &random) }
        let weights: [Float]? =
            seed % 2 == 0 ? (0..<classes).map { _ in Float.random(in: 0.5...2, using: &random) } : nil
        let exact = Reference.loss(
            logits.values.map(Double.init), labels: labels, split: split, classes: classes,
            classWeights: weights?.map(Double.init))
        var first: (gradient: [Float], figures: [Double])?
        for kernels in Self.levels {
            let gradient = logits.copy()
            var figures = [sk_tile_figures](repeating: sk_tile_figures(), count: (rows + 1023) / 1024)
            let wrong = weights.withOptionalPointer { weights in
                // The gradient takes the logits' place.
                let target = gradient.base
                let native = sk_loss(
                    outputs: target, outputs_stride: gradient.stride, labels: labels.baseCopy, bits: nil, values: nil,
                    values_stride: 0, split: split.baseCopy, class_weights: weights, rows: rows, classes: classes,
                    total: max(exact.weights[0], 1),
                    gradient: target, gradient_stride: gradient.stride)
                defer {
                    native.labels.deallocate()
                    native.split.deallocate()
                }
                return withUnsafePointer(to: native) { kernels.pointee.loss($0, 0, figures.count, &figures) }
            }
            #expect(wrong == -1)
            let pieces = Self.pieces(rows, &random)
            var again = [sk_tile_figures](repeating: sk_tile_figures(), count: figures.count)
            weights.withOptionalPointer { weights in
                let (labels, split) = (labels.baseCopy, split.baseCopy)
                defer {
                    labels.deallocate()
                    split.deallocate()
                }
                for piece in pieces {
                    let row = piece.lowerBound
                    let native = sk_loss(
                        outputs: logits.base + row * logits.stride, outputs_stride: logits.stride, labels: labels + row,
                        bits: nil, values: nil, values_stride: 0, split: split + row, class_weights: weights,
                        rows: piece.count, classes: classes, total: 1, gradient: nil, gradient_stride: 0)
                    again.withUnsafeMutableBufferPointer { again in
                        _ = withUnsafePointer(to: native) {
                            kernels.pointee.loss($0, 0, (piece.count + 1023) / 1024, again.baseAddress! + row / 1024)
                        }
                    }
                }
            }
            for (one, other) in zip(figures, again) {
                let same = withUnsafeBytes(of: one) { one in
                    withUnsafeBytes(of: other) { one.elementsEqual($0) }
                }
                #expect(same, "seed \(seed), \(pieces)")
            }
            var sums = [Double](repeating: 0, count: 12)
            for figure in figures {
                withUnsafeBytes(of: figure) { bytes in
                    for index in 0..<6 { sums[index] += bytes.load(fromByteOffset: 8 * index, as: Double.self) }
                    for index in 6..<12 {
                        sums[index] += Double(bytes.load(fromByteOffset: 8 * index, as: UInt64.self))
                    }
                }
            }
            for split in 0..<3 {
                #expect(abs(sums[split] - exact.sums[split]) <= 2e-6 * max(1, exact.sums[split]), "seed \(seed)")
                #expect(
                    abs(sums[3 + split] - exact.weights[split]) <= 1e-9 * max(1, exact.weights[split]), "seed \(seed)")
                #expect(UInt64(sums[6 + split]) == exact.correct[split], "seed \(seed)")
                #expect(UInt64(sums[9 + split]) == exact.labelled[split], "seed \(seed)")
            }
            #expect(zip(gradient.values, exact.gradient).allSatisfy { abs(Double($0) - $1) < 1e-6 }, "seed \(seed)")
            if let first {
                #expect(first.gradient == gradient.values && first.figures == sums, "levels differ, seed \(seed)")
            } else {
                first = (gradient.values, sums)
            }
        }
    }

    @Test("the gradient of the float64 twin is what finite differences say")
    func lossGradient() {
        var random = SeededRandom(seed: 5)
        let (rows, classes) = (6, 4)
        let logits = (0..<rows * classes).map { _ in Double.random(in: -3...3, using: &random) }
        let labels: [Int32] = [0, 3, -1, 2, 1, 1]
        let split: [UInt8] = [1, 1, 1, 2, 1, 0]
        let weights = [0.5, 1, 2, 1.5]
        func mean(_ logits: [Double]) -> Double {
            let loss = Reference.loss(logits, labels: labels, split: split, classes: classes, classWeights: weights)
            return loss.sums[0] / loss.weights[0]
        }
        let gradient = Reference.loss(logits, labels: labels, split: split, classes: classes, classWeights: weights)
            .gradient
        for index in logits.indices {
            var (above, below) = (logits, logits)
            above[index] += 1e-5
            below[index] -= 1e-5
            #expect(abs((mean(above) - mean(below)) / 2e-5 - gradient[index]) < 1e-9)
        }
    }

    @Test("a label or a split that does not exist is refused with its row")
    func wrongLabel() {
        for kernels in Self.levels {
            let logits = [Float](repeating: 0, count: 6)
            var figures = sk_tile_figures()
            for (labels, split) in [([0, 2, 0], [1, 1, 1]), ([0, 1, 0], [1, 4, 1])] as [([Int32], [UInt8])] {
                let row = logits.withUnsafeBufferPointer { logits in
                    labels.withUnsafeBufferPointer { labels in
                        split.withUnsafeBufferPointer { split in
                            var native = sk_loss()
                            native.outputs = logits.baseAddress
                            native.outputs_stride = 2
                            native.labels = labels.baseAddress
                            native.split = split.baseAddress
                            native.rows = 3
                            native.classes = 2
                            return withUnsafePointer(to: native) { kernels.pointee.loss($0, 0, 1, &figures) }
                        }
                    }
                }
                #expect(row == 1)
            }
        }
    }

    @Test("Adam follows its float64 twin over many steps")
    func adam() {
        var random = SeededRandom(seed: 11)
        let count = 37
        let start = (0..<count).map { _ in Float.random(in: -1...1, using: &random) }
        var results: [[Float]] = []
        var exact = start.map(Double.init)
        for kernels in Self.levels {
            var random = SeededRandom(seed: 12)
            var parameter = start
            var (first, second) = ([Float](repeating: 0, count: count), [Float](repeating: 0, count: count))
            exact = start.map(Double.init)
            var (m, v) = ([Double](repeating: 0, count: count), [Double](repeating: 0, count: count))
            for step in 1...50 {
                let gradient = (0..<count).map { _ in Float.random(in: -1...1, using: &random) }
                let (c1, c2) = (1 - pow(0.9, Double(step)), 1 - pow(0.999, Double(step)))
                parameter.withUnsafeMutableBufferPointer { parameter in
                    first.withUnsafeMutableBufferPointer { first in
                        second.withUnsafeMutableBufferPointer { second in
                            gradient.withUnsafeBufferPointer { gradient in
                                let native = sk_adam(
                                    parameter: parameter.baseAddress, gradient: gradient.baseAddress,
                                    first: first.baseAddress, second: second.baseAddress, beta1: 0.9,
                                    one_minus_beta1: 0.1, beta2: 0.999, one_minus_beta2: 0.001,
                                    step_size: Float(0.01 / c1), root_correction: Float(c2.squareRoot()),
                                    epsilon: 1e-8, weight_decay: 5e-4)
                                withUnsafePointer(to: native) {
                                    kernels.pointee.adam($0, 0, 16)
                                    kernels.pointee.adam($0, 16, count)
                                }
                            }
                        }
                    }
                }
                for index in 0..<count {
                    let g = Double(gradient[index]) + 5e-4 * exact[index]
                    m[index] = 0.9 * m[index] + 0.1 * g
                    v[index] = 0.999 * v[index] + 0.001 * g * g
                    exact[index] -= 0.01 / c1 * m[index] / (v[index].squareRoot() / c2.squareRoot() + 1e-8)
                }
            }
            #expect(zip(parameter, exact).allSatisfy { abs(Double($0) - $1) < 1e-5 })
            results.append(parameter)
        }
        #expect(results.allSatisfy { $0 == results[0] })
    }

    // MARK: Rows that matter

    @Test(
        "rows that do not matter become 0, stay where sums accumulate, and are left out of sums over rows",
        arguments: 1...20 as ClosedRange<UInt64>)
    func activeRows(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let rows = Int.random(in: 1...2100, using: &random)
        let (m, n) = (Int.random(in: 1...40, using: &random), Int.random(in: 1...70, using: &random))
        let bit = UInt8.random(in: 0...7, using: &random)
        let share = [0, 0.03, 0.5, 1].randomElement(using: &random)!
        let marks = (0..<rows).map { _ -> UInt8 in
            let other = UInt8.random(in: 0...255, using: &random) & ~(1 << bit)
            return other | (Double.random(in: 0..<1, using: &random) < share ? 1 << bit : 0)
        }
        func matters(_ row: Int) -> Bool { marks[row] >> bit & 1 == 1 }
        let (a, b, weight) = (Padded(rows, m, &random), Padded(rows, n, &random), Padded(m, n, &random))
        let start = Padded(rows, n, &random)
        let accumulates = Bool.random(using: &random)
        var shift = (0..<n).map { _ in Float.random(in: -1...1, using: &random) }
        let graph = Reference.Graph(random: rows, edges: 5 * rows, using: &random)
        let cut = Int.random(in: 0...rows, using: &random)
        let tiles = (rows + 1023) / 1024
        let levels = Int.bitWidth - tiles.leadingZeroBitCount
        for kernels in Self.levels {
            let name = "seed \(seed), \(String(cString: kernels.pointee.name))"
            var outputs: [[[Float]]] = []
            for isMasked in [false, true] {
                marks.withUnsafeBufferPointer { marks in
                    let active = isMasked ? sk_active(marks: marks.baseAddress, bit: bit) : sk_active()
                    let (product, map, sum) = (start.copy(), start.copy(), start.copy())
                    var tile = [Float](repeating: 0, count: m * n)
                    shift.withUnsafeMutableBufferPointer { shift in
                        var step = sk_step()
                        step.kind = Int32(SK_STEP_BIAS)
                        step.values = UnsafePointer(shift.baseAddress)
                        withUnsafePointer(to: step) { step in
                            let chain = sk_chain(steps: step, count: 1, seed: 0, epoch: 0, first_row: 0)
                            run(kernels, product, map, sum, chain, active)
                        }
                    }
                    withScratch { scratch in
                        let stack = UnsafeMutablePointer<Float>.allocate(capacity: (levels + 1) * m * n)
                        defer { stack.deallocate() }
                        stack.initialize(repeating: .nan, count: (levels + 1) * m * n)
                        // Rows that are left out are as good as rows of zeros.
                        let c = b.copy()
                        if !isMasked {
                            for row in 0..<rows where !matters(row) {
                                (c.base + row * c.stride).update(repeating: 0, count: n)
                            }
                        }
                        let native = sk_tile_product(
                            a: a.base, a_stride: a.stride, b: c.base, b_stride: c.stride, m: m, n: n, rows: rows,
                            first_tile: 0, continues: 0, stays_open: 0, levels: levels, stack: stack, active: active)
                        withUnsafePointer(to: native) { kernels.pointee.tile_product($0, 0, m, scratch) }
                        sk_tile_finish(stack, UInt64(tiles), m * n, &tile, 0, m * n)
                    }
                    outputs.append([product.values, map.values, sum.values, tile])
                    #expect(product.paddingIsUntouched && map.paddingIsUntouched && sum.paddingIsUntouched, "\(name)")
                }
            }
            for (number, (whole, masked)) in zip(outputs[0], outputs[1]).enumerated() {
                guard number < 3 else {
                    #expect(masked == whole, "tile product, \(name)")
                    continue
                }
                let stays = accumulates && number != 1
                let expected = (0..<rows * n).map { index in
                    matters(index / n) ? whole[index] : stays ? start.values[index] : 0
                }
                #expect(masked == expected, "operation \(number), \(name)")
            }
        }

        func run(
            _ kernels: UnsafePointer<sk_kernels>, _ product: Padded, _ map: Padded, _ sum: Padded, _ chain: sk_chain,
            _ active: sk_active
        ) {
            let dense = sk_product(
                factors: sk_factors(a: a.base, a_stride: a.stride, b: weight.base, b_stride: weight.stride, inner: m),
                more: sk_factors(a: a.base, a_stride: a.stride, b: weight.base, b_stride: weight.stride, inner: m),
                c: product.base, c_stride: product.stride, columns: n, transposes_b: 0,
                accumulates: accumulates ? 1 : 0, chain: chain, active: active)
            withScratch { scratch in
                withUnsafePointer(to: dense) {
                    kernels.pointee.product($0, 0, cut, scratch)
                    kernels.pointee.product($0, cut, rows, scratch)
                }
            }
            let copy = sk_map(
                source: b.base, source_stride: b.stride, target: map.base, target_stride: map.stride, columns: n,
                chain: chain, active: active)
            withUnsafePointer(to: copy) { kernels.pointee.map($0, 0, rows) }
            let (pointers, neighbours) = (graph.pointers.baseCopy, graph.neighbours.baseCopy)
            let gather = sk_aggregate(
                pointers: pointers, neighbours: neighbours, edge_base: 0, source: b.base, source_stride: b.stride,
                source_first: 0, source_rows: UInt32(rows), covers_all: 1, target: sum.base,
                target_stride: sum.stride, width: n, accumulates: accumulates ? 1 : 0, chain: chain, active: active)
            withUnsafePointer(to: gather) {
                kernels.pointee.aggregate($0, 0, cut)
                kernels.pointee.aggregate($0, cut, rows)
            }
            pointers.deallocate()
            neighbours.deallocate()
        }
    }

    private func withScratch(_ body: (UnsafeMutablePointer<Float>) -> Void) {
        let scratch = UnsafeMutablePointer<Float>.allocate(capacity: Self.scratchFloats)
        scratch.initialize(repeating: .nan, count: Self.scratchFloats)
        defer { scratch.deallocate() }
        body(scratch)
    }
}

/// A matrix whose rows are followed by padding that nothing may touch. Its memory lives as long as the test process,
/// since kernels hold plain addresses of it.
struct Padded {
    let rows: Int
    let columns: Int
    let stride: Int
    let base: UnsafeMutablePointer<Float>

    init(_ rows: Int, _ columns: Int, _ random: inout SeededRandom, range: ClosedRange<Float> = -1...1) {
        self.init(rows, columns, stride: columns + Int.random(in: 0...5, using: &random))
        for row in 0..<rows {
            for column in 0..<columns { base[row * stride + column] = Float.random(in: range, using: &random) }
        }
    }

    private init(_ rows: Int, _ columns: Int, stride: Int) {
        self.rows = rows
        self.columns = columns
        self.stride = stride
        base = .allocate(capacity: rows * stride)
        base.initialize(repeating: Self.mark, count: rows * stride)
    }

    private static let mark: Float = 12345

    var values: [Float] {
        (0..<rows).flatMap { row in (0..<columns).map { base[row * stride + $0] } }
    }
    var paddingIsUntouched: Bool {
        (0..<rows).allSatisfy { row in (columns..<stride).allSatisfy { base[row * stride + $0] == Self.mark } }
    }
    func copy() -> Padded {
        let other = Padded(rows, columns, stride: stride)
        other.base.update(from: base, count: rows * stride)
        return other
    }
    func transposed(_ random: inout SeededRandom) -> Padded {
        let other = Padded(columns, rows, stride: rows + Int.random(in: 0...5, using: &random))
        for row in 0..<rows {
            for column in 0..<columns { other.base[column * other.stride + row] = base[row * stride + column] }
        }
        return other
    }
}

extension Array {
    /// A copy on the heap, for the caller to deallocate.
    var baseCopy: UnsafePointer<Element> {
        let copy = UnsafeMutablePointer<Element>.allocate(capacity: Swift.max(count, 1))
        copy.initialize(from: self, count: count)
        return UnsafePointer(copy)
    }
}

extension [Float]? {
    fileprivate func withOptionalPointer<Value>(_ body: (UnsafePointer<Float>?) -> Value) -> Value {
        guard let self else { return body(nil) }
        return self.withUnsafeBufferPointer { body($0.baseAddress) }
    }
}

extension Reference.Graph {
    /// A simple undirected graph with some hubs and some nodes alone.
    init(random nodes: Int, edges: Int, using random: inout SeededRandom) {
        var rows = [Set<UInt32>](repeating: [], count: nodes)
        for _ in 0..<edges {
            let from = Int(pow(Double.random(in: 0..<1, using: &random), 3) * Double(nodes))
            let to = Int.random(in: 0..<nodes, using: &random)
            rows[from].insert(UInt32(to))
            rows[to].insert(UInt32(from))
        }
        pointers = [0]
        neighbours = []
        for row in rows {
            neighbours += row.sorted()
            pointers.append(UInt64(neighbours.count))
        }
    }
}
