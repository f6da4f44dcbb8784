package import Vocabulary

/// What may be done with a request, in which state, by whom: the one table that the gateway asks before it acts, that
/// the API and the pages offer from, and that `docs/request-matrix.md` prints. Pure: a value in, a value out.
package enum RequestLife {
    package enum State: String, CaseIterable, Sendable {
        /// Not filed yet: its writer's own, and no record speaks of it.
        case draft
        case waiting
        case granted
        /// The grant has run out.
        case expired
        case refused
        case withdrawn
        /// An amendment or renewal was granted in its place.
        case superseded
        /// Somebody took the grant back.
        case revoked
        /// The requester has reported that they are done; the grant is over.
        case closing
        case closed
    }

    /// How a person stands to one request.
    package enum Standing: String, CaseIterable, Sendable {
        case requester
        /// Named on the request as somebody who would use the data.
        case colleague
        /// Has a role that the policy names to review it, and has not spoken.
        case reviewer
        /// Such a one who has spoken.
        case spoken
        /// May open every case, and reviews none here.
        case reader
        case outsider
    }

    package enum Action: String, CaseIterable, Sendable {
        case see
        case saveDraft = "save-draft"
        case discardDraft = "discard-draft"
        case file
        case review
        case withdraw
        /// Go on from what is durable.
        case resume
        /// Start a run under the grant.
        case use
        case addDocument = "add-document"
        case amend
        case renew
        case closeOut = "close-out"
        case confirmClosure = "confirm-closure"

        /// Asked of a draft; everything else is asked of a request that was filed.
        package var isOfDraft: Bool { [.saveDraft, .discardDraft, .file].contains(self) }
    }

    /// Why not.
    package enum Refusal: String, Sendable {
        /// Told like something that is not there.
        case hidden
        /// Not for somebody of this standing, whatever the state.
        case standing
        /// Not in this state.
        case state
    }

    package enum Answer: Sendable, Equatable {
        /// - Parameter next: the states that it can lead to; its own where nothing changes. None: it is gone.
        case allowed(next: [State])
        case refused(Refusal)
    }

    package static func answer(_ state: State, _ standing: Standing, _ action: Action) -> Answer {
        guard standing != .outsider, state != .draft || standing == .requester else { return .refused(.hidden) }
        guard action == .see || action.isOfDraft == (state == .draft) else { return .refused(.state) }
        guard allowed(action).contains(standing) else { return .refused(.standing) }
        guard let next = next(state, action) else { return .refused(.state) }
        return .allowed(next: next)
    }

    /// Who may do it in some state.
    private static func allowed(_ action: Action) -> Set<Standing> {
        switch action {
        case .see, .resume: [.requester, .colleague, .reviewer, .spoken, .reader]
        case .review: [.reviewer]
        case .use: [.requester, .colleague]
        case .confirmClosure: [.reviewer, .spoken, .reader]
        case .saveDraft, .discardDraft, .file, .withdraw, .addDocument, .amend, .renew, .closeOut: [.requester]
        }
    }

    /// What it leads to; `nil` where it cannot be done in this state.
    private static func next(_ state: State, _ action: Action) -> [State]? {
        switch (action, state) {
        case (.see, _), (.resume, _): [state]
        case (.saveDraft, .draft): [.draft]
        case (.discardDraft, .draft): []
        // Policy may answer at once.
        case (.file, .draft), (.review, .waiting): [.waiting, .granted, .refused]
        case (.withdraw, .waiting): [.withdrawn]
        case (.use, .granted), (.addDocument, .granted): [.granted]
        // The new question is a request of its own; this grant stands until that one is granted.
        case (.amend, .granted), (.renew, .granted): [.granted, .superseded]
        case (.closeOut, .granted), (.closeOut, .expired), (.closeOut, .revoked): [.closing]
        case (.confirmClosure, .closing): [.closed]
        default: nil
        }
    }
}

// MARK: - For people and programs

extension RequestLife {
    /// The whole table.
    package static var json: JSON {
        .array(
            cells.map { state, standing, action, answer in
                var members: [String: JSON] = [
                    "state": .string(state.rawValue), "standing": .string(standing.rawValue),
                    "action": .string(action.rawValue),
                ]
                switch answer {
                case .allowed(let next):
                    members["allowed"] = true
                    members["next"] = .array(next.map { .string($0.rawValue) })
                    members["why_not"] = .null
                case .refused(let refusal):
                    members["allowed"] = false
                    members["next"] = []
                    members["why_not"] = .string(refusal.rawValue)
                }
                return .object(members)
            })
    }

    static var cells: [(State, Standing, Action, Answer)] {
        State.allCases.flatMap { state in
            Standing.allCases.flatMap { standing in
                Action.allCases.map { (state, standing, $0, answer(state, standing, $0)) }
            }
        }
    }

    /// One table a standing: a row for each action, a column for each state.
    package static var markdown: String {
        var text = ""
        for standing in Standing.allCases {
            text += "\n## \(standing.rawValue)\n\n"
            text += "| | \(State.allCases.map(\.rawValue).joined(separator: " | ")) |\n"
            text += "|---\(String(repeating: "|---", count: State.allCases.count))|\n"
            for action in Action.allCases {
                let cells = State.allCases.map { state in
                    switch answer(state, standing, action) {
                    case .allowed(let next):
                        next.isEmpty
                            ? "→ gone" : next == [state] ? "yes" : "→ \(next.map(\.rawValue).joined(separator: ", "))"
                    case .refused(.hidden): "·"
                    case .refused(.standing): "not theirs"
                    case .refused(.state): "not now"
                    }
                }
                text += "| `\(action.rawValue)` | \(cells.joined(separator: " | ")) |\n"
            }
        }
        return text
    }
}
