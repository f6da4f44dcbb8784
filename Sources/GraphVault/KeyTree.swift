package import Sealing
import Vocabulary

/// What opens the vault. The root key itself is never on disk in clear.
package enum Unsealing: ~Copyable, Sendable {
    case passphrase(SecretBytes)
    /// The content of a key file: 32 random bytes or more.
    case keyFile(SecretBytes)
}

/// What a guess at the passphrase costs (Argon2id, RFC 9106).
package struct PassphraseCost: Sendable, Equatable {
    package let memoryBytes: Int
    package let passes: Int

    package init(memoryBytes: Int, passes: Int) {
        self.memoryBytes = memoryBytes
        self.passes = passes
    }

    /// libsodium's "moderate": 256 MiB, 3 passes.
    package static let standard = PassphraseCost(memoryBytes: 256 << 20, passes: 3)
    /// The most that a stored header may ask for, so that a changed one cannot take all memory.
    static let most = PassphraseCost(memoryBytes: 1 << 30, passes: 16)
}

/// The file that holds the wrapped root key, `vault.json`: everything needed to open the vault but the secret.
struct KeyHeader {
    static let fileName = "vault.json"
    private static let bytesMax = 4096
    private static let keyFileBytes = 32...65_536

    /// Wraps a fresh root key and writes the header.
    static func create(
        in folder: Folder, unsealing: borrowing Unsealing, cost: PassphraseCost
    ) throws -> SecretBytes {
        let root = SecretBytes.random(count: 32)
        var members: [String: JSON] = ["format": "sekisho-vault-1"]
        let salt = RandomBytes.array(16)
        members["salt"] = .string(Hex.encode(salt))
        members["commitment"] = .string(KeyDerivation.commitment(root).hex)
        switch unsealing {
        case .passphrase:
            members["unsealing"] = "passphrase"
            members["memoryBytes"] = .integer(Int64(cost.memoryBytes))
            members["passes"] = .integer(Int64(cost.passes))
        case .keyFile: members["unsealing"] = "key-file"
        }
        let unlocked = try outerKey(unsealing, JSON.object(members))
        members["root"] = .string(
            Hex.encode(SmallCipher.sealSecret(root, key: unlocked, aad: JSON.object(members).canonical)))
        try DurableFile.replace(fileName, with: JSON.object(members).canonical + [0x0A], in: folder)
        return root
    }

    static func open(in folder: Folder, unsealing: borrowing Unsealing) throws -> SecretBytes {
        let malformed = VaultError(.notAVault, "the vault's key header is not readable")
        guard folder.contains(fileName) else { throw VaultError(.notAVault, "there is no vault in this folder") }
        var bytes = try StoredFile.read(fileName, in: folder, bytesMax: bytesMax)
        guard bytes.popLast() == 0x0A, let header = try? JSON(parsing: bytes), header.canonical == bytes,
            var members = header.objectValue, members["format"] == "sekisho-vault-1",
            let wrapped = members.removeValue(forKey: "root")?.stringValue.flatMap(Hex.decode),
            let commitment = members["commitment"]?.stringValue
        else { throw malformed }
        let unlocked = try outerKey(unsealing, JSON.object(members))
        do {
            let root = try SmallCipher.openSecret(
                noncePrefixed: wrapped, key: unlocked, aad: JSON.object(members).canonical)
            guard KeyDerivation.commitment(root).hex == commitment else { throw malformed }
            return root
        } catch is SealingError {
            throw VaultError(.wrongKey, "the passphrase or key file does not open this vault")
        }
    }

