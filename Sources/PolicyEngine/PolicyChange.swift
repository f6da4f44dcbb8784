package import Vocabulary

/// What one set of policies changes of another: a step is *narrower* where its structure alone proves that no question
/// gets a milder answer by it, and *wider* wherever that is not proven. Replaying past decisions proves nothing here:
/// what nobody has asked yet may still be allowed.
package struct PolicyChange: Sendable, Equatable {
    package enum Direction: String, Sendable { case narrower, wider }

    package struct Step: Sendable, Equatable {
        package let direction: Direction
        /// Data set and path of the clause, or the file.
        package let rule: String
        package let text: String

        package var description: String { "\(direction.rawValue): \(rule): \(text)" }
        package var json: JSON {
            ["direction": .string(direction.rawValue), "rule": .string(rule), "text": .string(text)]
        }
    }

    package let steps: [Step]
    /// Asks for the stronger quorum.
    package var widens: Bool { steps.contains { $0.direction == .wider } }

    package init(from old: PolicySet, to new: PolicySet) {
        var comparison = Comparison(tree: old.diseases)
        comparison.compare(old.diseases, new.diseases)
        for dataset in Set(old.policies.keys).union(new.policies.keys).sorted() {
            comparison.dataset = dataset.text
            switch (old.policies[dataset], new.policies[dataset]) {
            case (let old?, let new?): comparison.compare(old, new)
            case (nil, _): comparison.add("", .wider, "a data set that no policy spoke of before")
            case (_, nil): comparison.add("", .narrower, "no policy speaks of the data set any more")
            }
            switch (old.forms[dataset], new.forms[dataset]) {
            case (nil, nil): break
            case (nil, _?): comparison.add("form", .narrower, "requests answer a form")
            case (_?, nil): comparison.add("form", .wider, "requests answer no form any more")
            // Which of two forms asks for more, no structure proves.
            case (let was?, let now?): if was.form != now.form { comparison.add("form", .wider, "another form") }
            }
        }
        steps = comparison.steps
    }
}

private struct Comparison {
    let tree: DiseaseTree
    var dataset = ""
    private(set) var steps: [PolicyChange.Step] = []

    init(tree: DiseaseTree) { self.tree = tree }

    mutating func add(_ path: String, _ direction: PolicyChange.Direction, _ text: String) {
        steps.append(
            PolicyChange.Step(direction: direction, rule: path.isEmpty ? dataset : "\(dataset)/\(path)", text: text))
    }

    mutating func compare(_ old: DiseaseTree, _ new: DiseaseTree) {
        dataset = "diseases.yaml"
        switch (new.isWithin(old), old.isWithin(new)) {
        case (true, true): break
        case (true, false): add("parents", .narrower, "fewer diseases count as kinds of others")
        default: add("parents", .wider, "a disease counts as a kind of another that did not before")
        }
    }

    mutating func compare(_ old: Policy, _ new: Policy) {
        if old.level != new.level {
            let levels = Level.allCases
            step(
                "level", levels.firstIndex(of: new.level)! < levels.firstIndex(of: old.level)!,
                "\(old.level.rawValue) → \(new.level.rawValue)")
        }
        comparePurpose(old, new)
        compareModifiers(old.modifiers.map(\.value), new.modifiers.map(\.value))
        compare(old.access, new.access)
        compare(old.training, new.training)
        compare(old.progress, new.progress)
        compare(old.release, new.release)
        compare(old.breakGlass?.value, new.breakGlass?.value)
    }

    // MARK: - What it is for

    private mutating func comparePurpose(_ old: Policy, _ new: Policy) {
        let (was, now) = (old.permission.value, new.permission.value)
        if was != now {
            step("permission", Self.narrower(than: was).contains(now), "\(was.shorthand) → \(now.shorthand)")
        } else if was == .disease, Set(old.diseases.value) != Set(new.diseases.value) {
            let tree = tree
            let within = new.diseases.value.allSatisfy { disease in
                old.diseases.value.contains { tree.isKind(disease, of: $0) }
            }
            step(
                "diseases", within, "\(list(old.diseases.value.map(\.code))) → \(list(new.diseases.value.map(\.code)))")
        }
    }

