import Vocabulary

/// What else a passport must hold for a visa to count: any one of several sets of clauses, each clause met by one visa.
///
/// Source: GA4GH Passport v1.2, "conditions". Read as a whole before any of it is judged: a condition that cannot be
/// read is not met.
struct VisaConditions {
    private enum Pattern {
        case exactly(String)
        case matching(String)
        /// One of the parts between semicolons.
        case splitMatching(String)
    }

    private struct Clause {
        let type: String
        var fields: [String: Pattern] = [:]
    }

    private let sets: [[Clause]]
    private static let countMax = 32

    init(_ json: JSON) throws(VisaRefusal) {
        guard let outer = json.arrayValue, (1...Self.countMax).contains(outer.count) else { throw .conditions }
        var sets: [[Clause]] = []
        for inner in outer {
            guard let clauses = inner.arrayValue, (1...Self.countMax).contains(clauses.count) else {
                throw .conditions
            }
            var set: [Clause] = []
            for clause in clauses { set.append(try Self.clause(clause)) }
            sets.append(set)
        }
        self.sets = sets
    }

    private static func clause(_ json: JSON) throws(VisaRefusal) -> Clause {
        guard let members = json.objectValue, let type = members["type"]?.stringValue,
            Visa.Kind(rawValue: type) != nil, members.count > 1
        else { throw .conditions }
        var clause = Clause(type: type)
        for (name, value) in members where name != "type" {
            guard ["value", "source", "by"].contains(name), let text = value.stringValue else { throw .conditions }
            clause.fields[name] = try pattern(text, of: name)
        }
        return clause
    }

    private static func pattern(_ text: String, of field: String) throws(VisaRefusal) -> Pattern {
        guard let colon = text.firstIndex(of: ":") else { throw .conditions }
        let rest = String(text[text.index(after: colon)...])
        guard (1...512).contains(rest.utf8.count) else { throw .conditions }
        switch text[..<colon] {
        case "const": return .exactly(rest)
        case "pattern" where field != "by": return .matching(rest)
        case "split_pattern" where field == "value": return .splitMatching(rest)
        default: throw .conditions
        }
    }

    /// - Parameter visas: those without conditions of their own, so that none leans on another in a circle.
    func areMet(by visas: [Visa]) -> Bool {
        sets.contains { set in set.allSatisfy { clause in visas.contains { Self.meets($0, clause) } } }
    }

    private static func meets(_ visa: Visa, _ clause: Clause) -> Bool {
        guard visa.type.rawValue == clause.type else { return false }
        return clause.fields.allSatisfy { name, pattern in
            let text = name == "value" ? visa.value : name == "source" ? visa.source : visa.by
            guard let text else { return false }
            switch pattern {
            case .exactly(let wanted): return text == wanted
            case .matching(let wanted): return matches(Array(text.utf8), Array(wanted.utf8))
            case .splitMatching(let wanted):
                return text.split(separator: ";").contains { matches(Array($0.utf8), Array(wanted.utf8)) }
            }
        }
    }

    /// `?` stands for one character and `*` for any number, over the whole text; linear but for the last star.
    private static func matches(_ text: [UInt8], _ pattern: [UInt8]) -> Bool {
        var (place, at) = (0, 0)
        var star: (pattern: Int, text: Int)?
        while place < text.count {
            if at < pattern.count, pattern[at] == UInt8(ascii: "*") {
                star = (at, place)
                at += 1
            } else if at < pattern.count, pattern[at] == UInt8(ascii: "?") || pattern[at] == text[place] {
                (place, at) = (place + 1, at + 1)
            } else if let last = star {
                star = (last.pattern, last.text + 1)
                (place, at) = (last.text + 1, last.pattern + 1)
            } else {
                return false
            }
        }
        return pattern[at...].allSatisfy { $0 == UInt8(ascii: "*") }
    }
}
