package import Gateway
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
package import Logging
import Metrics
import NIOCore
import NIOSSL
import Sealing
import ServiceLifecycle
import Synchronization
import Vocabulary

/// How the door behaves.
package struct DoorSettings: Sendable {
    package var host = "127.0.0.1"
    /// 0 takes any free port.
    package var port = 8443
    /// Certificate chain and key as PEM.
    package var certificate: [UInt8]
    package var key: [UInt8]
    /// The authority whose certificates machines may show, as PEM; without one no certificate is asked for.
    package var machineAuthority: [UInt8]?
    package var connectionsMax = 512
    package var idleSeconds = 75
    package var runsAtOnce = 4
    /// Wrong passwords and tokens from one address before it is locked for a quarter of an hour.
    package var failuresPerAddress = 20
    var sessions = Sessions.Limits()
    var perAccount = RateLimits.Rate(perSecond: 100, burst: 400)
    var perAddress = RateLimits.Rate(perSecond: 50, burst: 200)

    package mutating func setSessions(idleSeconds: Int, absoluteSeconds: Int) {
        sessions.idleSeconds = Int64(idleSeconds)
        sessions.absoluteSeconds = Int64(absoluteSeconds)
    }

    /// Four seconds' worth may come at once: a page loads in a burst.
    package mutating func setRates(accountPerSecond: Int, addressPerSecond: Int) {
        perAccount = RateLimits.Rate(perSecond: Double(accountPerSecond), burst: Double(4 * accountPerSecond))
        perAddress = RateLimits.Rate(perSecond: Double(addressPerSecond), burst: Double(4 * addressPerSecond))
    }

    var machines: Bool { machineAuthority != nil }

    package init(certificate: [UInt8], key: [UInt8]) {
        self.certificate = certificate
        self.key = key
    }
}

/// The gateway as a service: the door over TLS and the driver that works on the runs, until a graceful shutdown.
package struct WebService: Service {
    private let application: Application<DoorResponder>
    private let port = Port()

    /// - Parameter register: gives the routes of the API and the pages their handlers.
    package init(
        _ gateway: Gateway, _ settings: DoorSettings, logger: Logger, pages: any PageWriter = PlainPages(),
        register: (Routes) throws -> Void = { _ in }
    ) async throws {
        _ = Prometheus.installed
        let readiness = Readiness()
        let routes = Routes(await Door(gateway, settings, pages: pages))
        OperationsRoutes.register(routes, readiness)
        SignInRoutes.register(routes)
        try register(routes)
        let http = HTTP1Channel.Configuration(
            additionalChannelHandlers: [ParseFaults()],
            idleTimeout: .seconds(Int64(settings.idleSeconds)),
            httpDecoderConfiguration: .init(
                maxHeaderFieldSize: 8 << 10, maxHeaderListSize: 32 << 10, maxHeaderFieldCount: 64))
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .warning)
        let port = self.port
        application = Application(
            responder: routes.responder(logger),
            server: try .tls(.http1(configuration: http), tlsConfiguration: Self.tls(settings)),
            configuration: ApplicationConfiguration(
                address: .hostname(settings.host, port: settings.port),
                availableConnectionsDelegate: .maximum(settings.connectionsMax, logger: quiet)),
            services: [
                Driving(gateway: gateway, runsAtOnce: settings.runsAtOnce, logger: logger, readiness: readiness)
            ],
            onServerRunning: { channel in
                readiness.set(true)
                port.set(channel.localAddress?.port ?? 0)
            },
            logger: quiet)
    }

    package func run() async throws { try await application.run() }

    /// The port it listens on, as soon as it does.
    package var boundPort: Int { get async { await port.value } }

    private static func tls(_ settings: DoorSettings) throws -> TLSConfiguration {
        let chain = try NIOSSLCertificate.fromPEMBytes(settings.certificate).map(NIOSSLCertificateSource.certificate)
        var tls = TLSConfiguration.makeServerConfiguration(
            certificateChain: chain,
            privateKey: .privateKey(try NIOSSLPrivateKey(bytes: settings.key, format: .pem)))
        tls.minimumTLSVersion = .tlsv13
        tls.applicationProtocols = ["http/1.1"]
        if let authority = settings.machineAuthority {
            tls.certificateVerification = .optionalVerification
            tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(authority))
        }
        return tls
    }
}

extension SekishoContext {
    /// SHA-256 of the certificate that the peer has shown and the TLS layer has checked.
    func clientCertificate() async -> Digest? {
        guard let certificate = try? await channel.nioSSL_peerCertificate().get(),
            let der = try? certificate.toDERBytes()
        else { return nil }
        return SHA256.hash(der)
    }
}

/// Works on the runs beside the door, and ends when the service is asked to stop: what a run holds is given back when
/// the gateway closes.
private struct Driving: Service {
    let gateway: Gateway
    let runsAtOnce: Int
    let logger: Logger
    let readiness: Readiness

    func run() async throws {
        try await withGracefulShutdownHandler {
            try await cancelWhenGracefulShutdown {
                try await RunDriver(gateway, runsAtOnce: runsAtOnce).run { run, error in
                    let code = GatewayError(error).map(\.code.rawValue) ?? "internal-error"
                    Counter(label: "sekisho_runs_held_total", dimensions: [("code", code)]).increment()
                    logger.warning("run held", metadata: ["run": "\(run)", "code": "\(code)"])
                }
            }
        } onGracefulShutdown: {
            readiness.set(false)
        }
        // A driver that ends by itself must not end the service with it.
        try? await gracefulShutdown()
    }
}

/// A number that is known later.
private final class Port: Sendable {
    private struct State { var number: Int?; var waiting: [CheckedContinuation<Int, Never>] = [] }
    private let state = Mutex(State())

    func set(_ number: Int) {
        let waiting = state.withLock { state in
            state.number = number
            defer { state.waiting = [] }
            return state.waiting
        }
        for one in waiting { one.resume(returning: number) }
    }

    var value: Int {
        get async {
            await withCheckedContinuation { continuation in
                let known: Int? = state.withLock { state in
                    if state.number == nil { state.waiting.append(continuation) }
                    return state.number
                }
                if let known { continuation.resume(returning: known) }
            }
        }
    }
}
