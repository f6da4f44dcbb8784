import Foundation
import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// The policies of this repository, their tests and what lint says of them.
@Suite struct ShippedPolicyTests {
    typealias Fixture = PolicyFixture

    @Test("the shipped policies load, pass their tests and leave lint nothing to say")
    func shipped() throws {
        let files = try Fixture.shipped()
        let set = try PolicySet(files: files, hash: Fixture.hash)
        #expect(set.policies.keys.map(\.text).sorted() == ["demo:hpo", "demo:kg1-ancestry", "demo:kg1-health"])
        #expect(PolicyLint.findings(in: files).map(\.description) == [])
    }

    @Test("a policy that its own tests contradict is not loaded, and the failing test is named with its line")
    func contradiction() throws {
        let files = try Fixture.shipped().map { file in
            file.name != "kg1-health.yaml"
                ? file
                : PolicyFile(
                    name: file.name,
                    bytes: Array(
                        String(decoding: file.bytes, as: UTF8.self)
                            .replacing("permission: DUO:0000006", with: "permission: DUO:0000042").utf8))
        }
        let error = try #require(throws: PolicyError.self) { try PolicySet(files: files, hash: Fixture.hash) }
        #expect(
            error.findings.allSatisfy { $0.rule == .testFailed && $0.file == "kg1-health.test.yaml" && $0.line > 40 })
        #expect(
            error.findings.contains {
                $0.message.contains("a request to predict ancestry groups is refused")
                    && $0.message.contains("got permit")
            })
    }

    @Test("a test that names a missing fact, an unknown reason or member is refused with its place")
    func badTests() throws {
        let policy = PolicyFile(name: "cohort.yaml", bytes: Array(Fixture.text().utf8))
        let bodies: [(Finding.Rule, String)] = [
            (.valueType, "- { name: a, ask: access, expect: refuse }"),
            (.valueUnknown, "- { name: a, ask: acces, expect: refuse }"),
            (.valueUnknown, "- { name: a, ask: access, expect: deny }"),
            (.valueUnknown, "- { name: a, ask: access, expect: refuse, reasons: [purpose.unknwon] }"),
            (.keyUnknown, "- { name: a, ask: access, expect: refuse, reason: [] }"),
            (.keyMissing, "- { ask: access, expect: refuse }"),
        ]
        for (rule, body) in bodies {
            let test = PolicyFile(name: "cohort.test.yaml", bytes: Array("version: 1\ntests:\n  \(body)\n".utf8))
            let error = try #require(throws: PolicyError.self) {
                try PolicySet(files: [policy, test], hash: Fixture.hash)
            }
            #expect(error.findings.contains { $0.rule == rule && $0.line == 3 }, "\(error)")
        }
    }

    @Test("lint points at what is allowed but probably not meant")
    func lint() throws {
        let text = Fixture.text(modifiers: ["{ code: DUO:0000044 }"]).replacing(
            "level: standard", with: "level: strong"
        )
        .replacing("evidence: tpm", with: "evidence: software").replacing("cohort_min: 10", with: "cohort_min: 3")
        .replacing("round_thousandths: 10", with: "round_thousandths: 1")
        let findings = PolicyLint.findings(in: Fixture.files(text))
        #expect(findings.allSatisfy { $0.severity == .warning })
        #expect(
            Set(findings.map(\.rule))
                == [.evidenceWeak, .cohortSmall, .figuresExact, .modifierIdle, .testMissing])
    }

    @Test("the manifest names every file by its hash, whatever order they are given in")
    func manifest() throws {
        let files = try Fixture.shipped()
        let set = try PolicySet(files: files, hash: Fixture.hash)
        let again = try PolicySet(files: files.reversed(), hash: Fixture.hash)
        #expect(set.bundleHash == again.bundleHash)
        #expect(set.manifest["files"]?.objectValue?.count == files.count)
        #expect(set.bundleHash == Fixture.hash(set.manifest.canonical))
        let changed = files.map { $0.name == "hpo.yaml" ? PolicyFile(name: $0.name, bytes: $0.bytes + [0x0A]) : $0 }
        #expect(try PolicySet(files: changed, hash: Fixture.hash).bundleHash != set.bundleHash)
    }

    @Test("days and months agree with Foundation's calendar, seed 7")
    func calendar() throws {
        var random = SeededRandom(seed: 7)
        var calendar = Calendar(identifier: .gregorian)
        calendar.timeZone = try #require(TimeZone(identifier: "UTC"))
        for _ in 0..<2000 {
            let time = Timestamp(milliseconds: Int64.random(in: 0..<4_000_000_000_000, using: &random))
            #expect(Timestamp(time.description) == time)
            let months = Int.random(in: 0...48, using: &random)
            let date = Date(timeIntervalSince1970: Double(time.milliseconds / 1000))
            let later = try #require(calendar.date(byAdding: .month, value: months, to: date))
            let ours = try #require(time.adding(months: months))
            #expect(ours.milliseconds / 1000 == Int64(later.timeIntervalSince1970), "\(time) + \(months) months")
        }
        for text in [
            "2027-02-29", "2027-13-01", "2027-00-10", "2027-1-01", "1969-12-31", "2027-01-01T24:00:00.000Z", "",
        ] {
            #expect(Timestamp(text) == nil, "\(text)")
        }
        #expect(CalendarDate("2028-02-29")?.description == "2028-02-29")
    }
}
