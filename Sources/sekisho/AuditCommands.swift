import ArgumentParser
import Foundation
import Gateway
import Vocabulary
import WebAPI

struct AuditCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "audit", abstract: "The trail: keys, list, show, search, export, open, verify, report.",
        subcommands: [
            Keygen.self, Identity.self, List.self, Show.self, Search.self, Export.self, Open.self, Verify.self,
            Report.self,
        ])

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
            abstract: "Search the case records, newest first, or an export, oldest first; every condition must hold.",
            discussion: """
                Of a home or a service: searching is recorded.
                Of an export, where the auditor works: EXPORT --trail --key; the export is verified first.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var conditions: SearchOptions
        @Argument(help: "An export's folder; left out to search a home or service.") var export: String?
        @Option(help: "With an export: the trail's identity, from a source you trust.") var trail: String?
        @Option(help: "With an export: an auditor's private key file.") var key: String?
        @Option(help: "At most this many, 1 to 1000.") var most = 100
        @Option(help: "Go on below this index, as the page before said.") var after: UInt64?

        func run() async throws {
            if let export {
                guard let trail, let key else { throw ValidationError("an export is searched with --trail and --key") }
                let query = try AuditQuery(parsing: conditions.members.map { ($0.key, $0.value.stringValue ?? "") })
                let hits = try AuditVerification.search(
                    URL(fileURLWithPath: export, isDirectory: true), trail: trail, key: URL(fileURLWithPath: key),
                    query: query, most: most)
                Answer.found(["items": .array(hits.map(\.json))]).print(asJSON: options.json)
                return
            }
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
            abstract: "Export the trail, or a part of it, for verification elsewhere. The export is itself recorded.",
            discussion: """
                --out FOLDER holds the sealed entries, their proofs and the policy files. --out FILE.age is one sealed
                file, for the home's auditors or those given with --recipient, and holds tables, FHIR audit events and
                reports in clear inside. Of a home, either goes on when it is asked for again after an interruption.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Option(help: "Only this run.") var run: RunID?
        @Option(help: "Only this data set.") var dataset: DatasetID?
        @Option(help: "Only what concerns this person of the data set.") var subject: String?
        @Option(help: "Only from this day or UTC time on.") var from: String?
        @Option(help: "Only to this day or UTC time.") var to: String?
        @Option(help: "An age recipient (age1… or age1pq1…) of a sealed file; may be repeated.")
        var recipient: [String] = []
        @Option(help: "The folder to make, or a file whose name ends in .age.") var out: String

        func run() async throws {
            let scope = try scope()
            guard try options.isService else { return try await exportHome(scope) }
            let isSealed = out.hasSuffix(".age")
            guard isSealed || recipient.isEmpty else {
                throw ValidationError("an export for recipients is one file whose name ends in .age")
            }
            let pairs = [
                ("run", run?.text), ("dataset", dataset?.text), ("subject", subject), ("from", from), ("to", to),
            ]
            var body: [String: JSON] = [:]
            for (name, value) in pairs { body[name] = value.map(JSON.string) }
            if isSealed { body["sealed"] = true }
            if !recipient.isEmpty { body["recipients"] = .array(recipient.map(JSON.string)) }
            try await options.withDesk(as: actor) { desk in
                let call = APICall(.apiAuditExport, body: .object(body))
                let summary =
                    isSealed
                    ? try await desk.fetch(call, into: URL(fileURLWithPath: out))
                    : try await desk.unpack(call, into: URL(fileURLWithPath: out, isDirectory: true)).summary
                return Self.answer(summary ?? [:])
            }
        }

        private static func answer(_ summary: JSON) -> Answer {
            Answer(
                summary,
                [
                    "Exported \(summary.number("entries")) entries, tree size \(summary.number("tree_size")), root \(summary.text("root"))."
                ])
        }

        private func exportHome(_ scope: ExportRequest.Scope) async throws {
            try await options.withGateway { gateway in
                let request = ExportRequest(scope, to: URL(fileURLWithPath: out), recipients: recipient)
                let summary = try await gateway.export(request, by: actor.required) { progress in
                    ProgressLine.show(
                        (name: "export", done: Int(progress.done), of: Int(progress.of), words: progress.stage.rawValue)
                    )
                }
                ProgressLine.finish()
                return Self.answer([
                    "entries": .integer(Int64(summary.entries)), "tree_size": .integer(Int64(summary.treeSize)),
                    "root": .string(summary.root.hex),
                ])
            }
        }

        private func scope() throws -> ExportRequest.Scope {
            guard
                let scope = try ExportRequest.Scope(run: run, dataset: dataset, subject: subject, from: from, to: to)
            else {
                throw ValidationError("choose one: --run, --dataset, --subject with --dataset, or --from and --to")
            }
            return scope
        }
    }

    struct Open: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Unpack a sealed export where the auditor works; needs no home. Then verify the folder.")
        @Argument(help: "The export, FILE.age.") var file: String
        @Option(help: "An auditor's private key file, or a file with an age identity.") var key: String
        @Option(help: "The folder to make.") var out: String
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            try SealedExport.open(
                URL(fileURLWithPath: file), key: URL(fileURLWithPath: key),
                into: URL(fileURLWithPath: out, isDirectory: true))
            Answer(["opened": true], ["Unpacked; it is not verified yet."]).print(asJSON: json)
        }
    }

    struct Report: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make tables, FHIR audit events and reports from a verified export; needs no home.")
        @Argument(help: "The export's folder.") var folder: String
        @Option(help: "The trail's identity, from a source you trust.") var trail: String
        @Option(help: "An auditor's private key file.") var key: String
        @Option(help: "The folder to make.") var out: String
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            let names = try AuditVerification.documents(
                URL(fileURLWithPath: folder, isDirectory: true), trail: trail, key: URL(fileURLWithPath: key),
                into: URL(fileURLWithPath: out, isDirectory: true))
            Answer(.array(names.map(JSON.string)), names).print(asJSON: json)
        }
    }

    struct Identity: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write an auditor's private key in the form that age programs read, and print its recipient.")
        @Argument(help: "The private key file.") var key: String
        @Option(help: "The file to make, for `age -d -i FILE`.") var out: String
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            let recipient = try AuditorKeyFile.writeIdentity(
                of: URL(fileURLWithPath: key), to: URL(fileURLWithPath: out))
            Answer(["recipient": .string(recipient)], ["Recipient: \(recipient)"]).print(asJSON: json)
        }
    }

    struct Verify: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Verify an export offline; needs no home. Any doubt ends with status 5 and names the entry.",
            discussion: """
                --trust names your own trust file (C2SP tlog-policy): lines `log KEY`, `witness NAME KEY`, `group NAME
                NUMBER|any|all NAME…` and `quorum NAME`. Then the head must have the cosignatures that it asks for, no
                entry may be dated otherwise than the witnesses saw, and the answer tells between which of their sights
                each run was written.
                """)
        @Argument(help: "The export's folder.") var folder: String
        @Option(
            help: "The trail's identity, as `sekisho init` printed it; from a source you trust, not from the export.")
        var trail: String?
        @Option(help: "Your own trust file: which log, and whose cosignatures its head must have.") var trust: String?
        @Option(help: "An auditor's private key file: entries are then opened and runs checked for completeness.")
        var key: String?
        @Flag(help: "The exported run may still be going on.") var openRun = false
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            let result = try AuditVerification.verify(
                URL(fileURLWithPath: folder, isDirectory: true), trail: trail,
                key: key.map { URL(fileURLWithPath: $0) }, trust: trust.map { URL(fileURLWithPath: $0) },
                allowsOpenRun: openRun)
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
    @Option(help: "A person of the data: their consents and runs. In an export: the pseudonym.") var subject: String?
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

extension AuditHit {
    /// As the API shows a record.
    fileprivate var json: JSON {
        [
            "index": .integer(Int64(record.index)), "time": .string(record.time.description),
            "case": .string(id.description), "leaf": .string(record.leafHash.hex), "core": record.core,
        ]
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
