import AuditTrail
import GPUFabric
import GRDB
import GraphVault
import Sealing
import TransparencyLog

/// Why the gateway did not do what was asked. `code` decides the exit status and what a script can act on;
/// the words are safe to log and name the next step.
package struct GatewayError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        /// What was asked makes no sense as asked.
        case usage
        /// A policy, a check or a role said no.
        case refused
        case notFound
        /// Something stored is not what was stored.
        case integrity
        /// A disk, a node or a file is not there or failed; trying again may help.
        case unavailable
        case trailFull
        /// Another process holds this home.
        case busy
        /// It is no longer what it was when the caller looked.
        case changed
        /// The key for doing it once was used for something else.
        case keyReused
    }

    package let code: Code
    package let publicDescription: String
    package var description: String { publicDescription }

    init(_ code: Code, _ publicDescription: String) {
        self.code = code
        self.publicDescription = publicDescription
    }

    /// What a gateway elsewhere said.
    package init(told code: Code, _ publicDescription: String) { self.init(code, publicDescription) }
}

extension GatewayError {
    package static let policyFilesInvalid = GatewayError(.refused, "the policy files are not valid")
    package static let refusedRequest = GatewayError(.refused, "policy refused the request")
    package static let refusedRun = GatewayError(.refused, "the run was refused")
    package static let failedRun = GatewayError(
        .unavailable, "the run failed; what it held is given back or quarantined")
}

extension GatewayError {
    /// What a part said, in the gateway's codes; `nil` for an error that no part declares, which is a bug of ours.
    package init?(_ error: any Error) {
        switch error {
        case let error as GatewayError: self = error
        case let error as VaultError: self.init(vault: error)
        case let error as TrailError: self.init(trail: error)
        case let error as FabricError: self.init(fabric: error)
        case let error as LogError: self.init(.integrity, error.publicDescription)
        case let error as SealingError: self.init(.integrity, error.publicDescription)
        case is DatabaseError:
            self.init(.unavailable, "the gateway's database cannot be read or written; see that its disk has space")
        case is CancellationError:
            self.init(
                .unavailable, "stopped; what was done is durable, and `sekisho run resume RUN` goes on with a run")
        default: return nil
        }
    }
}
