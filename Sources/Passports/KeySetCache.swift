package import Vocabulary

/// Issuers' key sets, kept for a quarter of an hour: a key that its issuer took back is not believed longer.
package actor KeySetCache {
    package static let secondsMax: Int64 = 900
    /// However often a key is asked for that is not in a set, the set is not fetched again before.
    package static let refreshSecondsMin: Int64 = 60

    private let get: @Sendable (_ address: String) async throws -> [UInt8]
    private let now: @Sendable () -> Timestamp
    /// By address; no more of them than there are trusted issuers.
    private var sets: [String: (bytes: [UInt8], fetched: Timestamp)] = [:]

    package init(
        now: @escaping @Sendable () -> Timestamp, get: @escaping @Sendable (_ address: String) async throws -> [UInt8]
    ) {
        self.now = now
        self.get = get
    }

    /// - Parameter isFresh: a copy is good enough only if it is younger than a minute.
    package func keys(at address: String, isFresh: Bool) async throws -> [UInt8] {
        let ageMax = isFresh ? Self.refreshSecondsMin : Self.secondsMax
        let moment = now()
        if let set = sets[address], set.fetched <= moment, moment < set.fetched.adding(seconds: ageMax) {
            return set.bytes
        }
        let bytes = try await get(address)
        if sets.count >= TrustedIssuers.issuersMax { sets.removeAll() }
        sets[address] = (bytes, moment)
        return bytes
    }
}
