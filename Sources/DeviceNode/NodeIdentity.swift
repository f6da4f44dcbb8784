internal import FabricTransport
package import Sealing
package import TransparencyLog
package import Vocabulary

/// Who a node is, and whose trail it believes: read from the folder that the gateway's authority made for it.
package final class NodeIdentity: Sendable {
    package let node: NodeID
    package let tls: TLSContext
    /// The only trail whose receipts open a lease here.
    package let trail: TrailIdentity
    /// Whose cosignatures the head of a receipt must have: a hijacked gateway then cannot show the node a trail that it
    /// shows nobody else. The operator of the GPU host puts the file `trail.witnesses` there; without it none is asked.
    package let witnesses: WitnessPolicy?
    /// SHA-256 of that file.
    let witnessesDigest: Digest?
    let attestationKey: SigningKey
    /// SHA-256 of the authority's certificate file.
    let authority: Digest

    package init(folder: String) throws {
        func file(_ name: String) throws -> [UInt8] {
            guard let bytes = try DurableFile.read(folder + "/" + name) else {
                throw NodeError(.identity, "the identity folder has no \(name)")
            }
            return bytes
        }
        func line(_ name: String) throws -> String {
            guard let text = String(validating: try file(name), as: UTF8.self) else {
                throw NodeError(.identity, "\(name) is not a line of text")
            }
            return text.hasSuffix("\n") ? String(text.dropLast()) : text
        }
        node = try NodeID(try line("node.id"))
        trail = try TrailIdentity(parsing: try line("trail.vkey"))
        let witnessFile = try DurableFile.read(folder + "/trail.witnesses")
        witnesses = try witnessFile.map(Self.witnesses)
        witnessesDigest = witnessFile.map { SHA256.hash($0) }
        guard var seed = Hex.decode(try line("attestation.key")) else {
            throw NodeError(.identity, "attestation.key is not hexadecimal")
        }
        defer { wipe(&seed) }
        attestationKey = try SigningKey(seed: SecretBytes(copying: seed))
        let authority = try file("ca.pem")
        self.authority = SHA256.hash(authority)
        var key = try file("node.key")
        defer { wipe(&key) }
        tls = try TLSContext(
            role: .server, certificate: try file("node.pem"), privateKey: SecretBytes(copying: key),
            authority: authority)
    }

    private static func witnesses(_ file: [UInt8]) throws -> WitnessPolicy {
        guard let text = String(validating: file, as: UTF8.self) else {
            throw NodeError(.identity, "trail.witnesses is not UTF-8")
        }
        do throws(LogError) { return try WitnessPolicy(parsing: text) } catch {
            throw NodeError(.identity, "trail.witnesses: \(error.publicDescription)")
        }
    }
}

/// Why a node cannot start or go on.
package struct NodeError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable { case identity, configuration, state, measurement, confinement }
    package let code: Code
    package let publicDescription: String

    init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    package var description: String { "\(code.rawValue): \(publicDescription)" }
}
