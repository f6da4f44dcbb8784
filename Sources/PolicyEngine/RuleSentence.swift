import Vocabulary

/// What one clause of a policy says, for people who read it in their own language: a closed key that a catalogue has
/// words for, and what those words leave open.
package struct RuleSentence: Sendable, Equatable {
    package enum Key: String, CaseIterable, Sendable {
        case permission, diseases
        case researchTypes = "research-types"
        case noMethods = "no-methods"
        case geneticOnly = "genetic-only"
        case notForProfitNonCommercial = "not-for-profit-non-commercial"
        case notForProfit = "not-for-profit"
        case nonCommercial = "non-commercial"
        case publication, collaboration
        case collaborationWith = "collaboration-with"
        case ethics, regions, moratorium, months, users, projects, institutions
        case returnResults = "return-results"
        case clinicalCare = "clinical-care"
        case noAncestry = "no-ancestry"
        case approvals, author
        case noApprovals = "no-approvals"
        case visas, notice, pools, evidence, hours
        case roundTrip = "round-trip"
        case target
        case losses
        case noLosses = "no-losses"
        case metrics
        case noMetrics = "no-metrics"
        case figures, cohort, checks, reviewers
        case noReviewers = "no-reviewers"
        case emergency
        case noEmergency = "no-emergency"
    }

    package let key: Key
    /// What the words leave open, by name.
    package let values: [String: String]
    /// Path of the clause in its file.
    package let path: String
    package let line: Int
    package let term: DUO?
}

extension Policy {
    /// Every clause as a sentence, in the order of the file format.
    package var sentences: [RuleSentence] {
        var all: [RuleSentence] = []
        func add<Value>(
            _ key: RuleSentence.Key, _ clause: Clause<Value>, _ values: [String: String] = [:], term: DUO? = nil
        ) {
            all.append(
                RuleSentence(key: key, values: values, path: clause.path, line: clause.line, term: term))
        }
        func list(_ words: [String]) -> String { words.joined(separator: ", ") }
        add(.permission, permission, ["label": permission.value.label], term: permission.value)
        if permission.value == .disease { add(.diseases, diseases, ["list": list(diseases.value.map(\.code))]) }
        for modifier in modifiers {
            let (key, values) = modifier.value.sentence
            add(key, modifier, values, term: modifier.value.code)
        }
        let approvals = access.approvals.value
        if approvals.required == 0 {
            add(.noApprovals, access.approvals)
        } else {
            add(.approvals, access.approvals, ["count": "\(approvals.required)", "roles": list(approvals.roles)])
            if approvals.authorMayApprove { add(.author, access.approvals) }
        }
        if let visas = access.visas {
            add(.visas, visas, ["list": list(visas.value.types), "by": list(visas.value.by)])
        }
        for text in access.notices?.value ?? [] { access.notices.map { add(.notice, $0, ["text": text]) } }
        add(.pools, training.pools, ["list": list(training.pools.value)])
        add(.evidence, training.evidence, ["value": training.evidence.value.rawValue])
        add(.hours, training.hoursMax, ["count": "\(training.hoursMax.value)"])
        if let rtt = training.rttMicrosecondsMax { add(.roundTrip, rtt, ["count": "\(rtt.value)"]) }
        for (column, codes) in (training.targets?.value ?? [:]).sorted(by: { $0.key < $1.key }) {
            training.targets.map {
                add(.target, $0, ["column": column, "list": list(codes.map { "\($0.rawValue) \($0.label)" })])
            }
        }
        add(progress.losses.value ? .losses : .noLosses, progress.losses)
        add(progress.metrics.value ? .metrics : .noMetrics, progress.metrics)
        if progress.losses.value || progress.metrics.value {
            add(
                .figures, progress.cohortMin,
                ["count": "\(progress.cohortMin.value)", "step": "\(progress.roundThousandths.value)"])
        }
        add(.cohort, release.cohortMin, ["count": "\(release.cohortMin.value)"])
        add(.checks, release.checks, ["list": list(release.checks.value.map(\.rawValue))])
        if release.reviewers.value == 0 {
            add(.noReviewers, release.reviewers)
        } else {
            add(
                .reviewers, release.reviewers,
                ["count": "\(release.reviewers.value)", "roles": list(release.roles.value)])
        }
        if let breakGlass, breakGlass.value.allowed {
            add(
                .emergency, breakGlass,
                ["count": "\(breakGlass.value.minutesMax)", "role": breakGlass.value.approver])
        } else if let breakGlass {
            add(.noEmergency, breakGlass)
        }
        return all
    }
}

extension Modifier {
    fileprivate var sentence: (RuleSentence.Key, [String: String]) {
        func list(_ words: [String]) -> [String: String] { ["list": words.joined(separator: ", ")] }
        return switch self {
        case .researchTypes(let types): (.researchTypes, list(types))
        case .noMethods: (.noMethods, [:])
        case .geneticOnly: (.geneticOnly, [:])
        case .notForProfitNonCommercial: (.notForProfitNonCommercial, [:])
        case .notForProfit: (.notForProfit, [:])
        case .nonCommercial: (.nonCommercial, [:])
        case .publication: (.publication, [:])
        case .collaboration(nil): (.collaboration, [:])
        case .collaboration(let with?): (.collaborationWith, ["text": with])
        case .ethicsApproval: (.ethics, [:])
        case .regions(let countries): (.regions, list(countries))
        case .moratorium(let until): (.moratorium, ["day": until.description])
        case .timeLimit(let months): (.months, ["count": "\(months)"])
        case .users(let users): (.users, list(users.map(\.text)))
        case .projects(let projects): (.projects, list(projects))
        case .institutions(let institutions): (.institutions, list(institutions))
        case .returnResults: (.returnResults, [:])
        case .clinicalCare: (.clinicalCare, [:])
        case .noAncestry: (.noAncestry, [:])
        }
    }
}
