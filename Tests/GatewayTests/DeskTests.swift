import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Drafts, notices and messages: what lies on people's desks.
@Suite struct DeskTests {
    private static let form: JSON = ["dataset": "test:clinic", "project": "half a word"]

    // MARK: - Drafts

    @Test("a draft is its writer's own, survives a restart, and is on the disk in no readable form")
    func own() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let other = try PersonID("rei")
            try await enclave.gateway.addPerson(other, roles: [.researcher], by: enclave.operatorPerson)
            let before = try await enclave.gateway.auditList(nil, most: 1000, by: enclave.auditor).count
            let draft = try await enclave.gateway.saveDraft(Self.form, by: enclave.researcher)
            #expect(draft.version == 1)
            // Nothing of it is in the trail; looking at the trail is.
            #expect(try await enclave.gateway.auditList(nil, most: 1000, by: enclave.auditor).count <= before + 1)
            for person in [other, enclave.auditor, enclave.operatorPerson, enclave.custodian] {
                #expect(try await enclave.gateway.drafts(by: person).isEmpty)
                #expect(await refusal { _ = try await enclave.gateway.draft(draft.id, by: person) }?.code == .notFound)
                #expect(
                    await refusal { try await enclave.gateway.discardDraft(draft.id, by: person) }?.code == .notFound)
                do {
                    let code = await refusal {
                        try await enclave.gateway.saveDraft(Self.form, id: draft.id, by: person)
                    }?.code
                    #expect(code == .notFound || code == .refused)
                }
                do {
                    let code = await refusal { _ = try await enclave.gateway.fileDraft(draft.id, by: person) }?.code
                    #expect(code == .notFound || code == .refused)
                }
            }
            try await enclave.reopen()
            #expect(try await enclave.gateway.drafts(by: enclave.researcher) == [draft])
            for name in ["desk.db", "desk.db-wal"] {
                let bytes = (try? Data(contentsOf: enclave.home.appendingPathComponent(name))) ?? Data()
                #expect(bytes.range(of: Data("half a word".utf8)) == nil)
                #expect(bytes.range(of: Data("test:clinic".utf8)) == nil)
            }
        }
    }

    @Test("of two tabs that save the same version, the second is told and nothing is written over")
    func versions() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let first = try await gateway.saveDraft(Self.form, by: enclave.researcher)
            let second = try await gateway.saveDraft(
                ["project": "a"], id: first.id, ifVersion: 1, by: enclave.researcher)
            #expect(second.version == 2)
            let late = await refusal {
                try await gateway.saveDraft(["project": "b"], id: first.id, ifVersion: 1, by: enclave.researcher)
            }
            #expect(late?.code == .changed)
            #expect(
                await refusal { try await gateway.discardDraft(first.id, ifVersion: 1, by: enclave.researcher) }?.code
                    == .changed)
            #expect(
                await refusal { _ = try await gateway.fileDraft(first.id, ifVersion: 1, by: enclave.researcher) }?.code
                    == .changed)
            #expect(try await gateway.draft(first.id, by: enclave.researcher).form == ["project": "a"])
            try await gateway.discardDraft(first.id, ifVersion: 2, by: enclave.researcher)
            #expect(try await gateway.drafts(by: enclave.researcher).isEmpty)
        }
    }

    @Test("drafts are bounded in size and number, and only researchers write them")
    func bounds() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let long: JSON = ["project": .string(String(repeating: "x", count: Draft.bytesMax))]
            #expect(await refusal { try await gateway.saveDraft(long, by: enclave.researcher) }?.code == .usage)
            #expect(await refusal { try await gateway.saveDraft([], by: enclave.researcher) }?.code == .usage)
            #expect(await refusal { try await gateway.saveDraft([:], by: enclave.reviewer) }?.code == .refused)
            for _ in 0..<Draft.perPersonMax { try await gateway.saveDraft([:], by: enclave.researcher) }
            #expect(await refusal { try await gateway.saveDraft([:], by: enclave.researcher) }?.code == .usage)
        }
    }

    @Test("filing a draft consumes it, once, also where a crash came between")
    func filing() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let form = try JSON(parsing: Clinic.form)
            let unfinished = try await enclave.gateway.saveDraft(Self.form, by: enclave.researcher)
            #expect(
                await refusal { _ = try await enclave.gateway.fileDraft(unfinished.id, by: enclave.researcher) }?.code
                    == .usage)
            #expect(try await enclave.gateway.drafts(by: enclave.researcher) == [unfinished])
            let draft = try await enclave.gateway.saveDraft(form, by: enclave.researcher)
            // As if the process had ended before the draft was cleared away.
            let request = try await enclave.gateway.fileRequest(
                Clinic.form, once: "draft:\(draft.id)", by: enclave.researcher)
            try await enclave.reopen()
            #expect(try await enclave.gateway.fileDraft(draft.id, by: enclave.researcher) == request)
            #expect(try await enclave.gateway.drafts(by: enclave.researcher) == [unfinished])
            #expect(try await enclave.gateway.requests(PageRequest(), by: enclave.researcher).items.count == 1)
        }
    }

    @Test("a row of the desk that was changed or moved does not open")
    func tampered() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let draft = try await enclave.gateway.saveDraft(Self.form, by: enclave.researcher)
            enclave.drop()
            try SQLite.execute(
                "UPDATE draft SET version = version + 1", on: enclave.home.appendingPathComponent("desk.db"))
            try await enclave.open()
            #expect(
                await refusal { _ = try await enclave.gateway.draft(draft.id, by: enclave.researcher) }?.code
                    == .integrity)
        }
    }

    // MARK: - Notices

    private func codes(_ enclave: Enclave, _ person: PersonID) async throws -> [String] {
        try await enclave.gateway.notices(PageRequest(order: .oldest), by: person).items.map(\.code.rawValue)
    }

    @Test("people are told what concerns them, once, also over a restart, and nobody reads another's notices")
    func notices() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let rei = try PersonID("rei")
            try await enclave.gateway.addPerson(rei, roles: [.researcher], by: enclave.operatorPerson)
            let form = Clinic.form.replacing("{\"dataset\"", with: "{\"people\":[\"rei\"],\"dataset\"")
            let id = try await enclave.gateway.fileRequest(form, by: enclave.researcher)
            _ = try await enclave.gateway.advance(id)
            #expect(try await codes(enclave, enclave.reviewer) == ["review-wanted"])
            #expect(try await codes(enclave, rei) == ["named-on-request"])
            #expect(try await codes(enclave, enclave.researcher).isEmpty)
            #expect(try await codes(enclave, enclave.operatorPerson).isEmpty)
            for person in [enclave.reviewer, enclave.custodian] {
                try await enclave.gateway.review(id, .approve, comment: "", by: person)
            }
            _ = try await enclave.gateway.advance(id)
            try await enclave.reopen()
            #expect(try await codes(enclave, enclave.researcher) == ["request-granted"])
            #expect(try await codes(enclave, rei) == ["named-on-request", "request-granted"])
            let mine = try await enclave.gateway.notices(PageRequest(order: .oldest), by: rei).items
            #expect(enclave.gateway.unreadNotices(of: rei) == 2)
            try await enclave.gateway.readNotices(upTo: mine[0].id, by: rei)
            #expect(enclave.gateway.unreadNotices(of: rei) == 1)
            #expect(enclave.gateway.unreadNotices(of: enclave.researcher) == 1)
            // The grant ends in six months; a month before, its people are told, once.
            enclave.clock.advance(days: 160)
            #expect(try await codes(enclave, enclave.researcher).last == "grant-expiring")
            enclave.clock.advance(days: 2)
            #expect(try await codes(enclave, enclave.researcher).count == 2)
        }
    }

    @Test("a person's notices are bounded; the oldest go")
    func bounded() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            for _ in 0..<(Notice.perPersonMax + 5) {
                let id = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
                _ = try await gateway.advance(id)
            }
            let latest = CaseID.request(try RequestID("request-205"))
            let page = try await gateway.notices(PageRequest(limit: 200), by: enclave.reviewer)
            #expect(
                page.items.count == Notice.perPersonMax
                    && page.items[0].subject == latest)
        }
    }

    // MARK: - Messages

    @Test(
        "a real program gets each message on its input, as an id and a code; one that fails is tried again, boundedly")
    func program() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let got = enclave.folder.appendingPathComponent("got")
            let failing = enclave.folder.appendingPathComponent("failing")
            let program = enclave.folder.appendingPathComponent("send")
            try Data(
                "#!/bin/sh\n[ -e '\(failing.path)' ] && exit 1\ncat >> '\(got.path)'; echo >> '\(got.path)'\n".utf8
            )
            .write(to: program)
            #expect(await refusal { try await gateway.setMailHook(.program(program)) }?.code == .usage)
            try FileManager.default.setAttributes([.posixPermissions: 0o700], ofItemAtPath: program.path)
            try await gateway.setMailHook(.program(program))
            let id = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(id)
            try await gateway.sendMail()
            let lines = try String(contentsOf: got, encoding: .utf8).split(separator: "\n")
            let messages = try lines.map { try JSON(parsing: String($0)) }
            #expect(Set(messages.compactMap { $0["recipient"]?.stringValue }) == ["dai", "chika", "mika"])
            #expect(messages.allSatisfy { $0["template"] == "review-wanted" && $0.objectValue?.count == 3 })
            let sent = try await gateway.mailState()
            #expect(sent.waiting == 0 && sent.lost == 0)

            try Data().write(to: failing)
            try await gateway.withdrawRequest(id, by: enclave.researcher)
            let second = try await gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await gateway.advance(second)
            // Whatever the program does, decisions go on.
            for person in [enclave.reviewer, enclave.custodian] {
                try await gateway.review(second, .approve, comment: "", by: person)
            }
            #expect(try await gateway.advance(second) != .withdrawn)
            let waiting = try await gateway.mailState().waiting
            #expect(waiting > 0)
            for _ in 0..<6 {
                try await gateway.sendMail()
                enclave.clock.advance(days: 1)
            }
            let state = try await gateway.mailState()
            #expect(state.waiting == 0 && state.lost == waiting, "\(state)")
            #expect(try String(contentsOf: got, encoding: .utf8).split(separator: "\n").count == 3)
        }
    }

    @Test("a program that does not end is ended")
    func hanging() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let program = enclave.folder.appendingPathComponent("hang")
            try Data("#!/bin/sh\nexec sleep 1000\n".utf8).write(to: program)
            try FileManager.default.setAttributes([.posixPermissions: 0o700], ofItemAtPath: program.path)
            try await enclave.gateway.setMailHook(.program(program))
            let id = try await enclave.gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await enclave.gateway.advance(id)
            let waiting = try await enclave.gateway.mailState().waiting
            try await enclave.gateway.sendMail(secondsMax: 0)
            let state = try await enclave.gateway.mailState()
            #expect(state.waiting == waiting && state.lost == 0)
        }
    }

    @Test("messages may go to a folder instead")
    func spool() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let folder = enclave.folder.appendingPathComponent("spool")
            #expect(await refusal { try await enclave.gateway.setMailHook(.spool(folder)) }?.code == .usage)
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try await enclave.gateway.setMailHook(.spool(folder))
            let id = try await enclave.gateway.fileRequest(Clinic.form, by: enclave.researcher)
            _ = try await enclave.gateway.advance(id)
            try await enclave.gateway.sendMail()
            let files = try FileManager.default.contentsOfDirectory(atPath: folder.path).filter {
                $0.hasSuffix(".json")
            }
            #expect(files.count == 3)
        }
    }
}
