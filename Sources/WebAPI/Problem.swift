package import Gateway
package import Hummingbird
import HTTPTypes
import NIOCore
package import Vocabulary

/// What a request came to when it could not be done, as RFC 9457 problem details.
package struct Problem: Error, Sendable, Equatable {
    package let status: Int
    /// A closed, stable name of the problem.
    package let code: String
    package let title: String
    /// What happened, what was kept and what to do next; safe to show.
    package let detail: String
    /// Which of the sent fields are to blame, and why.
    package var fields: [FieldFault] = []
    /// After how many seconds trying again may help.
    package var retryAfterSeconds: Int?

    package struct FieldFault: Sendable, Equatable {
        package let field: String
        package let reason: String

        package init(_ field: String, _ reason: String) {
            self.field = field
            self.reason = reason
        }
    }

    package init(status: Int, code: String, title: String, detail: String) {
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
    }
}

extension Problem {
    package static let signInNeeded = Problem(
        status: 401, code: "sign-in-needed", title: "Sign in first",
        detail: "Nobody is signed in, or the session has ended. Sign in, or send a token, and ask again.")
    package static let badToken = Problem(
        status: 401, code: "bad-token", title: "The token is not accepted",
        detail: "It is unknown, expired or revoked. Make a new one with `sekisho token create` and ask again.")
    package static let badSignIn = Problem(
        status: 401, code: "bad-sign-in", title: "Name and password do not fit",
        detail: "Nothing was done. Check both and try again; after some failures the sign-in is locked for a while.")
    package static let roleMissing = Problem(
        status: 403, code: "role-missing", title: "Your roles do not allow this",
        detail: "Nothing was done. An operator can tell who may, or give you the role.")
    package static let scopeMissing = Problem(
        status: 403, code: "scope-missing", title: "The token is not made for this",
        detail: "Nothing was done. Make a token with the scope that this needs, or sign in on the page.")
    package static let forgery = Problem(
        status: 403, code: "form-expired", title: "This form is out of date",
        detail:
            "It was not sent from a page of your present session. Nothing was done: open the page again and send it.")
    package static let badForm = Problem(
        status: 400, code: "bad-form", title: "The form cannot be read",
        detail: "It is not a well-formed form in UTF-8 with at most 256 fields. Nothing was done; open the page again.")
    package static let headersTooLarge = Problem(
        status: 431, code: "headers-too-large", title: "The request's headers are too long",
        detail:
            "Nothing was done. Send at most 8 KiB in one header and 32 KiB in all; deleting this site's cookies helps.")
    package static let notHTTP = Problem(
        status: 400, code: "not-http", title: "This is not HTTP",
        detail: "The request cannot be read. Nothing was done; the connection is closed.")
    package static let mediaType = Problem(
        status: 415, code: "media-type", title: "The body has the wrong type",
        detail: "Nothing was done. Send application/json to the API, and forms from the pages.")
    package static let internalError = Problem(
        status: 500, code: "internal-error", title: "Something went wrong here",
        detail:
            "That is our bug, not yours. What was recorded before it is kept; an operator finds the cause in the log.")
    package static let stopping = Problem(
        status: 503, code: "stopping", title: "The service is stopping",
        detail: "Nothing was done. Try again in a moment.")

    /// - Parameter obstacle: the trail's public words.
    static func trailStopped(_ obstacle: String) -> Problem {
        Problem(
            status: 503, code: "trail-stopped", title: "The audit trail takes no records",
            detail: "Nothing that must be recorded can be done: \(obstacle).")
    }

    package static func notFound(_ what: String) -> Problem {
        Problem(
            status: 404, code: "not-found", title: "Not found",
            detail: "\(what.prefix(1).uppercased())\(what.dropFirst()). Check the address, or start from the list.")
    }

    package static func methodNotAllowed(_ allowed: [String]) -> Problem {
        Problem(
            status: 405, code: "method-not-allowed", title: "This cannot be done here",
            detail: "Nothing was done. This address takes \(allowed.sorted().joined(separator: ", ")).")
    }

