/// Why the vault refused or failed. Says where in the input; never what stood there, and never a path.
package struct VaultError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable, CaseIterable {
        // What is wrong with a file that is being imported.
        case unreadable, notUTF8 = "not-utf8", controlCharacter = "control-character", lineTooLong = "line-too-long"
        case unfinishedLine = "unfinished-line", badHeader = "bad-header", missingColumn = "missing-column"
        case raggedRow = "ragged-row", emptyField = "empty-field", badIdentifier = "bad-identifier"
        case duplicateNode = "duplicate-node", unknownNode = "unknown-node", tooMany = "too-many"
        case badLabel = "bad-label", badSplit = "bad-split", badArray = "bad-array", rowsDiffer = "rows-differ"
        case notFinite = "not-finite", badConsent = "bad-consent", duplicateSubject = "duplicate-subject"
        // What the vault does not have, or has already.
        case unknownDataset = "unknown-dataset", unknownVersion = "unknown-version"
        case unknownSubject = "unknown-subject", unknownColumn = "unknown-column"
        case unknownPredicate = "unknown-predicate", unknownRun = "unknown-run"
        case unknownCandidate = "unknown-candidate", exists, destroyed, inUse = "in-use", notAVault = "not-a-vault"
        // What must not happen.
        case wrongKey = "wrong-key", tampered, truncated, receiptRefused = "receipt-refused"
        case emptyCohort = "empty-cohort", noFeatures = "no-features", noEdges = "no-edges", noLabels = "no-labels"
        case badArtefact = "bad-artefact"
        case storage, cancelled
    }

    /// Which of the files that make a version.
    package enum Source: String, Sendable {
        case nodes, edges, consent, features
        case featureRows = "feature row pointers"
        case featureColumns = "feature columns"
        case featureValues = "feature values"
    }

    /// Counted from 1.
    package enum Place: Equatable, Sendable {
        case line(Int, column: Int)
        case row(Int, column: Int)
        case byte(Int)
        case whole
    }

    package let code: Code
    package let source: Source?
    package let place: Place
    package let publicDescription: String

    init(_ code: Code, _ reason: String) {
        self.code = code
        source = nil
        place = .whole
        publicDescription = reason
    }

    init(_ code: Code, in source: Source, at place: Place, _ reason: String) {
        self.code = code
        self.source = source
        self.place = place
        let position =
            switch place {
            case .line(let line, let column): ", line \(line), column \(column)"
            case .row(let row, let column): ", row \(row), column \(column)"
            case .byte(let offset): ", byte \(offset)"
            case .whole: ""
            }
        publicDescription = "\(source.rawValue)\(position): \(reason)"
    }

    package var description: String { "\(code.rawValue): \(publicDescription)" }
}
