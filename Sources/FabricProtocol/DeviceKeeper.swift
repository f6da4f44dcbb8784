package import Vocabulary

/// What a keeper asks of the process around it and has answered at once: what needs keys, and what must be durable.
package protocol KeeperHost {
    /// Signed evidence for this link, and the hash of what was signed.
    func evidence(
        link: UInt64, nonce: [UInt8], lease: LeaseID, fence: Fence
    ) -> (evidence: Evidence, transcript: Digest)
    /// Checks the receipt and opens the run key, which is kept for `begin`.
    func check(_ grant: LeaseGrant, fence: Fence, link: UInt64, transcript: Digest) throws(Refusal)
    /// Whether whoever asks over a link with this transcript is who was granted the lease.
    func isProof(_ proof: [UInt8], fence: Fence, transcript: Digest) -> Bool
    /// Makes the record durable.
    func save(_ record: NodeRecord) -> Bool
}

/// A node's whole conduct as a value: who may have the device, under which fence, for how long, and what must be done
/// before it is free again. No clock, socket, thread or file: the agent and the simulation both drive this one.
///
/// Each event gives what is to be done. Work on the device (`begin`, `load`, `run`, `fill`, `prove`, `scrub`) is answered
/// by an event of its own when it is done; the device is touched by one such work at a time.
package struct DeviceKeeper: Sendable {
    /// A control connection; numbers are never used twice.
    package typealias Link = UInt64

    /// What the node says of itself to anyone with a gateway's certificate.
    package struct Offer: Sendable {
        package let node: NodeID
        package let deviceBytes: UInt64
        package let threads: UInt16

        package init(node: NodeID, deviceBytes: UInt64, threads: UInt16) {
            self.node = node
            self.deviceBytes = deviceBytes
            self.threads = threads
        }
    }

    package enum Output: Sendable {
        case send(Link, ControlFrame)
        case close(Link)
        /// Make what runs the lease's programs; `began` says whether it could be made.
        case begin(LeaseGrant, Fence, Link, transcript: Digest)
        /// The lease goes on over another link: the lanes of the one before end.
        case relink(Link, transcript: Digest)
        /// `loaded` answers.
        case load(Fence, request: UInt64, program: [UInt8], windows: [UInt16: Window])
        /// `ran` answers.
        case run(Fence, program: UInt32, transaction: UInt64, arguments: [UInt8])
        /// Keys erased, nothing of the lease runs any more, memory filled; `filled` answers.
        case fill(seed: [UInt8], Fence)
        /// Filled memory proved and zeroed, a certificate signed; `scrubbed` answers.
        case prove(NodeRecord.Lease, Fence, seed: [UInt8], nonce: [UInt8])
        /// The whole of it without a gateway; `scrubbed` answers. `notice` goes to whoever held the lease.
        case scrub(NodeRecord.Lease, Fence, ScrubCertificate.Cause, notice: Link?)
        /// For the log.
        case refused(Refusal)
    }

    private enum Stage: Equatable { case free, beginning, held, filling, filled, proving, ending, faulty }

    private struct Attested: Sendable {
        let lease: LeaseID
        let fence: Fence
        let transcript: Digest
    }

    /// A grant that was found good and waits for the device.
    private struct Waiting: Sendable {
        let link: Link
        let request: UInt64
        let grant: LeaseGrant
        let fence: Fence
        let transcript: Digest
    }

    fileprivate struct Held: Sendable {
        /// Answers to requests that must not be done twice, kept for a gateway that lost its link.
        static let answersMax = 16

        let run: RunID
        let lease: LeaseID
        let fence: Fence
        let ttl: UInt64
        var link: Link
        var isLinked = true
        var deadline: UInt64 = .max
        /// Of `beginning` and `proving`: the request that is answered at its end.
        var awaited: UInt64 = 0
        var seed: [UInt8] = []
        var table: [UInt16: Window] = [:]
        var requestHighest: UInt64 = 0
        /// Requests whose answers are still to come, and whether each was asked over the link that the lease has now: a
        /// link carries one answer to what was asked over it, and nothing else.
        var working: [UInt64: Bool] = [:]
        var answers: [(request: UInt64, answer: ControlMessage)] = []
        /// `request` is nil until the doorbell is asked again over a new link.
        var ringing: (transaction: UInt64, request: UInt64?)?
        /// The last doorbell and its answer: exactly once, however often it is asked.
        var answered: (transaction: UInt64, answer: ControlMessage)?

        var record: NodeRecord.Lease { NodeRecord.Lease(run: run, lease: lease) }
    }

    private let offer: Offer
    package private(set) var record: NodeRecord
    private var stage: Stage
    private var held: Held?
    private var waiting: [Waiting] = []
    private var attested: [Link: Attested] = [:]
    /// The last lease that ended without its gateway's wish, and why: its frames are refused with that.
    private var ended: (fence: Fence, cause: ScrubCertificate.Cause)?
    private var isDraining = false
    private var outputs: [Output] = []

    /// A node that died during a lease scrubs first: `start` says so.
    package init(_ offer: Offer, record: NodeRecord) {
        self.offer = offer
        self.record = record
        stage = record.open == nil ? .free : .ending
    }

    package mutating func start() -> [Output] {
        guard let open = record.open else { return [] }
        ended = (record.fenceHighest, .restart)
        return [.scrub(open, record.fenceHighest, .restart, notice: nil)]
    }

    /// Whether work on the device goes on that must be waited for.
    package var isBusy: Bool {
        switch stage {
        case .beginning, .filling, .proving, .ending: true
        case .free, .held, .filled, .faulty: false
        }
    }

    package var isFree: Bool { stage == .free }

    /// The link and fence under which lanes may be opened.
    package var lanesAllowed: (link: Link, fence: Fence)? {
        guard stage == .held, let held, held.isLinked else { return nil }
        return (held.link, held.fence)
    }

    /// When `tick` has something to do next.
    package var deadline: UInt64? { stage == .held || stage == .filled ? held?.deadline : nil }

    // MARK: Events

    package mutating func received(
        _ frame: ControlFrame, from link: Link, now: UInt64, host: some KeeperHost
    ) -> [Output] {
        expire(now)
        do throws(Refusal) {
            if let answer = try answer(to: frame, link, now, host) { send(answer, frame.request, link, frame.fence) }
        } catch {
            outputs.append(.refused(error))
            send(.error(error), frame.request, link, frame.fence)
        }
        return taken()
    }

    /// A link has ended. Its lease goes on until its time is over, for a gateway that comes back.
    package mutating func unlinked(_ link: Link) {
        attested[link] = nil
        waiting.removeAll { $0.link == link }
        if held?.link == link { held!.isLinked = false }
    }

    /// A record came on a lane of the lease that its gateway cannot have sent.
    package mutating func violated(_ fence: Fence) -> [Output] {
        if held?.fence == fence { end(.violation) }
        return taken()
    }

    /// Whether a link holds or is about to hold the lease: it may be silent for as long as the lease lives.
    package func isHolding(_ link: Link) -> Bool {
        held?.link == link || waiting.contains { $0.link == link }
    }

    package mutating func tick(now: UInt64) -> [Output] {
        expire(now)
        return taken()
    }

    /// No lease from now on; one that is ends here.
    package mutating func drain(now: UInt64, host: some KeeperHost) -> [Output] {
        isDraining = true
        end(.shutdown)
        admit(now, host)
        return taken()
    }

    package mutating func began(_ isMade: Bool, now: UInt64, host: some KeeperHost) -> [Output] {
        guard stage == .beginning, var lease = held else { return [] }
        let request = lease.awaited
        guard isMade else {
            stage = .ending
            held = nil
            outputs.append(.scrub(lease.record, lease.fence, .violation, notice: nil))
            send(.error(Refusal(.deviceMemory)), request, lease.link, lease.fence)
            return taken()
        }
        stage = .held
        lease.deadline = now + lease.ttl
        held = lease
        if lease.isLinked { send(.done, request, lease.link, lease.fence) }
        // Another may have been granted the device meanwhile.
        admit(now, host)
        return taken()
    }

    package mutating func loaded(_ fence: Fence, _ request: UInt64, _ answer: ControlMessage) -> [Output] {
        guard held?.fence == fence else { return [] }
        finish(request, answer)
        return taken()
    }

    /// Numbers of requests and transactions mean something under one fence only.
    package mutating func ran(_ fence: Fence, _ transaction: UInt64, _ answer: ControlMessage) -> [Output] {
        guard held?.fence == fence, let ringing = held?.ringing, ringing.transaction == transaction else { return [] }
        held!.ringing = nil
        held!.answered = (transaction, answer)
        if let request = ringing.request { reply(request, answer) }
        return taken()
    }

    package mutating func filled(now: UInt64, host: some KeeperHost) -> [Output] {
        guard stage == .filling, let lease = held else { return [] }
        stage = .filled
        held!.deadline = now + lease.ttl
        finish(lease.awaited, .scrubFilled)
        admit(now, host)
        return taken()
    }

    package mutating func scrubbed(
        _ certificate: ScrubCertificate, now: UInt64, host: some KeeperHost
    ) -> [Output] {
        var changed = record
        changed.open = nil
        changed.lastScrub = certificate
        if host.save(changed) {
            record = changed
            stage = .free
        } else {
            // Without its record nobody would know of this scrub after the next start: no lease until then.
            stage = .faulty
        }
        if let lease = held {
            finish(lease.awaited, stage == .free ? .scrubProof(certificate) : .error(Refusal(.storage)))
            held = nil
        }
        admit(now, host)
        return taken()
    }

    // MARK: Frames

    /// nil where the answer comes later.
    private mutating func answer(
        to frame: ControlFrame, _ link: Link, _ now: UInt64, _ host: some KeeperHost
    ) throws(Refusal) -> ControlMessage? {
        // HELLO alone is answered under any fence: it is how a gateway learns the highest one.
        guard frame.message == .hello || frame.fence >= record.fenceHighest else { throw Refusal(.staleFence) }
        switch frame.message {
        case .hello:
            return .welcome(
                Welcome(
                    node: offer.node, deviceBytes: offer.deviceBytes, threads: offer.threads,
                    fenceHighest: record.fenceHighest, lastScrub: record.lastScrub))
        case .ping: return .pong
        case .attest(let nonce, let lease): return try attest(link, nonce, lease, frame.fence, host)
        case .leaseGrant(let grant):
            try take(grant, frame, link, host)
            admit(now, host)
            return nil
        case .leaseResume(let proof):
            try resume(link, proof, frame.fence, now, host)
            return .done
        case .leaseRenew:
            _ = try lease(link, frame.fence)
            held!.deadline = now + held!.ttl
            return .done
        case .leaseRevoke:
            _ = try lease(link, frame.fence)
            end(.revoked)
            return .done
        case .windowMap(let table): return try once(frame, link) { (held) throws(Refusal) in try held.map(table) }
        case .windowUnmap(let ids): return try once(frame, link) { (held) throws(Refusal) in try held.unmap(ids) }
        case .programLoad(let program):
            return try once(frame, link) { (held) throws(Refusal) in
                guard held.ringing == nil else { throw Refusal(.busy) }
                return .load(held.fence, request: frame.request, program: program, windows: held.table)
            }
        case .doorbell(let program, let transaction, let arguments):
            return try ring(link, frame, program, transaction, arguments)
        case .scrubBegin(let seed): return try beginScrub(link, frame, seed)
        case .scrubChallenge(let nonce): return try challenge(link, frame, nonce)
        case .welcome, .evidence, .programLoaded, .complete, .scrubFilled, .scrubProof, .pong, .done, .error:
            throw Refusal(.order)
        }
    }

    /// A new lease needs a fence above all others; the lease that is held may be attested again, over another link.
    private mutating func attest(
        _ link: Link, _ nonce: [UInt8], _ lease: LeaseID, _ fence: Fence, _ host: some KeeperHost
    ) throws(Refusal) -> ControlMessage {
        guard !isHolding(link) else { throw Refusal(.order) }
        let isHeld = held.map { $0.fence == fence && $0.lease == lease } ?? false
        guard fence > record.fenceHighest || isHeld else {
            throw Refusal(ended.flatMap { $0.fence == fence ? $0.cause.refusal : nil } ?? .staleFence)
        }
        let (evidence, transcript) = host.evidence(link: link, nonce: nonce, lease: lease, fence: fence)
        attested[link] = Attested(lease: lease, fence: fence, transcript: transcript)
        return .evidence(evidence)
    }

    private mutating func take(
        _ grant: LeaseGrant, _ frame: ControlFrame, _ link: Link, _ host: some KeeperHost
    ) throws(Refusal) {
        guard let attested = attested.removeValue(forKey: link), attested.lease == grant.lease,
            attested.fence == frame.fence, !isHolding(link)
        else { throw Refusal(.order) }
        guard grant.deviceBytes <= offer.deviceBytes else { throw Refusal(.deviceMemory) }
        try host.check(grant, fence: frame.fence, link: link, transcript: attested.transcript)
        waiting.append(
            Waiting(
                link: link, request: frame.request, grant: grant, fence: frame.fence, transcript: attested.transcript))
    }

    /// Gives the device to whoever waits for it, as far as it is free; a higher fence ends the lease that is.
    private mutating func admit(_ now: UInt64, _ host: some KeeperHost) {
        while let next = waiting.first, !isBusy {
            if stage == .held || stage == .filled, let lease = held, lease.fence < next.fence {
                end(.takeover)
                return
            }
            waiting.removeFirst()
            if let refusal = begin(next, host) {
                outputs.append(.refused(refusal))
                send(.error(refusal), next.request, next.link, next.fence)
            }
        }
    }

    private mutating func begin(_ next: Waiting, _ host: some KeeperHost) -> Refusal? {
        guard !isDraining else { return Refusal(.draining) }
        guard next.fence > record.fenceHighest else { return Refusal(.staleFence) }
        guard stage == .free else { return Refusal(.storage) }
        var changed = record
        changed.fenceHighest = next.fence
        changed.open = NodeRecord.Lease(run: next.grant.run, lease: next.grant.lease)
        // The fence is durable before anything of the lease exists.
        guard host.save(changed) else { return Refusal(.storage) }
        record = changed
        stage = .beginning
        ended = nil
        held = Held(
            run: next.grant.run, lease: next.grant.lease, fence: next.fence,
            ttl: UInt64(next.grant.ttlMilliseconds) * 1_000_000, link: next.link, awaited: next.request)
        outputs.append(.begin(next.grant, next.fence, next.link, transcript: next.transcript))
        return nil
    }

    private mutating func resume(
        _ link: Link, _ proof: [UInt8], _ fence: Fence, _ now: UInt64, _ host: some KeeperHost
    ) throws(Refusal) {
        guard let attested = attested.removeValue(forKey: link) else { throw Refusal(.order) }
        guard let lease = held, lease.fence == fence, attested.fence == fence, attested.lease == lease.lease,
            stage != .beginning
        else { throw Refusal(ended.flatMap { $0.fence == fence ? $0.cause.refusal : nil } ?? .noLease) }
        guard host.isProof(proof, fence: fence, transcript: attested.transcript) else { throw Refusal(.proof) }
        outputs.append(.close(lease.link))
        held!.link = link
        held!.isLinked = true
        held!.working = lease.working.mapValues { _ in false }
        held!.ringing?.request = nil
        if stage == .held { held!.deadline = now + lease.ttl }
        outputs.append(.relink(link, transcript: attested.transcript))
    }

    /// The lease that this link holds and that goes on.
    private func lease(_ link: Link, _ fence: Fence) throws(Refusal) -> Held {
        guard stage == .held, let held, held.link == link, held.fence == fence else {
            throw Refusal(ended.flatMap { $0.fence == fence ? $0.cause.refusal : nil } ?? .noLease)
        }
        return held
    }

    /// What a request that must not be done twice comes to when it is asked again: its answer, or nil where that is still
    /// to come. Gives nothing for a request that is new.
    private mutating func repeated(_ request: UInt64) throws(Refusal) -> ControlMessage?? {
        guard let lease = held else { return nil }
        if let known = lease.answers.first(where: { $0.request == request }) { return .some(known.answer) }
        if lease.working[request] != nil {
            held!.working[request] = true
            return .some(nil)
        }
        guard request > lease.requestHighest else { throw Refusal(.order) }
        held!.requestHighest = request
        return nil
    }

    /// Does what changes the lease's tables, or begins what is answered later, once for each request's number.
    private mutating func once(
        _ frame: ControlFrame, _ link: Link, _ body: (inout Held) throws(Refusal) -> Output?
    ) throws(Refusal) -> ControlMessage? {
        _ = try lease(link, frame.fence)
        if let known = try repeated(frame.request) { return known }
        var changed = held!
        let output: Output?
        do throws(Refusal) {
            output = try body(&changed)
        } catch {
            remember(frame.request, .error(error))
            throw error
        }
        held = changed
        guard let output else {
            remember(frame.request, .done)
            return .done
        }
        held!.working[frame.request] = true
        outputs.append(output)
        return nil
    }

    private mutating func ring(
        _ link: Link, _ frame: ControlFrame, _ program: UInt32, _ transaction: UInt64, _ arguments: [UInt8]
    ) throws(Refusal) -> ControlMessage? {
        let lease = try lease(link, frame.fence)
        if let ringing = lease.ringing {
            guard ringing.transaction == transaction else { throw Refusal(.busy) }
            held!.ringing!.request = frame.request
            return nil
        }
        guard lease.working.isEmpty else { throw Refusal(.busy) }
        if let answered = lease.answered {
            if answered.transaction == transaction { return answered.answer }
            guard transaction > answered.transaction else { throw Refusal(.transaction) }
        }
        held!.ringing = (transaction, frame.request)
        outputs.append(.run(frame.fence, program: program, transaction: transaction, arguments: arguments))
        return nil
    }

    // MARK: Scrub

    private mutating func beginScrub(_ link: Link, _ frame: ControlFrame, _ seed: [UInt8]) throws(Refusal)
        -> ControlMessage?
    {
        if stage == .filling || stage == .filled, held?.link == link, held?.fence == frame.fence,
            let known = try repeated(frame.request)
        {
            return known
        }
        let lease = try lease(link, frame.fence)
        if let known = try repeated(frame.request) { return known }
        stage = .filling
        held!.seed = seed
        held!.awaited = frame.request
        held!.working[frame.request] = true
        outputs.append(.fill(seed: seed, lease.fence))
        return nil
    }

    private mutating func challenge(_ link: Link, _ frame: ControlFrame, _ nonce: [UInt8]) throws(Refusal)
        -> ControlMessage?
    {
        // Proved before it could be asked again over a new link; `welcome` says as much to anyone.
        if held == nil, let proof = record.lastScrub, proof.fence == frame.fence, proof.nonce == nonce {
            return .scrubProof(proof)
        }
        guard stage == .filled || stage == .proving, let lease = held, lease.link == link, lease.fence == frame.fence
        else { throw Refusal(.scrub) }
        if let known = try repeated(frame.request) { return known }
        guard stage == .filled else { throw Refusal(.scrub) }
        stage = .proving
        held!.awaited = frame.request
        held!.working[frame.request] = true
        outputs.append(.prove(lease.record, lease.fence, seed: lease.seed, nonce: nonce))
        return nil
    }

    private mutating func expire(_ now: UInt64) {
        if let deadline, deadline <= now { end(.expiry) }
    }

    /// Ends the lease that is and begins its scrub.
    private mutating func end(_ cause: ScrubCertificate.Cause) {
        guard stage == .held || stage == .filled, let lease = held else { return }
        stage = .ending
        held = nil
        ended = (lease.fence, cause)
        outputs.append(
            .scrub(lease.record, lease.fence, cause, notice: cause != .revoked && lease.isLinked ? lease.link : nil))
    }

    // MARK: Answers

    private mutating func finish(_ request: UInt64, _ answer: ControlMessage) {
        guard let isAsked = held?.working.removeValue(forKey: request) else { return }
        remember(request, answer)
        if isAsked { reply(request, answer) }
    }

    private mutating func remember(_ request: UInt64, _ answer: ControlMessage) {
        held!.answers.append((request, answer))
        if held!.answers.count > Held.answersMax { held!.answers.removeFirst() }
    }

    private mutating func reply(_ request: UInt64, _ answer: ControlMessage) {
        guard let lease = held else { return }
        if case .error(let refusal) = answer { outputs.append(.refused(refusal)) }
        if lease.isLinked { send(answer, request, lease.link, lease.fence) }
    }

    private mutating func send(_ message: ControlMessage, _ request: UInt64, _ link: Link, _ fence: Fence) {
        outputs.append(.send(link, ControlFrame(request: request, fence: fence, message: message)))
    }

    private mutating func taken() -> [Output] {
        defer { outputs = [] }
        return outputs
    }
}

extension DeviceKeeper.Held {
    fileprivate mutating func map(_ added: WindowTable) throws(Refusal) -> DeviceKeeper.Output? {
        var changed = table
        for window in added.windows where changed.updateValue(window, forKey: window.id) != nil {
            throw Refusal(.windowTable, index: UInt32(window.id))
        }
        guard changed.count <= Limits.windowsMax else { throw Refusal(.windowTable) }
        table = changed
        return nil
    }

    fileprivate mutating func unmap(_ ids: [UInt16]) throws(Refusal) -> DeviceKeeper.Output? {
        for id in ids where table[id] == nil { throw Refusal(.windowTable, index: UInt32(id)) }
        for id in ids { table[id] = nil }
        return nil
    }
}

extension ScrubCertificate.Cause {
    /// What a holder whose lease ended for this reason is told.
    package var refusal: Refusal.Code {
        switch self {
        case .takeover: .staleFence
        case .expiry: .leaseExpired
        case .shutdown: .draining
        case .violation: .frame
        case .gateway, .disconnect, .restart, .revoked: .noLease
        }
    }
}
