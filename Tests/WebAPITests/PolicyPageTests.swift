import Foundation
import Gateway
import NIOHTTP1
import TestSupport
import Testing
import Vocabulary
import WebAPI

/// The pages of policies: the whole life of a bundle but its signing, which is done with keys that stay with people.
@Suite("policy pages")
struct PolicyPageTests {
    private static let tests = """
        version: 1
        defaults:
          progress: { run: run-1, viewer: rin, figure: loss, cohort: 100 }
        tests:
          - name: figures stay hidden
            ask: progress
            expect: refuse

        """

    private static func withPages(_ body: (OpenDoor) async throws -> Void) async throws {
        let site = Site()
        try await withOpenDoor(pages: site, register: site.register, body)
    }

    private static func hidden(_ name: String, in page: OpenDoor.Answer) throws -> String {
        let text = try #require(page.text.split(separator: "name=\"\(name)\" value=\"").dropFirst().first)
        return String(text.prefix { $0 != "\"" })
    }

    private static func signs(_ statement: JSON, _ text: String, _ role: Role, _ door: OpenDoor) async throws -> String
    {
        let key = door.folder.appendingPathComponent("policy-\(OpenDoor.person(role)).key")
        return try PolicyKeyFile.sign(statement, of: PolicyFolder([("clinic.yaml", text)]), with: key)
    }

    @Test(
        "files are checked, proposed, signed by two people and activated at the pages; a third way is refused with words"
    )
    func life() async throws {
        try await Self.withPages { door in
            let administrator = try await door.signIn(.policyAdministrator)
            let empty = try await door.ask("GET", "/policies", cookie: administrator)
            #expect(empty.status == 200 && empty.text.contains("nothing is allowed"))
            let form = try await door.ask("GET", "/policies/propose", cookie: administrator)
            let csrf = try Self.hidden("csrf", in: form)
            func send(_ step: String, _ text: String, number: String? = nil) async throws -> OpenDoor.Answer {
                try await door.post(
                    "/policies/propose", cookie: administrator,
                    [
                        ("csrf", csrf), ("form", number ?? Self.hidden("form", in: form)), ("base", "0"),
                        ("name", "clinic.yaml"), ("content", text.replacingOccurrences(of: "\n", with: "\r\n")),
                        ("step", step),
                    ].map { (name: $0.0, value: $0.1) })
            }
            // What is wrong is told at its line, and what was typed is still there.
            let wrong = try await send("propose", Clinic.policy.replacing("level: standard", with: "level: medium"))
            #expect(
                wrong.status == 400 && wrong.text.contains("clinic.yaml:3:8") && wrong.text.contains("level: medium"))
            #expect(wrong.text.contains("Unknown value"))
            let checked = try await send("check", Clinic.policy)
            #expect(checked.status == 200 && checked.text.contains("Valid: it can be proposed"))
            let isActive = await door.gateway.isAnyPolicyActive
            #expect(!isActive)

            let proposed = try await send("propose", Clinic.policy)
            #expect(proposed.status == 303)
            #expect(proposed.headers["Location"].first == "/policies/bundles/1?done=proposed")
            let again = try await send("propose", Clinic.policy)
            #expect(again.headers["Location"].first == "/policies/bundles/1?done=proposed", "sent twice, proposed once")
            let early = try await door.post("/policies/bundles/1/activate", cookie: administrator, [("csrf", csrf)])
            #expect(early.status == 409 && early.text.contains("signed by 0 of 2"))

            let statement = try await door.gateway.policyProposal(
                1, by: OpenDoor.person(.policyAdministrator)
            ).statement
            for role in [Role.dac, .dataCustodian] {
                let cookie = try await door.signIn(role)
                let own = try await door.ask("GET", "/policies", cookie: cookie)
                let token = try Self.hidden("csrf", in: own)
                let file = door.folder.appendingPathComponent("policy-\(OpenDoor.person(role)).key")
                _ = try PolicyKeyFile.generate(at: file)
                let publicKey = try String(
                    contentsOf: file.appendingPathExtension("pub"), encoding: .utf8)
                let bad = try await door.post("/policies/key", cookie: cookie, [("csrf", token), ("key", "abc")])
                #expect(bad.status == 400 && bad.text.contains("64 hexadecimal digits"))
                let told = try await door.post("/policies/key", cookie: cookie, [("csrf", token), ("key", publicKey)])
                #expect(told.status == 303)
                let bundle = try await door.ask("GET", "/policies/bundles/1", cookie: cookie)
                #expect(bundle.text.contains("sekisho policy sign 1 --key policy.key --statement"))
                let signature = try await Self.signs(statement, Clinic.policy, role, door)
                for (sent, status) in [("12", 400), (String(repeating: "0", count: 128), 409), (signature, 303)] {
                    let answer = try await door.post(
                        "/policies/bundles/1/signatures", cookie: cookie, [("csrf", token), ("signature", sent)])
                    #expect(answer.status == status, "\(role) \(sent.prefix(8))")
                    if status != 303 { #expect(answer.text.contains(sent), "what was typed is kept") }
                }
            }
            let activated = try await door.post("/policies/bundles/1/activate", cookie: administrator, [("csrf", csrf)])
            #expect(activated.status == 303)
            let active = try await door.gateway.activePolicies()
            #expect(active.number == 1 && active.datasets == [Clinic.dataset])
            let overview = try await door.ask("GET", "/policies", cookie: administrator)
            #expect(overview.text.contains(active.hash.hex) && overview.text.contains("p-dac"))

            // The next decision, asked at the page, is made by it, with rule and line and what nearly held.
            let asked = try await door.post(
                "/policies/decide", cookie: administrator,
                [
                    ("csrf", csrf), ("dataset", Clinic.dataset.text), ("purpose", "DUO:0000042"), ("termMonths", "6"),
                    ("votes", "dai:dac"), ("question", ""),
                ])
            #expect(asked.status == 200 && asked.text.contains("1 of 2 approvals"), "\(asked.text)")
            #expect(asked.text.contains("test:clinic/access.approvals") && asked.text.contains("clinic.yaml:6"))
            #expect(asked.text.contains("But for"))
        }
    }

