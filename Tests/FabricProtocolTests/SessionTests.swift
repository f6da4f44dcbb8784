import FabricProtocol
import Sealing
import TestSupport
import Testing
import Vocabulary

@Suite struct NodeLifeTests {
    /// Every step there is; what is not here must be refused.
    private static let steps: [NodeLife.State: [NodeLife.Event: NodeLife.State]] = [
        .absent: [.found: .discovered],
        .discovered: [.challenged: .attesting, .left: .absent],
        .attesting: [.attested: .free, .left: .absent],
        .free: [.challenged: .attesting, .reserved: .reserved, .left: .absent],
        .reserved: [.cancelled: .free, .granted: .locked],
        .locked: [.started: .running, .drained: .draining],
        .running: [.drained: .draining],
        .draining: [.scrubBegan: .scrubbing],
        .scrubbing: [.scrubbed: .free],
        .error: [.quarantined: .quarantined],
        .quarantined: [.failed: .quarantined, .quarantined: .quarantined, .reinstated: .free],
    ]

    @Test("each event in each state does what the table says", arguments: NodeLife.State.allCases)
    func exhaustive(state: NodeLife.State) {
        for event in NodeLife.Event.allCases {
            let expected = Self.steps[state]![event] ?? (event == .failed ? .error : nil)
            #expect(NodeLife.next(state, event) == expected, "\(state) × \(event)")
            var life = NodeLife(state)
            #expect(life.apply(event) == (expected != nil))
            #expect(life.state == expected ?? state)
        }
    }

    @Test("a leased node is free again only through a scrub")
    func onlyByScrub() {
        for state in [NodeLife.State.locked, .running, .draining, .scrubbing, .error, .quarantined] {
            for event in NodeLife.Event.allCases where NodeLife.next(state, event) == .free {
                #expect(event == .scrubbed || event == .reinstated)
            }
        }
    }
}

@Suite struct WindowTests {
    @Test("a window holds whole blocks inside its bytes and nothing else")
    func blocks() {
        let block = UInt64(Limits.sealedBlockBytes)
        let window = Window(id: 1, direction: .read, purpose: .image(.features), byteCount: block * 2 + 100)
        for (offset, length, holds) in [
            (0, block, true), (block, block, true), (0, block * 2, true), (0, block * 2 + 100, true),
            (block * 2, 100, true), (block * 2, 99, false), (block * 2, block, false), (1, block, false),
            (0, block - 1, false), (0, 0, false), (block * 3, block, false), (UInt64.max - block + 1, block, false),
            (0, UInt64.max, false),
        ] {
            #expect(window.holdsBlocks(offset: offset, length: length) == holds, "\(offset) + \(length)")
        }
    }

    @Test("the order of windows does not change the table's hash, any field of them does")
    func hash() throws {
        let first = Window(id: 1, direction: .read, purpose: .image(.columns), byteCount: 1000)
        let second = Window(id: 2, direction: .both, purpose: .spill, byteCount: 1000)
        let hash = try WindowTable([first, second]).hash
        #expect(try WindowTable([second, first]).hash == hash)
        for changed in [
            Window(id: 3, direction: .both, purpose: .spill, byteCount: 1000),
            Window(id: 2, direction: .write, purpose: .result, byteCount: 1000),
            Window(id: 2, direction: .both, purpose: .spill, byteCount: 1001),
            Window(id: 2, direction: .both, purpose: .spill, byteCount: 1000, lifetimeMilliseconds: 1),
        ] {
            #expect(try WindowTable([first, changed]).hash != hash)
        }
    }

    @Test("tables with equal ids, empty windows or an image that can be written are refused")
    func refused() {
        let good = Window(id: 1, direction: .read, purpose: .image(.columns), byteCount: 1000)
        for windows in [
            [good, good],
            [Window(id: 1, direction: .read, purpose: .image(.columns), byteCount: 16)],
            [Window(id: 1, direction: .both, purpose: .image(.columns), byteCount: 1000)],
            [Window(id: 1, direction: .read, purpose: .result, byteCount: 1000)],
            [Window(id: 1, direction: .write, purpose: .state, byteCount: 1000)],
            (0...UInt16(Limits.windowsMax)).map {
                Window(id: $0, direction: .read, purpose: .image(.columns), byteCount: 1000)
            },
        ] {
            #expect(throws: FrameError.self) { try WindowTable(windows) }
        }
    }
}

@Suite struct EvidenceTests {
    private func transcript(
        exporter: UInt8 = 1, client: UInt8 = 2, server: UInt8 = 3, nonce: UInt8 = 4, fence: UInt64 = 5,
        lease: String = "lease-1", claims: Evidence = Samples.evidence
    ) throws -> Digest {
        AttestationTranscript(
            exporter: SecretBytes(copying: [UInt8](repeating: exporter, count: 32)),
            clientCertificate: Samples.digest(client), serverCertificate: Samples.digest(server),
            nonce: [UInt8](repeating: nonce, count: 32), fence: Fence(fence), lease: try LeaseID(lease), claims: claims
        ).hash
    }

