internal import CKernels
internal import FabricProtocol
internal import Glibc
internal import Vocabulary

/// Runs compute commands on the processor. Operands were checked with the program, so addresses here are plain sums.
final class CPUBackend {
    private let kernels: UnsafePointer<sk_kernels>
    private let memory: DeviceMemory
    private let pool: ThreadPool
    /// Packed operands, one part for each thread; wiped like device memory, since data passes through it.
    private let scratch: DeviceMemory

    /// `level` chooses the kernels' instruction set (see `sk_kernels_at`); the best there is without.
    init(memory: DeviceMemory, threads: Int, level: Int? = nil) throws(ExecutorError) {
        guard let kernels = level.map({ sk_kernels_at(Int32($0)) }) ?? sk_kernels_best() else {
            throw ExecutorError(.unavailable, "this processor lacks the chosen instruction set")
        }
        self.kernels = kernels
        self.memory = memory
        pool = try ThreadPool(threads: threads)
        scratch = try DeviceMemory(byteCount: threads * Self.scratchBytes)
    }

    var kernelName: String { String(cString: kernels.pointee.name) }

    private static let scratchBytes = (Int(SK_SCRATCH_FLOATS) * 4 + 4095) / 4096 * 4096

    private func scratch(of thread: Int) -> UnsafeMutablePointer<Float> {
        (scratch.base + thread * Self.scratchBytes).assumingMemoryBound(to: Float.self)
    }

    // MARK: Addresses

    private func address(_ place: Place, in program: Program) -> UnsafeMutableRawPointer {
        memory.base + program.buffers[Int(place.buffer)].offset + place.offset
    }

    private func floats(_ place: Place, in program: Program) -> UnsafeMutablePointer<Float> {
        address(place, in: program).assumingMemoryBound(to: Float.self)
    }

    private func floats(_ matrix: Matrix, in program: Program) -> UnsafeMutablePointer<Float> {
        floats(matrix.place, in: program)
    }

    /// Lends the C form of a chain of steps.
    private func withChain(
        _ steps: [Step], firstRow: Int, _ arguments: DoorbellArguments, in program: Program,
        _ body: (sk_chain) -> Void
    ) {
        let list = steps.map { step -> sk_step in
            var native = sk_step()
            switch step {
            case .bias(let place):
                native.kind = Int32(SK_STEP_BIAS)
                native.values = UnsafePointer(floats(place, in: program))
            case .scaleRows(let place):
                native.kind = Int32(SK_STEP_SCALE_ROWS)
                native.values = UnsafePointer(floats(place, in: program))
            case .scale(let constant):
                native.kind = Int32(SK_STEP_SCALE)
                native.constant = constant
            case .relu: native.kind = Int32(SK_STEP_RELU)
            case .reluGradient(let matrix):
                native.kind = Int32(SK_STEP_RELU_GRADIENT)
                native.values = UnsafePointer(floats(matrix, in: program))
                native.stride = matrix.stride
            case .dropout(let dropout):
                native.kind = Int32(SK_STEP_DROPOUT)
                native.stream = dropout.stream
                native.threshold = UInt32(Double(dropout.probability) * 0x1p32)
                native.constant = 1 / (1 - dropout.probability)
                native.first_column = UInt32(dropout.firstColumn)
            case .add(let matrix):
                native.kind = Int32(SK_STEP_ADD)
                native.values = UnsafePointer(floats(matrix, in: program))
                native.stride = matrix.stride
            }
            return native
        }
        list.withUnsafeBufferPointer { list in
            body(
                sk_chain(
                    steps: list.baseAddress, count: list.count, seed: arguments.seed, epoch: arguments.epoch,
                    first_row: UInt32(firstRow)))
        }
    }

    // MARK: Operations

    func fill(_ fill: Fill, in program: Program) {
        let target = floats(fill.place, in: program)
        pool.onPieces(pool.cuts(count: fill.count, least: 1 << 16)) { piece, _ in
            (target + piece.lowerBound).update(repeating: fill.value, count: piece.count)
        }
    }

    func copy(_ copy: Copy, in program: Program) {
        let source = floats(copy.source, in: program)
        let target = floats(copy.target, in: program)
        pool.onPieces(pool.cuts(count: copy.rows, least: 1 + (1 << 16) / copy.columns)) { piece, _ in
            for row in piece {
                (target + row * copy.target.stride).update(
                    from: source + row * copy.source.stride, count: copy.columns)
            }
        }
    }

    func map(_ map: RowMap, _ arguments: DoorbellArguments, in program: Program) {
        withChain(map.steps, firstRow: map.firstRow, arguments, in: program) { chain in
            let native = sk_map(
                source: floats(map.source, in: program), source_stride: map.source.stride,
                target: floats(map.target, in: program), target_stride: map.target.stride, columns: map.columns,
                chain: chain)
            pool.onPieces(pool.cuts(count: map.rows, least: 1 + (1 << 15) / map.columns)) { piece, _ in
                withUnsafePointer(to: native) { kernels.pointee.map($0, piece.lowerBound, piece.upperBound) }
            }
        }
    }

