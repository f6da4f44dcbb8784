package import Vocabulary

/// Where and why bytes are not a frame, record or program of this protocol. Never repeats the bytes.
package struct FrameError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case truncated, trailing, version, operation, flags, range, text, order
    }

    package let code: Code
    /// Offset of the first byte that is wrong, counted from the start of the parsed bytes.
    package let position: Int
    package let reason: String

    package init(_ code: Code, at position: Int, _ reason: String) {
        self.code = code
        self.position = position
        self.reason = reason
    }

    package var description: String { "\(code.rawValue) at byte \(position): \(reason)" }
}

/// Writes the fields of one frame: big-endian integers, length-prefixed bytes.
package struct WireWriter {
    package private(set) var bytes: [UInt8] = []

    package init() {}

    package mutating func integer<Value: FixedWidthInteger>(_ value: Value) {
        withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
    }

    package mutating func fixed(_ value: [UInt8]) { bytes += value }

    package mutating func digest(_ value: Digest) { bytes += value.bytes }

    /// A `UInt32` byte count, then the bytes.
    package mutating func blob(_ value: [UInt8]) {
        integer(UInt32(value.count))
        bytes += value
    }

    /// A `UInt16` byte count, then UTF-8.
    package mutating func text(_ value: String) {
        integer(UInt16(value.utf8.count))
        bytes += value.utf8
    }
}

/// Reads what `WireWriter` writes and refuses everything else, naming the position.
package struct WireReader {
    private let bytes: [UInt8]
    package private(set) var position = 0

    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    package mutating func integer<Value: FixedWidthInteger>(_ type: Value.Type = Value.self) throws(FrameError) -> Value
    {
        let size = MemoryLayout<Value>.size
        guard bytes.count - position >= size else { throw truncated() }
        var value: Value = 0
        for offset in 0..<size { value = value << 8 | Value(truncatingIfNeeded: bytes[position + offset]) }
        position += size
        return value
    }

    /// An integer that must lie in `range`.
    package mutating func integer<Value: FixedWidthInteger>(
        _ type: Value.Type = Value.self, in range: ClosedRange<Value>
    ) throws(FrameError) -> Value {
        let start = position
        let value = try integer(type)
        guard range.contains(value) else { throw FrameError(.range, at: start, "a number is out of its range") }
        return value
    }

    package mutating func fixed(_ count: Int) throws(FrameError) -> [UInt8] {
        guard bytes.count - position >= count else { throw truncated() }
        defer { position += count }
        return Array(bytes[position..<position + count])
    }

    package mutating func digest() throws(FrameError) -> Digest { Digest(try fixed(Digest.byteCount))! }

    package mutating func blob(max: Int) throws(FrameError) -> [UInt8] {
        let start = position
        let count = Int(try integer(UInt32.self))
        guard count <= max else { throw FrameError(.range, at: start, "a field is longer than its limit") }
        return try fixed(count)
    }

    package mutating func text(max: Int) throws(FrameError) -> String {
        let start = position
        let count = Int(try integer(UInt16.self))
        guard count <= max else { throw FrameError(.range, at: start, "a text is longer than its limit") }
        guard let text = String(validating: try fixed(count), as: UTF8.self) else {
            throw FrameError(.text, at: start, "a text is not valid UTF-8")
        }
        return text
    }

    package mutating func identifier<Noun>(_ noun: Noun.Type = Noun.self) throws(FrameError) -> Identifier<Noun> {
        let start = position
        let text = try text(max: Limits.identifierBytesMax)
        do {
            return try Identifier(text)
        } catch {
            throw FrameError(.text, at: start, "a text is not an identifier")
        }
    }

    /// Everything must have been read.
    package func finish() throws(FrameError) {
        guard position == bytes.count else { throw FrameError(.trailing, at: position, "bytes follow the last field") }
    }

    private func truncated() -> FrameError { FrameError(.truncated, at: bytes.count, "the bytes end inside a field") }
}
