import AuditTrail
import DurableFiles
package import Foundation
import Sealing
import TransparencyLog
package import Vocabulary

// MARK: - Reading

extension Gateway {
    /// Records as the case records hold them, newest last. Reading them is itself a record, written first.
    package func auditList(_ only: CaseID?, most: Int, by person: PersonID) throws -> [CaseRecord] {
        try require(person, anyOf: [.complianceOfficer])
        guard (1...100_000).contains(most) else { throw GatewayError(.usage, "--most is from 1 to 100000") }
        if let only { _ = try records(of: only) }
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
        guard let record = ledger.record(at: index) else {
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

/// Key files of auditors and of the recovery key: one line, which says which half it is, so that a private key is never
/// taken for a public one and copied into a home. The private one is made where the auditor works.
package enum AuditorKeyFile {
    private static let publicWord = "sekisho-public-key-v1 "
    private static let privateWord = "sekisho-private-key-v1 "

    /// Writes the private key to `file` and the public one beside it as `FILE.pub`.
    package static func generate(at file: URL) throws -> String {
        guard !FileManager.default.fileExists(atPath: file.path) else {
            throw GatewayError(.usage, "the key file is there already; a key is never overwritten")
        }
        let key = WrappingKey.generate()
        let publicKey = Hex.encode(key.publicKey.bytes)
        try GatewayFile.write(
            Array("\(publicWord)\(publicKey)\n".utf8), to: file.appendingPathExtension("pub"), role: "public key")
        let descriptor = open(file.path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw GatewayError(.unavailable, "the key file cannot be written") }
        defer { close(descriptor) }
        let isWritten = key.withSecret { secret in
            secret.withBytes { bytes in
                var text = Array(privateWord.utf8) + Array(Hex.encode(bytes).utf8) + [UInt8(ascii: "\n")]
                defer { wipe(&text) }
                return write(descriptor, text, text.count) == text.count && fsync(descriptor) == 0
            }
        }
        guard isWritten else { throw GatewayError(.unavailable, "the key file cannot be written") }
        return publicKey
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
        var text = try GatewayFile.bytes(file, role: "private key file")
        defer { wipe(&text) }
        let word = privateWord.utf8.count
        guard text.starts(with: privateWord.utf8), text.count == word + 65, text.last == UInt8(ascii: "\n"),
            var secret = Hex.decode(String(decoding: text[word..<text.count - 1], as: UTF8.self))
        else { throw GatewayError(.usage, "a private key file is not what `sekisho audit keygen` writes") }
        defer { wipe(&secret) }
        return try WrappingKey(secret: SecretBytes(copying: secret))
    }
}

// MARK: - Export

/// What to export, to where.
package struct ExportRequest: Sendable, Equatable {
    package enum Scope: Sendable, Equatable {
        case whole
        case run(RunID)
    }

    package var scope: Scope
    /// The folder to make.
    package var target: URL

    package init(_ scope: Scope, to target: URL) {
        self.scope = scope
        self.target = target
    }
}

/// How far an export is.
package struct ExportProgress: Sendable, Equatable {
    package enum Stage: String, Sendable, CaseIterable { case entries, documents, sealing }
    package let stage: Stage
    package let done: UInt64
    package let of: UInt64
}

package struct ExportSummary: Sendable {
    package let entries: UInt64
    package let treeSize: UInt64
    package let root: Digest
}

extension Gateway {
    /// Writes the trail, or a part of it, as files that verify offline. The export is recorded before it begins, so
    /// that it holds its own record.
    package func export(
        _ request: ExportRequest, by person: PersonID,
        progress: @escaping @Sendable (ExportProgress) -> Void = { _ in }
    ) async throws -> ExportSummary {
        try require(person, anyOf: [.complianceOfficer])
        let run: RunID? = if case .run(let run) = request.scope { run } else { nil }
        let folder = request.target
        let records = try run.map { try self.records(of: .run($0)) }
        if let names = try? FileManager.default.contentsOfDirectory(atPath: folder.path), !names.isEmpty {
            throw GatewayError(.usage, "the folder to export to is not empty")
        }
        try ledger.record(
            Event(.trailExported, .done).with {
                $0.actor = person
                $0.ofRun = run
                $0.detail = ["range": run == nil ? "all" : "run"]
            }, in: .gateway, key: ledger.freshKey("exported"))
        do {
            try trail.publish()
            let source = try FolderDisk(home.trail.path)
            let target = try FolderDisk(folder.path)
            if let records {
                let era = try trail.era(of: records[0].index)
                try AuditExport.era(era, of: source, into: target, at: clock.now())
            } else {
                try AuditExport.whole(of: source, into: target, at: clock.now())
            }
            let head = try trail.head()
            progress(ExportProgress(stage: .entries, done: head.size, of: head.size))
            return ExportSummary(
                entries: records.map { UInt64($0.count) } ?? head.size, treeSize: head.size, root: head.root)
        } catch let error as TrailError {
            throw GatewayError(trail: error)
        } catch let error as LogError {
            throw GatewayError(.integrity, error.publicDescription)
        } catch is DiskError {
            throw GatewayError(.unavailable, "the export cannot be written; see that the disk has space")
        }
    }
}

// MARK: - Verification, without a gateway

package struct AuditVerification: Sendable {
    package let json: JSON
    package let lines: [String]

    /// Checks an export against the trail's identity, and with an auditor's key also the content of what it may open.
    package static func verify(_ folder: URL, trail: String, key: URL?) throws -> AuditVerification {
        let identity: TrailIdentity
        do throws(LogError) { identity = try TrailIdentity(parsing: trail) } catch {
            throw GatewayError(.usage, "the trail's identity is not of the form NAME+HASH+KEY")
        }
        guard FileManager.default.fileExists(atPath: folder.path) else {
            throw GatewayError(.notFound, "there is no export in this folder")
        }
        let auditor = try key.map { AuditorKey(try AuditorKeyFile.readPrivate($0)) }
        let report: LogReport
        do {
            report = try AuditExport(FolderDisk(folder.path)).verify(trusting: identity, auditor: auditor)
        } catch let error as LogError {
            throw GatewayError(.integrity, "NOT verified: \(error.publicDescription)")
        } catch let error as DiskError where error != .busy {
            throw GatewayError(.integrity, "NOT verified: a file of the export cannot be read")
        }
        guard auditor == nil || report.opened > 0 else {
            throw GatewayError(
                .integrity, "NOT verified: the key opens none of the entries; it is not a reader's of this trail")
        }
        return AuditVerification(report, isKeyGiven: auditor != nil)
    }

    private init(_ report: LogReport, isKeyGiven: Bool) {
        let runs = report.eras.filter { $0.run != nil }
        let size = report.head?.size ?? 0
        let root = report.head?.root.hex ?? ""
        json = [
            "verified": true, "size": .integer(Int64(size)), "root": .string(root),
            "opened": .integer(Int64(report.opened)), "checkpoints": .integer(Int64(report.checkpoints)),
            "runs": .array(
                runs.map {
                    [
                        "run": .string($0.run ?? ""), "entries": .integer(Int64($0.entries)),
                        "complete": .bool($0.isComplete),
                    ]
                }),
        ]
        var lines = ["Verified: \(size) entries under a signed head, root \(root)"]
        if isKeyGiven {
            lines.append("Opened \(report.opened) entries; each fits its commitment and its chain.")
            for run in runs {
                let state = run.isComplete ? "complete" : run.isClosed ? "not opened" : "still open"
                lines.append("  run \(run.run ?? ""): \(run.entries) entries, \(state)")
            }
        } else {
            lines.append("No auditor's key was given: contents were not opened.")
        }
        self.lines = lines
    }
}
