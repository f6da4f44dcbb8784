import AuditTrail
import FabricProtocol
import Foundation
import GPUFabric
import GraphVault
import PolicyEngine
import Sealing
import Synchronization
import Training
import TrainingPlanner
import TransparencyLog
package import Vocabulary

/// A node that was attested and that the data set's policy accepts.
struct AcceptedNode {
    let node: AttestedNode
    let pool: String
    let evidence: PolicyEngine.Evidence
    let rttMicroseconds: Int

    /// As the run decision is told of it.
    var facts: RunQuestion.Device {
        RunQuestion.Device(node: node.node, pool: pool, evidence: evidence, rttMicroseconds: rttMicroseconds)
    }
}

/// The device that a run of this process holds.
struct DeviceSession: Sendable {
    let gpu: RemoteGPU
    /// The record that its lease stands on; the run key's receipt.
    let lease: CaseRecord
    let attempt: UInt32
    let spills: SpillStores
    let crossed = CrossedSummary()
}

/// What the train stage works with, whether it trains or predicts.
struct TrainWork: Sendable {
    let session: DeviceSession
    let rates: MeasuredRates
    let specification: ModelSpec
    let plan: RunPlan
    let image: RunImage
    /// Whether the plan is the one of the run's own record.
    let isRecorded: Bool
}

/// What a device has read and written through its windows since it was last asked: each epoch's record has its own.
final class CrossedSummary: Sendable {
    private let last = Mutex(FabricCounters())

    func next(_ now: FabricCounters) -> JSON {
        last.withLock { last in
            defer { last = now }
            func since(_ counter: KeyPath<FabricCounters, UInt64>) -> JSON {
                .integer(Int64(clamping: now[keyPath: counter] - last[keyPath: counter]))
            }
            return [
                "reads": since(\.reads), "writes": since(\.writes), "bytes_to_device": since(\.bytesToDevice),
                "bytes_from_device": since(\.bytesFromDevice),
            ]
        }
    }
}

// MARK: - Choosing and attesting

extension Gateway {
    /// A free node of a pool that the policy names, attested for the next fence; `nil` where none can be had. The
    /// attested node is kept for the attach step of this process.
    func candidateDevice(for run: RunCase) async throws -> RunQuestion.Device? {
        guard let attested = try await attestFreeNode(for: run) else { return nil }
        attestedNodes[run.id] = attested.node
        return attested.facts
    }

    /// - Parameter only: after a restart, the node that the run leased before: its memory is what must be scrubbed.
    func attestFreeNode(for run: RunCase, only: NodeID? = nil) async throws -> AcceptedNode? {
        // Data that no policy speaks of any more have no pool; the decision refuses them with its reason.
        guard let training = try policies().policies[run.dataset]?.training else { return nil }
        let fabric = try fabric()
        // A run that takes its own device again after a restart does not wait in line for it.
        let hasNode = fabric.nodes.contains { training.pools.value.contains($0.node.pool) && $0.quarantine == nil }
        if only == nil, hasNode, let busy = try hindrance(of: run, pools: training.pools.value) { throw busy }
        let fence = nextFence()
        let lease = try LeaseID("lease-\(fence)")
        let held = Set(try deviceHolders().filter { $0.run.id != run.id }.map(\.node))
        var isBusy = false
        for status in fabric.nodes
        where training.pools.value.contains(status.node.pool) && status.quarantine == nil
            && (only.map { $0 == status.node.id } ?? !isDrained(status.node.id))
        {
            // A higher fence would take the node from the run that has it.
            guard !held.contains(status.node.id) else {
                isBusy = true
                continue
            }
            do throws(FabricError) {
                let node = try await fabric.attest(status.node.id, lease: lease, fence: fence)
                let rtt = Int(clamping: node.link.roundTripNanoseconds / 1000)
                // The policy is asked of every device that is leased, not only of the one that the run decision saw.
                guard let evidence = PolicyEngine.Evidence(rawValue: node.level.name),
                    evidence >= training.evidence.value, training.rttMicrosecondsMax.map({ rtt <= $0.value }) ?? true
                else {
                    node.giveUp()
                    continue
                }
                deviceRefusals[run.id] = nil
                leaveLine(run.id)
                return AcceptedNode(node: node, pool: status.node.pool, evidence: evidence, rttMicroseconds: rtt)
            } catch {
                if error.code == .notFree { isBusy = true }
                // A node that cannot be had is passed over; one whose evidence is wrong was quarantined, which is
                // recorded alone.
                if error.code == .evidence { try recordQuarantine(of: status.node.id, error) }
                deviceRefusals[run.id] = error
                // A device that has seen a higher fence says that this gateway is behind: another one took over, or this
                // home was restored from a backup. No other device may be tried then.
                if error.refusal?.code == .staleFence { return nil }
            }
        }
        if isBusy { throw try busy(run.id) }
        leaveLine(run.id)
        return nil
    }

