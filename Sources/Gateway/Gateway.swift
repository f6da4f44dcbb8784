import AuditTrail
import DurableFiles
package import Foundation
import GPUFabric
import GraphVault
import Passports
import PolicyEngine
import Sealing
import Training
import TransparencyLog
package import Vocabulary

/// The enclave's gateway over one home folder: it alone knows all the parts, and Journey.swift is what it does.
package actor Gateway {
    let home: Home
    let settings: Home.Settings
    let vault: Vault
    let trail: Trail
    let ledger: Ledger
    /// Drafts, notices and messages that are still to go out.
    nonisolated let desk: DeskFile
    package nonisolated let clock: any WallClock
    /// Who people are and how they sign in, readable without waiting for the gateway.
    package nonisolated let directory: Directory
    /// What this start found and mended, in words that are safe to show.
    package let findings: [String]
    private let lock: HomeLock
    /// Seals the private keys of the fabric's certificates.
    let fabricKeys: SecretBytes
    /// Makes the names of persons in the trail.
    let pseudonymKey: SecretBytes

    /// The device that a run of this process holds. Lost with the process; the next one takes it over with a higher
    /// fence.
    var sessions: [RunID: DeviceSession] = [:]
    /// Runs that an advance of this process is working on.
    var advancing: Set<RunID> = []
    var attestedNodes: [RunID: AttestedNode] = [:]
    /// Runs that found every device busy, with the pools they may use.
    var deviceWaits: [RunID: Set<String>] = [:]
    /// Why the last device that was asked could not be had.
    var deviceRefusals: [RunID: FabricError] = [:]
    /// How often a run's training is kept, so that a crash does not cost it.
    var checkpointRule = CheckpointRule.usual
    /// How the rates that a plan stands on are found: device, folder of the SSD tier.
    var measuring: @Sendable (RemoteGPU, String) async throws -> MeasuredRates = MeasuredRates.init(_:ssdFolder:)
    var fenceHandedOut = Fence(0)
    /// The policies in force, by the place in the trail of their activation.
    var policyCache: (activation: UInt64, set: PolicySet)?
    var fabricCache: Fabric?
    /// Whose passports count, by the place in the trail of the record that says so.
    var trustCache: (index: UInt64, trust: PassportTrust)?
    /// Keys of passports' issuers.
    let keySets: KeySetCache
    /// Sealed bytes that one run may keep on this host.
    let hostBytesMax = 8 << 30
    /// Disk of this host for what memory has no room for.
    let ssdBytesMax = 64 << 30
    /// Who follows which run.
    let feed = RunFeed()
    /// Where messages go out; nowhere unless the operator says so.
    var mailHook: MailHook?
    var isSendingMail = false
    /// Which runs somebody should work on.
    let due = DueRuns()

    /// Opens a home. Refuses if another process holds it, if the key is wrong, or if vault, trail and database do not
    /// belong together.
    ///
    /// - Parameter reanchoring: the operator who wants the trail opened although its anchor is gone.
    package init(
        home folder: URL, key: HomeKey, clock: any WallClock = SystemClock(), reanchoring: PersonID? = nil
    ) async throws {
        try ProcessGuard.harden()
        let clock = GuardedClock(clock)
        let home = Home(folder: folder)
        let settings = try home.readSettings()
        let lock = try home.lock()
        let vault: Vault
        do {
            vault = try Vault.open(at: home.vault.path, unsealing: key.unsealing())
        } catch let error as VaultError { throw GatewayError(vault: error) }
        try home.check(settings, key: await vault.derivedKey(DerivedKey.settings))
        let signingKey = try Self.signingKey(home, await vault.derivedKey(DerivedKey.trailSigning))
        let trail: Trail
        let trailFindings: [TrailFinding]
        do throws(TrailError) {
            (trail, trailFindings) = try Trail.open(
                in: Self.trailHome(home, settings, clock, makesAnchorAnew: reanchoring != nil), signingKey: signingKey,
                hostKey: await vault.derivedKey(DerivedKey.trailEras))
        } catch { throw GatewayError(trail: error) }
        guard trail.identity == settings.trail else {
            throw GatewayError(.integrity, "the trail is not the one in the settings")
        }
        let ledger = try Ledger(
            trail: trail, databasePath: home.database.path, key: await vault.derivedKey(DerivedKey.caseRecords),
            clock: clock)
        self.home = home
        self.settings = settings
        self.vault = vault
        self.trail = trail
        self.ledger = ledger
        desk = try DeskFile(path: home.desk.path, key: await vault.derivedKey(DerivedKey.desk))
        try desk.begin(at: ledger.records.last.map { $0.index + 1 } ?? 0)
        self.clock = clock
        keySets = KeySetCache(now: { clock.now() }, get: KeySetHTTP.get)
        directory = Directory(ledger.file(.gateway).records)
        self.lock = lock
        fabricKeys = await vault.derivedKey(DerivedKey.fabricKeys)
        pseudonymKey = await vault.derivedKey(DerivedKey.pseudonyms)
        findings = vault.findings.map(\.words) + trailFindings.map(\.text)
        if !vault.findings.isEmpty {
            try ledger.record(
                Event(.gatewayRecovered, .done).with { $0.reasons = vault.findings.map(\.code) }, in: .gateway,
                key: ledger.freshKey("recovered"))
        }
        if let reanchoring {
            try require(reanchoring, anyOf: [.operatorRole, .securityOfficer])
            guard trailFindings.contains(where: { $0.code == .anchorMade }) else {
                throw GatewayError(.usage, "the trail's anchor is in its place; there is nothing to make anew")
            }
            try ledger.record(
                Event(.trailReanchored, .done).with { $0.actor = reanchoring }, in: .gateway,
                key: ledger.freshKey("reanchored"))
        }
        try checkPolicies()
        do {
            try Self.recordStart(ledger, settings, clock)
        } catch let error as GatewayError where error.code == .trailFull {
            // A gateway that cannot say how it started still ends what runs.
        }
    }

    /// Ends the process's hold on the home in good order: a device that a run still holds is given back scrubbed, with
    /// its certificate in the trail, and the run goes on from its records when it is resumed.
    package func close() async {
        due.clear()
        feed.finish()
        for node in attestedNodes.values { node.giveUp() }
        attestedNodes.removeAll()
        for (run, session) in sessions { await giveBack(session, of: run) }
        sessions.removeAll()
        try? ledger.close()
        try? desk.close()
        trail.close()
    }

    // MARK: - A new home

    /// Makes a home and returns the trail's identity, which nodes and auditors pin.
    package static func initialise(
        home folder: URL, key: HomeKey, origin: String, anchor: URL?, auditors: [URL], recovery: URL,
        clock: any WallClock = SystemClock()
    ) async throws -> String {
        let home = Home(folder: folder)
        guard !home.exists else { throw GatewayError(.usage, "there is a home here already") }
        guard !auditors.isEmpty else { throw GatewayError(.usage, "name at least one auditor's public key") }
        let auditorKeys = try auditors.map { try AuditorKeyFile.readPublic($0) }
        let recoveryKey = try AuditorKeyFile.readPublic(recovery)
        do {
            try FileManager.default.createDirectory(
                at: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        } catch { throw GatewayError(.unavailable, "the home folder cannot be made") }
        let lock = try home.lock()
        defer { withExtendedLifetime(lock) {} }
        let vault = try Vault.create(at: home.vault.path, unsealing: key.unsealing(isNew: true))
        let signingKey = SigningKey.generate()
        let identity = try TrailIdentity(origin: origin, key: signingKey.verifyingKey)
        try writeSigningKey(signingKey, home.signingKey, await vault.derivedKey(DerivedKey.trailSigning))
        let settings = Home.Settings(
            trail: identity, anchor: anchor ?? folder.appendingPathComponent("anchor"), auditors: auditorKeys,
            recovery: recoveryKey)
        let trail: Trail
        do throws(TrailError) {
            trail = try Trail.create(
                in: trailHome(home, settings, clock), signingKey: signingKey,
                hostKey: await vault.derivedKey(DerivedKey.trailEras))
        } catch { throw GatewayError(trail: error) }
        trail.close()
        // Written last: a home without settings is no home, and `init` can be run again after its folder is removed.
        try home.write(settings, key: await vault.derivedKey(DerivedKey.settings))
        return identity.description
    }

    private static func trailHome(
        _ home: Home, _ settings: Home.Settings, _ clock: any WallClock, makesAnchorAnew: Bool = false
    ) throws(TrailError) -> TrailHome {
        let readers = settings.auditors.enumerated().map { TrailReader(name: "auditor-\($0 + 1)", key: $1) }
        do {
            var trail = TrailSettings(
                origin: settings.trail.origin,
                readers: readers + [TrailReader(name: "recovery", key: settings.recovery)])
            trail.makesAnchorAnew = makesAnchorAnew
            return TrailHome(
                disk: try FolderDisk(home.trail.path), anchor: try FolderDisk(settings.anchor.path), settings: trail,
                clock: clock)
        } catch { throw TrailError(.poisoned, "the trail's folder or its anchor cannot be used") }
    }

    static func writeSigningKey(
        _ key: borrowing SigningKey, _ file: URL, _ sealing: borrowing SecretBytes
    ) throws {
        let sealed = key.withSeed { SmallCipher.sealSecret($0, key: sealing, aad: Array("trail-signing-key".utf8)) }
        try GatewayFile.write(sealed, to: file, role: "trail's signing key")
    }

    /// The key that the trail's heads are signed with now. A crash may have come after the trail took over the next
    /// one and before its file did.
    private static func signingKey(_ home: Home, _ sealing: borrowing SecretBytes) throws -> SigningKey {
        guard FileManager.default.fileExists(atPath: home.nextSigningKey.path) else {
            return try readSigningKey(home.signingKey, sealing)
        }
        let next = try readSigningKey(home.nextSigningKey, sealing)
        guard try Trail.currentKey(in: FolderDisk(home.trail.path)) == next.verifyingKey else {
            return try readSigningKey(home.signingKey, sealing)
        }
        try takeOverNextSigningKey(home)
        return next
    }

    private static func readSigningKey(_ file: URL, _ sealing: borrowing SecretBytes) throws -> SigningKey {
        let bytes = try GatewayFile.bytes(file, role: "trail's signing key")
        let seed = try SmallCipher.openSecret(
            noncePrefixed: bytes, key: sealing, aad: Array("trail-signing-key".utf8))
        return try SigningKey(seed: seed)
    }

    // MARK: - Looking

    /// A case as its records tell it. Requester and researcher see their own; figures of a run are not in it before its
    /// release. Whoever else may look is recorded as reading.
    package func timeline(_ id: CaseID, by person: PersonID) throws -> [CaseRecord] {
        var records = try self.records(of: id)
        switch id {
        case .run(let run):
            let run = try runCase(run)
            if reviewsMissing(run) != nil {
                // The next word is given independently of those that were given before it.
                records.removeAll { $0.event == .releaseReviewed && $0.actor != person }
            }
            if person == run.researcher {
                return run.isReleased ? records : records.compactMap(\.withoutFigures)
            }
            try requireOpening(of: run, by: person)
        case .request(let request):
            let request = try accessRequest(request)
            try requireSight(of: request, by: person)
            let viewer = try self.person(person)
            let shown =
                hidesVotes(of: request, from: viewer)
                ? records.filter { $0.event != .requestReviewed || $0.actor == person } : records
            if [.requester, .colleague].contains(lifeStanding(of: viewer, on: request)) { return shown }
            try recordReading(of: id, by: person)
            return shown
        case .gateway: try require(person, anyOf: Self.caseReaders)
        }
        try recordReading(of: id, by: person)
        return records
    }

    private func recordReading(of id: CaseID, by person: PersonID) throws {
        try ledger.record(
            Event(.trailRead, .done).with {
                $0.actor = person
                $0.detail = ["read": .string(id.description)]
            }, in: .gateway, key: ledger.freshKey("read"))
    }

    func records(of id: CaseID) throws -> [CaseRecord] {
        let records = ledger.file(id).records
        guard !records.isEmpty else { throw GatewayError(.notFound, "there is no \(id)") }
        return records
    }
}

/// What the vault's root key is put to outside the vault; each name gives a key of its own.
enum DerivedKey {
    static let settings = "sekisho settings v1"
    static let trailSigning = "sekisho trail signing key v1"
    static let trailEras = "sekisho trail eras v1"
    static let caseRecords = "sekisho case records v1"
    static let desk = "sekisho desk v1"
    static let fabricKeys = "sekisho fabric keys v1"
    static let sealedExports = "sekisho sealed exports v1"
    static let pseudonyms = "sekisho subject pseudonyms v1"
}

/// The machine's clock.
package struct SystemClock: WallClock {
    package init() {}
    package func now() -> Timestamp {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Timestamp(milliseconds: Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000)
    }
}

extension HomeKey {
    /// - Parameter isNew: a new home takes only keys that are strong enough.
    func unsealing(isNew: Bool = false) throws -> Unsealing {
        switch self {
        case .keyFile(let file):
            var bytes = try GatewayFile.bytes(file, role: "key file")
            defer { wipe(&bytes) }
            guard bytes.count >= 32 else { throw GatewayError(.usage, "a key file holds at least 32 random bytes") }
            return .keyFile(SecretBytes(copying: bytes))
        case .passphrase(let typed):
            guard !isNew || typed.count >= 12 else {
                throw GatewayError(.usage, "a new home's passphrase has at least 12 characters")
            }
            return .passphrase(SecretBytes(copying: typed))
        }
    }
}

extension Vault.Finding {
    var code: String {
        switch self {
        case .unfinishedWorkRemoved: "unfinished-work-removed"
        case .unknownVersionRemoved: "unknown-version-removed"
        case .unknownImageRemoved: "unknown-image-removed"
        case .unknownCandidateRemoved: "unknown-candidate-removed"
        case .versionMissing: "version-missing"
        }
    }

    /// For whoever starts the gateway after a crash.
    var words: String {
        switch self {
        case .unfinishedWorkRemoved: "work that a crash had left unfinished was removed; nothing recorded is lost"
        case .unknownVersionRemoved(let dataset, let version):
            "files of \(dataset) \(version), whose import was never finished, were removed; import again"
        case .unknownImageRemoved(let run):
            "an unfinished image of run \(run) was removed; it is built again when needed"
        case .unknownCandidateRemoved(let run): "an unfinished candidate of run \(run) was removed"
        case .versionMissing(let dataset, let version):
            "the files of \(dataset) \(version) are missing; restore them from the backup"
        }
    }
}
