import Crypto
package import Vocabulary

/// A made issuer of GA4GH Passports with keys of its own: what it signs is real, and it signs anything.
package struct PassportOffice: Sendable {
    package static let issuer = "https://broker.example.org/oidc"
    package static let jwks = "https://broker.example.org/jwks"
    package static let source = "https://grid.ac/institutes/grid.240952.8"
    package static let registered = "https://doi.org/10.1038/s41431-018-0219-y"

    package let issuer: String
    package let keyID: String
    private let key = P256.Signing.PrivateKey()

    package init(issuer: String = PassportOffice.issuer, keyID: String = "key-1") {
        self.issuer = issuer
        self.keyID = keyID
    }

    /// The public key as a JWK's members.
    package var jwk: JSON {
        let point = Array(key.publicKey.x963Representation.dropFirst())
        return [
            "kid": .string(keyID), "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
            "x": .string(Self.base64URL(Array(point[..<32]))), "y": .string(Self.base64URL(Array(point[32...]))),
        ]
    }

    package var keySet: [UInt8] { JSON.object(["keys": [jwk]]).canonical }

    /// A list of trusted issuers with this one, its key written down.
    package func trust(datasets: String = "", types: [String] = PassportOffice.types) -> String {
        func text(_ name: String) -> String { jwk[name]?.stringValue ?? "" }
        return """
            version: 1
            issuers:
              - issuer: \(issuer)
                passports: true
                jwks: \(Self.jwks)
                keys:
                  - { kid: "\(keyID)", kty: EC, crv: P-256, x: "\(text("x"))", y: "\(text("y"))" }
                types: [\(types.joined(separator: ", "))]
                sources: [\(Self.source)]
            \(datasets)
            """
    }

    package static let types = [
        "ResearcherStatus", "AcceptedTermsAndPolicies", "ControlledAccessGrants", "LinkedIdentities",
        "AffiliationAndRole",
    ]

    package func sign(_ claims: JSON, header: [String: JSON] = [:]) -> String {
        var members: [String: JSON] = ["alg": "ES256", "kid": .string(keyID), "typ": "JWT"]
        members.merge(header) { $1 }
        members = members.filter { $0.value != .null }
        let signed = Self.base64URL(JSON.object(members).canonical) + "." + Self.base64URL(claims.canonical)
        guard let signature = try? key.signature(for: Array(signed.utf8)) else { return signed + "." }
        return signed + "." + Self.base64URL(Array(signature.rawRepresentation))
    }

    /// A visa's claims; `change` makes it another one.
    package func claims(
        _ type: String, value: String = PassportOffice.registered, by: String? = "so",
        subject: String = "rin-at-broker",
        now: Timestamp, seconds: Int64 = 3600, _ change: (inout [String: JSON]) -> Void = { _ in }
    ) -> JSON {
        let time = now.milliseconds / 1000
        var visa: [String: JSON] = [
            "type": .string(type), "value": .string(value), "source": .string(Self.source),
            "asserted": .integer(time - 60),
        ]
        visa["by"] = by.map(JSON.string)
        var claims: [String: JSON] = [
            "iss": .string(issuer), "sub": .string(subject), "iat": .integer(time), "exp": .integer(time + seconds),
            "jti": "1", "ga4gh_visa_v1": .object(visa),
        ]
        change(&claims)
        return .object(claims)
    }

    package func visa(_ claims: JSON, header: [String: JSON] = [:]) -> String {
        sign(claims, header: ["jku": .string(Self.jwks)].merging(header) { $1 })
    }

    package func passport(
        _ visas: [String], subject: String = "rin-at-broker", now: Timestamp, seconds: Int64 = 600,
        header: [String: JSON] = [:]
    ) -> String {
        let time = now.milliseconds / 1000
        return sign(
            [
                "iss": .string(issuer), "sub": .string(subject), "iat": .integer(time),
                "exp": .integer(time + seconds), "ga4gh_passport_v1": .array(visas.map(JSON.string)),
            ], header: header)
    }

    /// Both visas of registered access.
    package func registeredAccess(subject: String = "rin-at-broker", now: Timestamp, seconds: Int64 = 3600) -> String {
        passport(
            ["ResearcherStatus", "AcceptedTermsAndPolicies"].map {
                visa(claims($0, subject: subject, now: now, seconds: seconds))
            }, subject: subject, now: now)
    }

    package static func base64URL(_ bytes: [UInt8]) -> String {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        var text = ""
        var word: UInt32 = 0
        var bits: UInt32 = 0
        for byte in bytes {
            word = word << 8 | UInt32(byte)
            bits += 8
            while bits >= 6 {
                bits -= 6
                text.append(alphabet[Int(word >> bits & 63)])
            }
            word &= 1 << bits - 1
        }
        if bits > 0 { text.append(alphabet[Int(word << (6 - bits) & 63)]) }
        return text
    }
}
