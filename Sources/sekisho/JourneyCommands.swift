import ArgumentParser
import Foundation
import Gateway
import Vocabulary
import WebAPI

struct RequestCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "request", abstract: "Access requests: draft, file, review, change, renew, close, list.",
        subcommands: [
            File.self, Draft.self, Form.self, Review.self, Resume.self, List.self, Show.self, Amend.self, Renew.self,
            Withdraw.self, Document.self, CloseOut.self, ConfirmClosure.self, Matrix.self, EmergencyReview.self,
        ])

    struct File: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Ask for access to a data set.",
            discussion: "The form is a JSON file; config/requests holds examples. The answer may come at once.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var once: OnceOption
        @Argument(help: "The request form (JSON).") var form: String
        @Option(help: "KIND=FILE[@DAY]: a document to add by its hash; may be given again.")
        var document: [DocumentArgument] = []

        func run() async throws {
            let json = try requestForm(form, documents: document)
            try await options.withDesk(as: actor) { desk in
                Answer.request(try await desk.json(.apiRequestFile, body: json, once: once))
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
        @Option(
            help:
                "What you approve under: months-max=6, hours-max=40, regions=\"JP DE\", notice=TEXT, document-due=\"ethics 2027-01-31\"; may be given again."
        )
        var condition: [ConditionArgument] = []

        func run() async throws {
            var body: [String: JSON] = ["verdict": .string(verdict.rawValue), "comment": .string(comment)]
            if !condition.isEmpty { body["conditions"] = .array(condition.map(\.json)) }
            try await options.withDesk(as: actor) { desk in
                Answer.request(try await desk.json(.apiRequestReview, ["request": request.text], body: .object(body)))
            }
        }
    }

    struct EmergencyReview: AsyncParsableCommand {
        enum Finding: String, CaseIterable, ExpressibleByArgument { case justified, unjustified }

        static let configuration = CommandConfiguration(
            commandName: "emergency-review",
            abstract: "Say what you found when you looked at an emergency access afterwards.",
            discussion: "Until somebody has, there is no second emergency access to the data set.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID
        @Argument(help: "justified or unjustified.") var finding: Finding
        @Option(help: "What you found, in a sentence.") var comment: String

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(
                    .apiEmergencyReview, ["request": request.text],
                    body: ["justified": .bool(finding == .justified), "comment": .string(comment)])
                return Answer(answer, ["The emergency access of \(request) is reviewed: \(finding.rawValue)."])
            }
        }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Go on with a request from what is durable, after a crash or a change of policy.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                Answer.request(try await desk.json(.apiRequestResume, ["request": request.text]))
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the requests that you may see, and who has them now.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let requests = try await desk.items(.apiRequests)
                return Answer(
                    .array(requests),
                    table(
                        requests.map {
                            [$0.text("request"), $0.text("dataset"), $0.text("requester"), $0.text("summary")]
                        }))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show a request's timeline.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                Answer.timeline(try await desk.items(.apiRequestTimeline, ["request": request.text]))
            }
        }
    }
}

/// A name for what must be done once, for scripts that try again.
struct OnceOption: ParsableArguments {
    @Option(help: "Sent again under the same key, it is not done again.") var onceKey: String?
}

extension Verdict: ExpressibleByArgument {}

extension Answer {
    static func request(_ request: JSON) -> Answer {
        let id = request.text("request")
        switch request.text("state") {
        case "waiting":
            return Answer(request, ["Request \(id) waits for \(request.text("waiting_for"))."])
        case "granted":
            return Answer(request, ["Request \(id) is granted: grant \(request.text("grant"))."])
        case "refused":
            let reasons = zip(request.texts("reasons"), request.texts("explanations"))
            return Answer(
                request, ["Request \(id) is refused:"] + reasons.map { "  \($0): \($1)" }, failure: .refusedRequest)
        default: return Answer(request, ["Request \(id): \(request.text("summary"))."])
        }
    }
}

