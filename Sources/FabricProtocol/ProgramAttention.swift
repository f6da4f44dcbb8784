/// A graph attention (Veličković et al. 2018) as its operations share it.
///
/// For each head, an edge of target i and source j has the score e = leakyRelu(t[i] + s[j]) and the weight
/// α = exp(e − highest[i]) · inverse[i]; `AttentionScale` finds the two numbers that make Σ α over j one. No number is
/// kept for an edge: every operation computes α anew from the scalars of its two ends, with the same bits.
///
/// What carries a score or a number for each head and node is [rows, heads]; features are [rows, heads · headWidth],
/// head by head. Heads do not meet, so a slice of heads may be computed by itself: its matrices start at the slice.
package struct Attention: Hashable, Sendable {
    package var heads: Int
    package var headWidth: Int
    /// leakyRelu(x) = x where positive, else slope · x; 0 ≤ slope ≤ 1.
    package var slope: Float
    /// Kills weights: α becomes α / (1 − probability) or 0. By Philox as in `Dropout`, but with counter
    /// (j, i, epoch, stream + 2²⁴ · (1 + head / 4)) and word number head mod 4, which kills when it is less than
    /// `UInt32(probability · 2³²)`, rounded down; `firstColumn` is the head of the whole layer that head 0 is. The stream
    /// is below 2²⁴.
    package var dropout: Dropout?

    package static let headsMax = 64
    package static let streamsMax: UInt32 = 1 << 24

    package init(heads: Int, headWidth: Int, slope: Float, dropout: Dropout? = nil) {
        self.heads = heads
        self.headWidth = headWidth
        self.slope = slope
        self.dropout = dropout
    }

    package var width: Int { heads * headWidth }
}

/// The numbers of an attention's target nodes, each [.., heads]. Interleaved (one matrix, four offsets with the dots of
/// the gradient) they cost one gather an edge, not three.
package struct AttentionTargets: Hashable, Sendable {
    package var scores: Matrix
    /// The highest score over all sources; 0 for a node without any.
    package var highest: Matrix
    /// 1 / Σ exp(score − highest); 0 for a node without sources.
    package var inverse: Matrix

    package init(scores: Matrix, highest: Matrix, inverse: Matrix) {
        self.scores = scores
        self.highest = highest
        self.inverse = inverse
    }
}

/// Writes `targets.highest` and `targets.inverse` of the rows, over all their sources at once.
package struct AttentionScale: Hashable, Sendable {
    package var attention: Attention
    package var neighbours: Neighbours
    /// [rows, heads]; `scores` is read, the others are written.
    package var targets: AttentionTargets
    /// [nodes, heads]
    package var sourceScores: Matrix

    package init(attention: Attention, neighbours: Neighbours, targets: AttentionTargets, sourceScores: Matrix) {
        self.attention = attention
        self.neighbours = neighbours
        self.targets = targets
        self.sourceScores = sourceScores
    }
}

/// target row i (+)= Σ α · source row j over the neighbours j with `sourceFirstRow` ≤ j < + `sourceRows`; then `steps`.
/// Per element one chain of fused multiply-adds in ascending j, so sources may come in chunks as in `Aggregate`.
package struct Attend: Hashable, Sendable {
    package var attention: Attention
    package var neighbours: Neighbours
    /// [rows, heads]
    package var targets: AttentionTargets
    /// [sourceRows, heads]; row 0 is row `sourceFirstRow` of the graph.
    package var sourceScores: Matrix
    /// [sourceRows, heads · headWidth]; likewise.
    package var source: Matrix
    package var sourceFirstRow: Int
    package var sourceRows: Int
    /// [rows, heads · headWidth]
    package var target: Matrix
    package var accumulates: Bool
    package var steps: [Step]

    package init(
        attention: Attention, neighbours: Neighbours, targets: AttentionTargets, sourceScores: Matrix, source: Matrix,
        sourceFirstRow: Int, sourceRows: Int, target: Matrix, accumulates: Bool, steps: [Step] = []
    ) {
        self.attention = attention
        self.neighbours = neighbours
        self.targets = targets
        self.sourceScores = sourceScores
        self.source = source
        self.sourceFirstRow = sourceFirstRow
        self.sourceRows = sourceRows
        self.target = target
        self.accumulates = accumulates
        self.steps = steps
    }
}

