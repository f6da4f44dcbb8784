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
    ///   - leastBytes: the most that is in use at once, which no order can go below.
    ///   - pinned: items that come first, one after the other, whatever else there is.
    init(_ items: [Item], alignment: Int, leastBytes: Int = 0, pinned: [Int] = []) {
        let bytes = items.map { ($0.bytes + alignment - 1) / alignment * alignment }
        let lifetimes = items.map(\.lifetime)
        let others = items.indices.filter { !pinned.contains($0) }
        let bySize = others.sorted { (bytes[$0], $1) > (bytes[$1], $0) }
        (offsets, peakBytes) = Self.place(pinned + bySize, bytes, lifetimes)
        guard peakBytes > leastBytes else { return }
        for longest in [true, false] {
            func key(_ index: Int) -> (Int, Int, Int) {
                let length = lifetimes[index].count
                return longest ? (length, bytes[index], -index) : (length * bytes[index], length, -index)
            }
            let other = Self.place(pinned + others.sorted { key($0) > key($1) }, bytes, lifetimes)
            if other.1 < peakBytes { (offsets, peakBytes) = other }
        }
    }

    private static func place(
        _ order: [Int], _ bytes: [Int], _ lifetimes: [ClosedRange<Int>]
    ) -> ([Int], Int) {
        var offsets = Array(repeating: 0, count: bytes.count)
        // Those that have a place, by offset.
        var placed: [Int] = []
        placed.reserveCapacity(bytes.count)
        var peak = 0
        for index in order {
            var offset = 0
            for other in placed where lifetimes[other].overlaps(lifetimes[index]) {
                if offset + bytes[index] <= offsets[other] { break }
                offset = max(offset, offsets[other] + bytes[other])
            }
            offsets[index] = offset
            peak = max(peak, offset + bytes[index])
            placed.insert(index, at: placed.firstIndex { offsets[$0] > offset } ?? placed.count)
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
