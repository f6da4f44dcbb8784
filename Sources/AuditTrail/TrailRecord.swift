package import Vocabulary

/// What the trail can say happened. The closed list; `audit/events.md` tells what each means.
package enum AuditEvent: String, CaseIterable, Sendable {
    case trailCreated = "trail.created"
    case trailRecovered = "trail.recovered"
    case trailFull = "trail.full"
    case trailResumed = "trail.resumed"
    case trailStopped = "trail.stopped"
    case trailHeartbeat = "trail.heartbeat"
    case trailReanchored = "trail.reanchored"
    case trailCosigned = "trail.cosigned"
    case witnessesChanged = "witnesses.changed"
    case signingRotationAsked = "signing.rotation-asked"
    case signingRotated = "signing.rotated"
    case subjectShredRequested = "subject.shred-requested"
    case subjectShredded = "subject.shredded"
    case trailRead = "trail.read"
    case trailExported = "trail.exported"
    case eraOpened = "era.opened"
    case eraClosed = "era.closed"
    case gatewayRecovered = "gateway.recovered"
    case configurationStated = "configuration.stated"
    case clockChecked = "clock.checked"
    case personAdded = "person.added"
    case personSignedIn = "person.signed-in"
    case personSignedOut = "person.signed-out"
    case credentialIssued = "credential.issued"
    case credentialRevoked = "credential.revoked"
    case policyProposed = "policy.proposed"
    case policySigned = "policy.signed"
    case policyActivated = "policy.activated"
    case datasetImported = "dataset.imported"
    case consentChanged = "consent.changed"
    case pkiInitialised = "pki.initialised"
    case nodeEnrolled = "node.enrolled"
    case nodeAdded = "node.added"
    case nodeQuarantined = "node.quarantined"
    case nodeReinstated = "node.reinstated"
    case nodeDrained = "node.drained"
    case nodeMeasured = "node.measured"
    case quotasChanged = "quotas.changed"
    case requestFiled = "request.filed"
    case requestReviewed = "request.reviewed"
    case accessDecided = "access.decided"
    case grantIssued = "grant.issued"
    case emergencyReviewed = "emergency.reviewed"
    case requestWithdrawn = "request.withdrawn"
    case documentAdded = "document.added"
    case requestClosing = "request.closing"
    case requestClosed = "request.closed"
    case accessRevoked = "access.revoked"
    case accessRestored = "access.restored"
    case identityLinked = "identity.linked"
    case passportsTrusted = "passports.trusted"
    case passportPresented = "passport.presented"
    case runRequested = "run.requested"
    case runDecided = "run.decided"
    case runOpened = "run.opened"
    case deviceLeased = "device.leased"
    case deviceLost = "device.lost"
    case keyReleased = "key.released"
    case runPlanned = "run.planned"
    case programLoaded = "program.loaded"
    case trainingResumed = "training.resumed"
    case trainingEpoch = "training.epoch"
    case progressShown = "progress.shown"
    case runTrained = "run.trained"
    case runPredicted = "run.predicted"
    case windowRefused = "window.refused"
    case deviceScrubbed = "device.scrubbed"
    case releaseChecked = "release.checked"
    case releaseReviewed = "release.reviewed"
    case releaseDecided = "release.decided"
    case releaseReady = "release.ready"
    case releaseTaken = "release.taken"
    case runCancelled = "run.cancelled"
    case runStopped = "run.stopped"
    case runClosed = "run.closed"

    /// What the trail writes about itself, in entries of a kind of their own.
    var isOfTheTrail: Bool {
        switch self {
        case .trailCreated, .trailRecovered, .trailFull, .trailResumed, .trailStopped, .trailHeartbeat,
            .signingRotated:
            true
        default: false
        }
    }

    /// What may still be written from the reserve when the disk is full: endings, so that nothing is left running.
    package var mayUseReserve: Bool {
        switch self {
        case .trailFull, .trailStopped, .runClosed, .deviceScrubbed, .nodeQuarantined, .accessRevoked,
            .runStopped, .deviceLost:
            true
        default: false
        }
    }
}

/// Whether a record announces an effect or tells how it went.
package enum AuditOutcome: String, CaseIterable, Sendable { case intent, done, refused, failed }

/// One thing that happens, before the trail gives it its place: sequence and previous hash are added when it is
/// prepared.
package struct TrailRecord: Hashable, Sendable {
    /// The members that a record may have beside event, outcome, run and its place in the chain.
    package enum Member: String, CaseIterable, Sendable {
        case actor, purpose, dataset, version, root, policy, input, decision, reasons, device, evidence, fence, lease
        case detail
        /// The run that a record outside the run's own era is about.
        case run
    }

    package let event: AuditEvent
    package let outcome: AuditOutcome
    package let members: [Member: JSON]
    /// What it says about persons, each part under that person's own key.
    package let sections: [SubjectSection]

    package init(
        _ event: AuditEvent, _ outcome: AuditOutcome, _ members: [Member: JSON] = [:], sections: [SubjectSection] = []
    ) {
        self.event = event
        self.outcome = outcome
        self.members = members
        self.sections = sections
    }

    /// The core that is sealed: these members, the run, the place in the chain and what the closing record counts.
    func core(run: RunID?, sequence: UInt64, previous: Digest?, count: UInt64?, sections: [JSON]) -> JSON {
        var core: [String: JSON] = [
            "event": .string(event.rawValue), "outcome": .string(outcome.rawValue),
            "sequence": .integer(Int64(sequence)),
        ]
        for (member, value) in members { core[member.rawValue] = value }
        if !sections.isEmpty { core["sections"] = .array(sections) }
        if let run { core["run"] = .string(run.text) }
        if let previous { core["previous"] = .string(previous.hex) }
        if let count { core["count"] = .integer(Int64(count)) }
        return .object(core)
    }
}
