package import Confinement
internal import Glibc
internal import Sealing

/// What a process that runs a `NodeAgent` does about itself.
package enum NodeProcess {
    /// No core dumps, no new rights, locked memory. Called before anything secret is read. `true` when all memory is
    /// locked.
    package static func harden() throws -> Bool {
        try ProcessGuard.harden()
        return try ProcessGuard.confine()
    }

    /// From here on no new socket, no other program, no file but the node's own state. Called once the node listens and
    /// before it starts a thread.
    package static func confine(_ sandbox: Sandbox, state: String) throws {
        do throws(SandboxError) {
            try sandbox.enforce(writable: state)
        } catch {
            throw NodeError(.confinement, error.publicDescription)
        }
    }

    /// Keeps the ending signals for `waitForEnd`. Called before any thread is started, which inherits it.
    package static func holdSignals() {
        var signals = endingSignals
        pthread_sigmask(SIG_BLOCK, &signals, nil)
    }

    /// Blocks until the process is asked to end.
    package static func waitForEnd() {
        var signals = endingSignals
        var received: Int32 = 0
        while sigwait(&signals, &received) != 0 {}
    }

    private static var endingSignals: sigset_t {
        var signals = sigset_t()
        sigemptyset(&signals)
        sigaddset(&signals, SIGTERM)
        sigaddset(&signals, SIGINT)
        return signals
    }
}
