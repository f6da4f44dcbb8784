import Foundation
import GraphVault
import TestSupport
import Testing
import Vocabulary

/// A real data set, with the counts that its README states.
struct RealSet: CustomTestStringConvertible, Sendable {
    let name: String
    let nodes: Int
    let edges: Int
    let features: Int
    let classes: [Int]
    let split: [Int]
    let isSparse: Bool
    let normalisation: FeatureNormalisation

    var testDescription: String { name }

    func url(_ file: String) -> URL { SharedData.url("data/\(name)/\(file)") }

    /// The edges, unpacked into `folder` if need be.
    func edges(in folder: URL) throws -> URL {
        var edges = url("edges.tsv")
        if !FileManager.default.fileExists(atPath: edges.path) {
            edges = folder.appendingPathComponent("edges.tsv")
            try Data().write(to: edges)
            let unpack = Process()
            unpack.executableURL = URL(fileURLWithPath: "/bin/gzip")
            unpack.arguments = ["-dc", url("edges.tsv.gz").path]
            unpack.standardOutput = try FileHandle(forWritingTo: edges)
            try unpack.run()
            unpack.waitUntilExit()
            #expect(unpack.terminationStatus == 0)
        }
        return edges
    }

    func source(in folder: URL, consent: String? = nil) throws -> ImportSource {
        let matrix: FeatureSource =
            isSparse
            ? .sparse(
                rowPointers: .path(url("features_indptr.npy").path), columns: .path(url("features_indices.npy").path),
                values: .path(url("features_data.npy").path), columnCount: features)
            : .dense(.path(url("features.npy").path))
        return ImportSource(
            nodes: .path(url("nodes.tsv").path), edges: .path(try edges(in: folder).path), features: matrix,
            consent: consent.map(ImportFile.path))
    }

    /// The feature rows, read without the vault.
    func featureRows() throws -> [[Float]] {
        func values<Element: BitwiseCopyable>(_ file: String, _ type: Element.Type) throws -> [Element] {
            let bytes = try [UInt8](Data(contentsOf: url(file)))
            let header = 10 + Int(bytes[8]) + Int(bytes[9]) * 256
            return bytes.withUnsafeBytes { raw in
                stride(from: header, to: raw.count, by: MemoryLayout<Element>.stride).map {
                    raw.loadUnaligned(fromByteOffset: $0, as: Element.self)
                }
            }
        }
        guard isSparse else {
            let flat = try values("features.npy", Float.self)
            return (0..<nodes).map { Array(flat[$0 * features..<($0 + 1) * features]) }
        }
        let pointers = try values("features_indptr.npy", Int64.self)
        let columns = try values("features_indices.npy", Int32.self)
        let data = try values("features_data.npy", Float.self)
        return (0..<nodes).map { row in
            var dense = [Float](repeating: 0, count: features)
            for entry in Int(pointers[row])..<Int(pointers[row + 1]) { dense[Int(columns[entry])] = data[entry] }
            return dense
        }
    }
}

private let umls = RealSet(
    name: "umls", nodes: 135, edges: 6529, features: 135, classes: [], split: [135, 0, 0, 0], isSparse: false,
    normalisation: .none)
private let kg1 = RealSet(
    name: "kg1-aisnp", nodes: 2504, edges: 21_227, features: 42, classes: [661, 347, 504, 503, 489],
    split: [0, 754, 502, 1248], isSparse: false, normalisation: .standard)
private let cora = RealSet(
    name: "cora", nodes: 2708, edges: 5278, features: 1433, classes: [351, 217, 418, 818, 426, 298, 180],
    split: [1068, 140, 500, 1000], isSparse: true, normalisation: .rowSum)
let hpo = RealSet(
    name: "hpo", nodes: 30_207, edges: 280_558, features: 412, classes: [3988, 3300, 485],
    split: [22_434, 4664, 1555, 1554], isSparse: true, normalisation: .none)

