import FabricProtocol
import FabricTransport
import Sealing
import TestSupport
import Vocabulary

/// A gateway process that brings one run to its end over any number of leases: the real holder, the real responders and
/// the real book of windows, over virtual connections.
final class SimulatedGateway: HolderHost {
    /// What survives the process.
    private struct Disk {
        var fence: UInt64
        var acknowledged: UInt64 = 0
        /// The checkpoint after the last acknowledged epoch.
        var weights: UInt64
        /// The lease that was begun and whose scrub is not certified.
        var open: (node: Int, fence: UInt64)?
        /// Nodes out of the pool and the fence whose scrub they must show.
        var quarantined: [Int: UInt64] = [:]
        /// The node whose lease was lost last: nothing is leased elsewhere before it is over there.
        var lost: Int?
        var isStopped = false
    }

    let name: String
    private let world: SimulatedWorld
    private var disk: Disk
    private var isRunning = true
    private var life = 0

    // Of one lease.
    private var attempt = 0
    private var node = 0
    private var holder: LeaseHolder?
    private var held: (lease: LeaseID, fence: Fence)?
    private var resumption: Resumption?
    private var wires: [UInt64: ControlWire] = [:]
    private var lanes: [Int: (serial: UInt32, end: LaneEnd)] = [:]
    private var responders: [LaneResponder] = []
    private var book = WindowBook()
    private var spill: [UInt64: UInt64] = [:]
    private var result: UInt64 = 0
    private var asked: [UInt64: Asked] = [:]
    private var transaction: UInt64 = 0
    private var wakesAt: UInt64?
    private var seed: [UInt8] = []
    private var scrubNonce: [UInt8] = []

    /// When the lost lease was given up, or this process began, which may be the later one.
    private var lostAt: UInt64 = 0

    private(set) var leases = 0
    private(set) var failures: [LeaseFailure] = []

    private final class Resumption {
        let value: LeaseResumption
        init(_ secret: consuming SecretBytes) { value = LeaseResumption(secret: secret) }
    }

    private enum Asked { case windows, program, epoch(UInt64) }

    init(_ name: String, _ world: SimulatedWorld, fence: UInt64) {
        self.name = name
        self.world = world
        disk = Disk(fence: fence, weights: world.firstWeights)
        begin()
    }

    var isDone: Bool {
        disk.isStopped || (disk.acknowledged == world.epochs && disk.open == nil && disk.quarantined.isEmpty)
    }
    /// Refused by a device that had seen a higher fence, as a gateway from a backup is.
    var isStopped: Bool { disk.isStopped }
    var weights: UInt64 { disk.weights }
    var acknowledged: UInt64 { disk.acknowledged }

    // MARK: Its process

    func crash() {
        guard isRunning else { return }
        isRunning = false
        for wire in wires.values { wire.wire.cut(tells: world.network.chance(0.8)) }
        for lane in lanes.values { lane.end.wire.cut(tells: world.network.chance(0.8)) }
        forget()
    }

    func start() {
        guard !isRunning else { return }
        isRunning = true
        lostAt = world.time.now
        // As after every crash: the device of the lease that was is taken again, under a higher fence.
        if let open = disk.open { node = open.node }
        begin()
    }

    private func forget() {
        life += 1
        holder = nil
        resumption = nil
        wires = [:]
        lanes = [:]
        responders = []
        book.removeAll()
        spill = [:]
        asked = [:]
        wakesAt = nil
    }

    private func later(_ nanoseconds: UInt64, _ body: @escaping () -> Void) {
        let born = life
        world.time.after(nanoseconds) { [self] in if life == born, isRunning { body() } }
    }

    // MARK: Taking a device

    /// Looks for a device and attests it: the part before a lease, which is asked step by step.
    private func begin() {
        guard isRunning, !isDone else { return }
        attempt += 1
        if disk.open == nil, disk.acknowledged == world.epochs { return reinstate() }
        let candidates = world.nodes.indices.filter { disk.quarantined[$0] == nil }
        if disk.open == nil || disk.quarantined[node] != nil {
            guard let next = candidates.randomElement(using: &world.network.random) else { return reinstate() }
            // As `Fabric.leaseOver` has it: by then the lost node is done with the run, by its own clock.
            let over = lostAt + world.timing.ttl + 2 * (world.timing.ttl / 3)
            if let lost = disk.lost, lost != next, world.time.now < over {
                return later(over - world.time.now) { [self] in begin() }
            }
            node = next
        }
        converse(with: node) { [self] control, welcome in
            // A device that has seen more than this gateway ever gave says that another one took over.
            guard welcome.fenceHighest.number <= disk.fence else { return stop() }
            disk.fence += 1
            let fence = Fence(disk.fence)
            let lease = try! LeaseID("lease-\(name)-\(disk.fence)")
            let nonce = self.nonce()
            ask(control, 2, fence, .attest(nonce: nonce, lease: lease)) { [self] answer in
                guard case .evidence(let evidence) = answer else { return answer == nil ? again() : stop() }
                let transcript = control.transcript(nonce: nonce, fence: fence, lease: lease)
                world.check(
                    world.nodes[node].verifyingKey.isValid(evidence.signature, for: transcript.bytes), "evidence")
                take(control, lease, fence, transcript)
            }
        } failed: { [self] in
            again()
        }
    }

