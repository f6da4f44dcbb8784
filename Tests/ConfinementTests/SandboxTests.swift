import Confinement
import Foundation
import TestSupport
import Testing

/// Each attempt is made by a process of its own that has confined itself as a device node does.
@Suite(
    .enabled(if: Sandbox.available.files && Sandbox.available.calls, "needs a kernel with Landlock and seccomp"))
struct SandboxTests {
    @Test("a confined process still does what a node has to do", arguments: ["keep its own record", "start a thread"])
    func able(_ attempt: String) throws {
        #expect(try Confined(attempt).outcome == "done")
    }

    @Test("a process with several threads is not confined: a wall around one of them would be none")
    func threads() {
        let error = #expect(throws: SandboxError.self) { try Sandbox.available.enforce(writable: "/tmp") }
        #expect(error?.code == .threads)
    }

    @Test(
        "files outside its own folder are out of reach",
        arguments: [
            "read a file outside", "read its own memory as a file", "list a folder outside", "write a file outside",
        ])
    func files(_ attempt: String) throws {
        let confined = try Confined(attempt)
        #expect(confined.outcome == "EACCES")
        #expect(!confined.wroteOutside)
    }

    @Test(
        "what would widen its rights, or hide in its folder, is refused",
        arguments: [
            "make a folder", "make a link", "start a process", "signal another process",
            "make memory that can be run", "make its memory runnable", "allow core dumps", "become dumpable",
        ])
    func rights(_ attempt: String) throws {
        #expect(try Confined(attempt).outcome == "EPERM")
    }

    @Test(
        "a call that only foreign code would make ends the process",
        arguments: [
            "open a socket", "open a datagram socket", "open a local socket", "connect the socket it has",
            "run a program", "watch another process", "become somebody else",
        ])
    func fatal(_ attempt: String) throws {
        #expect(try Confined(attempt).outcome == "killed by signal \(SIGSYS)")
    }
}

private struct Confined {
    let outcome: String
    let wroteOutside: Bool

    init(_ attempt: String) throws {
        let base = FileManager.default.temporaryDirectory.appendingPathComponent("confined-\(UUID().uuidString)")
        let folder = base.appendingPathComponent("own")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: base) }
        let runner = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let process = Process()
        process.executableURL = URL(fileURLWithPath: runner).deletingLastPathComponent()
            .appendingPathComponent("confinement-probe")
        process.arguments = [folder.path, attempt]
        let output = Pipe()
        process.standardOutput = output
        try process.run()
        let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        outcome =
            switch process.terminationReason {
            case .uncaughtSignal: "killed by signal \(process.terminationStatus)"
            case .exit: text.trimmingCharacters(in: .newlines)
            @unknown default: "unknown"
            }
        wroteOutside = FileManager.default.fileExists(atPath: base.appendingPathComponent("outside").path)
    }
}
