import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Bad input is refused with its place and reason, and nothing is written.
@Suite struct BadInputTests {
    /// Expects an error that tells the place, and a trail that is as long as before.
    private func expectNothing(
        _ enclave: Enclave, _ code: GatewayError.Code, _ place: String, _ words: Comment,
        sourceLocation: SourceLocation = #_sourceLocation, _ body: () async throws -> Void
    ) async throws {
        let before = try await enclave.records(.gateway).count
        let requests = try await enclave.gateway.requests(PageRequest(), by: enclave.auditor).items.count
        let error = await refusal(body, sourceLocation: sourceLocation)
        #expect(error?.code == code, words, sourceLocation: sourceLocation)
        #expect(
            error?.publicDescription.contains(place) == true, "\(words): \(error?.publicDescription ?? "")",
            sourceLocation: sourceLocation)
        #expect(try await enclave.records(.gateway).count == before, words, sourceLocation: sourceLocation)
        #expect(
            try await enclave.gateway.requests(PageRequest(), by: enclave.auditor).items.count == requests, words,
            sourceLocation: sourceLocation)
        #expect(try await enclave.gateway.runs().isEmpty, words, sourceLocation: sourceLocation)
    }

    @Test("a malformed request form is refused with its place")
    func forms() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let cases: [(form: String, place: String)] = [
                ("", "byte 0"),
                (#"{"dataset":"test:clinic","#, "byte 25"),
                ("[]", "not an object"),
                (#"{"purpose":{"codes":[]}}"#, "dataset"),
                (Clinic.form.replacing("\"country\"", with: "\"counrty\""), "counrty"),
                (Clinic.form.replacing("\"DUO:0000042\"", with: "7"), "codes"),
                (Clinic.form.replacing("{\"dataset\"", with: "{\"votes\":[],\"dataset\""), "votes"),
                (Clinic.form.replacing("{\"dataset\"", with: "{\"now\":\"2020-01-01\",\"dataset\""), "now"),
            ]
            for (form, place) in cases {
                try await expectNothing(enclave, .usage, place, "\(form)") {
                    _ = try await enclave.gateway.fileRequest(form, by: enclave.researcher)
                }
            }
        }
    }

    @Test("a malformed specification is refused with line and column")
    func specifications() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let grant = try await enclave.grant()
            let good = Clinic.specification()
            let cases: [(text: String, place: String)] = [
                (good.replacing("epochs: 3", with: "epochs: many"), "7:"),
                (good.replacing("hidden: [8]", with: "hidden: [8"), ":"),
                (good.replacing("dropout", with: "dropuot"), "3:1:"),
                (good + "epochs: 4\n", "10:1:"),
                (good.replacing("model: gcn", with: "model: transformer"), "1:"),
                ("", ":"),
            ]
            for (text, place) in cases {
                try await expectNothing(enclave, .usage, place, "\(text)") {
                    _ = try await enclave.request(grant, specification: text)
                }
            }
            try await expectNothing(enclave, .notFound, "grant", "no such grant") {
                _ = try await enclave.request(GrantID("grant-9"))
            }
        }
    }

    @Test("policies with a fault are not activated; the error tells file, line and column")
    func policies() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let hash = try await enclave.gateway.activePolicies().hash
            let cases: [(text: String, place: String)] = [
                (Clinic.policy.replacing("permission: DUO:0000042", with: "permission: DUO:9999999"), "clinic.yaml:4:"),
                (Clinic.policy.replacing("reviewers: 2", with: "reviewers: two"), "clinic.yaml:13:"),
                (Clinic.policy + "extra: true\n", "clinic.yaml:15:"),
                (Clinic.policy.replacing("[campus]", with: "[campus"), "clinic.yaml:9:"),
            ]
            for (text, place) in cases {
                try enclave.write(policy: text)
                try await expectNothing(enclave, .refused, place, "\(text)") {
                    _ = try await enclave.gateway.proposePolicies(
                        PolicyFolder(enclave.policies), by: enclave.administrator)
                }
            }
            try enclave.write(policy: Clinic.policy)
            try enclave.write(
                policy: "version: 1\ntests:\n  - { name: \"a sentence\", ask: progress, expect: permit }\n",
                name: "clinic.test.yaml")
            try await expectNothing(enclave, .refused, "clinic.test.yaml:3:", "a failing test") {
                _ = try await enclave.gateway.proposePolicies(
                    PolicyFolder(enclave.policies), by: enclave.administrator)
            }
            try FileManager.default.removeItem(at: enclave.policies)
            try await expectNothing(enclave, .notFound, "policy folder", "no folder") {
                _ = try await enclave.gateway.proposePolicies(
                    PolicyFolder(enclave.policies), by: enclave.administrator)
            }
            #expect(try await enclave.gateway.activePolicies().hash == hash)
        }
    }

    @Test("a malformed data file is refused with line and column, and leaves no version")
    func data() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let before = try await enclave.gateway.datasets().count
            let nodes = enclave.data.appendingPathComponent("nodes.tsv")
            let good = try String(contentsOf: nodes, encoding: .utf8)
            for (text, place) in [
                (good.replacing("P:2\tbiolink:Case\t2", with: "P:2\tbiolink:Case\ttwo"), "line 4, column 18"),
                (good.replacing("P:2\t", with: "P:1\t"), "line 4, column 1"),
            ] {
                try Data(text.utf8).write(to: nodes)
                let error = await refusal { try await enclave.importData() }
                #expect(error?.code == .usage)
                #expect(error?.publicDescription.contains(place) == true, "\(error?.publicDescription ?? "")")
            }
            #expect(try await enclave.gateway.datasets().count == before)
            try Data(good.utf8).write(to: nodes)
            try await enclave.importData()
            #expect(try await enclave.gateway.datasets().count == before + 1)
        }
    }

    @Test("roles are asked for before anything else")
    func roles() async throws {
        try await withEnclave(hasNode: false) { enclave in
            let gateway = enclave.gateway
            let grant = try await enclave.grant()
            try await expectNothing(enclave, .refused, "role", "filing") {
                _ = try await gateway.fileRequest(Clinic.form, by: enclave.reviewer)
            }
            try await expectNothing(enclave, .refused, "role", "running") {
                _ = try await gateway.requestRun(
                    specification: Clinic.specification(), grant: grant, id: nil, deviceMemory: nil, by: enclave.auditor
                )
            }
            try await expectNothing(enclave, .refused, "role", "policies") {
                _ = try await gateway.proposePolicies(PolicyFolder(enclave.policies), by: enclave.researcher)
            }
            try await expectNothing(enclave, .refused, "role", "consent") {
                try await gateway.setConsent(
                    subject: "P:1", dataset: Clinic.dataset, state: "withdrawn", by: enclave.researcher)
            }
        }
    }
}
