import Gateway
import Sealing
import Synchronization
import Vocabulary

/// The page sessions of this process. They end with it: whoever signs in again finds what was being typed.
final class Sessions: Sendable {
    struct Limits: Sendable {
        var idleSeconds: Int64 = 30 * 60
        var absoluteSeconds: Int64 = 10 * 3600
        var perPerson = 8
        var most = 10_000
    }

    struct Session: Sendable {
        let person: PersonID
        let csrf: String
        let started: Timestamp
        var seen: Timestamp
        /// The person's standing when it started; see `Directory.standing`.
        let standing: UInt64
    }

    /// What a cookie turns out to be.
    enum Found {
        case live(Session)
        case ended(PersonID, SignOutReason)
        case unknown
    }

    private struct State {
        // By the cookie's hash: what is compared in changing time tells nothing about a cookie.
        var sessions: [Digest: Session] = [:]
        var ended: [Digest: (person: PersonID, reason: SignOutReason)] = [:]
        var endedOrder: [Digest] = []
    }

    private static let cookieBytes = 32
    let limits: Limits
    private let directory: Directory
    private let state = Mutex(State())

    init(_ directory: Directory, limits: Limits = Limits()) {
        self.directory = directory
        self.limits = limits
    }

    /// Starts a session and returns the cookie that stands for it; the sessions that had to make room are over.
    func open(for person: PersonID, now: Timestamp) -> (cookie: String, csrf: String, replaced: [PersonID]) {
        let cookie = Hex.encode(RandomBytes.array(Self.cookieBytes))
        let csrf = Hex.encode(RandomBytes.array(Self.cookieBytes))
        let session = Session(
            person: person, csrf: csrf, started: now, seen: now, standing: directory.standing(of: person) ?? 0)
        let replaced = state.withLock { state in
            var replaced: [PersonID] = []
            let own = state.sessions.filter { $0.value.person == person }.sorted { $0.value.seen < $1.value.seen }
            for (key, _) in own.prefix(max(0, own.count - limits.perPerson + 1)) {
                replaced.append(person)
                Self.end(key, .replaced, in: &state)
            }
            if state.sessions.count >= limits.most,
                let oldest = state.sessions.min(by: { $0.value.seen < $1.value.seen })
            {
                replaced.append(oldest.value.person)
                Self.end(oldest.key, .replaced, in: &state)
            }
            state.sessions[Self.key(cookie)] = session
            return replaced
        }
        return (cookie, csrf, replaced)
    }

    /// - Returns: the session, and why it ended if it did so just now.
    func find(_ cookie: String, now: Timestamp) -> (found: Found, endedNow: SignOutReason?) {
        guard cookie.utf8.count == 2 * Self.cookieBytes else { return (.unknown, nil) }
        let key = Self.key(cookie)
        return state.withLock { state in
            guard let session = state.sessions[key] else {
                return (state.ended[key].map { .ended($0.person, $0.reason) } ?? .unknown, nil)
            }
            let reason: SignOutReason? =
                if now >= session.started.adding(seconds: limits.absoluteSeconds) {
                    .expired
                } else if now >= session.seen.adding(seconds: limits.idleSeconds) {
                    .idle
                } else if directory.standing(of: session.person) != session.standing {
                    .changed
                } else {
                    nil
                }
            if let reason {
                Self.end(key, reason, in: &state)
                return (.ended(session.person, reason), reason)
            }
            state.sessions[key]?.seen = max(session.seen, now)
            return (.live(session), nil)
        }
    }

    /// - Returns: whose it was.
    @discardableResult
    func end(_ cookie: String) -> PersonID? {
        let key = Self.key(cookie)
        return state.withLock { state in
            let person = state.sessions[key]?.person
            Self.end(key, .asked, in: &state)
            return person
        }
    }

    var count: Int { state.withLock { $0.sessions.count } }

    private static func key(_ cookie: String) -> Digest { SHA256.hash(Array(cookie.utf8)) }

    /// Keeps for a while whose it was, so that a form that was being filled goes back to nobody else.
    private static func end(_ key: Digest, _ reason: SignOutReason, in state: inout State) {
        guard let session = state.sessions.removeValue(forKey: key) else { return }
        state.ended[key] = (session.person, reason)
        state.endedOrder.append(key)
        if state.endedOrder.count > 4096 { state.ended[state.endedOrder.removeFirst()] = nil }
    }
}
