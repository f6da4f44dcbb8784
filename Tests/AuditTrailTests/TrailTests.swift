import AuditTrail
import DurableFiles
import FoundationEssentials
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

@Suite("The trail")
struct TrailTests {
    @Test("a record's receipt tells its content and place to whoever knows the trail")
    func receipt() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let run = try RunID("run-7")
        try trail.openEra(run: run)
        let prepared = try trail.prepare(sampleDecision, in: .run(run))
        #expect(!(trail.index(of: prepared.leafHash) != nil))
        let appended = try trail.append(prepared)
        #expect(appended.leafHash == prepared.leafHash && (trail.index(of: prepared.leafHash) != nil))
        let record = try trail.receipt(for: appended.leafHash, at: appended.index).verified(by: world.identity)
        #expect(record.index == appended.index && record.core == appended.core)
        #expect(record.core["event"] == "run.decided" && record.core["run"] == "run-7")
        #expect(record.core["decision"] == "permit" && record.core["sequence"] == 2)
        #expect(throws: TrailError.self) { try trail.receipt(for: SHA256.hash("none"), at: appended.index) }
        #expect(throws: TrailError.self) { try trail.receipt(for: appended.leafHash, at: 99) }
    }

    @Test("records of a run name the one before; a record prepared too early is out of order")
    func chain() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let run = try RunID("run-1")
        try trail.openEra(run: run)
        let first = try trail.append(trail.prepare(sampleDecision, in: .run(run)))
        let early = try trail.prepare(sampleDecision, in: .run(run))
        let second = try trail.record(sampleDecision, in: .run(run))
        #expect(second.core["previous"]?.stringValue == first.leafHash.hex)
        #expect(second.core["sequence"] == 3)
        #expect(throws: TrailError.self) { try trail.append(early) }
        #expect(throws: TrailError.self) { try trail.append(trail.prepare(sampleDecision, in: .run(RunID("other")))) }
        #expect(try trail.append(trail.prepare(sampleDecision, in: .run(run))).core["sequence"] == 4)
    }

    @Test("after a run is closed nobody here can disclose or add a record, and its auditor reads it all")
    func closed() throws {
        let world = TrailFixture()
        let trail = try world.sampleRun()
        let run = try RunID("run-1")
        #expect(!trail.isOpen(run: run))
        #expect(throws: TrailError.self) { try trail.record(sampleDecision, in: .run(run)) }
        #expect(world.disk.contents.keys.filter { $0.hasSuffix(".host") } == ["keys/1.host"])
        var events: [String] = []
        let report = try world.verify(world.auditor) { entry in
            events.append(entry.core?["event"]?.stringValue ?? "?")
        }
        #expect(
            events == [
                "era.opened", "trail.created", "era.opened", "run.decided", "person.added", "device.leased",
                "run.closed",
            ])
        let era = try #require(report.eras.last)
        #expect(era.run == "run-1" && era.entries == 4 && era.isComplete)
        #expect(report.opened == 7 && report.head?.size == 7)
        for (index, leaf) in try leaves(world.disk).enumerated() where index == 3 {
            #expect(throws: TrailError.self) { try trail.receipt(for: Merkle.leafHash(leaf), at: UInt64(index)) }
        }
    }

    @Test("without a reader's key a verified log shows kinds, eras, times and sizes, and no file holds a word of it")
    func sealed() throws {
        let world = TrailFixture()
        try world.sampleRun()
        let report = try world.verify(nil) { entry in #expect(entry.core == nil) }
        #expect(report.opened == 0 && report.eras.allSatisfy { !$0.isRead && $0.run == nil })
        for (path, bytes) in world.disk.contents {
            let text = String(decoding: bytes, as: UTF8.self)
            for word in ["run-1", "hpo", "steward", "permit", "run.decided", "admin", "lease-1"] {
                #expect(!text.contains(word), "\(path)")
            }
        }
        let stranger = AuditorKey(WrappingKey.generate())
        #expect(try world.verify(stranger).eras.allSatisfy { !$0.isRead })
    }

    @Test("a trail that is opened again goes on where it was, with open runs and the same derived files")
    func reopened() throws {
        let world = TrailFixture()
        let run = try RunID("run-1")
        let first: AppendedRecord
        do {
            let trail = try world.create()
            try trail.openEra(run: run)
            first = try trail.record(sampleDecision, in: .run(run))
        }
        let (trail, findings) = try world.open()
        #expect(findings.isEmpty)
        #expect((trail.index(of: first.leafHash) != nil) && trail.isOpen(run: run) && trail.size == 4)
        let second = try trail.record(sampleDecision, in: .run(run))
        #expect(second.core["sequence"] == 3 && second.core["previous"]?.stringValue == first.leafHash.hex)
        #expect(try trail.receipt(for: first.leafHash, at: first.index).verified(by: world.identity).core == first.core)
        trail.close()
        #expect(throws: TrailError.self) { try trail.record(sampleDecision, in: .gateway) }
        try world.verify(world.auditor)
        #expect(throws: TrailError.self) { try world.create() }
        #expect(throws: TrailError.self) { try world.openWithOtherKey() }
    }

    @Test("the gateway's era is followed by another after its hour")
    func hourly() throws {
        let world = TrailFixture()
        let trail = try world.create()
        world.clock.advance(seconds: 3599)
        _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
        world.clock.advance(seconds: 1)
        let late = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
        #expect(late.core["sequence"] == 2)
        try trail.publish()
        let report = try world.verify(world.auditor)
        #expect(report.eras.map(\.isClosed) == [true, false])
        #expect(report.eras.map(\.entries) == [4, 2])
        #expect(world.disk.contents["keys/1.host"] == nil)
    }

    @Test("records written by many threads at once are all there, each once, in one chain")
    func threads() async throws {
        let world = TrailFixture()
        let trail = try world.create()
        let hashes = try await withThrowingTaskGroup(of: [Digest].self) { group in
            for writer in 0..<8 {
                group.addTask {
                    try (0..<40).map { number in
                        let detail: JSON = ["writer": .integer(Int64(writer)), "number": .integer(Int64(number))]
                        return try trail.record(TrailRecord(.progressShown, .done, [.detail: detail]), in: .gateway)
                            .leafHash
                    }
                }
            }
            return try await group.reduce(into: []) { $0 += $1 }
        }
        #expect(Set(hashes).count == 320 && trail.size == 322)
        try trail.publish()
        var seen: Set<Digest> = []
        try world.verify(world.auditor) { seen.insert($0.leafHash) }
        #expect(seen.isSuperset(of: hashes))
    }

    @Test("a record that is too long is refused and changes nothing")
    func tooLong() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let long = TrailRecord(.personAdded, .done, [.detail: .string(String(repeating: "x", count: 20_000))])
        #expect(throws: TrailError.self) { try trail.record(long, in: .gateway) }
        #expect(trail.size == 2)
        _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
    }

    @Test("every segment boundary is crossed without a gap")
    func segments() throws {
        let world = TrailFixture()
        let trail = try world.create()
        for _ in 0..<400 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        #expect(world.disk.contents.keys.count { $0.hasPrefix("wal/0") } > 2)
        let (again, findings) = try world.open()
        #expect(again.size == 402 && findings.isEmpty)
        try world.verify(world.auditor)
    }
}

