import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary
import WebAPI

/// What becomes of a request, over the network and on its pages.
@Suite struct RequestAPITests {
    private static let json = [("Content-Type", "application/json")]

    private static let form = """
        version: 1
        title: { en: "About the study", ja: "研究について" }
        fields:
          - { id: summary, kind: text, label: { en: "Why you ask", ja: "申請の理由" }, required: true, length_max: 40 }
          - { id: agree, kind: boolean, label: { en: "I keep no copy" }, required: true, must_be_true: true }

        """

    private func withDoor(form: String? = nil, _ body: (OpenDoor) async throws -> Void) async throws {
        let site = Site()
        try await withOpenDoor(
            pages: site,
            register: { routes in
                APIRoutes.register(routes)
                site.register(routes)
            }
        ) { door in
            let files = [("clinic.yaml", Clinic.policy)] + (form.map { [("clinic.form.yaml", $0)] } ?? [])
            try await bringIntoForce(
                PolicyFolder(files), door.gateway,
                signedBy: [OpenDoor.person(.dac), OpenDoor.person(.dataCustodian), OpenDoor.person(.securityOfficer)],
                administrator: OpenDoor.person(.policyAdministrator), keys: door.folder)
            try await body(door)
        }
    }

    @Test("a draft is saved over the version that was changed, listed for its writer only, and filed once")
    func drafts() async throws {
        try await withDoor { door in
            let token = try await door.token(.researcher)
            let made = try await door.ask(
                "POST", "/api/v1/drafts", token: token, headers: Self.json, body: #"{"project":"half"}"#)
            #expect(made.status == 201 && made.json?["version"] == 1)
            let path = try #require(made.headers["Location"].first)
            let tag = try #require(made.headers["ETag"].first)
            let saved = try await door.ask(
                "PUT", path, token: token, headers: Self.json + [("If-Match", tag)], body: Clinic.form)
            #expect(saved.status == 200 && saved.json?["version"] == 2)
            let late = try await door.ask(
                "PUT", path, token: token, headers: Self.json + [("If-Match", tag)], body: "{}")
            #expect(late.status == 412 && late.code == "changed")
            let gone = try await door.ask("DELETE", path, token: token, headers: [("If-Match", tag)])
            #expect(gone.status == 412)
            let alien = try await door.ask(
                "PUT", path, token: token, headers: Self.json + [("If-Match", "\"x.y\"")], body: "{}")
            #expect(alien.status == 412)
            let other = try await door.token(.complianceOfficer)
            #expect(try await door.ask("GET", path, token: other).status == 403)
            #expect(try await door.ask("GET", "/api/v1/drafts", token: token).json?["drafts"]?.arrayValue?.count == 1)
            let filed = try await door.ask("POST", path + "/file", token: token, headers: Self.json, body: "{}")
            #expect(filed.status == 201 && filed.json?["state"] == "waiting")
            #expect(try await door.ask("GET", "/api/v1/drafts", token: token).json?["drafts"] == [])
            let again = try await door.ask("POST", path + "/file", token: token, headers: Self.json, body: "{}")
            #expect(again.status == 201 && again.json?["request"] == filed.json?["request"])
        }
    }

    @Test("a request is approved under conditions, renewed, added to, ended and confirmed")
    func life() async throws {
        try await withDoor { door in
            let researcher = try await door.token(.researcher)
            let (dac, custodian) = (try await door.token(.dac), try await door.token(.dataCustodian))
            func post(_ path: String, _ token: String, _ body: String) async throws -> OpenDoor.Answer {
                try await door.ask("POST", "/api/v1/requests\(path)", token: token, headers: Self.json, body: body)
            }
            _ = try await post("", researcher, Clinic.form)
            let seen = try await door.ask("GET", "/api/v1/requests/request-1", token: researcher)
            #expect(seen.json?["actions"] == ["see", "withdraw", "resume"])
            for (conditions, status) in [
                (#"[{"code":"months-max","value":"0"}]"#, 422), (#"[{"code":"months","value":"6"}]"#, 400),
                (#"[{"code":"months-max"}]"#, 400), ("{}", 400),
            ] {
                let wrong = try await post(
                    "/request-1/reviews", dac, #"{"verdict":"approve","conditions":\#(conditions)}"#)
                #expect(wrong.status == status, "\(conditions): \(wrong.text)")
            }
            let first = try await post(
                "/request-1/reviews", dac,
                #"{"verdict":"approve","conditions":[{"code":"months-max","value":"2"}]}"#)
            #expect(first.json?["votes"]?.arrayValue?.first?["conditions"] == [["code": "months-max", "value": "2"]])
            // Who has not spoken sees no other's word.
            let blind = try await door.ask("GET", "/api/v1/requests/request-1", token: custodian)
            #expect(blind.json?["votes"] == [])
            _ = try await post("/request-1/reviews", custodian, #"{"verdict":"approve"}"#)
            let digest = String(repeating: "c", count: 64)
            let added = try await post(
                "/request-1/documents", researcher, #"{"kind":"ethics","digest":"\#(digest)","name":"a.pdf"}"#)
            #expect(added.status == 200 && added.json?["documents"]?.arrayValue?.last?["name"] == "a.pdf")
            #expect(try await post("/request-1/documents", researcher, #"{"kind":"ethics"}"#).status == 400)
            let renewed = try await post("/request-1/renew", researcher, #"{"termMonths":12}"#)
            #expect(renewed.status == 201 && renewed.json?["follows"] == "request-1")
            #expect(try await post("/request-2/withdraw", researcher, "{}").json?["state"] == "withdrawn")
            #expect(try await post("/request-2/withdraw", researcher, "{}").status == 422)
            #expect(
                try await post("/request-1/close-out", researcher, #"{"report":"x","confirmed":true}"#).status == 422)
            let closing = try await post(
                "/request-1/close-out", researcher, #"{"report":"All is done now.","confirmed":true}"#)
            #expect(closing.json?["state"] == "closing" && closing.json?["report"] == "All is done now.")
            #expect(try await post("/request-1/confirm-closure", custodian, "{}").json?["state"] == "closed")
            let notices = try await door.ask("GET", "/api/v1/notices?order=oldest", token: researcher)
            let items = notices.json?["items"]?.arrayValue ?? []
            #expect(items.compactMap { $0["code"]?.stringValue } == ["request-granted", "request-closed"])
            let last = try #require(items.last?["notice"]?.integerValue)
            let read = try await door.ask(
                "POST", "/api/v1/notices/read", token: researcher, headers: Self.json, body: #"{"up_to":\#(last)}"#)
            #expect(read.json == ["unread": 0])
            let matrix = try await door.ask("GET", "/api/v1/request-matrix", token: researcher)
            #expect(matrix.json?["cells"] == RequestLife.json)
            #expect(try await door.ask("GET", "/api/v1/form-schema", token: researcher).json == Gateway.formSchema)
            #expect(try await door.ask("GET", "/api/v1/datasets/test:clinic/form", token: researcher).status == 404)
        }
    }

    // MARK: - Pages

    private static func hidden(_ name: String, in page: OpenDoor.Answer) -> String {
        page.text.split(separator: "name=\"\(name)\" value=\"").dropFirst().first
            .map { String($0.prefix { $0 != "\"" }) } ?? ""
    }

    @Test("a page saves a draft with a script and without one, and of two tabs none writes over the other")
    func autosave() async throws {
        try await withDoor { door in
            let cookie = try await door.signIn(.researcher)
            let page = try await door.ask("GET", "/requests/new", cookie: cookie)
            #expect(page.text.contains("data-autosave=\"/drafts\""))
            let csrf = (name: "csrf", value: Self.hidden("csrf", in: page))
            func save(_ fields: [(name: String, value: String)], isScript: Bool) async throws -> OpenDoor.Answer {
                try await door.ask(
                    "POST", "/drafts", cookie: cookie,
                    headers: [
                        ("Content-Type", "application/x-www-form-urlencoded"),
                        ("Origin", "https://127.0.0.1:\(door.port)"), ("Sec-Fetch-Site", "same-origin"),
                        ("Accept", isScript ? "application/json" : "text/html"),
                    ], body: Form([csrf] + fields).encoded)
            }
            let first = try await save(
                [(name: "project", value: "half"), (name: "termMonths", value: "six"), (name: "draft", value: "")],
                isScript: true)
            #expect(first.status == 200 && first.json?["version"] == 1, "\(first.text)")
            let id = try #require(first.json?["draft"]?.stringValue)
            func tab(_ version: String, _ project: String) -> [(name: String, value: String)] {
                [(name: "project", value: project), (name: "draft", value: id), (name: "version", value: version)]
            }
            #expect(try await save(tab("1", "one tab"), isScript: true).json?["version"] == 2)
            let late = try await save(tab("1", "other tab"), isScript: true)
            #expect(late.status == 412 && late.json?["words"]?.stringValue?.contains("elsewhere") == true)
            let lateByHand = try await save(tab("1", "other tab"), isScript: false)
            #expect(lateByHand.status == 412 && lateByHand.text.contains("other tab"))
            let byHand = try await save(tab("2", "by hand"), isScript: false)
            #expect(byHand.status == 303 && byHand.headers["Location"] == ["/drafts/\(id)?done=saved"])
            let shown = try await door.ask("GET", "/drafts/\(id)", cookie: cookie)
            #expect(shown.text.contains("value=\"by hand\"") && shown.text.contains("Saved at"))
            #expect(try await door.ask("GET", "/requests", cookie: cookie).text.contains("/drafts/\(id)"))
            let stranger = try await door.signIn(.complianceOfficer)
            #expect(try await door.ask("GET", "/drafts/\(id)", cookie: stranger).status == 403)
            let discarded = try await door.post("/drafts/\(id)/discard", cookie: cookie, [csrf])
            #expect(discarded.status == 303)
            #expect(try await door.ask("GET", "/drafts/\(id)", cookie: cookie).status == 404)
        }
    }

    @Test("who has unread notices sees how many in the head of every page, and reads them")
    func unread() async throws {
        try await withDoor { door in
            let token = try await door.token(.researcher)
            _ = try await door.ask("POST", "/api/v1/requests", token: token, headers: Self.json, body: Clinic.form)
            let cookie = try await door.signIn(.dac)
            let page = try await door.ask("GET", "/reviews", cookie: cookie)
            #expect(page.text.contains("<strong class=\"count\">1</strong>"))
            let notices = try await door.ask("GET", "/notices", cookie: cookie)
            #expect(notices.text.contains("request-1 waits for your review"))
            let fields = [
                (name: "csrf", value: Self.hidden("csrf", in: notices)),
                (name: "last", value: Self.hidden("last", in: notices)),
            ]
            #expect(try await door.post("/notices/read", cookie: cookie, fields).status == 303)
            let after = try await door.ask("GET", "/reviews", cookie: cookie)
            #expect(!after.text.contains("class=\"count\""))
        }
    }

    @Test("every act on a request is a form on its page that works without a script")
    func acts() async throws {
        try await withDoor { door in
            let token = try await door.token(.researcher)
            _ = try await door.ask("POST", "/api/v1/requests", token: token, headers: Self.json, body: Clinic.form)
            let cookie = try await door.signIn(.researcher)
            func page() async throws -> OpenDoor.Answer {
                try await door.ask("GET", "/requests/request-1", cookie: cookie)
            }
            let waiting = try await page()
            #expect(waiting.text.contains("action=\"/requests/request-1/withdraw\""))
            #expect(!waiting.text.contains("action=\"/requests/request-1/renew\""))
            let csrf = (name: "csrf", value: Self.hidden("csrf", in: waiting))
            for role in [Role.dac, .dataCustodian] {
                let reviewer = try await door.signIn(role)
                let seen = try await door.ask("GET", "/requests/request-1", cookie: reviewer)
                let answer = try await door.post(
                    "/requests/request-1/reviews", cookie: reviewer,
                    [
                        (name: "csrf", value: Self.hidden("csrf", in: seen)), (name: "verdict", value: "approve"),
                        (name: "condition-months-max", value: role == .dac ? "3" : ""),
                    ])
                #expect(answer.status == 303, "\(answer.text)")
            }
            let granted = try await page()
            for act in ["renew", "documents", "close-out"] {
                #expect(granted.text.contains("action=\"/requests/request-1/\(act)\""), "\(act)")
            }
            #expect(granted.text.contains("Ends after 3 months"))
            let late = try await door.post("/requests/request-1/withdraw", cookie: cookie, [csrf])
            #expect(late.status == 400 || late.status == 422, "\(late.status)")
            let change = try await door.ask("GET", "/requests/request-1/change", cookie: cookie)
            #expect(change.text.contains("value=\"test-project\"") && !change.text.contains("data-autosave"))
            let closed = try await door.post(
                "/requests/request-1/close-out", cookie: cookie,
                [csrf, (name: "report", value: "All is done now."), (name: "confirmed", value: "yes")])
            #expect(closed.status == 303)
            #expect(try await page().text.contains("All is done now."))
        }
    }

    @Test("a data set's own form is asked on the page and by the API, and its answers are held to it")
    func ownForm() async throws {
        try await withDoor(form: Self.form) { door in
            let token = try await door.token(.researcher)
            let form = try await door.ask("GET", "/api/v1/datasets/test:clinic/form", token: token)
            let digest = try #require(form.json?["digest"]?.stringValue)
            #expect(form.json?["fields"]?.arrayValue?.count == 2)
            func file(_ answers: String) async throws -> OpenDoor.Answer {
                let body = Clinic.form.replacing(
                    "{\"dataset\"", with: "{\"form\":\"\(digest)\",\"answers\":\(answers),\"dataset\"")
                return try await door.ask("POST", "/api/v1/requests", token: token, headers: Self.json, body: body)
            }
            #expect(try await file("{}").status == 422)
            #expect(try await file(#"{"summary":"why","agree":false}"#).status == 422)
            #expect(try await file(#"{"summary":"why","agree":true}"#).status == 201)
            let cookie = try await door.signIn(.researcher)
            let page = try await door.ask(
                "GET", "/requests/new?dataset=test:clinic", cookie: cookie, headers: [("Accept-Language", "ja")])
            #expect(page.text.contains("申請の理由") && page.text.contains("name=\"ownForm\" value=\"\(digest)\""))
        }
    }
}
