package import FabricProtocol
internal import FabricTransport

/// Why the gateway cannot use a node, or stopped using it.
package struct FabricError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case unknownNode = "unknown-node"
        case notFree = "not-free"
        case quarantined
        case notQuarantined = "not-quarantined"
        case unreachable
        /// Wrong authority, expired, or not the certificate this node was enrolled with.
        case untrustedPeer = "untrusted-peer"
        /// The evidence's signature, level or measurements; `index` names the measurement.
        case evidence
        /// The node refused; `refusal` says why.
        case refused
        /// The node went away, or its lease could not be renewed.
        case lost
        case timeout
        /// The device asked for bytes outside its windows; `index` is the window.
        case outsideWindow = "outside-window"
        /// A window's store could not be read or written.
        case store
        /// The node's scrub could not be proved.
        case scrubUnproven = "scrub-unproven"
        case protocolViolation = "protocol-violation"
        /// The attachment has ended.
        case detached
        case storage
    }

    package let code: Code
    package let publicDescription: String
    package let index: Int?
    package let refusal: Refusal?

    package init(_ code: Code, _ publicDescription: String, index: Int? = nil, refusal: Refusal? = nil) {
        self.code = code
        self.publicDescription = publicDescription
        self.index = index
        self.refusal = refusal
    }

    init(_ refusal: Refusal) {
        self.init(.refused, "the node refused: \(refusal.code)", index: Int(refusal.index), refusal: refusal)
    }

    init(_ error: TransportError) {
        let code: Code =
            switch error.code {
            case .unreachable: .unreachable
            case .timeout: .timeout
            case .closed, .corrupted: .lost
            case .certificate: .untrustedPeer
            case .protocolViolation: .protocolViolation
            case .unavailable: .storage
            }
        self.init(code, error.publicDescription)
    }

    package var description: String { "\(code.rawValue): \(publicDescription)" }

    /// Whether it says that a leased device is gone: dead, out of reach for as long as its lease lives, or not what it
    /// was attested as. A run may go on on another one then.
    ///
    /// A higher fence at the node is no loss: another gateway has the run. Nor is an access outside a window, which a
    /// program may have asked for that would do so anywhere.
    package var isLoss: Bool {
        switch code {
        case .lost, .timeout, .unreachable, .untrustedPeer, .evidence, .protocolViolation: true
        case .refused:
            [Refusal.Code.noLease, .leaseExpired, .draining, .frame].contains { $0 == refusal?.code }
        case .unknownNode, .notFree, .quarantined, .notQuarantined, .outsideWindow, .store, .scrubUnproven, .detached,
            .storage:
            false
        }
    }
}

/// Runs what fails as the transport does, and tells it as the fabric does.
func overTransport<Value>(_ body: () throws(TransportError) -> Value) throws(FabricError) -> Value {
    do throws(TransportError) {
        return try body()
    } catch {
        throw FabricError(error)
    }
}
