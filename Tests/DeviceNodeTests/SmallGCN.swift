import FabricProtocol
import Glibc
import TestSupport
import Vocabulary

/// A two-layer GCN over a random graph: its program for any chunk of rows, and its plain float64 loss.
struct SmallGCN {
    let graph: Reference.Graph
    let features: [Float]
    let scale: [Float]
    let labels: [Int32]
    let split: [UInt8]
    var nodes: Int { graph.nodes }
    let width = 24
    let hidden = 16
    let classes = 5
    let dropout: Float = 0.25

    init(nodes: Int, seed: UInt64) {
        var random = SeededRandom(seed: seed)
        graph = Reference.Graph(random: nodes, edges: nodes * 4, using: &random)
        features = (0..<nodes * width).map { _ in Float.random(in: -1...1, using: &random) }
        let pointers = graph.pointers
        scale = (0..<nodes).map { 1 / Float(pointers[$0 + 1] - pointers[$0] + 1).squareRoot() }
        labels = (0..<nodes).map { _ in Int32.random(in: -1..<5, using: &random) }
        split = (0..<nodes).map { _ in UInt8.random(in: 0...3, using: &random) }
    }

    func seal(into rig: Rig) throws {
        try rig.seal(.rowPointers, graph.pointers, window: 1)
        try rig.seal(.columns, graph.neighbours, window: 2)
        try rig.seal(.features, features, window: 3)
        try rig.seal(.scale, scale, window: 5)
        try rig.seal(.labels, labels, window: 6)
        try rig.seal(.split, split, window: 7)
    }

    struct Layout {
        var program: Program
        var memoryBytes: Int
        /// Byte offsets in device memory of W₁, b₁, W₂, b₂ and of their gradients, one after the other.
        var parameters: Int
        var gradients: Int
    }

    var parameterCounts: [Int] { [width * hidden, hidden, hidden * classes, classes] }
    var parameterCount: Int { parameterCounts.reduce(0, +) }

