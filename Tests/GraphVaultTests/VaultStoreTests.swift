import Foundation
import GraphVault
import Sealing
import Synchronization
import TestSupport
import Testing
import Vocabulary

@Suite("The vault keeps what it is given, and opens for who holds its key")
struct VaultStoreTests {
    @Test("a passphrase opens the vault it made, and no other does")
    func passphrase() throws {
        try withTemporaryFolder { folder in
            let cost = PassphraseCost(memoryBytes: 1 << 20, passes: 1)
            func phrase(_ text: String) -> Unsealing { .passphrase(SecretBytes(copying: Array(text.utf8))) }
            _ = try GraphVault.create(at: folder.path, unsealing: phrase("open sesame"), cost: cost)
            _ = try GraphVault.open(at: folder.path, unsealing: phrase("open sesame"))
            #expect(code { _ = try GraphVault.open(at: folder.path, unsealing: phrase("open barley")) } == .wrongKey)
            #expect(code { _ = try GraphVault.open(at: folder.path, unsealing: keyFile()) } == .wrongKey)
            #expect(code { _ = try GraphVault.create(at: folder.path, unsealing: keyFile()) } == .exists)
        }
    }

    @Test("a key file opens the vault it made, and no other does")
    func keyFiles() throws {
        try withTemporaryFolder { folder in
            _ = try GraphVault.create(at: folder.path, unsealing: keyFile())
            _ = try GraphVault.open(at: folder.path, unsealing: keyFile())
            let other = Unsealing.keyFile(SecretBytes(copying: [UInt8](repeating: 8, count: 32)))
            #expect(code { _ = try GraphVault.open(at: folder.path, unsealing: other) } == .wrongKey)
            let short = Unsealing.keyFile(SecretBytes(copying: [7]))
            #expect(code { _ = try GraphVault.open(at: folder.path, unsealing: short) } == .wrongKey)
        }
    }

    @Test("every change of a key header's bytes is refused")
    func header() throws {
        try withTemporaryFolder { folder in
            _ = try GraphVault.create(at: folder.path, unsealing: keyFile())
            let file = folder.appendingPathComponent("vault.json")
            let good = try [UInt8](Data(contentsOf: file))
            for index in good.indices {
                var bad = good
                bad[index] ^= 1
                try Data(bad).write(to: file)
                let refused = code { _ = try GraphVault.open(at: folder.path, unsealing: keyFile()) }
                #expect(refused == .wrongKey || refused == .notAVault, "byte \(index)")
            }
        }
    }

    @Test("a second opener is refused while the first lives")
    func locked() async throws {
        try await withTemporaryFolder { folder in
            let vault = try GraphVault.create(at: folder.path, unsealing: keyFile())
            #expect(code { _ = try GraphVault.open(at: folder.path, unsealing: keyFile()) } == .inUse)
            #expect(try await vault.versions().isEmpty)
        }
    }

    @Test("an empty folder is not a vault, and stays empty")
    func noVault() throws {
        try withTemporaryFolder { folder in
            #expect(code { _ = try GraphVault.open(at: folder.path, unsealing: keyFile()) } == .notAVault)
            let left = try FileManager.default.contentsOfDirectory(atPath: folder.path)
            #expect(left.isEmpty)
        }
    }

    @Test("an import tells what it found, and the vault still knows it after a restart")
    func imported() async throws {
        try await withTemporaryFolder { folder in
            let path = folder.appendingPathComponent("vault").path
            var report: ImportReport?
            try await withTinyVault(folder) { vault, _, files, imported in
                report = imported
                #expect(imported.facts.nodes == 7 && imported.facts.edges == 11 && imported.facts.features == 2)
                #expect(imported.facts.subjects == 4)
                #expect(imported.subjectsUnrecorded == 1 && imported.subjectsWithdrawn == 1)
                #expect(imported.facts.labels.map(\.name) == ["label"])
                #expect(imported.facts.labels[0].classNames == ["no", "yes"])
                #expect(imported.facts.labels[0].classCounts == [2, 2])
                #expect(imported.facts.split == [3, 2, 1, 1])
                let again = await refusal {
                    _ = try await vault.importVersion(files.source, dataset: tiny, version: first)
                }
                #expect(again?.code == .exists)
            }
            let vault = try GraphVault.open(at: path, unsealing: keyFile())
            #expect(vault.findings.isEmpty)
            #expect(try await vault.versions().map(\.root) == [report?.root])
            #expect(try await vault.facts(tiny, first) == report?.facts)
            try await vault.check(tiny, first)
        }
    }

