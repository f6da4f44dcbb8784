package import Foundation
import PolicyEngine
import Sealing
package import Vocabulary

/// The key with which one person signs policies. It is made and used where that person works; the gateway knows only
/// its public half.
package enum PolicyKeyFile {
    private static let publicWord = "sekisho-policy-public-key-v1 "
    private static let privateWord = "sekisho-policy-private-key-v1 "

    /// Writes the private key to `file` and the public one beside it as `FILE.pub`.
    package static func generate(at file: URL) throws -> String {
        let key = SigningKey.generate()
        let publicKey = key.verifyingKey.bytes
        return try key.withSeed { try KeyFileText.writePair((publicWord, privateWord), publicKey, $0, to: file) }
    }

    /// The public key in hexadecimal.
    package static func readPublic(_ file: URL) throws -> String {
        let text = try GatewayFile.read(file, role: "public key file")
        guard !text.hasPrefix(privateWord) else {
            throw GatewayError(.usage, "this is a private key; name the .pub file beside it")
        }
        guard text.hasPrefix(publicWord), text.hasSuffix("\n"),
            let bytes = Hex.decode(String(text.dropFirst(publicWord.count).dropLast())),
            VerifyingKey(bytes: bytes) != nil
        else { throw GatewayError(.usage, "a public key file is not what `sekisho policy keygen` writes") }
        return Hex.encode(bytes)
    }

    /// Signs a statement as the gateway shows it, in hexadecimal.
    ///
    /// - Parameter files: the files that the signer has looked at; a statement of any others is not signed.
    package static func sign(_ statement: JSON, of files: PolicyFolder, with file: URL) throws -> String {
        guard let statement = PolicyStatement(json: statement) else {
            throw GatewayError(.integrity, "what is to be signed is not a statement that this program knows")
        }
        guard files.hash == statement.bundle else {
            throw GatewayError(
                .refused, "the files here are not the ones that are proposed, so nothing was signed; read those first")
        }
        let key = try SigningKey(
            seed: KeyFileText.read(privateWord, file, madeBy: "sekisho policy keygen"))
        return Hex.encode(key.sign(statement.signedBytes))
    }

    /// Signs the statement in a file, as a bundle's archive holds it, where there is no gateway to ask.
    ///
    /// - Parameter number: the bundle that the signer means; a statement of any other is not signed.
    package static func sign(
        statementIn statement: URL, number: Int, of files: PolicyFolder, with file: URL
    ) throws -> String {
        let text = try GatewayFile.read(statement, role: "statement")
        guard let json = try? JSON(parsing: text), let read = PolicyStatement(json: json) else {
            throw GatewayError(.usage, "the statement is not one that this program knows")
        }
        guard read.number == number else {
            throw GatewayError(.refused, "the statement is of bundle \(read.number), so nothing was signed")
        }
        return try sign(json, of: files, with: file)
    }
}
