import Gateway
import Testing
import Vocabulary
import WebAPI

/// Proving who one is, at the door itself: over TLS, with a real client.
@Suite struct SignInTests {
    @Test("a person signs in with name and password, is known by the cookie, and is nobody after signing out")
    func signInAndOut() async throws {
        try await withOpenDoor { door in
            let cookie = try await door.signIn(.researcher)
            let page = try await door.ask("GET", "/password", cookie: cookie)
            #expect(page.status == 200)
            let csrf = try #require(csrf(in: page.text))
            let left = try await door.post("/sign-out", cookie: cookie, [(name: "csrf", value: csrf)])
            #expect(left.status == 303)
            let after = try await door.ask("GET", "/password", cookie: cookie)
            #expect(after.status == 303 && after.headers.first(name: "Location") == "/sign-in?next=%2Fpassword")
            #expect(
                try await door.gateway.signInEvents() == [
                    "person.signed-in done", "person.signed-out done",
                ])
        }
    }
}

/// The session's CSRF token, as a form of a page carries it.
func csrf(in page: String) -> String? {
    guard let start = page.range(of: "name=\"csrf\" value=\"")?.upperBound else { return nil }
    return page[start...].split(separator: "\"", maxSplits: 1).first.map(String.init)
}

extension Gateway {
    /// What the trail says of people coming and going, oldest first.
    func signInEvents() throws -> [String] {
        let auditor = OpenDoor.person(.complianceOfficer)
        return try auditList(nil, most: 1000, by: auditor).filter { $0.eventName.hasPrefix("person.signed") }
            .map { "\($0.eventName) \($0.outcomeName)" }
    }
}
