import AuditTrail
import GraphVault
import PolicyEngine
import Sealing
import Training
import TransparencyLog
import Vocabulary

/// A run that policy permitted, as the durable record of that decision tells it.
struct RunPermit {
    let run: RunID
    let record: CaseRecord
    let decided: RunFacts

    /// Only a recorded permit makes one.
    init?(_ run: RunCase) {
        guard let record = run.file[RunCase.Key.decided], record.core["decision"] == "permit",
            let facts = RunFacts(run)
        else { return nil }
        self.run = run.id
        self.record = record
        decided = facts
    }
}

/// What the request for a run asked for, read back from its record.
struct RunFacts {
    let grant: GrantID
    let specification: ModelSpec
    let deviceMemory: Int?
    /// The run whose released model answers for every row; `nil` where a model is trained.
    let model: RunID?

    init?(_ run: RunCase) {
        guard let payload = run.file[RunCase.Key.requested]?.payload,
            let grant = payload["grant"]?.stringValue.flatMap({ try? GrantID($0) }),
            let text = payload["specification"]?.stringValue, let specification = try? ModelSpec(parsing: text)
        else { return nil }
        self.grant = grant
        self.specification = specification
        deviceMemory = payload["device_memory"]?.integerValue.map(Int.init)
        switch payload["model"] {
        case nil: model = nil
        case .string(let text)?:
            guard let id = try? RunID(text) else { return nil }
            model = id
        default: return nil
        }
    }
}

extension Gateway {
    /// Builds the image of exactly the permitted cohort and seals it under a key made for this run.
    func openRun(_ run: RunCase) async throws {
        typealias Key = RunCase.Key
        guard let permit = RunPermit(run) else {
            throw StageFailure.failed(.open, "no-permit", "the run has no permit")
        }
        try ledger.record(
            Event(.runOpened, .intent).with {
                $0.dataset = run.dataset
                $0.version = run.version
            }, in: .run(run.id), key: Key.opening)
        let consents = try consentsAllowing(grant(permit.decided.grant).purpose)
        // The policy may have been taken back since the decision.
        guard let minimum = try policies().policies[run.dataset]?.release.cohortMin.value else {
            throw StageFailure.refused(.open, ["dataset.unknown"], "no policy speaks of this data set")
        }
        let image: RunImage
        let cohort: Cohort
        do {
            cohort = try await vault.cohort(run.dataset, run.version, permits: consents)
            image = try await vault.openRunImage(
                run: run.id, dataset: run.dataset, version: run.version, recipe: permit.decided.specification.recipe,
                receipt: ledger.receipt(for: permit.record), trail: settings.trail, permits: consents)
        } catch let error as VaultError {
            throw StageFailure.failed(.open, error.code.rawValue, error.publicDescription)
        }
        // Consent may have been withdrawn since the decision counted the cohort.
        if cohort.subjects + cohort.subjectsExcluded > 0, image.subjects < minimum {
            try await vault.destroyRun(run.id)
            throw StageFailure.refused(
                .open, ["cohort.too-small"], "\(image.subjects) persons consent; policy asks for \(minimum)")
        }
        try ledger.record(
            Event(.runOpened, .done).with {
                $0.dataset = run.dataset
                $0.version = run.version
                $0.root = image.root
                $0.detail = [
                    "image": .string(image.hash.hex), "cohort": .string(image.cohortHash.hex),
                    "run_key": .string(image.keyID.hex), "persons": .integer(Int64(image.subjects)),
                    "withheld": .integer(Int64(cohort.subjectsExcluded)),
                    "nodes": .integer(Int64(image.shape.nodes)), "edges": .integer(Int64(image.shape.edges)),
                    "features": .integer(Int64(image.shape.features)), "classes": .integer(Int64(image.shape.classes)),
                ]
            }, in: .run(run.id), key: Key.opened)
    }

    /// Consent that changed since the image was built reaches a run before a device gets it, its first one or one in the
    /// place of another that was lost: somebody may have withdrawn who is in it.
    func requireSameCohort(_ run: RunCase, stage: RunStage = .attach) async throws {
        guard let opened = run.file[RunCase.Key.opened], run.file[RunCase.Key.leasing(run.losses)] == nil,
            let changed = ledger.records(of: .consentChanged).last(where: {
                $0.core["dataset"]?.stringValue == run.dataset.text
            }), changed.index > opened.index, let facts = RunFacts(run)
        else { return }
        let consents = try consentsAllowing(grant(facts.grant).purpose)
        let cohort: Cohort
        do {
            cohort = try await vault.cohort(run.dataset, run.version, permits: consents)
        } catch let error as VaultError {
            throw StageFailure.failed(stage, error.code.rawValue, error.publicDescription)
        }
        guard cohort.hash.hex == opened.detail["cohort"]?.stringValue else {
            throw StageFailure.refused(
                stage, ["consent.changed"],
                "consent has changed since the run's image was built; ask for the run again")
        }
    }

    /// A consent with codes of its own permits what those cover; one without follows the data set's policy.
    func consentsAllowing(_ purpose: Purpose) throws -> @Sendable (Consent) -> Bool {
        let set = try policies()
        return { set.consent($0.codes, covers: purpose) }
    }
}
