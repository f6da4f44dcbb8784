import Foundation
import GRDB
import PolicyEngine
import Sealing
package import Vocabulary

package enum DraftNoun {}
package typealias DraftID = Identifier<DraftNoun>

/// A request that is being written: its writer's own, in whatever state they left it.
package struct Draft: Sendable, Equatable {
    package let id: DraftID
    /// From 1; grows with every change. Whoever saves says which one they changed.
    package let version: Int
    package let saved: Timestamp
    package let form: JSON

    package var revision: Revision { Revision(draft: version) }

    package static let perPersonMax = 20
    package static let bytesMax = 48 << 10
}

extension Gateway {
    /// Keeps a form as it is, however unfinished. Of two who saved the same version, the second is told; nothing is
    /// written over.
    ///
    /// - Parameters:
    ///   - id: `nil` makes a new draft.
    ///   - version: the version that was changed; `nil` writes over whatever there is.
    @discardableResult
    package func saveDraft(_ form: JSON, id: DraftID? = nil, ifVersion version: Int? = nil, by person: PersonID) throws
        -> Draft
    {
        try require(person, anyOf: [.researcher])
        guard form.objectValue != nil else {
            throw GatewayError(.usage, "a draft is an object, as the request form is")
        }
        guard form.canonical.count <= Draft.bytesMax else {
            throw GatewayError(.usage, "a draft has at most \(Draft.bytesMax) bytes")
        }
        let owner = desk.owner(person)
        let now = clock.now()
        return try desk.database.write { [desk] database in
            let row = try id.map { try Self.row($0, owner, database) }
            let next: Int
            if let row {
                let current: Int = row["version"]
                guard version == nil || version == current else { throw Self.draftChanged }
                next = current + 1
            } else {
                let count =
                    try Int.fetchOne(database, sql: "SELECT COUNT(*) FROM draft WHERE owner = ?", arguments: [owner])
                    ?? 0
                guard count < Draft.perPersonMax else {
                    throw GatewayError(
                        .usage, "there are \(Draft.perPersonMax) drafts of yours; file or discard one first")
                }
                next = 1
            }
            let draft = Draft(
                id: try id ?? DraftID(Hex.encode(RandomBytes.array(16))), version: next, saved: now, form: form)
            try database.execute(
                sql: "INSERT OR REPLACE INTO draft (id, owner, version, saved, sealed) VALUES (?, ?, ?, ?, ?)",
                arguments: [
                    draft.id.text, owner, draft.version, draft.saved.milliseconds,
                    desk.seal(form, at: Self.place(draft.id, owner, draft.version, draft.saved)),
                ])
            return draft
        }
    }

    /// One's own drafts, the latest first. Nobody else's are ever there.
    package func drafts(by person: PersonID) throws -> [Draft] {
        _ = try self.person(person)
        let owner = desk.owner(person)
        let drafts = try desk.database.read { [desk] database in
            try Row.fetchAll(
                database, sql: "SELECT * FROM draft WHERE owner = ? ORDER BY saved DESC, id", arguments: [owner]
            )
            .map { try Self.draft($0, owner, desk) }
        }
        // A crash may have come after one was filed and before it was cleared away.
        let filed = drafts.filter { ledger.index.request(filedUnder: Self.onceKey($0.id), by: person) != nil }
        for draft in filed { try remove(draft.id, owner) }
        return drafts.filter { draft in !filed.contains { $0.id == draft.id } }
    }

    package func draft(_ id: DraftID, by person: PersonID) throws -> Draft {
        guard let draft = try drafts(by: person).first(where: { $0.id == id }) else { throw Self.noDraft }
        return draft
    }

    package func discardDraft(_ id: DraftID, ifVersion version: Int? = nil, by person: PersonID) throws {
        let draft = try draft(id, by: person)
        guard version == nil || version == draft.version else { throw Self.draftChanged }
        try remove(id, desk.owner(person))
    }

    /// Files what a draft says; the draft is gone then. Asked again after a crash, it comes to the same request.
    package func fileDraft(_ id: DraftID, ifVersion version: Int? = nil, by person: PersonID) throws -> RequestID {
        if let request = ledger.index.request(filedUnder: Self.onceKey(id), by: person) {
            try remove(id, desk.owner(person))
            return request
        }
        let draft = try draft(id, by: person)
        guard version == nil || version == draft.version else { throw Self.draftChanged }
        let request = try fileRequest(draft.form.canonicalText, once: Self.onceKey(id), by: person)
        try remove(id, desk.owner(person))
        return request
    }

    private static func onceKey(_ id: DraftID) -> String { "draft:\(id)" }
    private static let noDraft = GatewayError(.notFound, "there is no such draft of yours")
    private static let draftChanged = GatewayError(
        .changed, "this draft was saved elsewhere since you opened it; nothing was written over")

    private func remove(_ id: DraftID, _ owner: Data) throws {
        try desk.database.write { database in
            try database.execute(sql: "DELETE FROM draft WHERE id = ? AND owner = ?", arguments: [id.text, owner])
        }
    }

    private static func row(_ id: DraftID, _ owner: Data, _ database: Database) throws -> Row {
        let row = try Row.fetchOne(
            database, sql: "SELECT * FROM draft WHERE id = ? AND owner = ?", arguments: [id.text, owner])
        guard let row else { throw noDraft }
        return row
    }

    private static func draft(_ row: Row, _ owner: Data, _ desk: DeskFile) throws -> Draft {
        let text: String = row["id"]
        let version: Int = row["version"]
        let saved = Timestamp(milliseconds: row["saved"])
        let id = try DraftID(text)
        return Draft(
            id: id, version: version, saved: saved,
            form: try desk.open(row["sealed"], at: place(id, owner, version, saved)))
    }

    /// A sealed draft cannot be given to another person, or be taken for another version.
    private static func place(_ id: DraftID, _ owner: Data, _ version: Int, _ saved: Timestamp) -> String {
        "draft/\(Hex.encode(owner))/\(id)/\(version)/\(saved.milliseconds)"
    }
}
