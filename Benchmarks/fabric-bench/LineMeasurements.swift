import FabricProtocol
import FabricTransport
import Foundation
import GPUFabric
import Sealing
import Vocabulary

/// What goes over a line between two network namespaces: one that is shaped, or cut, or one of two.
extension FabricMeasurements {
    struct Line {
        /// Of the node; this process is in the gateway's.
        let namespace: String
        /// The gateway's address, and the node's.
        let here: String
        let there: String
        let isMultipath: Bool
    }

    private func startNode(_ line: Line) throws -> NodeAddress {
        // Over several paths a node is reached at each of its addresses.
        let listening = NodeAddress(
            host: line.isMultipath ? "0.0.0.0" : line.there, port: 0, isMultipath: line.isMultipath)
        let port = try startNode(in: line.namespace, at: listening)
        return NodeAddress(host: line.there, port: port, isMultipath: line.isMultipath)
    }

    /// Goodput of sealed lanes beside that of one plain TCP connection on the same line, in turns.
    func streams(over line: Line) async throws {
        let address = try startNode(line)
        let listener = try Listener(host: line.here, port: 0)
        _ = try start(["peer", "\(line.here):\(listener.port)"], in: line.namespace)
        let raw = try RawClient(listener)
        let gpu = try await attach(try fabric(at: address))
        let program = try await gpu.load(try Program().bytes())
        var (raws, ours): ([Double], [Double]) = ([], [])
        for round in 0..<rounds {
            let plaintext = RandomBytes.array(byteCount)
            let gigabits = Double(byteCount) * 8 / 1e9
            raws.append(gigabits / (try raw.stream(plaintext).seconds))
            let order = try await order(gpu, UInt16(round + 1), plaintext)
            ours.append(gigabits / (try await stream(gpu, program, order, plaintext).seconds))
        }
        raw.close()
        _ = try await gpu.scrub()
        say("line_raw_gbit_per_s", median(raws), String(format: "raw TCP: %.3f Gb/s", median(raws)))
        say("line_gbit_per_s", median(ours), String(format: "sealed lanes: %.3f Gb/s", median(ours)))
    }

    /// Cuts the line in the middle of a stream, for a while or for good, and tells what became of the lease.
    func drill(_ line: Line, cutting device: String, milliseconds: Int?, ttlMilliseconds: Int) async throws {
        let fabric = try fabric(at: try startNode(line), ttlMilliseconds: ttlMilliseconds)
        let gpu = try await attach(fabric)
        let program = try await gpu.load(try Program().bytes())
        let plaintext = RandomBytes.array(byteCount)
        let order = try await order(gpu, 1, plaintext)
        let eighth = UInt64(byteCount / 8)
        let cutter = Task { try await cut(device, when: gpu, hasRead: eighth, milliseconds: milliseconds) }
        var ended = JSON.null
        do {
            _ = try await stream(gpu, program, order, plaintext)
            try await cutter.value
            let certificate = try await gpu.scrub()
            ended = .string("\(certificate.cause)")
        } catch let error as FabricError {
            try await cutter.value
            if milliseconds == nil { try set(device, "up") }
            figures["failure"] = .string(error.code.rawValue)
            // The node's own time is over a little later than the gateway's.
            while ended == .null {
                if let certificate = try? await fabric.reinstate(enrolment.node) {
                    ended = .string("\(certificate.cause)")
                }
            }
        }
        figures["scrubbed"] = ended
        figures["relinks"] = .integer(Int64(gpu.counters.relinks))
        figures["lanes_reopened"] = .integer(Int64(gpu.counters.lanesReopened))
    }
}

private func cut(
    _ device: String, when gpu: RemoteGPU, hasRead bytes: UInt64, milliseconds: Int?
) async throws {
    while gpu.counters.bytesToDevice < bytes { try await Task.sleep(for: .milliseconds(1)) }
    try set(device, "down")
    guard let milliseconds else { return }
    try await Task.sleep(for: .milliseconds(milliseconds))
    try set(device, "up")
}

private func set(_ device: String, _ state: String) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["ip", "link", "set", device, state]
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw CocoaError(.executableNotLoadable) }
}
