import Vocabulary

/// A program whose every access lies inside its buffers, windows and the memory it was checked against, and in which
/// no two commands that could run at once share bytes. Only `Program.checked` makes one.
package struct CheckedProgram: Sendable {
    package let program: Program
    /// One past the highest byte of device memory that a buffer reaches.
    package let peakBytes: Int
    /// For each command, the bytes of device memory that it may write.
    package let memoryWrites: [[Range<Int>]]
    /// For each command, whether it may go over a block of rows before the computing command ahead of it has gone over
    /// the next block: what it shares with that one, and with those that that one follows by rows in turn, it shares row
    /// by row.
    package let followsByRows: [Bool]

    fileprivate init(program: Program, peakBytes: Int, memoryWrites: [[Range<Int>]], followsByRows: [Bool]) {
        self.program = program
        self.peakBytes = peakBytes
        self.memoryWrites = memoryWrites
        self.followsByRows = followsByRows
    }
}

extension Program {
    /// Checks everything that can be known without running.
    package func checked(memoryBytes: Int) throws(ProgramError) -> CheckedProgram {
        guard commands.count <= Limits.programCommandsMax else { throw ProgramError(.tooLarge, "too many commands") }
        guard buffers.count <= Limits.programBuffersMax else { throw ProgramError(.tooLarge, "too many buffers") }
        guard windows.count <= Limits.windowsMax else { throw ProgramError(.tooLarge, "too many windows") }
        var peakBytes = 0
        for (index, buffer) in buffers.enumerated() {
            guard buffer.offset >= 0, buffer.offset.isMultiple(of: Buffer.alignment) else {
                throw ProgramError(.invalid, "buffer \(index) is not aligned to \(Buffer.alignment) bytes")
            }
            guard buffer.byteCount >= 0, buffer.offset <= memoryBytes, buffer.byteCount <= memoryBytes - buffer.offset
            else {
                throw ProgramError(.outOfBounds, "buffer \(index) reaches beyond the \(memoryBytes) bytes of memory")
            }
            peakBytes = max(peakBytes, buffer.offset + buffer.byteCount)
        }
        try checkWindows()
        var accesses: [[Access]] = []
        accesses.reserveCapacity(commands.count)
        for (index, command) in commands.enumerated() {
            do throws(ProgramError) {
                accesses.append(try self.accesses(of: command))
            } catch {
                throw ProgramError(error.code, error.reason, command: index)
            }
        }
        try checkOrder(accesses)
        return CheckedProgram(
            program: self, peakBytes: peakBytes,
            memoryWrites: accesses.map { list in
                list.filter { $0.window == nil && $0.writes }.map { $0.lower..<$0.upper }
            }, followsByRows: followsByRows(accesses))
    }

    /// Most commands that follow each other by rows, so that looking for them stays quick.
    private static let rowRunMax = 12

    private func followsByRows(_ accesses: [[Access]]) -> [Bool] {
        var follows = [Bool](repeating: false, count: commands.count)
        var run: [Int] = []
        for (index, command) in commands.enumerated() where command.operation.queue == .compute {
            follows[index] =
                !run.isEmpty && run.count < Self.rowRunMax && command.operation.goesByRows
                && commands[run[0]].operation.activeRows == command.operation.activeRows
                && run.allSatisfy { earlier in
                    accesses[index].allSatisfy { access in
                        accesses[earlier].allSatisfy { !$0.meets(access) || $0.meetsInRows(access) }
                    }
                }
            if !follows[index] { run = [] }
            if command.operation.goesByRows { run.append(index) }
        }
        return follows
    }

    private func checkWindows() throws(ProgramError) {
        var seen: Set<UInt16> = []
        for window in windows {
            guard seen.insert(window.id).inserted else {
                throw ProgramError(.invalid, "window \(window.id) is declared twice")
            }
            guard window.byteCount > 0 else { throw ProgramError(.invalid, "window \(window.id) is empty") }
            let allowed: Window.Direction =
                switch window.purpose {
                case .image, .state: .read
                case .spill: .both
                case .result: .write
                }
            guard window.direction == allowed else {
                throw ProgramError(.invalid, "window \(window.id) has a direction that its purpose does not allow")
            }
        }
    }
}

/// Bytes of memory (`window` nil) or of a window that a command reads or writes.
private struct Access {
    var window: UInt16?
    var lower: Int
    var upper: Int
    var writes: Bool
    /// Of a matrix: bytes from row to row, and of each row; 0 for one run of bytes.
    var strideBytes = 0
    var rowBytes = 0
    /// Of a matrix: whether what the command makes of a row needs no other row of this.
    var isByRow = false

