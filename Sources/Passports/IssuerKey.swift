import FoundationEssentials
import JWTKit
import Vocabulary

/// A public key of an issuer, for one algorithm.
struct IssuerKey: Sendable, Equatable {
    enum Algorithm: String, Sendable { case es256 = "ES256", rs256 = "RS256" }

    static let countMax = 64
    private static let rsaBytes = 256...1024

    let id: String
    let algorithm: Algorithm
    /// EC: x and y; RSA: modulus and exponent; base64url.
    private let first: String
    private let second: String

    init(jwk: JSON) throws(VisaRefusal) {
        func text(_ name: String) -> String? { jwk[name]?.stringValue }
        guard let id = text("kid"), (1...255).contains(id.utf8.count), text("use") ?? "sig" == "sig" else {
            throw .malformed
        }
        switch text("kty") {
        case "EC":
            guard text("crv") == "P-256", text("alg") ?? "ES256" == "ES256", let x = text("x"), let y = text("y"),
                Base64URL.decode(x)?.count == 32, Base64URL.decode(y)?.count == 32
            else { throw .malformed }
            (algorithm, first, second) = (.es256, x, y)
        case "RSA":
            guard text("alg") ?? "RS256" == "RS256", let n = text("n"), let e = text("e"),
                let modulus = Base64URL.decode(n), Self.rsaBytes.contains(modulus.count), modulus[0] != 0,
                let exponent = Base64URL.decode(e), (1...4).contains(exponent.count),
                exponent.last.map({ $0 & 1 == 1 }) ?? false, exponent != [1]
            else { throw .malformed }
            (algorithm, first, second) = (.rs256, n, e)
        default: throw .malformed
        }
        self.id = id
    }

    /// The keys of a set that can be used here. Others are no fault: a set may hold keys for encryption.
    static func set(parsing bytes: [UInt8]) throws(VisaRefusal) -> [IssuerKey] {
        guard bytes.count <= PassportCheck.keySetBytesMax, let json = try? JSON(parsing: bytes),
            let elements = json["keys"]?.arrayValue, elements.count <= countMax
        else { throw .keysUnreachable }
        var keys: [IssuerKey] = []
        for element in elements {
            guard let key = try? IssuerKey(jwk: element) else { continue }
            // Of two keys with one name nobody can say which is meant.
            guard !keys.contains(where: { $0.id == key.id }) else { throw .keysUnreachable }
            keys.append(key)
        }
        return keys
    }

    /// Whether this key, and no other, made a token's signature. The collection holds nothing else, so there is no
    /// key that it could fall back to.
    func verifies(_ token: [UInt8]) async -> Bool {
        let keys = JWTKeyCollection()
        do {
            switch algorithm {
            case .es256: await keys.add(ecdsa: try ES256PublicKey(parameters: (x: first, y: second)))
            case .rs256:
                await keys.add(
                    rsa: try Insecure.RSA.PublicKey(modulus: first, exponent: second), digestAlgorithm: .sha256)
            }
            _ = try await keys.verify(token, as: AnyClaims.self)
            return true
        } catch { return false }
    }
}

/// What jwt-kit reads of a token: nothing. The claims are read here, strictly, once the signature is known to be good.
private struct AnyClaims: JWTPayload {
    init(from decoder: any Decoder) {}
    func encode(to encoder: any Encoder) {}
    func verify(using algorithm: some JWTAlgorithm) {}
}

/// Base64url without padding (RFC 7515), strict: one text for each sequence of bytes.
enum Base64URL {
    static func decode(_ text: some StringProtocol) -> [UInt8]? {
        let length = text.utf8.count
        guard length % 4 != 1 else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(length * 3 / 4)
        var word: UInt32 = 0
        var bits: UInt32 = 0
        for digit in text.utf8 {
            let value: UInt8
            switch digit {
            case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = digit - UInt8(ascii: "A")
            case UInt8(ascii: "a")...UInt8(ascii: "z"): value = digit - UInt8(ascii: "a") + 26
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = digit - UInt8(ascii: "0") + 52
            case UInt8(ascii: "-"): value = 62
            case UInt8(ascii: "_"): value = 63
            default: return nil
            }
            word = word << 6 | UInt32(value)
            bits += 6
            if bits >= 8 {
                bits -= 8
                bytes.append(UInt8(truncatingIfNeeded: word >> bits))
                word &= 1 << bits - 1
            }
        }
        return word == 0 ? bytes : nil
    }
}
