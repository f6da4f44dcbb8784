import Vocabulary

/// Reads a file line by line as YAML's own scanner would, far enough to see every construct that is not allowed.
///
/// It can follow YAML exactly because scalars must end on their line: then a quote or a `#` means the same here and
/// there. Where the two could part (text that goes on in the next line) the file is refused.
struct YAMLScreen {
    /// How many `[` and `{` are open.
    private var flow = 0
    /// Inside `[` or `{`: a value has ended, so only `,` `:` `]` `}` may follow.
    private var flowValueEnded = false
    /// A plain scalar ended the last line; a line indented beyond this column would continue it.
    private var plainParent: Int?
    private var sawContent = false
    /// Every key with its place, and in flow where its mapping opened. Only to tell where a key is given again.
    private var keys: [(name: String, line: Int, column: Int, opened: Place?)] = []
    private var opened: [Place] = []
    private let columnsMax = Limits.yamlDepthMax * 4

    private struct Place: Equatable {
        let line: Int
        let column: Int
    }

    /// Where the key that stands at this place is given again in its mapping; `nil` where that was not seen.
    func repetition(ofKeyAt line: Int, _ column: Int) -> (line: Int, column: Int)? {
        guard let first = keys.firstIndex(where: { $0.line == line && $0.column == column }) else { return nil }
        let key = keys[first]
        return keys[(first + 1)...].first { other in
            other.name == key.name && other.opened == key.opened
                && (key.opened != nil || other.column == key.column)
        }.map { ($0.line, $0.column) }
    }

    /// A key without its quotes, as far as that needs no unescaping.
    private static func name(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
        var scalars = scalars
        while scalars.last == " " { scalars.removeLast() }
        if let quote = scalars.first, quote == "\"" || quote == "'", scalars.count > 1, scalars.last == quote {
            scalars = scalars.dropFirst().dropLast()
        }
        return String(String.UnicodeScalarView(scalars))
    }

    mutating func check(_ text: String) throws(YAMLFault) {
        var lineNumber = 0
        for line in text.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false) {
            lineNumber += 1
            var scalars = Array(line)
            if scalars.last == "\r" { scalars.removeLast() }
            try check(scalars, lineNumber)
        }
        guard flow == 0 else {
            throw YAMLFault(.syntax, lineNumber, 1, "a [ or { is not closed")
        }
    }

    private static func isInvisible(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0..<0x20, 0x7F...0x9F, 0xAD, 0x61C, 0x180E, 0x200B...0x200F, 0x2028...0x202E, 0x2060...0x206F, 0xFEFF,
            0xFFF9...0xFFFF, 0xE0000...0xE0FFF:
            true
        default: scalar.value & 0xFFFE == 0xFFFE
        }
    }

    private mutating func check(_ line: [Unicode.Scalar], _ number: Int) throws(YAMLFault) {
        for (at, scalar) in line.enumerated() where Self.isInvisible(scalar) {
            if scalar == "\t" { throw YAMLFault(.tab, number, at + 1, "a tab; indent and separate with spaces") }
            throw YAMLFault(.character, number, at + 1, "an invisible or control character (\(shown(String(scalar))))")
        }
        guard let first = line.firstIndex(where: { $0 != " " }), line[first] != "#" else { return }
        if first == 0, line.starts(with: "---".unicodeScalars) || line.starts(with: "...".unicodeScalars) {
            guard !sawContent, line.count == 3, line[0] == "-" else {
                throw YAMLFault(.documents, number, 1, "a file holds one document, without markers after its start")
            }
            sawContent = true
            return
        }
        sawContent = true
        if let parent = plainParent, first > parent {
            throw YAMLFault(.manyLines, number, first + 1, "text must end on the line it starts on")
        }
        plainParent = nil
        try scan(line, from: first, number)
    }

    private mutating func scan(_ line: [Unicode.Scalar], from first: Int, _ number: Int) throws(YAMLFault) {
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
                if scalar != "," {
                    flow -= 1
                    _ = opened.popLast()
                }
                valueEnded = scalar != ","
                at += 1
                continue
            }
            if valueEnded {
                guard scalar == ":", flow > 0 || ends(at + 1) else {
                    throw YAMLFault(.syntax, number, at + 1, "unexpected text after a value; quote the whole value")
                }
                if flow == 0 { parent = scalarStart }
                keys.append((Self.name(line[scalarStart..<at]), number, scalarStart + 1, opened.last))
                valueEnded = false
                at += 1
                continue
            }
            switch scalar {
            case "-" where flow == 0 && ends(at + 1):
                parent = at
                at += 1
            case "?" where ends(at + 1): throw YAMLFault(.key, number, at + 1, "a key must be a single word")
            case "&": throw YAMLFault(.anchor, number, at + 1, "anchors are not allowed; write the value out each time")
            case "*": throw YAMLFault(.alias, number, at + 1, "aliases are not allowed; write the value out")
            case "!": throw YAMLFault(.tag, number, at + 1, "tags are not allowed")
            case "%": throw YAMLFault(.directive, number, at + 1, "directives are not allowed; quote a text with %")
            case "|", ">": throw YAMLFault(.blockText, number, at + 1, "block text is not allowed; use one quoted line")
            case "[", "{":
                flow += 1
                opened.append(Place(line: number, column: at + 1))
                guard flow < Limits.yamlDepthMax else {
                    throw YAMLFault(.tooDeep, number, at + 1, "nested deeper than \(Limits.yamlDepthMax)")
                }
                at += 1
            case "'", "\"":
                scalarStart = at
                guard let end = Self.endOfQuoted(line, at) else {
                    throw YAMLFault(.manyLines, number, at + 1, "a quoted text must be closed on its line")
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
            throw YAMLFault(.tooDeep, number, max(first, parent) + 1, "indented beyond column \(columnsMax)")
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