    /// Whether what both touch of these bytes, they touch in rows of the same number.
    func meetsInRows(_ other: Access) -> Bool {
        guard isByRow, other.isByRow, strideBytes == other.strideBytes else { return false }
        let apart = other.lower - lower
        return apart >= 0 ? apart + other.rowBytes <= strideBytes : rowBytes - apart <= strideBytes
    }

    func meets(_ other: Access) -> Bool {
        window == other.window && lower < other.upper && other.lower < upper && (writes || other.writes)
            && !interleaves(other)
    }

    /// Whether both are columns of one wider matrix, none of them shared.
    private func interleaves(_ other: Access) -> Bool {
        guard strideBytes > 0, strideBytes == other.strideBytes else { return false }
        let apart = ((other.lower - lower) % strideBytes + strideBytes) % strideBytes
        return apart >= rowBytes && apart + other.rowBytes <= strideBytes
    }
}

// MARK: - What each operation may touch

extension Program {
    /// The accesses of one operation, each inside its buffer or window; throws where a shape is not allowed.
    private func accesses(of command: Command) throws(ProgramError) -> [Access] {
        var list = AccessList(program: self)
        try list.active(command)
        list.isByRow = command.operation.goesByRows
        switch command.operation {
        case .fetch(let transfer): try list.transfer(transfer, stores: false)
        case .store(let transfer): try list.transfer(transfer, stores: true)
        case .fill(let fill):
            try list.count(fill.count)
            try list.write(fill.place, bytes: fill.count * 4)
        case .copy(let copy):
            guard copy.pieces > 0, copy.pieces <= Limits.featuresMax else {
                throw ProgramError(.invalid, "a copy of \(copy.pieces) pieces")
            }
            try list.touch(copy.source, copy.rows, copy.columns, copy.pieces, step: copy.sourceStep, writes: false)
            try list.touch(copy.target, copy.rows, copy.columns, copy.pieces, step: copy.targetStep, writes: true)
        case .map(let map):
            if map.source != map.target { try list.read(map.source, map.rows, map.columns) }
            try list.write(map.target, map.rows, map.columns)
            try list.steps(map.steps, on: map.target, map.rows, map.columns)
        case .aggregate(let aggregate):
            try list.neighbours(aggregate.neighbours, aggregate.sourceFirstRow, aggregate.sourceRows)
            let rows = aggregate.neighbours.rows
            try list.readAnyRow(aggregate.source, aggregate.sourceRows, aggregate.width)
            try list.write(aggregate.target, rows, aggregate.width)
            try list.steps(aggregate.steps, on: aggregate.target, rows, aggregate.width)
        case .attentionScale(let scale):
            try list.attention(scale.attention)
            let (rows, nodes, heads) = (scale.neighbours.rows, scale.neighbours.nodes, scale.attention.heads)
            try list.neighbours(scale.neighbours, 0, nodes)
            try list.read(scale.targets.scores, rows, heads)
            try list.readAnyRow(scale.sourceScores, nodes, heads)
            try list.write(scale.targets.highest, rows, heads)
            try list.write(scale.targets.inverse, rows, heads)
        case .attend(let attend):
            try list.attention(attend.attention)
            let rows = attend.neighbours.rows
            try list.neighbours(attend.neighbours, attend.sourceFirstRow, attend.sourceRows)
            try list.ends(
                attend.attention, attend.targets, rows, attend.sourceScores, attend.sourceRows, rowsAre: .targets)
            try list.readAnyRow(attend.source, attend.sourceRows, attend.attention.width)
            try list.write(attend.target, rows, attend.attention.width)
            try list.steps(attend.steps, on: attend.target, rows, attend.attention.width)
        case .attentionGradient(let gradient): try list.attentionGradient(gradient)
        case .headDots(let dots):
            try list.heads(dots.heads, of: dots.headWidth)
            let width = dots.heads * dots.headWidth
            try list.read(dots.x, dots.rows, width)
            switch dots.y {
            case .vector(let place): try list.read(place, bytes: width * 4)
            case .rows(let matrix): try list.read(matrix, dots.rows, width)
            }
            try list.write(dots.target, dots.rows, dots.heads)
        case .product(let product):
            try list.width(product.inner)
            try list.read(product.a, product.rows, product.inner)
            if product.transposesB {
                try list.readAnyRow(product.b, product.columns, product.inner)
            } else {
                try list.readAnyRow(product.b, product.inner, product.columns)
            }
            try list.write(product.c, product.rows, product.columns)
            try list.steps(product.steps, on: product.c, product.rows, product.columns)
        case .tileProduct(let tile):
            try list.width(tile.n)
            try list.chunk(firstRow: tile.firstRow, rows: tile.rows, totalRows: tile.totalRows)
            try list.read(tile.a, tile.rows, tile.m)
            try list.read(tile.b, tile.rows, tile.n)
            try list.write(
                tile.stack, bytes: Program.tileStackBytes(totalRows: tile.totalRows, rows: tile.m, columns: tile.n))
        case .tileColumnSum(let tile):
            try list.chunk(firstRow: tile.firstRow, rows: tile.rows, totalRows: tile.totalRows)
            try list.read(tile.a, tile.rows, tile.columns)
            switch tile.factors {
            case nil: break
            case .elements(let matrix): try list.read(matrix, tile.rows, tile.columns)
            case .heads(let matrix, let heads):
                try list.heads(heads, dividing: tile.columns)
                try list.read(matrix, tile.rows, heads)
            }
            try list.write(
                tile.stack,
                bytes: Program.tileStackBytes(totalRows: tile.totalRows, rows: 1, columns: tile.columns))
        case .tileFinish(let finish):
            guard finish.totalRows > 0 else { throw ProgramError(.invalid, "no rows") }
            try list.count(finish.count)
            guard finish.count <= Limits.featuresMax * Limits.featuresMax else {
                throw ProgramError(.tooLarge, "more elements than a weight can have")
            }
            try list.read(
                finish.stack, bytes: Program.tileLevels(totalRows: finish.totalRows) * finish.count * 4)
            try list.write(finish.target, bytes: finish.count * 4)
        case .labelWeight(let weight):
            try list.targets(weight.targets, weight.split, weight.rows, weight.classes, weight.classWeights)
            try list.write(weight.total, bytes: 8, alignment: 8)
        case .loss(let loss):
            try list.chunk(firstRow: loss.firstRow, rows: loss.rows, totalRows: loss.totalRows)
            try list.targets(loss.targets, loss.split, loss.rows, loss.classes, loss.classWeights)
            if loss.gradient != loss.outputs { try list.read(loss.outputs, loss.rows, loss.classes) }
            if let gradient = loss.gradient {
                try list.write(gradient, loss.rows, loss.classes)
                try list.read(loss.total, bytes: 8, alignment: 8)
            }
            try list.write(loss.scores, bytes: Scores.byteCount, alignment: 8)
        case .adam(let adam):
            try list.count(adam.count)
            try list.write(adam.parameter, bytes: adam.count * 4)
            try list.read(adam.gradient, bytes: adam.count * 4)
            try list.write(adam.firstMoment, bytes: adam.count * 4)
            try list.write(adam.secondMoment, bytes: adam.count * 4)
            guard (0..<1).contains(adam.beta1), (0..<1).contains(adam.beta2), adam.epsilon > 0,
                adam.epsilon.isFinite, adam.weightDecay >= 0, adam.weightDecay.isFinite
            else { throw ProgramError(.invalid, "a constant of Adam is out of range") }
        case .initialise(let initialise):
            try list.write(initialise.target, initialise.rows, initialise.columns)
        case .keepBest(let keep):
            try list.count(keep.count)
            try list.read(keep.scores, bytes: Scores.byteCount, alignment: 8)
            try list.read(keep.parameters, bytes: keep.count * 4)
            try list.write(keep.best, bytes: keep.count * 4)
            try list.write(keep.state, bytes: KeepBest.stateBytes, alignment: 8)
        case .report(let report):
            guard report.totalRows > 0 else { throw ProgramError(.invalid, "no rows") }
            try list.read(report.scores, bytes: Scores.byteCount, alignment: 8)
        case .measure(let measure):
            guard measure.byteCount >= Measure.byteCountMin else {
                throw ProgramError(.invalid, "less memory than a measurement needs")
            }
            try list.write(measure.place, bytes: measure.byteCount, alignment: 64)
        case .mark(let mark):
            guard mark.rows > 0, mark.rows <= Limits.nodesMax else { throw ProgramError(.invalid, "\(mark.rows) rows") }
            try list.read(mark.split, bytes: mark.rows, alignment: 1)
            try list.write(mark.marks, bytes: mark.rows, alignment: 1)
        case .reach(let reach):
            guard (1...Reach.hopsMax).contains(reach.hop) else {
                throw ProgramError(.invalid, "hop \(reach.hop); from 1 to \(Reach.hopsMax)")
            }
            try list.neighbours(reach.neighbours, 0, reach.neighbours.nodes)
            try list.write(reach.marks, bytes: reach.neighbours.nodes, alignment: 1)
        }
        try list.checkDisjoint()
        return list.accesses
    }
}

