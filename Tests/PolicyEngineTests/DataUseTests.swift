import Foundation
import PolicyEngine
import TestSupport
import Testing
import Vocabulary

/// What data may be used for, against what they are wanted for.
@Suite struct DataUseTests {
    private static let diabetes = "MONDO:0005015"
    private static let typeTwo = "MONDO:0005148"
    private static let asthma = "MONDO:0004979"
    private static let tree = "version: 1\nparents:\n  MONDO:0005148: [MONDO:0005015]\n"

    struct Case: CustomTestStringConvertible {
        let permission: String
        let modifiers: [String]
        let purpose: Purpose
        let verdict: Decision.Verdict
        let reason: Reason.Code
        var testDescription: String { "\(permission) \(modifiers) asked for \(purpose.codes) \(purpose.diseases)" }

        init(
            _ permission: String, with modifiers: [String] = [], _ codes: [String], diseases: [String] = [],
            _ verdict: Decision.Verdict, _ reason: Reason.Code, _ change: (inout Purpose) -> Void = { _ in }
        ) {
            var purpose = PolicyFixture.purpose(codes, diseases: diseases)
            change(&purpose)
            self.permission = permission
            self.modifiers = modifiers
            self.purpose = purpose
            self.verdict = verdict
            self.reason = reason
        }
    }

    private static let diseaseOnly = "DUO:0000007\ndiseases: [MONDO:0005015]"

