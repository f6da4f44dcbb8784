import AuditTrail
import DurableFiles
import Dispatch
import FoundationEssentials
import Sealing
import Synchronization
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

@Suite("The trail's care")
struct TrailCareTests {
    private func events(_ world: TrailFixture) throws -> [String] {
        var events: [String] = []
        try world.verify(world.auditor) { events.append($0.core?["event"]?.stringValue ?? "?") }
        return events
    }

    @Test("after five minutes without a record the trail says that it is alive, also when the clock went back")
    func heartbeat() throws {
        let world = TrailFixture()
        let trail = try world.create()
        world.clock.advance(seconds: 299)
        try trail.tend()
        #expect(trail.size == 2)
        world.clock.advance(seconds: 1)
        try trail.tend()
        try trail.tend()
        #expect(trail.size == 3)
        world.clock.advance(seconds: -10_000)
        try trail.tend()
        #expect(trail.size == 4)
        #expect(try events(world).suffix(2) == ["trail.heartbeat", "trail.heartbeat"])
    }

    @Test("what is new is published by the next round of care, and kept for good once an hour")
    func publishes() throws {
        let world = TrailFixture()
        let trail = try world.create()
        try trail.tend()
        let kept = try world.disk.names(in: "log/checkpoints").count
        for _ in 0..<5 {
            _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
            world.clock.advance(seconds: 1)
            try trail.tend()
            #expect(try world.verify(nil).head?.size == trail.size)
        }
        #expect(try world.disk.names(in: "log/checkpoints").count == kept)
        world.clock.advance(seconds: 3600)
        try trail.tend()
        #expect(try world.disk.names(in: "log/checkpoints").count > kept)
    }

    /// Every file of a trail with full tiles and an open run, each lost on its own.
    @Test("a file that is removed or replaced under the process is noticed, named, and stops everything new")
    func lost() throws {
        for replaces in [false, true] {
            let sample = TrailFixture()
            _ = try busy(sample)
            let paths = sample.disk.contents.keys.sorted().filter {
                !$0.contains(".p/") && !$0.contains("checkpoints/")
            }
            #expect(paths.count >= 9)
            for path in paths {
                let world = TrailFixture()
                let trail = try busy(world)
                world.disk.tamper(path, with: replaces ? [1, 2, 3] : nil)
                var refusal: TrailError?
                // Either the next record meets it, or one of the next rounds of care does.
                for _ in 0..<3 where refusal == nil {
                    world.clock.advance(seconds: 6)
                    do { try trail.tend() } catch { refusal = error }
                }
                let isKeyFile = path.hasPrefix("keys/")
                let isWatched = !(replaces && (isKeyFile || path.contains("tile/entries")))
                #expect((refusal?.code == .lost) == isWatched, "\(path)")
                guard isWatched else { continue }
                #expect(throws: TrailError.self, "\(path)") {
                    try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
                }
                #expect(throws: TrailError.self) { try trail.head() }
            }
        }
    }

    private func busy(_ world: TrailFixture) throws -> Trail {
        let trail = try world.create()
        try trail.openEra(run: RunID("run-1"))
        for _ in 0..<300 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        try trail.publish()
        try trail.tend()
        return trail
    }

    @Test("a segment that is deleted between two records is noticed by the next record, before it is acknowledged")
    func deletedSegment() throws {
        try withTemporaryFolder { folder in
            let world = TrailFixture()
            let disk = try FolderDisk(folder.path + "/trail")
            let home = TrailHome(
                disk: disk, anchor: world.anchor, settings: world.settings, clock: world.clock)
            let trail = try Trail.create(
                in: home, signingKey: world.signingKey(), hostKey: SecretBytes.random(count: 32))
            _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
            try disk.remove("wal/00000000000000000000.seg")
            try disk.replace("wal/00000000000000000000.seg", with: [UInt8](repeating: 0, count: 1 << 16), durable: true)
            // `disk` let go of its descriptor, as nobody else's removal would; another one keeps it.
            let other = try FolderDisk(folder.path + "/trail")
            try other.write([1], to: "wal/00000000000000000000.seg", offset: 0)
            try disk.rename("wal/00000000000000000000.seg", to: "wal/moved")
            let refusal = #expect(throws: DiskError.self) { try other.sync("wal/00000000000000000000.seg") }
            #expect(refusal == .gone)
        }
        let world = TrailFixture()
        let trail = try world.create()
        world.disk.tamper("wal/00000000000000000000.seg", with: nil)
        let refusal = #expect(throws: TrailError.self) {
            try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
        }
        #expect(refusal?.code == .lost && trail.obstacle?.code == .lost)
    }

    @Test("the trail tells in its last record what was lost, and a restart makes the published files again")
    func tellsWhatWasLost() throws {
        let world = TrailFixture()
        let trail = try busy(world)
        world.disk.tamper("log/checkpoint", with: nil)
        world.clock.advance(seconds: 6)
        #expect(throws: TrailError.self) { try trail.tend() }
        let (again, _) = try world.open()
        #expect(again.obstacle == nil)
        #expect(try events(world).last == "trail.stopped")
        _ = try again.record(TrailRecord(.gatewayRecovered, .done), in: .gateway)
    }

    @Test("a full disk's refusals are counted in the record that ends it")
    func counted() throws {
        let plan = FaultPlan()
        let world = TrailFixture(plan: plan)
        let trail = try world.create()
        plan.setFull(true)
        while (try? trail.record(TrailRecord(.progressShown, .done), in: .gateway)) != nil {}
        for _ in 0..<4 { #expect(throws: TrailError.self) { try trail.prepare(sampleDecision, in: .gateway) } }
        plan.setFull(false)
        try trail.tend()
        var refused: Int64?
        try world.verify(world.auditor) { entry in
            if entry.core?["event"] == "trail.resumed" { refused = entry.core?["detail"]?["refused"]?.integerValue }
        }
        #expect(refused == 5)
    }

    @Test("a trail whose anchor is lost opens only on an operator's explicit wish, and has an anchor again then")
    func reanchored() throws {
        let world = TrailFixture()
        _ = try world.create()
        let lost = world.with(anchor: MemoryDisk())
        #expect(throws: TrailError.self) { try lost.open() }
        let (trail, findings) = try lost.open { $0.makesAnchorAnew = true }
        #expect(findings.map(\.code) == [.anchorMade])
        _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
        _ = try trail.head()
        trail.close()
        #expect(try lost.open().findings.isEmpty)
        // Nobody gets past an anchor that is ahead of the trail that way.
        let older = world.with(disk: MemoryDisk(world.disk.contents), anchor: MemoryDisk(lost.anchor.contents))
        let copy = TrailFixture()
        _ = try copy.create()
        #expect(throws: TrailError.self) { try older.with(anchor: copy.anchor).open { $0.makesAnchorAnew = true } }
    }
}

