import AuditTrail
import DurableFiles
import Foundation
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

/// `trail-bench` as a process of its own, ended from outside at any instant, over a real folder.
struct TrailProcess {
    static let program = Bundle.main.executableURL!.resolvingSymlinksInPath().deletingLastPathComponent()
        .appendingPathComponent("trail-bench")
    static let isThere = FileManager.default.isExecutableFile(atPath: program.path)
    static let canInject = isThere && FileManager.default.isExecutableFile(atPath: "/usr/bin/strace") && injects

    /// Containers may forbid tracing.
    private static let injects: Bool = {
        let result = try? run(
            URL(fileURLWithPath: "/usr/bin/strace"), ["-o", "/dev/null", "-e", "inject=sync:error=EIO", "/bin/true"])
        return result?.status == 0
    }()

    /// Longer with `SEKISHO_LONG=1` in the environment.
    static let isLong = ProcessInfo.processInfo.environment["SEKISHO_LONG"] == "1"

    let folder: URL

    struct Ended {
        let status: Int32
        let lines: [String]

        /// `INDEX HASH` of each record that the process was told is durable.
        var acknowledged: [(index: UInt64, hash: Digest)] {
            lines.compactMap { line in
                let parts = line.split(separator: " ")
                guard parts.count == 2, let index = UInt64(parts[0]), let hash = Digest(hex: String(parts[1])) else {
                    return nil
                }
                return (index, hash)
            }
        }
        var refusal: String? { lines.first { $0.hasPrefix("refused ") }.map { String($0.dropFirst(8)) } }
    }

    static func run(_ program: URL, _ arguments: [String], killAfter: Int? = nil) throws -> Ended {
        let process = Process()
        process.executableURL = program
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
        var bytes: [UInt8] = []
        var lines = 0
        while true {
            let part = output.fileHandleForReading.availableData
            if part.isEmpty { break }
            bytes += part
            lines += part.count { $0 == 0x0A }
            if let killAfter, lines >= killAfter { kill(process.processIdentifier, SIGKILL) }
        }
        process.waitUntilExit()
        let text = String(decoding: bytes, as: UTF8.self)
        // A last line without its end was not said.
        return Ended(
            status: process.terminationStatus,
            lines: text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init))
    }

    func life(injecting fault: String? = nil) throws -> Ended {
        guard let fault else { return try Self.run(Self.program, ["life", folder.path]) }
        return try Self.run(
            URL(fileURLWithPath: "/usr/bin/strace"),
            ["-f", "-o", "/dev/null", "-e", "inject=\(fault)", Self.program.path, "life", folder.path])
    }

    /// The system calls of one life after the trail is open, in order.
    func calls() throws -> (before: [String: Int], during: [(name: String, ordinal: Int)]) {
        let log = folder.appendingPathComponent("strace.log")
        _ = try Self.run(
            URL(fileURLWithPath: "/usr/bin/strace"),
            [
                "-f", "-o", log.path, "-e", "trace=\(Self.appendPath.joined(separator: ",")),write", Self.program.path,
                "life", folder.path,
            ])
        var counts: [String: Int] = [:]
        var before: [String: Int] = [:]
        var during: [(String, Int)] = []
        var hasStarted = false
        for line in try String(contentsOf: log, encoding: .utf8).split(separator: "\n") {
            guard let name = line.drop(while: { $0.isNumber || $0 == " " }).split(separator: "(").first.map(String.init)
            else { continue }
            if name == "write" {
                if line.contains("\"start\\n\"") {
                    hasStarted = true
                    before = counts
                }
                if line.contains("\"end\\n\"") { break }
                continue
            }
            guard Self.appendPath.contains(name) else { continue }
            counts[name, default: 0] += 1
            if hasStarted { during.append((name, counts[name]!)) }
        }
        return (before, during)
    }

    static let appendPath = [
        "pwrite64", "fdatasync", "fsync", "openat", "rename", "unlink", "fallocate", "newfstatat", "fstat", "mkdir",
        "pread64", "close",
    ]

    /// Opens the trail after the process ended, however it ended, and holds it to what was acknowledged.
    func check(_ acknowledged: [(index: UInt64, hash: Digest)], _ words: Comment) throws {
        let keys = [UInt8](try Data(contentsOf: folder.appendingPathComponent("keys")))
        let auditor = AuditorKey(try WrappingKey(secret: SecretBytes(copying: Array(keys[64...]))))
        let signingKey = try SigningKey(seed: SecretBytes(copying: Array(keys[..<32])))
        let identity = try TrailIdentity(origin: "sekisho.bench/trail", key: signingKey.verifyingKey)
        let home = TrailHome(
            disk: try FolderDisk(folder.path + "/trail"), anchor: try FolderDisk(folder.path + "/anchor"),
            settings: TrailSettings(
                origin: "sekisho.bench/trail", readers: [TrailReader(name: "auditor", key: auditor.publicKey)]),
            clock: ManualClock())
        let (trail, _) = try Trail.open(
            in: home, signingKey: signingKey, hostKey: SecretBytes(copying: Array(keys[32..<64])))
        for (index, hash) in acknowledged {
            let isThere = trail.holds(hash, at: index)
            #expect(isThere, words)
        }
        trail.close()
        let report = try LogVerifier(
            disk: FolderDisk(folder.path + "/trail", readOnly: true), folder: "", identity: identity, auditor: auditor
        ).verify()
        #expect(report.head?.size ?? 0 >= UInt64(acknowledged.count), words)
    }
}

