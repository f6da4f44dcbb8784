import Sealing
package import Vocabulary

/// Who cosigns a log's heads after seeing that each one only adds to the one before: its name and public key.
/// Text form: the C2SP verifier key of a cosigner, `name+hash+base64`, algorithm 4.
package struct WitnessKey: Hashable, Sendable, CustomStringConvertible {
    package let name: String
    let key: VerifyingKey

    package init(parsing text: String) throws(LogError) { (name, key) = try TrailIdentity.parse(text, Self.cosigner) }

    package var description: String { TrailIdentity.line(name, Self.cosigner, key) }

    fileprivate var keyHash: UInt32 { TrailIdentity.keyHash(name, Self.cosigner, key) }
    private static let cosigner: UInt8 = 4
}

extension SignedCheckpoint {
    /// When `witness` says it saw this head; `nil` when it has not cosigned it. A signature in its name that does not
    /// fit is an error: somebody made it up.
    package func cosigned(by witness: WitnessKey) throws(LogError) -> Timestamp? {
        let signed = try SignedNote(parsing: note)
        let own = signed.signatures.filter { $0.name == witness.name && $0.keyHash == witness.keyHash }
        guard let signature = own.first else { return nil }
        guard own.count == 1, let time = signature.time(by: witness, over: signed.text) else {
            throw LogError(.unsigned, "a witness's cosignature does not fit its key")
        }
        return time
    }
}

extension NoteSignature {
    /// The seconds that a valid cosignature/v1 states (C2SP tlog-cosignature): `time 8 ‖ Ed25519 signature 64`.
    fileprivate func time(by witness: WitnessKey, over text: String) -> Timestamp? {
        guard name == witness.name, keyHash == witness.keyHash, bytes.count == 8 + VerifyingKey.signatureBytes else {
            return nil
        }
        let seconds = bytes[..<8].reduce(0) { $0 << 8 | UInt64($1) }
        let message = Array("cosignature/v1\ntime \(seconds)\n\(text)".utf8)
        guard seconds < 1 << 40, witness.key.isValid(Array(bytes[8...]), for: message) else { return nil }
        return Timestamp(milliseconds: Int64(seconds) * 1000)
    }
}

/// What a log sends a witness: C2SP tlog-witness, `add-checkpoint`.
package struct WitnessRequest: Sendable {
    package static let proofHashesMax = 63
    /// What the witness cosigned last, as far as the log knows; 0 for nothing yet.
    package let oldSize: UInt64
    let proof: [Digest]
    package let head: SignedCheckpoint

    /// `proof` is the consistency proof from `oldSize`; empty for 0 and for the same size.
    package init(oldSize: UInt64, proof: [Digest], head: SignedCheckpoint) {
        self.oldSize = oldSize
        self.proof = proof
        self.head = head
    }

    package var bytes: [UInt8] {
        let lines = ["old \(oldSize)"] + proof.map { Base64.encode($0.bytes) }
        return Array((lines.joined(separator: "\n") + "\n\n").utf8) + head.note
    }

    /// The head with the cosignature that `answer` must hold.
    package func cosigned(by witness: WitnessKey, answer: [UInt8]) throws(LogError) -> SignedCheckpoint {
        guard answer.count <= 4096 else { throw LogError(.malformed, "a witness's answer is too long") }
        let signatures = try NoteSignature.lines(parsing: answer[...])
        let own = signatures.filter { $0.name == witness.name && $0.keyHash == witness.keyHash }
        let cosigned = try head.adding(own)
        guard try cosigned.cosigned(by: witness) != nil else {
            throw LogError(.unsigned, "a witness's answer has no cosignature of its key")
        }
        return cosigned
    }
}

