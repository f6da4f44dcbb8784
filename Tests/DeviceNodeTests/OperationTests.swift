import DeviceNode
import FabricProtocol
import TestSupport
import Testing
import Vocabulary

/// Operations through the executor's front door that a small GCN does not use.
@Suite struct OperationTests {
    @Test("an attention layer has the same bits for any chunk and any number of threads, and float64's numbers")
    func attention() throws {
        var random = SeededRandom(seed: 9)
        let graph = Reference.Graph(random: 2500, edges: 12_000, using: &random)
        let one = AttentionCase(graph: graph, heads: 4, headWidth: 8, drop: nil, using: &random)
        let exact = one.forward(one.t.values.map(Double.init), one.s.values.map(Double.init), one.z.values)
        var first: [[Float]]?
        for (chunkRows, threads) in [(2500, 1), (2500, 3), (1024, 2), (700, 1)] {
            let got = try run(one, chunkRows: chunkRows, threads: threads)
            #expect(zip(got[0], exact).allSatisfy { abs(Double($0) - $1) < 2e-5 })
            #expect(got[1...].allSatisfy { $0.contains { $0 != 0 } })
            if let first { #expect(got == first, "chunks of \(chunkRows), \(threads) threads") }
            first = got
        }
    }

    @Test("no change of an attention's commands makes the device leave its memory", arguments: [7, 8] as [UInt64])
    func mutated(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let graph = Reference.Graph(random: 30, edges: 80, using: &random)
        let one = AttentionCase(graph: graph, heads: 3, headWidth: 5, drop: nil, using: &random)
        let layer = try AttentionLayer(one, chunkRows: 30)
        var program = layer.program
        for index in program.buffers.indices {
            program.buffers[index].byteCount = layer.memoryBytes - program.buffers[index].offset
        }
        let bytes = try program.bytes()
        let commandsStart = try Program(buffers: program.buffers).bytes().count
        let tail = 65_536
        var (ran, refused) = (0, 0)
        for _ in 0..<400 {
            let rig = try Rig(memoryBytes: layer.memoryBytes + tail)
            layer.fill(rig)
            rig.memory.withBytes { memory in
                memory[layer.memoryBytes...].copyBytes(from: [UInt8](repeating: 0xA5, count: tail))
            }
            for _ in 0..<ProgramExecutor.programsMax {
                var changed = bytes
                let at = Int.random(in: commandsStart..<changed.count, using: &random)
                changed[at] &+= [1, 2, 4, 255, 16].randomElement(using: &random)!
                guard let number = try? rig.executor.load(changed) else {
                    refused += 1
                    continue
                }
                ran += 1
                _ = try? rig.executor.ring(number, try Self.arguments([]).bytes)
            }
            rig.memory.withBytes { memory in
                #expect(memory[layer.memoryBytes...].allSatisfy { $0 == 0xA5 }, "seed \(seed)")
            }
        }
        #expect(ran > 300 && refused > 1000, "seed \(seed): \(ran) ran, \(refused) refused")
    }

    /// Output, and the gradients of target scores, source scores and features.
    private func run(_ one: AttentionCase, chunkRows: Int, threads: Int) throws -> [[Float]] {
        let layer = try AttentionLayer(one, chunkRows: chunkRows)
        let rig = try Rig(memoryBytes: layer.memoryBytes, threads: threads)
        layer.fill(rig)
        _ = try rig.ring(try rig.load(layer.program), Self.arguments([]))
        return zip(layer.outputs, [one.width, one.heads, one.heads, one.width]).map {
            rig.floats(at: layer.offset($0), count: one.nodes * $1)
        }
    }

    @Test("two products into the same sums have the same bits, one after the other or joined")
    func joinedProducts() throws {
        func run(apart: Bool) throws -> [Float] {
            var builder = ProgramBuilder()
            let (a, b, c) = (builder.buffer(200 * 24 * 4), builder.buffer(24 * 40 * 4), builder.buffer(200 * 40 * 4))
            let other = builder.buffer(4)
            builder.add(.initialise(Initialise(target: Matrix(a, stride: 24), rows: 200, columns: 24, stream: 1)))
            builder.add(.initialise(Initialise(target: Matrix(b, stride: 40), rows: 24, columns: 40, stream: 2)))
            func product(_ a: Place, rows: Int, accumulates: Bool, steps: [Step] = []) -> FabricProtocol.Operation {
                .product(
                    Product(
                        a: Matrix(a, stride: 24), b: Matrix(b, stride: 40), c: Matrix(c, stride: 40), rows: rows,
                        columns: 40, inner: 24, accumulates: accumulates, steps: steps))
            }
            builder.add(product(a, rows: 200, accumulates: false))
            if apart { builder.add(.fill(Fill(other, count: 1))) }
            builder.add(product(a, rows: 200, accumulates: true, steps: [.relu]))
            // A third that is not of one shape, and one whose flags leave it out.
            builder.add(product(a, rows: 100, accumulates: true))
            builder.add(product(a, rows: 100, accumulates: true), with: .export)
            let rig = try Rig(memoryBytes: builder.memory, threads: 2)
            let completion = try rig.ring(try rig.load(builder.program), Self.arguments([]))
            #expect(completion.work.byOperation[7] > 0)
            return rig.floats(at: builder.program.buffers[Int(c.buffer)].offset, count: 200 * 40)
        }
        let together = try run(apart: false)
        #expect(try run(apart: true) == together)
        #expect(together.contains { $0 > 0 })
    }

    @Test("a run resumed from its checkpoint goes on with the bits it would have had")
    func checkpoint() throws {
        let count = 37
        var builder = ProgramBuilder()
        builder.window(12, .state, 3 * count * 4)
        builder.window(30, .result, 3 * count * 4)
        // Parameters and moments, one after the other.
        let kept = builder.buffer(3 * count * 4)
        let gradient = builder.buffer(count * 4)
        func part(_ index: Int) -> Place { Place(buffer: kept.buffer, offset: index * count * 4) }
        builder.add(.fill(Fill(kept, count: 3 * count)), writes: [kept], with: .first)
        builder.add(
            .initialise(Initialise(target: Matrix(kept, stride: count), rows: 1, columns: count, stream: 2)),
            writes: [kept], with: .first)
        builder.add(
            .fetch(Transfer(window: 12, windowOffset: 0, byteCount: 3 * count * 4, place: kept)), with: .resume)
        builder.add(
            .map(
                RowMap(
                    source: Matrix(kept, stride: count), target: Matrix(gradient, stride: count), rows: 1,
                    columns: count, steps: [.scale(2), .dropout(Dropout(probability: 0.5, stream: 1))])),
            reads: [kept], writes: [gradient], with: .train)
        builder.add(
            .adam(
                Adam(
                    parameter: part(0), gradient: gradient, firstMoment: part(1), secondMoment: part(2), count: count,
                    weightDecay: 0.1)), reads: [gradient], writes: [kept], with: .train)
        builder.add(
            .store(Transfer(window: 30, windowOffset: 0, byteCount: 3 * count * 4, place: kept)), with: .checkpoint)
        func epoch(_ rig: Rig, _ program: UInt32, _ epoch: UInt32, _ flags: DoorbellFlags) throws -> Completion {
            try rig.ring(
                program,
                DoorbellArguments(
                    seed: 3, epoch: epoch, step: epoch + 1, learningRate: 0.05, flags: flags.union(.train)))
        }
        let straight = try Rig(memoryBytes: builder.memory)
        var program = try straight.load(builder.program)
        var checkpoint: [UInt8] = []
        for number in 0..<6 as Range<UInt32> {
            let flags: DoorbellFlags = number == 0 ? .first : number == 2 ? .checkpoint : []
            let completion = try epoch(straight, program, number, flags)
            if number == 2 { checkpoint = try straight.openResult(completion.sealed, window: 30) }
        }
        let resumed = try Rig(memoryBytes: builder.memory)
        try resumed.sealState(checkpoint, window: 12)
        program = try resumed.load(builder.program)
        for number in 3..<6 as Range<UInt32> { _ = try epoch(resumed, program, number, number == 3 ? .resume : []) }
        let expected = straight.floats(at: 0, count: 3 * count)
        #expect(resumed.floats(at: 0, count: 3 * count) == expected)
        #expect(expected.allSatisfy { $0 != 0 })
    }

    @Test("the best parameters by micro-F1 are kept, and a completion carries its counts")
    func microF1() throws {
        let (rows, classes) = (40, 5)
        var builder = ProgramBuilder()
        let outputs = builder.buffer(rows * classes * 4)
        let (bits, split, total) = (builder.buffer(rows), builder.buffer(rows), builder.buffer(8))
        let (scores, state) = (builder.buffer(Scores.byteCount), builder.buffer(KeepBest.stateBytes))
        let best = builder.buffer(rows * classes * 4)
        builder.add(
            .labelWeight(
                LabelWeight(
                    targets: .bits(bits), split: split, rows: rows, classes: classes, total: total,
                    accumulates: false)))
        builder.add(
            .loss(
                Loss(
                    outputs: Matrix(outputs, stride: classes), targets: .bits(bits), split: split, firstRow: 0,
                    rows: rows, totalRows: rows, classes: classes, total: total, gradient: nil, scores: scores)))
        builder.add(
            .keepBest(
                KeepBest(
                    scores: scores, rule: .microF1, parameters: outputs, best: best, count: rows * classes,
                    state: state)))
        builder.add(.report(Report(scores: scores, totalRows: rows, slot: 1)))
        let rig = try Rig(memoryBytes: builder.memory)
        func set(_ right: Int) {
            rig.memory.withBytes { memory in
                for row in 0..<rows {
                    // Class 0 of every row is so; the first rows are predicted, the others say class 1.
                    memory[builder.program.buffers[Int(bits.buffer)].offset + row] = 1
                    memory[builder.program.buffers[Int(split.buffer)].offset + row] = row < 4 ? 1 : 2
                    for column in 0..<classes {
                        memory.storeBytes(
                            of: column == (row < right ? 0 : 1) ? 1 : -1, toByteOffset: (row * classes + column) * 4,
                            as: Float.self)
                    }
                }
            }
        }
        let program = try rig.load(builder.program)
        var improved: [Bool] = []
        for (epoch, right) in [20, 10, 20, 30].enumerated() {
            set(right)
            let completion = try rig.ring(program, Self.arguments([], epoch: UInt32(epoch)))
            let figures = try #require(completion.scores.first).validation
            #expect(figures.correct == UInt64(right - 4) && figures.predicted == 36 && figures.actual == 36)
            #expect(abs(figures.microF1 - Double(right - 4) / 36) < 1e-12)
            #expect(figures.weight == Double(36 * classes))
            improved.append(try #require(completion.best).improved)
        }
        #expect(improved == [true, false, false, true])
    }

    @Test("a device says how fast it is")
    func rates() throws {
        var builder = ProgramBuilder()
        let bytes = 1 << 23
        builder.add(.measure(Measure(place: builder.buffer(bytes), byteCount: bytes)))
        let rig = try Rig(memoryBytes: builder.memory, threads: 2)
        let rates = try #require(try rig.ring(try rig.load(builder.program), Self.arguments([])).rates)
        for rate in Completion.Rates.perSecond {
            #expect(rates[keyPath: rate] > 1 && rates[keyPath: rate] < 1e16, "\(rate)")
        }
        #expect(rates.threads == 2 && rates.cores > 0)
        let small = Program(
            buffers: [Program.Buffer(offset: 0, byteCount: Measure.byteCountMin)],
            commands: [
                Program.Command(
                    .measure(Measure(place: Place(buffer: 0), byteCount: Measure.byteCountMin - 1)))
            ])
        #expect(throws: ProgramError.self) { try small.checked(memoryBytes: 1 << 24) }
        // The least it accepts is enough for it.
        let least = try Rig(memoryBytes: Measure.byteCountMin + 4096)
        let whole = Program(
            buffers: small.buffers,
            commands: [
                Program.Command(.measure(Measure(place: Place(buffer: 0), byteCount: Measure.byteCountMin)))
            ])
        _ = try least.ring(try least.load(whole), Self.arguments([]))
        least.memory.withBytes { memory in
            #expect(memory[Measure.byteCountMin...].allSatisfy { $0 == 0 })
        }
    }

    private static func arguments(_ flags: DoorbellFlags, epoch: UInt32 = 0) -> DoorbellArguments {
        DoorbellArguments(seed: 1, epoch: epoch, step: 1, learningRate: 0, flags: flags)
    }
}

/// One attention layer, forward and backward, as commands over chunks of its rows, with everything in device memory.
private struct AttentionLayer {
    let one: AttentionCase
    let program: Program
    let memoryBytes: Int
    /// The output, and the gradients of target scores, source scores and features.
    let outputs: [Place]
    private let pointers, columns, numbers, sourceScores: Place
    private let features: [Place]

    init(_ one: AttentionCase, chunkRows: Int) throws {
        let (nodes, heads, width) = (one.nodes, one.heads, one.width)
        var builder = ProgramBuilder()
        let pointers = builder.buffer((nodes + 1) * 8)
        let columns = builder.buffer(one.graph.neighbours.count * 4)
        let numbers = builder.buffer(nodes * 4 * heads * 4)
        let sourceScores = builder.buffer(nodes * heads * 4)
        let features = [builder.buffer(nodes * width * 4), builder.buffer(nodes * width * 4)]
        let outputs = [width, heads, heads, width].map { builder.buffer(nodes * $0 * 4) }
        let leaked = builder.buffer(nodes * width * 4)
        let attention = Attention(heads: heads, headWidth: one.headWidth, slope: 0.2)
        let chunks = stride(from: 0, to: nodes, by: chunkRows).map { $0..<min($0 + chunkRows, nodes) }
        func rows(_ place: Place, _ first: Int, _ width: Int, column: Int = 0, columns: Int? = nil) -> Matrix {
            let stride = columns ?? width
            return Matrix(Place(buffer: place.buffer, offset: (first * stride + column) * 4), stride: stride)
        }
        func number(_ index: Int, _ first: Int) -> Matrix {
            rows(numbers, first, heads, column: index * heads, columns: 4 * heads)
        }
        func targets(_ first: Int) -> AttentionTargets {
            AttentionTargets(scores: number(0, first), highest: number(1, first), inverse: number(2, first))
        }
        func neighbours(_ chunk: Range<Int>) -> Neighbours {
            let base = Int(one.graph.pointers[chunk.lowerBound])
            return Neighbours(
                rowPointers: Place(buffer: pointers.buffer, offset: chunk.lowerBound * 8),
                columns: Place(buffer: columns.buffer, offset: base * 4), edgeBase: base,
                edges: Int(one.graph.pointers[chunk.upperBound]) - base, firstRow: chunk.lowerBound,
                rows: chunk.count, nodes: nodes)
        }
        for chunk in chunks {
            builder.add(
                .attentionScale(
                    AttentionScale(
                        attention: attention, neighbours: neighbours(chunk), targets: targets(chunk.lowerBound),
                        sourceScores: rows(sourceScores, 0, heads))))
            for source in chunks {
                builder.add(
                    .attend(
                        Attend(
                            attention: attention, neighbours: neighbours(chunk), targets: targets(chunk.lowerBound),
                            sourceScores: rows(sourceScores, source.lowerBound, heads),
                            source: rows(features[0], source.lowerBound, width), sourceFirstRow: source.lowerBound,
                            sourceRows: source.count, target: rows(outputs[0], chunk.lowerBound, width),
                            accumulates: source.lowerBound > 0)))
            }
            builder.add(
                .headDots(
                    HeadDots(
                        x: rows(features[1], chunk.lowerBound, width),
                        y: .rows(rows(outputs[0], chunk.lowerBound, width)), target: number(3, chunk.lowerBound),
                        rows: chunk.count, heads: heads, headWidth: one.headWidth)))
        }
        for end in AttentionGradient.End.allCases {
            for chunk in chunks {
                for other in chunks {
                    let isTarget = end == .targets
                    let (target, source) =
                        isTarget ? (chunk.lowerBound, other.lowerBound) : (other.lowerBound, chunk.lowerBound)
                    builder.add(
                        .attentionGradient(
                            AttentionGradient(
                                attention: attention, rowsAre: end, neighbours: neighbours(chunk),
                                otherFirstRow: other.lowerBound, otherRows: other.count, targets: targets(target),
                                sourceScores: rows(sourceScores, source, heads),
                                scores: AttentionGradient.Scores(
                                    dots: number(3, target),
                                    gradient: rows(outputs[isTarget ? 1 : 2], chunk.lowerBound, heads)),
                                sums: AttentionGradient.Sums(
                                    other: rows(features[isTarget ? 0 : 1], other.lowerBound, width),
                                    leaked: rows(leaked, chunk.lowerBound, width),
                                    weighed: isTarget ? nil : rows(outputs[3], chunk.lowerBound, width)),
                                accumulates: other.lowerBound > 0)))
                }
                builder.add(
                    .headDots(
                        HeadDots(
                            x: rows(features[end == .targets ? 1 : 0], chunk.lowerBound, width),
                            y: .rows(rows(leaked, chunk.lowerBound, width)),
                            target: rows(outputs[end == .targets ? 1 : 2], chunk.lowerBound, heads), rows: chunk.count,
                            heads: heads, headWidth: one.headWidth, accumulates: true)))
            }
        }
        self.one = one
        program = builder.program
        memoryBytes = builder.memory
        self.outputs = outputs
        (self.pointers, self.columns, self.numbers) = (pointers, columns, numbers)
        (self.sourceScores, self.features) = (sourceScores, features)
    }

    func offset(_ place: Place) -> Int { program.buffers[Int(place.buffer)].offset }

    /// Writes graph, scores, features and the output's gradient.
    func fill(_ rig: Rig) {
        let (nodes, heads) = (one.nodes, one.heads)
        func write<Element>(_ values: [Element], at place: Place) {
            rig.memory.withBytes { memory in
                values.withUnsafeBytes {
                    UnsafeMutableRawBufferPointer(rebasing: memory[offset(place)...]).copyMemory(from: $0)
                }
            }
        }
        write(one.graph.pointers, at: pointers)
        write(one.graph.neighbours, at: columns)
        write(one.s.values, at: sourceScores)
        write(one.z.values, at: features[0])
        write(one.g.values, at: features[1])
        let scores = one.t.values
        var interleaved = [Float](repeating: 0, count: nodes * 4 * heads)
        for node in 0..<nodes {
            for head in 0..<heads { interleaved[node * 4 * heads + head] = scores[node * heads + head] }
        }
        write(interleaved, at: numbers)
    }
}
