import StrictYAML
import Vocabulary

/// Reads policy files strictly: every key known, every value of its type and within its range. Collects all that is
/// wrong with a file, so that a steward can mend it in one go.
struct PolicyReader {
    let file: String
    private(set) var findings: [Finding] = []

    init(file: String) { self.file = file }

    mutating func policy(_ root: YAMLValue) -> Policy? {
        let before = findings.count
        guard
            let fields = fields(
                root, at: "",
                required: ["version", "dataset", "level", "permission", "access", "training", "release"],
                optional: ["diseases", "modifiers", "progress", "break_glass"])
        else { return nil }
        version(fields)
        let dataset = identifier(Dataset.self, fields["dataset"])
        let level = choice(Level.self, fields["level"])
        let permission = self.permission(fields["permission"])
        let diseases = fields["diseases"].flatMap { self.diseases($0) } ?? []
        if let permission, let place = fields["permission"] {
            if permission == .disease, fields["diseases"] == nil {
                add(.keyMissing, place, "DUO:0000007 needs the key 'diseases'")
            }
            if permission != .disease, let place = fields["diseases"] {
                add(.policyConflict, place, "diseases are only read with the permission DUO:0000007; remove them")
            }
        }
        let modifiers = fields["modifiers"].map { self.modifiers($0) } ?? []
        let open = level == .open
        let access = fields["access"].flatMap { self.access($0, level: level) }
        let training = fields["training"].flatMap { self.training($0) }
        let release = fields["release"].flatMap { self.release($0, open: open, access: access) }
        let cohortMin = release?.cohortMin.value ?? 0
        let progress = self.progress(fields["progress"], line: root.line, cohortMin: cohortMin)
        let breakGlass = fields["break_glass"].flatMap { self.breakGlass($0) }
        guard findings.count == before, let dataset, let level, let permission, let access, let training, let release
        else { return nil }
        return Policy(
            file: file, dataset: dataset, level: level,
            permission: clause(permission, "permission", fields["permission"], root),
            diseases: clause(diseases, "diseases", fields["diseases"], root),
            modifiers: modifiers, access: access, training: training, progress: progress, release: release,
            breakGlass: breakGlass)
    }

    /// `diseases.yaml`: which disease is a kind of which.
    mutating func diseaseTree(_ root: YAMLValue) -> DiseaseTree? {
        let before = findings.count
        guard let fields = fields(root, at: "", required: ["version", "parents"], optional: []) else { return nil }
        version(fields)
        guard let place = fields["parents"], case .mapping(let pairs) = place.content else {
            if let place = fields["parents"] { add(.valueType, place, "'parents' must map a disease to its parents") }
            return nil
        }
        var parents: [Disease: [Disease]] = [:]
        for pair in pairs {
            guard let child = disease(pair.key), let above = self.diseases(pair.value) else { continue }
            parents[child] = above
        }
        guard findings.count == before else { return nil }
        do throws(DiseaseCircle) { return try DiseaseTree(parents: parents) } catch {
            let line = pairs.first { $0.key.text == error.disease.code }?.key ?? place
            add(.diseaseCircle, line, "\(error.disease.code) is among its own ancestors")
            return nil
        }
    }

    // MARK: - The sections of a policy

    private mutating func permission(_ value: YAMLValue?) -> DUO? {
        guard let value else { return nil }
        if case .sequence = value.content {
            add(.valueType, value, "a policy has exactly one permission; put the other terms under 'modifiers'")
            return nil
        }
        guard let code = code(value) else { return nil }
        guard code.isPermission else {
            add(.codeKind, value, "\(code.rawValue) (\(code.shorthand)) is a modifier; write it under 'modifiers'")
            return nil
        }
        return code
    }

    private mutating func modifiers(_ value: YAMLValue) -> [Clause<Modifier>] {
        var seen: Set<DUO> = []
        var all: [Clause<Modifier>] = []
        for (index, element) in (sequence(value, "modifiers") ?? []).enumerated() {
            guard let modifier = modifier(element, at: "modifiers[\(index)]") else { continue }
            if !seen.insert(modifier.code).inserted {
                add(.valueRepeated, element, "the modifier \(modifier.code.rawValue) is given twice")
            }
            all.append(Clause(value: modifier, path: "modifiers[\(index)]", line: element.line))
        }
        return all
    }