private struct AccessList {
    let program: Program
    var accesses: [Access] = []
    /// Whether matrices are gone over row by row, as `Access.isByRow` says.
    var isByRow = false

    mutating func read(_ place: Place, bytes: Int, alignment: Int = 4) throws(ProgramError) {
        try touch(place, bytes: bytes, alignment: alignment, writes: false)
    }

    mutating func write(_ place: Place, bytes: Int, alignment: Int = 4) throws(ProgramError) {
        try touch(place, bytes: bytes, alignment: alignment, writes: true)
    }

    mutating func read(_ matrix: Matrix, _ rows: Int, _ columns: Int) throws(ProgramError) {
        try touch(matrix, rows, columns, writes: false)
    }

    mutating func write(_ matrix: Matrix, _ rows: Int, _ columns: Int) throws(ProgramError) {
        try touch(matrix, rows, columns, writes: true)
    }

    /// A matrix of whose rows any may be read for any row.
    mutating func readAnyRow(_ matrix: Matrix, _ rows: Int, _ columns: Int) throws(ProgramError) {
        try touch(matrix, rows, columns, writes: false)
        accesses[accesses.count - 1].isByRow = false
    }

    /// Everything from the first of several pieces, `step` elements apart, to the end of the last.
    mutating func touch(
        _ matrix: Matrix, _ rows: Int, _ columns: Int, _ pieces: Int, step: Int, writes: Bool
    ) throws(ProgramError) {
        guard pieces > 1 else { return try touch(matrix, rows, columns, writes: writes) }
        let (bytes, overflow) = (pieces - 1).multipliedReportingOverflow(by: step * 4)
        let extent = try extent(matrix, rows, columns)
        // Side by side in the same rows, or one behind the other.
        guard step * 4 >= extent || step >= columns && bytes / 4 + columns <= matrix.stride else {
            throw ProgramError(.invalid, "pieces of a copy that lie on each other")
        }
        guard !overflow, bytes <= Int.max - extent else {
            throw ProgramError(.outOfBounds, "a matrix larger than memory can be")
        }
        try touch(matrix.place, bytes: bytes + extent, alignment: 4, writes: writes)
    }

