/// Goes over the fields of a value in the order of its bytes: one description both writes and reads, so the two
/// directions cannot disagree. Little-endian, no padding.
protocol FieldCoder {
    mutating func integer<Value: FixedWidthInteger>(_ value: inout Value) throws(ProgramError)
    func malformed(_ reason: String) -> ProgramError
}

/// Sizes stay below 2^47, so that sums of a few of them, or one times an element's size, cannot overflow `Int`.
private let sizeMax = 1 << 47
/// Dimensions stay below 2^31 + 1: the product of two cannot overflow `Int` either.
private let dimensionMax = Int(Int32.max) + 1

extension FieldCoder {
    mutating func constant<Value: FixedWidthInteger>(_ expected: Value, _ reason: String) throws(ProgramError) {
        var value = expected
        try integer(&value)
        guard value == expected else { throw malformed(reason) }
    }

    /// A byte count, an offset or a count of elements or edges.
    mutating func size(_ value: inout Int) throws(ProgramError) {
        guard (0...sizeMax).contains(value) else { throw malformed("a size beyond 2^47") }
        var wide = UInt64(value)
        try short(&wide)
        guard wide <= UInt64(sizeMax) else { throw malformed("a size beyond 2^47") }
        value = Int(wide)
    }

    /// A number in as few bytes as it takes, seven bits in each, the lowest first; the others' top bits are set.
    private mutating func short(_ value: inout UInt64) throws(ProgramError) {
        var rest = value
        value = 0
        for shift in stride(from: UInt64(0), to: 56, by: 7) {
            var byte = UInt8(rest & 0x7F) | (rest > 0x7F ? 0x80 : 0)
            try integer(&byte)
            rest >>= 7
            value |= UInt64(byte & 0x7F) << shift
            guard byte < 0x80 else { continue }
            // One form for each number.
            guard byte > 0 || shift == 0 else { throw malformed("a number in more bytes than it takes") }
            return
        }
        throw malformed("a number that does not end")
    }

    /// Rows, columns and their like.
    mutating func dimension(_ value: inout Int) throws(ProgramError) {
        guard (0...dimensionMax).contains(value) else { throw malformed("a dimension beyond 2^31") }
        var wide = UInt64(value)
        try short(&wide)
        guard wide <= UInt64(dimensionMax) else { throw malformed("a dimension beyond 2^31") }
        value = Int(wide)
    }

    mutating func float(_ value: inout Float) throws(ProgramError) {
        var bits = value.bitPattern
        try integer(&bits)
        value = Float(bitPattern: bits)
    }

    mutating func double(_ value: inout Double) throws(ProgramError) {
        var bits = value.bitPattern
        try integer(&bits)
        value = Double(bitPattern: bits)
    }

    mutating func bool(_ value: inout Bool) throws(ProgramError) {
        var byte: UInt8 = value ? 1 : 0
        try integer(&byte)
        guard byte <= 1 else { throw malformed("a flag is neither 0 nor 1") }
        value = byte == 1
    }

    mutating func flags(_ value: inout DoorbellFlags) throws(ProgramError) {
        var raw = value.rawValue
        try integer(&raw)
        value = DoorbellFlags(rawValue: raw)
        guard DoorbellFlags.known.isSuperset(of: value) else { throw malformed("an unknown doorbell flag") }
    }

    mutating func choice<Value: RawRepresentable<UInt8>>(_ value: inout Value, _ reason: String) throws(ProgramError) {
        var raw = value.rawValue
        try integer(&raw)
        guard let known = Value(rawValue: raw) else { throw malformed(reason) }
        value = known
    }

    mutating func optional<Value>(
        _ value: inout Value?, empty: Value, _ body: (inout Value, inout Self) throws(ProgramError) -> Void
    ) throws(ProgramError) {
        var present = value != nil
        try bool(&present)
        guard present else {
            value = nil
            return
        }
        var inner = value ?? empty
        try body(&inner, &self)
        value = inner
    }

    mutating func list<Value>(
        _ values: inout [Value], max: Int, empty: Value, _ body: (inout Value, inout Self) throws(ProgramError) -> Void
    ) throws(ProgramError) {
        var count = UInt32(clamping: values.count)
        try integer(&count)
        try elements(&values, count: Int(count), max: max, empty: empty, body)
    }

    mutating func shortList<Value>(
        _ values: inout [Value], max: Int, empty: Value, _ body: (inout Value, inout Self) throws(ProgramError) -> Void
    ) throws(ProgramError) {
        var count = UInt8(clamping: values.count)
        try integer(&count)
        try elements(&values, count: Int(count), max: max, empty: empty, body)
    }

    private mutating func elements<Value>(
        _ values: inout [Value], count: Int, max: Int, empty: Value,
        _ body: (inout Value, inout Self) throws(ProgramError) -> Void
    ) throws(ProgramError) {
        guard count <= max, values.count <= max else {
            throw ProgramError(.tooLarge, "a list is longer than \(max)", offset: malformed("").offset)
        }
        // Grows as elements are read: a count alone reserves nothing.
        for index in 0..<count {
            if index == values.count { values.append(empty) }
            try body(&values[index], &self)
        }
    }
}

struct FieldWriter: FieldCoder {
    private(set) var bytes: [UInt8] = []

    mutating func integer<Value: FixedWidthInteger>(_ value: inout Value) throws(ProgramError) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    func malformed(_ reason: String) -> ProgramError { ProgramError(.malformed, reason, offset: bytes.count) }
}

struct FieldReader: FieldCoder {
    private let bytes: [UInt8]
    private var offset = 0
    private var fieldOffset = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func integer<Value: FixedWidthInteger>(_ value: inout Value) throws(ProgramError) {
        fieldOffset = offset
        let width = Value.bitWidth / 8
        guard bytes.count - offset >= width else { throw malformed("the bytes end too early") }
        var raw = Value.zero
        for index in 0..<width { raw |= Value(truncatingIfNeeded: bytes[offset + index]) << (8 * index) }
        value = raw
        offset += width
    }

    func finish() throws(ProgramError) {
        guard offset == bytes.count else {
            throw ProgramError(.malformed, "bytes after the end", offset: offset)
        }
    }

    func malformed(_ reason: String) -> ProgramError { ProgramError(.malformed, reason, offset: fieldOffset) }
}
