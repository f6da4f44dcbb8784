import AuditTrail
import DurableFiles
import Foundation
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

@Suite("Exports")
struct ExportTests {
    private static let time = Timestamp(milliseconds: 1_790_000_000_000)

    private func wholeExport(_ world: TrailFixture) throws -> MemoryDisk {
        try world.sampleRun()
        let bag = MemoryDisk()
        try export(world, .whole, "whole", into: bag)
        return bag
    }

    /// Of the sample run in a new trail: the whole log, or the run's slice.
    private func smallExport(_ world: TrailFixture, _ scope: String) throws -> MemoryDisk {
        if scope == "whole" { return try wholeExport(world) }
        try world.sampleRun()
        let bag = MemoryDisk()
        try export(world, .chosen(eras: [2], indices: []), scope, into: bag)
        return bag
    }

    @Test("an export of the whole log verifies, with and without a reader's key")
    func whole() throws {
        let world = TrailFixture()
        let bag = try wholeExport(world)
        #expect(!bag.contents.keys.contains { $0.hasSuffix(".host") })
        let export = AuditExport(bag)
        #expect(try export.statedIdentity() == world.identity)
        #expect(try export.verify(trusting: world.identity, auditor: nil).opened == 0)
        let report = try export.verify(trusting: world.identity, auditor: world.auditor)
        #expect(report.opened == 7 && report.checkpoints >= 2)
        #expect(report.eras.filter(\.isComplete).map(\.run) == ["run-1"])
        #expect(throws: TrailError.self) { try FolderSink(bag).partial() }
    }

