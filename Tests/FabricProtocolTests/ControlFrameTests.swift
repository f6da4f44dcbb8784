import FabricProtocol
import Sealing
import TestSupport
import Testing
import Vocabulary

@Suite struct ControlFrameTests {
    @Test("every message survives its encoding", arguments: Samples.frames)
    func roundTrip(frame: ControlFrame) throws {
        #expect(try ControlFrame(parsing: Samples.body(frame)) == frame)
    }

    @Test("the samples cover every operation")
    func coverage() {
        #expect(Set(Samples.frames.map(\.message.operation)) == Set(ControlOperation.allCases))
    }

    @Test("every truncation of every message is refused, with its position", arguments: Samples.frames)
    func truncated(frame: ControlFrame) {
        let body = Samples.body(frame)
        for count in 0..<body.count {
            do throws(FrameError) {
                _ = try ControlFrame(parsing: Array(body[..<count]))
                Issue.record("\(count) of \(body.count) bytes were accepted")
            } catch {
                #expect(error.position <= count)
            }
        }
    }

    @Test("a byte after any message is refused", arguments: Samples.frames)
    func trailing(frame: ControlFrame) {
        let body = Samples.body(frame) + [0]
        #expect(throws: FrameError.self) { try ControlFrame(parsing: body) }
    }

    @Test("unknown versions, operations and flags are refused at their place")
    func unknown() {
        let body = Samples.body(ControlFrame(request: 1, fence: Fence(1), message: .hello))
        for (position, value) in [(0, 2), (1, 0), (1, 23), (1, 255), (2, 1), (3, 1)] {
            var changed = body
            changed[position] = UInt8(value)
            do throws(FrameError) {
                _ = try ControlFrame(parsing: changed)
                Issue.record("byte \(position) = \(value) was accepted")
            } catch {
                #expect(error.position == min(position, 2))
            }
        }
    }

    @Test("a length that no frame can have is refused before anything is read", arguments: [0, 19, 0xFFFF_FFFF])
    func lengths(count: UInt32) {
        var writer = WireWriter()
        writer.integer(count)
        let prefix = writer.bytes
        #expect(throws: FrameError.self) { try ControlFrame.byteCount(prefix: prefix) }
    }

    @Test("100,000 mutations are refused or are a frame's only encoding", arguments: [UInt64(2026)])
    func fuzz(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let bodies = Samples.frames.map(Samples.body).filter { $0.count < 4096 }
        var refused = 0
        for round in 0..<100_000 {
            let body = random.mutation(of: bodies[Int.random(in: bodies.indices, using: &random)])
            do throws(FrameError) {
                let frame = try ControlFrame(parsing: body)
                #expect(Samples.body(frame) == body, "seed \(seed), round \(round)")
            } catch {
                refused += 1
                #expect((0...body.count).contains(error.position), "seed \(seed), round \(round)")
            }
        }
        #expect(refused > 10_000)
    }

    @Test("fields out of their range are refused")
    func ranges() {
        let good = LeaseGrant(
            lease: Samples.lease, run: Samples.run, attempt: 1, ttlMilliseconds: 3000, lanes: 2, deviceBytes: 1 << 20,
            receipt: [1], wrappedRunKey: Samples.bytes(80))
        func refuses(_ ttl: UInt32, _ deviceBytes: UInt64, _ receipt: Int, lanes: UInt8 = 2) -> Bool {
            let grant = LeaseGrant(
                lease: good.lease, run: good.run, attempt: 1, ttlMilliseconds: ttl, lanes: lanes,
                deviceBytes: deviceBytes,
                receipt: Samples.bytes(receipt), wrappedRunKey: good.wrappedRunKey)
            let body = Samples.body(ControlFrame(request: 1, fence: Fence(1), message: .leaseGrant(grant)))
            return (try? ControlFrame(parsing: body)) == nil
        }
        #expect(!refuses(3000, 1 << 20, 1))
        #expect(refuses(99, 1 << 20, 1) && refuses(600_001, 1 << 20, 1))
        #expect(refuses(3000, 4096, 1) && refuses(3000, 1 << 45, 1) && refuses(3000, 1 << 20 + 1, 1))
        #expect(refuses(3000, 1 << 20, LeaseGrant.receiptBytesMax + 1))
        #expect(refuses(3000, 1 << 20, 1, lanes: 0) && refuses(3000, 1 << 20, 1, lanes: 5))
    }
}

