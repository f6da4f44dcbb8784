package import Vocabulary

/// What a buffer of device memory holds.
enum BufferContent {
    case fixed(TrainingPlan.Fixed)
    /// All rows of a value.
    case whole(ValueIndex)
    /// The chunks of a value that stay.
    case resident(ValueIndex)
    /// A chunk of rows of a value; or one of the slots that so many chunks are fetched to and stored from in turn.
    case rows(ValueIndex)
    case slot(ValueIndex, Int, span: Int)
    /// A span of all slices of a value, on its way between them and the rows.
    case parts(ValueIndex, Int)
    /// A slice of a source, or of the sums over it.
    case slice(ValueIndex, Int)
    /// Neighbours of a group of chunks.
    case neighbours(ValueIndex, Int)
    case nodes(NodeSection, Int)
    /// Sums of a weight's gradient over tiles.
    case stack(ParameterLayout.Entry)
}

/// What is told of each buffer that a layout needs. The search only adds bytes up; a plan also keeps who they are.
protocol BufferSink {
    /// - Parameters:
    ///   - steps: of the epoch, counted over all passes, during which it holds something.
    ///   - passes: those of that time; `nil` for the whole run.
    mutating func add(_ content: BufferContent, _ bytes: Int, steps: ClosedRange<Int>, passes: ClosedRange<Int>?)
}

/// The most bytes of device memory that are in use at once, in each pass of a layout.
struct DeviceUsage {
    let byPass: [Int]
    /// By pass, then value: bytes of the slots that it moves through.
    private let slotBytes: [Int]
    private let values: Int

    init(_ layout: Layout) {
        var sums = Sums(layout, steps: layout.bases.last!)
        layout.tellBuffers(&sums)
        var inUse = 0
        var most = Array(repeating: 0, count: layout.passes.count)
        for pass in most.indices {
            for step in layout.bases[pass]..<layout.bases[pass + 1] {
                inUse += sums.changes[step]
                most[pass] = max(most[pass], inUse)
            }
        }
        byPass = most
        slotBytes = sums.slotBytes
        values = layout.values.count
    }

    /// What an arena needs at least.
    var leastBytes: Int { byPass.max() ?? 0 }

    func slotBytes(_ value: ValueIndex, in pass: Int) -> Int { slotBytes[pass * values + value] }

    private struct Sums: BufferSink {
        /// By step: bytes more than in the one before.
        var changes: [Int]
        var slotBytes: [Int]
        private let values: Int

        init(_ layout: Layout, steps: Int) {
            values = layout.values.count
            changes = Array(repeating: 0, count: steps + 1)
            slotBytes = Array(repeating: 0, count: layout.passes.count * values)
        }

        mutating func add(
            _ content: BufferContent, _ bytes: Int, steps: ClosedRange<Int>, passes: ClosedRange<Int>?
        ) {
            let aligned = (bytes + Planner.alignment - 1) / Planner.alignment * Planner.alignment
            changes[steps.lowerBound] += aligned
            changes[steps.upperBound + 1] -= aligned
            switch content {
            case .slot(let value, _, _), .neighbours(let value, _):
                slotBytes[passes!.lowerBound * values + value] += bytes
            case .rows(let value): slotBytes[passes!.lowerBound * values + value] += bytes
            case .fixed, .whole, .resident, .parts, .slice, .nodes, .stack: break
            }
        }
    }
}

/// Buffers of device memory for a layout, before they have places.
struct MemoryMap: BufferSink {
    struct Item {
        let name: String
        let bytes: Int
        let lifetime: ClosedRange<Int>
        let passes: ClosedRange<Int>?
    }

    struct Slots {
        var buffers: [Int]
        /// Chunks in each.
        let span: Int
    }

    private(set) var items: [Item] = []
    private(set) var fixed: [TrainingPlan.Fixed: Int] = [:]
    /// By value: a buffer for each time that it lies in device memory whole.
    private(set) var whole: [[Int]]
    /// By value: the buffer of the chunks that stay; −1 where none do.
    private(set) var resident: [Int]
    /// By pass, then by value: a buffer for a chunk, or two that spans are fetched to and stored from in turn.
    private(set) var local: [[ValueIndex: Slots]]
    /// By pass, then by value: buffers of slices.
    private(set) var parts: [[ValueIndex: [Int]]]
    /// By pass, then by topology's neighbours: their buffers where sums go slice by slice.
    private(set) var sliceColumns: [[ValueIndex: [Int]]]
    /// By pass: buffers of the numbers of nodes that are fetched.
    private(set) var nodes: [[NodeSection: [Int]]]
    /// By pass: weights whose gradient it adds to.
    private(set) var stacks: [[(entry: ParameterLayout.Entry, buffer: Int)]]
    private let names: [String]

    init(_ layout: Layout) {
        let passes = layout.passes.count
        names = layout.values.map(\.name)
        whole = Array(repeating: [], count: names.count)
        resident = Array(repeating: -1, count: names.count)
        local = Array(repeating: [:], count: passes)
        parts = Array(repeating: [:], count: passes)
        sliceColumns = Array(repeating: [:], count: passes)
        nodes = Array(repeating: [:], count: passes)
        stacks = Array(repeating: [], count: passes)
        layout.tellBuffers(&self)
    }

