import ArgumentParser
import Foundation
import Gateway
import Vocabulary
import WebAPI

struct AccessCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "access", abstract: "Take access away: see what that stops, do it, undo it.",
        subcommands: [Show.self, Revoke.self, Restore.self])

    /// Whose access, or which grant.
    struct Target: ParsableArguments {
        @Argument(help: "The person.") var person: PersonID?
        @Option(help: "One grant instead of all of a person's access.") var grant: GrantID?

        func validate() throws {
            guard (person == nil) != (grant == nil) else {
                throw ValidationError("name a person, or a grant with --grant")
            }
        }

        var path: [String: String] { grant.map { ["grant": $0.text] } ?? ["person": person?.text ?? ""] }
        func route(person: Route, grant: Route) -> Route { self.grant == nil ? person : grant }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show what somebody's access reaches now: grants, requests that wait, runs.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var target: Target

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                Answer.reach(
                    try await desk.json(
                        target.route(person: .apiPersonAccess, grant: .apiGrantReach), target.path), "would end")
            }
        }
    }

    struct Revoke: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take all of a person's access away, or one grant, at once.",
            discussion: """
                Grants end, requests that wait are refused, and runs are stopped, also in the middle of an epoch; their \
                devices are scrubbed. Until the access is restored, no request of the person's is granted. The person \
                sees the reason and who revoked it. With --preview nothing is done.
                """)
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @OptionGroup var target: Target
        @Option(help: "Why: \(RevocationReason.allCases.map(\.rawValue).joined(separator: ", ")).")
        var reason: RevocationReason?
        @Option(help: "More about it, for the records only.") var comment = ""
        @Flag(help: "Show what it would stop, and do nothing.") var preview = false

        func validate() throws {
            guard preview || reason != nil else { throw ValidationError("say why: --reason") }
        }

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                guard !preview, let reason else {
                    return Answer.reach(
                        try await desk.json(
                            target.route(person: .apiPersonAccess, grant: .apiGrantReach), target.path), "would end")
                }
                return Answer.reach(
                    try await desk.json(
                        target.route(person: .apiPersonAccessRevoke, grant: .apiGrantRevoke), target.path,
                        body: ["reason": .string(reason.rawValue), "comment": .string(comment)]), "ended")
            }
        }
    }

    struct Restore: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Let a person be granted access again. What was revoked stays revoked.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The person.") var person: PersonID
        @Option(help: "Why, in a sentence.") var comment: String

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(
                    .apiPersonAccessRestore, ["person": person.text], body: ["comment": .string(comment)])
                return Answer(answer, ["\(person) may be granted access again; what was revoked stays revoked."])
            }
        }
    }
}

extension RevocationReason: ExpressibleByArgument {}

extension Answer {
    /// - Parameter verb: what becomes of it all.
    fileprivate static func reach(_ reach: JSON, _ verb: String) -> Answer {
        func items(_ name: String) -> [JSON] { reach[name]?.arrayValue ?? [] }
        let rows =
            items("grants").map {
                ["grant \($0.text("grant"))", $0.text("dataset"), $0.text("origin"), "until \($0.text("expires"))"]
            }
            + items("requests").map {
                ["request \($0.text("request"))", $0.text("dataset"), "waiting", "since \($0.text("filed"))"]
            }
            + items("runs").map {
                [
                    "run \($0.text("run"))", $0.text("dataset"), $0.text("stage"),
                    $0["holds_device"]?.boolValue == true ? "holds a device" : "holds no device",
                ]
            }
        let person = reach.text("person")
        var lines = table(rows)
        lines.append(rows.isEmpty ? "\(person): nothing \(verb)." : "\(person): \(rows.count) things \(verb).")
        if let revocation = reach["revocation"], revocation != .null {
            lines.append("Access is revoked (\(revocation.text("reason"))), by \(revocation.text("by")).")
        }
        return Answer(reach, lines)
    }
}

struct ReviewCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "review", abstract: "What waits for a reviewer's word.", subcommands: [List.self])

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List requests, emergencies to look at afterwards and releases that wait for your word.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Flag(help: "Everything that waits and that you may see.") var all = false

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let reviews = try await desk.items(.apiReviews, query: [("scope", all ? "all" : "mine")])
                return Answer(
                    .array(reviews),
                    table(
                        reviews.map {
                            [
                                $0.text("kind"), $0.text($0.text("kind") == "release" ? "run" : "request"),
                                $0.text("dataset"), $0.text("owner"), "since \($0.text("since"))",
                            ]
                        }))
            }
        }
    }
}

struct PassportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "passport", abstract: "GA4GH Passports: present yours; whose are trusted; whose is whose.",
        subcommands: [Add.self, Show.self, Trust.self, Issuers.self, Link.self])

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Present your GA4GH Passport. What counts of it takes the place of what you presented before.",
            discussion: "The file holds the passport's signed token. An operator must have linked its identity to you.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The file with the passport.") var file: String

        func run() async throws {
            let text = try GatewayFile.read(URL(fileURLWithPath: file), role: "passport")
                .trimmingCharacters(in: .whitespacesAndNewlines)
            try await options.withDesk(as: actor) { desk in
                Answer.passport(try await desk.json(.apiPassportPresent, body: ["passport": .string(text)]))
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show your visas, and which count now.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in Answer.passport(try await desk.json(.apiPassport)) }
        }
    }

    struct Trust: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Set whose passports and visas count here; config/passports.yaml shows the format.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The list of issuers (YAML).") var file: String

        func run() async throws {
            let text = try GatewayFile.read(URL(fileURLWithPath: file), role: "list of issuers")
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(.apiPassportTrust, body: ["file": .string(text)])
                return Answer(answer, ["\(answer.texts("issuers").count) issuers are trusted."])
            }
        }
    }

    struct Issuers: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show whose passports and visas count here.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(.apiPassportIssuers)
                return Answer(answer, answer.texts("issuers"))
            }
        }
    }

    struct Link: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say that an identity of an issuer is this person, or no longer is (--remove).",
            discussion: "See that it is: whoever presents a passport of this identity then counts as this person.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The person.") var person: PersonID
        @Option(help: "The issuer's address, as its passports write it.") var issuer: String
        @Option(help: "The person's identifier at the issuer (sub).") var subject: String
        @Flag(help: "Take the link back.") var remove = false

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(
                    .apiIdentityLink, ["person": person.text],
                    body: ["issuer": .string(issuer), "subject": .string(subject), "linked": .bool(!remove)])
                return Answer(answer, [remove ? "The link is taken back." : "The identity is linked to \(person)."])
            }
        }
    }
}

extension Answer {
    fileprivate static func passport(_ passport: JSON) -> Answer {
        let visas = (passport["visas"]?.arrayValue ?? []).map {
            [
                $0.text("type"), $0["counts"]?.boolValue == true ? "counts" : "does not count",
                "until \($0.text("expires"))", $0.text("value"),
            ]
        }
        let refused = (passport["refused"]?.arrayValue ?? []).map {
            "visa \($0["number"]?.integerValue ?? 0) is refused: \($0.text("explanation")) (\($0.text("reason")))"
        }
        return Answer(passport, table(visas) + refused)
    }
}
