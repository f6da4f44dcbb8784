import Gateway
import Vocabulary

// Access that is taken away, and GA4GH Passports.

extension API {
    func access(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        try call.expectNoQuery()
        switch call.route {
        case .apiPersonAccess:
            return APIReply(json: try await gateway.accessReach(of: call.id("person"), by: person).json)
        case .apiGrantReach:
            return APIReply(json: try await gateway.accessReach(ofGrant: call.id("grant"), by: person).json)
        case .apiPersonAccessRevoke:
            let (reason, comment) = try Self.revocation(call)
            return APIReply(
                json: try await gateway.revokeAccess(
                    of: call.id("person"), reason: reason, comment: comment, by: person
                ).json)
        case .apiGrantRevoke:
            let (reason, comment) = try Self.revocation(call)
            return APIReply(
                json: try await gateway.revokeGrant(
                    call.id("grant"), reason: reason, comment: comment, by: person
                ).json)
        default:
            let other: PersonID = try call.id("person")
            var fields = try Fields(body: call.body)
            let comment = try fields.text("comment", lengthMax: 1000, lengthMin: 10)
            try fields.finish()
            try await gateway.restoreAccess(of: other, comment: comment, by: person)
            return APIReply(json: try await gateway.accessReach(of: other, by: person).json)
        }
    }

    private static func revocation(_ call: APICall) throws -> (RevocationReason, comment: String) {
        var fields = try Fields(body: call.body)
        let reason: RevocationReason = try fields.choice("reason")
        let comment = try fields.optionalText("comment", lengthMax: 1000) ?? ""
        try fields.finish()
        return (reason, comment)
    }

    func passports(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        try call.expectNoQuery()
        var fields = try Fields(body: call.body)
        switch call.route {
        case .apiPassportPresent:
            let text = try fields.text("passport", lengthMax: PassportEntry.bytesMax)
            try fields.finish()
            return APIReply(json: try await gateway.presentPassport(text, by: person).json)
        case .apiPassportTrust:
            let text = try fields.text("file", lengthMax: Limits.yamlBytesMax)
            try fields.finish()
            try await gateway.trustPassports(text, by: person)
            return try await trust(person)
        case .apiPassportIssuers:
            try fields.finish()
            return try await trust(person)
        case .apiIdentityLink:
            let other: PersonID = try call.id("person")
            let issuer = try fields.text("issuer", lengthMax: 255)
            let subject = try fields.text("subject", lengthMax: 255)
            let isLinked = try fields.optionalBool("linked") ?? true
            try fields.finish()
            try await gateway.linkIdentity(
                issuer: issuer, subject: subject, to: other, isLinked: isLinked, by: person)
            return APIReply(json: ["person": .string(other.text), "linked": .bool(isLinked)])
        default:
            try fields.finish()
            guard let passport = try await gateway.passport(of: person) else {
                throw Problem.notFound("you have presented no passport that was accepted")
            }
            return APIReply(json: passport.json)
        }
    }

    private func trust(_ person: PersonID) async throws -> APIReply {
        guard let trust = try await gateway.passportTrust(by: person) else {
            throw Problem.notFound("no list of trusted issuers has been set")
        }
        return APIReply(
            json: [
                "file": .string(trust.text),
                "issuers": .array(trust.names.map(JSON.string)),
            ])
    }
}

extension Revocation {
    var json: JSON {
        [
            "person": .string(person.text), "grant": grant.map { .string($0.text) } ?? .null,
            "reason": .string(reason.rawValue), "by": .string(by.text), "time": .string(time.description),
        ]
    }
}

extension AccessReach {
    var json: JSON {
        [
            "person": .string(person.text), "revocation": revocation?.json ?? .null,
            "grants": .array(
                grants.map {
                    [
                        "grant": .string($0.id.text), "dataset": .string($0.dataset.text),
                        "origin": .string($0.origin.rawValue), "expires": .string($0.expires.description),
                    ]
                }),
            "requests": .array(
                requests.map {
                    [
                        "request": .string($0.id.text), "dataset": .string($0.dataset.text),
                        "filed": .string($0.filed.description),
                    ]
                }),
            "runs": .array(
                runs.map {
                    [
                        "run": .string($0.id.text), "dataset": .string($0.dataset.text),
                        "stage": .string($0.stage.rawValue), "holds_device": .bool($0.holdsDevice),
                    ]
                }),
        ]
    }
}

extension PassportEntry {
    var json: JSON {
        [
            "presented": .string(presented.description),
            "visas": .array(
                visas.map { held in
                    [
                        "type": .string(held.type), "value": .string(held.value),
                        "source": .string(held.source), "by": held.by.map(JSON.string) ?? .null,
                        "issuer": .string(held.issuer), "expires": .string(held.expires.description),
                        "counts": .bool(held.counts),
                    ]
                }),
            "refused": .array(
                refused.map {
                    [
                        "number": .integer(Int64($0.number)), "reason": .string($0.reason),
                        "explanation": .string($0.words),
                    ]
                }),
        ]
    }
}
