internal import CSodium

/// Files in the age format, version 1 (C2SP `age`), which any `age` program opens: a header with the file key for each
/// recipient, then the content in blocks of 64 KiB. Content of any length goes through in constant memory.
package enum AgeFile {
    static let versionLine = "age-encryption.org/v1"
    static let blockBytes = 65_536
    static let nonceBytes = 16

    /// Opens a file. What `write` got must be thrown away when this throws: only the end shows that it is whole.
    ///
    /// - Parameters:
    ///   - isArmored: the text form with `-----BEGIN AGE ENCRYPTED FILE-----`.
    ///   - read: gives up to so many of the next bytes; none at the end.
    package static func decrypt(
        isArmored: Bool = false, identities: [AgeIdentity], passphrase: borrowing SecretBytes? = nil,
        read: @escaping (Int) throws -> [UInt8], write: ([UInt8]) throws -> Void
    ) throws {
        var source = AgeSource(isArmored ? AgeArmor(read).read : read)
        let header = try AgeHeader(reading: &source)
        guard let fileKey = try unwrap(header.stanzas, identities, passphrase) else {
            throw AgeError(.noMatch, "none of the keys at hand opens this file")
        }
        guard constantTimeEqual(header.mac, AgeHeader.mac(header.macked, fileKey)) else {
            throw AgeError(.hmac, "the header was changed")
        }
        let nonce = try source.take(nonceBytes)
        guard nonce.count == nonceBytes else { throw AgeError(.header, "the file ends before its content") }
        let key = streamKey(fileKey, nonce)
        var counter = AgeCounter()
        while true {
            let block = try source.take(blockBytes + 16)
            let isLast = try block.count < blockBytes + 16 || source.isAtEnd
            // An empty last block is only right where there is nothing else.
            guard block.count >= 16, block.count > 16 || counter.isFirst else {
                throw AgeError(.payload, "the content is cut at block \(counter.number)")
            }
            var good = false
            let plaintext = [UInt8](unsafeUninitializedCapacity: block.count - 16 + 1) { out, count in
                good = AgeCipher.open(
                    block[...], key, nonce: counter.nonce(isLast: isLast),
                    into: UnsafeMutableRawBufferPointer(
                        rebasing: UnsafeMutableRawBufferPointer(out)[..<(block.count - 16)]))
                count = good ? block.count - 16 : 0
            }
            guard good else { throw AgeError(.payload, "the content was changed or cut at block \(counter.number)") }
            try write(plaintext)
            if isLast { return }
            counter.next()
        }
    }

    private static func unwrap(
        _ stanzas: [AgeStanza], _ identities: [AgeIdentity], _ passphrase: borrowing SecretBytes?
    ) throws(AgeError) -> SecretBytes? {
        if let scrypt = stanzas.first(where: { $0.type == AgeScrypt.type }) {
            guard stanzas.count == 1 else { throw AgeError(.header, "a passphrase stanza stands beside others") }
            switch passphrase {
            case .some(let passphrase): return try AgeScrypt.unwrap(scrypt, passphrase: passphrase)
            case .none: return nil
            }
        }
        for identity in identities {
            if let key = try identity.unwrap(stanzas) { return key }
        }
        return nil
    }

    static func streamKey(_ fileKey: borrowing SecretBytes, _ nonce: [UInt8]) -> SecretBytes {
        KeyDerivation.hkdf(fileKey, salt: nonce, rawInfo: Array("payload".utf8), count: 32)
    }
}

