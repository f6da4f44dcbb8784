import Vocabulary

/// The same rules in Cedar (https://docs.cedarpolicy.com), for people and tools that know it.
///
/// Every answer but *permit* is a `forbid` there: Cedar has no "a person must look at it first". Cedar skips a rule
/// whose evaluation fails, so a failing `forbid` would let a request through; no condition here can fail: optional facts
/// are asked for with `has`, and sums are bounded before they are made. `Cedar.schema` lets Cedar's validator prove it.
package enum Cedar {
    /// The types of what is asked. Facts that Cedar cannot compute stand in the context ready-made: counts of people
    /// (`approvals`: different people in the policy's roles, without the requester and, unless the policy says
    /// otherwise, without the data set's authors), visas that have not expired as `TYPE by AUTHORITY`, the latest day an
    /// ethics approval holds, months that a grant has been held, and diseases with their kinds.
    /// `breakGlass` counts the approver's votes for itself.
    package static let schema = """
        entity Person;
        entity Dataset;
        type Purpose = {
          codes: Set<String>, diseases: Set<String>, diseaseCodesValid: Bool, researchTypes: Set<String>,
          ancestry?: Bool, methods?: Bool, commercial?: Bool, notForProfit?: Bool, genetic?: Bool
        };
        type Grant = {
          dataset: String, holder: String, purpose: Purpose, diseasesWithKinds: Set<String>, granted: Long,
          expires: Long, monthsHeld: Long, revoked: Bool, emergency: Bool, obligations: Set<String>,
          country?: String, institution?: String, project?: String
        };
        type BreakGlass = { reasoned: Bool, minutes: Long, unreviewed: Long, approvals: Long, rejected: Bool };
        type Device = { pool: String, evidence: Long, rttMicroseconds?: Long };
        action access appliesTo { principal: Person, resource: Dataset, context: {
          now: Long, requester: String, purpose: Purpose, termMonths?: Long, country?: String, institution?: String,
          project?: String, ethicsUntil?: Long, agreements: Set<String>, visas: Set<String>, approvals: Long,
          rejected: Bool, revoked: Bool, breakGlass?: BreakGlass
        } };
        action run appliesTo { principal: Person, resource: Dataset, context: {
          now: Long, requester: String, purpose: Purpose, target: String, grant?: Grant, cohort: Long, device?: Device,
          hoursUsed: Long, hoursAsked: Long, visas: Set<String>
        } };
        action progress appliesTo { principal: Person, resource: Dataset, context: { figure: String, cohort: Long } };
        action release appliesTo { principal: Person, resource: Dataset, context: {
          cohort: Long, checks: Set<String>, failedChecks: Set<String>, reviews: Long, rejected: Bool
        } };

        """
}

extension PolicySet {
    /// Every policy as Cedar text, by data set.
    package var cedar: String {
        policies.values.sorted { $0.dataset < $1.dataset }.map { cedar(of: $0) }.joined(separator: "\n")
    }

    /// One data set's policy as Cedar text.
    package func cedar(of policy: Policy) -> String {
        var text = CedarWriter(policy)
        text.purpose(policy, diseases, on: [.access, .run])
        text.access(policy)
        text.run(policy)
        text.progress(policy)
        text.release(policy)
        return text.lines.joined(separator: "\n") + "\n"
    }
}

/// Writes one policy's rules. Conditions are what must hold.
private struct CedarWriter {
    enum Action: String, CaseIterable { case access, run, progress, release }

    private let dataset: String
    private(set) var lines: [String]

    init(_ policy: Policy) {
        dataset = policy.dataset.text
        lines = ["// \(dataset), from \(policy.file)"]
        for action in Action.allCases {
            lines.append(
                "@id(\(quoted(dataset + "/" + action.rawValue)))\npermit (principal, \(scope(action)));")
        }
    }

    private func scope(_ action: Action) -> String {
        "action == Action::\(quoted(action.rawValue)), resource == Dataset::\(quoted(dataset))"
    }

    private mutating func demand<Value>(_ clause: Clause<Value>, on actions: [Action], _ condition: String) {
        for action in actions {
            lines.append(
                "@id(\(quoted(dataset + "/" + clause.path)))\nforbid (principal, \(scope(action)))\nunless { \(condition) };"
            )
        }
    }

    // MARK: - What it is for

