package import Vocabulary

/// A day of the proleptic Gregorian calendar, as policies and requests write it: `2027-01-31`. Times are UTC.
package struct CalendarDate: Hashable, Sendable, Comparable, CustomStringConvertible {
    package let year: Int
    package let month: Int
    package let day: Int

    package init?(year: Int, month: Int, day: Int) {
        guard (1970...9999).contains(year), (1...12).contains(month),
            day >= 1, day <= Self.daysInMonth(year: year, month: month)
        else { return nil }
        self.year = year
        self.month = month
        self.day = day
    }

    /// Exactly `YYYY-MM-DD`.
    package init?(_ text: String) {
        let bytes = Array(text.utf8)
        guard bytes.count == 10, bytes[4] == UInt8(ascii: "-"), bytes[7] == UInt8(ascii: "-"),
            let year = number(bytes[0..<4]), let month = number(bytes[5..<7]), let day = number(bytes[8..<10])
        else { return nil }
        self.init(year: year, month: month, day: day)
    }

    package var description: String { String(Timestamp(self).description.prefix(10)) }

    package static func < (left: Self, right: Self) -> Bool {
        (left.year, left.month, left.day) < (right.year, right.month, right.day)
    }

    // Howard Hinnant, "chrono-compatible low-level date algorithms", days_from_civil.
    fileprivate var daysSince1970: Int {
        let shifted = month <= 2 ? year - 1 : year
        let era = shifted / 400
        let yearOfEra = shifted - era * 400
        let dayOfYear = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }

    fileprivate static func daysInMonth(year: Int, month: Int) -> Int {
        switch month {
        case 2: year.isMultiple(of: 4) && (!year.isMultiple(of: 100) || year.isMultiple(of: 400)) ? 29 : 28
        case 4, 6, 9, 11: 30
        default: 31
        }
    }
}

private func number(_ digits: ArraySlice<UInt8>) -> Int? {
    var value = 0
    for digit in digits {
        guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { return nil }
        value = value * 10 + Int(digit - UInt8(ascii: "0"))
    }
    return value
}

extension Timestamp {
    /// The first millisecond of a day.
    package init(_ date: CalendarDate) {
        self.init(milliseconds: Int64(date.daysSince1970) * 86_400_000)
    }

    /// Reads what `description` writes (`2026-11-21T09:30:00.000Z`), or a day alone, which means its first millisecond.
    package init?(_ text: String) {
        let bytes = Array(text.utf8)
        guard let date = CalendarDate(String(decoding: bytes.prefix(10), as: UTF8.self)) else { return nil }
        if bytes.count == 10 {
            self.init(date)
            return
        }
        guard bytes.count == 24, bytes[10] == UInt8(ascii: "T"), bytes[13] == UInt8(ascii: ":"),
            bytes[16] == UInt8(ascii: ":"), bytes[19] == UInt8(ascii: "."), bytes[23] == UInt8(ascii: "Z"),
            let hour = number(bytes[11..<13]), let minute = number(bytes[14..<16]), let second = number(bytes[17..<19]),
            let milli = number(bytes[20..<23]), hour < 24, minute < 60, second < 60
        else { return nil }
        self.init(
            milliseconds: Timestamp(date).milliseconds + Int64(((hour * 60 + minute) * 60 + second) * 1000 + milli))
    }

    /// The same time of day so many calendar months later; the 31st becomes a shorter month's last day.
    package func adding(months: Int) -> Timestamp? {
        guard months >= 0, months <= 12 * 1000, let date = CalendarDate(String(description.prefix(10))) else {
            return nil
        }
        let all = date.year * 12 + date.month - 1 + months
        let (year, month) = (all / 12, all % 12 + 1)
        guard
            let later = CalendarDate(
                year: year, month: month, day: min(date.day, CalendarDate.daysInMonth(year: year, month: month)))
        else { return nil }
        return Timestamp(milliseconds: milliseconds + Timestamp(later).milliseconds - Timestamp(date).milliseconds)
    }
}
