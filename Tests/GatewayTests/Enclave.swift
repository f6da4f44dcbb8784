import AuditTrail
import Foundation
import Gateway
import Synchronization
import TestSupport
import Testing
import Vocabulary

/// The machine's clock, moved by a test; it can also end the process at a chosen reading, which is how a test chooses
/// the instant of a crash: every record takes its time from here just before it is written.
final class TestClock: WallClock {
    private struct State {
        var shift: Int64 = 0
        var readings = 0
        var last: Int?
        var awaited: (file: String, readings: Int)?
    }
    private let state = Mutex(State())
    private let machine = SystemClock()

    var readings: Int { state.withLock { $0.readings } }

    func now() -> Timestamp {
        let shift = state.withLock { state in
            state.readings += 1
            if state.last == nil, let awaited = state.awaited, FileManager.default.fileExists(atPath: awaited.file) {
                state.last = state.readings + awaited.readings
            }
            if state.readings == state.last { kill(getpid(), SIGKILL) }
            return state.shift
        }
        return machine.now().adding(seconds: shift)
    }

    func advance(minutes: Int64) { state.withLock { $0.shift += minutes * 60 } }

    func advance(days: Int64) { state.withLock { $0.shift += days * 86_400 } }

    /// Ends the process at the `count`th reading from here.
    func killProcess(afterReadings count: Int) { state.withLock { $0.last = $0.readings + count } }

    /// Ends the process at the `count`th reading after the one that finds a file there.
    func killProcess(afterReadings count: Int, since file: URL) { state.withLock { $0.awaited = (file.path, count) } }
}

/// A gateway on a fresh home with the clinic's data, people, policies and nodes.
final class Enclave: Sendable {
    let folder: URL
    let clock = TestClock()
    let trail: String
    private let held: Mutex<Gateway?>
    private let nodes = Mutex<[TestNode]>([])

    let researcher = try! PersonID("rin")
    let reviewer = try! PersonID("dai")
    let custodian = try! PersonID("chika")
    let steward = try! PersonID("mika")
    let operatorPerson = try! PersonID("olga")
    let administrator = try! PersonID("pia")
    let auditor = try! PersonID("aoi")

    var home: URL { folder.appendingPathComponent("home") }
    var key: URL { folder.appendingPathComponent("home.key") }
    var auditorKey: URL { folder.appendingPathComponent("auditor.key") }
    var data: URL { folder.appendingPathComponent("data") }
    var policies: URL { folder.appendingPathComponent("policies") }
    private var measurementsFile: URL { folder.appendingPathComponent("measurements") }

    /// The gateway that holds the home. Not to be kept over a `drop`.
    var gateway: Gateway { held.withLock { $0! } }

    fileprivate init(_ folder: URL, policy: String, anchor: URL?) async throws {
        self.folder = folder
        let home = folder.appendingPathComponent("home")
        let key = folder.appendingPathComponent("home.key")
        try Data((0..<32).map { _ in UInt8.random(in: 0...255) }).write(to: key)
        for name in ["auditor.key", "recovery.key"] {
            _ = try AuditorKeyFile.generate(at: folder.appendingPathComponent(name))
        }
        trail = try await Gateway.initialise(
            home: home, key: .keyFile(key), origin: "sekisho.test/trail", anchor: anchor,
            auditors: [folder.appendingPathComponent("auditor.key.pub")],
            recovery: folder.appendingPathComponent("recovery.key.pub"), clock: clock)
        held = Mutex(try await Self.open(home, key, clock))
        try await addPeople()
        try await gateway.initialisePKI(by: operatorPerson)
        try write(policy: policy)
        try await makePolicyKeys()
        try await activatePolicies()
        try FileManager.default.createDirectory(at: data, withIntermediateDirectories: true)
        try Clinic.write(into: data)
        try await importData()
    }

    private func addPeople() async throws {
        let people: [(PersonID, Role)] = [
            (operatorPerson, .operatorRole), (researcher, .researcher), (reviewer, .dac),
            (custodian, .dataCustodian), (steward, .dataCustodian), (administrator, .policyAdministrator),
            (auditor, .complianceOfficer),
        ]
        for (number, (person, role)) in people.enumerated() {
            // Nobody can have added the first one.
            try await gateway.addPerson(person, roles: [role], by: number == 0 ? nil : operatorPerson)
        }
    }

    // MARK: - Policies

    /// Those who sign policies here, with keys of their own.
    var signers: [PersonID] { [administrator, reviewer, custodian] }

    func policyKey(of person: PersonID) -> URL { folder.appendingPathComponent("policy-\(person).key") }

    func makePolicyKeys() async throws {
        for person in signers {
            let key = try PolicyKeyFile.generate(at: policyKey(of: person))
            try await gateway.setPolicyKey(key, by: person)
        }
    }

