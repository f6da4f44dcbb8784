package import Vocabulary

/// Why a question gets its answer: what each clause of the data set's policy had to say.
package struct Explanation: Sendable {
    /// What a clause did.
    package enum Part: String, CaseIterable, Sendable {
        case refuses
        case waits
        case permits
        case obliges
        /// It was looked at and had nothing against it.
        case holds
    }

    package struct Line: Sendable, Equatable {
        package let part: Part
        /// Data set and path of the clause.
        package let rule: String
        package let file: String
        package let line: Int
        package let text: String
        /// The term of the Data Use Ontology that the clause is made of.
        package let term: DUO?
    }

    package let question: Question
    package let decision: Decision
    /// In the order that decides: refusals first.
    package let lines: [Line]
    /// Facts that rules asked for and the question does not say.
    package let missing: [String]
    /// The one rule that keeps the question from a milder answer, with that answer; `nil` where several do, or none.
    package let nearly: (rule: String, answer: Decision.Answer)?
}

extension PolicySet {
    /// Decides a question and tells what every clause had to do with it.
    package func explain(_ question: Question) -> Explanation {
        let judgement = judge(question)
        guard case .ruled(let policy, let ruling) = judgement else {
            return Explanation(
                question: question, decision: judgement.decision,
                lines: judgement.decision.reasons.map {
                    Explanation.Line(
                        part: .refuses, rule: $0.rule, file: $0.file, line: $0.line, text: $0.text, term: nil)
                }, missing: [], nearly: nil)
        }
        let clauses = policy.clauses.filter { $0.asks.contains(question.kind) }
        let terms = Dictionary(clauses.map { ("\(policy.dataset.text)/\($0.path)", $0.term) }) { first, _ in first }
        func lines(_ part: Explanation.Part, _ reasons: [Reason]) -> [Explanation.Line] {
            reasons.map {
                Explanation.Line(
                    part: part, rule: $0.rule, file: $0.file, line: $0.line, text: $0.text,
                    term: terms[$0.rule].flatMap { $0 })
            }
        }
        var all =
            lines(.refuses, ruling.refusals) + lines(.waits, ruling.waits) + lines(.permits, ruling.permits)
        for obligation in ruling.obligations {
            let clause = clauses.first { "\(policy.dataset.text)/\($0.path)" == obligation.rule }
            all.append(
                Explanation.Line(
                    part: .obliges, rule: obligation.rule, file: policy.file, line: clause?.line ?? 0,
                    text: obligation.value.isEmpty
                        ? obligation.code.rawValue : "\(obligation.code.rawValue): \(obligation.value)",
                    term: clause?.term))
        }
        let spoke = Set(all.map(\.rule))
        for clause in clauses where !spoke.contains("\(policy.dataset.text)/\(clause.path)") {
            all.append(
                Explanation.Line(
                    part: .holds, rule: "\(policy.dataset.text)/\(clause.path)", file: policy.file, line: clause.line,
                    text: "nothing against it", term: clause.term))
        }
        return Explanation(
            question: question, decision: ruling.decision, lines: all, missing: ruling.missing,
            nearly: Self.nearly(ruling))
    }

    /// The single rule without which the answer would be milder.
    private static func nearly(_ ruling: Ruling) -> (rule: String, answer: Decision.Answer)? {
        let against = Set((ruling.refusals.isEmpty ? ruling.waits : ruling.refusals).map(\.rule))
        guard against.count == 1, let rule = against.first else { return nil }
        let answer = ruling.decision(without: rule).answer
        return answer < ruling.decision.answer ? (rule, answer) : nil
    }
}

extension Explanation {
    package var json: JSON {
        var members: [String: JSON] = [
            "ask": .string(question.kind.rawValue), "dataset": .string(question.dataset.text),
            "decision": decision.json, "answer": .string(decision.answer.rawValue),
            "lines": .array(lines.map(\.json)), "missing": .array(missing.map(JSON.string)),
        ]
        if let nearly {
            members["nearly"] = ["rule": .string(nearly.rule), "answer": .string(nearly.answer.rawValue)]
        }
        return .object(members)
    }

    /// For people, one line for each clause.
    package var words: [String] {
        var words = ["\(decision.answer.rawValue): \(question.kind.rawValue) of \(question.dataset)"]
        for line in lines {
            let term = line.term.map { " [\($0.rawValue) \($0.label) / \($0.labelJapanese)]" } ?? ""
            let place = line.file.isEmpty ? line.rule : "\(line.rule), \(line.file):\(line.line)"
            words.append("  \(line.part.rawValue): \(line.text)\(term) (\(place))")
        }
        if !missing.isEmpty { words.append("Not said, and needed: \(missing.joined(separator: ", "))") }
        if let nearly { words.append("But for \(nearly.rule) it would be: \(nearly.answer.rawValue)") }
        return words
    }
}

extension Explanation.Line {
    fileprivate var json: JSON {
        var members: [String: JSON] = [
            "part": .string(part.rawValue), "rule": .string(rule), "file": .string(file), "line": .integer(Int64(line)),
            "text": .string(text),
        ]
        if let term {
            members["term"] = [
                "code": .string(term.rawValue), "label": .string(term.label),
                "label_ja": .string(term.labelJapanese),
            ]
        }
        return .object(members)
    }
}
