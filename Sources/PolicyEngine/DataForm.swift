package import Vocabulary

import StrictYAML

/// What a data set's keepers want to know of whoever asks for it, beyond what every request says: the file
/// `NAME.form.yaml` beside the policy `NAME.yaml`, in the same signed bundle.
package struct DataForm: Sendable, Equatable {
    package static let fieldsMax = 200

    /// A form as one bundle holds it. Answers say which version they answer.
    package struct Version: Sendable, Equatable {
        package let form: DataForm
        /// SHA-256 of the file.
        package let digest: Digest

        /// As the API gives it.
        package var json: JSON {
            .object((form.json.objectValue ?? [:]).merging(["digest": .string(digest.hex)]) { $1 })
        }
    }

    /// In English, and in Japanese where somebody has translated it.
    package struct Words: Sendable, Equatable {
        package let english: String
        package let japanese: String?

        var json: JSON { .object(["en": .string(english)].merging(japanese.map { ["ja": .string($0)] } ?? [:]) { $1 }) }
    }

    package struct Option: Sendable, Equatable {
        package let value: String
        package let label: Words
    }

    package enum Kind: Sendable, Equatable {
        case text(lengthMax: Int, lines: Int)
        case choice([Option])
        case date(earliest: CalendarDate?, latest: CalendarDate?, notPast: Bool, notFuture: Bool)
        /// Terms of an ontology, such as `MONDO:0005015`: `ontology`, a colon and seven digits.
        case code(ontology: String, countMax: Int)
        case number(min: Int, max: Int)
        /// - Parameter mustBeTrue: something to agree to.
        case boolean(mustBeTrue: Bool)
        case document(kind: String)

        package var name: String {
            switch self {
            case .text: "text"
            case .choice: "choice"
            case .date: "date"
            case .code: "code"
            case .number: "number"
            case .boolean: "boolean"
            case .document: "document"
            }
        }

        static let names = ["text", "choice", "date", "code", "number", "boolean", "document"]
    }

    package struct Field: Sendable, Equatable {
        package let id: String
        package let kind: Kind
        package let label: Words
        package let hint: Words?
        package let isRequired: Bool
    }

    package let title: Words
    package let fields: [Field]
}

// MARK: - Answers

extension DataForm {
    /// What is wrong with an answer; a closed code, so that pages say it in their reader's language.
    package struct Fault: Sendable, Equatable, CustomStringConvertible {
        package enum Code: String, CaseIterable, Sendable {
            case unknown, missing, kind
            case tooLong = "too-long"
            case control = "control-character"
            case option, date
            case tooEarly = "too-early"
            case tooLate = "too-late"
            case past, future, code, range, agree, document, expired
        }

        package let field: String
        package let code: Code
        /// In English; never repeats the answer.
        package let text: String

        package var description: String { "answers.\(field): \(text)" }
    }

    /// Everything that is wrong with `answers`, in the form's order; none means that they may be kept.
    ///
    /// - Parameter now: decides what is past.
    package func faults(in answers: JSON, now: Timestamp) -> [Fault] {
        guard let given = answers.objectValue else {
            return [Fault(field: "", code: .kind, text: "must be an object with the form's fields")]
        }
        var faults: [Fault] = []
        for field in fields {
            guard let answer = given[field.id] else {
                if field.isRequired { faults.append(Fault(field: field.id, code: .missing, text: "is missing")) }
                continue
            }
            if let fault = field.fault(answer, now: now) { faults.append(fault) }
        }
        let known = Set(fields.map(\.id))
        for name in given.keys.sorted() where !known.contains(name) {
            faults.append(Fault(field: shown(name), code: .unknown, text: "is not a field of this form"))
        }
        return faults
    }
}

