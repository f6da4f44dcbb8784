import Hummingbird
import HTTPTypes
import Sealing
import Synchronization
import Vocabulary

/// Answers to calls that were sent with an idempotency key, kept so that a call that is sent again is not done again.
///
/// What files a request or starts a run keeps its key in its record and needs no table. For everything else a key holds
/// for a day, until the service starts again, or until `entriesMax` newer ones came.
final class OnceTable: Sendable {
    /// An answer that can be given again.
    struct Answer: Sendable {
        let status: Int
        let body: [UInt8]
        let headers: HTTPFields
    }

    private struct Entry {
        let content: Digest
        let began: Timestamp
        /// `nil` while the first call is being done.
        var answer: Answer?
    }

    private struct State {
        var entries: [String: Entry] = [:]
        /// Keys in the order they came.
        var order: [String] = []
    }

    static let entriesMax = 4096
    static let bodyBytesMax = 64 << 10
    private static let seconds: Int64 = 86_400
    private let state = Mutex(State())

    /// - Parameters:
    ///   - key: of one person.
    ///   - content: of the whole call.
    /// - Returns: the answer to give again; `nil` where the call has to be done, and then `finish` or `forget` be called.
    func begin(_ key: String, content: Digest, now: Timestamp) throws(Problem) -> Answer? {
        let found: Result<Answer?, Problem> = state.withLock { state in
            if let entry = state.entries[key], entry.began.adding(seconds: Self.seconds) > now {
                guard entry.content == content else { return .failure(.keyReused) }
                return entry.answer.map { .success($0) } ?? .failure(.stillWorking)
            }
            if state.entries.updateValue(Entry(content: content, began: now), forKey: key) == nil {
                state.order.append(key)
            }
            if state.entries.count > Self.entriesMax { state.entries[state.order.removeFirst()] = nil }
            return .success(nil)
        }
        return try found.get()
    }

    func finish(_ key: String, _ answer: Answer) {
        state.withLock { state in
            guard answer.body.count <= Self.bodyBytesMax else { return Self.remove(key, &state) }
            state.entries[key]?.answer = answer
        }
    }

    /// The call failed: it may be sent again.
    func forget(_ key: String) { state.withLock { Self.remove(key, &$0) } }

    private static func remove(_ key: String, _ state: inout State) {
        state.entries[key] = nil
        state.order.removeAll { $0 == key }
    }
}

extension Problem {
    static let keyReused = Problem(
        status: 422, code: "key-reused", title: "The idempotency key was used before",
        detail: "It was sent with other content. Nothing was done; send a new key.")
    static let stillWorking = Problem(
        status: 409, code: "still-working", title: "The same call is being done",
        detail: "Its answer is not there yet. Send the same call again in a moment.")
}