/// Which logs a reader trusts, and whose cosignatures a head must have: the C2SP tlog-policy file. An auditor's trust
/// file and the gateway's list of witnesses (which needs the addresses) have this one form.
///
///     log <verifier key> [<address>]
///     witness <name> <verifier key> [<address>]
///     group <name> <number>|any|all <witness or group>…
///     quorum <witness or group>|none
package struct WitnessPolicy: Hashable, Sendable {
    package static let byteCountMax = 64 * 1024
    private static let namesMax = 64

    package struct Witness: Hashable, Sendable {
        package let name: String
        package let key: WitnessKey
        /// Where to send `add-checkpoint`, without it.
        package let address: String?
    }

    private enum Member: Hashable, Sendable {
        case witness(Int)
        /// So many of these, each the place of an earlier member.
        case group(threshold: Int, members: [Int])
    }

    package private(set) var logs: [TrailIdentity] = []
    package private(set) var witnesses: [Witness] = []
    private var members: [Member] = []
    private var quorum: Int?

    /// Reads the file; every line is understood or refused by its number.
    package init(parsing text: String) throws(LogError) {
        guard text.utf8.count <= Self.byteCountMax else { throw LogError(.malformed, "a trust file is too long") }
        var places: [String: Int] = [:]
        var hasQuorum = false
        for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).map(String.init)
            guard let first = words.first, !first.hasPrefix("#") else { continue }
            func refused(_ why: String) -> LogError {
                LogError(.malformed, "line \(number + 1) of the trust file: \(why)")
            }
            func isFree(_ name: String) -> Bool {
                name != "none" && places[name] == nil && places.count < Self.namesMax
            }
            do throws(LogError) {
                switch (first, words.count) {
                case ("log", 2...3): logs.append(try TrailIdentity(parsing: words[1]))
                case ("witness", 3...4):
                    guard isFree(words[1]) else { throw refused("a name is used twice, or there are too many") }
                    let key = try WitnessKey(parsing: words[2])
                    guard !witnesses.contains(where: { $0.key == key }) else {
                        throw refused("a witness's key is there twice")
                    }
                    places[words[1]] = members.count
                    members.append(.witness(witnesses.count))
                    witnesses.append(Witness(name: words[1], key: key, address: words.count == 4 ? words[3] : nil))
                case ("group", 4...):
                    guard isFree(words[1]) else { throw refused("a name is used twice, or there are too many") }
                    let inside = words[3...].compactMap { places[$0] }
                    guard inside.count == words.count - 3, Set(inside).count == inside.count else {
                        throw refused("a group names what is not above it, or one twice")
                    }
                    let threshold =
                        switch words[2] {
                        case "any": 1
                        case "all": inside.count
                        default: Int(words[2]) ?? 0
                        }
                    guard (1...inside.count).contains(threshold) else { throw refused("a group's number fits nothing") }
                    places[words[1]] = members.count
                    members.append(.group(threshold: threshold, members: inside))
                case ("quorum", 2):
                    guard !hasQuorum else { throw refused("there are two quorums") }
                    hasQuorum = true
                    if words[1] != "none" {
                        guard let place = places[words[1]] else { throw refused("the quorum names nothing above it") }
                        quorum = place
                    }
                default: throw refused("not a line of log, witness, group or quorum")
                }
            } catch {
                throw error.publicDescription.hasPrefix("line ") ? error : refused(error.publicDescription)
            }
        }
        guard hasQuorum, !logs.isEmpty else { throw LogError(.malformed, "a trust file names a log and a quorum") }
    }

    package var needsWitnesses: Bool { quorum != nil }

    /// Throws unless as many witnesses as the quorum asks for cosigned `head`. Returns who did, and when.
    @discardableResult
    package func check(_ head: SignedCheckpoint) throws(LogError) -> [(witness: String, time: Timestamp)] {
        let times = try cosigners(of: head)
        if let quorum, !isSatisfied(quorum, Set(times.keys)) {
            throw LogError(
                .unwitnessed, "the head of size \(head.size) has \(times.count) of the cosignatures that you require")
        }
        return times.sorted { $0.key < $1.key }.map { (witnesses[$0.key].name, $0.value) }
    }

    /// When as many witnesses as the quorum asks for had seen `head`; `nil` when too few have, or none are asked for.
    package func timeSeen(_ head: SignedCheckpoint) throws(LogError) -> Timestamp? {
        guard let quorum else { return nil }
        var present: Set<Int> = []
        for (place, time) in try cosigners(of: head).sorted(by: { $0.value < $1.value }) {
            present.insert(place)
            if isSatisfied(quorum, present) { return time }
        }
        return nil
    }

    private func cosigners(of head: SignedCheckpoint) throws(LogError) -> [Int: Timestamp] {
        var times: [Int: Timestamp] = [:]
        for (place, witness) in witnesses.enumerated() {
            if let time = try head.cosigned(by: witness.key) { times[place] = time }
        }
        return times
    }

    /// Members name earlier ones only, so this ends.
    private func isSatisfied(_ place: Int, _ present: Set<Int>) -> Bool {
        switch members[place] {
        case .witness(let witness): present.contains(witness)
        case .group(let threshold, let inside): inside.count { isSatisfied($0, present) } >= threshold
        }
    }
}
