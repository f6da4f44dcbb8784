import Sealing
package import Vocabulary

/// Where a run's training stands, kept so that a crash costs no more than the epochs since.
///
/// One a run, beside its image; a newer one takes its place whole or not at all. The windows lie as the device sealed
/// them, so nothing is opened to keep them; the facts are sealed under a key made from the run's, and with that key the
/// checkpoint is erased.
package struct StoredCheckpoint: Sendable {
    package let facts: JSON
    /// Sealed bytes by window.
    package let windows: [UInt16: [UInt8]]
}

extension Vault {
    private static let fileName = "checkpoint.sealed"
    private static let headerBytesMax = 1 << 20

    package func storeCheckpoint(run: RunID, facts: JSON, windows: [UInt16: [UInt8]]) throws {
        let place = Self.imageFolder(folder, run)
        guard place.exists else { throw VaultError(.unknownRun, "this run has no image") }
        let ordered = windows.sorted { $0.key < $1.key }
        let header = JSON.object([
            "facts": facts,
            "windows": .array(
                ordered.map {
                    [
                        "window": .integer(Int64($0.key)), "bytes": .integer(Int64($0.value.count)),
                        "sha256": .string(SHA256.hash($0.value).hex),
                    ]
                }),
        ])
        let sealed = KeyPurpose.checkpoint(run).seal(header.canonical, under: try checkpointKey(run))
        guard sealed.count <= Self.headerBytesMax else {
            throw VaultError(.tooMany, "a checkpoint with that many facts cannot be kept")
        }
        var bytes = withUnsafeBytes(of: UInt32(sealed.count).bigEndian) { Array($0) }
        bytes.reserveCapacity(4 + sealed.count + ordered.reduce(0) { $0 + $1.value.count })
        bytes += sealed
        for (_, window) in ordered { bytes += window }
        try DurableFile.replace(Self.fileName, with: bytes, in: place)
    }

    /// The newest checkpoint, or `nil` where there is none.
    package func checkpoint(run: RunID) throws -> StoredCheckpoint? {
        let place = Self.imageFolder(folder, run)
        guard place.contains(Self.fileName) else { return nil }
        let damaged = VaultError(.tampered, "the run's checkpoint is not what was sealed")
        let bytes = try StoredFile.read(Self.fileName, in: place, bytesMax: Int.max)
        guard bytes.count >= 4 else { throw damaged }
        let length = bytes[..<4].reduce(0) { $0 << 8 | Int($1) }
        guard length <= Self.headerBytesMax, length <= bytes.count - 4 else { throw damaged }
        let header = try KeyPurpose.checkpoint(run).open(Array(bytes[4..<4 + length]), under: checkpointKey(run))
        guard let json = try? JSON(parsing: header), let facts = json["facts"],
            let entries = json["windows"]?.arrayValue
        else { throw damaged }
        var windows: [UInt16: [UInt8]] = [:]
        var at = 4 + length
        for entry in entries {
            guard let window = entry["window"]?.integerValue.flatMap(UInt16.init(exactly:)),
                let count = entry["bytes"]?.integerValue.flatMap(Int.init(exactly:)), count >= 0,
                count <= bytes.count - at
            else { throw damaged }
            let part = Array(bytes[at..<at + count])
            guard SHA256.hash(part).hex == entry["sha256"]?.stringValue else { throw damaged }
            windows[window] = part
            at += count
        }
        guard at == bytes.count else { throw damaged }
        return StoredCheckpoint(facts: facts, windows: windows)
    }

    private func checkpointKey(_ run: RunID) throws -> SecretBytes {
        KeyDerivation.hkdf(try runKey(run), info: "sekisho checkpoint v1")
    }
}
