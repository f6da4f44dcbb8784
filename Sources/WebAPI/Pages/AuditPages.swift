import Foundation
import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import Vocabulary

extension Site {
    func registerAudit(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.auditPage) { request, context in try await audit(gateway, request, context) }
        routes.on(.auditRecordPage) { _, context in try await record(gateway, context) }
        routes.on(.auditExportPage) { _, context in try await exportPage(gateway, Form(), context) }
        routes.on(.auditExport) { _, context in try await export(gateway, context) }
        routes.on(.auditExportFile) { _, context in
            guard let id = context.coreContext.parameters.get("export"),
                let made = await exports.take(id, of: try context.person)
            else { throw Problem.notFound(Words.of(context.language)("export.gone")) }
            return Response(
                status: .ok,
                headers: [
                    .contentType: Tar.mediaType, .contentDisposition: "attachment; filename=\"sekisho-audit.tar\"",
                ], body: .tar(ofAndThenRemoving: made.folder))
        }
    }

    // MARK: - Search

    private static let searched = ["who", "what", "outcome", "dataset", "request", "run", "from", "to"]

    private func audit(_ gateway: Gateway, _ request: Request, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let asked = Self.searched.map { name in
            (name: name, value: String(request.uri.queryParameters.get(name) ?? "").trimming())
        }
        let typed = Form(asked)
        var content: [String: Any] = ["fields": searchFields(typed, words).map(\.content), "hasItems": false]
        var status = HTTPResponse.Status.ok
        do {
            let query = try AuditQuery(parsing: asked.filter { !$0.value.isEmpty }.map { ($0.name, $0.value) })
            let after = request.uri.queryParameters.get("after").flatMap { UInt64($0) }
            let page = try await gateway.searchAudit(query, after: after, limit: 25, by: context.person)
            content["hasItems"] = !page.hits.isEmpty
            content["items"] = page.hits.map { Self.row($0, words) }
            content["count"] = words("audit.count", ["count": "\(page.hits.count)"])
            content["next"] = page.next.map { next in
                let fields = asked.filter { !$0.value.isEmpty } + [(name: "after", value: "\(next)")]
                return "/audit?\(Form(fields).encoded)"
            }
        } catch let error as GatewayError where error.code == .usage {
            status = .badRequest
            content["count"] = words("audit.count", ["count": "0"])
            content["problem"] = Self.fault(
                words("form.wrong"), detail: error.publicDescription, kept: words("form.kept"), words)
        }
        return page("audit", titled: words("audit.title"), content, at: "/audit", context, status: status)
    }

    private func searchFields(_ typed: Form, _ words: Words) -> [FormField] {
        func choice(_ family: String, _ names: [String]) -> FormField.Kind {
            .choice([(value: "", name: words("audit.any"))] + names.map { (value: $0, name: words.name(family, $0)) })
        }
        let text = FormField.Kind.text(attributes: ["maxlength": "\(Limits.identifierBytesMax)"])
        let kinds: [String: FormField.Kind] = [
            "what": choice("event", KnownName.events), "outcome": choice("outcome", KnownName.outcomes),
            "from": .text(type: "date"), "to": .text(type: "date"),
        ]
        return Self.searched.map { name in
            FormField(
                id: name, label: words.name("audit", name), kind: kinds[name] ?? text, value: typed[name] ?? "")
        }
    }

    private static func row(_ hit: AuditHit, _ words: Words) -> [String: Any] {
        let record = hit.record
        let of: String =
            switch hit.id {
            case .gateway: words("audit.gateway")
            case .request(let id): id.text
            case .run(let id): id.text
            }
        return [
            "index": "\(record.index)", "label": words("audit.show", ["index": "\(record.index)"]),
            "time": words.time(record.time), "event": record.eventName,
            "words": words.name("event", record.eventName), "badge": badge(ofOutcome: record.outcomeName, words),
            "actor": record.actor?.text ?? "", "case": of,
            "reasons": words.list(record.reasons.map { words.name("reason", $0) }),
        ]
    }

    private static func badge(ofOutcome outcome: String, _ words: Words) -> [String: Any] {
        let kind: BadgeKind =
            switch outcome {
            case "done": .good
            case "intent": .moving
            default: .bad
            }
        return badge(kind, words.name("outcome", outcome))
    }

    private func record(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        guard let index = context.coreContext.parameters.get("index").flatMap({ UInt64($0) }) else {
            throw Problem.notFound("a record's number is a whole number")
        }
        let record = try await gateway.auditShow(index, by: context.person)
        let members = (record.core.objectValue ?? [:]).sorted { $0.key < $1.key }
        let pairs =
            [
                ["name": words("record.time"), "value": record.time.description],
                ["name": words("record.leaf"), "value": record.leafHash.hex],
            ] + members.map { ["name": $0.key, "value": $0.value.stringValue ?? $0.value.canonicalText] }
        return page(
            "record", titled: words("record.title", ["index": "\(index)"]),
            [
                "words": words.name("event", record.eventName),
                "badge": Self.badge(ofOutcome: record.outcomeName, words),
                "pairs": pairs,
            ], at: "/audit/records/\(index)", context)
    }

    // MARK: - Export

    private func exportPage(
        _ gateway: Gateway, _ typed: Form, _ context: SekishoContext, made: Exports.Made? = nil,
        problem: [String: Any]? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let runs = try await gateway.runs(PageRequest(limit: PageRequest.limitMax), by: context.person)
        let ranges =
            [(value: "all", name: words("export.whole"))]
            + runs.items.map { (value: "run/\($0.id)", name: words("export.run", ["id": $0.id.text])) }
        var content: [String: Any] = [
            "form": SentForms.freshNumber(), "trail": gateway.trailIdentity,
            "fields": [
                FormField(
                    id: "range", label: words("export.range"), kind: .choice(ranges), value: typed["range"] ?? "all",
                    isOptional: false
                ).content
            ],
        ]
        if let made {
            content["isOutcome"] = true
            content["made"] = [
                "entries": "\(made.summary.entries)", "root": made.summary.root.hex, "bytes": Picture.bytes(made.bytes),
                "link": "/audit/export/\(made.id)",
            ]
        }
        content["problem"] = problem
        return page("export", titled: words("export.title"), content, at: "/audit/export", context, status: status)
    }

    private func export(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let typed = context.form
        let range = typed["range"] ?? ""
        let scope: ExportRequest.Scope? =
            range == "all"
            ? .whole : range.hasPrefix("run/") ? (try? RunID(String(range.dropFirst(4)))).map { .run($0) } : nil
        guard let scope else {
            var faults = FormFaults()
            faults.add("range", words("form.choose"))
            return try await exportPage(
                gateway, typed, context,
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words), status: .badRequest)
        }
        // Sent twice, it is exported once; the second answer shows the first one's export.
        let id = try await sent.once(typed["form"], by: person) {
            try await exports.make(of: person) { folder in
                try await gateway.export(ExportRequest(scope, to: folder), by: person)
            }
        }
        return try await exportPage(gateway, typed, context, made: await exports.find(id, of: person))
    }
}
