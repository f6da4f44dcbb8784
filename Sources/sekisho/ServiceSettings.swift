import ArgumentParser
import Configuration
import Foundation
import Gateway
import Synchronization
import Vocabulary

/// Everything that can be set about the service, once: its name in a profile, what it means, and what it is when
/// nobody says otherwise. In the environment `listen.port` is `SEKISHO_LISTEN_PORT`.
enum Setting: String, CaseIterable {
    case home
    case keyFile = "key-file"
    case host = "listen.host"
    case port = "listen.port"
    case certificate = "tls.certificate"
    case key = "tls.key"
    case names = "tls.names"
    case machines = "tls.machines"
    case connections = "limits.connections"
    case idleSeconds = "limits.idle-seconds"
    case accountPerSecond = "limits.account-per-second"
    case addressPerSecond = "limits.address-per-second"
    case failuresPerAddress = "limits.failures-per-address"
    case sessionIdleMinutes = "session.idle-minutes"
    case sessionHours = "session.hours"
    case runsAtOnce = "runs.at-once"
    case mailProgram = "mail.program"
    case mailSpool = "mail.spool"
    case drainSeconds = "drain-seconds"
    case logLevel = "log.level"

    enum Kind: Equatable {
        case text
        case number(ClosedRange<Int>)
        case truth
        case oneOf([String])
    }

    var kind: Kind {
        switch self {
        case .home, .keyFile, .host, .certificate, .key, .names, .mailProgram, .mailSpool: .text
        case .port: .number(0...65_535)
        case .machines: .truth
        case .connections: .number(1...100_000)
        case .idleSeconds: .number(5...3600)
        case .accountPerSecond, .addressPerSecond: .number(1...100_000)
        case .failuresPerAddress: .number(5...100_000)
        case .sessionIdleMinutes: .number(1...1440)
        case .sessionHours: .number(1...72)
        case .runsAtOnce: .number(1...64)
        case .drainSeconds: .number(1...3600)
        case .logLevel: .oneOf(["debug", "info", "warning", "error"])
        }
    }

    /// An empty one must be given, or is not needed.
    var preset: String {
        switch self {
        case .home, .keyFile, .certificate, .key, .mailProgram, .mailSpool: ""
        case .host: "127.0.0.1"
        case .port: "8443"
        case .names: "localhost,127.0.0.1"
        case .machines: "false"
        case .connections: "512"
        case .idleSeconds: "75"
        case .accountPerSecond: "100"
        case .addressPerSecond: "50"
        case .failuresPerAddress: "20"
        case .sessionIdleMinutes: "30"
        case .sessionHours: "10"
        case .runsAtOnce: "4"
        case .drainSeconds: "30"
        case .logLevel: "info"
        }
    }

    var words: String {
        switch self {
        case .home: "the gateway's home folder"
        case .keyFile: "the file with the key that unseals the home"
        case .host: "the address to listen on"
        case .port: "the port to listen on; 0 takes a free one"
        case .certificate: "PEM file with the certificate chain; without one the home's own authority issues one"
        case .key: "PEM file with the certificate's key"
        case .names: "host names and addresses in the certificate that the home issues"
        case .machines: "whether machines may show certificates of the home's door authority"
        case .connections: "connections at once"
        case .idleSeconds: "seconds after which a silent connection is closed"
        case .accountPerSecond: "requests a second of one session, token or machine"
        case .addressPerSecond: "requests a second of one address before anybody is known"
        case .failuresPerAddress:
            "wrong passwords and tokens from one address before it is locked for 15 minutes; more where many share one"
        case .sessionIdleMinutes: "minutes after which an unused session ends"
        case .sessionHours: "hours after which a session ends"
        case .runsAtOnce: "runs that are worked on at once"
        case .mailProgram:
            "program that is run once a notice, with recipient and template as JSON on its input; no shell"
        case .mailSpool: "folder for notices to go out, one JSON file each, in the place of a program"
        case .drainSeconds: "seconds that requests have to finish when the service stops"
        case .logLevel: "what is logged at least"
        }
    }

