import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Synchronization
import Vocabulary

extension Site {
    func registerPolicies(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.policiesPage) { request, context in
            try await policies(gateway, from: Self.from(request), context, done: Done(request))
        }
        routes.on(.policyMatrixPage) { request, context in try await policyMatrix(gateway, request, context) }
        routes.on(.policyCedarPage) { request, context in try await policyCedar(gateway, request, context) }
        routes.on(.policyBundlesPage) { request, context in try await policyHistory(gateway, request, context) }
        routes.on(.policyBundlePage) { request, context in
            try await policyBundle(gateway, context.bundle, context, done: Done(request))
        }
        routes.on(.policyFilePage) { _, context in try await policyFile(gateway, context) }
        routes.on(.policyDownload) { _, context in try await policyDownload(gateway, context) }
        routes.on(.policyReplayPage) { _, context in try await policyReplay(gateway, context) }
        routes.on(.policySign) { _, context in try await signPolicy(gateway, context) }
        routes.on(.policyActivate) { _, context in
            try await policyStep(gateway, context, .activated) { number, person in
                try await gateway.activatePolicies(number, by: person).number
            }
        }
        routes.on(.policyReturn) { _, context in
            try await policyStep(gateway, context, .proposed) { number, person in
                try await gateway.proposeReturn(to: number, by: person).number
            }
        }
        routes.on(.policyKey) { _, context in try await policyKey(gateway, context) }
        routes.on(.policyKeyRevoke) { _, context in try await revokePolicyKey(gateway, context) }
        registerPolicyDecisions(routes)
        registerPolicyProposals(routes)
    }

    private static let filesShown = 50
    private static let datasetsShown = 20
    private static let differencesShown = 200

    static func may(_ roles: Set<Role>, _ context: SekishoContext) -> Bool {
        !(context.identity?.roles.isDisjoint(with: roles) ?? true)
    }

    /// The parts of the policy pages, for the template `policy-tabs`.
    static func policyTabs(_ here: Route, _ words: Words) -> [[String: Any]] {
        let all: [(Route, String)] = [
            (.policiesPage, words("policies.tab.files")), (.policyMatrixPage, words("policies.tab.matrix")),
            (.policyDecidePage, words("policies.tab.decide")), (.policyCedarPage, words("policies.tab.cedar")),
            (.policyBundlesPage, words("policies.tab.history")),
        ]
        return all.map { route, name in ["href": route.path, "name": name, "isHere": route == here] }
    }

    /// What a bundle's files come to; a bundle never changes, so the last few are remembered.
    func reading(_ number: Int, _ gateway: Gateway, _ context: SekishoContext) async throws -> PolicyFolderReading {
        let folder = try await gateway.policyFiles(of: number, by: context.person)
        return readings.of(folder)
    }

    /// The list of what has more than one page shows: from `from` on, and where the next one begins.
    private static func window<Item>(
        _ items: [Item], of count: Int, from: String, name: (Item) -> String
    ) -> (items: ArraySlice<Item>, next: String?) {
        let rest = items.drop { name($0) < from }
        let shown = rest.prefix(count)
        return (shown, rest.dropFirst(count).first.map(name))
    }

    private static func from(_ request: Request) -> String { String(request.uri.queryParameters.get("from") ?? "") }

    static func stateBadge(_ state: PolicyProposal.State, _ words: Words) -> [String: Any] {
        let kind: BadgeKind =
            switch state {
            case .open: .waiting
            case .active: .good
            case .replaced: .plain
            case .stale: .bad
            }
        return badge(kind, words("bundle.\(state.rawValue)"))
    }
}

/// What bundles' files come to, for the newest few that were looked at.
final class PolicyReadings: Sendable {
    private static let keptMax = 4
    private let kept = Mutex<[(hash: Digest, reading: PolicyFolderReading)]>([])

    func of(_ folder: PolicyFolder) -> PolicyFolderReading {
        let hash = folder.hash
        if let known = kept.withLock({ $0.first { $0.hash == hash }?.reading }) { return known }
        let reading = folder.reading()
        kept.withLock { kept in
            kept.append((hash, reading))
            if kept.count > Self.keptMax { kept.removeFirst() }
        }
        return reading
    }
}

