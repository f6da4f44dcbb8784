import AuditTrail
import FabricProtocol
import GPUFabric
import Training
package import Vocabulary

/// A node with all that an operator asks about it.
package struct NodeReport: Sendable {
    /// Why a node is out of the pool.
    package struct Absence: Sendable {
        package let code: String
        /// The measurement or window, where the code has one.
        package let index: Int?
        package let since: Timestamp
    }

    /// The link as it was at one attach or measurement.
    package struct Link: Sendable {
        package let at: Timestamp
        package let roundTripMicroseconds: Int
        /// Only where it was measured for its own sake.
        package let jitterMicroseconds: Int?
        package let megabytesPerSecond: Int
    }

    /// Links that are kept in view.
    package static let linksMax = 50

    package let summary: NodeSummary
    package let quarantine: Absence?
    /// Newest first.
    package let links: [Link]
    /// What the node's evidence has to say, by measurement.
    package let measurements: [String: Digest]
}

/// A run that waits for a device.
package struct LinePlace: Sendable {
    package let run: RunID
    package let researcher: PersonID
    /// From 1.
    package let place: Int
    package let pools: [String]
    /// About when its turn comes; `nil` where too little is known.
    package let secondsLeft: Int?
}

// MARK: - What operators see

extension Gateway {
    package func node(_ id: NodeID, by person: PersonID) throws -> NodeReport {
        try require(person, anyOf: Self.nodeReaders)
        let status = try nodeStatus(id)
        let holder = try deviceHolders().first { $0.node == id }
        return NodeReport(
            summary: try summary(of: status, holder: holder),
            quarantine: status.quarantine.map { NodeReport.Absence(code: $0.code, index: $0.index, since: $0.since) },
            links: links(of: id),
            measurements: status.node.policy.allowed.compactMapValues(\.first))
    }

    /// The runs that wait for a device, in the order of their turns.
    package func deviceLine(by person: PersonID) throws -> [LinePlace] {
        try require(person, anyOf: Self.nodeReaders)
        guard hasNodes, !deviceWaits.isEmpty else { return [] }
        let line = try line()
        let usual = usualSeconds()
        return line.waiting.enumerated().map { place, waiting in
            LinePlace(
                run: waiting.run, researcher: waiting.person, place: place + 1, pools: waiting.pools.sorted(),
                secondsLeft: line.secondsUntilTurn(of: waiting.run, usual: usual))
        }
    }

    /// Newest first: the link at every attach, and at every measurement that an operator asked for.
    private func links(of node: NodeID) -> [NodeReport.Link] {
        let attached = ledger.records(of: .deviceLeased).lazy.reversed().filter {
            $0.outcome == .intent && $0.core["device"]?.stringValue == node.text
        }
        let measured = ledger.records(of: .nodeMeasured).lazy.reversed().filter {
            $0.outcome == .done && $0.core["device"]?.stringValue == node.text
        }
        let newest = (Array(attached.prefix(NodeReport.linksMax)) + Array(measured.prefix(NodeReport.linksMax)))
            .sorted { $0.index > $1.index }.prefix(NodeReport.linksMax)
        return newest.compactMap { NodeReport.Link($0) }
    }
}

extension NodeReport.Link {
    /// From the record of an attach or of a measurement.
    fileprivate init?(_ record: CaseRecord) {
        guard let trip = record.detail["rtt_microseconds"]?.integerValue,
            let rate = record.detail["megabytes_per_second"]?.integerValue
        else { return nil }
        at = record.time
        roundTripMicroseconds = Int(trip)
        jitterMicroseconds = record.detail["jitter_microseconds"]?.integerValue.map { Int($0) }
        megabytesPerSecond = Int(rate)
    }
}

extension LinkMeasurement {
    /// What the record of an attach or of a measurement says of the link.
    var detail: [String: JSON] {
        [
            "rtt_microseconds": .integer(Int64(clamping: roundTripNanoseconds / 1000)),
            "megabytes_per_second": .integer(Int64(clamping: bytesPerSecond / 1_000_000)),
        ]
    }
}

// MARK: - What operators do

