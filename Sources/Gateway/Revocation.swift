import AuditTrail
import PolicyEngine
package import Vocabulary

// One act takes a person's access away, whatever it came from: its record is the truth, and everything else follows
// from it. Grants from before it do not hold, requests from before it are refused, and runs are stopped.

/// Why access is taken away, as the person concerned may be told.
package enum RevocationReason: String, CaseIterable, Sendable {
    /// The data were, or may have been, used against what was agreed.
    case breach
    /// Somebody else may act as this person.
    case compromised
    case leftOrganisation = "left-organisation"
    case dataWithdrawn = "data-withdrawn"
    /// The person gave it back.
    case asked
    case other
}

/// Access that was taken away: what its holder sees, and whom to ask.
package struct Revocation: Sendable, Equatable {
    package let person: PersonID
    /// `nil` where all of the person's access was revoked.
    package let grant: GrantID?
    package let reason: RevocationReason
    package let by: PersonID
    package let time: Timestamp
    /// Its record's place in the trail.
    package let entry: UInt64

    init?(_ record: CaseRecord) {
        guard let person = record.detail["person"]?.stringValue.flatMap({ try? PersonID($0) }),
            let reason = record.detail["reason"]?.stringValue.flatMap(RevocationReason.init), let by = record.actor
        else { return nil }
        self.person = person
        grant = record.detail["grant"]?.stringValue.flatMap { try? GrantID($0) }
        self.reason = reason
        self.by = by
        time = record.time
        entry = record.index
    }
}

/// What a person's access, or one grant, reaches at this moment: all that a revocation stops.
package struct AccessReach: Sendable {
    package struct WaitingRequest: Sendable, Equatable {
        package let id: RequestID
        package let dataset: DatasetID
        package let filed: Timestamp
    }

    package struct OpenRun: Sendable, Equatable {
        package let id: RunID
        package let dataset: DatasetID
        package let stage: RunStage
        package let holdsDevice: Bool
    }

    package let person: PersonID
    /// Grants that hold now.
    package let grants: [Grant]
    package let requests: [WaitingRequest]
    /// Runs that are not over.
    package let runs: [OpenRun]
    /// The revocation in force, if the person's access has been revoked and not restored.
    package let revocation: Revocation?
}

// MARK: - The act

extension Gateway {
    /// Who may take access away, and look at what that would stop.
    static let revokers: Set<Role> = [.securityOfficer, .dac, .dataCustodian]
    private static let reachReaders = revokers.union([.complianceOfficer])

    /// Shows what revoking a person's access would stop. Changes nothing.
    package func accessReach(of person: PersonID, by viewer: PersonID) throws -> AccessReach {
        try require(viewer, anyOf: Self.reachReaders)
        try requireKnown(person)
        return try reach(of: person, grant: nil)
    }

    /// Shows what revoking one grant would stop. Changes nothing.
    package func accessReach(ofGrant id: GrantID, by viewer: PersonID) throws -> AccessReach {
        try require(viewer, anyOf: Self.reachReaders)
        return try reach(of: grant(id).researcher, grant: id)
    }

    /// Takes all of a person's access away, and gives back what that stopped. Until it is restored, no request of
    /// theirs is granted.
    ///
    /// - Parameter comment: for the records; the person is told the reason and who revoked it.
    package func revokeAccess(
        of person: PersonID, reason: RevocationReason, comment: String, by actor: PersonID
    ) async throws -> AccessReach {
        try require(actor, anyOf: Self.revokers)
        try requireKnown(person)
        guard revocationInForce(of: person) == nil else {
            throw GatewayError(.usage, "the access of \(person) is revoked already")
        }
        return try revoke(person, grant: nil, reason, comment, by: actor)
    }

    /// Takes one grant away, and gives back what that stopped.
    package func revokeGrant(
        _ id: GrantID, reason: RevocationReason, comment: String, by actor: PersonID
    ) async throws -> AccessReach {
        try require(actor, anyOf: Self.revokers)
        let grant = try grant(id)
        guard revocation(of: grant) == nil else { throw GatewayError(.usage, "\(id) is revoked already") }
        return try revoke(grant.researcher, grant: id, reason, comment, by: actor)
    }

    private func revoke(
        _ person: PersonID, grant: GrantID?, _ reason: RevocationReason, _ comment: String, by actor: PersonID
    ) throws -> AccessReach {
        guard comment.utf8.count <= 4096 else { throw GatewayError(.usage, "a comment has at most 4096 bytes") }
        let reach = try reach(of: person, grant: grant)
        try ledger.record(
            Event(.accessRevoked, .done).with {
                $0.actor = actor
                $0.detail = [
                    "person": .string(person.text), "reason": .string(reason.rawValue),
                    "grants": .integer(Int64(reach.grants.count)),
                    "requests": .integer(Int64(reach.requests.count)), "runs": .integer(Int64(reach.runs.count)),
                ]
                $0.detail["grant"] = grant.map { .string($0.text) }
                // The names stay here: a record of the trail has room for so many only, and this one must be written.
                $0.payload = [
                    "comment": .string(comment), "grants": .array(reach.grants.map { .string($0.id.text) }),
                    "requests": .array(reach.requests.map { .string($0.id.text) }),
                    "runs": .array(reach.runs.map { .string($0.id.text) }),
                ]
            }, in: .gateway, key: ledger.freshKey("revoked.\(person)"))
        try settleRevocations(runs: reach.runs.map(\.id), requests: reach.requests.map(\.id))
        return reach
    }