extension SekishoContext {
    /// The bundle's number in the path.
    fileprivate var bundle: Int {
        get throws(Problem) {
            guard let text = coreContext.parameters.get("bundle"), let number = Int(text), number > 0,
                String(number) == text
            else { throw .notFound("there is no policy bundle of this number") }
            return number
        }
    }
}

// MARK: - In force

extension Site {
    private func policies(
        _ gateway: Gateway, from: String = "", _ context: SekishoContext, done: Done? = nil,
        problem: [String: Any]? = nil, typedKey: String? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        var content: [String: Any] = [
            "tabs": Self.policyTabs(.policiesPage, words), "mayPropose": Self.may([.policyAdministrator], context),
        ]
        if await gateway.isAnyPolicyActive {
            let number = try await gateway.activePolicies().number
            let bundle = try await gateway.policyProposal(number, by: person)
            let reading = try await reading(number, gateway, context)
            content["active"] = Self.summary(of: bundle, words)
            content["counts"] = Self.counts(reading, words)
            let (files, next) = Self.window(reading.files, of: Self.filesShown, from: from, name: \.name)
            content["files"] = Self.files(files, of: number, words)
            content["next"] = next.map { "/policies?\(Form([(name: "from", value: $0)]).encoded)" }
        }
        let waiting = try await gateway.policyHistory(PageRequest(limit: 50), by: person).items.filter {
            $0.state == .open
        }
        content["hasWaiting"] = !waiting.isEmpty
        content["waiting"] = waiting.map { Self.row($0, words) }
        if Self.may(Self.policySigners, context) {
            let key = try await gateway.policyKey(of: person)
            var section: [String: Any] = ["form": Self.formNumber(context.form)]
            section["held"] = key
            if key == nil {
                section["field"] =
                    FormField(
                        id: "key", label: words("policies.key"), kind: .text(attributes: ["maxlength": "200"]),
                        value: typedKey ?? "", hint: words("policies.key-hint"), isOptional: false
                    ).content
            }
            content["key"] = section
        }
        content["problem"] = problem
        return page(
            "policies", titled: words("policies.title"), content, at: "/policies", context, done: done, status: status)
    }

    static let policySigners: Set<Role> = Route.policySign.rule.roles

    private static func summary(of bundle: PolicyProposal, _ words: Words) -> [String: Any] {
        var content: [String: Any] = [
            "number": "\(bundle.number)", "name": words("policies.bundle", ["number": "\(bundle.number)"]),
            "hash": bundle.bundle.hex, "badge": stateBadge(bundle.state, words), "proposer": bundle.proposer.text,
            "proposed": words.time(bundle.proposed), "hasSigners": !bundle.signatures.isEmpty,
            "signers": bundle.signatures.map { ["person": $0.person.text, "time": words.time($0.time)] },
            "needed": words(
                "policies.signed-of",
                ["count": "\(bundle.signatures.count)", "needed": "\(bundle.signaturesNeeded)"]),
        ]
        if let activated = bundle.activated { content["activated"] = words.time(activated) }
        content["previous"] = bundle.previous?.hex
        content["returnsTo"] = bundle.returnsTo.map { words("policies.returns-to", ["number": "\($0)"]) }
        content["direction"] =
            bundle.previous == nil
            ? words("policies.first") : words(bundle.widens ? "policies.widens" : "policies.narrows")
        return content
    }

    /// A bundle in a list.
    private static func row(_ bundle: PolicyProposal, _ words: Words) -> [String: Any] { summary(of: bundle, words) }

    static func counts(_ reading: PolicyFolderReading, _ words: Words) -> String {
        words(
            "policies.counts",
            [
                "passed": "\(reading.tests.passed)", "tests": "\(reading.tests.all)", "hit": "\(reading.rules.hit)",
                "rules": "\(reading.rules.all)",
            ])
    }