    @discardableResult
    func sign(_ proposal: PolicyProposal, by person: PersonID) async throws -> PolicyProposal {
        let files = try await gateway.policyFiles(of: proposal.number, by: person)
        let signature = try PolicyKeyFile.sign(proposal.statement, of: files, with: policyKey(of: person))
        return try await gateway.signPolicies(proposal.number, signature: signature, by: person)
    }

    /// Proposes the folder's files, has them signed by as many as it takes, and activates them.
    @discardableResult
    func activatePolicies() async throws -> PolicyProposal {
        try await activate(gateway.proposePolicies(PolicyFolder(policies), by: administrator))
    }

    @discardableResult
    func activate(_ proposal: PolicyProposal) async throws -> PolicyProposal {
        for person in signers.prefix(proposal.signaturesNeeded) { try await sign(proposal, by: person) }
        return try await gateway.activatePolicies(proposal.number, by: administrator)
    }

    func write(policy: String, name: String = "clinic.yaml") throws {
        try FileManager.default.createDirectory(at: policies, withIntermediateDirectories: true)
        try Data(policy.utf8).write(to: policies.appendingPathComponent(name))
    }

    func importData() async throws {
        let file = { (name: String) in self.data.appendingPathComponent(name) }
        _ = try await gateway.importDataset(
            Clinic.dataset, nodes: file("nodes.tsv"), edges: file("edges.tsv"), features: .dense(file("features.npy")),
            consent: file("consent.tsv"), by: steward, progress: { _ in })
    }

    // MARK: - Nodes

    /// Starts a node and adds it to the pool.
    @discardableResult
    func startNode(_ name: String = "campus-1", over line: TestLine? = nil) async throws -> TestNode {
        let id = try NodeID(name)
        let identity = folder.appendingPathComponent("nodes/\(name)")
        let state = folder.appendingPathComponent("nodes/\(name).state")
        if !FileManager.default.fileExists(atPath: identity.path) {
            try await gateway.makeNodeIdentity(id, at: identity, by: operatorPerson)
        }
        let measurements = try TestNode.measurements(identity: identity, state: state)
        try Data(measurements.utf8).write(to: measurementsFile)
        let node = try TestNode(id, identity: identity, state: state, over: line)
        nodes.withLock { $0.append(node) }
        try await add(node, measurements: measurements)
        return node
    }

    func add(_ node: TestNode, measurements: String) async throws {
        try await gateway.addNode(
            node.id, address: node.address, pool: "campus", measurements: measurements, by: operatorPerson)
    }

    /// The measurements that the latest node signs.
    func latestMeasurements() throws -> String { try String(contentsOf: measurementsFile, encoding: .utf8) }

    /// The measurements that the latest node signs, with one of them changed.
    func otherMeasurements() throws -> String {
        let text = try String(contentsOf: measurementsFile, encoding: .utf8)
        var members = try #require(try JSON(parsing: Array(text.utf8)).objectValue)
        let name = try #require(members.keys.sorted().first)
        members[name] = .string(String(repeating: "0", count: 64))
        return JSON.object(members).canonicalText
    }

    // MARK: - Ends

    /// Ends the gateway as a crash would, as far as its home is concerned: nothing is closed in order.
    func drop() { held.withLock { $0 = nil } }

    func open() async throws {
        let gateway = try await Self.open(home, key, clock)
        held.withLock { $0 = gateway }
    }

    /// A child that another test is starting at this moment holds copies of all locks until it becomes a program of
    /// its own; that passes at once.
    static func open(_ home: URL, _ key: URL, _ clock: TestClock) async throws -> Gateway {
        for _ in 0..<10_000 {
            do {
                return try await Gateway(home: home, key: .keyFile(key), clock: clock)
            } catch let error as GatewayError where error.code == .busy { await Task.yield() }
        }
        return try await Gateway(home: home, key: .keyFile(key), clock: clock)
    }

    func reopen() async throws {
        drop()
        try await open()
    }

    fileprivate func end() {
        drop()
        for node in nodes.withLock({ $0 }) { node.kill() }
    }

    // MARK: - The journey in short

    /// A grant, by a request that two others approve.
    func grant() async throws -> GrantID {
        let request = try await gateway.fileRequest(Clinic.form, by: researcher)
        _ = try await gateway.advance(request)
        for person in [reviewer, custodian] {
            try await gateway.review(request, .approve, comment: "as agreed", by: person)
        }
        guard case .decided(.granted(let grant)) = try await gateway.advance(request) else {
            throw Unexpected(words: "the request was not granted")
        }
        return grant
    }

    func request(
        _ grant: GrantID, id: String = "run-1", specification: String = Clinic.specification(),
        deviceMemory: Int? = nil,
        hours: Int? = nil
    ) async throws -> RunID {
        try await gateway.requestRun(
            specification: specification, grant: grant, id: RunID(id), deviceMemory: deviceMemory, hours: hours,
            by: researcher)
    }

