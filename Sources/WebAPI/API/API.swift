package import Gateway
package import Foundation
import Sealing
import Vocabulary

/// The API of the whole journey: what each call does. It knows nothing of HTTP, so that a command over an embedded
/// gateway gets the very same answers as one over the network.
package struct API: Sendable {
    let gateway: Gateway
    /// Where an export lies while it is sent.
    private let scratch: URL

    package init(_ gateway: Gateway, scratch: URL = FileManager.default.temporaryDirectory) {
        self.gateway = gateway
        self.scratch = scratch
    }

    /// Throws a `Problem`, or an error that `Problem` knows how to tell.
    package func reply(to call: APICall, by caller: APICaller) async throws -> APIReply {
        // Over the network the door has looked at this. The first person of a home has no role yet.
        if caller.means == nil, let person = gateway.directory.person(caller.person) {
            try call.route.rule.requireRole(among: person.roles)
        }
        do {
            return try await answer(call, caller)
        } catch let error as GatewayError {
            throw Problem(ofCall: error)
        }
    }

    private func answer(_ call: APICall, _ caller: APICaller) async throws -> APIReply {
        switch call.route {
        case .apiDescription: APIReply(200, .text(Self.description, mediaType: "application/yaml"))
        case .apiMe: try me(call, caller)
        case .apiDatasets, .apiDataset, .apiDatasetImport, .apiConsentChange, .apiSubjectHistory:
            try await datasets(call, caller.person)
        case .apiRequests, .apiRequestFile, .apiRequest, .apiRequestTimeline, .apiRequestReview, .apiRequestResume,
            .apiReviews, .apiEmergencyReview:
            try await requests(call, caller.person)
        case .apiDrafts, .apiDraftCreate, .apiDraft, .apiDraftSave, .apiDraftDiscard, .apiDraftFile, .apiRequestMatrix,
            .apiFormSchema, .apiDatasetForm, .apiNotices, .apiNoticesRead, .apiRequestWithdraw, .apiRequestAmend,
            .apiRequestRenew, .apiRequestDocument, .apiRequestClose, .apiClosureConfirm:
            try await requestLife(call, caller.person)
        case .apiGrants, .apiGrant: try await grants(call, caller.person)
        case .apiGrantReach, .apiGrantRevoke, .apiPersonAccess, .apiPersonAccessRevoke, .apiPersonAccessRestore:
            try await access(call, caller.person)
        case .apiPassport, .apiPassportPresent, .apiPassportIssuers, .apiPassportTrust, .apiIdentityLink:
            try await passports(call, caller.person)
        case .apiRuns, .apiRunStart, .apiRun, .apiRunTimeline, .apiRunEvents, .apiRunPlan, .apiRunTimes, .apiRunReport,
            .apiRunCancel, .apiRunResume, .apiRunPredict:
            try await runs(call, caller.person)
        case .apiReleases, .apiRelease, .apiReleaseReport, .apiReleaseReview, .apiReleaseTake:
            try await releases(call, caller.person)
        case .apiAuditRecords, .apiAuditSearch, .apiAuditRecord, .apiAuditTrace, .apiAuditExport:
            try await audit(call, caller.person)
        case .apiPolicies, .apiPolicyLint, .apiPolicyTest, .apiPolicyDecide, .apiPolicyMatrix, .apiPolicyCedar,
            .apiPolicyCompare:
            try await policyQuestions(call, caller.person)
        case .apiPolicyPropose, .apiPolicyBundles, .apiPolicyBundle, .apiPolicyFiles, .apiPolicySign,
            .apiPolicyActivate,
            .apiPolicyReturn, .apiPolicyKey, .apiPolicyKeyRevoke:
            try await policyBundles(call, caller.person)
        case .apiPeople, .apiPerson, .apiPersonAdd, .apiTokens, .apiTokenCreate, .apiTokenRevoke:
            try await people(call, caller)
        case .apiNodes, .apiNodeAdd, .apiNodeReinstate, .apiNode, .apiNodeDrain, .apiNodeQuarantine, .apiNodeMeasure,
            .apiDeviceLine, .apiInventory:
            try await nodes(call, caller.person)
        default: throw Problem.notFound("there is nothing at this address")
        }
    }

    /// `openapi.yaml`, as it stands in the repository.
    package static let description = String(decoding: PackageResources.openapi_yaml, as: UTF8.self)
}

