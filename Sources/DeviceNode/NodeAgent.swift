package import FabricProtocol
package import FabricTransport
internal import Sealing
internal import Synchronization
package import Vocabulary

/// The node's agent: lends its device to one lease at a time, and gives it back clean whatever happens to the gateway.
///
/// It accepts a lease only against a receipt of the durable record, and only under a fence higher than every one
/// before; it ends the lease by itself when it is not renewed, and scrubs before it is free again.
package final class NodeAgent: Sendable {
    package static let connectionsMax = 32
    package static let openingMilliseconds = 5000
    /// How long a connection without a lease may stay silent.
    package static let idleMilliseconds = 120_000

    let identity: NodeIdentity
    let configuration: NodeConfiguration
    let measurements: NodeMeasurements
    private let clock: any LeaseClock
    private let makeRunner: RunnerFactory
    private let log: @Sendable (NodeEvent) -> Void
    private let memory: DeviceMemory
    private let state: Monitor<State>
    private let listener = Mutex<Listener?>(nil)

    private struct State {
        var record: NodeRecord
        var phase = Phase.free
        /// The last lease that ended without its gateway's wish, and why: its frames are refused with that.
        var ended: (fence: Fence, cause: ScrubCertificate.Cause)?
        var isDraining = false
        var connections: [ObjectIdentifier: Socket] = [:]
    }

    private enum Phase {
        case free
        case leased(ActiveLease)
        /// One thread is working on the device memory; all others wait.
        case busy
        /// Filled for a watched scrub; the second nonce has to come before the deadline.
        case filled(ActiveLease, seed: [UInt8], deadline: UInt64)
        /// The record could not be stored: no lease until the next start.
        case faulty

        var lease: ActiveLease? {
            switch self {
            case .leased(let lease), .filled(let lease, _, _): lease
            case .free, .busy, .faulty: nil
            }
        }
    }

    /// A node that died during a lease scrubs here, before anyone can reach it.
    package init(
        identity: NodeIdentity, configuration: NodeConfiguration, clock: any LeaseClock = BootClock(),
        log: @escaping @Sendable (NodeEvent) -> Void = { _ in }, makeRunner: @escaping RunnerFactory = executor
    ) throws {
        self.identity = identity
        self.configuration = configuration
        self.clock = clock
        self.log = log
        self.makeRunner = makeRunner
        measurements = try NodeMeasurements(identity: identity, configuration: configuration)
        memory = try DeviceMemory(byteCount: configuration.deviceBytes)
        let record = try NodeRecord.load(configuration.stateFolder)
        state = Monitor(State(record: record))
        if let open = record.open {
            state.withLock { $0.phase = .busy }
            scrub(open, fence: record.fenceHighest, cause: .restart)
        }
    }

    // MARK: Life of the process

    /// Listens, and serves on threads of its own. Gives the port.
    ///
    /// - Parameter beforeServing: done when the port is taken and before any thread is started, in which the process can
    ///   still be confined.
    package func start(
        host: String, port: UInt16, beforeServing: (_ port: UInt16) throws -> Void = { _ in }
    ) throws -> UInt16 {
        let listener = try Listener(host: host, port: port)
        try beforeServing(listener.port)
        self.listener.withLock { $0 = listener }
        startThread { [self] in accept(listener) }
        startThread { [self] in watch() }
        log(.started(port: listener.port, memoryIsLocked: memory.isLocked))
        return listener.port
    }

    /// Ends what runs, scrubs, and closes. Comes back when the device is clean.
    package func shutdown() {
        state.withLock { $0.isDraining = true }
        listener.withLock { $0?.close() }
        end(.shutdown) { _ in true }
        let sockets = state.wait { state -> [Socket]? in
            if case .busy = state.phase { return nil }
            return Array(state.connections.values)
        }
        for socket in sockets ?? [] { socket.close() }
        log(.stopped)
    }

    /// Ends a lease whose time is over. Called often by the agent's own thread; a test calls it when it has moved the
    /// clock.
    package func tick() {
        let now = clock.nanoseconds()
        end(.expiry) { $0.deadline <= now }
    }

    private static let tickMilliseconds = 50

    private func watch() {
        while true {
            let isOver: Bool? = state.wait(milliseconds: Self.tickMilliseconds) { $0.isDraining ? true : nil }
            if isOver != nil { return }
            tick()
        }
    }

    private func accept(_ listener: Listener) {
        while true {
            do throws(TransportError) {
                let socket = try listener.accept()
                let isWelcome = state.withLock { state in
                    guard !state.isDraining, state.connections.count < Self.connectionsMax else { return false }
                    state.connections[ObjectIdentifier(socket)] = socket
                    return true
                }
                guard isWelcome else {
                    socket.close()
                    continue
                }
                startThread { [self] in
                    open(socket)
                    _ = state.withLock { $0.connections.removeValue(forKey: ObjectIdentifier(socket)) }
                }
            } catch {
                if error.code == .closed { return }
            }
        }
    }

    /// A connection shows with its first byte what it is: a TLS handshake, or a lane's magic word.
    private func open(_ socket: Socket) {
        defer { socket.close() }
        do throws(TransportError) {
            var first = [UInt8](repeating: 0, count: 1)
            try first.fill(from: socket, milliseconds: Self.openingMilliseconds)
            if first[0] == Lane.Opening.magic[0] {
                var rest = [UInt8](repeating: 0, count: Lane.Opening.byteCount - 1)
                try rest.fill(from: socket, milliseconds: Self.openingMilliseconds)
                serveLane(socket, opening: first + rest)
            } else {
                let connection = try ControlConnection(
                    socket, tls: identity.tls, milliseconds: Self.openingMilliseconds, received: first)
                try serveControl(connection)
            }
        } catch {
            log(.connectionEnded(error.code))
        }
    }

    private func serveLane(_ socket: Socket, opening bytes: [UInt8]) {
        let lease: ActiveLease? = state.withLock { state in
            if case .leased(let lease) = state.phase { lease } else { nil }
        }
        guard let opening = Lane.Opening(bytes), let lease, lease.owns(opening) else {
            return log(.refused(Refusal(.noLane)))
        }
        lease.windows.serve(
            Lane(
                socket, index: opening.lane, outgoing: .toGateway, control: lease.connection,
                transcript: lease.transcript, fence: lease.fence))
    }

    private func serveControl(_ connection: ControlConnection) throws(TransportError) {
        var session = Session(connection: connection)
        defer { end(.disconnect) { $0.connection === connection } }
        while true {
            let frame = try connection.receive(milliseconds: session.holdsLease ? nil : Self.idleMilliseconds)
            tick()
            let answer: ControlMessage?
            do throws(Refusal) {
                answer = try handle(frame, &session)
            } catch {
                log(.refused(error))
                answer = .error(error)
            }
            if let answer {
                try connection.send(ControlFrame(request: frame.request, fence: frame.fence, message: answer))
            }
        }
    }

    // MARK: Frames

    /// What one control connection has proved so far.
    private struct Session: ~Copyable {
        let connection: ControlConnection
        var attested: Attested?
        var holdsLease = false

        init(connection: ControlConnection) { self.connection = connection }
    }

    private struct Attested: ~Copyable {
        let lease: LeaseID
        let fence: Fence
        let wrappingKey: WrappingKey
        let transcript: Digest
    }

    /// nil where the answer comes later, from another thread.
    private func handle(_ frame: ControlFrame, _ session: inout Session) throws(Refusal) -> ControlMessage? {
        // HELLO alone is answered under any fence: it is how a gateway learns the highest one.
        let highest = state.withLock { $0.record.fenceHighest }
        guard frame.message == .hello || frame.fence >= highest else { throw Refusal(.staleFence) }
        switch frame.message {
        case .hello: return .welcome(welcome)
        case .ping: return .pong
        case .attest(let nonce, let lease):
            return .evidence(try attest(nonce: nonce, lease: lease, fence: frame.fence, &session))
        case .leaseGrant(let grant):
            try self.grant(grant, fence: frame.fence, &session)
            return .done
        case .leaseRenew:
            let lease = try lease(of: session.connection, frame.fence)
            lease.renew(now: clock.nanoseconds())
            return .done
        case .leaseRevoke:
            _ = try lease(of: session.connection, frame.fence)
            end(.revoked) { $0.connection === session.connection }
            return .done
        case .windowMap(let table):
            try lease(of: session.connection, frame.fence).map(table)
            return .done
        case .windowUnmap(let ids):
            try lease(of: session.connection, frame.fence).unmap(ids)
            return .done
        case .programLoad(let program):
            return .programLoaded(try lease(of: session.connection, frame.fence).load(program))
        case .doorbell(let program, let transaction, let arguments):
            let lease = try lease(of: session.connection, frame.fence)
            return try ring(lease, program, transaction, arguments, request: frame.request)
        case .scrubBegin(let seed):
            try beginScrub(try lease(of: session.connection, frame.fence), seed: seed)
            return .scrubFilled
        case .scrubChallenge(let nonce):
            return .scrubProof(try finishScrub(session.connection, frame.fence, nonce: nonce))
        case .welcome, .evidence, .programLoaded, .complete, .scrubFilled, .scrubProof, .pong, .done, .error:
            throw Refusal(.order)
        }
    }

    private var welcome: Welcome {
        let record = state.withLock { $0.record }
        return Welcome(
            node: identity.node, deviceBytes: UInt64(configuration.deviceBytes),
            threads: UInt16(configuration.threads), fenceHighest: record.fenceHighest, lastScrub: record.lastScrub)
    }

    private func attest(
        nonce: [UInt8], lease: LeaseID, fence: Fence, _ session: inout Session
    ) throws(Refusal) -> Evidence {
        guard !session.holdsLease else { throw Refusal(.order) }
        guard fence > state.withLock({ $0.record.fenceHighest }) else { throw Refusal(.staleFence) }
        let key = WrappingKey.generate()
        func evidence(_ signature: [UInt8]) -> Evidence {
            Evidence(
                node: identity.node, level: .software, deviceBytes: UInt64(configuration.deviceBytes),
                wrappingKey: key.publicKey, measurements: measurements.list, signature: signature)
        }
        let transcript = session.connection.transcript(
            isClient: false, nonce: nonce, fence: fence, lease: lease, claims: evidence([]))
        let signed = evidence(identity.attestationKey.sign(transcript.message))
        session.attested = Attested(lease: lease, fence: fence, wrappingKey: key, transcript: transcript.hash)
        return signed
    }

    private func grant(_ grant: LeaseGrant, fence: Fence, _ session: inout Session) throws(Refusal) {
        guard let attested = session.attested.take(), attested.lease == grant.lease, attested.fence == fence else {
            throw Refusal(.order)
        }
        guard grant.deviceBytes <= UInt64(memory.byteCount) else { throw Refusal(.deviceMemory) }
        try LeaseReceipt(identity: identity).check(
            grant.receipt, run: grant.run, lease: grant.lease, fence: fence, evidence: attested.transcript)
        let runKey: SecretBytes
        do {
            runKey = try attested.wrappingKey.unwrap(grant.wrappedRunKey)
        } catch {
            throw Refusal(.runKey)
        }
        try takeDevice(for: grant, fence: fence)
        let lease = ActiveLease(
            grant: grant, fence: fence, connection: session.connection, transcript: attested.transcript,
            now: clock.nanoseconds())
        do {
            lease.adopt(
                try makeRunner(
                    RunnerContext(
                        memory: memory, windows: lease.windows, run: grant.run, fence: fence, attempt: grant.attempt,
                        threads: configuration.threads), runKey))
        } catch {
            scrub(NodeRecord.Lease(run: grant.run, lease: grant.lease), fence: fence, cause: .violation)
            throw Refusal(.deviceMemory)
        }
        state.withLock { $0.phase = .leased(lease) }
        session.holdsLease = true
        log(.leased(run: grant.run, lease: grant.lease, fence: fence))
    }

    /// Ends the lease that is, scrubs after it, and stores the new fence. The phase is `busy` afterwards.
    private func takeDevice(for grant: LeaseGrant, fence: Fence) throws(Refusal) {
        while true {
            end(.takeover) { $0.fence < fence }
            let taken: Bool? = try state.wait { state throws(Refusal) -> Bool? in
                guard !state.isDraining else { throw Refusal(.draining) }
                guard fence > state.record.fenceHighest else { throw Refusal(.staleFence) }
                switch state.phase {
                case .busy: return nil
                case .faulty: throw Refusal(.storage)
                case .leased, .filled: return false
                case .free:
                    var record = state.record
                    record.fenceHighest = fence
                    record.open = NodeRecord.Lease(run: grant.run, lease: grant.lease)
                    do {
                        try record.save(configuration.stateFolder)
                    } catch {
                        throw Refusal(.storage)
                    }
                    state.record = record
                    state.phase = .busy
                    return true
                }
            }
            if taken == true { return }
        }
    }

    private func lease(of connection: ControlConnection, _ fence: Fence) throws(Refusal) -> ActiveLease {
        let (lease, ended) = state.withLock { state -> (ActiveLease?, ScrubCertificate.Cause?) in
            if case .leased(let lease) = state.phase { return (lease, nil) }
            return (nil, state.ended.flatMap { $0.fence == fence ? $0.cause : nil })
        }
        guard let lease, lease.connection === connection, lease.fence == fence else {
            throw Refusal(ended?.refusal ?? .noLease)
        }
        return lease
    }

    private func ring(
        _ lease: ActiveLease, _ program: UInt32, _ transaction: UInt64, _ arguments: [UInt8], request: UInt64
    ) throws(Refusal) -> ControlMessage? {
        if let answer = try lease.begin(transaction) { return answer }
        startThread { [self] in
            let answer = lease.run(program, transaction, arguments)
            if case .error(let refusal) = answer { log(.refused(refusal)) }
            try? lease.connection.send(ControlFrame(request: request, fence: lease.fence, message: answer))
        }
        return nil
    }

    // MARK: Scrub

    /// Ends the lease that `condition` picks, if it does, and scrubs unwatched.
    private func end(_ cause: ScrubCertificate.Cause, where condition: (ActiveLease) -> Bool) {
        let ended: ActiveLease? = state.withLock { state in
            switch state.phase {
            case .leased(let lease) where condition(lease): break
            case .filled(let lease, _, let deadline)
            where cause == .expiry ? deadline <= clock.nanoseconds() : condition(lease): break
            default: return nil
            }
            guard let lease = state.phase.lease else { return nil }
            state.phase = .busy
            state.ended = (lease.fence, cause)
            return lease
        }
        guard let ended else { return }
        if cause != .disconnect, cause != .revoked {
            // On a thread of its own: a gateway that reads nothing must not hold up the end of its lease.
            startThread {
                try? ended.connection.send(
                    ControlFrame(request: 0, fence: ended.fence, message: .error(Refusal(cause.refusal))))
            }
        }
        ended.tearDown()
        scrub(NodeRecord.Lease(run: ended.run, lease: ended.lease), fence: ended.fence, cause: cause)
    }

    private func beginScrub(_ lease: ActiveLease, seed: [UInt8]) throws(Refusal) {
        let mayGo = state.withLock { state in
            guard case .leased(let current) = state.phase, current === lease else { return false }
            state.phase = .busy
            return true
        }
        guard mayGo else { throw Refusal(.noLease) }
        lease.tearDown()
        memory.fill(ScrubPattern(seed: seed, fence: lease.fence))
        let deadline = clock.nanoseconds() + lease.ttlNanoseconds
        state.withLock { $0.phase = .filled(lease, seed: seed, deadline: deadline) }
    }

    private func finishScrub(
        _ connection: ControlConnection, _ fence: Fence, nonce: [UInt8]
    ) throws(Refusal) -> ScrubCertificate {
        let filled: (ActiveLease, [UInt8])? = state.withLock { state in
            guard case .filled(let lease, let seed, _) = state.phase, lease.connection === connection,
                lease.fence == fence
            else { return nil }
            state.phase = .busy
            return (lease, seed)
        }
        guard let (lease, seed) = filled else { throw Refusal(.scrub) }
        let certificate = certify(
            NodeRecord.Lease(run: lease.run, lease: lease.lease), fence: fence, cause: .gateway, seed: seed,
            nonce: nonce)
        guard let certificate else { throw Refusal(.storage) }
        return certificate
    }

    /// The whole scrub without a gateway. The phase is `busy` before and `free` after.
    private func scrub(_ lease: NodeRecord.Lease, fence: Fence, cause: ScrubCertificate.Cause) {
        let seed = RandomBytes.array(ScrubPattern.seedBytes)
        memory.fill(ScrubPattern(seed: seed, fence: fence))
        _ = certify(lease, fence: fence, cause: cause, seed: seed, nonce: RandomBytes.array(ScrubPattern.seedBytes))
    }

    /// Proves filled memory, zeroes it and stores the certificate; then the device is free.
    private func certify(
        _ lease: NodeRecord.Lease, fence: Fence, cause: ScrubCertificate.Cause, seed: [UInt8], nonce: [UInt8]
    ) -> ScrubCertificate? {
        let proof = memory.prove(nonce: nonce, fence: fence)
        memory.zero()
        let certificate = ScrubCertificate(
            node: identity.node, run: lease.run, lease: lease.lease, fence: fence, cause: cause,
            deviceBytes: UInt64(memory.byteCount), seed: seed, nonce: nonce, proof: proof, agent: measurements.agent,
            signedBy: identity.attestationKey)
        let isStored = state.withLock { state in
            var record = state.record
            record.open = nil
            record.lastScrub = certificate
            do {
                try record.save(configuration.stateFolder)
                state.record = record
                state.phase = .free
                return true
            } catch {
                state.phase = .faulty
                return false
            }
        }
        log(isStored ? .scrubbed(lease: lease.lease, fence: fence, cause: cause) : .recordLost)
        return isStored ? certificate : nil
    }
}