    private static let cases: [Case] = [
        // Where the reference matcher fails open: wider research against narrower data.
        Case(diseaseOnly, ["DUO:0000042"], .refuse, .purposeTooWide),
        Case(diseaseOnly, ["DUO:0000006"], .refuse, .purposeTooWide),
        Case("DUO:0000006", ["DUO:0000042"], .refuse, .purposeTooWide),
        Case("DUO:0000011", ["DUO:0000042"], .refuse, .purposeTooWide),
        Case(diseaseOnly, ["DUO:0000007"], diseases: [asthma], .refuse, .purposeDisease),
        Case(diseaseOnly, ["DUO:0000007"], diseases: [diabetes, asthma], .refuse, .purposeDisease),
        Case(diseaseOnly, ["DUO:0000007"], diseases: [], .refuse, .purposeDisease),
        Case("DUO:0000007\ndiseases: [MONDO:0005148]", ["DUO:0000007"], diseases: [diabetes], .refuse, .purposeDisease),
        // Where it never looks: a data set's modifiers.
        Case("DUO:0000042", with: ["{ code: DUO:0000015 }"], ["DUO:0000042"], .refuse, .purposeMethods) {
            $0.methods = true
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000015 }"], ["DUO:0000042"], .refuse, .factMissing) {
            $0.methods = nil
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000015 }"], ["DUO:0000042"], .permit, .purposeCovered),
        Case("DUO:0000042", with: ["{ code: DUO:0000016 }"], ["DUO:0000042"], .refuse, .purposeNotGenetic) {
            $0.genetic = false
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000016 }"], ["DUO:0000042"], .refuse, .factMissing) {
            $0.genetic = nil
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000016 }"], ["DUO:0000042"], .permit, .purposeCovered),
        Case("DUO:0000042", with: ["{ code: DUO:0000018 }"], ["DUO:0000042"], .refuse, .purposeCommercial) {
            $0.commercial = true
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000018 }"], ["DUO:0000042"], .refuse, .purposeOrganisation) {
            $0.notForProfit = false
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000018 }"], ["DUO:0000042"], .permit, .purposeCovered),
        Case("DUO:0000042", with: ["{ code: DUO:0000045 }"], ["DUO:0000042"], .refuse, .purposeOrganisation) {
            $0.notForProfit = false
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000045 }"], ["DUO:0000042"], .permit, .purposeCovered) {
            $0.commercial = true
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000046 }"], ["DUO:0000042"], .refuse, .purposeCommercial) {
            $0.commercial = true
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000046 }"], ["DUO:0000042"], .permit, .purposeCovered) {
            $0.notForProfit = false
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000044 }"], ["DUO:0000011"], .refuse, .purposeAncestry),
        Case("DUO:0000042", with: ["{ code: DUO:0000044 }"], ["DUO:0000042"], .refuse, .factMissing),
        Case("DUO:0000042", with: ["{ code: DUO:0000044 }"], ["DUO:0000042"], .permit, .purposeCovered) {
            $0.ancestry = false
        },
        Case("DUO:0000042", with: ["{ code: DUO:0000044 }"], ["DUO:0000006"], .permit, .purposeCovered),
        Case(
            "DUO:0000042", with: ["{ code: DUO:0000012, types: [cohort-study] }"], ["DUO:0000042"], .permit,
            .purposeCovered),
        Case(
            "DUO:0000042", with: ["{ code: DUO:0000012, types: [cohort-study] }"], ["DUO:0000042"], .refuse,
            .purposeResearchType
        ) { $0.researchTypes = ["cohort-study", "trial"] },
        Case(
            "DUO:0000042", with: ["{ code: DUO:0000012, types: [cohort-study] }"], ["DUO:0000042"], .refuse,
            .factMissing
        ) {
            $0.researchTypes = []
        },
        // Ancestry is no part of health research, whichever way it comes in.
        Case("DUO:0000006", ["DUO:0000011"], .refuse, .purposeAncestry),
        Case("DUO:0000006", ["DUO:0000006", "DUO:0000011"], .refuse, .purposeAncestry),
        Case("DUO:0000006", ["DUO:0000006"], .refuse, .purposeAncestry) { $0.ancestry = true },
        Case(diseaseOnly, ["DUO:0000011"], .refuse, .purposeAncestry),
        Case(diseaseOnly, ["DUO:0000007"], diseases: [diabetes], .refuse, .purposeAncestry) { $0.ancestry = true },
        Case("DUO:0000011", ["DUO:0000006"], .refuse, .purposeNotCovered),
        Case("DUO:0000011", ["DUO:0000007"], diseases: [diabetes], .refuse, .purposeNotCovered),
        Case("DUO:0000011", ["DUO:0000011"], .permit, .purposeCovered),
        Case("DUO:0000011", ["DUO:0000011"], .refuse, .factInvalid) { $0.ancestry = false },
        // What is permitted.
        Case("DUO:0000004", ["DUO:0000042"], .permit, .purposeCovered),
        Case("DUO:0000004", ["DUO:0000043"], .permit, .purposeCovered),
        Case("DUO:0000042", ["DUO:0000011"], .permit, .purposeCovered),
        Case("DUO:0000042", ["DUO:0000007"], diseases: [asthma], .permit, .purposeCovered),
        Case("DUO:0000006", ["DUO:0000006"], .permit, .purposeCovered),
        Case("DUO:0000006", ["DUO:0000007"], diseases: [asthma], .permit, .purposeCovered),
        Case(diseaseOnly, ["DUO:0000007"], diseases: [diabetes], .permit, .purposeCovered),
        Case(diseaseOnly, ["DUO:0000007"], diseases: [typeTwo], .permit, .purposeCovered),
        // Care is not research.
        Case("DUO:0000042", ["DUO:0000043"], .refuse, .purposeClinical),
        Case("DUO:0000042", with: ["{ code: DUO:0000043 }"], ["DUO:0000043"], .permit, .purposeCovered),
        // What is not known is refused.
        Case("DUO:0000004", [], .refuse, .purposeMissing),
        Case("DUO:0000004", ["DUO:9999999"], .refuse, .purposeUnknown),
        Case("DUO:0000004", ["DUO:0000004"], .refuse, .purposeUnknown),
        Case("DUO:0000004", ["DUO:0000015"], .refuse, .purposeUnknown),
        Case("DUO:0000004", ["DUO:0000042 "], .refuse, .purposeUnknown),
        Case("DUO:0000004", ["ＤＵＯ:0000042"], .refuse, .purposeUnknown),
        Case("DUO:0000006", ["DUO:0000007"], diseases: ["OMIM:100100"], .refuse, .purposeDisease),
    ]

    @Test("a purpose is allowed only where the permission and every modifier cover it", arguments: cases)
    func purpose(_ test: Case) throws {
        let set = try PolicyFixture.set(
            PolicyFixture.text(permission: test.permission, modifiers: test.modifiers), diseases: Self.tree)
        let decision = set.decide(PolicyFixture.access(test.purpose))
        #expect(decision.verdict == test.verdict, "\(decision.reasons)")
        #expect(decision.reasons.map(\.code).contains(test.reason), "\(decision.reasons)")
    }

    @Test("permission, disease and purpose agree with plain set inclusion on every combination")
    func setInclusion() throws {
        // An independent reading of DUO: a purpose is a set of studies, a permission the set it allows.
        let all: Set = ["type-two", "diabetes", "asthma", "other-health", "ancestry", "other"]
        let health: Set = ["type-two", "diabetes", "asthma", "other-health"]
        let permissions: [(String, Set<String>)] = [
            ("DUO:0000004", all), ("DUO:0000042", all), ("DUO:0000006", health), ("DUO:0000011", ["ancestry"]),
            ("DUO:0000007\ndiseases: [\(Self.diabetes)]", ["type-two", "diabetes"]),
            ("DUO:0000007\ndiseases: [\(Self.typeTwo)]", ["type-two"]),
            ("DUO:0000007\ndiseases: [\(Self.typeTwo), \(Self.asthma)]", ["type-two", "asthma"]),
        ]
        let kinds: [(code: String, disease: String?, studies: Set<String>)] = [
            ("DUO:0000042", nil, all), ("DUO:0000006", nil, health), ("DUO:0000011", nil, ["ancestry"]),
            ("DUO:0000007", Self.diabetes, ["type-two", "diabetes"]), ("DUO:0000007", Self.typeTwo, ["type-two"]),
            ("DUO:0000007", Self.asthma, ["asthma"]),
        ]
        for (permission, allowed) in permissions {
            let set = try PolicyFixture.set(PolicyFixture.text(permission: permission), diseases: Self.tree)
            for chosen in 1..<(1 << kinds.count) {
                let picked = kinds.indices.filter { chosen & (1 << $0) != 0 }.map { kinds[$0] }
                let asked = picked.reduce(into: Set<String>()) { $0.formUnion($1.studies) }
                let codes = Array(Set(picked.map(\.code))).sorted()
                let purpose = PolicyFixture.purpose(codes, diseases: picked.compactMap(\.disease))
                let verdict = set.decide(PolicyFixture.access(purpose)).verdict
                #expect(
                    (verdict == .permit) == asked.isSubset(of: allowed), "\(permission) asked for \(picked)")
            }
        }
    }

    @Test(
        "the table of terms is DUO's own, with its Japanese labels",
        .enabled(if: SharedData.isPresent))
    func terms() throws {
        let english = try rows("conformance/duo/duo.csv")
        for term in DUO.allCases {
            let row = try #require(english.first { $0.hasPrefix(term.rawValue + ",") })
            #expect(row.hasPrefix("\(term.rawValue),\(term.shorthand),"), "\(row)")
            #expect(row.contains(term.label), "\(row)")
        }
        let usable = english.filter { $0.hasPrefix("DUO:") }.count
        #expect(usable == DUO.allCases.count + 2, "the two abstract classes are the only terms left out")
        for row in try rows("conformance/duo/duo-ja.csv") where row.hasPrefix("DUO:") {
            let cells = row.split(separator: ",", omittingEmptySubsequences: false)
            if let term = DUO(rawValue: String(cells[0])) { #expect(term.labelJapanese == String(cells[1])) }
        }
    }

    private func rows(_ path: String) throws -> [String] {
        try String(contentsOf: SharedData.url(path), encoding: .utf8).split(whereSeparator: \.isNewline).map(
            String.init)
    }
}