    @Test("nothing of the data, and nobody's id, lies on disk in clear")
    func sealed() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, trail, _, report in
                _ = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn),
                    receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
                _ = try await vault.storeCandidate(run: run1, artefacts: [("weights.bin", Array("P:1 said yes".utf8))])
            }
            let names = FileManager.default.enumerator(atPath: folder.appendingPathComponent("vault").path)!
            var files = 0
            for case let name as String in names {
                #expect(!name.contains("P:"))
                let url = folder.appendingPathComponent("vault/\(name)")
                guard let bytes = try? [UInt8](Data(contentsOf: url)) else { continue }
                files += 1
                for word in ["P:1", "P:3", "G:1", "biolink", "withdrawn", "given", "DUO:", "said yes"] {
                    #expect(bytes.firstRange(of: Array(word.utf8)) == nil, "\(word) in \(name)")
                }
            }
            #expect(files > 20)
        }
    }

    @Test("a killed import leaves the vault as it was, whenever it is killed")
    func killed() async throws {
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder)
            let home = folder.appendingPathComponent("vault")
            let vault = try GraphVault.create(at: home.path, unsealing: keyFile())
            _ = try await vault.importVersion(files.source, dataset: tiny, version: first)
            // The folder as a kill at each step would leave it.
            let second = try VersionID("v2")
            _ = try await vault.importVersion(files.source, dataset: tiny, version: second) { step in
                try FileManager.default.copyItem(at: home, to: folder.appendingPathComponent("killed-\(step)"))
            }
            let staged: Set<ImportStep> = [.topologySealed, .featuresSealed, .durable]
            for step in ImportStep.allCases {
                let path = folder.appendingPathComponent("killed-\(step)").path
                let expected: [GraphVault.Finding] =
                    staged.contains(step)
                    ? [.unfinishedWorkRemoved] : step == .placed ? [.unknownVersionRemoved(tiny, second)] : []
                do {
                    let vault = try GraphVault.open(at: path, unsealing: keyFile())
                    #expect(vault.findings == expected, "\(step)")
                    #expect(try await vault.versions().map(\.version) == [first], "\(step)")
                    _ = try await vault.importVersion(files.source, dataset: tiny, version: second)
                    try await vault.check(tiny, second)
                }
                let vault = try GraphVault.open(at: path, unsealing: keyFile())
                #expect(vault.findings.isEmpty, "\(step)")
                #expect(try await vault.versions().map(\.version) == [first, second], "\(step)")
            }
        }
    }

    @Test("a cancelled import leaves nothing behind", arguments: ImportStep.allCases)
    func cancelled(at last: ImportStep) async throws {
        struct Cancelled: Error {}
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder)
            let home = folder.appendingPathComponent("vault")
            let vault = try GraphVault.create(at: home.path, unsealing: keyFile())
            await #expect(throws: Cancelled.self) {
                _ = try await vault.importVersion(files.source, dataset: tiny, version: first) { step in
                    if step == last { throw Cancelled() }
                }
            }
            #expect(try await vault.versions().isEmpty)
            for name in ["staging", "datasets/tiny"] {
                let left = try? FileManager.default.contentsOfDirectory(atPath: home.appendingPathComponent(name).path)
                #expect(left ?? [] == [])
            }
        }
    }

    @Test("a destroyed version cannot be opened, and its name is not free again")
    func destroyed() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, _, files, _ in
                try await vault.destroyVersion(tiny, first)
                #expect(await refusal { _ = try await vault.facts(tiny, first) }?.code == .destroyed)
                #expect(await refusal { _ = try await vault.cohort(tiny, first) }?.code == .destroyed)
                #expect(try await vault.versions().map(\.isDestroyed) == [true])
                let again = await refusal {
                    _ = try await vault.importVersion(files.source, dataset: tiny, version: first)
                }
                #expect(again?.code == .exists)
            }
        }
    }

    @Test("a version whose files are gone is reported when the vault opens")
    func missing() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { _, _, _, _ in }
            let home = folder.appendingPathComponent("vault")
            try FileManager.default.removeItem(at: home.appendingPathComponent("datasets/tiny/v1"))
            let vault = try GraphVault.open(at: home.path, unsealing: keyFile())
            #expect(vault.findings == [.versionMissing(tiny, first)])
            #expect(await refusal { _ = try await vault.facts(tiny, first) }?.code == .truncated)
        }
    }
}

