import AuditTrail
import Sealing
import Vocabulary

/// A record as an HL7 FHIR R4 `AuditEvent`. Decisions follow IHE Basic Audit Log Patterns 1.1, "Consent Authorized
/// Decision" (permit and deny alike); reading the trail is DICOM's "Audit Log Used".
struct FHIRAuditEvent {
    private let record: DocumentRecord
    private let origin: String

    init(_ record: DocumentRecord, origin: String) {
        self.record = record
        self.origin = origin
    }

    /// A bundle of events. Its time and name follow from the export, so that it can be made again.
    static func bundle(_ entries: [JSON], part: Int, _ subject: DocumentSubject) -> JSON {
        let name = SHA256.hash("\(subject.origin)\n\(subject.root.hex)\n\(subject.scope)\n\(part)")
        return [
            "resourceType": "Bundle", "id": .string(uuid(name)), "type": "collection",
            "timestamp": .string(subject.made.description), "entry": .array(entries),
        ]
    }

    /// The event as an entry of a bundle.
    var entry: JSON {
        let id = Self.uuid(record.leafHash)
        return ["fullUrl": .string("urn:uuid:\(id)"), "resource": resource(id)]
    }

    private func resource(_ id: String) -> JSON {
        let kind = Kind(record.event)
        var members: [String: JSON] = [
            "resourceType": "AuditEvent", "id": .string(id), "type": kind.type, "action": .string(kind.action),
            "recorded": .string(record.time.description), "outcome": .string(outcome),
            "outcomeDesc": .string(outcomeWords),
            "source": [
                "site": .string(origin), "observer": Self.named("urn:sekisho:trail", origin),
                "type": [Self.coding(Self.sourceTypes, "6", "Security Server")],
            ],
        ]
        if let purposes = record.text("purpose")?.split(separator: ","), !purposes.isEmpty {
            members["purposeOfEvent"] = .array(
                purposes.map { ["coding": [Self.coding("http://purl.obolibrary.org/obo/duo.owl", String($0), nil)]] })
        }
        if isAuthorization {
            members["meta"] = [
                "profile": ["https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.AuthZconsent"]
            ]
            members["subtype"] = [
                Self.coding(
                    "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType", "AuthZ-Consent",
                    "Authorization Decision using Roles and Consent")
            ]
            members["agent"] = .array(authorizationAgents)
            members["entity"] = .array(authorizationEntities)
        } else {
            var subtypes = [Self.coding("urn:sekisho:audit-event", record.event, nil)]
            if let subtype = kind.subtype { subtypes.insert(subtype, at: 0) }
            members["subtype"] = .array(subtypes)
            members["agent"] = .array(agents)
            members["entity"] = .array(entities)
        }
        return .object(members)
    }

    /// A decision that was made: one that waits for people is none yet.
    private var isAuthorization: Bool {
        ["access.decided", "run.decided", "release.decided"].contains(record.event)
            && ["permit", "refuse"].contains(record.decision ?? "")
    }

    /// FHIR's codes: success, minor and serious failure. A refusal is what BALP's example of a deny has.
    private var outcome: String {
        switch record.outcome {
        case "refused": "8"
        case "failed": "8"
        default: record.decision == "needs-human" ? "4" : "0"
        }
    }

    private var outcomeWords: String {
        let decision = record.decision.map { "\($0); " } ?? ""
        let reasons = record.reasons.isEmpty ? "" : ": " + record.reasons.joined(separator: ", ")
        return "\(decision)\(record.outcome)\(reasons)"
    }

    // MARK: Agents

    private var actor: JSON { Self.named("urn:sekisho:person", record.text("actor") ?? "unattended") }

    private var agents: [JSON] {
        var agent: [String: JSON] = ["who": actor, "requestor": true]
        if record.text("actor") == nil {
            agent["who"] = Self.named("urn:sekisho:trail", origin)
            agent["type"] = ["coding": [Self.coding(Self.dicom, "110150", "Application")]]
        }
        if let policy = record.text("policy") { agent["policy"] = [.string("urn:sha256:\(policy)")] }
        return [.object(agent)]
    }

