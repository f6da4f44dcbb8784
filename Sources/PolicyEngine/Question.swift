package import Vocabulary

/// Everything a policy can be asked. A question carries all facts of its decision, so that its `input` can be hashed
/// into the trail, kept in the case record and decided again later.
package enum Question: Sendable, Equatable {
    case access(AccessQuestion)
    case run(RunQuestion)
    case progress(ProgressQuestion)
    case release(ReleaseQuestion)

    /// What is asked, as inputs write it.
    package enum Kind: String, CaseIterable, Sendable { case access, run, progress, release }

    package var kind: Kind {
        switch self {
        case .access: .access
        case .run: .run
        case .progress: .progress
        case .release: .release
        }
    }

    package var dataset: DatasetID {
        switch self {
        case .access(let question): question.dataset
        case .run(let question): question.dataset
        case .progress(let question): question.dataset
        case .release(let question): question.dataset
        }
    }
}

/// What data are wanted for. A fact that is not known is `nil`; a rule that needs it then refuses.
package struct Purpose: Sendable, Equatable {
    /// DUO codes: DUO:0000042 any research, DUO:0000006 health, DUO:0000007 the given diseases, DUO:0000011 ancestry,
    /// DUO:0000043 clinical care. Every one of them must be allowed.
    package var codes: [String]
    /// MONDO ids; only with DUO:0000007.
    package var diseases: [String]
    /// Does it study population origins or ancestry? DUO:0000011 says yes; DUO:0000006 and 7 say no unless this does.
    package var ancestry: Bool?
    /// Does it develop methods, software or algorithms?
    package var methods: Bool?
    package var commercial: Bool?
    /// Is the requester's organisation not for profit?
    package var notForProfit: Bool?
    /// Does it study genotypes, alone or with phenotypes?
    package var genetic: Bool?
    package var researchTypes: [String]

    package init(
        codes: [String], diseases: [String] = [], ancestry: Bool? = nil, methods: Bool? = nil,
        commercial: Bool? = nil, notForProfit: Bool? = nil, genetic: Bool? = nil, researchTypes: [String] = []
    ) {
        self.codes = codes
        self.diseases = diseases
        self.ancestry = ancestry
        self.methods = methods
        self.commercial = commercial
        self.notForProfit = notForProfit
        self.genetic = genetic
        self.researchTypes = researchTypes
    }
}

/// One person's word on a request or a release, in the role they spoke in.
package struct Vote: Sendable, Equatable {
    package let person: PersonID
    package let role: String
    package let approves: Bool
    /// What the approval is given under.
    package let conditions: [Condition]

    package init(person: PersonID, role: String, approves: Bool, conditions: [Condition] = []) {
        self.person = person
        self.role = role
        self.approves = approves
        self.conditions = conditions
    }
}

/// May this person be granted this data set for this purpose?
package struct AccessQuestion: Sendable, Equatable {
    package struct Document: Sendable, Equatable {
        /// `ethics` for an ethics board's approval.
        package let kind: String
        package let digest: Digest
        package let expires: Timestamp?
        /// What people call it.
        package let name: String?

        package init(kind: String, digest: Digest, expires: Timestamp? = nil, name: String? = nil) {
            self.kind = kind
            self.digest = digest
            self.expires = expires
            self.name = name
        }
    }

    /// A GA4GH visa whose signature and conditions the gateway has checked.
    package struct Visa: Sendable, Equatable {
        package let type: String
        package let by: String
        package let expires: Timestamp

        package init(type: String, by: String, expires: Timestamp) {
            self.type = type
            self.by = by
            self.expires = expires
        }
    }

    /// Emergency access, in the place of approvals and papers that nobody has the time for.
    package struct BreakGlass: Sendable, Equatable {
        package let reason: String
        package let minutes: Int
        /// Earlier emergency accesses to the data set that nobody has looked at afterwards.
        package let unreviewed: Int

        package init(reason: String, minutes: Int, unreviewed: Int) {
            self.reason = reason
            self.minutes = minutes
            self.unreviewed = unreviewed
        }
    }

    package var now: Timestamp
    package var dataset: DatasetID
    package var requester: PersonID
    /// Who else would use the data.
    package var people: [PersonID]
    package var purpose: Purpose
    /// How long the data are wanted for.
    package var termMonths: Int?
    /// Where they are used, ISO 3166-1 alpha-2.
    package var country: String?
    package var institution: String?
    package var project: String?
    package var documents: [Document]
    /// DUO codes of the obligations that the requester has agreed to.
    package var agreements: [String]
    package var visas: [Visa]
    /// Who brought the data set in.
    package var authors: [PersonID]
    package var votes: [Vote]
    package var breakGlass: BreakGlass?
    /// The requester's access was taken away after they asked, or is still taken away.
    package var revoked = false

    package init(
        now: Timestamp, dataset: DatasetID, requester: PersonID, purpose: Purpose, termMonths: Int? = nil,
        country: String? = nil, institution: String? = nil, project: String? = nil, documents: [Document] = [],
        agreements: [String] = [], visas: [Visa] = [], authors: [PersonID], votes: [Vote] = [],
        breakGlass: BreakGlass? = nil, people: [PersonID] = []
    ) {
        self.now = now
        self.dataset = dataset
        self.requester = requester
        self.people = people
        self.purpose = purpose
        self.termMonths = termMonths
        self.country = country
        self.institution = institution
        self.project = project
        self.documents = documents
        self.agreements = agreements
        self.visas = visas
        self.authors = authors
        self.votes = votes
        self.breakGlass = breakGlass
    }
}

