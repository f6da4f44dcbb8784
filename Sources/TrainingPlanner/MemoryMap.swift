package import Vocabulary

/// Buffers of device memory for a layout, before they have places.
struct MemoryMap {
    struct Item {
        let name: String
        let bytes: Int
        /// Steps of the epoch, counted over all passes, during which it holds something.
        let lifetime: ClosedRange<Int>
        /// Passes of its lifetime; `nil` for the whole run.
        let passes: ClosedRange<Int>?
    }

    private(set) var items: [Item] = []
    private(set) var fixed: [TrainingPlan.Fixed: Int] = [:]
    /// By value: a buffer for each time that it lies in device memory whole.
    private(set) var whole: [[Int]]
    /// By value: the buffer of the chunks that stay; −1 where none do.
    private(set) var resident: [Int]
    /// By pass, then by value: one buffer, or two that are filled and drained in turn.
    private(set) var local: [[ValueIndex: [Int]]]
    /// By pass, then by value: buffers of single slices.
    private(set) var parts: [[ValueIndex: [Int]]]
    /// By pass, then by topology's neighbours: their buffers where sums go slice by slice.
    private(set) var sliceColumns: [[ValueIndex: [Int]]]
    /// By pass: buffers of the numbers of nodes that are fetched.
    private(set) var nodes: [[NodeSection: [Int]]]
    /// By pass, then by the weights' offset.
    private(set) var stacks: [[Int: Int]]

    private var bases: [Int]

    init(_ layout: Layout) {
        let values = layout.values.count
        let passes = layout.passes.count
        whole = Array(repeating: [], count: values)
        resident = Array(repeating: -1, count: values)
        local = Array(repeating: [:], count: passes)
        parts = Array(repeating: [:], count: passes)
        sliceColumns = Array(repeating: [:], count: passes)
        nodes = Array(repeating: [:], count: passes)
        stacks = Array(repeating: [:], count: passes)
        bases = [0]
        for pass in layout.passes { bases.append(bases.last! + pass.steps.count + 1) }
        addFixed(layout)
        for value in layout.values.indices { addKept(value, layout) }
        for pass in layout.passes.indices where !layout.passes[pass].isEmpty {
            addRows(pass, layout)
            addSlices(pass, layout)
            if layout.decision.fetchesNodeSections { addNodes(pass, layout) }
        }
    }

    /// The most bytes that are in use at once; what an arena needs at least.
    var leastBytes: Int { usage.max() ?? 0 }

    /// Bytes in use at each step.
    private var usage: [Int] {
        var changes = Array(repeating: 0, count: bases.last! + 1)
        for item in items {
            let bytes = (item.bytes + Planner.alignment - 1) / Planner.alignment * Planner.alignment
            changes[item.lifetime.lowerBound] += bytes
            changes[item.lifetime.upperBound + 1] -= bytes
        }
        for index in changes.indices.dropFirst() { changes[index] += changes[index - 1] }
        return changes
    }

    /// The most bytes in use at once in each pass.
    var usageByPass: [Int] {
        let usage = usage
        return (0..<bases.count - 1).map { pass in
            usage[bases[pass]..<bases[pass + 1]].max() ?? 0
        }
    }

    private func steps(_ passes: ClosedRange<Int>) -> ClosedRange<Int> {
        bases[passes.lowerBound]...bases[passes.upperBound + 1] - 1
    }

    private mutating func add(_ name: String, _ bytes: Int, _ passes: ClosedRange<Int>?) -> Int {
        let lifetime = passes.map(steps) ?? 0...bases.last! - 1
        items.append(Item(name: name, bytes: bytes, lifetime: lifetime, passes: passes))
        return items.count - 1
    }

    private mutating func addFixed(_ layout: Layout) {
        for role in layout.graph.result == nil ? TrainingPlan.Fixed.allCases : TrainingPlan.Fixed.prediction
        where !layout.decision.fetchesNodeSections || role.section(layout.image) == nil {
            let bytes = role.bytes(layout.graph.model, layout.image)
            if bytes > 0 { fixed[role] = add(role.rawValue, bytes, nil) }
        }
    }

    private mutating func addKept(_ value: ValueIndex, _ layout: Layout) {
        let storage = layout.storage[value]
        let name = layout.values[value].name
        for passes in storage.whole {
            whole[value].append(add(name, layout.wholeBytes(value), passes))
        }
        if let passes = storage.resident, storage.residentChunks > 0 {
            let always = layout.values[value].section != nil
            resident[value] = add(
                name, layout.bytes(value, chunks: storage.residentChunks), always ? nil : passes)
        }
    }

