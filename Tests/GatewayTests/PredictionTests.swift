import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Predictions of a released model over the whole graph: a run like any other, of which only counts leave.
@Suite struct PredictionTests {
    private static let policy = Clinic.policy.replacing("cohort_min: 60", with: "cohort_min: 10")

    private static let wholePrediction = [
        "run.requested intent", "run.decided done", "run.opened intent", "run.opened done", "device.leased intent",
        "key.released done", "device.leased done", "run.planned done", "program.loaded intent", "run.predicted done",
        "device.scrubbed intent", "device.scrubbed done", "release.checked done", "release.reviewed done",
        "release.reviewed done", "release.decided done", "release.ready done", "run.closed done",
    ]

    private func released(_ enclave: Enclave, _ grant: GrantID) async throws -> RunID {
        let run = try await enclave.request(grant, id: "model", specification: Clinic.specification(epochs: 60))
        #expect(try await enclave.finish(run) == .closed(.released))
        return run
    }

    private func predict(
        _ enclave: Enclave, _ model: RunID, _ grant: GrantID, id: String, deviceMemory: Int? = nil
    ) async throws -> RunID {
        try await enclave.gateway.requestPrediction(
            of: model, grant: grant, id: RunID(id), deviceMemory: deviceMemory, by: enclave.researcher)
    }

    private func predicted(_ enclave: Enclave, _ run: RunID) async throws -> JSON {
        try #require(try await enclave.records(.run(run)).first { $0.key == "trained" }).detail
    }

    @Test("a released model answers for the whole graph, and only counts leave, rounded down to the least cohort")
    func journey() async throws {
        try await withEnclave(policy: Self.policy) { enclave in
            let grant = try await enclave.grant()
            let model = try await released(enclave, grant)
            let run = try await predict(enclave, model, grant, id: "answers")
            guard case .waiting = try await enclave.gateway.advanceAsFarAsPossible(run) else {
                throw Unexpected(words: "\(try await enclave.sequence(.run(run)))")
            }
            let candidate = try await enclave.gateway.candidate(of: run, by: enclave.reviewer)
            #expect(candidate.artefacts.map(\.name) == ["predictions.json"])
            #expect(candidate.checks.map(\.name) == ["artefact", "shape", "cohort"])
            #expect(candidate.checks.allSatisfy { $0.passed })
            #expect(try await enclave.finish(run) == .closed(.released))
            let sequence = try await enclave.sequence(.run(run))
            #expect(sequence == Self.wholePrediction)
            let detail = try await predicted(enclave, run)
            let weights = try await enclave.weights(model)
            #expect(detail["weights"]?.stringValue == weights && detail["model"]?.stringValue == model.text)

            let files = try await enclave.gateway.takeRelease(of: run, by: enclave.researcher)
            #expect(files.map(\.name) == ["predictions.json", "release.json"])
            let json = try JSON(parsing: files[0].bytes)
            #expect(json["nodes"] == 60 && json["rounded_down_to"] == 10 && json["model"] == "model")
            // About twenty of each class are there, and the model has learned which.
            let counts = (json["predicted"]?.arrayValue ?? []).compactMap(\.integerValue)
            #expect(counts.count == 3 && counts.allSatisfy { [10, 20].contains($0) }, "\(counts)")
            #expect(json["figures"]?["train"]?["labelled"] == 30)
            let entry = try await enclave.gateway.run(run, by: enclave.researcher)
            #expect(entry.model == model && entry.epochs == (1, 1))
        }
    }

