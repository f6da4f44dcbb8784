import Sealing
import Vocabulary

/// What somebody was typing when the session ended, sealed into a hidden field of the sign-in page: it lies with the
/// reader, not here, so nobody can fill our memory with it.
final class KeptForms: Sendable {
    /// A form that waited.
    struct Kept: Equatable {
        let path: String
        let form: Form
        /// Whose session had ended; `nil` where that is not known any more.
        let person: PersonID?
    }

    static let bytesMax = 96 << 10
    private static let secondsMax: Int64 = 3600
    private static let aad = Array("sekisho kept form v1".utf8)
    private let key: SecretBytes
    private let clock: any WallClock

    init(key: consuming SecretBytes, clock: any WallClock) {
        self.key = key
        self.clock = clock
    }

    func seal(_ form: Form, path: String, person: PersonID?) -> String {
        let json: JSON = [
            "path": .string(path), "form": .string(form.encoded), "person": .string(person?.text ?? ""),
            "time": .integer(clock.now().milliseconds),
        ]
        let nonce = RandomBytes.array(SmallCipher.nonceBytes)
        return Hex.encode(nonce + SmallCipher.seal(json.canonical, key: key, nonce: nonce, aad: Self.aad))
    }

    /// - Returns: `nil` for what is not ours, or older than an hour.
    func open(_ text: String) -> Kept? {
        guard text.utf8.count <= 8 * Self.bytesMax, let sealed = Hex.decode(text),
            sealed.count > SmallCipher.nonceBytes,
            let bytes = try? SmallCipher.open(
                Array(sealed[SmallCipher.nonceBytes...]), key: key, nonce: Array(sealed[..<SmallCipher.nonceBytes]),
                aad: Self.aad),
            let json = try? JSON(parsing: bytes), let path = json["path"]?.stringValue,
            let form = (json["form"]?.stringValue).flatMap({ Form(parsing: Array($0.utf8)) }),
            let time = json["time"]?.integerValue, let person = json["person"]?.stringValue,
            clock.now().milliseconds - time <= Self.secondsMax * 1000
        else { return nil }
        return Kept(path: path, form: form, person: try? PersonID(person))
    }
}