    mutating func add(_ content: BufferContent, _ bytes: Int, steps: ClosedRange<Int>, passes: ClosedRange<Int>?) {
        let index = items.count
        let pass = passes?.lowerBound ?? 0
        let name: String
        switch content {
        case .fixed(let role):
            name = role.rawValue
            fixed[role] = index
        case .whole(let value):
            name = names[value]
            whole[value].append(index)
        case .resident(let value):
            name = names[value]
            resident[value] = index
        case .rows(let value):
            name = names[value]
            local[pass][value] = Slots(buffers: [index], span: 1)
        case .slot(let value, let slot, let span):
            name = "\(names[value]) chunk \(slot)"
            local[pass][value, default: Slots(buffers: [], span: span)].buffers.append(index)
        case .parts(let value, let slot):
            name = "\(names[value]) slices \(slot)"
            parts[pass][value, default: []].append(index)
        case .slice(let value, let slot):
            name = "\(names[value]) slice \(slot)"
            parts[pass][value, default: []].append(index)
        case .neighbours(let columns, let slot):
            name = "neighbours \(slot)"
            sliceColumns[pass][columns, default: []].append(index)
        case .nodes(let section, let slot):
            name = "\(section.role.rawValue) of nodes \(slot)"
            nodes[pass][section, default: []].append(index)
        case .stack(let entry):
            name = "stack of \(entry.name)"
            stacks[pass].append((entry, index))
        }
        items.append(Item(name: name, bytes: bytes, lifetime: steps, passes: passes))
    }

    /// What an arena has to place.
    var arenaItems: [Arena.Item] { items.map { Arena.Item(bytes: $0.bytes, lifetime: $0.lifetime) } }
    var pinned: [Int] { TrainingPlan.Fixed.state.compactMap { fixed[$0] } }
}

extension Layout {
    /// Buffers of each that moves: one is filled or drained while the other is worked on.
    private var turns: Int { decision.takesTurns ? 1 : 2 }

    /// Tells of every buffer, in a fixed order.
    func tellBuffers(_ sink: inout some BufferSink) {
        addFixed(&sink)
        for value in storage.indices { addKept(value, &sink) }
        var touched = Touched(storage.count)
        for pass in passes.indices where !passes[pass].isEmpty {
            addRows(pass, &touched, &sink)
            addSlices(pass, &sink)
            if decision.fetchesNodeSections { addNodes(pass, &sink) }
        }
    }

    private func add(
        _ content: BufferContent, _ bytes: Int, _ passes: ClosedRange<Int>?, _ sink: inout some BufferSink
    ) {
        let steps = passes.map { bases[$0.lowerBound]...bases[$0.upperBound + 1] - 1 } ?? 0...bases.last! - 1
        sink.add(content, bytes, steps: steps, passes: passes)
    }

    /// For some steps of a pass.
    private func add(
        _ content: BufferContent, _ bytes: Int, _ steps: ClosedRange<Int>, of pass: Int, _ sink: inout some BufferSink
    ) {
        sink.add(
            content, bytes, steps: bases[pass] + steps.lowerBound...bases[pass] + steps.upperBound, passes: pass...pass)
    }

    private func addFixed(_ sink: inout some BufferSink) {
        for (role, bytes) in analysis.fixedBytes
        where !decision.fetchesNodeSections || role.section(image) == nil {
            add(.fixed(role), bytes, nil, &sink)
        }
    }

    private func addKept(_ value: ValueIndex, _ sink: inout some BufferSink) {
        let storage = storage[value]
        for index in storage.whole { add(.whole(value), wholeBytes(value), wholes[index], &sink) }
        if let passes = storage.resident, storage.residentChunks > 0 {
            let always = analysis.values[value].section != nil
            add(
                .resident(value), bytes(value, chunks: storage.residentChunks), always ? nil : passes, &sink)
        }
    }

    /// By value: the first and last step of a pass that touches its rows, and whether they cross.
    private struct Touched {
        var first: [Int]
        var last: [Int]
        var crosses: [Bool]

        init(_ values: Int) {
            first = Array(repeating: -1, count: values)
            last = first
            crosses = Array(repeating: false, count: values)
        }

        mutating func touch(_ value: ValueIndex, _ step: Int) {
            if first[value] < 0 { first[value] = step }
            last[value] = step
        }
    }

