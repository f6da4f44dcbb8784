import FabricProtocol
import FabricTransport
import Foundation
import GPUFabric
import Sealing
import Synchronization
import TransparencyLog
import Vocabulary

/// Starts the other processes, measures, and says what came of it.
final class FabricMeasurements {
    let byteCount: Int
    let rounds: Int
    private let nbdPort: Int?
    let folder = NSTemporaryDirectory() + "sekisho-fabric-bench-\(getpid())"
    private let trailKey = SigningKey.generate()
    private let sealing = SecretBytes.random(count: 32)
    let enrolment: NodeEnrolment
    private let tls: TLSContext
    private var children: [Process] = []
    private var pipes: [Pipe] = []
    private var fence: UInt64 = 0
    private(set) var lines: [String] = []
    var figures: [String: JSON] = [:]

    var report: JSON { .object(figures) }

    init(megabytes: Int, rounds: Int, nbdPort: Int?) throws {
        byteCount = megabytes << 20
        self.rounds = rounds
        self.nbdPort = nbdPort
        let now = WallTime().now()
        let authority = try CertificateAuthority.create(in: folder + "/ca", sealing: sealing, now: now)
        try authority.issueGateway(into: folder + "/gateway", sealing: sealing, now: now)
        enrolment = try authority.issueNode(
            try NodeID("node-1"), trail: Self.identity(trailKey).description, into: folder + "/node-1", now: now)
        tls = try GatewayIdentity.load(folder: folder + "/gateway", sealing: sealing)
    }

    private static func identity(_ key: borrowing SigningKey) throws -> TrailIdentity {
        try TrailIdentity(origin: "sekisho.bench/trail", key: key.verifyingKey)
    }

    func end() {
        for pipe in pipes { try? pipe.fileHandleForWriting.close() }
        for child in children { child.waitUntilExit() }
        try? FileManager.default.removeItem(atPath: folder)
    }

    enum Part: String, CaseIterable { case streams, latencies, attaching, scrubbing, cutting, distance }

    func run(_ parts: [Part]) async throws {
        let node = try startNode()
        for part in parts {
            switch part {
            case .streams: try await streams(node)
            case .latencies: try await latencies(node)
            case .attaching: try await attaching(node)
            case .scrubbing: try scrubbing()
            case .cutting: try await cutting(node)
            case .distance: try await distance(node)
            }
        }
    }

    func say(_ name: String, _ value: Double, _ words: String) {
        figures[name] = .integer(Int64((value * 1000).rounded()))
        lines.append(words)
    }

    // MARK: Processes

    /// Another process of this program, in this network namespace or another one.
    func start(
        _ arguments: [String], in namespace: String? = nil, environment: [String: String] = [:]
    ) throws -> Pipe {
        let program = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        let process = Process()
        process.executableURL = namespace == nil ? program : URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = (namespace.map { ["ip", "netns", "exec", $0, program.path] } ?? []) + arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        let input = Pipe()
        let output = Pipe()
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        children.append(process)
        pipes.append(input)
        return output
    }

    func startNode(
        in namespace: String? = nil, at address: NodeAddress = NodeAddress(host: "127.0.0.1", port: 0)
    ) throws -> UInt16 {
        let output = try start(
            ["node", folder, address.text], in: namespace, environment: ["BENCH_DEVICE_BYTES": "\(byteCount)"])
        var line = ""
        while !line.hasSuffix("\n") {
            line += String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
        }
        return UInt16(line.dropLast())!
    }

    // MARK: Leases

    func fabric(_ port: UInt16, lanes: Int = 2) throws -> Fabric {
        try fabric(at: NodeAddress(host: "127.0.0.1", port: port), lanes: lanes)
    }

    func fabric(at address: NodeAddress, lanes: Int = 2, ttlMilliseconds: Int = 30_000) throws -> Fabric {
        let measured = try BenchNode.measurements(folder: folder, deviceBytes: byteCount)
        var timing = LeaseTiming()
        timing.ttlMilliseconds = UInt32(ttlMilliseconds)
        timing.renewMilliseconds = ttlMilliseconds / 3
        timing.lanes = lanes
        return try Fabric(
            nodes: [
                FabricNode(
                    enrolment: enrolment, address: address, pool: "bench",
                    policy: AttestationPolicy(
                        leastLevel: .software,
                        allowed: Dictionary(uniqueKeysWithValues: measured.map { ($0.name, [$0.digest]) })))
            ], identity: tls, quarantineFile: folder + "/quarantine-\(fence)", clock: WallTime(), timing: timing)
    }

