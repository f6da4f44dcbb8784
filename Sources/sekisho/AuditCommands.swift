import ArgumentParser
import Foundation
import Gateway
import Vocabulary
import WebAPI

struct AuditCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "audit", abstract: "The trail: keys, list, show, search, export, verify.",
        subcommands: [Keygen.self, List.self, Show.self, Search.self, Export.self, Verify.self])

    struct Keygen: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make an auditor's or the recovery key pair; needs no home and should not be near one.")
        @Option(help: "The file for the private key; its public half is written beside it as FILE.pub.") var out: String
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            let publicKey = try AuditorKeyFile.generate(at: URL(fileURLWithPath: out))
            Answer(["public": .string(publicKey)], ["Public key: \(publicKey)"]).print(asJSON: json)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List records of the gateway, a request or a run, from the case records. Reading is recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Option(help: "Only this run.") var run: RunID?
        @Option(help: "Only this request.") var request: RequestID?
        @Option(help: "At most this many, the newest ones.") var most = 200

        func run() async throws {
            guard (1...100_000).contains(most) else { throw ValidationError("--most is from 1 to 100000") }
            var query: [(name: String, value: String)] = []
            if let run { query.append(("run", run.text)) }
            if let request { query.append(("request", request.text)) }
            try await options.withDesk(as: actor) { desk in
                var records: [JSON] = []
                var next: String?
                repeat {
                    let limit = min(most - records.count, 1000)
                    let page = try await desk.json(
                        .apiAuditRecords,
                        query: query + [("limit", "\(limit)")] + (next.map { [("after", $0)] } ?? []))
                    records += page["items"]?.arrayValue ?? []
                    next = page["next"]?.stringValue
                } while next != nil && records.count < most
                return Answer.timeline(records.reversed())
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show one record. Reading is recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The record's index in the trail.") var index: UInt64

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let record = try await desk.json(.apiAuditRecord, ["index": "\(index)"])
                var lines = [
                    "index \(record.number("index"))", "time \(record.text("time"))", "leaf \(record.text("leaf"))",
                ]
                for (name, value) in (record["core"]?.objectValue ?? [:]).sorted(by: { $0.key < $1.key }) {
                    lines.append("\(name) \(value.stringValue ?? value.canonicalText)")
                }
                return Answer(record, lines)
            }
        }
    }

    struct Search: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Search the case records; every condition must hold. Newest first. Searching is recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var conditions: SearchOptions
        @Option(help: "At most this many, 1 to 1000.") var most = 100
        @Option(help: "Go on below this index, as the page before said.") var after: UInt64?

        func run() async throws {
            var body = conditions.members
            body["limit"] = .integer(Int64(most))
            body["after"] = after.map { .integer(Int64(clamping: $0)) }
            try await options.withDesk(as: actor) { desk in
                Answer.found(try await desk.json(.apiAuditSearch, body: .object(body)))
            }
        }
    }

    struct Export: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Export the trail, or one run of it, for verification elsewhere. The export is itself recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Option(help: "Only this run.") var run: RunID?
        @Option(help: "The folder to make.") var out: String

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let body: JSON = run.map { ["run": .string($0.text)] } ?? [:]
                let unpacked = try await desk.unpack(
                    APICall(.apiAuditExport, body: body), into: URL(fileURLWithPath: out, isDirectory: true))
                let summary = unpacked.summary ?? [:]
                return Answer(
                    summary,
                    [
                        "Exported \(summary.number("entries")) entries, tree size \(summary.number("tree_size")), root \(summary.text("root"))."
                    ])
            }
        }
    }

    struct Verify: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Verify an export offline; needs no home. Any doubt ends with status 5 and names the entry.")
        @Argument(help: "The export's folder.") var folder: String
        @Option(
            help: "The trail's identity, as `sekisho init` printed it; from a source you trust, not from the export.")
        var trail: String
        @Option(help: "An auditor's private key file: entries are then opened and runs checked for completeness.")
        var key: String?
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            let result = try AuditVerification.verify(
                URL(fileURLWithPath: folder, isDirectory: true), trail: trail, key: key.map { URL(fileURLWithPath: $0) }
            )
            Answer(result.json, result.lines).print(asJSON: json)
        }
    }
}

