import DeviceNode
import FabricProtocol
import FabricTransport
import GPUFabric
import Sealing
import Synchronization
import TestSupport
import Testing
import Vocabulary

/// A program that copies the image window into the result window, by way of device memory, and what must come of it.
enum Copying {
    static let plaintext: [UInt8] = {
        var random = SeededRandom(seed: 5)
        return random.bytes(3 * Limits.blockBytes + 1000)
    }()

    static let windows = [
        Program.Window(id: 1, direction: .read, purpose: .image(.features), byteCount: plaintext.count),
        Program.Window(id: 2, direction: .write, purpose: .result, byteCount: plaintext.count),
    ]

    static let program: [UInt8] = {
        func transfer(_ window: UInt16) -> Transfer {
            Transfer(window: window, windowOffset: 0, byteCount: plaintext.count, place: Place(buffer: 0))
        }
        return try! Program(
            buffers: [Program.Buffer(offset: 0, byteCount: plaintext.count)], windows: windows,
            commands: [
                Program.Command(.fetch(transfer(1))), Program.Command(.store(transfer(2)), dependsOn: [0]),
            ]
        ).bytes()
    }()

    static let arguments = try! DoorbellArguments(seed: 1, epoch: 1, step: 1, learningRate: 0, flags: []).bytes

    /// The image as the vault seals it.
    static func sealed(_ bench: Bench) throws -> [UInt8] {
        let key = KeyDerivation.hkdf(
            SecretBytes(copying: bench.runKey), info: "sekisho run image v1", context: [0, 0, 0, 3])
        let context = BlockContext(domain: "sekisho-image-v1", owner: bench.run.text, section: 3)
        return try seal(plaintext, BlockCipher(key: key), context) { BlockNonce(high: 3, low: $0) }
    }

    /// What the device must have stored at a doorbell, the first being 0, sealed under the key of its fence and attempt
    /// with its write numbers.
    static func result(_ bench: Bench, fence: UInt8, doorbell: UInt64 = 0) throws -> [UInt8] {
        let key = KeyDerivation.hkdf(
            SecretBytes(copying: bench.runKey), info: "sekisho spill v1",
            context: [0, 0, 0, 0, 0, 0, 0, fence, 0, 0, 0, 1])
        let context = BlockContext(domain: "sekisho-spill-v1", owner: bench.run.text, section: 2)
        return try seal(plaintext, BlockCipher(key: key), context) {
            BlockNonce(high: 0x8000_0002, low: 4 * doorbell + $0)
        }
    }

    private static func seal(
        _ plaintext: [UInt8], _ cipher: BlockCipher, _ context: BlockContext, _ nonce: (UInt64) -> BlockNonce
    ) throws -> [UInt8] {
        var sealed: [UInt8] = []
        for (index, start) in stride(from: 0, to: plaintext.count, by: Limits.blockBytes).enumerated() {
            let part = Array(plaintext[start..<min(start + Limits.blockBytes, plaintext.count)])
            sealed += try cipher.seal(
                part, nonce: nonce(UInt64(index)), aad: context.aad(index: UInt64(index), length: part.count))
        }
        return sealed
    }

    /// Maps both windows. Gives the program's number and where its result is stored.
    static func load(_ bench: Bench, on gpu: RemoteGPU) async throws -> (program: UInt32, stored: MemoryStore) {
        let image = try sealed(bench)
        let stored = MemoryStore([UInt8](repeating: 0, count: image.count))
        try await gpu.map([
            MappedWindow(Window(windows[0]), store: MemoryStore(image)),
            MappedWindow(Window(windows[1]), store: stored),
        ])
        return (try await gpu.load(program), stored)
    }
}

/// The real executor behind real lanes, with a network between that changes what the test wants changed.
@Suite struct LaneTests {
    /// Attaches through a network that flips one bit, and rings once.
    private func copy(
        _ bench: Bench, flip: Network.Flip? = nil
    ) async throws -> (result: Result<[UInt8], any Error>, stored: [UInt8], gpu: RemoteGPU) {
        let enrolment = try bench.enrol()
        let (agent, port) = try bench.agent(makeRunner: executor)
        defer { agent.shutdown() }
        let network = try Network(to: port, flip: flip)
        defer { network.close() }
        let fabric = try bench.fabric(enrolment, port: network.port)
        let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
        var stored: MemoryStore?
        do {
            let (program, store) = try await Copying.load(bench, on: gpu)
            stored = store
            let answer = try await gpu.ring(program, Copying.arguments)
            _ = try await gpu.scrub()
            return (.success(answer), store.content, gpu)
        } catch {
            return (.failure(error), stored?.content ?? [], gpu)
        }
    }

