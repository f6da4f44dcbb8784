import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import Vocabulary

// What becomes of a request on its pages: drafts, change, renewal, papers, its end.

extension Site {
    func registerRequestActs(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.draftPage) { request, context in
            let draft = try await gateway.draft(context.identifier("draft"), by: context.person)
            return try await newRequest(
                gateway, RequestForm.form(of: draft), context, saved: draft.saved, done: Done(request))
        }
        routes.on(.draftSave) { request, context in try await save(gateway, request, context) }
        routes.on(.draftDiscard) { _, context in
            try await gateway.discardDraft(context.identifier("draft"), by: context.person)
            return Self.redirect(to: "/requests?done=\(Done.discarded)")
        }
        routes.on(.requestChangePage) { _, context in
            let id: RequestID = try context.identifier("request")
            let form = try await gateway.requestForm(id, by: context.person)
            return try await newRequest(gateway, RequestForm.form(of: form), context, changes: id)
        }
        routes.on(.requestChange) { _, context in
            try await file(gateway, context, changes: context.identifier("request"))
        }
        act(.requestWithdraw, routes, .withdrawn) { id, form, person in
            try await gateway.withdrawRequest(id, reason: (form["reason"] ?? "").trimming(), by: person)
        }
        lead(.requestRenew, routes, .filed) { id, form, person in
            guard let months = Int((form["termMonths"] ?? "").trimming()), (1...RequestForm.monthsMax).contains(months)
            else { throw Problem.badForm }
            let next = try await gateway.renewRequest(
                id, termMonths: months, once: form["form"].map { "page:\($0)" }, by: person)
            _ = try await gateway.advance(next)
            return next
        }
        act(.requestDocument, routes, .added) { id, form, person in
            var document: [String: JSON] = [
                "kind": .string((form["documentKind"] ?? "").trimming()),
                "digest": .string((form["documentDigest"] ?? "").trimming().lowercased()),
            ]
            if let name = form["documentName"]?.trimming(), !name.isEmpty { document["name"] = .string(name) }
            try await gateway.addDocument(.object(document), to: id, by: person)
        }
        act(.requestClose, routes, .closing) { id, form, person in
            try await gateway.closeOut(
                id, report: (form["report"] ?? "").trimming(), confirmed: form["confirmed"] == "yes", by: person)
        }
        act(.closureConfirm, routes, .closed) { id, form, person in
            try await gateway.confirmClosure(id, comment: (form["comment"] ?? "").trimming(), by: person)
        }
    }

    /// A form on a request's page that does one thing; what the gateway does not take is told on that page.
    private func act(
        _ route: Route, _ routes: Routes, _ done: Done,
        _ body: @escaping @Sendable (RequestID, Form, PersonID) async throws -> Void
    ) {
        lead(route, routes, done) { id, form, person in
            try await body(id, form, person)
            return id
        }
    }

    /// - Parameter body: comes to the request whose page is shown next.
    private func lead(
        _ route: Route, _ routes: Routes, _ done: Done,
        _ body: @escaping @Sendable (RequestID, Form, PersonID) async throws -> RequestID
    ) {
        let gateway = routes.gateway
        routes.on(route) { _, context in
            let words = Words.of(context.language)
            let person = try context.person
            let id: RequestID = try context.identifier("request")
            let form = context.form
            do {
                let path = try await sent.once(form["form"], by: person) {
                    "/requests/\(try await body(id, form, person))?done=\(done)"
                }
                return Self.redirect(to: path)
            } catch let error as GatewayError where error.code == .usage || error.code == .refused {
                return try await request(
                    gateway, id, context,
                    problem: Self.fault(
                        words("form.not-taken"), detail: error.publicDescription, kept: words("request.act.nothing"),
                        words), status: .init(code: Problem(error).status))
            }
        }
    }

    // MARK: - Drafts

    /// The page's script asks for JSON and stays where it is; without one, the page comes back.
    private func save(_ gateway: Gateway, _ request: Request, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let typed = context.form
        let isScript = request.headers[.accept] == "application/json"
        let id = typed["draft"].flatMap { $0.isEmpty ? nil : $0 }
        do {
            let draft = try await gateway.saveDraft(
                RequestForm.draft(of: typed), id: id.map { try DraftID($0) },
                ifVersion: id == nil ? nil : Int(typed["version"] ?? "") ?? 0, by: context.person)
            guard isScript else { return Self.redirect(to: "/drafts/\(draft.id)?done=\(Done.saved)") }
            return Self.json(
                .ok,
                [
                    "draft": .string(draft.id.text), "version": .integer(Int64(draft.version)),
                    "words": .string(words("draft.saved", ["time": words.minute(draft.saved)])),
                ])
        } catch let error as GatewayError where [.changed, .usage, .notFound].contains(error.code) {
            let what = words(error.code == .changed ? "draft.elsewhere" : "draft.not-saved")
            let status = HTTPResponse.Status(code: Problem(error).status)
            guard isScript else {
                return try await newRequest(
                    gateway, typed, context,
                    problem: Self.fault(what, detail: error.publicDescription, kept: words("draft.kept"), words),
                    status: status)
            }
            return Self.json(status, ["words": .string(what)])
        }
    }

    private static func json(_ status: HTTPResponse.Status, _ json: JSON) -> Response {
        Response(
            status: status, headers: [.contentType: "application/json"],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: json.canonical)))
    }

    // MARK: - What a request's page offers

    /// The forms of what its viewer may do with a request now.
    static func acts(_ entry: RequestEntry, _ words: Words) -> [String: Any] {
        let path = "/requests/\(entry.id)"
        var acts: [String: Any] = ["form": formNumber(Form())]
        func field(_ id: String, _ key: String, _ kind: FormField.Kind, optional: Bool = true) -> [String: Any] {
            FormField(id: id, label: words(key), kind: kind, value: "", isOptional: optional).content
        }
        let has = Set(entry.actions)
        if has.contains(.withdraw) {
            acts["withdraw"] = [
                "action": "\(path)/withdraw",
                "field": field("reason", "act.withdraw.reason", .area(rows: 2, max: 1000)),
            ]
        }
        if has.contains(.amend) { acts["change"] = "\(path)/change" }
        if has.contains(.renew) {
            let months = FormField.Kind.text(
                type: "number", attributes: ["min": "1", "max": "\(RequestForm.monthsMax)", "inputmode": "numeric"])
            acts["renew"] = [
                "action": "\(path)/renew", "field": field("termMonths", "request-new.term", months, optional: false),
            ]
        }
        if has.contains(.addDocument) {
            acts["document"] = [
                "action": "\(path)/documents",
                "fields": [
                    field("documentKind", "act.document.kind", .text(attributes: ["maxlength": "64"]), optional: false),
                    field(
                        "documentDigest", "request-new.digest",
                        .text(attributes: ["maxlength": "64", "autocomplete": "off", "data-fingerprint": "yes"]),
                        optional: false),
                    field("documentName", "act.document.name", .text(attributes: ["maxlength": "200"])),
                ],
            ]
        }
        if has.contains(.closeOut) {
            acts["close"] = [
                "action": "\(path)/close-out",
                "field": field("report", "act.close.report", .area(rows: 4, max: 4000), optional: false),
            ]
        }
        if has.contains(.confirmClosure) {
            acts["confirm"] = [
                "action": "\(path)/confirm-closure",
                "field": field("comment", "review.comment", .area(rows: 3, max: 1000)),
            ]
        }
        return acts
    }
}

