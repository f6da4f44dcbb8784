import AuditTrail
import PolicyEngine
import Vocabulary

/// Where to find requests without looking at all of them. Made of the records and of nothing else: the ledger tells it
/// each one, at the start and from then on, so it can never say what they do not.
struct RequestIndex {
    /// The order of filing.
    private var ordinals: [RequestID: Int] = [:]
    private var requestsOfGrants: [GrantID: RequestID] = [:]
    /// Requests that came to a grant, in the order of filing.
    private(set) var granted: [RequestID] = []
    /// Requests that nothing has ended yet, in the order of filing.
    private(set) var open: [RequestID] = []
    /// Emergency accesses that nobody has looked at since, in the order of their grants.
    private(set) var emergencies: [RequestID] = []
    /// Runs whose candidate waits for its review, in the order of their first records.
    private(set) var runsInReview: [RunID] = []
    private var runOrdinals: [RunID: Int] = [:]
    /// Requests that a person filed or is named on, in the order of filing.
    private var byPerson: [PersonID: [RequestID]] = [:]
    private var byOnceKey: [String: RequestID] = [:]
    /// Amendments and renewals of a request, in the order of filing.
    private var followers: [RequestID: [RequestID]] = [:]
    private var authors: [DatasetID: Set<PersonID>] = [:]

    func request(of grant: GrantID) -> RequestID? { requestsOfGrants[grant] }
    func requests(of person: PersonID) -> [RequestID] { byPerson[person] ?? [] }
    func request(filedUnder once: String, by person: PersonID) -> RequestID? { byOnceKey["\(person) \(once)"] }
    func followers(of request: RequestID) -> [RequestID] { followers[request] ?? [] }
    func authors(of dataset: DatasetID) -> [PersonID] { (authors[dataset] ?? []).sorted() }

    mutating func learn(_ record: CaseRecord, of id: CaseID) {
        switch id {
        case .gateway:
            if record.event == .datasetImported, let actor = record.actor,
                let dataset = record.core["dataset"]?.stringValue.flatMap({ try? DatasetID($0) })
            {
                authors[dataset, default: []].insert(actor)
            }
        case .request(let request): learn(record, of: request)
        case .run(let run): learn(record, of: run)
        }
    }

    private mutating func learn(_ record: CaseRecord, of request: RequestID) {
        switch record.event {
        case .requestFiled:
            ordinals[request] = ordinals.count
            open.append(request)
            let people = AccessRequest.people(in: record.payload["form"])
            for person in Set(people + [record.actor].compactMap { $0 }) {
                byPerson[person, default: []].append(request)
            }
            if let actor = record.actor, let once = record.payload["once"]?["key"]?.stringValue {
                byOnceKey["\(actor) \(once)"] = request
            }
            if let earlier = AccessRequest.Follows(record)?.request { followers[earlier, default: []].append(request) }
        case .accessDecided where record.key == AccessRequest.Key.decided, .requestWithdrawn: close(request)
        case .grantIssued:
            guard let grant = record.detail["grant"]?.stringValue.flatMap({ try? GrantID($0) }),
                requestsOfGrants.updateValue(request, forKey: grant) == nil
            else { return }
            if record.detail["break_glass"] == true { emergencies.append(request) }
            let place = granted.partitionPoint { ordinals[$0, default: 0] > ordinals[request, default: 0] }
            granted.insert(request, at: place)
        case .emergencyReviewed: emergencies.removeAll { $0 == request }
        default: break
        }
    }

    private mutating func close(_ request: RequestID) {
        let place = open.partitionPoint { ordinals[$0, default: 0] >= ordinals[request, default: 0] }
        if place < open.count, open[place] == request { open.remove(at: place) }
    }

    private mutating func learn(_ record: CaseRecord, of run: RunID) {
        if runOrdinals[run] == nil { runOrdinals[run] = runOrdinals.count }
        let place = runsInReview.partitionPoint { runOrdinals[$0, default: 0] >= runOrdinals[run, default: 0] }
        let isThere = place < runsInReview.count && runsInReview[place] == run
        switch record.event {
        case .releaseChecked: if !isThere { runsInReview.insert(run, at: place) }
        case .releaseDecided, .runClosed: if isThere { runsInReview.remove(at: place) }
        default: break
        }
    }
}
