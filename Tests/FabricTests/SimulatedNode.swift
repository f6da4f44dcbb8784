import FabricProtocol
import FabricTransport
import Sealing
import TestSupport
import Vocabulary

/// A control connection of the simulation: the real frames as bytes, and the secret that TLS would export.
final class ControlWire {
    let wire: VirtualWire<[UInt8]>
    let secret: [UInt8]

    init(_ network: VirtualNetwork) {
        wire = VirtualWire(network, isLane: false)
        secret = network.random.bytes(32)
    }

    func send(_ frame: ControlFrame, from side: VirtualNetwork.Side) { wire.send(frame.encoded, from: side) }

    func transcript(nonce: [UInt8], fence: Fence, lease: LeaseID) -> Digest {
        var writer = WireWriter()
        writer.fixed(secret)
        writer.fixed(nonce)
        writer.integer(fence.number)
        writer.text(lease.text)
        return SHA256.hash(writer.bytes)
    }

    func export(_ label: String, _ context: [UInt8]) -> SecretBytes {
        KeyDerivation.hkdf(SecretBytes(copying: secret), info: label, context: context)
    }
}

/// What travels on a lane: an opening, or a record's real prefix with the number that stands for its block.
enum LaneMessage {
    case opening(Lane.Opening)
    case record([UInt8], block: UInt64?)
}

/// One end of a lane's connection, with the real keys, sequence numbers and tags.
final class LaneEnd {
    let wire: VirtualWire<LaneMessage>
    private let side: VirtualNetwork.Side
    private var sealer: LaneSealer
    private var opener: LaneOpener

    init(
        _ wire: VirtualWire<LaneMessage>, _ side: VirtualNetwork.Side, lane: Int, serial: UInt32, control: ControlWire,
        transcript: Digest, fence: Fence
    ) {
        self.wire = wire
        self.side = side
        func key(_ direction: LaneDirection) -> SecretBytes {
            control.export(
                LaneRecord.keyLabel,
                LaneRecord.keyContext(
                    transcript: transcript, lane: UInt16(lane), serial: serial, direction: direction))
        }
        let (out, into): (LaneDirection, LaneDirection) =
            side == .gateway ? (.toNode, .toGateway) : (.toGateway, .toNode)
        sealer = LaneSealer(key: key(out), lane: UInt16(lane), direction: out, fence: fence)
        opener = LaneOpener(key: key(into), lane: UInt16(lane), direction: into, fence: fence)
    }

    func send(_ header: LaneHeader, block: UInt64? = nil) {
        var prefix = [UInt8](repeating: 0, count: LaneRecord.prefixBytes)
        // The block's tag stands for the block: the lane's tag covers it.
        var tag = WireWriter()
        if let block {
            tag.integer(block)
            tag.integer(UInt64(0))
        }
        try! prefix.withUnsafeMutableBytes { prefix in
            try tag.bytes.withUnsafeBytes { try sealer.seal(header, blockTag: $0, into: prefix) }
        }
        wire.send(.record(prefix, block: block), from: side)
    }

    /// nil where the record is not the next one of this lane.
    func open(_ message: LaneMessage) -> (header: LaneHeader, block: UInt64?)? {
        guard case .record(let prefix, let block) = message,
            let header = try? prefix.withUnsafeBytes({ try opener.open($0) })
        else { return nil }
        if let block {
            var reader = WireReader(Array(prefix[64..<72]))
            guard (try? reader.integer(UInt64.self)) == block else { return nil }
        }
        return (header, block)
    }
}

/// What a doorbell of the simulation does, and what it must come to: a model of one number that depends on everything
/// that was read.
enum SimulatedEpoch {
    static let imageBlocks: UInt64 = 150
    static let spillBlocks: UInt64 = 60

    static func mix(_ values: UInt64...) -> UInt64 {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        for value in values {
            var random = SeededRandom(seed: state ^ value)
            state = random.next()
        }
        return state
    }

    static func image(_ block: UInt64) -> UInt64 { mix(1, block) }
    static func spill(_ epoch: UInt64, _ weights: UInt64, _ block: UInt64) -> UInt64 { mix(2, epoch, weights, block) }