    private mutating func modifier(_ element: YAMLValue, at path: String) -> Modifier? {
        guard case .mapping(let pairs) = element.content else {
            add(.valueType, element, "a modifier is written '- code: DUO:…'")
            return nil
        }
        guard let codeValue = pairs.first(where: { $0.key.text == "code" })?.value else {
            add(.keyMissing, element, "the key 'code' is missing")
            return nil
        }
        guard let code = code(codeValue) else { return nil }
        let parameter = Self.parameter(of: code)
        guard
            let fields = fields(
                element, at: path, required: ["code"] + (parameter.map { $0.required ? [$0.name] : [] } ?? []),
                optional: parameter.map { $0.required ? [] : [$0.name] } ?? [], missing: .modifierParameter)
        else { return nil }
        let value = parameter.flatMap { fields[$0.name] }
        switch code {
        case .noRestriction, .health, .disease, .ancestry, .general:
            add(.codeKind, codeValue, "\(code.rawValue) (\(code.shorthand)) is a permission, not a modifier")
            return nil
        case .researchType: return value.flatMap { words($0, "types") }.map { .researchTypes($0) }
        case .noMethods: return .noMethods
        case .geneticOnly: return .geneticOnly
        case .notForProfitNonCommercial: return .notForProfitNonCommercial
        case .notForProfit: return .notForProfit
        case .nonCommercial: return .nonCommercial
        case .publication: return .publication
        case .collaboration: return .collaboration(with: value.flatMap { sentence($0, "with") })
        case .ethicsApproval: return .ethicsApproval
        case .region: return value.flatMap { countries($0) }.map { .regions($0) }
        case .moratorium:
            guard let value, let text = text(value, "until") else { return nil }
            guard let date = CalendarDate(text) else {
                add(.valueRange, value, "'until' must be a day such as 2027-01-31")
                return nil
            }
            return .moratorium(until: date)
        case .timeLimit: return value.flatMap { integer($0, "months", 1...1200) }.map { .timeLimit(months: $0) }
        case .users:
            guard let value, let elements = sequence(value, "users", empty: false) else { return nil }
            return .users(elements.compactMap { identifier(Person.self, $0) })
        case .projects: return value.flatMap { words($0, "projects") }.map { .projects($0) }
        case .institutions: return value.flatMap { words($0, "institutions") }.map { .institutions($0) }
        case .returnResults: return .returnResults
        case .clinicalCare: return .clinicalCare
        case .noAncestry: return .noAncestry
        }
    }

    private static func parameter(of code: DUO) -> (name: String, required: Bool)? {
        switch code {
        case .researchType: ("types", true)
        case .collaboration: ("with", false)
        case .region: ("regions", true)
        case .moratorium: ("until", true)
        case .timeLimit: ("months", true)
        case .users: ("users", true)
        case .projects: ("projects", true)
        case .institutions: ("institutions", true)
        default: nil
        }
    }

    private mutating func access(_ value: YAMLValue, level: Level?) -> Policy.Access? {
        guard let fields = fields(value, at: "access", required: ["approvals"], optional: ["identity", "notices"]),
            let place = fields["approvals"],
            let approvals = self.fields(
                place, at: "access.approvals", required: ["required"], optional: ["roles", "author_may_approve"])
        else { return nil }
        let required = approvals["required"].flatMap { integer($0, "required", 0...20) }
        let roles = approvals["roles"].flatMap { words($0, "roles") } ?? []
        let authorMayApprove = approvals["author_may_approve"].flatMap { flag($0, "author_may_approve") } ?? false
        guard let required else { return nil }
        if required == 0, level != .open, level != .semiOpen {
            add(.approvalNone, place, "only the levels open and semi-open may go without an approval")
        }
        if required > 0, roles.isEmpty, approvals["roles"] == nil {
            add(.keyMissing, place, "name the 'roles' whose members may approve")
        }
        return Policy.Access(
            approvals: Clause(
                value: Policy.Approvals(required: required, roles: roles, authorMayApprove: authorMayApprove),
                path: "access.approvals", line: place.line),
            visas: fields["identity"].flatMap { visas($0) },
            notices: fields["notices"].flatMap { place in
                sequence(place, "notices", empty: false).map { elements in
                    Clause(
                        value: elements.compactMap { sentence($0, "notices") }, path: "access.notices", line: place.line
                    )
                }
            })
    }

    private mutating func visas(_ value: YAMLValue) -> Clause<Policy.Visas>? {
        guard let fields = fields(value, at: "access.identity", required: ["visas", "by"], optional: []) else {
            return nil
        }
        let types = fields["visas"].flatMap {
            words(
                $0, "visas",
                among: ["AffiliationAndRole", "AcceptedTermsAndPolicies", "ResearcherStatus", "ControlledAccessGrants"])
        }
        let by = fields["by"].flatMap { words($0, "by", among: ["self", "peer", "system", "so", "dac"]) }
        guard let types, let by else { return nil }
        return Clause(value: Policy.Visas(types: types, by: by), path: "access.identity", line: value.line)
    }

