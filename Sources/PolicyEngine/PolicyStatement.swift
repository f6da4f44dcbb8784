package import Vocabulary

/// What people sign when they make policies theirs: this bundle of files, as the next after that one.
///
/// A signature is Ed25519 over `signedBytes`. The number and the previous bundle keep an old signature from being shown
/// again; the trail's name keeps it from another enclave.
package struct PolicyStatement: Sendable, Equatable {
    /// The enclave's trail.
    package let trail: String
    /// From 1, one more for each that was proposed.
    package let number: Int
    /// The bundle's hash: SHA-256 of its canonical manifest of file hashes.
    package let bundle: Digest
    /// The bundle in force when it was proposed; it can replace no other.
    package let previous: Digest?
    /// Whether it is not proven narrower than the previous one.
    package let widens: Bool
    /// The earlier statement whose files these are, for a rollback.
    package let returnsTo: Int?

    package init(trail: String, number: Int, bundle: Digest, previous: Digest?, widens: Bool, returnsTo: Int?) {
        self.trail = trail
        self.number = number
        self.bundle = bundle
        self.previous = previous
        self.widens = widens
        self.returnsTo = returnsTo
    }

    /// How many different people must sign. A first bundle has nothing that it could widen.
    package var signaturesNeeded: Int { widens && previous != nil ? 3 : 2 }

    package var json: JSON {
        var members: [String: JSON] = [
            "format": .string(Self.format), "trail": .string(trail), "number": .integer(Int64(number)),
            "bundle": .string(bundle.hex), "widens": .bool(widens),
        ]
        if let previous { members["previous"] = .string(previous.hex) }
        if let returnsTo { members["returns_to"] = .integer(Int64(returnsTo)) }
        return .object(members)
    }

    /// Reads what `json` writes; `nil` for anything else.
    package init?(json: JSON) {
        guard let members = json.objectValue, members["format"]?.stringValue == Self.format,
            let trail = members["trail"]?.stringValue, let number = members["number"]?.integerValue, number > 0,
            let bundle = members["bundle"]?.stringValue.flatMap(Digest.init(hex:)),
            let widens = members["widens"]?.boolValue
        else { return nil }
        let previous = members["previous"]?.stringValue.flatMap(Digest.init(hex:))
        let returnsTo = members["returns_to"]?.integerValue.map(Int.init)
        self.init(
            trail: trail, number: Int(number), bundle: bundle, previous: previous, widens: widens, returnsTo: returnsTo)
        // Whatever else stands in it, or reads in another way, is not what was written here.
        guard self.json == json else { return nil }
    }

    /// The statement's own name first, so that no signature over anything else can be one of these.
    package var signedBytes: [UInt8] { Array("sekisho policy signature v1\n".utf8) + json.canonical }

    private static let format = "sekisho policy statement v1"
}
