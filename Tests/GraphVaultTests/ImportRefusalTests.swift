import Foundation
import GraphVault
import TestSupport
import Testing
import Vocabulary

/// A change to one of the tiny version's files, and how the import must answer it.
struct BadInput: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let file: String
    let change: @Sendable ([UInt8]) -> [UInt8]
    let code: VaultError.Code
    let source: VaultError.Source
    let place: VaultError.Place

    init(
        _ what: String, _ file: String, _ old: String, _ new: String, _ code: VaultError.Code,
        _ source: VaultError.Source, _ line: Int, _ column: Int
    ) {
        self.init(what, file, code, source, .line(line, column: column)) { bytes in
            let text = String(decoding: bytes, as: UTF8.self)
            precondition(text.contains(old), "the fixture has changed")
            return Array(text.replacingOccurrences(of: old, with: new).utf8)
        }
    }

    init(
        _ what: String, _ file: String, _ code: VaultError.Code, _ source: VaultError.Source, _ place: VaultError.Place,
        _ change: @escaping @Sendable ([UInt8]) -> [UInt8]
    ) {
        testDescription = what
        self.file = file
        self.change = change
        self.code = code
        self.source = source
        self.place = place
    }
}

private let badInputs: [BadInput] = [
    // Nodes
    BadInput("no id column", "nodes.tsv", "id\tcategory", "key\tcategory", .missingColumn, .nodes, 1, 1),
    BadInput("a column name twice", "nodes.tsv", "\tlabel_name\t", "\tlabel\t", .badHeader, .nodes, 1, 19),
    BadInput("a column without a name", "nodes.tsv", "\tsplit\t", "\t\t", .badHeader, .nodes, 1, 30),
    BadInput("an id twice", "nodes.tsv", "G:2\t", "P:1\t", .duplicateNode, .nodes, 8, 1),
    BadInput("an empty id", "nodes.tsv", "G:1\t", "\t", .emptyField, .nodes, 3, 1),
    BadInput(
        "a short row", "nodes.tsv", "P:2\tbiolink:Case\t1\tyes\tval\t", "P:2\tbiolink:Case\t1\tyes\tval", .raggedRow,
        .nodes, 4, 27),
    BadInput(
        "a long row", "nodes.tsv", "P:2\tbiolink:Case\t1\tyes\tval\t", "P:2\tbiolink:Case\t1\tyes\tval\t\t", .raggedRow,
        .nodes, 4, 28),
    BadInput("an empty line", "nodes.tsv", "\nP:3", "\n\nP:3", .raggedRow, .nodes, 5, 1),
    BadInput(
        "a label that is no number", "nodes.tsv", "P:2\tbiolink:Case\t1", "P:2\tbiolink:Case\tone", .badLabel, .nodes,
        4, 18),
    BadInput(
        "a label below -1", "nodes.tsv", "P:2\tbiolink:Case\t1", "P:2\tbiolink:Case\t-2", .badLabel, .nodes, 4, 18),
    BadInput(
        "a label too large", "nodes.tsv", "P:2\tbiolink:Case\t1", "P:2\tbiolink:Case\t4096", .badLabel, .nodes, 4, 18),
    BadInput(
        "a label with a needless zero", "nodes.tsv", "P:2\tbiolink:Case\t1", "P:2\tbiolink:Case\t01", .badLabel, .nodes,
        4, 18),
    BadInput(
        "a class without a name", "nodes.tsv", "P:2\tbiolink:Case\t1\tyes", "P:2\tbiolink:Case\t1\t", .badLabel, .nodes,
        4, 20),
    BadInput(
        "a name without a class", "nodes.tsv", "G:1\tbiolink:Gene\t-1\t", "G:1\tbiolink:Gene\t-1\tyes", .badLabel,
        .nodes, 3, 21),
    BadInput(
        "two names of one class", "nodes.tsv", "P:3\tbiolink:Case\t1\tyes", "P:3\tbiolink:Case\t1\tno", .badLabel,
        .nodes, 5, 20),
    BadInput("an unknown split", "nodes.tsv", "\tval\t", "\tvalid\t", .badSplit, .nodes, 4, 24),
    BadInput(
        "a split without a label", "nodes.tsv", "\t-1\t\tnone\tP:3", "\t-1\t\ttrain\tP:3", .badSplit, .nodes, 6, 32),
    BadInput("a person whose id is no identifier", "nodes.tsv", "P:4\t", "P 4\t", .badIdentifier, .nodes, 7, 1),
    BadInput("a carriage return", "nodes.tsv", "no\ttrain\t\n", "no\ttrain\t\r\n", .controlCharacter, .nodes, 2, 29),
    BadInput("a zero byte", "nodes.tsv", "G:1\t", "G\u{0}1\t", .controlCharacter, .nodes, 3, 2),
    BadInput("no rows", "nodes.tsv", .badHeader, .nodes, .line(2, column: 1)) { Array($0[...$0.firstIndex(of: 10)!]) },
    BadInput("an empty file", "nodes.tsv", .badHeader, .nodes, .line(1, column: 1)) { _ in [] },
    BadInput("a file cut off in its last line", "nodes.tsv", .unfinishedLine, .nodes, .line(8, column: 46)) {
        $0.dropLast()
    },
    BadInput("a byte that is not UTF-8", "nodes.tsv", .notUTF8, .nodes, .line(3, column: 3)) {
        var bytes = $0
        bytes[bytes.firstRange(of: Array("G:1".utf8))!.upperBound - 1] = 0xFF
        return bytes
    },
    BadInput("a line that is too long", "nodes.tsv", .lineTooLong, .nodes, .line(9, column: (1 << 20) + 1)) {
        $0 + [UInt8](repeating: 65, count: 1 << 20 + 1) + [10]
    },
    BadInput("a gzip file", "nodes.tsv", .badHeader, .nodes, .line(1, column: 1)) { [0x1F, 0x8B, 8, 0] + $0 },
    // Edges
    BadInput(
        "an edge from nowhere", "edges.tsv", "S:3\tbiolink:expresses", "S:9\tbiolink:expresses", .unknownNode, .edges,
        6, 1),
    BadInput(
        "an edge to nowhere", "edges.tsv", "biolink:expresses\tG:2", "biolink:expresses\tG:9", .unknownNode, .edges, 6,
        23),
    BadInput("an edge without a predicate", "edges.tsv", "biolink:expresses", "", .emptyField, .edges, 6, 5),
    BadInput("no object column", "edges.tsv", "\tobject", "\ttarget", .missingColumn, .edges, 1, 1),
    // Consent
    BadInput("consent of a stranger", "consent.tsv", "P:2\t", "P:9\t", .unknownSubject, .consent, 3, 1),
    BadInput("two consents of one person", "consent.tsv", "P:2\t", "P:1\t", .duplicateSubject, .consent, 3, 1),
    BadInput("an unknown state", "consent.tsv", "withdrawn", "revoked", .badConsent, .consent, 4, 5),
    BadInput("a code that is none", "consent.tsv", "DUO:0000042", "DUO:42", .badConsent, .consent, 2, 11),
    BadInput("a code twice", "consent.tsv", "DUO:0000042", "DUO:0000042 DUO:0000042", .badConsent, .consent, 2, 11),
    BadInput("consent of another's sample", "consent.tsv", "P:2\t", "S:3\t", .badConsent, .consent, 3, 1),
    // Features
    BadInput("too few rows", "features.npy", .rowsDiffer, .features, .whole) { _ in
        VersionFiles.npy(Array(VersionFiles.features.dropLast()))
    },
    BadInput("not a number", "features.npy", .notFinite, .features, .row(3, column: 2)) { _ in
        var rows = VersionFiles.features
        rows[2][1] = .nan
        return VersionFiles.npy(rows)
    },
    BadInput("infinity", "features.npy", .notFinite, .features, .row(7, column: 1)) { _ in
        var rows = VersionFiles.features
        rows[6][0] = -.infinity
        return VersionFiles.npy(rows)
    },
    BadInput("float64", "features.npy", .badArray, .features, .byte(21)) { _ in
        VersionFiles.npy("<f8", "(7, 2)", [Double](repeating: 0, count: 14))
    },
    BadInput("one dimension", "features.npy", .badArray, .features, .byte(61)) { _ in
        VersionFiles.npy("<f4", "(14,)", [Float](repeating: 0, count: 14))
    },
    BadInput("missing numbers", "features.npy", .badArray, .features, .byte(181)) { $0.dropLast(4) },
    BadInput("numbers too many", "features.npy", .badArray, .features, .byte(189)) { $0 + [0, 0, 0, 0] },
    BadInput("another magic", "features.npy", .badArray, .features, .byte(1)) { [0x92] + $0.dropFirst() },
    BadInput("version 3", "features.npy", .badArray, .features, .byte(7)) { Array($0[..<6]) + [3, 0] + $0[8...] },
    BadInput("Fortran order", "features.npy", .badArray, .features, .byte(45), fortran),
]

