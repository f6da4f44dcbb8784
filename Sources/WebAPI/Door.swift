package import Gateway
import Hummingbird
import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore
import Sealing
import Vocabulary

/// What stands before every handler: who asks, whether they may, how much and how often. A handler cannot forget it,
/// because routes are registered only through `Routes`.
package final class Door: Sendable {
    package let gateway: Gateway
    package let desk: SignInDesk
    let pages: any PageWriter
    let kept: KeptForms
    let machines: Bool
    private let perAccount: RateLimits
    private let perAddress: RateLimits

    init(_ gateway: Gateway, _ settings: DoorSettings, pages: any PageWriter) async {
        self.gateway = gateway
        self.pages = pages
        desk = SignInDesk(gateway, sessionLimits: settings.sessions, failuresPerAddress: settings.failuresPerAddress)
        kept = KeptForms(key: await gateway.doorKey(), clock: gateway.clock)
        machines = settings.machines
        perAccount = RateLimits(settings.perAccount)
        perAddress = RateLimits(settings.perAddress)
    }

    static let sessionCookie = "__Host-sekisho"

    /// Lets a request in: returns it, its body collected, and fills in the context; throws what keeps it out.
    func admit(_ request: Request, to route: Route, _ context: inout SekishoContext) async throws -> Request {
        let rule = route.rule
        let summary = context.summary
        var request = request
        summary.set { $0.route = route }
        context.language =
            Self.cookie(Language.cookie, of: request).flatMap(Language.init)
            ?? Language(accepting: request.headers[.acceptLanguage])
        let asked = try await whoAsks(request, route, context)
        context.identity = asked.identity
        if let means = asked.identity?.means { summary.set { $0.means = means } }
        let wait =
            asked.identity.map { perAccount.take($0.account, now: gateway.clock.now()) }
            ?? perAddress.take(context.address, now: gateway.clock.now())
        if let wait { throw Problem.tooMany(retryAfterSeconds: wait) }

        if rule.who != .anyone, asked.identity == nil { throw try await signInNeeded(request, route, asked.endedFor) }
        if let identity = asked.identity {
            if identity.means != .password, route.rule.who != .anyone {
                guard let scope = rule.scope, identity.scopes.contains(scope) else { throw Problem.scopeMissing }
            }
            try rule.requireRole(among: identity.roles)
            if !route.isAPI { context.unreadNotices = gateway.unreadNotices(of: identity.person) }
        }
        try await collectBody(of: &request, rule.body, route, &context)
        try checkOrigin(request, route, context)
        return request
    }

    // MARK: - Who asks

    private func whoAsks(
        _ request: Request, _ route: Route, _ context: SekishoContext
    ) async throws -> (identity: Identity?, endedFor: PersonID?) {
        if let header = request.headers[.authorization] {
            guard let token = Self.bearer(header) else { throw Problem.badToken }
            return (try await desk.identity(token: token, address: context.address), nil)
        }
        if let cookie = Self.cookie(request) { return try await desk.identity(cookie: cookie) }
        if machines, route.rule.scope != nil, let certificate = await context.clientCertificate() {
            return (try await desk.identity(certificate: certificate, address: context.address), nil)
        }
        return (nil, nil)
    }

    private static func bearer(_ header: String) -> String? {
        guard header.utf8.count <= 256, header.lowercased().hasPrefix("bearer ") else { return nil }
        return String(header.dropFirst(7))
    }

    /// The session's cookie, if exactly one well-formed one was sent.
    static func cookie(_ request: Request) -> String? { cookie(sessionCookie, of: request) }

    private static func cookie(_ name: String, of request: Request) -> String? {
        let all = request.headers[values: .cookie].flatMap { $0.split(separator: ";") }.compactMap { pair in
            let parts = pair.drop { $0 == " " }.split(separator: "=", maxSplits: 1)
            return parts.count == 2 && parts[0] == name ? String(parts[1]) : nil
        }
        return all.count == 1 ? all[0] : nil
    }

    /// A page sends its reader to the sign-in page; what was being typed goes along, sealed.
    private func signInNeeded(_ request: Request, _ route: Route, _ endedFor: PersonID?) async throws -> any Error {
        guard !route.isAPI else { return Problem.signInNeeded }
        if route.isSafe { return SignInNeeded(next: request.uri.description, kept: nil) }
        guard case .collected(let bytesMax) = route.rule.body, Self.isFromOwnPage(request),
            let body = try? await request.body.collect(upTo: min(bytesMax, KeptForms.bytesMax)),
            let form = Form(parsing: body.readableBytesView)
        else { return SignInNeeded(next: "/", kept: nil) }
        return SignInNeeded(
            next: "/", kept: kept.seal(form.without(["csrf"]), path: request.uri.path, person: endedFor))
    }

    // MARK: - What was sent

    private func collectBody(
        of request: inout Request, _ body: Rule.Body, _ route: Route, _ context: inout SekishoContext
    ) async throws {
        let declared = request.headers[.contentLength].flatMap(Int.init)
        switch body {
        case .none: if let declared, declared > 0 { throw Problem.tooLarge(0) }
        case .streamed(let bytesMax): if let declared, declared > bytesMax { throw Problem.tooLarge(bytesMax) }
        case .collected(let bytesMax):
            if let declared, declared > bytesMax { throw Problem.tooLarge(bytesMax) }
            let buffer: ByteBuffer
            do {
                buffer = try await request.collectBody(upTo: bytesMax)
            } catch is NIOTooManyBytesError { throw Problem.tooLarge(bytesMax) }
            guard !route.isAPI else { return }
            let type = request.headers[.contentType]?.prefix { $0 != ";" }.lowercased()
            guard type == "application/x-www-form-urlencoded" || buffer.readableBytes == 0 else {
                throw Problem.mediaType
            }
            guard let form = Form(parsing: buffer.readableBytesView) else { throw Problem.badForm }
            context.form = form
        }
    }

    /// Another site must not act with a reader's session: the browser says that the form is from here, and the form
    /// carries the session's token.
    private func checkOrigin(_ request: Request, _ route: Route, _ context: SekishoContext) throws {
        guard !route.isSafe else { return }
        if context.identity == nil || context.identity?.means == .password {
            guard Self.isFromHere(request) else { throw Problem.forgery }
        }
        guard let identity = context.identity, identity.means == .password, route.rule.who != .anyone else { return }
        let sent = request.headers[.csrf] ?? context.form["csrf"] ?? ""
        guard constantTimeEqual(Array(sent.utf8), Array(identity.csrf.utf8)) else { throw Problem.forgery }
    }

    /// Whether nothing says that another site's page sent this.
    private static func isFromHere(_ request: Request) -> Bool {
        if let site = request.headers[.fetchSite], !["same-origin", "none"].contains(site) { return false }
        if let origin = request.headers[.origin], origin != "https://\(request.head.authority ?? "")" { return false }
        return true
    }

    /// Whether a browser says that one of our pages sent this.
    private static func isFromOwnPage(_ request: Request) -> Bool {
        isFromHere(request) && request.headers[.origin] != nil
    }
}

/// Thrown where a page needs somebody signed in.
struct SignInNeeded: Error {
    /// Where the reader was going.
    let next: String
    /// What was being typed, sealed.
    let kept: String?
}

extension HTTPField.Name {
    // The names are tokens as RFC 9110 has them, so they cannot fail.
    static let csrf = HTTPField.Name("X-CSRF-Token")!
    static let fetchSite = HTTPField.Name("Sec-Fetch-Site")!
}