    /// Whether an aggregation's row pointers and neighbours are a graph's, so that no address can leave its source.
    func isTopologyValid(_ aggregate: Aggregate, in program: Program) -> Bool {
        let pointers = UnsafePointer(
            address(aggregate.rowPointers, in: program).assumingMemoryBound(to: UInt64.self))
        let neighbours = UnsafePointer(address(aggregate.columns, in: program).assumingMemoryBound(to: UInt32.self))
        return kernels.pointee.topology_valid(
            pointers, neighbours, UInt64(aggregate.edgeBase), UInt64(aggregate.edges), UInt64(aggregate.nodes), 0,
            aggregate.rows) != 0
    }

    /// The topology was found valid before.
    func aggregate(_ aggregate: Aggregate, _ arguments: DoorbellArguments, in program: Program) {
        let pointers = address(aggregate.rowPointers, in: program).assumingMemoryBound(to: UInt64.self)
        withChain(aggregate.steps, firstRow: aggregate.firstRow, arguments, in: program) { chain in
            let native = sk_aggregate(
                pointers: pointers,
                neighbours: address(aggregate.columns, in: program).assumingMemoryBound(to: UInt32.self),
                edge_base: UInt64(aggregate.edgeBase), source: floats(aggregate.source, in: program),
                source_stride: aggregate.source.stride, source_first: UInt32(aggregate.sourceFirstRow),
                source_rows: UInt32(aggregate.sourceRows),
                covers_all: aggregate.sourceFirstRow == 0 && aggregate.sourceRows == aggregate.nodes ? 1 : 0,
                target: floats(aggregate.target, in: program), target_stride: aggregate.target.stride,
                width: aggregate.width, accumulates: aggregate.accumulates ? 1 : 0, chain: chain)
            pool.onPieces(edgeCuts(pointers, rows: aggregate.rows)) { piece, _ in
                withUnsafePointer(to: native) { kernels.pointee.aggregate($0, piece.lowerBound, piece.upperBound) }
            }
        }
    }

    /// Pieces with about the same number of edges and rows together.
    private func edgeCuts(_ pointers: UnsafePointer<UInt64>, rows: Int) -> [Int] {
        func work(_ row: Int) -> UInt64 { pointers[row] - pointers[0] + 4 * UInt64(row) }
        let total = work(rows)
        let pieces = pool.threads == 1 ? 1 : min(UInt64(pool.threads) * 16, total / 4096 + 1)
        var cuts = [0]
        for piece in 1..<max(pieces, 1) {
            let wanted = total / pieces * piece
            var low = cuts[cuts.count - 1]
            var high = rows
            while low < high {
                let middle = (low + high) / 2
                if work(middle) < wanted { low = middle + 1 } else { high = middle }
            }
            if low > cuts[cuts.count - 1], low < rows { cuts.append(low) }
        }
        return cuts + [rows]
    }

    func product(_ product: Product, _ arguments: DoorbellArguments, in program: Program) {
        withChain(product.steps, firstRow: product.firstRow, arguments, in: program) { chain in
            let native = sk_product(
                a: floats(product.a, in: program), a_stride: product.a.stride, b: floats(product.b, in: program),
                b_stride: product.b.stride, c: floats(product.c, in: program), c_stride: product.c.stride,
                columns: product.columns, inner: product.inner, transposes_b: product.transposesB ? 1 : 0,
                accumulates: product.accumulates ? 1 : 0, chain: chain)
            // Each piece packs b anew, so it has to have rows enough to pay for that.
            let cuts = pool.cuts(count: product.rows, least: 168, alignment: 84)
            pool.onPieces(cuts) { piece, thread in
                withUnsafePointer(to: native) {
                    kernels.pointee.product($0, piece.lowerBound, piece.upperBound, scratch(of: thread))
                }
            }
        }
    }

    func tileProduct(_ tile: TileProduct, in program: Program) {
        let native = sk_tile_product(
            a: floats(tile.a, in: program), a_stride: tile.a.stride, b: floats(tile.b, in: program),
            b_stride: tile.b.stride, m: tile.m, n: tile.n, rows: tile.rows,
            first_tile: UInt64(tile.firstRow / ImageShape.tileRows),
            levels: Program.tileLevels(totalRows: tile.totalRows), stack: floats(tile.stack, in: program))
        // Every piece packs all of b, so as few pieces as there are threads.
        let cuts = pool.cuts(count: tile.m, least: 14, alignment: 14, perThread: 1)
        pool.onPieces(cuts) { piece, thread in
            withUnsafePointer(to: native) {
                kernels.pointee.tile_product($0, piece.lowerBound, piece.upperBound, scratch(of: thread))
            }
        }
    }

