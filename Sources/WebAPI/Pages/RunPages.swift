import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import Vocabulary

extension Site {
    func registerRuns(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.runsPage) { request, context in try await runs(gateway, request, context) }
        routes.on(.runNewPage) { request, context in
            let grant = request.uri.queryParameters.get("grant").map { String($0.prefix(Limits.identifierBytesMax)) }
            let start = String(request.uri.queryParameters.get("start") ?? "")
            let preset = RunForm.presets.first { $0.name == start }
            let typed = Form([
                (name: "grant", value: grant ?? ""),
                (name: "specification", value: (preset ?? RunForm.presets[0]).text),
            ])
            return try await newRun(gateway, typed, context)
        }
        routes.on(.runStart) { _, context in try await start(gateway, context) }
        routes.on(.runPage) { request, context in
            try await run(gateway, context.identifier("run"), context, done: Done(request))
        }
        routes.on(.runEvents) { _, context in
            let id: RunID = try context.identifier("run")
            let events = try await gateway.follow(id, by: context.person)
            return RunLive.response(events, Words.of(context.language))
        }
        routes.on(.runCancel) { _, context in
            let id: RunID = try context.identifier("run")
            do {
                try await gateway.cancelRun(id, by: context.person)
                return Self.redirect(to: "/runs/\(id)?done=\(Done.cancelled)")
            } catch let error as GatewayError where error.code == .usage || error.code == .refused {
                let words = Words.of(context.language)
                return try await run(
                    gateway, id, context,
                    problem: Self.fault(
                        words("form.not-taken"), detail: error.publicDescription, kept: words("problem.next"), words),
                    status: .conflict)
            }
        }
        routes.on(.releaseTake) { _, context in try await take(gateway, context) }
    }

    // MARK: - The list

    private func runs(_ gateway: Gateway, _ request: Request, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let page = try await gateway.runs(try Self.pageRequest(request), by: person)
        var content: [String: Any] = [
            "lead": words("runs.lead"), "mayStart": context.identity?.roles.contains(.researcher) ?? false,
            "hasItems": !page.items.isEmpty,
            "items": page.items.map { entry -> [String: Any] in
                var shown: [String: Any] = [
                    "id": entry.id.text, "dataset": "\(entry.dataset) \(entry.version)",
                    "researcher": entry.researcher.text, "badge": Self.badge(of: entry, words),
                    "holder": Self.holder(of: entry, seenBy: person, words), "changed": words.time(entry.changed),
                ]
                if entry.stage == .train, entry.end == nil {
                    shown["progress"] = [
                        "done": "\(entry.epochs.done)", "of": "\(max(entry.epochs.of, 1))",
                        "label": words(
                            "runs.epochs", ["done": "\(entry.epochs.done)", "of": "\(entry.epochs.of)"]),
                    ]
                }
                return shown
            },
        ]
        content["next"] = page.next.map { "/runs?\(Form([(name: "after", value: "\($0)")]).encoded)" }
        return self.page("runs", titled: words("runs.title"), content, at: "/runs", context, done: Done(request))
    }

    private static func badge(of entry: RunEntry, _ words: Words) -> [String: Any] {
        switch entry.end {
        case .released: badge(.good, words("end.released"))
        case .refused: badge(.bad, words("end.refused"))
        case .failed: badge(.bad, words("end.failed"))
        case .cancelled: badge(.plain, words("end.cancelled"))
        case nil:
            entry.missing == nil
                ? badge(.moving, words.name("stage", entry.stage.rawValue))
                : badge(.waiting, words("run.state.waiting"))
        }
    }

    private static func holder(of entry: RunEntry, seenBy person: PersonID, _ words: Words) -> String {
        if let missing = entry.missing {
            return words("run.holder.review", ["count": "\(missing.count)", "roles": words.roles(missing.roles)])
        }
        switch entry.end {
        case .released:
            return entry.researcher == person
                ? words("take.title") : words("run.holder.released", ["person": entry.researcher.text])
        case .refused, .failed, .cancelled: return words("run.holder.nobody")
        case nil: return words("run.holder.gateway", ["stage": words.name("stage", entry.stage.rawValue)])
        }
    }

    // MARK: - One run

    func run(
        _ gateway: Gateway, _ id: RunID, _ context: SekishoContext, done: Done? = nil, problem: [String: Any]? = nil,
        status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let entry = try await gateway.run(id, by: person)
        let details = try await gateway.details(of: id, by: person)
        let records = try await gateway.timeline(.run(id), by: person)
        let isOwn = entry.researcher == person
        let roles = context.identity?.roles ?? []
        var content: [String: Any] = [
            "id": id.text, "dataset": "\(entry.dataset) \(entry.version)", "researcher": entry.researcher.text,
            "badge": Self.badge(of: entry, words), "holder": Self.holder(of: entry, seenBy: person, words),
            "isLive": entry.end == nil,
            "stage": entry.missing == nil ? entry.stage.rawValue : RunLive.reviewWaits,
            "steps": Self.steps(entry, words),
            "pairs": Self.pairs(entry, details, words), "events": Self.events(records, words),
            "figures": Self.hiddenFigures(entry, details, isOwn: isOwn, words),
            "mayCancel": entry.end == nil && records.allSatisfy { $0.key != "release-decided" }
                && (isOwn || roles.contains(.operatorRole) || roles.contains(.dataCustodian)),
        ]
        if entry.stage == .train, entry.end == nil {
            content["progress"] = [
                "done": "\(entry.epochs.done)", "of": "\(max(entry.epochs.of, 1))",
                "words": words("runs.epochs", ["done": "\(entry.epochs.done)", "of": "\(entry.epochs.of)"]),
            ]
        }
        if entry.missing != nil, let review = try await gateway.review(of: id, by: person) {
            content["reviewLink"] = "/runs/\(id)/release"
            content["reviewName"] = words(review.mayReview ? "run.review" : "run.look")
        }
        if !entry.reasons.isEmpty {
            content["stop"] = [
                "title": words("run.stopped"), "words": entry.words,
                "reasons": entry.reasons.map { ["words": words.name("reason", $0), "code": $0] },
            ]
        }
        if isOwn, details.isReleased {
            let candidate = try await gateway.candidate(of: id, by: person)
            var take: [String: Any] = [
                "artefacts": candidate.artefacts.map { artefact in
                    let bytes = Picture.bytes(artefact.bytes)
                    return [
                        "name": artefact.name, "bytes": bytes,
                        "label": words("take.label", ["name": artefact.name, "bytes": bytes]),
                    ]
                }
            ]
            let duties = try await gateway.releaseDuties(of: id, by: person)
            if !duties.items.isEmpty {
                take["duties"] = [
                    "hash": duties.hash.hex,
                    "items": duties.items.map { ["words": Self.obligation($0.code, $0.value, words)] },
                ]
            }
            content["take"] = take
        }
        if let plan = try? await gateway.plan(of: id, by: person) {
            content["plan"] = ["cut": details.cut ?? "", "table": plan.table]
        }
        let pictures = RunPictures.all(try await gateway.times(of: id, by: person), details, words)
        content["hasPictures"] = !pictures.isEmpty
        content["pictures"] = pictures
        content["problem"] = problem
        return page(
            "run", titled: words("run.title", ["id": id.text]), content, at: "/runs/\(id)", context, done: done,
            status: status)
    }

    private static func hiddenFigures(
        _ entry: RunEntry, _ details: RunDetails, isOwn: Bool, _ words: Words
    ) -> String {
        let isBeforeRelease = entry.end == nil && entry.epochs.done > 1
        return isOwn && isBeforeRelease && details.curves.isEmpty ? words("run.figures-hidden") : ""
    }

    private static func steps(_ entry: RunEntry, _ words: Words) -> [[String: Any]] {
        // A run that was stopped went on to scrub and close; what it stopped at is told by its reasons.
        let isStopped = entry.end != nil && entry.end != .released
        return RunStage.allCases.map { stage in
            let isNow = stage == entry.stage && entry.end == nil
            let isDone = stage < entry.stage && !isStopped || entry.end == .released || (isStopped && stage == .closed)
            let (kind, state): (String, String) =
                isNow
                ? ("now", words("run.step.now"))
                : isDone
                    ? ("done", words("run.step.done"))
                    : ("open", words(isStopped ? "run.step.skipped" : "run.step.open"))
            return ["name": words.name("stage", stage.rawValue), "kind": kind, "state": state, "isNow": isNow]
        }
    }

    private static func pairs(_ entry: RunEntry, _ details: RunDetails, _ words: Words) -> [[String: Any]] {
        let rows: [(String, String?)] = [
            ("run.fact.grant", entry.grant?.text), ("run.fact.version", entry.version.text),
            ("run.fact.asked", words.minute(entry.asked)),
            ("run.fact.cohort", details.persons.map(String.init)),
            ("run.fact.withheld", details.withheld.map(String.init)), ("run.fact.device", details.device),
            ("run.fact.fence", details.fence.map(String.init)),
            ("run.fact.epochs", entry.epochs.done > 0 ? "\(entry.epochs.done) / \(entry.epochs.of)" : nil),
            ("run.fact.validation", details.validationPPM.map(RunPictures.percent)),
            ("run.fact.test", details.testPPM.map(RunPictures.percent)),
            ("run.fact.to-device", details.bytesToDevice.map(Picture.bytes)),
            ("run.fact.from-device", details.bytesFromDevice.map(Picture.bytes)),
        ]
        return rows.compactMap { key, value in value.map { ["name": words(key), "value": $0] } }
    }

    // MARK: - Taking the release

    private func take(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let id: RunID = try context.identifier("run")
        let words = Words.of(context.language)
        let accepted = context.form["accept"] == "yes" ? context.form["accepts"] : nil
        if accepted == nil, !(try await gateway.releaseDuties(of: id, by: context.person)).items.isEmpty {
            var faults = FormFaults()
            faults.add("accept", words("take.accept-missing"))
            return try await run(
                gateway, id, context,
                problem: Self.fault(words("form.wrong"), faults, kept: words("policies.nothing-done"), words),
                status: .badRequest)
        }
        let artefacts = try await gateway.takeRelease(of: id, accepting: accepted, by: context.person)
        guard let artefact = artefacts.first(where: { $0.name == context.form["artefact"] }) else {
            throw Problem.notFound("the release has no such file")
        }
        return Self.download(artefact.bytes, named: artefact.name)
    }

    /// - Parameter name: one of our own; letters, digits, dots and dashes.
    private static func download(_ bytes: [UInt8], named name: String) -> Response {
        Response(
            status: .ok,
            headers: [
                .contentType: "application/octet-stream", .contentDisposition: "attachment; filename=\"\(name)\"",
            ], body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes)))
    }

    // MARK: - A new run

    private func newRun(
        _ gateway: Gateway, _ typed: Form, _ context: SekishoContext, _ faults: FormFaults = FormFaults(),
        problem: [String: Any]? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let grants = try await usableGrants(gateway, context)
        let form = RunForm(typed, grants: grants, faults: faults, words)
        var content: [String: Any] = [
            "listLink": "/runs", "listName": words("runs.title"), "lead": words("run-new.lead"), "action": "/runs",
            "send": words("run-new.send"), "groups": form.groups, "form": Self.formNumber(typed), "hasPresets": true,
            "presets": RunForm.presets.map { preset in
                let fields = [(name: "start", value: preset.name), (name: "grant", value: typed["grant"] ?? "")]
                return ["href": "/runs/new?\(Form(fields).encoded)", "name": preset.title]
            },
        ]
        content["problem"] =
            problem
            ?? (grants.isEmpty ? Self.fault(words("run-new.grant.none"), kept: "", words) : nil)
        return page("form-page", titled: words("run-new.title"), content, at: "/runs/new", context, status: status)
    }

    private func usableGrants(_ gateway: Gateway, _ context: SekishoContext) async throws -> [GrantEntry] {
        let person = try context.person
        let page = try await gateway.grants(PageRequest(limit: PageRequest.limitMax), by: person)
        return page.items.filter { $0.grant.researcher == person && !$0.isExpired }
    }

    private func start(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let typed = context.form
        var faults = FormFaults()
        let grants = Set(try await usableGrants(gateway, context).map(\.grant.id))
        guard let wish = RunForm.read(typed, grants: grants, words, &faults) else {
            return try await newRun(
                gateway, typed, context, faults,
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words), status: .badRequest)
        }
        do {
            let path = try await sent.once(typed["form"], by: person) {
                let id = try await gateway.requestRun(
                    specification: wish.specification, grant: wish.grant, id: wish.id, deviceMemory: wish.memory,
                    by: person)
                return "/runs/\(id)?done=\(Done.started)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where [.usage, .refused, .notFound].contains(error.code) {
            return try await newRun(
                gateway, typed, context,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("form.kept"), words),
                status: .init(code: Problem(error).status))
        }
    }
}

