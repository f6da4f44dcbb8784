import Vocabulary

/// What the planner chooses. It changes where things lie and when they move, never a bit of a result.
package struct Cut: Hashable, Sendable {
    /// How a value reaches the passes after the one that makes it.
    package enum Way: Hashable, Sendable {
        /// It stays in device memory.
        case device
        /// Its first chunks of rows stay in device memory, the others are put away and fetched again.
        case moved(residentChunks: Int)
        /// It is computed again from what it was made of.
        case recompute
    }

    /// Rows of a chunk: a multiple of `ImageShape.tileRows`, or a divisor from `chunkRowsMin` on.
    package var chunkRows: Int
    /// By value's name; `device` where there is no entry.
    package var ways: [String: Way]
    /// Columns of a slice, for sources of sums over neighbours that are put away and fetched slice by slice instead of
    /// lying in device memory whole; by value's name.
    package var sliceWidths: [String: Int]
    /// Whether the image's numbers for each node (row pointers, scale, targets, split) are fetched where they are needed
    /// instead of staying in device memory.
    package var fetchesNodeSections: Bool

    package static let chunkRowsMin = 64

    package init(
        chunkRows: Int, ways: [String: Way] = [:], sliceWidths: [String: Int] = [:], fetchesNodeSections: Bool = false
    ) {
        self.chunkRows = chunkRows
        self.ways = ways
        self.sliceWidths = sliceWidths
        self.fetchesNodeSections = fetchesNodeSections
    }
}

/// What a cut may say of one value.
package struct Choice: Hashable, Sendable {
    package let name: String
    package let width: Int
    /// Its rows are used in a later pass, so it may be put away by chunks.
    package let moves: Bool
    /// Only whole or not at all: a sum over neighbours reads it, so a part of it would not do.
    package let movesWhole: Bool
    package let recomputes: Bool
    /// It is the source of a sum over neighbours, so it may be cut into slices of columns.
    package let slices: Bool
}

/// A cut by index, as the search changes it.
struct Decision: Hashable {
    var chunkRows: Int
    var ways: [Cut.Way]
    /// 0 for values that are not sliced.
    var sliceWidths: [Int]
    var fetchesNodeSections = false

    init(chunkRows: Int, values: Int) {
        self.chunkRows = chunkRows
        ways = Array(repeating: .device, count: values)
        sliceWidths = Array(repeating: 0, count: values)
    }

    init(_ cut: Cut, _ analysis: Analysis) {
        self.init(chunkRows: cut.chunkRows, values: analysis.values.count)
        fetchesNodeSections = cut.fetchesNodeSections
        for (index, value) in analysis.values.enumerated() {
            if let way = cut.ways[value.name] { ways[index] = way }
            if let width = cut.sliceWidths[value.name], width < value.width { sliceWidths[index] = width }
        }
    }

    /// Whether an operation's sums are made slice by slice.
    func slices(_ op: OpIndex, _ analysis: Analysis) -> Bool {
        analysis.graph.ops[op].source.map { sliceWidths[$0] > 0 } ?? false
    }

    func cut(_ analysis: Analysis) -> Cut {
        var cut = Cut(chunkRows: chunkRows, fetchesNodeSections: fetchesNodeSections)
        for (index, value) in analysis.values.enumerated() {
            if ways[index] != .device { cut.ways[value.name] = ways[index] }
            if sliceWidths[index] > 0 { cut.sliceWidths[value.name] = sliceWidths[index] }
        }
        return cut
    }
}

extension Cut {
    package func title(chunks: Int) -> String {
        var parts: [String] = []
        for (name, way) in ways.sorted(by: { $0.key < $1.key }) {
            switch way {
            case .device: break
            case .recompute: parts.append("\(name) recomputed")
            case .moved(let resident):
                parts.append("\(name) moves" + (resident > 0 ? " but for \(resident) of \(chunks)" : ""))
            }
        }
        for (name, width) in sliceWidths.sorted(by: { $0.key < $1.key }) {
            parts.append("\(name) in slices of \(width)")
        }
        if fetchesNodeSections { parts.append("numbers of nodes fetched") }
        let rows = "\(chunks) row chunk\(chunks == 1 ? "" : "s") of \(chunkRows)"
        return parts.isEmpty ? "all resident, \(rows)" : parts.joined(separator: ", ") + ", \(rows)"
    }
}
