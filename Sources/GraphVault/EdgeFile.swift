/// The rows of a KGX edges file: `subject`, `predicate`, `object`. Other columns are not kept.
struct EdgeFile {
    /// Edges are numbered in 32 bits while they are sorted.
    static let countMax = Int(UInt32.max)

    var predicates = IdentifierTable()
    var sources: [UInt32] = []
    var targets: [UInt32] = []
    var predicateOfEdge: [UInt16] = []

    var count: Int { sources.count }

    init(_ file: ImportFile, nodes: IdentifierTable) throws(VaultError) {
        var table = try TableReader(file, source: .edges)
        let subject = try table.requiredColumn("subject")
        let predicate = try table.requiredColumn("predicate")
        let object = try table.requiredColumn("object")
        while try table.next() {
            let (code, _) = predicates.insert(try table.filledField(predicate))
            guard code <= NodeFile.codesMax else {
                throw table.error(.tooMany, predicate, "more than \(NodeFile.codesMax + 1) predicates")
            }
            guard let source = nodes.number(of: table.field(subject)) else {
                throw table.error(.unknownNode, subject, "the subject is not among the nodes")
            }
            guard let target = nodes.number(of: table.field(object)) else {
                throw table.error(.unknownNode, object, "the object is not among the nodes")
            }
            guard sources.count < Self.countMax else {
                throw table.error(.tooMany, subject, "more than \(Self.countMax) edges")
            }
            sources.append(UInt32(source))
            targets.append(UInt32(target))
            predicateOfEdge.append(UInt16(code))
        }
    }
}

/// A graph's edges by row. Row `i` reaches `columns[pointers[i]..<pointers[i + 1]]`, ascending.
struct Adjacency {
    var pointers: [UInt64]
    var columns: [UInt32]
}

extension EdgeFile {
    /// Both directions: by source with predicates, and by target.
    func adjacency(nodes: Int) -> (bySource: Adjacency, predicates: [UInt16], byTarget: Adjacency) {
        // Stable counting sorts: by target, then by source, leaves every source's targets ascending; sorting that by
        // target again leaves every target's sources ascending.
        let identity = Array(0..<UInt32(count))
        let byTarget = Self.sorted(identity, by: targets, buckets: nodes).order
        let (bySource, sourcePointers) = Self.sorted(byTarget, by: sources, buckets: nodes)
        let (back, targetPointers) = Self.sorted(bySource, by: targets, buckets: nodes)
        return (
            Adjacency(pointers: sourcePointers, columns: bySource.map { targets[Int($0)] }),
            bySource.map { predicateOfEdge[Int($0)] },
            Adjacency(pointers: targetPointers, columns: back.map { sources[Int($0)] })
        )
    }

    private static func sorted(
        _ order: [UInt32], by key: [UInt32], buckets: Int
    ) -> (order: [UInt32], pointers: [UInt64]) {
        var pointers = [UInt64](repeating: 0, count: buckets + 1)
        for value in key { pointers[Int(value) + 1] += 1 }
        for bucket in 0..<buckets { pointers[bucket + 1] += pointers[bucket] }
        var next = pointers
        var sorted = [UInt32](repeating: 0, count: order.count)
        for edge in order {
            let bucket = Int(key[Int(edge)])
            sorted[Int(next[bucket])] = edge
            next[bucket] += 1
        }
        return (sorted, pointers)
    }
}
