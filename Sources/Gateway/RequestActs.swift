import AuditTrail
package import PolicyEngine
import Sealing
package import Vocabulary

// What becomes of a request beside its reviews and its decision: taken back, changed, renewed, added to, ended. What
// may be done when and by whom is `RequestLife`; everything here asks it first.

// MARK: - What the records say

extension AccessRequest {
    /// The granted request that this one would change or renew.
    struct Follows: Equatable {
        enum Kind: String { case amends, renews }

        let kind: Kind
        let request: RequestID

        init(_ kind: Kind, _ request: RequestID) {
            self.kind = kind
            self.request = request
        }

        init?(_ filed: CaseRecord) {
            for kind in [Kind.amends, .renews] {
                guard let id = filed.detail[kind.rawValue]?.stringValue.flatMap({ try? RequestID($0) }) else {
                    continue
                }
                self.init(kind, id)
                return
            }
            return nil
        }

        func write(into detail: inout [String: JSON]) { detail[kind.rawValue] = .string(request.text) }
    }

    static func people(in form: JSON?) -> [PersonID] {
        (form?["people"]?.arrayValue ?? []).compactMap { $0.stringValue.flatMap { try? PersonID($0) } }
    }

    /// Who else would use the data.
    var people: [PersonID] { Self.people(in: form) }

    var follows: Follows? { file[Key.filed].flatMap { Follows($0) } }

    /// What was handed in with the form, and what was added since.
    var documents: [AccessQuestion.Document] {
        let added = file.records.filter { $0.event == .documentAdded }.compactMap { $0.payload["document"] }
        return ((form["documents"]?.arrayValue ?? []) + added).compactMap { try? AccessQuestion.Document(json: $0) }
    }
}

/// A text that somebody agreed to, kept as it stood: whatever becomes of policy or form, this is what was agreed.
struct AgreedText {
    /// A DUO code, a field of the data set's form, or `notice`.
    let about: String
    let text: String

    init(_ about: String, _ text: String) {
        self.about = about
        self.text = text
    }

    /// The texts into the case record, their hashes into the trail.
    static func write(_ texts: [AgreedText], into event: inout Event) {
        guard !texts.isEmpty else { return }
        let hashes = texts.map { SHA256.hash($0.text).hex }
        event.detail["texts"] = .string(SHA256.hash(hashes.joined(separator: "\n")).hex)
        event.payload["texts"] = .array(
            zip(texts, hashes).map {
                ["about": .string($0.about), "text": .string($0.text), "sha256": .string($1)]
            })
    }
}

// MARK: - State and standing

extension Gateway {
    /// Where a request is, at this moment.
    func lifeState(of request: AccessRequest) -> RequestLife.State {
        typealias Key = AccessRequest.Key
        if request.file[Key.closed] != nil { return .closed }
        if request.file[Key.closing] != nil { return .closing }
        if request.file[Key.withdrawn] != nil { return .withdrawn }
        switch request.finalDecision {
        case nil: return .waiting
        case .refused: return .refused
        case .granted:
            if superseded(request) != nil { return .superseded }
            guard let held = try? grant(of: request) else { return .expired }
            if revocation(of: held) != nil { return .revoked }
            return held.expires <= clock.now() ? .expired : .granted
        }
    }

    /// When another grant took this one's place.
    private func superseded(_ request: AccessRequest) -> Timestamp? {
        ledger.index.followers(of: request.id).lazy
            .compactMap { self.ledger.file(.request($0))[AccessRequest.Key.granted]?.time }.first
    }

    /// When a grant ended before its time; `nil` where it did not.
    func ended(_ request: AccessRequest) -> Timestamp? {
        [superseded(request), request.file[AccessRequest.Key.closing]?.time].compactMap { $0 }.min()
    }

    /// How somebody stands to a request. `Ann` is not another person than `ann`.
    func lifeStanding(of person: PersonRecord, on request: AccessRequest) -> RequestLife.Standing {
        func same(_ other: PersonID) -> Bool { other.text.lowercased() == person.id.text.lowercased() }
        if same(request.requester) { return .requester }
        if request.people.contains(where: same) { return .colleague }
        let roles = (try? approvals(request))?.roles ?? []
        if person.roles.contains(where: { roles.contains($0.rawValue) }) {
            return request.file[AccessRequest.Key.reviewed(person.id)] == nil ? .reviewer : .spoken
        }
        if !person.roles.isDisjoint(with: Self.caseReaders) { return .reader }
        // In an emergency others are named; whoever reviews these data may look at it still, and somebody must.
        var readers = (try? policy(for: request.dataset))?.access.approvals.value.roles ?? []
        if request.breaksGlass { readers += Self.emergencyReviewers.map(\.rawValue) }
        return person.roles.contains { readers.contains($0.rawValue) } ? .reader : .outsider
    }

