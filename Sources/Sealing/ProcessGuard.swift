internal import CSodium
internal import Glibc

/// Keeps this process's memory from being written where others can read it.
package enum ProcessGuard {
    /// Forbids core dumps and attaching debuggers of other users. Called first thing by every program that holds keys.
    package static func harden() throws(SealingError) {
        Sodium.ready()
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        guard sekisho_forbid_core_dumps() == 0, setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none) == 0 else {
            throw SealingError(.unavailable, "core dumps could not be forbidden")
        }
    }
}

/// The library's one-time set-up; everything that calls libsodium asks for it first.
enum Sodium {
    private static let initialised: Void = {
        precondition(sodium_init() >= 0, "libsodium could not be initialised")
    }()

    static func ready() { _ = initialised }
}
