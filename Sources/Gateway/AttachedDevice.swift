import FabricProtocol
import GPUFabric
import GraphVault
import Sealing
import Synchronization
import Training
import TrainingPlanner
import Vocabulary

/// What the device sealed into a result window, as it lies on the enclave host.
struct SealedResult: Sendable {
    let part: SealedPart
    let bytes: [UInt8]
    let sealed: [Completion.SealedRun]
}

/// Connects the trainer to an attached device: maps the windows that a program declares, and no others.
struct AttachedDevice: TrainingDevice {
    let gpu: RemoteGPU
    let image: RunImage
    let spills: SpillStores
    /// Sealed state windows of the checkpoint that the run goes on from; empty for one that starts.
    let state: [UInt16: [UInt8]]
    /// Windows that earlier programs mapped; a window keeps its size, so a later program shares them.
    private let known = KnownWindows()
    private let held = HeldBytes()
    /// Makes the window table and program durable in the trail before anything is mapped.
    let recording: @Sendable (_ windows: Digest, _ program: Digest, _ isFirst: Bool) async throws -> Void
    let opening: @Sendable (SealedResult) async throws -> [UInt8]

    init(
        gpu: RemoteGPU, image: RunImage, spills: SpillStores, state: [UInt16: [UInt8]],
        recording: @escaping @Sendable (_ windows: Digest, _ program: Digest, _ isFirst: Bool) async throws -> Void,
        opening: @escaping @Sendable (SealedResult) async throws -> [UInt8]
    ) {
        self.gpu = gpu
        self.image = image
        self.spills = spills
        self.state = state
        self.recording = recording
        self.opening = opening
    }

    func load(_ program: [UInt8], windows: [Program.Window]) async throws -> UInt32 {
        let (mapped, table) = try mapped(windows)
        let (new, isFirst) = known.take(mapped.map(\.window.id))
        try await recording(table, SHA256.hash(program), isFirst)
        let added = mapped.filter { new.contains($0.window.id) }
        if !added.isEmpty { try await gpu.map(added) }
        return try await gpu.load(program)
    }

    private func mapped(_ windows: [Program.Window]) throws -> ([MappedWindow], table: Digest) {
        let mapped = try windows.map { MappedWindow(Window($0), store: try store(for: $0)) }
        return (mapped, try WindowTable(mapped.map(\.window)).hash)
    }

    func ring(_ program: UInt32, _ arguments: [UInt8]) async throws -> [UInt8] {
        try await gpu.ring(program, arguments)
    }

    func opened(_ part: SealedPart, sealed: [Completion.SealedRun]) async throws -> [UInt8] {
        let bytes = try spills.bytes(of: part.window, part.sealedRange)
        return try await opening(SealedResult(part: part, bytes: bytes, sealed: sealed))
    }

    private func store(for window: Program.Window) throws -> any WindowStore {
        switch window.purpose {
        case .image(let section):
            try imageStore(section)
        case .spill, .result: try spills.store(for: window.id, byteCount: Self.sealed(window.byteCount))
        case .state: StateStore(bytes: state[window.id], byteCount: Self.sealed(window.byteCount))
        }
    }

    /// The image crosses at every epoch: as much of it as there is room for is read once and goes out from memory.
    private func imageStore(_ section: ImageSection) throws -> any WindowStore {
        let store = ImageStore(image: image, section: section, byteCount: try image.sealedByteCount(section))
        return held.take(store.byteCount) ? HeldStore(store) : store
    }

    private static func sealed(_ plaintext: Int) -> Int {
        plaintext + (plaintext + Limits.blockBytes - 1) / Limits.blockBytes * Limits.tagBytes
    }
}

private final class KnownWindows: Sendable {
    private let ids = Mutex<Set<UInt16>>([])

    /// Which of them are new, and whether all are.
    func take(_ windows: [UInt16]) -> (new: Set<UInt16>, isFirst: Bool) {
        ids.withLock { ids in
            defer { ids.formUnion(windows) }
            return (Set(windows).subtracting(ids), ids.isEmpty)
        }
    }
}

/// A section of the run image, read only; its sealed bytes cross as they lie in the vault.
private struct ImageStore: WindowStore {
    let image: RunImage
    let section: ImageSection
    let byteCount: Int

    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        try image.readSealed(section, offset: offset, into: buffer)
    }

    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws {
        throw FabricError(.outsideWindow, "the run image is read only")
    }
}

/// How much of the run image is kept in memory, as it was sealed.
private final class HeldBytes: Sendable {
    private static let most = 2 << 30
    private let left = Mutex(HeldBytes.most)

    func take(_ count: Int) -> Bool {
        left.withLock { left in
            guard count <= left else { return false }
            left -= count
            return true
        }
    }
}

/// A section that is read from the disk once, stripe by stripe as it is asked for, and stays in memory: what was read
/// does not change any more, so it is lent to the lanes as it lies.
private final class HeldStore: WindowStore {
    private static let stripe = 16 * Limits.sealedBlockBytes

