package import PolicyEngine
import Training
package import Vocabulary

/// The first checks of a release: what may leave is listed, everything else is refused.
///
/// They run in the gateway over the candidate's own bytes; nothing that a node or a researcher says is taken as fact.
package struct ArtefactChecks: Sendable {
    package struct Result: Sendable, Equatable {
        package let check: ReleaseCheck
        package let passed: Bool
        /// Says what was found; safe to show to reviewers and to log.
        package let finding: String
    }

    /// Persons in the permitted cohort, and in the whole version.
    let cohort: (permitted: Int, inVersion: Int)
    let cohortMinimum: Int
    /// Rows of the run image.
    let nodes: Int
    /// The run whose released model answered; `nil` where the candidate is a model.
    let predictsWith: RunID?

    package init(
        cohort: (permitted: Int, inVersion: Int), cohortMinimum: Int, nodes: Int, predictsWith: RunID? = nil
    ) {
        self.cohort = cohort
        self.cohortMinimum = cohortMinimum
        self.nodes = nodes
        self.predictsWith = predictsWith
    }

    package func results(for artefacts: [Artefact]) -> [Result] {
        if predictsWith != nil {
            let (artefact, shape) = predictionFindings(artefacts)
            return [Result(.artefact, artefact), Result(.shape, shape), Result(.cohort, cohortFinding())]
        }
        let (artefact, tensors) = artefactFinding(artefacts)
        return [
            Result(.artefact, artefact), Result(.shape, shapeFinding(tensors)), Result(.cohort, cohortFinding()),
        ]
    }

    private func cohortFinding() -> Finding {
        guard cohort.inVersion > 0 else { return .passed("the data set holds no persons") }
        let words = "\(cohort.permitted) persons, at least \(cohortMinimum) are asked for"
        return cohort.permitted >= cohortMinimum ? .passed(words) : .failed(words)
    }

    /// Counts and nothing else: every number of rows is a multiple of the least cohort, and there are fewer than rows.
    private func predictionFindings(_ artefacts: [Artefact]) -> (artefact: Finding, shape: Finding) {
        guard artefacts.count == 1, artefacts[0].kind == .predictions,
            let json = try? JSON(parsing: artefacts[0].bytes), var members = json.objectValue
        else {
            return (.failed("only \(Artefact.Kind.predictions.rawValue) leaves a prediction"), .failed("no counts"))
        }
        let words = ["format", "model", "weights", "specification", "task"].map { members.removeValue(forKey: $0) }
        guard words.allSatisfy({ ($0?.stringValue?.utf8.count ?? .max) <= 128 }),
            members["rounded_down_to"]?.integerValue == Int64(max(cohortMinimum, 1)),
            Set(members.keys).isSubset(of: ["rounded_down_to", "nodes", "figures", "predicted"])
        else { return (.failed("the predictions say more than counts, or round them otherwise"), .failed("no counts")) }
        let artefact = Finding.passed("1 artefact on the list, without weights and without rows")
        guard let counts = Self.counts(.object(members)), counts.count < nodes else {
            return (artefact, .failed("there are values that are no counts, or as many as rows"))
        }
        let multiple = Int64(max(cohortMinimum, 1))
        guard counts.allSatisfy({ $0 >= 0 && $0.isMultiple(of: multiple) }) else {
            return (artefact, .failed("a count is no multiple of \(multiple)"))
        }
        return (artefact, .passed("\(counts.count) counts, each rounded down to a multiple of \(multiple)"))
    }

    /// All numbers of a tree; `nil` where something else is in it.
    private static func counts(_ json: JSON) -> [Int64]? {
        switch json {
        case .integer(let value): return [value]
        case .array(let items): return counts(of: items)
        case .object(let members): return counts(of: Array(members.values))
        default: return nil
        }
    }

    private static func counts(of items: [JSON]) -> [Int64]? {
        let parts = items.map(counts)
        return parts.contains { $0 == nil } ? nil : parts.flatMap { $0 ?? [] }
    }

    private func artefactFinding(_ artefacts: [Artefact]) -> (Finding, [Safetensors.Tensor]) {
        guard Set(artefacts.map(\.name)).count == artefacts.count else {
            return (.failed("two artefacts share a name"), [])
        }
        var tensors: [Safetensors.Tensor] = []
        for artefact in artefacts {
            switch artefact.kind {
            case nil: return (.failed("an artefact is not on the list of what may leave: \(Artefact.allowed)"), [])
            case .model:
                do throws(SafetensorsError) {
                    tensors = try Safetensors(parsing: artefact.bytes).tensors
                } catch { return (.failed("the model is not valid safetensors: \(error)"), []) }
            case .readableCard:
                // What reads like a card must say what the card says, and nothing else.
                guard let card = artefacts.first(where: { $0.kind == .card }).flatMap({ try? JSON(parsing: $0.bytes) }),
                    artefact.bytes == Array(ModelCard.text(of: card).utf8)
                else { return (.failed("\(artefact.name) is not the card for people"), []) }
            case .predictions: return (.failed("a model's candidate holds no predictions"), [])
            case .figures, .card:
                guard (try? JSON(parsing: artefact.bytes)) != nil else {
                    return (.failed("\(artefact.name) is not JSON of the strict subset"), [])
                }
            }
        }
        guard !tensors.isEmpty else { return (.failed("there is no model"), []) }
        let optimiserWords = ["adam", "moment", "optim", "exp_avg"]
        for tensor in tensors where optimiserWords.contains(where: { tensor.name.lowercased().contains($0) }) {
            return (.failed("tensor \(tensor.name) looks like optimiser state"), [])
        }
        return (.passed("\(artefacts.count) artefacts on the list, \(tensors.count) tensors of weights"), tensors)
    }

    private func shapeFinding(_ tensors: [Safetensors.Tensor]) -> Finding {
        guard !tensors.isEmpty else { return .failed("there are no tensors to look at") }
        for tensor in tensors {
            if let fault = fault(of: tensor) { return .failed(fault) }
        }
        return .passed("no tensor has a dimension equal to the \(nodes) nodes")
    }

    /// A dimension equal to the node count would carry one value for each person or node.
    private func fault(of tensor: Safetensors.Tensor) -> String? {
        if tensor.shape.contains(nodes) { return "tensor \(tensor.name) has a dimension equal to the node count" }
        if tensor.elementCount >= nodes, tensor.shape.count == 1 {
            return "tensor \(tensor.name) is a list at least as long as the node count"
        }
        return nil
    }
}

