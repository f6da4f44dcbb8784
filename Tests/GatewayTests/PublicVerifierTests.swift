import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Programs that know nothing of Sekisho, and Debian's `age`.
private enum PublicVerifiers {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
    static let age = URL(fileURLWithPath: "/usr/bin/age")
    static let areInstalled = Verifiers.python != nil && FileManager.default.isExecutableFile(atPath: age.path)
}

@Suite(.enabled(if: PublicVerifiers.areInstalled))
struct PublicVerifierTests {
    @Test("public tools alone open and verify sealed exports, and see what was changed")
    func publicTools() async throws {
        try await withEnclave { enclave in
            let grant = try await enclave.grant()
            let run = try await enclave.request(grant)
            #expect(try await enclave.finish(run) == .closed(.released))
            // A run that the policy refuses: its device hours are gone.
            let refused = try await enclave.request(
                grant, id: "refused", specification: Clinic.specification(label: "label2"))
            #expect(try await enclave.finish(refused) == .closed(.refused))
            let identity = enclave.folder.appendingPathComponent("identity")
            _ = try AuditorKeyFile.writeIdentity(of: enclave.auditorKey, to: identity)
            for (name, scope) in [("whole", ExportRequest.Scope.whole), ("run", .run(run))] {
                let file = enclave.folder.appendingPathComponent("\(name).age")
                _ = try await enclave.gateway.export(ExportRequest(scope, to: file), by: enclave.auditor)
                let folder = enclave.folder.appendingPathComponent(name)
                try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
                let archive = folder.appendingPathComponent("export.tar")
                try expect(PublicVerifiers.age, ["-d", "-i", identity.path, "-o", archive.path, file.path])
                try expect(URL(fileURLWithPath: "/bin/tar"), ["xf", archive.path, "-C", folder.path])
                let bag = folder.appendingPathComponent("sekisho-export")
                let words = try expect(#require(Verifiers.python), verifying(bag))
                #expect(words.contains("bagit: ") && words.contains("records fit their event's schema"), "\(words)")
                if name == "whole" {
                    #expect(words.contains("lead to the stated root"), "\(words)")
                    #expect(words.contains("3 permits, 1 denies"), "\(words)")
                }
                let events = bag.appendingPathComponent("data/documents/audit-events-0001.fhir.json")
                let text = try String(contentsOf: events, encoding: .utf8)
                try Data(text.replacing("\"outcome\":\"0\"", with: "\"outcome\":\"42\"").utf8).write(to: events)
                #expect(try Verifiers.run(#require(Verifiers.python), verifying(bag)).status != 0)
            }
        }
    }

    private func verifying(_ bag: URL) -> [String] {
        [
            PublicVerifiers.root.appendingPathComponent("audit/verify-public/verify.py").path, bag.path,
            EventSchema.file.path,
        ]
    }

    @discardableResult
    private func expect(_ program: URL, _ arguments: [String]) throws -> String {
        let (status, output) = try Verifiers.run(program, arguments)
        try #require(status == 0, "\(program.lastPathComponent): \(output)")
        return output
    }
}
