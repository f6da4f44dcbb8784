import AsyncHTTPClient
import Foundation
import Gateway
import NIOSSL
import NIOHTTP1
import TestSupport
import Testing
import Vocabulary
import WebAPI

/// Proving who one is, at the door itself: over TLS, with a real client.
@Suite struct SignInTests {
    // MARK: - Sessions

    @Test("a person signs in with name and password, is known by the cookie, and is nobody after signing out")
    func signInAndOut() async throws {
        try await withOpenDoor { door in
            let answer = try await door.post("/sign-in", Self.proof(.researcher))
            let set = try #require(answer.headers["Set-Cookie"].first)
            for part in ["__Host-sekisho=", "Path=/", "Secure", "HttpOnly", "SameSite=Strict"] {
                #expect(set.contains(part))
            }
            let cookie = try #require(OpenDoor.cookie(in: answer))
            let page = try await door.ask("GET", "/password", cookie: cookie)
            #expect(page.status == 200)
            let csrf = try #require(csrfToken(in: page.text))
            let left = try await door.post("/sign-out", cookie: cookie, [(name: "csrf", value: csrf)])
            #expect(left.status == 303)
            let after = try await door.ask("GET", "/password", cookie: cookie)
            #expect(after.status == 303 && after.headers.first(name: "Location") == "/sign-in?next=%2Fpassword")
            #expect(
                try await door.gateway.signInEvents() == ["person.signed-in done", "person.signed-out done"])
        }
    }

    @Test("a session ends when it is idle, when it is old, and when its person's password or roles change")
    func sessionsEnd() async throws {
        try await withOpenDoor { door in
            func isSignedIn(_ cookie: String) async throws -> Bool {
                try await door.ask("GET", "/password", cookie: cookie).status == 200
            }
            let idle = try await door.signIn(.researcher)
            door.clock.advance(seconds: 29 * 60)
            #expect(try await isSignedIn(idle))
            door.clock.advance(seconds: 30 * 60)
            #expect(try await !isSignedIn(idle))

            let old = try await door.signIn(.researcher)
            for _ in 0..<20 {
                door.clock.advance(seconds: 29 * 60)
                #expect(try await isSignedIn(old))
            }
            door.clock.advance(seconds: 29 * 60)
            #expect(try await !isSignedIn(old))

            let before = try await door.signIn(.dac)
            let dac = OpenDoor.person(.dac)
            try await door.gateway.addPerson(
                dac, roles: [.dac, .outputChecker], by: OpenDoor.person(.operatorRole))
            #expect(try await !isSignedIn(before))

            let first = try await door.signIn(.outputChecker)
            let second = try await door.signIn(.outputChecker)
            let form = try await door.ask("GET", "/password", cookie: second)
            let csrf = try #require(csrfToken(in: form.text))
            let changed = try await door.post(
                "/password", cookie: second,
                [
                    (name: "csrf", value: csrf), (name: "old", value: OpenDoor.password),
                    (name: "new", value: "another long pass phrase"),
                    (name: "again", value: "another long pass phrase"),
                ])
            #expect(changed.status == 303)
            for cookie in [first, second] { #expect(try await !isSignedIn(cookie)) }
        }
    }

    @Test("a person has at most eight sessions; the one that was longest unused makes room")
    func sessionsAreBounded() async throws {
        try await withOpenDoor { door in
            var cookies: [String] = []
            for _ in 0..<9 {
                cookies.append(try await door.signIn(.researcher))
                door.clock.advance(seconds: 1)
            }
            #expect(try await door.ask("GET", "/password", cookie: cookies[0]).status == 303)
            #expect(try await door.ask("GET", "/password", cookie: cookies[1]).status == 200)
        }
    }

    // MARK: - Refusals

    @Test("an unknown name and a wrong password get the same answer, and neither is told to the trail")
    func wrongPassword() async throws {
        try await withOpenDoor { door in
            let unknown = try await door.post(
                "/sign-in", [(name: "name", value: "nobody-here"), (name: "password", value: "x")])
            let wrong = try await door.post(
                "/sign-in",
                [(name: "name", value: OpenDoor.person(.researcher).text), (name: "password", value: "wrong")])
            #expect(unknown.status == 401 && wrong.status == 401)
            #expect(
                unknown.text.replacing("nobody-here", with: "")
                    == wrong.text.replacing(OpenDoor.person(.researcher).text, with: ""))
            #expect(OpenDoor.cookie(in: wrong) == nil)
            let records = try await door.gateway.auditList(nil, most: 1000, by: OpenDoor.person(.complianceOfficer))
            let refused = records.filter { $0.eventName == "person.signed-in" }
            #expect(refused.map(\.outcomeName) == ["refused", "refused"])
            #expect(refused.map(\.actor) == [nil, OpenDoor.person(.researcher)])
            #expect(!records.contains { $0.core.canonicalText.contains("nobody-here") })
        }
    }

    @Test("after five wrong passwords the right one is not looked at for a quarter of an hour")
    func lockout() async throws {
        try await withOpenDoor { door in
            let name = (name: "name", value: OpenDoor.person(.researcher).text)
            for _ in 0..<5 {
                #expect(try await door.post("/sign-in", [name, (name: "password", value: "wrong")]).status == 401)
            }
            let locked = try await door.post("/sign-in", Self.proof(.researcher))
            #expect(locked.status == 429 && locked.headers.first(name: "Retry-After") == "900")
            // Others may come in from the same address.
            _ = try await door.signIn(.dac)
            door.clock.advance(seconds: 15 * 60)
            _ = try await door.signIn(.researcher)
        }
    }

    @Test(
        "what is no cookie of ours is nobody's",
        arguments: ["", "x", String(repeating: "0", count: 64), String(repeating: "a", count: 5000), "ü"])
    func badCookies(cookie: String) async throws {
        try await withOpenDoor { door in
            let answer = try await door.ask("GET", "/password", cookie: cookie)
            #expect(answer.status == 303)
        }
    }

    // MARK: - Forgery

    @Test("a form without the session's token, with another's, or from another site does nothing")
    func forgery() async throws {
        try await withOpenDoor { door in
            let cookie = try await door.signIn(.researcher)
            let other = try await door.ask("GET", "/password", cookie: try await door.signIn(.dac))
            let others = try #require(csrfToken(in: other.text))
            for fields in [[], [(name: "csrf", value: "")], [(name: "csrf", value: others)]] {
                #expect(try await door.post("/sign-out", cookie: cookie, fields).status == 403)
            }
            let own = try #require(csrfToken(in: try await door.ask("GET", "/password", cookie: cookie).text))
            for headers in [
                [("Origin", "https://elsewhere.example")], [("Origin", "null")], [("Sec-Fetch-Site", "cross-site")],
            ] {
                let answer = try await door.ask(
                    "POST", "/sign-out", cookie: cookie,
                    headers: headers + [("Content-Type", "application/x-www-form-urlencoded")], body: "csrf=\(own)")
                #expect(answer.status == 403)
            }
            #expect(try await door.ask("GET", "/password", cookie: cookie).status == 200)
        }
    }

    @Test(
        "after signing in one goes to a page of ours, wherever the form says",
        arguments: [
            "https://elsewhere.example", "//elsewhere.example", "/\\elsewhere.example", "javascript:alert(1)", "",
            "/a\r\nSet-Cookie: x=y",
        ])
    func openRedirect(next: String) async throws {
        try await withOpenDoor { door in
            let answer = try await door.post("/sign-in", Self.proof(.researcher) + [(name: "next", value: next)])
            #expect(answer.status == 303 && answer.headers.first(name: "Location") == "/")
        }
    }

    // MARK: - What was being typed

    @Test("a form that was sent after its session ended comes back after the sign-in, to its own person only")
    func keptForm() async throws {
        try await withOpenDoor { door in
            let cookie = try await door.signIn(.researcher)
            let csrf = try #require(csrfToken(in: try await door.ask("GET", "/password", cookie: cookie).text))
            door.clock.advance(seconds: 31 * 60)
            let typed = "two lines\nand <b>markup</b> & 日本"
            let late = try await door.post(
                "/password", cookie: cookie, [(name: "csrf", value: csrf), (name: "comment", value: typed)])
            #expect(late.status == 401 && !late.text.contains("two lines"))
            let kept = try #require(hidden("kept", in: late.text))
            #expect(kept.count > 100)

            let other = try await door.post("/sign-in", Self.proof(.dac) + [(name: "kept", value: kept)])
            #expect(other.status == 303 && !other.text.contains("two lines"))

            let back = try await door.post("/sign-in", Self.proof(.researcher) + [(name: "kept", value: kept)])
            #expect(back.status == 200 && OpenDoor.cookie(in: back) != nil)
            #expect(back.text.contains("two lines") && back.text.contains("action=\"/password\""))
            #expect(!back.text.contains("<b>markup") && !back.text.contains(csrf))

            // Not for ever, and only what we sealed.
            door.clock.advance(seconds: 3601)
            for stale in [kept, String(kept.dropLast(2)) + "00", "00", "zz"] {
                let answer = try await door.post("/sign-in", Self.proof(.researcher) + [(name: "kept", value: stale)])
                #expect(answer.status == 303 && !answer.text.contains("two lines"))
            }
        }
    }

    // MARK: - Tokens

    @Test("a token is good for its scopes, its person's roles and its time, and until it is revoked")
    func tokens() async throws {
        try await withOpenDoor { door in
            let person = OpenDoor.person(.operatorRole)
            let (key, text) = try await door.gateway.createToken(
                for: person, scopes: [.observe], validSeconds: 60, by: person)
            for _ in 0..<3 { #expect(try await door.ask("GET", "/metrics", token: text).status == 200) }
            #expect(try await door.ask("GET", "/password", token: text).status == 403)
            let narrow = try await door.token(.operatorRole, scopes: [.read])
            #expect(try await door.ask("GET", "/metrics", token: narrow).code == "scope-missing")
            let wrongRole = try await door.token(.researcher)
            #expect(try await door.ask("GET", "/metrics", token: wrongRole).code == "role-missing")

            var changed = text
            changed.removeLast()
            changed.append(text.last == "0" ? "1" : "0")
            for bad in [changed, "", "x", text + "0", text.uppercased(), String(repeating: "a", count: 300)] {
                #expect(try await door.ask("GET", "/metrics", token: bad).status == 401)
            }
            #expect(try await door.ask("GET", "/metrics", headers: [("Authorization", "Basic eDp5")]).status == 401)

            try await door.gateway.revokeKey(key.id, by: person)
            #expect(try await door.ask("GET", "/metrics", token: text).code == "bad-token")
            let second = try await door.token(.operatorRole)
            #expect(try await door.ask("GET", "/metrics", token: second).status == 200)
            door.clock.advance(seconds: 3600)
            #expect(try await door.ask("GET", "/metrics", token: second).code == "bad-token")
        }
    }

    @Test("a token survives the gateway's end as Argon2id only: no record, file or memory of the home holds its text")
    func tokensAreHashed() async throws {
        try await withOpenDoor { door in
            let text = try await door.token(.researcher)
            let secret = text.split(separator: "-")[2]
            let records = try await door.gateway.auditList(nil, most: 1000, by: OpenDoor.person(.complianceOfficer))
            #expect(records.contains { $0.eventName == "credential.issued" })
            for record in records {
                #expect(!record.core.canonicalText.contains(secret) && !record.payload.canonicalText.contains(secret))
            }
            let files = FileManager.default.enumerator(at: door.folder, includingPropertiesForKeys: nil)
            while let file = files?.nextObject() as? URL {
                guard let bytes = try? Data(contentsOf: file) else { continue }
                #expect(bytes.range(of: Data(secret.utf8)) == nil, "\(file.lastPathComponent)")
            }
        }
    }

    @Test("people make tokens for themselves only, of at most 366 days, at most 64, and a token makes none wider")
    func tokenRefusals() async throws {
        try await withOpenDoor { door in
            let researcher = OpenDoor.person(.researcher)
            let gateway = door.gateway
            await #expect(throws: GatewayError.self) {
                _ = try await gateway.createToken(
                    for: researcher, scopes: [.read], validSeconds: 60, by: OpenDoor.person(.operatorRole))
            }
            for seconds in [0, -1, 367 * 86_400] {
                await #expect(throws: GatewayError.self) {
                    _ = try await gateway.createToken(
                        for: researcher, scopes: [.read], validSeconds: Int64(seconds), by: researcher)
                }
            }
            await #expect(throws: GatewayError.self) {
                _ = try await gateway.createToken(for: researcher, scopes: [], validSeconds: 60, by: researcher)
            }
            for password in ["short", "aaaaaaaaaaaaaaaaaa", String(repeating: "long", count: 100)] {
                #expect(throws: GatewayError.self) { try SecretProof.ofPassword(Array(password.utf8)) }
            }
        }
    }

    @Test("a token of few scopes cannot make one of more")
    func noWiderTokens() async throws {
        try await withOpenDoor(register: { APIRoutes.register($0) }) { door in
            let narrow = try await door.token(.operatorRole, scopes: [.administer, .read])
            let wide = try await door.ask(
                "POST", "/api/v1/tokens", token: narrow, headers: [("Content-Type", "application/json")],
                body: #"{"scopes":["audit"],"valid_seconds":60}"#)
            #expect(wide.status == 403 && wide.code == "scope-missing")
            let same = try await door.ask(
                "POST", "/api/v1/tokens", token: narrow, headers: [("Content-Type", "application/json")],
                body: #"{"scopes":["read"],"valid_seconds":60}"#)
            #expect(same.status == 201)
        }
    }

    // MARK: - Machines

    @Test("a machine with an enrolled certificate acts for its person; another authority's or a revoked one does not")
    func machines() async throws {
        try await withOpenDoor { door in
            let operatorPerson = OpenDoor.person(.operatorRole)
            let folder = door.folder.appendingPathComponent("machine")
            let key = try await door.gateway.enrolMachine(
                for: operatorPerson, scopes: [.observe], validSeconds: 3600, into: folder, by: operatorPerson)
            let machine = try door.client(showing: folder)
            #expect(try await door.ask("GET", "/metrics", client: machine).status == 200)
            #expect(try await door.ask("GET", "/password", client: machine).status == 303)
            try await door.gateway.revokeKey(key.id, by: operatorPerson)
            #expect(try await door.ask("GET", "/metrics", client: machine).status == 401)
            try await machine.shutdown()
            #expect(try await door.ask("GET", "/metrics").status == 401)
        }
    }

    private static func proof(_ role: Role) -> [(name: String, value: String)] {
        [(name: "name", value: OpenDoor.person(role).text), (name: "password", value: OpenDoor.password)]
    }
}

/// The session's CSRF token, as a form of a page carries it.
func csrf(in page: String) -> String? { hidden("csrf", in: page) }

/// The value of a hidden field of a page.
func hidden(_ name: String, in page: String) -> String? {
    guard let start = page.range(of: "name=\"\(name)\" value=\"")?.upperBound else { return nil }
    return page[start...].split(separator: "\"", maxSplits: 1, omittingEmptySubsequences: false).first.map(String.init)
}

extension OpenDoor {
    /// A client that shows the certificate in a machine's folder.
    func client(showing folder: URL) throws -> HTTPClient {
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(authority))
        tls.certificateChain = try NIOSSLCertificate.fromPEMBytes(
            Array(Data(contentsOf: folder.appendingPathComponent("machine.pem")))
        ).map(NIOSSLCertificateSource.certificate)
        tls.privateKey = .privateKey(
            try NIOSSLPrivateKey(
                bytes: Array(Data(contentsOf: folder.appendingPathComponent("machine.key"))), format: .pem))
        return HTTPClient(
            eventLoopGroupProvider: .singleton,
            configuration: HTTPClient.Configuration(tlsConfiguration: tls, redirectConfiguration: .disallow))
    }
}

extension Gateway {
    /// What the trail says of people coming and going, oldest first.
    func signInEvents() throws -> [String] {
        let auditor = OpenDoor.person(.complianceOfficer)
        return try auditList(nil, most: 1000, by: auditor).filter { $0.eventName.hasPrefix("person.signed") }
            .map { "\($0.eventName) \($0.outcomeName)" }
    }
}
