import Vocabulary

/// What the tests beside a set of policy files come to: which pass, and which rules no test hits.
package struct PolicyTests: Sendable {
    package struct Outcome: Sendable {
        package let file: String
        package let name: String
        package let line: Int
        /// `nil` where the policy answers as it must.
        package let fault: Finding?
    }

    package let outcomes: [Outcome]
    /// Warnings: rules that no test hits, and policies without tests.
    package let uncovered: [Finding]
    /// How many clauses can decide something, and how many of them a test hits.
    package let rules: (all: Int, hit: Int)
    package let policies: Int
    /// Whether a test reaches each clause that can decide something, by data set and path.
    private let reached: [String: Bool]

    /// Whether a test reaches the clause of this data set and path; `nil` for one that decides nothing as it is written.
    package func isReached(_ rule: String) -> Bool? { reached[rule] }

    package var failures: [Finding] { outcomes.compactMap(\.fault) }

    /// Runs all tests. Throws where the files cannot be read; a failing test is an outcome.
    package init(of files: [PolicyFile]) throws(PolicyError) {
        let draft = try PolicyDraft(files: files)
        // Nothing is recorded under this set, so its name does not matter.
        let set = PolicySet(draft, manifest: .null, hash: { _ in Digest(repeatElement(0, count: Digest.byteCount))! })
        var outcomes: [Outcome] = []
        var uncovered: [Finding] = []
        var rules = (all: 0, hit: 0)
        var reached: [String: Bool] = [:]
        for policy in draft.policies.values.sorted(by: { $0.file < $1.file }) {
            let clauses = policy.clauses.filter(\.decides)
            rules.all += clauses.count
            for clause in clauses { reached["\(policy.dataset.text)/\(clause.path)"] = false }
            guard let suite = draft.suites.first(where: { $0.dataset == policy.dataset }) else {
                uncovered.append(PolicyLint.warning(.testMissing, policy, 1, "no test stands beside this policy"))
                continue
            }
            let results = suite.run(on: set)
            for (test, result) in zip(suite.tests, results) {
                outcomes.append(Outcome(file: suite.file, name: test.name, line: test.line, fault: result.finding))
            }
            let hit = results.reduce(into: Set<String>()) { $0.formUnion($1.rules) }
            for clause in clauses {
                let rule = "\(policy.dataset.text)/\(clause.path)"
                if hit.contains(rule) {
                    rules.hit += 1
                    reached[rule] = true
                } else {
                    uncovered.append(
                        PolicyLint.warning(.testUncovered, policy, clause.line, "no test reaches '\(clause.path)'"))
                }
            }
        }
        self.outcomes = outcomes
        self.uncovered = uncovered
        self.rules = rules
        self.reached = reached
        policies = draft.policies.count
    }
}
