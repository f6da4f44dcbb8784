import AuditTrail
package import PolicyEngine
import Sealing
package import Vocabulary

/// A reviewer's word.
package enum Verdict: String, Sendable, CaseIterable { case approve, reject }

/// What an access decision came to.
package enum AccessOutcome: Sendable, Equatable {
    case granted(GrantID)
    case refused([GatewayReason])
}

/// Why, in a stable code and a sentence that names the rule and its line.
package struct GatewayReason: Sendable, Equatable {
    package let code: String
    package let text: String
}

/// A request for access as its durable records tell it.
struct AccessRequest {
    let id: RequestID
    let file: CaseFile

    enum Key {
        static let filed = "filed"
        static let waiting = "waiting"
        static let decided = "decided"
        static let granted = "granted"
        static let reviewedAfterwards = "reviewed-afterwards"
        static let withdrawn = "withdrawn"
        static let closing = "closing"
        static let closed = "closed"
        static func document(_ number: Int) -> String { "document.\(number)" }
        static func reviewed(_ person: PersonID) -> String { "reviewed.\(person)" }
    }

    var requester: PersonID { file[Key.filed]!.actor! }
    var dataset: DatasetID { file[Key.filed]!.core["dataset"]!.stringValue.flatMap { try? DatasetID($0) }! }
    var form: JSON { file[Key.filed]!.payload["form"]! }

    /// Whether it asks for emergency access.
    var breaksGlass: Bool { form["breakGlass"] != nil }

    /// Emergency access that was granted and that nobody has looked at since.
    var awaitsReview: Bool { breaksGlass && file[Key.granted] != nil && file[Key.reviewedAfterwards] == nil }

    /// Whether somebody asked for it or spoke on it; `Ann` is not another person than `ann`.
    func hasPart(_ person: PersonID) -> Bool {
        let name = person.text.lowercased()
        return ([requester] + people + votes.map(\.person)).contains { $0.text.lowercased() == name }
    }

    var votes: [Vote] {
        file.records.filter { $0.event == .requestReviewed }.compactMap { record in
            guard let person = record.actor, let role = record.detail["role"]?.stringValue else { return nil }
            return Vote(
                person: person, role: role, approves: record.outcome == .done,
                conditions: (record.payload["conditions"]?.arrayValue ?? []).compactMap { try? Condition(json: $0) })
        }
    }

    var finalDecision: AccessOutcome? {
        guard let decided = file[Key.decided] else { return nil }
        if decided.core["decision"] == "permit" {
            return file[Key.granted].flatMap { record in
                record.detail["grant"]?.stringValue.flatMap { try? GrantID($0) }.map(AccessOutcome.granted)
            }
        }
        return .refused(GatewayReason.read(decided))
    }
}

/// What was allowed: to whom, which data set, for what, until when.
package struct Grant: Sendable, Equatable {
    package let id: GrantID
    package let request: RequestID
    package let dataset: DatasetID
    package let researcher: PersonID
    package let granted: Timestamp
    /// When it ends, or ended: by itself, by an amendment or renewal in its place, or because its holder was done.
    package let expires: Timestamp
    /// When it ends by itself.
    let term: Timestamp
    /// Who else may use it.
    package let people: [PersonID]
    package let origin: GrantOrigin
    /// Its record's place in the trail.
    let index: UInt64
    let purpose: Purpose
    let obligations: [Obligation]
    /// Where the data are used.
    let country: String?
    /// What was handed in with the request and since.
    let documents: [AccessQuestion.Document]
}

// MARK: - Request

extension Gateway {
    /// Files a request. The form is JSON with the members of `config/requests`; what the gateway knows itself (who,
    /// when, who brought the data in, votes) may not be in it.
    ///
    /// - Parameter once: filed again under the same key, the same request is returned.
    package func fileRequest(_ form: String, once: String? = nil, by requester: PersonID) throws -> RequestID {
        try fileRequest(form, follows: nil, once: once, by: requester)
    }

