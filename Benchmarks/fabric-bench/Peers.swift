import FabricTransport
import Foundation
import Synchronization
import Vocabulary

/// The same bytes over plain TCP: what the lanes are compared with. The process at the other end.
enum RawPeer {
    /// Orders are 16 bytes: kind ‖ size ‖ count. Kind 1 takes a stream and answers with its seconds of processor time;
    /// kind 2 answers each 64 bytes with `size` bytes.
    static func run(of client: NodeAddress) throws {
        let socket = try Socket.connect(client, milliseconds: 10_000)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        let order = UnsafeMutableRawBufferPointer.allocate(byteCount: 24, alignment: 8)
        while (try? socket.readAll(into: order)) != nil {
            let words = order.bindMemory(to: UInt64.self)
            let (kind, size, count) = (words[0], Int(words[1]), Int(words[2]))
            if kind == 1 {
                let start = processorSeconds()
                var left = size
                while left > 0 {
                    left -= try socket.readSome(
                        into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<min(left, buffer.count)]))
                }
                try socket.writeAll(withUnsafeBytes(of: (processorSeconds() - start).bitPattern, Array.init))
            } else {
                let answer = [UInt8](repeating: 7, count: size)
                for _ in 0..<count {
                    try socket.readAll(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<64]))
                    try socket.writeAll(answer)
                }
            }
        }
    }
}

/// This end of it.
final class RawClient {
    private let socket: Socket

    init(_ listener: Listener) throws { socket = try listener.accept() }

    private func order(_ kind: UInt64, _ size: Int, _ count: Int) throws {
        try socket.writeAll([kind, UInt64(size), UInt64(count)].withUnsafeBytes(Array.init))
    }

    /// Gives seconds, processor seconds here, and at the other end.
    func stream(_ bytes: [UInt8]) throws -> (seconds: Double, here: Double, there: Double) {
        try order(1, bytes.count, 0)
        let (start, processor) = (monotonicSeconds(), processorSeconds())
        var at = 0
        while at < bytes.count {
            let end = min(at + (256 << 10), bytes.count)
            try socket.writeAll(bytes, range: at..<end)
            at = end
        }
        var there: UInt64 = 0
        try withUnsafeMutableBytes(of: &there) { try socket.readAll(into: $0) }
        return (monotonicSeconds() - start, processorSeconds() - processor, Double(bitPattern: there))
    }

    /// The 50th and 99th percentile in nanoseconds of asking with 64 bytes for `size` bytes.
    func latencies(_ size: Int, count: Int) throws -> (Double, Double) {
        try order(2, size, count + 200)
        let question = [UInt8](repeating: 1, count: 64)
        let answer = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 4096)
        defer { answer.deallocate() }
        let clock = BootClock()
        var times: [UInt64] = []
        for round in 0..<count + 200 {
            let start = clock.nanoseconds()
            try socket.writeAll(question)
            try socket.readAll(into: answer)
            if round >= 200 { times.append(clock.nanoseconds() - start) }
        }
        times.sort()
        return (Double(times[times.count / 2]), Double(times[times.count * 99 / 100]))
    }

    func close() { socket.close() }
}

/// A client of a network block device that speaks no more than reading: nbdkit's old-style handshake.
final class BlockDeviceClient {
    private let socket: Socket

    init(port: UInt16) throws {
        socket = try Socket.connect(host: "127.0.0.1", port: port, milliseconds: 10_000)
        let hello = UnsafeMutableRawBufferPointer.allocate(byteCount: 152, alignment: 8)
        defer { hello.deallocate() }
        try socket.readAll(into: hello)
        guard hello.prefix(8).elementsEqual("NBDMAGIC".utf8) else { throw CocoaError(.fileReadUnknown) }
    }

    /// The 50th percentile in nanoseconds of reads of `size` bytes, one after another.
    func latency(_ size: Int, count: Int) throws -> Double {
        let answer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16 + size, alignment: 4096)
        defer { answer.deallocate() }
        let clock = BootClock()
        var times: [UInt64] = []
        for round in 0..<count {
            var request: [UInt8] = []
            for word in [0x2560_9513, 0] as [UInt32] { withUnsafeBytes(of: word.bigEndian) { request += $0 } }
            withUnsafeBytes(of: UInt64(round).bigEndian) { request += $0 }
            withUnsafeBytes(of: UInt64(round % 16 * size).bigEndian) { request += $0 }
            withUnsafeBytes(of: UInt32(size).bigEndian) { request += $0 }
            let start = clock.nanoseconds()
            try socket.writeAll(request)
            try socket.readAll(into: answer)
            times.append(clock.nanoseconds() - start)
        }
        times.sort()
        return Double(times[times.count / 2])
    }
}

/// A network between the two processes that a measurement delays or cuts: a relay in user space.
final class BenchRelay: Sendable {
    private struct Queue {
        var parts: [(due: UInt64, bytes: [UInt8])] = []
        var byteCount = 0
        var isClosed = false
    }

    private let listener: Listener
    private let sockets = Mutex<[Socket]>([])
    private let delay = Mutex<UInt64>(0)
    var port: UInt16 { listener.port }

    init(to node: UInt16) throws {
        listener = try Listener(host: "127.0.0.1", port: 0)
        startThread { [self] in
            while let near = try? listener.accept(),
                let far = try? Socket.connect(host: "127.0.0.1", port: node, milliseconds: 10_000)
            {
                sockets.withLock { $0 += [near, far] }
                pass(from: near, to: far)
                pass(from: far, to: near)
            }
        }
    }

    /// One way, for all bytes from now on.
    func setDelay(nanoseconds: UInt64) { delay.withLock { $0 = nanoseconds } }

    func cut() {
        let all = sockets.withLock { sockets in
            defer { sockets = [] }
            return sockets
        }
        for socket in all { socket.close() }
    }

    func close() {
        cut()
        listener.close()
    }

    private func pass(from: Socket, to: Socket) {
        let queue = Monitor(Queue())
        let clock = BootClock()
        startThread { [self] in
            var buffer = [UInt8](repeating: 0, count: 256 * 1024)
            while let count = try? buffer.withUnsafeMutableBytes({ try from.readSome(into: $0) }), count > 0 {
                let part = Array(buffer[..<count])
                let due = clock.nanoseconds() + delay.withLock { $0 }
                let isOpen: Bool? = queue.wait { queue in
                    if queue.isClosed { return false }
                    // As much as a long line holds.
                    guard queue.byteCount < 64 << 20 else { return nil }
                    queue.parts.append((due, part))
                    queue.byteCount += part.count
                    return true
                }
                if isOpen != true { break }
            }
            queue.withLock { $0.isClosed = true }
        }
        startThread {
            while let next: (due: UInt64, bytes: [UInt8]) = queue.wait({ queue in
                queue.parts.isEmpty ? (queue.isClosed ? .some(nil) : nil) : .some(queue.parts.removeFirst())
            })! {
                let now = clock.nanoseconds()
                if next.due > now {
                    var rest = timespec(tv_sec: 0, tv_nsec: Int(next.due - now))
                    nanosleep(&rest, nil)
                }
                guard (try? to.writeAll(next.bytes)) != nil else { break }
                queue.withLock { $0.byteCount -= next.bytes.count }
            }
            queue.withLock { $0.isClosed = true }
            from.close()
            to.close()
        }
    }
}
