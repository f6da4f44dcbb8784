package import Vocabulary

/// What a reviewer asks for in return for an approval. All conditions of the approvals that counted become obligations
/// of the grant, of each kind the strictest, and later decisions hold them.
package struct Condition: Hashable, Sendable {
    /// The kinds there are; each is an obligation of the same name.
    package enum Kind: String, CaseIterable, Sendable {
        /// The grant ends after so many months.
        case monthsMax = "months-max"
        /// Device hours the grant may use.
        case hoursMax = "hours-max"
        /// Countries that the data may be used in, `JP DE`.
        case regions
        /// A document of a kind must be there by the end of a day, `ethics 2027-01-31`.
        case documentDue = "document-due"
        /// A text that goes with the grant and every release of it.
        case notice

        var obligation: Obligation.Code {
            switch self {
            case .monthsMax: .monthsMax
            case .hoursMax: .hoursMax
            case .regions: .regions
            case .documentDue: .documentDue
            case .notice: .notice
            }
        }
    }

    package static let perVoteMax = 16
    package static let noticeScalarsMax = 500

    package let kind: Kind
    /// As the obligation keeps it, and the only way to write it.
    package let value: String

    package init(_ kind: Kind, _ value: String) throws(QuestionError) {
        guard let value = Self.normal(kind, value) else {
            throw QuestionError(member: "conditions.\(kind.rawValue)", reason: Self.form(of: kind))
        }
        self.kind = kind
        self.value = value
    }

    /// What a value of this kind looks like, for whoever wrote another.
    package static func form(of kind: Kind) -> String {
        switch kind {
        case .monthsMax: "must be a whole number of months, from 1 to 1200"
        case .hoursMax: "must be a whole number of hours, from 1 to 100000"
        case .regions: "must be countries' two capital letters, such as JP DE"
        case .documentDue: "must be a kind of document and a day, such as ethics 2027-01-31"
        case .notice: "must be 1 to \(noticeScalarsMax) characters on one line"
        }
    }

    private static func normal(_ kind: Kind, _ value: String) -> String? {
        switch kind {
        case .monthsMax: return whole(value, 1...1200).map(String.init)
        case .hoursMax: return whole(value, 1...100_000).map(String.init)
        case .regions:
            let countries = value.split(separator: " ").map(String.init)
            guard (1...250).contains(countries.count), countries.allSatisfy(isCountry) else { return nil }
            return Set(countries).sorted().joined(separator: " ")
        case .documentDue: return DocumentDue(value)?.description
        case .notice:
            let scalars = value.unicodeScalars
            guard (1...noticeScalarsMax).contains(scalars.count),
                scalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F })
            else { return nil }
            return value
        }
    }

    private static func whole(_ text: String, _ range: ClosedRange<Int>) -> Int? {
        guard let number = Int(text), String(number) == text, range.contains(number) else { return nil }
        return number
    }

    package var json: JSON { ["code": .string(kind.rawValue), "value": .string(value)] }
}

/// By the end of which day a document of which kind must be there.
struct DocumentDue: Hashable, CustomStringConvertible {
    let kind: String
    let day: CalendarDate

    init?(_ text: String) {
        let parts = text.split(separator: " ", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 2, let day = CalendarDate(parts[1]), let kind = try? Identifier<DocumentDue>(parts[0])
        else { return nil }
        self.kind = kind.text
        self.day = day
    }

    var description: String { "\(kind) \(day)" }
    /// The first moment at which it is late.
    var ends: Timestamp { Timestamp(day).adding(seconds: 86_400) }
}

extension Obligation {
    private static let conditionsPath = "/access.approvals/conditions"

    /// Whether a reviewer asked for it, not the policy by itself.
    package var isCondition: Bool { rule.hasSuffix(Self.conditionsPath) }

    /// The strictest of what the approvals that counted asked for: least numbers, common countries, earliest days, and
    /// every text.
    static func strictest(_ conditions: [Condition], of dataset: DatasetID) -> [Obligation] {
        let rule = dataset.text + conditionsPath
        func values(_ kind: Condition.Kind) -> [String] { conditions.filter { $0.kind == kind }.map(\.value) }
        return Condition.Kind.allCases.flatMap { kind -> [Obligation] in
            let all = values(kind)
            guard let first = all.first else { return [] }
            let strictest: [String]
            switch kind {
            case .monthsMax, .hoursMax: strictest = [String(all.compactMap { Int($0) }.min() ?? 0)]
            case .regions:
                let common = all.dropFirst().reduce(Set(words(first))) { $0.intersection(words($1)) }
                strictest = [common.sorted().joined(separator: " ")]
            case .documentDue:
                let days = Dictionary(grouping: all.compactMap { DocumentDue($0) }, by: \.kind)
                strictest = days.sorted { $0.key < $1.key }.compactMap { $1.min { $0.day < $1.day }?.description }
            case .notice: strictest = Set(all).sorted()
            }
            return strictest.map { Obligation(code: kind.obligation, rule: rule, value: $0) }
        }
    }

    private static func words(_ text: String) -> [String] { text.split(separator: " ").map(String.init) }

    /// The countries that it names.
    var countries: [String] { Self.words(value) }
}

extension RunQuestion.Grant {
    private func limits(_ code: Obligation.Code) -> [Obligation] {
        obligations.filter { $0.code == code && $0.isCondition }
    }

    /// The least device hours that a reviewer allowed; one that cannot be read allows none.
    var hoursAllowed: Int? { limits(.hoursMax).map { Int($0.value) ?? 0 }.min() }

    /// Holds what reviewers approved under: each that is not met, or cannot be read, refuses.
    func judgeConditions<Value>(at now: Timestamp, _ clause: Clause<Value>, _ ruling: inout Ruling) {
        for limit in limits(.monthsMax) {
            guard let months = Int(limit.value), let last = granted.adding(months: months), now < last else {
                ruling.refuse(.grantExpired, clause, "a reviewer agreed to at most \(limit.value) months")
                continue
            }
        }
        for limit in limits(.regions) where country.map({ !limit.countries.contains($0) }) ?? true {
            ruling.refuse(.placeNotAllowed, clause, "a reviewer agreed to use in other countries only")
        }
        for limit in limits(.documentDue) {
            guard let due = DocumentDue(limit.value) else {
                ruling.refuse(.factInvalid, clause, "a reviewer's condition cannot be read")
                continue
            }
            let isThere = documents.contains { document in
                document.kind == due.kind && document.expires.map { $0 > now } ?? true
            }
            if now >= due.ends, !isThere {
                ruling.refuse(.documentMissing, clause, "a document (\(due.kind)) was due by \(due.day)")
            }
        }
    }
}
