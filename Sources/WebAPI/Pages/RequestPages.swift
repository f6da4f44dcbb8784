import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Vocabulary

extension Site {
    func registerRequests(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.requestsPage) { request, context in try await requests(gateway, request, context) }
        routes.on(.requestNewPage) { request, context in
            var typed = Form()
            // A data set may be named in a link; everything else is typed.
            if let dataset = request.uri.queryParameters.get("dataset") {
                typed = Form([(name: "dataset", value: String(dataset.prefix(Limits.identifierBytesMax)))])
            }
            return try await newRequest(gateway, typed, context)
        }
        routes.on(.requestFile) { _, context in try await file(gateway, context) }
        registerRequestActs(routes)
        routes.on(.requestPage) { request, context in
            try await self.request(gateway, context.identifier("request"), context, done: Done(request))
        }
    }

    // MARK: - The list

    private func requests(
        _ gateway: Gateway, _ request: Request, _ context: SekishoContext
    ) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let isResearcher = context.identity?.roles.contains(.researcher) ?? false
        var filter = RequestFilter()
        if isResearcher { filter.requester = person }
        // A colleague's request stands among one's own.
        if isResearcher, context.identity?.roles == [.researcher] { filter.requester = nil }
        let page = try await gateway.requests(try Self.pageRequest(request), where: filter, by: person)
        let drafts = isResearcher ? try await gateway.drafts(by: person) : []
        var content: [String: Any] = [
            "lead": words(isResearcher ? "requests.lead" : "requests.all-lead"), "mayAsk": isResearcher,
            "hasItems": !page.items.isEmpty, "hasDrafts": !drafts.isEmpty,
            "drafts": drafts.map { draft -> [String: Any] in
                [
                    "link": "/drafts/\(draft.id)", "discard": "/drafts/\(draft.id)/discard",
                    "dataset": draft.form["dataset"]?.stringValue ?? words("draft.no-dataset"),
                    "saved": words("draft.saved", ["time": words.minute(draft.saved)]),
                ]
            },
            "items": page.items.map { entry -> [String: Any] in
                [
                    "id": entry.id.text, "dataset": entry.dataset.text, "requester": entry.requester.text,
                    "isOthers": entry.requester != person, "filed": words.time(entry.filed),
                    "purpose": words.list(entry.purpose.map { words.name("duo", $0) }),
                    "badge": Self.badge(of: entry.state, words),
                    "holder": Self.holder(of: entry, seenBy: person, words),
                ]
            },
        ]
        content["next"] = page.next.map { "/requests?\(Form([(name: "after", value: "\($0)")]).encoded)" }
        return self.page(
            "requests", titled: words(isResearcher ? "requests.title" : "requests.all"), content, at: "/requests",
            context, done: Done(request))
    }

    static func pageRequest(_ request: Request, limit: Int = 25) throws -> PageRequest {
        guard let after = request.uri.queryParameters.get("after") else { return try PageRequest(limit: limit) }
        return try PageRequest(after: Cursor(String(after)), limit: limit)
    }

    static func badge(of state: RequestState, _ words: Words) -> [String: Any] {
        switch state {
        case .waiting: badge(.waiting, words("request.state.waiting"))
        case .granted: badge(.good, words("request.state.granted"))
        case .refused: badge(.bad, words("request.state.refused"))
        case .withdrawn: badge(.plain, words("request.state.withdrawn"))
        case .closing: badge(.waiting, words("request.state.closing"))
        case .over(let state, _): badge(.plain, words.name("request", "over.\(state.rawValue)"))
        }
    }

    /// Who has to do something now.
    private static func holder(of entry: RequestEntry, seenBy person: PersonID, _ words: Words) -> String {
        switch entry.state {
        case .waiting(let missing):
            words("request.holder.waiting", ["count": "\(missing.count)", "roles": words.roles(missing.roles)])
        case .granted where entry.requester == person: words("request.holder.mine")
        case .granted: words("request.holder.other", ["person": entry.requester.text])
        case .closing(_, let roles): words("request.holder.closing", ["roles": words.roles(roles)])
        case .refused, .withdrawn, .over: words("request.holder.nobody")
        }
    }

    // MARK: - One request, and its review

    /// - Parameters:
    ///   - typed: a review that was not taken, shown again.
    ///   - problem: for the template `fault`.
    func request(
        _ gateway: Gateway, _ id: RequestID, _ context: SekishoContext, done: Done? = nil, typed: Form = Form(),
        verdictFault: String? = nil, commentFault: String? = nil, problem: [String: Any]? = nil,
        status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let entry = try await gateway.request(id, by: person)
        let form = try await gateway.requestForm(id, by: person)
        let records = try await gateway.timeline(.request(id), by: person)
        let review = try await gateway.review(of: id, by: person)
        let isOwn = entry.requester == person
        var content: [String: Any] = [
            "listLink": review?.mayReview == true ? "/reviews" : "/requests",
            "listName": words(
                review?.mayReview == true ? "reviews.title" : isOwn ? "requests.title" : "requests.all"),
            "badge": Self.badge(of: entry.state, words), "holder": Self.holder(of: entry, seenBy: person, words),
            "pairs": Self.pairs(of: form, entry, words), "events": Self.events(records, words),
        ]
        Self.votes(entry.votes, into: &content, words)
        if case .waiting(let missing) = entry.state {
            content["missing"] = words(
                "votes.missing", ["count": "\(missing.count)", "roles": words.roles(missing.roles)])
        }
        if let grantID = entry.state.grant {
            let grant = try await gateway.grant(grantID, by: person)
            var shown: [String: Any] = [
                "name": grantID.text, "until": words("request.grant.until", ["day": words.day(grant.grant.expires)]),
                "hasObligations": !grant.obligations.isEmpty,
                "obligations": grant.obligations.map { ["words": Self.obligation($0.code, $0.value, words)] },
            ]
            if let end = grant.revocation {
                shown["revoked"] = words(
                    "access.is-revoked",
                    [
                        "reason": words.name("revocation", end.reason.rawValue), "person": end.by.text,
                        "time": words.minute(end.time),
                    ])
            }
            if isOwn || entry.people.contains(person), !grant.isExpired, grant.revocation == nil {
                shown["startLink"] = "/runs/new?\(Form([(name: "grant", value: grantID.text)]).encoded)"
            }
            content["grant"] = shown
        }
        content["acts"] = Self.acts(entry, words)
        content["report"] = try await gateway.closingReport(of: id, by: person)
        if let other = entry.follows { content["follows"] = ["link": "/requests/\(other)", "name": other.text] }
        if let other = entry.followedBy { content["followedBy"] = ["link": "/requests/\(other)", "name": other.text] }
        if let verdict = Self.verdict(records, words) { content["verdict"] = verdict }
        if !isOwn, !Route.accessPage.rule.roles.isDisjoint(with: context.identity?.roles ?? []) {
            content["accessLink"] = "/access/\(entry.requester)"
        }
        if review?.mayReview == true, review?.subject == .emergency(id) {
            content["emergency"] = Self.emergencyForm(id, typed, words)
        } else if review?.mayReview == true {
            content["review"] = Self.reviewForm(
                to: "/requests/\(id)/reviews", typed, verdictFault, commentFault, words, asksWhy: true,
                conditions: form["breakGlass"] == nil)
        }
        content["problem"] = problem
        return page(
            "request", titled: words("request.title", ["id": id.text]), content, at: "/requests/\(id)", context,
            done: done, status: status)
    }

    static func obligation(_ code: String, _ value: String, _ words: Words) -> String {
        let key = "obligation.\(code)"
        return words.keys.contains(key) ? words(key, ["value": value]) : code
    }

    /// What the policy last said of a case, with its reasons.
    static func verdict(_ records: [CaseRecord], _ words: Words) -> [String: Any]? {
        guard let decision = records.last(where: { $0.decision != nil })?.decision else { return nil }
        let key =
            switch decision.verdict {
            case "permit": "request.verdict.granted"
            case "refuse": "request.verdict.refused"
            default: "request.verdict.waiting"
            }
        return [
            "title": words("request.verdict"), "words": words(key),
            "reasons": decision.reasons.map {
                ["words": words.name("reason", $0.code), "detail": $0.text, "code": $0.code]
            },
        ]
    }

    static func votes(_ votes: [VoteEntry], into content: inout [String: Any], _ words: Words) {
        content["hasVotes"] = !votes.isEmpty
        content["votes"] = votes.map { vote -> [String: Any] in
            var shown: [String: Any] = [
                "badge": badge(
                    vote.approves ? .good : .bad, words(vote.approves ? "votes.approved" : "votes.rejected")),
                "person": vote.person.text, "role": words.name("role", vote.role), "time": words.time(vote.time),
            ]
            if !vote.comment.isEmpty { shown["comment"] = vote.comment }
            shown["hasConditions"] = !vote.conditions.isEmpty
            shown["conditions"] = vote.conditions.map { condition in
                [
                    "words": obligation(
                        condition["code"]?.stringValue ?? "", condition["value"]?.stringValue ?? "", words)
                ]
            }
            return shown
        }
    }

    /// The form as it was filed, in words.
    private static func pairs(of form: JSON, _ entry: RequestEntry, _ words: Words) -> [[String: Any]] {
        var pairs: [[String: Any]] = []
        func add(_ key: String, _ value: String?, code: String? = nil) {
            guard let value, !value.isEmpty else { return }
            var pair: [String: Any] = ["name": words(key), "value": value]
            pair["code"] = code
            pairs.append(pair)
        }
        func texts(_ json: JSON?) -> [String] { json?.arrayValue?.compactMap(\.stringValue) ?? [] }
        add("request.dataset", entry.dataset.text)
        add("request.requester", entry.requester.text)
        let purpose = form["purpose"]
        let codes = texts(purpose?["codes"])
        add("request.purpose", words.list(codes.map { words.name("duo", $0) }), code: codes.joined(separator: " "))
        add("request.diseases", words.list(texts(purpose?["diseases"])))
        for fact in RequestForm.facts {
            guard let said = purpose?[fact]?.boolValue else { continue }
            add(FieldName.key(fact), words(said ? "form.yes" : "form.no"))
        }
        add("request.term", form["termMonths"]?.integerValue.map { words("request.term.months", ["months": "\($0)"]) })
        add("request.country", form["country"]?.stringValue)
        add("request.institution", form["institution"]?.stringValue)
        add("request.project", form["project"]?.stringValue)
        add("request.agreements", words.list(texts(form["agreements"]).map { words.name("duo", $0) }))
        add("request.people", words.list(entry.people.map(\.text)))
        for (id, answer) in (form["answers"]?.objectValue ?? [:]).sorted(by: { $0.key < $1.key }) {
            pairs.append(["name": id, "value": RequestForm.text(of: answer) ?? ""])
        }
        for document in entry.documents {
            if let name = document["name"]?.stringValue, let kind = document["kind"]?.stringValue {
                add("request.document.name", "\(kind): \(name)")
            }
            let digest = String(document["digest"]?.stringValue?.prefix(16) ?? "")
            add(
                "request.document",
                document["expires"]?.stringValue.map {
                    words("request.document.until", ["digest": digest, "day": String($0.prefix(10))])
                } ?? words("request.document.none", ["digest": digest]))
        }
        return pairs
    }

    // MARK: - A new request

    /// - Parameters:
    ///   - changes: the granted request that the form would change; a new one otherwise.
    ///   - saved: when the draft that the form shows was saved.
    func newRequest(
        _ gateway: Gateway, _ typed: Form, _ context: SekishoContext, _ faults: FormFaults = FormFaults(),
        changes: RequestID? = nil, saved: Timestamp? = nil, done: Done? = nil, problem: [String: Any]? = nil,
        status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let form = RequestForm(
            typed, datasets: try await datasetNames(gateway, by: context.person), faults: faults, words)
        let own = try await ownForm(gateway, typed, by: context.person)
        var content: [String: Any] = [
            "listLink": changes.map { "/requests/\($0)" } ?? "/requests",
            "listName": changes.map { words("request.title", ["id": $0.text]) } ?? words("requests.title"),
            "lead": words(changes == nil ? "request-new.lead" : "request-change.lead"),
            "action": changes.map { "/requests/\($0)/change" } ?? "/requests", "send": words("request-new.send"),
            "groups": form.groups + (own.map { [RequestForm.ownGroup($0, typed, faults, words)] } ?? []),
            "form": Self.formNumber(typed),
        ]
        content["own"] = own?["digest"]?.stringValue
        if changes == nil {
            content["draft"] = [
                "id": typed["draft"] ?? "", "version": typed["version"] ?? "",
                "saved": saved.map { words("draft.saved", ["time": words.minute($0)]) } ?? "",
                "failed": words("draft.not-saved"),
            ]
        }
        content["problem"] = problem
        return page(
            "form-page", titled: words(changes == nil ? "request-new.title" : "request-change.title"), content,
            at: "/requests/new", context, done: done, status: status)
    }

    private func datasetNames(_ gateway: Gateway, by person: PersonID) async throws -> Set<String> {
        Set(try await gateway.datasets(PageRequest(limit: PageRequest.limitMax), by: person).items.map(\.dataset.text))
    }

    /// What the data set that the form names asks for itself.
    private func ownForm(_ gateway: Gateway, _ typed: Form, by person: PersonID) async throws -> JSON? {
        guard let dataset = typed["dataset"].flatMap({ try? DatasetID($0.trimming()) }) else { return nil }
        return try await gateway.formJSON(of: dataset, by: person)
    }

    /// The number that the form came with, or a fresh one.
    static func formNumber(_ typed: Form) -> String {
        if let number = typed["form"], number.utf8.count == 32, Hex.decode(number) != nil { return number }
        return SentForms.freshNumber()
    }

    func file(_ gateway: Gateway, _ context: SekishoContext, changes: RequestID? = nil) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let typed = context.form
        var faults = FormFaults()
        let known = try await datasetNames(gateway, by: person)
        var json = RequestForm.read(typed, datasets: known, words, &faults)
        if let own = try await ownForm(gateway, typed, by: person), let dataset = try? DatasetID(typed["dataset"] ?? "")
        {
            let answers = RequestForm.answers(own, typed)
            // The form that was sent has not shown these fields yet, or others.
            guard typed["ownForm"] == own["digest"]?.stringValue else {
                return try await newRequest(
                    gateway, typed, context, changes: changes,
                    problem: Self.fault(words("request-new.own.more"), kept: words("form.kept"), words),
                    status: .badRequest)
            }
            for fault in try await gateway.answerFaults(answers, of: dataset, by: person) {
                faults.add("answers.\(fault.field)", words.name("answer", fault.code))
            }
            json = json?.adding(["answers": answers, "form": own["digest"] ?? .null])
        }
        guard faults.isEmpty, let json else {
            return try await newRequest(
                gateway, typed, context, faults, changes: changes,
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words),
                status: .badRequest)
        }
        do {
            let path = try await sent.once(typed["form"], by: person) {
                let id: RequestID
                if let changes {
                    let whole = try await RequestForm.change(gateway.requestForm(changes, by: person), to: json)
                    id = try await gateway.amendRequest(changes, form: whole.canonicalText, by: person)
                } else {
                    id = try await gateway.fileRequest(json.canonicalText, by: person)
                }
                _ = try await gateway.advance(id)
                // What another tab has written since stays.
                if let draft = typed["draft"].flatMap({ try? DraftID($0) }), let version = Int(typed["version"] ?? "") {
                    try? await gateway.discardDraft(draft, ifVersion: version, by: person)
                }
                return "/requests/\(id)?done=\(Done.filed)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where [.usage, .refused, .changed].contains(error.code) {
            return try await newRequest(
                gateway, typed, context, changes: changes,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("form.kept"), words),
                status: .init(code: Problem(error).status))
        }
    }
}

