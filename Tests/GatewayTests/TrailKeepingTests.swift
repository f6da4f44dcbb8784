import AuditTrail
import DurableFiles
import Foundation
import Gateway
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

/// The witness `aics-witness` 0.1.0 from PyPI as a process of its own: the second opinion of somebody else's program.
/// It needs Python 3.12 or later; it is installed once, below the build folder.
final class LiveWitness {
    private static let venv = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent(".build/peers/aics-witness")
    private static let program = venv.appendingPathComponent("bin/aics-witness")

    static let isAvailable: Bool = {
        if FileManager.default.isExecutableFile(atPath: program.path) { return true }
        guard let python = python() else { return false }
        return
            (try? run(python, ["-m", "venv", venv.path]))?.status == 0
            && (try? run(venv.appendingPathComponent("bin/pip"), ["install", "--quiet", "aics-witness==0.1.0"]))?.status
                == 0
    }()

    private static func python() -> URL? {
        let home = FileManager.default.homeDirectoryForCurrentUser.path
        let versions = (try? FileManager.default.contentsOfDirectory(atPath: home + "/.pyenv/versions")) ?? []
        let places =
            (12...15).map { "/usr/bin/python3.\($0)" } + (12...15).map { "/usr/local/bin/python3.\($0)" }
            + versions.sorted().map { "\(home)/.pyenv/versions/\($0)/bin/python3" }
        return places.map { URL(fileURLWithPath: $0) }.first { python in
            (try? run(python, ["-c", "import sys, venv, ssl; sys.exit(sys.version_info < (3, 12))"]))?.status == 0
        }
    }

    static func run(_ program: URL, _ arguments: [String]) throws -> (status: Int32, output: String) {
        let process = Process()
        process.executableURL = program
        process.arguments = arguments
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = FileHandle.nullDevice
        try process.run()
        let output = pipe.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        return (process.terminationStatus, String(decoding: output, as: UTF8.self))
    }

    private let process = Process()
    private let config: String
    let line: String
    let address: String

    init(in folder: URL, for trail: String) throws {
        config = folder.appendingPathComponent("witness.json").path
        let made = try Self.run(Self.program, ["init", "--config", config, "--name", "witness.example/w1"])
        line = try #require(
            made.output.split(separator: "\n").last { $0.hasPrefix("witness.example") }.map(String.init))
        try Self.add(trail, to: config)
        process.executableURL = Self.program
        process.arguments = ["serve", "--config", config, "--listen", "127.0.0.1:0"]
        let log = Pipe()
        process.standardError = log
        process.standardOutput = log
        try process.run()
        var text = ""
        while !text.contains("listening on "), let part = try log.fileHandleForReading.read(upToCount: 1), !part.isEmpty
        {
            text += String(decoding: part, as: UTF8.self)
        }
        let rest = try #require(text.firstRange(of: "listening on ").map { text[$0.upperBound...] })
        var url = String(rest)
        while !url.contains(" "), let part = try log.fileHandleForReading.read(upToCount: 1), !part.isEmpty {
            url += String(decoding: part, as: UTF8.self)
        }
        address = String(url.prefix { $0 != " " })
        // Whatever it says later must not fill the pipe.
        log.fileHandleForReading.readabilityHandler = { _ = $0.availableData }
    }

    private static func add(_ trail: String, to config: String) throws {
        let origin = String(trail.prefix { $0 != "+" })
        let added = try run(program, ["add-log", "--config", config, "--origin", origin, "--vkey", trail])
        try #require(added.status == 0, "\(added.output)")
    }

    /// Lets it learn another key of the log, as after a rotation.
    func learn(_ key: String) throws {
        try Self.add(key, to: config)
        kill(process.processIdentifier, SIGHUP)
    }

    func end() {
        process.terminate()
        process.waitUntilExit()
    }
}

/// The verifier line of a witness that nobody runs.
enum FakeWitnessKey {
    static func line() throws -> String {
        let key = SigningKey.generate().verifyingKey
        let name = "other.example/w2"
        let hash = SHA256.hash(Array(name.utf8) + [0x0A, 4] + key.bytes).bytes[..<4]
        return "\(name)+\(Hex.encode(hash))+\(Data([4] + key.bytes).base64EncodedString())"
    }
}

