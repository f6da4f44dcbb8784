package import Vocabulary

import StrictYAML

/// Why a recorded input is not a question. Names the member, never its value.
package struct QuestionError: Error, Equatable, CustomStringConvertible {
    package let member: String
    package let reason: String
    package var description: String { "\(member): \(reason)" }
}

extension Question {
    /// The canonical input of the decision. Its bytes (`input.canonical`) are what records hash.
    package var input: JSON {
        switch self {
        case .access(let question): question.input
        case .run(let question): question.input
        case .progress(let question): question.input
        case .release(let question): question.input
        }
    }

    /// Reads an input again, strictly: `Question(input: q.input) == q`.
    package init(input: JSON) throws(QuestionError) {
        var facts = try Facts(input, at: "input")
        switch try facts.text("ask") {
        case "access": self = .access(try AccessQuestion(&facts))
        case "run": self = .run(try RunQuestion(&facts))
        case "progress": self = .progress(try ProgressQuestion(&facts))
        case "release": self = .release(try ReleaseQuestion(&facts))
        default: throw QuestionError(member: "input.ask", reason: "must be access, run, progress or release")
        }
        try facts.end()
    }
}

extension AccessQuestion {
    package var input: JSON {
        object([
            "ask": "access", "now": now.json, "dataset": dataset.json, "requester": requester.json,
            "purpose": purpose.json, "termMonths": termMonths.map { .integer(Int64($0)) },
            "country": country.map { .string($0) }, "institution": institution.map { .string($0) },
            "project": project.map { .string($0) },
            "documents": .array(documents.map(\.json)), "people": list(people.map(\.json)),
            "agreements": .array(agreements.map { .string($0) }),
            "visas": .array(visas.map(\.json)), "authors": .array(authors.map(\.json)),
            "votes": .array(votes.map(\.json)),
            "breakGlass": breakGlass.map {
                object([
                    "reason": .string($0.reason), "minutes": .integer(Int64($0.minutes)),
                    "unreviewed": .integer(Int64($0.unreviewed)),
                ])
            },
            "revoked": revoked ? true : nil,
        ])
    }

    init(_ facts: inout Facts) throws(QuestionError) {
        self.init(
            now: try facts.timestamp("now"), dataset: try facts.identifier("dataset"),
            requester: try facts.identifier("requester"), purpose: try Purpose(facts.object("purpose")),
            termMonths: try facts.integerIfPresent("termMonths", in: 1...1200),
            country: try facts.countryIfPresent("country"),
            institution: try facts.lineIfPresent("institution"), project: try facts.lineIfPresent("project"),
            documents: try facts.objects("documents", Document.init),
            agreements: try facts.terms("agreements", of: "DUO"),
            visas: try facts.objects("visas", Visa.init),
            authors: try facts.identifiers("authors"), votes: try facts.objects("votes", Vote.init),
            breakGlass: try facts.objectIfPresent("breakGlass") { emergency throws(QuestionError) in
                BreakGlass(
                    reason: try emergency.text("reason", scalarsMax: 4096),
                    minutes: try emergency.integer("minutes", in: 1...1440),
                    unreviewed: try emergency.integer("unreviewed"))
            }, people: try facts.identifiersIfPresent("people"))
        revoked = try facts.flagIfPresent("revoked") ?? false
    }
}

extension AccessQuestion.Visa {
    package var json: JSON {
        object(["type": .string(type), "by": .string(by), "expires": expires.json])
    }

    fileprivate init(_ facts: inout Facts) throws(QuestionError) {
        self.init(type: try facts.text("type"), by: try facts.text("by"), expires: try facts.timestamp("expires"))
    }
}

extension AccessQuestion.Document {
    package var json: JSON {
        object([
            "kind": .string(kind), "digest": .string(digest.hex), "expires": expires?.json,
            "name": name.map { .string($0) },
        ])
    }

    /// Reads what `json` writes.
    package init(json: JSON) throws(QuestionError) {
        var facts = try Facts(json, at: "document")
        try self.init(&facts)
        try facts.end()
    }

