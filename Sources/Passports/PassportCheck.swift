package import Vocabulary

/// A GA4GH Passport after its check: whose it is, which visas count, and why the others do not.
package struct Passport: Sendable {
    package struct RefusedVisa: Sendable, Equatable {
        /// Its place in the passport, from 1.
        package let number: Int
        package let reason: VisaRefusal

        package init(number: Int, reason: VisaRefusal) {
            self.number = number
            self.reason = reason
        }
    }

    package let identity: PassportIdentity
    package let visas: [Visa]
    package let refused: [RefusedVisa]
}

/// Checks passports against the issuers that are trusted here. Unknown means refused.
///
/// Nothing that a passport says is acted on before its signature is known to be good, but for the name of its issuer
/// and key: those choose among what is trusted already, and nothing else.
package struct PassportCheck: Sendable {
    package static let visasMax = 200
    package static let visaBytesMax = 16 * 1024
    /// Real ones have tens of thousands of bytes.
    package static let passportBytesMax = 1 << 20
    package static let fetchesMax = 10
    package static let keySetBytesMax = 256 * 1024
    /// By how much an issuer's clock may be ahead of ours. What has expired has expired.
    package static let skewSeconds: Int64 = 60

    /// Gets the key set at an address, at most 256 KiB of it. `isFresh`: a copy from a moment ago is not good enough.
    package typealias Fetch = @Sendable (_ address: String, _ isFresh: Bool) async throws -> [UInt8]

    private let trust: TrustedIssuers
    private let fetch: Fetch

    package init(trusting trust: TrustedIssuers, fetch: @escaping Fetch) {
        self.trust = trust
        self.fetch = fetch
    }

    /// - Parameter text: a Passport in the compact form of a signed token.
    package func check(_ text: String, now: Timestamp) async throws(VisaRefusal) -> Passport {
        var keys = KeyRing(fetch: fetch)
        let token = try SignedToken(text, bytesMax: Self.passportBytesMax)
        guard let issuer = trust.issuers[token.issuer], issuer.signsPassports,
            token.keysAddress == nil || token.keysAddress == issuer.jwks
        else { throw .issuer }
        try await keys.verify(token, of: issuer)
        _ = try token.expiry(now: now)
        guard let texts = token.claims["ga4gh_passport_v1"]?.arrayValue, token.claims["ga4gh_visa_v1"] == nil else {
            throw .malformed
        }
        guard texts.count <= Self.visasMax else { throw .tooMany }
        var signed: [(number: Int, visa: SignedVisa)] = []
        var refused: [Passport.RefusedVisa] = []
        for (place, text) in texts.enumerated() {
            do throws(VisaRefusal) {
                signed.append((place + 1, try await self.signed(text, &keys, now)))
            } catch { refused.append(Passport.RefusedVisa(number: place + 1, reason: error)) }
        }
        let visas = judge(signed, of: token.identity, &refused)
        return Passport(
            identity: token.identity, visas: visas, refused: refused.sorted { $0.number < $1.number })
    }

    private func signed(_ json: JSON, _ keys: inout KeyRing, _ now: Timestamp) async throws(VisaRefusal) -> SignedVisa {
        guard let text = json.stringValue else { throw .malformed }
        let token = try SignedToken(text, bytesMax: Self.visaBytesMax)
        guard let issuer = trust.issuers[token.issuer] else { throw .issuer }
        // A visa names where its keys are, unless they are written down here.
        guard token.keysAddress == issuer.jwks || (token.keysAddress == nil && issuer.keys != nil) else {
            throw .issuer
        }
        try await keys.verify(token, of: issuer)
        guard token.claims["ga4gh_passport_v1"] == nil else { throw .malformed }
        return try SignedVisa(token, trust, issuer, now: now)
    }

    /// Whose they are, then what they depend on.
    private func judge(
        _ signed: [(number: Int, visa: SignedVisa)], of identity: PassportIdentity,
        _ refused: inout [Passport.RefusedVisa]
    ) -> [Visa] {
        let own = Self.identities(linkedTo: identity, by: signed.map(\.visa))
        let mine = signed.filter { number, visa in
            let isMine = own.contains(visa.identity)
            if !isMine { refused.append(Passport.RefusedVisa(number: number, reason: .subject)) }
            return isMine
        }
        let unconditional = mine.filter { $0.visa.conditions == nil }.map(\.visa.visa)
        var visas: [Visa] = []
        for (number, visa) in mine {
            if let json = visa.conditions, (try? VisaConditions(json))?.areMet(by: unconditional) != true {
                refused.append(Passport.RefusedVisa(number: number, reason: .conditions))
            } else {
                visas.append(visa.visa)
            }
        }
        return visas
    }

    /// All identities that unconditional LinkedIdentities visas, one after the other, say are the same.
    private static func identities(
        linkedTo identity: PassportIdentity, by visas: [SignedVisa]
    ) -> Set<PassportIdentity> {
        var own: Set = [identity]
        // Each round links at least one more visa, or is the last.
        var waiting = visas.filter { $0.visa.type == .linkedIdentities && $0.conditions == nil }
        while true {
            let linking = waiting.filter { own.contains($0.identity) || $0.linked.contains(where: own.contains) }
            guard !linking.isEmpty else { return own }
            for visa in linking {
                own.insert(visa.identity)
                own.formUnion(visa.linked)
            }
            waiting.removeAll { own.contains($0.identity) }
        }
    }
}

/// The keys of one check: each set is fetched once, and once more where a key is not in an older copy.
private struct KeyRing {
    private let fetch: PassportCheck.Fetch
    private var sets: [String: (keys: [IssuerKey], isFresh: Bool)] = [:]
    private var fetches = 0

    init(fetch: @escaping PassportCheck.Fetch) { self.fetch = fetch }

    mutating func verify(_ token: SignedToken, of issuer: TrustedIssuers.Issuer) async throws(VisaRefusal) {
        let key = try await key(token.keyID, of: issuer)
        guard key.algorithm == token.algorithm else { throw .algorithm }
        guard await key.verifies(token.bytes) else { throw .signature }
    }

    private mutating func key(_ id: String, of issuer: TrustedIssuers.Issuer) async throws(VisaRefusal) -> IssuerKey {
        if let keys = issuer.keys {
            guard let key = keys.first(where: { $0.id == id }) else { throw .keyUnknown }
            return key
        }
        guard let address = issuer.jwks else { throw .issuer }
        if sets[address] == nil { try await load(address, isFresh: false) }
        if let key = sets[address]?.keys.first(where: { $0.id == id }) { return key }
        guard sets[address]?.isFresh != true else { throw .keyUnknown }
        try await load(address, isFresh: true)
        guard let key = sets[address]?.keys.first(where: { $0.id == id }) else { throw .keyUnknown }
        return key
    }

    private mutating func load(_ address: String, isFresh: Bool) async throws(VisaRefusal) {
        guard fetches < PassportCheck.fetchesMax else { throw .keysUnreachable }
        fetches += 1
        let bytes: [UInt8]
        do { bytes = try await fetch(address, isFresh) } catch { throw .keysUnreachable }
        sets[address] = (try IssuerKey.set(parsing: bytes), isFresh)
    }
}
