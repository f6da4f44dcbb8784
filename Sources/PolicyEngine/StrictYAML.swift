import Vocabulary
import Yams

/// A value of a YAML file with the place it was written at.
struct YAMLValue {
    indirect enum Content {
        case scalar(String, plain: Bool)
        case sequence([YAMLValue])
        case mapping([(key: YAMLValue, value: YAMLValue)])
    }

    let content: Content
    let line: Int
    let column: Int
}

/// The small, unambiguous part of YAML in which policies are written: one document of block or flow mappings and
/// sequences with one-line scalars.
///
/// What can make a file read otherwise than it looks (anchors, aliases, merge keys, tags, directives, block text, text
/// over several lines, tabs, invisible characters) is refused with its place, before the YAML library sees it: the
/// library expands aliases while it parses, so a check of its tree would come too late for an "expansion bomb".
enum StrictYAML {
    static func parse(_ bytes: [UInt8], file: String) throws(PolicyError) -> YAMLValue {
        func fail(_ rule: Finding.Rule, _ line: Int, _ column: Int, _ message: String) -> PolicyError {
            PolicyError(findings: [
                Finding(rule: rule, severity: .error, file: file, line: line, column: column, message: message)
            ])
        }
        guard bytes.count <= Limits.yamlBytesMax else {
            throw fail(.yamlTooLarge, 1, 1, "the file is longer than \(Limits.yamlBytesMax) bytes")
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            let valid = validPrefix(of: bytes)
            let line = valid.filter { $0 == 0x0A }.count + 1
            let column =
                String(decoding: valid.reversed().prefix { $0 != 0x0A }.reversed(), as: UTF8.self)
                .unicodeScalars.count + 1
            throw fail(.yamlEncoding, line, column, "the file is not UTF-8 from here on")
        }
        var screen = YAMLScreen(file: file)
        try screen.check(text)
        do {
            // The encoding is given because the library would otherwise ask the environment for it.
            let parser = try Parser(yaml: text, encoding: .utf8)
            guard let root = try parser.singleRoot() else { throw fail(.yamlEmpty, 1, 1, "the file is empty") }
            var nodes = 0
            return try convert(root, file: file, depth: 0, nodes: &nodes)
        } catch let error as PolicyError {
            throw error
        } catch YamlError.scanner(_, let problem, let mark, _), YamlError.parser(_, let problem, let mark, _),
            YamlError.composer(_, let problem, let mark, _)
        {
            throw fail(.yamlSyntax, mark.line, mark.column, problem)
        } catch YamlError.duplicatedKeysInMapping(let keys, let context) {
            throw fail(
                .yamlDuplicateKey, context.mark.line, context.mark.column,
                "the key '\(shown(keys.first ?? ""))' is given twice")
        } catch {
            throw fail(.yamlSyntax, 1, 1, "the file is not YAML")
        }
    }

