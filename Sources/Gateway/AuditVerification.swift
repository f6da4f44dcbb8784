import AuditTrail
import DurableFiles
package import Foundation
import PolicyEngine
import Sealing
import TransparencyLog
package import Vocabulary

/// What may be done with an export where no gateway is: verify it, search it, make its documents.
package struct AuditVerification: Sendable {
    package let json: JSON
    package let lines: [String]

    /// Checks an export against the trail's identity, and with an auditor's key also the content of what it may open,
    /// the policy files it names and the documents made from it. Throws at the first doubt.
    /// - Parameters:
    ///   - trail: may be left out with a trust file, which then names the log.
    ///   - trust: the reader's trust file: the head must have the cosignatures that it asks for, and no entry may be
    ///     dated otherwise than its witnesses saw.
    ///   - allowsOpenRun: an export of one run is otherwise refused while the run is not closed: its end might have been
    ///     taken away.
    package static func verify(
        _ folder: URL, trail: String?, key: URL?, trust: URL? = nil, allowsOpenRun: Bool = false
    ) throws -> AuditVerification {
        let export = try ExportAtHand(folder, trail: trail, key: key, trust: trust)
        let report = try export.verify { _, _ in }
        if export.scope.name == "run", export.isKeyGiven, !allowsOpenRun,
            let open = report.eras.first(where: { $0.run != nil && !$0.isComplete })
        {
            throw GatewayError(
                .integrity,
                "NOT verified: after entry \(open.indices.upperBound) the run's end is missing; say --open-run if it goes on"
            )
        }
        return AuditVerification(report, export)
    }

    /// Records of an export that a search finds, oldest first; shown only when the whole export verified.
    package static func search(
        _ folder: URL, trail: String, key: URL, query: AuditQuery, most: Int
    ) throws -> [AuditHit] {
        guard (1...100_000).contains(most) else { throw GatewayError(.usage, "--most is from 1 to 100000") }
        guard query.conditions[.subject].map({ Digest(hex: $0) != nil }) ?? true else {
            throw GatewayError(
                .usage, "an export names persons by pseudonym only; `sekisho subject pseudonym` tells it")
        }
        var hits: [AuditHit] = []
        try ExportAtHand(folder, trail: trail, key: key).verify { record, _ in
            guard
                let found = CaseRecord(
                    index: record.index, leafHash: record.leafHash, time: record.time, key: "", core: record.core,
                    payload: .object([:]))
            else {
                throw GatewayError(
                    .integrity,
                    "entry \(record.index) tells of an event that is not known here; use the Sekisho that wrote it")
            }
            let run = record.text("run").flatMap { try? RunID($0) }
            let request = record.core["detail"]?["request"]?.stringValue.flatMap { try? RequestID($0) }
            let id: CaseID = run.map { .run($0) } ?? request.map { .request($0) } ?? .gateway
            if hits.count < most, query.matches(found, of: id) { hits.append(AuditHit(id: id, record: found)) }
        }
        return hits
    }

    /// Makes the clear documents of an export that has none: tables, audit events, reports.
    package static func documents(_ folder: URL, trail: String, key: URL, into out: URL) throws -> [String] {
        guard !FileManager.default.fileExists(atPath: out.path) else {
            throw GatewayError(.usage, "the folder for the documents is there already")
        }
        let export = try ExportAtHand(folder, trail: trail, key: key)
        var names: [String] = []
        let put = { (name: String, bytes: [UInt8]) in
            names.append(name)
            try GatewayFile.write(bytes, to: out.appendingPathComponent(name), role: "document")
        }
        var documents = AuditDocuments(export.subject)
        do {
            try export.verify { if $1 { try documents.add($0, put: put) } }
            try documents.finish(put: put)
        } catch {
            try? FileManager.default.removeItem(at: out)
            throw error
        }
        return names
    }

    private init(_ report: LogReport, _ export: ExportAtHand) {
        let runs = report.eras.filter { $0.run != nil }
        let unread = report.eras.filter { !$0.isRead }
        let size = report.head?.size ?? 0
        let root = report.head?.root.hex ?? ""
        var members: [String: JSON] = [
            "verified": true, "scope": .string(export.scope.name), "entries": .integer(Int64(report.entries)),
            "size": .integer(Int64(size)), "root": .string(root),
            "opened": .integer(Int64(report.opened)), "checkpoints": .integer(Int64(report.checkpoints)),
            "runs": .array(
                runs.map { run in
                    var members: [String: JSON] = [
                        "run": .string(run.run ?? ""), "entries": .integer(Int64(run.entries)),
                        "complete": .bool(run.isComplete),
                    ]
                    members["written"] = export.times?.interval(of: run.indices).json
                    return .object(members)
                }),
        ]
        if let times = export.times {
            members["witnesses"] = .array(
                times.cosigners.map { ["witness": .string($0.witness), "time": .string($0.time.description)] })
        }
        json = .object(members)
        let extent = report.entries == size ? "\(size) entries" : "\(report.entries) of \(size) entries"
        var lines = ["Verified: \(extent) under a signed head, root \(root)"]
        if let times = export.times {
            let who = times.cosigners.map { "\($0.witness) at \($0.time)" }.joined(separator: ", ")
            lines.append("Cosigned as your trust file asks: \(who.isEmpty ? "it asks for nobody" : who)")
        }
        if export.isKeyGiven {
            lines.append("Opened \(report.opened) entries; each fits its commitment and its chain.")
            for run in runs {
                let state = run.isComplete ? "complete" : run.isClosed ? "not opened from its start" : "still open"
                lines.append("  run \(run.run ?? ""): \(run.entries) entries, \(state)")
                if let interval = export.times?.interval(of: run.indices) {
                    lines.append("    written \(interval.words)")
                }
            }
            if !unread.isEmpty { lines.append("  \(unread.count) eras were not written for this key.") }
            if export.scope.hasDocuments { lines.append("The documents are those that the entries make.") }
        } else {
            lines.append("No auditor's key was given: contents were not opened.")
        }
        self.lines = lines
    }
}

