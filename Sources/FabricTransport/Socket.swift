internal import Glibc
package import Vocabulary

/// A connected TCP socket with blocking I/O, small segments sent at once, and a bound on how long a send may block.
///
/// `close()` ends both directions and wakes whoever blocks; the descriptor itself is given back in `deinit`, when no
/// thread can be using it any more.
package final class Socket: Sendable {
    package static let sendSecondsMax = 10

    private let descriptor: Int32

    fileprivate init(descriptor: Int32) {
        self.descriptor = descriptor
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, socklen_t(MemoryLayout<Int32>.size))
        var limit = timeval(tv_sec: Self.sendSecondsMax, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { Glibc.close(descriptor) }

    /// Connects to a name or address. Every address the name has is tried within the same time.
    package static func connect(host: String, port: UInt16, milliseconds: Int) throws(TransportError) -> Socket {
        try connect(NodeAddress(host: host, port: port), milliseconds: milliseconds)
    }

    /// The same, over all paths that the kernel knows where the address says so.
    package static func connect(_ place: NodeAddress, milliseconds: Int) throws(TransportError) -> Socket {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(place.host, String(place.port), &hints, &list) == 0 else {
            throw TransportError(.unreachable, "the address has no meaning here")
        }
        defer { freeaddrinfo(list) }
        var failure = TransportError(.unreachable, "the address has no meaning here")
        var next = list
        while let address = next {
            do throws(TransportError) {
                return try connect(address.pointee, isMultipath: place.isMultipath, milliseconds: milliseconds)
            } catch {
                failure = error
            }
            next = address.pointee.ai_next
        }
        throw failure
    }

    /// Multipath TCP where the kernel has it.
    fileprivate static func open(_ family: Int32, isMultipath: Bool) throws(TransportError) -> Int32 {
        let kind = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        if isMultipath {
            // IPPROTO_MPTCP, which this C library does not name.
            let descriptor = socket(family, kind, 262)
            if descriptor >= 0 { return descriptor }
        }
        let descriptor = socket(family, kind, Int32(IPPROTO_TCP))
        guard descriptor >= 0 else { throw TransportError(.unavailable, "no socket can be opened") }
        return descriptor
    }

    private static func connect(
        _ address: addrinfo, isMultipath: Bool, milliseconds: Int
    ) throws(TransportError) -> Socket {
        let descriptor = try open(address.ai_family, isMultipath: isMultipath)
        let opened = Socket(descriptor: descriptor)
        let flags = fcntl(descriptor, F_GETFL)
        _ = fcntl(descriptor, F_SETFL, flags | O_NONBLOCK)
        if Glibc.connect(descriptor, address.ai_addr, address.ai_addrlen) != 0 {
            guard errno == EINPROGRESS else { throw TransportError(.unreachable, "the connection was refused") }
            guard try opened.waitUntil(POLLOUT, milliseconds: milliseconds) else {
                throw TransportError(.timeout, "no connection within \(milliseconds) ms")
            }
            var problem: Int32 = 0
            var size = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &problem, &size)
            guard problem == 0 else { throw TransportError(.unreachable, "the connection was refused") }
        }
        _ = fcntl(descriptor, F_SETFL, flags)
        return opened
    }

    package func close() { shutdown(descriptor, Int32(SHUT_RDWR)) }

    /// Ends by itself when what was sent is not acknowledged for so long; also what was sent before it was closed.
    func endWhenUnheard(milliseconds: Int) {
        var limit = UInt32(clamping: milliseconds)
        setsockopt(
            descriptor, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, &limit, socklen_t(MemoryLayout<UInt32>.size))
    }

    /// CUBIC, where the kernel has it: BBR paces, which halves what a local network carries. Ends by itself when what was
    /// sent is not acknowledged for so long.
    func useLaneSettings(unheardMilliseconds: Int) {
        endWhenUnheard(milliseconds: unheardMilliseconds)
        let algorithm = Array("cubic".utf8)
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_CONGESTION, algorithm, socklen_t(algorithm.count))
    }

    /// Whether everything that was sent is acknowledged.
    var isIdle: Bool {
        var waiting: Int32 = 0
        return ioctl(descriptor, UInt(TIOCOUTQ), &waiting) == 0 && waiting == 0
    }

    /// Takes whatever has come, at least one byte; 0 when the peer has closed. `milliseconds` nil waits for ever.
    package func readSome(
        into buffer: UnsafeMutableRawBufferPointer, milliseconds: Int? = nil
    ) throws(TransportError) -> Int {
        while true {
            if let milliseconds {
                guard try waitUntil(POLLIN, milliseconds: milliseconds) else {
                    throw TransportError(.timeout, "nothing came within \(milliseconds) ms")
                }
            }
            let count = recv(descriptor, buffer.baseAddress, buffer.count, 0)
            if count >= 0 { return count }
            guard errno == EINTR else { throw TransportError(.closed, "the connection broke") }
        }
    }

    /// Takes what has come, without waiting: 0 where that is nothing.
    func take(into buffer: UnsafeMutableRawBufferPointer) throws(TransportError) -> Int {
        let count = recv(descriptor, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
        if count > 0 || buffer.isEmpty { return max(0, count) }
        guard count < 0, errno == EAGAIN || errno == EINTR else {
            throw TransportError(.closed, "the connection ended")
        }
        return 0
    }

    /// Takes what comes within a time, without sleeping: 0 where nothing did.
    func look(into buffer: UnsafeMutableRawBufferPointer, nanoseconds: UInt64) throws(TransportError) -> Int {
        let clock = BootClock()
        let end = clock.nanoseconds() + nanoseconds
        repeat {
            let count = try take(into: buffer)
            if count > 0 { return count }
        } while clock.nanoseconds() < end
        return 0
    }

    /// Fills `buffer`. Throws `closed` when the peer ends before that.
    package func readAll(into buffer: UnsafeMutableRawBufferPointer) throws(TransportError) {
        var filled = 0
        while filled < buffer.count {
            let count = recv(descriptor, buffer.baseAddress! + filled, buffer.count - filled, Int32(MSG_WAITALL))
            if count > 0 {
                filled += count
            } else if count == 0 || errno != EINTR {
                throw TransportError(.closed, "the connection ended")
            }
        }
    }

    /// The same, with a bound on the wait for each piece.
    func readAll(into buffer: UnsafeMutableRawBufferPointer, milliseconds: Int) throws(TransportError) {
        var filled = 0
        while filled < buffer.count {
            let count = try readSome(
                into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]), milliseconds: milliseconds)
            guard count > 0 else { throw TransportError(.closed, "the connection ended") }
            filled += count
        }
    }

    package func writeAll(_ bytes: [UInt8]) throws(TransportError) {
        let result = bytes.withUnsafeBytes { bytes in
            withUnsafeTemporaryAllocation(of: iovec.self, capacity: 1) { parts in
                // The call only reads; the structure has no const.
                parts[0] = iovec(iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
                return Result { () throws(TransportError) in try writeAll(parts) }
            }
        }
        try result.get()
    }

    /// Sends a part of some bytes.
    package func writeAll(_ bytes: [UInt8], range: Range<Int>) throws(TransportError) {
        let result = bytes.withUnsafeBytes { bytes in
            withUnsafeTemporaryAllocation(of: iovec.self, capacity: 1) { parts in
                parts[0] = iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress! + range.lowerBound),
                    iov_len: range.count)
                return Result { () throws(TransportError) in try writeAll(parts) }
            }
        }
        try result.get()
    }

    /// Sends several stretches of memory as one; `parts` is used up.
    func writeAll(_ parts: UnsafeMutableBufferPointer<iovec>) throws(TransportError) {
        var first = 0
        while first < parts.count {
            var message = msghdr()
            message.msg_iov = parts.baseAddress! + first
            message.msg_iovlen = parts.count - first
            var sent = sendmsg(descriptor, &message, Int32(MSG_NOSIGNAL))
            if sent < 0 {
                if errno == EINTR { continue }
                let slow = errno == EAGAIN || errno == EWOULDBLOCK
                throw slow
                    ? TransportError(.timeout, "the peer took nothing for \(Self.sendSecondsMax) s")
                    : TransportError(.closed, "the connection broke")
            }
            while first < parts.count, sent >= parts[first].iov_len {
                sent -= parts[first].iov_len
                first += 1
            }
            if first < parts.count, sent > 0 {
                parts[first].iov_base += sent
                parts[first].iov_len -= sent
            }
        }
    }

    private func waitUntil(_ event: Int32, milliseconds: Int) throws(TransportError) -> Bool {
        var request = pollfd(fd: descriptor, events: Int16(event), revents: 0)
        while true {
            let ready = poll(&request, 1, Int32(clamping: milliseconds))
            if ready >= 0 { return ready > 0 }
            guard errno == EINTR else { throw TransportError(.unavailable, "the socket cannot be waited for") }
        }
    }
}

