import Vocabulary

/// Kinds of computing that a forecast tells apart, so that each can be held against the clock.
package enum WorkKind: Int, CaseIterable, Sendable {
    case product, weightGradient, columnSum, neighbourSum, attention, rowLocal, loss
}

/// What one pass asks of each resource.
package struct PassCost: Hashable, Sendable {
    package internal(set) var title = ""
    /// Seconds by `WorkKind`.
    package internal(set) var computing = SIMD8<Double>()
    package var computeSeconds: Double { computing.sum() }
    /// Commands that fetch and that store.
    package internal(set) var fetches = 0
    package internal(set) var stores = 0
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

    init(takesTurns: Bool) { self.takesTurns = takesTurns }

    /// So many bytes cross less.
    mutating func spare(_ bytes: (fetched: Int, stored: Int), onSSD: Bool) {
        fetchedBytes -= bytes.fetched
        storedBytes -= bytes.stored
        guard onSSD else { return }
        ssdReadBytes -= bytes.fetched
        ssdWrittenBytes -= bytes.stored
    }

    package var computeCommands: Int { commands - fetches - stores }

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
            computeSeconds + Double(computeCommands) * budget.device.secondsPerCommand + taken
        let roundTrip = budget.link.roundTripSeconds
        func crossing(_ bytes: Int, _ transfers: Int, _ rate: Double) -> Double {
            max(Double(bytes) / rate + Double(transfers) * roundTrip, Double(bytes) / sealRate)
        }
        let fetch = crossing(fetchedBytes, fetches, budget.link.bytesPerSecond)
        let store = crossing(storedBytes, stores, budget.link.storeBytesPerSecond)
        let ssdRead = Double(ssdReadBytes) / budget.ssd.readBytesPerSecond
        let ssdWrite = Double(ssdWrittenBytes) / budget.ssd.writeBytesPerSecond
        // Filling and draining the queues.
        let ends = fetchedBytes + storedBytes > 0 ? 2 * roundTrip : 0
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
    ///
    /// - Parameter findsOffsets: otherwise, where host memory has room for all side by side, just that is told, and the
    ///   bytes are those of side by side.
    init(_ layout: Layout, hostBytesMax: Int, findsOffsets: Bool = true) {
        let values = layout.storage.count
        places = Array(repeating: nil, count: values)
        let result = layout.graph.result
        resultBytes = if let result { layout.spillBytes(result) } else { 0 }
        let hostBytesMax = hostBytesMax - Planner.sealed(resultBytes)
        var bytes = Array(repeating: 0, count: values)
        var spilled: [ValueIndex] = []
        for value in 0..<values where layout.storage[value].spilled != nil && value != result {
            bytes[value] = layout.spillBytes(value)
            spilled.append(value)
        }
        let sideBySide = spilled.reduce(0) { $0 + bytes[$1] }
        if !findsOffsets, Planner.sealed(sideBySide) <= hostBytesMax {
            for value in spilled { places[value] = Spill(tier: .host, offset: 0) }
            hostBytes = sideBySide
        } else {
            place(spilled, bytes, layout, hostBytesMax)
        }
        // Behind the tier's own window, as nothing there shares bytes with it.
        if let result { places[result] = Spill(tier: .host, offset: hostBytes) }
    }

    private mutating func place(_ spilled: [ValueIndex], _ bytes: [Int], _ layout: Layout, _ hostBytesMax: Int) {
        func arena(_ values: [ValueIndex]) -> Arena {
            Arena(
                values.map { Arena.Item(bytes: bytes[$0], lifetime: layout.storage[$0].spilled!) },
                alignment: Limits.blockBytes)
        }
        var onSSD: Set<ValueIndex> = []
        var host = arena(spilled)
        if Planner.sealed(host.peakBytes) > hostBytesMax {
            for value in spilled.sorted(by: { (bytes[$0], $1) > (bytes[$1], $0) })
            where Planner.sealed(host.peakBytes) > hostBytesMax {
                onSSD.insert(value)
                host = arena(spilled.filter { !onSSD.contains($0) })
            }
        }
        let inHost = spilled.filter { !onSSD.contains($0) }
        let disk = spilled.filter(onSSD.contains)
        let ssd = arena(disk)
        for (value, offset) in zip(inHost, host.offsets) { places[value] = Spill(tier: .host, offset: offset) }
        for (value, offset) in zip(disk, ssd.offsets) { places[value] = Spill(tier: .ssd, offset: offset) }
        hostBytes = host.peakBytes
        ssdBytes = ssd.peakBytes
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
    /// What each pass asks of each resource; `opCosts` are those of `OpGraph.cost`.
    func costs(_ spills: SpillMap, _ budget: Budget, _ opCosts: [OpCost]) -> [PassCost] {
        var touched = Touched(values: storage.count)
        var costs: [PassCost] = []
        costs.reserveCapacity(passes.count)
        for pass in passes.indices {
            var cost = PassCost(takesTurns: decision.takesTurns)
            for value in passes[pass].reloads { addReload(value, spills, &cost) }
            addSlices(pass, spills, budget, &cost)
            for step in passes[pass].steps { add(step, spills, budget, opCosts, &cost) }
            addStreams(pass, budget, opCosts, &touched, &cost)
            if decision.fetchesNodeSections { addNodes(passes[pass], &cost) }
            costs.append(cost)
        }
        return costs
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
        _ step: PassStep, _ spills: SpillMap, _ budget: Budget, _ opCosts: [OpCost], _ cost: inout PassCost
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
            let alike = alikeCount(value)
            cost.commands += (chunks + spans(value)) * alike
            if stores { cost.stores += spans(value) * alike } else { cost.fetches += spans(value) * alike }
            // Pieces of rows go through memory less well than rows.
            cost.add(graph.stream(elements: 4 * values[value].width, budget), .rowLocal)
        case .run(let op):
            cost.commands += chunks
            let kind = opCosts[op].kind
            // A tile's figures are one thread's.
            let tiles = max(decision.chunkRows / ImageShape.tileRows, 1)
            let idle = kind == .loss ? Double(max(budget.device.threads / tiles, 1)) : 1
            cost.add(idle * opCosts[op].seconds, kind)
        case .finishSum(let op):
            cost.commands += chunks
            cost.add(graph.stream(elements: 2 * values[analysis.facts[op].source!].width, budget), .rowLocal)
        }
    }

    private func addNodes(_ pass: Pass, _ cost: inout PassCost) {
        // Slices go over the rows once for each.
        let times = pass.sliced.reduce(0) { $0 + storage[$1.source].slices.count * $1.ops.count }
        for section in nodeSections(pass) {
            // The relations of one source share its slices.
            let sums = pass.sliced.reduce(0) { total, sliced in
                total + storage[sliced.source].slices.count
                    * sliced.ops.count { analysis.facts[$0].relation == section.relation }
            }
            let count = times > 0 ? sums : 1
            cost.fetchedBytes += count * table.fetchedBytes(section)
            cost.commands += count * table.spans
            cost.fetches += count * table.spans
        }
    }

    private func addSlices(_ pass: Int, _ spills: SpillMap, _ budget: Budget, _ cost: inout PassCost) {
        for (source, ops) in passes[pass].sliced {
            let slices = storage[source].slices
            // Slices are whole blocks, so that all of them are sealed to as much as one piece.
            move(source, Planner.sealed(spillBytes(source)), stores: false, spills, &cost)
            cost.commands += slices.count
            cost.fetches += slices.count
            for op in ops { addSlices(of: op, slices, spills, budget, &cost) }
        }
    }

    private func addSlices(
        of op: OpIndex, _ slices: Range<Int>, _ spills: SpillMap, _ budget: Budget, _ cost: inout PassCost
    ) {
        let relation = analysis.facts[op].relation!
        let columns = analysis.columns[relation]
        let grouping = grouping(op)
        var (lower, groups, fetches, fetched) = (0, 0, 0, 0)
        while lower < chunks {
            let group = lower..<grouping.end(of: lower)
            if group.upperBound > storage[columns].residentChunks {
                fetched += fetchedBytes(columns, chunks: group)
                fetches += 1
            }
            groups += 1
            lower = group.upperBound
        }
        cost.fetchedBytes += slices.count * fetched
        cost.commands += slices.count * fetches
        cost.fetches += slices.count * fetches
        let score = analysis.facts[op].scoreSum
        for sum in analysis.sums[op] { move(sum, Planner.sealed(spillBytes(sum)), stores: true, spills, &cost) }
        let sums = analysis.sums[op].count - (score == nil ? 0 : 1)
        // The scores are made with the first slice, by a command of their own.
        cost.commands += (slices.count * (1 + sums) + (score == nil ? 0 : 2)) * groups
        cost.stores += (slices.count * sums + (score == nil ? 0 : 1)) * groups
        let share = image.share(graph.ops[op].phase, hops: graph.ops[op].hops)
        let headWidth = analysis.facts[op].headWidth
        for index in slices {
            let width = self.slices[index].count
            guard headWidth > 0 else {
                cost.add(share * graph.gather(width: width, relation, budget), .neighbourSum)
                continue
            }
            // A slice of less than a head works out the head's weights again.
            let heads = max(width / headWidth, 1)
            cost.add(share * graph.attention(width: sums * width, heads: heads, budget), .attention)
            if index == slices.lowerBound, let score {
                cost.add(share * graph.attention(width: 0, heads: values[score].width, budget), .attention)
            }
        }
    }

    /// Sealed bytes that fetching these chunks of an image section at once takes.
    func fetchedBytes(_ value: ValueIndex, chunks: Range<Int>) -> Int {
        ChunkTable.crossing(table.range(value, chunks: chunks), of: image.byteCount(values[value].section!))
    }

    /// What rows take that go through memory: once where a pass comes to them, and again for each operation that does not
    /// follow the one before row by row, where a chunk of them is more than the cache holds.
    private func addStreams(
        _ pass: Int, _ budget: Budget, _ opCosts: [OpCost], _ touched: inout Touched, _ cost: inout PassCost
    ) {
        var again = SIMD8<Double>()
        var once = 0.0
        touched.beginRun()
        for case .run(let op) in passes[pass].steps {
            let (kind, share) = (opCosts[op].kind, opCosts[op].share)
            if !kind.goesByRows { touched.beginRun() }
            func add(_ values: Indices) {
                for value in values where touched.run[value] != touched.runs {
                    let width = share * Double(analysis.values[value].width)
                    if touched.pass[value] == pass {
                        again[kind.rawValue] += width
                    } else {
                        touched.pass[value] = pass
                        once += width
                        cost.add(graph.stream(elements: width, budget), kind)
                    }
                    if kind.goesByRows { touched.run[value] = touched.runs }
                }
            }
            add(analysis.facts[op].inputs)
            add(analysis.facts[op].outputs)
        }
        let bytes = Double(min(decision.chunkRows, image.nodes)) * once * 4
        let cache = Double(budget.device.cacheBytes)
        guard bytes > cache else { return }
        cost.computing += again * (graph.stream(elements: 1, budget) * (1 - cache / bytes))
    }
}

