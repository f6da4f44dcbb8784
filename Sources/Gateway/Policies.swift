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

    /// What is wrong or probably not meant, with file, line, column and rule.
    package func lint() -> [(words: String, isError: Bool)] {
        PolicyLint.findings(in: files).map { ($0.description, $0.severity == .error) }
    }

    func load() throws -> PolicySet {
        do throws(PolicyError) {
            return try PolicySet(files: files, hash: { SHA256.hash($0) })
        } catch {
            throw GatewayError(.refused, "the policy files are not valid:\n\(error)")
        }
    }

    /// How many policies there are; throws where a file is not valid or a test fails, naming each.
    package func test() throws -> Int { try load().policies.count }
}

package struct ActivePolicies: Sendable {
    package let hash: Digest
    package let datasets: [DatasetID]
}

extension Gateway {
    /// Makes a folder's policies the ones that decide. The files are copied into the home under their hash before the
    /// record that makes them active, so that a crash between the two changes nothing.
    package func activatePolicies(_ folder: PolicyFolder, by actor: PersonID) throws -> Digest {
        try require(actor, anyOf: [.policyAdministrator])
        let set = try folder.load()
        let place = home.policies.appendingPathComponent(set.bundleHash.hex, isDirectory: true)
        for file in folder.files {
            try GatewayFile.write(file.bytes, to: place.appendingPathComponent(file.name), role: "policy file")
        }
        try ledger.record(
            Event(.policyActivated, .done).with {
                $0.actor = actor
                $0.policy = set.bundleHash
                $0.detail = ["datasets": .array(set.policies.keys.sorted().map { .string($0.text) })]
            }, in: .gateway, key: ledger.freshKey("policy"))
        policyCache = set
        return set.bundleHash
    }

    package func activePolicies() throws -> ActivePolicies {
        let set = try policies()
        return ActivePolicies(hash: set.bundleHash, datasets: set.policies.keys.sorted())
    }

    /// The policies in force: those of the last activation, whose files must still be the ones that were recorded.
    func policies() throws -> PolicySet {
        guard let hash = ledger.records(of: .policyActivated).last?.core["policy"]?.stringValue
        else {
            throw GatewayError(.refused, "no policies are active, so nothing is allowed; see `sekisho policy activate`")
        }
        if let policyCache, policyCache.bundleHash.hex == hash { return policyCache }
        let set = try PolicyFolder(home.policies.appendingPathComponent(hash, isDirectory: true)).load()
        guard set.bundleHash.hex == hash else {
            throw GatewayError(.integrity, "the active policy files are not the ones that were activated")
        }
        policyCache = set
        return set
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
