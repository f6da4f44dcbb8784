/// Why something sealed, signed or wrapped could not be made or opened.
package struct SealingError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case tampered, truncated, wrongKey, wrongLength, unavailable, malformed, wrongPassphrase
    }

    package let code: Code
    /// Never holds plaintext, keys or personal data.
    package let publicDescription: String

    package init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    package var description: String { "\(code.rawValue): \(publicDescription)" }
}
