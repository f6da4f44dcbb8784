package import Hummingbird
import HummingbirdCore
import HTTPTypes
import Gateway
import Mustache
import NIOCore
import Vocabulary
import WebResources

/// The pages: what people see of the journey, in their language, with or without a script.
package struct Site: PageWriter {
    private let library: MustacheLibrary
    let sent = SentForms()
    let exports = Exports()
    let readings = PolicyReadings()

    package init() {
        do {
            library = MustacheLibrary(templates: try WebFile.templates.mapValues { try MustacheTemplate(string: $0) })
        } catch { preconditionFailure("a template cannot be read: \(error)") }
    }

    package func register(_ routes: Routes) {
        Self.registerFiles(routes)
        routes.on(.home) { _, context in Self.redirect(to: Self.home(of: context.identity?.roles ?? [])) }
        routes.on(.languageChoice) { request, context in
            guard let language = context.coreContext.parameters.get("language").flatMap(Language.init) else {
                throw Problem.notFound("there is no such language")
            }
            let back = SignInRoutes.ownPath(request.uri.queryParameters.get("back") ?? "/")
            var response = Self.redirect(to: back)
            response.headers[.setCookie] =
                "\(Language.cookie)=\(language.rawValue); Path=/; Max-Age=31536000; Secure; HttpOnly; SameSite=Lax"
            return response
        }
        registerRequests(routes)
        registerReviews(routes)
        registerNotices(routes)
        registerRuns(routes)
        registerReleases(routes)
        registerAudit(routes)
        registerAccess(routes)
        registerPolicies(routes)
    }

    private static func registerFiles(_ routes: Routes) {
        let files: [(Route, String, [UInt8])] = [
            (.stylesheet, "text/css; charset=utf-8", WebFile.styleSheet),
            (.script, "text/javascript; charset=utf-8", WebFile.script), (.icon, "image/svg+xml", WebFile.icon),
        ]
        for (route, type, bytes) in files {
            routes.on(route) { _, _ in
                Response(
                    status: .ok, headers: [.contentType: type, .cacheControl: "max-age=300"],
                    body: ResponseBody(byteBuffer: ByteBuffer(bytes: bytes)))
            }
        }
    }

    /// Where somebody of these roles starts.
    private static func home(of roles: Set<Role>) -> String {
        if roles.contains(.researcher) { return Route.requestsPage.path }
        if !roles.isDisjoint(with: Route.reviewsPage.rule.roles.subtracting([.complianceOfficer])) {
            return Route.reviewsPage.path
        }
        if roles.contains(.complianceOfficer) { return Route.auditPage.path }
        return roles.contains(.policyAdministrator) ? Route.policiesPage.path : Route.runsPage.path
    }

    static func redirect(to path: String) -> Response {
        Response(status: .seeOther, headers: [.location: path])
    }
}

// MARK: - A page

/// What was just done, told once at the top of the page that follows; a closed list, because it travels in the address.
enum Done: String {
    case filed, reviewed, started, cancelled, released, saved, discarded, withdrawn, added, closing, closed
    case revoked, presented
    case proposed, signed, activated, keyed
    case keyEnded = "key-ended"

    var key: String {
        switch self {
        case .filed: "request.filed"
        case .reviewed: "request.reviewed"
        case .started: "run.started"
        case .cancelled: "run.cancelled"
        case .released: "release.reviewed"
        case .saved: "draft.done"
        case .discarded: "draft.discarded"
        case .withdrawn: "request.withdrawn.done"
        case .added: "request.added.done"
        case .closing: "request.closing.done"
        case .closed: "request.closed.done"
        case .revoked: "access.done"
        case .presented: "passport.done"
        case .proposed: "policies.done.proposed"
        case .signed: "policies.done.signed"
        case .activated: "policies.done.activated"
        case .keyed: "policies.done.keyed"
        case .keyEnded: "policies.done.key-ended"
        }
    }

    init?(_ request: Request) {
        guard let text = request.uri.queryParameters.get("done"), let done = Done(rawValue: text) else { return nil }
        self = done
    }
}

extension Site {
    /// - Parameters:
    ///   - template: of the page's own part.
    ///   - content: what it says; `t` and `csrf` are added.
    ///   - path: where the page is, for the menu and for changing the language.
    func page(
        _ template: String, titled title: String, _ content: [String: Any], at path: String?, _ context: SekishoContext,
        done: Done? = nil, status: HTTPResponse.Status = .ok
    ) -> Response {
        let words = Words.of(context.language)
        var content = content
        content["t"] = WordTree(words: words)
        content["csrf"] = context.identity?.csrf ?? ""
        content["title"] = title
        if done != nil { content["isOutcome"] = true }
        var frame = content
        frame["main"] = library.render(content, withTemplate: template)
        frame["language"] = context.language.rawValue
        let other: Language = context.language == .english ? .japanese : .english
        frame["otherLanguage"] = other.rawValue
        frame["otherLanguageName"] = other.ownName
        let back = Form([(name: "back", value: path ?? "/")]).encoded
        frame["otherLanguageLink"] = "/language/\(other.rawValue)?\(back)"
        if let done { frame["notice"] = words(done.key) }
        if let identity = context.identity {
            frame["isSignedIn"] = true
            frame["person"] = identity.person.text
            let unread = context.unreadNotices
            if unread > 0 { frame["unread"] = "\(min(unread, 99))" }
            frame["notices"] = words("notices.title")
            frame["navigation"] = Self.navigation(identity, words, path)
        }
        return Response(
            status: status,
            headers: [.contentType: "text/html; charset=utf-8", .contentLanguage: context.language.rawValue],
            body: ResponseBody(byteBuffer: ByteBuffer(string: library.render(frame, withTemplate: "layout") ?? "")))
    }