    private func stop() {
        // Whatever it had is another gateway's to clean up now.
        disk.isStopped = true
        disk.open = nil
        disk.quarantined = [:]
        forget()
    }

    private func again() {
        forget()
        later(UInt64.random(in: 50_000_000...400_000_000, using: &world.network.random)) { [self] in begin() }
    }

    private func converse(
        with index: Int, _ body: @escaping (ControlWire, Welcome) -> Void, failed: @escaping () -> Void
    ) {
        let born = life
        world.connect(to: index) { [self] control in
            guard life == born, isRunning else { return control?.wire.close(.gateway) ?? () }
            guard let control else { return failed() }
            ask(control, 1, Fence(0), .hello) { answer in
                guard case .welcome(let welcome) = answer else { return failed() }
                body(control, welcome)
            }
        }
    }

    /// nil where nothing came in time.
    private func ask(
        _ control: ControlWire, _ number: UInt64, _ fence: Fence, _ message: ControlMessage,
        _ body: @escaping (ControlMessage?) -> Void
    ) {
        var isOpen = true
        let born = life
        func once(_ answer: ControlMessage?) {
            guard isOpen, life == born, isRunning else { return }
            isOpen = false
            if answer == nil { control.wire.close(.gateway) }
            body(answer)
        }
        control.wire.attend(.gateway) {
            once(nil)
        } received: { [self] bytes in
            guard let frame = frame(bytes), frame.request == number else { return }
            once(frame.message)
        }
        later(1_000_000_000) { once(nil) }
        control.send(ControlFrame(request: number, fence: fence, message: message), from: .gateway)
    }

    private func frame(_ bytes: [UInt8]) -> ControlFrame? {
        do {
            return try ControlFrame(parsing: Array(bytes[ControlFrame.prefixBytes...]))
        } catch {
            world.fail("a node sent a bad frame")
            return nil
        }
    }

    private func take(_ control: ControlWire, _ lease: LeaseID, _ fence: Fence, _ transcript: Digest) {
        disk.open = (node, fence.number)
        leases += 1
        let timing = world.timing
        responders = Array(repeating: LaneResponder(), count: timing.lanes)
        held = (lease, fence)
        resumption = Resumption(control.export(LeaseResumption.label, transcript.bytes))
        holder = LeaseHolder(
            lease: lease, fence: fence, transcript: transcript, timing: timing, now: world.time.now)
        attend(control, 0)
        let grant = LeaseGrant(
            lease: lease, run: world.run, attempt: UInt32(truncatingIfNeeded: fence.number),
            ttlMilliseconds: UInt32(timing.ttl / 1_000_000), lanes: UInt8(timing.lanes), deviceBytes: 1 << 20,
            receipt: [UInt8(truncatingIfNeeded: fence.number)],
            wrappedRunKey: [UInt8](repeating: 0, count: LeaseGrant.wrappedKeyBytes))
        perform(holder!.begin(grant, now: world.time.now))
    }

    private func attend(_ control: ControlWire, _ link: UInt64) {
        wires[link] = control
        let born = life
        control.wire.attend(.gateway) { [self] in
            guard life == born, holder != nil else { return }
            perform(holder!.broke(link, now: world.time.now))
        } received: { [self] bytes in
            guard life == born, holder != nil, let frame = frame(bytes) else { return }
            perform(holder!.received(frame, from: link, now: world.time.now, host: self))
        }
    }

    // MARK: What the holder says