extension Problem {
    /// What the gateway says to a call whose form was right: what still makes no sense is not the form's fault.
    fileprivate init(ofCall error: GatewayError) {
        let problem = Problem(error)
        guard error.code == .usage else {
            self = problem
            return
        }
        self.init(status: 422, code: problem.code, title: problem.title, detail: problem.detail)
    }
}

extension APICall {
    /// The identifier that the path names. A name that none can have is one that nothing has.
    func id<Noun>(_ name: String) throws(Problem) -> Identifier<Noun> {
        guard let text = path[name], let id = try? Identifier<Noun>(text) else {
            throw .notFound("nothing here has such a name")
        }
        return id
    }

    /// For calls that ask nothing but their path.
    func expectNoQuery() throws(Problem) { try Fields(query: query).finish() }

    /// For calls whose path says it all; an empty object is no body either.
    func expectNothingMore() throws(Problem) {
        try expectNoQuery()
        try Fields(body: body).finish()
    }
}

// MARK: - Oneself, data sets

extension API {
    private func me(_ call: APICall, _ caller: APICaller) throws -> APIReply {
        try call.expectNoQuery()
        guard let person = gateway.people[caller.person] else { throw Problem.signInNeeded }
        var members = person.json.objectValue ?? [:]
        members["means"] = caller.means.map { .string($0.rawValue) } ?? .null
        members["scopes"] = caller.scopes.map { .array($0.map(\.rawValue).sorted().map(JSON.string)) } ?? .null
        return APIReply(json: .object(members))
    }

    private func datasets(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        var query = try Fields(query: call.query)
        switch call.route {
        case .apiDataset:
            let dataset: DatasetID = try call.id("dataset")
            try query.finish()
            let versions = try await gateway.datasets().filter { $0.dataset == dataset }
            guard !versions.isEmpty else { throw Problem.notFound("there is no data set of this name") }
            return APIReply(
                json: ["dataset": .string(dataset.text), "versions": .array(versions.map(\.json))])
        case .apiDatasetImport:
            let dataset: DatasetID = try call.id("dataset")
            let columns = try query.optionalNumber("feature_columns", in: 1...Int64(Limits.featuresMax))
            try query.finish()
            guard let upload = call.upload else { throw Problem.mediaType }
            let version = try await gateway.importDataset(
                dataset, upload, featureColumns: columns.map(Int.init), by: person)
            var reply = APIReply(201, json: version.json)
            reply.location = APICall(.apiDataset, path: ["dataset": dataset.text]).target
            return reply
        case .apiConsentChange:
            let dataset: DatasetID = try call.id("dataset")
            try query.finish()
            var fields = try Fields(body: call.body)
            let subject: SubjectID = try fields.id("subject")
            let state: ConsentWord = try fields.choice("state")
            try fields.finish()
            try await gateway.setConsent(subject: subject.text, dataset: dataset, state: state.rawValue, by: person)
            return APIReply(json: ["state": .string(state.rawValue)])
        case .apiSubjectHistory:
            let dataset: DatasetID = try call.id("dataset")
            try query.finish()
            var fields = try Fields(body: call.body)
            let subject: SubjectID = try fields.id("subject")
            try fields.finish()
            let uses = try await gateway.subjectHistory(subject.text, dataset: dataset, by: person)
            return APIReply(
                json: ["runs": .array(uses.map { ["run": .string($0.run.text), "used": .bool($0.used)] })])
        default:
            let page = try query.page(order: .oldest)
            try query.finish()
            return APIReply(json: try await gateway.datasets(page, by: person).json(\.json))
        }
    }
}

