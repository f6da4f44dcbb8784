/// A name for one thing of one kind: 1–128 characters of `A–Z a–z 0–9 . _ : -`, starting with a letter or digit.
///
/// Identifiers are chosen by people and programs, never derived from personal data, so they are safe to log.
/// The `Noun` keeps a person from being passed where a run is meant.
package struct Identifier<Noun>: Hashable, Sendable, Comparable, CustomStringConvertible {
    package let text: String

    package init(_ text: String) throws(IdentifierError) {
        let bytes = text.utf8
        guard !bytes.isEmpty else { throw IdentifierError(kind: "\(Noun.self)", reason: .empty) }
        guard bytes.count <= Limits.identifierBytesMax else {
            throw IdentifierError(kind: "\(Noun.self)", reason: .tooLong)
        }
        for (offset, byte) in bytes.enumerated() where !Self.allowed(byte, first: offset == 0) {
            throw IdentifierError(kind: "\(Noun.self)", reason: .character(offset: offset))
        }
        self.text = text
    }

    package var description: String { text }

    package static func < (left: Self, right: Self) -> Bool { left.text < right.text }

    private static func allowed(_ byte: UInt8, first: Bool) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        case UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: ":"), UInt8(ascii: "-"): !first
        default: false
        }
    }
}

extension Identifier: Codable {
    package init(from decoder: any Decoder) throws {
        try self.init(decoder.singleValueContainer().decode(String.self))
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }
}

/// Why a text is not an identifier. Never repeats the text.
package struct IdentifierError: Error, Equatable, CustomStringConvertible {
    package enum Reason: Equatable, Sendable { case empty, tooLong, character(offset: Int) }
    package let kind: String
    package let reason: Reason

    package var description: String {
        switch reason {
        case .empty: "an id of kind \(kind) is empty"
        case .tooLong: "an id of kind \(kind) is longer than \(Limits.identifierBytesMax) bytes"
        case .character(let offset):
            "an id of kind \(kind) has a character that is not allowed at byte \(offset + 1); use letters, digits, . _ : -"
        }
    }
}

package enum Dataset {}
package enum Version {}
package enum Person {}
package enum Subject {}
package enum Request {}
package enum GrantNoun {}
package enum Run {}
package enum Node {}
package enum Lease {}

package typealias DatasetID = Identifier<Dataset>
package typealias VersionID = Identifier<Version>
package typealias PersonID = Identifier<Person>
package typealias SubjectID = Identifier<Subject>
package typealias RequestID = Identifier<Request>
package typealias GrantID = Identifier<GrantNoun>
package typealias RunID = Identifier<Run>
package typealias NodeID = Identifier<Node>
package typealias LeaseID = Identifier<Lease>
