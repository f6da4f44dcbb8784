import AuditTrail
import FabricProtocol
import GPUFabric
import GraphVault
import PolicyEngine
import Training
package import Vocabulary

// What people see of the journey, page by page. Nothing is listed that its reader may not open: who may see a case is
// decided in one place (`maySee`), for lists, timelines and reports alike.

/// A request for access, and who has it now.
package struct RequestEntry: Sendable {
    package let id: RequestID
    package let dataset: DatasetID
    package let requester: PersonID
    package let purpose: [String]
    package let filed: Timestamp
    package let changed: Timestamp
    package let state: RequestState
    /// Who else would use the data.
    package let people: [PersonID]
    /// The granted request that this one would change or renew.
    package let follows: RequestID?
    /// The amendment or renewal that waits or took this one's place.
    package let followedBy: RequestID?
    /// What was handed in with the form and since.
    package let documents: [JSON]
    /// Who said what, in order. Reviews are independent: while the request waits, whoever may still speak, and whoever
    /// asked, sees none but their own.
    package let votes: [VoteEntry]
    /// What whoever looks at it may do now.
    package let actions: [RequestLife.Action]
    package let revision: Revision
}

package enum RequestState: Sendable, Equatable {
    case waiting(ApprovalsMissing)
    case granted(GrantID)
    case refused([GatewayReason])
    case withdrawn
    /// A grant that is no longer used: expired, superseded, revoked, closed.
    case over(RequestLife.State, GrantID)
    /// Its holder is done; somebody has to confirm it.
    case closing(GrantID, roles: [String])

    /// The closed name of the state.
    package var name: String {
        switch self {
        case .waiting: RequestLife.State.waiting.rawValue
        case .granted: RequestLife.State.granted.rawValue
        case .refused: RequestLife.State.refused.rawValue
        case .withdrawn: RequestLife.State.withdrawn.rawValue
        case .over(let state, _): state.rawValue
        case .closing: RequestLife.State.closing.rawValue
        }
    }

    /// The grant that the request came to.
    package var grant: GrantID? {
        switch self {
        case .waiting, .refused, .withdrawn: nil
        case .granted(let grant), .over(_, let grant), .closing(let grant, _): grant
        }
    }

    /// Every name there is of a request that was filed.
    package static var names: [String] {
        RequestLife.State.allCases.filter { $0 != .draft }.map(\.rawValue)
    }

    /// One line for people.
    package var words: String {
        switch self {
        case .waiting(let missing): "waits for \(missing.words)"
        case .granted(let grant): "granted (\(grant))"
        case .refused(let reasons): "refused (\(reasons.map(\.code).joined(separator: ", ")))"
        case .withdrawn: "withdrawn by its requester"
        case .over(let state, let grant): "\(state.rawValue) (\(grant))"
        case .closing(_, let roles): "waits for \(roles.joined(separator: " or ")) to confirm its end"
        }
    }
}

/// How many more approvals something waits for, and of whom.
package struct ApprovalsMissing: Sendable, Equatable {
    package let count: Int
    package let roles: [String]

    package var words: String { "\(count) more approval\(count == 1 ? "" : "s") by \(roles.joined(separator: " or "))" }
}

package struct VoteEntry: Sendable, Equatable {
    package let person: PersonID
    package let role: String
    package let approves: Bool
    package let time: Timestamp
    package let comment: String
    /// What an approval was given under.
    package let conditions: [JSON]
}

/// What a case has come to: it changes with every record of the case and with nothing else.
package struct Revision: Sendable, Hashable, CustomStringConvertible {
    package let text: String
    package var description: String { text }

    /// Of a draft, which is no case.
    init(draft version: Int) { text = "draft-\(version)" }

    init(_ file: CaseFile) { text = String(file.records.last?.leafHash.hex.prefix(24) ?? "none") }
}