private enum ConsentWord: String, CaseIterable { case given, withdrawn }

// MARK: - Requests, reviews, grants

extension API {
    private func requests(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        var query = try Fields(query: call.query)
        switch call.route {
        case .apiRequests:
            let page = try query.page()
            var filter = RequestFilter()
            filter.dataset = try query.optionalID("dataset")
            filter.requester = try query.optionalID("requester")
            if let state = try query.optionalText("state", lengthMax: 64) {
                guard RequestState.names.contains(state) else {
                    throw Fields.fault("state", "is none of \(RequestState.names.joined(separator: ", "))")
                }
                filter.state = state
            }
            try query.finish()
            return APIReply(json: try await gateway.requests(page, where: filter, by: person).json(\.json))
        case .apiReviews:
            let page = try query.page(order: .oldest)
            let scope: ReviewScope? = try query.optionalChoice("scope")
            try query.finish()
            return APIReply(json: try await gateway.reviews(page, mine: scope != .all, by: person).json(\.json))
        case .apiRequestFile:
            try query.finish()
            guard let form = call.body else { throw Problem.invalid("The body is missing; it is the request form.") }
            let id = try await gateway.fileRequest(form.canonicalText, once: call.onceKey, by: person)
            _ = try await gateway.advance(id)
            var reply = try await request(id, person, status: 201)
            reply.location = APICall(.apiRequest, path: ["request": id.text]).target
            return reply
        case .apiRequestTimeline:
            let page = try query.page(order: .oldest)
            try query.finish()
            let id: RequestID = try call.id("request")
            return APIReply(json: try await gateway.timeline(page, of: .request(id), by: person).json(\.json))
        case .apiRequestReview:
            try query.finish()
            let id: RequestID = try call.id("request")
            var fields = try Fields(body: call.body)
            let verdict: Verdict = try fields.choice("verdict")
            let comment = try fields.optionalText("comment", lengthMax: 1000) ?? ""
            let conditions = try fields.conditions("conditions")
            try fields.finish()
            try await gateway.review(
                id, verdict, comment: comment, conditions: conditions, ifStill: call.ifRevision, by: person)
            _ = try await gateway.advance(id)
            return try await request(id, person)
        case .apiEmergencyReview:
            try query.finish()
            let id: RequestID = try call.id("request")
            var fields = try Fields(body: call.body)
            guard let justified = fields.json("justified")?.boolValue else {
                throw Fields.fault("justified", "is not true or false")
            }
            let comment = try fields.text("comment", lengthMax: 4096)
            try fields.finish()
            try await gateway.reviewEmergency(id, justified: justified, comment: comment, by: person)
            return APIReply(json: ["request": .string(id.text), "justified": .bool(justified)])
        case .apiRequestResume:
            try call.expectNothingMore()
            let id: RequestID = try call.id("request")
            _ = try await gateway.request(id, by: person)
            _ = try await gateway.advance(id)
            return try await request(id, person)
        default:
            try query.finish()
            let id: RequestID = try call.id("request")
            return try await request(id, person)
        }
    }

    func request(_ id: RequestID, _ person: PersonID, status: Int = 200) async throws -> APIReply {
        let entry = try await gateway.request(id, by: person)
        var members = entry.json.objectValue ?? [:]
        members["form"] = try await gateway.requestForm(id, by: person)
        members["report"] = try await gateway.closingReport(of: id, by: person).map(JSON.string) ?? .null
        var reply = APIReply(status, json: .object(members))
        reply.revision = entry.revision
        return reply
    }

    private func grants(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        var query = try Fields(query: call.query)
        guard call.route == .apiGrants else {
            try query.finish()
            return APIReply(json: try await gateway.grant(call.id("grant"), by: person).json)
        }
        let page = try query.page()
        try query.finish()
        return APIReply(json: try await gateway.grants(page, by: person).json(\.json))
    }
}

private enum ReviewScope: String, CaseIterable { case mine, all }

// MARK: - Runs and releases

