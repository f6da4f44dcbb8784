import AuditTrail
import Foundation
import GRDB
import PolicyEngine
package import Vocabulary

/// Something that a person should look at: which case, and what about it. It says no more than a record says, and is
/// made from that record alone.
package struct Notice: Sendable, Equatable {
    /// Also the template of a message that goes out.
    package enum Code: String, CaseIterable, Sendable {
        case reviewWanted = "review-wanted"
        case named = "named-on-request"
        case granted = "request-granted"
        case refused = "request-refused"
        case withdrawn = "request-withdrawn"
        case expiring = "grant-expiring"
        case closureWanted = "closure-wanted"
        case closed = "request-closed"
        case releaseReviewWanted = "release-review-wanted"
        case releaseDecided = "release-decided"
        case runEnded = "run-ended"
    }

    /// Grows with every notice of this home.
    package let id: Int64
    package let code: Code
    package let subject: CaseID
    package let time: Timestamp
    package let isRead: Bool

    /// The oldest go when there are more.
    package static let perPersonMax = 200
    /// How long before its end a grant's holder is told.
    static let expiringSeconds: Int64 = 30 * 86_400
}

extension Gateway {
    /// One's own notices.
    package func notices(_ page: PageRequest, by person: PersonID) throws -> Page<Notice> {
        _ = try self.person(person)
        try tellPeople()
        let owner = desk.owner(person)
        let all = try desk.database.read { [desk] database in
            try Row.fetchAll(database, sql: "SELECT * FROM notice WHERE owner = ? ORDER BY id", arguments: [owner])
                .compactMap { row -> Notice? in
                    let (id, time): (Int64, Int64) = (row["id"], row["time"])
                    let json = try desk.open(row["sealed"], at: Self.place(owner, time))
                    guard let code = json["code"]?.stringValue.flatMap(Notice.Code.init),
                        let subject = json["case"]?.stringValue.flatMap(CaseID.init)
                    else { return nil }
                    return Notice(
                        id: id, code: code, subject: subject, time: Timestamp(milliseconds: time),
                        isRead: row["read"] != 0)
                }
        }
        return try Page(page, of: .notices, all, place: \.id) { $0 }
    }

    /// Marks one's own notices as read, up to this one.
    package func readNotices(upTo id: Int64, by person: PersonID) throws {
        _ = try self.person(person)
        let owner = desk.owner(person)
        try desk.database.write { database in
            try database.execute(
                sql: "UPDATE notice SET read = 1 WHERE owner = ? AND id <= ?", arguments: [owner, id])
        }
    }

    /// How many of one's notices are unread; asked on every page, without waiting for the gateway.
    package nonisolated func unreadNotices(of person: PersonID) -> Int {
        let owner = desk.owner(person)
        let count = try? desk.database.read { database in
            try Int.fetchOne(
                database, sql: "SELECT COUNT(*) FROM notice WHERE owner = ? AND read = 0", arguments: [owner])
        }
        return (count ?? nil) ?? 0
    }

    private static func place(_ owner: Data, _ time: Int64) -> String { "notice/\(Hex.encode(owner))/\(time)" }
}

// MARK: - From records to notices

extension Gateway {
    private static let recordsAtOnce = 2000
    private static let recipientsMax = 500
    private static let lookSeconds: Int64 = 3600

    /// Tells people of what was recorded since they were last told. Which record was the last is written with the notices,
    /// so that a crash tells nobody twice and leaves nobody out.
    func tellPeople() throws {
        let next = try desk.mark("told") ?? 0
        let records = ledger.records
        let start = records.partitionPoint { $0.index >= UInt64(clamping: next) }
        let fresh = records[start...].prefix(Self.recordsAtOnce)
        let now = clock.now()
        var told: [(PersonID, Notice.Code, CaseID, Timestamp)] = []
        for record in fresh {
            guard let id = caseOf(record) else { continue }
            for (person, code) in recipients(of: record, in: id) { told.append((person, code, id, record.time)) }
        }
        var once: [String] = []
        let looked = try desk.mark("looked") ?? 0
        let looks = now.milliseconds - looked >= Self.lookSeconds * 1000
        if looks {
            for (grant, request) in try grantsExpiring(by: now.adding(seconds: Notice.expiringSeconds)) {
                guard try desk.mark("expiring/\(grant.id)") == nil else { continue }
                once.append("expiring/\(grant.id)")
                for person in [request.requester] + request.people {
                    told.append((person, .expiring, .request(request.id), now))
                }
            }
        }
        guard let last = fresh.last?.index ?? (looks ? UInt64(clamping: next) &- 1 : nil) else { return }
        let sends = mailHook != nil
        try desk.database.write { [desk, told, once] database in
            for (person, code, id, time) in told {
                let owner = desk.owner(person)
                try database.execute(
                    sql: "INSERT INTO notice (owner, time, read, sealed) VALUES (?, ?, 0, ?)",
                    arguments: [
                        owner, time.milliseconds,
                        desk.seal(
                            ["code": .string(code.rawValue), "case": .string(id.description)],
                            at: Self.place(owner, time.milliseconds)),
                    ])
                if sends { try desk.queue(code, to: person, notice: database.lastInsertedRowID, now: now, database) }
            }
            for owner in Set(told.map { desk.owner($0.0) }) {
                try database.execute(
                    sql: """
                        DELETE FROM notice WHERE owner = ? AND id <=
                        (SELECT id FROM notice WHERE owner = ? ORDER BY id DESC LIMIT 1 OFFSET ?)
                        """, arguments: [owner, owner, Notice.perPersonMax])
            }
            for name in once { try DeskFile.set(name, to: 1, database) }
            if looks { try DeskFile.set("looked", to: now.milliseconds, database) }
            try DeskFile.set("told", to: Int64(clamping: last &+ 1), database)
        }
    }