    private mutating func touch(_ matrix: Matrix, _ rows: Int, _ columns: Int, writes: Bool) throws(ProgramError) {
        try touch(matrix.place, bytes: try extent(matrix, rows, columns), alignment: 4, writes: writes)
        accesses[accesses.count - 1].strideBytes = matrix.stride * 4
        accesses[accesses.count - 1].rowBytes = columns * 4
        accesses[accesses.count - 1].isByRow = isByRow
    }

    /// Bytes from a matrix's first element to the end of its last.
    private func extent(_ matrix: Matrix, _ rows: Int, _ columns: Int) throws(ProgramError) -> Int {
        guard rows > 0, columns > 0 else { throw ProgramError(.invalid, "a matrix without elements") }
        guard rows <= Limits.nodesMax else { throw ProgramError(.tooLarge, "more than \(Limits.nodesMax) rows") }
        try width(columns)
        guard matrix.stride >= columns, matrix.stride <= Limits.nodesMax else {
            throw ProgramError(.invalid, "a stride of \(matrix.stride) for \(columns) columns")
        }
        // At most 2^31 · 2^31 + 2^16 elements, so below 2^63; the factor 4 may overflow.
        let (bytes, overflow) = ((rows - 1) * matrix.stride + columns).multipliedReportingOverflow(by: 4)
        guard !overflow else { throw ProgramError(.outOfBounds, "a matrix larger than memory can be") }
        return bytes
    }

