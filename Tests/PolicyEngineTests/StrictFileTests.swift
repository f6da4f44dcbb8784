import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// Policy files that must be refused, each with its own rule and place.
@Suite struct StrictFileTests {
    typealias Fixture = PolicyFixture

    struct Bad: CustomTestStringConvertible {
        let rule: Finding.Rule
        let place: String
        let text: String
        var testDescription: String { "\(rule.rawValue) at \(place)" }

        /// Replaces `old` in a valid policy by `new`, or gives a whole file.
        init(_ rule: Finding.Rule, _ place: String, _ old: String, _ new: String) {
            self.rule = rule
            self.place = place
            let valid = Fixture.text()
            precondition(valid.contains(old))
            text = valid.replacing(old, with: new, maxReplacements: 1)
        }

        init(_ rule: Finding.Rule, _ place: String, file text: String) {
            self.rule = rule
            self.place = place
            self.text = text
        }
    }

    static let bad: [Bad] = [
        Bad(.yamlAnchor, "2:10", "dataset: osaka", "dataset: &d osaka"),
        Bad(.yamlAlias, "2:10", "dataset: osaka:cohort-a", "dataset: *d"),
        Bad(.yamlAlias, "7:7", "access:\n", "access:\n  <<: *base\n"),
        Bad(.yamlMerge, "7:3", "access:\n", "access:\n  <<: { required: 2 }\n"),
        Bad(.yamlTag, "2:10", "dataset: osaka", "dataset: !!str osaka"),
        Bad(.yamlTag, "4:13", "permission: ", "permission: !include "),
        Bad(.yamlDirective, "1:1", "version: 1", "%YAML 1.1\n---\nversion: 1"),
        Bad(.yamlDocuments, "2:1", "dataset:", "---\ndataset:"),
        Bad(.yamlDocuments, "2:1", "dataset:", "...\ndataset:"),
        Bad(.yamlBlockText, "2:10", "dataset: osaka:cohort-a", "dataset: |\n  osaka:cohort-a"),
        Bad(.yamlBlockText, "2:10", "dataset: osaka:cohort-a", "dataset: >-\n  osaka:cohort-a"),
        Bad(.yamlManyLines, "3:3", "dataset: osaka:cohort-a", "dataset: osaka\n  cohort"),
        Bad(.yamlManyLines, "2:10", "dataset: osaka:cohort-a", "dataset: \"osaka\n  cohort\""),
        Bad(.yamlTab, "2:9", "dataset: osaka", "dataset:\tosaka"),
        Bad(.yamlCharacter, "2:15", "osaka:", "osaka\u{200B}:"),
        Bad(.yamlCharacter, "1:1", "version", "\u{FEFF}version"),
        Bad(.yamlCharacter, "1:14", "version: 1", "version: 1 # \u{202E}dlo"),
        Bad(.yamlCharacter, "1:14", "version: 1", "version: 1 # \u{2028}level: open"),
        Bad(.yamlCharacter, "1:11", "version: 1", "version: 1\u{0085}"),
        Bad(.yamlCharacter, "1:11", "version: 1", "version: 1\rx"),
        Bad(.yamlDuplicateKey, "2:1", "dataset:", "version: 1\ndataset:"),
        Bad(.yamlDuplicateKey, "2:1", "dataset:", "\"version\": 1\ndataset:"),
        Bad(.yamlDuplicateKey, "7:29", "required: 2, ", "required: 2, required: 1, "),
        Bad(.yamlDuplicateKey, "7:29", "required: 2, ", "required: 2, 'required': 1, "),
        Bad(.yamlDuplicateKey, "8:3", "data-custodian] }\n", "data-custodian] }\n  approvals: { required: 1 }\n"),
        Bad(
            .yamlDuplicateKey, "8:5", "modifiers: []",
            "modifiers:\n  - code: DUO:0000015\n  - code: DUO:0000046\n    code: DUO:0000018"),
        Bad(.yamlKey, "2:1", "dataset:", "? dataset\n:"),
        Bad(.yamlKey, "1:1", file: "[a]: b\n"),
        Bad(.yamlSyntax, "2:17", "dataset: osaka:cohort-a", "dataset: 'osak' a"),
        Bad(.yamlSyntax, "2:11", "dataset: osaka:cohort-a", "dataset: a: b"),
        Bad(.yamlSyntax, "1:1", file: "}"),
        Bad(.yamlEmpty, "1:1", file: ""),
        Bad(.yamlEmpty, "1:1", file: "# only a comment\n"),
        Bad(.valueType, "1:1", file: "just text\n"),
        Bad(.valueType, "1:1", file: "- a list\n"),
        Bad(.valueType, "2:1", file: "---\n"),
        Bad(.keyUnknown, "2:1", "dataset:", "datset:"),
        Bad(.keyUnknown, "7:59", "data-custodian] }", "data-custodian], requird: 1 }"),
        Bad(.keyUnknown, "1:1", "version", "vеrsion"),  // The second letter is Cyrillic.
        Bad(.keyMissing, "1:1", "dataset: osaka:cohort-a\n", ""),
        Bad(.keyMissing, "7:14", "required: 2, ", ""),
        Bad(.keyMissing, "7:14", ", roles: [dac, data-custodian]", ""),
        Bad(.keyMissing, "4:13", "DUO:0000006", "DUO:0000007"),
        Bad(.policyConflict, "5:11", "permission: DUO:0000006", "permission: DUO:0000006\ndiseases: [MONDO:0005015]"),
        Bad(.valueRange, "1:10", "version: 1", "version: 2"),
        Bad(.valueRange, "1:10", "version: 1", "version: \"1\""),
        Bad(.valueRange, "2:10", "osaka:cohort-a", "оsaka:cohort-a"),  // The first letter is Cyrillic.
        Bad(.valueRange, "2:10", "osaka:cohort-a", "osaka/cohort-a"),
        Bad(.valueType, "2:9", "dataset: osaka:cohort-a", "dataset:"),
        Bad(.valueUnknown, "3:8", "level: standard", "level: standart"),
        Bad(.codeQuoted, "4:13", "DUO:0000006", "\"DUO:0000006\""),
        Bad(.codeUnknown, "4:13", "DUO:0000006", "DUO:0000099"),
        Bad(.codeUnknown, "4:13", "DUO:0000006", "DUO:00000O6"),
        Bad(.codeUnknown, "4:13", "DUO:0000006", "HMB"),
        Bad(.codeUnusable, "4:13", "DUO:0000006", "DUO:0000005"),
        Bad(.codeUnusable, "4:13", "DUO:0000006", "DUO:0000001"),
        Bad(.codeKind, "4:13", "DUO:0000006", "DUO:0000046"),
        Bad(.valueType, "4:13", "DUO:0000006", "[DUO:0000006, DUO:0000042]"),
        Bad(.codeUnknown, "5:12", "DUO:0000006", "DUO:0000007\ndiseases: [MONDO:12]"),
        Bad(.codeUnknown, "5:27", "DUO:0000006", "DUO:0000007\ndiseases: [MONDO:0005015, МONDO:0005148]"),  // Cyrillic.
        Bad(.codeUnknown, "5:12", "DUO:0000006", "DUO:0000007\ndiseases: [DUO:0000006]"),
        Bad(.codeQuoted, "5:12", "DUO:0000006", "DUO:0000007\ndiseases: [\"MONDO:0005015\"]"),
        Bad(.valueType, "5:11", "DUO:0000006", "DUO:0000007\ndiseases: MONDO:0005015"),
        Bad(.codeKind, "5:21", "modifiers: []", "modifiers: [{ code: DUO:0000042 }]"),
        Bad(.valueType, "5:13", "modifiers: []", "modifiers: [DUO:0000046]"),
        Bad(.modifierParameter, "5:13", "modifiers: []", "modifiers: [{ code: DUO:0000022 }]"),
        Bad(.keyUnknown, "5:34", "modifiers: []", "modifiers: [{ code: DUO:0000046, months: 3 }]"),
        Bad(.valueRange, "5:44", "modifiers: []", "modifiers: [{ code: DUO:0000022, regions: [Japan] }]"),
        Bad(.valueRange, "5:41", "modifiers: []", "modifiers: [{ code: DUO:0000024, until: 2027-02-29 }]"),
        Bad(.valueType, "5:42", "modifiers: []", "modifiers: [{ code: DUO:0000025, months: twelve }]"),
        Bad(.valueRange, "5:42", "modifiers: []", "modifiers: [{ code: DUO:0000025, months: 0 }]"),
        Bad(.valueRange, "5:41", "modifiers: []", "modifiers: [{ code: DUO:0000026, users: [] }]"),
        Bad(.valueRepeated, "5:36", "modifiers: []", "modifiers: [{ code: DUO:0000046 }, { code: DUO:0000046 }]"),
        Bad(.approvalNone, "7:14", "required: 2", "required: 0"),
        Bad(.valueType, "7:26", "required: 2", "required: 02"),
        Bad(.valueType, "7:26", "required: 2", "required: \"2\""),
        Bad(.valueType, "7:26", "required: 2", "required: 2.0"),
        Bad(.valueRange, "7:26", "required: 2", "required: -1"),
        Bad(.valueType, "7:26", "required: 2", "required: 99999999999999999999"),
        Bad(.valueRepeated, "7:42", "data-custodian", "dac"),
        Bad(.valueUnknown, "10:42", "evidence: tpm", "evidence: hw-tea"),
        Bad(.valueType, "12:21", "losses: true", "losses: yes"),
        Bad(.policyConflict, "12:55", "cohort_min: 20", "cohort_min: 5"),
        Bad(.valueRange, "13:24", "cohort_min: 10", "cohort_min: 0"),
        Bad(.valueUnknown, "13:37", "checks: [artefact", "checks: [artifact"),
        Bad(.valueRange, "13:36", "checks: [artefact, cohort]", "checks: []"),
    ]

