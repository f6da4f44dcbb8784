/// A JSON value in the subset that has one canonical form here: integers, no floating point.
///
/// Everything that is hashed or signed (records, manifests, decision inputs) is written as RFC 8785 canonical JSON.
/// RFC 8785 numbers are IEEE doubles; integers beyond ±(2^53 − 1) and fractions are refused, so that no two
/// implementations can disagree about a digest. A measured figure is written as an integer in a stated unit.
package indirect enum JSON: Hashable, Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case string(String)
    case array([JSON])
    case object([String: JSON])

    package static let integerMax: Int64 = (1 << 53) - 1
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByBooleanLiteral,
    ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    package init(stringLiteral value: String) { self = .string(value) }
    package init(integerLiteral value: Int64) { self = .integer(value) }
    package init(booleanLiteral value: Bool) { self = .bool(value) }
    package init(arrayLiteral elements: JSON...) { self = .array(elements) }
    package init(dictionaryLiteral elements: (String, JSON)...) {
        self = .object(Dictionary(elements, uniquingKeysWith: { _, last in last }))
    }
}

extension JSON {
    package subscript(key: String) -> JSON? {
        if case .object(let members) = self { members[key] } else { nil }
    }
    package var stringValue: String? { if case .string(let value) = self { value } else { nil } }
    package var integerValue: Int64? { if case .integer(let value) = self { value } else { nil } }
    package var boolValue: Bool? { if case .bool(let value) = self { value } else { nil } }
    package var arrayValue: [JSON]? { if case .array(let value) = self { value } else { nil } }
    package var objectValue: [String: JSON]? { if case .object(let value) = self { value } else { nil } }
}

// MARK: - Writing

extension JSON {
    /// RFC 8785 canonical bytes: no white space, members sorted by UTF-16 code units, shortest escapes.
    package var canonical: [UInt8] {
        var out: [UInt8] = []
        write(into: &out)
        return out
    }

    package var canonicalText: String { String(decoding: canonical, as: UTF8.self) }

    private func write(into out: inout [UInt8]) {
        switch self {
        case .null: out += "null".utf8
        case .bool(let value): out += (value ? "true" : "false").utf8
        case .integer(let value):
            precondition(abs(value) <= Self.integerMax, "an integer beyond 2^53 has no canonical JSON form")
            out += String(value).utf8
        case .string(let value): Self.write(value, into: &out)
        case .array(let elements):
            out.append(UInt8(ascii: "["))
            for (index, element) in elements.enumerated() {
                if index > 0 { out.append(UInt8(ascii: ",")) }
                element.write(into: &out)
            }
            out.append(UInt8(ascii: "]"))
        case .object(let members):
            out.append(UInt8(ascii: "{"))
            // ASCII has the same order in every encoding, and nearly every name is ASCII.
            let isPlain = members.keys.allSatisfy { $0.utf8.allSatisfy { $0 < 0x80 } }
            let sorted = members.sorted {
                isPlain ? $0.key < $1.key : $0.key.utf16.lexicographicallyPrecedes($1.key.utf16)
            }
            for (index, member) in sorted.enumerated() {
                if index > 0 { out.append(UInt8(ascii: ",")) }
                Self.write(member.key, into: &out)
                out.append(UInt8(ascii: ":"))
                member.value.write(into: &out)
            }
            out.append(UInt8(ascii: "}"))
        }
    }

    private static func write(_ text: String, into out: inout [UInt8]) {
        out.append(UInt8(ascii: "\""))
        defer { out.append(UInt8(ascii: "\"")) }
        var text = text
        let isPlain = text.withUTF8 { bytes in
            let isPlain = bytes.allSatisfy { $0 >= 0x20 && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }
            if isPlain { out.append(contentsOf: bytes) }
            return isPlain
        }
        if isPlain { return }
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""): out += #"\""#.utf8
            case UInt8(ascii: "\\"): out += #"\\"#.utf8
            case 0x08: out += #"\b"#.utf8
            case 0x09: out += #"\t"#.utf8
            case 0x0A: out += #"\n"#.utf8
            case 0x0C: out += #"\f"#.utf8
            case 0x0D: out += #"\r"#.utf8
            case 0..<0x20: out += (#"\u00"# + Hex.encode([byte])).utf8
            default: out.append(byte)
            }
        }
    }
}