/// May this run start on this device, under this grant, at this moment?
package struct RunQuestion: Sendable, Equatable {
    package struct Grant: Sendable, Equatable {
        package let id: GrantID
        package let dataset: DatasetID
        package let holder: PersonID
        /// Who else may use it.
        package let people: [PersonID]
        package let purpose: Purpose
        package let granted: Timestamp
        package let expires: Timestamp
        package let revoked: Bool
        /// What the access decision obliged the holder to.
        package let obligations: [Obligation]
        /// What was handed in with the request and since.
        package let documents: [AccessQuestion.Document]
        /// An emergency asks for no visas.
        package let isEmergency: Bool
        /// Where, by whom and in which project the data are used, as the access decision was told.
        package let country: String?
        package let institution: String?
        package let project: String?

        package init(
            id: GrantID, dataset: DatasetID, holder: PersonID, purpose: Purpose, granted: Timestamp,
            expires: Timestamp, revoked: Bool, obligations: [Obligation], isEmergency: Bool = false,
            country: String? = nil, institution: String? = nil, project: String? = nil,
            people: [PersonID] = [], documents: [AccessQuestion.Document] = []
        ) {
            self.id = id
            self.dataset = dataset
            self.holder = holder
            self.people = people
            self.documents = documents
            self.purpose = purpose
            self.granted = granted
            self.expires = expires
            self.revoked = revoked
            self.obligations = obligations
            self.isEmergency = isEmergency
            self.country = country
            self.institution = institution
            self.project = project
        }
    }

    package struct Device: Sendable, Equatable {
        package let node: NodeID
        package let pool: String
        package let evidence: Evidence
        package let rttMicroseconds: Int?

        package init(node: NodeID, pool: String, evidence: Evidence, rttMicroseconds: Int?) {
            self.node = node
            self.pool = pool
            self.evidence = evidence
            self.rttMicroseconds = rttMicroseconds
        }
    }

    package var now: Timestamp
    package var run: RunID
    package var dataset: DatasetID
    package var requester: PersonID
    package var purpose: Purpose
    /// The label column that the run predicts.
    package var target: String
    package var grant: Grant?
    /// People whose consent holds, and so whose data the run would see.
    package var cohort: Int
    package var device: Device?
    /// Device hours that other runs of the same grant, person or project, as the policy counts them, have used or may
    /// still use; begun hours counted whole.
    package var hoursUsed: Int
    package var hoursAsked: Int
    /// What the requester's passport holds at this moment.
    package var visas: [AccessQuestion.Visa] = []

    package init(
        now: Timestamp, run: RunID, dataset: DatasetID, requester: PersonID, purpose: Purpose, target: String,
        grant: Grant?, cohort: Int, device: Device?, hoursUsed: Int, hoursAsked: Int
    ) {
        self.now = now
        self.run = run
        self.dataset = dataset
        self.requester = requester
        self.purpose = purpose
        self.target = target
        self.grant = grant
        self.cohort = cohort
        self.device = device
        self.hoursUsed = hoursUsed
        self.hoursAsked = hoursAsked
    }
}

/// May the researcher see this kind of figure of a run that is not released?
package struct ProgressQuestion: Sendable, Equatable {
    package enum Figure: String, CaseIterable, Sendable { case loss, metric }

    package var dataset: DatasetID
    package var run: RunID
    package var viewer: PersonID
    package var figure: Figure
    /// People behind the figure: the labelled rows of the split it was computed on.
    package var cohort: Int

    package init(dataset: DatasetID, run: RunID, viewer: PersonID, figure: Figure, cohort: Int) {
        self.dataset = dataset
        self.run = run
        self.viewer = viewer
        self.figure = figure
        self.cohort = cohort
    }
}

/// May this candidate leave the vault?
package struct ReleaseQuestion: Sendable, Equatable {
    package struct Check: Sendable, Equatable {
        package let check: ReleaseCheck
        package let passed: Bool

        package init(check: ReleaseCheck, passed: Bool) {
            self.check = check
            self.passed = passed
        }
    }

    package var now: Timestamp
    package var dataset: DatasetID
    package var run: RunID
    /// Whose run it was. They do not review it.
    package var researcher: PersonID
    /// What would leave.
    package var candidate: Digest
    package var cohort: Int
    package var checks: [Check]
    package var votes: [Vote]

    package init(
        now: Timestamp, dataset: DatasetID, run: RunID, researcher: PersonID, candidate: Digest, cohort: Int,
        checks: [Check], votes: [Vote]
    ) {
        self.now = now
        self.dataset = dataset
        self.run = run
        self.researcher = researcher
        self.candidate = candidate
        self.cohort = cohort
        self.checks = checks
        self.votes = votes
    }
}