    enum Step {
        case read(window: UInt16, first: UInt64, count: Int)
        /// Waits for all reads and checks what they gave.
        case take
        case write(window: UInt16, block: UInt64, value: UInt64)
        case compute(UInt64)
        case flush
    }

    /// The same for the same epoch and weights, wherever it runs.
    static func steps(_ epoch: UInt64, weights: UInt64) -> (steps: [Step], weights: UInt64, spilled: [UInt64: UInt64]) {
        var random = SeededRandom(seed: mix(3, epoch, weights))
        var steps: [Step] = []
        var spilled: [UInt64: UInt64] = [:]
        var sum = weights
        for _ in 0..<Int.random(in: 2...5, using: &random) {
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let count = UInt64.random(in: 1...40, using: &random)
                let first = UInt64.random(in: 0..<imageBlocks - count, using: &random)
                steps.append(.read(window: 1, first: first, count: Int(count)))
                for block in first..<first + count { sum = mix(sum, image(block)) }
            }
            var asked: Set<UInt64> = []
            for _ in 0..<Int.random(in: 0...12, using: &random) {
                let block = UInt64.random(in: 0..<spillBlocks, using: &random)
                let value = mix(spill(epoch, weights, block), UInt64(steps.count))
                spilled[block] = value
                // A checked program never writes what it is still reading.
                if asked.contains(block) {
                    steps.append(.take)
                    asked = []
                }
                steps.append(.write(window: 2, block: block, value: value))
                if Bool.random(using: &random) {
                    steps.append(.read(window: 2, first: block, count: 1))
                    asked.insert(block)
                }
            }
            steps.append(.take)
            steps.append(.compute(UInt64.random(in: 0...30_000_000, using: &random)))
        }
        let result = mix(sum, epoch)
        steps.append(.write(window: 3, block: 0, value: result))
        steps.append(.flush)
        return (steps, result, spilled)
    }
}

/// A node process: the real keeper and the real requester over virtual connections and a virtual disk.
final class SimulatedNode: KeeperHost {
    /// What works for a lease, until it is torn down.
    private final class Lease {
        let fence: Fence
        var requester: LaneRequester
        var session: (control: ControlWire, transcript: Digest)
        var ends: [LaneEnd?]
        var serials: [UInt32]
        var ring: [[UInt64]]
        var weights: UInt64?
        /// What this lease has written and not had overwritten, block by block.
        var written: [UInt64: UInt64] = [:]
        var program: Program?

        final class Program {
            let transaction: UInt64
            let epoch: UInt64
            var steps: [SimulatedEpoch.Step] = []
            var at = 0
            var result: UInt64 = 0
            var isPausing = false
            /// What each block read must be, in the order of their places, and what came.
            var expected: [UInt64] = []
            var came: [UInt64] = []
            var reading: [UInt64] = []

            init(_ transaction: UInt64, epoch: UInt64) {
                self.transaction = transaction
                self.epoch = epoch
            }
        }

        init(fence: Fence, lanes: Int, session: (control: ControlWire, transcript: Digest)) {
            self.fence = fence
            requester = LaneRequester(lanes: lanes)
            self.session = session
            ends = Array(repeating: nil, count: lanes)
            serials = Array(repeating: 0, count: lanes)
            ring = Array(repeating: Array(repeating: 0, count: LaneCredit.writes), count: lanes)
        }
    }

    /// What proves a later link to be the same gateway's; until the scrub is certified.
    private final class Proof {
        let fence: Fence
        let resumption: LeaseResumption

        init(_ fence: Fence, _ secret: consuming SecretBytes) {
            self.fence = fence
            resumption = LeaseResumption(secret: secret)
        }
    }

    let id: NodeID
    private let world: SimulatedWorld
    private let key = SigningKey.generate()
    /// What is on the disk.
    private var disk = NodeRecord()
    private var keeper: DeviceKeeper?
    private var life = 0
    private var links: [UInt64: ControlWire] = [:]
    private var linkNext: UInt64 = 1
    private var lease: Lease?
    private var proof: Proof?
    /// Whose bytes are in the device's memory.
    private var dirtyBy: Fence?
    private var ticksAt: UInt64?
    /// How often a lease went on over another link.
    private(set) var relinks = 0

