import Crypto
import CryptoExtras
import Foundation
import Passports
import Synchronization
import TestSupport
import Testing
import Vocabulary

private let now = Timestamp(parsing: "2026-11-21")!
private let office = PassportOffice()
private let visas = ["ResearcherStatus", "AcceptedTermsAndPolicies"]

private func check(_ text: String, trust: String? = nil, now: Timestamp = now) async throws -> Passport {
    let issuers = try TrustedIssuers(parsing: Array((trust ?? office.trust()).utf8))
    return try await PassportCheck(trusting: issuers) { _, _ in throw CancellationError() }.check(text, now: now)
}

/// Every check of a visa, each on a visa that is good but for one thing and signed for real.
@Suite struct VisaTests {
    struct BadVisa: CustomTestStringConvertible, Sendable {
        let reason: VisaRefusal
        let name: String
        let make: @Sendable () -> String
        var testDescription: String { name }

        init(_ reason: VisaRefusal, _ name: String, _ make: @escaping @Sendable () -> String) {
            self.reason = reason
            self.name = name
            self.make = make
        }

        init(
            _ reason: VisaRefusal, _ name: String, header: [String: JSON] = [:],
            _ change: @escaping @Sendable (inout [String: JSON]) -> Void
        ) {
            self.init(reason, name) {
                office.visa(office.claims("ResearcherStatus", now: now, change), header: header)
            }
        }
    }

    private static func visa(_ claims: inout [String: JSON], _ change: (inout [String: JSON]) -> Void) {
        var visa = claims["ga4gh_visa_v1"]?.objectValue ?? [:]
        change(&visa)
        claims["ga4gh_visa_v1"] = .object(visa)
    }

    private static func conditioned(_ conditions: JSON) -> String {
        office.visa(office.claims("ResearcherStatus", now: now) { visa(&$0) { $0["conditions"] = conditions } })
    }

    private static func good(_ change: @Sendable (inout [String: JSON]) -> Void = { _ in }) -> String {
        office.visa(office.claims("ResearcherStatus", now: now, change))
    }

    private static let seconds = now.milliseconds / 1000

