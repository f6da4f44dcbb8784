import AsyncHTTPClient
import Foundation
import Gateway
import HTTPTypes
import Logging
import NIOCore
import NIOHTTP1
import NIOSSL
import Sealing
import ServiceLifecycle
import Synchronization
import TestSupport
import Testing
import Vocabulary
import WebAPI

/// A gateway with one person for every role, served over TLS on a free port, and a client that trusts it.
final class OpenDoor: Sendable {
    let gateway: Gateway
    let folder: URL
    let clock: ManualClock
    let port: Int
    let client: HTTPClient
    let authority: [UInt8]
    let log: LogSink
    let group: ServiceGroup

    static let password = "correct horse battery staple"
    /// Made once: Argon2id is slow on purpose.
    private static let proof = try! SecretProof.ofPassword(Array(password.utf8))

    /// The person of a test who has one role.
    static func person(_ role: Role) -> PersonID { try! PersonID("p-\(role.rawValue)") }

    fileprivate init(
        gateway: Gateway, folder: URL, clock: ManualClock, port: Int, client: HTTPClient, authority: [UInt8],
        log: LogSink, group: ServiceGroup
    ) {
        self.gateway = gateway
        self.folder = folder
        self.clock = clock
        self.port = port
        self.client = client
        self.authority = authority
        self.log = log
        self.group = group
        log.keepOut(Self.password)
    }

    fileprivate static func makeGateway(_ folder: URL, _ clock: ManualClock) async throws -> Gateway {
        let key = folder.appendingPathComponent("home.key")
        try Data(RandomBytes.array(32)).write(to: key)
        for name in ["auditor.key", "recovery.key"] {
            _ = try AuditorKeyFile.generate(at: folder.appendingPathComponent(name))
        }
        let home = folder.appendingPathComponent("home")
        _ = try await Gateway.initialise(
            home: home, key: .keyFile(key), origin: "sekisho.test/trail", anchor: nil,
            auditors: [folder.appendingPathComponent("auditor.key.pub")],
            recovery: folder.appendingPathComponent("recovery.key.pub"), clock: clock)
        let gateway = try await Gateway(home: home, key: .keyFile(key), clock: clock)
        let first = person(.operatorRole)
        try await gateway.addPerson(first, roles: [.operatorRole], by: nil)
        for role in Role.allCases where role != .operatorRole {
            try await gateway.addPerson(person(role), roles: [role], by: first)
        }
        for role in Role.allCases { try await gateway.setPassword(of: person(role), to: proof, by: nil) }
        return gateway
    }

    // MARK: - Asking

    struct Answer: Sendable {
        let status: Int
        let headers: HTTPHeaders
        let body: [UInt8]
        var text: String { String(decoding: body, as: UTF8.self) }
        var json: JSON? { try? JSON(parsing: body) }
        var code: String? { json?["code"]?.stringValue }
    }

    func ask(
        _ method: String, _ path: String, token: String? = nil, cookie: String? = nil,
        headers: [(String, String)] = [], body: String? = nil, bytes: [UInt8]? = nil, client: HTTPClient? = nil
    ) async throws -> Answer {
        var request = HTTPClientRequest(url: "https://127.0.0.1:\(port)\(path)")
        request.method = .init(rawValue: method)
        for (name, value) in headers { request.headers.add(name: name, value: value) }
        for secret in [token, cookie] { secret.map(log.keepOut) }
        if let token { request.headers.add(name: "Authorization", value: "Bearer \(token)") }
        if let cookie { request.headers.add(name: "Cookie", value: "__Host-sekisho=\(cookie)") }
        if let body { request.body = .bytes(ByteBuffer(string: body)) }
        if let bytes { request.body = .bytes(ByteBuffer(bytes: bytes)) }
        let response = try await (client ?? self.client).execute(request, timeout: .seconds(60))
        let buffer = try await response.body.collect(upTo: 8 << 20)
        return Answer(
            status: Int(response.status.code), headers: response.headers, body: Array(buffer.readableBytesView))
    }

    /// Posts a form as one of our own pages does.
    func post(_ path: String, cookie: String? = nil, _ fields: [(name: String, value: String)]) async throws -> Answer {
        try await ask(
            "POST", path, cookie: cookie,
            headers: [
                ("Content-Type", "application/x-www-form-urlencoded"), ("Origin", "https://127.0.0.1:\(port)"),
                ("Sec-Fetch-Site", "same-origin"),
            ], body: Form(fields).encoded)
    }

