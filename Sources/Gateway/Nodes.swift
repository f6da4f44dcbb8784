import TransparencyLog
import AuditTrail
package import Foundation
import FabricProtocol
import GPUFabric
import PolicyEngine
import Sealing
package import Vocabulary

package struct NodeSummary: Sendable {
    package let id: NodeID
    package let pool: String
    package let address: String
    package let state: String
    /// Who has it, and until when.
    package let holder: NodeHolder?
    /// When it answered last, and since when it does not; both `nil` where this process has not asked yet.
    package let answered: Timestamp?
    package let silentSince: Timestamp?
}

/// A run that holds a node.
package struct NodeHolder: Sendable {
    package let run: RunID
    package let since: Timestamp
    /// When the device is on its own unless the lease is renewed before, as it is every second; `nil` before it begins.
    package let leaseUntil: Timestamp?
    /// When it has to be given back: the end of the grant, or of the hours that the run asked for.
    package let endsBy: Timestamp?
    /// About when it is given back; `nil` until its first epochs tell.
    package let secondsLeft: Int?
}

// MARK: - Certificates

extension Gateway {
    private var authorityFolder: String { home.pki.appendingPathComponent("authority").path }
    private var gatewayIdentityFolder: String { home.pki.appendingPathComponent("gateway").path }

    package func initialisePKI(by actor: PersonID) throws {
        try require(actor, anyOf: [.operatorRole])
        guard !FileManager.default.fileExists(atPath: gatewayIdentityFolder + "/gateway.pem") else {
            throw GatewayError(.usage, "the fabric has its certificate authority already")
        }
        let event = { (outcome: AuditOutcome) in Event(.pkiInitialised, outcome).with { $0.actor = actor } }
        try ledger.record(event(.intent), in: .gateway, key: ledger.freshKey("pki"))
        do {
            // An authority without the gateway's certificate is what a crash between the two left.
            let authority =
                try (try? CertificateAuthority(folder: authorityFolder, sealing: fabricKeys))
                ?? CertificateAuthority.create(in: authorityFolder, sealing: fabricKeys, now: clock.now())
            try authority.issueGateway(into: gatewayIdentityFolder, sealing: fabricKeys, now: clock.now())
            try ledger.record(event(.done), in: .gateway, key: ledger.freshKey("pki"))
        } catch let error as FabricError { throw GatewayError(fabric: error) }
    }

    /// Makes a node's identity folder and keeps the gateway's half: the only certificate and attestation key that it
    /// will accept of a node with this name.
    package func makeNodeIdentity(_ node: NodeID, at folder: URL, by actor: PersonID) throws {
        try require(actor, anyOf: [.operatorRole])
        try ledger.record(
            Event(.nodeEnrolled, .intent).with {
                $0.actor = actor
                $0.device = node
            }, in: .gateway, key: ledger.freshKey("enrolled.\(node)"))
        do {
            let enrolment = try CertificateAuthority(folder: authorityFolder, sealing: fabricKeys).issueNode(
                node, trail: settings.trail.description, into: folder.path, now: clock.now())
            try ledger.record(
                Event(.nodeEnrolled, .done).with {
                    $0.actor = actor
                    $0.device = node
                    $0.detail = [
                        "certificate": .string(enrolment.certificate.hex),
                        "attestation_key": .string(Hex.encode(enrolment.attestationKey.bytes)),
                    ]
                }, in: .gateway, key: ledger.freshKey("enrolled.\(node)"))
        } catch let error as FabricError { throw GatewayError(fabric: error) }
    }

    func isEnrolled(_ node: NodeID) -> Bool { enrolment(of: node) != nil }

