package import Vocabulary

/// One thing that happens, before it has a place in the trail.
///
/// Everything here ends up in the sealed core of a trail record, which auditors read; `payload` stays in the
/// gateway's own case records, and the core holds only its digest.
package struct Event: Sendable {
    /// The closed list of what can happen. `audit/events.md` describes each; a test holds the two together.
    package enum Name: String, CaseIterable, Codable, Sendable {
        case gatewayInitialised = "gateway.initialised"
        case gatewayRecovered = "gateway.recovered"
        case personAdded = "person.added"
        case policyActivated = "policy.activated"
        case datasetImported = "dataset.imported"
        case consentChanged = "consent.changed"
        case nodeEnrolled = "node.enrolled"
        case agentAllowed = "agent.allowed"
        case nodeAdded = "node.added"
        case nodeQuarantined = "node.quarantined"
        case nodeReleased = "node.released"
        case requestFiled = "request.filed"
        case requestReviewed = "request.reviewed"
        case accessDecided = "access.decided"
        case grantIssued = "grant.issued"
        case grantRevoked = "grant.revoked"
        case runRequested = "run.requested"
        case runDecided = "run.decided"
        case runOpened = "run.opened"
        case deviceLeased = "device.leased"
        case runPlanned = "run.planned"
        case programLoaded = "program.loaded"
        case trainingEpoch = "training.epoch"
        case runTrained = "run.trained"
        case accessOutsideWindow = "window.refused"
        case deviceScrubbed = "device.scrubbed"
        case releaseChecked = "release.checked"
        case releaseReviewed = "release.reviewed"
        case releaseDecided = "release.decided"
        case releaseReady = "release.ready"
        case releaseTaken = "release.taken"
        case runClosed = "run.closed"
        case auditRead = "audit.read"
        case auditExported = "audit.exported"
    }

    package enum Outcome: String, Codable, Sendable {
        /// Durable before the effect is tried.
        case intent
        case done
        /// A decision or a check said no.
        case refused
        /// Something broke; `reasons` holds its code.
        case failed
    }

    let name: Name
    let outcome: Outcome
    /// The run that a record outside the run's own case is about.
    var ofRun: RunID?
    var actor: PersonID?
    var purpose: String?
    var dataset: DatasetID?
    var version: VersionID?
    var root: Digest?
    var policy: Digest?
    var input: Digest?
    var decision: String?
    var reasons: [String] = []
    var device: NodeID?
    var evidence: Digest?
    var lease: LeaseID?
    var fence: Fence?
    var detail: [String: JSON] = [:]
    var payload: [String: JSON] = [:]

    init(_ name: Name, _ outcome: Outcome) {
        self.name = name
        self.outcome = outcome
    }

    /// The same event with more said about it.
    func with(_ change: (inout Event) -> Void) -> Event {
        var event = self
        change(&event)
        return event
    }

    /// RFC 8785 members of the record's core, without the run's chain, which the ledger adds.
    func core(payloadDigest: Digest?) -> [String: JSON] {
        var core: [String: JSON] = ["event": .string(name.rawValue), "outcome": .string(outcome.rawValue)]
        core["run"] = ofRun.map { .string($0.text) }
        core["actor"] = actor.map { .string($0.text) }
        core["purpose"] = purpose.map(JSON.string)
        core["dataset"] = dataset.map { .string($0.text) }
        core["version"] = version.map { .string($0.text) }
        core["root"] = root.map { .string($0.hex) }
        core["policy"] = policy.map { .string($0.hex) }
        core["input"] = input.map { .string($0.hex) }
        core["decision"] = decision.map(JSON.string)
        if !reasons.isEmpty { core["reasons"] = .array(reasons.map(JSON.string)) }
        core["device"] = device.map { .string($0.text) }
        core["evidence"] = evidence.map { .string($0.hex) }
        core["lease"] = lease.map { .string($0.text) }
        core["fence"] = fence.map { .integer(Int64($0.number)) }
        var detail = detail
        detail["payload"] = payloadDigest.map { .string($0.hex) }
        if !detail.isEmpty { core["detail"] = .object(detail) }
        return core
    }
}
