internal import CKernels
internal import FabricProtocol
internal import Glibc
internal import Vocabulary

/// Runs compute commands on the processor. Operands were checked with the program, so addresses here are plain sums.
final class CPUBackend {
    let kernels: UnsafePointer<sk_kernels>
    private let memory: DeviceMemory
    let pool: ThreadPool
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

    func scratch(of thread: Int) -> UnsafeMutablePointer<Float> {
        (scratch.base + thread * Self.scratchBytes).assumingMemoryBound(to: Float.self)
    }

    // MARK: Addresses

    func address(_ place: Place, in program: Program) -> UnsafeMutableRawPointer {
        memory.base + program.buffers[Int(place.buffer)].offset + place.offset
    }

    private func floats(_ place: Place, in program: Program) -> UnsafeMutablePointer<Float> {
        address(place, in: program).assumingMemoryBound(to: Float.self)
    }

    private func floats(_ matrix: Matrix, in program: Program) -> UnsafeMutablePointer<Float> {
        floats(matrix.place, in: program)
    }

    /// The C form of some steps.
    private func native(_ steps: [Step], in program: Program) -> [sk_step] {
        steps.map { step -> sk_step in
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
                native.threshold = dropout.threshold
                native.constant = 1 / (1 - dropout.probability)
                native.first_column = UInt32(dropout.firstColumn)
            case .add(let matrix):
                native.kind = Int32(SK_STEP_ADD)
                native.values = UnsafePointer(floats(matrix, in: program))
                native.stride = matrix.stride
            case .scaleColumns(let place):
                native.kind = Int32(SK_STEP_SCALE_COLUMNS)
                native.values = UnsafePointer(floats(place, in: program))
            case .elu: native.kind = Int32(SK_STEP_ELU)
            case .eluGradient(let matrix):
                native.kind = Int32(SK_STEP_ELU_GRADIENT)
                native.values = UnsafePointer(floats(matrix, in: program))
                native.stride = matrix.stride
            case .normalise(let epsilon):
                native.kind = Int32(SK_STEP_NORMALISE)
                native.constant = epsilon
            case .normaliseGradient(let gradient):
                native.kind = Int32(SK_STEP_NORMALISE_GRADIENT)
                native.constant = gradient.epsilon
                native.values = UnsafePointer(floats(gradient.input, in: program))
                native.stride = gradient.input.stride
            case .addHeads(let outer):
                native.kind = Int32(SK_STEP_ADD_HEADS)
                native.values = UnsafePointer(floats(outer.factors, in: program))
                native.stride = outer.factors.stride
                native.vector = UnsafePointer(floats(outer.vector, in: program))
                native.heads = outer.heads
            }
            return native
        }
    }

    // MARK: Operations

    private func native(_ active: Program.ActiveRows?, in program: Program) -> sk_active {
        guard let active else { return sk_active() }
        return sk_active(
            marks: address(active.place, in: program).assumingMemoryBound(to: UInt8.self), bit: active.bit)
    }

    func mark(_ mark: Mark, in program: Program) {
        let split = address(mark.split, in: program).assumingMemoryBound(to: UInt8.self)
        let marks = address(mark.marks, in: program).assumingMemoryBound(to: UInt8.self)
        for row in 0..<mark.rows {
            marks[row] = (split[row] == Split.train.rawValue ? 1 : 0) | (split[row] != Split.none.rawValue ? 16 : 0)
        }
    }

    /// On one thread: rows are read while others are written, and it happens once a run.
    func reach(_ reach: Reach, in program: Program) {
        let topology = reach.neighbours
        let pointers = pointers(topology, in: program)
        let neighbours = neighbours(topology, in: program) - topology.edgeBase
        let marks = address(reach.marks, in: program).assumingMemoryBound(to: UInt8.self)
        let before: UInt8 = 0x11 << (reach.hop - 1)
        for row in 0..<topology.rows {
            let own = topology.firstRow + row
            var found = marks[own]
            for edge in Int(pointers[row])..<Int(pointers[row + 1]) { found |= marks[Int(neighbours[edge])] }
            marks[own] |= (found & before) << 1
        }
    }

    func fill(_ fill: Fill, in program: Program) {
        let target = floats(fill.place, in: program)
        pool.onPieces(pool.cuts(count: fill.count, least: 1 << 16)) { piece, _ in
            (target + piece.lowerBound).update(repeating: fill.value, count: piece.count)
        }
    }

    func copy(_ copy: Copy, in program: Program) {
        let source = floats(copy.source, in: program)
        let target = floats(copy.target, in: program)
        pool.onPieces(pool.cuts(count: copy.rows, least: 1 + (1 << 16) / (copy.columns * copy.pieces))) { rows, _ in
            for row in rows {
                let (from, to) = (source + row * copy.source.stride, target + row * copy.target.stride)
                for piece in 0..<copy.pieces {
                    (to + piece * copy.targetStep).update(from: from + piece * copy.sourceStep, count: copy.columns)
                }
            }
        }
    }

    // MARK: Row by row

    /// What a command that goes by rows does with some of them. `more` adds a second product to the same sums, before its
    /// own steps; the first one has none then. Row pointers and neighbours were found valid before.
    func rowWork(
        _ operation: Operation, then more: Product? = nil, _ active: Program.ActiveRows?,
        _ arguments: DoorbellArguments, in program: Program
    ) -> RowWork {
        let active = self.native(active, in: program)
        func chained(_ steps: [Step], _ firstRow: Int) -> RowWork.Chain {
            RowWork.Chain(self.native(steps, in: program), arguments, firstRow: firstRow)
        }
        switch operation {
        case .map(let map):
            let chain = chained(map.steps, map.firstRow)
            let native = sk_map(
                source: floats(map.source, in: program), source_stride: map.source.stride,
                target: floats(map.target, in: program), target_stride: map.target.stride, columns: map.columns,
                chain: chain.native, active: active)
            return work(kernels.pointee.map, native, rows: map.rows, least: 1 + (1 << 15) / map.columns, chain)
        case .headDots(let dots): return headDots(dots, active, in: program)
        case .product(let product): return self.product(product, then: more, active, chained, in: program)
        case .aggregate(let aggregate): return self.aggregate(aggregate, active, chained, in: program)
        case .attentionScale(let scale):
            var native = self.native(scale.attention, scale.neighbours, 0, scale.neighbours.nodes, active, in: program)
            fill(&native, scale.targets, scale.sourceScores, in: program)
            return work(kernels.pointee.attention_scale, native, scale.neighbours, RowWork.Chain())
        case .attend(let attend):
            let chain = chained(attend.steps, attend.neighbours.firstRow)
            var native = self.native(
                attend.attention, attend.neighbours, attend.sourceFirstRow, attend.sourceRows, active, in: program)
            fill(&native, attend.targets, attend.sourceScores, in: program)
            native.source = rows(attend.source, in: program)
            native.target = rows(attend.target, in: program)
            native.accumulates = attend.accumulates ? 1 : 0
            native.chain = chain.native
            return work(kernels.pointee.attend, native, attend.neighbours, chain)
        case .attentionGradient(let gradient):
            return attentionGradient(
                gradient, active, chained([], gradient.neighbours.firstRow), in: program)
        case .fetch, .store, .fill, .copy, .tileProduct, .tileColumnSum, .tileFinish, .labelWeight, .loss, .adam,
            .initialise, .keepBest, .report, .measure, .mark, .reach:
            preconditionFailure("it does not go by rows")
        }
    }

    /// Runs these one after the other on each block of rows, which stays in the caches from one to the next. Returns what
    /// the threads together took for each; of one alone, nothing.
    func run(_ works: [RowWork]) -> [UInt64] {
        let cuts = cuts(works)
        guard works.count > 1 else {
            pool.onPieces(cuts, works[0].body)
            return [0]
        }
        var spent = [UInt64](repeating: 0, count: works.count * pool.threads)
        spent.withUnsafeMutableBufferPointer { spent in
            // Each thread has its own part of it.
            nonisolated(unsafe) let spent = spent
            pool.onPieces(cuts) { piece, thread in
                var last = clock_gettime_nsec()
                for (number, work) in works.enumerated() {
                    work.body(piece, thread)
                    let now = clock_gettime_nsec()
                    spent[thread * works.count + number] += now - last
                    last = now
                }
            }
        }
        return works.indices.map { number in
            (0..<pool.threads).reduce(0) { $0 + spent[$1 * works.count + number] }
        }
    }

    /// Blocks that suit each of these, and that the second cache holds where there are several.
    private func cuts(_ works: [RowWork]) -> [Int] {
        let rows = works[0].rows
        if let pointers = works.lazy.compactMap(\.pointers).first {
            return edgeCuts(pointers, rows: rows, least: works.count > 1 ? rows / 512 : 1)
        }
        let (least, alignment) = (works.map(\.least).max()!, works.map(\.alignment).max()!)
        let perThread = works.count > 1 ? max(4, rows / (pool.threads * max(least, 504))) : 4
        return pool.cuts(count: rows, least: least, alignment: alignment, perThread: perThread)
    }

    private func clock_gettime_nsec() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }

    private func work<Native>(
        _ kernel: @escaping (UnsafePointer<Native>?, Int, Int) -> Void, _ native: Native, rows: Int,
        least: Int, _ chain: RowWork.Chain
    ) -> RowWork {
        RowWork(rows: rows, pointers: nil, least: least, alignment: 1) { piece, _ in
            withExtendedLifetime(chain) {
                withUnsafePointer(to: native) { kernel($0, piece.lowerBound, piece.upperBound) }
            }
        }
    }

    private func work(
        _ kernel:
            @escaping @convention(c) (UnsafePointer<sk_attention>?, Int, Int, UnsafeMutablePointer<Float>?) -> Void,
        _ native: sk_attention, _ topology: Neighbours, _ chain: RowWork.Chain
    ) -> RowWork {
        RowWork(rows: topology.rows, pointers: native.pointers, least: 1, alignment: 1) { [self] piece, thread in
            withExtendedLifetime(chain) {
                withUnsafePointer(to: native) { kernel($0, piece.lowerBound, piece.upperBound, scratch(of: thread)) }
            }
        }
    }

    /// Whether row pointers and neighbours are a graph's, so that no address can leave the other end's matrices.
    func isTopologyValid(_ topology: Neighbours, in program: Program) -> Bool {
        kernels.pointee.topology_valid(
            pointers(topology, in: program), neighbours(topology, in: program), UInt64(topology.edgeBase),
            UInt64(topology.edges), UInt64(topology.nodes), 0, topology.rows) != 0
    }

    private func pointers(_ topology: Neighbours, in program: Program) -> UnsafePointer<UInt64> {
        UnsafePointer(address(topology.rowPointers, in: program).assumingMemoryBound(to: UInt64.self))
    }

    private func neighbours(_ topology: Neighbours, in program: Program) -> UnsafePointer<UInt32> {
        UnsafePointer(address(topology.columns, in: program).assumingMemoryBound(to: UInt32.self))
    }

    private func aggregate(
        _ aggregate: Aggregate, _ active: sk_active, _ chained: ([Step], Int) -> RowWork.Chain, in program: Program
    ) -> RowWork {
        let topology = aggregate.neighbours
        let chain = chained(aggregate.steps, topology.firstRow)
        let native = sk_aggregate(
            pointers: pointers(topology, in: program), neighbours: neighbours(topology, in: program),
            edge_base: UInt64(topology.edgeBase), source: floats(aggregate.source, in: program),
            source_stride: aggregate.source.stride, source_first: UInt32(aggregate.sourceFirstRow),
            source_rows: UInt32(aggregate.sourceRows),
            covers_all: aggregate.sourceFirstRow == 0 && aggregate.sourceRows == topology.nodes ? 1 : 0,
            target: floats(aggregate.target, in: program), target_stride: aggregate.target.stride,
            width: aggregate.width, accumulates: aggregate.accumulates ? 1 : 0, chain: chain.native, active: active)
        return RowWork(rows: topology.rows, pointers: native.pointers, least: 1, alignment: 1) { [self] piece, _ in
            withExtendedLifetime(chain) {
                withUnsafePointer(to: native) { kernels.pointee.aggregate($0, piece.lowerBound, piece.upperBound) }
            }
        }
    }

    // MARK: Attention

    private func attentionGradient(
        _ gradient: AttentionGradient, _ active: sk_active, _ chain: RowWork.Chain, in program: Program
    ) -> RowWork {
        var native = self.native(
            gradient.attention, gradient.neighbours, gradient.otherFirstRow, gradient.otherRows, active, in: program)
        fill(&native, gradient.targets, gradient.sourceScores, in: program)
        native.rows_are_targets = gradient.rowsAre == .targets ? 1 : 0
        if let scores = gradient.scores {
            native.dots = rows(scores.dots, in: program)
            native.score_gradient = rows(scores.gradient, in: program)
        }
        if let sums = gradient.sums {
            native.source = rows(sums.other, in: program)
            native.leaked = rows(sums.leaked, in: program)
            if let matrix = sums.weighed { native.target = rows(matrix, in: program) }
        }
        native.accumulates = gradient.accumulates ? 1 : 0
        native.others = self.native(gradient.others, in: program)
        if gradient.others != nil { native.others.marks -= gradient.otherFirstRow }
        native.chain = chain.native
        return work(kernels.pointee.attention_gradient, native, gradient.neighbours, chain)
    }

    private func headDots(_ dots: HeadDots, _ active: sk_active, in program: Program) -> RowWork {
        let (y, stride) =
            switch dots.y {
            case .vector(let place): (floats(place, in: program), 0)
            case .rows(let matrix): (floats(matrix, in: program), matrix.stride)
            }
        let native = sk_head_dots(
            x: floats(dots.x, in: program), x_stride: dots.x.stride, y: y, y_stride: stride,
            target: floats(dots.target, in: program), target_stride: dots.target.stride, heads: dots.heads,
            head_width: dots.headWidth, accumulates: dots.accumulates ? 1 : 0, active: active)
        let least = 1 + (1 << 15) / (dots.heads * dots.headWidth)
        return work(kernels.pointee.head_dots, native, rows: dots.rows, least: least, RowWork.Chain())
    }

    private func rows(_ matrix: Matrix, in program: Program) -> sk_rows {
        sk_rows(values: floats(matrix, in: program), stride: matrix.stride)
    }

    private func native(
        _ attention: Attention, _ topology: Neighbours, _ otherFirstRow: Int, _ otherRows: Int, _ active: sk_active,
        in program: Program
    ) -> sk_attention {
        var native = sk_attention()
        native.active = active
        native.pointers = pointers(topology, in: program)
        native.neighbours = neighbours(topology, in: program)
        native.edge_base = UInt64(topology.edgeBase)
        native.first_row = UInt32(topology.firstRow)
        native.other_first = UInt32(otherFirstRow)
        native.other_rows = UInt32(otherRows)
        native.covers_all = otherFirstRow == 0 && otherRows == topology.nodes ? 1 : 0
        native.rows_are_targets = 1
        native.heads = attention.heads
        native.head_width = attention.headWidth
        native.slope = attention.slope
        if let dropout = attention.dropout {
            native.drops = 1
            native.threshold = UInt32(Double(dropout.probability) * 0x1p32)
            native.keep = 1 / (1 - dropout.probability)
            native.stream = dropout.stream
            native.first_head = UInt32(dropout.firstColumn)
        }
        return native
    }

    private func fill(
        _ native: inout sk_attention, _ targets: AttentionTargets, _ sourceScores: Matrix, in program: Program
    ) {
        native.target_scores = rows(targets.scores, in: program)
        native.highest = rows(targets.highest, in: program)
        native.inverse = rows(targets.inverse, in: program)
        native.source_scores = rows(sourceScores, in: program)
    }

    /// Pieces with about the same number of edges and rows together, at least so many where there is work for them.
    func edgeCuts(_ pointers: UnsafePointer<UInt64>, rows: Int, least: Int = 1) -> [Int] {
        func work(_ row: Int) -> UInt64 { pointers[row] - pointers[0] + 4 * UInt64(row) }
        let total = work(rows)
        let pieces = pool.threads == 1 ? 1 : min(UInt64(max(pool.threads * 16, least)), total / 4096 + 1)
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

    private func product(
        _ product: Product, then more: Product?, _ active: sk_active, _ chained: ([Step], Int) -> RowWork.Chain,
        in program: Program
    ) -> RowWork {
        let last = more ?? product
        let chain = chained(last.steps, last.firstRow)
        let native = sk_product(
            factors: factors(product, in: program), more: more.map { factors($0, in: program) } ?? sk_factors(),
            c: floats(product.c, in: program), c_stride: product.c.stride, columns: product.columns,
            transposes_b: product.transposesB ? 1 : 0, accumulates: product.accumulates ? 1 : 0, chain: chain.native,
            active: active)
        // Each piece packs b anew, so it has to have rows enough to pay for that.
        return RowWork(rows: product.rows, pointers: nil, least: 168, alignment: 84) { [self] piece, thread in
            withExtendedLifetime(chain) {
                withUnsafePointer(to: native) {
                    kernels.pointee.product($0, piece.lowerBound, piece.upperBound, scratch(of: thread))
                }
            }
        }
    }

    private func factors(_ product: Product, in program: Program) -> sk_factors {
        sk_factors(
            a: floats(product.a, in: program), a_stride: product.a.stride, b: floats(product.b, in: program),
            b_stride: product.b.stride, inner: product.inner)
    }

    func tileProduct(_ tile: TileProduct, _ active: Program.ActiveRows?, in program: Program) {
        let native = sk_tile_product(
            a: floats(tile.a, in: program), a_stride: tile.a.stride, b: floats(tile.b, in: program),
            b_stride: tile.b.stride, m: tile.m, n: tile.n, rows: tile.rows,
            first_tile: UInt64(tile.firstRow / ImageShape.tileRows), continues: continues(tile.firstRow),
            stays_open: staysOpen(tile.firstRow + tile.rows, of: tile.totalRows),
            levels: Program.tileLevels(totalRows: tile.totalRows), stack: floats(tile.stack, in: program),
            active: self.native(active, in: program))
        // Every piece packs all of b, so as few pieces as there are threads.
        let cuts = pool.cuts(count: tile.m, least: 14, perThread: 1)
        pool.onPieces(cuts) { piece, thread in
            withUnsafePointer(to: native) {
                kernels.pointee.tile_product($0, piece.lowerBound, piece.upperBound, scratch(of: thread))
            }
        }
    }

    /// Whether the rows from here on go on with a tile.
    private func continues(_ firstRow: Int) -> Int32 { firstRow.isMultiple(of: ImageShape.tileRows) ? 0 : 1 }

    /// Whether later rows go on with the tile that these end in.
    private func staysOpen(_ end: Int, of totalRows: Int) -> Int32 {
        end.isMultiple(of: ImageShape.tileRows) || end == totalRows ? 0 : 1
    }

    func tileColumnSum(_ tile: TileColumnSum, _ active: Program.ActiveRows?, in program: Program) {
        let (factors, heads): (Matrix?, Int) =
            switch tile.factors {
            case nil: (nil, 0)
            case .elements(let matrix): (matrix, 0)
            case .heads(let matrix, let heads): (matrix, heads)
            }
        let native = sk_tile_column_sum(
            a: floats(tile.a, in: program), a_stride: tile.a.stride,
            factors: factors.map { UnsafePointer(floats($0, in: program)) }, factors_stride: factors?.stride ?? 0,
            heads: heads, columns: tile.columns, rows: tile.rows,
            first_tile: UInt64(tile.firstRow / ImageShape.tileRows), continues: continues(tile.firstRow),
            stays_open: staysOpen(tile.firstRow + tile.rows, of: tile.totalRows),
            levels: Program.tileLevels(totalRows: tile.totalRows), stack: floats(tile.stack, in: program),
            active: self.native(active, in: program))
        let alignment = tile.columns >= 64 * pool.threads ? 64 : 16
        pool.onPieces(pool.cuts(count: tile.columns, least: alignment, alignment: alignment)) { piece, _ in
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
        let split = address(weight.split, in: program).assumingMemoryBound(to: UInt8.self)
        let weights = weight.classWeights.map { floats($0, in: program) }
        let total = address(weight.total, in: program).assumingMemoryBound(to: Double.self)
        var sum = weight.accumulates ? total.pointee : 0
        switch weight.targets {
        case .classes(let place):
            let labels = address(place, in: program).assumingMemoryBound(to: Int32.self)
            for row in 0..<weight.rows where split[row] == Split.train.rawValue && labels[row] >= 0 {
                guard labels[row] < weight.classes else {
                    throw ExecutorError(.label, "row \(row) of the chunk has a label that is no class")
                }
                sum += weights.map { Double($0[Int(labels[row])]) } ?? 1
            }
        case .bits, .values:
            let each =
                weights.map { weights in (0..<weight.classes).reduce(0) { $0 + Double(weights[$1]) } }
                ?? Double(weight.classes)
            for row in 0..<weight.rows where split[row] == Split.train.rawValue { sum += each }
        }
        total.pointee = sum
    }

    func loss(_ loss: Loss, in program: Program) throws(ExecutorError) {
        let tiles = Program.tiles(rows: loss.rows)
        var native = sk_loss()
        native.outputs = UnsafePointer(floats(loss.outputs, in: program))
        native.outputs_stride = loss.outputs.stride
        switch loss.targets {
        case .classes(let place):
            native.labels = UnsafePointer(address(place, in: program).assumingMemoryBound(to: Int32.self))
        case .bits(let place):
            native.bits = UnsafePointer(address(place, in: program).assumingMemoryBound(to: UInt8.self))
        case .values(let matrix):
            native.values = UnsafePointer(floats(matrix, in: program))
            native.values_stride = matrix.stride
        }
        native.split = UnsafePointer(address(loss.split, in: program).assumingMemoryBound(to: UInt8.self))
        native.class_weights = loss.classWeights.map { UnsafePointer(floats($0, in: program)) }
        native.rows = loss.rows
        native.classes = loss.classes
        native.total = 1
        if let gradient = loss.gradient {
            native.total = address(loss.total, in: program).assumingMemoryBound(to: Double.self).pointee
            native.gradient = floats(gradient, in: program)
            native.gradient_stride = gradient.stride
        }
        let figures = UnsafeMutableBufferPointer<sk_tile_figures>.allocate(capacity: tiles)
        defer { figures.deallocate() }
        let scores = ScoreTable(address(loss.scores, in: program))
        if loss.firstRow == 0 { scores.clear() }
        figures.initialize(repeating: sk_tile_figures())
        if continues(loss.firstRow) != 0 { figures[0] = scores.openTile }
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
            throw ExecutorError(.label, "row \(row) of the chunk has a label, a target or a split that cannot be")
        }
        guard staysOpen(loss.firstRow + loss.rows, of: loss.totalRows) == 0 else {
            scores.openTile = figures[0]
            return
        }
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
        let figure = keep.rule == .microF1 ? validation.microF1 : loss
        let isFirst = state.load(fromByteOffset: 24, as: UInt64.self) != 1
        let isBetter =
            switch keep.rule {
            case .accuracy: validation.correct > state.load(fromByteOffset: 8, as: UInt64.self)
            case .loss: figure < state.load(as: Double.self)
            case .microF1: figure > state.load(as: Double.self)
            }
        var best = Completion.Best()
        // A loss that is no number never wins.
        best.improved = (isFirst || isBetter) && !loss.isNaN
        if best.improved {
            floats(keep.best, in: program).update(from: floats(keep.parameters, in: program), count: keep.count)
            state.storeBytes(of: figure, as: Double.self)
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

/// What one command does with any block of its rows.
final class RowWork {
    let rows: Int
    /// Row pointers, where a row's work grows with its edges.
    let pointers: UnsafePointer<UInt64>?
    /// Rows that a block should have at least, and a multiple of what it should have.
    let least: Int
    let alignment: Int
    /// Rows, and the number of the thread that works on them.
    let body: (Range<Int>, Int) -> Void

    init(
        rows: Int, pointers: UnsafePointer<UInt64>?, least: Int, alignment: Int,
        body: @escaping (Range<Int>, Int) -> Void
    ) {
        self.rows = rows
        self.pointers = pointers
        self.least = least
        self.alignment = alignment
        self.body = body
    }

    /// The C form of a chain of steps; as long as it lives.
    final class Chain {
        let native: sk_chain
        private let steps: UnsafeMutableBufferPointer<sk_step>

        init(_ steps: [sk_step] = [], _ arguments: DoorbellArguments? = nil, firstRow: Int = 0) {
            self.steps = .allocate(capacity: steps.count)
            _ = self.steps.initialize(from: steps)
            native = sk_chain(
                steps: UnsafePointer(self.steps.baseAddress), count: steps.count, seed: arguments?.seed ?? 0,
                epoch: arguments?.epoch ?? 0, first_row: UInt32(firstRow))
        }

        deinit { steps.deallocate() }
    }
}

/// The layout that `Scores` describes.
private struct ScoreTable {
    private let base: UnsafeMutableRawPointer

    init(_ base: UnsafeMutableRawPointer) { self.base = base }

    func clear() { memset(base, 0, Scores.byteCount) }

    /// The figures of the rows before, where they ended inside a tile.
    var openTile: sk_tile_figures {
        get { (base + Scores.splits.count * Scores.splitBytes).load(as: sk_tile_figures.self) }
        nonmutating set {
            (base + Scores.splits.count * Scores.splitBytes).storeBytes(of: newValue, as: sk_tile_figures.self)
        }
    }

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
                part.predicted.pointee += bytes.load(fromByteOffset: (12 + index) * split, as: UInt64.self)
                part.actual.pointee += bytes.load(fromByteOffset: (15 + index) * split, as: UInt64.self)
                part.targetSum.pointee += bytes.load(fromByteOffset: (18 + index) * split, as: Double.self)
                part.targetSquares.pointee += bytes.load(fromByteOffset: (21 + index) * split, as: Double.self)
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
            figures.predicted = part.predicted.pointee
            figures.actual = part.actual.pointee
            figures.targetSum = part.targetSum.pointee
            figures.targetSquares = part.targetSquares.pointee
            return figures
        }
    }

    private struct Part {
        let levels: UnsafeMutablePointer<Double>
        let weight: UnsafeMutablePointer<Double>
        let targetSum: UnsafeMutablePointer<Double>
        let targetSquares: UnsafeMutablePointer<Double>
        let correct: UnsafeMutablePointer<UInt64>
        let labelled: UnsafeMutablePointer<UInt64>
        let predicted: UnsafeMutablePointer<UInt64>
        let actual: UnsafeMutablePointer<UInt64>

        init(_ base: UnsafeMutableRawPointer) {
            levels = base.assumingMemoryBound(to: Double.self)
            weight = levels + Scores.levels
            targetSum = weight + 1
            targetSquares = weight + 2
            correct = (base + (Scores.levels + 3) * 8).assumingMemoryBound(to: UInt64.self)
            labelled = correct + 1
            predicted = correct + 2
            actual = correct + 3
        }
    }
}
