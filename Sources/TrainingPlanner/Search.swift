import Vocabulary

/// Looks for the cheapest decision that fits a budget.
///
/// For a given chunk size it cuts sources into slices until the least that must lie in device memory fits, then fills
/// what memory is left with what saves most seconds for each byte (a fractional knapsack: the last value stays in
/// part), and then tries to do better by recomputing, by other slices and by other chunks, one change at a time.
struct Search {
    let analysis: Analysis
    let budget: Budget
    private let tables: [Int: ChunkTable]
    private var evaluations = 0
    /// Bounds planning time; the order of trials puts the promising ones first.
    private static let evaluationsMax = 80

    init(_ analysis: Analysis, _ budget: Budget) {
        self.analysis = analysis
        self.budget = budget
        tables = Dictionary(
            uniqueKeysWithValues: Self.chunkRows(analysis.graph.image).map {
                ($0, ChunkTable(analysis.graph, chunkRows: $0))
            })
    }

    /// A decision and what it comes to, before buffers have places.
    struct Candidate {
        let layout: Layout
        let memory: MemoryMap
        let spills: SpillMap
        let costs: [PassCost]
        let seconds: Double
        let leastBytes: Int
        var commands: Int { costs.reduce(0) { $0 + $1.commands } }
    }

    func candidate(_ decision: Decision) -> Candidate {
        let table =
            tables[decision.chunkRows] ?? ChunkTable(analysis.graph, chunkRows: decision.chunkRows)
        let layout = Layout(analysis, decision, table)
        let memory = MemoryMap(layout)
        let spills = SpillMap(layout, hostBytesMax: budget.hostBytes)
        let costs = layout.costs(spills, budget)
        return Candidate(
            layout: layout, memory: memory, spills: spills, costs: costs,
            seconds: costs.reduce(0) { $0 + $1.seconds(budget).pass }, leastBytes: memory.leastBytes)
    }

    func plan(_ candidate: Candidate) -> TrainingPlan {
        TrainingPlan(candidate.layout, candidate.memory, candidate.spills, candidate.costs, budget)
    }

    func fits(_ forecast: TrainingPlan.Forecast) -> Bool {
        forecast.deviceBytes <= budget.deviceBytes && forecast.hostBytes <= budget.hostBytes
            && forecast.ssdBytes <= budget.ssdBytes
    }

    // MARK: Best

    mutating func best() -> TrainingPlan? {
        var best: Candidate?
        var byRows: [(chunkRows: Int, candidate: Candidate)] = []
        for rows in chunkRows {
            guard let start = start(rows) else { continue }
            byRows.append((rows, start))
            if best.map({ better(start, $0) }) ?? true { best = start }
        }
        guard var chosen = best else {
            // What the search has no room for may still fit as the least plan of all.
            guard let least = least(), fits(least.forecast) else { return nil }
            return explained(least, [])
        }
        var improves = true
        while improves, evaluations < Self.evaluationsMax {
            improves = false
            for neighbour in neighbours(chosen.layout.decision) where evaluations < Self.evaluationsMax {
                guard let filled = fill(neighbour), better(filled, chosen) else { continue }
                chosen = filled
                improves = true
            }
        }
        guard let plan = placed(chosen) else { return nil }
        return explained(plan, byRows.map(\.candidate))
    }

    private func better(_ left: Candidate, _ right: Candidate) -> Bool {
        (left.seconds, left.leastBytes) < (right.seconds, right.leastBytes)
    }

    /// Chunk sizes worth looking at. Chunks of a few thousand rows keep intermediates near the cores, so the largest
    /// are not the fastest even where they fit.
    private static func chunkRows(_ image: ImageShape) -> [Int] {
        var sizes: [Int] = []
        var rows = ImageShape.tileRows
        while rows <= 1 << 16 {
            sizes.append(rows)
            if rows >= image.nodes { break }
            rows *= 2
        }
        return sizes.reversed()
    }

    private var chunkRows: [Int] { Self.chunkRows(analysis.graph.image) }

