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

/// How fast a device computes.
package struct DeviceRates: Hashable, Sendable {
    package let productFlopsPerSecond: Double
    /// Bytes of neighbours' rows added per second, beyond what each edge costs.
    package let gatherBytesPerSecond: Double
    /// What an edge costs however narrow the rows are.
    package let secondsPerEdge: Double
    /// Bytes read and written per second by everything that goes through memory once.
    package let streamBytesPerSecond: Double
    /// One command's start, beyond its work.
    package let secondsPerCommand: Double
    /// What a chunk's intermediates may take before they go through memory between two commands.
    package let cacheBytes: Int
    /// Whether opening and sealing takes the cores that compute, as on a CPU device.
    package let sealsOnComputeCores: Bool

    /// The defaults are what two cores of the CPU backend reach on the machine of docs/performance.md.
    package init(
        productFlopsPerSecond: Double = 180e9, gatherBytesPerSecond: Double = 38e9, secondsPerEdge: Double = 0,
        streamBytesPerSecond: Double = 15e9, secondsPerCommand: Double = 10e-6, cacheBytes: Int = 8 << 20,
        sealsOnComputeCores: Bool = true
    ) {
        self.productFlopsPerSecond = productFlopsPerSecond
        self.gatherBytesPerSecond = gatherBytesPerSecond
        self.secondsPerEdge = secondsPerEdge
        self.streamBytesPerSecond = streamBytesPerSecond
        self.secondsPerCommand = secondsPerCommand
        self.cacheBytes = cacheBytes
        self.sealsOnComputeCores = sealsOnComputeCores
    }
}

extension DeviceRates {
    /// The same, each kind of work so many times slower.
    package func slower(_ factor: Double) -> DeviceRates {
        DeviceRates(
            productFlopsPerSecond: productFlopsPerSecond / factor, gatherBytesPerSecond: gatherBytesPerSecond / factor,
            secondsPerEdge: secondsPerEdge * factor, streamBytesPerSecond: streamBytesPerSecond / factor,
            secondsPerCommand: secondsPerCommand * factor, cacheBytes: cacheBytes,
            sealsOnComputeCores: sealsOnComputeCores)
    }
}

/// How fast sealed bytes cross.
package struct LinkRates: Hashable, Sendable {
    /// To the device.
    package let bytesPerSecond: Double
    /// From the device.
    package let storeBytesPerSecond: Double
    package let roundTripSeconds: Double
    /// Opening and sealing at the device, bytes per second.
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
