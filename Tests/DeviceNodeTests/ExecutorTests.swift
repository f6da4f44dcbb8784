import DeviceNode
import FabricProtocol
import Sealing
import TestSupport
import Testing
import Vocabulary

/// The executor through its front door: sealed windows in, programs, doorbells, completions out.
@Suite struct ExecutorTests {
    // MARK: A whole epoch

    @Test("one epoch of a GCN is one doorbell, and its gradient is what finite differences of float64 say")
    func epoch() throws {
        let seed: UInt64 = 41
        let gcn = SmallGCN(nodes: 1300, seed: seed)
        let layout = gcn.program(chunkRows: gcn.nodes)
        let rig = try Rig(memoryBytes: layout.memoryBytes)
        try gcn.seal(into: rig)
        let program = try rig.load(layout.program)
        // Not training: the parameters stay those that the gradient is of.
        let completion = try rig.ring(
            program, DoorbellArguments(seed: seed, epoch: 3, step: 1, learningRate: 0.01, flags: [.first]))
        let parameters = rig.floats(at: layout.parameters, count: gcn.parameterCount).map(Double.init)
        let gradient = rig.floats(at: layout.gradients, count: gcn.parameterCount)
        let loss = gcn.loss(parameters, seed: seed, epoch: 3)
        let score = try #require(completion.scores.first)
        #expect(score.slot == 4)
        #expect(abs(score.train.meanLoss - loss) < 1e-5)
        #expect(completion.best?.improved == true && completion.best?.epoch == 3)
        let counted = zip(gcn.labels, gcn.split).filter { $0 >= 0 && $1 == 1 }.count
        #expect(score.train.labelled == UInt64(counted))
        var random = SeededRandom(seed: seed)
        for _ in 0..<40 {
            let index = Int.random(in: 0..<gcn.parameterCount, using: &random)
            var (above, below) = (parameters, parameters)
            above[index] += 1e-5
            below[index] -= 1e-5
            let slope =
                (gcn.loss(above, seed: seed, epoch: 3) - gcn.loss(below, seed: seed, epoch: 3)) / 2e-5
            #expect(abs(slope - Double(gradient[index])) < 1e-5 + 1e-3 * abs(slope), "parameter \(index)")
        }
    }