    @Test("a malformed policy is refused by its rule, at its line and column", arguments: bad)
    func malformed(_ test: Bad) throws {
        let findings = try #require(refusal(Fixture.files(test.text)))
        let found = findings.map { "\($0.rule.rawValue) \($0.line):\($0.column)" }
        #expect(found.contains("\(test.rule.rawValue) \(test.place)"), "\(findings)")
    }

    private func refusal(_ files: [PolicyFile]) -> [Finding]? {
        do {
            _ = try PolicySet(files: files, hash: Fixture.hash)
            return nil
        } catch {
            return error.findings
        }
    }

    @Test("every mistake of a file is told at once, with what was probably meant")
    func allAtOnce() throws {
        let text = Fixture.text().replacing("dataset:", with: "datset:").replacing("standard", with: "standrad")
            .replacing("hours_max", with: "hour_max")
        let findings = try #require(refusal(Fixture.files(text)))
        let messages = findings.map(\.message).joined(separator: "\n")
        for hint in ["did you mean 'dataset'?", "did you mean 'standard'?", "did you mean 'hours_max'?"] {
            #expect(messages.contains(hint), "\(messages)")
        }
        #expect(findings.allSatisfy { $0.description.hasPrefix("cohort.yaml:") })
    }

    @Test("the example of the policy specification is accepted as it stands")
    func example() throws {
        let text = """
            version: 1
            dataset: osaka:cohort-a
            level: standard              # very-strong | strong | standard | semi-open | open
            permission: DUO:0000007      # exactly one permission term
            diseases: [MONDO:0005015]
            modifiers:
              - code: DUO:0000021        # ethics approval -> a document is an obligation
              - { code: DUO:0000022, regions: [JP] }
              - { code: DUO:0000025, months: 12 }
            access:
              approvals: { required: 2, roles: [dac, data-custodian], author_may_approve: false }
              identity: { visas: [ResearcherStatus, AcceptedTermsAndPolicies], by: [so, system, dac] }
            training:
              device: { pools: [campus-a], evidence: software, hours_max: 72, rtt_microseconds_max: 500 }
            release: { cohort_min: 10, checks: [artefact, cohort, freedom, membership], reviewers: 2 }
            break_glass: { allowed: true, minutes_max: 60, approver: security-officer }
            """
        let policy = try #require(try Fixture.set(text).policies.values.first)
        #expect(policy.modifiers.map(\.value) == [.ethicsApproval, .regions(["JP"]), .timeLimit(months: 12)])
        #expect(policy.modifiers.map(\.line) == [7, 8, 9])
        #expect(policy.release.roles.value == ["dac", "data-custodian"])
        #expect(policy.breakGlass?.value.minutesMax == 60)
    }

