import FabricProtocol
import Foundation
import Sealing
import TestSupport
import Testing
import Vocabulary

/// A keeper and everything around it that its conduct must agree with: the disk, the device's memory, the work that was
/// begun, and what each link has asked.
struct KeeperWorld {
    enum Work: Hashable {
        case begin(Fence)
        case load(Fence, request: UInt64)
        case run(Fence, transaction: UInt64)
        case fill(Fence)
        /// `prove` and `scrub` both end in a certificate.
        case certify(Fence, ScrubCertificate.Cause)

        /// What must be alone on the device.
        var isExclusive: Bool {
            switch self {
            case .begin, .fill, .certify: true
            case .load, .run: false
            }
        }
    }

    struct Question: Hashable {
        let link: UInt64
        let request: UInt64
    }

    struct Count: Hashable {
        var asked = 0
        var answered = 0
    }

    enum Event {
        case frame(UInt64, ControlFrame)
        case unlinked(UInt64)
        case done(Work, isGood: Bool)
        case expired, violated(Fence), drain, crash
    }

    static let links: [UInt64] = [1, 2]
    static let fences = [Fence(1), Fence(2)]
    static let ttl: UInt64 = 1_000_000
    private static let offer = DeviceKeeper.Offer(node: Samples.node, deviceBytes: 1 << 20, threads: 1)
    private static let key = SigningKey.generate()
    private static let certificates: [Fence: [ScrubCertificate.Cause: ScrubCertificate]] =
        fences.reduce(into: [:]) { all, fence in
            for cause in [.gateway, .expiry, .takeover, .violation, .shutdown, .restart, .revoked, .disconnect]
                as [ScrubCertificate.Cause]
            {
                all[fence, default: [:]][cause] = ScrubCertificate(
                    node: Samples.node, run: Samples.run, lease: Samples.lease, fence: fence, cause: cause,
                    deviceBytes: 1 << 20, seed: Samples.bytes(32), nonce: Samples.bytes(32), proof: Samples.digest(1),
                    agent: Samples.digest(2), signedBy: key)
            }
        }

    /// Every message, with the number its gateway would give it.
    static let frames: [ControlFrame] = fences.flatMap { fence in
        let grant = LeaseGrant(
            lease: Samples.lease, run: Samples.run, attempt: 1, ttlMilliseconds: 1, lanes: 1, deviceBytes: 1 << 20,
            receipt: [1], wrappedRunKey: Samples.bytes(80))
        let messages: [ControlMessage] = [
            .hello, .attest(nonce: Samples.bytes(32), lease: Samples.lease), .leaseGrant(grant),
            .leaseResume(proof: Samples.bytes(32)), .leaseRenew, .windowMap(Samples.table), .programLoad([1]),
            .doorbell(program: 1, transaction: 1, arguments: []), .doorbell(program: 1, transaction: 2, arguments: []),
            .scrubBegin(seed: Samples.bytes(32)), .scrubChallenge(nonce: Samples.bytes(32)), .leaseRevoke, .pong,
        ]
        return messages.enumerated().map {
            ControlFrame(request: UInt64($0.offset + 1), fence: fence, message: $0.element)
        }
    }

    /// What is answered when work under the lease is done.
    private static let leaseRequests: ClosedRange<UInt64> = 7...11

    private final class Host: KeeperHost {
        var saved: NodeRecord?
        let canSave: Bool

        init(canSave: Bool) { self.canSave = canSave }

        func evidence(
            link: UInt64, nonce: [UInt8], lease: LeaseID, fence: Fence
        ) -> (evidence: Evidence, transcript: Digest) {
            (Samples.evidence, Samples.digest(UInt8(truncatingIfNeeded: link)))
        }

        func check(_ grant: LeaseGrant, fence: Fence, link: UInt64, transcript: Digest) throws(Refusal) {}

        func isProof(_ proof: [UInt8], fence: Fence, transcript: Digest) -> Bool { true }

        func save(_ record: NodeRecord) -> Bool {
            if canSave { saved = record }
            return canSave
        }
    }

    private(set) var keeper = DeviceKeeper(offer, record: NodeRecord())
    private var disk = NodeRecord()
    private var dirtyBy: Fence?
    private var begun: Set<Fence> = []
    private var executed: Set<Work> = []
    private(set) var work: Set<Work> = []
    private var dead: Set<UInt64> = []
    private var questions: [Question: Count] = [:]
    /// The link of the frame that is looked at.
    private var asking: UInt64?
    private var crashes = 0
    private var isDraining = false
    private(set) var problem: String?

