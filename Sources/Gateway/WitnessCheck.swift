package import Foundation
import TransparencyLog
package import Vocabulary

/// Whether the signed head of an export has the cosignatures that a reader requires. It needs no home. What lies under
/// the head is for `AuditVerification` to check.
package struct WitnessCheck: Sendable {
    package let size: UInt64
    package let root: Digest
    /// Who cosigned, and when each says it saw the head.
    package let witnesses: [(name: String, time: Timestamp)]

    /// - Parameters:
    ///   - folder: the export's folder, with `data/log/checkpoint`.
    ///   - trust: the reader's own C2SP tlog-policy file: `log`, `witness`, `group`, `quorum` lines.
    package init(of folder: URL, trust: URL) throws {
        let text = try GatewayFile.read(trust, role: "trust file")
        let data = folder.appendingPathComponent("data")
        let note = try GatewayFile.bytes(data.appendingPathComponent("log/checkpoint"), role: "export's signed head")
        let periodsFile = data.appendingPathComponent("trail.periods")
        let handovers =
            FileManager.default.fileExists(atPath: periodsFile.path)
            ? try GatewayFile.bytes(periodsFile, role: "export's signing periods") : []
        let policy: WitnessPolicy
        do throws(LogError) { policy = try WitnessPolicy(parsing: text) } catch {
            throw GatewayError(.usage, error.publicDescription)
        }
        var refusal = LogError(.wrongOrigin, "the export is of no log that the trust file names")
        for log in policy.logs {
            do throws(LogError) {
                let head = try SignedCheckpoint(parsing: note, in: SigningPeriods(log, parsing: handovers))
                let seen = try policy.check(head)
                size = head.size
                root = head.root
                witnesses = seen.map { ($0.witness, $0.time) }
                return
            } catch {
                refusal = error
            }
        }
        throw GatewayError(.integrity, "NOT witnessed: \(refusal.publicDescription)")
    }
}