    func attach(_ fabric: Fabric) async throws -> RemoteGPU {
        fence += 1
        let run = try RunID("run-\(fence)")
        let attested = try await fabric.attest(
            enrolment.node, lease: try LeaseID("lease-\(fence)"), fence: Fence(fence))
        return try await attested.lease(
            run: run, attempt: 1, receipt: try receipt(run, attested),
            wrappedRunKey: attested.wrappingKey.wrap(SecretBytes.random(count: 32)))
    }

    private func receipt(_ run: RunID, _ attested: AttestedNode) throws -> [UInt8] {
        let identity = try Self.identity(trailKey)
        let era = try EraKey(SecretBytes.random(count: 32))
        let (leaf, opening) = try era.seal(
            core: [
                "event": "device.leased", "outcome": "intent", "run": .string(run.text),
                "lease": .string(attested.lease.text), "fence": .integer(Int64(attested.fence.number)),
                "device": .string(attested.node.text), "evidence": .string(attested.evidence.hex),
            ], kind: .record, era: 1, time: Timestamp(milliseconds: 1), origin: identity.origin,
            nonce: RandomBytes.array(LeafHeader.nonceBytes))
        var tree = MerkleTree()
        tree.append(Merkle.leafHash(leaf))
        let head = try Checkpoint(origin: identity.origin, size: tree.size, root: tree.root).signed(by: trailKey)
        return Receipt(
            index: 0, head: head, periods: SigningPeriods(identity), proof: tree.inclusionProof(index: 0, size: 1),
            leaf: leaf, opening: opening
        ).bytes
    }

    func map(_ gpu: RemoteGPU, _ id: UInt16, _ store: any WindowStore) async throws {
        try await gpu.map([
            MappedWindow(
                Window(id: id, direction: .read, purpose: .image(.features), byteCount: UInt64(store.byteCount)),
                store: store)
        ])
    }

    /// Maps fresh bytes, sealed beforehand as a run image is or anew at every pass, and says how to read all of them.
    func order(_ gpu: RemoteGPU, _ window: UInt16, _ plaintext: [UInt8], isSealedOnce: Bool = true) async throws
        -> BenchOrder
    {
        let key = RandomBytes.array(32)
        let cipher = BlockCipher(key: SecretBytes(copying: key))
        let store: any WindowStore =
            isSealedOnce ? try SealedStore(plaintext, cipher, window) : SealingStore(plaintext, cipher, window)
        try await map(gpu, window, store)
        var order = BenchOrder(.stream, window: window, byteCount: UInt64(store.byteCount))
        order.key = key
        return order
    }

    /// Seconds that the device took for all of it, and processor seconds here and there. Throws where what came is not what
    /// was sent.
    func stream(
        _ gpu: RemoteGPU, _ program: UInt32, _ order: BenchOrder, _ plaintext: [UInt8]
    ) async throws -> (seconds: Double, here: Double, there: Double) {
        let processor = processorSeconds()
        let answer = try await gpu.ring(program, order.bytes)
        let here = processorSeconds() - processor
        var reader = WireReader(answer)
        let seconds = Double(bitPattern: try reader.integer())
        let there = Double(bitPattern: try reader.integer())
        guard try reader.digest() == SHA256.hash(plaintext) else { throw CocoaError(.coderInvalidValue) }
        return (seconds, here, there)
    }

    // MARK: What is measured

