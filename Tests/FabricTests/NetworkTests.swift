import Foundation
import Synchronization
import TestSupport
import Testing
import Vocabulary

/// Lines between network namespaces that are really set down: the gateway in one, the node in another, each a process of
/// its own (`fabric-bench line`, whose node is the real agent and whose lanes are the real ones).
@Suite(.serialized, .enabled(if: TwoNamespaces.areAvailable, "network namespaces need root and the `ip` command"))
struct NetworkTests {
    @Test("a line that is down for less than a lease's time: every byte comes, the lease goes on")
    func shortCut() throws {
        let result = try TwoNamespaces(paths: 1).drill(["--cut-ms", "900", "--ttl-ms", "9000"])
        #expect(result["failure"] == nil)
        #expect(result["scrubbed"] == "gateway")
    }

    @Test("a line that is down for longer ends the lease on both sides, and the node has scrubbed itself")
    func longCut() throws {
        let result = try TwoNamespaces(paths: 1).drill(["--ttl-ms", "900"])
        #expect(result["failure"] == "lost")
        #expect(result["scrubbed"] == "expiry")
    }

    @Test("one of two paths goes down for good: every byte comes over the other one, and nothing is connected anew")
    func onePathOfTwo() throws {
        let result = try TwoNamespaces(paths: 2).drill(["--multipath", "--ttl-ms", "9000"])
        #expect(result["failure"] == nil)
        #expect(result["scrubbed"] == "gateway")
        #expect(result["relinks"] == 0 && result["lanes_reopened"] == 0)
    }
}

/// A gateway's and a node's network namespace with one or two shaped lines between them; removed in the end.
private struct TwoNamespaces: ~Copyable {
    private static let count = Mutex(0)
    private static let command = ["/usr/sbin/ip", "/sbin/ip"].first { FileManager.default.isExecutableFile(atPath: $0) }

    static let areAvailable: Bool = {
        let name = "sekisho-probe-\(getpid())"
        guard getuid() == 0, (try? ip("netns add \(name)")) != nil else { return false }
        return (try? ip("netns del \(name)")) != nil
    }()

    private let gateway: String
    private let node: String

    init(paths: Int) throws {
        let number = Self.count.withLock { count in
            count += 1
            return count
        }
        let name = "sekisho-\(getpid())-\(number)"
        (gateway, node) = (name + "-g", name + "-n")
        for space in [gateway, node] {
            try Self.ip("netns add \(space)")
            try Self.ip("-n \(space) link set lo up")
        }
        for path in 0..<paths {
            let (here, there) = ("path\(path)", "path\(path)")
            try Self.ip("-n \(gateway) link add \(here) type veth peer name \(there) netns \(node)")
            // RFC 5737's documentation networks: nobody's.
            let network = ["198.51.100", "203.0.113"][path]
            try Self.ip("-n \(gateway) addr add \(network).1/24 dev \(here)")
            try Self.ip("-n \(node) addr add \(network).2/24 dev \(there)")
            for space in [gateway, node] { try Self.ip("-n \(space) link set path\(path) up") }
            try Self.run(
                "/usr/bin/env", "tc -n \(gateway) qdisc add dev \(here) root tbf rate 200mbit burst 128kb latency 50ms")
        }
        guard paths > 1 else { return }
        for space in [gateway, node] { try Self.ip("-n \(space) mptcp limits set subflows 4 add_addr_accepted 4") }
        try Self.ip("-n \(node) mptcp endpoint add 203.0.113.2 dev path1 signal")
    }

    deinit { for space in [gateway, node] { try? Self.ip("netns del \(space)") } }

    /// Streams 32 MiB from the gateway to the node, cuts the first path after an eighth of it, and says what became of the
    /// lease. Bytes that are not those that were sent end the program.
    func drill(_ options: [String]) throws -> [String: JSON] {
        let program = NodeDaemon.executable.deletingLastPathComponent().appendingPathComponent("fabric-bench").path
        let words = [
            "netns", "exec", gateway, program, "line", "--namespace", node, "--here", "198.51.100.1", "--there",
            "198.51.100.2", "--megabytes", "32", "--cut", "path0",
        ]
        let output = try Self.run(try #require(Self.command), words + options)
        return try #require(try JSON(parsing: output.filter { $0 != 10 }).objectValue)
    }

    private static func ip(_ words: String) throws { try run(try #require(command), words) }

    @discardableResult
    private static func run(_ program: String, _ words: String) throws -> [UInt8] {
        try run(program, words.split(separator: " ").map(String.init))
    }

    private struct Refused: Error {
        let words: [String]
    }

    @discardableResult
    private static func run(_ program: String, _ words: [String]) throws -> [UInt8] {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = words
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let bytes = Array(output.fileHandleForReading.readDataToEndOfFile())
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Refused(words: words) }
        return bytes
    }
}