    var verifyingKey: VerifyingKey { key.verifyingKey }
    var isUp: Bool { keeper != nil }
    var isClean: Bool { dirtyBy == nil }
    var hasLease: Bool { lease != nil }

    init(_ name: String, _ world: SimulatedWorld) {
        id = try! NodeID(name)
        self.world = world
        start()
    }

    // MARK: Its process

    func start() {
        guard keeper == nil else { return }
        life += 1
        // Memory that a dead process had is the kernel's; the next process offers it again and must scrub it.
        var fresh = DeviceKeeper(
            DeviceKeeper.Offer(node: id, deviceBytes: 1 << 20, threads: 1), record: disk)
        let outputs = fresh.start()
        keeper = fresh
        perform(outputs)
    }

    func crash() {
        keeper = nil
        lease = nil
        proof = nil
        life += 1
        ticksAt = nil
        for wire in links.values { wire.wire.cut(tells: world.network.chance(0.7)) }
        links = [:]
    }

    /// Runs later unless the process has died by then.
    private func later(_ nanoseconds: UInt64, _ body: @escaping () -> Void) {
        let born = life
        world.time.after(nanoseconds) { [self] in if life == born, keeper != nil { body() } }
    }

    // MARK: Connections

    func accept(_ wire: ControlWire) {
        let link = linkNext
        linkNext += 1
        links[link] = wire
        let born = life
        wire.wire.attend(.node) { [self] in
            guard life == born else { return }
            links[link] = nil
            keeper?.unlinked(link)
        } received: { [self] bytes in
            guard life == born, keeper != nil else { return }
            do {
                let frame = try ControlFrame(parsing: Array(bytes[ControlFrame.prefixBytes...]))
                perform(keeper!.received(frame, from: link, now: world.time.now, host: self))
            } catch {
                world.fail("a gateway sent a bad frame")
            }
        }
    }

    func acceptLane(_ wire: VirtualWire<LaneMessage>) {
        let born = life
        var end: LaneEnd?
        var isTaken = false
        var opening: Lane.Opening?
        wire.attend(.node) { [self] in
            if life == born, isTaken, let opening { laneEnded(opening) }
        } received: { [self] message in
            guard life == born, keeper != nil else { return }
            if case .opening(let asked) = message {
                guard let lease, keeper!.lanesAllowed != nil, asked.lane < lease.ends.count,
                    lease.session.control.export(
                        LaneRecord.tokenLabel,
                        LaneRecord.tokenContext(
                            transcript: lease.session.transcript, lane: asked.lane, serial: asked.serial)
                    ).isEqual(to: SecretBytes(copying: asked.token))
                else { return wire.close(.node) }
                opening = asked
                end = LaneEnd(
                    wire, .node, lane: Int(asked.lane), serial: asked.serial, control: lease.session.control,
                    transcript: lease.session.transcript, fence: lease.fence)
                return
            }
            guard let end, let opening, let lease else { return wire.close(.node) }
            let lane = Int(opening.lane)
            guard let record = end.open(message) else {
                wire.close(.node)
                if isTaken { laneEnded(opening) }
                return perform(keeper!.violated(lease.fence))
            }
            do {
                if !isTaken {
                    guard lease.serials[lane] < opening.serial else { return wire.close(.node) }
                    isTaken = true
                    lease.serials[lane] = opening.serial
                    lease.ends[lane]?.wire.close(.node)
                    lease.requester.broke(lane)
                    lease.ends[lane] = end
                    end.send(LaneHeader(.credit))
                    try lease.requester.opened(lane, record.header)
                } else {
                    switch record.header.operation {
                    case .completion:
                        let target = try lease.requester.target(lane, record.header)
                        lease.program?.came[Int(target) / Limits.sealedBlockBytes] = record.block!
                        _ = lease.requester.completed(lane, record.header)
                    case .credit: try lease.requester.credited(lane, record.header)
                    default: throw FrameError(.operation, at: 1, "not a gateway's")
                    }
                }
            } catch {
                return world.fail("an honest lane record was refused: \(error)")
            }
            pump(lane)
            go()
        }
    }

