import ArgumentParser
import Foundation
import Gateway
import Glibc
import Logging
import ServiceLifecycle
import Vocabulary
import WebAPI

struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Serve a home: the API and the pages over TLS, and the runs that are open.",
        discussion: """
            Settings come from flags, the environment and a profile; `sekisho config show` tells which. SIGTERM or \
            SIGINT stops it: it takes no new connections, ends the requests it has, gives its devices back scrubbed \
            and exits. A second one exits at once. Without valid policies in force it does not start.
            """)
    @OptionGroup var flags: ServiceFlags
    @Option(help: "Write the port here once the service listens.") var portFile: String?

    func run() async throws {
        let settings = try flags.settings()
        guard let home = settings.file(.home) else {
            throw ValidationError("say which home: --home FOLDER, or SEKISHO_HOME, or home in the profile")
        }
        let level = Logger.Level(rawValue: settings[.logLevel]) ?? .info
        let logger = Logger(label: "sekisho") { LogLines(label: $0, level: level, clock: SystemClock()) }
        let gateway = try await Gateway(home: home, key: try unsealing(settings))
        do {
            try await gateway.requirePolicies()
            switch (settings.file(.mailProgram), settings.file(.mailSpool)) {
            case (let program?, nil): try await gateway.setMailHook(.program(program))
            case (nil, let folder?): try await gateway.setMailHook(.spool(folder))
            case (nil, nil): break
            default: throw ValidationError("mail.program and mail.spool are two answers to one question")
            }
            for finding in await gateway.findings { logger.warning("mended", metadata: ["finding": "\(finding)"]) }
            try await serve(gateway, settings, logger)
        } catch {
            await gateway.close()
            throw error
        }
        await gateway.close()
        logger.info("stopped")
    }

    private func unsealing(_ settings: ServiceSettings) throws -> HomeKey {
        if let file = settings.file(.keyFile) { return .keyFile(file) }
        return try HomeOptions.passphrase()
    }

    private func serve(_ gateway: Gateway, _ settings: ServiceSettings, _ logger: Logger) async throws {
        let site = Site()
        let service = try await WebService(
            gateway, try await door(gateway, settings, logger), logger: logger, pages: site,
            register: { routes in
                APIRoutes.register(routes)
                site.register(routes)
            })
        var configuration = ServiceGroupConfiguration(
            services: [.init(service: service, successTerminationBehavior: .gracefullyShutdownGroup)], logger: logger)
        configuration.maximumGracefulShutdownDuration = .seconds(settings.number(.drainSeconds))
        let group = ServiceGroup(configuration: configuration)
        // Not a child task: cancelling the command must drain the service, not cancel it.
        let serving = Task.detached { try await group.run() }
        let telling = Task {
            let port = await service.boundPort
            try tell(port, logger)
        }
        try await withTaskCancellationHandler {
            try await serving.value
        } onCancel: {
            Task {
                logger.info("stopping")
                notifySupervisor("STOPPING=1")
                await group.triggerGracefulShutdown()
            }
        }
        telling.cancel()
    }

    private func tell(_ port: Int, _ logger: Logger) throws {
        logger.info("listening", metadata: ["port": "\(port)"])
        notifySupervisor("READY=1")
        if let portFile {
            try GatewayFile.write(Array("\(port)\n".utf8), to: URL(fileURLWithPath: portFile), role: "port file")
        }
    }

    private func door(
        _ gateway: Gateway, _ settings: ServiceSettings, _ logger: Logger
    ) async throws -> DoorSettings {
        let own = try await gateway.issueDoorCertificate(
            names: settings[.names].split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) })
        var door: DoorSettings
        switch (settings.file(.certificate), settings.file(.key)) {
        case (let certificate?, let key?):
            door = DoorSettings(
                certificate: Array(try GatewayFile.read(certificate, role: "certificate").utf8),
                key: Array(try GatewayFile.read(key, role: "certificate's key").utf8))
        case (nil, nil):
            door = DoorSettings(certificate: own.chain, key: own.key)
            logger.notice(
                "certificate issued by the home's own authority",
                metadata: ["authority_sha256": "\(own.authorityFingerprint.hex)"])
        default: throw ValidationError("tls.certificate and tls.key go together")
        }
        door.host = settings[.host]
        door.port = settings.number(.port)
        if settings.truth(.machines) { door.machineAuthority = own.authority }
        door.connectionsMax = settings.number(.connections)
        door.idleSeconds = settings.number(.idleSeconds)
        door.runsAtOnce = settings.number(.runsAtOnce)
        door.failuresPerAddress = settings.number(.failuresPerAddress)
        door.setRates(
            accountPerSecond: settings.number(.accountPerSecond), addressPerSecond: settings.number(.addressPerSecond))
        door.setSessions(
            idleSeconds: settings.number(.sessionIdleMinutes) * 60,
            absoluteSeconds: settings.number(.sessionHours) * 3600)
        return door
    }
}

/// Tells systemd, if it started us with `Type=notify`, how far we are: one datagram to the socket it names.
private func notifySupervisor(_ state: String) {
    guard let path = getenv("NOTIFY_SOCKET").map({ String(cString: $0) }), !path.isEmpty else { return }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    var bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return }
    // An abstract socket is written with @ and starts with a zero byte.
    if bytes[0] == UInt8(ascii: "@") { bytes[0] = 0 }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    let length = socklen_t(MemoryLayout<sa_family_t>.size + bytes.count)
    withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
            _ = state.withCString { sendto(descriptor, $0, strlen($0), 0, address, length) }
        }
    }
}
