import Foundation
import Sealing
import TestSupport
import Testing
import Vocabulary

@Suite("age files")
struct AgeTests {
    @Test(
        "what was written for a recipient opens for it and for nobody else, at any length",
        arguments: [0, 1, 65_535, 65_536, 65_537, 131_072, 200_001])
    func roundTrip(count: Int) throws {
        var random = SeededRandom(seed: UInt64(count) + 1)
        let content = random.bytes(count)
        for identity in [AgeIdentity(WrappingKey.generate()), AgeIdentity.generateHybrid()] {
            let file = try sealed(content, to: [identity.recipient], pieces: 7_001)
            #expect(try opened(file, by: identity) == content)
            #expect(refusal { try opened(file, by: AgeIdentity(WrappingKey.generate())) } == .noMatch)
            #expect(refusal { try opened(file, by: AgeIdentity.generateHybrid()) } == .noMatch)
        }
    }

    @Test("each of several recipients opens one file; of two kinds at once none is written")
    func recipients() throws {
        let identities = (0..<3).map { _ in AgeIdentity(WrappingKey.generate()) }
        let file = try sealed([1, 2, 3], to: identities.map(\.recipient))
        for identity in identities { #expect(try opened(file, by: identity) == [1, 2, 3]) }
        #expect(refusal { try sealed([1], to: []) } == .key)
        #expect(
            refusal { try sealed([1], to: [identities[0].recipient, AgeIdentity.generateHybrid().recipient]) } == .key)
    }

    @Test("keys read back from their text, and only from exactly that")
    func keys() throws {
        for identity in [AgeIdentity(WrappingKey.generate()), AgeIdentity.generateHybrid()] {
            let text = identity.withText { String(decoding: $0, as: UTF8.self) }
            #expect(try AgeIdentity(parsing: text).recipient == identity.recipient)
            let recipient = identity.recipient.description
            #expect(try AgeRecipient(parsing: recipient) == identity.recipient)
            for bad in ["", "age1", String(recipient.dropLast()), recipient + "q", recipient.capitalized, text] {
                #expect(refusal { try AgeRecipient(parsing: bad) } == .key)
            }
            for bad in ["", String(text.dropLast()), text.lowercased(), text.replacingLast(), recipient] {
                #expect(refusal { try AgeIdentity(parsing: bad) } == .key)
            }
        }
    }

    @Test("a changed, cut or lengthened file never opens as another content")
    func mutated() throws {
        let seed: UInt64 = 1_905
        var random = SeededRandom(seed: seed)
        let identity = AgeIdentity(WrappingKey.generate())
        let content = random.bytes(70_000)
        let file = try sealed(content, to: [identity.recipient])
        for round in 0..<400 {
            var changed = file
            // The header is short; most changes go there.
            let at = Int.random(in: 0..<(round % 4 == 0 ? file.count : 240), using: &random)
            switch round % 3 {
            case 0: changed[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 1: changed.remove(at: at)
            default: changed.insert(UInt8.random(in: 0...255, using: &random), at: at)
            }
            #expect(throws: AgeError.self, "seed \(seed), round \(round), byte \(at)") {
                _ = try opened(changed, by: identity)
            }
        }
        for cut in [0, 1, 20, 180, 200, file.count - 4_500, file.count - 1] {
            #expect(throws: AgeError.self, "cut at \(cut)") { _ = try opened(Array(file[..<cut]), by: identity) }
        }
    }

    @Test("a digit of a header with its top bit set is no digit")
    func topBits() throws {
        let identity = AgeIdentity(WrappingKey.generate())
        var seen: Set<UInt8> = []
        for _ in 0..<30 {
            let file = try sealed([1, 2, 3], to: [identity.recipient])
            let header = file.firstRange(of: Array("--- ".utf8))!.upperBound + 43
            for at in 0..<header {
                seen.insert(file[at])
                var changed = file
                changed[at] |= 0x80
                #expect(throws: AgeError.self, "byte \(at), \(file[at])") { _ = try opened(changed, by: identity) }
            }
        }
        #expect(seen.isSuperset(of: "+/09AZaz".utf8))
    }

    // MARK: - The format's own vectors

    @Test("all 143 published cases come out as they say", .enabled(if: SharedData.isPresent))
    func published() throws {
        let folder = SharedData.url("conformance/age")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count == 143)
        var outcomes: [String: Int] = [:]
        for name in names {
            let vector = try Vector([UInt8](Data(contentsOf: folder.appendingPathComponent(name))))
            outcomes[vector.expect, default: 0] += 1
            var out: [UInt8] = []
            var reached = "success"
            do {
                try decrypt(
                    vector.file, by: vector.identities, passphrase: vector.passphrase, isArmored: vector.isArmored
                ) { out += $0 }
            } catch let error as AgeError {
                reached = error.code == .noMatch ? "no match" : "\(error.code.rawValue) failure"
            }
            #expect(reached == vector.expect, "\(name)")
            if reached == "success" { #expect(SHA256.hash(out).hex == vector.payload, "\(name)") }
        }
        #expect(outcomes["success"] == 26 && outcomes["header failure"] == 62)
    }

