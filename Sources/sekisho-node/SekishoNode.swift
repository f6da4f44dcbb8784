import ArgumentParser
import Confinement
import DeviceNode
import Foundation
import Logging
import Vocabulary

/// The daemon on a GPU host: lends its device to one lease at a time.
@main
struct SekishoNode: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sekisho-node",
        abstract: "Lends this host's device to a Sekisho gateway, one attested and fenced lease at a time.",
        discussion: """
            The node listens; only a gateway with a certificate of the same authority reaches it. A lease needs a \
            receipt of the gateway's audit trail. SIGTERM ends the lease, scrubs the device memory and exits.

            Exit status: 0 done, 2 usage, 69 something needed is not available, such as the identity that \
            `sekisho pki node` makes.
            """)

    static func main() {
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch {
            let status = exitCode(for: error)
            let message = fullMessage(for: error)
            if status == .success {
                print(message)
            } else {
                FileHandle.standardError.write(Data("\(message)\n".utf8))
            }
            let isUsage = status == .validationFailure
            Foundation.exit(status == .success ? 0 : isUsage ? 2 : 69)
        }
    }

    @Option(help: "Folder with the identity that the gateway's authority made for this node.")
    var identity: String

    @Option(help: "Folder of the node's own, where it keeps its highest fence. Made if it is missing.")
    var state: String

    @Option(help: "Address and port to listen on, or mptcp://ADDRESS:PORT; port 0 takes a free one.")
    var listen = "127.0.0.1:0"

    @Option(help: "Write the port here once the node listens.")
    var portFile: String?

    @Option(help: "Device memory to offer, such as 512MiB or 2GiB.")
    var deviceMemory: ByteCount = ByteCount(bytes: 512 << 20)

    @Option(help: "Threads that compute.")
    var threads = 2

    @Flag(help: "Print the measurements that this node would sign, as JSON, and end.")
    var measure = false

    func run() throws {
        NodeProcess.holdSignals()
        let isLocked = try NodeProcess.harden()
        let identity = try NodeIdentity(folder: identity)
        let sandbox = Sandbox.available
        let configuration = try NodeConfiguration(
            deviceBytes: deviceMemory.bytes, threads: threads, stateFolder: state, sandbox: sandbox)
        if measure {
            return print(try NodeMeasurements(identity: identity, configuration: configuration).json.canonicalText)
        }
        try FileManager.default.createDirectory(
            atPath: state, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        let log = Logger(label: "sekisho-node", factory: { StreamLogHandler.standardError(label: $0) })
        let agent = try NodeAgent(identity: identity, configuration: configuration) { $0.write(to: log) }
        let bound = try agent.start(at: try listenAddress()) { bound in
            if let portFile {
                try Data("\(bound)\n".utf8).write(to: URL(fileURLWithPath: portFile), options: .atomic)
            }
            try NodeProcess.confine(sandbox, state: state)
        }
        if !isLocked { log.warning("the process's own memory is not locked", metadata: ["event": "unlocked"]) }
        if !sandbox.files { log.warning("this kernel has no Landlock: files stay in reach", metadata: unconfined) }
        if !sandbox.calls { log.warning("this kernel filters no system calls", metadata: unconfined) }
        FileHandle.standardOutput.write(Data("listening on port \(bound)\n".utf8))
        NodeProcess.waitForEnd()
        agent.shutdown()
    }

    private var unconfined: Logger.Metadata { ["event": "unconfined"] }

    private func listenAddress() throws -> NodeAddress {
        guard let address = NodeAddress(listen) else {
            throw ValidationError("--listen is an address, a colon and a port")
        }
        return address
    }
}

/// A number of bytes with an optional binary unit.
struct ByteCount: ExpressibleByArgument {
    let bytes: Int

    init(bytes: Int) { self.bytes = bytes }

    init?(argument: String) {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("", 0)]
        guard let (unit, shift) = units.first(where: { argument.hasSuffix($0.0) }),
            let number = Int(argument.dropLast(unit.count)), number > 0, number <= Int.max >> shift
        else { return nil }
        bytes = number << shift
    }

    var defaultValueDescription: String { "\(bytes >> 20)MiB" }
}

extension NodeEvent {
    fileprivate func write(to log: Logger) {
        var metadata: Logger.Metadata = ["event": "\(name)"]
        for (field, value) in fields { metadata[field] = "\(value)" }
        log.log(level: isProblem ? .warning : .info, "\(name)", metadata: metadata)
    }
}
