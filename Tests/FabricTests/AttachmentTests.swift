import DeviceNode
import FabricProtocol
import Foundation
import GPUFabric
import Sealing
import Synchronization
import TestSupport
import Testing
import Vocabulary

@Suite struct AttachmentTests {
    private static let block = Limits.sealedBlockBytes

    @Test("a device reads and writes mapped windows, and is given back scrubbed")
    func journey() async throws {
        try await withBench { bench in
            let recorder = ScriptedRunner.Recorder()
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent(runner: recorder)
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            #expect(fabric.nodes.map(\.state) == [.locked])
            #expect(recorder.runKeys.withLock { $0 } == [bench.runKey])

            // 40 blocks and a short one: more than one read, and more than the credits of a batch.
            let image = RandomBytes.array(Self.block * 40 + 1000)
            let spill = MemoryStore([UInt8](repeating: 0, count: Self.block * 3))
            let declared = [
                Program.Window(
                    id: 1, direction: .read, purpose: .image(.features),
                    byteCount: image.count - 41 * Limits.tagBytes),
                Program.Window(
                    id: 2, direction: .both, purpose: .spill, byteCount: spill.byteCount - 3 * Limits.tagBytes),
            ]
            let windows = declared.map { Window($0) }
            #expect(windows.map(\.byteCount) == [UInt64(image.count), UInt64(spill.byteCount)])
            try await gpu.map([
                MappedWindow(windows[0], store: MemoryStore(image)), MappedWindow(windows[1], store: spill),
            ])
            let program = try await gpu.load(try bench.program(declared))
            #expect(fabric.nodes.map(\.state) == [.running])

            let all = try await gpu.ring(program, ScriptedRunner.arguments(.read, window: 1, byteCount: image.count))
            #expect(all == SHA256.hash(image).bytes)
            let some = try await gpu.ring(
                program, ScriptedRunner.arguments(.read, window: 1, block: 39, byteCount: Self.block + 1000))
            #expect(some == SHA256.hash(Array(image[(39 * Self.block)...])).bytes)

            for block in 0..<3 as Range<UInt64> {
                _ = try await gpu.ring(
                    program, ScriptedRunner.arguments(.write, window: 2, block: block, byteCount: Self.block))
            }
            let written = (0..<3).flatMap { ScriptedRunner.content(block: $0, byteCount: Self.block) }
            #expect(spill.content == written)
            let back = try await gpu.ring(
                program, ScriptedRunner.arguments(.read, window: 2, byteCount: 3 * Self.block))
            #expect(back == SHA256.hash(written).bytes)

            let counters = gpu.counters
            #expect(counters.bytesFromDevice == UInt64(3 * Self.block))
            #expect(counters.bytesToDevice == UInt64(image.count + Self.block + 1000 + 3 * Self.block))
            #expect(counters.doorbells == 6 && counters.refusals == 0)

            let certificate = try await gpu.scrub()
            #expect(certificate.cause == .gateway && certificate.fence == Fence(1) && certificate.run == bench.run)
            #expect(certificate.isSigned(by: enrolment.attestationKey) && certificate.isProved)
            #expect(fabric.nodes.map(\.state) == [.free])
            await #expect(throws: FabricError.self) { try await gpu.ring(program, []) }
        }
    }

