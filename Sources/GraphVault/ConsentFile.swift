import Vocabulary

/// What a subject has said about the use of their data in one data set.
package struct Consent: Sendable, Equatable {
    package enum State: UInt8, Sendable, CaseIterable {
        /// Nothing is recorded: treated like a withdrawal.
        case unrecorded = 0
        case given = 1
        case withdrawn = 2
    }

    package let state: State
    /// Uses allowed by this subject, as Data Use Ontology codes; empty where the data set's own codes alone hold.
    package let codes: [String]

    package init(state: State, codes: [String] = []) {
        self.state = state
        self.codes = codes
    }
}

/// A table of `subject`, `state` (`given` or `withdrawn`) and, if wanted, `codes` (`DUO:0000007 DUO:0000019`).
///
/// Other columns, such as a note on where a record comes from, are not kept.
struct ConsentFile {
    static let codesMax = 32

    /// By subject number; `nil` where the file is silent.
    private(set) var consents: [Consent?]

    /// Reads the consents of the people in `nodes`. A node that only this file names becomes a person by it.
    init(_ file: ImportFile, nodes: inout NodeFile) throws(VaultError) {
        consents = Array(repeating: nil, count: nodes.subjects.count)
        var table = try TableReader(file, source: .consent)
        let subject = try table.requiredColumn("subject")
        let state = try table.requiredColumn("state")
        let codes = table.column("codes")
        while try table.next() {
            let number = try Self.subjectNumber(table, subject, in: &nodes)
            while consents.count <= number { consents.append(nil) }
            guard consents[number] == nil else {
                throw table.error(.duplicateSubject, subject, "this subject stands in an earlier line too")
            }
            let word: Consent.State
            switch table.text(state) {
            case "given": word = .given
            case "withdrawn": word = .withdrawn
            default: throw table.error(.badConsent, state, "a state is given or withdrawn")
            }
            consents[number] = Consent(
                state: word, codes: try codes.map { column throws(VaultError) in try Self.codes(table, column) } ?? [])
        }
    }

    private static func subjectNumber(
        _ table: borrowing TableReader, _ column: Int, in nodes: inout NodeFile
    ) throws(VaultError) -> Int {
        let id = try table.filledField(column)
        if let number = nodes.subjects.number(of: id) { return number }
        guard let row = nodes.ids.number(of: id) else {
            throw table.error(.unknownSubject, column, "this subject is not in the data")
        }
        guard nodes.subjectOfRow[row] == NodeFile.noSubject else {
            throw table.error(.badConsent, column, "this node belongs to another subject")
        }
        try NodeFile.checkSubject(table, column)
        let number = nodes.subjects.insert(id).number
        nodes.subjectOfRow[row] = UInt32(number)
        return number
    }

    private static func codes(_ table: borrowing TableReader, _ column: Int) throws(VaultError) -> [String] {
        var codes: [String] = []
        for code in table.text(column).split(separator: " ", omittingEmptySubsequences: true).map(String.init) {
            guard isDataUseCode(code) else {
                throw table.error(.badConsent, column, "codes are of the form DUO:0000007, separated by spaces")
            }
            guard !codes.contains(code), codes.count < codesMax else {
                throw table.error(.badConsent, column, "a code occurs twice, or there are more than \(codesMax)")
            }
            codes.append(code)
        }
        return codes
    }

    static func isDataUseCode(_ code: String) -> Bool {
        code.utf8.count == 11 && code.hasPrefix("DUO:") && code.utf8.dropFirst(4).allSatisfy { 0x30...0x39 ~= $0 }
    }
}