    private mutating func training(_ value: YAMLValue) -> Policy.Training? {
        guard let fields = fields(value, at: "training", required: ["device"], optional: ["targets"]),
            let place = fields["device"],
            let device = self.fields(
                place, at: "training.device", required: ["pools", "evidence", "hours_max"],
                optional: ["hours_per", "rtt_microseconds_max"])
        else { return nil }
        let pools = device["pools"].flatMap { words($0, "pools") }
        let evidence = device["evidence"].flatMap { choice(Evidence.self, $0) }
        let hours = device["hours_max"].flatMap { integer($0, "hours_max", 1...100_000) }
        let per = device["hours_per"].map { choice(Policy.HoursScope.self, $0) } ?? .grant
        let rtt = device["rtt_microseconds_max"].flatMap { place in
            integer(place, "rtt_microseconds_max", 1...10_000_000).map {
                Clause(value: $0, path: "training.device.rtt_microseconds_max", line: place.line)
            }
        }
        let targets = fields["targets"].flatMap { self.targets($0) }
        guard let pools, let evidence, let hours, let per else { return nil }
        return Policy.Training(
            pools: clause(pools, "training.device.pools", device["pools"], place),
            evidence: clause(evidence, "training.device.evidence", device["evidence"], place),
            hoursMax: clause(hours, "training.device.hours_max", device["hours_max"], place),
            hoursPer: per, rttMicrosecondsMax: rtt, targets: targets)
    }

    private mutating func targets(_ value: YAMLValue) -> Clause<[String: [DUO]]>? {
        guard case .mapping(let pairs) = value.content, !pairs.isEmpty else {
            add(.valueType, value, "'targets' must map a label column to what predicting it amounts to")
            return nil
        }
        var targets: [String: [DUO]] = [:]
        for pair in pairs {
            guard let name = word(pair.key), let elements = sequence(pair.value, name, empty: false) else { continue }
            targets[name] = elements.compactMap { element in
                guard let code = code(element) else { return nil }
                guard code.isPermission, code != .noRestriction else {
                    add(.codeKind, element, "\(code.rawValue) (\(code.shorthand)) does not say what research is for")
                    return nil
                }
                return code
            }
        }
        return Clause(value: targets, path: "training.targets", line: value.line)
    }

    /// Without a `progress` section nothing is shown before the release.
    private mutating func progress(_ value: YAMLValue?, line: Int, cohortMin: Int) -> Policy.Progress {
        let fields = value.flatMap {
            self.fields(
                $0, at: "progress", required: [],
                optional: ["losses", "metrics", "cohort_min", "round_thousandths"])
        }
        func place<Value>(_ key: String, _ value: Value) -> Clause<Value> {
            Clause(value: value, path: "progress.\(key)", line: fields?[key]?.line ?? line)
        }
        let losses = fields?["losses"].flatMap { flag($0, "losses") } ?? false
        let metrics = fields?["metrics"].flatMap { flag($0, "metrics") } ?? false
        let cohort = fields?["cohort_min"].flatMap { integer($0, "cohort_min", 0...1_000_000_000) } ?? cohortMin
        let round = fields?["round_thousandths"].flatMap { integer($0, "round_thousandths", 1...1000) } ?? 10
        if let value = fields?["cohort_min"], cohort < cohortMin {
            add(.policyConflict, value, "figures may not be shown of fewer people than release.cohort_min")
        }
        return Policy.Progress(
            losses: place("losses", losses), metrics: place("metrics", metrics),
            cohortMin: place("cohort_min", cohort), roundThousandths: place("round_thousandths", round))
    }

    private mutating func release(_ value: YAMLValue, open: Bool, access: Policy.Access?) -> Policy.Release? {
        guard
            let fields = fields(
                value, at: "release", required: ["cohort_min", "checks", "reviewers"], optional: ["roles"])
        else { return nil }
        let cohort = fields["cohort_min"].flatMap { integer($0, "cohort_min", open ? 0...1_000_000 : 1...1_000_000) }
        var checks: [ReleaseCheck] = []
        for element in fields["checks"].flatMap({ sequence($0, "checks", empty: false) }) ?? [] {
            guard let check = choice(ReleaseCheck.self, element) else { continue }
            if checks.contains(check) { add(.valueRepeated, element, "the check \(check.rawValue) is given twice") }
            checks.append(check)
        }
        let reviewers = fields["reviewers"].flatMap { integer($0, "reviewers", open ? 0...20 : 1...20) }
        let roles = fields["roles"].flatMap { words($0, "roles") } ?? access?.approvals.value.roles ?? []
        guard let cohort, let reviewers else { return nil }
        if reviewers > 0, roles.isEmpty, access != nil, fields["roles"] == nil {
            add(.keyMissing, value, "name the 'roles' whose members may review")
        }
        return Policy.Release(
            cohortMin: clause(cohort, "release.cohort_min", fields["cohort_min"], value),
            checks: clause(checks, "release.checks", fields["checks"], value),
            reviewers: clause(reviewers, "release.reviewers", fields["reviewers"], value),
            roles: clause(roles, "release.roles", fields["roles"], value))
    }

