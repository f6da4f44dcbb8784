import AuditTrail
import DurableFiles
package import Foundation
import GraphVault
import PolicyEngine
import Sealing
import TransparencyLog
package import Vocabulary

/// What to export, to where.
package struct ExportRequest: Sendable, Equatable {
    package enum Scope: Sendable, Equatable {
        case whole
        /// Everything that was written from one time to another.
        case range(from: Timestamp, to: Timestamp)
        case run(RunID)
        /// Everything about a data set: its runs as a whole, and each other record that names it.
        case dataset(DatasetID)
        /// The runs whose image held a person, and the records of that person's consent.
        case subject(String, DatasetID)

        /// The last instant that RFC 3339 can write.
        private static let endOfTime = Timestamp(milliseconds: 253_402_300_799_999)

        /// What somebody names: a run, a data set, a person of one, a period as a search has it; nothing is everything.
        /// `nil` where that is more than one of them. Throws for a period that cannot be read.
        package init?(run: RunID?, dataset: DatasetID?, subject: String?, from: String?, to: String?) throws {
            switch (run, dataset, subject, from != nil || to != nil) {
            case (nil, nil, nil, false): self = .whole
            case (let run?, nil, nil, false): self = .run(run)
            case (nil, let dataset?, nil, false): self = .dataset(dataset)
            case (nil, let dataset?, let subject?, false): self = .subject(subject, dataset)
            case (nil, nil, nil, true):
                let period = try AuditQuery(
                    parsing: [("from", from), ("to", to)].compactMap { name, value in value.map { (name, $0) } })
                self = .range(from: period.from ?? Timestamp(milliseconds: 0), to: period.to ?? Self.endOfTime)
            default: return nil
            }
        }
    }

    package var scope: Scope
    /// A folder to make; or, when its name ends in `.age`, one sealed file, with tables, reports and audit events in
    /// clear inside.
    package var target: URL
    /// Whom a sealed file is for (`age1…`, or all `age1pq1…`); the home's auditors and its recovery key when empty.
    package var recipients: [String]

    package init(_ scope: Scope, to target: URL, recipients: [String] = []) {
        self.scope = scope
        self.target = target
        self.recipients = recipients
    }

    var isSealed: Bool { target.pathExtension == "age" }
}

/// How far an export is.
package struct ExportProgress: Sendable, Equatable {
    package enum Stage: String, Sendable, CaseIterable { case entries }
    package let stage: Stage
    package let done: UInt64
    package let of: UInt64
}

package struct ExportSummary: Sendable {
    /// How many entries are in it.
    package let entries: UInt64
    package let treeSize: UInt64
    package let root: Digest
}

extension Gateway {
    /// Writes the trail, or a part of it, as files that verify offline. The export is recorded before it begins, so
    /// that an export of the whole holds its own record.
    ///
    /// An export that was interrupted goes on when it is asked for again with the same words; it is then of the same
    /// head as at its beginning.
    package func export(
        _ request: ExportRequest, by person: PersonID,
        progress: @escaping @Sendable (ExportProgress) -> Void = { _ in }
    ) async throws -> ExportSummary {
        try require(person, anyOf: [.complianceOfficer])
        let recipients = try recipients(of: request)
        let interrupted = try request.interrupted(recipients)
        let end = interrupted.partial?.end ?? trail.size
        let selection = try await selection(request.scope, below: end)
        try ledger.record(
            Event(.trailExported, .done).with {
                $0.actor = person
                $0.ofRun = selection.run
                $0.dataset = selection.dataset
                $0.detail = selection.detail
                $0.detail["sealed"] = .bool(request.isSealed)
                if interrupted.partial != nil { $0.detail["resumed"] = true }
                if let subject = selection.subject { $0.payload = ["subject": .string(subject)] }
            }, in: .gateway, key: ledger.freshKey("exported"))
        do throws(TrailError) { try trail.publish() } catch { throw GatewayError(trail: error) }
        // Where there are witnesses, a new export is under a head that they were asked to cosign. What they said is
        // recorded; whose cosignature is needed is for the reader's trust file to say.
        var note = interrupted.partial?.note
        if note == nil, try witnesses() != nil { note = try await cosign(for: nil).head.note }
        let job = ExportJob(
            request: request, selection: selection, recipients: recipients, trail: home.trail,
            policies: home.policies, records: ledger.records, interrupted: interrupted, note: note, end: end,
            keys: SealedFileSink.Keys(await vault.derivedKey(DerivedKey.sealedExports)), now: clock.now(),
            progress: progress)
        return try await Self.run(job)
    }

