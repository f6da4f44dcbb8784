package import FabricProtocol
internal import FabricTransport
package import Sealing
internal import Synchronization
package import Vocabulary

/// A node that has proved what it is and waits for its lease. Held by one run; nobody else can take it.
///
/// A class and not a `~Copyable` value, because the run's decision and its records come between attestation and lease,
/// in other files; dropping it gives the node back.
package final class AttestedNode: Sendable {
    private let session: AttestedSession
    private let pool: NodePool
    private let timing: LeaseTiming
    private let taken = Mutex(false)

    init(_ session: AttestedSession, pool: NodePool, timing: LeaseTiming) {
        self.session = session
        self.pool = pool
        self.timing = timing
    }

    deinit { giveUp() }

    package var node: NodeID { session.node.id }
    package var lease: LeaseID { session.lease }
    package var fence: Fence { session.fence }
    package var level: EvidenceLevel { session.evidence.level }
    package var measurements: [Measurement] { session.evidence.measurements }
    package var deviceBytes: Int { Int(session.evidence.deviceBytes) }
    /// Kernel threads of the node.
    package var threads: Int { Int(session.welcome.threads) }
    package var link: LinkMeasurement { session.link }
    /// The hash of the signed transcript: goes into the record of the lease.
    package var evidence: Digest { session.transcript }
    /// The node's latest scrub, which may be of a lease that ended without a gateway. Signature checked.
    package var lastScrub: ScrubCertificate? {
        session.welcome.lastScrub.flatMap {
            $0.node == node && $0.isSigned(by: session.node.enrolment.attestationKey) ? $0 : nil
        }
    }

    /// Gives the node back without a lease.
    package func giveUp() {
        guard claim() else { return }
        session.connection.close()
        pool.release(node)
    }

    /// The device's key for this session, in its signed evidence: the vault wraps the run key to it.
    package var wrappingKey: PublicWrappingKey { session.evidence.wrappingKey }

    /// Asks for the lease. The run key crosses here, once, wrapped to `wrappingKey`; this host never has it in clear.
    ///
    /// `receipt` proves that the record of this lease is durable; the node checks it itself. `refused` is called for
    /// each access outside a window, before the attachment is torn down. When the node refuses, it is free again.
    package func lease(
        run: RunID, attempt: UInt32, receipt: [UInt8], wrappedRunKey: [UInt8],
        refused: @escaping @Sendable (WindowRefusal) -> Void = { _ in }
    ) async throws(FabricError) -> RemoteGPU {
        guard receipt.count <= LeaseGrant.receiptBytesMax else {
            throw FabricError(.protocolViolation, "a receipt is longer than its limit")
        }
        guard claim() else { throw FabricError(.detached, "the node was leased or given up already") }
        let grant = LeaseGrant(
            lease: lease, run: run, attempt: attempt, ttlMilliseconds: timing.ttlMilliseconds,
            deviceBytes: session.evidence.deviceBytes, receipt: receipt,
            wrappedRunKey: wrappedRunKey)
        let attachment = Attachment(session, run: run, pool: pool, timing: timing, refused: refused)
        try await attachment.begin(grant)
        return RemoteGPU(attachment)
    }

    private func claim() -> Bool {
        taken.withLock { taken in
            defer { taken = true }
            return !taken
        }
    }
}

