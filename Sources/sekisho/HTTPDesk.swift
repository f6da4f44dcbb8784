import AsyncHTTPClient
import Foundation
import Gateway
import NIOCore
import NIOHTTP1
import NIOSSL
import Vocabulary
import WebAPI

/// A service behind a URL: TLS 1.3 only, to a server whose certificate an authority or its fingerprint vouches for.
final class HTTPDesk: Desk {
    /// What to trust the server by.
    enum Trust: Sendable {
        /// The machine's own authorities.
        case system
        /// The authorities in a PEM file, and no others.
        case authorities([UInt8])
        /// One certificate, by the SHA-256 of its DER.
        case fingerprint(Digest)
    }

    private let base: String
    private let token: String
    private let client: HTTPClient
    private let patientClient: HTTPClient

    /// - Parameter base: `https://HOST[:PORT]`.
    init(base: String, token: String, trust: Trust) throws {
        guard let url = URL(string: base), url.scheme == "https", url.host != nil, url.path.isEmpty || url.path == "/",
            url.query == nil, url.user == nil
        else { throw Self.problem(422, "invalid", "The server's address is https://HOST or https://HOST:PORT.") }
        // A line break in a header would be a second header.
        guard token.utf8.count <= 256, token.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw Self.problem(422, "invalid", "The token is not one that `sekisho token create` made.")
        }
        self.base = base.hasSuffix("/") ? String(base.dropLast()) : base
        self.token = token
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.minimumTLSVersion = .tlsv13
        var configuration = HTTPClient.Configuration()
        switch trust {
        case .system: break
        case .authorities(let pem):
            do { tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(pem)) } catch {
                throw Self.problem(422, "invalid", "The file with the server's authorities holds no PEM certificates.")
            }
        case .fingerprint(let expected):
            // The certificate is held to its fingerprint below, before the first byte of a request is sent; there is
            // nobody else to ask about it.
            tls.certificateVerification = .none
            configuration.http1_1ConnectionDebugInitializer = { channel in
                channel.eventLoop.makeFutureWithTask {
                    guard try await ServerCertificate.fingerprint(of: channel) == expected else {
                        // Not closed here: the client counts a connection that closes before it was ready as its own
                        // bug. Nothing is sent over it, and it goes with this command.
                        throw Self.wrongCertificate
                    }
                }
            }
        }
        configuration.tlsConfiguration = tls
        configuration.httpVersion = .http1Only
        configuration.redirectConfiguration = .disallow
        configuration.timeout = .init(connect: .seconds(10), read: .seconds(120))
        client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        // An import's answer comes when all is read, checked and sealed.
        configuration.timeout.read = .hours(2)
        patientClient = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }

    func close() async {
        try? await client.shutdown()
        try? await patientClient.shutdown()
    }

    private static let replyBytesMax = 64 << 20

    func reply(to call: APICall) async throws -> APIReply {
        let response = try await send(call)
        let body = try await Self.collect(response, upTo: Self.replyBytesMax)
        let status = Int(response.status.code)
        let mediaType = response.headers.first(name: "Content-Type")?.prefix { $0 != ";" } ?? ""
        switch mediaType {
        case "application/json":
            guard let json = try? JSON(parsing: body) else { throw Self.notUnderstood }
            return APIReply(status, json: json)
        case "" where body.isEmpty: return APIReply(status, .nothing)
        default:
            return APIReply(status, .text(String(decoding: body, as: UTF8.self), mediaType: String(mediaType)))
        }
    }

    func unpack(_ call: APICall, into folder: URL) async throws -> Unpacked {
        try requireFree(folder)
        let response = try await send(call)
        guard response.headers.first(name: "Content-Type") == Tar.mediaType else { throw Self.notUnderstood }
        var unpacker = TarUnpacker(into: folder)
        do {
            for try await chunk in response.body { try unpacker.take(Array(chunk.readableBytesView)[...]) }
            let files = try unpacker.finish()
            let summary = response.headers.first(name: "Sekisho-Export").flatMap { try? JSON(parsing: $0) }
            return Unpacked(files: files, summary: summary)
        } catch let error as TarError {
            throw Self.problem(500, "integrity", "What the service sent is not a whole archive: \(error.reason).")
        }
    }

    func fetch(_ call: APICall, into file: URL) async throws -> JSON? {
        try requireFree(file)
        let response = try await send(call)
        guard response.headers.first(name: "Content-Type") == "application/age" else { throw Self.notUnderstood }
        let partial = file.appendingPathExtension("partial")
        try? FileManager.default.removeItem(at: partial)
        let descriptor = open(partial.path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Problem.notWritten }
        let handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
        do {
            // The length is announced, so an answer that breaks off throws here.
            for try await chunk in response.body { try handle.write(contentsOf: chunk.readableBytesView) }
            try handle.synchronize()
            try FileManager.default.moveItem(at: partial, to: file)
        } catch {
            try? FileManager.default.removeItem(at: partial)
            throw Problem.notWritten
        }
        return response.headers.first(name: "Sekisho-Export").flatMap { try? JSON(parsing: $0) }
    }

    /// The service works on the run; this only looks on, and looks again where the line breaks.
    func follow(_ run: RunID, tell: @escaping @Sendable (RunEvent) -> Void) async throws {
        let path = ["run": run.text]
        while true {
            let response = try await send(APICall(.apiRunEvents, path: path))
            var lines = EventLines()
            events: for try await chunk in response.body {
                for data in try lines.take(chunk.readableBytesView) {
                    guard let event = RunEvent(try? JSON(parsing: data)) else { throw Self.notUnderstood }
                    tell(event)
                    switch event {
                    case .closed: return
                    // The last word may be older than what the caller just did: the run itself says who has it.
                    case .waiting: break events
                    case .stage, .epoch, .held, .deviceLost: break
                    }
                }
            }
            let now = try await json(.apiRun, path)
            if now["end"]?.stringValue != nil || now["waiting_for"]?.stringValue != nil { return }
            try await Task.sleep(for: .milliseconds(200))
        }
    }

    /// Sends the files as one archive, read as they are sent.
    func importVersion(_ dataset: DatasetID, _ files: VersionFiles) async throws -> JSON {
        var call = APICall(.apiDatasetImport, path: ["dataset": dataset.text])
        var parts = [("nodes.tsv", files.nodes), ("edges.tsv", files.edges)]
        switch files.features {
        case .dense(let file): parts.append(("features.npy", file))
        case .sparse(let rowPointers, let columns, let values, let count):
            parts += [
                ("feature-rows.npy", rowPointers), ("feature-columns.npy", columns), ("feature-values.npy", values),
            ]
            if let count { call.query.append(("feature_columns", "\(count)")) }
        }
        if let consent = files.consent { parts.append(("consent.tsv", consent)) }
        let archive = try SentArchive(parts)
        let response = try await send(call, archive)
        guard let json = try? JSON(parsing: try await Self.collect(response, upTo: Self.replyBytesMax)) else {
            throw Self.notUnderstood
        }
        return json
    }

    // MARK: - One request

    private func send(_ call: APICall, _ archive: SentArchive? = nil) async throws -> HTTPClientResponse {
        var request = HTTPClientRequest(url: base + call.target)
        request.method = HTTPMethod(rawValue: call.route.method)
        request.headers.add(name: "Authorization", value: "Bearer \(token)")
        request.headers.add(name: "User-Agent", value: "sekisho")
        // The part of an entity tag that the service looks at.
        if let revision = call.ifRevision { request.headers.add(name: "If-Match", value: "\"\(revision).0\"") }
        if let key = call.onceKey { request.headers.add(name: "Idempotency-Key", value: key) }
        if let body = call.body {
            request.headers.add(name: "Content-Type", value: "application/json")
            request.body = .bytes(ByteBuffer(bytes: body.canonical))
        }
        if let archive {
            request.headers.add(name: "Content-Type", value: Tar.mediaType)
            request.body = .stream(archive, length: .known(archive.byteCount))
        }
        let response: HTTPClientResponse
        do {
            response = try await (archive == nil ? client : patientClient).execute(request, deadline: .distantFuture)
        } catch is CancellationError {
            throw CancellationError()
        } catch let error as TarError {
            throw Self.problem(422, "invalid", "What was to be sent: \(error.reason). Nothing was done.")
        } catch let problem as Problem {
            throw problem
        } catch is NIOSSLError {
            throw Self.untrusted
        } catch is NIOSSLExtraError {
            throw Self.untrusted
        } catch {
            throw Self.problem(
                503, "unavailable",
                "The service cannot be reached at the address given; what was sent may have arrived.")
        }
        guard (200..<300).contains(response.status.code) else {
            let body = try await Self.collect(response, upTo: 1 << 20)
            throw Problem(status: Int(response.status.code), sent: try? JSON(parsing: body))
        }
        return response
    }

    private static func collect(_ response: HTTPClientResponse, upTo bytesMax: Int) async throws -> [UInt8] {
        do { return Array(try await response.body.collect(upTo: bytesMax).readableBytesView) } catch {
            throw problem(503, "unavailable", "The answer broke off, or is longer than \(bytesMax) bytes.")
        }
    }

    private static func problem(_ status: Int, _ code: String, _ detail: String) -> Problem {
        Problem(status: status, code: code, title: "The service was not asked", detail: detail)
    }

    private static let untrusted = problem(
        500, "integrity",
        "The server's certificate is not trusted. Nothing was sent; name its authority with --server-ca, or the certificate's fingerprint with --server-pin."
    )
    private static let wrongCertificate = problem(
        500, "integrity", "The server's certificate has not the fingerprint that was given. Nothing was sent.")
    private static let notUnderstood = problem(
        502, "not-understood", "The answer is not understood. Is this the service of the same version?")
}

