import AuditTrail
import GraphVault
import PolicyEngine
import Sealing
import TransparencyLog
package import Vocabulary

/// What reviewers see of a candidate before they speak: hash, sizes, checks; never rows of data.
package struct CandidateSummary: Sendable {
    package let hash: Digest
    package let artefacts: [(name: String, bytes: Int)]
    package let checks: [(name: String, passed: Bool, finding: String)]
}

/// What a release obliges whoever takes it to: a closed code each, and the text or day that goes with it.
package struct ReleaseDuties: Sendable {
    package let items: [(code: String, value: String)]

    package init(items: [(code: String, value: String)]) { self.items = items }

    /// What is accepted by naming it: SHA-256 of the list.
    package var hash: Digest { SHA256.hash(json.canonical) }
    package var json: JSON {
        .array(items.map { ["code": .string($0.code), "value": .string($0.value)] })
    }
}

// MARK: - Review

extension Gateway {
    /// Checks the candidate once, then asks policy whether the reviews suffice.
    func review(_ run: RunCase) async throws -> RunProgress {
        typealias Key = RunCase.Key
        let checked = try await checkCandidate(run)
        let (question, candidate) = try releaseQuestion(run, checked: checked)
        let (decision, policies) = try decide(.release(question))
        // Nobody's word ends the review before the others have given theirs, so that each is given independently. What
        // the checks refuse needs no words.
        var unspoken = question
        unspoken.votes = []
        if let missing = reviewsMissing(run), try decide(.release(unspoken)).0.verdict == .needsHuman {
            return .waiting(for: "\(missing.count) more reviews by \(missing.roles.joined(separator: " or "))")
        }
        if case .needsHuman(let reasons) = decision {
            return .waiting(for: reasons.map(\.text).joined(separator: "; "))
        }
        try ledger.record(
            decisionEvent(.releaseDecided, .release(question), decision, policies).with {
                $0.dataset = run.dataset
                $0.detail = ["candidate": .string(candidate.hex)]
            }, in: .run(run.id), key: Key.releaseDecided)
        return .moved(to: try runCase(run.id).nextStage)
    }

    private func checkCandidate(_ run: RunCase) async throws -> CaseRecord {
        typealias Key = RunCase.Key
        if let checked = run.file[Key.checked] { return checked }
        let candidate: Candidate
        let artefacts: [Artefact]
        do {
            candidate = try await vault.candidate(run: run.id)
            artefacts = try await vault.candidateContent(run: run.id).map { Artefact(name: $0.name, bytes: $0.bytes) }
        } catch let error as VaultError {
            throw Self.lost(.review, GatewayError(vault: error))
        }
        guard let opened = run.file[Key.opened]?.detail, let persons = opened["persons"]?.integerValue,
            let withheld = opened["withheld"]?.integerValue, let nodes = opened["nodes"]?.integerValue, nodes > 0
        else { throw GatewayError(.integrity, "the recorded run image cannot be read") }
        let rules = try policy(for: run.dataset).release
        let model = RunFacts(run)?.model
        let checks = ArtefactChecks(
            cohort: (Int(persons), Int(persons + withheld)), cohortMinimum: rules.cohortMin.value, nodes: Int(nodes),
            predictsWith: model)
        var results = checks.results(for: artefacts)
        let wanted = rules.checks.value.filter(ModelChecks.kinds.contains)
        if let model {
            results += try modelChecksPassed(before: model, wanted)
        } else if !wanted.isEmpty, results.allSatisfy(\.passed) {
            let model = try await modelChecks(
                of: run, artefacts, candidate: candidate.hash, cohortMinimum: rules.cohortMin.value)
            results += wanted.compactMap(model.result(of:))
        }
        return try ledger.record(
            // A failed check is an answer for the reviewers and for policy, which refuses the release.
            Event(.releaseChecked, .done).with {
                $0.dataset = run.dataset
                $0.detail = [
                    "candidate": .string(candidate.hash.hex),
                    "checks": .array(
                        results.map {
                            [
                                "check": .string($0.check.rawValue), "passed": .bool($0.passed),
                                "finding": .string($0.finding),
                            ]
                        }),
                ]
            }, in: .run(run.id), key: Key.checked)
    }