    /// Two worlds of which this is equal go on alike.
    var description: String {
        "\(keeper) \(dirtyBy?.number ?? 0) \(begun.count) \(executed.map { "\($0)" }.sorted()) "
            + "\(work.map { "\($0)" }.sorted()) \(dead.sorted()) \(crashes) "
            + "\(questions.map { "\($0.key.link) \($0.key.request) \($0.value.asked) \($0.value.answered)" }.sorted())"
    }

    var events: [Event] {
        var events: [Event] = Self.links.filter { !dead.contains($0) }.flatMap { link in
            Self.frames.map { Event.frame(link, $0) } + [.unlinked(link)]
        }
        for work in work { events += [.done(work, isGood: true), .done(work, isGood: false)] }
        events += Self.fences.map(Event.violated)
        if keeper.deadline != nil { events.append(.expired) }
        if !isDraining { events.append(.drain) }
        if crashes == 0 { events.append(.crash) }
        return events
    }

    mutating func happen(_ event: Event) {
        var canSave = true
        if case .done(.certify, false) = event { canSave = false }
        let host = Host(canSave: canSave)
        var outputs: [DeviceKeeper.Output] = []
        asking = nil
        switch event {
        case .frame(let link, let frame):
            asking = link
            var count = questions[Question(link: link, request: frame.request)] ?? Count()
            // Asked more often than twice is as asked twice.
            if count.asked == 2, count.answered > 0 {
                count.answered -= 1
            } else {
                count.asked = min(count.asked + 1, 2)
            }
            questions[Question(link: link, request: frame.request)] = count
            outputs = keeper.received(frame, from: link, now: 0, host: host)
        case .unlinked(let link):
            lose(link)
            keeper.unlinked(link)
        case .done(let done, let isGood):
            work.remove(done)
            switch done {
            case .begin: outputs = keeper.began(isGood, now: 0, host: host)
            case .load(let fence, let request):
                outputs = keeper.loaded(fence, request, isGood ? .programLoaded(1) : .error(Refusal(.program)))
            case .run(let fence, let transaction):
                outputs = keeper.ran(
                    fence, transaction,
                    isGood ? .complete(transaction: transaction, result: []) : .error(Refusal(.execution)))
            case .fill: outputs = keeper.filled(now: 0, host: host)
            case .certify(let fence, let cause):
                dirtyBy = nil
                outputs = keeper.scrubbed(Self.certificates[fence]![cause]!, now: 0, host: host)
            }
        case .expired: outputs = keeper.tick(now: Self.ttl)
        case .violated(let fence): outputs = keeper.violated(fence)
        case .drain:
            isDraining = true
            outputs = keeper.drain(now: 0, host: host)
        case .crash:
            crashes += 1
            isDraining = false
            work = []
            for link in Self.links { lose(link) }
            // The one there is afterwards.
            dead.remove(Self.links.last!)
            keeper = DeviceKeeper(Self.offer, record: disk)
            outputs = keeper.start()
        }
        if let saved = host.saved {
            check(saved.fenceHighest >= disk.fenceHighest, "the fence on the disk went back")
            disk = saved
        }
        for output in outputs { take(output) }
        checkState()
    }

    private mutating func lose(_ link: UInt64) {
        dead.insert(link)
        questions = questions.filter { $0.key.link != link }
    }

