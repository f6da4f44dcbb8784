internal import CKernels
internal import Synchronization

/// Threads that split a kernel's outputs. Which thread computes what never changes a result, so pieces are handed out
/// as threads come free: a core that another process slows down takes fewer.
final class ThreadPool {
    let threads: Int
    private let pool: OpaquePointer

    init(threads: Int) throws(ExecutorError) {
        guard (1...256).contains(threads), let pool = sk_pool_create(UInt32(threads)) else {
            throw ExecutorError(.unavailable, "\(threads) threads could not be started")
        }
        self.threads = threads
        self.pool = pool
    }

    deinit { sk_pool_destroy(pool) }

    /// Runs `body` once for each thread, with its number, and returns when all are done. One caller at a time.
    func onEach(_ body: (Int) -> Void) {
        withoutActuallyEscaping(body) { body in
            var body = body
            withUnsafeMutablePointer(to: &body) { context in
                sk_pool_run(
                    pool,
                    { context, part in
                        context!.assumingMemoryBound(to: ((Int) -> Void).self).pointee(Int(part))
                    }, context)
            }
        }
    }

    /// Runs `body` on the pieces between consecutive `cuts`, with the number of the thread that took it.
    func onPieces(_ cuts: [Int], _ body: (Range<Int>, Int) -> Void) {
        guard cuts.count > 2, threads > 1 else {
            if cuts.count > 1 { body(cuts[0]..<cuts[cuts.count - 1], 0) }
            return
        }
        let next = Atomic<Int>(0)
        onEach { thread in
            while true {
                let piece = next.add(1, ordering: .relaxed).oldValue
                guard piece + 1 < cuts.count else { return }
                body(cuts[piece]..<cuts[piece + 1], thread)
            }
        }
    }

    /// Cuts `count` outputs into pieces of at least `least`, a few for each thread, on multiples of `alignment`.
    func cuts(count: Int, least: Int, alignment: Int = 1, perThread: Int = 4) -> [Int] {
        let pieces = max(1, min(threads * perThread, threads == 1 ? 1 : count / max(least, 1)))
        let size = ((count + pieces - 1) / pieces + alignment - 1) / alignment * alignment
        return Array(stride(from: 0, to: count, by: max(size, 1))) + [count]
    }
}

// The pool's threads run only inside onEach; callers take turns (the executor serialises doorbells).
extension ThreadPool: @unchecked Sendable {}