/// Makes an age file piece by piece.
package struct AgeWriter: ~Copyable {
    private let key: SecretBytes
    private var counter = AgeCounter()
    private var held: [UInt8] = []
    private let output: ([UInt8]) throws -> Void
    /// How long the file is before its content.
    package let headerBytes: Int

    package static let fileKeyBytes = AgeCipher.fileKeyBytes

    /// Writes the header. All recipients are of one kind: a file that one of them opens without ML-KEM would be only
    /// as strong as that one.
    package init(to recipients: [AgeRecipient], output: @escaping ([UInt8]) throws -> Void) throws {
        try self.init(
            to: recipients, fileKey: SecretBytes.random(count: AgeCipher.fileKeyBytes), output: output)
    }

    /// - Parameter fileKey: of this one file; for who goes on with it later and makes the key again then.
    package init(
        to recipients: [AgeRecipient], fileKey: borrowing SecretBytes, output: @escaping ([UInt8]) throws -> Void
    ) throws {
        guard let first = recipients.first, recipients.count <= AgeHeader.stanzasMax else {
            throw AgeError(.key, "an age file has 1 to \(AgeHeader.stanzasMax) recipients")
        }
        guard recipients.allSatisfy({ $0.isHybrid == first.isHybrid }) else {
            throw AgeError(.key, "age1 and age1pq1 recipients do not go into one file")
        }
        var header = Array("\(AgeFile.versionLine)\n".utf8)
        for recipient in recipients {
            switch recipient.kind {
            case .x25519(let key): header += AgeX25519.wrap(fileKey, to: key).bytes
            case .hybrid(let key): header += try AgeHybrid.wrap(fileKey, to: key).bytes
            }
        }
        header += "---".utf8
        let mac = AgeHeader.mac(header, fileKey)
        let nonce = RandomBytes.array(AgeFile.nonceBytes)
        let start = header + " \(AgeBase64.encode(mac))\n".utf8 + nonce
        try output(start)
        headerBytes = start.count
        key = AgeFile.streamKey(fileKey, nonce)
        self.output = output
    }

    /// Goes on with a file whose header is written, after it was interrupted: `output` gets the content from its
    /// beginning. Two contents must never be sealed under one key and nonce: whoever takes the output holds it to what
    /// the file has already before it writes more.
    ///
    /// - Parameter read: gives the next bytes of the file.
    package init(
        continuing read: @escaping (Int) throws -> [UInt8], fileKey: borrowing SecretBytes,
        output: @escaping ([UInt8]) throws -> Void
    ) throws {
        var source = AgeSource(read)
        let header = try AgeHeader(reading: &source)
        guard constantTimeEqual(header.mac, AgeHeader.mac(header.macked, fileKey)) else {
            throw AgeError(.hmac, "the header is of another file key")
        }
        let nonce = try source.take(AgeFile.nonceBytes)
        guard nonce.count == AgeFile.nonceBytes else { throw AgeError(.header, "the file ends before its content") }
        headerBytes = header.macked.count + " \(AgeBase64.encode(header.mac))\n".utf8.count + nonce.count
        key = AgeFile.streamKey(fileKey, nonce)
        self.output = output
    }

    package mutating func write(_ bytes: [UInt8]) throws {
        var at = 0
        // A full block is held back until more comes: it might be the last.
        while held.count + bytes.count - at > AgeFile.blockBytes {
            if held.isEmpty {
                try seal(bytes[at..<at + AgeFile.blockBytes], isLast: false)
                at += AgeFile.blockBytes
            } else {
                let missing = AgeFile.blockBytes - held.count
                held += bytes[at..<at + missing]
                at += missing
                try seal(held[...], isLast: false)
                held.removeAll(keepingCapacity: true)
            }
        }
        held += bytes[at...]
    }

    package consuming func finish() throws {
        try seal(held[...], isLast: true)
        wipe(&held)
    }

    private mutating func seal(_ block: ArraySlice<UInt8>, isLast: Bool) throws {
        let nonce = counter.nonce(isLast: isLast)
        try output(block.withUnsafeBytes { AgeCipher.seal($0, key, nonce: nonce) })
        counter.next()
    }
}

/// The nonce of a block: its number in eleven bytes, then whether it is the last.
private struct AgeCounter {
    private(set) var number: UInt64 = 0
    var isFirst: Bool { number == 0 }

    mutating func next() { number += 1 }

    func nonce(isLast: Bool) -> [UInt8] {
        [0, 0, 0] + withUnsafeBytes(of: number.bigEndian) { Array($0) } + [isLast ? 1 : 0]
    }
}

/// One recipient's part of a header.
struct AgeStanza {
    let type: String
    let arguments: [String]
    let body: [UInt8]

    var bytes: [UInt8] {
        var text = "-> \(([type] + arguments).joined(separator: " "))\n"
        var rest = AgeBase64.encode(body)[...]
        while rest.utf8.count >= AgeHeader.columns {
            text += "\(rest.prefix(AgeHeader.columns))\n"
            rest = rest.dropFirst(AgeHeader.columns)
        }
        return Array("\(text)\(rest)\n".utf8)
    }
}

struct AgeHeader {
    static let columns = 64
    static let stanzasMax = 1024
    private static let lineBytesMax = 16_384
    private static let bodyLinesMax = 512

    let stanzas: [AgeStanza]
    /// What the MAC is over: everything up to and with `---`.
    let macked: [UInt8]
    let mac: [UInt8]

    static func mac(_ macked: [UInt8], _ fileKey: borrowing SecretBytes) -> [UInt8] {
        KeyDerivation.hmac(KeyDerivation.hkdf(fileKey, salt: [], rawInfo: Array("header".utf8), count: 32), macked)
    }

    init(reading source: inout AgeSource) throws {
        func malformed(_ reason: String) -> AgeError { AgeError(.header, reason) }
        guard let first = try source.line(atMost: Self.lineBytesMax), first.elementsEqual(AgeFile.versionLine.utf8)
        else { throw malformed("not an age file of version 1") }
        var macked = first + [0x0A]
        var stanzas: [AgeStanza] = []
        while true {
            guard let line = try source.line(atMost: Self.lineBytesMax) else { throw malformed("the header is cut") }
            if line.starts(with: "--- ".utf8) {
                macked += "---".utf8
                guard let mac = AgeBase64.decode(line.dropFirst(4)), mac.count == 32 else {
                    throw malformed("the header's MAC is not well formed")
                }
                self.stanzas = stanzas
                self.macked = macked
                self.mac = mac
                return
            }
            let words = line.split(separator: 0x20, omittingEmptySubsequences: false)
            guard words.count >= 2, words[0].elementsEqual("->".utf8), stanzas.count < Self.stanzasMax,
                words.dropFirst().allSatisfy({ !$0.isEmpty && $0.allSatisfy { (33...126).contains($0) } })
            else { throw malformed("a stanza of the header is not well formed") }
            macked += line + [0x0A]
            var body: [UInt8] = []
            var isBodyOver = false
            for _ in 0..<Self.bodyLinesMax where !isBodyOver {
                guard let text = try source.line(atMost: Self.lineBytesMax), text.count <= Self.columns,
                    let bytes = AgeBase64.decode(text)
                else { throw malformed("a stanza's body is not well formed") }
                body += bytes
                macked += text + [0x0A]
                isBodyOver = text.count < Self.columns
            }
            guard isBodyOver else { throw malformed("a stanza's body is too long") }
            let texts = words.dropFirst().map { String(decoding: $0, as: UTF8.self) }
            stanzas.append(AgeStanza(type: texts[0], arguments: Array(texts.dropFirst()), body: body))
        }
    }
}