    func tileColumnSum(_ tile: TileColumnSum, in program: Program) {
        let native = sk_tile_column_sum(
            a: floats(tile.a, in: program), a_stride: tile.a.stride, columns: tile.columns, rows: tile.rows,
            first_tile: UInt64(tile.firstRow / ImageShape.tileRows),
            levels: Program.tileLevels(totalRows: tile.totalRows), stack: floats(tile.stack, in: program))
        pool.onPieces(pool.cuts(count: tile.columns, least: 16, alignment: 16, perThread: 1)) { piece, _ in
            withUnsafePointer(to: native) {
                kernels.pointee.tile_column_sum($0, piece.lowerBound, piece.upperBound)
            }
        }
    }

    func tileFinish(_ finish: TileFinish, in program: Program) {
        let stack = floats(finish.stack, in: program)
        let target = floats(finish.target, in: program)
        let tiles = UInt64(Program.tiles(rows: finish.totalRows))
        pool.onPieces(pool.cuts(count: finish.count, least: 1 << 14, alignment: 16)) { piece, _ in
            sk_tile_finish(stack, tiles, finish.count, target, piece.lowerBound, piece.upperBound)
        }
    }

    func labelWeight(_ weight: LabelWeight, in program: Program) throws(ExecutorError) {
        let labels = address(weight.labels, in: program).assumingMemoryBound(to: Int32.self)
        let split = address(weight.split, in: program).assumingMemoryBound(to: UInt8.self)
        let weights = weight.classWeights.map { floats($0, in: program) }
        let total = address(weight.total, in: program).assumingMemoryBound(to: Double.self)
        var sum = weight.accumulates ? total.pointee : 0
        for row in 0..<weight.rows where split[row] == Split.train.rawValue && labels[row] >= 0 {
            guard labels[row] < weight.classes else {
                throw ExecutorError(.label, "row \(row) of the chunk has a label that is no class")
            }
            sum += weights.map { Double($0[Int(labels[row])]) } ?? 1
        }
        total.pointee = sum
    }

    func loss(_ loss: Loss, in program: Program) throws(ExecutorError) {
        let tiles = Program.tiles(rows: loss.rows)
        let native = sk_loss(
            logits: floats(loss.logits, in: program), logits_stride: loss.logits.stride,
            labels: address(loss.labels, in: program).assumingMemoryBound(to: Int32.self),
            split: address(loss.split, in: program).assumingMemoryBound(to: UInt8.self),
            class_weights: loss.classWeights.map { UnsafePointer(floats($0, in: program)) }, rows: loss.rows,
            classes: loss.classes,
            total: loss.gradient == nil
                ? 1 : address(loss.total, in: program).assumingMemoryBound(to: Double.self).pointee,
            gradient: loss.gradient.map { floats($0, in: program) }, gradient_stride: loss.gradient?.stride ?? 0)
        let figures = UnsafeMutableBufferPointer<sk_tile_figures>.allocate(capacity: tiles)
        defer { figures.deallocate() }
        let wrong = UnsafeMutableBufferPointer<Int64>.allocate(capacity: pool.threads)
        defer { wrong.deallocate() }
        wrong.initialize(repeating: -1)
        pool.onPieces(pool.cuts(count: tiles, least: 1)) { piece, thread in
            let row = withUnsafePointer(to: native) {
                kernels.pointee.loss($0, piece.lowerBound, piece.upperBound, figures.baseAddress!)
            }
            if row >= 0 { wrong[thread] = row }
        }
        if let row = wrong.first(where: { $0 >= 0 }) {
            throw ExecutorError(.label, "row \(row) of the chunk has a label or a split that does not exist")
        }
        let scores = ScoreTable(address(loss.scores, in: program))
        if loss.firstRow == 0 { scores.clear() }
        for tile in 0..<tiles {
            scores.add(figures[tile], tile: UInt64(loss.firstRow / ImageShape.tileRows + tile))
        }
    }

    func adam(_ adam: Adam, _ arguments: DoorbellArguments, in program: Program) {
        // Powers by repeated squaring, the same on every machine.
        let step = Int(max(arguments.step, 1))
        let correction1 = 1 - power(Double(adam.beta1), step)
        let correction2 = 1 - power(Double(adam.beta2), step)
        let native = sk_adam(
            parameter: floats(adam.parameter, in: program), gradient: floats(adam.gradient, in: program),
            first: floats(adam.firstMoment, in: program), second: floats(adam.secondMoment, in: program),
            beta1: adam.beta1, one_minus_beta1: Float(1 - Double(adam.beta1)), beta2: adam.beta2,
            one_minus_beta2: Float(1 - Double(adam.beta2)),
            step_size: Float(Double(arguments.learningRate) / correction1),
            root_correction: Float(correction2.squareRoot()), epsilon: adam.epsilon, weight_decay: adam.weightDecay)
        pool.onPieces(pool.cuts(count: adam.count, least: 1 << 14, alignment: 16)) { piece, _ in
            withUnsafePointer(to: native) { kernels.pointee.adam($0, piece.lowerBound, piece.upperBound) }
        }
    }

