import Foundation
import GRDB

/// Changes a database file as somebody with the disk could.
enum SQLite {
    static func execute(_ sql: String, on file: URL) throws {
        let database = try DatabaseQueue(path: file.path)
        try database.write { try $0.execute(sql: sql) }
        try database.close()
    }
}