    private var authorizationAgents: [JSON] {
        let gateway = Self.named("urn:sekisho:trail", origin)
        let policy = record.text("policy").map { "urn:sha256:\($0)" }
        var user: [String: JSON] = [
            "type": ["coding": [Self.coding(Self.participation, "IRCP", "information recipient")]], "who": actor,
            "requestor": true,
        ]
        if let policy { user["policy"] = [.string(policy)] }
        return [
            [
                "type": ["coding": [Self.coding(Self.dicom, "110150", "Application")]], "who": gateway,
                "requestor": false, "network": ["address": .string(origin), "type": "1"],
            ],
            .object(user),
            [
                "type": [
                    "coding": [
                        Self.coding(
                            "http://terminology.hl7.org/CodeSystem/v3-RoleClass", "PROV", "healthcare provider")
                    ]
                ], "who": Self.named("urn:sekisho:trail", origin), "requestor": false,
            ],
            [
                "type": [
                    "coding": [
                        Self.coding(
                            "http://terminology.hl7.org/CodeSystem/extra-security-role-type", "authserver",
                            "authorization server")
                    ]
                ], "who": gateway, "requestor": false,
            ],
        ]
    }

    // MARK: Entities

    /// The persons of the data are a cohort that the record does not name; consent is what the data set's policy and
    /// each person's consent say together, and the record binds both by the hash of the decision's input.
    private var authorizationEntities: [JSON] {
        let dataset = record.text("dataset") ?? "unknown"
        return [
            [
                "type": Self.coding(Self.entityTypes, "1", "Person"),
                "role": Self.coding(Self.objectRoles, "1", "Patient"),
                "what": [
                    "type": "Patient", "identifier": Self.identifier("urn:sekisho:cohort", dataset),
                    "display": .string("the cohort of \(dataset); no person is named"),
                ],
            ],
            [
                "type": Self.coding("http://hl7.org/fhir/resource-types", "Consent", "Consent"),
                "what": [
                    "type": "Consent",
                    "identifier": Self.identifier("urn:sekisho:decision-input", record.text("input") ?? "none"),
                ], "detail": .array(details),
            ],
        ]
    }

    private var entities: [JSON] {
        var entities: [JSON] = []
        for (member, system) in [
            ("run", "urn:sekisho:run"), ("dataset", "urn:sekisho:dataset"), ("device", "urn:sekisho:device"),
            ("policy", "urn:sekisho:policy"),
        ] {
            guard let value = record.text(member) else { continue }
            entities.append([
                "type": Self.coding(Self.entityTypes, "2", "System Object"), "what": Self.named(system, value),
                "name": .string("\(member) \(value)"),
            ])
        }
        entities.append([
            "type": Self.coding(Self.entityTypes, "2", "System Object"),
            "role": Self.coding(Self.objectRoles, "13", "Security Resource"),
            "what": Self.named("urn:sekisho:entry", "\(record.index)"), "detail": .array(details),
        ])
        return entities
    }

    private var details: [JSON] {
        var details: [JSON] = [
            ["type": "entry", "valueString": .string("\(record.index)")],
            ["type": "leaf", "valueString": .string(record.leafHash.hex)],
        ]
        for member in ["run", "version", "root", "policy", "input", "evidence", "lease"] {
            guard let value = record.text(member) else { continue }
            details.append(["type": .string(member), "valueString": .string(value)])
        }
        return details
    }

    // MARK: Codes

    private static let dicom = "http://dicom.nema.org/resources/ontology/DCM"
    private static let lifecycle = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
    private static let participation = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
    private static let entityTypes = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
    private static let objectRoles = "http://terminology.hl7.org/CodeSystem/object-role"
    private static let sourceTypes = "http://terminology.hl7.org/CodeSystem/security-source-type"

    /// What FHIR calls an event of ours, and whether it reads, writes or executes.
    private struct Kind {
        let type: JSON
        var subtype: JSON?
        let action: String

