import ArgumentParser
import Dispatch
import Gateway
import Glibc
import WebAPI

@main
struct Sekisho: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sekisho",
        abstract: "A secure data enclave gateway: it pulls a remote GPU in instead of sending the data out.",
        discussion: """
            The journey: request → access decision → grant → run decision → open run → attach → plan → train →
            scrub → review release → close run → export audit.

            A command works on one home folder, given by --home or SEKISHO_HOME, that is opened with a key file
            (--key-file or SEKISHO_KEY_FILE) or a passphrase asked for on the terminal; or it asks the service at
            --server or SEKISHO_SERVER, with a token (--token-file, SEKISHO_TOKEN_FILE or SEKISHO_TOKEN).

            Exit status: 0 done, 2 usage, 3 refused by policy, 4 not found, 5 integrity failure,
            69 something needed is not available, 70 our bug.
            """,
        version: "0.1.0",
        subcommands: [
            Initialise.self, PKI.self, PersonCommand.self, PolicyCommand.self, DatasetCommand.self,
            ConsentCommand.self, SubjectCommand.self, FabricCommand.self, RequestCommand.self, NoticeCommand.self,
            GrantCommand.self, AccessCommand.self, ReviewCommand.self,
            PassportCommand.self, RunCommand.self, ReleaseCommand.self, AuditCommand.self, TrailCommand.self,
            TraceCommand.self,
            TokenCommand.self, Serve.self, ConfigCommand.self,
        ])

    static func main() async {
        // A reader that goes away ends the command, it does not kill the process in the middle of a write.
        signal(SIGPIPE, SIG_IGN)
        do {
            try await stoppable { try await run() }
        } catch {
            if let problem = error as? Problem {
                complain(problem.detail)
                for fault in problem.fields { complain("\(fault.field): \(fault.reason)", prefix: "  ") }
                Glibc.exit(problem.exitStatus)
            }
            if let error = GatewayError(error) {
                complain(error.publicDescription)
                Glibc.exit(error.exitStatus)
            }
            let status = exitCode(for: error)
            if status == .success || status == .validationFailure || error is ExitCode {
                let message = fullMessage(for: error)
                if !message.isEmpty { status == .success ? print(message) : complain(message, prefix: "") }
                Glibc.exit(status == .validationFailure ? 2 : status.rawValue)
            }
            // An error nobody has given a code is ours. Its type says where to look; its text might hold anything.
            complain("internal error of type \(type(of: error)); please report it")
            Glibc.exit(70)
        }
    }
}

extension Sekisho {
    private static func run() async throws {
        var command = try parseAsRoot()
        if var command = command as? any AsyncParsableCommand {
            try await command.run()
        } else {
            try command.run()
        }
    }

    /// SIGINT and SIGTERM cancel `body`, which then gives back what it holds; a second one ends the process at once,
    /// which is safe too, only less tidy.
    private static func stoppable(_ body: @escaping @Sendable () async throws -> Void) async throws {
        let work = Task { try await body() }
        let sources = [SIGINT, SIGTERM].map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number)
            source.setEventHandler {
                if work.isCancelled { Glibc.exit(128 + number) }
                complain("stopping; once more ends at once")
                work.cancel()
            }
            source.resume()
            return source
        }
        defer { for source in sources { source.cancel() } }
        try await work.value
    }
}

/// Writes to standard error, unbuffered.
func standardError(_ text: String) {
    let bytes = Array(text.utf8)
    _ = write(STDERR_FILENO, bytes, bytes.count)
}

/// One line on standard error.
func complain(_ text: String, prefix: String = "sekisho: ") {
    standardError("\(prefix)\(text)\n")
}

extension GatewayError {
    /// What scripts act on; see `sekisho --help`.
    var exitStatus: Int32 {
        switch code {
        case .usage, .changed, .keyReused: 2
        case .refused: 3
        case .notFound: 4
        case .integrity: 5
        case .unavailable, .trailFull, .busy: 69
        }
    }
}