extension Problem {
    /// What a service said, as far as it is problem details.
    fileprivate init(status: Int, sent json: JSON?) {
        func text(_ name: String) -> String? {
            // What a server says is printed to a terminal.
            json?[name]?.stringValue.map {
                $0.filter { !$0.unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x7F } }
            }
        }
        self.init(
            status: status, code: text("code") ?? "not-understood", title: text("title") ?? "Not understood",
            detail: text("detail") ?? "The service answered with status \(status) and no reason.")
    }
}

/// Takes server-sent events apart: the data of each, as its bytes come.
private struct EventLines {
    private static let bytesMax = 64 << 10
    private var line: [UInt8] = []
    private var data: [UInt8] = []

    mutating func take(_ bytes: some Sequence<UInt8>) throws -> [[UInt8]] {
        var found: [[UInt8]] = []
        for byte in bytes {
            guard byte == UInt8(ascii: "\n") else {
                line.append(byte)
                guard line.count <= Self.bytesMax else {
                    throw Problem(
                        status: 502, code: "not-understood", title: "Not understood",
                        detail: "The service sent an event that is too long.")
                }
                continue
            }
            if line.isEmpty {
                if !data.isEmpty { found.append(data) }
                data.removeAll()
            } else if line.starts(with: "data: ".utf8) {
                data = Array(line.dropFirst(6))
            }
            line.removeAll()
        }
        return found
    }
}

