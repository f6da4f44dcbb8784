internal import FabricProtocol
internal import FabricTransport
package import Sealing
internal import Synchronization
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

/// What works for a lease while it holds the device: its lanes and the runner of its programs. Whether it holds it is
/// the keeper's to say.
final class ActiveLease: Sendable {
    /// The control connection whose keys the lanes have.
    struct Session: Sendable {
        let connection: ControlConnection
        let transcript: Digest
    }

    let fence: Fence
    let windows: LaneWindows
    private let lanes: Int
    private let ttlMilliseconds: Int
    private let session: Mutex<Session>
    private let state: Monitor<State>

    private struct State {
        /// nil after the lease has ended: its keys go with it.
        var runner: (any ProgramRunner)?
        var isEnded = false
        var isWorking = false
    }

    init(_ grant: LeaseGrant, fence: Fence, session: Session, runner: (LaneWindows) throws -> any ProgramRunner) throws
    {
        self.fence = fence
        lanes = Int(grant.lanes)
        ttlMilliseconds = Int(grant.ttlMilliseconds)
        windows = LaneWindows(lanes: Int(grant.lanes))
        self.session = Mutex(session)
        state = Monitor(State(runner: try runner(windows)))
    }

    /// Goes on under another control connection; lanes of the one before end.
    func relink(_ session: Session) {
        self.session.withLock { $0 = session }
        windows.cut()
    }

    /// The lane that a connection opens, where its opening carries the token that only the session's two ends can know.
    func lane(_ opening: Lane.Opening, over socket: Socket) -> Lane? {
        guard opening.lane < lanes else { return nil }
        let session = session.withLock { $0 }
        let token = session.connection.export(
            label: LaneRecord.tokenLabel,
            context: LaneRecord.tokenContext(
                transcript: session.transcript, lane: opening.lane, serial: opening.serial))
        guard token.isEqual(to: SecretBytes(copying: opening.token)) else { return nil }
        return Lane(
            socket, index: opening.lane, serial: opening.serial, outgoing: .toGateway, control: session.connection,
            transcript: session.transcript, fence: fence, unheardMilliseconds: ttlMilliseconds)
    }

    /// Checks that the program names only windows that are mapped, as they are mapped; the runner checks the rest.
    func load(_ bytes: [UInt8], windows table: [UInt16: Window]) -> ControlMessage {
        work { (runner) throws in
            do {
                for declared in try Program(parsing: bytes).windows {
                    guard let mapped = table[declared.id],
                        Window(declared, lifetimeMilliseconds: mapped.lifetimeMilliseconds) == mapped
                    else { throw Refusal(.windowTable, index: UInt32(declared.id)) }
                }
                return .programLoaded(try runner.load(bytes))
            } catch let error as ProgramError {
                throw Refusal(.program, index: UInt32(clamping: error.command ?? error.offset ?? 0))
            } catch let refusal as Refusal {
                throw refusal
            } catch {
                throw Refusal(.program)
            }
        }
    }

    /// Runs a doorbell. Its writes are stored at the gateway when this comes back.
    func run(_ program: UInt32, _ transaction: UInt64, _ arguments: [UInt8]) -> ControlMessage {
        work { [windows] (runner) throws in
            let result = try runner.ring(program, arguments)
            try windows.flush()
            return .complete(transaction: transaction, result: result)
        }
    }

    private func work(_ body: (any ProgramRunner) throws -> ControlMessage) -> ControlMessage {
        let mayGo = state.withLock { state in
            guard !state.isEnded, !state.isWorking else { return false }
            state.isWorking = true
            return true
        }
        guard mayGo else { return .error(Refusal(.noLease)) }
        // In a function of its own, so that the runner and its keys are let go before anyone is told.
        let answer = answer(body)
        state.withLock { $0.isWorking = false }
        return answer
    }

    private func answer(_ body: (any ProgramRunner) throws -> ControlMessage) -> ControlMessage {
        do {
            guard let runner = state.withLock({ $0.runner }) else { throw Refusal(.noLease) }
            return try body(runner)
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
            guard !state.isWorking else { return nil }
            state.runner = nil
            return true
        }
    }
}
