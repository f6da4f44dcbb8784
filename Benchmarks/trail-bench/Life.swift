import AuditTrail
import Glibc
import Sealing
import TransparencyLog
import Vocabulary

/// What a crash test ends at some instant. Says what was acknowledged: `INDEX HASH` a line.
struct Life {
    private let world: BenchTrail

    init(_ folder: String) throws { world = try BenchTrail(folder) }

    private static func acknowledge(_ record: AppendedRecord) { say("\(record.index) \(record.leafHash.hex)") }

    private static func say(_ line: String) {
        let bytes = Array("\(line)\n".utf8)
        _ = Glibc.write(STDOUT_FILENO, bytes, bytes.count)
    }

    /// A short life on one thread that goes through every kind of write.
    func live() throws {
        let trail = try world.open()
        Self.say("start")
        let run = try RunID("run-\(trail.size)")
        try trail.openEra(run: run)
        for number in 0..<3 { Self.acknowledge(try trail.record(BenchTrail.record(number), in: .run(run))) }
        let decision = try trail.record(BenchTrail.record(3), in: .gateway)
        Self.acknowledge(decision)
        _ = try trail.receipt(for: decision.leafHash, at: decision.index)
        Self.acknowledge(try trail.append(trail.prepareClose(TrailRecord(.runClosed, .done), run: run)))
        try trail.publish()
        try trail.tend()
        Self.say("end")
    }

    func write(threads: Int, records: Int) throws {
        let trail = try world.open()
        Self.say("start")
        let refusal = Shared<TrailError?>(nil)
        onThreads(threads) { thread in
            do throws(TrailError) {
                for number in 0..<records {
                    Self.acknowledge(try trail.record(BenchTrail.record(thread * records + number), in: .gateway))
                    if number % 50 == 49 { try trail.publish(keeps: false) }
                }
            } catch {
                refusal.change { $0 = error }
            }
        }
        if let refusal = refusal.value { throw refusal }
        Self.say("end")
    }

    /// Closes a run's era and waits to be looked at: the key must be nowhere in this process any more.
    func closeAndWait() throws {
        let trail = try world.open()
        let run = try RunID("run-\(trail.size)")
        let era = try trail.openEra(run: run)
        for number in 0..<100 { _ = try trail.record(BenchTrail.record(number), in: .run(run)) }
        Self.say("open \(era)")
        _ = readLine()
        _ = try trail.append(trail.prepareClose(TrailRecord(.runClosed, .done), run: run))
        Self.say("closed \(era)")
        _ = readLine()
    }
}
