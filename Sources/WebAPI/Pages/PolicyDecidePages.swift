import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Vocabulary

extension Site {
    func registerPolicyDecisions(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.policyDecidePage) { request, context in
            let start = String(request.uri.queryParameters.get("start") ?? "")
            let preset = DryRunForm.presets.first { $0.kind == start }
            return try await decide(gateway, Form([(name: "question", value: preset?.text ?? "")]), context)
        }
        routes.on(.policyDecide) { _, context in try await decided(gateway, context) }
    }

    private func decide(
        _ gateway: Gateway, _ typed: Form, _ context: SekishoContext, _ faults: FormFaults = FormFaults(),
        answer: [String: Any]? = nil, problem: [String: Any]? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        var datasets: [String] = []
        if await gateway.isAnyPolicyActive {
            datasets = try await gateway.activePolicies().datasets.map(\.text)
        }
        let form = DryRunForm(typed, datasets: datasets, faults: faults, words)
        var content: [String: Any] = [
            "tabs": Self.policyTabs(.policyDecidePage, words), "groups": form.groups,
            "question": form.question.content, "isWritten": !(typed["question"] ?? "").isEmpty,
            "presets": DryRunForm.presets.map { preset in
                [
                    "href": "/policies/decide?\(Form([(name: "start", value: preset.kind)]).encoded)#question",
                    "name": words.name("ask", preset.kind),
                ]
            },
        ]
        content["answer"] = answer
        if answer != nil { content["isOutcome"] = true }
        content["problem"] = problem
        return page(
            "policy-decide", titled: words("policies.decide"), content, at: "/policies/decide", context,
            status: status)
    }

    private func decided(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let typed = context.form
        var faults = FormFaults()
        guard let question = DryRunForm.read(typed, now: gateway.clock.now(), words, &faults) else {
            return try await decide(
                gateway, typed, context, faults,
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words),
                status: .badRequest)
        }
        do {
            let answer = try await gateway.explain(question, under: .active, by: context.person)
            return try await decide(
                gateway, typed, context, answer: Self.explanation(answer.json, question, words))
        } catch let error as GatewayError where error.code == .usage || error.code == .refused {
            return try await decide(
                gateway, typed, context,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("form.kept"), words),
                status: .badRequest)
        }
    }

    /// Why a question gets its answer, for the template `policy-decide`.
    private static func explanation(_ answer: JSON, _ question: JSON, _ words: Words) -> [String: Any] {
        func text(_ json: JSON, _ name: String) -> String { json[name]?.stringValue ?? "" }
        let name = text(answer, "answer")
        let kind: BadgeKind =
            switch name {
            case "permit", "permit-with-obligations": .good
            case "needs-human": .waiting
            default: .bad
            }
        let reasons = answer["decision"]?["reasons"]?.arrayValue ?? []
        var content: [String: Any] = [
            "badge": badge(kind, words.name("answer", name)), "dataset": text(answer, "dataset"),
            "ask": words.name("ask", text(answer, "ask")),
            "lines": (answer["lines"]?.arrayValue ?? []).map { line -> [String: Any] in
                let part = text(line, "part")
                let partKind: BadgeKind =
                    switch part {
                    case "refuses": .bad
                    case "waits": .waiting
                    case "permits": .good
                    case "obliges": .moving
                    default: .plain
                    }
                let code = reasons.first {
                    $0["rule"] == line["rule"] && $0["text"] == line["text"]
                }.map { text($0, "code") }
                var shown: [String: Any] = [
                    "badge": badge(partKind, words.name("said", part)), "rule": text(line, "rule"),
                    "text": text(line, "text"), "place": "\(text(line, "file")):\(line["line"]?.integerValue ?? 0)",
                ]
                shown["words"] = code.map { words.name("reason", $0) }
                if let term = line["term"] {
                    shown["term"] = [
                        "code": text(term, "code"), "label": text(term, "label"),
                        "labelJapanese": text(term, "label_ja"),
                    ]
                }
                return shown
            },
            "question": question.canonicalText,
        ]
        let missing = (answer["missing"]?.arrayValue ?? []).compactMap(\.stringValue)
        if !missing.isEmpty { content["missing"] = words("policies.missing", ["list": words.list(missing)]) }
        if let nearly = answer["nearly"] {
            content["nearly"] = words(
                "policies.nearly",
                ["rule": text(nearly, "rule"), "answer": words.name("answer", text(nearly, "answer"))])
        }
        return content
    }
}