extension DataForm.Field {
    fileprivate func fault(_ answer: JSON, now: Timestamp) -> DataForm.Fault? {
        func fault(_ code: DataForm.Fault.Code, _ text: String) -> DataForm.Fault {
            DataForm.Fault(field: id, code: code, text: text)
        }
        switch kind {
        case .text(let lengthMax, let lines):
            guard let text = answer.stringValue else { return fault(.kind, "must be a text") }
            let scalars = text.unicodeScalars
            if scalars.isEmpty { return isRequired ? fault(.missing, "is empty") : nil }
            if scalars.count > lengthMax { return fault(.tooLong, "must be at most \(lengthMax) characters") }
            let isClean = scalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F || $0 == "\n" && lines > 1 }
            return isClean ? nil : fault(.control, lines > 1 ? "holds a control character" : "must be on one line")
        case .choice(let options):
            guard let text = answer.stringValue, options.contains(where: { $0.value == text }) else {
                return fault(.option, "must be one of \(options.map(\.value).joined(separator: ", "))")
            }
        case .date(let earliest, let latest, let notPast, let notFuture):
            guard let day = answer.stringValue.flatMap({ CalendarDate($0) }) else {
                return fault(.date, "must be a day such as 2027-01-31")
            }
            if let earliest, day < earliest { return fault(.tooEarly, "must not be before \(earliest)") }
            if let latest, day > latest { return fault(.tooLate, "must not be after \(latest)") }
            if notPast, Timestamp(day).adding(seconds: 86_400) <= now { return fault(.past, "is in the past") }
            if notFuture, Timestamp(day) > now { return fault(.future, "is in the future") }
        case .code(let ontology, let countMax):
            guard let codes = answer.arrayValue, codes.count <= countMax else {
                return fault(.code, "must be a list of at most \(countMax) codes")
            }
            if codes.isEmpty, isRequired { return fault(.missing, "is empty") }
            guard codes.allSatisfy({ Self.isTerm($0.stringValue ?? "", of: ontology) }) else {
                return fault(.code, "must be codes such as \(ontology):0000001")
            }
            if Set(codes).count != codes.count { return fault(.code, "names a code twice") }
        case .number(let min, let max):
            guard let number = answer.integerValue, (Int64(min)...Int64(max)).contains(number) else {
                return fault(.range, "must be a whole number from \(min) to \(max)")
            }
        case .boolean(let mustBeTrue):
            guard let flag = answer.boolValue else { return fault(.kind, "must be true or false") }
            if mustBeTrue, !flag { return fault(.agree, "must be agreed to") }
        case .document(let wanted):
            guard let document = try? AccessQuestion.Document(json: answer), document.kind == wanted else {
                return fault(.document, "must be a document of kind \(wanted) with the SHA-256 of its bytes")
            }
            if let expires = document.expires, expires <= now { return fault(.expired, "has expired") }
        }
        return nil
    }

    private static func isTerm(_ text: String, of ontology: String) -> Bool {
        let number = text.utf8.dropFirst(ontology.utf8.count + 1)
        return text.hasPrefix("\(ontology):") && number.count == 7
            && number.allSatisfy((UInt8(ascii: "0")...UInt8(ascii: "9")).contains)
    }
}

// MARK: - For clients and editors

extension DataForm {
    fileprivate var json: JSON {
        [
            "title": title.json,
            "fields": .array(
                fields.map { field in
                    var members: [String: JSON] = [
                        "id": .string(field.id), "kind": .string(field.kind.name), "label": field.label.json,
                        "required": .bool(field.isRequired),
                    ]
                    members["hint"] = field.hint?.json
                    switch field.kind {
                    case .text(let lengthMax, let lines):
                        members["length_max"] = .integer(Int64(lengthMax))
                        members["lines"] = .integer(Int64(lines))
                    case .choice(let options):
                        members["options"] = .array(
                            options.map { ["value": .string($0.value), "label": $0.label.json] })
                    case .date(let earliest, let latest, let notPast, let notFuture):
                        members["earliest"] = earliest.map { .string($0.description) }
                        members["latest"] = latest.map { .string($0.description) }
                        members["not_past"] = .bool(notPast)
                        members["not_future"] = .bool(notFuture)
                    case .code(let ontology, let countMax):
                        members["ontology"] = .string(ontology)
                        members["count_max"] = .integer(Int64(countMax))
                    case .number(let min, let max):
                        members["min"] = .integer(Int64(min))
                        members["max"] = .integer(Int64(max))
                    case .boolean(let mustBeTrue): members["must_be_true"] = .bool(mustBeTrue)
                    case .document(let kind): members["document"] = .string(kind)
                    }
                    return .object(members)
                }),
        ]
    }

