import FoundationEssentials
import GRDB
import Sealing
package import Vocabulary

/// The files that make one version of a data set.
package struct ImportSource: Sendable {
    /// KGX categories whose nodes are people unless told otherwise.
    package static let defaultPersonCategories: Set<String> = [
        "biolink:IndividualOrganism", "biolink:Case", "biolink:Human",
    ]

    package let nodes: ImportFile
    package let edges: ImportFile
    package let features: FeatureSource
    package let consent: ImportFile?
    package let personCategories: Set<String>

    package init(
        nodes: ImportFile, edges: ImportFile, features: FeatureSource = .none, consent: ImportFile? = nil,
        personCategories: Set<String> = defaultPersonCategories
    ) {
        self.nodes = nodes
        self.edges = edges
        self.features = features
        self.consent = consent
        self.personCategories = personCategories
    }
}

/// What an import has just done. After `placed` only the catalogue's transaction is left; until that is through, the
/// vault is as it was.
package enum ImportStep: Sendable, CaseIterable {
    case nodesRead, consentRead, edgesRead, topologySealed, featuresSealed, durable, placed
}

package struct ImportReport: Sendable, Equatable {
    package let root: Digest
    package let facts: VersionFacts
    /// People without a consent record; they are in no run image.
    package let subjectsUnrecorded: Int
    package let subjectsWithdrawn: Int
    /// People whom the file lists as given, but who have withdrawn before: the withdrawal stays.
    package let withdrawalsKept: Int
}

extension Vault {
    /// Reads, checks, seals and records a new version: all of it, or nothing.
    ///
    /// `progress` is called after each step; what it throws cancels the import. Memory grows with the number of nodes
    /// (their ids) and edges (20 bytes each), not with features or text.
    package func importVersion(
        _ source: ImportSource, dataset: DatasetID, version: VersionID,
        progress: @Sendable (ImportStep) throws -> Void = { _ in }
    ) throws -> ImportReport {
        let isThere = try catalogue.read {
            try Row.fetchOne(
                $0, sql: "SELECT 1 FROM version WHERE dataset = ? AND id = ?", arguments: [dataset.text, version.text])
                != nil
        }
        guard !isThere else { throw VaultError(.exists, "this version is there already; a version never changes") }

        var nodes = try NodeFile(source.nodes, personCategories: source.personCategories)
        try progress(.nodesRead)
        let consents = try source.consent.map { try ConsentFile($0, nodes: &nodes).consents } ?? []
        try progress(.consentRead)
        let edges = try EdgeFile(source.edges, nodes: nodes.ids)
        try progress(.edgesRead)

        let staging = try stagingFolder()
        do {
            let key = SecretBytes.random(count: 32)
            let (manifest, facts) = try Self.seal(
                nodes, edges, source.features, dataset, version, key: key, in: staging, progress)
            try DurableFile.write(manifest.canonical, as: "manifest.json", in: staging)
            try staging.sync()
            try progress(.durable)
            let place = Self.versionFolder(folder, dataset, version)
            try staging.move(to: place)
            do {
                try progress(.placed)
                return try record(manifest, facts, key: key, nodes, consents)
            } catch {
                try place.remove()
                throw error
            }
        } catch {
            if staging.exists { try staging.remove() }
            throw error
        }
    }

    /// One transaction: the data set if it is new, the version, and the consents.
    private func record(
        _ manifest: VersionManifest, _ facts: VersionFacts, key: borrowing SecretBytes, _ nodes: NodeFile,
        _ consents: [Consent?]
    ) throws -> ImportReport {
        let isNew = try catalogue.read {
            try Row.fetchOne($0, sql: "SELECT 1 FROM dataset WHERE id = ?", arguments: [manifest.dataset.text]) == nil
        }
        let parent = isNew ? SecretBytes.random(count: 32) : try datasetKey(manifest.dataset)
        let wrapped = KeyPurpose.version(manifest.version, manifest.dataset).wrap(key, under: parent)
        let register = ConsentRegister(dataset: manifest.dataset, datasetKey: parent)
        let wrappedParent = KeyPurpose.dataset(manifest.dataset).wrap(parent, under: rootKey)
        var counts = (unrecorded: 0, withdrawn: 0, kept: 0)
        try catalogue.write { database in
            if isNew {
                try database.execute(
                    sql: "INSERT INTO dataset (id, key) VALUES (?, ?)",
                    arguments: [manifest.dataset.text, Data(wrappedParent)])
            }
            try database.execute(
                sql: "INSERT INTO version (dataset, id, manifest, key) VALUES (?, ?, ?, ?)",
                arguments: [
                    manifest.dataset.text, manifest.version.text, Data(manifest.canonical), Data(wrapped),
                ])
            for number in 0..<nodes.subjects.count {
                let pseudonym = register.pseudonym(of: nodes.subjects.text(number))
                let before = try register.consent(of: pseudonym, in: database)
                let told = number < consents.count ? consents[number] : nil
                // A file is older than what a subject has told us: it can withdraw, but not give again.
                var now = told ?? before ?? Consent(state: .unrecorded)
                if let before, before.state == .withdrawn {
                    if now.state == .given { counts.kept += 1 }
                    now = before
                }
                if now != before { try register.store(now, for: pseudonym, in: database) }
                counts.unrecorded += now.state == .unrecorded ? 1 : 0
                counts.withdrawn += now.state == .withdrawn ? 1 : 0
            }
        }
        return ImportReport(
            root: manifest.root, facts: facts, subjectsUnrecorded: counts.unrecorded,
            subjectsWithdrawn: counts.withdrawn, withdrawalsKept: counts.kept)
    }

