/// Sealed bytes in the enclave, as the executor reaches for them. The fabric answers through its lanes.
package protocol WindowMemory: Sendable {
    /// Fills `into` with `count` sealed blocks from block `first` on, back to back; the window's last may be shorter,
    /// which `into.count` accounts for.
    func readBlocks(window: UInt16, first: UInt64, count: Int, into: UnsafeMutableRawBufferPointer) throws
    /// Begins such a read. Its memory may be written until `finish` returns, so every read begun is finished.
    func beginRead(
        window: UInt16, first: UInt64, count: Int, into: UnsafeMutableRawBufferPointer
    ) throws -> PendingRead
    /// Waits for a read that was begun.
    func finish(_ read: PendingRead) throws
    func writeBlock(window: UInt16, index: UInt64, _ bytes: UnsafeRawBufferPointer) throws
}

/// A read that was begun: the numbers that its answers will carry.
package struct PendingRead: Sendable {
    let transactions: [UInt64]
}

extension WindowMemory {
    // Memory that answers at once has nothing to wait for.
    package func beginRead(
        window: UInt16, first: UInt64, count: Int, into: UnsafeMutableRawBufferPointer
    ) throws -> PendingRead {
        try readBlocks(window: window, first: first, count: count, into: into)
        return PendingRead(transactions: [])
    }
    package func finish(_ read: PendingRead) throws {}
}
