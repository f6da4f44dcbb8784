import FoundationEssentials
import GRDB
import Glibc
package import Sealing
package import Vocabulary

/// The sealed store of graph data sets, on the enclave host.
///
/// Keys form a tree: the root key, opened by a passphrase or key file, wraps data set keys, these wrap version keys, and
/// from a version key every section's key is derived for the moment it is used. Version, run and candidate keys are
/// random: erasing one erases what it sealed. The catalogue (SQLite) holds names, wrapped keys and sealed rows; the bulk
/// lies in plain files beside it.
///
/// One folder, one process: a lock refuses a second opener.
package actor Vault {
    /// Something that a crash had left behind, put right when the vault was opened.
    package enum Finding: Sendable, Equatable {
        /// An import, image or candidate that was never finished; its files are gone now.
        case unfinishedWorkRemoved
        /// Files of a version that the catalogue does not know.
        case unknownVersionRemoved(DatasetID, VersionID)
        case unknownImageRemoved(RunID)
        case unknownCandidateRemoved(RunID)
        /// The catalogue knows a version whose files are not there. Nothing was changed.
        case versionMissing(DatasetID, VersionID)
    }

    package nonisolated let findings: [Finding]

    let catalogue: Catalogue
    let folder: Folder
    let rootKey: SecretBytes
    // Seals rows of the catalogue that belong to no data set.
    let catalogueKey: SecretBytes
    private let lock: FolderLock

    private init(folder: Folder, rootKey: consuming SecretBytes, lock: consuming FolderLock) throws {
        let catalogue = try Catalogue(path: folder.path(of: "catalogue.sqlite"))
        catalogueKey = KeyDerivation.hkdf(rootKey, info: "sekisho vault catalogue v1")
        findings = try Self.putRight(folder, catalogue)
        self.rootKey = rootKey
        self.lock = lock
        self.folder = folder
        self.catalogue = catalogue
    }

    /// Makes a new vault in the folder `path`, which holds none yet.
    package static func create(
        at path: String, unsealing: borrowing Unsealing, cost: PassphraseCost = .standard
    ) throws -> Vault {
        let folder = Folder(path: path)
        try folder.create()
        let lock = try FolderLock(folder)
        guard !folder.contains(KeyHeader.fileName) else { throw VaultError(.exists, "there is a vault already") }
        let root = try KeyHeader.create(in: folder, unsealing: unsealing, cost: cost)
        return try Vault(folder: folder, rootKey: root, lock: lock)
    }

    package static func open(at path: String, unsealing: borrowing Unsealing) throws -> Vault {
        let folder = Folder(path: path)
        guard folder.contains(KeyHeader.fileName) else {
            throw VaultError(.notAVault, "there is no vault in this folder")
        }
        let lock = try FolderLock(folder)
        let root = try KeyHeader.open(in: folder, unsealing: unsealing)
        return try Vault(folder: folder, rootKey: root, lock: lock)
    }

    /// A key of its own for each `purpose` outside the vault, such as sealing the gateway's records.
    package func derivedKey(_ purpose: String) -> SecretBytes {
        KeyDerivation.hkdf(rootKey, info: "sekisho vault export v1", context: Array(purpose.utf8))
    }

    // MARK: - What is in it

    package struct VersionEntry: Sendable, Equatable {
        package let dataset: DatasetID
        package let version: VersionID
        /// SHA-256 of the version's manifest, which the trail records.
        package let root: Digest
        package let nodes: Int
        package let edges: Int
        package let features: Int
        /// Its key is erased: nobody can open it any more.
        package let isDestroyed: Bool
    }

    package func versions() throws -> [VersionEntry] {
        try catalogue.read { database in
            try Row.fetchAll(database, sql: "SELECT manifest, key IS NULL AS gone FROM version ORDER BY dataset, id")
                .map {
                    let bytes: Data = $0["manifest"]
                    let manifest = try VersionManifest(parsing: Array(bytes))
                    return VersionEntry(
                        dataset: manifest.dataset, version: manifest.version, root: manifest.root,
                        nodes: manifest.nodes,
                        edges: manifest.edges, features: manifest.features, isDestroyed: $0["gone"])
                }
        }
    }

    package func facts(_ dataset: DatasetID, _ version: VersionID) throws -> VersionFacts {
        try stored(dataset, version).facts()
    }

    /// Reads every block of a version, so that any change on disk is found.
    package func check(_ dataset: DatasetID, _ version: VersionID) throws {
        let stored = try stored(dataset, version)
        let space = UnsafeMutableRawBufferPointer.allocate(byteCount: Limits.blockBytes, alignment: 64)
        defer { space.deallocate() }
        for section in stored.manifest.sections {
            var reader = try stored.reader(section)
            for offset in stride(from: 0, to: section.byteCount, by: space.count) {
                let count = min(space.count, section.byteCount - offset)
                try reader.read(into: UnsafeMutableRawBufferPointer(rebasing: space[0..<count]))
            }
        }
    }

    /// Erases a version's key, and with it the version, for good.
    package func destroyVersion(_ dataset: DatasetID, _ version: VersionID) throws {
        try catalogue.write { database in
            try database.execute(
                sql: "UPDATE version SET key = NULL WHERE dataset = ? AND id = ?",
                arguments: [dataset.text, version.text])
            guard database.changesCount == 1 else { throw VaultError(.unknownVersion, "there is no such version") }
        }
        let files = Self.versionFolder(folder, dataset, version)
        if files.exists { try files.remove() }
    }

    // MARK: - Keys and files of one version

    func datasetKey(_ dataset: DatasetID) throws -> SecretBytes {
        let wrapped = try catalogue.read {
            try Data.fetchOne($0, sql: "SELECT key FROM dataset WHERE id = ?", arguments: [dataset.text])
        }
        guard let wrapped else { throw VaultError(.unknownDataset, "there is no such data set") }
        return try KeyPurpose.dataset(dataset).unwrap(Array(wrapped), under: rootKey)
    }

    func manifest(_ dataset: DatasetID, _ version: VersionID) throws -> VersionManifest {
        let bytes = try catalogue.read {
            try Data.fetchOne(
                $0, sql: "SELECT manifest FROM version WHERE dataset = ? AND id = ?",
                arguments: [dataset.text, version.text])
        }
        guard let bytes else { throw VaultError(.unknownVersion, "there is no such version") }
        let manifest = try VersionManifest(parsing: Array(bytes))
        guard manifest.dataset == dataset, manifest.version == version else {
            throw VaultError(.tampered, "a manifest stands in another version's place")
        }
        return manifest
    }

    func stored(_ dataset: DatasetID, _ version: VersionID) throws -> StoredVersion {
        let manifest = try manifest(dataset, version)
        let wrapped = try catalogue.read {
            try Data.fetchOne(
                $0, sql: "SELECT key FROM version WHERE dataset = ? AND id = ?",
                arguments: [dataset.text, version.text])
        }
        guard let wrapped else { throw VaultError(.destroyed, "the version's key is erased") }
        let key = try KeyPurpose.version(version, dataset).unwrap(Array(wrapped), under: datasetKey(dataset))
        guard KeyDerivation.commitment(key) == manifest.keyID else {
            throw VaultError(.tampered, "the version's key is not the one that its manifest names")
        }
        return StoredVersion(manifest: manifest, key: key, folder: Self.versionFolder(folder, dataset, version))
    }

    static func versionFolder(_ vault: Folder, _ dataset: DatasetID, _ version: VersionID) -> Folder {
        vault.folder("datasets").folder(dataset.text).folder(version.text)
    }

    static func imageFolder(_ vault: Folder, _ run: RunID) -> Folder { vault.folder("runs").folder(run.text) }

    static func candidateFolder(_ vault: Folder, _ run: RunID) -> Folder { vault.folder("candidates").folder(run.text) }

    /// A folder for work that is moved to its place when it is done, or found and removed after a crash.
    func stagingFolder() throws -> Folder {
        let staging = folder.folder("staging").folder(Hex.encode(RandomBytes.array(8)))
        try staging.create()
        return staging
    }

    // MARK: - After a crash

    private static func putRight(_ vault: Folder, _ catalogue: Catalogue) throws -> [Finding] {
        var findings: [Finding] = []
        for name in try names(vault.folder("staging")) {
            try vault.folder("staging").folder(name).remove()
            findings.append(.unfinishedWorkRemoved)
        }

        let known = try catalogue.read {
            try Row.fetchAll($0, sql: "SELECT dataset, id FROM version WHERE key IS NOT NULL")
                .map { (try DatasetID($0["dataset"]), try VersionID($0["id"])) }
        }
        let datasets = vault.folder("datasets")
        for dataset in try names(datasets) {
            for version in try names(datasets.folder(dataset)) {
                guard !known.contains(where: { $0.0.text == dataset && $0.1.text == version }),
                    let dataset = try? DatasetID(dataset), let version = try? VersionID(version)
                else { continue }
                try versionFolder(vault, dataset, version).remove()
                findings.append(.unknownVersionRemoved(dataset, version))
            }
        }
        for (dataset, version) in known where !versionFolder(vault, dataset, version).exists {
            findings.append(.versionMissing(dataset, version))
        }

        let images = try ids(in: catalogue, "SELECT id FROM run WHERE key IS NOT NULL")
        for name in try names(vault.folder("runs")) where !images.contains(name) {
            guard let run = try? RunID(name) else { continue }
            try imageFolder(vault, run).remove()
            findings.append(.unknownImageRemoved(run))
        }
        let candidates = try ids(in: catalogue, "SELECT run FROM candidate WHERE key IS NOT NULL")
        for name in try names(vault.folder("candidates")) where !candidates.contains(name) {
            guard let run = try? RunID(name) else { continue }
            try candidateFolder(vault, run).remove()
            findings.append(.unknownCandidateRemoved(run))
        }
        return findings
    }

    private static func names(_ folder: Folder) throws -> [String] { folder.exists ? try folder.names() : [] }

    private static func ids(in catalogue: Catalogue, _ query: String) throws -> Set<String> {
        try catalogue.read { Set(try String.fetchAll($0, sql: query)) }
    }
}

