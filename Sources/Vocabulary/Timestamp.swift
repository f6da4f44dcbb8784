/// Milliseconds since 1970-01-01T00:00:00Z. Wall time, for records; never for leases, which use `CLOCK_BOOTTIME`.
package struct Timestamp: Hashable, Comparable, Codable, Sendable, CustomStringConvertible {
    package let milliseconds: Int64

    package init(milliseconds: Int64) { self.milliseconds = milliseconds }

    package static func < (left: Self, right: Self) -> Bool { left.milliseconds < right.milliseconds }

    package func adding(seconds: Int64) -> Timestamp { Timestamp(milliseconds: milliseconds + seconds * 1000) }

    /// RFC 3339 in UTC with milliseconds, such as `2026-11-21T09:30:00.000Z`.
    package var description: String {
        let days = Int(milliseconds.flooredDivision(by: 86_400_000))
        let rest = Int(milliseconds - Int64(days) * 86_400_000)
        let (year, month, day) = Self.civil(days: days)
        func pad(_ value: Int, _ width: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, width - text.count)) + text
        }
        return "\(pad(year, 4))-\(pad(month, 2))-\(pad(day, 2))T"
            + "\(pad(rest / 3_600_000, 2)):\(pad(rest / 60_000 % 60, 2)):\(pad(rest / 1000 % 60, 2)).\(pad(rest % 1000, 3))Z"
    }

    // Days since 1970 to the proleptic Gregorian calendar: Howard Hinnant, "chrono-compatible low-level date
    // algorithms", civil_from_days.
    private static func civil(days: Int) -> (year: Int, month: Int, day: Int) {
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        let month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day)
    }
}

extension Int64 {
    fileprivate func flooredDivision(by divisor: Int64) -> Int64 {
        let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
        return remainder < 0 ? quotient - 1 : quotient
    }
}

/// Tells the wall time. Given to whoever needs it, so that tests decide what time it is.
package protocol WallClock: Sendable {
    func now() -> Timestamp
}

/// The lease's ever-growing number. A device refuses every frame that carries a lower one than it has stored.
package struct Fence: Hashable, Comparable, Codable, Sendable, CustomStringConvertible {
    package let number: UInt64
    package init(_ number: UInt64) { self.number = number }
    package var next: Fence { Fence(number + 1) }
    package var description: String { String(number) }
    package static func < (left: Self, right: Self) -> Bool { left.number < right.number }
}
