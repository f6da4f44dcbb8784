package import Foundation
package import Gateway
package import HTTPTypes
package import Hummingbird
import HummingbirdCore
import NIOCore
import Sealing
import ServiceLifecycle
import Vocabulary

/// The API over HTTP: makes a call of each request and a response of each reply.
package struct APIRoutes: Sendable {
    private let api: API
    private let gateway: Gateway
    private let once = OnceTable()

    package static func register(_ routes: Routes) {
        let web = APIRoutes(api: API(routes.gateway), gateway: routes.gateway)
        for route in Route.allCases where route.path.hasPrefix("/api/v1/") {
            routes.on(route) { request, context in try await web.respond(to: request, context, route) }
        }
    }

    private func respond(to request: Request, _ context: SekishoContext, _ route: Route) async throws -> Response {
        guard route != .apiDescription else {
            return Response(
                status: .ok, headers: [.contentType: "application/yaml"],
                body: ResponseBody(byteBuffer: ByteBuffer(string: API.description)))
        }
        let identity = try context.identity.orSignIn
        let caller = APICaller(
            person: identity.person, means: identity.means,
            scopes: identity.means == .password ? nil : identity.scopes)
        if case .streamed(let bytesMax) = route.rule.body {
            var call = try self.call(route, request, context, [])
            guard call.path["dataset"].flatMap({ try? DatasetID($0) }) != nil else {
                throw Problem.notFound("nothing here has such a name")
            }
            call.upload = try await upload(request, by: caller, bytesMax: bytesMax)
            return try await response(to: call, by: caller, request)
        }
        let bytes = Array(try await request.body.collect(upTo: Limits.jsonBytesMax).readableBytesView)
        let call = try self.call(route, request, context, bytes)
        guard let key = call.onceKey, !Self.keepsOnceKey.contains(route) else {
            return try await response(to: call, by: caller, request)
        }
        let name = "\(caller.person) \(key)"
        let content = SHA256.hash(Array(call.target.utf8) + [0] + Array(route.method.utf8) + [0] + bytes)
        if let earlier = try once.begin(name, content: content, now: gateway.clock.now()) {
            return Response(
                status: HTTPResponse.Status(code: earlier.status), headers: earlier.headers,
                body: ResponseBody(byteBuffer: ByteBuffer(bytes: earlier.body)))
        }
        do {
            let reply = try await api.reply(to: call, by: caller)
            if let body = Self.keptBody(reply) {
                let response = Self.response(reply, to: call, ifNoneMatch: nil)
                once.finish(name, OnceTable.Answer(status: reply.status, body: body, headers: response.headers))
                return response
            }
            once.forget(name)
            return Self.response(reply, to: call, ifNoneMatch: nil)
        } catch {
            once.forget(name)
            throw error
        }
    }

    private static func keptBody(_ reply: APIReply) -> [UInt8]? {
        switch reply.content {
        case .json(let json): json.canonical
        case .nothing: []
        case .text, .files, .folder, .sealed, .events: nil
        }
    }

    // MARK: - From a request

    private func call(
        _ route: Route, _ request: Request, _ context: SekishoContext, _ bytes: [UInt8]
    ) throws -> APICall {
        guard let query = Form(parsing: Array((request.uri.query ?? "").utf8)) else {
            throw Problem.invalid("The query cannot be read: a bad escape, or more than \(Form.fieldsMax) pairs.")
        }
        var path: [String: String] = [:]
        for part in route.path.split(separator: "/") where part.hasPrefix(":") {
            let name = String(part.dropFirst())
            path[name] = context.parameters.get(name)?.removingPercentEncoding
        }
        var call = APICall(route, path: path, query: query.fields)
        if !bytes.isEmpty {
            let type = request.headers[.contentType]?.prefix { $0 != ";" }.filter { $0 != " " }.lowercased()
            guard type == "application/json" else { throw Problem.mediaType }
            do throws(JSONError) { call.body = try JSON(parsing: bytes) } catch {
                throw Problem.invalid("The body is not JSON of the kind taken here: \(error). Nothing was done.")
            }
        }
        if let match = request.headers[.ifMatch] {
            guard Self.takesRevision.contains(route) else {
                throw Fields.fault("If-Match", "is not taken here")
            }
            call.ifRevision = try Self.revision(ofMatch: match)
        }
        if let key = request.headers[.idempotencyKey] {
            // A token's text is told once and kept nowhere, so its answer cannot be given again; what is streamed is
            // not kept to be compared.
            guard route.method == "POST", route != .apiTokenCreate, route != .apiDatasetImport else {
                throw Fields.fault("Idempotency-Key", "is not taken here")
            }
            guard (1...128).contains(key.utf8.count), key.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
                throw Fields.fault("Idempotency-Key", "is not 1 to 128 visible ASCII characters")
            }
            call.onceKey = key
        }
        return call
    }

    /// Seals the files of an archive as they come; nothing of them lies anywhere in clear.
    private func upload(_ request: Request, by caller: APICaller, bytesMax: Int) async throws -> DatasetUpload {
        let type = request.headers[.contentType]?.prefix { $0 != ";" }.filter { $0 != " " }.lowercased()
        guard type == Tar.mediaType else { throw Problem.mediaType }
        let upload = try await gateway.stageUpload(by: caller.person)
        var reader = TarReader()
        var byteCount = 0
        do {
            for try await chunk in request.body {
                byteCount += chunk.readableBytes
                guard byteCount <= bytesMax else { throw Problem.tooLarge(bytesMax) }
                try reader.take(Array(chunk.readableBytesView)[...]) { event in
                    switch event {
                    case .begin(let name, _): try upload.begin(Self.part(name))
                    case .content(let bytes): try upload.append(bytes)
                    case .end(let name): try upload.end(Self.part(name))
                    }
                }
            }
            _ = try reader.finish()
        } catch let error as TarError {
            throw Problem(
                status: 422, code: "invalid", title: "This makes no sense as asked",
                detail: "The body is not an archive as taken here: \(error.reason). Nothing was done.")
        }
        return upload
    }

    private static func part(_ name: String) throws(Problem) -> UploadPart {
        guard let part = UploadPart(fileName: name) else {
            throw .invalid(
                "The archive holds a file that is not one of \(UploadPart.fileNames.joined(separator: ", ")). Nothing was done."
            )
        }
        return part
    }

    private static let takesRevision: Set<Route> = [
        .apiRequestReview, .apiReleaseReview, .apiRequestWithdraw, .apiDraftSave, .apiDraftDiscard, .apiDraftFile,
    ]
    /// Whose keys stand in the very records of what was done.
    private static let keepsOnceKey: Set<Route> = [
        .apiRequestFile, .apiRequestAmend, .apiRequestRenew, .apiRunStart, .apiRunPredict,
    ]

    /// The revision in an entity tag that we gave; any state for `*`.
    private static func revision(ofMatch text: String) throws(Problem) -> String? {
        if text == "*" { return nil }
        let tag = text.split(separator: "\"", omittingEmptySubsequences: false)
        guard tag.count == 3, tag[0].isEmpty, tag[2].isEmpty, let dot = tag[1].firstIndex(of: ".") else {
            // RFC 9110, 13.1.1: what matches nothing fails; that a tag is none of ours says the same.
            throw Problem(
                status: 412, code: "changed", title: "It has changed",
                detail: "'If-Match' is not one entity tag as this API gives them. Nothing was done.")
        }
        return String(tag[1][..<dot])
    }

    // MARK: - To a response

    private static let sealedMediaType = "application/age"

    private func response(to call: APICall, by caller: APICaller, _ request: Request) async throws -> Response {
        let reply = try await api.reply(to: call, by: caller)
        return Self.response(reply, to: call, ifNoneMatch: request.headers[.ifNoneMatch])
    }

    private static func response(_ reply: APIReply, to call: APICall, ifNoneMatch: String?) -> Response {
        let status = HTTPResponse.Status(code: reply.status)
        var headers = HTTPFields()
        headers[.location] = reply.location
        switch reply.content {
        case .json(let json):
            let body = json.canonical
            let digest = SHA256.hash(body).hex.prefix(24)
            let tag = "\"\(reply.revision?.text ?? "0").\(digest)\""
            if call.route.isSafe || reply.revision != nil { headers[.eTag] = tag }
            if call.route.isSafe, let ifNoneMatch, matches(ifNoneMatch, tag) {
                return Response(status: .notModified, headers: headers)
            }
            headers[.contentType] = "application/json"
            return Response(status: status, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(bytes: body)))
        case .nothing: return Response(status: status, headers: headers)
        case .text(let text, let mediaType):
            headers[.contentType] = "\(mediaType); charset=utf-8"
            return Response(status: status, headers: headers, body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
        case .files(let files):
            headers[.contentType] = Tar.mediaType
            return Response(status: status, headers: headers, body: .tar(of: files))
        case .folder(let folder, let summary):
            headers[.contentType] = Tar.mediaType
            headers[.exportSummary] = summary.canonicalText
            return Response(status: status, headers: headers, body: .tar(ofAndThenRemoving: folder))
        case .sealed(let file, let summary):
            headers[.contentType] = Self.sealedMediaType
            headers[.exportSummary] = summary.canonicalText
            return Response(
                status: status, headers: headers,
                body: .file(file.lastPathComponent, ofAndThenRemoving: file.deletingLastPathComponent()))
        case .events(let events):
            headers[.contentType] = "text/event-stream"
            return Response(status: status, headers: headers, body: .events(events))
        }
    }

    /// RFC 9110, 13.1.2: any of the listed tags, compared weakly.
    private static func matches(_ header: String, _ tag: String) -> Bool {
        header == "*"
            || header.split(separator: ",").contains { part in
                let part = part.filter { $0 != " " }
                return part == tag || part == "W/\(tag)"
            }
    }
}

