import Vocabulary

extension PolicySet {
    /// May this person be granted this data set for this purpose?
    package func decide(_ question: AccessQuestion) -> Decision { judge(question).decision }

    func judge(_ question: AccessQuestion) -> Judgement {
        judgement(on: question.dataset) { policy, ruling in
            PurposeRules(policy, diseases).judge(question.purpose, &ruling)
            for modifier in policy.modifiers { Self.judge(modifier, question, &ruling) }
            if question.revoked {
                ruling.refuse(
                    .accessRevoked, policy.access.approvals,
                    "the requester's access was revoked; whoever revoked it can restore it")
            }
            if question.breakGlass == nil {
                Self.judgeIdentity(policy, visas: question.visas, now: question.now, &ruling)
            }
            // A grant must end; one of an emergency ends after minutes.
            if let term = question.termMonths {
                if !(1...1200).contains(term) {
                    ruling.refuse(.factInvalid, policy.permission, "a term must be from 1 to 1200 months")
                }
            } else if question.breakGlass == nil {
                ruling.lacks("termMonths", policy.permission)
            }
            if let notices = policy.access.notices {
                for text in notices.value { ruling.oblige(.notice, notices, text) }
            }
            ruling.oblige(.hoursMax, policy.training.hoursMax, String(policy.training.hoursMax.value))
            if let emergency = question.breakGlass {
                Self.judge(emergency, policy, question, &ruling)
            } else {
                Self.judgeApprovals(policy, question, &ruling)
            }
        }
    }

    /// What the subjects agreed to holds in an emergency, too: purpose, place and people are judged as ever.
    private static func judge(
        _ emergency: AccessQuestion.BreakGlass, _ policy: Policy, _ question: AccessQuestion, _ ruling: inout Ruling
    ) {
        guard let clause = policy.breakGlass, clause.value.allowed else {
            ruling.refuse(
                .emergencyNotAllowed, policy.access.approvals, "the policy allows no emergency access to these data")
            return
        }
        if emergency.reason.count(where: { !$0.isWhitespace }) < Self.reasonLettersMin {
            ruling.refuse(.emergencyReason, clause, "emergency access needs a reason, in a sentence")
        }
        if !(1...clause.value.minutesMax).contains(emergency.minutes) {
            ruling.refuse(
                .emergencyTooLong, clause, "emergency access is for at most \(clause.value.minutesMax) minutes")
        }
        if emergency.unreviewed != 0 {
            ruling.refuse(
                .emergencyUnreviewed, clause, "an earlier emergency access to these data has not been reviewed")
        }
        let authors = policy.access.approvals.value.authorMayApprove ? [] : question.authors
        let tally = Tally(
            question.votes, roles: [clause.value.approver],
            excluding: [question.requester] + question.people + authors)
        if tally.rejected {
            ruling.refuse(.approvalRejected, clause, "the approver has rejected the emergency access")
        } else if tally.approvals < 1 {
            ruling.needsHuman(.approvalsWaiting, clause, "the approval of one \(clause.value.approver)")
        } else {
            ruling.permit(.emergencyApproved, clause, "one \(clause.value.approver) has approved the emergency access")
        }
        ruling.oblige(.review, clause)
    }

    static let reasonLettersMin = 10

