import Vocabulary

/// Streams the numbers of one `.npy` file (NumPy format 1.0 and 2.0): little-endian, C order.
///
/// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
struct NumPyArray: ~Copyable {
    enum Element: String, Sendable {
        case float32 = "<f4"
        case int32 = "<i4"
        case int64 = "<i8"

        var byteCount: Int { self == .int64 ? 8 : 4 }
    }

    static let headerBytesMax = 65_536

    let source: VaultError.Source
    let element: Element
    let shape: [Int]
    private var file: FileReader
    private var left: Int

    init(_ file: ImportFile, source: VaultError.Source, allowed: [Element], dimensions: Int) throws(VaultError) {
        var file = try FileReader(file, source: source)
        let total = try file.byteCount()

        let preamble = try Self.take(10, of: &file, source, at: 0)
        guard preamble.starts(with: [0x93] + Array("NUMPY".utf8)) else {
            throw VaultError(.badArray, in: source, at: .byte(1), "not a .npy file")
        }
        var headerAt = 10
        var headerCount = Int(preamble[8]) | Int(preamble[9]) << 8
        switch (preamble[6], preamble[7]) {
        case (1, 0): break
        case (2, 0):
            let rest = try Self.take(2, of: &file, source, at: 10)
            headerCount |= Int(rest[0]) << 16 | Int(rest[1]) << 24
            headerAt = 12
        default: throw VaultError(.badArray, in: source, at: .byte(7), "a .npy version other than 1.0 and 2.0")
        }
        guard headerCount <= Self.headerBytesMax else {
            throw VaultError(.badArray, in: source, at: .byte(9), "a header longer than \(Self.headerBytesMax) bytes")
        }
        var header = HeaderReader(
            bytes: try Self.take(headerCount, of: &file, source, at: headerAt), source: source, base: headerAt)
        let (element, shape) = try header.description(allowed: allowed, dimensions: dimensions)

        var count = element.byteCount
        for extent in shape {
            let (product, overflow) = count.multipliedReportingOverflow(by: extent)
            guard !overflow else {
                throw VaultError(.badArray, in: source, at: .byte(headerAt + 1), "a shape too large")
            }
            count = product
        }
        let present = total - headerAt - headerCount
        guard present == count else {
            throw VaultError(
                .badArray, in: source, at: .byte(total + 1), "\(present) bytes of numbers; the header promises \(count)"
            )
        }
        self.source = source
        self.element = element
        self.shape = shape
        self.file = file
        left = count
    }

    /// Fills all of `buffer`, which must not ask for more than is left.
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(VaultError) {
        precondition(buffer.count <= left, "more numbers asked for than the array has")
        var filled = 0
        while filled < buffer.count {
            let count = try file.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
            guard count > 0 else { throw VaultError(.badArray, in: source, at: .whole, "the file became shorter") }
            filled += count
        }
        left -= filled
    }

    private static func take(
        _ count: Int, of file: inout FileReader, _ source: VaultError.Source, at offset: Int
    ) throws(VaultError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            var failure: VaultError?
            let got = bytes.withUnsafeMutableBytes { space in
                do throws(VaultError) {
                    return try file.read(into: UnsafeMutableRawBufferPointer(rebasing: space[filled...]))
                } catch {
                    failure = error
                    return 0
                }
            }
            if let failure { throw failure }
            guard got > 0 else {
                throw VaultError(.badArray, in: source, at: .byte(offset + filled + 1), "the header is cut off")
            }
            filled += got
        }
        return bytes
    }
}

/// Reads the header's Python dictionary: exactly `descr`, `fortran_order` and `shape`.
private struct HeaderReader {
    let bytes: [UInt8]
    let source: VaultError.Source
    let base: Int
    var at = 0

    init(bytes: [UInt8], source: VaultError.Source, base: Int) {
        self.bytes = bytes
        self.source = source
        self.base = base
    }

    mutating func description(
        allowed: [NumPyArray.Element], dimensions: Int
    ) throws(VaultError) -> (NumPyArray.Element, [Int]) {
        var element: NumPyArray.Element?
        var shape: [Int]?
        var hasOrder = false
        try expect("{")
        while !take("}") {
            skipSpace()
            let start = at
            switch try quoted() {
            case "descr" where element == nil:
                try expect(":")
                skipSpace()
                let start = at
                guard let known = NumPyArray.Element(rawValue: try quoted()), allowed.contains(known) else {
                    at = start
                    throw error("numbers must be of type \(allowed.map(\.rawValue).joined(separator: " or "))")
                }
                element = known
            case "fortran_order" where !hasOrder:
                try expect(":")
                guard take("False") else {
                    throw error("fortran_order must be False; save with numpy.ascontiguousarray")
                }
                hasOrder = true
            case "shape" where shape == nil:
                try expect(":")
                shape = try tuple(dimensions: dimensions)
            default:
                at = start
                throw error("a member that is unknown or occurs twice")
            }
            if !take(",") {
                try expect("}")
                break
            }
        }
        while at < bytes.count - 1, bytes[at] == 0x20 { at += 1 }
        guard at == bytes.count - 1, bytes[at] == 0x0A else {
            throw error("the header must end with spaces and a line feed")
        }
        guard let element, let shape, hasOrder else { throw error("descr, fortran_order or shape is missing") }
        return (element, shape)
    }

    private func error(_ reason: String) -> VaultError {
        VaultError(.badArray, in: source, at: .byte(base + at + 1), reason)
    }

    private mutating func skipSpace() { while at < bytes.count, bytes[at] == 0x20 { at += 1 } }

    private mutating func take(_ word: String) -> Bool {
        skipSpace()
        guard bytes[at...].starts(with: word.utf8) else { return false }
        at += word.utf8.count
        return true
    }

    private mutating func expect(_ word: String) throws(VaultError) {
        guard take(word) else { throw error("expected \(word)") }
    }

    private mutating func quoted() throws(VaultError) -> String {
        skipSpace()
        guard at < bytes.count, bytes[at] == UInt8(ascii: "'") || bytes[at] == UInt8(ascii: "\"") else {
            throw error("expected a quoted word")
        }
        guard let end = bytes[(at + 1)...].firstIndex(of: bytes[at]) else { throw error("a quoted word is not closed") }
        defer { at = end + 1 }
        return String(decoding: bytes[(at + 1)..<end], as: UTF8.self)
    }

    private mutating func tuple(dimensions: Int) throws(VaultError) -> [Int] {
        skipSpace()
        let tupleAt = at
        try expect("(")
        var extents: [Int] = []
        while !take(")") {
            skipSpace()
            let start = at
            while at < bytes.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[at]) { at += 1 }
            guard let extent = Int(String(decoding: bytes[start..<at], as: UTF8.self)), extent <= Limits.edgesMax else {
                at = start
                throw error("an extent is not a number up to \(Limits.edgesMax)")
            }
            extents.append(extent)
            if !take(",") {
                try expect(")")
                break
            }
        }
        guard extents.count == dimensions else {
            at = tupleAt
            throw error("\(extents.count) dimensions where \(dimensions) are needed")
        }
        return extents
    }
}