    func recordQuarantine(of node: NodeID, _ error: FabricError) throws {
        try ledger.record(
            Event(.nodeQuarantined, .done).with {
                $0.device = node
                $0.reasons = [error.code.rawValue]
                $0.detail = error.index.map { ["measurement": .integer(Int64($0))] } ?? [:]
            }, in: .gateway, key: ledger.freshKey("quarantined.\(node)"))
    }

    /// Ever growing, over restarts too: recorded fences and those handed out since.
    private func nextFence() -> Fence {
        let fence = max(ledger.highestFence, fenceHandedOut).next
        fenceHandedOut = fence
        return fence
    }
}

// MARK: - Attach

extension Gateway {
    /// Leases the attested device: intent recorded, run key wrapped to the device by the vault on the intent's
    /// receipt, lease granted by the device on the same receipt.
    func attach(_ run: RunCase) async throws {
        typealias Key = RunCase.Key
        try await requireSameCohort(run)
        let node: AttestedNode
        let kept = attestedNodes.removeValue(forKey: run.id)
        if let kept, run.file[Key.leasing] == nil, isFresh(run) {
            node = kept
        } else {
            kept?.giveUp()
            node = try await nodeAgain(for: run, stage: .attach)
        }
        // Whoever revoked the access meanwhile need not wait for a lease.
        guard try !stopIfEnded(run.id) else {
            node.giveUp()
            throw CancellationError()
        }
        let record = try recordIntent(node, run)
        sessions[run.id] = try await lease(node, run, record, stage: .attach)
        try recordLeased(node, run, key: Key.leased)
    }

    private func recordLeased(_ node: AttestedNode, _ run: RunCase, key: String) throws {
        try ledger.record(
            Event(.deviceLeased, .done).with {
                $0.device = node.node
                $0.evidence = node.evidence
                $0.lease = node.lease
                $0.fence = node.fence
                $0.detail = ["level": .string(node.level.name), "device_bytes": .integer(Int64(node.deviceBytes))]
            }, in: .run(run.id), key: key)
    }

    /// Whether the node that the run's decision saw still waits: a node gives up on a silent gateway after two
    /// minutes, and building the image of a large cohort takes longer.
    private func isFresh(_ run: RunCase) -> Bool {
        run.file[RunCase.Key.decided].map { clock.now() < $0.time.adding(seconds: 60) } ?? false
    }

    /// The run's device in this process. A gateway that was restarted takes a device again with a higher fence; the
    /// device scrubs the earlier lease first. That is told in the gateway's own case, so that the run's records are
    /// the same with and without the crash.
    func session(for run: RunCase, stage: RunStage) async throws -> DeviceSession {
        if let session = sessions[run.id] {
            guard let cause = session.gpu.failure else { return session }
            sessions[run.id] = nil
            throw failure(cause, of: session, at: stage)
        }
        let node = try await nodeAgain(for: run, stage: stage)
        let record = try recordIntent(node, run)
        let session = try await lease(node, run, record, stage: stage)
        sessions[run.id] = session
        // A device that takes the place of a lost one is told in the run's own case, once.
        if let lost = run.file[RunCase.Key.lost(run.losses)], let leased = run.file[RunCase.Key.leased],
            leased.index < lost.index
        {
            try recordLeased(node, run, key: RunCase.Key.leased(run.losses))
        }
        return session
    }

