internal import Glibc

/// A mutex with a condition to wait for: writers wait in it for the batch that carries their record.
final class Lock: Sendable {
    // Both are set up before the first use and destroyed after the last; pthread does the rest.
    nonisolated(unsafe) private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    nonisolated(unsafe) private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    init() {
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    func acquire() { pthread_mutex_lock(mutex) }
    func release() { pthread_mutex_unlock(mutex) }

    /// Releases the lock, waits for `announce`, takes the lock again.
    func wait() { pthread_cond_wait(condition, mutex) }
    func announce() { pthread_cond_broadcast(condition) }

    func held<Value, Failure: Error>(_ body: () throws(Failure) -> Value) throws(Failure) -> Value {
        acquire()
        defer { release() }
        return try body()
    }
}