extension Gateway {
    /// Keeps new runs off a node; one that has it goes on to its end.
    package func drainNode(_ node: NodeID, by actor: PersonID) throws {
        try require(actor, anyOf: [.operatorRole])
        try nodeStatus(node)
        guard !isDrained(node) else { throw GatewayError(.usage, "\(node) takes no new runs already") }
        try ledger.record(
            Event(.nodeDrained, .done).with {
                $0.actor = actor
                $0.device = node
            }, in: .gateway, key: ledger.freshKey("drained.\(node)"))
    }

    /// Takes a node out of the pool until it is attested again: what an operator does who does not trust it any more.
    ///
    /// A run that holds the node is not ended here; cancel it first.
    package func quarantineNode(_ node: NodeID, reason: String, by actor: PersonID) throws {
        try require(actor, anyOf: [.operatorRole, .securityOfficer])
        let status = try nodeStatus(node)
        guard DeviceReason.isWellFormed(reason) else {
            throw GatewayError(
                .usage, "a reason is a code of small letters, digits and hyphens, such as 'disk-swapped'")
        }
        if let holder = try deviceHolders().first(where: { $0.node == node }) {
            throw GatewayError(
                .usage, "\(node) is held by \(holder.run.id); `sekisho run cancel \(holder.run.id)` first")
        }
        guard status.quarantine == nil else {
            throw GatewayError(.usage, "\(node) is in quarantine already")
        }
        try ledger.record(
            Event(.nodeQuarantined, .done).with {
                $0.actor = actor
                $0.device = node
                $0.reasons = ["operator", reason]
            }, in: .gateway, key: ledger.freshKey("quarantined.\(node)"))
        do { try fabric().quarantine(node, code: reason) } catch let error as FabricError {
            throw GatewayError(fabric: error)
        }
    }

    /// Attests a free node and measures the link to it; both are recorded.
    package func measureNode(_ node: NodeID, by actor: PersonID) async throws -> NodeReport.Link {
        try require(actor, anyOf: [.operatorRole])
        try nodeStatus(node)
        let fabric = try fabric()
        let link: LinkMeasurement
        do throws(FabricError) { link = try await fabric.measure(node) } catch {
            if error.code == .evidence { try recordQuarantine(of: node, error) }
            throw GatewayError(fabric: error)
        }
        let record = try ledger.record(
            Event(.nodeMeasured, .done).with {
                $0.actor = actor
                $0.device = node
                $0.detail = link.detail
                $0.detail["jitter_microseconds"] = .integer(Int64(clamping: link.jitterNanoseconds / 1000))
            }, in: .gateway, key: ledger.freshKey("measured.\(node)"))
        // The record was just made with what a link needs.
        return NodeReport.Link(record)!
    }

    /// Where a node is in its life; refuses a name that no node has.
    @discardableResult
    private func nodeStatus(_ node: NodeID) throws -> NodeStatus {
        guard hasNodes, let status = try fabric().nodes.first(where: { $0.node.id == node }) else {
            throw GatewayError(.notFound, "no node has this name")
        }
        return status
    }

    /// Whether an operator keeps new runs off the node.
    func isDrained(_ node: NodeID) -> Bool {
        func last(_ event: AuditEvent) -> UInt64? {
            ledger.records(of: event).last { $0.outcome == .done && $0.core["device"]?.stringValue == node.text }?.index
        }
        guard let drained = last(.nodeDrained) else { return false }
        return last(.nodeReinstated).map { $0 < drained } ?? true
    }
}

/// What an operator may give as a reason: it stands in clear in the list of quarantined nodes.
private enum DeviceReason {
    static func isWellFormed(_ text: String) -> Bool {
        (1...64).contains(text.utf8.count) && text.utf8.first != UInt8(ascii: "-")
            && text.utf8.allSatisfy { byte in
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "-")
            }
    }
}

// MARK: - Turns

extension Gateway {
    /// A run that holds a node, as its records tell it.
    struct DeviceHolder {
        let run: RunCase
        let node: NodeID
        let since: Timestamp
    }

    func deviceHolders() throws -> [DeviceHolder] {
        var nodes = attestedNodes.mapValues(\.node)
        for (run, session) in sessions { nodes[run] = session.gpu.node }
        return try nodes.map { id, node in
            let run = try runCase(id)
            return DeviceHolder(run: run, node: node, since: newestLease(of: id)?.since ?? clock.now())
        }
    }

