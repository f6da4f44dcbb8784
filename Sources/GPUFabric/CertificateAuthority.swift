internal import Crypto
internal import FabricTransport
internal import Foundation
internal import Glibc
package import Sealing
internal import SwiftASN1
package import Vocabulary
internal import X509

/// A certificate authority of the gateway's own. The fabric's is used by nothing else; the door has another one.
///
/// Its private key and the gateway's lie sealed on the disk, under a key that the caller derives from its root key.
/// A node proves to a gateway that it is the enrolled one by its pinned certificate, and a gateway proves to a node
/// that it is a gateway by the `clientAuth` purpose that only the gateway's certificate has.
package struct CertificateAuthority: Sendable {
    private let certificate: Certificate
    private let key: P256.Signing.PrivateKey

    static let certificateFile = "ca.pem"
    static let keyFile = "ca.key.sealed"

    /// Makes a new authority and writes `ca.pem` and `ca.key.sealed` into a folder that has none.
    package static func create(
        in folder: String, name: String = "Sekisho fabric", sealing: borrowing SecretBytes, now: Timestamp,
        validDays: Int = 3650
    ) throws -> CertificateAuthority {
        guard try DurableFile.read(folder + "/" + keyFile) == nil else {
            throw FabricError(.storage, "this folder has a certificate authority already")
        }
        let key = P256.Signing.PrivateKey()
        let name = try DistinguishedName { CommonName(name) }
        let certificate = try Certificate(
            version: .v3, serialNumber: Certificate.SerialNumber(), publicKey: .init(key.publicKey),
            notValidBefore: now.date(plusSeconds: -60), notValidAfter: now.date(plusSeconds: validDays * 86_400),
            issuer: name, subject: name, signatureAlgorithm: .ecdsaWithSHA256,
            extensions: Certificate.Extensions {
                Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 0))
                Critical(KeyUsage(keyCertSign: true, cRLSign: true))
                SubjectKeyIdentifier(hash: Certificate.PublicKey(key.publicKey))
            },
            issuerPrivateKey: .init(key))
        let authority = CertificateAuthority(certificate: certificate, key: key)
        try makePrivateFolder(folder)
        try SealedKeyFile.write(key, to: folder + "/" + keyFile, sealing: sealing)
        try DurableFile.replace(folder + "/" + certificateFile, with: try authority.pem)
        return authority
    }

    private init(certificate: Certificate, key: P256.Signing.PrivateKey) {
        self.certificate = certificate
        self.key = key
    }

    /// Reads an authority that `create` wrote.
    package init(folder: String, sealing: borrowing SecretBytes) throws {
        guard let certificate = try DurableFile.read(folder + "/" + Self.certificateFile) else {
            throw FabricError(.storage, "this folder has no certificate authority")
        }
        self.certificate = try Certificate(pemEncoded: String(decoding: certificate, as: UTF8.self))
        key = try SealedKeyFile.read(folder + "/" + Self.keyFile, sealing: sealing).withBytes {
            try P256.Signing.PrivateKey(pemRepresentation: String(decoding: $0, as: UTF8.self))
        }
    }

    /// Writes what a gateway needs to reach nodes: `gateway.pem`, `gateway.key.sealed`, `ca.pem`.
    package func issueGateway(
        into folder: String, sealing: borrowing SecretBytes, now: Timestamp, validDays: Int = 825
    ) throws {
        let (certificate, key) = try issue(
            name: "gateway", purpose: .clientAuth, now: now, validSeconds: validDays * 86_400)
        try makePrivateFolder(folder)
        try SealedKeyFile.write(key, to: folder + "/gateway.key.sealed", sealing: sealing)
        try DurableFile.replace(folder + "/gateway.pem", with: Array(certificate.serializeAsPEM().pemString.utf8))
        try DurableFile.replace(folder + "/" + Self.certificateFile, with: try pem)
    }

    /// Writes a node's identity folder, to be carried to the GPU host: `node.id`, `node.pem`, `node.key`,
    /// `attestation.key` (Ed25519 seed in hexadecimal), `ca.pem` and `trail.vkey`, the trail whose receipts it accepts.
    ///
    /// What comes back is the gateway's half, to be kept in its inventory.
    package func issueNode(
        _ node: NodeID, trail: String, into folder: String, now: Timestamp, validSeconds: Int = 825 * 86_400
    ) throws -> NodeEnrolment {
        let (certificate, key) = try issue(
            name: "node " + node.text, purpose: .serverAuth, now: now, validSeconds: validSeconds)
        let attestation = SigningKey.generate()
        try makePrivateFolder(folder)
        try DurableFile.replace(folder + "/node.id", with: Array(node.text.utf8))
        try DurableFile.replace(folder + "/node.key", with: Array(key.pemRepresentation.utf8))
        try DurableFile.replace(folder + "/node.pem", with: Array(certificate.serializeAsPEM().pemString.utf8))
        try DurableFile.replace(
            folder + "/attestation.key",
            with: attestation.withSeed { seed in seed.withBytes { Array(Hex.encode($0).utf8) } })
        try DurableFile.replace(folder + "/" + Self.certificateFile, with: try pem)
        try DurableFile.replace(folder + "/trail.vkey", with: Array(trail.utf8))
        return NodeEnrolment(
            node: node, certificate: try Self.digest(certificate),
            attestationKey: attestation.verifyingKey)
    }

    /// A certificate for a server under these host names and addresses, and its key, as PEM; kept nowhere.
    package func issueServer(
        names: [String], now: Timestamp, validDays: Int = 90
    ) throws -> (chain: [UInt8], key: [UInt8]) {
        let alternatives = names.map { name in
            Self.addressBytes(name).map { GeneralName.ipAddress(ASN1OctetString(contentBytes: $0)) } ?? .dnsName(name)
        }
        let (certificate, key) = try issue(
            name: "sekisho", purpose: .serverAuth, alternatives: alternatives, now: now,
            validSeconds: validDays * 86_400)
        return (
            Array(try certificate.serializeAsPEM().pemString.utf8) + [UInt8(ascii: "\n")] + (try pem),
            Array(key.pemRepresentation.utf8)
        )
    }

    /// Writes what a machine needs to show who it is: `machine.pem`, `machine.key`, `ca.pem`. What comes back is the
    /// certificate's digest.
    package func issueMachine(
        _ name: String, into folder: String, now: Timestamp, validSeconds: Int
    ) throws -> Vocabulary.Digest {
        let (certificate, key) = try issue(name: name, purpose: .clientAuth, now: now, validSeconds: validSeconds)
        try makePrivateFolder(folder)
        try DurableFile.replace(folder + "/machine.key", with: Array(key.pemRepresentation.utf8))
        try DurableFile.replace(folder + "/machine.pem", with: Array(certificate.serializeAsPEM().pemString.utf8))
        try DurableFile.replace(folder + "/" + Self.certificateFile, with: try pem)
        return try Self.digest(certificate)
    }

    /// SHA-256 of the authority's own certificate: what people compare before they trust it.
    package var fingerprint: Vocabulary.Digest { get throws { try Self.digest(certificate) } }

    private static func digest(_ certificate: Certificate) throws -> Vocabulary.Digest {
        var serializer = DER.Serializer()
        try serializer.serialize(certificate)
        return Sealing.SHA256.hash(serializer.serializedBytes)
    }

    /// The bytes of an IPv4 or IPv6 address; `nil` for a host name.
    private static func addressBytes(_ text: String) -> ArraySlice<UInt8>? {
        var bytes = [UInt8](repeating: 0, count: 16)
        if inet_pton(AF_INET, text, &bytes) == 1 { return bytes[..<4] }
        return inet_pton(AF_INET6, text, &bytes) == 1 ? bytes[...] : nil
    }

    package var pem: [UInt8] { get throws { Array(try certificate.serializeAsPEM().pemString.utf8) } }

    private func issue(
        name: String, purpose: ExtendedKeyUsage.Usage, alternatives: [GeneralName] = [], now: Timestamp,
        validSeconds: Int
    ) throws -> (Certificate, P256.Signing.PrivateKey) {
        let key = P256.Signing.PrivateKey()
        let certificate = try Certificate(
            version: .v3, serialNumber: Certificate.SerialNumber(), publicKey: .init(key.publicKey),
            notValidBefore: now.date(plusSeconds: -60), notValidAfter: now.date(plusSeconds: validSeconds),
            issuer: certificate.subject, subject: try DistinguishedName { CommonName(name) },
            signatureAlgorithm: .ecdsaWithSHA256,
            extensions: Certificate.Extensions {
                Critical(BasicConstraints.notCertificateAuthority)
                Critical(KeyUsage(digitalSignature: true))
                try ExtendedKeyUsage([purpose])
                SubjectKeyIdentifier(hash: Certificate.PublicKey(key.publicKey))
                if !alternatives.isEmpty { SubjectAlternativeNames(alternatives) }
            },
            issuerPrivateKey: .init(self.key))
        return (certificate, key)
    }
}