/// What the agent has to say, for a log. Fields come from closed sets and identifiers only.
package enum NodeEvent: Sendable {
    case started(port: UInt16, memoryIsLocked: Bool)
    case leased(run: RunID, lease: LeaseID, fence: Fence)
    case scrubbed(lease: LeaseID, fence: Fence, cause: ScrubCertificate.Cause)
    case refused(Refusal)
    case connectionEnded(TransportError.Code)
    /// The state folder could not be written: no lease until the next start.
    case recordLost
    case stopped

    package var name: String {
        switch self {
        case .started: "started"
        case .leased: "leased"
        case .scrubbed: "scrubbed"
        case .refused: "refused"
        case .connectionEnded: "connection-ended"
        case .recordLost: "record-lost"
        case .stopped: "stopped"
        }
    }

    package var fields: [(name: String, value: String)] {
        switch self {
        case .started(let port, let memoryIsLocked):
            [("port", "\(port)"), ("device_memory_locked", "\(memoryIsLocked)")]
        case .leased(let run, let lease, let fence):
            [("run", run.text), ("lease", lease.text), ("fence", "\(fence)")]
        case .scrubbed(let lease, let fence, let cause):
            [("lease", lease.text), ("fence", "\(fence)"), ("cause", "\(cause)")]
        case .refused(let refusal): [("code", "\(refusal.code)"), ("index", "\(refusal.index)")]
        case .connectionEnded(let code): [("code", code.rawValue)]
        case .recordLost, .stopped: []
        }
    }

    package var isProblem: Bool {
        switch self {
        case .refused, .recordLost: true
        default: false
        }
    }
}

