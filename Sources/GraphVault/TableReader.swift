import Glibc
import Vocabulary

/// Reads tab-separated text with a header line, one row at a time, in a fixed amount of memory.
///
/// Strict: UTF-8 without control characters, `\n` line ends (the last line too, or the file may be cut off), the same
/// number of fields in every row, no quoting (KGX has none).
struct TableReader: ~Copyable {
    static let columnsMax = 256

    let source: VaultError.Source
    let columns: [String]
    private var lines: LineReader
    private var row = UnsafeRawBufferPointer(start: nil, count: 0)
    // Field `i` of the row is `cuts[i]..<cuts[i + 1] - 1`.
    private let cuts: UnsafeMutableBufferPointer<Int>

    init(_ file: ImportFile, source: VaultError.Source) throws(VaultError) {
        var lines = try LineReader(file, source: source)
        guard let header = try lines.next() else {
            throw VaultError(.badHeader, in: source, at: .line(1, column: 1), "the file is empty; a header is needed")
        }
        var names: [String] = []
        var column = 1
        for field in header.split(separator: UInt8(ascii: "\t"), omittingEmptySubsequences: false) {
            let name = String(decoding: field, as: UTF8.self)
            guard !name.isEmpty, !names.contains(name) else {
                let reason = name.isEmpty ? "a column has no name" : "a column name occurs twice"
                throw VaultError(.badHeader, in: source, at: .line(1, column: column), reason)
            }
            guard names.count < Self.columnsMax else {
                throw VaultError(
                    .badHeader, in: source, at: .line(1, column: column), "more than \(Self.columnsMax) columns")
            }
            names.append(name)
            column += field.count + 1
        }
        self.source = source
        self.lines = lines
        columns = names
        cuts = .allocate(capacity: names.count + 1)
    }

    deinit { cuts.deallocate() }

    func column(_ name: String) -> Int? { columns.firstIndex(of: name) }

    func requiredColumn(_ name: String) throws(VaultError) -> Int {
        guard let index = column(name) else {
            throw VaultError(
                .missingColumn, in: source, at: .line(1, column: 1), "the column \(name) is missing from the header")
        }
        return index
    }

    /// Moves to the next row; `false` at the end of the file.
    mutating func next() throws(VaultError) -> Bool {
        guard let line = try lines.next() else { return false }
        row = line
        var field = 1
        cuts[0] = 0
        for offset in 0..<line.count where line[offset] == UInt8(ascii: "\t") {
            guard field < columns.count else {
                throw VaultError(
                    .raggedRow, in: source, at: .line(lines.number, column: offset + 1),
                    "more fields than the header's \(columns.count)")
            }
            cuts[field] = offset + 1
            field += 1
        }
        guard field == columns.count else {
            throw VaultError(
                .raggedRow, in: source, at: .line(lines.number, column: line.count + 1),
                "\(field) fields; the header has \(columns.count)")
        }
        cuts[field] = line.count + 1
        return true
    }

    /// A field of the current row; gone at the next `next`.
    func field(_ index: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: row[cuts[index]..<cuts[index + 1] - 1])
    }

    func filledField(_ index: Int) throws(VaultError) -> UnsafeRawBufferPointer {
        let bytes = field(index)
        guard !bytes.isEmpty else { throw error(.emptyField, index, "\(columns[index]) is empty") }
        return bytes
    }

    func text(_ index: Int) -> String { String(decoding: field(index), as: UTF8.self) }

    func error(_ code: VaultError.Code, _ index: Int, _ reason: String) -> VaultError {
        VaultError(code, in: source, at: .line(lines.number, column: cuts[index] + 1), reason)
    }
}

/// Cuts a file into lines of checked UTF-8.
private struct LineReader: ~Copyable {
    // The longest line always fits behind what the last read left over.
    private static let capacity = 2 * Limits.lineBytesMax