    /// Away from the gateway, which goes on meanwhile: the export reads static files and a copy of the records.
    @concurrent private static func run(_ job: ExportJob) async throws -> ExportSummary {
        do {
            return try job.run()
        } catch let error as TrailError {
            throw GatewayError(trail: error)
        } catch let error as LogError {
            throw GatewayError(.integrity, error.publicDescription)
        } catch is DiskError {
            throw GatewayError(.unavailable, "the export cannot be written; see that the disk has space")
        }
    }

    private func recipients(of request: ExportRequest) throws -> [AgeRecipient] {
        guard request.isSealed else {
            guard request.recipients.isEmpty else {
                throw GatewayError(.usage, "an export for recipients is one file whose name ends in .age")
            }
            return []
        }
        guard request.recipients.isEmpty else {
            do throws(AgeError) {
                return try request.recipients.map { (text) throws(AgeError) in try AgeRecipient(parsing: text) }
            } catch { throw GatewayError(.usage, error.publicDescription) }
        }
        return settings.auditors.map(AgeRecipient.init) + [AgeRecipient(settings.recovery)]
    }

    /// - Parameter end: records from here on are younger than the request.
    private func selection(_ scope: ExportRequest.Scope, below end: UInt64) async throws -> ExportSelection {
        switch scope {
        case .whole: return ExportSelection(name: "whole")
        case .range(let from, let to):
            guard from <= to else { throw GatewayError(.usage, "the period ends before it begins") }
            return ExportSelection(
                name: "range", period: from...to,
                detail: ["from": .string(from.description), "to": .string(to.description)])
        case .run(let run):
            let records = try records(of: .run(run))
            return ExportSelection(
                name: "run", run: run, eras: [try era(of: records[0])])
        case .dataset(let dataset):
            let runs = try self.runs().filter { $0.dataset == dataset && $0.file.records[0].index < end }
            let names = Set(runs.map(\.id.text))
            let others = ledger.records.prefix { $0.index < end }.filter { record in
                record.core["dataset"]?.stringValue == dataset.text
                    || record.core["run"]?.stringValue.map(names.contains) ?? false
            }
            guard !others.isEmpty else { throw GatewayError(.notFound, "there is no record of \(dataset)") }
            return ExportSelection(
                name: "dataset", dataset: dataset, eras: try eras(of: runs), indices: Set(others.map(\.index)))
        case .subject(let subject, let dataset):
            let id: SubjectID
            do throws(IdentifierError) { id = try SubjectID(subject) } catch {
                throw GatewayError(.usage, "\(error)")
            }
            let used: Set<RunID>
            do {
                _ = try await vault.consent(of: id, in: dataset)
                used = Set(try await vault.runs(using: id, of: dataset))
            } catch let error as VaultError { throw GatewayError(vault: error) }
            let runs = try self.runs().filter { used.contains($0.id) && $0.file.records[0].index < end }
            let names = Set(used.map(\.text))
            let pseudonym = pseudonym(of: id).hex
            let others = ledger.records.prefix { $0.index < end }.filter { record in
                record.detail["subject"]?.stringValue == pseudonym
                    || record.payload["subject"]?.stringValue == pseudonym
                        && record.core["dataset"]?.stringValue == dataset.text
                    || record.core["run"]?.stringValue.map(names.contains) ?? false
            }
            guard !others.isEmpty else {
                throw GatewayError(.notFound, "no run used this person's data, and no record is about their consent")
            }
            return ExportSelection(
                name: "subject", dataset: dataset, subject: pseudonym, eras: try eras(of: runs),
                indices: Set(others.map(\.index)))
        }
    }

