import Gateway
import TestSupport
import Testing
import Vocabulary
import WebAPI

/// Taking access away and presenting a passport, as callers of the API and readers of the pages meet it.
@Suite struct AccessAPITests {
    private func withDoor(_ body: (OpenDoor) async throws -> Void) async throws {
        let site = Site()
        try await withOpenDoor(
            register: { routes in
                APIRoutes.register(routes)
                site.register(routes)
            }
        ) { door in
            try await bringIntoForce(
                PolicyFolder([("clinic.yaml", Clinic.policy)]), door.gateway,
                signedBy: [OpenDoor.person(.dac), OpenDoor.person(.dataCustodian), OpenDoor.person(.securityOfficer)],
                administrator: OpenDoor.person(.policyAdministrator), keys: door.folder)
            try await body(door)
        }
    }

    private func send(
        _ door: OpenDoor, _ path: String, _ token: String, _ body: String, method: String = "POST"
    ) async throws -> OpenDoor.Answer {
        try await door.ask(method, "/api/v1\(path)", token: token, headers: APITests.json, body: body)
    }

    private func grant(_ door: OpenDoor) async throws {
        _ = try await send(door, "/requests", door.token(.researcher), Clinic.form)
        for role in [Role.dac, .dataCustodian] {
            _ = try await send(door, "/requests/request-1/reviews", door.token(role), #"{"verdict":"approve"}"#)
        }
    }

    @Test("access is previewed, revoked once with a reason from the list, told to its holder, and restored")
    func revoked() async throws {
        try await withDoor { door in
            try await grant(door)
            let researcher = try await door.token(.researcher)
            let officer = try await door.token(.securityOfficer)
            let person = "/people/p-researcher/access"
            let reach = try await door.ask("GET", "/api/v1\(person)", token: officer)
            #expect(reach.status == 200 && reach.json?["grants"]?.arrayValue?.count == 1)
            #expect(reach.json?["grants"]?.arrayValue?.first?["origin"] == "approval")
            #expect(try await door.ask("GET", "/api/v1\(person)", token: researcher).status == 403)
            #expect(try await door.ask("GET", "/api/v1/people/P-Researcher/access", token: officer).status == 404)
            for (body, status) in [("{}", 400), (#"{"reason":"spite"}"#, 400), (#"{"reason":"breach"}"#, 200)] {
                #expect(try await send(door, "\(person)/revoke", officer, body).status == status)
            }
            #expect(try await send(door, "\(person)/revoke", officer, #"{"reason":"other"}"#).status == 422)
            let grants = try await door.ask("GET", "/api/v1/grants", token: researcher)
            let held = grants.json?["items"]?.arrayValue?.first?["revocation"]
            #expect(held?["reason"] == "breach" && held?["by"] == "p-security-officer")
            #expect(try await send(door, "\(person)/restore", officer, #"{"comment":"oops"}"#).status == 400)
            let restored = try await send(door, "\(person)/restore", officer, #"{"comment":"it was a mistake"}"#)
            #expect(restored.json?["revocation"] == .null && restored.json?["grants"] == [])
        }
    }

    @Test("a list of issuers, a link and a passport over the API; what is wrong is told and changes nothing")
    func passport() async throws {
        try await withDoor { door in
            let researcher = try await door.token(.researcher)
            let operatorToken = try await door.token(.operatorRole)
            let office = PassportOffice()
            #expect(try await door.ask("GET", "/api/v1/passport", token: researcher).status == 404)
            #expect(try await door.ask("GET", "/api/v1/passport/issuers", token: operatorToken).status == 404)
            func file(_ text: String) -> String { JSON.object(["file": .string(text)]).canonicalText }
            let bad = try await send(door, "/passport/issuers", operatorToken, file("version: 2"), method: "PUT")
            #expect(bad.status == 422)
            let good = try await send(door, "/passport/issuers", operatorToken, file(office.trust()), method: "PUT")
            #expect(good.status == 200 && good.json?["issuers"] == [.string(PassportOffice.issuer)])
            let link = #"{"issuer":"\#(PassportOffice.issuer)","subject":"rin-at-broker"}"#
            #expect(try await send(door, "/people/p-researcher/identities", operatorToken, link).status == 200)
            #expect(try await send(door, "/people/p-researcher/identities", operatorToken, link).status == 422)
            let text = office.registeredAccess(now: door.gateway.clock.now())
            let presented = try await send(door, "/passport", researcher, #"{"passport":"\#(text)"}"#)
            #expect(presented.status == 200 && presented.json?["visas"]?.arrayValue?.count == 2)
            let wrong = try await send(door, "/passport", researcher, #"{"passport":"x"}"#)
            #expect(wrong.status == 403)
            let shown = try await door.ask("GET", "/api/v1/passport", token: researcher)
            #expect(shown.json?["visas"]?.arrayValue?.map { $0["counts"] } == [true, true])
        }
    }

    @Test("the pages show what would end, take a reason, and show a passport")
    func pages() async throws {
        try await withDoor { door in
            try await grant(door)
            let officer = try await door.signIn(.dac)
            let page = try await door.ask("GET", "/access/p-researcher", cookie: officer)
            #expect(page.status == 200 && page.text.contains("grant-1") && page.text.contains("name=\"reason\""))
            let csrf = try #require(csrfToken(in: page.text))
            let empty = try await door.post("/access/p-researcher", cookie: officer, [("csrf", csrf), ("reason", "")])
            #expect(empty.status == 400 && empty.text.contains("reason-fault"))
            let done = try await door.post(
                "/access/p-researcher", cookie: officer,
                [("csrf", csrf), ("form", "1"), ("reason", "asked"), ("comment", "")])
            #expect(done.status == 303)
            let after = try await door.ask("GET", "/access/p-researcher?done=revoked", cookie: officer)
            #expect(after.text.contains("p-dac") && !after.text.contains("name=\"reason\""))
            let holder = try await door.signIn(.researcher)
            let request = try await door.ask("GET", "/requests/request-1", cookie: holder)
            #expect(request.status == 200 && request.text.contains("p-dac"))
            #expect(try await door.ask("GET", "/access/p-researcher", cookie: holder).status == 403)
            let passport = try await door.ask("GET", "/passport", cookie: holder)
            #expect(passport.status == 200)
            let token = try #require(csrfToken(in: passport.text))
            let refused = try await door.post(
                "/passport", cookie: holder, [("csrf", token), ("form", "2"), ("passport", "x")])
            #expect(refused.status == 403)
        }
    }
}