// MARK: - Forms and what they are kept as

extension RequestForm {
    private static let plain = ["dataset", "country", "institution", "project"]

    /// What a draft says, as a form shows it.
    static func form(of draft: Draft) -> Form {
        let fields = form(of: draft.form).fields
        return Form(fields + [(name: "draft", value: draft.id.text), (name: "version", value: "\(draft.version)")])
    }

    /// A request form in the fields that a page has for it.
    static func form(of json: JSON) -> Form {
        var fields: [(name: String, value: String)] = []
        func add(_ name: String, _ value: String?) { if let value, !value.isEmpty { fields.append((name, value)) } }
        func texts(_ json: JSON?) -> [String] { json?.arrayValue?.compactMap(\.stringValue) ?? [] }
        for name in plain { add(name, json[name]?.stringValue) }
        let purpose = json["purpose"]
        add("purpose", texts(purpose?["codes"]).first)
        add("diseases", texts(purpose?["diseases"]).joined(separator: " "))
        for fact in facts { add(fact, purpose?[fact]?.boolValue.map { $0 ? "yes" : "no" }) }
        add("termMonths", json["termMonths"]?.integerValue.map { "\($0)" })
        add("people", texts(json["people"]).joined(separator: " "))
        for code in texts(json["agreements"]) { add("agreements", code) }
        let ethics = json["documents"]?.arrayValue?.first { $0["kind"] == "ethics" }
        add("ethicsDigest", ethics?["digest"]?.stringValue)
        add("ethicsExpires", (ethics?["expires"]?.stringValue).map { String($0.prefix(10)) })
        add("ethicsName", ethics?["name"]?.stringValue)
        for (id, answer) in (json["answers"]?.objectValue ?? [:]).sorted(by: { $0.key < $1.key }) {
            add("answers.\(id)", text(of: answer))
        }
        // What was typed and is no value yet comes back as it was typed.
        for (name, value) in (json["typed"]?.objectValue ?? [:]).sorted(by: { $0.key < $1.key }) {
            if let text = value.stringValue { fields.removeAll { $0.name == name }; add(name, text) }
        }
        return Form(fields)
    }

