import GPUFabric
import AuditTrail
import GraphVault
import Vocabulary

extension Gateway {
    /// Erases what only this run needed and writes its last record. The trail counts the run's records in it and erases
    /// their key: from here on the host cannot read them in the trail.
    func closeRun(_ run: RunCase) async throws -> RunProgress {
        if let end = run.end { return .closed(end) }
        sessions[run.id] = nil
        attestedNodes.removeValue(forKey: run.id)?.giveUp()
        leaveLine(run.id)
        wakeLine()
        let end = Self.end(of: run)
        do {
            try await vault.destroyRun(run.id)
            if end != .released { try await vault.destroyCandidate(run: run.id) }
        } catch let error as VaultError { throw GatewayError(vault: error) }
        try ledger.record(
            Event(.runClosed, .done).with {
                $0.detail = ["end": .string(end.rawValue)]
                $0.reasons = run.stopReasons
            }, in: .run(run.id), key: RunCase.Key.closed)
        return .closed(end)
    }

    private static func end(of run: RunCase) -> RunEnd {
        guard let stop = run.stop else { return .released }
        if stop.event == .runCancelled { return .cancelled }
        return stop.outcome == .refused ? .refused : .failed
    }
}
