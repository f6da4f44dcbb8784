/// The terms of the Data Use Ontology (release 2021-02-23) that a policy or a request may name.
///
/// Text: DUO, CC BY 4.0, https://github.com/EBISPOT/DUO. Japanese labels: NBDC's translation where there is one, else ours.
package enum DUO: String, CaseIterable, Sendable {
    case noRestriction = "DUO:0000004"
    case health = "DUO:0000006"
    case disease = "DUO:0000007"
    case ancestry = "DUO:0000011"
    case general = "DUO:0000042"

    case researchType = "DUO:0000012"
    case noMethods = "DUO:0000015"
    case geneticOnly = "DUO:0000016"
    case notForProfitNonCommercial = "DUO:0000018"
    case publication = "DUO:0000019"
    case collaboration = "DUO:0000020"
    case ethicsApproval = "DUO:0000021"
    case region = "DUO:0000022"
    case moratorium = "DUO:0000024"
    case timeLimit = "DUO:0000025"
    case users = "DUO:0000026"
    case projects = "DUO:0000027"
    case institutions = "DUO:0000028"
    case returnResults = "DUO:0000029"
    case clinicalCare = "DUO:0000043"
    case noAncestry = "DUO:0000044"
    case notForProfit = "DUO:0000045"
    case nonCommercial = "DUO:0000046"

    /// A data set has exactly one permission; every other term is a modifier of it.
    package var isPermission: Bool {
        switch self {
        case .noRestriction, .health, .disease, .ancestry, .general: true
        default: false
        }
    }

    package var shorthand: String { entry.shorthand }
    package var label: String { entry.label }
    /// NBDC's translation, and ours of the terms that it has none for.
    package var labelJapanese: String { entry.japanese }

    /// Terms that exist but cannot be used: the two abstract classes, and terms that DUO has withdrawn.
    static func unusable(_ code: String) -> String? {
        switch code {
        case "DUO:0000001", "DUO:0000017": "an abstract class of DUO, not a term to use"
        case "DUO:0000005": "withdrawn by DUO; write DUO:0000042 with the modifier DUO:0000043"
        case "DUO:0000014": "withdrawn by DUO; leave out the modifier DUO:0000043 instead"
        default: nil
        }
    }

    private var entry: (shorthand: String, label: String, japanese: String) {
        switch self {
        case .noRestriction: ("NRES", "no restriction", "制限なし")
        case .health: ("HMB", "health or medical or biomedical research", "健康/医療/生物医学研究")
        case .disease: ("DS", "disease specific research", "疾患特異的研究")
        case .ancestry: ("POA", "population origins or ancestry research only", "集団の起源や祖先研究")
        case .general: ("GRU", "general research use", "一般研究利用")
        case .researchType: ("RS", "research specific restrictions", "特定の研究に限定")
        case .noMethods: ("NMDS", "no general methods research", "手法開発研究の禁止")
        case .geneticOnly: ("GSO", "genetic studies only", "遺伝学研究限定")
        case .notForProfitNonCommercial: ("NPUNCU", "not for profit, non commercial use only", "営利目的利用禁止")
        case .publication: ("PUB", "publication required", "公開必須")
        case .collaboration: ("COL", "collaboration required", "共同研究必須")
        case .ethicsApproval: ("IRB", "ethics approval required", "倫理審査承認必須")
        case .region: ("GS", "geographical restriction", "地域の限定")
        case .moratorium: ("MOR", "publication moratorium", "出版猶予")
        case .timeLimit: ("TS", "time limit on use", "利用期間の限定")
        case .users: ("US", "user specific restriction", "ユーザの限定")
        case .projects: ("PS", "project specific restriction", "プロジェクトの限定")
        case .institutions: ("IS", "institution specific restriction", "機関の限定")
        case .returnResults: ("RTN", "return to database or resource", "DB/リソースへの還元")
        case .clinicalCare: ("CC", "clinical care use", "診療での利用可")
        case .noAncestry: ("NPOA", "population origins or ancestry research prohibited", "集団の起源や祖先研究の禁止")
        case .notForProfit: ("NPU", "not for profit organisation use only", "非営利団体の利用に限定")
        case .nonCommercial: ("NCU", "non-commercial use only", "商用利用禁止")
        }
    }
}

/// A disease of the Mondo ontology, `MONDO:` and seven digits.
package struct Disease: Hashable, Sendable, Comparable {
    package let code: String

    package init?(_ code: String) {
        let digits = code.utf8.dropFirst(6)
        guard code.utf8.starts(with: "MONDO:".utf8), digits.count == 7,
            digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
        else { return nil }
        self.code = code
    }

    package static func < (left: Self, right: Self) -> Bool { left.code < right.code }
}

/// A disease that is among its own ancestors.
struct DiseaseCircle: Error { let disease: Disease }

/// Which disease is a kind of which, as far as the policy files say (`diseases.yaml`). Without it only equal ids match.
package struct DiseaseTree: Sendable {
    private let parents: [Disease: [Disease]]

    static let none = DiseaseTree()

    private init() { parents = [:] }

    init(parents: [Disease: [Disease]]) throws(DiseaseCircle) {
        // Kahn's topological sort: take away diseases that no other one left is a kind of, until none is left.
        var children: [Disease: Int] = [:]
        for parent in parents.values.joined() { children[parent, default: 0] += 1 }
        var leaves = parents.keys.filter { children[$0] == nil }
        var left = Set(parents.keys)
        while let leaf = leaves.popLast() {
            left.remove(leaf)
            for parent in parents[leaf] ?? [] {
                children[parent]! -= 1
                if children[parent] == 0, parents[parent] != nil { leaves.append(parent) }
            }
        }
        self.parents = parents
        // What is left is in a circle or above one.
        if let first = left.sorted().first(where: { isOwnAncestor($0) }) { throw DiseaseCircle(disease: first) }
    }

    private func isOwnAncestor(_ disease: Disease) -> Bool {
        (parents[disease] ?? []).contains { isKind($0, of: disease) }
    }

    /// Does every kind of a disease here count as one in `other`, too?
    func isWithin(_ other: DiseaseTree) -> Bool {
        parents.allSatisfy { child, above in above.allSatisfy { other.isKind(child, of: $0) } }
    }

    /// Is `disease` the same as `general` or a kind of it? The other way round does not count: data for type 2
    /// diabetes must not serve research on diabetes at large.
    func isKind(_ disease: Disease, of general: Disease) -> Bool {
        var left = [disease]
        var seen: Set<Disease> = [disease]
        while let next = left.popLast() {
            if next == general { return true }
            for parent in parents[next] ?? [] where seen.insert(parent).inserted { left.append(parent) }
        }
        return false
    }

    /// The given diseases and every kind of them that the files know.
    func kinds(of general: [Disease]) -> Set<Disease> {
        Set(general).union(parents.keys.filter { disease in general.contains { isKind(disease, of: $0) } })
    }
}