    private func eras(of runs: [RunCase]) throws -> Set<UInt64> {
        Set(try runs.map { try era(of: $0.file.records[0]) })
    }

    private func era(of record: CaseRecord) throws -> UInt64 {
        do throws(TrailError) { return try trail.era(of: record.index) } catch { throw GatewayError(trail: error) }
    }
}

/// What an earlier attempt at an export left.
private struct InterruptedExport: Sendable {
    var partial: FolderSink.Partial?
    /// Of a sealed file.
    var state: SealedFileSink.State?
}

extension ExportRequest {
    /// Tells one request from another when an interrupted one goes on.
    fileprivate func digest(_ recipients: [AgeRecipient]) -> Digest {
        SHA256.hash("\(scope)\(recipients.map { "\n\($0)" }.joined())")
    }

    /// Looks at the target before anything is recorded: something else that is there already is refused.
    fileprivate func interrupted(_ recipients: [AgeRecipient]) throws -> InterruptedExport {
        var left = InterruptedExport()
        if isSealed {
            guard !FileManager.default.fileExists(atPath: target.path) else {
                throw GatewayError(.usage, "the file to export to is there already")
            }
            left.state = try SealedFileSink.State(of: target)
            left.partial = left.state?.partial
        } else if FileManager.default.fileExists(atPath: target.path) {
            do {
                left.partial = try FolderSink(FolderDisk(target.path, readOnly: true)).partial()
            } catch { throw GatewayError(.usage, "the folder to export to is not empty") }
        }
        if let partial = left.partial, partial.request != digest(recipients) {
            throw GatewayError(
                .usage, "another export to this place was interrupted; ask for that one or remove what it left")
        }
        return left
    }
}

/// What an export is of, resolved from the records.
private struct ExportSelection: Sendable {
    let name: String
    var run: RunID?
    var dataset: DatasetID?
    var subject: String?
    var period: ClosedRange<Timestamp>?
    var eras: Set<UInt64> = []
    var indices: Set<UInt64> = []
    var detail: [String: JSON]

    init(
        name: String, run: RunID? = nil, dataset: DatasetID? = nil, subject: String? = nil,
        period: ClosedRange<Timestamp>? = nil, eras: Set<UInt64> = [], indices: Set<UInt64> = [],
        detail: [String: JSON] = [:]
    ) {
        self.name = name
        self.run = run
        self.dataset = dataset
        self.subject = subject
        self.period = period
        self.eras = eras
        self.indices = indices
        self.detail = detail.merging(["scope": .string(name)]) { first, _ in first }
    }
}

/// One export, away from the gateway.
private struct ExportJob: Sendable {
    let request: ExportRequest
    let selection: ExportSelection
    let recipients: [AgeRecipient]
    let trail: URL
    let policies: URL
    /// All case records, in the trail's order.
    let records: [CaseRecord]
    let interrupted: InterruptedExport
    /// The head to export under; the published one when `nil`.
    let note: [UInt8]?
    /// The first entry that is younger than the request.
    let end: UInt64
    let keys: SealedFileSink.Keys
    let now: Timestamp
    let progress: @Sendable (ExportProgress) -> Void

    func run() throws -> ExportSummary {
        do { return try run(interrupted.state) } catch is SealedFileSink.OtherContent {
            // What it is made from has changed since; what was sealed so far is thrown away.
            return try run(nil)
        }
    }

    private func run(_ state: SealedFileSink.State?) throws -> ExportSummary {
        let source = try FolderDisk(trail.path, readOnly: true)
        let (writer, time) = try writer(source)
        let head = writer.head
        let partial = FolderSink.Partial(request: request.digest(recipients), note: head.note, time: time, end: end)
        let count: UInt64
        if request.isSealed {
            let sink = try SealedFileSink(
                request.target, to: recipients, keys: keys, interrupted: state, partial: partial)
            count = try write(writer, into: sink, at: time, hasDocuments: true)
            try sink.finish()
        } else {
            let disk = try FolderDisk(request.target.path)
            let sink = FolderSink(disk)
            try sink.begin(partial)
            count = try write(writer, into: sink, at: time, hasDocuments: false)
            try sink.finish()
        }
        return ExportSummary(entries: count, treeSize: head.size, root: head.root)
    }

