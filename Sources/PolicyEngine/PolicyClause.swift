/// Where a clause of a policy stands, and what it is about: for coverage, explanations and lint.
struct ClausePlace {
    let path: String
    let line: Int
    let term: DUO?
    /// The kinds of questions that it has a say in.
    let asks: Set<Question.Kind>
    /// Whether it can decide something as it is written; the weakest evidence and no minimum refuse nobody.
    let decides: Bool
}

extension Policy {
    /// Every clause, in the order of the file format.
    var clauses: [ClausePlace] {
        func place<Value>(
            _ clause: Clause<Value>, _ asks: Set<Question.Kind>, term: DUO? = nil, decides: Bool = true
        ) -> ClausePlace {
            ClausePlace(path: clause.path, line: clause.line, term: term, asks: asks, decides: decides)
        }
        var all = [place(permission, [.access, .run], term: permission.value)]
        if permission.value == .disease { all.append(place(diseases, [.access, .run])) }
        all += modifiers.map { place($0, Self.asks(of: $0.value), term: $0.value.code) }
        all.append(place(access.approvals, [.access, .run]))
        if let visas = access.visas { all.append(place(visas, [.access, .run])) }
        if let notices = access.notices { all.append(place(notices, [.access, .run, .release])) }
        all += [place(training.pools, [.run])]
        all.append(place(training.evidence, [.run], decides: training.evidence.value > .software))
        all.append(place(training.hoursMax, [.access, .run]))
        if let rtt = training.rttMicrosecondsMax { all.append(place(rtt, [.run])) }
        if let targets = training.targets { all.append(place(targets, [.run])) }
        for figure in [progress.losses, progress.metrics] { all.append(place(figure, [.progress], decides: false)) }
        all.append(place(progress.cohortMin, [.progress], decides: false))
        all.append(place(progress.roundThousandths, [.progress], decides: false))
        all.append(place(release.cohortMin, [.run, .release], decides: release.cohortMin.value > 0))
        all += [place(release.checks, [.release]), place(release.reviewers, [.release])]
        if let breakGlass { all.append(place(breakGlass, [.access], decides: breakGlass.value.allowed)) }
        return all
    }

    private static func asks(of modifier: Modifier) -> Set<Question.Kind> {
        switch modifier {
        case .researchTypes, .noMethods, .geneticOnly, .notForProfitNonCommercial, .notForProfit, .nonCommercial,
            .noAncestry, .clinicalCare, .timeLimit, .users, .regions, .projects, .institutions:
            [.access, .run]
        case .publication, .collaboration, .returnResults, .moratorium: [.access, .run, .release]
        case .ethicsApproval: [.access]
        }
    }
}