    fileprivate init(_ facts: inout Facts) throws(QuestionError) {
        self.init(
            kind: try facts.name("kind"), digest: try facts.digest("digest"),
            expires: try facts.timestampIfPresent("expires"), name: try facts.lineIfPresent("name"))
    }
}

extension RunQuestion {
    package var input: JSON {
        object([
            "ask": "run", "now": now.json, "run": run.json, "dataset": dataset.json, "requester": requester.json,
            "purpose": purpose.json, "target": .string(target), "cohort": .integer(Int64(cohort)),
            "hoursUsed": .integer(Int64(hoursUsed)), "hoursAsked": .integer(Int64(hoursAsked)),
            "grant": grant.map {
                object([
                    "id": $0.id.json, "dataset": $0.dataset.json, "holder": $0.holder.json,
                    "purpose": $0.purpose.json, "granted": $0.granted.json, "expires": $0.expires.json,
                    "revoked": .bool($0.revoked), "obligations": .array($0.obligations.map(\.json)),
                    "people": list($0.people.map(\.json)), "documents": list($0.documents.map(\.json)),
                    "emergency": $0.isEmergency ? true : nil,
                    "country": $0.country.map { .string($0) }, "institution": $0.institution.map { .string($0) },
                    "project": $0.project.map { .string($0) },
                ])
            },
            "device": device.map {
                object([
                    "node": $0.node.json, "pool": .string($0.pool), "evidence": .string($0.evidence.rawValue),
                    "rttMicroseconds": $0.rttMicroseconds.map { .integer(Int64($0)) },
                ])
            },
            "visas": visas.isEmpty ? nil : .array(visas.map(\.json)),
        ])
    }

    init(_ facts: inout Facts) throws(QuestionError) {
        self.init(
            now: try facts.timestamp("now"), run: try facts.identifier("run"),
            dataset: try facts.identifier("dataset"), requester: try facts.identifier("requester"),
            purpose: try Purpose(facts.object("purpose")), target: try facts.text("target"),
            grant: try facts.objectIfPresent("grant") { grant throws(QuestionError) in
                Grant(
                    id: try grant.identifier("id"), dataset: try grant.identifier("dataset"),
                    holder: try grant.identifier("holder"), purpose: try Purpose(grant.object("purpose")),
                    granted: try grant.timestamp("granted"), expires: try grant.timestamp("expires"),
                    revoked: try grant.flag("revoked"),
                    obligations: try grant.objects("obligations", Obligation.init),
                    isEmergency: try grant.flagIfPresent("emergency") ?? false,
                    country: try grant.countryIfPresent("country"),
                    institution: try grant.lineIfPresent("institution"), project: try grant.lineIfPresent("project"),
                    people: try grant.identifiersIfPresent("people"),
                    documents: try grant.objectsIfPresent("documents", AccessQuestion.Document.init))
            },
            cohort: try facts.integer("cohort"),
            device: try facts.objectIfPresent("device") { device throws(QuestionError) in
                Device(
                    node: try device.identifier("node"), pool: try device.text("pool"),
                    evidence: try device.choice("evidence"),
                    rttMicroseconds: try device.integerIfPresent("rttMicroseconds"))
            },
            hoursUsed: try facts.integer("hoursUsed"), hoursAsked: try facts.integer("hoursAsked"))
        visas = try facts.objectsIfPresent("visas", AccessQuestion.Visa.init)
    }
}

extension ProgressQuestion {
    package var input: JSON {
        object([
            "ask": "progress", "dataset": dataset.json, "run": run.json, "viewer": viewer.json,
            "figure": .string(figure.rawValue), "cohort": .integer(Int64(cohort)),
        ])
    }

    init(_ facts: inout Facts) throws(QuestionError) {
        self.init(
            dataset: try facts.identifier("dataset"), run: try facts.identifier("run"),
            viewer: try facts.identifier("viewer"), figure: try facts.choice("figure"),
            cohort: try facts.integer("cohort"))
    }
}