/// By value: the last pass that had it, and the last run of operations that follow each other row by row.
private struct Touched {
    var pass: [Int]
    var run: [Int]
    private(set) var runs = 0

    init(values: Int) {
        pass = Array(repeating: -1, count: values)
        run = Array(repeating: -1, count: values)
    }

    mutating func beginRun() { runs += 1 }
}

/// What an operation takes beside the memory that its rows go through.
struct OpCost {
    let seconds: Double
    let kind: WorkKind
    /// The part of the rows that matters to it.
    let share: Double
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

    /// What an edge with so many heads costs, of one with four: its own part, and that of its lanes of a vector.
    private static func edgeShare(_ heads: Int) -> Double {
        var lanes = 1
        while lanes < min(heads, 16) { lanes *= 2 }
        return Double(2 + (heads > 16 ? (heads + 15) / 16 * 16 : lanes)) / 6
    }

    /// With the rows that matter to it.
    func cost(_ op: Op, _ budget: Budget) -> OpCost {
        let share = image.share(op.phase, hops: op.hops)
        return OpCost(seconds: share * wholeSeconds(op, budget), kind: op.workKind, share: share)
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
        case .map(_, let to, let steps): return passes(values[to].width) + chain(steps, width: values[to].width)
        case .part(_, let to, let steps): return passes(to.count) + chain(steps, width: to.count)
        case .headDots(let value, _, _, _, _): return passes(values[value].width, 1.5)
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
                + self.attention(width: 0, heads: attention.heads, budget)
        case .loss(let outputs, _):
            // Rows without a target are passed over, the others cost something whatever their width.
            let labelled = Double(image.labelled.dropFirst().reduce(0, +))
            return labelled * (padded(values[outputs].width) + 32) / device.lossElementsPerSecond
        }
    }
}