    @Test("text with quotes, hashes, commas and ampersands in quotes is plain text")
    func quotedText() throws {
        let text = Fixture.text(access: "  notices: [\"A & B, *not* #1: 'x' !y \\\" {z}\", 'it''s &c']")
        let policy = try #require(try Fixture.set(text).policies.values.first)
        #expect(policy.access.notices?.value == ["A & B, *not* #1: 'x' !y \" {z}", "it's &c"])
        let comment = Fixture.text(extra: "# *important*: see &the !notes \"unclosed | > % {[")
        #expect(refusal(Fixture.files(comment)) == nil)
        let windows = Fixture.text().replacing("\n", with: "\r\n")
        #expect(refusal(Fixture.files(windows)) == nil)
    }

    @Test("expansion bombs, deep nesting and floods are refused before they are expanded")
    func bombs() throws {
        var laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        for level in 1..<40 {
            let before = Array(repeating: "*a\(level - 1)", count: 9).joined(separator: ", ")
            laughs += "a\(level): &a\(level) [\(before)]\n"
        }
        let keys = "[foo\n\"x, &b [*a, *a]\"]: y\n"
        let hidden = "k: foo\n [b\nc: e,'k: &y v'\nd: ]\n"
        let cases: [(Finding.Rule, String, String)] = [
            (.yamlAnchor, "1:5", laughs),
            (.yamlSyntax, "2:1", keys),
            (.yamlManyLines, "2:2", hidden),
            (.yamlTooDeep, "1:16", String(repeating: "[", count: 100_000)),
            (.yamlTooDeep, "1:79", "a: " + String(repeating: "{ b: ", count: 5000)),
            (.yamlTooDeep, "1:199999", String(repeating: "- ", count: 100_000) + "x"),
            (.yamlTooDeep, "66:66", (0..<300).map { String(repeating: " ", count: $0) + "a:\n" }.joined()),
            (.yamlTooDeep, "1:33", String(repeating: "- ", count: 20) + "x"),
            (.yamlTooMany, "1:19999", "a: [" + String(repeating: "1,", count: 20_000) + "1]"),
            (.yamlTooLarge, "1:1", String(repeating: "# comment\n", count: 30_000)),
        ]
        for (rule, place, text) in cases {
            let found = try #require(refusal(Fixture.files(text))).map { "\($0.rule.rawValue) \($0.line):\($0.column)" }
            #expect(found.contains("\(rule.rawValue) \(place)"), "\(found) \(text.prefix(40))")
        }
    }

