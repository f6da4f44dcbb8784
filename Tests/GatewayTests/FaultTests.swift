import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Things that break, at every stage, and what they leave behind.
@Suite struct FaultTests {
    @Test("open: a chunk that changed on the disk fails the run, and nothing is attached")
    func changedChunk() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .open)
            try Self.flipEachChunk(of: enclave.home.appendingPathComponent("vault/datasets"))
            #expect(try await enclave.finish(run) == .closed(.failed))
            #expect(
                try await enclave.sequence(.run(run)) == RefusalTests.requested + [
                    "run.decided done", "run.opened intent", "run.opened failed [tampered]", "run.closed done",
                ])
        }
    }

    private static func flipEachChunk(of folder: URL) throws {
        let files = try #require(FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil))
        var changed = 0
        for case let file as URL in files
        where file.lastPathComponent.hasPrefix("section-") {
            var bytes = try Data(contentsOf: file)
            guard bytes.count > 32 else { continue }
            bytes[bytes.count - 20] ^= 1
            try bytes.write(to: file)
            changed += 1
        }
        try #require(changed > 0, "no chunk was found")
    }

    @Test("attach: where no node can be reached, the run fails and closes")
    func noNode() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let node = try await enclave.startNode()
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .attach)
            try await enclave.reopen()
            node.kill()
            #expect(try await enclave.finish(run) == .closed(.failed))
            #expect(
                try await enclave.sequence(.run(run)) == RefusalTests.opened + [
                    "device.leased failed [no-device]", "run.closed done",
                ])
        }
    }

    @Test("train: losses that are no numbers any more fail the run; the device is scrubbed and free")
    func diverged() async throws {
        try await withEnclave { enclave in
            try Clinic.write(into: enclave.data, scale: 2.5e38)
            try await enclave.importData()
            let run = try await enclave.request(
                try await enclave.grant(), specification: Clinic.specification(epochs: 50, rate: "1"))
            #expect(try await enclave.finish(run) == .closed(.failed))
            let sequence = try await enclave.sequence(.run(run)).filter { $0 != "training.epoch done" }
            #expect(
                sequence == RefusalTests.leased + [
                    "run.planned done", "program.loaded intent", "run.trained failed [diverged]",
                    "device.scrubbed intent", "device.scrubbed done", "run.closed done",
                ])
            #expect(try await enclave.nodeStates() == ["free"])
        }
    }

    @Test("scrub: a node that is gone before its scrub stays out of the pool, and the record says unproven")
    func nodeDiesBeforeScrub() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let node = try await enclave.startNode()
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .scrub)
            node.kill()
            // The model is in the vault by now; what is lost is the proof that the device is clean.
            #expect(try await enclave.finish(run) == .closed(.released))
            // A lease outlives a cut, so the loss shows in the scrub unless the gateway was slow to begin it.
            let story = try await enclave.sequence(.run(run))
            let stories = ["device-lost", "device-scrub-unproven"].map { cause in
                wholeRun.map { $0 == "device.scrubbed done" ? "device.scrubbed failed [scrub-unproven, \(cause)]" : $0 }
            }
            #expect(stories.contains(story), "\(story)")
            let states = try await enclave.nodeStates()
            #expect([["quarantined (lost)"], ["quarantined (scrub-unproven)"]].contains(states), "\(states)")
        }
    }

    @Test("attach: a node that has waited too long for its lease is attested again")
    func longOpening() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .attach)
            enclave.clock.advance(days: 1)
            #expect(try await enclave.finish(run) == .closed(.released))
            #expect(try await enclave.sequence(.run(run)) == wholeRun)
            let leased = try await enclave.records(.run(run)).first { $0.key == "leased" }
            #expect(leased?.core["fence"] == .integer(2))
        }
    }

    @Test(
        "review, release: a candidate that changed on the disk fails the run and is never given out",
        arguments: [false, true])
    func changedCandidate(isReviewed: Bool) async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            try await enclave.advance(run, to: .review)
            if isReviewed {
                _ = try await enclave.gateway.advance(run)
                try await enclave.review(run)
                _ = try await enclave.gateway.advance(run)
            }
            try Self.flipEachChunk(of: enclave.home.appendingPathComponent("vault/candidates"))
            #expect(try await enclave.finish(run) == .closed(.failed))
            let words = "failed [candidate-integrity]"
            #expect(
                try await enclave.sequence(.run(run)) == RefusalTests.scrubbed
                    + (isReviewed
                        ? [
                            "release.checked done", "release.reviewed done", "release.reviewed done",
                            "release.decided done", "release.ready \(words)",
                        ] : ["release.decided \(words)"]) + ["run.closed done"])
            let error = await refusal { _ = try await enclave.gateway.takeRelease(of: run, by: enclave.researcher) }
            #expect(error?.code == .refused)
        }
    }

    @Test("a home is held by one process at a time")
    func busy() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let error = await refusal { _ = try await Gateway(home: enclave.home, key: .keyFile(enclave.key)) }
            #expect(error?.code == .busy)
            let (process, _) = try Child.start(
                "sekisho", ["run", "list"], reading: .output,
                environment: ["SEKISHO_HOME": enclave.home.path, "SEKISHO_KEY_FILE": enclave.key.path])
            #expect(Child.end(of: process) == 69)
        }
    }

    @Test("another key file opens nothing")
    func wrongKey() async throws {
        try await withEnclave(hasNode: false) { enclave in
            enclave.drop()
            let other = enclave.folder.appendingPathComponent("other.key")
            try Data(repeating: 3, count: 32).write(to: other)
            #expect(
                await refusal { _ = try await Gateway(home: enclave.home, key: .keyFile(other)) }?.code == .integrity)
            try await enclave.open()
        }
    }

    @Test("a case record that was changed, moved or taken away in the database is noticed at the next start")
    func changedDatabase() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            #expect(try await enclave.finish(enclave.request(grant)) == .closed(.released))
            await enclave.gateway.close()
            enclave.drop()
            let database = enclave.home.appendingPathComponent("gateway.db")
            let good = try Data(contentsOf: database)
            for change in [
                "UPDATE record SET sealed = zeroblob(length(sealed)) WHERE record_key = 'granted'",
                "UPDATE record SET record_key = 'granted-2' WHERE record_key = 'granted'",
                "UPDATE record SET case_id = 'request/request-2' WHERE record_key = 'granted'",
                "UPDATE record SET time = time + 1 WHERE record_key = 'granted'",
                "UPDATE record SET trail_index = trail_index + 1000 WHERE record_key = 'granted'",
                "DELETE FROM record WHERE record_key = 'decided' AND case_id = 'run/run-1'",
                "DELETE FROM record WHERE record_key = 'closed'",
            ] {
                try SQLite.execute(change, on: database)
                let error = await refusal { _ = try await Gateway(home: enclave.home, key: .keyFile(enclave.key)) }
                #expect(error?.code == .integrity, "\(change)")
                for name in ["gateway.db-wal", "gateway.db-shm"] {
                    try? FileManager.default.removeItem(at: enclave.home.appendingPathComponent(name))
                }
                try good.write(to: database)
            }
            try await enclave.open()
            #expect(try await enclave.gateway.grants(PageRequest(), by: enclave.auditor).items.count == 1)
        }
    }

    static let mayMount = geteuid() == 0 && TinyDisk.isPossible

    @Test(
        "a full disk under the trail refuses new runs with its own code; with space again, a run goes through",
        .enabled(if: mayMount, "a small disk can be mounted only by root"))
    func fullTrail() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            await enclave.gateway.close()
            enclave.drop()
            let disk = try TinyDisk(over: enclave.home.appendingPathComponent("trail"), bytes: 24 << 20)
            defer { disk.remove() }
            try await enclave.open()
            try disk.fill()
            let before = try await enclave.gateway.runs().count
            let error = await refusal { _ = try await enclave.request(grant, id: "refused") }
            #expect(error?.code == .trailFull)
            #expect(error?.publicDescription.contains("trail-full") == true)
            #expect(try await enclave.gateway.runs().count == before)
            try disk.empty()
            let run = try await enclave.request(grant, id: "later")
            #expect(try await enclave.finish(run) == .closed(.released))
            #expect(try await enclave.sequence(.run(run)) == wholeRun)
            enclave.drop()
        }
    }
}

