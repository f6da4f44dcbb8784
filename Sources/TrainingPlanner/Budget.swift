/// What a plan may use, and how fast what it uses is. Rates are measured when a device is attached.
package struct Budget: Hashable, Sendable {
    package let deviceBytes: Int
    package let hostBytes: Int
    package let device: DeviceRates
    package let link: LinkRates

    package init(deviceBytes: Int, hostBytes: Int, device: DeviceRates = .init(), link: LinkRates = .init()) {
        self.deviceBytes = deviceBytes
        self.hostBytes = hostBytes
        self.device = device
        self.link = link
    }
}

/// How fast a device computes.
package struct DeviceRates: Hashable, Sendable {
    package let productFlopsPerSecond: Double
    /// Bytes of neighbours' rows added per second.
    package let gatherBytesPerSecond: Double
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
        productFlopsPerSecond: Double = 180e9, gatherBytesPerSecond: Double = 38e9,
        streamBytesPerSecond: Double = 15e9, secondsPerCommand: Double = 10e-6, cacheBytes: Int = 8 << 20,
        sealsOnComputeCores: Bool = true
    ) {
        self.productFlopsPerSecond = productFlopsPerSecond
        self.gatherBytesPerSecond = gatherBytesPerSecond
        self.streamBytesPerSecond = streamBytesPerSecond
        self.secondsPerCommand = secondsPerCommand
        self.cacheBytes = cacheBytes
        self.sealsOnComputeCores = sealsOnComputeCores
    }
}

/// How fast sealed bytes cross.
package struct LinkRates: Hashable, Sendable {
    package let bytesPerSecond: Double
    package let roundTripSeconds: Double
    /// Opening and sealing at the device, bytes per second.
    package let sealBytesPerSecond: Double

    package init(
        bytesPerSecond: Double = 1e9, roundTripSeconds: Double = 100e-6, sealBytesPerSecond: Double = 2.7e9
    ) {
        self.bytesPerSecond = bytesPerSecond
        self.roundTripSeconds = roundTripSeconds
        self.sealBytesPerSecond = sealBytesPerSecond
    }
}
