import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// A node whose operator wants to know that the gateway shows everybody the same trail.
@Suite struct WitnessedLeaseTests {
    @Test(
        "a node that asks for a witness takes no lease under a head that the witness has not cosigned",
        .enabled(if: LiveWitness.isAvailable, "aics-witness is not installed"))
    func witnessed() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let witness = try LiveWitness(in: enclave.folder, for: enclave.trail)
            defer { witness.end() }
            let identity = enclave.folder.appendingPathComponent("nodes/campus-1")
            try await enclave.gateway.makeNodeIdentity(
                NodeID("campus-1"), at: identity, by: enclave.operatorPerson)
            let trust = "log \(enclave.trail)\nwitness w1 \(witness.line) \(witness.address)\nquorum w1\n"
            try Data(trust.utf8).write(to: identity.appendingPathComponent("trail.witnesses"))
            try await enclave.startNode("campus-1")

            let grant = try await enclave.grant()
            let unseen = try await enclave.request(grant)
            #expect(try await enclave.finish(unseen) == .closed(.refused))
            let story = try await enclave.sequence(.run(unseen))
            #expect(story.contains("device.leased refused [device.unwitnessed]"), "\(story)")

            #expect(try await enclave.nodeStates() == ["free"])
            let list = enclave.folder.appendingPathComponent("witnesses")
            try Data(trust.utf8).write(to: list)
            _ = try await enclave.gateway.setWitnesses(list, by: enclave.operatorPerson)
            let seen = try await enclave.request(grant, id: "run-2")
            let end = try await enclave.finish(seen)
            let path = try await enclave.sequence(.run(seen))
            #expect(end == .closed(.released), "\(path)")
        }
    }

    @Test("a node whose file of witnesses is not one does not start")
    func unreadable() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let identity = enclave.folder.appendingPathComponent("nodes/campus-1")
            try await enclave.gateway.makeNodeIdentity(
                NodeID("campus-1"), at: identity, by: enclave.operatorPerson)
            for text in ["", "quorum w1\n", "log nothing\nquorum none\n"] {
                try Data(text.utf8).write(to: identity.appendingPathComponent("trail.witnesses"))
                let node = try StartedProgram(
                    tool: StartedProgram.path(of: "sekisho-node"),
                    ["--identity", identity.path, "--state", enclave.folder.appendingPathComponent("state").path])
                #expect(node.status() == 69 && node.text.contains("trail.witnesses"), "\(node.text)")
            }
        }
    }
}