/// What records are looked for by; the names are those of `AuditQuery`.
struct SearchOptions: ParsableArguments {
    @Option(help: "Who acted, or who was added.") var who: String?
    @Option(help: "The event, such as run.decided; audit/events.md lists them.") var what: String?
    @Option(help: "intent, done, refused or failed.") var outcome: String?
    @Option(help: "The data set.") var dataset: String?
    @Option(name: .customLong("dataset-version"), help: "The data set's version.") var version: String?
    @Option(help: "A person of the data: their consents and the runs whose image held them.") var subject: String?
    @Option(help: "The run.") var run: String?
    @Option(help: "The request.") var request: String?
    @Option(help: "permit, needs-human or refuse.") var decision: String?
    @Option(help: "The hash of the policy files that decided.") var policy: String?
    @Option(help: "The device node.") var device: String?
    @Option(help: "A reason code.") var reason: String?
    @Option(help: "A purpose code.") var purpose: String?
    @Option(help: "Not before this day or UTC time.") var from: String?
    @Option(help: "Not after this day or UTC time.") var to: String?

    var members: [String: JSON] {
        let pairs: [(String, String?)] = [
            ("who", who), ("what", what), ("outcome", outcome), ("dataset", dataset), ("version", version),
            ("subject", subject), ("run", run), ("request", request), ("decision", decision), ("policy", policy),
            ("device", device), ("reason", reason), ("purpose", purpose), ("from", from), ("to", to),
        ]
        return Dictionary(
            uniqueKeysWithValues: pairs.compactMap { name, value in value.map { (name, JSON.string($0)) } })
    }
}

/// `sekisho trace RUN`.
struct TraceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract: "Everything that led to a run, the run, and what came after. Looking is recorded.")
    @OptionGroup var options: HomeOptions
    @OptionGroup var actor: ActorOption
    @Argument(help: "The run's id.") var run: RunID

    func run() async throws {
        try await options.withDesk(as: actor) { desk in
            let steps = try await desk.json(.apiAuditTrace, ["run": run.text])["steps"]?.arrayValue ?? []
            return Answer(
                .array(steps), table(steps.map { [$0.text("part")] + ($0["record"] ?? [:]).recordRow(withCase: true) }))
        }
    }
}

extension Answer {
    fileprivate static func found(_ page: JSON) -> Answer {
        let records = page["items"]?.arrayValue ?? []
        let more = page["next"]?.stringValue.map { ["More: --after \($0)"] } ?? []
        return Answer(
            ["records": .array(records), "next": page["next"] ?? .null],
            (records.isEmpty ? ["No record has all of this."] : table(records.map { $0.recordRow(withCase: true) }))
                + more)
    }

    /// Records of one case, or of all.
    static func timeline(_ records: [JSON]) -> Answer {
        Answer(.array(records), table(records.map { $0.recordRow(withCase: false) }))
    }
}

extension JSON {
    /// A record as one row of a table.
    fileprivate func recordRow(withCase: Bool) -> [String] {
        let core = self["core"] ?? [:]
        return ["\(number("index"))", text("time")] + (withCase ? [text("case")] : [])
            + [
                core.text("event"), core.text("outcome"), core["actor"]?.stringValue ?? "-",
                core.texts("reasons").joined(separator: ", "),
            ]
    }

    // What an answer of the API holds; it is held to `openapi.yaml` where it is made.

    func text(_ name: String) -> String { self[name]?.stringValue ?? "" }
    func number(_ name: String) -> Int64 { self[name]?.integerValue ?? 0 }
    func texts(_ name: String) -> [String] { self[name]?.arrayValue?.compactMap(\.stringValue) ?? [] }
}