    private mutating func touch(_ place: Place, bytes: Int, alignment: Int, writes: Bool) throws(ProgramError) {
        guard Int(place.buffer) < program.buffers.count else {
            throw ProgramError(.outOfBounds, "buffer \(place.buffer) is not declared")
        }
        let buffer = program.buffers[Int(place.buffer)]
        guard place.offset >= 0, place.offset.isMultiple(of: alignment) else {
            throw ProgramError(.invalid, "offset \(place.offset) is not aligned to \(alignment) bytes")
        }
        guard bytes > 0, place.offset <= buffer.byteCount, bytes <= buffer.byteCount - place.offset else {
            throw ProgramError(
                .outOfBounds,
                "\(bytes) bytes at \(place.offset) do not fit the \(buffer.byteCount) bytes of buffer \(place.buffer)")
        }
        let lower = buffer.offset + place.offset
        accesses.append(Access(window: nil, lower: lower, upper: lower + bytes, writes: writes))
    }

    /// The marks of a command's rows.
    mutating func active(_ command: Program.Command) throws(ProgramError) {
        guard command.active != nil else { return }
        guard let rows = command.operation.activeRows else {
            throw ProgramError(.invalid, "an operation that does not go over rows has rows that matter")
        }
        try active(command.active, rows)
    }

    private mutating func active(_ active: Program.ActiveRows?, _ rows: Int) throws(ProgramError) {
        guard let active else { return }
        guard rows > 0, rows <= Limits.nodesMax else { throw ProgramError(.invalid, "\(rows) rows") }
        guard active.bit < 8 else { throw ProgramError(.invalid, "bit \(active.bit) of a byte") }
        try read(active.place, bytes: rows, alignment: 1)
    }

    func count(_ elements: Int) throws(ProgramError) {
        guard elements > 0, elements <= 1 << 45 else { throw ProgramError(.invalid, "a count of \(elements) elements") }
    }

    func width(_ columns: Int) throws(ProgramError) {
        guard columns > 0, columns <= Limits.featuresMax else {
            throw ProgramError(.tooLarge, "\(columns) columns; from 1 to \(Limits.featuresMax)")
        }
    }

    /// A chunk of rows whose tiles stream by: whole tiles, the graph's last one included, or a part of one tile.
    func chunk(firstRow: Int, rows: Int, totalRows: Int) throws(ProgramError) {
        guard totalRows > 0, totalRows <= Limits.nodesMax, firstRow >= 0, rows > 0, firstRow <= totalRows,
            rows <= totalRows - firstRow
        else { throw ProgramError(.invalid, "rows outside the graph") }
        let end = firstRow + rows
        let isWhole =
            firstRow.isMultiple(of: ImageShape.tileRows)
            && (end == totalRows || end.isMultiple(of: ImageShape.tileRows))
        guard isWhole || firstRow / ImageShape.tileRows == (end - 1) / ImageShape.tileRows else {
            throw ProgramError(.invalid, "a chunk of neither whole tiles nor a part of one")
        }
    }

    mutating func targets(
        _ targets: Targets, _ split: Place, _ rows: Int, _ classes: Int, _ classWeights: Place?
    ) throws(ProgramError) {
        guard rows > 0, rows <= Limits.nodesMax else { throw ProgramError(.invalid, "\(rows) rows") }
        guard classes > 0, classes <= Limits.classesMax else { throw ProgramError(.tooLarge, "\(classes) classes") }
        switch targets {
        case .classes(let place): try read(place, bytes: rows * 4)
        case .bits(let place): try read(place, bytes: rows * ((classes + 7) / 8), alignment: 1)
        case .values(let matrix): try read(matrix, rows, classes)
        }
        try read(split, bytes: rows, alignment: 1)
        if let classWeights { try read(classWeights, bytes: classes * 4) }
    }

    func heads(_ heads: Int, of headWidth: Int) throws(ProgramError) {
        guard heads > 0, heads <= Attention.headsMax else {
            throw ProgramError(.tooLarge, "\(heads) heads; from 1 to \(Attention.headsMax)")
        }
        guard headWidth > 0, headWidth <= Limits.featuresMax else {
            throw ProgramError(.invalid, "a head of \(headWidth) columns")
        }
        try width(heads * headWidth)
    }

    func heads(_ heads: Int, dividing columns: Int) throws(ProgramError) {
        guard heads > 0, columns.isMultiple(of: heads) else {
            throw ProgramError(.invalid, "\(columns) columns are not those of \(heads) heads")
        }
        try self.heads(heads, of: columns / heads)
    }

