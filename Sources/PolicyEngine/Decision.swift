package import Vocabulary

/// The answer to a question. Only `PolicySet.decide` makes a permit, and it makes none out of missing facts.
package enum Decision: Sendable, Equatable {
    case permit(Permit)
    /// People must still act, such as a second approver. Everything else is in order.
    case needsHuman([Reason])
    case refuse([Reason])
}

/// What was permitted, by which rules, and what whoever uses it must do.
package struct Permit: Sendable, Equatable {
    package let reasons: [Reason]
    package let obligations: [Obligation]

    fileprivate init(reasons: [Reason], obligations: [Obligation]) {
        self.reasons = reasons
        self.obligations = obligations
    }
}

extension Decision {
    package enum Verdict: String, Sendable, CaseIterable {
        case permit
        case needsHuman = "needs-human"
        case refuse
    }

    /// The lattice of answers, mildest first: deciding the same question, a stricter policy never answers below a milder.
    package enum Answer: String, Sendable, CaseIterable, Comparable {
        case permit
        case permitWithObligations = "permit-with-obligations"
        case needsHuman = "needs-human"
        case refuse

        package static func < (left: Self, right: Self) -> Bool { left.rank < right.rank }

        /// From 0, the mildest.
        package var rank: Int {
            switch self {
            case .permit: 0
            case .permitWithObligations: 1
            case .needsHuman: 2
            case .refuse: 3
            }
        }
    }

    package var answer: Answer {
        switch self {
        case .permit(let permit): permit.obligations.isEmpty ? .permit : .permitWithObligations
        case .needsHuman: .needsHuman
        case .refuse: .refuse
        }
    }

    /// As records write it.
    package var verdict: Verdict {
        switch self {
        case .permit: .permit
        case .needsHuman: .needsHuman
        case .refuse: .refuse
        }
    }

    package var reasons: [Reason] {
        switch self {
        case .permit(let permit): permit.reasons
        case .needsHuman(let reasons), .refuse(let reasons): reasons
        }
    }

    /// Each code once, in order, for records.
    package var reasonCodes: [String] {
        var codes: [String] = []
        for reason in reasons where !codes.contains(reason.code.rawValue) { codes.append(reason.code.rawValue) }
        return codes
    }

    package var obligations: [Obligation] { if case .permit(let permit) = self { permit.obligations } else { [] } }

    package var json: JSON {
        .object([
            "verdict": .string(verdict.rawValue),
            "reasons": .array(reasons.map(\.json)),
            "obligations": .array(obligations.map(\.json)),
        ])
    }
}

/// One rule's part in a decision: a stable code, the rule and where it is written, and a sentence in English.
package struct Reason: Hashable, Sendable, CustomStringConvertible {
    package enum Code: String, CaseIterable, Sendable {
        case datasetUnknown = "dataset.unknown"
        case nothingPermits = "nothing.permits"
        case purposeCovered = "purpose.covered"
        case purposeMissing = "purpose.missing"
        case purposeUnknown = "purpose.unknown"
        case purposeTooWide = "purpose.too-wide"
        case purposeNotCovered = "purpose.not-covered"
        case purposeAncestry = "purpose.ancestry"
        case purposeDisease = "purpose.disease"
        case purposeClinical = "purpose.clinical"
        case purposeMethods = "purpose.methods"
        case purposeCommercial = "purpose.commercial"
        case purposeOrganisation = "purpose.organisation"
        case purposeNotGenetic = "purpose.not-genetic"
        case purposeResearchType = "purpose.research-type"
        case factMissing = "fact.missing"
        case factInvalid = "fact.invalid"
        case agreementMissing = "agreement.missing"
        case documentMissing = "document.missing"
        case documentExpired = "document.expired"
        case placeNotAllowed = "place.not-allowed"
        case termTooLong = "term.too-long"
        case personNotListed = "person.not-listed"
        case projectNotListed = "project.not-listed"
        case institutionNotListed = "institution.not-listed"
        case visaMissing = "visa.missing"
        case approvalsMet = "approvals.met"
        case approvalsWaiting = "approvals.waiting"
        case approvalRejected = "approval.rejected"
        case accessRevoked = "access.revoked"
        case grantMissing = "grant.missing"
        case grantValid = "grant.valid"
        case grantExpired = "grant.expired"
        case grantNotYet = "grant.not-yet"
        case grantRevoked = "grant.revoked"
        case grantOther = "grant.other"
        case grantPurpose = "grant.purpose"
        case grantObligation = "grant.obligation"
        case cohortTooSmall = "cohort.too-small"
        case devicePool = "device.pool"
        case deviceEvidence = "device.evidence"
        case deviceRoundTrip = "device.round-trip"
        case deviceHours = "device.hours"
        case deviceAccepted = "device.accepted"
        case targetNotAllowed = "target.not-allowed"
        case checkFailed = "check.failed"
        case checkMissing = "check.missing"
        case checksPassed = "checks.passed"
        case reviewsMet = "reviews.met"
        case reviewsWaiting = "reviews.waiting"
        case reviewRejected = "review.rejected"
        case figureShown = "figure.shown"
        case figureHidden = "figure.hidden"
        case emergencyNotAllowed = "emergency.not-allowed"
        case emergencyReason = "emergency.reason"
        case emergencyTooLong = "emergency.too-long"
        case emergencyUnreviewed = "emergency.unreviewed"
        case emergencyApproved = "emergency.approved"
    }

    package let code: Code
    /// Data set and path of the clause, such as `demo:kg1-health/modifiers[0]`.
    package let rule: String
    package let file: String
    package let line: Int
    package let text: String

    package var description: String { "\(code.rawValue): \(text) (\(rule), \(file):\(line))" }

    package var json: JSON {
        .object([
            "code": .string(code.rawValue), "rule": .string(rule), "file": .string(file),
            "line": .integer(Int64(line)), "text": .string(text),
        ])
    }
}

