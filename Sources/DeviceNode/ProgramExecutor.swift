internal import FabricProtocol
package import Sealing
internal import Synchronization
package import Vocabulary

/// Runs programs on this node's device: checks them once, replays them at each doorbell.
///
/// Three queues run at once: fetches go ahead of the computing as far as dependencies allow, stores follow it.
package final class ProgramExecutor: Sendable {
    package static let programsMax = 8

    private let memory: DeviceMemory
    private let windows: SealedWindows
    private let backend: CPUBackend
    private let queues: ThreadPool
    /// Staging of the fetch queue, then of the store queue.
    private let staging: DeviceMemory
    private let programs = Mutex<[LoadedProgram]>([])
    private let isRinging = Atomic<Bool>(false)
    private let isCancelled = Atomic<Bool>(false)
    private let lastRung = Atomic<Int>(-1)

    /// One executor for each attempt of a run under a fence: its write numbers, which are nonces, start at 0.
    package init(
        memory: DeviceMemory, windows: any WindowMemory, runKey: borrowing SecretBytes, run: RunID, fence: Fence,
        attempt: UInt32, threads: Int
    ) throws {
        self.memory = memory
        self.windows = SealedWindows(memory: windows, runKey: runKey, run: run, fence: fence, attempt: attempt)
        backend = try CPUBackend(memory: memory, threads: threads)
        queues = try ThreadPool(threads: Operation.Queue.allCases.count)
        staging = try DeviceMemory(byteCount: 2 * SealedWindows.stagingBytes)
    }

    /// The instruction set that the kernels use.
    package var kernelName: String { backend.kernelName }

    /// Checks a program and keeps it. Returns the number to ring it by.
    package func load(_ bytes: [UInt8]) throws -> UInt32 {
        let program = LoadedProgram(try Program(parsing: bytes).checked(memoryBytes: memory.byteCount))
        try windows.declare(program.windows)
        return try programs.withLock { programs in
            guard programs.count < Self.programsMax else {
                throw ExecutorError(.program, "more than \(Self.programsMax) programs")
            }
            programs.append(program)
            return UInt32(programs.count - 1)
        }
    }

    /// Replays a program. `arguments` are `DoorbellArguments`; the answer is a `Completion`.
    package func ring(_ number: UInt32, _ arguments: [UInt8]) throws -> [UInt8] {
        let arguments = try DoorbellArguments(parsing: arguments)
        guard let program = programs.withLock({ Int(number) < $0.count ? $0[Int(number)] : nil }) else {
            throw ExecutorError(.program, "program \(number) is not loaded")
        }
        guard isRinging.compareExchange(expected: false, desired: true, ordering: .acquiringAndReleasing).exchanged
        else { throw ExecutorError(.busy, "another doorbell's work still runs") }
        defer { isRinging.store(false, ordering: .releasing) }
        // Another program may have written anywhere.
        if lastRung.exchange(Int(number), ordering: .relaxed) != Int(number) { program.forgetTopology() }
        let replay = Replay(
            program: program, arguments: arguments, memory: memory, windows: windows, backend: backend,
            staging: staging, isCancelled: { [self] in isCancelled.load(ordering: .relaxed) })
        return try replay.run(on: queues).bytes
    }

    /// Ends the running doorbell before its next command, and refuses later ones.
    package func cancel() { isCancelled.store(true, ordering: .relaxed) }
}

/// A checked program and what is known of it before any doorbell.
private final class LoadedProgram: Sendable {
    let program: Program
    let peakBytes: Int
    var windows: [Program.Window] { program.windows }
    /// Commands of each queue, ascending.
    let queued: [[Int]]
    /// For each command and queue, how many of that queue's commands must have ended before it starts.
    let needs: [[Int]]
    /// For each command that goes over neighbours, the number of its topology: the places of its row pointers and neighbours.
    let topology: [Int?]
    /// For each command, the topologies that it may overwrite.
    let spoils: [[Int]]
    /// For each command, the next one of its queue where both are products into the same sums.
    let joins: [Int?]
    /// As in `CheckedProgram`.
    let followsByRows: [Bool]
    /// Topologies found valid and not overwritten since.
    private let valid: Mutex<Set<Int>>

