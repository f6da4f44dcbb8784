import Synchronization
package import Vocabulary

/// A wall clock that stands still until a test moves it.
package final class ManualClock: WallClock {
    private let milliseconds: Mutex<Int64>

    package init(_ start: Timestamp = Timestamp(milliseconds: 1_790_000_000_000)) {
        milliseconds = Mutex(start.milliseconds)
    }

    package func now() -> Timestamp { Timestamp(milliseconds: milliseconds.withLock { $0 }) }

    package func advance(seconds: Int64) { milliseconds.withLock { $0 += seconds * 1000 } }
}
