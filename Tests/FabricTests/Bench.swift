import DeviceNode
import FabricProtocol
import FabricTransport
import Foundation
import GPUFabric
import Sealing
import Synchronization
import TestSupport
import TransparencyLog
import Vocabulary

/// A hospital's fabric in one folder: authority, trail, gateway, and nodes on free ports.
final class Bench: Sendable {
    let folder: String
    let authority: CertificateAuthority
    let trail: TestTrail
    let clock = ManualClock()
    let run = try! RunID("run-1")
    let runKey = [UInt8](repeating: 5, count: 32)

    init(_ folder: URL) throws {
        self.folder = folder.path
        trail = TestTrail()
        try trail.save(to: folder)
        // Real certificates are checked against the system's clock.
        authority = try CertificateAuthority.create(in: folder.path + "/ca", sealing: Self.sealing, now: .system)
        try authority.issueGateway(into: folder.path + "/gateway", sealing: Self.sealing, now: .system)
    }

    /// The bench of another process.
    init(opening folder: String) throws {
        self.folder = folder
        trail = try TestTrail(openedFrom: URL(fileURLWithPath: folder))
        authority = try CertificateAuthority(folder: folder + "/ca", sealing: Self.sealing)
    }

    static let deviceBytes = 4 << 20

    /// What the gateway's private keys are sealed with.
    static var sealing: SecretBytes { SecretBytes(copying: [UInt8](repeating: 9, count: 32)) }

    func gatewayIdentity(_ name: String = "gateway") throws -> TLSContext {
        try GatewayIdentity.load(folder: folder + "/" + name, sealing: Self.sealing)
    }

    /// An enrolled node's folder and the gateway's half of it.
    func enrol(
        _ name: String = "node-1", authority: CertificateAuthority? = nil, validSeconds: Int = 86_400
    ) throws -> NodeEnrolment {
        let enrolment = try (authority ?? self.authority).issueNode(
            try NodeID(name), trail: trail.identity.description, into: folder + "/" + name, now: .system,
            validSeconds: validSeconds)
        // For gateways that are processes of their own.
        try JSONEncoder().encode(enrolment).write(to: URL(fileURLWithPath: "\(folder)/\(name).enrolment"))
        return enrolment
    }

    func configuration(_ name: String = "node-1") throws -> NodeConfiguration {
        let state = folder + "/" + name + "-state"
        try FileManager.default.createDirectory(atPath: state, withIntermediateDirectories: true)
        return try NodeConfiguration(deviceBytes: Self.deviceBytes, threads: 1, stateFolder: state)
    }

    /// An agent in this process, on a clock that stands still unless the test moves it.
    func agent(
        _ name: String = "node-1", clock: any LeaseClock = StillClock(), runner: ScriptedRunner.Recorder = .init()
    ) throws -> (agent: NodeAgent, port: UInt16) {
        try agent(name, clock: clock) { context, runKey in
            ScriptedRunner(context, runKey: runKey.withBytes { Array($0) }, recorder: runner)
        }
    }

    func agent(
        _ name: String = "node-1", clock: any LeaseClock = StillClock(), makeRunner: @escaping RunnerFactory
    ) throws -> (agent: NodeAgent, port: UInt16) {
        let agent = try NodeAgent(
            identity: try NodeIdentity(folder: folder + "/" + name), configuration: try configuration(name),
            clock: clock, makeRunner: makeRunner)
        return (agent, try agent.start(at: NodeAddress(host: "127.0.0.1", port: 0)))
    }

    func policy(_ name: String = "node-1") throws -> AttestationPolicy {
        let measurements = try NodeMeasurements(
            identity: try NodeIdentity(folder: folder + "/" + name), configuration: try configuration(name))
        return AttestationPolicy(
            leastLevel: .software,
            allowed: Dictionary(uniqueKeysWithValues: measurements.list.map { ($0.name, [$0.digest]) }))
    }