    @Test("in just the memory that its plan needs, and after a crash, the answers are the same; in less it is refused")
    func memory() async throws {
        try await withEnclave(policy: Self.policy) { enclave in
            let grant = try await enclave.grant()
            let model = try await released(enclave, grant)
            let roomy = try await predict(enclave, model, grant, id: "roomy")
            #expect(try await enclave.finish(roomy) == .closed(.released))
            let plan = try await enclave.gateway.recordedPlan(of: roomy).json
            let bytes = try #require(plan["forecast"]?["deviceBytes"]?.integerValue)
            let tight = try await predict(enclave, model, grant, id: "tight", deviceMemory: Int(bytes))
            // The process ends with the device leased; the next one takes the device again.
            enclave.drop()
            await #expect(processExitsWith: .signal(SIGKILL)) {
                [home = enclave.home.path as String, key = enclave.key.path as String] in
                let gateway = try await Enclave.open(
                    URL(fileURLWithPath: home, isDirectory: true), URL(fileURLWithPath: key), TestClock())
                let run = try RunID("tight")
                while true {
                    let next = try await gateway.runCase(run).nextStage
                    let progress = try await gateway.advance(run)
                    if next == .plan { kill(getpid(), SIGKILL) }
                    // A run that ends before that stage must not be waited for.
                    if case .closed = progress { return }
                }
            }
            try await enclave.open()
            let end = try await enclave.finish(tight)
            let sequence = try await enclave.sequence(.run(tight))
            #expect(end == .closed(.released), "\(sequence)")
            let answers = try await predicted(enclave, roomy)["predictions"]
            #expect(try await predicted(enclave, tight)["predictions"] == answers)
            let small = try await predict(enclave, model, grant, id: "small", deviceMemory: 1024)
            #expect(try await enclave.gateway.advanceAsFarAsPossible(small) == .closed(.refused))
            let reasons = try await enclave.gateway.runCase(small).stopReasons
            #expect(reasons == ["does-not-fit"])
        }
    }

    @Test("whoever withdrew since is not answered for, and the counts do not tell that anybody did")
    func withdrawn() async throws {
        let policy = Clinic.policy.replacing("cohort_min: 60", with: "cohort_min: 25")
        try await withEnclave(policy: policy) { enclave in
            let grant = try await enclave.grant()
            let model = try await released(enclave, grant)
            func counts(_ id: String) async throws -> [UInt8] {
                let run = try await predict(enclave, model, grant, id: id)
                #expect(try await enclave.finish(run) == .closed(.released))
                let bytes = try await enclave.gateway.takeRelease(of: run, by: enclave.researcher)[0].bytes
                return bytes
            }
            let before = try await counts("before")
            try await enclave.gateway.setConsent(
                subject: "P:3", dataset: Clinic.dataset, state: "withdrawn", by: enclave.steward)
            #expect(try await counts("after") == before)
            let opened = try await enclave.records(.run(RunID("after"))).first { $0.key == "opened" }
            #expect(opened?.detail["nodes"] == 59)
        }
    }

    @Test("what is not released, not one's own, a prediction itself or revoked is not predicted with")
    func refusals() async throws {
        try await withEnclave(policy: Self.policy) { enclave in
            let grant = try await enclave.grant()
            let waiting = try await enclave.request(grant, id: "waiting")
            func asking(_ model: RunID, by person: PersonID? = nil, hours: Int? = nil) async -> GatewayError? {
                await refusal {
                    _ = try await enclave.gateway.requestPrediction(
                        of: model, grant: grant, id: nil, deviceMemory: nil, hours: hours,
                        by: person ?? enclave.researcher)
                }
            }
            #expect(await asking(waiting)?.code == .refused)
            #expect(await asking(try! RunID("none"))?.code == .notFound)
            #expect(await asking(waiting, by: enclave.reviewer)?.code == .refused)
            let model = try await released(enclave, grant)
            #expect(await asking(model, hours: 0)?.code == .usage)
            let other = try PersonID("another")
            try await enclave.gateway.addPerson(other, roles: [.researcher], by: enclave.operatorPerson)
            #expect(await asking(model, by: other)?.code == .notFound)
            let run = try await predict(enclave, model, grant, id: "answers")
            #expect(await asking(run)?.code == .refused)
            // Once under a key, whatever became of it.
            let once = { () async throws -> RunID in
                try await enclave.gateway.requestPrediction(
                    of: model, grant: grant, id: nil, deviceMemory: nil, once: "night", by: enclave.researcher)
            }
            let first = try await once()
            #expect(try await once() == first)
            // Revoked between the request and the device: stopped like any run.
            try await enclave.advance(run, to: .train)
            _ = try await enclave.gateway.revokeGrant(
                grant, reason: .asked, comment: "", by: enclave.custodian)
            #expect(try await enclave.gateway.advanceAsFarAsPossible(run) == .closed(.refused))
            #expect(await asking(model)?.code == .refused)
        }
    }

    @Test("a prediction that says more than counts, or rounds them otherwise, does not pass its checks")
    func checks() throws {
        func failing(_ json: JSON, extra: [Artefact] = [], cohortMinimum: Int = 10) -> [String] {
            let checks = ArtefactChecks(
                cohort: (60, 60), cohortMinimum: cohortMinimum, nodes: 60, predictsWith: try! RunID("model"))
            let artefact = Artefact(name: "predictions.json", bytes: json.canonical)
            return checks.results(for: [artefact] + extra).filter { !$0.passed }.map { "\($0.check)" }
        }
        let good: JSON = [
            "format": "sekisho-predictions-1", "model": "model", "weights": "00", "specification": "00",
            "task": "classification", "rounded_down_to": 10, "nodes": 60, "predicted": [10, 20, 20],
            "figures": ["train": ["labelled": 20, "correct": 10]],
        ]
        func changed(_ name: String, _ value: JSON?) -> JSON {
            var members = good.objectValue!
            members[name] = value
            return .object(members)
        }
        #expect(failing(good).isEmpty)
        for bad in [
            changed("rounded_down_to", 5), changed("rounded_down_to", nil), changed("rows", [1, 2]),
            changed("format", nil), changed("model", .string(String(repeating: "x", count: 200))), .array([]),
        ] { #expect(failing(bad).contains("artefact"), "\(bad.canonicalText)") }
        for bad in [
            changed("predicted", [10, 11, 20]), changed("predicted", [-10, 20, 20]), changed("predicted", ["P:1"]),
            changed("predicted", .array(Array(repeating: 0, count: 60))),
            changed("figures", ["train": ["labelled": 20, "correct": 9]]), changed("figures", ["who": "P:1"]),
        ] { #expect(failing(bad) == ["shape"], "\(bad.canonicalText)") }
        #expect(failing(good, extra: [Artefact(name: "figures.json", bytes: Array("{}".utf8))]).contains("artefact"))
        #expect(failing(good, cohortMinimum: 20).contains("artefact"))
        // And a model's candidate takes no predictions along.
        let model = ArtefactChecks(cohort: (60, 60), cohortMinimum: 10, nodes: 60, predictsWith: nil)
        let results = model.results(for: [Artefact(name: "predictions.json", bytes: good.canonical)])
        #expect(results.contains { "\($0.check)" == "artefact" && !$0.passed })
    }
}
