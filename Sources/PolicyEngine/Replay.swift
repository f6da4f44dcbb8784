package import Vocabulary

/// One decision as records keep it.
package struct PastDecision: Sendable {
    /// Case and key of its record.
    package let name: String
    package let input: JSON
    package let verdict: Decision.Verdict
    /// The policies that made it.
    package let policies: Digest

    package init(name: String, input: JSON, verdict: Decision.Verdict, policies: Digest) {
        self.name = name
        self.input = input
        self.verdict = verdict
        self.policies = policies
    }
}

/// What would have been answered otherwise: recorded questions, asked again of two sets of policies.
package struct Replay: Sendable {
    package struct Difference: Sendable {
        package let name: String
        package let kind: Question.Kind
        package let dataset: DatasetID
        package let old: Decision
        package let new: Decision

        /// How much milder the answer became; negative where it became stricter.
        package var loosening: Int { old.answer.rank - new.answer.rank }

        package var json: JSON {
            [
                "record": .string(name), "ask": .string(kind.rawValue), "dataset": .string(dataset.text),
                "old": .string(old.answer.rawValue), "new": .string(new.answer.rawValue),
                "old_reasons": .array(old.reasonCodes.map(JSON.string)),
                "new_reasons": .array(new.reasonCodes.map(JSON.string)),
            ]
        }

        package var description: String {
            let codes = (loosening >= 0 ? old : new).reasonCodes.joined(separator: ", ")
            return "\(old.answer.rawValue) → \(new.answer.rawValue)  \(name) (\(kind.rawValue), \(dataset)): \(codes)"
        }
    }

    package let compared: Int
    /// What became permitted that was refused comes first, then whatever else became milder, then what became stricter.
    package let differences: [Difference]
    /// Records whose input is not a question any more.
    package let unreadable: [String]

    package init(_ decisions: some Sequence<PastDecision>, old: PolicySet, new: PolicySet) {
        var compared = 0
        var differences: [Difference] = []
        var unreadable: [String] = []
        for decision in decisions {
            guard let question = try? Question(input: decision.input) else {
                unreadable.append(decision.name)
                continue
            }
            compared += 1
            let (was, now) = (old.decide(question), new.decide(question))
            let sameDuties = Set(was.obligations.map(\.duty)) == Set(now.obligations.map(\.duty))
            guard was.answer != now.answer || !sameDuties else { continue }
            differences.append(
                Difference(
                    name: decision.name, kind: question.kind, dataset: question.dataset, old: was, new: now))
        }
        self.compared = compared
        // Stable: records of equal weight stay in the order they were given.
        self.differences = differences.enumerated()
            .sorted { ($1.element.loosening, $0.offset) < ($0.element.loosening, $1.offset) }.map(\.element)
        self.unreadable = unreadable
    }
}

extension Obligation {
    /// What is to be done, whichever rule asks for it.
    fileprivate var duty: [String] { [code.rawValue, value] }
}
