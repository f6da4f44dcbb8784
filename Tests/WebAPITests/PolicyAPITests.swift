import Foundation
import Gateway
import NIOHTTP1
import TestSupport
import Testing
import Vocabulary
import WebAPI

/// Policies over HTTP: what they say, how they come into force, and who may.
@Suite struct PolicyAPITests {
    private static let json = [("Content-Type", "application/json")]

    private func files(_ text: String) -> String {
        JSON.object(["files": [["name": "clinic.yaml", "content": .string(text)]]]).canonicalText
    }

    @Test("a bundle is proposed, signed by three and activated; a rollback proposes the first one's files again")
    func bundles() async throws {
        try await APITests().withAPI { door in
            let administrator = try await door.token(.policyAdministrator)
            func post(_ path: String, _ token: String, _ body: String = "{}") async throws -> OpenDoor.Answer {
                try await door.ask("POST", "/api/v1/policies/\(path)", token: token, headers: Self.json, body: body)
            }
            let wider = Clinic.policy.replacing("hours_max: 1000", with: "hours_max: 2000")
            let proposed = try await post("bundles", administrator, files(wider))
            #expect(proposed.status == 201 && proposed.headers["Location"] == ["/api/v1/policies/bundles/2"])
            #expect(proposed.json?["widens"] == true && proposed.json?["signatures_needed"] == 3)
            #expect(
                proposed.json?["changes"]?.arrayValue?.first?["rule"] == "test:clinic/training.device.hours_max")
            let early = try await post("bundles/2/activate", administrator)
            #expect(early.status == 403 && early.code == "refused")
            let statement = try #require(proposed.json?["statement"])
            for role in [Role.dac, .dataCustodian, .securityOfficer] {
                let token = try await door.token(role)
                let key = door.folder.appendingPathComponent("policy-\(OpenDoor.person(role)).key")
                if !FileManager.default.fileExists(atPath: key.path) {
                    let text = try PolicyKeyFile.generate(at: key)
                    let told = try await post("keys", token, #"{"key":"\#(text)"}"#)
                    #expect(told.status == 200)
                }
                let signature = try PolicyKeyFile.sign(
                    statement, of: PolicyFolder([("clinic.yaml", wider)]), with: key)
                let signed = try await post("bundles/2/signatures", token, #"{"signature":"\#(signature)"}"#)
                #expect(signed.status == 200, "\(signed.text)")
                let again = try await post("bundles/2/signatures", token, #"{"signature":"\#(signature)"}"#)
                #expect(again.status == 422)
            }
            let active = try await post("bundles/2/activate", administrator)
            #expect(active.status == 200 && active.json?["state"] == "active")
            let now = try await door.ask("GET", "/api/v1/policies", token: door.token(.researcher))
            #expect(now.json?["number"] == 2 && now.json?["policy"] == active.json?["bundle"])

            let back = try await post("bundles/1/return", administrator)
            #expect(back.status == 201 && back.json?["returns_to"] == 1 && back.json?["widens"] == false)
            let list = try await door.ask("GET", "/api/v1/policies/bundles?limit=2", token: administrator)
            #expect(list.json?["items"]?.arrayValue?.compactMap { $0["number"]?.integerValue } == [3, 2])
            #expect(list.json?["next"]?.stringValue != nil)
            let held = try await door.ask("GET", "/api/v1/policies/bundles/1/files", token: administrator)
            #expect(held.json?["files"]?.arrayValue?.first?["content"]?.stringValue == Clinic.policy)
        }
    }

    @Test("what is not there, not well formed or not for the caller is refused, and nothing is proposed")
    func refusals() async throws {
        try await APITests().withAPI { door in
            let administrator = try await door.token(.policyAdministrator)
            let cases: [(method: String, path: String, role: Role, body: String?, status: Int)] = [
                ("POST", "bundles", .policyAdministrator, files("version: 2\n"), 403),
                ("POST", "bundles", .policyAdministrator, files(Clinic.policy), 422),
                ("POST", "bundles", .dac, files(Clinic.policy), 403),
                ("POST", "bundles", .policyAdministrator, #"{"files":[]}"#, 400),
                ("GET", "bundles/9", .policyAdministrator, nil, 404),
                ("GET", "bundles/01", .policyAdministrator, nil, 404),
                ("GET", "bundles/-1", .policyAdministrator, nil, 404),
                ("GET", "bundles/1", .researcher, nil, 403),
                ("POST", "bundles/1/signatures", .dac, #"{"signature":"00"}"#, 422),
                ("POST", "bundles/1/activate", .policyAdministrator, "{}", 422),
                ("POST", "bundles/9/return", .policyAdministrator, "{}", 404),
                ("POST", "keys", .dac, #"{"key":"00"}"#, 422),
                ("POST", "keys", .researcher, #"{"key":"00"}"#, 403),
                ("POST", "keys/revoke", .dac, #"{"person":"p-data-custodian"}"#, 403),
                ("POST", "compare", .dac, "{}", 403),
                ("POST", "compare", .policyAdministrator, #"{"old":9}"#, 404),
                ("POST", "compare", .policyAdministrator, #"{"old":0}"#, 400),
                ("POST", "decide", .policyAdministrator, "{}", 400),
                ("POST", "decide", .policyAdministrator, #"{"input":{"ask":"access"}}"#, 422),
                ("GET", "matrix?bundle=x", .policyAdministrator, nil, 400),
            ]
            for test in cases {
                let answer = try await door.ask(
                    test.method, "/api/v1/policies/\(test.path)", token: door.token(test.role),
                    headers: test.body == nil ? [] : Self.json, body: test.body)
                #expect(answer.status == test.status, "\(test.method) \(test.path) \(test.body ?? ""): \(answer.text)")
            }
            let list = try await door.ask("GET", "/api/v1/policies/bundles", token: administrator)
            #expect(list.json?["items"]?.arrayValue?.count == 1)
        }
    }

    @Test("lint, tests, dry runs, matrix, Cedar and the diff over history answer as documented")
    func questions() async throws {
        try await APITests().withAPI { door in
            let steward = try await door.token(.policyAdministrator)
            func post(_ path: String, _ body: String) async throws -> OpenDoor.Answer {
                try await door.ask("POST", "/api/v1/policies/\(path)", token: steward, headers: Self.json, body: body)
            }
            let lint = try await post("lint", files(Clinic.policy.replacing("level: standard", with: "level: medium")))
            #expect(lint.json?["valid"] == false)
            let finding = try #require(lint.json?["findings"]?.arrayValue?.first)
            #expect(finding["line"] == 3 && finding["rule"] == "value.unknown" && finding["severity"] == "error")
            let tests = try await post("test", files(Clinic.policy))
            #expect(
                tests.json?["policies"] == 1 && tests.json?["uncovered"]?.arrayValue?.first?["rule"] == "test.missing")

            let filed = try await door.ask(
                "POST", "/api/v1/requests", token: door.token(.researcher), headers: Self.json, body: Clinic.form)
            #expect(filed.status == 201)
            let id = try #require(filed.json?["request"]?.stringValue)
            var form = try #require(try JSON(parsing: Array(Clinic.form.utf8)).objectValue)
            for (name, value) in [
                ("ask", "access"), ("now", "2026-11-21T09:30:00.000Z"), ("requester", "rin"), ("documents", []),
                ("agreements", []), ("visas", []), ("authors", []), ("votes", []),
            ] as [(String, JSON)] { form[name] = value }
            let asked = JSON.object(["input": .object(form)]).canonicalText
            let decided = try await post("decide", asked)
            #expect(decided.json?["answer"] == "needs-human", "\(decided.text)")
            #expect(decided.json?["nearly"]?["rule"] == "test:clinic/access.approvals")
            #expect(decided.json?["words"]?.arrayValue?.isEmpty == false)

            let matrix = try await door.ask("GET", "/api/v1/policies/matrix", token: steward)
            #expect(matrix.json?["rows"]?.arrayValue?.count == 7)
            let cedar = try await door.ask("GET", "/api/v1/policies/cedar?bundle=1", token: steward)
            #expect(
                cedar.text.contains("Action::\"access\"")
                    && cedar.headers["Content-Type"].first?.hasPrefix("text/plain") == true)
            let same = try await post("compare", "{}")
            #expect(same.json?["compared"] == 1 && same.json?["differences"] == [] && same.json?["widens"] == false)
            var looser = try #require(
                try JSON(
                    parsing: Array(
                        files(
                            Clinic.policy.replacing("[dac, data-custodian] }", with: "[dac] }").replacing(
                                "required: 2", with: "required: 1")
                        ).utf8)
                ).objectValue)
            looser["old"] = 1
            let loose = try await post("compare", JSON.object(looser).canonicalText)
            #expect(loose.json?["widens"] == true && loose.json?["milder"] == 0, "nobody has voted on \(id) yet")
        }
    }
}