/// Files as one archive, read piece by piece as it is sent.
private struct SentArchive: AsyncSequence, Sendable {
    typealias Element = ByteBuffer

    private static let chunkBytes = 1 << 20
    private let files: [(name: String, file: URL, bytes: Int)]
    let byteCount: Int64

    init(_ parts: [(name: String, file: URL)]) throws {
        files = try parts.map { name, file in
            guard
                let bytes = try? file.resourceValues(forKeys: [.fileSizeKey, .isRegularFileKey]),
                bytes.isRegularFile == true, let count = bytes.fileSize
            else {
                throw Problem(
                    status: 422, code: "invalid", title: "A file cannot be read",
                    detail: "The file that is sent as \(name) cannot be opened, or is no plain file. Nothing was done.")
            }
            return (name, file, count)
        }
        byteCount = Int64(
            files.reduce(Tar.end.count) { $0 + Tar.blockBytes + $1.bytes + Tar.padding(after: $1.bytes).count })
    }

    func makeAsyncIterator() -> Iterator { Iterator(left: files, total: Int(byteCount)) }

    struct Iterator: AsyncIteratorProtocol {
        private var left: [(name: String, file: URL, bytes: Int)]
        private let total: Int
        private var open: (handle: FileHandle, left: Int, padding: [UInt8])?
        private var sent = 0
        private var isEnded = false

        fileprivate init(left: [(name: String, file: URL, bytes: Int)], total: Int) {
            self.left = left
            self.total = total
        }

        mutating func next() async throws -> ByteBuffer? {
            guard let bytes = try piece() else {
                ProgressLine.finish()
                return nil
            }
            sent += bytes.count
            ProgressLine.show(("send", sent, total, "\(sent >> 20) of \(total >> 20) MiB"))
            return ByteBuffer(bytes: bytes)
        }

        private mutating func piece() throws -> [UInt8]? {
            if let (handle, count, padding) = open {
                guard count > 0 else {
                    try? handle.close()
                    open = nil
                    return padding.isEmpty ? try piece() : padding
                }
                guard let data = try handle.read(upToCount: Swift.min(count, SentArchive.chunkBytes)), !data.isEmpty
                else {
                    throw TarError(reason: "a file became shorter while it was read")
                }
                open = (handle, count - data.count, padding)
                return Array(data)
            }
            guard let next = left.first else {
                guard !isEnded else { return nil }
                isEnded = true
                return Tar.end
            }
            left.removeFirst()
            guard let header = Tar.header(name: next.name, byteCount: next.bytes),
                let handle = try? FileHandle(forReadingFrom: next.file)
            else { throw TarError(reason: "\(next.name) cannot be read, or is too large") }
            open = (handle, next.bytes, Tar.padding(after: next.bytes))
            return header
        }
    }
}