    var environmentName: String {
        "SEKISHO_" + rawValue.uppercased().map { $0.isLetter || $0.isNumber ? String($0) : "_" }.joined()
    }

    /// Why `text` cannot be this setting's value; `nil` where it can.
    func fault(_ text: String) -> String? {
        switch kind {
        case .text: text.utf8.count <= 4096 && !text.utf8.contains(0) ? nil : "is too long or holds a zero byte"
        case .number(let range):
            Int(text).map(range.contains) == true ? nil : "is a number from \(range.lowerBound) to \(range.upperBound)"
        case .truth: ["true", "false"].contains(text) ? nil : "is true or false"
        case .oneOf(let words): words.contains(text) ? nil : "is one of \(words.joined(separator: ", "))"
        }
    }
}

/// The settings that hold: flags before environment before profile before what is preset.
struct ServiceSettings {
    struct Value: Equatable {
        let text: String
        /// Where it came from: `flag`, `environment`, `profile` or `preset`.
        let source: String
    }

    let values: [Setting: Value]

    /// - Parameters:
    ///   - flags: what the command line gives.
    ///   - profile: a JSON file of settings, by their names; one object deep for each dot.
    init(flags: [Setting: String], environment: [String: String], profile: URL?) throws {
        let sources: [(name: String, values: [Setting: String])] = [
            ("flag", flags), ("environment", Self.read(environment)),
            ("profile", try profile.map(Self.read(profile:)) ?? [:]),
            ("preset", Dictionary(uniqueKeysWithValues: Setting.allCases.map { ($0, $0.preset) })),
        ]
        for (name, values) in sources {
            for (setting, text) in values where text != setting.preset {
                if let fault = setting.fault(text) {
                    throw ValidationError("\(setting.rawValue), from the \(name), \(fault)")
                }
            }
        }
        let seen = LastSource()
        let reader = ConfigReader(
            providers: sources.map { source in
                InMemoryProvider(
                    name: source.name,
                    values: Dictionary(
                        uniqueKeysWithValues: source.values.map {
                            (Self.key($0), ConfigValue(.string($1), isSecret: false))
                        }
                    ))
            }, accessReporter: seen)
        var values: [Setting: Value] = [:]
        for setting in Setting.allCases {
            let text = reader.string(forKey: ConfigKey(setting.rawValue), default: setting.preset)
            let place = seen.index ?? sources.count - 1
            values[setting] = Value(text: text, source: sources[place].name)
        }
        self.values = values
    }

    subscript(setting: Setting) -> String { values[setting]?.text ?? setting.preset }

    /// A number that was checked when it was read.
    func number(_ setting: Setting) -> Int { Int(self[setting]) ?? 0 }
    func truth(_ setting: Setting) -> Bool { self[setting] == "true" }
    func file(_ setting: Setting) -> URL? { self[setting].isEmpty ? nil : URL(fileURLWithPath: self[setting]) }

    private static func key(_ setting: Setting) -> AbsoluteConfigKey {
        AbsoluteConfigKey(setting.rawValue.split(separator: ".").map(String.init))
    }

    private static func read(_ environment: [String: String]) -> [Setting: String] {
        var values: [Setting: String] = [:]
        for setting in Setting.allCases { values[setting] = environment[setting.environmentName] }
        return values.filter { !$0.value.isEmpty }
    }

    /// Unknown names are refused: a misspelt limit must not be no limit.
    private static func read(profile: URL) throws -> [Setting: String] {
        let text = try GatewayFile.read(profile, role: "profile")
        let json: JSON
        do throws(JSONError) {
            json = try JSON(parsing: text)
        } catch { throw ValidationError("the profile is not JSON: \(error)") }
        var values: [Setting: String] = [:]
        try collect(json, [], into: &values)
        return values
    }