/// Something that waits for a reviewer's word.
package struct ReviewEntry: Sendable {
    package enum Subject: Sendable, Equatable {
        case request(RequestID)
        /// Emergency access that somebody has to look at afterwards.
        case emergency(RequestID)
        case release(RunID)
    }

    package let subject: Subject
    package let dataset: DatasetID
    /// Whose request or run it is; they do not review it.
    package let owner: PersonID
    package let since: Timestamp
    package let missing: ApprovalsMissing
    package let votes: [VoteEntry]
    /// Whether the one who asks may speak now: has a role that reviews here, is not the owner, has not spoken yet.
    package let mayReview: Bool
    package let revision: Revision
}

package struct GrantEntry: Sendable {
    package let grant: Grant
    package let purpose: [String]
    /// What whoever uses the grant must do: a closed code, and the text, day or number that goes with it.
    package let obligations: [(code: String, value: String)]
    package let isExpired: Bool
    /// Who took it away and why, if somebody did.
    package let revocation: Revocation?
}

/// A run: where it is, who has it now, how it ended.
package struct RunEntry: Sendable {
    package let id: RunID
    package let dataset: DatasetID
    package let version: VersionID
    package let researcher: PersonID
    package let grant: GrantID?
    package let asked: Timestamp
    package let changed: Timestamp
    package let stage: RunStage
    package let end: RunEnd?
    /// Reviewers whose word a candidate waits for; `nil` while the gateway has the run.
    package let missing: ApprovalsMissing?
    /// Codes of whatever stopped the run, and the same in sentences.
    package let reasons: [String]
    package let words: [String]
    package let epochs: (done: Int, of: Int)
    /// The run whose released model answers; `nil` where one is trained.
    package let model: RunID?
    /// Devices that were lost under it, in order; it went on on others.
    package let devicesLost: [NodeID]
    package let revision: Revision
}

/// A candidate with what became of it. What is in it is `candidate(of:by:)`.
package struct ReleaseEntry: Sendable {
    package let run: RunID
    package let dataset: DatasetID
    package let researcher: PersonID
    package let candidate: String
    package let checked: Timestamp
    package let checksFailed: [String]
    package let votes: [VoteEntry]
    package let state: ReleaseState
    package let revision: Revision
}

package enum ReleaseState: String, CaseIterable, Sendable { case waiting, released, refused }

package struct RequestFilter: Sendable {
    package var dataset: DatasetID?
    package var requester: PersonID?
    /// A `RequestState.name`.
    package var state: String?
    package init() {}
}

package struct RunFilter: Sendable {
    package var dataset: DatasetID?
    package var researcher: PersonID?
    package var stage: RunStage?
    package var end: RunEnd?
    package init() {}
}

// MARK: - Who may see what

extension Gateway {
    /// Who may open every case.
    static let caseReaders: Set<Role> = [.complianceOfficer, .dac, .dataCustodian]
    /// Who may see who else is here.
    static let peopleReaders: Set<Role> = [.operatorRole, .securityOfficer, .complianceOfficer]
    /// Who may see the device nodes.
    static let nodeReaders: Set<Role> = [.operatorRole, .securityOfficer, .complianceOfficer]

    /// A request is seen by its requester, by those named on it, by those who open every case, and by the reviewers its
    /// policy names.
    func maySee(_ request: AccessRequest, _ person: PersonRecord) -> Bool {
        lifeStanding(of: person, on: request) != .outsider
    }

    /// Requests in which somebody may find their own; all of them for whoever may look at others'.
    private func requestsToLookAt(_ person: PersonRecord, requester: PersonID? = nil) -> [RequestID] {
        if let requester { return ledger.index.requests(of: requester) }
        return person.roles == [.researcher] ? ledger.index.requests(of: person.id) : ledger.requests
    }

    /// Where a run is: also operators, who look after its device.
    private func maySee(_ run: RunCase, _ person: PersonRecord) -> Bool {
        person.roles.contains(.operatorRole) || mayOpen(run, person)
    }

