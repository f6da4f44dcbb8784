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
    func check(_ receipt: Receipt, by trail: TrailIdentity) throws(VaultError) {
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
