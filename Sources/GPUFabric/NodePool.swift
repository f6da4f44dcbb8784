package import FabricProtocol
internal import FabricTransport
internal import Foundation
package import Sealing
internal import Synchronization
package import Vocabulary

/// What the gateway keeps of a node when it is enrolled: the only certificate and attestation key it will accept.
package struct NodeEnrolment: Hashable, Codable, Sendable {
    package let node: NodeID
    /// SHA-256 of the node's TLS certificate in DER.
    package let certificate: Digest
    package let attestationKey: VerifyingKey

    package init(node: NodeID, certificate: Digest, attestationKey: VerifyingKey) {
        self.node = node
        self.certificate = certificate
        self.attestationKey = attestationKey
    }
}

/// A node as the configuration lists it.
package struct FabricNode: Equatable, Sendable {
    package let enrolment: NodeEnrolment
    package let address: NodeAddress
    package let pool: String
    /// What this node's evidence must say.
    package let policy: AttestationPolicy

    package var id: NodeID { enrolment.node }

    package init(enrolment: NodeEnrolment, address: NodeAddress, pool: String, policy: AttestationPolicy) {
        self.enrolment = enrolment
        self.address = address
        self.pool = pool
        self.policy = policy
    }
}

/// Why a node is kept out of the pool, until a scrub certificate and a new attestation bring it back.
package struct Quarantine: Hashable, Codable, Sendable {
    package let code: String
    /// What exactly, where the code has an index: the measurement or the window.
    package let index: Int?
    /// The lease that was running, if one was granted: its scrub must be certified.
    package let fence: Fence?
    package let since: Timestamp

    package init(code: String, index: Int?, fence: Fence?, since: Timestamp) {
        self.code = code
        self.index = index
        self.fence = fence
        self.since = since
    }
}

package struct NodeStatus: Equatable, Sendable {
    package let node: FabricNode
    package let state: NodeLife.State
    package let quarantine: Quarantine?
    package let health: NodeHealth
}

/// Whether a node answers: every frame of a lease that is renewed says so, and a PING to one that nobody has.
package struct NodeHealth: Hashable, Sendable {
    /// When it answered last, in this process.
    package fileprivate(set) var answered: Timestamp?
    /// Of that answer's round trip; nil where it was a lease's renewal.
    package fileprivate(set) var roundTripNanoseconds: UInt64?
    /// Since when it does not answer; nil while it does.
    package fileprivate(set) var silentSince: Timestamp?
}

/// Who is where in its life. Quarantines are on disk before anyone is told of them.
final class NodePool: Sendable {
    private struct Entry {
        var node: FabricNode
        var life: NodeLife
        var quarantine: Quarantine?
        var health = NodeHealth()
        /// When a lease on it was given up without a scrub, in this process.
        var abandoned: ContinuousClock.Instant?

        var status: NodeStatus {
            NodeStatus(node: node, state: life.state, quarantine: quarantine, health: health)
        }
    }

    private let entries: Mutex<[NodeID: Entry]>
    private let path: String
    private let clock: any WallClock
    /// A process before this one may have renewed leases until here.
    private let began = ContinuousClock.now

    init(nodes: [FabricNode], path: String, clock: any WallClock) throws {
        var quarantines: [String: Quarantine] = [:]
        if let bytes = try DurableFile.read(path) {
            do {
                quarantines = try JSONDecoder().decode([String: Quarantine].self, from: Data(bytes))
            } catch {
                throw FabricError(.storage, "the list of quarantined nodes is damaged")
            }
        }
        var entries: [NodeID: Entry] = [:]
        for node in nodes {
            let quarantine = quarantines[node.id.text]
            let entry = Entry(
                node: node, life: NodeLife(quarantine == nil ? .absent : .quarantined), quarantine: quarantine)
            guard entries.updateValue(entry, forKey: node.id) == nil else {
                throw FabricError(.unknownNode, "a node is listed twice")
            }
        }
        self.entries = Mutex(entries)
        self.path = path
        self.clock = clock
    }

    var statuses: [NodeStatus] {
        entries.withLock { entries in
            entries.values.map(\.status)
                .sorted { $0.node.id < $1.node.id }
        }
    }

    func status(_ id: NodeID) throws(FabricError) -> NodeStatus {
        guard let entry = entries.withLock({ $0[id] }) else {
            throw FabricError(.unknownNode, "no node has this name")
        }
        return entry.status
    }

