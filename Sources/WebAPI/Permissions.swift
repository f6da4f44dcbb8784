package import Gateway
import Vocabulary

/// The permission table: every route once, and who may ask it. A route that is not here does not exist.
///
/// `docs/permissions.md` shows it to people; a test holds that page and the server's answers to it.
package enum Route: String, CaseIterable, Sendable {
    // Operations.
    case health = "GET /healthz"
    case readiness = "GET /readyz"
    case metrics = "GET /metrics"

    // API.
    case apiDescription = "GET /api/v1/openapi.yaml"
    case apiMe = "GET /api/v1/me"
    case apiDatasets = "GET /api/v1/datasets"
    case apiDataset = "GET /api/v1/datasets/:dataset"
    case apiDatasetImport = "POST /api/v1/datasets/:dataset/versions"
    case apiConsentChange = "POST /api/v1/datasets/:dataset/consents"
    case apiSubjectHistory = "POST /api/v1/datasets/:dataset/subject-history"
    case apiRequests = "GET /api/v1/requests"
    case apiRequestFile = "POST /api/v1/requests"
    case apiRequest = "GET /api/v1/requests/:request"
    case apiRequestTimeline = "GET /api/v1/requests/:request/timeline"
    case apiRequestReview = "POST /api/v1/requests/:request/reviews"
    case apiRequestWithdraw = "POST /api/v1/requests/:request/withdraw"
    case apiRequestAmend = "POST /api/v1/requests/:request/amend"
    case apiRequestRenew = "POST /api/v1/requests/:request/renew"
    case apiRequestDocument = "POST /api/v1/requests/:request/documents"
    case apiRequestClose = "POST /api/v1/requests/:request/close-out"
    case apiClosureConfirm = "POST /api/v1/requests/:request/confirm-closure"
    case apiRequestMatrix = "GET /api/v1/request-matrix"
    case apiDrafts = "GET /api/v1/drafts"
    case apiDraftCreate = "POST /api/v1/drafts"
    case apiDraft = "GET /api/v1/drafts/:draft"
    case apiDraftSave = "PUT /api/v1/drafts/:draft"
    case apiDraftDiscard = "DELETE /api/v1/drafts/:draft"
    case apiDraftFile = "POST /api/v1/drafts/:draft/file"
    case apiDatasetForm = "GET /api/v1/datasets/:dataset/form"
    case apiFormSchema = "GET /api/v1/form-schema"
    case apiNotices = "GET /api/v1/notices"
    case apiNoticesRead = "POST /api/v1/notices/read"
    case apiRequestResume = "POST /api/v1/requests/:request/resume"
    case apiEmergencyReview = "POST /api/v1/requests/:request/emergency-review"
    case apiReviews = "GET /api/v1/reviews"
    case apiGrants = "GET /api/v1/grants"
    case apiGrant = "GET /api/v1/grants/:grant"
    case apiGrantReach = "GET /api/v1/grants/:grant/reach"
    case apiGrantRevoke = "POST /api/v1/grants/:grant/revoke"
    case apiPersonAccess = "GET /api/v1/people/:person/access"
    case apiPersonAccessRevoke = "POST /api/v1/people/:person/access/revoke"
    case apiPersonAccessRestore = "POST /api/v1/people/:person/access/restore"
    case apiIdentityLink = "POST /api/v1/people/:person/identities"
    case apiPassport = "GET /api/v1/passport"
    case apiPassportPresent = "POST /api/v1/passport"
    case apiPassportIssuers = "GET /api/v1/passport/issuers"
    case apiPassportTrust = "PUT /api/v1/passport/issuers"
    case apiRuns = "GET /api/v1/runs"
    case apiRunStart = "POST /api/v1/runs"
    case apiRun = "GET /api/v1/runs/:run"
    case apiRunTimeline = "GET /api/v1/runs/:run/timeline"
    case apiRunEvents = "GET /api/v1/runs/:run/events"
    case apiRunPlan = "GET /api/v1/runs/:run/plan"
    case apiRunTimes = "GET /api/v1/runs/:run/times"
    case apiRunReport = "GET /api/v1/runs/:run/report"
    case apiRunCancel = "POST /api/v1/runs/:run/cancel"
    case apiRunResume = "POST /api/v1/runs/:run/resume"
    case apiRunPredict = "POST /api/v1/runs/:run/predictions"
    case apiReleases = "GET /api/v1/releases"
    case apiRelease = "GET /api/v1/runs/:run/release"
    case apiReleaseReport = "GET /api/v1/runs/:run/release/report"
    case apiReleaseReview = "POST /api/v1/runs/:run/release/reviews"
    case apiReleaseTake = "POST /api/v1/runs/:run/release/take"
    case apiAuditRecords = "GET /api/v1/audit/records"
    case apiAuditRecord = "GET /api/v1/audit/records/:index"
    case apiAuditSearch = "POST /api/v1/audit/searches"
    case apiAuditTrace = "GET /api/v1/audit/runs/:run/trace"
    case apiAuditExport = "POST /api/v1/audit/exports"
    case apiPolicies = "GET /api/v1/policies"
    case apiPolicyLint = "POST /api/v1/policies/lint"
    case apiPolicyTest = "POST /api/v1/policies/test"
    case apiPolicyDecide = "POST /api/v1/policies/decide"
    case apiPolicyMatrix = "GET /api/v1/policies/matrix"
    case apiPolicyCedar = "GET /api/v1/policies/cedar"
    case apiPolicyCompare = "POST /api/v1/policies/compare"
    case apiPolicyPropose = "POST /api/v1/policies/bundles"
    case apiPolicyBundles = "GET /api/v1/policies/bundles"
    case apiPolicyBundle = "GET /api/v1/policies/bundles/:bundle"
    case apiPolicyFiles = "GET /api/v1/policies/bundles/:bundle/files"
    case apiPolicySign = "POST /api/v1/policies/bundles/:bundle/signatures"
    case apiPolicyActivate = "POST /api/v1/policies/bundles/:bundle/activate"
    case apiPolicyReturn = "POST /api/v1/policies/bundles/:bundle/return"
    case apiPolicyKey = "POST /api/v1/policies/keys"
    case apiPolicyKeyRevoke = "POST /api/v1/policies/keys/revoke"
    case apiPeople = "GET /api/v1/people"
    case apiPerson = "GET /api/v1/people/:person"
    case apiPersonAdd = "PUT /api/v1/people/:person"
    case apiTokens = "GET /api/v1/tokens"
    case apiTokenCreate = "POST /api/v1/tokens"
    case apiTokenRevoke = "DELETE /api/v1/tokens/:token"
    case apiNodes = "GET /api/v1/nodes"
    case apiNodeAdd = "PUT /api/v1/nodes/:node"
    case apiNodeReinstate = "POST /api/v1/nodes/:node/reinstate"
    case apiNode = "GET /api/v1/nodes/:node"
    case apiNodeDrain = "POST /api/v1/nodes/:node/drain"
    case apiNodeQuarantine = "POST /api/v1/nodes/:node/quarantine"
    case apiNodeMeasure = "POST /api/v1/nodes/:node/measure"
    case apiDeviceLine = "GET /api/v1/device-line"
    case apiInventory = "PUT /api/v1/inventory"

    // Signing in and out.
    case signInPage = "GET /sign-in"
    case signIn = "POST /sign-in"
    case signOut = "POST /sign-out"
    case passwordPage = "GET /password"
    case passwordChange = "POST /password"

    // Pages.
    case home = "GET /"
    case stylesheet = "GET /style.css"
    case script = "GET /script.js"
    case icon = "GET /icon.svg"
    case languageChoice = "GET /language/:language"
    case requestsPage = "GET /requests"
    case requestNewPage = "GET /requests/new"
    case requestFile = "POST /requests"
    case requestPage = "GET /requests/:request"
    case requestReview = "POST /requests/:request/reviews"
    case requestWithdraw = "POST /requests/:request/withdraw"
    case requestChangePage = "GET /requests/:request/change"
    case requestChange = "POST /requests/:request/change"
    case requestRenew = "POST /requests/:request/renew"
    case requestDocument = "POST /requests/:request/documents"
    case requestClose = "POST /requests/:request/close-out"
    case closureConfirm = "POST /requests/:request/confirm-closure"
    case draftPage = "GET /drafts/:draft"
    case draftSave = "POST /drafts"
    case draftDiscard = "POST /drafts/:draft/discard"
    case noticesPage = "GET /notices"
    case noticesRead = "POST /notices/read"
    case emergencyReview = "POST /requests/:request/emergency-review"
    case accessPage = "GET /access/:person"
    case accessRevoke = "POST /access/:person"
    case passportPage = "GET /passport"
    case passportPresent = "POST /passport"
    case reviewsPage = "GET /reviews"
    case runsPage = "GET /runs"
    case runNewPage = "GET /runs/new"
    case runStart = "POST /runs"
    case runPage = "GET /runs/:run"
    case runEvents = "GET /runs/:run/events"
    case runCancel = "POST /runs/:run/cancel"
    case releasePage = "GET /runs/:run/release"
    case releaseReport = "GET /runs/:run/release/report"
    case releaseReview = "POST /runs/:run/release/reviews"
    case releaseTake = "POST /runs/:run/release/take"
    case auditPage = "GET /audit"
    case auditRecordPage = "GET /audit/records/:index"
    case auditExportPage = "GET /audit/export"
    case auditExportFile = "GET /audit/export/:export"
    case auditExport = "POST /audit/export"
    case policiesPage = "GET /policies"
    case policyMatrixPage = "GET /policies/matrix"
    case policyCedarPage = "GET /policies/cedar"
    case policyDecidePage = "GET /policies/decide"
    case policyDecide = "POST /policies/decide"
    case policyProposePage = "GET /policies/propose"
    case policyPropose = "POST /policies/propose"
    case policyBundlesPage = "GET /policies/bundles"
    case policyBundlePage = "GET /policies/bundles/:bundle"
    case policyFilePage = "GET /policies/bundles/:bundle/files/:file"
    case policyDownload = "GET /policies/bundles/:bundle/download"
    case policyReplayPage = "GET /policies/bundles/:bundle/replay"
    case policySign = "POST /policies/bundles/:bundle/signatures"
    case policyActivate = "POST /policies/bundles/:bundle/activate"
    case policyReturn = "POST /policies/bundles/:bundle/return"
    case policyKey = "POST /policies/key"
    case policyKeyRevoke = "POST /policies/key/revoke"
}

