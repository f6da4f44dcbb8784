import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Vocabulary

extension Site {
    static let commentMax = 2000

    func registerReviews(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.reviewsPage) { request, context in try await reviews(gateway, request, context) }
        routes.on(.requestReview) { _, context in try await review(gateway, context) }
    }

    private func reviews(
        _ gateway: Gateway, _ request: Request, _ context: SekishoContext
    ) async throws -> Response {
        let words = Words.of(context.language)
        let isMine = request.uri.queryParameters.get("of") != "all"
        let page = try await gateway.reviews(try Self.pageRequest(request), mine: isMine, by: context.person)
        let now = gateway.clock.now()
        var content: [String: Any] = [
            "lead": words("reviews.lead"), "isMine": isMine, "hasItems": !page.items.isEmpty,
            "items": page.items.map { entry -> [String: Any] in
                let (title, link) =
                    switch entry.subject {
                    case .request(let id): (words("reviews.request", ["id": id.text]), "/requests/\(id)")
                    case .emergency(let id): (words("reviews.emergency", ["id": id.text]), "/requests/\(id)")
                    case .release(let id): (words("reviews.release", ["id": id.text]), "/runs/\(id)/release")
                    }
                return [
                    "title": title, "link": link, "subject": entry.dataset.text, "owner": entry.owner.text,
                    "since": words.time(entry.since), "age": words.age(since: entry.since, now: now),
                    "missing": words(
                        "votes.missing", ["count": "\(entry.missing.count)", "roles": words.roles(entry.missing.roles)]),
                    "badge": Self.badge(
                        entry.mayReview ? .moving : .waiting,
                        words(entry.mayReview ? "reviews.yours" : "reviews.others")),
                ]
            },
        ]
        content["next"] = page.next.map { next in
            let fields = [(name: "after", value: "\(next)")] + (isMine ? [] : [(name: "of", value: "all")])
            return "/reviews?\(Form(fields).encoded)"
        }
        return self.page(
            "reviews", titled: words("reviews.title"), content, at: "/reviews", context, done: Done(request))
    }

    /// For the template `review-form`.
    static func reviewForm(
        to action: String, _ typed: Form, _ verdictFault: String?, _ commentFault: String?, _ words: Words,
        asksWhy: Bool, candidate: String? = nil, conditions: Bool = false
    ) -> [String: Any] {
        var content: [String: Any] = [
            "action": action, "form": formNumber(typed), "isApproved": typed["verdict"] == Verdict.approve.rawValue,
            "isRejected": typed["verdict"] == Verdict.reject.rawValue,
        ]
        content["verdictFault"] = verdictFault
        if conditions {
            content["conditions"] = [
                "fields": KnownName.conditions.map { code in
                    FormField(
                        id: "condition-\(code)", label: words("condition.\(code)"),
                        kind: .text(attributes: ["maxlength": "500", "autocomplete": "off"]),
                        value: typed["condition-\(code)"] ?? ""
                    ).content
                }
            ]
        }
        content["candidate"] = candidate
        if asksWhy {
            content["commentField"] =
                FormField(
                    id: "comment", label: words("review.comment"), kind: .area(rows: 4, max: commentMax),
                    value: typed["comment"] ?? "", hint: words("review.comment.hint"), fault: commentFault
                ).content
        }
        return content
    }

    private func review(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let id: RequestID = try context.identifier("request")
        let typed = context.form
        let comment = (typed["comment"] ?? "").trimming()
        var faults = FormFaults()
        let verdict = typed["verdict"].flatMap(Verdict.init)
        if verdict == nil { faults.add("verdict", words("review.verdict.missing")) }
        if comment.count > Self.commentMax {
            faults.add("comment", words("form.too-long", ["max": "\(Self.commentMax)"]))
        }
        guard let verdict, faults.isEmpty else {
            return try await request(
                gateway, id, context, typed: typed, verdictFault: faults["verdict"], commentFault: faults["comment"],
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words), status: .badRequest)
        }
        let conditions = JSON.array(
            KnownName.conditions.compactMap { code in
                let value = (typed["condition-\(code)"] ?? "").trimming()
                return value.isEmpty ? nil : ["code": .string(code), "value": .string(value)]
            })
        do {
            let path = try await sent.once(typed["form"], by: person) {
                try await gateway.review(id, verdict, comment: comment, conditions: conditions, by: person)
                _ = try await gateway.advance(id)
                return "/requests/\(id)?done=\(Done.reviewed)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where error.code == .usage || error.code == .refused {
            // Somebody else was first, or this reviewer was: the page shows how it stands and what was typed.
            let isLate = error.code == .usage
            var typedAgain = Self.fault(
                words(isLate ? "review.too-late" : "form.not-taken"), detail: error.publicDescription,
                kept: words(isLate ? "review.too-late.kept" : "form.kept"), words)
            if !comment.isEmpty {
                typedAgain["typed"] = ["title": words("review.typed"), "text": comment]
            }
            return try await request(
                gateway, id, context, typed: typed, problem: typedAgain,
                status: isLate ? .conflict : .forbidden)
        }
    }
}