    private func writer(_ source: any Disk) throws -> (ExportWriter, Timestamp) {
        let tell = progress
        let watch = { @Sendable (done: UInt64, of: UInt64) in
            try Task.checkCancellation()
            tell(ExportProgress(stage: .entries, done: done, of: of))
        }
        let choice: ExportWriter.Choice
        if let period = selection.period {
            // The head decides how far the period reaches: that of the interrupted export, or the newest.
            let head = try ExportWriter(of: source, note: note, choice: .whole).head
            choice = .range(
                try ExportWriter.range(from: period.lowerBound, to: period.upperBound, of: source, head: head))
            return (
                try ExportWriter(of: source, note: head.note, choice: choice, progress: watch),
                interrupted.partial?.time ?? now
            )
        }
        choice =
            selection.name == "whole" ? .whole : .chosen(eras: selection.eras, indices: selection.indices)
        return (
            try ExportWriter(of: source, note: note, choice: choice, progress: watch), interrupted.partial?.time ?? now
        )
    }

    private func write(
        _ writer: ExportWriter, into sink: any BagSink, at time: Timestamp, hasDocuments: Bool
    ) throws -> UInt64 {
        let head = writer.head
        var documents = AuditDocuments(
            DocumentSubject(
                origin: head.checkpoint.origin, scope: selection.name, run: selection.run?.text,
                dataset: selection.dataset?.text, size: head.size, root: head.root, made: time))
        var bundles: Set<String> = []
        var count: UInt64 = 0
        try writer.write(
            into: sink, scope: selection.name, run: selection.run?.text, dataset: selection.dataset?.text, at: time,
            hasDocuments: hasDocuments
        ) { entry, bag in
            count += 1
            let core = core(at: entry.index)
            guard DocumentRecord.isTold(entry.header, core: core) else { return }
            guard let core else {
                throw GatewayError(.integrity, "entry \(entry.index) has no case record; restore the database")
            }
            if let policy = core["policy"]?.stringValue { bundles.insert(policy) }
            guard hasDocuments else { return }
            let record = DocumentRecord(
                index: entry.index, time: entry.header.time, leafHash: entry.leafHash, core: core)
            try documents.add(record) { try bag.put("\(AuditExport.documentsFolder)/\($0)", $1) }
        } last: { bag in
            if hasDocuments {
                try documents.finish { try bag.put("\(AuditExport.documentsFolder)/\($0)", $1) }
            }
            for bundle in bundles.sorted() { try put(bundle, &bag) }
        }
        return count
    }

    /// The policy files that decided, byte for byte.
    private func put(_ bundle: String, _ bag: inout BagWriter) throws {
        let folder = policies.appendingPathComponent(bundle, isDirectory: true)
        let names = ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? [])
            .filter { $0.hasSuffix(".yaml") }.sorted()
        let files = try names.map {
            PolicyFile(name: $0, bytes: try GatewayFile.bytes(folder.appendingPathComponent($0), role: "policy file"))
        }
        guard SHA256.hash(PolicySet.manifest(of: files, hash: { SHA256.hash($0) }).canonical).hex == bundle else {
            throw GatewayError(.integrity, "the policy files \(bundle) are not the ones that decided; restore them")
        }
        for file in files { try bag.put("\(AuditExport.policiesFolder)/\(bundle)/\(file.name)", file.bytes) }
    }

    private func core(at index: UInt64) -> JSON? {
        var low = 0
        var high = records.count
        while low < high {
            let middle = (low + high) / 2
            if records[middle].index < index { low = middle + 1 } else { high = middle }
        }
        return low < records.count && records[low].index == index ? records[low].core : nil
    }
}
