import Foundation
import GraphVault
import Sealing
import TestSupport
import Testing
import TransparencyLog
import Vocabulary

private let recipes: [ImageRecipe] = [Aggregation.gcn, .sage, .gat].flatMap { aggregation in
    FeatureNormalisation.allCases.flatMap { normalisation in
        [false, true].filter { !$0 || aggregation != .gat }
            .map { imageRecipe(aggregation, normalisation, aggregate: $0) }
    }
}

func expectSame(_ image: OpenedImage, _ reference: ReferenceImage, _ note: Comment = "") {
    #expect(image.rowPointers == reference.rowPointers, note)
    #expect(image.columns == reference.columns, note)
    #expect(image.features.map(\.bitPattern) == reference.features.map(\.bitPattern), note)
    #expect(image.aggregate.map(\.bitPattern) == reference.aggregate.map(\.bitPattern), note)
    #expect(image.scale.map(\.bitPattern) == reference.scale.map(\.bitPattern), note)
    #expect(image.labels == reference.labels, note)
    #expect(image.split == reference.split, note)
}

@Suite("A run image holds the permitted cohort and nothing else")
struct RunImageTests {
    @Test("an image is what the plain reference makes of the files without who did not consent", arguments: recipes)
    func reference(recipe: ImageRecipe) async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, trail, _, report in
                let image = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: recipe,
                    receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
                // P:3 has withdrawn, and with them their sample S:3; P:4 never said anything.
                let reference = ReferenceImage(
                    nodes: VersionFiles.nodes, edges: VersionFiles.edges, features: VersionFiles.features,
                    absent: ["P:3", "S:3", "P:4"], recipe)
                #expect(reference.ids == ["P:1", "G:1", "P:2", "G:2"])
                expectSame(try await OpenedImage(image, vault, trail), reference)
                #expect(image.subjects == 2)
                #expect(image.shape.nodes == 4 && image.shape.edges == reference.columns.count)
                #expect(image.shape.features == 2 && image.shape.classes == 2)
                #expect(image.shape.labelled == [0, 1, 1, 0])
                #expect(image.shape.tileEdges == [0, UInt64(reference.columns.count)])
            }
        }
    }

    @Test("a withdrawal holds from the next image on, a new consent too, and the runs that used a subject are known")
    func withdrawal() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, trail, files, report in
                func open(_ run: String) async throws -> (RunImage, OpenedImage) {
                    let run = try RunID(run)
                    let image = try await vault.openRunImage(
                        run: run, dataset: tiny, version: first, recipe: imageRecipe(.sage),
                        receipt: trail.runPermit(run, tiny, first, root: report.root), trail: trail.identity)
                    return (image, try await OpenedImage(image, vault, trail))
                }
                func reference(without absent: Set<String>) -> ReferenceImage {
                    ReferenceImage(
                        nodes: VersionFiles.nodes, edges: VersionFiles.edges, features: VersionFiles.features,
                        absent: absent, imageRecipe(.sage))
                }
                let p1 = try SubjectID("P:1")
                let p3 = try SubjectID("P:3")
                let (before, _) = try await open("before")
                let consents = try await vault.consentHash(of: tiny)
                try await vault.setConsent(Consent(state: .withdrawn), of: p1, in: tiny)
                try await vault.setConsent(Consent(state: .given, codes: ["DUO:0000006"]), of: p3, in: tiny)
                let (after, opened) = try await open("after")
                #expect(try await vault.consentHash(of: tiny) != consents)
                expectSame(opened, reference(without: ["P:1", "P:4"]))
                #expect(
                    before.cohortHash != after.cohortHash && before.hash != after.hash && before.keyID != after.keyID)
                // The image that was open already is the one its run was decided on.
                let (again, _) = try await open("before")
                #expect(again.hash == before.hash)

                #expect(try await vault.runs(using: p1, of: tiny) == [RunID("before")])
                #expect(try await vault.runs(using: p3, of: tiny) == [RunID("after")])
                #expect(try await vault.runs(using: SubjectID("P:4"), of: tiny) == [])
                try await vault.destroyRun(RunID("before"))
                #expect(try await vault.runs(using: p1, of: tiny) == [RunID("before")])

                // A consent file cannot undo a withdrawal.
                let report = try await vault.importVersion(files.source, dataset: tiny, version: VersionID("v2"))
                #expect(report.withdrawalsKept == 1)
                #expect(try await vault.consent(of: p1, in: tiny).state == .withdrawn)
                // But a file that withdraws does.
                #expect(try await vault.consent(of: p3, in: tiny).state == .withdrawn)
            }
        }
    }

    @Test("a cohort follows the caller's rule on codes, and its hash tells different cohorts apart")
    func cohort() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, _, _, _ in
                let all = try await vault.cohort(tiny, first)
                #expect(all.subjects == 2 && all.subjectsExcluded == 2 && all.nodes == 4)
                let coded = try await vault.cohort(tiny, first) { $0.codes.contains("DUO:0000042") }
                #expect(coded.subjects == 1 && coded.nodes == 3 && coded.hash != all.hash)
                #expect(try await vault.cohort(tiny, first).hash == all.hash)
                let none = try await vault.cohort(tiny, first) { _ in false }
                #expect(none.subjects == 0 && none.nodes == 2)
            }
        }
    }

    @Test("a stranger has no consent to set, and a code must be one")
    func stranger() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, _, _, _ in
                let stranger = await refusal {
                    try await vault.setConsent(Consent(state: .given), of: SubjectID("P:9"), in: tiny)
                }
                #expect(stranger?.code == .unknownSubject)
                let code = await refusal {
                    try await vault.setConsent(Consent(state: .given, codes: ["any"]), of: SubjectID("P:1"), in: tiny)
                }
                #expect(code?.code == .badConsent)
                let dataset = await refusal {
                    try await vault.setConsent(Consent(state: .given), of: SubjectID("P:1"), in: DatasetID("other"))
                }
                #expect(dataset?.code == .unknownDataset)
            }
        }
    }

    @Test("when nobody may be in it there is no image")
    func empty() async throws {
        try await withTemporaryFolder { folder in
            let people = """
                id\tcategory\tlabel\tsplit
                P:1\tbiolink:Case\t0\ttrain

                """
            let files = try VersionFiles(
                in: folder, nodes: people, edges: "subject\tpredicate\tobject\n", consent: "subject\tstate\n",
                features: VersionFiles.npy([[1]]))
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let report = try await vault.importVersion(files.source, dataset: tiny, version: first)
            let trail = try TestTrail()
            let receipt = try trail.runPermit(run1, tiny, first, root: report.root)
            let error = await refusal {
                _ = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn), receipt: receipt,
                    trail: trail.identity)
            }
            #expect(error?.code == .emptyCohort)
        }
    }

    @Test("only a permit of this very run, on this very version, by this very trail, opens an image")
    func receipts() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, trail, _, report in
                let permit: [String: JSON] = [
                    "event": "run.decided", "decision": "permit", "run": "run-1", "dataset": "tiny", "version": "v1",
                    "root": .string(report.root.hex),
                ]
                var wrong: [Receipt] = []
                for (member, value) in [
                    ("event", "access.decided"), ("decision", "refuse"), ("decision", "needs-human"), ("run", "run-2"),
                    ("dataset", "other"), ("version", "v2"), ("root", .string(String(repeating: "0", count: 64))),
                ] as [(String, JSON)] {
                    wrong.append(try trail.receipt(.object(permit.merging([member: value]) { $1 })))
                    wrong.append(try trail.receipt(.object(permit.filter { $0.key != member })))
                }
                wrong.append(try TestTrail().receipt(.object(permit)))
                for receipt in wrong {
                    let error = await refusal {
                        _ = try await vault.openRunImage(
                            run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn), receipt: receipt,
                            trail: trail.identity)
                    }
                    #expect(error?.code == .receiptRefused)
                }
                let runs = folder.appendingPathComponent("vault/runs").path
                #expect(!FileManager.default.fileExists(atPath: runs))
            }
        }
    }

    @Test("a vault answers to one trail, whatever another one has recorded")
    func oneTrail() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, trail, _, report in
                let other = try TestTrail()
                _ = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn),
                    receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
                let run2 = try RunID("run-2")
                let receipt = try other.runPermit(run2, tiny, first, root: report.root)
                let error = await refusal {
                    _ = try await vault.openRunImage(
                        run: run2, dataset: tiny, version: first, recipe: imageRecipe(.gcn), receipt: receipt,
                        trail: other.identity)
                }
                #expect(error?.code == .receiptRefused)
            }
        }
    }

    @Test("a run key goes only to the device that the recorded lease names")
    func keys() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, trail, _, report in
                let image = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn),
                    receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
                let device = WrappingKey.generate()
                let other = WrappingKey.generate()
                let lease = try trail.leaseIntent(run1, device.publicKey)
                let wrapped = try await vault.releaseRunKey(
                    run: run1, receipt: lease, trail: trail.identity, to: device.publicKey)
                #expect(try KeyDerivation.commitment(device.unwrap(wrapped)) == image.keyID)
                #expect(throws: SealingError.self) { _ = try other.unwrap(wrapped) }

                let done: JSON = [
                    "event": "device.leased", "outcome": "done", "run": "run-1",
                    "detail": ["wrappingKey": .string(Hex.encode(device.publicKey.bytes))],
                ]
                let commitment = try await vault.withRunKey(run: run1, receipt: lease, trail: trail.identity) {
                    KeyDerivation.commitment($0)
                }
                #expect(commitment == image.keyID)
                for receipt in [try trail.leaseIntent(RunID("run-2"), device.publicKey), try trail.receipt(done)] {
                    let error = await refusal {
                        _ = try await vault.withRunKey(run: run1, receipt: receipt, trail: trail.identity) {
                            KeyDerivation.commitment($0)
                        }
                    }
                    #expect(error?.code == .receiptRefused)
                }
                for receipt in [
                    try trail.leaseIntent(run1, other.publicKey),
                    try trail.leaseIntent(RunID("run-2"), device.publicKey),
                    try trail.receipt(done), try trail.runPermit(run1, tiny, first, root: report.root),
                ] {
                    let error = await refusal {
                        _ = try await vault.releaseRunKey(
                            run: run1, receipt: receipt, trail: trail.identity, to: device.publicKey)
                    }
                    #expect(error?.code == .receiptRefused)
                }

                try await vault.destroyRun(run1)
                let gone = await refusal {
                    _ = try await vault.releaseRunKey(
                        run: run1, receipt: lease, trail: trail.identity, to: device.publicKey)
                }
                #expect(gone?.code == .destroyed)
                let reopened = await refusal {
                    _ = try await vault.openRunImage(
                        run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn),
                        receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
                }
                #expect(reopened?.code == .destroyed)
            }
        }
    }

    @Test("a finished image is the same one after a restart; files of a half-made one are removed and reported")
    func restarted() async throws {
        try await withTemporaryFolder { folder in
            let home = folder.appendingPathComponent("vault")
            let trail = try TestTrail()
            var hash: Digest?
            var root: Digest?
            try await withTinyVault(folder) { vault, _, _, report in
                root = report.root
                hash = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn, aggregate: true),
                    receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity
                ).hash
                // What a crash between the move and the transaction leaves.
                try FileManager.default.copyItem(
                    at: home.appendingPathComponent("runs/run-1"), to: home.appendingPathComponent("runs/run-2"))
            }
            let vault = try Vault.open(at: home.path, unsealing: keyFile())
            #expect(vault.findings == [.unknownImageRemoved(try RunID("run-2"))])
            let receipt = try trail.runPermit(run1, tiny, first, root: root!)
            let image = try await vault.openRunImage(
                run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn, aggregate: true), receipt: receipt,
                trail: trail.identity)
            #expect(image.hash == hash)
            #expect(try await vault.runImage(run1).hash == hash)
            _ = try await OpenedImage(image, vault, trail)
            let other = await refusal {
                _ = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: imageRecipe(.sage), receipt: receipt,
                    trail: trail.identity)
            }
            #expect(other?.code == .exists)
        }
    }

    @Test("a sealed image that was changed on disk is not given again", arguments: 1...7)
    func tampered(section: Int) async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, trail, _, report in
                func open() async throws -> RunImage {
                    try await vault.openRunImage(
                        run: run1, dataset: tiny, version: first, recipe: imageRecipe(.sage, aggregate: true),
                        receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
                }
                _ = try await open()
                let file = folder.appendingPathComponent("vault/runs/run-1/section-\(section).sealed")
                var bytes = try [UInt8](Data(contentsOf: file))
                bytes[bytes.count / 2] ^= 1
                try Data(bytes).write(to: file)
                #expect(await refusal { _ = try await open() }?.code == .tampered)
                #expect(await refusal { _ = try await vault.runImage(run1) }?.code == .tampered)
                try Data(bytes.dropLast()).write(to: file)
                #expect(await refusal { _ = try await open() }?.code == .truncated)
            }
        }
    }

    @Test("a window's reads stay inside its section")
    func bounds() async throws {
        try await withTemporaryFolder { folder in
            try await withTinyVault(folder) { vault, trail, _, report in
                let image = try await vault.openRunImage(
                    run: run1, dataset: tiny, version: first, recipe: imageRecipe(.gcn, aggregate: true),
                    receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
                let count = try image.sealedByteCount(.scale)
                let space = UnsafeMutableRawBufferPointer.allocate(byteCount: count + 1, alignment: 8)
                defer { space.deallocate() }
                let whole = UnsafeMutableRawBufferPointer(rebasing: space[0..<count])
                try image.readSealed(.scale, offset: 0, into: whole)
                #expect(throws: VaultError.self) { try image.readSealed(.scale, offset: 1, into: whole) }
                #expect(throws: VaultError.self) { try image.readSealed(.scale, offset: -1, into: whole) }
                #expect(throws: VaultError.self) { try image.readSealed(.scale, offset: .max, into: whole) }
                #expect(throws: VaultError.self) { try image.readSealed(.scale, offset: 0, into: space) }
                // This recipe leaves the features out.
                #expect(throws: VaultError.self) { try image.readSealed(.features, offset: 0, into: whole) }
            }
        }
    }

    @Test("random graphs give the reference's image", arguments: [UInt64(1), 2, 3])
    func random(seed: UInt64) async throws {
        var random = SeededRandom(seed: seed)
        let count = Int.random(in: 1100...2300, using: &random)
        var nodes = "id\tcategory\tlabel\tsplit\n"
        var consent = "subject\tstate\n"
        var absent: Set<String> = []
        for index in 0..<count {
            let isPerson = Bool.random(using: &random)
            let label = Int.random(in: -1...2, using: &random)
            let split = label < 0 ? "none" : ["none", "train", "val", "test"].randomElement(using: &random)!
            nodes += "N:\(index)\t\(isPerson ? "biolink:Case" : "biolink:Gene")\t\(label)\t\(split)\n"
            guard isPerson else { continue }
            switch Int.random(in: 0..<3, using: &random) {
            case 0: absent.insert("N:\(index)")
            case 1:
                consent += "N:\(index)\twithdrawn\n"
                absent.insert("N:\(index)")
            default: consent += "N:\(index)\tgiven\n"
            }
        }
        var edges = "subject\tpredicate\tobject\n"
        for _ in 0..<count * 4 {
            // Few targets, so that repeats, self edges and hubs occur.
            let source = Int.random(in: 0..<count, using: &random)
            let target = Int.random(in: 0..<min(count, 200), using: &random)
            edges += "N:\(source)\tp\(Int.random(in: 0..<3, using: &random))\tN:\(target)\n"
        }
        let features = (0..<count).map { _ in (0..<5).map { _ in Float.random(in: -4...4, using: &random) } }
        let recipe = imageRecipe(seed % 2 == 0 ? .sage : .gcn, .standard, aggregate: true)
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(
                in: folder, nodes: nodes, edges: edges, consent: consent, features: VersionFiles.npy(features))
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let report = try await vault.importVersion(files.source, dataset: tiny, version: first)
            let trail = try TestTrail()
            let image = try await vault.openRunImage(
                run: run1, dataset: tiny, version: first, recipe: recipe,
                receipt: trail.runPermit(run1, tiny, first, root: report.root), trail: trail.identity)
            let reference = ReferenceImage(nodes: nodes, edges: edges, features: features, absent: absent, recipe)
            expectSame(try await OpenedImage(image, vault, trail), reference, "seed \(seed)")
            let expected = stride(from: 0, to: reference.ids.count, by: 1024).map { reference.rowPointers[$0] }
            #expect(image.shape.tileEdges == expected + [UInt64(reference.columns.count)])
        }
    }
}
