/// Why the trail did not do what was asked. Whoever gets one starts nothing new.
package struct TrailError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// No space for another record; nothing was written.
        case full
        /// A write or sync failed: what is on the disk is not known until the next start.
        case poisoned
        /// Files of the trail were removed or replaced while it is open; a restart finds out what is left.
        case lost
        /// The log has been changed, or a part of it is unreadable.
        case damaged
        /// The log is older than a head that was signed before.
        case rolledBack
        /// The log belongs to another key or name.
        case wrongKey
        /// A record is too long or not well formed.
        case malformed
        /// Another record of the same era came between preparing and appending; prepare again.
        case outOfOrder
        /// The era is not open.
        case eraClosed
        case notFound
        case alreadyExists
        /// Another process has the trail open.
        case busy
        /// The trail was closed by its owner.
        case closed
    }

    package let code: Code
    /// Never holds a path, a key or a record's content.
    package let publicDescription: String

    package init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    package var description: String { "\(code.rawValue): \(publicDescription)" }
}

/// Something that the trail noticed and dealt with when it was opened.
package struct TrailFinding: Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case tornFrameCut, leftoverKeyErased, unusedKeysRemoved, keysMissing, reserveMissing, derivedRebuilt, anchorMade
    }

    package let code: Code
    package let text: String

    package var description: String { "\(code.rawValue): \(text)" }
}
