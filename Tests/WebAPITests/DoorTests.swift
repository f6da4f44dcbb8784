import Foundation
import Gateway
import HTTPTypes
import Hummingbird
import NIOCore
import Synchronization
import NIOHTTP1
import TestSupport
import ServiceLifecycle
import Testing
import Vocabulary
import WebAPI

/// What the door does with every request, whatever it is for.
@Suite struct DoorTests {
    @Test("what is no route is told so, as a page to readers and as a problem to programs")
    func notFound() async throws {
        try await withOpenDoor { door in
            let page = try await door.ask("GET", "/nothing-here")
            #expect(page.status == 404 && page.headers.first(name: "Content-Type")?.hasPrefix("text/html") == true)
            for path in ["/api/v1/nothing", "/api/v2/me", "/api/"] {
                let problem = try await door.ask("GET", path)
                #expect(problem.status == 404 && problem.code == "not-found")
                #expect(problem.headers.first(name: "Content-Type") == "application/problem+json")
            }
        }
    }

    @Test(
        "a method that a route does not take is refused with those that it takes",
        arguments: ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
    func methods(method: String) async throws {
        try await withOpenDoor { door in
            let answer = try await door.ask(method, "/sign-in")
            #expect(answer.status == 405 && answer.code == "method-not-allowed")
            #expect(answer.headers.first(name: "Allow") == "GET, POST")
        }
    }

    @Test("every answer, good or bad, carries the headers that hold a browser in")
    func headers() async throws {
        try await withOpenDoor { door in
            for path in ["/healthz", "/sign-in", "/password", "/nothing", "/metrics"] {
                let headers = try await door.ask("GET", path).headers
                #expect(headers.first(name: "Content-Security-Policy")?.contains("default-src 'none'") == true)
                #expect(headers.first(name: "Content-Security-Policy")?.contains("unsafe-inline") == false)
                #expect(headers.first(name: "X-Content-Type-Options") == "nosniff")
                #expect(headers.first(name: "Strict-Transport-Security") != nil)
                #expect(headers.first(name: "Cache-Control") == "no-store")
            }
        }
    }

    @Test("a body that is too long is refused whether its length is told first or not")
    func tooLarge() async throws {
        try await withOpenDoor { door in
            let cookie = try await door.signIn(.researcher)
            let csrf = try #require(csrfToken(in: try await door.ask("GET", "/password", cookie: cookie).text))
            let long = String(repeating: "x", count: 65 << 10)
            let answer = try await door.post(
                "/sign-out", cookie: cookie, [(name: "csrf", value: csrf), (name: "x", value: long)])
            #expect(answer.status == 413)
            let streamed = try await door.ask(
                "POST", "/sign-out", cookie: cookie,
                headers: [("Content-Type", "application/x-www-form-urlencoded"), ("Transfer-Encoding", "chunked")],
                body: "csrf=\(csrf)&x=\(long)")
            #expect(streamed.status == 413)
            #expect(try await door.ask("GET", "/password", cookie: cookie).status == 200)
        }
    }

    @Test("headers that are too long are refused with words")
    func longHeaders() async throws {
        try await withOpenDoor { door in
            let answer = try await door.ask(
                "GET", "/healthz", headers: [("X-Long", String(repeating: "x", count: 40 << 10))])
            #expect(answer.status == 431 && answer.code == "headers-too-large")
        }
    }

    @Test(
        "what is no form is refused",
        arguments: ["csrf=%", "csrf=%zz", "a=%ff", "a=%00", "a=%07", String(repeating: "a=&", count: 300)])
    func badForms(body: String) async throws {
        try await withOpenDoor { door in
            let answer = try await door.ask(
                "POST", "/sign-in", headers: [("Content-Type", "application/x-www-form-urlencoded")], body: body)
            #expect(answer.status == 400)
            let json = try await door.ask(
                "POST", "/sign-in", headers: [("Content-Type", "application/json")], body: "{}")
            #expect(json.status == 415)
        }
    }

    @Test("whoever asks too often is told when to ask again, and others are not held up")
    func rates() async throws {
        try await withOpenDoor(change: { $0.setRates(accountPerSecond: 1, addressPerSecond: 1) }) { door in
            let token = try await door.token(.operatorRole)
            for _ in 0..<4 { #expect(try await door.ask("GET", "/healthz").status == 200) }
            let refused = try await door.ask("GET", "/healthz")
            #expect(refused.status == 429 && refused.headers.first(name: "Retry-After") == "1")
            #expect(try await door.ask("GET", "/metrics", token: token).status == 200)
            door.clock.advance(seconds: 1)
            #expect(try await door.ask("GET", "/healthz").status == 200)
        }
    }

    @Test("a bug in a handler answers 500 without its text, which stays out of the log too")
    func bug() async throws {
        struct Leaky: Error, CustomStringConvertible { let description = "subject P:7 is in here" }
        try await withOpenDoor(register: { $0.on(.home) { _, _ in throw Leaky() } }) { door in
            door.log.keepOut("P:7")
            door.log.keepOut("subject")
            let answer = try await door.ask("GET", "/", cookie: try await door.signIn(.researcher))
            #expect(answer.status == 500 && !answer.text.contains("P:7"))
            #expect(door.log.lines.contains { $0.contains("\"type\":\"Leaky\"") })
        }
    }

    // MARK: - Operations

    @Test("metrics count requests by route and status in Prometheus text, for operators with the scope only")
    func metrics() async throws {
        try await withOpenDoor { door in
            _ = try await door.ask("GET", "/healthz")
            let answer = try await door.ask("GET", "/metrics", token: try await door.token(.operatorRole))
            #expect(answer.headers.first(name: "Content-Type") == "text/plain; version=0.0.4; charset=utf-8")
            let lines = answer.text.split(separator: "\n")
            #expect(
                lines.contains { $0.hasPrefix("sekisho_http_requests_total{route=\"GET /healthz\",status=\"200\"} ") })
            let line = /(# TYPE [a-z_]+ (counter|gauge|histogram))|([a-z_]+(\{([a-z]+="[^"\n]*",?)+\})? -?[0-9.e+-]+)/
            for text in lines { #expect(text.wholeMatch(of: line) != nil, "\(text)") }
            // Buckets never fall, and the last one is the count.
            let buckets = lines.filter {
                $0.hasPrefix("sekisho_http_request_seconds_bucket{route=\"GET /healthz\"")
            }.compactMap { $0.split(separator: " ").last.flatMap { Int($0) } }
            #expect(buckets.count > 5 && buckets == buckets.sorted())
        }
    }

    @Test("one summary line for each request, in closed words: route, status, means, code, time")
    func logLines() async throws {
        try await withOpenDoor { door in
            let secret = "my-secret-path-\(UUID().uuidString)"
            door.log.keepOut(secret)
            let before = door.log.lines.count
            _ = try await door.ask("GET", "/\(secret)?q=\(secret)", headers: [("User-Agent", secret)])
            _ = try await door.post("/sign-in", [(name: "name", value: secret), (name: "password", value: secret)])
            _ = try await door.ask("GET", "/metrics", token: secret)
            let lines = door.log.lines[before...].filter { $0.contains("\"event\":\"request\"") }
            let told = try lines.map { line in
                let json = try JSON(parsing: line.trimmingCharacters(in: .newlines))
                #expect(
                    Set(json.objectValue!.keys) == [
                        "time", "level", "log", "event", "number", "route", "status", "means", "code", "microseconds",
                    ])
                return ["route", "status", "means", "code"].map { json[$0]?.stringValue ?? "" }
            }
            #expect(
                told == [
                    ["none", "404", "none", "not-found"], ["POST /sign-in", "401", "none", "bad-sign-in"],
                    ["GET /metrics", "401", "none", "bad-token"],
                ])
        }
    }

    @Test("a stop lets the request that is under way end, and takes no new one")
    func drain() async throws {
        let gate = Gate()
        try await withOpenDoor(
            register: {
                $0.on(.home) { _, _ in
                    await gate.arrive()
                    return Response(status: .ok, body: ResponseBody(byteBuffer: ByteBuffer(string: "whole")))
                }
            }
        ) { door in
            #expect(try await door.ask("GET", "/readyz").status == 200)
            let cookie = try await door.signIn(.researcher)
            async let slow = door.ask("GET", "/", cookie: cookie)
            await gate.arrival()
            await door.group.triggerGracefulShutdown()
            gate.open()
            #expect(try await slow.text == "whole")
            await #expect(throws: (any Error).self) {
                while true { _ = try await door.ask("GET", "/healthz", headers: [("Connection", "close")]) }
            }
        }
    }
}

/// Holds a handler until a test lets it go.
private final class Gate: Sendable {
    private let arrived = AsyncStream.makeStream(of: Void.self)
    private let opened = AsyncStream.makeStream(of: Void.self)

    func arrive() async {
        arrived.continuation.yield()
        for await _ in opened.stream { return }
    }

    func arrival() async { for await _ in arrived.stream { return } }
    func open() { opened.continuation.yield() }
}
