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

    init?(_ run: RunCase) {
        guard let payload = run.file[RunCase.Key.requested]?.payload,
            let grant = payload["grant"]?.stringValue.flatMap({ try? GrantID($0) }),
            let text = payload["specification"]?.stringValue, let specification = try? ModelSpec(parsing: text)
        else { return nil }
        self.grant = grant
        self.specification = specification
        deviceMemory = payload["device_memory"]?.integerValue.map(Int.init)
    }
}

extension Gateway {
    /// Builds the image of exactly the permitted cohort and seals it under a key made for this run.
    func openRun(_ run: RunCase) throws {
        typealias Key = RunCase.Key
        guard let permit = RunPermit(run) else {
            throw StageFailure.failed(.open, "no-permit", "the run has no permit")
        }
        try ledger.record(
            Event(.runOpened, .intent).with {
                $0.dataset = run.dataset
                $0.version = run.version
            }, in: .run(run.id), key: Key.opening)
        let image: RunImage
        do {
            image = try vault.openRunImage(
                run: run.id, dataset: run.dataset, version: run.version, recipe: permit.decided.specification.recipe,
                receipt: ledger.receipt(for: permit.record), trail: settings.trail)
        } catch let error as VaultError {
            throw StageFailure.failed(.open, error.code.rawValue, error.publicDescription)
        }
        let minimum = try policy(for: run.dataset).cohortMinimum
        if image.cohort.persons > 0 || image.cohort.personsInVersion > 0, image.cohort.persons < minimum {
            try vault.destroyRun(run.id)
            throw StageFailure.refused(
                .open, ["cohort-too-small"], "\(image.cohort.persons) persons consent; policy asks for \(minimum)")
        }
        try ledger.record(
            Event(.runOpened, .done).with {
                $0.dataset = run.dataset
                $0.version = run.version
                $0.detail = [
                    "image": .string(image.hash.hex), "cohort": .string(image.cohort.hash.hex),
                    "run_key": .string(image.keyID.hex), "persons": .integer(Int64(image.cohort.persons)),
                    "withheld": .integer(Int64(image.cohort.personsInVersion - image.cohort.persons)),
                    "nodes": .integer(Int64(image.shape.nodes)), "edges": .integer(Int64(image.shape.edges)),
                    "bytes": .integer(Int64(image.sealedByteCount)),
                ]
                $0.payload = ["membership": .string(Hex.encode(image.membership))]
            }, in: .run(run.id), key: Key.opened)
    }
}