/// A GPU pulled in for one run.
///
/// Ends by `scrub()`. Dropping it before that, losing the node, or an access outside a window quarantines the node.
package final class RemoteGPU: Sendable {
    private let attachment: Attachment

    fileprivate init(_ attachment: Attachment) { self.attachment = attachment }

    deinit { attachment.fail(FabricError(.detached, "the attachment was dropped without a scrub")) }

    package var node: NodeID { attachment.session.node.id }
    package var lease: LeaseID { attachment.session.lease }
    package var fence: Fence { attachment.session.fence }
    package var deviceBytes: Int { Int(attachment.session.evidence.deviceBytes) }
    package var link: LinkMeasurement { attachment.session.link }
    package var counters: FabricCounters { attachment.counters }
    /// Why the attachment has failed, if it has.
    package var failure: FabricError? { attachment.failure }

    /// Opens windows to the device. Their `WindowTable.hash` is recorded by the caller before.
    package func map(_ windows: [MappedWindow]) async throws(FabricError) {
        let table: WindowTable
        do {
            table = try WindowTable(windows.map(\.window))
        } catch {
            throw FabricError(.protocolViolation, "the window table was refused: \(error)")
        }
        try attachment.map(windows)
        do {
            try await attachment.ask(.windowMap(table), for: .done)
        } catch {
            attachment.unmap(table.windows.map(\.id))
            throw error
        }
    }

    /// Closes windows. The gateway refuses them from here on, whatever the node does.
    package func unmap(_ ids: [UInt16]) async throws(FabricError) {
        attachment.unmap(ids)
        try await attachment.ask(.windowUnmap(ids.sorted()), for: .done)
    }

    /// Uploads a program; the node checks it against its windows and memory. Gives the number to ring it by.
    package func load(_ program: [UInt8]) async throws(FabricError) -> UInt32 {
        guard program.count <= Limits.programBytesMax else {
            throw FabricError(.protocolViolation, "a program is longer than its limit")
        }
        let answer = try await attachment.ask(.programLoad(program))
        guard case .programLoaded(let number) = answer else { throw attachment.violation() }
        attachment.started()
        return number
    }

    /// Runs a loaded program once and gives what it reports. All its writes are stored when this comes back.
    package func ring(_ program: UInt32, _ arguments: [UInt8]) async throws(FabricError) -> [UInt8] {
        let transaction = attachment.nextTransaction()
        let answer = try await attachment.doorbell(
            .doorbell(program: program, transaction: transaction, arguments: arguments))
        guard case .complete(transaction, let result) = answer else { throw attachment.violation() }
        return result
    }

    /// Calls off the doorbell that is out, and every later one: whoever waits for it is told at once. The device itself is
    /// stopped by the scrub, which is what comes next.
    package func callOff() { attachment.callOff() }

    /// Ends the lease: keys erased, memory overwritten, proved and zeroed. The node is free again.
    ///
    /// Throws when the scrub is not proved; the node is quarantined then.
    package func scrub() async throws(FabricError) -> ScrubCertificate { try await attachment.scrub() }
}

/// What came of an attachment: the body's result and, apart from it, the scrub's.
package struct AttachmentOutcome<Value: Sendable>: Sendable {
    package let result: Result<Value, any Error>
    package let scrub: Result<ScrubCertificate, FabricError>
    package let counters: FabricCounters
}

extension Fabric {
    /// Lends a leased GPU to `body`, then scrubs it, whether `body` succeeds or throws.
    package func withAttachment<Value: Sendable>(
        _ gpu: RemoteGPU, isolation: isolated (any Actor)? = #isolation,
        _ body: (RemoteGPU) async throws -> Value
    ) async -> AttachmentOutcome<Value> {
        let result: Result<Value, any Error>
        do {
            result = .success(try await body(gpu))
        } catch {
            result = .failure(error)
        }
        let counters = gpu.counters
        let scrub: Result<ScrubCertificate, FabricError>
        do throws(FabricError) {
            scrub = .success(try await gpu.scrub())
        } catch {
            scrub = .failure(error)
        }
        return AttachmentOutcome(result: result, scrub: scrub, counters: counters)
    }
}

/// Whoever waits for a doorbell, told once: the node's answer to work that was called off comes later and is dropped.
private final class DoorbellWait: Sendable {
    private typealias Waiting = CheckedContinuation<Result<ControlMessage, FabricError>, Never>
    private let waiting: Mutex<Waiting?>

    init(_ continuation: CheckedContinuation<Result<ControlMessage, FabricError>, Never>) {
        waiting = Mutex(continuation)
    }

    func end(_ answer: Result<ControlMessage, FabricError>) {
        let continuation = waiting.withLock { waiting in
            defer { waiting = nil }
            return waiting
        }
        continuation?.resume(returning: answer)
    }
}

/// The state behind a `RemoteGPU`, which its threads share: control channel, lane, renewal.
private final class Attachment: Sendable {
    private enum Phase { case asking, open, scrubbing, ended }

    private struct State {
        var phase = Phase.asking
        var failure: FabricError?
        var transaction: UInt64 = 0
        var isStarted = false
        var server: WindowServer?
        var isCalledOff = false
        /// Whoever waits for the doorbell that is out.
        var doorbell: DoorbellWait?
    }

    let session: AttestedSession
    private let run: RunID
    private let pool: NodePool
    private let timing: LeaseTiming
    private let refused: @Sendable (WindowRefusal) -> Void
    private let state = Monitor(State())
    private let clientHolder = Mutex<ControlClient?>(nil)

    static let laneIndex: UInt16 = 0

    init(
        _ session: AttestedSession, run: RunID, pool: NodePool, timing: LeaseTiming,
        refused: @escaping @Sendable (WindowRefusal) -> Void
    ) {
        self.session = session
        self.run = run
        self.pool = pool
        self.timing = timing
        self.refused = refused
    }

    private var client: ControlClient { clientHolder.withLock { $0! } }

    var failure: FabricError? { state.withLock { $0.failure } }
    var counters: FabricCounters { state.withLock { $0.server }?.counters ?? FabricCounters() }