    @Test("weights have the same bits for any chunk of rows and any number of threads")
    func samePlans() throws {
        let seed: UInt64 = 77
        let gcn = SmallGCN(nodes: 3300, seed: seed)
        var expected: (weights: [UInt8], scores: [Completion.Score])?
        for (chunkRows, threads) in [(gcn.nodes, 1), (gcn.nodes, 2), (1024, 1), (1024, 3), (2048, 2)] {
            let layout = gcn.program(chunkRows: chunkRows)
            let rig = try Rig(memoryBytes: layout.memoryBytes, threads: threads)
            try gcn.seal(into: rig)
            let program = try rig.load(layout.program)
            var last = Completion()
            for epoch in 0..<6 as Range<UInt32> {
                var flags: DoorbellFlags = .train
                if epoch == 0 { flags.insert(.first) }
                if epoch == 5 { flags.insert(.export) }
                last = try rig.ring(
                    program,
                    DoorbellArguments(seed: seed, epoch: epoch, step: epoch + 1, learningRate: 0.02, flags: flags))
            }
            let weights = try rig.openResult(last.sealed, window: 30)
            #expect(weights.count == gcn.parameterCount * 4)
            #expect(weights.contains { $0 != 0 })
            if let expected {
                #expect(weights == expected.weights, "chunks of \(chunkRows), \(threads) threads")
                #expect(last.scores == expected.scores)
            } else {
                expected = (weights, last.scores)
            }
            #expect(last.work.peakBytes <= UInt64(layout.memoryBytes))
            if chunkRows < gcn.nodes { #expect(last.work.storedBytes > UInt64(gcn.nodes * gcn.hidden * 4)) }
        }
    }

    // MARK: Windows

    @Test("any range of a section arrives, whatever blocks it lies in", arguments: 1...20 as ClosedRange<UInt64>)
    func ranges(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let bytes = random.bytes(Int.random(in: 1...300_000, using: &random))
        let lower = Int.random(in: 0..<bytes.count, using: &random)
        let count = Int.random(in: 1...bytes.count - lower, using: &random)
        let rig = try Rig(memoryBytes: 400_000)
        try rig.seal(.split, bytes, window: 7)
        var builder = ProgramBuilder()
        builder.window(7, .image(.split), bytes.count)
        let place = builder.buffer(count)
        builder.add(.fetch(Transfer(window: 7, windowOffset: lower, byteCount: count, place: place)))
        let completion = try rig.ring(try rig.load(builder.program), Self.arguments)
        rig.memory.withBytes { memory in
            #expect(Array(memory[..<count]) == Array(bytes[lower..<lower + count]), "seed \(seed)")
            #expect(memory[count...].allSatisfy { $0 == 0 }, "seed \(seed)")
        }
        let blocks = (lower + count - 1) / Limits.blockBytes - lower / Limits.blockBytes + 1
        #expect(completion.work.fetchedBytes <= UInt64(blocks * Limits.sealedBlockBytes))
    }

    @Test("a checkpoint sealed for this attempt can be fetched")
    func state() throws {
        let rig = try Rig(memoryBytes: 4096)
        try rig.sealState([1.5, 2.5] as [Float], window: 12)
        var builder = ProgramBuilder()
        builder.window(12, .state, 8)
        builder.add(.fetch(Transfer(window: 12, windowOffset: 0, byteCount: 8, place: builder.buffer(8))))
        _ = try rig.ring(try rig.load(builder.program), Self.arguments)
        #expect(rig.floats(at: 0, count: 2) == [1.5, 2.5])
    }

    enum Meddling: CaseIterable { case flipped, swapped, truncated, missing, otherSection }

    @Test(
        "a block of the image that was changed, moved or lost is refused with its command", arguments: Meddling.allCases
    )
    func tampered(meddling: Meddling) throws {
        let rig = try Rig(memoryBytes: 1 << 20)
        let bytes = (0..<200_000).map { UInt8(truncatingIfNeeded: $0) }
        try rig.seal(.split, bytes, window: 7)
        switch meddling {
        case .flipped: rig.store[7, 1]![100] ^= 1
        case .swapped: (rig.store[7, 0], rig.store[7, 1]) = (rig.store[7, 1], rig.store[7, 0])
        case .truncated: rig.store[7, 3]!.removeLast()
        case .missing: rig.store[7, 2] = nil
        case .otherSection: try rig.seal(.labels, bytes, window: 7)
        }
        var builder = ProgramBuilder()
        builder.window(7, .image(.split), bytes.count)
        let place = builder.buffer(bytes.count)
        builder.add(.fill(Fill(place, count: 4)), writes: [place])
        builder.add(.fetch(Transfer(window: 7, windowOffset: 0, byteCount: bytes.count, place: place)))
        let program = try rig.load(builder.program)
        let error = #expect(throws: ExecutorError.self) { try rig.ring(program, Self.arguments) }
        #expect(error?.command == 1)
        #expect(error?.code == (meddling == .truncated || meddling == .missing ? .window : .tampered))
    }

    @Test("a spilled block comes back only as its latest self")
    func spill() throws {
        let rig = try Rig(memoryBytes: 1 << 20)
        let count = 2 * Limits.blockBytes
        var builder = ProgramBuilder()
        builder.window(20, .spill, count)
        let (out, back) = (builder.buffer(count), builder.buffer(count))
        let transfer = Transfer(window: 20, windowOffset: 0, byteCount: count, place: out)
        builder.add(.store(transfer), with: .export)
        builder.add(
            .fetch(Transfer(window: 20, windowOffset: 0, byteCount: count, place: back)), with: .evaluate)
        let program = try rig.load(builder.program)
        func ring(_ flags: DoorbellFlags) throws {
            _ = try rig.ring(program, DoorbellArguments(seed: 0, epoch: 0, step: 1, learningRate: 0, flags: flags))
        }
        let unwritten = #expect(throws: ExecutorError.self) { try ring(.evaluate) }
        #expect(unwritten?.code == .unwritten)
        func write(_ value: UInt8) {
            rig.memory.withBytes { memory in for index in 0..<count { memory[index] = value } }
        }
        write(1)
        try ring(.export)
        let old = (rig.store[20, 0], rig.store[20, 1])
        write(2)
        try ring([.export, .evaluate])
        rig.memory.withBytes { memory in #expect(memory[count..<2 * count].allSatisfy { $0 == 2 }) }
        #expect(rig.store[20, 0] != old.0)
        // The host answers with what it was given before.
        let new = (rig.store[20, 0], rig.store[20, 1])
        rig.store[20, 1] = old.1
        let replayed = #expect(throws: ExecutorError.self) { try ring(.evaluate) }
        #expect(replayed?.code == .tampered)
        rig.store[20, 1] = new.0
        let moved = #expect(throws: ExecutorError.self) { try ring(.evaluate) }
        #expect(moved?.code == .tampered)
        rig.store[20, 1] = new.1
        try ring(.evaluate)
    }

    @Test("two writes of the same bytes never look alike")
    func freshNonces() throws {
        let rig = try Rig(memoryBytes: 1 << 17)
        var builder = ProgramBuilder()
        builder.window(20, .spill, Limits.blockBytes)
        let place = builder.buffer(Limits.blockBytes)
        for _ in 0..<2 {
            builder.add(
                .store(Transfer(window: 20, windowOffset: 0, byteCount: Limits.blockBytes, place: place)))
        }
        let program = try rig.load(builder.program)
        var seen: Set<[UInt8]> = []
        for _ in 0..<10 {
            _ = try rig.ring(program, Self.arguments)
            #expect(seen.insert(rig.store[20, 0]!).inserted)
        }
    }

    @Test("a window keeps its meaning for the whole attempt")
    func windowClash() throws {
        let rig = try Rig(memoryBytes: 4096)
        var builder = ProgramBuilder()
        builder.window(20, .spill, 100)
        _ = try rig.load(builder.program)
        _ = try rig.load(builder.program)
        var other = ProgramBuilder()
        other.window(20, .spill, 101)
        let error = #expect(throws: ExecutorError.self) { try rig.load(other.program) }
        #expect(error?.code == .window)
    }

    // MARK: Refusals

    @Test("neighbours that are not a graph's never reach the kernel, also when they change between epochs")
    func topology() throws {
        let rig = try Rig(memoryBytes: 4096)
        var builder = ProgramBuilder()
        builder.window(1, .image(.rowPointers), 24)
        builder.window(2, .image(.columns), 8)
        let (pointers, columns) = (builder.buffer(24), builder.buffer(8))
        let (source, target) = (builder.buffer(16), builder.buffer(16))
        builder.add(.fetch(Transfer(window: 1, windowOffset: 0, byteCount: 24, place: pointers)), with: .first)
        builder.add(.fetch(Transfer(window: 2, windowOffset: 0, byteCount: 8, place: columns)), with: .first)
        builder.add(
            .aggregate(
                Aggregate(
                    neighbours: Neighbours(
                        rowPointers: pointers, columns: columns, edgeBase: 0, edges: 2, firstRow: 0, rows: 2, nodes: 2),
                    source: Matrix(source, stride: 2), sourceFirstRow: 0, sourceRows: 2,
                    target: Matrix(target, stride: 2), width: 2, accumulates: false)),
            reads: [pointers, columns, source], writes: [target])
        let program = try rig.load(builder.program)
        func ring(_ flags: DoorbellFlags) throws {
            _ = try rig.ring(program, DoorbellArguments(seed: 0, epoch: 0, step: 1, learningRate: 0, flags: flags))
        }
        try rig.seal(.rowPointers, [0, 1, 2] as [UInt64], window: 1)
        try rig.seal(.columns, [1, 0] as [UInt32], window: 2)
        rig.memory.withBytes { $0.storeBytes(of: 5, toByteOffset: 128, as: Float.self) }
        try ring(.first)
        #expect(rig.floats(at: 192 + 8, count: 1) == [5])
        try ring([])
        try rig.seal(.columns, [1, 7] as [UInt32], window: 2)
        let error = #expect(throws: ExecutorError.self) { try ring(.first) }
        #expect(error?.code == .topology && error?.command == 2)
        // The bad bytes stay in memory; nobody may use them at a later doorbell either.
        let later = #expect(throws: ExecutorError.self) { try ring([]) }
        #expect(later?.code == .topology)
    }

    @Test("neighbours that a failed fetch half overwrote are not trusted at the next doorbell")
    func halfFetched() throws {
        let nodes = 200
        let pointers = (0...nodes).map { UInt64($0 * nodes) }
        let full = (0..<nodes * nodes).map { UInt32($0 % nodes) }
        var builder = ProgramBuilder()
        builder.window(1, .image(.rowPointers), pointers.count * 8)
        builder.window(2, .image(.columns), full.count * 4)
        let (rows, columns) = (builder.buffer(pointers.count * 8), builder.buffer(full.count * 4))
        let (source, target) = (builder.buffer(nodes * 4), builder.buffer(nodes * 4))
        for (window, bytes, place) in [(1, pointers.count * 8, rows), (2, full.count * 4, columns)]
            as [(UInt16, Int, Place)]
        {
            builder.add(
                .fetch(Transfer(window: window, windowOffset: 0, byteCount: bytes, place: place)), with: .first)
        }
        builder.add(
            .aggregate(
                Aggregate(
                    neighbours: Neighbours(
                        rowPointers: rows, columns: columns, edgeBase: 0, edges: full.count, firstRow: 0, rows: nodes,
                        nodes: nodes), source: Matrix(source, stride: 1), sourceFirstRow: 0, sourceRows: nodes,
                    target: Matrix(target, stride: 1), width: 1, accumulates: false)),
            reads: [rows, columns, source], writes: [target])
        let rig = try Rig(memoryBytes: builder.memory)
        try rig.seal(.rowPointers, pointers, window: 1)
        try rig.seal(.columns, full, window: 2)
        let program = try rig.load(builder.program)
        func ring(_ flags: DoorbellFlags) throws {
            _ = try rig.ring(program, DoorbellArguments(seed: 0, epoch: 0, step: 1, learningRate: 0, flags: flags))
        }
        try ring(.first)
        try rig.seal(.columns, [UInt32](repeating: .max, count: full.count), window: 2)
        rig.store[2, 1]![0] ^= 1
        let failed = #expect(throws: ExecutorError.self) { try ring(.first) }
        #expect(failed?.code == .tampered)
        let refused = #expect(throws: ExecutorError.self) { try ring([]) }
        #expect(refused?.code == .topology)
    }

    @Test("a label that is no class is refused with its command")
    func label() throws {
        let gcn = SmallGCN(nodes: 1100, seed: 6)
        let layout = gcn.program(chunkRows: 1024)
        let rig = try Rig(memoryBytes: layout.memoryBytes)
        try gcn.seal(into: rig)
        var labels = gcn.labels
        labels[1050] = 5
        try rig.seal(.labels, labels, window: 6)
        try rig.seal(.split, [UInt8](repeating: 1, count: gcn.nodes), window: 7)
        let program = try rig.load(layout.program)
        let error = #expect(throws: ExecutorError.self) { try rig.ring(program, Self.arguments) }
        #expect(error?.code == .label && error?.command != nil)
    }

    @Test("chunks out of order and unfinished sums are refused")
    func chunkOrder() throws {
        func run(_ chunks: [Range<Int>]) throws {
            var builder = ProgramBuilder()
            let a = builder.buffer(2100 * 4)
            let stack = builder.buffer(Program.tileStackBytes(totalRows: 2100, rows: 1, columns: 1))
            let sum = builder.buffer(4)
            for chunk in chunks {
                builder.add(
                    .tileColumnSum(
                        TileColumnSum(
                            a: Matrix(a, stride: 1), columns: 1, firstRow: chunk.lowerBound, rows: chunk.count,
                            totalRows: 2100, stack: stack)), reads: [a], writes: [stack])
            }
            builder.add(
                .tileFinish(TileFinish(stack: stack, totalRows: 2100, count: 1, target: sum)), reads: [stack],
                writes: [sum])
            let rig = try Rig(memoryBytes: builder.memory)
            _ = try rig.ring(try rig.load(builder.program), Self.arguments)
        }
        try run([0..<1024, 1024..<2100])
        try run([0..<1024, 1024..<1500, 1500..<2048, 2048..<2100])
        for chunks in [
            [1024..<2100], [0..<1024], [0..<1024, 2048..<2100], [1024..<2100, 0..<1024], [0..<500, 600..<1024], [],
        ] {
            let error = #expect(throws: ExecutorError.self) { try run(chunks) }
            #expect(error?.code == .chunkOrder)
        }
    }

    @Test("a program larger than the device's memory is refused before it runs")
    func tooLarge() throws {
        let rig = try Rig(memoryBytes: 4096)
        var builder = ProgramBuilder()
        _ = builder.buffer(4097)
        let error = #expect(throws: ProgramError.self) { try rig.load(builder.program) }
        #expect(error?.code == .outOfBounds)
    }

    @Test("an unknown program, too many of them and a run called off are refused")
    func refusals() throws {
        let rig = try Rig(memoryBytes: 4096)
        #expect(throws: ExecutorError.self) { try rig.ring(0, Self.arguments) }
        var builder = ProgramBuilder()
        let place = builder.buffer(4)
        builder.add(.fill(Fill(place, count: 1)), writes: [place])
        for _ in 0..<ProgramExecutor.programsMax { _ = try rig.load(builder.program) }
        let many = #expect(throws: ExecutorError.self) { try rig.load(builder.program) }
        #expect(many?.code == .program)
        _ = try rig.ring(0, Self.arguments)
        rig.executor.cancel()
        let cancelled = #expect(throws: ExecutorError.self) { try rig.ring(0, Self.arguments) }
        #expect(cancelled?.code == .cancelled)
    }

    @Test("no change of a program's bytes makes the device leave its memory", arguments: [101, 102] as [UInt64])
    func mutated(seed: UInt64) throws {
        let gcn = SmallGCN(nodes: 40, seed: seed)
        let layout = gcn.program(chunkRows: 40)
        let tail = 65_536
        // Filled once by the whole program; the mutants then compute on what they find.
        let whole = try Rig(memoryBytes: layout.memoryBytes)
        try gcn.seal(into: whole)
        _ = try whole.ring(try whole.load(layout.program), Self.arguments)
        let contents = whole.memory.withBytes { Array($0) }
        var program = layout.program
        program.commands = program.commands.filter { $0.operation.queue == .compute }
        for index in program.commands.indices { program.commands[index].dependsOn = [] }
        program.windows = []
        // Every buffer reaches to the end, so that many a changed shape still fits.
        for index in program.buffers.indices {
            program.buffers[index].byteCount = layout.memoryBytes - program.buffers[index].offset
        }
        let bytes = try program.bytes()
        // Only commands change: with other buffers the tail would be theirs to write.
        let commandsStart = try Program(buffers: program.buffers).bytes().count
        var random = SeededRandom(seed: seed)
        var (ran, refused) = (0, 0)
        func freshRig() throws -> Rig {
            let rig = try Rig(memoryBytes: layout.memoryBytes + tail)
            rig.memory.withBytes { memory in
                memory.copyBytes(from: contents)
                memory[layout.memoryBytes...].copyBytes(from: [UInt8](repeating: 0xA5, count: tail))
            }
            return rig
        }
        var rig = try freshRig()
        for _ in 0..<5000 {
            var changed = bytes
            for _ in 0..<Int.random(in: 1...2, using: &random) {
                let at = Int.random(in: commandsStart..<changed.count, using: &random)
                switch UInt8.random(in: 0...3, using: &random) {
                case 0: changed[at] = UInt8.random(in: 0...255, using: &random)
                case 1: changed[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 2: changed[at] &+= 4
                default: changed[at] &-= 1
                }
            }
            guard let number = try? rig.executor.load(changed) else {
                refused += 1
                continue
            }
            ran += 1
            // It may end well or in an error; it must end, inside its memory.
            _ = try? rig.executor.ring(number, try Self.arguments.bytes)
            if ran % ProgramExecutor.programsMax == 0 {
                rig.memory.withBytes { memory in
                    #expect(memory[layout.memoryBytes...].allSatisfy { $0 == 0xA5 }, "seed \(seed)")
                }
                rig = try freshRig()
            }
        }
        #expect(ran > 300 && refused > 1000, "seed \(seed): \(ran) ran, \(refused) refused")
    }

    private static let arguments = DoorbellArguments(
        seed: 1, epoch: 0, step: 1, learningRate: 0.01, flags: [.first, .train, .evaluate, .export])
}
