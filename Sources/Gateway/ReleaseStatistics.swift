import Vocabulary

import func Glibc.erfc
import func Glibc.exp
import func Glibc.log

/// What tells whether a model remembers whom it was trained on. Pure; the checks of a release decide by it.
package enum ReleaseStatistics {
    /// The probability that a member scores higher than somebody else, ties counted half; ½ tells nothing.
    package static func auc(members: [Double], others: [Double]) -> Double {
        let all = members.map { ($0, true) } + others.map { ($0, false) }
        let sorted = all.sorted { $0.0 < $1.0 }
        var ranks = 0.0
        var start = 0
        while start < sorted.count {
            var end = start
            while end < sorted.count, sorted[end].0 == sorted[start].0 { end += 1 }
            // Ranks from 1; equal scores share their mean.
            let rank = Double(start + end + 1) / 2
            ranks += rank * Double(sorted[start..<end].count { $0.1 })
            start = end
        }
        let (n, m) = (Double(members.count), Double(others.count))
        return (ranks - n * (n + 1) / 2) / (n * m)
    }

    /// How likely an AUC at least this high is where there is nothing to tell. Variance under the null hypothesis:
    /// (¼ + (n₊ − 1)/12 + (n₋ − 1)/12) / (n₊ n₋).
    package static func significance(ofAUC auc: Double, members: Int, others: Int) -> Double {
        let (n, m) = (Double(members), Double(others))
        let variance = (0.25 + (n - 1) / 12 + (m - 1) / 12) / (n * m)
        return erfc((auc - 0.5) / variance.squareRoot() / 2.0.squareRoot()) / 2
    }

    /// The Kolmogorov–Smirnov distance of two samples, and how likely one at least as large is where both come of the
    /// same distribution: exactly where both are of at most 10,000, by Kolmogorov's series beyond. SciPy's `ks_2samp`
    /// draws the line at the same place.
    package static func kolmogorovSmirnov(_ a: [Double], _ b: [Double]) -> (distance: Double, significance: Double) {
        guard !a.isEmpty, !b.isEmpty else { return (0, 1) }
        let (a, b) = (a.sorted(), b.sorted())
        var (i, j, most) = (0, 0, 0)
        while i < a.count, j < b.count {
            let value = min(a[i], b[j])
            while i < a.count, a[i] == value { i += 1 }
            while j < b.count, b[j] == value { j += 1 }
            most = max(most, abs(i * b.count - j * a.count))
        }
        let distance = Double(most) / (Double(a.count) * Double(b.count))
        if max(a.count, b.count) <= exactRowsMax {
            return (distance, exactSignificance(of: most, a.count, b.count))
        }
        let (n, m) = (Double(a.count), Double(b.count))
        let x = (n * m / (n + m)).squareRoot() * distance
        guard x > 0.2 else { return (distance, 1) }
        let series = (1...100).reduce(0.0) { sum, k in
            sum + (k.isMultiple(of: 2) ? -1 : 1) * exp(-2 * Double(k * k) * x * x)
        }
        return (distance, min(max(2 * series, 0), 1))
    }

    private static let exactRowsMax = 10_000

    /// Hodges, "The significance probability of the Smirnov two-sample test", 1958: all orders of n + m values are as
    /// likely, so an order is a walk from (0, 0) to (n, m), and what is asked is how likely it leaves |i·m − j·n| < most.
    ///
    /// The walk's own probabilities are carried along, so nothing grows or shrinks out of a Double's range.
    private static func exactSignificance(of most: Int, _ n: Int, _ m: Int) -> Double {
        guard most > 0 else { return 1 }
        // Probability of being at (i, j) without having left, for the present i.
        var inside = [Double](repeating: 0, count: m + 1)
        for i in 0...n {
            var before = 0.0
            // Only these j are inside: |i·m − j·n| < most.
            let low = max((i * m - most) / n - 1, 0)
            let high = min((i * m + most) / n + 1, m)
            for j in low...high {
                if abs(i * m - j * n) >= most {
                    inside[j] = 0
                    before = 0
                    continue
                }
                let left = Double(n + m - i - j + 1)
                let fromA = i > 0 ? inside[j] * Double(n - i + 1) / left : 0
                let fromB = j > 0 ? before * Double(m - j + 1) / left : 0
                inside[j] = i == 0 && j == 0 ? 1 : fromA + fromB
                before = inside[j]
            }
        }
        return min(max(1 - inside[m], 0), 1)
    }

    /// Fewer are too few: the parameters could hold the rows themselves. SACRO asks for as many.
    package static let freedomMin = 10

    /// Rows that were trained on, less the parameters that were fitted to them.
    package static func degreesOfFreedom(rows: Int, parameters: Int) -> Int { rows - parameters }

    /// In how many of `repetitions` an attacker who knows half of the members and half of the others tells the rest
    /// apart better than by chance (p < 0.05), from the model's probabilities alone.
    ///
    /// This is the worst case: nobody outside knows that much. The attack is a logistic regression on what a row's
    /// probabilities look like, whichever class they are of: the highest, the second, their entropy.
    package static func membershipAttack(
        members: [[Double]], others: [[Double]], repetitions: Int = 10, seed: UInt64
    ) -> (significant: Int, meanAUC: Double) {
        let (members, others) = (members.map(looks), others.map(looks))
        let count = min(members.count, others.count)
        var random = SplitMix(state: seed)
        var (significant, sum) = (0, 0.0)
        for _ in 0..<repetitions {
            // As many of each, so that guessing the larger side gains nothing.
            let known = (members.shuffled(using: &random).prefix(count), others.shuffled(using: &random).prefix(count))
            let half = count / 2
            let attack = LogisticRegression(
                known.0.prefix(half).map { ($0, 1) } + known.1.prefix(half).map { ($0, 0) })
            let inside = known.0.dropFirst(half).map(attack.score)
            let outside = known.1.dropFirst(half).map(attack.score)
            let auc = auc(members: inside, others: outside)
            sum += auc
            if significance(ofAUC: auc, members: inside.count, others: outside.count) < 0.05 { significant += 1 }
        }
        return (significant, sum / Double(repetitions))
    }

    private static func looks(_ probabilities: [Double]) -> [Double] {
        let sorted = probabilities.sorted(by: >)
        let entropy = probabilities.reduce(0) { $0 - ($1 > 0 ? $1 * log($1) : 0) }
        return [sorted[0], sorted.count > 1 ? sorted[1] : 0, entropy]
    }

    /// Softmax of one row, and the negative logarithm of one of its entries.
    package static func probabilities(_ outputs: some Collection<Float>) -> [Double] {
        let most = Double(outputs.max() ?? 0)
        let powers = outputs.map { exp(Double($0) - most) }
        let total = powers.reduce(0, +)
        return powers.map { $0 / total }
    }
}

