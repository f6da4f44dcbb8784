/// Places buffers in one range of memory so that two share bytes only when their lifetimes do not meet.
///
/// Largest first, each at the lowest offset that is free during its lifetime (Pisarchyk & Lee 2020, "greedy by size").
/// Deterministic: ties go to the lower index.
struct Arena {
    struct Item {
        let bytes: Int
        let lifetime: ClosedRange<Int>
    }

    let offsets: [Int]
    let peakBytes: Int

    init(_ items: [Item], alignment: Int) {
        var offsets = Array(repeating: 0, count: items.count)
        var placed: [Int] = []
        var peak = 0
        func padded(_ bytes: Int) -> Int { (bytes + alignment - 1) / alignment * alignment }
        let order = items.indices.sorted { (items[$0].bytes, $1) > (items[$1].bytes, $0) }
        for index in order {
            let bytes = padded(items[index].bytes)
            let taken = placed.filter { items[$0].lifetime.overlaps(items[index].lifetime) }
                .map { (lower: offsets[$0], upper: offsets[$0] + padded(items[$0].bytes)) }
                .sorted { $0.lower < $1.lower }
            var offset = 0
            for range in taken {
                if offset + bytes <= range.lower { break }
                offset = max(offset, range.upper)
            }
            offsets[index] = offset
            peak = max(peak, offset + bytes)
            placed.append(index)
        }
        self.offsets = offsets
        peakBytes = peak
    }
}
