import AsyncHTTPClient
import AuditTrail
import NIOCore
import NIOHTTP1
import Passports
import PolicyEngine
import Sealing
package import Vocabulary

// A GA4GH Passport says what others vouch for about a researcher. It is presented once and checked as a whole; what
// counts of it is kept, and looked at again in every decision: expiry, and whether its issuer is still trusted.

/// Whose passports and visas count here, as it was set last.
package struct PassportTrust: Sendable {
    /// The file as it was given.
    package let text: String
    let issuers: TrustedIssuers
    package var names: [String] { issuers.issuers.keys.sorted() }
}

/// What a person presented last, and what it is worth now.
package struct PassportEntry: Sendable {
    package struct HeldVisa: Sendable {
        package let type: String
        package let value: String
        package let source: String
        package let by: String?
        package let issuer: String
        package let expires: Timestamp
        /// It has not expired, and whoever signed it may still speak here.
        package let counts: Bool
    }

    package struct RefusedVisa: Sendable {
        /// Its place in the passport, from 1.
        package let number: Int
        package let reason: String
        package let words: String
    }

    package let presented: Timestamp
    package let visas: [HeldVisa]
    package let refused: [RefusedVisa]
    package static let bytesMax = PassportCheck.passportBytesMax
}

// MARK: - Trust

extension Gateway {
    /// Sets whose passports count here: the whole list, in the place of the one before.
    package func trustPassports(_ text: String, by actor: PersonID) throws {
        try require(actor, anyOf: [.operatorRole, .securityOfficer])
        let issuers: TrustedIssuers
        do throws(TrustError) { issuers = try TrustedIssuers(parsing: Array(text.utf8)) } catch {
            throw GatewayError(.usage, "the list of issuers is not valid: \(error)")
        }
        try ledger.record(
            Event(.passportsTrusted, .done).with {
                $0.actor = actor
                $0.detail = [
                    "file": .string(SHA256.hash(text).hex), "issuers": .integer(Int64(issuers.issuers.count)),
                ]
                $0.payload = ["file": .string(text)]
            }, in: .gateway, key: ledger.freshKey("passports-trusted"))
    }

    /// `nil` where nobody has set a list.
    func passportTrust() throws -> PassportTrust? {
        guard let record = ledger.records(of: .passportsTrusted).last else { return nil }
        if let (index, trust) = trustCache, index == record.index { return trust }
        guard let text = record.payload["file"]?.stringValue,
            let issuers = try? TrustedIssuers(parsing: Array(text.utf8))
        else { throw GatewayError(.integrity, "the recorded list of trusted issuers cannot be read") }
        let trust = PassportTrust(text: text, issuers: issuers)
        trustCache = (record.index, trust)
        return trust
    }

    package func passportTrust(by person: PersonID) throws -> PassportTrust? {
        try require(person, anyOf: [.operatorRole, .securityOfficer, .complianceOfficer])
        return try passportTrust()
    }

    /// Says, or no longer says, that an identity of an issuer is this person. Without it anybody could present a
    /// passport that they came by.
    package func linkIdentity(
        issuer: String, subject: String, to person: PersonID, isLinked: Bool, by actor: PersonID
    ) throws {
        let identity = PassportIdentity(issuer: issuer, subject: subject)
        try require(actor, anyOf: [.operatorRole, .securityOfficer])
        guard people[person] != nil else { throw GatewayError(.notFound, "\(person) is not known here") }
        guard try passportTrust()?.issuers.issuers[identity.issuer]?.signsPassports == true else {
            throw GatewayError(.usage, "this issuer's passports are not trusted here")
        }
        guard (1...255).contains(identity.subject.utf8.count),
            identity.subject.utf8.allSatisfy({ (0x20...0x7E).contains($0) })
        else { throw GatewayError(.usage, "a subject is 1 to 255 printable ASCII characters") }
        let holder = linkedPerson(of: identity)
        if isLinked, let holder, holder != person {
            throw GatewayError(.refused, "this identity is linked to somebody else")
        }
        guard isLinked != (holder == person) else {
            throw GatewayError(.usage, "this identity is \(isLinked ? "linked already" : "not linked") to \(person)")
        }
        try ledger.record(
            Event(.identityLinked, .done).with {
                $0.actor = actor
                $0.detail = [
                    "person": .string(person.text), "identity": .string(identity.digest.hex), "linked": .bool(isLinked),
                ]
            }, in: .gateway, key: ledger.freshKey("identity.\(person)"))
    }

