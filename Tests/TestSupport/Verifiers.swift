package import Foundation

/// Python with the public verifiers and peers that tests compare with. `scripts/test` makes it and sets
/// `SEKISHO_VERIFIERS` to its folder; tests that need it are skipped elsewhere, and counted.
package enum Verifiers {
    package static let python = program("python")

    /// A program that is installed there.
    package static func program(_ name: String) -> URL? {
        guard let folder = ProcessInfo.processInfo.environment["SEKISHO_VERIFIERS"] else { return nil }
        let program = URL(fileURLWithPath: folder, isDirectory: true).appendingPathComponent("bin/\(name)")
        return FileManager.default.isExecutableFile(atPath: program.path) ? program : nil
    }

    /// Runs a script to its end; standard output and error come back together.
    package static func run(script: URL, _ arguments: [String]) throws -> (status: Int32, output: String) {
        guard let python else { throw CocoaError(.executableNotLoadable) }
        return try run(python, [script.path] + arguments)
    }

    /// Runs a program to its end; standard output and error come back together.
    package static func run(_ program: URL, _ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = Process()
        process.executableURL = program
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }
}