extension Optional where Wrapped == Identity {
    /// A route of the API that is not for anyone has an identity by now.
    fileprivate var orSignIn: Identity {
        get throws(Problem) {
            guard let self else { throw Problem.signInNeeded }
            return self
        }
    }
}

extension HTTPField.Name {
    // The names are tokens as RFC 9110 has them, so they cannot fail.
    static let idempotencyKey = HTTPField.Name("Idempotency-Key")!
    package static let exportSummary = HTTPField.Name("Sekisho-Export")!
}

// MARK: - Archives

extension ResponseBody {
    /// One archive of files that are in memory.
    package static func tar(of files: [Artefact]) -> ResponseBody {
        var buffer = ByteBuffer()
        for file in files {
            guard let header = Tar.header(name: file.name, byteCount: file.bytes.count) else { continue }
            buffer.writeBytes(header)
            buffer.writeBytes(file.bytes)
            buffer.writeBytes(Tar.padding(after: file.bytes.count))
        }
        buffer.writeBytes(Tar.end)
        return ResponseBody(byteBuffer: buffer)
    }

    /// One archive of a folder's files, read as they are sent. The folder is removed however the sending ends.
    package static func tar(ofAndThenRemoving folder: URL) -> ResponseBody {
        let folder = TemporaryFolder(folder)
        return ResponseBody { writer in
            for name in try folder.fileNames {
                try await folder.read(name) { byteCount, next in
                    guard let header = Tar.header(name: name, byteCount: byteCount) else {
                        throw TarError(reason: "a name")
                    }
                    try await writer.write(ByteBuffer(bytes: header))
                    while let chunk = try next() { try await writer.write(ByteBuffer(bytes: chunk)) }
                    try await writer.write(ByteBuffer(bytes: Tar.padding(after: byteCount)))
                }
            }
            try await writer.write(ByteBuffer(bytes: Tar.end))
            try await writer.finish(nil)
        }
    }

