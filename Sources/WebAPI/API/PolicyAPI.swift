import Gateway
import Vocabulary

// MARK: - What policies say

extension API {
    func policyQuestions(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        switch call.route {
        case .apiPolicyMatrix, .apiPolicyCedar:
            var query = try Fields(query: call.query)
            let source = try query.source("bundle")
            try query.finish()
            if call.route == .apiPolicyCedar {
                return APIReply(
                    200, .text(try await gateway.policyCedar(under: source, by: person), mediaType: "text/plain"))
            }
            let matrix = try await gateway.policyMatrix(under: source, by: person)
            return APIReply(json: ["rows": matrix.json, "words": .array(matrix.words.map(JSON.string))])
        case .apiPolicyLint, .apiPolicyTest:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let folder = try fields.policyFiles("files")
            try fields.finish()
            if call.route == .apiPolicyTest { return APIReply(json: try folder.test().json) }
            let lint = folder.lint()
            return APIReply(json: ["findings": lint.json, "valid": .bool(!lint.isAlarming)])
        case .apiPolicyDecide:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let source = try fields.source("bundle", files: "files")
            guard let input = fields.json("input") else { throw Fields.fault("input", "is missing") }
            try fields.finish()
            let answer = try await gateway.explain(input, under: source, by: person)
            var members = answer.json.objectValue ?? [:]
            members["words"] = .array(answer.words.map(JSON.string))
            return APIReply(json: .object(members))
        case .apiPolicyCompare:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let old = try fields.source("old")
            let new = try fields.source("new", files: "files")
            try fields.finish()
            let answer = try await gateway.comparePolicies(old, new, by: person)
            var members = answer.json.objectValue ?? [:]
            members["words"] = .array(answer.words.map(JSON.string))
            return APIReply(json: .object(members))
        default:
            try call.expectNothingMore()
            let active = try await gateway.activePolicies()
            return APIReply(
                json: [
                    "policy": .string(active.hash.hex), "number": .integer(Int64(active.number)),
                    "datasets": .array(active.datasets.map { .string($0.text) }),
                ])
        }
    }
}

// MARK: - How they come into force

extension API {
    func policyBundles(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        switch call.route {
        case .apiPolicyBundles:
            var query = try Fields(query: call.query)
            let page = try query.page(order: .newest)
            try query.finish()
            return APIReply(json: try await gateway.policyHistory(page, by: person).json(\.json))
        case .apiPolicyPropose:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let folder = try fields.policyFiles("files")
            try fields.finish()
            return Self.made(try await gateway.proposePolicies(folder, by: person))
        case .apiPolicySign:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let signature = try fields.text("signature", lengthMax: 128)
            try fields.finish()
            return APIReply(
                json: try await gateway.signPolicies(call.bundle, signature: signature, by: person).json)
        case .apiPolicyKey:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let key = try fields.text("key", lengthMax: 64)
            try fields.finish()
            try await gateway.setPolicyKey(key, by: person)
            return APIReply(json: ["person": .string(person.text), "key": .string(key)])
        case .apiPolicyKeyRevoke:
            try call.expectNoQuery()
            var fields = try Fields(body: call.body)
            let other: PersonID = try fields.id("person")
            try fields.finish()
            try await gateway.revokePolicyKey(of: other, by: person)
            return APIReply(json: ["person": .string(other.text)])
        case .apiPolicyActivate:
            try call.expectNothingMore()
            return APIReply(json: try await gateway.activatePolicies(call.bundle, by: person).json)
        case .apiPolicyReturn:
            try call.expectNothingMore()
            return Self.made(try await gateway.proposeReturn(to: call.bundle, by: person))
        case .apiPolicyFiles:
            try call.expectNothingMore()
            let files = try await gateway.policyFiles(of: call.bundle, by: person).contents
            return APIReply(
                json: [
                    "files": .array(files.map { ["name": .string($0.name), "content": .string($0.content)] })
                ])
        default:
            try call.expectNothingMore()
            return APIReply(json: try await gateway.policyProposal(call.bundle, by: person).json)
        }
    }

    private static func made(_ proposal: PolicyProposal) -> APIReply {
        var reply = APIReply(201, json: proposal.json)
        reply.location = "/api/v1/policies/bundles/\(proposal.number)"
        return reply
    }
}

extension APICall {
    /// The bundle's number in the path.
    fileprivate var bundle: Int {
        get throws(Problem) {
            guard let text = path["bundle"], let number = Int(text), number > 0, String(number) == text else {
                throw .notFound("there is no policy bundle of this number")
            }
            return number
        }
    }
}

extension Fields {
    /// Policy files with their names.
    fileprivate mutating func policyFiles(_ name: String) throws -> PolicyFolder {
        guard let files = json(name)?.arrayValue, !files.isEmpty else {
            throw Fields.fault(name, "is not a list of files with name and content")
        }
        return try PolicyFolder(
            files.map { file in
                var fields = try Fields(body: file)
                let name = try fields.text("name", lengthMax: Limits.identifierBytesMax)
                let content = try fields.text("content", lengthMax: Limits.yamlBytesMax, lengthMin: 0)
                try fields.finish()
                return (name, content)
            })
    }

    /// A bundle's number, files, or neither for the policies in force.
    fileprivate mutating func source(_ name: String, files: String? = nil) throws -> PolicySource {
        let number = try optionalNumber(name, in: 1...1_000_000_000).map(Int.init)
        if let files, holds(files) {
            guard number == nil else { throw Fields.contradiction(files, name) }
            return .files(try policyFiles(files))
        }
        return number.map(PolicySource.bundle) ?? .active
    }
}

extension PolicyProposal {
    var json: JSON {
        [
            "number": .integer(Int64(number)), "bundle": .string(bundle.hex),
            "previous": previous.map { .string($0.hex) } ?? .null, "widens": .bool(widens),
            "returns_to": returnsTo.map { .integer(Int64($0)) } ?? .null, "state": .string(state.rawValue),
            "proposer": .string(proposer.text), "proposed": .string(proposed.description),
            "signatures": .array(
                signatures.map { ["person": .string($0.person.text), "time": .string($0.time.description)] }),
            "signatures_needed": .integer(Int64(signaturesNeeded)),
            "activated": activated.map { .string($0.description) } ?? .null,
            "datasets": .array(datasets.map(JSON.string)), "changes": .array(changes), "statement": statement,
        ]
    }
}
