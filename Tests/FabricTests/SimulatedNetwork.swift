import TestSupport

/// Virtual time: what is to happen, in order, and nothing else moves the clock.
final class VirtualTime {
    private struct Event {
        let time: UInt64
        let order: UInt64
        let body: () -> Void

        static func < (left: Self, right: Self) -> Bool { (left.time, left.order) < (right.time, right.order) }
    }

    private(set) var now: UInt64 = 0
    private var heap: [Event] = []
    private var order: UInt64 = 0

    func after(_ nanoseconds: UInt64, _ body: @escaping () -> Void) { at(now + nanoseconds, body) }

    func at(_ time: UInt64, _ body: @escaping () -> Void) {
        order += 1
        heap.append(Event(time: max(time, now), order: order, body: body))
        var child = heap.count - 1
        while child > 0, heap[child] < heap[(child - 1) / 2] {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    /// Lets the next thing happen; `false` when there is none.
    func step() -> Bool {
        guard let first = heap.first else { return false }
        let last = heap.removeLast()
        if !heap.isEmpty {
            heap[0] = last
            var parent = 0
            while true {
                var least = parent
                for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && heap[child] < heap[least] {
                    least = child
                }
                if least == parent { break }
                heap.swapAt(least, parent)
                parent = least
            }
        }
        now = first.time
        first.body()
        return true
    }
}

/// The network between all processes: each direction of a connection keeps its order, and everything else happens:
/// delay, connections that break and tell, or do not tell, and partitions.
final class VirtualNetwork {
    enum Side: Int {
        case gateway, node
        var other: Side { self == .gateway ? .node : .gateway }
    }

    let time: VirtualTime
    var random: SeededRandom
    /// Until when nothing gets through.
    private(set) var partitionedUntil: UInt64 = 0
    private(set) var slowUntil: UInt64 = 0
    private var wires: [WeakWire] = []

    private struct WeakWire { weak var wire: (any AnyWire)? }

    init(_ time: VirtualTime, random: SeededRandom) {
        self.time = time
        self.random = random
    }

    var isPartitioned: Bool { time.now < partitionedUntil }

    func delay() -> UInt64 {
        let most: UInt64 = time.now < slowUntil ? 400_000_000 : 8_000_000
        return UInt64.random(in: 20_000...most, using: &random)
    }

    func chance(_ share: Double) -> Bool { Double.random(in: 0..<1, using: &random) < share }

    func add(_ wire: any AnyWire) {
        wires.append(WeakWire(wire: wire))
        if wires.count > 64 { wires.removeAll { $0.wire == nil || $0.wire!.isDead } }
    }

    func slow(for nanoseconds: UInt64) { slowUntil = time.now + nanoseconds }

    /// Nothing gets through for a while. Connections break, tell sooner or later or never, or go on afterwards.
    func partition(for nanoseconds: UInt64) {
        partitionedUntil = max(partitionedUntil, time.now + nanoseconds)
        for wire in wires.compactMap(\.wire) where !wire.isDead {
            switch Int.random(in: 0..<3, using: &random) {
            case 0: wire.cut(tells: true)
            case 1: wire.cut(tells: false)
            default: break
            }
        }
    }

    func cut(where condition: (any AnyWire) -> Bool) {
        for wire in wires.compactMap(\.wire) where !wire.isDead && condition(wire) { wire.cut(tells: chance(0.7)) }
    }
}

protocol AnyWire: AnyObject {
    var isDead: Bool { get }
    var isLane: Bool { get }
    func cut(tells: Bool)
}

/// One connection between a gateway and a node.
final class VirtualWire<Message>: AnyWire {
    private let network: VirtualNetwork
    let isLane: Bool
    private(set) var isDead = false
    private var arrivals: [UInt64] = [0, 0]
    private var receivers: [((Message) -> Void)?] = [nil, nil]
    private var endings: [(() -> Void)?] = [nil, nil]
    /// What becomes of a message on its way; nil loses it.
    var change: ((Message, VirtualNetwork.Side) -> [Message])?

    init(_ network: VirtualNetwork, isLane: Bool) {
        self.network = network
        self.isLane = isLane
        network.add(self)
    }

    func attend(_ side: VirtualNetwork.Side, ended: @escaping () -> Void, received: @escaping (Message) -> Void) {
        receivers[side.rawValue] = received
        endings[side.rawValue] = ended
    }

    func send(_ message: Message, from side: VirtualNetwork.Side) {
        guard !isDead else {
            // What is not acknowledged for so long ends a connection, as TCP_USER_TIMEOUT does.
            return network.time.after(3_000_000_000) { [self] in end(side) }
        }
        let time = network.time
        var arrival = time.now + network.delay()
        if network.isPartitioned { arrival += network.partitionedUntil - time.now }
        arrival = max(arrival, arrivals[side.other.rawValue] + 1)
        arrivals[side.other.rawValue] = arrival
        for message in change?(message, side) ?? [message] {
            time.at(arrival) { [self] in
                if !isDead { receivers[side.other.rawValue]?(message) }
            }
        }
    }

    /// This side is done with it; the other one hears of that after everything that was sent.
    func close(_ side: VirtualNetwork.Side) {
        receivers[side.rawValue] = nil
        endings[side.rawValue] = nil
        guard !isDead else { return }
        let arrival = max(
            network.time.now + network.delay()
                + (network.isPartitioned ? network.partitionedUntil - network.time.now : 0),
            arrivals[side.other.rawValue] + 1)
        network.time.at(arrival) { [self] in
            guard !isDead else { return }
            isDead = true
            end(side.other)
        }
    }

    func cut(tells: Bool) {
        guard !isDead else { return }
        isDead = true
        guard tells else { return }
        for side in [VirtualNetwork.Side.gateway, .node] {
            network.time.after(network.delay()) { [self] in end(side) }
        }
    }

    private func end(_ side: VirtualNetwork.Side) {
        let ending = endings[side.rawValue]
        receivers[side.rawValue] = nil
        endings[side.rawValue] = nil
        ending?()
    }
}