    private var movable: [ValueIndex] { analysis.choicesByIndex.filter(\.1.moves).map(\.0) }

    /// Everything that may move moves; sources are whole.
    private func emptiest(_ rows: Int) -> Decision {
        var decision = Decision(chunkRows: rows, values: analysis.values.count)
        for value in movable { decision.ways[value] = .moved(residentChunks: 0) }
        for value in analysis.graph.values.indices where analysis.values[value].section != nil {
            decision.ways[value] = .moved(residentChunks: 0)
        }
        return decision
    }

    private mutating func start(_ rows: Int) -> Candidate? {
        var best: Candidate?
        // With few chunks, what moves takes hardly less room in its slots than all of it would.
        for moves in [true, false] {
            for recomputes in [false, true] {
                var decision =
                    moves ? emptiest(rows) : Decision(chunkRows: rows, values: analysis.values.count)
                if recomputes { for value in recomputable { decision.ways[value] = .recompute } }
                guard let cut = sliced(decision, to: budget.deviceBytes), let filled = fill(cut),
                    best.map({ better(filled, $0) }) ?? true
                else { continue }
                best = filled
            }
        }
        return best
    }

    private var recomputable: [ValueIndex] { analysis.choicesByIndex.filter(\.1.recomputes).map(\.0) }

    /// Narrows sources until the least fits; `nil` if it never does.
    private mutating func sliced(_ decision: Decision, to bytes: Int) -> Decision? {
        var decision = decision
        while true {
            evaluations += 1
            let candidate = candidate(decision)
            if candidate.leastBytes <= bytes {
                return candidate.commands <= Planner.commandsMax ? decision : nil
            }
            guard candidate.commands <= Planner.commandsMax, let value = widest(candidate) else { return nil }
            decision.sliceWidths[value] = narrower(value, decision)
        }
    }

    /// Of the sources that lie in device memory where most is in use, the one that takes most of it.
    private func widest(_ candidate: Candidate) -> ValueIndex? {
        let usage = candidate.memory.usageByPass
        let order = usage.indices.sorted { (usage[$0], $1) > (usage[$1], $0) }
        for pass in order {
            let here = analysis.graph.values.indices.filter { value in
                canSlice(value) && narrower(value, candidate.layout.decision) > 0
                    && (candidate.layout.storage[value].isWhole(in: pass)
                        || candidate.layout.passes[pass].sliced.contains { $0.source == value })
            }
            func width(_ value: ValueIndex) -> Int {
                let slice = candidate.layout.storage[value].sliceWidth
                return slice > 0 ? slice : analysis.values[value].width
            }
            if let value = here.max(by: { (width($0), $1) < (width($1), $0) }) { return value }
            // Slicing elsewhere does not help the fullest pass.
            if usage[pass] > budget.deviceBytes { return nil }
        }
        return nil
    }

    private func canSlice(_ value: ValueIndex) -> Bool {
        !analysis.gatheredIn[value].isEmpty && analysis.sliceable[value]
    }

    /// The next narrower power of two; 0 where there is none.
    private func narrower(_ value: ValueIndex, _ decision: Decision) -> Int {
        let width = decision.sliceWidths[value] > 0 ? decision.sliceWidths[value] : analysis.values[value].width
        var power = 1
        while power * 2 < width { power *= 2 }
        return width > 1 ? power : 0
    }

    private func wider(_ value: ValueIndex, _ decision: Decision) -> Int {
        let width = decision.sliceWidths[value] * 2
        return width >= analysis.values[value].width ? 0 : width
    }

