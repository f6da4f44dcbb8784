import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import NIOCore
import Vocabulary

extension Site {
    func registerReleases(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.releasePage) { request, context in
            try await release(gateway, context.identifier("run"), context, done: Done(request))
        }
        routes.on(.releaseReport) { request, context in
            let id: RunID = try context.identifier("run")
            let report = try await gateway.gateReport(of: id, by: context.person)
            let isJSON = request.uri.queryParameters.get("as") == "json"
            let language: GateReport.Language = context.language == .japanese ? .japanese : .english
            return Response(
                status: .ok,
                headers: [
                    .contentType: isJSON ? "application/json" : "text/html; charset=utf-8",
                    .contentDisposition:
                        "attachment; filename=\"gate-report-\(id.text.replacing(":", with: "-")).\(isJSON ? "json" : "html")\"",
                ],
                body: ResponseBody(
                    byteBuffer: ByteBuffer(
                        bytes: isJSON ? report.json.canonical : Array(try report.html(language).utf8))))
        }
        routes.on(.releaseReview) { _, context in try await reviewRelease(gateway, context) }
    }

    private func release(
        _ gateway: Gateway, _ id: RunID, _ context: SekishoContext, done: Done? = nil, typed: Form = Form(),
        verdictFault: String? = nil, problem: [String: Any]? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let entry = try await gateway.release(of: id, by: person)
        // Who reviews no release of this data set sees how it stands, not what is in it.
        let candidate = try? await gateway.candidate(of: id, by: person)
        let review = try await gateway.review(of: id, by: person)
        var content: [String: Any] = [
            "id": id.text, "dataset": entry.dataset.text, "researcher": entry.researcher.text,
            "badge": Self.badge(of: entry.state, words), "hash": entry.candidate,
            "checks": (candidate?.checks ?? []).map { check -> [String: Any] in
                [
                    "name": words.name("check", check.name), "finding": check.finding,
                    "badge": Self.badge(
                        check.passed ? .good : .bad, words(check.passed ? "release.passed" : "release.failed")),
                ]
            },
            "artefacts": (candidate?.artefacts ?? []).map { ["name": $0.name, "bytes": Picture.bytes($0.bytes)] },
        ]
        Self.votes(entry.votes, into: &content, words)
        let isWaiting = entry.state == .waiting && review != nil
        content["rule"] = words("release.rule")
        if isWaiting { content["hidden"] = words("release.hidden") }
        if !isWaiting, Set(entry.votes.map(\.approves)).count == 2 { content["conflict"] = words("release.conflict") }
        if let missing = review?.missing {
            content["missing"] = words(
                "votes.missing", ["count": "\(missing.count)", "roles": words.roles(missing.roles)])
        }
        if review?.mayReview == true {
            content["review"] = Self.reviewForm(
                to: "/runs/\(id)/release/reviews", typed, verdictFault, nil, words, asksWhy: false,
                candidate: entry.candidate)
        }
        content["problem"] = problem
        return page(
            "release", titled: words("release.title", ["id": id.text]), content, at: "/runs/\(id)/release", context,
            done: done, status: status)
    }

    private static func badge(of state: ReleaseState, _ words: Words) -> [String: Any] {
        switch state {
        case .waiting: badge(.waiting, words("release.state.waiting"))
        case .released: badge(.good, words("release.state.released"))
        case .refused: badge(.bad, words("release.state.refused"))
        }
    }

    private func reviewRelease(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let id: RunID = try context.identifier("run")
        let typed = context.form
        guard let verdict = typed["verdict"].flatMap(Verdict.init) else {
            var faults = FormFaults()
            faults.add("verdict", words("review.verdict.missing"))
            return try await release(
                gateway, id, context, typed: typed, verdictFault: faults["verdict"],
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words), status: .badRequest)
        }
        do {
            // The hash is what the reviewer saw: a word on anything else is refused.
            let path = try await sent.once(typed["form"], by: person) {
                try await gateway.reviewRelease(of: id, verdict, candidate: typed["candidate"] ?? "", by: person)
                return "/runs/\(id)/release?done=\(Done.released)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where [.usage, .refused, .notFound].contains(error.code) {
            return try await release(
                gateway, id, context, typed: typed,
                problem: Self.fault(
                    words("review.too-late"), detail: error.publicDescription, kept: words("review.too-late.kept"),
                    words), status: .conflict)
        }
    }
}
