import Foundation
import Glibc
import PolicyEngine
import Sealing
import Vocabulary

/// Measures the policy engine; see scripts/bench. Prints one JSON line.
@main
enum PolicyBench {
    static func main() async {
        let arguments = Array(CommandLine.arguments.dropFirst())
        do {
            switch (arguments.first, arguments.count) {
            case ("decide", 3): try decide(folder: arguments[1], count: number(arguments[2]))
            case ("replay", 2): try replay(count: number(arguments[1]))
            case ("load", 2): try load(datasets: number(arguments[1]))
            case ("scale", 4):
                report(
                    try await Scale(
                        folder: URL(fileURLWithPath: arguments[1], isDirectory: true), datasets: number(arguments[2]),
                        requests: number(arguments[3])
                    ).run())
            default: usage()
            }
        } catch {
            print("failed \(error)")
            exit(70)
        }
    }

    // MARK: - Decisions

    /// Microseconds a decision takes, one after the other; writes the policies and questions for the peer, too.
    private static func decide(folder: String, count: Int) throws {
        let set = try policies(1)
        let questions = try (0..<count).map { try question($0, dataset: 0) }
        var verdicts: [Decision.Verdict] = []
        verdicts.reserveCapacity(count)
        var microseconds: [Double] = []
        microseconds.reserveCapacity(count)
        // Once for the caches.
        for question in questions { _ = set.decide(question) }
        for question in questions {
            let start = now()
            let decision = set.decide(question)
            microseconds.append((now() - start) * 1e6)
            verdicts.append(decision.verdict)
        }
        try write(Array(Cedar.schema.utf8), to: "\(folder)/schema.cedarschema")
        try write(Array(set.cedar.utf8), to: "\(folder)/policies.cedar")
        let lines = zip(questions, verdicts).map { question, verdict in
            JSON.object(["input": question.input, "verdict": .string(verdict.rawValue)]).canonicalText + "\n"
        }
        try write(Array(lines.joined().utf8), to: "\(folder)/questions.jsonl")
        let sorted = microseconds.sorted()
        report([
            "median_nanoseconds": nanoseconds(sorted[count / 2]),
            "p99_nanoseconds": nanoseconds(sorted[count * 99 / 100]),
            "total_nanoseconds": nanoseconds(microseconds.reduce(0, +)),
            "permitted": .integer(Int64(verdicts.count { $0 == .permit })), "decisions": .integer(Int64(count)),
        ])
    }

    /// Recorded decisions asked again of two sets, each input parsed from its bytes and held to its digest first.
    private static func replay(count: Int) throws {
        let set = try policies(20)
        let candidate = try policies(20, required: 1)
        let records = try (0..<count).map { index in
            let input = try question(index, dataset: index % 20).input
            return (bytes: input.canonical, digest: SHA256.hash(input.canonical))
        }
        var results: [String: JSON] = [:]
        for (name, new) in [("same", set), ("candidate", candidate)] {
            let (start, processor) = (now(), processorSeconds())
            let decisions = try records.enumerated().map { index, record in
                guard SHA256.hash(record.bytes) == record.digest else { throw Broken(what: "digest") }
                return PastDecision(
                    name: "run/run-\(index) decided", input: try JSON(parsing: record.bytes), verdict: .permit,
                    policies: set.bundleHash)
            }
            let replay = Replay(decisions, old: set, new: new)
            results["\(name)_milliseconds"] = .integer(Int64((now() - start) * 1000))
            results["\(name)_processor_milliseconds"] = .integer(Int64((processorSeconds() - processor) * 1000))
            results["\(name)_differences"] = .integer(Int64(replay.differences.count))
            guard replay.compared == count, replay.unreadable.isEmpty else { throw Broken(what: "replay") }
        }
        report(results)
    }

    /// Reading and testing many data sets' policies.
    private static func load(datasets: Int) throws {
        let start = now()
        let set = try policies(datasets)
        report([
            "milliseconds": .integer(Int64((now() - start) * 1000)), "policies": .integer(Int64(set.policies.count)),
        ])
    }

    // MARK: - What is asked

    private static func policies(_ count: Int, required: Int = 2) throws -> PolicySet {
        try PolicySet(
            files: (0..<count).map { index in
                PolicyFile(name: "set-\(index).yaml", bytes: Array(policy(index, required).utf8))
            }, hash: { SHA256.hash($0) })
    }

