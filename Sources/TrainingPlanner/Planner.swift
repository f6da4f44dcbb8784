package import Vocabulary

/// Decides what lives where. Pure: the same sizes, budgets and rates always give the same plan.
package enum Planner {
    package static let alignment = 64
    /// Commands that a program may hold, with room for what is not in passes.
    static let commandsMax = 15_000

    /// The cheapest plan that fits, or why none does.
    package static func plan(
        model: ModelShape, image: ImageShape, budget: Budget, purpose: OpGraph.Purpose = .training
    ) throws(PlanError) -> TrainingPlan {
        try checkShape(model, image, purpose)
        var searches = worthwhile(model, image, budget, purpose)
        var best: (search: Int, candidate: Search.Candidate)?
        for index in searches.indices {
            if let candidate = searches[index].best(below: best?.candidate.seconds ?? .infinity) {
                best = (index, candidate)
            }
        }
        if let (index, candidate) = best {
            let search = searches.remove(at: index)
            var plan = search.explained(search.plan(candidate), others: searches)
            plan.evaluations = searches.reduce(search.evaluations) { $0 + $1.evaluations }
            return plan
        }
        // What the search has no room for may still fit as the least plan of all.
        var least: (search: Search, plan: TrainingPlan)?
        for search in searches {
            guard let plan = search.least(), plan.forecast.deviceBytes < least?.plan.forecast.deviceBytes ?? .max
            else { continue }
            least = (search, plan)
        }
        guard let least, least.search.fits(least.plan.forecast) else { throw refusal(least?.plan, budget) }
        var plan = least.search.explained(least.plan)
        plan.evaluations = searches.reduce(0) { $0 + $1.evaluations }
        return plan
    }

    /// Searches for those forms of a model's operations that are worth it: the plain one, and the first of those that need
    /// ever less memory in which no source has to be cut into slices.
    private static func worthwhile(
        _ model: ModelShape, _ image: ImageShape, _ budget: Budget, _ purpose: OpGraph.Purpose
    ) -> [Search] {
        let plain = Search(Analysis(OpGraph(model: model, image: image, purpose: purpose)), budget)
        let forms = forms(model, purpose)
        guard !forms.isEmpty, !plain.fitsResident() else { return [plain] }
        // Whole rows of a layer alone may be too much already.
        let widest = (1...model.layers).map(model.attendedWidth).max()!
        for form in forms {
            let wholes = purpose == .training && !form.splitsEnds ? 2 : 1
            let isLast = form == forms.last
            guard isLast || image.nodes * widest * 4 / form.headGroups * wholes < budget.deviceBytes else { continue }
            let search = Search(
                Analysis(OpGraph(model: model, image: image, purpose: purpose, form: form)), budget,
                tables: plain.tables)
            guard isLast || search.fitsUnsliced() else { continue }
            return form.headGroups == 2 && !plain.fitsUnsliced() ? [search] : [plain, search]
        }
        return [plain]
    }

    /// The forms that a model's operations may have beside the plain one, from the least change to those that need least
    /// memory.
    private static func forms(_ model: ModelShape, _ purpose: OpGraph.Purpose) -> [OpGraph.Form] {
        guard model.aggregation == .gat else { return [] }
        let trains = purpose == .training
        var forms = trains ? [OpGraph.Form(repeatsSources: true)] : []
        guard !model.normalises, !model.isResidual else { return forms }
        let heads = (1...model.layers).map(model.heads).max()!
        var groups = 2
        while groups <= heads, heads.isMultiple(of: groups) {
            forms.append(OpGraph.Form(headGroups: groups, repeatsSources: trains))
            if trains { forms.append(OpGraph.Form(headGroups: groups, repeatsSources: true, splitsEnds: true)) }
            groups *= 2
        }
        return forms
    }

    /// The plan for one given cut, whatever it costs; for benchmarks and for an auditor who repeats a run under
    /// another plan.
    package static func plan(
        model: ModelShape, image: ImageShape, budget: Budget, cut: Cut, purpose: OpGraph.Purpose = .training
    ) throws(PlanError) -> TrainingPlan {
        let tile = ImageShape.tileRows
        guard cut.chunkRows >= Cut.chunkRowsMin,
            cut.chunkRows.isMultiple(of: tile) || tile.isMultiple(of: cut.chunkRows)
        else {
            throw PlanError(
                .shapeMismatch, "chunks are multiples of \(tile) rows, or divisors from \(Cut.chunkRowsMin) on")
        }
        try checkShape(model, image, purpose)
        let analysis = Analysis(OpGraph(model: model, image: image, purpose: purpose, form: cut.form))
        let search = Search(analysis, budget)
        let candidate = search.candidate(Decision(cut, analysis))
        guard candidate.commands <= commandsMax else {
            throw PlanError(.tooManyCommands, "the cut needs more commands than a program can hold")
        }
        let plan = search.plan(candidate)
        guard search.fits(plan.forecast) else { throw refusal(plan, budget) }
        return plan
    }

    /// The cheapest of these cuts that fits; what the search is held to.
    package static func cheapest(
        of cuts: some Sequence<Cut>, model: ModelShape, image: ImageShape, budget: Budget
    ) throws(PlanError) -> TrainingPlan? {
        try checkShape(model, image, .training)
        let analysis = Analysis(OpGraph(model: model, image: image))
        let search = Search(analysis, budget)
        var best: TrainingPlan?
        for cut in cuts {
            let candidate = search.candidate(Decision(cut, analysis))
            guard candidate.leastBytes <= budget.deviceBytes, candidate.commands <= commandsMax,
                best.map({ candidate.seconds < $0.forecast.secondsPerEpoch }) ?? true
            else { continue }
            let plan = search.plan(candidate)
            guard search.fits(plan.forecast),
                best.map({ plan.forecast.secondsPerEpoch < $0.forecast.secondsPerEpoch }) ?? true
            else { continue }
            best = plan
        }
        return best
    }

    /// What a cut may say about a model on an image.
    package static func choices(
        model: ModelShape, image: ImageShape, purpose: OpGraph.Purpose = .training, form: OpGraph.Form = OpGraph.Form()
    ) -> [Choice] {
        Analysis(OpGraph(model: model, image: image, purpose: purpose, form: form)).choices
    }

    private static func refusal(_ least: TrainingPlan?, _ budget: Budget) -> PlanError {
        guard let least else {
            return PlanError(.tooManyCommands, "the graph needs more row chunks than a program can hold")
        }
        let needed = least.forecast
        return PlanError(
            .doesNotFit,
            "the smallest plan needs \(needed.deviceBytes) bytes of device memory, \(needed.hostBytes) of host memory "
                + "and \(needed.ssdBytes) of SSD; there are \(budget.deviceBytes), \(budget.hostBytes) and "
                + "\(budget.ssdBytes)",
            neededDeviceBytes: needed.deviceBytes, neededHostBytes: needed.hostBytes,
            neededSSDBytes: needed.ssdBytes)
    }

    private static func checkShape(
        _ model: ModelShape, _ image: ImageShape, _ purpose: OpGraph.Purpose
    ) throws(PlanError) {
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
        guard purpose == .prediction || image.labelled[Int(Split.train.rawValue)] > 0 else {
            throw PlanError(.nothingToLearn, "no node is labelled for training")
        }
    }

    /// Sealed size of that many plaintext bytes.
    package static func sealed(_ bytes: Int) -> Int {
        bytes + (bytes + Limits.blockBytes - 1) / Limits.blockBytes * Limits.tagBytes
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
    package let neededSSDBytes: Int

    package init(
        _ code: Code, _ publicDescription: String, neededDeviceBytes: Int = 0, neededHostBytes: Int = 0,
        neededSSDBytes: Int = 0
    ) {
        self.code = code
        self.publicDescription = publicDescription
        self.neededDeviceBytes = neededDeviceBytes
        self.neededHostBytes = neededHostBytes
        self.neededSSDBytes = neededSSDBytes
    }

    package var description: String { publicDescription }
}