@Suite("The trail's process ends at any instant", .serialized)
struct CrashProcessTests {
    @Test(
        "killed at, or failed in, any system call of the append path: what was acknowledged is there, and nothing is said to be that is not",
        .enabled(if: TrailProcess.canInject), arguments: ["signal=KILL", "error=EIO", "error=ENOSPC"])
    func injected(fault: String) throws {
        try withTemporaryFolder { folder in
            let process = TrailProcess(folder: folder)
            // The first life makes the trail, the second is like all later ones.
            #expect(try process.life().lines.last == "end")
            let calls = try process.calls().during
            try #require(
                calls.count > 40 && Set(calls.map(\.name)).isSuperset(of: ["pwrite64", "fdatasync", "rename"]))
            let step = TrailProcess.isLong ? 1 : max(1, calls.count / 12)
            let first = Int.random(in: 0..<step)
            var acknowledged: [(index: UInt64, hash: Digest)] = []
            var refused = 0
            for (name, ordinal) in stride(from: first, to: calls.count, by: step).map({ calls[$0] }) {
                let words: Comment = "\(fault) at \(name) \(ordinal)"
                let ended = try process.life(injecting: "\(name):\(fault):when=\(ordinal)")
                acknowledged += ended.acknowledged
                if fault == "signal=KILL" {
                    #expect(ended.lines.last != "end", words)
                } else {
                    // It lives on, or ends by itself with a code; it never crashes.
                    #expect(ended.status == 0 || ended.status == 69, words)
                    #expect((ended.status == 69) == (ended.refusal != nil), words)
                    if ended.refusal != nil { refused += 1 }
                }
                try process.check(acknowledged, words)
            }
            if fault == "error=EIO" { #expect(refused > 0) }
        }
    }

    /// Of each trail a hundred lives when there is time, twelve otherwise; a trail that grows for ever opens slowly.
    @Test(
        "kill -9 again and again under many writers loses no acknowledged record", .enabled(if: TrailProcess.isThere),
        arguments: 1...(TrailProcess.isLong ? 20 : 1))
    func killed(trail: Int) throws {
        try withTemporaryFolder { folder in
            var random = SystemRandomNumberGenerator()
            var acknowledged: [(index: UInt64, hash: Digest)] = []
            for life in 0..<(TrailProcess.isLong ? 100 : 12) {
                let ended = try TrailProcess.run(
                    TrailProcess.program, ["write", folder.path, "8", "100000"],
                    killAfter: Int.random(in: 1...300, using: &random))
                #expect(ended.refusal == nil)
                acknowledged += ended.acknowledged
                if life % 4 == 3 {
                    try TrailProcess(folder: folder).check(acknowledged, "trail \(trail), life \(life)")
                }
            }
            #expect(acknowledged.count > 12 && Set(acknowledged.map(\.index)).count == acknowledged.count)
        }
    }

