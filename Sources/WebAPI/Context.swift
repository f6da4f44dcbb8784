package import Gateway
import Glibc
package import Hummingbird
import HummingbirdCore
import NIOCore
import Synchronization
package import Vocabulary

// `Vocabulary` has nouns of the same names for its identifiers; at this door a request is an HTTP request.
package typealias Request = HummingbirdCore.Request
package typealias RequestID = Vocabulary.RequestID

/// Who asks, and by which means they proved it.
package struct Identity: Sendable {
    package let person: PersonID
    package let roles: Set<Role>
    package let means: SignInMeans
    /// What a token or certificate is for; a session is for everything its person may do.
    package let scopes: Set<Scope>
    /// What a form of this session carries in its field `csrf`; empty without a session.
    package let csrf: String

    /// By its means and a name that is not secret: what rates are counted on.
    let account: String
}

/// What belongs to one HTTP request on its way through the door.
package struct SekishoContext: RequestContext {
    package var coreContext: CoreRequestContextStorage
    /// Set by the route's rule before its handler runs; `nil` only where anyone may ask.
    package var identity: Identity?
    /// The language to answer in.
    package var language: Language = .english
    /// How many notices of the reader's are unread.
    package var unreadNotices = 0
    /// The form of a request that has one.
    package var form = Form()
    /// A number that this request's log line carries too; safe to show.
    package let number: String
    let channel: any Channel
    let summary = Summary()

    package init(source: ApplicationRequestContextSource) {
        coreContext = CoreRequestContextStorage(source: source)
        channel = source.channel
        number = RequestNumber.next()
    }

    /// Whose roles were checked. A handler of a route for anyone must not ask.
    package var person: PersonID {
        get throws(Problem) {
            guard let identity else { throw Problem.signInNeeded }
            return identity.person
        }
    }

    /// The identifier in the path: `let run: RunID = try context.identifier("run")`.
    package func identifier<Noun>(_ name: String) throws(Problem) -> Identifier<Noun> {
        guard let text = coreContext.parameters.get(name), let id = try? Identifier<Noun>(text) else {
            throw Problem.notFound("nothing here has such a name")
        }
        return id
    }

    /// Where the request came from: an address without its port. Of an IPv6 address only the network of 64 bits that one
    /// subscriber has, so that nobody has as many tries as such a network has addresses.
    var address: String {
        guard let text = channel.remoteAddress?.ipAddress else { return "unknown" }
        var bytes = [UInt8](repeating: 0, count: 16)
        guard inet_pton(AF_INET6, text, &bytes) == 1 else { return text }
        // An IPv4 address on a socket for both.
        if bytes[..<10].allSatisfy({ $0 == 0 }), bytes[10] == 0xFF, bytes[11] == 0xFF {
            return bytes[12...].map(String.init).joined(separator: ".")
        }
        return Hex.encode(bytes[..<8]) + "/64"
    }
}

/// What pages and messages can be written in.
package enum Language: String, CaseIterable, Sendable {
    case english = "en"
    case japanese = "ja"

    /// The first of an `Accept-Language` header that there is; its weights are taken as written, in order.
    package init(accepting header: String?) {
        let wanted = (header ?? "").prefix(256).split(separator: ",").compactMap { part in
            Language(rawValue: String(part.drop { $0 == " " }.prefix(2)).lowercased())
        }
        self = wanted.first ?? .english
    }
}

/// What the request's one log line will say, gathered on its way.
final class Summary: Sendable {
    struct Fields { var route: Route?; var means: SignInMeans?; var code: String? }
    private let fields = Mutex(Fields())

    func set(_ change: (inout sending Fields) -> Void) { fields.withLock { change(&$0) } }
    var now: Fields { fields.withLock { $0 } }
}

/// Numbers requests of this process; not guessable from outside what others ask.
private enum RequestNumber {
    private static let counter = Atomic<UInt64>(UInt64.random(in: 0..<(1 << 40)))
    static func next() -> String {
        String(counter.add(1, ordering: .relaxed).newValue, radix: 36)
    }
}