    func attention(_ attention: Attention) throws(ProgramError) {
        try heads(attention.heads, of: attention.headWidth)
        guard (0...1).contains(attention.slope) else { throw ProgramError(.invalid, "a slope outside 0 ... 1") }
        guard let dropout = attention.dropout else { return }
        try self.dropout(dropout)
        guard dropout.stream < Attention.streamsMax,
            dropout.firstColumn + attention.heads <= Attention.headsMax
        else { throw ProgramError(.invalid, "a dropout of attention beyond its streams or heads") }
    }

    /// What the two ends of an attention's edges lend it.
    mutating func ends(
        _ attention: Attention, _ targets: AttentionTargets, _ targetRows: Int, _ sourceScores: Matrix,
        _ sourceRows: Int, rowsAre rows: AttentionGradient.End
    ) throws(ProgramError) {
        for matrix in [targets.scores, targets.highest, targets.inverse] {
            try end(.targets, matrix, targetRows, attention.heads, rowsAre: rows)
        }
        try end(.sources, sourceScores, sourceRows, attention.heads, rowsAre: rows)
    }

    /// Numbers of one end of edges, whose rows the command goes over or looks up.
    private mutating func end(
        _ end: AttentionGradient.End, _ matrix: Matrix, _ rows: Int, _ columns: Int, rowsAre own: AttentionGradient.End
    ) throws(ProgramError) {
        if end == own { try read(matrix, rows, columns) } else { try readAnyRow(matrix, rows, columns) }
    }

    mutating func attentionGradient(_ gradient: AttentionGradient) throws(ProgramError) {
        let attention = gradient.attention
        try self.attention(attention)
        let rows = gradient.neighbours.rows
        try neighbours(gradient.neighbours, gradient.otherFirstRow, gradient.otherRows)
        let ofTargets = gradient.rowsAre == .targets
        let (targetRows, sourceRows) = ofTargets ? (rows, gradient.otherRows) : (gradient.otherRows, rows)
        try ends(
            attention, gradient.targets, targetRows, gradient.sourceScores, sourceRows, rowsAre: gradient.rowsAre)
        try active(gradient.others, gradient.otherRows)
        guard gradient.scores != nil || gradient.sums != nil else {
            throw ProgramError(.invalid, "a gradient of neither scores nor features")
        }
        if let scores = gradient.scores {
            try end(.targets, scores.dots, targetRows, attention.heads, rowsAre: gradient.rowsAre)
            try write(scores.gradient, rows, attention.heads)
        }
        guard let sums = gradient.sums else { return }
        try readAnyRow(sums.other, gradient.otherRows, attention.width)
        try write(sums.leaked, rows, attention.width)
        guard (sums.weighed != nil) != ofTargets else {
            throw ProgramError(.invalid, "features have a gradient where the rows are sources, and only there")
        }
        if let matrix = sums.weighed { try write(matrix, rows, attention.width) }
    }

    mutating func transfer(_ transfer: Transfer, stores: Bool) throws(ProgramError) {
        guard let window = program.windows.first(where: { $0.id == transfer.window }) else {
            throw ProgramError(.outOfBounds, "window \(transfer.window) is not declared")
        }
        let needed: Program.Window.Direction = stores ? .write : .read
        guard window.direction == needed || window.direction == .both else {
            throw ProgramError(.invalid, "window \(transfer.window) cannot be used in this direction")
        }
        guard transfer.pieces > 0, transfer.pieces <= Transfer.piecesMax,
            transfer.pieces == 1 || transfer.windowStride >= transfer.byteCount
        else { throw ProgramError(.invalid, "a transfer of pieces that are none, too many or on each other") }
        // From the first piece's start to the last one's end: at most 2^12 · 2^47 bytes.
        let span = (transfer.pieces - 1) * transfer.windowStride + transfer.byteCount
        guard transfer.windowOffset >= 0, transfer.byteCount > 0, transfer.windowOffset <= window.byteCount,
            span <= window.byteCount - transfer.windowOffset
        else {
            throw ProgramError(
                .outOfBounds, "\(span) bytes at \(transfer.windowOffset) do not fit window \(transfer.window)")
        }
        let end = transfer.windowOffset + span
        if stores {
            guard transfer.windowOffset.isMultiple(of: Limits.blockBytes),
                transfer.pieces == 1
                    || transfer.windowStride.isMultiple(of: Limits.blockBytes)
                        && transfer.byteCount.isMultiple(of: Limits.blockBytes),
                end == window.byteCount || end.isMultiple(of: Limits.blockBytes)
            else { throw ProgramError(.invalid, "a store that does not cover whole blocks") }
        }
        try touch(transfer.place, bytes: transfer.pieces * transfer.byteCount, alignment: 1, writes: !stores)
        // The covering blocks, since a fetch opens whole blocks and a store replaces them.
        let lower = transfer.windowOffset / Limits.blockBytes * Limits.blockBytes
        let upper = (end + Limits.blockBytes - 1) / Limits.blockBytes * Limits.blockBytes
        accesses.append(Access(window: transfer.window, lower: lower, upper: upper, writes: stores))
    }