    /// JSON Schema of a form's file, for editors; `policies/form.schema.json` is this.
    package static let schema: JSON = {
        let identifier: JSON = ["type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"]
        let words: JSON = [
            "type": "object", "required": ["en"], "additionalProperties": false,
            "properties": [
                "en": ["type": "string", "minLength": 1, "maxLength": .integer(Int64(Limit.words))],
                "ja": ["type": "string", "minLength": 1, "maxLength": .integer(Int64(Limit.words))],
            ],
        ]
        let day: JSON = ["type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"]
        func whole(_ range: ClosedRange<Int>) -> JSON {
            [
                "type": "integer", "minimum": .integer(Int64(range.lowerBound)),
                "maximum": .integer(Int64(range.upperBound)),
            ]
        }
        func field(_ kind: String, _ required: [JSON], _ own: [String: JSON]) -> JSON {
            let common: [String: JSON] = [
                "id": ["$ref": "#/$defs/identifier"], "kind": ["const": .string(kind)],
                "label": ["$ref": "#/$defs/words"],
                "hint": ["$ref": "#/$defs/words"], "required": ["type": "boolean"],
            ]
            return [
                "type": "object", "required": .array(["id", "kind", "label"] + required), "additionalProperties": false,
                "properties": .object(common.merging(own) { $1 }),
            ]
        }
        let option: JSON = [
            "type": "object", "required": ["value", "label"], "additionalProperties": false,
            "properties": ["value": ["$ref": "#/$defs/identifier"], "label": ["$ref": "#/$defs/words"]],
        ]
        let kinds: [JSON] = [
            field("text", [], ["length_max": whole(Limit.length), "lines": whole(Limit.lines)]),
            field(
                "choice", ["options"],
                [
                    "options": [
                        "type": "array", "minItems": 1, "maxItems": .integer(Int64(Limit.options)), "items": option,
                    ]
                ]),
            field(
                "date", [],
                [
                    "earliest": day, "latest": day, "not_past": ["type": "boolean"], "not_future": ["type": "boolean"],
                ]),
            field(
                "code", ["ontology"],
                ["ontology": ["type": "string", "pattern": "^[A-Z]{2,10}$"], "count_max": whole(Limit.codes)]),
            field("number", [], ["min": whole(Limit.number), "max": whole(Limit.number)]),
            field("boolean", [], ["must_be_true": ["type": "boolean"]]),
            field("document", ["document"], ["document": ["$ref": "#/$defs/identifier"]]),
        ]
        return [
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A data set's request form",
            "type": "object", "required": ["version", "title", "fields"], "additionalProperties": false,
            "properties": [
                "version": ["const": 1], "title": ["$ref": "#/$defs/words"],
                "fields": [
                    "type": "array", "minItems": 1, "maxItems": .integer(Int64(fieldsMax)),
                    "items": ["oneOf": .array(kinds)],
                ],
            ], "$defs": ["identifier": identifier, "words": words],
        ]
    }()

    fileprivate enum Limit {
        static let words = 1000
        static let length = 1...10_000
        static let lines = 1...50
        static let options = 200
        static let codes = 1...100
        static let number = -1_000_000_000...1_000_000_000
    }
}

// MARK: - Reading

extension PolicyReader {
    /// `NAME.form.yaml`.
    mutating func form(_ root: YAMLValue) -> DataForm? {
        let before = findings.count
        guard let file = fields(root, at: "", required: ["version", "title", "fields"], optional: []) else {
            return nil
        }
        version(file)
        let title = file["title"].flatMap { words($0, at: "title") }
        let elements = file["fields"].flatMap { sequence($0, "fields", empty: false) } ?? []
        if elements.count > DataForm.fieldsMax, let place = file["fields"] {
            add(.valueRange, place, "a form has at most \(DataForm.fieldsMax) fields")
            return nil
        }
        var all: [DataForm.Field] = []
        var seen: Set<String> = []
        for (number, element) in elements.enumerated() {
            guard let field = field(element, at: "fields[\(number)]") else { continue }
            // `Name` and `name` would be told apart by programs and by nobody else.
            if !seen.insert(field.id.lowercased()).inserted {
                add(.valueRepeated, element, "the field '\(shown(field.id))' is given twice")
            }
            all.append(field)
        }
        guard findings.count == before, let title else { return nil }
        return DataForm(title: title, fields: all)
    }

    private mutating func field(_ element: YAMLValue, at path: String) -> DataForm.Field? {
        guard case .mapping(let pairs) = element.content,
            let kindValue = pairs.first(where: { $0.key.text == "kind" })?.value, let kindName = kindValue.text
        else {
            add(.keyMissing, element, "a field has an 'id', a 'kind' and a 'label'")
            return nil
        }
        let own: (required: [String], optional: [String])
        switch kindName {
        case "text": own = ([], ["length_max", "lines"])
        case "choice": own = (["options"], [])
        case "date": own = ([], ["earliest", "latest", "not_past", "not_future"])
        case "code": own = (["ontology"], ["count_max"])
        case "number": own = ([], ["min", "max"])
        case "boolean": own = ([], ["must_be_true"])
        case "document": own = (["document"], [])
        default:
            let hint = suggestion(for: kindName, among: DataForm.Kind.names)
            add(.valueUnknown, kindValue, "unknown kind of field '\(shown(kindName))'\(hint)")
            return nil
        }
        guard
            let members = fields(
                element, at: path, required: ["id", "kind", "label"] + own.required,
                optional: ["hint", "required"] + own.optional)
        else { return nil }
        let before = findings.count
        let id = members["id"].flatMap { word($0) }
        let label = members["label"].flatMap { words($0, at: "\(path).label") }
        let hint = members["hint"].flatMap { words($0, at: "\(path).hint") }
        let isRequired = members["required"].flatMap { flag($0, "required") } ?? false
        let kind = kind(kindName, members, element, at: path)
        guard findings.count == before, let id, let label, let kind else { return nil }
        return DataForm.Field(id: id, kind: kind, label: label, hint: hint, isRequired: isRequired)
    }

