import FoundationEssentials
import GRDB
import Sealing
package import Vocabulary

/// The part of a version that may be used: rows about nobody, and rows of subjects whose consent permits it.
package struct Cohort: Sendable, Equatable {
    package let dataset: DatasetID
    package let version: VersionID
    /// The version's root, so that the cohort cannot be taken for one of other data.
    package let root: Digest
    /// People in it.
    package let subjects: Int
    /// People of the version who are not in it.
    package let subjectsExcluded: Int
    /// Rows in it, people's and others.
    package let nodes: Int
    /// SHA-256 over the root and the sorted pseudonyms of the people in it. A pseudonym is an HMAC of the subject's id
    /// under a key that never leaves the vault, so the hash can be recorded without telling who they are.
    package let hash: Digest

    /// Whether each row of the version is in it.
    let isIn: [Bool]
    /// The sorted pseudonyms, 32 bytes each, back to back.
    let members: [UInt8]
}

extension GraphVault {
    /// Whoever's consent is given and passes `permits`; a withdrawn or missing consent never does.
    package func cohort(
        _ dataset: DatasetID, _ version: VersionID, permits: @Sendable (Consent) -> Bool = { _ in true }
    ) throws -> Cohort {
        try cohort(stored(dataset, version), permits: permits)
    }

    func cohort(_ version: borrowing StoredVersion, permits: (Consent) -> Bool) throws -> Cohort {
        let dataset = version.manifest.dataset
        let register = ConsentRegister(dataset: dataset, datasetKey: try datasetKey(dataset))
        let subjects = try version.subjects()
        let subjectOfRow = try version.all(.subjectOfRow, of: UInt32.self)
        var pseudonyms: [[UInt8]] = []
        var isPermitted: [Bool] = []
        try catalogue.read { database in
            for subject in subjects {
                let pseudonym = register.pseudonym(of: subject.text)
                let consent = try register.consent(of: pseudonym, in: database)
                let permitted = consent.map { $0.state == .given && permits($0) } ?? false
                isPermitted.append(permitted)
                if permitted { pseudonyms.append(pseudonym) }
            }
        }
        let isIn = try subjectOfRow.map { number in
            guard number != NodeFile.noSubject else { return true }
            guard number < isPermitted.count else { throw VaultError(.tampered, "a row has an unknown subject") }
            return isPermitted[Int(number)]
        }
        pseudonyms.sort { $0.lexicographicallyPrecedes($1) }
        let members = Array(pseudonyms.joined())
        var hash = SHA256Stream()
        hash.update("sekisho cohort v1")
        hash.update(version.manifest.root)
        hash.update(members)
        return Cohort(
            dataset: dataset, version: version.manifest.version, root: version.manifest.root,
            subjects: pseudonyms.count, subjectsExcluded: subjects.count - pseudonyms.count,
            nodes: isIn.count { $0 }, hash: hash.finalize(), isIn: isIn, members: members)
    }

    // MARK: - Consent

    /// Records what a subject says now. It holds from the next run image on.
    package func setConsent(_ consent: Consent, of subject: SubjectID, in dataset: DatasetID) throws {
        guard consent.codes.count <= ConsentFile.codesMax, consent.codes.allSatisfy(ConsentFile.isDataUseCode) else {
            throw VaultError(.badConsent, "codes are of the form DUO:0000007, at most \(ConsentFile.codesMax)")
        }
        let register = ConsentRegister(dataset: dataset, datasetKey: try datasetKey(dataset))
        let pseudonym = register.pseudonym(of: subject.text)
        try catalogue.write { database in
            guard try register.consent(of: pseudonym, in: database) != nil else {
                throw VaultError(.unknownSubject, "the data set has no such subject")
            }
            try register.store(consent, for: pseudonym, in: database)
        }
    }

    package func consent(of subject: SubjectID, in dataset: DatasetID) throws -> Consent {
        let register = ConsentRegister(dataset: dataset, datasetKey: try datasetKey(dataset))
        let consent = try catalogue.read { try register.consent(of: register.pseudonym(of: subject.text), in: $0) }
        guard let consent else { throw VaultError(.unknownSubject, "the data set has no such subject") }
        return consent
    }

    /// SHA-256 over all consents of a data set. Recorded in the trail with each change, it shows an older catalogue that
    /// is put back to make a withdrawal undone.
    package func consentHash(of dataset: DatasetID) throws -> Digest {
        let register = ConsentRegister(dataset: dataset, datasetKey: try datasetKey(dataset))
        return try catalogue.read { try register.hash(in: $0) }
    }

