package import Foundation
package import Vocabulary

/// A made data set: people with consent in three classes, whose features and neighbours tell the class.
package enum Clinic {
    package static let dataset = try! DatasetID("test:clinic")
    package static let persons = 61
    /// Person 7 has withdrawn before anything begins.
    package static let withdrawn = "P:7"

    package static let policy = """
        version: 1
        dataset: test:clinic
        level: standard
        permission: DUO:0000042
        access:
          approvals: { required: 2, roles: [dac, data-custodian] }
        training:
          device: { pools: [campus], evidence: software, hours_max: 1000 }
          targets: { label: [DUO:0000042] }
        release:
          cohort_min: 60
          checks: [artefact, shape, cohort]
          reviewers: 2
          roles: [dac, data-custodian]

        """

    package static let form = """
        {"dataset":"test:clinic","purpose":{"codes":["DUO:0000042"],"ancestry":false,"methods":false,\
        "commercial":false,"notForProfit":true,"genetic":true},"termMonths":6,"country":"JP",\
        "institution":"test-university","project":"test-project"}
        """

    /// - Parameter hidden: the width of the hidden layer; one of 60 makes tensors as long as there are people.
    package static func specification(epochs: Int = 3, hidden: Int = 8, label: String = "label", rate: String = "0.05")
        -> String
    {
        """
        model: gcn
        hidden: [\(hidden)]
        dropout: 0.5
        learning_rate: \(rate)
        weight_decay: 5e-4
        weight_decay_layers: first
        epochs: \(epochs)
        features: none
        label: \(label)

        """
    }

    package static func write(into folder: URL, scale: Float = 1) throws {
        var nodes = "id\tcategory\tlabel\tlabel2\tsplit\n"
        var edges = "subject\tpredicate\tobject\n"
        var consent = "subject\tstate\n"
        var features: [Float] = []
        var random = SeededRandom(seed: 20)
        for person in 0..<persons {
            let label = person % 3
            let split = ["train", "train", "val", "test"][person / 3 % 4]
            nodes += "P:\(person)\tbiolink:Case\t\(label)\t\(label)\t\(split)\n"
            consent += "P:\(person)\t\("P:\(person)" == withdrawn ? "withdrawn" : "given")\n"
            for other in [person + 3, person + 9] where other < persons {
                edges += "P:\(person)\tbiolink:related_to\tP:\(other)\nP:\(other)\tbiolink:related_to\tP:\(person)\n"
            }
            for column in 0..<6 {
                features.append(scale * ((column % 3 == label ? 1 : 0) + Float.random(in: -0.3...0.3, using: &random)))
            }
        }
        func write(_ name: String, _ bytes: some Sequence<UInt8>) throws {
            try Data(bytes).write(to: folder.appendingPathComponent(name))
        }
        try write("nodes.tsv", nodes.utf8)
        try write("edges.tsv", edges.utf8)
        try write("consent.tsv", consent.utf8)
        var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(persons), 6), }"
        header += String(repeating: " ", count: 63 - (10 + header.utf8.count) % 64) + "\n"
        try write(
            "features.npy",
            [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(header.utf8.count), 0] + Array(header.utf8)
                + features.withUnsafeBytes { Array($0) })
    }
}
