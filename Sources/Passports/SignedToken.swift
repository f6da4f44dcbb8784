import Vocabulary

/// A signed token in its compact form, taken apart and not yet believed.
struct SignedToken {
    let bytes: [UInt8]
    let algorithm: IssuerKey.Algorithm
    let keyID: String
    /// Where it says its issuer's keys are. Only ever compared with the address that is trusted.
    let keysAddress: String?
    let claims: JSON
    let issuer: String
    let subject: String

    /// - Parameter bytesMax: of the whole token.
    init(_ text: String, bytesMax: Int) throws(VisaRefusal) {
        guard text.utf8.count <= bytesMax else { throw .tooLarge }
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 3, let header = Base64URL.decode(parts[0]).flatMap({ try? JSON(parsing: $0) }),
            header.objectValue != nil, let payload = Base64URL.decode(parts[1]), Base64URL.decode(parts[2]) != nil,
            let claims = try? JSON(parsing: payload), claims.objectValue != nil
        else { throw .malformed }
        guard let algorithm = header["alg"]?.stringValue.flatMap(IssuerKey.Algorithm.init) else { throw .algorithm }
        // What must be understood and is not known here cannot be passed over (RFC 7515, 4.1.11).
        guard header["crit"] == nil, header["b64"] == nil else { throw .malformed }
        guard let issuer = Self.name(claims["iss"]), let subject = Self.name(claims["sub"]) else { throw .malformed }
        if let address = header["jku"], address.stringValue == nil { throw .malformed }
        guard let keyID = header["kid"]?.stringValue else { throw .keyUnknown }
        self.algorithm = algorithm
        self.keyID = keyID
        keysAddress = header["jku"]?.stringValue
        bytes = Array(text.utf8)
        self.claims = claims
        self.issuer = issuer
        self.subject = subject
    }

    /// OpenID Connect bounds a subject to 255 ASCII characters; an issuer is an address.
    private static func name(_ json: JSON?) -> String? {
        json?.stringValue.flatMap { text in
            (1...255).contains(text.utf8.count) && text.utf8.allSatisfy({ (0x20...0x7E).contains($0) }) ? text : nil
        }
    }

    var identity: PassportIdentity { PassportIdentity(issuer: issuer, subject: subject) }

    /// The claim's seconds since 1970; refused where they are not a time that can be.
    func seconds(_ json: JSON?) throws(VisaRefusal) -> Timestamp {
        guard let seconds = json?.integerValue, (0...Self.secondsMax).contains(seconds) else { throw .malformed }
        return Timestamp(milliseconds: seconds * 1000)
    }

    /// The year 9999's end.
    private static let secondsMax: Int64 = 253_402_300_799

    /// When it ends; refused where that is over, or where it begins later than `now`.
    func expiry(now: Timestamp) throws(VisaRefusal) -> Timestamp {
        let expires = try seconds(claims["exp"])
        guard now < expires else { throw .expired }
        let latest = now.adding(seconds: PassportCheck.skewSeconds)
        if try seconds(claims["iat"]) > latest { throw .assertedInFuture }
        if claims["nbf"] != nil, try seconds(claims["nbf"]) > latest { throw .assertedInFuture }
        return expires
    }
}
