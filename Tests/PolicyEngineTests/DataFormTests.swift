import Foundation
import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// A data set's own form: read strictly, and every answer held to it.
@Suite struct DataFormTests {
    private static let now = PolicyFixture.now

    private static let small = """
        version: 1
        title: { en: "About the study", ja: "研究について" }
        fields:
          - { id: summary, kind: text, label: { en: "Summary", ja: "要約" }, required: true, length_max: 20, lines: 3 }
          - { id: design, kind: choice, label: { en: "Design" }, options: [{ value: cohort, label: { en: "Cohort" } }] }
          - { id: start, kind: date, label: { en: "Start" }, earliest: "2026-01-01", latest: "2030-12-31", not_past: true }
          - { id: born, kind: date, label: { en: "Approved on" }, not_future: true }
          - { id: disease, kind: code, label: { en: "Diseases" }, ontology: MONDO, count_max: 2 }
          - { id: people, kind: number, label: { en: "People" }, min: 1, max: 9 }
          - { id: agree, kind: boolean, label: { en: "I agree" }, required: true, must_be_true: true }
          - { id: paper, kind: document, label: { en: "Protocol" }, document: protocol }

        """

    private static func files(_ form: String, name: String = "cohort.form.yaml") -> [PolicyFile] {
        PolicyFixture.files(PolicyFixture.text()) + [PolicyFile(name: name, bytes: Array(form.utf8))]
    }

    private static func form(_ text: String) throws -> DataForm.Version {
        let set = try PolicySet(files: files(text), hash: PolicyFixture.hash)
        return try #require(set.forms[PolicyFixture.dataset])
    }

    private static func findings(_ text: String, name: String = "cohort.form.yaml") -> [String] {
        do throws(PolicyError) {
            _ = try PolicySet(files: files(text, name: name), hash: PolicyFixture.hash)
            return []
        } catch { return error.findings.map { "\($0.file):\($0.line):\($0.column) \($0.rule.rawValue)" } }
    }

    @Test("a form stands in its data set's bundle, and every change of it is another version")
    func versions() throws {
        let first = try Self.form(Self.small)
        #expect(first.form.fields.count == 8 && first.form.title.japanese == "研究について")
        let second = try Self.form(Self.small.replacing("length_max: 20", with: "length_max: 21"))
        #expect(first.digest != second.digest)
        #expect(first.json["digest"]?.stringValue == first.digest.hex)
        #expect(Self.findings(Self.small, name: "other.form.yaml") == ["other.form.yaml:1:1 form.orphan"])
        let old = try PolicySet(files: PolicyFixture.files(PolicyFixture.text()), hash: PolicyFixture.hash)
        let new = try PolicySet(files: Self.files(Self.small), hash: PolicyFixture.hash)
        #expect(!PolicyChange(from: old, to: new).widens)
        #expect(PolicyChange(from: new, to: old).widens)
    }

    @Test(
        "what is wrong with a form's file is told with line, column and rule",
        arguments: [
            ("version: 1", "version: 2", "1:10 value.range"),
            ("kind: choice", "kind: chioce", "5:25 value.unknown"),
            ("length_max: 20", "length_max: 20000", "4:96 value.range"),
            ("length_max: 20", "lenght_max: 20", "4:84 key.unknown"),
            ("id: design", "id: Summary", "5:5 value.repeated"),
            ("id: design", "id: dеsign", "5:11 value.range"),
            ("ontology: MONDO, ", "", "8:5 key.missing"),
            ("latest: \"2030-12-31\"", "latest: \"2025-12-31\"", "6:86 policy.conflict"),
            ("latest: \"2030-12-31\"", "latest: \"2030-02-30\"", "6:86 value.range"),
            ("min: 1, max: 9", "min: 9, max: 1", "9:71 policy.conflict"),
            ("required: true, must_be_true: true", "required: yes", "10:69 value.type"),
            ("document: protocol }", "document: &a protocol }", "11:71 yaml.anchor"),
            ("title: {", "title: { fr: \"x\",", "2:10 key.unknown"),
        ])
    func places(from: String, to: String, place: String) {
        let found = Self.findings(Self.small.replacing(from, with: to))
        #expect(found.contains("cohort.form.yaml:\(place)"), "\(found)")
    }

