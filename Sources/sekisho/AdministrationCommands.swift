import ArgumentParser
import Foundation
import Gateway
import Vocabulary
import WebAPI

struct Initialise: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Make a new home: vault, trail and database.",
        discussion: """
            Auditors' and the recovery key's public halves come from `sekisho audit keygen`. The private halves are
            kept elsewhere: after a run is closed, nobody without one of them can read its records, not even this host.
            """)

    @OptionGroup var options: HomeOptions
    @Option(help: "The log's name, as in its checkpoints; a host name and a path.") var origin = "sekisho.local/trail"
    @Option(help: "Where the last signed head is kept; better on another volume.") var anchor: String?
    @Option(help: "An auditor's public key file; may be repeated.") var auditor: [String]
    @Option(help: "The recovery key's public key file.") var recovery: String

    func run() async throws {
        let identity = try await Gateway.initialise(
            home: options.homeFolder, key: options.unsealing(), origin: origin,
            anchor: anchor.map { URL(fileURLWithPath: $0) }, auditors: auditor.map { URL(fileURLWithPath: $0) },
            recovery: URL(fileURLWithPath: recovery))
        Answer(
            ["trail": .string(identity)],
            ["The home is ready. Trail identity, for nodes and auditors:", identity]
        ).print(asJSON: options.json)
    }
}

struct PKI: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pki", abstract: "Certificates of the fabric: an authority, the gateway, the nodes.",
        subcommands: [Init.self, NodeIdentity.self])

    struct Init: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "init", abstract: "Make the fabric's certificate authority and the gateway's certificate.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withGateway { gateway in
                try await gateway.initialisePKI(by: actor.required)
                return Answer(
                    ["done": true], ["The fabric's certificate authority and the gateway's certificate are made."])
            }
        }
    }

    struct NodeIdentity: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "node",
            abstract: "Make the folder that a device node needs: certificate, keys, trail identity.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The node's name.") var node: NodeID
        @Option(help: "Where to put the folder; carry it to the node over a safe path.") var out: String

        func run() async throws {
            try await options.withGateway { gateway in
                try await gateway.makeNodeIdentity(
                    node, at: URL(fileURLWithPath: out, isDirectory: true), by: actor.required)
                return Answer(["node": .string(node.text)], ["The identity of \(node) is made; it is secret."])
            }
        }
    }
}

struct PersonCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "person", abstract: "People and their roles.",
        subcommands: [Add.self, List.self, PersonPassword.self, PersonCertificate.self])

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Add a person, or change one's roles.")
        @OptionGroup var options: HomeOptions
        @Argument(help: "The person's name here; letters, digits, . _ : -") var person: PersonID
        @Option(help: "A role, may be repeated: \(Role.allCases.map(\.rawValue).joined(separator: ", ")).")
        var role: [Role]
        @OptionGroup var actor: ActorOption

        func validate() throws {
            guard !role.isEmpty else { throw ValidationError("a person has at least one --role") }
        }

        func run() async throws {
            let roles = Set(role).map(\.rawValue).sorted()
            // Whoever holds the home's key names its first operator.
            try await options.withDesk(as: actor, first: person) { desk in
                let answer = try await desk.json(
                    .apiPersonAdd, ["person": person.text], body: ["roles": .array(roles.map(JSON.string))])
                return Answer(answer, ["\(person): \(answer.texts("roles").joined(separator: ", "))"])
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List the people; everybody but those who look after people sees themselves.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let people = try await desk.items(.apiPeople)
                return Answer(
                    .array(people),
                    table(people.map { [$0.text("person"), $0.texts("roles").joined(separator: ", ")] }))
            }
        }
    }
}

extension Role: ExpressibleByArgument {}

