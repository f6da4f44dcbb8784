import FoundationEssentials
import GRDB
package import Sealing
package import TransparencyLog
package import Vocabulary

/// What one run may see, sealed under the run's own key: the cohort's rows, edges, features and labels.
///
/// Its bytes go to the device as they lie in the files; the gateway never needs the key.
package final class RunImage: Sendable {
    package let run: RunID
    package let dataset: DatasetID
    package let version: VersionID
    /// The version's root.
    package let root: Digest
    /// Commits to the run key.
    package let keyID: Digest
    package let shape: ImageShape
    /// People in the image.
    package let subjects: Int
    package let cohortHash: Digest
    /// SHA-256 of the image's manifest, which holds the hash of every sealed section.
    package let hash: Digest

    private let files: [(section: ImageSection, file: SealedFile)]

    fileprivate init(_ manifest: ImageManifest, folder: Folder) throws(VaultError) {
        run = manifest.run
        dataset = manifest.dataset
        version = manifest.version
        root = manifest.root
        keyID = manifest.keyID
        shape = manifest.shape
        subjects = manifest.subjects
        cohortHash = manifest.cohortHash
        hash = manifest.hash
        var files: [(ImageSection, SealedFile)] = []
        for stored in manifest.sections {
            guard let section = ImageSection(rawValue: stored.number), shape.byteCount(section) == stored.byteCount
            else {
                throw VaultError(.tampered, "an image's section does not fit its shape")
            }
            files.append((section, try SealedFile(stored, in: folder)))
        }
        self.files = files
    }

    package func sealedByteCount(_ section: ImageSection) throws(VaultError) -> Int { try file(section).byteCount }

    /// Fills `buffer` with sealed bytes from `offset` on. From any thread.
    package func readSealed(
        _ section: ImageSection, offset: Int, into buffer: UnsafeMutableRawBufferPointer
    ) throws(VaultError) {
        let file = try file(section)
        guard offset >= 0, buffer.count <= file.byteCount, offset <= file.byteCount - buffer.count else {
            throw VaultError(.truncated, "a section is not as long as that")
        }
        try file.file.read(at: offset, into: buffer)
    }

    private func file(_ section: ImageSection) throws(VaultError) -> SealedFile {
        guard let entry = files.first(where: { $0.section == section }) else {
            throw VaultError(.unknownColumn, "the image has no such section")
        }
        return entry.file
    }

    /// The section files as they were sealed: one that was changed since is found here, before any device reads it.
    fileprivate func check(_ manifest: ImageManifest) throws {
        let space = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 64)
        defer { space.deallocate() }
        for stored in manifest.sections {
            guard let section = ImageSection(rawValue: stored.number) else { continue }
            var hash = SHA256Stream()
            for offset in stride(from: 0, to: stored.sealedByteCount, by: space.count) {
                let part = UnsafeMutableRawBufferPointer(
                    rebasing: space[0..<min(space.count, stored.sealedByteCount - offset)])
                try readSealed(section, offset: offset, into: part)
                hash.update(UnsafeRawBufferPointer(part))
            }
            guard hash.finalize() == stored.hash else {
                throw VaultError(.tampered, "a section of the image is not what was sealed")
            }
        }
    }
}

/// An open section file; a class, because a list cannot hold what has only one owner.
private final class SealedFile: Sendable {
    let file: StoredFile
    var byteCount: Int { file.byteCount }

    init(_ section: SealedSection, in folder: Folder) throws(VaultError) {
        file = try StoredFile(
            SealedSection.fileName(section.number), in: folder, byteCount: section.sealedByteCount)
    }
}