    private func perform(_ outputs: [LeaseHolder.Output]) {
        let born = life
        for output in outputs where life == born {
            switch output {
            case .send(let link, let frame): wires[link]?.send(frame, from: .gateway)
            case .connect(let link):
                world.connect(to: node) { [self] control in
                    guard life == born, holder != nil else { return control?.wire.close(.gateway) ?? () }
                    guard let control else { return perform(holder!.broke(link, now: world.time.now)) }
                    attend(control, link)
                    perform(holder!.connected(link, now: world.time.now))
                }
            case .disconnect(let link): wires.removeValue(forKey: link)?.wire.close(.gateway)
            case .openLane(let lane, let serial, let link, let transcript): open(lane, serial, link, transcript)
            case .closeLanes:
                for lane in lanes.values { lane.end.wire.close(.gateway) }
                lanes = [:]
            case .probeLanes: for lane in lanes.values { lane.end.send(LaneHeader(.credit)) }
            case .granted, .renewed: break
            case .ready:
                do {
                    let block = UInt64(Limits.sealedBlockBytes)
                    let windows = [
                        Window(
                            id: 1, direction: .read, purpose: .image(.features),
                            byteCount: SimulatedEpoch.imageBlocks * block),
                        Window(
                            id: 2, direction: .both, purpose: .spill, byteCount: SimulatedEpoch.spillBlocks * block),
                        Window(id: 3, direction: .write, purpose: .result, byteCount: block),
                        Window(id: 4, direction: .read, purpose: .state, byteCount: block),
                    ]
                    try book.map(windows, now: world.time.now)
                    ask(.windowMap(try WindowTable(windows)), .windows)
                } catch {
                    world.fail("windows")
                }
            case .answer(let number, .success(let message)): answered(number, message)
            case .answer(_, .failure(.refused(let refusal))) where holder?.isOpen == true:
                world.fail("the node refused a request: \(refusal)")
            case .answer(1, .failure(.refused(let refusal))):
                // The lease was not granted. What an earlier one left on this device is still owed.
                return end(.refused(refusal))
            case .answer: break
            case .ended(let failure):
                book.removeAll()
                if let failure { end(failure) }
            case .scrubbed(let certificate):
                guard certificate.seed == seed, certificate.nonce == scrubNonce, certificate.cause == .gateway else {
                    // It scrubbed itself before it was asked, or in the middle of being asked.
                    end(.lost)
                    return
                }
                disk.open = nil
                forget()
                begin()
            }
        }
        wakeLater()
    }

    private func ask(_ message: ControlMessage, _ what: Asked) {
        let (number, outputs) = holder!.ask(message, isBounded: true, now: world.time.now)
        asked[number] = what
        perform(outputs)
    }

    private func answered(_ number: UInt64, _ message: ControlMessage) {
        switch (asked.removeValue(forKey: number), message) {
        case (.windows, .done): ask(.programLoad([1]), .program)
        case (.program, .programLoaded): ring()
        case (.epoch(let epoch), .complete(transaction, let bytes)):
            var reader = WireReader(bytes)
            let plan = SimulatedEpoch.steps(epoch, weights: disk.weights)
            world.check((try? reader.integer(UInt64.self)) == plan.weights, "epoch \(epoch) came to other weights")
            world.check(result == plan.weights, "an acknowledged result was not stored")
            for (block, value) in plan.spilled {
                world.check(spill[block] == value, "an acknowledged write was not stored")
            }
            disk.acknowledged = epoch
            disk.weights = plan.weights
            ring()
        default: break
        }
    }

    private func ring() {
        guard holder?.isOpen == true else { return }
        guard disk.acknowledged < world.epochs else {
            seed = world.network.random.bytes(32)
            scrubNonce = world.network.random.bytes(32)
            return perform(holder!.scrub(seed: seed, nonce: scrubNonce, now: world.time.now))
        }
        transaction += 1
        var arguments = WireWriter()
        arguments.integer(disk.acknowledged + 1)
        ask(
            .doorbell(program: 7, transaction: transaction, arguments: arguments.bytes),
            .epoch(disk.acknowledged + 1))
    }

    private func end(_ failure: LeaseFailure) {
        failures.append(failure)
        world.check(failure != .violation || world.tampered > 0, "an honest node answered what was not asked")
        guard let open = disk.open else { return }
        if case .refused(let refusal) = failure, refusal.code == .staleFence { return stop() }
        disk.quarantined[open.node] = open.fence
        disk.open = nil
        disk.lost = open.node
        lostAt = world.time.now
        again()
    }

