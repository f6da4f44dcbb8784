package import FabricProtocol
internal import FabricTransport
package import Sealing
package import Vocabulary

/// The gateway's side of the fabric: attaches remote GPUs, one run at a time each, and gets them back scrubbed.
///
/// An attachment goes `attest → lease → map → load → ring … → scrub`; the caller writes its trail records between the
/// steps. `withAttachment` runs what follows the lease and always scrubs.
package final class Fabric: Sendable {
    private let pool: NodePool
    private let tls: TLSContext
    private let timing: LeaseTiming

    /// `quarantineFile` keeps the quarantined nodes over restarts.
    package init(
        nodes: [FabricNode], identity: TLSContext, quarantineFile: String, clock: any WallClock,
        timing: LeaseTiming = LeaseTiming()
    ) throws {
        pool = try NodePool(nodes: nodes, path: quarantineFile, clock: clock)
        tls = identity
        self.timing = timing
    }

    /// Adds nodes, or changes what is known of them, while others are held.
    package func update(_ nodes: [FabricNode]) { pool.update(nodes) }

    /// All nodes and where they are in their lives, by name.
    package var nodes: [NodeStatus] { pool.statuses }

    /// Takes a free node for `lease`, measures the link and checks the node's evidence, freshly made for this
    /// connection, lease and fence.
    ///
    /// A mismatch quarantines the node. What comes back holds the node until it is leased or given up.
    package func attest(_ id: NodeID, lease: LeaseID, fence: Fence) async throws(FabricError) -> AttestedNode {
        let node = try pool.begin(id)
        let result = await onThread { [self] in
            Result { () throws(FabricError) in try attestation(of: node, lease: lease, fence: fence) }
        }
        switch result {
        case .success(let session):
            pool.apply(.attested, .reserved, to: id)
            return AttestedNode(session, pool: pool, timing: timing, tls: tls)
        case .failure(let error):
            if error.code == .evidence {
                pool.quarantine(id, code: error.code.rawValue, index: error.index, fence: nil)
            } else {
                pool.release(id)
            }
            throw error
        }
    }

    /// Brings a quarantined node back: it must pass a new attestation and, where it was leased, show its signed and
    /// proved scrub certificate for that lease or a later one, which comes back for the trail.
    package func reinstate(_ id: NodeID) async throws(FabricError) -> ScrubCertificate? {
        let status = try pool.status(id)
        guard let quarantine = status.quarantine else {
            throw FabricError(.notQuarantined, "the node is not quarantined")
        }
        let result = await onThread { [self] in
            Result { () throws(FabricError) in
                let session = try attestation(of: status.node, lease: Self.inspection, fence: nil)
                defer { session.connection.close() }
                guard let fence = quarantine.fence else { return ScrubCertificate?.none }
                // A fence is durable on the node before its lease is anything: what it never stored it never had.
                let owed = min(fence, session.welcome.fenceHighest)
                guard owed > Fence(0) else { return ScrubCertificate?.none }
                guard let scrub = session.welcome.lastScrub, scrub.fence >= owed, scrub.isGood(of: session)
                else { throw FabricError(.scrubUnproven, "the node shows no scrub of its last lease") }
                return scrub
            }
        }
        let certificate = try result.get()
        try pool.reinstate(id)
        return certificate
    }

    /// Measures the link to a free node. Its evidence is checked on the way; a mismatch quarantines it, as at an attach.
    package func measure(_ id: NodeID) async throws(FabricError) -> LinkMeasurement {
        let node = try pool.begin(id)
        let result = await onThread { [self] in
            Result { () throws(FabricError) in
                let session = try attestation(of: node, lease: Self.inspection, fence: nil)
                session.connection.close()
                return session.link
            }
        }
        switch result {
        case .success(let link):
            pool.apply(.attested, to: id)
            return link
        case .failure(let error):
            if error.code == .evidence {
                pool.quarantine(id, code: error.code.rawValue, index: error.index, fence: nil)
            } else {
                pool.release(id)
            }
            throw error
        }
    }

    /// Asks every node that no lease of this gateway keeps in touch with whether it is there: certificate, name, one PING.
    /// What came of it is in `nodes`.
    package func askAll() async {
        await withTaskGroup { group in
            for status in nodes where [.absent, .free, .quarantined].contains(status.state) {
                group.addTask { [self] in await onThread { [self] in ask(status.node) } }
            }
        }
    }

    private func ask(_ node: FabricNode) {
        let milliseconds = Int(timing.ttlMilliseconds)
        guard
            let connection = try? ControlConnection.connect(
                node.address, tls: tls, milliseconds: milliseconds)
        else { return pool.notHeard(node.id) }
        defer { connection.close() }
        do throws(FabricError) {
            try node.checkCertificate(of: connection)
            var call = Handshake(connection: connection, milliseconds: milliseconds)
            guard case .welcome(let welcome) = try call.ask(.hello, fence: Fence(0)), welcome.node == node.id else {
                return pool.notHeard(node.id)
            }
            let start = BootClock().nanoseconds()
            guard case .pong = try call.ask(.ping([]), fence: welcome.fenceHighest) else {
                return pool.notHeard(node.id)
            }
            pool.heard(node.id, roundTripNanoseconds: BootClock().nanoseconds() - start)
        } catch {
            pool.notHeard(node.id)
        }
    }

    /// Keeps a node out of the pool: by an operator's word, or because a lease on it was lost.
    ///
    /// - Parameter fence: of that lease; the node is back only when it shows a scrub of this fence or a later one.
    package func quarantine(_ id: NodeID, code: String, fence: Fence? = nil) throws(FabricError) {
        _ = try pool.status(id)
        pool.quarantine(id, code: code, index: nil, fence: fence)
    }

    /// When a lease that was lost on a node is over there for certain, by the node's own clock: what it held runs no more.
    ///
    /// A lease of an earlier process counts from this one's start. What was sent before the loss may still be on its way;
    /// a connection on which nothing is acknowledged for a third of the lease's time ends, so nothing comes later than that.
    package func leaseOver(on id: NodeID) -> ContinuousClock.Instant {
        pool.abandoned(id).advanced(by: .milliseconds(timing.settlingMilliseconds))
    }

    private static let inspection = try! LeaseID("inspection")

    /// Blocks. `fence` nil takes the next one the node would accept: an inspection, not a lease.
    private func attestation(
        of node: FabricNode, lease: LeaseID, fence: Fence?
    ) throws(FabricError) -> AttestedSession {
        let milliseconds = timing.requestSeconds * 1000
        let connection = try overTransport { () throws(TransportError) in
            try ControlConnection.connect(
                node.address, tls: tls, milliseconds: milliseconds,
                unheardMilliseconds: timing.unheardMilliseconds)
        }
        do throws(FabricError) {
            var call = Handshake(connection: connection, milliseconds: milliseconds)
            return try attest(node, lease: lease, fence: fence, over: &call)
        } catch {
            connection.close()
            throw error
        }
    }

    private func attest(
        _ node: FabricNode, lease: LeaseID, fence asked: Fence?, over call: inout Handshake
    ) throws(FabricError) -> AttestedSession {
        let connection = call.connection
        try node.checkCertificate(of: connection)
        guard case .welcome(let welcome) = try call.ask(.hello, fence: asked ?? Fence(0)), welcome.node == node.id
        else { throw FabricError(.protocolViolation, "the node does not say its name") }
        let fence = asked ?? welcome.fenceHighest.next
        let link = try call.measureLink(fence: fence)
        let nonce = RandomBytes.array(32)
        guard case .evidence(let evidence) = try call.ask(.attest(nonce: nonce, lease: lease), fence: fence) else {
            throw FabricError(.protocolViolation, "the node did not answer the challenge")
        }
        let transcript = try node.judge(
            evidence, over: connection, nonce: nonce, fence: fence, lease: lease)
        return AttestedSession(
            node: node, connection: connection, lease: lease, fence: fence, evidence: evidence,
            transcript: transcript, link: link, welcome: welcome)
    }
}

