internal import FabricProtocol
internal import Sealing

/// Why a connection cannot be made or cannot go on.
package struct TransportError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case unreachable, timeout, closed, certificate, corrupted, protocolViolation = "protocol-violation", unavailable
    }

    package let code: Code
    /// Never holds addresses, keys or carried bytes.
    package let publicDescription: String

    package init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    init(_ error: TLSError) {
        switch error.code {
        case .certificate: self.init(.certificate, "the peer's certificate was refused: \(error.publicDescription)")
        // Whoever is between the two ends can cause it: no more than a cut.
        case .protocol: self.init(.corrupted, error.publicDescription)
        case .malformed, .unavailable: self.init(.unavailable, error.publicDescription)
        }
    }

    init(_ error: FrameError) { self.init(.protocolViolation, "a frame was refused: \(error)") }

    package var description: String { "\(code.rawValue): \(publicDescription)" }
}