    /// One file of a folder, read as it is sent. The folder is removed however the sending ends.
    static func file(_ name: String, ofAndThenRemoving folder: URL) -> ResponseBody {
        let folder = TemporaryFolder(folder)
        return ResponseBody(contentLength: folder.byteCount(of: name)) { writer in
            try await folder.read(name) { _, next in
                while let chunk = try next() { try await writer.write(ByteBuffer(bytes: chunk)) }
            }
            try await writer.finish(nil)
        }
    }
}

/// A folder that goes when nobody needs it any more, also where its answer was never sent.
private final class TemporaryFolder: Sendable {
    let url: URL

    init(_ url: URL) { self.url = url }

    deinit { try? FileManager.default.removeItem(at: url) }

    func byteCount(of name: String) -> Int? {
        let attributes = try? FileManager.default.attributesOfItem(atPath: url.appendingPathComponent(name).path)
        return attributes?[.size] as? Int
    }

    /// Lends a file's length and its content, piece by piece.
    func read(_ name: String, _ body: (Int, () throws -> Data?) async throws -> Void) async throws {
        let handle = try FileHandle(forReadingFrom: url.appendingPathComponent(name))
        defer { try? handle.close() }
        let byteCount = Int(try handle.seekToEnd())
        try handle.seek(toOffset: 0)
        var left = byteCount
        try await body(byteCount) {
            guard left > 0 else { return nil }
            guard let chunk = try handle.read(upToCount: min(left, 256 << 10)), !chunk.isEmpty else {
                throw TarError(reason: "a file shrank")
            }
            left -= chunk.count
            return chunk
        }
    }

