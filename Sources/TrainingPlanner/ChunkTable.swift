package import Vocabulary

/// What all layouts with the same chunks share: sums over the chunks that would else be made again and again.
final class ChunkTable: Sendable {
    let chunkRows: Int
    let chunks: Int
    /// Chunks whose numbers of nodes are fetched at once: sealed blocks are larger than what one chunk has of them. Whole
    /// spans of every value.
    let spanChunks: Int
    /// By value of the image: chunks that cross together.
    let sectionSpans: [Int]
    /// Neighbours of the span that has most, by topology; at least 1.
    let mostEdges: [Int]
    /// By value of the image: sealed bytes that fetching the first spans takes, one by one.
    private let fetched: [[Int]]
    /// Likewise of numbers of nodes, all spans.
    private let fetchedNodes: [NodeSection: Int]
    private let graph: OpGraph

    init(_ graph: OpGraph, chunkRows: Int) {
        let image = graph.image
        self.chunkRows = chunkRows
        self.graph = graph
        chunks = (image.nodes + chunkRows - 1) / chunkRows
        let words = Limits.blockBytes / 4
        spanChunks = words / Layout.divisor(words, chunkRows)
        var making = Making(graph: graph, chunkRows: chunkRows, chunks: chunks)
        for value in graph.values {
            guard value.section != nil else { break }
            making.add(value)
        }
        making.addNodes(spanRows: spanChunks * chunkRows)
        sectionSpans = making.spans
        mostEdges = making.mostEdges
        fetched = making.fetched
        fetchedNodes = making.fetchedNodes
    }

    /// Spans of numbers of nodes.
    var spans: Int { (chunks + spanChunks - 1) / spanChunks }

    func rows(ofSpan span: Int) -> Range<Int> {
        let rows = spanChunks * chunkRows
        return span * rows..<min((span + 1) * rows, graph.image.nodes)
    }

    /// Bytes of these chunks in their section.
    func range(_ index: ValueIndex, chunks range: Range<Int>) -> Range<Int> {
        graph.image.bytes(
            graph.values[index],
            rows: range.lowerBound * chunkRows..<min(range.upperBound * chunkRows, graph.image.nodes))
    }

    /// Sealed bytes that fetching all of a section of numbers, span by span, takes.
    func fetchedBytes(_ section: NodeSection) -> Int { fetchedNodes[section] ?? 0 }

    /// Sealed bytes that fetching a section from a chunk on, span by span, takes.
    func fetchedBytes(_ value: ValueIndex, from chunk: Int) -> Int {
        guard chunk < chunks else { return 0 }
        let span = sectionSpans[value]
        let whole = (chunk + span - 1) / span
        let all = fetched[value].last! - fetched[value][whole]
        guard !chunk.isMultiple(of: span) else { return all }
        return all
            + Self.crossing(
                range(value, chunks: chunk..<min(whole * span, chunks)),
                of: graph.image.byteCount(graph.values[value].section!))
    }

    /// Sealed bytes that a range of a window's plaintext takes: whole blocks cross.
    static func crossing(_ range: Range<Int>, of byteCount: Int) -> Int {
        guard !range.isEmpty else { return 0 }
        let first = range.lowerBound / Limits.blockBytes
        let end = (range.upperBound - 1) / Limits.blockBytes + 1
        return min(byteCount, end * Limits.blockBytes) - first * Limits.blockBytes + (end - first) * Limits.tagBytes
    }
}

extension ChunkTable {
    /// What `ChunkTable` holds, while it grows.
    private struct Making {
        let graph: OpGraph
        let chunkRows: Int
        let chunks: Int
        var spans: [Int] = []
        var mostEdges: [Int]
        var fetched: [[Int]] = []
        var fetchedNodes: [NodeSection: Int] = [:]

        init(graph: OpGraph, chunkRows: Int, chunks: Int) {
            self.graph = graph
            self.chunkRows = chunkRows
            self.chunks = chunks
            mostEdges = Array(repeating: 1, count: graph.image.topologies)
        }

