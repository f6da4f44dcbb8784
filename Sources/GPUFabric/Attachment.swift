internal import FabricProtocol
internal import FabricTransport
internal import Sealing
internal import Synchronization
internal import Vocabulary

/// What is behind a `RemoteGPU`: connections, threads and waiting tasks. What is to be done is the holder's to say; one
/// thread does it, in order.
final class Attachment: Sendable {
    typealias Answer = Result<ControlMessage, FabricError>

    private struct State {
        var holder: LeaseHolder
        /// What the holder said and the thread has not done yet.
        var queue: [LeaseHolder.Output] = []
        var waiting: [UInt64: @Sendable (Answer) -> Void] = [:]
        var lanesReady: (@Sendable (Result<Void, FabricError>) -> Void)?
        var isReady = false
        var scrubbed: (@Sendable (Result<ScrubCertificate, FabricError>) -> Void)?
        var transaction: UInt64 = 0
        /// The number under which the doorbell that is out will be answered.
        var doorbell: UInt64?
        var isCalledOff = false
        var isStarted = false
        /// When the node was last known to have renewed the lease.
        var renewed: ContinuousClock.Instant?
        var failure: FabricError?
        var isOver = false
    }

    let session: AttestedSession
    private let run: RunID
    private let pool: NodePool
    private let timing: LeaseTiming
    private let tls: TLSContext
    private let refused: @Sendable (WindowRefusal) -> Void
    private let host: AttachmentHost
    private let state: Monitor<State>
    private let serverMade = Mutex<WindowServer?>(nil)
    private let clock = BootClock()

    init(
        _ session: AttestedSession, run: RunID, pool: NodePool, timing: LeaseTiming, tls: TLSContext,
        refused: @escaping @Sendable (WindowRefusal) -> Void
    ) {
        self.session = session
        self.run = run
        self.pool = pool
        self.timing = timing
        self.tls = tls
        self.refused = refused
        host = AttachmentHost(session)
        state = Monitor(
            State(
                holder: LeaseHolder(
                    lease: session.lease, fence: session.fence, transcript: session.transcript, timing: timing.holder,
                    now: clock.nanoseconds())))
    }

    private var server: WindowServer? { serverMade.withLock { $0 } }

    var failure: FabricError? { state.withLock { $0.failure } }
    var counters: FabricCounters { server?.counters ?? FabricCounters() }

    // MARK: Beginning

    /// On a refusal the node is free again; on anything else it is quarantined.
    func lease(_ grant: LeaseGrant) async throws(FabricError) {
        let answer = await answer { state, answered in
            // The holder's first number. Before any thread: a connection that has ended already ends a lease that was
            // asked for, and whoever asked is told.
            state.waiting[1] = answered
            state.queue += state.holder.begin(grant, now: clock.nanoseconds())
            startThread { [self] in conduct() }
            startThread { [self] in keepTime() }
            startThread { [self] in receive(session.connection, link: 0) }
        }
        do throws(FabricError) {
            guard case .done = try answer.get() else { throw violation() }
        } catch {
            guard error.code == .refused, failure == nil else {
                fail(error)
                throw failure ?? error
            }
            state.withLock { $0.isOver = true }
            pool.release(session.node.id)
            throw error
        }
        let ready: Result<Void, FabricError> = await withCheckedContinuation { continuation in
            let known: Result<Void, FabricError>? = state.withLock { state in
                if let failure = state.failure { return .failure(failure) }
                if state.isReady { return .success(()) }
                state.lanesReady = { continuation.resume(returning: $0) }
                return nil
            }
            if let known { continuation.resume(returning: known) }
        }
        try ready.get()
    }

    private func answer(
        _ ask: @Sendable (inout State, @escaping @Sendable (Answer) -> Void) -> Void
    ) async -> Answer {
        await withCheckedContinuation { continuation in
            state.withLock { ask(&$0) { continuation.resume(returning: $0) } }
        }
    }

    // MARK: Threads

