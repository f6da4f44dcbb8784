import AuditTrail
import DurableFiles
import Glibc
import Sealing
import Synchronization
import TransparencyLog
import Vocabulary

/// A trail in a folder whose keys lie beside it in clear: for benchmarks and crash tests, never for a home.
struct BenchTrail {
    let folder: String
    /// Signing seed, host key and auditor's key, 32 bytes each; whoever comes first makes them.
    private let keys: [UInt8]

    init(_ folder: String) throws {
        self.folder = folder
        let disk = try FolderDisk(folder)
        if let keys = try disk.read("keys"), keys.count == 96 {
            self.keys = keys
        } else {
            keys = RandomBytes.array(96)
            try disk.replace("keys", with: keys, durable: true)
        }
    }

    var auditor: AuditorKey {
        get throws { AuditorKey(try WrappingKey(secret: SecretBytes(copying: Array(keys[64...])))) }
    }

    var identity: TrailIdentity {
        get throws {
            try TrailIdentity(origin: "sekisho.bench/trail", key: signingKey().verifyingKey)
        }
    }

    func disk(readOnly: Bool = false) throws -> FolderDisk { try FolderDisk("\(folder)/trail", readOnly: readOnly) }

    /// The trail, made when there is none.
    func open() throws -> Trail {
        let home = TrailHome(
            disk: try disk(), anchor: try FolderDisk("\(folder)/anchor"),
            settings: TrailSettings(
                origin: "sekisho.bench/trail", readers: [TrailReader(name: "auditor", key: try auditor.publicKey)]),
            clock: BenchClock())
        let hostKey = SecretBytes(copying: Array(keys[32..<64]))
        guard try home.disk.byteCount(of: "trail.vkey") != nil else {
            return try Trail.create(in: home, signingKey: try signingKey(), hostKey: hostKey)
        }
        return try Trail.open(in: home, signingKey: try signingKey(), hostKey: hostKey).trail
    }

    private func signingKey() throws -> SigningKey { try SigningKey(seed: SecretBytes(copying: Array(keys[..<32]))) }

    /// A record whose sealed core is 512 bytes with its padding.
    static func record(_ number: Int) -> TrailRecord {
        TrailRecord(
            .trainingEpoch, .done,
            [.detail: ["number": .integer(Int64(number)), "text": text]])
    }

    private static let text = JSON.string(String(repeating: "x", count: 260))
}

struct BenchClock: WallClock {
    func now() -> Timestamp { Timestamp(milliseconds: Int64(nanoseconds(CLOCK_REALTIME) / 1_000_000)) }
}

func nanoseconds(_ clock: clockid_t = CLOCK_MONOTONIC) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// What several threads write to.
final class Shared<Value: Sendable>: Sendable {
    private let mutex: Mutex<Value>

    init(_ value: Value) { mutex = Mutex(value) }

    var value: Value { mutex.withLock { $0 } }

    func change(_ body: (inout sending Value) -> Void) { mutex.withLock { body(&$0) } }
}

/// Runs `body` on so many threads and waits for all of them.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
    final class Work {
        let number: Int
        let body: @Sendable (Int) -> Void
        init(_ number: Int, _ body: @escaping @Sendable (Int) -> Void) {
            self.number = number
            self.body = body
        }
    }
    let threads = (0..<count).map { number -> pthread_t in
        var thread = pthread_t()
        let work = Unmanaged.passRetained(Work(number, body)).toOpaque()
        let status = pthread_create(
            &thread, nil,
            { raw in
                let work = Unmanaged<Work>.fromOpaque(raw!).takeRetainedValue()
                work.body(work.number)
                return nil
            }, work)
        precondition(status == 0, "a thread starts")
        return thread
    }
    for thread in threads { pthread_join(thread, nil) }
}

/// Processor time of this process so far, in seconds: what a crowded machine does not change.
var processorSeconds: Double { Double(nanoseconds(CLOCK_PROCESS_CPUTIME_ID)) / 1e9 }

/// The most memory this process has held, in KiB.
var peakKibibytes: Int {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return usage.ru_maxrss
}