/// One frame of each kind.
enum Samples {
    static let node = try! NodeID("node-1")
    static let run = try! RunID("run-1")
    static let lease = try! LeaseID("lease-1")
    static func bytes(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ 3) } }
    static func digest(_ byte: UInt8) -> Digest { Digest([UInt8](repeating: byte, count: 32))! }
    static let wrappingKey = WrappingKey.generate().publicKey

    static let evidence = Evidence(
        node: node, level: .software, deviceBytes: 1 << 20, wrappingKey: wrappingKey,
        measurements: [
            Measurement(name: "agent", digest: digest(1)), Measurement(name: "configuration", digest: digest(2)),
        ], signature: bytes(64))

    static let certificate = ScrubCertificate(
        node: node, run: run, lease: lease, fence: Fence(7), cause: .gateway, deviceBytes: 1 << 20, seed: bytes(32),
        nonce: bytes(32), proof: digest(3), agent: digest(1), signedBy: SigningKey.generate())

    static let table = try! WindowTable([
        Window(id: 1, direction: .read, purpose: .image(.columns), byteCount: 70_000),
        Window(id: 2, direction: .both, purpose: .spill, byteCount: 65_552 * 3),
        Window(id: 9, direction: .write, purpose: .result, byteCount: 100, lifetimeMilliseconds: 50),
        Window(id: 10, direction: .read, purpose: .state, byteCount: 100),
    ])

    static let messages: [ControlMessage] = [
        .hello,
        .welcome(Welcome(node: node, deviceBytes: 1 << 20, threads: 2, fenceHighest: Fence(6), lastScrub: certificate)),
        .welcome(Welcome(node: node, deviceBytes: 1 << 20, threads: 2, fenceHighest: Fence(0), lastScrub: nil)),
        .attest(nonce: bytes(32), lease: lease),
        .evidence(evidence),
        .leaseGrant(
            LeaseGrant(
                lease: lease, run: run, attempt: 2, ttlMilliseconds: 3000, lanes: 4, deviceBytes: 1 << 20,
                receipt: bytes(100), wrappedRunKey: bytes(80))),
        .leaseRenew, .leaseRevoke, .leaseResume(proof: bytes(32)),
        .windowMap(table), .windowUnmap([1, 2, 9]),
        .programLoad(bytes(200)), .programLoaded(3),
        .doorbell(program: 3, transaction: 4, arguments: bytes(20)), .complete(transaction: 4, result: bytes(9)),
        .scrubBegin(seed: bytes(32)), .scrubFilled, .scrubChallenge(nonce: bytes(32)), .scrubProof(certificate),
        .ping(bytes(5)), .pong, .done, .error(Refusal(.outsideWindow, index: 4)),
    ]

    static let frames = messages.map { ControlFrame(request: 5, fence: Fence(8), message: $0) }

    /// A frame without its length field.
    static func body(_ frame: ControlFrame) -> [UInt8] { Array(frame.encoded[ControlFrame.prefixBytes...]) }
}

extension SeededRandom {
    /// The bytes with one to four of them changed, put in or taken out.
    mutating func mutation(of bytes: [UInt8]) -> [UInt8] {
        var bytes = bytes
        for _ in 0..<Int.random(in: 1...4, using: &self) {
            switch Int.random(in: 0..<6, using: &self) {
            case 0 where !bytes.isEmpty: bytes.remove(at: Int.random(in: bytes.indices, using: &self))
            case 1:
                bytes.insert(UInt8.random(in: 0...255, using: &self), at: Int.random(in: 0...bytes.count, using: &self))
            case 2 where !bytes.isEmpty: bytes.removeLast(Int.random(in: 1...bytes.count, using: &self))
            default:
                guard let at = bytes.indices.randomElement(using: &self) else { continue }
                bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &self)
            }
        }
        return bytes
    }
}
