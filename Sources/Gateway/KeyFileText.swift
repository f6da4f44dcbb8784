import Foundation
import Sealing
import Vocabulary

/// Private keys in files: one line, a word that says what it is and the secret in hexadecimal, for its owner only.
enum KeyFileText {
    /// Writes a key to a file that was not there before, and its public half beside it as `FILE.pub`.
    ///
    /// - Parameter words: what each half's line begins with.
    /// - Returns: the public half in hexadecimal.
    static func writePair(
        _ words: (publicHalf: String, privateHalf: String), _ publicKey: [UInt8], _ secret: borrowing SecretBytes,
        to file: URL
    ) throws -> String {
        guard !FileManager.default.fileExists(atPath: file.path) else {
            throw GatewayError(.usage, "the key file is there already; a key is never overwritten")
        }
        let text = Hex.encode(publicKey)
        try GatewayFile.write(
            Array("\(words.publicHalf)\(text)\n".utf8), to: file.appendingPathExtension("pub"), role: "public key")
        try write(words.privateHalf, secret, to: file)
        return text
    }

    /// Writes a file that was not there before.
    private static func write(_ word: String, _ secret: borrowing SecretBytes, to file: URL) throws {
        let descriptor = open(file.path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw GatewayError(.unavailable, "the key file cannot be written") }
        defer { close(descriptor) }
        let isWritten = secret.withBytes { bytes in
            var text = Array(word.utf8) + Array(Hex.encode(bytes).utf8) + [UInt8(ascii: "\n")]
            defer { wipe(&text) }
            return Glibc.write(descriptor, text, text.count) == text.count && fsync(descriptor) == 0
        }
        guard isWritten else { throw GatewayError(.unavailable, "the key file cannot be written") }
    }

    /// Reads 32 bytes that `write` wrote under the same word.
    static func read(_ word: String, _ file: URL, madeBy command: String) throws -> SecretBytes {
        var text = try GatewayFile.bytes(file, role: "private key file")
        defer { wipe(&text) }
        let length = word.utf8.count
        guard text.starts(with: word.utf8), text.count == length + 65, text.last == UInt8(ascii: "\n"),
            var secret = Hex.decode(String(decoding: text[length..<text.count - 1], as: UTF8.self))
        else { throw GatewayError(.usage, "a private key file is not what `\(command)` writes") }
        defer { wipe(&secret) }
        return SecretBytes(copying: secret)
    }
}
