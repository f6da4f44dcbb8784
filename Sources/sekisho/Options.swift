import ArgumentParser
import Foundation
import Gateway
import Glibc
import Vocabulary

/// Which home a command works on, and how its answer is printed.
struct HomeOptions: ParsableArguments {
    @Option(help: "The gateway's home folder. Default: SEKISHO_HOME.")
    var home: String?

    @Option(
        help: "The file with the key that unseals the home. Default: SEKISHO_KEY_FILE, else a passphrase is asked for.")
    var keyFile: String?

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
        guard isatty(STDIN_FILENO) == 1, let typed = getpass("Passphrase: ") else {
            throw ValidationError(
                "say how to unseal: --key-file FILE, or SEKISHO_KEY_FILE, or a terminal for a passphrase")
        }
        defer { explicit_bzero(typed, strlen(typed)) }
        return .passphrase(Array(UnsafeRawBufferPointer(start: typed, count: strlen(typed))))
    }

    /// Opens the gateway, lets `body` use it, closes it again and prints what `body` answers.
    func withGateway(
        reanchoring: PersonID? = nil, _ body: (Gateway) async throws -> Answer
    ) async throws {
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
        answer.print(asJSON: json)
        if let failure = answer.failure { throw failure }
    }
}

/// Who acts. In this embedded mode the operating system's user who holds the home's key answers for it.
struct ActorOption: ParsableArguments {
    @Option(name: .customLong("as"), help: "The person who does this.")
    var person: PersonID
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
