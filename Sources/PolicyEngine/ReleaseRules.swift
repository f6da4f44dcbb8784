import Vocabulary

extension PolicySet {
    /// May the researcher see this kind of figure of a run that is not released? A permit may oblige to round it.
    package func decide(_ question: ProgressQuestion) -> Decision { judge(question).decision }

    func judge(_ question: ProgressQuestion) -> Judgement {
        judgement(on: question.dataset) { policy, ruling in
            let progress = policy.progress
            let clause =
                switch question.figure {
                case .loss: progress.losses
                case .metric: progress.metrics
                }
            guard clause.value else {
                ruling.refuse(.figureHidden, clause, "this figure is not shown before the release")
                return
            }
            guard question.cohort >= progress.cohortMin.value else {
                ruling.refuse(
                    .cohortTooSmall, progress.cohortMin,
                    "fewer than \(progress.cohortMin.value) people stand behind the figure")
                return
            }
            ruling.permit(.figureShown, clause, "the figure may be shown, rounded")
            ruling.oblige(.roundThousandths, progress.roundThousandths, String(progress.roundThousandths.value))
        }
    }

    /// May this candidate leave the vault?
    package func decide(_ question: ReleaseQuestion) -> Decision { judge(question).decision }

    func judge(_ question: ReleaseQuestion) -> Judgement {
        judgement(on: question.dataset) { policy, ruling in
            let release = policy.release
            if question.cohort < release.cohortMin.value {
                ruling.refuse(
                    .cohortTooSmall, release.cohortMin, "fewer than \(release.cohortMin.value) people were in the run")
            }
            var complete = true
            for check in release.checks.value where !question.checks.contains(where: { $0.check == check }) {
                complete = false
                ruling.refuse(.checkMissing, release.checks, "the check '\(check.rawValue)' has no result")
            }
            // A check that failed counts even where the policy does not ask for it.
            for result in question.checks where !result.passed {
                complete = false
                ruling.refuse(.checkFailed, release.checks, "the check '\(result.check.rawValue)' failed")
            }
            if complete { ruling.permit(.checksPassed, release.checks, "every check passed") }
            let tally = Tally(question.votes, roles: release.roles.value, excluding: [question.researcher])
            let needed = release.reviewers
            if tally.rejected {
                ruling.refuse(.reviewRejected, needed, "a reviewer has rejected the release")
            } else if tally.approvals < needed.value {
                ruling.needsHuman(
                    .reviewsWaiting, needed,
                    "\(tally.approvals) of \(needed.value) reviews by \(release.roles.value.joined(separator: ", "))")
            } else if needed.value > 0 {
                ruling.permit(.reviewsMet, needed, "\(needed.value) different people have reviewed it")
            }
            if let notices = policy.access.notices {
                for text in notices.value { ruling.oblige(.notice, notices, text) }
            }
            for modifier in policy.modifiers {
                switch modifier.value {
                case .publication: ruling.oblige(.publish, modifier)
                case .collaboration(let with): ruling.oblige(.collaborate, modifier, with ?? "")
                case .returnResults: ruling.oblige(.returnResults, modifier)
                case .moratorium(let until) where question.now < Timestamp(until):
                    ruling.oblige(.moratorium, modifier, until.description)
                default: break
                }
            }
        }
    }
}
