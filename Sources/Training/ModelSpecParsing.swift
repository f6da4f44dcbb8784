import StrictYAML
import Vocabulary

/// Why a text is not a model specification, and where. Repeats of the text no more than its own key names.
package struct ModelSpecError: Error, Equatable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case notYAML = "not-yaml"
        case tooLarge = "too-large"
        case unknownKey = "unknown-key"
        case missingKey = "missing-key"
        case wrongType = "wrong-type"
        case outOfRange = "out-of-range"
        case duplicateKey = "duplicate-key"
        /// Each of two keys is right, but not both together.
        case conflict
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
    package static let headsMax = 64
    package static let epochsMax = 1_000_000
    /// Of what a dropout may drop.
    package static let dropoutMax = Quantity(billionths: 950_000_000)

    /// Every key, in the order of the documentation; `config/specification.schema.json` has the same.
    package static let keys = [
        "model", "hidden", "heads", "output_heads", "attention_dropout", "activation", "residual", "layer_norm",
        "dropout",
        "input_dropout", "learning_rate", "weight_decay", "weight_decay_layers", "epochs", "early_stopping",
        "class_weights",
        "features", "task", "label", "loss", "relations", "seed",
    ]

    /// Reads one document of the YAML that policies are written in, too (`YAMLValue`). Unknown or repeated keys, missing
    /// keys, values out of range and keys that do not go together are refused with line and column.
    package init(parsing text: String) throws(ModelSpecError) {
        guard text.utf8.count <= Self.textBytesMax else {
            throw ModelSpecError(
                code: .tooLarge, line: 1, column: 1,
                publicDescription: "a specification has at most \(Self.textBytesMax) bytes")
        }
        let keys = try Keys(try Self.root(text), "the specification", known: Self.keys)
        let model = try keys.choice("model", Aggregation.self)
        let task = try keys.choice("task", Task.self, default: .classification)
        let hidden = try keys.integers("hidden", 1...Self.hiddenWidthMax, countMax: Self.hiddenLayersMax)
        self.init(
            model: model, hidden: hidden, attention: try Self.attention(keys, model, hidden),
            activation: try keys.choice("activation", Activation.self, default: Self.activation(of: model)),
            residual: try Self.residual(keys, hidden),
            layerNorm: try keys.flag("layer_norm"),
            dropout: try keys.fraction("dropout"),
            inputDropout: try keys.fraction("input_dropout"),
            learningRate: try keys.quantity("learning_rate", above: .zero, upTo: .one),
            weightDecay: try keys.quantity(
                "weight_decay", default: .zero, above: Quantity(billionths: -1), upTo: .one),
            weightDecayLayers: try keys.choice("weight_decay_layers", WeightDecayLayers.self, default: .first),
            epochs: try keys.integer("epochs", 1...Self.epochsMax),
            earlyStopping: try Self.earlyStopping(keys, task),
            classWeights: try Self.classWeights(keys, task),
            features: try keys.choice("features", FeatureNormalisation.self, default: FeatureNormalisation.none),
            task: task,
            label: try keys.columnName("label", default: task.labelColumn),
            relations: try keys.predicates("relations"),
            seed: UInt32(try keys.integer("seed", 0...Int(UInt32.max), default: 1)))
        let named = try keys.choice("loss", Loss.self, default: loss)
        guard named == loss else {
            throw keys.refusal(.conflict, at: "loss", "the loss of a \(task.rawValue) is \(loss.rawValue)")
        }
    }

    private static func attention(
        _ keys: Keys, _ model: Aggregation, _ hidden: [Int]
    ) throws(ModelSpecError) -> Attention? {
        for key in ["heads", "output_heads", "attention_dropout"] where model != .gat && keys.has(key) {
            throw keys.refusal(.conflict, at: key, "only a gat has \(key)")
        }
        guard model == .gat else { return nil }
        let attention = Attention(
            heads: try keys.integer("heads", 1...headsMax, default: 8),
            outputHeads: try keys.integer("output_heads", 1...headsMax, default: 1),
            dropout: try keys.fraction("attention_dropout"))
        for (index, width) in hidden.enumerated() where !width.isMultiple(of: attention.heads) {
            throw keys.refusal(
                .conflict, at: "hidden", element: index,
                "a hidden width is that of all heads together, so a multiple of \(attention.heads)")
        }
        return attention
    }

    private static func residual(_ keys: Keys, _ hidden: [Int]) throws(ModelSpecError) -> Bool {
        guard try keys.flag("residual") else { return false }
        guard zip(hidden, hidden.dropFirst()).contains(where: { $0 == $1 }) else {
            throw keys.refusal(
                .conflict, at: "residual", "residual needs two hidden layers of one width that follow each other")
        }
        return true
    }

    private static func earlyStopping(
        _ keys: Keys, _ task: Task
    ) throws(ModelSpecError) -> EarlyStopping? {
        guard let node = keys.take("early_stopping") else { return nil }
        let inner = try Keys(node, "early_stopping", known: ["patience", "metric"])
        let metric = try inner.choice("metric", Metric.self, default: task.metrics[0])
        guard task.metrics.contains(metric) else {
            let names = task.metrics.map(\.rawValue).joined(separator: ", ")
            throw inner.refusal(.conflict, at: "metric", "the metric of a \(task.rawValue) is one of: \(names)")
        }
        return EarlyStopping(patience: try inner.integer("patience", 1...epochsMax), metric: metric)
    }

    private static func classWeights(_ keys: Keys, _ task: Task) throws(ModelSpecError) -> ClassWeights {
        let weights = try keys.choice("class_weights", ClassWeights.self, default: ClassWeights.none)
        guard weights == .none || task == .classification else {
            throw keys.refusal(.conflict, at: "class_weights", "only a classification can weigh its classes")
        }
        return weights
    }

    private static func root(_ text: String) throws(ModelSpecError) -> YAMLValue {
        do {
            return try YAMLValue(parsing: Array(text.utf8))
        } catch {
            let code: ModelSpecError.Code =
                switch error.code {
                case .duplicateKey: .duplicateKey
                case .empty: .missingKey
                case .tooLarge, .tooDeep, .tooMany: .tooLarge
                default: .notYAML
                }
            throw ModelSpecError(
                code: code, line: error.line, column: error.column,
                publicDescription: code == .notYAML
                    ? "not the YAML of a specification: \(error.message)" : error.message
            )
        }
    }
}

