import Gateway
import HTTPTypes
import Hummingbird
import HummingbirdCore
import Vocabulary

extension Site {
    func registerPolicyProposals(_ routes: Routes) {
        let gateway = routes.gateway
        routes.on(.policyProposePage) { request, context in
            let asked = request.uri.queryParameters.getAll("edit").prefix(PolicyDraftForm.editedMax).map { String($0) }
            let base = request.uri.queryParameters.get("base").flatMap { Int($0) }
            let draft = try await PolicyDraftForm(base: base, edited: asked, gateway, by: context.person)
            return try await propose(gateway, draft, context)
        }
        routes.on(.policyPropose) { _, context in try await proposed(gateway, context) }
    }

    private func propose(
        _ gateway: Gateway, _ draft: PolicyDraftForm, _ context: SekishoContext, isChecked: Bool = false,
        problem: [String: Any]? = nil, status: HTTPResponse.Status = .ok
    ) async throws -> Response {
        let words = Words.of(context.language)
        var problem = problem
        var status = status
        var content: [String: Any] = [
            "base": "\(draft.base)", "form": Self.formNumber(context.form), "hasOthers": !draft.others.isEmpty,
            "others": draft.others.prefix(PolicyDraftForm.othersShown).map {
                ["name": $0, "label": words("policies.edit", ["name": $0])]
            },
        ]
        var marks: [PolicyReading.Mark] = []
        if isChecked, problem == nil {
            do {
                let folder = try draft.folder
                let reading = folder.reading()
                marks = reading.marks
                var check: [String: Any] = [
                    "counts": Self.counts(reading, words), "hasMarks": !marks.isEmpty,
                    "marks": Self.marks(marks, words),
                    "badge": Self.badge(
                        reading.isValid ? .good : .bad,
                        words(reading.isValid ? "policies.check-valid" : "policies.check-invalid")),
                ]
                if reading.isValid, try await isThereAny(gateway, nil) {
                    let answer = try await gateway.comparePolicies(.active, .files(folder), by: context.person)
                    check["comparison"] = Self.comparison(answer.json, words)
                }
                content["check"] = check
                content["isOutcome"] = true
            } catch let error as GatewayError where error.code == .usage || error.code == .refused {
                problem = Self.fault(
                    words("form.not-taken"), detail: error.publicDescription, kept: words("form.kept"), words)
                status = .badRequest
            }
        }
        content["files"] = draft.edited.enumerated().map { index, file -> [String: Any] in
            [
                "number": "\(index)", "name": file.name, "isNew": file.isNew, "isRemoved": file.isRemoved,
                "label": words("policies.text-of", ["name": file.name]),
                "removeLabel": words("policies.remove", ["name": file.name]),
                "rows": "\(min(max(file.content.split(separator: "\n").count + 2, 4), 14))", "content": file.content,
                "marks": Self.marks(marks.filter { $0.file == file.name }, words),
            ]
        }
        content["problem"] = problem
        return page(
            "policy-propose", titled: words("policies.propose"), content, at: "/policies/propose", context,
            status: status)
    }

    private func proposed(_ gateway: Gateway, _ context: SekishoContext) async throws -> Response {
        let words = Words.of(context.language)
        let person = try context.person
        let typed = context.form
        let draft = try await PolicyDraftForm(typed, gateway, by: person)
        switch typed["step"] ?? "" {
        case "propose":
            do {
                let folder = try draft.folder
                let path = try await sent.once(typed["form"], by: person) {
                    let number = try await gateway.proposePolicies(folder, by: person).number
                    return "/policies/bundles/\(number)?done=\(Done.proposed)"
                }
                return Self.redirect(to: path)
            } catch let error as GatewayError where error.code == .usage || error.code == .refused {
                // What is wrong with the files is told at their lines; anything else in the gateway's words.
                let isInvalid = error.code == .refused
                return try await propose(
                    gateway, draft, context, isChecked: isInvalid,
                    problem: isInvalid
                        ? nil
                        : Self.fault(
                            words("form.not-taken"), detail: error.publicDescription, kept: words("form.kept"), words),
                    status: .badRequest)
            }
        case "check": return try await propose(gateway, draft, context, isChecked: true)
        default: return try await propose(gateway, draft, context)
        }
    }
}

