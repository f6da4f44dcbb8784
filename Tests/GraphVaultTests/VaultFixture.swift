import Foundation
import GraphVault
import Sealing
import TransparencyLog
import Vocabulary

/// A trail of one record at a time, signed like the real one, so that receipts verify.
final class TestTrail: Sendable {
    let identity: TrailIdentity
    private let key = SigningKey.generate()
    private let era: EraKey

    init(origin: String = "example.org/trail") throws {
        identity = try TrailIdentity(origin: origin, key: key.verifyingKey)
        era = try EraKey(SecretBytes.random(count: 32))
    }

    func receipt(_ core: JSON) throws -> Receipt {
        let (leaf, opening) = try era.seal(
            core: core, kind: .record, era: 1, time: Timestamp(milliseconds: 1_790_000_000_000),
            origin: identity.origin,
            nonce: RandomBytes.array(LeafHeader.nonceBytes))
        var tree = MerkleTree()
        tree.append(Merkle.leafHash(leaf))
        let head = try Checkpoint(origin: identity.origin, size: 1, root: tree.root).signed(by: key)
        return Receipt(index: 0, head: head, periods: SigningPeriods(identity), proof: [], leaf: leaf, opening: opening)
    }

    func runPermit(_ run: RunID, _ dataset: DatasetID, _ version: VersionID, root: Digest) throws -> Receipt {
        try receipt([
            "event": "run.decided", "outcome": "done", "decision": "permit", "run": .string(run.text),
            "dataset": .string(dataset.text), "version": .string(version.text), "root": .string(root.hex),
        ])
    }

    func leaseIntent(_ run: RunID, _ device: PublicWrappingKey) throws -> Receipt {
        try receipt([
            "event": "device.leased", "outcome": "intent", "run": .string(run.text),
            "detail": ["wrappingKey": .string(Hex.encode(device.bytes))],
        ])
    }

    func release(_ run: RunID, candidate: Digest) throws -> Receipt {
        try receipt([
            "event": "release.decided", "outcome": "done", "decision": "permit", "run": .string(run.text),
            "detail": ["candidate": .string(candidate.hex)],
        ])
    }
}

/// Files of a version, written into a folder.
struct VersionFiles {
    /// Four people, one of them without a consent record, one withdrawn; a sample of the withdrawn one; two genes.
    static let nodes = """
        id\tcategory\tlabel\tlabel_name\tsplit\tsubject
        P:1\tbiolink:Case\t0\tno\ttrain\t
        G:1\tbiolink:Gene\t-1\t\tnone\t
        P:2\tbiolink:Case\t1\tyes\tval\t
        P:3\tbiolink:Case\t1\tyes\ttest\t
        S:3\tbiolink:MaterialSample\t-1\t\tnone\tP:3
        P:4\tbiolink:Case\t0\tno\ttrain\t
        G:2\tbiolink:Gene|biolink:NamedThing\t-1\t\tnone\t

        """
    static let edges = """
        subject\tpredicate\tobject
        P:1\tbiolink:has_variant\tG:1
        P:2\tbiolink:has_variant\tG:1
        P:3\tbiolink:has_variant\tG:1
        P:3\tbiolink:has_sample\tS:3
        S:3\tbiolink:expresses\tG:2
        P:4\tbiolink:has_variant\tG:2
        G:1\tbiolink:interacts_with\tG:2
        G:2\tbiolink:interacts_with\tG:1
        P:1\tbiolink:related_to\tP:2
        P:2\tbiolink:related_to\tP:1
        G:1\tbiolink:regulates\tG:1

        """
    static let consent = """
        subject\tstate\tcodes\tnote
        P:1\tgiven\tDUO:0000042\tsynthetic
        P:2\tgiven\t\tsynthetic
        P:3\twithdrawn\t\tsynthetic

        """
    static let features: [[Float]] = [[1, 2], [0, 4], [3, 0], [5, 5], [-1, 0.5], [0, 0], [2, 8]]

    let folder: URL

    init(
        in folder: URL, nodes: String = nodes, edges: String = edges, consent: String = consent,
        features: [UInt8] = npy(features)
    ) throws {
        self.init(folder: folder)
        try write(Array(nodes.utf8), "nodes.tsv")
        try write(Array(edges.utf8), "edges.tsv")
        try write(Array(consent.utf8), "consent.tsv")
        try write(features, "features.npy")
    }

    private init(folder: URL) { self.folder = folder }

    func write(_ bytes: [UInt8], _ name: String) throws {
        try Data(bytes).write(to: folder.appendingPathComponent(name))
    }

    func file(_ name: String) -> ImportFile { .path(folder.appendingPathComponent(name).path) }

