import Foundation
import Gateway
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

/// What a trail and its exports give away to whoever has no key, and which keys are taken for what they are not.
@Suite struct ClaimTests {
    @Test("no file of the trail or of an export into a folder holds a word of what was recorded")
    func clear() async throws {
        try await withEnclave { enclave in
            let gateway = enclave.gateway
            let run = try await enclave.request(try await enclave.grant(), id: "a-run-of-its-own")
            #expect(try await enclave.finish(run) == .closed(.released))
            try await gateway.setConsent(
                subject: "P:3", dataset: Clinic.dataset, state: "withdrawn", by: enclave.steward)
            _ = try await gateway.searchAudit(
                AuditQuery(parsing: [("subject", "P:3"), ("reason", "cohort-too-small")]), after: nil, limit: 1,
                by: enclave.auditor)
            for (name, scope) in [
                ("whole", ExportRequest.Scope.whole), ("run", .run(run)), ("person", .subject("P:3", Clinic.dataset)),
            ] {
                _ = try await gateway.export(
                    ExportRequest(scope, to: enclave.folder.appendingPathComponent(name)), by: enclave.auditor)
            }
            let records = try await gateway.auditList(nil, most: 100_000, by: enclave.auditor)
            try expectNothingOf(
                Self.words(in: records), home: enclave.home,
                places: [enclave.home.appendingPathComponent("trail")]
                    + ["whole", "run", "person"].map { enclave.folder.appendingPathComponent($0) })
            // The scope names the run or the data set, never the person.
            let scope = try String(
                contentsOf: enclave.folder.appendingPathComponent("person/data/scope.json"), encoding: .utf8)
            #expect(!scope.contains("P:3") && scope.contains(Clinic.dataset.text))
        }
    }

    /// Every text and digest in every record, but for single digits and the like, and what was typed.
    private static func words(in records: [CaseRecord]) -> Set<String> {
        var words: Set<String> = ["P:3", "as agreed", "withdrawn", "a-run-of-its-own", Clinic.dataset.text]
        for record in records {
            collect(record.core, &words)
            collect(record.payload, &words)
        }
        return words.filter { $0.utf8.count >= 2 && !$0.hasPrefix("sekisho.test/trail+") }
    }

    private func expectNothingOf(_ words: Set<String>, home: URL, places: [URL]) throws {
        #expect(words.count > 150 && words.contains("run.decided") && words.contains("aoi"))
        #expect(words.filter { $0.utf8.count >= 6 }.count > 100)
        // The manifests name the policy files by their bundle's hash; everything else is the log's own.
        let policies = words.filter {
            FileManager.default.fileExists(atPath: home.appendingPathComponent("policies/\($0)").path)
        }
        #expect(policies.count == 1)
        var files = 0
        for place in places {
            for name in try FileManager.default.subpathsOfDirectory(atPath: place.path) {
                // They are in clear for whoever holds the export, and say so.
                let isOpen =
                    name.hasPrefix("data/policies/") || name == "data/VERIFY.md" || name.hasSuffix("trail.vkey")
                let file = place.appendingPathComponent(name)
                guard !isOpen, (try? file.resourceValues(forKeys: [.isRegularFileKey]))?.isRegularFile == true
                else { continue }
                files += 1
                let bytes = try Bytes(of: file)
                for word in words where bytes.contains(word) {
                    let isManifest = name.hasPrefix("manifest") && (policies.contains(word) || word.hasSuffix(".yaml"))
                    // What the export states of itself: its scope, one run or data set by name.
                    let isScope = name == "data/scope.json" || name == "bag-info.txt"
                    #expect(isManifest || isScope, "\(word) in \(place.lastPathComponent)/\(name)")
                }
            }
        }
        #expect(files > 60)
    }

    private static func collect(_ json: JSON, _ words: inout Set<String>) {
        if let text = json.stringValue { words.insert(text) }
        for value in json.arrayValue ?? [] { collect(value, &words) }
        for (_, value) in json.objectValue ?? [:] { collect(value, &words) }
    }

