package import Vocabulary

/// Why a lease is over for its gateway.
package enum LeaseFailure: Error, Equatable, Sendable {
    /// No link within the lease's time.
    case lost
    case timeout
    case violation
    case refused(Refusal)
    /// Evidence on a new link was not what it must be; `index` names the measurement.
    case evidence(index: Int?)
    /// Ended from this side.
    case detached
}

/// What a holder asks of the process around it and has answered at once: what needs randomness and keys.
package protocol HolderHost {
    func nonce() -> [UInt8]
    /// Judges evidence that came over a link and gives the hash of its transcript.
    func judge(_ evidence: Evidence, nonce: [UInt8], link: UInt64) throws(LeaseFailure) -> Digest
    func proof(transcript: Digest) -> [UInt8]
}

/// The gateway's conduct of one lease as a value: renewals, requests that are asked again over a new link, lanes, the
/// scrub, and when to give up. No clock, socket, thread or file: the attachment and the simulation both drive this one.
///
/// Times are nanoseconds of one clock that never goes back.
package struct LeaseHolder: Sendable {
    package typealias Link = UInt64

    package struct Timing: Sendable {
        package var ttl: UInt64
        package var renew: UInt64
        /// How long the node may take for a request, and for filling or proving its memory.
        package var request: UInt64
        package var scrub: UInt64
        /// Between two tries to connect.
        package var retry: UInt64
        package var lanes: Int

        package init(ttl: UInt64, renew: UInt64, request: UInt64, scrub: UInt64, retry: UInt64, lanes: Int) {
            precondition((1...Limits.lanesMax).contains(lanes))
            self.ttl = ttl
            self.renew = renew
            self.request = request
            self.scrub = scrub
            self.retry = retry
            self.lanes = lanes
        }

        /// A link on which nothing was answered for so long is taken for cut.
        var silence: UInt64 { max(renew, ttl / 3) }
        /// How long a try to connect may take, so that several fit into a lease's time.
        package var attempt: UInt64 { ttl / 6 }
    }

    package enum Output: Sendable {
        case send(Link, ControlFrame)
        /// `connected` or `broke` answers.
        case connect(Link)
        /// After what was sent before.
        case disconnect(Link)
        /// Open this lane, with keys of this link and serial number; `laneUp` or `laneBroke` answers.
        case openLane(Int, serial: UInt32, Link, transcript: Digest)
        case closeLanes
        /// Send something on lanes that are idle: a connection that is cut without a word is found by what is not
        /// acknowledged.
        case probeLanes
        /// The node has accepted the lease.
        case granted
        /// All lanes are there for the first time.
        case ready
        /// The lease is over; nil after its scrub. Comes before the answers that follow from it.
        case ended(LeaseFailure?)
        case answer(UInt64, Result<ControlMessage, LeaseFailure>)
        /// The node has said that the lease lives for another while.
        case renewed
        case scrubbed(ScrubCertificate)
    }

    private enum Phase: Equatable { case asking, open, filling, proving, ended }

    private enum LinkState: Equatable {
        case up
        case down(retryAt: UInt64)
        case connecting
        case greeting(request: UInt64)
        case challenging(request: UInt64, nonce: [UInt8])
        case resuming(request: UInt64, transcript: Digest)
    }

    private struct Pending: Sendable {
        let message: ControlMessage
        let deadline: UInt64?
    }

    private struct LaneState: Sendable {
        var serial: UInt32 = 0
        var isUp = false
        var upSince: UInt64 = 0
        var downSince: UInt64 = 0
        /// nil while it is being opened, or where there is no link to open it under.
        var retryAt: UInt64?
    }

    package let lease: LeaseID
    package let fence: Fence
    private let timing: Timing
    private var phase = Phase.asking
    private var link: Link = 0
    private var linkState = LinkState.up
    /// Since when the link's state is what it is.
    private var linkSince: UInt64
    private var transcript: Digest
    private var grant: UInt64 = 0
    private var requestNext: UInt64 = 1
    private var pending: [UInt64: Pending] = [:]
    private var lanes: [LaneState]
    private var wasReady = false
    /// Until when the lease lives at least, by the last answer.
    private var leaseUntil: UInt64 = .max
    private var renewAt: UInt64 = .max
    private var probeAt: UInt64 = 0
    /// The renewal, or while it is scrubbed the ping, that was not answered yet.
    private var beat: (request: UInt64, sentAt: UInt64)?
    private var seed: [UInt8] = []
    /// What the scrub's last step was asked under; a doorbell that was called off may still be answered beside it.
    private var scrubRequest: UInt64 = 0
    private var scrubNonce: [UInt8] = []
    private var outputs: [Output] = []

    package static let pendingMax = 64

    /// The link is up, and the node was attested on it with this transcript.
    package init(lease: LeaseID, fence: Fence, transcript: Digest, timing: Timing, now: UInt64) {
        self.lease = lease
        self.fence = fence
        self.transcript = transcript
        self.timing = timing
        linkSince = now
        lanes = Array(repeating: LaneState(downSince: now), count: timing.lanes)
    }

    package var isOpen: Bool { phase == .open }
    package var isEnded: Bool { phase == .ended }
    package var isUp: Bool { linkState == .up }

    // MARK: What the gateway wants

    package mutating func begin(_ message: LeaseGrant, now: UInt64) -> [Output] {
        // A takeover scrubs the lease before first.
        grant = ask(.leaseGrant(message), deadline: now + timing.scrub)
        renewAt = now + timing.renew
        return taken()
    }

    /// Asks what only an open lease may ask. Gives the number that its answer carries.
    package mutating func ask(_ message: ControlMessage, isBounded: Bool, now: UInt64) -> (UInt64, [Output]) {
        guard phase == .open, pending.count < Self.pendingMax else {
            let number = requestNext
            requestNext += 1
            outputs.append(.answer(number, .failure(phase == .open ? .timeout : .detached)))
            return (number, taken())
        }
        let number = ask(message, deadline: isBounded ? now + timing.request : nil)
        return (number, taken())
    }

    /// Ends the lease by a scrub. The challenge follows the fill at once.
    package mutating func scrub(seed: [UInt8], nonce: [UInt8], now: UInt64) -> [Output] {
        guard phase == .open else { return [] }
        phase = .filling
        self.seed = seed
        scrubNonce = nonce
        scrubRequest = ask(.scrubBegin(seed: seed), deadline: now + timing.scrub)
        return taken()
    }

    /// Ends the lease because of something outside of it.
    package mutating func fail(_ failure: LeaseFailure) -> [Output] {
        end(failure)
        return taken()
    }

    // MARK: What happens

    package mutating func received(
        _ frame: ControlFrame, from source: Link, now: UInt64, host: some HolderHost
    ) -> [Output] {
        guard source == link, phase != .ended else { return [] }
        // Request 0: the node says on its own that the lease is over.
        if frame.request == 0, case .error(let refusal) = frame.message {
            end(.refused(refusal))
            return taken()
        }
        switch linkState {
        case .up: take(frame, now)
        case .greeting(frame.request), .challenging(frame.request, _), .resuming(frame.request, _):
            do throws(LeaseFailure) {
                try shakeHands(frame.message, now, host)
            } catch {
                end(error)
            }
        case .down, .connecting, .greeting, .challenging, .resuming: end(.violation)
        }
        return taken()
    }

    package mutating func connected(_ connected: Link, now: UInt64) -> [Output] {
        guard connected == link, linkState == .connecting, phase != .ended else {
            return [.disconnect(connected)]
        }
        move(.greeting(request: handshake(.hello)), now)
        return taken()
    }

    /// A link has ended, or could not be made.
    package mutating func broke(_ broken: Link, now: UInt64) -> [Output] {
        guard broken == link, phase != .ended else { return [] }
        lose(now)
        return taken()
    }

    package mutating func laneUp(_ lane: Int, serial: UInt32, now: UInt64) -> [Output] {
        guard lanes[lane].serial == serial, phase != .ended else { return [] }
        lanes[lane].isUp = true
        lanes[lane].upSince = now
        lanes[lane].retryAt = nil
        if !wasReady, lanes.allSatisfy(\.isUp) {
            wasReady = true
            outputs.append(.ready)
        }
        return taken()
    }

    /// A lane has ended, or could not be opened. One that was up is opened again at once.
    package mutating func laneBroke(_ lane: Int, serial: UInt32, now: UInt64) -> [Output] {
        guard lanes[lane].serial == serial, phase == .open else { return [] }
        let wasUp = lanes[lane].isUp
        if wasUp { lanes[lane].downSince = now }
        lanes[lane].isUp = false
        lanes[lane].retryAt = nil
        guard linkState == .up else { return taken() }
        if wasUp, lanes[lane].upSince + timing.retry <= now {
            openLane(lane)
        } else {
            lanes[lane].retryAt = now + timing.retry
        }
        return taken()
    }

    package mutating func tick(now: UInt64) -> [Output] {
        guard phase != .ended else { return [] }
        if pending.values.contains(where: { $0.deadline.map { $0 <= now } ?? false }) {
            end(.timeout)
            return taken()
        }
        if linkState == .up {
            if let beat, beat.sentAt + timing.silence <= now {
                lose(now)
            } else if beat == nil, renewAt <= now {
                // A scrub is not renewed, and a lease that is asked for cannot be: there the beat only tells whether
                // anybody is there.
                let message: ControlMessage = phase == .open ? .leaseRenew : .ping([])
                beat = (handshake(message), now)
                renewAt = now + timing.renew
            }
        }
        if giveUpAt <= now {
            end(.lost)
            return taken()
        }
        switch linkState {
        case .up:
            if phase == .open {
                if probeAt <= now {
                    probeAt = now + timing.silence
                    outputs.append(.probeLanes)
                }
                for lane in lanes.indices where lanes[lane].retryAt.map({ $0 <= now }) ?? false { openLane(lane) }
                if lanes.contains(where: { !$0.isUp && $0.downSince + timing.ttl <= now }) { end(.lost) }
            }
        case .down(let retryAt):
            if retryAt <= now {
                link += 1
                move(.connecting, now)
                outputs.append(.connect(link))
            }
        case .connecting: if linkSince + timing.attempt <= now { lose(now) }
        case .greeting, .challenging, .resuming: if linkSince + timing.silence <= now { lose(now) }
        }
        return taken()
    }

    /// When `tick` has something to do next, if nothing happens before.
    package var wakeAt: UInt64? {
        guard phase != .ended else { return nil }
        var times = pending.values.compactMap(\.deadline) + [giveUpAt]
        switch linkState {
        case .up:
            times.append(beat.map { $0.sentAt + timing.silence } ?? renewAt)
            if phase == .open {
                times.append(probeAt)
                times += lanes.compactMap(\.retryAt)
                times += lanes.filter { !$0.isUp }.map { $0.downSince + timing.ttl }
            }
        case .down(let retryAt): times.append(retryAt)
        case .connecting: times.append(linkSince + timing.attempt)
        case .greeting, .challenging, .resuming: times.append(linkSince + timing.silence)
        }
        return times.min()
    }

    /// An open lease is lost when its time is over. One that is being scrubbed is not renewed: then as long after the cut.
    private var giveUpAt: UInt64 {
        switch phase {
        case .asking, .ended: .max
        case .open: leaseUntil
        case .filling, .proving: linkState == .up ? .max : cutAt + timing.ttl
        }
    }

    /// When the link was last up, while it is not.
    private var cutAt: UInt64 = 0

    // MARK: The link

    private mutating func move(_ state: LinkState, _ now: UInt64) {
        linkState = state
        linkSince = now
    }

    private mutating func lose(_ now: UInt64) {
        outputs.append(.disconnect(link))
        beat = nil
        // Whether the node has the lease is not known; the next fence will tell.
        guard phase != .asking else { return end(.lost) }
        if linkState == .up {
            cutAt = now
            outputs.append(.closeLanes)
            for lane in lanes.indices {
                if lanes[lane].isUp { lanes[lane].downSince = now }
                lanes[lane].isUp = false
                lanes[lane].retryAt = nil
                lanes[lane].serial += 1
            }
            move(.down(retryAt: now), now)
        } else {
            move(.down(retryAt: now + timing.retry), now)
        }
    }

    private mutating func shakeHands(_ answer: ControlMessage, _ now: UInt64, _ host: some HolderHost)
        throws(LeaseFailure)
    {
        if case .error(let refusal) = answer { throw .refused(refusal) }
        switch (linkState, answer) {
        case (.greeting, .welcome(let welcome)):
            // The proof may have been lost with the link: the node keeps its last one, signed.
            if phase == .proving, let scrub = welcome.lastScrub, scrub.fence == fence { return conclude(scrub) }
            let nonce = host.nonce()
            move(.challenging(request: handshake(.attest(nonce: nonce, lease: lease)), nonce: nonce), now)
        case (.challenging(_, let nonce), .evidence(let evidence)):
            let transcript = try host.judge(evidence, nonce: nonce, link: link)
            let request = handshake(.leaseResume(proof: host.proof(transcript: transcript)))
            move(.resuming(request: request, transcript: transcript), now)
        case (.resuming(_, let transcript), .done):
            self.transcript = transcript
            // Renewed when the node took the resumption, which is later than it was sent.
            leaseUntil = linkSince + timing.ttl
            renewAt = now
            move(.up, now)
            for number in pending.keys.sorted() { send(pending[number]!.message, number) }
            if phase == .open { for lane in lanes.indices { openLane(lane) } }
        default: throw .violation
        }
    }

    private mutating func openLane(_ lane: Int) {
        lanes[lane].serial += 1
        lanes[lane].retryAt = nil
        outputs.append(.openLane(lane, serial: lanes[lane].serial, link, transcript: transcript))
    }

    // MARK: Answers

    private mutating func take(_ frame: ControlFrame, _ now: UInt64) {
        if let beat, frame.request == beat.request {
            self.beat = nil
            switch frame.message {
            case .done:
                leaseUntil = beat.sentAt + timing.ttl
                outputs.append(.renewed)
            case .pong: break
            // A renewal that crossed the beginning of the scrub is refused, and rightly.
            case .error where phase != .open: break
            case .error(let refusal): end(.refused(refusal))
            default: end(.violation)
            }
            return
        }
        guard pending.removeValue(forKey: frame.request) != nil else { return end(.violation) }
        if phase == .asking { return takeGrant(frame.message, now) }
        switch (frame.request == scrubRequest ? phase : .open, frame.message) {
        case (.filling, .scrubFilled):
            phase = .proving
            scrubRequest = ask(.scrubChallenge(nonce: scrubNonce), deadline: now + timing.scrub)
        case (.proving, .scrubProof(let certificate)): conclude(certificate)
        case (.filling, .error(let refusal)), (.proving, .error(let refusal)): end(.refused(refusal))
        case (_, .error(let refusal)): outputs.append(.answer(frame.request, .failure(.refused(refusal))))
        default: outputs.append(.answer(frame.request, .success(frame.message)))
        }
    }

    private mutating func takeGrant(_ answer: ControlMessage, _ now: UInt64) {
        switch answer {
        case .done:
            phase = .open
            leaseUntil = now + timing.ttl
            renewAt = now + timing.renew
            outputs.append(.granted)
            for lane in lanes.indices {
                lanes[lane].downSince = now
                openLane(lane)
            }
            outputs.append(.answer(grant, .success(.done)))
        case .error(let refusal):
            phase = .ended
            outputs += [.disconnect(link), .answer(grant, .failure(.refused(refusal)))]
        default: end(.violation)
        }
    }

    private mutating func conclude(_ certificate: ScrubCertificate) {
        phase = .ended
        pending = [:]
        outputs += [.closeLanes, .disconnect(link), .ended(nil), .scrubbed(certificate)]
    }

    private mutating func end(_ failure: LeaseFailure) {
        guard phase != .ended else { return }
        // So that the node need not wait for the lease's time to be over.
        if linkState == .up, phase != .asking { send(.leaseRevoke, requestNext) }
        phase = .ended
        outputs += [.closeLanes, .disconnect(link), .ended(failure)]
        for number in pending.keys.sorted() { outputs.append(.answer(number, .failure(failure))) }
        pending = [:]
    }

    // MARK: Sending

    /// Asks what is asked again over a new link.
    private mutating func ask(_ message: ControlMessage, deadline: UInt64?) -> UInt64 {
        let number = nextNumber()
        pending[number] = Pending(message: message, deadline: deadline)
        if linkState == .up { send(message, number) }
        return number
    }

    /// Asks what has a meaning on this link only.
    private mutating func handshake(_ message: ControlMessage) -> UInt64 {
        let number = nextNumber()
        send(message, number)
        return number
    }

    private mutating func nextNumber() -> UInt64 {
        defer { requestNext += 1 }
        return requestNext
    }

    private mutating func send(_ message: ControlMessage, _ number: UInt64) {
        outputs.append(.send(link, ControlFrame(request: number, fence: fence, message: message)))
    }

    private mutating func taken() -> [Output] {
        defer { outputs = [] }
        return outputs
    }
}
