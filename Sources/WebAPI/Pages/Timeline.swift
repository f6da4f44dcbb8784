import Gateway
import Vocabulary

extension Site {
    /// A case's records as a timeline; epochs are counted, not listed.
    static func events(_ records: [CaseRecord], _ words: Words) -> [[String: Any]] {
        var epochs = 0
        var events: [[String: Any]] = []
        for record in records {
            guard record.eventName != "training.epoch" else {
                epochs += 1
                continue
            }
            if record.eventName == "run.trained", epochs > 0 {
                events.append([
                    "words": words("timeline.epochs", ["count": "\(epochs)"]), "time": words.time(record.time),
                ])
            }
            events.append(event(record, words))
        }
        return events
    }

    private static func event(_ record: CaseRecord, _ words: Words) -> [String: Any] {
        let isReview = record.eventName.hasSuffix(".reviewed")
        let name = words.name("event", record.eventName)
        let outcome =
            switch (isReview, record.outcomeName) {
            case (true, "done"): words("votes.approved")
            case (true, _): words("votes.rejected")
            case (false, let outcome):
                record.decision.map { words.name("decision", $0.verdict) } ?? words.name("outcome", outcome)
            }
        var shown: [String: Any] = [
            "words": record.outcomeName == "done" && !isReview && record.decision == nil
                ? name : words("timeline.with", ["event": name, "outcome": outcome]),
            "time": words.time(record.time),
        ]
        switch record.outcomeName {
        case "refused", "failed": shown["kind"] = "bad"
        case "done": shown["kind"] = record.decision?.verdict == "needs-human" ? "plain" : "good"
        default: shown["kind"] = "plain"
        }
        if let actor = record.actor { shown["by"] = actor.text }
        if let comment = record.payload["comment"]?.stringValue, !comment.isEmpty { shown["note"] = comment }
        if !record.reasons.isEmpty {
            shown["hasReasons"] = true
            shown["reasons"] = record.reasons.map { ["words": words.name("reason", $0)] }
        }
        return shown
    }
}
