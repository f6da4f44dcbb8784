import Sealing
import Vocabulary

/// What a version's files must be. Its SHA-256 is the version's root, which the trail records.
struct VersionManifest {
    let dataset: DatasetID
    let version: VersionID
    let nodes: Int
    let edges: Int
    let features: Int
    /// Commits to the version's key.
    let keyID: Digest
    let sections: [SealedSection]

    var root: Digest { SHA256.hash(canonical) }

    var canonical: [UInt8] {
        JSON.object([
            "format": "sekisho-version-1", "dataset": .string(dataset.text), "version": .string(version.text),
            "nodes": .integer(Int64(nodes)), "edges": .integer(Int64(edges)), "features": .integer(Int64(features)),
            "key": .string(keyID.hex), "sections": .array(sections.map(\.json)),
        ]).canonical
    }

    init(
        dataset: DatasetID, version: VersionID, nodes: Int, edges: Int, features: Int, keyID: Digest,
        sections: [SealedSection]
    ) {
        self.dataset = dataset
        self.version = version
        self.nodes = nodes
        self.edges = edges
        self.features = features
        self.keyID = keyID
        self.sections = sections
    }

    init(parsing bytes: [UInt8]) throws(VaultError) {
        guard let json = try? JSON(parsing: bytes), json["format"] == "sekisho-version-1",
            let dataset = json["dataset"]?.stringValue.flatMap({ try? DatasetID($0) }),
            let version = json["version"]?.stringValue.flatMap({ try? VersionID($0) }),
            let nodes = json["nodes"]?.integerValue, let edges = json["edges"]?.integerValue,
            let features = json["features"]?.integerValue,
            let keyID = json["key"]?.stringValue.flatMap(Digest.init(hex:)),
            let sections = json["sections"]?.arrayValue?.map(SealedSection.init(json:)),
            !sections.contains(where: { $0 == nil })
        else { throw VaultError(.tampered, "a version's manifest is not readable") }
        self.init(
            dataset: dataset, version: version, nodes: Int(nodes), edges: Int(edges), features: Int(features),
            keyID: keyID, sections: sections.compactMap { $0 })
        guard canonical == bytes else { throw VaultError(.tampered, "a version's manifest is not canonical") }
    }

    func section(_ part: VersionSection) throws(VaultError) -> SealedSection {
        guard let section = sections.first(where: { $0.number == part.rawValue }) else {
            throw VaultError(.tampered, "a version lacks a section")
        }
        return section
    }
}

/// The parts of a stored version. Raw values are written into sealed blocks and never change meaning.
enum VersionSection: UInt32, CaseIterable {
    /// All node ids, each followed by a line feed, in row order.
    case identifiers = 1
    /// `UInt16[nodes]`: numbers of the facts' categories.
    case categories = 2
    /// `UInt64[nodes + 1]`, `UInt32[edges]` and `UInt16[edges]`: edges by source, with their predicates.
    case sourcePointers = 3
    case sourceColumns = 4
    case sourcePredicates = 5
    /// `UInt64[nodes + 1]` and `UInt32[edges]`: edges by target.
    case targetPointers = 6
    case targetColumns = 7
    /// `Float32[nodes × features]`, row-major.
    case features = 8
    /// `Int32[label columns × nodes]`, column after column.
    case labels = 9
    /// `UInt8[nodes]`: see `Split`.
    case split = 10
    /// All subject ids, each followed by a line feed.
    case subjects = 11
    /// `UInt32[nodes]`: whose data a row is, a number in `subjects`, or 2^32 − 1.
    case subjectOfRow = 12
    /// Canonical JSON of `VersionFacts`.
    case facts = 13
    /// `UInt64[set columns × nodes + 1]` and `UInt16[…]`: class sets, row after row and column after column; 2^16 − 1
    /// alone where they are not known. Only in versions with such columns.
    case labelSetPointers = 14
    case labelSetClasses = 15
    /// `Float32[target columns × nodes]`, column after column; not a number where there is none. As above.
    case targets = 16
}

