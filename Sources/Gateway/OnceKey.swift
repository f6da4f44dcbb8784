import Sealing
import Vocabulary

/// A caller's own name for something that must be done once, however often it is asked for: kept in the very record of
/// what was done, so it holds as long as that record.
struct OnceKey {
    let key: String
    private let content: Digest

    static let lengths = 1...128

    init(_ key: String, of content: JSON) throws {
        guard Self.lengths.contains(key.utf8.count), key.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw GatewayError(.usage, "an idempotency key is 1 to 128 visible ASCII characters")
        }
        self.key = key
        self.content = SHA256.hash(content.canonical)
    }

    var json: JSON { ["key": .string(key), "content": .string(content.hex)] }

    /// Whether `record` was written under this key. The same key with other content is refused.
    func isKey(of record: CaseRecord) throws -> Bool {
        guard let once = record.payload["once"], once["key"]?.stringValue == key else { return false }
        guard once["content"]?.stringValue == content.hex else {
            throw GatewayError(.keyReused, "this idempotency key was used for something else; choose a new one")
        }
        return true
    }
}
