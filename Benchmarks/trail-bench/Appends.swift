import AuditTrail
import Glibc
import TransparencyLog
import Vocabulary

/// Many writers at once, each waiting for its own record to be durable.
struct Appends {
    private let trail: Trail
    private let writers: Int
    private let runs: [RunID]

    init(folder: String, writers: Int, eras: Int) throws {
        trail = try BenchTrail(folder).open()
        self.writers = writers
        let trail = trail
        runs = try (0..<eras).map { number in
            let run = try RunID("run-\(trail.size)-\(number)")
            try trail.openEra(run: run)
            return run
        }
    }

    /// Says how many records became durable in that time, and how long a writer waited for one, in microseconds.
    func run(milliseconds: Int) throws {
        let end = nanoseconds() + UInt64(milliseconds) * 1_000_000
        let (trail, runs) = (trail, runs)
        let waits = Shared<[UInt32]>([])
        let failure = Shared<TrailError?>(nil)
        let start = nanoseconds()
        onThreads(writers) { writer in
            var own: [UInt32] = []
            let era = TrailEra.run(runs[writer % runs.count])
            var before = nanoseconds()
            while before < end {
                do throws(TrailError) {
                    _ = try trail.record(BenchTrail.record(own.count), in: era)
                } catch {
                    failure.change { $0 = error }
                    return
                }
                let now = nanoseconds()
                own.append(UInt32((now - before) / 1000))
                before = now
            }
            waits.change { $0 += own }
        }
        let seconds = Double(nanoseconds() - start) / 1e9
        if let failure = failure.value { throw failure }
        let sorted = waits.value.sorted()
        print(
            """
            {"appends": \(sorted.count), "seconds": \(seconds), "median_us": \(sorted[sorted.count / 2]), \
            "p99_us": \(sorted[sorted.count * 99 / 100]), "processor": \(processorSeconds), "peak_kib": \(peakKibibytes)}
            """)
    }

    /// Returns when a record is durable and a signed head over it is, here and at the anchor.
    private static func recordUnderHead(_ trail: Trail, _ run: RunID, _ number: Int) throws {
        let record = try trail.record(BenchTrail.record(number), in: .run(run), isHeaded: true)
        guard try trail.head().size > record.index else { throw TrailError(.poisoned, "the head is too short") }
    }

    /// About 10,000 records a second from many writers, while one asks for signed heads: how long each takes, in
    /// microseconds, on the loaded trail and then on a quiet one.
    func heads(milliseconds: Int) throws {
        let end = nanoseconds() + UInt64(milliseconds) * 1_000_000
        let (trail, runs, writers) = (trail, runs, writers)
        let loaded = Shared<[UInt64]>([])
        let written = Shared(0)
        let start = nanoseconds()
        onThreads(writers + 1) { number in
            if number == writers {
                while nanoseconds() < end {
                    let before = nanoseconds()
                    guard (try? Self.recordUnderHead(trail, runs[0], 0)) != nil else { return }
                    loaded.change { $0.append((nanoseconds() - before) / 1000) }
                    usleep(5000)
                }
                return
            }
            var own = 0
            while nanoseconds() < end {
                let due = start + UInt64(own) * UInt64(writers) * 100_000
                if nanoseconds() < due {
                    usleep(useconds_t((due - nanoseconds()) / 1000 + 1))
                    continue
                }
                guard (try? trail.record(BenchTrail.record(own), in: .run(runs[number % runs.count]))) != nil else {
                    break
                }
                own += 1
            }
            written.change { $0 += own }
        }
        let rate = Double(written.value) / (Double(nanoseconds() - start) / 1e9)
        var quiet: [UInt64] = []
        for number in 0..<50 {
            let before = nanoseconds()
            try Self.recordUnderHead(trail, runs[0], number)
            quiet.append((nanoseconds() - before) / 1000)
        }
        let busy = loaded.value.sorted()
        guard !busy.isEmpty else { throw TrailError(.poisoned, "no head was signed") }
        print(
            """
            {"rate": \(rate), "loaded_median_us": \(busy[busy.count / 2]), "loaded_p99_us": \
            \(busy[busy.count * 99 / 100]), "quiet_median_us": \(quiet.sorted()[quiet.count / 2])}
            """)
    }
}