    /// A run is opened by its researcher and by those who open every case; once there is a candidate, also by the
    /// reviewers that its policy names.
    private func mayOpen(_ run: RunCase, _ person: PersonRecord) -> Bool {
        if run.researcher == person.id || !person.roles.isDisjoint(with: Self.caseReaders) { return true }
        guard run.file[RunCase.Key.checked] != nil,
            let roles = try? policy(for: run.dataset).release.roles.value
        else { return false }
        return person.roles.contains { roles.contains($0.rawValue) }
    }

    /// Told like a case that is not there, so that an id that was guessed tells nothing.
    func requireSight(of request: AccessRequest, by person: PersonID) throws {
        guard maySee(request, try self.person(person)) else {
            throw GatewayError(.notFound, "there is no request \(request.id)")
        }
    }

    /// Told like a case that is not there, so that an id that was guessed tells nothing.
    func requireSight(of run: RunCase, by person: PersonID) throws {
        guard maySee(run, try self.person(person)) else {
            throw GatewayError(.notFound, "there is no run \(run.id)")
        }
    }

    /// Told like a case that is not there, so that an id that was guessed tells nothing.
    func requireOpening(of run: RunCase, by person: PersonID) throws {
        guard mayOpen(run, try self.person(person)) else {
            throw GatewayError(.notFound, "there is no run \(run.id)")
        }
    }
}

// MARK: - Revisions

extension Gateway {
    /// Refuses what was decided on an older state of a case than the one it has now.
    func require(_ file: CaseFile, toBe revision: String?) throws {
        guard revision == nil || revision == Revision(file).text else {
            throw GatewayError(.changed, "somebody has changed this since you looked; look again, then decide")
        }
    }

    /// A case's records page by page, as `timeline(_:by:)` shows them.
    package func timeline(_ page: PageRequest, of id: CaseID, by person: PersonID) throws -> Page<CaseRecord> {
        try Page(page, of: .records, timeline(id, by: person), place: \.index) { $0 }
    }
}

// MARK: - Requests and reviews

extension Gateway {
    package func requests(
        _ page: PageRequest, where filter: RequestFilter = RequestFilter(), by person: PersonID
    ) throws -> Page<RequestEntry> {
        let person = try self.person(person)
        let things = requestsToLookAt(person, requester: filter.requester)
        return try Page(page, of: .requests, things, place: { ledger.file(.request($0)).records[0].index }) {
            let request = try accessRequest($0)
            guard maySee(request, person), filter.dataset == nil || filter.dataset == request.dataset,
                filter.requester == nil || filter.requester == request.requester
            else { return nil }
            let entry = try entry(of: request, for: person)
            return filter.state == nil || filter.state == entry.state.name ? entry : nil
        }
    }

    package func request(_ id: RequestID, by person: PersonID) throws -> RequestEntry {
        let request = try accessRequest(id)
        try requireSight(of: request, by: person)
        return try entry(of: request, for: self.person(person))
    }

    /// The form as it was filed.
    package func requestForm(_ id: RequestID, by person: PersonID) throws -> JSON {
        let request = try accessRequest(id)
        try requireSight(of: request, by: person)
        return request.form
    }

    private func shownState(of request: AccessRequest) -> RequestState {
        let life = lifeState(of: request)
        switch (life, request.finalDecision) {
        case (.withdrawn, _): return .withdrawn
        case (_, .refused(let reasons)): return .refused(reasons)
        case (.granted, .granted(let grant)): return .granted(grant)
        case (.closing, .granted(let grant)):
            return .closing(grant, roles: (try? approvals(request))?.roles ?? [])
        case (_, .granted(let grant)): return .over(life, grant)
        // Without a policy nobody can approve; the next advance says so.
        case (_, nil): return .waiting((try? approvalsMissing(request)) ?? ApprovalsMissing(count: 1, roles: []))
        }
    }

