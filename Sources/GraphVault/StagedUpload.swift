import Glibc
import Sealing
import Synchronization
import Vocabulary

/// A file that makes a version: on this machine, or come over a wire and staged.
package struct ImportFile: Sendable {
    enum Place: Sendable {
        case path(String)
        case staged(StagedUpload, StagedUpload.Part)
    }

    let place: Place

    package static func path(_ path: String) -> ImportFile { ImportFile(place: .path(path)) }
}

/// The files of one version as they come over a wire. What is kept of them on the disk is sealed under a key that only
/// this process has; it goes when the upload is let go, or when the vault is next opened.
package final class StagedUpload: Sendable {
    /// Which file; the raw value is its section's number.
    package enum Part: UInt32, CaseIterable, Sendable {
        case nodes = 1, edges, consent, features, featureRows, featureColumns, featureValues

        /// How an archive names it.
        package var fileName: String {
            switch self {
            case .nodes: "nodes.tsv"
            case .edges: "edges.tsv"
            case .consent: "consent.tsv"
            case .features: "features.npy"
            case .featureRows: "feature-rows.npy"
            case .featureColumns: "feature-columns.npy"
            case .featureValues: "feature-values.npy"
            }
        }
    }

    private struct State: ~Copyable {
        var writing: SectionWriter?
        var sections: [Part: SealedSection] = [:]
    }

    private let folder: Folder
    private let key = SecretBytes.random(count: 32)
    private let state = Mutex(State())
    private static let owner = SealedSection.Owner(
        keyInfo: "sekisho staged upload v1", domain: "sekisho-upload-v1", name: "upload")

    init(in folder: Folder) { self.folder = folder }

    deinit { try? folder.remove() }

    /// Takes all of one file in, in pieces of any size.
    package func begin(_ part: Part) throws {
        try state.withLock { state in
            precondition(state.writing == nil, "the file before has not ended")
            guard state.sections[part] == nil else { throw VaultError(.exists, "\(part.fileName) is there twice") }
            state.writing = try SectionWriter(folder: folder, number: part.rawValue, owner: Self.owner, key: key)
        }
    }

    package func append(_ bytes: ArraySlice<UInt8>) throws {
        try state.withLock { state in try bytes.withUnsafeBytes { try state.writing?.write($0) } }
    }

    package func end(_ part: Part) throws {
        try state.withLock { state in
            if let writer = state.writing.take() { state.sections[part] = try writer.finish() }
        }
    }

    /// What an import reads.
    ///
    /// - Parameter featureColumns: how many columns sparse features have, where the last ones may be empty.
    package func source(featureColumns count: Int?) throws(VaultError) -> ImportSource {
        let parts = state.withLock { Set($0.sections.keys) }
        func file(_ part: Part) throws(VaultError) -> ImportFile {
            guard parts.contains(part) else {
                throw VaultError(.unreadable, "\(part.fileName) is missing from what was sent")
            }
            return ImportFile(place: .staged(self, part))
        }
        let sparse: Set<Part> = [.featureRows, .featureColumns, .featureValues]
        let features: FeatureSource
        if parts.contains(.features) {
            guard parts.isDisjoint(with: sparse), count == nil else {
                throw VaultError(.unreadable, "features are sent dense or sparse, not both")
            }
            features = .dense(try file(.features))
        } else {
            features = .sparse(
                rowPointers: try file(.featureRows), columns: try file(.featureColumns),
                values: try file(.featureValues), columnCount: count)
        }
        return ImportSource(
            nodes: try file(.nodes), edges: try file(.edges), features: features,
            consent: parts.contains(.consent) ? try file(.consent) : nil)
    }

    func reader(of part: Part) throws(VaultError) -> SectionReader {
        guard let section = state.withLock({ $0.sections[part] }) else {
            throw VaultError(.storage, "a staged file is not there")
        }
        return try SectionReader(
            folder: folder, number: section.number, byteCount: section.byteCount, owner: Self.owner, key: key)
    }
}

extension Vault {
    package func stageUpload() throws -> StagedUpload { StagedUpload(in: try stagingFolder()) }
}