/// What a version holds, in counts and in the names of its kinds. Sealed in the vault; the gateway may show it.
package struct VersionFacts: Sendable, Equatable {
    package struct Count: Sendable, Equatable {
        package let name: String
        package let count: Int
    }

    package struct LabelColumn: Sendable, Equatable {
        package let name: String
        /// A name for each class; empty where the data names none.
        package let classNames: [String]
        package let classCounts: [Int]
    }

    package let nodes: Int
    package let edges: Int
    package let features: Int
    package let subjects: Int
    package let categories: [Count]
    package let predicates: [Count]
    package let labels: [LabelColumn]
    /// Columns of class sets; a node counts in each of its classes.
    package let labelSets: [LabelColumn]
    /// Columns of numbers, and nodes that have one.
    package let targets: [Count]
    /// Nodes by split, indexed by `Split.rawValue`.
    package let split: [Int]
}

extension VersionFacts {
    var json: JSON {
        func list(_ counts: [Count]) -> JSON {
            .array(counts.map { ["name": .string($0.name), "count": .integer(Int64($0.count))] })
        }
        func list(_ columns: [LabelColumn]) -> JSON {
            .array(
                columns.map {
                    [
                        "name": .string($0.name), "classNames": .array($0.classNames.map(JSON.string)),
                        "classCounts": .array($0.classCounts.map { .integer(Int64($0)) }),
                    ]
                })
        }
        var members: [String: JSON] = [
            "nodes": .integer(Int64(nodes)), "edges": .integer(Int64(edges)), "features": .integer(Int64(features)),
            "subjects": .integer(Int64(subjects)), "categories": list(categories), "predicates": list(predicates),
            "labels": list(labels), "split": .array(split.map { .integer(Int64($0)) }),
        ]
        // Versions of before had no such columns, nor these members.
        if !labelSets.isEmpty { members["labelSets"] = list(labelSets) }
        if !targets.isEmpty { members["targets"] = list(targets) }
        return .object(members)
    }

    init(json: JSON) throws(VaultError) {
        func number(_ key: String) -> Int? { json[key]?.integerValue.map { Int($0) } }
        func list(_ key: String) -> [Count]? {
            json[key]?.arrayValue?.compactMap { entry in
                guard let name = entry["name"]?.stringValue, let count = entry["count"]?.integerValue else {
                    return nil
                }
                return Count(name: name, count: Int(count))
            }
        }
        func columns(_ key: String) -> [LabelColumn]? {
            json[key]?.arrayValue?.compactMap { entry in
                guard let name = entry["name"]?.stringValue,
                    let names = entry["classNames"]?.arrayValue?.compactMap(\.stringValue),
                    let counts = entry["classCounts"]?.arrayValue?.compactMap(\.integerValue),
                    names.count == counts.count
                else { return nil }
                return LabelColumn(name: name, classNames: names, classCounts: counts.map { Int($0) })
            }
        }
        guard let nodes = number("nodes"), let edges = number("edges"), let features = number("features"),
            let subjects = number("subjects"), let categories = list("categories"), let predicates = list("predicates"),
            let labels = columns("labels"), let split = json["split"]?.arrayValue?.compactMap(\.integerValue)
        else { throw VaultError(.tampered, "a version's facts are not readable") }
        self.init(
            nodes: nodes, edges: edges, features: features, subjects: subjects, categories: categories,
            predicates: predicates, labels: labels, labelSets: columns("labelSets") ?? [],
            targets: list("targets") ?? [], split: split.map { Int($0) })
    }
}

extension SealedSection {
    var json: JSON {
        ["section": .integer(Int64(number)), "bytes": .integer(Int64(byteCount)), "sha256": .string(hash.hex)]
    }

    init?(json: JSON) {
        guard let number = json["section"]?.integerValue.flatMap({ UInt32(exactly: $0) }),
            let byteCount = json["bytes"]?.integerValue, byteCount >= 0,
            let hash = json["sha256"]?.stringValue.flatMap(Digest.init(hex:))
        else { return nil }
        self.init(number: number, byteCount: Int(byteCount), hash: hash)
    }
}
