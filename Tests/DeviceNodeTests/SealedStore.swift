import DeviceNode
import FabricProtocol
import Sealing
import Synchronization
import Vocabulary

/// The enclave's side of the windows, in memory: sealed bytes that it keeps, serves and may confuse.
final class SealedStore: WindowMemory {
    struct Missing: Error {}

    private let windows = Mutex<[UInt16: [UInt64: [UInt8]]]>([:])

    func readBlocks(window: UInt16, first: UInt64, count: Int, into: UnsafeMutableRawBufferPointer) throws {
        var offset = 0
        for index in first..<first + UInt64(count) {
            guard let block = self[window, index], into.count - offset >= block.count else { throw Missing() }
            UnsafeMutableRawBufferPointer(rebasing: into[offset..<offset + block.count]).copyBytes(from: block)
            offset += block.count
        }
        guard offset == into.count else { throw Missing() }
    }

    func writeBlock(window: UInt16, index: UInt64, _ bytes: UnsafeRawBufferPointer) throws {
        self[window, index] = Array(bytes)
    }

    subscript(window: UInt16, index: UInt64) -> [UInt8]? {
        get { windows.withLock { $0[window]?[index] } }
        set { windows.withLock { $0[window, default: [:]][index] = newValue } }
    }
}

/// One run's key, image and executor, as vault and fabric would provide them.
struct Rig {
    static let run = try! RunID("run-7")
    static let fence = Fence(3)
    static let attempt: UInt32 = 2
    static let keyBytes = [UInt8](repeating: 0x5A, count: 32)

    let store = SealedStore()
    let memory: DeviceMemory
    let executor: ProgramExecutor

    init(memoryBytes: Int, threads: Int = 1) throws {
        memory = try DeviceMemory(byteCount: memoryBytes)
        executor = try ProgramExecutor(
            memory: memory, windows: store, runKey: SecretBytes(copying: Self.keyBytes), run: Self.run,
            fence: Self.fence, attempt: Self.attempt, threads: threads)
    }

    /// Seals a section as the vault does.
    func seal<Element>(_ section: ImageSection, _ values: [Element], window: UInt16) throws {
        let key = KeyDerivation.hkdf(
            SecretBytes(copying: Self.keyBytes), info: "sekisho run image v1",
            context: withUnsafeBytes(of: section.rawValue.bigEndian, Array.init))
        try seal(
            values, window: window, key: key, domain: "sekisho-image-v1", section: section.rawValue,
            nonceHigh: section.rawValue)
    }

    /// Seals a checkpoint as the trainer does.
    func sealState<Element>(_ values: [Element], window: UInt16) throws {
        let context =
            withUnsafeBytes(of: Self.fence.number.bigEndian, Array.init)
            + withUnsafeBytes(of: Self.attempt.bigEndian, Array.init)
        let key = KeyDerivation.hkdf(
            SecretBytes(copying: Self.keyBytes), info: "sekisho state v1", context: context)
        try seal(
            values, window: window, key: key, domain: "sekisho-state-v1", section: UInt32(window),
            nonceHigh: 0x4000_0000 | UInt32(window))
    }

    private func seal<Element>(
        _ values: [Element], window: UInt16, key: borrowing SecretBytes, domain: String, section: UInt32,
        nonceHigh: UInt32
    ) throws {
        let cipher = BlockCipher(key: key)
        let context = BlockContext(domain: domain, owner: Self.run.text, section: section)
        let bytes = values.withUnsafeBytes { Array($0) }
        for (index, lower) in stride(from: 0, to: bytes.count, by: Limits.blockBytes).enumerated() {
            let block = Array(bytes[lower..<min(lower + Limits.blockBytes, bytes.count)])
            store[window, UInt64(index)] = try cipher.seal(
                block, nonce: BlockNonce(high: nonceHigh, low: UInt64(index)),
                aad: context.aad(index: UInt64(index), length: block.count))
        }
    }

