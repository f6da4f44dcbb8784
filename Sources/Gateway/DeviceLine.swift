package import Vocabulary

/// Whose turn it is for a device, and about when: a pure value over who waits and who holds what.
///
/// Fair means in turns over people: the next device goes to whoever holds, or is about to get, the fewest; among equals
/// to who asked first. A run whose project has all the devices it may have at once waits without holding others up.
package struct DeviceLine: Sendable {
    package struct Waiting: Equatable, Sendable {
        package let run: RunID
        package let person: PersonID
        package let project: String?
        /// The place of its request in the trail: earlier is smaller.
        package let asked: UInt64
        /// Pools that the data set's policy names.
        package let pools: Set<String>

        package init(run: RunID, person: PersonID, project: String?, asked: UInt64, pools: Set<String>) {
            self.run = run
            self.person = person
            self.project = project
            self.asked = asked
            self.pools = pools
        }
    }

    package struct Holding: Equatable, Sendable {
        package let run: RunID
        package let person: PersonID
        package let project: String?
        package let pool: String
        /// Until the device is likely to be free; `nil` where nothing can be said yet.
        package let secondsLeft: Int?

        package init(run: RunID, person: PersonID, project: String?, pool: String, secondsLeft: Int?) {
            self.run = run
            self.person = person
            self.project = project
            self.pool = pool
            self.secondsLeft = secondsLeft
        }
    }

    package let holding: [Holding]
    /// Free nodes of each pool.
    package let free: [String: Int]
    package let quotas: DeviceQuotas
    /// In the order of their turns.
    package let waiting: [Waiting]

    package init(waiting: [Waiting], holding: [Holding], free: [String: Int], quotas: DeviceQuotas) {
        self.holding = holding
        self.free = free
        self.quotas = quotas
        var devices: [PersonID: Int] = [:]
        for held in holding { devices[held.person, default: 0] += 1 }
        var left = waiting
        var ordered: [Waiting] = []
        while let next = left.min(by: { (devices[$0.person] ?? 0, $0.asked) < (devices[$1.person] ?? 0, $1.asked) }) {
            ordered.append(next)
            devices[next.person, default: 0] += 1
            left.removeAll { $0.run == next.run }
        }
        self.waiting = ordered
    }

    /// The place of a run in the line, from 1.
    package func place(of run: RunID) -> Int? { waiting.firstIndex { $0.run == run }.map { $0 + 1 } }

    /// Why a run may not take a free device now.
    package enum Hindrance: Equatable {
        /// All devices of its pools are held, or wanted by others whose turn comes first.
        case line
        /// Its project has as many devices as it may have at once.
        case quota(Int)
    }

    package func hindrance(of run: RunID) -> Hindrance? {
        var free = free
        var held = heldByProject
        for next in waiting {
            let limit = quotas.devices(of: next.project)
            let isWithinQuota = limit.map { held[next.project ?? "", default: 0] < $0 } ?? true
            let pool = next.pools.sorted().max { free[$0, default: 0] < free[$1, default: 0] }
            let takes = isWithinQuota && pool.map { free[$0, default: 0] > 0 } ?? false
            if next.run == run { return takes ? nil : isWithinQuota ? .line : .quota(limit ?? 0) }
            guard takes, let pool else { continue }
            free[pool, default: 0] -= 1
            held[next.project ?? "", default: 0] += 1
        }
        return nil
    }

    /// Seconds until a run's turn, if every run before it takes as long as runs take; `nil` where too little is known.
    ///
    /// - Parameter usual: seconds for which a run usually holds a device; `nil` before the first one ended.
    package func secondsUntilTurn(of run: RunID, usual: Int?) -> Int? {
        // When each node is free next; nobody knows for some.
        var nodes: [(pool: String, at: Int?)] = holding.map { ($0.pool, $0.secondsLeft) }
        for (pool, count) in free { nodes += Array(repeating: (pool, 0), count: count) }
        for next in waiting {
            let known = nodes.indices.filter { next.pools.contains(nodes[$0].pool) && nodes[$0].at != nil }
            guard let soonest = known.min(by: { nodes[$0].at! < nodes[$1].at! }) else {
                if next.run == run { return nil }
                continue
            }
            let at = nodes[soonest].at!
            if next.run == run { return at }
            nodes[soonest].at = usual.map { at + $0 }
        }
        return nil
    }

    private var heldByProject: [String: Int] {
        var held: [String: Int] = [:]
        for one in holding { held[one.project ?? "", default: 0] += 1 }
        return held
    }
}

/// How many devices the runs of one project may hold at once. What is not named has the default; without a default
/// there is no limit.
package struct DeviceQuotas: Equatable, Sendable {
    package var defaultDevices: Int?
    package var projects: [String: Int] = [:]

    package init(defaultDevices: Int? = nil, projects: [String: Int] = [:]) {
        self.defaultDevices = defaultDevices
        self.projects = projects
    }

    func devices(of project: String?) -> Int? { project.flatMap { projects[$0] } ?? defaultDevices }
}