@Suite("Whatever is done to a version's files is found")
struct VaultTamperTests {
    @Test("a flipped bit in any block of any section is refused")
    func flipped() async throws {
        try await withTampering { vault, section in
            let good = try [UInt8](Data(contentsOf: section))
            // Bytes all over the small files; of the big one, around the block borders.
            let small = Array(stride(from: 0, to: good.count - 16, by: 7)) + [good.count - 16, good.count - 1]
            let positions = good.count < 1000 ? small : [0, 65_535, 65_536, 65_551, 65_552, good.count - 1]
            for position in positions {
                var bad = good
                bad[position] ^= 0x10
                try Data(bad).write(to: section)
                let error = await refusal { try await vault.check(tiny, first) }
                #expect(error?.code == .tampered, "\(section.lastPathComponent), byte \(position)")
            }
            try Data(good).write(to: section)
        }
    }

    @Test("a section that is cut, extended, emptied or missing is refused")
    func cut() async throws {
        try await withTampering { vault, section in
            let good = try [UInt8](Data(contentsOf: section))
            for bad in [Array(good.dropLast()), good + [0], [], Array(good.prefix(65_552).dropLast(17))]
            where bad != good {
                try Data(bad).write(to: section)
                #expect(await refusal { try await vault.check(tiny, first) }?.code == .truncated)
            }
            try FileManager.default.removeItem(at: section)
            #expect(await refusal { try await vault.check(tiny, first) }?.code == .truncated)
            try Data(good).write(to: section)
        }
    }

    @Test("blocks, sections and versions that change places are refused")
    func swapped() async throws {
        try await withTemporaryFolder { folder in
            let (vault, files) = try await bigVault(folder)
            let versions = folder.appendingPathComponent("vault/datasets/tiny")
            let second = try VersionID("v2")
            _ = try await vault.importVersion(files.source, dataset: tiny, version: second)

            // Two whole blocks of the features.
            let features = versions.appendingPathComponent("v1/section-8.sealed")
            let good = try [UInt8](Data(contentsOf: features))
            let block = 65_552
            try Data(good[block..<2 * block] + good[..<block] + good[(2 * block)...]).write(to: features)
            #expect(await refusal { try await vault.check(tiny, first) }?.code == .tampered)
            // The same section of another version of the same data.
            try Data(contentsOf: versions.appendingPathComponent("v2/section-8.sealed")).write(to: features)
            #expect(await refusal { try await vault.check(tiny, first) }?.code == .tampered)
            try Data(good).write(to: features)
            try await vault.check(tiny, first)
            // Two sections of one length: edges by source and by target.
            let out = versions.appendingPathComponent("v1/section-4.sealed")
            let back = versions.appendingPathComponent("v1/section-7.sealed")
            let (outBytes, backBytes) = (try Data(contentsOf: out), try Data(contentsOf: back))
            #expect(outBytes.count == backBytes.count)
            try outBytes.write(to: back)
            try backBytes.write(to: out)
            #expect(await refusal { try await vault.check(tiny, first) }?.code == .tampered)
        }
    }

    /// `body` for each section file of a version with several blocks.
    private func withTampering(_ body: (GraphVault, URL) async throws -> Void) async throws {
        try await withTemporaryFolder { folder in
            let (vault, _) = try await bigVault(folder)
            let version = folder.appendingPathComponent("vault/datasets/tiny/v1")
            for number in 1...13 {
                try await body(vault, version.appendingPathComponent("section-\(number).sealed"))
            }
            try await vault.check(tiny, first)
        }
    }

    /// The tiny version with features wide enough for three blocks.
    private func bigVault(_ folder: URL) async throws -> (GraphVault, VersionFiles) {
        let rows = (0..<7).map { row in (0..<6000).map { Float(row * 6000 + $0) } }
        let files = try VersionFiles(in: folder, features: VersionFiles.npy(rows))
        let vault = try GraphVault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
        _ = try await vault.importVersion(files.source, dataset: tiny, version: first)
        return (vault, files)
    }
}

private func code(_ body: () throws -> Void) -> VaultError.Code? {
    do {
        try body()
        return nil
    } catch {
        return (error as? VaultError)?.code
    }
}