    private func caseOf(_ record: CaseRecord) -> CaseID? {
        if let request = record.detail["request"]?.stringValue.flatMap({ try? RequestID($0) }),
            record.event != .trailRead
        {
            return .request(request)
        }
        return record.core["run"]?.stringValue.flatMap { try? RunID($0) }.map { .run($0) }
    }

    /// Whom a record concerns, and as what.
    private func recipients(of record: CaseRecord, in id: CaseID) -> [(PersonID, Notice.Code)] {
        switch id {
        case .gateway: return []
        case .request(let id):
            guard let request = try? accessRequest(id) else { return [] }
            let askers = [request.requester] + request.people
            func reviewers(_ code: Notice.Code) -> [(PersonID, Notice.Code)] {
                holders(of: (try? approvals(request))?.roles ?? [], but: askers).map { ($0, code) }
            }
            switch record.event {
            case .requestFiled: return request.people.map { ($0, .named) }
            case .accessDecided where record.key == AccessRequest.Key.waiting: return reviewers(.reviewWanted)
            case .accessDecided where record.outcome == .refused: return askers.map { ($0, .refused) }
            case .grantIssued: return askers.map { ($0, .granted) }
            case .requestWithdrawn: return (request.people + request.votes.map(\.person)).map { ($0, .withdrawn) }
            case .requestClosing: return reviewers(.closureWanted)
            case .requestClosed: return askers.map { ($0, .closed) }
            default: return []
            }
        case .run(let id):
            guard let run = try? runCase(id) else { return [] }
            switch record.event {
            case .releaseChecked:
                let roles = (try? policy(for: run.dataset))?.release.roles.value ?? []
                return holders(of: roles, but: [run.researcher]).map { ($0, .releaseReviewWanted) }
            case .releaseDecided: return [(run.researcher, .releaseDecided)]
            case .runClosed where !run.isReleased: return [(run.researcher, .runEnded)]
            default: return []
            }
        }
    }

    private func holders(of roles: [String], but excluded: [PersonID]) -> [PersonID] {
        let holders = people.values.filter { person in
            person.roles.contains { roles.contains($0.rawValue) } && !excluded.contains(person.id)
        }
        return holders.map(\.id).sorted().prefix(Self.recipientsMax).map { $0 }
    }

    private func grantsExpiring(by end: Timestamp) throws -> [(Grant, AccessRequest)] {
        try ledger.index.granted.compactMap { id in
            let request = try accessRequest(id)
            guard !request.breaksGlass, lifeState(of: request) == .granted, let grant = try grant(of: request),
                grant.expires <= end
            else { return nil }
            return (grant, request)
        }
    }
}

extension DeskFile {
    /// A number that is kept under a name.
    func mark(_ name: String) throws -> Int64? {
        try database.read { try Int64.fetchOne($0, sql: "SELECT value FROM mark WHERE name = ?", arguments: [name]) }
    }

    static func set(_ name: String, to value: Int64, _ database: Database) throws {
        try database.execute(sql: "INSERT OR REPLACE INTO mark (name, value) VALUES (?, ?)", arguments: [name, value])
    }

    /// A new desk tells of what happens from here on, not of what happened before there was one.
    func begin(at next: UInt64) throws {
        guard try mark("told") == nil else { return }
        try database.write { try Self.set("told", to: Int64(clamping: next), $0) }
    }
}