extension FabricNode {
    func checkCertificate(of connection: ControlConnection) throws(FabricError) {
        guard connection.peerCertificate == enrolment.certificate else {
            throw FabricError(.untrustedPeer, "not the certificate that this node was enrolled with")
        }
    }

    /// Checks evidence that came over a connection against everything this end knows; gives its transcript's hash.
    func judge(
        _ evidence: Evidence, over connection: ControlConnection, nonce: [UInt8], fence: Fence, lease: LeaseID
    ) throws(FabricError) -> Digest {
        let transcript = connection.transcript(
            isClient: true, nonce: nonce, fence: fence, lease: lease, claims: evidence)
        guard evidence.node == id, enrolment.attestationKey.isValid(evidence.signature, for: transcript.message)
        else { throw FabricError(.evidence, "the evidence is not this node's, or not for this connection") }
        switch policy.judge(evidence) {
        case .accepted: return transcript.hash
        case .level: throw FabricError(.evidence, "the evidence level is below the one asked for")
        case .missing: throw FabricError(.evidence, "a measurement is missing")
        case .measurement(let index):
            throw FabricError(.evidence, "a measurement is not on the list of allowed ones", index: index)
        }
    }
}

/// How leases are kept alive, over how many lanes, and how long the node may take to answer.
package struct LeaseTiming: Sendable {
    package var ttlMilliseconds: UInt32 = 3000
    package var renewMilliseconds = 1000
    package var requestSeconds = 10
    /// A scrub writes and reads the whole device memory.
    package var scrubSeconds = 600
    /// Between two tries to connect again.
    package var retryMilliseconds = 50
    package var lanes = 2
    /// A lane that has carried so much is opened anew, with fresh keys.
    package var laneBytesMax = LaneRecord.keyBytesMax

    package init() {}

    /// A control connection on which what was sent is not acknowledged for so long ends.
    var unheardMilliseconds: Int { Int(ttlMilliseconds) / 3 }

    /// From when a lease is given up here until it is over at the node, whatever is still on its way.
    var settlingMilliseconds: Int { Int(ttlMilliseconds) + 2 * unheardMilliseconds }

    var holder: LeaseHolder.Timing {
        LeaseHolder.Timing(
            ttl: UInt64(ttlMilliseconds) * 1_000_000, renew: UInt64(renewMilliseconds) * 1_000_000,
            request: UInt64(requestSeconds) * 1_000_000_000, scrub: UInt64(scrubSeconds) * 1_000_000_000,
            retry: UInt64(retryMilliseconds) * 1_000_000, lanes: lanes)
    }
}

