import TestSupport
import Testing
import TrainingPlanner
import Vocabulary

@Suite struct PlannerTests {
    static func image(_ model: ModelShape, nodes: Int, degree: Int) -> ImageShape {
        let tiles = (nodes + ImageShape.tileRows - 1) / ImageShape.tileRows
        return ImageShape(
            nodes: nodes, edges: nodes * degree, features: model.widths.first!, classes: model.widths.last!,
            labelled: [0, nodes / 2, nodes / 4, nodes / 4],
            tileEdges: (0...tiles).map { UInt64(min($0 * ImageShape.tileRows, nodes) * degree) },
            recipe: ImageRecipe(
                aggregation: model.aggregation, normalisation: .none,
                aggregatesFirstLayer: !model.dropsFeatures && [.gcn, .sage].contains(model.aggregation)))
    }

    static func random(_ random: inout SeededRandom) -> (ModelShape, ImageShape) {
        let widths = (0..<Int.random(in: 3...5, using: &random)).map { _ in Int.random(in: 2...300, using: &random) }
        let model = ModelShape(
            aggregation: Bool.random(using: &random) ? .gcn : .sage, widths: widths,
            dropsFeatures: Bool.random(using: &random), dropsHidden: Bool.random(using: &random))
        return (
            model,
            image(
                model, nodes: Int.random(in: 500...200_000, using: &random),
                degree: Int.random(in: 1...30, using: &random))
        )
    }

    @Test("with room for everything, everything stays resident")
    func resident() throws {
        let model = ModelShape(aggregation: .gcn, widths: [128, 256, 40], dropsFeatures: false, dropsHidden: true)
        let plan = try Planner.plan(
            model: model, image: Self.image(model, nodes: 131_072, degree: 19),
            budget: Budget(deviceBytes: 4 << 30, hostBytes: 4 << 30))
        #expect(plan.cut.ways.isEmpty && plan.cut.sliceWidths.isEmpty)
        #expect(plan.forecast.fetchedBytesPerEpoch == 0 && plan.forecast.storedBytesPerEpoch == 0)
        #expect(plan.why.first?.rejection == nil)
    }

