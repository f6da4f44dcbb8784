import ArgumentParser
import Foundation
import Gateway
import Glibc
import Vocabulary
import WebAPI

/// `person password`.
struct PersonPassword: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "password", abstract: "Give a person a password to sign in with at the pages.",
        discussion: """
            The password is asked for twice on a terminal, or read from --file, whose one line it is; it is never an \
            argument. The person's sessions end.
            """)
    @OptionGroup var options: HomeOptions
    @Argument(help: "The person.") var person: PersonID
    @Option(help: "A file with the password as its one line.") var file: String?
    @Option(name: .customLong("as"), help: "Who does this: the person, or an operator.") var actor: PersonID?

    func run() async throws {
        var typed = try password()
        defer { for index in typed.indices { typed[index] = 0 } }
        let proof = try SecretProof.ofPassword(typed)
        try await options.withGateway { gateway in
            try await gateway.setPassword(of: person, to: proof, by: actor)
            return Answer(["person": .string(person.text)], ["\(person) has a new password; open sessions are over."])
        }
    }

    private func password() throws -> [UInt8] {
        if let file {
            let text = try GatewayFile.read(URL(fileURLWithPath: file), role: "password file")
            return Array(text.utf8.prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") })
        }
        guard isatty(STDIN_FILENO) == 1 else { throw ValidationError("give --file FILE, or a terminal to type on") }
        let first = Self.ask("New password: ")
        guard first == Self.ask("Once more: ") else { throw ValidationError("the two differ; nothing was changed") }
        return first
    }

    private static func ask(_ prompt: String) -> [UInt8] {
        guard let typed = getpass(prompt) else { return [] }
        defer { explicit_bzero(typed, strlen(typed)) }
        return Array(UnsafeRawBufferPointer(start: typed, count: strlen(typed)))
    }
}

/// `person certificate`.
struct PersonCertificate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "certificate",
        abstract: "Make a certificate with which a machine acts for a person (mutual TLS; tls.machines must be true).")
    @OptionGroup var options: HomeOptions
    @OptionGroup var actor: ActorOption
    @Argument(help: "The person, who has the roles that the machine needs.") var person: PersonID
    @Option(help: "What it may be used for; may be repeated: \(scopeNames).") var scope: [Scope]
    @Option(help: "For how many days.") var days = 90
    @Option(help: "Where to put machine.pem, machine.key and ca.pem; carry them to the machine over a safe path.")
    var out: String

    func run() async throws {
        try await options.withGateway { gateway in
            let key = try await gateway.enrolMachine(
                for: person, scopes: Set(scope), validSeconds: try seconds(days),
                into: URL(fileURLWithPath: out, isDirectory: true), by: actor.required)
            return Answer(
                [
                    "token": .string(key.id.text), "person": .string(person.text),
                    "expires": .string(key.expires.description),
                ],
                ["Certificate \(key.id) for \(person), until \(key.expires)."])
        }
    }
}

struct TokenCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "token", abstract: "Tokens for the API: create, list, revoke.",
        subcommands: [Create.self, List.self, Revoke.self])

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a token for yourself. It is shown once; only its Argon2id is kept.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Option(help: "What it may be used for; may be repeated: \(scopeNames).") var scope: [Scope]
        @Option(help: "For how many days.") var days = 30
        @Option(help: "Write the token into this new file, for nobody else to read, instead of printing it.")
        var out: String?

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                var members =
                    try await desk.json(
                        .apiTokenCreate,
                        body: [
                            "scopes": .array(Set(scope).map(\.rawValue).sorted().map(JSON.string)),
                            "valid_seconds": .integer(try seconds(days)),
                        ]
                    ).objectValue ?? [:]
                let text = members["text"]?.stringValue ?? ""
                if let out {
                    try writePrivately(text, to: out)
                    members["text"] = nil
                }
                let answer = JSON.object(members)
                return Answer(
                    answer,
                    [
                        "Token \(answer.text("token")), until \(answer.text("expires")).",
                        out == nil ? text : "It is in the file; nobody can show it again.",
                    ])
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List your tokens and certificates.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let tokens = try await desk.json(.apiTokens)["tokens"]?.arrayValue ?? []
                return Answer(
                    .array(tokens),
                    table(
                        tokens.map { token in
                            [
                                token.text("token"), token.text("kind"), token.texts("scopes").joined(separator: ","),
                                token["revoked"]?.boolValue == true ? "revoked" : "until \(token.text("expires"))",
                            ]
                        }))
            }
        }
    }

    struct Revoke: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "End a token or certificate for good. Operators and security officers end anybody's.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The token's id.") var token: AccessKeyID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                _ = try await desk.reply(to: APICall(.apiTokenRevoke, path: ["token": token.text]))
                return Answer(["token": .string(token.text)], ["Token \(token) is revoked."])
            }
        }
    }
}

extension Scope: ExpressibleByArgument {}

private let scopeNames = Scope.allCases.map(\.rawValue).joined(separator: ", ")

private func seconds(_ days: Int) throws -> Int64 {
    guard (1...366).contains(days) else { throw ValidationError("--days is from 1 to 366") }
    return Int64(days) * 86_400
}

/// A file that did not exist, readable by its owner only.
private func writePrivately(_ text: String, to path: String) throws {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw ValidationError("the token's file exists already, or cannot be made") }
    defer { close(descriptor) }
    let bytes = Array("\(text)\n".utf8)
    guard write(descriptor, bytes, bytes.count) == bytes.count, fsync(descriptor) == 0 else {
        throw ValidationError("the token's file cannot be written; revoke the token")
    }
}