/// What a route asks of whoever calls it.
package struct Rule: Sendable, Equatable {
    package enum Who: Sendable, Equatable {
        case anyone
        /// Any person with a role.
        case signedIn
        case roles(Set<Role>)
    }

    package enum Body: Sendable, Equatable {
        case none
        /// A form or JSON, collected before the handler; at most this many bytes.
        case collected(bytesMax: Int)
        /// Left to the handler, which reads at most this many bytes as they come. A session sends its CSRF token in a
        /// header.
        case streamed(bytesMax: Int)
    }

    package let who: Who
    /// What a token must be made for; `nil` refuses tokens.
    package let scope: Scope?
    package let body: Body

    package init(_ who: Who, _ scope: Scope?, _ body: Body = .none) {
        self.who = who
        self.scope = scope
        self.body = body
    }

    /// The roles that may call the route.
    package var roles: Set<Role> {
        switch who {
        case .anyone, .signedIn: Set(Role.allCases)
        case .roles(let roles): roles
        }
    }

    /// Throws unless one of somebody's roles may call the route.
    func requireRole(among roles: Set<Role>) throws(Problem) {
        if case .roles(let wanted) = who, roles.isDisjoint(with: wanted) { throw .roleMissing }
    }
}

extension Route {
    package var rule: Rule {
        switch self {
        case .health, .readiness: Rule(.anyone, .observe)
        case .metrics: Rule(.roles([.operatorRole, .securityOfficer]), .observe)

        case .apiMe: Rule(.signedIn, .read)
        case .apiDescription: Rule(.anyone, .read)
        case .apiDatasets, .apiDataset, .apiRequests, .apiRequest, .apiRequestTimeline, .apiReviews, .apiGrants,
            .apiGrant:
            Rule(.signedIn, .read)
        case .apiDatasetImport: Rule(.roles([.dataCustodian]), .administer, .streamed(bytesMax: 64 << 30))
        case .apiConsentChange: Rule(.roles([.dataCustodian]), .administer, Self.form)
        case .apiSubjectHistory: Rule(.roles([.complianceOfficer, .dataCustodian]), .audit, Self.form)
        case .apiRequestResume: Rule(.roles(Self.reviewers.union([.researcher, .operatorRole])), .request, Self.form)
        case .apiRequestFile: Rule(.roles([.researcher]), .request, Self.form)
        case .apiRequestWithdraw, .apiRequestAmend, .apiRequestRenew, .apiRequestDocument, .apiRequestClose,
            .apiDraftCreate, .apiDraftSave, .apiDraftDiscard, .apiDraftFile:
            Rule(.roles([.researcher]), .request, Self.form)
        case .apiDrafts, .apiDraft: Rule(.roles([.researcher]), .request)
        case .apiClosureConfirm: Rule(.roles(Self.reviewers), .review, Self.form)
        case .apiRequestMatrix, .apiDatasetForm, .apiFormSchema, .apiNotices: Rule(.signedIn, .read)
        case .apiNoticesRead: Rule(.signedIn, .read, Self.form)
        case .apiRequestReview: Rule(.roles(Self.reviewers), .review, Self.form)
        case .apiEmergencyReview:
            Rule(.roles([.complianceOfficer, .securityOfficer, .dac, .dataCustodian]), .review, Self.form)
        case .apiPersonAccess, .apiGrantReach: Rule(.roles(Self.revokers.union([.complianceOfficer])), .review)
        case .apiPersonAccessRevoke, .apiPersonAccessRestore, .apiGrantRevoke:
            Rule(.roles(Self.revokers), .review, Self.form)
        case .apiIdentityLink: Rule(.roles([.operatorRole, .securityOfficer]), .administer, Self.form)
        case .apiPassport: Rule(.roles([.researcher]), .request)
        case .apiPassportPresent: Rule(.roles([.researcher]), .request, Self.files)
        case .apiPassportIssuers:
            Rule(.roles([.operatorRole, .securityOfficer, .complianceOfficer]), .administer)
        case .apiPassportTrust: Rule(.roles([.operatorRole, .securityOfficer]), .administer, Self.files)
        case .apiRuns, .apiRun, .apiRunTimeline, .apiRunEvents, .apiRunPlan, .apiRunTimes, .apiRunReport, .apiReleases:
            Rule(.signedIn, .read)
        case .apiRunStart: Rule(.roles([.researcher]), .run, Self.text)
        case .apiRunPredict: Rule(.roles([.researcher]), .run, Self.form)
        case .apiRunCancel: Rule(.roles([.researcher, .operatorRole, .dataCustodian]), .run, Self.form)
        case .apiRunResume: Rule(.roles([.researcher, .operatorRole]), .run, Self.form)
        case .apiRelease, .apiReleaseReport:
            Rule(.roles(Self.reviewers.union([.researcher, .complianceOfficer])), .read)
        case .apiReleaseReview: Rule(.roles(Self.reviewers), .review, Self.form)
        case .apiReleaseTake: Rule(.roles([.researcher]), .run, Self.form)
        case .apiAuditRecords, .apiAuditRecord, .apiAuditTrace: Rule(.roles([.complianceOfficer]), .audit)
        case .apiAuditSearch: Rule(.roles([.complianceOfficer]), .audit, Self.form)
        case .apiAuditExport: Rule(.roles([.complianceOfficer]), .audit, Self.form)
        case .apiPolicies: Rule(.signedIn, .read)
        case .apiPolicyLint, .apiPolicyTest, .apiPolicyDecide: Rule(.roles(Self.policyReaders), .policy, Self.files)
        case .apiPolicyMatrix, .apiPolicyCedar, .apiPolicyBundles, .apiPolicyBundle, .apiPolicyFiles:
            Rule(.roles(Self.policyReaders), .policy)
        case .apiPolicyCompare: Rule(.roles([.policyAdministrator, .complianceOfficer]), .policy, Self.files)
        case .apiPolicyPropose: Rule(.roles([.policyAdministrator]), .policy, Self.files)
        case .apiPolicyActivate, .apiPolicyReturn: Rule(.roles([.policyAdministrator]), .policy, Self.form)
        case .apiPolicySign, .apiPolicyKey, .apiPolicyKeyRevoke: Rule(.roles(Self.policySigners), .policy, Self.form)
        // Everybody but those who look after people sees only themselves.
        case .apiPeople, .apiPerson: Rule(.signedIn, .read)
        case .apiPersonAdd: Rule(.roles([.operatorRole]), .administer, Self.form)
        case .apiTokens: Rule(.signedIn, .read)
        case .apiTokenCreate, .apiTokenRevoke: Rule(.signedIn, .administer, Self.form)
        case .apiNodes, .apiNode, .apiDeviceLine:
            Rule(.roles([.operatorRole, .securityOfficer, .complianceOfficer]), .administer)
        case .apiNodeDrain, .apiNodeMeasure: Rule(.roles([.operatorRole]), .administer, Self.form)
        case .apiNodeQuarantine: Rule(.roles([.operatorRole, .securityOfficer]), .administer, Self.form)
        case .apiInventory: Rule(.roles([.operatorRole]), .administer, Self.text)
        case .apiNodeAdd: Rule(.roles([.operatorRole]), .administer, Self.form)
        case .apiNodeReinstate: Rule(.roles([.operatorRole]), .administer, Self.form)

        case .signInPage, .stylesheet, .script, .icon, .languageChoice: Rule(.anyone, nil)
        case .signIn: Rule(.anyone, nil, .collected(bytesMax: 256 << 10))
        case .signOut, .passwordChange: Rule(.signedIn, nil, Self.form)
        case .passwordPage: Rule(.signedIn, nil)

        case .home: Rule(.signedIn, nil)
        case .requestsPage, .requestPage: Rule(.signedIn, nil)
        case .requestNewPage: Rule(.roles([.researcher]), nil)
        // A data set's own form may have 200 fields.
        case .requestFile, .requestChange, .draftSave: Rule(.roles([.researcher]), nil, .collected(bytesMax: 256 << 10))
        case .requestWithdraw, .requestRenew, .requestDocument, .requestClose, .draftDiscard:
            Rule(.roles([.researcher]), nil, Self.form)
        case .requestChangePage, .draftPage: Rule(.roles([.researcher]), nil)
        case .closureConfirm: Rule(.roles(Self.reviewers), nil, Self.form)
        case .noticesPage: Rule(.signedIn, nil)
        case .noticesRead: Rule(.signedIn, nil, Self.form)
        case .emergencyReview:
            Rule(.roles([.complianceOfficer, .securityOfficer, .dac, .dataCustodian]), nil, Self.form)
        case .accessPage: Rule(.roles(Self.revokers.union([.complianceOfficer])), nil)
        case .accessRevoke: Rule(.roles(Self.revokers), nil, Self.form)
        case .passportPage: Rule(.roles([.researcher]), nil)
        case .passportPresent: Rule(.roles([.researcher]), nil, Self.text)
        case .reviewsPage: Rule(.roles(Self.reviewers), nil)
        case .requestReview: Rule(.roles(Self.reviewers), nil, Self.form)
        case .runsPage, .runPage, .runEvents: Rule(.signedIn, nil)
        case .runNewPage: Rule(.roles([.researcher]), nil)
        case .runStart: Rule(.roles([.researcher]), nil, Self.text)
        case .runCancel: Rule(.roles([.researcher, .operatorRole, .dataCustodian]), nil, Self.form)
        case .releasePage, .releaseReport: Rule(.roles(Self.reviewers.union([.researcher, .complianceOfficer])), nil)
        case .releaseReview: Rule(.roles(Self.reviewers), nil, Self.form)
        case .releaseTake: Rule(.roles([.researcher]), nil, Self.form)
        case .auditPage, .auditRecordPage, .auditExportPage, .auditExportFile: Rule(.roles([.complianceOfficer]), nil)
        case .auditExport: Rule(.roles([.complianceOfficer]), nil, Self.form)
        case .policiesPage, .policyMatrixPage, .policyCedarPage, .policyDecidePage, .policyBundlesPage,
            .policyBundlePage, .policyFilePage, .policyDownload:
            Rule(.roles(Self.policyReaders), nil)
        case .policyDecide: Rule(.roles(Self.policyReaders), nil, Self.files)
        case .policyReplayPage: Rule(.roles([.policyAdministrator, .complianceOfficer]), nil)
        case .policyProposePage: Rule(.roles([.policyAdministrator]), nil)
        case .policyPropose: Rule(.roles([.policyAdministrator]), nil, Self.files)
        case .policyActivate, .policyReturn: Rule(.roles([.policyAdministrator]), nil, Self.form)
        case .policySign, .policyKey, .policyKeyRevoke: Rule(.roles(Self.policySigners), nil, Self.form)
        }
    }

