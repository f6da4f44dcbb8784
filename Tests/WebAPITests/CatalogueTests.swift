import Foundation
import Gateway
import Testing
import Vocabulary
import WebAPI
import WebResources

/// The message catalogues against each other and against the pages that use them.
@Suite("message catalogues")
struct CatalogueTests {
    private static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent()

    private static func placeholders(_ text: String) -> Set<String> {
        Set(text.matches(of: /\{(\w+)\}/).map { String($0.output.1) })
    }

    private static func catalogue(_ language: Language) throws -> [String: String] {
        let text = try #require(WebFile.messages[language.rawValue])
        return try #require(JSON(parsing: text).objectValue).compactMapValues(\.stringValue)
    }

    @Test("every language has every text, with the same places to fill in, and none is empty")
    func languagesAgree() throws {
        let english = try Self.catalogue(.english)
        for language in Language.allCases {
            let texts = try Self.catalogue(language)
            #expect(Set(texts.keys) == Set(english.keys), "\(language)")
            for (key, text) in texts {
                #expect(!text.isEmpty, "\(key)")
                #expect(Self.placeholders(text) == Self.placeholders(english[key] ?? ""), "\(language) \(key)")
            }
        }
    }

    @Test("the Japanese texts are Japanese, but for names and numbers")
    func japaneseIsJapanese() throws {
        let isJapanese = { (text: String) in
            text.unicodeScalars.contains {
                (0x3040...0x30FF).contains($0.value) || (0x4E00...0x9FFF).contains($0.value)
            }
        }
        let same = try Self.catalogue(.japanese).filter { !isJapanese(Self.words(in: $0.value)) && !$0.value.isEmpty }
        #expect(same.keys.sorted() == ["run.figure", "timeline.with"])
    }

    /// A text without what is filled in.
    private static func words(in text: String) -> String { text.replacing(/\{\w+\}/, with: "") }

    @Test("no text that a page asks for is missing, and none is there that no page asks for")
    func pagesAndCatalogueAgree() throws {
        let known = try Set(Self.catalogue(.english).keys)
        var asked = Self.lists()
        for text in WebFile.templates.values {
            asked.formUnion(text.matches(of: /\{\{\{?[#^]?t\.([a-zA-Z0-9.\-]+)\}/).map { String($0.output.1) })
        }
        for file in try Self.pageSources() {
            // A key is a literal of two parts or more, of the catalogue's stems. Names of events look the same.
            let stems = Set(known.map { $0.prefix { $0 != "." } })
            for match in file.matches(of: /"([a-z\-]+(?:\.[a-zA-Z0-9\-]+)+)"/) {
                let key = String(match.output.1)
                if stems.contains(key.prefix { $0 != "." }), known.contains(key) || !KnownName.events.contains(key) {
                    asked.insert(key)
                }
            }
        }
        #expect(asked.subtracting(known).sorted() == [], "asked for, and not in the catalogue")
        #expect(known.subtracting(asked).sorted() == [], "in the catalogue, and never asked for")
    }

    private static func pageSources() throws -> [String] {
        let folder = root.appendingPathComponent("Sources/WebAPI/Pages")
        return try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
            .filter { $0.pathExtension == "swift" }.map { try String(contentsOf: $0, encoding: .utf8) }
    }

    /// The closed lists that pages have words for.
    private static func lists() -> Set<String> {
        let families: [(String, [String])] = [
            ("origin", GrantOrigin.allCases.map(\.rawValue)),
            ("revocation", RevocationReason.allCases.map(\.rawValue)),
            ("stage", RunStage.allCases.map(\.rawValue)), ("role", Role.allCases.map(\.rawValue)),
            ("event", KnownName.events), ("outcome", KnownName.outcomes), ("reason", KnownName.reasons),
            ("obligation", KnownName.obligations), ("check", KnownName.checks), ("duo", KnownName.purposes),
            ("decision", ["permit", "needs-human", "refuse"]),
            ("tier", ["device", "enclave host"]),
            ("part", ["whole run", "sweeps", "run image", "spilled tensors"]),
            ("run.figure", ["loss", "metric"]), ("picture", ["train", "validation", "test"]),
            ("audit", ["who", "what", "outcome", "dataset", "request", "run", "from", "to"]),
            ("answer", AnswerFault.codes), ("condition", KnownName.conditions),
            ("notice", Notice.Code.allCases.map(\.rawValue)),
            ("request.over", ["expired", "superseded", "revoked", "closed"]),
            ("lint", KnownName.lintRules), ("rule", KnownName.rules), ("answer", KnownName.answers),
            ("ask", KnownName.questionKinds), ("said", KnownName.ruleParts), ("action", KnownName.matrixActions),
            ("bundle", KnownName.bundleStates),
            ("problem", problems + problems.map { "\($0).what" }),
        ]
        return Set(families.flatMap { family, names in names.map { "\(family).\($0)" } })
    }

    private static let problems = [
        "not-found", "role-missing", "form-expired", "too-large", "too-many-requests", "invalid", "refused", "other",
    ]

    @Test("what is filled in stands where the text has its place")
    func fillingIn() {
        let words = Words.of(.english)
        #expect(words("runs.epochs", ["done": "3", "of": "{of}"]) == "Epoch 3 of {of}")
        #expect(Words.of(.japanese)("request.title", ["id": "request-1"]) == "申請 request-1")
        #expect(words.name("role", "dac") == "data access committee")
        #expect(words.name("role", "keeper-of-seals") == "keeper-of-seals")
    }
}
