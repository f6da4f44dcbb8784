import Vocabulary

/// Rows that reach a labelled one along at most so many edges: only these can change the loss, so only these are computed
/// and only these have a gradient. A model's last layer needs the labelled rows themselves, the one before also their
/// neighbours, and so on. It skips rows where they lie, so no sum changes its order.
package enum Frontier {
    /// Beyond so many steps all rows are taken; a byte for each node has room for four sets in training and evaluation.
    package static let hopsMax = 3

    /// The bit of a node's byte.
    package static func bit(_ phase: OpGraph.Phase, hops: Int) -> UInt8 {
        UInt8(hops) + (phase == .train ? 0 : 4)
    }
}

extension ImageShape {
    /// About which part of the rows is within so many steps of a row whose label counts, for forecasts: as if edges
    /// ended anywhere. `nil` hops are all rows.
    func share(_ phase: OpGraph.Phase, hops: Int?) -> Double {
        guard let hops else { return 1 }
        let counted =
            phase == .train ? labelled[Int(Split.train.rawValue)] : labelled.dropFirst().reduce(0, +)
        var missed = 1 - Double(counted) / Double(max(nodes, 1))
        let degree = Double(edges) / Double(max(nodes, 1))
        for _ in 0..<hops {
            // (1 − p)^(degree + 1), by squaring and a rest, since nothing here may need the C library.
            var power = 1.0
            var left = Int(degree.rounded()) + 1
            var base = missed
            while left > 0 {
                if left & 1 == 1 { power *= base }
                base *= base
                left >>= 1
            }
            missed = power
        }
        return 1 - missed
    }
}
