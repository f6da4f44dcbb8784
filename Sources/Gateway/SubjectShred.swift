import AuditTrail
import Sealing
package import Vocabulary

/// How far making a person's sections unreadable has come.
package enum ShredProgress: String, Sendable {
    /// One person has asked; another must agree.
    case waiting
    case done
}

extension Gateway {
    /// A person's name in the trail: a keyed hash, the same in every record and nothing to whoever lacks the key.
    func pseudonym(of subject: SubjectID) -> Digest {
        Digest(KeyDerivation.hmac(pseudonymKey, Array(subject.text.utf8)))!
    }

    /// What a record says about a person, under that person's own key.
    func section(about subject: SubjectID, _ content: JSON) -> SubjectSection {
        SubjectSection(pseudonym: pseudonym(of: subject), content: content)
    }

    /// Makes unreadable, to everyone and in every copy, what the trail says about a person under that person's key. It
    /// takes two: the first call asks, the same call by somebody else agrees and does it. Both are recorded.
    package func shredSubject(_ subject: String, by actor: PersonID) throws -> ShredProgress {
        try require(actor, anyOf: [.complianceOfficer, .dataCustodian])
        let pseudonym = pseudonym(of: try SubjectID(subject))
        let own = ledger.file(.gateway).records.filter {
            ($0.event == .subjectShredRequested || $0.event == .subjectShredded)
                && $0.detail["subject"]?.stringValue == pseudonym.hex
        }
        let event = { (name: AuditEvent, outcome: AuditOutcome) in
            Event(name, outcome).with {
                $0.actor = actor
                $0.detail = ["subject": .string(pseudonym.hex)]
            }
        }
        // What was asked long ago is asked again: who asked may think otherwise by now.
        let limit = clock.now().adding(seconds: -Self.shredRequestSeconds)
        let open = own.last.flatMap { last in
            last.event == .subjectShredded && last.outcome == .done
                ? nil : own.last { $0.event == .subjectShredRequested && $0.time >= limit }
        }
        guard let open else {
            guard trail.subjects.holdsKey(of: pseudonym) else {
                throw GatewayError(
                    .notFound, "the trail holds no key of this person; there is nothing to make unreadable")
            }
            try ledger.record(
                event(.subjectShredRequested, .done), in: .gateway, key: ledger.freshKey("shred-request"))
            return .waiting
        }
        guard open.actor != actor else {
            throw GatewayError(.refused, "it takes two: somebody else must agree to what you asked for")
        }
        try ledger.record(event(.subjectShredded, .intent), in: .gateway, key: ledger.freshKey("shred"))
        do throws(TrailError) {
            try trail.subjects.shred(pseudonym)
        } catch  where error.code == .notFound {
            // A crash came between the deed and its record.
        } catch {
            throw GatewayError(trail: error)
        }
        try ledger.record(event(.subjectShredded, .done), in: .gateway, key: ledger.freshKey("shred"))
        return .done
    }

    private static let shredRequestSeconds: Int64 = 7 * 86_400

    /// How the trail names a person, for a search in an export. Asking is recorded.
    package func subjectPseudonym(_ subject: String, by actor: PersonID) throws -> Digest {
        try require(actor, anyOf: [.complianceOfficer])
        let pseudonym = pseudonym(of: try SubjectID(subject))
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = actor
                $0.detail = ["read": "subject-pseudonym", "subject": .string(pseudonym.hex)]
            }, in: .gateway, key: ledger.freshKey("read"))
        return pseudonym
    }

    /// What the trail says about a person, as long as it can be read. Reading it is recorded first.
    package func subjectSections(_ subject: String, by actor: PersonID) throws -> [(index: UInt64, content: JSON)] {
        try require(actor, anyOf: [.complianceOfficer])
        let pseudonym = pseudonym(of: try SubjectID(subject))
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = actor
                $0.detail = ["read": "subject-sections", "subject": .string(pseudonym.hex)]
            }, in: .gateway, key: ledger.freshKey("read"))
        return try ledger.records.flatMap { record -> [(UInt64, JSON)] in
            try (record.core["sections"]?.arrayValue ?? []).compactMap { section in
                guard section["subject"]?.stringValue == pseudonym.hex,
                    let content = try trail.section(section, of: record.core, at: record.index)
                else { return nil }
                return (record.index, content)
            }
        }
    }
}
