import StrictYAML
import Vocabulary

/// Who may vouch for researchers here: which issuers, where their keys are, what each may say and for whom.
///
/// `config/passports.yaml` shows the format; the same strict YAML as policies.
package struct TrustedIssuers: Sendable, Equatable {
    package struct Issuer: Sendable, Equatable {
        package let issuer: String
        /// May sign passports, not only visas.
        package let signsPassports: Bool
        /// Where its keys are, and the only address of keys that its visas may name.
        package let jwks: String?
        /// Its keys, where they are written down instead of fetched.
        let keys: [IssuerKey]?
        package let types: Set<String>
        package let sources: Set<String>
    }

    package let issuers: [String: Issuer]
    /// Which values of ControlledAccessGrants stand for which data set here.
    package let datasets: [String: Set<String>]
    /// Which values of AffiliationAndRole count.
    package let affiliations: Set<String>

    package static let issuersMax = 64
    package static let urlBytesMax = 255

    /// Both visas of registered access say this.
    package static let registeredAccess = "https://doi.org/10.1038/s41431-018-0219-y"

    /// Whether a visa that was checked before would still be believed.
    package func accepts(_ visa: Visa) -> Bool {
        guard let issuer = issuers[visa.issuer] else { return false }
        return issuer.types.contains(visa.type.rawValue) && issuer.sources.contains(visa.source)
            && accepts(visa.value, visa.type)
    }

    func accepts(_ value: String, _ type: Visa.Kind) -> Bool {
        switch type {
        case .researcherStatus, .acceptedTermsAndPolicies: value == Self.registeredAccess
        case .affiliationAndRole: affiliations.contains(value)
        case .controlledAccessGrants: datasets.values.contains { $0.contains(value) }
        case .linkedIdentities: true
        }
    }
}

/// Why a text is no list of trusted issuers, and where.
package struct TrustError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case notYAML = "not-yaml"
        case unknownKey = "unknown-key"
        case missingKey = "missing-key"
        case wrongType = "wrong-type"
        case outOfRange = "out-of-range"
        case duplicate
    }

    package let code: Code
    /// From 1.
    package let line: Int
    /// From 1, in Unicode scalars.
    package let column: Int
    package let publicDescription: String
    package var description: String { "\(line):\(column): \(publicDescription)" }

    init(_ code: Code, _ value: YAMLValue, _ words: String) {
        self.code = code
        line = value.line
        column = value.column
        publicDescription = words
    }

    init(_ fault: YAMLFault) {
        code = .notYAML
        line = fault.line
        column = fault.column
        publicDescription = fault.message
    }
}

// MARK: - Reading

extension TrustedIssuers {
    package init(parsing bytes: [UInt8]) throws(TrustError) {
        let root: YAMLValue
        do throws(YAMLFault) { root = try YAMLValue(parsing: bytes) } catch { throw TrustError(error) }
        let fields = try Fields(
            root, "the list of issuers", required: ["version", "issuers"], optional: ["datasets", "affiliations"])
        let version = try fields.text("version")
        guard version.text == "1" else { throw TrustError(.outOfRange, version.place, "the version must be 1") }
        var issuers: [String: Issuer] = [:]
        for element in try fields.elements("issuers", 1...Self.issuersMax) {
            let issuer = try Issuer(element)
            guard issuers.updateValue(issuer, forKey: issuer.issuer) == nil else {
                throw TrustError(.duplicate, element, "this issuer is listed twice")
            }
        }
        var datasets: [String: Set<String>] = [:]
        if let map = fields.values["datasets"] {
            guard case .mapping(let pairs) = map.content, pairs.count <= 1000 else {
                throw TrustError(.wrongType, map, "'datasets' says, for at most 1000 data sets, which visas name them")
            }
            for (key, value) in pairs {
                guard case .scalar(let name, _) = key.content, (try? DatasetID(name)) != nil else {
                    throw TrustError(.wrongType, key, "this is not the id of a data set")
                }
                datasets[name] = Set(try value.texts("values of visas", 1...64, isURL: true))
            }
        }
        self.issuers = issuers
        self.datasets = datasets
        affiliations = Set(
            try fields.values["affiliations"]?.texts("affiliations", 1...256, isURL: false) ?? [])
    }
}