    private mutating func breakGlass(_ value: YAMLValue) -> Clause<Policy.BreakGlass>? {
        guard
            let fields = fields(
                value, at: "break_glass", required: ["allowed"], optional: ["minutes_max", "approver"])
        else { return nil }
        guard let allowed = fields["allowed"].flatMap({ flag($0, "allowed") }) else { return nil }
        let minutes = fields["minutes_max"].flatMap { integer($0, "minutes_max", 1...1440) }
        let approver = fields["approver"].flatMap { word($0) }
        if allowed {
            for key in ["minutes_max", "approver"] where fields[key] == nil {
                add(.keyMissing, value, "break-glass access needs the key '\(key)'")
            }
        }
        return Clause(
            value: Policy.BreakGlass(allowed: allowed, minutesMax: minutes ?? 0, approver: approver ?? ""),
            path: "break_glass", line: value.line)
    }

    // MARK: - Values

    mutating func add(_ rule: Finding.Rule, _ place: YAMLValue, _ message: String) {
        findings.append(
            Finding(
                rule: rule, severity: .error, file: file, line: place.line, column: place.column, message: message))
    }

    mutating func version(_ fields: [String: YAMLValue]) {
        guard let value = fields["version"] else { return }
        if case .scalar("1", true) = value.content { return }
        add(.valueRange, value, "this program reads files of version 1")
    }

    /// The members of a mapping, with complaints about unknown and missing keys.
    mutating func fields(
        _ value: YAMLValue, at path: String, required: [String], optional: [String],
        missing: Finding.Rule = .keyMissing
    ) -> [String: YAMLValue]? {
        let name = path.isEmpty ? "the file" : "'\(path)'"
        guard case .mapping(let pairs) = value.content else {
            add(.valueType, value, "\(name) must hold keys and values")
            return nil
        }
        var fields: [String: YAMLValue] = [:]
        for pair in pairs {
            guard let key = pair.key.text else { continue }
            guard required.contains(key) || optional.contains(key) else {
                let hint = suggestion(for: key, among: required + optional)
                add(.keyUnknown, pair.key, "unknown key '\(shown(key))' in \(name)\(hint)")
                continue
            }
            fields[key] = pair.value
        }
        for key in required where fields[key] == nil {
            add(missing, value, "the key '\(key)' is missing in \(name)")
        }
        return fields
    }

    mutating func sequence(_ value: YAMLValue, _ name: String, empty: Bool = true) -> [YAMLValue]? {
        guard case .sequence(let elements) = value.content else {
            add(.valueType, value, "'\(name)' must be a list")
            return nil
        }
        guard empty || !elements.isEmpty else {
            add(.valueRange, value, "'\(name)' must not be empty")
            return nil
        }
        return elements
    }

    mutating func text(_ value: YAMLValue, _ name: String) -> String? {
        guard case .scalar(let text, _) = value.content, !text.isEmpty else {
            add(.valueType, value, "'\(name)' must be a word or text")
            return nil
        }
        return text
    }

    /// A text for people, in any script.
    private mutating func sentence(_ value: YAMLValue, _ name: String) -> String? {
        guard let text = text(value, name) else { return nil }
        guard text.utf8.count <= 1000 else {
            add(.valueRange, value, "'\(name)' must not be longer than 1000 bytes")
            return nil
        }
        return text
    }

    /// A name in the characters of an identifier, so that no look-alike from another script can pass for it.
    mutating func word(_ value: YAMLValue) -> String? { identifier(Word.self, value)?.text }

    private mutating func words(_ value: YAMLValue, _ name: String, among known: [String]? = nil) -> [String]? {
        guard let elements = sequence(value, name, empty: false) else { return nil }
        var all: [String] = []
        for element in elements {
            guard let word = word(element) else { continue }
            if let known, !known.contains(word) {
                let hint = suggestion(for: word, among: known)
                add(.valueUnknown, element, "unknown value '\(shown(word))' in '\(name)'\(hint)")
            }
            if all.contains(word) { add(.valueRepeated, element, "'\(shown(word))' is given twice") }
            all.append(word)
        }
        return all
    }

