import FabricProtocol
import Foundation
import LocalTraining
import Vocabulary

/// Seconds of single operations of the device, asked for line by line, so that a script can interleave them with other
/// libraries' on the same graph and shapes: `spmm WIDTH`, `nn INNER COLUMNS`, `tn INNER COLUMNS`, `copy`,
/// `forward HEADS WIDTH`, `backward HEADS WIDTH`, and `rates` for what the device measures of itself.
///
/// With one thread the seconds are the process's own processor time, which a busy machine does not change.
final class KernelBench {
    private let pointers: [UInt64]
    private let columns: [UInt32]
    private let threads: Int
    /// Memory and programs of the last shape asked for.
    private var kept: (question: String, rig: LocalKernels, program: UInt32)?
    private var nodes: Int { pointers.count - 1 }
    /// Rows of the dense products.
    private static let tallRows = 65_536

    init(_ arguments: [String]) throws {
        var arguments = arguments
        threads = Bench.option("--threads", &arguments) ?? 2
        guard arguments.count == 1 else { throw BenchError(reason: "name the folder of the graph") }
        let folder = URL(fileURLWithPath: arguments[0], isDirectory: true)
        func array<Element>(_ name: String, of type: Element.Type) throws -> [Element] {
            try Data(contentsOf: folder.appendingPathComponent(name)).withUnsafeBytes {
                Array($0.bindMemory(to: Element.self))
            }
        }
        pointers = try array("indptr.bin", of: UInt64.self)
        columns = try array("indices.bin", of: UInt32.self)
    }

    func serve() throws {
        while let line = readLine() {
            print(try answer(line))
            fflush(nil)
        }
    }

    private func answer(_ question: String) throws -> String {
        if kept?.question != question {
            // One shape's memory at a time.
            kept = nil
            let (rig, program) = try prepare(question.split(separator: " ").map(String.init))
            _ = try rig.ring(program)
            kept = (question, rig, program)
        }
        let (_, rig, program) = kept!
        let start = seconds()
        let completion = try rig.ring(program)
        let spent = seconds() - start
        guard let rates = completion.rates else { return "{\"seconds\": \(spent)}" }
        return """
            {"seconds": \(spent), "copyBytes": \(rates.copyBytesPerSecond), \
            "wideGatherBytes": \(rates.wideGatherBytesPerSecond), \
            "narrowGatherBytes": \(rates.narrowGatherBytesPerSecond), "productFlops": \(rates.productFlops), \
            "tileProductFlops": \(rates.tileProductFlops), "dropElements": \(rates.dropElementsPerSecond), \
            "mapElements": \(rates.mapElementsPerSecond), \
            "scoredEdges": \(rates.scoredEdgesPerSecond), "attendedEdges": \(rates.attendedEdgesPerSecond), \
            "lossElements": \(rates.lossElementsPerSecond), "commandSeconds": \(1 / rates.commandsPerSecond), \
            "openBytes": \(rates.openBytesPerSecond)}
            """
    }

    private func seconds() -> Double {
        var time = timespec()
        clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }

    private func prepare(_ words: [String]) throws -> (LocalKernels, UInt32) {
        let numbers = words.dropFirst().compactMap { Int($0) }
        switch (words.first, numbers.count) {
        case ("spmm", 1): return try spmm(numbers[0])
        case ("nn", 2): return try dense(numbers[0], numbers[1], transposed: false)
        case ("tn", 2): return try dense(numbers[0], numbers[1], transposed: true)
        case ("forward", 2): return try attention(numbers[0], numbers[1], backward: false)
        case ("backward", 2): return try attention(numbers[0], numbers[1], backward: true)
        case ("copy", 0):
            var layout = Layout()
            let (rows, width) = (1 << 15, 1 << 10)
            let (source, target) = (layout.matrix(rows, width), layout.matrix(rows, width))
            layout.add(.copy(Copy(source: source, target: target, rows: rows, columns: width)))
            return try load(layout)
        case ("rates", 0):
            var layout = Layout()
            let bytes = 1 << 28
            layout.add(.measure(Measure(place: layout.place(bytes), byteCount: bytes)))
            return try load(layout)
        default: throw BenchError(reason: "unknown question: \(words.joined(separator: " "))")
        }
    }

    private func spmm(_ width: Int) throws -> (LocalKernels, UInt32) {
        var layout = Layout()
        let neighbours = graph(&layout)
        let (source, target) = (layout.matrix(nodes, width), layout.matrix(nodes, width))
        layout.add(
            .aggregate(
                Aggregate(
                    neighbours: neighbours, source: source, sourceFirstRow: 0, sourceRows: nodes, target: target,
                    width: width, accumulates: false)))
        return try load(layout)
    }

    private func dense(_ inner: Int, _ columns: Int, transposed: Bool) throws -> (LocalKernels, UInt32) {
        let rows = Self.tallRows
        var layout = Layout()
        let a = layout.matrix(rows, inner)
        if transposed {
            let b = layout.matrix(rows, columns)
            let stack = layout.place(Program.tileStackBytes(totalRows: rows, rows: inner, columns: columns))
            let sum = layout.place(inner * columns * 4)
            layout.add(
                .tileProduct(
                    TileProduct(
                        a: a, b: b, m: inner, n: columns, firstRow: 0, rows: rows, totalRows: rows, stack: stack)))
            layout.add(.tileFinish(TileFinish(stack: stack, totalRows: rows, count: inner * columns, target: sum)))
        } else {
            let (b, c) = (layout.matrix(inner, columns), layout.matrix(rows, columns))
            layout.add(.product(Product(a: a, b: b, c: c, rows: rows, columns: columns, inner: inner)))
        }
        return try load(layout)
    }