    private static func files(
        _ files: some Sequence<PolicyReading>, of number: Int, _ words: Words
    ) -> [[String: Any]] {
        files.map { file in
            let errors = file.marks.count(where: \.isError)
            let failed = file.tests.count { $0.fault != nil }
            let badge =
                errors + failed > 0
                ? badge(.bad, words("policies.errors", ["count": "\(errors + failed)"]))
                : file.marks.isEmpty
                    ? badge(.good, words("policies.clean"))
                    : badge(.waiting, words("policies.warnings", ["count": "\(file.marks.count)"]))
            return [
                "name": file.name, "link": "/policies/bundles/\(number)/files/\(file.name)",
                "dataset": file.dataset ?? words("policies.no-dataset"), "badge": badge,
            ]
        }
    }

    // MARK: - History

    private func policyHistory(
        _ gateway: Gateway, _ request: Request, _ context: SekishoContext
    ) async throws -> Response {
        let words = Words.of(context.language)
        let page = try await gateway.policyHistory(try Self.pageRequest(request), by: context.person)
        var content: [String: Any] = [
            "tabs": Self.policyTabs(.policyBundlesPage, words), "hasItems": !page.items.isEmpty,
            "items": page.items.map { Self.row($0, words) },
        ]
        content["next"] = page.next.map { "/policies/bundles?\(Form([(name: "after", value: "\($0)")]).encoded)" }
        return self.page(
            "policy-history", titled: words("policies.history"), content, at: "/policies/bundles", context)
    }

    // MARK: - One bundle

    func policyBundle(
        _ gateway: Gateway, _ number: Int, _ context: SekishoContext, done: Done? = nil,
        problem: [String: Any]? = nil, typed: Form = Form(), status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let bundle = try await gateway.policyProposal(number, by: person)
        let reading = try await reading(number, gateway, context)
        let isAdministrator = Self.may([.policyAdministrator], context)
        let isOpen = bundle.state == .open
        var content = Self.summary(of: bundle, words)
        content["counts"] = Self.counts(reading, words)
        content["statement"] = bundle.statement.canonicalText
        content["files"] = Self.files(reading.files.prefix(Self.filesShown), of: number, words)
        let more = reading.files.count - Self.filesShown
        if more > 0 { content["more"] = words("policies.more-files", ["count": "\(more)"]) }
        content["hasChanges"] = !bundle.changes.isEmpty
        content["changes"] = Self.changes(bundle.changes, words)
        if Self.may(Route.policyReplayPage.rule.roles, context), bundle.state != .active {
            content["replay"] = "/policies/bundles/\(number)/replay"
        }
        let name = person.text.lowercased()
        if isOpen, Self.may(Self.policySigners, context),
            !bundle.signatures.contains(where: { $0.person.text.lowercased() == name })
        {
            content["sign"] = [
                "form": Self.formNumber(typed), "number": "\(number)", "person": person.text,
                "hasKey": try await gateway.policyKey(of: person) != nil,
                "field": FormField(
                    id: "signature", label: words("policies.signature"), kind: .area(rows: 3, max: 200),
                    value: typed["signature"] ?? "", hint: words("policies.signature-hint"), isOptional: false
                ).content,
            ]
        }
        content["mayActivate"] = isOpen && isAdministrator
        content["mayReturn"] = bundle.state == .replaced && isAdministrator
        content["form"] = Self.formNumber(typed)
        content["problem"] = problem
        return page(
            "policy-bundle", titled: words("policies.bundle", ["number": "\(number)"]), content,
            at: "/policies/bundles/\(number)", context, done: done, status: status)
    }

    /// What is not proven narrower comes first.
    static func changes(_ changes: [JSON], _ words: Words) -> [[String: Any]] {
        let wider = changes.filter { $0["direction"] == "wider" }
        let narrower = changes.filter { $0["direction"] != "wider" }
        return (wider + narrower).map { change in
            let isWider = change["direction"] == "wider"
            return [
                "badge": badge(isWider ? .bad : .good, words(isWider ? "policies.wider" : "policies.narrower")),
                "rule": change["rule"]?.stringValue ?? "", "text": change["text"]?.stringValue ?? "",
            ]
        }
    }

    private func policyDownload(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let number = try context.bundle
        let bundle = try await gateway.policyProposal(number, by: context.person)
        let files = try await gateway.policyFiles(of: number, by: context.person).contents
        let all =
            files.map { Artefact(name: $0.name, bytes: Array($0.content.utf8)) } + [
                Artefact(name: "statement.json", bytes: bundle.statement.canonical)
            ]
        return Response(
            status: .ok,
            headers: [
                .contentType: Tar.mediaType,
                .contentDisposition: "attachment; filename=\"policy-bundle-\(number).tar\"",
            ], body: .tar(of: all))
    }