    /// Does a run's steps up to `stage`, which is next then.
    func advance(_ run: RunID, to stage: RunStage) async throws {
        while try await gateway.runCase(run).nextStage < stage { _ = try await gateway.advance(run) }
        let next = try await gateway.runCase(run).nextStage
        guard next == stage else {
            throw Unexpected(words: "the run is at \(next), not at \(stage): \(try await sequence(.run(run)))")
        }
    }

    func review(_ run: RunID) async throws {
        guard try await gateway.runCase(run).nextStage == .review else {
            throw Unexpected(words: "the run does not wait for reviews: \(try await sequence(.run(run)))")
        }
        for person in [reviewer, custodian] {
            try await gateway.reviewRelease(of: run, .approve, candidate: nil, by: person)
        }
    }

    /// The whole rest of a run, reviews included.
    func finish(_ run: RunID) async throws -> RunProgress {
        var progress = try await gateway.advanceAsFarAsPossible(run)
        if case .waiting = progress {
            let file = try await gateway.runCase(run).file
            if !file.keys.contains("reviewed.\(reviewer)") { try await review(run) }
            progress = try await gateway.advanceAsFarAsPossible(run)
        }
        return progress
    }

    /// The nodes' states; one that this process has not asked yet is as free as one that was given back.
    func nodeStates() async throws -> [String] {
        try await gateway.nodes().map { $0.state == "not asked yet" ? "free" : $0.state }
    }

    // MARK: - What was written

    /// Every record that a test leads to fits the published schema of its event.
    fileprivate func checkRecords() async throws {
        guard let gateway = held.withLock({ $0 }) else { return }
        let schema = try EventSchema.shared.get()
        for record in (try? await gateway.auditList(nil, most: 100_000, by: auditor)) ?? [] {
            let objection = schema.objection(to: record.core)
            #expect(objection == nil, "entry \(record.index): \(objection ?? "")")
        }
    }

    /// A case's records but for the readings that asking for them leaves.
    func records(_ id: CaseID) async throws -> [CaseRecord] {
        try await gateway.timeline(id, by: auditor).filter { $0.detail["read"]?.stringValue != id.description }
    }

    /// A case's records as `event outcome`, with reasons where there are any.
    func sequence(_ id: CaseID) async throws -> [String] {
        try await records(id).map { record in
            let reasons = record.outcome == .done ? [] : record.reasons
            return
                ([record.eventName, record.outcomeName]
                + (reasons.isEmpty ? [] : ["[\(reasons.joined(separator: ", "))]"]))
                .joined(separator: " ")
        }
    }

    /// Event, outcome and key of each record of a run.
    func story(_ run: RunID) async throws -> [String] {
        try await records(.run(run)).map { "\($0.eventName) \($0.outcomeName) \($0.key)" }
    }

    func weights(_ run: RunID) async throws -> String? {
        try await records(.run(run)).first { $0.key == "trained" }?.detail["weights"]?.stringValue
    }

    /// The gateway's own records of an event.
    func own(_ event: AuditEvent) async throws -> [CaseRecord] {
        try await records(.gateway).filter { $0.event == event }
    }
}

struct Unexpected: Error, CustomStringConvertible {
    let words: String
    var description: String { words }
}

/// An enclave with one node, ended and removed afterwards, however `body` ends.
func withEnclave(
    policy: String = Clinic.policy, anchor: URL? = nil, hasNode: Bool = true,
    _ body: (Enclave) async throws -> Void
) async throws {
    try await places.withOne {
        try await withTemporaryFolder { folder in
            let enclave = try await Enclave(folder, policy: policy, anchor: anchor)
            defer { enclave.end() }
            if hasNode { try await enclave.startNode() }
            try await body(enclave)
            try await enclave.checkRecords()
        }
    }
}

/// How many enclaves, each with processes of its own, there are at a time.
private let places = Places(free: 4)

private actor Places {
    private var free: Int
    private var waiting: [CheckedContinuation<Void, Never>] = []

    init(free: Int) { self.free = free }

    nonisolated func withOne(_ body: () async throws -> Void) async throws {
        await take()
        do {
            try await body()
        } catch {
            await give()
            throw error
        }
        await give()
    }

    private func take() async {
        if free > 0 {
            free -= 1
        } else {
            await withCheckedContinuation { waiting.append($0) }
        }
    }

    private func give() {
        if waiting.isEmpty { free += 1 } else { waiting.removeFirst().resume() }
    }
}

/// The gateway's error that `body` throws; the test fails when it throws nothing or something else.
func refusal(_ body: () async throws -> Void, sourceLocation: SourceLocation = #_sourceLocation) async -> GatewayError?
{
    await #expect(throws: GatewayError.self, sourceLocation: sourceLocation) { try await body() }
}