    /// Does what the holder says, in its order, until the lease is over.
    private func conduct() {
        while true {
            let output: LeaseHolder.Output? = state.wait { state -> LeaseHolder.Output?? in
                if !state.queue.isEmpty { return .some(state.queue.removeFirst()) }
                return state.isOver ? .some(nil) : nil
            }!
            guard let output else { break }
            perform(output)
        }
        host.closeAll()
        server?.close()
    }

    private func keepTime() {
        while true {
            let wake = state.withLock { $0.isOver ? nil : $0.holder.wakeAt }
            let now = clock.nanoseconds()
            let milliseconds = wake.map { $0 <= now ? 0 : Int(clamping: ($0 - now + 999_999) / 1_000_000) }
            // Whatever changes may change when to wake.
            let isOver: Bool? = state.wait(milliseconds: min(milliseconds ?? 1000, 1000)) { state in
                if state.isOver { return true }
                return state.holder.wakeAt == wake ? nil : false
            }
            if isOver == true { return }
            change { $0.tick(now: $1) }
        }
    }

    private func receive(_ connection: ControlConnection, link: UInt64) {
        do throws(TransportError) {
            while true {
                let frame = try connection.receive()
                change { $0.received(frame, from: link, now: $1, host: host) }
            }
        } catch {
            if error.code == .protocolViolation {
                fail(FabricError(error))
            } else {
                change { $0.broke(link, now: $1) }
            }
        }
        connection.close()
        host.set(nil, for: link)
    }

    /// Tells the holder what has happened; the conducting thread does what it says.
    private func change(_ event: (inout LeaseHolder, UInt64) -> [LeaseHolder.Output]) {
        state.withLock { $0.queue += event(&$0.holder, clock.nanoseconds()) }
    }

    private func perform(_ output: LeaseHolder.Output) {
        switch output {
        case .send(let link, let frame):
            guard let connection = host[link] else { return }
            do throws(TransportError) {
                try connection.send(frame)
            } catch {
                // The receiver ends with it, and tells.
                connection.close()
            }
        case .connect(let link): startThread { [self] in connect(link) }
        case .disconnect(let link): host[link]?.close()
        case .openLane(let lane, let serial, let link, let transcript):
            guard let connection = host[link] else { return }
            server?.open(lane, WindowServer.Order(serial: serial, connection: connection, transcript: transcript))
        case .closeLanes: server?.cut()
        case .probeLanes: server?.probe()
        case .granted:
            pool.apply(.granted, to: session.node.id)
            renewed()
            let made = WindowServer(session.node, fence: session.fence, timing: timing, refused: refused) {
                [weak self] lane, serial, event in self?.laneHappened(lane, serial, event)
            }
            serverMade.withLock { $0 = made }
        case .ready:
            let waiting = state.withLock { state in
                state.isReady = true
                return state.lanesReady.take()
            }
            waiting?(.success(()))
        case .renewed:
            server?.count { $0.renewals += 1 }
            renewed()
        case .answer(let number, let answer):
            let waiting = state.withLock { $0.waiting.removeValue(forKey: number) }
            // The first cause, where there is one: a lost connection may be our own answer to a violation.
            waiting?(answer.mapError { failure ?? FabricError($0) })
        case .ended(let failure): end(failure)
        case .scrubbed(let certificate):
            state.withLock { $0.scrubbed.take() }?(.success(certificate))
        }
    }

    private func renewed() {
        state.quietly { $0.renewed = .now }
        pool.heard(session.node.id)
    }

    /// Until when the lease lives if it is not renewed again.
    var leaseLeft: Duration? {
        state.quietly { $0.isOver ? nil : $0.renewed }.map {
            $0.advanced(by: .milliseconds(timing.ttlMilliseconds)) - .now
        }
    }

