/// Whether a thread that waits for a record looks for it before it sleeps.
///
/// To wake a thread that sleeps on another core can take longer than a short answer takes to come, some 30 µs on a
/// virtual machine, and costs the sender as much as 32 KiB; looking for it occupies a core meanwhile. So each time that
/// looking found nothing, it is done half as often.
package struct BusyPolling: Sendable {
    /// How long a look takes at most: the round trip of a local network with its answer.
    package static let nanoseconds: UInt64 = 50_000
    /// Waits that pass without a look after one that found nothing, at most.
    package static let restsMax = 1024

    private var rests = 0
    private var left = 0

    package init() {}

    /// Counts a wait; whether it begins with a look.
    package mutating func looks() -> Bool {
        guard left > 0 else { return true }
        left -= 1
        return false
    }

    package mutating func looked(found: Bool) {
        rests = found ? rests / 2 : min(max(1, rests * 2), Self.restsMax)
        if !found { left = rests }
    }
}
