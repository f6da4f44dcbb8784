package import FabricProtocol
package import TrainingPlanner
package import Vocabulary

/// What a run will do on the device and what it will take, whoever planned it.
package struct RunPlan: Sendable {
    package let image: ImageShape
    package let parameters: ParameterTable
    package let program: Program
    /// How it is laid out, in a few words.
    package let title: String
    /// The form that is hashed and recorded, and a table for people.
    package let json: JSON
    package let table: String
    package let deviceBytes: Int
    /// Of it, what lives for the whole run.
    package let wholeRunBytes: Int
    /// Sealed bytes of the device that the enclave keeps for it.
    package let spillBytes: Int
    package let fetchedBytesPerEpoch: Int
    package let secondsPerEpoch: Double
}

extension ModelSpec {
    /// Whether the planner can cut an epoch of it for less memory than everything takes.
    var isCut: Bool {
        (model == .gcn || model == .sage) && activation == .relu && !residual && !layerNorm && task == .classification
    }

    /// The plan of a run on an image. Pure: the same for the same specification, image and budget.
    package func plan(image: ImageShape, budget: Budget) throws -> RunPlan {
        guard isCut else { return try residentPlan(image: image, budget: budget) }
        let plan = try Planner.plan(
            model: shape(features: image.features, classes: image.classes), image: image, budget: budget)
        return try RunPlan(self, plan, trainingByClass: image.trainingByClass)
    }

    private func residentPlan(image: ImageShape, budget: Budget) throws -> RunPlan {
        guard image.labelled.count == Split.allCases.count, image.labelled[Int(Split.train.rawValue)] > 0 else {
            throw PlanError(.nothingToLearn, "no node is labelled for training")
        }
        // A weight with as many rows or columns as there are nodes could carry one value for each of them.
        let table = ParameterTable(self, image)
        guard !table.entries.contains(where: { $0.tensorShape.contains(image.nodes) }) else {
            throw PlanError(
                .widthEqualsNodes, "a width equals the \(image.nodes) nodes; the release would be refused")
        }
        let resident = try ResidentProgram(self, image, trainingByClass: image.trainingByClass)
        guard resident.deviceBytes <= budget.deviceBytes else {
            throw PlanError(
                .doesNotFit,
                "a \(model.rawValue) of this kind needs \(resident.deviceBytes) bytes of device memory; "
                    + "\(budget.deviceBytes) are allowed", neededDeviceBytes: resident.deviceBytes)
        }
        let seconds =
            resident.flops / budget.device.productFlopsPerSecond
            + resident.gatheredBytes / budget.device.gatherBytesPerSecond
        let title = "all resident"
        return RunPlan(
            image: image, parameters: resident.parameters, program: resident.program, title: title,
            json: [
                "model": .string(model.rawValue), "specification": .string(digest.hex),
                "nodes": .integer(Int64(image.nodes)), "edges": .integer(Int64(image.edges)),
                "deviceBytes": .integer(Int64(resident.deviceBytes)),
                "buffers": .array(
                    resident.program.buffers.map {
                        [.integer(Int64($0.offset)), .integer(Int64($0.byteCount))]
                    }),
                "microsecondsPerEpoch": .integer(Int64(seconds * 1e6)),
            ],
            table: """
                plan: \(title), \(resident.program.buffers.count) buffers
                  device memory \(resident.deviceBytes) bytes, of which \(resident.wholeRunBytes) for the whole run
                  an epoch: about \(Int((seconds * 1000).rounded(.up))) ms, nothing crosses
                why:
                  models of this kind are not cut yet: what does not fit the device is refused
                """,
            deviceBytes: resident.deviceBytes, wholeRunBytes: resident.wholeRunBytes, spillBytes: 0,
            fetchedBytesPerEpoch: 0, secondsPerEpoch: seconds)
    }
}

extension RunPlan {
    /// A plan of the planner's, with its program.
    package init(_ spec: ModelSpec, _ plan: TrainingPlan, trainingByClass: [Int]?) throws(TrainingError) {
        self.init(
            image: plan.image, parameters: ParameterTable(plan.model.parameters),
            program: try spec.program(for: plan, trainingByClass: trainingByClass),
            title: plan.cut.title(chunks: plan.chunks), json: plan.json, table: plan.table,
            deviceBytes: plan.forecast.deviceBytes,
            wholeRunBytes: plan.buffers.filter { $0.lifetime == nil }.reduce(0) { $0 + $1.byteCount },
            spillBytes: plan.forecast.hostBytes + plan.forecast.ssdBytes,
            fetchedBytesPerEpoch: plan.forecast.fetchedBytesPerEpoch,
            secondsPerEpoch: plan.forecast.secondsPerEpoch)
    }

    /// SHA-256 of the plan's canonical form, with its name in front.
    package var digest: Digest { TrainingPlan.digest(json) }
}