    /// What somebody may do with a request now.
    func actions(on request: AccessRequest, by person: PersonRecord) -> [RequestLife.Action] {
        let (state, standing) = (lifeState(of: request), lifeStanding(of: person, on: request))
        return RequestLife.Action.allCases.filter { action in
            guard case .allowed = RequestLife.answer(state, standing, action) else { return false }
            return !request.breaksGlass || ![.amend, .renew].contains(action)
        }
    }

    /// What somebody may do with a request now; nothing where they may not see it.
    package func requestActions(_ id: RequestID, by person: PersonID) throws -> [RequestLife.Action] {
        actions(on: try accessRequest(id), by: try self.person(person))
    }

    private func require(_ action: RequestLife.Action, on request: AccessRequest, by person: PersonID) throws {
        let state = lifeState(of: request)
        switch RequestLife.answer(state, lifeStanding(of: try self.person(person), on: request), action) {
        case .allowed: return
        case .refused(.hidden): throw GatewayError(.notFound, "there is no request \(request.id)")
        case .refused(.standing):
            throw GatewayError(.refused, "\(action.rawValue) is not for \(person) to do with request \(request.id)")
        case .refused(.state):
            throw GatewayError(
                .usage, "request \(request.id) is \(state.rawValue); \(action.rawValue) is not for it now")
        }
    }

    /// Whether somebody may start a run under a grant. One that has expired or was revoked is told by the run's own
    /// decision, which is recorded with its reasons.
    func requireUse(of grant: Grant, by person: PersonID) throws {
        let request = try accessRequest(grant.request)
        let state = lifeState(of: request)
        guard lifeStanding(of: try self.person(person), on: request) != .outsider else {
            throw GatewayError(.notFound, "there is no grant \(grant.id)")
        }
        guard state != .expired, state != .revoked else { return }
        try require(.use, on: request, by: person)
    }

    /// What would change or renew a grant goes on only while that grant is one.
    func checkBase(of request: AccessRequest) throws {
        guard let base = try request.follows.map({ try accessRequest($0.request) }) else { return }
        let state = lifeState(of: base)
        guard state == .granted || state == .expired else {
            throw GatewayError(
                .refused, "request \(base.id), which \(request.id) would follow, is \(state.rawValue); ask anew")
        }
    }

    /// The least of what was asked for and what the reviewers agreed to.
    static func monthsGranted(_ term: Int, _ obligations: [Obligation]) -> Int {
        obligations.filter { $0.code == .monthsMax && $0.isCondition }.compactMap { Int($0.value) }.reduce(term, min)
    }
}

// MARK: - What a request may say

extension Gateway {
    private static let peopleMax = 32
    /// A document that is said to hold for longer is a slip of the pen.
    private static let documentMonthsMax = 1200

    private static func wrong(_ place: String, _ reason: String) -> GatewayError {
        GatewayError(.usage, "the request form is not valid: \(place): \(reason)")
    }

    /// Everybody named is known here, once, in the spelling that they are known by.
    func checkPeople(of question: AccessQuestion) throws {
        guard question.people.count <= Self.peopleMax else {
            throw Self.wrong("people", "must be at most \(Self.peopleMax)")
        }
        var seen: Set<String> = [question.requester.text.lowercased()]
        for (number, id) in question.people.enumerated() {
            let place = "people[\(number)]"
            guard let known = directory.person(id) else {
                if let other = namesake(of: id) {
                    throw Self.wrong(place, "differs from \(other) only in letter case; write \(other)")
                }
                throw Self.wrong(place, "is not known here; an operator adds people")
            }
            guard known.roles.contains(.researcher) else { throw Self.wrong(place, "is no researcher here") }
            guard seen.insert(id.text.lowercased()).inserted else {
                throw Self.wrong(place, id == question.requester ? "is the requester" : "is named twice")
            }
        }
    }

    func checkDocuments(of question: AccessQuestion) throws {
        for (number, document) in question.documents.enumerated() {
            try Self.check(document, at: "documents[\(number)]", now: question.now)
        }
    }

    private static func check(_ document: AccessQuestion.Document, at place: String, now: Timestamp) throws {
        guard let expires = document.expires else { return }
        guard expires > now else { throw wrong("\(place).expires", "is in the past") }
        guard now.adding(months: documentMonthsMax).map({ expires < $0 }) ?? false else {
            throw wrong("\(place).expires", "is more than \(documentMonthsMax / 12) years away")
        }
    }