    /// The permissions whose every purpose this one allows, too.
    private static func narrower(than permission: DUO) -> Set<DUO> {
        switch permission {
        case .noRestriction: [.general, .health, .disease, .ancestry]
        case .general: [.health, .disease, .ancestry]
        case .health: [.disease]
        default: []
        }
    }

    private mutating func compareModifiers(_ old: [Modifier], _ new: [Modifier]) {
        for modifier in old {
            let name = "\(modifier.code.rawValue) (\(modifier.code.label))"
            guard let now = new.first(where: { $0.code == modifier.code }) else {
                step("modifiers", modifier == .clinicalCare, "\(name) taken away")
                continue
            }
            if now != modifier { step("modifiers", now.isNarrower(than: modifier), "\(name) changed") }
        }
        for modifier in new where !old.contains(where: { $0.code == modifier.code }) {
            step("modifiers", modifier != .clinicalCare, "\(modifier.code.rawValue) (\(modifier.code.label)) added")
        }
    }

    // MARK: - The other sections

    private mutating func compare(_ old: Policy.Access, _ new: Policy.Access) {
        let (was, now) = (old.approvals.value, new.approvals.value)
        let path = "access.approvals"
        number("\(path).required", was.required, now.required, narrowerIs: .higher)
        if Set(was.roles) != Set(now.roles) {
            // Whoever may approve may also reject, so a change of roles takes away one or adds the other; only where no
            // approval was needed at all do more roles only add rejections.
            step(
                "\(path).roles", was.required == 0 && Set(was.roles).isSubset(of: now.roles),
                "\(list(was.roles)) → \(list(now.roles))")
        }
        if was.authorMayApprove != now.authorMayApprove {
            // An author who no longer counts no longer rejects either.
            step("\(path).author_may_approve", false, "\(was.authorMayApprove) → \(now.authorMayApprove)")
        }
        switch (old.visas?.value, new.visas?.value) {
        case (nil, nil): break
        case (nil, _?): step("access.identity", true, "visas are asked for")
        case (_?, nil): step("access.identity", false, "no visa is asked for any more")
        case (let was?, let now?):
            if was != now {
                let narrower = Set(now.types).isSuperset(of: was.types) && Set(now.by).isSubset(of: was.by)
                step("access.identity", narrower, "other visas or sources")
            }
        }
        let notices = (Set(old.notices?.value ?? []), Set(new.notices?.value ?? []))
        if notices.0 != notices.1 {
            step("access.notices", notices.1.isSuperset(of: notices.0), "other notices")
        }
    }

    private mutating func compare(_ old: Policy.Training, _ new: Policy.Training) {
        let path = "training.device"
        subset("\(path).pools", old.pools.value, new.pools.value)
        if old.evidence.value != new.evidence.value {
            step(
                "\(path).evidence", new.evidence.value > old.evidence.value,
                "\(old.evidence.value.rawValue) → \(new.evidence.value.rawValue)")
        }
        number("\(path).hours_max", old.hoursMax.value, new.hoursMax.value, narrowerIs: .lower)
        if old.hoursPer != new.hoursPer {
            // A grant is one person's, for one project: whoever shares the hours can only have fewer.
            step(
                "\(path).hours_per", old.hoursPer == .grant, "\(old.hoursPer.rawValue) → \(new.hoursPer.rawValue)")
        }
        switch (old.rttMicrosecondsMax?.value, new.rttMicrosecondsMax?.value) {
        case (nil, nil): break
        case (nil, let now?): step("\(path).rtt_microseconds_max", true, "at most \(now)")
        case (let was?, nil): step("\(path).rtt_microseconds_max", false, "\(was) → no limit")
        case (let was?, let now?): number("\(path).rtt_microseconds_max", was, now, narrowerIs: .lower)
        }
        switch (old.targets?.value, new.targets?.value) {
        case (nil, nil): break
        case (nil, _?): step("training.targets", true, "only named columns may be predicted")
        case (_?, nil): step("training.targets", false, "any column may be predicted")
        case (let was?, let now?):
            if was.mapValues(Set.init) != now.mapValues(Set.init) {
                let narrower = now.allSatisfy { column, codes in
                    was[column].map { Set(codes).isSuperset(of: $0) } ?? false
                }
                step("training.targets", narrower, "other columns, or for other purposes")
            }
        }
    }

