import Glibc
import Synchronization

/// Progress on standard error: one line that moves on a terminal, a line now and then when piped.
enum ProgressLine {
    private static let lastTenth = Mutex<Int>(-1)

    /// - Parameter step: what is going on, how far it is of how much, and how long it will take, if known.
    @Sendable static func show(_ step: (name: String, done: Int, of: Int, words: String)) {
        let share = step.of > 0 ? min(Double(step.done) / Double(step.of), 1) : 0
        if isatty(STDERR_FILENO) == 1 {
            let filled = Int(share * 30)
            let bar = String(repeating: "█", count: filled) + String(repeating: "·", count: 30 - filled)
            standardError("\r\u{1B}[K\(step.name) \(bar) \(Int(share * 100)) % \(step.words)")
        } else {
            let tenth = Int(share * 10)
            let isNew = lastTenth.withLock { last in
                defer { last = tenth }
                return last != tenth
            }
            if isNew { standardError("\(step.name) \(step.done)/\(step.of) \(step.words)\n") }
        }
    }

    @Sendable static func finish() {
        lastTenth.withLock { $0 = -1 }
        if isatty(STDERR_FILENO) == 1 { standardError("\r\u{1B}[K") }
    }
}
