import Foundation
import Gateway
import Testing
import TestSupport
import Vocabulary
import WebAPI

@Suite("pages")
struct PageTests {
    private static func withPages(_ body: (OpenDoor) async throws -> Void) async throws {
        let site = Site()
        try await withOpenDoor(pages: site, register: site.register, body)
    }

    /// The first value of a hidden field in a page.
    private static func hidden(_ name: String, in page: OpenDoor.Answer) throws -> String {
        let text = try #require(page.text.split(separator: "name=\"\(name)\" value=\"").dropFirst().first)
        return String(text.prefix { $0 != "\"" })
    }

    @Test("every list answers every role in both languages, or says that the role does not allow it")
    func everyRole() async throws {
        try await Self.withPages { door in
            let routes: [Route] = [.requestsPage, .requestNewPage, .reviewsPage, .runsPage, .runNewPage, .auditPage]
            for role in Role.allCases {
                let cookie = try await door.signIn(role)
                for route in routes {
                    for language in Language.allCases {
                        let page = try await door.ask(
                            "GET", route.path, cookie: cookie, headers: [("Accept-Language", language.rawValue)])
                        #expect(page.status == (route.rule.roles.contains(role) ? 200 : 403), "\(route) \(role)")
                        #expect(page.text.contains("<html lang=\"\(language.rawValue)\">"), "\(route) \(role)")
                        #expect(page.text.contains("<h1 id=\"heading\""), "\(route) \(role)")
                    }
                }
            }
        }
    }

    @Test("a form that is sent many times at once is done once, and every sender gets the same answer")
    func sentAtOnce() async throws {
        try await Self.withPages { door in
            let cookie = try await door.signIn(.complianceOfficer)
            let page = try await door.ask("GET", Route.auditExportPage.path, cookie: cookie)
            let fields = [
                (name: "csrf", value: try Self.hidden("csrf", in: page)),
                (name: "form", value: try Self.hidden("form", in: page)), (name: "range", value: "all"),
            ]
            let links = try await withThrowingTaskGroup(of: String?.self) { group in
                for _ in 0..<8 {
                    group.addTask {
                        let answer = try await door.post(Route.auditExport.path, cookie: cookie, fields)
                        return answer.text.firstMatch(of: /href="(\/audit\/export\/[0-9a-f]+)"/).map {
                            String($0.output.1)
                        }
                    }
                }
                return try await group.reduce(into: Set<String?>()) { $0.insert($1) }
            }
            #expect(links.count == 1)
            let link = try #require(links.first ?? nil)
            let other = try await door.signIn(.researcher)
            #expect(try await door.ask("GET", link, cookie: other).status == 403)
            let archive = try await door.ask("GET", link, cookie: cookie)
            #expect(archive.status == 200 && archive.body.count > 1024)
            #expect(try await door.ask("GET", link, cookie: cookie).status == 404, "an export is handed over once")
        }
    }

    @Test("no form, however it is made, makes the service fail", arguments: [UInt64(20_261_121)])
    func nonsense(seed: UInt64) async throws {
        var random = SeededRandom(seed: seed)
        try await Self.withPages { door in
            let cookie = try await door.signIn(.researcher)
            let page = try await door.ask("GET", Route.requestNewPage.path, cookie: cookie)
            let csrf = try Self.hidden("csrf", in: page)
            let names = [
                "dataset", "purpose", "diseases", "ancestry", "termMonths", "country", "institution", "project",
                "agreements", "ethicsDigest", "ethicsExpires", "form", "grant", "specification", "id", "memory",
            ]
            let values = [
                "", " ", "\u{3000}", "DUO:0000011", "DUO:0000007", "demo:hpo", "yes", "no", "6", "-1", "1e9",
                "99999999999999999999", "日本", "🧬", "\u{202E}abc", "<b>", "{{t}}", "MONDO:0005148", "2027-02-30",
                "0000-00-00", String(repeating: "a", count: 64), String(repeating: "長", count: 4000), "model: gcn\r\n",
            ]
            for _ in 0..<200 {
                var fields = [(name: "csrf", value: csrf)]
                for _ in 0..<Int.random(in: 0...20, using: &random) {
                    fields.append(
                        (name: names.randomElement(using: &random)!, value: values.randomElement(using: &random)!))
                }
                let path = (Bool.random(using: &random) ? Route.requestFile : .runStart).path
                let answer = try await door.post(path, cookie: cookie, fields)
                #expect([303, 400, 403, 413].contains(answer.status), "seed \(seed): \(answer.status)")
            }
        }
    }
}