    @Test("a right answer to every kind is taken, and each wrong one has its own code")
    func answers() throws {
        let form = try Self.form(Self.small).form
        let digest = String(repeating: "a", count: 64)
        let good: [String: JSON] = [
            "summary": "one\ntwo", "design": "cohort", "start": "2027-01-01", "born": "2026-11-01",
            "disease": ["MONDO:0005015"], "people": 3, "agree": true,
            "paper": ["kind": "protocol", "digest": .string(digest), "name": "plan.pdf"],
        ]
        #expect(form.faults(in: .object(good), now: Self.now).isEmpty)
        #expect(form.faults(in: ["summary": "x", "agree": true], now: Self.now).isEmpty)
        let wrong: [(String, JSON?, DataForm.Fault.Code)] = [
            ("summary", nil, .missing), ("summary", "", .missing), ("summary", 3, .kind),
            ("summary", .string(String(repeating: "あ", count: 21)), .tooLong), ("summary", "a\u{7}", .control),
            ("design", "trial", .option), ("design", true, .option), ("start", "2027-02-30", .date),
            ("start", "2025-12-31", .tooEarly), ("start", "2031-01-01", .tooLate), ("start", "2026-11-20", .past),
            ("born", "2026-11-22", .future), ("born", "tomorrow", .date), ("disease", "MONDO:0005015", .code),
            ("disease", ["MONDO:5015"], .code), ("disease", ["MONDO:0000001", "MONDO:0000001"], .code),
            ("disease", ["MONDO:0000001", "MONDO:0000002", "MONDO:0000003"], .code), ("people", 0, .range),
            ("people", 10, .range), ("people", "3", .range), ("agree", false, .agree), ("agree", "yes", .kind),
            ("paper", ["kind": "other", "digest": .string(digest)], .document), ("paper", "plan.pdf", .document),
            (
                "paper", ["kind": "protocol", "digest": .string(digest), "expires": "2026-01-01"], .expired
            ), ("more", 1, .unknown),
        ]
        for (field, answer, code) in wrong {
            var answers = good
            answers[field] = answer
            let faults = form.faults(in: .object(answers), now: Self.now)
            #expect(faults.map(\.field) == [field] && faults.first?.code == code, "\(field): \(faults)")
        }
        #expect(form.faults(in: [], now: Self.now).map(\.code) == [.kind])
    }

    @Test("a form of 200 fields is read and answered; one of 201 is refused")
    func many() throws {
        func text(_ count: Int) -> String {
            "version: 1\ntitle: { en: Many }\nfields:\n"
                + (1...count).map { number in
                    let kind = [
                        "kind: text", "kind: number, min: 0, max: 9", "kind: boolean",
                        "kind: choice, options: [{ value: a, label: { en: A, ja: あ } }, { value: b, label: { en: B } }]",
                    ][number % 4]
                    return "  - { id: f\(number), \(kind), label: { en: \"Field \(number)\" }, required: true }\n"
                }.joined()
        }
        let form = try Self.form(text(200)).form
        let answers = Dictionary(
            uniqueKeysWithValues: (1...200).map { number in
                ("f\(number)", ["x", 5, true, "b"][number % 4] as JSON)
            })
        #expect(form.faults(in: .object(answers), now: Self.now).isEmpty)
        #expect(form.faults(in: [:], now: Self.now).count == 200)
        #expect(Self.findings(text(201)) == ["cohort.form.yaml:4:3 value.range"])
    }

    @Test("no change of a form's bytes or of its answers does more than fail")
    func mutations() throws {
        let seed: UInt64 = 41
        var random = SeededRandom(seed: seed)
        let bytes = Array(Self.small.utf8)
        let form = try Self.form(Self.small).form
        for _ in 0..<400 {
            var changed = bytes
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                changed[Int.random(in: 0..<changed.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            do throws(PolicyError) {
                let files = PolicyFixture.files(PolicyFixture.text())
                _ = try PolicySet(
                    files: files + [PolicyFile(name: "cohort.form.yaml", bytes: changed)], hash: PolicyFixture.hash)
            } catch {
                #expect(error.findings.allSatisfy { $0.line >= 1 && $0.column >= 1 }, "seed \(seed)")
            }
        }
        let values: [JSON] = [
            .null, true, "", "x", 7, [], ["x"], [:], ["kind": "protocol"], .integer(-JSON.integerMax),
            .string(String(repeating: "y", count: 5000)),
        ]
        for _ in 0..<400 {
            var answers: [String: JSON] = [:]
            for field in form.fields { answers[field.id] = values.randomElement(using: &random) }
            _ = form.faults(in: .object(answers), now: Self.now)
        }
    }

    @Test("the schema for editors is the one that the program gives out")
    func schema() throws {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent().appendingPathComponent("policies/form.schema.json")
        let text = try String(contentsOf: file, encoding: .utf8)
        #expect(try JSON(parsing: Array(text.utf8)) == DataForm.schema)
    }
}
