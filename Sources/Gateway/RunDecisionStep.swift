import GraphVault
import GPUFabric
import AuditTrail
import PolicyEngine
import Sealing
import Training
package import Vocabulary

extension Gateway {
    /// Asks for a run of a declared model under a grant. The specification is read strictly here, and again from the
    /// record by every later step.
    ///
    /// - Parameters:
    ///   - hours: device hours after which the run is stopped; without it the run may use what its grant has left.
    ///   - once: asked for again under the same key, the same run is returned.
    package func requestRun(
        specification text: String, grant id: GrantID, id wanted: RunID?, deviceMemory: Int?, hours: Int? = nil,
        once: String? = nil, by researcher: PersonID
    ) async throws -> RunID {
        try require(researcher, anyOf: [.researcher])
        let specification: ModelSpec
        do throws(ModelSpecError) { specification = try ModelSpec(parsing: text) } catch {
            throw GatewayError(.usage, "the model specification is not valid: \(error)")
        }
        guard hours.map(DeviceHours.range.contains) ?? true else {
            throw GatewayError(.usage, "a run asks for 1 to \(DeviceHours.range.upperBound) device hours")
        }
        let grant = try grant(id)
        try requireUse(of: grant, by: researcher)
        _ = try fabric()
        guard let version = try await datasets().last(where: { $0.dataset == grant.dataset }) else {
            throw GatewayError(.notFound, "the data set \(grant.dataset) has no version in the vault")
        }
        return try recordRequest(
            of: RunAsked(
                specification: (text, specification), grant: grant, version: version.version, root: version.root,
                deviceMemory: deviceMemory, hours: hours, model: nil),
            id: wanted, once: once, by: researcher)
    }

    /// What is asked for, after every check that needs no policy.
    struct RunAsked {
        let specification: (text: String, read: ModelSpec)
        let grant: Grant
        let version: VersionID
        let root: Digest
        let deviceMemory: Int?
        let hours: Int?
        /// The run whose released model answers; `nil` where one is trained.
        let model: RunID?
    }

    /// Begins a run's case, or finds the one that was begun under the same key.
    func recordRequest(
        of wish: RunAsked, id wanted: RunID?, once: String?, by researcher: PersonID
    ) throws -> RunID {
        let grant = wish.grant
        var asked: [String: JSON] = [
            "grant": .string(grant.id.text), "specification": .string(wish.specification.text),
            "device_memory": wish.deviceMemory.map { .integer(Int64($0)) } ?? .null,
        ]
        if let hours = wish.hours { asked["hours"] = .integer(Int64(hours)) }
        if let model = wish.model { asked["model"] = .string(model.text) }
        let once = try once.map { try OnceKey($0, of: ["asked": .object(asked), "id": .string(wanted?.text ?? "")]) }
        if let once, let earlier = try earlierRun(once, by: researcher) { return earlier }
        let taken = Set(ledger.runs.map(\.text))
        let run = try wanted ?? RunID((1...).lazy.map { "run-\($0)" }.first { !taken.contains($0) }!)
        guard !taken.contains(run.text) else {
            throw GatewayError(.usage, "there is a run \(run) already; choose another id or `sekisho run resume`")
        }
        try ledger.record(
            Event(.runRequested, .intent).with {
                $0.actor = researcher
                $0.dataset = grant.dataset
                $0.version = wish.version
                $0.root = wish.root
                $0.purpose = grant.purpose.codes.joined(separator: ",")
                $0.detail = [
                    "grant": .string(grant.id.text), "specification": .string(wish.specification.read.digest.hex),
                ]
                if let model = wish.model { $0.detail["model"] = .string(model.text) }
                $0.payload = asked
                $0.payload["once"] = once?.json
            }, in: .run(run), key: RunCase.Key.requested)
        due.add(run)
        return run
    }

    private func earlierRun(_ once: OnceKey, by researcher: PersonID) throws -> RunID? {
        try ledger.runs.last { id in
            guard let asked = ledger.file(.run(id))[RunCase.Key.requested], asked.actor == researcher else {
                return false
            }
            return try once.isKey(of: asked)
        }
    }