    package static func tooLarge(_ bytesMax: Int) -> Problem {
        Problem(
            status: 413, code: "too-large", title: "Too much was sent",
            detail: "Nothing was done. Send at most \(bytesMax) bytes.")
    }

    package static func tooMany(retryAfterSeconds: Int) -> Problem {
        var problem = Problem(
            status: 429, code: "too-many-requests", title: "Too many requests",
            detail: "Nothing was done. Wait \(retryAfterSeconds) seconds and try again.")
        problem.retryAfterSeconds = retryAfterSeconds
        return problem
    }

    package static func locked(retryAfterSeconds: Int) -> Problem {
        var problem = Problem(
            status: 429, code: "locked", title: "Locked for a while",
            detail: "Too many sign-ins failed. Wait \((retryAfterSeconds + 59) / 60) minutes and try again.")
        problem.retryAfterSeconds = retryAfterSeconds
        return problem
    }

    /// - Parameter fields: which fields are to blame.
    package static func invalid(_ detail: String, _ fields: [FieldFault] = []) -> Problem {
        var problem = Problem(status: 400, code: "invalid", title: "This makes no sense as asked", detail: detail)
        problem.fields = fields
        return problem
    }

    /// The one mapping of what the gateway says to what the door answers.
    package init(_ error: GatewayError) {
        let (status, title): (Int, String) =
            switch error.code {
            case .usage: (400, "This makes no sense as asked")
            case .refused: (403, "Refused")
            case .notFound: (404, "Not found")
            case .integrity: (500, "Something stored is not what was stored")
            case .unavailable: (503, "Something needed is not available")
            case .trailFull: (503, "The audit trail has no room")
            case .busy: (503, "Busy")
            case .changed: (412, "It has changed")
            case .keyReused: (422, "The idempotency key was used before")
            }
        let code =
            switch error.code {
            case .usage: "invalid"
            case .notFound: "not-found"
            case .trailFull: "trail-full"
            case .keyReused: "key-reused"
            case .refused, .integrity, .unavailable, .busy, .changed: error.code.rawValue
            }
        let words = error.publicDescription
        self.init(
            status: status, code: code, title: title, detail: "\(words.prefix(1).uppercased())\(words.dropFirst()).")
        if status == 503 { retryAfterSeconds = 5 }
    }

    /// What an error comes to that reached the door; an error nobody has given a code is our bug, told without its text.
    package init(_ error: any Error) {
        if let problem = error as? Problem {
            self = problem
        } else if let error = GatewayError(error) {
            self.init(error)
        } else if let error = error as? HTTPError {
            self = Self.of(status: error.status.code)
        } else {
            self = .internalError
        }
    }

    private static func of(status: Int) -> Problem {
        switch status {
        case 404: .notFound("there is nothing at this address")
        case 413: .tooLarge(0)
        case 415: .mediaType
        case 400..<500:
            Problem(
                status: status, code: "invalid", title: "This makes no sense as asked",
                detail: "The request cannot be read. Nothing was done.")
        default: .internalError
        }
    }
}

extension Problem {
    /// - Parameter number: the request's number in the log.
    package func json(number: String) -> JSON {
        var members: [String: JSON] = [
            "type": .string("urn:sekisho:problem:\(code)"), "title": .string(title), "status": .integer(Int64(status)),
            "detail": .string(detail), "instance": .string("urn:sekisho:request:\(number)"), "code": .string(code),
        ]
        if !fields.isEmpty {
            members["fields"] = .array(
                fields.map { ["field": .string($0.field), "reason": .string($0.reason)] })
        }
        if let retryAfterSeconds { members["retry_after_seconds"] = .integer(Int64(retryAfterSeconds)) }
        return .object(members)
    }

    package func response(number: String) -> Response {
        var response = Response(
            status: HTTPResponse.Status(code: status), headers: [.contentType: "application/problem+json"],
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: json(number: number).canonical)))
        addHeaders(to: &response)
        return response
    }

    func addHeaders(to response: inout Response) {
        if let retryAfterSeconds { response.headers[.retryAfter] = "\(retryAfterSeconds)" }
        if status == 401 { response.headers[.wwwAuthenticate] = "Bearer realm=\"sekisho\"" }
    }
}
