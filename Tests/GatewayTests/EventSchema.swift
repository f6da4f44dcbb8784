import AuditTrail
import Foundation
import Testing
import Vocabulary

/// A published schema of one document: `audit/NAME.schema.json`, whose definition `NAME` is the document.
struct PublishedSchema {
    private let name: String
    private let schema: EventSchema

    init(_ name: String) throws {
        self.name = name
        schema = try EventSchema(
            file: EventSchema.file.deletingLastPathComponent().appendingPathComponent("\(name).schema.json"))
    }

    /// What is wrong with a document; `nil` when it fits.
    func objection(to document: JSON) throws -> String? {
        schema.objection(to: document, try #require(schema.definitions[name]), at: name)
    }
}

/// `audit/events.schema.json`, and as much of JSON Schema 2020-12 as it uses.
struct EventSchema: Sendable {
    static let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../audit/events.schema.json")
    static let shared = Result { try EventSchema() }

    let definitions: [String: JSON]

    fileprivate init(file: URL = file) throws {
        let schema = try JSON(parsing: [UInt8](Data(contentsOf: file)))
        definitions = try #require(schema["$defs"]?.objectValue)
    }

    /// The events that the schema knows.
    var events: Set<String> { Set(definitions.filter { $0.value["properties"]?["event"] != nil }.keys) }

    /// What is wrong with a record's core; `nil` when it fits its event's schema.
    func objection(to core: JSON) -> String? {
        guard let event = core["event"]?.stringValue, let schema = definitions[event] else { return "unknown event" }
        return objection(to: core, schema, at: event)
    }

    fileprivate func objection(to value: JSON, _ schema: JSON, at place: String) -> String? {
        if let name = schema["$ref"]?.stringValue {
            guard let other = definitions[String(name.dropFirst("#/$defs/".count))] else {
                return "\(place): no \(name)"
            }
            return objection(to: value, other, at: place)
        }
        for (keyword, wanted) in schema.objectValue ?? [:] {
            if let words = broken(keyword, wanted, value, schema, place) { return words }
        }
        return nil
    }

    private func broken(_ keyword: String, _ wanted: JSON, _ value: JSON, _ schema: JSON, _ place: String) -> String? {
        switch keyword {
        case "description": return nil
        case "anyOf":
            let fits = wanted.arrayValue!.contains { objection(to: value, $0, at: place) == nil }
            return fits ? nil : "\(place) is none of what it may be"
        case "type":
            let kind =
                switch value {
                case .null: "null"
                case .bool: "boolean"
                case .integer: "integer"
                case .string: "string"
                case .array: "array"
                case .object: "object"
                }
            return wanted == .string(kind) ? nil : "\(place) is not of type \(wanted.canonicalText)"
        case "const": return wanted == value ? nil : "\(place) is not \(wanted.canonicalText)"
        case "enum":
            return wanted.arrayValue!.contains(value) ? nil : "\(place): \(value.canonicalText) is not in its list"
        case "pattern":
            let text = value.stringValue ?? ""
            let found = text.range(of: wanted.stringValue!, options: .regularExpression)
            return found != nil ? nil : "\(place): '\(text)' does not have its form"
        case "minimum":
            return (value.integerValue ?? .min) >= wanted.integerValue! ? nil : "\(place) is too small"
        case "maximum":
            return (value.integerValue ?? .max) <= wanted.integerValue! ? nil : "\(place) is too large"
        case "minItems":
            return value.arrayValue!.count >= Int(wanted.integerValue!) ? nil : "\(place) has too few items"
        case "maxItems":
            return value.arrayValue!.count <= Int(wanted.integerValue!) ? nil : "\(place) has too many items"
        case "uniqueItems":
            return Set(value.arrayValue!).count == value.arrayValue!.count ? nil : "\(place) says something twice"
        case "items":
            for (number, item) in (value.arrayValue ?? []).enumerated() {
                if let words = objection(to: item, wanted, at: "\(place)[\(number)]") { return words }
            }
            return nil
        case "required":
            let missing = wanted.arrayValue!.first { value[$0.stringValue!] == nil }
            return missing.map { "\(place) has no \($0.canonicalText)" }
        case "properties":
            for (name, member) in value.objectValue ?? [:] {
                guard let own = wanted[name] else { continue }
                if let words = objection(to: member, own, at: "\(place).\(name)") { return words }
            }
            return nil
        case "additionalProperties":
            let known = schema["properties"]?.objectValue ?? [:]
            for (name, member) in value.objectValue ?? [:] where known[name] == nil {
                if wanted == .bool(false) { return "\(place) has a member '\(name)' that is not in the schema" }
                if let words = objection(to: member, wanted, at: "\(place).\(name)") { return words }
            }
            return nil
        default: return "the test does not know the keyword \(keyword)"
        }
    }
}

@Suite struct EventSchemaTests {
    @Test("the schema knows exactly the events there are, and has no place that takes any text")
    func closed() throws {
        let schema = try EventSchema.shared.get()
        #expect(schema.events == Set(AuditEvent.allCases.map(\.rawValue)))
        func check(_ node: JSON, _ place: String) {
            if node["type"] == "string" { #expect(node["pattern"] != nil, "\(place)") }
            if node["type"] == "object" { #expect(node["additionalProperties"] != nil, "\(place)") }
            for (name, child) in node.objectValue ?? [:] { check(child, "\(place)/\(name)") }
        }
        for (name, definition) in schema.definitions { check(definition, name) }
    }

    @Test("a record with anything more, less or other than its schema says is told apart")
    func refuses() throws {
        let schema = try EventSchema.shared.get()
        let good: JSON = [
            "event": "consent.changed", "outcome": "done", "sequence": 4, "actor": "mika", "dataset": "hpo",
            "detail": ["state": "withdrawn", "payload": .string(String(repeating: "a", count: 64))],
        ]
        #expect(schema.objection(to: good) == nil)
        let changes: [([String], JSON?)] = [
            (["outcome"], "failed"), (["sequence"], "4"), (["sequence"], 0), (["actor"], nil), (["actor"], "Mika Ito"),
            (["subject"], "P:3"), (["detail", "state"], "perhaps"), (["detail", "subject"], "P:3"),
            (["detail", "payload"], "P:3"), (["detail"], nil), (["event"], "consent.forgotten"),
        ]
        for (path, value) in changes {
            var members = try #require(good.objectValue)
            if path.count == 1 {
                members[path[0]] = value
            } else {
                var inner = try #require(members[path[0]]?.objectValue)
                inner[path[1]] = value
                members[path[0]] = .object(inner)
            }
            #expect(schema.objection(to: .object(members)) != nil, "\(path)")
        }
    }
}
