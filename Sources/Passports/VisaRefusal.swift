internal import JWTKit

/// Why a visa counts for nothing. Closed: what none of these names, no check asks for.
///
/// Source: GA4GH Passport v1.2 and AAI OpenID Connect Profile v1.2, "Conformance for Visas".
package enum VisaRefusal: String, Error, Sendable, CaseIterable {
    case malformed, tooLarge = "too-large", algorithm, keyUnknown = "key-unknown", issuer, signature
    case expired, assertedInFuture = "asserted-in-future", source, by, conditions, type, subject
}