    private func addRows(_ pass: Int, _ touched: inout Touched, _ sink: inout some BufferSink) {
        var stacks: [ParameterLayout.Entry] = []
        for (index, step) in passes[pass].steps.enumerated() {
            switch step {
            case .fetch(let value), .store(let value):
                touched.crosses[value] = true
                touched.touch(value, index)
            case .fetchParts(let value), .storeParts(let value):
                for slot in 0..<min(turns, spans(value)) {
                    add(.parts(value, slot), partsBytes(value), pass...pass, &sink)
                }
                touched.touch(value, index)
            case .run(let op):
                for value in analysis.facts[op].inputs { touched.touch(value, index) }
                for value in analysis.facts[op].outputs { touched.touch(value, index) }
                if let entry = analysis.facts[op].gradientEntry, !stacks.contains(where: { $0.offset == entry.offset })
                {
                    stacks.append(entry)
                }
            case .finishSum(let op):
                for value in analysis.facts[op].inputs { touched.touch(value, index) }
                for value in analysis.sums[op] { touched.touch(value, index) }
                for value in analysis.facts[op].outputs { touched.touch(value, index) }
            }
        }
        for value in touched.first.indices where touched.first[value] >= 0 {
            if isLocal(value, in: pass) { addLocal(value, pass, touched, &sink) }
            touched.first[value] = -1
            touched.crosses[value] = false
        }
        let tiles = (image.nodes + ImageShape.tileRows - 1) / ImageShape.tileRows
        // The levels of a binary counter over the tiles, and the sum of the tile at hand.
        let levels = Int.bitWidth - tiles.leadingZeroBitCount + 1
        for entry in stacks {
            // The sum of a part of a matrix lies behind them, before its rows go to theirs.
            let parts = entry.isContiguous ? levels : levels + 1
            add(.stack(entry), parts * entry.count * 4, pass...pass, &sink)
        }
    }

    private func addLocal(_ value: ValueIndex, _ pass: Int, _ touched: Touched, _ sink: inout some BufferSink) {
        guard touched.crosses[value] else {
            let bytes = min(decision.chunkRows, image.nodes) * rowBytes(value)
            return add(.rows(value), bytes, touched.first[value]...touched.last[value], of: pass, &sink)
        }
        let span = storage[value].span
        for slot in 0..<min(turns, spans(value)) {
            add(.slot(value, slot, span: span), slotBytes(value), pass...pass, &sink)
        }
    }

    private func addNodes(_ pass: Int, _ sink: inout some BufferSink) {
        for section in nodeSections(passes[pass]) {
            let bytes = image.bytes(section, rows: table.rows(ofSpan: 0)).count
            for slot in 0..<min(turns, table.spans) { add(.nodes(section, slot), bytes, pass...pass, &sink) }
        }
    }

    private func addSlices(_ pass: Int, _ sink: inout some BufferSink) {
        for (number, (source, ops)) in passes[pass].sliced.enumerated() {
            let steps = number...number
            let all = storage[source].slices
            let widest = all.reduce(0) { max($0, sliceBytes(source, slices[$1])) }
            for slot in 0..<min(turns, all.count) { add(.slice(source, slot), widest, steps, of: pass, &sink) }
            for (index, op) in ops.enumerated() {
                let grouping = grouping(op)
                var most = 0
                var lower = 0
                while lower < chunks {
                    most = max(most, grouping.end(of: lower) - lower)
                    lower = grouping.end(of: lower)
                }
                for sum in analysis.sums[op] {
                    let widest = storage[sum].slices.reduce(0) {
                        max($0, groupBytes(sum, slices[$1], 0..<most))
                    }
                    for slot in 0..<turns { add(.slice(sum, slot), widest, steps, of: pass, &sink) }
                }
                let relation = analysis.facts[op].relation!
                let isKnown = { (other: OpIndex) in analysis.facts[other].relation == relation }
                guard !ops[..<index].contains(where: isKnown),
                    !passes[pass].sliced[..<number].contains(where: { $0.ops.contains(where: isKnown) }),
                    let neighbours = neighbours(relation, pass)
                else { continue }
                for slot in 0..<turns {
                    add(.neighbours(analysis.columns[relation], slot), neighbours, pass...pass, &sink)
                }
            }
        }
    }

    /// Bytes of the most neighbours of one topology that any group of a pass over slices fetches.
    private func neighbours(_ relation: Int, _ pass: Int) -> Int? {
        let kept = storage[analysis.columns[relation]].residentChunks
        var most: Int?
        for (_, ops) in passes[pass].sliced {
            for op in ops where analysis.facts[op].relation == relation {
                let grouping = grouping(op)
                var lower = 0
                while lower < chunks {
                    let group = lower..<grouping.end(of: lower)
                    if group.upperBound > kept {
                        most = max(most ?? 4, edges(group, relation: relation).count * 4)
                    }
                    lower = group.upperBound
                }
            }
        }
        return most
    }
}

extension TrainingPlan.Fixed {
    func bytes(_ model: ModelShape, _ image: ImageShape) -> Int {
        switch self {
        case .rowPointers, .scale, .labels, .split: section(image).map(image.byteCount) ?? 0
        case .classWeights: model.weighsClasses ? image.classes * 4 : 0
        case .parameters, .gradients, .firstMoments, .secondMoments, .best: model.parameters.count * 4
        case .trainScores, .evaluateScores: 2048
        case .total: 8
        case .bestState: 32
        case .marks: image.nodes
        }
    }
}

extension ImageRecipe {
    /// The section that says what is right.
    package var targetSection: ImageSection {
        switch target {
        case .classes: .labels
        case .classSets: .labelSets
        case .values: .targets
        }
    }
}