/// A listening TCP socket on one address.
package final class Listener: Sendable {
    private let descriptor: Int32
    /// The port that was given, or the free one that was found.
    package let port: UInt16

    /// `host` is an address of this machine; port 0 takes a free one.
    package convenience init(host: String, port: UInt16) throws(TransportError) {
        try self.init(NodeAddress(host: host, port: port))
    }

    package init(_ place: NodeAddress) throws(TransportError) {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICSERV | AI_NUMERICHOST | AI_PASSIVE
        var list: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(place.host, String(place.port), &hints, &list) == 0, let address = list else {
            throw TransportError(.unavailable, "not an address to listen on")
        }
        defer { freeaddrinfo(list) }
        let descriptor = try Socket.open(address.pointee.ai_family, isMultipath: place.isMultipath)
        var on: Int32 = 1
        setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        guard bind(descriptor, address.pointee.ai_addr, address.pointee.ai_addrlen) == 0, listen(descriptor, 64) == 0
        else {
            Glibc.close(descriptor)
            throw TransportError(.unavailable, "the address or port cannot be listened on")
        }
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let bound = withUnsafeMutablePointer(to: &storage) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &size) }
        }
        precondition(bound == 0, "a bound socket has a name")
        // The port has the same place in IPv4 and IPv6 addresses.
        self.port = withUnsafeBytes(of: storage) { UInt16(bigEndian: $0.load(fromByteOffset: 2, as: UInt16.self)) }
        self.descriptor = descriptor
    }

    deinit { Glibc.close(descriptor) }

    /// Waits for a connection. Throws `closed` after `close()`.
    package func accept() throws(TransportError) -> Socket {
        while true {
            let connection = Glibc.accept(descriptor, nil, nil)
            if connection >= 0 {
                _ = fcntl(connection, F_SETFD, FD_CLOEXEC)
                return Socket(descriptor: connection)
            }
            switch errno {
            case EINTR, ECONNABORTED: continue
            case EMFILE, ENFILE, ENOBUFS, ENOMEM:
                throw TransportError(.unavailable, "no descriptor is left for a connection")
            default: throw TransportError(.closed, "the listener is closed")
            }
        }
    }

    package func close() { shutdown(descriptor, Int32(SHUT_RDWR)) }
}