    func fabric(
        _ enrolment: NodeEnrolment, port: UInt16, policy: AttestationPolicy? = nil, gateway: String = "gateway",
        name: String = "fabric", timing: LeaseTiming = .patient
    ) throws -> Fabric {
        return try Fabric(
            nodes: [
                FabricNode(
                    enrolment: enrolment, address: NodeAddress(host: "127.0.0.1", port: port), pool: "test",
                    policy: try policy ?? self.policy(enrolment.node.text))
            ],
            identity: try gatewayIdentity(gateway), quarantineFile: folder + "/\(name).quarantine", clock: clock,
            timing: timing)
    }

    func lease(_ number: UInt64) -> LeaseID { try! LeaseID("lease-\(number)") }

    /// Attests and leases with a receipt as it should be.
    func attach(
        _ fabric: Fabric, _ node: NodeID, fence: UInt64, refused: @escaping @Sendable (WindowRefusal) -> Void = { _ in }
    ) async throws -> RemoteGPU {
        let attested = try await fabric.attest(node, lease: lease(fence), fence: Fence(fence))
        return try await attested.lease(
            run: run, attempt: 1, receipt: trail.receipt(run: run, attested),
            wrappedRunKey: attested.wrappingKey.wrap(SecretBytes(copying: runKey)),
            refused: refused)
    }

    /// A program that names exactly these windows.
    func program(_ windows: [Program.Window]) throws -> [UInt8] { try Program(windows: windows).bytes() }
}

/// A folder with a bench in it, removed afterwards.
func withBench(_ body: (Bench) async throws -> Void) async throws {
    try await withTemporaryFolder { folder in try await body(try Bench(folder)) }
}

extension LeaseTiming {
    /// For tests that move the node's clock themselves: much is renewed, and nothing expires by itself.
    static var patient: LeaseTiming {
        var timing = LeaseTiming()
        timing.ttlMilliseconds = 60_000
        timing.renewMilliseconds = 20
        return timing
    }

    /// Over soon when its node is gone.
    static var impatient: LeaseTiming {
        var timing = LeaseTiming()
        timing.ttlMilliseconds = 2000
        timing.renewMilliseconds = 100
        return timing
    }
}

extension Timestamp {
    static var system: Timestamp { Timestamp(milliseconds: Int64(Date().timeIntervalSince1970 * 1000)) }
}

/// A lease clock that a test moves.
final class StillClock: LeaseClock {
    private let now = Mutex<UInt64>(1_000_000_000)
    func nanoseconds() -> UInt64 { now.withLock { $0 } }
    func advance(milliseconds: UInt64) { now.withLock { $0 += milliseconds * 1_000_000 } }
}

/// A trail of one record, made with the real formats.
final class TestTrail: Sendable {
    private let key: SigningKey
    let identity: TrailIdentity

    init() {
        key = SigningKey.generate()
        identity = try! TrailIdentity(origin: "sekisho.test/trail", key: key.verifyingKey)
    }

    init(openedFrom folder: URL) throws {
        let seed = try Data(contentsOf: folder.appendingPathComponent("trail.seed"))
        key = try SigningKey(seed: SecretBytes(copying: Array(seed)))
        identity = try TrailIdentity(origin: "sekisho.test/trail", key: key.verifyingKey)
    }

    func save(to folder: URL) throws {
        try key.withSeed { seed in seed.withBytes { Data($0) } }
            .write(to: folder.appendingPathComponent("trail.seed"))
    }

    func receipt(_ core: JSON) throws -> [UInt8] {
        let era = try EraKey(SecretBytes.random(count: 32))
        let (leaf, opening) = try era.seal(
            core: core, kind: .record, era: 1, time: Timestamp(milliseconds: 1), origin: identity.origin,
            nonce: RandomBytes.array(LeafHeader.nonceBytes))
        var tree = MerkleTree()
        tree.append(Merkle.leafHash(Array("an earlier entry".utf8)))
        tree.append(Merkle.leafHash(leaf))
        let head = try Checkpoint(origin: identity.origin, size: tree.size, root: tree.root).signed(by: key)
        return Receipt(
            index: 1, head: head, periods: SigningPeriods(identity), proof: tree.inclusionProof(index: 1, size: 2),
            leaf: leaf, opening: opening
        ).bytes
    }

    static func core(run: RunID, lease: LeaseID, fence: Fence, node: NodeID, evidence: Digest) -> [String: JSON] {
        [
            "event": "device.leased", "outcome": "intent", "run": .string(run.text), "lease": .string(lease.text),
            "fence": .integer(Int64(fence.number)), "device": .string(node.text), "evidence": .string(evidence.hex),
        ]
    }