    @Test("the next lease finds no byte of the last one")
    func scrubbed() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let first = try await bench.attach(fabric, enrolment.node, fence: 1)
            var program = try await first.load(try bench.program([]))
            _ = try await first.ring(program, ScriptedRunner.arguments(.dirty))
            #expect(try await first.ring(program, ScriptedRunner.arguments(.isClean)) == [0])
            _ = try await first.scrub()
            let second = try await bench.attach(fabric, enrolment.node, fence: 2)
            program = try await second.load(try bench.program([]))
            #expect(try await second.ring(program, ScriptedRunner.arguments(.isClean)) == [1])
            _ = try await second.scrub()
        }
    }

    @Test("a lent device is scrubbed when the body throws, and both outcomes are told")
    func lent() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let outcome = await fabric.withAttachment(gpu) { _ -> Int in throw CancellationError() }
            #expect(throws: CancellationError.self) { try outcome.result.get() }
            #expect(try outcome.scrub.get().fence == Fence(1))
            #expect(fabric.nodes.map(\.state) == [.free])
        }
    }

    @Test(
        "an access outside the windows is refused, reported, and ends the attachment in quarantine",
        arguments: [
            ScriptedRunner.arguments(.read, window: 9, byteCount: 65_552),
            ScriptedRunner.arguments(.read, window: 1, block: 3, byteCount: 65_552),
            ScriptedRunner.arguments(.read, window: 1, block: 0, byteCount: 65_551),
            ScriptedRunner.arguments(.read, window: 2, byteCount: 65_552),
            ScriptedRunner.arguments(.write, window: 1, byteCount: 65_552),
            ScriptedRunner.arguments(.write, window: 2, block: 2, byteCount: 65_552),
        ])
    func outside(order: [UInt8]) async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let refusals = Mutex<[WindowRefusal]>([])
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1) { refusal in
                refusals.withLock { $0.append(refusal) }
            }
            let image = MemoryStore(RandomBytes.array(Self.block * 3))
            let result = MemoryStore([UInt8](repeating: 0, count: Self.block * 2))
            try await gpu.map([
                MappedWindow(
                    Window(id: 1, direction: .read, purpose: .image(.columns), byteCount: UInt64(image.byteCount)),
                    store: image),
                MappedWindow(
                    Window(id: 2, direction: .write, purpose: .result, byteCount: UInt64(result.byteCount)),
                    store: result),
            ])
            let program = try await gpu.load(try bench.program([]))
            do {
                _ = try await gpu.ring(program, order)
                Issue.record("the access was allowed")
            } catch let error as FabricError {
                #expect(error.code == .outsideWindow)
            }
            #expect(refusals.withLock { $0.count } == 1)
            #expect(result.content.allSatisfy { $0 == 0 })
            #expect(fabric.nodes.first?.state == .quarantined)
            // Over a restart of the gateway too.
            let again = try bench.fabric(enrolment, port: port)
            #expect(again.nodes.first?.quarantine?.code == "outside-window")
            await #expect(throws: FabricError.self) {
                try await again.attest(enrolment.node, lease: bench.lease(2), fence: Fence(2))
            }
        }
    }

    @Test("a closed window is refused from then on")
    func unmapped() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let image = RandomBytes.array(Self.block)
            try await gpu.map([
                MappedWindow(
                    Window(id: 1, direction: .read, purpose: .image(.columns), byteCount: UInt64(image.count)),
                    store: MemoryStore(image))
            ])
            let program = try await gpu.load(try bench.program([]))
            let order = ScriptedRunner.arguments(.read, window: 1, byteCount: image.count)
            #expect(try await gpu.ring(program, order) == SHA256.hash(image).bytes)
            try await gpu.unmap([1])
            await #expect(throws: FabricError.self) { try await gpu.ring(program, order) }
            #expect(gpu.failure?.code == .outsideWindow)
        }
    }

    @Test("a program that names a window which is not mapped, or not so, is refused and nothing else happens")
    func programWindows() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let image = RandomBytes.array(Self.block)
            let window = Program.Window(id: 1, direction: .read, purpose: .image(.columns), byteCount: 65_536)
            try await gpu.map([MappedWindow(Window(window), store: MemoryStore(image))])
            for wrong in [
                Program.Window(id: 2, direction: .read, purpose: .image(.columns), byteCount: 65_536),
                Program.Window(id: 1, direction: .read, purpose: .image(.features), byteCount: 65_536),
                Program.Window(id: 1, direction: .read, purpose: .image(.columns), byteCount: 65_535),
            ] {
                let program = try bench.program([wrong])
                do {
                    _ = try await gpu.load(program)
                    Issue.record("the program was accepted")
                } catch let error as FabricError {
                    #expect(error.refusal == Refusal(.windowTable, index: UInt32(wrong.id)))
                }
            }
            await #expect(throws: FabricError.self) { try await gpu.load([1, 2, 3]) }
            _ = try await gpu.load(try bench.program([window]))
            _ = try await gpu.scrub()
        }
    }

    @Test("a doorbell without end is called off at once; the scrub stops the device, and the node is free and clean")
    func calledOff() async throws {
        try await withBench { bench in
            let recorder = ScriptedRunner.Recorder()
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent(runner: recorder)
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let program = try await gpu.load(try bench.program([]))
            let rung = Task { try await gpu.ring(program, ScriptedRunner.arguments(.hang)) }
            while recorder.rung.withLock({ $0 }) == 0 { await Task.yield() }
            gpu.callOff()
            let answer = await rung.result
            #expect(throws: FabricError.self) { try answer.get() }
            await #expect(throws: FabricError.self) {
                _ = try await gpu.ring(program, ScriptedRunner.arguments(.dirty))
            }
            #expect(recorder.rung.withLock { $0 } == 1, "nothing is rung after it was called off")
            let certificate = try await gpu.scrub()
            #expect(certificate.cause == .gateway && certificate.isProved)
            // The device's late answer to what was called off is no answer to anything.
            #expect(gpu.failure == nil && fabric.nodes.map(\.state) == [.free])
            let next = try await bench.attach(fabric, enrolment.node, fence: 2)
            let again = try await next.load(try bench.program([]))
            #expect(try await next.ring(again, ScriptedRunner.arguments(.isClean)) == [1])
            _ = try await next.scrub()
        }
    }

    @Test("a lease is renewed while a doorbell is out, and the doorbell ends with the lease")
    func renewals() async throws {
        try await withBench { bench in
            let clock = StillClock()
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent(clock: clock)
            defer { agent.shutdown() }
            let fabric = try bench.fabric(enrolment, port: port)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            let program = try await gpu.load(try bench.program([]))
            async let rung = gpu.ring(program, ScriptedRunner.arguments(.hang))
            // Twice the TTL, a step at a time: each step waits for a renewal to have moved the deadline.
            for _ in 0..<4 {
                clock.advance(milliseconds: 30_000)
                await gpu.renewed()
            }
            #expect(gpu.failure == nil)
            clock.advance(milliseconds: 60_000)
            agent.tick()
            do {
                _ = try await rung
                Issue.record("the doorbell was answered")
            } catch let error as FabricError {
                #expect(error.refusal?.code == .leaseExpired)
            }
        }
    }
}

extension RemoteGPU {
    /// Waits until two more renewals were accepted: the second was sent after this was called.
    fileprivate func renewed() async {
        let before = counters.renewals
        while counters.renewals < before + 2, failure == nil { await Task.yield() }
    }
}