/// Something that whoever acts on a permit must do. It is kept in the grant and travels with the release.
package struct Obligation: Hashable, Sendable {
    package enum Code: String, CaseIterable, Sendable {
        /// Show this text to everyone who uses the data or its results.
        case notice
        /// Publish the results (DUO:0000019).
        case publish
        /// Work together with the primary investigators (DUO:0000020).
        case collaborate
        /// Publish nothing before this day (DUO:0000024).
        case moratorium
        /// Give derived data back (DUO:0000029).
        case returnResults = "return-results"
        /// The grant ends after this many months (DUO:0000025).
        case monthsMax = "months-max"
        /// Device hours the grant may use.
        case hoursMax = "hours-max"
        /// Somebody else looks at this emergency access afterwards; until then there is no second one.
        case review
        /// Use the data in these countries only, `JP DE`.
        case regions
        /// A document of a kind is there by the end of a day, `ethics 2027-01-31`.
        case documentDue = "document-due"
        /// Round every figure shown to multiples of this many thousandths.
        case roundThousandths = "round-thousandths"
    }

    package let code: Code
    package let rule: String
    /// The text, day or number that the code speaks of; empty where it needs none.
    package let value: String

    package init(code: Code, rule: String, value: String) {
        self.code = code
        self.rule = rule
        self.value = value
    }

    package var json: JSON {
        .object(["code": .string(code.rawValue), "rule": .string(rule), "value": .string(value)])
    }
}

/// Collects what the rules say about one question. Forbid wins; nothing said is a refusal.
struct Ruling {
    private let owner: String
    private let file: String
    /// What "nothing said" points at.
    private let permission: Clause<DUO>
    private(set) var permits: [Reason] = []
    private(set) var waits: [Reason] = []
    private(set) var refusals: [Reason] = []
    private(set) var obligations: [Obligation] = []
    /// Names of facts that a rule needed and the question does not say.
    private(set) var missing: [String] = []

    /// `owner` is the data set that the rules are of.
    init(owner: String, file: String, permission: Clause<DUO>) {
        self.owner = owner
        self.file = file
        self.permission = permission
    }

    mutating func permit<Value>(_ code: Reason.Code, _ clause: Clause<Value>, _ text: String) {
        permits.append(reason(code, clause, text))
    }

    mutating func needsHuman<Value>(_ code: Reason.Code, _ clause: Clause<Value>, _ text: String) {
        waits.append(reason(code, clause, text))
    }

    mutating func refuse<Value>(_ code: Reason.Code, _ clause: Clause<Value>, _ text: String) {
        refusals.append(reason(code, clause, text))
    }

    mutating func oblige(_ conditions: [Obligation]) { obligations += conditions }

    mutating func oblige<Value>(_ code: Obligation.Code, _ clause: Clause<Value>, _ value: String = "") {
        obligations.append(Obligation(code: code, rule: rule(clause), value: value))
    }

    /// Refuses because the question does not say a fact that this rule needs.
    mutating func lacks<Value>(_ fact: String, _ clause: Clause<Value>, _ text: String? = nil) {
        if !missing.contains(fact) { missing.append(fact) }
        refuse(.factMissing, clause, text ?? "the request does not say '\(fact)', which this rule needs")
    }

    /// Refuses unless the fact is known and is `expected`.
    mutating func demand<Value>(
        _ fact: Bool?, _ expected: Bool, named name: String, else code: Reason.Code, _ clause: Clause<Value>,
        _ text: String
    ) {
        switch fact {
        case expected: break
        case nil: lacks(name, clause)
        default: refuse(code, clause, text)
        }
    }

    var decision: Decision { decision(refusals: refusals, waits: waits) }

    /// What it would be if the rule of this name had not spoken against it.
    func decision(without rule: String) -> Decision {
        decision(refusals: refusals.filter { $0.rule != rule }, waits: waits.filter { $0.rule != rule })
    }

    private func decision(refusals: [Reason], waits: [Reason]) -> Decision {
        if !refusals.isEmpty { return .refuse(refusals) }
        if !waits.isEmpty { return .needsHuman(waits) }
        guard !permits.isEmpty else {
            return .refuse([reason(.nothingPermits, permission, "no rule permits this")])
        }
        return .permit(Permit(reasons: permits, obligations: obligations))
    }

    private func rule<Value>(_ clause: Clause<Value>) -> String { "\(owner)/\(clause.path)" }

    private func reason<Value>(_ code: Reason.Code, _ clause: Clause<Value>, _ text: String) -> Reason {
        Reason(code: code, rule: rule(clause), file: file, line: clause.line, text: text)
    }
}
