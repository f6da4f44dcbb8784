import Confinement
import FabricProtocol
import Foundation
import GPUFabric
import TestSupport
import Testing
import Vocabulary

/// The daemon as a process of its own, reached only through the fabric.
@Suite struct ProcessTests {
    @Test("a node that is killed during a lease is quarantined, scrubs at its next start, and comes back by that")
    func killed() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let policy = try NodeDaemon.policy(bench)
            let first = try NodeDaemon(bench)
            let fabric = try bench.fabric(enrolment, port: first.port, policy: policy, timing: .impatient)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            first.kill()
            // The renewals notice; whatever is asked fails.
            await #expect(throws: FabricError.self) { try await gpu.scrub() }
            #expect(fabric.nodes.first?.state == .quarantined)

            let second = try NodeDaemon(bench)
            let again = try bench.fabric(enrolment, port: second.port, policy: policy)
            #expect(again.nodes.first?.state == .quarantined)
            let certificate = try await again.reinstate(enrolment.node)
            #expect(certificate?.cause == .restart && certificate?.fence == Fence(1))
            _ = try await bench.attach(again, enrolment.node, fence: 2).scrub()
            #expect(second.end() == 0)
        }
    }

    @Test("a serving node is confined: a filter of system calls, no new rights, no core dumps, its memory locked")
    func confined() async throws {
        try await withBench { bench in
            _ = try bench.enrol()
            let daemon = try NodeDaemon(bench)
            let status = try daemon.kernelFile("status")
            if Sandbox.available.calls { #expect(status.contains("\nSeccomp:\t2\n")) }
            #expect(status.contains("\nNoNewPrivs:\t1\n"))
            #expect(try daemon.kernelFile("limits").contains(#/Max core file size +0 +0 /#))
            // Only where the limit allows it; the daemon says at its start when it could not.
            var limit = rlimit()
            getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
            if limit.rlim_max == rlim_t.max || getuid() == 0 { #expect(!status.contains(#/VmLck:\s+0 kB/#)) }
            #expect(daemon.end() == 0)
        }
    }

    @Test("a node that is asked to end scrubs its lease first and ends well")
    func ended() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let policy = try NodeDaemon.policy(bench)
            let first = try NodeDaemon(bench)
            let fabric = try bench.fabric(enrolment, port: first.port, policy: policy)
            let gpu = try await bench.attach(fabric, enrolment.node, fence: 1)
            #expect(first.end() == 0)
            await #expect(throws: FabricError.self) { try await gpu.scrub() }

            let second = try NodeDaemon(bench)
            let again = try bench.fabric(enrolment, port: second.port, policy: policy)
            #expect(try await again.reinstate(enrolment.node)?.cause == .shutdown)
            #expect(second.end() == 0)
        }
    }
}

final class NodeDaemon {
    private let process = Process()
    let port: UInt16

    /// Starts the daemon and waits for its port.
    init(_ bench: Bench, executable: URL = executable) throws {
        process.executableURL = executable
        process.arguments = Self.arguments(bench)
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
        var line = ""
        while !line.hasSuffix("\n") {
            let data = output.fileHandleForReading.availableData
            guard !data.isEmpty else { break }
            line += String(decoding: data, as: UTF8.self)
        }
        port = try #require(UInt16(line.split(separator: " ").last?.dropLast() ?? ""))
    }

    /// What the daemon itself says it would sign.
    static func policy(_ bench: Bench) throws -> AttestationPolicy {
        let process = Process()
        process.executableURL = executable
        process.arguments = arguments(bench) + ["--measure"]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let bytes = Array(output.fileHandleForReading.readDataToEndOfFile())
        process.waitUntilExit()
        let measured = try JSON(parsing: bytes.filter { $0 != 10 })
        return AttestationPolicy(
            leastLevel: .software,
            allowed: (measured.objectValue ?? [:]).compactMapValues { digest in
                digest.stringValue.flatMap(Digest.init(hex:)).map { [$0] }
            })
    }

    private static func arguments(_ bench: Bench) -> [String] {
        [
            "--identity", bench.folder + "/node-1", "--state", bench.folder + "/daemon-state", "--device-memory",
            "8MiB",
            "--threads", "1",
        ]
    }

    /// Beside the test runner, where the build puts it.
    static var executable: URL {
        let runner = try! FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        return URL(fileURLWithPath: runner).deletingLastPathComponent().appendingPathComponent("sekisho-node")
    }

    /// What the kernel says about the process.
    func kernelFile(_ name: String) throws -> String {
        try String(contentsOfFile: "/proc/\(process.processIdentifier)/\(name)", encoding: .utf8)
    }

    func kill() {
        Foundation.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// Asks the daemon to end; gives its exit status.
    func end() -> Int32 {
        process.terminate()
        process.waitUntilExit()
        return process.terminationStatus
    }

    deinit { if process.isRunning { kill() } }
}
