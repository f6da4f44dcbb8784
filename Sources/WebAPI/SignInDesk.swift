import Dispatch
import Gateway
import HTTPTypes
import Sealing
import Synchronization
package import Vocabulary

/// Looks at proofs: passwords at sign-in, tokens and certificates on every request.
package final class SignInDesk: Sendable {
    private let gateway: Gateway
    let sessions: Sessions
    private let lockouts: Lockouts
    /// Of all addresses together: each failure is a record in the trail, which a flood from everywhere must not fill.
    private let attempts = RateLimits(RateLimits.Rate(perSecond: 5, burst: 100))
    private let counter = ProofCounter()
    private let knownTokens: KnownTokens
    private var clock: any WallClock { gateway.clock }
    private var directory: Directory { gateway.directory }

    init(_ gateway: Gateway, sessionLimits: Sessions.Limits, failuresPerAddress: Int) {
        self.gateway = gateway
        lockouts = Lockouts(failuresPerAddress: failuresPerAddress)
        sessions = Sessions(gateway.directory, limits: sessionLimits)
        knownTokens = KnownTokens()
    }

    /// A session that has just started.
    package struct Ticket: Sendable {
        let cookie: String
        package let person: PersonID
    }

    /// Checks name and password and starts a session. What is typed as a name is never recorded unless it is one.
    package func signIn(name: String, password: [UInt8], address: String) async throws -> Ticket {
        let person = (try? PersonID(name)).flatMap { directory.person($0)?.id }
        try await checkPassword(of: person, password, address)
        guard let person else { throw Problem.badSignIn }
        let (cookie, _, replaced) = sessions.open(for: person, now: clock.now())
        do {
            try await gateway.recordSignIn(person, means: .password, address: address)
            for person in replaced { try await gateway.recordSignOut(person, reason: .replaced) }
        } catch {
            // What is not in the trail has not happened.
            sessions.end(cookie)
            throw error
        }
        return Ticket(cookie: cookie, person: person)
    }

    /// Throws unless the password is right. Failures are counted and recorded; too many of them lock.
    private func checkPassword(of person: PersonID?, _ password: [UInt8], _ address: String) async throws {
        if let seconds = lockouts.secondsLeft(person, address, now: clock.now()) {
            throw Problem.locked(retryAfterSeconds: seconds)
        }
        guard password.count <= SecretProof.passwordBytes.upperBound else { throw Problem.badSignIn }
        try takeAttempt()
        let isLast = lockouts.begin(person, address, now: clock.now())
        let kept = person.flatMap { directory.password(of: $0) }
        let fits = try await counter.fits(password, kept ?? SecretProof.nobodys)
        guard fits, kept != nil, let person else {
            try await gateway.recordSignIn(
                person, means: .password, address: address,
                refusal: isLast ? "wrong-password-locked" : "wrong-password")
            throw Problem.badSignIn
        }
        lockouts.succeeded(person, address)
    }

    private func takeAttempt() throws(Problem) {
        if let wait = attempts.take("", now: clock.now()) { throw .tooMany(retryAfterSeconds: wait) }
    }

    /// Changes one's own password; every session of the person ends.
    package func changePassword(of person: PersonID, from old: [UInt8], to new: [UInt8], address: String) async throws {
        try await checkPassword(of: person, old, address)
        guard !constantTimeEqual(old, new) else {
            throw Problem.invalid("The new password is the old one. Choose another.")
        }
        let proof = try await counter.run { try SecretProof.ofPassword(new) }
        try await gateway.setPassword(of: person, to: proof, by: person)
    }

    package func signOut(cookie: String) async throws {
        guard let person = sessions.end(cookie) else { return }
        try await gateway.recordSignOut(person, reason: .asked)
    }

    /// Who a session's cookie stands for.
    func identity(cookie: String) async throws -> (identity: Identity?, endedFor: PersonID?) {
        let (found, endedNow) = sessions.find(cookie, now: clock.now())
        switch found {
        case .live(let session):
            guard let person = directory.person(session.person) else { return (nil, nil) }
            return (
                Identity(
                    person: person.id, roles: person.roles, means: .password, scopes: Set(Scope.allCases),
                    csrf: session.csrf, account: "person/\(person.id)"), nil
            )
        case .ended(let person, _):
            if let endedNow { try await gateway.recordSignOut(person, reason: endedNow) }
            return (nil, person)
        case .unknown: return (nil, nil)
        }
    }

    /// Who a token stands for. The first time Argon2id says so; after that a keyed hash, which takes microseconds.
    func identity(token text: String, address: String) async throws -> Identity {
        let now = clock.now()
        guard let (id, secret) = AccessKey.parse(text), let key = directory.key(id), key.isUsable(at: now),
            let proof = directory.proof(ofToken: id)
        else {
            if let seconds = lockouts.secondsLeft(nil, address, now: now) {
                throw Problem.locked(retryAfterSeconds: seconds)
            }
            lockouts.begin(nil, address, now: now)
            throw Problem.badToken
        }
        if !knownTokens.holds(id, secret) {
            if let seconds = lockouts.secondsLeft(key.person, address, now: now) {
                throw Problem.locked(retryAfterSeconds: seconds)
            }
            try takeAttempt()
            lockouts.begin(key.person, address, now: now)
            guard try await counter.fits(secret, proof) else {
                try await gateway.recordSignIn(
                    key.person, means: .token, key: id, address: address, refusal: "wrong-token")
                throw Problem.badToken
            }
            lockouts.succeeded(key.person, address)
            try await gateway.recordSignIn(key.person, means: .token, key: id, address: address)
            knownTokens.remember(id, secret)
        }
        return try identity(of: key, .token)
    }

    /// Who a machine's certificate stands for, once the TLS layer has checked its chain and its key.
    func identity(certificate: Digest, address: String) async throws -> Identity? {
        guard let key = directory.key(ofCertificate: certificate), key.isUsable(at: clock.now()) else { return nil }
        if knownTokens.note(key.id) {
            try await gateway.recordSignIn(key.person, means: .certificate, key: key.id, address: address)
        }
        return try identity(of: key, .certificate)
    }

    private func identity(of key: AccessKey, _ means: SignInMeans) throws -> Identity {
        guard let person = directory.person(key.person) else { throw Problem.badToken }
        return Identity(
            person: person.id, roles: person.roles, means: means, scopes: key.scopes, csrf: "",
            account: "key/\(key.id)")
    }
}