    func initialise(_ initialise: Initialise, _ arguments: DoorbellArguments, in program: Program) {
        let target = floats(initialise.target, in: program)
        let bound = Float((6 / Double(initialise.rows + initialise.columns)).squareRoot())
        for row in 0..<initialise.rows {
            kernels.pointee.uniform_row(
                target + row * initialise.target.stride, initialise.columns, bound, arguments.seed, UInt32(row),
                initialise.stream)
        }
    }

    /// The figures of all rows; `rows` says how many there were.
    func figures(_ place: Place, rows: Int, in program: Program) -> [Completion.Figures] {
        ScoreTable(address(place, in: program)).figures(tiles: UInt64(Program.tiles(rows: rows)))
    }

    func keepBest(
        _ keep: KeepBest, rows: Int, _ arguments: DoorbellArguments, in program: Program
    ) -> Completion.Best {
        let validation = figures(keep.scores, rows: rows, in: program)[1]
        let state = address(keep.state, in: program)
        let loss = validation.meanLoss
        let isFirst = state.load(fromByteOffset: 24, as: UInt64.self) != 1
        let isBetter =
            switch keep.rule {
            case .accuracy: validation.correct > state.load(fromByteOffset: 8, as: UInt64.self)
            case .loss: loss < state.load(as: Double.self)
            }
        var best = Completion.Best()
        // A loss that is no number never wins.
        best.improved = (isFirst || isBetter) && !loss.isNaN
        if best.improved {
            floats(keep.best, in: program).update(from: floats(keep.parameters, in: program), count: keep.count)
            state.storeBytes(of: loss, as: Double.self)
            state.storeBytes(of: validation.correct, toByteOffset: 8, as: UInt64.self)
            state.storeBytes(of: UInt64(arguments.epoch), toByteOffset: 16, as: UInt64.self)
            state.storeBytes(of: 1, toByteOffset: 24, as: UInt64.self)
        }
        best.epoch = UInt32(truncatingIfNeeded: state.load(fromByteOffset: 16, as: UInt64.self))
        return best
    }

    private func power(_ base: Double, _ exponent: Int) -> Double {
        var result = 1.0
        var square = base
        var rest = exponent
        while rest > 0 {
            if rest & 1 == 1 { result *= square }
            square *= square
            rest >>= 1
        }
        return result
    }
}

// Kernels and pool may be used from any one thread at a time; the executor calls from its compute queue alone.
extension CPUBackend: @unchecked Sendable {}

/// The layout that `Scores` describes.
private struct ScoreTable {
    private let base: UnsafeMutableRawPointer

    init(_ base: UnsafeMutableRawPointer) { self.base = base }

    func clear() { memset(base, 0, Scores.byteCount) }

    func add(_ figure: sk_tile_figures, tile: UInt64) {
        var figure = figure
        withUnsafeBytes(of: &figure) { bytes in
            let split = MemoryLayout<Double>.stride
            for index in 0..<Scores.splits.count {
                let part = Part(base + index * Scores.splitBytes)
                sk_tile_push(part.levels, tile, bytes.load(fromByteOffset: index * split, as: Double.self))
                part.weight.pointee += bytes.load(fromByteOffset: (3 + index) * split, as: Double.self)
                part.correct.pointee += bytes.load(fromByteOffset: (6 + index) * split, as: UInt64.self)
                part.labelled.pointee += bytes.load(fromByteOffset: (9 + index) * split, as: UInt64.self)
            }
        }
    }

    func figures(tiles: UInt64) -> [Completion.Figures] {
        Scores.splits.indices.map { index in
            let part = Part(base + index * Scores.splitBytes)
            var figures = Completion.Figures()
            figures.lossSum = sk_tile_total(part.levels, tiles)
            figures.weight = part.weight.pointee
            figures.correct = part.correct.pointee
            figures.labelled = part.labelled.pointee
            return figures
        }
    }

    private struct Part {
        let levels: UnsafeMutablePointer<Double>
        let weight: UnsafeMutablePointer<Double>
        let correct: UnsafeMutablePointer<UInt64>
        let labelled: UnsafeMutablePointer<UInt64>

        init(_ base: UnsafeMutableRawPointer) {
            levels = base.assumingMemoryBound(to: Double.self)
            weight = levels + Scores.levels
            correct = (base + (Scores.levels + 1) * 8).assumingMemoryBound(to: UInt64.self)
            labelled = correct + 1
        }
    }
}
