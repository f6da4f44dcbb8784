import AuditTrail
import FabricProtocol
import GPUFabric
import PolicyEngine
package import Vocabulary

/// A device that a run has lost: it died, was out of reach for as long as its lease lives, or is not what it was
/// attested as. The run goes on on another one, from its last sealed checkpoint.
struct DeviceLoss: Error {
    /// Devices that one run may lose; whatever takes one after the other from it will take the next one, too.
    static let most = 3

    let lease: HeldLease
    let cause: FabricError

    init(_ lease: HeldLease, _ cause: FabricError) {
        self.lease = lease
        self.cause = cause
    }
}

/// A run's lease as the record of its intent tells it.
struct HeldLease: Equatable {
    let node: NodeID
    let lease: LeaseID
    let fence: Fence
    let since: Timestamp

    init?(_ record: CaseRecord?) {
        guard let record, let node = record.core["device"]?.stringValue.flatMap({ try? NodeID($0) }),
            let lease = record.core["lease"]?.stringValue.flatMap({ try? LeaseID($0) }),
            let fence = record.core["fence"]?.integerValue.flatMap(UInt64.init(exactly:))
        else { return nil }
        self.node = node
        self.lease = lease
        self.fence = Fence(fence)
        since = record.time
    }
}

// MARK: - What the records say

extension RunCase {
    /// How many devices it has lost.
    package var losses: Int { (1...DeviceLoss.most).prefix { file[Key.lost($0)] != nil }.count }

    /// The newest device that accepted it, and the record that says so.
    package var leased: CaseRecord? {
        (0...losses).reversed().lazy.compactMap { file[Key.leased($0)] }.first { $0.outcome == .done }
    }

    /// The devices that it has lost, in order.
    package var devicesLost: [NodeID] {
        (0..<losses).compactMap {
            file[Key.lost($0 + 1)]?.core["device"]?.stringValue.flatMap { try? NodeID($0) }
        }
    }

    /// Whether the device of a lease, or of a later one, is lost.
    func hasLost(_ lease: HeldLease) -> Bool {
        HeldLease(file[Key.lost(losses)]).map { $0.fence >= lease.fence } ?? false
    }
}

extension Gateway {
    /// The run's newest lease: its own, or one that a gateway which was started again took.
    func newestLease(of run: RunID) -> HeldLease? {
        HeldLease(
            ledger.records(of: .deviceLeased).last {
                $0.outcome == .intent && $0.core["run"]?.stringValue == run.text
            })
    }

    /// What the newest decision about the run was told: the first one, or that of its move to another device.
    func newestQuestion(of run: RunCase) throws -> RunQuestion? {
        let decided = ledger.records(of: .runDecided).last { $0.core["run"]?.stringValue == run.id.text }
        guard let input = decided?.payload["input"], case .run(let question)? = try? Question(input: input)
        else { return nil }
        return question
    }
}

// MARK: - Losing a device

extension Gateway {
    /// What an error of a run's device means: the device is lost, or the stage failed. While its lease lives it is not
    /// lost, whatever it says.
    func failure(_ error: FabricError, of session: DeviceSession, at stage: RunStage) -> any Error {
        guard let cause = session.gpu.failure else { return deviceFailure(error, at: stage) }
        guard stage != .scrub, cause.isLoss, let lease = HeldLease(session.lease) else {
            return deviceFailure(cause, at: stage)
        }
        return DeviceLoss(lease, cause)
    }

    func deviceFailure(_ error: FabricError, at stage: RunStage) -> StageFailure {
        .failed(stage, "device-\(error.code.rawValue)", error.publicDescription)
    }

    /// Records that a run lost its device, and keeps that out of the pool until it shows that it was scrubbed.
    func record(_ loss: DeviceLoss, of run: RunCase) throws {
        sessions.removeValue(forKey: run.id)?.spills.remove()
        try ledger.record(
            Event(.deviceLost, .done).with {
                $0.device = loss.lease.node
                $0.lease = loss.lease.lease
                $0.fence = loss.lease.fence
                $0.reasons = ["scrub-unproven", "device-\(loss.cause.code.rawValue)"]
                $0.detail = ["after_epoch": .integer(Int64(run.epochsRecorded))]
            }, in: .run(run.id), key: RunCase.Key.lost(run.losses + 1))
        feed.publish(.deviceLost(loss.lease.node), of: run.id)
        try keepOut(loss.lease, of: run.id, "device-\(loss.cause.code.rawValue)")
        wakeLine()
    }

    /// Out of the pool, and told once for each lease.
    func keepOut(_ lease: HeldLease, of run: RunID, _ reason: String) throws {
        let key = "unproven.\(run).\(lease.fence)"
        guard ledger.file(.gateway)[key] == nil else { return }
        try? fabric().quarantine(lease.node, code: "scrub-unproven", fence: lease.fence)
        try ledger.record(
            Event(.nodeQuarantined, .done).with {
                $0.ofRun = run
                $0.device = lease.node
                $0.reasons = ["scrub-unproven", reason]
            }, in: .gateway, key: key)
    }
}

// MARK: - Going on