    private func enrolment(of node: NodeID) -> NodeEnrolment? {
        let record = ledger.records(of: .nodeEnrolled).last {
            $0.outcome == .done && $0.core["device"]?.stringValue == node.text
        }
        guard let certificate = record?.detail["certificate"]?.stringValue.flatMap(Digest.init(hex:)),
            let key = record?.detail["attestation_key"]?.stringValue.flatMap(Hex.decode).flatMap({
                VerifyingKey(bytes: $0)
            })
        else { return nil }
        return NodeEnrolment(node: node, certificate: certificate, attestationKey: key)
    }
}

// MARK: - The pool

extension Gateway {
    /// Adds a node to a pool, or changes its address or what it may run.
    ///
    /// - Parameter measurements: what `sekisho-node --measure` printed on a host that is trusted at this moment: a JSON
    ///   object of names and SHA-256 digests. A node that later signs other ones is quarantined.
    package func addNode(
        _ node: NodeID, address: String, pool: String, measurements: String, by actor: PersonID
    ) throws {
        try require(actor, anyOf: [.operatorRole])
        guard enrolment(of: node) != nil else {
            throw GatewayError(.notFound, "\(node) has no identity here yet; make it with `sekisho pki node`")
        }
        let place = try Self.parse(address: address)
        guard let measured = try? JSON(parsing: measurements), let names = measured.objectValue, !names.isEmpty,
            names.values.allSatisfy({ $0.stringValue.flatMap(Digest.init(hex:)) != nil })
        else { throw GatewayError(.usage, "the measurements are not what `sekisho-node --measure` prints") }
        try ledger.record(
            Event(.nodeAdded, .done).with {
                $0.actor = actor
                $0.device = node
                $0.detail = [
                    "host": .string(place.host), "port": .integer(Int64(place.port)), "pool": .string(pool),
                    "measurements": measured,
                ]
                if place.isMultipath { $0.detail["multipath"] = .bool(true) }
            }, in: .gateway, key: ledger.freshKey("node.\(node)"))
        // Others may be held: what is known of them stays.
        fabricCache?.update(fabricNodes())
        wakeLine()
    }

    var hasNodes: Bool { !ledger.records(of: .nodeAdded).isEmpty }

    package func nodes() throws -> [NodeSummary] {
        let holders = try deviceHolders()
        return try fabric().nodes.map { status in
            try summary(of: status, holder: holders.first { $0.node == status.node.id })
        }
    }

    /// Asks the nodes that nobody holds, every few seconds, whether they are there, until its task is cancelled.
    package func keepNodes() async {
        while !Task.isCancelled {
            if hasNodes, let fabric = try? fabric() { await fabric.askAll() }
            try? await Task.sleep(for: .seconds(10))
        }
    }

    func summary(of status: NodeStatus, holder: DeviceHolder?) throws -> NodeSummary {
        let life = status.state == .absent ? "not asked yet" : status.state.rawValue
        let isHeld = ![.absent, .free].contains(status.state)
        let drain = isDrained(status.node.id) ? (isHeld ? "draining" : "drained") : nil
        return NodeSummary(
            id: status.node.id, pool: status.node.pool, address: status.node.address.text,
            state: status.quarantine.map { "quarantined (\($0.code))" } ?? drain ?? life,
            holder: try holder.map(nodeHolder), answered: status.health.answered,
            silentSince: status.health.silentSince)
    }

    private func nodeHolder(_ holder: DeviceHolder) throws -> NodeHolder {
        let leaseLeft = sessions[holder.run.id]?.gpu.leaseLeft.map { $0.components }
        let asked = holder.run.file[RunCase.Key.requested]?.payload["hours"]?.integerValue
        let hours = asked.map { holder.since.adding(seconds: $0 * 3600) }
        let term = try RunFacts(holder.run).map { try grant($0.grant).term }
        return NodeHolder(
            run: holder.run.id, since: holder.since,
            leaseUntil: leaseLeft.map {
                Timestamp(
                    milliseconds: clock.now().milliseconds + $0.seconds * 1000 + $0.attoseconds / 1_000_000_000_000_000)
            },
            endsBy: [hours, term].compactMap { $0 }.min(), secondsLeft: secondsLeft(of: holder.run))
    }

