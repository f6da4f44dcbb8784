package import Vocabulary

/// Decides what lives where. Pure: the same sizes, budgets and rates always give the same plan.
package enum Planner {
    package static let alignment = 64
    /// Commands that a program may hold, with room for what is not in sweeps.
    static let commandsMax = 5_000
    /// Stores of one epoch, each of which a completion accounts for.
    static let storesMax = 1_000

    /// The cheapest plan that fits, or why none does.
    package static func plan(
        model: ModelShape, image: ImageShape, budget: Budget
    ) throws(PlanError) -> TrainingPlan {
        try checkShape(model, image)
        var best: TrainingPlan?
        var least: TrainingPlan?
        var byRows: [TrainingPlan] = []
        for rows in chunkRows(image) {
            var bestHere: TrainingPlan?
            for cut in cuts(model: model, image: image, rows: rows, budget: budget) {
                guard let candidate = make(model: model, image: image, cut: cut, budget: budget) else { continue }
                if least.map({ candidate.forecast.deviceBytes < $0.forecast.deviceBytes }) ?? true {
                    least = candidate
                }
                guard fits(candidate, budget) else { continue }
                if bestHere.map({ better(candidate, $0) }) ?? true { bestHere = candidate }
            }
            guard let bestHere else { continue }
            byRows.append(bestHere)
            if best.map({ better(bestHere, $0) }) ?? true { best = bestHere }
        }
        guard let chosen = best else {
            guard let least else {
                throw PlanError(.tooManyCommands, "the graph needs more row chunks than a program can hold")
            }
            throw PlanError(
                .doesNotFit,
                "the smallest plan needs \(least.forecast.deviceBytes) bytes of device memory and "
                    + "\(least.forecast.hostBytes) of host memory; there are \(budget.deviceBytes) and "
                    + "\(budget.hostBytes)",
                neededDeviceBytes: least.forecast.deviceBytes, neededHostBytes: least.forecast.hostBytes)
        }
        return explained(chosen, others: byRows, model: model, image: image, budget: budget)
    }

    /// The plan for one given cut, whatever it costs; for benchmarks and for an auditor who repeats a run under
    /// another plan.
    package static func plan(
        model: ModelShape, image: ImageShape, budget: Budget, cut: Cut
    ) throws(PlanError) -> TrainingPlan {
        guard cut.chunkRows > 0, cut.chunkRows.isMultiple(of: ImageShape.tileRows) else {
            throw PlanError(.shapeMismatch, "chunks are multiples of \(ImageShape.tileRows) rows")
        }
        try checkShape(model, image)
        guard let plan = make(model: model, image: image, cut: cut, budget: budget) else {
            throw PlanError(.tooManyCommands, "the cut needs more commands than a program can hold")
        }
        guard fits(plan, budget) else {
            throw PlanError(
                .doesNotFit,
                "the cut needs \(plan.forecast.deviceBytes) bytes of device memory and "
                    + "\(plan.forecast.hostBytes) of host memory",
                neededDeviceBytes: plan.forecast.deviceBytes, neededHostBytes: plan.forecast.hostBytes)
        }
        return plan
    }

    private static func fits(_ plan: TrainingPlan, _ budget: Budget) -> Bool {
        plan.forecast.deviceBytes <= budget.deviceBytes && plan.forecast.hostBytes <= budget.hostBytes
    }

    private static func better(_ left: TrainingPlan, _ right: TrainingPlan) -> Bool {
        (left.forecast.secondsPerEpoch, left.forecast.deviceBytes)
            < (right.forecast.secondsPerEpoch, right.forecast.deviceBytes)
    }

    private static func checkShape(_ model: ModelShape, _ image: ImageShape) throws(PlanError) {
        guard image.features == model.widths.first, image.classes == model.widths.last else {
            throw PlanError(
                .shapeMismatch,
                "the image has \(image.features) features and \(image.classes) classes, the model "
                    + "\(model.widths.first!) and \(model.widths.last!)")
        }
        guard image.recipe.aggregation == model.aggregation,
            image.recipe.aggregatesFirstLayer == (model.order(1) == .inImage)
        else { throw PlanError(.shapeMismatch, "the image was made for another kind of model") }
        let tiles = (image.nodes + ImageShape.tileRows - 1) / ImageShape.tileRows
        guard image.nodes > 0, image.nodes <= Limits.nodesMax, image.edges >= 0, image.edges <= Limits.edgesMax,
            image.tileEdges.count == tiles + 1, image.tileEdges.first == 0,
            image.tileEdges.last == UInt64(image.edges),
            zip(image.tileEdges, image.tileEdges.dropFirst()).allSatisfy(<=),
            image.labelled.count == Split.allCases.count
        else { throw PlanError(.shapeMismatch, "the image's sizes contradict each other") }
        guard !model.widths.dropFirst().contains(image.nodes) else {
            throw PlanError(
                .widthEqualsNodes, "a width of the model equals the number of nodes, so weights could carry rows out")
        }
        guard image.labelled[Int(Split.train.rawValue)] > 0 else {
            throw PlanError(.nothingToLearn, "no node is labelled for training")
        }
    }

    // MARK: Search

    /// Chunk sizes worth looking at. Chunks of a few thousand rows keep intermediates near the cores, so the largest
    /// are not the fastest even where they fit.
    private static func chunkRows(_ image: ImageShape) -> [Int] {
        var sizes: [Int] = []
        var rows = ImageShape.tileRows
        while rows <= 1 << 16 {
            sizes.append(rows)
            if rows >= image.nodes { break }
            rows *= 2
        }
        return sizes.reversed()
    }

    /// All combinations of what may move while there are few, else a greedy path from everything on the device to
    /// everything elsewhere, cheapest seconds for each byte first.
    private static func cuts(model: ModelShape, image: ImageShape, rows: Int, budget: Budget) -> [Cut] {
        let streams = image.recipe.sections.filter { [.features, .aggregate, .columns].contains($0) }
        let choices = Schedule.choices(model: model, image: image)
        let all = Cut(chunkRows: rows)
        if let plan = make(model: model, image: image, cut: all, budget: budget), fits(plan, budget) {
            // Nothing is faster than everything resident, except recomputing what would only pass through memory.
            return [all]
        }
        if streams.count + choices.count <= 6 {
            var cuts = [all]
            for section in streams {
                cuts += cuts.map {
                    Cut(chunkRows: rows, streamed: $0.streamed.union([section]), placements: $0.placements)
                }
            }
            for choice in choices {
                cuts += choice.others.flatMap { placement in
                    cuts.map { cut in
                        var placements = cut.placements
                        placements[choice.name] = placement
                        return Cut(chunkRows: rows, streamed: cut.streamed, placements: placements)
                    }
                }
            }
            return cuts
        }
        return greedy(from: all, streams: streams, choices: choices) {
            make(model: model, image: image, cut: $0, budget: budget)
        }
    }

    private static func greedy(
        from start: Cut, streams: [ImageSection], choices: [(name: String, others: [Cut.Placement])],
        _ make: (Cut) -> TrainingPlan?
    ) -> [Cut] {
        var path = [start]
        while let current = path.last, let plan = make(current) {
            var moves: [Cut] = streams.filter { !current.streamed.contains($0) }.map {
                Cut(
                    chunkRows: current.chunkRows, streamed: current.streamed.union([$0]), placements: current.placements
                )
            }
            for choice in choices where current.placements[choice.name] == nil {
                for placement in choice.others {
                    var placements = current.placements
                    placements[choice.name] = placement
                    moves.append(
                        Cut(chunkRows: current.chunkRows, streamed: current.streamed, placements: placements))
                }
            }
            func cost(_ cut: Cut) -> Double {
                guard let moved = make(cut) else { return .infinity }
                let saved = plan.forecast.deviceBytes - moved.forecast.deviceBytes
                let added = max(0, moved.forecast.secondsPerEpoch - plan.forecast.secondsPerEpoch)
                return added / Double(max(saved, 1))
            }
            guard let next = moves.map({ ($0, cost($0)) }).min(by: { $0.1 < $1.1 }), next.1 < .infinity else { break }
            path.append(next.0)
        }
        return path
    }

    /// The same plan with its reasons: the best of every chunk size, and everything resident.
    private static func explained(
        _ chosen: TrainingPlan, others: [TrainingPlan], model: ModelShape, image: ImageShape, budget: Budget
    ) -> TrainingPlan {
        func row(_ plan: TrainingPlan, _ rejection: String?) -> TrainingPlan.Alternative {
            TrainingPlan.Alternative(
                title: plan.cut.title(chunks: plan.chunks), deviceBytes: plan.forecast.deviceBytes,
                hostBytes: plan.forecast.hostBytes, seconds: plan.forecast.secondsPerEpoch, rejection: rejection)
        }
        var why = [row(chosen, nil)]
        let resident = Cut(chunkRows: chosen.cut.chunkRows)
        if resident != chosen.cut, let plan = make(model: model, image: image, cut: resident, budget: budget) {
            let excess = plan.forecast.deviceBytes - budget.deviceBytes
            why.append(row(plan, "\(bytes(max(excess, 0))) more than the device has"))
        }
        for other in others where other.cut != chosen.cut {
            let slower = other.forecast.secondsPerEpoch - chosen.forecast.secondsPerEpoch
            why.append(row(other, "\(seconds(slower)) slower"))
        }
        return TrainingPlan(
            image: image, schedule: chosen.schedule, buffers: chosen.buffers, slots: chosen.slots, fixed: chosen.fixed,
            forecast: chosen.forecast, why: why)
    }

    // MARK: One cut

    /// Lays out memory and adds up costs. `nil` if the program would be too long.
    private static func make(model: ModelShape, image: ImageShape, cut: Cut, budget: Budget) -> TrainingPlan? {
        let schedule = Schedule(model: model, image: image, cut: cut)
        let chunks = (image.nodes + cut.chunkRows - 1) / cut.chunkRows
        let commands = schedule.sweeps.reduce(0) { $0 + $1.operations.count * chunks + $1.finishes.count }
        let stores = schedule.sweeps.flatMap(\.operations).count { if case .store = $0 { true } else { false } }
        guard commands <= commandsMax, stores * chunks <= storesMax else { return nil }
        var buffers: [(name: String, bytes: Int, lifetime: ClosedRange<Int>?)] = []
        var fixed: [TrainingPlan.Fixed: Int] = [:]
        for role in TrainingPlan.Fixed.allCases {
            let bytes = fixedBytes(role, model, image)
            guard bytes > 0 else { continue }
            fixed[role] = buffers.count
            buffers.append((role.rawValue, bytes, nil))
        }
        var slots: [[Int]] = []
        for tensor in schedule.tensors {
            let count = if case .chunk(let count) = tensor.extent { min(count, chunks) } else { 1 }
            slots.append(Array(buffers.count..<buffers.count + count))
            for slot in 0..<count {
                buffers.append(
                    (
                        count > 1 ? "\(tensor.name).\(slot)" : tensor.name, byteCount(tensor, image, cut),
                        tensor.lifetime
                    ))
            }
        }
        let whole = 0...max(schedule.sweeps.count - 1, 0)
        let arena = Arena(
            buffers.map { Arena.Item(bytes: $0.bytes, lifetime: $0.lifetime ?? whole) }, alignment: alignment)
        return TrainingPlan(
            image: image, schedule: schedule,
            buffers: zip(buffers, arena.offsets).map {
                TrainingPlan.Buffer(name: $0.name, offset: $1, byteCount: $0.bytes, lifetime: $0.lifetime)
            },
            slots: slots, fixed: fixed,
            forecast: forecast(
                schedule, image: image, chunks: chunks, commands: commands, deviceBytes: arena.peakBytes,
                budget: budget),
            why: [])
    }

    private static func fixedBytes(_ role: TrainingPlan.Fixed, _ model: ModelShape, _ image: ImageShape) -> Int {
        switch role {
        case .rowPointers: image.byteCount(.rowPointers)
        case .scale: image.byteCount(.scale)
        case .labels: image.byteCount(.labels)
        case .split: image.byteCount(.split)
        case .classWeights: model.weighsClasses ? image.classes * 4 : 0
        case .parameters, .gradients, .firstMoments, .secondMoments, .best: model.parameters.count * 4
        case .trainScores, .evaluateScores: 1024
        case .total: 8
        case .bestState: 32
        }
    }

    /// Bytes of one buffer of a tensor.
    package static func byteCount(_ tensor: Tensor, _ image: ImageShape, _ cut: Cut) -> Int {
        if tensor.window == .image(.columns) {
            return tensor.extent == .nodes ? image.byteCount(.columns) : chunkEdgesMax(image, cut) * 4
        }
        switch tensor.extent {
        case .nodes: return tensor.rowBytes * image.nodes
        case .fixed: return tensor.rowBytes
        case .chunk:
            if case .spill = tensor.window { return spillStride(tensor, cut) }
            return tensor.rowBytes * min(cut.chunkRows, image.nodes)
        }
    }

    /// Bytes from one chunk of a spilled tensor to the next: whole blocks, because a store seals whole blocks.
    package static func spillStride(_ tensor: Tensor, _ cut: Cut) -> Int {
        (tensor.rowBytes * cut.chunkRows + Limits.blockBytes - 1) / Limits.blockBytes * Limits.blockBytes
    }

    private static func chunkEdgesMax(_ image: ImageShape, _ cut: Cut) -> Int {
        let tiles = cut.chunkRows / ImageShape.tileRows
        let last = image.tileEdges.count - 1
        return stride(from: 0, to: last, by: tiles).reduce(1) { most, tile in
            max(most, Int(image.tileEdges[min(tile + tiles, last)] - image.tileEdges[tile]))
        }
    }

    private static func forecast(
        _ schedule: Schedule, image: ImageShape, chunks: Int, commands: Int, deviceBytes: Int, budget: Budget
    ) -> TrainingPlan.Forecast {
        var compute = 0.0
        var fetched = 0
        var stored = 0
        let rows = Double(image.nodes)
        func windowBytes(_ index: TensorIndex) -> Int {
            let tensor = schedule.tensors[index]
            switch tensor.window {
            case .image(let section): return image.byteCount(section)
            case .spill: return spillStride(tensor, schedule.cut) * chunks
            case nil: return 0
            }
        }
        for operation in schedule.sweeps.flatMap(\.operations) {
            switch operation {
            case .fetch(let index): fetched += sealed(windowBytes(index))
            case .store(let index): stored += sealed(windowBytes(index))
            case .map(let from, let to, _):
                compute +=
                    rows * Double(schedule.tensors[from].rowBytes + schedule.tensors[to].rowBytes)
                    / budget.device.streamBytesPerSecond
            case .gather(let from, _, _, _):
                let bytes = Double(image.edges) * Double(schedule.tensors[from].rowBytes + 4)
                compute += bytes / budget.device.gatherBytesPerSecond
            case .product(_, let entry, _, _, _, _), .tileProduct(_, _, _, let entry):
                compute += 2 * rows * Double(entry.count) / budget.device.productFlopsPerSecond
            case .columnSum(let a, _, _), .loss(let a, _):
                compute += rows * Double(schedule.tensors[a].rowBytes) / budget.device.streamBytesPerSecond
            }
        }
        // A chunk's intermediates are written by one command and read by the next; what exceeds the caches goes out
        // to memory and back.
        for tensor in schedule.tensors {
            guard case .chunk = tensor.extent else { continue }
            let excess = tensor.rowBytes * min(schedule.cut.chunkRows, image.nodes) - budget.device.cacheBytes
            if excess > 0 { compute += 2 * Double(excess * chunks) / budget.device.streamBytesPerSecond }
        }
        compute += Double(commands) * budget.device.secondsPerCommand
        let moved = Double(fetched + stored)
        let link = moved / budget.link.bytesPerSecond
        let sealing = moved / budget.link.sealBytesPerSecond
        if budget.device.sealsOnComputeCores { compute += sealing }
        // Three queues overlap, so the slowest resource counts, and each sweep starts and ends at a barrier.
        let barriers = moved > 0 ? Double(schedule.sweeps.count) : 0
        let perChunk = moved / Double(max(1, schedule.sweeps.count * chunks)) / budget.link.bytesPerSecond
        let seconds =
            max(compute, link, sealing)
            + barriers * (budget.link.roundTripSeconds + perChunk) + budget.link.roundTripSeconds
        let imageBytes = image.recipe.sections.reduce(0) { $0 + sealed(image.byteCount($1)) }
        let resident = image.recipe.sections.filter { !schedule.cut.streamed.contains($0) }
        var spillBytes: [Int: Int] = [:]
        for tensor in schedule.tensors {
            if case .spill(let number) = tensor.window {
                spillBytes[number] = sealed(spillStride(tensor, schedule.cut) * chunks)
            }
        }
        return TrainingPlan.Forecast(
            deviceBytes: deviceBytes, hostBytes: imageBytes + spillBytes.values.reduce(0, +),
            loadBytes: resident.reduce(0) { $0 + sealed(image.byteCount($1)) }, fetchedBytesPerEpoch: fetched,
            storedBytesPerEpoch: stored, computeSecondsPerEpoch: compute, linkSecondsPerEpoch: link,
            secondsPerEpoch: seconds)
    }

    /// Sealed size of that many plaintext bytes.
    package static func sealed(_ bytes: Int) -> Int {
        bytes + (bytes + Limits.blockBytes - 1) / Limits.blockBytes * Limits.tagBytes
    }

    // MARK: For people

    static func bytes(_ count: Int) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(count)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return unit == 0 ? "\(count) B" : "\(tenths(value)) \(units[unit])"
    }

    static func seconds(_ value: Double) -> String {
        value < 1 ? "\(tenths(value * 1000)) ms" : "\(tenths(value)) s"
    }

    private static func tenths(_ value: Double) -> String {
        let scaled = Int((value * 10).rounded())
        return "\(scaled / 10).\(abs(scaled % 10))"
    }
}

/// Why there is no plan.
package struct PlanError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case doesNotFit = "does-not-fit"
        case shapeMismatch = "shape-mismatch"
        case widthEqualsNodes = "width-equals-nodes"
        case nothingToLearn = "nothing-to-learn"
        case tooManyCommands = "too-many-commands"
    }

    package let code: Code
    package let publicDescription: String
    /// What the smallest plan needs; 0 where that is not the reason.
    package let neededDeviceBytes: Int
    package let neededHostBytes: Int

    package init(_ code: Code, _ publicDescription: String, neededDeviceBytes: Int = 0, neededHostBytes: Int = 0) {
        self.code = code
        self.publicDescription = publicDescription
        self.neededDeviceBytes = neededDeviceBytes
        self.neededHostBytes = neededHostBytes
    }

    package var description: String { publicDescription }
}