extension TrustedIssuers.Issuer {
    fileprivate init(_ value: YAMLValue) throws(TrustError) {
        let fields = try Fields(
            value, "an issuer", required: ["issuer", "types", "sources"], optional: ["passports", "jwks", "keys"])
        let name = try fields.text("issuer")
        issuer = try name.place.url(name.text)
        switch try fields.values["passports"].map({ (place) throws(TrustError) in try place.plain() }) {
        case nil, "false": signsPassports = false
        case "true": signsPassports = true
        default: throw TrustError(.wrongType, fields.values["passports"] ?? value, "'passports' is true or false")
        }
        let address = fields.values["jwks"]
        jwks = try address.map { (place) throws(TrustError) in try place.url(place.plain()) }
        if fields.values["keys"] == nil, address == nil {
            throw TrustError(.missingKey, value, "an issuer needs 'jwks', the address of its keys, or 'keys'")
        }
        if fields.values["keys"] == nil {
            keys = nil
        } else {
            var keys: [IssuerKey] = []
            for element in try fields.elements("keys", 1...IssuerKey.countMax) {
                let key = try IssuerKey(element)
                guard !keys.contains(where: { $0.id == key.id }) else {
                    throw TrustError(.duplicate, element, "two keys have the same kid")
                }
                keys.append(key)
            }
            self.keys = keys
        }
        let types = try fields.values["types"]?.texts("types", 1...Visa.Kind.allCases.count, isURL: false) ?? []
        for type in types where Visa.Kind(rawValue: type) == nil {
            let hint = nearest(type, among: Visa.Kind.allCases.map(\.rawValue))
            throw TrustError(
                .outOfRange, fields.values["types"] ?? value,
                "there is no visa type '\(shown(type))'" + (hint.map { "; did you mean \($0)?" } ?? ""))
        }
        self.types = Set(types)
        sources = Set(try fields.values["sources"]?.texts("sources", 1...256, isURL: true) ?? [])
    }
}

extension IssuerKey {
    fileprivate init(_ value: YAMLValue) throws(TrustError) {
        let fields = try Fields(
            value, "a key", required: ["kid", "kty"], optional: ["alg", "use", "crv", "x", "y", "n", "e"])
        var members: [String: JSON] = [:]
        for (name, place) in fields.values { members[name] = .string(try place.plain()) }
        do throws(VisaRefusal) { self = try IssuerKey(jwk: .object(members)) } catch {
            throw TrustError(.outOfRange, value, "this is not a public key for ES256 (EC, P-256) or RS256 (RSA)")
        }
    }
}

/// The members of one mapping, by name.
private struct Fields {
    let values: [String: YAMLValue]
    private let place: YAMLValue

    init(
        _ value: YAMLValue, _ what: String, required: [String], optional: [String]
    ) throws(TrustError) {
        guard case .mapping(let pairs) = value.content else {
            throw TrustError(.wrongType, value, "\(what) is a mapping of keys to values")
        }
        var values: [String: YAMLValue] = [:]
        for (key, member) in pairs {
            guard case .scalar(let name, _) = key.content, (required + optional).contains(name) else {
                let name = if case .scalar(let name, _) = key.content { name } else { "" }
                throw TrustError(
                    .unknownKey, key,
                    "\(what) has no key '\(shown(name))'" + suggestion(for: name, among: required + optional))
            }
            values[name] = member
        }
        for name in required where values[name] == nil {
            throw TrustError(.missingKey, value, "\(what) needs '\(name)'")
        }
        self.values = values
        place = value
    }

    func text(_ name: String) throws(TrustError) -> (text: String, place: YAMLValue) {
        guard let value = values[name] else { throw TrustError(.missingKey, place, "'\(name)' is missing") }
        return (try value.plain(), value)
    }

    func elements(_ name: String, _ count: ClosedRange<Int>) throws(TrustError) -> [YAMLValue] {
        guard let value = values[name] else { return [] }
        guard case .sequence(let elements) = value.content, count.contains(elements.count) else {
            throw TrustError(
                .wrongType, value, "'\(name)' is a list of \(count.lowerBound) to \(count.upperBound)")
        }
        return elements
    }
}

extension YAMLValue {
    fileprivate func plain() throws(TrustError) -> String {
        guard case .scalar(let text, _) = content else { throw TrustError(.wrongType, self, "this is one value") }
        guard (1...1400).contains(text.utf8.count), text.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw TrustError(.outOfRange, self, "this is 1 to 1400 visible ASCII characters without spaces")
        }
        return text
    }

    fileprivate func url(_ text: String) throws(TrustError) -> String {
        guard isSafeURL(text) else {
            throw TrustError(
                .outOfRange, self,
                "this is an https address of at most \(TrustedIssuers.urlBytesMax) characters, without a user or fragment"
            )
        }
        return text
    }

    fileprivate func texts(
        _ what: String, _ count: ClosedRange<Int>, isURL: Bool
    ) throws(TrustError) -> [String] {
        guard case .sequence(let elements) = content, count.contains(elements.count) else {
            throw TrustError(.wrongType, self, "\(what) are a list of \(count.lowerBound) to \(count.upperBound)")
        }
        var texts: [String] = []
        for element in elements {
            let text = isURL ? try element.url(element.plain()) : try element.plain()
            guard !texts.contains(text) else { throw TrustError(.duplicate, element, "this is listed twice") }
            texts.append(text)
        }
        return texts
    }
}

/// An https address as a plain string: never resolved, normalised or compared but byte by byte.
func isSafeURL(_ text: String) -> Bool {
    let bytes = text.utf8
    guard text.hasPrefix("https://"), bytes.count <= TrustedIssuers.urlBytesMax,
        bytes.allSatisfy({ (0x21...0x7E).contains($0) && $0 != UInt8(ascii: "#") && $0 != UInt8(ascii: "\\") })
    else { return false }
    let authority = bytes.dropFirst(8).prefix { $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "?") }
    return !authority.isEmpty && !authority.contains(UInt8(ascii: "@"))
}
