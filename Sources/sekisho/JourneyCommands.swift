import ArgumentParser
import Foundation
import Gateway
import Vocabulary

struct RequestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "request", abstract: "Access requests: file, review, list.",
        subcommands: [File.self, Review.self, Resume.self, List.self, Show.self])

    struct File: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Ask for access to a data set.",
            discussion: "The form is a JSON file; config/requests holds examples. The answer may come at once.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request form (JSON).") var form: String

        func run() async throws {
            try await options.withGateway { gateway in
                let text = try GatewayFile.read(URL(fileURLWithPath: form), role: "request form")
                let id = try await gateway.fileRequest(text, by: actor.person)
                let progress = try await gateway.advance(id)
                return Answer.request(id, progress)
            }
        }
    }

    struct Review: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Approve or reject a request.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID
        @Argument(help: "approve or reject.") var verdict: Verdict
        @Option(help: "Why; kept with the record.") var comment = ""

        func run() async throws {
            try await options.withGateway { gateway in
                try await gateway.review(request, verdict, comment: comment, by: actor.person)
                return Answer.request(request, try await gateway.advance(request))
            }
        }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Go on with a request from what is durable, after a crash or a change of policy.")
        @OptionGroup var options: HomeOptions
        @Argument(help: "The request's id.") var request: RequestID

        func run() async throws {
            try await options.withGateway { gateway in Answer.request(request, try await gateway.advance(request)) }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the requests and who has them now.")
        @OptionGroup var options: HomeOptions

        func run() async throws {
            try await options.withGateway { gateway in
                let requests = try await gateway.requests()
                return Answer(
                    .array(requests.map(\.json)),
                    table(requests.map { [$0.id.text, $0.dataset.text, $0.requester.text, $0.state] }))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show a request's timeline.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID

        func run() async throws {
            try await options.withGateway { gateway in
                Answer.timeline(try await gateway.timeline(.request(request), by: actor.person))
            }
        }
    }
}

extension Verdict: ExpressibleByArgument {}

extension RequestSummary {
    fileprivate var json: JSON {
        [
            "request": .string(id.text), "dataset": .string(dataset.text), "requester": .string(requester.text),
            "state": .string(state),
        ]
    }
}

extension Answer {
    static func request(_ id: RequestID, _ progress: RequestProgress) -> Answer {
        switch progress {
        case .waiting(let who):
            return Answer(
                ["request": .string(id.text), "state": "waiting", "waiting_for": .string(who)],
                ["Request \(id) waits for \(who)."])
        case .decided(.granted(let grant)):
            return Answer(
                ["request": .string(id.text), "state": "granted", "grant": .string(grant.text)],
                ["Request \(id) is granted: grant \(grant)."])
        case .decided(.refused(let reasons)):
            return Answer(
                [
                    "request": .string(id.text), "state": "refused",
                    "reasons": .array(reasons.map { .string($0.code) }),
                ],
                ["Request \(id) is refused:"] + reasons.map { "  \($0.code): \($0.text)" },
                failure: .refusedRequest)
        }
    }

    static func timeline(_ records: [CaseRecord]) -> Answer {
        Answer(
            .array(
                records.map {
                    [
                        "index": .integer(Int64($0.index)), "time": .string($0.time.description),
                        "key": .string($0.key), "core": $0.core,
                    ]
                }),
            table(
                records.map { record in
                    [
                        "\(record.index)", record.time.description, record.eventName, record.outcomeName,
                        record.actor?.text ?? "", record.reasons.joined(separator: ", "),
                    ]
                }))
    }
}

struct GrantCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "grant", abstract: "Grants: what was allowed, until when.", subcommands: [List.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the grants.")
        @OptionGroup var options: HomeOptions

        func run() async throws {
            try await options.withGateway { gateway in
                let grants = try await gateway.grants()
                return Answer(
                    .array(
                        grants.map {
                            [
                                "grant": .string($0.id.text), "dataset": .string($0.dataset.text),
                                "researcher": .string($0.researcher.text), "expires": .string($0.expires.description),
                            ]
                        }),
                    table(grants.map { [$0.id.text, $0.dataset.text, $0.researcher.text, "until \($0.expires)"] }))
            }
        }
    }
}

struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Training runs: start, resume, show, report.",
        subcommands: [Start.self, Resume.self, Advance.self, List.self, Show.self, Times.self, Plan.self, Report.self])

    struct Start: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Start a run of a declared model, and follow it as far as it goes without a person.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The model specification (YAML); config/specs holds examples.") var spec: String
        @Option(help: "The grant it stands on.") var grant: GrantID
        @Option(help: "The run's id; made up when left out.") var id: RunID?
        @Option(
            help: "Device memory it may take: bytes, or such as 512KiB, 64MiB, 2GiB; the node's limit when left out.")
        var deviceMemory: ByteCount?

        func run() async throws {
            try await options.withGateway { gateway in
                let text = try GatewayFile.read(URL(fileURLWithPath: spec), role: "model specification")
                let run = try await gateway.requestRun(
                    specification: text, grant: grant, id: id, deviceMemory: deviceMemory?.bytes, by: actor.person)
                return try await follow(run, gateway, json: options.json)
            }
        }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Go on with a run from what is durable, after a crash or a review.")
        @OptionGroup var options: HomeOptions
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withGateway { gateway in try await follow(run, gateway, json: options.json) }
        }
    }

    struct Advance: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Do one step of a run.")
        @OptionGroup var options: HomeOptions
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withGateway { gateway in
                Answer.run(run, try await gateway.advance(run), try await gateway.runCase(run))
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the runs and their stages.")
        @OptionGroup var options: HomeOptions

        func run() async throws {
            try await options.withGateway { gateway in
                let runs = try await gateway.runs()
                return Answer(
                    .array(
                        runs.map {
                            [
                                "run": .string($0.id.text), "dataset": .string($0.dataset.text),
                                "researcher": .string($0.researcher.text), "stage": .string($0.nextStage.rawValue),
                            ]
                        }),
                    table(
                        runs.map {
                            [
                                $0.id.text, $0.dataset.text, $0.researcher.text,
                                $0.end?.rawValue ?? $0.nextStage.rawValue,
                            ]
                        }))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show a run's records.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withGateway { gateway in
                Answer.timeline(try await gateway.timeline(.run(run), by: actor.person))
            }
        }
    }

    struct Times: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Tell how long each stage of a run took.")
        @OptionGroup var options: HomeOptions
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withGateway { gateway in
                let stages = RunTimeline(try await gateway.runCase(run).file).stages
                return Answer(
                    .array(
                        stages.map {
                            [
                                "stage": .string($0.stage.rawValue),
                                "milliseconds": .integer(Int64(($0.seconds * 1000).rounded())),
                            ]
                        }),
                    table(stages.map { [$0.stage.rawValue, "\(Int(($0.seconds * 1000).rounded())) ms"] }))
            }
        }
    }

    struct Plan: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show a run's training plan: what lies where, and why not otherwise.")
        @OptionGroup var options: HomeOptions
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withGateway { gateway in
                let plan = try await gateway.recordedPlan(of: run)
                return Answer(plan.json, [plan.table])
            }
        }
    }

    struct Report: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write a run's report: journey timeline, loss, memory by tier (HTML with pictures).")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID
        @Option(help: "The HTML file to write.") var out: String

        func run() async throws {
            try await options.withGateway { gateway in
                let page = try await gateway.report(run, by: actor.person)
                try GatewayFile.write(Array(page.utf8), to: URL(fileURLWithPath: out), role: "report")
                return Answer(["written": true], ["The report is written."])
            }
        }
    }
}

/// Bytes as people write them: 1048576, 512KiB, 64MiB, 2GiB.
struct ByteCount: ExpressibleByArgument {
    let bytes: Int

    init?(argument: String) {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)]
        let unit = units.first { argument.hasSuffix($0.0) }
        guard let number = Int(unit.map { String(argument.dropLast($0.0.count)) } ?? argument), number > 0,
            number <= Int.max >> (unit?.1 ?? 0)
        else { return nil }
        bytes = number << (unit?.1 ?? 0)
    }
}

