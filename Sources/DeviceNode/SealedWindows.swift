internal import FabricProtocol
internal import Sealing
internal import Synchronization
internal import Vocabulary

/// Opens what the enclave sealed and seals what goes back, block by block.
///
/// The host may keep every version of a block it was given; the device remembers the number of the last one it wrote
/// to each place, which is its nonce, so an older one does not open.
final class SealedWindows: Sendable {
    static let batchBlocks = 32
    /// Staging of one queue: two batches of sealed blocks, one on its way while the other is opened, and one block's
    /// plaintext.
    static let stagingBytes = 2 * batchBlocks * Limits.sealedBlockBytes + Limits.blockBytes

    private let memory: any WindowMemory
    private let run: String
    private let imageCiphers: [UInt32: BlockCipher]
    private let ownCipher: BlockCipher
    private let stateCipher: BlockCipher
    private let table = Mutex(Table())

    private struct Table {
        var windows: [UInt16: Program.Window] = [:]
        /// Number of the write that made each block of each window what it is.
        var written: [UInt16: [UInt64: UInt64]] = [:]
        var writes: UInt64 = 0
    }

    /// One for each attempt of a run under a fence: its write numbers start at 0, so a second one would repeat nonces.
    init(memory: any WindowMemory, runKey: borrowing SecretBytes, run: RunID, fence: Fence, attempt: UInt32) {
        self.memory = memory
        self.run = run.text
        var ciphers: [UInt32: BlockCipher] = [:]
        for section in ImageSection.allCases {
            let key = KeyDerivation.hkdf(
                runKey, info: "sekisho run image v1", context: bigEndian(section.rawValue))
            ciphers[section.rawValue] = BlockCipher(key: key)
        }
        imageCiphers = ciphers
        let attempt = bigEndian(fence.number) + bigEndian(attempt)
        ownCipher = BlockCipher(key: KeyDerivation.hkdf(runKey, info: "sekisho spill v1", context: attempt))
        stateCipher = BlockCipher(key: KeyDerivation.hkdf(runKey, info: "sekisho state v1", context: attempt))
    }

    /// Takes a program's windows; a number keeps its meaning for the whole attempt.
    func declare(_ windows: [Program.Window]) throws(ExecutorError) {
        let clash = table.withLock { table -> UInt16? in
            for window in windows {
                if let known = table.windows[window.id], known != window { return window.id }
            }
            for window in windows { table.windows[window.id] = window }
            return nil
        }
        if let clash { throw ExecutorError(.window, "window \(clash) was declared otherwise before") }
    }

    /// Fetches bytes of a window's plaintext into `target`. Returns the sealed bytes that crossed.
    func fetch(_ transfer: Transfer, into target: UnsafeMutableRawPointer, staging: UnsafeMutableRawPointer)
        throws(ExecutorError) -> Int
    {
        let window = try declared(transfer.window)
        let end = transfer.windowOffset + transfer.byteCount
        let blocks = transfer.windowOffset / Limits.blockBytes...(end - 1) / Limits.blockBytes
        try requireWritten(window, blocks)
        var crossed = 0
        var coming: Batch? = try begin(window, blocks.lowerBound, to: blocks.upperBound, staging, half: 0)
        while let batch = coming {
            do { try memory.finish(batch.read) } catch { throw unread(window) }
            crossed += batch.sealed.count
            // The next batch crosses while this one is opened.
            coming = nil
            if batch.blocks.upperBound <= blocks.upperBound {
                coming = try begin(
                    window, batch.blocks.upperBound, to: blocks.upperBound, staging, half: 1 - batch.half)
            }
            do throws(ExecutorError) {
                try open(
                    batch, window, wanted: transfer.windowOffset..<end, into: target,
                    block: UnsafeMutableRawBufferPointer(
                        start: staging + 2 * Self.batchBlocks * Limits.sealedBlockBytes, count: Limits.blockBytes))
            } catch {
                // Its memory is the next fetch's too.
                if let coming { try? memory.finish(coming.read) }
                throw error
            }
        }
        return crossed
    }

    /// Consecutive blocks on their way into one half of the staging.
    private struct Batch {
        let blocks: Range<Int>
        let half: Int
        let sealed: UnsafeMutableRawBufferPointer
        let read: PendingRead
    }

    private func begin(
        _ window: Program.Window, _ first: Int, to last: Int, _ staging: UnsafeMutableRawPointer, half: Int
    ) throws(ExecutorError) -> Batch {
        let count = min(Self.batchBlocks, last - first + 1)
        let plaintextBytes =
            min(window.byteCount, (first + count) * Limits.blockBytes) - first * Limits.blockBytes
        let sealed = UnsafeMutableRawBufferPointer(
            start: staging + half * Self.batchBlocks * Limits.sealedBlockBytes,
            count: plaintextBytes + count * Limits.tagBytes)
        do {
            let read = try memory.beginRead(window: window.id, first: UInt64(first), count: count, into: sealed)
            return Batch(blocks: first..<first + count, half: half, sealed: sealed, read: read)
        } catch {
            throw unread(window)
        }
    }

