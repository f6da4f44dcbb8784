package import Sealing
package import Vocabulary

/// What lets a gateway go on with its lease over another connection: a secret that only the two ends of the lease's first
/// connection can know. A second gateway with the same certificate, from a backup for example, does not have it.
package struct LeaseResumption: ~Copyable, Sendable {
    package static let label = "EXPORTER-sekisho-resume-v1"
    package static let proofBytes = 32

    private let secret: SecretBytes

    /// `secret` is exported from the first connection, with its transcript as context.
    package init(secret: consuming SecretBytes) { self.secret = secret }

    /// For the connection with this transcript, which names lease and fence.
    package func proof(transcript: Digest) -> [UInt8] {
        KeyDerivation.hkdf(secret, info: "sekisho lease resume v1", context: transcript.bytes).withBytes { Array($0) }
    }

    package func isProof(_ proof: [UInt8], transcript: Digest) -> Bool {
        guard proof.count == Self.proofBytes else { return false }
        return KeyDerivation.hkdf(secret, info: "sekisho lease resume v1", context: transcript.bytes)
            .isEqual(to: SecretBytes(copying: proof))
    }
}
