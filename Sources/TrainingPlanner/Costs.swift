import Vocabulary

/// Kinds of computing that a forecast tells apart, so that each can be held against the clock.
package enum WorkKind: Int, CaseIterable, Sendable {
    case product, weightGradient, columnSum, neighbourSum, attention, rowLocal, loss
}

/// What one pass asks of each resource.
package struct PassCost: Hashable, Sendable {
    package let title: String
    /// Seconds by `WorkKind`.
    package internal(set) var computing = SIMD8<Double>()
    package var computeSeconds: Double { computing.sum() }
    /// Commands that fetch and that store.
    package internal(set) var fetches = 0
    package internal(set) var stores = 0
    /// Pieces in which rows come, of which the first is waited for.
    package internal(set) var pieces = 1
    /// Sealed bytes over the link.
    package internal(set) var fetchedBytes = 0
    package internal(set) var storedBytes = 0
    /// The part of them that the SSD tier reads and writes.
    package internal(set) var ssdReadBytes = 0
    package internal(set) var ssdWrittenBytes = 0
    package internal(set) var commands = 0
    /// Highest bytes of device memory in use.
    package internal(set) var deviceBytes = 0
    /// Sealed bytes put away at its end.
    package internal(set) var hostBytes = 0
    package internal(set) var ssdBytes = 0

    /// Whether moving and computing take turns.
    let takesTurns: Bool

    init(title: String, takesTurns: Bool) {
        self.title = title
        self.takesTurns = takesTurns
    }

    var untitled: PassCost {
        var cost = PassCost(title: "", takesTurns: takesTurns)
        cost.computing = computing
        (cost.fetches, cost.stores, cost.pieces) = (fetches, stores, pieces)
        (cost.fetchedBytes, cost.storedBytes) = (fetchedBytes, storedBytes)
        (cost.ssdReadBytes, cost.ssdWrittenBytes) = (ssdReadBytes, ssdWrittenBytes)
        cost.commands = commands
        return cost
    }

    /// So many bytes cross less.
    mutating func spare(_ bytes: (fetched: Int, stored: Int), onSSD: Bool) {
        fetchedBytes -= bytes.fetched
        storedBytes -= bytes.stored
        guard onSSD else { return }
        ssdReadBytes -= bytes.fetched
        ssdWrittenBytes -= bytes.stored
    }

    mutating func add(_ seconds: Double, _ kind: WorkKind) { computing[kind.rawValue] += seconds }

    /// Seconds of each resource, and of the pass: resources overlap where they do not take turns, so the slowest counts.
    package func seconds(_ budget: Budget) -> PassSeconds {
        let sealRate = budget.link.sealBytesPerSecond
        let sealing = Double(fetchedBytes + storedBytes) / sealRate
        // Opening and sealing have threads of their own. Where no core is left for them they take their part of all, and
        // a command waits for the thread that they keep from its core: half of the time, as it is found to be.
        let threads = Double(budget.device.threads)
        let taken = budget.device.sealsOnComputeCores && !takesTurns ? sealing * (1 + 1 / threads) / 2 : 0
        let compute =
            computeSeconds + Double(commands - fetches - stores) * budget.device.secondsPerCommand + taken
        let roundTrip = budget.link.roundTripSeconds
        func crossing(_ bytes: Int, _ transfers: Int, _ rate: Double) -> Double {
            max(Double(bytes) / rate + Double(transfers) * roundTrip, Double(bytes) / sealRate)
        }
        let fetch = crossing(fetchedBytes, fetches, budget.link.bytesPerSecond)
        let store = crossing(storedBytes, stores, budget.link.storeBytesPerSecond)
        let ssdRead = Double(ssdReadBytes) / budget.ssd.readBytesPerSecond
        let ssdWrite = Double(ssdWrittenBytes) / budget.ssd.writeBytesPerSecond
        // Filling and draining the queues: the first piece comes, and the last one goes, while nothing is computed.
        let ends = (max(fetch, ssdRead) + max(store, ssdWrite)) / Double(pieces)
        let pass =
            takesTurns
            ? compute + max(fetch, ssdRead) + max(store, ssdWrite)
            : max(compute, fetch, store, ssdRead, ssdWrite) + ends
        return PassSeconds(
            compute: compute, fetch: fetch, store: store, ssdRead: ssdRead, ssdWrite: ssdWrite, sealing: sealing,
            pass: pass)
    }
}