    // MARK: - What is done to a bundle

    /// A step that needs nothing but the bundle's number; it comes back to the bundle with what was refused.
    private func policyStep(
        _ gateway: Gateway, _ context: SekishoContext, _ done: Done,
        _ step: @escaping @Sendable (Int, PersonID) async throws -> Int
    ) async throws -> Response {
        let words = Words.of(context.language)
        let number = try context.bundle
        let person = try context.person
        do {
            let path = try await sent.once(context.form["form"], by: person) {
                "/policies/bundles/\(try await step(number, person))?done=\(done.rawValue)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where [.usage, .refused, .changed].contains(error.code) {
            return try await policyBundle(
                gateway, number, context,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("policies.nothing-done"),
                    words), status: .conflict)
        }
    }

    private func signPolicy(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let number = try context.bundle
        let person = try context.person
        let typed = context.form
        // However it was copied: in lines, with spaces around.
        let signature = (typed["signature"] ?? "").filter { !$0.isWhitespace }.lowercased()
        guard signature.utf8.count == 128, signature.allSatisfy(\.isHexDigit) else {
            var faults = FormFaults()
            faults.add("signature", words("policies.signature-wrong"))
            return try await policyBundle(
                gateway, number, context,
                problem: Self.fault(words("form.wrong"), faults, kept: words("form.kept"), words), typed: typed,
                status: .badRequest)
        }
        do {
            let path = try await sent.once(typed["form"], by: person) {
                _ = try await gateway.signPolicies(number, signature: signature, by: person)
                return "/policies/bundles/\(number)?done=\(Done.signed)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where [.usage, .refused, .changed].contains(error.code) {
            return try await policyBundle(
                gateway, number, context,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("form.kept"), words),
                typed: typed, status: .conflict)
        }
    }

    private func policyKey(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let typed = (context.form["key"] ?? "").trimming()
        // As `sekisho policy keygen` prints it, or the whole of its .pub file.
        let key = typed.split(separator: " ").last.map(String.init) ?? ""
        do {
            let path = try await sent.once(context.form["form"], by: person) {
                try await gateway.setPolicyKey(key, by: person)
                return "/policies?done=\(Done.keyed)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where [.usage, .refused].contains(error.code) {
            var faults = FormFaults()
            if error.code == .usage { faults.add("key", words("policies.key-wrong")) }
            return try await policies(
                gateway, context,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.code == .usage ? nil : error.publicDescription, faults,
                    kept: words("form.kept"), words), typedKey: typed,
                status: error.code == .usage ? .badRequest : .conflict)
        }
    }

    private func revokePolicyKey(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        do {
            let path = try await sent.once(context.form["form"], by: person) {
                try await gateway.revokePolicyKey(of: person, by: person)
                return "/policies?done=\(Done.keyEnded.rawValue)"
            }
            return Self.redirect(to: path)
        } catch let error as GatewayError where error.code == .notFound {
            return try await policies(
                gateway, context,
                problem: Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("policies.nothing-done"),
                    words), status: .conflict)
        }
    }
}

// MARK: - One file

extension Site {
    private func policyFile(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let number = try context.bundle
        let name = context.coreContext.parameters.get("file") ?? ""
        let reading = try await reading(number, gateway, context)
        guard let file = reading.files.first(where: { $0.name == name }) else {
            throw Problem.notFound("the bundle has no such file")
        }
        var content: [String: Any] = [
            "bundleLink": "/policies/bundles/\(number)",
            "bundleName": words("policies.bundle", ["number": "\(number)"]),
            "lines": Self.source(file, words), "hasRules": !file.rules.isEmpty,
            "rules": file.rules.map { Self.rule($0, words) }, "hasTests": !file.tests.isEmpty,
            "tests": file.tests.map { test -> [String: Any] in
                [
                    "badge": Self.badge(
                        test.fault == nil ? .good : .bad,
                        words(test.fault == nil ? "policies.test.passed" : "policies.test.failed")),
                    "name": test.name, "place": "\(test.file):\(test.line)", "fault": test.fault ?? "",
                ]
            },
        ]
        content["marks"] = Self.marks(file.marks, words)
        content["hasMarks"] = !file.marks.isEmpty
        content["dataset"] = file.dataset ?? words("policies.no-dataset")
        return page(
            "policy-file", titled: file.name, content, at: "/policies/bundles/\(number)/files/\(name)", context)
    }

