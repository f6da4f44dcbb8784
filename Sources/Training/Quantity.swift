import Vocabulary

/// A decimal number with at most nine fractional digits, kept exactly, so that its canonical form can be hashed.
package struct Quantity: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let billionths: Int64

    package static let zero = Quantity(billionths: 0)
    package static let one = Quantity(billionths: 1_000_000_000)
    /// Larger magnitudes are refused when text is read.
    package static let magnitudeMax: Int64 = 1_000_000

    package init(billionths: Int64) { self.billionths = billionths }

    /// Reads `12`, `-0.5`, `5e-4`, `1.25E-3`. `nil` for anything else, for more than nine fractional digits and for
    /// magnitudes beyond `magnitudeMax`.
    package init?(_ text: String) {
        var digits: [UInt8] = []
        var fraction = 0
        var exponent = 0
        var seenPoint = false
        var bytes = Array(text.utf8)[...]
        guard bytes.count <= 32 else { return nil }
        let negative = bytes.first == UInt8(ascii: "-")
        if negative { bytes.removeFirst() }
        while let byte = bytes.first, byte != UInt8(ascii: "e"), byte != UInt8(ascii: "E") {
            bytes.removeFirst()
            if byte == UInt8(ascii: "."), !seenPoint, !digits.isEmpty {
                seenPoint = true
            } else if (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) {
                digits.append(byte)
                if seenPoint { fraction += 1 }
            } else {
                return nil
            }
        }
        guard !digits.isEmpty, !seenPoint || fraction > 0 else { return nil }
        if !bytes.isEmpty {
            bytes.removeFirst()
            guard bytes.count <= 3, let value = Int(String(decoding: bytes, as: UTF8.self)) else { return nil }
            exponent = value
        }
        var shift = 9 - fraction + exponent
        while shift < 0 {
            guard digits.count > 1 ? digits.removeLast() == UInt8(ascii: "0") : digits == [UInt8(ascii: "0")] else {
                return nil
            }
            shift += 1
        }
        guard digits.count + shift <= 32 else { return nil }
        var total: Int64 = 0
        for digit in digits + Array(repeating: UInt8(ascii: "0"), count: shift) {
            let (product, overflow) = total.multipliedReportingOverflow(by: 10)
            guard !overflow, product <= Self.magnitudeMax * Self.one.billionths else { return nil }
            total = product + Int64(digit - UInt8(ascii: "0"))
        }
        guard total <= Self.magnitudeMax * Self.one.billionths else { return nil }
        billionths = negative ? -total : total
    }

    package var value: Double { Double(billionths) / 1e9 }

    /// Shortest decimal form, such as `0.0005`; never an exponent.
    package var description: String {
        let magnitude = billionths.magnitude
        var text = String(magnitude / 1_000_000_000)
        let rest = magnitude % 1_000_000_000
        if rest > 0 {
            var digits = String(rest)
            digits = String(repeating: "0", count: 9 - digits.count) + digits
            while digits.last == "0" { digits.removeLast() }
            text += "." + digits
        }
        return billionths < 0 ? "-" + text : text
    }

    package static func < (left: Self, right: Self) -> Bool { left.billionths < right.billionths }
}