/// Follows a run, showing stages and epochs, as far as it goes without a person.
private func follow(_ run: RunID, _ gateway: Gateway, json: Bool) async throws -> Answer {
    let events = try await gateway.follow(run, by: try await gateway.runCase(run).researcher)
    let showing = Task {
        for await event in events {
            switch event {
            case .epoch(let progress): ProgressLine.show(("train", progress.epoch, progress.epochs, progress.words))
            case .stage, .held, .waiting, .closed: ProgressLine.finish()
            }
        }
    }
    defer { showing.cancel() }
    let progress = try await gateway.advanceAsFarAsPossible(run) { stage in
        complain("stage \(stage.rawValue)", prefix: "")
    }
    ProgressLine.finish()
    return Answer.run(run, progress, try await gateway.runCase(run))
}

extension Answer {
    static func run(_ id: RunID, _ progress: RunProgress, _ run: RunCase) -> Answer {
        switch progress {
        case .moved(let stage):
            return Answer(
                ["run": .string(id.text), "stage": .string(stage.rawValue)], ["Run \(id): next is \(stage.rawValue)."])
        case .waiting(let who):
            return Answer(
                ["run": .string(id.text), "stage": "review", "waiting_for": .string(who)],
                ["Run \(id) waits: \(who)."])
        case .closed(let end):
            let reasons = run.stopReasons
            return Answer(
                [
                    "run": .string(id.text), "stage": "closed", "end": .string(end.rawValue),
                    "reasons": .array(reasons.map(JSON.string)),
                ],
                [
                    "Run \(id) is closed: \(end.rawValue)\(reasons.isEmpty ? "" : " (\(reasons.joined(separator: ", ")))")."
                ] + run.stopWords.map { "  \($0)" },
                failure: end.failure)
        }
    }
}

extension EpochProgress {
    /// Seconds left, and the figures that may be shown.
    fileprivate var words: String {
        let shown = figures.map { ", \($0.name) \(Double($0.thousandths) / 1000)" }.joined()
        return "about \(secondsLeft) s left\(shown)"
    }
}

extension RunEnd {
    fileprivate var failure: GatewayError? {
        switch self {
        case .released: nil
        case .refused, .cancelled: .refusedRun
        case .failed: .failedRun
        }
    }
}

struct ReleaseCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "release", abstract: "Releases: review a candidate, take what was released.",
        subcommands: [Show.self, Review.self, Take.self])

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show the checks and artefacts of a candidate.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withGateway { gateway in
                let candidate = try await gateway.candidate(of: run, by: actor.person)
                return Answer(
                    [
                        "candidate": .string(candidate.hash.hex),
                        "artefacts": .array(
                            candidate.artefacts.map { ["name": .string($0.name), "bytes": .integer(Int64($0.bytes))] }),
                        "checks": .array(
                            candidate.checks.map {
                                ["check": .string($0.name), "passed": .bool($0.passed), "finding": .string($0.finding)]
                            }),
                    ],
                    ["Candidate \(candidate.hash.hex)"]
                        + candidate.artefacts.map { "  \($0.name), \($0.bytes) bytes" }
                        + candidate.checks.map { "  \($0.passed ? "passed" : "FAILED") \($0.name): \($0.finding)" })
            }
        }
    }

    struct Review: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Approve or reject the release of a candidate.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID
        @Argument(help: "approve or reject.") var verdict: Verdict
        @Option(help: "The candidate's hash as it was reviewed; it must be the one that waits.") var candidate: String?

        func run() async throws {
            try await options.withGateway { gateway in
                try await gateway.reviewRelease(of: run, verdict, candidate: candidate, by: actor.person)
                return Answer.run(
                    run, try await gateway.advanceAsFarAsPossible(run), try await gateway.runCase(run))
            }
        }
    }

    struct Take: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take a released model out, byte for byte as reviewed.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID
        @Option(help: "The folder to write it to.") var out: String

        func run() async throws {
            try await options.withGateway { gateway in
                let artefacts = try await gateway.takeRelease(of: run, by: actor.person)
                let folder = URL(fileURLWithPath: out, isDirectory: true)
                for artefact in artefacts {
                    try GatewayFile.write(
                        artefact.bytes, to: folder.appendingPathComponent(artefact.name), role: "artefact")
                }
                return Answer(
                    .array(artefacts.map { ["name": .string($0.name), "bytes": .integer(Int64($0.bytes.count))] }),
                    artefacts.map { "\($0.name), \($0.bytes.count) bytes" })
            }
        }
    }
}
