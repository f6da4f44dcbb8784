import AuditTrail
import Gateway
import TestSupport
import Testing
import Vocabulary

/// A serving gateway works on its runs without being told, and people follow and stop them.
@Suite struct DriverTests {
    @Test("two runs for one node: both are trained, one after the other, and closed once they are reviewed")
    func twoRunsOneNode() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let gateway = enclave.gateway
            try await driving(gateway) {
                let runs = [
                    try await enclave.request(grant), try await enclave.request(grant, id: "run-2"),
                ]
                for run in runs {
                    try await until(run, enclave) { if case .waiting = $0 { true } else { false } }
                    try await enclave.review(run)
                    try await until(run, enclave) { $0 == .closed(.released) }
                }
            }
        }
    }

    @Test("train: a run that is cancelled ends at its next epoch, with its device scrubbed and nothing released")
    func cancelled() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let gateway = enclave.gateway
            try await driving(gateway) {
                let run = try await enclave.request(grant, specification: Clinic.specification(epochs: 5000))
                try await until(run, enclave) {
                    if case .epoch(let progress) = $0 { progress.epoch > 1 } else { false }
                }
                let stranger = await refusal { try await gateway.cancelRun(run, by: enclave.reviewer) }
                #expect(stranger?.code == .refused)
                try await gateway.cancelRun(run, by: enclave.researcher)
                try await until(run, enclave) { $0 == .closed(.cancelled) }
                let sequence = try await enclave.sequence(.run(run)).filter { !$0.hasPrefix("training.epoch") }
                #expect(
                    sequence.suffix(4) == [
                        "run.cancelled refused [cancelled]", "device.scrubbed intent", "device.scrubbed done",
                        "run.closed done",
                    ])
                #expect(try await enclave.nodeStates() == ["free"])
                let late = await refusal { try await gateway.cancelRun(run, by: enclave.researcher) }
                #expect(late?.code == .usage)
            }
        }
    }

    @Test("whoever may not see a run may not follow it; those who review see no figures before the release")
    func following() async throws {
        let policy =
            Clinic.policy.replacing("cohort_min: 60", with: "cohort_min: 10")
            + "progress: { losses: true, metrics: true, round_thousandths: 10 }\n"
        try await withEnclave(policy: policy) { enclave in
            let grant = try await enclave.grant()
            let gateway = enclave.gateway
            let run = try await enclave.request(grant)
            let stranger = await refusal { _ = try await gateway.follow(run, by: enclave.administrator) }
            #expect(stranger?.code == .notFound)
            let own = try await gateway.follow(run, by: enclave.researcher)
            let reviewers = try await gateway.follow(run, by: enclave.reviewer)
            _ = try await gateway.advanceAsFarAsPossible(run)
            await gateway.close()
            #expect(await epochs(own).contains { !$0.figures.isEmpty })
            let seen = await epochs(reviewers)
            #expect(!seen.isEmpty && seen.allSatisfy { $0.figures.isEmpty })
        }
    }

    @Test("a run that finds every device busy has not failed: it goes on when one is free")
    func busyDevice() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let gateway = enclave.gateway
            let first = try await enclave.request(grant)
            try await enclave.advance(first, to: .train)
            let second = try await enclave.request(grant, id: "run-2")
            let busy = await refusal { _ = try await gateway.advanceAsFarAsPossible(second) }
            #expect(busy?.code == .busy)
            #expect(try await gateway.runCase(second).nextStage == .decide)
            try await enclave.advance(first, to: .review)
            #expect(try await enclave.finish(second) == .closed(.released))
        }
    }
}

/// Runs `body` beside a driver of the gateway, which is stopped afterwards.
func driving(_ gateway: Gateway, _ body: () async throws -> Void) async throws {
    let driver = Task { try await RunDriver(gateway, runsAtOnce: 2).run() }
    defer { driver.cancel() }
    try await body()
    driver.cancel()
    try await driver.value
}

/// Follows a run until an event that is waited for; fails if the run ends or is left without it.
func until(_ run: RunID, _ enclave: Enclave, _ isIt: (RunEvent) -> Bool) async throws {
    for await event in try await enclave.gateway.follow(run, by: enclave.researcher) {
        if isIt(event) { return }
        // It would wait for another device for ever.
        if case .deviceLost = event { return _ = Issue.record("the run's device was lost") }
    }
    Issue.record("the run ended without what was waited for")
}

private func epochs(_ events: AsyncStream<RunEvent>) async -> [EpochProgress] {
    var found: [EpochProgress] = []
    for await case .epoch(let progress) in events { found.append(progress) }
    return found
}