// MARK: - Reading

/// Where and why a text is not JSON of this subset. Never repeats the text.
package struct JSONError: Error, Equatable, CustomStringConvertible {
    package let offset: Int
    package let reason: String
    package var description: String { "at byte \(offset): \(reason)" }
}

extension JSON {
    /// Reads one value and nothing after it. Duplicate members, invalid UTF-8, lone surrogates, fractions (but of zeros), depth
    /// beyond `Limits.jsonDepthMax` and size beyond `Limits.jsonBytesMax` are refused.
    package init(parsing bytes: [UInt8]) throws(JSONError) {
        guard bytes.count <= Limits.jsonBytesMax else {
            throw JSONError(offset: Limits.jsonBytesMax, reason: "longer than \(Limits.jsonBytesMax) bytes")
        }
        var reader = JSONReader(bytes: bytes)
        self = try reader.document()
    }

    package init(parsing text: String) throws(JSONError) { try self.init(parsing: Array(text.utf8)) }
}

private struct JSONReader {
    let bytes: [UInt8]
    var at = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    mutating func document() throws(JSONError) -> JSON {
        let value = try value(depth: 0)
        skipSpace()
        guard at == bytes.count else { throw error("something follows the value") }
        return value
    }

    private func error(_ reason: String) -> JSONError { JSONError(offset: at, reason: reason) }

