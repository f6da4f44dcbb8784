import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Vocabulary

extension Site {
    func registerAccess(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.accessPage) { request, context in try await access(gateway, context, done: Done(request)) }
        routes.on(.accessRevoke) { _, context in try await revoke(gateway, context) }
        routes.on(.emergencyReview) { _, context in try await reviewEmergency(gateway, context) }
        routes.on(.passportPage) { request, context in try await passport(gateway, context, done: Done(request)) }
        routes.on(.passportPresent) { _, context in try await present(gateway, context) }
    }

    // MARK: - Taking access away

    /// What a person's access reaches, and the form that ends it.
    private func access(
        _ gateway: Gateway, _ context: SekishoContext, done: Done? = nil, typed: Form = Form(),
        problem: [String: Any]? = nil, reasonFault: String? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let person: PersonID = try context.identifier("person")
        let reach = try await gateway.accessReach(of: person, by: context.person)
        let rows =
            reach.grants.map { grant in
                Self.reached(
                    "/requests/\(grant.request)", grant.id.text, grant.dataset,
                    words.name("origin", grant.origin.rawValue),
                    words("request.grant.until", ["day": words.day(grant.expires)]))
            }
            + reach.requests.map {
                Self.reached(
                    "/requests/\($0.id)", $0.id.text, $0.dataset, words("request.state.waiting"), words.minute($0.filed)
                )
            }
            + reach.runs.map {
                Self.reached(
                    "/runs/\($0.id)", $0.id.text, $0.dataset, words.name("stage", $0.stage.rawValue),
                    words($0.holdsDevice ? "access.device" : "access.no-device"))
            }
        var content: [String: Any] = [
            "lead": words("access.lead"), "hasRows": !rows.isEmpty, "rows": rows,
        ]
        if let revocation = reach.revocation {
            content["revoked"] = words(
                "access.is-revoked",
                [
                    "reason": words.name("revocation", revocation.reason.rawValue), "person": revocation.by.text,
                    "time": words.minute(revocation.time),
                ])
        } else if !Route.accessRevoke.rule.roles.isDisjoint(with: context.identity?.roles ?? []) {
            let options =
                [(value: "", name: words("form.choose"))]
                + RevocationReason.allCases.map { ($0.rawValue, words.name("revocation", $0.rawValue)) }
            content["revoke"] = [
                "action": "/access/\(person)", "form": Self.formNumber(typed),
                "reasonField": FormField(
                    id: "reason", label: words("access.reason"), kind: .choice(options), value: typed["reason"] ?? "",
                    hint: words("access.told"), fault: reasonFault, isOptional: false
                ).content,
                "commentField": FormField(
                    id: "comment", label: words("review.comment"), kind: .area(rows: 3, max: 1000),
                    value: typed["comment"] ?? "", hint: words("access.kept")
                ).content,
            ]
        }
        content["problem"] = problem
        return page(
            "access", titled: words("access.title", ["person": person.text]), content, at: "/access/\(person)", context,
            done: done, status: status)
    }

    private static func reached(
        _ link: String, _ name: String, _ dataset: DatasetID, _ state: String, _ more: String
    ) -> [String: Any] {
        ["link": link, "name": name, "dataset": dataset.text, "state": state, "more": more]
    }

    private func revoke(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person: PersonID = try context.identifier("person")
        let actor = try context.person
        let typed = context.form
        let comment = (typed["comment"] ?? "").trimming()
        guard let reason = typed["reason"].flatMap(RevocationReason.init), comment.count <= 1000 else {
            var faults = FormFaults()
            faults.add("reason", words("access.reason.missing"))
            return try await access(
                gateway, context, typed: typed,
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words),
                reasonFault: faults["reason"], status: .badRequest)
        }
        do {
            let path = try await sent.once(typed["form"], by: actor) {
                _ = try await gateway.revokeAccess(of: person, reason: reason, comment: comment, by: actor)
                return "/access/\(person)?done=\(Done.revoked)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where error.code == .usage {
            return try await access(
                gateway, context, typed: typed,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("form.kept"), words),
                status: .conflict)
        }
    }

    // MARK: - Looking at an emergency afterwards

    /// For the template `request`, where its reader may say what they found.
    static func emergencyForm(_ id: RequestID, _ typed: Form, _ words: Words) -> [String: Any] {
        [
            "action": "/requests/\(id)/emergency-review", "form": formNumber(typed),
            "isJustified": typed["finding"] == "justified", "isUnjustified": typed["finding"] == "unjustified",
            "commentField": FormField(
                id: "comment", label: words("emergency.found"), kind: .area(rows: 4, max: commentMax),
                value: typed["comment"] ?? "", hint: words("emergency.found.hint"), isOptional: false
            ).content,
        ]
    }

    private func reviewEmergency(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let id: RequestID = try context.identifier("request")
        let typed = context.form
        let comment = (typed["comment"] ?? "").trimming()
        var problem: [String: Any]?
        var status = HTTPResponse.Status.badRequest
        if let finding = typed["finding"], ["justified", "unjustified"].contains(finding) {
            do {
                let path = try await sent.once(typed["form"], by: person) {
                    try await gateway.reviewEmergency(
                        id, justified: finding == "justified", comment: comment, by: person)
                    return "/requests/\(id)?done=\(Done.reviewed)"
                }
                return Self.redirect(to: path)
            } catch let error as GatewayError where [.usage, .refused].contains(error.code) {
                status = error.code == .refused ? .forbidden : .badRequest
                problem = Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("form.kept"), words)
            }
        }
        return try await request(
            gateway, id, context, typed: typed,
            problem: problem ?? Self.fault(words("form.wrong"), detail: nil, kept: words("emergency.choose"), words),
            status: status)
    }

    // MARK: - One's passport

    private func passport(
        _ gateway: Gateway, _ context: SekishoContext, done: Done? = nil, typed: Form = Form(),
        problem: [String: Any]? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let held = try await gateway.passport(of: context.person)
        var content: [String: Any] = [
            "lead": words("passport.lead"), "form": Self.formNumber(typed),
            "field": FormField(
                id: "passport", label: words("passport.text"),
                kind: .area(rows: 6, max: PassportEntry.bytesMax), value: typed["passport"] ?? "",
                hint: words("passport.text.hint"), isOptional: false
            ).content,
            "hasVisas": held != nil,
        ]
        if let held {
            content["presented"] = words("passport.presented", ["time": words.minute(held.presented)])
            content["visas"] = held.visas.map { visa -> [String: Any] in
                [
                    "type": visa.type, "value": visa.value,
                    "until": words("request.grant.until", ["day": words.day(visa.expires)]),
                    "badge": Self.badge(
                        visa.counts ? .good : .bad, words(visa.counts ? "passport.counts" : "passport.counts-not")),
                ]
            }
            content["hasRefused"] = !held.refused.isEmpty
            content["refused"] = held.refused.map {
                ["words": words("passport.refused", ["number": "\($0.number)"]), "why": $0.words]
            }
        }
        content["problem"] = problem
        return page(
            "passport", titled: words("passport.title"), content, at: "/passport", context, done: done, status: status)
    }

    private func present(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let typed = context.form
        do {
            let path = try await sent.once(typed["form"], by: person) {
                _ = try await gateway.presentPassport((typed["passport"] ?? "").trimming(), by: person)
                return "/passport?done=\(Done.presented)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where [.usage, .refused, .unavailable].contains(error.code) {
            return try await passport(
                gateway, context,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("passport.again"), words),
                status: .init(code: Problem(error).status))
        }
    }
}
