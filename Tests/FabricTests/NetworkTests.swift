import Foundation
import TestSupport
import Testing
import Vocabulary

/// Lines between network namespaces that are really set down: the gateway in one, the node in another, each a process of
/// its own (`fabric-bench line`, whose node is the real agent and whose lanes are the real ones).
@Suite(.serialized, .enabled(if: NetworkNamespace.areAvailable, "network namespaces need root and the `ip` command"))
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

/// A gateway's and a node's network namespace with one or two shaped lines between them.
private struct TwoNamespaces {
    private let gateway: NetworkNamespace
    private let node: NetworkNamespace

    init(paths: Int) throws {
        gateway = try NetworkNamespace()
        node = try NetworkNamespace()
        for path in 0..<paths {
            let device = "path\(path)"
            try gateway.ip("link add \(device) type veth peer name \(device) netns \(node.name)")
            // RFC 5737's documentation networks: nobody's.
            let network = ["198.51.100", "203.0.113"][path]
            try gateway.ip("addr add \(network).1/24 dev \(device)")
            try node.ip("addr add \(network).2/24 dev \(device)")
            for space in [gateway, node] { try space.ip("link set \(device) up") }
            let shape = "tc -n \(gateway.name) qdisc add dev \(device) root tbf rate 200mbit burst 128kb latency 50ms"
            #expect(
                try Verifiers.run(
                    URL(fileURLWithPath: "/usr/bin/env"), shape.split(separator: " ").map(String.init)
                ).status == 0)
        }
        guard paths > 1 else { return }
        for space in [gateway, node] { try space.ip("mptcp limits set subflows 4 add_addr_accepted 4") }
        try node.ip("mptcp endpoint add 203.0.113.2 dev path1 signal")
    }

    /// Streams 32 MiB from the gateway to the node, cuts the first path after an eighth of it, and says what became of the
    /// lease. Bytes that are not those that were sent end the program.
    func drill(_ options: [String]) throws -> [String: JSON] {
        let program = NodeDaemon.executable.deletingLastPathComponent().appendingPathComponent("fabric-bench").path
        let words =
            try gateway.entering + [
                program, "line", "--namespace", node.name, "--here", "198.51.100.1", "--there", "198.51.100.2",
                "--megabytes", "32", "--cut", "path0",
            ]
        let (status, output) = try Verifiers.run(
            URL(fileURLWithPath: words[0]), Array(words.dropFirst()) + options)
        try #require(status == 0, "\(output)")
        return try #require(try JSON(parsing: output.split(separator: "\n").last.map(String.init) ?? "").objectValue)
    }
}
