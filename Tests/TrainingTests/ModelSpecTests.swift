import Foundation
import TestSupport
import Testing
import Training
import TrainingPlanner
import Vocabulary

@Suite struct ModelSpecTests {
    static let text = """
        model: gcn
        hidden: [16]
        dropout: 0.5
        input_dropout: 0.5
        learning_rate: 0.01
        weight_decay: 5e-4
        epochs: 200
        features: row-sum
        seed: 1
        """

    @Test("a specification is read with its defaults")
    func defaults() throws {
        let spec = try ModelSpec(parsing: Self.text)
        #expect(spec.model == .gcn)
        #expect(spec.hidden == [16])
        #expect(spec.weightDecay.description == "0.0005")
        #expect(spec.weightDecayLayers == .first)
        #expect(spec.classWeights == .none)
        #expect(spec.earlyStopping == nil)
        #expect(spec.seed == 1)
        #expect(!spec.recipe.aggregatesFirstLayer)
        #expect(spec.recipe.sections.contains(.features))
    }

    @Test("the canonical form reads back to an equal specification with an equal digest")
    func canonical() throws {
        let spec = try ModelSpec(
            parsing: Self.text
                .replacingOccurrences(of: "seed: 1", with: "seed: 7")
                + "\nearly_stopping: {patience: 20, metric: validation_loss}\nclass_weights: balanced")
        let again = try ModelSpec(parsing: spec.canonical.canonicalText)
        #expect(again == spec)
        #expect(again.digest == spec.digest)
        #expect(spec.with(seed: 8).digest != spec.digest)
    }

    @Test(
        "what came later than the first grammar is in the canonical form only where it says something else",
        arguments: [
            "heads: 4\noutput_heads: 2\nattention_dropout: 0.6\nmodel: gat", "model: rgcn\nrelations: [b:y, a:x]",
            "model: sage\nlayer_norm: true\nactivation: elu", "model: gcn\nresidual: true\nhidden: [8, 8]",
            "model: gcn\ntask: multilabel\nloss: binary-cross-entropy", "model: sage\ntask: regression\nlabel: age",
        ])
    func laterMembers(keys: String) throws {
        let hidden = keys.contains("hidden") ? "" : "\nhidden: [16]"
        let spec = try ModelSpec(parsing: keys + hidden + "\nlearning_rate: 0.01\nepochs: 5")
        let again = try ModelSpec(parsing: spec.canonical.canonicalText)
        #expect(again == spec)
        #expect(spec.canonical != (try ModelSpec(parsing: Self.text)).canonical)
    }

    @Test("the digest of a specification in the first grammar has not changed since")
    func digest() throws {
        #expect(
            try ModelSpec(parsing: Self.text).canonical.canonicalText
                == #"{"class_weights":"none","dropout":"0.5","epochs":200,"features":"row-sum","hidden":[16],"#
                + #""input_dropout":"0.5","label":"label","learning_rate":"0.01","loss":"cross-entropy","model":"gcn","#
                + #""seed":1,"weight_decay":"0.0005","weight_decay_layers":"first"}"#)
    }