    private(set) var number = 0
    private let source: VaultError.Source
    private var file: FileReader
    private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 64)
    private var start = 0
    private var end = 0
    private var isEnded = false
    // Something in the buffer needs a closer look than ASCII text does.
    private var needsCheck = false

    init(_ file: ImportFile, source: VaultError.Source) throws(VaultError) {
        self.source = source
        self.file = try FileReader(file, source: source)
    }

    deinit { buffer.deallocate() }

    /// The next line without its end; gone at the next call.
    mutating func next() throws(VaultError) -> UnsafeRawBufferPointer? {
        var searched = start
        while true {
            if searched < end, let found = memchr(buffer.baseAddress! + searched, 0x0A, end - searched) {
                let line = UnsafeRawBufferPointer(
                    start: buffer.baseAddress! + start, count: found - buffer.baseAddress! - start)
                number += 1
                guard line.count <= Limits.lineBytesMax else { throw tooLong() }
                start += line.count + 1
                if needsCheck { try check(line) }
                return line
            }
            searched = end - start
            guard end - start <= Limits.lineBytesMax else {
                number += 1
                throw tooLong()
            }
            guard !isEnded else {
                guard start == end else {
                    throw VaultError(
                        .unfinishedLine, in: source, at: .line(number + 1, column: end - start + 1),
                        "the last line has no end; the file may be cut off")
                }
                return nil
            }
            try refill()
        }
    }

    private func tooLong() -> VaultError {
        VaultError(
            .lineTooLong, in: source, at: .line(number, column: Limits.lineBytesMax + 1),
            "a line is longer than \(Limits.lineBytesMax) bytes")
    }

    private mutating func refill() throws(VaultError) {
        memmove(buffer.baseAddress!, buffer.baseAddress! + start, end - start)
        end -= start
        start = 0
        let space = UnsafeMutableRawBufferPointer(rebasing: buffer[end...])
        let count = try file.read(into: space)
        isEnded = count == 0
        if number == 0, end == 0, space[..<count].starts(with: [0x1F, 0x8B]) {
            throw VaultError(.badHeader, in: source, at: .line(1, column: 1), "compressed with gzip; unpack it first")
        }
        end += count
        needsCheck = !isPlainText(UnsafeRawBufferPointer(rebasing: buffer[0..<end]))
    }

    private func check(_ line: UnsafeRawBufferPointer) throws(VaultError) {
        if let offset = line.firstIndex(where: { $0 < 0x20 && $0 != 0x09 || $0 == 0x7F }) {
            let reason =
                line[offset] == 0x0D ? "a carriage return; lines end with a line feed alone" : "a control character"
            throw VaultError(.controlCharacter, in: source, at: .line(number, column: offset + 1), reason)
        }
        if let offset = firstInvalidUTF8(line) {
            throw VaultError(.notUTF8, in: source, at: .line(number, column: offset + 1), "not UTF-8")
        }
    }
}

/// Whether all bytes are ASCII, and none a control character but tab and line feed.
private func isPlainText(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var odd: UInt8 = 0
    for byte in bytes {
        let control: UInt8 = byte < 0x20 && byte != 0x09 && byte != 0x0A || byte == 0x7F ? 0x80 : 0
        odd |= byte & 0x80 | control
    }
    return odd & 0x80 == 0
}

/// Where well-formed UTF-8 ends (Unicode 15, table 3-7), or `nil` if it does not.
private func firstInvalidUTF8(_ bytes: UnsafeRawBufferPointer) -> Int? {
    var offset = 0
    while offset < bytes.count {
        let lead = bytes[offset]
        let (length, second): (Int, ClosedRange<UInt8>)
        switch lead {
        case 0x00...0x7F:
            offset += 1
            continue
        case 0xC2...0xDF: (length, second) = (2, 0x80...0xBF)
        case 0xE0: (length, second) = (3, 0xA0...0xBF)
        case 0xE1...0xEC, 0xEE...0xEF: (length, second) = (3, 0x80...0xBF)
        case 0xED: (length, second) = (3, 0x80...0x9F)
        case 0xF0: (length, second) = (4, 0x90...0xBF)
        case 0xF1...0xF3: (length, second) = (4, 0x80...0xBF)
        case 0xF4: (length, second) = (4, 0x80...0x8F)
        default: return offset
        }
        guard offset + length <= bytes.count, second.contains(bytes[offset + 1]) else { return offset }
        for follower in offset + 2..<offset + length where bytes[follower] & 0xC0 != 0x80 { return offset }
        offset += length
    }
    return nil
}