    /// One epoch. With one chunk everything stays in device memory; with more, whatever has a row for each node
    /// crosses in chunks.
    func program(chunkRows: Int) -> Layout {
        var builder = ProgramBuilder()
        let chunks = stride(from: 0, to: nodes, by: chunkRows).map { $0..<min($0 + chunkRows, nodes) }
        builder.window(1, .image(.rowPointers), (nodes + 1) * 8)
        builder.window(2, .image(.columns), graph.neighbours.count * 4)
        builder.window(3, .image(.features), features.count * 4)
        builder.window(5, .image(.scale), nodes * 4)
        builder.window(6, .image(.labels), nodes * 4)
        builder.window(7, .image(.split), nodes)
        let tensors: [UInt16: Int] = [20: hidden, 21: hidden, 22: classes, 23: classes, 24: hidden]
        // A chunk of a spilled tensor starts on a block.
        func slotBytes(_ columns: Int) -> Int {
            (min(chunkRows, nodes) * columns * 4 + Limits.blockBytes - 1) / Limits.blockBytes * Limits.blockBytes
        }
        for (id, columns) in tensors.sorted(by: { $0.key < $1.key }) {
            builder.window(id, .spill, chunks.count * slotBytes(columns))
        }
        builder.window(30, .result, parameterCount * 4)

        let parameters = builder.buffer(parameterCount * 4)
        let gradients = builder.buffer(parameterCount * 4)
        let best = builder.buffer(parameterCount * 4)
        let moments = [builder.buffer(parameterCount * 4), builder.buffer(parameterCount * 4)]
        let counts = parameterCounts
        func part(_ base: Place, _ index: Int) -> Place {
            Place(buffer: base.buffer, offset: counts[..<index].reduce(0, +) * 4)
        }
        let stacks = [(width, hidden), (1, hidden), (hidden, classes), (1, classes)].map {
            builder.buffer(Program.tileStackBytes(totalRows: nodes, rows: $0.0, columns: $0.1))
        }
        let total = builder.buffer(8)
        let scores = builder.buffer(Scores.byteCount)
        let state = builder.buffer(KeepBest.stateBytes)
        let rows = chunks.map(\.count).max()!
        let edges = chunks.map { Int(graph.pointers[$0.upperBound] - graph.pointers[$0.lowerBound]) }.max()!
        let pointers = builder.buffer((rows + 1) * 8)
        let columns = builder.buffer(max(edges, 1) * 4)
        let scaleRows = builder.buffer(rows * 4)
        let labelRows = builder.buffer(rows * 4)
        let splitRows = builder.buffer(rows)
        let wide = builder.buffer(rows * width * 4)
        let out = builder.buffer(slotBytes(hidden))
        let second = builder.buffer(slotBytes(hidden))
        let sources = [builder.buffer(rows * hidden * 4), builder.buffer(rows * hidden * 4)]
        // With one chunk a tensor is its own spill: it only needs a home.
        let homes = chunks.count == 1 ? tensors.mapValues { builder.buffer(nodes * $0 * 4) } : [:]

        func fetch(_ window: UInt16, _ range: Range<Int>, _ bytesEach: Int, into place: Place) {
            builder.add(
                .fetch(
                    Transfer(
                        window: window, windowOffset: range.lowerBound * bytesEach, byteCount: range.count * bytesEach,
                        place: place)))
        }
        func topology(_ chunk: Range<Int>) {
            fetch(1, chunk.lowerBound..<chunk.upperBound + 1, 8, into: pointers)
            let range = Int(graph.pointers[chunk.lowerBound])..<Int(graph.pointers[chunk.upperBound])
            if !range.isEmpty { fetch(2, range, 4, into: columns) }
            fetch(5, chunk, 4, into: scaleRows)
        }
        func save(_ id: UInt16, _ chunk: Range<Int>, from place: Place) {
            let width = tensors[id]!
            if let home = homes[id] {
                builder.add(
                    .copy(
                        Copy(
                            source: Matrix(place, stride: width), target: Matrix(home, stride: width),
                            rows: chunk.count, columns: width)), reads: [place], writes: [home])
            } else {
                builder.add(
                    .store(
                        Transfer(
                            window: id, windowOffset: chunk.lowerBound / chunkRows * slotBytes(width),
                            byteCount: slotBytes(width), place: place)))
            }
        }
        func restore(_ id: UInt16, _ chunk: Range<Int>, into place: Place) -> Place {
            if let home = homes[id] { return home }
            let width = tensors[id]!
            builder.add(
                .fetch(
                    Transfer(
                        window: id, windowOffset: chunk.lowerBound / chunkRows * slotBytes(width),
                        byteCount: chunk.count * width * 4, place: place)))
            return place
        }
        var turn = 0
        func aggregate(_ id: UInt16, _ chunk: Range<Int>, into target: Place, steps: [Step], reads: [Place] = []) {
            let width = tensors[id]!
            for (index, source) in chunks.enumerated() {
                turn += 1
                let place = restore(id, source, into: sources[turn % 2])
                builder.add(
                    .aggregate(
                        Aggregate(
                            neighbours: Neighbours(
                                rowPointers: pointers, columns: columns,
                                edgeBase: Int(graph.pointers[chunk.lowerBound]),
                                edges: Int(graph.pointers[chunk.upperBound] - graph.pointers[chunk.lowerBound]),
                                firstRow: chunk.lowerBound, rows: chunk.count, nodes: nodes),
                            source: Matrix(place, stride: width), sourceFirstRow: source.lowerBound,
                            sourceRows: source.count, target: Matrix(target, stride: width), width: width,
                            accumulates: index > 0, steps: index == chunks.count - 1 ? steps : [])),
                    reads: [place, pointers, columns, scaleRows] + reads, writes: [target])
            }
        }

        builder.add(
            .initialise(
                Initialise(target: Matrix(part(parameters, 0), stride: hidden), rows: width, columns: hidden, stream: 0)
            ),
            writes: [parameters], with: .first)
        builder.add(.fill(Fill(part(parameters, 1), count: hidden)), writes: [parameters], with: .first)
        builder.add(
            .initialise(
                Initialise(
                    target: Matrix(part(parameters, 2), stride: classes), rows: hidden, columns: classes, stream: 1)),
            writes: [parameters], with: .first)
        builder.add(.fill(Fill(part(parameters, 3), count: classes)), writes: [parameters], with: .first)
        for moment in moments {
            builder.add(.fill(Fill(moment, count: parameterCount)), writes: [moment], with: .first)
        }
        builder.add(.fill(Fill(state, count: KeepBest.stateBytes / 4)), writes: [state], with: .first)

        // s ⊙ X W₁; the weight of the labels beside it.
        for chunk in chunks {
            fetch(3, chunk, width * 4, into: wide)
            fetch(5, chunk, 4, into: scaleRows)
            builder.add(
                .product(
                    Product(
                        a: Matrix(wide, stride: width), b: Matrix(part(parameters, 0), stride: hidden),
                        c: Matrix(out, stride: hidden), rows: chunk.count, columns: hidden, inner: width,
                        steps: [.scaleRows(scaleRows)])),
                reads: [wide, parameters, scaleRows], writes: [out])
            save(20, chunk, from: out)
            fetch(6, chunk, 4, into: labelRows)
            fetch(7, chunk, 1, into: splitRows)
            builder.add(
                .labelWeight(
                    LabelWeight(
                        targets: .classes(labelRows), split: splitRows, rows: chunk.count, classes: classes,
                        total: total,
                        accumulates: chunk.lowerBound > 0)), reads: [labelRows, splitRows], writes: [total])
        }
        let mask = Dropout(probability: dropout, stream: 9)
        // H = dropout(relu(s ⊙ A(·) + b₁)) and s ⊙ H W₂.
        for chunk in chunks {
            topology(chunk)
            aggregate(
                20, chunk, into: out,
                steps: [.scaleRows(scaleRows), .bias(part(parameters, 1)), .relu], reads: [parameters])
            builder.add(
                .map(
                    RowMap(
                        source: Matrix(out, stride: hidden), target: Matrix(out, stride: hidden), rows: chunk.count,
                        columns: hidden, firstRow: chunk.lowerBound, steps: [.dropout(mask)])), writes: [out])
            save(21, chunk, from: out)
            builder.add(
                .product(
                    Product(
                        a: Matrix(out, stride: hidden), b: Matrix(part(parameters, 2), stride: classes),
                        c: Matrix(second, stride: classes), rows: chunk.count, columns: classes, inner: hidden,
                        steps: [.scaleRows(scaleRows)])),
                reads: [out, parameters, scaleRows], writes: [second])
            save(22, chunk, from: second)
        }
        // Loss, and s ⊙ dZ.
        for chunk in chunks {
            topology(chunk)
            aggregate(
                22, chunk, into: out, steps: [.scaleRows(scaleRows), .bias(part(parameters, 3))], reads: [parameters])
            fetch(6, chunk, 4, into: labelRows)
            fetch(7, chunk, 1, into: splitRows)
            builder.add(
                .loss(
                    Loss(
                        outputs: Matrix(out, stride: classes), targets: .classes(labelRows), split: splitRows,
                        firstRow: chunk.lowerBound, rows: chunk.count, totalRows: nodes, classes: classes,
                        total: total, gradient: Matrix(out, stride: classes), scores: scores)),
                reads: [labelRows, splitRows, total], writes: [out, scores])
            builder.add(
                .tileColumnSum(
                    TileColumnSum(
                        a: Matrix(out, stride: classes), columns: classes, firstRow: chunk.lowerBound,
                        rows: chunk.count, totalRows: nodes, stack: stacks[3])), reads: [out], writes: [stacks[3]])
            builder.add(
                .map(
                    RowMap(
                        source: Matrix(out, stride: classes), target: Matrix(second, stride: classes),
                        rows: chunk.count, columns: classes, steps: [.scaleRows(scaleRows)])),
                reads: [out, scaleRows], writes: [second])
            save(23, chunk, from: second)
        }
        // Back through layer 2: dW₂ = Hᵀ dT, dH = dT W₂ᵀ, and s ⊙ dZ₁.
        for chunk in chunks {
            topology(chunk)
            aggregate(23, chunk, into: out, steps: [.scaleRows(scaleRows)])
            let h = restore(21, chunk, into: wide)
            builder.add(
                .tileProduct(
                    TileProduct(
                        a: Matrix(h, stride: hidden), b: Matrix(out, stride: classes), m: hidden, n: classes,
                        firstRow: chunk.lowerBound, rows: chunk.count, totalRows: nodes, stack: stacks[2])),
                reads: [h, out], writes: [stacks[2]])
            builder.add(
                .product(
                    Product(
                        a: Matrix(out, stride: classes), b: Matrix(part(parameters, 2), stride: classes),
                        c: Matrix(second, stride: hidden), rows: chunk.count, columns: hidden, inner: classes,
                        transposesB: true, firstRow: chunk.lowerBound,
                        steps: [.dropout(mask), .reluGradient(Matrix(h, stride: hidden))])),
                reads: [out, parameters, h], writes: [second])
            builder.add(
                .tileColumnSum(
                    TileColumnSum(
                        a: Matrix(second, stride: hidden), columns: hidden, firstRow: chunk.lowerBound,
                        rows: chunk.count, totalRows: nodes, stack: stacks[1])), reads: [second], writes: [stacks[1]])
            builder.add(
                .map(
                    RowMap(
                        source: Matrix(second, stride: hidden), target: Matrix(second, stride: hidden),
                        rows: chunk.count, columns: hidden, steps: [.scaleRows(scaleRows)])),
                reads: [scaleRows], writes: [second])
            save(24, chunk, from: second)
        }
        // dW₁ = Xᵀ (s ⊙ A (s ⊙ dZ₁)).
        for chunk in chunks {
            topology(chunk)
            aggregate(24, chunk, into: out, steps: [.scaleRows(scaleRows)])
            fetch(3, chunk, width * 4, into: wide)
            builder.add(
                .tileProduct(
                    TileProduct(
                        a: Matrix(wide, stride: width), b: Matrix(out, stride: hidden), m: width, n: hidden,
                        firstRow: chunk.lowerBound, rows: chunk.count, totalRows: nodes, stack: stacks[0])),
                reads: [wide, out], writes: [stacks[0]])
        }
        for index in counts.indices {
            builder.add(
                .tileFinish(
                    TileFinish(
                        stack: stacks[index], totalRows: nodes, count: counts[index], target: part(gradients, index))),
                reads: [stacks[index]], writes: [gradients])
        }
        builder.add(.report(Report(scores: scores, totalRows: nodes, slot: 4)), reads: [scores])
        builder.add(
            .keepBest(
                KeepBest(
                    scores: scores, rule: .accuracy, parameters: parameters, best: best, count: parameterCount,
                    state: state)), reads: [scores, parameters], writes: [best, state])
        builder.add(
            .adam(
                Adam(
                    parameter: parameters, gradient: gradients, firstMoment: moments[0], secondMoment: moments[1],
                    count: parameterCount, weightDecay: 5e-4)),
            reads: [gradients], writes: [parameters] + moments, with: .train)
        builder.add(
            .store(Transfer(window: 30, windowOffset: 0, byteCount: parameterCount * 4, place: parameters)),
            with: .export)
        return Layout(
            program: builder.program, memoryBytes: builder.memory,
            parameters: builder.program.buffers[Int(parameters.buffer)].offset,
            gradients: builder.program.buffers[Int(gradients.buffer)].offset)
    }

