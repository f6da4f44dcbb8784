/// Looks at policy files as a careful colleague would: every error that loading would report, and what is allowed but
/// probably not meant.
package enum PolicyLint {
    package static func findings(in files: [PolicyFile]) -> [Finding] {
        let draft: PolicyDraft
        let tested: PolicyTests
        do throws(PolicyError) {
            draft = try PolicyDraft(files: files)
            tested = try PolicyTests(of: files)
        } catch {
            return error.findings
        }
        guard tested.failures.isEmpty else { return tested.failures }
        var findings = tested.uncovered
        for policy in draft.policies.values.sorted(by: { $0.file < $1.file }) {
            findings += warnings(policy)
        }
        return findings.sorted { ($0.file, $0.line, $0.rule.rawValue) < ($1.file, $1.line, $1.rule.rawValue) }
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

    static func warning(_ rule: Finding.Rule, _ policy: Policy, _ line: Int, _ message: String) -> Finding {
        Finding(rule: rule, severity: .warning, file: policy.file, line: line, column: 1, message: message)
    }
}
