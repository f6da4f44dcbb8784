import AuditTrail
package import Vocabulary

/// What a person may do. One list for decisions, command line and pages.
package enum Role: String, CaseIterable, Codable, Sendable {
    case researcher
    /// A member of the data access committee.
    case dac
    case dataCustodian = "data-custodian"
    case complianceOfficer = "compliance-officer"
    case policyAdministrator = "policy-administrator"
    case outputChecker = "output-checker"
    case securityOfficer = "security-officer"
    case operatorRole = "operator"
}

/// Someone who acts through the gateway.
package struct PersonRecord: Sendable, Equatable {
    package let id: PersonID
    package let roles: Set<Role>
}

extension Gateway {
    /// Somebody else whose name differs only in letter case.
    func namesake(of id: PersonID) -> PersonID? {
        let folded = id.text.lowercased()
        return people.keys.first { $0 != id && $0.text.lowercased() == folded }
    }

    /// Adds a person, or gives one other roles. The first person of a home is added by its operator.
    package func addPerson(_ id: PersonID, roles: Set<Role>, by actor: PersonID?) throws {
        guard !roles.isEmpty else { throw GatewayError(.usage, "a person needs at least one role") }
        // Whoever makes a home holds its key and names its first operator; from then on operators add people.
        if people.isEmpty {
            guard roles.contains(.operatorRole) else {
                throw GatewayError(.usage, "the first person of a home is an operator: --role operator")
            }
        } else {
            guard let actor else { throw GatewayError(.usage, "say which operator adds this person: --as OPERATOR") }
            try require(actor, anyOf: [.operatorRole])
        }
        // `Ann` and `ann` would be two voters for one human being.
        if let other = namesake(of: id) {
            throw GatewayError(.usage, "\(id) differs from \(other) only in letter case")
        }
        let sorted = roles.map(\.rawValue).sorted()
        if people[id]?.roles == roles { return }
        let record = try ledger.record(
            Event(.personAdded, .done).with {
                $0.actor = actor
                $0.detail = ["person": .string(id.text), "roles": .array(sorted.map(JSON.string))]
            }, in: .gateway, key: ledger.freshKey("person.\(id)"))
        directory.learn(record)
    }

    package nonisolated var people: [PersonID: PersonRecord] { directory.people }

    /// The person, if known here; unknown people are refused.
    func person(_ id: PersonID) throws -> PersonRecord {
        guard let person = directory.person(id) else {
            throw GatewayError(.refused, "\(id) is not known here; an operator adds people with `sekisho person add`")
        }
        return person
    }

    /// The first of the policy's `roles` that a reviewer has. Nobody reviews their own request or release (`thing`), and
    /// `Ann` is not another person than `ann`.
    func reviewingRole(of reviewer: PersonID, among roles: [String], notOf owner: PersonID, _ thing: String) throws
        -> String
    {
        guard reviewer.text.lowercased() != owner.text.lowercased() else {
            throw GatewayError(.refused, "nobody reviews their own \(thing)")
        }
        let person = try person(reviewer)
        guard let role = roles.first(where: { role in person.roles.contains { $0.rawValue == role } }) else {
            throw GatewayError(
                .refused, "\(reviewer) has none of the roles that review here: \(roles.joined(separator: ", "))")
        }
        return role
    }

    func require(_ id: PersonID, anyOf roles: Set<Role>) throws {
        let person = try person(id)
        guard !person.roles.isDisjoint(with: roles) else {
            let needed = roles.map(\.rawValue).sorted().joined(separator: " or ")
            throw GatewayError(.refused, "\(id) does not have the role \(needed)")
        }
    }
}
