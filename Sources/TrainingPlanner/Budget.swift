/// What a plan may use, and how fast what it uses is. Rates are measured when a device is attached.
package struct Budget: Hashable, Sendable {
    package let deviceBytes: Int
    /// Enclave host memory for sealed blocks that are put away.
    package let hostBytes: Int
    /// Enclave disk for sealed blocks that host memory has no room for.
    package let ssdBytes: Int
    package let device: DeviceRates
    package let link: LinkRates
    package let ssd: SSDRates

    package init(
        deviceBytes: Int, hostBytes: Int, ssdBytes: Int = 0, device: DeviceRates = .init(), link: LinkRates = .init(),
        ssd: SSDRates = .init()
    ) {
        self.deviceBytes = deviceBytes
        self.hostBytes = hostBytes
        self.ssdBytes = ssdBytes
        self.device = device
        self.link = link
        self.ssd = ssd
    }
}

/// How fast a device computes, on all its threads.
package struct DeviceRates: Hashable, Sendable {
    /// Floating-point operations of tall products per second, of operands near the cores, and of weights' gradients.
    package var productFlopsPerSecond: Double
    package var gradientFlopsPerSecond: Double
    /// Bytes of neighbours' rows added per second, beyond what each edge costs.
    package var gatherBytesPerSecond: Double
    /// What an edge costs however narrow the rows are.
    package var secondsPerEdge: Double
    /// What the scores of an edge with up to four heads cost where only their highest and their sum are wanted, and what
    /// its weights cost.
    package var secondsPerScoredEdge: Double
    package var secondsPerAttendedEdge: Double
    /// Bytes read and written per second by everything that goes through memory once.
    package var streamBytesPerSecond: Double
    /// Elements that dropout, and that a copy with one cheap step, goes over per second, where they are near the cores.
    package var dropElementsPerSecond: Double
    package var mapElementsPerSecond: Double
    /// Outputs that a loss goes over per second, in whole vectors of them, two more for each row.
    package var lossElementsPerSecond: Double
    /// One command's start, beyond its work.
    package var secondsPerCommand: Double
    /// What a chunk's intermediates may take before they go through memory between two commands.
    package var cacheBytes: Int
    /// Threads that compute.
    package var threads: Int
    /// Whether opening and sealing takes the cores that compute, as where these are all there are.
    package var sealsOnComputeCores: Bool

    /// The defaults are what two cores of the CPU backend reach on the machine of docs/performance.md.
    package init(
        productFlopsPerSecond: Double = 300e9, gradientFlopsPerSecond: Double = 220e9,
        gatherBytesPerSecond: Double = 50e9, secondsPerEdge: Double = 0, secondsPerScoredEdge: Double = 4e-9,
        secondsPerAttendedEdge: Double = 6e-9, streamBytesPerSecond: Double = 30e9,
        dropElementsPerSecond: Double = 3e9, mapElementsPerSecond: Double = 8e9,
        lossElementsPerSecond: Double = 1.2e9, secondsPerCommand: Double = 10e-6,
        cacheBytes: Int = 4 << 20, threads: Int = 2, sealsOnComputeCores: Bool = true
    ) {
        self.productFlopsPerSecond = productFlopsPerSecond
        self.gradientFlopsPerSecond = gradientFlopsPerSecond
        self.gatherBytesPerSecond = gatherBytesPerSecond
        self.secondsPerEdge = secondsPerEdge
        self.secondsPerScoredEdge = secondsPerScoredEdge
        self.secondsPerAttendedEdge = secondsPerAttendedEdge
        self.streamBytesPerSecond = streamBytesPerSecond
        self.dropElementsPerSecond = dropElementsPerSecond
        self.mapElementsPerSecond = mapElementsPerSecond
        self.lossElementsPerSecond = lossElementsPerSecond
        self.secondsPerCommand = secondsPerCommand
        self.cacheBytes = cacheBytes
        self.threads = threads
        self.sealsOnComputeCores = sealsOnComputeCores
    }
}

extension DeviceRates {
    /// The same, each kind of work so many times slower.
    package func slower(_ factor: Double) -> DeviceRates {
        var rates = self
        rates.productFlopsPerSecond /= factor
        rates.gradientFlopsPerSecond /= factor
        rates.gatherBytesPerSecond /= factor
        rates.secondsPerEdge *= factor
        rates.secondsPerScoredEdge *= factor
        rates.secondsPerAttendedEdge *= factor
        rates.streamBytesPerSecond /= factor
        rates.dropElementsPerSecond /= factor
        rates.mapElementsPerSecond /= factor
        rates.lossElementsPerSecond /= factor
        rates.secondsPerCommand *= factor
        return rates
    }
}

/// How fast sealed bytes cross.
package struct LinkRates: Hashable, Sendable {
    /// To the device.
    package let bytesPerSecond: Double
    /// From the device.
    package let storeBytesPerSecond: Double
    package let roundTripSeconds: Double
    /// Opening and sealing at the device, on one core, with the bytes' way to it: bytes per second.
    package let sealBytesPerSecond: Double

    package init(
        bytesPerSecond: Double = 1e9, storeBytesPerSecond: Double? = nil, roundTripSeconds: Double = 100e-6,
        sealBytesPerSecond: Double = 2.7e9
    ) {
        self.bytesPerSecond = bytesPerSecond
        self.storeBytesPerSecond = storeBytesPerSecond ?? bytesPerSecond
        self.roundTripSeconds = roundTripSeconds
        self.sealBytesPerSecond = sealBytesPerSecond
    }
}

/// How fast the enclave's disk takes and gives sealed blocks.
package struct SSDRates: Hashable, Sendable {
    package let readBytesPerSecond: Double
    package let writeBytesPerSecond: Double

    package init(readBytesPerSecond: Double = 1e9, writeBytesPerSecond: Double = 0.5e9) {
        self.readBytesPerSecond = readBytesPerSecond
        self.writeBytesPerSecond = writeBytesPerSecond
    }
}
