import FabricTransport
import Synchronization

/// A network between gateway and node that a test cuts and mends: a relay in user space.
final class Relay: Sendable {
    private struct State {
        var isCut = false
        var sockets: [ObjectIdentifier: Socket] = [:]
    }

    private let listener: Listener
    private let state = Monitor(State())
    var port: UInt16 { listener.port }

    init(to node: UInt16) throws {
        listener = try Listener(host: "127.0.0.1", port: 0)
        startThread { [self] in
            while let near = try? listener.accept() {
                guard !state.withLock({ $0.isCut }),
                    let far = try? Socket.connect(host: "127.0.0.1", port: node, milliseconds: 10_000)
                else {
                    near.close()
                    continue
                }
                let isWelcome = state.withLock { state in
                    guard !state.isCut else { return false }
                    for socket in [near, far] { state.sockets[ObjectIdentifier(socket)] = socket }
                    return true
                }
                guard isWelcome else { continue }
                startThread { [self] in pass(from: near, to: far) }
                startThread { [self] in pass(from: far, to: near) }
            }
        }
    }

    /// Ends all connections, and lets none be made until `mend`.
    func cut() {
        let sockets = state.withLock { state in
            state.isCut = true
            defer { state.sockets = [:] }
            return Array(state.sockets.values)
        }
        for socket in sockets { socket.close() }
    }

    func mend() { state.withLock { $0.isCut = false } }

    func close() {
        cut()
        listener.close()
    }

    private func pass(from: Socket, to: Socket) {
        var buffer = [UInt8](repeating: 0, count: 64 * 1024)
        while let count = try? buffer.withUnsafeMutableBytes({ try from.readSome(into: $0) }), count > 0 {
            guard (try? to.writeAll(Array(buffer[..<count]))) != nil else { break }
        }
        from.close()
        to.close()
        state.withLock { state in
            for socket in [from, to] { state.sockets[ObjectIdentifier(socket)] = nil }
        }
    }
}