extension API {
    private func runs(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        switch call.route {
        case .apiRuns:
            var query = try Fields(query: call.query)
            let page = try query.page()
            var filter = RunFilter()
            filter.dataset = try query.optionalID("dataset")
            filter.researcher = try query.optionalID("researcher")
            filter.stage = try query.optionalChoice("stage")
            filter.end = try query.optionalChoice("end")
            try query.finish()
            return APIReply(json: try await gateway.runs(page, where: filter, by: person).json(\.json))
        case .apiRunStart: return try await startRun(call, person)
        case .apiRunPredict: return try await predict(call, person)
        case .apiRunTimeline:
            var query = try Fields(query: call.query)
            let page = try query.page(order: .oldest)
            try query.finish()
            let id: RunID = try call.id("run")
            return APIReply(json: try await gateway.timeline(page, of: .run(id), by: person).json(\.json))
        default: break
        }
        let id: RunID = try call.id("run")
        try call.expectNothingMore()
        switch call.route {
        case .apiRunEvents: return APIReply(200, .events(try await gateway.follow(id, by: person)))
        case .apiRunPlan:
            let plan = try await gateway.plan(of: id, by: person)
            return APIReply(json: ["plan": plan.json, "table": .string(plan.table)])
        case .apiRunTimes:
            return APIReply(json: ["stages": .array(try await gateway.times(of: id, by: person).map(\.json))])
        case .apiRunReport:
            return APIReply(200, .text(try await gateway.report(id, by: person), mediaType: "text/html"))
        case .apiRunCancel:
            try await gateway.cancelRun(id, by: person)
            return try await run(id, person)
        case .apiRunResume:
            try await gateway.resume(id, by: person)
            return try await run(id, person)
        default: return try await run(id, person)
        }
    }

    private func startRun(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        try call.expectNoQuery()
        var fields = try Fields(body: call.body)
        let specification = try fields.text("specification", lengthMax: 65_536)
        let wish = try RunWish(&fields)
        let id = try await gateway.requestRun(
            specification: specification, grant: wish.grant, id: wish.id, deviceMemory: wish.deviceMemory,
            hours: wish.hours, once: call.onceKey, by: person)
        return try await started(id, person)
    }

    /// What every run asks for beside what it does.
    private struct RunWish {
        let grant: GrantID
        let id: RunID?
        let deviceMemory: Int?
        let hours: Int?

        /// Reads the rest of a body: nothing else may be in it.
        init(_ fields: inout Fields) throws {
            grant = try fields.id("grant")
            id = try fields.optionalID("id")
            deviceMemory = try fields.optionalNumber("device_memory", in: 1...JSON.integerMax).map(Int.init)
            hours = try fields.optionalNumber("hours", in: 1...876_600).map(Int.init)
            try fields.finish()
        }
    }

    private func predict(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        try call.expectNoQuery()
        let model: RunID = try call.id("run")
        var fields = try Fields(body: call.body)
        let wish = try RunWish(&fields)
        let id = try await gateway.requestPrediction(
            of: model, grant: wish.grant, id: wish.id, deviceMemory: wish.deviceMemory, hours: wish.hours,
            once: call.onceKey, by: person)
        return try await started(id, person)
    }

    private func started(_ id: RunID, _ person: PersonID) async throws -> APIReply {
        var reply = try await run(id, person, status: 201)
        reply.location = APICall(.apiRun, path: ["run": id.text]).target
        return reply
    }

    private func run(_ id: RunID, _ person: PersonID, status: Int = 200) async throws -> APIReply {
        let entry = try await gateway.run(id, by: person)
        var reply = APIReply(status, json: entry.json)
        reply.revision = entry.revision
        return reply
    }

