import Foundation
import GraphVault
import Synchronization
import TestSupport
import Testing
import Vocabulary

/// Figures for `docs/performance.md`, printed, never judged:
/// `SEKISHO_MEASURE=1 swift test -c release --filter MeasureTests`.
@Suite(
    "Measurements", .serialized,
    .enabled(if: SharedData.isPresent && ProcessInfo.processInfo.environment["SEKISHO_MEASURE"] != nil))
struct MeasureTests {
    @Test("edges a second, and bytes of text a second")
    func ingest() async throws {
        try await withTemporaryFolder { folder in
            let nodeCount = 200_000
            let edgeCount = 4_000_000
            var random = SeededRandom(seed: 5)
            var nodes = Array("id\tcategory\n".utf8)
            for node in 0..<nodeCount { nodes += "MONDO:\(1_000_000 + node)\tbiolink:Disease\n".utf8 }
            var edges = Array("subject\tpredicate\tobject\n".utf8)
            for _ in 0..<edgeCount {
                let source = Int.random(in: 0..<nodeCount, using: &random)
                let target = Int.random(in: 0..<nodeCount, using: &random)
                edges += "MONDO:\(1_000_000 + source)\tbiolink:has_phenotype\tMONDO:\(1_000_000 + target)\n".utf8
            }
            try Data(nodes).write(to: folder.appendingPathComponent("nodes.tsv"))
            try Data(edges).write(to: folder.appendingPathComponent("edges.tsv"))
            let vault = try GraphVault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let source = ImportSource(
                nodes: folder.appendingPathComponent("nodes.tsv").path,
                edges: folder.appendingPathComponent("edges.tsv").path)
            let clock = ContinuousClock()
            let times = Times()
            let start = clock.now
            _ = try await vault.importVersion(source, dataset: tiny, version: first) { step in
                times.add("\(step)", clock.now - start)
            }
            print("KGX \(nodes.count) + \(edges.count) bytes:", times.text, "all \(clock.now - start)")
        }
    }

    @Test("features: seal and open, bytes a second")
    func features() async throws {
        try await withTemporaryFolder { folder in
            let (rows, width) = (100_000, 1000)
            var nodes = Array("id\tcategory\n".utf8)
            for node in 0..<rows { nodes += "N:\(node)\tc\n".utf8 }
            let files = try VersionFiles(
                in: folder, nodes: String(decoding: nodes, as: UTF8.self), edges: "subject\tpredicate\tobject\n",
                features: VersionFiles.npy("<f4", "(\(rows), \(width))", [Float](repeating: 1.5, count: rows * width)))
            let vault = try GraphVault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let source = ImportSource(
                nodes: files.path("nodes.tsv"), edges: files.path("edges.tsv"),
                features: .dense(path: files.path("features.npy")))
            let clock = ContinuousClock()
            let times = Times()
            let start = clock.now
            _ = try await vault.importVersion(source, dataset: tiny, version: first) { step in
                times.add("\(step)", clock.now - start)
            }
            print("\(rows * width * 4) bytes of features:", times.text)
            let check = clock.now
            try await vault.check(tiny, first)
            print("opened:", clock.now - check)
        }
    }

    @Test("hpo: import and images")
    func images() async throws {
        try await withTemporaryFolder { folder in
            let source = try hpo.source(in: folder)
            let vault = try GraphVault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let clock = ContinuousClock()
            let start = clock.now
            let report = try await vault.importVersion(source, dataset: tiny, version: first)
            print("hpo import:", clock.now - start)
            let trail = try TestTrail()
            for (index, recipe) in [
                imageRecipe(.gcn), imageRecipe(.gcn, aggregate: true), imageRecipe(.sage, aggregate: true),
                imageRecipe(.sage, .standard, aggregate: true),
            ].enumerated() {
                let run = try RunID("run-\(index)")
                let receipt = try trail.runPermit(run, tiny, first, root: report.root)
                let start = clock.now
                let image = try await vault.openRunImage(
                    run: run, dataset: tiny, version: first, recipe: recipe, receipt: receipt, trail: trail.identity)
                print(
                    recipe.aggregation, recipe.normalisation, recipe.aggregatesFirstLayer, clock.now - start,
                    image.shape.edges)
            }
            let check = clock.now
            try await vault.check(tiny, first)
            print("hpo check:", clock.now - check)
        }
    }

    private final class Times: Sendable {
        private let lines = Mutex<[String]>([])
        var text: String { lines.withLock { $0.joined(separator: ", ") } }
        func add(_ name: String, _ time: Duration) { lines.withLock { $0.append("\(name) \(time)") } }
    }
}
