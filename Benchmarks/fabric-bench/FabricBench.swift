import DeviceNode
import FabricProtocol
import FabricTransport
import Foundation
import GPUFabric
import Sealing
import Synchronization
import Vocabulary

/// What the fabric costs, measured between two processes of one machine beside what it is compared with, in one run.
@main
struct FabricBench {
    static func main() async throws {
        let arguments = CommandLine.arguments.dropFirst()
        switch arguments.first {
        case "node": try BenchNode.run(folder: arguments[2], at: NodeAddress(arguments[3])!)
        case "peer": try RawPeer.run(of: NodeAddress(arguments[2])!)
        case "line": try await line(Array(arguments.dropFirst()))
        default: try await measure(Array(arguments))
        }
    }

    private static func text(_ name: String, _ arguments: [String]) -> String? {
        arguments.firstIndex(of: "--" + name).flatMap {
            arguments.indices.contains($0 + 1) ? arguments[$0 + 1] : nil
        }
    }

    /// A line between network namespaces, which whoever starts this has made.
    private static func line(_ arguments: [String]) async throws {
        guard let namespace = text("namespace", arguments), let here = text("here", arguments),
            let there = text("there", arguments)
        else { throw CocoaError(.keyValueValidation) }
        func number(_ name: String) -> Int? { text(name, arguments).flatMap { Int($0) } }
        let bench = try FabricMeasurements(
            megabytes: number("megabytes") ?? 64, rounds: number("rounds") ?? 3, nbdPort: nil)
        defer { bench.end() }
        let line = FabricMeasurements.Line(
            namespace: namespace, here: here, there: there, isMultipath: arguments.contains("--multipath"))
        if let device = text("cut", arguments) {
            try await bench.drill(
                line, cutting: device, milliseconds: number("cut-ms"), ttlMilliseconds: number("ttl-ms") ?? 3000)
        } else {
            try await bench.streams(over: line)
        }
        print(bench.report.canonicalText)
    }

    private static func measure(_ arguments: [String]) async throws {
        func option(_ name: String) -> Int? { text(name, arguments).flatMap { Int($0) } }
        let bench = try FabricMeasurements(
            megabytes: option("megabytes") ?? 256, rounds: option("rounds") ?? 5, nbdPort: option("nbd-port"))
        defer { bench.end() }
        let parts = text("only", arguments).map { $0.split(separator: ",").map(String.init) }
        try await bench.run(
            try parts?.map { name in
                guard let part = FabricMeasurements.Part(rawValue: name) else { throw CocoaError(.keyValueValidation) }
                return part
            } ?? FabricMeasurements.Part.allCases)
        if arguments.contains("--json") {
            print(bench.report.canonicalText)
        } else {
            for line in bench.lines { print(line) }
        }
    }
}

/// Median of what several rounds gave.
func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return sorted.isEmpty ? .nan : sorted[sorted.count / 2]
}

