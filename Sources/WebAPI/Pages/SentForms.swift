import Sealing
import Synchronization
import Vocabulary

/// A form that is sent twice is done once: whoever sends it again, also while the first is being worked on, gets the
/// answer of the first.
final class SentForms: Sendable {
    private struct Key: Hashable {
        let person: PersonID
        let number: String
    }

    private struct State {
        var answers: [Key: Task<String, any Error>] = [:]
        var order: [Key] = []
    }

    private static let keptMax = 2048
    private let state = Mutex(State())

    /// A number for a new form; nobody can guess it, but it opens nothing either.
    static func freshNumber() -> String { Hex.encode(RandomBytes.array(16)) }

    /// - Parameters:
    ///   - number: the form's; one that is not ours is worked on like a form that was never sent.
    ///   - work: what the form is for; its answer is the path to go to. A failure may be sent again.
    func once(
        _ number: String?, by person: PersonID, _ work: @escaping @Sendable () async throws -> String
    ) async throws -> String {
        guard let number, number.utf8.count == 32, Hex.decode(number) != nil else { return try await work() }
        let key = Key(person: person, number: number)
        let task = state.withLock { state in
            if let known = state.answers[key] { return known }
            let task = Task { try await work() }
            state.answers[key] = task
            state.order.append(key)
            if state.order.count > Self.keptMax { state.answers[state.order.removeFirst()] = nil }
            return task
        }
        do {
            return try await task.value
        } catch {
            state.withLock { state in
                state.answers[key] = nil
                state.order.removeAll { $0 == key }
            }
            throw error
        }
    }
}