    /// In the run's own case for its first device and for each that takes the place of a lost one. A device that is taken
    /// again after a crash may have seen the fence of that intent: another one, in the gateway's own case, names a higher.
    private func recordIntent(_ node: AttestedNode, _ run: RunCase) throws -> CaseRecord {
        let own = RunCase.Key.leasing(run.losses)
        let isFirst = run.file[own] == nil
        return try ledger.record(
            leaseIntent(node, run), in: isFirst ? .run(run.id) : .gateway,
            key: isFirst ? own : "adopted.\(run.id).\(node.fence)")
    }

    private func leaseIntent(_ node: AttestedNode, _ run: RunCase) -> Event {
        Event(.deviceLeased, .intent).with {
            $0.device = node.node
            $0.evidence = node.evidence
            $0.lease = node.lease
            $0.fence = node.fence
            $0.ofRun = run.id
            $0.detail = node.link.detail
            $0.detail["wrappingKey"] = .string(Hex.encode(node.wrappingKey.bytes))
            $0.detail["level"] = .string(node.level.name)
        }
    }

    private func lease(
        _ node: AttestedNode, _ run: RunCase, _ record: CaseRecord, stage: RunStage
    ) async throws -> DeviceSession {
        // A node may believe only what witnesses have seen. One that is away stops nothing here: whether its word is
        // needed is for the node to say.
        let cosigned = try witnesses() == nil ? nil : try await cosign(for: nil).head
        let receipt = try ledger.receipt(for: record, under: cosigned)
        let attempt = UInt32(truncatingIfNeeded: node.fence.number)
        let wrappedRunKey: [UInt8]
        do {
            wrappedRunKey = try await vault.releaseRunKey(
                run: run.id, receipt: receipt, trail: settings.trail, to: node.wrappingKey)
        } catch let error as VaultError {
            node.giveUp()
            throw StageFailure.failed(stage, error.code.rawValue, error.publicDescription)
        }
        if try stage != .scrub && runCase(run.id).stopped {
            node.giveUp()
            throw CancellationError()
        }
        try recordKeyRelease(node, run)
        do throws(FabricError) {
            let gpu = try await node.lease(
                run: run.id, attempt: attempt, receipt: receipt.bytes, wrappedRunKey: wrappedRunKey
            ) { [weak self] refusal in
                Task { await self?.recordRefusedAccess(refusal, run: run.id) }
            }
            return DeviceSession(
                gpu: gpu, lease: record, attempt: attempt,
                spills: SpillStores(folder: home.folder.path))
        } catch {
            if error.code == .refused {
                throw StageFailure.refused(stage, [Self.code(of: error)], error.publicDescription)
            }
            // The key may have reached it. A scrub takes no other device's place.
            if stage != .scrub, error.isLoss, let lease = HeldLease(record) { throw DeviceLoss(lease, error) }
            throw deviceFailure(error, at: stage)
        }
    }

    /// Before the wrapped key leaves for the device. A device that is taken again after a crash gets it anew, which is
    /// told in the gateway's own case.
    private func recordKeyRelease(_ node: AttestedNode, _ run: RunCase) throws {
        let own = RunCase.Key.keyReleased(run.losses)
        let isFirst = try runCase(run.id).file[own] == nil
        try ledger.record(
            Event(.keyReleased, .done).with {
                $0.ofRun = run.id
                $0.device = node.node
                $0.lease = node.lease
                $0.fence = node.fence
                $0.detail = ["wrappingKey": .string(Hex.encode(node.wrappingKey.bytes))]
                $0.detail["run_key"] = run.file[RunCase.Key.opened]?.detail["run_key"]
            }, in: isFirst ? .run(run.id) : .gateway,
            key: isFirst ? own : "key-released.\(run.id).\(node.fence)")
    }

    static func code(of error: FabricError) -> String {
        switch error.refusal?.code {
        case .staleFence: "device.stale-fence"
        case .unwitnessed: "device.unwitnessed"
        default: "device.\(error.code.rawValue)"
        }
    }

    private func recordRefusedAccess(_ refusal: WindowRefusal, run: RunID) {
        // The attachment is torn down whether or not this can be recorded.
        _ = try? ledger.record(
            Event(.windowRefused, .refused).with {
                $0.ofRun = run
                $0.reasons = ["outside-window"]
                $0.detail = [
                    "window": .integer(Int64(refusal.window)), "write": .bool(refusal.isWrite),
                    "length": .integer(Int64(clamping: refusal.length)),
                ]
            }, in: .gateway, key: ledger.freshKey("window.\(run)"))
    }
}

