import FabricProtocol
import GPUFabric
import Training
package import TrainingPlanner
package import Vocabulary

/// How fast the device, the link to it and this host's SSD were when a run was planned. Recorded with the plan, so that
/// the same plan can be made again.
package struct MeasuredRates: Equatable, Sendable {
    private let numbers: [Name: Int64]

    private enum Name: String, CaseIterable {
        case linkBytes = "bytes_per_second"
        case roundTrip = "rtt_nanoseconds"
        case productFlops = "product_flops_per_second"
        case wideGatherBytes = "wide_gather_bytes_per_second"
        case narrowGatherBytes = "narrow_gather_bytes_per_second"
        case copyBytes = "copy_bytes_per_second"
        case gradientFlops = "gradient_flops_per_second"
        case scoredEdges = "scored_edges_per_second"
        case attendedEdges = "attended_edges_per_second"
        case dropElements = "drop_elements_per_second"
        case mapElements = "map_elements_per_second"
        case lossElements = "loss_elements_per_second"
        case commands = "commands_per_second"
        case openBytes = "open_bytes_per_second"
        case threads
        case cores
        case ssdReadBytes = "ssd_read_bytes_per_second"
        case ssdWriteBytes = "ssd_write_bytes_per_second"
    }

    /// Measures what was not measured when the device was attached. A device too small for it keeps the usual rates.
    init(_ gpu: RemoteGPU, ssdFolder: String) async throws {
        var numbers: [Name: Int64] = [
            .linkBytes: Int64(clamping: gpu.link.bytesPerSecond),
            .roundTrip: Int64(clamping: gpu.link.roundTripNanoseconds),
        ]
        if let kernels = try await Self.kernels(gpu) {
            numbers[.productFlops] = Self.whole(kernels.productFlops)
            numbers[.wideGatherBytes] = Self.whole(kernels.wideGatherBytesPerSecond)
            numbers[.narrowGatherBytes] = Self.whole(kernels.narrowGatherBytesPerSecond)
            numbers[.copyBytes] = Self.whole(kernels.copyBytesPerSecond)
            numbers[.gradientFlops] = Self.whole(kernels.tileProductFlops)
            numbers[.scoredEdges] = Self.whole(kernels.scoredEdgesPerSecond)
            numbers[.attendedEdges] = Self.whole(kernels.attendedEdgesPerSecond)
            numbers[.dropElements] = Self.whole(kernels.dropElementsPerSecond)
            numbers[.mapElements] = Self.whole(kernels.mapElementsPerSecond)
            numbers[.lossElements] = Self.whole(kernels.lossElementsPerSecond)
            numbers[.commands] = Self.whole(kernels.commandsPerSecond)
            numbers[.openBytes] = Self.whole(kernels.openBytesPerSecond)
            numbers[.threads] = Int64(kernels.threads)
            numbers[.cores] = Int64(kernels.cores)
        }
        if let ssd = try? Self.ssd(ssdFolder) {
            numbers[.ssdReadBytes] = Self.whole(ssd.readBytesPerSecond)
            numbers[.ssdWriteBytes] = Self.whole(ssd.writeBytesPerSecond)
        }
        self.numbers = numbers.filter { $0.value > 0 }
    }

    package init(json: JSON) {
        var numbers: [Name: Int64] = [:]
        for name in Name.allCases { numbers[name] = json[name.rawValue]?.integerValue }
        self.numbers = numbers.filter { $0.value > 0 }
    }

    package var json: JSON {
        .object(Dictionary(uniqueKeysWithValues: numbers.map { ($0.key.rawValue, .integer($0.value)) }))
    }

    package func budget(deviceBytes: Int, hostBytes: Int, ssdBytes: Int) -> Budget {
        let (bytes, roundTrip) = (rate(.linkBytes) ?? 1, (rate(.roundTrip) ?? 0) / 1e9)
        return Budget(
            deviceBytes: deviceBytes, hostBytes: hostBytes, ssdBytes: ssdBytes, device: device,
            link: rate(.openBytes).map { open in
                LinkRates(bytesPerSecond: bytes, roundTripSeconds: roundTrip, sealBytesPerSecond: open)
            } ?? LinkRates(bytesPerSecond: bytes, roundTripSeconds: roundTrip),
            ssd: rate(.ssdReadBytes).flatMap { read in
                rate(.ssdWriteBytes).map { SSDRates(readBytesPerSecond: read, writeBytesPerSecond: $0) }
            } ?? SSDRates())
    }

    private func rate(_ name: Name) -> Double? { numbers[name].map(Double.init) }

    private var device: DeviceRates {
        var measured = Completion.Rates()
        measured.productFlops = rate(.productFlops) ?? 0
        measured.wideGatherBytesPerSecond = rate(.wideGatherBytes) ?? 0
        measured.narrowGatherBytesPerSecond = rate(.narrowGatherBytes) ?? 0
        measured.copyBytesPerSecond = rate(.copyBytes) ?? 0
        measured.tileProductFlops = rate(.gradientFlops) ?? 0
        measured.scoredEdgesPerSecond = rate(.scoredEdges) ?? 0
        measured.attendedEdgesPerSecond = rate(.attendedEdges) ?? 0
        measured.dropElementsPerSecond = rate(.dropElements) ?? 0
        measured.mapElementsPerSecond = rate(.mapElements) ?? 0
        measured.lossElementsPerSecond = rate(.lossElements) ?? 0
        measured.commandsPerSecond = rate(.commands) ?? 0
        measured.openBytesPerSecond = rate(.openBytes) ?? 0
        measured.threads = UInt32(clamping: numbers[.threads] ?? 0)
        measured.cores = UInt32(clamping: numbers[.cores] ?? 0)
        return DeviceRates(measured) ?? DeviceRates()
    }

    private static func whole(_ number: Double) -> Int64 { number.isFinite ? Int64(min(max(number, 0), 1e18)) : 0 }

    private static func kernels(_ gpu: RemoteGPU) async throws -> Completion.Rates? {
        let bytes = min(gpu.deviceBytes, 64 << 20) / 64 * 64
        guard bytes >= Measure.byteCountMin else { return nil }
        let program = Program(
            buffers: [.init(offset: 0, byteCount: bytes)],
            commands: [.init(.measure(Measure(place: Place(buffer: 0), byteCount: bytes)))])
        let arguments = DoorbellArguments(seed: 0, epoch: 0, step: 1, learningRate: 1, flags: [])
        let number = try await gpu.load(try program.bytes())
        return try Completion(parsing: try await gpu.ring(number, try arguments.bytes)).rates
    }

    private static func ssd(_ folder: String) throws -> SSDRates {
        let blocks = 256
        let count = blocks * Limits.sealedBlockBytes
        let file = try SpillFile(folder: folder, byteCount: count)
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
        defer { bytes.deallocate() }
        bytes.initializeMemory(as: UInt8.self, repeating: 0x5a)
        let clock = ContinuousClock()
        let write = try clock.measure { try file.write(offset: 0, from: UnsafeRawBufferPointer(bytes)) }
        let read = try clock.measure { try file.read(offset: 0, into: bytes) }
        return SSDRates(
            readBytesPerSecond: Double(count) / max(read / .seconds(1), 1e-9),
            writeBytesPerSecond: Double(count) / max(write / .seconds(1), 1e-9))
    }
}
