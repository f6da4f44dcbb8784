import DeviceNode
import FabricProtocol
import TestSupport
import Testing

@Suite("Commands that follow each other by rows")
struct RowRunTests {
    private static let rows = 700
    private static let matrixBytes = 1 << 19

    @Test(
        "whatever operands of row-local commands share, threads that go on block by block change no bit",
        arguments: 1...40 as ClosedRange<UInt64>)
    func bits(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let program = try Self.program(&random)
        let follows = try program.checked(memoryBytes: 1 << 21).followsByRows
        #expect(follows.first == false)
        var results: [[UInt8]] = []
        for threads in [1, 3] {
            let rig = try Rig(memoryBytes: 1 << 21, threads: threads)
            rig.memory.withBytes { Self.fill($0, seed) }
            let number = try rig.executor.load(program.bytes())
            let arguments = DoorbellArguments(seed: 5, epoch: 3, step: 1, learningRate: 1, flags: [])
            _ = try rig.executor.ring(number, arguments.bytes)
            results.append(rig.memory.withBytes { Array($0[..<Self.matrixBytes]) })
        }
        #expect(results[0] == results[1], "seed \(seed), follows \(follows)")
    }

    @Test("only what is shared row by row lets a command follow")
    func rules() throws {
        let place = { (offset: Int) in Place(buffer: 0, offset: offset) }
        let matrix = { (offset: Int, stride: Int) in Matrix(place(offset), stride: stride) }
        func map(_ source: Matrix, _ target: Matrix, columns: Int = 4, rows: Int = 700, _ steps: [Step] = [])
            -> FabricProtocol.Operation
        { .map(RowMap(source: source, target: target, rows: rows, columns: columns, steps: steps)) }
        let first = map(matrix(0, 4), matrix(65_536, 8))
        let product = { (a: Matrix, b: Matrix) in
            FabricProtocol.Operation.product(
                Product(a: a, b: b, c: matrix(262_144, 4), rows: 700, columns: 4, inner: 4))
        }
        let cases: [(FabricProtocol.Operation, Bool, String)] = [
            (map(matrix(65_536, 8), matrix(131_072, 4)), true, "it reads the rows that were written"),
            (map(matrix(131_072, 4), matrix(65_552, 8)), true, "it writes the other columns of these rows"),
            (map(matrix(65_536, 8), matrix(0, 4)), true, "it writes the rows that were read"),
            (map(matrix(65_536 + 32, 8), matrix(131_072, 4), rows: 699), false, "other rows"),
            (map(matrix(65_536 + 32, 8), matrix(131_072, 4)), false, "the rows after those"),
            (map(matrix(65_536, 4), matrix(131_072, 4)), false, "another stride"),
            (map(matrix(131_072, 4), matrix(65_536 + 16, 4)), false, "written across"),
            (map(matrix(131_072, 4), matrix(196_608, 4), [.bias(place(65_536))]), false, "a bias that was written"),
            (
                map(matrix(131_072, 4), matrix(196_608, 4), [.scaleRows(place(65_536))]), false,
                "factors of rows that were written"
            ),
            (map(matrix(131_072, 4), matrix(196_608, 4), [.add(matrix(65_536, 8))]), true, "rows that are added"),
            (product(matrix(65_536, 8), matrix(131_072, 4)), true, "the left factor"),
            (product(matrix(131_072, 4), matrix(65_536, 8)), false, "the right factor"),
            (.fill(Fill(place(400_000), count: 4)), false, "not row by row"),
        ]
        for (second, wanted, why) in cases {
            let program = Program(
                buffers: [Program.Buffer(offset: 0, byteCount: 1 << 19)],
                commands: [Program.Command(first), Program.Command(second), Program.Command(first)])
            let follows = try program.checked(memoryBytes: 1 << 19).followsByRows
            #expect(follows[1] == wanted, "\(why)")
        }
    }