    init(_ checked: CheckedProgram) {
        program = checked.program
        peakBytes = checked.peakBytes
        var queued: [[Int]] = Operation.Queue.allCases.map { _ in [] }
        var position: [Int] = []
        for (index, command) in program.commands.enumerated() {
            let queue = command.operation.queue.rawValue
            position.append(queued[queue].count)
            queued[queue].append(index)
        }
        self.queued = queued
        let commands = program.commands
        needs = commands.map { command in
            var needs = [Int](repeating: 0, count: queued.count)
            for dependency in command.dependsOn {
                let queue = commands[Int(dependency)].operation.queue.rawValue
                needs[queue] = max(needs[queue], position[Int(dependency)] + 1)
            }
            return needs
        }
        var joins = [Int?](repeating: nil, count: commands.count)
        for (index, next) in zip(
            queued[Operation.Queue.compute.rawValue], queued[Operation.Queue.compute.rawValue].dropFirst())
        where commands[index].isJoined(by: commands[next]) { joins[index] = next }
        self.joins = joins
        followsByRows = checked.followsByRows
        var known: [Topology: Int] = [:]
        topology = commands.map { command in
            guard let neighbours = command.operation.neighbours else { return nil }
            let key = Topology(neighbours)
            let number = known[key] ?? known.count
            known[key] = number
            return number
        }
        let ranges = known.map { topology, number in
            (
                number: number, pointers: topology.pointerRange(in: checked.program),
                columns: topology.columnRange(in: checked.program)
            )
        }
        spoils = checked.memoryWrites.map { writes in
            ranges.filter { range in
                writes.contains { $0.overlaps(range.pointers) || $0.overlaps(range.columns) }
            }.map(\.number)
        }
        valid = Mutex([])
    }

    func forgetTopology() { valid.withLock { $0 = [] } }
    func spoil(_ topologies: [Int]) { if !topologies.isEmpty { valid.withLock { $0.subtract(topologies) } } }
    func isKnownValid(_ topology: Int) -> Bool { valid.withLock { $0.contains(topology) } }
    func noteValid(_ topology: Int) { valid.withLock { _ = $0.insert(topology) } }

    private struct Topology: Hashable {
        let rowPointers: Place
        let columns: Place
        let rows: Int
        let edges: Int
        let edgeBase: Int
        let nodes: Int

        init(_ neighbours: Neighbours) {
            rowPointers = neighbours.rowPointers
            columns = neighbours.columns
            rows = neighbours.rows
            edges = neighbours.edges
            edgeBase = neighbours.edgeBase
            nodes = neighbours.nodes
        }

        func pointerRange(in program: Program) -> Range<Int> { range(rowPointers, (rows + 1) * 8, program) }
        func columnRange(in program: Program) -> Range<Int> { range(columns, edges * 4, program) }

        private func range(_ place: Place, _ bytes: Int, _ program: Program) -> Range<Int> {
            let start = program.buffers[Int(place.buffer)].offset + place.offset
            return start..<start + bytes
        }
    }
}

/// One doorbell's work.
private final class Replay {
    private let program: LoadedProgram
    private let arguments: DoorbellArguments
    private let memory: DeviceMemory
    private let windows: SealedWindows
    private let backend: CPUBackend
    private let staging: DeviceMemory
    private let isCancelled: () -> Bool
    /// Each queue waits at its own place, and is woken when what it waits for has come.
    private let state = Condition(places: Operation.Queue.allCases.count)
    // Under `state`:
    private var awaited = [[Int]?](repeating: nil, count: Operation.Queue.allCases.count)
    private var ended = [Int](repeating: 0, count: Operation.Queue.allCases.count)
    private var failure: ExecutorError?
    private var completion = Completion()
    // The compute queue's own:
    private var rowsSeen: [Int: Int] = [:]
    private var nanoseconds = [[UInt64]](
        repeating: [UInt64](repeating: 0, count: Int(Operation.codeMax) + 1), count: Operation.Queue.allCases.count)