/// The link as it was measured at attach, over the control channel.
package struct LinkMeasurement: Hashable, Sendable {
    package let roundTripNanoseconds: UInt64
    package let jitterNanoseconds: UInt64
    package let bytesPerSecond: UInt64
    /// What the measurement itself took.
    package let measuringNanoseconds: UInt64
}

/// A connection whose other end has proved what it is.
struct AttestedSession: Sendable {
    let node: FabricNode
    let connection: ControlConnection
    let lease: LeaseID
    let fence: Fence
    let evidence: Evidence
    let transcript: Digest
    let link: LinkMeasurement
    let welcome: Welcome
}

extension ScrubCertificate {
    /// Whether this is the attested node's own, over its whole memory, and computed right. Blocks for the whole
    /// memory's worth of work.
    func isGood(of session: AttestedSession) -> Bool {
        node == session.node.id && deviceBytes == session.evidence.deviceBytes
            && isSigned(by: session.node.enrolment.attestationKey) && isProved
    }
}

/// One question after another, before the channel has a thread of its own.
private struct Handshake {
    let connection: ControlConnection
    let milliseconds: Int
    private var next: UInt64 = 1

    init(connection: ControlConnection, milliseconds: Int) {
        self.connection = connection
        self.milliseconds = milliseconds
    }

    mutating func ask(_ message: ControlMessage, fence: Fence) throws(FabricError) -> ControlMessage {
        let number = next
        let answer = try overTransport { () throws(TransportError) in
            try connection.send(ControlFrame(request: number, fence: fence, message: message))
            return try connection.receive(milliseconds: milliseconds)
        }
        guard answer.request == number else {
            throw FabricError(.protocolViolation, "the node answered another question")
        }
        next += 1
        if case .error(let refusal) = answer.message { throw FabricError(refusal) }
        return answer.message
    }

    /// The least of several empty round trips, and the best rate of a few large ones.
    mutating func measureLink(fence: Fence) throws(FabricError) -> LinkMeasurement {
        let clock = BootClock()
        let began = clock.nanoseconds()
        var trips: [UInt64] = []
        for _ in 0..<16 {
            let start = clock.nanoseconds()
            _ = try ask(.ping([]), fence: fence)
            trips.append(clock.nanoseconds() - start)
        }
        trips.sort()
        var rate: UInt64 = 0
        let payload = RandomBytes.array(512 * 1024)
        for _ in 0..<4 {
            let start = clock.nanoseconds()
            _ = try ask(.ping(payload), fence: fence)
            let spent = clock.nanoseconds() - start
            rate = max(rate, UInt64(payload.count) * 1_000_000_000 / max(1, spent - min(spent, trips[0])))
        }
        return LinkMeasurement(
            roundTripNanoseconds: trips[0], jitterNanoseconds: trips[trips.count * 9 / 10] - trips[0],
            bytesPerSecond: rate, measuringNanoseconds: clock.nanoseconds() - began)
    }
}

/// Runs blocking work away from the shared pool.
func onThread<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async -> Value {
    await withCheckedContinuation { continuation in startThread { continuation.resume(returning: body()) } }
}
