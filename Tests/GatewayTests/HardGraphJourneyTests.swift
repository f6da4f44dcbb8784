import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Graphs that are hard, from the files at the front door to the release; and those that no run can be made of, refused
/// by name. Single mistakes in files are in GraphVaultTests, and what the device computes of such graphs is held to the
/// float64 twin in TrainingTests.
@Suite struct HardGraphJourneyTests {
    struct Case: CustomTestStringConvertible, Sendable {
        let testDescription: String
        var persons = 40
        var label: @Sendable (Int) -> Int = { $0 % 3 }
        var edges: [(Int, Int)] = (0..<40).map { ($0, ($0 + 1) % 40) }
        var model = "gcn"
        /// Codes of what stopped the run; empty where it is released.
        var stops: [String] = []
    }

    static let cases: [Case] = [
        Case(testDescription: "a hub with every edge", edges: (1..<40).map { (0, $0) }),
        Case(testDescription: "most nodes isolated", edges: [(0, 1)], model: "sage"),
        Case(
            testDescription: "repeated edges, in both directions, and self edges",
            edges: [(0, 1), (0, 1), (1, 0), (2, 2), (3, 3), (3, 3), (4, 5)], model: "sage"),
        Case(testDescription: "a class without members", label: { $0 % 3 == 1 ? 2 : $0 % 3 }),
        Case(testDescription: "most nodes without a label", label: { $0 < 12 ? $0 % 3 : -1 }),
        Case(testDescription: "no edges, each row its own neighbour", edges: [], model: "gat"),
        Case(testDescription: "no edges", edges: [], model: "sage", stops: ["no-edges"]),
        Case(testDescription: "self edges alone", edges: [(1, 1), (2, 2)], model: "sage", stops: ["no-edges"]),
        Case(testDescription: "nobody has a label", label: { _ in -1 }, stops: ["no-labels"]),
    ]

    @Test("a hard graph is trained on and released, or refused by name with the device untouched", arguments: cases)
    func wholeWay(item: Case) async throws {
        let policy = Clinic.policy.replacing("cohort_min: 60", with: "cohort_min: 10")
        try await withEnclave(policy: policy) { enclave in
            try await Self.importFiles(of: item, enclave)
            let specification = Clinic.specification().replacing("model: gcn", with: "model: \(item.model)")
            let run = try await enclave.request(try await enclave.grant(), specification: specification)
            let end = try await enclave.finish(run)
            let closed = try await enclave.gateway.runCase(run)
            #expect(closed.stopReasons == item.stops, "\(closed.stopWords)")
            guard !item.stops.isEmpty else {
                #expect(end == .closed(.released))
                return
            }
            #expect(end != .closed(.released))
            let sequence = try await enclave.sequence(.run(run))
            #expect(!sequence.contains { $0.hasPrefix("device.") })
        }
    }

    @Test("features without a column, and none that are numbers, leave no version behind")
    func features() async throws {
        try await withEnclave { enclave in
            let versions = try await enclave.gateway.datasets().count
            for (number, array) in [
                Self.array("(61, 0)", []), Self.array("(61, 1)", Array(repeating: .nan, count: 61)),
                Self.array("(61, 1)", Array(repeating: .infinity, count: 61)),
            ].enumerated() {
                try Data(array).write(to: enclave.data.appendingPathComponent("features.npy"))
                let error = await refusal { try await enclave.importData() }
                #expect(error?.code == .usage, "\(number)")
                // What is wrong and where.
                #expect(error?.publicDescription.contains(number == 0 ? "1 to" : "row 1") == true, "\(error as Any)")
            }
            #expect(try await enclave.gateway.datasets().count == versions)
        }
    }

    private static func importFiles(of item: Case, _ enclave: Enclave) async throws {
        var nodes = "id\tcategory\tlabel\tsplit\n"
        var consent = "subject\tstate\n"
        for person in 0..<item.persons {
            let label = item.label(person)
            let split = label < 0 ? "none" : ["train", "train", "val", "test"][person / 3 % 4]
            nodes += "P:\(person)\tbiolink:Case\t\(label)\t\(split)\n"
            consent += "P:\(person)\tgiven\n"
        }
        let edges = item.edges.reduce("subject\tpredicate\tobject\n") {
            $0 + "P:\($1.0)\tbiolink:related_to\tP:\($1.1)\n"
        }
        let values = (0..<item.persons * 6).map { Float(($0 * 7919) % 101) / 50 - 1 }
        for (name, bytes) in [
            ("nodes.tsv", Array(nodes.utf8)), ("edges.tsv", Array(edges.utf8)), ("consent.tsv", Array(consent.utf8)),
            ("features.npy", array("(\(item.persons), 6)", values)),
        ] { try Data(bytes).write(to: enclave.data.appendingPathComponent(name)) }
        try await enclave.importData()
    }

    private static func array(_ shape: String, _ values: [Float]) -> [UInt8] {
        var header = "{'descr': '<f4', 'fortran_order': False, 'shape': \(shape), }"
        header += String(repeating: " ", count: 63 - (10 + header.utf8.count) % 64) + "\n"
        return [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(header.utf8.count), 0] + Array(header.utf8)
            + values.withUnsafeBytes { Array($0) }
    }
}