package struct PassSeconds: Hashable, Sendable {
    package let compute: Double
    package let fetch: Double
    package let store: Double
    package let ssdRead: Double
    package let ssdWrite: Double
    package let sealing: Double
    package let pass: Double
}

/// Where put-away values lie: each in one of two windows, at an offset, for its lifetime.
struct SpillMap {
    /// By value; `nil` where it is not put away.
    private(set) var places: [Spill?]
    private(set) var hostBytes = 0
    private(set) var ssdBytes = 0
    /// Of a prediction's outputs, which lie in host memory in a window of their own.
    let resultBytes: Int
    /// Sealed bytes of host memory in all.
    var sealedHostBytes: Int { Planner.sealed(hostBytes) + Planner.sealed(resultBytes) }

    /// Everything into host memory if it fits; else the values that take longest there move to the SSD.
    init(_ layout: Layout, hostBytesMax: Int) {
        places = Array(repeating: nil, count: layout.values.count)
        let result = layout.graph.result
        resultBytes = result.map(layout.spillBytes) ?? 0
        let hostBytesMax = hostBytesMax - Planner.sealed(resultBytes)
        let spilled = layout.values.indices.filter { layout.storage[$0].spilled != nil && $0 != result }
        var onSSD: Set<ValueIndex> = []
        let bytes = spilled.reduce(into: [:]) { $0[$1] = layout.spillBytes($1) }
        func arena(_ values: [ValueIndex]) -> Arena {
            Arena(
                values.map { Arena.Item(bytes: bytes[$0]!, lifetime: layout.storage[$0].spilled!) },
                alignment: Limits.blockBytes)
        }
        let bySize = spilled.sorted { (bytes[$0]!, $1) > (bytes[$1]!, $0) }
        var host = arena(spilled)
        for value in bySize where Planner.sealed(host.peakBytes) > hostBytesMax {
            onSSD.insert(value)
            host = arena(spilled.filter { !onSSD.contains($0) })
        }
        let inHost = spilled.filter { !onSSD.contains($0) }
        let disk = spilled.filter(onSSD.contains)
        let ssd = arena(disk)
        for (value, offset) in zip(inHost, host.offsets) { places[value] = Spill(tier: .host, offset: offset) }
        for (value, offset) in zip(disk, ssd.offsets) { places[value] = Spill(tier: .ssd, offset: offset) }
        hostBytes = host.peakBytes
        ssdBytes = ssd.peakBytes
        // Behind the tier's own window, as nothing there shares bytes with it.
        if let result { places[result] = Spill(tier: .host, offset: hostBytes) }
    }
}

/// Where a value that is put away lies on the enclave's side.
package struct Spill: Hashable, Sendable {
    package enum Tier: String, CaseIterable, Sendable { case host, ssd }
    package let tier: Tier
    /// Plaintext bytes from the start of the tier's window.
    package let offset: Int
}

extension Layout {
    /// What each pass asks of each resource; `opSeconds` are those of `OpGraph.seconds`.
    func costs(_ spills: SpillMap, _ budget: Budget, _ opSeconds: [Double]) -> [PassCost] {
        passes.enumerated().map { number, pass in
            var cost = PassCost(title: pass.title, takesTurns: decision.takesTurns)
            if pass.sliced.isEmpty { cost.pieces = spans }
            for value in pass.reloads { addReload(value, spills, &cost) }
            addSlices(pass, spills, budget, &cost)
            for step in pass.steps { add(step, spills, budget, opSeconds, &cost) }
            addStreams(pass, budget, &cost)
            if decision.fetchesNodeSections { addNodes(pass, &cost) }
            return cost
        }
    }