    @Test("a file's page has every line, what its rules say in either language, the terms of DUO and what tests reach")
    func file() async throws {
        try await Self.withPages { door in
            let text = Clinic.policy.replacing("access:\n", with: "modifiers: [{ code: DUO:0000046 }]\naccess:\n")
            let person = OpenDoor.person(.policyAdministrator)
            let folder = try PolicyFolder([("clinic.yaml", text), ("clinic.test.yaml", Self.tests)])
            _ = try await door.gateway.proposePolicies(folder, by: person)
            let cookie = try await door.signIn(.complianceOfficer)
            for (language, sentence) in [("en", "Not for commerce."), ("ja", "商用には使えません。")] {
                let page = try await door.ask(
                    "GET", "/policies/bundles/1/files/clinic.yaml", cookie: cookie,
                    headers: [("Accept-Language", language)])
                #expect(page.status == 200)
                #expect(page.text.contains(sentence) && page.text.contains("non-commercial use only"))
                #expect(page.text.contains("商用利用禁止") && page.text.contains("id=\"L5\""))
                #expect(page.text.contains("figures stay hidden"))
                #expect(page.text.contains("<code>dataset: test:clinic</code>"))
                #expect(page.text.contains("test.uncovered"))
            }
            for path in ["bundles/1/files/other.yaml", "bundles/1/files/..%2F..%2Fhome.key", "bundles/2", "bundles/01"]
            {
                #expect(try await door.ask("GET", "/policies/\(path)", cookie: cookie).status == 404, "\(path)")
            }
            for path in ["matrix?bundle=1", "cedar?bundle=1", "decide", "bundles", "bundles/1", "bundles/1/replay"] {
                let page = try await door.ask("GET", "/policies/\(path)", cookie: cookie)
                #expect(page.status == 200, "\(path)")
            }
            let archive = try await door.ask("GET", "/policies/bundles/1/download", cookie: cookie)
            #expect(archive.status == 200 && archive.text.contains("sekisho policy statement v1"))
        }
    }

    @Test("no form of a policy page, however it is made, makes the service fail", arguments: [UInt64(20_261_122)])
    func nonsense(seed: UInt64) async throws {
        var random = SeededRandom(seed: seed)
        try await Self.withPages { door in
            let cookie = try await door.signIn(.policyAdministrator)
            let form = try await door.ask("GET", "/policies/propose", cookie: cookie)
            let csrf = try Self.hidden("csrf", in: form)
            let names = [
                "name", "content", "remove", "step", "base", "question", "dataset", "purpose", "votes", "agreed",
                "termMonths", "ethics", "signature", "key", "diseases", "methods",
            ]
            let values = [
                "", "clinic.yaml", "../x.yaml", "ｃ.yaml", "version: 1", Clinic.policy, "edit:clinic.yaml", "check",
                "propose", "0", "1", "-1", "99999999999999999999", "{}", "[1,2", #"{"ask":"access"}"#, "dai:dac",
                "a:b:c",
                "DUO:0000042", "\u{202E}x", "<b>", "{{t}}", String(repeating: "f", count: 128),
                String(repeating: "長", count: 3000), "yes", "&a [*a]",
            ]
            let paths = [
                "propose", "propose", "decide", "bundles/1/signatures", "bundles/1/activate", "bundles/1/return", "key",
                "key/revoke",
            ]
            for _ in 0..<200 {
                var fields = [(name: "csrf", value: csrf)]
                for _ in 0..<Int.random(in: 0...12, using: &random) {
                    fields.append(
                        (name: names.randomElement(using: &random)!, value: values.randomElement(using: &random)!))
                }
                let answer = try await door.post(
                    "/policies/\(paths.randomElement(using: &random)!)", cookie: cookie, fields)
                #expect([200, 303, 400, 403, 404, 409].contains(answer.status), "seed \(seed): \(answer.status)")
            }
        }
    }
}
