import Vocabulary

/// What one pass asks of each resource.
package struct PassCost: Hashable, Sendable {
    package let title: String
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

    init(title: String) { self.title = title }

    var untitled: PassCost {
        var cost = PassCost(title: "")
        cost.computeSeconds = computeSeconds
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

    /// Seconds of each resource, and of the pass: resources overlap, so the slowest one counts.
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
        return PassSeconds(
            compute: compute, fetch: fetch, store: store, ssdRead: ssdRead, ssdWrite: ssdWrite, sealing: sealing,
            pass: max(compute, fetch, store, ssdRead, ssdWrite, sealing) + ends)
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
    /// What each pass asks of each resource.
    func costs(_ spills: SpillMap, _ budget: Budget) -> [PassCost] {
        passes.enumerated().map { number, pass in
            var cost = PassCost(title: pass.title)
            for value in pass.reloads { addReload(value, spills, &cost) }
            addSlices(pass, spills, budget, &cost)
            for step in pass.steps { add(step, number, spills, budget, &cost) }
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
        move(
            value, chunks * Planner.sealed(stride(width: values[value].width)), stores: false, spills, &cost)
        cost.commands += chunks
    }

    private func add(
        _ step: PassStep, _ pass: Int, _ spills: SpillMap, _ budget: Budget, _ cost: inout PassCost
    ) {
        switch step {
        case .fetch(let value), .store(let value):
            let stores = if case .store = step { true } else { false }
            let moved = chunks - storage[value].residentChunks
            cost.commands += moved
            let bytes =
                storage[value].spilled == nil
                ? table.fetchedBytes(value, chunks: storage[value].residentChunks..<chunks)
                : moved * Planner.sealed(stride(width: values[value].width))
            move(value, bytes, stores: stores, spills, &cost)
        case .fetchPart(let value, let slice), .storePart(let value, let slice):
            let stores = if case .storePart = step { true } else { false }
            let width = ranges(value)[slice].count
            move(value, chunks * Planner.sealed(stride(width: width)), stores: stores, spills, &cost)
            cost.commands += 2 * chunks
            cost.computeSeconds += stream(elements: 2 * width, budget)
        case .run(let op):
            cost.commands += chunks
            cost.computeSeconds += seconds(graph.ops[op], budget)
        case .finishSum(let op):
            cost.commands += chunks
            guard case .attentionGradient(let attention, _) = graph.ops[op].kind else {
                cost.computeSeconds += stream(elements: 2 * values[graph.ops[op].source!].width, budget)
                return
            }
            cost.computeSeconds +=
                image.share(graph.ops[op].phase, hops: graph.ops[op].hops)
                * gather(width: attention.heads * Self.edgeElements, 0, budget)
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
        }
    }

    private func addSlices(_ pass: Pass, _ spills: SpillMap, _ budget: Budget, _ cost: inout PassCost) {
        for (source, ops) in pass.sliced {
            for range in ranges(source) {
                let bytes = chunks * Planner.sealed(stride(width: range.count))
                move(source, sliceBytes(width: range.count), stores: false, spills, &cost)
                cost.commands += isGapless(width: range.count) ? 1 : chunks
                for op in ops {
                    let relation = graph.ops[op].relation!
                    let groups = groups(source, relation: relation)
                    let sums = analysis.sums[op]
                    for sum in sums { move(sum, bytes, stores: true, spills, &cost) }
                    cost.commands += (1 + sums.count) * groups.count
                    let op = graph.ops[op]
                    let heads = op.headWidth > 0 ? max(range.count / op.headWidth, 1) : 0
                    let width = sums.count * range.count + heads * Self.edgeElements
                    cost.computeSeconds +=
                        image.share(op.phase, hops: op.hops) * gather(width: width, relation, budget)
                    let columns = analysis.columns[relation]
                    for group in groups where group.lowerBound >= storage[columns].residentChunks {
                        cost.fetchedBytes += fetchedBytes(columns, chunks: group)
                        cost.commands += 1
                    }
                }
            }
        }
    }

    /// Sealed bytes of a whole slice as it is fetched; where chunks have gaps, only what rows there are.
    private func sliceBytes(width: Int) -> Int {
        guard !isGapless(width: width) else { return chunks * Planner.sealed(stride(width: width)) }
        return (0..<chunks).reduce(0) { total, chunk in
            let blocks = (rows(chunk).count * width * 4 + Limits.blockBytes - 1) / Limits.blockBytes
            return total + blocks * Limits.sealedBlockBytes
        }
    }

    /// Sealed bytes that fetching these chunks of an image section at once takes.
    func fetchedBytes(_ value: ValueIndex, chunks: Range<Int>) -> Int {
        let section = values[value].section!
        let range: Range<Int>
        if section == .columns {
            let edges = edges(chunks, relation: values[value].relation)
            range = edges.lowerBound * 4..<edges.upperBound * 4
        } else {
            let bytes = rowBytes(value)
            range = rows(chunks.lowerBound).lowerBound * bytes..<rows(chunks.upperBound - 1).upperBound * bytes
        }
        return ChunkTable.crossing(range, of: image.byteCount(section))
    }

    private func stream(elements: Int, _ budget: Budget) -> Double {
        Double(image.nodes * elements * 4) / budget.device.streamBytesPerSecond
    }

    private func gather(width: Int, _ relation: Int, _ budget: Budget) -> Double {
        Double(image.relations.isEmpty ? image.edges : image.relations[relation].edges)
            * (Double(width * 4 + 4) / budget.device.gatherBytesPerSecond + budget.device.secondsPerEdge)
    }

    private func seconds(_ op: OpGraph.Op, _ budget: Budget) -> Double {
        image.share(op.phase, hops: op.hops) * wholeSeconds(op, budget)
    }

    /// What an edge's weight costs in each head, as if so many columns were gathered.
    private static let edgeElements = 8

    /// With all rows.
    private func wholeSeconds(_ op: OpGraph.Op, _ budget: Budget) -> Double {
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
        case .attentionScale(let attention, _, _, _):
            // Two passes over the scores, an exponential for each edge and head.
            return 2 * gather(width: attention.heads * 4, 0, budget)
        case .attend(let attention, _):
            return gather(width: attention.heads * (attention.headWidth + Self.edgeElements), 0, budget)
        case .attentionGradient(let attention, let gradient):
            let sums = gradient.isOfSources ? 2 : 1
            return gather(width: attention.heads * (attention.headWidth * sums + Self.edgeElements), 0, budget)
        case .headDots(let value, _, _, _, _): return stream(elements: 2 * values[value].width, budget)
        case .columnSum(let a, let factors, _):
            return stream(elements: values[a].width + (factors.map { values[$0.value].width } ?? 0), budget)
        case .loss(let outputs, _): return 4 * stream(elements: values[outputs].width, budget)
        }
    }
}