extension Vault {
    /// Builds the image of a run, or gives it again: after a crash the finished image is the same one.
    ///
    /// `receipt` must prove the decision to permit this run on this version. `permits` looks at consents that are
    /// given, as in `cohort`.
    package func openRunImage(
        run: RunID, dataset: DatasetID, version: VersionID, recipe: ImageRecipe, receipt: Receipt, trail: TrailIdentity,
        permits: @Sendable (Consent) -> Bool = { _ in true }
    ) throws -> RunImage {
        let root = try manifest(dataset, version).root
        try check(receipt, by: trail, .runPermitted(run, dataset, version, root: root))
        let place = Self.imageFolder(folder, run)
        if let manifest = try imageManifest(run) {
            guard manifest.dataset == dataset, manifest.version == version, manifest.shape.recipe == recipe else {
                throw VaultError(.exists, "this run has an image of other data or after another recipe")
            }
            let image = try RunImage(manifest, folder: place)
            try image.check(manifest)
            return image
        }

        let stored = try stored(dataset, version)
        let cohort = try cohort(stored, permits: permits)
        guard cohort.nodes > 0 else { throw VaultError(.emptyCohort, "nobody's consent permits this run") }
        let staging = try stagingFolder()
        do {
            let key = SecretBytes.random(count: 32)
            let (shape, sections) = try stored.sealImage(of: cohort, recipe, run: run, key: key, in: staging)
            let manifest = ImageManifest(
                run: run, dataset: dataset, version: version, root: root, keyID: KeyDerivation.commitment(key),
                shape: shape, subjects: cohort.subjects, cohortHash: cohort.hash, sections: sections)
            if place.exists { try place.remove() }
            try staging.move(to: place)
            let image = try RunImage(manifest, folder: place)
            try record(manifest, members: cohort.members, key: key)
            return image
        } catch {
            if staging.exists { try staging.remove() }
            throw error
        }
    }

    /// The image again, for a gateway that goes on with a run after a restart.
    package func runImage(_ run: RunID) throws -> RunImage {
        guard let manifest = try imageManifest(run) else { throw VaultError(.unknownRun, "this run has no image") }
        let image = try RunImage(manifest, folder: Self.imageFolder(folder, run))
        try image.check(manifest)
        return image
    }

    /// The run key, wrapped so that only the attested device can open it.
    ///
    /// `receipt` must prove the intent to lease a device for this run, with the device's wrapping key in
    /// `detail.wrappingKey` (hexadecimal): a key goes to nobody whom the trail does not name.
    package func releaseRunKey(
        run: RunID, receipt: Receipt, trail: TrailIdentity, to device: PublicWrappingKey
    ) throws -> [UInt8] {
        try check(receipt, by: trail, .deviceLeased(run, to: Hex.encode(device.bytes)))
        return device.wrap(try runKey(run))
    }

    /// Lends the run key inside the enclave, to open what the leased device sealed for it.
    ///
    /// `receipt` must prove the intent to lease a device for this run.
    package func withRunKey<Value: Sendable>(
        run: RunID, receipt: Receipt, trail: TrailIdentity, _ body: @Sendable (borrowing SecretBytes) throws -> Value
    ) throws -> Value {
        try check(receipt, by: trail, .deviceLeased(run, to: nil))
        return try body(runKey(run))
    }

    func runKey(_ run: RunID) throws -> SecretBytes {
        guard let manifest = try imageManifest(run) else { throw VaultError(.unknownRun, "this run has no image") }
        let wrapped = try catalogue.read {
            try Data.fetchOne($0, sql: "SELECT key FROM run WHERE id = ?", arguments: [run.text])
        }
        guard let wrapped else { throw VaultError(.destroyed, "the run's key is erased") }
        let key = try KeyPurpose.run(run).unwrap(Array(wrapped), under: catalogueKey)
        guard KeyDerivation.commitment(key) == manifest.keyID else {
            throw VaultError(.tampered, "the run's key is not the one that its image names")
        }
        return key
    }

    /// Erases a run's key and image. Who was in it stays recorded. Nothing happens where there is none.
    package func destroyRun(_ run: RunID) throws {
        try catalogue.write { try $0.execute(sql: "UPDATE run SET key = NULL WHERE id = ?", arguments: [run.text]) }
        let place = Self.imageFolder(folder, run)
        if place.exists { try place.remove() }
    }

