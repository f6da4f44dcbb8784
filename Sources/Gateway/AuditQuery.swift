import AuditTrail
package import Vocabulary

/// What is looked for among records: each condition must hold. The same question is asked of the gateway's case
/// records and, with an auditor's key, of an export.
package struct AuditQuery: Sendable, Equatable {
    /// What a record can be found by. The names are those of the command line and of the API.
    package enum Field: String, CaseIterable, Sendable {
        /// Who acted, or who was acted upon (a person added).
        case who
        /// The event, such as `run.decided`.
        case what
        case outcome, dataset
        /// The version of a data set.
        case version
        /// A person of the data: found by consent changes and lookups, and by the runs whose image held them.
        case subject
        case run, request, decision
        /// The policy bundle's hash.
        case policy
        case device, reason, purpose
    }

    package private(set) var conditions: [Field: String] = [:]
    /// The first instant, and the last one.
    package private(set) var from: Timestamp?
    package private(set) var to: Timestamp?

    package init() {}

    /// Asks for the person as records name them.
    mutating func name(subject pseudonym: String) { conditions[.subject] = pseudonym }

    /// Reads `name: value` pairs: the fields above, `from` and `to`. A day as `to` means its last instant. Says which
    /// name or value is wrong, never repeating a subject.
    package init(parsing pairs: some Sequence<(String, String)>) throws {
        for (name, value) in pairs {
            switch name {
            case "from", "to":
                guard let time = Timestamp(parsing: value) else {
                    throw GatewayError(.usage, "--\(name) is a day (2026-11-21) or a UTC time (2026-11-21T09:30:00Z)")
                }
                if name == "from" {
                    from = time
                } else {
                    to = value.utf8.count > 10 ? time : Timestamp(milliseconds: time.milliseconds + 86_399_999)
                }
            default:
                guard let field = Field(rawValue: name) else {
                    let names = Field.allCases.map(\.rawValue).joined(separator: ", ")
                    throw GatewayError(.usage, "records are found by \(names), from and to")
                }
                guard conditions.updateValue(value, forKey: field) == nil else {
                    throw GatewayError(.usage, "a search names \(name) twice")
                }
                try Self.check(value, field)
            }
        }
        if let from, let to, to < from { throw GatewayError(.usage, "the search ends before it begins") }
    }

    private static func check(_ value: String, _ field: Field) throws {
        let isGood =
            switch field {
            case .what: AuditEvent(rawValue: value) != nil
            case .outcome: AuditOutcome(rawValue: value) != nil
            case .decision: ["permit", "needs-human", "refuse"].contains(value)
            case .policy: Digest(hex: value) != nil
            case .who, .dataset, .version, .subject, .run, .request, .device, .reason, .purpose:
                (try? SubjectID(value)) != nil
            }
        guard isGood else { throw GatewayError(.usage, "this is not a \(field.rawValue) that a record can have") }
    }

    /// Whether a record has what is asked for; `alsoRuns` are runs whose every record answers the subject.
    func matches(_ record: CaseRecord, of id: CaseID?, alsoRuns: Set<String> = []) -> Bool {
        if let from, record.time < from { return false }
        if let to, to < record.time { return false }
        let terms = Self.terms(of: record, id)
        return conditions.allSatisfy { field, value in
            terms.contains { $0.field == field && $0.value == value }
                || field == .subject && terms.contains { $0.field == .run && alsoRuns.contains($0.value) }
        }
    }

    /// Everything that a record is found by.
    static func terms(of record: CaseRecord, _ id: CaseID?) -> Set<Term> {
        var terms: Set<Term> = []
        func add(_ field: Field, _ value: JSON?) {
            if let text = value?.stringValue, !text.isEmpty { terms.insert(Term(field: field, value: text)) }
        }
        let core = record.core
        add(.who, core["actor"])
        add(.who, core["detail"]?["person"])
        add(.what, core["event"])
        add(.outcome, core["outcome"])
        add(.dataset, core["dataset"])
        add(.version, core["version"])
        add(.subject, record.payload["subject"])
        // By pseudonym: these are all that the trail itself says of a person.
        for section in core["sections"]?.arrayValue ?? [] { add(.subject, section["subject"]) }
        add(.subject, core["detail"]?["subject"])
        add(.run, core["run"])
        add(.decision, core["decision"])
        add(.policy, core["policy"])
        add(.device, core["device"])
        for reason in core["reasons"]?.arrayValue ?? [] { add(.reason, reason) }
        for purpose in core["purpose"]?.stringValue?.split(separator: ",") ?? [] {
            add(.purpose, .string(String(purpose)))
        }
        switch id {
        case .run(let run): add(.run, .string(run.text))
        case .request(let request): add(.request, .string(request.text))
        case .gateway, nil: break
        }
        return terms
    }

    struct Term: Hashable {
        let field: Field
        let value: String
    }

    /// The question as a record may state it: whoever was looked for among the data's persons is left out.
    var recorded: JSON {
        var members: [String: JSON] = [:]
        for (field, value) in conditions {
            members[field.rawValue] = field == .subject ? .bool(true) : .string(value)
        }
        members["from"] = from.map { .string($0.description) }
        members["to"] = to.map { .string($0.description) }
        return .object(members)
    }
}
