package import Vocabulary

import StrictYAML

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
        case formOrphan = "form.orphan"
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

    package var json: JSON {
        .object([
            "rule": .string(rule.rawValue), "severity": .string(severity.rawValue), "file": .string(file),
            "line": .integer(Int64(line)), "column": .integer(Int64(column)), "message": .string(message),
        ])
    }
}

/// A set of policy files that cannot be used, with everything that was found wrong.
package struct PolicyError: Error, Equatable, CustomStringConvertible {
    package let findings: [Finding]
    package var description: String { findings.map(\.description).joined(separator: "\n") }
}

extension Finding {
    /// A file that could not even be read.
    init(_ fault: YAMLFault, in file: String) {
        let rule: Rule =
            switch fault.code {
            case .syntax: .yamlSyntax
            case .tooLarge: .yamlTooLarge
            case .tooDeep: .yamlTooDeep
            case .tooMany: .yamlTooMany
            case .encoding: .yamlEncoding
            case .character: .yamlCharacter
            case .tab: .yamlTab
            case .anchor: .yamlAnchor
            case .alias: .yamlAlias
            case .tag: .yamlTag
            case .merge: .yamlMerge
            case .directive: .yamlDirective
            case .blockText: .yamlBlockText
            case .manyLines: .yamlManyLines
            case .documents: .yamlDocuments
            case .duplicateKey: .yamlDuplicateKey
            case .key: .yamlKey
            case .empty: .yamlEmpty
            }
        self.init(
            rule: rule, severity: .error, file: file, line: fault.line, column: fault.column, message: fault.message)
    }
}