    private static func seal(
        _ nodes: NodeFile, _ edges: EdgeFile, _ source: FeatureSource, _ dataset: DatasetID, _ version: VersionID,
        key: borrowing SecretBytes, in folder: Folder, _ progress: (ImportStep) throws -> Void
    ) throws -> (VersionManifest, VersionFacts) {
        let owner = SealedSection.Owner.version(version, of: dataset)
        var sections: [SealedSection] = []

        func section(_ part: VersionSection, _ body: (inout SectionWriter) throws -> Void) throws {
            var writer = try SectionWriter(folder: folder, number: part.rawValue, owner: owner, key: key)
            try body(&writer)
            sections.append(try writer.finish())
        }

        try section(.identifiers) { try $0.write(nodes.ids) }
        try section(.categories) { try $0.write(nodes.categoryOfRow) }
        let (bySource, predicates, byTarget) = edges.adjacency(nodes: nodes.count)
        try section(.sourcePointers) { try $0.write(bySource.pointers) }
        try section(.sourceColumns) { try $0.write(bySource.columns) }
        try section(.sourcePredicates) { try $0.write(predicates) }
        try section(.targetPointers) { try $0.write(byTarget.pointers) }
        try section(.targetColumns) { try $0.write(byTarget.columns) }
        try progress(.topologySealed)

        var features = 0
        try section(.features) { writer in
            features = try readFeatures(source, nodes: nodes.count) { try writer.write($0) }
        }
        try progress(.featuresSealed)

        try section(.labels) { writer in
            for column in nodes.labels { try writer.write(column.classes) }
        }
        if !nodes.labelSets.isEmpty {
            try section(.labelSetPointers) { writer in
                var base: UInt64 = 0
                try writer.write([base])
                for column in nodes.labelSets {
                    try writer.write(column.pointers.dropFirst().map { base + $0 })
                    base += UInt64(column.classes.count)
                }
            }
            try section(.labelSetClasses) { writer in
                for column in nodes.labelSets { try writer.write(column.classes) }
            }
        }
        if !nodes.targets.isEmpty {
            try section(.targets) { writer in
                for column in nodes.targets { try writer.write(column.values) }
            }
        }
        try section(.split) { try $0.write(nodes.split) }
        try section(.subjects) { try $0.write(nodes.subjects) }
        try section(.subjectOfRow) { try $0.write(nodes.subjectOfRow) }
        let facts = VersionFacts(nodes, edges, features: features)
        let text = facts.json.canonical
        guard text.count <= Limits.jsonBytesMax else {
            throw VaultError(.tooMany, in: .nodes, at: .whole, "too many categories, predicates and classes in all")
        }
        try section(.facts) { try $0.write(text) }

        let manifest = VersionManifest(
            dataset: dataset, version: version, nodes: nodes.count, edges: edges.count, features: features,
            keyID: KeyDerivation.commitment(key), sections: sections)
        return (manifest, facts)
    }
}

extension SectionWriter {
    /// All texts of a table, each with a line feed.
    fileprivate mutating func write(_ table: IdentifierTable) throws {
        var text: [UInt8] = []
        for number in 0..<table.count {
            text += table.bytes[table.ends[number]..<table.ends[number + 1]]
            text.append(0x0A)
            if text.count >= 1 << 20 {
                try write(text)
                text.removeAll(keepingCapacity: true)
            }
        }
        try write(text)
    }
}

extension VersionFacts {
    fileprivate init(_ nodes: NodeFile, _ edges: EdgeFile, features: Int) {
        func counted(_ table: IdentifierTable, _ codes: [UInt16]) -> [Count] {
            var counts = [Int](repeating: 0, count: table.count)
            for code in codes { counts[Int(code)] += 1 }
            return counts.indices.map { Count(name: table.text($0), count: counts[$0]) }
        }
        var split = [Int](repeating: 0, count: Split.allCases.count)
        for value in nodes.split { split[Int(value)] += 1 }
        self.init(
            nodes: nodes.count, edges: edges.count, features: features, subjects: nodes.subjects.count,
            categories: counted(nodes.categories, nodes.categoryOfRow),
            predicates: counted(edges.predicates, edges.predicateOfEdge),
            labels: nodes.labels.map { column in
                var counts = [Int](repeating: 0, count: column.classNames.count)
                for label in column.classes where label >= 0 { counts[Int(label)] += 1 }
                return LabelColumn(
                    name: column.name, classNames: column.classNames.map { $0 ?? "" }, classCounts: counts)
            },
            labelSets: nodes.labelSets.map { column in
                var counts = [Int](repeating: 0, count: column.classNames.count)
                for label in column.classes where label != NodeFile.LabelSetColumn.unknown { counts[Int(label)] += 1 }
                return LabelColumn(
                    name: column.name, classNames: column.classNames.map { $0 ?? "" }, classCounts: counts)
            },
            targets: nodes.targets.map { Count(name: $0.name, count: $0.values.count { !$0.isNaN }) }, split: split)
    }
}
