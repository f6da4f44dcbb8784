package import FabricProtocol
package import Sealing
package import Vocabulary

/// Opens what the device sealed into a result window: parameters and figures, never rows.
///
/// The device numbers every block that it writes and says in its completion which numbers these are; a host that
/// gives back another block, or an older one, is found out.
package struct ResultWindow: Sendable {
    private let cipher: BlockCipher
    private let run: String

    package init(runKey: borrowing SecretBytes, run: RunID, fence: Fence, attempt: UInt32) {
        var context: [UInt8] = []
        withUnsafeBytes(of: fence.number.bigEndian) { context += $0 }
        withUnsafeBytes(of: attempt.bigEndian) { context += $0 }
        cipher = BlockCipher(key: KeyDerivation.hkdf(runKey, info: "sekisho spill v1", context: context))
        self.run = run.text
    }

    /// Sealed bytes of a window of `byteCount` plaintext bytes, and the device's account of them; the plaintext.
    package func open(
        _ bytes: [UInt8], window: UInt16, byteCount: Int, sealed: [Completion.SealedRun]
    ) throws(TrainingError) -> [UInt8] {
        let blocks = (byteCount + Limits.blockBytes - 1) / Limits.blockBytes
        guard byteCount > 0, bytes.count == byteCount + blocks * Limits.tagBytes else {
            throw TrainingError(.badWeights, "the result window has another length")
        }
        // Later runs replace earlier ones, as the writes did.
        var numbers: [UInt64?] = Array(repeating: nil, count: blocks)
        for run in sealed where run.window == window {
            for offset in 0..<UInt64(run.blocks) where run.firstBlock < UInt64(blocks) - min(offset, UInt64(blocks)) {
                numbers[Int(run.firstBlock + offset)] = run.firstCounter &+ offset
            }
        }
        let context = BlockContext(domain: "sekisho-spill-v1", owner: run, section: UInt32(window))
        var plaintext: [UInt8] = []
        plaintext.reserveCapacity(byteCount)
        for block in 0..<blocks {
            let length = min(Limits.blockBytes, byteCount - block * Limits.blockBytes)
            let lower = block * Limits.sealedBlockBytes
            guard let number = numbers[block] else {
                throw TrainingError(.badWeights, "block \(block) of the result was not written")
            }
            do {
                plaintext += try cipher.open(
                    Array(bytes[lower..<lower + length + Limits.tagBytes]),
                    nonce: BlockNonce(high: 0x8000_0000 | UInt32(window), low: number),
                    aad: context.aad(index: UInt64(block), length: length))
            } catch {
                throw TrainingError(.badWeights, "block \(block) of the result is not what the device wrote")
            }
        }
        return plaintext
    }
}
