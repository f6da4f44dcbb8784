import FoundationEssentials
import GRDB
import Sealing
package import TransparencyLog
package import Vocabulary

/// What a run has made and asks to let out: it waits here, sealed, for its checks and reviewers.
package struct Candidate: Sendable {
    package static let artefactsMax = 64
    package static let bytesMax = 1 << 30

    package struct Artefact: Sendable, Equatable {
        package let name: String
        package let byteCount: Int
        package let hash: Digest
    }

    package let run: RunID
    package let artefacts: [Artefact]
    /// SHA-256 of its canonical manifest, which a random salt keeps from being guessed from small artefacts.
    package let hash: Digest

    fileprivate let salt: [UInt8]
    fileprivate let sections: [SealedSection]

    fileprivate init(run: RunID, artefacts: [Artefact], salt: [UInt8], sections: [SealedSection]) {
        self.run = run
        self.artefacts = artefacts
        self.salt = salt
        self.sections = sections
        hash = SHA256.hash(Self.manifest(run, artefacts, salt).canonical)
    }

    private static func manifest(_ run: RunID, _ artefacts: [Artefact], _ salt: [UInt8]) -> JSON {
        [
            "format": "sekisho-candidate-1", "run": .string(run.text), "salt": .string(Hex.encode(salt)),
            "artefacts": .array(
                artefacts.map {
                    [
                        "name": .string($0.name), "bytes": .integer(Int64($0.byteCount)),
                        "sha256": .string($0.hash.hex),
                    ]
                }),
        ]
    }
}

extension GraphVault {
    /// Seals what a run has made. The same artefacts again give the same candidate; others are refused.
    ///
    /// Names are identifiers (letters, digits, `.`, `_`, `-`, `:`), each once.
    package func storeCandidate(run: RunID, artefacts: [(name: String, bytes: [UInt8])]) throws -> Candidate {
        let named = try artefacts.map { artefact in
            guard (try? Identifier<Candidate>(artefact.name)) != nil else {
                throw VaultError(.badArtefact, "an artefact's name is not an identifier")
            }
            return Candidate.Artefact(
                name: artefact.name, byteCount: artefact.bytes.count, hash: SHA256.hash(artefact.bytes))
        }
        guard (1...Candidate.artefactsMax).contains(named.count), Set(named.map(\.name)).count == named.count,
            artefacts.reduce(0, { $0 + $1.bytes.count }) <= Candidate.bytesMax
        else {
            throw VaultError(
                .badArtefact,
                "a candidate has 1 to \(Candidate.artefactsMax) artefacts with names of their own, in all up to \(Candidate.bytesMax) bytes"
            )
        }
        if let before = try storedCandidate(run) {
            guard before.artefacts == named else {
                throw VaultError(.exists, "this run has another candidate already")
            }
            return before
        }

        let key = SecretBytes.random(count: 32)
        let staging = try stagingFolder()
        do {
            var sections: [SealedSection] = []
            for (index, artefact) in artefacts.enumerated() {
                var writer = try SectionWriter(
                    folder: staging, number: UInt32(index + 1), owner: .candidate(of: run), key: key)
                try writer.write(artefact.bytes)
                sections.append(try writer.finish())
            }
            let candidate = Candidate(run: run, artefacts: named, salt: RandomBytes.array(16), sections: sections)
            let place = Self.candidateFolder(folder, run)
            if place.exists { try place.remove() }
            try staging.move(to: place)
            let sealed = KeyPurpose.candidateManifest(run).seal(candidate.stored.canonical, under: catalogueKey)
            let wrapped = KeyPurpose.candidate(run).wrap(key, under: catalogueKey)
            try catalogue.write {
                try $0.execute(
                    sql: "INSERT INTO candidate (run, manifest, key) VALUES (?, ?, ?)",
                    arguments: [run.text, Data(sealed), Data(wrapped)])
            }
            return candidate
        } catch {
            if staging.exists { try staging.remove() }
            throw error
        }
    }

    package func candidate(run: RunID) throws -> Candidate {
        guard let candidate = try storedCandidate(run) else {
            throw VaultError(.unknownCandidate, "this run has no candidate")
        }
        return candidate
    }