    private func linkedPerson(of identity: PassportIdentity) -> PersonID? {
        let hash = identity.digest.hex
        guard
            let last = ledger.records(of: .identityLinked).last(where: { $0.detail["identity"]?.stringValue == hash }),
            last.detail["linked"]?.boolValue == true
        else { return nil }
        return last.detail["person"]?.stringValue.flatMap { try? PersonID($0) }
    }
}

// MARK: - Presenting

extension Gateway {
    /// Checks a passport and keeps what counts of it, in the place of the one before. A passport that is refused as a
    /// whole changes nothing but the trail.
    package func presentPassport(_ text: String, by person: PersonID) async throws -> PassportEntry {
        try require(person, anyOf: [.researcher])
        guard let trust = try passportTrust() else {
            throw GatewayError(.refused, "no passports are trusted here")
        }
        let passport: Passport
        do throws(VisaRefusal) {
            let cache = keySets
            passport = try await PassportCheck(trusting: trust.issuers) { address, isFresh in
                try await cache.keys(at: address, isFresh: isFresh)
            }.check(text, now: clock.now())
        } catch {
            try record(refusal: error.rawValue, of: text, by: person)
            throw GatewayError(
                error == .keysUnreachable ? .unavailable : .refused,
                "passport.\(error.rawValue): the passport is refused: \(error.publicDescription)")
        }
        guard linkedPerson(of: passport.identity) == person else {
            try record(refusal: "identity", of: text, by: person)
            throw GatewayError(
                .refused,
                "passport.identity: the passport is of an identity that is not linked to \(person); an operator links it"
            )
        }
        try ledger.record(
            Event(.passportPresented, .done).with {
                $0.actor = person
                $0.detail = [
                    "passport": .string(SHA256.hash(text).hex),
                    "types": .array(Set(passport.visas.map(\.type.rawValue)).sorted().map(JSON.string)),
                    "visas": .integer(Int64(passport.visas.count)),
                    "refused": .integer(Int64(passport.refused.count)),
                ]
                $0.payload = [
                    "identity": .string(passport.identity.digest.hex), "visas": .array(passport.visas.map(\.json)),
                    "refused": .array(
                        passport.refused.map {
                            ["number": .integer(Int64($0.number)), "reason": .string($0.reason.rawValue)]
                        }),
                ]
            }, in: .gateway, key: ledger.freshKey("passport.\(person)"))
        return try self.passport(of: person)!
    }

    private func record(refusal code: String, of text: String, by person: PersonID) throws {
        try ledger.record(
            Event(.passportPresented, .refused).with {
                $0.actor = person
                $0.reasons = ["passport.\(code)"]
                $0.detail = ["passport": .string(SHA256.hash(text).hex)]
            }, in: .gateway, key: ledger.freshKey("passport.\(person)"))
    }

    /// One's own passport as it counts now; `nil` where none was accepted.
    package func passport(of person: PersonID) throws -> PassportEntry? {
        guard let record = passportRecord(of: person) else { return nil }
        let issuers = try passportTrust()?.issuers
        let isLinked = isStillLinked(record, to: person)
        let now = clock.now()
        return PassportEntry(
            presented: record.time,
            visas: Self.visas(in: record).map { visa in
                PassportEntry.HeldVisa(
                    type: visa.type.rawValue, value: visa.value, source: visa.source, by: visa.by,
                    issuer: visa.issuer, expires: visa.expires,
                    counts: isLinked && now < visa.expires && issuers?.accepts(visa) ?? false)
            },
            refused: (record.payload["refused"]?.arrayValue ?? []).compactMap { refused in
                guard let number = refused["number"]?.integerValue,
                    let reason = refused["reason"]?.stringValue.flatMap(VisaRefusal.init)
                else { return nil }
                return PassportEntry.RefusedVisa(
                    number: Int(number), reason: reason.rawValue, words: reason.publicDescription)
            })
    }

