package import Foundation
package import PolicyEngine
import Sealing
package import Vocabulary

/// A folder of policy files with their tests, read as a whole and within bounds.
package struct PolicyFolder: Sendable {
    let files: [(name: String, bytes: [UInt8])]

    private static let filesMax = 2_000

    package init(_ folder: URL) throws {
        guard let names = try? FileManager.default.contentsOfDirectory(atPath: folder.path) else {
            throw GatewayError(.notFound, "the policy folder cannot be read")
        }
        let policies = names.filter { $0.hasSuffix(".yaml") }.sorted()
        guard !policies.isEmpty else { throw GatewayError(.notFound, "there is no .yaml file in the policy folder") }
        guard policies.count <= Self.filesMax else {
            throw GatewayError(.usage, "there are more than \(Self.filesMax) files in the policy folder")
        }
        files = try policies.map { name in
            (name, try GatewayFile.bytes(folder.appendingPathComponent(name), role: "policy file \(name)"))
        }
    }
}
