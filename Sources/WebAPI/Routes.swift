package import Gateway
package import Hummingbird
import HTTPTypes
import HummingbirdCore
import Logging
import Metrics
import NIOCore
import Synchronization
import Vocabulary

/// The only way to give a route its handler.
package final class Routes {
    package typealias Handler = @Sendable (Request, SekishoContext) async throws -> Response

    package let door: Door
    package var gateway: Gateway { door.gateway }
    private let router = Router(context: SekishoContext.self)
    package private(set) var served: Set<Route> = []

    init(_ door: Door) { self.door = door }

    /// Serves `route` with `handler`, which runs only for whoever the route's rule lets in, with the identity, the form
    /// and the collected body in place.
    package func on(_ route: Route, _ handler: @escaping Handler) {
        precondition(served.insert(route).inserted, "\(route) has two handlers")
        guard let method = HTTPRequest.Method(route.method) else { preconditionFailure("\(route) has no method") }
        router.on(RouterPath(route.path), method: method) { [door] request, context in
            var context = context
            do {
                let admitted = try await door.admit(request, to: route, &context)
                return try await handler(admitted, context)
            } catch {
                return door.answer(error, route, context)
            }
        }
    }

    func responder(_ logger: Logger) -> DoorResponder {
        var methods: [String: [String]] = [:]
        for route in served { methods[route.path, default: []].append(route.method) }
        return DoorResponder(
            router: router.buildResponder(), door: door, logger: logger,
            paths: methods.map { path, methods in
                (path.split(separator: "/").map { $0.hasPrefix(":") ? nil : String($0) }, methods)
            })
    }
}

extension Door {
    /// What the caller is told of an error: pages for pages, problem details for the API.
    func answer(_ error: any Error, _ route: Route?, _ context: SekishoContext) -> Response {
        if let needed = error as? SignInNeeded {
            context.summary.set { $0.code = Problem.signInNeeded.code }
            if needed.kept == nil, route?.isSafe == true {
                let query = Form([(name: "next", value: needed.next)]).encoded
                return Response(status: .seeOther, headers: [.location: "/sign-in?\(query)"])
            }
            var response = pages.signIn(
                SignInPage(next: needed.next, kept: needed.kept, problem: .signInNeeded, name: ""), context)
            response.status = .unauthorized
            return response
        }
        let problem = Problem(error)
        context.summary.set { $0.code = problem.code }
        if problem == .internalError {
            // Its type says where to look; its text might hold anything.
            context.logger.error(
                "internal error", metadata: ["number": "\(context.number)", "type": "\(type(of: error))"])
        }
        guard let route, !route.isAPI else { return problem.response(number: context.number) }
        var response = pages.problem(problem, context)
        response.status = HTTPResponse.Status(code: problem.status)
        problem.addHeaders(to: &response)
        return response
    }
}

/// The outermost layer: the answer to what is no route, the headers that every answer carries, one log line, metrics.
struct DoorResponder: HTTPResponder {
    typealias Context = SekishoContext

    let router: RouterResponder<SekishoContext>
    let door: Door
    let logger: Logger
    /// Every served path, `nil` for what varies, and its methods.
    let paths: [(parts: [String?], methods: [String])]

    func respond(to request: Request, context: SekishoContext) async throws -> Response {
        let start = ContinuousClock.now
        var response: Response
        do {
            response = try await router.respond(to: request, context: context)
            if context.summary.now.route == nil { response = noRoute(request, context) }
        } catch { response = door.answer(error, nil, context) }
        Self.harden(&response)
        report(request, response, context, ContinuousClock.now - start)
        return response
    }

    private func noRoute(_ request: Request, _ context: SekishoContext) -> Response {
        let parts = request.uri.path.split(separator: "/")
        let allowed = paths.first { path in
            path.parts.count == parts.count && zip(path.parts, parts).allSatisfy { $0 == nil || $0! == $1 }
        }?.methods
        let problem = allowed.map(Problem.methodNotAllowed) ?? .notFound("there is nothing at this address")
        context.summary.set { $0.code = problem.code }
        var response: Response
        if request.uri.path.hasPrefix("/api/") || request.method != .get {
            response = problem.response(number: context.number)
        } else {
            response = door.pages.problem(problem, context)
            response.status = HTTPResponse.Status(code: problem.status)
        }
        if let allowed { response.headers[.allow] = allowed.sorted().joined(separator: ", ") }
        return response
    }

    /// No inline code or style, nothing from elsewhere, never in a frame, never in a shared cache.
    private static func harden(_ response: inout Response) {
        response.headers[.strictTransportSecurity] = "max-age=31536000"
        response.headers[.xContentTypeOptions] = "nosniff"
        // `same-origin`, not `no-referrer`, which would also take the origin away from our own forms.
        response.headers[.referrerPolicy] = "same-origin"
        response.headers[.contentSecurityPolicy] =
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
            + "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        response.headers[.openerPolicy] = "same-origin"
        response.headers[.resourcePolicy] = "same-origin"
        if response.headers[.cacheControl] == nil { response.headers[.cacheControl] = "no-store" }
    }

    /// One summary of closed words and numbers: never what was sent.
    private func report(_ request: Request, _ response: Response, _ context: SekishoContext, _ time: Duration) {
        let summary = context.summary.now
        let route = summary.route?.rawValue ?? "none"
        let status = "\(response.status.code)"
        let nanoseconds = Int64(time / .nanoseconds(1))
        Counter(label: "sekisho_http_requests_total", dimensions: [("route", route), ("status", status)]).increment()
        Metrics.Timer(label: "sekisho_http_request_seconds", dimensions: [("route", route)])
            .recordNanoseconds(nanoseconds)
        logger.info(
            "request",
            metadata: [
                "number": "\(context.number)", "route": "\(route)", "status": "\(status)",
                "means": "\(summary.means?.rawValue ?? "none")", "code": "\(summary.code ?? "ok")",
                "microseconds": "\(nanoseconds / 1000)",
            ])
    }
}

extension HTTPField.Name {
    // The names are tokens as RFC 9110 has them, so they cannot fail.
    static let referrerPolicy = HTTPField.Name("Referrer-Policy")!
    static let openerPolicy = HTTPField.Name("Cross-Origin-Opener-Policy")!
    static let resourcePolicy = HTTPField.Name("Cross-Origin-Resource-Policy")!
}
