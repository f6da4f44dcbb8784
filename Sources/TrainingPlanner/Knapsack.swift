import Vocabulary

/// Which of the values that could move stay, and with how many chunks: those first that save most seconds for each byte
/// they take, then whatever exchange of two makes the epoch shorter.
struct Knapsack {
    private let layout: Layout
    private let budget: Budget
    private let chunks: Int
    private var items: [Item] = []
    /// Of all items, one after the other.
    private var savings: [Saving] = []
    private var passes: [Int] = []
    /// By item: chunks that stay.
    private var levels: [Int]
    private var costs: [PassCost]
    private var seconds: [Double]
    /// By pass: bytes that nobody has taken; negative where slots had to go before.
    private var free: [Int]
    /// Seconds of an epoch.
    private(set) var estimate = 0.0

    private struct Item {
        let value: ValueIndex
        let rowBytes: Int
        /// Whose neighbours it is; −1 for others.
        let relation: Int
        /// Passes in which it takes its bytes, where it does not already; in `Knapsack.passes`.
        let passes: Range<Int>
        /// Only whole or not at all.
        let isWhole: Bool
        /// Whether it is put away on the SSD.
        let isOnSSD: Bool
        /// In `Knapsack.savings`.
        let saved: Range<Int>
    }

    /// In one pass: sealed bytes that no longer cross, and slots that are no longer needed, if all chunks stay.
    private struct Saving {
        let pass: Int
        let fetched: Int
        let stored: Int
        let slotBytes: Int
    }

    init(_ empty: Search.Candidate, _ budget: Budget, room: Int) {
        layout = empty.layout
        self.budget = budget
        chunks = layout.chunks
        costs = empty.costs
        seconds = costs.map { $0.seconds(budget).pass }
        free = empty.usage.byPass.map { room - $0 }
        levels = []
        estimate = seconds.reduce(0, +)
        for value in layout.storage.indices { addItem(value, empty) }
        levels = Array(repeating: 0, count: items.count)
        fill()
    }

    var filled: Decision {
        var filled = layout.decision
        for (item, level) in zip(items, levels) where level > 0 {
            filled.ways[item.value] = level == chunks ? .device : .moved(residentChunks: level)
        }
        return filled
    }

    /// Device bytes of an item's first chunks.
    private func bytes(_ item: Item, _ level: Int) -> Int {
        if level == 0 { return 0 }
        let rows = min(level * layout.decision.chunkRows, layout.image.nodes)
        guard item.relation >= 0 else { return rows * item.rowBytes }
        return max(layout.image.edges(ofRows: 0..<rows, item.relation).count * 4, 4)
    }

    /// The slots that it needs in a pass unless all of it stays.
    private func slotBytes(_ item: Item, in pass: Int) -> Int {
        for saving in savings[item.saved] where saving.pass == pass { return saving.slotBytes }
        return 0
    }

    /// The most chunks of an item that fit.
    private func most(_ index: Int) -> Int {
        let item = items[index]
        let level = levels[index]
        let taken = bytes(item, level)
        let all = bytes(item, chunks)
        var least = Int.max
        var whole = true
        for pass in passes[item.passes] {
            let slots = slotBytes(item, in: pass)
            let room = free[pass] + (level == chunks ? taken - slots : taken)
            if all - slots > room { whole = false }
            least = min(least, room)
        }
        if whole { return chunks }
        return item.isWhole ? 0 : most(item, in: least)
    }

    private func most(_ item: Item, in room: Int) -> Int {
        guard item.relation >= 0 else {
            let rowBytes = max(item.rowBytes, 1)
            return max(0, min(chunks - 1, room / rowBytes / layout.decision.chunkRows))
        }
        var (low, high) = (0, chunks - 1)
        while low < high {
            let middle = (low + high + 1) / 2
            if bytes(item, middle) <= room { low = middle } else { high = middle - 1 }
        }
        return low
    }