extension ReleaseQuestion {
    package var input: JSON {
        object([
            "ask": "release", "now": now.json, "dataset": dataset.json, "run": run.json,
            "researcher": researcher.json, "candidate": .string(candidate.hex), "cohort": .integer(Int64(cohort)),
            "checks": .array(
                checks.map { object(["check": .string($0.check.rawValue), "passed": .bool($0.passed)]) }),
            "votes": .array(votes.map(\.json)),
        ])
    }

    init(_ facts: inout Facts) throws(QuestionError) {
        self.init(
            now: try facts.timestamp("now"), dataset: try facts.identifier("dataset"),
            run: try facts.identifier("run"), researcher: try facts.identifier("researcher"),
            candidate: try facts.digest("candidate"), cohort: try facts.integer("cohort"),
            checks: try facts.objects("checks") { check throws(QuestionError) in
                Check(check: try check.choice("check"), passed: try check.flag("passed"))
            },
            votes: try facts.objects("votes", Vote.init))
    }
}

extension Purpose {
    package var json: JSON {
        object([
            "codes": .array(codes.map { .string($0) }), "diseases": .array(diseases.map { .string($0) }),
            "ancestry": ancestry.map { .bool($0) }, "methods": methods.map { .bool($0) },
            "commercial": commercial.map { .bool($0) }, "notForProfit": notForProfit.map { .bool($0) },
            "genetic": genetic.map { .bool($0) }, "researchTypes": .array(researchTypes.map { .string($0) }),
        ])
    }

    /// Reads what `json` writes; for case records and request forms.
    package init(json: JSON) throws(QuestionError) { try self.init(Facts(json, at: "purpose")) }

    fileprivate init(_ purpose: Facts) throws(QuestionError) {
        var facts = purpose
        self.init(
            codes: try facts.terms("codes", of: "DUO"), diseases: try facts.termsIfPresent("diseases", of: "MONDO"),
            ancestry: try facts.flagIfPresent("ancestry"), methods: try facts.flagIfPresent("methods"),
            commercial: try facts.flagIfPresent("commercial"),
            notForProfit: try facts.flagIfPresent("notForProfit"), genetic: try facts.flagIfPresent("genetic"),
            researchTypes: try facts.namesIfPresent("researchTypes"))
        try facts.end()
    }
}

extension Vote {
    package var json: JSON {
        object([
            "person": person.json, "role": .string(role), "approves": .bool(approves),
            "conditions": list(conditions.map(\.json)),
        ])
    }

    fileprivate init(_ facts: inout Facts) throws(QuestionError) {
        self.init(
            person: try facts.identifier("person"), role: try facts.text("role"),
            approves: try facts.flag("approves"),
            conditions: try facts.objectsIfPresent("conditions", Condition.init))
    }
}

extension Condition {
    /// Reads what `json` writes.
    package init(json: JSON) throws(QuestionError) {
        var facts = try Facts(json, at: "condition")
        try self.init(&facts)
        try facts.end()
    }

    fileprivate init(_ facts: inout Facts) throws(QuestionError) {
        let kind: Kind = try facts.choice("code")
        try self.init(kind, facts.text("value"))
    }
}

extension Obligation {
    /// Reads what `json` writes.
    package init(json: JSON) throws(QuestionError) {
        var facts = try Facts(json, at: "obligation")
        try self.init(&facts)
        try facts.end()
    }

    fileprivate init(_ facts: inout Facts) throws(QuestionError) {
        self.init(code: try facts.choice("code"), rule: try facts.text("rule"), value: try facts.text("value"))
    }
}

// MARK: - Writing and reading members

/// An object without its absent members.
private func object(_ members: [String: JSON?]) -> JSON { .object(members.compactMapValues { $0 }) }

/// A list that is left out when it is empty, so that inputs recorded before there was one read and hash as ever.
private func list(_ elements: [JSON]) -> JSON? { elements.isEmpty ? nil : .array(elements) }

extension Timestamp {
    fileprivate var json: JSON { .string(description) }
}

extension Identifier {
    fileprivate var json: JSON { .string(text) }
}