    private func releases(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        if call.route == .apiReleases {
            var query = try Fields(query: call.query)
            let page = try query.page()
            let state: ReleaseState? = try query.optionalChoice("state")
            try query.finish()
            return APIReply(json: try await gateway.releases(page, state: state, by: person).json(\.json))
        }
        let id: RunID = try call.id("run")
        if call.route == .apiReleaseReport {
            var query = try Fields(query: call.query)
            let form = try query.optionalChoice("as", ReportForm.self) ?? .json
            let language = try query.optionalChoice("language", GateReport.Language.self)
            try query.finish()
            let report = try await gateway.gateReport(of: id, by: person)
            switch form {
            case .json: return APIReply(json: report.json)
            case .html: return APIReply(200, .text(try report.html(language ?? .english), mediaType: "text/html"))
            }
        }
        try call.expectNoQuery()
        switch call.route {
        case .apiReleaseReview:
            var fields = try Fields(body: call.body)
            let verdict: Verdict = try fields.choice("verdict")
            let candidate = try fields.optionalText("candidate", lengthMax: 64)
            try fields.finish()
            try await gateway.reviewRelease(
                of: id, verdict, candidate: candidate, ifStill: call.ifRevision, by: person)
            // The gateway goes on with the run by itself; what it comes to is seen on the run.
            return try await release(id, person)
        case .apiReleaseTake:
            var fields = try Fields(body: call.body)
            let accepted = try fields.optionalText("accepts", lengthMax: 64)
            try fields.finish()
            guard accepted == nil || Digest(hex: accepted ?? "") != nil else {
                throw Fields.fault("accepts", "is not 64 hexadecimal digits")
            }
            return APIReply(200, .files(try await gateway.takeRelease(of: id, accepting: accepted, by: person)))
        default: return try await release(id, person)
        }
    }

    private enum ReportForm: String, CaseIterable { case json, html }

    private func release(_ id: RunID, _ person: PersonID) async throws -> APIReply {
        let entry = try await gateway.release(of: id, by: person)
        var reply = APIReply(
            json: entry.json(
                with: try await gateway.candidate(of: id, by: person),
                try await gateway.releaseDuties(of: id, by: person)))
        reply.revision = entry.revision
        return reply
    }
}

// MARK: - Audit

extension API {
    private func audit(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        switch call.route {
        case .apiAuditRecord:
            try call.expectNoQuery()
            guard let text = call.path["index"], let index = UInt64(text), "\(index)" == text else {
                throw Problem.notFound("nothing here has such a number")
            }
            return APIReply(json: try await gateway.auditShow(index, by: person).json)
        case .apiAuditTrace:
            try call.expectNoQuery()
            let steps = try await gateway.trace(call.id("run"), by: person)
            return APIReply(
                json: [
                    "steps": .array(steps.map { ["part": .string($0.part.rawValue), "record": $0.hit.json] })
                ])
        case .apiAuditExport: return try await export(call, person)
        default:
            // A person of the data must not be named in an address, where logs and histories keep it.
            let isPosted = call.route == .apiAuditSearch
            if isPosted { try call.expectNoQuery() }
            var fields = try isPosted ? Fields(body: call.body) : Fields(query: call.query)
            let after = try fields.optionalNumber("after", in: 0...JSON.integerMax)
            let limit = try fields.optionalNumber("limit", in: 1...1000) ?? 100
            var pairs: [(String, String)] = []
            let names = AuditQuery.Field.allCases.filter { isPosted || $0 != .subject }
            for name in names.map(\.rawValue) + ["from", "to"] {
                if let value = try fields.optionalText(name, lengthMax: 128) { pairs.append((name, value)) }
            }
            try fields.finish()
            let question: AuditQuery
            do { question = try AuditQuery(parsing: pairs) } catch let error as GatewayError { throw Problem(error) }
            let page = try await gateway.searchAudit(
                question, after: after.map(UInt64.init), limit: Int(limit), by: person)
            return APIReply(
                json: [
                    "items": .array(page.hits.map(\.json)),
                    "next": page.next.map { .string("\($0)") } ?? .null,
                ])
        }
    }

