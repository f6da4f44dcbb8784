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
    private let movable: [ValueIndex]
    private let recomputable: [ValueIndex]
    /// By operation: what it takes with all rows.
    private let opSeconds: [Double]
    private(set) var evaluations = 0
    /// The last decision that was worked out for each number of rows, for the reasons.
    private var looked: [Int: Decision] = [:]
    /// Bounds planning time, since each trial's grows with the values and the passes; the order of trials puts the
    /// promising ones first.
    private let evaluationsMax: Int

    init(_ analysis: Analysis, _ budget: Budget) {
        self.analysis = analysis
        self.budget = budget
        evaluationsMax = min(max(25_000 / (analysis.values.count * analysis.slots), 40), 150)
        let choices = analysis.choicesByIndex
        movable = choices.filter(\.1.moves).map(\.0)
        recomputable = choices.filter(\.1.recomputes).map(\.0)
        opSeconds = analysis.graph.ops.map { analysis.graph.seconds($0, budget) }
        tables = Dictionary(
            uniqueKeysWithValues: Self.chunkRows(analysis.graph.image).map {
                ($0, ChunkTable(analysis.graph, chunkRows: $0))
            })
    }

    /// A decision and what it comes to, before buffers have places.
    struct Candidate {
        let layout: Layout
        let usage: DeviceUsage
        /// Which tier each put-away value goes to.
        let spills: SpillMap
        let costs: [PassCost]
        let seconds: Double
        var leastBytes: Int { usage.leastBytes }
        var commands: Int { costs.reduce(0) { $0 + $1.commands } }
    }

    func candidate(_ decision: Decision) -> Candidate {
        let layout = layout(decision)
        return candidate(layout, DeviceUsage(layout))
    }

    private func layout(_ decision: Decision) -> Layout {
        Layout(
            analysis, decision,
            tables[decision.chunkRows] ?? ChunkTable(analysis.graph, chunkRows: decision.chunkRows))
    }

    private func candidate(_ layout: Layout, _ usage: DeviceUsage) -> Candidate {
        let spills = SpillMap(layout, hostBytesMax: budget.hostBytes, findsOffsets: false)
        let costs = layout.costs(spills, budget, opSeconds)
        return Candidate(
            layout: layout, usage: usage, spills: spills, costs: costs,
            seconds: costs.reduce(0) { $0 + $1.seconds(budget).pass })
    }

    func plan(_ candidate: Candidate) -> TrainingPlan {
        let memory = MemoryMap(candidate.layout)
        let arena = Arena(
            memory.arenaItems, alignment: Planner.alignment, leastBytes: candidate.leastBytes, pinned: memory.pinned)
        return TrainingPlan(candidate, memory, arena, budget)
    }

    func fits(_ forecast: TrainingPlan.Forecast) -> Bool {
        forecast.deviceBytes <= budget.deviceBytes && forecast.hostBytes <= budget.hostBytes
            && forecast.ssdBytes <= budget.ssdBytes
    }

    /// Device bytes with places for all buffers; `nil` where what is put away has no room.
    private func deviceBytes(_ candidate: Candidate) -> Int? {
        guard candidate.spills.sealedHostBytes <= budget.hostBytes,
            Planner.sealed(candidate.spills.ssdBytes) <= budget.ssdBytes
        else { return nil }
        return Arena(candidate.layout, leastBytes: candidate.leastBytes).peakBytes
    }

    // MARK: Best

    mutating func best() -> TrainingPlan? {
        var best: Candidate?
        // What takes so little as numbers of nodes is fetched, and buffers are halved, only where nothing else is left.
        for tightness in 0...2 where best == nil {
            for rows in chunkRows where rows >= ImageShape.tileRows || best == nil {
                if let start = start(rows, tightness, below: best?.seconds ?? .infinity) { best = start }
            }
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

    /// Everything that may move moves; sources are whole.
    private func emptiest(_ rows: Int) -> Decision {
        var decision = Decision(chunkRows: rows, values: analysis.values.count)
        for value in movable { decision.ways[value] = .moved(residentChunks: 0) }
        for value in analysis.graph.values.indices where analysis.values[value].section != nil {
            decision.ways[value] = .moved(residentChunks: 0)
        }
        return decision
    }

    private mutating func start(_ rows: Int, _ tightness: Int, below limit: Double) -> Candidate? {
        var best: Candidate?
        let few = (analysis.graph.image.nodes + rows - 1) / rows <= 16
        // With few chunks, what moves takes hardly less room in its slots than all of it would.
        for moves in few ? [true, false] : [true] {
            for recomputes in [false, true] {
                var decision =
                    moves ? emptiest(rows) : Decision(chunkRows: rows, values: analysis.values.count)
                decision.fetchesNodeSections = tightness > 0
                decision.takesTurns = tightness > 1
                if recomputes { for value in recomputable { decision.ways[value] = .recompute } }
                guard let cut = sliced(decision, to: budget.deviceBytes),
                    let filled = fill(cut, below: best?.seconds ?? limit)
                else { continue }
                best = filled
            }
        }
        return best
    }

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
        let usage = candidate.usage.byPass
        let order = usage.indices.sorted { (usage[$0], $1) > (usage[$1], $0) }
        for pass in order {
            let here = analysis.graph.values.indices.filter { value in
                canSlice(value) && narrower(value, candidate.layout.decision) > 0
                    && (candidate.layout.isWhole(value, in: pass)
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
        (empty.fetchesNodeSections, empty.takesTurns) = (decision.fetchesNodeSections, decision.takesTurns)
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
            guard let bytes = deviceBytes(filled) else { return nil }
            if bytes <= budget.deviceBytes { return filled }
            room -= bytes - budget.deviceBytes
        }
        guard empty.seconds < limit, let bytes = deviceBytes(empty), bytes <= budget.deviceBytes else { return nil }
        return empty
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
                (decision.fetchesNodeSections, decision.takesTurns) = (true, true)
                if recomputes { for value in recomputable { decision.ways[value] = .recompute } }
                while true {
                    let candidate = candidate(decision)
                    guard candidate.commands <= Planner.commandsMax else { break }
                    let plan = plan(candidate)
                    if least.map({ plan.forecast.deviceBytes < $0.forecast.deviceBytes }) ?? true { least = plan }
                    let usage = candidate.usage.byPass
                    let fullest = usage.indices.max { (usage[$0], $1) < (usage[$1], $0) }!
                    let helps = analysis.graph.values.indices.filter { value in
                        canSlice(value) && narrower(value, decision) > 0
                            && (candidate.layout.isWhole(value, in: fullest)
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