    static func text(of answer: JSON) -> String? {
        if let text = answer.stringValue { return text }
        if let number = answer.integerValue { return "\(number)" }
        if let truth = answer.boolValue { return truth ? "yes" : "no" }
        if let list = answer.arrayValue { return list.compactMap(\.stringValue).joined(separator: " ") }
        return answer["digest"]?.stringValue
    }

    /// What was typed, as a draft keeps it: values where they are ones, and the rest under `typed`.
    static func draft(of typed: Form) -> JSON {
        var members: [String: JSON] = [:]
        var purpose: [String: JSON] = [:]
        var left: [String: JSON] = [:]
        func value(_ name: String) -> String { (typed[name] ?? "").trimming() }
        for name in plain where !value(name).isEmpty { members[name] = .string(value(name)) }
        if !value("purpose").isEmpty { purpose["codes"] = [.string(value("purpose"))] }
        let diseases = words(value("diseases"))
        if !diseases.isEmpty { purpose["diseases"] = .array(diseases.map(JSON.string)) }
        for fact in facts where !value(fact).isEmpty { purpose[fact] = .bool(value(fact) == "yes") }
        if !purpose.isEmpty { members["purpose"] = .object(purpose) }
        if let months = Int(value("termMonths")), (0...Int(JSON.integerMax)).contains(months) {
            members["termMonths"] = .integer(Int64(months))
        } else if !value("termMonths").isEmpty {
            left["termMonths"] = .string(value("termMonths"))
        }
        let people = words(value("people"))
        if !people.isEmpty { members["people"] = .array(people.map(JSON.string)) }
        let agreed = typed.all("agreements")
        if !agreed.isEmpty { members["agreements"] = .array(agreed.map(JSON.string)) }
        for name in ["ethicsDigest", "ethicsExpires", "ethicsName"] where !value(name).isEmpty {
            left[name] = .string(value(name))
        }
        // Without the form at hand an answer is kept as it was typed.
        for field in typed.fields where field.name.hasPrefix("answers.") && !field.value.isEmpty {
            left[field.name] = .string(field.value)
        }
        if !left.isEmpty { members["typed"] = .object(left) }
        return .object(members)
    }

