internal import Glibc

/// A mutex that is taken and let go by hand: the committer lets go of it while the disk works.
final class Lock: Sendable {
    // Set up before the first use and destroyed after the last; pthread does the rest.
    nonisolated(unsafe) fileprivate let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

    init() { pthread_mutex_init(mutex, nil) }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    func acquire() { pthread_mutex_lock(mutex) }
    func release() { pthread_mutex_unlock(mutex) }

    func held<Value, Failure: Error>(_ body: () throws(Failure) -> Value) throws(Failure) -> Value {
        acquire()
        defer { release() }
        return try body()
    }

    /// Runs `body` unless somebody else holds the lock now.
    func heldIfFree<Failure: Error>(_ body: () throws(Failure) -> Void) throws(Failure) {
        guard pthread_mutex_trylock(mutex) == 0 else { return }
        defer { release() }
        try body()
    }
}

/// What somebody waits for who holds a `Lock`.
final class Condition: Sendable {
    // As the lock's.
    nonisolated(unsafe) private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() { pthread_cond_init(condition, nil) }

    deinit {
        pthread_cond_destroy(condition)
        condition.deallocate()
    }

    /// Releases the lock, waits to be woken, takes the lock again.
    func wait(_ lock: Lock) { pthread_cond_wait(condition, lock.mutex) }
    func wakeAll() { pthread_cond_broadcast(condition) }
    func wakeOne() { pthread_cond_signal(condition) }
}
