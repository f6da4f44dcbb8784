import GRDB
import Vocabulary

/// What the vault holds, in SQLite: names, manifests, wrapped keys and sealed rows; nothing personal in clear.
///
/// The rollback journal with `synchronous = EXTRA` makes a commit durable; `secure_delete` overwrites what is erased.
struct Catalogue: Sendable {
    private let queue: DatabaseQueue

    init(path: String) throws {
        var configuration = Configuration()
        configuration.prepareDatabase { database in
            try database.execute(
                sql: "PRAGMA secure_delete = ON; PRAGMA synchronous = EXTRA; PRAGMA trusted_schema = OFF")
        }
        do {
            queue = try DatabaseQueue(path: path, configuration: configuration)
        } catch {
            throw Self.safe(error)
        }
        try write { try $0.execute(sql: Self.schema) }
    }

    func read<Value>(_ body: (Database) throws -> Value) throws -> Value {
        do { return try queue.read(body) } catch { throw Self.safe(error) }
    }

    /// One transaction: all of `body` or nothing.
    func write<Value>(_ body: (Database) throws -> Value) throws -> Value {
        do { return try queue.write(body) } catch { throw Self.safe(error) }
    }

    // SQLite's own messages may quote paths and values.
    private static func safe(_ error: any Error) -> any Error {
        guard let error = error as? DatabaseError else { return error }
        return VaultError(.storage, "the catalogue answered with code \(error.extendedResultCode.rawValue)")
    }

    private static let schema = """
        CREATE TABLE IF NOT EXISTS dataset (
          id TEXT NOT NULL PRIMARY KEY,
          key BLOB NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS version (
          dataset TEXT NOT NULL REFERENCES dataset (id),
          id TEXT NOT NULL,
          manifest BLOB NOT NULL,
          key BLOB,
          PRIMARY KEY (dataset, id)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS consent (
          dataset TEXT NOT NULL REFERENCES dataset (id),
          pseudonym BLOB NOT NULL,
          sealed BLOB NOT NULL,
          PRIMARY KEY (dataset, pseudonym)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS run (
          id TEXT NOT NULL PRIMARY KEY,
          dataset TEXT NOT NULL REFERENCES dataset (id),
          manifest BLOB NOT NULL,
          members BLOB NOT NULL,
          key BLOB
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS candidate (
          run TEXT NOT NULL PRIMARY KEY,
          manifest BLOB NOT NULL,
          key BLOB
        ) STRICT, WITHOUT ROWID;
        """
}
