internal import Crypto
internal import Foundation

/// The `mlkem768x25519` recipient type (C2SP `age`): HPKE with X-Wing (ML-KEM-768 and X25519), HKDF-SHA256 and
/// ChaCha20-Poly1305. The key encapsulation is swift-crypto's.
enum AgeHybrid {
    static let type = "mlkem768x25519"
    private static let info = Data("age-encryption.org/mlkem768x25519".utf8)
    private static let suite = HPKE.Ciphersuite(
        kem: .XWingMLKEM768X25519, kdf: .HKDF_SHA256, aead: .chaChaPoly)
    private static let encapsulatedBytes = 1120
    private static let publicKeyBytes = 1216

    static func isPublicKey(_ bytes: [UInt8]) -> Bool {
        bytes.count == publicKeyBytes && (try? XWingMLKEM768X25519.PublicKey(rawRepresentation: bytes)) != nil
    }

    /// `seed` is 32 bytes.
    static func publicKey(of seed: borrowing SecretBytes) -> [UInt8] {
        // Any 32 bytes are a seed.
        Array(try! privateKey(seed).publicKey.rawRepresentation)
    }

    static func wrap(_ fileKey: borrowing SecretBytes, to publicKey: [UInt8]) throws(AgeError) -> AgeStanza {
        do {
            let key = try XWingMLKEM768X25519.PublicKey(rawRepresentation: publicKey)
            var sender = try HPKE.Sender(recipientKey: key, ciphersuite: suite, info: info)
            let body = try fileKey.withBytes { try sender.seal(Data($0)) }
            return AgeStanza(
                type: type, arguments: [AgeBase64.encode(Array(sender.encapsulatedKey))], body: Array(body))
        } catch { throw AgeError(.key, "an age recipient cannot be used") }
    }

    static func unwrap(_ stanza: AgeStanza, secret: borrowing SecretBytes) throws(AgeError) -> SecretBytes? {
        guard stanza.arguments.count == 1, let share = AgeBase64.decode(stanza.arguments[0].utf8),
            share.count == encapsulatedBytes, stanza.body.count == AgeCipher.wrappedBytes,
            // X-Wing itself takes a low-order point; the format does not.
            PublicWrappingKey(bytes: Array(share.suffix(32))) != nil
        else { throw AgeError(.header, "a mlkem768x25519 stanza is not well formed") }
        guard let key = try? privateKey(secret),
            var recipient = try? HPKE.Recipient(
                privateKey: key, ciphersuite: suite, info: info, encapsulatedKey: Data(share)),
            var opened = try? recipient.open(Data(stanza.body))
        else { return nil }
        defer { opened.resetBytes(in: 0..<opened.count) }
        return SecretBytes(count: opened.count) { opened.copyBytes(to: $0) }
    }

    private static func privateKey(_ seed: borrowing SecretBytes) throws -> XWingMLKEM768X25519.PrivateKey {
        try seed.withBytes { bytes in
            var copy = Data(bytes)
            defer { copy.resetBytes(in: 0..<copy.count) }
            return try XWingMLKEM768X25519.PrivateKey(seedRepresentation: copy, publicKey: nil)
        }
    }
}
