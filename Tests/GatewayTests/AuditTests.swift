import AuditTrail
import Foundation
import Gateway
import Sealing
import TestSupport
import Testing
import Vocabulary

@Suite struct AuditTests {
    @Test("the export of a whole home verifies with and without an auditor's key, and not after any flipped byte")
    func export() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            #expect(try await enclave.finish(run) == .closed(.released))
            let folder = enclave.folder.appendingPathComponent("export")
            let summary = try await enclave.gateway.export(ExportRequest(.whole, to: folder), by: enclave.auditor)
            #expect(summary.entries == summary.treeSize && summary.treeSize > 30)
            let closed = try AuditVerification.verify(folder, trail: enclave.trail, key: nil).json
            let open = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey).json
            #expect(closed["verified"] == .bool(true) && closed["opened"] == .integer(0))
            #expect(open["size"] == .integer(Int64(summary.treeSize)) && open["root"]?.stringValue == summary.root.hex)
            #expect(open["runs"]?.arrayValue?.first?["complete"] == .bool(true))
            // The run's era has its opening record too.
            #expect(open["runs"]?.arrayValue?.first?["entries"] == .integer(Int64(wholeRun.count + 1)))

            var flipped = 0
            let files = try #require(
                FileManager.default.enumerator(at: folder, includingPropertiesForKeys: [.isRegularFileKey]))
            for case let file as URL in files {
                guard (try? file.resourceValues(forKeys: [.isRegularFileKey]).isRegularFile) == true else { continue }
                let good = try Data(contentsOf: file)
                guard !good.isEmpty else { continue }
                var bad = good
                bad[bad.count / 2] ^= 1
                try bad.write(to: file)
                let error = #expect(throws: GatewayError.self, "\(file.lastPathComponent)") {
                    _ = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey)
                }
                if error != nil { #expect(error?.code == .integrity, "\(file.lastPathComponent)") }
                try good.write(to: file)
                flipped += 1
            }
            #expect(flipped > 3)
            _ = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey)
        }
    }

    @Test("the export of one run verifies alone")
    func runExport() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            #expect(try await enclave.finish(run) == .closed(.released))
            let folder = enclave.folder.appendingPathComponent("export")
            let summary = try await enclave.gateway.export(ExportRequest(.run(run), to: folder), by: enclave.auditor)
            #expect(summary.entries == UInt64(wholeRun.count + 1))
            let report = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey).json
            #expect(report["runs"]?.arrayValue?.first?["run"] == .string(run.text))
        }
    }

    @Test(
        "a run's export without any one of its entries is refused by name, its last one too, whatever its manifest says"
    )
    func incompleteRun() async throws {
        try await withEnclave { enclave in
            let run = try await enclave.request(try await enclave.grant())
            #expect(try await enclave.finish(run) == .closed(.released))
            let folder = enclave.folder.appendingPathComponent("export")
            let summary = try await enclave.gateway.export(
                ExportRequest(.run(run), to: folder), by: enclave.auditor)
            let entries = folder.appendingPathComponent("data/slice/entries")
            let proofs = folder.appendingPathComponent("data/slice/proofs")
            for name in try FileManager.default.contentsOfDirectory(atPath: entries.path).sorted() {
                let files = [entries.appendingPathComponent(name), proofs.appendingPathComponent("\(name).tlog-proof")]
                let kept = try files.map { try Data(contentsOf: $0) }
                for file in files { try FileManager.default.removeItem(at: file) }
                try Bag.rewrite(folder) { $0["entries"] = .integer(Int64(summary.entries) - 1) }
                let error = #expect(throws: GatewayError.self, "entry \(name)") {
                    _ = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey)
                }
                #expect(
                    error?.code == .integrity && error?.publicDescription.contains("entry ") == true,
                    "\(name): \(error?.publicDescription ?? "")")
                for (file, bytes) in zip(files, kept) { try bytes.write(to: file) }
            }
            try Bag.rewrite(folder) { $0["entries"] = .integer(Int64(summary.entries)) }
            _ = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey)
        }
    }

    @Test("a sealed export opens for the auditor only and holds documents that are what its entries say")
    func sealed() async throws {
        try await withEnclave { enclave in
            let gateway = enclave.gateway
            let run = try await enclave.request(try await enclave.grant())
            #expect(try await enclave.finish(run) == .closed(.released))
            let file = enclave.folder.appendingPathComponent("run.age")
            _ = try await gateway.export(ExportRequest(.run(run), to: file), by: enclave.auditor)
            #expect(
                await refusal {
                    _ = try await gateway.export(ExportRequest(.run(run), to: file), by: enclave.auditor)
                }?.code == .usage)
            let bytes = try Data(contentsOf: file)
            // Long enough not to be in ciphertext by chance.
            for word in ["\"\(run)\"", "\"rin\"", "run.decided", Clinic.dataset.text] {
                #expect(bytes.range(of: Data(word.utf8)) == nil, "\(word) in clear")
            }
            let folder = enclave.folder.appendingPathComponent("opened")
            let other = enclave.folder.appendingPathComponent("other.key")
            _ = try AuditorKeyFile.generate(at: other)
            func opening(_ key: URL) -> GatewayError? {
                do {
                    try SealedExport.open(file, key: key, into: folder)
                    return nil
                } catch { return error as? GatewayError }
            }
            #expect(opening(other)?.code == .refused)
            for at in [10, 300, bytes.count / 2, bytes.count - 1] {
                var bad = bytes
                bad[at] ^= 1
                try bad.write(to: file)
                #expect(opening(enclave.auditorKey)?.code == .integrity, "byte \(at)")
                #expect(!FileManager.default.fileExists(atPath: folder.path))
            }
            try bytes.write(to: file)
            #expect(opening(enclave.auditorKey) == nil)
            let verify = { try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey) }
            #expect(try verify().json["runs"]?.arrayValue?.first?["complete"] == true)

            let documents = folder.appendingPathComponent("data/documents")
            let names = try FileManager.default.contentsOfDirectory(atPath: documents.path).sorted()
            #expect(
                names == [
                    "audit-events-0001.fhir.json", "records-0001.csv", "report.en.html", "report.ja.html",
                    "ro-crate-metadata.json",
                ])
            let japanese = try String(contentsOf: documents.appendingPathComponent("report.ja.html"), encoding: .utf8)
            #expect(japanese.contains("<svg") && japanese.contains("監査報告書") && japanese.contains("実行可否の決定"))
            let table = try String(contentsOf: documents.appendingPathComponent("records-0001.csv"), encoding: .utf8)
            #expect(table.split(separator: "\r\n").count == wholeRun.count + 1)

            // A document or a policy file that says something else, behind a manifest that fits.
            let policies = folder.appendingPathComponent("data/policies")
            let bundle = try #require(try FileManager.default.contentsOfDirectory(atPath: policies.path).first)
            for place in names.map({ documents.appendingPathComponent($0) })
                + [policies.appendingPathComponent("\(bundle)/clinic.yaml")]
            {
                let good = try Data(contentsOf: place)
                try (good + Data(" ".utf8)).write(to: place)
                try Bag.rewrite(folder) { _ in }
                let error = #expect(throws: GatewayError.self, "\(place.lastPathComponent)") { _ = try verify() }
                #expect(error?.code == .integrity)
                try good.write(to: place)
            }
            try Bag.rewrite(folder) { _ in }
            _ = try verify()
        }
    }

    @Test("exports of a period, a data set and a person hold what they say, and a search in them finds it")
    func scopes() async throws {
        try await withEnclave(policy: Clinic.policy.replacing("cohort_min: 60", with: "cohort_min: 10")) { enclave in
            let gateway = enclave.gateway
            let grant = try await enclave.grant()
            let first = try await enclave.request(grant, id: "first")
            #expect(try await enclave.finish(first) == .closed(.released))
            try await gateway.setConsent(
                subject: "P:3", dataset: Clinic.dataset, state: "withdrawn", by: enclave.steward)
            let second = try await enclave.request(grant, id: "second")
            #expect(try await enclave.finish(second) == .closed(.released))
            let times = try await enclave.records(.run(second)).map(\.time)
            func export(_ name: String, _ scope: ExportRequest.Scope) async throws -> URL {
                let folder = enclave.folder.appendingPathComponent(name)
                _ = try await gateway.export(ExportRequest(scope, to: folder), by: enclave.auditor)
                _ = try AuditVerification.verify(folder, trail: enclave.trail, key: nil)
                _ = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey)
                return folder
            }
            func found(_ folder: URL, _ pairs: [(String, String)]) throws -> [String] {
                try AuditVerification.search(
                    folder, trail: enclave.trail, key: enclave.auditorKey, query: AuditQuery(parsing: pairs), most: 1000
                ).map { "\($0.record.eventName) \($0.record.core["run"]?.stringValue ?? "-")" }
            }
            let period = try await export("period", .range(from: times.first!, to: times.last!.adding(seconds: 1)))
            #expect(try found(period, [("what", "run.closed")]) == ["run.closed second"])
            #expect(try found(period, [("run", "first")]).isEmpty)
            let dataset = try await export("dataset", .dataset(Clinic.dataset))
            #expect(try found(dataset, [("what", "run.closed")]) == ["run.closed first", "run.closed second"])
            #expect(try found(dataset, [("what", "consent.changed")]).count == 2)
            #expect(try found(dataset, [("what", "person.added")]).isEmpty)
            // The person was in the first run's image only.
            let person = try await export("person", .subject("P:3", Clinic.dataset))
            #expect(try found(person, [("what", "run.closed")]) == ["run.closed first"])
            #expect(try found(person, [("what", "consent.changed")]).count == 2)
            #expect(throws: GatewayError.self) { try found(person, [("subject", "P:3")]) }
            // The trail names the person by a pseudonym, which only the gateway can tell.
            #expect(
                await refusal { _ = try await gateway.subjectPseudonym("P:3", by: enclave.researcher) }?.code
                    == .refused)
            let pseudonym = try await gateway.subjectPseudonym("P:3", by: enclave.auditor).hex
            #expect(
                try found(person, [("subject", pseudonym)]) == ["consent.changed -", "consent.changed -"])
            #expect(
                try found(dataset, [("request", "request-1")]).prefix(2)
                    == ["request.filed -", "access.decided -"])
            #expect(try found(dataset, [("request", "request-1"), ("what", "grant.issued")]).count == 1)
            // Documents of an export without any are made where the key is.
            let out = enclave.folder.appendingPathComponent("documents")
            let names = try AuditVerification.documents(
                dataset, trail: enclave.trail, key: enclave.auditorKey, into: out)
            #expect(names.contains("report.en.html"))
            #expect(
                await refusal {
                    _ = try await gateway.export(
                        ExportRequest(
                            .range(from: Timestamp(milliseconds: 0), to: Timestamp(milliseconds: 1)),
                            to: enclave.folder.appendingPathComponent("none")), by: enclave.auditor)
                }?.code == .notFound)
            let exported = try await enclave.own(.trailExported)
            #expect(
                exported.compactMap { $0.detail["scope"]?.stringValue }.prefix(3) == ["range", "dataset", "subject"])
            #expect(!exported.contains { $0.core.canonicalText.contains("P:3") })
        }
    }

    @Test("a sealed export that was interrupted anywhere goes on to the same file; another request does not touch it")
    func sealedResumed() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let file = enclave.folder.appendingPathComponent("whole.age")
            let partial = file.appendingPathExtension("partial")
            let state = file.appendingPathExtension("state")
            let request = ExportRequest(.whole, to: file)
            // Ends after its first word on how far it is; what was written so far stays.
            for _ in 0..<600 { _ = try await gateway.auditList(nil, most: 1, by: enclave.auditor) }
            let task = Task {
                try await gateway.export(request, by: enclave.auditor) { _ in withUnsafeCurrentTask { $0?.cancel() } }
            }
            await #expect(throws: CancellationError.self) { _ = try await task.value }
            #expect(!FileManager.default.fileExists(atPath: file.path))
            let begun = try Data(contentsOf: partial)
            let note = try Data(contentsOf: state)
            let header = try #require(begun.range(of: Data("\n--- ".utf8))).upperBound + 43 + 1 + 16
            #expect(begun.count >= header)
            #expect(
                await refusal {
                    _ = try await gateway.export(
                        ExportRequest(.dataset(Clinic.dataset), to: file), by: enclave.auditor)
                }?.code == .usage)
            #expect(try Data(contentsOf: partial) == begun)

            // The trail goes on meanwhile.
            _ = try await gateway.auditList(nil, most: 1, by: enclave.auditor)
            let summary = try await gateway.export(request, by: enclave.auditor)
            let whole = try Data(contentsOf: file)
            #expect(whole.prefix(begun.count) == begun && whole.count > begun.count)
            #expect(!FileManager.default.fileExists(atPath: state.path))
            #expect(!FileManager.default.fileExists(atPath: partial.path))
            #expect(try await enclave.own(.trailExported).last?.detail["resumed"] == true)

            // Broken off at any length: in the header, after it, within a block, at the end.
            for length in [0, 10, header - 1, header, header + 5, header + 65_552, whole.count - 1, whole.count] {
                try FileManager.default.removeItem(at: file)
                try whole.prefix(length).write(to: partial)
                try note.write(to: state)
                let again = try await gateway.export(request, by: enclave.auditor)
                #expect(again.root == summary.root && again.treeSize == summary.treeSize)
                let made = try Data(contentsOf: file)
                #expect((made == whole) == (length >= header), "\(length)")
            }
            // Where what is there is not what would be sealed, nothing of it is used: another key seals it all.
            for at in [20, header - 1, header + 3, header + 65_560] {
                try FileManager.default.removeItem(at: file)
                var other = whole
                other[at] ^= 1
                try other.write(to: partial)
                try note.write(to: state)
                _ = try await gateway.export(request, by: enclave.auditor)
                let made = try Data(contentsOf: file)
                #expect(made.dropFirst(header).prefix(1000) != whole.dropFirst(header).prefix(1000), "byte \(at)")
            }
            let folder = enclave.folder.appendingPathComponent("opened")
            try SealedExport.open(file, key: enclave.auditorKey, into: folder)
            _ = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey)
        }
    }

    @Test("a clock that was set back stops what is new until it is right again, and its records say so")
    func clockBack() async throws {
        try await withEnclave(hasNode: false) { enclave in
            enclave.clock.advance(days: -1)
            let filing = {
                await refusal { _ = try await enclave.gateway.fileRequest(Clinic.form, by: enclave.researcher) }
            }
            let error = await filing()
            #expect(error?.code == .unavailable && error?.publicDescription.hasPrefix("clock-behind") == true)
            try await enclave.reopen()
            #expect(await filing()?.code == .unavailable)
            enclave.clock.advance(days: 1)
            _ = try await enclave.gateway.fileRequest(Clinic.form, by: enclave.researcher)
            let checks = try await enclave.own(.clockChecked)
            #expect(checks.contains { $0.outcome == .failed && $0.reasons == ["clock-behind"] })
            let folder = enclave.folder.appendingPathComponent("export")
            _ = try await enclave.gateway.export(ExportRequest(.whole, to: folder), by: enclave.auditor)
            _ = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey)
        }
    }

    @Test("a start states the configuration once, and again when it is another")
    func configuration() async throws {
        try await withEnclave(hasNode: false) { enclave in
            try await enclave.reopen()
            try await enclave.reopen()
            #expect(try await enclave.own(.configurationStated).count == 1)
            #expect(try await enclave.own(.clockChecked).count >= 1)
        }
    }

    @Test("only a compliance officer reads and exports the trail, and reading is recorded")
    func reading() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let out = enclave.folder.appendingPathComponent("none")
            #expect(
                await refusal { _ = try await gateway.auditList(nil, most: 10, by: enclave.researcher) }?.code
                    == .refused)
            #expect(
                await refusal {
                    _ = try await gateway.export(ExportRequest(.whole, to: out), by: enclave.operatorPerson)
                }?.code
                    == .refused)
            #expect(!FileManager.default.fileExists(atPath: out.path))
            let list = try await gateway.auditList(nil, most: 1, by: enclave.auditor)
            #expect(list.map(\.eventName) == ["trail.read"] && list.first?.actor == enclave.auditor)
        }
    }

    @Test("audit/events.md tells of exactly the events there are")
    func events() throws {
        let page = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../../audit/events.md")
        var told: [String] = []
        let lines = try String(contentsOf: page, encoding: .utf8).split(separator: "\n")
        for line in lines.drop(while: { $0 != "| event | when |" }) where line.hasPrefix("| `") {
            let cell = line.split(separator: "|", omittingEmptySubsequences: true)[0]
            told += cell.split(separator: "`").map(String.init).filter { $0.contains(".") }
        }
        #expect(Set(told).count == told.count)
        #expect(Set(told) == Set(AuditEvent.allCases.map(\.rawValue)))
    }
}