private enum Finding {
    case passed(String), failed(String)
}

extension ArtefactChecks.Result {
    fileprivate init(_ check: ReleaseCheck, _ finding: Finding) {
        self.check = check
        switch finding {
        case .passed(let text): (passed, self.finding) = (true, text)
        case .failed(let text): (passed, self.finding) = (false, text)
        }
    }
}

/// One file of a candidate.
package struct Artefact: Sendable, Equatable {
    package enum Kind: String, CaseIterable, Sendable {
        case model = "model.safetensors"
        case figures = "figures.json"
        case card = "model-card.json"
        /// The card again, for people.
        case readableCard = "model-card.md"
        /// What a released model answers for all rows, as counts.
        case predictions = "predictions.json"
    }

    /// Beside a release, but no part of the candidate.
    package static let releaseRecordName = "release.json"

    package let name: String
    package let bytes: [UInt8]

    package init(name: String, bytes: [UInt8]) {
        self.name = name
        self.bytes = bytes
    }

    package var kind: Kind? { Kind(rawValue: name) }
    static var allowed: String { Kind.allCases.map(\.rawValue).joined(separator: ", ") }
}

// MARK: - Safetensors

/// Where and why a file is not safetensors.
package struct SafetensorsError: Error, Equatable, CustomStringConvertible {
    package let offset: Int
    package let reason: String
    package var description: String { "at byte \(offset): \(reason)" }
}

