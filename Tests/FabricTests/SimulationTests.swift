import FabricProtocol
import FabricTransport
import Foundation
import Sealing
import TestSupport
import Testing
import Vocabulary

/// Gateways, nodes and the network between them in one process, on a virtual clock. The same seed gives the same world.
final class SimulatedWorld {
    struct Plan {
        var epochs: UInt64 = 12
        var nodes = 2
        /// From when and until when things go wrong.
        var troubleFrom: UInt64 = 0
        var troubleUntil: UInt64 = 3_000_000_000
        var troubles: [Trouble] = Trouble.allCases
        var troubleCount = 0...7
    }

    enum Trouble: CaseIterable {
        case shortCut, longCut, laneCut, controlCut, slow, nodeCrash, gatewayCrash, tampering, secondGateway
    }

    static let second: UInt64 = 1_000_000_000
    static let wrappingKey = WrappingKey.generate().publicKey

    let time = VirtualTime()
    let network: VirtualNetwork
    let run = try! RunID("run-1")
    let epochs: UInt64
    let timing: LeaseHolder.Timing
    let firstWeights: UInt64
    private(set) var nodes: [SimulatedNode] = []
    private(set) var gateways: [SimulatedGateway] = []
    private(set) var problems: [String] = []
    private var executions: Set<String> = []
    private var tampersUntil: UInt64 = 0
    private(set) var tampered = 0

    init(seed: UInt64, _ plan: Plan) {
        var random = SeededRandom(seed: seed)
        network = VirtualNetwork(time, random: SeededRandom(seed: random.next()))
        epochs = plan.epochs
        firstWeights = random.next()
        timing = LeaseHolder.Timing(
            ttl: 3 * Self.second, renew: Self.second, request: 10 * Self.second, scrub: 600 * Self.second,
            retry: 50_000_000, lanes: Int.random(in: 1...4, using: &random))
        for index in 0..<plan.nodes { nodes.append(SimulatedNode("node-\(index)", self)) }
        gateways.append(SimulatedGateway("first", self, fence: 0))
        for _ in 0..<Int.random(in: plan.troubleCount, using: &random) {
            let trouble = plan.troubles.randomElement(using: &random)!
            let when = UInt64.random(in: plan.troubleFrom..<plan.troubleUntil, using: &random)
            let amount = Double.random(in: 0..<1, using: &random)
            let index = Int.random(in: 0..<plan.nodes, using: &random)
            time.at(when) { [self] in happen(trouble, amount, index) }
        }
    }

    private func happen(_ trouble: Trouble, _ amount: Double, _ index: Int) {
        func nanoseconds(_ range: ClosedRange<Double>) -> UInt64 {
            UInt64((range.lowerBound + amount * (range.upperBound - range.lowerBound)) * Double(Self.second))
        }
        switch trouble {
        case .shortCut: network.partition(for: nanoseconds(0.0...0.8))
        case .longCut: network.partition(for: nanoseconds(3.5...8))
        case .laneCut: network.cut { $0.isLane }
        case .controlCut: network.cut { !$0.isLane }
        case .slow: network.slow(for: nanoseconds(0.1...3))
        case .nodeCrash:
            nodes[index].crash()
            time.after(nanoseconds(0.01...6)) { [self] in nodes[index].start() }
        case .gatewayCrash:
            let gateway = gateways[0]
            gateway.crash()
            time.after(nanoseconds(0.01...6)) { gateway.start() }
        case .tampering: tampersUntil = time.now + nanoseconds(0.05...0.5)
        case .secondGateway:
            guard gateways.count == 1 else { return }
            // A home that was restored from a backup: it knows fewer fences, or by chance as many.
            gateways.append(SimulatedGateway("second", self, fence: UInt64(amount * 3)))
        }
    }

    func runToEnd() {
        let limit = 300 * Self.second
        var steps = 0
        while problems.isEmpty, time.now < limit, steps < 2_000_000, !gateways.allSatisfy(\.isDone), time.step() {
            steps += 1
        }
        if problems.isEmpty, !gateways.allSatisfy(\.isDone) {
            fail("no end after \(time.now / Self.second) virtual seconds and \(steps) steps")
        }
        for gateway in gateways where !gateway.isStopped && problems.isEmpty {
            check(gateway.weights == expected, "\(gateway.name) ended with other weights")
        }
        // Two that take the device from each other may both find themselves behind.
        check(!problems.isEmpty || gateways.count > 1 || !gateways[0].isStopped, "the only gateway stopped")
    }

    /// What an uninterrupted run comes to.
    var expected: UInt64 {
        (1...epochs).reduce(firstWeights) { SimulatedEpoch.steps($1, weights: $0).weights }
    }

    // MARK: What the processes ask of their world

    func check(_ isTrue: Bool, _ problem: @autoclosure () -> String) { if !isTrue { fail(problem()) } }

    func fail(_ problem: String) { problems.append("\(Double(time.now) / 1e9) s: \(problem)") }

    func executed(node: NodeID, fence: Fence, transaction: UInt64) {
        check(
            executions.insert("\(node) \(fence) \(transaction)").inserted,
            "doorbell \(transaction) of fence \(fence) ran twice")
        // Two gateways that do not know of each other have only the devices' fences between them.
        let others = nodes.filter { $0.id != node && $0.hasLease }
        check(gateways.count > 1 || others.isEmpty, "the run is on two nodes at once")
    }

