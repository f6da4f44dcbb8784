package import Foundation
package import Gateway
package import Vocabulary

/// One call of the API, whichever way it came: over HTTP, or from a command in the same process.
package struct APICall: Sendable {
    package let route: Route
    /// What stands for the `:name` parts of the route's path.
    package var path: [String: String]
    package var query: [(name: String, value: String)]
    package var body: JSON?
    /// What was sent as an archive, staged.
    package var upload: DatasetUpload?
    /// The revision that the caller saw, where the call must fail if there is a newer one.
    package var ifRevision: String?
    /// The caller's own name for what must be done once, however often it is asked for.
    package var onceKey: String?

    package init(
        _ route: Route, path: [String: String] = [:], query: [(name: String, value: String)] = [], body: JSON? = nil
    ) {
        self.route = route
        self.path = path
        self.query = query
        self.body = body
    }

    /// Path and query as they stand in a URL.
    package var target: String {
        let path = route.path.split(separator: "/", omittingEmptySubsequences: false).map { part in
            part.hasPrefix(":") ? Self.escape(self.path[String(part.dropFirst())] ?? "") : String(part)
        }.joined(separator: "/")
        guard !query.isEmpty else { return path }
        return path + "?" + query.map { "\(Self.escape($0.name))=\(Self.escape($0.value))" }.joined(separator: "&")
    }

    /// RFC 3986, percent-encoding of everything but the unreserved characters.
    private static func escape(_ text: String) -> String {
        text.utf8.map { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
                UInt8(ascii: "~"):
                String(Unicode.Scalar(byte))
            default: "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }.joined()
    }
}

/// Whoever calls: the door found out, or the command line answers for it.
package struct APICaller: Sendable {
    package let person: PersonID
    /// How they proved it; `nil` for a command over an embedded gateway.
    package let means: SignInMeans?
    /// What the call's token is for; `nil` for everything that the person may do.
    package let scopes: Set<Scope>?

    package init(person: PersonID, means: SignInMeans? = nil, scopes: Set<Scope>? = nil) {
        self.person = person
        self.means = means
        self.scopes = scopes
    }
}

/// What a call came to.
package struct APIReply: Sendable {
    package enum Content: Sendable {
        case json(JSON)
        case nothing
        case text(String, mediaType: String)
        /// Sent as one archive.
        case files([Artefact])
        /// Sent as one archive and then removed.
        case folder(URL, summary: JSON)
        /// One sealed file, alone in its folder; sent as it is and then removed with it.
        case sealed(URL, summary: JSON)
        case events(AsyncStream<RunEvent>)
    }

    package let status: Int
    package let content: Content
    /// Where what was made can be seen.
    package var location: String?
    /// Of the one case that this is about.
    package var revision: Revision?

    package init(_ status: Int = 200, _ content: Content) {
        self.status = status
        self.content = content
    }

    package init(_ status: Int = 200, json: JSON) { self.init(status, .json(json)) }

    package var json: JSON? { if case .json(let json) = content { json } else { nil } }
}