    private func move(
        _ value: ValueIndex, _ bytes: Int, stores: Bool, _ spills: SpillMap, _ cost: inout PassCost
    ) {
        let isOnSSD = spills.places[value]?.tier == .ssd
        if stores {
            cost.storedBytes += bytes
            if isOnSSD { cost.ssdWrittenBytes += bytes }
        } else {
            cost.fetchedBytes += bytes
            if isOnSSD { cost.ssdReadBytes += bytes }
        }
    }

    private func addReload(_ value: ValueIndex, _ spills: SpillMap, _ cost: inout PassCost) {
        let blocks = Self.wholeBlocks(image.nodes * rowBytes(value)) / Limits.blockBytes
        move(value, blocks * Limits.sealedBlockBytes, stores: false, spills, &cost)
        cost.commands += 1
        cost.fetches += 1
    }

    private func add(
        _ step: PassStep, _ spills: SpillMap, _ budget: Budget, _ opSeconds: [Double], _ cost: inout PassCost
    ) {
        switch step {
        case .fetch(let value), .store(let value):
            let stores = if case .store = step { true } else { false }
            cost.commands += spans(value)
            if stores { cost.stores += spans(value) } else { cost.fetches += spans(value) }
            let bytes =
                storage[value].spilled == nil
                ? table.fetchedBytes(value, from: storage[value].residentChunks)
                : spans(value) * Planner.sealed(stride(value))
            move(value, bytes, stores: stores, spills, &cost)
        case .fetchParts(let value), .storeParts(let value):
            let stores = if case .storeParts = step { true } else { false }
            move(value, Planner.sealed(spillBytes(value)), stores: stores, spills, &cost)
            let alike = alikeSlices(value).count
            cost.commands += (chunks + spans(value)) * alike
            if stores { cost.stores += spans(value) * alike } else { cost.fetches += spans(value) * alike }
            // Pieces of rows go through memory less well than rows.
            cost.add(graph.stream(elements: 4 * values[value].width, budget), .rowLocal)
        case .run(let op):
            cost.commands += chunks
            let kind = graph.ops[op].workKind
            // A tile's figures are one thread's.
            let tiles = max(decision.chunkRows / ImageShape.tileRows, 1)
            let idle = kind == .loss ? Double(max(budget.device.threads / tiles, 1)) : 1
            cost.add(idle * opSeconds[op], kind)
        case .finishSum(let op):
            cost.commands += chunks
            cost.add(graph.stream(elements: 2 * values[analysis.facts[op].source!].width, budget), .rowLocal)
        }
    }

    private func addNodes(_ pass: Pass, _ cost: inout PassCost) {
        // Slices go over the rows once for each.
        let times = pass.sliced.reduce(0) { $0 + ranges($1.source).count * $1.ops.count }
        for section in nodeSections(pass) {
            // The relations of one source share its slices.
            let sums = pass.sliced.reduce(0) { total, sliced in
                total + ranges(sliced.source).count
                    * sliced.ops.count { graph.ops[$0].relation == section.relation }
            }
            let count = times > 0 ? sums : 1
            cost.fetchedBytes += count * fetchedBytes(section)
            cost.commands += count * spans
            cost.fetches += count * spans
        }
    }