    /// Mean training loss in float64, forward only.
    func loss(_ parameters: [Double], seed: UInt64, epoch: UInt32) -> Double {
        let x = features.map(Double.init)
        let s = scale.map(Double.init)
        var at = 0
        let parts = parameterCounts.map { count -> [Double] in
            defer { at += count }
            return Array(parameters[at..<at + count])
        }
        func layer(_ input: [Double], _ weight: [Double], _ bias: [Double], inner: Int, columns: Int) -> [Double] {
            var t = Reference.product(input, weight, rows: nodes, columns: columns, inner: inner)
            for index in t.indices { t[index] *= s[index / columns] }
            var z = Reference.aggregate(graph, t, width: columns)
            for index in z.indices { z[index] = z[index] * s[index / columns] + bias[index % columns] }
            return z
        }
        var h = layer(x, parts[0], parts[1], inner: width, columns: hidden)
        for index in h.indices {
            h[index] =
                max(h[index], 0)
                * Double(
                    Reference.dropout(
                        row: index / hidden, column: index % hidden, epoch: epoch, stream: 9, seed: seed,
                        probability: dropout))
        }
        let z = layer(h, parts[2], parts[3], inner: hidden, columns: classes)
        let loss = Reference.loss(z, labels: labels, split: split, classes: classes, classWeights: nil)
        return loss.sums[0] / loss.weights[0]
    }
}