        mutating func add(_ value: OpGraph.Value) {
            let span = span(value)
            spans.append(span)
            let all = graph.image.byteCount(value.section!)
            var sum = [0]
            sum.reserveCapacity(chunks / span + 2)
            for first in stride(from: 0, to: chunks, by: span) {
                let rows = first * chunkRows..<min((first + span) * chunkRows, graph.image.nodes)
                let bytes = graph.image.bytes(value, rows: rows)
                if value.section == .columns {
                    mostEdges[value.relation] = max(mostEdges[value.relation], bytes.count / 4)
                }
                sum.append(sum.last! + ChunkTable.crossing(bytes, of: all))
            }
            fetched.append(sum)
        }

        /// So many that no more than a third of what crosses is the rest of blocks, and whole tiles of neighbours, since
        /// only the neighbours of tiles have known places.
        private func span(_ value: OpGraph.Value) -> Int {
            let image = graph.image
            let enough = 3 * Limits.blockBytes
            var span = 1
            if value.section == .columns {
                let rows = max(ImageShape.tileRows, chunkRows)
                span = rows / chunkRows
                let edges = image.relations.isEmpty ? image.edges : image.relations[value.relation].edges
                while span < chunks, edges / max(chunks / span, 1) * 4 < enough { span *= 2 }
            } else {
                func bytes() -> Int { span * chunkRows * value.width * 4 }
                while span < chunks, !bytes().isMultiple(of: Limits.blockBytes), bytes() < enough { span *= 2 }
            }
            return span
        }

        mutating func addNodes(spanRows: Int) {
            let image = graph.image
            for role in [TrainingPlan.Fixed.rowPointers, .scale, .labels, .split] {
                guard let all = role.section(image).map(image.byteCount) else { continue }
                for relation in 0..<(role == .rowPointers || role == .scale ? image.topologies : 1) {
                    let section = NodeSection(role: role, relation: relation)
                    fetchedNodes[section] = stride(from: 0, to: image.nodes, by: spanRows).reduce(0) {
                        $0
                            + ChunkTable.crossing(
                                image.bytes(section, rows: $1..<min($1 + spanRows, image.nodes)), of: all)
                    }
                }
            }
        }
    }
}

extension ImageShape {
    /// Row pointers of one topology at rows 0, 1024, 2048, …, nodes.
    package func tileEdges(_ relation: Int) -> [UInt64] {
        relations.isEmpty ? tileEdges : relations[relation].tileEdges
    }

    /// Positions, in the image's neighbours, of those of the tiles that these rows touch.
    func edges(ofRows rows: Range<Int>, _ relation: Int) -> Range<Int> {
        let edges = tileEdges(relation)
        let last = edges.count - 1
        let upper = (rows.upperBound + Self.tileRows - 1) / Self.tileRows
        return Int(edges[min(rows.lowerBound / Self.tileRows, last)])..<Int(edges[min(upper, last)])
    }
    /// Bytes of these rows in the section of a part of the image.
    func bytes(_ value: OpGraph.Value, rows: Range<Int>) -> Range<Int> {
        guard value.section == .columns else {
            return rows.lowerBound * value.width * 4..<rows.upperBound * value.width * 4
        }
        let edges = edges(ofRows: rows, value.relation)
        return edges.lowerBound * 4..<edges.upperBound * 4
    }

    /// Bytes of a section's window that some rows take.
    func bytes(_ section: NodeSection, rows: Range<Int>) -> Range<Int> {
        let first = section.relation * nodes
        switch section.role {
        // Where a row ends is where the next one starts.
        case .rowPointers: return (first + rows.lowerBound) * 8..<(first + rows.upperBound + 1) * 8
        case .scale: return (first + rows.lowerBound) * 4..<(first + rows.upperBound) * 4
        case .labels:
            let bytes = byteCount(recipe.targetSection) / nodes
            return rows.lowerBound * bytes..<rows.upperBound * bytes
        default: return rows
        }
    }
}
