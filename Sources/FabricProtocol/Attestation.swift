package import Sealing
package import Vocabulary

/// How strong the proof behind a node's evidence is. Policies state the least level they accept.
package enum EvidenceLevel: UInt8, CaseIterable, Comparable, Sendable {
    /// The agent measures itself. Root on the GPU host can lie.
    case software = 1
    /// Measured boot, quoted by a TPM.
    case tpm = 2
    /// A hardware trusted execution environment that covers the device.
    case hardware = 3

    /// The name in policies, records and pages.
    package var name: String {
        switch self {
        case .software: "software"
        case .tpm: "tpm"
        case .hardware: "hw-tee"
        }
    }

    package init?(name: String) {
        guard let level = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = level
    }

    package static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
}

/// One thing a node measured: the agent's binary, its configuration, a driver.
package struct Measurement: Hashable, Sendable {
    package let name: String
    package let digest: Digest

    package init(name: String, digest: Digest) {
        self.name = name
        self.digest = digest
    }
}

/// What a node answers to a challenge: its claims and a signature that binds them to this very connection.
package struct Evidence: Equatable, Sendable {
    package static let measurementsMax = 32
    static let nameBytesMax = 64

    package let node: NodeID
    package let level: EvidenceLevel
    package let deviceBytes: UInt64
    /// Made for this connection; the run key is wrapped to it.
    package let wrappingKey: PublicWrappingKey
    /// In ascending order of their names, each once.
    package let measurements: [Measurement]
    /// The node's attestation key over `AttestationTranscript.message`.
    package let signature: [UInt8]

    package init(
        node: NodeID, level: EvidenceLevel, deviceBytes: UInt64, wrappingKey: PublicWrappingKey,
        measurements: [Measurement], signature: [UInt8]
    ) {
        self.node = node
        self.level = level
        self.deviceBytes = deviceBytes
        self.wrappingKey = wrappingKey
        self.measurements = measurements
        self.signature = signature
    }

    func write(into writer: inout WireWriter) {
        writeClaims(into: &writer)
        writer.fixed(signature)
    }

    fileprivate func writeClaims(into writer: inout WireWriter) {
        writer.text(node.text)
        writer.integer(level.rawValue)
        writer.integer(deviceBytes)
        writer.fixed(wrappingKey.bytes)
        writer.integer(UInt16(measurements.count))
        for measurement in measurements {
            writer.text(measurement.name)
            writer.digest(measurement.digest)
        }
    }

    init(reading reader: inout WireReader) throws(FrameError) {
        node = try reader.identifier()
        let levelAt = reader.position
        guard let level = EvidenceLevel(rawValue: try reader.integer()) else {
            throw FrameError(.range, at: levelAt, "an unknown evidence level")
        }
        self.level = level
        deviceBytes = try reader.deviceBytes()
        let keyAt = reader.position
        guard let key = PublicWrappingKey(bytes: try reader.fixed(32)) else {
            throw FrameError(.range, at: keyAt, "not a wrapping key")
        }
        wrappingKey = key
        var measurements: [Measurement] = []
        for _ in 0..<(try reader.integer(in: UInt16(1)...UInt16(Self.measurementsMax))) {
            let position = reader.position
            let name = try reader.text(max: Self.nameBytesMax)
            guard measurements.last.map({ $0.name < name }) ?? !name.isEmpty else {
                throw FrameError(.order, at: position, "measurement names do not ascend")
            }
            measurements.append(Measurement(name: name, digest: try reader.digest()))
        }
        self.measurements = measurements
        signature = try reader.fixed(64)
    }
}

/// Everything that a node's signature covers. Both ends compute it for themselves from what they saw.
///
/// The TLS exporter alone (RFC 9266) does not cover the client's certificate, so a rogue in the middle could relay a
/// good node's evidence; with both certificates, the lease and the wrapping key inside, the signature is good for one
/// connection, one lease and one key.
package struct AttestationTranscript: Sendable {
    package static let exporterLabel = "EXPORTER-sekisho-attestation-v1"

    package let hash: Digest

    package init(
        exporter: borrowing SecretBytes, clientCertificate: Digest, serverCertificate: Digest, nonce: [UInt8],
        fence: Fence, lease: LeaseID, claims: Evidence
    ) {
        var writer = WireWriter()
        writer.text("sekisho attestation transcript v1")
        writer.blob(exporter.withBytes { Array($0) })
        writer.digest(clientCertificate)
        writer.digest(serverCertificate)
        writer.blob(nonce)
        writer.integer(fence.number)
        writer.text(lease.text)
        claims.writeClaims(into: &writer)
        hash = SHA256.hash(writer.bytes)
    }

    /// The bytes that the attestation key signs.
    package var message: [UInt8] { Array("sekisho attestation v1\0".utf8) + hash.bytes }
}

/// What a gateway expects of one node's evidence. Names it does not list are refused.
package struct AttestationPolicy: Equatable, Sendable {
    package let leastLevel: EvidenceLevel
    package let allowed: [String: Set<Digest>]

    package init(leastLevel: EvidenceLevel, allowed: [String: Set<Digest>]) {
        self.leastLevel = leastLevel
        self.allowed = allowed
    }

    package enum Finding: Equatable, Sendable {
        case accepted
        case level
        /// The measurement with this position in the evidence is unknown or not on the list.
        case measurement(index: Int)
        /// A measurement that the policy asks for is absent.
        case missing
    }

    package func judge(_ evidence: Evidence) -> Finding {
        guard evidence.level >= leastLevel else { return .level }
        for (index, measurement) in evidence.measurements.enumerated() {
            guard allowed[measurement.name]?.contains(measurement.digest) == true else {
                return .measurement(index: index)
            }
        }
        let names = Set(evidence.measurements.map(\.name))
        return names.isSuperset(of: allowed.keys) ? .accepted : .missing
    }
}