@Suite struct TrailKeepingTests {
    private func policy(_ trail: String, _ witness: LiveWitness, in folder: URL) throws -> (
        file: URL, policy: WitnessPolicy
    ) {
        let text = "log \(trail)\nwitness w1 \(witness.line) \(witness.address)\nquorum w1\n"
        let file = folder.appendingPathComponent("witnesses")
        try Data(text.utf8).write(to: file)
        return (file, try WitnessPolicy(parsing: text))
    }

    private func publishedHead(_ enclave: Enclave, _ trail: String) throws -> SignedCheckpoint {
        let folder = enclave.home.appendingPathComponent("trail")
        let identity = try TrailIdentity(parsing: trail)
        let periods = (try? Data(contentsOf: folder.appendingPathComponent("trail.periods"))) ?? Data()
        return try SignedCheckpoint(
            parsing: [UInt8](try Data(contentsOf: folder.appendingPathComponent("log/checkpoint"))),
            in: SigningPeriods(identity, parsing: [UInt8](periods)))
    }

    @Test("what the trail says of a person is unreadable after two have agreed, and the trail still verifies")
    func shred() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let person = "P:3"
            #expect(
                await refusal { _ = try await enclave.gateway.shredSubject(person, by: enclave.auditor) }?.code
                    == .notFound)
            for state in ["withdrawn", "given"] {
                try await enclave.gateway.setConsent(
                    subject: person, dataset: Clinic.dataset, state: state, by: enclave.custodian)
            }
            let read = try await enclave.gateway.subjectSections(person, by: enclave.auditor)
            #expect(read.map { $0.content["consent"]?.stringValue } == ["withdrawn", "withdrawn", "given", "given"])
            #expect(
                try await enclave.gateway.searchAudit(
                    AuditQuery(parsing: [("subject", person), ("what", "consent.changed")]), after: nil, limit: 9,
                    by: enclave.auditor
                ).hits.count == 4)
            #expect(
                await refusal { _ = try await enclave.gateway.shredSubject(person, by: enclave.researcher) }?.code
                    == .refused)
            #expect(try await enclave.gateway.shredSubject(person, by: enclave.auditor) == .waiting)
            #expect(
                await refusal { _ = try await enclave.gateway.shredSubject(person, by: enclave.auditor) }?.code
                    == .refused)
            // The other one is too late: it is asked anew.
            enclave.clock.advance(days: 8)
            #expect(try await enclave.gateway.shredSubject(person, by: enclave.custodian) == .waiting)
            #expect(try await enclave.gateway.shredSubject(person, by: enclave.auditor) == .done)
            #expect(try await enclave.gateway.subjectSections(person, by: enclave.auditor).isEmpty)
            #expect(
                await refusal { _ = try await enclave.gateway.shredSubject(person, by: enclave.auditor) }?.code
                    == .notFound)
            #expect(try await enclave.own(.subjectShredded).map(\.outcomeName) == ["intent", "done"])
            try await enclave.reopen()
            #expect(try await enclave.gateway.subjectSections(person, by: enclave.auditor).isEmpty)
        }
    }

    @Test("a lost anchor is made anew only by an operator, by name; heads after a rotation open with the first key")
    func reanchored() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let first = try await enclave.gateway.rotateTrailKey(by: enclave.operatorPerson)
            #expect(
                await refusal { _ = try await enclave.gateway.rotateTrailKey(by: enclave.researcher) }?.code == .refused
            )
            let second = try await enclave.gateway.rotateTrailKey(by: enclave.operatorPerson)
            #expect(first != second && first != enclave.trail)
            let head = try publishedHead(enclave, enclave.trail)
            #expect(head.checkpoint.origin == "sekisho.test/trail")
            enclave.drop()
            let anchor = enclave.home.appendingPathComponent("anchor/anchor")
            try FileManager.default.removeItem(at: anchor)
            #expect(await refusal { try await enclave.open() }?.code == .integrity)
            let wrong = await refusal {
                _ = try await Gateway(
                    home: enclave.home, key: .keyFile(enclave.key), clock: enclave.clock,
                    reanchoring: enclave.operatorPerson
                ).close()
                _ = try await Gateway(
                    home: enclave.home, key: .keyFile(enclave.key), clock: enclave.clock,
                    reanchoring: enclave.operatorPerson)
            }
            #expect(wrong?.code == .usage)
            try await enclave.open()
            #expect(try await enclave.own(.trailReanchored).map(\.actor) == [enclave.operatorPerson])
        }
    }
}
