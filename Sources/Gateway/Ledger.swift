import AuditTrail
import Foundation
import GRDB
import Sealing
import TransparencyLog
import Vocabulary

/// Everything that happened, in order: the trail's records beside the sealed case records that only the gateway reads.
///
/// A record is written in three moves: its sealed case record with the leaf's hash into the database, the leaf into
/// the trail (durable on return), the trail's index into the database. A crash between any two is settled at the
/// next start by asking the trail whether it holds that leaf.
final class Ledger {
    private let trail: AuditTrail
    private let database: DatabaseQueue
    private let key: SecretBytes
    private var files: [CaseID: CaseFile] = [:]

    /// - Parameter key: seals the case records; derived from the vault's root key.
    init(trail: AuditTrail, databasePath: String, key: consuming SecretBytes) throws {
        self.trail = trail
        self.key = key
        var configuration = Configuration()
        configuration.prepareDatabase { database in
            // The case record must survive power loss before its leaf is appended.
            try database.execute(sql: "PRAGMA journal_mode = WAL")
            try database.execute(sql: "PRAGMA synchronous = FULL")
        }
        database = try DatabaseQueue(path: databasePath, configuration: configuration)
        try migrate()
        try settlePending()
        try load()
    }

    func close() throws { try database.close() }

    // MARK: - Reading

    func file(_ id: CaseID) -> CaseFile { files[id] ?? CaseFile(id: id) }

    var runs: [RunID] {
        files.keys.compactMap { if case .run(let id) = $0 { id } else { nil } }.sorted()
    }

    var requests: [RequestID] {
        files.keys.compactMap { if case .request(let id) = $0 { id } else { nil } }.sorted()
    }

    /// The highest fence ever recorded; the next lease takes the one after it.
    var highestFence: Fence {
        let numbers = files.values.flatMap(\.records).compactMap { $0.core["fence"]?.integerValue }
        return Fence(UInt64(numbers.max() ?? 0))
    }

    /// A key that no record of the gateway's own case has yet, for what may happen again and again.
    func freshKey(_ stem: String) -> String { "\(stem)#\(file(.gateway).records.count)" }

    /// Proof for a wall that does not trust this process: the record is durable and says what it says.
    func receipt(for record: CaseRecord) throws -> Receipt {
        try trail.receipt(index: record.index, opening: record.opening)
    }

    // MARK: - Writing

    /// Makes `event` durable and returns its record. Asked again with the same key, it returns what is already there:
    /// a step that is repeated after a crash writes nothing twice.
    @discardableResult
    func record(_ event: Event, in id: CaseID, key recordKey: String) throws -> CaseRecord {
        var file = file(id)
        if let existing = file[recordKey] { return existing }
        let payload = JSON.object(event.payload)
        let payloadDigest = event.payload.isEmpty ? nil : SHA256.hash(payload.canonical)
        var core = event.core(payloadDigest: payloadDigest)
        if case .run(let run) = id {
            core["run"] = .string(run.text)
            core["sequence"] = .integer(Int64(file.records.count))
            core["previous"] = file.records.last.map { .string($0.leafHash.hex) }
        }
        let leaf = try prepare(.object(core), in: id)
        try insertPending(leaf, id, recordKey, .object(core), payload)
        let appended = try append(leaf)
        try database.write { database in
            try database.execute(
                sql: "UPDATE record SET trail_index = ?, time = ? WHERE leaf_hash = ?",
                arguments: [Int64(appended.index), appended.time.milliseconds, Data(leaf.leafHash.bytes)])
        }
        let record = CaseRecord(
            index: appended.index, leafHash: leaf.leafHash, time: appended.time, key: recordKey, core: .object(core),
            payload: payload, opening: leaf.opening)
        file.append(record)
        files[id] = file
        return record
    }

    /// Ends a run's era: its content key is erased, and only auditors can read its records in the trail.
    func closeEra(of run: RunID) throws { try trail.closeEra(.run(run)) }

    private func prepare(_ core: JSON, in id: CaseID) throws -> PreparedLeaf {
        switch id {
        case .run(let run): try trail.prepare(core, era: .run(run))
        case .gateway, .request: try trail.prepare(core, era: .gateway)
        }
    }