    private mutating func take(_ output: DeviceKeeper.Output) {
        switch output {
        case .send(let link, let frame):
            guard frame.request != 0, !dead.contains(link) else { return }
            let question = Question(link: link, request: frame.request)
            questions[question, default: Count()].answered += 1
            let count = questions[question]!
            check(count.answered <= count.asked, "a link was answered what it had not asked")
            if count.answered == count.asked { questions[question] = nil }
            // Nothing of a lease is waited for when its scrub has ended, well or not.
            switch frame.message {
            case .scrubProof, .error(Refusal(.storage)):
                questions = questions.filter { $0.key.link != link || !Self.leaseRequests.contains($0.key.request) }
            default: break
            }
        case .close(let link):
            lose(link)
            keeper.unlinked(link)
        case .begin(_, let fence, _, _):
            check(dirtyBy == nil, "a lease began on memory that was not scrubbed")
            check(
                begun.allSatisfy { $0 < fence } && begun.insert(fence).inserted,
                "a fence began twice, or after a higher")
            check(disk.fenceHighest == fence && disk.open != nil, "a lease began that is not on the disk")
            dirtyBy = fence
            start(.begin(fence))
        case .relink(let link, _): check(!dead.contains(link), "a lease went over to a dead link")
        case .load(let fence, let request, _, _):
            check(dirtyBy == fence, "a program was loaded for a lease that has not the device")
            start(.load(fence, request: request))
        case .run(let fence, _, let transaction, _):
            check(dirtyBy == fence, "a program ran for a lease that has not the device")
            check(executed.insert(.run(fence, transaction: transaction)).inserted, "a doorbell ran twice")
            check(
                !work.contains { if case .load(fence, _) = $0 { true } else { false } }, "it ran while one was loaded")
            start(.run(fence, transaction: transaction))
        case .fill(_, let fence):
            check(dirtyBy == fence, "memory was filled that is not this lease's")
            start(.fill(fence))
        case .prove(_, let fence, _, _):
            check(dirtyBy == fence, "memory was proved that is not this lease's")
            start(.certify(fence, .gateway))
        case .scrub(_, let fence, let cause, let notice):
            // With the lease ends what was asked under it: its holder is told so, or has ended it itself.
            let told = notice ?? asking
            questions = questions.filter { $0.key.link != told || !Self.leaseRequests.contains($0.key.request) }
            check(dirtyBy == fence || cause == .restart, "memory was scrubbed that is not this lease's")
            start(.certify(fence, cause))
        case .refused: break
        }
    }

    private mutating func start(_ begun: Work) {
        check(
            !begun.isExclusive || !work.contains(where: \.isExclusive), "work began while other work was not finished")
        check(work.insert(begun).inserted, "work began twice")
    }

    private mutating func checkState() {
        check(keeper.record == disk, "the keeper's record is not the disk's")
        check(!keeper.isFree || dirtyBy == nil, "free with the memory of a lease")
        check(keeper.isBusy == work.contains(where: \.isExclusive), "busy with nothing, or not busy with something")
        if let lanes = keeper.lanesAllowed {
            check(lanes.fence == dirtyBy && !dead.contains(lanes.link), "lanes are allowed to who holds nothing")
        }
        if work.isEmpty {
            check(!questions.values.contains { $0.answered == 0 }, "a question is never answered")
        }
    }

    private mutating func check(_ isTrue: Bool, _ text: StaticString) {
        if !isTrue, problem == nil { problem = "\(text)" }
    }
}

@Suite struct KeeperExplorationTests {
    private static let isThorough = ProcessInfo.processInfo.environment["SEKISHO_SIMULATIONS"] != nil

    /// Where a lease's way is long, the search begins on it: the whole way is deeper than a search from its start.
    static let beginnings: [(name: String, events: [KeeperWorld.Event])] = {
        func frame(_ request: Int) -> KeeperWorld.Event { .frame(1, KeeperWorld.frames[request - 1]) }
        let fence = Fence(1)
        let held = [frame(2), frame(3), .done(.begin(fence), isGood: true)]
        let loaded = held + [frame(7), .done(.load(fence, request: 7), isGood: true)]
        return [
            ("free", []), ("loading", held + [frame(7)]), ("ringing", loaded + [frame(8)]),
            ("filled", loaded + [frame(10), .done(.fill(fence), isGood: true)]),
        ]
    }()

    @Test(
        "every event in every state that a node can come to: one lease, one answer, one run, scrubbed before free",
        arguments: beginnings.map(\.name))
    func everything(name: String) {
        var first = KeeperWorld()
        for event in Self.beginnings.first(where: { $0.name == name })!.events { first.happen(event) }
        #expect(first.problem == nil)
        var seen: Set<Int> = []
        var now = [first]
        var transitions = 0
        for depth in 1...(Self.isThorough ? 6 : 5) {
            var next: [KeeperWorld] = []
            for world in now {
                for event in world.events {
                    var after = world
                    after.happen(event)
                    transitions += 1
                    if let problem = after.problem {
                        Issue.record("from \(name), step \(depth), \(event): \(problem)\n\(world.description)")
                        return
                    }
                    if seen.insert(after.description.hashValue).inserted { next.append(after) }
                }
            }
            now = next
        }
        print("[keeper] from \(name): \(seen.count) states, \(transitions) transitions")
    }
}
