internal import FabricProtocol
internal import TransparencyLog
internal import Vocabulary

/// The node's own check that the decision to lease it is durable in the trail it believes: a hijacked gateway cannot
/// use a GPU without leaving a record that can be proved.
struct LeaseReceipt {
    let identity: NodeIdentity

    /// `evidence` is the hash of this connection's signed transcript; a record that names one must name this one.
    func check(
        _ receipt: [UInt8], run: RunID, lease: LeaseID, fence: Fence, evidence: Digest
    ) throws(Refusal) {
        let core: JSON
        do {
            core = try Receipt(parsing: receipt).verified(by: identity.trail, seenBy: identity.witnesses).core
        } catch {
            throw Refusal(error.code == .unwitnessed ? .unwitnessed : .receipt)
        }
        // The position in this list is the refusal's index.
        let wanted: [(String, JSON)] = [
            ("event", "device.leased"), ("outcome", "intent"), ("run", .string(run.text)),
            ("lease", .string(lease.text)), ("fence", .integer(Int64(clamping: fence.number))),
            ("device", .string(identity.node.text)),
        ]
        for (index, (member, value)) in wanted.enumerated() where core[member] != value {
            throw Refusal(.receiptMismatch, index: UInt32(index))
        }
        if let named = core["evidence"], named != .string(evidence.hex) {
            throw Refusal(.receiptMismatch, index: UInt32(wanted.count))
        }
    }
}
