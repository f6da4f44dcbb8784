import Foundation
import Gateway
import Vocabulary

/// Brings policies into force as people do: proposed, signed by different people with keys of their own, activated.
func bringIntoForce(
    _ files: PolicyFolder, _ gateway: Gateway, signedBy people: [PersonID], administrator: PersonID, keys folder: URL
) async throws {
    let proposal = try await gateway.proposePolicies(files, by: administrator)
    for person in people.prefix(proposal.signaturesNeeded) {
        let key = folder.appendingPathComponent("policy-\(person).key")
        if !FileManager.default.fileExists(atPath: key.path) {
            try await gateway.setPolicyKey(PolicyKeyFile.generate(at: key), by: person)
        }
        _ = try await gateway.signPolicies(
            proposal.number, signature: PolicyKeyFile.sign(proposal.statement, of: files, with: key), by: person)
    }
    _ = try await gateway.activatePolicies(proposal.number, by: administrator)
}