    mutating func purpose(_ policy: Policy, _ tree: DiseaseTree, on actions: [Action]) {
        let permission = policy.permission.value
        var codes: [DUO] = []
        if [.noRestriction, .general].contains(permission) { codes.append(.general) }
        if [.noRestriction, .general, .health].contains(permission) { codes.append(.health) }
        if permission != .ancestry { codes.append(.disease) }
        if [.noRestriction, .general, .ancestry].contains(permission) { codes.append(.ancestry) }
        if permission == .noRestriction || policy.modifiers.contains(where: { $0.value == .clinicalCare }) {
            codes.append(.clinicalCare)
        }
        let asked = "context.purpose.codes"
        let permissionClause = policy.permission
        demand(
            permissionClause, on: actions,
            "!\(asked).isEmpty() && \(set(codes.map(\.rawValue))).containsAll(\(asked))")
        let disease = "\(asked).contains(\(quoted(DUO.disease.rawValue)))"
        demand(
            permissionClause, on: actions,
            "!\(disease) || (!context.purpose.diseases.isEmpty() && context.purpose.diseaseCodesValid)")
        if permission == .disease {
            let served = tree.kinds(of: policy.diseases.value).map(\.code).sorted()
            demand(policy.diseases, on: actions, "!\(disease) || \(set(served)).containsAll(context.purpose.diseases)")
        }
        let namesAncestry = "\(asked).contains(\(quoted(DUO.ancestry.rawValue)))"
        demand(permissionClause, on: actions, "!\(namesAncestry) || !(\(fact("ancestry", is: false)))")
        if permission == .health || permission == .disease {
            demand(permissionClause, on: actions, "\(namesAncestry) || !(\(fact("ancestry", is: true)))")
        }
        for modifier in policy.modifiers { purpose(modifier, on: actions) }
    }

    private mutating func purpose(_ modifier: Clause<Modifier>, on actions: [Action]) {
        let asked = "context.purpose.codes"
        switch modifier.value {
        case .researchTypes(let allowed):
            demand(
                modifier, on: actions,
                "!context.purpose.researchTypes.isEmpty() && \(set(allowed)).containsAll(context.purpose.researchTypes)"
            )
        case .noMethods: demand(modifier, on: actions, fact("methods", is: false))
        case .geneticOnly: demand(modifier, on: actions, fact("genetic", is: true))
        case .notForProfitNonCommercial:
            demand(modifier, on: actions, "\(fact("notForProfit", is: true)) && \(fact("commercial", is: false))")
        case .notForProfit: demand(modifier, on: actions, fact("notForProfit", is: true))
        case .nonCommercial: demand(modifier, on: actions, fact("commercial", is: false))
        case .noAncestry:
            // General research may touch ancestry, so it must say that it does not.
            demand(
                modifier, on: actions,
                "!\(asked).contains(\(quoted(DUO.ancestry.rawValue))) && (\(fact("ancestry", is: false))"
                    + " || (!(context.purpose has ancestry) && !\(asked).contains(\(quoted(DUO.general.rawValue)))))")
        case .publication, .collaboration, .ethicsApproval, .regions, .moratorium, .timeLimit, .users, .projects,
            .institutions, .returnResults, .clinicalCare:
            break
        }
    }

    private func fact(_ name: String, is value: Bool) -> String {
        "context.purpose has \(name) && context.purpose.\(name) == \(value)"
    }

    // MARK: - Who, where, how long

    mutating func access(_ policy: Policy) {
        for modifier in policy.modifiers {
            switch modifier.value {
            case .publication, .collaboration, .returnResults, .moratorium:
                demand(
                    modifier, on: [.access], "context.agreements.contains(\(quoted(modifier.value.code.rawValue)))")
            case .ethicsApproval:
                demand(
                    modifier, on: [.access],
                    orInEmergency("context has ethicsUntil && context.ethicsUntil > context.now"))
            case .regions(let allowed): demand(modifier, on: [.access], listed("country", allowed))
            case .timeLimit(let months):
                demand(
                    modifier, on: [.access],
                    orInEmergency("context has termMonths && context.termMonths <= \(months)"))
            case .users(let allowed):
                demand(
                    modifier, on: [.access, .run], "\(set(allowed.map(\.text))).contains(context.requester)")
            case .projects(let allowed): demand(modifier, on: [.access], listed("project", allowed))
            case .institutions(let allowed): demand(modifier, on: [.access], listed("institution", allowed))
            default: break
            }
        }
        demand(
            policy.permission, on: [.access],
            "if context has termMonths then 1 <= context.termMonths && context.termMonths <= 1200"
                + " else context has breakGlass")
        if let visas = policy.access.visas {
            for type in visas.value.types {
                let good = visas.value.by.map { "\(type) by \($0)" }
                let isHeld = "\(set(good)).containsAny(context.visas)"
                demand(visas, on: [.access], orInEmergency(isHeld))
                demand(visas, on: [.run], "(context has grant && context.grant.emergency) || \(isHeld)")
            }
        }
        let approvals = policy.access.approvals
        demand(approvals, on: [.access], "!context.revoked")
        demand(
            approvals, on: [.access],
            orInEmergency("!context.rejected && context.approvals >= \(approvals.value.required)"))
        if let clause = policy.breakGlass, clause.value.allowed {
            demand(
                clause, on: [.access],
                "if context has breakGlass then context.breakGlass.reasoned && 1 <= context.breakGlass.minutes"
                    + " && context.breakGlass.minutes <= \(clause.value.minutesMax)"
                    + " && context.breakGlass.unreviewed == 0 && context.breakGlass.approvals >= 1"
                    + " && !context.breakGlass.rejected else true")
        } else {
            demand(approvals, on: [.access], "!(context has breakGlass)")
        }
    }

    private func orInEmergency(_ condition: String) -> String { "context has breakGlass || (\(condition))" }