    /// Paths of the plain files in it, sorted.
    var fileNames: [String] {
        get throws {
            try FileManager.default.subpathsOfDirectory(atPath: url.path).filter { name in
                var isFolder: ObjCBool = false
                return FileManager.default.fileExists(
                    atPath: url.appendingPathComponent(name).path, isDirectory: &isFolder) && !isFolder.boolValue
            }.sorted()
        }
    }
}

// MARK: - Live events

extension ResponseBody {
    /// Server-sent events. The stream ends with the run, or after some minutes, when the reader asks again and is looked
    /// at again: who may look can change. A comment now and then keeps the line open, and a service that stops ends it.
    ///
    /// - Parameter text: an event's lines on the wire; JSON for the API.
    package static func events(
        _ events: AsyncStream<RunEvent>, text: @escaping @Sendable (RunEvent) -> String = { EventText.json(of: $0) }
    ) -> ResponseBody {
        ResponseBody { writer in
            for await lines in EventText.lines(of: events, text).cancelOnGracefulShutdown() {
                try await writer.write(ByteBuffer(string: lines))
            }
            try await writer.finish(nil)
        }
    }
}

package enum EventText {
    private static let secondsBetweenComments = 15
    private static let commentsMax = 20

    package static func json(of event: RunEvent) -> String {
        let json = event.json
        return line(json["event"]?.stringValue ?? "", json)
    }

    static func line(_ name: String, _ data: JSON) -> String { "event: \(name)\ndata: \(data.canonicalText)\n\n" }

    fileprivate static func lines(
        of events: AsyncStream<RunEvent>, _ text: @escaping @Sendable (RunEvent) -> String
    ) -> AsyncStream<String> {
        let (stream, continuation) = AsyncStream.makeStream(of: String.self, bufferingPolicy: .bufferingNewest(64))
        let told = Task {
            for await event in events { continuation.yield(text(event)) }
            continuation.finish()
        }
        let ticking = Task {
            for _ in 0..<commentsMax {
                guard (try? await Task.sleep(for: .seconds(secondsBetweenComments))) != nil else { return }
                continuation.yield(": still here\n\n")
            }
            continuation.finish()
        }
        continuation.onTermination = { _ in
            told.cancel()
            ticking.cancel()
        }
        return stream
    }
}