    /// Brings a node back by its certificate of the lease that went wrong, or a later one.
    private func reinstate() {
        guard let (index, fence) = disk.quarantined.min(by: { $0.key < $1.key }) else { return }
        converse(with: index) { [self] control, welcome in
            control.wire.close(.gateway)
            let owed = min(Fence(fence), welcome.fenceHighest)
            if owed > Fence(0) {
                guard let scrub = welcome.lastScrub, scrub.fence >= owed,
                    scrub.isSigned(by: world.nodes[index].verifyingKey)
                else { return again() }
                world.check(
                    welcome.fenceHighest > scrub.fence || world.nodes[index].isClean,
                    "a scrub certificate of dirty memory")
            }
            disk.quarantined[index] = nil
            forget()
            begin()
        } failed: { [self] in
            again()
        }
    }

    private func wakeLater() {
        guard let wake = holder?.wakeAt, wake != wakesAt else { return }
        wakesAt = wake
        let born = life
        world.time.at(wake) { [self] in
            guard life == born, holder != nil, wakesAt == wake else { return }
            wakesAt = nil
            perform(holder!.tick(now: world.time.now))
        }
    }

    // MARK: Lanes

    private func open(_ lane: Int, _ serial: UInt32, _ link: UInt64, _ transcript: Digest) {
        guard let control = wires[link] else { return }
        lanes.removeValue(forKey: lane)?.end.wire.close(.gateway)
        let fence = holder!.fence
        let born = life
        world.connectLane(to: node) { [self] wire in
            guard life == born, holder != nil else { return wire?.close(.gateway) ?? () }
            guard let wire else { return perform(holder!.laneBroke(lane, serial: serial, now: world.time.now)) }
            let end = LaneEnd(
                wire, .gateway, lane: lane, serial: serial, control: control, transcript: transcript, fence: fence)
            lanes[lane] = (serial, end)
            var isUp = false
            wire.attend(.gateway) { [self] in
                guard life == born, holder != nil else { return }
                if lanes[lane]?.serial == serial { lanes[lane] = nil }
                perform(holder!.laneBroke(lane, serial: serial, now: world.time.now))
            } received: { [self] message in
                guard life == born, holder != nil else { return }
                guard let record = end.open(message) else { return perform(holder!.fail(.violation)) }
                if isUp { return serve(record, lane, end) }
                isUp = true
                perform(holder!.laneUp(lane, serial: serial, now: world.time.now))
            }
            let token = control.export(
                LaneRecord.tokenLabel,
                LaneRecord.tokenContext(transcript: transcript, lane: UInt16(lane), serial: serial))
            wire.send(
                .opening(Lane.Opening(lane: UInt16(lane), serial: serial, token: token.withBytes { Array($0) })),
                from: .gateway)
            end.send(responders[lane].opening)
        }
    }

    private func serve(_ record: (header: LaneHeader, block: UInt64?), _ lane: Int, _ end: LaneEnd) {
        let header = record.header
        guard book.allows(header, now: world.time.now) else {
            return world.check(holder?.isOpen != true, "an honest access was refused")
        }
        let block = UInt64(Limits.sealedBlockBytes)
        do {
            switch try responders[lane].action(header) {
            case .answer:
                for offset in stride(from: header.offset, to: header.offset + header.length, by: Int(block)) {
                    let value: UInt64 =
                        switch header.window {
                        case 1: SimulatedEpoch.image(offset / block)
                        case 2: spill[offset / block] ?? 0
                        default: disk.weights
                        }
                    end.send(
                        LaneHeader(
                            .completion, window: header.window, offset: offset, length: block,
                            transaction: header.transaction), block: value)
                }
            case .store:
                if header.window == 2 { spill[header.offset / block] = record.block! } else { result = record.block! }
                responders[lane].stored(header)
                end.send(responders[lane].credit)
            case .storedBefore: end.send(responders[lane].credit)
            }
        } catch {
            world.fail("an honest record was refused")
        }
    }

    // MARK: What the holder asks

    func nonce() -> [UInt8] { world.network.random.bytes(32) }

    func judge(_ evidence: Evidence, nonce: [UInt8], link: UInt64) throws(LeaseFailure) -> Digest {
        // The holder is being asked itself, so lease and fence are not read from it.
        guard let control = wires[link], let held else { throw .lost }
        let transcript = control.transcript(nonce: nonce, fence: held.fence, lease: held.lease)
        guard world.nodes[node].verifyingKey.isValid(evidence.signature, for: transcript.bytes) else {
            throw .evidence(index: nil)
        }
        return transcript
    }

    func proof(transcript: Digest) -> [UInt8] { resumption!.value.proof(transcript: transcript) }
}