/// What has only a name here: an institution, a project, a kind of document.
private enum Name {}

/// The members of one object, taken one by one; `end` refuses any that nobody took.
struct Facts {
    private var members: [String: JSON]
    private let path: String

    init(_ json: JSON, at path: String) throws(QuestionError) {
        guard let members = json.objectValue else { throw QuestionError(member: path, reason: "must be an object") }
        self.members = members
        self.path = path
    }

    func end() throws(QuestionError) {
        if let name = members.keys.min() {
            throw QuestionError(member: path, reason: "unknown member '\(shown(name))'")
        }
    }

    private func wrong(_ name: String, _ reason: String) -> QuestionError {
        QuestionError(member: "\(path).\(name)", reason: reason)
    }

    private mutating func take(_ name: String) throws(QuestionError) -> JSON {
        guard let value = members.removeValue(forKey: name) else { throw wrong(name, "is missing") }
        return value
    }

    mutating func text(_ name: String, scalarsMax: Int = .max) throws(QuestionError) -> String {
        guard let text = try take(name).stringValue else { throw wrong(name, "must be a string") }
        guard text.unicodeScalars.count <= scalarsMax else {
            throw wrong(name, "must be at most \(scalarsMax) characters")
        }
        return text
    }

    mutating func textIfPresent(_ name: String) throws(QuestionError) -> String? {
        members[name] == nil ? nil : try text(name)
    }

    /// A text that is formed like an identifier.
    mutating func name(_ name: String) throws(QuestionError) -> String {
        let checked: Identifier<Name> = try identifier(name)
        return checked.text
    }

    /// Words on one line, in any script.
    mutating func lineIfPresent(_ name: String) throws(QuestionError) -> String? {
        guard members[name] != nil else { return nil }
        let text = try text(name)
        let scalars = text.unicodeScalars
        guard (1...Self.lineScalarsMax).contains(scalars.count),
            scalars.allSatisfy({ $0.value >= 0x20 && $0.value != 0x7F })
        else { throw wrong(name, "must be 1 to \(Self.lineScalarsMax) characters on one line") }
        return text
    }

    mutating func integer(
        _ name: String, in range: ClosedRange<Int> = -Int(JSON.integerMax)...Int(JSON.integerMax)
    ) throws(QuestionError) -> Int {
        guard let number = try take(name).integerValue else { throw wrong(name, "must be an integer") }
        guard range.contains(Int(number)) else {
            throw wrong(name, "must be from \(range.lowerBound) to \(range.upperBound)")
        }
        return Int(number)
    }

    mutating func integerIfPresent(
        _ name: String, in range: ClosedRange<Int> = 0...Int(JSON.integerMax)
    ) throws(QuestionError) -> Int? {
        members[name] == nil ? nil : try integer(name, in: range)
    }

    /// ISO 3166-1, two capital letters.
    mutating func countryIfPresent(_ name: String) throws(QuestionError) -> String? {
        guard members[name] != nil else { return nil }
        let text = try text(name)
        guard text.utf8.count == 2, text.utf8.allSatisfy((UInt8(ascii: "A")...UInt8(ascii: "Z")).contains) else {
            throw wrong(name, "must be a country's two capital letters, such as JP")
        }
        return text
    }

    mutating func flag(_ name: String) throws(QuestionError) -> Bool {
        guard let flag = try take(name).boolValue else { throw wrong(name, "must be true or false") }
        return flag
    }

    mutating func flagIfPresent(_ name: String) throws(QuestionError) -> Bool? {
        members[name] == nil ? nil : try flag(name)
    }

    mutating func timestamp(_ name: String) throws(QuestionError) -> Timestamp {
        guard let time = Timestamp(try text(name)) else {
            throw wrong(name, "must be a time such as 2026-11-21T09:30:00.000Z")
        }
        return time
    }

    mutating func timestampIfPresent(_ name: String) throws(QuestionError) -> Timestamp? {
        members[name] == nil ? nil : try timestamp(name)
    }

