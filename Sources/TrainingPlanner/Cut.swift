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
    /// Whether what moves has one buffer, not two, so that moving and computing take turns; and whether what sums over
    /// neighbours need whole is put away as it is made, and fetched whole for these.
    package var takesTurns: Bool
    /// The operations that all of this is about.
    package var form: OpGraph.Form

    package static let chunkRowsMin = 64

    package init(
        chunkRows: Int, ways: [String: Way] = [:], sliceWidths: [String: Int] = [:], fetchesNodeSections: Bool = false,
        takesTurns: Bool = false, form: OpGraph.Form = OpGraph.Form()
    ) {
        self.form = form
        self.takesTurns = takesTurns
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
    var takesTurns = false

    init(chunkRows: Int, values: Int) {
        self.chunkRows = chunkRows
        ways = Array(repeating: .device, count: values)
        sliceWidths = Array(repeating: 0, count: values)
    }

    init(_ cut: Cut, _ analysis: Analysis) {
        self.init(chunkRows: cut.chunkRows, values: analysis.values.count)
        fetchesNodeSections = cut.fetchesNodeSections
        takesTurns = cut.takesTurns
        for (index, value) in analysis.values.enumerated() {
            if let way = cut.ways[value.name] { ways[index] = way }
            if let width = cut.sliceWidths[value.name], width < value.width { sliceWidths[index] = width }
        }
    }

    /// Whether an operation's sums are made slice by slice.
    func slices(_ op: OpIndex, _ analysis: Analysis) -> Bool {
        analysis.facts[op].source.map { sliceWidths[$0] > 0 } ?? false
    }
}

extension Layout {
    /// What the decision says of values that anything can be said of: others live inside a pass only.
    var cut: Cut {
        var cut = Cut(
            chunkRows: decision.chunkRows, fetchesNodeSections: decision.fetchesNodeSections,
            takesTurns: decision.takesTurns, form: graph.form)
        for (index, value) in values.enumerated() {
            let moves = if case .moved = decision.ways[index] { true } else { false }
            if moves ? storage[index].spilled != nil || value.section != nil : decision.ways[index] == .recompute {
                cut.ways[value.name] = decision.ways[index]
            }
            if decision.sliceWidths[index] > 0 { cut.sliceWidths[value.name] = decision.sliceWidths[index] }
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
        if takesTurns { parts.append("moving and computing in turns") }
        if form.headGroups > 1 { parts.append("heads in \(form.headGroups) groups") }
        if form.repeatsSources { parts.append("sources of attention made again") }
        if form.splitsEnds { parts.append("the two ends of edges one after the other") }
        let rows = "\(chunks) row chunk\(chunks == 1 ? "" : "s") of \(chunkRows)"
        return parts.isEmpty ? "all resident, \(rows)" : parts.joined(separator: ", ") + ", \(rows)"
    }
}
