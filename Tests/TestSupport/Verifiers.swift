package import Foundation

/// Python with the public verifiers and peers that tests compare with. `scripts/test` makes it and sets
/// `SEKISHO_VERIFIERS` to its folder; tests that need it are skipped elsewhere, and counted.
package enum Verifiers {
    package static let python: URL? = ProcessInfo.processInfo.environment["SEKISHO_VERIFIERS"].map {
        URL(fileURLWithPath: $0, isDirectory: true).appendingPathComponent("bin/python")
    }

    /// Runs a script to its end; standard output and error come back together.
    package static func run(script: URL, _ arguments: [String]) throws -> (status: Int32, output: String) {
        guard let python else { throw CocoaError(.executableNotLoadable) }
        let process = Process()
        process.executableURL = python
        process.arguments = [script.path] + arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }
}
