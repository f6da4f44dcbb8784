package import Sealing
package import Vocabulary

/// The fresh bytes with which a scrub overwrites device memory: an AES-128 keystream under a key from a seed. It hides
/// nothing; nobody must be able to foresee it.
///
/// Both ends can compute any block of it, so the gateway checks a scrub without ever holding the memory.
package struct ScrubPattern: ~Copyable {
    package static let blockBytes = Limits.blockBytes
    package static let seedBytes = 32

    private var stream: Keystream

    package init(seed: [UInt8], fence: Fence) {
        stream = Keystream(
            key: derivedKey(seed, info: "sekisho scrub fill v2", fence: fence, count: Keystream.keyBytes))
    }

    /// Overwrites one block of `ScrubPattern.blockBytes`, or the shorter last one.
    package mutating func fill(block index: Int, _ memory: UnsafeMutableRawBufferPointer) {
        precondition(memory.count <= Self.blockBytes)
        stream.fill(memory, from: UInt64(index) * UInt64(Self.blockBytes))
    }
}

/// The proof over filled memory: AES-GMAC of each block under a key from the second nonce, folded with SHA-256.
///
/// The nonce comes after the fill, so the answer needs every block to be present. It proves the scrub as far as the
/// *measured* agent is honest: a liar could regenerate the pattern instead of storing it.
package struct ScrubProof: ~Copyable {
    private var cipher: FrameCipher
    private var digest = SHA256Stream()
    private var index: UInt64 = 0

    package init(nonce: [UInt8], fence: Fence) {
        cipher = FrameCipher(key: derivedKey(nonce, info: "sekisho scrub proof v1", fence: fence))
        digest.update(Array("sekisho scrub proof v1\0".utf8) + nonce)
    }

    /// Takes the next block.
    package mutating func add(_ block: UnsafeRawBufferPointer) {
        withUnsafeTemporaryAllocation(byteCount: Limits.tagBytes, alignment: 16) { tag in
            BlockNonce(high: 0, low: index).withBytes { nonce in
                do {
                    try cipher.seal(UnsafeRawBufferPointer(start: nil, count: 0), nonce: nonce, aad: block, into: tag)
                } catch {
                    preconditionFailure("AES-GCM refused a block of the right size")
                }
            }
            digest.update(UnsafeRawBufferPointer(tag))
        }
        index += 1
    }

    package consuming func finish() -> Digest { digest.finalize() }

    /// What the proof must be for memory of `byteCount` bytes that was filled from `seed`.
    package static func expected(seed: [UInt8], nonce: [UInt8], fence: Fence, byteCount: Int) -> Digest {
        var pattern = ScrubPattern(seed: seed, fence: fence)
        var proof = ScrubProof(nonce: nonce, fence: fence)
        let block = UnsafeMutableRawBufferPointer.allocate(byteCount: ScrubPattern.blockBytes, alignment: 64)
        defer { block.deallocate() }
        for (index, start) in stride(from: 0, to: byteCount, by: ScrubPattern.blockBytes).enumerated() {
            let part = UnsafeMutableRawBufferPointer(
                rebasing: block[..<min(ScrubPattern.blockBytes, byteCount - start)])
            pattern.fill(block: index, part)
            proof.add(UnsafeRawBufferPointer(part))
        }
        return proof.finish()
    }
}

private func derivedKey(_ secret: [UInt8], info: String, fence: Fence, count: Int = 32) -> SecretBytes {
    var context = WireWriter()
    context.integer(fence.number)
    return KeyDerivation.hkdf(SecretBytes(copying: secret), info: info, context: context.bytes, count: count)
}