// MARK: - The question that nobody asked

/// The form of a dry run: the facts of an access question by fields, or any question as records keep it.
private struct DryRunForm {
    private static let facts = ["ancestry", "methods", "commercial", "notForProfit", "genetic"]
    private static let purposes = ["DUO:0000042", "DUO:0000006", "DUO:0000007", "DUO:0000011", "DUO:0000043"]
    private static let textMax = 200
    private static let questionMax = 65_536

    private let typed: Form
    private let datasets: [String]
    private let faults: FormFaults
    private let words: Words

    init(_ typed: Form, datasets: [String], faults: FormFaults, _ words: Words) {
        self.typed = typed
        self.datasets = datasets
        self.faults = faults
        self.words = words
    }

    var question: FormField {
        field("question", .area(rows: 12, max: Self.questionMax), hint: "policies.question-hint")
    }

    var groups: [[String: Any]] {
        let choose = (value: "", name: "–")
        let yesNo = [
            (value: "", name: words("form.not-said")), (value: "yes", name: words("form.yes")),
            (value: "no", name: words("form.no")),
        ]
        let text = FormField.Kind.text(attributes: ["maxlength": "\(Self.textMax)"])
        // A long list is typed, not chosen.
        let dataset: FormField.Kind =
            datasets.count > 200 ? text : .choice([choose] + datasets.sorted().map { (value: $0, name: $0) })
        return [
            group(
                "policies.decide-what",
                [
                    field("dataset", dataset, isOptional: false),
                    field(
                        "purpose", .choice([choose] + Self.purposes.map { (value: $0, name: words.name("duo", $0)) }),
                        isOptional: false),
                    field("diseases", .text(attributes: ["maxlength": "1000"]), hint: "request-new.diseases.hint"),
                ]),
            group("policies.decide-facts", Self.facts.map { field($0, .choice(yesNo)) }),
            group(
                "policies.decide-who",
                [
                    field("requester", text), field("termMonths", .text(type: "number")),
                    field("country", .text(attributes: ["maxlength": "2"])), field("institution", text),
                    field("project", text), field("ethics", .choice(yesNo)),
                    field("agreed", text, hint: "policies.agreed.hint"),
                    field("votes", text, hint: "policies.votes.hint"),
                ]),
        ]
    }

    private func group(_ name: String, _ fields: [FormField]) -> [String: Any] {
        ["name": words(name), "fields": fields.map(\.content)]
    }

    private func field(
        _ id: String, _ kind: FormField.Kind, hint: String? = nil, isOptional: Bool = true
    ) -> FormField {
        FormField(
            id: id, label: words(FieldName.key(id)), kind: kind, value: typed[id] ?? "", hint: hint.map { words($0) },
            fault: faults[id], isOptional: isOptional)
    }