    func imageManifest(_ run: RunID) throws -> ImageManifest? {
        let row = try catalogue.read {
            try Row.fetchOne(
                $0, sql: "SELECT manifest, key IS NULL AS gone FROM run WHERE id = ?", arguments: [run.text])
        }
        guard let row else { return nil }
        guard !(row["gone"] as Bool) else { throw VaultError(.destroyed, "the run's image is destroyed") }
        let sealed: Data = row["manifest"]
        let manifest = try ImageManifest(
            parsing: KeyPurpose.imageManifest(run).open(Array(sealed), under: catalogueKey))
        guard manifest.run == run else { throw VaultError(.tampered, "an image stands in another run's place") }
        return manifest
    }

    private func record(_ manifest: ImageManifest, members: [UInt8], key: borrowing SecretBytes) throws {
        let run = manifest.run
        let register = ConsentRegister(dataset: manifest.dataset, datasetKey: try datasetKey(manifest.dataset))
        let arguments: StatementArguments = [
            run.text, manifest.dataset.text,
            Data(KeyPurpose.imageManifest(run).seal(manifest.canonical, under: catalogueKey)),
            Data(register.sealMembers(members, of: run)), Data(KeyPurpose.run(run).wrap(key, under: catalogueKey)),
        ]
        try catalogue.write {
            try $0.execute(
                sql: "INSERT INTO run (id, dataset, manifest, members, key) VALUES (?, ?, ?, ?, ?)",
                arguments: arguments)
        }
    }
}

extension StoredVersion {
    /// Builds every section that the recipe asks for and seals it under the run key.
    fileprivate func sealImage(
        of cohort: Cohort, _ recipe: ImageRecipe, run: RunID, key: borrowing SecretBytes, in folder: Folder
    ) throws -> (ImageShape, [SealedSection]) {
        let facts = try facts()
        guard facts.features > 0 else { throw VaultError(.noFeatures, "the version has no features") }
        let rows = cohort.isIn
        let targets = try targets(facts, recipe, of: rows)
        guard targets.classes > 0 else { throw VaultError(.noLabels, "no node has what is to be predicted") }
        let topology = try topology(facts, recipe, of: rows)
        guard !topology.columns.isEmpty else {
            throw VaultError(.noEdges, "the cohort's graph has no edge, and this kind of model has no self loops")
        }
        let scale = topology.scale(recipe.aggregation)
        let shape = ImageShape(
            nodes: cohort.nodes, edges: topology.columns.count, features: facts.features, classes: targets.classes,
            labelled: targets.labelled, trainingByClass: targets.trainingByClass, tileEdges: topology.tileEdges,
            relations: topology.relations, recipe: recipe)

        let owner = SealedSection.Owner.image(of: run)
        var sections: [SealedSection] = []
        for section in recipe.sections {
            var writer = try SectionWriter(folder: folder, number: section.rawValue, owner: owner, key: key)
            switch section {
            case .rowPointers: try writer.write(topology.rowPointers)
            case .columns: try writer.write(topology.columns)
            case .features: try eachRow(of: rows, shape) { try writer.write($0) }
            case .aggregate: try write(aggregateOf: rows, shape, topology, scale, to: &writer)
            case .scale: try writer.write(scale)
            case .labels, .labelSets, .targets: try writer.write(targets.bytes)
            case .split: try writer.write(targets.split)
            }
            sections.append(try writer.finish())
        }
        return (shape, sections)
    }

