import GPUFabric
import AuditTrail
import PolicyEngine
package import Vocabulary

// A grant is no possession: whether it still holds is decided at every use, with the facts of that moment.

/// What a grant came from. All are revoked alike.
package enum GrantOrigin: String, CaseIterable, Sendable {
    /// People approved the request.
    case approval
    case emergency
    /// Nobody had to: the requester's GA4GH Passport was enough.
    case passport

    init(of question: AccessQuestion) {
        if question.breakGlass != nil {
            self = .emergency
        } else {
            self = question.votes.isEmpty && !question.visas.isEmpty ? .passport : .approval
        }
    }
}

/// Device hours of the runs that policy counts together, folded from their records: from the lease's intent to the scrub,
/// begun hours counted whole. A gateway that was down in between does not make a run shorter.
struct DeviceHours {
    /// A century; what a policy allows is far below.
    static let range = 1...876_600

    /// What the run's request named as its most.
    let asked: Int?
    /// By this run, so far.
    let used: Int
    /// By other runs; for those that hold a device or may still take one, at least what they asked for.
    let others: Int

    /// - Parameter grants: those whose runs' hours are counted together.
    init(of run: RunCase, under grants: [GrantID], in ledger: Ledger, now: Timestamp) {
        asked = Self.asked(run.file)
        used = Self.used(run.file, now)
        others = grants.flatMap(ledger.runs(under:)).filter { $0 != run.id }.reduce(0) { hours, id in
            let file = ledger.file(.run(id))
            let used = Self.used(file, now)
            let isOver = file[RunCase.Key.scrubbed] != nil || file[RunCase.Key.closed] != nil || file.stop != nil
            let isAdmitted = file[RunCase.Key.decided]?.core["decision"] == "permit"
            return hours + (isOver || !isAdmitted ? used : max(used, Self.asked(file) ?? 1))
        }
    }

    private static func asked(_ file: CaseFile) -> Int? {
        file[RunCase.Key.requested]?.payload["hours"]?.integerValue.map(Int.init)
    }

    /// Without the time between a device that was lost and the next one.
    private static func used(_ file: CaseFile, _ now: Timestamp) -> Int {
        let milliseconds = (0...DeviceLoss.most).reduce(Int64(0)) { sum, losses in
            guard let from = file[RunCase.Key.leasing(losses)]?.time else { return sum }
            let to = (file[RunCase.Key.lost(losses + 1)] ?? file[RunCase.Key.scrubbed])?.time ?? now
            return sum + to.milliseconds - from.milliseconds
        }
        return Int((milliseconds + 3_599_999) / 3_600_000)
    }
}

extension Gateway {
    /// The hours of a run and of those that the policy in force counts with it.
    func deviceHours(of run: RunCase, _ grant: Grant, now: Timestamp) throws -> DeviceHours {
        let scope = try policies().policies[grant.dataset]?.training.hoursPer ?? .grant
        var grants = [grant.id]
        if scope != .grant {
            let project = try accessRequest(grant.request).form["project"]
            grants = try ledger.records(of: .grantIssued).compactMap { record in
                guard record.core["dataset"]?.stringValue == grant.dataset.text,
                    let id = record.detail["grant"]?.stringValue.flatMap({ try? GrantID($0) }),
                    let request = record.detail["request"]?.stringValue.flatMap({ try? RequestID($0) })
                else { return nil }
                let isCounted =
                    scope == .person
                    ? record.actor == grant.researcher : try accessRequest(request).form["project"] == project
                return isCounted ? id : nil
            }
        }
        return DeviceHours(of: run, under: grants, in: ledger, now: now)
    }