    private static func navigation(_ identity: Identity, _ words: Words, _ path: String?) -> [[String: Any]] {
        let all: [(Route, String)] = [
            (.requestsPage, words("frame.requests")), (.reviewsPage, words("frame.reviews")),
            (.runsPage, words("frame.runs")), (.passportPage, words("frame.passport")),
            (.auditPage, words("frame.audit")),
            (.policiesPage, words("frame.policies")),
        ]
        return all.filter { !$0.0.rule.roles.isDisjoint(with: identity.roles) }.map { route, name in
            ["href": route.path, "name": name, "isHere": path?.hasPrefix(route.path) ?? false]
        }
    }

    /// A word with a mark of its own shape, so that its meaning does not hang on a colour.
    static func badge(_ kind: BadgeKind, _ words: String) -> [String: Any] {
        [
            "kind": kind.rawValue, "words": words, "isGood": kind == .good, "isBad": kind == .bad,
            "isWaiting": kind == .waiting, "isMoving": kind == .moving, "isPlain": kind == .plain,
        ]
    }

    enum BadgeKind: String { case good, bad, waiting, moving, plain }
}

// MARK: - What the door itself needs

extension Site {
    package func problem(_ problem: Problem, _ context: SekishoContext) -> Response {
        let words = Words.of(context.language)
        let key = words.keys.contains("problem.\(problem.code).what") ? "problem.\(problem.code)" : "problem.other"
        return page(
            "problem", titled: words(key),
            [
                "heading": words(key), "what": words("\(key).what"), "detail": problem.detail,
                "hasFields": !problem.fields.isEmpty,
                "fields": problem.fields.map { ["field": $0.field, "reason": $0.reason] },
                "next": words("problem.next"), "back": "/", "number": context.number,
            ], at: nil, context)
    }

    package func signIn(_ signIn: SignInPage, _ context: SekishoContext) -> Response {
        let words = Words.of(context.language)
        var content: [String: Any] = ["to": signIn.next, "kept": signIn.kept ?? "", "typed": signIn.name]
        if let problem = signIn.problem {
            content["isOutcome"] = true
            switch problem.code {
            case Problem.signInNeeded.code:
                content["what"] = words("sign-in.ended")
                if signIn.kept != nil { content["next"] = words("sign-in.kept") }
            case Problem.badSignIn.code:
                content["what"] = words("sign-in.wrong")
                content["next"] = words("sign-in.try")
            default:
                content["what"] = words(problem.retryAfterSeconds == nil ? "sign-in.refused" : "sign-in.locked")
                if let seconds = problem.retryAfterSeconds {
                    content["next"] = words("sign-in.wait", ["minutes": "\((seconds + 59) / 60)"])
                }
            }
        }
        return page("sign-in", titled: words("sign-in.title"), content, at: "/sign-in", context)
    }

    package func resend(path: String, _ fields: Form, _ context: SekishoContext) -> Response {
        let words = Words.of(context.language)
        let shown = fields.fields.enumerated().map { number, field -> [String: Any] in
            let label = FieldName.label(field.name, words)
            return [
                "number": "\(number)", "name": field.name, "value": field.value, "label": label ?? "",
                "isHidden": label == nil,
                "isLong": label != nil && (field.value.count > 80 || field.value.contains("\n")),
                "isShort": label != nil && field.value.count <= 80 && !field.value.contains("\n"),
            ]
        }
        return page("again", titled: words("again.title"), ["action": path, "fields": shown], at: nil, context)
    }

    package func password(_ problem: Problem?, _ context: SekishoContext) -> Response {
        let words = Words.of(context.language)
        var content: [String: Any] = [:]
        if let problem {
            content["what"] = words("form.not-taken")
            content["detail"] = problem.detail
        }
        return page("password", titled: words("password.title"), content, at: "/password", context)
    }
}

extension Language {
    /// Not a secret: which language was chosen on a page.
    static let cookie = "sekisho-language"

    /// As its speakers write it.
    var ownName: String {
        switch self {
        case .english: "English"
        case .japanese: "日本語"
        }
    }
}