    /// Of filling or proving a memory.
    func duration() -> UInt64 { UInt64.random(in: 1_000_000...300_000_000, using: &network.random) }

    /// Of a thread between its work and saying so.
    func hesitation() -> UInt64 {
        UInt64.random(in: 0...(network.chance(0.2) ? 500_000_000 : 5_000_000), using: &network.random)
    }

    func connect(to index: Int, _ body: @escaping (ControlWire?) -> Void) {
        reach(index) { [self] isReached in
            guard isReached else { return body(nil) }
            let control = ControlWire(network)
            nodes[index].accept(control)
            body(control)
        }
    }

    func connectLane(to index: Int, _ body: @escaping (VirtualWire<LaneMessage>?) -> Void) {
        reach(index) { [self] isReached in
            guard isReached else { return body(nil) }
            let wire = VirtualWire<LaneMessage>(network, isLane: true)
            wire.change = { [self] message, _ in tamper(message) }
            nodes[index].acceptLane(wire)
            body(wire)
        }
    }

    private func reach(_ index: Int, _ body: @escaping (Bool) -> Void) {
        time.after(2 * network.delay()) { [self] in
            if network.isPartitioned {
                // A try that nobody answers ends by itself.
                time.after(500_000_000) { body(false) }
            } else {
                body(nodes[index].isUp)
            }
        }
    }

    /// Somebody on the lanes' network changes, repeats or drops a record.
    private func tamper(_ message: LaneMessage) -> [LaneMessage] {
        guard time.now < tampersUntil, network.chance(0.02), case .record(var prefix, let block) = message else {
            return [message]
        }
        tampered += 1
        switch Int.random(in: 0..<4, using: &network.random) {
        case 0:
            prefix[Int.random(in: 0..<prefix.count, using: &network.random)] ^= 1
            return [.record(prefix, block: block)]
        case 1: return [message, message]
        case 2: return []
        default: return [.record(prefix, block: block.map { $0 ^ 1 } ?? 0), message]
        }
    }
}

@Suite struct SimulationTests {
    private func world(_ seed: UInt64, _ plan: SimulatedWorld.Plan = .init()) -> SimulatedWorld {
        let world = SimulatedWorld(seed: seed, plan)
        world.runToEnd()
        return world
    }

    private static let seeds = Int(ProcessInfo.processInfo.environment["SEKISHO_SIMULATIONS"] ?? "") ?? 300

    /// To see one world again: `SEKISHO_SIMULATION_SEED=N`.
    private static let chosen = ProcessInfo.processInfo.environment["SEKISHO_SIMULATION_SEED"].flatMap(UInt64.init)

    @Test(
        "whatever breaks, whenever: nothing acknowledged is lost, nothing runs twice or in two places, every run ends in the same weights"
    )
    func everything() {
        let seeds = Self.chosen.map { [$0] } ?? Array(1...UInt64(Self.seeds))
        var leases = 0
        var relinks = 0
        var tampered = 0
        for seed in seeds {
            let world = world(seed)
            leases += world.gateways[0].leases
            relinks += world.nodes.reduce(0) { $0 + $1.relinks }
            tampered += world.tampered
            if !world.problems.isEmpty {
                Issue.record("SEKISHO_SIMULATION_SEED=\(seed): \(world.problems)")
                return
            }
        }
        // A world in which nothing happens proves nothing.
        if seeds.count > 100 {
            #expect(leases > seeds.count)
            #expect(relinks > seeds.count / 6)
            #expect(tampered > seeds.count / 50)
        }
    }

    @Test("cuts shorter than a lease's time never end it: one lease, whatever is cut")
    func shortCuts() {
        var plan = SimulatedWorld.Plan()
        plan.troubles = [.shortCut]
        plan.troubleCount = 1...1
        // When the lease is there.
        plan.troubleFrom = SimulatedWorld.second / 4
        plan.troubleUntil = 3 * SimulatedWorld.second
        var relinks = 0
        for seed in 1...UInt64(Self.seeds / 4) {
            let world = world(seed, plan)
            let gateway = world.gateways[0]
            #expect(world.problems == [] && gateway.failures == [], "seed \(seed)")
            #expect(gateway.leases == 1, "seed \(seed)")
            relinks += world.nodes.reduce(0) { $0 + $1.relinks }
            guard gateway.leases == 1, world.problems.isEmpty else { return }
        }
        #expect(relinks >= Self.seeds / 16)
    }

    @Test("a cut longer than a lease's time ends it on both sides, and the run goes on from its checkpoint")
    func longCuts() {
        var plan = SimulatedWorld.Plan()
        plan.epochs = 60
        plan.troubles = [.longCut]
        plan.troubleCount = 1...1
        plan.troubleUntil = 2 * SimulatedWorld.second
        var ended = 0
        for seed in 1...UInt64(Self.seeds / 20) {
            let world = world(seed, plan)
            #expect(world.problems == [], "seed \(seed)")
            guard world.problems.isEmpty else { return }
            if world.gateways[0].leases > 1 { ended += 1 }
        }
        #expect(ended > Self.seeds / 40)
    }
}