@Suite("Real data sets come in with the counts their READMEs state", .enabled(if: SharedData.isPresent))
struct RealDataTests {
    @Test("the vault finds in a set what its README says", arguments: [umls, kg1, cora, hpo])
    func counts(set: RealSet) async throws {
        try await withTemporaryFolder { folder in
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let report = try await vault.importVersion(set.source(in: folder), dataset: tiny, version: first)
            let facts = report.facts
            #expect(facts.nodes == set.nodes && facts.edges == set.edges && facts.features == set.features)
            #expect(facts.labels[0].classCounts == set.classes)
            #expect(facts.split == set.split)
            // People of the 1000 Genomes Project are people to the vault although no file says so.
            #expect(facts.subjects == (set.name == "kg1-aisnp" ? 2504 : 0))
            #expect(report.subjectsUnrecorded == facts.subjects)
            if set.name == "kg1-aisnp" { #expect(facts.labels.map(\.classCounts.count) == [5, 26]) }
        }
    }

    @Test("their images are the reference's, bit for bit", arguments: [cora, hpo], [Aggregation.gcn, .sage])
    func images(set: RealSet, aggregation: Aggregation) async throws {
        try await withTemporaryFolder { folder in
            let recipe = imageRecipe(aggregation, set.normalisation, aggregate: true)
            let source = try set.source(in: folder)
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let report = try await vault.importVersion(source, dataset: tiny, version: first)
            let trail = try TestTrail()
            let image = try await vault.openRunImage(
                run: run1, dataset: tiny, version: first, recipe: recipe,
                receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
            let reference = ReferenceImage(
                nodes: try String(contentsOf: set.url("nodes.tsv"), encoding: .utf8),
                edges: try String(contentsOf: set.edges(in: folder), encoding: .utf8), features: try set.featureRows(),
                absent: [], recipe)
            expectSame(try await OpenedImage(image, vault, trail), reference)
        }
    }

    @Test("a withdrawn person of the 1000 Genomes Project is in nothing of the image")
    func withdrawn() async throws {
        try await withTemporaryFolder { folder in
            let nodes = try String(contentsOf: kg1.url("nodes.tsv"), encoding: .utf8)
            let people = nodes.split(separator: "\n").dropFirst().map { String($0.prefix { $0 != "\t" }) }
            var random = SeededRandom(seed: 1000)
            let withdrawn = Set(people.shuffled(using: &random).prefix(50))
            let consent = folder.appendingPathComponent("consent.tsv")
            let rows = people.map { "\($0)\t\(withdrawn.contains($0) ? "withdrawn" : "given")\n" }
            try ("subject\tstate\n" + rows.joined()).write(to: consent, atomically: true, encoding: .utf8)

            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let report = try await vault.importVersion(
                kg1.source(in: folder, consent: consent.path), dataset: tiny, version: first)
            #expect(report.subjectsWithdrawn == 50 && report.subjectsUnrecorded == 0)
            let trail = try TestTrail()
            for (run, label) in [("ancestry", "label"), ("population", "label2")] {
                let run = try RunID(run)
                let recipe = imageRecipe(.gcn, .standard, aggregate: true, label: label)
                let image = try await vault.openRunImage(
                    run: run, dataset: tiny, version: first, recipe: recipe,
                    receipt: trail.runPermit(run, tiny, first, root: report.root), trail: trail.identity)
                #expect(image.shape.nodes == 2454 && image.subjects == 2454)
                #expect(image.shape.classes == (label == "label" ? 5 : 26))
                let reference = ReferenceImage(
                    nodes: nodes, edges: try String(contentsOf: kg1.url("edges.tsv"), encoding: .utf8),
                    features: try kg1.featureRows(), absent: withdrawn, recipe)
                expectSame(try await OpenedImage(image, vault, trail), reference)
            }
            #expect(try await vault.runs(using: SubjectID(withdrawn.first!), of: tiny).isEmpty)
            let present = people.first { !withdrawn.contains($0) }!
            #expect(
                try await vault.runs(using: SubjectID(present), of: tiny).map(\.text) == ["ancestry", "population"])
        }
    }
}