    /// Signs in and returns the session's cookie.
    func signIn(_ role: Role) async throws -> String {
        let answer = try await post(
            "/sign-in", [(name: "name", value: Self.person(role).text), (name: "password", value: Self.password)])
        guard let cookie = Self.cookie(in: answer) else { throw Unexpected(words: "no session: \(answer.status)") }
        return cookie
    }

    static func cookie(in answer: Answer) -> String? {
        let set = answer.headers["Set-Cookie"].first { $0.hasPrefix("__Host-sekisho=") }
        return set.flatMap { $0.dropFirst(15).split(separator: ";", omittingEmptySubsequences: false).first }
            .flatMap { $0.isEmpty ? nil : String($0) }
    }

    /// A token of a person with this role that may do everything its person may.
    func token(_ role: Role, scopes: Set<Scope> = Set(Scope.allCases)) async throws -> String {
        let person = Self.person(role)
        return try await gateway.createToken(for: person, scopes: scopes, validSeconds: 3600, by: person).text
    }
}

/// Every line that a door logs, at the lowest level, and what none of them may hold: over all tests of this target.
final class LogSink: Sendable {
    private struct State {
        var lines: [String] = []
        var secrets: Set<String> = []
    }

    private let state = Mutex(State())

    func take(_ line: [UInt8]) {
        let text = String(decoding: line, as: UTF8.self)
        state.withLock { $0.lines.append(text) }
    }

    /// Short words may stand in a line by chance.
    func keepOut(_ secret: String) { if secret.utf8.count >= 5 { state.withLock { _ = $0.secrets.insert(secret) } } }

    var lines: [String] { state.withLock(\.lines) }

    /// The lines that hold what they may not.
    var leaks: [String] {
        state.withLock { state in
            state.lines.filter { line in state.secrets.contains { line.contains($0) } }
        }
    }
}

struct Unexpected: Error { let words: String }

/// Opens a door in a folder of its own, lets `body` knock, and closes it in good order.
func withOpenDoor(
    change: (inout DoorSettings) -> Void = { _ in },
    pages: any PageWriter = PlainPages(),
    register: (Routes) throws -> Void = { _ in },
    _ body: (OpenDoor) async throws -> Void
) async throws {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sekisho-door-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let clock = ManualClock(SystemClock().now())
    let log = LogSink()
    let logger = Logger(label: "sekisho") { label in
        LogLines(label: label, level: .trace, clock: clock) { log.take($0) }
    }
    let gateway = try await OpenDoor.makeGateway(folder, clock)
    let certificate = try await gateway.issueDoorCertificate(names: ["127.0.0.1", "localhost"])
    var settings = DoorSettings(certificate: certificate.chain, key: certificate.key)
    settings.port = 0
    settings.machineAuthority = certificate.authority
    change(&settings)
    let service = try await WebService(gateway, settings, logger: logger, pages: pages, register: register)
    let group = ServiceGroup(
        configuration: .init(services: [.init(service: service)], logger: logger))
    let running = Task { try await group.run() }
    var tls = TLSConfiguration.makeClientConfiguration()
    tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(certificate.authority))
    var configuration = HTTPClient.Configuration(tlsConfiguration: tls, redirectConfiguration: .disallow)
    configuration.httpVersion = .http1Only
    let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    let door = OpenDoor(
        gateway: gateway, folder: folder, clock: clock, port: await service.boundPort, client: client,
        authority: certificate.authority, log: log, group: group)
    log.keepOut(folder.path)
    for role in Role.allCases { log.keepOut(OpenDoor.person(role).text) }
    var failure: (any Error)?
    do { try await body(door) } catch { failure = error }
    try await client.shutdown()
    await group.triggerGracefulShutdown()
    try await running.value
    await gateway.close()
    #expect(log.leaks.isEmpty, "the log holds \(log.leaks)")
    if let failure { throw failure }
}

/// The session's token in a page's form.
func csrfToken(in page: String) -> String? {
    page.firstMatch(of: /name="csrf" value="([^"]+)"/).map { String($0.output.1) }
}