    /// The index of a graph, of whose nodes some lie at the other end.
    mutating func neighbours(
        _ neighbours: Neighbours, _ otherFirstRow: Int, _ otherRows: Int
    ) throws(ProgramError) {
        guard neighbours.nodes > 0, neighbours.nodes <= Limits.nodesMax,
            neighbours.firstRow + neighbours.rows <= neighbours.nodes, otherFirstRow + otherRows <= neighbours.nodes
        else { throw ProgramError(.invalid, "rows outside the graph") }
        guard neighbours.edgeBase <= Limits.edgesMax, neighbours.edges <= Limits.edgesMax else {
            throw ProgramError(.tooLarge, "more than \(Limits.edgesMax) edges")
        }
        guard neighbours.rows > 0 else { throw ProgramError(.invalid, "no rows") }
        try read(neighbours.rowPointers, bytes: (neighbours.rows + 1) * 8, alignment: 8)
        if neighbours.edges > 0 { try read(neighbours.columns, bytes: neighbours.edges * 4) }
    }

    func dropout(_ dropout: Dropout) throws(ProgramError) {
        guard (0..<1).contains(dropout.probability) else {
            throw ProgramError(.invalid, "a dropout probability outside 0 ..< 1")
        }
        guard dropout.firstColumn <= Limits.featuresMax else {
            throw ProgramError(.invalid, "a dropout column beyond \(Limits.featuresMax)")
        }
    }

    func epsilon(_ epsilon: Float) throws(ProgramError) {
        guard epsilon > 0, epsilon.isFinite else { throw ProgramError(.invalid, "an epsilon that is not above 0") }
    }

    /// The operands of a chain that ends in `target`. A matrix operand may be the target itself, element by element.
    mutating func steps(_ steps: [Step], on target: Matrix, _ rows: Int, _ columns: Int) throws(ProgramError) {
        guard steps.count <= Program.stepsMax else { throw ProgramError(.tooLarge, "too many steps") }
        for step in steps {
            switch step {
            case .bias(let place), .scaleColumns(let place): try read(place, bytes: columns * 4)
            case .scaleRows(let place): try read(place, bytes: rows * 4)
            case .scale(let constant):
                guard constant.isFinite else { throw ProgramError(.invalid, "a scale that is not finite") }
            case .relu, .elu: break
            case .reluGradient(let other), .add(let other), .eluGradient(let other):
                if other != target { try read(other, rows, columns) }
            case .dropout(let dropout): try self.dropout(dropout)
            case .normalise(let epsilon): try self.epsilon(epsilon)
            case .normaliseGradient(let gradient):
                try epsilon(gradient.epsilon)
                try read(gradient.input, rows, columns)
            case .addHeads(let outer):
                try heads(outer.heads, dividing: columns)
                try read(outer.factors, rows, outer.heads)
                try read(outer.vector, bytes: columns * 4)
            }
        }
    }

    /// Within one command, what is written is neither read nor written a second time.
    func checkDisjoint() throws(ProgramError) {
        for (index, access) in accesses.enumerated() {
            for other in accesses[..<index] where access.meets(other) {
                throw ProgramError(.invalid, "what is written shares bytes with another operand")
            }
        }
    }
}

// MARK: - Order

