import Vocabulary
import Yams

/// Why a text is not a model specification, and where. Never repeats a value of the text, only its own key names.
package struct ModelSpecError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case notYAML = "not-yaml"
        case tooLarge = "too-large"
        case unknownKey = "unknown-key"
        case missingKey = "missing-key"
        case wrongType = "wrong-type"
        case outOfRange = "out-of-range"
        case duplicateKey = "duplicate-key"
    }

    package let code: Code
    /// From 1.
    package let line: Int
    /// From 1, in Unicode scalars.
    package let column: Int
    package let publicDescription: String

    package var description: String { "\(line):\(column): \(publicDescription)" }
}

extension ModelSpec {
    package static let textBytesMax = 16 * 1024
    package static let hiddenLayersMax = 7
    package static let hiddenWidthMax = 8192
    package static let epochsMax = 1_000_000

    /// Reads one YAML document. Unknown or repeated keys, aliases, missing keys and values out of range are refused
    /// with line and column.
    package init(parsing text: String) throws(ModelSpecError) {
        guard text.utf8.count <= Self.textBytesMax else {
            throw ModelSpecError(
                code: .tooLarge, line: 1, column: 1,
                publicDescription: "a specification has at most \(Self.textBytesMax) bytes")
        }
        let keys = Keys(
            try Self.root(text), "the specification",
            known: [
                "model", "hidden", "dropout", "input_dropout", "learning_rate", "weight_decay", "weight_decay_layers",
                "epochs", "early_stopping", "class_weights", "features", "label", "loss", "seed",
            ])
        try keys.refuseUnknown()
        self.init(
            model: try keys.choice("model", Aggregation.self),
            hidden: try keys.integers("hidden", 1...Self.hiddenWidthMax, countMax: Self.hiddenLayersMax),
            dropout: try keys.fraction("dropout"),
            inputDropout: try keys.fraction("input_dropout"),
            learningRate: try keys.quantity("learning_rate", above: .zero, upTo: .one),
            weightDecay: try keys.quantity(
                "weight_decay", default: .zero, above: Quantity(billionths: -1), upTo: .one),
            weightDecayLayers: try keys.choice("weight_decay_layers", WeightDecayLayers.self, default: .first),
            epochs: try keys.integer("epochs", 1...Self.epochsMax),
            earlyStopping: try Self.earlyStopping(keys),
            classWeights: try keys.choice("class_weights", ClassWeights.self, default: ClassWeights.none),
            features: try keys.choice("features", FeatureNormalisation.self, default: FeatureNormalisation.none),
            label: try keys.columnName("label", default: "label"),
            loss: try keys.choice("loss", Loss.self, default: .crossEntropy),
            seed: UInt32(try keys.integer("seed", 0...Int(UInt32.max), default: 1)))
    }

    private static func earlyStopping(_ keys: Keys) throws(ModelSpecError) -> EarlyStopping? {
        guard let node = keys.take("early_stopping") else { return nil }
        let inner = Keys(node, "early_stopping", known: ["patience", "metric"])
        try inner.refuseUnknown()
        return EarlyStopping(
            patience: try inner.integer("patience", 1...epochsMax),
            metric: try inner.choice("metric", Metric.self, default: .validationAccuracy))
    }

    private static func root(_ text: String) throws(ModelSpecError) -> Yams.Node {
        // Yams builds nodes by recursion, so nesting is bounded before it sees the text: a specification needs two
        // levels, and neither flow brackets nor block dashes can nest deeper than they occur.
        let openers = text.utf8.count { $0 == UInt8(ascii: "[") || $0 == UInt8(ascii: "{") }
        let dashes = text.utf8.count { $0 == UInt8(ascii: "-") }
        guard openers <= 64, dashes <= 1024 else {
            throw ModelSpecError(
                code: .tooLarge, line: 1, column: 1,
                publicDescription: "too many brackets or dashes for a specification")
        }
        do {
            guard let node = try compose(yaml: text) else {
                throw ModelSpecError(
                    code: .missingKey, line: 1, column: 1, publicDescription: "the specification is empty")
            }
            return node
        } catch let error as ModelSpecError {
            throw error
        } catch let error as YamlError {
            throw Self.explain(error)
        } catch {
            throw ModelSpecError(code: .notYAML, line: 1, column: 1, publicDescription: "not valid YAML")
        }
    }

    private static func explain(_ error: YamlError) -> ModelSpecError {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            ModelSpecError(
                code: .notYAML, line: mark.line, column: mark.column, publicDescription: "not valid YAML: \(problem)")
        case .duplicatedKeysInMapping(_, let context):
            ModelSpecError(
                code: .duplicateKey, line: context.mark.line, column: context.mark.column,
                publicDescription: "a key occurs twice")
        default:
            ModelSpecError(code: .notYAML, line: 1, column: 1, publicDescription: "not valid YAML")
        }
    }
}

/// The keys of one mapping, each taken once.
private struct Keys {
    private let node: Yams.Node
    private let title: String
    private let known: [String]

    init(_ node: Yams.Node, _ title: String, known: [String]) {
        self.node = node
        self.title = title
        self.known = known
    }

    func refuseUnknown() throws(ModelSpecError) {
        guard let mapping = node.mapping else {
            throw refusal(.wrongType, at: node, "\(title) must be a mapping of keys to values")
        }
        for (key, _) in mapping {
            guard case .scalar(let scalar) = key, known.contains(scalar.string) else {
                throw refusal(.unknownKey, at: key, "unknown key in \(title)\(suggestion(for: key))")
            }
        }
    }

