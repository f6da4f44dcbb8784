import AuditTrail
import FabricProtocol
import GPUFabric
import GraphVault
import PolicyEngine
import Sealing
import Training
import TransparencyLog
package import Vocabulary

// A prediction is a run like any other: policy, consents, image, lease, plan, scrub, checks, reviews and release. Only
// its train stage differs: a released model answers for every row of the image, in one pass. The answers, one for each
// person, never leave the enclave and are not kept: what becomes the candidate are counts, rounded down to multiples of
// the least cohort.

extension Gateway {
    /// Asks what a released model answers for all whom its data set's policy and their consents allow, now.
    ///
    /// - Parameters:
    ///   - model: a run of the researcher's own that was released.
    ///   - hours, once: as for a run that trains.
    package func requestPrediction(
        of model: RunID, grant id: GrantID, id wanted: RunID?, deviceMemory: Int?, hours: Int? = nil,
        once: String? = nil, by researcher: PersonID
    ) async throws -> RunID {
        try require(researcher, anyOf: [.researcher])
        let trained = try runCase(model)
        try requireSight(of: trained, by: researcher)
        guard trained.researcher == researcher else {
            throw GatewayError(.refused, "only the run's own researcher asks for its predictions")
        }
        guard let facts = RunFacts(trained), facts.model == nil,
            let text = trained.file[RunCase.Key.requested]?.payload["specification"]?.stringValue
        else { throw GatewayError(.refused, "run \(model) is a prediction; name the run that trained the model") }
        try requireReleased(trained)
        guard hours.map(DeviceHours.range.contains) ?? true else {
            throw GatewayError(.usage, "a run asks for 1 to \(DeviceHours.range.upperBound) device hours")
        }
        let grant = try grant(id)
        try requireUse(of: grant, by: researcher)
        guard grant.dataset == trained.dataset else {
            throw GatewayError(
                .refused, "the grant is for \(grant.dataset); the model was trained on \(trained.dataset)")
        }
        _ = try fabric()
        // What its columns and classes mean is told by the version that it was trained on.
        guard
            try await datasets().contains(where: {
                $0.dataset == trained.dataset && $0.version == trained.version && $0.root == trained.root
            })
        else { throw GatewayError(.notFound, "the version that the model was trained on is not in the vault any more") }
        return try recordRequest(
            of: RunAsked(
                specification: (text, facts.specification), grant: grant, version: trained.version,
                root: trained.root, deviceMemory: deviceMemory, hours: hours, model: model),
            id: wanted, once: once, by: researcher)
    }

    private func requireReleased(_ run: RunCase) throws {
        guard run.isReleased else {
            throw GatewayError(.refused, "run \(run.id) is not released; its checks and reviewers come first")
        }
        if let end = try revocation(ofGrantOf: run) {
            throw GatewayError(.refused, "the access that run \(run.id) stood on was revoked (\(end.reason.rawValue))")
        }
    }

    /// The train stage of a prediction. Started again after a crash it comes to the same counts.
    func predict(_ run: RunCase, with model: RunID) async throws {
        let work = try await trainWork(run)
        let (session, specification) = (work.session, work.specification)
        let multiple = try max(policy(for: run.dataset).release.cohortMin.value, 1)
        var counts = PredictionCounts(specification.task, classes: work.image.shape.classes, multiple: multiple)
        let report: Predictor.Report
        let weights: Digest
        do {
            let predictor = Predictor(spec: specification, plan: work.plan)
            let trained = try await releasedModel(of: model)
            weights = trained.digest
            let state = try await sealed(predictor.weights(trained.tensors), for: run, session)
            let device = device(for: work, of: run, state: state)
            report = try await predictor.predict(on: device) { counts.add($1) }
        } catch {
            throw trainFailure(error, of: session)
        }
        // What ended while its run was being stopped is none of the run's.
        guard try !stopIfEnded(run.id) else { throw CancellationError() }
        feed.publish(.epoch(EpochProgress(epoch: 1, epochs: 1, secondsLeft: 0, figures: [])), of: run.id)
        try await storePredictions(counts, report, weights, specification, run, model, session)
    }

    private func storePredictions(
        _ counts: PredictionCounts, _ report: Predictor.Report, _ weights: Digest, _ specification: ModelSpec,
        _ run: RunCase, _ model: RunID, _ session: DeviceSession
    ) async throws {
        guard var members = counts.json(report).objectValue else { return }
        members["format"] = "sekisho-predictions-1"
        members["model"] = .string(model.text)
        members["weights"] = .string(weights.hex)
        members["specification"] = .string(specification.digest.hex)
        members["task"] = .string(specification.task.rawValue)
        let candidate: Candidate
        do {
            candidate = try await vault.storeCandidate(
                run: run.id, artefacts: [(Artefact.Kind.predictions.rawValue, JSON.object(members).canonical)])
        } catch let error as VaultError {
            throw StageFailure.failed(.train, error.code.rawValue, error.publicDescription)
        }
        let counters = session.gpu.counters
        try ledger.record(
            Event(.runPredicted, .done).with {
                $0.detail = [
                    "model": .string(model.text), "weights": .string(weights.hex),
                    "predictions": .string(report.digest.hex), "candidate": .string(candidate.hash.hex),
                    "bytes_to_device": .integer(Int64(clamping: counters.bytesToDevice)),
                    "bytes_from_device": .integer(Int64(clamping: counters.bytesFromDevice)),
                ]
            }, in: .run(run.id), key: RunCase.Key.trained)
    }

    /// A model as its release gave it out, on the receipt of that release, held to the weights that its run recorded.
    private func releasedModel(of id: RunID) async throws -> (tensors: [String: [Float]], digest: Digest) {
        let run = try runCase(id)
        do { try requireReleased(run) } catch let error as GatewayError {
            throw StageFailure.refused(.train, ["model.not-released"], error.publicDescription)
        }
        let damaged = StageFailure.failed(.train, "model-integrity", "the released model cannot be read")
        guard let receipt = run.file[RunCase.Key.ready]?.payload["receipt"]?.stringValue.flatMap(Hex.decode) else {
            throw damaged
        }
        let bytes: [UInt8]
        do {
            let (artefacts, _) = try await released(run, Receipt(parsing: receipt))
            guard let model = artefacts.first(where: { $0.kind == .model }) else { throw damaged }
            bytes = model.bytes
        } catch let error as GatewayError where error.code != .unavailable {
            throw StageFailure.failed(.train, "model-\(error.code.rawValue)", error.publicDescription)
        }
        let digest = SHA256.hash(bytes)
        guard digest.hex == run.file[RunCase.Key.trained]?.detail["weights"]?.stringValue,
            let file = try? Safetensors(parsing: bytes)
        else { throw damaged }
        return (file.values(in: bytes), digest)
    }

    /// For this attempt's device alone. A prediction that starts again on the same attempt seals the same bytes again, so
    /// no nonce is used for two plaintexts.
    private func sealed(
        _ weights: [UInt8], for run: RunCase, _ session: DeviceSession
    ) async throws -> [UInt16: [UInt8]] {
        let receipt = try ledger.receipt(for: session.lease)
        let (fence, attempt) = (session.gpu.fence, session.attempt)
        let window = TrainingCheckpoint.Part.parameters.stateWindow
        return try await vault.withRunKey(run: run.id, receipt: receipt, trail: settings.trail) { key in
            [
                window: try StateWindows(runKey: key, run: run.id, fence: fence, attempt: attempt).seal(
                    weights, window: window)
            ]
        }
    }
}