    private func topology(
        _ facts: VersionFacts, _ recipe: ImageRecipe, of rows: [Bool]
    ) throws -> ImageTopology {
        let bySource = Adjacency(
            pointers: try all(.sourcePointers, of: UInt64.self), columns: try all(.sourceColumns, of: UInt32.self))
        let isTyped = recipe.aggregation == .rgcn
        if isTyped || recipe.predicates != nil {
            let predicates = try Self.predicates(facts, recipe.predicates)
            let predicateOfEdge = try all(.sourcePredicates, of: UInt16.self)
            guard !isTyped else {
                guard predicates.count <= Limits.predicatesMax else {
                    throw VaultError(
                        .tooMany, "a typed model has at most \(Limits.predicatesMax) predicates; name some")
                }
                return try ImageTopology(
                    bySource: bySource, predicateOfEdge: predicateOfEdge, predicates: predicates, isIn: rows)
            }
            let kept = try bySource.filtered(predicateOfEdge, Set(predicates.map(\.code)))
            return try ImageTopology(
                bySource: kept.bySource, byTarget: kept.byTarget, isIn: rows,
                selfLoops: recipe.aggregation.hasSelfLoops)
        }
        let byTarget = Adjacency(
            pointers: try all(.targetPointers, of: UInt64.self), columns: try all(.targetColumns, of: UInt32.self))
        return try ImageTopology(
            bySource: bySource, byTarget: byTarget, isIn: rows, selfLoops: recipe.aggregation.hasSelfLoops)
    }

    /// The version's predicates, or those that are named, by ascending name.
    private static func predicates(
        _ facts: VersionFacts, _ names: [String]?
    ) throws(VaultError) -> [(code: Int, name: String)] {
        let known = facts.predicates.enumerated().map { (code: $0.offset, name: $0.element.name) }
        if let names, let unknown = names.firstIndex(where: { name in !known.contains { $0.name == name } }) {
            throw VaultError(.unknownPredicate, "the version has no edge of predicate \(unknown + 1) of the relations")
        }
        return known.filter { names?.contains($0.name) ?? true }
            .sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    }

    /// What is predicted for the cohort's rows. Rows without it are in no split, so no loss or figure counts them.
    private func targets(_ facts: VersionFacts, _ recipe: ImageRecipe, of rows: [Bool]) throws -> ImageTargets {
        func column(_ names: [String]) throws(VaultError) -> Int {
            guard let column = names.firstIndex(of: recipe.labelColumn) else {
                throw VaultError(.unknownColumn, "the version has no column of that name for this kind of task")
            }
            return column
        }
        let split = try kept(rows, all(.split, of: UInt8.self))
        switch recipe.target {
        case .classes:
            let column = try column(facts.labels.map(\.name))
            return try ImageTargets(
                classes: kept(rows, all(.labels, of: Int32.self, column)), of: facts.labels[column].classNames.count,
                split)
        case .values:
            let column = try column(facts.targets.map(\.name))
            return try ImageTargets(values: kept(rows, all(.targets, of: Float.self, column)), split)
        case .classSets:
            let column = try column(facts.labelSets.map(\.name))
            let pointers = try all(.labelSetPointers, of: UInt64.self)
            let classes = try all(.labelSetClasses, of: UInt16.self)
            let first = column * manifest.nodes
            guard pointers.count > first + manifest.nodes, pointers.allSatisfy({ $0 <= classes.count }) else {
                throw VaultError(.tampered, "a section does not fit the nodes")
            }
            let sets = rows.indices.filter { rows[$0] }.map { row in
                classes[Int(pointers[first + row])..<max(Int(pointers[first + row]), Int(pointers[first + row + 1]))]
            }
            return try ImageTargets(sets: sets, of: facts.labelSets[column].classNames.count, split)
        }
    }

    /// One column of a section that holds several, one after the other.
    private func all<Element: BitwiseCopyable>(
        _ part: VersionSection, of type: Element.Type, _ column: Int
    ) throws -> [Element] {
        let all = try all(part, of: type)
        let nodes = manifest.nodes
        guard all.count >= (column + 1) * nodes else { throw VaultError(.tampered, "a section does not fit the nodes") }
        return Array(all[column * nodes..<(column + 1) * nodes])
    }

    private func kept<Element>(_ rows: [Bool], _ values: [Element]) throws(VaultError) -> [Element] {
        guard values.count == rows.count else { throw VaultError(.tampered, "a section does not fit the nodes") }
        return zip(rows, values).compactMap { $0 ? $1 : nil }
    }

