import AuditTrail
package import Foundation
import GraphVault
package import Vocabulary

package struct DatasetSummary: Sendable {
    package let dataset: DatasetID
    package let version: VersionID
    package let root: Digest
    package let nodes: Int
    package let edges: Int
    package let features: Int
    package let persons: Int
}

/// Features of a data set as they lie in files: a dense matrix, or compressed sparse rows (SciPy's CSR) as three arrays.
package enum FeatureFiles: Sendable {
    /// `.npy`, float32 [nodes, features].
    case dense(URL)
    /// `.npy` each: row pointers [nodes + 1], column numbers and values. Without `count` the highest column decides.
    case sparse(rowPointers: URL, columns: URL, values: URL, count: Int?)

    fileprivate var source: FeatureSource {
        switch self {
        case .dense(let file): .dense(.path(file.path))
        case .sparse(let rowPointers, let columns, let values, let count):
            .sparse(
                rowPointers: .path(rowPointers.path), columns: .path(columns.path), values: .path(values.path),
                columnCount: count)
        }
    }
}

/// The files of one version as they come; sealed as they are written, and gone when the upload is let go.
package struct DatasetUpload: Sendable {
    fileprivate let staged: StagedUpload

    package func begin(_ part: UploadPart) throws { try telling { try staged.begin(part.part) } }
    package func append(_ bytes: ArraySlice<UInt8>) throws { try telling { try staged.append(bytes) } }
    package func end(_ part: UploadPart) throws { try telling { try staged.end(part.part) } }

    private func telling(_ body: () throws -> Void) throws {
        do { try body() } catch let error as VaultError { throw GatewayError(vault: error) }
    }
}

/// One of the files of a version, by the name that it has in an archive.
package struct UploadPart: Sendable {
    fileprivate let part: StagedUpload.Part
    package var fileName: String { part.fileName }

    /// `nil` for a name that no such file has.
    package init?(fileName: String) {
        guard let part = StagedUpload.Part.allCases.first(where: { $0.fileName == fileName }) else { return nil }
        self.part = part
    }

    /// All names, in the order in which the files are read.
    package static var fileNames: [String] { StagedUpload.Part.allCases.map(\.fileName) }
}

package struct SubjectUse: Sendable, Equatable {
    package let run: RunID
    package let used: Bool
}

extension Gateway {
    /// Seals a new version of a data set: all of it, or nothing. The version's root goes into the trail.
    package func importDataset(
        _ dataset: DatasetID, nodes: URL, edges: URL, features: FeatureFiles, consent: URL?, by actor: PersonID,
        progress: @escaping @Sendable ((name: String, done: Int, of: Int, words: String)) -> Void
    ) async throws -> DatasetSummary {
        try await importDataset(
            dataset,
            ImportSource(
                nodes: .path(nodes.path), edges: .path(edges.path), features: features.source,
                consent: consent.map { .path($0.path) }),
            by: actor, progress)
    }

    /// Where a service puts the files of a version as they come.
    package func stageUpload(by actor: PersonID) async throws -> DatasetUpload {
        try require(actor, anyOf: [.dataCustodian])
        do { return DatasetUpload(staged: try await vault.stageUpload()) } catch let error as VaultError {
            throw GatewayError(vault: error)
        }
    }

    /// The same, of files that were sent.
    ///
    /// - Parameter featureColumns: how many columns sparse features have, where the last ones may be empty.
    package func importDataset(
        _ dataset: DatasetID, _ upload: DatasetUpload, featureColumns: Int?, by actor: PersonID
    ) async throws -> DatasetSummary {
        let source: ImportSource
        do throws(VaultError) {
            source = try upload.staged.source(featureColumns: featureColumns)
        } catch { throw GatewayError(vault: error) }
        return try await importDataset(dataset, source, by: actor) { _ in }
    }

    private func importDataset(
        _ dataset: DatasetID, _ source: ImportSource, by actor: PersonID,
        _ progress: @escaping @Sendable ((name: String, done: Int, of: Int, words: String)) -> Void
    ) async throws -> DatasetSummary {
        try require(actor, anyOf: [.dataCustodian])
        let before = try await vault.versions().filter { $0.dataset == dataset }
        let version = try VersionID("v\(before.count + 1)")
        let steps = ImportStep.allCases
        let intent = Event(.datasetImported, .intent).with {
            $0.actor = actor
            $0.dataset = dataset
            $0.version = version
        }
        try ledger.record(intent, in: .gateway, key: ledger.freshKey("importing.\(dataset)"))
        let report: ImportReport
        do {
            report = try await vault.importVersion(source, dataset: dataset, version: version) { step in
                progress(("import", (steps.firstIndex(of: step) ?? 0) + 1, steps.count, "\(step)"))
            }
        } catch let error as VaultError {
            throw GatewayError(vault: error)
        }
        try ledger.record(
            Event(.datasetImported, .done).with {
                $0.actor = actor
                $0.dataset = dataset
                $0.version = version
                $0.root = report.root
                $0.detail = [
                    "persons": .integer(Int64(report.facts.subjects)),
                    "without_consent": .integer(Int64(report.subjectsUnrecorded + report.subjectsWithdrawn)),
                ]
            }, in: .gateway, key: "imported.\(dataset).\(version)")
        return try await datasets().first { $0.dataset == dataset && $0.version == version }!
    }