private func fortran(_ bytes: [UInt8]) -> [UInt8] {
    let range = bytes.firstRange(of: Array("False".utf8))!
    return Array(bytes[..<range.lowerBound]) + Array("True ".utf8) + bytes[range.upperBound...]
}

@Suite("A bad file is refused by name and place, and changes nothing")
struct ImportRefusalTests {
    @Test("a bad file names what is wrong and where", arguments: badInputs)
    func refused(input: BadInput) async throws {
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder)
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let good = try [UInt8](Data(contentsOf: folder.appendingPathComponent(input.file)))
            try files.write(input.change(good), input.file)

            let error = await refusal { _ = try await vault.importVersion(files.source, dataset: tiny, version: first) }

            #expect(error?.code == input.code, "\(String(describing: error))")
            #expect(error?.source == input.source)
            #expect(error?.place == input.place)
            let words = error?.publicDescription ?? ""
            #expect(!words.contains(folder.path) && !words.contains("P:") && !words.contains("G:"))
            #expect(try await vault.versions().isEmpty)
            #expect(leftovers(in: folder.appendingPathComponent("vault")).isEmpty)
            // What was refused for a file's sake is taken when the file is right.
            try files.write(good, input.file)
            _ = try await vault.importVersion(files.source, dataset: tiny, version: first)
        }
    }

    @Test("a missing file is refused without its path")
    func missing() async throws {
        try await withTemporaryFolder { folder in
            let vault = try Vault.create(at: folder.path, unsealing: keyFile())
            let error = await refusal {
                _ = try await vault.importVersion(
                    ImportSource(
                        nodes: .path(folder.path + "/secret-name"), edges: .path(folder.path)), dataset: tiny,
                    version: first
                )
            }
            #expect(error?.code == .unreadable)
            #expect(error?.publicDescription.contains("secret-name") == false)
        }
    }

    @Test("a file of many buffers is read whole, and its last line is counted right")
    func long() async throws {
        try await withTemporaryFolder { folder in
            // Names of changing length and alphabet, so that lines and characters meet every buffer border.
            var nodes = "id\tcategory\tname\n"
            for index in 0..<60_000 {
                nodes += "N:\(index)\tbiolink:Gene\t\(String(repeating: "病é", count: index % 37))\n"
            }
            let files = try VersionFiles(
                in: folder, nodes: nodes, edges: "subject\tpredicate\tobject\nN:59999\tp\tN:0\n",
                consent: "subject\tstate\n")
            #expect(nodes.utf8.count > 3 * (2 << 20))
            let source = ImportSource(nodes: files.file("nodes.tsv"), edges: files.file("edges.tsv"))
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let report = try await vault.importVersion(source, dataset: tiny, version: first)
            #expect(report.facts.nodes == 60_000 && report.facts.edges == 1)
            try files.write(Array((nodes + "N:60000\tx\t\n\n").utf8), "nodes.tsv")
            let error = await refusal {
                _ = try await vault.importVersion(source, dataset: tiny, version: VersionID("v2"))
            }
            #expect(error?.code == .raggedRow && error?.place == .line(60_003, column: 1))
        }
    }

    @Test(
        "a sparse matrix that contradicts itself is refused",
        arguments: [
            ([0, 1, 1, 1, 1, 1, 1, 3], [0, 0, 1], VaultError.Code?.none),
            ([1, 1, 1, 1, 1, 1, 1, 3], [0, 0, 1], .badArray),
            ([0, 2, 1, 1, 1, 1, 1, 3], [0, 1, 1], .badArray),
            ([0, 1, 1, 1, 1, 1, 1, 2], [0, 0, 1], .rowsDiffer),
            ([0, 1, 1, 1, 1, 1, 1, 4], [0, 0, 1], .badArray),
            ([0, 1, 1, 1, 1, 1, 3], [0, 0, 1], .rowsDiffer),
            ([0, 1, 1, 1, 1, 1, 1, 3], [0, 1, 0], .badArray),
            ([0, 1, 1, 1, 1, 1, 1, 3], [0, 1, 1], .badArray),
            ([0, 1, 1, 1, 1, 1, 1, 3], [0, 0, 2], .badArray),
            ([0, 1, 1, 1, 1, 1, 1, 3], [0, -1, 1], .badArray),
        ] as [([Int], [Int32], VaultError.Code?)])
    func sparse(pointers: [Int], columns: [Int32], code: VaultError.Code?) async throws {
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder)
            try files.write(VersionFiles.npy("<i8", "(\(pointers.count),)", pointers), "p.npy")
            try files.write(VersionFiles.npy("<i4", "(\(columns.count),)", columns), "c.npy")
            try files.write(VersionFiles.npy("<f4", "(3,)", [1, 2, 3] as [Float]), "v.npy")
            let source = ImportSource(
                nodes: files.file("nodes.tsv"), edges: files.file("edges.tsv"),
                features: .sparse(
                    rowPointers: files.file("p.npy"), columns: files.file("c.npy"), values: files.file("v.npy"),
                    columnCount: 2))
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let error = await refusal { _ = try await vault.importVersion(source, dataset: tiny, version: first) }
            #expect(error?.code == code, "\(String(describing: error))")
        }
    }

    @Test(
        "a changed file is either imported or refused by the vault, never anything else",
        arguments: ["nodes.tsv", "edges.tsv", "consent.tsv", "features.npy"], [UInt64(11)])
    func fuzzed(file: String, seed: UInt64) async throws {
        var random = SeededRandom(seed: seed)
        try await withTemporaryFolder { folder in
            let files = try VersionFiles(in: folder)
            let vault = try Vault.create(at: folder.appendingPathComponent("vault").path, unsealing: keyFile())
            let good = try [UInt8](Data(contentsOf: folder.appendingPathComponent(file)))
            var imported = 0
            for round in 0..<100 {
                try files.write(mutated(good, &random), file)
                do {
                    _ = try await vault.importVersion(files.source, dataset: tiny, version: VersionID("v\(round)"))
                    imported += 1
                } catch let error as VaultError {
                    #expect(error.source != nil, "seed \(seed), round \(round): \(error)")
                }
                #expect(try await vault.versions().count == imported, "seed \(seed), round \(round)")
            }
            #expect(imported < 100)
        }
    }

    private func leftovers(in vault: URL) -> [String] {
        ["staging", "datasets/tiny"].flatMap {
            (try? FileManager.default.contentsOfDirectory(atPath: vault.appendingPathComponent($0).path)) ?? []
        }
    }
}

/// `bytes` with a few bytes changed, removed, repeated or cut.
func mutated(_ bytes: [UInt8], _ random: inout SeededRandom) -> [UInt8] {
    var bytes = bytes
    for _ in 0..<Int.random(in: 1...3, using: &random) where !bytes.isEmpty {
        let at = Int.random(in: 0..<bytes.count, using: &random)
        switch Int.random(in: 0..<6, using: &random) {
        case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
        case 1: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
        case 2: bytes.remove(at: at)
        case 3: bytes.insert([9, 10, 0x31, 0xC3, 0x2D].randomElement(using: &random)!, at: at)
        case 4: bytes.removeSubrange(at...)
        default: bytes.insert(contentsOf: bytes[at..<min(at + 20, bytes.count)], at: at)
        }
    }
    return bytes
}
