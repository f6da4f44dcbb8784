package import FabricProtocol
package import Sealing
internal import Synchronization
package import Vocabulary

/// The control channel: frames inside TLS 1.3 over one TCP connection. Any thread may send; one thread receives.
package final class ControlConnection: Sendable {
    fileprivate struct State: ~Copyable {
        var session: TLSSession
        var plaintext: [UInt8] = []
    }

    private let socket: Socket
    private let state: Mutex<State>
    // Held from sealing to sending, so that TLS records leave in the order in which they were sealed.
    private let sending = Mutex<Void>(())
    package let ownCertificate: Digest
    package let peerCertificate: Digest

    /// Connects, shakes hands and checks the peer's certificate against the authority.
    ///
    /// - Parameter unheardMilliseconds: the connection ends when what was sent is not acknowledged for so long: what is
    ///   older never arrives; nil leaves it to the kernel.
    package static func connect(
        _ address: NodeAddress, tls: TLSContext, milliseconds: Int, unheardMilliseconds: Int? = nil
    ) throws(TransportError) -> ControlConnection {
        let socket = try Socket.connect(address, milliseconds: milliseconds)
        if let unheardMilliseconds { socket.endWhenUnheard(milliseconds: unheardMilliseconds) }
        return try ControlConnection(socket, tls: tls, milliseconds: milliseconds)
    }

    /// Shakes hands over a connected socket. `received` are bytes that were read from it already.
    package init(
        _ socket: Socket, tls: TLSContext, milliseconds: Int, received: [UInt8] = []
    ) throws(TransportError) {
        let session: TLSSession
        do {
            session = try Self.handshake(socket, tls: tls, milliseconds: milliseconds, received: received)
        } catch {
            socket.close()
            throw error
        }
        guard let peer = session.peerCertificate else {
            socket.close()
            throw TransportError(.certificate, "the peer has no certificate")
        }
        self.socket = socket
        ownCertificate = session.ownCertificate
        peerCertificate = peer
        var first = State(session: session)
        do {
            // The peer's first frames may have come in one piece with the end of its handshake.
            try first.take([])
        } catch {
            socket.close()
            throw error
        }
        state = Mutex(first)
    }

    deinit { socket.close() }

    private static func handshake(
        _ socket: Socket, tls: TLSContext, milliseconds: Int, received: [UInt8]
    ) throws(TransportError) -> TLSSession {
        let clock = BootClock()
        let end = clock.nanoseconds() + UInt64(milliseconds) * 1_000_000
        var buffer = [UInt8](repeating: 0, count: 16 * 1024)
        do {
            var session = try TLSSession(tls)
            try received.feed(to: &session)
            while true {
                let attempt: Result<Bool, TLSError> = Result { () throws(TLSError) in try session.handshake() }
                // On failure too: the peer is told why by an alert.
                let output = session.takeOutput()
                if !output.isEmpty { try socket.writeAll(output) }
                if try attempt.get() { return session }
                let now = clock.nanoseconds()
                guard now < end else { throw TransportError(.timeout, "no handshake within \(milliseconds) ms") }
                let count = try buffer.read(from: socket, milliseconds: Int((end - now) / 1_000_000) + 1)
                guard count > 0 else { throw TransportError(.closed, "the peer closed during the handshake") }
                try Array(buffer[..<count]).feed(to: &session)
            }
        } catch let error as TransportError {
            throw error
        } catch let error as TLSError {
            throw TransportError(error)
        } catch {
            throw TransportError(.unavailable, "the handshake failed")
        }
    }

    package func send(_ frame: ControlFrame) throws(TransportError) {
        let bytes = frame.encoded
        let result: Result<Void, TransportError> = sending.withLock { _ in
            Result { () throws(TransportError) in
                let sealed: Result<[UInt8], TLSError> = state.withLock { state in
                    Result { () throws(TLSError) in
                        try bytes.write(to: &state.session)
                        return state.session.takeOutput()
                    }
                }
                switch sealed {
                case .success(let output): try socket.writeAll(output)
                case .failure(let error): throw TransportError(error)
                }
            }
        }
        try result.get()
    }

    /// Waits for the next frame; `milliseconds` nil waits for ever. After any error the connection is of no use.
    package func receive(milliseconds: Int? = nil) throws(TransportError) -> ControlFrame {
        var buffer = [UInt8](repeating: 0, count: 64 * 1024)
        while true {
            if let frame = try nextFrame() { return frame }
            let count = try buffer.read(from: socket, milliseconds: milliseconds)
            guard count > 0 else { throw TransportError(.closed, "the peer closed the connection") }
            let opened: Result<Void, TransportError> = state.withLock { state in
                Result { () throws(TransportError) in try state.take(Array(buffer[..<count])) }
            }
            try opened.get()
        }
    }

    private func nextFrame() throws(TransportError) -> ControlFrame? {
        let result: Result<ControlFrame?, FrameError> = state.withLock { state in
            Result { () throws(FrameError) in
                guard state.plaintext.count >= ControlFrame.prefixBytes else { return nil }
                let count = try ControlFrame.byteCount(prefix: Array(state.plaintext[..<ControlFrame.prefixBytes]))
                let end = ControlFrame.prefixBytes + count
                guard state.plaintext.count >= end else { return nil }
                let body = Array(state.plaintext[ControlFrame.prefixBytes..<end])
                state.plaintext.removeFirst(end)
                return try ControlFrame(parsing: body)
            }
        }
        switch result {
        case .success(let frame): return frame
        case .failure(let error): throw TransportError(error)
        }
    }

    /// Wakes the receiver and ends the connection.
    package func close() { socket.close() }

    package func export(label: String, context: [UInt8], count: Int = 32) -> SecretBytes {
        state.withLock { $0.session.export(label: label, context: context, count: count) }
    }

    /// The transcript of an attestation over this connection, from its client's or its server's point of view.
    package func transcript(
        isClient: Bool, nonce: [UInt8], fence: Fence, lease: LeaseID, claims: Evidence
    ) -> AttestationTranscript {
        AttestationTranscript(
            exporter: export(label: AttestationTranscript.exporterLabel, context: []),
            clientCertificate: isClient ? ownCertificate : peerCertificate,
            serverCertificate: isClient ? peerCertificate : ownCertificate, nonce: nonce, fence: fence, lease: lease,
            claims: claims)
    }
}

