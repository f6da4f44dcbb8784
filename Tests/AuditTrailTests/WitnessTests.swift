import AuditTrail
import Sealing
import Synchronization
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

/// A witness as C2SP tlog-witness describes it, in memory; what is wrong with it can be chosen.
final class FakeWitness: WitnessTransport {
    enum Fault: Sendable { case none, away, refuses, otherKey, garbage, cutLine }

    private struct State {
        var size: UInt64 = 0
        var root = Merkle.emptyRoot
        var fault = Fault.none
        var requests = 0
    }

    let name: String
    let log: TrailIdentity
    private let seed = RandomBytes.array(32)
    private let clock: ManualClock
    private let state = Mutex(State())

    init(_ name: String, of log: TrailIdentity, clock: ManualClock) {
        self.name = name
        self.log = log
        self.clock = clock
    }

    /// The verifier line `name+hash+base64(4 ‖ key)`.
    var line: String {
        let key = try! SigningKey(seed: SecretBytes(copying: seed)).verifyingKey
        let hash = SHA256.hash(Array(name.utf8) + [0x0A, 4] + key.bytes).bytes[..<4]
        return "\(name)+\(Hex.encode(hash))+\(base64([4] + key.bytes))"
    }

    var requests: Int { state.withLock { $0.requests } }
    func set(_ fault: Fault) { state.withLock { $0.fault = fault } }

    func post(_ body: [UInt8], to address: String) async throws -> (status: Int, body: [UInt8]) {
        #expect(address == "http://\(name)/add-checkpoint")
        let text = String(decoding: body, as: UTF8.self)
        let parts = text.components(separatedBy: "\n\n", most: 2)
        let lines = parts[0].split(separator: "\n")
        let old = UInt64(lines[0].dropFirst(4))!
        let proof = lines.dropFirst().map { Digest(unbase64(String($0)))! }
        let head = try SignedCheckpoint(parsing: Array(parts[1].utf8), by: log)
        return try state.withLock { state in
            state.requests += 1
            switch state.fault {
            case .away: throw CancellationError()
            case .refuses: return (404, [])
            case .garbage: return (200, [0xFF, 0x0A])
            default: break
            }
            guard old == state.size else { return (409, Array("\(state.size)\n".utf8)) }
            if old > 0 {
                do throws(LogError) {
                    try Merkle.verifyConsistency(
                        oldSize: old, oldRoot: state.root, newSize: head.size, newRoot: head.root, proof: proof)
                } catch { return (422, []) }
            }
            state.size = head.size
            state.root = head.root
            let seconds = UInt64(clock.now().milliseconds / 1000)
            let message = "cosignature/v1\ntime \(seconds)\n\(parts[1].components(separatedBy: "\n\n", most: 2)[0])\n"
            let key =
                state.fault == .otherKey ? SigningKey.generate() : try SigningKey(seed: SecretBytes(copying: seed))
            let time = withUnsafeBytes(of: seconds.bigEndian) { Array($0) }
            let hash = Hex.decode(String(line.split(separator: "+")[1]))!
            let answer = "\u{2014} \(name) \(base64(hash + time + key.sign(Array(message.utf8))))\n"
            return (200, Array(answer.utf8.dropLast(state.fault == .cutLine ? 1 : 0)))
        }
    }
}

extension String {
    /// The parts between separators, at most so many.
    fileprivate func components(separatedBy separator: String, most: Int) -> [String] {
        guard most > 1, let range = firstRange(of: separator) else { return [self] }
        return [String(self[..<range.lowerBound])]
            + String(self[range.upperBound...]).components(separatedBy: separator, most: most - 1)
    }
}

private let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")

func base64(_ bytes: [UInt8]) -> String {
    stride(from: 0, to: bytes.count, by: 3).map { start in
        let part = bytes[start..<min(start + 3, bytes.count)]
        let word = (0..<3).reduce(0) { $0 << 8 | ($1 < part.count ? Int(part[start + $1]) : 0) }
        return String((0..<4).map { $0 <= part.count ? alphabet[word >> (18 - 6 * $0) & 63] : "=" })
    }.joined()
}