    private func laneEnded(_ opening: Lane.Opening) {
        guard let lease, lease.serials[Int(opening.lane)] == opening.serial else { return }
        lease.ends[Int(opening.lane)] = nil
        lease.requester.broke(Int(opening.lane))
    }

    private func pump(_ lane: Int) {
        guard let lease, let end = lease.ends[lane] else { return }
        while let command = lease.requester.next(lane) {
            switch command {
            case .read(let header): end.send(header)
            case .write(let header, let slot): end.send(header, block: lease.ring[lane][slot])
            }
        }
    }

    // MARK: What the keeper says

    private func perform(_ outputs: [DeviceKeeper.Output]) {
        for output in outputs {
            switch output {
            case .send(let link, let frame): links[link]?.send(frame, from: .node)
            case .close(let link):
                links.removeValue(forKey: link)?.wire.close(.node)
            case .begin(let grant, let fence, let link, let transcript):
                world.check(dirtyBy == nil, "a lease began on memory of fence \(dirtyBy?.number ?? 0)")
                guard let control = links[link] else {
                    return perform(keeper!.began(false, now: world.time.now, host: self))
                }
                dirtyBy = fence
                lease = Lease(
                    fence: fence, lanes: Int(grant.lanes), session: (control, transcript))
                proof = Proof(fence, control.export(LeaseResumption.label, transcript.bytes))
                perform(keeper!.began(true, now: world.time.now, host: self))
            case .relink(let link, let transcript):
                relinks += 1
                guard let control = links[link], let lease else { continue }
                lease.session = (control, transcript)
                for lane in lease.ends.indices {
                    lease.ends[lane]?.wire.close(.node)
                    lease.ends[lane] = nil
                    lease.requester.broke(lane)
                }
            case .load(let fence, let request, _, _):
                later(world.hesitation()) { [self] in
                    perform(keeper!.loaded(fence, request, .programLoaded(7)))
                }
            case .run(_, _, let transaction, let arguments): run(transaction, arguments)
            case .fill(_, let fence):
                tearDown()
                world.check(dirtyBy == fence, "another lease's memory is filled")
                later(world.duration()) { [self] in perform(keeper!.filled(now: world.time.now, host: self)) }
            case .prove(let lease, let fence, let seed, let nonce):
                later(world.duration()) { [self] in certify(lease, fence, .gateway, seed, nonce) }
            case .scrub(let ended, let fence, let cause, let notice):
                tearDown()
                if let link = notice.flatMap({ links[$0] }) {
                    link.send(
                        ControlFrame(request: 0, fence: fence, message: .error(Refusal(cause.refusal))), from: .node)
                }
                later(world.duration()) { [self] in
                    certify(ended, fence, cause, world.network.random.bytes(32), world.network.random.bytes(32))
                }
            case .refused: break
            }
        }
        tickLater()
    }

    private func certify(
        _ lease: NodeRecord.Lease, _ fence: Fence, _ cause: ScrubCertificate.Cause, _ seed: [UInt8], _ nonce: [UInt8]
    ) {
        dirtyBy = nil
        proof = nil
        let certificate = ScrubCertificate(
            node: id, run: lease.run, lease: lease.lease, fence: fence, cause: cause, deviceBytes: 1 << 20, seed: seed,
            nonce: nonce, proof: SHA256.hash(seed), agent: SHA256.hash(nonce), signedBy: key)
        perform(keeper!.scrubbed(certificate, now: world.time.now, host: self))
    }

    private func tearDown() {
        for end in lease?.ends ?? [] { end?.wire.close(.node) }
        lease = nil
    }

    private func tickLater() {
        guard let deadline = keeper?.deadline, deadline != ticksAt else { return }
        ticksAt = deadline
        let born = life
        world.time.at(deadline) { [self] in
            guard life == born, keeper?.deadline == deadline else { return }
            ticksAt = nil
            perform(keeper!.tick(now: world.time.now))
        }
    }

    // MARK: Programs

    private func run(_ transaction: UInt64, _ arguments: [UInt8]) {
        guard let lease else { return }
        world.check(dirtyBy == lease.fence, "a program ran for a lease that has not the device")
        world.executed(node: id, fence: lease.fence, transaction: transaction)
        var reader = WireReader(arguments)
        let program = Lease.Program(transaction, epoch: (try? reader.integer()) ?? 0)
        lease.program = program
        if lease.weights == nil {
            // The first doorbell of a lease takes what it goes on from.
            program.steps = [.read(window: 4, first: 0, count: 1), .take]
        } else {
            prepare(program, lease)
        }
        go()
    }

