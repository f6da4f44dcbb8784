import AuditTrail
package import Foundation
import Sealing
package import Vocabulary

// MARK: - Reading

extension Gateway {
    /// Records as the case records hold them, newest last. Reading them is itself a record, written first.
    package func auditList(_ only: CaseID?, most: Int, by person: PersonID) throws -> [CaseRecord] {
        try require(person, anyOf: [.complianceOfficer])
        guard (1...100_000).contains(most) else { throw GatewayError(.usage, "--most is from 1 to 100000") }
        if let only { _ = try timeline(only) }
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = person
                $0.detail = ["read": .string(only?.description ?? "all")]
            }, in: .gateway, key: ledger.freshKey("read"))
        let records = only.map { ledger.file($0).records } ?? ledger.records
        return Array(records.suffix(most))
    }

    package func auditShow(_ index: UInt64, by person: PersonID) throws -> CaseRecord {
        try require(person, anyOf: [.complianceOfficer])
        guard let record = ledger.records.first(where: { $0.index == index }) else {
            throw GatewayError(
                .notFound, "the gateway holds no case record of entry \(index); the export holds every entry")
        }
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = person
                $0.detail = ["read": .string("entry/\(index)")]
            }, in: .gateway, key: ledger.freshKey("read"))
        return record
    }
}

// MARK: - Keys of auditors

/// Key files of auditors and of the recovery key: one line of hexadecimal. The private one is made where the auditor
/// works, never in a home.
package enum AuditorKeyFile {
    /// Writes the private key to `file` and the public one beside it as `FILE.pub`.
    package static func generate(at file: URL) throws -> String {
        guard !FileManager.default.fileExists(atPath: file.path) else {
            throw GatewayError(.usage, "the key file is there already; a key is never overwritten")
        }
        let key = WrappingKey.generate()
        let publicKey = Hex.encode(key.publicKey.bytes)
        try GatewayFile.write(Array("\(publicKey)\n".utf8), to: file.appendingPathExtension("pub"), role: "public key")
        let descriptor = open(file.path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw GatewayError(.unavailable, "the key file cannot be written") }
        defer { close(descriptor) }
        let isWritten = key.withSecret { secret in
            secret.withBytes { bytes in
                var text = Array(Hex.encode(bytes).utf8) + [UInt8(ascii: "\n")]
                defer { wipe(&text) }
                return write(descriptor, text, text.count) == text.count && fsync(descriptor) == 0
            }
        }
        guard isWritten else { throw GatewayError(.unavailable, "the key file cannot be written") }
        return publicKey
    }

    static func readPublic(_ file: URL) throws -> PublicWrappingKey {
        let text = try GatewayFile.read(file, role: "public key file")
        guard let key = Hex.decode(text.trimmingCharacters(in: .newlines)).flatMap({ PublicWrappingKey(bytes: $0) })
        else { throw GatewayError(.usage, "a public key file is not what `sekisho audit keygen` writes") }
        return key
    }

    static func readPrivate(_ file: URL) throws -> WrappingKey {
        var text = try GatewayFile.bytes(file, role: "private key file")
        defer { wipe(&text) }
        guard text.count == 65, text.last == UInt8(ascii: "\n"),
            var secret = Hex.decode(String(decoding: text.dropLast(), as: UTF8.self))
        else { throw GatewayError(.usage, "a private key file is not what `sekisho audit keygen` writes") }
        defer { wipe(&secret) }
        return try WrappingKey(secret: SecretBytes(copying: secret))
    }
}
