import AuditTrail
package import Vocabulary

/// A run as its durable records tell it.
package struct RunCase: Sendable {
    package let id: RunID
    package let file: CaseFile

    /// Keys of the records that a run can have. Epochs are `epoch.1`, `epoch.2`, …; reviews `reviewed.PERSON`.
    enum Key {
        static let requested = "requested"
        static let decided = "decided"
        static let opening = "opening"
        static let opened = "opened"
        static let leasing = "leasing"
        static let leased = "leased"
        static let planned = "planned"
        static let loading = "loading"
        static let trained = "trained"
        static let scrubbing = "scrubbing"
        static let scrubbed = "scrubbed"
        static let checked = "checked"
        static let releaseDecided = "release-decided"
        static let ready = "ready"
        static let closed = "closed"
        static let cancelled = "cancelled"
        static let stopped = "stopped"
        // A run that loses a device has these once more for each that takes its place: `lost.1`, `leasing.1`, …
        static func lost(_ number: Int) -> String { "lost.\(number)" }
        static func redecided(_ losses: Int) -> String { "redecided.\(losses)" }
        static func leasing(_ losses: Int) -> String { losses == 0 ? leasing : "leasing.\(losses)" }
        static func keyReleased(_ losses: Int) -> String { losses == 0 ? "key-released" : "key-released.\(losses)" }
        static func leased(_ losses: Int) -> String { losses == 0 ? leased : "leased.\(losses)" }
        static func resumed(_ losses: Int) -> String { "resumed.\(losses)" }
        static func epoch(_ number: Int) -> String { "epoch.\(number)" }
        static func reviewed(_ person: PersonID) -> String { "reviewed.\(person)" }
        static func shown(_ figure: String) -> String { "shown.\(figure)" }
    }

    /// What has to be done next; `.closed` until the closing record is there means: close it.
    package var nextStage: RunStage {
        if isClosed { return .closed }
        // A node that refused the lease has nothing of the run.
        let holdsDevice =
            file[Key.leasing] != nil && file[Key.leased]?.outcome != .refused && file[Key.scrubbed] == nil
        if stopped { return holdsDevice ? .scrub : .closed }
        if file[Key.decided] == nil { return .decide }
        if file[Key.opened] == nil { return .open }
        if file[Key.leased] == nil { return .attach }
        if file[Key.planned] == nil { return .plan }
        if file[Key.trained] == nil { return .train }
        if file[Key.scrubbed] == nil { return .scrub }
        if file[Key.releaseDecided] == nil { return .review }
        if file[Key.ready] == nil { return .release }
        return .closed
    }

    package var isClosed: Bool { file[Key.closed] != nil }

    /// Its figures may be seen by the researcher, and its artefacts taken.
    package var isReleased: Bool { file[Key.ready]?.outcome == .done }

    /// A stage said no or broke; a scrub without proof is told by its record but does not stop the run.
    var stopped: Bool { stop != nil }

    static func stops(_ record: CaseRecord) -> Bool {
        (record.outcome == .refused || record.outcome == .failed)
            && ![AuditEvent.deviceScrubbed, .windowRefused, .releaseReviewed, .runClosed, .progressShown].contains(
                record.event)
    }

    package var end: RunEnd? {
        file[Key.closed]?.detail["end"]?.stringValue.flatMap(RunEnd.init)
    }

    package var researcher: PersonID { file[Key.requested]!.actor! }
    package var dataset: DatasetID { file.records[0].core["dataset"]!.stringValue.flatMap { try? DatasetID($0) }! }
    package var version: VersionID { file.records[0].core["version"]!.stringValue.flatMap { try? VersionID($0) }! }

    package var root: Digest { file.records[0].core["root"]!.stringValue.flatMap(Digest.init(hex:))! }

    /// Codes of whatever stopped the run; empty for one that went well.
    package var stopReasons: [String] { stop?.reasons ?? [] }

    /// The same in sentences, for whoever asked for the run.
    package var stopWords: [String] {
        guard let stop else { return [] }
        if let explanation = stop.payload["explanation"]?.stringValue { return [explanation] }
        return GatewayReason.read(stop).map(\.text)
    }

    /// The record of the stage that said no or broke.
    var stop: CaseRecord? { file.stop }

    var epochsRecorded: Int { file.epochs }
}
