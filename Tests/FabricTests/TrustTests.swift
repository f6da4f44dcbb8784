import DeviceNode
import FabricProtocol
import FabricTransport
import Foundation
import GPUFabric
import Sealing
import TestSupport
import Testing
import Vocabulary

@Suite struct TrustTests {
    @Test("a gateway of another authority is refused")
    func otherGateway() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let other = try CertificateAuthority.create(
                in: bench.folder + "/other-ca", sealing: Bench.sealing, now: .system)
            try other.issueGateway(
                into: bench.folder + "/other-gateway", sealing: Bench.sealing, now: .system)
            // It even has the right authority's certificate to check the node with.
            try FileManager.default.removeItem(atPath: bench.folder + "/other-gateway/ca.pem")
            try FileManager.default.copyItem(
                atPath: bench.folder + "/gateway/ca.pem", toPath: bench.folder + "/other-gateway/ca.pem")
            let fabric = try bench.fabric(enrolment, port: port, gateway: "other-gateway")
            await #expect(throws: FabricError.self) {
                try await fabric.attest(enrolment.node, lease: bench.lease(1), fence: Fence(1))
            }
            #expect(fabric.nodes.map(\.state) == [.absent])
        }
    }

    @Test("a node cannot play a gateway to another node: its certificate has the wrong purpose")
    func nodeAsGateway() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            _ = try bench.enrol("node-2")
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let folder = bench.folder + "/node-2"
            try FileManager.default.copyItem(atPath: folder + "/node.pem", toPath: folder + "/gateway.pem")
            let key = Array(try Data(contentsOf: URL(fileURLWithPath: folder + "/node.key")))
            let sealed = SmallCipher.sealSecret(
                SecretBytes(copying: key), key: Bench.sealing, aad: Array("gateway.key.sealed".utf8))
            try Data(sealed).write(to: URL(fileURLWithPath: folder + "/gateway.key.sealed"))
            let fabric = try bench.fabric(enrolment, port: port, gateway: "node-2")
            await #expect(throws: FabricError.self) {
                try await fabric.attest(enrolment.node, lease: bench.lease(1), fence: Fence(1))
            }
        }
    }

    /// A node that presents a certificate which is not the enrolled one, or not any more.
    enum WrongNode: CaseIterable { case otherAuthority, expired, otherNode }

    @Test("a node with a wrong certificate is refused", arguments: WrongNode.allCases)
    func nodes(wrong: WrongNode) async throws {
        try await withBench { bench in
            let expected = try bench.enrol()
            let enrolment: NodeEnrolment
            switch wrong {
            case .otherAuthority:
                let other = try CertificateAuthority.create(
                    in: bench.folder + "/other-ca", sealing: Bench.sealing, now: .system)
                enrolment = try bench.enrol("node-2", authority: other)
                try FileManager.default.removeItem(atPath: bench.folder + "/node-2/ca.pem")
                try FileManager.default.copyItem(
                    atPath: bench.folder + "/gateway/ca.pem", toPath: bench.folder + "/node-2/ca.pem")
            case .expired: enrolment = try bench.enrol("node-2", validSeconds: -10)
            case .otherNode: enrolment = try bench.enrol("node-2")
            }
            let (agent, port) = try bench.agent("node-2")
            defer { agent.shutdown() }
            let fabric = try bench.fabric(wrong == .otherNode ? expected : enrolment, port: port)
            do {
                _ = try await fabric.attest(fabric.nodes[0].node.id, lease: bench.lease(1), fence: Fence(1))
                Issue.record("the node was accepted")
            } catch let error as FabricError {
                #expect(error.code == .untrustedPeer)
            }
        }
    }

    @Test("an agent that is not on the allow-list is quarantined, and the record names the measurement")
    func measurement() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let good = try bench.policy()
            var allowed = good.allowed
            allowed["configuration"] = [SHA256.hash([1])]
            let fabric = try bench.fabric(
                enrolment, port: port, policy: AttestationPolicy(leastLevel: .software, allowed: allowed))
            do {
                _ = try await fabric.attest(enrolment.node, lease: bench.lease(1), fence: Fence(1))
                Issue.record("the evidence was accepted")
            } catch let error as FabricError {
                #expect(error.code == .evidence && error.index == 1)
            }
            #expect(fabric.nodes.first?.quarantine?.index == 1)
            // Another attestation under the same list does not bring it back; under a corrected one it does.
            await #expect(throws: FabricError.self) { try await fabric.reinstate(enrolment.node) }
            let corrected = try bench.fabric(enrolment, port: port, policy: good)
            #expect(corrected.nodes.first?.state == .quarantined)
            #expect(try await corrected.reinstate(enrolment.node) == nil)
            #expect(corrected.nodes.first?.state == .free)
        }
    }

    @Test("what another node may run does not count for this one")
    func measurementsOfAnotherNode() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let other = try bench.enrol("node-2")
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            var allowed = try bench.policy().allowed
            allowed["configuration"] = [SHA256.hash([1])]
            let fabric = try Fabric(
                nodes: [
                    FabricNode(
                        enrolment: enrolment, address: NodeAddress(host: "127.0.0.1", port: port), pool: "test",
                        policy: AttestationPolicy(leastLevel: .software, allowed: allowed)),
                    FabricNode(
                        enrolment: other, address: NodeAddress(host: "127.0.0.1", port: port), pool: "test",
                        policy: try bench.policy()),
                ],
                identity: try bench.gatewayIdentity(), quarantineFile: bench.folder + "/two.quarantine",
                clock: bench.clock)
            let error = await #expect(throws: FabricError.self) {
                _ = try await fabric.attest(enrolment.node, lease: bench.lease(1), fence: Fence(1))
            }
            #expect(error?.code == .evidence)
        }
    }

    @Test("the private keys of authority and gateway lie sealed, and open with their home's key only")
    func keysAreSealed() async throws {
        try await withBench { bench in
            for file in ["ca/ca.key.sealed", "gateway/gateway.key.sealed"] {
                let bytes = try Data(contentsOf: URL(fileURLWithPath: bench.folder + "/" + file))
                #expect(bytes.range(of: Data("PRIVATE KEY".utf8)) == nil)
            }
            let other = SecretBytes(copying: [UInt8](repeating: 8, count: 32))
            do {
                _ = try GatewayIdentity.load(folder: bench.folder + "/gateway", sealing: other)
                Issue.record("another key opened it")
            } catch let error as FabricError { #expect(error.code == .storage) }
            do {
                _ = try CertificateAuthority(folder: bench.folder + "/ca", sealing: other)
                Issue.record("another key opened it")
            } catch let error as FabricError { #expect(error.code == .storage) }
        }
    }

    @Test("software evidence does not do where a policy asks for a TPM's")
    func level() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let policy = AttestationPolicy(leastLevel: .tpm, allowed: try bench.policy().allowed)
            let fabric = try bench.fabric(enrolment, port: port, policy: policy)
            do {
                _ = try await fabric.attest(enrolment.node, lease: bench.lease(1), fence: Fence(1))
                Issue.record("the evidence was accepted")
            } catch let error as FabricError {
                #expect(error.code == .evidence)
            }
        }
    }

    @Test("a relay with the node's stolen TLS key and a gateway's certificate cannot pass its evidence on")
    func relay() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            let listener = try Listener(host: "127.0.0.1", port: 0)
            let node = try NodeIdentity(folder: bench.folder + "/node-1")
            let gateway = try bench.gatewayIdentity()
            startThread {
                guard let socket = try? listener.accept(),
                    let near = try? ControlConnection(socket, tls: node.tls, milliseconds: 10_000),
                    let far = try? ControlConnection.connect(
                        NodeAddress(host: "127.0.0.1", port: port), tls: gateway, milliseconds: 10_000)
                else { return }
                while let frame = try? near.receive(milliseconds: 10_000), (try? far.send(frame)) != nil,
                    let answer = try? far.receive(milliseconds: 10_000), (try? near.send(answer)) != nil
                {}
            }
            let fabric = try bench.fabric(enrolment, port: listener.port)
            do {
                _ = try await fabric.attest(enrolment.node, lease: bench.lease(1), fence: Fence(1))
                Issue.record("the relayed evidence was accepted")
            } catch let error as FabricError {
                #expect(error.code == .evidence && error.index == nil)
            }
            #expect(fabric.nodes.first?.state == .quarantined)
            listener.close()
        }
    }

    @Test("bytes that are neither TLS nor a lane end the connection and nothing else")
    func noise() async throws {
        try await withBench { bench in
            let enrolment = try bench.enrol()
            let (agent, port) = try bench.agent()
            defer { agent.shutdown() }
            for opening in [
                [UInt8](repeating: 0, count: 100), Array("GET / HTTP/1.1\r\n\r\n".utf8), [0x16, 3, 1, 255, 255],
                Lane.Opening(lane: 0, serial: 1, token: RandomBytes.array(32)).bytes, [0x53, 1, 2],
            ] {
                let socket = try Socket.connect(host: "127.0.0.1", port: port, milliseconds: 10_000)
                try socket.writeAll(opening)
                socket.close()
            }
            let fabric = try bench.fabric(enrolment, port: port)
            _ = try await bench.attach(fabric, enrolment.node, fence: 1).scrub()
        }
    }
}