    static let bad: [BadVisa] = [
        BadVisa(.tooLarge, "over 16 KiB") { $0["padding"] = .string(String(repeating: "x", count: 17_000)) },
        BadVisa(.malformed, "no token") { "visa" },
        BadVisa(.malformed, "four parts") { good() + ".x" },
        BadVisa(.malformed, "padding after base64url") { good() + "=" },
        BadVisa(.malformed, "claims that are no object") {
            let parts = good().split(separator: ".")
            return "\(parts[0]).\(PassportOffice.base64URL(Array("[]".utf8))).\(parts[2])"
        },
        BadVisa(.malformed, "critical extension", header: ["crit": ["exp"]]) { _ in },
        BadVisa(.malformed, "no subject") { $0["sub"] = nil },
        BadVisa(.malformed, "no visa in it") { $0["ga4gh_visa_v1"] = nil },
        BadVisa(.malformed, "an unknown member in the visa") { visa(&$0) { $0["not"] = "before" } },
        BadVisa(.malformed, "an expiry that is text") { $0["exp"] = "never" },
        BadVisa(.malformed, "no expiry") { $0["exp"] = nil },
        BadVisa(.malformed, "an expiry beyond the calendar") { $0["exp"] = .integer(JSON.integerMax) },
        BadVisa(.malformed, "a passport in a visa's place") { $0["ga4gh_passport_v1"] = [] },
        BadVisa(.algorithm, "no signature wanted", header: ["alg": "none"]) { _ in },
        BadVisa(.algorithm, "signed with a shared secret", header: ["alg": "HS256"]) { _ in },
        BadVisa(.algorithm, "EdDSA", header: ["alg": "EdDSA"]) { _ in },
        BadVisa(.algorithm, "a longer hash", header: ["alg": "ES384"]) { _ in },
        BadVisa(.algorithm, "another algorithm than the key's", header: ["alg": "RS256"]) { _ in },
        BadVisa(.algorithm, "the algorithm in small letters", header: ["alg": "es256"]) { _ in },
        BadVisa(.issuer, "an unknown issuer") { $0["iss"] = "https://elsewhere.example.org" },
        BadVisa(.issuer, "a look-alike issuer") { $0["iss"] = .string(PassportOffice.issuer + "/") },
        BadVisa(.issuer, "keys elsewhere", header: ["jku": "https://evil.example.org/jwks"]) { _ in },
        BadVisa(.issuer, "keys at almost the same address", header: ["jku": .string(PassportOffice.jwks + "?")]) { _ in
        },
        BadVisa(.keyUnknown, "an unknown key", header: ["kid": "key-2"]) { _ in },
        BadVisa(.keyUnknown, "no key named", header: ["kid": .null]) { _ in },
        BadVisa(.signature, "signed by somebody else under the same name") {
            let other = PassportOffice()
            return other.visa(other.claims("ResearcherStatus", now: now))
        },
        BadVisa(.signature, "other claims under the signature") {
            let parts = good().split(separator: ".")
            let other = good { $0["jti"] = "2" }.split(separator: ".")
            return "\(parts[0]).\(other[1]).\(parts[2])"
        },
        BadVisa(.signature, "an empty signature") {
            good().split(separator: ".").prefix(2).joined(separator: ".") + "."
        },
        BadVisa(.expired, "expired at this instant") { $0["exp"] = .integer(seconds) },
        BadVisa(.expired, "expired long ago") { $0["exp"] = 0 },
        BadVisa(.assertedInFuture, "asserted two minutes ahead") {
            visa(&$0) { $0["asserted"] = .integer(seconds + 120) }
        },
        BadVisa(.assertedInFuture, "issued two minutes ahead") { $0["iat"] = .integer(seconds + 120) },
        BadVisa(.assertedInFuture, "not before tomorrow") { $0["nbf"] = .integer(seconds + 86_400) },
        BadVisa(.type, "an unknown type") { visa(&$0) { $0["type"] = "Superuser" } },
        BadVisa(.type, "the type in other letters") { visa(&$0) { $0["type"] = "researcherstatus" } },
        BadVisa(.source, "an unknown source") { visa(&$0) { $0["source"] = "https://no.organization" } },
        BadVisa(.by, "an unknown authority") { visa(&$0) { $0["by"] = "friend" } },
        BadVisa(.by, "an authority that is no text") { visa(&$0) { $0["by"] = 1 } },
        BadVisa(.by, "terms accepted by nobody knows whom") {
            office.visa(office.claims("AcceptedTermsAndPolicies", by: nil, now: now))
        },
        BadVisa(.value, "another standard of researchers") { visa(&$0) { $0["value"] = "https://doi.org/10.1/x" } },
        BadVisa(.value, "a data set that is not here") {
            office.visa(
                office.claims("ControlledAccessGrants", value: "https://ega.example.org/1", by: "dac", now: now))
        },
        BadVisa(.value, "an affiliation that does not count") {
            office.visa(office.claims("AffiliationAndRole", value: "faculty@elsewhere", now: now))
        },
        BadVisa(.value, "links that cannot be read") {
            office.visa(office.claims("LinkedIdentities", value: "somebody", now: now))
        },
        BadVisa(.subject, "somebody else's") {
            office.visa(office.claims("ResearcherStatus", subject: "mei", now: now))
        },
        BadVisa(.subject, "a subject in other letters") {
            office.visa(office.claims("ResearcherStatus", subject: "Rin-At-Broker", now: now))
        },
        BadVisa(.conditions, "no conditions at all") { conditioned([]) },
        BadVisa(.conditions, "conditions that are no list of lists") { conditioned(["x"]) },
        BadVisa(.conditions, "a clause about nothing") { conditioned([[["type": "AcceptedTermsAndPolicies"]]]) },
        BadVisa(.conditions, "a clause about an unknown member") {
            conditioned([[["type": "AcceptedTermsAndPolicies", "asserted": "const:1"]]])
        },
        BadVisa(.conditions, "a clause without how to compare") {
            conditioned([[["type": "AcceptedTermsAndPolicies", "by": "so"]]])
        },
        BadVisa(.conditions, "a pattern where only a constant may be") {
            conditioned([[["type": "AcceptedTermsAndPolicies", "by": "pattern:*"]]])
        },
        BadVisa(.conditions, "one clause of two is met") {
            conditioned([
                [
                    ["type": "AcceptedTermsAndPolicies", "by": "const:so"],
                    ["type": "AffiliationAndRole", "value": "const:faculty@a"],
                ]
            ])
        },
        BadVisa(.conditions, "one visa must meet the whole clause") {
            conditioned([[["type": "AcceptedTermsAndPolicies", "by": "const:so", "value": "pattern:http://*"]]])
        },
        BadVisa(.conditions, "it leans on a visa with conditions of its own") {
            conditioned([[["type": "ResearcherStatus", "by": "const:so"]]])
        },
    ]