    /// Bulk from the enclave to the device, beside the same bytes over plain TCP, in turns.
    private func streams(_ node: UInt16) async throws {
        let listener = try Listener(host: "127.0.0.1", port: 0)
        _ = try start(["peer", "127.0.0.1:\(listener.port)"])
        let raw = try RawClient(listener)
        let gpu = try await attach(try fabric(node))
        let program = try await gpu.load(try Program().bytes())
        var window: UInt16 = 0
        var (rawRate, rawHere, rawThere): ([Double], [Double], [Double]) = ([], [], [])
        var (onceRate, onceHere, onceThere): ([Double], [Double], [Double]) = ([], [], [])
        var (eachRate, eachHere, eachThere): ([Double], [Double], [Double]) = ([], [], [])
        let gigabytes = Double(byteCount) / 1e9
        for _ in 0..<rounds {
            let plaintext = RandomBytes.array(byteCount)
            let plain = try raw.stream(plaintext)
            rawRate.append(gigabytes / plain.seconds)
            rawHere.append(gigabytes / plain.here)
            rawThere.append(gigabytes / plain.there)
            for isSealedOnce in [true, false] {
                window += 1
                let order = try await order(gpu, window, plaintext, isSealedOnce: isSealedOnce)
                let (seconds, here, there) = try await stream(gpu, program, order, plaintext)
                if isSealedOnce {
                    onceRate.append(gigabytes / seconds)
                    onceHere.append(gigabytes / here)
                    onceThere.append(gigabytes / there)
                } else {
                    eachRate.append(gigabytes / seconds)
                    eachHere.append(gigabytes / here)
                    eachThere.append(gigabytes / there)
                }
                try await gpu.unmap([window])
            }
        }
        raw.close()
        _ = try await gpu.scrub()
        func row(_ key: String, _ name: String, _ rate: [Double], _ here: [Double], _ there: [Double]) {
            say(
                key + "_gb_per_s", median(rate),
                String(
                    format: "%@: %.2f GB/s, %.0f %% of raw TCP; GB per processor second: sender %.2f, receiver %.2f",
                    name,
                    median(rate), 100 * median(rate) / median(rawRate), median(here), median(there)))
            figures[key + "_sender_gb_per_cpu_s"] = .integer(Int64(median(here) * 1000))
            figures[key + "_receiver_gb_per_cpu_s"] = .integer(Int64(median(there) * 1000))
        }
        row("raw", "raw TCP", rawRate, rawHere, rawThere)
        row("sealed_once", "sealed once (run image)", onceRate, onceHere, onceThere)
        row("sealed_each", "sealed per record", eachRate, eachHere, eachThere)
    }

    private func latencies(_ node: UInt16) async throws {
        let listener = try Listener(host: "127.0.0.1", port: 0)
        _ = try start(["peer", "127.0.0.1:\(listener.port)"])
        let raw = try RawClient(listener)
        let gpu = try await attach(try fabric(node))
        let program = try await gpu.load(try Program().bytes())
        for (index, size) in [64, 4096, 65_536].enumerated() {
            let window = UInt16(index + 1)
            try await map(gpu, window, MemoryWindow(RandomBytes.array(size + Limits.tagBytes)))
            var order = BenchOrder(.latency, window: window, byteCount: UInt64(size + Limits.tagBytes))
            order.count = 3000
            var (ours, raws): ([(Double, Double)], [(Double, Double)]) = ([], [])
            for _ in 0..<rounds {
                raws.append(try raw.latencies(size, count: 3000))
                var reader = WireReader(try await gpu.ring(program, order.bytes))
                ours.append((Double(try reader.integer(UInt64.self)), Double(try reader.integer(UInt64.self))))
            }
            let (p50, raw50) = (median(ours.map(\.0)) / 1000, median(raws.map(\.0)) / 1000)
            let (p99, raw99) = (median(ours.map(\.1)) / 1000, median(raws.map(\.1)) / 1000)
            say(
                "read_\(size)_added_p50_us", p50 - raw50,
                String(
                    format: "remote read of %d bytes: p50 %.1f µs, %+.1f over raw TCP; p99 %.1f µs, %+.1f", size, p50,
                    p50 - raw50, p99, p99 - raw99))
            figures["read_\(size)_p50_us"] = .integer(Int64(p50 * 1000))
            figures["read_\(size)_added_p99_us"] = .integer(Int64((p99 - raw99) * 1000))
        }
        // A mebibyte in blocks, one read after another.
        let mebibyte = 16 * Limits.sealedBlockBytes
        try await map(gpu, 9, MemoryWindow(RandomBytes.array(mebibyte)))
        var order = BenchOrder(.latency, window: 9, byteCount: UInt64(mebibyte))
        order.count = 1000
        var reader = WireReader(try await gpu.ring(program, order.bytes))
        let ours = Double(try reader.integer(UInt64.self))
        say(
            "read_1MiB_gb_per_s", Double(mebibyte) / ours,
            String(
                format: "remote read of 1 MiB, one after another: %.2f GB/s", Double(mebibyte) / ours))
        if let nbdPort {
            let client = try BlockDeviceClient(port: UInt16(nbdPort))
            let small = try client.latency(4096, count: 3000) / 1000
            let large = try client.latency(1 << 20, count: 500)
            say("nbd_4096_p50_us", small, String(format: "nbdkit, in clear: 4 KiB p50 %.1f µs", small))
            say(
                "nbd_1MiB_gb_per_s", Double(1 << 20) / large,
                String(
                    format: "nbdkit, in clear: 1 MiB %.2f GB/s", Double(1 << 20) / large))
        }
        raw.close()
        _ = try await gpu.scrub()
    }