    /// Countries as ISO 3166-1 alpha-2 codes.
    private mutating func countries(_ value: YAMLValue) -> [String]? {
        guard let elements = sequence(value, "regions", empty: false) else { return nil }
        return elements.compactMap { element in
            guard let text = element.text, isCountry(text) else {
                add(.valueRange, element, "a region is a country's two capital letters (ISO 3166-1)")
                return nil
            }
            return text
        }
    }

    mutating func identifier<Noun>(_ noun: Noun.Type, _ value: YAMLValue?) -> Identifier<Noun>? {
        guard let value, let text = text(value, "\(noun)".lowercased()) else { return nil }
        do {
            return try Identifier<Noun>(text)
        } catch {
            add(.valueRange, value, "'\(shown(text))': \(error.description)")
            return nil
        }
    }

    mutating func integer(_ value: YAMLValue, _ name: String, _ range: ClosedRange<Int>) -> Int? {
        guard case .scalar(let text, true) = value.content, let number = Int(text), String(number) == text else {
            add(.valueType, value, "'\(name)' must be a whole number")
            return nil
        }
        guard range.contains(number) else {
            add(.valueRange, value, "'\(name)' must be from \(range.lowerBound) to \(range.upperBound)")
            return nil
        }
        return number
    }

    mutating func flag(_ value: YAMLValue, _ name: String) -> Bool? {
        switch value.content {
        case .scalar("true", true): return true
        case .scalar("false", true): return false
        default:
            add(.valueType, value, "'\(name)' must be true or false")
            return nil
        }
    }

    mutating func choice<Choice: RawRepresentable & CaseIterable>(
        _ type: Choice.Type, _ value: YAMLValue?
    ) -> Choice? where Choice.RawValue == String {
        guard let value else { return nil }
        let known = Choice.allCases.map(\.rawValue)
        guard let text = value.text else {
            add(.valueType, value, "must be one of \(known.joined(separator: ", "))")
            return nil
        }
        guard let choice = Choice(rawValue: text) else {
            let hint =
                nearest(text, among: known).map { "did you mean '\($0)'?" } ?? "known are "
                + known.joined(separator: ", ")
            add(.valueUnknown, value, "unknown value '\(shown(text))'; \(hint)")
            return nil
        }
        return choice
    }

    /// A DUO term that may be used. Codes are written plain, so that there is one way to write each.
    private mutating func code(_ value: YAMLValue) -> DUO? {
        guard case .scalar(let text, let plain) = value.content else {
            add(.valueType, value, "must be a DUO code such as DUO:0000042")
            return nil
        }
        guard plain else {
            add(.codeQuoted, value, "write the code without quotes")
            return nil
        }
        if let reason = DUO.unusable(text) {
            add(.codeUnusable, value, "\(text) is \(reason)")
            return nil
        }
        guard let code = DUO(rawValue: text) else {
            let byShorthand = DUO.allCases.first { $0.shorthand == text.uppercased() }?.rawValue
            let hint = (byShorthand ?? nearest(text, among: DUO.allCases.map(\.rawValue))).map {
                "; did you mean \($0)?"
            }
            add(.codeUnknown, value, "'\(shown(text))' is not a DUO code\(hint ?? "")")
            return nil
        }
        return code
    }

    private mutating func diseases(_ value: YAMLValue) -> [Disease]? {
        guard let elements = sequence(value, "diseases", empty: false) else { return nil }
        return elements.compactMap { disease($0) }
    }

    private mutating func disease(_ value: YAMLValue) -> Disease? {
        if case .scalar(_, false) = value.content {
            add(.codeQuoted, value, "write the code without quotes")
            return nil
        }
        guard let disease = value.text.flatMap({ Disease($0) }) else {
            add(.codeUnknown, value, "a disease is written MONDO: and seven digits")
            return nil
        }
        return disease
    }

    private func clause<Value>(
        _ value: Value, _ path: String, _ place: YAMLValue?, _ fallback: YAMLValue
    ) -> Clause<Value> {
        Clause(value: value, path: path, line: (place ?? fallback).line)
    }
}

/// The noun of role, pool and project names: as strict as an identifier, and told apart from none.
private enum Word {}

/// ISO 3166-1 alpha-2 by form: two capital letters.
func isCountry(_ text: String) -> Bool {
    text.utf8.count == 2 && text.utf8.allSatisfy { (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) }
}

extension YAMLValue {
    /// The text of a scalar.
    var text: String? { if case .scalar(let text, _) = content { text } else { nil } }
}