    @Test("keys of the wrong kind are refused by what they are")
    func wrongKinds() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let folder = enclave.folder
            let export = folder.appendingPathComponent("export")
            _ = try await enclave.gateway.export(ExportRequest(.whole, to: export), by: enclave.auditor)
            let witness = try FakeWitnessKey.line()
            func refused(
                trail: String? = nil, key: URL? = nil, trust: String? = nil, as code: GatewayError.Code, _ words: String
            ) async throws {
                let file = folder.appendingPathComponent("trust")
                if let trust { try Data(trust.utf8).write(to: file) }
                let error = await refusal {
                    _ = try AuditVerification.verify(
                        export, trail: trust == nil ? trail ?? enclave.trail : trail, key: key,
                        trust: trust == nil ? nil : file)
                }
                #expect(
                    error?.code == code && error?.publicDescription.contains(words) == true,
                    "\(words): \(error?.publicDescription ?? "verified")")
            }
            // A witness's key for a log's, a log's for a witness's, one letter changed, another log's.
            try await refused(trail: witness, as: .usage, "the trail's identity is not of the form")
            try await refused(
                trail: String(enclave.trail.dropLast()) + (enclave.trail.hasSuffix("A") ? "B" : "A"), as: .usage,
                "the trail's identity")
            let stranger = try TrailIdentity(origin: "sekisho.test/trail", key: SigningKey.generate().verifyingKey)
            try await refused(trail: "\(stranger)", as: .integrity, "another log than the one you trust")
            try await refused(trust: "log \(witness)\nquorum none\n", as: .usage, "line 1 of the trust file")
            try await refused(
                trust: "log \(enclave.trail)\nwitness w \(enclave.trail)\nquorum w\n", as: .usage,
                "line 2 of the trust file")
            // A public half, another auditor's, a file that is no key, the home's own key.
            try await refused(key: folder.appendingPathComponent("auditor.key.pub"), as: .usage, "public key")
            let other = folder.appendingPathComponent("other.key")
            _ = try AuditorKeyFile.generate(at: other)
            try await refused(key: other, as: .integrity, "opens none of the entries")
            try await refused(key: enclave.key, as: .usage, "private key file")
            try await refused(key: folder.appendingPathComponent("missing"), as: .notFound, "private key file")
            // A private key where a public one goes: nothing that opens the trail is ever copied into a home.
            let error = await refusal {
                _ = try await Gateway.initialise(
                    home: folder.appendingPathComponent("second"), key: .keyFile(enclave.key), origin: "a.test/b",
                    anchor: nil, auditors: [enclave.auditorKey],
                    recovery: folder.appendingPathComponent("recovery.key.pub"))
            }
            #expect(error?.code == .usage && error?.publicDescription.contains("this is a private key") == true)
            // Age recipients of a kind that there is not, and both kinds in one file.
            for recipients in [["age1"], ["AGE-SECRET-KEY-1"], [enclave.trail]] {
                let file = folder.appendingPathComponent("export.age")
                let error = await refusal {
                    _ = try await enclave.gateway.export(
                        ExportRequest(.whole, to: file, recipients: recipients), by: enclave.auditor)
                }
                #expect(error?.code == .usage, "\(recipients)")
                #expect(!FileManager.default.fileExists(atPath: file.path))
            }
        }
    }
}

/// Looks for words in a file's bytes.
private struct Bytes {
    private let bytes: Data

    /// Without the zeros that a segment ends with.
    init(of file: URL) throws {
        let all = try Data(contentsOf: file)
        bytes = all.prefix((all.lastIndex { $0 != 0 } ?? -1) + 1)
    }

    /// A short word is in every ciphertext by chance; as a text of JSON it stands in quotation marks.
    func contains(_ word: String) -> Bool {
        if bytes.isEmpty { return false }
        let wanted = word.utf8.count < 6 ? "\"\(word)\"" : word
        return bytes.range(of: Data(wanted.utf8)) != nil
    }
}
