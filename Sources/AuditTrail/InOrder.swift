internal import Glibc

/// Many pieces of work on all cores, whose results are handed over one after another, in order.
enum InOrder {
    /// How many results may wait for the one that is being taken: what bounds memory, whatever the count.
    private static let aheadMax = 16
    private static let helpersMax = 7

    /// Computes `work(0)`, `work(1)` and so on, on several threads and the calling one, and gives each result to
    /// `take` on the calling thread. Ends early when `take` says false or throws.
    static func run<Piece: Sendable>(
        _ count: Int, work: @escaping @Sendable (Int) -> Piece, take: (Int, Piece) throws -> Bool
    ) throws {
        let pieces = Pieces(count: count, aheadMax: aheadMax, work: work)
        let helpers = min(helpersMax, sysconf(Int32(_SC_NPROCESSORS_ONLN)) - 1, count - 1)
        let threads = (0..<max(helpers, 0)).compactMap { _ in Helper.start { pieces.help() } }
        defer {
            pieces.stop()
            for thread in threads { pthread_join(thread, nil) }
        }
        for number in 0..<count {
            guard try take(number, pieces.piece(number)) else { return }
        }
    }

    /// A thread that runs one closure.
    private final class Helper {
        private let body: @Sendable () -> Void

        private init(_ body: @escaping @Sendable () -> Void) { self.body = body }

        /// `nil` when no thread can be had; the work is then done without.
        static func start(_ body: @escaping @Sendable () -> Void) -> pthread_t? {
            var thread = pthread_t()
            let helper = Unmanaged.passRetained(Helper(body))
            let status = pthread_create(
                &thread, nil,
                { raw in
                    Unmanaged<Helper>.fromOpaque(raw!).takeRetainedValue().body()
                    return nil
                }, helper.toOpaque())
            guard status == 0 else {
                helper.release()
                return nil
            }
            return thread
        }
    }
}

/// Which pieces are done, and which come next.
private final class Pieces<Piece: Sendable>: @unchecked Sendable {
    // Unchecked: the variables are touched only with `lock` held.
    private let lock = Lock()
    private let changed = Condition()
    private let count: Int
    private let aheadMax: Int
    private let work: @Sendable (Int) -> Piece
    private var next = 0
    private var taken = 0
    private var done: [Int: Piece] = [:]
    private var isOver = false

    init(count: Int, aheadMax: Int, work: @escaping @Sendable (Int) -> Piece) {
        self.count = count
        self.aheadMax = aheadMax
        self.work = work
    }

    /// Works until nothing is left to do.
    func help() {
        lock.acquire()
        defer { lock.release() }
        while !isOver, next < count {
            if next < taken + aheadMax { workOnNext() } else { changed.wait(lock) }
        }
    }

    /// The piece with this number, the one after the last that was taken. Works itself rather than waits.
    func piece(_ number: Int) -> Piece {
        lock.acquire()
        defer { lock.release() }
        while true {
            if let piece = done.removeValue(forKey: number) {
                taken = number + 1
                changed.wakeAll()
                return piece
            }
            if next <= number { workOnNext() } else { changed.wait(lock) }
        }
    }

    func stop() {
        lock.held { isOver = true }
        changed.wakeAll()
    }

    /// `lock` is held, but not during the work.
    private func workOnNext() {
        let number = next
        next += 1
        lock.release()
        let piece = work(number)
        lock.acquire()
        done[number] = piece
        changed.wakeAll()
    }
}