    /// Makes the list of nodes what `nodes` says; where each is in its life stays, and those that are held keep going.
    func update(_ nodes: [FabricNode]) {
        entries.withLock { entries in
            for node in nodes {
                if entries[node.id] == nil {
                    entries[node.id] = Entry(node: node, life: NodeLife(.absent))
                } else {
                    entries[node.id]!.node = node
                }
            }
        }
    }

    /// When the last lease on a node that was not given back was certainly not renewed any more.
    func abandoned(_ id: NodeID) -> ContinuousClock.Instant { entries.withLock { $0[id]?.abandoned } ?? began }

    /// A node has answered, or has not.
    func heard(_ id: NodeID, roundTripNanoseconds: UInt64? = nil) {
        let now = clock.now()
        entries.withLock {
            $0[id]?.health = NodeHealth(answered: now, roundTripNanoseconds: roundTripNanoseconds, silentSince: nil)
        }
    }

    func notHeard(_ id: NodeID) {
        let now = clock.now()
        entries.withLock { if $0[id]?.health.silentSince == nil { $0[id]?.health.silentSince = now } }
    }

    /// Takes a node for one attestation; nobody else gets it until the life moves on.
    func begin(_ id: NodeID) throws(FabricError) -> FabricNode {
        let taken: Result<FabricNode, FabricError> = entries.withLock { entries in
            guard var entry = entries[id] else { return .failure(FabricError(.unknownNode, "no node has this name")) }
            guard entry.quarantine == nil else {
                return .failure(FabricError(.quarantined, "the node is quarantined: \(entry.quarantine!.code)"))
            }
            entry.life.apply(.found)
            guard entry.life.apply(.challenged) else {
                return .failure(FabricError(.notFree, "the node is \(entry.life.state.rawValue)"))
            }
            entries[id] = entry
            return .success(entry.node)
        }
        return try taken.get()
    }

    /// Moves a node on, unless it has been quarantined meanwhile. An event that is not possible is our own bug.
    func apply(_ events: NodeLife.Event..., to id: NodeID) {
        entries.withLock { entries in
            guard entries[id]!.quarantine == nil else { return }
            for event in events {
                let done = entries[id]!.life.apply(event)
                precondition(done, "a node cannot take this step")
            }
        }
    }

    /// Gives back a node that was not leased.
    func release(_ id: NodeID) {
        entries.withLock { entries in
            guard let entry = entries[id] else { return }
            entries[id]!.life.apply(entry.life.state == .reserved ? .cancelled : .left)
        }
    }

    /// Keeps a node out of the pool from now on, and over restarts.
    ///
    /// - Parameter fence: of the lease that it had and did not give back; its scrub must be certified.
    func quarantine(_ id: NodeID, code: String, index: Int?, fence: Fence?) {
        entries.withLock { entries in
            guard var entry = entries[id] else { return }
            if fence != nil, entry.abandoned == nil { entry.abandoned = .now }
            let old = entry.quarantine
            if old == nil {
                entry.life.apply(.failed)
                entry.life.apply(.quarantined)
            }
            // The first cause counts; a lease that comes to light later is owed its scrub all the same.
            entry.quarantine = Quarantine(
                code: old?.code ?? code, index: old.map(\.index) ?? index, fence: old?.fence ?? fence,
                since: old?.since ?? clock.now())
            entries[id] = entry
            guard entry.quarantine != old else { return }
            // When the disk refuses, the quarantine still holds in this process; a lease needs a fresh attestation
            // anyway.
            try? save(entries)
        }
    }

    func reinstate(_ id: NodeID) throws(FabricError) {
        let result: Result<Void, FabricError> = entries.withLock { entries in
            guard var entry = entries[id], entry.quarantine != nil else {
                return .failure(FabricError(.notQuarantined, "the node is not quarantined"))
            }
            entry.life.apply(.reinstated)
            entry.quarantine = nil
            entry.abandoned = nil
            var changed = entries
            changed[id] = entry
            do throws(FabricError) {
                try save(changed)
            } catch {
                return .failure(error)
            }
            entries = changed
            return .success(())
        }
        try result.get()
    }

    private func save(_ entries: [NodeID: Entry]) throws(FabricError) {
        let list = Dictionary(
            uniqueKeysWithValues: entries.values.compactMap { entry in
                entry.quarantine.map { (entry.node.id.text, $0) }
            })
        do {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys]
            try DurableFile.replace(path, with: Array(try encoder.encode(list)))
        } catch {
            throw FabricError(.storage, "the list of quarantined nodes cannot be written")
        }
    }
}
