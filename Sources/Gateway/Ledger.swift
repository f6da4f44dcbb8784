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
    private let trail: Trail
    private let database: DatabaseQueue
    private let key: SecretBytes
    private let clock: GuardedClock
    /// A clock that is behind the records by more than this writes nothing new.
    static let clockBehindMillisecondsMax: Int64 = 60_000
    private let search: SearchIndex
    private var files: [CaseID: CaseFile] = [:]
    /// All records, in the trail's order.
    private(set) var records: [CaseRecord] = []
    private var recordsByEvent: [AuditEvent: [CaseRecord]] = [:]
    /// In the order of their first records.
    private(set) var runs: [RunID] = []
    /// In the order of their first records.
    private(set) var requests: [RequestID] = []
    /// Where to find requests without looking at all of them.
    private(set) var index = RequestIndex()
    private var runsByGrant: [String: [RunID]] = [:]
    /// The highest fence ever recorded; the next lease takes the one after it.
    private(set) var highestFence = Fence(0)

    /// - Parameter key: seals the case records; derived from the vault's root key.
    init(trail: Trail, databasePath: String, key: consuming SecretBytes, clock: GuardedClock) throws {
        self.trail = trail
        self.clock = clock
        search = SearchIndex(key: KeyDerivation.hkdf(key, info: "sekisho audit search v1"))
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
        try checkNothingIsMissing()
        if let latest = records.map(\.time).max() { clock.isAfter(latest) }
    }

    func close() throws { try database.close() }

    // MARK: - Reading

    func file(_ id: CaseID) -> CaseFile { files[id] ?? CaseFile(id: id) }

    /// All records of one event, in the trail's order.
    func records(of event: AuditEvent) -> [CaseRecord] { recordsByEvent[event] ?? [] }

    func runs(under grant: GrantID) -> [RunID] { runsByGrant[grant.text] ?? [] }

    /// The record at one place of the trail, if it is a case record.
    func record(at index: UInt64) -> CaseRecord? {
        let place = records.partitionPoint { $0.index >= index }
        return place < records.count && records[place].index == index ? records[place] : nil
    }

    /// All records with the cases they are of.
    var recordsWithCases: [(id: CaseID, record: CaseRecord)] {
        files.flatMap { id, file in file.records.map { (id, $0) } }.sorted { $0.1.index < $1.1.index }
    }

    /// A key that no record of the gateway's own case has yet, for what may happen again and again.
    func freshKey(_ stem: String) -> String { "\(stem)#\(file(.gateway).records.count)" }

    /// Proof for a wall that does not trust this process: the record is durable and says what it says. Only while the
    /// record's era is open.
    ///
    /// - Parameter cosigned: the head to prove it under, where witnesses have seen one that covers the record.
    func receipt(for record: CaseRecord, under cosigned: SignedCheckpoint? = nil) throws -> Receipt {
        do throws(TrailError) {
            return try trail.receipt(for: record.leafHash, at: record.index, under: cosigned)
        } catch {
            throw GatewayError(trail: error)
        }
    }

    // MARK: - Writing

    /// Makes `event` durable and returns its record. Asked again with the same key, it returns what is already there:
    /// a step that is repeated after a crash writes nothing twice.
    @discardableResult
    func record(_ event: Event, in id: CaseID, key recordKey: String) throws -> CaseRecord {
        if let existing = file(id)[recordKey] { return existing }
        var event = event
        if case .request(let request) = id { event.detail["request"] = .string(request.text) }
        let payload = JSON.object(event.payload)
        let payloadDigest = event.payload.isEmpty ? nil : SHA256.hash(payload.canonical)
        let time = clock.now()
        // What ends something, and what tells of the clock itself, is still written.
        guard
            clock.behindMilliseconds <= Self.clockBehindMillisecondsMax || event.name.mayUseReserve
                || event.name == .clockChecked
        else {
            throw GatewayError(
                .unavailable,
                "clock-behind: this machine's clock is \(clock.behindMilliseconds / 1000) seconds behind the newest record; set it right"
            )
        }
        let prepared: PreparedRecord
        do throws(TrailError) {
            prepared = try prepare(
                event.record(payloadDigest: payloadDigest), in: id, isFirst: file(id).records.isEmpty)
        } catch { throw GatewayError(trail: error) }
        try insertPending(prepared, id, recordKey, time, payload)
        let appended = try append(prepared, isHeaded: Self.shown.contains(event.name))
        guard
            let record = CaseRecord(
                index: appended.index, leafHash: prepared.leafHash, time: time, key: recordKey, core: prepared.core,
                payload: payload)
        else { throw Self.damaged }
        try settle(record, of: id)
        add(record, to: id)
        return record
    }

    /// Records come in the trail's order, at the start and from then on.
    private func add(_ record: CaseRecord, to id: CaseID) {
        if files[id] == nil {
            switch id {
            case .gateway: break
            case .request(let request): requests.append(request)
            case .run(let run):
                runs.append(run)
                if let grant = record.detail["grant"]?.stringValue { runsByGrant[grant, default: []].append(run) }
            }
        }
        files[id, default: CaseFile(id: id)].append(record)
        records.append(record)
        recordsByEvent[record.event, default: []].append(record)
        index.learn(record, of: id)
        if let fence = record.core["fence"]?.integerValue { highestFence = max(highestFence, Fence(UInt64(fence))) }
    }

    /// A run's records are an era of their own, from its first record to the one that closes it.
    private func prepare(_ record: TrailRecord, in id: CaseID, isFirst: Bool) throws(TrailError) -> PreparedRecord {
        guard case .run(let run) = id else { return try trail.prepare(record, in: .gateway) }
        if isFirst { try trail.openEra(run: run) }
        return record.event == .runClosed
            ? try trail.prepareClose(record, run: run) : try trail.prepare(record, in: .run(run))
    }

    /// What is shown to a wall soon after, under a signed head: its head is made with it.
    private static let shown: Set<AuditEvent> = [.runDecided, .deviceLeased, .releaseDecided]

    private func append(_ prepared: PreparedRecord, isHeaded: Bool) throws -> AppendedRecord {
        do throws(TrailError) {
            return try trail.append(prepared, isHeaded: isHeaded)
        } catch {
            // The row must not outlive a leaf that never was. Where the trail does not know whether the leaf is on the
            // disk, the next start asks.
            if ![.poisoned, .lost].contains(error.code) { try? drop(prepared.leafHash) }
            throw GatewayError(trail: error)
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
                        time INTEGER NOT NULL,
                        case_id TEXT NOT NULL,
                        record_key TEXT NOT NULL,
                        sealed BLOB NOT NULL,
                        UNIQUE (case_id, record_key)
                    ) WITHOUT ROWID
                    """)
        }
        SearchIndex.migrate(&migrator)
        try migrator.migrate(database)
    }

    private func insertPending(
        _ prepared: PreparedRecord, _ id: CaseID, _ recordKey: String, _ time: Timestamp, _ payload: JSON
    ) throws {
        let body: JSON = ["core": prepared.core, "payload": payload]
        let nonce = RandomBytes.array(SmallCipher.nonceBytes)
        let sealed = SmallCipher.seal(
            body.canonical, key: key, nonce: nonce, aad: Self.aad(prepared.leafHash, id, recordKey, time.milliseconds))
        try database.write { database in
            try database.execute(
                sql: "INSERT INTO record (leaf_hash, time, case_id, record_key, sealed) VALUES (?, ?, ?, ?, ?)",
                arguments: [
                    Data(prepared.leafHash.bytes), time.milliseconds, id.description, recordKey, Data(nonce + sealed),
                ])
        }
    }

    /// Gives a record's row its place in the trail and makes it findable.
    private func settle(_ record: CaseRecord, of id: CaseID) throws {
        try database.write { database in
            try database.execute(
                sql: "UPDATE record SET trail_index = ?, indexed = 1 WHERE leaf_hash = ?",
                arguments: [Int64(record.index), Data(record.leafHash.bytes)])
            try search.insert(record, of: id, in: database)
        }
    }

    private func setIndex(_ index: UInt64, of leafHash: Digest) throws {
        try database.write { database in
            try database.execute(
                sql: "UPDATE record SET trail_index = ? WHERE leaf_hash = ?",
                arguments: [Int64(index), Data(leafHash.bytes)])
        }
    }

    private func drop(_ leafHash: Digest) throws {
        try database.write { database in
            try database.execute(sql: "DELETE FROM record WHERE leaf_hash = ?", arguments: [Data(leafHash.bytes)])
        }
    }

    /// Settles what a crash left between the case record and its leaf.
    private func settlePending() throws {
        let pending = try database.read { database in
            try Data.fetchAll(database, sql: "SELECT leaf_hash FROM record WHERE trail_index IS NULL")
        }
        for hash in pending {
            guard let digest = Digest(hash) else { throw Self.damaged }
            if let index = trail.index(of: digest) { try setIndex(index, of: digest) } else { try drop(digest) }
        }
    }

    /// Opens every case record and checks it against the trail: same place, same leaf, same content.
    private func load() throws {
        let rows = try database.read { database in
            try Row.fetchAll(database, sql: "SELECT * FROM record ORDER BY trail_index")
        }
        var unindexed: [(CaseID, CaseRecord)] = []
        for row in rows {
            let (id, record) = try open(row)
            add(record, to: id)
            if row["indexed"] == 0 { unindexed.append((id, record)) }
        }
        // A crash came between the row's place and its terms, or the database is older than the search.
        guard !unindexed.isEmpty else { return }
        try database.write { database in
            for (id, record) in unindexed { try search.insert(record, of: id, in: database) }
            try database.execute(sql: "UPDATE record SET indexed = 1 WHERE indexed = 0")
        }
    }

    private func open(_ row: Row) throws -> (CaseID, CaseRecord) {
        guard let idText: String = row["case_id"], let id = CaseID(idText),
            let recordKey: String = row["record_key"],
            let hashBytes: Data = row["leaf_hash"], let leafHash = Digest(hashBytes),
            let index: Int64 = row["trail_index"], let time: Int64 = row["time"], let sealed: Data = row["sealed"],
            trail.holds(leafHash, at: UInt64(index))
        else { throw Self.damaged }
        let nonceBytes = SmallCipher.nonceBytes
        guard
            let opened = try? SmallCipher.open(
                [UInt8](sealed.dropFirst(nonceBytes)), key: key, nonce: [UInt8](sealed.prefix(nonceBytes)),
                aad: Self.aad(leafHash, id, recordKey, time)),
            let body = try? JSON(parsing: opened), let core = body["core"], let payload = body["payload"],
            let record = CaseRecord(
                index: UInt64(index), leafHash: leafHash, time: Timestamp(milliseconds: time), key: recordKey,
                core: core, payload: payload)
        else { throw Self.damaged }
        return (id, record)
    }

    /// Records that answer a search, newest first; each is opened and held against the question.
    func find(_ query: AuditQuery, alsoRuns: [RunID], below cursor: UInt64, limit: Int) throws -> [AuditHit] {
        let rows = try database.read { database in
            try search.find(query, alsoRuns: alsoRuns, below: cursor, limit: limit, in: database).map { index in
                try Row.fetchOne(
                    database, sql: "SELECT * FROM record WHERE trail_index = ?", arguments: [Int64(clamping: index)])
            }
        }
        let runs = Set(alsoRuns.map(\.text))
        return try rows.map { row in
            guard let row else { throw Self.damaged }
            let (id, record) = try open(row)
            guard query.matches(record, of: id, alsoRuns: runs) else { throw Self.damaged }
            return AuditHit(id: id, record: record)
        }
    }

    /// The trail knows how many records were written into it. A run's are also numbered without a gap, its opening entry
    /// first, and a run is open exactly as long as its era.
    private func checkNothingIsMissing() throws {
        let closings = runs.count { file(.run($0)).records.last?.event == .runClosed }
        guard trail.recordCount == records.count - closings else { throw Self.damaged }
        for run in runs {
            let records = file(.run(run)).records
            for (place, record) in records.enumerated() {
                guard record.core["sequence"]?.integerValue == Int64(place + 2) else { throw Self.damaged }
            }
            guard trail.isOpen(run: run) != (records.last?.event == .runClosed) else { throw Self.damaged }
        }
    }

    /// A sealed row cannot be moved to another case, key, leaf or time.
    private static func aad(_ leafHash: Digest, _ id: CaseID, _ recordKey: String, _ time: Int64) -> [UInt8] {
        Array("sekisho case record v1".utf8) + [0] + leafHash.bytes + Array("\(time)/\(id)".utf8) + [0]
            + Array(recordKey.utf8)
    }

    private static let damaged = GatewayError(
        .integrity, "a case record does not match the trail; restore the database from its backup")
}

extension GatewayError {
    /// The trail's own words are public already.
    init(trail error: TrailError) {
        switch error.code {
        case .full:
            self.init(
                .trailFull,
                "trail-full: the disk under the trail is full, so nothing new starts; free space and try again")
        case .poisoned, .lost, .closed:
            self.init(.unavailable, "\(error.publicDescription); nothing new starts until the gateway is started again")
        case .busy: self.init(.busy, error.publicDescription)
        case .notFound: self.init(.notFound, error.publicDescription)
        case .malformed, .alreadyExists: self.init(.usage, error.publicDescription)
        case .damaged, .rolledBack, .wrongKey, .outOfOrder, .eraClosed: self.init(.integrity, error.publicDescription)
        }
    }
}
