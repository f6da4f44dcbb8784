internal import Foundation
internal import Synchronization

/// A network namespace that a test makes, and that ends with it. Needs root and `ip` (iproute2).
package final class NetworkNamespace: Sendable {
    private static let made = Mutex(0)
    private static let program = ["/usr/sbin/ip", "/sbin/ip"].first { FileManager.default.isExecutableFile(atPath: $0) }

    /// Whether this machine lets a test make one.
    package static let areAvailable = (try? NetworkNamespace()) != nil

    package let name: String

    package struct Refused: Error {
        package let words: String
        package let output: String
    }

    package init() throws {
        let number = Self.made.withLock { made in
            made += 1
            return made
        }
        name = "sekisho-\(getpid())-\(number)"
        try Self.ip("netns add \(name)")
        try ip("link set lo up")
    }

    deinit { try? Self.ip("netns del \(name)") }

    /// Runs `ip` with these words inside.
    package func ip(_ words: String) throws { try Self.ip("-n \(name) \(words)") }

    package static func ip(_ words: String) throws {
        guard let program else { throw Refused(words: words, output: "") }
        let (status, output) = try Verifiers.run(
            URL(fileURLWithPath: program), words.split(separator: " ").map(String.init))
        guard status == 0 else { throw Refused(words: words, output: output) }
    }

    /// What starts a program inside: its first words, before the program's path.
    package var entering: [String] { get throws { [try Self.found(), "netns", "exec", name] } }

    private static func found() throws -> String {
        guard let program else { throw CocoaError(.executableNotLoadable) }
        return program
    }
}

/// A line from where the test is to a namespace of its own, that can be cut without a word to this end.
package final class TestLine: Sendable {
    package let namespace: NetworkNamespace
    /// The far end's address, of a network that RFC 2544 keeps for tests of devices.
    package let there: String

    package init() throws {
        namespace = try NetworkNamespace()
        let network = "198.18.\(getpid() % 256)"
        there = network + ".2"
        let here = "sekisho\(getpid())"
        try NetworkNamespace.ip("link add \(here) type veth peer name line netns \(namespace.name)")
        try NetworkNamespace.ip("addr add \(network).1/30 dev \(here)")
        try NetworkNamespace.ip("link set \(here) up")
        try namespace.ip("addr add \(there)/30 dev line")
        try up()
    }

    package func up() throws { try namespace.ip("link set line up") }

    package func down() throws { try namespace.ip("link set line down") }
}
