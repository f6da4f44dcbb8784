package import DurableFiles
package import Sealing
internal import TransparencyLog
package import Vocabulary

/// What a trail needs from its owner each time it is opened.
package struct TrailHome: Sendable {
    /// The trail's folder.
    package let disk: any Disk
    /// The anchor's folder, on another volume than the trail.
    package let anchor: any Disk
    package let settings: TrailSettings
    package let clock: any WallClock

    package init(disk: any Disk, anchor: any Disk, settings: TrailSettings, clock: any WallClock) {
        self.disk = disk
        self.anchor = anchor
        self.settings = settings
        self.clock = clock
    }
}

extension Trail {
    /// Makes a new trail with its first era and the record `trail.created`. Refuses where one exists.
    ///
    /// `hostKey` (32 bytes) seals the keys of open eras on this host; it is derived from the gateway's root key.
    package static func create(
        in home: TrailHome, signingKey: consuming SigningKey, hostKey: borrowing SecretBytes
    ) throws(TrailError) -> Trail {
        let identity = try checked(home, signingKey.verifyingKey, hostKey)
        let trail: Trail
        do {
            try home.disk.lock()
            // Written last: without it nothing was ever acknowledged, and what an interrupted creation left goes.
            guard try home.disk.read(TrailFiles.identity) == nil else {
                throw TrailError(.alreadyExists, "there is a trail already")
            }
            guard try home.anchor.read(TrailFiles.anchor).map({ isYoung($0, identity) }) ?? true else {
                throw TrailError(.alreadyExists, "the anchor belongs to a trail that is not here")
            }
            for folder in [WALNames.folder, EraKeyFile.folder] {
                for name in try home.disk.names(in: folder) { try home.disk.remove("\(folder)/\(name)") }
            }
            try home.disk.preallocate(WALNames.reserve, byteCount: home.settings.reserveBytes)
            let path = WALNames.segment(first: 0)
            try home.disk.preallocate(path, byteCount: home.settings.segmentBytes)
            var state = TrailState(
                segment: Segment(path: path, used: 0, byteCount: home.settings.segmentBytes))
            state.anchored = try home.anchor.read(TrailFiles.anchor)
            trail = Trail(
                identity: identity, disk: home.disk, anchor: home.anchor, settings: home.settings,
                signingKey: signingKey, hostKey: hostKey, clock: home.clock, state: state)
        } catch let error as TrailError {
            throw error
        } catch {
            throw failure(of: error)
        }
        try trail.openGatewayEra()
        _ = try trail.record(TrailRecord(.trailCreated, .done), in: .gateway)
        try trail.publish()
        do {
            try home.disk.replace(TrailFiles.identity, with: Array("\(identity)\n".utf8), durable: true)
        } catch {
            throw failure(of: error)
        }
        return trail
    }

    /// Opens a trail after whatever happened, and says what it found and did. Refuses a log that was changed, rolled
    /// back below a signed head, or belongs to another key.
    package static func open(
        in home: TrailHome, signingKey: consuming SigningKey, hostKey: borrowing SecretBytes
    ) throws(TrailError) -> (trail: Trail, findings: [TrailFinding]) {
        let identity = try checked(home, signingKey.verifyingKey, hostKey)
        var recovery: Recovery
        do {
            try home.disk.lock()
            guard let text = try home.disk.read(TrailFiles.identity) else {
                throw TrailError(.notFound, "there is no trail")
            }
            guard text == Array("\(identity)\n".utf8) else {
                throw TrailError(.wrongKey, "the trail belongs to another key or name")
            }
            recovery = Recovery(home: home, identity: identity)
            try recovery.readSegments()
            try recovery.checkHeads()
            try recovery.openEras(hostKey: hostKey)
            try recovery.repair()
        } catch let error as TrailError {
            throw error
        } catch {
            throw failure(of: error)
        }
        let findings = recovery.findings
        let trail = Trail(
            identity: identity, disk: home.disk, anchor: home.anchor, settings: home.settings, signingKey: signingKey,
            hostKey: hostKey, clock: home.clock, state: recovery.state)
        return try trail.finishOpening(findings, torn: recovery.torn)
    }