    /// - Parameter follows: the granted request that this one would change or renew.
    func fileRequest(
        _ form: String, follows: AccessRequest.Follows?, once: String?, by requester: PersonID
    ) throws -> RequestID {
        try require(requester, anyOf: [.researcher])
        _ = try policies()
        let json: JSON
        do throws(JSONError) { json = try JSON(parsing: form) } catch {
            throw GatewayError(.usage, "the request form is not JSON: \(error)")
        }
        let once = try once.map { try OnceKey($0, of: json) }
        if let once, let earlier = try earlierRequest(once, by: requester) { return earlier }
        let id = try RequestID("request-\(ledger.requests.count + 1)")
        let question = try accessQuestion(of: id, form: json, requester: requester, votes: [])
        try checkPeople(of: question)
        try checkDocuments(of: question)
        let agreed = try checkAnswers(json, of: question)
        guard (question.breakGlass?.reason.utf8.count ?? 0) <= 4096 else {
            throw GatewayError(.usage, "a reason has at most 4096 bytes")
        }
        try ledger.record(
            Event(.requestFiled, .done).with {
                $0.actor = requester
                $0.dataset = question.dataset
                $0.purpose = question.purpose.codes.joined(separator: ",")
                $0.payload = ["form": json]
                $0.payload["once"] = once?.json
                follows?.write(into: &$0.detail)
                // Which version of the data set's form was answered.
                $0.detail["form"] = json["form"]
                AgreedText.write(agreed, into: &$0)
            }, in: .request(id), key: AccessRequest.Key.filed)
        return id
    }

    private func earlierRequest(_ once: OnceKey, by requester: PersonID) throws -> RequestID? {
        guard let id = ledger.index.request(filedUnder: once.key, by: requester),
            let filed = ledger.file(.request(id))[AccessRequest.Key.filed], try once.isKey(of: filed)
        else { return nil }
        return id
    }

    /// The form with what the gateway knows itself, read as strictly as a recorded input.
    func accessQuestion(
        of id: RequestID, form: JSON, requester: PersonID, votes: [Vote]
    ) throws -> AccessQuestion {
        guard var members = form.objectValue else { throw GatewayError(.usage, "the request form is not an object") }
        let own = ["ask", "now", "requester", "authors", "votes", "visas", "revoked"]
        if let name = own.first(where: { members[$0] != nil }) {
            throw GatewayError(.usage, "the request form may not say '\(name)'; the gateway knows it itself")
        }
        guard let named = members["dataset"]?.stringValue else {
            throw GatewayError(.usage, "the request form does not say which dataset")
        }
        let dataset: DatasetID
        do throws(IdentifierError) { dataset = try DatasetID(named) } catch {
            throw GatewayError(.usage, "the request form is not valid: dataset: \(error)")
        }
        members["ask"] = "access"
        members["now"] = .string(clock.now().description)
        members["requester"] = .string(requester.text)
        members["authors"] = .array(ledger.index.authors(of: dataset).map { .string($0.text) })
        // What the data set's own form asks is held to that form, not to the policy's rules.
        members["answers"] = nil
        members["form"] = nil
        members["votes"] = .array(votes.map(\.json))
        members["visas"] = .array(visas(of: requester, for: dataset).map(\.json))
        if isRevoked(requester, asked: ledger.file(.request(id)).records.first?.index) { members["revoked"] = true }
        if let emergency = members["breakGlass"] {
            guard var facts = emergency.objectValue, facts["unreviewed"] == nil else {
                throw GatewayError(.usage, "emergency access says 'reason' and 'minutes', and nothing else")
            }
            facts["unreviewed"] = .integer(Int64(emergenciesUnreviewed(of: dataset, but: id)))
            members["breakGlass"] = .object(facts)
        }
        for list in ["documents", "agreements"] where members[list] == nil { members[list] = [] }
        do throws(QuestionError) {
            if case .access(let question) = try Question(input: .object(members)) { return question }
        } catch { throw GatewayError(.usage, "the request form is not valid: \(error)") }
        // `ask` is ours.
        preconditionFailure("a form that asks for access is read as a question for access")
    }

    private func emergenciesUnreviewed(of dataset: DatasetID, but id: RequestID) -> Int {
        ledger.requests.lazy.filter { $0 != id }.map { AccessRequest(id: $0, file: self.ledger.file(.request($0))) }
            .count { $0.dataset == dataset && $0.awaitsReview }
    }

    func accessRequest(_ id: RequestID) throws -> AccessRequest {
        let file = ledger.file(.request(id))
        guard !file.records.isEmpty else { throw GatewayError(.notFound, "there is no request \(id)") }
        return AccessRequest(id: id, file: file)
    }

    // MARK: - Review

    /// Records a reviewer's word. Nobody reviews their own request, and nobody speaks twice.
    ///
    /// - Parameter revision: what the reviewer saw; a request that somebody spoke on since then is looked at again.
    ///   - conditions: what the approval is given under.
    package func review(
        _ id: RequestID, _ verdict: Verdict, comment: String, conditions: [Condition] = [],
        ifStill revision: String? = nil, by reviewer: PersonID
    ) throws {
        let request = try accessRequest(id)
        try requireSight(of: request, by: reviewer)
        try require(request.file, toBe: revision)
        let role = try reviewingRole(of: reviewer, on: request)
        guard lifeState(of: request) == .waiting else {
            throw GatewayError(
                .usage, "request \(id) is \(lifeState(of: request).rawValue); nothing waits for a review")
        }
        try checkBase(of: request)
        try check(conditions, verdict, on: request)
        guard comment.utf8.count <= 4096 else { throw GatewayError(.usage, "a comment has at most 4096 bytes") }
        try ledger.record(
            Event(.requestReviewed, verdict == .approve ? .done : .refused).with {
                $0.actor = reviewer
                $0.dataset = request.dataset
                $0.detail = ["role": .string(role)]
                $0.payload = ["comment": .string(comment)]
                guard !conditions.isEmpty else { return }
                $0.detail["conditions"] = .array(conditions.map { .string($0.kind.rawValue) })
                $0.payload["conditions"] = .array(conditions.map(\.json))
            }, in: .request(id), key: AccessRequest.Key.reviewed(reviewer))
    }

