package import Vocabulary

import StrictYAML

/// One file of the folder `policies/`: its name in that folder and its bytes.
package struct PolicyFile: Sendable, Equatable {
    package let name: String
    package let bytes: [UInt8]

    package init(name: String, bytes: [UInt8]) {
        self.name = name
        self.bytes = bytes
    }
}

/// All policies in force together, loaded from their files as one bundle.
///
/// `NAME.yaml` is a policy, `NAME.test.yaml` its tests, `NAME.form.yaml` what a request answers, `diseases.yaml` the table of diseases. A set exists only when
/// every file is valid and every test passes.
package struct PolicySet: Sendable {
    package let policies: [DatasetID: Policy]
    /// What a request for a data set answers beyond what every request says.
    package let forms: [DatasetID: DataForm.Version]
    /// Every file with its SHA-256, in RFC 8785 form.
    package let manifest: JSON
    /// SHA-256 of the manifest. Every decision is recorded with it.
    package let bundleHash: Digest
    let diseases: DiseaseTree

    /// Reads and tests the files. `hash` is SHA-256: this module has no cryptography of its own.
    package init(files: [PolicyFile], hash: ([UInt8]) -> Digest) throws(PolicyError) {
        let draft = try PolicyDraft(files: files)
        self.init(draft, manifest: Self.manifest(of: files, hash: hash), hash: hash)
        let failures = draft.suites.flatMap { suite in suite.run(on: self) }.compactMap(\.finding)
        guard failures.isEmpty else { throw PolicyError(findings: failures) }
    }

    /// What the files say, before their tests have passed.
    init(_ draft: PolicyDraft, manifest: JSON, hash: ([UInt8]) -> Digest) {
        policies = draft.policies
        forms = draft.forms.mapValues { DataForm.Version(form: $0.form, digest: hash($0.bytes)) }
        diseases = draft.diseases
        self.manifest = manifest
        bundleHash = hash(manifest.canonical)
    }

    /// What a bundle's hash is taken of; the files need not be read for it.
    package static func manifest(of files: [PolicyFile], hash: ([UInt8]) -> Digest) -> JSON {
        .object([
            "format": "sekisho policy bundle v1",
            "files": .object(
                Dictionary(
                    files.map { ($0.name, JSON.string(hash($0.bytes).hex)) }, uniquingKeysWith: { first, _ in first })),
        ])
    }

    package func decide(_ question: Question) -> Decision { judge(question).decision }

    func judge(_ question: Question) -> Judgement {
        switch question {
        case .access(let question): judge(question)
        case .run(let question): judge(question)
        case .progress(let question): judge(question)
        case .release(let question): judge(question)
        }
    }

    /// Applies a data set's rules to a question.
    func judgement(on dataset: DatasetID, _ apply: (Policy, inout Ruling) -> Void) -> Judgement {
        guard let policy = policies[dataset] else { return .unknown(dataset) }
        var ruling = Ruling(owner: policy.dataset.text, file: policy.file, permission: policy.permission)
        apply(policy, &ruling)
        return .ruled(policy, ruling)
    }
}

/// What a set has to say about a question; a data set without a policy is refused.
enum Judgement {
    case unknown(DatasetID)
    case ruled(Policy, Ruling)

    var decision: Decision {
        switch self {
        case .ruled(_, let ruling): ruling.decision
        case .unknown(let dataset):
            .refuse([
                Reason(
                    code: .datasetUnknown, rule: dataset.text, file: "", line: 0,
                    text: "no policy speaks of this data set, so nobody may use it")
            ])
        }
    }
}

/// The files of a set, read but not yet tested.
struct PolicyDraft {
    private(set) var policies: [DatasetID: Policy] = [:]
    /// With the bytes that they were read from.
    private(set) var forms: [DatasetID: (form: DataForm, bytes: [UInt8])] = [:]
    private(set) var suites: [TestSuite] = []
    private(set) var diseases = DiseaseTree.none
    private static let policiesMax = 10_000

