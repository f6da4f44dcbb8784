import Foundation
import Vocabulary

/// What an image must hold, made from the text files with sets and dictionaries: slow, plain, and nothing of the vault.
struct ReferenceImage {
    var ids: [String] = []
    var rowPointers: [UInt64] = [0]
    var columns: [UInt32] = []
    var features: [Float] = []
    var aggregate: [Float] = []
    var scale: [Float] = []
    var labels: [Int32] = []
    var split: [UInt8] = []

    /// `features` holds one row per node of the file. Nodes in `absent` are left out.
    init(nodes: String, edges: String, features all: [[Float]], absent: Set<String>, _ recipe: ImageRecipe) {
        let nodeRows = nodes.split(separator: "\n").map { $0.split(separator: "\t", omittingEmptySubsequences: false) }
        let header = nodeRows[0].map(String.init)
        let labelColumn = header.firstIndex(of: recipe.labelColumn)!
        let splitColumn = header.firstIndex(of: "split")!
        var number: [Substring: Int] = [:]
        var rows: [[Float]] = []
        for (index, row) in nodeRows.dropFirst().enumerated() where !absent.contains(String(row[0])) {
            number[row[0]] = ids.count
            ids.append(String(row[0]))
            rows.append(all[index])
            labels.append(Int32(row[labelColumn])!)
            split.append(UInt8(["none", "train", "val", "test"].firstIndex(of: String(row[splitColumn]))!))
        }
        var neighbours = [Set<Int>](repeating: [], count: ids.count)
        for line in edges.split(separator: "\n").dropFirst() {
            let fields = line.split(separator: "\t", omittingEmptySubsequences: false)
            guard let source = number[fields[0]], let target = number[fields[2]], source != target else { continue }
            neighbours[source].insert(target)
            neighbours[target].insert(source)
        }
        if recipe.aggregation != .sage { for row in neighbours.indices { neighbours[row].insert(row) } }
        for set in neighbours {
            columns += set.sorted().map { UInt32($0) }
            rowPointers.append(UInt64(columns.count))
            let degree = Double(set.count)
            if recipe.aggregation == .gat { continue }
            scale.append(
                recipe.aggregation == .gcn ? Float(1 / degree.squareRoot()) : degree == 0 ? 0 : Float(1 / degree))
        }

        let width = rows[0].count
        switch recipe.normalisation {
        case .none: break
        case .rowSum:
            rows = rows.map { row in
                let sum = row.reduce(0.0) { $0 + Double($1) }
                return sum == 0 ? row : row.map { Float(Double($0) / sum) }
            }
        case .standard:
            let count = Double(rows.count)
            for column in 0..<width {
                let mean = rows.reduce(0.0) { $0 + Double($1[column]) } / count
                let square = rows.reduce(0.0) { $0 + (Double($1[column]) - mean) * (Double($1[column]) - mean) } / count
                for row in rows.indices {
                    rows[row][column] = Float((Double(rows[row][column]) - mean) / (square.squareRoot() + 1e-6))
                }
            }
        }
        if recipe.sections.contains(.features) { features = rows.flatMap { $0 } }
        guard recipe.aggregatesFirstLayer else { return }
        for row in rows.indices {
            let sorted = neighbours[row].sorted()
            for column in 0..<width {
                var sum: Float = 0
                for neighbour in sorted {
                    let x = rows[neighbour][column]
                    sum += recipe.aggregation == .gcn ? scale[neighbour] * x : x
                }
                aggregate.append(sum * scale[row])
            }
        }
    }
}