// MARK: - Plan

extension Gateway {
    /// Plans from the image's sizes, the memory at hand and the link as it was measured. A run that cannot fit is
    /// refused here, with the bytes it needs.
    func plan(_ run: RunCase) async throws {
        let session = try await session(for: run, stage: .plan)
        let rates: MeasuredRates
        do {
            rates = try await measuring(session.gpu, home.folder.path)
        } catch let error as FabricError {
            throw failure(error, of: session, at: .plan)
        }
        let (_, plan, _) = try await trainingPlan(run, session, rates, stage: .plan)
        try ledger.record(
            Self.planned(plan, rates).with {
                $0.detail["tiers"] = Self.tiers(of: plan, limit: deviceLimit(run, session))
            }, in: .run(run.id), key: RunCase.Key.planned)
    }

    /// Plans with these rates from now on instead of measuring: to look at what follows where they are wrong.
    package func plan(assuming rates: MeasuredRates) { measuring = { _, _ in rates } }

    /// What every record of a plan says.
    private static func planned(_ plan: RunPlan, _ rates: MeasuredRates) -> Event {
        Event(.runPlanned, .done).with {
            $0.detail = [
                "plan": .string(plan.digest.hex), "cut": .string(plan.title),
                "predicted_microseconds_per_epoch": .integer(Int64(plan.secondsPerEpoch * 1e6)),
                "predicted_fetch_per_epoch": .integer(Int64(plan.fetchedBytesPerEpoch)),
            ]
            $0.payload = ["plan": plan.json, "table": .string(plan.table), "rates": rates.json]
        }
    }

    /// The plan as it was recorded, for people and for scripts.
    package func recordedPlan(of id: RunID) throws -> (json: JSON, table: String) {
        guard let payload = try runCase(id).file[RunCase.Key.planned]?.payload, let json = payload["plan"],
            let table = payload["table"]?.stringValue
        else { throw GatewayError(.notFound, "run \(id) has no plan yet") }
        return (json, table)
    }

    /// The same plan for the same run, device and rates: planning is pure, so it is made again, not stored.
    func trainingPlan(
        _ run: RunCase, _ session: DeviceSession, _ rates: MeasuredRates, stage: RunStage
    ) async throws -> (ModelSpec, RunPlan, RunImage) {
        guard let facts = RunFacts(run) else {
            throw StageFailure.failed(stage, "request-unreadable", "the recorded request cannot be read")
        }
        let specification = facts.specification
        let image: RunImage
        do {
            image = try await vault.runImage(run.id)
        } catch let error as VaultError {
            throw StageFailure.failed(stage, error.code.rawValue, error.publicDescription)
        }
        let budget = rates.budget(
            deviceBytes: deviceLimit(run, session), hostBytes: hostBytesMax, ssdBytes: ssdBytesMax)
        do {
            let plan =
                facts.model == nil
                ? try specification.plan(image: image.shape, budget: budget)
                : try specification.predictionPlan(image: image.shape, budget: budget)
            return (specification, plan, image)
        } catch let error as PlanError {
            throw StageFailure.refused(stage, [error.code.rawValue], error.publicDescription)
        } catch let error as TrainingError {
            throw StageFailure.failed(stage, error.code.rawValue, error.publicDescription)
        }
    }

    private func deviceLimit(_ run: RunCase, _ session: DeviceSession) -> Int {
        min(RunFacts(run)?.deviceMemory ?? session.gpu.deviceBytes, session.gpu.deviceBytes)
    }

    /// What each tier holds at the plan's peak, for the report's picture.
    private static func tiers(of plan: RunPlan, limit: Int) -> JSON {
        let fixed = plan.wholeRunBytes
        let image = plan.image.recipe.sections.reduce(0) { $0 + plan.image.byteCount($1) }
        func part(_ name: String, _ bytes: Int) -> JSON { ["name": .string(name), "bytes": .integer(Int64(bytes))] }
        return [
            [
                "tier": "device", "limit": .integer(Int64(limit)),
                "parts": [
                    part("whole run", fixed), part("sweeps", max(plan.deviceBytes - fixed, 0)),
                ],
            ],
            [
                "tier": "enclave host",
                "parts": [part("run image", image), part("spilled tensors", plan.epoch.forecast.hostBytes)],
            ],
            [
                "tier": "enclave SSD", "parts": [part("spilled tensors", plan.epoch.forecast.ssdBytes)],
            ],
        ]
    }
}

