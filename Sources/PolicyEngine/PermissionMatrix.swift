package import Vocabulary

/// Who may do what with which data set, as the policies say: role × action × data set.
package struct PermissionMatrix: Sendable {
    package enum Action: String, CaseIterable, Sendable {
        case request
        case approve
        case run
        case seeLosses = "see-losses"
        case seeMetrics = "see-metrics"
        case reviewRelease = "review-release"
        case approveBreakGlass = "approve-break-glass"
    }

    package struct Row: Sendable, Equatable {
        package let dataset: DatasetID
        package let action: Action
        /// What must hold, by role; a role that is not named may not.
        package let roles: [String: String]
        package let rule: String
    }

    package let rows: [Row]

    /// - Parameter researcher: the role whose people ask for data and run; the other roles are the policies' own.
    package init(of set: PolicySet, researcher: String) {
        rows = set.policies.values.sorted { $0.dataset < $1.dataset }.flatMap { policy in
            Action.allCases.map { Self.row($0, policy, researcher) }
        }
    }

    private static func row(_ action: Action, _ policy: Policy, _ researcher: String) -> Row {
        func row(_ path: String, _ roles: [String], _ words: String) -> Row {
            Row(
                dataset: policy.dataset, action: action,
                roles: Dictionary(roles.map { ($0, words) }) { first, _ in first },
                rule: "\(policy.dataset)/\(path)")
        }
        func figures(_ clause: Clause<Bool>) -> Row {
            row(
                clause.path, clause.value ? [researcher] : [],
                "of at least \(policy.progress.cohortMin.value) people, in steps of \(policy.progress.roundThousandths.value)/1000"
            )
        }
        let modifiers = policy.modifiers.map(\.value.code.shorthand).joined(separator: ", ")
        let use = policy.permission.value.shorthand + (modifiers.isEmpty ? "" : " with \(modifiers)")
        switch action {
        case .request: return row("permission", [researcher], "for \(use)")
        case .approve:
            let approvals = policy.access.approvals.value
            return row(
                "access.approvals", approvals.required == 0 ? [] : approvals.roles,
                "\(approvals.required) different people, not the requester"
                    + (approvals.authorMayApprove ? "" : " or the data's author"))
        case .run:
            let training = policy.training
            return row(
                "training", [researcher],
                "under a grant, in \(training.pools.value.joined(separator: " or ")), evidence \(training.evidence.value.rawValue), at most \(training.hoursMax.value) hours by each \(training.hoursPer.rawValue)"
            )
        case .seeLosses: return figures(policy.progress.losses)
        case .seeMetrics: return figures(policy.progress.metrics)
        case .reviewRelease:
            return row(
                "release.reviewers", policy.release.reviewers.value == 0 ? [] : policy.release.roles.value,
                "\(policy.release.reviewers.value) different people, not the researcher")
        case .approveBreakGlass:
            let clause = policy.breakGlass?.value
            return row(
                "break_glass", clause.map { $0.allowed ? [$0.approver] : [] } ?? [],
                "for at most \(clause?.minutesMax ?? 0) minutes")
        }
    }
}

extension PermissionMatrix.Row {
    package var json: JSON {
        [
            "dataset": .string(dataset.text), "action": .string(action.rawValue), "rule": .string(rule),
            "roles": .object(roles.mapValues(JSON.string)),
        ]
    }
}