    private mutating func compare(_ old: Policy.Progress, _ new: Policy.Progress) {
        flag("progress.losses", old.losses.value, new.losses.value)
        flag("progress.metrics", old.metrics.value, new.metrics.value)
        number("progress.cohort_min", old.cohortMin.value, new.cohortMin.value, narrowerIs: .higher)
        let (was, now) = (old.roundThousandths.value, new.roundThousandths.value)
        // Only a multiple tells nothing that the finer figure did not.
        if was != now { step("progress.round_thousandths", now.isMultiple(of: was), "\(was) → \(now)") }
    }

    private mutating func compare(_ old: Policy.Release, _ new: Policy.Release) {
        number("release.cohort_min", old.cohortMin.value, new.cohortMin.value, narrowerIs: .higher)
        let checks = (Set(old.checks.value), Set(new.checks.value))
        if checks.0 != checks.1 {
            step(
                "release.checks", checks.1.isSuperset(of: checks.0),
                "\(list(old.checks.value.map(\.rawValue))) → \(list(new.checks.value.map(\.rawValue)))")
        }
        number("release.reviewers", old.reviewers.value, new.reviewers.value, narrowerIs: .higher)
        if Set(old.roles.value) != Set(new.roles.value) {
            step(
                "release.roles", old.reviewers.value == 0 && Set(old.roles.value).isSubset(of: new.roles.value),
                "\(list(old.roles.value)) → \(list(new.roles.value))")
        }
    }

    private mutating func compare(_ old: Policy.BreakGlass?, _ new: Policy.BreakGlass?) {
        let was = old.flatMap { $0.allowed ? $0 : nil }
        let now = new.flatMap { $0.allowed ? $0 : nil }
        switch (was, now) {
        case (nil, nil): break
        case (nil, _?): step("break_glass", false, "allowed")
        case (_?, nil): step("break_glass", true, "no longer allowed")
        case (let was?, let now?):
            number("break_glass.minutes_max", was.minutesMax, now.minutesMax, narrowerIs: .lower)
            if was.approver != now.approver {
                step("break_glass.approver", false, "\(was.approver) → \(now.approver)")
            }
        }
    }

    // MARK: - Values

    private enum Sense { case higher, lower }

    private mutating func step(_ path: String, _ isNarrower: Bool, _ text: String) {
        add(path, isNarrower ? .narrower : .wider, text)
    }

    private mutating func number(_ path: String, _ old: Int, _ new: Int, narrowerIs sense: Sense) {
        if old != new { step(path, sense == .higher ? new > old : new < old, "\(old) → \(new)") }
    }

    private mutating func flag(_ path: String, _ old: Bool, _ new: Bool) {
        if old != new { step(path, !new, "\(old) → \(new)") }
    }

    private mutating func subset(_ path: String, _ old: [String], _ new: [String]) {
        if Set(old) != Set(new) { step(path, Set(new).isSubset(of: old), "\(list(old)) → \(list(new))") }
    }

    private func list(_ words: [String]) -> String { "[\(words.sorted().joined(separator: ", "))]" }
}

extension Modifier {
    /// Whether this one, of the same code, allows nothing that `other` does not; unproven is no.
    fileprivate func isNarrower(than other: Modifier) -> Bool {
        switch (self, other) {
        case (.researchTypes(let new), .researchTypes(let old)), (.regions(let new), .regions(let old)),
            (.projects(let new), .projects(let old)), (.institutions(let new), .institutions(let old)):
            Set(new).isSubset(of: old)
        case (.users(let new), .users(let old)): Set(new).isSubset(of: old)
        case (.timeLimit(let new), .timeLimit(let old)): new <= old
        case (.moratorium(let new), .moratorium(let old)): new >= old
        default: false
        }
    }
}
