package import Vocabulary

/// Who a passport or a visa is about, in its issuer's words.
package struct PassportIdentity: Hashable, Sendable {
    package let issuer: String
    package let subject: String

    package init(issuer: String, subject: String) {
        self.issuer = issuer
        self.subject = subject
    }
}

/// A visa that passed every check.
package struct Visa: Sendable, Equatable {
    package enum Kind: String, CaseIterable, Sendable {
        case affiliationAndRole = "AffiliationAndRole"
        case acceptedTermsAndPolicies = "AcceptedTermsAndPolicies"
        case researcherStatus = "ResearcherStatus"
        case controlledAccessGrants = "ControlledAccessGrants"
        case linkedIdentities = "LinkedIdentities"
    }

    package let type: Kind
    package let value: String
    package let source: String
    /// Self, peer, system, so or dac; `nil` where it does not say.
    package let by: String?
    package let asserted: Timestamp
    package let expires: Timestamp
    package let issuer: String

    package init(
        type: Kind, value: String, source: String, by: String?, asserted: Timestamp, expires: Timestamp, issuer: String
    ) {
        self.type = type
        self.value = value
        self.source = source
        self.by = by
        self.asserted = asserted
        self.expires = expires
        self.issuer = issuer
    }
}

/// A visa whose signature is good, before it is known whose it is and whether its conditions hold.
struct SignedVisa {
    let visa: Visa
    let identity: PassportIdentity
    let conditions: JSON?
    /// Identities that a LinkedIdentities visa says are one with its own.
    let linked: [PassportIdentity]

    private static let levels = ["self", "peer", "system", "so", "dac"]
    private static let members = ["type", "asserted", "value", "source", "conditions", "by"]

    init(_ token: SignedToken, _ trust: TrustedIssuers, _ issuer: TrustedIssuers.Issuer, now: Timestamp)
        throws(VisaRefusal)
    {
        let expires = try token.expiry(now: now)
        guard let object = token.claims["ga4gh_visa_v1"], let members = object.objectValue,
            // What it says besides may take back what it says.
            members.keys.allSatisfy(Self.members.contains), let type = object["type"]?.stringValue,
            let value = object["value"]?.stringValue, (1...4096).contains(value.utf8.count),
            let source = object["source"]?.stringValue
        else { throw .malformed }
        let asserted = try token.seconds(object["asserted"])
        guard asserted <= now.adding(seconds: PassportCheck.skewSeconds) else { throw .assertedInFuture }
        guard let kind = Visa.Kind(rawValue: type), issuer.types.contains(type) else { throw .type }
        guard issuer.sources.contains(source) else { throw .source }
        let by = object["by"]
        guard by == nil || by?.stringValue.map(Self.levels.contains) ?? false else { throw .by }
        // Passport v1.2: these two must say it.
        guard by != nil || ![.acceptedTermsAndPolicies, .controlledAccessGrants].contains(kind) else { throw .by }
        guard trust.accepts(value, kind) else { throw .value }
        visa = Visa(
            type: kind, value: value, source: source, by: by?.stringValue, asserted: asserted, expires: expires,
            issuer: issuer.issuer)
        identity = token.identity
        linked = kind == .linkedIdentities ? try Self.linked(value) : []
        conditions = object["conditions"]
    }

    /// `sub,iss;sub,iss`, each part percent-encoded.
    private static func linked(_ value: String) throws(VisaRefusal) -> [PassportIdentity] {
        var linked: [PassportIdentity] = []
        for entry in value.split(separator: ";", omittingEmptySubsequences: false) {
            let parts = entry.split(separator: ",", omittingEmptySubsequences: false)
            guard parts.count == 2, let subject = decoded(parts[0]), let issuer = decoded(parts[1]) else {
                throw .value
            }
            linked.append(PassportIdentity(issuer: issuer, subject: subject))
        }
        return linked
    }

    private static func decoded(_ text: Substring) -> String? {
        func digit(_ byte: UInt8) -> UInt8? {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
            case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
            default: nil
            }
        }
        let bytes = Array(text.utf8)
        var decoded: [UInt8] = []
        var place = 0
        while place < bytes.count {
            if bytes[place] == UInt8(ascii: "%") {
                guard place + 2 < bytes.count, let high = digit(bytes[place + 1]), let low = digit(bytes[place + 2])
                else { return nil }
                decoded.append(high << 4 | low)
                place += 3
            } else {
                decoded.append(bytes[place])
                place += 1
            }
        }
        return decoded.isEmpty ? nil : String(validating: decoded, as: UTF8.self)
    }
}