/// The form of a new request: its fields, and what they come to.
struct RequestForm {
    /// Facts about the purpose that are yes, no or not said.
    static let facts = ["ancestry", "methods", "commercial", "notForProfit", "genetic"]
    private static let purposes = ["DUO:0000006", "DUO:0000007", "DUO:0000011", "DUO:0000042"]
    private static let agreements = ["DUO:0000019", "DUO:0000020", "DUO:0000024", "DUO:0000029"]
    private static let textMax = 200
    static let monthsMax = 120

    private let typed: Form
    private let datasets: Set<String>
    private let faults: FormFaults
    private let words: Words

    init(_ typed: Form, datasets: Set<String>, faults: FormFaults, _ words: Words) {
        self.typed = typed
        self.datasets = datasets
        self.faults = faults
        self.words = words
    }

    // MARK: - Showing

    var groups: [[String: Any]] {
        let choose = (value: "", name: "–")
        let datasetChoice = datasets.sorted().map { (value: $0, name: $0) }
        let purposeChoice = Self.purposes.map { (value: $0, name: words.name("duo", $0)) }
        let yesNo = [
            (value: "", name: words("form.not-said")), (value: "yes", name: words("form.yes")),
            (value: "no", name: words("form.no")),
        ]
        let months = FormField.Kind.text(
            type: "number", attributes: ["min": "1", "max": "\(Self.monthsMax)", "inputmode": "numeric"])
        let text = FormField.Kind.text(attributes: ["maxlength": "\(Self.textMax)"])
        return [
            group(
                "request-new.what",
                [
                    field("dataset", .choice([choose] + datasetChoice), isOptional: false),
                    field("purpose", .choice([choose] + purposeChoice), isOptional: false),
                    field("diseases", .text(attributes: ["maxlength": "1000"]), hint: "request-new.diseases.hint"),
                ]),
            group("request-new.facts", Self.facts.map { field($0, .choice(yesNo)) }, about: "request-new.facts.hint"),
            group(
                "request-new.who",
                [
                    field("termMonths", months, isOptional: false),
                    field(
                        "country", .text(attributes: ["maxlength": "2", "autocomplete": "country"]),
                        hint: "request-new.country.hint"), field("institution", text), field("project", text),
                    field("people", .text(attributes: ["maxlength": "1000"]), hint: "request-new.people.hint"),
                ]),
            group(
                "request-new.agree", [], about: "request-new.agree.hint",
                boxes: Self.agreements.map { code in
                    [
                        "id": "agreements-\(code.suffix(2))", "name": "agreements", "value": code,
                        "words": words.name("duo", code), "isChosen": typed.all("agreements").contains(code),
                    ]
                }),
            group(
                "request-new.ethics",
                [
                    field(
                        "ethicsDigest", .text(attributes: ["maxlength": "64", "autocomplete": "off"])),
                    field("ethicsExpires", .text(type: "date")), field("ethicsName", text),
                ], about: "request-new.ethics.hint"),
        ]
    }