    /// Puts a node back into the pool: out of quarantine after an attestation and a scrub, or out of a drain.
    package func releaseFromQuarantine(_ node: NodeID, by actor: PersonID) async throws {
        try require(actor, anyOf: [.operatorRole])
        defer { wakeLine() }
        // Nobody doubted a node that was only kept free of new runs.
        if isDrained(node), try fabric().nodes.first(where: { $0.node.id == node })?.quarantine == nil {
            try ledger.record(
                Event(.nodeReinstated, .done).with {
                    $0.actor = actor
                    $0.device = node
                    $0.detail = ["after": "drain"]
                }, in: .gateway, key: ledger.freshKey("released.\(node)"))
            return
        }
        try ledger.record(
            Event(.nodeReinstated, .intent).with {
                $0.actor = actor
                $0.device = node
            }, in: .gateway, key: ledger.freshKey("released.\(node)"))
        let certificate: ScrubCertificate?
        do {
            certificate = try await fabric().reinstate(node)
        } catch let error as FabricError { throw GatewayError(fabric: error) }
        try ledger.record(
            Event(.nodeReinstated, .done).with {
                $0.actor = actor
                $0.device = node
                $0.detail = certificate.map { ["certificate": .string($0.digest.hex)] } ?? [:]
            }, in: .gateway, key: ledger.freshKey("released.\(node)"))
    }

    /// The fabric as the records describe it.
    func fabric() throws -> Fabric {
        if let fabricCache { return fabricCache }
        let nodes = fabricNodes()
        guard !nodes.isEmpty else {
            throw GatewayError(.notFound, "there is no device node yet; add one with `sekisho fabric add`")
        }
        do {
            let fabric = try Fabric(
                nodes: nodes, identity: GatewayIdentity.load(folder: gatewayIdentityFolder, sealing: fabricKeys),
                quarantineFile: home.folder.appendingPathComponent("quarantine.json").path, clock: clock)
            fabricCache = fabric
            return fabric
        } catch let error as FabricError { throw GatewayError(fabric: error) }
    }

    private func fabricNodes() -> [FabricNode] {
        var nodes: [NodeID: FabricNode] = [:]
        for record in ledger.records(of: .nodeAdded) {
            guard let id = record.core["device"]?.stringValue.flatMap({ try? NodeID($0) }),
                let enrolment = enrolment(of: id), let host = record.detail["host"]?.stringValue,
                let port = record.detail["port"]?.integerValue.flatMap({ UInt16(exactly: $0) }),
                let pool = record.detail["pool"]?.stringValue,
                let measured = record.detail["measurements"]?.objectValue
            else { continue }
            let allowed = measured.compactMapValues { $0.stringValue.flatMap(Digest.init(hex:)).map { Set([$0]) } }
            nodes[id] = FabricNode(
                enrolment: enrolment,
                address: NodeAddress(
                    host: host, port: port, isMultipath: record.detail["multipath"]?.boolValue ?? false), pool: pool,
                // Each data set's policy asks for its own least level at the run decision.
                policy: AttestationPolicy(leastLevel: .software, allowed: allowed))
        }
        return nodes.values.sorted { $0.id < $1.id }
    }

    static func parse(address: String) throws -> NodeAddress {
        guard let place = NodeAddress(address), place.port > 0 else {
            throw GatewayError(.usage, "an address is HOST:PORT or mptcp://HOST:PORT")
        }
        return place
    }
}

extension GatewayError {
    /// The fabric's own words are public already.
    init(fabric error: FabricError) {
        let code: Code =
            switch error.code {
            case .unknownNode: .notFound
            case .notQuarantined: .usage
            case .evidence, .untrustedPeer, .refused, .quarantined, .outsideWindow: .refused
            case .scrubUnproven, .protocolViolation: .integrity
            default: .unavailable
            }
        self.init(code, error.publicDescription)
    }
}
