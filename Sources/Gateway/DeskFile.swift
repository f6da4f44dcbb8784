import Foundation
import GRDB
import Sealing
import Vocabulary

/// What lies on people's desks and is no part of what happened: drafts that nobody has filed, notices and which of them
/// were read, and messages that are still to go out. Sealed row by row; whose a row is, the file does not tell.
///
/// None of it is in the trail: a draft may be changed and thrown away, and a notice only tells of a record. Whoever loses
/// this file loses unfinished writing and nothing that counts.
final class DeskFile: Sendable {
    let database: DatabaseQueue
    private let key: SecretBytes
    private let owners: SecretBytes

    /// - Parameter key: derived from the vault's root key for this use.
    init(path: String, key: consuming SecretBytes) throws {
        owners = KeyDerivation.hkdf(key, info: "sekisho desk owners v1")
        self.key = key
        var configuration = Configuration()
        configuration.prepareDatabase { database in
            try database.execute(sql: "PRAGMA journal_mode = WAL")
            // What was answered with "saved" survives power loss.
            try database.execute(sql: "PRAGMA synchronous = FULL")
            // A draft that was thrown away is gone from the file, too.
            try database.execute(sql: "PRAGMA secure_delete = ON")
        }
        database = try DatabaseQueue(path: path, configuration: configuration)
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { database in
            try database.execute(
                sql: """
                    CREATE TABLE draft (
                        id TEXT PRIMARY KEY NOT NULL, owner BLOB NOT NULL, version INTEGER NOT NULL,
                        saved INTEGER NOT NULL, sealed BLOB NOT NULL) WITHOUT ROWID;
                    CREATE INDEX draft_owner ON draft (owner);
                    CREATE TABLE notice (
                        id INTEGER PRIMARY KEY AUTOINCREMENT, owner BLOB NOT NULL, time INTEGER NOT NULL,
                        read INTEGER NOT NULL, sealed BLOB NOT NULL);
                    CREATE INDEX notice_owner ON notice (owner, id);
                    CREATE TABLE mail (
                        id INTEGER PRIMARY KEY, attempts INTEGER NOT NULL, due INTEGER NOT NULL, sealed BLOB NOT NULL);
                    CREATE INDEX mail_due ON mail (due);
                    CREATE TABLE mark (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
                    """)
        }
        try migrator.migrate(database)
    }

    func close() throws { try database.close() }

    /// Stands for a person in the file.
    func owner(_ person: PersonID) -> Data { Data(KeyDerivation.hmac(owners, Array(person.text.utf8)).prefix(16)) }

    /// - Parameter place: what the row is; a sealed row opens in its own place only.
    func seal(_ json: JSON, at place: String) -> Data {
        let nonce = RandomBytes.array(SmallCipher.nonceBytes)
        return Data(nonce + SmallCipher.seal(json.canonical, key: key, nonce: nonce, aad: Array(place.utf8)))
    }

    func open(_ sealed: Data, at place: String) throws -> JSON {
        let nonce = [UInt8](sealed.prefix(SmallCipher.nonceBytes))
        guard nonce.count == SmallCipher.nonceBytes,
            let bytes = try? SmallCipher.open(
                [UInt8](sealed.dropFirst(SmallCipher.nonceBytes)), key: key, nonce: nonce, aad: Array(place.utf8)),
            let json = try? JSON(parsing: bytes)
        else { throw GatewayError(.integrity, "a row of the home's desk file was changed; remove desk.db to go on") }
        return json
    }
}
