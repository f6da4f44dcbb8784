import Foundation
package import GRDB
package import Sealing
package import Vocabulary

/// Finds case records among millions without opening them: a table of keyed terms. The database sees only HMACs, so
/// who, what and which person a record is about stay unknown to whoever reads the file.
///
/// The index is made from the case records and tells nothing they do not: each hit is opened and compared. Whether
/// nothing was left out is what the export's verification shows.
package final class SearchIndex {
    private let key: MACKey
    private static let termBytes = 16
    /// Counting stops here: which of several conditions is the rarest needs no more.
    private static let countMax = 20_000

    /// - Parameter key: 32 bytes of its own use.
    package init(key: borrowing SecretBytes) { self.key = MACKey(key) }

    static func migrate(_ migrator: inout DatabaseMigrator) {
        migrator.registerMigration("search") { database in
            try database.execute(sql: "ALTER TABLE record ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0")
            try createTable(database)
        }
    }

    package static func createTable(_ database: Database) throws {
        try database.execute(
            sql: """
                CREATE TABLE term (
                    term BLOB NOT NULL,
                    trail_index INTEGER NOT NULL,
                    time INTEGER NOT NULL,
                    PRIMARY KEY (term, trail_index)
                ) WITHOUT ROWID
                """)
    }

    /// Makes a record findable; in the transaction that gives its row the index.
    func insert(_ record: CaseRecord, of id: CaseID, in database: Database) throws {
        try insert(
            AuditQuery.terms(of: record, id).map { ($0.field.rawValue, $0.value) }, index: record.index,
            time: record.time, in: database)
    }

    package func insert(
        _ terms: [(field: String, value: String)], index: UInt64, time: Timestamp, in database: Database
    ) throws {
        let statement = try database.cachedStatement(sql: "INSERT OR IGNORE INTO term VALUES (?, ?, ?)")
        for (field, value) in terms + [Self.everything] {
            try statement.execute(arguments: [keyed(field, value), Int64(index), time.milliseconds])
        }
    }

    /// The trail indices of matching records, newest first, below `cursor`.
    /// - Parameter alsoRuns: runs whose every record answers the query's subject.
    package func find(
        _ query: AuditQuery, alsoRuns: [RunID], below cursor: UInt64?, limit: Int, in database: Database
    ) throws -> [UInt64] {
        var dimensions = query.conditions.map { field, value in
            let runs = field == .subject ? alsoRuns.map { keyed(AuditQuery.Field.run.rawValue, $0.text) } : []
            return [keyed(field.rawValue, value)] + runs
        }
        if dimensions.isEmpty { dimensions = [[keyed(Self.everything.field, Self.everything.value)]] }
        let counted = try dimensions.map { (terms: $0, count: try count($0, in: database)) }
        let ordered = counted.sorted { $0.count < $1.count }.map(\.terms)
        var arguments: [any DatabaseValueConvertible] = ordered[0]
        // One term's rows lie in the order of their index already.
        var sql =
            ordered[0].count == 1
            ? "SELECT a.trail_index FROM term a WHERE a.term = ?"
            : "SELECT DISTINCT a.trail_index FROM term a WHERE a.term IN (\(Self.marks(ordered[0].count)))"
        if let cursor {
            sql += " AND a.trail_index < ?"
            arguments.append(Int64(clamping: cursor))
        }
        if let from = query.from {
            sql += " AND a.time >= ?"
            arguments.append(from.milliseconds)
        }
        if let to = query.to {
            sql += " AND a.time <= ?"
            arguments.append(to.milliseconds)
        }
        for terms in ordered.dropFirst() {
            sql += """
                 AND EXISTS (SELECT 1 FROM term b WHERE b.term IN (\(Self.marks(terms.count)))
                 AND b.trail_index = a.trail_index)
                """
            arguments += terms
        }
        sql += " ORDER BY a.trail_index DESC LIMIT ?"
        arguments.append(limit)
        return try Int64.fetchAll(database, sql: sql, arguments: StatementArguments(arguments)).map { UInt64($0) }
    }

    private func count(_ terms: [Data], in database: Database) throws -> Int {
        try Int.fetchOne(
            database,
            sql: """
                SELECT count(*) FROM (
                    SELECT 1 FROM term WHERE term IN (\(Self.marks(terms.count))) LIMIT \(Self.countMax)
                )
                """, arguments: StatementArguments(terms)) ?? 0
    }

    private static func marks(_ count: Int) -> String { Array(repeating: "?", count: count).joined(separator: ",") }

    /// Every record has this term, so that a search by time alone reads the same narrow table.
    private static let everything = (field: "", value: "")

    private func keyed(_ field: String, _ value: String) -> Data {
        Data(key.tag(Array(field.utf8) + [0] + Array(value.utf8)).prefix(Self.termBytes))
    }
}
