import DurableFiles
package import Foundation
import Sealing
import TransparencyLog
import Vocabulary

/// What unseals a home.
package enum HomeKey: Sendable {
    /// A file of 32 random bytes, kept away from the home.
    case keyFile(URL)
    case passphrase([UInt8])
}

/// The folder of one gateway: where its parts keep what is theirs, and the settings that are in clear.
///
/// Nothing here is secret or personal: keys are sealed under the vault's root key.
struct Home: Sendable {
    let folder: URL

    var vault: URL { folder.appendingPathComponent("vault", isDirectory: true) }
    var trail: URL { folder.appendingPathComponent("trail", isDirectory: true) }
    var policies: URL { folder.appendingPathComponent("policies", isDirectory: true) }
    var pki: URL { folder.appendingPathComponent("pki", isDirectory: true) }
    var database: URL { folder.appendingPathComponent("gateway.db") }
    var desk: URL { folder.appendingPathComponent("desk.db") }
    var signingKey: URL { folder.appendingPathComponent("trail-signing-key.sealed") }
    /// Written before the trail takes it over; there only while a rotation is under way.
    var nextSigningKey: URL { folder.appendingPathComponent("trail-signing-key.next.sealed") }
    var witnesses: URL { folder.appendingPathComponent("witnesses.policy") }
    private var settingsFile: URL { folder.appendingPathComponent("gateway.json") }
    private var lockFile: URL { folder.appendingPathComponent("lock") }

    /// What does not change while the gateway runs.
    struct Settings: Equatable {
        let trail: TrailIdentity
        let anchor: URL
        let auditors: [PublicWrappingKey]
        let recovery: PublicWrappingKey
    }

    var exists: Bool { FileManager.default.fileExists(atPath: settingsFile.path) }

    /// - Parameter key: authenticates who may read the trail, so that nobody adds a reader by editing a file. The
    ///   anchor's place is left out: an operator may move it to another volume.
    func write(_ settings: Settings, key: borrowing SecretBytes) throws {
        let json: JSON = [
            "version": 1,
            "trail": .string(settings.trail.description),
            "anchor": .string(settings.anchor.path),
            "auditors": .array(settings.auditors.map { .string(Hex.encode($0.bytes)) }),
            "recovery": .string(Hex.encode(settings.recovery.bytes)),
            "mac": .string(Hex.encode(settings.authenticator(key))),
        ]
        try GatewayFile.write(json.canonical, to: settingsFile, role: "settings")
    }

    func readSettings() throws -> Settings {
        guard exists else {
            throw GatewayError(.notFound, "there is no home here; make one with `sekisho init`")
        }
        let damaged = GatewayError(.integrity, "gateway.json is not what `sekisho init` writes")
        guard let json = try? JSON(parsing: GatewayFile.bytes(settingsFile, role: "settings")),
            json["version"]?.integerValue == 1,
            let identity = json["trail"]?.stringValue, let trail = try? TrailIdentity(parsing: identity),
            let anchor = json["anchor"]?.stringValue,
            let recovery = json["recovery"]?.stringValue.flatMap(Self.wrappingKey),
            let auditors = json["auditors"]?.arrayValue
        else { throw damaged }
        return Settings(
            trail: trail, anchor: URL(fileURLWithPath: anchor),
            auditors: try auditors.map {
                guard let key = $0.stringValue.flatMap(Self.wrappingKey) else { throw damaged }
                return key
            }, recovery: recovery)
    }

    private static func wrappingKey(_ hex: String) -> PublicWrappingKey? {
        Hex.decode(hex).flatMap { PublicWrappingKey(bytes: $0) }
    }

    /// Refuses settings whose readers are not those of `sekisho init`.
    func check(_ settings: Settings, key: borrowing SecretBytes) throws {
        guard let json = try? JSON(parsing: GatewayFile.bytes(settingsFile, role: "settings")),
            let mac = json["mac"]?.stringValue.flatMap(Hex.decode),
            constantTimeEqual(mac, settings.authenticator(key))
        else { throw GatewayError(.integrity, "gateway.json names other trail readers than this home was made with") }
    }

    /// Holds the home for this process; two gateways on one home would write over each other.
    func lock() throws -> HomeLock { try HomeLock(lockFile) }
}

extension Home.Settings {
    fileprivate func authenticator(_ key: borrowing SecretBytes) -> [UInt8] {
        let readers: JSON = [
            "trail": .string(trail.description), "auditors": .array(auditors.map { .string(Hex.encode($0.bytes)) }),
            "recovery": .string(Hex.encode(recovery.bytes)),
        ]
        return KeyDerivation.hmac(key, readers.canonical)
    }
}

/// An exclusive lock on a home, let go when the process ends, however it ends.
final class HomeLock: Sendable {
    private let descriptor: Int32

    fileprivate init(_ file: URL) throws {
        descriptor = open(file.path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw GatewayError(.unavailable, "the home's lock cannot be opened") }
        // The descriptor has its owner by now: `deinit` closes it, and a second close could hit somebody else's file.
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            throw GatewayError(.busy, "another sekisho process holds this home; wait for it or stop it")
        }
    }

    deinit {
        guard descriptor >= 0 else { return }
        // By name, not by closing: a child that is just being started has the same open file until its `exec`.
        flock(descriptor, LOCK_UN)
        close(descriptor)
    }
}

/// Files that people name on the command line, read with a bound and written so that no half file is ever seen.
package enum GatewayFile {
    static let textBytesMax = 4 << 20

    /// - Parameter role: what the file is, for the error; paths are not repeated.
    package static func read(_ file: URL, role: String) throws -> String {
        guard let text = String(validating: try bytes(file, role: role), as: UTF8.self) else {
            throw GatewayError(.usage, "the \(role) is not valid UTF-8")
        }
        return text
    }

    static func bytes(_ file: URL, role: String) throws -> [UInt8] {
        guard let handle = try? FileHandle(forReadingFrom: file) else {
            throw GatewayError(.notFound, "the \(role) cannot be read")
        }
        defer { try? handle.close() }
        // A folder opens like a file and fails here.
        guard let data = try? handle.read(upToCount: textBytesMax + 1) ?? Data() else {
            throw GatewayError(.notFound, "the \(role) cannot be read")
        }
        guard data.count <= textBytesMax else {
            throw GatewayError(.usage, "the \(role) is longer than \(textBytesMax) bytes")
        }
        return [UInt8](data)
    }

    /// Durable and whole when this returns; the old content or none until then.
    package static func write(_ bytes: [UInt8], to file: URL, role: String) throws {
        let failed = GatewayError(
            .unavailable, "the \(role) cannot be written; see that the folder exists and has space")
        do throws(DiskError) {
            try FolderDisk(file.deletingLastPathComponent().path).replace(
                file.lastPathComponent, with: bytes, durable: true)
        } catch { throw failed }
    }
}