/// Weights by gradient descent on standardised columns, with a little shrinkage so that separable data have an answer.
private struct LogisticRegression {
    private var weights: [Double]
    private let means: [Double]
    private let deviations: [Double]

    init(_ rows: [([Double], Double)]) {
        let width = rows.first?.0.count ?? 0
        let count = Double(max(rows.count, 1))
        var means = [Double](repeating: 0, count: width)
        var deviations = means
        for column in 0..<width {
            let mean = rows.reduce(0) { $0 + $1.0[column] } / count
            let variance = rows.reduce(0) { $0 + ($1.0[column] - mean) * ($1.0[column] - mean) } / count
            means[column] = mean
            deviations[column] = max(variance.squareRoot(), 1e-9)
        }
        self.means = means
        self.deviations = deviations
        weights = [Double](repeating: 0, count: width + 1)
        for _ in 0..<300 {
            var slope = weights.map { 0.001 * $0 }
            for (row, label) in rows {
                let error = 1 / (1 + exp(-score(row))) - label
                for column in 0..<width {
                    slope[column] += error * (row[column] - means[column]) / deviations[column] / count
                }
                slope[width] += error / count
            }
            for index in weights.indices { weights[index] -= slope[index] }
        }
    }

    func score(_ row: [Double]) -> Double {
        row.indices.reduce(weights[row.count]) {
            $0 + weights[$1] * (row[$1] - means[$1]) / deviations[$1]
        }
    }
}

/// Steele, Lea & Flood 2014. The same seed draws the same halves, so a check can be made again.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
