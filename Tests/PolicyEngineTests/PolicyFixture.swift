import Foundation
import PolicyEngine
import TestSupport
import Vocabulary

/// A health data set with two approvers, and questions that are permitted until a test changes one fact.
enum PolicyFixture {
    static let dataset = try! DatasetID("osaka:cohort-a")
    static let requester = try! PersonID("rin")
    static let now = Timestamp("2026-11-21T09:30:00.000Z")!
    static let digest = Digest(repeatElement(7, count: 32))!

    /// Enough of a hash to tell files apart; the program passes SHA-256.
    static func hash(_ bytes: [UInt8]) -> Digest {
        var random = SeededRandom(
            seed: bytes.reduce(14_695_981_039_346_656_037) { ($0 ^ UInt64($1)) &* 1_099_511_628_211 })
        return Digest(random.bytes(32))!
    }

    static func text(
        permission: String = "DUO:0000006", modifiers: [String] = [], extra: String = "", access: String = "",
        training: String = ""
    ) -> String {
        """
        version: 1
        dataset: osaka:cohort-a
        level: standard
        permission: \(permission)
        modifiers: [\(modifiers.joined(separator: ", "))]
        access:
          approvals: { required: 2, roles: [dac, data-custodian] }
        \(access)
        training:
          device: { pools: [campus-a], evidence: tpm, hours_max: 72, rtt_microseconds_max: 500 }
        \(training)
        progress: { losses: true, metrics: false, cohort_min: 20, round_thousandths: 10 }
        release: { cohort_min: 10, checks: [artefact, cohort], reviewers: 2, roles: [output-checker] }
        \(extra)

        """
    }

    static func files(_ text: String) -> [PolicyFile] { [PolicyFile(name: "cohort.yaml", bytes: Array(text.utf8))] }

    static func set(_ text: String, diseases: String? = nil) throws -> PolicySet {
        var files = files(text)
        if let diseases { files.append(PolicyFile(name: "diseases.yaml", bytes: Array(diseases.utf8))) }
        return try PolicySet(files: files, hash: hash)
    }

    /// Everything known and harmless, so that only what a test changes can decide.
    static func purpose(_ codes: [String] = ["DUO:0000006"], diseases: [String] = []) -> Purpose {
        Purpose(
            codes: codes, diseases: diseases, ancestry: nil, methods: false, commercial: false, notForProfit: true,
            genetic: true, researchTypes: ["cohort-study"])
    }

    static func vote(_ person: String, _ role: String = "dac", approves: Bool = true) -> Vote {
        Vote(person: try! PersonID(person), role: role, approves: approves)
    }

    static func access(_ purpose: Purpose = purpose()) -> AccessQuestion {
        AccessQuestion(
            now: now, dataset: dataset, requester: requester, purpose: purpose, termMonths: 12, country: "JP",
            institution: "osaka-u", project: "p-1",
            documents: [.init(kind: "ethics", digest: digest, expires: now.adding(seconds: 86_400))],
            agreements: ["DUO:0000019", "DUO:0000020", "DUO:0000024", "DUO:0000029"], visas: [],
            authors: [try! PersonID("steward")], votes: [vote("aki"), vote("sora", "data-custodian")])
    }

    static func run(_ purpose: Purpose = purpose(), obligations: [Obligation] = []) -> RunQuestion {
        RunQuestion(
            now: now, run: try! RunID("run-1"), dataset: dataset, requester: requester, purpose: purpose,
            target: "label",
            grant: grant(purpose: purpose, obligations: obligations), cohort: 100,
            device: .init(node: try! NodeID("node-a"), pool: "campus-a", evidence: .tpm, rttMicroseconds: 120),
            hoursUsed: 10, hoursAsked: 2)
    }

    static func grant(
        dataset: String = "osaka:cohort-a", holder: String = "rin", purpose: Purpose = purpose(),
        granted: String = "2026-11-01", expires: String = "2027-05-01", revoked: Bool = false,
        obligations: [Obligation] = [], isEmergency: Bool = false,
        country: String? = "JP", institution: String? = "osaka-u", project: String? = "p-1"
    ) -> RunQuestion.Grant {
        RunQuestion.Grant(
            id: try! GrantID("grant-1"), dataset: try! DatasetID(dataset), holder: try! PersonID(holder),
            purpose: purpose, granted: Timestamp(granted)!, expires: Timestamp(expires)!, revoked: revoked,
            obligations: obligations, isEmergency: isEmergency, country: country, institution: institution,
            project: project)
    }

    static func release(votes: [Vote]) -> ReleaseQuestion {
        ReleaseQuestion(
            now: now, dataset: dataset, run: try! RunID("run-1"), researcher: requester, candidate: digest, cohort: 100,
            checks: [.init(check: .artefact, passed: true), .init(check: .cohort, passed: true)], votes: votes)
    }

    /// The files of this repository's `policies/`.
    static func shipped() throws -> [PolicyFile] {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("policies")
        return try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            .filter { $0.pathExtension == "yaml" }
            .map { PolicyFile(name: $0.lastPathComponent, bytes: Array(try Data(contentsOf: $0))) }
    }
}