    /// Opens what the device stored into a result window, as the completion says.
    func openResult(_ runs: [Completion.SealedRun], window: UInt16) throws -> [UInt8] {
        let context =
            withUnsafeBytes(of: Self.fence.number.bigEndian, Array.init)
            + withUnsafeBytes(of: Self.attempt.bigEndian, Array.init)
        let cipher = BlockCipher(
            key: KeyDerivation.hkdf(
                SecretBytes(copying: Self.keyBytes), info: "sekisho spill v1", context: context))
        let place = BlockContext(domain: "sekisho-spill-v1", owner: Self.run.text, section: UInt32(window))
        var bytes: [UInt8] = []
        for run in runs where run.window == window {
            for offset in 0..<UInt64(run.blocks) {
                let index = run.firstBlock + offset
                guard let sealed = store[window, index] else { throw SealedStore.Missing() }
                bytes += try cipher.open(
                    sealed, nonce: BlockNonce(high: 0x8000_0000 | UInt32(window), low: run.firstCounter + offset),
                    aad: place.aad(index: index, length: sealed.count - Limits.tagBytes))
            }
        }
        return bytes
    }

    func load(_ program: Program) throws -> UInt32 { try executor.load(try program.bytes()) }

    func ring(_ number: UInt32, _ arguments: DoorbellArguments) throws -> Completion {
        try Completion(parsing: try executor.ring(number, try arguments.bytes))
    }

    func floats(at offset: Int, count: Int) -> [Float] {
        memory.withBytes { bytes in (0..<count).map { bytes.load(fromByteOffset: offset + 4 * $0, as: Float.self) } }
    }
}

/// Records commands and finds their dependencies from the buffers and windows they use.
struct ProgramBuilder {
    private(set) var program = Program()
    private var memoryBytes = 0
    private var lastWrite: [Key: UInt32] = [:]
    private var readsSince: [Key: [UInt32]] = [:]

    enum Key: Hashable { case buffer(UInt16), window(UInt16) }

    var memory: Int { memoryBytes }

    mutating func buffer(_ byteCount: Int) -> Place {
        program.buffers.append(Program.Buffer(offset: memoryBytes, byteCount: byteCount))
        memoryBytes += (byteCount + 63) / 64 * 64
        return Place(buffer: UInt16(program.buffers.count - 1))
    }

    mutating func window(_ id: UInt16, _ purpose: Program.Window.Purpose, _ byteCount: Int) {
        let direction: Program.Window.Direction =
            switch purpose {
            case .image, .state: .read
            case .spill: .both
            case .result: .write
            }
        program.windows.append(
            Program.Window(id: id, direction: direction, purpose: purpose, byteCount: byteCount))
    }

    mutating func add(
        _ operation: FabricProtocol.Operation, reads: [Place] = [], writes: [Place] = [], with flags: DoorbellFlags = []
    ) {
        var reads = reads.map { Key.buffer($0.buffer) }
        var writes = writes.map { Key.buffer($0.buffer) }
        switch operation {
        case .fetch(let transfer):
            reads.append(.window(transfer.window))
            writes.append(.buffer(transfer.place.buffer))
        case .store(let transfer):
            writes.append(.window(transfer.window))
            reads.append(.buffer(transfer.place.buffer))
        default: break
        }
        let index = UInt32(program.commands.count)
        var needs: Set<UInt32> = []
        for key in reads + writes { if let write = lastWrite[key] { needs.insert(write) } }
        for key in writes { needs.formUnion(readsSince[key] ?? []) }
        // The latest of each queue stands for those before it.
        var latest: [FabricProtocol.Operation.Queue: UInt32] = [:]
        for need in needs {
            let queue = program.commands[Int(need)].operation.queue
            latest[queue] = max(latest[queue] ?? 0, need)
        }
        program.commands.append(
            Program.Command(operation, dependsOn: latest.values.sorted(), onlyWith: flags))
        for key in writes {
            lastWrite[key] = index
            readsSince[key] = []
        }
        for key in reads { readsSince[key, default: []].append(index) }
    }
}