    /// Holds the answers to the data set's own form, in the version that they say they answer.
    ///
    /// - Returns: every text that the requester agreed to.
    func checkAnswers(_ form: JSON, of question: AccessQuestion) throws -> [AgreedText] {
        let codes = question.agreements.map { AgreedText($0, DUO(rawValue: $0)?.label ?? $0) }
        guard let version = try policies().forms[question.dataset] else {
            guard form["answers"] == nil, form["form"] == nil else {
                throw Self.wrong("answers", "the data set asks for no form")
            }
            return codes
        }
        // Nobody has the time for it in an emergency; what policy asks for then is asked as ever.
        if question.breakGlass != nil, form["answers"] == nil, form["form"] == nil { return codes }
        guard let named = form["form"]?.stringValue.flatMap({ Digest(hex: $0) }) else {
            throw Self.wrong("form", "must be the digest of the form that is answered; the data set has one")
        }
        guard named == version.digest else {
            throw GatewayError(.changed, "the data set's form has changed since you read it; read it again, then file")
        }
        let faults = version.form.faults(in: form["answers"] ?? .object([:]), now: question.now)
        guard faults.isEmpty else {
            throw Self.wrong(
                faults[0].description.split(separator: ":")[0].description,
                faults.prefix(20).map { "\($0.field) \($0.text)" }.joined(separator: "; "))
        }
        return codes
            + version.form.fields.compactMap { field in
                guard case .boolean(mustBeTrue: true) = field.kind else { return nil }
                return AgreedText("answers.\(field.id)", field.label.english)
            }
    }

    /// The data set's own form as it stands; `nil` where it asks for none.
    package func dataForm(of dataset: DatasetID, by person: PersonID) throws -> DataForm.Version? {
        _ = try self.person(person)
        return try policies().forms[dataset]
    }

    func check(_ conditions: [Condition], _ verdict: Verdict, on request: AccessRequest) throws {
        guard conditions.isEmpty || verdict == .approve else {
            throw GatewayError(.usage, "a rejection has no conditions")
        }
        guard conditions.count <= Condition.perVoteMax else {
            throw GatewayError(.usage, "an approval has at most \(Condition.perVoteMax) conditions")
        }
        guard conditions.isEmpty || !request.breaksGlass else {
            throw GatewayError(.usage, "emergency access is approved as it was asked for, or not at all")
        }
        let country = request.form["country"]?.stringValue
        for condition in conditions where condition.kind == .regions {
            guard let country, condition.value.split(separator: " ").contains(Substring(country)) else {
                throw GatewayError(
                    .usage, "the request is for use in another place than the condition allows; reject it instead")
            }
        }
    }
}

// MARK: - The acts

extension Gateway {
    /// Takes back a request that nobody has decided yet.
    package func withdrawRequest(
        _ id: RequestID, reason: String = "", ifStill revision: String? = nil, by person: PersonID
    ) throws {
        let request = try accessRequest(id)
        try require(.withdraw, on: request, by: person)
        try require(request.file, toBe: revision)
        guard reason.utf8.count <= 4096 else { throw GatewayError(.usage, "a reason has at most 4096 bytes") }
        try ledger.record(
            Event(.requestWithdrawn, .done).with {
                $0.actor = person
                $0.dataset = request.dataset
                if !reason.isEmpty { $0.payload = ["reason": .string(reason)] }
            }, in: .request(id), key: AccessRequest.Key.withdrawn)
    }

    /// Asks for something else than was granted: a request of its own, with reviews and a decision of its own. The grant
    /// stands as it is until the amendment is granted, and then ends.
    package func amendRequest(_ id: RequestID, form: String, once: String? = nil, by person: PersonID) throws
        -> RequestID
    {
        let request = try follow(id, .amend, once: once, by: person)
        let json: JSON
        do throws(JSONError) { json = try JSON(parsing: form) } catch {
            throw GatewayError(.usage, "the request form is not JSON: \(error)")
        }
        guard json["dataset"] == request.form["dataset"] else {
            throw GatewayError(.usage, "an amendment is of the same data set; ask for another one anew")
        }
        guard json["breakGlass"] == nil else { throw GatewayError(.usage, "emergency access is asked for anew") }
        guard json != request.form else { throw GatewayError(.usage, "the amendment changes nothing") }
        return try fileRequest(form, follows: .init(.amends, id), once: once, by: person)
    }

