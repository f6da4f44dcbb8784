internal import CKernels
internal import FabricProtocol
internal import Glibc
internal import Sealing
internal import Synchronization
internal import Vocabulary

extension CPUBackend {
    /// Times the kernels on memory that is free for it, in the shapes in which an epoch uses them. All of them several
    /// times, since other work on the machine comes and goes: the fastest counts.
    func measure(_ measure: Measure, in program: Program) -> Completion.Rates {
        let rig = MeasuringRig(measure.byteCount, at: address(measure.place, in: program))
        var best = Completion.Rates()
        // On a busy machine it takes a while until the threads have found a core each.
        let clock = ContinuousClock()
        let start = clock.now
        var warm = Completion.Rates()
        while clock.now - start < .milliseconds(20) { measureProducts(rig, &warm) }
        for _ in 0..<3 {
            var rates = Completion.Rates()
            measureMemory(rig, &rates)
            measureProducts(rig, &rates)
            measureEdges(rig, &rates)
            measureRows(rig, &rates)
            rates.openBytesPerSecond = openRate(rig)
            rates.commandsPerSecond = commandRate()
            best.raise(to: rates)
        }
        best.threads = UInt32(pool.threads)
        best.cores = UInt32(clamping: sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        return best
    }

    /// Commands without work.
    private func commandRate() -> Double {
        let cuts = Array(0...4 * pool.threads)
        let commands = 64
        return Double(commands) / seconds { for _ in 0..<commands { pool.onPieces(cuts) { _, _ in } } }
    }

    private func measureMemory(_ rig: MeasuringRig, _ rates: inout Completion.Rates) {
        let count = rig.nodes / 2 * MeasuringRig.width
        let (from, to) = (rig.source, rig.source + count)
        rates.copyBytesPerSecond =
            Double(count * 4)
            / seconds {
                pool.onPieces(pool.cuts(count: count, least: 1 << 16)) { piece, _ in
                    (to + piece.lowerBound).update(from: from + piece.lowerBound, count: piece.count)
                }
            }
    }

    private func measureProducts(_ rig: MeasuringRig, _ rates: inout Completion.Rates) {
        let (width, rows) = (MeasuringRig.width, rig.rows)
        let product = sk_product(
            factors: sk_factors(a: rig.first, a_stride: width, b: rig.weight, b_stride: width, inner: width),
            more: sk_factors(), c: rig.second, c_stride: width, columns: width, transposes_b: 0, accumulates: 0,
            chain: sk_chain(), active: sk_active())
        rates.productFlops =
            Double(2 * rows * width * width)
            / seconds {
                pool.onPieces(pool.cuts(count: rows, least: 168, alignment: 84)) { piece, thread in
                    withUnsafePointer(to: product) {
                        kernels.pointee.product($0, piece.lowerBound, piece.upperBound, scratch(of: thread))
                    }
                }
            }
        let tile = sk_tile_product(
            a: rig.first, a_stride: width, b: rig.second, b_stride: width, m: MeasuringRig.gradientRows, n: width,
            rows: rows, first_tile: 0, continues: 0, stays_open: 0, levels: Program.tileLevels(totalRows: rows),
            stack: rig.stack, active: sk_active())
        rates.tileProductFlops =
            Double(2 * rows * MeasuringRig.gradientRows * width)
            / seconds {
                pool.onPieces(pool.cuts(count: MeasuringRig.gradientRows, least: 14, perThread: 1)) { piece, thread in
                    withUnsafePointer(to: tile) {
                        kernels.pointee.tile_product($0, piece.lowerBound, piece.upperBound, scratch(of: thread))
                    }
                }
            }
    }

    private func measureEdges(_ rig: MeasuringRig, _ rates: inout Completion.Rates) {
        let cuts = edgeCuts(UnsafePointer(rig.pointers), rows: rig.rows)
        func gather(_ width: Int, stride: Int) -> Double {
            let native = sk_aggregate(
                pointers: rig.pointers, neighbours: rig.neighbours, edge_base: 0, source: rig.source,
                source_stride: stride, source_first: 0, source_rows: UInt32(rig.nodes), covers_all: 1,
                target: rig.first, target_stride: width, width: width, accumulates: 0, chain: sk_chain(),
                active: sk_active())
            return Double(rig.edges * width * 4)
                / seconds {
                    pool.onPieces(cuts) { piece, _ in
                        withUnsafePointer(to: native) {
                            kernels.pointee.aggregate($0, piece.lowerBound, piece.upperBound)
                        }
                    }
                }
        }
        rates.wideGatherBytesPerSecond = gather(MeasuringRig.width, stride: MeasuringRig.width)
        // Apart, as narrow rows of a larger graph are no more near each other.
        rates.narrowGatherBytesPerSecond = gather(8, stride: 32)
        var attention = sk_attention()
        attention.pointers = UnsafePointer(rig.pointers)
        attention.neighbours = UnsafePointer(rig.neighbours)
        attention.other_rows = UInt32(rig.nodes)
        attention.covers_all = 1
        attention.rows_are_targets = 1
        attention.heads = MeasuringRig.heads
        // Narrow, so that what an edge costs is not lost beside its bytes.
        attention.head_width = MeasuringRig.attendedWidth / MeasuringRig.heads
        attention.slope = 0.2
        func numbers(_ part: Int) -> sk_rows {
            sk_rows(values: rig.numbers + part * MeasuringRig.heads, stride: 4 * MeasuringRig.heads)
        }
        (attention.target_scores, attention.highest, attention.inverse) = (numbers(0), numbers(1), numbers(2))
        attention.source_scores = sk_rows(values: rig.scores, stride: MeasuringRig.heads)
        attention.source = sk_rows(values: rig.source, stride: MeasuringRig.attendedWidth)
        attention.target = sk_rows(values: rig.first, stride: MeasuringRig.width)
        attention.drops = 1
        attention.threshold = 1 << 31
        attention.keep = 2
        attention.stream = 1
        func edges(
            _ kernel: (UnsafePointer<sk_attention>?, Int, Int, UnsafeMutablePointer<Float>?) -> Void
        ) -> Double {
            Double(rig.edges)
                / seconds {
                    pool.onPieces(cuts) { piece, thread in
                        withUnsafePointer(to: attention) {
                            kernel($0, piece.lowerBound, piece.upperBound, scratch(of: thread))
                        }
                    }
                }
        }
        rates.scoredEdgesPerSecond = edges(kernels.pointee.attention_scale)
        rates.attendedEdgesPerSecond = edges(kernels.pointee.attend)
    }

    private func measureRows(_ rig: MeasuringRig, _ rates: inout Completion.Rates) {
        func elements(_ kind: Int, to target: UnsafeMutablePointer<Float>) -> Double {
            var step = sk_step()
            step.kind = Int32(kind)
            step.threshold = 1 << 15
            step.constant = 2
            // A block of rows that a core's cache holds, as one that several commands go over.
            let rows = min(rig.rows, 256 * pool.threads)
            return withUnsafePointer(to: step) { step in
                let map = sk_map(
                    source: rig.first, source_stride: MeasuringRig.width, target: target,
                    target_stride: MeasuringRig.width, columns: MeasuringRig.width,
                    chain: sk_chain(steps: step, count: 1, seed: 1, epoch: 0, first_row: 0), active: sk_active())
                return Double(8 * rows * MeasuringRig.width)
                    / seconds {
                        pool.onPieces(pool.cuts(count: rows, least: 64, perThread: 1)) { piece, _ in
                            for _ in 0..<8 {
                                withUnsafePointer(to: map) {
                                    kernels.pointee.map($0, piece.lowerBound, piece.upperBound)
                                }
                            }
                        }
                    }
            }
        }
        rates.dropElementsPerSecond = elements(SK_STEP_DROPOUT, to: rig.first)
        rates.mapElementsPerSecond = elements(SK_STEP_RELU, to: rig.second)
        let classes = 32
        var loss = sk_loss()
        loss.outputs = UnsafePointer(rig.source)
        loss.outputs_stride = classes
        loss.labels = UnsafePointer(rig.labels)
        loss.split = UnsafePointer(rig.split)
        loss.rows = rig.rows
        loss.classes = classes
        loss.total = 1
        loss.gradient = rig.second
        loss.gradient_stride = classes
        let tiles = Program.tiles(rows: rig.rows)
        var figures = [sk_tile_figures](repeating: sk_tile_figures(), count: tiles)
        rates.lossElementsPerSecond = figures.withUnsafeMutableBufferPointer { figures in
            // Each tile's are its own.
            nonisolated(unsafe) let figures = figures.baseAddress!
            // Two vectors more, for what a row costs whatever its width.
            return Double(rig.rows * (classes + Completion.Rates.lossRowElements))
                / seconds {
                    pool.onPieces(pool.cuts(count: tiles, least: 1)) { piece, _ in
                        _ = withUnsafePointer(to: loss) {
                            kernels.pointee.loss($0, piece.lowerBound, piece.upperBound, figures)
                        }
                    }
                }
        }
    }

    /// Blocks are copied from where they came and opened, as a fetch does it, while the other threads are busy with memory;
    /// 0 where that does not work.
    private func openRate(_ rig: MeasuringRig) -> Double {
        let cipher = BlockCipher(key: SecretBytes.random(count: 32))
        let (plain, sealed) = (Limits.blockBytes, Limits.sealedBlockBytes)
        // From one third of the nodes' memory into another, by way of a little staging; the last is the others'.
        let third = rig.nodes / 3 * MeasuringRig.width * 4
        let blocks = min(third / sealed, 256)
        nonisolated(unsafe) let memory = UnsafeMutableRawPointer(rig.source)
        nonisolated(unsafe) let came = UnsafeMutableRawBufferPointer(start: rig.first, count: sealed)
        func nonce(_ block: Int) -> BlockNonce { BlockNonce(high: 0, low: UInt64(block)) }
        func opened(_ block: Int) -> UnsafeMutableRawBufferPointer {
            UnsafeMutableRawBufferPointer(start: memory + third + block * plain, count: plain)
        }
        do {
            for block in 0..<blocks {
                try cipher.seal(
                    UnsafeRawBufferPointer(opened(block)), nonce: nonce(block), aad: [],
                    into: UnsafeMutableRawBufferPointer(start: memory + block * sealed, count: sealed))
            }
        } catch {
            return 0
        }
        let failed = Atomic<Bool>(false)
        let isDone = Atomic<Bool>(false)
        var fastest = Double.infinity
        for _ in 0..<2 {
            isDone.store(false, ordering: .relaxed)
            pool.onEach { thread in
                guard thread == 0 else {
                    // A part for each.
                    let part = third / 2 / pool.threads / 64 * 64
                    let from = memory + 2 * third + 2 * thread * part
                    while !isDone.load(ordering: .relaxed) { (from + part).copyMemory(from: from, byteCount: part) }
                    return
                }
                let spent = ContinuousClock().measure {
                    for block in 0..<blocks {
                        came.copyMemory(from: UnsafeRawBufferPointer(start: memory + block * sealed, count: sealed))
                        do {
                            try cipher.open(
                                UnsafeRawBufferPointer(came), nonce: nonce(block), aad: [], into: opened(block))
                        } catch {
                            failed.store(true, ordering: .relaxed)
                        }
                    }
                }
                fastest = min(fastest, spent / .seconds(1))
                isDone.store(true, ordering: .relaxed)
            }
        }
        return failed.load(ordering: .relaxed) ? 0 : Double(blocks * plain) / max(fastest, 1e-9)
    }

    private func seconds(_ body: () -> Void) -> Double {
        body()
        let clock = ContinuousClock()
        let fastest = min(clock.measure(body), clock.measure(body))
        return max(fastest / .seconds(1), 1e-9)
    }
}

/// Operands laid out in the memory of a measurement: a few rows that the caches hold, edges from these into as many nodes
/// as there is room for.
private struct MeasuringRig {
    static let width = 256
    static let heads = 4
    static let attendedWidth = 16
    static let degree = 16
    /// Rows of the weight whose gradient is made.
    static let gradientRows = 128