    @Test("the transcript changes with everything it must cover")
    func covers() throws {
        let other = Evidence(
            node: Samples.node, level: .software, deviceBytes: 1 << 20, wrappingKey: WrappingKey.generate().publicKey,
            measurements: Samples.evidence.measurements, signature: [])
        let measured = Evidence(
            node: Samples.node, level: .software, deviceBytes: 1 << 20, wrappingKey: Samples.wrappingKey,
            measurements: [Measurement(name: "agent", digest: Samples.digest(9))], signature: [])
        let level = Evidence(
            node: Samples.node, level: .tpm, deviceBytes: 1 << 20, wrappingKey: Samples.wrappingKey,
            measurements: Samples.evidence.measurements, signature: [])
        let all = [
            try transcript(), try transcript(exporter: 9), try transcript(client: 9), try transcript(server: 9),
            try transcript(nonce: 9), try transcript(fence: 9), try transcript(lease: "lease-2"),
            try transcript(claims: other), try transcript(claims: measured), try transcript(claims: level),
        ]
        #expect(Set(all).count == all.count)
    }

    @Test("a policy accepts what it lists and names the index of what it does not")
    func judge() {
        let agent = Samples.digest(1)
        let configuration = Samples.digest(2)
        func finding(_ level: EvidenceLevel, _ allowed: [String: Set<Digest>]) -> AttestationPolicy.Finding {
            AttestationPolicy(leastLevel: level, allowed: allowed).judge(Samples.evidence)
        }
        #expect(finding(.software, ["agent": [agent], "configuration": [configuration]]) == .accepted)
        #expect(finding(.tpm, ["agent": [agent], "configuration": [configuration]]) == .level)
        #expect(finding(.software, ["agent": [agent], "configuration": [agent]]) == .measurement(index: 1))
        #expect(finding(.software, ["agent": [], "configuration": [configuration]]) == .measurement(index: 0))
        #expect(finding(.software, ["agent": [agent]]) == .measurement(index: 1))
        #expect(
            finding(.software, ["agent": [agent], "configuration": [configuration], "driver": [agent]]) == .missing)
    }
}

@Suite struct ScrubTests {
    private static let seed = [UInt8](repeating: 1, count: 32)
    private static let nonce = [UInt8](repeating: 2, count: 32)

    private func filled(_ byteCount: Int, fence: Fence = Fence(3)) -> [UInt8] {
        var memory = [UInt8](repeating: 0xEE, count: byteCount)
        var pattern = ScrubPattern(seed: Self.seed, fence: fence)
        memory.withUnsafeMutableBytes { memory in
            for (index, start) in stride(from: 0, to: byteCount, by: ScrubPattern.blockBytes).enumerated() {
                let end = min(start + ScrubPattern.blockBytes, byteCount)
                pattern.fill(block: index, UnsafeMutableRawBufferPointer(rebasing: memory[start..<end]))
            }
        }
        return memory
    }

    private func proof(_ memory: [UInt8], fence: Fence = Fence(3)) -> Digest {
        var proof = ScrubProof(nonce: Self.nonce, fence: fence)
        memory.withUnsafeBytes { memory in
            for start in stride(from: 0, to: memory.count, by: ScrubPattern.blockBytes) {
                let end = min(start + ScrubPattern.blockBytes, memory.count)
                proof.add(UnsafeRawBufferPointer(rebasing: memory[start..<end]))
            }
        }
        return proof.finish()
    }

    @Test("the proof of filled memory is the one that the gateway computes without it")
    func agrees() {
        let size = 3 * ScrubPattern.blockBytes + 4096
        #expect(
            proof(filled(size))
                == ScrubProof.expected(seed: Self.seed, nonce: Self.nonce, fence: Fence(3), byteCount: size))
    }

    @Test("one bit that was not overwritten changes the proof", arguments: [0, 65_536, 65_535, 200_703])
    func detects(position: Int) {
        var memory = filled(200_704)
        memory[position] ^= 1
        #expect(
            proof(memory)
                != ScrubProof.expected(seed: Self.seed, nonce: Self.nonce, fence: Fence(3), byteCount: 200_704))
    }

    @Test("no byte of the old content stays, and no block repeats")
    func overwrites() {
        let memory = filled(2 * ScrubPattern.blockBytes)
        #expect(memory[..<ScrubPattern.blockBytes] != memory[ScrubPattern.blockBytes...])
        #expect(memory.filter { $0 == 0xEE }.count < memory.count / 128)
    }

    @Test("a certificate is refused when any byte of it is changed")
    func certificate() throws {
        let key = SigningKey.generate()
        let certificate = ScrubCertificate(
            node: Samples.node, run: Samples.run, lease: Samples.lease, fence: Fence(3), cause: .gateway,
            deviceBytes: 200_704, seed: Self.seed, nonce: Self.nonce, proof: proof(filled(200_704)),
            agent: Samples.digest(1), signedBy: key)
        #expect(certificate.isSigned(by: key.verifyingKey) && certificate.isProved)
        #expect(try ScrubCertificate(parsing: certificate.bytes) == certificate)
        for position in certificate.bytes.indices {
            var bytes = certificate.bytes
            bytes[position] ^= 1
            if let changed = try? ScrubCertificate(parsing: bytes) {
                #expect(!changed.isSigned(by: key.verifyingKey), "byte \(position)")
            }
        }
    }
}
