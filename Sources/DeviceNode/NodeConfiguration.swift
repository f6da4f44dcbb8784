package import Confinement
package import FabricProtocol
internal import Glibc
internal import Sealing
internal import TransparencyLog
package import Vocabulary

/// What a node offers and where it keeps its fence.
package struct NodeConfiguration: Sendable {
    package let deviceBytes: Int
    package let threads: Int
    /// A folder of the node's own; its highest fence and last scrub are in it.
    package let stateFolder: String
    /// What the process has given up by the time it serves. Measured: a gateway that enrolled a confined node takes no
    /// other one.
    package let sandbox: Sandbox

    package init(
        deviceBytes: Int, threads: Int, stateFolder: String, sandbox: Sandbox = .none
    ) throws(NodeError) {
        guard deviceBytes > 0, DeviceSize.isValid(UInt64(deviceBytes)) else {
            throw NodeError(
                .configuration,
                "device memory is a multiple of \(DeviceSize.pageBytes) bytes, from \(DeviceSize.range.lowerBound) on")
        }
        guard (1...256).contains(threads) else { throw NodeError(.configuration, "threads are 1 to 256") }
        self.deviceBytes = deviceBytes
        self.threads = threads
        self.stateFolder = stateFolder
        self.sandbox = sandbox
    }
}

/// What the agent measures of itself at its start and signs at every attestation.
///
/// Kernels and backend are linked into the binary and measured with it. Whoever controls the host can make an agent
/// that lies about this: it is evidence of level `software`.
package struct NodeMeasurements: Sendable {
    package let agent: Digest
    package let configuration: Digest
    package let confinement: Digest

    package init(identity: NodeIdentity, configuration: NodeConfiguration) throws {
        agent = try Self.hashFile("/proc/self/exe")
        var members: [String: JSON] = [
            "authority": .string(identity.authority.hex), "deviceBytes": .integer(Int64(configuration.deviceBytes)),
            "node": .string(identity.node.text), "threads": .integer(Int64(configuration.threads)),
            "trail": .string(identity.trail.description),
        ]
        members["witnesses"] = identity.witnessesDigest.map { .string($0.hex) }
        self.configuration = SHA256.hash(JSON.object(members).canonical)
        let given: JSON = ["calls": .bool(configuration.sandbox.calls), "files": .bool(configuration.sandbox.files)]
        confinement = SHA256.hash(given.canonical)
    }

    package var list: [Measurement] {
        [
            Measurement(name: "agent", digest: agent), Measurement(name: "configuration", digest: configuration),
            Measurement(name: "confinement", digest: confinement),
        ]
    }

    /// Names and hexadecimal digests, as an allow-list takes them.
    package var json: JSON {
        .object(Dictionary(uniqueKeysWithValues: list.map { ($0.name, .string($0.digest.hex)) }))
    }

    private static func hashFile(_ path: String) throws -> Digest {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw NodeError(.measurement, "the agent's binary cannot be read") }
        defer { close(descriptor) }
        var stream = SHA256Stream()
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 64)
        defer { buffer.deallocate() }
        while true {
            let count = read(descriptor, buffer.baseAddress, buffer.count)
            guard count >= 0 else { throw NodeError(.measurement, "the agent's binary cannot be read") }
            if count == 0 { return stream.finalize() }
            stream.update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        }
    }
}
