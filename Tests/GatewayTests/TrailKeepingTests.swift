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
/// `scripts/test` installs it beside the public verifiers.
final class LiveWitness {
    private static let program = Verifiers.program("aics-witness")
    static let isAvailable = program != nil

    private let process = Process()
    private let log = Pipe()
    private var said = ""
    private let config: String
    let line: String
    private(set) var address = ""

    init(in folder: URL, for trail: String) throws {
        config = folder.appendingPathComponent("witness.json").path
        let program = try #require(Self.program)
        let made = try Verifiers.run(program, ["init", "--config", config, "--name", "witness.example/w1"])
        line = try #require(
            made.output.split(separator: "\n").last { $0.hasPrefix("witness.example") }.map(String.init))
        try add(trail)
        // The threads that tests run on block signals, and a process that they start inherits that.
        let unblocking = """
            import signal, sys
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            from aics_witness.cli import main
            sys.exit(main(sys.argv[1:]))
            """
        process.executableURL = Verifiers.python
        process.arguments = ["-c", unblocking, "serve", "--config", config, "--listen", "127.0.0.1:0"]
        process.standardError = log
        process.standardOutput = log
        try process.run()
        let listening = try line(with: "listening on ")
        let words = listening.split(separator: " ")
        address = String(try #require(words.first { $0.hasPrefix("http://") }))
    }

    /// Reads its log on until a line has these words.
    @discardableResult
    private func line(with words: String) throws -> Substring {
        while true {
            if let line = said.split(separator: "\n").dropLast(said.hasSuffix("\n") ? 0 : 1).first(where: {
                $0.contains(words)
            }) {
                return line
            }
            let part = log.fileHandleForReading.availableData
            try #require(!part.isEmpty, "the witness ended: \(said)")
            said += String(decoding: part, as: UTF8.self)
        }
    }

