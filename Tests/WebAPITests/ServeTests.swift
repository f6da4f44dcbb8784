import AsyncHTTPClient
import Foundation
import Gateway
import NIOCore
import NIOSSL
import Sealing
import NIOHTTP1
import TestSupport
import Testing
import Vocabulary

/// The program itself, started as a user starts it.
@Suite struct ServeTests {
    @Test(
        "sekisho serve makes its certificate, answers, logs JSON lines without secrets, and stops in order on SIGTERM")
    func serve() async throws {
        try await withHome { home, folder in
            let token = home.token
            let port = folder.appendingPathComponent("port")
            let program = try StartedProgram(
                [
                    "serve", "--home", home.path, "--key-file", home.key.path, "--port", "0", "--port-file", port.path,
                ])
            let listening = try program.line { $0["event"] == "listening" }
            let number = try #require(listening["port"]?.stringValue)
            let own = try program.lines.first { $0["authority_sha256"] != nil }
            let pem = try Data(contentsOf: folder.appendingPathComponent("home/pki/door/ca.pem"))
            let authority = try NIOSSLCertificate.fromPEMBytes(Array(pem))
            #expect(
                own?["authority_sha256"]?.stringValue == SHA256.hash(try authority[0].toDERBytes()).hex)
            var tls = TLSConfiguration.makeClientConfiguration()
            tls.trustRoots = .certificates(authority)
            let client = HTTPClient(
                eventLoopGroupProvider: .singleton, configuration: HTTPClient.Configuration(tlsConfiguration: tls))
            for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/api/v1/me", 200), ("/sign-in", 200)] {
                var request = HTTPClientRequest(url: "https://127.0.0.1:\(number)\(path)")
                if path.hasPrefix("/api") { request.headers.add(name: "Authorization", value: "Bearer \(token)") }
                let answer = try await client.execute(request, timeout: .seconds(60))
                _ = try await answer.body.collect(upTo: 1 << 20)
                #expect(answer.status.code == UInt(status), "\(path)")
            }
            try await client.shutdown()
            program.terminate()
            _ = try program.line { $0["event"] == "stopped" }
            #expect(program.status() == 0)
            let log = try program.lines.map(\.canonicalText).joined(separator: "\n")
            for secret in [token, home.path, home.key.path, "p-operator"] { #expect(!log.contains(secret)) }
            #expect(try String(contentsOf: port, encoding: .utf8) == "\(number)\n")
        }
    }

    @Test("config show tells where each value came from: flag before environment before profile before preset")
    func configShow() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
            "sekisho-config-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let profile = folder.appendingPathComponent("profile.json")
        try Data(
            #"{"listen":{"host":"10.0.0.1","port":1},"limits":{"connections":7},"tls":{"machines":true},"drain-seconds":9}"#
                .utf8
        ).write(to: profile)
        let program = try StartedProgram(
            ["config", "show", "--json", "--profile", profile.path, "--port", "3"],
            environment: ["SEKISHO_LISTEN_PORT": "2", "SEKISHO_LISTEN_HOST": "10.0.0.2"], output: .standardOutput)
        #expect(program.status() == 0)
        let rows = try #require(try program.lines.first?.arrayValue)
        func row(_ name: String) -> [String] {
            let row = rows.first { $0["setting"]?.stringValue == name }
            return [row?["value"]?.stringValue ?? "", row?["source"]?.stringValue ?? ""]
        }
        #expect(row("listen.port") == ["3", "flag"])
        #expect(row("listen.host") == ["10.0.0.2", "environment"])
        #expect(row("limits.connections") == ["7", "profile"])
        #expect(row("tls.machines") == ["true", "profile"])
        #expect(row("drain-seconds") == ["9", "profile"])
        #expect(row("session.hours") == ["10", "preset"])
    }

    @Test(
        "a profile with an unknown name, a wrong type or a value out of range is refused",
        arguments: [
            (#"{"listen":{"prot":1}}"#, [:], "a setting that there is not"),
            (#"{"listen":{"port":70000}}"#, [:], "listen.port, from the profile, is a number from 0 to 65535"),
            (#"{"listen":{"port":[1]}}"#, [:], "listen.port, from the profile, is a text, a number, true or false"),
            (#"{"tls":{"machines":"maybe"}}"#, [:], "tls.machines, from the profile, is true or false"),
            (#"[]"#, [:], "one JSON object"), (#"{"a":1,"a":1}"#, [:], "at byte 7"),
            (#"{}"#, ["SEKISHO_LOG_LEVEL": "loud"], "log.level, from the environment, is one of"),
        ])
    func badSettings(profile: String, environment: [String: String], words: String) throws {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("sekisho-\(UUID().uuidString).json")
        try Data(profile.utf8).write(to: file)
        defer { try? FileManager.default.removeItem(at: file) }
        let program = try StartedProgram(["config", "show", "--profile", file.path], environment: environment)
        #expect(program.status() == 2)
        #expect(program.text.contains(words), "\(program.text)")
    }

    @Test("the shipped profiles are read without a complaint", arguments: ["one-person.json", "hospital.json"])
    func shippedProfiles(name: String) throws {
        let profile = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../config/profiles/\(name)")
        let program = try StartedProgram(["config", "show", "--profile", profile.path])
        #expect(program.status() == 0, "\(program.text)")
    }

    @Test(
        "the systemd units are well formed and hardened: exposure at most 2.0",
        .enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/systemd-analyze")),
        arguments: ["sekisho.service", "sekisho-node.service"])
    func units(name: String) throws {
        let unit = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../config/systemd/\(name)").standardized
        let verify = try StartedProgram(tool: "/usr/bin/systemd-analyze", ["verify", unit.path])
        _ = verify.status()
        // The programs are not installed where the tests run.
        let complaints = verify.text.split(separator: "\n").filter { !$0.contains("is not executable") }
        #expect(complaints.isEmpty, "\(verify.text)")
        let security = try StartedProgram(
            tool: "/usr/bin/systemd-analyze", ["security", "--offline=true", "--threshold=20", unit.path],
            output: .standardOutput)
        #expect(security.status() == 0, "\(security.text)")
    }

    // MARK: - Support

    private struct Home {
        let path: String
        let key: URL
        /// An operator's.
        let token: String
    }

    private func withHome(_ body: (Home, URL) async throws -> Void) async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sekisho-serve-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let key = folder.appendingPathComponent("home.key")
        try Data(RandomBytes.array(32)).write(to: key)
        for name in ["auditor.key", "recovery.key"] {
            _ = try AuditorKeyFile.generate(at: folder.appendingPathComponent(name))
        }
        let home = folder.appendingPathComponent("home")
        _ = try await Gateway.initialise(
            home: home, key: .keyFile(key), origin: "sekisho.test/trail", anchor: nil,
            auditors: [folder.appendingPathComponent("auditor.key.pub")],
            recovery: folder.appendingPathComponent("recovery.key.pub"))
        try await body(Home(path: home.path, key: key, token: try await Self.token(home, key, folder)), folder)
    }

    /// The gateway that makes it lets go of the home before the program takes it.
    private static func token(_ home: URL, _ key: URL, _ folder: URL) async throws -> String {
        let gateway = try await Gateway(home: home, key: .keyFile(key))
        let person = try PersonID("p-operator")
        try await gateway.addPerson(person, roles: [.operatorRole], by: nil)
        let signers = [try PersonID("p-steward"), try PersonID("p-custodian")]
        try await gateway.addPerson(signers[0], roles: [.policyAdministrator], by: person)
        try await gateway.addPerson(signers[1], roles: [.dataCustodian], by: person)
        try await bringIntoForce(
            PolicyFolder([("clinic.yaml", Clinic.policy)]), gateway, signedBy: signers, administrator: signers[0],
            keys: folder)
        let text = try await gateway.createToken(
            for: person, scopes: [.read, .observe], validSeconds: 3600, by: person
        ).text
        await gateway.close()
        return text
    }
}
