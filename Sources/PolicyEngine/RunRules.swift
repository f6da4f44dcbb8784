import Vocabulary

extension PolicySet {
    /// May this run start on this device, under this grant, at this moment?
    package func decide(_ question: RunQuestion) -> Decision { judge(question).decision }

    func judge(_ question: RunQuestion) -> Judgement {
        judgement(on: question.dataset) { policy, ruling in
            PurposeRules(policy, diseases).judge(question.purpose, &ruling)
            if let grant = question.grant {
                judge(grant, policy, question, &ruling)
                if !grant.isEmergency {
                    Self.judgeIdentity(policy, visas: question.visas, now: question.now, &ruling)
                }
            } else {
                ruling.refuse(.grantMissing, policy.access.approvals, "there is no grant for this run")
            }
            Self.judgeTarget(policy, question, &ruling)
            if question.cohort < policy.release.cohortMin.value {
                ruling.refuse(
                    .cohortTooSmall, policy.release.cohortMin,
                    "fewer than \(policy.release.cohortMin.value) people would be in the run")
            }
            Self.judgeDevice(policy, question, &ruling)
            Self.judgeHours(policy, question, &ruling)
            if let notices = policy.access.notices {
                for text in notices.value { ruling.oblige(.notice, notices, text) }
            }
        }
    }

    /// Expiry is decided here and now, so that no clean-up job can lag behind it.
    private func judge(
        _ grant: RunQuestion.Grant, _ policy: Policy, _ question: RunQuestion, _ ruling: inout Ruling
    ) {
        let clause = policy.access.approvals
        if grant.revoked { ruling.refuse(.grantRevoked, clause, "the grant was revoked") }
        if question.now >= grant.expires { ruling.refuse(.grantExpired, clause, "the grant has expired") }
        if question.now < grant.granted { ruling.refuse(.grantNotYet, clause, "the grant has not begun") }
        if grant.dataset != question.dataset { ruling.refuse(.grantOther, clause, "the grant is for other data") }
        if grant.holder != question.requester, !grant.people.contains(question.requester) {
            ruling.refuse(.grantOther, clause, "the grant is someone else's")
        }
        grant.judgeConditions(at: question.now, clause, &ruling)
        if !covers(grant.purpose, question.purpose) {
            ruling.refuse(.grantPurpose, clause, "the run is for more than the grant was given for")
        }
        let kept = Set(grant.obligations.map(\.code))
        for modifier in policy.modifiers {
            var needed: Obligation.Code?
            switch modifier.value {
            case .publication: needed = .publish
            case .collaboration: needed = .collaborate
            case .returnResults: needed = .returnResults
            case .moratorium: needed = .moratorium
            case .timeLimit(let months):
                // The policy may have become shorter than the grant.
                if let last = grant.granted.adding(months: months), question.now < last { break }
                ruling.refuse(.grantExpired, modifier, "the data may be used for at most \(months) months")
            case .regions(let allowed):
                Self.judge(grant.country, "country", allowed, .placeNotAllowed, modifier, &ruling)
            case .projects(let allowed):
                Self.judge(grant.project, "project", allowed, .projectNotListed, modifier, &ruling)
            case .institutions(let allowed):
                Self.judge(grant.institution, "institution", allowed, .institutionNotListed, modifier, &ruling)
            case .users(let allowed) where !allowed.contains(question.requester):
                ruling.refuse(.personNotListed, modifier, "the requester is not among the approved users")
            default: break
            }
            if let needed, !kept.contains(needed) {
                ruling.refuse(
                    .grantObligation, modifier,
                    "the grant was given before \(modifier.value.code.rawValue) was asked for; request again")
            }
        }
        ruling.permit(.grantValid, clause, "the grant holds until \(grant.expires)")
    }

    /// What the grant was asked for with, against what the policy says today.
    private static func judge(
        _ value: String?, _ fact: String, _ allowed: [String], _ code: Reason.Code, _ modifier: Clause<Modifier>,
        _ ruling: inout Ruling
    ) {
        guard let value else { return ruling.lacks("grant.\(fact)", modifier) }
        if !allowed.contains(value) {
            ruling.refuse(code, modifier, "the \(fact) that the grant was given for is not among those allowed now")
        }
    }

    /// Does a grant for `granted` allow what `asked` says? Facts may not change after the approvers saw them.
    private func covers(_ granted: Purpose, _ asked: Purpose) -> Bool {
        asked.codes.allSatisfy(granted.codes.contains)
            && asked.diseases.allSatisfy { code in
                granted.diseases.contains(code)
                    || Disease(code).map { disease in
                        granted.diseases.contains { Disease($0).map { diseases.isKind(disease, of: $0) } ?? false }
                    } ?? false
            }
            && asked.ancestry == granted.ancestry && asked.methods == granted.methods
            && asked.commercial == granted.commercial && asked.notForProfit == granted.notForProfit
            && asked.genetic == granted.genetic && asked.researchTypes.allSatisfy(granted.researchTypes.contains)
    }

    private static func judgeTarget(_ policy: Policy, _ question: RunQuestion, _ ruling: inout Ruling) {
        guard let targets = policy.training.targets else { return }
        guard let needed = targets.value[question.target] else {
            ruling.refuse(.targetNotAllowed, targets, "this column may not be predicted")
            return
        }
        for code in needed where !question.purpose.codes.contains(code.rawValue) {
            ruling.refuse(
                .targetNotAllowed, targets,
                "predicting this column is \(code.label) (\(code.rawValue)), which the run is not for")
        }
    }

    private static func judgeDevice(_ policy: Policy, _ question: RunQuestion, _ ruling: inout Ruling) {
        let training = policy.training
        guard let device = question.device else {
            ruling.lacks("device", training.pools, "the run names no device")
            return
        }
        if !training.pools.value.contains(device.pool) {
            ruling.refuse(.devicePool, training.pools, "the device is in none of the pools that may train on the data")
        }
        if device.evidence < training.evidence.value {
            ruling.refuse(
                .deviceEvidence, training.evidence,
                "the device proves itself by \(device.evidence.rawValue); the data need \(training.evidence.value.rawValue)"
            )
        }
        if let limit = training.rttMicrosecondsMax {
            if let rtt = device.rttMicroseconds, rtt >= 0 {
                if rtt > limit.value {
                    ruling.refuse(.deviceRoundTrip, limit, "the device is more than \(limit.value) µs away")
                }
            } else {
                ruling.lacks("device.rttMicroseconds", limit, "the round trip to the device is not known")
            }
        }
        ruling.permit(.deviceAccepted, training.pools, "the device is acceptable")
    }

    private static func judgeHours(_ policy: Policy, _ question: RunQuestion, _ ruling: inout Ruling) {
        let limit = policy.training.hoursMax
        guard question.hoursUsed >= 0, question.hoursAsked > 0 else {
            ruling.refuse(.factInvalid, limit, "device hours must be given, and be positive")
            return
        }
        let (total, overflow) = question.hoursUsed.addingReportingOverflow(question.hoursAsked)
        let allowed = min(limit.value, question.grant?.hoursAllowed ?? limit.value)
        if overflow || total > allowed {
            ruling.refuse(
                .deviceHours, limit,
                "each \(policy.training.hoursPer.rawValue) has \(allowed) device hours in all; "
                    + "\(question.hoursUsed) are used or taken and "
                    + "\(question.hoursAsked) asked for")
        }
        ruling.oblige(.hoursMax, limit, String(allowed))
    }
}
