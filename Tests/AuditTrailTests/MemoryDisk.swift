import AuditTrail
import Synchronization
import TestSupport

/// Decides which of the calls to a trail's disks goes wrong, and how.
final class FaultPlan: Sendable {
    enum Fault: Sendable {
        /// The call fails once; the process lives on.
        case error(DiskError)
        /// The machine stops inside the call: nothing works any more until the disk is started again.
        case crash
    }

    private struct State {
        var calls = 0
        var fault: (call: Int, fault: Fault)?
        var isFull = false
        var hasStopped = false
    }
    private let state = Mutex(State())

    var calls: Int { state.withLock { $0.calls } }

    func fail(atCall call: Int, with fault: Fault) { state.withLock { $0.fault = (call, fault) } }

    /// From now on nothing that takes space works, or it does again.
    func setFull(_ isFull: Bool) { state.withLock { $0.isFull = isFull } }

    /// Counts a call. True when the machine stops inside it.
    func enter(takesSpace: Bool) throws(DiskError) -> Bool {
        let outcome = state.withLock { state -> Result<Bool, DiskError> in
            guard !state.hasStopped else { return .failure(.failed) }
            state.calls += 1
            if takesSpace && state.isFull { return .failure(.noSpace) }
            guard let (call, fault) = state.fault, call == state.calls else { return .success(false) }
            switch fault {
            case .error(.noSpace): return takesSpace ? .failure(.noSpace) : .success(false)
            case .error(let error): return .failure(error)
            case .crash:
                state.hasStopped = true
                return .success(true)
            }
        }
        return try outcome.get()
    }
}

/// A disk in memory that knows what has been synced and what has not.
final class MemoryDisk: TrailDisk {
    struct File: Sendable {
        var durable: [UInt8]?
        var current: [UInt8]?
        /// Writes since the last sync.
        var pending: [(offset: Int, bytes: [UInt8])] = []
    }

    let plan: FaultPlan
    private let files: Mutex<[String: File]>

    init(_ contents: [String: [UInt8]] = [:], plan: FaultPlan = FaultPlan()) {
        self.plan = plan
        files = Mutex(contents.mapValues { File(durable: $0, current: $0) })
    }

    /// What every process sees now.
    var contents: [String: [UInt8]] { files.withLock { $0.compactMapValues(\.current) } }

    /// The disk after the machine stopped: each unsynced sector of 512 bytes either reached it or did not.
    func restarted(_ random: inout SeededRandom) -> MemoryDisk {
        var contents: [String: [UInt8]] = [:]
        for (path, file) in files.withLock({ $0 }).sorted(by: { $0.key < $1.key }) {
            guard var bytes = file.durable else {
                if let current = file.current, Bool.random(using: &random) { contents[path] = current }
                continue
            }
            for write in file.pending {
                for start in stride(from: write.offset / 512 * 512, to: write.offset + write.bytes.count, by: 512)
                where Bool.random(using: &random) {
                    let low = max(start, write.offset)
                    let high = min(start + 512, write.offset + write.bytes.count)
                    bytes.replaceSubrange(low..<high, with: write.bytes[low - write.offset..<high - write.offset])
                }
            }
            contents[path] =
                file.pending.isEmpty && file.current != nil && Bool.random(using: &random) ? file.current : bytes
        }
        return MemoryDisk(contents)
    }

    func lock() throws(DiskError) {}

    func names(in folder: String) throws(DiskError) -> [String] {
        let prefix = folder.isEmpty ? "" : folder + "/"
        let names = contents.keys.filter { $0.hasPrefix(prefix) }.map {
            String($0.dropFirst(prefix.count).prefix(while: { $0 != "/" }))
        }
        return Set(names).sorted()
    }

    func read(_ path: String) throws(DiskError) -> [UInt8]? { files.withLock { $0[path]?.current } }

    func read(_ path: String, offset: Int, count: Int) throws(DiskError) -> [UInt8] {
        guard let bytes = try read(path), offset + count <= bytes.count else { throw .failed }
        return Array(bytes[offset..<offset + count])
    }

    func replace(_ path: String, with bytes: [UInt8], durable: Bool) throws(DiskError) {
        if try plan.enter(takesSpace: true) {
            // The rename may have reached the disk or not.
            files.withLock { $0[path, default: File()].current = bytes }
            throw .failed
        }
        files.withLock {
            $0[path, default: File()].current = bytes
            if durable { $0[path] = File(durable: bytes, current: bytes) }
        }
    }

    func preallocate(_ path: String, byteCount: Int) throws(DiskError) {
        try replace(path, with: [UInt8](repeating: 0, count: byteCount), durable: true)
    }

    func write(_ bytes: [UInt8], to path: String, offset: Int) throws(DiskError) {
        let stops = try plan.enter(takesSpace: false)
        files.withLock {
            $0[path]!.current!.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            $0[path]!.pending.append((offset, bytes))
        }
        if stops { throw .failed }
    }

    func sync(_ path: String) throws(DiskError) {
        if try plan.enter(takesSpace: false) { throw .failed }
        files.withLock {
            $0[path]!.durable = $0[path]!.current
            $0[path]!.pending = []
        }
    }

    func rename(_ path: String, to newPath: String) throws(DiskError) {
        if try plan.enter(takesSpace: false) { throw .failed }
        files.withLock { $0[newPath] = $0.removeValue(forKey: path) }
    }

    func erase(_ path: String) throws(DiskError) {
        if try plan.enter(takesSpace: false) { throw .failed }
        files.withLock { $0[path] = nil }
    }

    func remove(_ path: String) throws(DiskError) { try erase(path) }
}