    /// Commands on matrices that often share rows, now and then a part of them, and a graph behind these.
    private static func program(_ random: inout SeededRandom) throws -> Program {
        let topology = (pointers: Place(buffer: 1), columns: Place(buffer: 2))
        var program = Program(buffers: [
            Program.Buffer(offset: 0, byteCount: matrixBytes),
            Program.Buffer(offset: matrixBytes, byteCount: (rows + 1) * 8),
            Program.Buffer(offset: 1 << 20, byteCount: rows * 2 * 4),
        ])
        let frames = (0..<5).map { _ in
            (
                offset: Int.random(in: 0..<matrixBytes / 8, using: &random) / 32 * 128,
                stride: 8 * Int.random(in: 1...3, using: &random)
            )
        }
        func matrix(_ columns: Int) -> Matrix {
            let frame = frames.randomElement(using: &random)!
            let column = Int.random(in: 0...frame.stride - columns, using: &random)
            let shift = Int.random(in: 0..<6, using: &random) == 0 ? frame.stride : 0
            return Matrix(Place(buffer: 0, offset: frame.offset + 4 * (column + shift)), stride: frame.stride)
        }
        while program.commands.count < 14 {
            let columns = Int.random(in: 1...6, using: &random)
            let operation: FabricProtocol.Operation =
                switch Int.random(in: 0..<6, using: &random) {
                case 0:
                    .product(
                        Product(
                            a: matrix(4), b: matrix(columns), c: matrix(columns), rows: rows, columns: columns,
                            inner: 4, accumulates: Bool.random(using: &random), steps: [.scale(0.25)]))
                case 1:
                    .headDots(
                        HeadDots(
                            x: matrix(6), y: .rows(matrix(6)), target: matrix(2), rows: rows, heads: 2, headWidth: 3))
                case 2:
                    .aggregate(
                        Aggregate(
                            neighbours: Neighbours(
                                rowPointers: topology.pointers, columns: topology.columns, edgeBase: 0, edges: 2 * rows,
                                firstRow: 0, rows: rows, nodes: rows), source: matrix(columns), sourceFirstRow: 0,
                            sourceRows: rows, target: matrix(columns), width: columns, accumulates: false))
                default:
                    .map(
                        RowMap(
                            source: matrix(columns), target: matrix(columns), rows: rows, columns: columns,
                            steps: [
                                .add(matrix(columns)), .relu,
                                .dropout(Dropout(probability: 0.25, stream: 2)), .scale(0.5),
                            ]))
                }
            // What one command may not share is another test's.
            var alone = program
            alone.commands = [Program.Command(operation)]
            guard (try? alone.checked(memoryBytes: 1 << 21)) != nil else { continue }
            program.commands.append(Program.Command(operation))
        }
        return program
    }

    private static func fill(_ memory: UnsafeMutableRawBufferPointer, _ seed: UInt64) {
        var random = SeededRandom(seed: seed + 1000)
        let values = memory.bindMemory(to: Float.self)
        for index in 0..<matrixBytes / 4 { values[index] = Float.random(in: -1...1, using: &random) }
        for row in 0...rows {
            memory.storeBytes(of: UInt64(2 * row), toByteOffset: matrixBytes + 8 * row, as: UInt64.self)
        }
        for row in 0..<rows {
            let ends = [UInt32((row * 7 + 3) % rows), UInt32((row * 11 + 5) % rows)]
            let (low, high) =
                ends[0] == ends[1]
                ? (ends[0] == 0 ? 0 : ends[0] - 1, ends[0] == 0 ? 1 : ends[0])
                : (min(ends[0], ends[1]), max(ends[0], ends[1]))
            memory.storeBytes(of: low, toByteOffset: 1 << 20 | 8 * row, as: UInt32.self)
            memory.storeBytes(of: high, toByteOffset: 1 << 20 | 8 * row + 4, as: UInt32.self)
        }
    }
}