    @Test("relations are sorted, and none but gcn and sage without input dropout sends an aggregate")
    func relations() throws {
        let typed = try ModelSpec(
            parsing: "model: rgcn\nhidden: [8]\nlearning_rate: 0.01\nepochs: 5\nrelations: [b:y, a:x]")
        #expect(typed.relations == ["a:x", "b:y"])
        #expect(typed.recipe.predicates == ["a:x", "b:y"])
        #expect(!typed.recipe.aggregatesFirstLayer)
        #expect(
            try ModelSpec(parsing: "model: rgcn\nhidden: [8]\nlearning_rate: 0.01\nepochs: 5\nrelations: all").relations
                == nil)
    }

    @Test("the schema for editors knows the same keys, words and bounds")
    func schema() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let file = try Data(contentsOf: root.appendingPathComponent("config/specification.schema.json"))
        let schema = try #require(try JSONSerialization.jsonObject(with: file) as? [String: Any])
        let properties = try #require(schema["properties"] as? [String: [String: Any]])
        #expect(Set(properties.keys) == Set(ModelSpec.keys))
        #expect(schema["additionalProperties"] as? Bool == false)
        #expect(schema["required"] as? [String] == ["model", "hidden", "learning_rate", "epochs"])
        func words(_ key: String) -> [String]? { properties[key]?["enum"] as? [String] }
        #expect(words("model") == Aggregation.allCases.map(\.rawValue))
        #expect(words("activation") == ModelSpec.Activation.allCases.map(\.rawValue))
        #expect(words("weight_decay_layers") == ModelSpec.WeightDecayLayers.allCases.map(\.rawValue))
        #expect(words("class_weights") == ModelSpec.ClassWeights.allCases.map(\.rawValue))
        #expect(words("features") == FeatureNormalisation.allCases.map(\.rawValue))
        #expect(words("task") == ModelSpec.Task.allCases.map(\.rawValue))
        #expect(words("loss") == ModelSpec.Loss.allCases.map(\.rawValue))
        let stopping = properties["early_stopping"]?["properties"] as? [String: [String: Any]]
        #expect(stopping?["metric"]?["enum"] as? [String] == ModelSpec.Metric.allCases.map(\.rawValue))
        func bounds(_ key: String) -> [Double?] {
            ["minimum", "maximum"].map { (properties[key]?[$0] as? NSNumber)?.doubleValue }
        }
        #expect(bounds("epochs") == [1, Double(ModelSpec.epochsMax)])
        #expect(bounds("heads") == [1, Double(ModelSpec.headsMax)])
        #expect(bounds("dropout") == [0, ModelSpec.dropoutMax.value])
        #expect(bounds("seed") == [0, Double(UInt32.max)])
        let hidden = try #require(properties["hidden"])
        #expect(hidden["maxItems"] as? Int == ModelSpec.hiddenLayersMax)
        #expect((hidden["items"] as? [String: Any])?["maximum"] as? Int == ModelSpec.hiddenWidthMax)
    }

    @Test("without input dropout the first layer's aggregate crosses instead of the features")
    func recipe() throws {
        let text = Self.text.replacingOccurrences(of: "input_dropout: 0.5", with: "input_dropout: 0")
        let recipe = try ModelSpec(parsing: text).recipe
        #expect(recipe.aggregatesFirstLayer)
        #expect(recipe.sections.contains(.aggregate))
        #expect(!recipe.sections.contains(.features))
    }

    @Test(
        "each mistake is refused at its line and column",
        arguments: [
            ("learning_rate: 0.01", "learning_rat: 0.01", ModelSpecError.Code.unknownKey, 5, 1, "learning_rate"),
            ("model: gcn", "model: gin", .outOfRange, 1, 8, "gcn, sage, gat, rgcn"),
            ("hidden: [16]", "hidden: 16", .wrongType, 2, 9, "list"),
            ("hidden: [16]", "hidden: [16, 0]", .outOfRange, 2, 14, "8192"),
            ("hidden: [16]", "hidden: []", .outOfRange, 2, 9, "entries"),
            ("hidden: [16]", "hidden: [16, x]", .wrongType, 2, 14, "whole"),
            ("dropout: 0.5", "dropout: 1", .outOfRange, 3, 10, "0.95"),
            ("dropout: 0.5", "dropout: 0.0000000001", .wrongType, 3, 10, "nine"),
            ("learning_rate: 0.01", "learning_rate: 0", .outOfRange, 5, 16, "above 0"),
            ("learning_rate: 0.01", "learning_rate: .nan", .wrongType, 5, 16, "number"),
            ("epochs: 200", "epochs: -1", .wrongType, 7, 9, "whole"),
            ("epochs: 200", "epochs: 200\nepochs: 200", .duplicateKey, 8, 1, "twice"),
            ("epochs: 200", "epochs: [200", .notYAML, 8, 1, "YAML"),
            ("epochs: 200\n", "", .missingKey, 1, 1, "epochs"),
            ("features: row-sum", "features: {a: b}", .wrongType, 8, 11, "one value"),
            ("features: row-sum", "early_stopping: {patience: 3, patient: 1}", .unknownKey, 8, 31, "patience"),
            ("seed: 1", "heads: 2", .conflict, 9, 8, "only a gat"),
            ("model: gcn", "model: gat\nheads: 3", .conflict, 3, 10, "multiple of 3"),
            ("model: gcn", "model: gat\nheads: 0", .outOfRange, 2, 8, "1 to 64"),
            ("seed: 1", "residual: true", .conflict, 9, 11, "two hidden layers"),
            ("seed: 1", "residual: yes", .wrongType, 9, 11, "true or false"),
            ("seed: 1", "layer_norm: 'true'", .wrongType, 9, 13, "true or false"),
            ("seed: 1", "task: ranking", .outOfRange, 9, 7, "classification, multilabel, regression"),
            ("seed: 1", "task: regression\nclass_weights: balanced", .conflict, 10, 16, "classification"),
            ("seed: 1", "task: regression\nloss: cross-entropy", .conflict, 10, 7, "squared-error"),
            (
                "seed: 1", "task: multilabel\nearly_stopping: {patience: 3, metric: validation_accuracy}", .conflict,
                10,
                39, "validation_f1"
            ),
            ("seed: 1", "relations: biolink:x", .wrongType, 9, 12, "list"),
            ("seed: 1", "relations: []", .outOfRange, 9, 12, "128"),
            ("seed: 1", "relations: [a, a]", .outOfRange, 9, 16, "already"),
            ("seed: 1", "relations: ['a b']", .outOfRange, 9, 13, "letters"),
            ("seed: 1", "dropout: &x 0.1", .notYAML, 9, 10, "anchors"),
        ])
    func refusals(
        from: String, to: String, code: ModelSpecError.Code, line: Int, column: Int, words: String
    ) throws {
        let text = Self.text.replacingOccurrences(of: from, with: to)
        let error = try #require(throws: ModelSpecError.self) { try ModelSpec(parsing: text) }
        #expect(error.code == code)
        #expect((error.line, error.column) == (line, column))
        #expect(error.publicDescription.contains(words))
    }

    @Test("nesting and size are bounded before the text is parsed")
    func bounds() {
        for text in [
            String(repeating: "[", count: 5000), String(repeating: "- ", count: 5000),
            "model: " + String(repeating: "a", count: 20_000), "", "[]", "&a [*a]", "--- a\n--- b",
        ] {
            #expect(throws: ModelSpecError.self) { try ModelSpec(parsing: text) }
        }
    }

    @Test("no change of a specification's bytes crashes the reader", arguments: [UInt64(11)])
    func mutations(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let original = Array(Self.text.utf8)
        var accepted = 0
        for _ in 0..<2000 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: at)
                default: bytes.insert("[]{}:-,&*#\"'\n .eE19".utf8.randomElement(using: &random)!, at: at)
                }
            }
            if let spec = try? ModelSpec(parsing: String(decoding: bytes, as: UTF8.self)) {
                accepted += 1
                #expect(try ModelSpec(parsing: spec.canonical.canonicalText) == spec, "seed \(seed)")
            }
        }
        #expect(accepted > 0 && accepted < 2000, "seed \(seed): \(accepted) accepted")
    }

    @Test(
        "decimals are kept exactly",
        arguments: [
            ("5e-4", "0.0005"), ("0.50", "0.5"), ("12", "12"), ("1E-9", "0.000000001"), ("-0.25", "-0.25"),
            ("1000000", "1000000"), ("2.5e2", "250"),
        ])
    func decimals(text: String, canonical: String) { #expect(Quantity(text)?.description == canonical) }

    @Test(
        "what is not a decimal is refused",
        arguments: ["", ".", "1.", ".5", "1e", "e5", "1e-10", "1000001", "0x1", "1_0", "--1", "1e999", "+1", "nan"])
    func notDecimals(text: String) { #expect(Quantity(text) == nil) }

    @Test("the shipped specifications are valid")
    func shipped() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("config/specs")
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        #expect(files.count >= 4)
        for file in files { _ = try ModelSpec(parsing: String(contentsOf: file, encoding: .utf8)) }
    }

    @Test("safetensors bytes have an aligned header, sorted names and little-endian values")
    func safetensors() throws {
        let bytes = Safetensors.encode(
            [
                .init(name: "b", shape: [2], values: [1, -2]), .init(name: "a", shape: [1, 1], values: [0.5]),
            ], metadata: ["format": "x"])
        let headerBytes = bytes.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
        #expect(headerBytes.isMultiple(of: 8))
        let header = try JSON(parsing: Array(bytes[8..<8 + headerBytes]))
        #expect(header["a"]?["data_offsets"] == [8, 12])
        #expect(header["b"]?["shape"] == [2])
        #expect(bytes.count == 8 + headerBytes + 12)
        #expect(Array(bytes.suffix(4)) == [0, 0, 0, 0x3F])
    }
}
