import DeviceNode
package import FabricProtocol
import Sealing
import Vocabulary

/// The node's executor on memory that the caller fills: operations alone, without windows.
package final class LocalKernels {
    private let memory: DeviceMemory
    private let executor: ProgramExecutor

    package init(memoryBytes: Int, threads: Int) throws {
        memory = try DeviceMemory(byteCount: memoryBytes)
        executor = try ProgramExecutor(
            memory: memory, windows: NoWindows(), runKey: SecretBytes.random(count: 32), run: RunID("kernels"),
            fence: Fence(1), attempt: 0, threads: threads)
    }

    /// The instruction set that the kernels use.
    package var kernelName: String { executor.kernelName }

    package func withMemory<Value>(_ body: (UnsafeMutableRawBufferPointer) throws -> Value) rethrows -> Value {
        try memory.withBytes(body)
    }

    package func load(_ program: Program) throws -> UInt32 { try executor.load(try program.bytes()) }

    package func ring(_ program: UInt32) throws -> Completion {
        let arguments = DoorbellArguments(seed: 1, epoch: 0, step: 1, learningRate: 0, flags: [])
        return try Completion(parsing: try executor.ring(program, try arguments.bytes))
    }
}

private struct NoWindows: WindowMemory {
    func readBlocks(window: UInt16, first: UInt64, count: Int, into: UnsafeMutableRawBufferPointer) throws {
        throw PlainGraphError(reason: "there are no windows")
    }
    func writeBlock(window: UInt16, index: UInt64, _ bytes: UnsafeRawBufferPointer) throws {
        throw PlainGraphError(reason: "there are no windows")
    }
}