    @Test("each of the checks refuses a visa for its own reason, and the visa beside it still counts", arguments: bad)
    func refused(_ test: BadVisa) async throws {
        let terms = office.visa(office.claims("AcceptedTermsAndPolicies", now: now))
        let passport = try await check(office.passport([test.make(), terms], now: now))
        #expect(passport.refused.map(\.reason) == [test.reason] && passport.refused.map(\.number) == [1])
        #expect(passport.visas.map(\.type) == [.acceptedTermsAndPolicies])
    }

    @Test("every reason that a visa can be refused for is in the table, but for those of a whole passport")
    func complete() {
        let whole: Set<VisaRefusal> = [.tooMany, .keysUnreachable]
        #expect(Set(Self.bad.map(\.reason)) == Set(VisaRefusal.allCases).subtracting(whole))
    }

    @Test("conditions that are met, by exact text, pattern or part, let a visa count")
    func conditionsMet() async throws {
        let trust = office.trust() + "\naffiliations: [faculty@osaka-u.ac.jp;staff@osaka-u.ac.jp]\n"
        let affiliation = office.visa(
            office.claims("AffiliationAndRole", value: "faculty@osaka-u.ac.jp;staff@osaka-u.ac.jp", now: now))
        let met: [JSON] = [
            [[["type": "AffiliationAndRole", "by": "const:so"]]],
            [[["type": "AffiliationAndRole", "value": "pattern:faculty@*?jp", "source": "pattern:https://*"]]],
            [[["type": "AffiliationAndRole", "value": "split_pattern:staff@*.jp"]]],
            [
                [["type": "AcceptedTermsAndPolicies", "by": "const:dac"]],
                [["type": "AffiliationAndRole", "by": "const:so"]],
            ],
        ]
        for conditions in met {
            let passport = try await check(
                office.passport([affiliation, Self.conditioned(conditions)], now: now), trust: trust)
            #expect(passport.refused.isEmpty && passport.visas.count == 2, "\(conditions)")
        }
        let part = Self.conditioned([[["type": "AffiliationAndRole", "value": "pattern:staff@*"]]])
        let passport = try await check(office.passport([affiliation, part], now: now), trust: trust)
        #expect(passport.refused.map(\.reason) == [.conditions], "a pattern is over the whole text")
    }

    @Test("visas of another identity count only when somebody trusted to say so links the two, over a chain too")
    func linked() async throws {
        func link(_ subject: String, _ value: String) -> String {
            office.visa(office.claims("LinkedIdentities", value: value, subject: subject, now: now))
        }
        let broker = "https%3A%2F%2Fbroker.example.org%2Foidc"
        let other = office.visa(office.claims("ResearcherStatus", subject: "second", now: now))
        let chain = [link("rin-at-broker", "first,\(broker)"), link("second", "first,\(broker)")]
        let good = try await check(office.passport(chain + [other], now: now))
        #expect(good.refused.isEmpty && good.visas.contains { $0.type == .researcherStatus })
        let broken = try await check(office.passport([chain[1], other], now: now))
        #expect(broken.refused.map(\.reason) == [.subject, .subject], "a link between two strangers links nobody")
        let untrusted = office.trust(types: ["ResearcherStatus", "AcceptedTermsAndPolicies"])
        let unlinked = try await check(office.passport(chain + [other], now: now), trust: untrusted)
        #expect(unlinked.refused.map(\.reason) == [.type, .type, .subject])
    }

    @Test("RS256 counts with a key of 2048 bits, by its own signature only")
    func rsa() async throws {
        let key = try _RSA.Signing.PrivateKey(keySize: .bits2048)
        let primitives = try key.publicKey.getKeyPrimitives()
        let trust = """
            version: 1
            issuers:
              - issuer: \(PassportOffice.issuer)
                passports: true
                keys:
                  - { kid: "rsa", kty: RSA, n: "\(PassportOffice.base64URL(Array(primitives.modulus)))", e: "\(PassportOffice.base64URL(Array(primitives.publicExponent)))" }
                types: [ResearcherStatus]
                sources: [\(PassportOffice.source)]
            """
        func sign(_ claims: JSON) throws -> String {
            let header: JSON = ["alg": "RS256", "kid": "rsa"]
            let signed = [header, claims].map { PassportOffice.base64URL($0.canonical) }.joined(separator: ".")
            let signature = try key.signature(for: Data(signed.utf8), padding: .insecurePKCS1v1_5)
            return signed + "." + PassportOffice.base64URL(Array(signature.rawRepresentation))
        }
        let visa = try sign(office.claims("ResearcherStatus", now: now))
        let time = now.milliseconds / 1000
        let passport = try sign([
            "iss": .string(PassportOffice.issuer), "sub": "rin-at-broker", "iat": .integer(time),
            "exp": .integer(time + 60), "ga4gh_passport_v1": [.string(visa), .string(visa + "A")],
        ])
        let checked = try await check(passport, trust: trust)
        #expect(checked.visas.count == 1 && checked.refused.map(\.number) == [2])
        let forged = passport.dropLast(4) + "AAAA"
        await #expect(throws: VisaRefusal.signature) { try await check(String(forged), trust: trust) }
    }
}

