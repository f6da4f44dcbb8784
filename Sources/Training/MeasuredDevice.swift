package import FabricProtocol
package import TrainingPlanner

extension DeviceRates {
    /// What a device's own measurement says. A row of 1 KiB and one of 64 bytes tell what an edge costs and what its bytes
    /// cost; `nil` where a number is missing.
    package init?(_ measured: Completion.Rates) {
        let (wide, narrow) = (measured.wideGatherBytesPerSecond, measured.narrowGatherBytesPerSecond)
        guard measured.productFlops > 0, wide > 0, narrow > 0, measured.copyBytesPerSecond > 0 else { return nil }
        let (wideSeconds, narrowSeconds) = (1024 / wide, 64 / narrow)
        let perByte = max((wideSeconds - narrowSeconds) / 960, 1 / (8 * wide))
        self.init(
            productFlopsPerSecond: measured.productFlops, gatherBytesPerSecond: 1 / perByte,
            secondsPerEdge: max(narrowSeconds - 64 * perByte, 0), streamBytesPerSecond: 2 * measured.copyBytesPerSecond)
    }
}
