import AuditTrail
import Foundation
import Gateway
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
            #expect(summary.entries == UInt64(wholeRun.count))
            let report = try AuditVerification.verify(folder, trail: enclave.trail, key: enclave.auditorKey).json
            #expect(report["runs"]?.arrayValue?.first?["run"] == .string(run.text))
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
