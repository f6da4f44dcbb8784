internal import FabricProtocol
internal import FabricTransport
internal import Synchronization
internal import Vocabulary

/// Asks a node over the control channel. Requests may overlap: a lease is renewed while a doorbell is out.
final class ControlClient: Sendable {
    typealias Answer = @Sendable (Result<ControlMessage, FabricError>) -> Void

    private struct Pending {
        let answer: Answer
        /// On the boot clock; nil waits as long as the lease lives.
        let deadline: UInt64?
    }

    private struct State {
        var next: UInt64 = 1
        var pending: [UInt64: Pending] = [:]
        var ended: FabricError?
    }

    static let pendingMax = 64
    /// How often overdue requests are looked for.
    private static let tickMilliseconds = 200

    let connection: ControlConnection
    private let fence: Fence
    private let state: Mutex<State>
    private let clock = BootClock()
    private let ended: @Sendable (FabricError) -> Void

    /// `ended` is called once, when the connection is of no more use.
    init(_ connection: ControlConnection, fence: Fence, ended: @escaping @Sendable (FabricError) -> Void) {
        self.connection = connection
        self.fence = fence
        self.ended = ended
        state = Mutex(State())
    }

    /// Starts the thread that takes the node's answers.
    func start() { startThread { [self] in receive() } }

    func request(_ message: ControlMessage, seconds: Int?) async throws(FabricError) -> ControlMessage {
        let result = await withCheckedContinuation { continuation in
            send(message, seconds: seconds) { continuation.resume(returning: $0) }
        }
        return try result.get()
    }

    func send(_ message: ControlMessage, seconds: Int?, answer: @escaping Answer) {
        let deadline = seconds.map { clock.nanoseconds() + UInt64($0) * 1_000_000_000 }
        let number: Result<UInt64, FabricError> = state.withLock { state in
            if let ended = state.ended { return .failure(ended) }
            guard state.pending.count < Self.pendingMax else {
                return .failure(FabricError(.timeout, "too many requests are waiting for the node"))
            }
            defer { state.next += 1 }
            state.pending[state.next] = Pending(answer: answer, deadline: deadline)
            return .success(state.next)
        }
        switch number {
        case .failure(let error): answer(.failure(error))
        case .success(let number):
            do {
                try connection.send(ControlFrame(request: number, fence: fence, message: message))
            } catch {
                end(FabricError(error))
            }
        }
    }

    func close(_ error: FabricError) { end(error) }

    private func receive() {
        while true {
            do throws(TransportError) {
                let frame = try connection.receive(milliseconds: Self.tickMilliseconds)
                guard take(frame) else {
                    return end(FabricError(.protocolViolation, "the node answered what was not asked"))
                }
            } catch {
                guard error.code == .timeout else { return end(FabricError(error)) }
            }
            expire()
            if state.withLock({ $0.ended != nil }) { return }
        }
    }

    private func take(_ frame: ControlFrame) -> Bool {
        // Request 0: the node says on its own that the lease is over.
        if frame.request == 0, case .error(let refusal) = frame.message {
            end(FabricError(refusal))
            return true
        }
        guard let pending = state.withLock({ $0.pending.removeValue(forKey: frame.request) }) else { return false }
        if case .error(let refusal) = frame.message {
            pending.answer(.failure(FabricError(refusal)))
        } else {
            pending.answer(.success(frame.message))
        }
        return true
    }

    private func expire() {
        let now = clock.nanoseconds()
        let overdue = state.withLock { state in
            state.pending.values.contains { $0.deadline.map { $0 < now } ?? false }
        }
        if overdue { end(FabricError(.timeout, "the node did not answer in time")) }
    }

    private func end(_ error: FabricError) {
        let pending: [Pending]? = state.withLock { state in
            guard state.ended == nil else { return nil }
            state.ended = error
            defer { state.pending = [:] }
            return Array(state.pending.values)
        }
        guard let pending else { return }
        connection.close()
        ended(error)
        for waiting in pending { waiting.answer(.failure(error)) }
    }
}