struct FabricCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fabric", abstract: "Device nodes: the pool a run takes its device from.",
        subcommands: [
            Add.self, Apply.self, List.self, Show.self, Measure.self, Line.self, Drain.self, Quarantine.self,
            Release.self,
        ])

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Add a node to a pool, or change its address.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The node's name, as in its certificate.") var node: NodeID
        @Option(help: "HOST:PORT where sekisho-node listens, or mptcp://HOST:PORT over several paths.") var address:
            String
        @Option(help: "The pool it belongs to.") var pool: String
        @Option(help: "The file with what `sekisho-node --measure` printed on the node's host.") var measurements:
            String

        func run() async throws {
            let measured = try GatewayFile.read(URL(fileURLWithPath: measurements), role: "measurements file")
            guard let digests = try? JSON(parsing: measured) else {
                throw ValidationError("the measurements are not what `sekisho-node --measure` prints")
            }
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(
                    .apiNodeAdd, ["node": node.text],
                    body: ["address": .string(address), "pool": .string(pool), "measurements": digests])
                return Answer(answer, ["\(node) is in pool \(pool)."])
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the nodes and who holds them.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let nodes = try await desk.items(.apiNodes)
                let columns = ["node", "pool", "address", "state"]
                let rows = nodes.map { node in
                    columns.map { node.text($0) } + [
                        node["holder"]?["run"]?.stringValue ?? "", node["holder"]?["ends_by"]?.stringValue ?? "",
                        health(of: node),
                    ]
                }
                return Answer(.array(nodes), table([columns + ["held by", "until", "answered"]] + rows))
            }
        }
    }

    struct Apply: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make the pool what an inventory file says: nodes, pools, quotas.",
            discussion: "config/fabric.yaml is an example. Nodes that the file does not name stay as they are.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The inventory file.", completion: .file(extensions: ["yaml", "yml"])) var file: String

        func run() async throws {
            let text = try GatewayFile.read(URL(fileURLWithPath: file), role: "inventory file")
            try await options.withDesk(as: actor) { desk in
                let answer = try await desk.json(
                    .apiInventory, body: ["inventory": .string(text)])
                let words = [
                    ("added", "added"), ("changed", "changed"), ("unchanged", "as before"),
                    ("unnamed", "not in the file, left as they are"),
                ]
                let lines = words.compactMap { key, words in
                    let nodes = answer.texts(key)
                    return nodes.isEmpty ? nil : "\(words): \(nodes.joined(separator: ", "))"
                }
                return Answer(answer, lines)
            }
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show a node: who holds it, why it is out of the pool, its link over time.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The node's name.") var node: NodeID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let report = try await desk.json(.apiNode, ["node": node.text])
                var lines = ["node", "pool", "address", "state"].map { "\($0)  \(report.text($0))" }
                if let holder = report["holder"], let run = holder["run"]?.stringValue {
                    let left = holder["seconds_left"]?.integerValue.map { ", about \($0) s to go" } ?? ""
                    lines.append("held by \(run) since \(holder.text("since"))\(left)")
                    lines += holder["ends_by"]?.stringValue.map { ["to be given back by \($0)"] } ?? []
                    lines += holder["lease_until"]?.stringValue.map { ["lease renewed until \($0)"] } ?? []
                }
                lines.append("answered  \(health(of: report))")
                if let quarantine = report["quarantine"], let code = quarantine["code"]?.stringValue {
                    lines.append("in quarantine since \(quarantine.text("since")): \(code)")
                }
                let links = report["links"]?.arrayValue ?? []
                let columns = ["at", "rtt_microseconds", "jitter_microseconds", "megabytes_per_second"]
                let rows = links.map { link in columns.map { cell(link, $0) } }
                return Answer(report, lines + (rows.isEmpty ? [] : [""] + table([columns] + rows)))
            }
        }
    }

    struct Measure: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Attest a free node and measure the link to it; kept with the links of its attachments.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The node's name.") var node: NodeID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let link = try await desk.json(.apiNodeMeasure, ["node": node.text])
                return Answer(
                    link,
                    [
                        """
                        round trip \(cell(link, "rtt_microseconds")) µs, jitter \(cell(link, "jitter_microseconds")) µs, \
                        \(cell(link, "megabytes_per_second")) MB/s over the control channel
                        """
                    ])
            }
        }
    }

    struct Line: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the runs that wait for a device, next first.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let waiting = try await desk.json(.apiDeviceLine)["waiting"]?.arrayValue ?? []
                let columns = ["place", "run", "researcher", "seconds_left"]
                let rows = waiting.map { run in columns.map { cell(run, $0) } }
                return Answer(.array(waiting), rows.isEmpty ? ["No run waits for a device."] : table([columns] + rows))
            }
        }
    }

    struct Drain: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Keep new runs off a node, for maintenance; one that has it goes on. `release` ends it.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The node's name.") var node: NodeID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                let report = try await desk.json(.apiNodeDrain, ["node": node.text])
                return Answer(report, ["\(node) takes no new runs; it is \(report.text("state"))."])
            }
        }
    }

    struct Quarantine: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Take a node out of the pool until it is attested again.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The node's name.") var node: NodeID
        @Option(help: "Why, as a code such as disk-swapped; it is recorded.") var reason: String

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                Answer(
                    try await desk.json(
                        .apiNodeQuarantine, ["node": node.text], body: ["reason": .string(reason)]),
                    ["\(node) is out of the pool; `sekisho fabric release \(node)` attests it again."])
            }
        }
    }

    struct Release: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Put a node back: out of a drain, or out of quarantine once it is attested and scrubbed again.")
        @OptionGroup var options: HomeOptions
        @OptionGroup var actor: ActorOption
        @Argument(help: "The node's name.") var node: NodeID

        func run() async throws {
            try await options.withDesk(as: actor) { desk in
                Answer(
                    try await desk.json(.apiNodeReinstate, ["node": node.text]),
                    ["\(node) is in the pool again."])
            }
        }
    }
}

/// A member as a table shows it: text or a number; nothing where it is not known.
private func cell(_ json: JSON, _ name: String) -> String {
    json[name]?.integerValue.map { String($0) } ?? json.text(name)
}

/// When a node answered last, or since when it does not.
private func health(of node: JSON) -> String {
    if let silent = node["silent_since"]?.stringValue { return "not since \(silent)" }
    return node["answered"]?.stringValue ?? "not asked yet"
}
