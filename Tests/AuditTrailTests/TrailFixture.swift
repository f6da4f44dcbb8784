import AuditTrail
import DurableFiles
import Sealing
import TestSupport
import TransparencyLog
import Vocabulary

/// A trail's world: its disks, keys and clock.
struct TrailFixture {
    static let origin = "hospital.example/sekisho"

    let disk: MemoryDisk
    let anchor: MemoryDisk
    let clock: ManualClock
    let auditor: AuditorKey
    private let seed: [UInt8]
    /// The seed of the log's first key.
    private let first: [UInt8]
    private let hostKey: [UInt8]

    init(plan: FaultPlan = FaultPlan()) {
        disk = MemoryDisk(plan: plan)
        anchor = MemoryDisk(plan: plan)
        clock = ManualClock()
        auditor = AuditorKey(WrappingKey.generate())
        seed = RandomBytes.array(32)
        first = seed
        hostKey = RandomBytes.array(32)
    }

    private init(_ other: TrailFixture, disk: MemoryDisk, anchor: MemoryDisk, seed: [UInt8]) {
        self.disk = disk
        self.anchor = anchor
        clock = other.clock
        auditor = other.auditor
        first = other.first
        self.seed = seed
        hostKey = other.hostKey
    }

    /// The same world with other disks, or with another key that signs.
    func with(disk: MemoryDisk? = nil, anchor: MemoryDisk? = nil, seed: [UInt8]? = nil) -> TrailFixture {
        TrailFixture(
            self, disk: disk ?? self.disk, anchor: anchor ?? self.anchor, seed: seed ?? self.seed)
    }

    var settings: TrailSettings {
        var settings = TrailSettings(
            origin: Self.origin, readers: [TrailReader(name: "auditor", key: auditor.publicKey)])
        settings.segmentBytes = 1 << 16
        settings.reserveBytes = 1 << 16
        settings.heldLeavesMax = 512
        return settings
    }

    var identity: TrailIdentity {
        let key = try! SigningKey(seed: SecretBytes(copying: first))
        return try! TrailIdentity(origin: Self.origin, key: key.verifyingKey)
    }

    func signingKey() -> SigningKey { try! SigningKey(seed: SecretBytes(copying: seed)) }

    private func home(_ change: (inout TrailSettings) -> Void = { _ in }) -> TrailHome {
        var settings = settings
        change(&settings)
        return TrailHome(disk: disk, anchor: anchor, settings: settings, clock: clock)
    }

    func create() throws(TrailError) -> Trail {
        try Trail.create(in: home(), signingKey: signingKey(), hostKey: SecretBytes(copying: hostKey))
    }

    func open(
        _ change: (inout TrailSettings) -> Void = { _ in }
    ) throws(TrailError) -> (trail: Trail, findings: [TrailFinding]) {
        try Trail.open(in: home(change), signingKey: signingKey(), hostKey: SecretBytes(copying: hostKey))
    }

    func openWithOtherKey() throws(TrailError) -> (trail: Trail, findings: [TrailFinding]) {
        try Trail.open(in: home(), signingKey: SigningKey.generate(), hostKey: SecretBytes(copying: hostKey))
    }

    /// Verifies the trail's own published files.
    @discardableResult
    func verify(
        _ auditor: AuditorKey?, _ visit: (LogEntry) throws -> Void = { _ in }
    ) throws -> LogReport {
        try LogVerifier(disk: disk, folder: "", identity: identity, auditor: auditor).verify(visit)
    }

    /// A whole small run in a new trail: what the other tests look at.
    @discardableResult
    func sampleRun() throws -> Trail {
        let trail = try create()
        let run = try RunID("run-1")
        try trail.openEra(run: run)
        _ = try trail.record(sampleDecision, in: .run(run))
        _ = try trail.record(TrailRecord(.personAdded, .done, [.actor: "admin"]), in: .gateway)
        _ = try trail.record(TrailRecord(.deviceLeased, .intent, [.lease: "lease-1", .fence: 4]), in: .run(run))
        _ = try trail.append(trail.prepareClose(TrailRecord(.runClosed, .done), run: run))
        try trail.publish()
        return trail
    }
}

let sampleDecision = TrailRecord(
    .runDecided, .done, [.decision: "permit", .dataset: "hpo", .version: "v1", .root: "00", .actor: "steward"])