struct GrantCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "grant", abstract: "Grants: what was allowed, until when.", subcommands: [List.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the grants that you may see.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let grants = try await desk.items(.apiGrants)
                return Answer(
                    .array(grants),
                    table(
                        grants.map {
                            [
                                $0.text("grant"), $0.text("dataset"), $0.text("researcher"),
                                $0["revocation"]?.objectValue == nil
                                    ? "until \($0.text("expires"))"
                                    : "revoked (\($0["revocation"]?.text("reason") ?? "")), ask \($0["revocation"]?.text("by") ?? "")",
                            ]
                        }))
            }
        }
    }
}

/// What is said of every new run.
struct RunOptions: ParsableArguments {
    @Option(help: "The grant it stands on.") var grant: GrantID
    @Option(help: "The new run's id; made up when left out.") var id: RunID?
    @Option(
        help: "Device memory it may take: bytes, or such as 512KiB, 64MiB, 2GiB; the node's limit when left out.")
    var deviceMemory: ByteCount?
    @Option(help: "Device hours after which it is stopped; without it, what the grant has left.") var hours: Int?

    var body: [String: JSON] {
        var body: [String: JSON] = ["grant": .string(grant.text)]
        body["id"] = id.map { .string($0.text) }
        body["device_memory"] = deviceMemory.map { .integer(Int64($0.bytes)) }
        body["hours"] = hours.map { .integer(Int64($0)) }
        return body
    }
}

struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Runs that train or predict: start, resume, show, report.",
        subcommands: [
            Start.self, Predict.self, Resume.self, Advance.self, Cancel.self, List.self, Show.self, Times.self,
            Plan.self,
            Report.self,
        ])

    struct Start: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Start a run of a declared model, and follow it as far as it goes without a person.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var once: OnceOption
        @Argument(help: "The model specification (YAML); config/specs holds examples.") var spec: String
        @OptionGroup var asked: RunOptions

        func run() async throws {
            let text = try GatewayFile.read(URL(fileURLWithPath: spec), role: "model specification")
            var body = asked.body
            body["specification"] = .string(text)
            try await options.withDesk(as: actor) { desk in
                let run = try await desk.json(.apiRunStart, body: .object(body), once: once).text("run")
                return try await follow(RunID(run), desk)
            }
        }
    }

    struct Predict: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Count what a released model answers for the whole graph, and follow that run.",
            discussion: """
                A run of its own, held to policy, consent and review like any other. Answers for single people never \
                leave; its release holds counts, each rounded down to a multiple of the data set's least cohort.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var once: OnceOption
        @Argument(help: "The run whose model was released.") var model: RunID
        @OptionGroup var asked: RunOptions

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let run = try await desk.json(
                    .apiRunPredict, ["run": model.text], body: .object(asked.body), once: once
                ).text("run")
                return try await follow(RunID(run), desk)
            }
        }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Go on with a run from what is durable, after a crash or a review.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                _ = try await desk.json(.apiRunResume, ["run": run.text])
                return try await follow(run, desk)
            }
        }
    }

    struct Advance: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Do one step of a run, in a home of your own; a service goes on by itself.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withGateway { gateway in
                let desk = EmbeddedDesk(gateway, as: try actor.required)
                _ = try await desk.json(.apiRunResume, ["run": run.text])
                _ = try await gateway.advance(run)
                return Answer.run(try await desk.json(.apiRun, ["run": run.text]))
            }
        }
    }

    struct Cancel: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End a run at its next epoch or stage: its device is scrubbed, and nothing is released.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(.apiRunCancel, ["run": run.text])
                return Answer(answer, ["Run \(run) is cancelled; what it holds is given back."])
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the runs that you may see, and their stages.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let runs = try await desk.items(.apiRuns)
                return Answer(
                    .array(runs),
                    table(
                        runs.map {
                            [
                                $0.text("run"), $0.text("dataset"), $0.text("researcher"),
                                $0["end"]?.stringValue ?? $0.text("stage"),
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
            try await options.withDesk(as: actor) { desk in
                Answer.timeline(try await desk.items(.apiRunTimeline, ["run": run.text]))
            }
        }
    }

    struct Times: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Tell how long each stage of a run took.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let stages = try await desk.json(.apiRunTimes, ["run": run.text])["stages"]?.arrayValue ?? []
                return Answer(
                    .array(stages), table(stages.map { [$0.text("stage"), "\($0.number("milliseconds")) ms"] }))
            }
        }
    }

    struct Plan: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show a training plan: what lies where when, what it takes, and why not otherwise.",
            discussion: """
                Of a run that is planned, or, before any request, of a specification on a graph of the sizes given: \
                sekisho run plan SPEC --nodes 131072 --edges 4600000 --features 128 --classes 40 --device 64000000
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "A run's id, or with --nodes a specification file.") var run: String
        @Option(help: "Nodes of the graph.") var nodes: Int?
        @Option(help: "Its edges, both directions counted.") var edges = 0
        @Option(help: "Width of its features.") var features = 1
        @Option(help: "Its classes.") var classes = 2
        @Option(help: "Its predicates, for typed models.") var predicates = 1
        @Option(help: "Bytes of device memory.") var device = 1 << 30
        @Option(help: "Bytes of host memory for what is put away.") var host = 8 << 30
        @Option(help: "Bytes of SSD for what host memory has no room for.") var ssd = 64 << 30
        @Option(help: "Bytes a second over the link.") var bandwidth = 1_000_000_000
        @Option(name: .customLong("rtt"), help: "Microseconds of a round trip.") var roundTrip = 100
        @Option(help: "An SVG file to write: memory by tier over one epoch.") var svg: String?

        func run() async throws {
            guard let nodes else {
                let id = try RunID(run)
                return try await options.withDesk(as: actor) { desk in
                    let plan = try await desk.json(.apiRunPlan, ["run": id.text])
                    try draw(plan["plan"] ?? .null)
                    return Answer(plan["plan"] ?? .null, [plan.text("table")])
                }
            }
            var sizes = PlanPreview.Sizes()
            sizes.nodes = nodes
            sizes.edges = edges
            sizes.features = features
            sizes.classes = classes
            sizes.predicates = predicates
            sizes.deviceBytes = device
            sizes.hostBytes = host
            sizes.ssdBytes = ssd
            sizes.linkBytesPerSecond = bandwidth
            sizes.roundTripMicroseconds = roundTrip
            let text = try GatewayFile.read(URL(fileURLWithPath: run), role: "model specification")
            let plan = try PlanPreview(specification: text, sizes: sizes)
            try draw(plan.json)
            try Answer(plan.json, [plan.table]).end(asJSON: options.json)
        }

        private func draw(_ plan: JSON) throws {
            guard let svg else { return }
            try GatewayFile.write(
                Array(Picture.memory(ofPlan: plan).standalone.utf8), to: URL(fileURLWithPath: svg), role: "picture")
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
            try await options.withDesk(as: actor) { desk in
                let page = try await desk.text(APICall(.apiRunReport, path: ["run": run.text]))
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
private func follow(_ run: RunID, _ desk: any Desk) async throws -> Answer {
    try await desk.follow(run) { event in
        switch event {
        case .epoch(let progress): ProgressLine.show(("train", progress.epoch, progress.epochs, progress.words))
        case .stage(let stage):
            ProgressLine.finish()
            complain("stage \(stage.rawValue)", prefix: "")
        case .held(let error):
            ProgressLine.finish()
            complain("held: \(error)", prefix: "")
        case .deviceLost(let node):
            ProgressLine.finish()
            complain(
                "device \(node) was lost; the run goes on from its last checkpoint on another one", prefix: "")
        case .waiting, .closed: ProgressLine.finish()
        }
    }
    ProgressLine.finish()
    return Answer.run(try await desk.json(.apiRun, ["run": run.text]))
}

extension Answer {
    static func run(_ run: JSON) -> Answer {
        let id = run.text("run")
        let lost = run.texts("devices_lost")
        let moves = lost.isEmpty ? [] : ["  lost on the way, and gone on without: \(lost.joined(separator: ", "))"]
        if let end = run["end"]?.stringValue.flatMap(RunEnd.init) {
            let reasons = run.texts("reasons")
            let words = reasons.isEmpty ? "" : " (\(reasons.joined(separator: ", ")))"
            return Answer(
                run,
                ["Run \(id) is closed: \(end.rawValue)\(words)."] + run.texts("explanations").map { "  \($0)" } + moves,
                failure: end.failure)
        }
        guard let who = run["waiting_for"]?.stringValue else {
            return Answer(run, ["Run \(id): next is \(run.text("stage"))."] + moves)
        }
        return Answer(run, ["Run \(id) waits for \(who)."] + moves)
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
        subcommands: [List.self, Show.self, Report.self, Review.self, Take.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List candidates and what became of them.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let releases = try await desk.items(.apiReleases)
                let columns = ["run", "dataset", "researcher", "state"]
                return Answer(.array(releases), table(releases.map { release in columns.map { release.text($0) } }))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show the checks and artefacts of a candidate.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let release = try await desk.json(.apiRelease, ["run": run.text])
                let artefacts = release["artefacts"]?.arrayValue ?? []
                let checks = release["checks"]?.arrayValue ?? []
                return Answer(
                    release,
                    ["Candidate \(release.text("candidate"))"]
                        + artefacts.map { "  \($0.text("name")), \($0.number("bytes")) bytes" }
                        + checks.map {
                            "  \($0["passed"] == true ? "passed" : "FAILED") \($0.text("check")): \($0.text("finding"))"
                        })
            }
        }
    }

    struct Report: AsyncParsableCommand {
        enum Form: String, CaseIterable, ExpressibleByArgument { case json, html }

        static let configuration = CommandConfiguration(
            abstract: "Tell what the gate found: checks, reviews and decision, as JSON or as one page to keep or print."
        )
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID
        @Option(name: .customLong("as-text"), help: "json or html.") var form = Form.json
        @Option(help: "The page's language, en or ja.") var language: GateReport.Language = .english
        @Option(help: "The file to write it to, instead of printing it.") var out: String?

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let query = [(name: "as", value: form.rawValue), (name: "language", value: language.rawValue)]
                let call = APICall(.apiReleaseReport, path: ["run": run.text], query: query)
                let json: JSON
                let text: String
                switch form {
                case .json:
                    json = try await desk.json(call)
                    text = json.canonicalText
                case .html:
                    text = try await desk.text(call)
                    json = .string(text)
                }
                guard let out else { return Answer(json, [text]) }
                try GatewayFile.write(Array(text.utf8), to: URL(fileURLWithPath: out), role: "report")
                return Answer(["file": .string(out)], ["The report is in \(out)."])
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
            var body: [String: JSON] = ["verdict": .string(verdict.rawValue)]
            body["candidate"] = candidate.map(JSON.string)
            try await options.withDesk(as: actor) { desk in
                _ = try await desk.json(.apiReleaseReview, ["run": run.text], body: .object(body))
                return try await follow(run, desk)
            }
        }
    }

    struct Take: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take a released model out, byte for byte as reviewed.",
            discussion: """
                Where the release obliges whoever takes it, such as to publish the results, the command says to what and \
                takes nothing; with --accept it is accepted, and recorded as such.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The run's id.") var run: RunID
        @Option(help: "The folder to write it to.") var out: String
        @Flag(help: "Accept what the release obliges to.") var accept = false

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                // Where there is nothing to take yet, the taking itself says so.
                let obligations = try? await desk.json(.apiRelease, ["run": run.text])["obligations"]
                let duties = obligations?["items"]?.arrayValue ?? []
                var body: [String: JSON] = [:]
                if !duties.isEmpty {
                    let words = duties.map {
                        "  \($0.text("code"))\($0.text("value").isEmpty ? "" : ": \($0.text("value"))")"
                    }
                    guard accept else {
                        return Answer(
                            ["obligations": .array(duties)], ["This release obliges whoever takes it to:"] + words,
                            failure: .dutiesNotAccepted)
                    }
                    body["accepts"] = obligations?["hash"]
                }
                let files = try await desk.unpack(
                    APICall(.apiReleaseTake, path: ["run": run.text], body: .object(body)),
                    into: URL(fileURLWithPath: out, isDirectory: true)
                ).files
                return Answer(
                    .array(files.map { ["name": .string($0.name), "bytes": .integer(Int64($0.bytes))] }),
                    files.map { "\($0.name), \($0.bytes) bytes" })
            }
        }
    }
}

extension GatewayError {
    fileprivate static let dutiesNotAccepted = GatewayError(
        told: .refused, "nothing was taken; accept the obligations with --accept")
}

extension GateReport.Language: ExpressibleByArgument {}