    private func group(
        _ name: String, _ fields: [FormField], about: String? = nil, boxes: [[String: Any]] = []
    ) -> [String: Any] {
        var content: [String: Any] = [
            "name": words(name), "fields": fields.map(\.content), "hasBoxes": !boxes.isEmpty, "boxes": boxes,
        ]
        if let about { content["about"] = words(about) }
        return content
    }

    private func field(
        _ id: String, _ kind: FormField.Kind, hint: String? = nil, isOptional: Bool = true
    ) -> FormField {
        FormField(
            id: id, label: words(FieldName.key(id)), kind: kind, value: typed[id] ?? "", hint: hint.map { words($0) },
            fault: faults[id], isOptional: isOptional)
    }

    // MARK: - Reading

    /// The form as the gateway takes it; `nil` with every mistake in `faults`.
    static func read(_ typed: Form, datasets: Set<String>, _ words: Words, _ faults: inout FormFaults) -> JSON? {
        func value(_ id: String) -> String {
            (typed[id] ?? "").trimming()
        }
        var members: [String: JSON] = [:]
        var purpose: [String: JSON] = [:]

        let dataset = value("dataset")
        if dataset.isEmpty {
            faults.add("dataset", words("form.choose"))
        } else if !datasets.contains(dataset) {
            faults.add("dataset", words("request-new.no-dataset"))
        }
        members["dataset"] = .string(dataset)

        let code = value("purpose")
        if !purposes.contains(code) { faults.add("purpose", words("form.choose")) }
        purpose["codes"] = [.string(code)]
        let diseases = value("diseases").split(whereSeparator: { $0.isWhitespace || $0 == "," || $0 == "、" }).map(
            String.init)
        if !diseases.allSatisfy(isMONDO) || diseases.count > 50 {
            faults.add("diseases", words("request-new.diseases.wrong"))
        } else if code == "DUO:0000007", diseases.isEmpty {
            faults.add("diseases", words("request-new.diseases.missing"))
        }
        if !diseases.isEmpty { purpose["diseases"] = .array(diseases.map(JSON.string)) }

        for fact in facts {
            switch value(fact) {
            case "": break
            case "yes": purpose[fact] = true
            case "no": purpose[fact] = false
            default: faults.add(fact, words("form.choose"))
            }
        }
        members["purpose"] = .object(purpose)

        if let months = Int(value("termMonths")), (1...monthsMax).contains(months) {
            members["termMonths"] = .integer(Int64(months))
        } else {
            faults.add("termMonths", words("form.number", ["min": "1", "max": "\(monthsMax)"]))
        }
        let country = value("country").uppercased()
        if !country.isEmpty {
            let isCode = country.utf8.count == 2 && country.utf8.allSatisfy { (0x41...0x5A).contains($0) }
            if !isCode { faults.add("country", words("request-new.country.wrong")) }
            members["country"] = .string(country)
        }
        for id in ["institution", "project"] where !value(id).isEmpty {
            if value(id).count > textMax { faults.add(id, words("form.too-long", ["max": "\(textMax)"])) }
            members[id] = .string(value(id))
        }
        let people = RequestForm.words(value("people"))
        if !people.allSatisfy({ (try? PersonID($0)) != nil }) || people.count > 32 {
            faults.add("people", words("request-new.people.wrong"))
        } else if !people.isEmpty {
            members["people"] = .array(people.map(JSON.string))
        }
        let agreed = typed.all("agreements")
        members["agreements"] = .array(agreements.filter(agreed.contains).map(JSON.string))
        readDocument(
            value("ethicsDigest").lowercased(), value("ethicsExpires"), value("ethicsName"), into: &members, words,
            &faults)
        return faults.isEmpty ? .object(members) : nil
    }

