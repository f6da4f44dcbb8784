import Gateway
import Hummingbird
import HTTPTypes
import HummingbirdCore
import NIOCore
import Sealing
import Vocabulary

/// Signing in and out, and changing one's password.
enum SignInRoutes {
    static func register(_ routes: Routes) {
        let door = routes.door
        routes.on(.signInPage) { request, context in
            let next = request.uri.queryParameters.get("next") ?? "/"
            return door.pages.signIn(
                SignInPage(next: ownPath(next), kept: nil, problem: nil, name: ""), context)
        }
        routes.on(.signIn) { request, context in try await signIn(door, request, context) }
        routes.on(.signOut) { request, _ in
            if let cookie = Door.cookie(request) { try await door.desk.signOut(cookie: cookie) }
            return Response(
                status: .seeOther, headers: [.location: "/sign-in", .setCookie: setCookie("", maxAgeSeconds: 0)])
        }
        routes.on(.passwordPage) { _, context in door.pages.password(nil, context) }
        routes.on(.passwordChange) { _, context in try await changePassword(door, context) }
    }

    private static func signIn(_ door: Door, _ request: Request, _ context: SekishoContext) async throws -> Response {
        let name = context.form["name"] ?? ""
        let next = ownPath(context.form["next"] ?? "/")
        let sealed = context.form["kept"].flatMap { $0.isEmpty ? nil : $0 }
        var password = Array((context.form["password"] ?? "").utf8)
        defer { wipe(&password) }
        let ticket: SignInDesk.Ticket
        do {
            ticket = try await door.desk.signIn(name: name, password: password, address: context.address)
        } catch {
            let problem = Problem(error)
            guard problem.status < 500 else { throw error }
            context.summary.set { $0.code = problem.code }
            var response = door.pages.signIn(
                SignInPage(next: next, kept: sealed, problem: problem, name: String(name.prefix(128))), context)
            response.status = HTTPResponse.Status(code: problem.status)
            problem.addHeaders(to: &response)
            return response
        }
        // One session for one sign-in: the one that this browser had before is over.
        if let cookie = Door.cookie(request) { try await door.desk.signOut(cookie: cookie) }
        var response = Response(status: .seeOther, headers: [.location: next])
        if let kept = sealed.flatMap(door.kept.open), kept.person == nil || kept.person == ticket.person {
            var context = context
            context.identity = try await door.desk.identity(cookie: ticket.cookie).identity
            response = door.pages.resend(path: kept.path, kept.form, context)
        }
        response.headers[.setCookie] = setCookie(
            ticket.cookie, maxAgeSeconds: door.desk.sessions.limits.absoluteSeconds)
        return response
    }

    private static func changePassword(_ door: Door, _ context: SekishoContext) async throws -> Response {
        var old = Array((context.form["old"] ?? "").utf8)
        var new = Array((context.form["new"] ?? "").utf8)
        defer {
            wipe(&old)
            wipe(&new)
        }
        do {
            guard context.form["new"] == context.form["again"] else {
                throw Problem.invalid(
                    "The new password was not typed the same way twice. Nothing was changed.",
                    [Problem.FieldFault("again", "differs")])
            }
            try await door.desk.changePassword(of: context.person, from: old, to: new, address: context.address)
        } catch {
            let problem = Problem(error)
            guard problem.status < 500 else { throw error }
            context.summary.set { $0.code = problem.code }
            var response = door.pages.password(problem, context)
            response.status = HTTPResponse.Status(code: problem.status)
            return response
        }
        return Response(
            status: .seeOther, headers: [.location: "/sign-in", .setCookie: setCookie("", maxAgeSeconds: 0)])
    }

    /// Only a path of this site: an address elsewhere, or one that a browser takes for such, becomes `/`.
    static func ownPath(_ text: String) -> String {
        guard text.hasPrefix("/"), !text.hasPrefix("//"), text.utf8.count <= 2048,
            text.utf8.allSatisfy({ (0x21...0x7E).contains($0) && $0 != UInt8(ascii: "\\") })
        else { return "/" }
        return text
    }

    /// `__Host-` holds the browser to Secure, this host and the whole path.
    private static func setCookie(_ value: String, maxAgeSeconds: Int64) -> String {
        "\(Door.sessionCookie)=\(value); Path=/; Max-Age=\(maxAgeSeconds); Secure; HttpOnly; SameSite=Strict"
    }
}
