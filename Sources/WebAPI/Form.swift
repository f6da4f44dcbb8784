/// The fields of an `application/x-www-form-urlencoded` body, in the order they came.
package struct Form: Sendable, Equatable {
    package private(set) var fields: [(name: String, value: String)] = []

    static let fieldsMax = 256

    package init() {}

    package init(_ fields: [(name: String, value: String)]) { self.fields = fields }

    /// - Returns: `nil` where the bytes are no such form: a bad escape, bytes that are no UTF-8, too many fields.
    package init?(parsing bytes: some Collection<UInt8>) {
        guard !bytes.isEmpty else { return }
        for pair in bytes.split(separator: UInt8(ascii: "&"), omittingEmptySubsequences: true) {
            guard fields.count < Self.fieldsMax else { return nil }
            let sign = pair.firstIndex(of: UInt8(ascii: "=")) ?? pair.endIndex
            guard let name = Self.decode(pair[..<sign]),
                let value = Self.decode(pair[sign...].dropFirst())
            else { return nil }
            fields.append((name, value))
        }
    }

    /// The only value of a field; `nil` where there is none or where there are several.
    package subscript(name: String) -> String? {
        let values = all(name)
        return values.count == 1 ? values[0] : nil
    }

    package func all(_ name: String) -> [String] { fields.filter { $0.name == name }.map(\.value) }

    package func without(_ names: Set<String>) -> Form { Form(fields.filter { !names.contains($0.name) }) }

    /// The body that parses to this form.
    package var encoded: String {
        fields.map { Self.encode($0.name) + "=" + Self.encode($0.value) }.joined(separator: "&")
    }

    package static func == (left: Form, right: Form) -> Bool {
        left.fields.elementsEqual(right.fields) { $0.name == $1.name && $0.value == $1.value }
    }

    private static func decode(_ bytes: some Sequence<UInt8>) -> String? {
        var out: [UInt8] = []
        var iterator = bytes.makeIterator()
        while let byte = iterator.next() {
            switch byte {
            case UInt8(ascii: "+"): out.append(UInt8(ascii: " "))
            case UInt8(ascii: "%"):
                guard let high = iterator.next().flatMap(Self.nibble), let low = iterator.next().flatMap(Self.nibble)
                else { return nil }
                out.append(high << 4 | low)
            default: out.append(byte)
            }
        }
        // Control characters other than a text's own have no place in a form.
        guard !out.contains(where: { $0 < 0x20 && ![0x09, 0x0A, 0x0D].contains($0) || $0 == 0x7F }) else { return nil }
        return String(validating: out, as: UTF8.self)
    }

    private static func nibble(_ byte: UInt8) -> UInt8? {
        Character(Unicode.Scalar(byte)).hexDigitValue.map(UInt8.init)
    }

    private static func encode(_ text: String) -> String {
        text.utf8.map { byte in
            let scalar = Unicode.Scalar(byte)
            return switch scalar {
            case "a"..."z", "A"..."Z", "0"..."9", "-", ".", "_", "~": String(scalar)
            default: "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }.joined()
    }
}
