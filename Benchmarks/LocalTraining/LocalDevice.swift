import DeviceNode
package import FabricProtocol
package import Sealing
import Synchronization
package import Training
import Vocabulary

/// The node's executor in this process, on windows in this process: no network, but every byte still crosses sealed.
package final class LocalDevice: TrainingDevice {
    private let executor: ProgramExecutor
    private let windows: LocalWindows
    private let results: ResultWindow
    private let state: StateWindows

    /// - Parameter fence: another one for each device that goes on with a run.
    package init(
        _ image: LocalImage, memoryBytes: Int, runKey: borrowing SecretBytes, threads: Int, fence: UInt64 = 1
    ) throws {
        windows = LocalWindows(image)
        executor = try ProgramExecutor(
            memory: try DeviceMemory(byteCount: memoryBytes), windows: windows, runKey: runKey, run: image.run,
            fence: Fence(fence), attempt: 0, threads: threads)
        results = ResultWindow(runKey: runKey, run: image.run, fence: Fence(fence), attempt: 0)
        state = StateWindows(runKey: runKey, run: image.run, fence: Fence(fence), attempt: 0)
    }

    package func load(_ program: [UInt8], windows declared: [Program.Window]) async throws -> UInt32 {
        windows.map(declared)
        return try executor.load(program)
    }

    package func ring(_ program: UInt32, _ arguments: [UInt8]) async throws -> [UInt8] {
        try executor.ring(program, arguments)
    }

    /// How fast the kernels are on so many bytes of the device's memory.
    package func measured(bytes: Int) throws -> Completion.Rates? {
        let program = Program(
            buffers: [.init(offset: 0, byteCount: bytes)],
            commands: [.init(.measure(Measure(place: Place(buffer: 0), byteCount: bytes)))])
        let arguments = DoorbellArguments(seed: 0, epoch: 0, step: 1, learningRate: 1, flags: [])
        return try Completion(parsing: try executor.ring(try executor.load(program.bytes()), try arguments.bytes)).rates
    }

    /// The plaintext of a checkpoint's windows, as the device stored them.
    package func parts(of checkpoint: TrainingCheckpoint, parameters: Int) throws -> [TrainingCheckpoint.Part: [UInt8]]
    {
        var parts: [TrainingCheckpoint.Part: [UInt8]] = [:]
        for part in TrainingCheckpoint.Part.allCases {
            parts[part] = try results.open(
                windows.bytes(part.resultWindow), window: part.resultWindow,
                byteCount: part.byteCount(parameters: parameters), sealed: checkpoint.sealed)
        }
        return parts
    }

    /// Gives the device another one's state to go on from. Once.
    package func give(_ parts: [TrainingCheckpoint.Part: [UInt8]]) throws {
        for (part, plaintext) in parts {
            windows.give(try state.seal(plaintext, window: part.stateWindow), part.stateWindow)
        }
    }

    /// Gives the device a trained model's weights, for predictions.
    package func give(weights: [UInt8]) throws { try give([.parameters: weights]) }

    package func opened(_ part: SealedPart, sealed: [Completion.SealedRun]) async throws -> [UInt8] {
        try results.open(Array(windows.bytes(part.window)[part.sealedRange]), part, sealed: sealed)
    }
}

/// Sealed windows in memory.
private final class LocalWindows: WindowMemory {
    private let image: [UInt16: [UInt8]]
    private let written = Mutex<[UInt16: [UInt8]]>([:])

    init(_ image: LocalImage) {
        self.image = Dictionary(
            uniqueKeysWithValues: image.sealed.map { (ModelSpec.window(of: $0.key), $0.value) })
    }

    func map(_ declared: [Program.Window]) {
        for window in declared where window.direction != .read {
            let blocks = (window.byteCount + Limits.blockBytes - 1) / Limits.blockBytes
            let bytes = window.byteCount + blocks * Limits.tagBytes
            written.withLock { $0[window.id] = Array(repeating: 0, count: bytes) }
        }
    }

    func give(_ bytes: [UInt8], _ window: UInt16) { written.withLock { $0[window] = bytes } }

    func bytes(_ window: UInt16) -> [UInt8] { written.withLock { $0[window] ?? [] } }

    func readBlocks(window: UInt16, first: UInt64, count: Int, into: UnsafeMutableRawBufferPointer) throws {
        let lower = Int(first) * Limits.sealedBlockBytes
        func copy(_ source: [UInt8]?) throws {
            guard let source, lower + into.count <= source.count else {
                throw PlainGraphError(reason: "a read outside window \(window)")
            }
            source.withUnsafeBytes {
                into.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[lower..<lower + into.count]))
            }
        }
        if let sealed = image[window] { return try copy(sealed) }
        try written.withLock { try copy($0[window]) }
    }

    func writeBlock(window: UInt16, index: UInt64, _ bytes: UnsafeRawBufferPointer) throws {
        let lower = Int(index) * Limits.sealedBlockBytes
        try written.withLock { windows in
            guard let size = windows[window]?.count, lower + bytes.count <= size else {
                throw PlainGraphError(reason: "a write outside window \(window)")
            }
            windows[window]!.withUnsafeMutableBytes {
                UnsafeMutableRawBufferPointer(rebasing: $0[lower..<lower + bytes.count]).copyMemory(from: bytes)
            }
        }
    }
}
