import Synchronization
import Vocabulary

/// How many requests each account or address may send: a bucket of `burst` that refills by `perSecond`.
final class RateLimits: Sendable {
    struct Rate: Sendable {
        let perSecond: Double
        let burst: Double
    }

    private struct Bucket {
        var left: Double
        var at: Int64
    }

    private static let bucketsMax = 20_000
    private let rate: Rate
    private let buckets = Mutex<[String: Bucket]>([:])

    init(_ rate: Rate) { self.rate = rate }

    /// - Returns: `nil` where the request may pass, else after how many seconds the next one may.
    func take(_ account: String, now: Timestamp) -> Int? {
        buckets.withLock { buckets in
            var bucket = buckets[account] ?? Bucket(left: rate.burst, at: now.milliseconds)
            let elapsed = Double(max(0, now.milliseconds - bucket.at)) / 1000
            bucket.left = min(rate.burst, bucket.left + elapsed * rate.perSecond)
            bucket.at = max(bucket.at, now.milliseconds)
            let passes = bucket.left >= 1
            if passes { bucket.left -= 1 }
            if buckets[account] == nil, buckets.count >= Self.bucketsMax { makeRoom(in: &buckets, now) }
            buckets[account] = bucket
            return passes ? nil : max(1, Int(((1 - bucket.left) / rate.perSecond).rounded(.up)))
        }
    }

    /// Forgets the buckets that are full again; where none is, all of them: a flood from everywhere must not make the
    /// table grow.
    private func makeRoom(in buckets: inout [String: Bucket], _ now: Timestamp) {
        buckets = buckets.filter { _, bucket in
            bucket.left + Double(max(0, now.milliseconds - bucket.at)) / 1000 * rate.perSecond < rate.burst
        }
        if buckets.count >= Self.bucketsMax { buckets.removeAll() }
    }
}

/// Counts failed proofs and locks whoever fails too often, for a while: a person from one address, a person from
/// everywhere, an address for everybody.
final class Lockouts: Sendable {
    private struct Count {
        var failures = 0
        var last: Timestamp
        var lockedUntil: Timestamp
    }

    private static let entriesMax = 20_000
    private static let seconds: Int64 = 15 * 60
    private let failuresPerAddress: Int
    private let counts = Mutex<[String: Count]>([:])

    init(failuresPerAddress: Int) { self.failuresPerAddress = failuresPerAddress }

    /// How many failures in a row each may have.
    private func entries(_ person: PersonID?, _ address: String) -> [(key: String, most: Int)] {
        var entries = [(key: "a/\(address)", most: failuresPerAddress)]
        if let person {
            entries.append((key: "b/\(person.text.lowercased())/\(address)", most: 5))
            entries.append((key: "p/\(person.text.lowercased())", most: 25))
        }
        return entries
    }

    /// - Returns: for how many seconds the proof is refused without looking at it; `nil` where it is looked at.
    func secondsLeft(_ person: PersonID?, _ address: String, now: Timestamp) -> Int? {
        counts.withLock { counts in
            entries(person, address).compactMap { counts[$0.key]?.lockedUntil }.max().flatMap { until in
                until > now ? Int((until.milliseconds - now.milliseconds + 999) / 1000) : nil
            }
        }
    }

    /// Counts a failure before it is known to be one, so that proofs sent at once are counted too.
    /// - Returns: whether this was the last one before a lock.
    @discardableResult
    func begin(_ person: PersonID?, _ address: String, now: Timestamp) -> Bool {
        counts.withLock { counts in
            if counts.count >= Self.entriesMax {
                counts = counts.filter { $0.value.last.adding(seconds: Self.seconds) > now }
                // Locked entries stay; the rest makes room.
                if counts.count >= Self.entriesMax { counts = counts.filter { $0.value.lockedUntil > now } }
                if counts.count >= Self.entriesMax { counts.removeAll() }
            }
            var locks = false
            for (key, most) in entries(person, address) {
                var count = counts[key] ?? Count(last: now, lockedUntil: now)
                if count.last.adding(seconds: Self.seconds) <= now { count.failures = 0 }
                count.failures += 1
                count.last = now
                if count.failures >= most {
                    count.lockedUntil = now.adding(seconds: Self.seconds)
                    locks = true
                }
                counts[key] = count
            }
            return locks
        }
    }

    /// The proof was right: the person starts over; the address only gives back this one attempt.
    func succeeded(_ person: PersonID, _ address: String) {
        counts.withLock { counts in
            for (key, most) in entries(person, address) {
                if key.hasPrefix("a/") {
                    counts[key]?.failures -= 1
                    if let count = counts[key], count.failures < most { counts[key]?.lockedUntil = count.last }
                } else {
                    counts[key] = nil
                }
            }
        }
    }
}
