import Foundation
import Gateway
import Testing
import Vocabulary
import WebAPI

/// Holds the permission table to the server that answers and to the page that people read.
@Suite struct PermissionTests {
    private static let site = Site()

    @Test("each route lets in exactly the roles of the table, and nobody who is not signed in where it needs one")
    func routeByRoleByRole() async throws {
        try await withOpenDoor(
            change: { $0.setRates(accountPerSecond: 10_000, addressPerSecond: 10_000) },
            register: { routes in
                APIRoutes.register(routes)
                Self.site.register(routes)
            }
        ) { door in
            var cookies: [Role: String] = [:]
            var tokens: [Role: String] = [:]
            for role in Role.allCases {
                cookies[role] = try await door.signIn(role)
                tokens[role] = try await door.token(role)
            }
            for route in Route.allCases {
                let nobody = try await door.knock(route)
                #expect((nobody.refusal == .signInNeeded) == (route.rule.who != .anyone), "\(route) \(nobody)")
                for role in Role.allCases {
                    // Without a CSRF token: whoever may, comes as far as the form's check, which is after the roles'.
                    let bySession = try await door.knock(route, cookie: cookies[role])
                    #expect(
                        (bySession.refusal == nil) == route.rule.roles.contains(role),
                        "\(route) by \(role)'s session: \(bySession)")
                    let byToken = try await door.knock(route, token: tokens[role])
                    let mayByToken =
                        route.rule.who == .anyone || (route.rule.scope != nil && route.rule.roles.contains(role))
                    #expect((byToken.refusal == nil) == mayByToken, "\(route) by \(role)'s token: \(byToken)")
                }
            }
        }
    }

    @Test("a token lets its person do exactly what its one scope is for", arguments: Scope.allCases)
    func scopes(scope: Scope) async throws {
        try await withOpenDoor(
            change: { $0.setRates(accountPerSecond: 10_000, addressPerSecond: 10_000) },
            register: { APIRoutes.register($0) }
        ) { door in
            let everything = try PersonID("p-everything")
            try await door.gateway.addPerson(
                everything, roles: Set(Role.allCases), by: OpenDoor.person(.operatorRole))
            let token = try await door.gateway.createToken(
                for: everything, scopes: [scope], validSeconds: 3600, by: everything
            ).text
            for route in Route.allCases where route.isAPI && route.rule.who != .anyone {
                let answer = try await door.knock(route, token: token)
                #expect((answer.refusal == .scopeMissing) == (route.rule.scope != scope), "\(route): \(answer)")
            }
        }
    }

    @Test("every route of the table has a handler, and none has two")
    func everyRouteIsServed() async throws {
        var served: Set<Route> = []
        try await withOpenDoor(
            register: { routes in
                APIRoutes.register(routes)
                Self.site.register(routes)
                served = routes.served
            }
        ) { _ in }
        #expect(served == Set(Route.allCases))
    }

    @Test("docs/permissions.md shows the table")
    func page() throws {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../docs/permissions.md")
        let text = try String(contentsOf: file, encoding: .utf8)
        let shown = text.split(separator: "\n").filter { $0.hasPrefix("| `") }.map(String.init)
        let rows = Route.allCases.map(Self.row)
        // To write the page anew, replace its rows by these.
        #expect(shown == rows, "\(rows.joined(separator: "\n"))")
    }

    /// One row: the route, the scope a token needs, and a mark for each role in the order of `Role`.
    private static func row(_ route: Route) -> String {
        let rule = route.rule
        let marks = Role.allCases.map { rule.roles.contains($0) ? "x" : " " }
        let who = rule.who == .anyone ? "anyone" : rule.scope.map { "`\($0.rawValue)`" } ?? "–"
        return "| `\(route.rawValue)` | \(who) | \(marks.joined(separator: " | ")) |"
    }
}

/// How the door refused before a handler was asked.
private enum Refusal { case signInNeeded, roleMissing, scopeMissing }

private struct Knock: CustomStringConvertible {
    let refusal: Refusal?
    let status: Int
    let code: String?
    var description: String { "\(status) \(code ?? "")" }
}

extension OpenDoor {
    /// Asks a route with names in its path that nothing has.
    fileprivate func knock(_ route: Route, token: String? = nil, cookie: String? = nil) async throws -> Knock {
        let path = route.path.split(separator: "/").map { $0.hasPrefix(":") ? "0" : String($0) }
        let seen = log.lines.count
        let isForm = !route.isSafe && !route.isAPI
        let answer = try await ask(
            route.method, "/" + path.joined(separator: "/"), token: token, cookie: cookie,
            headers: route.isSafe
                ? [] : [("Content-Type", isForm ? "application/x-www-form-urlencoded" : "application/json")],
            body: route.isSafe ? nil : isForm ? "x=y" : "{}")
        // The page tells people; the log's line tells the same in closed words.
        let line = log.lines[seen...].last { $0.contains("\"event\":\"request\"") }
        let code = line.flatMap { try? JSON(parsing: $0.trimmingCharacters(in: .newlines)) }?["code"]?.stringValue
        let refusal: Refusal? =
            switch code {
            case "sign-in-needed": .signInNeeded
            case "role-missing": .roleMissing
            case "scope-missing": .scopeMissing
            default: nil
            }
        return Knock(refusal: refusal, status: answer.status, code: code)
    }
}