    private mutating func addRows(_ pass: Int, _ layout: Layout) {
        let steps = layout.passes[pass].steps
        let slots = min(2, layout.chunks)
        var first: [ValueIndex: Int] = [:]
        var last: [ValueIndex: Int] = [:]
        var queued: Set<ValueIndex> = []
        var ops: [OpIndex] = []
        for (index, step) in steps.enumerated() {
            let touched: [ValueIndex]
            switch step {
            case .fetch(let value), .store(let value):
                queued.insert(value)
                touched = [value]
            case .fetchPart(let value, let slice), .storePart(let value, let slice):
                if slice == 0 {
                    let bytes = layout.stride(width: layout.storage[value].sliceWidth)
                    parts[pass][value] = (0..<slots).map { slot in
                        add("\(layout.values[value].name) slice \(slot)", bytes, pass...pass)
                    }
                }
                touched = [value]
            case .run(let op):
                ops.append(op)
                touched = layout.graph.ops[op].inputs + layout.graph.ops[op].outputs
            case .finishSum(let op):
                touched = layout.graph.ops[op].inputs + layout.analysis.sums[op] + layout.graph.ops[op].outputs
            }
            for value in touched {
                if first[value] == nil { first[value] = index }
                last[value] = index
            }
        }
        for (value, from) in first.sorted(by: { $0.key < $1.key }) where layout.isLocal(value, in: pass) {
            let name = layout.values[value].name
            if queued.contains(value) {
                local[pass][value] = (0..<slots).map { slot in
                    add("\(name) chunk \(slot)", layout.slotBytes(value), pass...pass)
                }
            } else {
                let bytes = min(layout.decision.chunkRows, layout.image.nodes) * layout.rowBytes(value)
                items.append(
                    Item(
                        name: name, bytes: bytes, lifetime: bases[pass] + from...bases[pass] + last[value]!,
                        passes: pass...pass))
                local[pass][value] = [items.count - 1]
            }
        }
        let tiles = (layout.image.nodes + ImageShape.tileRows - 1) / ImageShape.tileRows
        // The levels of a binary counter over the tiles, and the sum of the tile at hand.
        let levels = Int.bitWidth - tiles.leadingZeroBitCount + 1
        for entry in ops.compactMap({ layout.graph.ops[$0].gradientEntry }) where stacks[pass][entry.offset] == nil {
            stacks[pass][entry.offset] = add("stack of \(entry.name)", levels * entry.count * 4, pass...pass)
        }
    }

    private mutating func addNodes(_ pass: Int, _ layout: Layout) {
        for section in layout.nodeSections(layout.passes[pass]) {
            let bytes = layout.bytes(section, rows: layout.rows(ofSpan: 0)).count
            nodes[pass][section] = (0..<min(2, layout.spans)).map { slot in
                add("\(section.role.rawValue) of nodes \(slot)", bytes, pass...pass)
            }
        }
    }

    private mutating func addSlices(_ pass: Int, _ layout: Layout) {
        for (source, ops) in layout.passes[pass].sliced {
            let width = layout.storage[source].sliceWidth
            let name = layout.values[source].name
            let slices = layout.ranges(source).count
            parts[pass][source] = (0..<min(2, slices)).map { slot in
                add("\(name) slice \(slot)", layout.heldSliceBytes(width: width), pass...pass)
            }
            for op in ops {
                let relation = layout.graph.ops[op].relation!
                let groups = layout.groups(source, relation: relation)
                let rows = groups.map(\.count).max()! * layout.stride(width: width)
                for sum in layout.analysis.sums[op] {
                    parts[pass][sum] = (0..<2).map { slot in
                        add("\(layout.values[sum].name) slice \(slot)", rows, pass...pass)
                    }
                }
                let columns = layout.analysis.columns[relation]
                let kept = layout.storage[columns].residentChunks
                let moved = groups.filter { $0.lowerBound >= kept }
                    .map { layout.edges($0, relation: relation).count * 4 }.max()
                guard let moved, sliceColumns[pass][columns] == nil else { continue }
                sliceColumns[pass][columns] = (0..<2).map { slot in
                    add("neighbours \(slot)", max(moved, 4), pass...pass)
                }
            }
        }
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