    /// Counts of what a released model answers say less of anybody than the model does, so the checks of its own release
    /// are what counts. One that was not made then has not passed.
    private func modelChecksPassed(before model: RunID, _ wanted: [ReleaseCheck]) throws -> [ArtefactChecks.Result] {
        let known = try runCase(model).file[RunCase.Key.checked]?.detail["checks"]?.arrayValue ?? []
        return wanted.map { check in
            let earlier = known.first { $0["check"]?.stringValue == check.rawValue }
            guard earlier?["passed"]?.boolValue == true, let finding = earlier?["finding"]?.stringValue else {
                return .init(check: check, passed: false, finding: "the release of run \(model) did not pass it")
            }
            return .init(check: check, passed: true, finding: "of the model, released by run \(model): \(finding)")
        }
    }

    /// What the candidate's weights answer for the rows they were trained on, computed here and nowhere else.
    private func modelChecks(
        of run: RunCase, _ artefacts: [Artefact], candidate: Digest, cohortMinimum: Int
    ) async throws -> ModelChecks {
        guard let lease = run.file[RunCase.Key.leasing], let specification = RunFacts(run)?.specification,
            let model = artefacts.first(where: { $0.kind == .model })?.bytes
        else { throw GatewayError(.integrity, "the recorded run cannot be read") }
        let shape: ImageShape
        var image: OpenedImage?
        do {
            shape = try await vault.runImage(run.id).shape
            do {
                image = try await vault.openedImage(
                    run: run.id, receipt: ledger.receipt(for: lease), trail: settings.trail,
                    bytesMax: ModelChecks.imageBytesMax)
            } catch let error as VaultError where error.code == .tooMany {
                // Too large to be looked at: the checks that need it say so, and fail.
            }
        } catch let error as VaultError { throw Self.lost(.review, GatewayError(vault: error)) }
        let opened = image
        // Away from the gateway, which has other runs to see to.
        return try await Task.detached {
            try ModelChecks(
                of: model, specification, shape, opened, candidate: candidate, cohortMinimum: cohortMinimum)
        }.value
    }

    private func releaseQuestion(_ run: RunCase, checked: CaseRecord) throws -> (ReleaseQuestion, Digest) {
        let damaged = GatewayError(.integrity, "the recorded checks cannot be read")
        guard let candidate = checked.detail["candidate"]?.stringValue.flatMap(Digest.init(hex:)),
            let results = checked.detail["checks"]?.arrayValue,
            let persons = run.file[RunCase.Key.opened]?.detail["persons"]?.integerValue
        else { throw damaged }
        let checks = try results.map { result in
            guard let check = result["check"]?.stringValue.flatMap(ReleaseCheck.init(rawValue:)),
                let passed = result["passed"]?.boolValue
            else { throw damaged }
            return ReleaseQuestion.Check(check: check, passed: passed)
        }
        let question = ReleaseQuestion(
            now: clock.now(), dataset: run.dataset, run: run.id, researcher: run.researcher, candidate: candidate,
            cohort: Int(persons), checks: checks,
            votes: run.votes(on: candidate.hex))
        return (question, candidate)
    }

    /// What waits for review, for those who review or whose run it is.
    package func candidate(of id: RunID, by person: PersonID) async throws -> CandidateSummary {
        let run = try runCase(id)
        try requireOpening(of: run, by: person)
        guard let checked = run.file[RunCase.Key.checked] else {
            throw GatewayError(.notFound, "run \(id) has no candidate for review")
        }
        guard let hash = checked.detail["candidate"]?.stringValue.flatMap(Digest.init(hex:)) else {
            throw GatewayError(.integrity, "the recorded checks cannot be read")
        }
        let results = checked.detail["checks"]?.arrayValue ?? []
        var artefacts: [(name: String, bytes: Int)] = []
        do {
            artefacts = try await vault.candidate(run: id).artefacts.map { ($0.name, $0.byteCount) }
        } catch let error as VaultError where error.code == .destroyed {
            // One that was refused is gone; what was found of it stays.
        }
        return CandidateSummary(
            hash: hash, artefacts: artefacts,
            checks: results.map {
                (
                    $0["check"]?.stringValue ?? "", $0["passed"]?.boolValue ?? false, $0["finding"]?.stringValue ?? ""
                )
            })
    }

    /// How many more independent words a candidate waits for, whatever they say; `nil` where none.
    func reviewsMissing(_ run: RunCase) -> ApprovalsMissing? {
        guard run.nextStage == .review,
            let candidate = run.file[RunCase.Key.checked]?.detail["candidate"]?.stringValue,
            let release = try? policy(for: run.dataset).release
        else { return nil }
        let people = Set(
            run.votes(on: candidate).filter { release.roles.value.contains($0.role) && $0.person != run.researcher }
                .map { $0.person.text.lowercased() })
        guard people.count < release.reviewers.value else { return nil }
        return ApprovalsMissing(count: release.reviewers.value - people.count, roles: release.roles.value)
    }

