import Vocabulary
import Yams

/// A value of a YAML file with the place it was written at.
///
/// `init(parsing:)` reads the small, unambiguous part of YAML in which policies and specifications are written: one
/// document of block or flow mappings and sequences with one-line scalars.
///
/// What can make a file read otherwise than it looks (anchors, aliases, merge keys, tags, directives, block text, text
/// over several lines, tabs, invisible characters) is refused with its place, before the YAML library sees it: the
/// library expands aliases while it parses, so a check of its tree would come too late for an "expansion bomb".
package struct YAMLValue: Sendable {
    package indirect enum Content: Sendable {
        case scalar(String, plain: Bool)
        case sequence([YAMLValue])
        case mapping([(key: YAMLValue, value: YAMLValue)])
    }

    package let content: Content
    /// From 1.
    package let line: Int
    /// From 1, in Unicode scalars.
    package let column: Int
}

/// Why bytes are not a file of this kind, and where.
package struct YAMLFault: Error, Equatable {
    package enum Code: String, CaseIterable, Sendable {
        case syntax
        case tooLarge = "too-large"
        case tooDeep = "too-deep"
        case tooMany = "too-many"
        case encoding
        case character
        case tab
        case anchor
        case alias
        case tag
        case merge
        case directive
        case blockText = "block-text"
        case manyLines = "many-lines"
        case documents
        case duplicateKey = "duplicate-key"
        case key
        case empty
    }

    package let code: Code
    package let line: Int
    package let column: Int
    /// Repeats no more of the file than a key, shortened and printable.
    package let message: String

    init(_ code: Code, _ line: Int, _ column: Int, _ message: String) {
        self.code = code
        self.line = line
        self.column = column
        self.message = message
    }
}

extension YAMLValue {
    package init(parsing bytes: [UInt8]) throws(YAMLFault) {
        guard bytes.count <= Limits.yamlBytesMax else {
            throw YAMLFault(.tooLarge, 1, 1, "the file is longer than \(Limits.yamlBytesMax) bytes")
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            let valid = Self.validPrefix(of: bytes)
            let line = valid.filter { $0 == 0x0A }.count + 1
            let column =
                String(decoding: valid.reversed().prefix { $0 != 0x0A }.reversed(), as: UTF8.self)
                .unicodeScalars.count + 1
            throw YAMLFault(.encoding, line, column, "the file is not UTF-8 from here on")
        }
        var screen = YAMLScreen()
        try screen.check(text)
        do {
            // The encoding is given because the library would otherwise ask the environment for it.
            let parser = try Parser(yaml: text, encoding: .utf8)
            guard let root = try parser.singleRoot() else { throw YAMLFault(.empty, 1, 1, "the file is empty") }
            var nodes = 0
            // A node refers to its anchor weakly; the parser owns it.
            self = try withExtendedLifetime(parser) { try Self.convert(root, depth: 0, nodes: &nodes) }
        } catch let error as YAMLFault {
            throw error
        } catch YamlError.scanner(_, let problem, let mark, _), YamlError.parser(_, let problem, let mark, _),
            YamlError.composer(_, let problem, let mark, _)
        {
            throw YAMLFault(.syntax, mark.line, mark.column, problem)
        } catch YamlError.duplicatedKeysInMapping(let keys, let context) {
            // The library tells where the key stands first.
            let place =
                screen.repetition(ofKeyAt: context.mark.line, context.mark.column)
                ?? (context.mark.line, context.mark.column)
            throw YAMLFault(
                .duplicateKey, place.line, place.column, "the key '\(shown(keys.first ?? ""))' is given twice")
        } catch {
            throw YAMLFault(.syntax, 1, 1, "the file is not YAML")
        }
    }

    private static func convert(_ node: Yams.Node, depth: Int, nodes: inout Int) throws(YAMLFault) -> YAMLValue {
        let line = node.mark?.line ?? 1
        let column = node.mark?.column ?? 1
        nodes += 1
        guard nodes <= Limits.yamlNodesMax else {
            throw YAMLFault(.tooMany, line, column, "the file holds more than \(Limits.yamlNodesMax) values")
        }
        guard depth < Limits.yamlDepthMax else {
            throw YAMLFault(.tooDeep, line, column, "nested deeper than \(Limits.yamlDepthMax)")
        }
        // The screen has seen to it that there is none; were it ever wrong, this stops what an alias repeats.
        guard node.anchor == nil else { throw YAMLFault(.anchor, line, column, "an anchor where none can be") }
        let content: Content
        switch node {
        case .scalar(let scalar): content = .scalar(scalar.string, plain: scalar.style == .plain)
        case .sequence(let sequence):
            var elements: [YAMLValue] = []
            for element in sequence { elements.append(try convert(element, depth: depth + 1, nodes: &nodes)) }
            content = .sequence(elements)
        case .mapping(let mapping):
            var pairs: [(key: YAMLValue, value: YAMLValue)] = []
            for pair in mapping {
                let key = try convert(pair.key, depth: depth + 1, nodes: &nodes)
                guard case .scalar(let name, let plain) = key.content else {
                    throw YAMLFault(.key, line, column, "a key must be a single word")
                }
                if name == "<<", plain {
                    throw YAMLFault(
                        .merge, key.line, key.column, "merge keys are not allowed; write the values out")
                }
                pairs.append((key, try convert(pair.value, depth: depth + 1, nodes: &nodes)))
            }
            content = .mapping(pairs)
        case .alias: throw YAMLFault(.alias, line, column, "aliases are not allowed; write the value out")
        }
        return YAMLValue(content: content, line: line, column: column)
    }

    private static func validPrefix(of bytes: [UInt8]) -> ArraySlice<UInt8> {
        var low = 0
        var high = bytes.count
        while low + 1 < high {
            let middle = (low + high) / 2
            // A cut inside a character makes a valid prefix look invalid, so up to three bytes less are tried too.
            let valid = (0...3).contains { back in
                middle - back >= 0 && String(validating: bytes[..<(middle - back)], as: UTF8.self) != nil
            }
            if valid { low = middle } else { high = middle }
        }
        var end = low
        while end > 0, String(validating: bytes[..<end], as: UTF8.self) == nil { end -= 1 }
        return bytes[..<end]
    }
}