@Suite("A long trail")
struct LongTrailTests {
    private func long(_ world: TrailFixture, records: Int) throws -> (trail: Trail, records: [AppendedRecord]) {
        let trail = try world.create()
        let run = try RunID("run-1")
        try trail.openEra(run: run)
        let records = try (0..<records).map { _ in try trail.record(TrailRecord(.trainingEpoch, .done), in: .run(run)) }
        return (trail, records)
    }

    @Test("memory holds the right edge only, and every record still has its receipt, before and after a restart")
    func bounded() throws {
        let world = TrailFixture()
        let (trail, records) = try long(world, records: 2_000)
        #expect(trail.heldEntries < 512 + 256)
        for record in records {
            #expect(
                trail.holds(record.leafHash, at: record.index) && !trail.holds(record.leafHash, at: record.index + 1))
        }
        for record in records where record.index % 97 == 0 || record.index > 1_990 {
            let receipt = try trail.receipt(for: record.leafHash, at: record.index)
            #expect(try receipt.verified(by: world.identity).core == record.core)
        }
        let (again, findings) = try world.open()
        #expect(findings.isEmpty && again.heldEntries < 256 && again.recordCount == trail.recordCount)
        for record in records where record.index % 97 == 0 {
            let receipt = try again.receipt(for: record.leafHash, at: record.index)
            #expect(try receipt.verified(by: world.identity).core == record.core)
        }
        #expect(again.index(of: records[3].leafHash) == records[3].index)
        #expect(again.index(of: SHA256.hash("none")) == nil)
        try world.verify(world.auditor)
    }

    @Test("a tile that changes under the process gives no false receipt")
    func changedTile() throws {
        let world = TrailFixture()
        let (trail, records) = try long(world, records: 1_500)
        try trail.publish()
        var tile = world.disk.contents["log/tile/0/000"]!
        for at in tile.indices { tile[at] ^= 1 }
        try world.disk.replace("log/tile/0/000", with: tile, durable: true)
        let refusal = #expect(throws: TrailError.self) {
            try trail.receipt(for: records[9].leafHash, at: records[9].index)
        }
        #expect(refusal?.code == .damaged)
    }

    @Test(
        "after a crash that drops, tears and empties unsynced files, the log's files are whole again", arguments: 1...6)
    func crashed(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let plan = FaultPlan()
        let world = TrailFixture(plan: plan)
        let trail = try world.create()
        plan.fail(atCall: plan.calls + Int.random(in: 800...1800, using: &random), with: .crash)
        var acknowledged: [AppendedRecord] = []
        while let record = try? trail.record(TrailRecord(.progressShown, .done), in: .gateway) {
            acknowledged.append(record)
            if acknowledged.count % 100 == 0 { try? trail.publish() }
        }
        let after = world.with(disk: world.disk.restarted(&random), anchor: world.anchor.restarted(&random))
        let (again, _) = try after.open()
        for record in acknowledged { #expect(again.holds(record.leafHash, at: record.index), "seed \(seed)") }
        try after.verify(after.auditor)
        #expect(try after.open().findings.isEmpty, "seed \(seed)")
    }

    @Test("all tiles lost: they are made again from the write-ahead log")
    func allTilesLost() throws {
        let world = TrailFixture()
        let (trail, _) = try long(world, records: 1_200)
        trail.close()
        let contents = world.disk.contents.filter { !$0.key.hasPrefix("log/tile") }
        let after = world.with(disk: MemoryDisk(contents))
        #expect(try after.open().findings.map(\.code) == [.derivedRebuilt])
        try after.verify(after.auditor)
        #expect(
            after.disk.contents.filter { $0.key.hasPrefix("log/tile") }
                == world.disk.contents.filter { $0.key.hasPrefix("log/tile") })
    }

    @Test("runs that many threads open, write and close at once in a real folder do not disturb each other")
    func manyRuns() throws {
        try withTemporaryFolder { folder in
            let world = TrailFixture()
            let home = TrailHome(
                disk: try FolderDisk(folder.path + "/trail"), anchor: try FolderDisk(folder.path + "/anchor"),
                settings: world.settings, clock: world.clock)
            let trail = try Trail.create(
                in: home, signingKey: world.signingKey(), hostKey: SecretBytes.random(count: 32))
            let failures = Mutex<[any Error]>([])
            DispatchQueue.concurrentPerform(iterations: 8) { writer in
                do {
                    for number in 0..<6 {
                        let run = try RunID("run-\(writer)-\(number)")
                        try trail.openEra(run: run)
                        for _ in 0..<20 { _ = try trail.record(TrailRecord(.trainingEpoch, .done), in: .run(run)) }
                        _ = try trail.append(trail.prepareClose(TrailRecord(.runClosed, .done), run: run))
                    }
                } catch { failures.withLock { $0.append(error) } }
            }
            #expect(failures.withLock { $0.isEmpty } && trail.obstacle == nil)
            let report = try LogVerifier(
                disk: FolderDisk(folder.path + "/trail", readOnly: true), folder: "", identity: world.identity,
                auditor: world.auditor
            ).verify()
            #expect(report.eras.count { $0.isComplete } == 48)
        }
    }

    @Test("a frame's checksum is CRC-32C")
    func checksum() throws {
        let world = TrailFixture()
        _ = try world.create()
        let segment = world.disk.contents["wal/00000000000000000000.seg"]!
        func number(_ at: Int) -> UInt32 { segment[at..<at + 4].reduce(0) { $0 << 8 | UInt32($1) } }
        let end = 28 + Int(number(0)) + 32
        var state: UInt32 = ~0
        // Bit by bit, as the RFC's polynomial says.
        for byte in segment[0..<4] + segment[8..<end] {
            state ^= UInt32(byte)
            for _ in 0..<8 { state = state & 1 == 1 ? (state >> 1) ^ 0x82F6_3B78 : state >> 1 }
        }
        #expect(number(4) == ~state)
    }
}

