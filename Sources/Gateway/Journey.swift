import AuditTrail
import FabricProtocol
import GraphVault
package import Vocabulary

// Request → access decision → grant → run decision → open run → attach → plan → train → scrub and detach
// → review release → close run → export audit.
//
// Every step starts from what is durable and can be repeated after a crash at any instant: it finds the records it
// already wrote by their keys, and does only what is missing. One file per step.

extension Gateway {
    /// Does the next step of an access request, as far as it goes without a person.
    package func advance(_ id: RequestID) throws -> RequestProgress {
        // Whether people could be told changes nothing about what was decided; the next look tells them.
        defer { try? tellPeople() }
        let request = try accessRequest(id)
        if let decision = request.finalDecision { return .decided(decision) }
        if request.file[AccessRequest.Key.withdrawn] != nil { return .withdrawn }
        return try decideAccess(request)
    }

    /// Does the next step of a run. Call again until the run is closed or somebody has to decide.
    package func advance(_ id: RunID) async throws -> RunProgress {
        // A second advance of the same run would do the same stage at its first wait.
        guard advancing.insert(id).inserted else { throw GatewayError(.busy, "run \(id) is being worked on") }
        defer { advancing.remove(id) }
        let wasStopped = try runCase(id).stopped
        if try !wasStopped && stopIfEnded(id) { return .moved(to: try runCase(id).nextStage) }
        let run = try runCase(id)
        do {
            switch run.nextStage {
            case .decide: try await decideRun(run)
            case .open: try await openRun(run)
            case .attach: try await attach(run)
            case .plan: try await plan(run)
            case .train:
                let watch = watchStanding(of: id)
                defer { watch.cancel() }
                try await train(run)
            case .scrub: try await scrub(run)
            case .review: return try await review(run)
            case .release: try await release(run)
            case .closed: return try await closeRun(run)
            }
        } catch {
            // A stage that ends because the run was stopped under it has done its part; how it broke is no news.
            if try !wasStopped && runCase(id).stopped, !Task.isCancelled {
                return .moved(to: try runCase(id).nextStage)
            }
            if let loss = error as? DeviceLoss {
                try record(loss, of: try runCase(id))
            } else {
                guard let failure = StageFailure(error, at: run.nextStage) else { throw error }
                try recordFailure(failure, of: run)
            }
        }
        return .moved(to: try runCase(id).nextStage)
    }

    /// Goes on until the run is closed or waits for somebody.
    package func advanceAsFarAsPossible(
        _ id: RunID, onStage: @Sendable (RunStage) async -> Void = { _ in }
    ) async throws -> RunProgress {
        var stage = try runCase(id).nextStage
        while true {
            feed.publish(.stage(stage), of: id)
            await onStage(stage)
            let progress = try await advance(id)
            switch progress {
            case .moved(let next):
                stage = next
                continue
            case .waiting(let who): feed.publish(.waiting(for: who), of: id)
            case .closed(let end): feed.publish(.closed(end), of: id)
            }
            return progress
        }
    }
}

/// What `advance` came to for a request.
package enum RequestProgress: Sendable, Equatable {
    /// Somebody has to review it first.
    case waiting(for: String)
    case decided(AccessOutcome)
    /// Its requester took it back before it was decided.
    case withdrawn
}

/// What `advance` came to for a run.
package enum RunProgress: Sendable, Equatable {
    case moved(to: RunStage)
    /// Somebody has to review the candidate first.
    case waiting(for: String)
    case closed(RunEnd)
}

/// How a run ended.
package enum RunEnd: String, CaseIterable, Sendable, Equatable {
    case released, refused, failed, cancelled
}

/// A stage that could not do its work: recorded, then the run scrubs what it holds and closes.
///
/// A refusal is an answer with its reasons; a failure is a malfunction with its code. Neither holds anything that is
/// not safe to log.
struct StageFailure: Error {
    let stage: RunStage
    let outcome: AuditOutcome
    let reasons: [String]
    var explanation: String

    static func refused(_ stage: RunStage, _ reasons: [String], _ explanation: String) -> StageFailure {
        StageFailure(stage: stage, outcome: .refused, reasons: reasons, explanation: explanation)
    }

    static func failed(_ stage: RunStage, _ code: String, _ explanation: String) -> StageFailure {
        StageFailure(stage: stage, outcome: .failed, reasons: [code], explanation: explanation)
    }
}

extension StageFailure {
    /// What an error of a part means for the run; `nil` where trying again may help, or where the run is closing.
    init?(_ error: any Error, at stage: RunStage) {
        if let failure = error as? StageFailure {
            self = failure
            return
        }
        guard stage != .closed else { return nil }
        switch error {
        case let error as GatewayError where error.code == .refused:
            self = .refused(stage, ["refused"], error.publicDescription)
        case let error as GatewayError where error.code == .integrity || error.code == .notFound:
            self = .failed(stage, error.code.rawValue, error.publicDescription)
        case let error as VaultError where GatewayError(vault: error).code != .unavailable:
            self = .failed(stage, error.code.rawValue, error.publicDescription)
        case let error as ProgramError: self = .failed(stage, "device-answer", error.publicDescription)
        case is FrameError: self = .failed(stage, "device-answer", "the device's answer cannot be read")
        default: return nil
        }
    }
}
