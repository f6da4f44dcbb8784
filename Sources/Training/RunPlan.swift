package import FabricProtocol
package import TrainingPlanner
package import Vocabulary

/// What a run will do on the device and what it will take: the plan, and the program that follows from it.
package struct RunPlan: Sendable {
    package let epoch: TrainingPlan
    package let parameters: ParameterTable
    package let program: Program
    package let generation: Int

    /// - Parameters:
    ///   - trainingByClass: training nodes of each class; needed for balanced class weights only.
    ///   - generation: how often the run was planned before.
    package init(
        _ spec: ModelSpec, _ plan: TrainingPlan, trainingByClass: [Int]?, generation: Int = 0
    ) throws(TrainingError) {
        self.generation = generation
        epoch = plan
        parameters = ParameterTable(plan.model.parameters)
        program = try spec.program(for: plan, trainingByClass: trainingByClass, generation: generation)
    }

    /// Of one pass over all rows with a trained model.
    package init(
        predictingWith spec: ModelSpec, _ plan: TrainingPlan, trainingByClass: [Int]?
    ) throws(TrainingError) {
        generation = 0
        epoch = plan
        parameters = ParameterTable(plan.model.parameters)
        program = try spec.predictionProgram(for: plan, trainingByClass: trainingByClass)
    }

    package var image: ImageShape { epoch.image }
    /// How it is laid out, in a few words.
    package var title: String { epoch.cut.title(chunks: epoch.chunks) }
    /// The form that is hashed and recorded, and a table for people.
    package var json: JSON { epoch.json }
    package var table: String { epoch.table }
    package var deviceBytes: Int { epoch.forecast.deviceBytes }
    /// Of it, what lives for the whole run.
    package var wholeRunBytes: Int {
        epoch.buffers.filter { $0.lifetime == nil }.reduce(0) { $0 + $1.byteCount }
    }
    /// Sealed bytes of the device that the enclave keeps for it.
    package var spillBytes: Int { epoch.forecast.hostBytes + epoch.forecast.ssdBytes }
    package var fetchedBytesPerEpoch: Int { epoch.forecast.fetchedBytesPerEpoch }
    package var secondsPerEpoch: Double { epoch.forecast.secondsPerEpoch }
    /// SHA-256 of the plan's canonical form, with its name in front.
    package var digest: Digest { TrainingPlan.digest(json) }
}

extension ModelSpec {
    /// The plan of a run on an image. Pure: the same for the same specification, image and budget.
    package func plan(image: ImageShape, budget: Budget, generation: Int = 0) throws -> RunPlan {
        let plan = try Planner.plan(model: shape(for: image), image: image, budget: budget)
        return try RunPlan(self, plan, trainingByClass: image.trainingByClass, generation: generation)
    }

    /// The plan of a prediction: one pass over an image with a trained model.
    package func predictionPlan(image: ImageShape, budget: Budget) throws -> RunPlan {
        let plan = try Planner.plan(model: shape(for: image), image: image, budget: budget, purpose: .prediction)
        return try RunPlan(predictingWith: self, plan, trainingByClass: image.trainingByClass)
    }

    /// The tier that a window's bytes are kept in, where it is one of put-away values.
    package static func tier(ofWindow id: UInt16) -> Spill.Tier? {
        Spill.Tier.allCases.first { tier in
            (0...generationsMax).contains { window(of: tier, generation: $0) == id }
        }
    }
}
