import FabricProtocol
import Sealing
import TestSupport
import Testing
import Vocabulary

@Suite struct DeviceKeeperTests {
    /// A host that accepts every receipt and signs nothing.
    private final class Host: KeeperHost {
        var saves: [NodeRecord] = []
        var canSave = true

        func evidence(
            link: UInt64, nonce: [UInt8], lease: LeaseID, fence: Fence
        ) -> (evidence: Evidence, transcript: Digest) {
            (Samples.evidence, SHA256.hash(nonce + [UInt8(truncatingIfNeeded: link)]))
        }

        func check(_ grant: LeaseGrant, fence: Fence, link: UInt64, transcript: Digest) throws(Refusal) {}

        func isProof(_ proof: [UInt8], fence: Fence, transcript: Digest) -> Bool { proof == Samples.bytes(32) }

        func save(_ record: NodeRecord) -> Bool {
            guard canSave else { return false }
            saves.append(record)
            return true
        }
    }

    private static let ttl: UInt64 = 3_000_000_000

    private static func frame(_ request: UInt64, _ fence: UInt64, _ message: ControlMessage) -> ControlFrame {
        ControlFrame(request: request, fence: Fence(fence), message: message)
    }

    private static func certificate(_ fence: UInt64, _ cause: ScrubCertificate.Cause) -> ScrubCertificate {
        ScrubCertificate(
            node: Samples.node, run: Samples.run, lease: Samples.lease, fence: Fence(fence), cause: cause,
            deviceBytes: 1 << 20, seed: Samples.bytes(32), nonce: Samples.bytes(32), proof: Samples.digest(1),
            agent: Samples.digest(2), signedBy: SigningKey.generate())
    }

    private func keeper() -> DeviceKeeper {
        DeviceKeeper(
            DeviceKeeper.Offer(node: Samples.node, deviceBytes: 1 << 20, threads: 2), record: NodeRecord())
    }

    private static func grant(_ fence: UInt64) -> LeaseGrant {
        LeaseGrant(
            lease: Samples.lease, run: Samples.run, attempt: 1, ttlMilliseconds: 3000, lanes: 2, deviceBytes: 1 << 20,
            receipt: [1], wrappedRunKey: Samples.bytes(80))
    }

    /// A keeper whose device is held under a fence, by link 1.
    private func held(_ fence: UInt64, _ host: Host) -> DeviceKeeper {
        var keeper = keeper()
        _ = keeper.received(
            Self.frame(1, fence, .attest(nonce: Samples.bytes(32), lease: Samples.lease)), from: 1, now: 0, host: host)
        _ = keeper.received(Self.frame(2, fence, .leaseGrant(Self.grant(fence))), from: 1, now: 0, host: host)
        #expect(answers(keeper.began(true, now: 0, host: host)) == [.done])
        return keeper
    }

    private func answers(_ outputs: [DeviceKeeper.Output]) -> [ControlMessage] {
        outputs.compactMap { output in
            if case .send(_, let frame) = output { frame.message } else { nil }
        }
    }

    @Test("of 1,000,000 frames below the highest fence none is accepted", arguments: [UInt64(91)])
    func staleFrames(seed: UInt64) {
        let host = Host()
        var keeper = held(9, host)
        let saves = host.saves.count
        var random = SeededRandom(seed: seed)
        let messages = Samples.messages.filter { $0 != .hello }
        var accepted = 0
        for round in 0..<1_000_000 {
            let frame = Self.frame(
                random.next() % 8, UInt64.random(in: 0..<9, using: &random), messages[round % messages.count])
            let outputs = keeper.received(frame, from: random.next() % 3, now: 0, host: host)
            if answers(outputs) != [.error(Refusal(.staleFence))] || outputs.count != 2 { accepted += 1 }
        }
        #expect(accepted == 0, "seed \(seed)")
        #expect(host.saves.count == saves && keeper.deadline == Self.ttl)
    }

    @Test("frames of any fence from links that do not hold the lease change nothing of it", arguments: [UInt64(92)])
    func foreignFrames(seed: UInt64) {
        let host = Host()
        var keeper = held(9, host)
        var random = SeededRandom(seed: seed)
        let messages = Samples.messages.filter { message in
            // This host takes any proof: who shows one goes on with the lease.
            if case .leaseResume = message { false } else { true }
        }
        for round in 0..<100_000 {
            let frame = Self.frame(UInt64(round), 9, messages[round % messages.count])
            _ = keeper.received(frame, from: UInt64.random(in: 2...4, using: &random), now: 0, host: host)
        }
        #expect(keeper.lanesAllowed?.link == 1 && keeper.deadline == Self.ttl, "seed \(seed)")
    }

