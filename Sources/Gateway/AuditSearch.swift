import AuditTrail
import GraphVault
package import Vocabulary

/// A record with the case it belongs to.
package struct AuditHit: Sendable, Equatable {
    package let id: CaseID
    package let record: CaseRecord
}

/// Some of the records that a search found, newest first.
package struct AuditPage: Sendable, Equatable {
    package let hits: [AuditHit]
    /// Give it as `after` to get the next ones; `nil` when there are no more.
    package let next: UInt64?
}

/// One record that has to do with a run, and why.
package struct TraceStep: Sendable, Equatable {
    package enum Part: String, Sendable, CaseIterable {
        case data, policy, access, device, run, afterwards
    }
    package let part: Part
    package let hit: AuditHit
}

extension Gateway {
    private static let pageMax = 1000
    /// A person of the data in more runs than this is looked for run by run.
    private static let runsMax = 30_000

    /// Searches the case records. Looking is itself recorded, before anything is shown; the person that was looked for
    /// stays in the case record.
    /// - Parameters:
    ///   - cursor: the `next` of the page before.
    ///   - limit: 1 to 1000.
    package func searchAudit(
        _ query: AuditQuery, after cursor: UInt64?, limit: Int, by person: PersonID
    ) async throws -> AuditPage {
        try require(person, anyOf: [.complianceOfficer])
        guard (1...Self.pageMax).contains(limit) else {
            throw GatewayError(.usage, "a page of a search has 1 to \(Self.pageMax) records")
        }
        let runs = try await runs(ofSubjectIn: query)
        // Records name a person by pseudonym only.
        var sealed = query
        if let subject = query.conditions[.subject] { sealed.name(subject: pseudonym(of: try SubjectID(subject)).hex) }
        // The page is fixed before its own reading is recorded, so that a search does not find itself.
        let end = cursor ?? trail.size
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = person
                $0.detail = ["read": "search", "search": query.recorded]
                if let subject = sealed.conditions[.subject] { $0.payload = ["subject": .string(subject)] }
            }, in: .gateway, key: ledger.freshKey("read"))
        let found = try ledger.find(sealed, alsoRuns: runs, below: end, limit: limit + 1)
        return AuditPage(
            hits: Array(found.prefix(limit)), next: found.count > limit ? found[limit - 1].record.index : nil)
    }

    /// The runs whose image held the person that a search asks for.
    private func runs(ofSubjectIn query: AuditQuery) async throws -> [RunID] {
        guard let subject = try query.conditions[.subject].map({ try SubjectID($0) }) else { return [] }
        var runs: Set<RunID> = []
        for dataset in Set(try await vault.versions().map(\.dataset))
        where query.conditions[.dataset].map({ $0 == dataset.text }) ?? true {
            do {
                runs.formUnion(try await vault.runs(using: subject, of: dataset))
            } catch let error as VaultError where error.code == .unknownSubject {
                continue
            } catch let error as VaultError { throw GatewayError(vault: error) }
        }
        guard runs.count <= Self.runsMax else {
            throw GatewayError(.usage, "this person is in more runs than one search follows; name a data set")
        }
        return runs.sorted()
    }

    /// Everything that led to a run, the run itself, and what happened with it afterwards, in the trail's order within
    /// each part.
    package func trace(_ id: RunID, by person: PersonID) throws -> [TraceStep] {
        try require(person, anyOf: [.complianceOfficer])
        let run = try runCase(id)
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = person
                $0.ofRun = id
                $0.detail = ["read": "trace"]
            }, in: .gateway, key: ledger.freshKey("read"))
        let own = run.file.records
        let gateway = ledger.file(.gateway).records
        var steps: [TraceStep] = []
        func add(_ part: TraceStep.Part, _ records: some Sequence<CaseRecord>, of id: CaseID) {
            steps += records.map { TraceStep(part: part, hit: AuditHit(id: id, record: $0)) }
        }
        let opened = own.first { $0.event == .runOpened && $0.outcome == .done }?.index ?? own[0].index
        add(
            .data,
            gateway.filter { record in
                guard record.core["dataset"]?.stringValue == run.dataset.text, record.index < opened else {
                    return false
                }
                return record.event == .consentChanged
                    || record.event == .datasetImported && record.core["version"]?.stringValue == run.version.text
            }, of: .gateway)
        let policies = Set(own.compactMap { $0.core["policy"]?.stringValue })
        let request = RunFacts(run).flatMap { facts in try? grant(facts.grant).request }
        let access = request.map { ledger.file(.request($0)).records } ?? []
        let accessPolicies = policies.union(access.compactMap { $0.core["policy"]?.stringValue })
        add(
            .policy,
            gateway.filter { record in
                [.policyProposed, .policySigned, .policyActivated].contains(record.event)
                    && record.core["policy"]?.stringValue.map(accessPolicies.contains) ?? false
            }, of: .gateway)
        if let request { add(.access, access, of: .request(request)) }
        let devices = Set(own.compactMap { $0.core["device"]?.stringValue })
        let deviceEvents: Set<AuditEvent> = [.nodeEnrolled, .nodeAdded, .nodeQuarantined, .nodeReinstated]
        add(
            .device,
            gateway.filter { record in
                deviceEvents.contains(record.event) && record.core["device"]?.stringValue.map(devices.contains) ?? false
            }, of: .gateway)
        add(.run, own, of: .run(id))
        add(.afterwards, gateway.filter { $0.core["run"]?.stringValue == id.text }, of: .gateway)
        return steps
    }
}

// MARK: - One case, one record

extension Gateway {
    /// Records as the case records hold them, newest last. Reading them is itself a record, written first.
    package func auditList(_ only: CaseID?, most: Int, by person: PersonID) throws -> [CaseRecord] {
        try require(person, anyOf: [.complianceOfficer])
        guard (1...100_000).contains(most) else { throw GatewayError(.usage, "--most is from 1 to 100000") }
        if let only { _ = try records(of: only) }
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = person
                $0.detail = ["read": .string(only?.description ?? "all")]
            }, in: .gateway, key: ledger.freshKey("read"))
        let records = only.map { ledger.file($0).records } ?? ledger.records
        return Array(records.suffix(most))
    }

    package func auditShow(_ index: UInt64, by person: PersonID) throws -> CaseRecord {
        try require(person, anyOf: [.complianceOfficer])
        guard let record = ledger.record(at: index) else {
            throw GatewayError(
                .notFound, "the gateway holds no case record of entry \(index); the export holds every entry")
        }
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = person
                $0.detail = ["read": .string("entry/\(index)")]
            }, in: .gateway, key: ledger.freshKey("read"))
        return record
    }
}
