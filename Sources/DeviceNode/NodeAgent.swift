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
    private let host: AgentHost
    private let state: Monitor<State>
    private let listener = Mutex<Listener?>(nil)

    private struct State {
        var keeper: DeviceKeeper
        /// What works for the lease that the keeper holds.
        var lease: ActiveLease?
        var isDraining = false
        var connections: [ObjectIdentifier: Socket] = [:]
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
        host = AgentHost(identity: identity, configuration: configuration, measurements: measurements)
        let offer = DeviceKeeper.Offer(
            node: identity.node, deviceBytes: UInt64(memory.byteCount), threads: UInt16(configuration.threads))
        var keeper = DeviceKeeper(offer, record: try NodeRecord.load(configuration.stateFolder))
        let first = keeper.start()
        state = Monitor(State(keeper: keeper))
        perform(first)
    }

    // MARK: Life of the process

    /// Listens, and serves on threads of its own. Gives the port.
    ///
    /// - Parameter beforeServing: done when the port is taken and before any thread is started, in which the process can
    ///   still be confined.
    package func start(
        at address: NodeAddress, beforeServing: (_ port: UInt16) throws -> Void = { _ in }
    ) throws -> UInt16 {
        let listener = try Listener(address)
        try beforeServing(listener.port)
        self.listener.withLock { $0 = listener }
        startThread { [self] in accept(listener) }
        startThread { [self] in watch() }
        log(.started(port: listener.port, memoryIsLocked: memory.isLocked))
        return listener.port
    }

    /// Ends what runs, scrubs, and closes. Comes back when the device is clean.
    package func shutdown() {
        let outputs = state.withLock { state in
            state.isDraining = true
            return state.keeper.drain(now: clock.nanoseconds(), host: host)
        }
        listener.withLock { $0?.close() }
        perform(outputs)
        let sockets = state.wait { $0.keeper.isBusy ? nil : Array($0.connections.values) }
        for socket in sockets ?? [] { socket.close() }
        log(.stopped)
    }

    /// Ends a lease whose time is over. Called often by the agent's own thread; a test calls it when it has moved the
    /// clock.
    package func tick() { change { $0.tick(now: $1) } }

    private static let tickMilliseconds = 50

    private func watch() {
        while true {
            let isOver: Bool? = state.wait(milliseconds: Self.tickMilliseconds) { $0.isDraining ? true : nil }
            if isOver != nil { return }
            tick()
        }
    }

    /// Tells the keeper what has happened, and does what it says.
    private func change(_ event: (inout DeviceKeeper, UInt64) -> [DeviceKeeper.Output]) {
        perform(state.withLock { event(&$0.keeper, clock.nanoseconds()) })
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
        let lease = state.withLock { $0.keeper.lanesAllowed == nil ? nil : $0.lease }
        guard let opening = Lane.Opening(bytes), let lease, let lane = lease.lane(opening, over: socket) else {
            return log(.refused(Refusal(.noLane)))
        }
        do throws(TransportError) {
            try lease.windows.serve(lane, lane: Int(opening.lane), serial: opening.serial)
        } catch {
            guard error.code == .protocolViolation else { return log(.connectionEnded(error.code)) }
            log(.refused(Refusal(.frame)))
            change { (keeper, _) in keeper.violated(lease.fence) }
        }
    }

    private func serveControl(_ connection: ControlConnection) throws(TransportError) {
        let link = host.add(connection)
        defer {
            state.withLock { $0.keeper.unlinked(link) }
            host.remove(link)
        }
        while true {
            let frame: ControlFrame
            do throws(TransportError) {
                frame = try connection.receive(milliseconds: Self.idleMilliseconds)
            } catch {
                guard error.code == .timeout, state.withLock({ $0.keeper.isHolding(link) }) else { throw error }
                continue
            }
            change { $0.received(frame, from: link, now: $1, host: host) }
        }
    }

    // MARK: What the keeper says

    private func perform(_ outputs: [DeviceKeeper.Output]) {
        for output in outputs {
            switch output {
            case .send(let link, let frame):
                // Where it cannot be sent, whoever reads this link sees the same.
                try? host.connection(link)?.send(frame)
            case .close(let link): host.connection(link)?.close()
            case .begin(let grant, let fence, let link, let transcript):
                let isMade = begin(grant, fence, link, transcript)
                change { $0.began(isMade, now: $1, host: host) }
            case .relink(let link, let transcript):
                guard let connection = host.connection(link) else { continue }
                state.withLock { $0.lease }?
                    .relink(ActiveLease.Session(connection: connection, transcript: transcript))
            case .load(let fence, let request, let program, let windows):
                let answer = lease(fence)?.load(program, windows: windows)
                change { (keeper, _) in keeper.loaded(fence, request, answer ?? .error(Refusal(.noLease))) }
            case .run(let fence, let program, let transaction, let arguments):
                startThread { [self] in
                    let answer = lease(fence)?.run(program, transaction, arguments)
                    change { (keeper, _) in keeper.ran(fence, transaction, answer ?? .error(Refusal(.noLease))) }
                }
            case .fill(let seed, let fence):
                startThread { [self] in
                    tearDown()
                    memory.fill(seed: seed, fence: fence)
                    change { $0.filled(now: $1, host: host) }
                }
            case .prove(let lease, let fence, let seed, let nonce):
                startThread { [self] in certify(lease, fence: fence, cause: .gateway, seed: seed, nonce: nonce) }
            case .scrub(let lease, let fence, let cause, let notice):
                scrub(lease, fence: fence, cause: cause, notice: notice)
            case .refused(let refusal): log(.refused(refusal))
            }
        }
    }

    /// What works for this fence's lease, while it does: a thread that was held up finds nothing.
    private func lease(_ fence: Fence) -> ActiveLease? {
        state.withLock { $0.lease.flatMap { $0.fence == fence ? $0 : nil } }
    }

    private func begin(_ grant: LeaseGrant, _ fence: Fence, _ link: UInt64, _ transcript: Digest) -> Bool {
        guard let connection = host.connection(link) else { return false }
        do {
            let session = ActiveLease.Session(connection: connection, transcript: transcript)
            let lease = try host.beginLease(link, fence: fence, transcript: transcript) { runKey in
                try ActiveLease(grant, fence: fence, session: session) { windows in
                    try makeRunner(
                        RunnerContext(
                            memory: memory, windows: windows, run: grant.run, fence: fence, attempt: grant.attempt,
                            threads: configuration.threads), runKey)
                }
            }
            state.withLock { $0.lease = lease }
        } catch {
            return false
        }
        log(.leased(run: grant.run, lease: grant.lease, fence: fence))
        return true
    }

    // MARK: Scrub

    private func tearDown() {
        state.withLock { $0.lease }?.tearDown()
        state.withLock { $0.lease = nil }
    }

    /// The whole scrub without a gateway.
    private func scrub(_ lease: NodeRecord.Lease, fence: Fence, cause: ScrubCertificate.Cause, notice: UInt64?) {
        if let connection = notice.flatMap(host.connection) {
            // On a thread of its own: a gateway that reads nothing must not hold up the end of its lease.
            startThread {
                try? connection.send(ControlFrame(request: 0, fence: fence, message: .error(Refusal(cause.refusal))))
            }
        }
        tearDown()
        let seed = RandomBytes.array(ScrubPattern.seedBytes)
        memory.fill(seed: seed, fence: fence)
        certify(lease, fence: fence, cause: cause, seed: seed, nonce: RandomBytes.array(ScrubPattern.seedBytes))
    }

    /// Proves filled memory, zeroes it and signs the certificate; when that is durable, the device is free.
    private func certify(
        _ lease: NodeRecord.Lease, fence: Fence, cause: ScrubCertificate.Cause, seed: [UInt8], nonce: [UInt8]
    ) {
        let proof = memory.proveAndZero(nonce: nonce, fence: fence)
        host.endLease()
        let certificate = ScrubCertificate(
            node: identity.node, run: lease.run, lease: lease.lease, fence: fence, cause: cause,
            deviceBytes: UInt64(memory.byteCount), seed: seed, nonce: nonce, proof: proof, agent: measurements.agent,
            signedBy: identity.attestationKey)
        let outputs = state.withLock { $0.keeper.scrubbed(certificate, now: clock.nanoseconds(), host: host) }
        let isStored = state.withLock { $0.keeper.record.lastScrub == certificate }
        log(isStored ? .scrubbed(lease: lease.lease, fence: fence, cause: cause) : .recordLost)
        perform(outputs)
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

extension DeviceMemory {
    fileprivate func fill(seed: [UInt8], fence: Fence) {
        var pattern = ScrubPattern(seed: seed, fence: fence)
        eachBlock { pattern.fill(block: $0, $1) }
    }

    /// Each block is zeroed while it is still in the cache that its proof took it into.
    fileprivate func proveAndZero(nonce: [UInt8], fence: Fence) -> Digest {
        var proof = ScrubProof(nonce: nonce, fence: fence)
        eachBlock {
            proof.add(UnsafeRawBufferPointer($1))
            $1.initializeMemory(as: UInt8.self, repeating: 0)
        }
        return proof.finish()
    }

    private func eachBlock(_ body: (Int, UnsafeMutableRawBufferPointer) -> Void) {
        withBytes { bytes in
            for (index, start) in stride(from: 0, to: bytes.count, by: ScrubPattern.blockBytes).enumerated() {
                let end = min(start + ScrubPattern.blockBytes, bytes.count)
                body(index, UnsafeMutableRawBufferPointer(rebasing: bytes[start..<end]))
            }
        }
    }
}