    private func connect(_ link: UInt64) {
        let connected: ControlConnection
        do throws(FabricError) {
            let milliseconds = Int(timing.holder.attempt / 1_000_000)
            connected = try overTransport { () throws(TransportError) in
                try ControlConnection.connect(
                    session.node.address, tls: tls, milliseconds: milliseconds,
                    unheardMilliseconds: timing.unheardMilliseconds)
            }
        } catch {
            return change { $0.broke(link, now: $1) }
        }
        do throws(FabricError) {
            try session.node.checkCertificate(of: connected)
        } catch {
            connected.close()
            return fail(error)
        }
        host.set(connected, for: link)
        server?.count { $0.relinks += 1 }
        startThread { [self] in receive(connected, link: link) }
        change { $0.connected(link, now: $1) }
    }

    private func laneHappened(_ lane: Int, _ serial: UInt32, _ event: WindowServer.LaneEvent) {
        switch event {
        case .up: change { $0.laneUp(lane, serial: serial, now: $1) }
        case .broke: change { $0.laneBroke(lane, serial: serial, now: $1) }
        case .failed(let error): fail(error)
        }
    }

    // MARK: Working

    func map(_ windows: [MappedWindow]) throws(FabricError) {
        guard let server, failure == nil else { throw failure ?? ended }
        try server.map(windows)
    }

    func unmap(_ ids: [UInt16]) { server?.unmap(ids) }

    func nextTransaction() -> UInt64 {
        server?.count { $0.doorbells += 1 }
        return state.withLock { state in
            state.transaction += 1
            return state.transaction
        }
    }

    func started() {
        let isFirst = state.withLock { state in
            defer { state.isStarted = true }
            return !state.isStarted && state.holder.isOpen
        }
        if isFirst { pool.apply(.started, to: session.node.id) }
    }

    func ask(_ message: ControlMessage) async throws(FabricError) -> ControlMessage {
        try await answer { state, answered in _ = ask(message, isBounded: true, &state, answered) }.get()
    }

    /// A doorbell may take as long as the lease lives, and may be called off: its answer is then nobody's.
    func doorbell(_ message: ControlMessage) async throws(FabricError) -> ControlMessage {
        try await answer { state, answered in
            guard !state.isCalledOff else { return answered(.failure(Self.calledOff)) }
            state.doorbell = ask(message, isBounded: false, &state, answered)
        }.get()
    }

    /// - Parameter isBounded: whether the answer must come in the time of a request.
    private func ask(
        _ message: ControlMessage, isBounded: Bool, _ state: inout State,
        _ answered: @escaping @Sendable (Answer) -> Void
    ) -> UInt64 {
        let (number, outputs) = state.holder.ask(message, isBounded: isBounded, now: clock.nanoseconds())
        state.waiting[number] = answered
        state.queue += outputs
        // Nobody conducts any more.
        if state.isOver { state.queue = [] }
        if state.isOver, let waiting = state.waiting.removeValue(forKey: number) {
            waiting(.failure(state.failure ?? ended))
        }
        return number
    }

    private static let calledOff = FabricError(.detached, "the work was called off")

    func callOff() {
        let waiting = state.withLock { state in
            state.isCalledOff = true
            return state.doorbell.flatMap { state.waiting.removeValue(forKey: $0) }
        }
        waiting?(.failure(Self.calledOff))
    }

    func ask(_ message: ControlMessage, for expected: ControlMessage) async throws(FabricError) {
        guard try await ask(message) == expected else { throw violation() }
    }

    func violation() -> FabricError {
        let error = FabricError(.protocolViolation, "the node answered wrongly")
        fail(error)
        return error
    }

    private var ended: FabricError { FabricError(.detached, "the attachment has ended") }

    // MARK: Ending

