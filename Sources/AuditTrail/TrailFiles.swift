/// Names of files, relative to the trail's folder (and, for the anchor, to its own).
enum TrailFiles {
    static let logFolder = "log"
    static let checkpointsFolder = "log/checkpoints"
    static let checkpoint = "log/checkpoint"
    static let identity = "trail.vkey"
    /// `SigningPeriods.bytes`; there is none while the log's first key signs.
    static let periods = "trail.periods"
    static let anchor = "anchor"

    static func log(_ path: String) -> String { "\(logFolder)/\(path)" }
    static func checkpoint(_ size: UInt64) -> String { "\(checkpointsFolder)/\(size)" }
}
