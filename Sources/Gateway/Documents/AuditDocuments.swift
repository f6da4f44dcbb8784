import AuditTrail
import TransparencyLog
import Vocabulary

/// A record as the documents of an export tell it: all of it is in the trail, so that whoever opens the trail's
/// entries can make the same documents again, byte for byte, and compare.
struct DocumentRecord {
    let index: UInt64
    let time: Timestamp
    let leafHash: Digest
    let core: JSON

    var event: String { core["event"]?.stringValue ?? "" }
    var outcome: String { core["outcome"]?.stringValue ?? "" }
    var decision: String? { core["decision"]?.stringValue }
    var reasons: [String] { core["reasons"]?.arrayValue?.compactMap(\.stringValue) ?? [] }
    func text(_ member: String) -> String? { core[member]?.stringValue }

    /// Whether an entry is told in documents: what the trail writes about itself is not.
    static func isTold(_ header: LeafHeader, core: JSON?) -> Bool {
        switch header.kind {
        case .record: true
        case .eraClosed: core?["event"]?.stringValue == AuditEvent.runClosed.rawValue
        case .eraOpened, .trail: false
        }
    }
}

/// What an export is of, for the heads of its documents.
struct DocumentSubject {
    let origin: String
    let scope: String
    let run: String?
    let dataset: String?
    let size: UInt64
    let root: Digest
    let made: Timestamp
}

/// The clear documents of an export: tables, FHIR audit events, reports in two languages and, for a run, an RO-Crate.
/// Records come in the log's order; nothing but counts and the lists of a report is kept, so that an export may be of
/// any length.
struct AuditDocuments {
    typealias Put = (_ name: String, _ bytes: [UInt8]) throws -> Void

    /// Records in one file, so that a file never grows beyond some megabytes.
    private static let partRecords = 5_000

    private let subject: DocumentSubject
    private var table: [UInt8] = []
    private var events: [JSON] = []
    private var part = 0
    private var report: AuditReport
    private var crate: RunCrate?
    private var names: [String] = []

    init(_ subject: DocumentSubject) {
        self.subject = subject
        report = AuditReport(subject)
        crate = subject.run.map { RunCrate(run: $0, subject) }
    }

    mutating func add(_ record: DocumentRecord, put: Put) throws {
        if table.isEmpty { table = RecordTable.head }
        table += RecordTable.row(record)
        events.append(FHIRAuditEvent(record, origin: subject.origin).entry)
        report.add(record)
        crate?.add(record)
        if events.count == Self.partRecords { try endPart(put) }
    }

    mutating func finish(put: Put) throws {
        if !events.isEmpty || part == 0 { try endPart(put) }
        for language in AuditReport.Language.allCases {
            try write("report.\(language.rawValue).html", Array(report.html(language).utf8), put)
        }
        if let crate { try write(RunCrate.fileName, crate.json(files: names).canonical, put) }
    }

    private mutating func endPart(_ put: Put) throws {
        part += 1
        let digits = String(part)
        let number = String(repeating: "0", count: max(0, 4 - digits.count)) + digits
        try write("records-\(number).csv", table.isEmpty ? RecordTable.head : table, put)
        let bundle = FHIRAuditEvent.bundle(events, part: part, subject)
        try write("audit-events-\(number).fhir.json", bundle.canonical, put)
        table = []
        events = []
    }

    private mutating func write(_ name: String, _ bytes: [UInt8], _ put: Put) throws {
        names.append(name)
        try put(name, bytes)
    }
}

/// Records as comma-separated values (RFC 4180).
enum RecordTable {
    private static let members = [
        "event", "outcome", "run", "actor", "purpose", "dataset", "version", "root", "policy", "input", "decision",
        "reasons", "device", "evidence", "lease", "fence", "sequence", "previous", "count", "detail",
    ]

    static let head = Array((["index", "time", "leaf"] + members).joined(separator: ",").utf8) + [0x0D, 0x0A]

    static func row(_ record: DocumentRecord) -> [UInt8] {
        let cells =
            ["\(record.index)", record.time.description, record.leafHash.hex]
            + members.map { member in
                switch record.core[member] {
                case nil: ""
                case .string(let text)?: text
                case .array(let values)?: values.map { $0.stringValue ?? $0.canonicalText }.joined(separator: " ")
                case let value?: value.canonicalText
                }
            }
        return Array(cells.map(cell).joined(separator: ",").utf8) + [0x0D, 0x0A]
    }

    /// Quoted where it must be. A cell that a spreadsheet would take for a formula is made text.
    private static func cell(_ text: String) -> String {
        var text = text
        if let first = text.unicodeScalars.first, "=+-@\t\r".unicodeScalars.contains(first) { text = "'" + text }
        guard text.contains(where: { ",\"\r\n".contains($0) }) else { return text }
        return "\"" + text.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
    }
}
