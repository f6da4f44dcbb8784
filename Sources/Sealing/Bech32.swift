internal import CSodium

/// Bech32 (BIP 173) without its length limit, as age writes keys: all lower or all upper case.
enum Bech32 {
    private static let alphabet = Array("qpzry9x8gf2tvdw0s3jn54khce6mua7l".utf8)
    private static let charactersMax = 4096

    static func encode(prefix: String, _ bytes: [UInt8]) -> String {
        let isUpper = prefix.utf8.contains { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) }
        let lower = prefix.lowercased()
        let data = regroup(bytes, from: 8, to: 5, pads: true)!
        let checked = expanded(lower) + data + [UInt8](repeating: 0, count: 6)
        let sum = polymod(checked) ^ 1
        let checksum = (0..<6).map { UInt8(truncatingIfNeeded: sum >> UInt32(5 * (5 - $0)) & 31) }
        let text = lower + "1" + String(decoding: (data + checksum).map { alphabet[Int($0)] }, as: UTF8.self)
        return isUpper ? text.uppercased() : text
    }

    /// The prefix as written, and the bytes; `nil` for anything that is not exactly one encoding.
    static func decode(_ text: String) -> (prefix: String, bytes: [UInt8])? {
        guard text.utf8.count <= charactersMax, text.utf8.allSatisfy({ (33...126).contains($0) }),
            text == text.lowercased() || text == text.uppercased(),
            let separator = text.lastIndex(of: "1"), separator != text.startIndex
        else { return nil }
        let prefix = String(text[..<separator])
        var values: [UInt8] = []
        for character in text[text.index(after: separator)...].lowercased().utf8 {
            guard let value = alphabet.firstIndex(of: character) else { return nil }
            values.append(UInt8(value))
        }
        guard values.count >= 6, polymod(expanded(prefix.lowercased()) + values) == 1,
            let bytes = regroup(Array(values.dropLast(6)), from: 5, to: 8, pads: false)
        else { return nil }
        return (prefix, bytes)
    }

    private static func expanded(_ prefix: String) -> [UInt8] {
        prefix.utf8.map { $0 >> 5 } + [0] + prefix.utf8.map { $0 & 31 }
    }

    private static func polymod(_ values: [UInt8]) -> UInt32 {
        let generator: [UInt32] = [0x3B6A_57B2, 0x2650_8E6D, 0x1EA1_19FA, 0x3D42_33DD, 0x2A14_62B3]
        var sum: UInt32 = 1
        for value in values {
            let top = sum >> 25
            sum = (sum & 0x1FF_FFFF) << 5 ^ UInt32(value)
            for bit in 0..<5 where top >> UInt32(bit) & 1 == 1 { sum ^= generator[bit] }
        }
        return sum
    }

    /// `nil` when what is left over is not zero padding.
    private static func regroup(_ values: [UInt8], from: UInt32, to: UInt32, pads: Bool) -> [UInt8]? {
        var out: [UInt8] = []
        var held: UInt32 = 0
        var bits: UInt32 = 0
        for value in values {
            held = held << from | UInt32(value)
            bits += from
            while bits >= to {
                bits -= to
                out.append(UInt8(truncatingIfNeeded: held >> bits & (1 << to - 1)))
            }
            held &= 1 << bits - 1
        }
        if pads {
            if bits > 0 { out.append(UInt8(truncatingIfNeeded: held << (to - bits) & (1 << to - 1))) }
        } else if bits >= from || held != 0 {
            return nil
        }
        return out
    }
}

/// Base64 without padding, only in its one canonical spelling.
enum AgeBase64 {
    static func encode(_ bytes: [UInt8]) -> String {
        let size = sodium_base64_encoded_len(bytes.count, variant)
        let text = [UInt8](unsafeUninitializedCapacity: size) { out, count in
            out.withMemoryRebound(to: CChar.self) {
                _ = sodium_bin2base64($0.baseAddress!, size, bytes, bytes.count, variant)
            }
            count = size - 1
        }
        return String(decoding: text, as: UTF8.self)
    }

    static func decode(_ text: some Collection<UInt8>) -> [UInt8]? { decode(Array(text), variant) }

    /// With padding, as the armour has it.
    static func decodePadded(_ text: some Collection<UInt8>) -> [UInt8]? {
        decode(Array(text), sodium_base64_VARIANT_ORIGINAL)
    }

    private static let variant = sodium_base64_VARIANT_ORIGINAL_NO_PADDING

    private static func decode(_ text: [UInt8], _ variant: Int32) -> [UInt8]? {
        // The library takes bytes above ASCII for digits, so that one content would have several texts.
        guard text.allSatisfy({ $0 < 0x80 }) else { return nil }
        var good = false
        let bytes = [UInt8](unsafeUninitializedCapacity: text.count / 4 * 3 + 3) { out, count in
            var filled = 0
            good = text.withUnsafeBufferPointer { text in
                guard let start = text.baseAddress else { return true }
                return start.withMemoryRebound(to: CChar.self, capacity: text.count) {
                    sodium_base642bin(
                        out.baseAddress!, out.count, $0, text.count, nil, &filled, nil, variant) == 0
                }
            }
            count = good ? filled : 0
        }
        return good ? bytes : nil
    }
}
