import Foundation
import Synchronization
import TestSupport
import Testing
import Vocabulary

/// A device node: the real daemon in a process of its own, on a free port.
final class TestNode: Sendable {
    let id: NodeID
    let address: String
    let process: pid_t
    private let isRunning = Mutex(true)

    /// Starts the daemon, at the far end of a line where one is given, and waits until it says its port.
    init(_ id: NodeID, identity: URL, state: URL, over line: TestLine? = nil) throws {
        self.id = id
        let host = line?.there ?? "127.0.0.1"
        let (process, output) = try Child.start(
            "sekisho-node", Self.arguments(identity, state) + ["--listen", "\(host):0"], reading: .output,
            in: line?.namespace)
        self.process = process
        // The daemon says its port once and stays silent; its end closes the pipe.
        var said: String?
        try Child.lines(of: output) { text in
            said = text
            return false
        }
        let port = try #require(UInt16(said?.split(separator: " ").last ?? ""), "the node did not start")
        address = "\(host):\(port)"
    }

    /// What the daemon on this host would sign.
    static func measurements(identity: URL, state: URL) throws -> String {
        let (process, output) = try Child.start(
            "sekisho-node", arguments(identity, state) + ["--measure"], reading: .output)
        var text = ""
        try Child.lines(of: output) { line in
            text += line
            return true
        }
        #expect(Child.end(of: process) == 0)
        return text
    }

    private static func arguments(_ identity: URL, _ state: URL) -> [String] {
        [
            "--identity", identity.path, "--state", state.path, "--device-memory", "16MiB", "--threads", "1",
        ]
    }

    /// Collects the node as soon as somebody else kills it: what waits for other children must not find it dead.
    func collectWhenDead() {
        Thread.detachNewThread { [process, self] in
            _ = Child.end(of: process)
            isRunning.withLock { $0 = false }
        }
    }

    /// Takes the node away without a warning.
    func kill() {
        let wasRunning = isRunning.withLock { isRunning in
            defer { isRunning = false }
            return isRunning
        }
        guard wasRunning else { return }
        Foundation.kill(process, SIGKILL)
        _ = Child.end(of: process)
    }

    /// Nothing that is sent to it is answered until `wake`, as behind a link that is cut without a word.
    func freeze() { Foundation.kill(process, SIGSTOP) }

    func wake() { Foundation.kill(process, SIGCONT) }

    deinit { kill() }
}

/// Programs of this package, started as processes of their own and waited for without a clock.
enum Child {
    enum Stream { case output, error }

    private static let turn = NSLock()

    /// Beside the test runner, where the build puts it.
    private static func executable(_ name: String) throws -> String {
        let runner = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        return URL(fileURLWithPath: runner).deletingLastPathComponent().appendingPathComponent(name).path
    }

    /// Starts a program and gives the reading end of one of its streams; the other one goes nowhere.
    static func start(
        _ name: String, _ arguments: [String], reading stream: Stream, environment: [String: String] = [:],
        in namespace: NetworkNamespace? = nil
    ) throws -> (process: pid_t, stream: Int32) {
        // One at a time: no child may inherit another one's pipe between its making and its mark.
        turn.lock()
        defer { turn.unlock() }
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        for end in ends { try #require(fcntl(end, F_SETFD, FD_CLOEXEC) == 0) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        let (read, silent) = stream == .output ? (STDOUT_FILENO, STDERR_FILENO) : (STDERR_FILENO, STDOUT_FILENO)
        posix_spawn_file_actions_adddup2(&actions, ends[1], read)
        posix_spawn_file_actions_addopen(&actions, silent, "/dev/null", O_WRONLY, 0)
        let words = try (namespace?.entering ?? []) + [executable(name)]
        let variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }.map { "\($0)=\($1)" }
        let texts = (words + arguments).map { strdup($0) } + [nil]
        let pairs = variables.map { strdup($0) } + [nil]
        defer { for text in texts + pairs { free(text) } }
        var process: pid_t = 0
        let status = posix_spawn(&process, words[0], &actions, nil, texts, pairs)
        close(ends[1])
        guard status == 0 else {
            close(ends[0])
            throw CocoaError(.executableNotLoadable)
        }
        return (process, ends[0])
    }

    /// Gives each line of a stream to `body` until that says no or the stream ends, then closes it.
    static func lines(of stream: Int32, _ body: (String) throws -> Bool) throws {
        defer { close(stream) }
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while read(stream, &byte, 1) == 1 {
            if byte == UInt8(ascii: "\n") || byte == UInt8(ascii: "\r") {
                if try !body(String(decoding: line, as: UTF8.self)) { return }
                line = []
            } else {
                line.append(byte)
            }
        }
    }

    /// Waits for a process; gives its exit status, or the negative number of the signal that ended it.
    static func end(of process: pid_t) -> Int32 {
        var status: Int32 = 0
        while waitpid(process, &status, 0) < 0, errno == EINTR {}
        return status & 0x7f == 0 ? (status >> 8) & 0xff : -(status & 0x7f)
    }
}
