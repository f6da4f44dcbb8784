import Synchronization
import Vocabulary

/// The machine's clock as records see it: it never goes back. A clock that was set back would give expired grants a
/// second life and make the trail's order unbelievable, so it stands still until the machine has caught up.
final class GuardedClock: WallClock {
    private struct State {
        var latest = Timestamp(milliseconds: .min)
        var behind: Int64 = 0
    }
    private let machine: any WallClock
    private let state = Mutex(State())

    init(_ machine: any WallClock) { self.machine = machine }

    func now() -> Timestamp {
        let time = machine.now()
        return state.withLock { state in
            state.behind = max(0, state.latest.milliseconds &- time.milliseconds)
            if state.latest.milliseconds == .min { state.behind = 0 }
            state.latest = max(state.latest, time)
            return state.latest
        }
    }

    /// A record of this time is known to be older than now.
    func isAfter(_ time: Timestamp) { state.withLock { $0.latest = max($0.latest, time) } }

    /// How far the machine's clock was behind what is known, in milliseconds, when it was last asked.
    var behindMilliseconds: Int64 { state.withLock { $0.behind } }
}