    /// Whoever a policy may name as a reviewer; the gateway then holds a review to the policy's own list.
    private static let reviewers: Set<Role> = [
        .dac, .dataCustodian, .outputChecker, .securityOfficer, .complianceOfficer,
    ]
    /// Who may take access away.
    private static let revokers: Set<Role> = [.dac, .dataCustodian, .securityOfficer]
    /// Whose signatures make policies, and who may look at all of them.
    private static let policySigners: Set<Role> = [.policyAdministrator, .dataCustodian, .dac, .securityOfficer]
    private static let policyReaders = policySigners.union([.complianceOfficer])
    private static let form = Rule.Body.collected(bytesMax: 64 << 10)
    private static let text = Rule.Body.collected(bytesMax: 1 << 20)
    private static let files = Rule.Body.collected(bytesMax: Limits.jsonBytesMax)

    /// The method, such as `GET`.
    package var method: String { String(rawValue.prefix { $0 != " " }) }
    /// The path with `:name` for what varies.
    package var path: String { String(rawValue.drop { $0 != " " }.dropFirst()) }
    /// Answers problems as JSON; every other route is a page and answers them as one.
    package var isAPI: Bool { path.hasPrefix("/api/") || isOperations }
    package var isOperations: Bool { [.health, .readiness, .metrics].contains(self) }
    /// Changes nothing, so it may be asked without a CSRF token.
    package var isSafe: Bool { method == "GET" }
}