    private static func policy(_ index: Int, _ required: Int) -> String {
        """
        version: 1
        dataset: bench:set-\(index)
        level: standard
        permission: DUO:0000006
        modifiers:
          - code: DUO:0000021
          - { code: DUO:0000022, regions: [JP, DE] }
          - code: DUO:0000046
          - code: DUO:0000019
          - { code: DUO:0000025, months: 12 }
        access:
          approvals: { required: \(required), roles: [dac, data-custodian] }
          identity: { visas: [ResearcherStatus, AcceptedTermsAndPolicies], by: [so, system] }
          notices: ["Cite the cohort."]
        training:
          device: { pools: [campus-a, campus-b], evidence: tpm, hours_max: 72, rtt_microseconds_max: 500 }
          targets: { label: [DUO:0000006], group: [DUO:0000011] }
        progress: { losses: true, metrics: true, cohort_min: 50, round_thousandths: 10 }
        release: { cohort_min: 10, checks: [artefact, shape, cohort], reviewers: 2 }

        """
    }

    /// Access and run questions in turn; every third is refused for one fact.
    private static func question(_ index: Int, dataset number: Int) throws -> Question {
        let now = Timestamp(milliseconds: 1_795_253_400_000 + Int64(index))
        let dataset = try DatasetID("bench:set-\(number)")
        let rin = try PersonID("rin")
        let purpose = Purpose(
            codes: ["DUO:0000006"], methods: false, commercial: index % 3 == 2, notForProfit: true, genetic: true)
        let digest = SHA256.hash([UInt8(index & 255)])
        guard index.isMultiple(of: 2) else {
            return .run(
                RunQuestion(
                    now: now, run: try RunID("run-\(index)"), dataset: dataset, requester: rin, purpose: purpose,
                    target: "label",
                    grant: .init(
                        id: try GrantID("grant-1"), dataset: dataset, holder: rin, purpose: purpose,
                        granted: now.adding(seconds: -86_400), expires: now.adding(seconds: 86_400), revoked: false,
                        obligations: [Obligation(code: .publish, rule: "r", value: "")], country: "JP"),
                    cohort: 100 + index % 50,
                    device: .init(
                        node: try NodeID("node-a"), pool: "campus-a", evidence: .tpm,
                        rttMicroseconds: 100 + index % 300), hoursUsed: index % 60, hoursAsked: 1))
        }
        return .access(
            AccessQuestion(
                now: now, dataset: dataset, requester: rin, purpose: purpose, termMonths: 12, country: "JP",
                documents: [.init(kind: "ethics", digest: digest, expires: now.adding(seconds: 86_400))],
                agreements: ["DUO:0000019"],
                visas: ["ResearcherStatus", "AcceptedTermsAndPolicies"].map {
                    .init(type: $0, by: "so", expires: now.adding(seconds: 60))
                }, authors: [try PersonID("steward")],
                // Some have one approval only, and some a rejection.
                votes: Array(
                    [
                        Vote(person: try PersonID("aki"), role: "dac", approves: true),
                        Vote(person: try PersonID("sora"), role: "data-custodian", approves: index % 5 != 4),
                    ].prefix(index % 8 == 0 ? 1 : 2))))
    }

    // MARK: - Small things

    private struct Broken: Error { let what: String }

    private static func now() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }

    private static func processorSeconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }

    private static func nanoseconds(_ microseconds: Double) -> JSON { .integer(Int64(microseconds * 1000)) }

    private static func report(_ members: [String: JSON]) { print(JSON.object(members).canonicalText) }

    private static func write(_ bytes: [UInt8], to path: String) throws {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        guard descriptor >= 0 else { throw Broken(what: "open") }
        defer { close(descriptor) }
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + done, bytes.count - done) }
            guard count > 0 else { throw Broken(what: "write") }
            done += count
        }
    }

    private static func number(_ text: String) -> Int {
        guard let number = Int(text), number > 0 else { usage() }
        return number
    }

    private static func usage() -> Never {
        print("usage: policy-bench decide FOLDER COUNT | replay COUNT | load DATASETS | scale FOLDER DATASETS REQUESTS")
        exit(2)
    }
}
