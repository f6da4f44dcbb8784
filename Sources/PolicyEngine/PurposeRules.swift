import StrictYAML
import Vocabulary

/// What research is for, against what the data may be used for: DUO's permissions, and the modifiers that speak of the
/// purpose itself. Access and run decisions share it, so that a run under an old grant meets today's policy.
///
/// The reference matcher lets general research use data for one disease, and does not look at a data set's modifiers.
/// Here what a request asks for must lie within what is permitted, and a fact that a modifier needs must be known.
struct PurposeRules {
    let permission: Clause<DUO>
    let allowed: Clause<[Disease]>
    let modifiers: [Clause<Modifier>]
    let tree: DiseaseTree

    init(_ policy: Policy, _ tree: DiseaseTree) {
        permission = policy.permission
        allowed = policy.diseases
        modifiers = policy.modifiers
        self.tree = tree
    }

    init(permission: DUO, modifiers: [Modifier], _ tree: DiseaseTree) {
        self.permission = Clause(value: permission, path: "permission", line: 0)
        allowed = Clause(value: [], path: "diseases", line: 0)
        self.modifiers = modifiers.map { Clause(value: $0, path: "modifiers", line: 0) }
        self.tree = tree
    }

    func judge(_ purpose: Purpose, _ ruling: inout Ruling) {
        guard !purpose.codes.isEmpty else {
            ruling.refuse(.purposeMissing, permission, "the request does not say what the data are for")
            return
        }
        for code in purpose.codes {
            switch DUO(rawValue: code) {
            case .general: general(&ruling)
            case .health: health(&ruling)
            case .disease: disease(purpose.diseases, &ruling)
            case .ancestry: ancestry(&ruling)
            case .clinicalCare: clinicalCare(&ruling)
            default:
                ruling.refuse(.purposeUnknown, permission, "'\(shown(code))' is not a DUO code for a purpose")
            }
        }
        let studiesAncestry = Self.studiesAncestry(purpose)
        if purpose.codes.contains(DUO.ancestry.rawValue), purpose.ancestry == false {
            ruling.refuse(.factInvalid, permission, "the request names ancestry research and denies it")
        }
        if studiesAncestry == true, permission.value == .health || permission.value == .disease,
            !purpose.codes.contains(DUO.ancestry.rawValue)
        {
            ancestry(&ruling)
        }
        for modifier in modifiers { judge(modifier, purpose, studiesAncestry, &ruling) }
        ruling.permit(
            .purposeCovered, permission,
            "the purpose lies within \(permission.value.rawValue) (\(permission.value.label))")
    }

    /// General research may or may not touch ancestry, so it must say; health research does not unless it says so.
    private static func studiesAncestry(_ purpose: Purpose) -> Bool? {
        if purpose.codes.contains(DUO.ancestry.rawValue) { return true }
        return purpose.ancestry ?? (purpose.codes.contains(DUO.general.rawValue) ? nil : false)
    }

    // MARK: - One function for each kind of purpose

    private func general(_ ruling: inout Ruling) {
        switch permission.value {
        case .noRestriction, .general: break
        default:
            ruling.refuse(
                .purposeTooWide, permission,
                "general research is wider than \(permission.value.label)")
        }
    }

    private func health(_ ruling: inout Ruling) {
        switch permission.value {
        case .noRestriction, .general, .health: break
        case .disease:
            ruling.refuse(
                .purposeTooWide, permission, "the data serve named diseases only, not health research at large")
        default:
            ruling.refuse(.purposeNotCovered, permission, "the data serve the study of ancestry only")
        }
    }

    private func disease(_ named: [String], _ ruling: inout Ruling) {
        guard !named.isEmpty else {
            ruling.refuse(.purposeDisease, permission, "research on a disease must name the disease")
            return
        }
        for code in named {
            guard let disease = Disease(code) else {
                ruling.refuse(.purposeDisease, permission, "'\(shown(code))' is not a MONDO code")
                continue
            }
            switch permission.value {
            case .noRestriction, .general, .health: break
            case .disease:
                if !allowed.value.contains(where: { tree.isKind(disease, of: $0) }) {
                    ruling.refuse(
                        .purposeDisease, allowed, "\(disease.code) is none of the diseases the data may serve")
                }
            default:
                ruling.refuse(.purposeNotCovered, permission, "the data serve the study of ancestry only")
            }
        }
    }

    private func ancestry(_ ruling: inout Ruling) {
        switch permission.value {
        case .noRestriction, .general, .ancestry: break
        default:
            ruling.refuse(
                .purposeAncestry, permission,
                "\(permission.value.label) does not include the study of population origins or ancestry")
        }
    }

    private func clinicalCare(_ ruling: inout Ruling) {
        guard permission.value != .noRestriction,
            !modifiers.contains(where: { $0.value == .clinicalCare })
        else { return }
        ruling.refuse(
            .purposeClinical, permission, "clinical care is not research; it needs the modifier DUO:0000043")
    }

    // MARK: - Modifiers of the purpose

    private func judge(
        _ modifier: Clause<Modifier>, _ purpose: Purpose, _ studiesAncestry: Bool?, _ ruling: inout Ruling
    ) {
        switch modifier.value {
        case .researchTypes(let allowed):
            if purpose.researchTypes.isEmpty {
                ruling.lacks("researchTypes", modifier)
            } else if !purpose.researchTypes.allSatisfy(allowed.contains) {
                ruling.refuse(.purposeResearchType, modifier, "the data serve other types of research only")
            }
        case .noMethods:
            ruling.demand(
                purpose.methods, false, named: "methods", else: .purposeMethods, modifier,
                "the development of methods, software or algorithms is not allowed")
        case .geneticOnly:
            ruling.demand(
                purpose.genetic, true, named: "genetic", else: .purposeNotGenetic, modifier,
                "only genetic studies are allowed")
        case .notForProfitNonCommercial:
            ruling.demand(
                purpose.notForProfit, true, named: "notForProfit", else: .purposeOrganisation, modifier,
                "only organisations that are not for profit may use the data")
            ruling.demand(
                purpose.commercial, false, named: "commercial", else: .purposeCommercial, modifier,
                "commercial use is not allowed")
        case .notForProfit:
            ruling.demand(
                purpose.notForProfit, true, named: "notForProfit", else: .purposeOrganisation, modifier,
                "only organisations that are not for profit may use the data")
        case .nonCommercial:
            ruling.demand(
                purpose.commercial, false, named: "commercial", else: .purposeCommercial, modifier,
                "commercial use is not allowed")
        case .noAncestry:
            ruling.demand(
                studiesAncestry, false, named: "ancestry", else: .purposeAncestry, modifier,
                "the study of population origins or ancestry is prohibited")
        case .publication, .collaboration, .ethicsApproval, .regions, .moratorium, .timeLimit, .users, .projects,
            .institutions, .returnResults, .clinicalCare:
            break
        }
    }
}