@Suite("The trail's disk fails")
struct TrailFaultTests {
    /// A short life of a trail; calls back with the hash of each acknowledged record.
    private func live(_ world: TrailFixture, acknowledged: (Digest) -> Void) throws(TrailError) {
        let trail = try world.create()
        let run = try! RunID("run-1")
        try trail.openEra(run: run)
        for _ in 0..<3 { acknowledged(try trail.record(sampleDecision, in: .run(run)).leafHash) }
        acknowledged(try trail.record(TrailRecord(.personAdded, .done), in: .gateway).leafHash)
        let decision = try trail.record(sampleDecision, in: .run(run))
        acknowledged(decision.leafHash)
        _ = try trail.receipt(for: decision.leafHash, at: decision.index)
        acknowledged(try trail.append(trail.prepareClose(TrailRecord(.runClosed, .done), run: run)).leafHash)
        world.clock.advance(seconds: 4000)
        acknowledged(try trail.record(TrailRecord(.personAdded, .done), in: .gateway).leafHash)
        try trail.publish()
    }

    private var callsOfALife: Int {
        let plan = FaultPlan()
        try! live(TrailFixture(plan: plan)) { _ in }
        return plan.calls
    }

    @Test("a machine that stops inside any call loses no acknowledged record", arguments: 1...3)
    func crash(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        for call in 1...callsOfALife {
            let plan = FaultPlan()
            let world = TrailFixture(plan: plan)
            plan.fail(atCall: call, with: .crash)
            var acknowledged: [Digest] = []
            try? live(world) { acknowledged.append($0) }
            let after = world.with(disk: world.disk.restarted(&random), anchor: world.anchor.restarted(&random))
            if after.disk.contents["trail.vkey"] == nil {
                #expect(acknowledged.isEmpty, "seed \(seed), call \(call)")
                _ = try after.create()
                continue
            }
            let (trail, _) = try after.open()
            for hash in acknowledged { #expect((trail.index(of: hash) != nil), "seed \(seed), call \(call)") }
            _ = try trail.record(TrailRecord(.gatewayRecovered, .done), in: .gateway)
            try trail.publish()
            try after.verify(after.auditor)
            #expect(try after.open().findings.isEmpty, "seed \(seed), call \(call)")
        }
    }

    @Test("an error at any call stops everything new, and the next start has every acknowledged record")
    func errors() throws {
        for call in 1...callsOfALife {
            let plan = FaultPlan()
            let world = TrailFixture(plan: plan)
            plan.fail(atCall: call, with: .error(.failed))
            var acknowledged: [Digest] = []
            #expect(throws: TrailError.self, "call \(call)") { try live(world) { acknowledged.append($0) } }
            guard world.disk.contents["trail.vkey"] != nil else {
                #expect(acknowledged.isEmpty)
                continue
            }
            let (trail, _) = try world.open()
            for hash in acknowledged { #expect((trail.index(of: hash) != nil), "call \(call)") }
            try trail.publish()
            try world.verify(world.auditor)
        }
    }

    @Test("after a failed sync nothing is tried again until the trail is opened anew")
    func poisoned() throws {
        let plan = FaultPlan()
        let world = TrailFixture(plan: plan)
        let trail = try world.create()
        plan.fail(atCall: plan.calls + 2, with: .error(.failed))
        #expect(throws: TrailError.self) { try trail.record(TrailRecord(.personAdded, .done), in: .gateway) }
        let calls = plan.calls
        #expect(trail.obstacle?.code == .poisoned)
        #expect(throws: TrailError.self) { try trail.record(TrailRecord(.personAdded, .done), in: .gateway) }
        #expect(throws: TrailError.self) { try trail.head() }
        #expect(throws: TrailError.self) { try trail.openEra(run: RunID("run-2")) }
        // Only keys of an era that never opens may have been tried.
        #expect(plan.calls <= calls + 4)
    }

    @Test("a full disk refuses new records with its own code, but endings are still written; space brings it back")
    func full() throws {
        let plan = FaultPlan()
        let world = TrailFixture(plan: plan)
        let trail = try world.create()
        let run = try RunID("run-1")
        try trail.openEra(run: run)
        plan.setFull(true)
        var written = 0
        var refusal: TrailError?
        while refusal == nil && written < 2_000 {
            do {
                _ = try trail.record(TrailRecord(.trainingEpoch, .done), in: .run(run))
                written += 1
            } catch {
                refusal = error
            }
        }
        #expect(refusal?.code == .full && trail.obstacle?.code == .full && written > 50)
        #expect(throws: TrailError.self) { try trail.openEra(run: RunID("run-2")) }
        _ = try trail.record(TrailRecord(.deviceScrubbed, .done), in: .run(run))
        _ = try trail.append(trail.prepareClose(TrailRecord(.runClosed, .failed), run: run))

        // A restart while it is still full.
        let (again, _) = try world.open()
        #expect(!again.isOpen(run: run))
        plan.setFull(false)
        _ = try again.record(TrailRecord(.gatewayRecovered, .done), in: .gateway)
        #expect(again.obstacle == nil)
        try again.publish()
        var events: [String] = []
        try world.verify(world.auditor) { events.append($0.core?["event"]?.stringValue ?? "?") }
        #expect(events.contains("trail.full"))
        #expect(events.suffix(3) == ["run.closed", "trail.resumed", "gateway.recovered"])
    }

    @Test("whichever write of a publication finds the disk full, what is published verifies", arguments: 1...12)
    func fullForOneWrite(number: Int) throws {
        let plan = FaultPlan()
        let world = TrailFixture(plan: plan)
        let trail = try world.create()
        for _ in 0..<100 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        try trail.publish()
        for _ in 0..<500 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        plan.fail(atCall: plan.calls + number, with: .error(.noSpace))
        try trail.publish()
        try world.verify(world.auditor)
    }

    @Test("a full disk that gets space again goes on without a restart")
    func fullAndBack() throws {
        let plan = FaultPlan()
        let world = TrailFixture(plan: plan)
        let trail = try world.create()
        plan.setFull(true)
        while (try? trail.record(TrailRecord(.progressShown, .done), in: .gateway)) != nil {}
        plan.setFull(false)
        for _ in 0..<300 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        try trail.publish()
        try world.verify(world.auditor)
        #expect(try world.open().findings.isEmpty)
    }
}

@Suite("Recovery")
struct RecoveryTests {
    /// A trail with six records after its last signed head, and where its frames end in the only segment.
    private func tailed() throws -> (world: TrailFixture, ends: [Int], signed: Int, path: String) {
        let world = TrailFixture()
        let trail = try world.create()
        let path = "wal/" + String(repeating: "0", count: 20) + ".seg"
        var ends = [used(world.disk.contents[path]!)]
        for _ in 0..<6 {
            _ = try trail.record(TrailRecord(.progressShown, .done, [.actor: "a"]), in: .gateway)
            // A frame may end with zero bytes only when its hash does; then the next run draws another nonce.
            ends.append(used(world.disk.contents[path]!))
        }
        return (world, ends, ends[0], path)
    }

    private func used(_ segment: [UInt8]) -> Int { segment.lastIndex(where: { $0 != 0 })! + 1 }

    @Test("a log cut at any byte opens with every whole record, or refuses when a signed head covered more")
    func cut() throws {
        let (world, ends, signed, path) = try tailed()
        for cut in stride(from: 0, through: ends.last!, by: 1) {
            var contents = world.disk.contents
            contents[path]!.replaceSubrange(cut..., with: [UInt8](repeating: 0, count: contents[path]!.count - cut))
            let after = world.with(disk: MemoryDisk(contents), anchor: MemoryDisk(world.anchor.contents))
            // What lies under the head signed at creation: both entries, not the head's own frame.
            if cut < signed {
                if let (trail, _) = try? after.open() { #expect(trail.size >= 2, "cut at \(cut)") }
                continue
            }
            let whole = ends.count { $0 <= cut } - 1
            let (trail, findings) = try after.open()
            // A frame begins with zero bytes of its length: alone they are nothing.
            let torn = contents[path]![ends[whole]..<cut].contains { $0 != 0 }
            #expect(findings.map(\.code).contains(.tornFrameCut) == torn, "cut at \(cut)")
            #expect(trail.size == UInt64(2 + whole + (torn ? 1 : 0)), "cut at \(cut)")
            _ = try trail.record(TrailRecord(.gatewayRecovered, .done), in: .gateway)
            try trail.publish()
            try after.verify(after.auditor)
        }
    }

    @Test("a changed byte anywhere before the last record refuses to start")
    func changed() throws {
        let (world, ends, _, path) = try tailed()
        for at in 0..<ends[ends.count - 2] {
            var contents = world.disk.contents
            contents[path]![at] ^= 0x40
            let after = world.with(disk: MemoryDisk(contents), anchor: MemoryDisk(world.anchor.contents))
            #expect(throws: TrailError.self, "byte \(at)") { try after.open() }
        }
    }

    @Test("an older copy of the trail is refused, also when the anchor is gone or of another log")
    func rolledBack() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let old = world.disk.contents
        let record = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
        _ = try trail.receipt(for: record.leafHash, at: record.index)
        let refusal = #expect(throws: TrailError.self) { try world.with(disk: MemoryDisk(old)).open() }
        #expect(refusal?.code == .rolledBack)
        #expect(throws: TrailError.self) { try world.with(anchor: MemoryDisk()).open() }
        let other = TrailFixture()
        _ = try other.create()
        #expect(throws: TrailError.self) { try world.with(anchor: other.anchor).open() }
    }

    @Test(
        "a head whose anchor was torn while it was written leaves the head before, and the trail opens with all records"
    )
    func tornAnchor() throws {
        let world = TrailFixture()
        let trail = try world.create()
        _ = try trail.record(TrailRecord(.clockChecked, .done), in: .gateway)
        let before = try trail.head()
        let old = try #require(world.anchor.contents["anchor"])
        _ = try trail.record(TrailRecord(.clockChecked, .done), in: .gateway)
        _ = try trail.head()
        let new = try #require(world.anchor.contents["anchor"])
        #expect(old.count == new.count)
        let changed = old.indices.filter { old[$0] != new[$0] }
        // Only one of the two places is ever written to.
        #expect(Set(changed.map { $0 / 4096 }).count == 1)
        for sector in Set(changed.map { $0 / 512 }) {
            var torn = new
            torn.replaceSubrange(sector * 512..<(sector + 1) * 512, with: old[sector * 512..<(sector + 1) * 512])
            let after = world.with(
                disk: MemoryDisk(world.disk.contents), anchor: MemoryDisk(["anchor": torn]))
            let (opened, _) = try after.open()
            #expect(opened.size >= before.size + 1)
            _ = try opened.record(TrailRecord(.clockChecked, .done), in: .gateway)
            #expect(try opened.head().size == opened.size)
        }
        // Nothing but a head that the trail's key signed is believed, and an emptied anchor is a lost one.
        var wrong = new
        for place in [0, 4096] { wrong[place + 20] ^= 1 }
        for anchor in [wrong, Array(new.dropLast()), [UInt8](repeating: 0, count: new.count)] {
            let after = world.with(
                disk: MemoryDisk(world.disk.contents), anchor: MemoryDisk(["anchor": anchor]))
            #expect(throws: TrailError.self) { try after.open() }
        }
    }

    @Test("a record that asks for its head has it when it returns, with no more waiting for the disk")
    func headed() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let record = try trail.record(TrailRecord(.clockChecked, .done), in: .gateway, isHeaded: true)
        let calls = world.disk.plan.calls
        #expect(try trail.head().size == record.index + 1)
        #expect(try trail.receipt(for: record.leafHash, at: record.index).index == record.index)
        #expect(world.disk.plan.calls == calls)
    }

    @Test("two gateways on one anchor: the second to sign stops")
    func anchorSwap() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let copy = world.with(disk: MemoryDisk(world.disk.contents))
        let (twin, _) = try copy.open()
        _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
        _ = try trail.head()
        _ = try twin.record(TrailRecord(.personAdded, .done), in: .gateway)
        #expect(throws: TrailError.self) { try twin.head() }
        #expect(twin.obstacle?.code == .poisoned)
    }