    /// The lines with what is wrong under each.
    static func source(_ file: PolicyReading, _ words: Words) -> [[String: Any]] {
        let marks = Dictionary(grouping: file.marks, by: \.line)
        return file.lines.enumerated().map { index, text in
            let here = marks[index + 1] ?? []
            return [
                "id": "L\(index + 1)", "text": text.isEmpty ? " " : text, "hasMarks": !here.isEmpty,
                "marks": Self.marks(here, words), "isBad": here.contains(where: \.isError),
            ]
        }
    }

    static func marks(_ marks: [PolicyReading.Mark], _ words: Words) -> [[String: Any]] {
        marks.prefix(200).map { mark in
            [
                "badge": badge(
                    mark.isError ? .bad : .waiting, words(mark.isError ? "policies.error" : "policies.warning")),
                "words": words.name("lint", mark.rule), "message": mark.message, "code": mark.rule,
                "file": mark.file, "line": "\(mark.line)", "place": "\(mark.file):\(mark.line):\(mark.column)",
            ]
        }
    }

    private static func rule(_ rule: PolicyReading.Rule, _ words: Words) -> [String: Any] {
        var values = rule.values
        if let term = rule.term, values["label"] != nil, words.language == .japanese {
            values["label"] = term.labelJapanese
        }
        var content: [String: Any] = [
            "words": words("rule.\(rule.key)", values), "path": rule.path, "line": "\(rule.line)",
        ]
        if let term = rule.term {
            content["term"] = ["code": term.code, "label": term.label, "labelJapanese": term.labelJapanese]
        }
        if let isTested = rule.isTested {
            content["tested"] = badge(
                isTested ? .good : .waiting, words(isTested ? "policies.reached" : "policies.unreached"))
        }
        return content
    }
}

// MARK: - Who may do what, and the text for Cedar

extension Site {
    /// The bundle that a page is asked about; without a number the one in force.
    private func source(_ request: Request) throws -> (PolicySource, number: Int?) {
        guard let text = request.uri.queryParameters.get("bundle") else { return (.active, nil) }
        guard let number = Int(text), number > 0, String(number) == text else {
            throw Problem.notFound("there is no policy bundle of this number")
        }
        return (.bundle(number), number)
    }

    private func policyMatrix(
        _ gateway: Gateway, _ request: Request, _ context: SekishoContext
    ) async throws -> Response {
        let words = Words.of(context.language)
        let (source, number) = try source(request)
        var content: [String: Any] = ["tabs": Self.policyTabs(.policyMatrixPage, words), "hasRows": false]
        content["ofBundle"] = number.map { words("policies.bundle", ["number": "\($0)"]) }
        if try await isThereAny(gateway, number) {
            let rows = try await gateway.policyMatrix(under: source, by: context.person).json.arrayValue ?? []
            let datasets = Array(Set(rows.compactMap { $0["dataset"]?.stringValue })).sorted()
            let (shown, next) = Self.window(datasets, of: Self.datasetsShown, from: Self.from(request)) { $0 }
            let roles = Set(rows.flatMap { ($0["roles"]?.objectValue ?? [:]).keys }).sorted()
            content["roles"] = roles.map { ["name": words.name("role", $0)] }
            content["hasRows"] = !shown.isEmpty
            content["datasets"] = shown.map { dataset -> [String: Any] in
                let own = rows.filter { $0["dataset"]?.stringValue == dataset }
                return [
                    "name": dataset,
                    "rows": own.map { row -> [String: Any] in
                        let action = row["action"]?.stringValue ?? ""
                        return [
                            "action": words.name("action", action), "rule": row["rule"]?.stringValue ?? "",
                            "cells": roles.map { role -> [String: Any] in
                                let condition = row["roles"]?[role]?.stringValue
                                var cell: [String: Any] = ["may": condition != nil]
                                cell["words"] = condition
                                return cell
                            },
                        ]
                    },
                ]
            }
            content["next"] = next.map { next in
                let fields = [(name: "from", value: next)] + (number.map { [(name: "bundle", value: "\($0)")] } ?? [])
                return "/policies/matrix?\(Form(fields).encoded)"
            }
        }
        return page("policy-matrix", titled: words("policies.matrix"), content, at: "/policies/matrix", context)
    }