    private static func collect(_ json: JSON, _ path: [String], into values: inout [Setting: String]) throws {
        guard let members = json.objectValue else {
            throw ValidationError("the profile is one JSON object of settings")
        }
        for (name, member) in members.sorted(by: { $0.key < $1.key }) {
            let place = path + [name]
            if member.objectValue != nil, place.count == 1 {
                try collect(member, place, into: &values)
                continue
            }
            guard let setting = Setting(rawValue: place.joined(separator: ".")) else {
                throw ValidationError("the profile has a setting that there is not: see `sekisho config show`")
            }
            switch member {
            case .string(let text): values[setting] = text
            case .integer(let number): values[setting] = "\(number)"
            case .bool(let truth): values[setting] = "\(truth)"
            default: throw ValidationError("\(setting.rawValue), from the profile, is a text, a number, true or false")
            }
        }
    }
}

/// Remembers which provider gave the value that was read last.
private final class LastSource: AccessReporter {
    private let place = Mutex<Int?>(nil)

    var index: Int? { place.withLock { $0 } }

    func report(_ event: AccessEvent) {
        let found = event.providerResults.firstIndex { result in
            if case .success(let lookup) = result.result { lookup.value != nil } else { false }
        }
        place.withLock { $0 = found }
    }
}

/// The flags of the service; each has the name of its setting.
struct ServiceFlags: ParsableArguments {
    @Option(help: "A profile: a JSON file of settings; config/profiles holds examples. Default: SEKISHO_PROFILE.")
    var profile: String?
    @Option(help: "The gateway's home folder.") var home: String?
    @Option(help: "The file with the key that unseals the home.") var keyFile: String?
    @Option(help: "The address to listen on.") var host: String?
    @Option(help: "The port to listen on; 0 takes a free one.") var port: String?
    @Option(help: "PEM file with the certificate chain.") var certificate: String?
    @Option(help: "PEM file with the certificate's key.") var key: String?
    @Option(help: "Any other setting, as NAME=VALUE; may be repeated.") var set: [String] = []

    func settings() throws -> ServiceSettings {
        var flags: [Setting: String] = [:]
        for pair in set {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, let setting = Setting(rawValue: String(parts[0])) else {
                throw ValidationError("--set is NAME=VALUE with a name that `sekisho config show` lists")
            }
            flags[setting] = String(parts[1])
        }
        let named: [(Setting, String?)] = [
            (.home, home), (.keyFile, keyFile), (.host, host), (.port, port), (.certificate, certificate), (.key, key),
        ]
        for (setting, value) in named { if let value { flags[setting] = value } }
        let environment = ProcessInfo.processInfo.environment
        let path = profile ?? environment["SEKISHO_PROFILE"]
        return try ServiceSettings(
            flags: flags, environment: environment,
            profile: path.flatMap { $0.isEmpty ? nil : URL(fileURLWithPath: $0) })
    }
}

struct ConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config", abstract: "The service's settings.", subcommands: [Show.self])

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Tell every setting, its value and where the value came from.",
            discussion: "Flags come before the environment, the environment before the profile.")
        @OptionGroup var flags: ServiceFlags
        @Flag(help: "Print the answer as JSON.") var json = false

        func run() throws {
            let settings = try flags.settings()
            let rows = Setting.allCases.map { ($0, settings.values[$0]!) }
            Answer(
                .array(
                    rows.map { setting, value in
                        [
                            "setting": .string(setting.rawValue), "value": .string(value.text),
                            "source": .string(value.source), "environment": .string(setting.environmentName),
                            "meaning": .string(setting.words),
                        ]
                    }),
                table(
                    [["setting", "value", "from", "meaning"]]
                        + rows.map { [$0.rawValue, $1.text.isEmpty ? "-" : $1.text, $1.source, $0.words] })
            ).print(asJSON: json)
        }
    }
}