    private func prepare(_ program: Lease.Program, _ lease: Lease) {
        let plan = SimulatedEpoch.steps(program.epoch, weights: lease.weights!)
        program.steps = plan.steps
        program.result = plan.weights
        program.at = 0
    }

    /// Goes on with the program as far as it can.
    private func go() {
        guard let lease, let program = lease.program, !program.isPausing else { return }
        while program.at < program.steps.count {
            switch program.steps[program.at] {
            case .read(let window, let first, let count):
                let place = program.came.count
                program.came += Array(repeating: 0, count: count)
                for block in first..<first + UInt64(count) {
                    program.expected.append(
                        window == 1 ? SimulatedEpoch.image(block) : window == 2 ? lease.written[block]! : 0)
                }
                program.reading += lease.requester.read(
                    window: window, offset: first * UInt64(Limits.sealedBlockBytes),
                    length: UInt64(count * Limits.sealedBlockBytes), target: UInt(place * Limits.sealedBlockBytes))
                for lane in lease.ends.indices { pump(lane) }
            case .take:
                guard program.reading.allSatisfy({ lease.requester.isDone($0) }) else { return }
                if lease.weights == nil {
                    lease.weights = program.came[0]
                    program.came = []
                    program.expected = []
                    program.reading = []
                    prepare(program, lease)
                    continue
                }
                world.check(program.came == program.expected, "a device read other bytes than were there")
                program.came = []
                program.expected = []
                program.reading = []
            case .write(let window, let block, let value):
                let offset = block * UInt64(Limits.sealedBlockBytes)
                let lane = lease.requester.lane(offset: offset)
                guard let slot = lease.requester.takeSlot(lane) else { return }
                lease.ring[lane][slot] = value
                if window == 2 { lease.written[block] = value }
                lease.requester.write(
                    window: window, offset: offset, length: UInt64(Limits.sealedBlockBytes), slot: slot)
                pump(lane)
            case .compute(let nanoseconds):
                program.isPausing = true
                program.at += 1
                later(nanoseconds) { [self] in
                    program.isPausing = false
                    if self.lease === lease { go() }
                }
                return
            case .flush: guard lease.requester.isFlushed else { return }
            }
            program.at += 1
        }
        lease.program = nil
        lease.weights = program.result
        var result = WireWriter()
        result.integer(program.result)
        let answer = ControlMessage.complete(transaction: program.transaction, result: result.bytes)
        // The thread that ran it may be held up before it can say so.
        later(world.hesitation()) { [self] in
            perform(keeper!.ran(lease.fence, program.transaction, answer))
        }
    }

    // MARK: What the keeper asks

    func evidence(
        link: UInt64, nonce: [UInt8], lease: LeaseID, fence: Fence
    ) -> (evidence: Evidence, transcript: Digest) {
        let transcript = links[link]!.transcript(nonce: nonce, fence: fence, lease: lease)
        return (
            Evidence(
                node: id, level: .software, deviceBytes: 1 << 20, wrappingKey: SimulatedWorld.wrappingKey,
                measurements: [Measurement(name: "agent", digest: SHA256.hash([1]))],
                signature: key.sign(transcript.bytes)), transcript
        )
    }

    /// The receipt of the simulation is its fence.
    func check(_ grant: LeaseGrant, fence: Fence, link: UInt64, transcript: Digest) throws(Refusal) {
        guard grant.receipt == [UInt8(truncatingIfNeeded: fence.number)] else { throw Refusal(.receipt) }
    }

    func isProof(_ proof: [UInt8], fence: Fence, transcript: Digest) -> Bool {
        self.proof.map { $0.fence == fence && $0.resumption.isProof(proof, transcript: transcript) } ?? false
    }

    func save(_ record: NodeRecord) -> Bool {
        world.check(record.fenceHighest >= disk.fenceHighest, "a fence on the disk went back")
        disk = record
        return true
    }
}