// MARK: - Train

extension Gateway {
    /// Maps the windows, loads the epoch's program and rings it; the candidate is sealed into the vault. Started again
    /// after a crash it trains from the first epoch and comes to the same weights.
    func train(_ run: RunCase) async throws {
        if let model = RunFacts(run)?.model { return try await predict(run, with: model) }
        let work = try await trainWork(run)
        let (session, specification, image) = (work.session, work.specification, work.image)
        let model: TrainedModel
        do {
            let trainer = Trainer(spec: specification, plan: work.plan)
            let resumed = try await checkpoint(of: run, trainer, session)
            let device = device(for: work, of: run, state: resumed?.state ?? [:])
            model = try await trainer.train(on: device, from: resumed?.checkpoint, rule: checkpointRule) {
                @Sendable checkpoint in
                try await self.keep(checkpoint, of: run.id, session)
            } replan: { @Sendable current, report in
                try await self.replanned(run, specification, image.shape, current, report, session, work.rates)
            } report: { @Sendable report in
                try await self.record(report, of: run.id, specification, session, labelled: image.shape.labelled)
            }
        } catch {
            throw trainFailure(error, of: session)
        }
        try await storeCandidate(of: run, specification, model, session)
    }

    /// The run's device with its plan, as it was recorded or, where that is another one, as it is recorded now.
    func trainWork(_ run: RunCase) async throws -> TrainWork {
        typealias Key = RunCase.Key
        let session = try await session(for: run, stage: .train)
        // The rates of when it was planned: later ones would make another plan.
        let rates = MeasuredRates(json: run.file[Key.planned]?.payload["rates"] ?? .null)
        let (specification, plan, image) = try await trainingPlan(run, session, rates, stage: .train)
        // A run that goes on on a device with other memory gets another plan: the bits are the same under any, and which
        // it was is recorded.
        let isRecorded = plan.digest.hex == run.file[Key.planned]?.detail["plan"]?.stringValue
        if !isRecorded { try recordReplanned(run.id, plan, session, budget: rates) }
        return TrainWork(
            session: session, rates: rates, specification: specification, plan: plan, image: image,
            isRecorded: isRecorded)
    }

    /// - Parameter state: sealed windows that the device begins with.
    func device(for work: TrainWork, of run: RunCase, state: [UInt16: [UInt8]]) -> AttachedDevice {
        AttachedDevice(gpu: work.session.gpu, image: work.image, spills: work.session.spills, state: state) {
            [weak self] table, program, isFirst in
            try await self?.recordLoad(
                run: run.id, windows: table, program: program, isPlanned: work.isRecorded && isFirst)
        } opening: { [weak self] sealed in
            guard let self else { throw CancellationError() }
            return try await openResult(sealed, run: run, session: work.session)
        }
    }

    /// What an error of the train stage means.
    func trainFailure(_ error: any Error, of session: DeviceSession) -> any Error {
        switch error {
        case let error as FabricError: failure(error, of: session, at: .train)
        case let error as TrainingError: StageFailure.failed(.train, error.code.rawValue, error.publicDescription)
        case let error as VaultError: StageFailure.failed(.train, error.code.rawValue, error.publicDescription)
        default: error
        }
    }

    /// Another plan for the rates that the last epochs have shown; `nil` where it would be laid out the same.
    private func replanned(
        _ run: RunCase, _ spec: ModelSpec, _ image: ImageShape, _ current: RunPlan, _ report: EpochReport,
        _ session: DeviceSession, _ rates: MeasuredRates
    ) throws -> RunPlan? {
        guard
            let plan = try? spec.plan(
                image: image, budget: current.corrected(by: report), generation: current.generation + 1),
            plan.epoch.cut != current.epoch.cut
        else { return nil }
        try recordReplanned(run.id, plan, session, budget: rates)
        return plan
    }