    /// Decisions that differ in one respect, with nothing kept that need not be.
    private func neighbours(_ decision: Decision) -> [Decision] {
        var empty = emptiest(decision.chunkRows)
        empty.sliceWidths = decision.sliceWidths
        for value in recomputable where decision.ways[value] == .recompute { empty.ways[value] = .recompute }
        var result: [Decision] = []
        for value in recomputable {
            var changed = empty
            changed.ways[value] = empty.ways[value] == .recompute ? .moved(residentChunks: 0) : .recompute
            result.append(changed)
        }
        for value in analysis.graph.values.indices where canSlice(value) {
            if empty.sliceWidths[value] > 0 {
                var changed = empty
                changed.sliceWidths[value] = wider(value, empty)
                result.append(changed)
            }
            let width = narrower(value, empty)
            if width > 0 {
                var changed = empty
                changed.sliceWidths[value] = width
                result.append(changed)
            }
        }
        for rows in [decision.chunkRows / 2, decision.chunkRows * 2] where chunkRows.contains(rows) {
            var changed = empty
            changed.chunkRows = rows
            result.append(changed)
        }
        return result
    }

    // MARK: Filling

    /// Keeps in device memory what saves most, as far as it fits. `nil` if even the least does not.
    private mutating func fill(_ decision: Decision) -> Candidate? {
        var room = budget.deviceBytes
        // Buffers leave gaps in the arena, so the first filling may turn out a little too large.
        for _ in 0..<4 {
            evaluations += 1
            let empty = candidate(decision)
            guard empty.leastBytes <= room, empty.commands <= Planner.commandsMax else { break }
            let filled = candidate(Knapsack(empty, budget, room: room).filled)
            guard filled.leastBytes <= budget.deviceBytes else {
                room -= filled.leastBytes - budget.deviceBytes
                continue
            }
            let forecast = plan(filled).forecast
            if fits(forecast) { return filled }
            guard forecast.deviceBytes > budget.deviceBytes else { return nil }
            room -= forecast.deviceBytes - budget.deviceBytes
        }
        let empty = candidate(decision)
        return fits(plan(empty).forecast) && empty.commands <= Planner.commandsMax ? empty : nil
    }

    private func placed(_ candidate: Candidate) -> TrainingPlan? {
        let plan = plan(candidate)
        return fits(plan.forecast) ? plan : nil
    }

    // MARK: Least

    /// The plan that needs the least device memory.
    mutating func least() -> TrainingPlan? {
        var least: TrainingPlan?
        for rows in chunkRows {
            for recomputes in [false, true] {
                var decision = emptiest(rows)
                if recomputes { for value in recomputable { decision.ways[value] = .recompute } }
                while true {
                    let candidate = candidate(decision)
                    guard candidate.commands <= Planner.commandsMax else { break }
                    let plan = plan(candidate)
                    if least.map({ plan.forecast.deviceBytes < $0.forecast.deviceBytes }) ?? true { least = plan }
                    let usage = candidate.memory.usageByPass
                    let fullest = usage.indices.max { (usage[$0], $1) < (usage[$1], $0) }!
                    let helps = analysis.graph.values.indices.filter { value in
                        canSlice(value) && narrower(value, decision) > 0
                            && (candidate.layout.storage[value].isWhole(in: fullest)
                                || candidate.layout.passes[fullest].sliced.contains { $0.source == value })
                    }
                    guard
                        let value = helps.max(by: {
                            (narrower($0, decision), $1) < (narrower($1, decision), $0)
                        })
                    else { break }
                    decision.sliceWidths[value] = narrower(value, decision)
                }
            }
        }
        return least
    }

    // MARK: Why