    /// The role that somebody reviews a request in: not one's own, not one that one is named on, and once.
    private func reviewingRole(of reviewer: PersonID, on request: AccessRequest) throws -> String {
        guard !request.people.contains(where: { $0.text.lowercased() == reviewer.text.lowercased() }) else {
            throw GatewayError(.refused, "nobody reviews a request that they are named on")
        }
        let role = try reviewingRole(
            of: reviewer, among: approvals(request).roles, notOf: request.requester, "request")
        guard request.file[AccessRequest.Key.reviewed(reviewer)] == nil else {
            throw GatewayError(
                .usage,
                "\(reviewer) has reviewed request \(request.id) already; `sekisho request resume \(request.id)` goes on"
            )
        }
        return role
    }

    /// Whose word a request that is not decided yet waits for.
    func approvalsMissing(_ request: AccessRequest) throws -> ApprovalsMissing {
        let approvals = try approvals(request)
        return ApprovalsMissing(
            count: max(approvals.required - request.votes.count(where: \.approves), 1), roles: approvals.roles)
    }

    /// Who has to agree to a request: in an emergency one person of the policy's own choice.
    func approvals(_ request: AccessRequest) throws -> (required: Int, roles: [String]) {
        let policy = try policy(for: request.dataset)
        guard request.breaksGlass else {
            return (policy.access.approvals.value.required, policy.access.approvals.value.roles)
        }
        guard let emergency = policy.breakGlass?.value, emergency.allowed else { return (1, []) }
        return (1, [emergency.approver])
    }

    // MARK: - Emergency access

    /// Who may say afterwards whether an emergency was one.
    static let emergencyReviewers: Set<Role> = [.complianceOfficer, .securityOfficer, .dac, .dataCustodian]

    /// Records what somebody else found when they looked at an emergency access afterwards. Until then there is no
    /// second one to the data set.
    package func reviewEmergency(
        _ id: RequestID, justified: Bool, comment: String, by reviewer: PersonID
    ) throws {
        let request = try accessRequest(id)
        try requireSight(of: request, by: reviewer)
        try require(reviewer, anyOf: Self.emergencyReviewers)
        guard request.breaksGlass, request.file[AccessRequest.Key.granted] != nil else {
            throw GatewayError(.usage, "request \(id) is no emergency access that was granted")
        }
        guard request.awaitsReview else { throw GatewayError(.usage, "request \(id) has been reviewed already") }
        guard (10...4096).contains(comment.utf8.count) else {
            throw GatewayError(.usage, "say in a sentence what you found, in at most 4096 bytes")
        }
        guard !request.hasPart(reviewer) else {
            throw GatewayError(.refused, "whoever asked for emergency access or approved it does not review it")
        }
        try ledger.record(
            Event(.emergencyReviewed, justified ? .done : .refused).with {
                $0.actor = reviewer
                $0.dataset = request.dataset
                $0.payload = ["comment": .string(comment)]
            }, in: .request(id), key: AccessRequest.Key.reviewedAfterwards)
    }

    // MARK: - Access decision

    func decideAccess(_ request: AccessRequest) throws -> RequestProgress {
        typealias Key = AccessRequest.Key
        if request.file[Key.decided]?.core["decision"] == "permit" { return try issueGrant(request) }
        let question = try accessQuestion(
            of: request.id, form: request.form, requester: request.requester, votes: request.votes)
        let (decision, policies) = try decide(.access(question))
        let event = decisionEvent(.accessDecided, .access(question), decision, policies).with {
            $0.dataset = request.dataset
            $0.purpose = question.purpose.codes.joined(separator: ",")
        }
        switch decision {
        case .needsHuman:
            try ledger.record(event, in: .request(request.id), key: Key.waiting)
            return .waiting(for: try approvalsMissing(request).words)
        case .refuse:
            try ledger.record(event, in: .request(request.id), key: Key.decided)
            return .decided(try accessRequest(request.id).finalDecision!)
        case .permit:
            try checkBase(of: request)
            try ledger.record(event, in: .request(request.id), key: Key.decided)
            return try issueGrant(accessRequest(request.id))
        }
    }