    private func add(_ trail: String) throws {
        let origin = String(trail.prefix { $0 != "+" })
        let added = try Verifiers.run(
            #require(Self.program), ["add-log", "--config", config, "--origin", origin, "--vkey", trail])
        try #require(added.status == 0, "\(added.output)")
    }

    /// Lets it learn another key of the log, as after a rotation.
    func learn(_ key: String) throws {
        try add(key)
        said = ""
        kill(process.processIdentifier, SIGHUP)
        try line(with: "reloaded")
    }

    /// What it kept of heads that do not fit each other: proof against whoever signed them.
    func evidence() throws -> String {
        try Verifiers.run(#require(Self.program), ["evidence", "--config", config]).output
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
    private func policy(
        _ trail: String, _ witness: LiveWitness, in folder: URL
    ) throws -> (file: URL, policy: WitnessPolicy) {
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

    @Test(
        "a live witness cosigns and exports show it; an old disk with its anchor, and a fork, get no cosignature and do not verify",
        .enabled(if: LiveWitness.isAvailable, "aics-witness is not installed"))
    func liveWitness() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let witness = try LiveWitness(in: enclave.folder, for: enclave.trail)
            defer { witness.end() }
            let (file, trust) = try policy(enclave.trail, witness, in: enclave.folder)
            #expect(
                await refusal { _ = try await enclave.gateway.cosign(by: enclave.operatorPerson) }?.code == .notFound)
            #expect(
                await refusal { _ = try await enclave.gateway.setWitnesses(file, by: enclave.researcher) }?.code
                    == .refused)
            _ = try await enclave.gateway.setWitnesses(file, by: enclave.operatorPerson)
            var sizes: [UInt64] = []
            for _ in 0..<3 {
                let cosigning = try await enclave.gateway.cosign(by: enclave.operatorPerson)
                let (size, answers) = (cosigning.size, cosigning.answers)
                #expect(answers.allSatisfy { if case .cosigned = $0.outcome { true } else { false } }, "\(answers)")
                sizes.append(size)
                let head = try publishedHead(enclave, enclave.trail)
                #expect(try trust.check(head).map(\.witness) == ["w1"] && head.size == size)
            }
            #expect(sizes == sizes.sorted() && Set(sizes).count == 3)
            try await checkTrust(enclave, witness, file)

            // The whole home as it is now, to be put back later.
            enclave.drop()
            let backup = enclave.folder.appendingPathComponent("backup")
            try FileManager.default.copyItem(at: enclave.home, to: backup)
            try await enclave.open()
            _ = try await enclave.gateway.cosign(by: enclave.operatorPerson)
            let last = try await rotate(enclave, witness)

            // The old disk comes back with everything on it, its anchor too. Only the witness knows better.
            enclave.drop()
            try FileManager.default.removeItem(at: enclave.home)
            try FileManager.default.moveItem(at: backup, to: enclave.home)
            try await enclave.open()
            let told = try await enclave.gateway.cosign(by: enclave.operatorPerson)
            #expect(told.answers.map(\.outcome) == [.sawLonger(last)])
            #expect(throws: LogError.self) { try trust.check(try publishedHead(enclave, enclave.trail)) }

            // And when it has grown past what the witness has seen: another log from there on.
            for _ in 0..<200 where try publishedHead(enclave, enclave.trail).size <= last {
                _ = try await enclave.gateway.auditList(nil, most: 1, by: enclave.auditor)
                _ = try await enclave.gateway.cosign(by: enclave.operatorPerson)
            }
            let forked = try await enclave.gateway.cosign(by: enclave.operatorPerson)
            #expect(forked.size > last && forked.answers.map(\.outcome) == [.refused(status: 422)])
            #expect(try witness.evidence().contains("consistency proof from size"))
            let export = enclave.folder.appendingPathComponent("forked")
            _ = try await enclave.gateway.export(ExportRequest(.whole, to: export), by: enclave.auditor)
            _ = try AuditVerification.verify(export, trail: enclave.trail, key: nil)
            let error = await refusal {
                _ = try AuditVerification.verify(export, trail: enclave.trail, key: nil, trust: file)
            }
            #expect(
                error?.code == .integrity
                    && error?.publicDescription.contains("; the newest that has them is of size ") == true,
                "\(error?.publicDescription ?? "verified")")
        }
    }

    /// Ends a signing period: the witness cosigns the head that ends it, then no other until it has learned the new key.
    private func rotate(_ enclave: Enclave, _ witness: LiveWitness) async throws -> UInt64 {
        let line = try await enclave.gateway.rotateTrailKey(by: enclave.operatorPerson)
        let ending = try await enclave.gateway.cosign(by: enclave.operatorPerson)
        #expect(ending.answers.allSatisfy { if case .cosigned = $0.outcome { true } else { false } })
        let refused = try await enclave.gateway.cosign(by: enclave.operatorPerson)
        #expect(refused.answers.map(\.outcome) == [.refused(status: 403)] && refused.size > ending.size)
        #expect(try await enclave.own(.trailCosigned).last?.outcome == .failed)
        try witness.learn(line)
        let learned = try await enclave.gateway.cosign(by: enclave.operatorPerson)
        #expect(learned.answers.allSatisfy { if case .cosigned = $0.outcome { true } else { false } }, "\(learned)")
        try await enclave.reopen()
        let again = try await enclave.gateway.cosign(by: enclave.operatorPerson)
        #expect(again.answers.allSatisfy { if case .cosigned = $0.outcome { true } else { false } }, "\(again)")
        return again.size
    }

    /// Exports carry the cosignatures, and verify only as a reader's own trust file asks.
    private func checkTrust(_ enclave: Enclave, _ witness: LiveWitness, _ file: URL) async throws {
        for (name, scope) in [("whole", ExportRequest.Scope.whole), ("dataset", .dataset(Clinic.dataset))] {
            let export = enclave.folder.appendingPathComponent(name)
            _ = try await enclave.gateway.export(ExportRequest(scope, to: export), by: enclave.auditor)
            let verified = try AuditVerification.verify(export, trail: nil, key: enclave.auditorKey, trust: file)
            #expect(verified.json["witnesses"]?.arrayValue?.map { $0["witness"] } == ["w1"])
            #expect(verified.lines.contains { $0.hasPrefix("Cosigned as your trust file asks: w1 at ") })
            let other = try FakeWitnessKey.line()
            let own = "witness w1 \(witness.line)\n"
            let stranger = try TrailIdentity(origin: "other.example/log", key: SigningKey.generate().verifyingKey)
            let files: [(text: String, code: GatewayError.Code, words: String)] = [
                (
                    "log \(enclave.trail)\n\(own)witness w2 \(other)\ngroup g all w1 w2\nquorum g\n", .integrity,
                    "has 1 of the cosignatures that you require"
                ),
                ("log \(stranger)\n\(own)quorum w1\n", .integrity, "names no log with the export's identity"),
                ("log \(enclave.trail)\n\(own)quorum w2\n", .usage, "line 3"),
            ]
            for wrong in files {
                let place = enclave.folder.appendingPathComponent("other-trust")
                try Data(wrong.text.utf8).write(to: place)
                let error = await refusal {
                    _ = try AuditVerification.verify(export, trail: nil, key: nil, trust: place)
                }
                #expect(
                    error?.code == wrong.code && error?.publicDescription.contains(wrong.words) == true,
                    "\(error?.publicDescription ?? "verified")")
            }
            #expect(await refusal { _ = try AuditVerification.verify(export, trail: nil, key: nil) }?.code == .usage)
        }
    }

    @Test(
        "witnesses' sights bound when a run was written, and entries of a clock that was set ahead are refused by name",
        .enabled(if: LiveWitness.isAvailable, "aics-witness is not installed"))
    func witnessedTimes() async throws {
        try await withEnclave { enclave in
            let witness = try LiveWitness(in: enclave.folder, for: enclave.trail)
            defer { witness.end() }
            let (file, _) = try policy(enclave.trail, witness, in: enclave.folder)
            _ = try await enclave.gateway.setWitnesses(file, by: enclave.operatorPerson)
            let grant = try await enclave.grant()
            let before = try await enclave.gateway.cosign(by: enclave.operatorPerson).size
            let run = try await enclave.request(grant)
            #expect(try await enclave.finish(run) == .closed(.released))
            let after = try await enclave.gateway.cosign(by: enclave.operatorPerson).size
            func verify(_ name: String) async throws -> AuditVerification {
                let export = enclave.folder.appendingPathComponent(name)
                _ = try await enclave.gateway.export(ExportRequest(.whole, to: export), by: enclave.auditor)
                return try AuditVerification.verify(export, trail: nil, key: enclave.auditorKey, trust: file)
            }
            let verified = try await verify("good")
            let written = try #require(verified.json["runs"]?.arrayValue?.first?["written"])
            #expect(written["after"]?["size"] == .integer(Int64(before)))
            #expect(written["before"]?["size"] == .integer(Int64(after)))
            #expect(verified.lines.contains { $0.hasPrefix("    written between ") }, "\(verified.lines)")
            enclave.clock.advance(days: 1)
            let error = await refusal { _ = try await verify("ahead") }
            #expect(
                error?.code == .integrity && error?.publicDescription.contains("but it was written") == true,
                "\(error?.publicDescription ?? "verified")")
        }
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