    /// From nothing to the first byte on the device, and back to a clean device.
    private func attaching(_ node: UInt16) async throws {
        var (attaches, scrubs): ([Double], [Double]) = ([], [])
        let fabric = try fabric(node)
        for _ in 0..<rounds {
            let start = monotonicSeconds()
            let gpu = try await attach(fabric)
            let program = try await gpu.load(try Program().bytes())
            try await map(gpu, 1, MemoryWindow(RandomBytes.array(80)))
            var order = BenchOrder(.gaps, window: 1, byteCount: 80)
            order.count = 0
            _ = try await gpu.ring(program, order.bytes)
            attaches.append(monotonicSeconds() - start - Double(gpu.link.measuringNanoseconds) / 1e9)
            let scrub = monotonicSeconds()
            _ = try await gpu.scrub()
            scrubs.append(monotonicSeconds() - scrub)
        }
        say(
            "attach_ms", median(attaches) * 1000,
            String(
                format: "attach to a program that answers, without measuring the link: %.1f ms", median(attaches) * 1000
            ))
        say(
            "scrub_ms", median(scrubs) * 1000,
            String(
                format: "scrub of %d MiB with its proof, checked by the gateway: %.0f ms", byteCount >> 20,
                median(scrubs) * 1000))
    }

    /// One core's work, without a network.
    private func scrubbing() throws {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 4096)
        defer { memory.deallocate() }
        var rates: [Double] = []
        for _ in 0..<rounds {
            let start = monotonicSeconds()
            var pattern = ScrubPattern(seed: RandomBytes.array(32), fence: Fence(1))
            var proof = ScrubProof(nonce: RandomBytes.array(32), fence: Fence(1))
            for pass in 0..<2 {
                for (index, at) in stride(from: 0, to: byteCount, by: ScrubPattern.blockBytes).enumerated() {
                    let block = UnsafeMutableRawBufferPointer(rebasing: memory[at..<at + ScrubPattern.blockBytes])
                    if pass == 0 {
                        pattern.fill(block: index, block)
                    } else {
                        proof.add(UnsafeRawBufferPointer(block))
                        block.initializeMemory(as: UInt8.self, repeating: 0)
                    }
                }
            }
            _ = proof.finish()
            rates.append(Double(byteCount) / 1e9 / (monotonicSeconds() - start))
        }
        say(
            "scrub_gb_per_s_core", median(rates),
            String(
                format: "scrub (fill, prove, zero) on one core: %.2f GB/s", median(rates)))
    }

    /// The longest a device waits when every connection is cut in the middle of its reads.
    private func cutting(_ node: UInt16) async throws {
        let relay = try BenchRelay(to: node)
        defer { relay.close() }
        let gpu = try await attach(try fabric(relay.port))
        let program = try await gpu.load(try Program().bytes())
        try await map(gpu, 1, MemoryWindow(RandomBytes.array(64 * Limits.sealedBlockBytes)))
        var order = BenchOrder(.gaps, window: 1, byteCount: UInt64(64 * Limits.sealedBlockBytes))
        order.count = 600
        var stalls: [Double] = []
        for _ in 0..<rounds {
            let before = gpu.counters.relinks
            let cut = Task {
                try? await Task.sleep(for: .milliseconds(100))
                relay.cut()
            }
            var reader = WireReader(try await gpu.ring(program, order.bytes))
            await cut.value
            if gpu.counters.relinks > before { stalls.append(Double(try reader.integer(UInt64.self)) / 1e6) }
        }
        if !stalls.isEmpty {
            say(
                "stall_after_cut_ms", median(stalls),
                String(
                    format:
                        "every connection cut in the middle of reads: the device waits %.1f ms (median), %.1f ms (worst of %d)",
                    median(stalls), stalls.max()!, stalls.count))
        }
        _ = try await gpu.scrub()
    }

    /// Throughput over round trip: what is on its way decides, on a long line.
    private func distance(_ node: UInt16) async throws {
        let relay = try BenchRelay(to: node)
        defer { relay.close() }
        let gpu = try await attach(try fabric(relay.port))
        let program = try await gpu.load(try Program().bytes())
        let bytes = min(byteCount, 64 << 20)
        var order = try await order(gpu, 1, RandomBytes.array(bytes))
        for microseconds in [0, 100, 400, 1000, 5000] {
            relay.setDelay(nanoseconds: UInt64(microseconds) * 500)
            var rates: [Int: Double] = [:]
            // Two batches are on their way: 4 MiB, and 128 KiB as a bus with 256 tags of 512 bytes has.
            for batch in [32, 1] {
                let part = batch == 1 ? min(bytes, microseconds > 400 ? 4 << 20 : 16 << 20) : bytes
                order.byteCount = UInt64(part / Limits.blockBytes * Limits.sealedBlockBytes)
                order.batch = UInt32(batch)
                var reader = WireReader(try await gpu.ring(program, order.bytes))
                rates[batch] = Double(part) / 1e9 / Double(bitPattern: try reader.integer())
            }
            say(
                "distance_\(microseconds)us_gb_per_s", rates[32]!,
                String(
                    format: "round trip + %4d µs: %.2f GB/s; with 128 KiB on its way, as a PCIe bus has, %.2f GB/s",
                    microseconds, rates[32]!, rates[1]!))
            figures["distance_\(microseconds)us_bus_gb_per_s"] = .integer(Int64(rates[1]! * 1000))
        }
        _ = try await gpu.scrub()
    }
}