    /// Enters a run into the line, and says why it may not take a device yet; `nil` when it is its turn.
    func hindrance(of run: RunCase, pools: [String]) throws -> GatewayError? {
        deviceWaits[run.id] = Set(pools)
        let line = try line()
        switch line.hindrance(of: run.id) {
        case nil: return nil
        case .line: return try busy(run.id, line)
        case .quota(let devices):
            return GatewayError(
                .busy, "the project has the \(devices) devices that it may have at once; the run waits for one of them")
        }
    }

    /// What a run is told that finds every device busy.
    func busy(_ run: RunID) throws -> GatewayError { try busy(run, line()) }

    private func busy(_ run: RunID, _ line: DeviceLine) throws -> GatewayError {
        let place = line.place(of: run).map { "it is number \($0) in line" } ?? "it waits for one"
        let about = line.secondsUntilTurn(of: run, usual: usualSeconds()).map {
            $0 < 60 ? ", less than a minute away" : ", about \(($0 + 59) / 60) min away"
        }
        return GatewayError(.busy, "every device that this run may use is busy; \(place)\(about ?? "")")
    }

    /// A run has a device, or will never have one.
    func leaveLine(_ run: RunID) { deviceWaits[run] = nil }

    /// A device is free again: who is next has its turn now, not when it would have asked again.
    func wakeLine() {
        guard !deviceWaits.isEmpty, let next = try? line() else { return }
        for waiting in next.waiting where next.hindrance(of: waiting.run) == nil { due.add(waiting.run) }
    }

    private func line() throws -> DeviceLine {
        let fabric = try fabric()
        let pools = Dictionary(uniqueKeysWithValues: fabric.nodes.map { ($0.node.id, $0.node.pool) })
        let taken = try deviceHolders()
        let held = Set(taken.map(\.node))
        let free = fabric.nodes.filter { status in
            status.quarantine == nil && [.absent, .free].contains(status.state)
                && !held.contains(status.node.id) && !isDrained(status.node.id)
        }
        return DeviceLine(
            waiting: try deviceWaits.compactMap { id, pools in
                let run = try runCase(id)
                guard !run.isClosed, let asked = run.file[RunCase.Key.requested]?.index else { return nil }
                return DeviceLine.Waiting(
                    run: id, person: run.researcher, project: try project(of: run), asked: asked, pools: pools)
            },
            holding: try taken.map { holder in
                DeviceLine.Holding(
                    run: holder.run.id, person: holder.run.researcher, project: try project(of: holder.run),
                    pool: pools[holder.node] ?? "", secondsLeft: secondsLeft(of: holder.run))
            }, free: Dictionary(free.map { ($0.node.pool, 1) }, uniquingKeysWith: +), quotas: deviceQuotas)
    }

    /// The project that the request behind a run's grant names.
    private func project(of run: RunCase) throws -> String? {
        guard let id = RunFacts(run)?.grant, let grant = try? grant(id) else { return nil }
        return try accessRequest(grant.request).form["project"]?.stringValue
    }

    /// From its own epochs once there are two, before that from its plan.
    func secondsLeft(of run: RunCase) -> Int? {
        guard let facts = RunFacts(run) else { return nil }
        let done = run.epochsRecorded
        let left = max(facts.specification.epochs - done, 0)
        if done > 1, let first = run.file[RunCase.Key.epoch(1)]?.time,
            let last = run.file[RunCase.Key.epoch(done)]?.time
        {
            return Int(clamping: (last.milliseconds - first.milliseconds) * Int64(left) / Int64(done - 1) / 1000)
        }
        return run.file[RunCase.Key.planned]?.detail["predicted_microseconds_per_epoch"]?.integerValue.map {
            Int(clamping: $0 / 1000 * Int64(left) / 1000)
        }
    }

    /// The middle one of how long the last runs held their devices.
    private func usualSeconds() -> Int? {
        let times = ledger.runs.suffix(50).compactMap { id -> Int64? in
            let file = ledger.file(.run(id))
            guard let from = file[RunCase.Key.leasing]?.time, let to = file[RunCase.Key.scrubbed]?.time else {
                return nil
            }
            return (to.milliseconds - from.milliseconds) / 1000
        }.sorted()
        return times.isEmpty ? nil : Int(clamping: times[times.count / 2])
    }
}