    func scrub() async throws(FabricError) -> ScrubCertificate {
        let seed = RandomBytes.array(ScrubPattern.seedBytes)
        let nonce = RandomBytes.array(ScrubPattern.seedBytes)
        let result: Result<ScrubCertificate, FabricError> = await withCheckedContinuation { continuation in
            let refusal: FabricError? = state.withLock { state in
                guard state.holder.isOpen, state.scrubbed == nil, !state.isOver else { return state.failure ?? ended }
                pool.apply(.drained, .scrubBegan, to: session.node.id)
                state.scrubbed = { continuation.resume(returning: $0) }
                state.queue += state.holder.scrub(seed: seed, nonce: nonce, now: clock.nanoseconds())
                return nil
            }
            if let refusal { continuation.resume(returning: .failure(refusal)) }
        }
        let certificate = try result.get()
        let isGood = await onThread { [session, run] in
            certificate.cause == .gateway && certificate.seed == seed && certificate.nonce == nonce
                && certificate.fence == session.fence && certificate.lease == session.lease && certificate.run == run
                && certificate.isGood(of: session)
        }
        guard isGood else {
            let error = FabricError(.scrubUnproven, "the certificate does not fit the memory or the lease")
            state.withLock { quarantine(error, &$0) }
            throw error
        }
        pool.apply(.scrubbed, to: session.node.id)
        return certificate
    }

    /// Tears everything down, once, and keeps the node out of the pool.
    func fail(_ error: FabricError) {
        state.withLock { state in
            guard !state.holder.isEnded else { return }
            quarantine(error, &state)
            state.queue += state.holder.fail(.detached)
        }
    }

    /// The holder has ended: nil after a scrub.
    private func end(_ failure: LeaseFailure?) {
        if let failure {
            state.withLock { state in
                let error = FabricError(failure)
                quarantine(
                    state.scrubbed == nil
                        ? error : FabricError(.scrubUnproven, "the scrub is not proved: \(error.publicDescription)"),
                    &state)
            }
        }
        server?.close()
        let (lanesReady, scrubbed, failure) = state.withLock { state in
            state.isOver = true
            return (state.lanesReady.take(), failure == nil ? nil : state.scrubbed.take(), state.failure)
        }
        guard let failure else { return }
        lanesReady?(.failure(failure))
        scrubbed?(.failure(failure))
    }

    /// Before anybody can see the failure, so that whoever is told of it finds the node out of the pool. The first cause
    /// counts.
    private func quarantine(_ error: FabricError, _ state: inout State) {
        guard state.failure == nil else { return }
        pool.quarantine(session.node.id, code: error.code.rawValue, index: error.index, fence: session.fence)
        state.failure = error
    }
}

/// The attachment's connections and keys, as the holder asks for them.
private final class AttachmentHost: HolderHost, Sendable {
    private let session: AttestedSession
    private let resumption: LeaseResumption
    private let connections: Mutex<[UInt64: ControlConnection]>

    init(_ session: AttestedSession) {
        self.session = session
        resumption = LeaseResumption(
            secret: session.connection.export(label: LeaseResumption.label, context: session.transcript.bytes))
        connections = Mutex([0: session.connection])
    }

    subscript(link: UInt64) -> ControlConnection? {
        get { connections.withLock { $0[link] } }
    }

    func set(_ connection: ControlConnection?, for link: UInt64) { connections.withLock { $0[link] = connection } }

    func closeAll() { for connection in connections.withLock({ Array($0.values) }) { connection.close() } }

    func nonce() -> [UInt8] { RandomBytes.array(32) }

    func judge(_ evidence: Evidence, nonce: [UInt8], link: UInt64) throws(LeaseFailure) -> Digest {
        guard let connection = self[link] else { throw .lost }
        do throws(FabricError) {
            return try session.node.judge(
                evidence, over: connection, nonce: nonce, fence: session.fence, lease: session.lease)
        } catch {
            throw .evidence(index: error.index)
        }
    }

    func proof(transcript: Digest) -> [UInt8] { resumption.proof(transcript: transcript) }
}

extension FabricError {
    init(_ failure: LeaseFailure) {
        switch failure {
        case .lost: self.init(.lost, "the node could not be reached for as long as its lease lives")
        case .timeout: self.init(.timeout, "the node did not answer in time")
        case .violation: self.init(.protocolViolation, "the node answered what was not asked")
        case .refused(let refusal): self.init(refusal)
        case .evidence(let index):
            self.init(.evidence, "the evidence on another connection is not this node's, or not allowed", index: index)
        case .detached: self.init(.detached, "the attachment has ended")
        }
    }
}
