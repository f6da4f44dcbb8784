import AuditTrail
import GraphVault
import PolicyEngine
import Sealing
import TransparencyLog
package import Vocabulary

// What pages show beyond the listings: one case in full, and a run's numbers as far as its viewer may see them.

/// A decision as its record tells it.
package struct RecordedDecision: Sendable, Equatable {
    /// `permit`, `needs-human` or `refuse`.
    package let verdict: String
    package let reasons: [GatewayReason]
}

extension CaseRecord {
    package var decision: RecordedDecision? {
        core["decision"]?.stringValue.map { RecordedDecision(verdict: $0, reasons: GatewayReason.read(self)) }
    }
}

/// What one tier of memory holds at the plan's peak, in bytes.
package struct MemoryTier: Sendable, Equatable {
    package struct Part: Sendable, Equatable {
        package let name: String
        package let bytes: Int
    }

    package let name: String
    package let parts: [Part]
    /// `nil` where the plan sets none.
    package let limit: Int?

    /// The same in other words.
    package func named(_ name: String, part: (String) -> String) -> MemoryTier {
        MemoryTier(name: name, parts: parts.map { Part(name: part($0.name), bytes: $0.bytes) }, limit: limit)
    }
}

/// A figure over the epochs.
package struct Curve: Sendable, Equatable {
    package enum Name: String, Sendable { case loss, train, validation, test }
    package let name: Name
    /// One value an epoch; accuracies are shares of 1.
    package let values: [Double]
}

/// A run's numbers.
package struct RunDetails: Sendable {
    package let persons: Int?
    package let withheld: Int?
    package let device: String?
    package let fence: Int?
    package let bytesToDevice: Int?
    package let bytesFromDevice: Int?
    package let cut: String?
    package let tiers: [MemoryTier]
    /// In parts per million; `nil` before the release.
    package let testPPM: Int?
    package let validationPPM: Int?
    package let curves: [Curve]
    /// The curves are rounded, because policy shows them only so before the release.
    package let isRounded: Bool
    package let isReleased: Bool
}

extension RunCase {
    var memoryTiers: [MemoryTier] {
        let tiers = file[Key.planned]?.detail["tiers"]?.arrayValue ?? []
        return tiers.compactMap { tier in
            guard let name = tier["tier"]?.stringValue, let parts = tier["parts"]?.arrayValue else { return nil }
            return MemoryTier(
                name: name,
                parts: parts.compactMap { part in
                    guard let name = part["name"]?.stringValue, let bytes = part["bytes"]?.integerValue else {
                        return nil
                    }
                    return MemoryTier.Part(name: name, bytes: Int(bytes))
                }, limit: tier["limit"]?.integerValue.map(Int.init))
        }
    }

    /// A figure of every epoch that is recorded.
    fileprivate func curve(_ name: Curve.Name, _ member: String) -> Curve {
        Curve(
            name: name,
            values: file.records.filter { $0.event == .trainingEpoch }.compactMap {
                $0.detail[member]?.integerValue.map { Double($0) / 1e6 }
            })
    }
}

extension Gateway {
    /// What nodes and auditors pin to know this trail by.
    package nonisolated var trailIdentity: String { settings.trail.description }

    /// What waits for a reviewer on one request; `nil` when nothing does.
    package func review(of id: RequestID, by person: PersonID) throws -> ReviewEntry? {
        try review(of: accessRequest(id), by: self.person(person))
    }

    /// What waits for a reviewer on one run's candidate; `nil` when nothing does.
    package func review(of id: RunID, by person: PersonID) throws -> ReviewEntry? {
        try review(of: runCase(id), by: self.person(person))
    }

    /// A run's numbers. Before the release only its researcher sees figures, as policy's progress clause allows,
    /// rounded as it says, and what was shown is recorded.
    package func details(of id: RunID, by person: PersonID) async throws -> RunDetails {
        typealias Key = RunCase.Key
        let run = try runCase(id)
        try requireSight(of: run, by: person)
        func number(_ key: String, _ name: String) -> Int? { run.file[key]?.detail[name]?.integerValue.map(Int.init) }
        let curves: [Curve]
        if run.isReleased {
            curves = [
                run.curve(.loss, "loss_micro"), run.curve(.train, "train_ppm"),
                run.curve(.validation, "validation_ppm"), run.curve(.test, "test_ppm"),
            ]
        } else {
            curves = person == run.researcher ? try await curvesPermitted(of: run) : []
        }
        return RunDetails(
            persons: number(Key.opened, "persons"), withheld: number(Key.opened, "withheld"),
            device: run.leased?.core["device"]?.stringValue,
            fence: run.leased?.core["fence"]?.integerValue.map(Int.init),
            bytesToDevice: number(Key.trained, "bytes_to_device"),
            bytesFromDevice: number(Key.trained, "bytes_from_device"),
            cut: run.file[Key.planned]?.detail["cut"]?.stringValue, tiers: run.memoryTiers,
            testPPM: run.isReleased ? number(Key.trained, "test_ppm") : nil,
            validationPPM: run.isReleased ? number(Key.trained, "validation_ppm") : nil,
            curves: curves.filter { $0.values.count > 1 }, isRounded: !run.isReleased, isReleased: run.isReleased)
    }

    private func curvesPermitted(of run: RunCase) async throws -> [Curve] {
        guard run.epochsRecorded > 1, !run.isClosed, let image = try? await vault.runImage(run.id) else { return [] }
        // The run may have closed in the meantime; nothing can be recorded in it then.
        guard try !runCase(run.id).isClosed else { return [] }
        return try ProgressQuestion.Figure.allCases.compactMap { figure in
            guard let step = try roundingShown(figure, of: run, labelled: image.shape.labelled) else { return nil }
            let curve = figure == .loss ? run.curve(.loss, "loss_micro") : run.curve(.validation, "validation_ppm")
            return Curve(name: curve.name, values: curve.values.map { ($0 * 1000 / step).rounded() * step / 1000 })
        }
    }
}

/// The closed lists that pages have words for.
package enum KnownName {
    package static var events: [String] { AuditEvent.allCases.map(\.rawValue) }
    package static var outcomes: [String] { AuditOutcome.allCases.map(\.rawValue) }
    package static var reasons: [String] { Reason.Code.allCases.map(\.rawValue) }
    package static var obligations: [String] { Obligation.Code.allCases.map(\.rawValue) }
    package static var checks: [String] { ReleaseCheck.allCases.map(\.rawValue) }
    /// DUO codes: what data may be used for, and on which conditions.
    package static var purposes: [String] { DUO.allCases.map(\.rawValue) }
}