/// The form of a new run.
struct RunForm {
    struct Wish {
        let grant: GrantID
        let specification: String
        let id: RunID?
        /// Bytes.
        let memory: Int?
    }

    /// Specifications to start from.
    static let presets: [(name: String, title: String, text: String)] = [
        (
            "gcn", "GCN",
            """
            model: gcn
            hidden: [64]
            dropout: 0.5
            learning_rate: 0.01
            weight_decay: 5e-4
            weight_decay_layers: first
            epochs: 200
            features: none

            """
        ),
        (
            "sage", "GraphSAGE",
            """
            model: sage
            hidden: [64]
            dropout: 0.5
            learning_rate: 0.01
            weight_decay: 5e-4
            weight_decay_layers: first
            epochs: 200
            features: standard

            """
        ),
    ]
    private static let specificationMax = 16_384
    private static let memoryMaxMiB = 1 << 20

    private let typed: Form
    private let grants: [GrantEntry]
    private let faults: FormFaults
    private let words: Words

    init(_ typed: Form, grants: [GrantEntry], faults: FormFaults, _ words: Words) {
        self.typed = typed
        self.grants = grants
        self.faults = faults
        self.words = words
    }

    var groups: [[String: Any]] {
        let choice = grants.map { grant in
            let until = words("request.grant.until", ["day": words.day(grant.grant.expires)])
            return (value: grant.grant.id.text, name: "\(grant.grant.dataset) · \(grant.grant.id) · \(until)")
        }
        let memory = FormField.Kind.text(
            type: "number", attributes: ["min": "1", "max": "\(Self.memoryMaxMiB)", "inputmode": "numeric"])
        return [
            [
                "name": words("run-new.what"),
                "fields": [
                    field("grant", .choice([(value: "", name: "–")] + choice), isOptional: false).content,
                    field("specification", .area(rows: 10, max: Self.specificationMax), isOptional: false).content,
                ],
            ],
            [
                "name": words("run-new.how"),
                "fields": [
                    field(
                        "id", .text(attributes: ["maxlength": "\(Limits.identifierBytesMax)", "autocomplete": "off"]),
                        hint: "run-new.id.hint"
                    ).content,
                    field("memory", memory, hint: "run-new.memory.hint").content,
                ],
            ],
        ]
    }