    /// A whole number of tiles, so that each thread has one.
    let rows: Int
    let nodes: Int
    let weight: UnsafeMutablePointer<Float>
    let first: UnsafeMutablePointer<Float>
    let second: UnsafeMutablePointer<Float>
    let stack: UnsafeMutablePointer<Float>
    let numbers: UnsafeMutablePointer<Float>
    let source: UnsafeMutablePointer<Float>
    let scores: UnsafeMutablePointer<Float>
    let pointers: UnsafeMutablePointer<UInt64>
    let neighbours: UnsafeMutablePointer<UInt32>
    let labels: UnsafeMutablePointer<Int32>
    let split: UnsafeMutablePointer<UInt8>
    var edges: Int { rows * Self.degree }

    init(_ byteCount: Int, at base: UnsafeMutableRawPointer) {
        var used = 0
        func take<Element>(_ count: Int, of type: Element.Type = Float.self) -> UnsafeMutablePointer<Element> {
            defer { used += (count * MemoryLayout<Element>.stride + 63) / 64 * 64 }
            return (base + used).bindMemory(to: type, capacity: count)
        }
        let width = Self.width
        rows = byteCount >= 1 << 25 ? 2 * ImageShape.tileRows : ImageShape.tileRows / 2
        weight = take(width * width)
        first = take(rows * width)
        second = take(rows * width)
        stack = take(Program.tileStackBytes(totalRows: rows, rows: Self.gradientRows, columns: width) / 4)
        numbers = take(rows * 4 * Self.heads)
        pointers = take(rows + 1, of: UInt64.self)
        neighbours = take(rows * Self.degree, of: UInt32.self)
        labels = take(rows, of: Int32.self)
        split = take(rows, of: UInt8.self)
        nodes = (byteCount - used) / ((width + Self.heads) * 4) / 16 * 16
        source = take(nodes * width)
        scores = take(nodes * Self.heads)
        for (values, count) in [
            (weight, width * width), (first, 2 * rows * width), (numbers, rows * 4 * Self.heads),
            (source, nodes * width), (scores, nodes * Self.heads),
        ] { values.update(repeating: 0.5, count: count) }
        labels.update(repeating: 0, count: rows)
        split.update(repeating: Split.train.rawValue, count: rows)
        for row in 0...rows { pointers[row] = UInt64(row * Self.degree) }
        // Hubs: the fourth power of what a linear congruential generator says, of the nodes.
        var state: UInt64 = 1
        for edge in 0..<rows * Self.degree {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let part = Double(state >> 11) * 0x1p-53
            neighbours[edge] = UInt32(Double(nodes) * (part * part) * (part * part))
        }
    }
}