/// Bytes that come in pieces of any size.
struct AgeSource {
    private static let pieceBytes = 1 << 18
    private let read: (Int) throws -> [UInt8]
    private var held: [UInt8] = []
    private var at = 0
    private var hasEnded = false

    init(_ read: @escaping (Int) throws -> [UInt8]) { self.read = read }

    /// Up to `count` bytes; fewer only at the end.
    mutating func take(_ count: Int) throws -> [UInt8] {
        try fill(count)
        let taken = Array(held[at..<min(at + count, held.count)])
        at += taken.count
        return taken
    }

    var isAtEnd: Bool {
        mutating get throws {
            try fill(1)
            return at == held.count
        }
    }

    /// The next line without its end; `nil` when no line ends within `limit` bytes.
    mutating func line(atMost limit: Int) throws -> [UInt8]? {
        var seen = 0
        while true {
            if let end = held[(at + seen)...].firstIndex(of: 0x0A) {
                guard end - at <= limit else { return nil }
                defer { at = end + 1 }
                return Array(held[at..<end])
            }
            seen = held.count - at
            guard seen <= limit else { return nil }
            try fill(seen + 1)
            guard held.count - at > seen else { return nil }
        }
    }

    /// What is left of the last line, which has no end.
    mutating func rest(atMost limit: Int) throws -> [UInt8] { try take(limit) }

    private mutating func fill(_ count: Int) throws {
        guard held.count - at < count, !hasEnded else { return }
        held.removeFirst(at)
        at = 0
        while held.count < count, !hasEnded {
            let piece = try read(Self.pieceBytes)
            if piece.isEmpty { hasEnded = true }
            held += piece
        }
    }
}

/// The text form: base64 lines of 64 characters between a first and a last line. Only opened here.
private final class AgeArmor {
    private static let first = Array("-----BEGIN AGE ENCRYPTED FILE-----".utf8)
    private static let last = Array("-----END AGE ENCRYPTED FILE-----".utf8)
    private static let spaceBytesMax = 1024
    private static let lineBytes = 48

    private var source: AgeSource
    private var hasBegun = false
    private var hasEnded = false

    init(_ read: @escaping (Int) throws -> [UInt8]) { source = AgeSource(read) }

    /// The next bytes; a line's at a time.
    func read(_: Int) throws -> [UInt8] {
        if !hasBegun { try begin() }
        if hasEnded { return [] }
        let line = try nextLine()
        if line == Self.last {
            try end()
            return []
        }
        guard (1...AgeHeader.columns).contains(line.count), let bytes = AgeBase64.decodePadded(line) else {
            throw AgeError(.armor, "a line of the text form is not well formed")
        }
        if bytes.count < Self.lineBytes {
            guard try nextLine() == Self.last else { throw AgeError(.armor, "a short line is not the last") }
            try end()
        }
        return bytes
    }

    private func begin() throws {
        var spaces = 0
        while true {
            let line = try nextLine()
            guard Self.isSpace(line) else {
                guard line == Self.first else { throw AgeError(.armor, "the text form's first line is another") }
                hasBegun = true
                return
            }
            spaces += line.count + 1
            guard spaces <= Self.spaceBytesMax else { throw AgeError(.armor, "too much space before the text form") }
        }
    }

    private func end() throws {
        hasEnded = true
        let rest = try source.take(Self.spaceBytesMax)
        guard rest.count < Self.spaceBytesMax, Self.isSpace(rest) else {
            throw AgeError(.armor, "something follows the text form")
        }
    }

    private func nextLine() throws -> [UInt8] {
        var line: [UInt8]
        if let whole = try source.line(atMost: Self.spaceBytesMax) {
            line = whole
        } else {
            line = try source.rest(atMost: Self.spaceBytesMax)
            guard !line.isEmpty, try source.isAtEnd else { throw AgeError(.armor, "the text form is cut") }
        }
        if line.last == 0x0D { line.removeLast() }
        return line
    }

    private static func isSpace(_ bytes: [UInt8]) -> Bool {
        bytes.allSatisfy { [0x20, 0x09, 0x0A, 0x0D].contains($0) }
    }
}