    private static func judge(_ modifier: Clause<Modifier>, _ question: AccessQuestion, _ ruling: inout Ruling) {
        func missing(_ fact: String) { ruling.lacks(fact, modifier) }
        func listed(_ value: String?, _ fact: String, _ allowed: [String], _ code: Reason.Code) {
            guard let value else { return missing(fact) }
            if !allowed.contains(value) {
                ruling.refuse(code, modifier, "this \(fact) is not among those the data may be used by")
            }
        }
        func agreed(_ obligation: Obligation.Code, _ value: String = "") {
            let code = modifier.value.code
            if !question.agreements.contains(code.rawValue) {
                ruling.refuse(
                    .agreementMissing, modifier, "the requester has not agreed to \(code.rawValue) (\(code.label))")
            }
            ruling.oblige(obligation, modifier, value)
        }
        switch modifier.value {
        case .publication: agreed(.publish)
        case .collaboration(let with): agreed(.collaborate, with ?? "")
        case .returnResults: agreed(.returnResults)
        case .moratorium(let until): agreed(.moratorium, until.description)
        case .ethicsApproval where question.breakGlass != nil: break
        case .ethicsApproval:
            let approvals = question.documents.filter { $0.kind == "ethics" }
            if approvals.isEmpty {
                ruling.refuse(.documentMissing, modifier, "an ethics board's approval must be attached")
            } else if !approvals.contains(where: { $0.expires.map { $0 > question.now } ?? true }) {
                ruling.refuse(.documentExpired, modifier, "the ethics board's approval has expired")
            }
        case .regions(let allowed):
            guard let country = question.country else { return missing("country") }
            if !allowed.contains(country) {
                ruling.refuse(.placeNotAllowed, modifier, "the data may not be used in this country")
            }
        case .timeLimit(let months):
            if question.breakGlass == nil {
                guard let term = question.termMonths else { return missing("termMonths") }
                if term > months {
                    ruling.refuse(.termTooLong, modifier, "the data may be used for at most \(months) months")
                }
            }
            ruling.oblige(.monthsMax, modifier, String(months))
        case .users(let allowed):
            if !allowed.contains(question.requester) {
                ruling.refuse(.personNotListed, modifier, "the requester is not among the approved users")
            }
            if !question.people.allSatisfy(allowed.contains) {
                ruling.refuse(.personNotListed, modifier, "somebody on the request is not among the approved users")
            }
        case .projects(let allowed): listed(question.project, "project", allowed, .projectNotListed)
        case .institutions(let allowed): listed(question.institution, "institution", allowed, .institutionNotListed)
        case .researchTypes, .noMethods, .geneticOnly, .notForProfitNonCommercial, .notForProfit, .nonCommercial,
            .noAncestry, .clinicalCare:
            break  // Judged with the purpose.
        }
    }

    /// Visas are looked at when access is decided and again at every run: one that has run out ends both.
    static func judgeIdentity(
        _ policy: Policy, visas: [AccessQuestion.Visa], now: Timestamp, _ ruling: inout Ruling
    ) {
        guard let wanted = policy.access.visas else { return }
        for type in wanted.value.types {
            let held = visas.contains { visa in
                visa.type == type && wanted.value.by.contains(visa.by) && visa.expires > now
            }
            if !held {
                ruling.refuse(.visaMissing, wanted, "the requester holds no valid \(type) visa from a trusted source")
            }
        }
    }

    private static func judgeApprovals(_ policy: Policy, _ question: AccessQuestion, _ ruling: inout Ruling) {
        let clause = policy.access.approvals
        let authors = clause.value.authorMayApprove ? [] : question.authors
        let excluded = [question.requester] + question.people + authors
        let tally = Tally(question.votes, roles: clause.value.roles, excluding: excluded)
        judge(tally.conditions, clause, question, &ruling)
        if tally.rejected {
            ruling.refuse(.approvalRejected, clause, "an approver has rejected the request")
        } else if tally.approvals < clause.value.required {
            ruling.needsHuman(
                .approvalsWaiting, clause,
                "\(tally.approvals) of \(clause.value.required) approvals by \(clause.value.roles.joined(separator: ", "))"
            )
        } else if clause.value.required > 0 {
            ruling.permit(.approvalsMet, clause, "\(clause.value.required) different people have approved")
        }
    }
}

extension PolicySet {
    /// What the approvals that count were given under: it goes into the grant, and what already fails refuses here.
    private static func judge(
        _ conditions: [Condition], _ clause: Clause<Policy.Approvals>, _ question: AccessQuestion,
        _ ruling: inout Ruling
    ) {
        let obligations = Obligation.strictest(conditions, of: question.dataset)
        for limit in obligations where limit.code == .regions {
            guard let country = question.country else { return ruling.lacks("country", clause) }
            if !limit.countries.contains(country) {
                ruling.refuse(.placeNotAllowed, clause, "the reviewers agreed to use in other countries only")
            }
        }
        ruling.oblige(obligations)
    }
}

/// Counts people, not votes: only in an allowed role, nobody excluded, one voice each, and a rejection outweighs the
/// same person's approval.
struct Tally {
    let approvals: Int
    let rejected: Bool
    /// Of the approvals that count.
    let conditions: [Condition]

    init(_ votes: [Vote], roles: [String], excluding excluded: [PersonID]) {
        // People are compared without regard to capital letters, so that no one counts twice under two spellings.
        let excluded = Set(excluded.map { $0.text.lowercased() })
        var people: Set<String> = []
        var rejected = false
        var conditions: [Condition] = []
        for vote in votes where roles.contains(vote.role) {
            let person = vote.person.text.lowercased()
            guard !excluded.contains(person) else { continue }
            if vote.approves {
                people.insert(person)
                conditions += vote.conditions
            } else {
                rejected = true
            }
        }
        self.conditions = conditions
        approvals = people.count
        self.rejected = rejected
    }
}