    /// The runs whose image held a subject's rows, also after the images are destroyed.
    package func runs(using subject: SubjectID, of dataset: DatasetID) throws -> [RunID] {
        let register = ConsentRegister(dataset: dataset, datasetKey: try datasetKey(dataset))
        let pseudonym = register.pseudonym(of: subject.text)
        return try catalogue.read { database in
            var runs: [RunID] = []
            let rows = try Row.fetchCursor(
                database, sql: "SELECT id, members FROM run WHERE dataset = ? ORDER BY id", arguments: [dataset.text])
            while let row = try rows.next() {
                let run = try RunID(row["id"])
                let members = try register.openMembers(row["members"], of: run)
                if Self.contains(members, pseudonym) { runs.append(run) }
            }
            return runs
        }
    }

    private static func contains(_ members: [UInt8], _ pseudonym: [UInt8]) -> Bool {
        let width = pseudonym.count
        var (low, high) = (0, members.count / width)
        while low < high {
            let middle = (low + high) / 2
            if members[middle * width..<(middle + 1) * width].lexicographicallyPrecedes(pseudonym) {
                low = middle + 1
            } else {
                high = middle
            }
        }
        return low * width < members.count && members[low * width..<(low + 1) * width].elementsEqual(pseudonym)
    }
}

/// The consents of one data set in the catalogue: rows under pseudonyms, sealed, all of one length class.
struct ConsentRegister: ~Copyable {
    private static let rowBytesMultiple = 64

    private let dataset: DatasetID
    private let pseudonymKey: SecretBytes
    private let rowKey: SecretBytes

    init(dataset: DatasetID, datasetKey: borrowing SecretBytes) {
        self.dataset = dataset
        pseudonymKey = KeyDerivation.hkdf(datasetKey, info: "sekisho subject pseudonym v1")
        rowKey = KeyDerivation.hkdf(datasetKey, info: "sekisho subject rows v1")
    }

    func pseudonym(of subject: String) -> [UInt8] { KeyDerivation.hmac(pseudonymKey, Array(subject.utf8)) }

    /// `nil` for who is not a subject of the data set.
    func consent(of pseudonym: [UInt8], in database: Database) throws -> Consent? {
        let sealed = try Data.fetchOne(
            database.cachedStatement(sql: "SELECT sealed FROM consent WHERE dataset = ? AND pseudonym = ?"),
            arguments: [dataset.text, Data(pseudonym)])
        guard let sealed else { return nil }
        let row = try KeyPurpose.consent(pseudonym: pseudonym).open(Array(sealed), under: rowKey)
        guard let first = row.first, let state = Consent.State(rawValue: first) else {
            throw VaultError(.tampered, "a consent row is not readable")
        }
        let codes = String(decoding: row.dropFirst(), as: UTF8.self).split(separator: " ").map(String.init)
        return Consent(state: state, codes: codes)
    }

    func store(_ consent: Consent, for pseudonym: [UInt8], in database: Database) throws {
        var row = [consent.state.rawValue] + Array(consent.codes.joined(separator: " ").utf8)
        // A withdrawal must not be told from a consent by its length.
        while !row.count.isMultiple(of: Self.rowBytesMultiple) { row.append(UInt8(ascii: " ")) }
        let sealed = KeyPurpose.consent(pseudonym: pseudonym).seal(row, under: rowKey)
        try database.cachedStatement(
            sql: "INSERT OR REPLACE INTO consent (dataset, pseudonym, sealed) VALUES (?, ?, ?)"
        ).execute(arguments: [dataset.text, Data(pseudonym), Data(sealed)])
    }

    func hash(in database: Database) throws -> Digest {
        var hash = SHA256Stream()
        hash.update("sekisho consents v1")
        let rows = try Row.fetchCursor(
            database, sql: "SELECT pseudonym, sealed FROM consent WHERE dataset = ? ORDER BY pseudonym",
            arguments: [dataset.text])
        while let row = try rows.next() {
            let (pseudonym, sealed): (Data, Data) = (row["pseudonym"], row["sealed"])
            let content = try KeyPurpose.consent(pseudonym: Array(pseudonym)).open(Array(sealed), under: rowKey)
            hash.update(Array(pseudonym))
            hash.update(SHA256.hash(content))
        }
        return hash.finalize()
    }

    func sealMembers(_ members: [UInt8], of run: RunID) -> [UInt8] {
        KeyPurpose.members(run).seal(members, under: rowKey)
    }

    func openMembers(_ sealed: Data, of run: RunID) throws -> [UInt8] {
        try KeyPurpose.members(run).open(Array(sealed), under: rowKey)
    }
}