    // MARK: Beginning

    /// On a refusal the node is free again; on anything else it is quarantined.
    func begin(_ grant: LeaseGrant) async throws(FabricError) {
        let client = ControlClient(session.connection, fence: session.fence) { [weak self] in self?.fail($0) }
        clientHolder.withLock { $0 = client }
        client.start()
        do throws(FabricError) {
            guard case .done = try await answer(to: grant, client) else { throw violation() }
        } catch {
            guard error.code == .refused, failure == nil else {
                fail(error)
                throw error
            }
            state.withLock { $0.phase = .ended }
            client.close(error)
            pool.release(session.node.id)
            throw error
        }
        let opened = await onThread { [self] in Result { () throws(FabricError) in try openLane() } }
        do throws(FabricError) {
            let server = try opened.get()
            state.withLock { $0.server = server }
        } catch {
            fail(error)
            throw error
        }
    }

    /// Asks for the lease, and keeps it alive from the moment of the answer, not from when the asking task is resumed:
    /// where the shared pool is busy, that may be longer than a lease lives.
    private func answer(to grant: LeaseGrant, _ client: ControlClient) async throws(FabricError) -> ControlMessage {
        let answer = await withCheckedContinuation { continuation in
            // A takeover scrubs the lease before first.
            client.send(.leaseGrant(grant), seconds: timing.scrubSeconds) { [self] answer in
                if case .success(.done) = answer {
                    pool.apply(.granted, to: session.node.id)
                    state.withLock { if $0.phase == .asking { $0.phase = .open } }
                    startThread { [self] in renew() }
                }
                continuation.resume(returning: answer)
            }
        }
        return try answer.get()
    }

    private func openLane() throws(FabricError) -> WindowServer {
        let session = session
        let milliseconds = timing.requestSeconds * 1000
        let lane = try overTransport { () throws(TransportError) in
            let socket = try Socket.connect(
                host: session.node.host, port: session.node.port, milliseconds: milliseconds)
            let token = session.connection.export(
                label: LaneRecord.tokenLabel,
                context: LaneRecord.tokenContext(transcript: session.transcript, lane: Self.laneIndex))
            try socket.writeAll(Lane.Opening(lane: Self.laneIndex, token: token.withBytes { Array($0) }).bytes)
            return Lane(
                socket, index: Self.laneIndex, outgoing: .toNode, control: session.connection,
                transcript: session.transcript, fence: session.fence)
        }
        let server = WindowServer(lane, refused: refused) { [weak self] in self?.laneEnded($0) }
        try server.start()
        return server
    }

    private func renew() {
        while true {
            let isOver: Bool? = state.wait(milliseconds: timing.renewMilliseconds) { state in
                state.phase == .open ? nil : true
            }
            guard isOver == nil else { return }
            client.send(.leaseRenew, seconds: timing.ttlSeconds) { [weak self] answer in
                switch answer {
                case .success(.done): self?.state.withLock { $0.server }?.count { $0.renewals += 1 }
                case .success: _ = self?.violation()
                case .failure(let error): self?.renewalFailed(error)
                }
            }
        }
    }

    /// A renewal that crossed the beginning of the scrub is refused, and rightly.
    private func renewalFailed(_ error: FabricError) {
        if state.withLock({ $0.phase == .open }) { fail(error) }
    }

    /// A lane ends when the node closes it: rightly when a scrub begins, and otherwise for a reason that the control
    /// channel knows, if it is still there.
    private func laneEnded(_ error: FabricError) {
        guard error.code == .lost else { return fail(error) }
        guard state.withLock({ $0.phase != .scrubbing }) else { return }
        client.send(.leaseRenew, seconds: timing.ttlSeconds) { [weak self] answer in
            if case .failure(let cause) = answer { self?.fail(cause) } else { self?.fail(error) }
        }
    }

    // MARK: Working

    func map(_ windows: [MappedWindow]) throws(FabricError) { try openServer().map(windows) }

    func unmap(_ ids: [UInt16]) { state.withLock { $0.server }?.unmap(ids) }

    func nextTransaction() -> UInt64 {
        state.withLock { $0.server }?.count { $0.doorbells += 1 }
        return state.withLock { state in
            state.transaction += 1
            return state.transaction
        }
    }

    func started() {
        let isFirst = state.withLock { state in
            defer { state.isStarted = true }
            return !state.isStarted && state.phase == .open
        }
        if isFirst { pool.apply(.started, to: session.node.id) }
    }

    func ask(_ message: ControlMessage) async throws(FabricError) -> ControlMessage {
        try await ask(message, seconds: timing.requestSeconds)
    }