    @Test("an export of one run holds that run only, and shows it to be complete")
    func run() throws {
        let world = TrailFixture()
        try world.sampleRun()
        let bag = MemoryDisk()
        try export(world, .chosen(eras: [2], indices: []), "run", into: bag)
        var events: [String] = []
        let report = try AuditExport(bag).verify(trusting: world.identity, auditor: world.auditor) {
            events.append($0.core?["event"]?.stringValue ?? "?")
        }
        #expect(events == ["era.opened", "run.decided", "device.leased", "run.closed"])
        #expect(report.eras.map(\.isComplete) == [true])
        // Without one of its records the rest is still in the log, but no longer complete.
        for index in [2, 3, 5, 6] {
            var contents = bag.contents
            contents["data/slice/entries/\(index)"] = nil
            contents["data/slice/proofs/\(index).tlog-proof"] = nil
            let changed = AuditExport(MemoryDisk(rebagged(contents, entries: 3)))
            if let report = try? changed.verify(trusting: world.identity, auditor: world.auditor) {
                #expect(index == 6 && !report.eras[0].isComplete)
            } else {
                #expect(index != 6)
            }
        }
        #expect(throws: LogError.self) {
            try export(world, .chosen(eras: [99], indices: []), "run", into: MemoryDisk())
        }
    }

    @Test("single entries of an hour of the gateway go out with its opening, each provable, and nothing else")
    func chosen() throws {
        let world = TrailFixture()
        try world.sampleRun()
        let bag = MemoryDisk()
        try export(world, .chosen(eras: [], indices: [4]), "dataset", into: bag)
        var events: [String] = []
        let report = try AuditExport(bag).verify(trusting: world.identity, auditor: world.auditor) {
            events.append($0.core?["event"]?.stringValue ?? "?")
        }
        #expect(events == ["era.opened", "person.added"] && report.entries == 2 && report.opened == 2)
        // Without its opening entry nobody can tell whose era it is.
        var contents = bag.contents
        contents["data/slice/entries/0"] = nil
        contents["data/slice/proofs/0.tlog-proof"] = nil
        #expect(throws: LogError.self) {
            try AuditExport(MemoryDisk(rebagged(contents, entries: 1))).verify(
                trusting: world.identity, auditor: world.auditor)
        }
    }

    @Test(
        "a range has its entries and the hashes of all others, and verifies like the whole",
        arguments: [0..<3, 250..<260, 290..<307, 2..<307])
    func range(range: Range<UInt64>) throws {
        let world = TrailFixture()
        let trail = try world.sampleRun()
        for _ in 0..<300 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        try trail.publish()
        let bag = MemoryDisk()
        try export(world, .range(range), "range", into: bag)
        var indices: [UInt64] = []
        let report = try AuditExport(bag).verify(trusting: world.identity, auditor: world.auditor) {
            indices.append($0.index)
        }
        #expect(indices == Array(range) && report.entries == UInt64(range.count))
        #expect(try AuditExport(bag).verify(trusting: world.identity, auditor: nil).opened == 0)
        // An entry of the range that is missing is missed, whatever the manifest says.
        let bundle =
            "data/" + "log/"
            + Tile(.entries, index: range.lowerBound / 256, count: range.lowerBound < 256 ? 256 : 51).path
        #expect(bag.contents[bundle] != nil)
        var contents = bag.contents
        contents[bundle] = nil
        #expect(throws: LogError.self) {
            try AuditExport(MemoryDisk(rebagged(contents, entries: nil))).verify(trusting: world.identity, auditor: nil)
        }
    }

    @Test("an interrupted export goes on to the same bytes, under the head it began with")
    func resumed() throws {
        let world = TrailFixture()
        let trail = try world.sampleRun()
        let bag = MemoryDisk()
        let request = SHA256.hash("request")
        let sink = FolderSink(bag)
        #expect(try sink.partial() == nil)
        struct Stop: Error {}
        let first = try ExportWriter(of: world.disk, choice: .whole) { _, _ in throw Stop() }
        let partial = FolderSink.Partial(request: request, note: first.head.note, time: Self.time, end: 9)
        try sink.begin(partial)
        #expect(throws: Stop.self) { try first.write(into: sink, scope: "whole", at: Self.time) }
        #expect(throws: LogError.self) {
            try AuditExport(bag).verify(trusting: world.identity, auditor: nil)
        }
        // The trail goes on meanwhile, past the edge of what was exported.
        for _ in 0..<600 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
        try trail.publish()
        let left = try #require(try FolderSink(bag).partial())
        #expect(left == partial)
        let again = FolderSink(bag)
        try ExportWriter(of: world.disk, note: left.note, choice: .whole).write(
            into: again, scope: "whole", at: left.time)
        try again.finish()
        let report = try AuditExport(bag).verify(trusting: world.identity, auditor: world.auditor)
        #expect(report.entries == first.head.size && report.head == first.head)
    }

    @Test("a clock that goes back is named, a little disorder is not")
    func clock() throws {
        for (seconds, isRefused) in [(Int64(-30), false), (-3_600, true)] {
            let world = TrailFixture()
            let trail = try world.create()
            _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
            world.clock.advance(seconds: seconds)
            _ = try trail.record(TrailRecord(.personAdded, .done), in: .gateway)
            try trail.publish()
            let bag = MemoryDisk()
            try export(world, .whole, "whole", into: bag)
            let verify = { try AuditExport(bag).verify(trusting: world.identity, auditor: nil) }
            if isRefused {
                let error = #expect(throws: LogError.self) { _ = try verify() }
                #expect(error?.code == .wrongTime && error?.publicDescription.contains("goes back by 3600 s") == true)
            } else {
                _ = try verify()
            }
        }
    }

    @Test("an export of another log is refused by name, and so is a key of the wrong kind")
    func otherLog() throws {
        let world = TrailFixture()
        let bag = try wholeExport(world)
        let other = try TrailIdentity(origin: "other.example/sekisho", key: world.signingKey().verifyingKey)
        let error = #expect(throws: LogError.self) {
            try AuditExport(bag).verify(trusting: other, auditor: nil)
        }
        #expect(error?.code == .wrongOrigin)
        // Somebody else's key opens nothing; what it cannot open it does not vouch for.
        let report = try AuditExport(bag).verify(
            trusting: world.identity, auditor: AuditorKey(WrappingKey.generate()))
        #expect(report.opened == 0 && report.eras.allSatisfy { !$0.isRead })
        // Even with its own manifest and identity in place, the entries are not the other log's.
        var contents = bag.contents
        contents["data/trail.vkey"] = Array("\(other)\n".utf8)
        #expect(throws: LogError.self) {
            try AuditExport(MemoryDisk(rebagged(contents, entries: nil))).verify(trusting: other, auditor: nil)
        }
    }

    @Test(
        "every file doubled, or swapped with another, is refused, also behind a manifest that fits",
        arguments: ["whole", "run"])
    func filesDoubledAndSwapped(scope: String) throws {
        let world = TrailFixture()
        let bag = try smallExport(world, scope)
        let paths = bag.contents.keys.filter { path in
            ["log", "keys", "slice"].contains { path.hasPrefix("data/\($0)/") }
        }.sorted()
        for (one, other) in zip(paths, paths.dropFirst() + [paths[0]])
        where bag.contents[one] != bag.contents[other] {
            var swapped = bag.contents
            swapped[one] = bag.contents[other]
            swapped[other] = bag.contents[one]
            for contents in [swapped, rebagged(swapped, entries: nil)] {
                #expect(throws: (any Error).self, "\(one) and \(other)") {
                    try AuditExport(MemoryDisk(contents)).verify(trusting: world.identity, auditor: world.auditor)
                }
            }
            var doubled = bag.contents
            doubled[one + ".copy"] = bag.contents[one]
            for contents in [doubled, rebagged(doubled, entries: nil)] {
                #expect(throws: (any Error).self, "\(one)") {
                    try AuditExport(MemoryDisk(contents)).verify(trusting: world.identity, auditor: nil)
                }
            }
        }
    }

    @Test("an export in a real folder verifies, and not with a file more or less")
    func folder() throws {
        try withTemporaryFolder { folder in
            let world = TrailFixture()
            try world.sampleRun()
            try export(world, .whole, "whole", into: FolderDisk(folder.path))
            let export = AuditExport(try FolderDisk(folder.path, readOnly: true))
            #expect(try export.verify(trusting: world.identity, auditor: world.auditor).opened == 7)
            let extra = folder.appendingPathComponent("data/keys/note.txt")
            try Data([1]).write(to: extra)
            #expect(throws: (any Error).self) { try export.verify(trusting: world.identity, auditor: nil) }
            try FileManager.default.removeItem(at: extra)
            try FileManager.default.removeItem(at: folder.appendingPathComponent("data/log/checkpoint"))
            #expect(throws: (any Error).self) { try export.verify(trusting: world.identity, auditor: nil) }
        }
        let nowhere = AuditExport(try FolderDisk("/nonexistent/export", readOnly: true))
        #expect(throws: (any Error).self) { try nowhere.statedIdentity() }
    }

    @Test("a changed bit in any byte of any file of an export is refused", arguments: ["whole", "run"])
    func flipped(scope: String) throws {
        let world = TrailFixture()
        let bag = try smallExport(world, scope)
        for (path, bytes) in bag.contents {
            for at in bytes.indices {
                var contents = bag.contents
                contents[path]![at] ^= 1 << UInt8(at % 8)
                #expect(throws: (any Error).self, "byte \(at) of \(path)") {
                    try AuditExport(MemoryDisk(contents)).verify(trusting: world.identity, auditor: nil)
                }
            }
        }
    }

    @Test("the log's own checks find every changed bit, also when the manifest was made to fit")
    func flippedBehindManifest() throws {
        let world = TrailFixture()
        let bag = try wholeExport(world)
        for (path, bytes) in bag.contents where path.hasPrefix("data/log/") || path.hasPrefix("data/keys/") {
            for at in bytes.indices {
                var contents = bag.contents
                contents[path]![at] ^= 1 << UInt8(at % 8)
                let disk = MemoryDisk(contents)
                // The low bit of the last byte of an X25519 point's text is the one that the curve ignores.
                #expect(throws: (any Error).self, "byte \(at) of \(path)") {
                    let report = try LogVerifier(
                        disk: disk, folder: "data/", identity: world.identity, auditor: world.auditor
                    ).verify()
                    guard report.eras.allSatisfy(\.isRead) else { throw LogError(.incomplete, "unreadable") }
                }
            }
        }
    }

    @Test("a run's own checks find every changed bit, also when the manifest was made to fit")
    func flippedSliceBehindManifest() throws {
        let world = TrailFixture()
        let bag = try smallExport(world, "run")
        for (path, bytes) in bag.contents where path.hasPrefix("data/slice/") || path.hasPrefix("data/keys/") {
            for at in bytes.indices {
                var contents = bag.contents
                contents[path]![at] ^= 1 << UInt8(at % 8)
                let disk = MemoryDisk(rebagged(contents, entries: nil))
                #expect(throws: (any Error).self, "byte \(at) of \(path)") {
                    let report = try AuditExport(disk).verify(trusting: world.identity, auditor: world.auditor)
                    guard report.eras.allSatisfy(\.isRead) else { throw LogError(.incomplete, "unreadable") }
                }
            }
        }
    }

    @Test("a file that is missing or not named in the manifest is refused", arguments: ["whole", "run"])
    func files(scope: String) throws {
        let world = TrailFixture()
        let bag = try smallExport(world, scope)
        for path in bag.contents.keys {
            var contents = bag.contents
            contents[path] = nil
            #expect(throws: (any Error).self, "\(path)") {
                try AuditExport(MemoryDisk(contents)).verify(trusting: world.identity, auditor: nil)
            }
        }
        for path in ["data/extra", "data/log/tile/entries/001", "extra", "data/log/checkpoints/99"] {
            var contents = bag.contents
            contents[path] = [1]
            #expect(throws: (any Error).self, "\(path)") {
                try AuditExport(MemoryDisk(contents)).verify(trusting: world.identity, auditor: nil)
            }
        }
    }

    @Test("dropped, doubled, swapped and added entries are refused", arguments: 0..<7)
    func rearranged(index: Int) throws {
        let world = TrailFixture()
        try world.sampleRun()
        let entries = try leaves(world.disk)
        var dropped = entries
        dropped.remove(at: index)
        var doubled = entries
        doubled.insert(entries[index], at: index)
        var swapped = entries
        swapped.swapAt(index, (index + 1) % entries.count)
        for changed in [dropped, doubled, swapped, entries + [entries[index]]] {
            for keepsCount in [true, false] {
                // Either the tiles are made to fit the entries, or left as they were.
                let disk = MemoryDisk(rewritten(world.disk.contents, entries: changed, tiles: keepsCount))
                #expect(throws: (any Error).self) {
                    try LogVerifier(disk: disk, folder: "", identity: world.identity, auditor: nil).verify()
                }
            }
        }
    }

    @Test("even an operator who signs anew cannot take a record out of a run, double it or end the run early")
    func lyingOperator() throws {
        let world = TrailFixture()
        try world.sampleRun()
        let entries = try leaves(world.disk)
        for index in [2, 3, 5] {
            var dropped = entries
            dropped.remove(at: index)
            var doubled = entries
            doubled.insert(entries[index], at: index)
            for changed in [dropped, doubled] {
                var contents = rewritten(world.disk.contents, entries: changed, tiles: true)
                let root = Merkle.root(changed.map { Merkle.leafHash($0) })
                let head = try Checkpoint(origin: TrailFixture.origin, size: UInt64(changed.count), root: root)
                    .signed(by: world.signingKey())
                contents = contents.filter { !$0.key.hasPrefix("log/checkpoints/") }
                contents["log/checkpoint"] = head.note
                let verifier = LogVerifier(
                    disk: MemoryDisk(contents), folder: "", identity: world.identity, auditor: world.auditor)
                #expect(throws: LogError.self, "entry \(index)") { try verifier.verify() }
            }
        }
    }

    @Test("the text in an export is the one in the repository")
    func verifyText() throws {
        let world = TrailFixture()
        let bag = try wholeExport(world)
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("audit/VERIFY.md")
        #expect(try Array(Data(contentsOf: file)) == bag.contents["data/VERIFY.md"]!)
    }

    /// The log's files with other entries under the same checkpoint.
    private func rewritten(_ contents: [String: [UInt8]], entries: [[UInt8]], tiles: Bool) -> [String: [UInt8]] {
        var contents = contents.filter {
            !$0.key.hasPrefix("log/tile/entries/") && (!tiles || !$0.key.hasPrefix("log/tile/0"))
        }
        // Both under the name that the checkpoint asks for and under that of the new count.
        for count in [entries.count, 7] {
            contents["log/" + Tile(.entries, index: 0, count: count).path] = Tile.bundle(of: entries)
            if tiles {
                contents["log/" + Tile(.hashes(level: 0), index: 0, count: count).path] =
                    Tile.bytes(of: entries.map { Merkle.leafHash($0) })
            }
        }
        return contents
    }

    private func export(
        _ world: TrailFixture, _ choice: ExportWriter.Choice, _ scope: String, into bag: any Disk
    ) throws {
        try ExportWriter(of: world.disk, choice: choice).write(into: FolderSink(bag), scope: scope, at: Self.time)
    }

    /// The files with manifests that fit them, and a scope that states another number of entries.
    private func rebagged(_ contents: [String: [UInt8]], entries: UInt64?) -> [String: [UInt8]] {
        var contents = contents
        if let entries, let text = contents["data/scope.json"], var scope = try? JSON(parsing: text).objectValue {
            scope["entries"] = .integer(Int64(entries))
            contents["data/scope.json"] = JSON.object(scope).canonical
        }
        func manifest(_ paths: [String]) -> [UInt8] {
            let ordered = paths.sorted {
                let one = $0.split(separator: "/").map { Array($0.utf8) }
                let other = $1.split(separator: "/").map { Array($0.utf8) }
                for (left, right) in zip(one, other) where left != right {
                    return left.lexicographicallyPrecedes(right)
                }
                return one.count < other.count
            }
            return Array(ordered.map { "\(Hex.encode(SHA512.hash(contents[$0]!)))  \($0)\n" }.joined().utf8)
        }
        contents["manifest-sha512.txt"] = manifest(contents.keys.filter { $0.hasPrefix("data/") })
        contents["tagmanifest-sha512.txt"] = manifest(["bagit.txt", "bag-info.txt", "manifest-sha512.txt"])
        return contents
    }
}

