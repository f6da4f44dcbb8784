package import FabricProtocol
package import TrainingPlanner

extension DeviceRates {
    /// What the threads wait for the one with the last piece of a command: half a piece of a chunk of 1,024 rows.
    private static let tailSeconds = 15e-6

    /// What a device's own measurement says. Rows of 1 KiB and of 32 bytes tell what an edge costs and what its bytes
    /// cost; `nil` where a number is missing.
    package init?(_ measured: Completion.Rates) {
        let (wide, narrow) = (measured.wideGatherBytesPerSecond, measured.narrowGatherBytesPerSecond)
        guard Completion.Rates.perSecond.allSatisfy({ measured[keyPath: $0] > 0 }), measured.threads > 0 else {
            return nil
        }
        let (wideSeconds, narrowSeconds) = (1024 / wide, 32 / narrow)
        let perByte = max((wideSeconds - narrowSeconds) / 992, 1 / (8 * wide))
        self.init(
            productFlopsPerSecond: measured.productFlops, gradientFlopsPerSecond: measured.tileProductFlops,
            gatherBytesPerSecond: 1 / perByte, secondsPerEdge: max(narrowSeconds - 32 * perByte, 0),
            secondsPerScoredEdge: 1 / measured.scoredEdgesPerSecond,
            // Beyond the bytes of its row.
            secondsPerAttendedEdge: max(1 / measured.attendedEdgesPerSecond - 64 * perByte, 1e-10),
            streamBytesPerSecond: 2 * measured.copyBytesPerSecond,
            dropElementsPerSecond: measured.dropElementsPerSecond, mapElementsPerSecond: measured.mapElementsPerSecond,
            lossElementsPerSecond: measured.lossElementsPerSecond,
            secondsPerCommand: 1 / measured.commandsPerSecond + Self.tailSeconds,
            threads: Int(measured.threads), sealsOnComputeCores: measured.cores <= measured.threads)
    }
}
