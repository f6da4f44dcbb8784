import Vocabulary

/// Looks for the cheapest decision that fits a budget.
///
/// For a given chunk size it cuts sources into slices until the least that must lie in device memory fits, then fills
/// what memory is left with what saves most seconds for each byte (a fractional knapsack: the last value stays in
/// part), and then tries to do better by recomputing, by other slices and by other chunks, one change at a time.
struct Search {
    let analysis: Analysis
    let budget: Budget
    /// By rows of a chunk.
    let tables: [Int: ChunkTable]
    private let recomputable: [ValueIndex]
    /// The same, those of a kind together.
    private let recomputableKinds: [[ValueIndex]]
    /// What may be sliced, those of a kind together.
    private let sources: [[ValueIndex]]
    /// What takes less time to make again than to move.
    private let isSoonerMade: [Bool]
    /// What can be made again, and is needed later only for what is made of it.
    private let isStep: [Bool]
    /// By operation: what it takes with all rows.
    private let opCosts: [OpCost]
    private(set) var evaluations = 0
    /// The last decision that was worked out for each number of rows, for the reasons.
    private var looked: [Int: Decision] = [:]
    private var last: Decision?
    /// Bounds planning time, since each trial's grows with the values and the passes; the order of trials puts the
    /// promising ones first.
    private let evaluationsMax: Int
    /// Whether there is so much to work out for each decision that only the most promising are.
    private let isLarge: Bool
    private let isSmall: Bool
    private lazy var isResident = fitsResident()
    /// What is sooner made again is a better start then than all or nothing.
    private var hasAttention: Bool { analysis.graph.model.aggregation == .gat }

