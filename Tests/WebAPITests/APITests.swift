import Foundation
import Gateway
import TestSupport
import NIOHTTP1
import Testing
import Vocabulary
import WebAPI
import Yams

/// The API as its callers meet it: over TLS, with tokens.
@Suite struct APITests {
    /// A door with the API behind it and policies in force.
    func withAPI(_ body: (OpenDoor) async throws -> Void) async throws {
        try await withOpenDoor(register: { APIRoutes.register($0) }) { door in
            try await bringIntoForce(
                PolicyFolder([("clinic.yaml", Clinic.policy)]), door.gateway,
                signedBy: [OpenDoor.person(.dac), OpenDoor.person(.dataCustodian), OpenDoor.person(.securityOfficer)],
                administrator: OpenDoor.person(.policyAdministrator), keys: door.folder)
            try await body(door)
        }
    }

    static let json = [("Content-Type", "application/json")]

    // MARK: - The description

    @Test("every route of the API is described, and everything described is a route")
    func description() async throws {
        let document = try #require(try Yams.load(yaml: API.description) as? [String: Any])
        let paths = try #require(document["paths"] as? [String: [String: Any]])
        var described: Set<String> = []
        var operations: Set<String> = []
        for (path, methods) in paths {
            for (method, operation) in methods {
                let name = "\(method.uppercased()) /api/v1" + path.replacing("{", with: ":").replacing("}", with: "")
                described.insert(name)
                let operation = try #require(operation as? [String: Any])
                #expect(operations.insert(try #require(operation["operationId"] as? String)).inserted)
                let answers = try #require(operation["responses"] as? [String: Any])
                #expect(answers["default"] == nil, "a default would describe any answer")
                let route = try #require(Route(rawValue: name), "\(name) is described and is no route")
                let takesBody = operation["requestBody"] != nil
                #expect(
                    takesBody == (route.rule.body != .none) || [.apiTokenRevoke, .apiDraftDiscard].contains(route),
                    "\(name)")
                #expect(
                    (operation["security"] as? [Any])?.isEmpty == (route.rule.who == .anyone ? true : nil), "\(name)")
            }
        }
        let routes = Set(Route.allCases.filter { $0.path.hasPrefix("/api/v1/") }.map(\.rawValue))
        #expect(described == routes)
    }

    @Test("the description is served, and a call without a token is told to sign in")
    func served() async throws {
        try await withAPI { door in
            let description = try await door.ask("GET", "/api/v1/openapi.yaml")
            #expect(description.status == 200 && description.text == API.description)
            let me = try await door.ask("GET", "/api/v1/me")
            #expect(me.status == 401 && me.code == "sign-in-needed")
            let known = try await door.ask("GET", "/api/v1/me", token: door.token(.researcher, scopes: [.read]))
            #expect(known.json?["roles"] == ["researcher"] && known.json?["scopes"] == ["read"])
        }
    }

    // MARK: - The journey, as far as it needs no device

    @Test("a request is filed, reviewed by two and granted, and each sees what is theirs")
    func request() async throws {
        try await withAPI { door in
            let researcher = try await door.token(.researcher)
            let filed = try await door.ask(
                "POST", "/api/v1/requests", token: researcher, headers: Self.json, body: Clinic.form)
            #expect(filed.status == 201 && filed.json?["state"] == "waiting")
            #expect(filed.headers["Location"] == ["/api/v1/requests/request-1"])
            #expect(filed.json?["missing"] == ["count": 2, "roles": ["dac", "data-custodian"]])
            for role in [Role.outputChecker, .operatorRole, .policyAdministrator] {
                let token = try await door.token(role)
                #expect(try await door.ask("GET", "/api/v1/requests", token: token).json?["items"] == [])
                let one = try await door.ask("GET", "/api/v1/requests/request-1", token: token)
                #expect(one.status == 404 && one.code == "not-found")
            }
            for role in [Role.dac, .dataCustodian] {
                let token = try await door.token(role)
                let waiting = try await door.ask("GET", "/api/v1/reviews", token: token).json?["items"]?.arrayValue
                #expect(waiting?.first?["request"] == "request-1" && waiting?.first?["may_review"] == true)
                let reviewed = try await door.ask(
                    "POST", "/api/v1/requests/request-1/reviews", token: token, headers: Self.json,
                    body: #"{"verdict":"approve","comment":"in scope"}"#)
                #expect(reviewed.status == 200)
                let mine = try await door.ask("GET", "/api/v1/reviews", token: token)
                #expect(mine.json?["items"] == [])
            }
            let granted = try await door.ask("GET", "/api/v1/requests/request-1", token: researcher)
            #expect(granted.json?["state"] == "granted" && granted.json?["grant"] == "grant-1")
            let grants = try await door.ask("GET", "/api/v1/grants", token: researcher)
            #expect(grants.json?["items"]?.arrayValue?.count == 1)
            let timeline = try await door.ask("GET", "/api/v1/requests/request-1/timeline", token: researcher)
            #expect(
                timeline.json?["items"]?.arrayValue?.compactMap { $0["core"]?["event"]?.stringValue } == [
                    "request.filed", "access.decided", "request.reviewed", "request.reviewed", "access.decided",
                    "grant.issued",
                ])
        }
    }

    @Test("pages of any size, in both orders, show each thing once, also when more come meanwhile")
    func pages() async throws {
        try await withAPI { door in
            let token = try await door.token(.researcher)
            for _ in 0..<5 {
                _ = try await door.ask("POST", "/api/v1/requests", token: token, headers: Self.json, body: Clinic.form)
            }
            for order in ["newest", "oldest"] {
                var seen: [String] = []
                var next: String? = ""
                while let after = next {
                    let cursor = after.isEmpty ? "" : "&after=\(after)"
                    let page = try await door.ask(
                        "GET", "/api/v1/requests?order=\(order)&limit=2\(cursor)", token: token)
                    seen += page.json?["items"]?.arrayValue?.compactMap { $0["request"]?.stringValue } ?? []
                    next = page.json?["next"]?.stringValue
                    if seen.count == 2, order == "newest" {
                        _ = try await door.ask(
                            "POST", "/api/v1/requests", token: token, headers: Self.json, body: Clinic.form)
                    }
                }
                let numbers = order == "newest" ? Array((1...5).reversed()) : Array(1...6)
                #expect(seen == numbers.map { "request-\($0)" })
            }
        }
    }

    @Test(
        "a query that is not one of a list is refused with the name that is to blame",
        arguments: [
            ("limit=0", "limit"), ("limit=201", "limit"), ("limit=+5", "limit"), ("limit=", "limit"),
            ("limit=2&limit=3", "limit"), ("order=up", "order"), ("after=x", "after"),
            ("after=runs~newest~1", "after"), ("after=requests~oldest~1", "after"), ("state=open", "state"),
            ("dataset=%F0%9F%98%80", "dataset"), ("other=1", "other"),
        ])
    func badQuery(query: String, name: String) async throws {
        try await withAPI { door in
            let answer = try await door.ask("GET", "/api/v1/requests?\(query)", token: door.token(.researcher))
            #expect(answer.status == 400 || answer.status == 422, "\(answer.status)")
            #expect(answer.text.contains(name) || answer.text.contains("cursor"), "\(answer.text)")
        }
    }

    // MARK: - Bodies

    @Test(
        "a body that is not what is described is refused, and nothing is recorded",
        arguments: [
            ("", 400), ("{", 400), ("[]", 400), ("{}", 400), (#"{"verdict":"maybe"}"#, 400), (#"{"verdict":1}"#, 400),
            (#"{"verdict":"approve","more":1}"#, 400), (#"{"verdict":"approve","verdict":"reject"}"#, 400),
            (#"{"verdict":"approve","comment":1.5}"#, 400),
            (#"{"verdict":"approve","comment":"\#(String(repeating: "あ", count: 1001))"}"#, 400),
            (String(repeating: "[", count: 40), 400), (String(repeating: " ", count: 70_000), 413),
        ])
    func badBody(body: String, status: Int) async throws {
        try await withAPI { door in
            let researcher = try await door.token(.researcher)
            _ = try await door.ask("POST", "/api/v1/requests", token: researcher, headers: Self.json, body: Clinic.form)
            let reviewer = try await door.token(.dac)
            let answer = try await door.ask(
                "POST", "/api/v1/requests/request-1/reviews", token: reviewer, headers: Self.json, body: body)
            #expect(answer.status == status, "\(answer.text)")
            let request = try await door.ask("GET", "/api/v1/requests/request-1", token: researcher)
            #expect(request.json?["votes"] == [])
        }
    }

    @Test("a body of another type is refused")
    func mediaType() async throws {
        try await withAPI { door in
            let answer = try await door.ask(
                "POST", "/api/v1/requests", token: door.token(.researcher),
                headers: [("Content-Type", "application/x-www-form-urlencoded")], body: "dataset=x")
            #expect(answer.status == 415 && answer.code == "media-type")
        }
    }

    @Test("no changed byte of a call makes the service fail")
    func mutations() async throws {
        let seed: UInt64 = 31
        var random = SeededRandom(seed: seed)
        try await withAPI { door in
            let researcher = try await door.token(.researcher)
            let administrator = try await door.token(.policyAdministrator)
            let policies = #"{"files":[{"name":"a.yaml","content":"version: 1\n"}]}"#
            for round in 0..<150 {
                let (path, token, valid) = [
                    ("/api/v1/requests", researcher, Clinic.form),
                    (
                        "/api/v1/runs", researcher,
                        #"{"specification":"model: gcn","grant":"grant-1","device_memory":4}"#
                    ),
                    ("/api/v1/policies/lint", administrator, policies),
                    ("/api/v1/tokens", researcher, #"{"scopes":["read"],"valid_seconds":60}"#),
                ][round % 4]
                var bytes = Array(valid.utf8)
                for _ in 0..<Int.random(in: 1...4, using: &random) {
                    let place = Int.random(in: 0..<bytes.count, using: &random)
                    switch Int.random(in: 0..<3, using: &random) {
                    case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
                    case 1: bytes.remove(at: place)
                    default: bytes.insert(bytes[Int.random(in: 0..<bytes.count, using: &random)], at: place)
                    }
                }
                guard let body = String(validating: bytes, as: UTF8.self) else { continue }
                let answer = try await door.ask("POST", path, token: token, headers: Self.json, body: body)
                #expect(answer.status < 500, "seed \(seed), round \(round): \(answer.status) \(answer.text)")
            }
        }
    }

    // MARK: - Sent again, sent late

    @Test("what is sent again under its key is done once, and the key is for that content only")
    func once() async throws {
        try await withAPI { door in
            let token = try await door.token(.researcher)
            let headers = Self.json + [("Idempotency-Key", "try-1")]
            let first = try await door.ask(
                "POST", "/api/v1/requests", token: token, headers: headers, body: Clinic.form)
            let again = try await door.ask(
                "POST", "/api/v1/requests", token: token, headers: headers, body: Clinic.form)
            #expect(first.status == 201 && again.status == 201 && again.json?["request"] == first.json?["request"])
            let other = Clinic.form.replacing("test-project", with: "other-project")
            let reused = try await door.ask("POST", "/api/v1/requests", token: token, headers: headers, body: other)
            #expect(reused.status == 422 && reused.code == "key-reused")
            let all = try await door.ask("GET", "/api/v1/requests", token: token)
            #expect(all.json?["items"]?.arrayValue?.count == 1)

            let reviewer = try await door.token(.dac)
            let path = "/api/v1/requests/request-1/reviews"
            let verdict = #"{"verdict":"approve"}"#
            let review = try await door.ask("POST", path, token: reviewer, headers: headers, body: verdict)
            let repeated = try await door.ask("POST", path, token: reviewer, headers: headers, body: verdict)
            #expect(review.status == 200 && repeated.status == 200 && repeated.body == review.body)
            let bare = try await door.ask("POST", path, token: reviewer, headers: Self.json, body: verdict)
            #expect(bare.status == 422)
            let reject = try await door.ask(
                "POST", path, token: reviewer, headers: headers, body: #"{"verdict":"reject"}"#)
            #expect(reject.status == 422 && reject.code == "key-reused")
        }
    }

    @Test("an answer that the caller has is not sent again; a decision on an older state is refused")
    func tags() async throws {
        try await withAPI { door in
            let researcher = try await door.token(.researcher)
            _ = try await door.ask("POST", "/api/v1/requests", token: researcher, headers: Self.json, body: Clinic.form)
            let path = "/api/v1/requests/request-1"
            let seen = try await door.ask("GET", path, token: researcher)
            let tag = try #require(seen.headers["ETag"].first)
            let same = try await door.ask("GET", path, token: researcher, headers: [("If-None-Match", "\"x\", \(tag)")])
            #expect(same.status == 304 && same.body.isEmpty)

            let dac = try await door.token(.dac)
            let custodian = try await door.token(.dataCustodian)
            let both = try await door.ask("GET", path, token: dac).headers["ETag"].first ?? ""
            let faster = try await door.ask(
                "POST", path + "/reviews", token: custodian, headers: Self.json + [("If-Match", both)],
                body: #"{"verdict":"reject"}"#)
            #expect(faster.status == 200 && faster.json?["state"] == "refused")
            let late = try await door.ask(
                "POST", path + "/reviews", token: dac, headers: Self.json + [("If-Match", both)],
                body: #"{"verdict":"approve"}"#)
            #expect(late.status == 412 && late.code == "changed")
            let now = try await door.ask("GET", path, token: researcher)
            #expect(now.json?["votes"]?.arrayValue?.count == 1 && now.headers["ETag"].first != tag)
        }
    }

    // MARK: - Data sets

    private static func archive(_ files: [(name: String, text: String)]) throws -> [UInt8] {
        var bytes: [UInt8] = []
        for (name, text) in files {
            bytes += try #require(Tar.header(name: name, byteCount: text.utf8.count))
            bytes += Array(text.utf8)
            bytes += Tar.padding(after: text.utf8.count)
        }
        return bytes + Tar.end
    }

    @Test("a version is sealed from an archive that is sent; what is wrong with one is told, and leaves nothing")
    func importing() async throws {
        try await withAPI { door in
            let custodian = try await door.token(.dataCustodian)
            let tar = [("Content-Type", Tar.mediaType)]
            let path = "/api/v1/datasets/test:sent/versions"
            let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }"
            let matrix = header + String(repeating: " ", count: 117 - header.utf8.count) + "\n"
            var features: [UInt8] = [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(matrix.utf8.count), 0]
            features += Array(matrix.utf8) + [UInt8](repeating: 0, count: 8)
            let nodes = "id\tcategory\tlabel\nG:1\tbiolink:Gene\t0\nG:2\tbiolink:Gene\t1\n"
            let edges = "subject\tpredicate\tobject\nG:1\tbiolink:x\tG:2\n"
            func sent(nodes: String, edges: String) throws -> [UInt8] {
                let texts = try Self.archive([("nodes.tsv", nodes), ("edges.tsv", edges)]).dropLast(Tar.end.count)
                return try texts + #require(Tar.header(name: "features.npy", byteCount: features.count)) + features
                    + Tar.padding(after: features.count) + Tar.end
            }

            let other = try await door.token(.researcher)
            let notHis = try await door.ask(
                "POST", path, token: other, headers: tar, bytes: sent(nodes: nodes, edges: edges))
            #expect(notHis.status == 403 && notHis.code == "role-missing")
            let asJSON = try await door.ask("POST", path, token: custodian, headers: Self.json, body: "{}")
            #expect(asJSON.status == 415)
            let noArchive = try await door.ask("POST", path, token: custodian, headers: tar, body: "not an archive")
            #expect(noArchive.status == 422)
            let stranger = try await door.ask(
                "POST", path, token: custodian, headers: tar, bytes: Self.archive([("passwd", "x")]))
            #expect(stranger.status == 400 && stranger.json?["detail"]?.stringValue?.contains("nodes.tsv") == true)
            let incomplete = try await door.ask(
                "POST", path, token: custodian, headers: tar, bytes: Self.archive([("nodes.tsv", nodes)]))
            #expect(incomplete.status == 422)
            let wrong = try await door.ask(
                "POST", path, token: custodian, headers: tar, bytes: sent(nodes: nodes, edges: edges + "G:1\tx\tG:9\n"))
            #expect(
                wrong.status == 422 && wrong.json?["detail"]?.stringValue?.contains("Edges, line 3, column 7:") == true)
            let none = try await door.ask("GET", "/api/v1/datasets/test:sent", token: custodian)
            #expect(none.status == 404)

            let sealed = try await door.ask(
                "POST", path, token: custodian, headers: tar, bytes: sent(nodes: nodes, edges: edges))
            #expect(sealed.status == 201 && sealed.json?["nodes"] == 2 && sealed.json?["edges"] == 1, "\(sealed)")
            #expect(sealed.headers["Location"] == ["/api/v1/datasets/test%3Asent"])
            let found = try await door.ask("GET", "/api/v1/datasets/test:sent", token: custodian)
            #expect(found.status == 200 && found.json?["versions"]?.arrayValue?.count == 1)
        }
    }

    // MARK: - Audit

    @Test("the trail is searched by those who audit, and its export unpacks to files that verify")
    func audit() async throws {
        try await withAPI { door in
            let auditor = try await door.token(.complianceOfficer)
            let refused = try await door.ask("GET", "/api/v1/audit/records", token: door.token(.researcher))
            #expect(refused.status == 403 && refused.code == "role-missing")
            let found = try await door.ask("GET", "/api/v1/audit/records?what=policy.activated", token: auditor)
            #expect(found.json?["items"]?.arrayValue?.count == 1)
            let index = try #require(found.json?["items"]?.arrayValue?.first?["index"]?.integerValue)
            let one = try await door.ask("GET", "/api/v1/audit/records/\(index)", token: auditor)
            #expect(one.json?["core"]?["event"] == "policy.activated")

            let archive = try await door.ask(
                "POST", "/api/v1/audit/exports", token: auditor, headers: Self.json, body: "{}")
            #expect(archive.status == 200 && archive.headers["Content-Type"] == [Tar.mediaType])
            let folder = door.folder.appendingPathComponent("export")
            var unpacker = TarUnpacker(into: folder)
            for start in stride(from: 0, to: archive.body.count, by: 700) {
                try unpacker.take(archive.body[start..<min(start + 700, archive.body.count)])
            }
            #expect(try unpacker.finish().count > 2)
            let names = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
            #expect(names.contains { $0.hasSuffix("checkpoint") }, "\(names)")
        }
    }

    @Test("an export is of one scope, sealed or not, and what makes no sense together is refused and changes nothing")
    func exportScopes() async throws {
        try await withAPI { door in
            let auditor = try await door.token(.complianceOfficer)
            func export(_ body: String) async throws -> OpenDoor.Answer {
                try await door.ask("POST", "/api/v1/audit/exports", token: auditor, headers: Self.json, body: body)
            }
            let identity = door.folder.appendingPathComponent("identity")
            let recipient = try AuditorKeyFile.writeIdentity(
                of: door.folder.appendingPathComponent("auditor.key"), to: identity)
            for (number, body) in [
                #"{"sealed":true}"#, #"{"sealed":true,"from":"2020-01-01"}"#,
                #"{"sealed":true,"recipients":["\#(recipient)"],"to":"2090-01-01"}"#,
            ].enumerated() {
                let sealed = try await export(body)
                #expect(sealed.status == 200 && sealed.headers["Content-Type"] == ["application/age"], "\(body)")
                #expect(sealed.body.starts(with: "age-encryption.org/v1\n".utf8))
                #expect(sealed.headers["Content-Length"] == ["\(sealed.body.count)"])
                let file = door.folder.appendingPathComponent("\(number).age")
                try Data(sealed.body).write(to: file)
                let folder = door.folder.appendingPathComponent("opened-\(number)")
                try SealedExport.open(file, key: identity, into: folder)
                let names = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
                #expect(names.contains("data/documents/report.ja.html"), "\(names)")
            }
            for (body, status) in [
                (#"{"dataset":"test:none"}"#, 404), (#"{"run":"none"}"#, 404), (#"{"run":"a","dataset":"b"}"#, 422),
                (#"{"subject":"P:1"}"#, 422), (#"{"subject":"P:1","dataset":"test:none"}"#, 404),
                (#"{"from":"2026-01-02","to":"2026-01-01"}"#, 422), (#"{"from":"yesterday"}"#, 422),
                (#"{"recipients":["\#(recipient)"]}"#, 422), (#"{"sealed":true,"recipients":["age1nobody"]}"#, 422),
                (#"{"sealed":true,"recipients":[]}"#, 400), (#"{"sealed":"yes"}"#, 400), (#"{"what":"all"}"#, 400),
                (#"{"from":"2090-01-01"}"#, 404),
            ] {
                let answer = try await export(body)
                #expect(answer.status == status, "\(body): \(answer.status) \(answer.code ?? "")")
            }
            let exports = try await door.ask("GET", "/api/v1/audit/records?what=trail.exported", token: auditor)
            // Three that were given, and the one whose period has nothing: it is recorded before it is looked for.
            #expect(exports.json?["items"]?.arrayValue?.count == 4)
        }
    }
}

/// Archives that somebody else made.
@Suite struct TarTests {
    private func archive() async throws -> [UInt8] {
        var bytes: [UInt8] = []
        for (name, content) in [("a.txt", "first"), ("folder/b", ""), ("c", String(repeating: "c", count: 1000))] {
            bytes += try #require(Tar.header(name: name, byteCount: content.utf8.count))
            bytes += Array(content.utf8)
            bytes += Tar.padding(after: content.utf8.count)
        }
        return bytes + Tar.end
    }

    private func unpack(_ bytes: [UInt8], into folder: URL, chunk: Int) throws -> [(name: String, bytes: Int)] {
        var unpacker = TarUnpacker(into: folder)
        for start in stride(from: 0, to: bytes.count, by: chunk) {
            try unpacker.take(bytes[start..<min(start + chunk, bytes.count)])
        }
        return try unpacker.finish()
    }

    @Test("an archive in pieces of any size unpacks to its files", arguments: [1, 511, 512, 513, 100_000])
    func pieces(chunk: Int) async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("sekisho-tar-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: folder) }
        let files = try unpack(await archive(), into: folder, chunk: chunk)
        #expect(files.map(\.name) == ["a.txt", "folder/b", "c"])
        #expect(try String(contentsOf: folder.appendingPathComponent("a.txt"), encoding: .utf8) == "first")
    }

    @Test(
        "a name that leaves the folder has no header",
        arguments: ["/etc/x", "../x", "a/../b", "a//b", "", ".hidden", "a\u{0}b", String(repeating: "a", count: 101)])
    func names(name: String) { #expect(Tar.header(name: name, byteCount: 1) == nil) }

    @Test("what tar writes is read, and what is no plain file is refused", arguments: ["ustar", "gnu", "v7"])
    func others(format: String) throws {
        let place = FileManager.default.temporaryDirectory.appendingPathComponent("sekisho-tar-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: place) }
        try FileManager.default.createDirectory(at: place, withIntermediateDirectories: true)
        try Data("one".utf8).write(to: place.appendingPathComponent("a.txt"))
        try FileManager.default.createSymbolicLink(
            atPath: place.appendingPathComponent("link").path, withDestinationPath: "/etc/hostname")
        func packed(_ name: String) throws -> [UInt8] {
            let tar = Process()
            tar.executableURL = URL(fileURLWithPath: "/bin/tar")
            tar.arguments = ["--format=\(format)", "-C", place.path, "-cf", place.path + "/out.tar", name]
            try tar.run()
            tar.waitUntilExit()
            return Array(try Data(contentsOf: place.appendingPathComponent("out.tar")))
        }
        #expect(throws: TarError.self) {
            _ = try unpack(packed("link"), into: place.appendingPathComponent("x"), chunk: 99)
        }
        let folder = place.appendingPathComponent("y")
        guard format != "v7" else {
            #expect(throws: TarError.self) { _ = try unpack(packed("a.txt"), into: folder, chunk: 99) }
            return
        }
        #expect(try unpack(packed("a.txt"), into: folder, chunk: 99).map(\.bytes) == [3])
        #expect(try String(contentsOf: folder.appendingPathComponent("a.txt"), encoding: .utf8) == "one")
    }

    @Test("no changed archive leaves its folder or is taken for whole where it is not")
    func mutations() async throws {
        let seed: UInt64 = 32
        var random = SeededRandom(seed: seed)
        let valid = try await archive()
        let parent = FileManager.default.temporaryDirectory.appendingPathComponent("sekisho-tar-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: parent) }
        for round in 0..<300 {
            let folder = parent.appendingPathComponent("inner")
            try? FileManager.default.removeItem(at: parent)
            var bytes = valid
            if round % 3 == 0 {
                bytes.removeLast(Int.random(in: 1..<bytes.count, using: &random))
                #expect(throws: TarError.self, "seed \(seed), round \(round)") {
                    _ = try unpack(bytes, into: folder, chunk: 600)
                }
            } else {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] ^= UInt8.random(in: 1...255, using: &random)
                _ = try? unpack(bytes, into: folder, chunk: 600)
            }
            let outside = (try? FileManager.default.contentsOfDirectory(atPath: parent.path)) ?? []
            #expect(outside.allSatisfy { $0 == "inner" }, "seed \(seed), round \(round)")
        }
    }
}