/// Sealed beforehand, as a run image is.
final class SealedStore: WindowStore {
    private let memory: BenchMemory
    var byteCount: Int { memory.bytes.count }

    init(_ plaintext: [UInt8], _ cipher: BlockCipher, _ window: UInt16) throws {
        memory = BenchMemory(plaintext.count / Limits.blockBytes * Limits.sealedBlockBytes)
        let sealed = memory.bytes
        try plaintext.withUnsafeBytes { plaintext in
            for index in 0..<plaintext.count / Limits.blockBytes {
                try cipher.seal(
                    UnsafeRawBufferPointer(
                        rebasing: plaintext[index * Limits.blockBytes..<(index + 1) * Limits.blockBytes]),
                    nonce: BenchOrder.nonce(window, index), aad: BenchOrder.context,
                    into: UnsafeMutableRawBufferPointer(
                        rebasing: sealed[index * Limits.sealedBlockBytes..<(index + 1) * Limits.sealedBlockBytes]))
            }
        }
    }

    /// As the gateway lends a run image.
    func lent(offset: Int, count: Int) throws -> LentBytes? {
        LentBytes(UnsafeRawBufferPointer(rebasing: memory.bytes[offset..<offset + count]), of: memory)
    }

    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory.bytes[offset..<offset + buffer.count]))
    }

    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws { throw CocoaError(.fileWriteNoPermission) }
}

// Written before anybody else has it.
private final class BenchMemory: @unchecked Sendable {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ byteCount: Int) { bytes = .allocate(byteCount: byteCount, alignment: 4096) }

    deinit { bytes.deallocate() }
}

/// Sealed anew at every pass.
final class SealingStore: WindowStore {
    private let plaintext: [UInt8]
    private let cipher: BlockCipher
    private let window: UInt16
    var byteCount: Int { plaintext.count / Limits.blockBytes * Limits.sealedBlockBytes }

    init(_ plaintext: [UInt8], _ cipher: BlockCipher, _ window: UInt16) {
        self.plaintext = plaintext
        self.cipher = cipher
        self.window = window
    }

    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        let block = Limits.sealedBlockBytes
        try plaintext.withUnsafeBytes { plaintext in
            for index in offset / block..<(offset + buffer.count) / block {
                try cipher.seal(
                    UnsafeRawBufferPointer(
                        rebasing: plaintext[index * Limits.blockBytes..<(index + 1) * Limits.blockBytes]),
                    nonce: BenchOrder.nonce(window, index), aad: BenchOrder.context,
                    into: UnsafeMutableRawBufferPointer(
                        rebasing: buffer[index * block - offset..<(index + 1) * block - offset]))
            }
        }
    }

    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws { throw CocoaError(.fileWriteNoPermission) }
}

final class MemoryWindow: WindowStore {
    private let bytes: [UInt8]
    var byteCount: Int { bytes.count }

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        bytes.withUnsafeBytes {
            buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[offset..<offset + buffer.count]))
        }
    }

    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws { throw CocoaError(.fileWriteNoPermission) }
}

struct WallTime: WallClock {
    func now() -> Timestamp { Timestamp(milliseconds: Int64(Date().timeIntervalSince1970 * 1000)) }
}
