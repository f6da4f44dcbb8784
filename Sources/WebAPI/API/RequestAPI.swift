import Gateway
import Vocabulary

// What becomes of a request beside its reviews: drafts, change, renewal, papers, its end; the data set's own form; and
// the notices that tell people of it.

extension API {
    func requestLife(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        switch call.route {
        case .apiDrafts, .apiDraftCreate, .apiDraft, .apiDraftSave, .apiDraftDiscard, .apiDraftFile:
            return try await drafts(call, person)
        case .apiRequestMatrix:
            try call.expectNoQuery()
            return APIReply(json: ["cells": RequestLife.json])
        case .apiFormSchema:
            try call.expectNoQuery()
            return APIReply(json: Gateway.formSchema)
        case .apiDatasetForm:
            try call.expectNoQuery()
            let dataset: DatasetID = try call.id("dataset")
            guard let form = try await gateway.formJSON(of: dataset, by: person) else {
                throw Problem.notFound("the data set asks for no form of its own")
            }
            return APIReply(json: form)
        case .apiNotices:
            var query = try Fields(query: call.query)
            let page = try query.page()
            try query.finish()
            return APIReply(json: try await gateway.notices(page, by: person).json(\.json))
        case .apiNoticesRead:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let last = try fields.number("up_to", in: 0...JSON.integerMax)
            try fields.finish()
            try await gateway.readNotices(upTo: last, by: person)
            return APIReply(json: ["unread": .integer(Int64(gateway.unreadNotices(of: person)))])
        default: return try await requestAct(call, person)
        }
    }

    private func requestAct(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        try call.expectNoQuery()
        let id: RequestID = try call.id("request")
        var fields = try Fields(body: call.body)
        switch call.route {
        case .apiRequestWithdraw:
            let reason = try fields.optionalText("reason", lengthMax: 1000) ?? ""
            try fields.finish()
            try await gateway.withdrawRequest(id, reason: reason, ifStill: call.ifRevision, by: person)
        case .apiRequestAmend:
            guard let form = call.body else { throw Problem.invalid("The body is missing; it is the request form.") }
            return try await followed(
                gateway.amendRequest(id, form: form.canonicalText, once: call.onceKey, by: person), person)
        case .apiRequestRenew:
            let months = try fields.number("termMonths", in: 1...1200)
            let documents = try fields.documents("documents")
            try fields.finish()
            return try await followed(
                gateway.renewRequest(
                    id, termMonths: Int(months), documents: documents, once: call.onceKey, by: person), person)
        case .apiRequestDocument:
            let document = try Fields.document(call.body ?? .object([:]), at: "document")
            try await gateway.addDocument(document, to: id, by: person)
        case .apiRequestClose:
            let report = try fields.text("report", lengthMax: 1000)
            let confirmed = try fields.optionalBool("confirmed") ?? false
            try fields.finish()
            try await gateway.closeOut(id, report: report, confirmed: confirmed, by: person)
        default:
            let comment = try fields.optionalText("comment", lengthMax: 1000) ?? ""
            try fields.finish()
            try await gateway.confirmClosure(id, comment: comment, by: person)
        }
        return try await request(id, person)
    }

    private func followed(_ id: RequestID, _ person: PersonID) async throws -> APIReply {
        _ = try await gateway.advance(id)
        var reply = try await request(id, person, status: 201)
        reply.location = APICall(.apiRequest, path: ["request": id.text]).target
        return reply
    }

    private func drafts(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        try call.expectNoQuery()
        let version = try call.draftVersion
        switch call.route {
        case .apiDrafts:
            return APIReply(json: ["drafts": .array(try await gateway.drafts(by: person).map(\.json))])
        case .apiDraftCreate: return try await draft(201, gateway.saveDraft(call.draftForm, by: person))
        case .apiDraft: return try await draft(200, gateway.draft(call.id("draft"), by: person))
        case .apiDraftSave:
            return try await draft(
                200, gateway.saveDraft(call.draftForm, id: call.id("draft"), ifVersion: version, by: person))
        case .apiDraftDiscard:
            try Fields(body: call.body).finish()
            try await gateway.discardDraft(call.id("draft"), ifVersion: version, by: person)
            return APIReply(204, .nothing)
        default:
            try Fields(body: call.body).finish()
            return try await followed(gateway.fileDraft(call.id("draft"), ifVersion: version, by: person), person)
        }
    }