        init(_ event: String) {
            func dcm(_ code: String, _ display: String) -> JSON { coding(dicom, code, display) }
            func life(_ code: String, _ display: String) -> JSON { coding(lifecycle, code, display) }
            switch event {
            case "trail.read", "trail.exported": (type, action) = (dcm("110101", "Audit Log Used"), "R")
            case "person.added":
                (type, action) = (dcm("110113", "Security Alert"), "U")
                subtype = dcm("110136", "Security Roles Changed")
            case "person.signed-in":
                (type, action) = (dcm("110114", "User Authentication"), "E")
                subtype = dcm("110122", "Login")
            case "person.signed-out":
                (type, action) = (dcm("110114", "User Authentication"), "E")
                subtype = dcm("110123", "Logout")
            case "credential.issued", "credential.revoked", "identity.linked", "passports.trusted", "access.revoked",
                "access.restored":
                (type, action) = (dcm("110113", "Security Alert"), "U")
                subtype = dcm("110137", "User Security Attributes Changed")
            case "policy.proposed", "policy.signed", "policy.activated", "configuration.stated", "clock.checked",
                "pki.initialised", "node.enrolled", "node.added", "node.quarantined", "node.reinstated",
                "window.refused", "device.lost":
                (type, action) = (dcm("110113", "Security Alert"), event == "window.refused" ? "E" : "U")
                subtype = dcm("110128", "Network Configuration")
                if event.hasPrefix("policy.") || event.hasPrefix("c") {
                    subtype = dcm("110129", "Security Configuration")
                }
                if ["window.refused", "node.quarantined", "device.lost"].contains(event) {
                    subtype = dcm("110126", "Node Authentication")
                }
            case "access.decided", "run.decided", "release.decided", "grant.issued", "key.released":
                (type, action) = (dcm("110113", "Security Alert"), "E")
            case "dataset.imported": (type, action) = (dcm("110107", "Import"), "C")
            case "release.taken": (type, action) = (dcm("110106", "Export"), "R")
            case "gateway.recovered": (type, action) = (dcm("110100", "Application Activity"), "E")
            case "consent.changed": (type, action) = (life("amend", "Amend (Update) Record Lifecycle Event"), "U")
            case "request.reviewed", "request.closed", "emergency.reviewed", "passport.presented", "release.reviewed",
                "release.checked":
                (type, action) = (life("verify", "Verify Record Lifecycle Event"), "E")
            case "run.opened": (type, action) = (life("extract", "Extract Record Lifecycle Event"), "R")
            case "subject.shred-requested", "subject.shredded", "device.scrubbed":
                (type, action) = (life("destroy", "Destroy/Delete Record Lifecycle Event"), "D")
            case "progress.shown", "release.ready":
                (type, action) = (life("disclose", "Disclose Record Lifecycle Event"), "R")
            case "program.loaded", "training.epoch", "training.resumed", "run.trained", "run.predicted", "run.planned",
                "device.leased":
                (type, action) = (life("transform", "Transform/Translate Record Lifecycle Event"), "E")
            default: (type, action) = (dcm("110100", "Application Activity"), "E")
            }
        }
    }

    private static func coding(_ system: String, _ code: String, _ display: String?) -> JSON {
        var members: [String: JSON] = ["system": .string(system), "code": .string(code)]
        members["display"] = display.map(JSON.string)
        return .object(members)
    }

    private static func identifier(_ system: String, _ value: String) -> JSON {
        ["system": .string(system), "value": .string(value)]
    }

    private static func named(_ system: String, _ value: String) -> JSON {
        ["identifier": identifier(system, value), "display": .string(value)]
    }

    /// A UUID of version 8 (RFC 9562) from a digest.
    private static func uuid(_ digest: Digest) -> String {
        var bytes = Array(digest.bytes.prefix(16))
        bytes[6] = bytes[6] & 0x0F | 0x80
        bytes[8] = bytes[8] & 0x3F | 0x80
        let hex = Hex.encode(bytes)
        var groups: [Substring] = []
        var rest = hex[...]
        for count in [8, 4, 4, 4, 12] {
            groups.append(rest.prefix(count))
            rest = rest.dropFirst(count)
        }
        return groups.joined(separator: "-")
    }
}
