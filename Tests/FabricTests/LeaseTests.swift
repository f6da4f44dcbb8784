import DeviceNode
import FabricProtocol
import FabricTransport
import Foundation
import GPUFabric
import Sealing
import Synchronization
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

@Suite struct LeaseTests {
    @Test("a higher fence takes the device over, and the device itself refuses the stale holder")
    func takeover() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let first = try bench.fabric(enrolment, port: port, name: "first")
            let second = try bench.fabric(enrolment, port: port, name: "second")
            let stale = try await bench.attach(first, enrolment.node, fence: 4)
            let program = try await stale.load(try bench.program([]))
            _ = try await stale.ring(program, ScriptedRunner.arguments(.dirty))

            let holder = try await bench.attach(second, enrolment.node, fence: 5)
            do {
                _ = try await stale.ring(program, ScriptedRunner.arguments(.dirty))
                Issue.record("the stale holder was served")
            } catch let error as FabricError {
                #expect(error.refusal?.code == .staleFence)
            }
            let clean = try await holder.load(try bench.program([]))
            #expect(try await holder.ring(clean, ScriptedRunner.arguments(.isClean)) == [1])
            _ = try await holder.scrub()
        }
    }

    @Test("every frame below the highest fence is refused, over a restart of the node too")
    func staleFrames() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            let fabric = try bench.fabric(enrolment, port: port)
            _ = try await bench.attach(fabric, enrolment.node, fence: 9).scrub()
            agent.shutdown()

            let (restarted, newPort) = try bench.agent()
            defer { restarted.shutdown() }
            let connection = try ControlConnection.connect(
                NodeAddress(host: "127.0.0.1", port: newPort), tls: try bench.gatewayIdentity(),
                milliseconds: 10_000)
            let messages: [ControlMessage] = [
                .ping([]), .attest(nonce: RandomBytes.array(32), lease: bench.lease(8)), .leaseRenew, .leaseRevoke,
                .windowMap(try WindowTable([])), .windowUnmap([1]), .programLoad([]),
                .doorbell(program: 0, transaction: 1, arguments: []), .scrubBegin(seed: RandomBytes.array(32)),
                .scrubChallenge(nonce: RandomBytes.array(32)),
            ]
            for message in messages {
                let answer = try connection.ask(message, fence: Fence(8))
                #expect(answer == .error(Refusal(.staleFence)), "\(message.operation)")
            }
            // The highest fence itself was used: it opens no second lease.
            #expect(
                try connection.ask(.attest(nonce: RandomBytes.array(32), lease: bench.lease(9)), fence: Fence(9))
                    == .error(Refusal(.staleFence)))
            guard case .welcome(let welcome) = try connection.ask(.hello, fence: Fence(0)) else {
                Issue.record("no welcome")
                return
            }
            #expect(welcome.fenceHighest == Fence(9))
        }
    }

    @Test("frames of a lease from a connection that does not hold it are refused")
    func otherConnection() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 3)
            let connection = try ControlConnection.connect(
                NodeAddress(host: "127.0.0.1", port: port), tls: try bench.gatewayIdentity(),
                milliseconds: 10_000)
            for message in [ControlMessage.leaseRenew, .leaseRevoke, .scrubBegin(seed: RandomBytes.array(32))] {
                #expect(try connection.ask(message, fence: Fence(3)) == .error(Refusal(.noLease)))
            }
            #expect(gpu.failure == nil)
            _ = try await gpu.scrub()
        }
    }

    @Test("a doorbell that is repeated is answered again and not run again")
    func exactlyOnce() async throws {
        try await withBench { bench in
            let recorder = ScriptedRunner.Recorder()
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent(runner: recorder)
            defer { agent.shutdown() }
            let connection = try ControlConnection.connect(
                NodeAddress(host: "127.0.0.1", port: port), tls: try bench.gatewayIdentity(),
                milliseconds: 10_000)
            let fence = Fence(1)
            let nonce = RandomBytes.array(32)
            guard
                case .evidence(let evidence) = try connection.ask(
                    .attest(nonce: nonce, lease: bench.lease(1)), fence: fence)
            else {
                Issue.record("no evidence")
                return
            }
            let transcript = connection.transcript(
                isClient: true, nonce: nonce, fence: fence, lease: bench.lease(1), claims: evidence)
            let receipt = try bench.trail.receipt(
                .object(
                    TestTrail.core(
                        run: bench.run, lease: bench.lease(1), fence: fence, node: enrolment.node,
                        evidence: transcript.hash)))
            let grant = LeaseGrant(
                lease: bench.lease(1), run: bench.run, attempt: 1, ttlMilliseconds: 60_000, lanes: 1,
                deviceBytes: UInt64(Bench.deviceBytes), receipt: receipt,
                wrappedRunKey: evidence.wrappingKey.wrap(SecretBytes(copying: bench.runKey)))
            #expect(try connection.ask(.leaseGrant(grant), fence: fence) == .done)
            #expect(try connection.ask(.programLoad(try bench.program([])), fence: fence) == .programLoaded(7))
            func ring(_ transaction: UInt64) throws -> ControlMessage {
                try connection.ask(
                    .doorbell(program: 7, transaction: transaction, arguments: ScriptedRunner.arguments(.isClean)),
                    fence: fence)
            }
            #expect(try ring(1) == .complete(transaction: 1, result: [1]))
            #expect(try ring(1) == .complete(transaction: 1, result: [1]))
            #expect(try ring(5) == .complete(transaction: 5, result: [1]))
            #expect(try ring(4) == .error(Refusal(.transaction)))
            #expect(recorder.rung.withLock { $0 } == 2)
        }
    }

    /// What is wrong with a receipt, and how the node says so.
    enum WrongReceipt: String, CaseIterable {
        case garbage, empty, otherTrail, event, outcome, run, lease, fence, device, evidence, tampered
    }

    @Test("a lease without the right receipt is refused, and the node stays free", arguments: WrongReceipt.allCases)
    func receipts(wrong: WrongReceipt) async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let attested = try await fabric.attest(enrolment.node, lease: bench.lease(1), fence: Fence(1))
            var core = TestTrail.core(
                run: bench.run, lease: attested.lease, fence: attested.fence, node: attested.node,
                evidence: attested.evidence)
            var expected = Refusal(.receipt)
            let members = ["event", "outcome", "run", "lease", "fence", "device", "evidence"]
            if let index = members.firstIndex(of: wrong.rawValue) {
                core[wrong.rawValue] = wrong == .fence ? 2 : "run.decided"
                expected = Refusal(.receiptMismatch, index: UInt32(index))
            }
            var receipt = try (wrong == .otherTrail ? TestTrail() : bench.trail).receipt(.object(core))
            switch wrong {
            case .garbage: receipt = RandomBytes.array(500)
            case .empty: receipt = []
            case .tampered: receipt[receipt.count / 2] ^= 1
            default: break
            }
            do {
                _ = try await attested.lease(
                    run: bench.run, attempt: 1, receipt: receipt,
                    wrappedRunKey: attested.wrappingKey.wrap(SecretBytes(copying: bench.runKey)))
                Issue.record("the lease was granted")
            } catch let error as FabricError {
                #expect(error.refusal == expected)
            }
            #expect(fabric.nodes.map(\.state) == [.free])
            // Nothing was stored: the same fence still opens a lease.
            _ = try await bench.attach(fabric, enrolment.node, fence: 1).scrub()
        }
    }

    @Test("a lease that is not renewed ends itself, is scrubbed, and comes back by its certificate")
    func expiry() async throws {
        try await withBench { bench in
            let clock = StillClock()
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent(clock: clock)
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let program = try await gpu.load(try bench.program([]))
            _ = try await gpu.ring(program, ScriptedRunner.arguments(.dirty))
            clock.advance(milliseconds: 60_000)
            agent.tick()
            await #expect(throws: FabricError.self) { try await gpu.scrub() }
            #expect(fabric.nodes.first?.state == .quarantined)

            let certificate = try await fabric.reinstate(enrolment.node)
            #expect(certificate?.cause == .expiry && certificate?.fence == Fence(1))
            #expect(fabric.nodes.map(\.state) == [.free])
            let next = try await bench.attach(fabric, enrolment.node, fence: 2)
            let clean = try await next.load(try bench.program([]))
            #expect(try await next.ring(clean, ScriptedRunner.arguments(.isClean)) == [1])
            _ = try await next.scrub()
        }
    }

    @Test("a dropped attachment quarantines the node, which scrubs itself")
    func dropped() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            _ = try await bench.attach(fabric, enrolment.node, fence: 1)
            #expect(fabric.nodes.first?.state == .quarantined)
        }
    }

    @Test("a node that is leased is not given to anyone else by the same gateway")
    func exclusive() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            do {
                _ = try await fabric.attest(enrolment.node, lease: bench.lease(2), fence: Fence(2))
                Issue.record("the node was given twice")
            } catch let error as FabricError {
                #expect(error.code == .notFree)
            }
            _ = try await gpu.scrub()
            let attested = try await fabric.attest(enrolment.node, lease: bench.lease(2), fence: Fence(2))
            attested.giveUp()
            #expect(fabric.nodes.map(\.state) == [.free])
        }
    }
}

extension ControlConnection {
    /// One question and its answer. Numbers grow from question to question, over all connections.
    func ask(_ message: ControlMessage, fence: Fence) throws -> ControlMessage {
        let request = questions.withLock { count in
            count += 1
            return count
        }
        try send(ControlFrame(request: request, fence: fence, message: message))
        return try receive(milliseconds: 10_000).message
    }
}

private let questions = Mutex<UInt64>(0)