extension [UInt8] {
    /// Reads exactly as many bytes as the array has, each within the time.
    fileprivate mutating func fill(from socket: Socket, milliseconds: Int) throws(TransportError) {
        var filled = 0
        while filled < count {
            let result = withUnsafeMutableBytes { bytes in
                Result { () throws(TransportError) in
                    try socket.readSome(
                        into: UnsafeMutableRawBufferPointer(rebasing: bytes[filled...]), milliseconds: milliseconds)
                }
            }
            let count = try result.get()
            guard count > 0 else { throw TransportError(.closed, "the peer closed the connection") }
            filled += count
        }
    }
}

extension ScrubCertificate.Cause {
    /// What a holder whose lease ended for this reason is told.
    fileprivate var refusal: Refusal.Code {
        switch self {
        case .takeover: .staleFence
        case .expiry: .leaseExpired
        case .shutdown: .draining
        case .gateway, .disconnect, .restart, .revoked, .violation: .noLease
        }
    }
}

extension DeviceMemory {
    fileprivate func fill(_ pattern: ScrubPattern) { eachBlock { pattern.fill(block: $0, $1) } }

    fileprivate func prove(nonce: [UInt8], fence: Fence) -> Digest {
        var proof = ScrubProof(nonce: nonce, fence: fence)
        eachBlock { proof.add(UnsafeRawBufferPointer($1)) }
        return proof.finish()
    }

    fileprivate func zero() { withBytes { _ = $0.initializeMemory(as: UInt8.self, repeating: 0) } }

    private func eachBlock(_ body: (Int, UnsafeMutableRawBufferPointer) -> Void) {
        withBytes { bytes in
            for (index, start) in stride(from: 0, to: bytes.count, by: ScrubPattern.blockBytes).enumerated() {
                let end = min(start + ScrubPattern.blockBytes, bytes.count)
                body(index, UnsafeMutableRawBufferPointer(rebasing: bytes[start..<end]))
            }
        }
    }
}
