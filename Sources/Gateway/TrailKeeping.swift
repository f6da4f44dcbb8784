import AsyncHTTPClient
package import AuditTrail
package import Foundation
import GraphVault
import NIOCore
import NIOHTTP1
import Sealing
package import TransparencyLog
package import Vocabulary

// What keeps the trail in order while the gateway lives: its care, its witnesses, its signing key, its anchor.

extension Gateway {
    /// Tends the trail about once a second until the task is cancelled, and asks its witnesses once an hour. What stops
    /// the trail is said by every refusal from then on.
    package func keepTrail() async {
        var asked: Timestamp?
        while !Task.isCancelled {
            try? trail.tend()
            let now = clock.now()
            if asked.map({ now >= $0.adding(seconds: 3600) || now < $0 }) ?? true {
                asked = now
                if (try? witnesses()) != nil { _ = try? await cosign(by: nil) }
            }
            try? await Task.sleep(for: .seconds(1))
        }
    }

    /// Why nothing new starts, in words; `nil` when everything may.
    package nonisolated var trailObstacle: String? { trail.obstacle.map { GatewayError(trail: $0).publicDescription } }

    // MARK: - Witnesses

    /// Who is asked to cosign the trail's heads; `nil` when nobody is.
    package func witnesses() throws -> WitnessPolicy? {
        guard FileManager.default.fileExists(atPath: home.witnesses.path) else { return nil }
        let text = try GatewayFile.read(home.witnesses, role: "list of witnesses")
        do throws(LogError) { return try WitnessPolicy(parsing: text) } catch {
            throw GatewayError(.integrity, "the home's list of witnesses is damaged; set it again")
        }
    }

    /// Sets the list of witnesses: a C2SP tlog-policy file that names this trail and where each witness is. Returns their
    /// names.
    @discardableResult
    package func setWitnesses(_ file: URL, by actor: PersonID) throws -> [String] {
        try require(actor, anyOf: [.operatorRole, .securityOfficer])
        let text = try GatewayFile.read(file, role: "list of witnesses")
        let policy: WitnessPolicy
        do throws(LogError) { policy = try WitnessPolicy(parsing: text) } catch {
            throw GatewayError(.usage, error.publicDescription)
        }
        guard policy.logs.contains(settings.trail) else {
            throw GatewayError(.usage, "the list of witnesses has no log line with this trail's identity")
        }
        let changed = { (outcome: AuditOutcome) in
            Event(.witnessesChanged, outcome).with {
                $0.actor = actor
                $0.detail = [
                    "witnesses": .array(policy.witnesses.map { .string($0.key.description) }),
                    "file": .string(SHA256.hash(text).hex),
                ]
            }
        }
        try ledger.record(changed(.intent), in: .gateway, key: ledger.freshKey("witnesses"))
        try GatewayFile.write(Array(text.utf8), to: home.witnesses, role: "list of witnesses")
        try ledger.record(changed(.done), in: .gateway, key: ledger.freshKey("witnesses"))
        return policy.witnesses.map(\.name)
    }

    /// Asks the witnesses to cosign the newest head, and records what each said. `nil`: the gateway asks by itself.
    package func cosign(by actor: PersonID?) async throws -> Cosigning {
        if let actor { try require(actor, anyOf: [.operatorRole, .securityOfficer, .complianceOfficer]) }
        let (head, answers) = try await cosign(for: actor)
        return Cosigning(size: head.size, answers: answers)
    }

    /// The newest head with whatever cosignatures the witnesses gave it.
    func cosign(for actor: PersonID?) async throws -> (head: SignedCheckpoint, answers: [WitnessAnswer]) {
        guard let policy = try witnesses() else {
            throw GatewayError(.notFound, "this home has no list of witnesses; set one first")
        }
        let (head, answers) = try await trail.cosign(by: policy, over: WitnessHTTP())
        let isMet = (try? policy.check(head)) != nil
        try ledger.record(
            Event(.trailCosigned, isMet ? .done : .failed).with {
                $0.actor = actor
                $0.detail = [
                    "size": .integer(Int64(head.size)), "root": .string(head.root.hex),
                    "answers": .object(
                        Dictionary(uniqueKeysWithValues: answers.map { ($0.witness, .string($0.words)) })),
                ]
            }, in: .gateway, key: ledger.freshKey("cosigned"))
        return (head, answers)
    }

    // MARK: - Signing periods

    /// Ends the signing period of today's key. Every witness and whoever mirrors the log must learn the new one; who
    /// verifies needs the first key only. Returns the new verifier line.
    package func rotateTrailKey(by actor: PersonID) async throws -> String {
        try require(actor, anyOf: [.operatorRole, .securityOfficer])
        try ledger.record(
            Event(.signingRotationAsked, .done).with { $0.actor = actor }, in: .gateway,
            key: ledger.freshKey("signing-rotation"))
        let key = SigningKey.generate()
        try Self.writeSigningKey(key, home.nextSigningKey, await vault.derivedKey(DerivedKey.trailSigning))
        do throws(TrailError) { try trail.rotateSigningKey(to: key) } catch {
            throw GatewayError(trail: error)
        }
        try Self.takeOverNextSigningKey(home)
        return trail.periods.current.description
    }

    /// The new key takes the old one's place; the old one is no longer on this disk.
    static func takeOverNextSigningKey(_ home: Home) throws {
        let bytes = try GatewayFile.bytes(home.nextSigningKey, role: "trail's next signing key")
        try GatewayFile.write(bytes, to: home.signingKey, role: "trail's signing key")
        try? FileManager.default.removeItem(at: home.nextSigningKey)
    }
}

/// What the witnesses said about a head of this size.
package struct Cosigning: Sendable {
    package let size: UInt64
    package let answers: [WitnessAnswer]

    /// Each witness and what it said, in words.
    package var words: [(witness: String, said: String)] { answers.map { ($0.witness, $0.words) } }
}

extension WitnessAnswer {
    /// As the record and the command line say it.
    var words: String {
        switch outcome {
        case .cosigned(let time): "cosigned at \(time)"
        case .unreachable: "unreachable"
        case .sawLonger(let size): "has cosigned \(size) entries: this trail has been rolled back or copied"
        case .refused(let status): "refused (\(status))"
        case .unusable: "gave an unusable answer"
        }
    }
}

/// Witnesses over HTTP or HTTPS.
struct WitnessHTTP: WitnessTransport {
    private static let answerBytesMax = 4096

    func post(_ body: [UInt8], to address: String) async throws -> (status: Int, body: [UInt8]) {
        var request = HTTPClientRequest(url: address)
        request.method = .POST
        request.headers.add(name: "Content-Type", value: "text/plain; charset=utf-8")
        request.body = .bytes(body)
        let response = try await HTTPClient.shared.execute(request, timeout: .seconds(10))
        let answer = try await response.body.collect(upTo: Self.answerBytesMax)
        return (Int(response.status.code), Array(answer.readableBytesView))
    }
}