    /// - Parameter tables: of a search for the same image, where there was one.
    init(_ analysis: Analysis, _ budget: Budget, tables: [Int: ChunkTable]? = nil) {
        self.analysis = analysis
        self.budget = budget
        let size = analysis.values.count * analysis.slots
        isLarge = size > 3000
        isSmall = size < 450
        evaluationsMax = isLarge ? 12 : isSmall ? min(60_000 / size, 150) : 40
        let choices = analysis.choicesByIndex
        let recomputable = Set(choices.filter(\.1.recomputes).map(\.0))
        self.recomputable = recomputable.sorted()
        let chosen = Set(choices.map(\.0))
        isStep = analysis.values.indices.map {
            !analysis.isBare($0) && analysis.recomputable[$0] && !chosen.contains($0)
        }
        recomputableKinds = analysis.kinds.map { $0.filter(recomputable.contains) }.filter { !$0.isEmpty }
        sources = analysis.kinds.map { kind in
            kind.filter { !analysis.gatheredIn[$0].isEmpty && analysis.sliceable[$0] }
        }.filter { !$0.isEmpty }
        let opCosts = analysis.graph.ops.map { analysis.graph.cost($0, budget) }
        self.opCosts = opCosts
        isSoonerMade = analysis.values.indices.map { value in
            guard recomputable.contains(value), analysis.gatheredIn[value].count < 2 else { return false }
            let bytes = Double(analysis.graph.image.nodes * analysis.values[value].width * 4)
            let moved = bytes / budget.link.bytesPerSecond + bytes / budget.link.storeBytesPerSecond
            return analysis.producers[value].reduce(0) { $0 + opCosts[$1].seconds } < moved
        }
        self.tables =
            tables
            ?? Dictionary(
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
        let costs = layout.costs(spills, budget, opCosts)
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
        return Arena(candidate.layout, leastBytes: budget.deviceBytes).peakBytes
    }

    // MARK: Best

    /// The cheapest that takes less than `limit` seconds.
    mutating func best(below limit: Double = .infinity) -> Candidate? {
        var best: Candidate?
        // What takes so little as numbers of nodes is fetched, and buffers are halved, only where nothing else is left.
        for tightness in 0...2
        where best == nil && (analysis.graph.image.nodes < 1 << 14 || isSmall || mayFit(tightness)) {
            var fits = false
            for rows in chunkRows where isPromising(rows) || !fits {
                guard let start = start(rows, tightness, below: best.map { $0.seconds * Self.gain } ?? limit, &fits)
                else { continue }
                best = start
            }
            // What fits, but not in less time, only takes longer in turns.
            if fits, best == nil { return nil }
        }
        guard var chosen = best else { return nil }
        let most = evaluations + evaluationsMax
        var seen: Set<Decision> = []
        var improves = true
        while improves, evaluations < most {
            improves = false
            for neighbour in neighbours(chosen.layout.decision) where evaluations < most {
                guard seen.insert(neighbour).inserted, let filled = fill(neighbour, below: chosen.seconds * Self.gain)
                else {
                    continue
                }
                chosen = filled
                improves = true
            }
        }
        return chosen
    }

    /// Parts of tiles take many commands; and with few chunks, what moves takes about as much room as all of it.
    private func isPromising(_ rows: Int) -> Bool {
        rows >= ImageShape.tileRows
            && (isSmall || rows == ImageShape.tileRows || rows * 4 <= analysis.graph.image.nodes)
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
        // Which values outlive their pass depends on what is made again; the steps to that are made again too.
        for value in analysis.graph.values.indices {
            decision.ways[value] = isStep[value] ? .recompute : .moved(residentChunks: 0)
        }
        return decision
    }

    /// Whether small chunks with narrow slices fit, without which nothing else does.
    private func mayFit(_ tightness: Int) -> Bool {
        var decision = emptiest(chunkRows.last!)
        (decision.fetchesNodeSections, decision.takesTurns) = (tightness > 0, tightness > 1)
        for value in recomputable where isSoonerMade[value] { decision.ways[value] = .recompute }
        // Ever narrower slices cross in ever longer spans.
        return [32, 16, 8, 4].contains { width in
            for kind in sources {
                for value in kind { decision.sliceWidths[value] = analysis.values[value].width > width ? width : 0 }
            }
            return DeviceUsage(layout(decision)).leastBytes <= budget.deviceBytes
        }
    }

    /// - Parameter fits: set where anything does.
    private mutating func start(
        _ rows: Int, _ tightness: Int, below limit: Double, _ fits: inout Bool
    ) -> Candidate? {
        var best: Candidate?
        let few = (analysis.graph.image.nodes + rows - 1) / rows <= 16
        // With few chunks, what moves takes hardly less room in its slots than all of it would.
        for moves in few && isSmall || isResident ? [false, true] : [true] {
            for made in hasAttention ? moves ? [Made.sooner, .never] : [.never] : Made.allCases {
                if hasAttention, moves, made == .never, fits || best != nil { continue }
                var decision =
                    moves ? emptiest(rows) : Decision(chunkRows: rows, values: analysis.values.count)
                decision.fetchesNodeSections = tightness > 0
                decision.takesTurns = tightness > 1
                if made == .always { for value in recomputable { decision.ways[value] = .recompute } }
                if made == .sooner {
                    for value in recomputable where isSoonerMade[value] { decision.ways[value] = .recompute }
                }
                guard let cut = sliced(decision, to: budget.deviceBytes) else { continue }
                if let filled = fill(cut, below: best.map { $0.seconds * Self.gain } ?? limit) {
                    best = filled
                    fits = true
                } else if !fits {
                    fits = limit < .infinity && fill(cut) != nil
                }
            }
        }
        return best
    }

    /// Less than this of the time is worth another decision, which may take more memory.
    private static let gain = 1 - 1e-4

    /// What is made again to begin with.
    private enum Made: CaseIterable { case never, sooner, always }

    /// Whether everything fits without slices, and nothing of what is sooner made again kept.
    func fitsUnsliced() -> Bool {
        guard let rows = chunkRows.first(where: { $0 <= 4096 && isPromising($0) }) else { return false }
        var decision = emptiest(rows)
        for value in recomputable where isSoonerMade[value] { decision.ways[value] = .recompute }
        return DeviceUsage(layout(decision)).leastBytes <= budget.deviceBytes
    }

    /// Whether everything fits that is ever in use at once.
    func fitsResident() -> Bool {
        chunkRows.contains { rows in
            let all = Decision(chunkRows: rows, values: analysis.values.count)
            return DeviceUsage(layout(all)).leastBytes <= budget.deviceBytes
        }
    }

    /// Narrows sources until the least fits; `nil` if it never does.
    private mutating func sliced(_ decision: Decision, to bytes: Int) -> Decision? {
        var decision = decision
        while true {
            evaluations += 1
            let layout = layout(decision)
            let usage = DeviceUsage(layout)
            if usage.leastBytes <= bytes { return decision }
            guard let (kind, next) = widest(layout, usage) else { return nil }
            // At once to where there is room, if two slices of it were all.
            let rowBytes = decision.takesTurns ? 4 : 8
            var excess = usage.leastBytes - bytes
            repeat {
                let before = decision.sliceWidths[kind[0]]
                let taken = before > 0 ? before * rowBytes : analysis.values[kind[0]].width * 4
                for value in kind { decision.sliceWidths[value] = narrower(value, decision) }
                excess -= (taken - decision.sliceWidths[kind[0]] * rowBytes) * analysis.graph.image.nodes
            } while (isLarge || !isSmall && !hasAttention) && excess > 0 && narrower(kind[0], decision) > next
        }
    }

    /// Of the sources that lie in device memory where most is in use, the one that takes most of it, with its kind; and the
    /// width of the next.
    private func widest(_ layout: Layout, _ usage: DeviceUsage) -> (kind: [ValueIndex], next: Int)? {
        let fullest = usage.byPass.indices.max { usage.byPass[$0] < usage.byPass[$1] }!
        var widest: (kind: [ValueIndex], width: Int)?
        var next = 0
        for kind in sources where narrower(kind[0], layout.decision) > 0 {
            let isThere = kind.contains { value in
                layout.isWhole(value, in: fullest)
                    || layout.passes[fullest].sliced.contains(where: { $0.source == value })
            }
            guard isThere else { continue }
            let slice = layout.decision.sliceWidths[kind[0]]
            let width = slice > 0 ? slice : analysis.values[kind[0]].width
            if width >= widest?.width ?? 0 {
                next = widest?.width ?? 0
                widest = (kind, width)
            } else {
                next = max(next, width)
            }
        }
        // Slicing elsewhere does not help the fullest pass.
        return widest.map { ($0.kind, next) }
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
        func flipped(_ kinds: [[ValueIndex]]) -> Decision {
            var changed = empty
            for kind in kinds {
                let way = empty.ways[kind[0]] == .recompute ? Cut.Way.moved(residentChunks: 0) : .recompute
                for value in kind { changed.ways[value] = way }
            }
            return changed
        }
        func sliced(_ kind: [ValueIndex], _ width: Int) -> Decision {
            var changed = empty
            for value in kind { changed.sliceWidths[value] = width }
            return changed
        }
        var result = recomputableKinds.map { flipped([$0]) }
        for kind in sources {
            if empty.sliceWidths[kind[0]] > 0 { result.append(sliced(kind, wider(kind[0], empty))) }
            let width = narrower(kind[0], empty)
            if width > 0 { result.append(sliced(kind, width)) }
        }
        for rows in [decision.chunkRows / 2, decision.chunkRows * 2] where chunkRows.contains(rows) {
            var changed = empty
            changed.chunkRows = rows
            result.append(changed)
        }
        for (number, first) in recomputableKinds.enumerated() {
            for second in recomputableKinds[..<number] { result.append(flipped([first, second])) }
        }
        return result
    }

    // MARK: Filling

    /// Keeps in device memory what saves most, as far as it fits. `nil` if even the least does not, or if it takes no
    /// less than `limit` seconds.
    private mutating func fill(_ decision: Decision, below limit: Double = .infinity) -> Candidate? {
        evaluations += 1
        let layout = layout(decision)
        let usage = DeviceUsage(layout)
        guard usage.leastBytes <= budget.deviceBytes else { return nil }
        let empty = candidate(layout, usage)
        // Whatever stays, this is to be computed.
        let floor = empty.costs.reduce(0) {
            $0 + $1.computeSeconds + Double($1.computeCommands) * budget.device.secondsPerCommand * 0.5
        }
        guard empty.commands <= Planner.commandsMax, floor < limit else { return nil }
        var room = budget.deviceBytes
        // Buffers leave gaps in the arena, so the first filling may turn out a little too large.
        for _ in 0..<(isLarge ? 3 : 6) {
            guard empty.leastBytes <= room else { break }
            let knapsack = Knapsack(empty, budget, room: room)
            // Exchanges take time, and never gain that much.
            if !isLarge, knapsack.estimate < limit * (isSmall ? 1.25 : 1.03) {
                knapsack.exchange(rounds: isSmall ? 2 : 1)
            }
            last = knapsack.filled
            looked[decision.chunkRows] = last
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
            room -= (bytes - budget.deviceBytes) * (isSmall ? 1 : isLarge ? 3 : 2)
        }
        guard empty.seconds < limit, let bytes = deviceBytes(empty), bytes <= budget.deviceBytes else { return nil }
        return empty
    }

    // MARK: Least

    /// The plan that needs the least device memory.
    func least() -> TrainingPlan? {
        var least: TrainingPlan?
        // Of a small graph, what moves can take more room in its slots than all of it does.
        let starts = chunkRows.flatMap { rows in
            [emptiest(rows), Decision(chunkRows: rows, values: analysis.values.count)]
        }
        for start in starts {
            for recomputes in [false, true] {
                var decision = start
                (decision.fetchesNodeSections, decision.takesTurns) = (true, true)
                if recomputes { for value in recomputable { decision.ways[value] = .recompute } }
                while true {
                    let candidate = candidate(decision)
                    guard candidate.commands <= Planner.commandsMax else { break }
                    let plan = plan(candidate)
                    if least.map({ plan.forecast.deviceBytes < $0.forecast.deviceBytes }) ?? true { least = plan }
                    guard let (kind, _) = widest(candidate.layout, candidate.usage) else { break }
                    for value in kind { decision.sliceWidths[value] = narrower(value, decision) }
                }
            }
        }
        return least
    }

    // MARK: Why

    /// The same plan with its reasons: the best of every chunk size, everything resident, everything moved.
    func explained(_ chosen: TrainingPlan, others: [Search] = []) -> TrainingPlan {
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
        func compare(_ decision: Decision, in search: Search? = nil) {
            let candidate = search?.candidate(decision) ?? candidate(decision)
            let cut = candidate.layout.cut
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
        for kind in recomputableKinds where decision.ways[kind[0]] != .device {
            var changed = decision
            for value in kind {
                changed.ways[value] = decision.ways[kind[0]] == .recompute ? .moved(residentChunks: 0) : .recompute
            }
            compare(changed)
        }
        for kind in sources where decision.sliceWidths[kind[0]] > 0 {
            var changed = decision
            for value in kind { changed.sliceWidths[value] = wider(value, decision) }
            compare(changed)
        }
        for rows in chunkRows where rows != decision.chunkRows {
            if let other = looked[rows] { compare(other) }
        }
        // Operations of another form, as far as these were looked at.
        for other in others { if let last = other.last { compare(last, in: other) } }
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