    private func draft(_ status: Int, _ draft: Draft) -> APIReply {
        var reply = APIReply(status, json: draft.json)
        reply.revision = draft.revision
        if status == 201 { reply.location = APICall(.apiDraft, path: ["draft": draft.id.text]).target }
        return reply
    }
}

extension APICall {
    /// The draft's version in `If-Match`, as `Draft.revision` writes it.
    fileprivate var draftVersion: Int? {
        get throws(Problem) {
            guard let ifRevision else { return nil }
            guard ifRevision.hasPrefix("draft-"), let version = Int(ifRevision.dropFirst("draft-".count)) else {
                throw Problem(
                    status: 412, code: "changed", title: "It has changed",
                    detail: "'If-Match' is not an entity tag of a draft. Nothing was done.")
            }
            return version
        }
    }

    fileprivate var draftForm: JSON {
        get throws(Problem) {
            guard let body, body.objectValue != nil else {
                throw .invalid("The body is not a JSON object; a draft is the request form, however unfinished.")
            }
            return body
        }
    }
}

extension Fields {
    /// A document as far as its form goes; what it says, the gateway looks at.
    fileprivate static func document(_ json: JSON, at place: String) throws(Problem) -> JSON {
        guard let members = json.objectValue, Set(members.keys).isSubset(of: ["kind", "digest", "expires", "name"]),
            members["kind"]?.stringValue.flatMap({ try? DatasetID($0) }) != nil,
            members["digest"]?.stringValue.flatMap({ Digest(hex: $0) }) != nil,
            members["expires"].map({ $0.stringValue != nil }) ?? true,
            members["name"].map({ $0.stringValue.map { (1...200).contains($0.unicodeScalars.count) } ?? false }) ?? true
        else { throw fault(place, "is not a document with kind, digest and perhaps expires and name") }
        return json
    }

    fileprivate mutating func documents(_ name: String) throws(Problem) -> JSON {
        guard let value = json(name) else { return [] }
        guard let values = value.arrayValue, values.count <= 100 else {
            throw Self.fault(name, "is not a list of at most 100 documents")
        }
        for (number, value) in values.enumerated() { _ = try Self.document(value, at: "\(name)[\(number)]") }
        return value
    }

    /// What an approval is given under, as far as its form goes.
    mutating func conditions(_ name: String) throws(Problem) -> JSON {
        guard let value = json(name) else { return [] }
        guard let values = value.arrayValue, values.count <= 16 else {
            throw Self.fault(name, "is not a list of at most 16 conditions")
        }
        for (number, value) in values.enumerated() {
            guard let members = value.objectValue, Set(members.keys) == ["code", "value"],
                let code = members["code"]?.stringValue, KnownName.conditions.contains(code),
                let text = members["value"]?.stringValue, (1...1000).contains(text.unicodeScalars.count)
            else { throw Self.fault("\(name)[\(number)]", "is not a condition with code and value") }
        }
        return value
    }

    fileprivate mutating func number(_ name: String, in range: ClosedRange<Int64>) throws(Problem) -> Int64 {
        guard let number = try optionalNumber(name, in: range) else { throw Self.fault(name, "is missing") }
        return number
    }
}

extension Draft {
    var json: JSON {
        [
            "draft": .string(id.text), "version": .integer(Int64(version)), "saved": .string(saved.description),
            "form": form,
        ]
    }
}

extension Notice {
    var json: JSON {
        [
            "notice": .integer(id), "code": .string(code.rawValue), "about": .string(subject.description),
            "time": .string(time.description), "read": .bool(isRead),
        ]
    }
}