    @Test("buffers that live at the same time never share bytes, under any cut", arguments: [UInt64(1), 2, 3])
    func disjoint(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        for _ in 0..<20 {
            let (model, image) = Self.random(&random)
            for cut in Self.cuts(model, image, &random) {
                let plan = try Planner.plan(
                    model: model, image: image, budget: Budget(deviceBytes: 1 << 40, hostBytes: 1 << 40), cut: cut)
                let last = plan.passes.count - 1
                for (index, one) in plan.buffers.enumerated() {
                    #expect(one.offset.isMultiple(of: Planner.alignment))
                    #expect(one.offset + one.byteCount <= plan.forecast.deviceBytes)
                    for other in plan.buffers[..<index]
                    where (one.lifetime ?? 0...last).overlaps(other.lifetime ?? 0...last) {
                        // Within a pass, rows that end before others begin may share bytes with them.
                        if let lifetime = one.lifetime, lifetime == other.lifetime, lifetime.count == 1 { continue }
                        #expect(
                            one.offset >= other.offset + other.byteCount || other.offset >= one.offset + one.byteCount,
                            "seed \(seed): \(one.name) and \(other.name)")
                    }
                }
            }
        }
    }

    /// Everything resident, everything moved, and something between.
    static func cuts(_ model: ModelShape, _ image: ImageShape, _ random: inout SeededRandom) -> [Cut] {
        let choices = Planner.choices(model: model, image: image)
        let rows = max(4, (image.nodes / 20 + 1023) / 1024) * 1024
        var mixed = Cut(chunkRows: rows * 2)
        for choice in choices {
            if choice.recomputes, Bool.random(using: &random) {
                mixed.ways[choice.name] = .recompute
            } else if choice.moves, Bool.random(using: &random) {
                mixed.ways[choice.name] = .moved(
                    residentChunks: choice.movesWhole ? 0 : Int.random(in: 0...5, using: &random))
            }
            if choice.slices, Bool.random(using: &random) { mixed.sliceWidths[choice.name] = max(choice.width / 3, 1) }
        }
        return [
            Cut(chunkRows: rows),
            Cut(
                chunkRows: rows,
                ways: Dictionary(
                    uniqueKeysWithValues: choices.filter(\.moves).map { ($0.name, .moved(residentChunks: 0)) })),
            mixed,
        ]
    }

    @Test("what does not fit is refused with the bytes that would do, and these do", arguments: [UInt64(5)])
    func refusal(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        for _ in 0..<10 {
            let (model, image) = Self.random(&random)
            let tight = Budget(deviceBytes: 1 << 10, hostBytes: 1 << 40)
            let error = try #require(throws: PlanError.self) {
                try Planner.plan(model: model, image: image, budget: tight)
            }
            #expect(error.code == .doesNotFit)
            let plan = try Planner.plan(
                model: model, image: image, budget: Budget(deviceBytes: error.neededDeviceBytes, hostBytes: 1 << 40))
            #expect(plan.forecast.deviceBytes <= error.neededDeviceBytes, "seed \(seed)")
            let below = Budget(deviceBytes: error.neededDeviceBytes / 4, hostBytes: 1 << 40)
            #expect(throws: PlanError.self, "seed \(seed)") {
                try Planner.plan(model: model, image: image, budget: below)
            }
        }
    }

    @Test(
        "more device memory makes the forecast no slower, but for the two percent that a plan may be from the best",
        arguments: [UInt64(8)])
    func monotonic(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        for _ in 0..<5 {
            let (model, image) = Self.random(&random)
            var previous = 0.0
            for share in stride(from: 1.0, through: 0.1, by: -0.1) {
                let all = try Planner.plan(
                    model: model, image: image, budget: Budget(deviceBytes: 1 << 40, hostBytes: 1 << 40))
                let budget = Budget(deviceBytes: Int(Double(all.forecast.deviceBytes) * share), hostBytes: 1 << 40)
                guard let plan = try? Planner.plan(model: model, image: image, budget: budget) else { break }
                #expect(plan.forecast.deviceBytes <= budget.deviceBytes)
                #expect(plan.forecast.secondsPerEpoch >= previous / 1.02, "seed \(seed) at \(share)")
                previous = plan.forecast.secondsPerEpoch
            }
        }
    }

    /// Models and graphs as they are used: R-MAT of scales 17 and 20, PubMed.
    static let usual: [(name: String, model: ModelShape, nodes: Int, degree: Int)] = {
        let heads = ModelShape.Attention(heads: 4, outputHeads: 1)
        func shape(_ model: Aggregation, _ widths: [Int], normalises: Bool = false) -> ModelShape {
            ModelShape(
                aggregation: model, widths: widths, dropsFeatures: false, dropsHidden: true, isResidual: normalises,
                normalises: normalises, activation: model == .gat ? .elu : .relu, attention: heads)
        }
        return [
            ("GCN", shape(.gcn, [128, 256, 40]), 1 << 17, 19), ("SAGE", shape(.sage, [128, 256, 40]), 1 << 17, 19),
            ("GAT", shape(.gat, [128, 256, 40]), 1 << 17, 20),
            ("normalised GCN", shape(.gcn, [128, 256, 256, 40], normalises: true), 1 << 17, 19),
            ("large GCN", shape(.gcn, [128, 256, 256, 40]), 1 << 20, 20),
            ("large SAGE", shape(.sage, [128, 256, 256, 40]), 1 << 20, 20),
            ("large GAT", shape(.gat, [128, 256, 40]), 1 << 20, 20),
            ("PubMed GCN", shape(.gcn, [500, 16, 3]), 19_717, 5),
            ("PubMed GAT", shape(.gat, [500, 64, 3]), 19_717, 5),
            (
                "PubMed GAT of 2018",
                ModelShape(
                    aggregation: .gat, widths: [500, 64, 3], dropsFeatures: true, dropsHidden: true, activation: .elu,
                    attention: .init(heads: 8, outputHeads: 8)), 19_717, 5
            ),
        ]
    }()

    @Test("every model has a plan in five percent of its working set")
    func fivePercent() throws {
        for (name, model, nodes, degree) in Self.usual {
            let image = Self.image(model, nodes: nodes, degree: degree)
            let all = try Planner.plan(
                model: model, image: image, budget: Budget(deviceBytes: 1 << 40, hostBytes: 1 << 40))
            let budget = Budget(deviceBytes: all.forecast.deviceBytes / 20, hostBytes: 1 << 40)
            let plan = try Planner.plan(model: model, image: image, budget: budget)
            print(
                "\(name) in five percent: \(plan.forecast.secondsPerEpoch / all.forecast.secondsPerEpoch) of the time,",
                "\(plan.evaluations) decisions, \(plan.costs.reduce(0) { $0 + $1.commands }) commands")
            #expect(plan.forecast.deviceBytes <= budget.deviceBytes, "\(name)")
        }
    }

    @Test("planning looks at a bounded number of decisions, at any budget", arguments: usual.map(\.name))
    func quick(name: String) throws {
        let (_, model, nodes, degree) = try #require(Self.usual.first { $0.name == name })
        let image = Self.image(model, nodes: nodes, degree: degree)
        let all = try Planner.plan(
            model: model, image: image, budget: Budget(deviceBytes: 1 << 40, hostBytes: 1 << 40))
        var times: [String] = []
        for percent in [100, 50, 25, 12, 5] {
            let budget = Budget(deviceBytes: all.forecast.deviceBytes * percent / 100, hostBytes: 1 << 40)
            var best = Double.infinity
            for _ in 0..<5 {
                let start = ContinuousClock.now
                let plan = try Planner.plan(model: model, image: image, budget: budget)
                best = min(best, start.duration(to: .now) / .seconds(1))
                #expect(plan.forecast.deviceBytes <= budget.deviceBytes)
                #expect(plan.evaluations <= 500)
            }
            times.append(String((best * 10_000).rounded() / 10))
        }
        // The times are for docs/performance.md; other work on the machine decides them too.
        print("planning \(name) with 100, 50, 25, 12 and 5 %: \(times.joined(separator: ", ")) ms")
    }

    @Test("with half and a quarter of its memory, an attention moves fewer bytes than it lacks")
    func attentionBytes() throws {
        let model = Self.usual.first { $0.name == "GAT" }!.model
        let image = Self.image(model, nodes: 1 << 17, degree: 20)
        func plan(_ bytes: Int) throws -> TrainingPlan {
            try Planner.plan(model: model, image: image, budget: Budget(deviceBytes: bytes, hostBytes: 1 << 40))
        }
        let all = try plan(1 << 40).forecast
        for part in [2, 4] {
            let small = try plan(all.deviceBytes / part)
            let moved = small.forecast.fetchedBytesPerEpoch + small.forecast.storedBytesPerEpoch
            print(
                "GAT in 1/\(part): \(Double(moved) / Double(all.deviceBytes - small.budget.deviceBytes)) of what it lacks"
            )
            #expect(moved * 10 <= 11 * (all.deviceBytes - small.budget.deviceBytes))
        }
    }

    @Test("the plan is within two percent of the best of all cuts", arguments: Array(UInt64(1)...8))
    func gap(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let model = ModelShape(
            aggregation: [.gcn, .sage].randomElement(using: &random)!,
            widths: [
                Int.random(in: 8...200, using: &random), Int.random(in: 8...200, using: &random),
                Int.random(in: 2...40, using: &random),
            ], dropsFeatures: false, dropsHidden: true)
        let image = Self.image(
            model, nodes: Int.random(in: 8100...16_000, using: &random), degree: Int.random(in: 2...30, using: &random))
        let link = LinkRates(
            bytesPerSecond: [1e8, 1e9, 1e10].randomElement(using: &random)!, roundTripSeconds: 1e-4)
        func budget(_ bytes: Int) -> Budget { Budget(deviceBytes: bytes, hostBytes: 1 << 40, link: link) }
        let all = try Planner.plan(model: model, image: image, budget: budget(1 << 40))
        let cuts = Self.cuts(model, image, most: 6000, &random)
        var compared = 0
        for percent in [85, 60, 40, 28, 20] {
            let budget = budget(all.forecast.deviceBytes * percent / 100)
            guard let best = try Planner.cheapest(of: cuts, model: model, image: image, budget: budget) else {
                continue
            }
            compared += 1
            let plan = try Planner.plan(model: model, image: image, budget: budget)
            let gap = plan.forecast.secondsPerEpoch / best.forecast.secondsPerEpoch
            print("seed \(seed), \(model.aggregation) in \(percent) %: \(gap) of the best of \(cuts.count) cuts")
            #expect(gap <= 1.02, "seed \(seed) at \(percent) %: \(plan.cut) against \(best.cut)")
        }
        #expect(compared >= 3, "seed \(seed)")
    }

    /// Every cut with chunks of one, two and four thousand rows, none, half or all but one of them staying, and some widths
    /// of slices; where these are more than `most`, so many at random.
    private static func cuts(
        _ model: ModelShape, _ image: ImageShape, most: Int, _ random: inout SeededRandom
    ) -> [Cut] {
        let choices = Planner.choices(model: model, image: image)
        func options(_ choice: Choice, _ chunks: Int) -> [(Cut.Way, Int)] {
            var ways: [Cut.Way] = [.device]
            if choice.recomputes { ways.append(.recompute) }
            if choice.moves {
                ways += (choice.movesWhole ? [0] : [0, chunks / 2, chunks - 1]).map { .moved(residentChunks: $0) }
            }
            let widths = choice.slices ? [0, 16, 4].filter { $0 < choice.width } : [0]
            return ways.flatMap { way in widths.map { (way, $0) } }
        }
        var cuts: [Cut] = []
        for rows in [1024, 2048, 4096] {
            let lists = choices.map { options($0, (image.nodes + rows - 1) / rows) }
            let all = lists.reduce(1) { $0 * $1.count }
            for number in 0..<min(all, most / 3) {
                // Mixed radix, where all of them are taken.
                var rest = all <= most / 3 ? number : Int.random(in: 0..<all, using: &random)
                var cut = Cut(chunkRows: rows)
                for (choice, list) in zip(choices, lists) {
                    let (way, width) = list[rest % list.count]
                    rest /= list.count
                    if way != .device { cut.ways[choice.name] = way }
                    if width > 0 { cut.sliceWidths[choice.name] = width }
                }
                cuts.append(cut)
            }
        }
        return cuts
    }

    @Test("what host memory has no room for goes to the SSD, and what neither has is refused")
    func tiers() throws {
        let model = ModelShape(aggregation: .sage, widths: [64, 200, 90, 10], dropsFeatures: false, dropsHidden: true)
        let image = Self.image(model, nodes: 50_000, degree: 10)
        let all = try Planner.plan(
            model: model, image: image, budget: Budget(deviceBytes: 1 << 40, hostBytes: 1 << 40))
        let device = all.forecast.deviceBytes / 8
        let roomy = try Planner.plan(
            model: model, image: image, budget: Budget(deviceBytes: device, hostBytes: 1 << 40))
        #expect(roomy.forecast.hostBytes > 0 && roomy.forecast.ssdBytes == 0)
        let half = roomy.forecast.hostBytes / 2
        let both = try Planner.plan(
            model: model, image: image, budget: Budget(deviceBytes: device, hostBytes: half, ssdBytes: 1 << 40))
        #expect(both.forecast.hostBytes <= half)
        #expect(both.costs.reduce(0) { $0 + $1.ssdWrittenBytes } > 0 || both.forecast.storedBytesPerEpoch == 0)
        let error = try #require(throws: PlanError.self) {
            try Planner.plan(
                model: model, image: image, budget: Budget(deviceBytes: device / 4, hostBytes: 0, ssdBytes: 0))
        }
        #expect(error.code == .doesNotFit)
    }

    @Test("graph, plan and passes print, and name every tensor's place")
    func prints() throws {
        let model = ModelShape(
            aggregation: .gat, widths: [32, 16, 5], dropsFeatures: true, dropsHidden: true, normalises: true,
            activation: .elu, attention: .init(heads: 4, outputHeads: 2))
        let image = Self.image(model, nodes: 5000, degree: 6)
        let graph = OpGraph(model: model, image: image)
        #expect(graph.description.split(separator: "\n").count == graph.ops.count)
        #expect(graph.description.contains("attended1 = Σ α · neighbours of source1, 4 heads"))
        let plan = try Planner.plan(
            model: model, image: image, budget: Budget(deviceBytes: 1 << 40, hostBytes: 1 << 40))
        #expect(plan.table.contains("tensors:") && plan.table.contains("source1: device"))
        #expect(plan.json["passes"]?.arrayValue?.isEmpty == false)
    }

    @Test("the order of operations follows from widths alone")
    func orders() {
        let model = ModelShape(
            aggregation: .gcn, widths: [100, 16, 64, 64, 3], dropsFeatures: true, dropsHidden: false)
        #expect((1...4).map(model.order) == [.transformFirst, .aggregateFirst, .transformFirst, .transformFirst])
        let constant = ModelShape(aggregation: .gcn, widths: [100, 16, 3], dropsFeatures: false, dropsHidden: false)
        #expect(constant.order(1) == .inImage)
    }

    @Test("a hidden width that equals the number of nodes is refused")
    func widthEqualsNodes() throws {
        let model = ModelShape(aggregation: .gcn, widths: [8, 2000, 3], dropsFeatures: false, dropsHidden: false)
        let error = try #require(throws: PlanError.self) {
            try Planner.plan(
                model: model, image: Self.image(model, nodes: 2000, degree: 4),
                budget: Budget(deviceBytes: 1 << 40, hostBytes: 1 << 40))
        }
        #expect(error.code == .widthEqualsNodes)
    }

    @Test("sizes that contradict each other are refused")
    func contradictions() throws {
        let model = ModelShape(aggregation: .gcn, widths: [8, 16, 3], dropsFeatures: false, dropsHidden: false)
        let sage = ModelShape(aggregation: .sage, widths: [8, 16, 3], dropsFeatures: false, dropsHidden: false)
        let wider = ModelShape(aggregation: .gcn, widths: [9, 16, 3], dropsFeatures: false, dropsHidden: false)
        let good = Self.image(model, nodes: 3000, degree: 4)
        func changed(edges: Int? = nil, tileEdges: [UInt64]? = nil, labelled: [Int]? = nil) -> ImageShape {
            ImageShape(
                nodes: good.nodes, edges: edges ?? good.edges, features: good.features, classes: good.classes,
                labelled: labelled ?? good.labelled, tileEdges: tileEdges ?? good.tileEdges, recipe: good.recipe)
        }
        let roomy = Budget(deviceBytes: 1 << 40, hostBytes: 1 << 40)
        for (model, image, code) in [
            (sage, good, PlanError.Code.shapeMismatch), (wider, good, .shapeMismatch),
            (model, changed(edges: 5), .shapeMismatch),
            (model, changed(tileEdges: [0, 12_000]), .shapeMismatch),
            (model, changed(tileEdges: [0, 9000, 8000, 12_000]), .shapeMismatch),
            (model, changed(labelled: [3000, 0, 0, 0]), .nothingToLearn),
        ] {
            let error = try #require(throws: PlanError.self) {
                try Planner.plan(model: model, image: image, budget: roomy)
            }
            #expect(error.code == code)
        }
    }

    @Test("the same inputs give the same plan, and its form is canonical JSON")
    func deterministic() throws {
        let model = ModelShape(aggregation: .sage, widths: [128, 64, 10], dropsFeatures: false, dropsHidden: true)
        let image = Self.image(model, nodes: 50_000, degree: 10)
        let budget = Budget(deviceBytes: 40 << 20, hostBytes: 1 << 30)
        let first = try Planner.plan(model: model, image: image, budget: budget)
        let second = try Planner.plan(model: model, image: image, budget: budget)
        #expect(first.json == second.json)
        #expect(try JSON(parsing: first.json.canonical) == first.json)
        #expect(!first.cut.ways.isEmpty)
        #expect(first.why.count > 1)
        #expect(first.table.contains("chosen"))
    }
}