    private mutating func skipSpace() {
        while at < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[at]) { at += 1 }
    }

    private mutating func value(depth: Int) throws(JSONError) -> JSON {
        guard depth < Limits.jsonDepthMax else { throw error("nested deeper than \(Limits.jsonDepthMax)") }
        skipSpace()
        guard at < bytes.count else { throw error("a value is missing") }
        switch bytes[at] {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try array(depth: depth)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try literal("true", .bool(true))
        case UInt8(ascii: "f"): return try literal("false", .bool(false))
        case UInt8(ascii: "n"): return try literal("null", .null)
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try integer()
        default: throw error("not the start of a value")
        }
    }

    private mutating func literal(_ word: String, _ value: JSON) throws(JSONError) -> JSON {
        guard bytes[at...].starts(with: word.utf8) else { throw error("not the start of a value") }
        at += word.utf8.count
        return value
    }

    private mutating func integer() throws(JSONError) -> JSON {
        let start = at
        if bytes[at] == UInt8(ascii: "-") { at += 1 }
        let digits = at
        while at < bytes.count, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[at]) { at += 1 }
        guard at > digits else { throw error("a digit is missing") }
        if bytes[digits] == UInt8(ascii: "0"), at > digits + 1 || digits > start {
            throw error("a number starts with a needless zero")
        }
        let end = at
        // JSON Schema (2020-12, 4.2.3) has 418.0 for an integer, and some clients write them so.
        if at + 1 < bytes.count, bytes[at] == UInt8(ascii: "."), bytes[at + 1] == UInt8(ascii: "0") {
            at += 2
            while at < bytes.count, bytes[at] == UInt8(ascii: "0") { at += 1 }
            if at < bytes.count, (UInt8(ascii: "1")...UInt8(ascii: "9")).contains(bytes[at]) { at = end }
        }
        if at < bytes.count, [UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E")].contains(bytes[at]) {
            throw error("fractions and exponents are not allowed; use an integer in a smaller unit")
        }
        guard let number = Int64(String(decoding: bytes[start..<end], as: UTF8.self)), abs(number) <= JSON.integerMax
        else { throw error("an integer beyond ±(2^53 − 1)") }
        return .integer(number)
    }

    private mutating func array(depth: Int) throws(JSONError) -> JSON {
        at += 1
        var elements: [JSON] = []
        skipSpace()
        if take(UInt8(ascii: "]")) { return .array(elements) }
        while true {
            elements.append(try value(depth: depth + 1))
            skipSpace()
            if take(UInt8(ascii: "]")) { return .array(elements) }
            guard take(UInt8(ascii: ",")) else { throw error("expected , or ]") }
        }
    }

    private mutating func object(depth: Int) throws(JSONError) -> JSON {
        at += 1
        var members: [String: JSON] = [:]
        skipSpace()
        if take(UInt8(ascii: "}")) { return .object(members) }
        while true {
            skipSpace()
            guard at < bytes.count, bytes[at] == UInt8(ascii: "\"") else { throw error("expected a member name") }
            let nameAt = at
            let name = try string()
            skipSpace()
            guard take(UInt8(ascii: ":")) else { throw error("expected :") }
            let value = try value(depth: depth + 1)
            guard members.updateValue(value, forKey: name) == nil else {
                throw JSONError(offset: nameAt, reason: "a member name occurs twice")
            }
            skipSpace()
            if take(UInt8(ascii: "}")) { return .object(members) }
            guard take(UInt8(ascii: ",")) else { throw error("expected , or }") }
        }
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard at < bytes.count, bytes[at] == byte else { return false }
        at += 1
        return true
    }

    private mutating func string() throws(JSONError) -> String {
        let start = at
        at += 1
        // Most strings have no escapes and are taken as they lie there.
        while at < bytes.count, bytes[at] >= 0x20, bytes[at] != UInt8(ascii: "\""), bytes[at] != UInt8(ascii: "\\") {
            at += 1
        }
        var out = Array(bytes[start + 1..<at])
        while true {
            guard at < bytes.count else { throw JSONError(offset: start, reason: "a string is not closed") }
            let byte = bytes[at]
            switch byte {
            case UInt8(ascii: "\""):
                at += 1
                guard let text = String(validating: out, as: UTF8.self) else {
                    throw JSONError(offset: start, reason: "a string is not valid UTF-8")
                }
                return text
            case UInt8(ascii: "\\"):
                at += 1
                try escape(into: &out)
            case 0..<0x20: throw error("a control character in a string")
            default:
                out.append(byte)
                at += 1
            }
        }
    }

    private mutating func escape(into out: inout [UInt8]) throws(JSONError) {
        guard at < bytes.count else { throw error("an escape is not finished") }
        let plain: UInt8? =
            switch bytes[at] {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): bytes[at]
            case UInt8(ascii: "b"): 0x08
            case UInt8(ascii: "f"): 0x0C
            case UInt8(ascii: "n"): 0x0A
            case UInt8(ascii: "r"): 0x0D
            case UInt8(ascii: "t"): 0x09
            default: nil
            }
        if let plain {
            out.append(plain)
            at += 1
            return
        }
        guard take(UInt8(ascii: "u")) else { throw error("an unknown escape") }
        var unit = try hexUnit()
        if (0xD800..<0xDC00).contains(unit) {
            guard take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else { throw error("a lone surrogate") }
            let low = try hexUnit()
            guard (0xDC00..<0xE000).contains(low) else { throw error("a lone surrogate") }
            unit = 0x10000 + (unit - 0xD800) << 10 + (low - 0xDC00)
        }
        guard let scalar = Unicode.Scalar(unit) else { throw error("a lone surrogate") }
        out += String(Character(scalar)).utf8
    }

    private mutating func hexUnit() throws(JSONError) -> UInt32 {
        guard at + 4 <= bytes.count,
            bytes[at..<at + 4].allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }),
            let unit = UInt32(String(decoding: bytes[at..<at + 4], as: UTF8.self), radix: 16)
        else { throw error("\\u needs four hexadecimal digits") }
        at += 4
        return unit
    }
}
