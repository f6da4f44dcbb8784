import Mustache
import Vocabulary
import WebResources

/// What pages say in one language. Every text has a key; a test holds the catalogues to the pages and to each other.
package struct Words: Sendable {
    package let language: Language
    fileprivate let texts: [String: String]

    private static let all: [Language: Words] = Dictionary(
        uniqueKeysWithValues: Language.allCases.map { ($0, Words($0)) })

    package static func of(_ language: Language) -> Words { all[language]! }

    private init(_ language: Language) {
        self.language = language
        let catalogue = WebFile.messages[language.rawValue].flatMap { try? JSON(parsing: $0).objectValue }
        guard let catalogue else { preconditionFailure("no catalogue of \(language)") }
        texts = catalogue.compactMapValues(\.stringValue)
    }

    package var keys: Set<String> { Set(texts.keys) }

    /// The text of `key` with every `{name}` filled in.
    package func callAsFunction(_ key: String, _ values: [String: String] = [:]) -> String {
        guard let text = texts[key] else { preconditionFailure("no text of \(key)") }
        guard !values.isEmpty else { return text }
        var out = ""
        var rest = text[...]
        while let start = rest.firstIndex(of: "{"), let end = rest[start...].firstIndex(of: "}") {
            out += rest[..<start]
            out += values[String(rest[rest.index(after: start)..<end])] ?? ""
            rest = rest[rest.index(after: end)...]
        }
        return out + rest
    }

    /// The text of a name out of a closed list, such as a role's; the name itself where a list has grown beyond the
    /// catalogue, such as a role that only a policy names.
    package func name(_ family: String, _ name: String) -> String { texts["\(family).\(name)"] ?? name }

    func list(_ parts: [String]) -> String { parts.joined(separator: language == .japanese ? "、" : ", ") }

    func roles(_ roles: [String]) -> String { list(roles.map { name("role", $0) }) }
}

/// The catalogue as templates see it: `{{t.frame.skip}}`.
struct WordTree: MustacheParent {
    let words: Words
    var stem = ""

    func child(named name: String) -> Any? {
        let key = stem + name
        return words.texts[key] ?? WordTree(words: words, stem: key + ".")
    }
}

// MARK: - Times and sizes

extension Words {
    /// For the template `time`.
    func time(_ time: Timestamp) -> [String: Any] { ["iso": time.description, "words": minute(time)] }

    /// Such as `21 Nov 2026, 14:30 UTC`.
    func minute(_ time: Timestamp) -> String { "\(day(time)), \(time.description.dropFirst(11).prefix(5)) UTC" }

    func day(_ time: Timestamp) -> String {
        let parts = time.description.prefix(10).split(separator: "-").compactMap { Int($0) }
        guard parts.count == 3 else { return time.description }
        switch language {
        case .english:
            let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
            return "\(parts[2]) \(months[parts[1] - 1]) \(parts[0])"
        case .japanese: return "\(parts[0])年\(parts[1])月\(parts[2])日"
        }
    }

    /// How long ago, in the largest unit that fits.
    func age(since: Timestamp, now: Timestamp) -> String {
        let minutes = max(now.milliseconds - since.milliseconds, 0) / 60_000
        return switch minutes {
        case 1440...: self("reviews.days", ["count": "\(minutes / 1440)"])
        case 60...: self("reviews.hours", ["count": "\(minutes / 60)"])
        default: self("reviews.minutes", ["count": "\(minutes)"])
        }
    }
}