    private func suggestion(for key: Yams.Node) -> String {
        guard case .scalar(let scalar) = key, scalar.string.utf8.count <= 40 else { return "" }
        let close = known.map { ($0, editDistance(scalar.string, $0)) }.min { $0.1 < $1.1 }
        guard let close, close.1 <= max(2, close.0.count / 3) else {
            return "; known: \(known.joined(separator: ", "))"
        }
        return "; did you mean \(close.0)?"
    }

    func take(_ key: String) -> Yams.Node? { node.mapping?.first { $0.key.scalar?.string == key }?.value }

    private func scalar(_ key: String) throws(ModelSpecError) -> (text: String, node: Yams.Node)? {
        guard let value = take(key) else { return nil }
        guard case .scalar(let scalar) = value else { throw refusal(.wrongType, at: value, "\(key) must be one value") }
        return (scalar.string, value)
    }

    private func missing(_ key: String) -> ModelSpecError {
        refusal(.missingKey, at: node, "\(title) needs the key \(key)")
    }

    func choice<Choice: RawRepresentable & CaseIterable>(
        _ key: String, _: Choice.Type, default fallback: Choice? = nil
    ) throws(ModelSpecError) -> Choice where Choice.RawValue == String {
        guard let (text, value) = try scalar(key) else {
            guard let fallback else { throw missing(key) }
            return fallback
        }
        guard let choice = Choice(rawValue: text) else {
            let names = Choice.allCases.map(\.rawValue).joined(separator: ", ")
            throw refusal(.outOfRange, at: value, "\(key) must be one of: \(names)")
        }
        return choice
    }

    func integer(_ key: String, _ range: ClosedRange<Int>, default fallback: Int? = nil) throws(ModelSpecError) -> Int {
        guard let (text, value) = try scalar(key) else {
            guard let fallback else { throw missing(key) }
            return fallback
        }
        return try integer(text, key, range, at: value)
    }

    func integers(_ key: String, _ range: ClosedRange<Int>, countMax: Int) throws(ModelSpecError) -> [Int] {
        guard let value = take(key) else { throw missing(key) }
        guard let sequence = value.sequence else {
            throw refusal(.wrongType, at: value, "\(key) must be a list, such as [16]")
        }
        guard (1...countMax).contains(sequence.count) else {
            throw refusal(.outOfRange, at: value, "\(key) must have 1 to \(countMax) entries")
        }
        var numbers: [Int] = []
        for element in sequence {
            guard case .scalar(let scalar) = element else {
                throw refusal(.wrongType, at: element, "\(key) must be a list of whole numbers")
            }
            numbers.append(try integer(scalar.string, key, range, at: element))
        }
        return numbers
    }

    private func integer(
        _ text: String, _ key: String, _ range: ClosedRange<Int>, at value: Yams.Node
    ) throws(ModelSpecError) -> Int {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let number = Int(text)
        else { throw refusal(.wrongType, at: value, "\(key) must be a whole number") }
        guard range.contains(number) else {
            throw refusal(.outOfRange, at: value, "\(key) must be from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    func quantity(
        _ key: String, default fallback: Quantity? = nil, above: Quantity, upTo: Quantity
    ) throws(ModelSpecError) -> Quantity {
        guard let (text, value) = try scalar(key) else {
            guard let fallback else { throw missing(key) }
            return fallback
        }
        guard let number = Quantity(text) else {
            throw refusal(.wrongType, at: value, "\(key) must be a number with at most nine fractional digits")
        }
        guard number > above, number <= upTo else {
            let lower = above < .zero ? "from 0" : "above \(above)"
            throw refusal(.outOfRange, at: value, "\(key) must be \(lower) and at most \(upTo)")
        }
        return number
    }

    /// A drop probability: 0 up to 0.95, default 0.
    func fraction(_ key: String) throws(ModelSpecError) -> Quantity {
        try quantity(
            key, default: .zero, above: Quantity(billionths: -1), upTo: Quantity(billionths: 950_000_000))
    }

    func columnName(_ key: String, default fallback: String) throws(ModelSpecError) -> String {
        guard let (text, value) = try scalar(key) else { return fallback }
        guard !text.isEmpty, text.utf8.count <= Limits.identifierBytesMax,
            text.utf8.allSatisfy({ byte in
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                    || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "_")
            })
        else { throw refusal(.outOfRange, at: value, "\(key) must be a column name of letters, digits and _") }
        return text
    }

    private func refusal(_ code: ModelSpecError.Code, at node: Yams.Node, _ words: String) -> ModelSpecError {
        ModelSpecError(code: code, line: node.mark?.line ?? 1, column: node.mark?.column ?? 1, publicDescription: words)
    }
}

/// Levenshtein distance, for "did you mean". Both texts are short.
private func editDistance(_ left: String, _ right: String) -> Int {
    let right = Array(right.unicodeScalars)
    var row = Array(0...right.count)
    for (i, a) in left.unicodeScalars.enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, b) in right.enumerated() {
            let substituted = diagonal + (a == b ? 0 : 1)
            diagonal = row[j + 1]
            row[j + 1] = min(substituted, row[j] + 1, diagonal + 1)
        }
    }
    return row[right.count]
}
