import Foundation
import Gateway
import Vocabulary

/// A gateway with many data sets and requests: how long a page of each list takes.
struct Scale {
    let folder: URL
    let datasets: Int
    let requests: Int
    /// Each request is filed, waits, is reviewed by so many, decided and granted: 20 events with 16.
    private static let reviewers = 16

    func run() async throws -> [String: JSON] {
        let gateway = try await makeGateway()
        let people = try await addPeople(gateway)
        try await activate(gateway)
        let filled = try await fill(gateway, people.reviewers, people.researcher)
        var results: [String: JSON] = [
            "events": .integer(Int64(filled.events)), "fill_milliseconds": .integer(Int64(filled.milliseconds)),
        ]
        Self.report(filled.filings, as: "file", into: &results)
        Self.report(filled.decisions, as: "decide", into: &results)
        let auditor = people.auditor
        let (researcher, reviewer) = (people.researcher, people.reviewers[0])
        let lists: [(String, (PageRequest) async throws -> (Int, Cursor?))] = [
            (
                "requests",
                {
                    let page = try await gateway.requests($0, by: auditor); return (page.items.count, page.next)
                }
            ),
            (
                "reviews",
                {
                    let page = try await gateway.reviews($0, mine: false, by: auditor);
                    return (page.items.count, page.next)
                }
            ),
            (
                "own_requests",
                {
                    let page = try await gateway.requests($0, by: researcher); return (page.items.count, page.next)
                }
            ),
            (
                "notices",
                {
                    let page = try await gateway.notices($0, by: reviewer); return (page.items.count, page.next)
                }
            ),
            (
                "grants",
                {
                    let page = try await gateway.grants($0, by: auditor); return (page.items.count, page.next)
                }
            ),
            (
                "people",
                {
                    let page = try await gateway.people($0, by: people.operatorPerson);
                    return (page.items.count, page.next)
                }
            ),
            (
                "policies",
                {
                    let page = try await gateway.policyHistory($0, by: auditor); return (page.items.count, page.next)
                }
            ),
        ]
        for (name, list) in lists {
            var (items, pages) = (0, 0)
            var times: [Double] = []
            var after: Cursor?
            repeat {
                let start = Date()
                let (count, next) = try await list(PageRequest(order: .newest, after: after, limit: 50))
                times.append(-start.timeIntervalSinceNow * 1e6)
                (items, pages, after) = (items + count, pages + 1, next)
            } while after != nil
            results["\(name)_items"] = .integer(Int64(items))
            results["\(name)_pages"] = .integer(Int64(pages))
            Self.report(times, as: name, into: &results)
        }
        let start = Date()
        let compared = try await gateway.comparePolicies(.active, .active, by: auditor)
        results["history_milliseconds"] = .integer(Int64(-start.timeIntervalSinceNow * 1000))
        results["history_decisions"] = compared.json["compared"]
        results["history_differences"] = .integer(Int64(compared.json["differences"]?.arrayValue?.count ?? -1))
        await gateway.close()
        return results
    }

    /// Microseconds: the median, the 99th of a hundred, the slowest.
    private static func report(_ microseconds: [Double], as name: String, into results: inout [String: JSON]) {
        let sorted = microseconds.sorted()
        guard let slowest = sorted.last else { return }
        results["\(name)_p50_microseconds"] = .integer(Int64(sorted[sorted.count / 2]))
        results["\(name)_p99_microseconds"] = .integer(Int64(sorted[sorted.count * 99 / 100]))
        results["\(name)_slowest_microseconds"] = .integer(Int64(slowest))
    }

    private func makeGateway() async throws -> Gateway {
        let home = folder.appendingPathComponent("home")
        let key = folder.appendingPathComponent("home.key")
        try Data((0..<32).map { _ in UInt8.random(in: 0...255) }).write(to: key)
        for name in ["auditor.key", "recovery.key"] {
            _ = try AuditorKeyFile.generate(at: folder.appendingPathComponent(name))
        }
        _ = try await Gateway.initialise(
            home: home, key: .keyFile(key), origin: "sekisho.bench/trail", anchor: nil,
            auditors: [folder.appendingPathComponent("auditor.key.pub")],
            recovery: folder.appendingPathComponent("recovery.key.pub"))
        return try await Gateway(home: home, key: .keyFile(key))
    }

    private struct People {
        let operatorPerson: PersonID
        let researcher: PersonID
        let auditor: PersonID
        let reviewers: [PersonID]
    }

    private func addPeople(_ gateway: Gateway) async throws -> People {
        let olga = try PersonID("olga")
        try await gateway.addPerson(olga, roles: [.operatorRole], by: nil)
        let others: [(String, Role)] = [
            ("rin", .researcher), ("pia", .policyAdministrator), ("mika", .dataCustodian), ("aoi", .complianceOfficer),
        ]
        for (name, role) in others { try await gateway.addPerson(PersonID(name), roles: [role], by: olga) }
        let reviewers = try (0..<Self.reviewers).map { try PersonID("dac-\($0)") }
        for person in reviewers { try await gateway.addPerson(person, roles: [.dac], by: olga) }
        return People(
            operatorPerson: olga, researcher: try PersonID("rin"), auditor: try PersonID("aoi"), reviewers: reviewers)
    }

    private func activate(_ gateway: Gateway) async throws {
        let files = try PolicyFolder(
            (0..<datasets).map { number in
                (
                    "set-\(number).yaml",
                    """
                    version: 1
                    dataset: bench:set-\(number)
                    level: standard
                    permission: DUO:0000042
                    access:
                      approvals: { required: \(Self.reviewers), roles: [dac] }
                    training:
                      device: { pools: [campus], evidence: software, hours_max: 72 }
                    release: { cohort_min: 10, checks: [artefact, shape, cohort], reviewers: 2 }

                    """
                )
            })
        let proposal = try await gateway.proposePolicies(files, by: PersonID("pia"))
        for name in ["pia", "mika"] {
            let person = try PersonID(name)
            let key = folder.appendingPathComponent("policy-\(name).key")
            try await gateway.setPolicyKey(PolicyKeyFile.generate(at: key), by: person)
            _ = try await gateway.signPolicies(
                proposal.number, signature: PolicyKeyFile.sign(proposal.statement, of: files, with: key), by: person)
        }
        _ = try await gateway.activatePolicies(proposal.number, by: PersonID("pia"))
    }

    private struct Filled {
        var events = 0
        var milliseconds = 0.0
        /// Microseconds of each, of the last tenth: with nearly as many there as there will be.
        var filings: [Double] = []
        var decisions: [Double] = []
    }

    private func fill(_ gateway: Gateway, _ reviewers: [PersonID], _ researcher: PersonID) async throws -> Filled {
        let start = Date()
        var filled = Filled()
        for number in 0..<requests {
            let form = """
                {"dataset":"bench:set-\(number % datasets)","purpose":{"codes":["DUO:0000042"]},"termMonths":6}
                """
            let isMeasured = number >= requests - max(requests / 10, 1)
            let filing = Date()
            let request = try await gateway.fileRequest(form, by: researcher)
            if isMeasured { filled.filings.append(-filing.timeIntervalSinceNow * 1e6) }
            _ = try await gateway.advance(request)
            for reviewer in reviewers { try await gateway.review(request, .approve, comment: "", by: reviewer) }
            let deciding = Date()
            _ = try await gateway.advance(request)
            if isMeasured { filled.decisions.append(-deciding.timeIntervalSinceNow * 1e6) }
        }
        filled.events = requests * (Self.reviewers + 4)
        filled.milliseconds = -start.timeIntervalSinceNow * 1000
        return filled
    }
}