    /// Versions in the order they were imported. One whose import a crash kept from being recorded as done is not
    /// listed and used by no run; importing again makes a new version.
    package func datasets() async throws -> [DatasetSummary] {
        let entries = try await vault.versions()
        var found: [DatasetSummary] = []
        for record in ledger.records(of: .datasetImported) where record.outcome == .done {
            guard
                let entry = entries.first(where: {
                    $0.dataset.text == record.core["dataset"]?.stringValue
                        && $0.version.text == record.core["version"]?.stringValue && !$0.isDestroyed
                })
            else { continue }
            guard entry.root.hex == record.core["root"]?.stringValue else {
                throw GatewayError(
                    .integrity, "version \(entry.version) of \(entry.dataset) is not the one that the trail recorded")
            }
            found.append(
                DatasetSummary(
                    dataset: entry.dataset, version: entry.version, root: entry.root, nodes: entry.nodes,
                    edges: entry.edges, features: entry.features,
                    persons: Int(record.detail["persons"]?.integerValue ?? 0)))
        }
        return found
    }

    /// Records what a subject says now; it holds from the next run image on. The trail does not name the subject.
    package func setConsent(subject: String, dataset: DatasetID, state: String, by actor: PersonID) async throws {
        try require(actor, anyOf: [.dataCustodian])
        let states: [String: Consent.State] = ["given": .given, "withdrawn": .withdrawn]
        guard let newState = states[state] else { throw GatewayError(.usage, "a consent is given or withdrawn") }
        let id = try subjectID(subject)
        let about = section(about: id, ["subject": .string(subject), "consent": .string(state)])
        let event = { (outcome: AuditOutcome) in
            Event(.consentChanged, outcome).with {
                $0.actor = actor
                $0.dataset = dataset
                $0.detail = ["state": .string(state)]
                $0.sections = [about]
                $0.payload = ["subject": .string(about.pseudonym.hex)]
            }
        }
        do {
            let before = try await vault.consent(of: id, in: dataset)
            try ledger.record(event(.intent), in: .gateway, key: ledger.freshKey("consent"))
            try await vault.setConsent(Consent(state: newState, codes: before.codes), of: id, in: dataset)
        } catch let error as VaultError {
            throw GatewayError(vault: error)
        }
        try ledger.record(event(.done), in: .gateway, key: ledger.freshKey("consent"))
    }

    /// The runs of a data set, and whether a subject was in each one's image.
    package func subjectHistory(_ subject: String, dataset: DatasetID, by actor: PersonID) async throws -> [SubjectUse]
    {
        try require(actor, anyOf: [.complianceOfficer, .dataCustodian])
        let id = try subjectID(subject)
        do {
            _ = try await vault.consent(of: id, in: dataset)
            let used = Set(try await vault.runs(using: id, of: dataset))
            try ledger.record(
                Event(.trailRead, .done).with {
                    $0.actor = actor
                    $0.dataset = dataset
                    $0.detail = ["read": "subject-history"]
                    $0.payload = ["subject": .string(pseudonym(of: id).hex)]
                }, in: .gateway, key: ledger.freshKey("read"))
            return try runs().filter { $0.dataset == dataset && $0.file[RunCase.Key.opened]?.outcome == .done }
                .map { SubjectUse(run: $0.id, used: used.contains($0.id)) }
        } catch let error as VaultError {
            throw GatewayError(vault: error)
        }
    }

    private func subjectID(_ text: String) throws -> SubjectID {
        do throws(IdentifierError) { return try SubjectID(text) } catch {
            throw GatewayError(.usage, "\(error)")
        }
    }
}

extension GatewayError {
    /// The vault's own words are public already.
    init(vault error: VaultError) {
        let code: Code =
            switch error.code {
            case .unknownDataset, .unknownVersion, .unknownSubject, .unknownColumn, .unknownRun, .unknownCandidate,
                .notAVault:
                .notFound
            case .wrongKey, .tampered, .truncated, .destroyed: .integrity
            case .receiptRefused, .emptyCohort: .refused
            case .storage, .cancelled: .unavailable
            case .inUse: .busy
            default: .usage
            }
        self.init(code, error.publicDescription)
    }
}