    @Test("a lease outlives its link until its time is over, and only who was granted it comes back")
    func resumption() {
        let host = Host()
        var keeper = held(9, host)
        keeper.unlinked(1)
        #expect(keeper.tick(now: Self.ttl - 1).isEmpty)
        let attest = ControlMessage.attest(nonce: Samples.bytes(32), lease: Samples.lease)
        // Another lease under the same fence, and the right one without its proof.
        var outputs = keeper.received(
            Self.frame(1, 9, .attest(nonce: Samples.bytes(32), lease: try! LeaseID("other"))), from: 2, now: 1,
            host: host)
        #expect(answers(outputs) == [.error(Refusal(.staleFence))])
        outputs = keeper.received(Self.frame(2, 9, attest), from: 2, now: 1, host: host)
        #expect(answers(outputs) == [.evidence(Samples.evidence)])
        outputs = keeper.received(
            Self.frame(3, 9, .leaseResume(proof: [UInt8](repeating: 0, count: 32))), from: 2, now: 1, host: host)
        #expect(answers(outputs) == [.error(Refusal(.proof))])
        // An attestation is good for one try.
        outputs = keeper.received(Self.frame(4, 9, .leaseResume(proof: Samples.bytes(32))), from: 2, now: 1, host: host)
        #expect(answers(outputs) == [.error(Refusal(.order))])
        _ = keeper.received(Self.frame(5, 9, attest), from: 2, now: 1, host: host)
        outputs = keeper.received(Self.frame(6, 9, .leaseResume(proof: Samples.bytes(32))), from: 2, now: 1, host: host)
        #expect(answers(outputs) == [.done])
        #expect(keeper.lanesAllowed?.link == 2 && keeper.deadline == 1 + Self.ttl)
        // The old link holds nothing any more.
        outputs = keeper.received(Self.frame(7, 9, .leaseRenew), from: 1, now: 2, host: host)
        #expect(answers(outputs) == [.error(Refusal(.noLease))])
        outputs = keeper.tick(now: 1 + Self.ttl)
        guard case .scrub(_, Fence(9), .expiry, _)? = outputs.first else {
            Issue.record("the lease did not expire")
            return
        }
    }

    @Test("a request that is asked again over another link is answered again and not done again")
    func repeated() {
        let host = Host()
        var keeper = held(9, host)
        let map = Self.frame(10, 9, .windowMap(Samples.table))
        let load = Self.frame(11, 9, .programLoad([1]))
        #expect(answers(keeper.received(map, from: 1, now: 0, host: host)) == [.done])
        #expect(answers(keeper.received(map, from: 1, now: 0, host: host)) == [.done])
        #expect(keeper.received(load, from: 1, now: 0, host: host).count == 1)
        #expect(keeper.received(load, from: 1, now: 0, host: host).isEmpty)
        #expect(answers(keeper.loaded(Fence(9), 11, .programLoaded(3))) == [.programLoaded(3)])
        #expect(answers(keeper.received(load, from: 1, now: 0, host: host)) == [.programLoaded(3)])
        // A new number is a new request; one that was never seen but is older than others is nobody's.
        let again = Self.frame(12, 9, .windowMap(Samples.table))
        #expect(
            answers(keeper.received(again, from: 1, now: 0, host: host)) == [.error(Refusal(.windowTable, index: 1))])
        #expect(
            answers(keeper.received(again, from: 1, now: 0, host: host)) == [.error(Refusal(.windowTable, index: 1))])
        #expect(
            answers(keeper.received(Self.frame(5, 9, .programLoad([1])), from: 1, now: 0, host: host))
                == [.error(Refusal(.order))])
        func ring(_ request: UInt64, _ transaction: UInt64) -> [DeviceKeeper.Output] {
            keeper.received(
                Self.frame(request, 9, .doorbell(program: 3, transaction: transaction, arguments: [])), from: 1, now: 0,
                host: host)
        }
        #expect(ring(13, 1).count == 1)
        #expect(ring(13, 1).isEmpty)
        #expect(
            answers(keeper.ran(Fence(9), 1, .complete(transaction: 1, result: [7]))) == [
                .complete(transaction: 1, result: [7])
            ])
        #expect(answers(ring(13, 1)) == [.complete(transaction: 1, result: [7])])
        #expect(keeper.ran(Fence(9), 1, .complete(transaction: 1, result: [8])).isEmpty)
    }

    @Test("work that ends after its lease went over to another link is answered when it is asked for there, once")
    func answeredWhereAsked() {
        let host = Host()
        var keeper = held(9, host)
        let bell = ControlMessage.doorbell(program: 3, transaction: 1, arguments: [])
        let done = ControlMessage.complete(transaction: 1, result: [7])
        _ = keeper.received(Self.frame(10, 9, .programLoad([1])), from: 1, now: 0, host: host)
        _ = keeper.loaded(Fence(9), 10, .programLoaded(3))
        #expect(keeper.received(Self.frame(11, 9, bell), from: 1, now: 0, host: host).count == 1)
        keeper.unlinked(1)
        let attest = ControlMessage.attest(nonce: Samples.bytes(32), lease: Samples.lease)
        _ = keeper.received(Self.frame(12, 9, attest), from: 2, now: 0, host: host)
        let resume = Self.frame(13, 9, .leaseResume(proof: Samples.bytes(32)))
        #expect(answers(keeper.received(resume, from: 2, now: 0, host: host)) == [.done])
        // Under another fence it is another lease's work.
        #expect(keeper.ran(Fence(8), 1, .complete(transaction: 1, result: [6])).isEmpty)
        #expect(keeper.ran(Fence(9), 1, done).isEmpty)
        #expect(answers(keeper.received(Self.frame(11, 9, bell), from: 2, now: 0, host: host)) == [done])
    }

    @Test("no lease without a durable fence, and no free device without a durable certificate")
    func storage() {
        let host = Host()
        var keeper = keeper()
        host.canSave = false
        _ = keeper.received(
            Self.frame(1, 3, .attest(nonce: Samples.bytes(32), lease: Samples.lease)), from: 1, now: 0, host: host)
        let outputs = keeper.received(Self.frame(2, 3, .leaseGrant(Self.grant(3))), from: 1, now: 0, host: host)
        #expect(answers(outputs) == [.error(Refusal(.storage))])
        #expect(keeper.record.fenceHighest == Fence(0))
        host.canSave = true
        keeper = held(4, host)
        _ = keeper.tick(now: Self.ttl)
        host.canSave = false
        _ = keeper.scrubbed(Self.certificate(4, .expiry), now: Self.ttl, host: host)
        #expect(!keeper.isFree && !keeper.isBusy)
    }
}
