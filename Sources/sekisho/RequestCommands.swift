import ArgumentParser
import Foundation
import Gateway
import Vocabulary
import WebAPI

// What becomes of a request beside its filing and its reviews.

/// A document as the command line names it: `ethics=approval.pdf`, or `ethics=approval.pdf@2027-01-31` where it ends.
/// Only its hash, kind and name are sent; the document stays where it is.
struct DocumentArgument: ExpressibleByArgument {
    let kind: String
    let file: String
    let expires: String?

    init?(argument: String) {
        let parts = argument.split(separator: "=", maxSplits: 1).map(String.init)
        guard parts.count == 2, (try? DatasetID(parts[0])) != nil else { return nil }
        kind = parts[0]
        // A file's name may hold an @; a day at the end is one.
        if let at = parts[1].lastIndex(of: "@"),
            Timestamp(parsing: String(parts[1][parts[1].index(after: at)...])) != nil
        {
            file = String(parts[1][..<at])
            expires = String(parts[1][parts[1].index(after: at)...])
        } else {
            file = parts[1]
            expires = nil
        }
    }

    func json() throws -> JSON {
        let url = URL(fileURLWithPath: file)
        var members: [String: JSON] = [
            "kind": .string(kind), "digest": .string(try GatewayFile.digest(url, role: "document").hex),
            "name": .string(String(url.lastPathComponent.prefix(200))),
        ]
        if let expires, let day = Timestamp(parsing: expires) {
            // A day counts to its end.
            members["expires"] = .string(
                expires.utf8.count == 10
                    ? Timestamp(milliseconds: day.milliseconds + 86_399_999).description : day.description)
        }
        return .object(members)
    }
}

/// A condition as the command line names it: `months-max=6`, `regions="JP DE"`, `document-due="ethics 2027-01-31"`.
struct ConditionArgument: ExpressibleByArgument {
    let json: JSON

    init?(argument: String) {
        let parts = argument.split(separator: "=", maxSplits: 1).map(String.init)
        guard parts.count == 2, KnownName.conditions.contains(parts[0]) else { return nil }
        json = ["code": .string(parts[0]), "value": .string(parts[1])]
    }
}

/// Reads the request form of a file, with documents that are hashed here.
func requestForm(_ file: String, documents: [DocumentArgument] = []) throws -> JSON {
    let text = try GatewayFile.read(URL(fileURLWithPath: file), role: "request form")
    let json: JSON
    do throws(JSONError) { json = try JSON(parsing: text) } catch {
        throw ValidationError("the request form is not JSON: \(error)")
    }
    guard !documents.isEmpty, var members = json.objectValue else { return json }
    members["documents"] = .array((members["documents"]?.arrayValue ?? []) + (try documents.map { try $0.json() }))
    return .object(members)
}

extension RequestCommand {
    struct Amend: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Ask for something else than was granted; the grant stands until that is granted.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var once: OnceOption
        @Argument(help: "The granted request's id.") var request: RequestID
        @Argument(help: "The whole request form as it should be (JSON).") var form: String
        @Option(help: "KIND=FILE[@DAY]: a document to add by its hash; may be given again.")
        var document: [DocumentArgument] = []

