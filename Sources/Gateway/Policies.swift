import AuditTrail
package import Foundation
import PolicyEngine
import Sealing
package import Vocabulary

/// A folder of policy files with their tests, read as a whole and within bounds.
package struct PolicyFolder: Sendable {
    let files: [PolicyFile]

    private static let filesMax = 20_000

    package init(_ folder: URL) throws {
        guard let names = try? FileManager.default.contentsOfDirectory(atPath: folder.path) else {
            throw GatewayError(.notFound, "the policy folder cannot be read")
        }
        let yaml = names.filter { $0.hasSuffix(".yaml") }.sorted()
        guard !yaml.isEmpty else { throw GatewayError(.notFound, "there is no .yaml file in the policy folder") }
        guard yaml.count <= Self.filesMax else {
            throw GatewayError(.usage, "there are more than \(Self.filesMax) files in the policy folder")
        }
        files = try yaml.map { name in
            PolicyFile(
                name: name, bytes: try GatewayFile.bytes(folder.appendingPathComponent(name), role: "policy file"))
        }
    }

    /// - Parameter files: as they were sent; their names become files of the home, so nothing but plain names is taken.
    package init(_ files: [(name: String, content: String)]) throws {
        guard !files.isEmpty, files.count <= Self.filesMax else {
            throw GatewayError(.usage, "policies are from 1 to \(Self.filesMax) files")
        }
        guard Set(files.map(\.name)).count == files.count else {
            throw GatewayError(.usage, "two policy files have the same name")
        }
        self.files = try files.sorted { $0.name < $1.name }.map { file in
            guard file.name.hasSuffix(".yaml"), (try? DatasetID(file.name)) != nil else {
                throw GatewayError(.usage, "a policy file's name is made of letters, digits, . _ : - and ends in .yaml")
            }
            return PolicyFile(name: file.name, bytes: Array(file.content.utf8))
        }
    }

    /// The files as they were read.
    package var contents: [(name: String, content: String)] {
        files.map { ($0.name, String(decoding: $0.bytes, as: UTF8.self)) }
    }

    /// SHA-256 of their manifest, which names the bundle; the files need not be valid.
    package var hash: Digest {
        SHA256.hash(PolicySet.manifest(of: files, hash: { SHA256.hash($0) }).canonical)
    }

    func load() throws -> PolicySet {
        do throws(PolicyError) {
            return try PolicySet(files: files, hash: { SHA256.hash($0) })
        } catch { throw Self.invalid(error) }
    }

    static func invalid(_ error: PolicyError) -> GatewayError {
        GatewayError(.refused, "the policy files are not valid:\n\(error)")
    }
}

package struct ActivePolicies: Sendable {
    package let hash: Digest
    package let datasets: [DatasetID]
    package let number: Int
}

extension Gateway {
    package func activePolicies() throws -> ActivePolicies {
        let set = try policies()
        let number = ledger.records(of: .policyActivated).last?.detail["number"]?.integerValue ?? 0
        return ActivePolicies(hash: set.bundleHash, datasets: set.policies.keys.sorted(), number: Int(number))
    }

    func policy(for dataset: DatasetID) throws -> Policy {
        guard let policy = try policies().policies[dataset] else {
            throw GatewayError(.refused, "no policy speaks of \(dataset), so nobody may use it")
        }
        return policy
    }

    func decide(_ question: Question) throws -> (Decision, policies: Digest) {
        let set = try policies()
        return (set.decide(question), set.bundleHash)
    }
}