    private static func convert(
        _ node: Yams.Node, file: String, depth: Int, nodes: inout Int
    ) throws(PolicyError) -> YAMLValue {
        let line = node.mark?.line ?? 1
        let column = node.mark?.column ?? 1
        func fail(_ rule: Finding.Rule, _ message: String) -> PolicyError {
            PolicyError(findings: [
                Finding(rule: rule, severity: .error, file: file, line: line, column: column, message: message)
            ])
        }
        nodes += 1
        guard nodes <= Limits.yamlNodesMax else {
            throw fail(.yamlTooMany, "the file holds more than \(Limits.yamlNodesMax) values")
        }
        guard depth < Limits.yamlDepthMax else {
            throw fail(.yamlTooDeep, "nested deeper than \(Limits.yamlDepthMax)")
        }
        let content: YAMLValue.Content
        switch node {
        case .scalar(let scalar): content = .scalar(scalar.string, plain: scalar.style == .plain)
        case .sequence(let sequence):
            var elements: [YAMLValue] = []
            for element in sequence {
                elements.append(try convert(element, file: file, depth: depth + 1, nodes: &nodes))
            }
            content = .sequence(elements)
        case .mapping(let mapping):
            var pairs: [(key: YAMLValue, value: YAMLValue)] = []
            for pair in mapping {
                let key = try convert(pair.key, file: file, depth: depth + 1, nodes: &nodes)
                guard case .scalar(let name, let plain) = key.content else {
                    throw fail(.yamlKey, "a key must be a single word")
                }
                if name == "<<", plain {
                    throw PolicyError(findings: [
                        Finding(
                            rule: .yamlMerge, severity: .error, file: file, line: key.line, column: key.column,
                            message: "merge keys are not allowed; write the values out")
                    ])
                }
                let value = try convert(pair.value, file: file, depth: depth + 1, nodes: &nodes)
                pairs.append((key, value))
            }
            content = .mapping(pairs)
        case .alias: throw fail(.yamlAlias, "aliases are not allowed; write the value out")
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

/// Reads a file line by line as YAML's own scanner would, far enough to see every construct that is not allowed.
///
/// It can follow YAML exactly because scalars must end on their line: then a quote or a `#` means the same here and
/// there. Where the two could part (text that goes on in the next line) the file is refused.
private struct YAMLScreen {
    let file: String
    /// How many `[` and `{` are open.
    private var flow = 0
    /// Inside `[` or `{`: a value has ended, so only `,` `:` `]` `}` may follow.
    private var flowValueEnded = false
    /// A plain scalar ended the last line; a line indented beyond this column would continue it.
    private var plainParent: Int?
    private var sawContent = false
    private let columnsMax = Limits.yamlDepthMax * 4

    init(file: String) { self.file = file }

    mutating func check(_ text: String) throws(PolicyError) {
        var lineNumber = 0
        for line in text.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false) {
            lineNumber += 1
            var scalars = Array(line)
            if scalars.last == "\r" { scalars.removeLast() }
            try check(scalars, lineNumber)
        }
        guard flow == 0 else {
            throw fail(.yamlSyntax, lineNumber, 1, "a [ or { is not closed")
        }
    }

    private func fail(_ rule: Finding.Rule, _ line: Int, _ column: Int, _ message: String) -> PolicyError {
        PolicyError(findings: [
            Finding(rule: rule, severity: .error, file: file, line: line, column: column, message: message)
        ])
    }

    private static func isInvisible(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0..<0x20, 0x7F...0x9F, 0xAD, 0x61C, 0x180E, 0x200B...0x200F, 0x2028...0x202E, 0x2060...0x206F, 0xFEFF,
            0xFFF9...0xFFFF, 0xE0000...0xE0FFF:
            true
        default: scalar.value & 0xFFFE == 0xFFFE
        }
    }

    private mutating func check(_ line: [Unicode.Scalar], _ number: Int) throws(PolicyError) {
        for (at, scalar) in line.enumerated() where Self.isInvisible(scalar) {
            if scalar == "\t" { throw fail(.yamlTab, number, at + 1, "a tab; indent and separate with spaces") }
            throw fail(.yamlCharacter, number, at + 1, "an invisible or control character (\(shown(String(scalar))))")
        }
        guard let first = line.firstIndex(where: { $0 != " " }), line[first] != "#" else { return }
        if first == 0, line.starts(with: "---".unicodeScalars) || line.starts(with: "...".unicodeScalars) {
            guard !sawContent, line.count == 3, line[0] == "-" else {
                throw fail(.yamlDocuments, number, 1, "a file holds one document, without markers after its start")
            }
            sawContent = true
            return
        }
        sawContent = true
        if let parent = plainParent, first > parent {
            throw fail(.yamlManyLines, number, first + 1, "text must end on the line it starts on")
        }
        plainParent = nil
        try scan(line, from: first, number)
    }

    private mutating func scan(_ line: [Unicode.Scalar], from first: Int, _ number: Int) throws(PolicyError) {
        var at = first
        /// Column of the innermost block key or dash on this line.
        var parent = -1
        /// Start of the last scalar, which becomes the parent when a `:` follows.
        var scalarStart = first
        var valueEnded = flow > 0 && flowValueEnded
        func ends(_ index: Int) -> Bool { index >= line.count || line[index] == " " }
        while at < line.count {
            let scalar = line[at]
            if scalar == " " {
                at += 1
                continue
            }
            if scalar == "#", at == 0 || line[at - 1] == " " { break }
            if flow > 0, ",]}".unicodeScalars.contains(scalar) {
                if scalar != "," { flow -= 1 }
                valueEnded = scalar != ","
                at += 1
                continue
            }
            if valueEnded {
                guard scalar == ":", flow > 0 || ends(at + 1) else {
                    throw fail(.yamlSyntax, number, at + 1, "unexpected text after a value; quote the whole value")
                }
                if flow == 0 { parent = scalarStart }
                valueEnded = false
                at += 1
                continue
            }
            switch scalar {
            case "-" where flow == 0 && ends(at + 1):
                parent = at
                at += 1
            case "?" where ends(at + 1): throw fail(.yamlKey, number, at + 1, "a key must be a single word")
            case "&": throw fail(.yamlAnchor, number, at + 1, "anchors are not allowed; write the value out each time")
            case "*": throw fail(.yamlAlias, number, at + 1, "aliases are not allowed; write the value out")
            case "!": throw fail(.yamlTag, number, at + 1, "tags are not allowed")
            case "%": throw fail(.yamlDirective, number, at + 1, "directives are not allowed; quote a text with %")
            case "|", ">": throw fail(.yamlBlockText, number, at + 1, "block text is not allowed; use one quoted line")
            case "[", "{":
                flow += 1
                guard flow < Limits.yamlDepthMax else {
                    throw fail(.yamlTooDeep, number, at + 1, "nested deeper than \(Limits.yamlDepthMax)")
                }
                at += 1
            case "'", "\"":
                scalarStart = at
                guard let end = Self.endOfQuoted(line, at) else {
                    throw fail(.yamlManyLines, number, at + 1, "a quoted text must be closed on its line")
                }
                at = end
                valueEnded = true
            default:
                scalarStart = at
                at = Self.endOfPlain(line, at, inFlow: flow > 0)
                valueEnded = true
                if flow == 0, !(at < line.count && line[at] == ":") { plainParent = parent }
            }
        }
        // Block nesting needs a column or a dash each, so this bounds how deep the library recurses.
        guard first <= columnsMax, parent <= columnsMax else {
            throw fail(.yamlTooDeep, number, max(first, parent) + 1, "indented beyond column \(columnsMax)")
        }
        flowValueEnded = flow > 0 && valueEnded
    }

    /// Index after the closing quote, or `nil` when the line ends first.
    private static func endOfQuoted(_ line: [Unicode.Scalar], _ start: Int) -> Int? {
        let quote = line[start]
        var at = start + 1
        while at < line.count {
            if quote == "\"", line[at] == "\\" {
                at += 2
            } else if line[at] == quote {
                if quote == "'", at + 1 < line.count, line[at + 1] == "'" {
                    at += 2
                } else {
                    return at + 1
                }
            } else {
                at += 1
            }
        }
        return nil
    }

    /// Index of what ends a plain scalar: `: `, ` #`, the line's end, and in flow also `, [ ] { }`.
    private static func endOfPlain(_ line: [Unicode.Scalar], _ start: Int, inFlow: Bool) -> Int {
        var at = start
        while at < line.count {
            let next = at + 1 < line.count ? line[at + 1] : " "
            if line[at] == ":", next == " " || inFlow && ",[]{}".unicodeScalars.contains(next) { return at }
            if line[at] == " ", next == "#" { return at }
            if inFlow, ",[]{}".unicodeScalars.contains(line[at]) { return at }
            at += 1
        }
        return at
    }
}