    private func addSlices(_ pass: Pass, _ spills: SpillMap, _ budget: Budget, _ cost: inout PassCost) {
        for (source, ops) in pass.sliced {
            let ranges = ranges(source)
            for range in ranges {
                move(source, Planner.sealed(sliceBytes(source, range)), stores: false, spills, &cost)
                cost.commands += 1
                cost.fetches += 1
            }
            for index in ops {
                let op = graph.ops[index]
                let relation = op.relation!
                let groups = groups(index)
                let columns = analysis.columns[relation]
                for group in groups where group.upperBound > storage[columns].residentChunks {
                    cost.fetchedBytes += ranges.count * fetchedBytes(columns, chunks: group)
                    cost.commands += ranges.count
                    cost.fetches += ranges.count
                }
                let share = image.share(op.phase, hops: op.hops)
                for (slice, range) in ranges.enumerated() {
                    let made = made(index, bySlice: slice)
                    for sum in made {
                        move(sum.value, Planner.sealed(sliceBytes(sum.value, sum.columns)), stores: true, spills, &cost)
                    }
                    let sums = made.count { $0.value != op.scoreSum }
                    cost.commands += (1 + made.count + (made.count - sums)) * groups.count
                    cost.stores += made.count * groups.count
                    let seconds: Double
                    if op.headWidth > 0 {
                        // A slice of less than a head works out the head's weights again.
                        let heads = max(range.count / op.headWidth, 1)
                        seconds =
                            graph.attention(width: sums * range.count, heads: heads, budget)
                            + (sums < made.count
                                ? graph.attention(width: 0, heads: values[op.scoreSum!].width, budget) : 0)
                    } else {
                        seconds = graph.gather(width: range.count, relation, budget)
                    }
                    cost.add(share * seconds, op.workKind)
                }
            }
        }
    }

    /// Sealed bytes that fetching these chunks of an image section at once takes.
    func fetchedBytes(_ value: ValueIndex, chunks: Range<Int>) -> Int {
        ChunkTable.crossing(table.range(value, chunks: chunks), of: image.byteCount(values[value].section!))
    }

    /// What rows take that go through memory: once where a pass comes to them, and again for each operation that does not
    /// follow the one before row by row, where a chunk of them is more than the cache holds.
    private func addStreams(_ pass: Pass, _ budget: Budget, _ cost: inout PassCost) {
        var seen = Set<ValueIndex>()
        var near = Set<ValueIndex>()
        var again: [(width: Double, kind: WorkKind)] = []
        var once = 0.0
        for case .run(let op) in pass.steps {
            let kind = graph.ops[op].workKind
            let share = image.share(graph.ops[op].phase, hops: graph.ops[op].hops)
            if !kind.goesByRows { near = [] }
            for value in analysis.facts[op].inputs + analysis.facts[op].outputs where !near.contains(value) {
                let width = share * Double(values[value].width)
                if seen.insert(value).inserted {
                    once += width
                    cost.add(graph.stream(elements: width, budget), kind)
                } else {
                    again.append((width, kind))
                }
                if kind.goesByRows { near.insert(value) }
            }
        }
        let bytes = Double(min(decision.chunkRows, image.nodes)) * once * 4
        let cache = Double(budget.device.cacheBytes)
        guard bytes > cache else { return }
        for (width, kind) in again { cost.add(graph.stream(elements: width, budget) * (1 - cache / bytes), kind) }
    }
}

extension WorkKind {
    /// Whether blocks of rows stay in the caches from one operation to the next.
    fileprivate var goesByRows: Bool {
        switch self {
        case .product, .neighbourSum, .attention, .rowLocal: true
        case .weightGradient, .columnSum, .loss: false
        }
    }
}

extension OpGraph.Op {
    var workKind: WorkKind {
        switch kind {
        case .map, .part, .headDots: .rowLocal
        case .product: .product
        case .gather: .neighbourSum
        case .attentionScale, .attend, .attentionGradient: .attention
        case .weightGradient: .weightGradient
        case .columnSum: .columnSum
        case .loss: .loss
        }
    }
}

extension OpGraph {
    fileprivate func stream(elements: Int, _ budget: Budget) -> Double { stream(elements: Double(elements), budget) }

    fileprivate func stream(elements: Double, _ budget: Budget) -> Double {
        Double(image.nodes) * elements * 4 / budget.device.streamBytesPerSecond
    }