    private func policyCedar(
        _ gateway: Gateway, _ request: Request, _ context: SekishoContext
    ) async throws -> Response {
        let words = Words.of(context.language)
        let (source, number) = try source(request)
        var content: [String: Any] = ["tabs": Self.policyTabs(.policyCedarPage, words)]
        content["ofBundle"] = number.map { words("policies.bundle", ["number": "\($0)"]) }
        if try await isThereAny(gateway, number) {
            content["text"] = try await gateway.policyCedar(under: source, by: context.person)
        }
        return page("policy-cedar", titled: words("policies.cedar"), content, at: "/policies/cedar", context)
    }

    /// Nothing is in force in a home that is being set up.
    func isThereAny(_ gateway: Gateway, _ number: Int?) async throws -> Bool {
        let isActive = await gateway.isAnyPolicyActive
        return number != nil || isActive
    }
}

// MARK: - Over history

extension Site {
    private func policyReplay(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let number = try context.bundle
        _ = try await gateway.policyProposal(number, by: context.person)
        var content: [String: Any] = [
            "bundleLink": "/policies/bundles/\(number)",
            "bundleName": words("policies.bundle", ["number": "\(number)"]), "hasChanges": false,
            "hasDifferences": false,
        ]
        if await gateway.isAnyPolicyActive {
            let answer = try await gateway.comparePolicies(.active, .bundle(number), by: context.person)
            content.merge(Self.comparison(answer.json, words)) { $1 }
        }
        return page(
            "policy-replay", titled: words("policies.replay-title", ["number": "\(number)"]), content,
            at: "/policies/bundles/\(number)/replay", context)
    }

    /// For the template `policy-comparison`: what a change is proven to be, and what recorded decisions would become.
    static func comparison(_ answer: JSON, _ words: Words) -> [String: Any] {
        let changes = answer["changes"]?.arrayValue ?? []
        let differences = answer["differences"]?.arrayValue ?? []
        let milder = answer["milder"]?.integerValue ?? 0
        let unreadable = answer["unreadable"]?.arrayValue?.count ?? 0
        let isWider = answer["widens"]?.boolValue ?? true
        var content: [String: Any] = [
            "direction": words(isWider ? "policies.widens" : "policies.narrows"), "hasChanges": !changes.isEmpty,
            "changes": Self.changes(changes, words), "hasDifferences": !differences.isEmpty,
            "compared": words(
                "policies.compared",
                [
                    "count": "\(answer["compared"]?.integerValue ?? 0)", "differ": "\(differences.count)",
                    "milder": "\(milder)",
                ]),
            // What is milder comes first, and of that what was refused and would be permitted.
            "differences": differences.prefix(differencesShown).enumerated().map { index, difference -> [String: Any] in
                let isMilder = index < milder
                return [
                    "isMilder": isMilder,
                    "badge": badge(isMilder ? .bad : .plain, words(isMilder ? "policies.milder" : "policies.stricter")),
                    "record": difference["record"]?.stringValue ?? "",
                    "ask": words.name("ask", difference["ask"]?.stringValue ?? ""),
                    "dataset": difference["dataset"]?.stringValue ?? "",
                    "old": words.name("answer", difference["old"]?.stringValue ?? ""),
                    "new": words.name("answer", difference["new"]?.stringValue ?? ""),
                    "reasons": words.list(
                        (difference[isMilder ? "old_reasons" : "new_reasons"]?.arrayValue ?? [])
                            .compactMap(\.stringValue).map { words.name("reason", $0) }),
                ]
            },
        ]
        if differences.count > differencesShown {
            content["more"] = words("policies.more-differences", ["count": "\(differences.count - differencesShown)"])
        }
        if unreadable > 0 { content["unreadable"] = words("policies.unreadable", ["count": "\(unreadable)"]) }
        return content
    }
}