    init(
        program: LoadedProgram, arguments: DoorbellArguments, memory: DeviceMemory, windows: SealedWindows,
        backend: CPUBackend, staging: DeviceMemory, isCancelled: @escaping () -> Bool
    ) {
        self.program = program
        self.arguments = arguments
        self.memory = memory
        self.windows = windows
        self.backend = backend
        self.staging = staging
        self.isCancelled = isCancelled
        completion.epoch = arguments.epoch
        completion.work.peakBytes = UInt64(program.peakBytes)
    }

    func run(on queues: ThreadPool) throws(ExecutorError) -> Completion {
        let clock = ContinuousClock()
        let start = clock.now
        queues.onEach { thread in
            // The caller's thread computes; it is the one that the pool calls 0.
            switch thread {
            case 0: serve(.compute)
            case 1: serve(.fetch)
            default: serve(.store)
            }
        }
        if let failure { throw failure }
        completion.work.wallNanoseconds = Self.nanoseconds(clock.now - start)
        var byOperation = [UInt64](repeating: 0, count: Int(Operation.codeMax) + 1)
        for queue in nanoseconds { for code in byOperation.indices { byOperation[code] += queue[code] } }
        completion.work.byOperation = byOperation
        completion.work.fetchNanoseconds = nanoseconds[Operation.Queue.fetch.rawValue].reduce(0, +)
        completion.work.computeNanoseconds = nanoseconds[Operation.Queue.compute.rawValue].reduce(0, +)
        completion.work.storeNanoseconds = nanoseconds[Operation.Queue.store.rawValue].reduce(0, +)
        return completion
    }

    /// Runs one queue's commands in order, each once its dependencies have ended.
    private func serve(_ queue: Operation.Queue) {
        var spent = [UInt64](repeating: 0, count: Int(Operation.codeMax) + 1)
        var waiting = program.queued[queue.rawValue][...]
        while let index = waiting.popFirst() {
            guard waits(queue, for: program.needs[index]) else { break }
            var batch = [index]
            if isAsked(index) {
                // What may go over the same rows at once, as far as nothing holds it back.
                while queue == .compute, let next = waiting.first, program.followsByRows[next], isAsked(next),
                    isReady(next, after: queue)
                {
                    batch.append(next)
                    waiting.removeFirst()
                }
                do throws(ExecutorError) {
                    if isCancelled() { throw ExecutorError(.cancelled, "the run was called off") }
                    try perform(batch, &spent)
                } catch {
                    fail(error.at(command: index))
                    break
                }
            }
            state.lock()
            ended[queue.rawValue] += batch.count
            for other in awaited.indices {
                if let needs = awaited[other], hasCome(needs) { state.wake(other) }
            }
            state.unlock()
        }
        state.lock()
        nanoseconds[queue.rawValue] = spent
        state.unlock()
    }

    private func isAsked(_ index: Int) -> Bool {
        arguments.flags.isSuperset(of: program.program.commands[index].onlyWith)
    }

    /// Runs one command, or several that follow each other by rows, and notes what each took.
    private func perform(_ batch: [Int], _ spent: inout [UInt64]) throws(ExecutorError) {
        let clock = ContinuousClock()
        let start = clock.now
        let commands = program.program.commands
        // Before, not after: a fetch that fails half way has overwritten half.
        for index in batch { program.spoil(program.spoils[index]) }
        guard commands[batch[0]].operation.goesByRows else {
            try execute(commands[batch[0]], batch[0])
            spent[Int(commands[batch[0]].operation.code)] += Self.nanoseconds(clock.now - start)
            return
        }
        let (codes, shares) = try goOverRows(batch)
        let taken = Double(Self.nanoseconds(clock.now - start))
        let total = max(shares.reduce(0, +), 1)
        for (code, share) in zip(codes, shares) {
            spent[code] += UInt64(taken * (codes.count == 1 ? 1 : Double(share) / Double(total)))
        }
    }