    /// Asks for another term before the grant ends, with everything else as it was granted.
    ///
    /// - Parameter documents: in the place of those of the same kinds.
    package func renewRequest(
        _ id: RequestID, termMonths: Int, documents: [AccessQuestion.Document] = [], once: String? = nil,
        by person: PersonID
    ) throws -> RequestID {
        let request = try follow(id, .renew, once: once, by: person)
        guard var form = request.form.objectValue else {
            throw GatewayError(.integrity, "the recorded request cannot be read")
        }
        form["termMonths"] = .integer(Int64(termMonths))
        let kinds = Set(documents.map(\.kind))
        let kept = request.documents.filter { document in
            !kinds.contains(document.kind) && document.expires.map { $0 > clock.now() } ?? true
        }
        form["documents"] = .array((kept + documents).map(\.json))
        return try fileRequest(JSON.object(form).canonicalText, follows: .init(.renews, id), once: once, by: person)
    }

    private func follow(_ id: RequestID, _ action: RequestLife.Action, once: String?, by person: PersonID) throws
        -> AccessRequest
    {
        let request = try accessRequest(id)
        // Filed already under this key, it is answered as it was then.
        if let once, ledger.index.request(filedUnder: once, by: person) != nil { return request }
        try require(action, on: request, by: person)
        guard !request.breaksGlass else { throw GatewayError(.usage, "emergency access is asked for anew") }
        let waiting = try ledger.index.followers(of: id).first { try lifeState(of: accessRequest($0)) == .waiting }
        if let waiting {
            throw GatewayError(.usage, "\(waiting) already asks to change request \(id); withdraw it first")
        }
        return request
    }

    /// Adds a document to a granted request, such as one that a reviewer made a condition.
    package func addDocument(_ document: AccessQuestion.Document, to id: RequestID, by person: PersonID) throws {
        let request = try accessRequest(id)
        try require(.addDocument, on: request, by: person)
        try Self.check(document, at: "document", now: clock.now())
        let number = request.file.records.count { $0.event == .documentAdded } + 1
        guard number <= 100 else { throw GatewayError(.usage, "a request has at most 100 documents added to it") }
        try ledger.record(
            Event(.documentAdded, .done).with {
                $0.actor = person
                $0.dataset = request.dataset
                $0.detail = ["kind": .string(document.kind), "digest": .string(document.digest.hex)]
                $0.payload = ["document": document.json]
            }, in: .request(id), key: AccessRequest.Key.document(number))
    }

    /// Ends a grant from its holder's side, with a report of what became of the data. Somebody who looks after them
    /// confirms it.
    ///
    /// - Parameter confirmed: that nobody on the request keeps a copy, and that what was agreed to is done.
    package func closeOut(_ id: RequestID, report: String, confirmed: Bool, by person: PersonID) throws {
        let request = try accessRequest(id)
        try require(.closeOut, on: request, by: person)
        guard (10...4096).contains(report.utf8.count) else {
            throw GatewayError(.usage, "say in a sentence what was done, in at most 4096 bytes")
        }
        guard confirmed else {
            throw GatewayError(.usage, "confirm that nobody keeps a copy and that what was agreed to is done")
        }
        let grant = request.file[AccessRequest.Key.granted]?.detail["grant"]
        let open = ledger.runs.first { id in
            let file = ledger.file(.run(id))
            return file[RunCase.Key.closed] == nil && file[RunCase.Key.requested]?.detail["grant"] == grant
        }
        if let open {
            throw GatewayError(.usage, "\(open) still goes on under this grant; let it end or cancel it first")
        }
        try ledger.record(
            Event(.requestClosing, .done).with {
                $0.actor = person
                $0.dataset = request.dataset
                $0.detail = ["report": .string(SHA256.hash(report).hex)]
                $0.payload = ["report": .string(report)]
            }, in: .request(id), key: AccessRequest.Key.closing)
    }

    /// Confirms that a grant was used up as reported.
    package func confirmClosure(_ id: RequestID, comment: String = "", by person: PersonID) throws {
        let request = try accessRequest(id)
        try require(.confirmClosure, on: request, by: person)
        guard comment.utf8.count <= 4096 else { throw GatewayError(.usage, "a comment has at most 4096 bytes") }
        try ledger.record(
            Event(.requestClosed, .done).with {
                $0.actor = person
                $0.dataset = request.dataset
                if !comment.isEmpty { $0.payload = ["comment": .string(comment)] }
            }, in: .request(id), key: AccessRequest.Key.closed)
    }

    /// What its requester reported at the end, if they did.
    package func closingReport(of id: RequestID, by person: PersonID) throws -> String? {
        let request = try accessRequest(id)
        try requireSight(of: request, by: person)
        return request.file[AccessRequest.Key.closing]?.payload["report"]?.stringValue
    }
}