    @Test("published files that were changed or removed are made again, and that is said")
    func rebuilt() throws {
        let world = TrailFixture()
        let trail = try world.create()
        for _ in 0..<300 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        try trail.publish()
        var contents = world.disk.contents
        contents["log/tile/0/000"]![5] ^= 1
        contents["log/tile/entries/000"] = nil
        let after = world.with(disk: MemoryDisk(contents))
        #expect(throws: (any Error).self) { try after.verify(nil) }
        #expect(try after.open().findings.map(\.code) == [.derivedRebuilt])
        try after.verify(after.auditor)
    }

    @Test("a missing key of an open era refuses to start; leftover and unused keys are erased and said")
    func keys() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let run = try RunID("run-1")
        try trail.openEra(run: run)
        let during = world.disk.contents
        var missing = during
        missing["keys/2.host"] = nil
        #expect(throws: TrailError.self) { try world.with(disk: MemoryDisk(missing)).open() }
        _ = try trail.append(trail.prepareClose(TrailRecord(.runClosed, .done), run: run))
        try trail.publish()
        var leftover = world.disk.contents
        leftover["keys/2.host"] = during["keys/2.host"]
        leftover["keys/3.json"] = during["keys/2.json"]
        let after = world.with(disk: MemoryDisk(leftover))
        #expect(try after.open().findings.map(\.code) == [.leftoverKeyErased, .unusedKeysRemoved])
        #expect(after.disk.contents["keys/2.host"] == nil && after.disk.contents["keys/3.json"] == nil)
    }

    @Test("a real folder holds a trail, and a second opener is refused while it is held")
    func folder() throws {
        try withTemporaryFolder { folder in
            let world = TrailFixture()
            let key = RandomBytes.array(32)
            func home() throws -> TrailHome {
                TrailHome(
                    disk: try FolderDisk(folder.path + "/trail"), anchor: try FolderDisk(folder.path + "/anchor"),
                    settings: world.settings, clock: world.clock)
            }
            var trail: Trail? = try Trail.create(
                in: home(), signingKey: world.signingKey(), hostKey: SecretBytes(copying: key))
            let record = try trail!.record(TrailRecord(.personAdded, .done), in: .gateway)
            let refusal = #expect(throws: TrailError.self) {
                try Trail.open(in: home(), signingKey: world.signingKey(), hostKey: SecretBytes(copying: key))
            }
            #expect(refusal?.code == .busy)
            trail = nil
            let (again, findings) = try Trail.open(
                in: home(), signingKey: world.signingKey(), hostKey: SecretBytes(copying: key))
            #expect(again.index(of: record.leafHash) != nil && findings.isEmpty)
            let report = try LogVerifier(
                disk: FolderDisk(folder.path + "/trail", readOnly: true), folder: "", identity: world.identity,
                auditor: world.auditor
            ).verify()
            #expect(report.head?.size == 3)
        }
    }
}

/// The entries of a small published log, from its bundle.
func leaves(_ disk: MemoryDisk, folder: String = "") throws -> [[UInt8]] {
    let (path, bytes) = disk.contents.first { $0.key.hasPrefix("\(folder)log/tile/entries/") }!
    let count = Int(path.split(separator: "/").last!)!
    return try Tile(.entries, index: 0, count: count).entries(parsing: bytes).map(Array.init)
}
