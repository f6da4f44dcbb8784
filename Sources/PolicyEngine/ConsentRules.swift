import Vocabulary

extension PolicySet {
    /// Does what one subject has consented to, as DUO codes, cover this purpose?
    ///
    /// For choosing a run's cohort; the data set's own policy has been asked before. Without codes the data set's hold.
    /// A code that says more than a code alone can (which disease, which country) covers nothing.
    package func consent(_ codes: [String], covers purpose: Purpose) -> Bool {
        guard !codes.isEmpty else { return true }
        var permission: DUO?
        var modifiers: [Modifier] = []
        for code in codes {
            switch DUO(rawValue: code) {
            case .noRestriction, .health, .ancestry, .general:
                // Two permissions leave open which of them was meant.
                guard permission == nil else { return false }
                permission = DUO(rawValue: code)
            case .noMethods: modifiers.append(.noMethods)
            case .geneticOnly: modifiers.append(.geneticOnly)
            case .notForProfitNonCommercial: modifiers.append(.notForProfitNonCommercial)
            case .notForProfit: modifiers.append(.notForProfit)
            case .nonCommercial: modifiers.append(.nonCommercial)
            case .noAncestry: modifiers.append(.noAncestry)
            case .clinicalCare: modifiers.append(.clinicalCare)
            default: return false
            }
        }
        guard let permission else { return false }
        let rules = PurposeRules(permission: permission, modifiers: modifiers, diseases)
        var ruling = Ruling(owner: "consent", file: "", permission: rules.permission)
        rules.judge(purpose, &ruling)
        return ruling.decision.verdict == .permit
    }
}