    private struct Vector {
        let expect: String
        var payload = ""
        var identities: [AgeIdentity] = []
        var passphrase: String?
        var isArmored = false
        var file: [UInt8]

        init(_ bytes: [UInt8]) throws {
            var at = 0
            var expect = ""
            var isCompressed = false
            while let end = bytes[at...].firstIndex(of: 0x0A), end > at {
                let line = String(decoding: bytes[at..<end], as: UTF8.self)
                at = end + 1
                let parts = line.split(separator: ": ", maxSplits: 1).map(String.init)
                switch parts[0] {
                case "expect": expect = parts[1]
                case "payload": payload = parts[1]
                case "identity": identities.append(try AgeIdentity(parsing: parts[1]))
                case "passphrase": passphrase = parts[1]
                case "armored": isArmored = parts[1] == "yes"
                case "compressed": isCompressed = parts[1] == "zlib"
                case "file key", "comment": break
                default: throw Unexpected(words: "a vector has a line '\(parts[0])'")
                }
            }
            self.expect = expect
            file = Array(bytes[(at + 1)...])
            if isCompressed { file = try inflate(file) }
        }
    }

    // MARK: - The age program

    static let ageProgram = "/usr/bin/age"

    @Test(
        "Debian's age opens what we write, and we open what it writes",
        .enabled(if: FileManager.default.isExecutableFile(atPath: ageProgram)), arguments: [1, 65_536, 150_000])
    func program(count: Int) throws {
        try withTemporaryFolder { folder in
            var random = SeededRandom(seed: 77)
            let content = random.bytes(count)
            let identity = AgeIdentity(WrappingKey.generate())
            let key = folder.appendingPathComponent("key")
            try identity.withText { try Data($0 + [0x0A]).write(to: key) }
            let ours = folder.appendingPathComponent("ours.age")
            try Data(sealed(content, to: [identity.recipient])).write(to: ours)
            let plain = folder.appendingPathComponent("plain")
            try age(["-d", "-i", key.path, "-o", plain.path, ours.path])
            #expect(try [UInt8](Data(contentsOf: plain)) == content)
            for armour in [[], ["-a"]] {
                let theirs = folder.appendingPathComponent("theirs\(armour.count).age")
                try age(armour + ["-r", identity.recipient.description, "-o", theirs.path, plain.path])
                var out: [UInt8] = []
                try decrypt(
                    [UInt8](Data(contentsOf: theirs)), by: [identity], passphrase: nil, isArmored: !armour.isEmpty
                ) { out += $0 }
                #expect(out == content)
            }
        }
    }

    private func age(_ arguments: [String]) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: Self.ageProgram)
        process.arguments = arguments
        try process.run()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "age \(arguments)")
    }
}

struct Unexpected: Error { let words: String }

/// zlib's format, by Python: three of the vectors are stored in it.
private func inflate(_ bytes: [UInt8]) throws -> [UInt8] {
    try withTemporaryFolder { folder in
        let from = folder.appendingPathComponent("in")
        let to = folder.appendingPathComponent("out")
        try Data(bytes).write(to: from)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
        process.arguments = [
            "-c", "import sys,zlib; open(sys.argv[2],'wb').write(zlib.decompress(open(sys.argv[1],'rb').read()))",
            from.path, to.path,
        ]
        try process.run()
        process.waitUntilExit()
        return try [UInt8](Data(contentsOf: to))
    }
}

private func sealed(_ content: [UInt8], to recipients: [AgeRecipient], pieces: Int = 1 << 20) throws -> [UInt8] {
    let file = Collected()
    var writer = try AgeWriter(to: recipients) { file.bytes += $0 }
    for start in stride(from: 0, to: content.count, by: pieces) {
        try writer.write(Array(content[start..<min(start + pieces, content.count)]))
    }
    try writer.finish()
    return file.bytes
}

private final class Collected {
    var bytes: [UInt8] = []
    var at = 0
}

private func opened(_ file: [UInt8], by identity: AgeIdentity) throws -> [UInt8] {
    var out: [UInt8] = []
    try decrypt(file, by: [identity], passphrase: nil, isArmored: false) { out += $0 }
    return out
}

private func decrypt(
    _ file: [UInt8], by identities: [AgeIdentity], passphrase: String?, isArmored: Bool, write: ([UInt8]) throws -> Void
) throws {
    let place = Collected()
    let read = { (count: Int) -> [UInt8] in
        // Small pieces, so that every boundary is met.
        let end = min(place.at + min(count, 4_099), file.count)
        defer { place.at = end }
        return Array(file[place.at..<end])
    }
    if let passphrase {
        try AgeFile.decrypt(
            isArmored: isArmored, identities: identities, passphrase: SecretBytes(copying: Array(passphrase.utf8)),
            read: read, write: write)
    } else {
        try AgeFile.decrypt(isArmored: isArmored, identities: identities, read: read, write: write)
    }
}

private func refusal<Value>(_ body: () throws -> Value) -> AgeError.Code? {
    do {
        _ = try body()
        return nil
    } catch { return (error as? AgeError)?.code }
}

extension String {
    fileprivate func replacingLast() -> String { String(dropLast()) + (hasSuffix("Q") ? "P" : "Q") }
}