    /// The key that the root key is wrapped under.
    private static func outerKey(_ unsealing: borrowing Unsealing, _ header: JSON) throws -> SecretBytes {
        guard let salt = header["salt"]?.stringValue.flatMap(Hex.decode), salt.count == 16 else {
            throw VaultError(.notAVault, "the vault's key header is not readable")
        }
        switch unsealing {
        case .passphrase(let phrase):
            guard header["unsealing"] == "passphrase" else {
                throw VaultError(.wrongKey, "this vault is opened with a key file, not a passphrase")
            }
            guard let memory = header["memoryBytes"]?.integerValue, let passes = header["passes"]?.integerValue,
                memory <= PassphraseCost.most.memoryBytes, passes <= PassphraseCost.most.passes
            else { throw VaultError(.notAVault, "the vault's key header asks for too much") }
            return try KeyDerivation.argon2id(
                passphrase: phrase, salt: salt, memoryBytes: Int(memory), passes: Int(passes))
        case .keyFile(let secret):
            guard header["unsealing"] == "key-file" else {
                throw VaultError(.wrongKey, "this vault is opened with a passphrase, not a key file")
            }
            guard keyFileBytes.contains(secret.count) else {
                throw VaultError(.wrongKey, "a key file holds \(keyFileBytes.lowerBound) bytes or more")
            }
            return KeyDerivation.hkdf(secret, salt: salt, info: "sekisho vault key file v1")
        }
    }
}

/// What a stored key or row is for. Sealed with it, so that none can stand in another's place.
enum KeyPurpose {
    case dataset(DatasetID)
    case version(VersionID, DatasetID)
    case run(RunID)
    case candidate(RunID)
    case consent(pseudonym: [UInt8])
    case members(RunID)
    case imageManifest(RunID)
    case candidateManifest(RunID)
    case checkpoint(RunID)
    case trail

    var aad: [UInt8] {
        switch self {
        case .dataset(let id): Self.aad("dataset-key", id.text)
        case .version(let id, let dataset): Self.aad("version-key", "\(dataset.text)/\(id.text)")
        case .run(let id): Self.aad("run-key", id.text)
        case .candidate(let id): Self.aad("candidate-key", id.text)
        case .consent(let pseudonym): Self.aad("consent", Hex.encode(pseudonym))
        case .members(let id): Self.aad("members", id.text)
        case .imageManifest(let id): Self.aad("image-manifest", id.text)
        case .trail: Self.aad("trail", "")
        case .candidateManifest(let id): Self.aad("candidate-manifest", id.text)
        case .checkpoint(let id): Self.aad("checkpoint", id.text)
        }
    }

    private static func aad(_ kind: String, _ name: String) -> [UInt8] {
        Array("sekisho-vault-v1".utf8) + [0] + kind.utf8 + [0] + name.utf8
    }
}

extension KeyPurpose {
    /// A key, wrapped under the one above it in the tree.
    func wrap(_ key: borrowing SecretBytes, under parent: borrowing SecretBytes) -> [UInt8] {
        SmallCipher.sealSecret(key, key: parent, aad: aad)
    }

    func unwrap(_ wrapped: [UInt8], under parent: borrowing SecretBytes) throws(VaultError) -> SecretBytes {
        do throws(SealingError) {
            return try SmallCipher.openSecret(noncePrefixed: wrapped, key: parent, aad: aad)
        } catch {
            throw VaultError(.tampered, "a stored key does not open in its place")
        }
    }

    /// A row of the catalogue whose content must not be readable there.
    func seal(_ row: [UInt8], under key: borrowing SecretBytes) -> [UInt8] {
        let nonce = RandomBytes.array(SmallCipher.nonceBytes)
        return nonce + SmallCipher.seal(row, key: key, nonce: nonce, aad: aad)
    }

    func open(_ sealed: [UInt8], under key: borrowing SecretBytes) throws(VaultError) -> [UInt8] {
        guard sealed.count >= SmallCipher.nonceBytes + SmallCipher.tagBytes else {
            throw VaultError(.truncated, "a sealed row is too short")
        }
        do throws(SealingError) {
            return try SmallCipher.open(
                Array(sealed[SmallCipher.nonceBytes...]), key: key,
                nonce: Array(sealed[..<SmallCipher.nonceBytes]), aad: aad)
        } catch {
            throw VaultError(.tampered, "a sealed row does not open in its place")
        }
    }
}