    /// Root reads any process's memory; for anyone else the child is closed.
    @Test(
        "the key of a closed era is nowhere in the process's memory or on its disk",
        .enabled(if: TrailProcess.isThere && geteuid() == 0))
    func erased() throws {
        try withTemporaryFolder { folder in
            let process = Process()
            process.executableURL = TrailProcess.program
            process.arguments = ["erased", folder.path]
            let (input, output) = (Pipe(), Pipe())
            process.standardInput = input
            process.standardOutput = output
            try process.run()
            defer { process.terminate() }
            func line() -> String {
                var bytes: [UInt8] = []
                while let byte = try? output.fileHandleForReading.read(upToCount: 1)?.first, byte != 0x0A {
                    bytes.append(byte)
                }
                return String(decoding: bytes, as: UTF8.self)
            }
            let era = try #require(UInt64(line().split(separator: " ").last ?? ""))
            let keys = [UInt8](try Data(contentsOf: folder.appendingPathComponent("keys")))
            let auditor = try WrappingKey(secret: SecretBytes(copying: Array(keys[64...])))
            let file = try JSON(
                parsing: [UInt8](try Data(contentsOf: folder.appendingPathComponent("trail/keys/\(era).json"))))
            let wrapped = try #require(file["stanzas"]?.arrayValue?.first?["wrapped"]?.stringValue.flatMap(Hex.decode))
            let key = try auditor.unwrap(wrapped).withBytes { Array($0) }
            // The search finds it while the era is open, so it would find it afterwards.
            try #require(try Self.isInMemory(of: process.processIdentifier, key))
            input.fileHandleForWriting.write(Data("\n".utf8))
            #expect(line() == "closed \(era)")
            #expect(try !Self.isInMemory(of: process.processIdentifier, key))
            for case let url as URL in FileManager.default.enumerator(at: folder, includingPropertiesForKeys: nil)! {
                guard let bytes = try? Data(contentsOf: url) else { continue }
                #expect(bytes.firstRange(of: Data(key)) == nil, "\(url.lastPathComponent)")
            }
            input.fileHandleForWriting.write(Data("\n".utf8))
        }
    }

    private static func isInMemory(of process: pid_t, _ key: [UInt8]) throws -> Bool {
        let memory = open("/proc/\(process)/mem", O_RDONLY)
        try #require(memory >= 0)
        defer { close(memory) }
        let maps = try maps(of: process)
        try #require(maps.count > 20)
        var part = [UInt8](repeating: 0, count: 1 << 20)
        for map in maps {
            var at = map.lowerBound
            while at < map.upperBound {
                let count = pread(memory, &part, min(Int(map.upperBound - at), part.count), off_t(at))
                guard count > 0 else { break }
                if part.withUnsafeBytes({ Self.holds($0.prefix(count), key) }) { return true }
                // The next part begins a little earlier, so that no key lies across two.
                at += UInt64(count) < map.upperBound - at ? UInt64(count - key.count + 1) : UInt64(count)
            }
        }
        return false
    }

    private static func holds(_ bytes: Slice<UnsafeRawBufferPointer>, _ key: [UInt8]) -> Bool {
        let first = key.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        let bytes = UnsafeRawBufferPointer(rebasing: bytes)
        guard bytes.count >= key.count else { return false }
        for at in 0...bytes.count - key.count
        where bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self) == first {
            if bytes[at..<at + key.count].elementsEqual(key) { return true }
        }
        return false
    }

    /// The process's memory. Foundation reads nothing of a file of `/proc`, whose length is said to be zero.
    private static func maps(of process: pid_t) throws -> [Range<UInt64>] {
        let file = open("/proc/\(process)/maps", O_RDONLY)
        try #require(file >= 0)
        defer { close(file) }
        var bytes: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = read(file, &part, part.count), count > 0 { bytes += part[..<count] }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").filter { !$0.contains("[v") }.map { line in
            let bounds = line.prefix { $0 != " " }.split(separator: "-").map { UInt64($0, radix: 16)! }
            return bounds[0]..<bounds[1]
        }
    }
}