    private func export(_ call: APICall, _ person: PersonID) async throws -> APIReply {
        try call.expectNoQuery()
        var fields = try Fields(body: call.body)
        let isSealed = try fields.optionalBool("sealed") ?? false
        let recipients = try fields.optionalTexts("recipients", countMax: 64, lengthMax: 4096) ?? []
        let scope = try Self.scope(&fields)
        try fields.finish()
        guard isSealed || recipients.isEmpty else {
            throw Self.senseless("'recipients' are for a sealed export; say \"sealed\": true.")
        }
        let folder = scratch.appendingPathComponent(
            "sekisho-export-\(Hex.encode(RandomBytes.array(12)))", isDirectory: true)
        let target = isSealed ? folder.appendingPathComponent("export.age") : folder
        do {
            if isSealed {
                try FileManager.default.createDirectory(
                    at: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
            }
            let summary = try await gateway.export(
                ExportRequest(scope, to: target, recipients: recipients), by: person)
            let json: JSON = [
                "entries": .integer(Int64(summary.entries)), "tree_size": .integer(Int64(summary.treeSize)),
                "root": .string(summary.root.hex),
            ]
            return APIReply(200, isSealed ? .sealed(target, summary: json) : .folder(folder, summary: json))
        } catch {
            try? FileManager.default.removeItem(at: folder)
            throw error
        }
    }

    private static func senseless(_ why: String) -> Problem {
        Problem(
            status: 422, code: "invalid", title: "This makes no sense as asked",
            detail: "\(why.prefix(1).uppercased())\(why.dropFirst()) Nothing was done.")
    }

    /// What to export: one of a run, a data set, a person of one, a period; else everything.
    private static func scope(_ fields: inout Fields) throws -> ExportRequest.Scope {
        let run: RunID? = try fields.optionalID("run")
        let dataset: DatasetID? = try fields.optionalID("dataset")
        let subject = try fields.optionalText("subject", lengthMax: Limits.identifierBytesMax)
        let from = try fields.optionalText("from", lengthMax: 64)
        let to = try fields.optionalText("to", lengthMax: 64)
        guard
            let scope = try ExportRequest.Scope(run: run, dataset: dataset, subject: subject, from: from, to: to)
        else { throw senseless("An export is of one run, one data set, one subject of a data set, or from and to.") }
        return scope
    }
}

// MARK: - People

extension API {
    private func people(_ call: APICall, _ caller: APICaller) async throws -> APIReply {
        let person = caller.person
        var query = try Fields(query: call.query)
        switch call.route {
        case .apiPeople:
            let page = try query.page(order: .oldest)
            try query.finish()
            return APIReply(json: try await gateway.people(page, by: person).json(\.json))
        case .apiPerson:
            try query.finish()
            return APIReply(json: try await gateway.person(call.id("person"), by: person).json)
        case .apiPersonAdd:
            try query.finish()
            let other: PersonID = try call.id("person")
            var fields = try Fields(body: call.body)
            let roles: Set<Role> = try fields.choices("roles")
            try fields.finish()
            try await gateway.addPerson(other, roles: roles, by: person)
            return APIReply(json: try await gateway.person(other, by: person).json)
        case .apiTokens:
            try query.finish()
            return APIReply(json: ["tokens": .array(gateway.directory.keys(of: person).map(\.json))])
        case .apiTokenCreate:
            try query.finish()
            var fields = try Fields(body: call.body)
            let scopes: Set<Scope> = try fields.choices("scopes")
            let seconds = try fields.optionalNumber("valid_seconds", in: 60...31_622_400) ?? 86_400
            try fields.finish()
            // What a token may not do, none that it makes may.
            if let own = caller.scopes, !scopes.isSubset(of: own) { throw Problem.scopeMissing }
            let (key, text) = try await gateway.createToken(
                for: person, scopes: scopes, validSeconds: seconds, by: person)
            var members = key.json.objectValue ?? [:]
            members["text"] = .string(text)
            return APIReply(201, json: .object(members))
        default:
            try call.expectNothingMore()
            try await gateway.revokeKey(call.id("token"), by: person)
            return APIReply(204, .nothing)
        }
    }
}
