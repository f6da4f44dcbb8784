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
    /// The last decision that was worked out for each number of rows, for the reasons.
    private var looked: [Int: Decision] = [:]
    /// Bounds planning time, since each trial's grows with the values and the passes; the order of trials puts the
    /// promising ones first.
    private let evaluationsMax: Int

    init(_ analysis: Analysis, _ budget: Budget) {
        self.analysis = analysis
        self.budget = budget
        evaluationsMax = min(max(25_000 / (analysis.values.count * analysis.slots), 40), 150)
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
        for rows in chunkRows where rows >= ImageShape.tileRows || best == nil {
            if let start = start(rows, below: best?.seconds ?? .infinity) { best = start }
        }
        guard var chosen = best else {
            // What the search has no room for may still fit as the least plan of all.
            guard let least = least(), fits(least.forecast) else { return nil }
            return explained(least)
        }
        var improves = true
        while improves, evaluations < evaluationsMax {
            improves = false
            for neighbour in neighbours(chosen.layout.decision) where evaluations < evaluationsMax {
                guard let filled = fill(neighbour, below: chosen.seconds) else { continue }
                chosen = filled
                improves = true
            }
        }
        guard let plan = placed(chosen) else { return nil }
        return explained(plan)
    }

    /// Chunk sizes worth looking at. Chunks of a few thousand rows keep intermediates near the cores, so the largest
    /// are not the fastest even where they fit.
    private static func chunkRows(_ image: ImageShape) -> [Int] {
        var sizes: [Int] = []
        var rows = Cut.chunkRowsMin
        while rows <= 1 << 16 {
            // Parts of tiles are for small graphs: of a large one they are more than a program can hold.
            if rows >= ImageShape.tileRows || image.nodes / rows * 8 <= Planner.commandsMax { sizes.append(rows) }
            if rows >= max(image.nodes, ImageShape.tileRows) { break }
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

    private mutating func start(_ rows: Int, below limit: Double) -> Candidate? {
        var best: Candidate?
        let few = (analysis.graph.image.nodes + rows - 1) / rows <= 4
        // With few chunks, what moves takes hardly less room in its slots than all of it would.
        for moves in few ? [true, false] : [true] {
            for (recomputes, fetches) in [(false, false), (true, false), (false, true), (true, true)] {
                // What takes so little is fetched only where nothing else is left.
                if fetches, best != nil || limit < .infinity { continue }
                var decision =
                    moves ? emptiest(rows) : Decision(chunkRows: rows, values: analysis.values.count)
                decision.fetchesNodeSections = fetches
                if recomputes { for value in recomputable { decision.ways[value] = .recompute } }
                guard let cut = sliced(decision, to: budget.deviceBytes),
                    let filled = fill(cut, below: best?.seconds ?? limit)
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
        empty.fetchesNodeSections = decision.fetchesNodeSections
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
        for (number, first) in recomputable.enumerated() {
            for second in recomputable[..<number] {
                var changed = empty
                for value in [first, second] {
                    changed.ways[value] = empty.ways[value] == .recompute ? .moved(residentChunks: 0) : .recompute
                }
                result.append(changed)
            }
        }
        return result
    }

    // MARK: Filling

    /// Keeps in device memory what saves most, as far as it fits. `nil` if even the least does not, or if it takes no
    /// less than `limit` seconds.
    private mutating func fill(_ decision: Decision, below limit: Double = .infinity) -> Candidate? {
        evaluations += 1
        let empty = candidate(decision)
        guard empty.commands <= Planner.commandsMax else { return nil }
        var room = budget.deviceBytes
        // Buffers leave gaps in the arena, so the first filling may turn out a little too large.
        for _ in 0..<6 {
            guard empty.leastBytes <= room else { break }
            var knapsack = Knapsack(empty, budget, room: room)
            // Exchanges take time, and never gain that much.
            if knapsack.estimate < limit * 1.25 { knapsack.exchange() }
            looked[decision.chunkRows] = knapsack.filled
            // Its sum is as good as the candidate's own, and much sooner there.
            guard knapsack.estimate < limit else { return nil }
            let filled = candidate(knapsack.filled)
            guard filled.seconds < limit else { return nil }
            if filled.leastBytes > budget.deviceBytes {
                room -= filled.leastBytes - budget.deviceBytes
                continue
            }
            let forecast = plan(filled).forecast
            if fits(forecast) { return filled }
            guard forecast.deviceBytes > budget.deviceBytes else { return nil }
            room -= forecast.deviceBytes - budget.deviceBytes
        }
        return empty.seconds < limit && fits(plan(empty).forecast) ? empty : nil
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
                decision.fetchesNodeSections = true
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
    private func explained(_ chosen: TrainingPlan) -> TrainingPlan {
        func row(_ cut: Cut, _ chunks: Int, bytes: Int, host: Int, ssd: Int, _ seconds: Double, _ rejection: String?)
            -> TrainingPlan.Alternative
        {
            TrainingPlan.Alternative(
                title: cut.title(chunks: chunks), deviceBytes: bytes, hostBytes: host, ssdBytes: ssd, seconds: seconds,
                rejection: rejection)
        }
        let taken = chosen.forecast
        var why = [
            row(
                chosen.cut, chosen.chunks, bytes: taken.deviceBytes, host: taken.hostBytes, ssd: taken.ssdBytes,
                taken.secondsPerEpoch, nil)
        ]
        var seen: Set<Cut> = [chosen.cut]
        func compare(_ decision: Decision) {
            let candidate = candidate(decision)
            let cut = decision.cut(analysis)
            guard candidate.commands <= Planner.commandsMax, seen.insert(cut).inserted else { return }
            // At the least: gaps between buffers would come on top.
            let excess = candidate.leastBytes - budget.deviceBytes
            let host = candidate.spills.sealedHostBytes
            let ssd = Planner.sealed(candidate.spills.ssdBytes)
            let seconds = candidate.seconds + budget.link.roundTripSeconds
            let rejection =
                if excess > 0 {
                    "\(Planner.bytes(excess)) more than the device has"
                } else if host > budget.hostBytes || ssd > budget.ssdBytes {
                    "more than host memory and SSD have"
                } else {
                    "\(Planner.seconds(max(seconds - taken.secondsPerEpoch, 0))) slower"
                }
            why.append(
                row(
                    cut, candidate.layout.chunks, bytes: candidate.leastBytes, host: host, ssd: ssd, seconds,
                    rejection))
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
        for rows in chunkRows where rows != decision.chunkRows {
            if let other = looked[rows] { compare(other) }
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

/// Which of the values that could move stay, and with how many chunks: those first that save most seconds for each byte
/// they take, then whatever exchange of two makes the epoch shorter.
private struct Knapsack {
    private let decision: Decision
    private let budget: Budget
    private let chunks: Int
    private let items: [Item]
    /// By item: whether it is put away on the SSD.
    private let isOnSSD: [Bool]
    /// By item: chunks that stay.
    private var levels: [Int]
    private var costs: [PassCost]
    private var seconds: [Double]
    /// By pass: bytes that nobody has taken; negative where slots had to go before.
    private var free: [Int]

    private struct Item {
        let value: ValueIndex
        /// Device bytes of its first chunks, by how many; the last is the whole.
        let bytes: [Int]
        /// Passes in which it takes them, where it does not already.
        let passes: [Int]
        /// Only whole or not at all.
        let isWhole: Bool
        /// By pass: sealed bytes that no longer cross, and slots that are no longer needed.
        let saved: [Saving]
    }

    private struct Saving {
        let pass: Int
        let fetched: Int
        let stored: Int
        let slotBytes: Int
    }

    init(_ empty: Search.Candidate, _ budget: Budget, room: Int) {
        decision = empty.layout.decision
        self.budget = budget
        let layout = empty.layout
        chunks = layout.chunks
        // Without their titles, since they are changed often.
        costs = empty.costs.map(\.untitled)
        seconds = costs.map { $0.seconds(budget).pass }
        free = empty.memory.usageByPass.map { room - $0 }
        items = layout.values.indices.compactMap { Self.item($0, layout, empty.memory) }
        isOnSSD = items.map { empty.spills.places[$0.value]?.tier == .ssd }
        levels = Array(repeating: 0, count: items.count)
        estimate = seconds.reduce(0, +)
        fill()
    }

    var filled: Decision {
        var filled = decision
        for (item, level) in zip(items, levels) where level > 0 {
            filled.ways[item.value] = level == chunks ? .device : .moved(residentChunks: level)
        }
        return filled
    }

    /// Bytes that an item takes in a pass with so many chunks.
    private func bytes(_ item: Item, _ level: Int, in pass: Int) -> Int {
        guard level == chunks else { return item.bytes[level] }
        return item.bytes[level] - (item.saved.first { $0.pass == pass }?.slotBytes ?? 0)
    }

    /// The most chunks of an item that fit.
    private func most(_ index: Int) -> Int {
        let item = items[index]
        var partial = item.isWhole ? 0 : chunks - 1
        var whole = true
        for pass in item.passes {
            let room = free[pass] + bytes(item, levels[index], in: pass)
            if bytes(item, chunks, in: pass) > room { whole = false }
            if partial > 0, item.bytes[partial] > room {
                var (low, high) = (0, partial)
                while low < high {
                    let middle = (low + high + 1) / 2
                    if item.bytes[middle] <= room { low = middle } else { high = middle - 1 }
                }
                partial = low
            }
        }
        return whole ? chunks : partial
    }

    /// Seconds and, less than any of them, bytes over the link that a change saves.
    private func gain(_ index: Int, _ level: Int) -> Double {
        var gain = 0.0
        for saving in items[index].saved {
            let moved = less(saving, index, level)
            var cost = costs[saving.pass]
            cost.spare(moved, onSSD: isOnSSD[index])
            gain += seconds[saving.pass] - cost.seconds(budget).pass
            gain += 1e-15 * Double(moved.fetched + moved.stored)
        }
        return gain
    }

    /// Bytes that cross less in a pass with so many chunks.
    private func less(_ saving: Saving, _ index: Int, _ level: Int) -> (fetched: Int, stored: Int) {
        (
            saving.fetched * level / chunks - saving.fetched * levels[index] / chunks,
            saving.stored * level / chunks - saving.stored * levels[index] / chunks
        )
    }

    private mutating func set(_ index: Int, _ level: Int) {
        guard level != levels[index] else { return }
        let item = items[index]
        for pass in item.passes { free[pass] += bytes(item, levels[index], in: pass) - bytes(item, level, in: pass) }
        for saving in item.saved {
            let moved = less(saving, index, level)
            costs[saving.pass].spare(moved, onSSD: isOnSSD[index])
            estimate -= seconds[saving.pass]
            seconds[saving.pass] = costs[saving.pass].seconds(budget).pass
            estimate += seconds[saving.pass]
        }
        levels[index] = level
    }

    /// Seconds of an epoch.
    private(set) var estimate = 0.0

    private mutating func fill() {
        while true {
            var best: (index: Int, density: Double, level: Int)?
            for (index, item) in items.enumerated() where levels[index] < chunks {
                let level = most(index)
                guard level > levels[index] else { continue }
                let density =
                    gain(index, level) / Double(max(item.bytes[level] - item.bytes[levels[index]], 1))
                if best.map({ density > $0.density }) ?? true { best = (index, density, level) }
            }
            guard let best else { return }
            set(best.index, best.level)
        }
    }

    /// Takes chunks from one for another, and fills up what that leaves, as long as it helps.
    mutating func exchange() {
        var improves = true
        var rounds = 0
        while improves, rounds < 2 {
            improves = false
            rounds += 1
            for from in items.indices where levels[from] > 0 {
                for less in [0, levels[from] / 2, levels[from] - 1] where less < levels[from] {
                    for to in items.indices where to != from && levels[to] < chunks {
                        let (fromBefore, toBefore, before) = (levels[from], levels[to], estimate)
                        set(from, less)
                        let level = most(to)
                        if level > toBefore {
                            set(to, level)
                            set(from, max(less, items[from].isWhole && most(from) < chunks ? 0 : most(from)))
                        }
                        if estimate < before - 1e-9 {
                            improves = true
                            break
                        }
                        set(to, toBefore)
                        set(from, fromBefore)
                    }
                }
            }
        }
    }

    private static func item(_ value: ValueIndex, _ layout: Layout, _ memory: MemoryMap) -> Item? {
        guard layout.decision.ways[value] == .moved(residentChunks: 0), !layout.analysis.isBare(value) else {
            return nil
        }
        let section = layout.values[value].section
        let storage = layout.storage[value]
        guard section != nil || (storage.spilled != nil && storage.sliceWidth == 0) else { return nil }
        var saved: [Saving] = []
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
            saved.append(
                Saving(
                    pass: number, fetched: fetched, stored: stored,
                    slotBytes: slots.reduce(0) { $0 + memory.items[$1].bytes }))
        }
        let isSource = !layout.analysis.gatheredIn[value].isEmpty
        return Item(
            value: value, bytes: [0] + (1...layout.chunks).map { layout.bytes(value, chunks: $0) },
            passes: section == nil
                ? storage.spilled!.filter { !storage.isWhole(in: $0) } : Array(layout.passes.indices),
            isWhole: isSource,
            saved: saved)
    }
}