        func run() async throws {
            let json = try requestForm(form, documents: document)
            try await options.withDesk(as: actor) { desk in
                Answer.request(
                    try await desk.json(.apiRequestAmend, ["request": request.text], body: json, once: once))
            }
        }
    }

    struct Renew: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Ask for another term before the grant ends.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var once: OnceOption
        @Argument(help: "The granted request's id.") var request: RequestID
        @Option(help: "For how many months from then on.") var months: Int
        @Option(help: "KIND=FILE[@DAY]: a document in the place of those of its kind; may be given again.")
        var document: [DocumentArgument] = []

        func run() async throws {
            let body: JSON = [
                "termMonths": .integer(Int64(months)), "documents": .array(try document.map { try $0.json() }),
            ]
            try await options.withDesk(as: actor) { desk in
                Answer.request(
                    try await desk.json(.apiRequestRenew, ["request": request.text], body: body, once: once))
            }
        }
    }

    struct Withdraw: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Take back a request that nobody has decided yet.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID
        @Option(help: "Why; kept with the record.") var reason = ""

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(
                    .apiRequestWithdraw, ["request": request.text], body: ["reason": .string(reason)])
                return Answer(answer, ["Request \(request) is withdrawn."])
            }
        }
    }

    struct Document: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Add a document to a granted request, by its hash; the document stays here.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID
        @Argument(help: "KIND=FILE[@DAY], such as ethics=approval.pdf@2027-01-31.") var document: DocumentArgument

        func run() async throws {
            let body = try document.json()
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(.apiRequestDocument, ["request": request.text], body: body)
                return Answer(answer, ["Added \(body.text("kind")) \(body.text("digest"))."])
            }
        }
    }

    struct CloseOut: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "close-out", abstract: "Report that the data are not used any more; the grant ends.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID
        @Option(help: "What was done with the data, in a sentence.") var report: String
        @Flag(help: "Nobody keeps a copy, and what was agreed to is done.") var confirm = false

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                Answer.request(
                    try await desk.json(
                        .apiRequestClose, ["request": request.text],
                        body: ["report": .string(report), "confirmed": .bool(confirm)]))
            }
        }
    }

    struct ConfirmClosure: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "confirm-closure", abstract: "Confirm what was reported at the end of a grant.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The request's id.") var request: RequestID
        @Option(help: "What you found; kept with the record.") var comment = ""

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                Answer.request(
                    try await desk.json(
                        .apiClosureConfirm, ["request": request.text], body: ["comment": .string(comment)]))
            }
        }
    }

    struct Form: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what a data set asks of a request beyond what every request says.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The data set.") var dataset: DatasetID?
        @Flag(help: "Print the JSON Schema of such a form's file, for editors; needs no home.") var schema = false

        func validate() throws {
            guard schema != (dataset != nil) else { throw ValidationError("name a data set, or ask for --schema") }
        }

        func run() async throws {
            guard let dataset else { return print(Gateway.formSchema.canonicalText) }
            try await options.withDesk(as: actor) { desk in
                let form = try await desk.json(.apiDatasetForm, ["dataset": dataset.text])
                let rows = (form["fields"]?.arrayValue ?? []).map { field in
                    [
                        field.text("id"), field.text("kind"), field["required"]?.boolValue == true ? "must" : "",
                        field["label"]?.text("en") ?? "",
                    ]
                }
                return Answer(
                    form,
                    ["\(form["title"]?.text("en") ?? ""); \"form\": \"\(form.text("digest"))\", \"answers\": {…}"]
                        + table(rows))
            }
        }
    }

    struct Matrix: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print what may be done with a request, in which state, by whom; needs no home.")
        @Flag(help: "Print JSON.") var json = false

        func run() { print(json ? RequestLife.json.canonicalText : RequestLife.markdown) }
    }

    struct Draft: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Requests that you are writing; nobody else sees them.",
            subcommands: [Save.self, List.self, Show.self, Discard.self, File.self])

        struct Save: AsyncParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Keep a form, however unfinished.")
            @OptionGroup var options: HomeOptions
            @OptionGroup var actor: ActorOption
            @Argument(help: "The form as far as it goes (JSON).") var form: String
            @Option(help: "The draft to save over; a new one when left out.") var draft: DraftID?
            @Option(help: "Refuse where the draft has another version than this by now.") var ifVersion: Int?

            func run() async throws {
                let json = try requestForm(form)
                try await options.withDesk(as: actor) { desk in
                    var call = APICall(draft == nil ? .apiDraftCreate : .apiDraftSave, body: json)
                    if let draft { call.path = ["draft": draft.text] }
                    call.ifRevision = ifVersion.map { "draft-\($0)" }
                    let answer = try await desk.json(call)
                    return Answer(
                        answer,
                        [
                            "Draft \(answer.text("draft")), version \(answer.number("version")), saved \(answer.text("saved"))."
                        ])
                }
            }
        }

        struct List: AsyncParsableCommand {
            static let configuration = CommandConfiguration(abstract: "List your drafts.")
            @OptionGroup var options: HomeOptions
            @OptionGroup var actor: ActorOption

            func run() async throws {
                try await options.withDesk(as: actor) { desk in
                    let drafts = try await desk.json(.apiDrafts)["drafts"]?.arrayValue ?? []
                    return Answer(
                        .array(drafts),
                        table(
                            drafts.map {
                                [
                                    $0.text("draft"), $0["form"]?["dataset"]?.stringValue ?? "–",
                                    "saved \($0.text("saved"))",
                                ]
                            }))
                }
            }
        }

        struct Show: AsyncParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Print a draft's form.")
            @OptionGroup var options: HomeOptions
            @OptionGroup var actor: ActorOption
            @Argument(help: "The draft's id.") var draft: DraftID

            func run() async throws {
                try await options.withDesk(as: actor) { desk in
                    let answer = try await desk.json(.apiDraft, ["draft": draft.text])
                    return Answer(answer, [(answer["form"] ?? [:]).canonicalText])
                }
            }
        }

        struct Discard: AsyncParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Throw a draft away.")
            @OptionGroup var options: HomeOptions
            @OptionGroup var actor: ActorOption
            @Argument(help: "The draft's id.") var draft: DraftID

            func run() async throws {
                try await options.withDesk(as: actor) { desk in
                    _ = try await desk.reply(to: APICall(.apiDraftDiscard, path: ["draft": draft.text]))
                    return Answer(["draft": .string(draft.text)], ["Draft \(draft) is gone."])
                }
            }
        }

        struct File: AsyncParsableCommand {
            static let configuration = CommandConfiguration(abstract: "File what a draft says; the draft is gone then.")
            @OptionGroup var options: HomeOptions
            @OptionGroup var actor: ActorOption
            @Argument(help: "The draft's id.") var draft: DraftID

            func run() async throws {
                try await options.withDesk(as: actor) { desk in
                    Answer.request(try await desk.json(.apiDraftFile, ["draft": draft.text]))
                }
            }
        }
    }
}

struct NoticeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "notice", abstract: "What you should look at.", subcommands: [List.self, Read.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List your notices.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let notices = try await desk.items(.apiNotices)
                return Answer(
                    .array(notices),
                    table(
                        notices.map {
                            [
                                "\($0.number("notice"))", $0["read"]?.boolValue == true ? "" : "new", $0.text("time"),
                                $0.text("code"), $0.text("about"),
                            ]
                        }))
            }
        }
    }

    struct Read: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Mark your notices as read, up to one.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The number of the last one.") var notice: Int

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(.apiNoticesRead, body: ["up_to": .integer(Int64(notice))])
                return Answer(answer, ["\(answer.number("unread")) unread."])
            }
        }
    }
}