    /// In the gateway's own case, since it depends on the device and on the hour.
    func recordReplanned(_ run: RunID, _ plan: RunPlan, _ session: DeviceSession, budget: MeasuredRates) throws {
        try ledger.record(
            Self.planned(plan, budget).with {
                $0.ofRun = run
                $0.fence = session.gpu.fence
            }, in: .gateway, key: ledger.freshKey("replanned.\(run)"))
    }

    /// - Parameter isPlanned: whether it is the program of the run's own recorded plan.
    func recordLoad(run: RunID, windows: Digest, program: Digest, isPlanned: Bool) throws {
        guard isPlanned else {
            try ledger.record(
                Event(.programLoaded, .intent).with {
                    $0.ofRun = run
                    $0.detail = ["windows": .string(windows.hex), "program": .string(program.hex)]
                }, in: .gateway, key: ledger.freshKey("loaded.\(run)"))
            return
        }
        let record = try ledger.record(
            Event(.programLoaded, .intent).with {
                $0.detail = ["windows": .string(windows.hex), "program": .string(program.hex)]
            }, in: .run(run), key: RunCase.Key.loading)
        guard record.detail["windows"]?.stringValue == windows.hex, record.detail["program"]?.stringValue == program.hex
        else { throw StageFailure.failed(.train, "program-changed", "the program is not the one that was recorded") }
    }

    /// Where an earlier process left the run's training, sealed anew for the device that goes on with it.
    ///
    /// The device of one attempt is given state once. Training that starts again on the same attempt, after the disk was
    /// full for example, starts at the first epoch, and comes to the same weights.
    private func checkpoint(
        of run: RunCase, _ trainer: Trainer, _ session: DeviceSession
    ) async throws -> (checkpoint: TrainingCheckpoint, state: [UInt16: [UInt8]])? {
        guard session.spills.takeFirstUse(), let stored = try await vault.checkpoint(run: run.id) else { return nil }
        guard let checkpoint = stored.facts["training"].flatMap(TrainingCheckpoint.init(json:)),
            let fence = stored.facts["fence"]?.integerValue.flatMap(UInt64.init(exactly:)),
            let attempt = stored.facts["attempt"]?.integerValue.flatMap(UInt32.init(exactly:)),
            fence < session.gpu.fence.number
        else { throw TrainingError(.badCheckpoint, "the run's checkpoint cannot be read") }
        let parameters = trainer.plan.parameters.count
        let receipt = try ledger.receipt(for: session.lease)
        let (now, nowAttempt) = (session.gpu.fence, session.attempt)
        let state = try await vault.withRunKey(run: run.id, receipt: receipt, trail: settings.trail) { key in
            let old = ResultWindow(runKey: key, run: run.id, fence: Fence(fence), attempt: attempt)
            let new = StateWindows(runKey: key, run: run.id, fence: now, attempt: nowAttempt)
            var state: [UInt16: [UInt8]] = [:]
            for part in TrainingCheckpoint.Part.allCases {
                let plaintext = try old.open(
                    stored.windows[part.resultWindow] ?? [], window: part.resultWindow,
                    byteCount: part.byteCount(parameters: parameters), sealed: checkpoint.sealed)
                state[part.stateWindow] = try new.seal(plaintext, window: part.stateWindow)
            }
            return state
        }
        // What a crash of this gateway brings about is told in its own case, what a lost device brings about in the run's.
        let own = RunCase.Key.resumed(run.losses)
        let isOwn = run.losses > 0 && run.file[own] == nil
        try ledger.record(
            Event(.trainingResumed, .done).with {
                $0.ofRun = run.id
                $0.fence = session.gpu.fence
                $0.detail = ["after_epoch": .integer(Int64(checkpoint.epoch))]
            }, in: isOwn ? .run(run.id) : .gateway,
            key: isOwn ? own : "resumed.\(run.id).\(session.gpu.fence)")
        return (checkpoint, state)
    }

    private func keep(_ checkpoint: TrainingCheckpoint, of run: RunID, _ session: DeviceSession) async throws {
        var windows: [UInt16: [UInt8]] = [:]
        for part in TrainingCheckpoint.Part.allCases {
            windows[part.resultWindow] = try session.spills.bytes(of: part.resultWindow)
        }
        try await vault.storeCheckpoint(
            run: run,
            facts: [
                "training": checkpoint.json, "fence": .integer(Int64(session.gpu.fence.number)),
                "attempt": .integer(Int64(session.attempt)),
            ], windows: windows)
    }