/// The passport as a whole, the lists it is held to, and the keys that are fetched for it.
@Suite struct PassportTests {
    @Test("a good passport tells whose it is and until when each visa counts")
    func good() async throws {
        let passport = try await check(office.registeredAccess(now: now))
        #expect(passport.identity == PassportIdentity(issuer: PassportOffice.issuer, subject: "rin-at-broker"))
        #expect(passport.visas.map(\.type.rawValue) == visas && passport.refused.isEmpty)
        #expect(passport.visas.allSatisfy { $0.expires == now.adding(seconds: 3600) && $0.by == "so" })
    }

    @Test("a passport that is refused as a whole says why")
    func whole() async throws {
        let many = Array(repeating: "x", count: 201)
        let cases: [(VisaRefusal, String)] = [
            (.tooLarge, String(repeating: "x", count: PassportCheck.passportBytesMax + 1)),
            (.tooMany, office.passport(many, now: now)), (.malformed, ""), (.malformed, "a.b"),
            (.malformed, office.visa(office.claims("ResearcherStatus", now: now))),
            (.expired, office.passport([], now: now, seconds: 0)),
            (.assertedInFuture, office.passport([], now: now.adding(seconds: 61))),
            (.issuer, PassportOffice(issuer: "https://other.example.org").passport([], now: now)),
            (.issuer, office.passport([], now: now, header: ["jku": "https://evil.example.org"])),
            (.keyUnknown, PassportOffice(keyID: "key-2").passport([], now: now)),
            (.signature, PassportOffice().passport([], now: now)),
        ]
        for (reason, text) in cases {
            await #expect(throws: reason) { try await check(text) }
        }
        let visaOnly = office.trust().replacingOccurrences(of: "passports: true", with: "passports: false")
        await #expect(throws: VisaRefusal.issuer) { try await check(office.passport([], now: now), trust: visaOnly) }
    }

    @Test("keys are fetched from the trusted address only, at most ten times, once more for an unknown key")
    func fetched() async throws {
        let fetches = Mutex<[String]>([])
        func trust(_ count: Int) throws -> TrustedIssuers {
            let issuers = (0..<count).map { number in
                """
                  - issuer: https://issuer-\(number).example.org
                    passports: \(number == 0)
                    jwks: https://keys-\(number).example.org/jwks
                    types: [ResearcherStatus]
                    sources: [\(PassportOffice.source)]
                """
            }
            return try TrustedIssuers(
                parsing: Array("version: 1\nissuers:\n\(issuers.joined(separator: "\n"))\n".utf8))
        }
        let offices = (0..<12).map { PassportOffice(issuer: "https://issuer-\($0).example.org") }
        let texts = offices.enumerated().map { number, office in
            office.visa(
                office.claims("ResearcherStatus", now: now),
                header: ["jku": .string("https://keys-\(number).example.org/jwks")])
        }
        let check = PassportCheck(trusting: try trust(12)) { address, _ in
            fetches.withLock { $0.append(address) }
            let number = address.dropFirst("https://keys-".count).prefix { $0 != "." }
            return offices[Int(number) ?? 0].keySet
        }
        let passport = try await check.check(offices[0].passport(texts, now: now), now: now)
        #expect(fetches.withLock { $0.count } == PassportCheck.fetchesMax)
        #expect(passport.refused.suffix(2).map(\.reason) == [.keysUnreachable, .keysUnreachable])
        #expect(passport.refused.prefix(9).allSatisfy { $0.reason == .subject }, "signed well, by other issuers")
        let unknown = PassportOffice(issuer: offices[0].issuer, keyID: "new").passport([], now: now)
        fetches.withLock { $0 = [] }
        await #expect(throws: VisaRefusal.keyUnknown) { try await check.check(unknown, now: now) }
        #expect(fetches.withLock { $0.count } == 2)
    }