@Suite("Signing periods")
struct SigningPeriodTests {
    @Test("a new key signs from its period on; whoever knows the first key follows, and an older key signs nothing new")
    func rotated() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let run = try RunID("run-1")
        try trail.openEra(run: run)
        let before = try trail.record(sampleDecision, in: .run(run))
        let old = try trail.receipt(for: before.leafHash, at: before.index)
        let seed = RandomBytes.array(32)
        try trail.rotateSigningKey(to: try SigningKey(seed: SecretBytes(copying: seed)))
        let after = try trail.record(sampleDecision, in: .run(run))
        let new = try trail.receipt(for: after.leafHash, at: after.index)
        #expect(try old.verified(by: world.identity).core == before.core)
        #expect(try new.verified(by: world.identity).core == after.core)
        #expect(try Receipt(parsing: new.bytes) == new)
        try trail.publish()
        let periods = trail.periods
        #expect(periods.handovers.count == 1 && periods.identity == world.identity)
        #expect(try SigningPeriods(world.identity, parsing: periods.bytes) == periods)
        // Only with the new key does it open again.
        #expect(throws: TrailError.self) { try world.open() }
        let later = world.with(seed: seed)
        #expect(try later.open().findings.isEmpty)
        #expect(try SigningPeriods(world.identity, parsing: world.disk.contents["trail.periods"]!) == periods)
        try later.verify(later.auditor)

