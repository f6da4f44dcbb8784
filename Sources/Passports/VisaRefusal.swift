/// Why a passport, or a visa in it, counts for nothing. Closed, in the order in which the checks are made.
///
/// Source: GA4GH Passport v1.2 and AAI OpenID Connect Profile v1.2, "Conformance for Visas".
package enum VisaRefusal: String, Error, Sendable, CaseIterable {
    /// A visa over 16 KiB, or a passport over its own limit.
    case tooLarge = "too-large"
    /// More than 200 visas in one passport.
    case tooMany = "too-many"
    /// Not a token in the compact form, or without what every such token says.
    case malformed
    /// Signed by another algorithm than ES256 or RS256, or by one that its key is not for.
    case algorithm
    /// The issuer, or the place where it says its keys are, is on no list here.
    case issuer
    /// The issuer's keys could not be had.
    case keysUnreachable = "keys-unreachable"
    case keyUnknown = "key-unknown"
    case signature
    case expired
    case assertedInFuture = "asserted-in-future"
    /// A kind of visa that is not known here, or that this issuer is not trusted for.
    case type
    /// The organisation that is said to have asserted it is not one that this issuer may speak for.
    case source
    /// Not one of the levels of authority that there are, or none where one must be said.
    case by
    /// It says something else than what counts here.
    case value
    /// It is about somebody else, as far as the passport can tell.
    case subject
    /// The conditions that it names are not met, or cannot be read.
    case conditions

    /// For whoever presented it; holds nothing of it.
    package var publicDescription: String {
        switch self {
        case .tooLarge: "it is longer than the limit"
        case .tooMany: "the passport holds more than \(PassportCheck.visasMax) visas"
        case .malformed: "it cannot be read"
        case .algorithm: "it is not signed by ES256 or RS256 with a key for that"
        case .issuer: "its issuer, or the address of its keys, is not trusted here"
        case .keysUnreachable: "its issuer's keys cannot be had now"
        case .keyUnknown: "its issuer has no such key"
        case .signature: "its signature is wrong"
        case .expired: "it has expired"
        case .assertedInFuture: "it was made in the future, by this machine's clock"
        case .type: "it is of a type that its issuer is not trusted for here"
        case .source: "its source is not one that its issuer may speak for"
        case .by: "it does not say by what authority it was asserted"
        case .value: "it says something that does not count here"
        case .subject: "it is about an identity that nothing in the passport links to this one"
        case .conditions: "its conditions are not met"
        }
    }
}