/// The header of a safetensors file (huggingface.co/docs/safetensors, "Format"), read strictly: tensors must cover
/// the data exactly, without gap or overlap, so that nothing can hide between them.
package struct Safetensors {
    package struct Tensor: Equatable, Sendable {
        package let name: String
        package let shape: [Int]
        package let range: Range<Int>
        package var elementCount: Int { shape.reduce(1, *) }
    }

    package let tensors: [Tensor]
    /// Where in the file the ranges count from.
    let dataOffset: Int

    private static let headerBytesMax = 1 << 20

    package init(parsing bytes: [UInt8]) throws(SafetensorsError) {
        guard bytes.count >= 8 else { throw SafetensorsError(offset: 0, reason: "shorter than its length field") }
        let length = bytes[..<8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= UInt64(Self.headerBytesMax), Int(length) <= bytes.count - 8 else {
            throw SafetensorsError(offset: 0, reason: "the header is longer than the file or the limit")
        }
        let start = 8 + Int(length)
        let header: JSON
        do throws(JSONError) {
            header = try JSON(parsing: Self.trimmed(bytes[8..<start]))
        } catch { throw SafetensorsError(offset: 8 + error.offset, reason: error.reason) }
        guard case .object(let members) = header else { throw SafetensorsError(offset: 8, reason: "not an object") }
        var tensors: [Tensor] = []
        for (name, value) in members where name != "__metadata__" {
            tensors.append(try Self.tensor(name, value, dataCount: bytes.count - start))
        }
        tensors.sort { $0.range.lowerBound < $1.range.lowerBound }
        var next = 0
        for tensor in tensors {
            guard tensor.range.lowerBound == next else {
                throw SafetensorsError(offset: start + next, reason: "a gap or overlap between tensors")
            }
            next = tensor.range.upperBound
        }
        guard next == bytes.count - start else {
            throw SafetensorsError(offset: start + next, reason: "bytes that belong to no tensor")
        }
        self.tensors = tensors
        dataOffset = start
    }

    /// The tensors' values by name. A name stands in the header once, or the file was not read.
    ///
    /// - Parameter bytes: the file that this was read from.
    func values(in bytes: [UInt8]) -> [String: [Float]] {
        let values = tensors.map { tensor in
            let start = dataOffset + tensor.range.lowerBound
            return (
                tensor.name,
                (0..<tensor.elementCount).map { index in
                    let at = start + 4 * index
                    return Float(
                        bitPattern: UInt32(bytes[at]) | UInt32(bytes[at + 1]) << 8 | UInt32(bytes[at + 2]) << 16
                            | UInt32(bytes[at + 3]) << 24)
                }
            )
        }
        return Dictionary(values) { first, _ in first }
    }

    // The format allows trailing spaces in the header so that the data starts aligned.
    private static func trimmed(_ header: ArraySlice<UInt8>) -> [UInt8] {
        var end = header.endIndex
        while end > header.startIndex, header[end - 1] == UInt8(ascii: " ") { end -= 1 }
        return Array(header[..<end])
    }

    private static func tensor(_ name: String, _ value: JSON, dataCount: Int) throws(SafetensorsError) -> Tensor {
        let fault = SafetensorsError(offset: 8, reason: "a tensor's entry is not {dtype, shape, data_offsets}")
        guard case .object(let members) = value, members.count == 3, members["dtype"]?.stringValue == "F32",
            let dimensions = members["shape"]?.arrayValue, dimensions.count <= 4,
            let offsets = members["data_offsets"]?.arrayValue, offsets.count == 2,
            let lower = offsets[0].integerValue, let upper = offsets[1].integerValue,
            0 <= lower, lower <= upper, upper <= dataCount
        else { throw fault }
        var shape: [Int] = []
        var count = 1
        for dimension in dimensions {
            guard let length = dimension.integerValue, (1...Int64(Limits.nodesMax)).contains(length) else {
                throw fault
            }
            let (product, overflow) = count.multipliedReportingOverflow(by: Int(length))
            guard !overflow, product <= dataCount else { throw fault }
            count = product
            shape.append(Int(length))
        }
        guard count * 4 == Int(upper - lower) else { throw fault }
        return Tensor(name: name, shape: shape, range: Int(lower)..<Int(upper))
    }
}