    private func attention(_ heads: Int, _ headWidth: Int, backward: Bool) throws -> (LocalKernels, UInt32) {
        var layout = Layout()
        let neighbours = graph(&layout)
        let attention = Attention(heads: heads, headWidth: headWidth, slope: 0.2)
        let width = attention.width
        // Scores, highest, inverse and dots of a target side by side.
        let numbers = layout.matrix(nodes, 4 * heads)
        func part(_ index: Int) -> Matrix {
            Matrix(Place(buffer: numbers.place.buffer, offset: index * heads * 4), stride: 4 * heads)
        }
        let targets = AttentionTargets(scores: part(0), highest: part(1), inverse: part(2))
        let sourceScores = layout.matrix(nodes, heads)
        let (source, output) = (layout.matrix(nodes, width), layout.matrix(nodes, width))
        let forward: [FabricProtocol.Operation] = [
            .attentionScale(
                AttentionScale(
                    attention: attention, neighbours: neighbours, targets: targets, sourceScores: sourceScores)),
            .attend(
                Attend(
                    attention: attention, neighbours: neighbours, targets: targets, sourceScores: sourceScores,
                    source: source, sourceFirstRow: 0, sourceRows: nodes, target: output, accumulates: false)),
        ]
        guard backward else {
            for operation in forward { layout.add(operation) }
            return try load(layout)
        }
        let (gradient, sourceGradient) = (layout.matrix(nodes, width), layout.matrix(nodes, width))
        let (ofTargets, ofSources) = (layout.matrix(nodes, heads), layout.matrix(nodes, heads))
        let leaked = layout.matrix(nodes, width)
        layout.add(
            .headDots(
                HeadDots(
                    x: gradient, y: .rows(output), target: part(3), rows: nodes, heads: heads, headWidth: headWidth)))
        for end in AttentionGradient.End.allCases {
            layout.add(
                .attentionGradient(
                    AttentionGradient(
                        attention: attention, rowsAre: end, neighbours: neighbours, otherFirstRow: 0, otherRows: nodes,
                        targets: targets, sourceScores: sourceScores,
                        scores: AttentionGradient.Scores(
                            dots: part(3), gradient: end == .targets ? ofTargets : ofSources),
                        sums: AttentionGradient.Sums(
                            other: end == .targets ? source : gradient, leaked: leaked,
                            weighed: end == .sources ? sourceGradient : nil), accumulates: false)))
            layout.add(
                .headDots(
                    HeadDots(
                        x: end == .targets ? gradient : source, y: .rows(leaked),
                        target: end == .targets ? ofTargets : ofSources, rows: nodes, heads: heads,
                        headWidth: headWidth, accumulates: true)))
        }
        // The scalars that the gradient reads are the forward pass's.
        let rig = try filled(layout)
        var first = layout.program
        first.commands = forward.map { Program.Command($0) }
        _ = try rig.ring(try rig.load(first))
        return (rig, try rig.load(layout.program))
    }

    private func graph(_ layout: inout Layout) -> Neighbours {
        Neighbours(
            rowPointers: layout.place(pointers.count * 8), columns: layout.place(columns.count * 4), edgeBase: 0,
            edges: columns.count, firstRow: 0, rows: nodes, nodes: nodes)
    }

    private func load(_ layout: Layout) throws -> (LocalKernels, UInt32) {
        let rig = try filled(layout)
        return (rig, try rig.load(layout.program))
    }

    /// Memory with numbers between −1 and 1 everywhere, and the graph where the layout begins with one.
    private func filled(_ layout: Layout) throws -> LocalKernels {
        let rig = try LocalKernels(memoryBytes: layout.byteCount, threads: threads)
        rig.withMemory { memory in
            var state: UInt32 = 1
            for index in memory.bindMemory(to: Float.self).indices {
                state = state &* 1_664_525 &+ 1_013_904_223
                memory.storeBytes(
                    of: Float(Int32(bitPattern: state)) * 0x1p-31, toByteOffset: 4 * index, as: Float.self)
            }
            guard let first = layout.program.buffers.first, first.byteCount == pointers.count * 8 else { return }
            pointers.withUnsafeBytes { memory.copyMemory(from: $0) }
            let second = layout.program.buffers[1].offset
            columns.withUnsafeBytes {
                UnsafeMutableRawBufferPointer(rebasing: memory[second...]).copyMemory(from: $0)
            }
        }
        return rig
    }
}

/// Buffers one after the other, and commands in their order.
private struct Layout {
    private(set) var program = Program()
    private(set) var byteCount = 0

    mutating func place(_ bytes: Int) -> Place {
        program.buffers.append(Program.Buffer(offset: byteCount, byteCount: bytes))
        byteCount += (bytes + 4095) / 4096 * 4096
        return Place(buffer: UInt16(program.buffers.count - 1))
    }
    mutating func matrix(_ rows: Int, _ columns: Int) -> Matrix { Matrix(place(rows * columns * 4), stride: columns) }
    mutating func add(_ operation: FabricProtocol.Operation) { program.commands.append(Program.Command(operation)) }
}
