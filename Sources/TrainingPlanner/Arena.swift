/// Places buffers in one range of memory so that two share bytes only when their lifetimes do not meet.
///
/// Each goes to the lowest offset that is free during its lifetime: largest first (Pisarchyk & Lee 2020, "greedy by
/// size"), and where that leaves gaps also longest first; the better of both is taken. Deterministic: ties go to the lower
/// index.
struct Arena {
    struct Item {
        let bytes: Int
        let lifetime: ClosedRange<Int>
    }

    private(set) var offsets: [Int]
    private(set) var peakBytes: Int

    /// - Parameters:
    ///   - leastBytes: the most that is in use at once, which no order can go below; or as much as will do.
    ///   - pinned: items that come first, one after the other, whatever else there is.
    init(_ items: [Item], alignment: Int, leastBytes: Int = 0, pinned: [Int] = []) {
        let places = items.map { item in
            Place(
                bytes: (item.bytes + alignment - 1) / alignment * alignment, first: item.lifetime.lowerBound,
                last: item.lifetime.upperBound)
        }
        let others = items.indices.filter { !pinned.contains($0) }
        let bySize = others.sorted { (places[$0].bytes, $1) > (places[$1].bytes, $0) }
        (offsets, peakBytes) = Self.place(pinned + bySize, places)
        guard peakBytes > leastBytes else { return }
        for longest in [true, false] {
            func key(_ index: Int) -> (Int, Int, Int) {
                let place = places[index]
                let length = place.last - place.first + 1
                return longest ? (length, place.bytes, -index) : (length * place.bytes, length, -index)
            }
            let other = Self.place(pinned + others.sorted { key($0) > key($1) }, places)
            if other.1 < peakBytes { (offsets, peakBytes) = other }
        }
    }

    private struct Place {
        let bytes: Int
        let first: Int
        let last: Int
        var offset = 0
        var end: Int { offset + bytes }
    }

    private static func place(_ order: [Int], _ items: [Place]) -> ([Int], Int) {
        var offsets = Array(repeating: 0, count: items.count)
        // Those that have a place, by offset.
        var placed: [Place] = []
        placed.reserveCapacity(items.count)
        var peak = 0
        for index in order {
            var item = items[index]
            // Where it would come among those that have a place.
            var position = 0
            for (number, other) in placed.enumerated() where other.first <= item.last && item.first <= other.last {
                if item.end <= other.offset { break }
                item.offset = max(item.offset, other.end)
                position = number + 1
            }
            while position < placed.count, placed[position].offset <= item.offset { position += 1 }
            offsets[index] = item.offset
            peak = max(peak, item.end)
            placed.insert(item, at: position)
        }
        return (offsets, peak)
    }
}

extension Arena {
    /// Places for the buffers of a layout.
    init(_ layout: Layout, leastBytes: Int) {
        var buffers = Buffers()
        layout.tellBuffers(&buffers)
        self.init(
            buffers.items, alignment: Planner.alignment, leastBytes: leastBytes,
            pinned: TrainingPlan.Fixed.state.compactMap { role in buffers.fixed.first { $0.role == role }?.item })
    }

    private struct Buffers: BufferSink {
        var items: [Item] = []
        var fixed: [(role: TrainingPlan.Fixed, item: Int)] = []

        mutating func add(
            _ content: BufferContent, _ bytes: Int, steps: ClosedRange<Int>, passes: ClosedRange<Int>?
        ) {
            if case .fixed(let role) = content { fixed.append((role, items.count)) }
            items.append(Item(bytes: bytes, lifetime: steps))
        }
    }
}