/// Where Argon2id is computed: one at a time, so that its memory is taken once, and few may wait.
private final class ProofCounter: Sendable {
    private static let waitingMax = 32
    private let queue = DispatchQueue(label: "sekisho.proofs", qos: .userInitiated)
    private let waiting = Mutex(0)

    func fits(_ secret: [UInt8], _ proof: SecretProof) async throws -> Bool {
        try await run { try proof.fits(secret) }
    }

    func run<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        let mayWait = waiting.withLock { waiting in
            guard waiting < Self.waitingMax else { return false }
            waiting += 1
            return true
        }
        guard mayWait else { throw Problem.tooMany(retryAfterSeconds: 5) }
        defer { waiting.withLock { $0 -= 1 } }
        return try await withCheckedThrowingContinuation { done in
            queue.async { done.resume(with: Result { try body() }) }
        }
    }
}

/// Tokens that Argon2id has accepted in this process, by a hash under a key that only this process has.
private final class KnownTokens: Sendable {
    private static let most = 8192
    private let key = SecretBytes.random(count: 32)
    private let hashes = Mutex<[AccessKeyID: [UInt8]]>([:])

    func holds(_ id: AccessKeyID, _ secret: [UInt8]) -> Bool {
        guard let known = hashes.withLock({ $0[id] }) else { return false }
        return constantTimeEqual(known, KeyDerivation.hmac(key, secret))
    }

    func remember(_ id: AccessKeyID, _ secret: [UInt8]) {
        let hash = KeyDerivation.hmac(key, secret)
        hashes.withLock { hashes in
            if hashes.count >= Self.most { hashes.removeAll() }
            hashes[id] = hash
        }
    }

    /// - Returns: whether this key is new here.
    func note(_ id: AccessKeyID) -> Bool {
        hashes.withLock { hashes in
            guard hashes[id] == nil else { return false }
            if hashes.count >= Self.most { hashes.removeAll() }
            hashes[id] = []
            return true
        }
    }
}
