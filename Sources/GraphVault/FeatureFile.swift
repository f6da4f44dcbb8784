import Vocabulary

/// Where a version's features come from; row `i` is node `i`.
package enum FeatureSource: Sendable {
    case none
    /// A float32 matrix.
    case dense(ImportFile)
    /// Compressed sparse rows: pointers, column numbers, values. `columns` is needed where the last ones may be empty.
    case sparse(rowPointers: ImportFile, columns: ImportFile, values: ImportFile, columnCount: Int?)
}

/// Streams features in whole rows to `body`, having checked every number.
///
/// Returns the number of features. `body` may get any number of rows at a time.
func readFeatures(
    _ source: FeatureSource, nodes: Int, _ body: (UnsafeRawBufferPointer) throws -> Void
) throws -> Int {
    switch source {
    case .none: return 0
    case .dense(let file): return try readDense(file, nodes: nodes, body)
    case .sparse(let pointers, let columns, let values, let count):
        return try readSparse(pointers, columns, values, columnCount: count, nodes: nodes, body)
    }
}

private func readDense(
    _ file: ImportFile, nodes: Int, _ body: (UnsafeRawBufferPointer) throws -> Void
) throws -> Int {
    var array = try NumPyArray(file, source: .features, allowed: [.float32], dimensions: 2)
    let (rows, columns) = (array.shape[0], array.shape[1])
    try check(rows: rows, columns: columns, nodes: nodes, .features)
    let rowsAtOnce = max(1, (1 << 20) / (columns * 4))
    let space = UnsafeMutableRawBufferPointer.allocate(byteCount: rowsAtOnce * columns * 4, alignment: 64)
    defer { space.deallocate() }
    for first in stride(from: 0, to: rows, by: rowsAtOnce) {
        let part = UnsafeMutableRawBufferPointer(rebasing: space[0..<min(rowsAtOnce, rows - first) * columns * 4])
        try array.read(into: part)
        if let odd = firstNotFinite(part.bindMemory(to: UInt32.self)) {
            throw VaultError(
                .notFinite, in: .features, at: .row(first + odd / columns + 1, column: odd % columns + 1),
                "not a finite number")
        }
        try body(UnsafeRawBufferPointer(part))
    }
    return columns
}

private func readSparse(
    _ pointersFile: ImportFile, _ columnsFile: ImportFile, _ valuesFile: ImportFile, columnCount: Int?, nodes: Int,
    _ body: (UnsafeRawBufferPointer) throws -> Void
) throws -> Int {
    var pointers = IntegerStream(
        try NumPyArray(pointersFile, source: .featureRows, allowed: [.int32, .int64], dimensions: 1))
    let count = try columnCount ?? largest(columnsFile) + 1
    var columns = IntegerStream(
        try NumPyArray(columnsFile, source: .featureColumns, allowed: [.int32, .int64], dimensions: 1))
    var values = try NumPyArray(valuesFile, source: .featureValues, allowed: [.float32], dimensions: 1)
    try check(rows: pointers.count - 1, columns: count, nodes: nodes, .featureRows)
    guard columns.count == values.shape[0] else {
        throw VaultError(
            .rowsDiffer, in: .featureValues, at: .whole, "\(values.shape[0]) values for \(columns.count) column numbers"
        )
    }
    var last = try pointers.next()
    guard last == 0 else {
        throw VaultError(.badArray, in: .featureRows, at: .row(1, column: 1), "the first row does not start at 0")
    }
    var row = [Float](repeating: 0, count: count)
    var numbers = [Float](repeating: 0, count: count)
    for index in 0..<nodes {
        let end = try pointers.next()
        guard end >= last, end - last <= count, end <= columns.count else {
            throw VaultError(
                .badArray, in: .featureRows, at: .row(index + 2, column: 1),
                "row ends must ascend, within the values, with at most one value a column")
        }
        let width = Int(end - last)
        for column in 0..<count { row[column] = 0 }
        try numbers.withUnsafeMutableBytes {
            try values.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[0..<width * 4]))
        }
        var before: Int64 = -1
        for position in 0..<width {
            let column = try columns.next()
            guard column > before, column < count else {
                throw VaultError(
                    .badArray, in: .featureColumns, at: .row(Int(last) + position + 1, column: 1),
                    "column numbers must ascend in a row and be below \(count)")
            }
            guard numbers[position].isFinite else {
                throw VaultError(
                    .notFinite, in: .featureValues, at: .row(Int(last) + position + 1, column: 1), "not a finite number"
                )
            }
            row[Int(column)] = numbers[position]
            before = column
        }
        last = end
        try row.withUnsafeBytes { try body($0) }
    }
    guard last == columns.count else {
        throw VaultError(
            .rowsDiffer, in: .featureRows, at: .row(nodes + 1, column: 1),
            "the rows hold \(last) values; there are \(columns.count)")
    }
    return count
}

private func largest(_ file: ImportFile) throws -> Int {
    var columns = IntegerStream(
        try NumPyArray(file, source: .featureColumns, allowed: [.int32, .int64], dimensions: 1))
    var largest: Int64 = -1
    for _ in 0..<columns.count { largest = max(largest, try columns.next()) }
    // A number out of range is refused with its place when the rows are read.
    return min(Int(largest), Limits.featuresMax - 1)
}

private func check(rows: Int, columns: Int, nodes: Int, _ source: VaultError.Source) throws(VaultError) {
    guard rows == nodes else {
        throw VaultError(.rowsDiffer, in: source, at: .whole, "\(rows) rows of features for \(nodes) nodes")
    }
    guard (1...Limits.featuresMax).contains(columns) else {
        throw VaultError(.tooMany, in: source, at: .whole, "a row has 1 to \(Limits.featuresMax) features")
    }
}

/// Index of the first infinity or NaN among float32 bit patterns.
private func firstNotFinite(_ bits: UnsafeMutableBufferPointer<UInt32>) -> Int? {
    var odd = false
    for pattern in bits { odd = odd || pattern & 0x7F80_0000 == 0x7F80_0000 }
    return odd ? bits.firstIndex { $0 & 0x7F80_0000 == 0x7F80_0000 } : nil
}

/// The integers of an array, one at a time.
private struct IntegerStream: ~Copyable {
    let count: Int
    private var array: NumPyArray
    private let element: NumPyArray.Element
    private var buffer: [UInt8] = []
    private var at = 0
    private var unread: Int

    init(_ array: consuming NumPyArray) {
        count = array.shape[0]
        element = array.element
        unread = array.shape[0] * array.element.byteCount
        self.array = array
    }

    mutating func next() throws(VaultError) -> Int64 {
        if at == buffer.count { try refill() }
        defer { at += element.byteCount }
        return buffer.withUnsafeBytes {
            switch element {
            case .int32: Int64($0.loadUnaligned(fromByteOffset: at, as: Int32.self))
            case .int64, .float32: $0.loadUnaligned(fromByteOffset: at, as: Int64.self)
            }
        }
    }

    private mutating func refill() throws(VaultError) {
        precondition(unread > 0, "more integers asked for than the array has")
        buffer = [UInt8](repeating: 0, count: min(unread, 1 << 16))
        let space = UnsafeMutableRawBufferPointer.allocate(byteCount: buffer.count, alignment: 8)
        defer { space.deallocate() }
        try array.read(into: space)
        buffer = Array(space)
        unread -= buffer.count
        at = 0
    }
}