    func openResult(_ result: SealedResult, run: RunCase, session: DeviceSession) async throws -> [UInt8] {
        let receipt = try ledger.receipt(for: session.lease)
        let fence = session.gpu.fence
        let attempt = session.attempt
        return try await vault.withRunKey(run: run.id, receipt: receipt, trail: settings.trail) { key in
            try ResultWindow(runKey: key, run: run.id, fence: fence, attempt: attempt).open(
                result.bytes, result.part, sealed: result.sealed)
        }
    }

    private func record(
        _ report: EpochReport, of run: RunID, _ spec: ModelSpec, _ session: DeviceSession, labelled: [Int]
    ) throws {
        // An epoch that ended while its run was being stopped is none of the run's.
        guard try !runCase(run).stopped else { throw CancellationError() }
        let epochs = spec.epochs
        func parts(_ share: Double) -> JSON { .integer(Int64((share * 1e6).rounded())) }
        try ledger.record(
            Event(.trainingEpoch, .done).with {
                $0.detail = [
                    "epoch": .integer(Int64(report.epoch)), "loss_micro": parts(min(report.trainingLoss, 1e6)),
                    "train_ppm": parts(spec.score(of: report.train)),
                    "validation_ppm": parts(spec.score(of: report.validation)),
                    "test_ppm": parts(spec.score(of: report.test)),
                    "windows": session.crossed.next(session.gpu.counters),
                ]
            }, in: .run(run), key: RunCase.Key.epoch(report.epoch))
        guard try !stopIfEnded(run) else { throw CancellationError() }
        feed.publish(
            .epoch(
                EpochProgress(
                    epoch: report.epoch, epochs: epochs,
                    secondsLeft: Int((Double(epochs - report.epoch) * report.seconds).rounded(.up)),
                    figures: feed.showsFigures(of: run)
                        ? try figuresShown(of: report, spec.score(of: report.validation), run, labelled: labelled) : [])
            ),
            of: run)
    }

    /// Before release a researcher sees how far a run is, and figures only as the policy's progress clause allows,
    /// rounded as it says. Which kinds were shown is recorded once: figures are outputs too.
    private func figuresShown(
        of report: EpochReport, _ score: Double, _ id: RunID, labelled: [Int]
    ) throws -> [ShownFigure] {
        let run = try runCase(id)
        return try ProgressQuestion.Figure.allCases.compactMap { figure in
            guard let step = try roundingShown(figure, of: run, labelled: labelled) else { return nil }
            let value = figure == .loss ? min(report.trainingLoss, 1e6) : score
            return ShownFigure(
                name: figure.rawValue, thousandths: Int((value * 1000 / step).rounded() * step))
        }
    }

    /// The step in thousandths to which policy rounds a figure for the run's researcher; `nil` where it hides it. That it
    /// is shown is recorded.
    /// - Parameter labelled: how many labelled rows each split of the run image has, by the vault's word.
    func roundingShown(_ figure: ProgressQuestion.Figure, of run: RunCase, labelled: [Int]) throws -> Double? {
        // How many people are behind a figure is the vault's word, not the device's.
        let split: Split = figure == .loss ? .train : .validation
        let question = ProgressQuestion(
            dataset: run.dataset, run: run.id, viewer: run.researcher, figure: figure,
            cohort: labelled[Int(split.rawValue)])
        let (decision, policies) = try decide(.progress(question))
        guard case .permit(let permit) = decision else { return nil }
        try ledger.record(
            decisionEvent(.progressShown, .progress(question), decision, policies), in: .run(run.id),
            key: RunCase.Key.shown(figure.rawValue))
        let step = permit.obligations.first { $0.code == .roundThousandths }.flatMap { Double($0.value) } ?? 1
        return max(step, 1)
    }