    /// Opens a batch's blocks and puts what is `wanted` of them where it belongs; `block` is room for one in part.
    private func open(
        _ batch: Batch, _ window: Program.Window, wanted: Range<Int>, into target: UnsafeMutableRawPointer,
        block: UnsafeMutableRawBufferPointer
    ) throws(ExecutorError) {
        for index in batch.blocks {
            let lower = index * Limits.blockBytes
            let length = min(Limits.blockBytes, window.byteCount - lower)
            let start = (index - batch.blocks.lowerBound) * Limits.sealedBlockBytes
            let from = UnsafeRawBufferPointer(rebasing: batch.sealed[start..<start + length + Limits.tagBytes])
            let part = wanted.clamped(to: lower..<lower + length)
            let to = target + (part.lowerBound - wanted.lowerBound)
            if part.count == length {
                try open(from, index, window, into: UnsafeMutableRawBufferPointer(start: to, count: length))
            } else {
                let whole = UnsafeMutableRawBufferPointer(rebasing: block[..<length])
                try open(from, index, window, into: whole)
                to.copyMemory(from: whole.baseAddress! + (part.lowerBound - lower), byteCount: part.count)
            }
        }
    }

    private func unread(_ window: Program.Window) -> ExecutorError {
        ExecutorError(.window, "blocks of window \(window.id) could not be read")
    }

    /// Seals whole blocks from `source` into a window. Returns the run of write numbers.
    func store(_ transfer: Transfer, from source: UnsafeRawPointer, staging: UnsafeMutableRawPointer)
        throws(ExecutorError) -> Completion.SealedRun
    {
        let window = try declared(transfer.window)
        let block = Limits.blockBytes
        let first = transfer.windowOffset / block
        let count = (transfer.byteCount + block - 1) / block
        let firstNumber = table.withLock { table in
            let number = table.writes
            // Used up whether or not the blocks arrive: a number never seals twice.
            table.writes += UInt64(count)
            return number
        }
        for offset in 0..<count {
            let length = min(block, transfer.byteCount - offset * block)
            let sealed = UnsafeMutableRawBufferPointer(start: staging, count: length + Limits.tagBytes)
            let index = UInt64(first + offset)
            let number = firstNumber + UInt64(offset)
            do {
                try ownCipher.seal(
                    UnsafeRawBufferPointer(start: source + offset * block, count: length),
                    nonce: BlockNonce(high: 0x8000_0000 | UInt32(window.id), low: number),
                    aad: context("sekisho-spill-v1", UInt32(window.id)).aad(index: index, length: length),
                    into: sealed)
                try memory.writeBlock(window: window.id, index: index, UnsafeRawBufferPointer(sealed))
            } catch {
                throw ExecutorError(.window, "a block of window \(window.id) could not be written")
            }
            table.withLock { $0.written[window.id, default: [:]][index] = number }
        }
        return Completion.SealedRun(
            window: window.id, firstBlock: UInt64(first), blocks: UInt32(count), firstCounter: firstNumber)
    }

    /// A spilled block exists once this attempt has written it; nothing else is even asked for.
    private func requireWritten(_ window: Program.Window, _ blocks: ClosedRange<Int>) throws(ExecutorError) {
        guard window.purpose == .spill else { return }
        let missing = table.withLock { table in
            blocks.first { table.written[window.id]?[UInt64($0)] == nil }
        }
        if let missing {
            throw ExecutorError(.unwritten, "block \(missing) of window \(window.id) was never written")
        }
    }

    private func declared(_ id: UInt16) throws(ExecutorError) -> Program.Window {
        guard let window = table.withLock({ $0.windows[id] }) else {
            throw ExecutorError(.window, "window \(id) is not declared")
        }
        return window
    }

    private func open(
        _ sealed: UnsafeRawBufferPointer, _ index: Int, _ window: Program.Window,
        into plaintext: UnsafeMutableRawBufferPointer
    ) throws(ExecutorError) {
        let cipher: BlockCipher
        let nonce: BlockNonce
        let context: BlockContext
        switch window.purpose {
        case .image(let section):
            guard let found = imageCiphers[section.rawValue] else {
                throw ExecutorError(.window, "a section without a key")
            }
            cipher = found
            nonce = BlockNonce(high: section.rawValue, low: UInt64(index))
            context = self.context("sekisho-image-v1", section.rawValue)
        case .state:
            cipher = stateCipher
            nonce = BlockNonce(high: 0x4000_0000 | UInt32(window.id), low: UInt64(index))
            context = self.context("sekisho-state-v1", UInt32(window.id))
        case .spill, .result:
            guard let number = table.withLock({ $0.written[window.id]?[UInt64(index)] }) else {
                throw ExecutorError(.unwritten, "block \(index) of window \(window.id) was never written")
            }
            cipher = ownCipher
            nonce = BlockNonce(high: 0x8000_0000 | UInt32(window.id), low: number)
            context = self.context("sekisho-spill-v1", UInt32(window.id))
        }
        do {
            try cipher.open(
                sealed, nonce: nonce, aad: context.aad(index: UInt64(index), length: plaintext.count), into: plaintext)
        } catch {
            throw ExecutorError(.tampered, "block \(index) of window \(window.id) is not the one that belongs there")
        }
    }

    private func context(_ domain: String, _ section: UInt32) -> BlockContext {
        BlockContext(domain: domain, owner: run, section: section)
    }
}

private func bigEndian(_ number: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: number.bigEndian, Array.init)
}
