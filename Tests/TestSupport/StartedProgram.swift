import Foundation
package import Vocabulary

/// A program that a test started, and what it has written so far.
package final class StartedProgram {
    package enum Output: Sendable { case standardOutput, standardError }

    private let process = Process()
    private let pipe = Pipe()
    private var read = ""

    package struct EndedFirst: Error, CustomStringConvertible {
        package let description: String
    }

    /// Starts `sekisho`.
    package convenience init(
        _ arguments: [String], environment: [String: String] = [:], output: Output = .standardError
    ) throws {
        try self.init(tool: Self.path(of: "sekisho"), arguments, environment: environment, output: output)
    }

    /// One of the package's programs, beside the test runner, where the build puts it.
    package static func path(of program: String) throws -> String {
        let runner = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        return URL(fileURLWithPath: runner).deletingLastPathComponent().appendingPathComponent(program).path
    }

    package init(
        tool: String, _ arguments: [String], environment: [String: String] = [:], output: Output = .standardError
    ) throws {
        process.executableURL = URL(fileURLWithPath: tool)
        process.arguments = arguments
        process.environment = environment
        process.standardOutput = output == .standardOutput ? pipe : FileHandle.nullDevice
        process.standardError = output == .standardError ? pipe : FileHandle.nullDevice
        try process.run()
    }

    deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

    /// Reads on until a line says what is looked for.
    package func line(where fits: (JSON) -> Bool) throws -> JSON {
        while true {
            if let found = try lines.first(where: fits) { return found }
            let data = pipe.fileHandleForReading.availableData
            guard !data.isEmpty else { throw EndedFirst(description: "the program ended first: \(read)") }
            read += String(decoding: data, as: UTF8.self)
        }
    }

    /// The whole lines so far, as JSON.
    package var lines: [JSON] {
        get throws {
            try read[..<(read.lastIndex(of: "\n") ?? read.startIndex)].split(separator: "\n")
                // What the program says to whoever stops it at a terminal is not a log line.
                .filter { !$0.hasPrefix("sekisho: stopping") }
                .map { try JSON(parsing: String($0)) }
        }
    }

    /// Lets it write whatever it will from here on, unread, so that it never waits for a reader.
    package func drain() { pipe.fileHandleForReading.readabilityHandler = { _ = $0.availableData } }

    package var text: String { read }
    package var processIdentifier: Int32 { process.processIdentifier }
    package func terminate() { process.terminate() }

    /// Waits for the end, having read everything.
    package func status() -> Int32 {
        pipe.fileHandleForReading.readabilityHandler = nil
        read += String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        return process.terminationStatus
    }
}
