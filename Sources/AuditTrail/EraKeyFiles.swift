package import Sealing
internal import TransparencyLog
internal import Vocabulary

/// Who can read the trail: a name to show and a public key to which every era's key is wrapped.
package struct TrailReader: Hashable, Sendable {
    package let name: String
    package let key: PublicWrappingKey

    package init(name: String, key: PublicWrappingKey) {
        self.name = name
        self.key = key
    }
}

/// One era's key as the auditors get it: `keys/<era>.json`. Goes into exports; tells nothing but who can read.
struct EraKeyFile {
    static let folder = "keys"
    private static let stanzasMax = 64

    let era: UInt64
    let commitment: Digest
    /// Wrapped keys by public key.
    let stanzas: [(reader: PublicWrappingKey, wrapped: [UInt8])]

    static func path(_ era: UInt64) -> String { "\(folder)/\(era).json" }

    init(era: UInt64, key: borrowing EraKey, readers: [TrailReader]) {
        self.era = era
        commitment = key.commitment
        stanzas = key.withSecret { secret in readers.map { ($0.key, $0.key.wrap(secret)) } }
    }

    var bytes: [UInt8] {
        let list = stanzas.map { stanza -> JSON in
            ["reader": .string(Hex.encode(stanza.reader.bytes)), "wrapped": .string(Hex.encode(stanza.wrapped))]
        }
        let file: JSON = ["era": .integer(Int64(era)), "commitment": .string(commitment.hex), "stanzas": .array(list)]
        return file.canonical
    }

    init(parsing bytes: [UInt8]) throws(LogError) {
        let malformed = LogError(.malformed, "an era's key file is not well formed")
        guard let json = try? JSON(parsing: bytes), let members = json.objectValue, members.count == 3,
            let number = json["era"]?.integerValue, number >= 0,
            let commitment = json["commitment"]?.stringValue.flatMap({ Digest(hex: $0) }),
            let list = json["stanzas"]?.arrayValue, list.count <= Self.stanzasMax
        else { throw malformed }
        era = UInt64(number)
        self.commitment = commitment
        var stanzas: [(reader: PublicWrappingKey, wrapped: [UInt8])] = []
        for stanza in list {
            guard
                let reader = stanza["reader"]?.stringValue.flatMap(Hex.decode).flatMap(PublicWrappingKey.init(bytes:)),
                let wrapped = stanza["wrapped"]?.stringValue.flatMap(Hex.decode)
            else { throw malformed }
            stanzas.append((reader, wrapped))
        }
        self.stanzas = stanzas
    }

    /// The era's key, when `auditor` is one of its readers.
    func open(with auditor: AuditorKey) throws(LogError) -> EraKey? {
        guard let stanza = stanzas.first(where: { $0.reader == auditor.publicKey }) else { return nil }
        let key: EraKey
        do {
            key = try EraKey(auditor.unwrap(stanza.wrapped))
        } catch {
            throw LogError(.wrongEntry, "the wrapped key of era \(era) does not open with the auditor's key")
        }
        guard key.commitment == commitment else {
            throw LogError(.wrongEntry, "the wrapped key of era \(era) is not the key that the era commits to")
        }
        return key
    }
}

/// The private key of an auditor, or the offline recovery key.
package final class AuditorKey: Sendable {
    private let key: WrappingKey
    package let publicKey: PublicWrappingKey

    package init(_ key: consuming WrappingKey) {
        publicKey = key.publicKey
        self.key = key
    }

    func unwrap(_ wrapped: [UInt8]) throws(SealingError) -> SecretBytes { try key.unwrap(wrapped) }
}

/// The same key sealed for the gateway itself, only while the era is open: `keys/<era>.host`, with the run it is for.
/// Overwritten and removed when the era closes.
enum HostKeyFile {
    static func path(_ era: UInt64) -> String { "\(EraKeyFile.folder)/\(era).host" }

    static func bytes(era: UInt64, key: borrowing EraKey, run: RunID?, hostKey: borrowing SecretBytes) -> [UInt8] {
        let plaintext = key.withSecret { secret in
            let name = Array((run?.text ?? "").utf8)
            return SecretBytes(count: secret.count + name.count) { out in
                secret.withBytes { out.copyMemory(from: $0) }
                UnsafeMutableRawBufferPointer(rebasing: out[secret.count...]).copyBytes(from: name)
            }
        }
        return SmallCipher.sealSecret(plaintext, key: hostKey, aad: aad(era))
    }

    static func open(
        _ bytes: [UInt8], era: UInt64, opened: Timestamp, hostKey: borrowing SecretBytes
    ) throws(TrailError) -> OpenEra {
        do {
            let plaintext = try SmallCipher.openSecret(noncePrefixed: bytes, key: hostKey, aad: aad(era))
            guard plaintext.count >= EraKey.byteCount else { throw TrailError(.damaged, "") }
            let key = try plaintext.withBytes { bytes throws(LogError) in
                try EraKey(SecretBytes(copying: UnsafeRawBufferPointer(rebasing: bytes[..<EraKey.byteCount])))
            }
            let name = plaintext.withBytes { String(decoding: $0[EraKey.byteCount...], as: UTF8.self) }
            return OpenEra(number: era, run: name.isEmpty ? nil : try RunID(name), key: key, opened: opened)
        } catch {
            throw TrailError(.damaged, "the gateway's copy of the key of era \(era) does not open")
        }
    }

    private static func aad(_ era: UInt64) -> [UInt8] { Array("sekisho trail host key v1 \(era)".utf8) }
}