/// The keys of one mapping, all of them known.
private struct Keys {
    private let node: YAMLValue
    private let title: String
    private let pairs: [(key: YAMLValue, value: YAMLValue)]

    init(_ node: YAMLValue, _ title: String, known: [String]) throws(ModelSpecError) {
        self.node = node
        self.title = title
        guard case .mapping(let pairs) = node.content else {
            throw Self.refusal(.wrongType, at: node, "\(title) must be a mapping of keys to values")
        }
        self.pairs = pairs
        for (key, _) in pairs {
            guard case .scalar(let name, _) = key.content, known.contains(name) else {
                throw Self.refusal(.unknownKey, at: key, "unknown key in \(title)\(Self.suggestion(for: key, known))")
            }
        }
    }

    private static func suggestion(for key: YAMLValue, _ known: [String]) -> String {
        guard case .scalar(let name, _) = key.content, let close = nearest(name, among: known) else {
            return "; known: \(known.joined(separator: ", "))"
        }
        return "; did you mean \(close)?"
    }

    func take(_ key: String) -> YAMLValue? {
        pairs.first { if case .scalar(key, _) = $0.key.content { true } else { false } }?.value
    }

    func has(_ key: String) -> Bool { take(key) != nil }

    private func scalar(_ key: String) throws(ModelSpecError) -> (text: String, node: YAMLValue)? {
        guard let value = take(key) else { return nil }
        guard case .scalar(let text, _) = value.content else {
            throw Self.refusal(.wrongType, at: value, "\(key) must be one value")
        }
        return (text, value)
    }