    private static func readDocument(
        _ digest: String, _ expires: String, _ name: String, into members: inout [String: JSON], _ words: Words,
        _ faults: inout FormFaults
    ) {
        members["documents"] = []
        guard !digest.isEmpty || !expires.isEmpty || !name.isEmpty else { return }
        if Digest(hex: digest) == nil { faults.add("ethicsDigest", words("request-new.digest.wrong")) }
        var document: [String: JSON] = ["kind": "ethics", "digest": .string(digest)]
        if name.count > textMax { faults.add("ethicsName", words("form.too-long", ["max": "\(textMax)"])) }
        if !name.isEmpty { document["name"] = .string(name) }
        if !expires.isEmpty {
            // A day counts to its end.
            if let day = Timestamp(parsing: expires), expires.utf8.count == 10 {
                document["expires"] = .string(Timestamp(milliseconds: day.milliseconds + 86_399_999).description)
            } else {
                faults.add("ethicsExpires", words("form.date"))
            }
        }
        members["documents"] = [.object(document)]
    }

    private static func isMONDO(_ text: String) -> Bool {
        text.hasPrefix("MONDO:") && text.utf8.count == 13
            && text.utf8.dropFirst(6).allSatisfy { (0x30...0x39).contains($0) }
    }
}

extension RequestForm {
    /// A granted request's form with what the page has fields for changed; what it has none for stays.
    fileprivate static func change(_ form: JSON, to json: JSON) -> JSON {
        var members = form.objectValue ?? [:]
        for name in ["termMonths", "country", "institution", "project", "people", "answers", "form"] {
            members[name] = nil
        }
        let kept = (form["documents"]?.arrayValue ?? []).filter { $0["kind"] != "ethics" }
        let types = form["purpose"]?["researchTypes"]
        members.merge(json.objectValue ?? [:]) { $1 }
        members["documents"] = .array((json["documents"]?.arrayValue ?? []) + kept)
        if let types, let purpose = members["purpose"] { members["purpose"] = purpose.adding(["researchTypes": types]) }
        return .object(members)
    }
}

extension JSON {
    fileprivate func adding(_ more: [String: JSON]) -> JSON {
        .object((objectValue ?? [:]).merging(more) { $1 })
    }
}

extension String {
    /// Without white space around it, also the wide one of Japanese keyboards.
    func trimming() -> String {
        String(drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
    }
}
