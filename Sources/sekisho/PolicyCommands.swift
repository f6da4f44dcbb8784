import ArgumentParser
import Foundation
import Gateway
import Glibc
import Vocabulary
import WebAPI

struct PolicyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "policy", abstract: "Policy files: check, test, ask, propose, sign, activate, return to.",
        discussion: """
            Policies come into force in three steps: a policy administrator proposes files, different people sign them
            with keys of their own (two; three where the change is not proven narrower), and they are activated.
            """,
        subcommands: [
            Lint.self, Test.self, Explain.self, Decide.self, Matrix.self, Diff.self, Show.self, Keygen.self, Key.self,
            Propose.self, Sign.self, Activate.self, Rollback.self, History.self,
        ])

    // MARK: - Files alone

    struct Lint: ParsableCommand {
        enum Format: String, CaseIterable, ExpressibleByArgument { case text, plain, json }

        static let configuration = CommandConfiguration(abstract: "Check a folder of policy files; needs no home.")
        @Argument(help: "The folder, such as policies/.") var folder: String
        @Option(help: "text: for editors, with the line; plain: in sentences, for screen readers; json.")
        var format = Format.text
        @Flag(help: "The same as --format json.") var json = false

        func run() throws {
            let answer = try policyFolder(folder).lint(format == .plain ? .sentences : .compiler)
            Answer(answer.json, answer.words.isEmpty ? ["No findings."] : answer.words)
                .print(asJSON: json || format == .json)
            if answer.isAlarming { throw GatewayError.policyFilesInvalid }
        }
    }

    struct Test: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Run the tests beside the policies, and name the rules that none of them hits; needs no home.")
        @Argument(help: "The folder, such as policies/.") var folder: String
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            let answer = try policyFolder(folder).test()
            Answer(answer.json, answer.words).print(asJSON: json)
            if answer.isAlarming { throw GatewayError.policyFilesInvalid }
        }
    }

    // MARK: - Questions

    /// Which policies a command asks: a folder's files, a bundle that was proposed, or those in force.
    struct Source: ParsableArguments {
        @Option(help: "Ask these files; needs no home.") var folder: String?
        @Option(help: "Ask the bundle of this number instead of the one in force.") var bundle: Int?

        var query: [(name: String, value: String)] { bundle.map { [("bundle", String($0))] } ?? [] }

        func validate() throws {
            guard folder == nil || bundle == nil else { throw ValidationError("--folder and --bundle are two answers") }
        }
    }

    struct Explain: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Tell why a question gets its answer, rule by rule, in the terms of DUO.",
            discussion: """
                The question is JSON as decision records keep it, with "ask": access, run, progress or release. \
                Nothing is recorded and nothing follows from it.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var source: Source
        @Argument(help: "The file with the question.") var question: String

        func run() async throws {
            try await ask(question, source, options, actor) { $0["words"]?.arrayValue?.compactMap(\.stringValue) ?? [] }
        }
    }

    struct Decide: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Decide a question that nobody asked. Nothing is recorded and nothing follows from it.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var source: Source
        @Flag(help: "Must be given: what is recorded is decided by requests and runs alone.") var dryRun = false
        @Argument(help: "The file with the question, as for `policy explain`.") var question: String

        func validate() throws {
            guard dryRun else { throw ValidationError("this decides nothing for good; say --dry-run") }
        }

        func run() async throws {
            try await ask(question, source, options, actor) { answer in
                let reasons = answer["decision"]?["reasons"]?.arrayValue ?? []
                return [answer.text("answer")]
                    + reasons.map {
                        "  \($0.text("code")): \($0.text("text")) (\($0.text("file")):\($0.number("line")))"
                    }
            }
        }
    }

    struct Matrix: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Tell who may do what with which data set.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var source: Source

        func run() async throws {
            if let folder = source.folder {
                let answer = try policyFolder(folder).matrix()
                return Answer(answer.json, answer.words).print(asJSON: options.json)
            }
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(.apiPolicyMatrix, query: source.query)
                return Answer(answer["rows"] ?? [], answer.texts("words"))
            }
        }
    }

    struct Diff: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Put every recorded decision to two sets of policies; what became milder comes first, in red.",
            discussion: """
                Each set is the number of a bundle, `active`, or for NEW a folder. Ends with status 3 where something \
                that was answered more strictly would now be milder.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "A bundle's number, or active.") var old: String
        @Argument(help: "A bundle's number, active, or a folder of policy files.") var new: String
        @Flag(help: "Over the decisions on record; there is nothing else to compare over.") var overHistory = false

        func validate() throws {
            guard overHistory else {
                throw ValidationError("say --over-history; the decisions on record are asked again")
            }
        }

        func run() async throws {
            var body: [String: JSON] = [:]
            guard let old = bundle(self.old) else { throw ValidationError("OLD is a bundle's number, or active") }
            body["old"] = old.map { .integer(Int64($0)) }
            if let new = bundle(self.new) {
                body["new"] = new.map { .integer(Int64($0)) }
            } else {
                body["files"] = try filesJSON(new)
            }
            let asked = body
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(.apiPolicyCompare, body: .object(asked))
                let milder = Int(answer.number("milder"))
                let changes = answer["changes"]?.arrayValue?.count ?? 0
                var words = answer.texts("words")
                if isatty(STDOUT_FILENO) == 1 {
                    for index in changes..<(changes + milder) { words[index] = "\u{1B}[31m\(words[index])\u{1B}[0m" }
                }
                return Answer(answer, words, failure: milder > 0 ? .milderAnswers : nil)
            }
        }

        /// `.some(nil)` for the policies in force.
        private func bundle(_ text: String) -> Int?? { text == "active" ? .some(nil) : Int(text).map { .some($0) } }
    }

    struct Show: AsyncParsableCommand {
        enum Form: String, CaseIterable, ExpressibleByArgument { case summary, yaml, cedar }

        static let configuration = CommandConfiguration(
            abstract: "Tell which policies decide now, or show a bundle as its YAML files or as Cedar.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var source: Source
        @Option(name: .customLong("as-text"), help: "summary, yaml or cedar.") var form = Form.summary

        func run() async throws {
            if let folder = source.folder {
                guard form == .cedar else {
                    throw ValidationError("files show themselves; --as-text cedar tells them again")
                }
                return print(try policyFolder(folder).cedar(), terminator: "")
            }
            try await options.withDesk(as: actor) { desk in
                switch form {
                case .summary:
                    guard source.bundle == nil else {
                        let bundle = try await desk.json(.apiPolicyBundle, ["bundle": "\(source.bundle ?? 0)"])
                        return Answer(bundle, words(ofBundle: bundle))
                    }
                    let active = try await desk.json(.apiPolicies)
                    return Answer(
                        active,
                        ["Bundle \(active.number("number")), policies \(active.text("policy"))"]
                            + active.texts("datasets").map { "  \($0)" })
                case .cedar:
                    let text = try await desk.text(APICall(.apiPolicyCedar, query: source.query))
                    return Answer(
                        .string(text), text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init))
                case .yaml:
                    var number = source.bundle
                    if number == nil { number = Int(try await desk.json(.apiPolicies).number("number")) }
                    let files = try await desk.json(.apiPolicyFiles, ["bundle": "\(number ?? 0)"])
                    let words = (files["files"]?.arrayValue ?? []).flatMap {
                        ["# \($0.text("name"))", $0.text("content")]
                    }
                    return Answer(files, words)
                }
            }
        }
    }

    // MARK: - Signing

    struct Keygen: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make the key that you sign policies with. Do it where you work, not on the gateway's host.")
        @Option(help: "The new private key's file; the public key is put beside it as FILE.pub.") var out: String
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            let key = try PolicyKeyFile.generate(at: URL(fileURLWithPath: out))
            Answer(["key": .string(key)], ["Public key \(key)"]).print(asJSON: json)
        }
    }

    struct Key: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Tell the gateway your public signing key, or end a person's.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The .pub file that `policy keygen` wrote.") var file: String?
        @Option(help: "End this person's key instead; one's own, or as a security officer anybody's.") var revoke:
            PersonID?

        func validate() throws {
            guard (file == nil) != (revoke == nil) else {
                throw ValidationError("give a .pub file, or --revoke PERSON")
            }
        }

        func run() async throws {
            let key = try file.map { try PolicyKeyFile.readPublic(URL(fileURLWithPath: $0)) }
            try await options.withDesk(as: actor) { desk in
                if let revoke {
                    let answer = try await desk.json(.apiPolicyKeyRevoke, body: ["person": .string(revoke.text)])
                    return Answer(answer, ["The signing key of \(revoke) is ended."])
                }
                let answer = try await desk.json(.apiPolicyKey, body: ["key": .string(key ?? "")])
                return Answer(
                    answer, ["\(answer.text("person")) signs policies with \(answer.text("key").prefix(16))…"])
            }
        }
    }

    struct Propose: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Propose a folder's policies, if they are valid and their tests pass, for others to sign.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The folder, such as policies/.") var folder: String

        func run() async throws {
            let files = try filesJSON(folder)
            // Which rules no test hits; files that are not valid are the gateway's to refuse.
            let untested = (try? policyFolder(folder).test().words) ?? []
            try await options.withDesk(as: actor) { desk in
                let bundle = try await desk.json(.apiPolicyPropose, body: ["files": files])
                return Answer(bundle, words(ofBundle: bundle) + untested.map { "  \($0)" })
            }
        }
    }

    struct Sign: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Sign a proposed bundle with your key, which stays here.",
            discussion: """
                With --folder you sign only if the bundle holds the very files you have in that folder. Without it the \
                bundle's files are fetched, checked against the statement and shown with what they change. With --statement \
                (and --folder) nothing is asked of the gateway: the signature is printed, to be handed in on the page.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The bundle's number.") var bundle: Int
        @Option(help: "Your private key, from `policy keygen`.") var key: String
        @Option(help: "The folder with the files that you have read.") var folder: String?
        @Option(help: "The statement's file, from the bundle's archive: print the signature over it, and send nothing.")
        var statement: String?

        func validate() throws {
            guard statement == nil || folder != nil else {
                throw ValidationError("--statement needs --folder with the files that it is of")
            }
        }

        func run() async throws {
            if let statement, let folder {
                let signature = try PolicyKeyFile.sign(
                    statementIn: URL(fileURLWithPath: statement), number: bundle, of: policyFolder(folder),
                    with: URL(fileURLWithPath: key))
                return Answer(["signature": .string(signature)], [signature]).print(asJSON: options.json)
            }
            try await options.withDesk(as: actor) { desk in
                let path = ["bundle": String(bundle)]
                let proposal = try await desk.json(.apiPolicyBundle, path)
                let files: PolicyFolder
                if let folder {
                    files = try policyFolder(folder)
                } else {
                    let fetched = try await desk.json(.apiPolicyFiles, path)["files"]?.arrayValue ?? []
                    files = try PolicyFolder(fetched.map { ($0.text("name"), $0.text("content")) })
                }
                let signature = try PolicyKeyFile.sign(
                    proposal["statement"] ?? .null, of: files, with: URL(fileURLWithPath: key))
                let signed = try await desk.json(.apiPolicySign, path, body: ["signature": .string(signature)])
                return Answer(signed, words(ofBundle: signed))
            }
        }
    }

    // MARK: - In force

    struct Activate: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a bundle that enough people have signed the one that decides.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The bundle's number.") var bundle: Int

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let active = try await desk.json(.apiPolicyActivate, ["bundle": String(bundle)])
                return Answer(
                    active, ["Bundle \(bundle), policies \(active.text("bundle").prefix(16))…, decides from now on."])
            }
        }
    }

    struct Rollback: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "rollback",
            abstract: "Propose the files of an earlier bundle again; it is signed and activated like any other.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The number of a bundle that was in force.") var bundle: Int

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let proposal = try await desk.json(.apiPolicyReturn, ["bundle": String(bundle)])
                return Answer(proposal, words(ofBundle: proposal))
            }
        }
    }

    struct History: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List what was proposed, who signed it, what was in force and what was returned to.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let bundles = try await desk.items(.apiPolicyBundles)
                return Answer(.array(bundles), bundles.flatMap(words(ofBundle:)))
            }
        }
    }
}

extension GatewayError {
    fileprivate static let milderAnswers = GatewayError(
        told: .refused, "some recorded decisions would get a milder answer")
}

private func policyFolder(_ path: String) throws -> PolicyFolder {
    try PolicyFolder(URL(fileURLWithPath: path, isDirectory: true))
}

private func filesJSON(_ folder: String) throws -> JSON {
    .array(
        try policyFolder(folder).contents.map { ["name": .string($0.name), "content": .string($0.content)] })
}

/// Puts a question to the policies that `source` names.
private func ask(
    _ file: String, _ source: PolicyCommand.Source, _ options: HomeOptions, _ actor: ActorOption,
    words: (JSON) -> [String]
) async throws {
    let text = try GatewayFile.read(URL(fileURLWithPath: file), role: "question")
    let input: JSON
    do throws(JSONError) { input = try JSON(parsing: Array(text.utf8)) } catch {
        throw ValidationError("the question is not JSON: \(error)")
    }
    if let folder = source.folder {
        let answer = try policyFolder(folder).explain(input)
        var members = answer.json.objectValue ?? [:]
        members["words"] = .array(answer.words.map(JSON.string))
        return Answer(answer.json, words(.object(members))).print(asJSON: options.json)
    }
    var body: [String: JSON] = ["input": input]
    body["bundle"] = source.bundle.map { .integer(Int64($0)) }
    let asked = body
    try await options.withDesk(as: actor) { desk in
        let answer = try await desk.json(.apiPolicyDecide, body: .object(asked))
        return Answer(answer, words(answer))
    }
}

/// A bundle's place in its life, who signed it and what it changes.
private func words(ofBundle bundle: JSON) -> [String] {
    let signers = bundle["signatures"]?.arrayValue?.map { $0.text("person") } ?? []
    let returns = bundle["returns_to"]?.integerValue.map { ", returns to \($0)" } ?? ""
    let change =
        bundle["previous"] == .null ? "the first" : bundle["widens"] == true ? "not proven narrower" : "narrower"
    return [
        "Bundle \(bundle.number("number")) \(bundle.text("bundle").prefix(16))… \(bundle.text("state")): \(change)\(returns)",
        "  proposed by \(bundle.text("proposer")), \(bundle.text("proposed"))",
        "  signed by \(signers.isEmpty ? "nobody" : signers.joined(separator: ", ")) (\(signers.count) of \(bundle.number("signatures_needed")))",
    ]
        + (bundle["changes"]?.arrayValue ?? []).map {
            "  \($0.text("direction")): \($0.text("rule")): \($0.text("text"))"
        }
}
