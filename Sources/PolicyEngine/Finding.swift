/// Something wrong, or worth a second look, in a policy file: where, which rule, and what to write instead.
package struct Finding: Hashable, Sendable, CustomStringConvertible {
    package enum Severity: String, Sendable { case error, warning }

    /// Stable codes of all that `lint` and loading can complain about.
    package enum Rule: String, CaseIterable, Sendable {
        case yamlSyntax = "yaml.syntax"
        case yamlTooLarge = "yaml.too-large"
        case yamlTooDeep = "yaml.too-deep"
        case yamlTooMany = "yaml.too-many"
        case yamlEncoding = "yaml.encoding"
        case yamlCharacter = "yaml.character"
        case yamlTab = "yaml.tab"
        case yamlAnchor = "yaml.anchor"
        case yamlAlias = "yaml.alias"
        case yamlTag = "yaml.tag"
        case yamlMerge = "yaml.merge"
        case yamlDirective = "yaml.directive"
        case yamlBlockText = "yaml.block-text"
        case yamlManyLines = "yaml.many-lines"
        case yamlDocuments = "yaml.documents"
        case yamlDuplicateKey = "yaml.duplicate-key"
        case yamlKey = "yaml.key"
        case yamlEmpty = "yaml.empty"
        case keyUnknown = "key.unknown"
        case keyMissing = "key.missing"
        case valueType = "value.type"
        case valueRange = "value.range"
        case valueUnknown = "value.unknown"
        case valueRepeated = "value.repeated"
        case codeQuoted = "code.quoted"
        case codeUnknown = "code.unknown"
        case codeUnusable = "code.unusable"
        case codeKind = "code.kind"
        case modifierParameter = "modifier.parameter"
        case policyConflict = "policy.conflict"
        case datasetRepeated = "dataset.repeated"
        case datasetLookAlike = "dataset.look-alike"
        case diseaseCircle = "disease.circle"
        case fileName = "file.name"
        case testOrphan = "test.orphan"
        case testMissing = "test.missing"
        case testFailed = "test.failed"
        case testUncovered = "test.uncovered"
        case approvalNone = "approval.none"
        case evidenceWeak = "evidence.weak"
        case cohortSmall = "cohort.small"
        case figuresExact = "figures.exact"
        case modifierIdle = "modifier.idle"
    }

    package let rule: Rule
    package let severity: Severity
    package let file: String
    package let line: Int
    package let column: Int
    package let message: String

    /// One line in the form editors and compilers know: `file:line:column: error: message [rule]`.
    package var description: String {
        "\(file):\(line):\(column): \(severity.rawValue): \(message) [\(rule.rawValue)]"
    }
}

/// A set of policy files that cannot be used, with everything that was found wrong.
package struct PolicyError: Error, Equatable, CustomStringConvertible {
    package let findings: [Finding]
    package var description: String { findings.map(\.description).joined(separator: "\n") }
}

/// The known word nearest to a misspelt one, when it is near enough to be meant.
func nearest(_ word: String, among known: some Sequence<String>) -> String? {
    let limit = word.utf8.count <= 4 ? 1 : 2
    return known.map { ($0, distance(word, $0)) }.filter { $0.1 <= limit }.min { $0.1 < $1.1 }?.0
}

/// Levenshtein distance, with words beyond 64 bytes counted as far from everything.
private func distance(_ left: String, _ right: String) -> Int {
    let left = Array(left.utf8)
    let right = Array(right.utf8)
    guard left.count <= 64, right.count <= 64 else { return .max }
    var row = Array(0...right.count)
    for (i, a) in left.enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, b) in right.enumerated() {
            let substituted = diagonal + (a == b ? 0 : 1)
            diagonal = row[j + 1]
            row[j + 1] = min(substituted, diagonal + 1, row[j] + 1)
        }
    }
    return row[right.count]
}

/// A word of a file as it may be repeated in a message: short, printable ASCII, anything else as `\u{…}`.
func shown(_ word: String) -> String {
    var text = ""
    for scalar in word.unicodeScalars.prefix(40) {
        text += (0x20..<0x7F).contains(scalar.value) ? String(scalar) : "\\u{\(String(scalar.value, radix: 16))}"
    }
    return word.unicodeScalars.count > 40 ? text + "…" : text
}