    // MARK: - Grant

    /// A grant stands on the recorded decision and on nothing else: everything in it is read back from there.
    private func issueGrant(_ request: AccessRequest) throws -> RequestProgress {
        typealias Key = AccessRequest.Key
        let damaged = GatewayError(.integrity, "the recorded access decision cannot be read")
        guard let record = request.file[Key.decided], let input = record.payload["input"],
            case .access(let question)? = try? Question(input: input), let answer = record.payload["decision"],
            let obligations = answer["obligations"]?.arrayValue,
            let read = try? obligations.map({ try Obligation(json: $0) }),
            let expires = question.breakGlass.map({ question.now.adding(seconds: Int64($0.minutes) * 60) })
                ?? question.termMonths.flatMap({ question.now.adding(months: Self.monthsGranted($0, read)) })
        else { throw damaged }
        let id = try GrantID("grant-\(request.id.text.split(separator: "-").last ?? "1")")
        try ledger.record(
            Event(.grantIssued, .done).with {
                $0.actor = request.requester
                $0.dataset = request.dataset
                $0.detail = [
                    "grant": .string(id.text), "expires": .string(expires.description),
                    "origin": .string(GrantOrigin(of: question).rawValue),
                ]
                if question.breakGlass != nil { $0.detail["break_glass"] = true }
                $0.payload = [
                    "purpose": question.purpose.json, "obligations": .array(obligations),
                    "granted": .integer(question.now.milliseconds), "expires": .integer(expires.milliseconds),
                ]
                AgreedText.write(read.filter { $0.code == .notice }.map { AgreedText("notice", $0.value) }, into: &$0)
            }, in: .request(request.id), key: Key.granted)
        return .decided(.granted(id))
    }

    package func grant(_ id: GrantID) throws -> Grant {
        guard let request = try ledger.index.request(of: id).map(accessRequest), let grant = try grant(of: request)
        else {
            throw GatewayError(.notFound, "there is no grant \(id)")
        }
        return grant
    }

    /// The grant that a request came to, if it did.
    func grant(of request: AccessRequest) throws -> Grant? {
        guard let record = request.file[AccessRequest.Key.granted],
            let grant = record.detail["grant"]?.stringValue.flatMap({ try? GrantID($0) }),
            let purpose = record.payload["purpose"].flatMap({ try? Purpose(json: $0) }),
            let obligations = record.payload["obligations"]?.arrayValue,
            let granted = record.payload["granted"]?.integerValue,
            let expires = record.payload["expires"]?.integerValue
        else { return nil }
        return Grant(
            id: grant, request: request.id, dataset: request.dataset, researcher: request.requester,
            granted: Timestamp(milliseconds: granted),
            expires: min(Timestamp(milliseconds: expires), ended(request) ?? Timestamp(milliseconds: .max)),
            term: Timestamp(milliseconds: expires), people: request.people,
            origin: record.detail["origin"]?.stringValue.flatMap(GrantOrigin.init)
                ?? (request.breaksGlass ? .emergency : .approval), index: record.index, purpose: purpose,
            obligations: try obligations.map { try Obligation(json: $0) },
            country: request.form["country"]?.stringValue, documents: request.documents)
    }
}

// MARK: - Decisions as records

extension Gateway {
    /// What every decision record holds: the policies' hash, the input's digest, the verdict and its reasons. The
    /// whole input stays in the case record, so that the decision can be made again.
    func decisionEvent(
        _ name: AuditEvent, _ question: Question, _ decision: Decision, _ policies: Digest
    ) -> Event {
        // Nothing in a run's own decision waits for a person: what a person must do first belongs to the request.
        let refuses = decision.verdict == .refuse || (name == .runDecided && decision.verdict == .needsHuman)
        return Event(name, refuses ? .refused : .done).with {
            $0.policy = policies
            $0.input = SHA256.hash(question.input.canonical)
            $0.decision = decision.verdict.rawValue
            $0.reasons = decision.reasonCodes
            $0.payload = ["input": question.input, "decision": decision.json]
        }
    }
}

extension GatewayReason {
    /// The reasons of a recorded decision.
    static func read(_ record: CaseRecord) -> [GatewayReason] {
        let reasons = record.payload["decision"]?["reasons"]?.arrayValue ?? []
        return reasons.compactMap { reason in
            guard let code = reason["code"]?.stringValue, let text = reason["text"]?.stringValue,
                let file = reason["file"]?.stringValue, let line = reason["line"]?.integerValue
            else { return nil }
            return GatewayReason(code: code, text: "\(text) (\(file):\(line))")
        }
    }
}
