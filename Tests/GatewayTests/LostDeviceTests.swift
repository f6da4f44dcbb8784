import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// A run whose device is gone for longer than its lease lives: it goes on on another one from its last sealed checkpoint,
/// and comes to the same weights, bit for bit.
@Suite struct LostDeviceTests {
    private static let epochs = 200
    private static let specification = Clinic.specification(epochs: epochs)

    /// What the records of a move are, between those of the run.
    private static let move = [
        "device.lost done", "run.decided done", "device.leased intent", "key.released done", "device.leased done",
    ]

    private static let trained = [
        "run.trained done", "device.scrubbed intent", "device.scrubbed done", "release.checked done",
        "release.reviewed done", "release.reviewed done", "release.decided done", "release.ready done",
        "run.closed done",
    ]

    private static let planned = ["run.planned done", "program.loaded intent"]

    private func sequence(_ enclave: Enclave, _ run: RunID) async throws -> [String] {
        try await enclave.sequence(.run(run)).filter { $0 != "training.epoch done" }
    }

    private static func checkpoint(_ enclave: Enclave, _ run: RunID) -> String {
        enclave.home.appendingPathComponent("vault/runs/\(run)/checkpoint.sealed").path
    }

    /// Does something as soon as a run has kept a checkpoint.
    private func inTraining(_ enclave: Enclave, _ run: RunID, _ body: @escaping @Sendable () -> Void) async throws {
        let events = try await enclave.gateway.follow(run, by: enclave.researcher)
        let file = Self.checkpoint(enclave, run)
        Task {
            for await case .epoch in events where FileManager.default.fileExists(atPath: file) { return body() }
        }
    }

    /// A run whose node, the only one, is killed as soon as it could train.
    private func lostBeforeTraining(_ enclave: Enclave) async throws -> RunID {
        let node = try await enclave.startNode("campus-1")
        let run = try await enclave.request(try await enclave.grant())
        try await enclave.advance(run, to: .train)
        node.kill()
        return run
    }

    /// The whole rest of a run, as a serving gateway does it: one that waits is asked again.
    private func finish(_ run: RunID, _ enclave: Enclave) async throws -> RunProgress {
        for _ in 0..<20 {
            do { return try await enclave.finish(run) } catch let error as GatewayError where error.code == .busy {}
        }
        return try await enclave.finish(run)
    }

    /// The weights of a run that nothing disturbed.
    private func undisturbed(_ enclave: Enclave, _ grant: GrantID) async throws -> String? {
        let run = try await enclave.request(grant, id: "whole", specification: Self.specification)
        #expect(try await finish(run, enclave) == .closed(.released))
        return try await enclave.weights(run)
    }

