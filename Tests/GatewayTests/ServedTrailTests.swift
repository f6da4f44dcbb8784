import AsyncHTTPClient
import AuditTrail
import Foundation
import Gateway
import NIOCore
import NIOHTTP1
import NIOSSL
import TestSupport
import Testing
import Vocabulary

/// The program as a service over a trail whose disk fails: what callers are told, and what is done all the same.
@Suite struct ServedTrailTests {
    @Test(
        "with a full disk under its trail a service answers 503 with a code, releases no key and says so in the reserve; with space again it goes on",
        .enabled(if: FaultTests.mayMount, "a small disk can be mounted only by root"))
    func full() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let researcher = try await token(of: enclave.researcher, [.read, .run], enclave)
            let auditor = try await token(of: enclave.auditor, [.audit], enclave)
            let reviewers = [
                try await token(of: enclave.reviewer, [.read, .review], enclave),
                try await token(of: enclave.custodian, [.read, .review], enclave),
            ]
            await enclave.gateway.close()
            enclave.drop()
            let disk = try TinyDisk(over: enclave.home.appendingPathComponent("trail"), bytes: 64 << 20)
            defer { disk.remove() }
            let service = try await Served(enclave)
            let run: JSON = [
                "id": "later", "grant": .string(grant.text), "specification": .string(Clinic.specification()),
            ]
            #expect(try await service.ask("GET", "/readyz", as: nil).status == 200)
            // Who calls is known by now: a sign-in is a record too. What a token is for is looked at after whose it is.
            for person in [researcher, auditor] + reviewers {
                #expect(try await service.ask("GET", "/api/v1/me", as: person).status != 401)
            }
            try disk.fill()

            // What is there of the segment is used up; then every record is one too many, that of a reader too.
            let names = ["who", "dataset", "version", "run", "request", "device", "reason", "purpose"]
            var question: [String: JSON] = ["limit": 1]
            for name in names { question[name] = .string(String(repeating: "a", count: 128)) }
            var answer = try await service.ask("POST", "/api/v1/audit/searches", as: auditor, .object(question))
            for _ in 0..<20_000 where answer.status == 200 {
                answer = try await service.ask("POST", "/api/v1/audit/searches", as: auditor, .object(question))
            }
            #expect(answer.status == 503 && answer.code == "trail-full", "\(answer)")
            for (method, path, person, body) in [
                ("POST", "/api/v1/runs", researcher, run), ("GET", "/api/v1/audit/records", auditor, nil),
                ("POST", "/api/v1/audit/exports", auditor, [:]),
            ] as [(String, String, String, JSON?)] {
                let refused = try await service.ask(method, path, as: person, body)
                #expect(refused.status == 503 && refused.code == "trail-full", "\(path): \(refused)")
                #expect(refused.retryAfter != nil && refused.detail.contains("free space and try again"), "\(refused)")
            }
            let ready = try await service.ask("GET", "/readyz", as: nil)
            #expect(ready.status == 503 && ready.code == "trail-stopped", "\(ready)")
            #expect(try await service.ask("GET", "/healthz", as: nil).status == 200)
            #expect(try await service.ask("GET", "/api/v1/runs/later", as: researcher).status != 200)

            // Space again, and the same call goes through; nobody starts anything anew.
            try disk.empty()
            var started = try await service.ask("POST", "/api/v1/runs", as: researcher, run)
            for _ in 0..<20_000 where started.status == 503 {
                started = try await service.ask("POST", "/api/v1/runs", as: researcher, run)
            }
            #expect(started.status == 201, "\(started)")
            #expect(try await service.ask("GET", "/readyz", as: nil).status == 200)
            try await service.follow("/api/v1/runs/later/events", to: "waiting", as: researcher)
            for reviewer in reviewers {
                let reviewed = try await service.ask(
                    "POST", "/api/v1/runs/later/release/reviews", as: reviewer, ["verdict": "approve"])
                #expect(reviewed.status == 200, "\(reviewed)")
            }
            try await service.follow("/api/v1/runs/later/events", to: "closed", as: researcher)
            let shown = try await service.ask("GET", "/api/v1/runs/later", as: researcher)
            #expect(shown.json?["end"] == "released", "\(shown)")
            try await service.stop()

