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
        case .dense(let file): .dense(path: file.path)
        case .sparse(let rowPointers, let columns, let values, let count):
            .sparse(
                rowPointers: rowPointers.path, columns: columns.path, values: values.path, columnCount: count)
        }
    }
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
            report = try await vault.importVersion(
                ImportSource(
                    nodes: nodes.path, edges: edges.path, features: features.source, consent: consent?.path),
                dataset: dataset, version: version
            ) { step in
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