    private func storeCandidate(
        of run: RunCase, _ spec: ModelSpec, _ model: TrainedModel, _ session: DeviceSession
    ) async throws {
        let figures: JSON = [
            "test": Self.figures(model.best.test), "validation": Self.figures(model.best.validation),
            "best_epoch": .integer(Int64(model.bestEpoch)), "epochs": .integer(Int64(model.epochs)),
        ]
        let candidate: Candidate
        do {
            candidate = try await vault.storeCandidate(
                run: run.id,
                artefacts: [
                    (Artefact.Kind.model.rawValue, model.weights), (Artefact.Kind.figures.rawValue, figures.canonical),
                    (Artefact.Kind.card.rawValue, model.card.canonical),
                    (Artefact.Kind.readableCard.rawValue, Array(ModelCard.text(of: model.card).utf8)),
                ])
        } catch let error as VaultError {
            throw StageFailure.failed(.train, error.code.rawValue, error.publicDescription)
        }
        let counters = session.gpu.counters
        try ledger.record(
            Event(.runTrained, .done).with {
                $0.detail = [
                    "weights": .string(model.weightsDigest.hex), "candidate": .string(candidate.hash.hex),
                    "epochs": .integer(Int64(model.epochs)), "best_epoch": .integer(Int64(model.bestEpoch)),
                    "test_ppm": .integer(Int64((spec.score(of: model.best.test) * 1e6).rounded())),
                    "validation_ppm": .integer(Int64((spec.score(of: model.best.validation) * 1e6).rounded())),
                    "bytes_to_device": .integer(Int64(clamping: counters.bytesToDevice)),
                    "bytes_from_device": .integer(Int64(clamping: counters.bytesFromDevice)),
                ]
            }, in: .run(run.id), key: RunCase.Key.trained)
    }

    private static func figures(_ figures: Completion.Figures) -> JSON {
        [
            "correct": .integer(Int64(clamping: figures.correct)),
            "labelled": .integer(Int64(clamping: figures.labelled)),
        ]
    }
}

// MARK: - Scrub

extension Gateway {
    /// Gets the device back clean, with the node's certificate in the trail, or quarantines it.
    func scrub(_ run: RunCase) async throws {
        typealias Key = RunCase.Key
        try ledger.record(Event(.deviceScrubbed, .intent), in: .run(run.id), key: Key.scrubbing)
        do {
            let session = try await session(for: run, stage: .scrub)
            let certificate = try await session.gpu.scrub()
            sessions[run.id] = nil
            session.spills.remove()
            wakeLine()
            try ledger.record(
                Event(.deviceScrubbed, .done).with {
                    $0.device = certificate.node
                    $0.lease = certificate.lease
                    $0.fence = certificate.fence
                    $0.detail = [
                        "certificate": .string(certificate.digest.hex),
                        "device_bytes": .integer(Int64(clamping: certificate.deviceBytes)),
                    ]
                }, in: .run(run.id), key: Key.scrubbed)
        } catch let error as FabricError {
            try recordUnproven(run, "device-\(error.code.rawValue)")
        } catch let failure as StageFailure {
            try recordUnproven(run, failure.reasons.first ?? "device-lost")
        }
    }

    /// Gives a device back outside the run's own steps, because this process ends.
    func giveBack(_ session: DeviceSession, of run: RunID) async {
        guard session.gpu.failure == nil, let certificate = try? await session.gpu.scrub() else {
            _ = try? ledger.record(
                Event(.deviceScrubbed, .failed).with {
                    $0.ofRun = run
                    $0.device = session.gpu.node
                    $0.reasons = ["scrub-unproven"]
                }, in: .gateway, key: ledger.freshKey("given-back.\(run)"))
            return
        }
        _ = try? ledger.record(
            Event(.deviceScrubbed, .done).with {
                $0.ofRun = run
                $0.device = certificate.node
                $0.lease = certificate.lease
                $0.fence = certificate.fence
                $0.detail = ["certificate": .string(certificate.digest.hex)]
            }, in: .gateway, key: ledger.freshKey("given-back.\(run)"))
    }

    /// The run goes on; the node stays out of the pool until it shows a certificate.
    private func recordUnproven(_ run: RunCase, _ reason: String) throws {
        sessions[run.id] = nil
        let lease = newestLease(of: run.id)
        if let lease { try keepOut(lease, of: run.id, reason) }
        try ledger.record(
            Event(.deviceScrubbed, .failed).with {
                $0.device = lease?.node
                $0.reasons = ["scrub-unproven", reason]
            }, in: .run(run.id), key: RunCase.Key.scrubbed)
    }
}