extension ControlConnection.State {
    fileprivate mutating func take(_ bytes: [UInt8]) throws(TransportError) {
        do {
            try bytes.feed(to: &session)
            var part = [UInt8](repeating: 0, count: 16 * 1024)
            while true {
                let count = try part.read(from: &session)
                guard let count else { throw TransportError(.closed, "the peer closed the connection") }
                if count == 0 { return }
                plaintext += part[..<count]
            }
        } catch let error as TLSError {
            throw TransportError(error)
        } catch let error as TransportError {
            throw error
        } catch {
            throw TransportError(.unavailable, "a TLS record could not be read")
        }
    }
}

// `withUnsafeBytes` of an array loses the type of what its closure throws; these keep it.
extension [UInt8] {
    fileprivate func feed(to session: inout TLSSession) throws(TLSError) {
        let result = withUnsafeBytes { bytes in Result { () throws(TLSError) in try session.feed(bytes) } }
        try result.get()
    }

    fileprivate func write(to session: inout TLSSession) throws(TLSError) {
        let result = withUnsafeBytes { bytes in Result { () throws(TLSError) in try session.write(bytes) } }
        try result.get()
    }

    fileprivate mutating func read(from session: inout TLSSession) throws(TLSError) -> Int? {
        let result = withUnsafeMutableBytes { bytes in
            Result { () throws(TLSError) in try session.read(into: bytes) }
        }
        return try result.get()
    }

    fileprivate mutating func read(from socket: Socket, milliseconds: Int?) throws(TransportError) -> Int {
        let result = withUnsafeMutableBytes { bytes in
            Result { () throws(TransportError) in try socket.readSome(into: bytes, milliseconds: milliseconds) }
        }
        return try result.get()
    }
}
