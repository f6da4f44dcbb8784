import Vocabulary

/// Looks at policy files as a careful colleague would: every error that loading would report, and what is allowed but
/// probably not meant.
package enum PolicyLint {
    package static func findings(in files: [PolicyFile]) -> [Finding] {
        let draft: PolicyDraft
        let set: PolicySet
        do throws(PolicyError) {
            draft = try PolicyDraft(files: files)
            // Nothing is recorded under this set, so its name does not matter.
            set = try PolicySet(files: files, hash: { _ in Digest(repeatElement(0, count: Digest.byteCount))! })
        } catch {
            return error.findings
        }
        var findings: [Finding] = []
        for policy in draft.policies.values.sorted(by: { $0.file < $1.file }) {
            findings += warnings(policy)
            guard let suite = draft.suites.first(where: { $0.dataset == policy.dataset }) else {
                findings.append(warning(.testMissing, policy, 1, "no test stands beside this policy"))
                continue
            }
            let hit = suite.run(on: set).reduce(into: Set<String>()) { $0.formUnion($1.rules) }
            for clause in policy.clauses where !hit.contains("\(policy.dataset.text)/\(clause.path)") {
                findings.append(warning(.testUncovered, policy, clause.line, "no test reaches '\(clause.path)'"))
            }
        }
        return findings
    }

    private static func warnings(_ policy: Policy) -> [Finding] {
        var findings: [Finding] = []
        let guarded = policy.level == .veryStrong || policy.level == .strong
        if guarded, policy.training.evidence.value == .software {
            findings.append(
                warning(
                    .evidenceWeak, policy, policy.training.evidence.line,
                    "software evidence does not protect \(policy.level.rawValue) data from the GPU host's root"))
        }
        if policy.level != .open, policy.release.cohortMin.value < 10 {
            findings.append(
                warning(
                    .cohortSmall, policy, policy.release.cohortMin.line,
                    "figures of fewer than 10 people are usually masked"))
        }
        if policy.progress.losses.value || policy.progress.metrics.value,
            policy.progress.roundThousandths.value < 5, policy.level != .open
        {
            findings.append(
                warning(
                    .figuresExact, policy, policy.progress.roundThousandths.line,
                    "figures this exact can tell whether one person is in the data"))
        }
        let health = policy.permission.value == .health || policy.permission.value == .disease
        for modifier in policy.modifiers {
            if modifier.value == .noAncestry, health {
                findings.append(
                    warning(.modifierIdle, policy, modifier.line, "the permission already excludes ancestry research"))
            }
            if policy.permission.value == .noRestriction {
                findings.append(
                    warning(.modifierIdle, policy, modifier.line, "'no restriction' with a modifier contradicts itself")
                )
            }
        }
        return findings
    }

    private static func warning(_ rule: Finding.Rule, _ policy: Policy, _ line: Int, _ message: String) -> Finding {
        Finding(rule: rule, severity: .warning, file: policy.file, line: line, column: 1, message: message)
    }
}

extension Policy {
    /// Every clause that can decide something, for coverage; the weakest evidence and no minimum refuse nobody.
    fileprivate var clauses: [(path: String, line: Int)] {
        func place<Value>(_ clause: Clause<Value>) -> (path: String, line: Int) { (clause.path, clause.line) }
        var all = [place(permission), place(access.approvals)]
        all += modifiers.map(place)
        if permission.value == .disease { all.append(place(diseases)) }
        if let visas = access.visas { all.append(place(visas)) }
        if let notices = access.notices { all.append(place(notices)) }
        all += [place(training.pools), place(training.hoursMax)]
        if training.evidence.value > .software { all.append(place(training.evidence)) }
        if let rtt = training.rttMicrosecondsMax { all.append(place(rtt)) }
        if let targets = training.targets { all.append(place(targets)) }
        all += [place(release.checks), place(release.reviewers)]
        if release.cohortMin.value > 0 { all.append(place(release.cohortMin)) }
        return all
    }
}
