internal import FabricProtocol
internal import FabricTransport
package import Sealing
package import Vocabulary

/// Runs programs for one lease. `ProgramExecutor` is the one there is; the agent needs no more of it than this.
package protocol ProgramRunner: Sendable {
    func load(_ program: [UInt8]) throws -> UInt32
    func ring(_ program: UInt32, _ arguments: [UInt8]) throws -> [UInt8]
    /// Makes what runs end soon, with an error.
    func cancel()
}

extension ProgramExecutor: ProgramRunner {}

/// What a runner is made of, for one lease.
package struct RunnerContext {
    package let memory: DeviceMemory
    package let windows: any WindowMemory
    package let run: RunID
    package let fence: Fence
    package let attempt: UInt32
    package let threads: Int
}

package typealias RunnerFactory = @Sendable (RunnerContext, borrowing SecretBytes) throws -> any ProgramRunner

/// The factory of the real executor.
package let executor: RunnerFactory = { context, runKey in
    try ProgramExecutor(
        memory: context.memory, windows: context.windows, runKey: runKey, run: context.run, fence: context.fence,
        attempt: context.attempt, threads: context.threads)
}

/// A lease while it holds the device: its windows, its programs, its time.
final class ActiveLease: Sendable {
    let run: RunID
    let lease: LeaseID
    let fence: Fence
    let ttlNanoseconds: UInt64
    let connection: ControlConnection
    let transcript: Digest
    let windows = LaneWindows()
    private let state: Monitor<State>

    private struct State {
        var deadline: UInt64
        var table: [UInt16: Window] = [:]
        /// nil before the runner is made and after the lease has ended: its keys go with it.
        var runner: (any ProgramRunner)?
        var isEnded = false
        var ringing: UInt64?
        /// The last doorbell and its answer: exactly once, however often it is asked.
        var answered: (transaction: UInt64, answer: ControlMessage)?
    }

    init(grant: LeaseGrant, fence: Fence, connection: ControlConnection, transcript: Digest, now: UInt64) {
        run = grant.run
        lease = grant.lease
        self.fence = fence
        ttlNanoseconds = UInt64(grant.ttlMilliseconds) * 1_000_000
        self.connection = connection
        self.transcript = transcript
        state = Monitor(State(deadline: now + ttlNanoseconds))
    }

    func adopt(_ runner: any ProgramRunner) { state.withLock { $0.runner = runner } }

    var deadline: UInt64 { state.withLock { $0.deadline } }

    func renew(now: UInt64) { state.withLock { $0.deadline = now + ttlNanoseconds } }

    /// Whether a lane's opening carries the token that only this session's two ends can know.
    func owns(_ opening: Lane.Opening) -> Bool {
        guard opening.lane == 0 else { return false }
        let token = connection.export(
            label: LaneRecord.tokenLabel,
            context: LaneRecord.tokenContext(transcript: transcript, lane: opening.lane))
        return token.isEqual(to: SecretBytes(copying: opening.token))
    }

    func map(_ table: WindowTable) throws(Refusal) {
        try state.withLock { state throws(Refusal) in
            var changed = state.table
            for window in table.windows where changed.updateValue(window, forKey: window.id) != nil {
                throw Refusal(.windowTable, index: UInt32(window.id))
            }
            guard changed.count <= Limits.windowsMax else { throw Refusal(.windowTable) }
            state.table = changed
        }
    }

    func unmap(_ ids: [UInt16]) throws(Refusal) {
        try state.withLock { state throws(Refusal) in
            for id in ids where state.table[id] == nil { throw Refusal(.windowTable, index: UInt32(id)) }
            for id in ids { state.table[id] = nil }
        }
    }

    /// Checks that the program names only windows that are mapped, as they are mapped; the runner checks the rest.
    func load(_ bytes: [UInt8]) throws(Refusal) -> UInt32 {
        let (runner, table) = try state.withLock { state throws(Refusal) in
            guard let runner = state.runner, !state.isEnded else { throw Refusal(.noLease) }
            guard state.ringing == nil else { throw Refusal(.busy) }
            return (runner, state.table)
        }
        do {
            for declared in try Program(parsing: bytes).windows {
                guard let mapped = table[declared.id],
                    Window(declared, lifetimeMilliseconds: mapped.lifetimeMilliseconds) == mapped
                else { throw Refusal(.windowTable, index: UInt32(declared.id)) }
            }
            return try runner.load(bytes)
        } catch let refusal as Refusal {
            throw refusal
        } catch let error as ProgramError {
            throw Refusal(.program, index: UInt32(clamping: error.command ?? error.offset ?? 0))
        } catch {
            throw Refusal(.program)
        }
    }

    /// Takes a doorbell. Gives the answer where it was answered before; nil where it must run now.
    func begin(_ transaction: UInt64) throws(Refusal) -> ControlMessage? {
        try state.withLock { state throws(Refusal) -> ControlMessage? in
            guard !state.isEnded else { throw Refusal(.noLease) }
            guard state.ringing == nil else { throw Refusal(.busy) }
            if let answered = state.answered {
                if answered.transaction == transaction { return answered.answer }
                guard transaction > answered.transaction else { throw Refusal(.transaction) }
            }
            state.ringing = transaction
            return nil
        }
    }

    /// Runs a doorbell that `begin` took. Its writes are stored at the gateway when this comes back.
    func run(_ program: UInt32, _ transaction: UInt64, _ arguments: [UInt8]) -> ControlMessage {
        // In a function of its own, so that the runner and its keys are let go before anyone is told.
        let answer = answer(program, transaction, arguments)
        state.withLock { state in
            state.ringing = nil
            state.answered = (transaction, answer)
        }
        return answer
    }

    private func answer(_ program: UInt32, _ transaction: UInt64, _ arguments: [UInt8]) -> ControlMessage {
        do {
            guard let runner = state.withLock({ $0.runner }) else { throw Refusal(.noLease) }
            let result = try runner.ring(program, arguments)
            try windows.flush()
            return .complete(transaction: transaction, result: result)
        } catch let refusal as Refusal {
            return .error(refusal)
        } catch let error as ExecutorError {
            return .error(Refusal(.execution, index: UInt32(clamping: error.command ?? 0)))
        } catch {
            return .error(Refusal(.execution))
        }
    }

    /// Cancels what runs, waits for it, and erases the keys. Nothing of the lease touches the memory afterwards.
    func tearDown() {
        let runner = state.withLock { state in
            state.isEnded = true
            return state.runner
        }
        runner?.cancel()
        windows.close()
        _ = state.wait { state -> Bool? in
            guard state.ringing == nil else { return nil }
            state.runner = nil
            return true
        }
    }
}