/// A version that is open for reading.
struct StoredVersion: ~Copyable {
    let manifest: VersionManifest
    let key: SecretBytes
    let folder: Folder

    func reader(_ part: VersionSection) throws(VaultError) -> SectionReader { try reader(manifest.section(part)) }

    func reader(_ section: SealedSection) throws(VaultError) -> SectionReader {
        try SectionReader(
            folder: folder, number: section.number, byteCount: section.byteCount,
            owner: .version(manifest.version, of: manifest.dataset), key: key)
    }

    func all<Element: BitwiseCopyable>(_ part: VersionSection, of type: Element.Type) throws -> [Element] {
        var reader = try reader(part)
        return try reader.readAll(of: type)
    }

    func facts() throws -> VersionFacts {
        let text = try all(.facts, of: UInt8.self)
        guard let json = try? JSON(parsing: text) else {
            throw VaultError(.tampered, "a version's facts are not readable")
        }
        return try VersionFacts(json: json)
    }

    /// The subject ids, by number.
    func subjects() throws -> [SubjectID] {
        try all(.subjects, of: UInt8.self).split(separator: 0x0A).map {
            try SubjectID(String(decoding: $0, as: UTF8.self))
        }
    }
}

/// Holds a folder against other processes for as long as it lives.
private struct FolderLock: ~Copyable, Sendable {
    private let descriptor: Int32

    init(_ folder: Folder) throws(VaultError) {
        descriptor = Glibc.open(folder.path(of: "vault.lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw VaultError(.storage, "the vault's lock cannot be made (\(reason(errno)))") }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            throw VaultError(.inUse, "another process holds this vault")
        }
    }

    deinit {
        guard descriptor >= 0 else { return }
        // By name, not by closing: a child that is just being started has the same open file until its `exec`.
        flock(descriptor, LOCK_UN)
        close(descriptor)
    }
}