    /// Seconds and, less than any of them, bytes over the link that a change saves.
    private func gain(_ index: Int, _ level: Int) -> Double {
        var gain = 0.0
        for saving in savings[items[index].saved] {
            let moved = less(saving, index, level)
            var cost = costs[saving.pass]
            cost.spare(moved, onSSD: items[index].isOnSSD)
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
        let difference = bytes(item, levels[index]) - bytes(item, level)
        let spares = level == chunks ? 1 : levels[index] == chunks ? -1 : 0
        for pass in passes[item.passes] {
            let freed = difference + (spares == 0 ? 0 : spares * slotBytes(item, in: pass))
            free[pass] += freed
        }
        for saving in savings[item.saved] {
            let moved = less(saving, index, level)
            costs[saving.pass].spare(moved, onSSD: item.isOnSSD)
            estimate -= seconds[saving.pass]
            seconds[saving.pass] = costs[saving.pass].seconds(budget).pass
            estimate += seconds[saving.pass]
        }
        levels[index] = level
    }

    private mutating func fill() {
        // What an item gains only shrinks as others are filled in, so one that is still the best after another look is.
        var queue: [(index: Int, density: Double)] = items.indices.compactMap { index in
            density(index).map { (index, $0) }
        }
        queue.sort { ($0.density, $1.index) < ($1.density, $0.index) }
        while let first = queue.popLast() {
            guard let density = density(first.index) else { continue }
            if let next = queue.last, density < next.density {
                let place = queue.firstIndex { $0.density > density } ?? queue.count
                queue.insert((first.index, density), at: place)
            } else {
                set(first.index, most(first.index))
            }
        }
    }

    /// Seconds saved for each byte if as much of an item stays as fits; `nil` where no more does.
    private func density(_ index: Int) -> Double? {
        let level = most(index)
        guard levels[index] < chunks, level > levels[index] else { return nil }
        let bytes = bytes(items[index], level) - bytes(items[index], levels[index])
        return gain(index, level) / Double(max(bytes, 1))
    }

    /// Takes chunks from one for another, and fills up what that leaves, as long as it helps.
    mutating func exchange(rounds: Int) {
        var improves = true
        var left = rounds
        while improves, left > 0 {
            improves = false
            left -= 1
            for from in items.indices where levels[from] > 0 {
                let some = rounds > 1 ? [0, levels[from] / 2, levels[from] - 1] : [0]
                for less in some where less < levels[from] {
                    improves = exchange(from, less) || improves
                }
            }
        }
    }

    /// The first other item that is worth it gets what `from` gives.
    private mutating func exchange(_ from: Int, _ less: Int) -> Bool {
        let (fromBefore, before) = (levels[from], estimate)
        set(from, less)
        for to in items.indices where to != from && levels[to] < chunks {
            let toBefore = levels[to]
            let level = most(to)
            guard level > toBefore else { continue }
            set(to, level)
            set(from, max(less, items[from].isWhole && most(from) < chunks ? 0 : most(from)))
            if estimate < before - 1e-9 { return true }
            set(to, toBefore)
            set(from, less)
        }
        set(from, fromBefore)
        return false
    }

    private mutating func addItem(_ value: ValueIndex, _ empty: Search.Candidate) {
        let analysis = layout.analysis
        guard layout.decision.ways[value] == .moved(residentChunks: 0), !analysis.isBare(value) else { return }
        let section = analysis.values[value].section
        let storage = layout.storage[value]
        guard section != nil || (storage.spilled != nil && storage.sliceWidth == 0) else { return }
        if layout.decision.takesTurns, !storage.whole.isEmpty { return }
        let moved =
            section == nil
            ? layout.spans(value) * Planner.sealed(layout.stride(value)) : layout.table.fetchedBytes(value, from: 0)
        let firstSaving = savings.count
        for pass in layout.passes.indices {
            let (fetched, stored) = crossing(value, moved, in: pass)
            guard fetched + stored > 0 else { continue }
            savings.append(
                Saving(
                    pass: pass, fetched: fetched, stored: stored, slotBytes: empty.usage.slotBytes(value, in: pass)))
        }
        let firstPass = passes.count
        if section == nil {
            for pass in storage.spilled! where !layout.isWhole(value, in: pass) { passes.append(pass) }
        } else {
            passes += layout.passes.indices
        }
        items.append(
            Item(
                value: value, rowBytes: layout.rowBytes(value),
                relation: section == .columns ? analysis.values[value].relation : -1,
                passes: firstPass..<passes.count, isWhole: !analysis.gatheredIn[value].isEmpty,
                isOnSSD: empty.spills.places[value]?.tier == .ssd, saved: firstSaving..<savings.count))
    }

    /// Sealed bytes of a value that cross in a pass, of which all chunks are so many.
    private func crossing(_ value: ValueIndex, _ moved: Int, in pass: Int) -> (fetched: Int, stored: Int) {
        var (fetched, stored) = (0, 0)
        for step in layout.passes[pass].steps {
            switch step {
            case .fetch(value): fetched += moved
            case .store(value): stored += moved
            default: continue
            }
        }
        for reload in layout.passes[pass].reloads where reload == value { fetched += moved }
        guard layout.analysis.values[value].section == .columns else { return (fetched, stored) }
        for (source, ops) in layout.passes[pass].sliced {
            for op in ops where layout.analysis.facts[op].relation == layout.analysis.values[value].relation {
                let grouping = layout.grouping(op)
                var lower = 0
                while lower < chunks {
                    let group = lower..<grouping.end(of: lower)
                    fetched += layout.fetchedBytes(value, chunks: group) * layout.storage[source].slices.count
                    lower = group.upperBound
                }
            }
        }
        return (fetched, stored)
    }
}
