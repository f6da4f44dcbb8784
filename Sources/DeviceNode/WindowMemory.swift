/// Sealed bytes in the enclave, as the executor reaches for them. The fabric answers through its lanes.
package protocol WindowMemory: Sendable {
    /// Fills `into` with `count` sealed blocks from block `first` on, back to back; the window's last may be shorter,
    /// which `into.count` accounts for.
    func readBlocks(window: UInt16, first: UInt64, count: Int, into: UnsafeMutableRawBufferPointer) throws
    func writeBlock(window: UInt16, index: UInt64, _ bytes: UnsafeRawBufferPointer) throws
}
