import ArgumentParser
import Foundation
import Gateway
import Vocabulary

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
            try await options.withGateway { gateway in
                let only: CaseID? = run.map(CaseID.run) ?? request.map(CaseID.request)
                return Answer.timeline(try await gateway.auditList(only, most: most, by: actor.person))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show one record. Reading is recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The record's index in the trail.") var index: UInt64

        func run() async throws {
            try await options.withGateway { gateway in
                let record = try await gateway.auditShow(index, by: actor.person)
                var lines = ["index \(record.index)", "time \(record.time)", "leaf \(record.leafHash.hex)"]
                for (name, value) in (record.core.objectValue ?? [:]).sorted(by: { $0.key < $1.key }) {
                    lines.append("\(name) \(value.stringValue ?? value.canonicalText)")
                }
                return Answer(
                    [
                        "index": .integer(Int64(record.index)), "leaf": .string(record.leafHash.hex),
                        "core": record.core,
                    ],
                    lines)
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
            let query = try conditions.query
            try await options.withGateway { gateway in
                Answer.page(try await gateway.searchAudit(query, after: after, limit: most, by: actor.person))
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
            try await options.withGateway { gateway in
                let summary = try await gateway.export(
                    ExportRequest(
                        run.map { .run($0) } ?? .whole, to: URL(fileURLWithPath: out, isDirectory: true)),
                    by: actor.person)
                return Answer(
                    ["entries": .integer(Int64(summary.entries)), "root": .string(summary.root.hex)],
                    ["Exported \(summary.entries) entries, tree size \(summary.treeSize), root \(summary.root.hex)."])
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

    var query: AuditQuery {
        get throws {
            let pairs: [(String, String?)] = [
                ("who", who), ("what", what), ("outcome", outcome), ("dataset", dataset), ("version", version),
                ("subject", subject), ("run", run), ("request", request), ("decision", decision), ("policy", policy),
                ("device", device), ("reason", reason), ("purpose", purpose), ("from", from), ("to", to),
            ]
            return try AuditQuery(parsing: pairs.compactMap { name, value in value.map { (name, $0) } })
        }
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
        try await options.withGateway { gateway in
            let steps = try await gateway.trace(run, by: actor.person)
            return Answer(
                .array(steps.map { ["part": .string($0.part.rawValue), "record": $0.hit.json] }),
                table(steps.map { [$0.part.rawValue] + $0.hit.row }))
        }
    }
}

extension AuditHit {
    var json: JSON {
        [
            "index": .integer(Int64(record.index)), "time": .string(record.time.description),
            "case": .string(id.description), "leaf": .string(record.leafHash.hex), "core": record.core,
        ]
    }

    var row: [String] {
        [
            "\(record.index)", record.time.description, id.description, record.eventName, record.outcomeName,
            record.actor?.text ?? "-", record.reasons.joined(separator: ", "),
        ]
    }
}

extension Answer {
    static func page(_ page: AuditPage) -> Answer {
        let more = page.next.map { ["More: --after \($0)"] } ?? []
        return Answer(
            [
                "records": .array(page.hits.map(\.json)),
                "next": page.next.map { .integer(Int64($0)) } ?? .null,
            ],
            (page.hits.isEmpty ? ["No record has all of this."] : table(page.hits.map(\.row))) + more)
    }
}
