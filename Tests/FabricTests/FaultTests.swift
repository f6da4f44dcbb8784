import DeviceNode
import FabricProtocol
import FabricTransport
import Foundation
import GPUFabric
import Sealing
import TestSupport
import Testing
import Vocabulary

/// Processes that die and networks that are cut: the node is the daemon, or the gateway is a process of its own.
@Suite(.serialized) struct FaultTests {
    private static var long: LeaseTiming {
        var timing = LeaseTiming()
        timing.ttlMilliseconds = 60_000
        timing.renewMilliseconds = 100
        timing.lanes = 4
        return timing
    }

    @Test("links that are cut again and again within a lease's time: every doorbell runs once, nothing stored is lost")
    func shortCuts() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let daemon = try NodeDaemon(bench)
            let relay = try Relay(to: daemon.port)
            defer { relay.close() }
            let fabric = try bench.fabric(
                enrolment, port: relay.port, policy: try NodeDaemon.policy(bench), timing: Self.long)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let (program, stored) = try await Copying.load(bench, on: gpu)
            let cutter = Task {
                for count in 1...6 as ClosedRange<UInt64> {
                    relay.cut()
                    relay.mend()
                    while gpu.counters.lanesReopened < 4 * count, gpu.failure == nil { await Task.yield() }
                }
            }
            var doorbells: UInt64 = 0
            while gpu.counters.lanesReopened < 24 {
                let completion = try Completion(parsing: try await gpu.ring(program, Copying.arguments))
                // The device's own write numbers tell how often it ran.
                #expect(completion.sealed.map(\.firstCounter) == [4 * doorbells])
                #expect(stored.content == (try Copying.result(bench, fence: 1, doorbell: doorbells)))
                doorbells += 1
            }
            await cutter.value
            #expect(gpu.counters.relinks >= 6 && gpu.failure == nil)
            let certificate = try await gpu.scrub()
            #expect(certificate.cause == .gateway)
            #expect(fabric.nodes.map(\.state) == [.free])
            #expect(daemon.end() == 0)
        }
    }

    @Test("lanes change their keys in the middle of work, and nothing is asked or stored twice")
    func freshKeys() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let daemon = try NodeDaemon(bench)
            var timing = Self.long
            timing.laneBytesMax = 1 << 20
            let fabric = try bench.fabric(
                enrolment, port: daemon.port, policy: try NodeDaemon.policy(bench), timing: timing)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let (program, stored) = try await Copying.load(bench, on: gpu)
            for doorbell in 0..<30 as Range<UInt64> {
                let completion = try Completion(parsing: try await gpu.ring(program, Copying.arguments))
                #expect(completion.sealed.map(\.firstCounter) == [4 * doorbell])
                #expect(stored.content == (try Copying.result(bench, fence: 1, doorbell: doorbell)))
            }
            #expect(gpu.counters.lanesReopened > 5 && gpu.counters.relinks == 0)
            _ = try await gpu.scrub()
            #expect(daemon.end() == 0)
        }
    }

    @Test("links that are cut for longer end the lease on both sides; the node comes back by its own scrub")
    func longCut() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let daemon = try NodeDaemon(bench)
            let relay = try Relay(to: daemon.port)
            defer { relay.close() }
            let policy = try NodeDaemon.policy(bench)
            let fabric = try bench.fabric(enrolment, port: relay.port, policy: policy, timing: .impatient)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let (program, _) = try await Copying.load(bench, on: gpu)
            relay.cut()
            let error = await #expect(throws: FabricError.self) {
                while true { _ = try await gpu.ring(program, Copying.arguments) }
            }
            #expect(error?.code == .lost)
            #expect(fabric.nodes.first?.quarantine?.code == "lost")
            relay.mend()
            // The node's own time is over a little later than the gateway's.
            var certificate: ScrubCertificate?
            while certificate == nil { certificate = try? await fabric.reinstate(enrolment.node) }
            #expect(certificate?.cause == .expiry && certificate?.fence == Fence(1))
            let again = try await bench.attach(fabric, enrolment.node, fence: 2)
            let (second, stored) = try await Copying.load(bench, on: again)
            _ = try await again.ring(second, Copying.arguments)
            #expect(stored.content == (try Copying.result(bench, fence: 2)))
            _ = try await again.scrub()
            #expect(daemon.end() == 0)
        }
    }

    enum Stage: String, CaseIterable, Codable { case attested, leased, mapped, loaded, rung, scrubbed }

    /// Goes through a lease as far as a stage.
    private static func go(
        _ bench: Bench, _ fabric: Fabric, _ node: NodeID, fence: UInt64, to stage: Stage
    ) async throws -> (AttestedNode, RemoteGPU?) {
        let attested = try await fabric.attest(node, lease: bench.lease(fence), fence: Fence(fence))
        if stage == .attested { return (attested, nil) }
        let gpu = try await attested.lease(
            run: bench.run, attempt: 1, receipt: bench.trail.receipt(run: bench.run, attested),
            wrappedRunKey: attested.wrappingKey.wrap(SecretBytes(copying: bench.runKey)))
        if stage == .leased { return (attested, gpu) }
        if stage == .mapped {
            try await gpu.map([MappedWindow(Window(Copying.windows[0]), store: MemoryStore(try Copying.sealed(bench)))])
            return (attested, gpu)
        }
        let (program, _) = try await Copying.load(bench, on: gpu)
        if stage == .loaded { return (attested, gpu) }
        _ = try await gpu.ring(program, Copying.arguments)
        if stage == .rung { return (attested, gpu) }
        _ = try await gpu.scrub()
        return (attested, gpu)
    }

    @Test("a node that is killed at any stage is not used before its scrub is certified", arguments: Stage.allCases)
    func nodeKilled(_ stage: Stage) async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let policy = try NodeDaemon.policy(bench)
            let first = try NodeDaemon(bench)
            let fabric = try bench.fabric(enrolment, port: first.port, policy: policy, timing: .impatient)
            let (attested, gpu) = try await Self.go(bench, fabric, enrolment.node, fence: 1, to: stage)
            first.kill()
            if stage == .scrubbed {
                #expect(fabric.nodes.map(\.state) == [.free])
            } else {
                let error = await #expect(throws: FabricError.self) {
                    if let gpu {
                        _ = try await gpu.scrub()
                    } else {
                        _ = try await attested.lease(
                            run: bench.run, attempt: 1, receipt: bench.trail.receipt(run: bench.run, attested),
                            wrappedRunKey: attested.wrappingKey.wrap(SecretBytes(copying: bench.runKey)))
                    }
                }
                #expect(error != nil && fabric.nodes.map(\.state) == [.quarantined])
            }
            let second = try NodeDaemon(bench)
            let again = try bench.fabric(enrolment, port: second.port, policy: policy, timing: .impatient)
            if stage != .scrubbed {
                let certificate = try await again.reinstate(enrolment.node)
                // A node that never stored the fence was never leased under it.
                #expect(certificate?.cause == (stage == .attested ? nil : .restart))
            }
            let (_, next) = try await Self.go(bench, again, enrolment.node, fence: 2, to: .rung)
            _ = try await next?.scrub()
            #expect(second.end() == 0)
        }
    }

    @Test(
        "a gateway process that is killed at any stage is followed by another, which finds a clean device",
        arguments: Stage.allCases)
    func gatewayKilled(_ stage: Stage) async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let daemon = try NodeDaemon(bench)
            let policy = try NodeDaemon.policy(bench)
            await #expect(processExitsWith: .signal(SIGKILL)) {
                [folder = bench.folder as String, port = daemon.port as UInt16, stage = stage.rawValue as String] in
                let bench = try Bench(opening: folder)
                let node = try NodeID("node-1")
                let fabric = try bench.fabric(
                    try bench.enrolled(node), port: port, policy: try NodeDaemon.policy(bench), name: "killed")
                let held = try await Self.go(bench, fabric, node, fence: 1, to: Stage(rawValue: stage)!)
                withExtendedLifetime(held) { _ = kill(getpid(), SIGKILL) }
            }
            let fabric = try bench.fabric(enrolment, port: daemon.port, policy: policy)
            let (_, gpu) = try await Self.go(bench, fabric, enrolment.node, fence: 2, to: .rung)
            _ = try await gpu?.scrub()
            let last = try await fabric.attest(enrolment.node, lease: bench.lease(3), fence: Fence(3)).lastScrub
            #expect(last?.fence == Fence(2) && last?.cause == .gateway)
            #expect(daemon.end() == 0)
        }
    }

    @Test("a stale gateway, a process of its own, is refused by the device; the holder notices nothing")
    func staleGateway() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let daemon = try NodeDaemon(bench)
            let fabric = try bench.fabric(enrolment, port: daemon.port, policy: try NodeDaemon.policy(bench))
            let (_, gpu) = try await Self.go(bench, fabric, enrolment.node, fence: 5, to: .rung)
            await #expect(processExitsWith: .success) {
                [folder = bench.folder as String, port = daemon.port as UInt16] in
                let bench = try Bench(opening: folder)
                let node = try NodeID("node-1")
                let fabric = try bench.fabric(
                    try bench.enrolled(node), port: port, policy: try NodeDaemon.policy(bench), name: "stale")
                for fence in [4, 5] as [UInt64] {
                    do {
                        // Even the holder's own lease and fence: only who was granted it may go on.
                        _ = try await fabric.attest(node, lease: bench.lease(5), fence: Fence(fence)).lease(
                            run: bench.run, attempt: 1, receipt: [], wrappedRunKey: [UInt8](repeating: 0, count: 80))
                        exit(1)
                    } catch let error as FabricError {
                        guard error.code == .refused else { exit(2) }
                    }
                }
                exit(EXIT_SUCCESS)
            }
            #expect(gpu?.failure == nil)
            _ = try await gpu?.scrub()
            #expect(daemon.end() == 0)
        }
    }

    @Test("a gateway that asks and never reads holds up nobody else")
    func slowReader() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let daemon = try NodeDaemon(bench)
            let silent = try ControlConnection.connect(
                NodeAddress(host: "127.0.0.1", port: daemon.port), tls: try bench.gatewayIdentity(),
                milliseconds: 10_000)
            defer { silent.close() }
            let flood = ControlFrame(request: 1, fence: Fence(0), message: .hello)
            startThread { while (try? silent.send(flood)) != nil {} }
            let fabric = try bench.fabric(enrolment, port: daemon.port, policy: try NodeDaemon.policy(bench))
            for fence in 1...3 as ClosedRange<UInt64> {
                let (_, gpu) = try await Self.go(bench, fabric, enrolment.node, fence: fence, to: .rung)
                _ = try await gpu?.scrub()
            }
            #expect(daemon.end() == 0)
        }
    }

    @Test("a modified node binary with a valid certificate is refused by its measurement, and quarantined")
    func modifiedNode() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let policy = try NodeDaemon.policy(bench)
            let modified = URL(fileURLWithPath: bench.folder).appendingPathComponent("sekisho-node")
            try FileManager.default.copyItem(at: NodeDaemon.executable, to: modified)
            let handle = try FileHandle(forWritingTo: modified)
            try handle.seekToEnd()
            try handle.write(contentsOf: Data([0]))
            try handle.close()
            let daemon = try NodeDaemon(bench, executable: modified)
            let fabric = try bench.fabric(enrolment, port: daemon.port, policy: policy)
            do {
                _ = try await fabric.attest(enrolment.node, lease: bench.lease(1), fence: Fence(1))
                Issue.record("a modified agent was accepted")
            } catch let error as FabricError {
                // Measurements come in the order of their names: `agent` is the first.
                #expect(error.code == .evidence && error.index == 0)
            }
            #expect(fabric.nodes.first?.quarantine?.index == 0)
            #expect(daemon.end() == 0)
        }
    }

    @Test("a relaying process with the node's stolen TLS key cannot pass the good node's evidence on to a gateway")
    func relayingNode() async throws {
        try await withBench { bench in
            _ = try bench.enrol()
            let daemon = try NodeDaemon(bench)
            let stolen = try NodeIdentity(folder: bench.folder + "/node-1")
            let gateway = try bench.gatewayIdentity()
            let listener = try Listener(host: "127.0.0.1", port: 0)
            defer { listener.close() }
            startThread { [port = daemon.port] in
                guard let socket = try? listener.accept(),
                    let near = try? ControlConnection(socket, tls: stolen.tls, milliseconds: 10_000),
                    let far = try? ControlConnection.connect(
                        NodeAddress(host: "127.0.0.1", port: port), tls: gateway, milliseconds: 10_000)
                else { return }
                while let frame = try? near.receive(milliseconds: 10_000), (try? far.send(frame)) != nil,
                    let answer = try? far.receive(milliseconds: 10_000), (try? near.send(answer)) != nil
                {}
            }
            // This process relays between the node's and the gateway's.
            await #expect(processExitsWith: .success) {
                [folder = bench.folder as String, port = listener.port as UInt16] in
                let bench = try Bench(opening: folder)
                let node = try NodeID("node-1")
                let fabric = try bench.fabric(
                    try bench.enrolled(node), port: port, policy: try NodeDaemon.policy(bench))
                do {
                    _ = try await fabric.attest(node, lease: bench.lease(1), fence: Fence(1))
                } catch let error as FabricError {
                    let isQuarantined = fabric.nodes.first?.state == .quarantined
                    exit(error.code == .evidence && error.index == nil && isQuarantined ? EXIT_SUCCESS : 2)
                }
                exit(1)
            }
            #expect(daemon.end() == 0)
        }
    }
}

extension Bench {
    /// What a node that was enrolled in another process is known by.
    func enrolled(_ node: NodeID) throws -> NodeEnrolment {
        try JSONDecoder().decode(
            NodeEnrolment.self, from: try Data(contentsOf: URL(fileURLWithPath: "\(folder)/\(node).enrolment")))
    }
}