    private func entry(of request: AccessRequest, for person: PersonRecord) throws -> RequestEntry {
        let filed = request.file.records[0]
        let state = shownState(of: request)
        let followers = ledger.index.followers(of: request.id)
        let follower = try followers.last { id in
            let follower = try accessRequest(id)
            return follower.file[AccessRequest.Key.granted] != nil || lifeState(of: follower) == .waiting
        }
        return RequestEntry(
            id: request.id, dataset: request.dataset, requester: request.requester,
            purpose: filed.core["purpose"]?.stringValue?.split(separator: ",").map(String.init) ?? [],
            filed: filed.time, changed: request.file.records.last?.time ?? filed.time, state: state,
            people: request.people, follows: request.follows?.request, followedBy: follower,
            documents: request.documents.map(\.json), votes: votesShown(of: request, to: person),
            actions: actions(on: request, by: person), revision: Revision(request.file))
    }

    /// Two people review independently where neither knows what the other said. So while a request waits, those who may
    /// still speak see no other's word, nor do those who asked.
    private func votesShown(of request: AccessRequest, to person: PersonRecord) -> [VoteEntry] {
        let votes = VoteEntry.read(request.file, .requestReviewed)
        return hidesVotes(of: request, from: person) ? votes.filter { $0.person == person.id } : votes
    }

    func hidesVotes(of request: AccessRequest, from person: PersonRecord) -> Bool {
        lifeState(of: request) == .waiting
            && [.reviewer, .requester, .colleague].contains(lifeStanding(of: person, on: request))
    }

    /// What waits for a reviewer.
    ///
    /// - Parameter mine: only what `person` may speak on now; otherwise everything that waits and that they may see.
    package func reviews(_ page: PageRequest, mine: Bool, by person: PersonID) throws -> Page<ReviewEntry> {
        let person = try self.person(person)
        let waiting: [(UInt64, ReviewEntry.Subject)] =
            ledger.index.open.map { (ledger.file(.request($0)).records[0].index, .request($0)) }
            + ledger.index.emergencies.map { (ledger.file(.request($0)).records[0].index, .emergency($0)) }
            + ledger.index.runsInReview.map { (ledger.file(.run($0)).records[0].index, .release($0)) }
        let subjects = waiting.sorted { $0.0 < $1.0 }
        return try Page(page, of: .reviews, subjects, place: \.0) { _, subject in
            let entry: ReviewEntry? =
                switch subject {
                case .request(let id), .emergency(let id): try review(of: accessRequest(id), by: person)
                case .release(let id): try review(of: runCase(id), by: person)
                }
            guard let entry, entry.mayReview || !mine else { return nil }
            return entry
        }
    }

    func review(of request: AccessRequest, by person: PersonRecord) throws -> ReviewEntry? {
        if request.awaitsReview { return emergencyReview(of: request, by: person) }
        guard lifeState(of: request) == .waiting, maySee(request, person),
            let missing = try? approvalsMissing(request)
        else { return nil }
        return ReviewEntry(
            subject: .request(request.id), dataset: request.dataset, owner: request.requester,
            since: request.file.records[0].time, missing: missing,
            votes: votesShown(of: request, to: person),
            mayReview: lifeStanding(of: person, on: request) == .reviewer,
            revision: Revision(request.file))
    }

    private func emergencyReview(of request: AccessRequest, by person: PersonRecord) -> ReviewEntry? {
        guard maySee(request, person), let granted = request.file[AccessRequest.Key.granted] else { return nil }
        return ReviewEntry(
            subject: .emergency(request.id), dataset: request.dataset, owner: request.requester, since: granted.time,
            missing: ApprovalsMissing(count: 1, roles: Self.emergencyReviewers.map(\.rawValue).sorted()),
            votes: VoteEntry.read(request.file, .requestReviewed),
            mayReview: !person.roles.isDisjoint(with: Self.emergencyReviewers)
                && !request.hasPart(person.id), revision: Revision(request.file))
    }

