import TestSupport
import Testing
import Vocabulary

@Suite struct JSONTests {
    @Test(
        "canonical form follows RFC 8785",
        arguments: [
            (#"{"b":1,"a":[true,null,"x"]}"#, #"{"a":[true,null,"x"],"b":1}"#),
            // RFC 8785 section 3.2.3: members are sorted by UTF-16 code units.
            (
                #"{"\u20ac":"Euro","\r":"CR","\ufb33":"Dalet","1":"One","\ud83d\ude00":"Smile","\u0080":"C","\u00f6":"o"}"#,
                "{\"\\r\":\"CR\",\"1\":\"One\",\"\u{80}\":\"C\",\"ö\":\"o\",\"€\":\"Euro\",\"😀\":\"Smile\",\"\u{fb33}\":\"Dalet\"}"
            ),
            (#""\u0001\u001f\/\"\\\b""#, #""\u0001\u001f/\"\\\b""#),
            ("[ -1 , 9007199254740991 ]", "[-1,9007199254740991]"),
            // JSON Schema 2020-12, 4.2.3: these are integers too.
            ("[418.0, 0.000, -1.0]", "[418,0,-1]"),
        ])
    func canonical(text: String, expected: String) throws {
        #expect(try JSON(parsing: text).canonicalText == expected)
    }

    @Test(
        "what has no single meaning is refused with its position",
        arguments: [
            (#"{"a":1,"a":2}"#, 7), ("1.5", 1), ("1e3", 1), ("1.05", 1), ("1.", 1),
            ("1.0e3", 3), ("01", 2), ("-0", 2), ("9007199254740992", 16), ("", 0),
            ("[1,]", 3), (#"{"a"}"#, 4), (#""\ud800""#, 7), (#""\q""#, 2), ("nul", 0), ("[1] 2", 4), ("\"a\u{1}\"", 2),
        ])
    func refused(text: String, offset: Int) {
        #expect(throws: JSONError.self) { try JSON(parsing: text) }
        do { _ = try JSON(parsing: text) } catch { #expect(error.offset == offset, "\(text): \(error)") }
    }

    @Test("nesting beyond the limit is refused, not followed")
    func depth() {
        #expect(throws: JSONError.self) { try JSON(parsing: String(repeating: "[", count: 100_000)) }
    }

    @Test("every mutation is either refused or reads back to itself", arguments: [UInt64(1), 2, 3])
    func fuzz(seed: UInt64) throws {
        var random = SeededRandom(seed: seed)
        let start = Array(#"{"event":"run.decided","reasons":["a","é"],"n":-12,"deep":[[{}],true,null]}"#.utf8)
        for _ in 0..<20_000 {
            var bytes = start
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
            }
            guard let value = try? JSON(parsing: bytes) else { continue }
            #expect(try JSON(parsing: value.canonical) == value, "seed \(seed)")
        }
    }
}

@Suite struct NounTests {
    @Test("an identifier is refused with the place of the bad character", arguments: ["", "a b", "-a", "é", "a/b"])
    func identifiers(text: String) {
        #expect(throws: IdentifierError.self) { try RunID(text) }
    }

    @Test("an identifier of 128 bytes is accepted and of 129 refused")
    func identifierLength() throws {
        _ = try RunID(String(repeating: "a", count: 128))
        #expect(throws: IdentifierError.self) { try RunID(String(repeating: "a", count: 129)) }
    }

    @Test(
        "a timestamp reads as RFC 3339",
        arguments: [
            (0, "1970-01-01T00:00:00.000Z"), (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_253_400_123, "2026-11-21T09:30:00.123Z"), (-1, "1969-12-31T23:59:59.999Z"),
        ] as [(Int64, String)])
    func timestamp(milliseconds: Int64, text: String) {
        #expect(Timestamp(milliseconds: milliseconds).description == text)
    }

    @Test("a digest survives its hexadecimal form and nothing else is a digest")
    func digest() {
        let digest = Digest((0..<32).map { UInt8($0 * 7) })
        #expect(Digest(hex: digest!.hex) == digest)
        #expect(Digest(hex: digest!.hex.uppercased()) == nil)
        #expect(Digest((0..<31).map { UInt8($0) }) == nil)
    }

    @Test("stages are in the order of the journey")
    func stages() {
        #expect(RunStage.allCases == RunStage.allCases.sorted())
        #expect(RunStage.decide < .open && RunStage.train < .scrub && RunStage.release < .closed)
    }
}