/// A bag as somebody writes it who changed its files and makes the manifests fit.
private enum Bag {
    static func rewrite(_ folder: URL, _ scope: (inout [String: JSON]) -> Void) throws {
        let place = folder.appendingPathComponent("data/scope.json")
        var members = try #require(JSON(parsing: [UInt8](Data(contentsOf: place))).objectValue)
        scope(&members)
        try Data(JSON.object(members).canonical).write(to: place)
        var manifest = ""
        try walk(folder, "data") { manifest += "\(try digest(folder, $0))  \($0)\n" }
        try Data(manifest.utf8).write(to: folder.appendingPathComponent("manifest-sha512.txt"))
        let tags = try ["bag-info.txt", "bagit.txt", "manifest-sha512.txt"].map { "\(try digest(folder, $0))  \($0)\n" }
        try Data(tags.joined().utf8).write(to: folder.appendingPathComponent("tagmanifest-sha512.txt"))
    }

    private static func digest(_ folder: URL, _ path: String) throws -> String {
        Hex.encode(SHA512.hash([UInt8](try Data(contentsOf: folder.appendingPathComponent(path)))))
    }

    private static func walk(_ folder: URL, _ path: String, _ visit: (String) throws -> Void) throws {
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.appendingPathComponent(path).path)
        for name in names.sorted(by: { Array($0.utf8).lexicographicallyPrecedes(Array($1.utf8)) }) {
            let below = "\(path)/\(name)"
            var isFolder: ObjCBool = false
            _ = FileManager.default.fileExists(
                atPath: folder.appendingPathComponent(below).path, isDirectory: &isFolder)
            if isFolder.boolValue { try walk(folder, below, visit) } else { try visit(below) }
        }
    }
}