    /// The second decision: the grant and the facts of this moment. Keys and leases cite its record.
    func decideRun(_ run: RunCase) async throws {
        guard let facts = RunFacts(run) else {
            throw StageFailure.failed(.decide, "request-unreadable", "the recorded request cannot be read")
        }
        let grant = try grant(facts.grant)
        let device = try await candidateDevice(for: run)
        if device == nil, let refusal = deviceRefusals.removeValue(forKey: run.id), refusal.code == .refused {
            throw StageFailure.refused(
                .decide, [Self.code(of: refusal)],
                "the device does not accept this gateway: \(refusal.publicDescription)")
        }
        if device == nil, let pools = try policies().policies[run.dataset]?.training.pools.value {
            throw StageFailure.failed(
                .decide, "no-device",
                "no node of pool \(pools.joined(separator: " or ")) can be reached and is accepted; see `sekisho fabric list`"
            )
        }
        let hours = try deviceHours(of: run, grant, now: clock.now())
        var question = RunQuestion(
            now: clock.now(), run: run.id, dataset: run.dataset, requester: run.researcher, purpose: grant.purpose,
            target: facts.specification.label,
            grant: heldGrant(grant, by: run.researcher),
            cohort: try await vault.cohort(run.dataset, run.version, permits: try consentsAllowing(grant.purpose))
                .subjects,
            device: device,
            hoursUsed: hours.others, hoursAsked: hours.asked ?? 1)
        question.visas = visas(of: run.researcher, for: run.dataset)
        let (decision, policies) = try decide(.run(question))
        let event = decisionEvent(.runDecided, .run(question), decision, policies).with {
            $0.dataset = run.dataset
            $0.version = run.version
            $0.root = run.root
            $0.purpose = grant.purpose.codes.joined(separator: ",")
        }
        try ledger.record(event, in: .run(run.id), key: RunCase.Key.decided)
    }

    /// What a grant was decided on; `nil` where the record says nothing of it, and what needs it is then refused.
    func accessDecided(of grant: Grant) -> AccessQuestion? {
        guard let input = ledger.file(.request(grant.request))[AccessRequest.Key.decided]?.payload["input"],
            case .access(let question)? = try? Question(input: input)
        else { return nil }
        return question
    }

    package func runCase(_ id: RunID) throws -> RunCase {
        let file = ledger.file(.run(id))
        guard !file.records.isEmpty else { throw GatewayError(.notFound, "there is no run \(id)") }
        return RunCase(id: id, file: file)
    }

    package func runs() throws -> [RunCase] { try ledger.runs.map(runCase) }

    /// Records why a stage stopped. The run then gives back what it holds and closes.
    func recordFailure(_ failure: StageFailure, of run: RunCase) throws {
        let names: [RunStage: (AuditEvent, String)] = [
            .decide: (.runDecided, RunCase.Key.decided), .open: (.runOpened, RunCase.Key.opened),
            .attach: (.deviceLeased, RunCase.Key.leased), .plan: (.runPlanned, RunCase.Key.planned),
            .train: (RunFacts(run)?.model == nil ? .runTrained : .runPredicted, RunCase.Key.trained),
            .scrub: (.deviceScrubbed, RunCase.Key.scrubbed),
            .review: (.releaseDecided, RunCase.Key.releaseDecided), .release: (.releaseReady, RunCase.Key.ready),
            .closed: (.runClosed, RunCase.Key.closed),
        ]
        let (name, key) = names[failure.stage]!
        guard run.file[key] == nil else {
            throw GatewayError(.integrity, "stage \(failure.stage.rawValue) failed after it was recorded as done")
        }
        try ledger.record(
            Event(name, failure.outcome).with {
                $0.reasons = failure.reasons
                $0.payload = ["explanation": .string(failure.explanation)]
            }, in: .run(run.id), key: key)
    }
}