    @Test("bytes that are not UTF-8 are refused where they begin")
    func encoding() throws {
        for (bytes, place) in [([0xFF], "2:1"), ([0x61, 0xC3], "2:2"), (Array("あ".utf8) + [0xE3, 0x81], "2:2")] {
            let file = PolicyFile(
                name: "cohort.yaml", bytes: Array("version: 1\n".utf8) + bytes.map { UInt8($0) } + [0x0A])
            let findings = try #require(refusal([file]))
            #expect(findings.map { "\($0.rule.rawValue) \($0.line):\($0.column)" } == ["yaml.encoding \(place)"])
        }
    }

    @Test("two files for one data set, look-alike ids, stray tests and odd file names are refused")
    func betweenFiles() throws {
        let valid = Array(Fixture.text().utf8)
        let capital = Array(Fixture.text().replacing("osaka:cohort-a", with: "Osaka:Cohort-A").utf8)
        for (rule, other) in [(Finding.Rule.datasetRepeated, valid), (.datasetLookAlike, capital)] {
            let found = try #require(
                refusal([.init(name: "a.yaml", bytes: valid), .init(name: "b.yaml", bytes: other)]))
            #expect(
                found.map { "\($0.rule.rawValue) \($0.file):\($0.line):\($0.column)" } == [
                    "\(rule.rawValue) b.yaml:2:10"
                ])
        }
        let cases: [(Finding.Rule, [PolicyFile])] = [
            (.fileName, [.init(name: "a.yaml", bytes: valid), .init(name: "a.yaml", bytes: valid)]),
            (.fileName, [.init(name: "../a.yaml", bytes: valid)]),
            (.fileName, [.init(name: "а.yaml", bytes: valid)]),
            (.fileName, [.init(name: ".yaml", bytes: valid)]),
            (.testOrphan, [.init(name: "a.test.yaml", bytes: Array("version: 1\ntests: []\n".utf8))]),
        ]
        for (rule, files) in cases {
            let findings = try #require(refusal(files))
            #expect(findings.map(\.rule).contains(rule), "\(findings)")
        }
    }

    @Test("a table of diseases with a wrong code, key or shape is refused where it stands")
    func diseaseTable() throws {
        for (text, place) in [
            ("version: 1\nparents:\n  MONDO:1: [MONDO:0000002]\n", "code.unknown 3:3"),
            ("version: 1\nparents:\n  MONDO:0000001: [DOID:0000002]\n", "code.unknown 3:19"),
            ("version: 1\nparents:\n  MONDO:0000001: [ΜONDO:0000002]\n", "code.unknown 3:19"),  // Greek.
            ("version: 1\nparents:\n  MONDO:0000001: MONDO:0000002\n", "value.type 3:18"),
            ("version: 1\nparents:\n  MONDO:0000001: []\n", "value.range 3:18"),
            ("version: 1\nparents: []\n", "value.type 2:10"),
            ("version: 1\nparent: {}\n", "key.unknown 2:1"),
            (
                "version: 1\nparents:\n  MONDO:0000001: [MONDO:0000002]\n  MONDO:0000001: [MONDO:0000003]\n",
                "yaml.duplicate-key 4:3"
            ),
        ] {
            let files = Fixture.files(Fixture.text()) + [PolicyFile(name: "diseases.yaml", bytes: Array(text.utf8))]
            let found = try #require(refusal(files))
            #expect(
                found.contains { $0.file == "diseases.yaml" && "\($0.rule.rawValue) \($0.line):\($0.column)" == place },
                "\(found)")
        }
    }

    @Test("diseases that are their own ancestors are refused")
    func diseaseCircle() throws {
        let circle = "version: 1\nparents:\n  MONDO:0000001: [MONDO:0000002]\n  MONDO:0000002: [MONDO:0000001]\n"
        let files = { (text: String) in
            Fixture.files(Fixture.text()) + [PolicyFile(name: "diseases.yaml", bytes: Array(text.utf8))]
        }
        let found = try #require(refusal(files(circle)))
        #expect(found.map { "\($0.rule.rawValue) \($0.line):\($0.column)" } == ["disease.circle 3:3"])
        // The first line is above the circle, not in it.
        let above = circle.replacing("parents:\n", with: "parents:\n  MONDO:0000000: [MONDO:0000001]\n")
        #expect(try #require(refusal(files(above))).map(\.line) == [4])
        let itself = "version: 1\nparents:\n  MONDO:0000001: [MONDO:0000001]\n"
        #expect(throws: PolicyError.self) { try Fixture.set(Fixture.text(), diseases: itself) }
        let diamond = """
            version: 1
            parents:
              MONDO:0000001: [MONDO:0000002, MONDO:0000003]
              MONDO:0000002: [MONDO:0005015]
              MONDO:0000003: [MONDO:0005015]
            """
        let set = try Fixture.set(
            Fixture.text(permission: "DUO:0000007\ndiseases: [MONDO:0005015]"), diseases: diamond)
        let purpose = Fixture.purpose(["DUO:0000007"], diseases: ["MONDO:0000001"])
        #expect(set.decide(Fixture.access(purpose)).verdict == .permit)
        let around = diamond + "\n  MONDO:0005015: [MONDO:0000001]"
        #expect(throws: PolicyError.self) { try Fixture.set(Fixture.text(), diseases: around) }
    }

    @Test("no soup of YAML tokens smuggles an anchor past the first reading, seed 41")
    func tokenSoup() throws {
        var random = SeededRandom(seed: 41)
        let tokens = [
            "&x ", "*x ", "a", "b", ": ", ":", ", ", ",", "[", "]", "{", "}", "'", "\"", "''", "\\", " #", "# ", "\n",
            "\n ", "\n  ", "\n- ", "- ", "? ", "! ", "|", ">", "<<: ", "  ", "k: ", "\n}", "\n]", "\nk: [", "\nk: {",
            "'q'", "\"q\"",
        ]
        var reached = 0
        for step in 0..<30_000 {
            var text = ""
            for _ in 0..<Int.random(in: 1...18, using: &random) { text += tokens.randomElement(using: &random)! }
            let findings = refusal(Fixture.files(text)) ?? []
            #expect(!findings.contains { $0.message.contains("where none can be") }, "step \(step): \(text)")
            if !findings.contains(where: { $0.rule.rawValue.hasPrefix("yaml") }) { reached += 1 }
        }
        #expect(reached > 1000, "the soup must often be YAML, and was \(reached) times")
    }

    @Test(
        "no mutation of the shipped files crashes the reader, and every finding lies inside its file", arguments: 0..<4)
    func fuzz(_ round: Int) throws {
        let seed = UInt64(20_240_601 + round)
        var random = SeededRandom(seed: seed)
        let files = try Fixture.shipped()
        let pieces = [
            "&a", "*a", "<<: ", "!x ", "- ", ": ", "{", "}", "[", "]", ",", "'", "\"", "#", "\n", "  ", "|", ">", "?",
            "\\",
            "%", "---\n", "\u{85}", "DUO:0000006", "null", "あ", "\t", "\r",
        ].map { Array($0.utf8) }
        var accepted = 0
        for step in 0..<150 {
            let file = files.randomElement(using: &random)!
            var bytes = file.bytes
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let at = Int.random(in: 0...bytes.count, using: &random)
                let end = min(bytes.count, at + Int.random(in: 0...12, using: &random))
                switch Int.random(in: 0..<4, using: &random) {
                case 0: bytes.insert(contentsOf: pieces.randomElement(using: &random)!, at: at)
                case 1: bytes.removeSubrange(at..<end)
                case 2: bytes.insert(contentsOf: bytes[at..<end], at: Int.random(in: 0...bytes.count, using: &random))
                default: if at < bytes.count { bytes[at] = UInt8.random(in: 0...255, using: &random) }
                }
            }
            let changed = files.map { $0.name == file.name ? PolicyFile(name: file.name, bytes: bytes) : $0 }
            guard let findings = refusal(changed) else {
                accepted += 1
                continue
            }
            let lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false).count
            for finding in findings {
                #expect(
                    finding.line >= 1 && finding.column >= 1
                        && (finding.file != file.name || finding.line <= lines + 1),
                    "seed \(seed) step \(step): \(finding)")
            }
        }
        // Comments and names may change without harm, so some must be accepted: the fuzzer does reach the far side.
        #expect(accepted > 0, "seed \(seed)")
    }
}