    func review(of run: RunCase, by person: PersonRecord) throws -> ReviewEntry? {
        guard let checked = run.file[RunCase.Key.checked], let missing = reviewsMissing(run), mayOpen(run, person)
        else { return nil }
        return ReviewEntry(
            subject: .release(run.id), dataset: run.dataset, owner: run.researcher, since: checked.time,
            missing: missing, votes: votesShown(of: run, to: person.id),
            mayReview: run.file[RunCase.Key.reviewed(person.id)] == nil
                && (try? reviewingRole(of: person.id, among: missing.roles, notOf: run.researcher, "release")) != nil,
            revision: Revision(run.file))
    }

    /// The words on a candidate that a person may see: while it waits for more, one's own only, so that the next word is
    /// given independently of it.
    private func votesShown(of run: RunCase, to person: PersonID) -> [VoteEntry] {
        let votes = VoteEntry.read(run.file, .releaseReviewed)
        guard reviewsMissing(run) != nil else { return votes }
        return votes.filter { $0.person == person }
    }
}

extension VoteEntry {
    fileprivate static func read(_ file: CaseFile, _ event: AuditEvent) -> [VoteEntry] {
        file.records.filter { $0.event == event }.compactMap { record in
            guard let person = record.actor, let role = record.detail["role"]?.stringValue else { return nil }
            return VoteEntry(
                person: person, role: role, approves: record.outcome == .done, time: record.time,
                comment: record.payload["comment"]?.stringValue ?? "",
                conditions: record.payload["conditions"]?.arrayValue ?? [])
        }
    }
}

// MARK: - Grants, runs, releases

extension Gateway {
    package func grants(_ page: PageRequest, by person: PersonID) throws -> Page<GrantEntry> {
        let person = try self.person(person)
        let things = person.roles == [.researcher] ? ledger.index.requests(of: person.id) : ledger.index.granted
        return try Page(page, of: .grants, things, place: { ledger.file(.request($0)).records[0].index }) {
            let request = try accessRequest($0)
            guard maySee(request, person), let grant = try grant(of: request) else { return nil }
            return entry(of: grant)
        }
    }

    package func grant(_ id: GrantID, by person: PersonID) throws -> GrantEntry {
        let grant = try grant(id)
        guard maySee(try accessRequest(grant.request), try self.person(person)) else {
            throw GatewayError(.notFound, "there is no grant \(id)")
        }
        return entry(of: grant)
    }

    private func entry(of grant: Grant) -> GrantEntry {
        GrantEntry(
            grant: grant, purpose: grant.purpose.codes,
            obligations: grant.obligations.map { ($0.code.rawValue, $0.value) },
            isExpired: grant.expires <= clock.now(),
            revocation: revocation(of: grant))
    }

    package func runs(
        _ page: PageRequest, where filter: RunFilter = RunFilter(), by person: PersonID
    ) throws -> Page<RunEntry> {
        let person = try self.person(person)
        return try Page(page, of: .runs, ledger.runs, place: { ledger.file(.run($0)).records[0].index }) {
            let run = try runCase($0)
            guard maySee(run, person), filter.dataset == nil || filter.dataset == run.dataset,
                filter.researcher == nil || filter.researcher == run.researcher,
                filter.stage == nil || filter.stage == run.nextStage, filter.end == nil || filter.end == run.end
            else { return nil }
            return entry(of: run)
        }
    }

    package func run(_ id: RunID, by person: PersonID) throws -> RunEntry {
        let run = try runCase(id)
        try requireSight(of: run, by: person)
        return entry(of: run)
    }

    private func entry(of run: RunCase) -> RunEntry {
        let facts = RunFacts(run)
        return RunEntry(
            id: run.id, dataset: run.dataset, version: run.version, researcher: run.researcher, grant: facts?.grant,
            asked: run.file.records[0].time, changed: run.file.records.last?.time ?? run.file.records[0].time,
            stage: run.nextStage, end: run.end, missing: reviewsMissing(run), reasons: run.stopReasons,
            words: run.stopWords,
            epochs: facts?.model == nil
                ? (run.epochsRecorded, facts?.specification.epochs ?? 0)
                : (run.file[RunCase.Key.trained]?.outcome == .done ? 1 : 0, 1),
            model: facts?.model, devicesLost: run.devicesLost, revision: Revision(run.file))
    }