    /// Lends the cohort's feature rows, normalised over the cohort, one after the other.
    private func eachRow(
        of rows: [Bool], _ shape: ImageShape, _ body: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        var scaling = FeatureScaling(shape.recipe.normalisation, width: shape.features)
        for _ in 0..<scaling.passesNeeded {
            try eachStoredRow(of: rows, shape) { scaling.look(at: $0.baseAddress!) }
            scaling.endPass()
        }
        try eachStoredRow(of: rows, shape) { row in
            try scaling.apply(to: row.baseAddress!)
            try body(UnsafeRawBufferPointer(row))
        }
    }

    private func eachStoredRow(
        of rows: [Bool], _ shape: ImageShape, _ body: (UnsafeMutableBufferPointer<Float>) throws -> Void
    ) throws {
        var reader = try reader(.features)
        guard reader.byteCount == rows.count * shape.features * 4 else {
            throw VaultError(.tampered, "the features do not fit the nodes")
        }
        let row = UnsafeMutableBufferPointer<Float>.allocate(capacity: shape.features)
        defer { row.deallocate() }
        for isIn in rows {
            try reader.read(into: UnsafeMutableRawBufferPointer(row))
            if isIn { try body(row) }
        }
    }

    /// The aggregate needs neighbours in any order, so all the cohort's features are in memory while it is made.
    private func write(
        aggregateOf rows: [Bool], _ shape: ImageShape, _ topology: ImageTopology, _ scale: [Float],
        to writer: inout SectionWriter
    ) throws {
        let width = shape.features
        let features = UnsafeMutableBufferPointer<Float>.allocate(capacity: shape.nodes * width)
        let out = UnsafeMutableBufferPointer<Float>.allocate(capacity: ImageShape.tileRows * width)
        defer {
            features.deallocate()
            out.deallocate()
        }
        var filled = 0
        try eachRow(of: rows, shape) { row in
            UnsafeMutableRawBufferPointer(
                rebasing: UnsafeMutableRawBufferPointer(features)[filled..<filled + row.count]
            )
            .copyMemory(from: row)
            filled += row.count
        }
        for first in stride(from: 0, to: shape.nodes, by: ImageShape.tileRows) {
            let range = first..<min(first + ImageShape.tileRows, shape.nodes)
            topology.aggregate(
                rows: range, of: features.baseAddress!, width: width, scale: scale, shape.recipe.aggregation,
                into: out.baseAddress!)
            try writer.write(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(out)[0..<range.count * width * 4]))
        }
    }
}

/// What an image's files must be. Sealed in the catalogue; its hash goes into the trail.
struct ImageManifest {
    let run: RunID
    let dataset: DatasetID
    let version: VersionID
    let root: Digest
    let keyID: Digest
    let shape: ImageShape
    let subjects: Int
    let cohortHash: Digest
    let sections: [SealedSection]

    var hash: Digest { SHA256.hash(canonical) }

    var canonical: [UInt8] {
        JSON.object([
            "format": "sekisho-image-1", "run": .string(run.text), "dataset": .string(dataset.text),
            "version": .string(version.text), "root": .string(root.hex), "key": .string(keyID.hex),
            "shape": shape.json, "cohort": ["subjects": .integer(Int64(subjects)), "hash": .string(cohortHash.hex)],
            "sections": .array(sections.map(\.json)),
        ]).canonical
    }
}

extension ImageManifest {
    init(parsing bytes: [UInt8]) throws(VaultError) {
        guard let json = try? JSON(parsing: bytes), json["format"] == "sekisho-image-1",
            let run = json["run"]?.stringValue.flatMap({ try? RunID($0) }),
            let dataset = json["dataset"]?.stringValue.flatMap({ try? DatasetID($0) }),
            let version = json["version"]?.stringValue.flatMap({ try? VersionID($0) }),
            let root = json["root"]?.stringValue.flatMap(Digest.init(hex:)),
            let keyID = json["key"]?.stringValue.flatMap(Digest.init(hex:)),
            let shape = json["shape"].flatMap(ImageShape.init(json:)),
            let subjects = json["cohort"]?["subjects"]?.integerValue,
            let cohortHash = json["cohort"]?["hash"]?.stringValue.flatMap(Digest.init(hex:)),
            let sections = json["sections"]?.arrayValue?.map(SealedSection.init(json:)),
            !sections.contains(where: { $0 == nil })
        else { throw VaultError(.tampered, "an image's manifest is not readable") }
        self.init(
            run: run, dataset: dataset, version: version, root: root, keyID: keyID, shape: shape,
            subjects: Int(subjects), cohortHash: cohortHash, sections: sections.compactMap { $0 })
    }
}