    private func field(
        _ id: String, _ kind: FormField.Kind, hint: String? = nil, isOptional: Bool = true
    ) -> FormField {
        FormField(
            id: id, label: words(FieldName.key(id)), kind: kind, value: typed[id] ?? "", hint: hint.map { words($0) },
            fault: faults[id], isOptional: isOptional)
    }

    /// What is wished for; `nil` with every mistake in `faults`.
    static func read(_ typed: Form, grants: Set<GrantID>, _ words: Words, _ faults: inout FormFaults) -> Wish? {
        let grant = (typed["grant"]).flatMap { try? GrantID($0) }
        if grant == nil || !grants.contains(grant!) { faults.add("grant", words("form.choose")) }
        // A browser sends the ends of lines as CR LF.
        let specification = (typed["specification"] ?? "").split(separator: "\r\n", omittingEmptySubsequences: false)
            .joined(separator: "\n")
        if specification.trimming().isEmpty {
            faults.add("specification", words("form.empty"))
        } else if specification.utf8.count > specificationMax {
            faults.add("specification", words("form.too-long", ["max": "\(specificationMax)"]))
        }
        let idText = (typed["id"] ?? "").trimming()
        let id = idText.isEmpty ? nil : try? RunID(idText)
        if !idText.isEmpty, id == nil { faults.add("id", words("form.id", ["example": "ancestry-2"])) }
        let memoryText = (typed["memory"] ?? "").trimming()
        let memory = Int(memoryText).flatMap { (1...memoryMaxMiB).contains($0) ? $0 << 20 : nil }
        if !memoryText.isEmpty, memory == nil {
            faults.add("memory", words("form.number", ["min": "1", "max": "\(memoryMaxMiB)"]))
        }
        guard faults.isEmpty, let grant else { return nil }
        return Wish(grant: grant, specification: specification, id: id, memory: memory)
    }
}