    /// Seconds in each stage that a run has been through.
    package func times(of id: RunID, by person: PersonID) throws -> [RunTimeline.Stage] {
        let run = try runCase(id)
        try requireSight(of: run, by: person)
        return RunTimeline(run.file).stages
    }

    /// The plan as it was recorded.
    package func plan(of id: RunID, by person: PersonID) throws -> (json: JSON, table: String) {
        try requireSight(of: try runCase(id), by: person)
        return try recordedPlan(of: id)
    }

    package func releases(
        _ page: PageRequest, state: ReleaseState? = nil, by person: PersonID
    ) throws -> Page<ReleaseEntry> {
        let person = try self.person(person)
        return try Page(page, of: .releases, ledger.runs, place: { ledger.file(.run($0)).records[0].index }) {
            let run = try runCase($0)
            guard mayOpen(run, person), let entry = releaseEntry(of: run, shownTo: person.id),
                state == nil || state == entry.state
            else { return nil }
            return entry
        }
    }

    package func release(of id: RunID, by person: PersonID) throws -> ReleaseEntry {
        let run = try runCase(id)
        try requireOpening(of: run, by: person)
        guard let entry = releaseEntry(of: run, shownTo: person) else {
            throw GatewayError(.notFound, "run \(id) has no candidate")
        }
        return entry
    }

    private func releaseEntry(of run: RunCase, shownTo person: PersonID) -> ReleaseEntry? {
        guard let checked = run.file[RunCase.Key.checked], let candidate = checked.detail["candidate"]?.stringValue
        else { return nil }
        let failed = (checked.detail["checks"]?.arrayValue ?? []).filter { $0["passed"]?.boolValue != true }
        return ReleaseEntry(
            run: run.id, dataset: run.dataset, researcher: run.researcher, candidate: candidate, checked: checked.time,
            checksFailed: failed.compactMap { $0["check"]?.stringValue },
            votes: votesShown(of: run, to: person),
            state: run.isReleased
                ? .released : run.nextStage == .review || run.nextStage == .release ? .waiting : .refused,
            revision: Revision(run.file))
    }
}

// MARK: - Data sets, nodes, people

extension Gateway {
    /// The catalogue: which versions of which data sets there are. Everyone here may know that.
    package func datasets(_ page: PageRequest, by person: PersonID) async throws -> Page<DatasetSummary> {
        _ = try self.person(person)
        let datasets = try await datasets()
        // Versions are numbered by when they came: their place in the list does not change.
        let places = Array(datasets.enumerated())
        return try Page(page, of: .datasets, places, place: \.offset) { $0.element }
    }

    package func nodes(_ page: PageRequest, by person: PersonID) throws -> Page<NodeSummary> {
        try require(person, anyOf: Self.nodeReaders)
        return try Page(page, of: .nodes, hasNodes ? nodes() : [], place: \.id.text) { $0 }
    }

    /// People and their roles: all of them for those who look after people, oneself for everybody.
    package func people(_ page: PageRequest, by id: PersonID) throws -> Page<PersonRecord> {
        let person = try self.person(id)
        let seesAll = !person.roles.isDisjoint(with: Self.peopleReaders)
        let all = seesAll ? people.values.sorted { $0.id < $1.id } : [person]
        return try Page(page, of: .people, all, place: \.id.text) { $0 }
    }

    package func person(_ id: PersonID, by person: PersonID) throws -> PersonRecord {
        let seesAll = !(try self.person(person)).roles.isDisjoint(with: Self.peopleReaders)
        guard seesAll || id == person, let found = people[id] else {
            throw GatewayError(.notFound, "there is nobody of this name here")
        }
        return found
    }
}