    /// Runs commands that follow each other by rows, block by block. Returns what they are, and what the threads together
    /// took for each.
    private func goOverRows(_ batch: [Int]) throws(ExecutorError) -> (codes: [Int], nanoseconds: [UInt64]) {
        let commands = program.program.commands
        var works: [RowWork] = []
        var codes: [Int] = []
        var waiting = batch[...]
        while let index = waiting.popFirst() {
            let operation = commands[index].operation
            if let neighbours = operation.neighbours {
                do { try requireTopology(neighbours, index) } catch { throw error.at(command: index) }
            }
            var more: Product?
            if let next = waiting.first, program.joins[index] == next,
                case .product(let product) = commands[next].operation
            {
                more = product
                waiting.removeFirst()
            }
            codes.append(Int(operation.code))
            works.append(
                backend.rowWork(operation, then: more, commands[index].active, arguments, in: program.program))
        }
        return (codes, backend.run(works))
    }

    /// False if the doorbell has failed.
    private func waits(_ queue: Operation.Queue, for needs: [Int]) -> Bool {
        state.lock()
        defer { state.unlock() }
        while failure == nil {
            if hasCome(needs) {
                awaited[queue.rawValue] = nil
                return true
            }
            awaited[queue.rawValue] = needs
            state.wait(at: queue.rawValue)
        }
        return false
    }

    /// Under `state`.
    private func hasCome(_ needs: [Int]) -> Bool { ended.indices.allSatisfy { ended[$0] >= needs[$0] } }

    /// Whether nothing but its own queue's earlier commands holds this one back.
    private func isReady(_ index: Int, after queue: Operation.Queue) -> Bool {
        state.lock()
        defer { state.unlock() }
        return ended.indices.allSatisfy { $0 == queue.rawValue || ended[$0] >= program.needs[index][$0] }
    }

    private func fail(_ error: ExecutorError) {
        state.lock()
        defer { state.unlock() }
        if failure == nil { failure = error }
        for queue in awaited.indices { state.wake(queue) }
    }

    /// Runs one command that does not go by rows.
    private func execute(_ command: Program.Command, _ index: Int) throws(ExecutorError) {
        let program = program.program
        let active = command.active
        switch command.operation {
        case .fetch(let transfer):
            for number in 0..<transfer.pieces {
                let piece = transfer.piece(number)
                let crossed = try windows.fetch(piece, into: address(piece.place), staging: staging.base)
                note { $0.work.fetchedBytes += UInt64(crossed) }
            }
        case .store(let transfer):
            for number in 0..<transfer.pieces { try store(transfer.piece(number)) }
        case .fill(let fill): backend.fill(fill, in: program)
        case .copy(let copy): backend.copy(copy, in: program)
        case .map, .aggregate, .attentionScale, .attend, .attentionGradient, .headDots, .product:
            preconditionFailure("it goes by rows")
        case .tileProduct(let tile):
            try take(tile.stack, tile.firstRow, tile.rows)
            backend.tileProduct(tile, active, in: program)
        case .tileColumnSum(let tile):
            try take(tile.stack, tile.firstRow, tile.rows)
            backend.tileColumnSum(tile, active, in: program)
        case .tileFinish(let finish):
            guard rows(at: finish.stack) == finish.totalRows else {
                throw ExecutorError(.chunkOrder, "the stack does not hold all rows' sums")
            }
            backend.tileFinish(finish, in: program)
        case .labelWeight(let weight): try backend.labelWeight(weight, in: program)
        case .loss(let loss):
            try take(loss.scores, loss.firstRow, loss.rows)
            try backend.loss(loss, in: program)
        case .adam(let adam): backend.adam(adam, arguments, in: program)
        case .initialise(let initialise): backend.initialise(initialise, arguments, in: program)
        case .keepBest(let keep):
            let rows = try scored(keep.scores)
            let best = backend.keepBest(keep, rows: rows, arguments, in: program)
            note { $0.best = best }
        case .report(let report): try self.report(report)
        case .measure(let measure):
            let rates = backend.measure(measure, in: program)
            note { $0.rates = rates }
        case .mark(let mark): backend.mark(mark, in: program)
        case .reach(let reach):
            try requireTopology(reach.neighbours, index)
            backend.reach(reach, in: program)
        }
    }

