import Foundation
import GraphVault
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

@Suite("What a run makes waits in the vault and leaves only by a recorded decision")
struct CandidateTests {
    private let artefacts: [(name: String, bytes: [UInt8])] = [
        ("weights.bin", (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }), ("metrics.json", Array("{}".utf8)),
        ("empty", []),
    ]

    @Test("what is taken is byte for byte what was stored, also after a restart")
    func taken() async throws {
        try await withTemporaryFolder { folder in
            let trail = try TestTrail()
            var hash: Digest?
            do {
                let vault = try GraphVault.create(at: folder.path, unsealing: keyFile())
                let candidate = try await vault.storeCandidate(run: run1, artefacts: artefacts)
                #expect(candidate.artefacts.map(\.name) == artefacts.map(\.name))
                #expect(candidate.artefacts.map(\.byteCount) == artefacts.map(\.bytes.count))
                hash = candidate.hash
            }
            let vault = try GraphVault.open(at: folder.path, unsealing: keyFile())
            #expect(vault.findings.isEmpty)
            #expect(try await vault.candidate(run: run1).hash == hash)
            // Stored again by a gateway that did not know whether it had.
            #expect(try await vault.storeCandidate(run: run1, artefacts: artefacts).hash == hash)
            let taken = try await vault.takeRelease(
                run: run1, receipt: trail.release(run1, candidate: hash!), trail: trail.identity)
            #expect(taken.map(\.name) == artefacts.map(\.name) && taken.map(\.bytes) == artefacts.map(\.bytes))
        }
    }

    @Test("no other receipt lets anything out")
    func refused() async throws {
        try await withTemporaryFolder { folder in
            let trail = try TestTrail()
            let vault = try GraphVault.create(at: folder.path, unsealing: keyFile())
            let candidate = try await vault.storeCandidate(run: run1, artefacts: artefacts)
            let other = try await vault.storeCandidate(run: RunID("run-2"), artefacts: artefacts)
            #expect(candidate.hash != other.hash)
            var wrong = [
                try trail.release(run1, candidate: other.hash),
                try trail.release(RunID("run-2"), candidate: candidate.hash),
                try TestTrail().release(run1, candidate: candidate.hash),
            ]
            for (event, decision) in [("release.decided", "refuse"), ("run.decided", "permit")] as [(JSON, JSON)] {
                wrong.append(
                    try trail.receipt([
                        "event": event, "decision": decision, "run": "run-1",
                        "detail": ["candidate": .string(candidate.hash.hex)],
                    ]))
            }
            for receipt in wrong {
                let error = await refusal {
                    _ = try await vault.takeRelease(run: run1, receipt: receipt, trail: trail.identity)
                }
                #expect(error?.code == .receiptRefused)
            }
        }
    }

    @Test("a run has one candidate, and its artefacts have names of their own")
    func names() async throws {
        try await withTemporaryFolder { folder in
            let vault = try GraphVault.create(at: folder.path, unsealing: keyFile())
            for bad in [[], [("a", [1]), ("a", [2])], [("../a", [1])], [("", [1])]] as [[(String, [UInt8])]] {
                let error = await refusal {
                    _ = try await vault.storeCandidate(run: run1, artefacts: bad.map { (name: $0.0, bytes: $0.1) })
                }
                #expect(error?.code == .badArtefact)
            }
            _ = try await vault.storeCandidate(run: run1, artefacts: artefacts)
            let other = await refusal { _ = try await vault.storeCandidate(run: run1, artefacts: [("a", [1])]) }
            #expect(other?.code == .exists)
            try await vault.destroyCandidate(run: run1)
            #expect(await refusal { _ = try await vault.candidate(run: run1) }?.code == .destroyed)
            #expect(await refusal { _ = try await vault.candidate(run: RunID("run-2")) }?.code == .unknownCandidate)
        }
    }

    @Test("an artefact that was changed on disk is not let out")
    func tampered() async throws {
        try await withTemporaryFolder { folder in
            let trail = try TestTrail()
            let vault = try GraphVault.create(at: folder.path, unsealing: keyFile())
            let candidate = try await vault.storeCandidate(run: run1, artefacts: artefacts)
            let file = folder.appendingPathComponent("candidates/run-1/section-1.sealed")
            var bytes = try [UInt8](Data(contentsOf: file))
            bytes[70_000] ^= 1
            try Data(bytes).write(to: file)
            let receipt = try trail.release(run1, candidate: candidate.hash)
            let error = await refusal {
                _ = try await vault.takeRelease(run: run1, receipt: receipt, trail: trail.identity)
            }
            #expect(error?.code == .tampered)
        }
    }
}
