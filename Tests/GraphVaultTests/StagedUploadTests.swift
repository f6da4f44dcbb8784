import Foundation
import GraphVault
import Sealing
import TestSupport
import Testing
import Vocabulary

@Suite("Files that came over a wire are imported like files on this machine")
struct StagedUploadTests {
    private func stage(_ files: VersionFiles, in vault: Vault, chunk: Int) async throws -> StagedUpload {
        let upload = try await vault.stageUpload()
        for part in [StagedUpload.Part.nodes, .edges, .features, .consent] {
            let bytes = Array(try Data(contentsOf: files.folder.appendingPathComponent(part.fileName)))
            try upload.begin(part)
            for start in stride(from: 0, to: bytes.count, by: chunk) {
                try upload.append(bytes[start..<min(start + chunk, bytes.count)])
            }
            try upload.end(part)
        }
        return upload
    }

    @Test(
        "in pieces of any size they give the same version, and nothing of them stays", arguments: [1, 7, 4096, 1 << 20])
    func same(chunk: Int) async throws {
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder)
            let place = folder.appendingPathComponent("vault")
            let vault = try Vault.create(at: place.path, unsealing: keyFile())
            let plain = try await vault.importVersion(files.source, dataset: tiny, version: first)
            var upload: StagedUpload? = try await stage(files, in: vault, chunk: chunk)
            let staged = try await vault.importVersion(
                #require(upload).source(featureColumns: nil), dataset: tiny, version: VersionID("v2"))
            #expect(staged.facts == plain.facts && staged.subjectsUnrecorded == plain.subjectsUnrecorded)
            upload = nil
            let left = try FileManager.default.subpathsOfDirectory(atPath: place.appendingPathComponent("staging").path)
            #expect(left.isEmpty, "\(left)")
        }
    }

    @Test("what lies on the disk meanwhile shows none of their text")
    func sealed() async throws {
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder)
            let place = folder.appendingPathComponent("vault")
            let vault = try Vault.create(at: place.path, unsealing: keyFile())
            let upload = try await stage(files, in: vault, chunk: 100)
            let line = try #require(
                try String(contentsOf: folder.appendingPathComponent("nodes.tsv"), encoding: .utf8)
                    .split(separator: "\n").last)
            for name in try FileManager.default.subpathsOfDirectory(atPath: place.path) {
                let bytes = (try? Data(contentsOf: place.appendingPathComponent(name))) ?? Data()
                #expect(bytes.range(of: Data(line.utf8)) == nil, "\(name)")
            }
            withExtendedLifetime(upload) {}
        }
    }

    @Test("a missing file, one that comes twice, and dense features beside sparse ones are refused by name")
    func refused() async throws {
        try await withTemporaryFolder { folder in
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let upload = try await vault.stageUpload()
            func put(_ part: StagedUpload.Part) throws {
                try upload.begin(part)
                try upload.append(Array("x".utf8)[...])
                try upload.end(part)
            }
            func words() -> String? {
                do {
                    _ = try upload.source(featureColumns: nil)
                    return nil
                } catch { return error.publicDescription }
            }
            try put(.nodes)
            try put(.features)
            #expect(words() == "edges.tsv is missing from what was sent")
            try put(.edges)
            #expect(words() == nil)
            try put(.featureRows)
            #expect(words() == "features are sent dense or sparse, not both")
            #expect(throws: VaultError.self) { try upload.begin(.nodes) }
        }
    }

    @Test("a mistake in them is told by file, line and column, and the vault stays as it was")
    func mistakes() async throws {
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder, edges: "subject\tpredicate\tobject\nnobody\tbiolink:x\tnothing\n")
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let upload = try await stage(files, in: vault, chunk: 10)
            let source = try upload.source(featureColumns: nil)
            let error = await refusal { _ = try await vault.importVersion(source, dataset: tiny, version: first) }
            #expect(error?.code == .unknownNode && error?.source == .edges && error?.place == .line(2, column: 1))
            #expect(try await vault.versions().isEmpty)
        }
    }
}