    /// The question; `nil` with every mistake in `faults`. What is not known stays out of it, as in a real one.
    static func read(_ typed: Form, now: Timestamp, _ words: Words, _ faults: inout FormFaults) -> JSON? {
        func value(_ id: String) -> String { (typed[id] ?? "").trimming() }
        func list(_ id: String) -> [String] {
            value(id).split(whereSeparator: { $0.isWhitespace || $0 == "," || $0 == "、" }).map(String.init)
        }
        if !value("question").isEmpty {
            guard value("question").utf8.count <= questionMax else {
                faults.add("question", words("form.too-long", ["max": "\(questionMax)"]))
                return nil
            }
            do throws(JSONError) { return try JSON(parsing: value("question")) } catch {
                faults.add("question", words("policies.question-wrong", ["place": "\(error.offset)"]))
                return nil
            }
        }
        var purpose: [String: JSON] = [:]
        if value("dataset").isEmpty { faults.add("dataset", words("form.choose")) }
        if !purposes.contains(value("purpose")) { faults.add("purpose", words("form.choose")) }
        purpose["codes"] = [.string(value("purpose"))]
        if !value("diseases").isEmpty { purpose["diseases"] = .array(list("diseases").map(JSON.string)) }
        for fact in facts {
            switch value(fact) {
            case "": break
            case "yes": purpose[fact] = true
            case "no": purpose[fact] = false
            default: faults.add(fact, words("form.choose"))
            }
        }
        var members: [String: JSON] = [
            "ask": "access", "now": .string(now.description), "dataset": .string(value("dataset")),
            "requester": .string(value("requester").isEmpty ? "somebody" : value("requester")),
            "purpose": .object(purpose), "agreements": .array(list("agreed").map(JSON.string)), "visas": [],
            "authors": [],
        ]
        for name in ["country", "institution", "project"] where !value(name).isEmpty {
            members[name] = .string(value(name))
        }
        if !value("termMonths").isEmpty {
            if let months = Int64(value("termMonths")), (1...1200).contains(months) {
                members["termMonths"] = .integer(months)
            } else {
                faults.add("termMonths", words("form.number", ["min": "1", "max": "1200"]))
            }
        }
        switch value("ethics") {
        case "yes":
            // Any document will do: its bytes have no say in the decision.
            members["documents"] = [["kind": "ethics", "digest": .string(String(repeating: "0", count: 64))]]
        case "", "no": members["documents"] = []
        default: faults.add("ethics", words("form.choose"))
        }
        var votes: [JSON] = []
        for vote in list("votes") {
            let parts = vote.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2, (try? PersonID(parts[0])) != nil, !parts[1].isEmpty else {
                faults.add("votes", words("policies.votes.wrong"))
                continue
            }
            votes.append(["person": .string(parts[0]), "role": .string(parts[1]), "approves": true])
        }
        members["votes"] = .array(votes)
        return faults.isEmpty ? .object(members) : nil
    }

    /// One question of each kind, to change.
    static let presets: [(kind: String, text: String)] = [
        (
            "access",
            #"""
            {
              "ask": "access",
              "now": "2026-11-21T09:30:00.000Z",
              "dataset": "demo:kg1-ancestry",
              "requester": "alice",
              "purpose": { "codes": ["DUO:0000011"], "commercial": false },
              "termMonths": 6,
              "documents": [],
              "agreements": ["DUO:0000019"],
              "visas": [],
              "authors": [],
              "votes": [{ "person": "dai", "role": "dac", "approves": true }]
            }
            """#
        ),
        (
            "run",
            #"""
            {
              "ask": "run",
              "now": "2026-11-21T09:30:00.000Z",
              "run": "run-1",
              "dataset": "demo:kg1-ancestry",
              "requester": "alice",
              "purpose": { "codes": ["DUO:0000011"], "commercial": false },
              "target": "label",
              "cohort": 2400,
              "hoursUsed": 0,
              "hoursAsked": 1,
              "device": { "node": "campus-1", "pool": "campus", "evidence": "software", "rttMicroseconds": 120 }
            }
            """#
        ),
        (
            "progress",
            #"""
            {
              "ask": "progress",
              "dataset": "demo:kg1-ancestry",
              "run": "run-1",
              "viewer": "alice",
              "figure": "metric",
              "cohort": 480
            }
            """#
        ),
        (
            "release",
            #"""
            {
              "ask": "release",
              "now": "2026-11-21T09:30:00.000Z",
              "dataset": "demo:kg1-ancestry",
              "run": "run-1",
              "researcher": "alice",
              "candidate": "0000000000000000000000000000000000000000000000000000000000000000",
              "cohort": 2400,
              "checks": [{ "check": "artefact", "passed": true }],
              "votes": []
            }
            """#
        ),
    ]
}
