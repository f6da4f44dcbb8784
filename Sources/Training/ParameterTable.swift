import TrainingPlanner

/// Names, shapes and places of a model's parameters in the one array that holds them.
package struct ParameterTable: Hashable, Sendable {
    package struct Entry: Hashable, Sendable {
        package let name: String
        package let rows: Int
        package let columns: Int
        /// In elements.
        package let offset: Int
        package let isVector: Bool
        package var count: Int { rows * columns }
        package var tensorShape: [Int] { isVector ? [columns] : [rows, columns] }
    }

    package let entries: [Entry]
    package let count: Int

    init(_ layout: ParameterLayout) {
        entries = layout.entries.map { entry in
            Entry(
                name: entry.name, rows: entry.rows, columns: entry.columns, offset: entry.offset,
                isVector: !entry.isMatrix)
        }
        count = layout.count
    }
}
