internal import CSodium
internal import Glibc

extension ProcessGuard {
    /// Gives up ever gaining rights, and keeps all memory, now and later, out of swap where the system allows it.
    ///
    /// `true` when memory is locked. Without the right to lock without limit nothing is locked here: a limit would make
    /// later allocations fail.
    package static func confine() throws(SealingError) -> Bool {
        guard sekisho_forbid_new_privileges() == 0 else {
            throw SealingError(.unavailable, "the process could not give up gaining rights")
        }
        let resource = __rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue)
        var unlimited = rlimit(rlim_cur: rlim_t.max, rlim_max: rlim_t.max)
        var limit = rlimit()
        guard getrlimit(resource, &limit) == 0 else { return false }
        guard limit.rlim_cur == rlim_t.max || setrlimit(resource, &unlimited) == 0 else { return false }
        // Pages are locked as they are first touched: a reserved but unused stack costs nothing.
        let onFault: Int32 = 4
        return mlockall(Int32(MCL_CURRENT) | Int32(MCL_FUTURE) | onFault) == 0
    }
}