    /// A candidate's content for the automatic checks and the reviewers, inside the enclave.
    package func candidateContent(run: RunID) throws -> [(name: String, bytes: [UInt8])] {
        try content(of: candidate(run: run))
    }

    /// The bytes that may leave. `receipt` must prove the decision to release exactly this candidate
    /// (`detail.candidate` is its hash).
    package func takeRelease(
        run: RunID, receipt: Receipt, trail: TrailIdentity
    ) throws -> [(name: String, bytes: [UInt8])] {
        let candidate = try candidate(run: run)
        try RecordDemand.released(run, candidate: candidate.hash).check(receipt, by: trail)
        return try content(of: candidate)
    }

    /// Erases a candidate that was refused, or that has been taken and need not be kept.
    package func destroyCandidate(run: RunID) throws {
        try catalogue.write {
            try $0.execute(sql: "UPDATE candidate SET key = NULL WHERE run = ?", arguments: [run.text])
        }
        let place = Self.candidateFolder(folder, run)
        if place.exists { try place.remove() }
    }

    private func content(of candidate: Candidate) throws -> [(name: String, bytes: [UInt8])] {
        let run = candidate.run
        let wrapped = try catalogue.read {
            try Data.fetchOne($0, sql: "SELECT key FROM candidate WHERE run = ?", arguments: [run.text])
        }
        guard let wrapped else { throw VaultError(.destroyed, "the candidate is destroyed") }
        let key = try KeyPurpose.candidate(run).unwrap(Array(wrapped), under: catalogueKey)
        let place = Self.candidateFolder(folder, run)
        return try zip(candidate.artefacts, candidate.sections).map { artefact, section in
            var reader = try SectionReader(
                folder: place, number: section.number, byteCount: section.byteCount, owner: .candidate(of: run),
                key: key)
            let bytes = try reader.readAll(of: UInt8.self)
            guard SHA256.hash(bytes) == artefact.hash else {
                throw VaultError(.tampered, "an artefact is not what was stored")
            }
            return (artefact.name, bytes)
        }
    }

    private func storedCandidate(_ run: RunID) throws -> Candidate? {
        let row = try catalogue.read {
            try Row.fetchOne(
                $0, sql: "SELECT manifest, key IS NULL AS gone FROM candidate WHERE run = ?", arguments: [run.text])
        }
        guard let row else { return nil }
        guard !(row["gone"] as Bool) else { throw VaultError(.destroyed, "the candidate is destroyed") }
        let sealed: Data = row["manifest"]
        let bytes = try KeyPurpose.candidateManifest(run).open(Array(sealed), under: catalogueKey)
        guard let json = try? JSON(parsing: bytes), let candidate = Candidate(stored: json), candidate.run == run else {
            throw VaultError(.tampered, "a candidate's manifest is not readable")
        }
        return candidate
    }
}

extension Candidate {
    /// The manifest with where its artefacts lie.
    fileprivate var stored: JSON {
        ["manifest": Self.manifest(run, artefacts, salt), "sections": .array(sections.map(\.json))]
    }

    fileprivate init?(stored: JSON) {
        guard let manifest = stored["manifest"], manifest["format"] == "sekisho-candidate-1",
            let run = manifest["run"]?.stringValue.flatMap({ try? RunID($0) }),
            let salt = manifest["salt"]?.stringValue.flatMap(Hex.decode),
            let artefacts = manifest["artefacts"]?.arrayValue?.compactMap({ entry -> Artefact? in
                guard let name = entry["name"]?.stringValue, let bytes = entry["bytes"]?.integerValue,
                    let hash = entry["sha256"]?.stringValue.flatMap(Digest.init(hex:))
                else { return nil }
                return Artefact(name: name, byteCount: Int(bytes), hash: hash)
            }),
            let sections = stored["sections"]?.arrayValue?.compactMap(SealedSection.init(json:)),
            sections.count == artefacts.count
        else { return nil }
        self.init(run: run, artefacts: artefacts, salt: salt, sections: sections)
    }
}