    private func listed(_ name: String, _ allowed: [String]) -> String {
        "context has \(name) && \(set(allowed)).contains(context.\(name))"
    }

    // MARK: - A run

    mutating func run(_ policy: Policy) {
        let clause = policy.access.approvals
        let grant = "context.grant"
        demand(
            clause, on: [.run],
            "context has grant && !\(grant).revoked && context.now < \(grant).expires"
                + " && \(grant).granted <= context.now && \(grant).dataset == \(quoted(policy.dataset.text))"
                + " && \(grant).holder == context.requester")
        let held = "\(grant).purpose"
        let same = ["ancestry", "methods", "commercial", "notForProfit", "genetic"].map { name in
            "((\(held) has \(name) && context.purpose has \(name) && \(held).\(name) == context.purpose.\(name))"
                + " || (!(\(held) has \(name)) && !(context.purpose has \(name))))"
        }
        demand(
            clause, on: [.run],
            "context has grant && \(held).codes.containsAll(context.purpose.codes)"
                + " && \(grant).diseasesWithKinds.containsAll(context.purpose.diseases)"
                + " && \(held).researchTypes.containsAll(context.purpose.researchTypes) && "
                + same.joined(separator: " && "))
        for modifier in policy.modifiers {
            switch modifier.value {
            case .publication: obliged(modifier, .publish)
            case .collaboration: obliged(modifier, .collaborate)
            case .returnResults: obliged(modifier, .returnResults)
            case .moratorium: obliged(modifier, .moratorium)
            case .timeLimit(let months):
                demand(modifier, on: [.run], "context has grant && \(grant).monthsHeld < \(months)")
            case .regions(let allowed): heldFor(modifier, "country", allowed)
            case .projects(let allowed): heldFor(modifier, "project", allowed)
            case .institutions(let allowed): heldFor(modifier, "institution", allowed)
            default: break
            }
        }
        if let targets = policy.training.targets {
            let allowed = targets.value.sorted { $0.key < $1.key }.map { column, codes in
                "(context.target == \(quoted(column))"
                    + (codes.isEmpty ? ")" : " && context.purpose.codes.containsAll(\(set(codes.map(\.rawValue)))))")
            }
            demand(targets, on: [.run], allowed.isEmpty ? "false" : allowed.joined(separator: " || "))
        }
        demand(policy.release.cohortMin, on: [.run, .release], "context.cohort >= \(policy.release.cohortMin.value)")
        device(policy.training)
    }

    private mutating func obliged(_ modifier: Clause<Modifier>, _ code: Obligation.Code) {
        demand(
            modifier, on: [.run],
            "context has grant && context.grant.obligations.contains(\(quoted(code.rawValue)))")
    }

    private mutating func heldFor(_ modifier: Clause<Modifier>, _ name: String, _ allowed: [String]) {
        demand(
            modifier, on: [.run],
            "context has grant && context.grant has \(name) && \(set(allowed)).contains(context.grant.\(name))")
    }

    private mutating func device(_ training: Policy.Training) {
        demand(
            training.pools, on: [.run],
            "context has device && \(set(training.pools.value)).contains(context.device.pool)")
        let rank = Evidence.allCases.firstIndex(of: training.evidence.value)!
        demand(training.evidence, on: [.run], "context has device && context.device.evidence >= \(rank)")
        if let limit = training.rttMicrosecondsMax {
            demand(
                limit, on: [.run],
                "context has device && context.device has rttMicroseconds && context.device.rttMicroseconds >= 0"
                    + " && context.device.rttMicroseconds <= \(limit.value)")
        }
        let hours = training.hoursMax
        demand(
            hours, on: [.run],
            "0 <= context.hoursUsed && context.hoursUsed <= \(hours.value) && 1 <= context.hoursAsked"
                + " && context.hoursAsked <= \(hours.value)"
                + " && context.hoursUsed + context.hoursAsked <= \(hours.value)")
    }

    // MARK: - What leaves

    mutating func progress(_ policy: Policy) {
        let progress = policy.progress
        for (figure, clause) in [("loss", progress.losses), ("metric", progress.metrics)] where !clause.value {
            demand(clause, on: [.progress], "context.figure != \(quoted(figure))")
        }
        demand(progress.cohortMin, on: [.progress], "context.cohort >= \(progress.cohortMin.value)")
    }

    mutating func release(_ policy: Policy) {
        let release = policy.release
        let checks = release.checks.value.map(\.rawValue)
        demand(
            release.checks, on: [.release],
            (checks.isEmpty ? "" : "context.checks.containsAll(\(set(checks))) && ") + "context.failedChecks.isEmpty()")
        demand(release.reviewers, on: [.release], "!context.rejected && context.reviews >= \(release.reviewers.value)")
    }

    // MARK: - Text

    private func quoted(_ text: String) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": escaped += "\\\""
            case "\\": escaped += "\\\\"
            case _ where scalar.value < 0x20: escaped += "\\u{\(String(scalar.value, radix: 16))}"
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return "\"\(escaped)\""
    }

    private func set(_ members: [String]) -> String { "[\(members.map(quoted).joined(separator: ", "))]" }
}
