import Foundation
import Gateway
import Vocabulary
import WebAPI

/// Where commands ask. Each is written once, against this; an embedded gateway and a service behind a URL both answer.
protocol Desk: Sendable {
    func reply(to call: APICall) async throws -> APIReply
    /// Tells what happens with a run until it is closed or waits for a person.
    func follow(_ run: RunID, tell: @escaping @Sendable (RunEvent) -> Void) async throws
    /// Seals a new version of a data set, and answers with what it is.
    func importVersion(_ dataset: DatasetID, _ files: VersionFiles) async throws -> JSON
    /// Writes the files that a call answers with into a folder that is made for them.
    func unpack(_ call: APICall, into folder: URL) async throws -> Unpacked
    /// Writes the one file that a call answers with; what the answer says beside it.
    func fetch(_ call: APICall, into file: URL) async throws -> JSON?
}

/// The files of one version of a data set.
struct VersionFiles: Sendable {
    var nodes: URL
    var edges: URL
    var features: FeatureFiles
    var consent: URL?
}

/// What came out of an archive.
struct Unpacked: Sendable {
    var files: [(name: String, bytes: Int)]
    /// What the answer says beside its files.
    var summary: JSON?
}

extension Desk {
    /// Asks for JSON.
    func json(_ call: APICall) async throws -> JSON {
        guard let json = try await reply(to: call).json else {
            throw Problem(
                status: 502, code: "not-understood", title: "The answer is not understood",
                detail: "It is not JSON. Is this the service of the same version?")
        }
        return json
    }

    func json(
        _ route: Route, _ path: [String: String] = [:], query: [(name: String, value: String)] = [], body: JSON? = nil,
        once: OnceOption? = nil
    ) async throws -> JSON {
        var call = APICall(route, path: path, query: query, body: body)
        call.onceKey = once?.onceKey
        return try await json(call)
    }

    /// All items of a list, page by page.
    func items(_ route: Route, _ path: [String: String] = [:], query: [(name: String, value: String)] = []) async throws
        -> [JSON]
    {
        var items: [JSON] = []
        var after: String?
        repeat {
            var call = APICall(route, path: path, query: query + [("order", "oldest"), ("limit", "200")])
            if let after { call.query.append(("after", after)) }
            let page = try await json(call)
            items += page["items"]?.arrayValue ?? []
            after = page["next"]?.stringValue
        } while after != nil
        return items
    }

    /// Writes the text that a call answers with.
    func text(_ call: APICall) async throws -> String {
        if case .text(let text, _) = try await reply(to: call).content { return text }
        throw Problem(
            status: 502, code: "not-understood", title: "The answer is not understood", detail: "It is not text.")
    }
}

/// A gateway in this very process, asked through the same API as over the network.
struct EmbeddedDesk: Desk {
    let gateway: Gateway
    private let api: API
    private let caller: APICaller

    init(_ gateway: Gateway, as person: PersonID) {
        self.gateway = gateway
        api = API(gateway)
        caller = APICaller(person: person)
    }

    func reply(to call: APICall) async throws -> APIReply { try await api.reply(to: call, by: caller) }

    /// Works on the run itself: nobody else does in this mode.
    func follow(_ run: RunID, tell: @escaping @Sendable (RunEvent) -> Void) async throws {
        let events = try await gateway.follow(run, by: caller.person)
        let showing = Task {
            for await event in events {
                if case .epoch = event { tell(event) }
            }
        }
        defer { showing.cancel() }
        _ = try await gateway.advanceAsFarAsPossible(run) { tell(.stage($0)) }
    }

    func importVersion(_ dataset: DatasetID, _ files: VersionFiles) async throws -> JSON {
        try await gateway.importDataset(
            dataset, nodes: files.nodes, edges: files.edges, features: files.features, consent: files.consent,
            by: caller.person, progress: ProgressLine.show
        ).json
    }

    func unpack(_ call: APICall, into folder: URL) async throws -> Unpacked {
        try requireFree(folder)
        switch try await reply(to: call).content {
        case .files(let files):
            for file in files {
                try GatewayFile.write(file.bytes, to: folder.appendingPathComponent(file.name), role: "artefact")
            }
            return Unpacked(files: files.map { ($0.name, $0.bytes.count) })
        case .folder(let made, let summary):
            do {
                try FileManager.default.createDirectory(
                    at: folder.deletingLastPathComponent(), withIntermediateDirectories: true)
                try? FileManager.default.removeItem(at: folder)
                try FileManager.default.moveItem(at: made, to: folder)
            } catch {
                try? FileManager.default.removeItem(at: made)
                throw Problem.notWritten
            }
            return Unpacked(files: [], summary: summary)
        case .json, .nothing, .text, .sealed, .events: throw Problem.notWritten
        }
    }

    func fetch(_ call: APICall, into file: URL) async throws -> JSON? {
        try requireFree(file)
        guard case .sealed(let made, let summary) = try await reply(to: call).content else { throw Problem.notWritten }
        defer { try? FileManager.default.removeItem(at: made.deletingLastPathComponent()) }
        do { try FileManager.default.moveItem(at: made, to: file) } catch { throw Problem.notWritten }
        return summary
    }
}

/// Refuses a folder that holds something already, and a file that is there.
func requireFree(_ place: URL) throws {
    guard FileManager.default.fileExists(atPath: place.path) else { return }
    let names = try? FileManager.default.contentsOfDirectory(atPath: place.path)
    guard let names else {
        throw Problem(
            status: 422, code: "invalid", title: "The file is there already",
            detail: "The file to write to is there already. Nothing was done; name a new one.")
    }
    if !names.isEmpty {
        throw Problem(
            status: 422, code: "invalid", title: "The folder is not empty",
            detail: "The folder to write to is not empty. Nothing was done; name a new one.")
    }
}

extension Problem {
    static let notWritten = Problem(
        status: 503, code: "unavailable", title: "It cannot be written",
        detail: "The folder cannot be written; see that it can be made and that its disk has space.")

    /// What scripts act on; see `sekisho --help`.
    var exitStatus: Int32 {
        switch (status, code) {
        case (_, "integrity"): 5
        case (404, _): 4
        case (401, _), (403, _): 3
        case (409, _), (429, _), (503, _), (502, _): 69
        case (500..., _): 70
        default: 2
        }
    }
}