extension Gateway {
    /// The node to go on with: the one that the run has, or, where that is lost, another one.
    func nodeAgain(for run: RunCase, stage: RunStage) async throws -> AttestedNode {
        guard let lease = newestLease(of: run.id) else { return try await anyNode(for: run, stage: stage) }
        guard !run.hasLost(lease) else { return try await otherNode(than: lease, for: run, stage: stage) }
        if let attested = try await attestFreeNode(for: run, only: lease.node) { return attested.node }
        var refusal = deviceRefusals.removeValue(forKey: run.id)
        if refusal?.code != .refused, stage != .scrub, isGivenBack(lease, by: run.id) {
            return try await anyNode(for: run, stage: stage)
        }
        // What must be scrubbed is that device and no other; and nothing is lost while another gateway has it.
        if stage == .scrub || refusal?.code == .refused { throw notHad(refusal, stage: stage) }
        // It may still hold what an earlier process leased, which is waited for; a cut may be over by then.
        try await sleepUntilOver(lease)
        if let attested = try await attestFreeNode(for: run, only: lease.node) { return attested.node }
        refusal = deviceRefusals.removeValue(forKey: run.id) ?? refusal
        if refusal?.code == .refused { throw notHad(refusal, stage: stage) }
        throw DeviceLoss(lease, refusal ?? FabricError(.lost, "the node that the run had is out of the pool"))
    }

    /// Whether a gateway that ended in good order has the scrub certificate of the run's device.
    private func isGivenBack(_ lease: HeldLease, by run: RunID) -> Bool {
        ledger.records(of: .deviceScrubbed).contains {
            $0.outcome == .done && $0.core["run"]?.stringValue == run.text
                && $0.core["fence"]?.integerValue == Int64(lease.fence.number)
        }
    }

    private func anyNode(for run: RunCase, stage: RunStage) async throws -> AttestedNode {
        guard let accepted = try await attestFreeNode(for: run) else {
            throw notHad(deviceRefusals.removeValue(forKey: run.id), stage: stage)
        }
        return try permitted(accepted, for: run, stage: stage)
    }

    /// Another node of the policy's pools, once the lost one runs nothing of the run any more; policy is asked again, with
    /// the facts of this moment.
    private func otherNode(
        than lost: HeldLease, for run: RunCase, stage: RunStage
    ) async throws -> AttestedNode {
        guard stage != .scrub else {
            throw StageFailure.failed(stage, "device-lost", "the device was lost during the run")
        }
        guard run.losses < DeviceLoss.most else {
            throw StageFailure.failed(
                stage, "devices-lost", "the run has lost \(DeviceLoss.most) devices one after the other")
        }
        // A crash may have come between the record of the loss and what follows from it.
        try keepOut(lost, of: run.id, "device-lost")
        try await requireSameCohort(run, stage: stage)
        try await sleepUntilOver(lost)
        guard try !stopIfEnded(run.id) else { throw CancellationError() }
        let words = "\(lost.node) was lost under the run, which goes on from its last checkpoint on another device"
        let accepted: AcceptedNode?
        do {
            accepted = try await attestFreeNode(for: run)
        } catch let error as GatewayError where error.code == .busy {
            throw GatewayError(.busy, "\(words); \(error.publicDescription)")
        }
        guard let accepted else {
            let refusal = deviceRefusals.removeValue(forKey: run.id)
            if refusal?.refusal?.code == .staleFence { throw notHad(refusal, stage: stage) }
            throw try waitsForAny(run, words, stage: stage)
        }
        return try permitted(accepted, for: run, stage: stage)
    }

    /// No node can be had now. One that is in quarantine or out of reach may come back, and others may be added, so the
    /// run waits in the line, for as long as it may go on.
    private func waitsForAny(_ run: RunCase, _ words: String, stage: RunStage) throws -> any Error {
        let pools = try policies().policies[run.dataset]?.training.pools.value ?? []
        guard try fabric().nodes.contains(where: { pools.contains($0.node.pool) }) else {
            return StageFailure.failed(stage, "no-device", "no device of the policy's pools can be had")
        }
        deviceWaits[run.id] = Set(pools)
        return GatewayError(
            .busy,
            "\(words); none of pool \(pools.joined(separator: " or ")) can be had now: release one from quarantine, or add one"
        )
    }

    private func notHad(_ refusal: FabricError?, stage: RunStage) -> StageFailure {
        if let refusal, refusal.code == .refused || refusal.code == .evidence {
            return .refused(
                stage, [Self.code(of: refusal)], "no device accepts this run: \(refusal.publicDescription)")
        }
        return .failed(stage, "no-device", "no device of the policy's pools can be had")
    }

    private func sleepUntilOver(_ lease: HeldLease) async throws {
        try await Task.sleep(until: try fabric().leaseOver(on: lease.node), clock: .continuous)
    }

    private func permitted(_ accepted: AcceptedNode, for run: RunCase, stage: RunStage) throws -> AttestedNode {
        do {
            try decideAgain(accepted, for: run, stage: stage)
            return accepted.node
        } catch {
            accepted.node.giveUp()
            throw error
        }
    }

    /// The run decision once more, where the device is not the one that the last decision saw. It is recorded; keys and
    /// lease come after.
    private func decideAgain(_ accepted: AcceptedNode, for run: RunCase, stage: RunStage) throws {
        guard var question = try newestQuestion(of: run) else {
            throw GatewayError(.integrity, "the recorded run decision cannot be read")
        }
        guard question.device?.node != accepted.node.node else { return }
        question.device = accepted.facts
        guard try renew(&question, of: run) != nil else {
            throw GatewayError(.integrity, "the recorded run decision names no grant")
        }
        let (decision, policies) = try decide(.run(question))
        let own = RunCase.Key.redecided(run.losses)
        let isFirst = run.file[own] == nil
        try ledger.record(
            decisionEvent(.runDecided, .run(question), decision, policies).with {
                $0.ofRun = run.id
                $0.dataset = run.dataset
                $0.version = run.version
                $0.root = run.root
                $0.purpose = question.purpose.codes.joined(separator: ",")
            }, in: isFirst ? .run(run.id) : .gateway,
            key: isFirst ? own : "redecided.\(run.id).\(accepted.node.fence)")
        guard decision.verdict == .permit else {
            throw StageFailure.refused(
                stage, decision.reasonCodes, decision.reasons.map(\.text).joined(separator: "; "))
        }
    }
}
