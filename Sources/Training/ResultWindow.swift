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
        try open(bytes, SealedPart(window: window, byteCount: byteCount), sealed: sealed)
    }

    /// The same of some blocks of a window: `bytes` are theirs.
    package func open(
        _ bytes: [UInt8], _ part: SealedPart, sealed: [Completion.SealedRun]
    ) throws(TrainingError) -> [UInt8] {
        let (window, byteCount, blocks) = (part.window, part.byteCount, part.blocks)
        guard part.isInside, bytes.count == part.sealedRange.count else {
            throw TrainingError(.badWeights, "the result window has another length")
        }
        // Later runs replace earlier ones, as the writes did.
        var numbers: [UInt64?] = Array(repeating: nil, count: blocks.count)
        for run in sealed where run.window == window {
            // The account is the device's word: what of it lies beside these blocks is not walked through.
            let first = max(run.firstBlock, UInt64(blocks.lowerBound))
            let (end, isOver) = run.firstBlock.addingReportingOverflow(UInt64(run.blocks))
            let last = min(isOver ? .max : end, UInt64(blocks.upperBound))
            guard first < last else { continue }
            for block in first..<last {
                numbers[Int(block) - blocks.lowerBound] = run.firstCounter &+ (block - run.firstBlock)
            }
        }
        let context = BlockContext(domain: "sekisho-spill-v1", owner: run, section: UInt32(window))
        var plaintext: [UInt8] = []
        plaintext.reserveCapacity(byteCount)
        for block in blocks {
            let length = min(Limits.blockBytes, byteCount - block * Limits.blockBytes)
            let lower = (block - blocks.lowerBound) * Limits.sealedBlockBytes
            guard let number = numbers[block - blocks.lowerBound] else {
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

/// Whole blocks of a result window.
package struct SealedPart: Hashable, Sendable {
    package let window: UInt16
    /// Plaintext bytes of the whole window.
    package let byteCount: Int
    package let blocks: Range<Int>

    /// All of it, or some blocks.
    package init(window: UInt16, byteCount: Int, blocks: Range<Int>? = nil) {
        self.window = window
        self.byteCount = byteCount
        self.blocks = blocks ?? 0..<Self.blocks(byteCount)
    }

    private static func blocks(_ bytes: Int) -> Int { (bytes + Limits.blockBytes - 1) / Limits.blockBytes }

    var isInside: Bool { byteCount > 0 && !blocks.isEmpty && blocks.upperBound <= Self.blocks(byteCount) }

    /// Where its sealed bytes lie among those of the window.
    package var sealedRange: Range<Int> {
        let end = byteCount + Self.blocks(byteCount) * Limits.tagBytes
        return blocks.lowerBound * Limits.sealedBlockBytes..<min(blocks.upperBound * Limits.sealedBlockBytes, end)
    }
}