    private let store: ImageStore
    private let memory: HeldMemory
    private let isRead: Mutex<[Bool]>
    var byteCount: Int { store.byteCount }

    init(_ store: ImageStore) {
        self.store = store
        memory = HeldMemory(byteCount: store.byteCount)
        isRead = Mutex(Array(repeating: false, count: (store.byteCount + Self.stripe - 1) / Self.stripe))
    }

    func lent(offset: Int, count: Int) throws -> LentBytes? {
        guard offset >= 0, count > 0, offset <= byteCount - count else {
            throw FabricError(.outsideWindow, "beyond the end of a section")
        }
        try isRead.withLock { isRead in
            for index in offset / Self.stripe...(offset + count - 1) / Self.stripe where !isRead[index] {
                let start = index * Self.stripe
                try store.read(offset: start, into: memory.part(start, min(Self.stripe, byteCount - start)))
                isRead[index] = true
            }
        }
        return LentBytes(UnsafeRawBufferPointer(memory.part(offset, count)), of: memory)
    }

    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        try store.read(offset: offset, into: buffer)
    }

    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws {
        try store.write(offset: offset, from: buffer)
    }
}

// A stripe is written once, with the store's lock held, before anybody is told where it lies.
private final class HeldMemory: @unchecked Sendable {
    private let bytes: UnsafeMutableRawBufferPointer

    init(byteCount: Int) { bytes = .allocate(byteCount: byteCount, alignment: 4096) }

    deinit { bytes.deallocate() }

    func part(_ offset: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }
}

/// One window of a checkpoint, read only. A run that does not go on from one maps it all the same, so that its window
/// table is the same, and the device does not read it.
private struct StateStore: WindowStore {
    let bytes: [UInt8]?
    let byteCount: Int

    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        guard let bytes, bytes.count == byteCount, offset >= 0, buffer.count <= byteCount,
            offset <= byteCount - buffer.count
        else { throw FabricError(.store, "no checkpoint is kept for this run") }
        bytes.withUnsafeBytes { buffer.copyMemory(from: .init(rebasing: $0[offset..<offset + buffer.count])) }
    }

    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws {
        throw FabricError(.outsideWindow, "a checkpoint to go on from is read only")
    }
}

/// What the device sealed and put away here, in memory or on the SSD as the plan says. The host cannot open it.
final class SpillStores: Sendable {
    private let stores = Mutex<[UInt16: any WindowStore]>([:])
    /// Where the SSD tier's files are made.
    private let folder: String
    private let isUsed = Mutex(false)

    init(folder: String) { self.folder = folder }

    /// True once: what is sealed for an attempt's state windows must be sealed once only.
    func takeFirstUse() -> Bool {
        isUsed.withLock { isUsed in
            defer { isUsed = true }
            return !isUsed
        }
    }

    func store(for window: UInt16, byteCount: Int) throws -> any WindowStore {
        try stores.withLock { stores in
            if let store = stores[window], store.byteCount == byteCount { return store }
            let store: any WindowStore =
                ModelSpec.tier(ofWindow: window) == .ssd
                ? try SpillFile(folder: folder, byteCount: byteCount) : SpillStore(byteCount: byteCount)
            stores[window] = store
            return store
        }
    }

    /// All bytes of a window, or a range of them.
    func bytes(of window: UInt16, _ range: Range<Int>? = nil) throws -> [UInt8] {
        guard let store = stores.withLock({ $0[window] }) else {
            throw FabricError(.store, "the device has no such window")
        }
        let range = range ?? 0..<store.byteCount
        var bytes = [UInt8](repeating: 0, count: range.count)
        try bytes.withUnsafeMutableBytes { try store.read(offset: range.lowerBound, into: $0) }
        return bytes
    }

    func remove() { stores.withLock { $0.removeAll() } }
}

private final class SpillStore: WindowStore {
    let byteCount: Int
    private let bytes: Mutex<[UInt8]>

    init(byteCount: Int) {
        self.byteCount = byteCount
        bytes = Mutex([UInt8](repeating: 0, count: byteCount))
    }

    func read(offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        try check(offset, buffer.count)
        bytes.withLock { bytes in
            bytes.withUnsafeBytes { buffer.copyMemory(from: .init(rebasing: $0[offset..<offset + buffer.count])) }
        }
    }

    func write(offset: Int, from buffer: UnsafeRawBufferPointer) throws {
        try check(offset, buffer.count)
        bytes.withLock { bytes in
            bytes.withUnsafeMutableBytes {
                UnsafeMutableRawBufferPointer(rebasing: $0[offset..<offset + buffer.count]).copyMemory(from: buffer)
            }
        }
    }

    private func check(_ offset: Int, _ count: Int) throws {
        guard offset >= 0, count <= byteCount, offset <= byteCount - count else {
            throw FabricError(.outsideWindow, "beyond the end of a window")
        }
    }
}
