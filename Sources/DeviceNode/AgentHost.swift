internal import FabricProtocol
internal import FabricTransport
internal import Sealing
internal import Synchronization
internal import Vocabulary

/// The agent's keys and its disk, as the keeper asks for them.
final class AgentHost: KeeperHost, Sendable {
    /// What one control connection has of its own.
    fileprivate final class LinkKeys: Sendable {
        struct Keys: ~Copyable, Sendable {
            /// Made for the evidence that was given last; the run key comes wrapped to it.
            var wrapping: WrappingKey?
            var run: SecretBytes?
        }

        let connection: ControlConnection
        let keys = Mutex(Keys())

        init(_ connection: ControlConnection) { self.connection = connection }
    }

    private struct Links {
        var next: UInt64 = 1
        var keys: [UInt64: LinkKeys] = [:]
    }

    private struct Lease: ~Copyable, Sendable {
        let fence: Fence
        let resumption: LeaseResumption
    }

    private let identity: NodeIdentity
    private let configuration: NodeConfiguration
    private let measurements: NodeMeasurements
    private let links = Mutex(Links())
    private let lease = Mutex<Lease?>(nil)

    init(identity: NodeIdentity, configuration: NodeConfiguration, measurements: NodeMeasurements) {
        self.identity = identity
        self.configuration = configuration
        self.measurements = measurements
    }

    func add(_ connection: ControlConnection) -> UInt64 {
        links.withLock { links in
            defer { links.next += 1 }
            links.keys[links.next] = LinkKeys(connection)
            return links.next
        }
    }

    func remove(_ link: UInt64) { links.withLock { _ = $0.keys.removeValue(forKey: link) } }

    func connection(_ link: UInt64) -> ControlConnection? { links.withLock { $0.keys[link]?.connection } }

    // MARK: What the keeper asks

    func evidence(
        link: UInt64, nonce: [UInt8], lease: LeaseID, fence: Fence
    ) -> (evidence: Evidence, transcript: Digest) {
        let link = links.withLock { $0.keys[link]! }
        let key = WrappingKey.generate()
        let wrappingKey = key.publicKey
        func evidence(_ signature: [UInt8]) -> Evidence {
            Evidence(
                node: identity.node, level: .software, deviceBytes: UInt64(configuration.deviceBytes),
                wrappingKey: wrappingKey, measurements: measurements.list, signature: signature)
        }
        let transcript = link.connection.transcript(
            isClient: false, nonce: nonce, fence: fence, lease: lease, claims: evidence([]))
        link.keep(key)
        return (evidence(identity.attestationKey.sign(transcript.message)), transcript.hash)
    }

    func check(_ grant: LeaseGrant, fence: Fence, link: UInt64, transcript: Digest) throws(Refusal) {
        try LeaseReceipt(identity: identity).check(
            grant.receipt, run: grant.run, lease: grant.lease, fence: fence, evidence: transcript)
        guard let link = links.withLock({ $0.keys[link] }) else { throw Refusal(.order) }
        guard link.unwrap(grant.wrappedRunKey) else { throw Refusal(.runKey) }
    }

    func isProof(_ proof: [UInt8], fence: Fence, transcript: Digest) -> Bool {
        lease.withLock { lease in
            switch lease {
            case .some(let lease): lease.fence == fence && lease.resumption.isProof(proof, transcript: transcript)
            case .none: false
            }
        }
    }

    func save(_ record: NodeRecord) -> Bool {
        do {
            try record.save(configuration.stateFolder)
            return true
        } catch { return false }
    }

    // MARK: Keys of the lease

    /// Lends the run key that came with a link's grant, once, and keeps what proves a later link to be the same gateway's.
    func beginLease<Value>(
        _ link: UInt64, fence: Fence, transcript: Digest, _ body: (borrowing SecretBytes) throws -> Value
    ) throws -> Value {
        guard let link = links.withLock({ $0.keys[link] }) else { throw Refusal(.order) }
        lease.withLock {
            $0 = Lease(
                fence: fence,
                resumption: LeaseResumption(
                    secret: link.connection.export(label: LeaseResumption.label, context: transcript.bytes)))
        }
        return try link.takeRunKey(body)
    }

    func endLease() { lease.withLock { $0 = nil } }
}

extension AgentHost.LinkKeys {
    fileprivate func keep(_ key: consuming WrappingKey) {
        var key: WrappingKey? = key
        keys.withLock { $0.wrapping = key.take() }
    }

    /// Opens the run key with the key of the last evidence, which is used up.
    fileprivate func unwrap(_ wrapped: [UInt8]) -> Bool {
        keys.withLock { keys in
            guard let key = keys.wrapping.take() else { return false }
            do {
                keys.run = try key.unwrap(wrapped)
                return true
            } catch { return false }
        }
    }

    fileprivate func takeRunKey<Value>(_ body: (borrowing SecretBytes) throws -> Value) throws -> Value {
        var taken: SecretBytes? = keys.withLock { $0.run.take() }
        guard let key = taken.take() else { throw Refusal(.runKey) }
        return try body(key)
    }
}