/// A small file system over a folder, with what was in it.
struct TinyDisk {
    private let folder: URL
    private var ballast: URL { folder.appendingPathComponent("ballast") }

    static let isPossible: Bool = {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sekisho-disk-\(getpid())")
        try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        guard run("/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder.path) else { return false }
        return run("/bin/umount", "-l", folder.path)
    }()

    init(over folder: URL, bytes: Int) throws {
        self.folder = folder
        let aside = folder.appendingPathExtension("aside")
        try FileManager.default.moveItem(at: folder, to: aside)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try #require(Self.run("/bin/mount", "-t", "tmpfs", "-o", "size=\(bytes),mode=700", "tmpfs", folder.path))
        try #require(Self.run("/bin/cp", "-a", aside.path + "/.", folder.path))
    }

    /// Leaves no byte free.
    func fill() throws {
        let descriptor = open(ballast.path, O_WRONLY | O_CREAT, 0o600)
        try #require(descriptor >= 0)
        defer { close(descriptor) }
        let zeros = [UInt8](repeating: 0, count: 4096)
        while write(descriptor, zeros, zeros.count) > 0 {}
        try #require(errno == ENOSPC)
    }

    func empty() throws { try FileManager.default.removeItem(at: ballast) }

    func remove() { _ = Self.run("/bin/umount", "-l", folder.path) }

    private static func run(_ program: String, _ arguments: String...) -> Bool {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.standardError = FileHandle.nullDevice
        guard (try? process.run()) != nil else { return false }
        process.waitUntilExit()
        return process.terminationStatus == 0
    }
}