/// Seconds of processor time, user and system, of this process so far.
func processorSeconds() -> Double {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
    return seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

func monotonicSeconds() -> Double { Double(BootClock().nanoseconds()) / 1e9 }

/// What a doorbell of this benchmark does.
struct BenchOrder {
    enum Kind: UInt8 {
        /// Reads a whole window, `batch` blocks at a time with two batches on their way, opens every block into device
        /// memory, and gives seconds, processor seconds and, after the clock has stopped, SHA-256 of what it opened.
        case stream = 1
        /// Reads one block `count` times; gives the 50th and 99th percentile in nanoseconds.
        case latency = 2
        /// Reads one stripe `count` times; gives the longest time between two answers in nanoseconds.
        case gaps = 3
    }

    var kind: Kind
    var window: UInt16
    var byteCount: UInt64
    var count: UInt32 = 0
    var batch: UInt32 = 32
    /// 32 bytes; blocks are sealed under it for window and index.
    var key: [UInt8] = [UInt8](repeating: 0, count: 32)

    var bytes: [UInt8] {
        var writer = WireWriter()
        writer.integer(kind.rawValue)
        writer.integer(window)
        writer.integer(byteCount)
        writer.integer(count)
        writer.integer(batch)
        writer.fixed(key)
        return writer.bytes
    }

    init(_ kind: Kind, window: UInt16, byteCount: UInt64) {
        self.kind = kind
        self.window = window
        self.byteCount = byteCount
    }

    init(parsing bytes: [UInt8]) throws {
        var reader = WireReader(bytes)
        kind = Kind(rawValue: try reader.integer())!
        window = try reader.integer()
        byteCount = try reader.integer()
        count = try reader.integer()
        batch = try reader.integer()
        key = try reader.fixed(32)
    }

    static func nonce(_ window: UInt16, _ index: Int) -> BlockNonce {
        BlockNonce(high: UInt32(window), low: UInt64(index))
    }

    static let context: [UInt8] = []
}

/// The node process: the real agent and its real lanes, with a runner that only moves and opens blocks.
enum BenchNode {
    private static func configuration(_ folder: String, _ deviceBytes: Int) throws -> NodeConfiguration {
        try NodeConfiguration(deviceBytes: deviceBytes, threads: 1, stateFolder: folder + "/state")
    }

    /// What the node signs; this program is both ends.
    static func measurements(folder: String, deviceBytes: Int) throws -> [FabricProtocol.Measurement] {
        try NodeMeasurements(
            identity: try NodeIdentity(folder: folder + "/node-1"),
            configuration: try configuration(folder, deviceBytes)
        ).list
    }

    static func run(folder: String, at listening: NodeAddress) throws {
        let deviceBytes = Int(ProcessInfo.processInfo.environment["BENCH_DEVICE_BYTES"] ?? "") ?? 64 << 20
        try FileManager.default.createDirectory(atPath: folder + "/state", withIntermediateDirectories: true)
        let agent = try NodeAgent(
            identity: try NodeIdentity(folder: folder + "/node-1"),
            configuration: try configuration(folder, deviceBytes),
            makeRunner: { context, _ in BenchRunner(context) })
        print(try agent.start(at: listening))
        fflush(nil)
        // Until the gateway's process closes the pipe.
        while readLine() != nil {}
        agent.shutdown()
    }
}

private final class BenchRunner: ProgramRunner {
    // What `RunnerContext` lends is safe from the one thread that runs a doorbell.
    private struct Lent: @unchecked Sendable {
        let memory: DeviceMemory
        let windows: any WindowMemory
    }

    private let lent: Lent

    init(_ context: RunnerContext) { lent = Lent(memory: context.memory, windows: context.windows) }

    func load(_ program: [UInt8]) throws -> UInt32 { 1 }
    func cancel() {}

    func ring(_ program: UInt32, _ arguments: [UInt8]) throws -> [UInt8] {
        let order = try BenchOrder(parsing: arguments)
        var writer = WireWriter()
        switch order.kind {
        case .stream:
            let (seconds, processor, digest) = try stream(order)
            writer.integer(seconds.bitPattern)
            writer.integer(processor.bitPattern)
            writer.digest(digest)
        case .latency:
            for value in try latencies(order) { writer.integer(value) }
        case .gaps: writer.integer(try longestGap(order))
        }
        return writer.bytes
    }

    private func stream(_ order: BenchOrder) throws -> (Double, Double, Digest) {
        let block = Limits.sealedBlockBytes
        let blocks = Int(order.byteCount) / block
        let batch = Int(order.batch)
        let cipher = BlockCipher(key: SecretBytes(copying: order.key))
        let staging = UnsafeMutableRawBufferPointer.allocate(byteCount: 2 * batch * block, alignment: 4096)
        defer { staging.deallocate() }
        return try lent.memory.withBytes { memory in
            func begin(_ first: Int, _ half: Int) throws -> (read: PendingRead, bytes: UnsafeMutableRawBufferPointer)? {
                guard first < blocks else { return nil }
                let count = min(batch, blocks - first)
                let bytes = UnsafeMutableRawBufferPointer(
                    rebasing: staging[half * batch * block..<(half * batch + count) * block])
                return (
                    try lent.windows.beginRead(window: order.window, first: UInt64(first), count: count, into: bytes),
                    bytes
                )
            }
            let (start, processorStart) = (monotonicSeconds(), processorSeconds())
            var first = 0
            var half = 0
            var coming = try begin(0, 0)
            while let (read, bytes) = coming {
                try lent.windows.finish(read)
                half = 1 - half
                coming = try begin(first + bytes.count / block, half)
                for index in 0..<bytes.count / block {
                    let to = UnsafeMutableRawBufferPointer(
                        rebasing: memory[(first + index) * Limits.blockBytes..<(first + index + 1) * Limits.blockBytes])
                    try cipher.open(
                        UnsafeRawBufferPointer(rebasing: bytes[index * block..<(index + 1) * block]),
                        nonce: BenchOrder.nonce(order.window, first + index), aad: BenchOrder.context, into: to)
                }
                first += bytes.count / block
            }
            let (seconds, processor) = (monotonicSeconds() - start, processorSeconds() - processorStart)
            var digest = SHA256Stream()
            digest.update(UnsafeRawBufferPointer(rebasing: memory[..<(blocks * Limits.blockBytes)]))
            return (seconds, processor, digest.finalize())
        }
    }

    private func latencies(_ order: BenchOrder) throws -> [UInt64] {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Int(order.byteCount), alignment: 4096)
        defer { buffer.deallocate() }
        let clock = BootClock()
        var times: [UInt64] = []
        for round in 0..<Int(order.count) + 200 {
            let start = clock.nanoseconds()
            try lent.windows.readBlocks(
                window: order.window, first: 0, count: (buffer.count + 65_551) / 65_552, into: buffer)
            if round >= 200 { times.append(clock.nanoseconds() - start) }
        }
        times.sort()
        return [times[times.count / 2], times[times.count * 99 / 100]]
    }

    private func longestGap(_ order: BenchOrder) throws -> UInt64 {
        let count = LaneHeader.readBlocksMax
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: count * Limits.sealedBlockBytes, alignment: 4096)
        defer { buffer.deallocate() }
        let clock = BootClock()
        var last = clock.nanoseconds()
        var longest: UInt64 = 0
        let stripes = order.byteCount / UInt64(buffer.count)
        for round in 0..<UInt64(order.count) {
            try lent.windows.readBlocks(
                window: order.window, first: round % stripes * UInt64(count), count: count, into: buffer)
            let now = clock.nanoseconds()
            longest = max(longest, now - last)
            last = now
        }
        return longest
    }
}