    private static func checked(
        _ home: TrailHome, _ key: VerifyingKey, _ hostKey: borrowing SecretBytes
    ) throws(TrailError) -> TrailIdentity {
        guard !home.settings.readers.isEmpty, hostKey.count == 32,
            home.settings.segmentBytes >= 1 << 16, home.settings.reserveBytes >= 1 << 16
        else {
            throw TrailError(.malformed, "a trail needs a reader, a 32-byte host key and segments of 64 KiB or more")
        }
        do {
            return try TrailIdentity(origin: home.settings.origin, key: key)
        } catch {
            throw TrailError(.malformed, error.publicDescription)
        }
    }

    /// Whether an anchor holds nothing but the head of an interrupted creation.
    private static func isYoung(_ note: [UInt8], _ identity: TrailIdentity) -> Bool {
        guard let head = try? SignedCheckpoint(parsing: note, by: identity) else { return false }
        return head.size <= 2
    }

    private static func failure(of error: any Error) -> TrailError {
        switch error as? DiskError {
        case .noSpace: full
        case .busy: TrailError(.busy, "another process has the trail open")
        default: TrailError(.poisoned, "the trail's disk could not be read or written")
        }
    }
}

/// Finds out what is on the disk.
private struct Recovery {
    let home: TrailHome
    let identity: TrailIdentity
    var state = TrailState(segment: Segment(path: "", used: 0, byteCount: 0))
    var findings: [TrailFinding] = []
    /// What a crash left of a batch that nobody was told is durable.
    var torn: (path: String, bytes: Range<Int>, digest: Digest)?
    private var lastNote: [UInt8]?
    private var ledger = EraLedger()

    init(home: TrailHome, identity: TrailIdentity) {
        self.home = home
        self.identity = identity
    }

    mutating func readSegments() throws {
        let names = try home.disk.names(in: WALNames.folder).filter { WALNames.firstIndex(of: $0) != nil }
        guard !names.isEmpty else { throw TrailError(.damaged, "the trail's segments are gone") }
        for name in names {
            guard WALNames.firstIndex(of: name) == state.tree.size else {
                throw TrailError(.damaged, "segments are missing before entry \(state.tree.size)")
            }
            // A later segment is begun only when everything before it is durable.
            guard torn == nil else {
                throw TrailError(.damaged, "entry \(state.tree.size) is unreadable inside the log")
            }
            try readSegment("\(WALNames.folder)/\(name)")
        }
    }

    private mutating func readSegment(_ path: String) throws {
        guard let bytes = try home.disk.read(path) else { throw TrailError(.damaged, "a segment is gone") }
        var at = 0
        while let frame = WALFrame(in: bytes, at: at) {
            guard frame.index == state.tree.size else {
                throw TrailError(.damaged, "entry \(state.tree.size) is missing or doubled")
            }
            if frame.isHead { try take(head: frame) } else { try take(leaf: frame, path: path) }
            at = frame.end
        }
        switch WALTail(of: bytes, after: at) {
        case .clean: break
        case .damaged: throw TrailError(.damaged, "entry \(state.tree.size) is unreadable inside the log")
        case .torn(let range): torn = (path, range, SHA256.hash(bytes[range]))
        }
        state.segment = Segment(path: path, used: at, byteCount: bytes.count)
    }

    private mutating func take(leaf frame: WALFrame, path: String) throws {
        let hash = Merkle.leafHash(frame.payload)
        guard hash == frame.hash, let header = try? LeafHeader(leaf: frame.payload) else {
            throw TrailError(.damaged, "entry \(frame.index) does not fit its hash")
        }
        do {
            try ledger.take(header, leafHash: hash, index: frame.index)
        } catch {
            throw TrailError(.damaged, error.publicDescription)
        }
        state.indexByHash[hash] = frame.index
        if header.kind == .record { state.records += 1 }
        state.tree.append(hash)
        state.places.append(
            Place(path: path, offset: frame.offset + WALFrame.headerBytes, count: frame.payload.count))
    }