/// The gateway's end of every control channel, read from the folder that `issueGateway` wrote.
package enum GatewayIdentity {
    package static func load(folder: String, sealing: borrowing SecretBytes) throws -> TLSContext {
        guard let certificate = try DurableFile.read(folder + "/gateway.pem"),
            let authority = try DurableFile.read(folder + "/ca.pem")
        else { throw FabricError(.storage, "the gateway has no certificate for the fabric") }
        return try TLSContext(
            role: .client, certificate: certificate,
            privateKey: try SealedKeyFile.read(folder + "/gateway.key.sealed", sealing: sealing),
            authority: authority)
    }
}

/// A private key in PEM, sealed to the name of its file.
private enum SealedKeyFile {
    static func write(_ key: P256.Signing.PrivateKey, to path: String, sealing: borrowing SecretBytes) throws {
        var pem = Array(key.pemRepresentation.utf8)
        defer { wipe(&pem) }
        try DurableFile.replace(
            path, with: SmallCipher.sealSecret(SecretBytes(copying: pem), key: sealing, aad: name(path)))
    }

    static func read(_ path: String, sealing: borrowing SecretBytes) throws -> SecretBytes {
        guard let sealed = try DurableFile.read(path) else {
            throw FabricError(.storage, "a private key of the fabric is missing")
        }
        do {
            return try SmallCipher.openSecret(noncePrefixed: sealed, key: sealing, aad: name(path))
        } catch { throw FabricError(.storage, "a private key of the fabric does not open with this home's key") }
    }

    private static func name(_ path: String) -> [UInt8] { Array((path.split(separator: "/").last ?? "").utf8) }
}

private func makePrivateFolder(_ folder: String) throws {
    try FileManager.default.createDirectory(
        atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
}

extension Timestamp {
    fileprivate func date(plusSeconds seconds: Int) -> Date {
        Date(timeIntervalSince1970: Double(milliseconds / 1000) + Double(seconds))
    }
}
