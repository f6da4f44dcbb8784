package import AuditTrail
package import Vocabulary

/// What a record is about: the gateway itself, one access request, or one run.
package enum CaseID: Hashable, Sendable, CustomStringConvertible {
    case gateway
    case request(RequestID)
    case run(RunID)

    package var description: String {
        switch self {
        case .gateway: "gateway"
        case .request(let id): "request/\(id)"
        case .run(let id): "run/\(id)"
        }
    }

    init?(_ text: String) {
        if text == "gateway" {
            self = .gateway
        } else if text.hasPrefix("request/"), let id = try? RequestID(String(text.dropFirst(8))) {
            self = .request(id)
        } else if text.hasPrefix("run/"), let id = try? RunID(String(text.dropFirst(4))) {
            self = .run(id)
        } else {
            return nil
        }
    }
}

/// One durable record of a case: what the trail holds, and what only the gateway may read.
package struct CaseRecord: Sendable, Equatable {
    /// Its place in the trail.
    package let index: UInt64
    package let leafHash: Digest
    package let time: Timestamp
    /// Names the record within its case, so that a step that is repeated after a crash finds what it already wrote.
    package let key: String
    package let core: JSON
    package let payload: JSON
    package let event: AuditEvent
    package let outcome: AuditOutcome

    /// `nil` where the core's event or outcome is not one that is known here.
    init?(index: UInt64, leafHash: Digest, time: Timestamp, key: String, core: JSON, payload: JSON) {
        guard let event = core["event"]?.stringValue.flatMap(AuditEvent.init),
            let outcome = core["outcome"]?.stringValue.flatMap(AuditOutcome.init)
        else { return nil }
        self.index = index
        self.leafHash = leafHash
        self.time = time
        self.key = key
        self.core = core
        self.payload = payload
        self.event = event
        self.outcome = outcome
    }

    /// As the record spells them.
    package var eventName: String { event.rawValue }
    package var outcomeName: String { outcome.rawValue }
    package var reasons: [String] { core["reasons"]?.arrayValue?.compactMap(\.stringValue) ?? [] }
    /// The record as a researcher may see it before release: without losses and accuracies, `nil` for an epoch's summary.
    var withoutFigures: CaseRecord? {
        guard event != .trainingEpoch else { return nil }
        guard event == .runTrained, var members = core.objectValue, var detail = members["detail"]?.objectValue else {
            return self
        }
        detail = detail.filter { !$0.key.hasSuffix("_ppm") }
        members["detail"] = .object(detail)
        return CaseRecord(
            index: index, leafHash: leafHash, time: time, key: key, core: .object(members), payload: payload)
    }

    package var actor: PersonID? { core["actor"]?.stringValue.flatMap { try? PersonID($0) } }
    package var detail: JSON { core["detail"] ?? .object([:]) }
}

/// All records of one case, in the trail's order.
package struct CaseFile: Sendable {
    package let id: CaseID
    package private(set) var records: [CaseRecord] = []
    private var positions: [String: Int] = [:]
    /// How many epochs a run has behind it. Counted here, as the records of a long run are many and asked about often.
    private(set) var epochs = 0
    /// The first record that stops a run.
    private(set) var stop: CaseRecord?

    init(id: CaseID) { self.id = id }

    package subscript(key: String) -> CaseRecord? { positions[key].map { records[$0] } }

    package var keys: [String] { records.map(\.key) }

    mutating func append(_ record: CaseRecord) {
        positions[record.key] = records.count
        records.append(record)
        if record.event == .trainingEpoch { epochs += 1 }
        if stop == nil, RunCase.stops(record) { stop = record }
    }
}