/// Go's own packages, when Debian's `golang-go` and `golang-golang-x-mod-dev` are installed.
enum GoVerifier {
    static let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("audit/verify-go/main.go")
    static let isAvailable =
        FileManager.default.isExecutableFile(atPath: "/usr/bin/go")
        && FileManager.default.fileExists(atPath: "/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog")

    static func build(in folder: URL) throws -> URL {
        let program = folder.appendingPathComponent("verify-go")
        let result = try run(
            URL(fileURLWithPath: "/usr/bin/go"), ["build", "-o", program.path, source.path],
            environment: [
                "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "PATH": "/usr/bin:/bin",
                // Go's own build cache, so that its library is compiled once and not by each test.
                "HOME": ProcessInfo.processInfo.environment["HOME"] ?? folder.path,
            ])
        try #require(result.status == 0, "\(result.output)")
        return program
    }

    static func run(
        _ program: URL, _ arguments: [String], environment: [String: String] = [:]
    ) throws -> (status: Int32, output: String) {
        let process = Process()
        process.executableURL = program
        process.arguments = arguments
        process.environment = environment
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }
}

@Suite("Go's transparency-log packages", .enabled(if: GoVerifier.isAvailable))
struct GoVerifierTests {
    @Test("Go verifies our exports and refuses each tampered one")
    func verifies() throws {
        try withTemporaryFolder { folder in
            let program = try GoVerifier.build(in: folder)
            let world = TrailFixture()
            let trail = try world.sampleRun()
            for _ in 0..<300 { _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway) }
            try trail.publish()
            let vkey = world.identity.description
            let bag = folder.appendingPathComponent("bag")
            func export(_ choice: ExportWriter.Choice, _ scope: String, to folder: URL) throws {
                try ExportWriter(of: world.disk, choice: choice).write(
                    into: FolderSink(FolderDisk(folder.path)), scope: scope, at: Timestamp(milliseconds: 0))
            }
            try export(.whole, "whole", to: bag)
            let good = try GoVerifier.run(program, [bag.path, vkey])
            #expect(good.status == 0 && good.output.contains("307 of 307 entries"), "\(good.output)")
            let other = try TrailIdentity(origin: TrailFixture.origin, key: SigningKey.generate().verifyingKey)
            #expect(try GoVerifier.run(program, [bag.path, other.description]).status != 0)

            var tampered = 0
            for case let file as URL in FileManager.default.enumerator(
                at: bag.appendingPathComponent("data/log"), includingPropertiesForKeys: nil)!
            {
                guard let bytes = try? Data(contentsOf: file) else { continue }
                for at in [0, bytes.count / 2, bytes.count - 1] {
                    var changed = bytes
                    changed[at] ^= 4
                    try changed.write(to: file)
                    let result = try GoVerifier.run(program, [bag.path, vkey])
                    #expect(result.status != 0, "byte \(at) of \(file.lastPathComponent)")
                    tampered += 1
                }
                try bytes.dropLast().write(to: file)
                #expect(try GoVerifier.run(program, [bag.path, vkey]).status != 0)
                try bytes.write(to: file)
            }
            #expect(tampered >= 15)
            #expect(try GoVerifier.run(program, [bag.path, vkey]).status == 0)

            let one = folder.appendingPathComponent("one")
            try export(.chosen(eras: [2], indices: []), "run", to: one)
            let run = try GoVerifier.run(program, [one.path, vkey])
            #expect(run.status == 0 && run.output.contains("4 chosen entries"), "\(run.output)")
            let entry = one.appendingPathComponent("data/slice/entries/3")
            var leaf = try Data(contentsOf: entry)
            leaf[40] ^= 1
            try leaf.write(to: entry)
            #expect(try GoVerifier.run(program, [one.path, vkey]).status != 0)

            let part = folder.appendingPathComponent("part")
            try export(.range(260..<300), "range", to: part)
            let range = try GoVerifier.run(program, [part.path, vkey])
            #expect(range.status == 0 && range.output.contains("51 of 307 entries"), "\(range.output)")
        }
    }

    @Test("Go follows the log from key to key, and asks for the witnesses it is told of")
    func periods() async throws {
        let world = TrailFixture()
        let trail = try world.sampleRun()
        for _ in 0..<2 {
            try trail.rotateSigningKey(to: SigningKey.generate())
            _ = try trail.record(TrailRecord(.progressShown, .done), in: .gateway)
            try trail.publish()
        }
        let witness = FakeWitness("w.example", of: trail.periods.current, clock: world.clock)
        let policy = try WitnessPolicy(
            parsing: "log \(world.identity)\nwitness w \(witness.line) http://w.example\nquorum w\n")
        let (head, answers) = try await trail.cosign(by: policy, over: witness)
        try #require(try policy.check(head).count == 1, "\(answers)")
        try withTemporaryFolder { folder in
            let program = try GoVerifier.build(in: folder)
            let vkey = world.identity.description
            for (name, choice) in [("whole", ExportWriter.Choice.whole), ("run", .chosen(eras: [2], indices: []))] {
                let bag = folder.appendingPathComponent(name)
                try ExportWriter(of: world.disk, note: head.note, choice: choice).write(
                    into: FolderSink(FolderDisk(bag.path)), scope: name, at: Timestamp(milliseconds: 0))
                for arguments in [["-each-byte"], ["-witness", witness.line]] {
                    let result = try GoVerifier.run(program, arguments + [bag.path, vkey])
                    #expect(result.status == 0, "\(result.output)")
                }
                let stranger = FakeWitness("v.example", of: world.identity, clock: world.clock).line
                let refused = try GoVerifier.run(program, ["-witness", stranger, bag.path, vkey])
                #expect(refused.status == 1 && refused.output.contains("no cosignature of v.example"))
                let newest = try GoVerifier.run(program, [bag.path, trail.periods.current.description])
                #expect(newest.status == 1, "\(newest.output)")
            }
        }
    }

    @Test("Go too refuses an export with a changed bit in any byte of its log")
    func eachByte() throws {
        try withTemporaryFolder { folder in
            let program = try GoVerifier.build(in: folder)
            let world = TrailFixture()
            try world.sampleRun()
            for (name, choice) in [("whole", ExportWriter.Choice.whole), ("run", .chosen(eras: [2], indices: []))] {
                let bag = folder.appendingPathComponent(name)
                try ExportWriter(of: world.disk, choice: choice).write(
                    into: FolderSink(FolderDisk(bag.path)), scope: name, at: Timestamp(milliseconds: 0))
                let result = try GoVerifier.run(program, ["-each-byte", bag.path, world.identity.description])
                #expect(result.status == 0 && result.output.contains("changed bytes is refused"), "\(result.output)")
            }
        }
    }
}