/// Sums over edges of which the gradient of `Attend` at one end of them is made.
///
/// With g the gradient of the output, x the features that were summed and d = ⟨g, output⟩ per head (the output as
/// `Attend` left it, before any step), an edge's score has the gradient l · (α̃ · ⟨g[i], x[j]⟩ − α · d[i]), where α̃ is α
/// after dropout and l is 1 or the slope. Summed over the edges of one node that is ⟨own, Σ l · α̃ · other⟩ − Σ l · α · d,
/// own and other being g and x: so no number is needed for an edge, and columns do not meet until `HeadDots` adds the
/// first part to the second. A slice of one head's columns may therefore be summed by itself, as one head of that width.
///
/// Where the rows are `targets` they go over the index by target, and `other` is x; where they are `sources`, over the
/// index by source (the same where the graph is symmetric), and `other` is g. Chains ascend in the other end's number,
/// which may come in chunks as in `Aggregate`.
package struct AttentionGradient: Hashable, Sendable {
    package enum End: UInt8, CaseIterable, Sendable { case targets = 1, sources = 2 }

    /// [targets, heads] and [rows, heads].
    package struct Scores: Hashable, Sendable {
        /// d
        package var dots: Matrix
        /// (+)= − Σ l · α · d
        package var gradient: Matrix

        package init(dots: Matrix, gradient: Matrix) {
            self.dots = dots
            self.gradient = gradient
        }
    }

    /// [otherRows, heads · headWidth] and [rows, heads · headWidth].
    package struct Sums: Hashable, Sendable {
        package var other: Matrix
        /// (+)= Σ l · α̃ · other
        package var leaked: Matrix
        /// (+)= Σ α̃ · other: the gradient of x, where the rows are sources.
        package var weighed: Matrix?

        package init(other: Matrix, leaked: Matrix, weighed: Matrix? = nil) {
            self.other = other
            self.leaked = leaked
            self.weighed = weighed
        }
    }

    package var attention: Attention
    /// Which end the rows are; the neighbours are the other one.
    package var rowsAre: End
    package var neighbours: Neighbours
    /// Rows of the graph that the matrices of the neighbours' end hold.
    package var otherFirstRow: Int
    package var otherRows: Int
    /// [targets, heads]
    package var targets: AttentionTargets
    /// [sources, heads]
    package var sourceScores: Matrix
    /// At least one of the two.
    package var scores: Scores?
    package var sums: Sums?
    package var accumulates: Bool
    /// Of the other end's nodes those that matter, from row `otherFirstRow` on; edges of the others are left out.
    package var others: Program.ActiveRows?

    package init(
        attention: Attention, rowsAre: End, neighbours: Neighbours, otherFirstRow: Int, otherRows: Int,
        targets: AttentionTargets, sourceScores: Matrix, scores: Scores?, sums: Sums?, accumulates: Bool,
        others: Program.ActiveRows? = nil
    ) {
        self.attention = attention
        self.rowsAre = rowsAre
        self.neighbours = neighbours
        self.otherFirstRow = otherFirstRow
        self.otherRows = otherRows
        self.targets = targets
        self.sourceScores = sourceScores
        self.scores = scores
        self.sums = sums
        self.accumulates = accumulates
        self.others = others
    }
}

/// target[r, h] (+)= Σ x[r, h · headWidth + k] · y over k: scores from features, or a gradient's dots with an output. By
/// sixteen partial sums, k modulo 16, added in a fixed tree.
package struct HeadDots: Hashable, Sendable {
    package enum Other: Hashable, Sendable {
        /// `Float32[heads · headWidth]`, the same for every row.
        case vector(Place)
        /// [rows, heads · headWidth]
        case rows(Matrix)
    }
    /// [rows, heads · headWidth]
    package var x: Matrix
    package var y: Other
    /// [rows, heads]
    package var target: Matrix
    package var rows: Int
    package var heads: Int
    package var headWidth: Int
    package var accumulates: Bool

    package init(
        x: Matrix, y: Other, target: Matrix, rows: Int, heads: Int, headWidth: Int, accumulates: Bool = false
    ) {
        self.accumulates = accumulates
        self.x = x
        self.y = y
        self.target = target
        self.rows = rows
        self.heads = heads
        self.headWidth = headWidth
    }
}