    /// A grant as the run decision sees it now.
    ///
    /// - Parameters:
    ///   - person: who uses it; somebody named on it whose own access was revoked since does not.
    ///   - isRunning: a run that goes on keeps the grant that an amendment has taken the place of.
    func heldGrant(_ grant: Grant, by person: PersonID, isRunning: Bool = false) -> RunQuestion.Grant {
        let asked = accessDecided(of: grant)
        return RunQuestion.Grant(
            id: grant.id, dataset: grant.dataset, holder: grant.researcher, purpose: grant.purpose,
            granted: grant.granted, expires: isRunning ? grant.term : grant.expires,
            revoked: revocation(of: grant) != nil || isRevoked(person, asked: grant.index),
            obligations: grant.obligations, isEmergency: grant.origin == .emergency, country: asked?.country,
            institution: asked?.institution, project: asked?.project, people: grant.people,
            documents: grant.documents)
    }

    /// Stops a run that has lost what it stands on: its grant ended or was revoked, a visa ran out, the hours are used,
    /// or the policy in force no longer permits it. Asked before every stage, at every epoch, and every second while a
    /// run trains. Returns whether the run is stopped.
    @discardableResult
    package func stopIfEnded(_ id: RunID) throws -> Bool {
        let run = try runCase(id)
        guard !run.isClosed, !run.stopped else { return run.stopped }
        guard let (reasons, words) = try ending(of: run) else { return false }
        try stop(run, reasons: reasons, words)
        return true
    }

    /// Why a run may not go on; `nil` when it may.
    ///
    /// Until its model is trained a run is held to the whole decision, made again. Afterwards it uses no data: then it
    /// is stopped only when somebody revokes the access.
    private func ending(of run: RunCase) throws -> (reasons: [String], words: String)? {
        typealias Key = RunCase.Key
        guard let decided = run.file[Key.decided], run.file[Key.ready] == nil else { return nil }
        if run.file[Key.trained] != nil {
            return try revocation(ofGrantOf: run).map {
                ([Reason.Code.grantRevoked.rawValue], "the grant was revoked (\($0.reason.rawValue))")
            }
        }
        guard decided.payload["input"] != nil, var question = try newestQuestion(of: run),
            let hours = try renew(&question, of: run)
        else { throw GatewayError(.integrity, "the recorded run decision cannot be read") }
        if let asked = hours.asked, hours.used > asked {
            return ([Reason.Code.deviceHours.rawValue], "the run has used the \(asked) device hours that it asked for")
        }
        let (decision, _) = try decide(.run(question))
        guard decision.verdict != .permit else { return nil }
        return (
            decision.reasonCodes, decision.reasons.map { "\($0.text) (\($0.file):\($0.line))" }.joined(separator: "; ")
        )
    }

    /// Puts the facts of this moment into what a run's decision was told; gives the hours it has used, `nil` where the
    /// question names no grant.
    func renew(_ question: inout RunQuestion, of run: RunCase) throws -> DeviceHours? {
        guard let held = question.grant else { return nil }
        let grant = try grant(held.id)
        let now = clock.now()
        let hours = try deviceHours(of: run, grant, now: now)
        question.now = now
        question.grant = heldGrant(grant, by: run.researcher, isRunning: true)
        question.hoursUsed = hours.others
        question.hoursAsked = max(hours.used, 1)
        question.visas = visas(of: run.researcher, for: run.dataset)
        return hours
    }

    /// Recorded first; then whoever waits for the device is told at once, and the device's scrub comes next.
    func stop(_ run: RunCase, reasons: [String], _ words: String) throws {
        guard !run.isClosed, !run.stopped, run.file[RunCase.Key.ready] == nil else { return }
        try ledger.record(
            Event(.runStopped, .refused).with {
                $0.dataset = run.dataset
                $0.reasons = reasons
                $0.payload = ["explanation": .string(words)]
            }, in: .run(run.id), key: RunCase.Key.stopped)
        sessions[run.id]?.gpu.callOff()
        due.add(run.id)
    }

    /// Looks every second whether a run may go on, beside training whose epochs may be long.
    func watchStanding(of id: RunID) -> Task<Void, Never> {
        Task { [weak self] in
            while true {
                try? await Task.sleep(for: .seconds(1))
                guard !Task.isCancelled, let self else { return }
                // What cannot be read or recorded now is asked again in a second; the epoch's own check tells of it.
                _ = try? await stopIfEnded(id)
            }
        }
    }
}
