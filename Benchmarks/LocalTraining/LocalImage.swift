package import Sealing
package import Vocabulary

/// A run image sealed in memory, as the vault would write it. For tests and benchmarks.
package struct LocalImage: Sendable {
    package let shape: ImageShape
    package let run: RunID
    package let trainingByClass: [Int]
    /// Sealed bytes by section.
    package let sealed: [ImageSection: [UInt8]]
    /// What was sealed, for the reference twin.
    package let plain: Plain

    package struct Plain: Sendable {
        package let rowPointers: [UInt64]
        package let columns: [UInt32]
        /// [nodes, features], normalised.
        package let features: [Float]
        package let aggregate: [Float]
        package let scale: [Float]
        package let labels: [Int32]
        package let split: [UInt8]
        package let labelSets: [UInt8]
        package let targets: [Float]
        package let relations: [ImageShape.Relation]
    }

    package init(_ graph: PlainGraph, recipe: ImageRecipe, runKey: borrowing SecretBytes) throws {
        let plain = Self.plain(graph, recipe)
        var labelled = Array(repeating: 0, count: Split.allCases.count)
        var byClass = Array(repeating: 0, count: graph.classes)
        for (row, split) in plain.split.enumerated() {
            let isTrained = split == Split.train.rawValue
            switch recipe.target {
            case .classes:
                guard plain.labels[row] >= 0 else { continue }
                if isTrained { byClass[Int(plain.labels[row])] += 1 }
            case .classSets:
                guard split != Split.none.rawValue else { continue }
                for label in 0..<graph.classes where isTrained {
                    byClass[label] += Int(
                        plain.labelSets[row * ((graph.classes + 7) / 8) + label / 8] >> (label % 8) & 1)
                }
            case .values: guard split != Split.none.rawValue else { continue }
            }
            labelled[Int(split)] += 1
        }
        shape = ImageShape(
            nodes: graph.nodes, edges: plain.columns.count, features: graph.features,
            classes: recipe.target == .values ? 1 : graph.classes, labelled: labelled,
            trainingByClass: recipe.target == .values ? [] : byClass,
            tileEdges: Self.tiles(graph.nodes).map { row in
                (0..<max(plain.relations.count, 1)).reduce(0) { sum, relation in
                    let first = relation * graph.nodes
                    return sum + plain.rowPointers[first + row] - plain.rowPointers[first]
                }
            },
            relations: plain.relations, recipe: recipe)
        run = try RunID("run-local")
        trainingByClass = byClass
        var sealed: [ImageSection: [UInt8]] = [:]
        for section in recipe.sections {
            sealed[section] =
                switch section {
                case .rowPointers: try Self.seal(plain.rowPointers, section, run, runKey)
                case .columns: try Self.seal(plain.columns, section, run, runKey)
                case .features: try Self.seal(plain.features, section, run, runKey)
                case .aggregate: try Self.seal(plain.aggregate, section, run, runKey)
                case .scale: try Self.seal(plain.scale, section, run, runKey)
                case .labels: try Self.seal(plain.labels, section, run, runKey)
                case .split: try Self.seal(plain.split, section, run, runKey)
                case .labelSets: try Self.seal(plain.labelSets, section, run, runKey)
                case .targets: try Self.seal(plain.targets, section, run, runKey)
                }
        }
        self.sealed = sealed
        self.plain = plain
    }

    private static func seal<Element: BitwiseCopyable>(
        _ values: [Element], _ section: ImageSection, _ run: RunID, _ runKey: borrowing SecretBytes
    ) throws -> [UInt8] {
        var context: [UInt8] = []
        withUnsafeBytes(of: section.rawValue.bigEndian) { context += $0 }
        let cipher = BlockCipher(key: KeyDerivation.hkdf(runKey, info: "sekisho run image v1", context: context))
        let place = BlockContext(domain: "sekisho-image-v1", owner: run.text, section: section.rawValue)
        return try values.withUnsafeBytes { bytes in
            let blocks = (bytes.count + Limits.blockBytes - 1) / Limits.blockBytes
            var out = [UInt8](repeating: 0, count: bytes.count + blocks * Limits.tagBytes)
            for block in 0..<blocks {
                let lower = block * Limits.blockBytes
                let length = min(Limits.blockBytes, bytes.count - lower)
                try out.withUnsafeMutableBytes { out in
                    try cipher.seal(
                        UnsafeRawBufferPointer(rebasing: bytes[lower..<lower + length]),
                        nonce: BlockNonce(high: section.rawValue, low: UInt64(block)),
                        aad: place.aad(index: UInt64(block), length: length),
                        into: UnsafeMutableRawBufferPointer(
                            rebasing: out[
                                block * Limits.sealedBlockBytes..<block * Limits.sealedBlockBytes + length
                                    + Limits.tagBytes]))
                }
            }
            return out
        }
    }

    /// Rows 0, 1024, 2048, …, nodes.
    private static func tiles(_ nodes: Int) -> [Int] {
        Array(stride(from: 0, to: nodes, by: ImageShape.tileRows)) + [nodes]
    }

    private static func plain(_ graph: PlainGraph, _ recipe: ImageRecipe) -> Plain {
        var pointers: [UInt64] = [0]
        var columns: [UInt32] = []
        var scale: [Float] = []
        var relations: [ImageShape.Relation] = []
        if recipe.aggregation == .rgcn {
            for predicate in graph.relations.keys.sorted() where recipe.predicates?.contains(predicate) ?? true {
                for isInverse in [false, true] {
                    var neighbours = [Set<UInt32>](repeating: [], count: graph.nodes)
                    for (subject, object) in graph.relations[predicate]! where subject != object {
                        let (row, column) = isInverse ? (object, subject) : (subject, object)
                        neighbours[Int(row)].insert(column)
                    }
                    let first = pointers.count - 1
                    let edges = columns.count
                    for row in neighbours {
                        columns += row.sorted()
                        pointers.append(UInt64(columns.count))
                        scale.append(row.isEmpty ? 0 : Float(1 / Double(row.count)))
                    }
                    relations.append(
                        ImageShape.Relation(
                            predicate: predicate, isInverse: isInverse, edges: columns.count - edges,
                            tileEdges: tiles(graph.nodes).map { pointers[first + $0] }))
                }
            }
        } else {
            pointers.reserveCapacity(graph.nodes + 1)
            columns.reserveCapacity(graph.columns.count + graph.nodes)
            for row in 0..<graph.nodes {
                let neighbours = graph.columns[Int(graph.rowPointers[row])..<Int(graph.rowPointers[row + 1])]
                if recipe.aggregation.hasSelfLoops {
                    columns += neighbours.prefix { $0 < row }
                    columns.append(UInt32(row))
                    columns += neighbours.drop { $0 < row }
                    scale.append(Float(1 / Double(neighbours.count + 1).squareRoot()))
                } else {
                    columns += neighbours
                    scale.append(neighbours.isEmpty ? 0 : Float(1 / Double(neighbours.count)))
                }
                pointers.append(UInt64(columns.count))
            }
        }
        let features = normalised(graph, recipe.normalisation)
        let aggregate =
            recipe.aggregatesFirstLayer
            ? aggregated(features, graph.features, pointers, columns, scale, recipe.aggregation) : []
        return Plain(
            rowPointers: pointers, columns: columns, features: features, aggregate: aggregate, scale: scale,
            labels: graph.labels, split: graph.split, labelSets: graph.labelSets, targets: graph.targets,
            relations: relations)
    }

    private static func normalised(_ graph: PlainGraph, _ rule: FeatureNormalisation) -> [Float] {
        var values = graph.values
        let width = graph.features
        switch rule {
        case .none: break
        case .rowSum:
            for row in 0..<graph.nodes {
                let range = row * width..<(row + 1) * width
                let sum = values[range].reduce(0.0) { $0 + Double($1) }
                if sum != 0 { for index in range { values[index] = Float(Double(values[index]) / sum) } }
            }
        case .standard:
            for column in 0..<width {
                let entries = stride(from: column, to: values.count, by: width)
                let mean = entries.reduce(0.0) { $0 + Double(values[$1]) } / Double(graph.nodes)
                let variance = entries.reduce(0.0) { $0 + (Double(values[$1]) - mean) * (Double(values[$1]) - mean) }
                let deviation = (variance / Double(graph.nodes)).squareRoot() + 1e-6
                for index in entries { values[index] = Float((Double(values[index]) - mean) / deviation) }
            }
        }
        return values
    }

    private static func aggregated(
        _ features: [Float], _ width: Int, _ pointers: [UInt64], _ columns: [UInt32], _ scale: [Float],
        _ rule: Aggregation
    ) -> [Float] {
        var out = Array(repeating: Float(0), count: features.count)
        var sums = Array(repeating: 0.0, count: width)
        for row in 0..<pointers.count - 1 {
            for index in 0..<width { sums[index] = 0 }
            for entry in Int(pointers[row])..<Int(pointers[row + 1]) {
                let neighbour = Int(columns[entry])
                let weight = rule == .gcn ? Double(scale[neighbour]) : 1
                for index in 0..<width { sums[index] += weight * Double(features[neighbour * width + index]) }
            }
            for index in 0..<width { out[row * width + index] = Float(sums[index] * Double(scale[row])) }
        }
        return out
    }
}