func unbase64(_ text: String) -> [UInt8] {
    let digits = text.filter { $0 != "=" }.map { alphabet.firstIndex(of: $0)! }
    var bits = 0
    var word = 0
    var bytes: [UInt8] = []
    for digit in digits {
        word = word << 6 | digit
        bits += 6
        if bits >= 8 {
            bits -= 8
            bytes.append(UInt8(word >> bits & 0xFF))
        }
    }
    return bytes
}

@Suite("Witnesses")
struct WitnessTests {
    private func policy(_ witnesses: [FakeWitness], quorum: String = "all") throws -> WitnessPolicy {
        let lines = witnesses.enumerated().map { "witness w\($0) \($1.line) http://\($1.name)" }
        let names = witnesses.indices.map { "w\($0)" }.joined(separator: " ")
        return try WitnessPolicy(
            parsing: (["log \(witnesses[0].log)"] + lines + ["group all \(quorum) \(names)", "quorum all"])
                .joined(separator: "\n"))
    }

    @Test("a witness cosigns each head that only adds to the one before; a reader who requires it believes those only")
    func cosigns() async throws {
        let world = TrailFixture()
        let trail = try world.create()
        let witness = FakeWitness("w.example", of: world.identity, clock: world.clock)
        let policy = try policy([witness])
        for round in 0..<4 {
            for _ in 0..<(round * 130 + 1) { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
            try trail.publish()
            let plain = try SignedCheckpoint(parsing: world.disk.contents["log/checkpoint"]!, by: world.identity)
            let refusal = #expect(throws: LogError.self) { try policy.check(plain) }
            #expect(refusal?.code == .unwitnessed)
            let (head, answers) = try await trail.cosign(by: policy, over: witness)
            #expect(answers.map(\.outcome) == [.cosigned(Timestamp(milliseconds: 1_790_000_000_000))])
            #expect(try policy.check(head).map(\.witness) == ["w0"] && head.size == trail.size)
            let stored = try SignedCheckpoint(parsing: world.disk.contents["log/checkpoint"]!, by: world.identity)
            #expect(try policy.check(stored).count == 1 && stored.note == head.note)
            #expect(world.disk.contents["log/checkpoints/\(head.size)"] == head.note)
        }
        try world.verify(world.auditor)
        // The cosigned head survives a restart.
        _ = try world.open()
        let stored = try SignedCheckpoint(parsing: world.disk.contents["log/checkpoint"]!, by: world.identity)
        #expect(try policy.check(stored).count == 1)
    }

    @Test("an old copy of disk and anchor, or a fork, gets no cosignature though it has every key of the gateway")
    func rollback() async throws {
        let world = TrailFixture()
        let trail = try world.create()
        for _ in 0..<5 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        try trail.publish()
        let old = world.with(
            disk: MemoryDisk(world.disk.contents), anchor: MemoryDisk(world.anchor.contents))
        let witness = FakeWitness("w.example", of: world.identity, clock: world.clock)
        let policy = try policy([witness])
        for _ in 0..<5 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        let (honest, _) = try await trail.cosign(by: policy, over: witness)
        // The operator restores everything. Its own checks are satisfied.
        let (restored, findings) = try old.open()
        #expect(findings.isEmpty)
        var (head, answers) = try await restored.cosign(by: policy, over: witness)
        #expect(answers.map(\.outcome) == [.sawLonger(honest.size)])
        #expect(throws: LogError.self) { try policy.check(head) }
        // It writes other records until it is longer.
        while restored.size <= honest.size { _ = try restored.record(sampleDecision, in: .gateway) }
        (head, answers) = try await restored.cosign(by: policy, over: witness)
        #expect(answers.map(\.outcome) == [.refused(status: 422)])
        #expect(throws: LogError.self) { try policy.check(head) }
    }

    @Test("a witness that is away, refuses or answers nonsense stops nothing, and cannot be taken for a cosignature")
    func faults() async throws {
        let world = TrailFixture()
        let trail = try world.create()
        let good = FakeWitness("good.example", of: world.identity, clock: world.clock)
        let expected: [(FakeWitness.Fault, WitnessAnswer.Outcome)] = [
            (.away, .unreachable), (.refuses, .refused(status: 404)), (.otherKey, .unusable), (.garbage, .unusable),
            (.cutLine, .unusable),
        ]
        for (fault, outcome) in expected {
            let bad = FakeWitness("bad.example", of: world.identity, clock: world.clock)
            bad.set(fault)
            let both = Both(good, bad)
            _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
            let (head, answers) = try await trail.cosign(by: try policy([bad, good], quorum: "any"), over: both)
            #expect(answers[0].outcome == outcome, "\(fault)")
            #expect(try policy([bad, good], quorum: "1").check(head).map(\.witness) == ["w1"])
            #expect(throws: LogError.self) { try policy([bad, good], quorum: "2").check(head) }
            #expect(bad.requests <= 3)
        }
    }

    private struct Both: WitnessTransport {
        let witnesses: [FakeWitness]
        init(_ witnesses: FakeWitness...) { self.witnesses = witnesses }
        func post(_ body: [UInt8], to address: String) async throws -> (status: Int, body: [UInt8]) {
            try await witnesses.first { address.contains($0.name) }!.post(body, to: address)
        }
    }

    @Test(
        "a trust file is refused by its line",
        arguments: [
            ("log nonsense", "line 1"), ("quorum none\nquorum none", "line 2"), ("quorum x", "line 1"),
            ("witness a b c d e", "line 1"), ("# fine\nsomething else", "line 2"), ("", "names a log"),
            ("group g 1 x", "line 1"), ("quorum none", "names a log"),
        ])
    func refused(text: String, place: String) {
        let error = #expect(throws: LogError.self) { try WitnessPolicy(parsing: text) }
        #expect(error?.publicDescription.contains(place) == true)
    }

    @Test("groups of groups count as they say; names and keys are there once")
    func groups() async throws {
        let world = TrailFixture()
        let trail = try world.create()
        let witnesses = (0..<4).map { FakeWitness("w\($0).example", of: world.identity, clock: world.clock) }
        let lines = witnesses.enumerated().map { "witness w\($0) \($1.line) http://\($1.name)" }
        let text =
            (["log \(world.identity)"] + lines + [
                "group a any w0 w1", "group b all w2 w3", "group c 2 a b w3", "quorum c",
            ]).joined(separator: "\n")
        let policy = try WitnessPolicy(parsing: text)
        // w2 and w3 make b; b and w3 are two of c.
        for away in [0, 1] { witnesses[away].set(.away) }
        let both = All(witnesses)
        _ = try policy.check(try await trail.cosign(by: policy, over: both).head)
        witnesses[2].set(.away)
        _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
        let head = try await trail.cosign(by: policy, over: both).head
        #expect(throws: LogError.self) { try policy.check(head) }
        for extra in [
            "witness w0 \(witnesses[0].line)", "witness w9 \(witnesses[0].line)", "group a any w0",
            "group d 3 w0 w1", "group d 0 w0", "group d any w0 w0", "group d any later",
        ] {
            #expect(throws: LogError.self, "\(extra)") { try WitnessPolicy(parsing: text + "\n" + extra) }
        }
    }

    private struct All: WitnessTransport {
        let witnesses: [FakeWitness]
        init(_ witnesses: [FakeWitness]) { self.witnesses = witnesses }
        func post(_ body: [UInt8], to address: String) async throws -> (status: Int, body: [UInt8]) {
            try await witnesses.first { address.contains($0.name) }!.post(body, to: address)
        }
    }

    @Test(
        "no change of a trust file's bytes makes it trap, nor gives another quorum for the same keys", arguments: 1...3)
    func fuzzed(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let world = TrailFixture()
        let witness = FakeWitness("w.example", of: world.identity, clock: world.clock)
        let text = "log \(world.identity)\nwitness w0 \(witness.line) http://w.example\ngroup g all w0\nquorum g\n"
        for _ in 0..<2_000 {
            var bytes = Array(text.utf8)
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let at = bytes.indices.randomElement(using: &random)!
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: at)
                default: bytes.insert(contentsOf: bytes[at...].prefix(9), at: at)
                }
            }
            guard let policy = try? WitnessPolicy(parsing: String(decoding: bytes, as: UTF8.self)) else { continue }
            for log in policy.logs { #expect(try TrailIdentity(parsing: log.description) == log) }
        }
    }
}
