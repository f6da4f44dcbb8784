import Vocabulary

/// One field of a form as the template `field` shows it: label, hint, what was typed, what is wrong with it.
struct FormField {
    enum Kind {
        /// - Parameter attributes: further attributes of the input, such as `maxlength`.
        case text(type: String = "text", attributes: [String: String] = [:])
        case area(rows: Int, max: Int)
        case choice([(value: String, name: String)])
    }

    let id: String
    let label: String
    let kind: Kind
    var value: String
    var hint: String?
    var fault: String?
    var isOptional = true

    var content: [String: Any] {
        var content: [String: Any] = ["id": id, "label": label, "value": value, "isOptional": isOptional]
        content["hint"] = hint
        content["fault"] = fault
        let described = (hint == nil ? [] : ["\(id)-hint"]) + (fault == nil ? [] : ["\(id)-fault"])
        if !described.isEmpty { content["describedBy"] = described.joined(separator: " ") }
        switch kind {
        case .text(let type, let attributes):
            content["isText"] = true
            content["type"] = type
            content["attributes"] = attributes.sorted { $0.key < $1.key }.map { ["name": $0.key, "value": $0.value] }
        case .area(let rows, let max):
            content["isArea"] = true
            content["rows"] = "\(rows)"
            content["attributes"] = [["name": "maxlength", "value": "\(max)"]]
        case .choice(let options):
            content["isChoice"] = true
            content["options"] = options.map {
                ["value": $0.value, "name": $0.name, "isChosen": $0.value == value] as [String: Any]
            }
        }
        return content
    }
}

/// What is wrong with a form that came back, field by field in the form's order.
struct FormFaults {
    private(set) var byField: [String: String] = [:]
    private(set) var order: [String] = []

    var isEmpty: Bool { order.isEmpty }

    subscript(id: String) -> String? { byField[id] }

    mutating func add(_ id: String, _ words: String) {
        if byField.updateValue(words, forKey: id) == nil { order.append(id) }
    }
}

/// Labels of all fields that a form of ours can carry, for what was typed before a session ended.
enum FieldName {
    /// - Returns: `nil` for what people do not type, such as the form's own number.
    static func label(_ id: String, _ words: Words) -> String? { keys[id].map { words($0) } }

    static func key(_ id: String) -> String { keys[id]! }

    private static let keys: [String: String] = [
        "dataset": "request.dataset", "purpose": "request.purpose", "diseases": "request.diseases",
        "ancestry": "request.fact.ancestry", "methods": "request.fact.methods",
        "commercial": "request.fact.commercial", "notForProfit": "request.fact.notForProfit",
        "genetic": "request.fact.genetic", "termMonths": "request-new.term", "country": "request.country",
        "institution": "request.institution", "project": "request.project", "agreements": "request.agreements",
        "ethicsDigest": "request-new.digest", "ethicsExpires": "request-new.expires", "verdict": "review.verdict",
        "comment": "review.comment", "people": "request.people", "ethicsName": "act.document.name",
        "reason": "act.withdraw.reason", "report": "act.close.report", "documentKind": "act.document.kind",
        "documentDigest": "request-new.digest", "documentName": "act.document.name", "grant": "run-new.grant",
        "specification": "run-new.specification",
        "id": "run-new.id", "memory": "run-new.memory", "range": "export.range",
        "reason": "access.reason", "finding": "emergency.finding", "passport": "passport.text",
        "requester": "policies.decide-requester", "ethics": "policies.decide-ethics",
        "agreed": "policies.decide-agreed", "votes": "policies.decide-votes", "question": "policies.question",
        "signature": "policies.signature", "key": "policies.key", "content": "policies.text",
        "accept": "take.accept",
    ]
}

extension Site {
    /// For the template `fault`.
    static func fault(
        _ what: String, detail: String? = nil, _ faults: FormFaults = FormFaults(), kept: String, _ words: Words
    ) -> [String: Any] {
        var content: [String: Any] = [
            "what": what, "kept": kept, "hasFaults": !faults.isEmpty,
            "faults": faults.order.map { id in
                // The first radio button of a group is where its mistake is mended.
                [
                    "id": id == "verdict" ? "verdict-approve" : id, "label": FieldName.label(id, words) ?? id,
                    "words": faults[id] ?? "",
                ]
            },
        ]
        content["detail"] = detail ?? false
        return content
    }
}
