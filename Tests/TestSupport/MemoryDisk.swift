package import DurableFiles
internal import Synchronization

/// Decides which of the calls to a test's disks goes wrong, and how.
package final class FaultPlan: Sendable {
    package enum Fault: Sendable {
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

    package init() {}

    package var calls: Int { state.withLock { $0.calls } }

    package func fail(atCall call: Int, with fault: Fault) { state.withLock { $0.fault = (call, fault) } }

    /// From now on nothing that takes space works, or it does again.
    package func setFull(_ isFull: Bool) { state.withLock { $0.isFull = isFull } }

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

/// A disk in memory that knows what has been synced and what has not. When its machine stops, what was not synced is
/// torn, dropped and reordered, sector by sector and name by name.
package final class MemoryDisk: Disk {
    private struct File: Sendable {
        var durable: [UInt8]?
        var current: [UInt8]?
        /// Writes since the last sync.
        var pending: [(offset: Int, bytes: [UInt8])] = []
        /// Whether `current` was put in place without a sync, so that not even its length is sure.
        var isLoose = false
        /// Somebody else removed or replaced the file while it was open.
        var isGone = false
    }

    package let plan: FaultPlan
    private let files: Mutex<[String: File]>

    package init(_ contents: [String: [UInt8]] = [:], plan: FaultPlan = FaultPlan()) {
        self.plan = plan
        files = Mutex(contents.mapValues { File(durable: $0, current: $0) })
    }

    /// What every process sees now.
    package var contents: [String: [UInt8]] { files.withLock { $0.compactMapValues(\.current) } }

    /// Another process removes a file, or puts another in its place, while it is open here.
    package func tamper(_ path: String, with bytes: [UInt8]?) {
        files.withLock { $0[path] = bytes.map { File(durable: $0, current: $0, isGone: true) } }
    }

    /// The disk after the machine stopped: each unsynced sector of 512 bytes either reached it or did not.
    package func restarted(_ random: inout SeededRandom) -> MemoryDisk {
        var contents: [String: [UInt8]] = [:]
        for (path, file) in files.withLock({ $0 }).sorted(by: { $0.key < $1.key }) {
            contents[path] = file.isLoose ? Self.loose(file, &random) : Self.torn(file, &random)
        }
        return MemoryDisk(contents)
    }

    /// A file that was replaced without a sync: the old one, the new one, one of which only the beginning came through,
    /// or one of the right length and no content.
    private static func loose(_ file: File, _ random: inout SeededRandom) -> [UInt8]? {
        guard let current = file.current else { return Bool.random(using: &random) ? file.durable : nil }
        switch Int.random(in: 0..<4, using: &random) {
        case 0: return file.durable
        case 1: return Array(current.prefix(Int.random(in: 0...current.count, using: &random)))
        case 2: return [UInt8](repeating: 0, count: current.count)
        default: return current
        }
    }

    private static func torn(_ file: File, _ random: inout SeededRandom) -> [UInt8]? {
        guard var bytes = file.durable else { return Bool.random(using: &random) ? file.current : nil }
        for write in file.pending {
            for start in stride(from: write.offset / 512 * 512, to: write.offset + write.bytes.count, by: 512)
            where Bool.random(using: &random) {
                let low = max(start, write.offset)
                let high = min(start + 512, write.offset + write.bytes.count)
                bytes.replaceSubrange(low..<high, with: write.bytes[low - write.offset..<high - write.offset])
            }
        }
        if file.pending.isEmpty, let current = file.current, Bool.random(using: &random) { return current }
        return bytes
    }

    package func lock() throws(DiskError) {}

    package func names(in folder: String) throws(DiskError) -> [String] {
        let prefix = folder.isEmpty ? "" : folder + "/"
        let paths = files.withLock { files in files.filter { $0.value.current != nil }.map(\.key) }
        let names = paths.filter { $0.hasPrefix(prefix) }.map {
            String($0.dropFirst(prefix.count).prefix(while: { $0 != "/" }))
        }
        return Set(names).sorted()
    }

    package func byteCount(of path: String) throws(DiskError) -> Int? { files.withLock { $0[path]?.current?.count } }

    package func read(_ path: String) throws(DiskError) -> [UInt8]? { files.withLock { $0[path]?.current } }

    package func read(_ path: String, offset: Int, count: Int) throws(DiskError) -> [UInt8] {
        let part = files.withLock { files -> [UInt8]? in
            guard let bytes = files[path]?.current, offset + count <= bytes.count else { return nil }
            return Array(bytes[offset..<offset + count])
        }
        guard let part else { throw .failed }
        return part
    }

    package func replace(_ path: String, with bytes: [UInt8], durable: Bool) throws(DiskError) {
        // The rename may have reached the disk or not.
        let stops = try plan.enter(takesSpace: true)
        files.withLock {
            if durable && !stops {
                $0[path] = File(durable: bytes, current: bytes)
            } else {
                $0[path, default: File()].current = bytes
                $0[path]!.isLoose = !durable
            }
        }
        if stops { throw .failed }
    }

    package func preallocate(_ path: String, byteCount: Int) throws(DiskError) {
        try replace(path, with: [UInt8](repeating: 0, count: byteCount), durable: true)
    }

    package func write(_ bytes: [UInt8], to path: String, offset: Int) throws(DiskError) {
        let stops = try plan.enter(takesSpace: false)
        files.withLock { files in
            // As on a real disk, what is written to a removed file goes nowhere; only `sync` tells.
            guard files[path]?.current != nil, files[path]?.isGone == false else { return }
            files[path]!.current!.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            files[path]!.pending.append((offset, bytes))
        }
        if stops { throw .failed }
    }

    package func sync(_ path: String) throws(DiskError) {
        if try plan.enter(takesSpace: false) { throw .failed }
        let isThere = files.withLock { files -> Bool in
            guard let file = files[path], file.current != nil, !file.isGone else { return false }
            files[path]!.durable = file.current
            files[path]!.pending = []
            return true
        }
        guard isThere else { throw .gone }
    }

    package func rename(_ path: String, to newPath: String) throws(DiskError) {
        if try plan.enter(takesSpace: false) { throw .failed }
        files.withLock { $0[newPath] = $0.removeValue(forKey: path) }
    }

    package func erase(_ path: String) throws(DiskError) {
        if try plan.enter(takesSpace: false) { throw .failed }
        files.withLock { $0[path] = nil }
    }

    package func remove(_ path: String) throws(DiskError) { try erase(path) }
}