    mutating func digest(_ name: String) throws(QuestionError) -> Digest {
        guard let digest = Digest(hex: try text(name)) else { throw wrong(name, "must be 64 hexadecimal digits") }
        return digest
    }

    mutating func identifier<Noun>(_ name: String) throws(QuestionError) -> Identifier<Noun> {
        let text = try text(name)
        do throws(IdentifierError) {
            return try Identifier(text)
        } catch {
            throw wrong(name, error.description)
        }
    }

    mutating func choice<Choice: RawRepresentable>(
        _ name: String
    ) throws(QuestionError) -> Choice where Choice.RawValue == String {
        guard let choice = Choice(rawValue: try text(name)) else { throw wrong(name, "is not a known value") }
        return choice
    }

    private static let elementsMax = 256
    private static let lineScalarsMax = 200

    private mutating func elements(_ name: String) throws(QuestionError) -> [JSON] {
        guard let elements = try take(name).arrayValue else { throw wrong(name, "must be a list") }
        guard elements.count <= Self.elementsMax else {
            throw wrong(name, "must be a list of at most \(Self.elementsMax)")
        }
        return elements
    }

    mutating func texts(_ name: String) throws(QuestionError) -> [String] {
        var texts: [String] = []
        for element in try elements(name) {
            guard let text = element.stringValue else { throw wrong(name, "must be a list of strings") }
            texts.append(text)
        }
        return texts
    }

    /// Terms of an ontology, such as DUO:0000042. Whether there is one of that number, policy says.
    mutating func terms(_ name: String, of ontology: String) throws(QuestionError) -> [String] {
        let texts = try texts(name)
        for text in texts {
            let number = text.utf8.dropFirst(ontology.utf8.count + 1)
            guard text.hasPrefix("\(ontology):"), number.count == 7,
                number.allSatisfy((UInt8(ascii: "0")...UInt8(ascii: "9")).contains)
            else { throw wrong(name, "must be terms such as \(ontology):0000042") }
        }
        return texts
    }

    mutating func termsIfPresent(_ name: String, of ontology: String) throws(QuestionError) -> [String] {
        members[name] == nil ? [] : try terms(name, of: ontology)
    }

    mutating func namesIfPresent(_ name: String) throws(QuestionError) -> [String] {
        guard members[name] != nil else { return [] }
        let names: [Identifier<Name>] = try identifiers(name)
        return names.map(\.text)
    }

    mutating func identifiers<Noun>(_ name: String) throws(QuestionError) -> [Identifier<Noun>] {
        var all: [Identifier<Noun>] = []
        for (index, text) in try texts(name).enumerated() {
            do throws(IdentifierError) {
                all.append(try Identifier(text))
            } catch {
                throw wrong("\(name)[\(index)]", error.description)
            }
        }
        return all
    }

    mutating func identifiersIfPresent<Noun>(_ name: String) throws(QuestionError) -> [Identifier<Noun>] {
        members[name] == nil ? [] : try identifiers(name)
    }

    mutating func object(_ name: String) throws(QuestionError) -> Facts { try Facts(take(name), at: "\(path).\(name)") }

    mutating func objectIfPresent<Value>(
        _ name: String, _ read: (inout Facts) throws(QuestionError) -> Value
    ) throws(QuestionError) -> Value? {
        guard members[name] != nil else { return nil }
        var inner = try object(name)
        let value = try read(&inner)
        try inner.end()
        return value
    }

    mutating func objectsIfPresent<Value>(
        _ name: String, _ read: (inout Facts) throws(QuestionError) -> Value
    ) throws(QuestionError) -> [Value] {
        members[name] == nil ? [] : try objects(name, read)
    }

    mutating func objects<Value>(
        _ name: String, _ read: (inout Facts) throws(QuestionError) -> Value
    ) throws(QuestionError) -> [Value] {
        var values: [Value] = []
        for (index, element) in try elements(name).enumerated() {
            var inner = try Facts(element, at: "\(path).\(name)[\(index)]")
            values.append(try read(&inner))
            try inner.end()
        }
        return values
    }
}
