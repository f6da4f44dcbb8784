import GPUFabric
import AuditTrail
import Synchronization
package import Vocabulary

/// Does the next steps of every open run of a serving gateway, a few runs at a time, until its task is cancelled.
///
/// A run is worked on when it is asked for, when somebody has decided something about it, and at the start. What is
/// away for the moment (a device, a disk) is asked for again, ever more seldom; nothing is given up.
package struct RunDriver: Sendable {
    private let gateway: Gateway
    private let runsAtOnce: Int

    package init(_ gateway: Gateway, runsAtOnce: Int = 4) {
        self.gateway = gateway
        self.runsAtOnce = max(runsAtOnce, 1)
    }

    /// - Parameter onFailure: told of every run that cannot go on for now, or until somebody resumes it.
    package func run(onFailure: @escaping @Sendable (RunID, any Error) -> Void = { _, _ in }) async throws {
        try await gateway.settleRevocations()
        for run in try await gateway.runs() where !run.isClosed { gateway.due.add(run.id) }
        await withTaskGroup { group in
            group.addTask { await gateway.keepTrail() }
            group.addTask { await gateway.keepTelling() }
            group.addTask { await gateway.keepNodes() }
            for _ in 0..<runsAtOnce {
                group.addTask {
                    while let id = await gateway.due.next() {
                        do {
                            _ = try await gateway.advanceAsFarAsPossible(id)
                            gateway.due.finished(id)
                        } catch {
                            if Task.isCancelled { return }
                            onFailure(id, error)
                            gateway.hold(id, error)
                        }
                    }
                }
            }
        }
    }
}

/// Which runs somebody should work on. Each is in here at most once, so it is bounded by the open runs.
final class DueRuns: Sendable {
    private struct State {
        var waiting: [RunID] = []
        var held: [RunID: Task<Void, Never>] = [:]
        var workedOn: [RunID: Bool] = [:]
        var attempts: [RunID: Int] = [:]
        var takers: [(number: Int, taker: CheckedContinuation<RunID?, Never>)] = []
        var next = 0
    }

    private static let secondsMax = 60
    private let state = Mutex(State())

    /// A run that is being worked on is worked on once more afterwards: something may have changed behind it.
    func add(_ run: RunID) {
        let taker: CheckedContinuation<RunID?, Never>? = state.withLock { state in
            state.held.removeValue(forKey: run)?.cancel()
            if state.workedOn[run] != nil {
                state.workedOn[run] = true
                return nil
            }
            guard !state.waiting.contains(run) else { return nil }
            guard !state.takers.isEmpty else {
                state.waiting.append(run)
                return nil
            }
            state.workedOn[run] = false
            return state.takers.removeFirst().taker
        }
        taker?.resume(returning: run)
    }

    /// The next run to work on; `nil` once the task is cancelled.
    func next() async -> RunID? {
        let number = state.withLock { state in
            state.next += 1
            return state.next
        }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { taker in
                let answer: RunID?? = state.withLock { state in
                    if Task.isCancelled { return .some(nil) }
                    guard !state.waiting.isEmpty else {
                        state.takers.append((number, taker))
                        return .none
                    }
                    let run = state.waiting.removeFirst()
                    state.workedOn[run] = false
                    return .some(run)
                }
                if let answer { taker.resume(returning: answer) }
            }
        } onCancel: {
            let taker = state.withLock { state in
                state.takers.firstIndex { $0.number == number }.map { state.takers.remove(at: $0).taker }
            }
            taker?.resume(returning: nil)
        }
    }

    func finished(_ run: RunID) {
        let again = state.withLock { state in
            state.attempts[run] = nil
            return state.workedOn.removeValue(forKey: run) ?? false
        }
        if again { add(run) }
    }

    /// Puts a run aside: `isTransient` brings it back after 1, 2, 4 … seconds, anything else waits to be resumed.
    func hold(_ run: RunID, isTransient: Bool) {
        state.withLock { state in
            let again = state.workedOn.removeValue(forKey: run) ?? false
            guard isTransient || again else { return }
            let attempt = min(state.attempts[run, default: 0], 6)
            state.attempts[run] = attempt + 1
            state.held[run] = Task { [weak self] in
                try? await Task.sleep(for: .seconds(min(1 << attempt, Self.secondsMax)))
                if !Task.isCancelled { self?.add(run) }
            }
        }
    }

    func clear() {
        state.withLock { state in
            for task in state.held.values { task.cancel() }
            state.held.removeAll()
            state.waiting.removeAll()
        }
    }
}

extension Gateway {
    /// Has a run worked on again, after its cause for standing still is mended.
    package func resume(_ id: RunID, by person: PersonID) throws {
        let run = try runCase(id)
        try requireSight(of: run, by: person)
        if person != run.researcher { try require(person, anyOf: [.operatorRole]) }
        due.add(id)
    }

    /// Ends a run, also in the middle of an epoch: the device is scrubbed and given back, and nothing is released.
    package func cancelRun(_ id: RunID, by person: PersonID) throws {
        let run = try runCase(id)
        try requireSight(of: run, by: person)
        if person != run.researcher { try require(person, anyOf: [.operatorRole, .dataCustodian]) }
        guard !run.isClosed, run.file[RunCase.Key.releaseDecided] == nil else {
            throw GatewayError(.usage, "run \(id) is past the point where it can be cancelled")
        }
        try ledger.record(
            Event(.runCancelled, .refused).with {
                $0.actor = person
                $0.reasons = ["cancelled"]
                $0.payload = ["explanation": "cancelled by a person who may; nothing is released"]
            }, in: .run(id), key: RunCase.Key.cancelled)
        sessions[id]?.gpu.callOff()
        due.add(id)
    }

    nonisolated func hold(_ run: RunID, _ error: any Error) {
        let known = GatewayError(error)
        let isTransient = [.unavailable, .busy, .trailFull].contains(known?.code)
        due.hold(run, isTransient: isTransient)
        feed.publish(
            .held(known ?? GatewayError(.integrity, "the run stopped at a bug of the gateway; an operator resumes it")),
            of: run)
    }
}
