import ArgumentParser
import Foundation
import Gateway
import Glibc
import Vocabulary
import WebAPI

/// Which home or service a command works on, and how its answer is printed.
struct HomeOptions: ParsableArguments {
    @Option(help: "The gateway's home folder. Default: SEKISHO_HOME.")
    var home: String?

    @Option(
        help: "The file with the key that unseals the home. Default: SEKISHO_KEY_FILE, else a passphrase is asked for.")
    var keyFile: String?

    @OptionGroup(title: "A service instead of a home")
    var service: ServiceOptions

    @Flag(help: "Print the answer as JSON.")
    var json = false

    var homeFolder: URL {
        get throws {
            guard let path = home ?? ProcessInfo.processInfo.environment["SEKISHO_HOME"], !path.isEmpty else {
                throw ValidationError("say which home: --home FOLDER, or set SEKISHO_HOME")
            }
            return URL(fileURLWithPath: path, isDirectory: true)
        }
    }

    func unsealing() throws -> HomeKey {
        if let path = keyFile ?? ProcessInfo.processInfo.environment["SEKISHO_KEY_FILE"], !path.isEmpty {
            return .keyFile(URL(fileURLWithPath: path))
        }
        return try Self.passphrase()
    }

    /// Asked for on the terminal.
    static func passphrase() throws -> HomeKey {
        guard isatty(STDIN_FILENO) == 1, let typed = getpass("Passphrase: ") else {
            throw ValidationError(
                "say how to unseal: --key-file FILE, or SEKISHO_KEY_FILE, or a terminal for a passphrase")
        }
        defer { explicit_bzero(typed, strlen(typed)) }
        return .passphrase(Array(UnsafeRawBufferPointer(start: typed, count: strlen(typed))))
    }

    /// Whether a command asks a service and not a home of its own.
    var isService: Bool { get throws { try home == nil && service.desk() != nil } }

    /// Asks the service, if one is named, or the home's own gateway, and prints what `body` answers.
    ///
    /// - Parameters:
    ///   - actor: who asks in the embedded mode; a service knows it from the token.
    ///   - first: who asks where nobody is known yet and nobody is named.
    func withDesk(
        as actor: ActorOption, first: PersonID? = nil, _ body: (any Desk) async throws -> Answer
    ) async throws {
        guard home == nil, let desk = try service.desk() else {
            return try await withGateway { gateway in
                let isNew = actor.person == nil && gateway.people.isEmpty
                return try await body(EmbeddedDesk(gateway, as: isNew ? first ?? actor.required : actor.required))
            }
        }
        guard actor.person == nil else {
            throw ValidationError("--as is for a home of your own; a service knows from the token who asks")
        }
        let answer: Answer
        do {
            answer = try await body(desk)
        } catch {
            await desk.close()
            throw error
        }
        await desk.close()
        try answer.end(asJSON: json)
    }

    /// Opens the gateway, lets `body` use it, closes it again and prints what `body` answers.
    func withGateway(
        reanchoring: PersonID? = nil, _ body: (Gateway) async throws -> Answer
    ) async throws {
        guard service.server == nil else {
            throw ValidationError("this works on the home itself, on the host of the service; leave --server out")
        }
        let gateway = try await Gateway(home: homeFolder, key: unsealing(), reanchoring: reanchoring)
        for finding in await gateway.findings { complain(finding, prefix: "note: ") }
        let answer: Answer
        do {
            answer = try await body(gateway)
        } catch {
            await gateway.close()
            throw error
        }
        await gateway.close()
        try answer.end(asJSON: json)
    }
}

/// Who acts. In this embedded mode the operating system's user who holds the home's key answers for it.
struct ActorOption: ParsableArguments {
    @Option(name: .customLong("as"), help: "The person who does this; with --server the token says it.")
    var person: PersonID?

    var required: PersonID {
        get throws {
            guard let person else { throw ValidationError("say who does this: --as PERSON") }
            return person
        }
    }
}

/// Which service a command asks, and what proves who asks.
struct ServiceOptions: ParsableArguments {
    @Option(
        help: "Ask the service at this https address instead of a home. Default: SEKISHO_SERVER, if no home is named.")
    var server: String?

    @Option(
        help: "The file with the token that the service knows you by. Default: SEKISHO_TOKEN_FILE, else SEKISHO_TOKEN.")
    var tokenFile: String?

    @Option(help: "Trust only the authorities in this PEM file. Default: SEKISHO_SERVER_CA, else the machine's own.")
    var serverCa: String?

    @Option(help: "Trust only the server's certificate with this SHA-256 fingerprint. Default: SEKISHO_SERVER_PIN.")
    var serverPin: String?

    /// `nil` where no service is named.
    func desk() throws -> HTTPDesk? {
        let environment = ProcessInfo.processInfo.environment
        func given(_ option: String?, _ name: String) -> String? {
            (option ?? environment[name]).flatMap { $0.isEmpty ? nil : $0 }
        }
        let isHomeGiven = server == nil && environment["SEKISHO_HOME"]?.isEmpty == false
        guard !isHomeGiven, let base = given(server, "SEKISHO_SERVER") else { return nil }
        let token: String
        if let path = given(tokenFile, "SEKISHO_TOKEN_FILE") {
            token = try GatewayFile.read(URL(fileURLWithPath: path), role: "token file")
        } else if let text = environment["SEKISHO_TOKEN"], !text.isEmpty {
            token = text
        } else {
            throw ValidationError("say what the service knows you by: --token-file FILE, or set SEKISHO_TOKEN")
        }
        let trust: HTTPDesk.Trust
        switch (given(serverPin, "SEKISHO_SERVER_PIN"), given(serverCa, "SEKISHO_SERVER_CA")) {
        case (nil, nil): trust = .system
        case (nil, let path?):
            trust = .authorities(
                Array(try GatewayFile.read(URL(fileURLWithPath: path), role: "file of authorities").utf8))
        case (let pin?, _):
            guard let digest = Digest(hex: pin.filter { $0 != ":" }.lowercased()) else {
                throw ValidationError(
                    "a fingerprint is 64 hexadecimal digits, as openssl x509 -fingerprint -sha256 prints")
            }
            trust = .fingerprint(digest)
        }
        return try HTTPDesk(
            base: base, token: token.trimmingCharacters(in: .whitespacesAndNewlines), trust: trust)
    }
}

/// What a command says: the same facts for people and for scripts.
struct Answer {
    let json: JSON
    let lines: [String]
    /// The answer is complete, but the command ends with this error's status.
    var failure: GatewayError?

    init(_ json: JSON, _ lines: [String], failure: GatewayError? = nil) {
        self.json = json
        self.lines = lines
        self.failure = failure
    }

    /// Prints the answer, and ends the command with its failure, if it has one.
    func end(asJSON: Bool) throws {
        print(asJSON: asJSON)
        if let failure { throw failure }
    }

    func print(asJSON: Bool) {
        if asJSON {
            Swift.print(json.canonicalText)
        } else {
            for line in lines { Swift.print(line) }
        }
    }
}

extension Identifier: ExpressibleByArgument {
    public init?(argument: String) { try? self.init(argument) }
}

/// Columns that line up; the last one is not padded.
func table(_ rows: [[String]]) -> [String] {
    guard let first = rows.first else { return [] }
    let widths = first.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
        row.enumerated().map { column, text in
            column == row.count - 1 ? text : text + String(repeating: " ", count: widths[column] - text.count)
        }.joined(separator: "  ")
    }
}
