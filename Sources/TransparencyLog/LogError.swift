/// Why something of a transparency log is not believed.
package struct LogError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// The bytes do not have the form they must have.
        case malformed
        /// A signature is missing or does not fit.
        case unsigned
        /// Signed by the log, but not cosigned by the witnesses that the reader requires.
        case unwitnessed
        /// Signed, but for another log.
        case wrongOrigin
        /// A proof does not lead to the signed root.
        case wrongProof
        /// An entry's bytes, key or core do not fit its hash or commitment.
        case wrongEntry
        /// Entries are missing, doubled or out of order.
        case incomplete
        /// An entry is older than those before it.
        case wrongTime
    }

    package let code: Code
    /// Names the place, never the content.
    package let publicDescription: String

    package init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    package var description: String { "\(code.rawValue): \(publicDescription)" }
}
