import ArgumentParser
import Foundation
import Gateway
import Vocabulary
import WebAPI

struct DatasetCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dataset", abstract: "Sealed data sets.", subcommands: [Import.self, List.self])

    struct Import: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Seal a graph into the vault: KGX nodes and edges, features as .npy, consent as TSV.",
            discussion: """
                All or nothing: a mistake names file, line, column and rule, and leaves the vault as it was.
                Persons without a consent row are in no run image.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The data set's id, such as demo:hpo.") var dataset: DatasetID
        @Option(help: "KGX nodes: TSV with id, category and label columns.") var nodes: String
        @Option(help: "KGX edges: TSV with subject, predicate, object.") var edges: String
        @Option(help: "Features: .npy, float32 [nodes, features].") var features: String?
        @Option(help: "Sparse features instead (CSR): .npy with the row pointers.") var featureRows: String?
        @Option(help: "Sparse features: .npy with the column numbers.") var featureColumns: String?
        @Option(help: "Sparse features: .npy with the values.") var featureValues: String?
        @Option(help: "Sparse features: how many columns there are, when the last ones may be empty.")
        var featureCount: Int?
        @Option(help: "Consent: TSV with subject and state (given or withdrawn).") var consent: String?

        private func featureFiles() throws -> FeatureFiles {
            switch (features, featureRows, featureColumns, featureValues) {
            case (let dense?, nil, nil, nil): .dense(URL(fileURLWithPath: dense))
            case (nil, let rows?, let columns?, let values?):
                .sparse(
                    rowPointers: URL(fileURLWithPath: rows), columns: URL(fileURLWithPath: columns),
                    values: URL(fileURLWithPath: values), count: featureCount)
            default:
                throw ValidationError("give --features, or --feature-rows, --feature-columns and --feature-values")
            }
        }

        func run() async throws {
            let files = VersionFiles(
                nodes: URL(fileURLWithPath: nodes), edges: URL(fileURLWithPath: edges), features: try featureFiles(),
                consent: consent.map { URL(fileURLWithPath: $0) })
            try await options.withDesk(as: actor) { desk in
                let version = try await desk.importVersion(dataset, files)
                return Answer(version, Answer.lines(ofVersion: version))
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the data sets and their versions.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let versions = try await desk.items(.apiDatasets)
                return Answer(.array(versions), versions.flatMap(Answer.lines(ofVersion:)))
            }
        }
    }
}

extension Answer {
    fileprivate static func lines(ofVersion version: JSON) -> [String] {
        func count(_ name: String) -> String { "\(version.number(name)) \(name)" }
        let sizes = ["nodes", "edges", "features", "persons"].map(count).joined(separator: ", ")
        return [
            "\(version.text("dataset")) \(version.text("version")): \(sizes)", "  root \(version.text("root"))",
        ]
    }
}

struct ConsentCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "consent", abstract: "Change a subject's consent; it holds from the next run image on.")
    @OptionGroup var options: HomeOptions
    @OptionGroup var actor: ActorOption
    @Argument(help: "The subject's id in the data set.") var subject: String
    @Option(help: "The data set.") var dataset: DatasetID
    @Option(help: "given or withdrawn.") var state: String

    func run() async throws {
        try await options.withDesk(as: actor) { desk in
            let answer = try await desk.json(
                .apiConsentChange, ["dataset": dataset.text],
                body: ["subject": .string(subject), "state": .string(state)])
            return Answer(answer, ["Consent is \(answer.text("state")) from the next run image on."])
        }
    }
}

struct SubjectCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "subject", abstract: "What happened with a person's data.",
        subcommands: [History.self, Pseudonym.self, Sections.self, Shred.self])

    struct Pseudonym: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Tell how the trail names a person, to search an export by. Asking is recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The subject's id in the data set.") var subject: String

        func run() async throws {
            try await options.withGateway { gateway in
                let pseudonym = try await gateway.subjectPseudonym(subject, by: actor.required).hex
                return Answer(["pseudonym": .string(pseudonym)], [pseudonym])
            }
        }
    }

    struct Sections: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what the trail says about a person, as long as it can be read. Reading is recorded.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The subject's id in the data set.") var subject: String

        func run() async throws {
            try await options.withGateway { gateway in
                let sections = try await gateway.subjectSections(subject, by: actor.required)
                return Answer(
                    .array(sections.map { ["index": .integer(Int64($0.index)), "content": $0.content] }),
                    sections.isEmpty
                        ? ["Nothing that can be read."]
                        : sections.map { "entry \($0.index) \($0.content.canonicalText)" })
            }
        }
    }

    struct Shred: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make what the trail says about a person unreadable, to everyone and in every copy.",
            discussion: """
                It takes two people, compliance officers or data custodians: the first asks, the second runs the same
                command and it is done. All proofs of the trail still verify afterwards.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The subject's id in the data set.") var subject: String

        func run() async throws {
            try await options.withGateway { gateway in
                let progress = try await gateway.shredSubject(subject, by: actor.required)
                return Answer(
                    ["shred": .string(progress.rawValue)],
                    [
                        progress == .done
                            ? "What the trail said about this person can no longer be read by anyone."
                            : "Asked. Within seven days somebody else must run the same command."
                    ])
            }
        }
    }

    struct History: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the runs whose image held a subject.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The subject's id in the data set.") var subject: String
        @Option(help: "The data set.") var dataset: DatasetID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let runs =
                    try await desk.json(
                        .apiSubjectHistory, ["dataset": dataset.text], body: ["subject": .string(subject)])["runs"]?
                    .arrayValue ?? []
                return Answer(
                    .array(runs),
                    runs.isEmpty
                        ? ["No run used this data set."]
                        : table(
                            runs.map { [$0.text("run"), $0["used"] == true ? "in the image" : "not in the image"] }))
            }
        }
    }
}
