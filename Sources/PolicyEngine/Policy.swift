package import Vocabulary

/// What one data set's steward allows, read from one file under `policies/`. Only a loaded `PolicySet` holds any.
package struct Policy: Sendable {
    package let file: String
    package let dataset: DatasetID
    package let level: Level
    package let permission: Clause<DUO>
    /// Only with the permission DUO:0000007: research on these diseases and their kinds.
    package let diseases: Clause<[Disease]>
    package let modifiers: [Clause<Modifier>]
    package let access: Access
    package let training: Training
    package let progress: Progress
    package let release: Release
    package let breakGlass: Clause<BreakGlass>?
}

/// A part of a policy, with the line it stands on and its path in the file, which names the rule in every reason.
package struct Clause<Value: Sendable>: Sendable {
    package let value: Value
    package let path: String
    package let line: Int
}

/// How well a data set is guarded, in the five steps ToMMo uses.
package enum Level: String, CaseIterable, Sendable {
    case veryStrong = "very-strong"
    case strong
    case standard
    case semiOpen = "semi-open"
    case open
}

/// What a device has proved about itself, weakest first.
package enum Evidence: String, CaseIterable, Comparable, Sendable {
    case software
    case tpm
    case hardware = "hw-tee"

    package static func < (left: Self, right: Self) -> Bool { left.rank < right.rank }

    private var rank: Int {
        switch self {
        case .software: 0
        case .tpm: 1
        case .hardware: 2
        }
    }
}

/// What a release can be checked for.
package enum ReleaseCheck: String, CaseIterable, Sendable {
    /// Only allowed kinds of file, and nothing in them but the model.
    case artefact
    /// No tensor with a dimension equal to the number of nodes: that would be a row per person.
    case shape
    case cohort
    /// Residual degrees of freedom.
    case freedom
    case membership
    case disclosure
    case loss
}

/// A DUO modifier with what it needs to be decided.
package enum Modifier: Hashable, Sendable {
    case researchTypes([String])
    case noMethods
    case geneticOnly
    case notForProfitNonCommercial
    case notForProfit
    case nonCommercial
    case publication
    case collaboration(with: String?)
    case ethicsApproval
    case regions([String])
    case moratorium(until: CalendarDate)
    case timeLimit(months: Int)
    case users([PersonID])
    case projects([String])
    case institutions([String])
    case returnResults
    case clinicalCare
    case noAncestry

    package var code: DUO {
        switch self {
        case .researchTypes: .researchType
        case .noMethods: .noMethods
        case .geneticOnly: .geneticOnly
        case .notForProfitNonCommercial: .notForProfitNonCommercial
        case .notForProfit: .notForProfit
        case .nonCommercial: .nonCommercial
        case .publication: .publication
        case .collaboration: .collaboration
        case .ethicsApproval: .ethicsApproval
        case .regions: .region
        case .moratorium: .moratorium
        case .timeLimit: .timeLimit
        case .users: .users
        case .projects: .projects
        case .institutions: .institutions
        case .returnResults: .returnResults
        case .clinicalCare: .clinicalCare
        case .noAncestry: .noAncestry
        }
    }
}

extension Policy {
    /// Who must agree, and what must be known of the requester, before a grant.
    package struct Access: Sendable {
        package let approvals: Clause<Approvals>
        package let visas: Clause<Visas>?
        /// Texts that everyone who uses the data must see, such as an acknowledgement.
        package let notices: Clause<[String]>?
    }

    package struct Approvals: Sendable {
        package let required: Int
        package let roles: [String]
        /// May whoever brought the data set in approve requests for it?
        package let authorMayApprove: Bool
    }

    /// GA4GH visas that the requester must hold, each asserted by one of `by`.
    package struct Visas: Sendable, Equatable {
        package let types: [String]
        package let by: [String]
    }

    package struct Training: Sendable {
        package let pools: Clause<[String]>
        package let evidence: Clause<Evidence>
        /// Device hours that may be used up in all, by each of `hoursPer`.
        package let hoursMax: Clause<Int>
        package let hoursPer: HoursScope
        package let rttMicrosecondsMax: Clause<Int>?
        /// What predicting a label column amounts to, as DUO permission codes. When given, no other column may be
        /// predicted, and a run's purpose must cover the codes of the one it predicts.
        package let targets: Clause<[String: [DUO]]>?
    }

    /// Whose device hours are counted together, on one data set.
    package enum HoursScope: String, CaseIterable, Sendable { case grant, person, project }

    /// What a researcher may see of a run before its release.
    package struct Progress: Sendable {
        package let losses: Clause<Bool>
        package let metrics: Clause<Bool>
        package let cohortMin: Clause<Int>
        /// Figures are rounded to multiples of this many thousandths.
        package let roundThousandths: Clause<Int>
    }

    package struct Release: Sendable {
        package let cohortMin: Clause<Int>
        package let checks: Clause<[ReleaseCheck]>
        package let reviewers: Clause<Int>
        /// Roles whose members may review; the approvers' when the file names none.
        package let roles: Clause<[String]>
    }

    package struct BreakGlass: Sendable {
        package let allowed: Bool
        package let minutesMax: Int
        package let approver: String
    }
}
