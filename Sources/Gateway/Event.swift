import AuditTrail
import Vocabulary

/// One thing that happens, before it has a place in the trail.
///
/// Everything here ends up in the sealed core of a trail record, which auditors read; `payload` stays in the
/// gateway's own case records, and the core holds only its digest.
struct Event: Sendable {
    let name: AuditEvent
    let outcome: AuditOutcome
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
    /// What it says about persons, each part under that person's own key.
    var sections: [SubjectSection] = []
    var detail: [String: JSON] = [:]
    var payload: [String: JSON] = [:]

    init(_ name: AuditEvent, _ outcome: AuditOutcome) {
        self.name = name
        self.outcome = outcome
    }

    /// The same event with more said about it.
    func with(_ change: (inout Event) -> Void) -> Event {
        var event = self
        change(&event)
        return event
    }

    /// The record that the trail seals. The payload stays here; its digest goes along.
    func record(payloadDigest: Digest?) -> TrailRecord {
        var members: [TrailRecord.Member: JSON] = [:]
        members[.run] = ofRun.map { .string($0.text) }
        members[.actor] = actor.map { .string($0.text) }
        members[.purpose] = purpose.map(JSON.string)
        members[.dataset] = dataset.map { .string($0.text) }
        members[.version] = version.map { .string($0.text) }
        members[.root] = root.map { .string($0.hex) }
        members[.policy] = policy.map { .string($0.hex) }
        members[.input] = input.map { .string($0.hex) }
        members[.decision] = decision.map(JSON.string)
        if !reasons.isEmpty { members[.reasons] = .array(reasons.map(JSON.string)) }
        members[.device] = device.map { .string($0.text) }
        members[.evidence] = evidence.map { .string($0.hex) }
        members[.lease] = lease.map { .string($0.text) }
        members[.fence] = fence.map { .integer(Int64($0.number)) }
        var detail = detail
        detail["payload"] = payloadDigest.map { .string($0.hex) }
        if !detail.isEmpty { members[.detail] = .object(detail) }
        return TrailRecord(name, outcome, members, sections: sections)
    }
}