extension ImageShape {
    fileprivate var json: JSON {
        [
            "nodes": .integer(Int64(nodes)), "edges": .integer(Int64(edges)), "features": .integer(Int64(features)),
            "classes": .integer(Int64(classes)), "labelled": .array(labelled.map { .integer(Int64($0)) }),
            "trainingByClass": .array(trainingByClass.map { .integer(Int64($0)) }),
            "tileEdges": .array(tileEdges.map { .integer(Int64($0)) }),
            "relations": .array(
                relations.map { relation in
                    [
                        "predicate": .string(relation.predicate), "inverse": .bool(relation.isInverse),
                        "edges": .integer(Int64(relation.edges)),
                        "tileEdges": .array(relation.tileEdges.map { .integer(Int64($0)) }),
                    ]
                }),
            "recipe": [
                "aggregation": .string(recipe.aggregation.rawValue),
                "normalisation": .string(recipe.normalisation.rawValue),
                "aggregatesFirstLayer": .bool(recipe.aggregatesFirstLayer), "labelColumn": .string(recipe.labelColumn),
                "target": .string(recipe.target.rawValue),
                "predicates": recipe.predicates.map { .array($0.map { .string($0) }) } ?? .null,
            ],
        ]
    }

    fileprivate init?(json: JSON) {
        func number(_ key: String) -> Int? { json[key]?.integerValue.map { Int($0) } }
        guard let nodes = number("nodes"), let edges = number("edges"), let features = number("features"),
            let classes = number("classes"), let labelled = json["labelled"]?.arrayValue?.compactMap(\.integerValue),
            let trainingByClass = json["trainingByClass"]?.arrayValue?.compactMap(\.integerValue),
            let tileEdges = json["tileEdges"]?.arrayValue?.compactMap(\.integerValue), let recipe = json["recipe"],
            let aggregation = recipe["aggregation"]?.stringValue.flatMap(Aggregation.init(rawValue:)),
            let normalisation = recipe["normalisation"]?.stringValue.flatMap(FeatureNormalisation.init(rawValue:)),
            let aggregates = recipe["aggregatesFirstLayer"]?.boolValue,
            !aggregates || aggregation == .gcn || aggregation == .sage,
            let labelColumn = recipe["labelColumn"]?.stringValue,
            let target = recipe["target"]?.stringValue.flatMap(Target.init(rawValue:)),
            let relations = json["relations"]?.arrayValue?.map(Relation.init(json:)),
            !relations.contains(where: { $0 == nil })
        else { return nil }
        self.init(
            nodes: nodes, edges: edges, features: features, classes: classes, labelled: labelled.map { Int($0) },
            trainingByClass: trainingByClass.map { Int($0) }, tileEdges: tileEdges.map { UInt64($0) },
            relations: relations.compactMap { $0 },
            recipe: ImageRecipe(
                aggregation: aggregation, normalisation: normalisation, aggregatesFirstLayer: aggregates,
                labelColumn: labelColumn, target: target,
                predicates: recipe["predicates"]?.arrayValue?.compactMap(\.stringValue)))
    }
}

extension ImageShape.Relation {
    fileprivate init?(json: JSON) {
        guard let predicate = json["predicate"]?.stringValue, let isInverse = json["inverse"]?.boolValue,
            let edges = json["edges"]?.integerValue,
            let tileEdges = json["tileEdges"]?.arrayValue?.compactMap(\.integerValue)
        else { return nil }
        self.init(
            predicate: predicate, isInverse: isInverse, edges: Int(edges), tileEdges: tileEdges.map { UInt64($0) })
    }
}
