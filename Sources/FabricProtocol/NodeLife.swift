/// Where a node is in its life, as a value that says which events are possible.
///
/// `absent → discovered → attesting → free → reserved → locked → running → draining → scrubbing → free`;
/// from anywhere `→ error → quarantined`, which only a scrub certificate with a new attestation leaves.
package struct NodeLife: Equatable, Sendable {
    package enum State: String, CaseIterable, Codable, Sendable {
        case absent, discovered, attesting, free, reserved, locked, running, draining, scrubbing, error, quarantined
    }

    package enum Event: String, CaseIterable, Sendable {
        /// The node answered on its address.
        case found
        /// A challenge was sent.
        case challenged
        /// The evidence was accepted.
        case attested
        /// Taken for one run; no other run gets it.
        case reserved
        /// The reservation was given up before a lease was granted.
        case cancelled
        /// The node accepted the lease.
        case granted
        /// A program was loaded.
        case started
        /// No new work; what runs may finish.
        case drained
        /// Keys are erased; memory is being filled.
        case scrubBegan
        /// The scrub certificate was verified.
        case scrubbed
        /// A free node went away.
        case left
        /// Anything that must not happen.
        case failed
        case quarantined
        /// A scrub certificate and a new attestation were both verified, or two operators agreed.
        case reinstated
    }

    package private(set) var state: State

    package init(_ state: State = .absent) { self.state = state }

    /// The state after an event, or nil where the event is not possible.
    package static func next(_ state: State, _ event: Event) -> State? {
        switch (state, event) {
        case (.absent, .found): .discovered
        case (.discovered, .challenged), (.free, .challenged): .attesting
        case (.attesting, .attested): .free
        case (.free, .reserved): .reserved
        case (.reserved, .cancelled): .free
        case (.reserved, .granted): .locked
        case (.locked, .started): .running
        case (.locked, .drained), (.running, .drained): .draining
        case (.draining, .scrubBegan): .scrubbing
        case (.scrubbing, .scrubbed): .free
        case (.discovered, .left), (.attesting, .left), (.free, .left): .absent
        case (.quarantined, .failed), (.quarantined, .quarantined): .quarantined
        case (_, .failed): .error
        case (.error, .quarantined): .quarantined
        case (.quarantined, .reinstated): .free
        default: nil
        }
    }

    /// Applies an event. `false` and no change where it is not possible.
    @discardableResult
    package mutating func apply(_ event: Event) -> Bool {
        guard let next = Self.next(state, event) else { return false }
        state = next
        return true
    }
}
