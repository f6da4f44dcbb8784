import AuditTrail
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

@Suite("What the trail says about persons")
struct SubjectTests {
    private let ann = SHA256.hash("ann")
    private let ben = SHA256.hash("ben")

    private func record(_ person: Digest, _ words: String) -> TrailRecord {
        TrailRecord(
            .consentChanged, .done, [.dataset: "hpo"],
            sections: [SubjectSection(pseudonym: person, content: ["words": .string(words)])])
    }

    private func words(_ trail: Trail, _ record: AppendedRecord) throws -> String? {
        let section = try #require(record.core["sections"]?.arrayValue?.first)
        return try trail.section(section, of: record.core, at: record.index)?["words"]?.stringValue
    }

    @Test("a section is read on this host while its person's key is there, over restarts, and by no reader's key")
    func sections() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let first = try trail.record(record(ann, "given by Ann"), in: .gateway)
        let second = try trail.record(record(ben, "given by Ben"), in: .gateway)
        #expect(try words(trail, first) == "given by Ann" && words(trail, second) == "given by Ben")
        try trail.publish()
        try world.verify(world.auditor) { entry in
            #expect(!(entry.core?.canonicalText.contains("given") ?? false))
        }
        for (path, bytes) in world.disk.contents {
            let text = String(decoding: bytes, as: UTF8.self)
            #expect(!text.contains("given") && !text.contains(ann.hex), "\(path)")
        }
        let (again, _) = try world.open()
        #expect(try words(again, first) == "given by Ann" && again.subjects.count == 2)
        // Nowhere but in its own place.
        let section = second.core["sections"]!.arrayValue![0]
        #expect(throws: TrailError.self) { try again.section(section, of: first.core, at: first.index) }
    }

    @Test("after a shred nobody can read the section, with any key or any older copy, and every proof still verifies")
    func shredded() throws {
        let world = TrailFixture()
        let trail = try world.create()
        let run = try RunID("run-1")
        try trail.openEra(run: run)
        let gone = try trail.record(record(ann, "given by Ann"), in: .run(run))
        let kept = try trail.record(record(ben, "given by Ben"), in: .run(run))
        let receipt = try trail.receipt(for: gone.leafHash, at: gone.index)
        let before = world.disk.contents
        try trail.subjects.shred(ann)
        #expect(try words(trail, gone) == nil && words(trail, kept) == "given by Ben")
        #expect(throws: TrailError.self) { try trail.subjects.shred(ann) }
        #expect(try receipt.verified(by: world.identity).core == gone.core)
        try trail.publish()
        try world.verify(world.auditor)

        // Neither a restart nor a backup of what backups hold brings it back.
        let (again, findings) = try world.open()
        #expect(try findings.isEmpty && words(again, gone) == nil && words(again, kept) == "given by Ben")
        var backup = world.disk.contents
        for (path, bytes) in before where path.hasPrefix("keys/subjects") && path.hasSuffix(".db") {
            backup[path] = bytes
        }
        let (restored, _) = try world.with(disk: MemoryDisk(backup)).open()
        #expect(try words(restored, gone) == nil)
        // Every key that is left, on every byte string of the section.
        let sealed = Hex.decode(gone.core["sections"]!.arrayValue![0]["sealed"]!.stringValue!)!
        let keys = Set(
            world.disk.contents.values.flatMap { bytes in
                stride(from: 0, to: max(0, bytes.count - 31), by: 1).prefix(4096).map { Array(bytes[$0..<$0 + 32]) }
            })
        for key in keys {
            #expect(throws: SealingError.self) {
                try SmallCipher.open(
                    Array(sealed[24...]), key: SecretBytes(copying: key), nonce: Array(sealed[..<24]), aad: [])
            }
        }
        // The person comes again: a new key, which opens nothing of the past.
        let anew = try again.record(record(ann, "given again"), in: .run(run))
        #expect(try words(again, anew) == "given again" && words(again, gone) == nil)
    }

    @Test("a crash at any call of a shred leaves it undone or done, and everybody else's sections readable")
    func crashed() throws {
        for call in 1...20 {
            let plan = FaultPlan()
            let world = TrailFixture(plan: plan)
            let trail = try world.create()
            let first = try trail.record(record(ann, "given by Ann"), in: .gateway)
            let second = try trail.record(record(ben, "given by Ben"), in: .gateway)
            plan.fail(atCall: plan.calls + call, with: .crash)
            let isDone = (try? trail.subjects.shred(ann)) != nil
            var random = SeededRandom(seed: UInt64(call))
            let after = world.with(disk: world.disk.restarted(&random), anchor: world.anchor.restarted(&random))
            let (again, _) = try after.open()
            #expect(try words(again, second) == "given by Ben", "call \(call)")
            if isDone {
                #expect(try words(again, first) == nil)
                return
            }
            if try words(again, first) != nil { try again.subjects.shred(ann) }
            #expect(try words(again, first) == nil, "call \(call)")
            #expect(try after.disk.names(in: "keys").filter { $0.hasSuffix(".key") }.count == 1, "call \(call)")
        }
        Issue.record("a shred took more than 20 calls")
    }

    @Test("a section that is too long, and one whose bytes were changed, are refused")
    func refused() throws {
        let world = TrailFixture()
        let trail = try world.create()
        #expect(throws: TrailError.self) {
            try trail.record(record(ann, String(repeating: "x", count: 9_000)), in: .gateway)
        }
        let appended = try trail.record(record(ann, "given"), in: .gateway)
        let section = appended.core["sections"]!.arrayValue![0]
        var sealed = Hex.decode(section["sealed"]!.stringValue!)!
        for at in stride(from: 0, to: sealed.count, by: 7) {
            sealed[at] ^= 1
            let changed: JSON = [
                "subject": section["subject"]!, "key": section["key"]!, "sealed": .string(Hex.encode(sealed)),
            ]
            #expect(throws: TrailError.self) { try trail.section(changed, of: appended.core, at: appended.index) }
            sealed[at] ^= 1
        }
        #expect(throws: TrailError.self) { try trail.section(["subject": "x"], of: appended.core, at: appended.index) }
    }
}