    func ask(_ message: ControlMessage, seconds: Int?) async throws(FabricError) -> ControlMessage {
        _ = try openServer()
        do throws(FabricError) {
            return try await client.request(message, seconds: seconds)
        } catch {
            // The first cause, where there is one: a lost connection may be our own answer to a violation.
            throw failure ?? error
        }
    }

    func ask(_ message: ControlMessage, for expected: ControlMessage) async throws(FabricError) {
        guard try await ask(message) == expected else { throw violation() }
    }

    private static let calledOff = FabricError(.detached, "the work was called off")

    /// A doorbell lasts as long as its work, so it waits for the answer or for being called off.
    func doorbell(_ message: ControlMessage) async throws(FabricError) -> ControlMessage {
        _ = try openServer()
        let answer = await withCheckedContinuation { continuation in
            let wait = DoorbellWait(continuation)
            let mayRing = state.withLock { state in
                state.doorbell = wait
                return !state.isCalledOff
            }
            guard mayRing else { return wait.end(.failure(Self.calledOff)) }
            client.send(message, seconds: nil) { wait.end($0) }
        }
        state.withLock { $0.doorbell = nil }
        do throws(FabricError) { return try answer.get() } catch { throw failure ?? error }
    }

    func callOff() {
        let wait = state.withLock { state in
            state.isCalledOff = true
            return state.doorbell
        }
        wait?.end(.failure(Self.calledOff))
    }

    func violation() -> FabricError {
        let error = FabricError(.protocolViolation, "the node answered wrongly")
        fail(error)
        return error
    }

    private func openServer() throws(FabricError) -> WindowServer {
        let (server, phase, failure) = state.withLock { ($0.server, $0.phase, $0.failure) }
        if let failure { throw failure }
        guard let server, phase == .open else { throw FabricError(.detached, "the attachment has ended") }
        return server
    }

    // MARK: Ending

    func scrub() async throws(FabricError) -> ScrubCertificate {
        let server = try openServer()
        let mayGo = state.withLock { state in
            guard state.phase == .open else { return false }
            state.phase = .scrubbing
            return true
        }
        guard mayGo else { throw FabricError(.detached, "the attachment has ended") }
        do throws(FabricError) {
            pool.apply(.drained, .scrubBegan, to: session.node.id)
            let certificate = try await proveScrub()
            state.withLock { $0.phase = .ended }
            pool.apply(.scrubbed, to: session.node.id)
            server.close()
            client.close(FabricError(.detached, "the attachment has ended"))
            return certificate
        } catch {
            let cause = failure ?? FabricError(.scrubUnproven, "the scrub is not proved: \(error.publicDescription)")
            fail(cause)
            throw cause
        }
    }

    private func proveScrub() async throws(FabricError) -> ScrubCertificate {
        let seed = RandomBytes.array(ScrubPattern.seedBytes)
        let nonce = RandomBytes.array(ScrubPattern.seedBytes)
        guard case .scrubProof(let certificate) = try await scrubProof(seed: seed, nonce: nonce) else {
            throw FabricError(.protocolViolation, "the node answered wrongly")
        }
        let session = session
        let run = run
        let isGood = await onThread {
            certificate.cause == .gateway && certificate.seed == seed && certificate.nonce == nonce
                && certificate.fence == session.fence && certificate.lease == session.lease && certificate.run == run
                && certificate.isGood(of: session)
        }
        guard isGood else { throw FabricError(.scrubUnproven, "the certificate does not fit the memory or the lease") }
        return certificate
    }

    /// The challenge follows the fill at once, from the thread that takes the answers: the node waits no longer for it
    /// than a lease lives.
    private func scrubProof(seed: [UInt8], nonce: [UInt8]) async throws(FabricError) -> ControlMessage {
        let client = client
        let seconds = timing.scrubSeconds
        let answer = await withCheckedContinuation { continuation in
            client.send(.scrubBegin(seed: seed), seconds: seconds) { answer in
                guard case .success(.scrubFilled) = answer else { return continuation.resume(returning: answer) }
                client.send(.scrubChallenge(nonce: nonce), seconds: seconds) { continuation.resume(returning: $0) }
            }
        }
        return try answer.get()
    }

    /// Tears everything down, once, and keeps the node out of the pool.
    func fail(_ error: FabricError) {
        let (isFirst, server) = state.withLock { state in
            guard state.phase != .ended else { return (false, WindowServer?.none) }
            // Before anybody can see the failure, so that whoever is told of it finds the node out of the pool.
            pool.quarantine(session.node.id, code: error.code.rawValue, index: error.index, fence: session.fence)
            state.phase = .ended
            state.failure = error
            return (true, state.server)
        }
        guard isFirst else { return }
        server?.close()
        clientHolder.withLock { $0 }?.close(error)
    }
}
