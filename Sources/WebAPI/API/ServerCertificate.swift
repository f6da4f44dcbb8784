package import NIOCore
import NIOSSL
import Sealing
package import Vocabulary

/// The certificate that a server has shown, as a client that was given its fingerprint looks at it.
package enum ServerCertificate {
    /// SHA-256 of the DER of what the server at the other end of `channel` has shown; `nil` where it showed none.
    package static func fingerprint(of channel: any Channel) async throws -> Digest? {
        guard let certificate = try await channel.nioSSL_peerCertificate().get() else { return nil }
        return SHA256.hash(try certificate.toDERBytes())
    }
}
