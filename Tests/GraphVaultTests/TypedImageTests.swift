import Foundation
import GraphVault
import TestSupport
import Testing
import Vocabulary

/// The tiny version with class sets and targets beside its labels. P:3, S:3 and P:4 are in no image.
private let nodes = """
    id\tcategory\tlabel\tlabel_name\tsplit\tsubject\tlabels\tlabels_name\ttarget
    P:1\tbiolink:Case\t0\tno\ttrain\t\t0|2\tred|blue\t1.5
    G:1\tbiolink:Gene\t-1\t\tnone\t\t-1\t\t
    P:2\tbiolink:Case\t1\tyes\tval\t\tnone\t\t-2e-1
    P:3\tbiolink:Case\t1\tyes\ttest\t\t1\tgreen\t7
    S:3\tbiolink:MaterialSample\t-1\t\tnone\tP:3\t-1\t\t
    P:4\tbiolink:Case\t0\tno\ttrain\t\t0\tred\t3
    G:2\tbiolink:Gene|biolink:NamedThing\t-1\t\ttrain\t\t2\tblue\t

    """

@Suite("A run image holds typed edges, class sets and targets where the recipe asks for them")
struct TypedImageTests {
    private func open(_ recipe: ImageRecipe) async throws -> (ImageShape, OpenedImage) {
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder, nodes: nodes)
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let report = try await vault.importVersion(files.source, dataset: tiny, version: first)
            let trail = try TestTrail()
            let image = try await vault.openRunImage(
                run: run1, dataset: tiny, version: first, recipe: recipe,
                receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
            let again = try await vault.runImage(run1)
            #expect(again.shape == image.shape)
            return (image.shape, try await OpenedImage(image, vault, trail))
        }
    }

    private func recipe(
        _ aggregation: Aggregation, _ label: String = "label", _ target: Target = .classes,
        predicates: [String]? = nil
    ) -> ImageRecipe {
        ImageRecipe(
            aggregation: aggregation, normalisation: .none, aggregatesFirstLayer: false, labelColumn: label,
            target: target, predicates: predicates)
    }

    @Test("each predicate has a topology of its own in both directions, without the withdrawn, repeats and self edges")
    func relations() async throws {
        // Rows P:1 0, G:1 1, P:2 2, G:2 3. `regulates` is a self edge only, `has_sample` and `expresses` the withdrawn's.
        let (shape, image) = try await open(recipe(.rgcn))
        #expect(
            shape.relations.map { "\($0.predicate) \($0.isInverse) \($0.edges) \($0.tileEdges)" } == [
                "biolink:has_variant false 2 [0, 2]", "biolink:has_variant true 2 [2, 4]",
                "biolink:interacts_with false 2 [4, 6]", "biolink:interacts_with true 2 [6, 8]",
                "biolink:related_to false 2 [8, 10]", "biolink:related_to true 2 [10, 12]",
            ])
        #expect(
            image.rowPointers == [
                0, 1, 1, 2, 2, 2, 4, 4, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 9, 10, 10, 11, 11, 12, 12,
            ])
        #expect(image.columns == [1, 1, 0, 2, 3, 1, 3, 1, 2, 0, 2, 0])
        #expect(image.scale[4..<8] == [0, 0.5, 0, 0])
        #expect(shape.tileEdges == [0, 12] && shape.edges == 12 && shape.topologies == 6)
        #expect(image.features.count == 8 && image.aggregate.isEmpty)
    }

    @Test("named predicates alone make the graph, for untyped models too")
    func named() async throws {
        let (typed, _) = try await open(recipe(.rgcn, predicates: ["biolink:related_to"]))
        #expect(typed.relations.map(\.predicate) == ["biolink:related_to", "biolink:related_to"])
        let (_, image) = try await open(recipe(.sage, predicates: ["biolink:has_variant"]))
        #expect(image.rowPointers == [0, 1, 3, 4, 4])
        #expect(image.columns == [1, 0, 2, 1])
    }

    @Test("class sets are rows of bits; who has none known is in no split")
    func classSets() async throws {
        let (shape, image) = try await open(recipe(.gcn, "labels", .classSets))
        #expect(shape.classes == 3)
        #expect(image.labelSets == [0b101, 0, 0, 0b100])
        #expect(image.split == [1, 0, 2, 1])
        #expect(shape.labelled == [0, 2, 1, 0] && shape.trainingByClass == [1, 0, 2])
        #expect(image.labels.isEmpty)
    }

    @Test("targets are numbers; who has none is in no split")
    func targets() async throws {
        let (shape, image) = try await open(recipe(.sage, "target", .values))
        #expect(shape.classes == 1)
        #expect(image.targets == [1.5, 0, -0.2, 0])
        #expect(image.split == [1, 0, 2, 0])
        #expect(shape.labelled == [0, 1, 1, 0])
    }

    @Test("what the version does not have is refused by name")
    func refusals() async throws {
        for (recipe, code) in [
            (recipe(.rgcn, predicates: ["biolink:unheard_of"]), VaultError.Code.unknownPredicate),
            (recipe(.gcn, "label", .classSets), .unknownColumn), (recipe(.gcn, "labels"), .unknownColumn),
            (recipe(.gcn, "target2", .values), .unknownColumn),
            (recipe(.sage, predicates: ["biolink:regulates"]), .noEdges),
            (recipe(.rgcn, predicates: ["biolink:expresses"]), .noEdges),
        ] {
            #expect(await refusal { _ = try await open(recipe) }?.code == code)
        }
        // With self loops a graph without edges is one all the same.
        let (shape, _) = try await open(recipe(.gat, predicates: ["biolink:regulates"]))
        #expect(shape.edges == shape.nodes)
    }

    @Test(
        "class sets and targets that are none are refused at their place",
        arguments: [
            ("0|2\tred|blue", "2|0\tblue|red", 30), ("0|2\tred|blue", "0|0\tred|red", 30),
            ("0|2\tred|blue", "0|4096\tred|x", 30), ("0|2\tred|blue", "\t", 30), ("0|2\tred|blue", "0|2\tred", 34),
            ("0|2\tred|blue", "0|2\tred|", 34), ("1.5", "nan", 43), ("1.5", "1e39", 43), ("1.5", "0x1", 43),
            ("1.5", "1,5", 43),
        ])
    func badTargets(from: String, to: String, column: Int) async throws {
        try await withTemporaryFolder { folder in
            let text = nodes.replacingOccurrences(of: from, with: to)
            let files = try VersionFiles(in: folder, nodes: text)
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let error = await refusal { _ = try await vault.importVersion(files.source, dataset: tiny, version: first) }
            #expect(error?.code == .badLabel)
            #expect(error?.place == .line(2, column: column))
            #expect(try await vault.versions().isEmpty)
        }
    }
}
