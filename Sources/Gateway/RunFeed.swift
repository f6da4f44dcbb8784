import PolicyEngine
import Synchronization
package import Vocabulary

/// What somebody who follows a run sees of it, as it happens.
package enum RunEvent: Sendable, Equatable {
    case stage(RunStage)
    case epoch(EpochProgress)
    /// What the run needs (a device, a disk, a node) is away or busy; it is tried again.
    case held(GatewayError)
    /// Its device is gone: the run goes on from its last checkpoint on another one.
    case deviceLost(NodeID)
    /// Somebody has to decide first.
    case waiting(for: String)
    case closed(RunEnd)
}

/// How far training is.
package struct EpochProgress: Sendable, Equatable {
    package let epoch: Int
    package let epochs: Int
    package let secondsLeft: Int
    /// Only what the policy lets this viewer see, rounded as it says.
    package let figures: [ShownFigure]

    package init(epoch: Int, epochs: Int, secondsLeft: Int, figures: [ShownFigure]) {
        self.epoch = epoch
        self.epochs = epochs
        self.secondsLeft = secondsLeft
        self.figures = figures
    }
}

/// A figure that was shown before the release, in thousandths.
package struct ShownFigure: Sendable, Equatable {
    package let name: String
    package let thousandths: Int

    package init(name: String, thousandths: Int) {
        self.name = name
        self.thousandths = thousandths
    }
}

/// Who follows which run. What is not taken in time is dropped, oldest first: each event tells where the run is, so
/// the newest is enough.
final class RunFeed: Sendable {
    private struct Follower {
        let seesFigures: Bool
        let stream: AsyncStream<RunEvent>.Continuation
    }

    private struct State {
        var followers: [RunID: [Int: Follower]] = [:]
        /// The newest event of each run that is not closed, without figures.
        var latest: [RunID: RunEvent] = [:]
        var next = 0
    }

    static let followersMax = 512
    private static let buffered = 32
    private let state = Mutex(State())

    /// - Parameter recorded: where the run's records leave it, for a run that this process has not worked on.
    func follow(_ run: RunID, seesFigures: Bool, recorded: RunEvent) throws -> AsyncStream<RunEvent> {
        let (stream, continuation) = AsyncStream.makeStream(
            of: RunEvent.self, bufferingPolicy: .bufferingNewest(Self.buffered))
        let joined: (number: Int, first: RunEvent)? = state.withLock { state in
            guard state.followers.values.reduce(0, { $0 + $1.count }) < Self.followersMax else { return nil }
            state.next += 1
            state.followers[run, default: [:]][state.next] = Follower(seesFigures: seesFigures, stream: continuation)
            return (state.next, state.latest[run] ?? recorded)
        }
        guard let (number, first) = joined else {
            throw GatewayError(.busy, "too many people follow runs at the moment; look at the run's records instead")
        }
        continuation.onTermination = { [weak self] _ in self?.leave(run, number) }
        continuation.yield(first)
        if case .closed = first { continuation.finish() }
        return stream
    }

    /// Whether anybody follows who may see figures: what nobody sees need not be decided.
    func showsFigures(of run: RunID) -> Bool {
        state.withLock { $0.followers[run]?.values.contains(where: \.seesFigures) ?? false }
    }

    func publish(_ event: RunEvent, of run: RunID) {
        let followers = state.withLock { state in
            if case .closed = event { state.latest[run] = nil } else { state.latest[run] = event.withoutFigures }
            defer { if case .closed = event { state.followers[run] = nil } }
            return state.followers[run].map { Array($0.values) } ?? []
        }
        for follower in followers {
            follower.stream.yield(follower.seesFigures ? event : event.withoutFigures)
            if case .closed = event { follower.stream.finish() }
        }
    }

    func finish() {
        let followers = state.withLock { state in
            defer { state.followers.removeAll() }
            return state.followers.values.flatMap(\.values)
        }
        for follower in followers { follower.stream.finish() }
    }

    private func leave(_ run: RunID, _ number: Int) {
        state.withLock { state in
            state.followers[run]?[number] = nil
            if state.followers[run]?.isEmpty == true { state.followers[run] = nil }
        }
    }
}

extension RunEvent {
    fileprivate var withoutFigures: RunEvent {
        guard case .epoch(let progress) = self else { return self }
        return .epoch(
            EpochProgress(
                epoch: progress.epoch, epochs: progress.epochs, secondsLeft: progress.secondsLeft, figures: []))
    }
}

extension Gateway {
    /// Follows a run from where it is now until it is closed. Its researcher sees the figures that policy lets them
    /// see; those who review or operate see how far it is.
    package func follow(_ id: RunID, by person: PersonID) throws -> AsyncStream<RunEvent> {
        let run = try runCase(id)
        try requireSight(of: run, by: person)
        return try feed.follow(
            id, seesFigures: person == run.researcher, recorded: run.end.map(RunEvent.closed) ?? .stage(run.nextStage))
    }
}
