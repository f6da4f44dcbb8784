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
    private let tls: TLSContext
    private let taken = Mutex(false)

    init(_ session: AttestedSession, pool: NodePool, timing: LeaseTiming, tls: TLSContext) {
        self.session = session
        self.pool = pool
        self.timing = timing
        self.tls = tls
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
            lanes: UInt8(timing.lanes), deviceBytes: session.evidence.deviceBytes, receipt: receipt,
            wrappedRunKey: wrappedRunKey)
        let attachment = Attachment(session, run: run, pool: pool, timing: timing, tls: tls, refused: refused)
        try await attachment.lease(grant)
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
    /// How long the lease still lives if it is not renewed again; nil when it is over.
    package var leaseLeft: Duration? { attachment.leaseLeft }
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
