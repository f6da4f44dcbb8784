import Vocabulary

/// What one pass asks of each resource.
package struct PassCost: Hashable, Sendable {
    package internal(set) var title = ""
    package internal(set) var computeSeconds = 0.0
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

    /// Seconds of each resource, and of the pass: resources overlap where they do not take turns, so the slowest counts.
    package func seconds(_ budget: Budget) -> PassSeconds {
        let sealing = Double(fetchedBytes + storedBytes) / budget.link.sealBytesPerSecond
        let compute =
            computeSeconds + Double(commands) * budget.device.secondsPerCommand
            + (budget.device.sealsOnComputeCores ? sealing : 0)
        let fetch = Double(fetchedBytes) / budget.link.bytesPerSecond
        let store = Double(storedBytes) / budget.link.storeBytesPerSecond
        let ssdRead = Double(ssdReadBytes) / budget.ssd.readBytesPerSecond
        let ssdWrite = Double(ssdWrittenBytes) / budget.ssd.writeBytesPerSecond
        // Filling and draining the queues: a round trip and the first block at each end.
        let ends = fetchedBytes + storedBytes > 0 ? 2 * budget.link.roundTripSeconds : 0
        let pass =
            takesTurns
            ? compute + max(fetch, ssdRead) + max(store, ssdWrite)
            : max(compute, fetch, store, ssdRead, ssdWrite, sealing)
        return PassSeconds(
            compute: compute, fetch: fetch, store: store, ssdRead: ssdRead, ssdWrite: ssdWrite, sealing: sealing,
            pass: pass + ends)
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
    /// What each pass asks of each resource; `opSeconds` are those of `OpGraph.seconds`.
    func costs(_ spills: SpillMap, _ budget: Budget, _ opSeconds: [Double]) -> [PassCost] {
        var seen = Array(repeating: -1, count: storage.count)
        var costs: [PassCost] = []
        costs.reserveCapacity(passes.count)
        for pass in passes.indices {
            var cost = PassCost(takesTurns: decision.takesTurns)
            for value in passes[pass].reloads { addReload(value, spills, &cost) }
            addSlices(pass, spills, budget, &cost)
            for step in passes[pass].steps { add(step, spills, budget, opSeconds, &cost) }
            cost.computeSeconds += spilling(pass, budget, &seen)
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
    }

    private func add(
        _ step: PassStep, _ spills: SpillMap, _ budget: Budget, _ opSeconds: [Double], _ cost: inout PassCost
    ) {
        switch step {
        case .fetch(let value), .store(let value):
            let stores = if case .store = step { true } else { false }
            cost.commands += spans(value)
            let bytes =
                storage[value].spilled == nil
                ? table.fetchedBytes(value, from: storage[value].residentChunks)
                : spans(value) * Planner.sealed(stride(value))
            move(value, bytes, stores: stores, spills, &cost)
        case .fetchParts(let value), .storeParts(let value):
            let stores = if case .storeParts = step { true } else { false }
            move(value, Planner.sealed(spillBytes(value)), stores: stores, spills, &cost)
            cost.commands += (chunks + spans(value)) * alikeCount(value)
            cost.computeSeconds += graph.stream(elements: 2 * values[value].width, budget)
        case .run(let op):
            cost.commands += chunks
            cost.computeSeconds += opSeconds[op]
        case .finishSum(let op):
            cost.commands += chunks
            cost.computeSeconds += graph.stream(elements: 2 * values[analysis.facts[op].source!].width, budget)
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
        }
    }

    private func addSlices(_ pass: Int, _ spills: SpillMap, _ budget: Budget, _ cost: inout PassCost) {
        for (source, ops) in passes[pass].sliced {
            let slices = storage[source].slices
            // Slices are whole blocks, so that all of them are sealed to as much as one piece.
            move(source, Planner.sealed(spillBytes(source)), stores: false, spills, &cost)
            cost.commands += slices.count
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
        let score = analysis.facts[op].scoreSum
        for sum in analysis.sums[op] { move(sum, Planner.sealed(spillBytes(sum)), stores: true, spills, &cost) }
        let sums = analysis.sums[op].count - (score == nil ? 0 : 1)
        // The scores are made with the first slice, by a command of their own.
        cost.commands += (slices.count * (1 + sums) + (score == nil ? 0 : 2)) * groups
        let share = image.share(graph.ops[op].phase, hops: graph.ops[op].hops)
        let headWidth = analysis.facts[op].headWidth
        for index in slices {
            let width = self.slices[index].count
            let heads = headWidth > 0 ? max(width / headWidth, 1) : 0
            let scores = index == slices.lowerBound ? score.map { values[$0].width } ?? 0 : 0
            cost.computeSeconds +=
                share
                * graph.gather(width: sums * width + (heads + scores) * OpGraph.edgeElements, relation, budget)
        }
    }

    /// Sealed bytes that fetching these chunks of an image section at once takes.
    func fetchedBytes(_ value: ValueIndex, chunks: Range<Int>) -> Int {
        ChunkTable.crossing(table.range(value, chunks: chunks), of: image.byteCount(values[value].section!))
    }

    /// What rows that a pass works on more than once take again, where a chunk of them is more than the cache holds.
    /// `seen` is, by value, the last pass that had it.
    private func spilling(_ pass: Int, _ budget: Budget, _ seen: inout [Int]) -> Double {
        var (once, again) = (0, 0)
        func add(_ touched: Indices) {
            for value in touched {
                let width = analysis.values[value].width
                if seen[value] != pass { once += width } else { again += width }
                seen[value] = pass
            }
        }
        for case .run(let op) in passes[pass].steps {
            add(analysis.facts[op].inputs)
            add(analysis.facts[op].outputs)
        }
        let bytes = Double(min(decision.chunkRows, image.nodes) * once * 4)
        let cache = Double(budget.device.cacheBytes)
        return bytes > cache ? graph.stream(elements: again, budget) * (1 - cache / bytes) : 0
    }
}

extension OpGraph {
    fileprivate func stream(elements: Int, _ budget: Budget) -> Double {
        Double(image.nodes * elements * 4) / budget.device.streamBytesPerSecond
    }

    fileprivate func gather(width: Int, _ relation: Int, _ budget: Budget) -> Double {
        Double(image.relations.isEmpty ? image.edges : image.relations[relation].edges)
            * (Double(width * 4 + 4) / budget.device.gatherBytesPerSecond + budget.device.secondsPerEdge)
    }

    /// What an operation takes, with the rows that matter to it.
    func seconds(_ op: Op, _ budget: Budget) -> Double {
        image.share(op.phase, hops: op.hops) * wholeSeconds(op, budget)
    }

    /// What an edge's weight costs in each head, as if so many columns were gathered.
    fileprivate static let edgeElements = 8

    /// With all rows.
    private func wholeSeconds(_ op: Op, _ budget: Budget) -> Double {
        let rows = Double(image.nodes)
        // What a step reads beside the chain itself.
        let steps = op.steps.compactMap(\.value).reduce(0) { $0 + values[$1].width }
        switch op.kind {
        case .map(let from, let to, _): return stream(elements: values[from].width + values[to].width + steps, budget)
        case .part(let from, _, _): return stream(elements: 2 * from.count + steps, budget)
        case .product(_, let entry, _, _, _, _):
            return 2 * rows * Double(entry.count) / budget.device.productFlopsPerSecond
                + stream(elements: steps, budget)
        case .weightGradient(_, _, let entry):
            return 2 * rows * Double(entry.count) / budget.device.productFlopsPerSecond
        case .gather(let from, let relation, _, _): return gather(width: values[from].width, relation, budget)
        case .attentionScale(let attention, _):
            // Two passes over the scores, an exponential for each edge and head.
            return 2 * gather(width: attention.heads * 4, 0, budget)
        case .attend(let attention, _):
            return gather(width: attention.heads * (attention.headWidth + OpGraph.edgeElements), 0, budget)
        case .attentionGradient(let attention, let gradient):
            let sums = gradient.isOfSources ? 2 : 1
            return gather(width: attention.heads * (attention.headWidth * sums + OpGraph.edgeElements), 0, budget)
        case .headDots(let value, _, _, _, _): return stream(elements: 2 * values[value].width, budget)
        case .columnSum(let a, let factors, _):
            return stream(elements: values[a].width + (factors.map { values[$0.value].width } ?? 0), budget)
        case .loss(let outputs, _): return 4 * stream(elements: values[outputs].width, budget)
        }
    }
}