    init(files: [PolicyFile]) throws(PolicyError) {
        var findings: [Finding] = []
        func add(_ rule: Finding.Rule, _ file: String, _ message: String, at place: YAMLValue? = nil) {
            findings.append(
                Finding(
                    rule: rule, severity: .error, file: file, line: place?.line ?? 1, column: place?.column ?? 1,
                    message: message))
        }
        var names: Set<String> = []
        var byFile: [String: Policy] = [:]
        /// Where each file names its data set.
        var named: [String: YAMLValue] = [:]
        var tests: [(name: String, root: YAMLValue)] = []
        var forms: [(name: String, form: DataForm, bytes: [UInt8])] = []
        if files.count > 3 * Self.policiesMax {
            add(.yamlTooMany, "", "more than \(3 * Self.policiesMax) policy files")
        }
        for file in files.prefix(3 * Self.policiesMax).sorted(by: { $0.name < $1.name }) {
            guard Self.isName(file.name) else {
                add(.fileName, shown(file.name), "a policy file is named with a–z 0–9 and -, and ends in .yaml")
                continue
            }
            guard names.insert(file.name).inserted else {
                add(.fileName, file.name, "the file is given twice")
                continue
            }
            do throws(YAMLFault) {
                let root = try YAMLValue(parsing: file.bytes)
                var reader = PolicyReader(file: file.name)
                if file.name == "diseases.yaml" {
                    if let tree = reader.diseaseTree(root) { diseases = tree }
                } else if file.name.hasSuffix(".test.yaml") {
                    tests.append((file.name, root))
                } else if file.name.hasSuffix(".form.yaml") {
                    if let form = reader.form(root) { forms.append((file.name, form, file.bytes)) }
                } else if let policy = reader.policy(root) {
                    byFile[file.name] = policy
                    if case .mapping(let pairs) = root.content {
                        named[file.name] = pairs.first { $0.key.text == "dataset" }?.value
                    }
                }
                findings += reader.findings
            } catch {
                findings.append(Finding(error, in: file.name))
            }
        }
        var spellings: [String: String] = [:]
        for (name, policy) in byFile.sorted(by: { $0.key < $1.key }) {
            let folded = policy.dataset.text.lowercased()
            if let other = spellings.updateValue(name, forKey: folded) {
                let same = policies[policy.dataset] != nil
                add(
                    same ? .datasetRepeated : .datasetLookAlike, name,
                    same
                        ? "\(other) already speaks of this data set"
                        : "the data set of \(other) differs from this one only in capital letters", at: named[name])
            }
            policies[policy.dataset] = policy
        }
        for test in tests {
            guard let policy = byFile[test.name.dropLast(".test.yaml".count) + ".yaml"] else {
                // Where the policy itself is at fault, that is what has been reported.
                if !names.contains(test.name.dropLast(".test.yaml".count) + ".yaml") {
                    add(.testOrphan, test.name, "no policy file stands beside these tests")
                }
                continue
            }
            var reader = TestReader(file: test.name, policy: policy)
            if let suite = reader.suite(test.root) { suites.append(suite) }
            findings += reader.findings
        }
        for (name, form, bytes) in forms {
            let policy = name.dropLast(".form.yaml".count) + ".yaml"
            if let dataset = byFile[String(policy)]?.dataset {
                self.forms[dataset] = (form, bytes)
            } else if !names.contains(String(policy)) {
                add(.formOrphan, name, "no policy file stands beside this form")
            }
        }
        guard findings.isEmpty else { throw PolicyError(findings: findings) }
    }

    private static func isName(_ name: String) -> Bool {
        guard name.hasSuffix(".yaml"), name.utf8.count <= Limits.identifierBytesMax else { return false }
        var stem = name.dropLast(".yaml".count)
        for part in [".test", ".form"] where stem.hasSuffix(part) {
            stem = stem.dropLast(part.count)
            break
        }
        return !stem.isEmpty && stem.first != "-"
            && stem.utf8.allSatisfy { byte in
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte)
                    || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "-")
            }
    }
}
