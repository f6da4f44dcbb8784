/// Where a run is on its journey. The one list of stages: trail, API, pages and command line all use it.
package enum RunStage: String, CaseIterable, Codable, Sendable, Comparable {
    /// The run decision has been asked for.
    case decide
    /// The run image for the permitted cohort is being built and sealed.
    case open
    /// A device is being attested, leased and attached.
    case attach
    /// The training plan is being made from sizes and measured rates.
    case plan
    /// The device is training.
    case train
    /// The device is being scrubbed and detached.
    case scrub
    /// The candidate waits for its checks and reviewers.
    case review
    /// The model and its figures may be taken by the researcher.
    case release
    /// Nothing more will happen in this run.
    case closed

    package static func < (left: Self, right: Self) -> Bool { left.position < right.position }

    private var position: Int { Self.allCases.firstIndex(of: self)! }
}
