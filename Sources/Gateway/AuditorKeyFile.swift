package import Foundation
import Sealing
import Vocabulary

/// Key files of auditors and of the recovery key: one line, which says which half it is, so that a private key is never
/// taken for a public one and copied into a home. The private one is made where the auditor works.
package enum AuditorKeyFile {
    private static let publicWord = "sekisho-public-key-v1 "
    private static let privateWord = "sekisho-private-key-v1 "

    /// Writes the private key to `file` and the public one beside it as `FILE.pub`.
    package static func generate(at file: URL) throws -> String {
        let key = WrappingKey.generate()
        let publicKey = key.publicKey.bytes
        return try key.withSecret { try KeyFileText.writePair((publicWord, privateWord), publicKey, $0, to: file) }
    }

    /// The private key in the form that `age` programs read, for `age -d -i FILE`; written where the auditor works.
    package static func writeIdentity(of key: URL, to file: URL) throws -> String {
        let identity = AgeIdentity(try readPrivate(key))
        let descriptor = open(file.path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw GatewayError(.usage, "the identity's file is there already or cannot be made")
        }
        defer { close(descriptor) }
        let isWritten = identity.withText { text in
            text.append(UInt8(ascii: "\n"))
            return write(descriptor, text, text.count) == text.count && fsync(descriptor) == 0
        }
        guard isWritten else { throw GatewayError(.unavailable, "the identity's file cannot be written") }
        return identity.recipient.description
    }

    static func readPublic(_ file: URL) throws -> PublicWrappingKey {
        let text = try GatewayFile.read(file, role: "public key file")
        guard !text.hasPrefix(privateWord) else {
            throw GatewayError(
                .usage, "this is a private key; name the .pub file beside it, and keep this one elsewhere")
        }
        guard text.hasPrefix(publicWord), text.hasSuffix("\n"),
            let key = Hex.decode(String(text.dropFirst(publicWord.count).dropLast())).flatMap({
                PublicWrappingKey(bytes: $0)
            })
        else { throw GatewayError(.usage, "a public key file is not what `sekisho audit keygen` writes") }
        return key
    }

    static func readPrivate(_ file: URL) throws -> WrappingKey {
        guard (try? GatewayFile.bytes(file, role: "private key file"))?.starts(with: publicWord.utf8) != true else {
            throw GatewayError(
                .usage, "this is a public key; name the private key file, which is where the auditor works")
        }
        return try WrappingKey(secret: KeyFileText.read(privateWord, file, madeBy: "sekisho audit keygen"))
    }
}
