internal import Glibc

/// A lock that threads can wait on, at one of some places each, for a change of what it guards.
final class Condition {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let places: UnsafeMutableBufferPointer<pthread_cond_t>

    init(places count: Int) {
        places = .allocate(capacity: count)
        pthread_mutex_init(mutex, nil)
        for place in places.indices { pthread_cond_init(places.baseAddress! + place, nil) }
    }

    deinit {
        for place in places.indices { pthread_cond_destroy(places.baseAddress! + place) }
        pthread_mutex_destroy(mutex)
        places.deallocate()
        mutex.deallocate()
    }

    func lock() { pthread_mutex_lock(mutex) }
    func unlock() { pthread_mutex_unlock(mutex) }
    /// Gives the lock up until someone wakes this place.
    func wait(at place: Int) { pthread_cond_wait(places.baseAddress! + place, mutex) }
    func wake(_ place: Int) { pthread_cond_broadcast(places.baseAddress! + place) }
}
