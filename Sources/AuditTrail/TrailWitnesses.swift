package import TransparencyLog
package import Vocabulary

/// Carries a request to a witness. The gateway has one over HTTP.
package protocol WitnessTransport: Sendable {
    /// Posts `body` to `address`; the status and at most a few kilobytes of the answer.
    func post(_ body: [UInt8], to address: String) async throws -> (status: Int, body: [UInt8])
}

/// What one witness said to one head.
package struct WitnessAnswer: Sendable, Equatable {
    package enum Outcome: Sendable, Equatable {
        case cosigned(Timestamp)
        case unreachable
        /// It has cosigned a longer log under this name: this one has been rolled back, or is a copy.
        case sawLonger(UInt64)
        /// It says that this log is not the one it cosigned before, or refuses it for another reason.
        case refused(status: Int)
        /// It answered with something that is no cosignature of its key.
        case unusable
    }

    package let witness: String
    package let outcome: Outcome
}

extension Trail {
    /// Asks every witness of `policy` that has an address to cosign the newest head, and keeps what they sign beside
    /// it. A witness that cannot be reached or refuses stops nothing: who must have cosigned is for readers to require.
    package func cosign(
        by policy: WitnessPolicy, over transport: any WitnessTransport
    ) async throws -> (head: SignedCheckpoint, answers: [WitnessAnswer]) {
        try publish()
        var head = try publishedHead()
        var answers: [WitnessAnswer] = []
        for witness in policy.witnesses {
            guard let address = witness.address else { continue }
            let (outcome, cosigned) = await ask(witness, at: address, about: head, transport)
            if let cosigned { head = cosigned }
            answers.append(WitnessAnswer(witness: witness.name, outcome: outcome))
        }
        if answers.contains(where: { if case .cosigned = $0.outcome { true } else { false } }) {
            try store(cosigned: head)
        }
        return (head, answers)
    }

    private func publishedHead() throws(TrailError) -> SignedCheckpoint {
        let (note, periods) = lock.held { (state.publishedNote, state.periods) }
        guard let note, let head = try? SignedCheckpoint(parsing: note, in: periods) else {
            throw TrailError(.notFound, "no head has been published")
        }
        return head
    }

    private func ask(
        _ witness: WitnessPolicy.Witness, at address: String, about head: SignedCheckpoint,
        _ transport: any WitnessTransport
    ) async -> (WitnessAnswer.Outcome, SignedCheckpoint?) {
        // The witness knows best what it cosigned last: it says so when it is told otherwise.
        var oldSize: UInt64 = 0
        for _ in 0..<3 {
            guard let request = try? request(from: oldSize, to: head),
                let answer = try? await transport.post(request.bytes, to: address + "/add-checkpoint")
            else { return (.unreachable, nil) }
            switch answer.status {
            case 200:
                guard let cosigned = try? request.cosigned(by: witness.key, answer: answer.body),
                    let time = try? cosigned.cosigned(by: witness.key)
                else { return (.unusable, nil) }
                return (.cosigned(time), cosigned)
            case 409:
                let text = String(decoding: answer.body.prefix(32), as: UTF8.self)
                guard text.hasSuffix("\n"), let size = UInt64(text.dropLast()) else { return (.unusable, nil) }
                if size > head.size { return (.sawLonger(size), nil) }
                guard size != oldSize else { return (.refused(status: 409), nil) }
                oldSize = size
            case let status:
                return (.refused(status: status), nil)
            }
        }
        return (.unusable, nil)
    }

    private func request(from oldSize: UInt64, to head: SignedCheckpoint) throws(TrailError) -> WitnessRequest {
        guard oldSize > 0, oldSize < head.size else { return WitnessRequest(oldSize: oldSize, proof: [], head: head) }
        let proof = try Merkle.consistencyProof(oldSize: oldSize, size: head.size) {
            level, index throws(TrailError) in try node(level: level, index: index)
        }
        return WitnessRequest(oldSize: oldSize, proof: proof, head: head)
    }
}