        // A head of the new period under the old key is not believed, nor one of the old period under the new key.
        let root = SHA256.hash("a fork")
        let size = periods.handovers[0].head.size
        let late = try Checkpoint(origin: TrailFixture.origin, size: size + 1, root: root).signed(
            by: world.signingKey())
        #expect(throws: LogError.self) { try SignedCheckpoint(parsing: late.note, in: periods) }
        let newKey = try SigningKey(seed: SecretBytes(copying: seed))
        let early = try Checkpoint(origin: TrailFixture.origin, size: size, root: root).signed(by: newKey)
        #expect(throws: LogError.self) { try SignedCheckpoint(parsing: early.note, in: periods) }
        #expect(throws: LogError.self) {
            var periods = periods
            try periods.handOver(after: late.checkpoint, from: world.signingKey(), to: SigningKey.generate())
        }
    }

    @Test("a crash at any call of a rotation leaves one key that opens the trail")
    func crashed() throws {
        for call in 1...40 {
            let plan = FaultPlan()
            let world = TrailFixture(plan: plan)
            let trail = try world.create()
            let seed = RandomBytes.array(32)
            plan.fail(atCall: plan.calls + call, with: .crash)
            let isDone = (try? trail.rotateSigningKey(to: try SigningKey(seed: SecretBytes(copying: seed)))) != nil
            var random = SeededRandom(seed: UInt64(call))
            let after = world.with(disk: world.disk.restarted(&random), anchor: world.anchor.restarted(&random))
            let openers = [after, after.with(seed: seed)].filter { (try? $0.open()) != nil }
            #expect(openers.count == 1, "call \(call)")
            if isDone { return }
        }
        Issue.record("the rotation took more than 40 calls")
    }

    @Test("handovers that were changed in any bit, cut, doubled or swapped are refused")
    func tampered() throws {
        let first = SigningKey.generate()
        let second = SigningKey.generate()
        let third = SigningKey.generate()
        let identity = try TrailIdentity(origin: "a.example/log", key: first.verifyingKey)
        var periods = SigningPeriods(identity)
        let head = { (size: UInt64) in Checkpoint(origin: "a.example/log", size: size, root: SHA256.hash("\(size)")) }
        try periods.handOver(after: head(5), from: first, to: second)
        try periods.handOver(after: head(9), from: second, to: third)
        let bytes = periods.bytes
        #expect(try SigningPeriods(identity, parsing: bytes).current.key == third.verifyingKey)
        #expect(
            [5, 6, 9, 10].map { periods.signer(ofHead: $0).key } == [
                first.verifyingKey, second.verifyingKey, second.verifyingKey, third.verifyingKey,
            ])
        for at in bytes.indices {
            for bit in [0, 3, 6] {
                var changed = bytes
                changed[at] ^= 1 << UInt8(bit)
                #expect(throws: LogError.self, "byte \(at)") { try SigningPeriods(identity, parsing: changed) }
            }
        }
        for length in 1..<bytes.count where length != bytes.count / 2 {
            if let cut = try? SigningPeriods(identity, parsing: Array(bytes[..<length])) {
                #expect(cut.handovers.count == 1)
            }
        }
        let half = periods.handovers[0]
        #expect(throws: LogError.self) { try SigningPeriods(identity, parsing: bytes + bytes) }
        #expect(half.next.key == second.verifyingKey)
        // The same size, a key that was there before, and a key without its owner.
        #expect(throws: LogError.self) { try periods.handOver(after: head(9), from: third, to: SigningKey.generate()) }
        #expect(throws: LogError.self) { try periods.handOver(after: head(12), from: third, to: first) }
        #expect(throws: LogError.self) {
            try periods.handOver(after: head(12), from: second, to: SigningKey.generate())
        }
    }
}