    /// What a person's passport holds now, as far as it speaks of this data set. Whether a visa has expired is decided
    /// where it is asked for.
    func visas(of person: PersonID, for dataset: DatasetID) -> [AccessQuestion.Visa] {
        guard let record = passportRecord(of: person), let issuers = (try? passportTrust())??.issuers,
            isStillLinked(record, to: person)
        else { return [] }
        return Self.visas(in: record).compactMap { visa in
            guard issuers.accepts(visa), let by = visa.by, visa.type != .linkedIdentities else { return nil }
            if visa.type == .controlledAccessGrants,
                issuers.datasets[dataset.text]?.contains(visa.value) != true
            {
                return nil
            }
            return AccessQuestion.Visa(type: visa.type.rawValue, by: by, expires: visa.expires)
        }
    }

    private func passportRecord(of person: PersonID) -> CaseRecord? {
        ledger.records(of: .passportPresented).last { $0.actor == person && $0.outcome == .done }
    }

    /// An operator may have taken the link back.
    private func isStillLinked(_ record: CaseRecord, to person: PersonID) -> Bool {
        guard let hash = record.payload["identity"]?.stringValue else { return false }
        let last = ledger.records(of: .identityLinked).last { $0.detail["identity"]?.stringValue == hash }
        return last?.detail["linked"]?.boolValue == true && last?.detail["person"]?.stringValue == person.text
    }

    private static func visas(in record: CaseRecord) -> [Visa] {
        (record.payload["visas"]?.arrayValue ?? []).compactMap(Visa.init)
    }
}

extension PassportIdentity {
    /// Names an identity in records without saying it.
    var digest: Digest {
        let json: JSON = ["issuer": .string(issuer), "subject": .string(subject)]
        return SHA256.hash(json.canonical)
    }
}

extension Visa {
    fileprivate var json: JSON {
        [
            "type": .string(type.rawValue), "value": .string(value), "source": .string(source),
            "by": by.map(JSON.string) ?? .null, "asserted": .integer(asserted.milliseconds),
            "expires": .integer(expires.milliseconds), "issuer": .string(issuer),
        ]
    }

    fileprivate init?(_ json: JSON) {
        guard let type = json["type"]?.stringValue.flatMap(Kind.init), let value = json["value"]?.stringValue,
            let source = json["source"]?.stringValue, let asserted = json["asserted"]?.integerValue,
            let expires = json["expires"]?.integerValue, let issuer = json["issuer"]?.stringValue
        else { return nil }
        self.init(
            type: type, value: value, source: source, by: json["by"]?.stringValue,
            asserted: Timestamp(milliseconds: asserted), expires: Timestamp(milliseconds: expires), issuer: issuer)
    }
}

/// Fetches key sets over HTTPS: bounded, and never from an address that a redirect names.
enum KeySetHTTP {
    static func get(_ address: String) async throws -> [UInt8] {
        var configuration = HTTPClient.Configuration()
        configuration.redirectConfiguration = .disallow
        configuration.timeout = .init(connect: .seconds(5), read: .seconds(5))
        let client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        do {
            let response = try await client.execute(HTTPClientRequest(url: address), timeout: .seconds(10))
            guard response.status == .ok else { throw GatewayError(.unavailable, "an issuer's keys cannot be had") }
            let body = try await response.body.collect(upTo: PassportCheck.keySetBytesMax)
            try await client.shutdown()
            return Array(body.readableBytesView)
        } catch {
            try? await client.shutdown()
            throw error
        }
    }
}