    private func append(_ leaf: PreparedLeaf) throws -> AppendedRecord {
        do {
            return try trail.append(leaf)
        } catch {
            // The row must not outlive a leaf that never was.
            try? database.write { database in
                try database.execute(
                    sql: "DELETE FROM record WHERE leaf_hash = ?", arguments: [Data(leaf.leafHash.bytes)])
            }
            throw error
        }
    }
}

// MARK: - The database

extension Ledger {
    private func migrate() throws {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { database in
            try database.execute(
                sql: """
                    CREATE TABLE record (
                        leaf_hash BLOB PRIMARY KEY NOT NULL,
                        trail_index INTEGER UNIQUE,
                        time INTEGER,
                        case_id TEXT NOT NULL,
                        record_key TEXT NOT NULL,
                        sealed BLOB NOT NULL,
                        UNIQUE (case_id, record_key)
                    ) WITHOUT ROWID
                    """)
        }
        try migrator.migrate(database)
    }

    private func insertPending(
        _ leaf: PreparedLeaf, _ id: CaseID, _ recordKey: String, _ core: JSON, _ payload: JSON
    ) throws {
        let body: JSON = ["core": core, "payload": payload, "opening": .string(Hex.encode(leaf.opening))]
        let nonce = RandomBytes.array(24)
        let sealed = try SmallCipher.seal(
            body.canonical, key: key, nonce: nonce, aad: Self.aad(leaf.leafHash, id, recordKey))
        try database.write { database in
            try database.execute(
                sql: "INSERT INTO record (leaf_hash, case_id, record_key, sealed) VALUES (?, ?, ?, ?)",
                arguments: [Data(leaf.leafHash.bytes), id.description, recordKey, Data(nonce + sealed)])
        }
    }

    /// Settles what a crash left between the case record and its leaf.
    private func settlePending() throws {
        let pending = try database.read { database in
            try Data.fetchAll(database, sql: "SELECT leaf_hash FROM record WHERE trail_index IS NULL")
        }
        for hash in pending {
            guard let digest = Digest(hash) else { throw Self.damaged }
            if let place = try trail.find(leafHash: digest) {
                try database.write { database in
                    try database.execute(
                        sql: "UPDATE record SET trail_index = ?, time = ? WHERE leaf_hash = ?",
                        arguments: [Int64(place.index), place.time.milliseconds, hash])
                }
            } else {
                try database.write { database in
                    try database.execute(sql: "DELETE FROM record WHERE leaf_hash = ?", arguments: [hash])
                }
            }
        }
    }

    /// Opens every case record and checks it against the trail: same place, same leaf, same content.
    private func load() throws {
        let rows = try database.read { database in
            try Row.fetchAll(database, sql: "SELECT * FROM record ORDER BY trail_index")
        }
        for row in rows {
            guard let idText: String = row["case_id"], let id = CaseID(idText), let recordKey: String = row["record_key"],
                let hashBytes: Data = row["leaf_hash"], let leafHash = Digest(hashBytes),
                let index: Int64 = row["trail_index"], let time: Int64 = row["time"],
                let sealed: Data = row["sealed"], sealed.count > 24
            else { throw Self.damaged }
            guard try trail.leafHash(at: UInt64(index)) == leafHash else { throw Self.damaged }
            let body = try JSON(
                parsing: SmallCipher.open(
                    [UInt8](sealed.dropFirst(24)), key: key, nonce: [UInt8](sealed.prefix(24)),
                    aad: Self.aad(leafHash, id, recordKey)))
            guard let core = body["core"], let payload = body["payload"],
                let opening = body["opening"]?.stringValue.flatMap(Hex.decode),
                core["event"]?.stringValue.flatMap(Event.Name.init) != nil
            else { throw Self.damaged }
            var file = file(id)
            file.append(
                CaseRecord(
                    index: UInt64(index), leafHash: leafHash, time: Timestamp(milliseconds: time), key: recordKey,
                    core: core, payload: payload, opening: opening))
            files[id] = file
        }
    }

    /// A sealed row cannot be moved to another case, key or leaf.
    private static func aad(_ leafHash: Digest, _ id: CaseID, _ recordKey: String) -> [UInt8] {
        Array("sekisho case record v1".utf8) + [0] + leafHash.bytes + Array("\(id)".utf8) + [0] + Array(recordKey.utf8)
    }

    private static let damaged = GatewayError(
        .integrity, "a case record does not match the trail; restore the database from its backup")
}
