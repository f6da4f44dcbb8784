import ArgumentParser
import Foundation
import Gateway
import Vocabulary

struct AuditCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "audit", abstract: "The trail: keys, list, show, export, verify.",
        subcommands: [Keygen.self, List.self, Show.self, Export.self, Verify.self])

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

    struct Export: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Export the trail, or one run of it, for verification elsewhere. The export is itself recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Option(help: "Only this run.") var run: RunID?
        @Option(help: "The folder to make.") var out: String

        func run() async throws {
            try await options.withGateway { gateway in
                let summary = try await gateway.exportAudit(
                    run: run, to: URL(fileURLWithPath: out, isDirectory: true), by: actor.person)
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