    private mutating func kind(
        _ name: String, _ members: [String: YAMLValue], _ element: YAMLValue, at path: String
    ) -> DataForm.Kind? {
        func has(_ name: String) -> Bool { members[name] != nil }
        switch name {
        case "text":
            return .text(
                lengthMax: members["length_max"].flatMap { integer($0, "length_max", DataForm.Limit.length) } ?? 1000,
                lines: members["lines"].flatMap { integer($0, "lines", DataForm.Limit.lines) } ?? 1)
        case "choice": return members["options"].flatMap { options($0, at: path) }.map { .choice($0) }
        case "date":
            let earliest = members["earliest"].flatMap { day($0, "earliest") }
            let latest = members["latest"].flatMap { day($0, "latest") }
            if let earliest, let latest, latest < earliest, let place = members["latest"] {
                add(.policyConflict, place, "'latest' is before 'earliest'")
            }
            let notPast = members["not_past"].flatMap { flag($0, "not_past") } ?? false
            let notFuture = members["not_future"].flatMap { flag($0, "not_future") } ?? false
            return .date(earliest: earliest, latest: latest, notPast: notPast, notFuture: notFuture)
        case "code":
            guard let place = members["ontology"], let ontology = text(place, "ontology") else { return nil }
            guard (2...10).contains(ontology.utf8.count),
                ontology.utf8.allSatisfy((UInt8(ascii: "A")...UInt8(ascii: "Z")).contains)
            else {
                add(.valueRange, place, "an ontology is 2 to 10 capital letters, such as MONDO")
                return nil
            }
            let count = members["count_max"].flatMap { integer($0, "count_max", DataForm.Limit.codes) } ?? 20
            return .code(ontology: ontology, countMax: count)
        case "number":
            let least = members["min"].flatMap { integer($0, "min", DataForm.Limit.number) }
            let most = members["max"].flatMap { integer($0, "max", DataForm.Limit.number) }
            let range = (least ?? 0, most ?? DataForm.Limit.number.upperBound)
            if range.1 < range.0 { add(.policyConflict, members["max"] ?? element, "'max' is less than 'min'") }
            return .number(min: range.0, max: range.1)
        case "boolean":
            return .boolean(mustBeTrue: members["must_be_true"].flatMap { flag($0, "must_be_true") } ?? false)
        default: return members["document"].flatMap { word($0) }.map { .document(kind: $0) }
        }
    }

    private mutating func options(_ value: YAMLValue, at path: String) -> [DataForm.Option]? {
        guard let elements = sequence(value, "options", empty: false) else { return nil }
        guard elements.count <= DataForm.Limit.options else {
            add(.valueRange, value, "a choice has at most \(DataForm.Limit.options) options")
            return nil
        }
        var options: [DataForm.Option] = []
        for element in elements {
            guard let members = fields(element, at: "\(path).options", required: ["value", "label"], optional: []),
                let option = members["value"].flatMap({ word($0) }),
                let label = members["label"].flatMap({ words($0, at: "\(path).options") })
            else { continue }
            if options.contains(where: { $0.value == option }) {
                add(.valueRepeated, element, "the option '\(shown(option))' is given twice")
            }
            options.append(DataForm.Option(value: option, label: label))
        }
        return options
    }

    private mutating func words(_ value: YAMLValue, at path: String) -> DataForm.Words? {
        guard let members = fields(value, at: path, required: ["en"], optional: ["ja"]) else { return nil }
        var texts: [String: String] = [:]
        for (language, place) in members.sorted(by: { $0.key < $1.key }) {
            guard let text = text(place, language) else { return nil }
            guard text.unicodeScalars.count <= DataForm.Limit.words else {
                add(.valueRange, place, "'\(language)' must not be longer than \(DataForm.Limit.words) characters")
                return nil
            }
            texts[language] = text
        }
        return texts["en"].map { DataForm.Words(english: $0, japanese: texts["ja"]) }
    }

    private mutating func day(_ value: YAMLValue, _ name: String) -> CalendarDate? {
        guard let day = value.text.flatMap({ CalendarDate($0) }) else {
            add(.valueRange, value, "'\(name)' must be a day such as 2027-01-31")
            return nil
        }
        return day
    }
}