    /// Records a reviewer's word on a candidate, bound to its hash.
    ///
    /// - Parameter revision: what the reviewer saw; a candidate that somebody spoke on since then is looked at again.
    package func reviewRelease(
        of id: RunID, _ verdict: Verdict, candidate expected: String?, ifStill revision: String? = nil,
        by reviewer: PersonID
    ) throws {
        let run = try runCase(id)
        try requireOpening(of: run, by: reviewer)
        try require(run.file, toBe: revision)
        guard run.nextStage == .review, let checked = run.file[RunCase.Key.checked],
            let candidate = checked.detail["candidate"]?.stringValue
        else { throw GatewayError(.notFound, "run \(id) has no candidate for review") }
        guard expected == nil || expected == candidate else {
            throw GatewayError(.refused, "the candidate that waits is not the one you name")
        }
        let role = try reviewingRole(
            of: reviewer, among: policy(for: run.dataset).release.roles.value, notOf: run.researcher, "release")
        guard run.file[RunCase.Key.reviewed(reviewer)] == nil else {
            throw GatewayError(.usage, "\(reviewer) has reviewed this candidate already")
        }
        try ledger.record(
            Event(.releaseReviewed, verdict == .approve ? .done : .refused).with {
                $0.actor = reviewer
                $0.dataset = run.dataset
                $0.detail = ["role": .string(role), "candidate": .string(candidate)]
            }, in: .run(id), key: RunCase.Key.reviewed(reviewer))
        due.add(id)
    }
}

extension RunCase {
    /// The reviewers' words on a candidate, by its hash.
    func votes(on candidate: String) -> [Vote] {
        file.records.filter { $0.event == .releaseReviewed }.compactMap { record -> Vote? in
            guard let person = record.actor, let role = record.detail["role"]?.stringValue,
                record.detail["candidate"]?.stringValue == candidate
            else { return nil }
            return Vote(person: person, role: role, approves: record.outcome == .done)
        }
    }
}

// MARK: - Release

extension Gateway {
    /// Shows that the vault gives out, on the receipt of the decision, exactly the bytes that were reviewed.
    func release(_ run: RunCase) async throws {
        guard let decision = run.file[RunCase.Key.releaseDecided] else {
            throw StageFailure.failed(.release, "no-decision", "the run has no release decision")
        }
        let receipt = try ledger.receipt(for: decision)
        let artefacts: [Artefact]
        let hash: Digest
        do {
            (artefacts, hash) = try await released(run, receipt)
        } catch let error as GatewayError {
            throw Self.lost(.release, error)
        }
        try ledger.record(
            Event(.releaseReady, .done).with {
                $0.dataset = run.dataset
                $0.detail = [
                    "candidate": .string(hash.hex),
                    "bytes": .integer(Int64(artefacts.reduce(0) { $0 + $1.bytes.count })),
                ]
                // The run's era is closed by the time the researcher comes; the receipt proves the decision for good.
                $0.payload = ["receipt": .string(Hex.encode(receipt.bytes))]
            }, in: .run(run.id), key: RunCase.Key.ready)
    }

    /// A candidate that is not what was stored ends the run; a disk that cannot be read now may be read later.
    private static func lost(_ stage: RunStage, _ error: GatewayError) -> any Error {
        error.code == .unavailable
            ? error : StageFailure.failed(stage, "candidate-\(error.code.rawValue)", error.publicDescription)
    }

