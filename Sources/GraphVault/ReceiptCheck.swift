import FoundationEssentials
import GRDB
import TransparencyLog
import Vocabulary

/// The trail records that the vault acts on. It checks them itself: no caller's word is taken for a decision.
struct RecordDemand {
    /// Members of the record's core, and what each must be.
    private let members: [(path: [String], value: String)]

    /// Opening an image needs the run decision: a permit for this run, on this version as it was recorded.
    static func runPermitted(_ run: RunID, _ dataset: DatasetID, _ version: VersionID, root: Digest) -> RecordDemand {
        RecordDemand(members: [
            (["event"], "run.decided"), (["decision"], "permit"), (["run"], run.text), (["dataset"], dataset.text),
            (["version"], version.text), (["root"], root.hex),
        ])
    }

    /// Handing out a run key needs the intent to lease a device for this run, naming the key of the attested device.
    /// Without a `key` it is enough for using the run key inside the enclave.
    static func deviceLeased(_ run: RunID, to key: String?) -> RecordDemand {
        let lease = [(path: ["event"], value: "device.leased"), (["outcome"], "intent"), (["run"], run.text)]
        return RecordDemand(members: lease + (key.map { [(["detail", "wrappingKey"], $0)] } ?? []))
    }

    /// Taking a release needs the reviewers' permit for exactly this candidate.
    static func released(_ run: RunID, candidate: Digest) -> RecordDemand {
        RecordDemand(members: [
            (["event"], "release.decided"), (["decision"], "permit"), (["run"], run.text),
            (["detail", "candidate"], candidate.hex),
        ])
    }

    /// Refuses unless `receipt` proves that a record with all these members is in the log of `trail`.
    fileprivate func check(_ receipt: Receipt, by trail: TrailIdentity) throws(VaultError) {
        let record: VerifiedRecord
        do throws(LogError) {
            record = try receipt.verified(by: trail)
        } catch {
            throw VaultError(.receiptRefused, "the receipt does not verify: \(error.publicDescription)")
        }
        for member in members {
            let found = member.path.reduce(Optional(record.core)) { $0?[$1] }
            guard found?.stringValue == member.value else {
                throw VaultError(
                    .receiptRefused, "the recorded \(member.path.joined(separator: ".")) is not what this step needs")
            }
        }
    }
}

extension Vault {
    /// Refuses unless `receipt` proves a record that meets `demand`, in the one trail that this vault answers to.
    ///
    /// The first receipt that verifies says which trail that is. From then on no other is believed, so that nobody
    /// can set up a trail of their own beside the vault and decide for it.
    func check(_ receipt: Receipt, by trail: TrailIdentity, _ demand: RecordDemand) throws {
        let (sealed, hasRuns) = try catalogue.read {
            (
                try Data.fetchOne($0, sql: "SELECT sealed FROM trail"),
                try Row.fetchOne($0, sql: "SELECT 1 FROM run LIMIT 1") != nil
            )
        }
        let identity = Array(trail.description.utf8)
        if let sealed {
            guard try KeyPurpose.trail.open(Array(sealed), under: catalogueKey) == identity else {
                throw VaultError(.receiptRefused, "the receipt is of another trail than the one this vault answers to")
            }
            try demand.check(receipt, by: trail)
        } else {
            guard !hasRuns else { throw VaultError(.tampered, "the vault no longer knows its trail") }
            try demand.check(receipt, by: trail)
            let sealed = Data(KeyPurpose.trail.seal(identity, under: catalogueKey))
            try catalogue.write { try $0.execute(sql: "INSERT INTO trail (sealed) VALUES (?)", arguments: [sealed]) }
        }
    }
}