    /// Names that stand beside each other.
    static func words(_ text: String) -> [String] {
        text.split(whereSeparator: { $0.isWhitespace || $0 == "," || $0 == "、" }).map(String.init)
    }
}

// MARK: - The data set's own form

extension RequestForm {
    /// The group of fields that a data set asks for itself.
    static func ownGroup(_ own: JSON, _ typed: Form, _ faults: FormFaults, _ words: Words) -> [String: Any] {
        let fields = (own["fields"]?.arrayValue ?? []).map { field -> FormField in
            let id = "answers.\(field["id"]?.stringValue ?? "")"
            return FormField(
                id: id, label: text(field["label"], words) ?? id, kind: kind(of: field, words), value: typed[id] ?? "",
                hint: text(field["hint"], words), fault: faults[id],
                isOptional: field["required"]?.boolValue != true)
        }
        return [
            "name": text(own["title"], words) ?? words("request-new.own"), "fields": fields.map(\.content),
            "hasBoxes": false, "boxes": [[String: Any]](), "about": words("request-new.own.hint"),
        ]
    }

    private static func text(_ json: JSON?, _ words: Words) -> String? {
        (words.language == .japanese ? json?["ja"]?.stringValue : nil) ?? json?["en"]?.stringValue
    }

    private static func kind(of field: JSON, _ words: Words) -> FormField.Kind {
        func number(_ name: String) -> String? { field[name]?.integerValue.map { "\($0)" } }
        func text(_ type: String = "text", _ attributes: [String: String?]) -> FormField.Kind {
            .text(type: type, attributes: attributes.compactMapValues { $0 })
        }
        let choose = (value: "", name: "–")
        switch field["kind"]?.stringValue {
        case "text":
            let lines = Int(field["lines"]?.integerValue ?? 1)
            guard lines > 1 else { return text("text", ["maxlength": number("length_max")]) }
            return .area(rows: min(lines, 12), max: Int(field["length_max"]?.integerValue ?? 1000))
        case "choice":
            return .choice(
                [choose]
                    + (field["options"]?.arrayValue ?? []).map { option in
                        let value = option["value"]?.stringValue ?? ""
                        return (value: value, name: Self.text(option["label"], words) ?? value)
                    })
        case "date":
            return text("date", ["min": field["earliest"]?.stringValue, "max": field["latest"]?.stringValue])
        case "number":
            return text("number", ["min": number("min"), "max": number("max"), "inputmode": "numeric"])
        case "boolean":
            return .choice([choose, (value: "yes", name: words("form.yes")), (value: "no", name: words("form.no"))])
        case "document": return text("text", ["maxlength": "64", "autocomplete": "off", "data-fingerprint": "yes"])
        default: return text("text", ["maxlength": "2000"])
        }
    }

    /// The answers as the gateway takes them; what is no value of its kind stays a text, which the gateway refuses.
    static func answers(_ own: JSON, _ typed: Form) -> JSON {
        var answers: [String: JSON] = [:]
        for field in own["fields"]?.arrayValue ?? [] {
            guard let id = field["id"]?.stringValue, let value = typed["answers.\(id)"]?.trimming(), !value.isEmpty
            else { continue }
            answers[id] =
                switch field["kind"]?.stringValue {
                case "number": Int64(value).map(JSON.integer) ?? .string(value)
                case "boolean": value == "yes" ? true : value == "no" ? false : .string(value)
                case "code": .array(words(value).map(JSON.string))
                case "document":
                    ["kind": field["document"] ?? .null, "digest": .string(value.lowercased())]
                // A browser ends its lines with two characters.
                case "text": .string(value.replacing("\r\n", with: "\n"))
                default: .string(value)
                }
        }
        return .object(answers)
    }
}