/// An export in a folder, with whom to believe and what to open it with.
private struct ExportAtHand {
    let export: AuditExport
    let identity: TrailIdentity
    let scope: ExportScope
    /// With a trust file only.
    let times: WitnessedTimes?
    private let auditor: AuditorKey?

    var isKeyGiven: Bool { auditor != nil }

    var subject: DocumentSubject {
        DocumentSubject(
            origin: identity.origin, scope: scope.name, run: scope.run, dataset: scope.dataset, size: scope.size,
            root: scope.root, made: scope.made)
    }

    init(_ folder: URL, trail: String?, key: URL?, trust: URL? = nil) throws {
        let trusted: TrailIdentity?
        do throws(LogError) {
            trusted = try trail.map { (text) throws(LogError) in try TrailIdentity(parsing: text) }
        } catch {
            throw GatewayError(.usage, "the trail's identity is not of the form NAME+HASH+KEY")
        }
        let policy = try trust.map { try TrustFile($0).policy }
        guard trusted != nil || policy != nil else {
            throw GatewayError(.usage, "whom to trust is missing: --trail IDENTITY, or --trust FILE with a log line")
        }
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: folder.path, isDirectory: &isFolder) else {
            throw GatewayError(.notFound, "there is no export in this folder")
        }
        guard isFolder.boolValue else {
            throw GatewayError(.usage, "this is a file; open a sealed export with `sekisho audit open` first")
        }
        auditor = try key.map { AuditorKey(try AuditorKeyFile.readPrivate($0)) }
        do {
            let export = AuditExport(try FolderDisk(folder.path, readOnly: true))
            let identity = try trusted ?? export.statedIdentity()
            if let policy, !policy.logs.contains(identity) {
                throw LogError(.wrongOrigin, "the trust file names no log with the export's identity")
            }
            times = try policy.map { try WitnessedTimes(export.heads(trusting: identity), $0) }
            scope = try export.scope()
            self.identity = identity
            self.export = export
        } catch { throw Self.refusal(error) }
    }

    /// - Parameter visit: called with each record and whether documents tell it, before the export as a whole is
    ///   verified.
    @discardableResult
    func verify(_ visit: (DocumentRecord, _ isTold: Bool) throws -> Void) throws -> LogReport {
        do {
            return try check(visit)
        } catch { throw Self.refusal(error) }
    }

    private static func refusal(_ error: any Error) -> any Error {
        switch error {
        case let error as LogError: GatewayError(.integrity, "NOT verified: \(error.publicDescription)")
        case let error as DiskError where error != .busy:
            GatewayError(.integrity, "NOT verified: a file of the export cannot be read")
        default: error
        }
    }

    private func check(_ visit: (DocumentRecord, _ isTold: Bool) throws -> Void) throws -> LogReport {
        var made: Set<String> = []
        var documents = AuditDocuments(subject)
        var policies: Set<String> = []
        var closed = 0
        let compare = { (name: String, bytes: [UInt8]) in
            made.insert(name)
            guard try export.file("\(AuditExport.documentsFolder)/\(name)") == bytes else {
                throw LogError(.wrongEntry, "data/\(AuditExport.documentsFolder)/\(name) is not what the entries say")
            }
        }
        let report = try export.verify(trusting: identity, auditor: auditor) { entry in
            try times?.check(entry.header.time, of: entry.index)
            guard let core = entry.core else {
                closed += 1
                return
            }
            let record = DocumentRecord(
                index: entry.index, time: entry.header.time, leafHash: entry.leafHash, core: core)
            let isTold = DocumentRecord.isTold(entry.header, core: core)
            try visit(record, isTold)
            guard isTold else { return }
            if let policy = record.text("policy") { policies.insert(policy) }
            if scope.hasDocuments, closed == 0 { try documents.add(record, put: compare) }
        }
        guard auditor == nil || report.opened > 0 else {
            throw GatewayError(
                .integrity, "NOT verified: the key opens none of the entries; it is not a reader's of this trail")
        }
        let names = try export.names(in: AuditExport.documentsFolder)
        guard scope.hasDocuments != names.isEmpty else {
            throw LogError(.incomplete, "the export has not the documents that it says it has")
        }
        if auditor != nil, scope.hasDocuments {
            guard closed == 0 else {
                throw LogError(
                    .incomplete, "\(closed) entries do not open with this key, so the documents cannot be held to them")
            }
            try documents.finish(put: compare)
            if let other = names.first(where: { !made.contains($0) }) {
                throw LogError(.wrongEntry, "data/\(AuditExport.documentsFolder)/\(other) is not made from the entries")
            }
        }
        try check(policies)
        return report
    }

    /// Each bundle of policy files is the one of its name, and every decision's is there.
    private func check(_ named: Set<String>) throws {
        let folder = AuditExport.policiesFolder
        let bundles = try export.names(in: folder)
        if let missing = named.first(where: { !bundles.contains($0) }) {
            throw LogError(.incomplete, "the policy files \(missing) are missing")
        }
        for bundle in bundles {
            let files = try export.names(in: "\(folder)/\(bundle)").map {
                PolicyFile(name: $0, bytes: try export.file("\(folder)/\(bundle)/\($0)"))
            }
            guard SHA256.hash(PolicySet.manifest(of: files, hash: { SHA256.hash($0) }).canonical).hex == bundle else {
                throw LogError(.wrongEntry, "data/\(folder)/\(bundle) does not hold the policy files of that hash")
            }
            if auditor != nil, !named.contains(bundle) {
                throw LogError(.wrongEntry, "data/\(folder)/\(bundle): no entry names these policy files")
            }
        }
    }
}