    /// The same plan with its reasons: the best of every chunk size, everything resident, everything moved.
    private func explained(_ chosen: TrainingPlan, _ others: [Candidate]) -> TrainingPlan {
        func row(_ plan: TrainingPlan, _ rejection: String?) -> TrainingPlan.Alternative {
            TrainingPlan.Alternative(
                title: plan.cut.title(chunks: plan.chunks), deviceBytes: plan.forecast.deviceBytes,
                hostBytes: plan.forecast.hostBytes, ssdBytes: plan.forecast.ssdBytes,
                seconds: plan.forecast.secondsPerEpoch, rejection: rejection)
        }
        var why = [row(chosen, nil)]
        var seen: Set<Cut> = [chosen.cut]
        func compare(_ decision: Decision) {
            let candidate = candidate(decision)
            guard candidate.commands <= Planner.commandsMax else { return }
            let plan = plan(candidate)
            guard seen.insert(plan.cut).inserted else { return }
            let excess = plan.forecast.deviceBytes - budget.deviceBytes
            let slower = plan.forecast.secondsPerEpoch - chosen.forecast.secondsPerEpoch
            if excess > 0 {
                why.append(row(plan, "\(Planner.bytes(excess)) more than the device has"))
            } else if plan.forecast.hostBytes > budget.hostBytes || plan.forecast.ssdBytes > budget.ssdBytes {
                why.append(row(plan, "more than host memory and SSD have"))
            } else {
                why.append(row(plan, "\(Planner.seconds(max(slower, 0))) slower"))
            }
        }
        let decision = chosen.layout.decision
        compare(Decision(chunkRows: decision.chunkRows, values: analysis.values.count))
        var moved = emptiest(decision.chunkRows)
        moved.sliceWidths = decision.sliceWidths
        compare(moved)
        // What each single choice of the plan is worth.
        for value in recomputable where decision.ways[value] != .device {
            var changed = decision
            changed.ways[value] = decision.ways[value] == .recompute ? .moved(residentChunks: 0) : .recompute
            compare(changed)
        }
        for value in analysis.graph.values.indices where decision.sliceWidths[value] > 0 {
            var changed = decision
            changed.sliceWidths[value] = wider(value, decision)
            compare(changed)
        }
        for other in others where other.layout.decision.chunkRows != decision.chunkRows {
            compare(other.layout.decision)
        }
        var result = chosen
        result.why = why
        return result
    }
}

extension Analysis {
    var choicesByIndex: [(ValueIndex, Choice)] {
        let byName = Dictionary(uniqueKeysWithValues: values.enumerated().map { ($1.name, $0) })
        return choices.map { (byName[$0.name]!, $0) }
    }
}

/// Which of the values that could move stay: those first that save most seconds for each byte they take.
private struct Knapsack {
    private(set) var filled: Decision

    private struct Item {
        let value: ValueIndex
        /// Device bytes of the whole and of one chunk.
        let bytes: Int
        let chunkBytes: Int
        /// Passes in which it takes them, where it does not already.
        let passes: [Int]
        /// Only whole or not at all.
        let isWhole: Bool
        /// By pass: sealed bytes that no longer cross, and slots that are no longer needed.
        let saved: [(pass: Int, fetched: Int, stored: Int, slotBytes: Int)]
        var movedBytes: Int { saved.reduce(0) { $0 + $1.fetched + $1.stored } }
    }

    init(_ empty: Search.Candidate, _ budget: Budget, room: Int) {
        filled = empty.layout.decision
        let layout = empty.layout
        var costs = empty.costs
        var seconds = costs.map { $0.seconds(budget).pass }
        var free = empty.memory.usageByPass.map { room - $0 }
        var items = layout.values.indices.compactMap { Self.item($0, layout, empty.memory) }
        func apply(_ item: Item, _ share: Double, to costs: inout [PassCost]) {
            let onSSD = empty.spills.places[item.value]?.tier == .ssd
            for saving in item.saved {
                let fetched = Int(Double(saving.fetched) * share)
                let stored = Int(Double(saving.stored) * share)
                costs[saving.pass].fetchedBytes -= fetched
                costs[saving.pass].storedBytes -= stored
                if onSSD {
                    costs[saving.pass].ssdReadBytes -= fetched
                    costs[saving.pass].ssdWrittenBytes -= stored
                }
            }
        }
        while !items.isEmpty {
            var best: (index: Int, density: Double, chunks: Int)?
            for (index, item) in items.enumerated() {
                let chunks = Self.fitting(item, free, layout.chunks)
                guard chunks > 0 else { continue }
                var gain = 0.0
                for saving in item.saved {
                    var cost = costs[saving.pass]
                    let onSSD = empty.spills.places[item.value]?.tier == .ssd
                    cost.fetchedBytes -= saving.fetched
                    cost.storedBytes -= saving.stored
                    if onSSD {
                        cost.ssdReadBytes -= saving.fetched
                        cost.ssdWrittenBytes -= saving.stored
                    }
                    gain += seconds[saving.pass] - cost.seconds(budget).pass
                }
                // What saves no seconds still spares the link.
                let density = (max(gain, 0) + 1e-15 * Double(item.movedBytes)) / Double(max(item.bytes, 1))
                if best.map({ density > $0.density }) ?? true { best = (index, density, chunks) }
            }
            guard let best else { break }
            let item = items.remove(at: best.index)
            let isAll = best.chunks == layout.chunks
            apply(item, isAll ? 1 : Double(best.chunks) / Double(layout.chunks), to: &costs)
            for pass in item.passes { free[pass] -= isAll ? item.bytes : best.chunks * item.chunkBytes }
            for saving in item.saved {
                if isAll { free[saving.pass] += saving.slotBytes }
                seconds[saving.pass] = costs[saving.pass].seconds(budget).pass
            }
            filled.ways[item.value] = isAll ? .device : .moved(residentChunks: best.chunks)
        }
    }

