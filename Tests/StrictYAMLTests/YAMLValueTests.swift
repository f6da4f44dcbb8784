import StrictYAML
import TestSupport
import Testing

/// What PolicyEngineTests and TrainingTests check through their own doors (each refused construct, with its place) is
/// not repeated here.
@Suite struct YAMLValueTests {
    @Test("values keep the place that they were written at")
    func places() throws {
        let root = try YAMLValue(parsing: Array("a: 1\nlist:\n  - x\n  - {k: 'v: #'}\n".utf8))
        guard case .mapping(let pairs) = root.content, case .sequence(let list) = pairs[1].value.content,
            case .mapping(let inner) = list[1].content, case .scalar(let text, let plain) = inner[0].value.content
        else {
            Issue.record("another shape")
            return
        }
        #expect((pairs[1].key.line, pairs[1].key.column) == (2, 1))
        #expect((inner[0].value.line, inner[0].value.column) == (4, 9))
        #expect(text == "v: #" && !plain)
    }

    @Test(
        "a fault names its place",
        arguments: [
            ("a: &x 1", YAMLFault.Code.anchor, 1, 4), ("a: 1\nb:\t2", .tab, 2, 3), ("a: 1\na: 2", .duplicateKey, 2, 1),
            ("a: |\n  b", .blockText, 1, 4), ("", .empty, 1, 1), ("a: [1", .syntax, 1, 1),
        ])
    func faults(text: String, code: YAMLFault.Code, line: Int, column: Int) throws {
        let fault = try #require(throws: YAMLFault.self) { try YAMLValue(parsing: Array(text.utf8)) }
        #expect(fault.code == code)
        #expect((fault.line, fault.column) == (line, column))
    }

    @Test("no change of a file's bytes crashes the reader", arguments: [UInt64(5)])
    func mutations(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let original = Array("a: [1, {b: 'c'}]\nd:\n  - e: \"f\"\n    g: h # i\n".utf8)
        var accepted = 0
        for _ in 0..<4000 {
            var bytes = original
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[at] = UInt8.random(in: 0...255, using: &random)
                case 1: bytes.remove(at: at)
                default: bytes.insert("[]{}:-,&*#\"'\n !|>".utf8.randomElement(using: &random)!, at: at)
                }
            }
            if (try? YAMLValue(parsing: bytes)) != nil { accepted += 1 }
        }
        #expect(accepted > 0 && accepted < 4000, "seed \(seed): \(accepted) accepted")
    }
}