    /// Neighbours lead to addresses, so they are looked at once after whatever may have written them.
    private func requireTopology(_ neighbours: Neighbours, _ index: Int) throws(ExecutorError) {
        let topology = program.topology[index]!
        guard !program.isKnownValid(topology) else { return }
        guard backend.isTopologyValid(neighbours, in: program.program) else {
            throw ExecutorError(.topology, "row pointers or neighbours that are not a graph's")
        }
        program.noteValid(topology)
    }

    private func store(_ transfer: Transfer) throws(ExecutorError) {
        let sealed = try windows.store(
            transfer, from: UnsafeRawPointer(address(transfer.place)),
            staging: staging.base + SealedWindows.stagingBytes)
        let isResult = program.windows.contains { $0.id == transfer.window && $0.purpose == .result }
        let tags = Int(sealed.blocks) * Limits.tagBytes
        let fits = note { completion in
            completion.work.storedBytes += UInt64(transfer.byteCount + tags)
            guard isResult else { return true }
            guard completion.sealed.count < Completion.sealedRunsMax else { return false }
            completion.sealed.append(sealed)
            return true
        }
        guard fits else { throw ExecutorError(.completion, "more result stores than a completion holds") }
    }

    private func report(_ report: Report) throws(ExecutorError) {
        guard try scored(report.scores) == report.totalRows else {
            throw ExecutorError(.chunkOrder, "the figures do not cover all rows")
        }
        let figures = backend.figures(report.scores, rows: report.totalRows, in: program.program)
        var score = Completion.Score()
        score.slot = report.slot
        (score.train, score.validation, score.test) = (figures[0], figures[1], figures[2])
        let fits = note { completion in
            guard completion.scores.count < Completion.scoresMax else { return false }
            completion.scores.append(score)
            return true
        }
        guard fits else { throw ExecutorError(.completion, "more figures than a completion holds") }
    }

    // MARK: Chunks in their order

    /// Notes that a chunk joins the sums at `place`; the first row starts them anew.
    private func take(_ place: Place, _ firstRow: Int, _ rows: Int) throws(ExecutorError) {
        guard firstRow == 0 || self.rows(at: place) == firstRow else {
            throw ExecutorError(.chunkOrder, "rows from \(firstRow) on came out of order")
        }
        rowsSeen[offset(place)] = firstRow + rows
    }

    private func rows(at place: Place) -> Int? { rowsSeen[offset(place)] }

    private func scored(_ place: Place) throws(ExecutorError) -> Int {
        guard let rows = rows(at: place) else {
            throw ExecutorError(.chunkOrder, "there are no figures of this epoch")
        }
        return rows
    }

    private func offset(_ place: Place) -> Int {
        program.program.buffers[Int(place.buffer)].offset + place.offset
    }

    private func address(_ place: Place) -> UnsafeMutableRawPointer { memory.base + offset(place) }

    @discardableResult
    private func note<Value>(_ change: (inout Completion) -> Value) -> Value {
        state.lock()
        defer { state.unlock() }
        return change(&completion)
    }

    private static func nanoseconds(_ duration: Duration) -> UInt64 {
        let (seconds, attoseconds) = duration.components
        return UInt64(seconds) * 1_000_000_000 + UInt64(attoseconds / 1_000_000_000)
    }
}

extension Operation {
    /// The graph's index that this command follows.
    fileprivate var neighbours: Neighbours? {
        switch self {
        case .aggregate(let aggregate): aggregate.neighbours
        case .attentionScale(let scale): scale.neighbours
        case .attend(let attend): attend.neighbours
        case .attentionGradient(let gradient): gradient.neighbours
        case .reach(let reach): reach.neighbours
        default: nil
        }
    }
}

extension Program.Command {
    /// Whether both are products, the second adding to the first one's sums: together they read and write the sums
    /// once. The bits are the same, since every element's chain is.
    fileprivate func isJoined(by next: Program.Command) -> Bool {
        guard case .product(let first) = operation, case .product(let second) = next.operation else { return false }
        return first.steps.isEmpty && second.accumulates && first.c == second.c && first.rows == second.rows
            && first.columns == second.columns && first.transposesB == second.transposesB && onlyWith == next.onlyWith
            && active == next.active
    }
}