    var source: ImportSource {
        ImportSource(
            nodes: file("nodes.tsv"), edges: file("edges.tsv"), features: .dense(file("features.npy")),
            consent: file("consent.tsv"))
    }

    static func npy(_ rows: [[Float]]) -> [UInt8] {
        npy("<f4", "(\(rows.count), \(rows[0].count))", rows.flatMap { $0 })
    }

    static func npy<Element: BitwiseCopyable>(_ type: String, _ shape: String, _ values: [Element]) -> [UInt8] {
        var header = "{'descr': '\(type)', 'fortran_order': False, 'shape': \(shape), }"
        header += String(repeating: " ", count: 63 - (10 + header.utf8.count) % 64) + "\n"
        let count = header.utf8.count
        return [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(count & 255), UInt8(count >> 8)] + Array(header.utf8)
            + values.withUnsafeBytes { Array($0) }
    }
}

let tiny = try! DatasetID("tiny")
let first = try! VersionID("v1")
let run1 = try! RunID("run-1")

func keyFile() -> Unsealing { .keyFile(SecretBytes(copying: [UInt8](repeating: 7, count: 32))) }

/// A vault with the tiny version in it, and a trail.
func withTinyVault(
    _ folder: URL, _ body: (Vault, TestTrail, VersionFiles, ImportReport) async throws -> Void
) async throws {
    let files = try VersionFiles(in: folder)
    let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
    let report = try await vault.importVersion(files.source, dataset: tiny, version: first)
    try await body(vault, TestTrail(), files, report)
}

/// An image as the device sees it, opened after the words of the format rather than with the vault's code.
struct OpenedImage {
    var rowPointers: [UInt64] = []
    var columns: [UInt32] = []
    var features: [Float] = []
    var aggregate: [Float] = []
    var scale: [Float] = []
    var labels: [Int32] = []
    var split: [UInt8] = []
    var labelSets: [UInt8] = []
    var targets: [Float] = []

    init(_ image: RunImage, _ vault: Vault, _ trail: TestTrail) async throws {
        let device = WrappingKey.generate()
        let wrapped = try await vault.releaseRunKey(
            run: image.run, receipt: trail.leaseIntent(image.run, device.publicKey), trail: trail.identity,
            to: device.publicKey)
        let key = try device.unwrap(wrapped)
        for section in image.shape.recipe.sections {
            switch section {
            case .rowPointers: rowPointers = try Self.open(section, of: image, key)
            case .columns: columns = try Self.open(section, of: image, key)
            case .features: features = try Self.open(section, of: image, key)
            case .aggregate: aggregate = try Self.open(section, of: image, key)
            case .scale: scale = try Self.open(section, of: image, key)
            case .labels: labels = try Self.open(section, of: image, key)
            case .split: split = try Self.open(section, of: image, key)
            case .labelSets: labelSets = try Self.open(section, of: image, key)
            case .targets: targets = try Self.open(section, of: image, key)
            }
        }
    }

    private static func open<Element: BitwiseCopyable>(
        _ section: ImageSection, of image: RunImage, _ key: borrowing SecretBytes
    ) throws -> [Element] {
        let number = section.rawValue
        let cipher = BlockCipher(
            key: KeyDerivation.hkdf(
                key, info: "sekisho run image v1", context: withUnsafeBytes(of: number.bigEndian) { Array($0) }))
        let context = BlockContext(domain: "sekisho-image-v1", owner: image.run.text, section: number)
        var sealed = [UInt8](repeating: 0, count: try image.sealedByteCount(section))
        try sealed.withUnsafeMutableBytes { try image.readSealed(section, offset: 0, into: $0) }
        var plain: [UInt8] = []
        for (index, start) in stride(from: 0, to: sealed.count, by: 65_552).enumerated() {
            let block = Array(sealed[start..<min(start + 65_552, sealed.count)])
            plain += try cipher.open(
                block, nonce: BlockNonce(high: number, low: UInt64(index)),
                aad: context.aad(index: UInt64(index), length: block.count - 16))
        }
        return plain.withUnsafeBytes { raw in
            stride(from: 0, to: raw.count, by: MemoryLayout<Element>.stride).map {
                raw.loadUnaligned(fromByteOffset: $0, as: Element.self)
            }
        }
    }
}

func imageRecipe(
    _ aggregation: Aggregation, _ normalisation: FeatureNormalisation = .none, aggregate: Bool = false,
    label: String = "label"
) -> ImageRecipe {
    ImageRecipe(
        aggregation: aggregation, normalisation: normalisation, aggregatesFirstLayer: aggregate, labelColumn: label)
}

/// What `body` throws, as the vault's error; the test fails when it throws nothing or something else.
func refusal(_ body: () async throws -> Void) async -> VaultError? {
    do {
        try await body()
        return nil
    } catch {
        return error as? VaultError
    }
}