    /// Chunks of an item that fit what is free.
    private static func fitting(_ item: Item, _ free: [Int], _ chunks: Int) -> Int {
        var least = Int.max
        var leastWithout = Int.max
        for pass in item.passes {
            let slots = item.saved.first { $0.pass == pass }?.slotBytes ?? 0
            leastWithout = min(leastWithout, free[pass])
            least = min(least, free[pass] + slots)
        }
        if item.bytes <= least { return chunks }
        guard !item.isWhole else { return 0 }
        return max(0, min(chunks - 1, leastWithout / max(item.chunkBytes, 1)))
    }

    private static func item(_ value: ValueIndex, _ layout: Layout, _ memory: MemoryMap) -> Item? {
        guard layout.decision.ways[value] == .moved(residentChunks: 0), !layout.analysis.isBare(value) else {
            return nil
        }
        let section = layout.values[value].section
        let storage = layout.storage[value]
        guard section != nil || (storage.spilled != nil && storage.sliceWidth == 0) else { return nil }
        let all = layout.bytes(value, chunks: layout.chunks)
        var saved: [(pass: Int, fetched: Int, stored: Int, slotBytes: Int)] = []
        let moved =
            section == nil
            ? layout.chunks * Planner.sealed(layout.stride(width: layout.values[value].width))
            : layout.table.fetchedBytes(value, chunks: 0..<layout.chunks)
        for (number, pass) in layout.passes.enumerated() {
            var fetched = 0
            var stored = 0
            for step in pass.steps {
                if step == .fetch(value) { fetched += moved }
                if step == .store(value) { stored += moved }
            }
            if pass.reloads.contains(value) { fetched += moved }
            if section == .columns {
                let relation = layout.values[value].relation
                for (source, ops) in pass.sliced {
                    let count = ops.count { layout.graph.ops[$0].relation == relation }
                    guard count > 0 else { continue }
                    let once = layout.groups(source, relation: relation).reduce(0) {
                        $0 + layout.fetchedBytes(value, chunks: $1)
                    }
                    fetched += once * count * layout.ranges(source).count
                }
            }
            guard fetched + stored > 0 else { continue }
            let slots =
                (memory.local[number][value] ?? [])
                + (memory.sliceColumns[number][value] ?? [])
            saved.append((number, fetched, stored, slots.reduce(0) { $0 + memory.items[$1].bytes }))
        }
        let isSource = !layout.analysis.gatheredIn[value].isEmpty
        return Item(
            value: value, bytes: all, chunkBytes: max(1, (all + layout.chunks - 1) / layout.chunks),
            passes: section == nil
                ? storage.spilled!.filter { !storage.isWhole(in: $0) } : Array(layout.passes.indices),
            isWhole: isSource,
            saved: saved)
    }
}