    func receipt(run: RunID, _ attested: AttestedNode) throws -> [UInt8] {
        try receipt(
            .object(
                Self.core(
                    run: run, lease: attested.lease, fence: attested.fence, node: attested.node,
                    evidence: attested.evidence)))
    }
}

/// Sealed bytes in memory.
final class MemoryStore: WindowStore {
    private let bytes: Mutex<[UInt8]>
    let byteCount: Int

    init(_ bytes: [UInt8]) {
        byteCount = bytes.count
        self.bytes = Mutex(bytes)
    }

    var content: [UInt8] { bytes.withLock { $0 } }

    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        bytes.withLock { buffer.copyBytes(from: $0[offset..<offset + buffer.count]) }
    }

    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws {
        bytes.withLock { $0.replaceSubrange(offset..<offset + buffer.count, with: buffer) }
    }
}

/// Stands in for the executor: does at each doorbell what its arguments say, with the windows it was given.
final class ScriptedRunner: ProgramRunner {
    enum Order: UInt8 {
        /// window, first block, byte count → SHA-256 of what was read
        case read = 1
        /// window, block, byte count → nothing; writes bytes made from the block's number
        case write = 2
        /// → 1 when all device memory is zero
        case isClean = 3
        /// fills device memory
        case dirty = 4
        /// runs until it is cancelled
        case hang = 5
    }

    final class Recorder: Sendable {
        let runKeys = Mutex<[[UInt8]]>([])
        let rung = Mutex(0)
    }

    private let context: Mutex<(memory: DeviceMemory, windows: any WindowMemory)>
    private let recorder: Recorder
    private let isCancelled = Monitor(false)

    init(_ context: RunnerContext, runKey: [UInt8], recorder: Recorder) {
        self.context = Mutex((context.memory, context.windows))
        self.recorder = recorder
        recorder.runKeys.withLock { $0.append(runKey) }
    }

    static func arguments(
        _ order: Order, window: UInt16 = 0, block: UInt64 = 0, byteCount: Int = 0
    ) -> [UInt8] {
        var writer = WireWriter()
        writer.integer(order.rawValue)
        writer.integer(window)
        writer.integer(block)
        writer.integer(UInt32(byteCount))
        return writer.bytes
    }

    static func content(block: UInt64, byteCount: Int) -> [UInt8] {
        var random = SeededRandom(seed: block)
        return random.bytes(byteCount)
    }

    func load(_ program: [UInt8]) throws -> UInt32 { 7 }

    func cancel() { isCancelled.withLock { $0 = true } }

    func ring(_ program: UInt32, _ arguments: [UInt8]) throws -> [UInt8] {
        recorder.rung.withLock { $0 += 1 }
        var reader = WireReader(arguments)
        let order = Order(rawValue: try reader.integer())!
        let window = try reader.integer(UInt16.self)
        let block = try reader.integer(UInt64.self)
        let byteCount = Int(try reader.integer(UInt32.self))
        let windows = context.withLock { $0.windows }
        switch order {
        case .read:
            var bytes = [UInt8](repeating: 0, count: byteCount)
            let blocks = (byteCount + Limits.sealedBlockBytes - 1) / Limits.sealedBlockBytes
            try bytes.withUnsafeMutableBytes {
                try windows.readBlocks(window: window, first: block, count: blocks, into: $0)
            }
            return SHA256.hash(bytes).bytes
        case .write:
            try Self.content(block: block, byteCount: byteCount).withUnsafeBytes {
                try windows.writeBlock(window: window, index: block, $0)
            }
            return []
        case .isClean:
            return context.withLock { context in
                context.memory.withBytes { bytes in [bytes.allSatisfy { $0 == 0 } ? 1 : 0] }
            }
        case .dirty:
            context.withLock { context in
                context.memory.withBytes { _ = $0.initializeMemory(as: UInt8.self, repeating: 0xAA) }
            }
            return []
        case .hang:
            _ = isCancelled.wait { $0 ? true : nil }
            throw CancellationError()
        }
    }
}
