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
        let page = try await gateway.requests(try Self.pageRequest(request), where: filter, by: person)
        var content: [String: Any] = [
            "lead": words(isResearcher ? "requests.lead" : "requests.all-lead"), "mayAsk": isResearcher,
            "hasItems": !page.items.isEmpty,
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
        }
    }

    /// Who has to do something now.
    private static func holder(of entry: RequestEntry, seenBy person: PersonID, _ words: Words) -> String {
        switch entry.state {
        case .waiting(let missing):
            words("request.holder.waiting", ["count": "\(missing.count)", "roles": words.roles(missing.roles)])
        case .granted where entry.requester == person: words("request.holder.mine")
        case .granted: words("request.holder.other", ["person": entry.requester.text])
        case .refused: words("request.holder.nobody")
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
        if case .granted(let grantID) = entry.state {
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
            if isOwn, !grant.isExpired, grant.revocation == nil {
                shown["startLink"] = "/runs/new?\(Form([(name: "grant", value: grantID.text)]).encoded)"
            }
            content["grant"] = shown
        }
        if let verdict = Self.verdict(records, words) { content["verdict"] = verdict }
        if !isOwn, !Route.accessPage.rule.roles.isDisjoint(with: context.identity?.roles ?? []) {
            content["accessLink"] = "/access/\(entry.requester)"
        }
        if review?.mayReview == true, review?.subject == .emergency(id) {
            content["emergency"] = Self.emergencyForm(id, typed, words)
        } else if review?.mayReview == true {
            content["review"] = Self.reviewForm(
                to: "/requests/\(id)/reviews", typed, verdictFault, commentFault, words, asksWhy: true)
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
        for document in form["documents"]?.arrayValue ?? [] {
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

    private func newRequest(
        _ gateway: Gateway, _ typed: Form, _ context: SekishoContext, _ faults: FormFaults = FormFaults(),
        problem: [String: Any]? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let datasets = try await gateway.datasets(PageRequest(limit: PageRequest.limitMax), by: context.person)
        let form = RequestForm(typed, datasets: Set(datasets.items.map(\.dataset.text)), faults: faults, words)
        var content: [String: Any] = [
            "listLink": "/requests", "listName": words("requests.title"), "lead": words("request-new.lead"),
            "action": "/requests", "send": words("request-new.send"), "groups": form.groups,
            "form": Self.formNumber(typed),
        ]
        content["problem"] = problem
        return page(
            "form-page", titled: words("request-new.title"), content, at: "/requests/new", context, status: status)
    }

    /// The number that the form came with, or a fresh one.
    static func formNumber(_ typed: Form) -> String {
        if let number = typed["form"], number.utf8.count == 32, Hex.decode(number) != nil { return number }
        return SentForms.freshNumber()
    }

    private func file(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let typed = context.form
        let datasets = try await gateway.datasets(PageRequest(limit: PageRequest.limitMax), by: person)
        var faults = FormFaults()
        let known = Set(datasets.items.map(\.dataset.text))
        guard let json = RequestForm.read(typed, datasets: known, words, &faults) else {
            return try await newRequest(
                gateway, typed, context, faults,
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words),
                status: .badRequest)
        }
        do {
            let path = try await sent.once(typed["form"], by: person) {
                let id = try await gateway.fileRequest(json.canonicalText, by: person)
                _ = try await gateway.advance(id)
                return "/requests/\(id)?done=\(Done.filed)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where error.code == .usage || error.code == .refused {
            return try await newRequest(
                gateway, typed, context,
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
    private static let monthsMax = 120

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
                    field("ethicsExpires", .text(type: "date")),
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
        let agreed = typed.all("agreements")
        members["agreements"] = .array(agreements.filter(agreed.contains).map(JSON.string))
        readDocument(value("ethicsDigest").lowercased(), value("ethicsExpires"), into: &members, words, &faults)
        return faults.isEmpty ? .object(members) : nil
    }

    private static func readDocument(
        _ digest: String, _ expires: String, into members: inout [String: JSON], _ words: Words,
        _ faults: inout FormFaults
    ) {
        members["documents"] = []
        guard !digest.isEmpty || !expires.isEmpty else { return }
        if Digest(hex: digest) == nil { faults.add("ethicsDigest", words("request-new.digest.wrong")) }
        var document: [String: JSON] = ["kind": "ethics", "digest": .string(digest)]
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

extension String {
    /// Without white space around it, also the wide one of Japanese keyboards.
    func trimming() -> String {
        String(drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
    }
}
