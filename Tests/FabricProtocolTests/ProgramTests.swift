import FabricProtocol
import TestSupport
import Testing
import Vocabulary

@Suite struct ProgramTests {
    // MARK: Bytes

    @Test("a program comes back from its bytes as it was")
    func roundTrip() throws {
        let program = Self.everything
        #expect(try Program(parsing: program.bytes()) == program)
        let empty = Program()
        #expect(try Program(parsing: empty.bytes()) == empty)
    }

    @Test("arguments and completions come back from their bytes as they were")
    func doorbellRoundTrip() throws {
        let arguments = DoorbellArguments(
            seed: 0xDEAD_BEEF_0123_4567, epoch: 41, step: 42, learningRate: 0.01, flags: [.train, .evaluate])
        #expect(try DoorbellArguments(parsing: arguments.bytes) == arguments)
        #expect(try Completion(parsing: Self.completion.bytes) == Self.completion)
    }

    @Test("every truncation is refused, with the place where the bytes end")
    func truncated() throws {
        for bytes in [try Self.everything.bytes(), try Self.completion.bytes] {
            for length in 0..<bytes.count {
                let prefix = Array(bytes[..<length])
                let error = #expect(throws: ProgramError.self) {
                    if bytes.count == (try Self.completion.bytes).count {
                        _ = try Completion(parsing: prefix)
                    } else {
                        _ = try Program(parsing: prefix)
                    }
                }
                #expect(error?.code == .malformed)
                #expect((error?.offset).map { $0 <= length } == true)
            }
        }
        #expect(throws: ProgramError.self) { try Program(parsing: Self.everything.bytes() + [0]) }
    }

    @Test("changed bytes are refused or are the one form of what they say", arguments: 1...4 as ClosedRange<UInt64>)
    func mutated(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let original = try Self.everything.bytes()
        let completion = try Self.completion.bytes
        var accepted = 0
        for _ in 0..<5000 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            if let program = try? Program(parsing: bytes) {
                accepted += 1
                #expect(try program.bytes() == bytes, "seed \(seed)")
                _ = try? program.checked(memoryBytes: 1 << 23)
            }
            var other = completion
            other[Int.random(in: 0..<other.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            if let completion = try? Completion(parsing: other) {
                #expect(try completion.bytes == other, "seed \(seed)")
            }
        }
        #expect(accepted > 100, "seed \(seed)")
    }

    @Test("a list that claims more than its limit is refused before anything is kept")
    func bounded() throws {
        var bytes = try Program().bytes()
        // The count of buffers follows magic and version.
        bytes.replaceSubrange(6..<10, with: [0xFF, 0xFF, 0xFF, 0xFF])
        let error = #expect(throws: ProgramError.self) { try Program(parsing: bytes) }
        #expect(error?.code == .tooLarge && error?.offset == 6)
        #expect(throws: ProgramError.self) {
            try Program(parsing: [UInt8](repeating: 0, count: Limits.programBytesMax + 1))
        }
    }

    @Test("arguments that no epoch can have are refused")
    func wrongArguments() throws {
        for arguments in [
            DoorbellArguments(seed: 0, epoch: Initialise.epoch, step: 1, learningRate: 0.1, flags: []),
            DoorbellArguments(seed: 0, epoch: 0, step: 1, learningRate: .nan, flags: []),
            DoorbellArguments(seed: 0, epoch: 0, step: 1, learningRate: -1, flags: []),
            DoorbellArguments(seed: 0, epoch: 0, step: 1, learningRate: .infinity, flags: []),
        ] {
            #expect(throws: ProgramError.self) { try DoorbellArguments(parsing: arguments.bytesOrEmpty) }
        }
    }

    // MARK: Checks

    @Test("a program in which everything fits is accepted, and says how far it reaches")
    func accepted() throws {
        let checked = try Self.everything.checked(memoryBytes: 1 << 23)
        #expect(checked.peakBytes == Self.everything.buffers.map { $0.offset + $0.byteCount }.max())
        #expect(throws: ProgramError.self) { try Self.everything.checked(memoryBytes: checked.peakBytes - 1) }
    }

    @Test("every operation that leaves its buffer by one element is refused with its number")
    func outOfBounds() throws {
        let original = Self.everything
        for index in original.commands.indices {
            // Each command gets a buffer table of its own in which one buffer is a byte short of what is used.
            for buffer in original.buffers.indices {
                var program = Program(
                    buffers: original.buffers, windows: original.windows,
                    commands: [Program.Command(original.commands[index].operation)])
                let uses = Self.reach(of: original.commands[index].operation, in: program, buffer: buffer)
                guard uses > 0 else { continue }
                program.buffers[buffer].byteCount = uses
                #expect(throws: Never.self) { try program.checked(memoryBytes: 1 << 23) }
                program.buffers[buffer].byteCount = uses - 1
                let error = #expect(throws: ProgramError.self) { try program.checked(memoryBytes: 1 << 23) }
                #expect(error?.code == .outOfBounds && error?.command == 0, "command \(index), buffer \(buffer)")
            }
        }
    }

    @Test("rows that matter are checked like any operand, and belong to operations that go over rows")
    func activeRows() throws {
        let buffers = [Program.Buffer(offset: 0, byteCount: 640), Program.Buffer(offset: 640, byteCount: 9)]
        func refusal(_ operation: FabricProtocol.Operation, _ active: Program.ActiveRows) -> ProgramError.Code? {
            let program = Program(buffers: buffers, commands: [Program.Command(operation, active: active)])
            do throws(ProgramError) {
                _ = try program.checked(memoryBytes: 1024)
                return nil
            } catch { return error.code }
        }
        let map = RowMap(
            source: Matrix(Place(buffer: 0), stride: 4), target: Matrix(Place(buffer: 0), stride: 4), rows: 9,
            columns: 4,
            steps: [])
        #expect(refusal(.map(map), Program.ActiveRows(Place(buffer: 1), bit: 7)) == nil)
        #expect(refusal(.map(map), Program.ActiveRows(Place(buffer: 1), bit: 8)) == .invalid)
        #expect(refusal(.map(map), Program.ActiveRows(Place(buffer: 1, offset: 1), bit: 0)) == .outOfBounds)
        #expect(refusal(.map(map), Program.ActiveRows(Place(buffer: 0), bit: 0)) == .invalid)
        #expect(refusal(.map(map), Program.ActiveRows(Place(buffer: 2), bit: 0)) == .outOfBounds)
        #expect(
            refusal(.fill(Fill(Place(buffer: 0), count: 4)), Program.ActiveRows(Place(buffer: 1), bit: 0)) == .invalid)
    }

    @Test("columns of one wider matrix are apart, and one column too many is not")
    func interleaved() {
        func refusal(_ columns: Int, at offset: Int, stride: Int) -> ProgramError.Code? {
            let copy = Copy(
                source: Matrix(Place(buffer: 0), stride: 12),
                target: Matrix(Place(buffer: 0, offset: offset), stride: stride), rows: 5, columns: columns)
            let program = Program(
                buffers: [Program.Buffer(offset: 0, byteCount: 4096)], commands: [Program.Command(.copy(copy))])
            do throws(ProgramError) {
                _ = try program.checked(memoryBytes: 4096)
                return nil
            } catch { return error.code }
        }
        #expect(refusal(4, at: 16, stride: 12) == nil)
        #expect(refusal(6, at: 24, stride: 12) == nil)
        #expect(refusal(4, at: 12, stride: 12) == .invalid)
        #expect(refusal(4, at: 36, stride: 12) == .invalid)
        // A row further down, at other columns.
        #expect(refusal(4, at: 48 + 32, stride: 12) == nil)
        #expect(refusal(4, at: 48 + 8, stride: 12) == .invalid)
        #expect(refusal(4, at: 16, stride: 13) == .invalid)
    }

    @Test("a number in more bytes than it takes, or without an end, is refused")
    func longNumbers() throws {
        let program = Program(buffers: [Program.Buffer(offset: 64, byteCount: 0)])
        let bytes = try program.bytes()
        let at = try #require(bytes.firstIndex(of: 64))
        for replacement in [[0xC0, 0x00], Array(repeating: UInt8(0xFF), count: 10)] as [[UInt8]] {
            var changed = bytes
            changed.replaceSubrange(at...at, with: replacement)
            let error = #expect(throws: ProgramError.self) { try Program(parsing: changed) }
            #expect(error?.code == .malformed)
        }
    }

    @Test("a dependency on a later or on the same command is refused")
    func forwardDependency() {
        var program = Program(buffers: [Program.Buffer(offset: 0, byteCount: 64)])
        let fill = FabricProtocol.Operation.fill(Fill(Place(buffer: 0), count: 1))
        for dependency in [0, 1, 7] as [UInt32] {
            program.commands = [Program.Command(fill, dependsOn: [dependency]), Program.Command(fill)]
            let error = #expect(throws: ProgramError.self) { try program.checked(memoryBytes: 64) }
            #expect(error?.code == .unordered && error?.command == 0)
        }
    }

    @Test("two commands of different queues that share bytes need an order", arguments: 1...300 as ClosedRange<UInt64>)
    func order(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let blocks = 6
        var program = Program(
            buffers: [Program.Buffer(offset: 0, byteCount: blocks * Limits.blockBytes)],
            windows: [Program.Window(id: 1, direction: .both, purpose: .spill, byteCount: blocks * Limits.blockBytes)])
        struct Touch {
            var memory: Range<Int>
            var writesMemory: Bool
            var window: Range<Int>?
            var writesWindow = false
        }
        var touches: [Touch] = []
        for index in 0..<Int.random(in: 2...14, using: &random) {
            func range() -> Range<Int> {
                let first = Int.random(in: 0..<blocks, using: &random)
                return first..<Int.random(in: first + 1...min(first + 2, blocks), using: &random)
            }
            let (memory, window) = (range(), range())
            let count = min(memory.count, window.count)
            let place = Place(buffer: 0, offset: memory.lowerBound * Limits.blockBytes)
            let transfer = Transfer(
                window: 1, windowOffset: window.lowerBound * Limits.blockBytes, byteCount: count * Limits.blockBytes,
                place: place)
            let operation: FabricProtocol.Operation
            let moved = memory.lowerBound..<memory.lowerBound + count
            let crossed = window.lowerBound..<window.lowerBound + count
            switch UInt8.random(in: 0...2, using: &random) {
            case 0:
                operation = .fetch(transfer)
                touches.append(Touch(memory: moved, writesMemory: true, window: crossed))
            case 1:
                operation = .store(transfer)
                touches.append(Touch(memory: moved, writesMemory: false, window: crossed, writesWindow: true))
            default:
                operation = .fill(Fill(place, count: memory.count * Limits.blockBytes / 4))
                touches.append(Touch(memory: memory, writesMemory: true, window: nil))
            }
            let dependsOn = (0..<UInt32(index)).filter { _ in Int.random(in: 0...3, using: &random) == 0 }
            program.commands.append(Program.Command(operation, dependsOn: dependsOn))
        }
        // Plainly: everything that is known to have ended before each command.
        var before: [Set<Int>] = []
        for (index, command) in program.commands.enumerated() {
            var ended: Set<Int> = []
            for dependency in command.dependsOn { ended.formUnion(before[Int(dependency)].union([Int(dependency)])) }
            if let last = program.commands[..<index].lastIndex(where: {
                $0.operation.queue == command.operation.queue
            }) {
                ended.formUnion(before[last].union([last]))
            }
            before.append(ended)
        }
        var firstClash: Int?
        search: for index in touches.indices {
            for earlier in 0..<index where !before[index].contains(earlier) {
                let (a, b) = (touches[earlier], touches[index])
                let memory = a.memory.overlaps(b.memory) && (a.writesMemory || b.writesMemory)
                let window =
                    a.window.flatMap { a in b.window.map { a.overlaps($0) } } == true
                    && (a.writesWindow || b.writesWindow)
                if memory || window {
                    firstClash = index
                    break search
                }
            }
        }
        do {
            _ = try program.checked(memoryBytes: blocks * Limits.blockBytes)
            #expect(firstClash == nil, "seed \(seed)")
        } catch {
            #expect(error.code == .unordered && error.command == firstClash, "seed \(seed)")
        }
    }

    @Test("shapes and numbers that no operation allows are refused")
    func invalid() {
        let matrix = Matrix(Place(buffer: 0), stride: 4)
        let other = Matrix(Place(buffer: 0, offset: 4096), stride: 4)
        let refused: [FabricProtocol.Operation] = [
            .copy(Copy(source: matrix, target: other, rows: 0, columns: 4)),
            .copy(Copy(source: matrix, target: other, rows: 2, columns: 5)),
            .copy(Copy(source: matrix, target: Matrix(Place(buffer: 0, offset: 8), stride: 4), rows: 2, columns: 4)),
            .fill(Fill(Place(buffer: 0, offset: 2), count: 1)),
            .fill(Fill(Place(buffer: 0), count: 0)),
            .map(
                RowMap(
                    source: matrix, target: matrix, rows: 2, columns: 4,
                    steps: [.dropout(Dropout(probability: 1, stream: 0))])),
            .map(RowMap(source: matrix, target: matrix, rows: 2, columns: 4, steps: [.scale(.infinity)])),
            .map(
                RowMap(
                    source: matrix, target: other, rows: 2, columns: 4, steps: [.bias(Place(buffer: 0, offset: 4100))])),
            .tileColumnSum(
                TileColumnSum(
                    a: Matrix(matrix.place, stride: 1), columns: 1, firstRow: 5, rows: 1020, totalRows: 2000,
                    stack: other.place)),
            .tileColumnSum(
                TileColumnSum(
                    a: Matrix(matrix.place, stride: 1), columns: 1, firstRow: 0, rows: 1030, totalRows: 2000,
                    stack: other.place)),
            .tileColumnSum(
                TileColumnSum(a: matrix, columns: 4, firstRow: 0, rows: 8, totalRows: 7, stack: other.place)),
            .adam(
                Adam(
                    parameter: Place(buffer: 0), gradient: Place(buffer: 0, offset: 64),
                    firstMoment: Place(buffer: 0, offset: 128), secondMoment: Place(buffer: 0, offset: 192), count: 8,
                    beta1: 1, weightDecay: 0)),
            .fetch(Transfer(window: 9, windowOffset: 0, byteCount: 4, place: Place(buffer: 0))),
            .store(Transfer(window: 1, windowOffset: 0, byteCount: 4, place: Place(buffer: 0))),
            .store(Transfer(window: 2, windowOffset: 0, byteCount: 4, place: Place(buffer: 0))),
            .fetch(Transfer(window: 2, windowOffset: Limits.blockBytes * 2 - 3, byteCount: 4, place: Place(buffer: 0))),
        ]
        for (number, operation) in refused.enumerated() {
            let program = Program(
                buffers: [Program.Buffer(offset: 0, byteCount: 8192)],
                windows: [
                    Program.Window(id: 1, direction: .read, purpose: .image(.features), byteCount: 4),
                    Program.Window(id: 2, direction: .both, purpose: .spill, byteCount: Limits.blockBytes * 2),
                ], commands: [Program.Command(operation)])
            let error = #expect(throws: ProgramError.self, "number \(number)") {
                try program.checked(memoryBytes: 8192)
            }
            #expect(error?.command == 0, "number \(number)")
        }
    }

    @Test("a window whose direction does not fit its purpose, or declared twice, is refused")
    func windows() {
        let wrong: [(Program.Window.Direction, Program.Window.Purpose)] = [
            (.write, .image(.labels)), (.both, .image(.labels)), (.read, .result), (.both, .result), (.read, .spill),
            (.write, .spill), (.write, .state), (.both, .state),
        ]
        for (direction, purpose) in wrong {
            let program = Program(windows: [
                Program.Window(id: 1, direction: direction, purpose: purpose, byteCount: 4)
            ])
            #expect(throws: ProgramError.self) { try program.checked(memoryBytes: 64) }
        }
        let window = Program.Window(id: 1, direction: .both, purpose: .spill, byteCount: 4)
        #expect(throws: ProgramError.self) { try Program(windows: [window, window]).checked(memoryBytes: 64) }
    }

    // MARK: What the tests share

    /// One command of each kind, each with buffers of its own.
    static let everything: Program = {
        var program = Program(
            windows: [
                Program.Window(id: 1, direction: .read, purpose: .image(.features), byteCount: 100_000),
                Program.Window(id: 2, direction: .both, purpose: .spill, byteCount: 65_536),
                Program.Window(id: 3, direction: .write, purpose: .result, byteCount: 640),
                Program.Window(id: 4, direction: .read, purpose: .state, byteCount: 640),
            ])
        func place() -> Place {
            let offset = (program.buffers.last.map { $0.offset + $0.byteCount } ?? 0)
            program.buffers.append(Program.Buffer(offset: offset, byteCount: 8192))
            return Place(buffer: UInt16(program.buffers.count - 1), offset: 64)
        }
        func matrix(_ stride: Int) -> Matrix { Matrix(place(), stride: stride) }
        program.buffers.append(Program.Buffer(offset: 0, byteCount: Measure.byteCountMin))
        let wide = Place(buffer: 0)
        let steps: [Step] = [
            .bias(place()), .scaleRows(place()), .scale(0.5), .relu, .reluGradient(matrix(7)),
            .dropout(Dropout(probability: 0.5, stream: 3, firstColumn: 8)), .add(matrix(9)),
            .scaleColumns(place()), .elu, .eluGradient(matrix(7)), .normalise(epsilon: 1e-5),
            .normaliseGradient(NormaliseGradient(input: matrix(8), epsilon: 1e-5)),
            .addHeads(HeadOuter(factors: matrix(4), heads: 3, vector: place())),
        ]
        let neighbours = Neighbours(
            rowPointers: place(), columns: place(), edgeBase: 100, edges: 30, firstRow: 8, rows: 3, nodes: 40)
        let attention = Attention(
            heads: 3, headWidth: 2, slope: 0.2, dropout: Dropout(probability: 0.5, stream: 5, firstColumn: 4))
        func targets() -> AttentionTargets {
            AttentionTargets(scores: matrix(3), highest: matrix(4), inverse: matrix(5))
        }
        let operations: [FabricProtocol.Operation] = [
            .fetch(Transfer(window: 1, windowOffset: 70_000, byteCount: 4000, place: place())),
            .store(Transfer(window: 3, windowOffset: 0, byteCount: 640, place: place())),
            .fill(Fill(place(), count: 12, value: -1)),
            .copy(Copy(source: matrix(8), target: matrix(9), rows: 5, columns: 6)),
            .map(RowMap(source: matrix(6), target: matrix(7), rows: 3, columns: 6, firstRow: 1024, steps: steps)),
            .aggregate(
                Aggregate(
                    neighbours: Neighbours(
                        rowPointers: place(), columns: place(), edgeBase: 100, edges: 30, firstRow: 8, rows: 3,
                        nodes: 40),
                    source: matrix(6), sourceFirstRow: 4, sourceRows: 9, target: matrix(7), width: 6,
                    accumulates: true, steps: steps)),
            .product(
                Product(
                    a: matrix(5), b: matrix(6), c: matrix(7), rows: 3, columns: 6, inner: 5, accumulates: true,
                    firstRow: 2, steps: steps)),
            .product(
                Product(a: matrix(5), b: matrix(5), c: matrix(7), rows: 3, columns: 6, inner: 5, transposesB: true)),
            .tileProduct(
                TileProduct(
                    a: matrix(3), b: matrix(4), m: 3, n: 4, firstRow: 1024, rows: 20, totalRows: 1044, stack: place())),
            .tileColumnSum(
                TileColumnSum(a: matrix(4), columns: 4, firstRow: 1024, rows: 20, totalRows: 1044, stack: place())),
            .tileFinish(TileFinish(stack: place(), totalRows: 1044, count: 12, target: place())),
            .labelWeight(
                LabelWeight(
                    targets: .classes(place()), split: place(), rows: 20, classes: 4, classWeights: place(),
                    total: place(),
                    accumulates: true)),
            .loss(
                Loss(
                    outputs: matrix(4), targets: .classes(place()), split: place(), firstRow: 0, rows: 20,
                    totalRows: 20,
                    classes: 4, classWeights: place(), total: place(), gradient: matrix(5), scores: place())),
            .adam(
                Adam(
                    parameter: place(), gradient: place(), firstMoment: place(), secondMoment: place(), count: 12,
                    weightDecay: 0.01)),
            .initialise(Initialise(target: matrix(5), rows: 4, columns: 5, stream: 1)),
            .keepBest(
                KeepBest(
                    scores: place(), rule: .loss, parameters: place(), best: place(), count: 12, state: place())),
            .report(Report(scores: place(), totalRows: 20, slot: 2)),
            .attentionScale(
                AttentionScale(
                    attention: attention, neighbours: neighbours, targets: targets(), sourceScores: matrix(3))),
            .attend(
                Attend(
                    attention: attention, neighbours: neighbours, targets: targets(), sourceScores: matrix(3),
                    source: matrix(6), sourceFirstRow: 4, sourceRows: 9, target: matrix(7), accumulates: true,
                    steps: [.elu])),
            .attentionGradient(
                AttentionGradient(
                    attention: attention, rowsAre: .targets, neighbours: neighbours, otherFirstRow: 4, otherRows: 9,
                    targets: targets(), sourceScores: matrix(4),
                    scores: AttentionGradient.Scores(dots: matrix(3), gradient: matrix(3)), sums: nil,
                    accumulates: false)),
            .attentionGradient(
                AttentionGradient(
                    attention: attention, rowsAre: .sources, neighbours: neighbours, otherFirstRow: 4, otherRows: 9,
                    targets: targets(), sourceScores: matrix(4),
                    scores: AttentionGradient.Scores(dots: matrix(3), gradient: matrix(3)),
                    sums: AttentionGradient.Sums(other: matrix(6), leaked: matrix(7), weighed: matrix(8)),
                    accumulates: true)),
            .headDots(
                HeadDots(x: matrix(6), y: .vector(place()), target: matrix(3), rows: 4, heads: 3, headWidth: 2)),
            .headDots(
                HeadDots(x: matrix(6), y: .rows(matrix(7)), target: matrix(3), rows: 4, heads: 3, headWidth: 2)),
            .tileColumnSum(
                TileColumnSum(
                    a: matrix(4), factors: .elements(matrix(5)), columns: 4, firstRow: 0, rows: 20, totalRows: 20,
                    stack: place())),
            .tileColumnSum(
                TileColumnSum(
                    a: matrix(4), factors: .heads(matrix(5), heads: 2), columns: 4, firstRow: 0, rows: 20,
                    totalRows: 20, stack: place())),
            .labelWeight(
                LabelWeight(
                    targets: .bits(place()), split: place(), rows: 20, classes: 13, total: place(),
                    accumulates: false)),
            .loss(
                Loss(
                    outputs: matrix(4), targets: .values(matrix(5)), split: place(), firstRow: 0, rows: 20,
                    totalRows: 20, classes: 4, total: place(), gradient: matrix(5), scores: place())),
            .loss(
                Loss(
                    outputs: matrix(13), targets: .bits(place()), split: place(), firstRow: 0, rows: 20,
                    totalRows: 20, classes: 13, total: place(), gradient: nil, scores: place())),
            .measure(Measure(place: wide, byteCount: Measure.byteCountMin)),
            .mark(Mark(split: place(), rows: 20, marks: place())),
            .reach(Reach(neighbours: neighbours, hop: 2, marks: place())),
        ]
        for (index, operation) in operations.enumerated() {
            program.commands.append(
                Program.Command(
                    operation, dependsOn: index > 2 ? [0, UInt32(index - 1)] : [], onlyWith: index == 5 ? .train : [],
                    active: operation.activeRows == nil || index == 6
                        ? nil : Program.ActiveRows(place(), bit: UInt8(index % 8))))
        }
        return program
    }()

    static let completion: Completion = {
        var completion = Completion()
        completion.epoch = 9
        var score = Completion.Score()
        score.slot = 1
        score.train.lossSum = 12.5
        score.validation.correct = 77
        score.test.labelled = 100
        completion.scores = [score, score]
        var best = Completion.Best()
        best.improved = true
        best.epoch = 8
        completion.best = best
        completion.sealed = [Completion.SealedRun(window: 3, firstBlock: 0, blocks: 2, firstCounter: 99)]
        completion.work.byOperation = [1, 2, 3]
        completion.work.fetchedBytes = 1 << 40
        var rates = Completion.Rates()
        rates.productFlops = 1e11
        completion.rates = rates
        return completion
    }()

    /// Bytes of `buffer` that the operation needs, found by shrinking the buffer while the program still passes.
    static func reach(of operation: FabricProtocol.Operation, in program: Program, buffer: Int) -> Int {
        var (low, high) = (0, program.buffers[buffer].byteCount)
        while low < high {
            let middle = (low + high) / 2
            var smaller = program
            smaller.buffers[buffer].byteCount = middle
            if (try? smaller.checked(memoryBytes: 1 << 23)) == nil { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

extension DoorbellArguments {
    fileprivate var bytesOrEmpty: [UInt8] { (try? bytes) ?? [] }
}