    @Test("a key set that is too large, no JSON, ambiguous or away gives no key", arguments: 0..<5)
    func badKeySets(_ number: Int) async throws {
        let set: [UInt8]? = [
            Array(repeating: UInt8(ascii: " "), count: PassportCheck.keySetBytesMax + 1), Array("{}".utf8), nil,
            JSON.object(["keys": [office.jwk, office.jwk]]).canonical, Array("<html>".utf8),
        ][number]
        let trust = office.trust().split(separator: "\n").filter { !$0.contains("kid") && !$0.contains("keys:") }
        let issuers = try TrustedIssuers(parsing: Array(trust.joined(separator: "\n").utf8))
        let check = PassportCheck(trusting: issuers) { _, _ in
            guard let set else { throw CancellationError() }
            return set
        }
        await #expect(throws: VisaRefusal.keysUnreachable) {
            try await check.check(office.registeredAccess(now: now), now: now)
        }
    }

    @Test("a fetched key set is believed for a quarter of an hour, and not asked for again within a minute")
    func cached() async throws {
        let clock = ManualClock(now)
        let fetches = Mutex(0)
        let cache = KeySetCache(now: { clock.now() }) { _ in
            fetches.withLock { $0 += 1 }
            return []
        }
        for (seconds, isFresh, count) in [
            (0, false, 1), (59, true, 1), (1, true, 2), (899, false, 2), (1, false, 3), (-7200, false, 4),
        ] {
            clock.advance(seconds: Int64(seconds))
            _ = try await cache.keys(at: "https://a", isFresh: isFresh)
            #expect(fetches.withLock { $0 } == count, "\(seconds) \(isFresh)")
        }
    }

    static let badTrust: [(String, String, Int)] = [
        ("version: 1", "version: 2", 1), ("version: 1", "versoin: 1", 1), ("issuers:", "issuer:", 2),
        ("passports: true", "passports: maybe", 4), ("https://broker.example.org/oidc", "http://broker.example.org", 3),
        ("jwks: https://broker", "jwks: https://user@broker", 5), ("types: [Res", "types: [Ress", 8),
        ("kty: EC", "kty: oct", 7), ("crv: P-256", "crv: P-384", 7), ("sources: [", "sources: [https://a b, ", 9),
        ("sources:", "source:", 9), ("kid:", "kid: \"a\", kid:", 7), ("version: 1", "version: &a 1", 1),
    ]

    @Test("a list of issuers that is wrong is refused with its line", arguments: 0..<badTrust.count)
    func trustRefused(_ number: Int) throws {
        let (from, to, line) = Self.badTrust[number]
        let text = office.trust()
        #expect(text.contains(from))
        let changed = text.replacingOccurrences(of: from, with: to)
        let error = #expect(throws: TrustError.self) { try TrustedIssuers(parsing: Array(changed.utf8)) }
        #expect(error?.line == line, "\(error?.description ?? "") in\n\(changed)")
    }

    @Test("no mutation of a passport, a visa, a key set or a list of issuers crashes a check or makes it believe more")
    func fuzz() async throws {
        var random = SeededRandom(seed: 21)
        let good = Array(office.registeredAccess(now: now).utf8)
        let list = Array(office.trust().utf8)
        let set = office.keySet
        let issuers = try TrustedIssuers(parsing: list)
        let pieces = [".", "=", "-", "_", "A", "\0", "{", "}", "\"", "é"].map { Array($0.utf8) }
        for step in 0..<400 {
            var bytes = [good, list, set][step % 3]
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes.insert(contentsOf: pieces.randomElement(using: &random)!, at: at)
                case 1: bytes.removeSubrange(at..<min(bytes.count, at + Int.random(in: 1...9, using: &random)))
                default: bytes[at] = UInt8.random(in: 0...255, using: &random)
                }
            }
            switch step % 3 {
            case 0 where bytes != good:
                let result = try? await PassportCheck(trusting: issuers) { _, _ in throw CancellationError() }
                    .check(String(decoding: bytes, as: UTF8.self), now: now)
                #expect(result == nil, "seed 21, step \(step)")
            case 1: _ = try? TrustedIssuers(parsing: bytes)
            default:
                let trust = office.trust().split(separator: "\n").filter { !$0.contains("key") }
                let open = try TrustedIssuers(parsing: Array(trust.joined(separator: "\n").utf8))
                let changed = bytes
                _ = try? await PassportCheck(trusting: open) { _, _ in changed }.check(
                    String(decoding: good, as: UTF8.self), now: now)
            }
        }
    }
}