    /// Lets a person be granted access again. What was revoked stays revoked.
    package func restoreAccess(of person: PersonID, comment: String, by actor: PersonID) throws {
        try require(actor, anyOf: Self.revokers)
        guard actor != person else { throw GatewayError(.refused, "nobody restores their own access") }
        guard (10...4096).contains(comment.utf8.count) else {
            throw GatewayError(.usage, "say in a sentence why, in at most 4096 bytes")
        }
        guard let revocation = revocationInForce(of: person) else {
            throw GatewayError(.usage, "the access of \(person) is not revoked")
        }
        try ledger.record(
            Event(.accessRestored, .done).with {
                $0.actor = actor
                $0.detail = ["person": .string(person.text), "entry": .integer(Int64(revocation.entry))]
                $0.payload = ["comment": .string(comment)]
            }, in: .gateway, key: ledger.freshKey("restored.\(person)"))
    }

    /// Does what recorded revocations ask for and a crash may have left undone.
    func settleRevocations() throws {
        guard !ledger.records(of: .accessRevoked).isEmpty else { return }
        let open = try runs().filter { !$0.isClosed && !$0.stopped }
        let runs = try open.filter { try revocation(ofGrantOf: $0) != nil }.map(\.id)
        let requests = try ledger.requests.filter { id in
            let request = try accessRequest(id)
            return request.finalDecision == nil && isRevoked(request.requester, asked: request.file.records[0].index)
        }
        try settleRevocations(runs: runs, requests: requests)
    }

    private func settleRevocations(runs: [RunID], requests: [RequestID]) throws {
        // Every run is tried, whatever becomes of another one: what runs is worse than what waits.
        var failure: (any Error)?
        for id in runs {
            do {
                let run = try runCase(id)
                let words =
                    try revocation(ofGrantOf: run).map { "the grant was revoked (\($0.reason.rawValue))" }
                    ?? "the grant was revoked"
                try stop(run, reasons: [Reason.Code.grantRevoked.rawValue], words)
            } catch { failure = error }
        }
        for id in requests {
            do { _ = try advance(id) } catch { failure = failure ?? error }
        }
        if let failure { throw failure }
    }

    /// A name that is none, or is one in other letters, must not look like somebody without access.
    private func requireKnown(_ person: PersonID) throws {
        if people[person] != nil { return }
        let alike = namesake(of: person)
        throw GatewayError(
            .notFound, alike.map { "\(person) is not known here; did you mean \($0)?" } ?? "\(person) is not known here"
        )
    }
}

// MARK: - What holds

extension Gateway {
    private func reach(of person: PersonID, grant only: GrantID?) throws -> AccessReach {
        let now = clock.now()
        var grants: [Grant] = []
        var requests: [AccessReach.WaitingRequest] = []
        for id in ledger.requests {
            let request = try accessRequest(id)
            guard request.requester == person else { continue }
            if let grant = try grant(of: request) {
                if only ?? grant.id == grant.id, now < grant.expires, revocation(of: grant) == nil {
                    grants.append(grant)
                }
            } else if only == nil, request.finalDecision == nil {
                requests.append(
                    AccessReach.WaitingRequest(
                        id: id, dataset: request.dataset, filed: request.file.records[0].time))
            }
        }
        let runs = try runs().filter { run in
            guard !run.isClosed, !run.stopped, run.file[RunCase.Key.ready] == nil, let used = grantUsed(by: run) else {
                return false
            }
            if let only { return used == only }
            // Others who are named on the person's requests run under the person's grants.
            return try run.researcher == person || grant(used).researcher == person
        }
        return AccessReach(
            person: person, grants: grants, requests: requests,
            runs: runs.map { run in
                AccessReach.OpenRun(
                    id: run.id, dataset: run.dataset, stage: run.nextStage,
                    holdsDevice: run.file[RunCase.Key.leasing] != nil && run.file[RunCase.Key.scrubbed] == nil)
            }, revocation: revocationInForce(of: person))
    }

    /// The revocation that ended a grant: of it alone, or of all its holder had when it was made.
    func revocation(of grant: Grant) -> Revocation? {
        ledger.records(of: .accessRevoked).lazy.compactMap(Revocation.init).first { revocation in
            revocation.grant.map { $0 == grant.id }
                ?? (revocation.person == grant.researcher && revocation.entry > grant.index)
        }
    }

    func revocation(ofGrantOf run: RunCase) throws -> Revocation? {
        let revoked = ledger.records(of: .accessRevoked)
        guard !revoked.isEmpty, let id = grantUsed(by: run) else { return nil }
        let grant = try grant(id)
        // Somebody who runs under another's grant may be the one whose access was revoked.
        return revocation(of: grant)
            ?? revoked.lazy.compactMap(Revocation.init).first {
                $0.grant == nil && $0.person == run.researcher && $0.entry > grant.index
            }
    }

    private func grantUsed(by run: RunCase) -> GrantID? {
        run.file[RunCase.Key.requested]?.detail["grant"]?.stringValue.flatMap { try? GrantID($0) }
    }

    /// The revocation of all of a person's access that nobody has lifted.
    package func revocationInForce(of person: PersonID) -> Revocation? {
        let last = ledger.records(of: .accessRevoked).lazy.compactMap(Revocation.init)
            .last { $0.person == person && $0.grant == nil }
        guard let last else { return nil }
        let restored = ledger.records(of: .accessRestored).last {
            $0.detail["person"]?.stringValue == person.text
        }
        return (restored?.index ?? 0) > last.entry ? nil : last
    }

    /// Whether a request may not be granted: access was revoked after it was filed, or is revoked now.
    func isRevoked(_ person: PersonID, asked index: UInt64?) -> Bool {
        if revocationInForce(of: person) != nil { return true }
        guard let index else { return false }
        return ledger.records(of: .accessRevoked).lazy.compactMap(Revocation.init).contains {
            $0.person == person && $0.grant == nil && $0.entry > index
        }
    }
}
