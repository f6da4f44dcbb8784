import AuditTrail
import Foundation
import Gateway
import TestSupport
import Testing
import Vocabulary

/// Emergency access: a reason, one approver, a short grant, and somebody else who looks at it before there is another.
@Suite struct EmergencyTests {
    private static let policy =
        Clinic.policy + "break_glass: { allowed: true, minutes_max: 60, approver: dac }\n"
    private static func form(reason: String = "a patient's diagnosis cannot wait", minutes: Int = 30) -> String {
        """
        {"dataset":"test:clinic","purpose":{"codes":["DUO:0000042"],"ancestry":false,"methods":false,\
        "commercial":false,"notForProfit":true,"genetic":true},"breakGlass":{"reason":"\(reason)","minutes":\(minutes)}}
        """
    }

    private func approved(_ enclave: Enclave) async throws -> (RequestID, GrantID) {
        let request = try await enclave.gateway.fileRequest(Self.form(), by: enclave.researcher)
        #expect(try await enclave.gateway.advance(request) == .waiting(for: "1 more approval by dac"))
        try await enclave.gateway.review(request, .approve, comment: "call me", by: enclave.reviewer)
        guard case .decided(.granted(let grant)) = try await enclave.gateway.advance(request) else {
            throw Unexpected(words: "not granted")
        }
        return (request, grant)
    }

    @Test("one approver makes a grant of minutes, which starts a run and no run after its end")
    func granted() async throws {
        try await withEnclave(policy: Self.policy) { enclave in
            let (_, id) = try await approved(enclave)
            let grant = try await enclave.gateway.grant(id)
            #expect(grant.expires.milliseconds - grant.granted.milliseconds == 30 * 60_000)
            let run = try await enclave.request(id)
            #expect(try await enclave.finish(run) == .closed(.released))
            enclave.clock.advance(days: 1)
            let late = try await enclave.request(id, id: "run-2")
            _ = try await enclave.gateway.advance(late)
            #expect(try await enclave.sequence(.run(late)).last == "run.decided refused [grant.expired]")
        }
    }

    @Test("a second one is refused until somebody who neither asked nor approved has reviewed the first")
    func reviewed() async throws {
        try await withEnclave(policy: Self.policy, hasNode: false) { enclave in
            let gateway = enclave.gateway
            let (first, _) = try await approved(enclave)
            let second = try await gateway.fileRequest(Self.form(), by: enclave.researcher)
            guard case .decided(.refused(let reasons)) = try await gateway.advance(second) else {
                throw Unexpected(words: "not refused")
            }
            #expect(reasons.map(\.code) == ["emergency.unreviewed"])
            let words = "the record shows a real emergency"
            for (person, code) in [
                (enclave.reviewer, GatewayError.Code.refused), (enclave.researcher, .refused),
                (enclave.administrator, .notFound), (enclave.operatorPerson, .notFound),
            ] {
                let error = await refusal {
                    try await gateway.reviewEmergency(first, justified: true, comment: words, by: person)
                }
                #expect(error?.code == code, "\(person): \(error?.publicDescription ?? "")")
            }
            #expect(
                await refusal {
                    try await gateway.reviewEmergency(first, justified: true, comment: "ok", by: enclave.auditor)
                }?.code == .usage)
            #expect(
                await refusal {
                    try await gateway.reviewEmergency(second, justified: true, comment: words, by: enclave.auditor)
                }?.code == .usage, "it was not granted")
            try await gateway.reviewEmergency(first, justified: false, comment: words, by: enclave.auditor)
            #expect(
                await refusal {
                    try await gateway.reviewEmergency(first, justified: true, comment: words, by: enclave.custodian)
                }?.code == .usage)
            #expect(try await enclave.sequence(.request(first)).last == "emergency.reviewed refused")
            let third = try await gateway.fileRequest(Self.form(), by: enclave.researcher)
            #expect(try await gateway.advance(third) == .waiting(for: "1 more approval by dac"))
        }
    }

    @Test("without a reason, for too long, by the wrong approver or where the policy has none it is refused")
    func refused() async throws {
        try await withEnclave(policy: Self.policy, hasNode: false) { enclave in
            let gateway = enclave.gateway
            for (form, code) in [
                (Self.form(reason: "urgent"), "emergency.reason"),
                (Self.form(reason: "            "), "emergency.reason"),
                (Self.form(minutes: 61), "emergency.too-long"), (Self.form(minutes: 1440), "emergency.too-long"),
                (Self.form().replacing("DUO:0000042", with: "DUO:0000043"), "purpose.clinical"),
            ] {
                let request = try await gateway.fileRequest(form, by: enclave.researcher)
                guard case .decided(.refused(let reasons)) = try await gateway.advance(request) else {
                    throw Unexpected(words: "not refused: \(code)")
                }
                #expect(reasons.map(\.code) == [code])
            }
            let request = try await gateway.fileRequest(Self.form(), by: enclave.researcher)
            #expect(
                await refusal {
                    try await gateway.review(request, .approve, comment: "", by: enclave.custodian)
                }?.code == .refused)
            let lying = Self.form().replacing("\"minutes\"", with: "\"unreviewed\":0,\"minutes\"")
            #expect(await refusal { _ = try await gateway.fileRequest(lying, by: enclave.researcher) }?.code == .usage)
            try enclave.write(policy: Clinic.policy)
            try await enclave.activatePolicies()
            let later = try await gateway.fileRequest(Self.form(), by: enclave.researcher)
            guard case .decided(.refused(let reasons)) = try await gateway.advance(later) else {
                throw Unexpected(words: "not refused")
            }
            #expect(reasons.map(\.code) == ["emergency.not-allowed"])
        }
    }
}