    private mutating func take(head frame: WALFrame) throws {
        guard SHA256.hash(frame.payload) == frame.hash else {
            throw TrailError(.damaged, "a head of size \(frame.index) does not fit its hash")
        }
        lastNote = Array(frame.payload)
    }

    /// Holds the log to every head that may have left this host.
    mutating func checkHeads() throws {
        guard let note = try home.anchor.read(TrailFiles.anchor) else {
            throw TrailError(.rolledBack, "the anchor is gone; without it a rollback cannot be told")
        }
        state.anchored = note
        try check(note, "the anchor")
        if let lastNote { state.head = try check(lastNote, "the last head in the log") }
        if let published = try home.disk.read(TrailFiles.checkpoint) {
            state.published = try check(published, "the published checkpoint").size
        }
    }

    @discardableResult
    private func check(_ note: [UInt8], _ what: String) throws(TrailError) -> SignedCheckpoint {
        let head: SignedCheckpoint
        do {
            head = try SignedCheckpoint(parsing: note, by: identity)
        } catch {
            throw TrailError(.damaged, "\(what) is not signed by the trail's key")
        }
        guard head.size <= state.tree.size else {
            throw TrailError(
                .rolledBack, "the log has \(state.tree.size) entries, \(what) \(head.size): it has been rolled back")
        }
        guard state.tree.root(size: head.size) == head.root else {
            throw TrailError(.damaged, "the log differs from \(what) below entry \(head.size)")
        }
        return head
    }

    mutating func openEras(hostKey: borrowing SecretBytes) throws {
        let names = Set(try home.disk.names(in: EraKeyFile.folder))
        state.nextEra = (ledger.eras.keys.max() ?? 0) + 1
        for (number, era) in ledger.eras.sorted(by: { $0.key < $1.key }) {
            if !names.contains("\(number).json") {
                findings.append(TrailFinding(code: .keysMissing, text: "the wrapped keys of era \(number) are gone"))
            }
            let path = HostKeyFile.path(number)
            if era.isClosed {
                guard names.contains("\(number).host") else { continue }
                try home.disk.erase(path)
                findings.append(
                    TrailFinding(code: .leftoverKeyErased, text: "era \(number) was closed but its key not yet erased"))
            } else {
                guard let bytes = try home.disk.read(path) else {
                    throw TrailError(.damaged, "the gateway's copy of the key of open era \(number) is gone")
                }
                let open = try HostKeyFile.open(bytes, era: number, opened: era.opened, hostKey: hostKey)
                guard open.key.commitment == era.commitment else {
                    throw TrailError(.damaged, "the key of era \(number) is not the one its entries commit to")
                }
                open.durable = era.chain
                open.pending = era.chain
                state.eras[number] = open
                if let run = open.run { state.runEras[run] = number } else { state.gatewayEra = number }
            }
        }
        // Keys are written before their era's first entry: a crash between leaves keys that opened nothing.
        for name in names {
            guard let number = UInt64(name.prefix(while: \.isNumber)), ledger.eras[number] == nil else { continue }
            try home.disk.erase("\(EraKeyFile.folder)/\(name)")
            findings.append(TrailFinding(code: .unusedKeysRemoved, text: "era \(number) had keys but no entry"))
        }
    }

    /// Cuts what was torn and makes the reserve again.
    mutating func repair() throws {
        if let torn {
            let zeros = [UInt8](repeating: 0, count: torn.bytes.count)
            try home.disk.write(zeros, to: torn.path, offset: torn.bytes.lowerBound)
            try home.disk.sync(torn.path)
            findings.append(
                TrailFinding(
                    code: .tornFrameCut,
                    text: "\(torn.bytes.count) bytes after entry \(state.tree.size) were not wholly written; cut"))
        }
        guard try !home.disk.names(in: WALNames.folder).contains("reserve.seg") else { return }
        do {
            try home.disk.preallocate(WALNames.reserve, byteCount: home.settings.reserveBytes)
        } catch DiskError.noSpace {
            state.hasReserve = false
            findings.append(TrailFinding(code: .reserveMissing, text: "there is no space for the trail's reserve"))
        }
    }
}
