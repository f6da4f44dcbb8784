import Vocabulary

/// A run as an RO-Crate (Process Run Crate 0.5): who trained what on which data with which program, and, after the
/// Five Safes, who assessed it at which step. It lies beside the documents it names.
struct RunCrate {
    static let fileName = "ro-crate-metadata.json"
    private static let context = "https://w3id.org/ro/crate/1.1/context"
    private static let profile = "https://w3id.org/ro/wfrun/process/0.5"
    private static let recordsMax = 100_000

    private let run: String
    private let subject: DocumentSubject
    private var kept: [DocumentRecord] = []

    init(run: String, _ subject: DocumentSubject) {
        self.run = run
        self.subject = subject
    }

    mutating func add(_ record: DocumentRecord) {
        // One summary an epoch says nothing here.
        guard record.event != "training.epoch", record.text("run") == run, kept.count < Self.recordsMax else { return }
        kept.append(record)
    }

    /// - Parameter files: the documents that lie beside it.
    func json(files: [String]) -> JSON {
        let requested = first("run.requested")
        let trained = first("run.trained", "done") ?? first("run.predicted", "done")
        let closed = first("run.closed")
        let dataset = requested?.text("dataset") ?? "unknown"
        let version = requested?.text("version") ?? "unknown"
        let people = Set(kept.compactMap { $0.text("actor") }).sorted()
        var graph: [JSON] = [
            [
                "@id": .string(Self.fileName), "@type": "CreativeWork",
                "conformsTo": ["@id": "https://w3id.org/ro/crate/1.1"], "about": ["@id": "./"],
            ],
            [
                "@id": "./", "@type": "Dataset", "name": .string("Run \(run)"),
                "description": .string(
                    "Run \(run) on \(dataset) \(version), as the audit trail \(subject.origin) records it; no data of the data set are in it."
                ),
                "datePublished": .string(subject.made.description),
                "license": ["@id": "#terms"], "conformsTo": ["@id": .string(Self.profile)],
                "hasPart": .array(files.map { ["@id": .string($0)] }),
                "mentions": .array([["@id": "#training"]] + assessments.map { ["@id": .string($0.id)] }),
            ],
            [
                "@id": "#terms", "@type": "CreativeWork", "name": "Terms of this export",
                "description": "For the auditors whom the institution names. The data stay in the enclave.",
            ],
            [
                "@id": .string(Self.profile), "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5",
            ],
            [
                "@id": "#sekisho", "@type": "SoftwareApplication", "name": "Sekisho", "softwareVersion": "0.1.0",
                "url": ["@id": "https://sekisho.example/"],
            ],
            ["@id": "https://sekisho.example/", "@type": "WebPage", "name": "Sekisho"],
            [
                "@id": "#data", "@type": "Dataset", "name": .string("\(dataset) \(version)"),
                "identifier": .string(requested?.text("root") ?? "unknown"),
                "description": "Stays in the enclave; named by its version's root hash.",
            ],
        ]
        var training: [String: JSON] = [
            "@id": "#training", "@type": "CreateAction", "name": .string("Training in run \(run)"),
            "instrument": ["@id": "#sekisho"], "object": [["@id": "#data"]],
            "startTime": .string((requested ?? closed)?.time.description ?? subject.made.description),
            "actionStatus": ["@id": .string(status(closed))],
        ]
        if let closed { training["endTime"] = .string(closed.time.description) }
        if let researcher = requested?.text("actor") { training["agent"] = ["@id": .string("#person-\(researcher)")] }
        if let reasons = closed?.reasons, !reasons.isEmpty {
            training["error"] = .string(reasons.joined(separator: ", "))
        }
        if let candidate = trained?.core["detail"]?["candidate"]?.stringValue {
            training["result"] = [["@id": "#model"]]
            graph.append([
                "@id": "#model", "@type": "CreativeWork", "name": .string("Candidate of run \(run)"),
                "identifier": .string(candidate),
            ])
        }
        graph.append(.object(training))
        for status in Set([status(closed)] + assessments.map(\.status)).sorted() {
            graph.append(["@id": .string(status), "@type": "ActionStatusType", "name": .string(status)])
        }
        graph += assessments.map(\.json)
        for policy in Set(kept.compactMap { $0.text("policy") }).sorted() {
            graph.append([
                "@id": .string("#policy-\(policy)"), "@type": "CreativeWork", "name": "Policy files",
                "identifier": .string(policy),
            ])
        }
        for person in people {
            graph.append(["@id": .string("#person-\(person)"), "@type": "Person", "name": .string(person)])
        }
        for file in files {
            graph.append([
                "@id": .string(file), "@type": "File", "name": .string(file),
                "encodingFormat": .string(Self.format(file)),
                "description": .string("Part of the audit export of run \(run)."),
            ])
        }
        return ["@context": .string(Self.context), "@graph": .array(graph)]
    }

    // MARK: The Five Safes' assessments

    private struct Assessment {
        let id: String
        let status: String
        let json: JSON
    }

    /// Sign-off (access and run), check of the outputs, disclosure (release): each a decision with its policy.
    private var assessments: [Assessment] {
        let phases = [
            "access.decided": "SignOff", "run.decided": "SignOff", "release.checked": "ValidationCheck",
            "release.reviewed": "DisclosureCheck", "release.decided": "DisclosureCheck",
        ]
        return kept.compactMap { record in
            guard let phase = phases[record.event] else { return nil }
            let id = "#assessment-\(record.index)"
            let isGood = record.outcome == "done" && record.decision != "needs-human"
            let status = "http://schema.org/\(isGood ? "CompletedActionStatus" : "FailedActionStatus")"
            var members: [String: JSON] = [
                "@id": .string(id), "@type": "AssessAction",
                "additionalType": ["@id": .string("https://w3id.org/shp#\(phase)")],
                "name": .string("\(record.event): \(record.decision ?? record.outcome)"),
                "object": ["@id": .string(record.event.hasPrefix("release") ? "#training" : "./")],
                "startTime": .string(record.time.description), "endTime": .string(record.time.description),
                "actionStatus": ["@id": .string(status)], "agent": ["@id": "#sekisho"],
                "identifier": .string(record.leafHash.hex),
            ]
            if let actor = record.text("actor") { members["agent"] = ["@id": .string("#person-\(actor)")] }
            if let policy = record.text("policy") { members["instrument"] = ["@id": .string("#policy-\(policy)")] }
            return Assessment(id: id, status: status, json: .object(members))
        }
    }

    private func first(_ event: String, _ outcome: String? = nil) -> DocumentRecord? {
        kept.first { $0.event == event && (outcome == nil || $0.outcome == outcome) }
    }

    private func status(_ closed: DocumentRecord?) -> String {
        switch closed?.core["detail"]?["end"]?.stringValue {
        case nil: "http://schema.org/ActiveActionStatus"
        case "released": "http://schema.org/CompletedActionStatus"
        default: "http://schema.org/FailedActionStatus"
        }
    }

    private static func format(_ file: String) -> String {
        if file.hasSuffix(".csv") { return "text/csv" }
        return file.hasSuffix(".html") ? "text/html" : "application/fhir+json"
    }
}
