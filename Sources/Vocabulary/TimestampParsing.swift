extension Timestamp {
    /// Reads RFC 3339 in UTC (`2026-11-21T09:30:00Z`, with or without milliseconds) or a day (`2026-11-21`, its first
    /// instant); `nil` for anything else, days that do not exist among it.
    package init?(parsing text: String) {
        let bytes = Array(text.utf8)
        func number(_ range: Range<Int>) -> Int? {
            guard range.upperBound <= bytes.count else { return nil }
            var value = 0
            for byte in bytes[range] {
                guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
                value = value * 10 + Int(byte - UInt8(ascii: "0"))
            }
            return value
        }
        func has(_ character: Unicode.Scalar, at place: Int) -> Bool {
            place < bytes.count && bytes[place] == UInt8(ascii: character)
        }
        guard let year = number(0..<4), has("-", at: 4), let month = number(5..<7), has("-", at: 7),
            let day = number(8..<10), year >= 1, (1...12).contains(month), (1...31).contains(day)
        else { return nil }
        var milliseconds = 0
        if bytes.count > 10 {
            guard has("T", at: 10), let hour = number(11..<13), has(":", at: 13), let minute = number(14..<16),
                has(":", at: 16), let second = number(17..<19), hour < 24, minute < 60, second < 60
            else { return nil }
            milliseconds = ((hour * 60 + minute) * 60 + second) * 1000
            if bytes.count == 24 {
                guard has(".", at: 19), let thousandths = number(20..<23), has("Z", at: 23) else { return nil }
                milliseconds += thousandths
            } else {
                guard bytes.count == 20, has("Z", at: 19) else { return nil }
            }
        }
        // Days since 1970 of the proleptic Gregorian calendar: Howard Hinnant, days_from_civil.
        let shiftedYear = month <= 2 ? year - 1 : year
        let era = shiftedYear / 400
        let yearOfEra = shiftedYear - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        let days = era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
        self.init(milliseconds: Int64(days) * 86_400_000 + Int64(milliseconds))
        // February 30th would have become a day of March.
        guard description.hasPrefix(text.prefix(10)) else { return nil }
    }
}