    @Test("train: a node that is killed in the middle: the run goes on on another one to the same weights")
    func training() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let node = try await enclave.startNode("campus-1")
            try await enclave.startNode("campus-2")
            let grant = try await enclave.grant()
            let whole = try await undisturbed(enclave, grant)
            let run = try await enclave.request(grant, specification: Self.specification)
            let events = try await enclave.gateway.follow(run, by: enclave.researcher)
            let followed = Task {
                var lost: [RunEvent] = []
                for await event in events { if case .deviceLost = event { lost.append(event) } }
                return lost
            }
            try await inTraining(enclave, run) { node.kill() }
            #expect(try await finish(run, enclave) == .closed(.released))
            #expect(try await enclave.weights(run) == whole && whole != nil)
            #expect(await followed.value == [.deviceLost(node.id)])
            #expect(
                try await sequence(enclave, run) == RefusalTests.leased + Self.planned + Self.move
                    + ["training.resumed done"] + Self.trained)
            try await checkStory(enclave, run, lost: node.id)
            // Its next start scrubs, and that certificate brings it back.
            try await enclave.startNode("campus-1")
            try await enclave.gateway.releaseFromQuarantine(node.id, by: enclave.operatorPerson)
            #expect(try await enclave.nodeStates() == ["free", "free"])
        }
    }

    /// Who had the run, in which order, and what is known of the one that was lost.
    private func checkStory(_ enclave: Enclave, _ run: RunID, lost: NodeID) async throws {
        let records = try await enclave.records(.run(run))
        let leases = records.filter { $0.event == .deviceLeased && $0.outcome == .intent }
        try #require(leases.map { $0.core["device"]?.stringValue } == ["campus-1", "campus-2"])
        #expect(leases[0].core["fence"]!.integerValue! < leases[1].core["fence"]!.integerValue!)
        let loss = try #require(records.first { $0.event == .deviceLost })
        #expect(loss.core["device"]?.stringValue == lost.text && loss.core["fence"] == leases[0].core["fence"])
        #expect(loss.reasons == ["scrub-unproven", "device-lost"])
        let keys = records.filter { $0.event == .keyReleased }.map { $0.detail["wrappingKey"]?.stringValue }
        #expect(keys.count == 2 && keys[0] != keys[1])
        let decisions = records.filter { $0.event == .runDecided }
        #expect(decisions.map { $0.payload["input"]?["device"]?["node"]?.stringValue } == ["campus-1", "campus-2"])
        #expect(try await enclave.gateway.run(run, by: enclave.researcher).devicesLost == [lost])
        #expect(try await enclave.nodeStates() == ["quarantined (lost)", "free"])
        let quarantined = try await enclave.own(.nodeQuarantined)
        #expect(quarantined.map(\.reasons) == [["scrub-unproven", "device-lost"]])
    }

    @Test(
        "train: a node that is stopped for longer than its lease lives: the run goes on, and the node comes back clean"
    )
    func outOfTime() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let node = try await enclave.startNode("campus-1")
            try await outOfReach(node, enclave, away: { node.freeze() }, back: { node.wake() })
        }
    }

    @Test(
        "train: a line to the node that is cut for longer than the lease lives: the run goes on, the node comes back",
        .enabled(if: NetworkNamespace.areAvailable, "network namespaces need root and the `ip` command"))
    func outOfReach() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let line = try TestLine()
            let node = try await enclave.startNode("campus-1", over: line)
            try await outOfReach(
                node, enclave, away: { #expect(throws: Never.self) { try line.down() } }, back: { try line.up() })
        }
    }

    /// - Parameter away: nothing that is sent to the node is answered from then on, until `back`.
    private func outOfReach(
        _ node: TestNode, _ enclave: Enclave, away: @escaping @Sendable () -> Void, back: () throws -> Void
    ) async throws {
        let grant = try await enclave.grant()
        let whole = try await undisturbed(enclave, grant)
        let run = try await enclave.request(grant, specification: Self.specification)
        // The other node is nearer than one over a line: it is there only when the run has its device.
        try await enclave.advance(run, to: .train)
        try await enclave.startNode("campus-2")
        try await inTraining(enclave, run, away)
        #expect(try await finish(run, enclave) == .closed(.released))
        #expect(try await enclave.weights(run) == whole && whole != nil)
        #expect(
            try await sequence(enclave, run) == RefusalTests.leased + Self.planned + Self.move
                + ["training.resumed done"] + Self.trained)
        try await checkStory(enclave, run, lost: node.id)
        // It finds its lease over, scrubs by itself, and shows the certificate of that.
        try back()
        var isBack = false
        for _ in 0..<500 where !isBack {
            do {
                try await enclave.gateway.releaseFromQuarantine(node.id, by: enclave.operatorPerson)
                isBack = true
            } catch is GatewayError {}
        }
        #expect(try await enclave.nodeStates() == ["free", "free"])
    }

    @Test("attach: a node that dies between its evidence and its lease: the run gets another one")
    func beforeLease() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let node = try await enclave.startNode("campus-1")
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .attach)
            try await enclave.startNode("campus-2")
            node.kill()
            #expect(try await finish(run, enclave) == .closed(.released))
            #expect(
                try await sequence(enclave, run) == RefusalTests.opened + ["device.leased intent", "key.released done"]
                    + Self.move + Self.planned + Self.trained)
        }
    }

    @Test("a run whose only device is lost waits in the line, says so, and goes on when there is another")
    func waits() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let run = try await lostBeforeTraining(enclave)
            for _ in 0..<2 {
                let error = await refusal { _ = try await enclave.gateway.advanceAsFarAsPossible(run) }
                #expect(error?.code == .busy)
                #expect(error?.publicDescription.contains("campus-1 was lost under the run") == true)
                #expect(try await enclave.gateway.deviceLine(by: enclave.operatorPerson).map(\.run) == [run])
            }
            // Nothing is forgotten when the gateway ends meanwhile.
            try await enclave.reopen()
            try await enclave.startNode("campus-2")
            #expect(try await finish(run, enclave) == .closed(.released))
            #expect(
                try await sequence(enclave, run) == RefusalTests.leased + Self.planned + Self.move + Self.trained)
            #expect(try await enclave.gateway.deviceLine(by: enclave.operatorPerson).isEmpty)
        }
    }

    @Test("a run that waits for another device can be cancelled; the record says that the lost one's scrub is unproven")
    func cancelled() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let run = try await lostBeforeTraining(enclave)
            let error = await refusal { _ = try await enclave.gateway.advanceAsFarAsPossible(run) }
            #expect(error?.code == .busy)
            try await enclave.gateway.cancelRun(run, by: enclave.researcher)
            #expect(try await finish(run, enclave) == .closed(.cancelled))
            #expect(
                try await sequence(enclave, run) == RefusalTests.leased + [
                    "run.planned done", "program.loaded intent", "device.lost done",
                    "run.cancelled refused [cancelled]",
                    "device.scrubbed intent", "device.scrubbed failed [scrub-unproven, device-lost]",
                    "run.closed done",
                ])
            #expect(try await enclave.own(.nodeQuarantined).count == 1)
        }
    }

    @Test("somebody who withdrew since the image was made is on no further device: the run is refused")
    func withdrawn() async throws {
        try await withEnclave(policy: Clinic.policy.replacing("cohort_min: 60", with: "cohort_min: 10"), hasNode: false)
        { enclave in
            let run = try await lostBeforeTraining(enclave)
            try await enclave.gateway.setConsent(
                subject: "P:1", dataset: Clinic.dataset, state: "withdrawn", by: enclave.steward)
            try await enclave.startNode("campus-2")
            #expect(try await finish(run, enclave) == .closed(.refused))
            #expect(try await enclave.gateway.runCase(run).stopReasons == ["consent.changed"])
            #expect(try await enclave.nodeStates() == ["quarantined (lost)", "free"])
        }
    }

    @Test("policy decides about the other device, too: one that it does not accept gets nothing of the run")
    func policyRefuses() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let run = try await lostBeforeTraining(enclave)
            // Another pool than policy names.
            let other = try await enclave.startNode("campus-2")
            try await enclave.gateway.addNode(
                other.id, address: other.address, pool: "annex",
                measurements: try enclave.latestMeasurements(), by: enclave.operatorPerson)
            let error = await refusal { _ = try await enclave.gateway.advanceAsFarAsPossible(run) }
            #expect(error?.code == .busy)
            let leases = try await enclave.records(.run(run)).filter { $0.event == .deviceLeased }
            #expect(leases.allSatisfy { $0.core["device"]?.stringValue == "campus-1" })
        }
    }

    @Test("a run that loses three devices fails, and takes no fourth")
    func threeTimes() async throws {
        try await withEnclave(hasNode: false) { enclave in
            var nodes: [TestNode] = []
            for number in 1...4 { nodes.append(try await enclave.startNode("campus-\(number)")) }
            let run = try await enclave.request(try await enclave.grant(), specification: Self.specification)
            // Each is killed while the run trains on it.
            let events = try await enclave.gateway.follow(run, by: enclave.researcher)
            let doomed = nodes
            Task {
                var losses = 0
                for await event in events {
                    if case .deviceLost = event { losses += 1 }
                    if case .epoch = event, losses < 3 { doomed[losses].kill() }
                }
            }
            #expect(try await finish(run, enclave) == .closed(.failed))
            #expect(try await enclave.gateway.runCase(run).stopReasons == ["devices-lost"])
            #expect(try await enclave.gateway.runCase(run).devicesLost == nodes.prefix(3).map(\.id))
            #expect(try await enclave.nodeStates() == Array(repeating: "quarantined (lost)", count: 3) + ["free"])
        }
    }

    /// The gateway is killed in a process of its own: together with the node, as soon as the loss is on record, or some
    /// readings of the clock later, of which every record takes a few: between the loss, the decision, the lease and the key.
    @Test(
        "killed between the loss and the move, a run has the same records and weights as one that was not",
        arguments: [-1, 0, 3, 6, 9, 12])
    func gatewayDiesToo(_ readings: Int) async throws {
        try await withEnclave(hasNode: false) { enclave in
            let node = try await enclave.startNode("campus-1")
            node.collectWhenDead()
            try await enclave.startNode("campus-2")
            let grant = try await enclave.grant()
            let whole = try await undisturbed(enclave, grant)
            let run = try await enclave.request(grant, specification: Self.specification)
            enclave.drop()
            await #expect(processExitsWith: .signal(SIGKILL)) {
                [
                    home = enclave.home.path as String, key = enclave.key.path as String, node = node.process as Int32,
                    readings = readings as Int
                ] in
                try await Self.life(home, key, node: node, readings: readings)
            }
            node.kill()
            try await enclave.open()
            #expect(try await finish(run, enclave) == .closed(.released))
            #expect(try await enclave.weights(run) == whole && whole != nil)
            #expect(
                try await sequence(enclave, run) == RefusalTests.leased + Self.planned + Self.move
                    + ["training.resumed done"] + Self.trained)
            // Who died with the node did not see it go.
            let cause = readings < 0 ? "scrub-unproven" : "lost"
            #expect(try await enclave.nodeStates() == ["quarantined (\(cause))", "free"])
        }
    }

    /// The life of a gateway that loses a run's node and is killed.
    private static func life(_ home: String, _ key: String, node: pid_t, readings: Int) async throws {
        let clock = TestClock()
        let home = URL(fileURLWithPath: home, isDirectory: true)
        let gateway = try await Enclave.open(home, URL(fileURLWithPath: key), clock)
        let run = try RunID("run-1")
        let checkpoint = home.appendingPathComponent("vault/runs/run-1/checkpoint.sealed").path
        let events = try await gateway.follow(run, by: PersonID("rin"))
        let follower = Task {
            for await case .epoch in events where FileManager.default.fileExists(atPath: checkpoint) {
                kill(node, SIGKILL)
                if readings < 0 { kill(getpid(), SIGKILL) }
                return
            }
        }
        while try await gateway.runCase(run).losses == 0 { _ = try await gateway.advance(run) }
        if readings == 0 { kill(getpid(), SIGKILL) }
        clock.killProcess(afterReadings: readings)
        _ = try await gateway.advanceAsFarAsPossible(run)
        await follower.value
        kill(getpid(), SIGKILL)
    }
}