    @Test("a lane whose answers are late looks for them ever more seldom, and sees soon when they are quick again")
    func looking() {
        var polling = BusyPolling()
        func looks(in waits: Int, found: Bool) -> Int {
            (0..<waits).reduce(0) { count, _ in
                guard polling.looks() else { return count }
                polling.looked(found: found)
                return count + 1
            }
        }
        #expect(looks(in: 100, found: true) == 100)
        // After each look twice as many waits without one: 1, 2, 4 … of them.
        #expect(looks(in: 8 * BusyPolling.restsMax, found: false) < 20)
        #expect(looks(in: 20 * BusyPolling.restsMax, found: false) <= 20)
        // One answer in time is not enough, a few are.
        _ = looks(in: 2 * BusyPolling.restsMax, found: true)
        #expect(looks(in: 100, found: true) == 100)
    }

    @Test("the image crosses sealed by the vault, the result sealed by the device; both open, neither is in clear")
    func sealOnce() async throws {
        try await withBench { bench in
            let (answer, stored, _) = try await copy(bench)
            let completion = try Completion(parsing: try answer.get())
            #expect(completion.sealed == [Completion.SealedRun(window: 2, firstBlock: 0, blocks: 4, firstCounter: 0)])
            #expect(stored == (try Copying.result(bench, fence: 1)))
        }
    }

    // A lane starts with its opening (46 bytes) and a credit (96); the first completion follows.
    private static let completion = Lane.Opening.byteCount + LaneRecord.prefixBytes

    @Test(
        "a bit that changes on the way to the node is found, wherever it is",
        arguments: [0, 1, 4, 7, 8, 16, 30, 35, 45, 60, 64, 79, 80, 95, 96, 60_000].map { completion + $0 })
    func toNode(position: Int) async throws {
        try await withBench { bench in
            do {
                let (answer, stored, _) = try await copy(
                    bench, flip: Network.Flip(direction: .toNode, position: position))
                #expect(throws: FabricError.self) { try answer.get() }
                #expect(stored.allSatisfy { $0 == 0 })
            } catch let error as FabricError {
                // The first record to the node may be a probe, which is changed before anything was asked.
                #expect(error.refusal?.code == .frame)
            }
        }
    }

    @Test(
        "a bit that changes in a request on the way to the gateway ends the attachment",
        arguments: [0, 7, 8, 16, 31, 39, 47, 63, 64, 80].map { LaneRecord.prefixBytes + $0 })
    func toGateway(position: Int) async throws {
        try await withBench { bench in
            let (answer, stored, gpu) = try await copy(
                bench, flip: Network.Flip(direction: .toGateway, position: position))
            #expect(throws: FabricError.self) { try answer.get() }
            #expect(gpu.failure?.code == .protocolViolation)
            #expect(gpu.counters.bytesToDevice == 0)
            #expect(stored.allSatisfy { $0 == 0 })
        }
    }
}

/// Relays TCP connections to a node, and flips one bit of a lane's bytes.
final class Network: Sendable {
    struct Flip: Sendable {
        let direction: LaneDirection
        /// Bytes from the lane connection's first one.
        let position: Int
    }

    private let listener: Listener
    var port: UInt16 { listener.port }

    init(to node: UInt16, flip: Flip?) throws {
        listener = try Listener(host: "127.0.0.1", port: 0)
        startThread { [listener] in
            while let near = try? listener.accept(),
                let far = try? Socket.connect(host: "127.0.0.1", port: node, milliseconds: 10_000)
            {
                let isLane = Mutex<Bool?>(nil)
                let shared = Shared(isLane)
                startThread { relay(from: near, to: far, .toNode, flip, shared) }
                startThread { relay(from: far, to: near, .toGateway, flip, shared) }
            }
        }
    }

    func close() { listener.close() }
}

/// Whether a connection turned out to be a lane, told by its first byte.
private final class Shared: Sendable {
    let isLane: Mutex<Bool?>
    init(_ isLane: consuming sending Mutex<Bool?>) { self.isLane = isLane }
}

private func relay(from: Socket, to: Socket, _ direction: LaneDirection, _ flip: Network.Flip?, _ shared: Shared) {
    var buffer = [UInt8](repeating: 0, count: 64 * 1024)
    var passed = 0
    while let count = try? buffer.withUnsafeMutableBytes({ try from.readSome(into: $0) }), count > 0 {
        let isLane = shared.isLane.withLock { isLane in
            if isLane == nil { isLane = direction == .toNode && buffer[0] == Lane.Opening.magic[0] }
            return isLane == true
        }
        if isLane, let flip, flip.direction == direction, (passed..<passed + count).contains(flip.position) {
            buffer[flip.position - passed] ^= 0x10
        }
        passed += count
        guard (try? to.writeAll(Array(buffer[..<count]))) != nil else { break }
    }
    from.close()
    to.close()
}
