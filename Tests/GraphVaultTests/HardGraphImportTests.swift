import Foundation
import GraphVault
import TestSupport
import Testing
import Vocabulary

/// What no run can be made of is refused by name: before an image is there, and the vault stays as it was.
@Suite("Graphs that cannot be trained on are refused by name")
struct HardGraphImportTests {
    private func refusalOfImage(
        _ recipe: ImageRecipe, nodes: String = VersionFiles.nodes, edges: String = VersionFiles.edges,
        consent: String = VersionFiles.consent, hasFeatures: Bool = true
    ) async throws -> VaultError? {
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder, nodes: nodes, edges: edges, consent: consent)
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let source =
                hasFeatures
                ? files.source
                : ImportSource(
                    nodes: files.file("nodes.tsv"), edges: files.file("edges.tsv"), consent: files.file("consent.tsv"))
            let report = try await vault.importVersion(source, dataset: tiny, version: first)
            let trail = try TestTrail()
            let error = await refusal {
                _ = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: recipe,
                    receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
            }
            if error != nil {
                #expect(await refusal { _ = try await vault.runImage(run1) }?.code == .unknownRun)
            }
            return error
        }
    }

    @Test("a graph without edges, unless each row is its own neighbour")
    func noEdges() async throws {
        let header = "subject\tpredicate\tobject\n"
        #expect(try await refusalOfImage(imageRecipe(.sage), edges: header)?.code == .noEdges)
        #expect(try await refusalOfImage(imageRecipe(.rgcn), edges: header)?.code == .noEdges)
        #expect(
            try await refusalOfImage(imageRecipe(.sage), edges: header + "G:1\tbiolink:regulates\tG:1\n")?.code
                == .noEdges)
        #expect(try await refusalOfImage(imageRecipe(.gcn), edges: header) == nil)
        #expect(try await refusalOfImage(imageRecipe(.gat), edges: header) == nil)
    }

    @Test("a version without features")
    func noFeatures() async throws {
        #expect(try await refusalOfImage(imageRecipe(.gcn), hasFeatures: false)?.code == .noFeatures)
    }

    @Test("a version in which no node has what is to be predicted")
    func noLabels() async throws {
        let nodes = "id\tcategory\tlabel\nG:1\tbiolink:Gene\t-1\nG:2\tbiolink:Gene\t-1\n"
        let error = try await withTemporaryFolder { folder in
            let files = try VersionFiles(
                in: folder, nodes: nodes, edges: "subject\tpredicate\tobject\nG:1\tbiolink:x\tG:2\n",
                features: VersionFiles.npy([[1, 2], [3, 4]]))
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let source = ImportSource(
                nodes: files.file("nodes.tsv"), edges: files.file("edges.tsv"),
                features: .dense(files.file("features.npy")))
            let report = try await vault.importVersion(source, dataset: tiny, version: first)
            let trail = try TestTrail()
            return await refusal {
                _ = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn),
                    receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
            }
        }
        #expect(error?.code == .noLabels)
    }

    @Test("more predicates than a typed model may have, until some are named")
    func manyPredicates() async throws {
        let edges =
            "subject\tpredicate\tobject\n"
            + (0...Limits.predicatesMax).map { "G:1\tx:p\($0)\tG:2\n" }.joined()
        #expect(try await refusalOfImage(imageRecipe(.rgcn), edges: edges)?.code == .tooMany)
        let some = ImageRecipe(
            aggregation: .rgcn, normalisation: .none, aggregatesFirstLayer: false, predicates: ["x:p0", "x:p77"])
        #expect(try await refusalOfImage(some, edges: edges) == nil)
    }
}