/// A node's signed statement that it overwrote, proved and zeroed its device memory after a lease.
///
/// Anyone with the node's attestation key can check it, and compute the proof again from its seed and nonce.
package struct ScrubCertificate: Equatable, Sendable {
    /// What made the node scrub. Only `gateway` was watched: its seed and nonce came from outside.
    package enum Cause: UInt8, CaseIterable, Sendable {
        case gateway = 1
        case expiry = 2
        case takeover = 3
        /// Of certificates from when a cut ended a lease at once.
        case disconnect = 4
        case shutdown = 5
        /// The node had died during the lease and scrubbed at its next start.
        case restart = 6
        case revoked = 7
        /// A forged lane record, or a lease that could not begin.
        case violation = 8
    }

    package let node: NodeID
    package let run: RunID
    package let lease: LeaseID
    package let fence: Fence
    package let cause: Cause
    package let deviceBytes: UInt64
    package let seed: [UInt8]
    package let nonce: [UInt8]
    package let proof: Digest
    /// The measured agent binary.
    package let agent: Digest
    package private(set) var signature: [UInt8]

    package init(
        node: NodeID, run: RunID, lease: LeaseID, fence: Fence, cause: Cause, deviceBytes: UInt64, seed: [UInt8],
        nonce: [UInt8], proof: Digest, agent: Digest, signedBy key: borrowing SigningKey
    ) {
        self.node = node
        self.run = run
        self.lease = lease
        self.fence = fence
        self.cause = cause
        self.deviceBytes = deviceBytes
        self.seed = seed
        self.nonce = nonce
        self.proof = proof
        self.agent = agent
        signature = []
        signature = key.sign(message)
    }

    package func isSigned(by key: VerifyingKey) -> Bool { key.isValid(signature, for: message) }

    /// Computes the proof again; the whole memory's worth of work.
    package var isProved: Bool {
        proof == ScrubProof.expected(seed: seed, nonce: nonce, fence: fence, byteCount: Int(deviceBytes))
    }

    /// SHA-256 of the certificate's bytes, for the trail.
    package var digest: Digest { SHA256.hash(bytes) }

    package var bytes: [UInt8] {
        var writer = WireWriter()
        writer.fixed(claims)
        writer.fixed(signature)
        return writer.bytes
    }

    package init(parsing bytes: [UInt8]) throws(FrameError) {
        var reader = WireReader(bytes)
        self = try ScrubCertificate(claims: &reader)
        try reader.finish()
    }

    static let byteCountMax = 1024

    init(reading reader: inout WireReader) throws(FrameError) {
        let start = reader.position
        let bytes = try reader.blob(max: Self.byteCountMax)
        do {
            try self.init(parsing: bytes)
        } catch {
            throw FrameError(error.code, at: start + 4 + error.position, error.reason)
        }
    }

    private var message: [UInt8] { Array("sekisho scrub certificate v1\0".utf8) + claims }

    private var claims: [UInt8] {
        var writer = WireWriter()
        writer.integer(UInt8(1))
        writer.text(node.text)
        writer.text(run.text)
        writer.text(lease.text)
        writer.integer(fence.number)
        writer.integer(cause.rawValue)
        writer.integer(deviceBytes)
        writer.fixed(seed)
        writer.fixed(nonce)
        writer.digest(proof)
        writer.digest(agent)
        return writer.bytes
    }

    private init(claims reader: inout WireReader) throws(FrameError) {
        guard try reader.integer(UInt8.self) == 1 else {
            throw FrameError(.version, at: 0, "an unknown certificate version")
        }
        node = try reader.identifier()
        run = try reader.identifier()
        lease = try reader.identifier()
        fence = Fence(try reader.integer())
        let causeAt = reader.position
        guard let cause = Cause(rawValue: try reader.integer()) else {
            throw FrameError(.range, at: causeAt, "an unknown cause of a scrub")
        }
        self.cause = cause
        deviceBytes = try reader.deviceBytes()
        seed = try reader.fixed(ScrubPattern.seedBytes)
        nonce = try reader.fixed(ScrubPattern.seedBytes)
        proof = try reader.digest()
        agent = try reader.digest()
        signature = try reader.fixed(64)
    }
}
