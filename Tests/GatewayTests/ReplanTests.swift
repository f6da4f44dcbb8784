import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// A run whose epochs take another time than its plan foretold is planned anew between two epochs.
@Suite struct ReplanTests {
    private static let nodes = 3000

    /// A new version of the clinic's data with more people than a chunk of rows.
    private static func importLarger(_ enclave: Enclave) async throws {
        let folder = enclave.folder.appendingPathComponent("larger")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        var random = SeededRandom(seed: 71)
        var rows = "id\tcategory\tlabel\tsplit\n"
        var edges = "subject\tpredicate\tobject\n"
        var consent = "subject\tstate\n"
        for person in 0..<nodes {
            rows += "P:\(person)\tbiolink:Case\t\(person % 3)\t\(["train", "train", "val", "test"][person / 3 % 4])\n"
            consent += "P:\(person)\tgiven\n"
            edges += "P:\(person)\tbiolink:related_to\tP:\((person + 3) % nodes)\n"
        }
        let values = (0..<nodes * 24).map { _ in Float.random(in: -1...1, using: &random) }
        var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(nodes), 24), }"
        header += String(repeating: " ", count: 63 - (10 + header.utf8.count) % 64) + "\n"
        let array =
            [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(header.utf8.count), 0] + Array(header.utf8)
            + values.withUnsafeBytes { Array($0) }
        for (name, bytes) in [
            ("nodes.tsv", Array(rows.utf8)), ("edges.tsv", Array(edges.utf8)), ("consent.tsv", Array(consent.utf8)),
            ("features.npy", array),
        ] { try Data(bytes).write(to: folder.appendingPathComponent(name)) }
        func file(_ name: String) -> URL { folder.appendingPathComponent(name) }
        _ = try await enclave.gateway.importDataset(
            Clinic.dataset, nodes: file("nodes.tsv"), edges: file("edges.tsv"), features: .dense(file("features.npy")),
            consent: file("consent.tsv"), by: enclave.steward, progress: { _ in })
    }

    private static let specification = """
        model: gcn
        hidden: [32, 32]
        dropout: 0.5
        learning_rate: 0.01
        weight_decay: 5e-4
        weight_decay_layers: first
        epochs: 12
        features: none

        """

    /// A device that computes next to nothing, behind a link that is slow: any real one is more than twenty times faster,
    /// which is as much as one epoch is believed.
    private static let wrong = MeasuredRates(json: [
        "bytes_per_second": 1_000_000, "rtt_nanoseconds": 1_000_000, "product_flops_per_second": 1_000_000,
        "wide_gather_bytes_per_second": 1_000_000, "narrow_gather_bytes_per_second": 1_000_000,
        "copy_bytes_per_second": 1_000_000, "gradient_flops_per_second": 1_000_000,
        "scored_edges_per_second": 1_000, "attended_edges_per_second": 1_000, "drop_elements_per_second": 1_000_000,
        "map_elements_per_second": 1_000_000, "loss_elements_per_second": 1_000_000, "commands_per_second": 1_000,
        "open_bytes_per_second": 1_000_000, "threads": 1, "cores": 1,
    ])

    @Test(
        "another plan takes over at an epoch's end, its hash recorded before its program, and the weights are the same")
    func takesOver() async throws {
        try await withEnclave { enclave in
            try await Self.importLarger(enclave)
            let grant = try await enclave.grant()
            let gateway = enclave.gateway
            let whole = try await enclave.request(grant, id: "whole", specification: Self.specification)
            #expect(try await enclave.finish(whole) == .closed(.released))
            let roomy = try #require(
                try await gateway.recordedPlan(of: whole).json["forecast"]?["deviceBytes"]?.integerValue)

            await gateway.plan(assuming: Self.wrong)
            // Whether the wrong rates mislead depends on how much fits; where they do not, the run keeps its plan.
            var plansLater = 0
            for tenths in [6, 4, 3] as [Int64] where plansLater == 0 {
                plansLater = try await misjudged(
                    enclave, grant, deviceMemory: Int(roomy * tenths / 10), weights: enclave.weights(whole))
            }
            #expect(plansLater > 0)
        }
    }

    /// Runs with wrong rates, holds each later plan to what its record must be, and gives how many there were.
    private func misjudged(
        _ enclave: Enclave, _ grant: GrantID, deviceMemory: Int, weights: String?
    ) async throws -> Int {
        let run = try await enclave.request(
            grant, id: "misjudged-\(deviceMemory)", specification: Self.specification, deviceMemory: deviceMemory)
        #expect(try await enclave.finish(run) == .closed(.released))
        #expect(try await enclave.weights(run) == weights)
        let planned = try #require(try await enclave.records(.run(run)).first { $0.key == "planned" })
        let later = try await enclave.own(.runPlanned).filter { $0.core["run"]?.stringValue == run.text }
        #expect(later.count <= 3)
        let loaded = try await enclave.own(.programLoaded).filter { $0.core["run"]?.stringValue == run.text }
        #expect(loaded.count == later.count)
        let epochs = try await enclave.records(.run(run)).filter { $0.event == .trainingEpoch }
        var before = planned.detail
        for (plan, program) in zip(later, loaded) {
            #expect(plan.detail["plan"] != before["plan"] && plan.detail["cut"] != before["cut"])
            #expect(plan.index < program.index)
            // Between two epochs, not before the third: one that took long may have had its reasons.
            let done = epochs.filter { $0.index < plan.index }.count
            #expect(done >= 3 && done < 12)
            before = plan.detail
        }
        return later.count
    }

    @Test("where the rates are wrong but no other plan is better, the run keeps its plan")
    func keepsItsPlan() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            await enclave.gateway.plan(assuming: Self.wrong)
            let run = try await enclave.request(grant, specification: Clinic.specification(epochs: 9))
            #expect(try await enclave.finish(run) == .closed(.released))
            let later = try await enclave.own(.runPlanned)
            #expect(later.isEmpty)
        }
    }
}