    /// The released artefacts, for the researcher whose run it was. Each taking is recorded before it happens.
    ///
    /// - Parameter accepted: `ReleaseDuties.hash` of the obligations that whoever takes it has read and accepts; needed
    ///   where there are any.
    package func takeRelease(
        of id: RunID, accepting accepted: String? = nil, by person: PersonID
    ) async throws -> [Artefact] {
        let run = try runCase(id)
        try requireSight(of: run, by: person)
        guard person == run.researcher else {
            throw GatewayError(.refused, "only the run's own researcher takes its release")
        }
        guard run.isReleased else {
            throw GatewayError(.refused, "run \(id) is not released; its checks and reviewers come first")
        }
        if let end = try revocation(ofGrantOf: run) {
            throw GatewayError(.refused, "the access that this run stood on was revoked (\(end.reason.rawValue))")
        }
        let duties = try releaseDuties(of: run)
        guard duties.items.isEmpty || accepted == duties.hash.hex else {
            throw GatewayError(
                .refused,
                accepted == nil
                    ? "this release obliges whoever takes it; read what to, and accept it"
                    : "what was accepted is not what this release obliges to; read it again")
        }
        guard let receipt = run.file[RunCase.Key.ready]?.payload["receipt"]?.stringValue.flatMap(Hex.decode) else {
            throw GatewayError(.integrity, "the recorded receipt of the release cannot be read")
        }
        let (artefacts, hash) = try await released(run, Receipt(parsing: receipt))
        try ledger.record(
            Event(.releaseTaken, .done).with {
                $0.actor = person
                $0.dataset = run.dataset
                $0.ofRun = id
                $0.detail = ["candidate": .string(hash.hex)]
                if !duties.items.isEmpty { $0.detail["accepted"] = .string(duties.hash.hex) }
            }, in: .gateway, key: ledger.freshKey("taken.\(id)"))
        return artefacts + [try releaseRecord(of: run, artefacts, candidate: hash)]
    }

    /// What was released, by which checks, reviews and rules, and what whoever holds it must do. It travels with the
    /// model, and is made of the records alone: the same each time.
    private func releaseRecord(of run: RunCase, _ artefacts: [Artefact], candidate: Digest) throws -> Artefact {
        guard let decided = run.file[RunCase.Key.releaseDecided], let checked = run.file[RunCase.Key.checked],
            let decision = decided.payload["decision"], let policy = decided.core["policy"],
            let input = decided.core["input"]
        else { throw GatewayError(.integrity, "the recorded release decision cannot be read") }
        let reviews = run.file.records.filter { $0.event == .releaseReviewed && $0.outcome == .done }
        let record: JSON = [
            "format": "sekisho release record v1", "trail": .string(settings.trail.description),
            "run": .string(run.id.text), "dataset": .string(run.dataset.text), "version": .string(run.version.text),
            "root": .string(run.root.hex), "candidate": .string(candidate.hex),
            "artefacts": .array(
                artefacts.map {
                    [
                        "name": .string($0.name), "bytes": .integer(Int64($0.bytes.count)),
                        "sha256": .string(SHA256.hash($0.bytes).hex),
                    ]
                }),
            "checks": checked.detail["checks"] ?? [],
            "reviews": .array(
                reviews.map { ["role": $0.detail["role"] ?? .null, "time": .string($0.time.description)] }),
            "decided": .string(decided.time.description), "entry": .integer(Int64(decided.index)),
            "policy": policy, "input": input, "reasons": decision["reasons"] ?? [],
            "obligations": try releaseDuties(of: run).json,
        ]
        return Artefact(name: Artefact.releaseRecordName, bytes: record.canonical)
    }

    /// What whoever holds a released model must do, for those who may open its run.
    package func releaseDuties(of id: RunID, by person: PersonID) throws -> ReleaseDuties {
        let run = try runCase(id)
        try requireOpening(of: run, by: person)
        return run.isReleased ? try releaseDuties(of: run) : ReleaseDuties(items: [])
    }

    /// Read back from the recorded decision: what was decided obliges, whatever policy says today.
    private func releaseDuties(of run: RunCase) throws -> ReleaseDuties {
        guard let decision = run.file[RunCase.Key.releaseDecided]?.payload["decision"] else {
            throw GatewayError(.integrity, "the recorded release decision cannot be read")
        }
        return ReleaseDuties(
            items: try (decision["obligations"]?.arrayValue ?? []).map { obligation in
                guard let code = obligation["code"]?.stringValue, let value = obligation["value"]?.stringValue else {
                    throw GatewayError(.integrity, "the recorded release decision cannot be read")
                }
                return (code, value)
            })
    }

    func released(_ run: RunCase, _ receipt: Receipt) async throws -> ([Artefact], Digest) {
        guard let decision = run.file[RunCase.Key.releaseDecided], decision.core["decision"] == "permit",
            let hash = decision.detail["candidate"]?.stringValue.flatMap(Digest.init(hex:))
        else { throw GatewayError(.refused, "run \(run.id) has no release decision") }
        do {
            let content = try await vault.takeRelease(
                run: run.id, receipt: receipt, trail: settings.trail)
            return (content.map { Artefact(name: $0.name, bytes: $0.bytes) }, hash)
        } catch let error as VaultError {
            throw GatewayError(vault: error)
        }
    }
}
