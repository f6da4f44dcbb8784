import Glibc
package import Logging
package import Vocabulary

/// Writes one JSON object per event on standard error, for a journal or a collector.
package struct LogLines: LogHandler {
    package var logLevel: Logger.Level
    package var metadata: Logger.Metadata = [:]
    private let label: String
    private let clock: any WallClock
    private let write: @Sendable ([UInt8]) -> Void

    /// - Parameter write: takes a whole line with its line feed.
    package init(
        label: String, level: Logger.Level, clock: any WallClock,
        write: @escaping @Sendable ([UInt8]) -> Void = LogLines.toStandardError
    ) {
        self.label = label
        logLevel = level
        self.clock = clock
        self.write = write
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        var members: [String: JSON] = [
            "time": .string(clock.now().description), "level": .string(event.level.rawValue), "log": .string(label),
            "event": .string(Self.clean("\(event.message)")),
        ]
        let all = metadata.merging(event.metadata ?? [:]) { _, new in new }
        for (name, value) in all where members[name] == nil && members.count < 32 {
            members[name] = .string(Self.clean("\(value)"))
        }
        write(JSON.object(members).canonical + [UInt8(ascii: "\n")])
    }

    /// A line stays a line whatever a library puts into it.
    private static func clean(_ text: String) -> String { String(text.prefix(512)) }

    /// One write for one line, so that lines of several threads do not mix.
    package static func toStandardError(_ line: [UInt8]) {
        _ = line.withUnsafeBytes { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