    fileprivate func gather(width: Int, _ relation: Int, _ budget: Budget) -> Double {
        Double(image.relations.isEmpty ? image.edges : image.relations[relation].edges)
            * (Double(width * 4 + 4) / budget.device.gatherBytesPerSecond + budget.device.secondsPerEdge)
    }

    /// Sums over edges, weighed by head; the weights are worked out on the way.
    fileprivate func attention(width: Int, heads: Int, _ budget: Budget) -> Double {
        Double(image.edges)
            * (Double(width * 4 + 4) / budget.device.gatherBytesPerSecond
                + Self.edgeShare(heads) * budget.device.secondsPerAttendedEdge)
    }

    /// What an edge with so many heads costs, of one with four: whole parts of a vector.
    private static func edgeShare(_ heads: Int) -> Double {
        var lanes = 4
        while lanes < min(heads, 16) { lanes *= 2 }
        return Double(heads > 16 ? (heads + 15) / 16 * 16 : lanes) / 4
    }

    /// What an operation takes beside the memory that its rows go through, with the rows that matter to it.
    func seconds(_ op: Op, _ budget: Budget) -> Double {
        image.share(op.phase, hops: op.hops) * wholeSeconds(op, budget)
    }

    /// With all rows.
    private func wholeSeconds(_ op: Op, _ budget: Budget) -> Double {
        let rows = Double(image.nodes)
        let device = budget.device
        // Products work on whole vectors.
        func padded(_ columns: Int) -> Double { Double((columns + 15) / 16 * 16) }
        func passes(_ width: Int, _ times: Double = 1) -> Double {
            rows * Double(width) * times / device.mapElementsPerSecond
        }
        func chain(_ steps: [ValueStep], width: Int) -> Double {
            steps.reduce(0) { sum, step in
                switch step {
                case .dropout: sum + rows * Double(width) / device.dropElementsPerSecond
                case .elu, .normalise, .normaliseGradient: sum + passes(width, 2)
                default: sum + passes(width, 0.5)
                }
            }
        }
        switch op.kind {
        case .map(_, let to, let steps): return passes(values[to].width, 0.5) + chain(steps, width: values[to].width)
        case .part(_, let to, let steps): return passes(to.count, 0.5) + chain(steps, width: to.count)
        case .headDots(let value, _, _, _, _): return passes(values[value].width)
        case .columnSum(let value, _, _): return passes(values[value].width)
        case .product(_, let entry, let transposed, let to, _, let steps):
            let inner = transposed ? entry.columns : entry.rows
            let columns = transposed ? entry.rows : entry.columns
            return 2 * rows * Double(inner) * padded(columns) / device.productFlopsPerSecond
                + chain(steps, width: values[to].width)
        case .weightGradient(_, _, let entry):
            return 2 * rows * Double(entry.rows) * padded(entry.columns) / device.gradientFlopsPerSecond
        case .gather(let from, let relation, let to, let steps):
            return gather(width: values[from].width, relation, budget) + chain(steps, width: values[to].width)
        case .attentionScale(let attention, _):
            return Double(image.edges) * Self.edgeShare(attention.heads) * device.secondsPerScoredEdge
        case .attend(let attention, _):
            return self.attention(width: attention.heads * attention.headWidth, heads: attention.heads, budget)
        case .attentionGradient(let attention, let gradient):
            // Rows of the other end are near when the second sum reads them; derivatives are made beside the weights.
            let sums = gradient.isOfSources ? 2 : 1
            return self.attention(
                width: sums * attention.heads * attention.headWidth, heads: attention.heads, budget)
                + 0.5 * self.attention(width: 0, heads: attention.heads, budget)
        case .loss(let outputs, _):
            // Rows without a target are passed over, the others cost something whatever their width.
            let labelled = Double(image.labelled.dropFirst().reduce(0, +))
            return labelled * (padded(values[outputs].width) + 32) / device.lossElementsPerSecond
        }
    }
}