extension Program {
    /// Two commands that share bytes, one of them writing, must be ordered: by their queue, or by dependencies.
    ///
    /// Each command's clock says, for each queue, the highest command known to have ended before it starts; a command
    /// a of queue q has ended before b exactly if b's clock at q is at least a.
    private func checkOrder(_ accesses: [[Access]]) throws(ProgramError) {
        var table = try SharedBytes(accesses)
        var clocks: [Clock] = []
        clocks.reserveCapacity(commands.count)
        var last = Clock(repeating: -1)
        for (index, command) in commands.enumerated() {
            guard command.dependsOn.count <= Program.dependenciesMax else {
                throw ProgramError(.tooLarge, "too many dependencies", command: index)
            }
            let queue = command.operation.queue.rawValue
            var clock = Clock(repeating: -1)
            func join(_ earlier: Int32) {
                var other = clocks[Int(earlier)]
                other[commands[Int(earlier)].operation.queue.rawValue] = earlier
                clock.replace(with: other, where: other .> clock)
            }
            for dependency in command.dependsOn {
                guard dependency < UInt32(index) else {
                    throw ProgramError(
                        .unordered, "it depends on command \(dependency), which is not before it", command: index)
                }
                join(Int32(dependency))
            }
            if last[queue] >= 0 { join(last[queue]) }
            last[queue] = Int32(index)
            clocks.append(clock)
            // Its own operands were found apart, element by element.
            clock[queue] = Int32(index)
            for access in accesses[index] {
                if let other = try table.note(access, by: Int32(index), queue: queue, after: clock) {
                    throw ProgramError(
                        .unordered, "it shares bytes with command \(other) and is not ordered after it",
                        command: index)
                }
            }
        }
    }

    fileprivate typealias Clock = SIMD4<Int32>
}

/// Who touched which bytes last. Bytes are cut where any access begins or ends.
private struct SharedBytes {
    private struct Marks {
        var written = Program.Clock(repeating: -1)
        var read = Program.Clock(repeating: -1)
    }
    /// Cuts and marks of device memory (`nil`) and of each window.
    private var cuts: [UInt16?: [Int]] = [:]
    private var marks: [UInt16?: [Marks]] = [:]
    private var budget = 1 << 26

    init(_ accesses: [[Access]]) throws(ProgramError) {
        for access in accesses.joined() { cuts[access.window, default: []] += [access.lower, access.upper] }
        for (space, ends) in cuts {
            var unique: [Int] = []
            for end in ends.sorted() where end != unique.last { unique.append(end) }
            cuts[space] = unique
            marks[space] = Array(repeating: Marks(), count: unique.count)
        }
    }

    /// Marks the access; returns a command that it is not ordered after.
    mutating func note(
        _ access: Access, by command: Int32, queue: Int, after clock: Program.Clock
    ) throws(ProgramError) -> Int32? {
        let lower = position(access.lower, in: access.window)
        let upper = position(access.upper, in: access.window)
        budget -= upper - lower
        guard budget >= 0 else { throw ProgramError(.tooLarge, "buffers cut each other into too many pieces") }
        return marks[access.window]!.withUnsafeMutableBufferPointer { marks in
            for index in lower..<upper {
                if let other = Self.first(marks[index].written, after: clock) { return other }
                if access.writes {
                    if let other = Self.first(marks[index].read, after: clock) { return other }
                    // Everything before is ordered before this write, so this write stands for all of it.
                    marks[index] = Marks()
                    marks[index].written[queue] = command
                } else {
                    marks[index].read[queue] = command
                }
            }
            return nil
        }
    }

    private static func first(_ marks: Program.Clock, after clock: Program.Clock) -> Int32? {
        let open = marks .> clock
        return any(open) ? (0..<4).first { open[$0] }.map { marks[$0] } : nil
    }

    private func position(_ offset: Int, in space: UInt16?) -> Int {
        let ends = cuts[space]!
        var low = 0
        var high = ends.count
        while low < high {
            let middle = (low + high) / 2
            if ends[middle] < offset { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

extension Operation {
    /// Whether it makes each row by itself: of the same row of what it works on, and of what it does not change.
    package var goesByRows: Bool {
        switch self {
        case .map, .aggregate, .attentionScale, .attend, .attentionGradient, .headDots, .product: true
        case .fetch, .store, .fill, .copy, .tileProduct, .tileColumnSum, .tileFinish, .labelWeight, .loss, .adam,
            .initialise, .keepBest, .report, .measure, .mark, .reach:
            false
        }
    }

    /// Rows that it goes over, where some of them may matter and others not.
    package var activeRows: Int? {
        switch self {
        case .map(let map): map.rows
        case .aggregate(let aggregate): aggregate.neighbours.rows
        case .attentionScale(let scale): scale.neighbours.rows
        case .attend(let attend): attend.neighbours.rows
        case .attentionGradient(let gradient): gradient.neighbours.rows
        case .headDots(let dots): dots.rows
        case .product(let product): product.rows
        case .tileProduct(let tile): tile.rows
        case .tileColumnSum(let tile): tile.rows
        case .fetch, .store, .fill, .copy, .tileFinish, .labelWeight, .loss, .adam, .initialise, .keepBest, .report,
            .measure, .mark, .reach:
            nil
        }
    }
}