    private func missing(_ key: String) -> ModelSpecError {
        Self.refusal(.missingKey, at: node, "\(title) needs the key \(key)")
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
            throw Self.refusal(.outOfRange, at: value, "\(key) must be one of: \(names)")
        }
        return choice
    }

    func flag(_ key: String) throws(ModelSpecError) -> Bool {
        guard let value = take(key) else { return false }
        guard case .scalar(let text, plain: true) = value.content, text == "true" || text == "false" else {
            throw Self.refusal(.wrongType, at: value, "\(key) must be true or false")
        }
        return text == "true"
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
        guard case .sequence(let sequence) = value.content else {
            throw Self.refusal(.wrongType, at: value, "\(key) must be a list, such as [16]")
        }
        guard (1...countMax).contains(sequence.count) else {
            throw Self.refusal(.outOfRange, at: value, "\(key) must have 1 to \(countMax) entries")
        }
        var numbers: [Int] = []
        for element in sequence {
            guard case .scalar(let text, _) = element.content else {
                throw Self.refusal(.wrongType, at: element, "\(key) must be a list of whole numbers")
            }
            numbers.append(try integer(text, key, range, at: element))
        }
        return numbers
    }

    private func integer(
        _ text: String, _ key: String, _ range: ClosedRange<Int>, at value: YAMLValue
    ) throws(ModelSpecError) -> Int {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }), let number = Int(text)
        else { throw Self.refusal(.wrongType, at: value, "\(key) must be a whole number") }
        guard range.contains(number) else {
            throw Self.refusal(
                .outOfRange, at: value, "\(key) must be from \(range.lowerBound) to \(range.upperBound)")
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
            throw Self.refusal(.wrongType, at: value, "\(key) must be a number with at most nine fractional digits")
        }
        guard number > above, number <= upTo else {
            let lower = above < .zero ? "from 0" : "above \(above)"
            throw Self.refusal(.outOfRange, at: value, "\(key) must be \(lower) and at most \(upTo)")
        }
        return number
    }

    /// A drop probability: 0 up to `dropoutMax`, default 0.
    func fraction(_ key: String) throws(ModelSpecError) -> Quantity {
        try quantity(key, default: .zero, above: Quantity(billionths: -1), upTo: ModelSpec.dropoutMax)
    }

    func columnName(_ key: String, default fallback: String) throws(ModelSpecError) -> String {
        guard let (text, value) = try scalar(key) else { return fallback }
        guard Self.isName(text, and: "_") else {
            throw Self.refusal(.outOfRange, at: value, "\(key) must be a column name of letters, digits and _")
        }
        return text
    }

    /// `all`, which is the default, or a list of predicates; their order in the list means nothing.
    func predicates(_ key: String) throws(ModelSpecError) -> [String]? {
        guard let value = take(key) else { return nil }
        if case .scalar("all", _) = value.content { return nil }
        guard case .sequence(let sequence) = value.content else {
            throw Self.refusal(.wrongType, at: value, "\(key) must be all or a list of predicates")
        }
        guard (1...Limits.predicatesMax).contains(sequence.count) else {
            throw Self.refusal(.outOfRange, at: value, "\(key) must have 1 to \(Limits.predicatesMax) entries")
        }
        var names: [String] = []
        for element in sequence {
            guard case .scalar(let text, _) = element.content, Self.isName(text, and: "_:.-/") else {
                throw Self.refusal(
                    .outOfRange, at: element,
                    "a predicate is of letters, digits and _ : . - /, as biolink:has_phenotype")
            }
            guard !names.contains(text) else {
                throw Self.refusal(.outOfRange, at: element, "this predicate stands in the list already")
            }
            names.append(text)
        }
        return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    private static func isName(_ text: String, and others: String) -> Bool {
        !text.isEmpty && text.utf8.count <= Limits.identifierBytesMax
            && text.utf8.allSatisfy { byte in
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                    || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || others.utf8.contains(byte)
            }
    }

    /// A refusal at a key's value, or at one element of its list.
    func refusal(
        _ code: ModelSpecError.Code, at key: String, element: Int? = nil, _ words: String
    ) -> ModelSpecError {
        var place = take(key) ?? node
        if let element, case .sequence(let list) = place.content { place = list[element] }
        return Self.refusal(code, at: place, words)
    }

    private static func refusal(_ code: ModelSpecError.Code, at place: YAMLValue, _ words: String) -> ModelSpecError {
        ModelSpecError(code: code, line: place.line, column: place.column, publicDescription: words)
    }
}