            try await enclave.open()
            let export = enclave.folder.appendingPathComponent("export")
            _ = try await enclave.gateway.export(ExportRequest(.whole, to: export), by: enclave.auditor)
            func found(_ event: String) throws -> [CaseRecord] {
                try AuditVerification.search(
                    export, trail: enclave.trail, key: enclave.auditorKey,
                    query: AuditQuery(parsing: [("what", event)]), most: 100
                ).map(\.record)
            }
            let full = try #require(try found("trail.full").first)
            let resumed = try #require(try found("trail.resumed").first)
            #expect(try #require(resumed.detail["refused"]?.integerValue) >= 4)
            // Between the two nothing was begun and no key was given out.
            let released = try found("key.released") + found("device.leased") + found("run.requested")
            #expect(
                released.count == 4 && released.allSatisfy { $0.index > resumed.index && resumed.index > full.index })
            await enclave.gateway.close()
            enclave.drop()
        }
    }

    @Test(
        "an I/O error under a served trail stops everything new with a code and releases no key; a restart goes on",
        .enabled(if: Strace.isPossible, "strace may not inject faults here"))
    func ioError() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let researcher = try await token(of: enclave.researcher, [.read, .run], enclave)
            await enclave.gateway.close()
            enclave.drop()
            let service = try await Served(enclave)
            let wal = enclave.home.appendingPathComponent("trail/wal")
            let segments = try FileManager.default.contentsOfDirectory(atPath: wal.path).map {
                wal.appendingPathComponent($0).path
            }
            let strace = try Strace(failing: service.processIdentifier, at: segments)
            let run: JSON = ["grant": .string(grant.text), "specification": .string(Clinic.specification())]
            // The first to be refused is the one whose record failed; all others are told the same.
            for _ in 0..<3 {
                let refused = try await service.ask("POST", "/api/v1/runs", as: researcher, run)
                #expect(refused.status == 503 && refused.code == "unavailable", "\(refused)")
                #expect(refused.detail.contains("until the gateway is started again"), "\(refused)")
            }
            let ready = try await service.ask("GET", "/readyz", as: nil)
            #expect(ready.status == 503 && ready.code == "trail-stopped", "\(ready)")
            // The disk is good again, but what is on it is not known: nothing is tried anew before a restart.
            strace.end()
            #expect(try await service.ask("POST", "/api/v1/runs", as: researcher, run).status == 503)
            try await service.stop()

            try await enclave.open()
            // A record that was never acknowledged may be there or not; what would follow from it is not.
            let records = try await enclave.gateway.auditList(nil, most: 100_000, by: enclave.auditor)
            #expect(!records.contains { [.keyReleased, .deviceLeased, .runOpened].contains($0.event) })
            let later = try await enclave.request(grant, id: "later")
            #expect(try await enclave.finish(later) == .closed(.released))
            #expect(try await enclave.sequence(.run(later)) == wholeRun)
        }
    }

    private func token(of person: PersonID, _ scopes: Set<Scope>, _ enclave: Enclave) async throws -> String {
        try await enclave.gateway.createToken(for: person, scopes: scopes, validSeconds: 3600, by: person).text
    }
}

/// Debian's `strace`, making another process's syncs fail.
private final class Strace {
    private static let program = "/usr/bin/strace"
    static let isPossible: Bool = {
        guard FileManager.default.isExecutableFile(atPath: program),
            let result = try? Verifiers.run(
                URL(fileURLWithPath: program), ["-o", "/dev/null", "-e", "inject=sync:error=EIO", "/bin/true"])
        else { return false }
        return result.status == 0
    }()

    private let process = Process()
    private let pipe = Pipe()

    /// Syncs of these files fail. Returns once every thread of the process is watched.
    init(failing processIdentifier: Int32, at paths: [String]) throws {
        process.executableURL = URL(fileURLWithPath: Self.program)
        process.arguments =
            [
                "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "-p",
                "\(processIdentifier)",
            ] + paths.flatMap { ["-P", $0] }
        process.standardError = pipe
        try process.run()
        var said = ""
        while !said.contains("attached") {
            let part = pipe.fileHandleForReading.availableData
            try #require(!part.isEmpty, "strace ended: \(said)")
            said += String(decoding: part, as: UTF8.self)
        }
        pipe.fileHandleForReading.readabilityHandler = { _ = $0.availableData }
    }

    /// Whom it watched goes on by itself. Its signals are blocked, as those of the thread are that started it.
    func end() {
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    deinit { end() }
}

/// `sekisho serve` over an enclave's home, and a client that trusts its certificate.
private final class Served {
    struct Answer {
        let status: Int
        let json: JSON?
        let retryAfter: String?
        var code: String? { json?["code"]?.stringValue }
        var detail: String { json?["detail"]?.stringValue ?? "" }
    }

    private let program: StartedProgram
    private let client: HTTPClient
    private let base: String

    init(_ enclave: Enclave) async throws {
        program = try StartedProgram(
            ["serve", "--home", enclave.home.path, "--key-file", enclave.key.path, "--port", "0"],
            environment: [
                "SEKISHO_LIMITS_ACCOUNT_PER_SECOND": "100000", "SEKISHO_LIMITS_ADDRESS_PER_SECOND": "100000",
            ])
        let port = try #require(try program.line { $0["event"] == "listening" }["port"]?.stringValue)
        base = "https://127.0.0.1:\(port)"
        let pem = try Data(contentsOf: enclave.home.appendingPathComponent("pki/door/ca.pem"))
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(Array(pem)))
        client = HTTPClient(
            eventLoopGroupProvider: .singleton, configuration: HTTPClient.Configuration(tlsConfiguration: tls))
        program.drain()
    }

    /// Reads a run's events until one of this name.
    func follow(_ path: String, to event: String, as token: String) async throws {
        // A stream ends now and then; who looks again sees where the run is.
        for _ in 0..<20 {
            var request = HTTPClientRequest(url: base + path)
            request.headers.add(name: "Authorization", value: "Bearer \(token)")
            let answer = try await client.execute(request, timeout: .seconds(120))
            var text = ""
            for try await chunk in answer.body {
                text += String(buffer: chunk)
                if text.contains("event: \(event)\n") { return }
            }
        }
        Issue.record("the run never came to \(event)")
    }

    func ask(_ method: String, _ path: String, as token: String?, _ body: JSON? = nil) async throws -> Answer {
        var request = HTTPClientRequest(url: base + path)
        request.method = HTTPMethod(rawValue: method)
        if let token { request.headers.add(name: "Authorization", value: "Bearer \(token)") }
        if let body {
            request.headers.add(name: "Content-Type", value: "application/json")
            request.body = .bytes(ByteBuffer(bytes: body.canonical))
        }
        let answer = try await client.execute(request, timeout: .seconds(120))
        let bytes = try await answer.body.collect(upTo: 64 << 20)
        return Answer(
            status: Int(answer.status.code), json: try? JSON(parsing: Array(bytes.readableBytesView)),
            retryAfter: answer.headers.first(name: "Retry-After"))
    }

    var processIdentifier: Int32 { program.processIdentifier }

    func stop() async throws {
        try await client.shutdown()
        program.terminate()
        #expect(program.status() == 0)
    }
}