/// The files that are about to be proposed: those of a bundle, with what was typed over some of them.
private struct PolicyDraftForm {
    struct Edited {
        let name: String
        let content: String
        let isNew: Bool
        let isRemoved: Bool
    }

    static let editedMax = 60
    static let othersShown = 200
    /// A folder of this many files is shown whole.
    private static let shownWhole = 12
    private static let newFiles = 2

    /// The bundle whose files stay as they are where nothing was typed; 0 where there is none.
    let base: Int
    let edited: [Edited]
    private let files: [(name: String, content: String)]

    /// The bundle's files that are not being edited.
    var others: [String] {
        let names = Set(edited.map(\.name))
        return files.map(\.name).filter { !names.contains($0) }
    }

    /// What would be proposed.
    var folder: PolicyFolder {
        get throws {
            let changed = edited.filter { !$0.name.isEmpty || !$0.content.isEmpty }
            let names = Set(changed.map(\.name))
            return try PolicyFolder(
                files.filter { !names.contains($0.name) }
                    + changed.filter { !$0.isRemoved }.map { ($0.name, $0.content) })
        }
    }

    init(base: Int?, edited names: [String], _ gateway: Gateway, by person: PersonID) async throws {
        (self.base, files) = try await Self.files(base, gateway, person)
        let chosen = names.isEmpty && files.count <= Self.shownWhole ? files.map(\.name) : names
        edited =
            files.filter { chosen.contains($0.name) }.map {
                Edited(name: $0.name, content: $0.content, isNew: false, isRemoved: false)
            } + Self.empty
    }

    /// Reads the form: pairs of `name` and `content` in their order, `remove` for names that are to go, and a step
    /// `edit:NAME` that opens one more file.
    init(_ typed: Form, _ gateway: Gateway, by person: PersonID) async throws {
        (base, files) = try await Self.files(typed["base"].flatMap { Int($0) }, gateway, person)
        let removed = Set(typed.all("remove"))
        let known = Set(files.map(\.name))
        var edited = zip(typed.all("name"), typed.all("content")).prefix(Self.editedMax).map { name, content in
            Edited(
                name: name.trimming(), content: Self.lines(content), isNew: !known.contains(name),
                isRemoved: removed.contains(name))
        }
        let step = typed["step"] ?? ""
        if step.hasPrefix("edit:"), let file = files.first(where: { $0.name == step.dropFirst(5) }),
            !edited.contains(where: { $0.name == file.name })
        {
            edited.append(Edited(name: file.name, content: file.content, isNew: false, isRemoved: false))
        }
        // Always room for one more.
        if !edited.contains(where: { $0.isNew && $0.name.isEmpty && $0.content.isEmpty }) {
            edited += Self.empty.prefix(1)
        }
        self.edited = edited
    }

    private static var empty: [Edited] {
        Array(repeating: Edited(name: "", content: "", isNew: true, isRemoved: false), count: newFiles)
    }

    /// A browser sends the ends of lines as CR LF.
    private static func lines(_ text: String) -> String {
        text.split(separator: "\r\n", omittingEmptySubsequences: false).joined(separator: "\n")
    }

    private static func files(
        _ base: Int?, _ gateway: Gateway, _ person: PersonID
    ) async throws -> (Int, [(name: String, content: String)]) {
        var number = base.flatMap { $0 > 0 ? $0 : nil }
        if number == nil, await gateway.isAnyPolicyActive { number = try await gateway.activePolicies().number }
        guard let number else { return (0, []) }
        return (number, try await gateway.policyFiles(of: number, by: person).contents)
    }
}
